// RUN: not nkdsl-opt %s -p linalg-to-nanokernel 2>&1 | filecheck %s
// RUN: not nkdsl compile %s --target znver5 --emit=mlir 2>&1 | filecheck %s
// RUN: nkdsl-opt %s -p linalg-to-nanokernel --verify-diagnostics | filecheck %s --check-prefix EXPECTED

// CHECK: error: {{.*}}opt-errors.mlir:11:3: linalg.generic can't be raised to nanokernel.gemm
// CHECK-NOT: Traceback
// EXPECTED: linalg.generic can't be raised to nanokernel.gemm

#map = affine_map<(i, j) -> (i, j)>
func.func @row_sums(%a: memref<8x8xf32>, %c: memref<8xf32>) {
  linalg.generic {indexing_maps = [#map, affine_map<(i, j) -> (i)>], iterator_types = ["parallel", "reduction"]}
      ins(%a : memref<8x8xf32>) outs(%c : memref<8xf32>) {
  ^bb0(%x: f32, %y: f32):
    %sum = arith.addf %y, %x : f32
    linalg.yield %sum : f32
  }
  return
}
