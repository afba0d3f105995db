// RUN: nkdsl-opt %s -p linalg-to-nanokernel | filecheck %s

// Elementwise operations stay as they are.
// CHECK-LABEL: func.func @fill
func.func @fill(%c: memref<8x6xf32>) {
  // CHECK: linalg.fill
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%c : memref<8x6xf32>)
  return
}

// CHECK-LABEL: func.func @activation
func.func @activation(%a: memref<8x6xf32>, %c: memref<8x6xf32>) {
  // CHECK: linalg.generic
  // CHECK: arith.maximumf
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]}
      ins(%a : memref<8x6xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32, %y: f32):
    %zero = arith.constant 0.0 : f32
    %r = arith.maximumf %x, %zero : f32
    linalg.yield %r : f32
  }
  return
}

// A copy is one of them.
// CHECK-LABEL: func.func @copy
func.func @copy(%a: memref<8x6xf32, strided<[1, 8]>>, %c: memref<8x6xf32>) {
  // CHECK-NEXT: linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d0, d1)>], iterator_types = ["parallel", "parallel"]} ins(%a : memref<8x6xf32, strided<[1, 8]>>) outs(%c : memref<8x6xf32>)
  // CHECK-NEXT: ^bb0([[X:%.*]]: f32, {{%.*}}: f32):
  // CHECK-NEXT: linalg.yield [[X]] : f32
  "memref.copy"(%a, %c) : (memref<8x6xf32, strided<[1, 8]>>, memref<8x6xf32>) -> ()
  return
}
