// RUN: xdsl-opt %s --split-input-file --verify-diagnostics --parsing-diagnostics | filecheck %s

// CHECK: 255 steps of k are 128 groups of 2, not 127
func.func @too_few(%a: memref<64x255xbf16>, %b: memref<127x96x2xbf16>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k floordiv 2, n, k mod 2] : memref<64x255xbf16>, memref<127x96x2xbf16>) outs(%c[m, n] : memref<64x96xf32>)
  return
}

// -----

// CHECK: groups need two indices, k floordiv and k mod the same number
func.func @other_size(%a: memref<64x256xbf16>, %b: memref<128x96x4xbf16>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k floordiv 2, n, k mod 4] : memref<64x256xbf16>, memref<128x96x4xbf16>) outs(%c[m, n] : memref<64x96xf32>)
  return
}

// -----

// CHECK: only the k of a factor can be cut into groups
func.func @of_rows(%a: memref<32x256x2xbf16>, %b: memref<256x96xbf16>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m floordiv 2, k, m mod 2], %b[k, n] : memref<32x256x2xbf16>, memref<256x96xbf16>) outs(%c[m, n] : memref<64x96xf32>)
  return
}

// -----

// CHECK: lhs can't be unsigned: it holds bf16
func.func @no_sign(%a: memref<64x256xbf16>, %b: memref<256x96xbf16>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xbf16>, memref<256x96xbf16>) unsigned lhs outs(%c[m, n] : memref<64x96xf32>)
  return
}

// -----

// CHECK: the epilogue takes a sum of f32, not bf16
func.func @narrow_sum(%a: memref<64x256xbf16>, %b: memref<256x96xbf16>, %c: memref<64x96xbf16>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xbf16>, memref<256x96xbf16>) outs(%c[m, n] : memref<64x96xbf16>) epilogue {
  ^bb0(%sum: bf16):
    nanokernel.yield %sum : bf16
  }
  return
}

// -----

// CHECK: active counts the elements of a group
func.func @no_group(%a: memref<64x256xf32>, %i: index) {
  %0 = nkvector.broadcast_load %a[%i, %i], %i : memref<64x256xf32>, vector<16xf32>
  return
}
