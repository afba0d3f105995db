// REQUIRES: mlir-opt
// RUN: nkdsl-opt %s -p linalg-to-nanokernel | filecheck %s
// RUN: mlir-opt-22 %s --linalg-generalize-named-ops --mlir-print-op-generic | xdsl-opt -p linalg-to-nanokernel | filecheck %s

// Named operations that xDSL can't parse: nkdsl-opt has mlir-opt generalize them, xdsl-opt reads
// what mlir-opt made of them.

// CHECK-LABEL: func.func @batch
// CHECK: nanokernel.gemm ins({{.*}}[b, m, k], {{.*}}[b, k, n] : memref<2x8x4xf32>, memref<2x4x6xf32>) outs({{.*}}[b, m, n] : memref<2x8x6xf32>)
func.func @batch(%a: memref<2x8x4xf32>, %b: memref<2x4x6xf32>, %c: memref<2x8x6xf32>) {
  linalg.batch_matmul ins(%a, %b : memref<2x8x4xf32>, memref<2x4x6xf32>) outs(%c : memref<2x8x6xf32>)
  return
}

// CHECK-LABEL: func.func @batch_reduce
// CHECK: nanokernel.gemm ins({{.*}}[k0, m, k1], {{.*}}[k0, k1, n] : {{.*}}) outs({{.*}}[m, n] : memref<8x6xf32>)
func.func @batch_reduce(%a: memref<2x8x4xf32>, %b: memref<2x4x6xf32>, %c: memref<8x6xf32>) {
  linalg.batch_reduce_matmul ins(%a, %b : memref<2x8x4xf32>, memref<2x4x6xf32>) outs(%c : memref<8x6xf32>)
  return
}

// CHECK-LABEL: func.func @matvec
// CHECK: nanokernel.gemm ins({{.*}}[m, k], {{.*}}[k] : {{.*}}) outs({{.*}}[m] : memref<8xf32>)
func.func @matvec(%a: memref<8x4xf32>, %x: memref<4xf32>, %y: memref<8xf32>) {
  linalg.matvec ins(%a, %x : memref<8x4xf32>, memref<4xf32>) outs(%y : memref<8xf32>)
  return
}
