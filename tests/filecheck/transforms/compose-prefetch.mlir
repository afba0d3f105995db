// RUN: xdsl-opt %s -p compose | filecheck %s

// A factor that is streamed past L1 is asked for ahead of its use, some steps of the reduction.
// CHECK-LABEL: func.func @streamed
// CHECK: nanokernel.step {{.*}} prefetch rhs [5, 0] :
func.func @streamed(%a: memref<64x128xf32>, %b: memref<128x96xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x128xf32>, memref<128x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 4, resident = lhs, prefetch = 5>
  return
}

// CHECK-LABEL: func.func @never
// CHECK-NOT: prefetch
// CHECK: return
func.func @never(%a: memref<64x128xf32>, %b: memref<128x96xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x128xf32>, memref<128x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 4, resident = lhs>
  return
}

// What stays in L1 needs no asking.
// CHECK-LABEL: func.func @small
// CHECK-NOT: prefetch
// CHECK: return
func.func @small(%a: memref<16x16xf32>, %b: memref<16x48xf32>, %c: memref<16x48xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<16x16xf32>, memref<16x48xf32>) outs(%c[m, n] : memref<16x48xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 4, prefetch = 5>
  return
}

// With reductions around the inner one, the broadcast factor's rows are asked for at the same place
// of the next reduction.

// CHECK-LABEL: func.func @batch_reduce
// CHECK: nanokernel.step
// CHECK-SAME: prefetch lhs [1, 0, 0] rhs [0, 4, 0]
func.func @batch_reduce(%a: memref<16x64x64xf32>, %b: memref<16x64x64xf32>, %c: memref<64x64xf32>) {
  nanokernel.gemm ins(%a[k0, m, k1], %b[k0, k1, n] : memref<16x64x64xf32>, memref<16x64x64xf32>)
      outs(%c[m, n] : memref<64x64xf32>)
      plan #nanokernel.plan<target = "skylake-avx512", instruction = "fma.f32x16", block = 6x64, k_unroll = 8, prefetch = 4>
  func.return
}

// Where few rows at a time are streamed, what follows in each is asked for: 2 KiB on, whole blocks.

// CHECK-LABEL: func.func @few_rows
// CHECK: nanokernel.step
// CHECK-SAME: depth 8 using "fma.f32x16" prefetch rhs [0, 560]
func.func @few_rows(%a: memref<4x64xf32>, %b: memref<64x4096xf32>, %c: memref<4x4096xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<4x64xf32>, memref<64x4096xf32>) outs(%c[m, n] : memref<4x4096xf32>)
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 4x80, k_unroll = 8, k_block = 8, resident = lhs, ahead = rhs>
  return
}

// With lanes along k, the rows or columns of the next block are asked for; nothing else is.

// CHECK-LABEL: func.func @lanes_along_k
// CHECK: nanokernel.step
// CHECK-SAME: using "fma.f32x16" prefetch rhs [8, 0] :
// CHECK-LABEL: func.func @lanes_along_k_unasked
// CHECK-NOT: prefetch lhs
// CHECK-NOT: prefetch rhs
func.func @lanes_along_k(%a: memref<1x512xf32>, %b: memref<64x512xf32>, %c: memref<1x64xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[n, k] : memref<1x512xf32>, memref<64x512xf32>) outs(%c[m, n] : memref<1x64xf32>)
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 1x8, lanes = k, k_unroll = 4, resident = lhs, ahead = rhs>
  return
}
func.func @lanes_along_k_unasked(%a: memref<1x512xf32>, %b: memref<64x512xf32>, %c: memref<1x64xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[n, k] : memref<1x512xf32>, memref<64x512xf32>) outs(%c[m, n] : memref<1x64xf32>)
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 1x8, lanes = k, k_unroll = 4, resident = lhs, prefetch = 6>
  return
}
