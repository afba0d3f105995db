// RUN: nkdsl-opt %s -p 'plan{target=znver5}' | filecheck %s

// The element type chooses the instruction.
// CHECK-LABEL: func.func @double
// CHECK: instruction = "fma.f64x8"
func.func @double(%a: memref<64x256xf64>, %b: memref<256x96xf64>, %c: memref<64x96xf64>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf64>, memref<256x96xf64>) outs(%c[m, n] : memref<64x96xf64>)
  return
}

// A right factor that isn't contiguous along the result's rows is packed, and then stays.
// CHECK-LABEL: func.func @rhs_transposed
// CHECK: lanes = n, {{.*}} resident = rhs, {{.*}} pack = rhs
func.func @rhs_transposed(%a: memref<64x256xf32>, %b: memref<96x256xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[n, k] : memref<64x256xf32>, memref<96x256xf32>) outs(%c[m, n] : memref<64x96xf32>)
  return
}

// CHECK-LABEL: func.func @lhs_transposed
// CHECK: lanes = n, {{.*}} pack = none
func.func @lhs_transposed(%a: memref<256x64xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[k, m], %b[k, n] : memref<256x64xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
  return
}

// Lanes lie where the result is contiguous.
// CHECK-LABEL: func.func @column_major
// CHECK: lanes = m, {{.*}} pack = none
func.func @column_major(%a: memref<256x64xf32>, %b: memref<256x96xf32>, %c: memref<96x64xf32>) {
  nanokernel.gemm ins(%a[k, m], %b[k, n] : memref<256x64xf32>, memref<256x96xf32>) outs(%c[n, m] : memref<96x64xf32>)
  return
}

// CHECK-LABEL: func.func @column_major_packed
// CHECK: lanes = m, {{.*}} pack = lhs
func.func @column_major_packed(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<96x64xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[n, m] : memref<96x64xf32>)
  return
}

// A matrix times a vector sums up along the lanes.
// CHECK-LABEL: func.func @matrix_times_vector
// CHECK: block = {{[0-9]+}}x1, lanes = k
func.func @matrix_times_vector(%a: memref<1000x100xf32>, %x: memref<100xf32>, %y: memref<1000xf32>) {
  nanokernel.gemm ins(%a[m, k], %x[k] : memref<1000x100xf32>, memref<100xf32>) outs(%y[m] : memref<1000xf32>)
  return
}

// CHECK-LABEL: func.func @vector_times_matrix
// CHECK: block = 1x{{[0-9]+}}, lanes = n
func.func @vector_times_matrix(%x: memref<1000xf32>, %b: memref<1000x1000xf32>, %y: memref<1000xf32>) {
  nanokernel.gemm ins(%x[k], %b[k, n] : memref<1000xf32>, memref<1000x1000xf32>) outs(%y[n] : memref<1000xf32>)
  return
}

// A product of nothing has a plan too.
// CHECK-LABEL: func.func @empty
// CHECK: plan #nanokernel.plan<target = "znver5"
func.func @empty(%a: memref<0x4xf32>, %b: memref<4x6xf32>, %c: memref<0x6xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<0x4xf32>, memref<4x6xf32>) outs(%c[m, n] : memref<0x6xf32>)
  return
}
