// REQUIRES: mlir-opt
// RUN: nkdsl-opt %s -p 'linalg-to-nanokernel,plan{target=znver5 block=4x32 k-unroll=2 prefetch=4},compose,unroll,lower-to-upstream' | mlir-opt-22 --convert-scf-to-cf --convert-vector-to-llvm=enable-x86vector --finalize-memref-to-llvm --convert-cf-to-llvm --convert-func-to-llvm=use-bare-ptr-memref-call-conv --convert-arith-to-llvm --reconcile-unrealized-casts --canonicalize --cse | filecheck %s

// The passes of the backend leave nothing but the llvm dialect: a bare pointer an argument, the
// processor and its features, whole and masked accesses, fused multiply-adds.

// CHECK-NOT: builtin.unrealized_conversion_cast
// CHECK-LABEL: llvm.func @product(%arg0: !llvm.ptr, %arg1: !llvm.ptr, %arg2: !llvm.ptr)
// CHECK-SAME: passthrough = {{\[\[}}"target-cpu", "znver5"], ["target-features", "{{.*}}+avx512f{{.*}}"]]
// CHECK-NOT: vector.
// CHECK-NOT: memref.
// CHECK: llvm.load {{.*}} -> vector<16xf32>
// CHECK: llvm.intr.masked.load {{.*}} -> vector<16xf32>
// CHECK: llvm.intr.fm{{a|uladd}}({{.*}}) : (vector<16xf32>, vector<16xf32>, vector<16xf32>) -> vector<16xf32>
// CHECK: llvm.intr.masked.store
// CHECK: llvm.return
func.func @product(%a: memref<8x64xf32>, %b: memref<64x20xf32>, %c: memref<8x20xf32>) {
  linalg.matmul ins(%a, %b : memref<8x64xf32>, memref<64x20xf32>) outs(%c : memref<8x20xf32>)
  return
}
