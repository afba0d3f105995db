// RUN: xdsl-opt %s --split-input-file --verify-diagnostics --parsing-diagnostics | filecheck %s

// CHECK: Operation does not verify: !tile.tile<1x4xf32, scalable> takes 1 active extents, or none
func.func @load_row(%a: memref<64x96xf32>, %i: index) {
  %0 = tile.load %a[%i, %i] rows 0 active %i, %i : memref<64x96xf32>, !tile.tile<1x4xf32, scalable>
  func.return
}

// -----

// CHECK: Operation does not verify: !tile.tile<4x4xf32, scalable> takes 2 active extents, or none
func.func @load_rows(%a: memref<64x96xf32>, %i: index) {
  %0 = tile.load %a[%i, %i] rows 0 active %i into 0 : memref<64x96xf32>, !tile.tile<4x4xf32, scalable>
  func.return
}

// -----

// CHECK: Operation does not verify: an outer product of !tile.tile<4x8xbf16, scalable> and !tile.tile<1x8xbf16, scalable> has not the shape of !tile.tile<4x4xf32, scalable>
func.func @mma_left(%acc: !tile.tile<4x4xf32, scalable>, %a: !tile.tile<4x8xbf16, scalable>, %b: !tile.tile<1x8xbf16, scalable>) {
  %0 = tile.mma %acc, %a, %b using "outer.bf16" : !tile.tile<4x4xf32, scalable>, !tile.tile<4x8xbf16, scalable>, !tile.tile<1x8xbf16, scalable>
  func.return
}

// -----

// CHECK: Operation does not verify: an outer product of !tile.tile<1x8xbf16, scalable> and !tile.tile<2x8xbf16, scalable> has not the shape of !tile.tile<4x4xf32, scalable>
func.func @mma_right(%acc: !tile.tile<4x4xf32, scalable>, %a: !tile.tile<1x8xbf16, scalable>, %b: !tile.tile<2x8xbf16, scalable>) {
  %0 = tile.mma %acc, %a, %b using "outer.bf16" : !tile.tile<4x4xf32, scalable>, !tile.tile<1x8xbf16, scalable>, !tile.tile<2x8xbf16, scalable>
  func.return
}
