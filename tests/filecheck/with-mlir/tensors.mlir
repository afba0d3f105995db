// REQUIRES: mlir-opt
// RUN: nkdsl-opt %s -p bufferize,linalg-to-nanokernel,fold-transposes,fuse-epilogues | filecheck %s

#element = affine_map<(i, j) -> (i, j)>
#column = affine_map<(i, j) -> (j)>

// Arguments are only read; results are memory of the caller.
// CHECK-LABEL: func.func @accumulate
// CHECK-SAME: ([[A:%.*]]: memref<8x4xf32>, [[B:%.*]]: memref<4x6xf32>, [[C:%.*]]: memref<8x6xf32>, [[D:%.*]]: memref<8x6xf32>) {
// CHECK-NEXT: nanokernel.gemm ins([[A]][m, k], [[B]][k, n] : {{.*}}) outs([[D]][m, n] : memref<8x6xf32>) from zero epilogue([[C]][m, n] : memref<8x6xf32>) {
// CHECK: return
func.func @accumulate(%a: tensor<8x4xf32>, %b: tensor<4x6xf32>, %c: tensor<8x6xf32>) -> tensor<8x6xf32> {
  %d = linalg.matmul ins(%a, %b : tensor<8x4xf32>, tensor<4x6xf32>) outs(%c : tensor<8x6xf32>) -> tensor<8x6xf32>
  return %d : tensor<8x6xf32>
}

// One product, although transposed weights, the product in f32 and in bf16, and the biased one are
// tensors of their own.
// CHECK-LABEL: func.func @linear
// CHECK-SAME: ([[X:%.*]]: memref<8x4xbf16>, [[W:%.*]]: memref<6x4xbf16>, [[BIAS:%.*]]: memref<6xbf16>, [[Y:%.*]]: memref<8x6xbf16>) {
// CHECK-NOT: memref.alloc
// CHECK-NOT: linalg
// CHECK: nanokernel.gemm ins([[X]][m, k], [[W]][n, k] : memref<8x4xbf16>, memref<6x4xbf16>) outs([[Y]][m, n] : memref<8x6xbf16>) from zero epilogue([[BIAS]][n] : memref<6xbf16>) {
// CHECK-NOT: linalg
// CHECK: return
func.func @linear(%x: tensor<8x4xbf16>, %w: tensor<6x4xbf16>, %bias: tensor<6xbf16>) -> tensor<8x6xbf16> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<4x6xbf16>
  %t = linalg.transpose ins(%w : tensor<6x4xbf16>) outs(%e : tensor<4x6xbf16>) permutation = [1, 0]
  %s = tensor.empty() : tensor<8x6xf32>
  %f = linalg.fill ins(%zero : f32) outs(%s : tensor<8x6xf32>) -> tensor<8x6xf32>
  %p = linalg.matmul ins(%x, %t : tensor<8x4xbf16>, tensor<4x6xbf16>) outs(%f : tensor<8x6xf32>) -> tensor<8x6xf32>
  %y = tensor.empty() : tensor<8x6xbf16>
  %r = linalg.generic {indexing_maps = [#element, #element], iterator_types = ["parallel", "parallel"]}
      ins(%p : tensor<8x6xf32>) outs(%y : tensor<8x6xbf16>) {
  ^bb0(%v: f32, %old: bf16):
    %n = arith.truncf %v : f32 to bf16
    linalg.yield %n : bf16
  } -> tensor<8x6xbf16>
  %b = linalg.generic {indexing_maps = [#element, #column, #element], iterator_types = ["parallel", "parallel"]}
      ins(%r, %bias : tensor<8x6xbf16>, tensor<6xbf16>) outs(%y : tensor<8x6xbf16>) {
  ^bb0(%v: bf16, %u: bf16, %old: bf16):
    %n = arith.addf %v, %u : bf16
    linalg.yield %n : bf16
  } -> tensor<8x6xbf16>
  return %b : tensor<8x6xbf16>
}

// Sizes known at run time, and a private function.
// CHECK-LABEL: func.func @run_time
// CHECK-SAME: ([[A:%.*]]: memref<?x?xf32>, [[B:%.*]]: memref<?x?xf32>, [[C:%.*]]: memref<?x?xf32>) {
// CHECK: nanokernel.gemm ins([[A]][m, k], [[B]][k, n] : {{.*}}) outs([[C]][m, n] : memref<?x?xf32>) from zero
// CHECK: return
// CHECK-NOT: func.func
func.func @run_time(%a: tensor<?x?xf32>, %b: tensor<?x?xf32>) -> tensor<?x?xf32> {
  %c = func.call @product(%a, %b) : (tensor<?x?xf32>, tensor<?x?xf32>) -> tensor<?x?xf32>
  return %c : tensor<?x?xf32>
}

func.func private @product(%a: tensor<?x?xf32>, %b: tensor<?x?xf32>) -> tensor<?x?xf32> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %m = tensor.dim %a, %c0 : tensor<?x?xf32>
  %n = tensor.dim %b, %c1 : tensor<?x?xf32>
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty(%m, %n) : tensor<?x?xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<?x?xf32>) -> tensor<?x?xf32>
  %c = linalg.matmul ins(%a, %b : tensor<?x?xf32>, tensor<?x?xf32>) outs(%f : tensor<?x?xf32>) -> tensor<?x?xf32>
  return %c : tensor<?x?xf32>
}
