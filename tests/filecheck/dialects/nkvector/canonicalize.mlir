// RUN: xdsl-opt %s -p canonicalize | filecheck %s

// A mask of all lanes is no mask; what else the operation carries stays.
// CHECK-LABEL: func.func @full_mask
func.func @full_mask(%a: memref<4x16xf32>, %i: index) -> vector<8xf32> {
  %eight = arith.constant 8 : index
  %nine = arith.constant 9 : index
  // CHECK-NEXT: %v = nkvector.load %a[%i + 1, %i] {hint} : memref<4x16xf32>, vector<8xf32>
  %v = nkvector.load %a[%i + 1, %i], %eight {hint} : memref<4x16xf32>, vector<8xf32>
  // CHECK-NEXT: nkvector.store %v, %a[%i, %i + 2] {hint} : memref<4x16xf32>, vector<8xf32>
  nkvector.store %v, %a[%i, %i + 2], %nine {hint} : memref<4x16xf32>, vector<8xf32>
  // CHECK-NEXT: func.return
  func.return %v : vector<8xf32>
}

// CHECK-LABEL: func.func @partial_mask
func.func @partial_mask(%a: memref<4x16xf32>, %i: index, %n: index) -> vector<8xf32> {
  %seven = arith.constant 7 : index
  // CHECK: nkvector.load %a[%i, %i], %seven : memref<4x16xf32>, vector<8xf32>
  %v = nkvector.load %a[%i, %i], %seven : memref<4x16xf32>, vector<8xf32>
  // CHECK-NEXT: nkvector.store %v, %a[%i, %i], %seven : memref<4x16xf32>, vector<8xf32>
  nkvector.store %v, %a[%i, %i], %seven : memref<4x16xf32>, vector<8xf32>
  // CHECK-NEXT: nkvector.store %v, %a[%i, %i], %n : memref<4x16xf32>, vector<8xf32>
  nkvector.store %v, %a[%i, %i], %n : memref<4x16xf32>, vector<8xf32>
  func.return %v : vector<8xf32>
}

// CHECK-LABEL: func.func @empty_store
func.func @empty_store(%v: vector<8xf32>, %a: memref<4x16xf32>, %i: index) {
  %none = arith.constant 0 : index
  nkvector.store %v, %a[%i, %i], %none : memref<4x16xf32>, vector<8xf32>
  // CHECK-NEXT: func.return
  func.return
}

// CHECK-LABEL: func.func @identity_shuffle
func.func @identity_shuffle(%x: vector<4xf32>, %y: vector<4xf32>) -> (vector<4xf32>, vector<4xf32>) {
  %l = nkvector.shuffle %x, %y [0, 1, 2, 3] : vector<4xf32>
  %r = nkvector.shuffle %x, %y [4, 5, 6, 7] : vector<4xf32>
  // CHECK-NEXT: func.return %x, %y : vector<4xf32>, vector<4xf32>
  func.return %l, %r : vector<4xf32>, vector<4xf32>
}

// CHECK-LABEL: func.func @other_shuffles
func.func @other_shuffles(%x: vector<4xf32>, %y: vector<4xf32>) -> (vector<4xf32>, vector<2xf32>) {
  // CHECK-NEXT: nkvector.shuffle %x, %y [0, 1, 3, 2] : vector<4xf32>
  %l = nkvector.shuffle %x, %y [0, 1, 3, 2] : vector<4xf32>
  // CHECK-NEXT: nkvector.shuffle %x, %y [0, 1] : vector<4xf32>
  %r = nkvector.shuffle %x, %y [0, 1] : vector<4xf32>
  func.return %l, %r : vector<4xf32>, vector<2xf32>
}

// A prefetch is there for its side effect; a load that nobody uses is not.
// CHECK-LABEL: func.func @unused
func.func @unused(%a: memref<4x16xf32>, %i: index) {
  // CHECK-NEXT: nkvector.prefetch %a[%i, %i] : memref<4x16xf32>
  nkvector.prefetch %a[%i, %i] : memref<4x16xf32>
  %v = nkvector.load %a[%i, %i] : memref<4x16xf32>, vector<8xf32>
  // CHECK-NEXT: func.return
  func.return
}
