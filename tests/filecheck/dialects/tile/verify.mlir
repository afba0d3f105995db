// RUN: xdsl-opt %s --split-input-file --verify-diagnostics --parsing-diagnostics | filecheck %s

// CHECK: verify.mlir:{{[0-9]+}}:29
// CHECK: a tile has two dimensions, as in 16x32xbf16
"test.op"() {a = !tile.tile<16xbf16>} : () -> ()

// -----

// CHECK: a tile has rows and columns, got 0x32
"test.op"() {a = !tile.tile<0x32xbf16>} : () -> ()

// -----

// CHECK: a tile has rows and columns, got -
"test.op"() {a = !tile.tile<?x32xbf16>} : () -> ()

// -----

// CHECK: a tile holds floats or integers, not index
"test.op"() {a = !tile.tile<16x32xindex>} : () -> ()

// -----

// CHECK: Expected 'scalable'
"test.op"() {a = !tile.tile<16x32xbf16, large>} : () -> ()

// -----

// CHECK: Operation does not verify: a configuration lists the shape of each register in use
func.func @configure_nothing() {
  tile.configure []
  func.return
}

// -----

// CHECK: a configuration lists tile types
func.func @configure_vectors() {
  tile.configure [vector<16xf32>]
  func.return
}

// -----

// CHECK: Operation does not verify: there is no register -1
func.func @zero_register() {
  %0 = tile.zero into -1 : !tile.tile<16x16xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: there is no register -2
func.func @load_register(%a: memref<64x256xbf16>, %i: index) {
  %0 = tile.load %a[%i, %i] rows 0 into -2 : memref<64x256xbf16>, !tile.tile<16x32xbf16>
  func.return
}

// -----

// CHECK: Operation does not verify: expected 2 indices for memref<64x256xbf16>, got 1
func.func @load_indices(%a: memref<64x256xbf16>, %i: index) {
  %0 = tile.load %a[%i] rows 0 : memref<64x256xbf16>, !tile.tile<16x32xbf16>
  func.return
}

// -----

// CHECK: Operation does not verify: memref<64x256xbf16> has no dimension 2 for rows to lie along
func.func @load_rows(%a: memref<64x256xbf16>, %i: index) {
  %0 = tile.load %a[%i, %i] rows 2 : memref<64x256xbf16>, !tile.tile<16x32xbf16>
  func.return
}

// -----

// CHECK: Operation does not verify: memref<64x256xf16> does not hold the elements of !tile.tile<16x32xbf16>
func.func @load_element(%a: memref<64x256xf16>, %i: index) {
  %0 = tile.load %a[%i, %i] rows 0 : memref<64x256xf16>, !tile.tile<16x32xbf16>
  func.return
}

// -----

// CHECK: Operation does not verify: a row's elements lie side by side, but no dimension of memref<64x256xbf16> other than 1 has stride 1
func.func @load_along_the_contiguous_dimension(%a: memref<64x256xbf16>, %i: index) {
  %0 = tile.load %a[%i, %i] rows 1 : memref<64x256xbf16>, !tile.tile<16x32xbf16>
  func.return
}

// -----

// CHECK: Operation does not verify: a row's elements lie side by side
func.func @store_apart(%t: !tile.tile<16x16xf32>, %c: memref<64x96xf32, strided<[192, 2]>>, %i: index) {
  tile.store %t, %c[%i, %i] rows 0 : memref<64x96xf32, strided<[192, 2]>>, !tile.tile<16x16xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: memref<64x96xi32> does not hold the elements of !tile.tile<16x16xf32>
func.func @store_element(%t: !tile.tile<16x16xf32>, %c: memref<64x96xi32>, %i: index) {
  tile.store %t, %c[%i, %i] rows 0 : memref<64x96xi32>, !tile.tile<16x16xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: !tile.tile<16x32xbf16> takes 0 active extents, or none
func.func @load_active(%a: memref<64x256xbf16>, %i: index) {
  %0 = tile.load %a[%i, %i] rows 0 active %i, %i : memref<64x256xbf16>, !tile.tile<16x32xbf16>
  func.return
}

// -----

// CHECK: Operation does not verify: !tile.tile<4x4xf32, scalable> takes 2 active extents, or none
func.func @store_active(%t: !tile.tile<4x4xf32, scalable>, %c: memref<64x96xf32>, %i: index) {
  tile.store %t, %c[%i, %i] rows 0 active %i : memref<64x96xf32>, !tile.tile<4x4xf32, scalable>
  func.return
}

// -----

// CHECK: Operation does not verify: !tile.tile<11x32xbf16> and !tile.tile<16x32xbf16> have not the product !tile.tile<16x16xf32>
func.func @mma_rows(%acc: !tile.tile<16x16xf32>, %a: !tile.tile<11x32xbf16>, %b: !tile.tile<16x32xbf16>) {
  %0 = tile.mma %acc, %a, %b using "tile.bf16x16x16x32" : !tile.tile<16x16xf32>, !tile.tile<11x32xbf16>, !tile.tile<16x32xbf16>
  func.return
}

// -----

// CHECK: Operation does not verify: !tile.tile<16x32xbf16> and !tile.tile<8x32xbf16> have not the product !tile.tile<16x16xf32>
func.func @mma_reduction(%acc: !tile.tile<16x16xf32>, %a: !tile.tile<16x32xbf16>, %b: !tile.tile<8x32xbf16>) {
  %0 = tile.mma %acc, %a, %b using "tile.bf16x16x16x32" : !tile.tile<16x16xf32>, !tile.tile<16x32xbf16>, !tile.tile<8x32xbf16>
  func.return
}

// -----

// CHECK: Operation does not verify: a row of !tile.tile<16x24xbf16> holds a group for each column of !tile.tile<16x16xf32>
func.func @mma_groups(%acc: !tile.tile<16x16xf32>, %a: !tile.tile<16x32xbf16>, %b: !tile.tile<16x24xbf16>) {
  %0 = tile.mma %acc, %a, %b using "tile.bf16x16x16x32" : !tile.tile<16x16xf32>, !tile.tile<16x32xbf16>, !tile.tile<16x24xbf16>
  func.return
}

// -----

// CHECK: Operation does not verify: the result is what the accumulator is, !tile.tile<16x16xf32>
func.func @mma_result(%acc: !tile.tile<16x16xf32>, %a: !tile.tile<16x32xbf16>, %b: !tile.tile<16x32xbf16>) {
  %0 = "tile.mma"(%acc, %a, %b) <{instruction = "tile.bf16x16x16x32"}> : (!tile.tile<16x16xf32>, !tile.tile<16x32xbf16>, !tile.tile<16x32xbf16>) -> !tile.tile<8x16xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: all three tiles are scalable, or none is
func.func @mma_mixed(%acc: !tile.tile<4x4xf32, scalable>, %a: !tile.tile<4x8xbf16>, %b: !tile.tile<4x8xbf16>) {
  %0 = tile.mma %acc, %a, %b using "outer.bf16" : !tile.tile<4x4xf32, scalable>, !tile.tile<4x8xbf16>, !tile.tile<4x8xbf16>
  func.return
}

// -----

// CHECK: Operation does not verify: an outer product of !tile.tile<1x4xbf16, scalable> and !tile.tile<1x8xbf16, scalable> has not the shape of !tile.tile<4x4xf32, scalable>
func.func @mma_outer(%acc: !tile.tile<4x4xf32, scalable>, %a: !tile.tile<1x4xbf16, scalable>, %b: !tile.tile<1x8xbf16, scalable>) {
  %0 = tile.mma %acc, %a, %b using "outer.bf16" : !tile.tile<4x4xf32, scalable>, !tile.tile<1x4xbf16, scalable>, !tile.tile<1x8xbf16, scalable>
  func.return
}
