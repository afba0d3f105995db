// RUN: nkdsl-opt %s -p compose --split-input-file --verify-diagnostics | filecheck %s

// CHECK: compose-invalid.mlir:6:3: this product has no plan; run the pass 'plan' first
func.func @unplanned(%a: memref<8x4xf32>, %b: memref<4x48xf32>, %c: memref<8x48xf32>) {
  // The position is that of the product.
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xf32>, memref<4x48xf32>) outs(%c[m, n] : memref<8x48xf32>)
  return
}

// -----

// CHECK: each iterator must index a dimension of an extra operand alone, or none
func.func @diagonal(%a: memref<8x4xf32>, %b: memref<4x48xf32>, %c: memref<8x48xf32>, %d: memref<55xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xf32>, memref<4x48xf32>) outs(%c[m, n] : memref<8x48xf32>)
      plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48> epilogue(%d[m + n] : memref<55xf32>) {
  ^bb0(%sum: f32, %x: f32):
    %both = arith.addf %sum, %x : f32
    nanokernel.yield %both : f32
  }
  return
}

// -----

// A plan that was never checked is checked here.
// CHECK: block 8x64 needs 37 vector registers
func.func @too_large(%a: memref<8x4xf32>, %b: memref<4x64xf32>, %c: memref<8x64xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xf32>, memref<4x64xf32>) outs(%c[m, n] : memref<8x64xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x64>
  return
}

// -----

// CHECK: target 'znver99' is not known
func.func @unknown_target(%a: memref<8x4xf32>, %b: memref<4x48xf32>, %c: memref<8x48xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xf32>, memref<4x48xf32>) outs(%c[m, n] : memref<8x48xf32>)
    plan #nanokernel.plan<target = "znver99", instruction = "fma.f32x16", block = 8x48>
  return
}
