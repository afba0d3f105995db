// RUN: nkdsl-opt %s -p compose --split-input-file --verify-diagnostics | filecheck %s

// CHECK: compose-invalid.mlir:6:3: this product has no plan; run the pass 'plan' first
func.func @unplanned(%a: memref<8x4xf32>, %b: memref<4x48xf32>, %c: memref<8x48xf32>) {
  // The position is that of the product.
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xf32>, memref<4x48xf32>) outs(%c[m, n] : memref<8x48xf32>)
  return
}

// -----

// CHECK: epilogues other than the identity can't be composed yet
func.func @epilogue(%a: memref<8x4xf32>, %b: memref<4x48xf32>, %c: memref<8x48xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xf32>, memref<4x48xf32>) outs(%c[m, n] : memref<8x48xf32>)
      plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48> epilogue {
  ^bb0(%sum: f32):
    %twice = arith.addf %sum, %sum : f32
    nanokernel.yield %twice : f32
  }
  return
}

// -----

// CHECK-LABEL: func.func @identity
// CHECK: nanokernel.step
func.func @identity(%a: memref<8x4xf32>, %b: memref<4x48xf32>, %c: memref<8x48xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xf32>, memref<4x48xf32>) outs(%c[m, n] : memref<8x48xf32>)
      plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48> epilogue {
  ^bb0(%sum: f32):
    nanokernel.yield %sum : f32
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
