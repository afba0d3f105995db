// C += A·Bᵀ: B is stored N×K, and only its index map says so.
//
// B has no rows to load along the lanes, so the plan packs a panel of it into the workspace, or lays
// the lanes along k, or along m where that is cheaper.

#a = affine_map<(m, n, k) -> (m, k)>
#b = affine_map<(m, n, k) -> (n, k)>
#c = affine_map<(m, n, k) -> (m, n)>

func.func @matmul(%a: memref<128x256xf32>, %b: memref<192x256xf32>, %c: memref<128x192xf32>) {
  linalg.generic {indexing_maps = [#a, #b, #c],
                  iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<128x256xf32>, memref<192x256xf32>)
      outs(%c : memref<128x192xf32>) {
  ^bb0(%x: f32, %y: f32, %sum: f32):
    %product = arith.mulf %x, %y : f32
    %next = arith.addf %sum, %product : f32
    linalg.yield %next : f32
  }
  return
}
