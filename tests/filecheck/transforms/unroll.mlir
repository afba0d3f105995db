// RUN: xdsl-opt %s -p unroll | filecheck %s

// One register, one value. The factor of fewer registers is loaded first and kept, here the right
// one; each element of the other is broadcast once and used for all of them. A loop carries
// registers.
// CHECK-LABEL: func.func @step
// CHECK:         [[C00:%[0-9]+]] = nkvector.load %c[%zero, %zero] : memref<3x32xf32>, vector<16xf32>
// CHECK-NEXT:    [[C01:%[0-9]+]] = nkvector.load %c[%zero, %zero + 16]
// CHECK-NEXT:    [[C10:%[0-9]+]] = nkvector.load %c[%zero + 1, %zero]
// CHECK-NEXT:    [[C11:%[0-9]+]] = nkvector.load %c[%zero + 1, %zero + 16]
// CHECK-NEXT:    [[C20:%[0-9]+]] = nkvector.load %c[%zero + 2, %zero]
// CHECK-NEXT:    [[C21:%[0-9]+]] = nkvector.load %c[%zero + 2, %zero + 16]
// CHECK-NEXT:    {{.*}} = scf.for %k = %zero to %four step %two iter_args([[P00:%[0-9]+]] = [[C00]], [[P01:%[0-9]+]] = [[C01]], [[P10:%[0-9]+]] = [[C10]], [[P11:%[0-9]+]] = [[C11]], [[P20:%[0-9]+]] = [[C20]], [[P21:%[0-9]+]] = [[C21]])
// CHECK:           [[B0:%[0-9]+]] = nkvector.load %b[%k, %zero] : memref<4x32xf32>, vector<16xf32>
// CHECK-NEXT:      [[B1:%[0-9]+]] = nkvector.load %b[%k, %zero + 16] : memref<4x32xf32>, vector<16xf32>
// CHECK-NEXT:      [[A0:%[0-9]+]] = nkvector.broadcast_load %a[%zero, %k] : memref<3x4xf32>, vector<16xf32>
// CHECK-NEXT:      [[Q00:%[0-9]+]] = nkvector.fma [[A0]], [[B0]], [[P00]] : vector<16xf32>
// CHECK-NEXT:      [[Q01:%[0-9]+]] = nkvector.fma [[A0]], [[B1]], [[P01]] : vector<16xf32>
// CHECK-NEXT:      [[A1:%[0-9]+]] = nkvector.broadcast_load %a[%zero + 1, %k]
// CHECK-NEXT:      nkvector.fma [[A1]], [[B0]], [[P10]]
// CHECK-NEXT:      nkvector.fma [[A1]], [[B1]], [[P11]]
// CHECK-NEXT:      [[A2:%[0-9]+]] = nkvector.broadcast_load %a[%zero + 2, %k]
// CHECK-NEXT:      nkvector.fma [[A2]], [[B0]], [[P20]]
// CHECK-NEXT:      nkvector.fma [[A2]], [[B1]], [[P21]]
// The second step of the turn adds to the first one's sums.
// CHECK:           [[B2:%[0-9]+]] = nkvector.load %b[%k + 1, %zero]
// CHECK-NEXT:      nkvector.load %b[%k + 1, %zero + 16]
// CHECK-NEXT:      [[A3:%[0-9]+]] = nkvector.broadcast_load %a[%zero, %k + 1]
// CHECK-NEXT:      nkvector.fma [[A3]], [[B2]], [[Q00]]
// CHECK:           scf.yield
// CHECK-NEXT:    }
// CHECK-NEXT:    nkvector.store {{%[0-9]+}}, %c[%zero, %zero]
// CHECK-NEXT:    nkvector.store {{%[0-9]+}}, %c[%zero, %zero + 16]
// CHECK-COUNT-4: nkvector.store
// CHECK-NEXT:    return
func.func @step(%a: memref<3x4xf32>, %b: memref<4x32xf32>, %c: memref<3x32xf32>) attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  %two = arith.constant 2 : index
  %four = arith.constant 4 : index
  %acc = nanokernel.load %c[m: %zero, n: %zero] : memref<3x32xf32>, !nanokernel.block<3x32xf32, lanes = n>
  %done = scf.for %k = %zero to %four step %two iter_args(%part = %acc) -> (!nanokernel.block<3x32xf32, lanes = n>) {
    %next = nanokernel.step %part, %a[m: %zero, k: %k], %b[k: %k, n: %zero] depth 2 using "fma.f32x16" : memref<3x4xf32>, memref<4x32xf32>, !nanokernel.block<3x32xf32, lanes = n>
    scf.yield %next : !nanokernel.block<3x32xf32, lanes = n>
  }
  nanokernel.store %done, %c[m: %zero, n: %zero] : memref<3x32xf32>, !nanokernel.block<3x32xf32, lanes = n>
  return
}

// With fewer rows than registers of columns it is the broadcasts that are kept.
// CHECK-LABEL: func.func @wide
// CHECK:         [[A:%[0-9]+]] = nkvector.broadcast_load %a[%zero, %zero]
// CHECK-NEXT:    nkvector.load %b[%zero, %zero]
// CHECK-NEXT:    nkvector.fma [[A]], {{%[0-9]+}},
// CHECK-NEXT:    nkvector.load %b[%zero, %zero + 16]
// CHECK-NEXT:    nkvector.fma [[A]], {{%[0-9]+}},
// CHECK-NEXT:    nkvector.store
func.func @wide(%a: memref<1x4xf32>, %b: memref<4x32xf32>, %c: memref<1x32xf32>) attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  %acc = nanokernel.zero : !nanokernel.block<1x32xf32, lanes = n>
  %next = nanokernel.step %acc, %a[m: %zero, k: %zero], %b[k: %zero, n: %zero] depth 1 using "fma.f32x16" : memref<1x4xf32>, memref<4x32xf32>, !nanokernel.block<1x32xf32, lanes = n>
  nanokernel.store %next, %c[m: %zero, n: %zero] : memref<1x32xf32>, !nanokernel.block<1x32xf32, lanes = n>
  return
}

// A zero block is one constant, however many registers it has.
// CHECK-LABEL: func.func @zero
// CHECK:         [[ZERO:%[0-9]+]] = arith.constant dense<0.000000e+00> : vector<8xf64>
// CHECK-NEXT:    nkvector.store [[ZERO]], %c[%zero, %zero]
// CHECK-NEXT:    nkvector.store [[ZERO]], %c[%zero + 1, %zero]
// CHECK-NEXT:    return
func.func @zero(%c: memref<2x8xf64>) attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  %acc = nanokernel.zero : !nanokernel.block<2x8xf64, lanes = n>
  nanokernel.store %acc, %c[m: %zero, n: %zero] : memref<2x8xf64>, !nanokernel.block<2x8xf64, lanes = n>
  return
}

// Lanes along m: the left factor is loaded, the right one broadcast.
// CHECK-LABEL: func.func @lanes_m
// CHECK:         nkvector.load %c[%zero, %zero] : memref<2x16xf32>, vector<16xf32>
// CHECK-NEXT:    nkvector.load %c[%zero + 1, %zero]
// CHECK:         [[L:%[0-9]+]] = nkvector.load %a[%zero, %zero]
// CHECK-NEXT:    [[R0:%[0-9]+]] = nkvector.broadcast_load %b[%zero, %zero]
// CHECK-NEXT:    nkvector.fma [[L]], [[R0]],
// CHECK-NEXT:    [[R1:%[0-9]+]] = nkvector.broadcast_load %b[%zero, %zero + 1]
// CHECK-NEXT:    nkvector.fma [[L]], [[R1]],
func.func @lanes_m(%a: memref<4x16xf32>, %b: memref<4x2xf32>, %c: memref<2x16xf32>) attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  %acc = nanokernel.load %c[n: %zero, m: %zero] : memref<2x16xf32>, !nanokernel.block<16x2xf32, lanes = m>
  %next = nanokernel.step %acc, %a[k: %zero, m: %zero], %b[k: %zero, n: %zero] depth 1 using "fma.f32x16" : memref<4x16xf32>, memref<4x2xf32>, !nanokernel.block<16x2xf32, lanes = m>
  nanokernel.store %next, %c[n: %zero, m: %zero] : memref<2x16xf32>, !nanokernel.block<16x2xf32, lanes = m>
  return
}

// CHECK-LABEL: func.func @accumulate
// CHECK:         [[NEW:%[0-9]+]] = nkvector.load %a
// CHECK-NEXT:    [[OLD:%[0-9]+]] = nkvector.load %c
// CHECK-NEXT:    [[SUM:%[0-9]+]] = arith.addf [[OLD]], [[NEW]] : vector<16xf32>
// CHECK-NEXT:    nkvector.store [[SUM]], %c
func.func @accumulate(%a: memref<1x16xf32>, %c: memref<1x16xf32>) attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  %x = nanokernel.load %a[m: %zero, n: %zero] : memref<1x16xf32>, !nanokernel.block<1x16xf32, lanes = n>
  nanokernel.store %x, %c[m: %zero, n: %zero] accumulate : memref<1x16xf32>, !nanokernel.block<1x16xf32, lanes = n>
  return
}

// Asked for ahead: each line of the streamed rows once a step, each row of the broadcast factor
// once a turn.
// CHECK-LABEL: func.func @prefetch
// CHECK:         nkvector.prefetch %b[%zero + 5, %zero] : memref<128x32xf32>
// CHECK-NEXT:    nkvector.prefetch %b[%zero + 5, %zero + 16]
// CHECK-NEXT:    nkvector.prefetch %a[%zero, %zero + 16] : memref<2x128xf32>
// CHECK:         nkvector.load %b[%zero, %zero]
// CHECK:         nkvector.prefetch %b[%zero + 6, %zero]
// CHECK-NEXT:    nkvector.prefetch %b[%zero + 6, %zero + 16]
// CHECK-NEXT:    nkvector.prefetch %a[%zero + 1, %zero + 17]
// CHECK:         nkvector.load %b[%zero + 1, %zero]
// CHECK-NOT:     nkvector.prefetch
// CHECK:         return
func.func @prefetch(%a: memref<2x128xf32>, %b: memref<128x32xf32>, %c: memref<2x32xf32>) attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  %acc = nanokernel.zero : !nanokernel.block<2x32xf32, lanes = n>
  %next = nanokernel.step %acc, %a[m: %zero, k: %zero], %b[k: %zero, n: %zero] depth 2 using "fma.f32x16" prefetch lhs [0, 16] rhs [5, 0] : memref<2x128xf32>, memref<128x32xf32>, !nanokernel.block<2x32xf32, lanes = n>
  nanokernel.store %next, %c[m: %zero, n: %zero] : memref<2x32xf32>, !nanokernel.block<2x32xf32, lanes = n>
  return
}

// A function without blocks needs no target.
// CHECK-LABEL: func.func @untouched
// CHECK:         memref.load
func.func @untouched(%c: memref<8xf32>) -> f32 {
  %zero = arith.constant 0 : index
  %x = memref.load %c[%zero] : memref<8xf32>
  return %x : f32
}

// What another block is going to read is wanted in L2.
// CHECK-LABEL: func.func @prefetch_next
// CHECK:         nkvector.prefetch %b[%zero, %zero + 32] into L2 : memref<128x64xf32>
// CHECK-NEXT:    nkvector.prefetch %b[%zero, %zero + 48] into L2
// CHECK-NEXT:    nkvector.prefetch %a[%zero + 2, %zero] into L2 : memref<4x128xf32>
// CHECK-NEXT:    nkvector.prefetch %a[%zero + 3, %zero] into L2
// CHECK-NOT:     nkvector.prefetch
// CHECK:         func.return
func.func @prefetch_next(%a: memref<4x128xf32>, %b: memref<128x64xf32>, %c: memref<4x64xf32>) attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  %acc = nanokernel.load %c[m: %zero, n: %zero] : memref<4x64xf32>, !nanokernel.block<2x32xf32, lanes = n>
  %next = nanokernel.step %acc, %a[m: %zero, k: %zero], %b[k: %zero, n: %zero] depth 1 using "fma.f32x16" prefetch lhs [2, 0] rhs [0, 32] : memref<4x128xf32>, memref<128x64xf32>, !nanokernel.block<2x32xf32, lanes = n>
  nanokernel.store %next, %c[m: %zero, n: %zero] : memref<4x64xf32>, !nanokernel.block<2x32xf32, lanes = n>
  return
}

// With lanes along k each row or column of a step is asked for once a register.
// CHECK-LABEL: func.func @prefetch_lanes_along_k
// CHECK:         nkvector.prefetch %b[%zero + 2, %zero] into L2 : memref<4x128xf32>
// CHECK-NEXT:    nkvector.prefetch %b[%zero + 3, %zero] into L2
// CHECK:         nkvector.prefetch %b[%zero + 2, %zero + 16] into L2
// CHECK-NEXT:    nkvector.prefetch %b[%zero + 3, %zero + 16] into L2
// CHECK-NOT:     nkvector.prefetch
// CHECK:         func.return
func.func @prefetch_lanes_along_k(%a: memref<1x128xf32>, %b: memref<4x128xf32>, %c: memref<1x4xf32>) attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  %acc = nanokernel.zero : !nanokernel.block<1x2xf32, lanes = k>
  %next = nanokernel.step %acc, %a[m: %zero, k: %zero], %b[n: %zero, k: %zero] depth 32 using "fma.f32x16" prefetch rhs [2, 0] : memref<1x128xf32>, memref<4x128xf32>, !nanokernel.block<1x2xf32, lanes = k>
  nanokernel.store %next, %c[m: %zero, n: %zero] : memref<1x4xf32>, !nanokernel.block<1x2xf32, lanes = k>
  return
}
