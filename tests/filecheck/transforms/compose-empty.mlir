// RUN: xdsl-opt %s -p compose | filecheck %s

// A sum of nothing is zero, and must be written.
// CHECK-LABEL: func.func @no_reduction_from_zero
// CHECK-NOT:     nanokernel.step
// CHECK:         [[NOTHING:%[0-9]+]] = nanokernel.zero : !nanokernel.block<8x48xf32, lanes = n>
// CHECK-NEXT:    nanokernel.store [[NOTHING]], %c
// CHECK-NEXT:    return
func.func @no_reduction_from_zero(%a: memref<8x0xf32>, %b: memref<0x48xf32>, %c: memref<8x48xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x0xf32>, memref<0x48xf32>) outs(%c[m, n] : memref<8x48xf32>) from zero
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48>
  return
}

// CHECK-LABEL: func.func @no_reduction
// CHECK-NOT:     nanokernel.step
// CHECK:         return
func.func @no_reduction(%a: memref<8x0xf32>, %b: memref<0x48xf32>, %c: memref<8x48xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x0xf32>, memref<0x48xf32>) outs(%c[m, n] : memref<8x48xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48>
  return
}

// CHECK-LABEL: func.func @no_rows
// CHECK-NOT:     nanokernel
// CHECK:         return
func.func @no_rows(%a: memref<0x4xf32>, %b: memref<4x48xf32>, %c: memref<0x48xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<0x4xf32>, memref<4x48xf32>) outs(%c[m, n] : memref<0x48xf32>) from zero
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48>
  return
}

// CHECK-LABEL: func.func @no_columns
// CHECK-NOT:     nanokernel
// CHECK:         return
func.func @no_columns(%a: memref<8x4xf32>, %b: memref<4x0xf32>, %c: memref<8x0xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xf32>, memref<4x0xf32>) outs(%c[m, n] : memref<8x0xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48>
  return
}

// CHECK-LABEL: func.func @no_batch
// CHECK-NOT:     nanokernel
// CHECK:         return
func.func @no_batch(%a: memref<0x8x4xf32>, %b: memref<0x4x48xf32>, %c: memref<0x8x48xf32>) {
  nanokernel.gemm ins(%a[b, m, k], %b[b, k, n] : memref<0x8x4xf32>, memref<0x4x48xf32>) outs(%c[b, m, n] : memref<0x8x48xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48>
  return
}
