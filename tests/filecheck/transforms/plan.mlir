// RUN: xdsl-opt %s -p 'plan{target=znver5}' | filecheck %s
// RUN: nkdsl-opt %s -p 'plan{target=x86-64-v3}' | filecheck %s --check-prefix NARROW
// RUN: xdsl-opt %s -p 'plan{target=znver5 block=4x32 k-unroll=2 prefetch=3}' | filecheck %s --check-prefix GIVEN
// RUN: nkdsl-opt %s -p 'plan{target=skylake-avx512 prefetch=0}' | filecheck %s --check-prefix NEVER
// RUN: xdsl-opt %s -p 'plan{target=znver5},plan{target=znver5 block=4x32}' | filecheck %s

// The function remembers what it was planned for. Which block is best is a matter for the model.
// CHECK-LABEL: func.func @matmul
// CHECK-SAME: attributes {nanokernel.target = "znver5"}
// CHECK: nanokernel.gemm
// CHECK-SAME: outs(%c[m, n] : memref<64x96xf32>) plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = {{[0-9]+}}x{{[0-9]+}}, lanes = n, edges = even, k_unroll = {{[0-9]+}}, k_block = 0, resident = {{lhs|rhs}}, prefetch = {{[0-9]+}}, pack = none>
// CHECK-NOT: block = 4x32

// NARROW-LABEL: func.func @matmul
// NARROW-SAME: attributes {nanokernel.target = "x86-64-v3"}
// NARROW: plan #nanokernel.plan<target = "x86-64-v3", instruction = "fma.f32x8"

// GIVEN-LABEL: func.func @matmul
// GIVEN: instruction = "fma.f32x16", block = 4x32, lanes = n, edges = even, k_unroll = 2, k_block = 0, resident = {{lhs|rhs}}, prefetch = 3, pack = none>

// NEVER-LABEL: func.func @matmul
// NEVER: prefetch = 0
func.func @matmul(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
  return
}

// A function without a product is marked as well.
// CHECK-LABEL: func.func @nothing() attributes {nanokernel.target = "znver5"}
func.func @nothing() {
  return
}
