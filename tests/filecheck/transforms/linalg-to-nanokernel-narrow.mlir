// RUN: nkdsl-opt %s -p linalg-to-nanokernel | filecheck %s

#a = affine_map<(i, j, l) -> (i, l)>
#b = affine_map<(i, j, l) -> (l, j)>
#c = affine_map<(i, j, l) -> (i, j)>

// CHECK-LABEL: func.func @bf16
func.func @bf16(%a: memref<8x4xbf16>, %b: memref<4x6xbf16>, %c: memref<8x6xf32>) {
  // CHECK-NEXT: nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xbf16>, memref<4x6xbf16>) outs(%c[m, n] : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xbf16>, memref<4x6xbf16>) outs(%c : memref<8x6xf32>)
  return
}

// Without conversions, sums are of f32 all the same, and rounded once.
// CHECK-LABEL: func.func @bf16_throughout
func.func @bf16_throughout(%a: memref<8x4xbf16>, %b: memref<4x6xbf16>, %c: memref<8x6xbf16>) {
  // CHECK-NEXT: nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xbf16>, memref<4x6xbf16>) outs(%c[m, n] : memref<8x6xbf16>)
  linalg.matmul ins(%a, %b : memref<8x4xbf16>, memref<4x6xbf16>) outs(%c : memref<8x6xbf16>)
  return
}

// CHECK-LABEL: func.func @f16
func.func @f16(%a: memref<8x4xf16>, %b: memref<4x6xf16>, %c: memref<8x6xf16>) {
  // CHECK-NEXT: nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xf16>, memref<4x6xf16>) outs(%c[m, n] : memref<8x6xf16>)
  linalg.matmul ins(%a, %b : memref<8x4xf16>, memref<4x6xf16>) outs(%c : memref<8x6xf16>)
  return
}

// The sum may be converted and back.
// CHECK-LABEL: func.func @rounded_sum
func.func @rounded_sum(%a: memref<8x4xbf16>, %b: memref<4x6xbf16>, %c: memref<8x6xbf16>) {
  // CHECK-NEXT: nanokernel.gemm {{.*}} outs(%c[m, n] : memref<8x6xbf16>)
  linalg.generic {indexing_maps = [#a, #b, #c], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<8x4xbf16>, memref<4x6xbf16>) outs(%c : memref<8x6xbf16>) {
  ^bb0(%x: bf16, %y: bf16, %z: bf16):
    %sum = arith.extf %z : bf16 to f32
    %v = arith.extf %y : bf16 to f32
    %u = arith.extf %x : bf16 to f32
    %p = arith.mulf %v, %u : f32
    %s = arith.addf %p, %sum : f32
    %r = arith.truncf %s : f32 to bf16
    linalg.yield %r : bf16
  }
  return
}

// CHECK-LABEL: func.func @s8s8
// CHECK-SAME: (%a: memref<8x4xi8>, %b: memref<4x6xi8>, %c: memref<8x6xi32>)
func.func @s8s8(%a: memref<8x4xi8>, %b: memref<4x6xi8>, %c: memref<8x6xi32>) {
  // CHECK-NEXT: nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xi8>, memref<4x6xi8>) outs(%c[m, n] : memref<8x6xi32>)
  linalg.matmul ins(%a, %b : memref<8x4xi8>, memref<4x6xi8>) outs(%c : memref<8x6xi32>)
  return
}

// The sign is that of the conversions, and the runtime is told.
// CHECK-LABEL: func.func @u8s8
// CHECK-SAME: (%a: memref<8x4xi8> {nanokernel.unsigned}, %b: memref<4x6xi8>, %c: memref<8x6xi32>)
func.func @u8s8(%a: memref<8x4xi8>, %b: memref<4x6xi8>, %c: memref<8x6xi32>) {
  // CHECK-NEXT: nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xi8>, memref<4x6xi8>) unsigned lhs outs(%c[m, n] : memref<8x6xi32>)
  linalg.generic {indexing_maps = [#a, #b, #c], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<8x4xi8>, memref<4x6xi8>) outs(%c : memref<8x6xi32>) {
  ^bb0(%x: i8, %y: i8, %z: i32):
    %u = arith.extui %x : i8 to i32
    %v = arith.extsi %y : i8 to i32
    %p = arith.muli %v, %u : i32
    %s = arith.addi %z, %p : i32
    linalg.yield %s : i32
  }
  return
}

// CHECK-LABEL: func.func @s8u8
// CHECK-SAME: (%a: memref<8x4xi8>, %b: memref<4x6xi8> {nanokernel.unsigned}, %c: memref<8x6xi32>)
func.func @s8u8(%a: memref<8x4xi8>, %b: memref<4x6xi8>, %c: memref<8x6xi32>) {
  // CHECK-NEXT: unsigned rhs
  linalg.generic {indexing_maps = [#a, #b, #c], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<8x4xi8>, memref<4x6xi8>) outs(%c : memref<8x6xi32>) {
  ^bb0(%x: i8, %y: i8, %z: i32):
    %u = arith.extsi %x : i8 to i32
    %v = arith.extui %y : i8 to i32
    %p = arith.muli %u, %v : i32
    %s = arith.addi %p, %z : i32
    linalg.yield %s : i32
  }
  return
}

// What a view shows is the argument's. Other attributes stay.
// CHECK-LABEL: func.func @view
// CHECK-SAME: (%a: memref<64xi8> {my.attribute, nanokernel.unsigned}, %b: memref<4x6xi8> {nanokernel.unsigned}, %c: memref<8x6xi32>)
func.func @view(%a: memref<64xi8> {my.attribute}, %b: memref<4x6xi8>, %c: memref<8x6xi32>) {
  // CHECK: unsigned both
  %view = memref.reinterpret_cast %a to offset: [0], sizes: [8, 4], strides: [8, 1] : memref<64xi8> to memref<8x4xi8, strided<[8, 1]>>
  linalg.generic {indexing_maps = [#a, #b, #c], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%view, %b : memref<8x4xi8, strided<[8, 1]>>, memref<4x6xi8>) outs(%c : memref<8x6xi32>) {
  ^bb0(%x: i8, %y: i8, %z: i32):
    %u = arith.extui %x : i8 to i32
    %v = arith.extui %y : i8 to i32
    %p = arith.muli %u, %v : i32
    %s = arith.addi %p, %z : i32
    linalg.yield %s : i32
  }
  return
}

// Groups of two steps of the reduction, as instructions take them: a map with two reductions.
// CHECK-LABEL: func.func @vnni
func.func @vnni(%a: memref<8x2x2xbf16>, %b: memref<2x6x2xbf16>, %c: memref<8x6xf32>) {
  // CHECK-NEXT: nanokernel.gemm ins(%a[m, k0, k1], %b[k0, n, k1] : memref<8x2x2xbf16>, memref<2x6x2xbf16>) outs(%c[m, n] : memref<8x6xf32>)
  linalg.generic {indexing_maps = [affine_map<(i, j, l, v) -> (i, l, v)>, affine_map<(i, j, l, v) -> (l, j, v)>, affine_map<(i, j, l, v) -> (i, j)>],
                  iterator_types = ["parallel", "parallel", "reduction", "reduction"]}
      ins(%a, %b : memref<8x2x2xbf16>, memref<2x6x2xbf16>) outs(%c : memref<8x6xf32>) {
  ^bb0(%x: bf16, %y: bf16, %z: f32):
    %u = arith.extf %x : bf16 to f32
    %v = arith.extf %y : bf16 to f32
    %p = arith.mulf %u, %v : f32
    %s = arith.addf %z, %p : f32
    linalg.yield %s : f32
  }
  return
}

// Generic form says itself how factors are extended.
// CHECK-LABEL: func.func @generic_form
func.func @generic_form(%a: memref<8x4xi8>, %b: memref<4x6xi8>, %c: memref<8x6xi32>) {
  // CHECK-NEXT: unsigned both
  "linalg.matmul"(%a, %b, %c) <{indexing_maps = [#a, #b, #c], operandSegmentSizes = array<i32: 2, 1>}> ({
  ^bb0(%x: i8, %y: i8, %z: i32):
    %u = "arith.extui"(%x) : (i8) -> i32
    %v = "arith.extui"(%y) : (i8) -> i32
    %p = "arith.muli"(%u, %v) : (i32, i32) -> i32
    %s = "arith.addi"(%z, %p) : (i32, i32) -> i32
    "linalg.yield"(%s) : (i32) -> ()
  }) : (memref<8x4xi8>, memref<4x6xi8>, memref<8x6xi32>) -> ()
  return
}
