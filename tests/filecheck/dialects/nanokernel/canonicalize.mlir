// RUN: xdsl-opt %s -p canonicalize | filecheck %s

// Blocks that nobody uses go; what writes to memory stays.
// CHECK-LABEL: func.func @unused
func.func @unused(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>, %i: index, %first: i1) {
  %zero = nanokernel.zero : !nanokernel.block<8x48xf32, lanes = n>
  %acc = nanokernel.load %c[m: %i, n: %i] : memref<64x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  %next = nanokernel.step %acc, %a[m: %i, k: %i], %b[k: %i, n: %i] depth 4 using "fma.f32x16" : memref<64x256xf32>, memref<256x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  %part = nanokernel.step %next, %a[m: %i, k: %i], %b[k: %i, n: %i] depth 4 using "fma.f32x16" tail %i : memref<64x256xf32>, memref<256x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  %spare = nanokernel.workspace at 0 : memref<256x48xf32>
  // CHECK-NEXT: %panel = nanokernel.workspace at 64 : memref<256x48xf32>
  %panel = nanokernel.workspace at 64 : memref<256x48xf32>
  // CHECK-NEXT: nanokernel.pack %b[k: %i, n: %i] extents 256 x 48 into %panel
  nanokernel.pack %b[k: %i, n: %i] extents 256 x 48 into %panel : memref<256x96xf32>, memref<256x48xf32>
  // CHECK-NEXT: nanokernel.gemm
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
  // CHECK-NEXT: nanokernel.gemm {{.*}} from zero if %first
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>) from zero if %first
  // CHECK-NEXT: nanokernel.pack %b[k: %i, n: %i] extents %i x %i into %panel
  nanokernel.pack %b[k: %i, n: %i] extents %i x %i into %panel : memref<256x96xf32>, memref<256x48xf32>
  // CHECK-NEXT: nanokernel.microkernel @matmul(%a, %b, %c)
  nanokernel.microkernel @matmul(%a, %b, %c) : memref<64x256xf32>, memref<256x96xf32>, memref<64x96xf32>
  // CHECK-NEXT: func.return
  func.return
}
