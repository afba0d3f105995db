// REQUIRES: mlir-opt
// RUN: nkdsl-opt %s -p 'linalg-to-nanokernel,plan{target=znver5},compose,unroll,lower-to-upstream' | mlir-opt-22 | filecheck %s
// RUN: xdsl-opt %s -p 'linalg-to-nanokernel,plan{target=znver5},compose,unroll,lower-to-upstream' --print-op-generic | mlir-opt-22 | filecheck %s
// RUN: nkdsl-opt %s -p 'linalg-to-nanokernel,plan{target=x86-64-v3},compose,unroll,lower-to-upstream' | mlir-opt-22 --mlir-print-op-generic | xdsl-opt | filecheck %s

// mlir-opt reads the last level without being told to allow anything.

// CHECK-LABEL: func.func @ragged(
// CHECK: vector.maskedload
// CHECK: vector.fma
func.func @ragged(%a: memref<33x65xf32>, %b: memref<65x47xf32>, %c: memref<33x47xf32>) {
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%c : memref<33x47xf32>)
  linalg.matmul ins(%a, %b : memref<33x65xf32>, memref<65x47xf32>) outs(%c : memref<33x47xf32>)
  return
}

// CHECK-LABEL: func.func @packed(
// CHECK-SAME: memref<i8>
// CHECK: memref.view
// CHECK: vector.shuffle
// CHECK: vector.fma
func.func @packed(%a: memref<64x64xf64>, %b: memref<64x64xf64>, %c: memref<64x64xf64>) {
  linalg.generic {indexing_maps = [affine_map<(i, j, l) -> (i, l)>, affine_map<(i, j, l) -> (j, l)>, affine_map<(i, j, l) -> (i, j)>],
                  iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<64x64xf64>, memref<64x64xf64>) outs(%c : memref<64x64xf64>) {
  ^bb0(%x: f64, %y: f64, %z: f64):
    %p = arith.mulf %x, %y : f64
    %s = arith.addf %z, %p : f64
    linalg.yield %s : f64
  }
  return
}

// CHECK-LABEL: func.func @sums(
// CHECK: vector.fma
// CHECK: vector.shuffle
func.func @sums(%a: memref<100x100xf32>, %x: memref<100xf32>, %y: memref<100xf32>) {
  linalg.generic {indexing_maps = [affine_map<(i, l) -> (i, l)>, affine_map<(i, l) -> (l)>, affine_map<(i, l) -> (i)>],
                  iterator_types = ["parallel", "reduction"]}
      ins(%a, %x : memref<100x100xf32>, memref<100xf32>) outs(%y : memref<100xf32>) {
  ^bb0(%u: f32, %v: f32, %w: f32):
    %p = arith.mulf %u, %v : f32
    %s = arith.addf %w, %p : f32
    linalg.yield %s : f32
  }
  return
}
