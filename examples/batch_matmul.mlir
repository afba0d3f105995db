// C[i] += A[i]·B[i]: a named operation that xDSL can't parse; mlir-opt generalizes it first.

func.func @batch_matmul(
    %a: memref<8x48x64xf32>, %b: memref<8x64x80xf32>, %c: memref<8x48x80xf32>) {
  linalg.batch_matmul ins(%a, %b : memref<8x48x64xf32>, memref<8x64x80xf32>)
                      outs(%c : memref<8x48x80xf32>)
  return
}
