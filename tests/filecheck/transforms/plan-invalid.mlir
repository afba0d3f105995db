// RUN: xdsl-opt %s -p 'plan{target=znver5}' --split-input-file --verify-diagnostics | filecheck %s
// RUN: not nkdsl-opt %s -p 'plan{target=znver99}' 2>&1 | filecheck %s --check-prefix TARGET
// RUN: not nkdsl-opt %s -p 'plan{target=znver5 block=8xn}' 2>&1 | filecheck %s --check-prefix BLOCK
// RUN: not nkdsl-opt %s -p 'plan{target=znver5 block=8}' 2>&1 | filecheck %s --check-prefix ROWS
// RUN: not nkdsl-opt %s -p 'plan{target=znver5 block=8,48}' 2>&1 | filecheck %s --check-prefix PAIR
// RUN: nkdsl-opt %s -p 'plan{target=znver5 block=8x40}' --split-input-file --verify-diagnostics | filecheck %s --check-prefix LANES

// TARGET: target 'znver99' is not known; known are: x86-64-v3, skylake-avx512,
// TARGET-NOT: Traceback
// BLOCK: block is written as 8x48, not '8xn'
// ROWS: block is written as 8x48, not '8'
// PAIR: block is written as 8x48, not '8,48'
// LANES: block 8x40 is not a multiple of the 16 lanes of fma.f32x16 along n

func.func @in_order(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
  return
}

// -----

// CHECK: the result has stride 1 along neither its rows nor its columns; write it to a contiguous array and copy that
func.func @spread(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32, strided<[192, 2]>>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32, strided<[192, 2]>>)
  return
}

// -----

// CHECK: element type i16 is not supported; supported are: f32, f64, bf16, f16, s8, u8, s32
func.func @short(%a: memref<64x256xi16>, %b: memref<256x96xi16>, %c: memref<64x96xi32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xi16>, memref<256x96xi16>) outs(%c[m, n] : memref<64x96xi32>)
  return
}

// -----

// CHECK: factors of different types, f32 and f64, are not supported; convert one of them
func.func @mixed(%a: memref<64x256xf32>, %b: memref<256x96xf64>, %c: memref<64x96xf64>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf64>) outs(%c[m, n] : memref<64x96xf64>)
  return
}

// -----

// CHECK: products of f32 and f32 are added up in f32, which a result of f64 can't hold as it is; convert in an epilogue
func.func @widening(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf64>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf64>)
  return
}

// -----

// CHECK: the result has stride 1 along neither its rows nor its columns
func.func @strides_at_run_time(%a: memref<?x?xf32>, %b: memref<?x?xf32>, %c: memref<?x?xf32, strided<[?, ?]>>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<?x?xf32>, memref<?x?xf32>) outs(%c[m, n] : memref<?x?xf32, strided<[?, ?]>>)
  return
}

// -----

// CHECK: no iterator of kind m indexes a dimension of its own in both operands
func.func @window(%a: memref<127x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[2 * m, k], %b[k, n] : memref<127x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
  return
}

// -----

// CHECK: its function is already planned for target "znver4"
func.func @two_targets(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) attributes {nanokernel.target = "znver4"} {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
  return
}
