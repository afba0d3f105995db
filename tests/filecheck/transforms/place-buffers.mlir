// RUN: xdsl-opt %s -p place-buffers --split-input-file --verify-diagnostics | filecheck %s

// Behind what is used for packing; the third buffer takes the place of the first one.
// CHECK-LABEL: func.func @buffers(
// CHECK-NEXT:    nanokernel.workspace at 0 : memref<100xf32>
// CHECK-NEXT:    [[X:%[a-z0-9]+]] = nanokernel.workspace at 448 : memref<16x16xf32>
// CHECK-NEXT:    "test.op"([[X]])
// CHECK-NEXT:    [[Y:%[a-z0-9]+]] = nanokernel.workspace at 1472 : memref<16x16xf32>
// CHECK-NEXT:    "test.op"([[X]], [[Y]])
// CHECK-NEXT:    [[Z:%[a-z0-9]+]] = nanokernel.workspace at 448 : memref<16x16xf32>
// CHECK-NEXT:    "test.op"([[Y]], [[Z]])
// CHECK-NEXT:    func.return
func.func @buffers() {
  %panel = nanokernel.workspace at 0 : memref<100xf32>
  %x = memref.alloc() : memref<16x16xf32>
  "test.op"(%x) : (memref<16x16xf32>) -> ()
  %y = memref.alloc() : memref<16x16xf32>
  "test.op"(%x, %y) : (memref<16x16xf32>, memref<16x16xf32>) -> ()
  %z = memref.alloc() : memref<16x16xf32>
  "test.op"(%y, %z) : (memref<16x16xf32>, memref<16x16xf32>) -> ()
  memref.dealloc %x : memref<16x16xf32>
  memref.dealloc %y : memref<16x16xf32>
  memref.dealloc %z : memref<16x16xf32>
  func.return
}

// -----

// CHECK: a local buffer's size must be known when the program is compiled
func.func @open(%n: index) {
  %x = memref.alloc(%n) : memref<?xf32>
  func.return
}
