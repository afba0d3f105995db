// Each level prints what the next pass reads: in custom and in generic form, from xdsl-opt and
// from nkdsl-opt. The plan is written by hand, so that no change of the model changes this test.

// RUN: xdsl-opt %s -p linalg-to-nanokernel | xdsl-opt | filecheck %s --check-prefix WHOLE
// RUN: nkdsl-opt %s -p linalg-to-nanokernel --print-op-generic | nkdsl-opt | filecheck %s --check-prefix WHOLE

// WHOLE-LABEL: func.func @product(
// WHOLE-NOT: linalg.
// WHOLE: nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<9x12xf32>, memref<12x20xf32>) outs(%c[m, n] : memref<9x20xf32>) from zero
// WHOLE-NOT: plan
// WHOLE: return

// RUN: nkdsl-opt %s -p 'linalg-to-nanokernel,plan{target=znver5 block=3x32 k-unroll=2 prefetch=0}' | nkdsl-opt | filecheck %s --check-prefix PLANNED
// RUN: xdsl-opt %s -p 'linalg-to-nanokernel,plan{target=znver5 block=3x32 k-unroll=2 prefetch=0}' --print-op-generic | xdsl-opt | filecheck %s --check-prefix PLANNED

// PLANNED-LABEL: func.func @product(
// PLANNED-SAME: nanokernel.target = "znver5"
// PLANNED: from zero plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 3x32, {{.*}}>

// RUN: xdsl-opt %s -p 'linalg-to-nanokernel,plan{target=znver5 block=3x32 k-unroll=2 prefetch=0},compose' | xdsl-opt | filecheck %s --check-prefix COMPOSED
// RUN: nkdsl-opt %s -p 'linalg-to-nanokernel,plan{target=znver5 block=3x32 k-unroll=2 prefetch=0},compose' --print-op-generic | nkdsl-opt | filecheck %s --check-prefix COMPOSED

// COMPOSED-LABEL: func.func @product(
// COMPOSED-NOT: nanokernel.gemm
// COMPOSED: scf.for
// COMPOSED-NEXT: nanokernel.zero : !nanokernel.block<3x20xf32, lanes = n>
// COMPOSED-NEXT: scf.for {{.*}} -> (!nanokernel.block<3x20xf32, lanes = n>)
// COMPOSED-NEXT: nanokernel.step {{.*}} depth 2 using "fma.f32x16"
// COMPOSED: nanokernel.store
// COMPOSED: return

// RUN: nkdsl-opt %s -p 'linalg-to-nanokernel,plan{target=znver5 block=3x32 k-unroll=2 prefetch=0},compose,unroll' | nkdsl-opt | filecheck %s --check-prefix REGISTERS
// RUN: xdsl-opt %s -p 'linalg-to-nanokernel,plan{target=znver5 block=3x32 k-unroll=2 prefetch=0},compose,unroll' --print-op-generic | xdsl-opt | filecheck %s --check-prefix REGISTERS

// REGISTERS-LABEL: func.func @product(
// REGISTERS-NOT: !nanokernel.block
// REGISTERS: scf.for
// REGISTERS: scf.for {{.*}} -> (vector<16xf32>, vector<16xf32>, vector<16xf32>, vector<16xf32>, vector<16xf32>, vector<16xf32>)
// REGISTERS: nkvector.load %b
// REGISTERS-NEXT: nkvector.load %b
// REGISTERS-NEXT: nkvector.broadcast_load %a
// REGISTERS-COUNT-12: nkvector.fma
// REGISTERS-NOT: nkvector.fma
// REGISTERS: return

// RUN: xdsl-opt %s -p 'linalg-to-nanokernel,plan{target=znver5 block=3x32 k-unroll=2 prefetch=0},compose,unroll,lower-to-upstream' | xdsl-opt | filecheck %s --check-prefix UPSTREAM
// RUN: nkdsl-opt %s -p 'linalg-to-nanokernel,plan{target=znver5 block=3x32 k-unroll=2 prefetch=0},compose,unroll,lower-to-upstream' --print-op-generic | nkdsl-opt | filecheck %s --check-prefix UPSTREAM

// UPSTREAM-LABEL: func.func @product(%a: memref<f32>, %b: memref<f32>, %c: memref<f32>)
// UPSTREAM-SAME: "target-cpu", "znver5"
// UPSTREAM-NOT: nkvector
// UPSTREAM-NOT: nanokernel
// UPSTREAM: scf.for
// UPSTREAM: scf.for
// UPSTREAM: arith.muli
// UPSTREAM: vector.load
// UPSTREAM: vector.maskedload
// UPSTREAM-COUNT-12: vector.fma
// UPSTREAM-NOT: vector.fma
// UPSTREAM: vector.maskedstore
// UPSTREAM: return

func.func @product(%a: memref<9x12xf32>, %b: memref<12x20xf32>, %c: memref<9x20xf32>) {
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%c : memref<9x20xf32>)
  linalg.matmul ins(%a, %b : memref<9x12xf32>, memref<12x20xf32>) outs(%c : memref<9x20xf32>)
  return
}
