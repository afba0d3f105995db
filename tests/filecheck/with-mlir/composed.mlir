// REQUIRES: mlir-opt
// RUN: nkdsl-opt %s -p compose --print-op-generic | mlir-opt-22 --allow-unregistered-dialect | filecheck %s

// Where mlir-opt is told to let our dialects pass, it finds nothing wrong with the rest of the
// composed level: loops, constants, and panels cut from the workspace.

// CHECK-LABEL: func.func @ragged
// CHECK: memref.reinterpret_cast {{.*}} to offset: [0], {{.*}} to memref<64x32xf32, strided<[32, 1]>>
// CHECK: scf.for
// CHECK: "nanokernel.step"
func.func @ragged(%a: memref<16x64xf32>, %b: memref<20x64xf32>, %c: memref<16x20xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[n, k] : memref<16x64xf32>, memref<20x64xf32>) outs(%c[m, n] : memref<16x20xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 4, pack = rhs>
  return
}

// CHECK-LABEL: func.func @batch_reduce
// CHECK: memref.reinterpret_cast {{.*}} to offset: [%{{.*}}], {{.*}} to memref<64x48xf32, strided<[48, 1], offset: ?>>
func.func @batch_reduce(%a: memref<3x16x64xf32>, %b: memref<3x48x64xf32>, %c: memref<16x48xf32>) {
  nanokernel.gemm ins(%a[k0, m, k1], %b[k0, n, k1] : memref<3x16x64xf32>, memref<3x48x64xf32>) outs(%c[m, n] : memref<16x48xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 4, pack = rhs>
  return
}
