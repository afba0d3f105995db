// C += A·B, 512×512×512, in 8-bit integers with sums in i32: activations without a sign, weights
// with one, as quantized networks have them. MLIR's i8 has no sign: the conversions say how it is
// read.
//
//     nkdsl run examples/matmul_u8s8.mlir
//     nkdsl-opt examples/matmul_u8s8.mlir -p 'linalg-to-nanokernel,plan{target=znver5}'

#a = affine_map<(m, n, k) -> (m, k)>
#b = affine_map<(m, n, k) -> (k, n)>
#c = affine_map<(m, n, k) -> (m, n)>

func.func @matmul(%a: memref<512x512xi8>, %b: memref<512x512xi8>, %c: memref<512x512xi32>) {
  linalg.generic {indexing_maps = [#a, #b, #c],
                  iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<512x512xi8>, memref<512x512xi8>) outs(%c : memref<512x512xi32>) {
  ^bb0(%x: i8, %y: i8, %sum: i32):
    %u = arith.extui %x : i8 to i32
    %s = arith.extsi %y : i8 to i32
    %product = arith.muli %u, %s : i32
    %next = arith.addi %sum, %product : i32
    linalg.yield %next : i32
  }
  return
}
