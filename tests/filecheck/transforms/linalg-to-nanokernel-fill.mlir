// RUN: nkdsl-opt %s -p linalg-to-nanokernel --split-input-file | filecheck %s

// A fill with zero right before the product is folded into it; other fills stay.
// CHECK-LABEL: func.func @folded
func.func @folded(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>) {
  // CHECK-NOT: linalg.fill
  // CHECK: nanokernel.gemm {{.*}} outs(%c[m, n] : memref<8x6xf32>) from zero
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%c : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  return
}

// -----

// Constants and other fills may stand between.
// CHECK-LABEL: func.func @apart
func.func @apart(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>, %d: memref<8x6xf32>) {
  // CHECK-NOT: linalg.fill
  // CHECK: nanokernel.gemm {{.*}} outs(%c[m, n] : memref<8x6xf32>) from zero
  // CHECK: nanokernel.gemm {{.*}} outs(%d[m, n] : memref<8x6xf32>) from zero
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%c : memref<8x6xf32>)
  %one = arith.constant 1.0 : f32
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  linalg.fill ins(%zero : f32) outs(%d : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%d : memref<8x6xf32>)
  return
}

// -----

// So may a product of other arguments: they are distinct memory.
// CHECK-LABEL: func.func @both_first
func.func @both_first(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>, %d: memref<8x6xf32>) {
  // CHECK-NOT: linalg.fill
  // CHECK: nanokernel.gemm {{.*}} outs(%c[m, n] : memref<8x6xf32>) from zero
  // CHECK: nanokernel.gemm {{.*}} outs(%d[m, n] : memref<8x6xf32>) from zero
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%c : memref<8x6xf32>)
  linalg.fill ins(%zero : f32) outs(%d : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%d : memref<8x6xf32>)
  return
}

// -----

// A product that reads the result of the one before follows it.
// CHECK-LABEL: func.func @chain
func.func @chain(%a: memref<8x8xf32>, %b: memref<8x8xf32>, %c: memref<8x8xf32>, %d: memref<8x8xf32>) {
  // CHECK-NOT: linalg.fill
  // CHECK: nanokernel.gemm ins(%a[m, k], %b[k, n] : {{.*}} outs(%c[m, n] : memref<8x8xf32>) from zero
  // CHECK: nanokernel.gemm ins(%c[m, k], %b[k, n] : {{.*}} outs(%d[m, n] : memref<8x8xf32>) from zero
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%d : memref<8x8xf32>)
  linalg.fill ins(%zero : f32) outs(%c : memref<8x8xf32>)
  linalg.matmul ins(%a, %b : memref<8x8xf32>, memref<8x8xf32>) outs(%c : memref<8x8xf32>)
  linalg.matmul ins(%c, %b : memref<8x8xf32>, memref<8x8xf32>) outs(%d : memref<8x8xf32>)
  return
}

// -----

// A view may be of the result.
// CHECK-LABEL: func.func @view_of_the_result
// CHECK: linalg.fill
// CHECK-NOT: from zero
// CHECK: return
func.func @view_of_the_result(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>, %d: memref<8x6xf32>) {
  %view = memref.reinterpret_cast %c to offset: [0], sizes: [8, 4], strides: [6, 1] : memref<8x6xf32> to memref<8x4xf32, strided<[6, 1]>>
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%c : memref<8x6xf32>)
  linalg.matmul ins(%view, %b : memref<8x4xf32, strided<[6, 1]>>, memref<4x6xf32>) outs(%d : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  return
}

// -----

// CHECK-LABEL: func.func @fill_of_a_view
// CHECK: linalg.fill
// CHECK-NOT: from zero
// CHECK: return
func.func @fill_of_a_view(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>) {
  %view = memref.reinterpret_cast %c to offset: [0], sizes: [48], strides: [1] : memref<8x6xf32> to memref<48xf32>
  %zero = arith.constant 0.0 : f32
  %one = arith.constant 1.0 : f32
  linalg.fill ins(%zero : f32) outs(%c : memref<8x6xf32>)
  linalg.fill ins(%one : f32) outs(%view : memref<48xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  return
}

// -----

// The second product adds to the first one's result.
// CHECK-LABEL: func.func @sum_of_products
func.func @sum_of_products(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>) {
  // CHECK: nanokernel.gemm {{.*}} from zero
  // CHECK-NEXT: nanokernel.gemm
  // CHECK-NOT: from zero
  // CHECK: return
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%c : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  return
}

// -----

// The product reads what the fill wrote.
// CHECK-LABEL: func.func @used_between
// CHECK: linalg.fill
// CHECK-NOT: from zero
// CHECK: return
func.func @used_between(%a: memref<8x8xf32>, %b: memref<8x8xf32>, %c: memref<8x8xf32>, %d: memref<8x8xf32>) {
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%c : memref<8x8xf32>)
  linalg.matmul ins(%a, %c : memref<8x8xf32>, memref<8x8xf32>) outs(%d : memref<8x8xf32>)
  linalg.matmul ins(%a, %b : memref<8x8xf32>, memref<8x8xf32>) outs(%c : memref<8x8xf32>)
  return
}

// -----

// Sums that start at minus zero may end there.
// CHECK-LABEL: func.func @minus_zero
// CHECK: linalg.fill
// CHECK-NOT: from zero
// CHECK: return
func.func @minus_zero(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>) {
  %zero = arith.constant -0.0 : f32
  linalg.fill ins(%zero : f32) outs(%c : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  return
}

// -----

// CHECK-LABEL: func.func @one
// CHECK: linalg.fill
// CHECK-NOT: from zero
// CHECK: return
func.func @one(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>) {
  %one = arith.constant 1.0 : f32
  linalg.fill ins(%one : f32) outs(%c : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  return
}

// -----

// CHECK-LABEL: func.func @of_another
// CHECK: linalg.fill
// CHECK-NOT: from zero
// CHECK: return
func.func @of_another(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>, %d: memref<8x6xf32>) {
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%d : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  return
}

// -----

// A value that is known only at run time may be anything.
// CHECK-LABEL: func.func @argument
// CHECK: linalg.fill
// CHECK-NOT: from zero
// CHECK: return
func.func @argument(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>, %x: f32) {
  linalg.fill ins(%x : f32) outs(%c : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  return
}

// -----

// Memory that the function allocates is memory of its own.
// CHECK-LABEL: func.func @allocated
func.func @allocated(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %d: memref<8x6xf32>) {
  // CHECK: memref.alloc
  // CHECK-NOT: linalg.fill
  // CHECK: nanokernel.gemm {{.*}} outs(%d[m, n] : memref<8x6xf32>)
  // CHECK-NEXT: nanokernel.gemm {{.*}} outs(%c[m, n] : memref<8x6xf32>) from zero
  %zero = arith.constant 0.0 : f32
  %c = memref.alloc() : memref<8x6xf32>
  linalg.fill ins(%zero : f32) outs(%c : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%d : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  return
}
