// RUN: xdsl-opt %s -p linalg-to-nanokernel,fold-transposes | filecheck %s

#id = affine_map<(i, j) -> (i, j)>
#transposed = affine_map<(i, j) -> (j, i)>

// CHECK-LABEL: func.func @rhs
func.func @rhs(%a: memref<8x4xf32>, %w: memref<6x4xf32>, %c: memref<8x6xf32>) {
  // CHECK-NEXT: nanokernel.gemm ins(%a[m, k], %w[n, k] : memref<8x4xf32>, memref<6x4xf32>) outs(%c[m, n] : memref<8x6xf32>)
  // CHECK-NEXT: return
  %b = memref.alloc() : memref<4x6xf32>
  linalg.transpose ins(%w : memref<6x4xf32>) outs(%b : memref<4x6xf32>) permutation = [1, 0]
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  memref.dealloc %b : memref<4x6xf32>
  return
}

// One copy for two products.
// CHECK-LABEL: func.func @both
func.func @both(%x: memref<4x4xf32>, %c: memref<4x4xf32>, %d: memref<4x4xf32>) {
  // CHECK-NEXT: nanokernel.gemm ins(%x[k, m], %x[n, k] : {{.*}}) outs(%c[m, n] : memref<4x4xf32>)
  // CHECK-NEXT: nanokernel.gemm ins(%c[m, k], %x[n, k] : {{.*}}) outs(%d[m, n] : memref<4x4xf32>)
  // CHECK-NEXT: return
  %t = memref.alloc() : memref<4x4xf32>
  linalg.generic {indexing_maps = [#transposed, #id], iterator_types = ["parallel", "parallel"]}
      ins(%x : memref<4x4xf32>) outs(%t : memref<4x4xf32>) {
  ^bb0(%e: f32, %old: f32):
    linalg.yield %e : f32
  }
  linalg.matmul ins(%t, %t : memref<4x4xf32>, memref<4x4xf32>) outs(%c : memref<4x4xf32>)
  linalg.matmul ins(%c, %t : memref<4x4xf32>, memref<4x4xf32>) outs(%d : memref<4x4xf32>)
  return
}

// A copy that is no permutation stays.
// CHECK-LABEL: func.func @broadcast
func.func @broadcast(%a: memref<8x4xf32>, %w: memref<6xf32>, %c: memref<8x6xf32>) {
  // CHECK: linalg.generic
  // CHECK: nanokernel.gemm ins(%a[m, k], %b[k, n]
  %b = memref.alloc() : memref<4x6xf32>
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (j)>, #id], iterator_types = ["parallel", "parallel"]}
      ins(%w : memref<6xf32>) outs(%b : memref<4x6xf32>) {
  ^bb0(%e: f32, %old: f32):
    linalg.yield %e : f32
  }
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  return
}

// So does one of a matrix that is changed afterwards, and one of the result.
// CHECK-LABEL: func.func @changed
func.func @changed(%a: memref<8x4xf32>, %w: memref<6x4xf32>, %c: memref<8x6xf32>) {
  // CHECK: linalg.transpose
  // CHECK: nanokernel.gemm ins(%a[m, k], %b[k, n]
  %zero = arith.constant 0.0 : f32
  %b = memref.alloc() : memref<4x6xf32>
  linalg.transpose ins(%w : memref<6x4xf32>) outs(%b : memref<4x6xf32>) permutation = [1, 0]
  linalg.fill ins(%zero : f32) outs(%w : memref<6x4xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  return
}

// CHECK-LABEL: func.func @of_the_result
func.func @of_the_result(%a: memref<4x4xf32>, %c: memref<4x4xf32>) {
  // CHECK: linalg.transpose
  // CHECK: nanokernel.gemm ins(%a[m, k], %b[k, n]
  %b = memref.alloc() : memref<4x4xf32>
  linalg.transpose ins(%c : memref<4x4xf32>) outs(%b : memref<4x4xf32>) permutation = [1, 0]
  linalg.matmul ins(%a, %b : memref<4x4xf32>, memref<4x4xf32>) outs(%c : memref<4x4xf32>)
  return
}
