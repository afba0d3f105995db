// RUN: xdsl-opt %s -p linalg-to-nanokernel --split-input-file --verify-diagnostics | filecheck %s

// CHECK: linalg.matmul can't be raised to nanokernel.gemm: it works on tensors; bufferize first (mlir-opt --one-shot-bufferize)
func.func @tensors(%a: tensor<8x4xf32>, %b: tensor<4x6xf32>, %c: tensor<8x6xf32>) -> tensor<8x6xf32> {
  %r = linalg.matmul ins(%a, %b : tensor<8x4xf32>, tensor<4x6xf32>) outs(%c : tensor<8x6xf32>) -> tensor<8x6xf32>
  return %r : tensor<8x6xf32>
}

// -----

// A sum over a dimension is no product.
// CHECK: linalg.generic can't be raised to nanokernel.gemm: a product has two inputs and one output
func.func @row_sums(%a: memref<8x8xf32>, %c: memref<8xf32>) {
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i)>], iterator_types = ["parallel", "reduction"]}
      ins(%a : memref<8x8xf32>) outs(%c : memref<8xf32>) {
  ^bb0(%x: f32, %y: f32):
    %s = arith.addf %x, %y : f32
    linalg.yield %s : f32
  }
  return
}

// -----

// CHECK: linalg.generic can't be raised to nanokernel.gemm: its body is not out + lhs * rhs
func.func @difference(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>) {
  linalg.generic {indexing_maps = [affine_map<(i, j, l) -> (i, l)>, affine_map<(i, j, l) -> (l, j)>, affine_map<(i, j, l) -> (i, j)>],
                  iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.subf %z, %p : f32
    linalg.yield %s : f32
  }
  return
}

// -----

// CHECK: its body is not out + lhs * rhs
func.func @square(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>) {
  linalg.generic {indexing_maps = [affine_map<(i, j, l) -> (i, l)>, affine_map<(i, j, l) -> (l, j)>, affine_map<(i, j, l) -> (i, j)>],
                  iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %p = arith.mulf %x, %x : f32
    %s = arith.addf %z, %p : f32
    linalg.yield %s : f32
  }
  return
}

// -----

// CHECK: its body is not out + lhs * rhs
func.func @yields_the_product(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>) {
  linalg.generic {indexing_maps = [affine_map<(i, j, l) -> (i, l)>, affine_map<(i, j, l) -> (l, j)>, affine_map<(i, j, l) -> (i, j)>],
                  iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %z, %p : f32
    linalg.yield %p : f32
  }
  return
}

// -----

// CHECK: iterator d2 is none of batch (in all three operands), row (first input and output), column (second input and output), reduction (both inputs)
func.func @sum_of_one_input(%a: memref<8x4xf32>, %b: memref<6xf32>, %c: memref<8x6xf32>) {
  linalg.generic {indexing_maps = [affine_map<(i, j, l) -> (i, l)>, affine_map<(i, j, l) -> (j)>, affine_map<(i, j, l) -> (i, j)>],
                  iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<8x4xf32>, memref<6xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %z, %p : f32
    linalg.yield %s : f32
  }
  return
}

// -----

// CHECK: linalg.generic can't be raised to nanokernel.gemm: its iterator types contradict its maps
func.func @parallel_reduction(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>) {
  linalg.generic {indexing_maps = [affine_map<(i, j, l) -> (i, l)>, affine_map<(i, j, l) -> (l, j)>, affine_map<(i, j, l) -> (i, j)>],
                  iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %z, %p : f32
    linalg.yield %s : f32
  }
  return
}

// -----

// CHECK: linalg.generic can't be raised to nanokernel.gemm: maps must be linear, or cut k into groups, got (d0, d1) -> (((d0 floordiv 2) + d1))
func.func @window(%a: memref<10xf32>, %b: memref<3xf32>, %c: memref<8xf32>) {
  linalg.generic {indexing_maps = [affine_map<(i, l) -> (i floordiv 2 + l)>, affine_map<(i, l) -> (l)>, affine_map<(i, l) -> (i)>],
                  iterator_types = ["parallel", "reduction"]}
      ins(%a, %b : memref<10xf32>, memref<3xf32>) outs(%c : memref<8xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %z, %p : f32
    linalg.yield %s : f32
  }
  return
}

// -----

// CHECK: linalg.quantized_matmul can't be raised to nanokernel.gemm: its operands must be memrefs, not i32
func.func @other(%a: memref<8x4xi8>, %b: memref<4x6xi8>, %c: memref<8x6xi32>) {
  %zero = arith.constant 0 : i32
  linalg.quantized_matmul ins(%a, %b, %zero, %zero : memref<8x4xi8>, memref<4x6xi8>, i32, i32) outs(%c : memref<8x6xi32>)
  return
}

// -----

// CHECK: linalg.reduce can't be raised to nanokernel.gemm: write it as linalg.generic (mlir-opt --linalg-generalize-named-ops)
func.func @named(%a: memref<8x4xf32>, %c: memref<8xf32>) {
  linalg.reduce ins(%a : memref<8x4xf32>) outs(%c : memref<8xf32>) dimensions = [1]
    (%x: f32, %y: f32) {
      %s = arith.addf %x, %y : f32
      linalg.yield %s : f32
    }
  return
}
