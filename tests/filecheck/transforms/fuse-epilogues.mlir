// RUN: nkdsl-opt %s -p linalg-to-nanokernel,fuse-epilogues | filecheck %s

#id = affine_map<(i, j) -> (i, j)>
#row = affine_map<(i, j) -> (i)>
#column = affine_map<(i, j) -> (j)>
#transposed = affine_map<(i, j) -> (j, i)>

// CHECK-LABEL: func.func @in_place
func.func @in_place(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>) {
  // CHECK-NEXT: nanokernel.gemm ins(%a[m, k], %b[k, n] : {{.*}}) outs(%c[m, n] : memref<8x6xf32>) epilogue {
  // CHECK-NEXT: ^bb0([[SUM:%.*]]: f32):
  // CHECK-NEXT: [[ZERO:%.*]] = arith.constant 0.000000e+00 : f32
  // CHECK-NEXT: [[RELU:%.*]] = arith.maximumf [[SUM]], [[ZERO]] : f32
  // CHECK-NEXT: nanokernel.yield [[RELU]] : f32
  // CHECK-NEXT: }
  // CHECK-NEXT: return
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel", "parallel"]} outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32):
    %zero = arith.constant 0.0 : f32
    %r = arith.maximumf %x, %zero : f32
    linalg.yield %r : f32
  }
  return
}

// Biases along rows and columns, a residual, a scale and a bound known at run time: the memory in
// between disappears.
// CHECK-LABEL: func.func @chain
func.func @chain(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %x: memref<8xf32>, %y: memref<6xf32>, %r: memref<8x6xf32>, %scale: f32, %bound: f32, %c: memref<8x6xf32>) {
  // CHECK-NOT: memref.alloc
  // CHECK: nanokernel.gemm {{.*}} outs(%c[m, n] : memref<8x6xf32>) from zero epilogue(%x[m], %y[n], %r[m, n] : memref<8xf32>, memref<6xf32>, memref<8x6xf32>) {
  // CHECK-NEXT: ^bb0([[SUM:%.*]]: f32, [[X:%.*]]: f32, [[Y:%.*]]: f32, [[R:%.*]]: f32):
  // CHECK-NEXT: [[BX:%.*]] = arith.addf [[SUM]], [[X]] : f32
  // CHECK-NEXT: [[BY:%.*]] = arith.addf [[BX]], [[Y]] : f32
  // CHECK-NEXT: [[SCALED:%.*]] = arith.mulf [[BY]], %scale : f32
  // CHECK-NEXT: [[ADDED:%.*]] = arith.addf [[SCALED]], [[R]] : f32
  // CHECK-NEXT: [[LOW:%.*]] = arith.minimumf [[ADDED]], %bound : f32
  // CHECK-NEXT: nanokernel.yield [[LOW]] : f32
  // CHECK-NOT: dealloc
  %zero = arith.constant 0.0 : f32
  %t = memref.alloc() : memref<8x6xf32>
  %u = memref.alloc() : memref<8x6xf32>
  linalg.fill ins(%zero : f32) outs(%t : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%t : memref<8x6xf32>)
  linalg.generic {indexing_maps = [#id, #row, #column, #id], iterator_types = ["parallel", "parallel"]}
      ins(%t, %x, %y : memref<8x6xf32>, memref<8xf32>, memref<6xf32>) outs(%u : memref<8x6xf32>) {
  ^bb0(%sum: f32, %bx: f32, %by: f32, %old: f32):
    %s = arith.addf %sum, %bx : f32
    %q = arith.addf %s, %by : f32
    linalg.yield %q : f32
  }
  linalg.generic {indexing_maps = [affine_map<(i, j) -> ()>, #id], iterator_types = ["parallel", "parallel"]}
      ins(%scale : f32) outs(%u : memref<8x6xf32>) {
  ^bb0(%f: f32, %sum: f32):
    %s = arith.mulf %sum, %f : f32
    linalg.yield %s : f32
  }
  linalg.generic {indexing_maps = [#id, #id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%u, %r : memref<8x6xf32>, memref<8x6xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%sum: f32, %residual: f32, %old: f32):
    %s = arith.addf %sum, %residual : f32
    %q = arith.minimumf %s, %bound : f32
    linalg.yield %q : f32
  }
  memref.dealloc %t : memref<8x6xf32>
  memref.dealloc %u : memref<8x6xf32>
  return
}

// The result may be written transposed.
// CHECK-LABEL: func.func @transposed
func.func @transposed(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<6x8xf32>) {
  // CHECK: nanokernel.gemm {{.*}} outs(%c[n, m] : memref<6x8xf32>) from zero
  %zero = arith.constant 0.0 : f32
  %t = memref.alloc() : memref<8x6xf32>
  linalg.fill ins(%zero : f32) outs(%t : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%t : memref<8x6xf32>)
  linalg.generic {indexing_maps = [#transposed, #id], iterator_types = ["parallel", "parallel"]}
      ins(%t : memref<8x6xf32>) outs(%c : memref<6x8xf32>) {
  ^bb0(%x: f32, %old: f32):
    linalg.yield %x : f32
  }
  return
}

// A factor is added, too; the memory in between holds something else afterwards.
// CHECK-LABEL: func.func @reused
func.func @reused(%a: memref<8x8xf32>, %b: memref<8x8xf32>, %c: memref<8x8xf32>, %d: memref<8x8xf32>, %t: memref<8x8xf32>) {
  // CHECK: nanokernel.gemm ins(%a[m, k], %b[k, n] : {{.*}} outs(%c[m, n] : memref<8x8xf32>) from zero epilogue(%b[m, n] : memref<8x8xf32>)
  // CHECK: nanokernel.gemm ins(%c[m, k], %b[k, n] : {{.*}} outs(%t[m, n] : memref<8x8xf32>) from zero
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%t : memref<8x8xf32>)
  linalg.matmul ins(%a, %b : memref<8x8xf32>, memref<8x8xf32>) outs(%t : memref<8x8xf32>)
  linalg.generic {indexing_maps = [#id, #id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%t, %b : memref<8x8xf32>, memref<8x8xf32>) outs(%c : memref<8x8xf32>) {
  ^bb0(%x: f32, %y: f32, %old: f32):
    %s = arith.addf %x, %y : f32
    linalg.yield %s : f32
  }
  linalg.fill ins(%zero : f32) outs(%t : memref<8x8xf32>)
  linalg.matmul ins(%c, %b : memref<8x8xf32>, memref<8x8xf32>) outs(%t : memref<8x8xf32>)
  return
}

// A bias of size one along a dimension, and a batch.
// CHECK-LABEL: func.func @batch
func.func @batch(%a: memref<2x8x4xf32>, %b: memref<2x4x6xf32>, %bias: memref<1x6xf32>, %c: memref<2x8x6xf32>) {
  // CHECK: epilogue(%bias[0, n] : memref<1x6xf32>)
  linalg.generic {indexing_maps = [affine_map<(b, i, j, l) -> (b, i, l)>, affine_map<(b, i, j, l) -> (b, l, j)>, affine_map<(b, i, j, l) -> (b, i, j)>],
                  iterator_types = ["parallel", "parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<2x8x4xf32>, memref<2x4x6xf32>) outs(%c : memref<2x8x6xf32>) {
  ^bb0(%x: f32, %y: f32, %z: f32):
    %p = arith.mulf %x, %y : f32
    %s = arith.addf %z, %p : f32
    linalg.yield %s : f32
  }
  linalg.generic {indexing_maps = [affine_map<(b, i, j) -> (0, j)>, affine_map<(b, i, j) -> (b, i, j)>], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%bias : memref<1x6xf32>) outs(%c : memref<2x8x6xf32>) {
  ^bb0(%x: f32, %old: f32):
    %s = arith.addf %old, %x : f32
    linalg.yield %s : f32
  }
  return
}

// What a product starts from is added last, if it isn't zero.
// CHECK-LABEL: func.func @bias_first
func.func @bias_first(%a: memref<8x4xbf16>, %b: memref<4x6xbf16>, %bias: memref<6xbf16>, %c: memref<8x6xbf16>) {
  // CHECK-NEXT: nanokernel.gemm {{.*}} outs(%c[m, n] : memref<8x6xbf16>) from zero epilogue(%bias[n] : memref<6xbf16>) {
  // CHECK-NEXT: ^bb0([[SUM:%.*]]: f32, [[BIAS:%.*]]: bf16):
  // CHECK-NEXT: [[WIDE:%.*]] = arith.extf [[BIAS]] : bf16 to f32
  // CHECK-NEXT: [[BIASED:%.*]] = arith.addf [[SUM]], [[WIDE]] : f32
  // CHECK-NEXT: [[ROUNDED:%.*]] = arith.truncf [[BIASED]] : f32 to bf16
  // CHECK-NEXT: nanokernel.yield [[ROUNDED]] : bf16
  linalg.generic {indexing_maps = [#column, #id], iterator_types = ["parallel", "parallel"]}
      ins(%bias : memref<6xbf16>) outs(%c : memref<8x6xbf16>) {
  ^bb0(%x: bf16, %old: bf16):
    linalg.yield %x : bf16
  }
  linalg.matmul ins(%a, %b : memref<8x4xbf16>, memref<4x6xbf16>) outs(%c : memref<8x6xbf16>)
  return
}

// CHECK-LABEL: func.func @one_first
func.func @one_first(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>) {
  // CHECK: from zero epilogue {
  // CHECK-NEXT: ^bb0([[SUM:%.*]]: f32):
  // CHECK-NEXT: [[ONE:%.*]] = arith.constant 1.000000e+00 : f32
  // CHECK-NEXT: arith.addf [[SUM]], [[ONE]] : f32
  %one = arith.constant 1.0 : f32
  linalg.fill ins(%one : f32) outs(%c : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  return
}

// C = A·B + D.
// CHECK-LABEL: func.func @copy_first
func.func @copy_first(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %d: memref<8x6xf32>, %c: memref<8x6xf32>) {
  // CHECK: from zero epilogue(%d[m, n] : memref<8x6xf32>)
  "memref.copy"(%d, %c) : (memref<8x6xf32>, memref<8x6xf32>) -> ()
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%c : memref<8x6xf32>)
  return
}

// Sums of integers become what the next layer takes.
// CHECK-LABEL: func.func @dequantize
func.func @dequantize(%a: memref<8x4xi8>, %b: memref<4x6xi8>, %scale: memref<6xf32>, %c: memref<8x6xf32>) {
  // CHECK: nanokernel.gemm {{.*}} outs(%c[m, n] : memref<8x6xf32>) from zero epilogue(%scale[n] : memref<6xf32>) {
  // CHECK-NEXT: ^bb0([[SUM:%.*]]: i32, [[SCALE:%.*]]: f32):
  // CHECK-NEXT: [[FLOAT:%.*]] = arith.sitofp [[SUM]] : i32 to f32
  // CHECK-NEXT: arith.mulf [[FLOAT]], [[SCALE]] : f32
  %zero = arith.constant 0 : i32
  %t = memref.alloc() : memref<8x6xi32>
  linalg.fill ins(%zero : i32) outs(%t : memref<8x6xi32>)
  linalg.matmul ins(%a, %b : memref<8x4xi8>, memref<4x6xi8>) outs(%t : memref<8x6xi32>)
  linalg.generic {indexing_maps = [#id, #column, #id], iterator_types = ["parallel", "parallel"]}
      ins(%t, %scale : memref<8x6xi32>, memref<6xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%sum: i32, %f: f32, %old: f32):
    %x = arith.sitofp %sum : i32 to f32
    %y = arith.mulf %x, %f : f32
    linalg.yield %y : f32
  }
  return
}

// In bf16, each operation rounds; what is rounded only to be compared with zero isn't.
// CHECK-LABEL: func.func @bf16
func.func @bf16(%a: memref<8x4xbf16>, %b: memref<4x6xbf16>, %bias: memref<6xbf16>, %c: memref<8x6xbf16>) {
  // CHECK: nanokernel.gemm {{.*}} outs(%c[m, n] : memref<8x6xbf16>) epilogue(%bias[n] : memref<6xbf16>) {
  // CHECK-NEXT: ^bb0([[SUM:%.*]]: f32, [[BIAS:%.*]]: bf16):
  // CHECK-NEXT: [[STORED:%.*]] = arith.truncf [[SUM]] : f32 to bf16
  // CHECK-NEXT: [[LOADED:%.*]] = arith.extf [[STORED]] : bf16 to f32
  // CHECK-NEXT: [[WIDE:%.*]] = arith.extf [[BIAS]] : bf16 to f32
  // CHECK-NEXT: [[BIASED:%.*]] = arith.addf [[LOADED]], [[WIDE]] : f32
  // CHECK-NEXT: [[ZERO:%.*]] = arith.constant 0.000000e+00 : f32
  // CHECK-NEXT: [[POSITIVE:%.*]] = arith.cmpf ugt, [[BIASED]], [[ZERO]] : f32
  // CHECK-NEXT: [[RELU:%.*]] = arith.select [[POSITIVE]], [[BIASED]], [[ZERO]] : f32
  // CHECK-NEXT: [[RESULT:%.*]] = arith.truncf [[RELU]] : f32 to bf16
  // CHECK-NEXT: nanokernel.yield [[RESULT]] : bf16
  %zero = arith.constant 0.0 : bf16
  linalg.matmul ins(%a, %b : memref<8x4xbf16>, memref<4x6xbf16>) outs(%c : memref<8x6xbf16>)
  linalg.generic {indexing_maps = [#column, #id], iterator_types = ["parallel", "parallel"]}
      ins(%bias : memref<6xbf16>) outs(%c : memref<8x6xbf16>) {
  ^bb0(%x: bf16, %old: bf16):
    %s = arith.addf %old, %x : bf16
    linalg.yield %s : bf16
  }
  linalg.generic {indexing_maps = [#id], iterator_types = ["parallel", "parallel"]} outs(%c : memref<8x6xbf16>) {
  ^bb0(%x: bf16):
    %positive = arith.cmpf ugt, %x, %zero : bf16
    %r = arith.select %positive, %x, %zero : bf16
    linalg.yield %r : bf16
  }
  return
}

// An activation in two operations, of which both read the product.
// CHECK-LABEL: func.func @silu
func.func @silu(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %c: memref<8x6xf32>) {
  // CHECK-NOT: memref.alloc
  // CHECK: nanokernel.gemm {{.*}} outs(%c[m, n] : memref<8x6xf32>) from zero epilogue {
  // CHECK-NEXT: ^bb0([[SUM:%.*]]: f32):
  // CHECK: [[SIGMOID:%.*]] = arith.divf
  // CHECK-NEXT: [[SILU:%.*]] = arith.mulf [[SUM]], [[SIGMOID]] : f32
  // CHECK-NEXT: nanokernel.yield [[SILU]] : f32
  // CHECK-NOT: linalg
  // CHECK: return
  %zero = arith.constant 0.0 : f32
  %one = arith.constant 1.0 : f32
  %t = memref.alloc() : memref<8x6xf32>
  %s = memref.alloc() : memref<6x8xf32>
  linalg.fill ins(%zero : f32) outs(%t : memref<8x6xf32>)
  linalg.matmul ins(%a, %b : memref<8x4xf32>, memref<4x6xf32>) outs(%t : memref<8x6xf32>)
  linalg.generic {indexing_maps = [#id, #transposed], iterator_types = ["parallel", "parallel"]}
      ins(%t : memref<8x6xf32>) outs(%s : memref<6x8xf32>) {
  ^bb0(%x: f32, %old: f32):
    %negative = arith.negf %x : f32
    %e = math.exp %negative : f32
    %d = arith.addf %e, %one : f32
    %q = arith.divf %one, %d : f32
    linalg.yield %q : f32
  }
  linalg.generic {indexing_maps = [#id, #transposed, #id], iterator_types = ["parallel", "parallel"]}
      ins(%t, %s : memref<8x6xf32>, memref<6x8xf32>) outs(%c : memref<8x6xf32>) {
  ^bb0(%x: f32, %y: f32, %old: f32):
    %p = arith.mulf %x, %y : f32
    linalg.yield %p : f32
  }
  return
}
