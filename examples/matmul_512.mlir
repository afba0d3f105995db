// C += A·B, 512×512×512, f32: the product in its plainest form.
//
//     nkdsl run examples/matmul_512.mlir
//     nkdsl-opt examples/matmul_512.mlir -p 'linalg-to-nanokernel,plan{target=znver5}'
//     nkdsl-opt examples/matmul_512.mlir -p 'linalg-to-nanokernel,plan{target=znver5},compose'

func.func @matmul(%a: memref<512x512xf32>, %b: memref<512x512xf32>, %c: memref<512x512xf32>) {
  linalg.matmul ins(%a, %b : memref<512x512xf32>, memref<512x512xf32>)
                outs(%c : memref<512x512xf32>)
  return
}
