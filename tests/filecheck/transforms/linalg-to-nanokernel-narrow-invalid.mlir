// RUN: nkdsl-opt %s -p linalg-to-nanokernel --split-input-file --verify-diagnostics --parsing-diagnostics | filecheck %s

#a = affine_map<(i, j, l) -> (i, l)>
#b = affine_map<(i, j, l) -> (l, j)>
#c = affine_map<(i, j, l) -> (i, j)>

// CHECK: linalg.generic can't be raised to nanokernel.gemm: its factors hold bf16 and f32; convert one of them to the type of the other before the product
func.func @mixed(%a: memref<8x4xbf16>, %b: memref<4x6xf32>, %c: memref<8x6xf32>) {
  linalg.generic {indexing_maps = [#a, #b, #c], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<8x4xbf16>, memref<4x6xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%x: bf16, %y: f32, %z: f32):
    %u = arith.extf %x : bf16 to f32
    %p = arith.mulf %u, %y : f32
    %s = arith.addf %z, %p : f32
    linalg.yield %s : f32
  }
  return
}

// -----

// CHECK: linalg.matmul can't be raised to nanokernel.gemm: element type i16 is not supported; supported are: {{.*}}; convert what it works on to one of these
func.func @i16(%a: memref<8x4xi16>, %b: memref<4x6xi16>, %c: memref<8x6xi32>) {
  linalg.matmul ins(%a, %b : memref<8x4xi16>, memref<4x6xi16>) outs(%c : memref<8x6xi32>)
  return
}

// -----

// CHECK: linalg.matmul can't be raised to nanokernel.gemm: there are no products of i32; factors hold f32, f64, bf16, f16 or i8, and those of i8 are extended to i32 in the body
func.func @i32(%a: memref<8x4xi32>, %b: memref<4x6xi32>, %c: memref<8x6xi32>) {
  linalg.matmul ins(%a, %b : memref<8x4xi32>, memref<4x6xi32>) outs(%c : memref<8x6xi32>)
  return
}

// -----

// CHECK: linalg.matmul can't be raised to nanokernel.gemm: products of f32 are added up in f32, not in f64; convert the factors before the product, or the sums after it
func.func @f64_sums(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf64>) {
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf64>)
  return
}

// -----

// CHECK: linalg.matmul can't be raised to nanokernel.gemm: products of i8 are added up in i32, not in i8; extend the factors to i32 in its body
func.func @i8_sums(%a: memref<8x4xi8>, %b: memref<4x6xi8>, %c: memref<8x6xi8>) {
  linalg.matmul ins(%a, %b : memref<8x4xi8>, memref<4x6xi8>) outs(%c : memref<8x6xi8>)
  return
}

// -----

#a = affine_map<(i, j, l) -> (i, l)>
#b = affine_map<(i, j, l) -> (l, j)>
#c = affine_map<(i, j, l) -> (i, j)>

// CHECK: sums of products of bf16 are stored as f32 or bf16, not as f16; store f32 and convert that in an operation of its own
func.func @f16_result(%a: memref<8x4xbf16>, %b: memref<4x6xbf16>, %c: memref<8x6xf16>) {
  linalg.generic {indexing_maps = [#a, #b, #c], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<8x4xbf16>, memref<4x6xbf16>) outs(%c : memref<8x6xf16>) {
  ^bb0(%x: bf16, %y: bf16, %z: f16):
    %u = arith.extf %x : bf16 to f32
    %v = arith.extf %y : bf16 to f32
    %w = arith.extf %z : f16 to f32
    %p = arith.mulf %u, %v : f32
    %s = arith.addf %w, %p : f32
    %r = arith.truncf %s : f32 to f16
    linalg.yield %r : f16
  }
  return
}

// -----

#a = affine_map<(i, j, l) -> (i, l)>
#b = affine_map<(i, j, l) -> (l, j)>
#c = affine_map<(i, j, l) -> (i, j)>

// CHECK: argument 0 of 'both_ways' is read as integers with a sign and without one; let the function take it twice, as an argument for each
func.func @both_ways(%a: memref<8x8xi8>, %c: memref<8x8xi32>) {
  linalg.generic {indexing_maps = [#a, #b, #c], iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%a, %a : memref<8x8xi8>, memref<8x8xi8>) outs(%c : memref<8x8xi32>) {
  ^bb0(%x: i8, %y: i8, %z: i32):
    %u = arith.extui %x : i8 to i32
    %v = arith.extsi %y : i8 to i32
    %p = arith.muli %u, %v : i32
    %s = arith.addi %z, %p : i32
    linalg.yield %s : i32
  }
  return
}

// -----

// CHECK: xDSL doesn't know how linalg.matmul converts i8, i8, f32; write it as linalg.generic (mlir-opt --linalg-generalize-named-ops)
func.func @unknown_conversion(%a: memref<8x4xi8>, %b: memref<4x6xi8>, %c: memref<8x6xf32>) {
  linalg.matmul ins(%a, %b : memref<8x4xi8>, memref<4x6xi8>) outs(%c : memref<8x6xf32>)
  return
}
