// RUN: xdsl-opt %s | xdsl-opt | filecheck %s
// RUN: xdsl-opt %s --print-op-generic | xdsl-opt | filecheck %s
// RUN: xdsl-opt %s --print-op-generic | filecheck %s --check-prefix=GENERIC

// CHECK-LABEL: func.func @load
// GENERIC: sym_name = "load"
func.func @load(%b: memref<256x96xf32>, %k: index, %j: index, %tail: index) {
  // CHECK: nkvector.load %b[%k, %j] : memref<256x96xf32>, vector<16xf32>
  // GENERIC: "nkvector.load"(%b, %k, %j) <{offsets = array<i64: 0, 0>, operandSegmentSizes = array<i32: 0, 1, 2>}>
  %b0 = nkvector.load %b[%k, %j] : memref<256x96xf32>, vector<16xf32>
  // CHECK: nkvector.load %b[%k - 1, %j + 16], %tail : memref<256x96xf32>, vector<16xf32>
  // GENERIC: "nkvector.load"(%tail, %b, %k, %j) <{offsets = array<i64: -1, 16>, operandSegmentSizes = array<i32: 1, 1, 2>}>
  %b1 = nkvector.load %b[%k - 1, %j + 16], %tail : memref<256x96xf32>, vector<16xf32>
  // CHECK: nkvector.load %b[%k, %j] {hint} : memref<256x96xf32>, vector<16xf32>
  %b2 = nkvector.load %b[%k, %j + 0] {hint} : memref<256x96xf32>, vector<16xf32>
  func.return
}

// The lanes may lie along any dimension of stride 1.
// CHECK-LABEL: func.func @load_strided
func.func @load_strided(%a: memref<?x?xf64, strided<[1, ?], offset: ?>>, %i: index) {
  // CHECK: nkvector.load %a[%i + 8, %i] : memref<?x?xf64, strided<[1, ?], offset: ?>>, vector<8xf64>
  %v = nkvector.load %a[%i + 8, %i] : memref<?x?xf64, strided<[1, ?], offset: ?>>, vector<8xf64>
  func.return
}

// CHECK-LABEL: func.func @broadcast_load
// GENERIC: sym_name = "broadcast_load"
func.func @broadcast_load(%a: memref<64x256xf32>, %s: memref<f32>, %i: index, %k: index) {
  // CHECK: nkvector.broadcast_load %a[%i + 1, %k] : memref<64x256xf32>, vector<16xf32>
  // GENERIC: "nkvector.broadcast_load"(%a, %i, %k) <{offsets = array<i64: 1, 0>, operandSegmentSizes = array<i32: 0, 1, 2>}>
  %a0 = nkvector.broadcast_load %a[%i + 1, %k] : memref<64x256xf32>, vector<16xf32>
  // CHECK: nkvector.broadcast_load %a[%i, %k] using "vpbroadcastd" : memref<64x256xf32>, vector<16xf32>
  // GENERIC: instruction = "vpbroadcastd"
  %a1 = nkvector.broadcast_load %a[%i, %k] using "vpbroadcastd" : memref<64x256xf32>, vector<16xf32>
  // CHECK: nkvector.broadcast_load %s[] : memref<f32>, vector<16xf32>
  %s0 = nkvector.broadcast_load %s[] : memref<f32>, vector<16xf32>
  func.return
}

// CHECK-LABEL: func.func @store
// GENERIC: sym_name = "store"
func.func @store(%v: vector<16xf32>, %c: memref<64x96xf32>, %i: index, %j: index, %tail: index) {
  // CHECK: nkvector.store %v, %c[%i, %j] : memref<64x96xf32>, vector<16xf32>
  // GENERIC: "nkvector.store"(%v, %c, %i, %j) <{offsets = array<i64: 0, 0>, operandSegmentSizes = array<i32: 1, 0, 1, 2>}>
  nkvector.store %v, %c[%i, %j] : memref<64x96xf32>, vector<16xf32>
  // CHECK: nkvector.store %v, %c[%i, %j + 16], %tail {hint} : memref<64x96xf32>, vector<16xf32>
  // GENERIC: "nkvector.store"(%v, %tail, %c, %i, %j) <{offsets = array<i64: 0, 16>, operandSegmentSizes = array<i32: 1, 1, 1, 2>}>
  nkvector.store %v, %c[%i, %j + 16], %tail {hint} : memref<64x96xf32>, vector<16xf32>
  func.return
}

// CHECK-LABEL: func.func @prefetch
func.func @prefetch(%b: memref<256x96xf32>, %k: index, %j: index) {
  // CHECK: nkvector.prefetch %b[%k + 4, %j] : memref<256x96xf32>
  nkvector.prefetch %b[%k + 4, %j] : memref<256x96xf32>
  // CHECK: nkvector.prefetch %b[%k, %j + 48] into L2 {hint} : memref<256x96xf32>
  // GENERIC: "nkvector.prefetch"(%b, %k, %j) <{offsets = array<i64: 0, 48>, into_l2}> {hint}
  nkvector.prefetch %b[%k, %j + 48] into L2 {hint} : memref<256x96xf32>
  func.return
}

// CHECK-LABEL: func.func @fma
func.func @fma(%a: vector<16xf32>, %b: vector<16xf32>, %p: vector<16xf32>, %h: vector<32xbf16>) {
  // CHECK: nkvector.fma %a, %b, %p : vector<16xf32>
  %r = nkvector.fma %a, %b, %p : vector<16xf32>
  // CHECK: nkvector.fma %h, %h, %h {hint} : vector<32xbf16>
  %s = nkvector.fma %h, %h, %h {hint} : vector<32xbf16>
  func.return
}

// CHECK-LABEL: func.func @shuffle
// GENERIC: sym_name = "shuffle"
func.func @shuffle(%x: vector<4xf32>, %y: vector<4xf32>) {
  // CHECK: nkvector.shuffle %x, %y [0, 4, 1, 5] : vector<4xf32>
  // GENERIC: "nkvector.shuffle"(%x, %y) <{mask = array<i64: 0, 4, 1, 5>}> : (vector<4xf32>, vector<4xf32>) -> vector<4xf32>
  %low = nkvector.shuffle %x, %y [0, 4, 1, 5] : vector<4xf32>
  // The mask gives the result's size.
  // CHECK: nkvector.shuffle %x, %y [3, 7] : vector<4xf32>
  // GENERIC: "nkvector.shuffle"(%x, %y) <{mask = array<i64: 3, 7>}> : (vector<4xf32>, vector<4xf32>) -> vector<2xf32>
  %last = nkvector.shuffle %x, %y [3, 7] : vector<4xf32>
  func.return
}
