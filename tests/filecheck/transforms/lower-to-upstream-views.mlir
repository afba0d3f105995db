// RUN: xdsl-opt %s -p lower-to-upstream | filecheck %s

// What a type leaves open is passed behind the pointer: sizes, then strides; a contiguous memref's
// strides follow from its sizes.
// CHECK-LABEL: func.func @arguments(%a: memref<f32>, %{{[0-9]+}}: index, %{{[0-9]+}}: index, %b: memref<f32>, %{{[0-9]+}}: index, %{{[0-9]+}}: index, %c: memref<f32>)
// CHECK-NOT:     nanokernel
func.func @arguments(%a: memref<?x?xf32>, %b: memref<?x4xf32, strided<[?, 1]>>, %c: memref<2x2xf32>) attributes {nanokernel.target = "znver4"} {
  return
}

// A private function is told where its operands start; it is never inlined, and only this module's.
// CHECK-LABEL: func.func private @private(
// CHECK-SAME:    %a: memref<f32>, [[START:%[0-9]+]]: index, [[SIZE:%[0-9]+]]: index, [[STRIDE:%[0-9]+]]: index, %k: index)
// CHECK-SAME:    llvm.linkage = #llvm.linkage<"internal">
// CHECK-SAME:    "noinline"
// CHECK:         [[FLAT:%[0-9]+]] = memref.reinterpret_cast %a to offset: [0], sizes: [{{%[0-9]+}}], strides: [1] : memref<f32> to memref<?xf32>
// CHECK:         [[ROW:%[0-9]+]] = arith.muli %k, [[STRIDE]] : index
// CHECK-NEXT:    [[AT:%[0-9]+]] = arith.addi [[START]], [[ROW]] : index
// CHECK:         [[VIEW:%[0-9]+]] = memref.reinterpret_cast [[FLAT]] to offset: [[[AT]]]
// CHECK:         vector.load [[VIEW]][
func.func private @private(%a: memref<?x16xf32, strided<[?, 1], offset: ?>>, %k: index) attributes {nanokernel.target = "znver4"} {
  %zero = arith.constant 0 : index
  %x = nkvector.load %a[%k, %zero] : memref<?x16xf32, strided<[?, 1], offset: ?>>, vector<16xf32>
  nkvector.store %x, %a[%k, %zero] : memref<?x16xf32, strided<[?, 1], offset: ?>>, vector<16xf32>
  return
}

// Views cost arithmetic at most: a part of a memref starts elsewhere, and is passed as such.
// CHECK-LABEL: func.func @views(
// CHECK-SAME:    %a: memref<f32>, %rows: index, [[PITCH:%[0-9]+]]: index, %i: index, %n: index)
// CHECK-NOT:     memref.subview
// CHECK-NOT:     memref.cast
// CHECK-NOT:     memref.dim
// CHECK:         [[FROM:%[0-9]+]] = arith.muli %i, [[PITCH]] : index
// CHECK:         [[BEGIN:%[0-9]+]] = arith.addi [[FROM]], {{%[0-9]+}} : index
// CHECK-NEXT:    func.call @private(%a, [[BEGIN]], %n, [[PITCH]], %rows) : (memref<f32>, index, index, index, index) -> ()
// CHECK-NEXT:    return
func.func @views(%a: memref<?x?xf32>, %i: index, %n: index) attributes {nanokernel.target = "znver4"} {
  %zero = arith.constant 0 : index
  %rows = memref.dim %a, %zero : memref<?x?xf32>
  %part = memref.subview %a[%i, 3] [%n, 16] [1, 1] : memref<?x?xf32> to memref<?x16xf32, strided<[?, 1], offset: ?>>
  nanokernel.microkernel @private(%part, %rows) : memref<?x16xf32, strided<[?, 1], offset: ?>>, index
  return
}

// A function's bytes may be seen as elements of another type: groups of four as words.
// CHECK-LABEL: func.func @words(
// CHECK-SAME:    %b: memref<i8>
// CHECK:         [[BYTES:%[0-9]+]] = memref.reinterpret_cast %b to offset: [0], sizes: [1344], strides: [1] : memref<i8> to memref<1344xi8>
// CHECK:         [[WORDS:%[0-9]+]] = memref.view [[BYTES]][%zero][] : memref<1344xi8> to memref<336xi32>
// CHECK:         vector.load [[WORDS]][{{%[0-9]+}}] : memref<336xi32>, vector<16xi32>
func.func @words(%b: memref<1x7x48x4xi8>, %c: memref<16xi32>) attributes {nanokernel.target = "znver4"} {
  %zero = arith.constant 0 : index
  %six = arith.constant 6 : index
  %flat = memref.reinterpret_cast %b to offset: [0], sizes: [1344], strides: [1] : memref<1x7x48x4xi8> to memref<1344xi8>
  %words = memref.view %flat[%zero][] : memref<1344xi8> to memref<1x7x48xi32>
  %x = nkvector.load %words[%zero, %six, %zero] : memref<1x7x48xi32>, vector<16xi32>
  nkvector.store %x, %c[%zero] : memref<16xi32>, vector<16xi32>
  return
}
