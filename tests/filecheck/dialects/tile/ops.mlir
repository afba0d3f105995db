// RUN: xdsl-opt %s | xdsl-opt | filecheck %s
// RUN: xdsl-opt %s --print-op-generic | xdsl-opt | filecheck %s
// RUN: xdsl-opt %s --print-op-generic | filecheck %s --check-prefix=GENERIC

// CHECK-LABEL: func.func @configure
// GENERIC: sym_name = "configure"
func.func @configure() {
  // CHECK: tile.configure [!tile.tile<16x16xf32>, !tile.tile<11x32xbf16>] {hint}
  // GENERIC: "tile.configure"() <{shapes = [!tile.tile<16x16xf32>, !tile.tile<11x32xbf16>]}> {hint} : () -> ()
  tile.configure [!tile.tile<16x16xf32>, !tile.tile<11x32xbf16>] {hint}
  // CHECK: tile.release {hint}
  tile.release {hint}
  // CHECK-NEXT: tile.release
  tile.release
  func.return
}

// A microkernel says how the registers are configured when it is called.
// CHECK-LABEL: func.func private @microkernel() attributes {tile.configuration = [!tile.tile<16x16xf32>]}
func.func private @microkernel() attributes {tile.configuration = [!tile.tile<16x16xf32>]} {
  func.return
}

// CHECK-LABEL: func.func @zero
// GENERIC: sym_name = "zero"
func.func @zero() {
  // CHECK: tile.zero into 3 : !tile.tile<16x16xi32>
  // GENERIC: "tile.zero"() <{register = 3 : i64}> : () -> !tile.tile<16x16xi32>
  %0 = tile.zero into 3 : !tile.tile<16x16xi32>
  // CHECK: tile.zero {hint} : !tile.tile<4x4xf32, scalable>
  // GENERIC: "tile.zero"() {hint} : () -> !tile.tile<4x4xf32, scalable>
  %1 = tile.zero {hint} : !tile.tile<4x4xf32, scalable>
  func.return
}

// CHECK-LABEL: func.func @load
// GENERIC: sym_name = "load"
func.func @load(%a: memref<64x256xbf16>, %b: memref<128x96x2xbf16>, %t: memref<?x?xi8, strided<[1, ?], offset: ?>>, %i: index, %k: index, %q: index) {
  // CHECK: tile.load %a[%i, %k] rows 0 into 4 : memref<64x256xbf16>, !tile.tile<16x32xbf16>
  // GENERIC: "tile.load"(%a, %i, %k) <{offsets = array<i64: 0, 0>, rows = 0 : i64, register = 4 : i64, operandSegmentSizes = array<i32: 0, 1, 2>}>
  %0 = tile.load %a[%i, %k] rows 0 into 4 : memref<64x256xbf16>, !tile.tile<16x32xbf16>
  // CHECK: tile.load %b[%q, %i + 16, %k] rows 0 {hint} : memref<128x96x2xbf16>, !tile.tile<16x32xbf16>
  %1 = tile.load %b[%q, %i + 16, %k] rows 0 {hint} : memref<128x96x2xbf16>, !tile.tile<16x32xbf16>
  // Rows may follow one another along any dimension other than the contiguous one.
  // CHECK: tile.load %t[%k, %i - 1] rows 1 into 5 : memref<?x?xi8, strided<[1, ?], offset: ?>>, !tile.tile<16x64xi8>
  %2 = tile.load %t[%k, %i - 1] rows 1 into 5 : memref<?x?xi8, strided<[1, ?], offset: ?>>, !tile.tile<16x64xi8>
  func.return
}

// CHECK-LABEL: func.func @store
// GENERIC: sym_name = "store"
func.func @store(%sum: !tile.tile<16x16xf32>, %c: memref<64x96xf32>, %i: index, %j: index) {
  // CHECK: tile.store %sum, %c[%i, %j + 16] rows 0 : memref<64x96xf32>, !tile.tile<16x16xf32>
  // GENERIC: "tile.store"(%sum, %c, %i, %j) <{offsets = array<i64: 0, 16>, rows = 0 : i64, operandSegmentSizes = array<i32: 1, 0, 1, 2>}>
  tile.store %sum, %c[%i, %j + 16] rows 0 : memref<64x96xf32>, !tile.tile<16x16xf32>
  // CHECK: tile.store %sum, %c[%i, %j] rows 0 {hint} : memref<64x96xf32>, !tile.tile<16x16xf32>
  tile.store %sum, %c[%i, %j] rows 0 {hint} : memref<64x96xf32>, !tile.tile<16x16xf32>
  func.return
}

// CHECK-LABEL: func.func @mma
// GENERIC: sym_name = "mma"
func.func @mma(%acc: !tile.tile<11x16xi32>, %a: !tile.tile<11x64xi8>, %b: !tile.tile<16x64xi8>) {
  // CHECK: tile.mma %acc, %a, %b using "tile.s8s8x16x16x64" : !tile.tile<11x16xi32>, !tile.tile<11x64xi8>, !tile.tile<16x64xi8>
  // GENERIC: "tile.mma"(%acc, %a, %b) <{instruction = "tile.s8s8x16x16x64"}>
  %0 = tile.mma %acc, %a, %b using "tile.s8s8x16x16x64" : !tile.tile<11x16xi32>, !tile.tile<11x64xi8>, !tile.tile<16x64xi8>
  // CHECK: tile.mma %0, %a, %b using "tile.u8s8x16x16x64" {hint} : !tile.tile<11x16xi32>
  %1 = tile.mma %0, %a, %b using "tile.u8s8x16x16x64" {hint} : !tile.tile<11x16xi32>, !tile.tile<11x64xi8>, !tile.tile<16x64xi8>
  func.return
}

// Of tiles as large as vectors are, a part may be read or written: columns of one row, or both.
// CHECK-LABEL: func.func @active
// GENERIC: sym_name = "active"
func.func @active(%sum: !tile.tile<4x4xf32, scalable>, %b: memref<?x?xf32>, %i: index, %m: index, %n: index) {
  // CHECK: tile.vscale {hint}
  %0 = tile.vscale {hint}
  // CHECK: tile.load %b[%i, %i] rows 0 active %n : memref<?x?xf32>, !tile.tile<1x4xf32, scalable>
  // GENERIC: "tile.load"(%n, %b, %i, %i) <{offsets = array<i64: 0, 0>, rows = 0 : i64, operandSegmentSizes = array<i32: 1, 1, 2>}>
  %1 = tile.load %b[%i, %i] rows 0 active %n : memref<?x?xf32>, !tile.tile<1x4xf32, scalable>
  // CHECK: tile.load %b[%i, %i] rows 0 active %m, %n into 2 : memref<?x?xf32>, !tile.tile<4x4xf32, scalable>
  %2 = tile.load %b[%i, %i] rows 0 active %m, %n into 2 : memref<?x?xf32>, !tile.tile<4x4xf32, scalable>
  // CHECK: tile.store %sum, %b[%i, %i + 1] rows 0 active %m, %n {hint} : memref<?x?xf32>, !tile.tile<4x4xf32, scalable>
  // GENERIC: "tile.store"(%sum, %m, %n, %b, %i, %i) <{offsets = array<i64: 0, 1>, rows = 0 : i64, operandSegmentSizes = array<i32: 1, 2, 1, 2>}> {hint}
  tile.store %sum, %b[%i, %i + 1] rows 0 active %m, %n {hint} : memref<?x?xf32>, !tile.tile<4x4xf32, scalable>
  func.return
}

// Of an outer product both factors are rows.
// CHECK-LABEL: func.func @outer
func.func @outer(%acc: !tile.tile<4x4xf32, scalable>, %a: !tile.tile<1x8xbf16, scalable>, %b: !tile.tile<1x8xbf16, scalable>) {
  // CHECK: tile.mma %acc, %a, %b using "outer.bf16" : !tile.tile<4x4xf32, scalable>, !tile.tile<1x8xbf16, scalable>, !tile.tile<1x8xbf16, scalable>
  %0 = tile.mma %acc, %a, %b using "outer.bf16" : !tile.tile<4x4xf32, scalable>, !tile.tile<1x8xbf16, scalable>, !tile.tile<1x8xbf16, scalable>
  func.return
}
