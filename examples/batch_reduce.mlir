// A batch-reduce product (BRGEMM), C += Σ A[i]·B[i]: 16 pairs of blocks, one result.
//
// The batch is a second reduction loop, so a block of C stays in registers through all of it.

#a = affine_map<(i, m, n, k) -> (i, m, k)>
#b = affine_map<(i, m, n, k) -> (i, k, n)>
#c = affine_map<(i, m, n, k) -> (m, n)>

func.func @batch_reduce(
    %a: memref<16x64x64xf32>, %b: memref<16x64x64xf32>, %c: memref<64x64xf32>) {
  linalg.generic {indexing_maps = [#a, #b, #c],
                  iterator_types = ["reduction", "parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<16x64x64xf32>, memref<16x64x64xf32>)
      outs(%c : memref<64x64xf32>) {
  ^bb0(%x: f32, %y: f32, %sum: f32):
    %product = arith.mulf %x, %y : f32
    %next = arith.addf %sum, %product : f32
    linalg.yield %next : f32
  }
  return
}
