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

// -----

// CHECK: what sums of i8 products start with is of their type, i32, not f32
func.func @start_of_floats(%x: memref<8x16xi8>, %y: memref<4x16x4xi8>, %z: memref<8x16xi32>, %sums: memref<16xf32>) {
  nanokernel.gemm ins(%x[m, k], %y[k floordiv 4, n, k mod 4] : memref<8x16xi8>, memref<4x16x4xi8>) outs(%z[m, n] : memref<8x16xi32>) start(%sums[n] : memref<16xf32>)
  return
}

// -----

// CHECK: what sums start with is indexed by all iterators of kind m, or n, each alone
func.func @start_of_both(%x: memref<8x16xi8>, %y: memref<4x16x4xi8>, %z: memref<8x16xi32>, %sums: memref<8x16xi32>) {
  nanokernel.gemm ins(%x[m, k], %y[k floordiv 4, n, k mod 4] : memref<8x16xi8>, memref<4x16x4xi8>) outs(%z[m, n] : memref<8x16xi32>) start(%sums[m, n] : memref<8x16xi32>)
  return
}

// -----

// CHECK: what is added up is a K×W×G memref of i8, not memref<64x48xi8>
func.func @sum_of_rows(%b: memref<64x48xi8>, %sums: memref<48xi32>) {
  nanokernel.sum %b times -128 into %sums : memref<64x48xi8>, memref<48xi32>
  return
}

// -----

// CHECK: groups must lie one behind the other in memref<64x48x4xi8, strided<[4, 256, 1]>>
func.func @sum_of_columns(%b: memref<64x48x4xi8, strided<[4, 256, 1]>>, %sums: memref<48xi32>) {
  nanokernel.sum %b times -128 into %sums : memref<64x48x4xi8, strided<[4, 256, 1]>>, memref<48xi32>
  return
}

// -----

// CHECK: memref<32xi32> can't hold the sums of memref<64x48x4xi8>
func.func @sum_of_more(%b: memref<64x48x4xi8>, %sums: memref<32xi32>) {
  nanokernel.sum %b times -128 into %sums : memref<64x48x4xi8>, memref<32xi32>
  return
}
