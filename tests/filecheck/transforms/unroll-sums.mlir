// RUN: xdsl-opt %s -p unroll | filecheck %s

// Lanes along k: an accumulator is a register of partial sums. The tail of the reduction is
// masked, so that its missing lanes add nothing. Three accumulators become one register of sums
// in two halvings, and only three lanes are stored.
// CHECK-LABEL: func.func @sums
// CHECK-DAG:     [[THREE:%[0-9]+]] = arith.constant 3 : index
// CHECK-DAG:     [[TWO:%[0-9]+]] = arith.constant 2 : index
// CHECK:         [[ZERO:%[0-9]+]] = arith.constant dense<0.000000e+00> : vector<4xf64>
// CHECK:         [[X0:%[0-9]+]] = nkvector.load %x[%zero] : memref<20xf64>, vector<4xf64>
// CHECK-NEXT:    [[A0:%[0-9]+]] = nkvector.load %a[%zero, %zero] : memref<3x20xf64>, vector<4xf64>
// CHECK-NEXT:    [[P0:%[0-9]+]] = nkvector.fma [[A0]], [[X0]], [[ZERO]] : vector<4xf64>
// CHECK-NEXT:    nkvector.load %a[%zero + 1, %zero]
// CHECK-NEXT:    [[P1:%[0-9]+]] = nkvector.fma
// CHECK-NEXT:    nkvector.load %a[%zero + 2, %zero]
// CHECK-NEXT:    [[P2:%[0-9]+]] = nkvector.fma
// CHECK:         nkvector.load %x[%zero + 4], [[TWO]]
// CHECK-NEXT:    nkvector.load %a[%zero, %zero + 4], [[TWO]]
// CHECK-NEXT:    [[Q0:%[0-9]+]] = nkvector.fma {{.*}}, [[P0]]
// CHECK-NEXT:    nkvector.load %a[%zero + 1, %zero + 4], [[TWO]]
// CHECK-NEXT:    [[Q1:%[0-9]+]] = nkvector.fma {{.*}}, [[P1]]
// CHECK-NEXT:    nkvector.load %a[%zero + 2, %zero + 4], [[TWO]]
// CHECK-NEXT:    [[Q2:%[0-9]+]] = nkvector.fma {{.*}}, [[P2]]
// CHECK-NEXT:    [[L0:%[0-9]+]] = nkvector.shuffle [[Q0]], [[Q2]] [0, 1, 4, 5]
// CHECK-NEXT:    [[H0:%[0-9]+]] = nkvector.shuffle [[Q0]], [[Q2]] [2, 3, 6, 7]
// CHECK-NEXT:    [[S0:%[0-9]+]] = arith.addf [[L0]], [[H0]] : vector<4xf64>
// CHECK-NEXT:    [[L1:%[0-9]+]] = nkvector.shuffle [[Q1]], [[Q1]] [0, 1, 4, 5]
// CHECK-NEXT:    [[H1:%[0-9]+]] = nkvector.shuffle [[Q1]], [[Q1]] [2, 3, 6, 7]
// CHECK-NEXT:    [[S1:%[0-9]+]] = arith.addf [[L1]], [[H1]]
// CHECK-NEXT:    [[L2:%[0-9]+]] = nkvector.shuffle [[S0]], [[S1]] [0, 4, 2, 6]
// CHECK-NEXT:    [[H2:%[0-9]+]] = nkvector.shuffle [[S0]], [[S1]] [1, 5, 3, 7]
// CHECK-NEXT:    [[ALL:%[0-9]+]] = arith.addf [[L2]], [[H2]]
// CHECK-NEXT:    [[OLD:%[0-9]+]] = nkvector.load %y[%zero], [[THREE]] : memref<3xf64>, vector<4xf64>
// CHECK-NEXT:    [[NEW:%[0-9]+]] = arith.addf [[OLD]], [[ALL]]
// CHECK-NEXT:    nkvector.store [[NEW]], %y[%zero], [[THREE]] : memref<3xf64>, vector<4xf64>
// CHECK-NEXT:    return
func.func @sums(%a: memref<3x20xf64>, %x: memref<20xf64>, %y: memref<3xf64>) attributes {nanokernel.target = "x86-64-v3"} {
  %zero = arith.constant 0 : index
  %acc = nanokernel.zero : !nanokernel.block<3x1xf64, lanes = k>
  %next = nanokernel.step %acc, %a[m: %zero, k: %zero], %x[k: %zero] depth 6 using "fma.f64x4" : memref<3x20xf64>, memref<20xf64>, !nanokernel.block<3x1xf64, lanes = k>
  nanokernel.store %next, %y[m: %zero] accumulate : memref<3xf64>, !nanokernel.block<3x1xf64, lanes = k>
  return
}

// A single sum is one lane.
// CHECK-LABEL: func.func @dot
// CHECK:         [[ONE:%[0-9]+]] = arith.constant 1 : index
// CHECK-COUNT-4: nkvector.shuffle
// CHECK-NEXT:    [[SUM:%[0-9]+]] = arith.addf
// CHECK-NEXT:    nkvector.store [[SUM]], %y[%zero], [[ONE]] : memref<1xf64>, vector<4xf64>
func.func @dot(%a: memref<20xf64>, %y: memref<1xf64>) attributes {nanokernel.target = "x86-64-v3"} {
  %zero = arith.constant 0 : index
  %acc = nanokernel.zero : !nanokernel.block<1x1xf64, lanes = k>
  %next = nanokernel.step %acc, %a[k: %zero], %a[k: %zero] depth 4 using "fma.f64x4" : memref<20xf64>, memref<20xf64>, !nanokernel.block<1x1xf64, lanes = k>
  nanokernel.store %next, %y[m: %zero] : memref<1xf64>, !nanokernel.block<1x1xf64, lanes = k>
  return
}
