// RUN: xdsl-opt %s -p block --split-input-file --verify-diagnostics | filecheck %s

// CHECK: a packed factor's k is known only at run time: the plan needs a k_block
func.func @no_k_block(%a: memref<?x?xf32>, %b: memref<?x?xf32>, %c: memref<?x?xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<?x?xf32>, memref<?x?xf32>) outs(%c[m, n] : memref<?x?xf32>)
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 2x32, pack = both, m_block = 6, n_block = 64>
  return
}

// -----

// CHECK: lanes = n needs a result that is contiguous along n; write lanes = m
func.func @columns(%a: memref<?x?xf32>, %b: memref<?x?xf32>, %c: memref<?x?xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<?x?xf32>, memref<?x?xf32>) outs(%c[n, m] : memref<?x?xf32>)
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 2x32, n_block = 64>
  return
}

// -----

// CHECK: lanes = n loads rhs along n, in which it is not contiguous: write pack = rhs, or pack = both
func.func @not_packed(%a: memref<?x?xf32>, %b: memref<?x?xf32>, %c: memref<?x?xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[n, k] : memref<?x?xf32>, memref<?x?xf32>) outs(%c[m, n] : memref<?x?xf32>)
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 2x32, n_block = 64>
  return
}

// -----

// CHECK: a product in cache blocks has its lanes along m or n, not k
func.func @sums_of_lanes(%a: memref<?x?xf32>, %b: memref<?x?xf32>, %c: memref<?x?xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[n, k] : memref<?x?xf32>, memref<?x?xf32>) outs(%c[m, n] : memref<?x?xf32>)
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 2x3, lanes = k, n_block = 64>
  return
}
