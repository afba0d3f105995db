// RUN: xdsl-opt %s -p 'plan{target=znver5 block=8x48 k-unroll=8}' | filecheck %s

// What somebody wrote is obeyed, whatever the model and the options say.
// CHECK-LABEL: func.func @obeyed
// CHECK: plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 5x16, lanes = n, edges = even, k_unroll = 3, k_block = 100, resident = lhs, prefetch = 7, pack = none>
func.func @obeyed(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 5x16, k_unroll = 3, k_block = 100, resident = lhs, prefetch = 7>
  return
}

// A narrower instruction of the same target is a choice like any other.
// CHECK-LABEL: func.func @narrow
// CHECK: instruction = "fma.f32x8", block = 6x8
func.func @narrow(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x8", block = 6x8>
  return
}
