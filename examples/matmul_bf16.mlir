// C += A·B, 512×512×512, in bf16 with sums in f32.
//
//     nkdsl run examples/matmul_bf16.mlir
//     nkdsl-opt examples/matmul_bf16.mlir -p 'linalg-to-nanokernel,plan{target=znver5}'

func.func @matmul(%a: memref<512x512xbf16>, %b: memref<512x512xbf16>, %c: memref<512x512xf32>) {
  linalg.matmul ins(%a, %b : memref<512x512xbf16>, memref<512x512xbf16>)
                outs(%c : memref<512x512xf32>)
  return
}
