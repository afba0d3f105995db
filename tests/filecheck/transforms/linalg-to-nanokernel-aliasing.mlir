// RUN: nkdsl-opt %s -p linalg-to-nanokernel --split-input-file --verify-diagnostics | filecheck %s

// A product that reads what it writes depends on the order of linalg's loops, which no lower level
// keeps: it must be refused.
// CHECK: aliasing.mlir:{{[0-9]+}}:3: linalg.matmul can't be raised to nanokernel.gemm: rhs is also the result
// CHECK-SAME: write to memory of its own, and copy the result from there
func.func @rhs(%a: memref<16x16xf32>, %c: memref<16x16xf32>) {
  linalg.matmul ins(%a, %c : memref<16x16xf32>, memref<16x16xf32>) outs(%c : memref<16x16xf32>)
  return
}

// -----

// CHECK: linalg.generic can't be raised to nanokernel.gemm: lhs is also the result
func.func @lhs(%b: memref<8x8xf32>, %c: memref<8x8xf32>) {
  linalg.generic {indexing_maps = [affine_map<(i, j, l) -> (i, l)>, affine_map<(i, j, l) -> (l, j)>, affine_map<(i, j, l) -> (i, j)>],
                  iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%c, %b : memref<8x8xf32>, memref<8x8xf32>) outs(%c : memref<8x8xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %z, %p : f32
    linalg.yield %s : f32
  }
  return
}

// -----

// CHECK-LABEL: func.func @square
// CHECK: nanokernel.gemm ins(%a[m, k], %a[k, n]
func.func @square(%a: memref<8x8xf32>, %c: memref<8x8xf32>) {
  linalg.matmul ins(%a, %a : memref<8x8xf32>, memref<8x8xf32>) outs(%c : memref<8x8xf32>)
  return
}
