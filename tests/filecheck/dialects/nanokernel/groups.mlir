// RUN: xdsl-opt %s | xdsl-opt | filecheck %s
// RUN: xdsl-opt %s --print-op-generic | xdsl-opt | filecheck %s

// Factors in groups of k, integers without a sign, and what makes up for flipped signs.

// CHECK-LABEL: func.func @gemm
func.func @gemm(%a: memref<64x255xbf16>, %b: memref<128x96x2xbf16>, %c: memref<64x96xbf16>, %x: memref<64x255xi8>, %y: memref<255x96xi8>, %z: memref<64x96xi32>) {
  // CHECK: nanokernel.gemm ins(%a[m, k], %b[k floordiv 2, n, k mod 2] : memref<64x255xbf16>, memref<128x96x2xbf16>) outs(%c[m, n] : memref<64x96xbf16>)
  nanokernel.gemm ins(%a[m, k], %b[k floordiv 2, n, k mod 2] : memref<64x255xbf16>, memref<128x96x2xbf16>) outs(%c[m, n] : memref<64x96xbf16>)
  // CHECK: nanokernel.gemm ins(%x[m, k], %y[k, n] : memref<64x255xi8>, memref<255x96xi8>) unsigned lhs outs(%z[m, n] : memref<64x96xi32>) from zero
  nanokernel.gemm ins(%x[m, k], %y[k, n] : memref<64x255xi8>, memref<255x96xi8>) unsigned lhs outs(%z[m, n] : memref<64x96xi32>) from zero
  func.return
}

// CHECK-LABEL: func.func @microkernel
func.func @microkernel(%x: memref<8x?xi8>, %y: memref<?x16x4xi8>, %z: memref<8x16xi32>, %sums: memref<16xi32>) {
  // CHECK: outs(%z[m, n] : memref<8x16xi32>) from zero start(%sums[n] : memref<16xi32>) plan #nanokernel.plan<
  nanokernel.gemm ins(%x[m, k], %y[k floordiv 4, n, k mod 4] : memref<8x?xi8>, memref<?x16x4xi8>) outs(%z[m, n] : memref<8x16xi32>) from zero start(%sums[n] : memref<16xi32>) plan #nanokernel.plan<target = "znver4", instruction = "dot.s8s8x16", block = 8x16, edges = masked>
  func.return
}

// Sums that were computed before, with the panels of a factor.
// CHECK-LABEL: func.func @given
func.func @given(%x: memref<8x13xi8>, %y: memref<3x4x16x4xi8>, %z: memref<8x48xi32>, %sums: memref<3x16xi32>, %first: i1) {
  // CHECK: outs(%z[m, 16 * n0 + n1] : memref<8x48xi32>) start(%sums[n0, n1] : memref<3x16xi32>) epilogue {
  nanokernel.gemm ins(%x[m, k], %y[n0, k floordiv 4, n1, k mod 4] : memref<8x13xi8>, memref<3x4x16x4xi8>) outs(%z[m, 16 * n0 + n1] : memref<8x48xi32>) start(%sums[n0, n1] : memref<3x16xi32>) epilogue {
  ^bb0(%sum: i32):
    nanokernel.yield %sum : i32
  }
  // CHECK: outs(%z[m, 16 * n0 + n1] : memref<8x48xi32>) from zero if %first start(%sums[n0, n1] : memref<3x16xi32>) if %first
  nanokernel.gemm ins(%x[m, k], %y[n0, k floordiv 4, n1, k mod 4] : memref<8x13xi8>, memref<3x4x16x4xi8>) outs(%z[m, 16 * n0 + n1] : memref<8x48xi32>) from zero if %first start(%sums[n0, n1] : memref<3x16xi32>) if %first
  func.return
}

// CHECK-LABEL: func.func @step
func.func @step(%acc: !nanokernel.block<8x48xf32, lanes = n>, %a: memref<64x256xbf16>, %b: memref<128x96x2xbf16>, %i: index) {
  // CHECK: nanokernel.step %acc, %a[m: %i, k: %i], %b[k: %i, n: %i, g: %i] depth 8 using "dot.bf16x16" flip lhs : memref<64x256xbf16>, memref<128x96x2xbf16>, !nanokernel.block<8x48xf32, lanes = n>
  %0 = nanokernel.step %acc, %a[m: %i, k: %i], %b[k: %i, n: %i, g: %i] depth 8 using "dot.bf16x16" flip lhs : memref<64x256xbf16>, memref<128x96x2xbf16>, !nanokernel.block<8x48xf32, lanes = n>
  // CHECK: nanokernel.step %acc, %a[m: %i, k: %i], %b[k: %i, n: %i, g: %i] depth 2 existing %i using "dot.bf16x16" : memref<64x256xbf16>, memref<128x96x2xbf16>, !nanokernel.block<8x48xf32, lanes = n>
  %1 = nanokernel.step %acc, %a[m: %i, k: %i], %b[k: %i, n: %i, g: %i] depth 2 existing %i using "dot.bf16x16" : memref<64x256xbf16>, memref<128x96x2xbf16>, !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// CHECK-LABEL: func.func @panel
func.func @panel(%b: memref<255x96xi8>, %panel: memref<64x48x4xi8>, %sums: memref<48xi32>, %i: index) {
  // CHECK: nanokernel.pack %b[k: %i, n: %i] extents 255 x 40 into %panel : memref<255x96xi8>, memref<64x48x4xi8>
  nanokernel.pack %b[k: %i, n: %i] extents 255 x 40 into %panel : memref<255x96xi8>, memref<64x48x4xi8>
  // CHECK: nanokernel.sum %panel times -128 into %sums : memref<64x48x4xi8>, memref<48xi32>
  nanokernel.sum %panel times -128 into %sums : memref<64x48x4xi8>, memref<48xi32>
  // CHECK: nanokernel.sum %panel unsigned times 128 into %sums : memref<64x48x4xi8>, memref<48xi32>
  nanokernel.sum %panel unsigned times 128 into %sums : memref<64x48x4xi8>, memref<48xi32>
  %part = memref.subview %panel[0, 0, 0] [64, %i, 4] [1, 1, 1] : memref<64x48x4xi8> to memref<64x?x4xi8, strided<[192, 4, 1]>>
  // CHECK: nanokernel.sum %part times -128 into %sums accumulate : memref<64x?x4xi8, strided<[192, 4, 1]>>, memref<48xi32>
  nanokernel.sum %part times -128 into %sums accumulate : memref<64x?x4xi8, strided<[192, 4, 1]>>, memref<48xi32>
  func.return
}

// CHECK-LABEL: func.func @store
func.func @store(%done: !nanokernel.block<8x48xf32, lanes = n>, %c: memref<64x96xbf16>, %bias: memref<96xf32>, %i: index) {
  // CHECK:      nanokernel.store %done, %c[m: %i, n: %i] accumulate epilogue(%bias[n: %i] : memref<96xf32>) {
  // CHECK-NEXT: ^bb0(%sum: f32, %b: f32):
  // CHECK:        nanokernel.yield %r : bf16
  // CHECK-NEXT: } : memref<64x96xbf16>, !nanokernel.block<8x48xf32, lanes = n>
  nanokernel.store %done, %c[m: %i, n: %i] accumulate epilogue(%bias[n: %i] : memref<96xf32>) {
  ^bb0(%sum: f32, %b: f32):
    %y = arith.addf %sum, %b : f32
    %r = arith.truncf %y : f32 to bf16
    nanokernel.yield %r : bf16
  } : memref<64x96xbf16>, !nanokernel.block<8x48xf32, lanes = n>
  func.return
}
