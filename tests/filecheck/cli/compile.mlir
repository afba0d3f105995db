// RUN: nkdsl compile %s --target znver5 --emit=nanokernel | filecheck %s --check-prefix WHOLE
// RUN: nkdsl compile %s --target znver5 --emit=composed | filecheck %s --check-prefix COMPOSED
// RUN: nkdsl compile %s --target znver5 --emit=nkvector | filecheck %s --check-prefix REGISTERS
// RUN: nkdsl compile %s --target znver5 --emit=mlir | filecheck %s --check-prefix UPSTREAM
// RUN: nkdsl compile %s --target x86-64-v3 --emit=mlir | filecheck %s --check-prefix NARROW

// WHOLE-LABEL: func.func @matmul
// WHOLE: nanokernel.gemm
// WHOLE-SAME: plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16"

// COMPOSED-LABEL: func.func @matmul
// COMPOSED: nanokernel.zero
// COMPOSED: nanokernel.step
// COMPOSED: nanokernel.store

// REGISTERS-LABEL: func.func @matmul
// REGISTERS: nkvector.broadcast_load
// REGISTERS: nkvector.fma {{.*}}vector<16xf32>

// UPSTREAM-LABEL: func.func @matmul
// UPSTREAM-SAME: "target-cpu", "znver5"
// UPSTREAM: vector.fma {{.*}}vector<16xf32>

// NARROW-LABEL: func.func @matmul
// NARROW-SAME: "target-cpu", "x86-64-v3"
// NARROW: vector.fma {{.*}}vector<8xf32>

func.func @matmul(%a: memref<8x32xf32>, %b: memref<32x48xf32>, %c: memref<8x48xf32>) {
  linalg.matmul ins(%a, %b : memref<8x32xf32>, memref<32x48xf32>) outs(%c : memref<8x48xf32>)
  return
}
