// RUN: nkdsl-opt %s -p linalg-to-nanokernel,fuse-epilogues | filecheck %s

// What isn't safe to fuse stays where it is.

#id = affine_map<(i, j) -> (i, j)>
#transposed = affine_map<(i, j) -> (j, i)>

// The result is used again.
// CHECK-LABEL: func.func @used_again
func.func @used_again(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %t: memref<8x6xf32>, %c: memref<8x6xf32>) {
  // CHECK: nanokernel.gemm {{.*}} outs(%t[m, n] : memref<8x6xf32>) from zero
  // CHECK: linalg.generic
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%t : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%t : memref<8x6xf32>)
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%t : memref<8x6xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32, %old: f32):
    %s = arith.addf %x, %x : f32
    linalg.yield %s : f32
  }
  return
}

// A sum that goes on from what the result held can't begin in other memory.
// CHECK-LABEL: func.func @accumulates
func.func @accumulates(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %t: memref<8x6xf32>, %c: memref<8x6xf32>) {
  // CHECK: outs(%t[m, n] : memref<8x6xf32>)
  // CHECK: linalg.generic
  // CHECK: linalg.fill
  %zero = arith.constant 0.0 : f32
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%t : memref<8x6xf32>)
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%t : memref<8x6xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32, %old: f32):
    %s = arith.addf %x, %x : f32
    linalg.yield %s : f32
  }
  linalg.fill ins(%zero : f32) outs(%t : memref<8x6xf32>)
  return
}

// CHECK-LABEL: func.func @factor_is_overwritten
func.func @factor_is_overwritten(%a: memref<8x8xf32>, %b: memref<8x8xf32>) {
  // CHECK: memref.alloc
  // CHECK: nanokernel.gemm
  // CHECK: linalg.generic
  %zero = arith.constant 0.0 : f32
  %t = memref.alloc() : memref<8x8xf32>
  linalg.fill ins(%zero : f32) outs(%t : memref<8x8xf32>)
  linalg.matmul ins(%a, %b : memref<8x8xf32>, memref<8x8xf32>) outs(%t : memref<8x8xf32>)
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%t : memref<8x8xf32>) outs(%a : memref<8x8xf32>) {
  ^bb0(%x: f32, %old: f32):
    %s = arith.addf %x, %x : f32
    linalg.yield %s : f32
  }
  return
}

// A partial sum may rest in the result, which must not be needed any more then.
// CHECK-LABEL: func.func @residual_in_the_result
func.func @residual_in_the_result(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>) {
  // CHECK: nanokernel.gemm
  // CHECK: linalg.generic
  %zero = arith.constant 0.0 : f32
  %t = memref.alloc() : memref<8x6xf32>
  linalg.fill ins(%zero : f32) outs(%t : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%t : memref<8x6xf32>)
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%t : memref<8x6xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32, %old: f32):
    %s = arith.addf %x, %old : f32
    linalg.yield %s : f32
  }
  return
}

// Elements of another place have not been computed yet.
// CHECK-LABEL: func.func @adds_its_transpose
func.func @adds_its_transpose(%a: memref<8x4xf32>, %b: memref<4x8xf32>, %c: memref<8x8xf32>, %d: memref<8x8xf32>) {
  // CHECK: nanokernel.gemm
  // CHECK-NOT: epilogue
  // CHECK: linalg.generic
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x8xf32>) outs(%c : memref<8x8xf32>)
  linalg.generic {indexing_maps = [#id, #transposed, #id], iterator_types = ["parallel", "parallel"]}
      ins(%c, %c : memref<8x8xf32>, memref<8x8xf32>) outs(%d : memref<8x8xf32>) {
  ^bb0(%x: f32, %y: f32, %old: f32):
    %s = arith.addf %x, %y : f32
    linalg.yield %s : f32
  }
  return
}

// CHECK-LABEL: func.func @position
func.func @position(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>) {
  // CHECK: nanokernel.gemm
  // CHECK-NOT: epilogue
  // CHECK: linalg.index
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel", "parallel"]} outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32):
    %i = linalg.index 0 : index
    %n = arith.index_cast %i : index to i32
    %f = arith.sitofp %n : i32 to f32
    %s = arith.addf %x, %f : f32
    linalg.yield %s : f32
  }
  return
}

// Something between changes what the product reads.
// CHECK-LABEL: func.func @factor_changes
func.func @factor_changes(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>) {
  // CHECK: nanokernel.gemm
  // CHECK-NOT: epilogue
  // CHECK: linalg.fill
  // CHECK: linalg.generic
  %zero = arith.constant 0.0 : f32
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  linalg.fill ins(%zero : f32) outs(%a : memref<8x4xf32>)
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel", "parallel"]} outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32):
    %s = arith.addf %x, %x : f32
    linalg.yield %s : f32
  }
  return
}

// CHECK-LABEL: func.func @bias_changes
func.func @bias_changes(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %bias: memref<6xf32>, %c: memref<8x6xf32>) {
  // CHECK: linalg.generic
  // CHECK: linalg.fill
  // CHECK: nanokernel.gemm
  // CHECK-NOT: epilogue
  // CHECK: return
  %zero = arith.constant 0.0 : f32
  linalg.generic {indexing_maps = [affine_map<(i, j) -> (j)>, #id], iterator_types = ["parallel", "parallel"]}
      ins(%bias : memref<6xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32, %old: f32):
    linalg.yield %x : f32
  }
  linalg.fill ins(%zero : f32) outs(%bias : memref<6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  return
}

// Two results of one product.
// CHECK-LABEL: func.func @two_results
func.func @two_results(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>, %d: memref<8x6xf32>) {
  // CHECK: nanokernel.gemm {{.*}} outs(%c[m, n] : memref<8x6xf32>)
  // CHECK-NOT: epilogue
  // CHECK: linalg.generic
  // CHECK: linalg.generic
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%c : memref<8x6xf32>) outs(%d : memref<8x6xf32>) {
  ^bb0(%x: f32, %old: f32):
    %s = arith.addf %x, %x : f32
    linalg.yield %s : f32
  }
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%d : memref<8x6xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32, %y: f32):
    %s = arith.mulf %x, %y : f32
    linalg.yield %s : f32
  }
  return
}

// A matrix that doesn't lie along the result's registers.
// CHECK-LABEL: func.func @transposed_residual
func.func @transposed_residual(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %r: memref<6x8xf32>, %c: memref<8x6xf32>) {
  // CHECK: nanokernel.gemm
  // CHECK-NOT: epilogue
  // CHECK: linalg.generic
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  linalg.generic {indexing_maps = [#transposed, #id], iterator_types = ["parallel", "parallel"]}
      ins(%r : memref<6x8xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32, %y: f32):
    %s = arith.addf %y, %x : f32
    linalg.yield %s : f32
  }
  return
}

// No level below stores truth values.
// CHECK-LABEL: func.func @compares
func.func @compares(%a: memref<8x4xf32>, %b: memref<4x6xf32>) {
  // CHECK: nanokernel.gemm
  // CHECK-NOT: epilogue
  // CHECK: linalg.generic
  %zero = arith.constant 0.0 : f32
  %t = memref.alloc() : memref<8x6xf32>
  %c = memref.alloc() : memref<8x6xi1>
  linalg.fill ins(%zero : f32) outs(%t : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%t : memref<8x6xf32>)
  linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%t : memref<8x6xf32>) outs(%c : memref<8x6xi1>) {
  ^bb0(%x: f32, %y: i1):
    %s = arith.cmpf ogt, %x, %zero : f32
    linalg.yield %s : i1
  }
  return
}
