// C += A·B, 2048×2048×2048, f32: larger than any cache, so cut into cache blocks and packed.
//
//     nkdsl run examples/matmul_2048.mlir
//     nkdsl-opt examples/matmul_2048.mlir -p 'linalg-to-nanokernel,plan{target=znver4},block'

func.func @matmul(%a: memref<2048x2048xf32>, %b: memref<2048x2048xf32>, %c: memref<2048x2048xf32>) {
  linalg.matmul ins(%a, %b : memref<2048x2048xf32>, memref<2048x2048xf32>)
                outs(%c : memref<2048x2048xf32>)
  return
}
