// A product whose sizes are known only at run time goes all the way through stock MLIR: a function of
// pointers and integers around private ones, one a block.

// REQUIRES: mlir-opt
// RUN: nkdsl-opt %s -p 'linalg-to-nanokernel,plan{target=skylake-avx512},block,compose,unroll,lower-to-upstream' | mlir-opt-22 --canonicalize --cse | filecheck %s --check-prefix UPSTREAM
// RUN: nkdsl compile %s --target skylake-avx512 --emit=llvm | filecheck %s --check-prefix LLVM

// UPSTREAM-LABEL: func.func @product(%arg0: memref<f32>, %arg1: index, %arg2: index, %arg3: memref<f32>,
// UPSTREAM-NOT: memref.subview
// UPSTREAM: scf.for
// UPSTREAM: scf.if
// UPSTREAM: call @product_
// UPSTREAM: func.func private @product_
// UPSTREAM: scf.for {{.*}} iter_args
// UPSTREAM: vector.fma {{.*}} : vector<16xf32>

// LLVM: define void @product(ptr %0, i64 %1, i64 %2, ptr %3, i64 %4, i64 %5, ptr %6, i64 %7, i64 %8, ptr %9)
// LLVM: call void @product_
// LLVM: define internal void @product_
// LLVM: call <16 x float> @llvm.fmuladd.v16f32

func.func @product(%a: memref<?x?xf32>, %b: memref<?x?xf32>, %c: memref<?x?xf32>) {
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%c : memref<?x?xf32>)
  linalg.matmul ins(%a, %b : memref<?x?xf32>, memref<?x?xf32>) outs(%c : memref<?x?xf32>)
  return
}
