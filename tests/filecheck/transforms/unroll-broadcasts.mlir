// RUN: xdsl-opt %s -p unroll | filecheck %s
// RUN: nkdsl-opt %s -p unroll --print-op-generic | nkdsl-opt | filecheck %s

// A row of two registers makes a step's loads many: what is broadcast is loaded by the instruction
// that the target names, since LLVM's takes a slot of a unit that multiplies.
// CHECK-LABEL: func.func @crowded(
// CHECK:         nkvector.broadcast_load %a[%zero, %zero] using "vpbroadcastd" : memref<4x1xf32>, vector<16xf32>
// CHECK:         nkvector.broadcast_load %a[%zero + 3, %zero] using "vpbroadcastd" : memref<4x1xf32>, vector<16xf32>
func.func @crowded(%a: memref<4x1xf32>, %b: memref<1x32xf32>, %c: memref<4x32xf32>) attributes {nanokernel.target = "znver4"} {
  %zero = arith.constant 0 : index
  %start = nanokernel.zero : !nanokernel.block<4x32xf32, lanes = n>
  %sums = nanokernel.step %start, %a[m: %zero, k: %zero], %b[k: %zero, n: %zero] depth 1 using "fma.f32x16" : memref<4x1xf32>, memref<1x32xf32>, !nanokernel.block<4x32xf32, lanes = n>
  nanokernel.store %sums, %c[m: %zero, n: %zero] : memref<4x32xf32>, !nanokernel.block<4x32xf32, lanes = n>
  return
}

// A pair of bf16 is a word. What is left of a last group is read by its elements.
// CHECK-LABEL: func.func @pairs(
// CHECK:         nkvector.broadcast_load %a[%zero, %zero] group 2 using "vpbroadcastd" : memref<4x3xbf16>, vector<32xbf16>
// CHECK:         nkvector.broadcast_load %a[%zero, %zero + 2] group 2, {{%[0-9]+}} : memref<4x3xbf16>, vector<32xbf16>
func.func @pairs(%a: memref<4x3xbf16>, %b: memref<2x32x2xbf16>, %c: memref<4x32xf32>) attributes {nanokernel.target = "znver4"} {
  %zero = arith.constant 0 : index
  %start = nanokernel.zero : !nanokernel.block<4x32xf32, lanes = n>
  %sums = nanokernel.step %start, %a[m: %zero, k: %zero], %b[k: %zero, n: %zero, g: %zero] depth 3 using "dot.bf16x16" : memref<4x3xbf16>, memref<2x32x2xbf16>, !nanokernel.block<4x32xf32, lanes = n>
  nanokernel.store %sums, %c[m: %zero, n: %zero] : memref<4x32xf32>, !nanokernel.block<4x32xf32, lanes = n>
  return
}

// Four rows of four registers load half as often as they multiply, and a row of one register lets
// LLVM broadcast in the multiplication itself.
// CHECK-LABEL: func.func @balanced(
// CHECK:         nkvector.broadcast_load %a[%zero, %zero] : memref<4x1xf32>, vector<16xf32>
func.func @balanced(%a: memref<4x1xf32>, %b: memref<1x64xf32>, %c: memref<4x64xf32>) attributes {nanokernel.target = "znver4"} {
  %zero = arith.constant 0 : index
  %start = nanokernel.zero : !nanokernel.block<4x64xf32, lanes = n>
  %sums = nanokernel.step %start, %a[m: %zero, k: %zero], %b[k: %zero, n: %zero] depth 1 using "fma.f32x16" : memref<4x1xf32>, memref<1x64xf32>, !nanokernel.block<4x64xf32, lanes = n>
  nanokernel.store %sums, %c[m: %zero, n: %zero] : memref<4x64xf32>, !nanokernel.block<4x64xf32, lanes = n>
  return
}

// CHECK-LABEL: func.func @single(
// CHECK:         nkvector.broadcast_load %a[%zero, %zero] : memref<4x1xf32>, vector<16xf32>
func.func @single(%a: memref<4x1xf32>, %b: memref<1x16xf32>, %c: memref<4x16xf32>) attributes {nanokernel.target = "znver4"} {
  %zero = arith.constant 0 : index
  %start = nanokernel.zero : !nanokernel.block<4x16xf32, lanes = n>
  %sums = nanokernel.step %start, %a[m: %zero, k: %zero], %b[k: %zero, n: %zero] depth 1 using "fma.f32x16" : memref<4x1xf32>, memref<1x16xf32>, !nanokernel.block<4x16xf32, lanes = n>
  nanokernel.store %sums, %c[m: %zero, n: %zero] : memref<4x16xf32>, !nanokernel.block<4x16xf32, lanes = n>
  return
}
