// C = A·B of any sizes: one kernel for all of them.
//
// Sizes that are known only at run time are parameters of the compiled function. It cuts them into
// cache blocks and packs the factors where they are large, and calls a microkernel for each block:
//
//     nkdsl run examples/matmul_dynamic.mlir
//     nkdsl-opt examples/matmul_dynamic.mlir -p 'linalg-to-nanokernel,plan{target=znver4},block'

func.func @matmul(%a: memref<?x?xf32>, %b: memref<?x?xf32>, %c: memref<?x?xf32>) {
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%c : memref<?x?xf32>)
  linalg.matmul ins(%a, %b : memref<?x?xf32>, memref<?x?xf32>) outs(%c : memref<?x?xf32>)
  return
}
