// RUN: xdsl-opt %s -p linalg-to-nanokernel | filecheck %s

// CHECK-LABEL: func.func @matmul
func.func @matmul(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>) {
  // CHECK-NEXT: nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xf32>, memref<4x6xf32>) outs(%c[m, n] : memref<8x6xf32>)
  // CHECK-NEXT: return
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  return
}

// Layouts are the memrefs' business.
// CHECK-LABEL: func.func @strided
func.func @strided(%a: memref<8x4xf64, strided<[1, 8]>>, %b: memref<4x6xf64, strided<[9, 1]>>, %c: memref<8x6xf64>) {
  // CHECK: ins(%a[m, k], %b[k, n] : memref<8x4xf64, strided<[1, 8]>>, memref<4x6xf64, strided<[9, 1]>>) outs(%c[m, n] : memref<8x6xf64>)
  linalg.matmul ins(%a, %b : memref<8x4xf64, strided<[1, 8]>>, memref<4x6xf64, strided<[9, 1]>>) outs(%c : memref<8x6xf64>)
  return
}

// CHECK-LABEL: func.func @both_transposed
func.func @both_transposed(%a: memref<4x8xf32>, %b: memref<6x4xf32>, %c: memref<8x6xf32>) {
  // CHECK: nanokernel.gemm ins(%a[k, m], %b[n, k] : {{.*}}) outs(%c[m, n] : memref<8x6xf32>)
  linalg.generic {indexing_maps = [affine_map<(i, j, l) -> (l, i)>, affine_map<(i, j, l) -> (j, l)>, affine_map<(i, j, l) -> (i, j)>],
                  iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<4x8xf32>, memref<6x4xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %z, %p : f32
    linalg.yield %s : f32
  }
  return
}

// The order of the factors and of the sum is free.
// CHECK-LABEL: func.func @commuted
func.func @commuted(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>) {
  // CHECK: nanokernel.gemm ins(%a[m, k], %b[k, n]
  linalg.generic {indexing_maps = [affine_map<(i, j, l) -> (i, l)>, affine_map<(i, j, l) -> (l, j)>, affine_map<(i, j, l) -> (i, j)>],
                  iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %p = arith.mulf %y, %x : f32
    %s = arith.addf %p, %z : f32
    linalg.yield %s : f32
  }
  return
}

// CHECK-LABEL: func.func @batch
func.func @batch(%a: memref<2x8x4xf32>, %b: memref<2x4x6xf32>, %c: memref<2x8x6xf32>) {
  // CHECK: nanokernel.gemm ins(%a[b, m, k], %b[b, k, n] : {{.*}}) outs(%c[b, m, n] : memref<2x8x6xf32>)
  linalg.generic {indexing_maps = [affine_map<(b, i, j, l) -> (b, i, l)>, affine_map<(b, i, j, l) -> (b, l, j)>, affine_map<(b, i, j, l) -> (b, i, j)>],
                  iterator_types = ["parallel", "parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<2x8x4xf32>, memref<2x4x6xf32>) outs(%c : memref<2x8x6xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %z, %p : f32
    linalg.yield %s : f32
  }
  return
}

// A batch that the result lacks is one more reduction.
// CHECK-LABEL: func.func @batch_reduce
func.func @batch_reduce(%a: memref<2x8x4xf32>, %b: memref<2x4x6xf32>, %c: memref<8x6xf32>) {
  // CHECK: nanokernel.gemm ins(%a[k0, m, k1], %b[k0, k1, n] : {{.*}}) outs(%c[m, n] : memref<8x6xf32>)
  linalg.generic {indexing_maps = [affine_map<(b, i, j, l) -> (b, i, l)>, affine_map<(b, i, j, l) -> (b, l, j)>, affine_map<(b, i, j, l) -> (i, j)>],
                  iterator_types = ["reduction", "parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<2x8x4xf32>, memref<2x4x6xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %z, %p : f32
    linalg.yield %s : f32
  }
  return
}

// Operands of four dimensions, in blocks.
// CHECK-LABEL: func.func @blocked
func.func @blocked(%a: memref<2x3x8x4xf32>, %b: memref<5x3x4x16xf32>, %c: memref<2x5x8x16xf32>) {
  // CHECK: nanokernel.gemm ins(%a[m0, k0, m1, k1], %b[n0, k0, k1, n1] : {{.*}}) outs(%c[m0, n0, m1, n1] : memref<2x5x8x16xf32>)
  linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3, d4, d5) -> (d0, d2, d3, d5)>, affine_map<(d0, d1, d2, d3, d4, d5) -> (d1, d2, d5, d4)>, affine_map<(d0, d1, d2, d3, d4, d5) -> (d0, d1, d3, d4)>],
                  iterator_types = ["parallel", "parallel", "reduction", "parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<2x3x8x4xf32>, memref<5x3x4x16xf32>) outs(%c : memref<2x5x8x16xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %z, %p : f32
    linalg.yield %s : f32
  }
  return
}

// CHECK-LABEL: func.func @matrix_times_vector
func.func @matrix_times_vector(%a: memref<8x4xf32>, %x: memref<4xf32>, %y: memref<8xf32>) {
  // CHECK: nanokernel.gemm ins(%a[m, k], %x[k] : {{.*}}) outs(%y[m] : memref<8xf32>)
  linalg.generic {indexing_maps = [affine_map<(i, l) -> (i, l)>, affine_map<(i, l) -> (l)>, affine_map<(i, l) -> (i)>],
                  iterator_types = ["parallel", "reduction"]}
      ins(%a, %x : memref<8x4xf32>, memref<4xf32>) outs(%y : memref<8xf32>) {
  ^bb0(%u: f32, %v: f32, %w: f32):
    %p = arith.mulf %u, %v : f32
    %s = arith.addf %w, %p : f32
    linalg.yield %s : f32
  }
  return
}

// Other programs stay as they are.
// CHECK-LABEL: func.func @untouched
func.func @untouched(%a: memref<8xf32>) -> f32 {
  // CHECK: memref.load
  // CHECK-NEXT: arith.addf
  %i = arith.constant 0 : index
  %x = memref.load %a[%i] : memref<8xf32>
  %y = arith.addf %x, %x : f32
  return %y : f32
}
