// RUN: xdsl-opt %s -p block --split-input-file --verify-diagnostics | filecheck %s

// CHECK: block 48x48 needs 13 tiles, mr·nr + min(mr, nr) + 1, but sapphirerapids has 8
func.func @too_many(%a: memref<96x64xbf16>, %b: memref<64x96xbf16>, %c: memref<96x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<96x64xbf16>, memref<64x96xbf16>) outs(%c[m, n] : memref<96x96xf32>)
    plan #nanokernel.plan<target = "sapphirerapids", instruction = "tile.bf16x16x16x32", block = 48x48, pack = rhs, resident = rhs>
  return
}

// -----

// CHECK: block 32x40 with lanes = n is no grid of tiles: tile.bf16x16x16x32 has 16 lanes, along m or n, and tiles of one height of at most 16
func.func @no_grid(%a: memref<96x64xbf16>, %b: memref<64x96xbf16>, %c: memref<96x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<96x64xbf16>, memref<64x96xbf16>) outs(%c[m, n] : memref<96x96xf32>)
    plan #nanokernel.plan<target = "sapphirerapids", instruction = "tile.bf16x16x16x32", block = 32x40, pack = rhs, resident = rhs>
  return
}

// -----

// CHECK: k_block is no multiple of the 32 steps of tile.bf16x16x16x32
func.func @k_block(%a: memref<96x128xbf16>, %b: memref<128x96xbf16>, %c: memref<96x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<96x128xbf16>, memref<128x96xbf16>) outs(%c[m, n] : memref<96x96xf32>)
    plan #nanokernel.plan<target = "sapphirerapids", instruction = "tile.bf16x16x16x32", block = 32x32, pack = rhs, resident = rhs, k_block = 48>
  return
}

// -----

// CHECK: rhs does not lie as tiles do, or ends within one: write pack = rhs, or pack = both
func.func @not_packed(%a: memref<96x128xbf16>, %b: memref<128x96xbf16>, %c: memref<96x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<96x128xbf16>, memref<128x96xbf16>) outs(%c[m, n] : memref<96x96xf32>)
    plan #nanokernel.plan<target = "sapphirerapids", instruction = "tile.bf16x16x16x32", block = 32x32>
  return
}

// -----

// CHECK: only a factor that lies in rows along the lanes, whose reduction ends with whole tiles, is packed ahead
func.func @ahead_of_columns(%a: memref<64x64xi8, strided<[1, 64]>>, %b: memref<64x16xi8, strided<[1, 64]>>, %c: memref<64x16xi32, strided<[1, 64]>>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x64xi8, strided<[1, 64]>>, memref<64x16xi8, strided<[1, 64]>>) outs(%c[m, n] : memref<64x16xi32, strided<[1, 64]>>) from zero
    plan #nanokernel.plan<target = "sapphirerapids", instruction = "tile.s8s8x16x16x64", block = 32x16, lanes = m, pack = lhs, resident = lhs, ahead = lhs>
  return
}
