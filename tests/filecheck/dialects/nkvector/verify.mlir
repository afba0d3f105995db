// RUN: xdsl-opt %s --split-input-file --verify-diagnostics --parsing-diagnostics | filecheck %s

// CHECK: Operation does not verify: expected 2 indices for memref<4x16xf32>, got 1
func.func @load_indices(%a: memref<4x16xf32>, %i: index) {
  %v = nkvector.load %a[%i] : memref<4x16xf32>, vector<8xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: expected 2 offsets, got 1
func.func @load_offsets(%a: memref<4x16xf32>, %i: index) {
  %v = "nkvector.load"(%a, %i, %i) <{offsets = array<i64: 0>, operandSegmentSizes = array<i32: 0, 1, 2>}> : (memref<4x16xf32>, index, index) -> vector<8xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: memref<4x16xf32> does not hold the elements of vector<8xf64>
func.func @load_element(%a: memref<4x16xf32>, %i: index) {
  %v = nkvector.load %a[%i, %i] : memref<4x16xf32>, vector<8xf64>
  func.return
}

// -----

// CHECK: Operation does not verify: expected one register, a vector of rank 1 with a fixed number of lanes, got vector<2x8xf32>
func.func @load_rank(%a: memref<4x16xf32>, %i: index) {
  %v = nkvector.load %a[%i, %i] : memref<4x16xf32>, vector<2x8xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: expected one register, a vector of rank 1 with a fixed number of lanes, got vector<[4]xf32>
func.func @load_scalable(%a: memref<4x16xf32>, %i: index) {
  %v = nkvector.load %a[%i, %i] : memref<4x16xf32>, vector<[4]xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: a register holds consecutive elements, but no dimension of memref<4x16xf32, strided<[32, 2]>> has stride 1
func.func @load_stride(%a: memref<4x16xf32, strided<[32, 2]>>, %i: index) {
  %v = nkvector.load %a[%i, %i] : memref<4x16xf32, strided<[32, 2]>>, vector<8xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: a register holds consecutive elements, but no dimension of memref<4x?xf32, affine_map<(d0, d1) -> ((d1 floordiv 2), d0)>> has stride 1
func.func @store_layout(%v: vector<8xf32>, %a: memref<4x?xf32, affine_map<(d0, d1) -> (d1 floordiv 2, d0)>>, %i: index) {
  nkvector.store %v, %a[%i, %i] : memref<4x?xf32, affine_map<(d0, d1) -> (d1 floordiv 2, d0)>>, vector<8xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: memref<4x16xf32> does not hold the elements of vector<8xi32>
func.func @broadcast_element(%a: memref<4x16xf32>, %i: index) {
  %v = nkvector.broadcast_load %a[%i, %i] : memref<4x16xf32>, vector<8xi32>
  func.return
}

// -----

// CHECK: Operation does not verify: an instruction loads whole groups, not some elements of them
func.func @broadcast_instruction(%a: memref<4x16xbf16>, %i: index) {
  %v = "nkvector.broadcast_load"(%i, %a, %i, %i) <{group = 2 : i64, instruction = "vpbroadcastd", offsets = array<i64: 0, 0>, operandSegmentSizes = array<i32: 1, 1, 2>}> : (index, memref<4x16xbf16>, index, index) -> vector<16xbf16>
  func.return
}

// -----

// CHECK: Operation does not verify: memref<4x16xf32> does not hold the elements of vector<8xf16>
func.func @store_element(%v: vector<8xf16>, %a: memref<4x16xf32>, %i: index) {
  nkvector.store %v, %a[%i, %i] : memref<4x16xf32>, vector<8xf16>
  func.return
}

// -----

// CHECK: Operation does not verify: expected 2 indices for memref<4x16xf32>, got 0
func.func @prefetch_indices(%a: memref<4x16xf32>, %i: index) {
  nkvector.prefetch %a[] : memref<4x16xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: fma needs a floating-point vector, got vector<8xi32>
func.func @fma_integers(%v: vector<8xi32>) {
  %r = nkvector.fma %v, %v, %v : vector<8xi32>
  func.return
}

// -----

// CHECK: verify.mlir:{{[0-9]+}}:34
// CHECK: expected a vector type, got f32
func.func @fma_scalar(%v: f32) {
  %r = nkvector.fma %v, %v, %v : f32
  func.return
}

// -----

// CHECK: Operation does not verify: a shuffle's operands have one type, got vector<4xf32> and vector<8xf32>
func.func @shuffle_operands(%x: vector<4xf32>, %y: vector<8xf32>) {
  %r = "nkvector.shuffle"(%x, %y) <{mask = array<i64: 0, 1>}> : (vector<4xf32>, vector<8xf32>) -> vector<2xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: a mask of 2 lanes gives vector<2xf32>, not vector<4xf32>
func.func @shuffle_result(%x: vector<4xf32>) {
  %r = "nkvector.shuffle"(%x, %x) <{mask = array<i64: 0, 1>}> : (vector<4xf32>, vector<4xf32>) -> vector<4xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: a shuffle's mask has at least one lane
func.func @shuffle_empty(%x: vector<4xf32>) {
  %r = nkvector.shuffle %x, %x [] : vector<4xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: shuffle lanes must lie in [0, 8), got 8
func.func @shuffle_lane(%x: vector<4xf32>) {
  %r = nkvector.shuffle %x, %x [0, 8] : vector<4xf32>
  func.return
}

// -----

// CHECK: expected 2 types, got 1
func.func @types_count(%a: memref<4x16xf32>, %i: index) {
  %v = nkvector.load %a[%i, %i] : memref<4x16xf32>
  func.return
}

// -----

// CHECK: expected a memref type, got vector<8xf32>
func.func @types_memref(%a: memref<4x16xf32>, %i: index) {
  %v = nkvector.load %a[%i, %i] : vector<8xf32>, memref<4x16xf32>
  func.return
}

// -----

// CHECK: expected a vector type, got f32
func.func @types_vector(%v: f32, %a: memref<4x16xf32>, %i: index) {
  nkvector.store %v, %a[%i, %i] : memref<4x16xf32>, f32
  func.return
}

// -----

// CHECK: expected a vector type, got f32
func.func @types_shuffle(%v: f32) {
  %r = nkvector.shuffle %v, %v [0] : f32
  func.return
}

// -----

// CHECK: expected a memref type, got f32
func.func @types_prefetch(%v: f32) {
  nkvector.prefetch %v[] : f32
  func.return
}

// -----

// CHECK: operand is used with type index, but has been previously used or defined with type i64
func.func @index_type(%a: memref<16xf32>, %i: i64) {
  nkvector.prefetch %a[%i] : memref<16xf32>
  func.return
}

// -----

// CHECK: Expected integer literal
func.func @offset_missing(%a: memref<16xf32>, %i: index) {
  nkvector.prefetch %a[%i +] : memref<16xf32>
  func.return
}

// -----

// CHECK: 9223372036854775808 does not fit 64 bits
func.func @offset_large(%a: memref<16xf32>, %i: index) {
  nkvector.prefetch %a[%i + 9223372036854775808] : memref<16xf32>
  func.return
}

// -----

// CHECK: operand is used with type index, but has been previously used or defined with type i32
func.func @active_type(%a: memref<16xf32>, %i: index, %n: i32) {
  %v = nkvector.load %a[%i], %n : memref<16xf32>, vector<8xf32>
  func.return
}

// -----

// CHECK: Expected integer literal
func.func @mask_lane(%v: vector<4xf32>) {
  %r = nkvector.shuffle %v, %v [true] : vector<4xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: operand 'lhs' at position 0 does not verify:
func.func @shuffle_operand_type(%x: i32) {
  %r = "nkvector.shuffle"(%x, %x) <{mask = array<i64: 0, 1>}> : (i32, i32) -> vector<4xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: Expected attribute i64 but got i32
func.func @shuffle_mask_type(%x: vector<4xf32>) {
  %r = "nkvector.shuffle"(%x, %x) <{mask = array<i32: 0, 1>}> : (vector<4xf32>, vector<4xf32>) -> vector<2xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: operand 'memref' at position 0 does not verify:
func.func @prefetch_operand_type(%x: i32) {
  "nkvector.prefetch"(%x) <{offsets = array<i64>}> : (i32) -> ()
  func.return
}

// -----

// CHECK: Operation does not verify: operand 'memref' at position 0 does not verify:
func.func @prefetch_unranked(%x: memref<*xf32>) {
  "nkvector.prefetch"(%x) : (memref<*xf32>) -> ()
  func.return
}
