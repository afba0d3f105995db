// RUN: xdsl-opt %s -p unroll --split-input-file --verify-diagnostics | filecheck %s

// CHECK: the function has no attribute nanokernel.target
func.func @unmarked(%c: memref<2x16xf32>) {
  %zero = arith.constant 0 : index
  %acc = nanokernel.zero : !nanokernel.block<2x16xf32, lanes = n>
  nanokernel.store %acc, %c[m: %zero, n: %zero] : memref<2x16xf32>, !nanokernel.block<2x16xf32, lanes = n>
  return
}

// -----

// CHECK: target 'znver99' is not known
func.func @unknown_target(%c: memref<2x16xf32>) attributes {nanokernel.target = "znver99"} {
  %zero = arith.constant 0 : index
  %acc = nanokernel.zero : !nanokernel.block<2x16xf32, lanes = n>
  nanokernel.store %acc, %c[m: %zero, n: %zero] : memref<2x16xf32>, !nanokernel.block<2x16xf32, lanes = n>
  return
}

// -----

// CHECK: target 'znver5' has no instruction 'fma.f32x99'
func.func @unknown_instruction(%a: memref<1x1xf32>, %b: memref<1x16xf32>, %c: memref<1x16xf32>) attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  %acc = nanokernel.zero : !nanokernel.block<1x16xf32, lanes = n>
  %next = nanokernel.step %acc, %a[m: %zero, k: %zero], %b[k: %zero, n: %zero] depth 1 using "fma.f32x99" : memref<1x1xf32>, memref<1x16xf32>, !nanokernel.block<1x16xf32, lanes = n>
  nanokernel.store %next, %c[m: %zero, n: %zero] : memref<1x16xf32>, !nanokernel.block<1x16xf32, lanes = n>
  return
}
