// RUN: xdsl-opt %s -p unroll | filecheck %s
// RUN: nkdsl-opt %s -p unroll --print-op-generic | nkdsl-opt | filecheck %s

// Of two registers in a row the last one ends where the tail does: its active lanes are counted once.
// CHECK-LABEL: func.func @tail(
// CHECK-DAG:     [[C16:%[0-9]+]] = arith.constant 16 : index
// CHECK-DAG:     [[LEFT:%[0-9]+]] = arith.subi %n, [[C16]] : index
// CHECK-NOT:     arith.subi
// CHECK:         [[B0:%[0-9]+]] = nkvector.load %b[%zero, %zero] : memref<?x?xf32>, vector<16xf32>
// CHECK-NEXT:    [[B1:%[0-9]+]] = nkvector.load %b[%zero, %zero + 16], [[LEFT]] : memref<?x?xf32>, vector<16xf32>
// CHECK-NEXT:    [[A0:%[0-9]+]] = nkvector.broadcast_load %a[%zero, %zero]
// CHECK-NEXT:    [[S0:%[0-9]+]] = nkvector.fma [[A0]], [[B0]],
// CHECK-NEXT:    [[S1:%[0-9]+]] = nkvector.fma [[A0]], [[B1]],
// CHECK:         nkvector.store [[S0]], %c[%zero, %zero] : memref<2x?xf32>, vector<16xf32>
// CHECK-NEXT:    nkvector.store [[S1]], %c[%zero, %zero + 16], [[LEFT]] : memref<2x?xf32>, vector<16xf32>
func.func @tail(%a: memref<2x?xf32>, %b: memref<?x?xf32>, %c: memref<2x?xf32>, %n: index) attributes {nanokernel.target = "znver4"} {
  %zero = arith.constant 0 : index
  %start = nanokernel.zero : !nanokernel.block<2x32xf32, lanes = n>
  %sums = nanokernel.step %start, %a[m: %zero, k: %zero], %b[k: %zero, n: %zero] depth 1 using "fma.f32x16" tail %n : memref<2x?xf32>, memref<?x?xf32>, !nanokernel.block<2x32xf32, lanes = n>
  nanokernel.store %sums, %c[m: %zero, n: %zero] tail %n : memref<2x?xf32>, !nanokernel.block<2x32xf32, lanes = n>
  return
}

// An update reads the old result masked as it writes the new one.
// CHECK-LABEL: func.func @accumulate(
// CHECK:         [[OLD0:%[0-9]+]] = nkvector.load %c[%zero, %zero], [[N:%[0-9]+]] : memref<1x?xf32>, vector<16xf32>
// CHECK-NEXT:    [[NEW0:%[0-9]+]] = arith.addf [[OLD0]], [[Z:%[0-9]+]] : vector<16xf32>
// CHECK-NEXT:    nkvector.store [[NEW0]], %c[%zero, %zero], [[N]] : memref<1x?xf32>, vector<16xf32>
// CHECK:         [[ALPHA:%[0-9]+]] = vector.broadcast %alpha : f32 to vector<16xf32>
// CHECK-NEXT:    [[PART:%[0-9]+]] = arith.mulf [[Z]], [[ALPHA]] : vector<16xf32>
// CHECK-NEXT:    [[BETA:%[0-9]+]] = vector.broadcast %beta : f32 to vector<16xf32>
// CHECK-NEXT:    [[OLD1:%[0-9]+]] = nkvector.load %c[%zero, %zero], [[N]] : memref<1x?xf32>, vector<16xf32>
// CHECK-NEXT:    [[NEW1:%[0-9]+]] = nkvector.fma [[OLD1]], [[BETA]], [[PART]] : vector<16xf32>
// CHECK-NEXT:    nkvector.store [[NEW1]], %c[%zero, %zero], [[N]] : memref<1x?xf32>, vector<16xf32>
func.func @accumulate(%c: memref<1x?xf32>, %n: index, %alpha: f32, %beta: f32) attributes {nanokernel.target = "znver4"} {
  %zero = arith.constant 0 : index
  %sums = nanokernel.zero : !nanokernel.block<1x16xf32, lanes = n>
  nanokernel.store %sums, %c[m: %zero, n: %zero] tail %n accumulate : memref<1x?xf32>, !nanokernel.block<1x16xf32, lanes = n>
  nanokernel.store %sums, %c[m: %zero, n: %zero] tail %n scale %alpha, %beta : memref<1x?xf32>, !nanokernel.block<1x16xf32, lanes = n>
  return
}

// Each line of a block is asked for once.
// CHECK-LABEL: func.func @prefetch(
// CHECK-NEXT:    nkvector.prefetch %c[%i, %j] : memref<?x?xf32>
// CHECK-NEXT:    nkvector.prefetch %c[%i, %j + 16] : memref<?x?xf32>
// CHECK-NEXT:    nkvector.prefetch %c[%i + 1, %j] : memref<?x?xf32>
// CHECK-NEXT:    nkvector.prefetch %c[%i + 1, %j + 16] : memref<?x?xf32>
// CHECK-NOT:     nkvector.prefetch
// CHECK:         func.return
func.func @prefetch(%c: memref<?x?xf32>, %i: index, %j: index) attributes {nanokernel.target = "znver4"} {
  nanokernel.prefetch %c[m: %i, n: %j] : memref<?x?xf32>, !nanokernel.block<2x32xf32, lanes = n>
  %sums = nanokernel.zero : !nanokernel.block<2x32xf32, lanes = n>
  return
}
