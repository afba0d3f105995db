// C += A·B with sizes that nothing divides: M = 127, N = 255, K = 511.
//
// Rows and columns are split evenly, the last columns are masked:
//
//     nkdsl explain examples/matmul_127x255x511.mlir --target znver5

func.func @matmul(%a: memref<127x511xf32>, %b: memref<511x255xf32>, %c: memref<127x255xf32>) {
  linalg.matmul ins(%a, %b : memref<127x511xf32>, memref<511x255xf32>)
                outs(%c : memref<127x255xf32>)
  return
}
