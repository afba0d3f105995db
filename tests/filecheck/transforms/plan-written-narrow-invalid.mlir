// RUN: nkdsl-opt %s -p 'plan{target=x86-64-v3}' --split-input-file --verify-diagnostics | filecheck %s

// Without mask registers a ragged edge costs one more register.
// CHECK: block 6x16 needs 16 vector registers, mr·nv + min(mr, nv) + 1 and {{.*}} if need be, but x86-64-v3 can plan with 15
func.func @mask(%a: memref<8x8xf32>, %b: memref<8x15xf32>, %c: memref<8x15xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x8xf32>, memref<8x15xf32>) outs(%c[m, n] : memref<8x15xf32>)
    plan #nanokernel.plan<target = "x86-64-v3", instruction = "fma.f32x8", block = 6x16>
  return
}

// -----

// CHECK-LABEL: func.func @no_mask
// CHECK: block = 6x16
func.func @no_mask(%a: memref<8x8xf32>, %b: memref<8x16xf32>, %c: memref<8x16xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x8xf32>, memref<8x16xf32>) outs(%c[m, n] : memref<8x16xf32>)
    plan #nanokernel.plan<target = "x86-64-v3", instruction = "fma.f32x8", block = 6x16>
  return
}
