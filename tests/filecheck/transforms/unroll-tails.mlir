// RUN: nkdsl-opt %s -p unroll | filecheck %s

// With mask registers the last register of a ragged row is masked.
// CHECK-LABEL: func.func @masked
// CHECK-DAG:     [[TAIL:%[0-9]+]] = arith.constant 4 : index
// CHECK-DAG:     nkvector.load %c[%zero, %zero] : memref<1x20xf32>, vector<16xf32>
// CHECK-DAG:     nkvector.load %c[%zero, %zero + 16], [[TAIL]] : memref<1x20xf32>, vector<16xf32>
// CHECK-DAG:     nkvector.load %b[%zero, %zero + 16], [[TAIL]] : memref<2x20xf32>, vector<16xf32>
// CHECK:         nkvector.store {{%[0-9]+}}, %c[%zero, %zero] : memref<1x20xf32>, vector<16xf32>
// CHECK-NEXT:    nkvector.store {{%[0-9]+}}, %c[%zero, %zero + 16], [[TAIL]] : memref<1x20xf32>, vector<16xf32>
func.func @masked(%a: memref<1x2xf32>, %b: memref<2x20xf32>, %c: memref<1x20xf32>) attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  %acc = nanokernel.load %c[m: %zero, n: %zero] : memref<1x20xf32>, !nanokernel.block<1x20xf32, lanes = n>
  %next = nanokernel.step %acc, %a[m: %zero, k: %zero], %b[k: %zero, n: %zero] depth 1 using "fma.f32x16" : memref<1x2xf32>, memref<2x20xf32>, !nanokernel.block<1x20xf32, lanes = n>
  nanokernel.store %next, %c[m: %zero, n: %zero] : memref<1x20xf32>, !nanokernel.block<1x20xf32, lanes = n>
  return
}

// Without them half a register is a narrower one: no mask, and the broadcast serves both widths.
// CHECK-LABEL: func.func @narrow
// CHECK:         [[C0:%[0-9]+]] = nkvector.load %c[%zero, %zero] : memref<1x12xf32>, vector<8xf32>
// CHECK-NEXT:    [[C1:%[0-9]+]] = nkvector.load %c[%zero, %zero + 8] : memref<1x12xf32>, vector<4xf32>
// CHECK:         [[A:%[0-9]+]] = nkvector.broadcast_load %a[%zero, %zero] : memref<1x2xf32>, vector<8xf32>
// CHECK-NEXT:    [[B0:%[0-9]+]] = nkvector.load %b[%zero, %zero] : memref<2x12xf32>, vector<8xf32>
// CHECK-NEXT:    [[Q0:%[0-9]+]] = nkvector.fma [[A]], [[B0]], [[C0]] : vector<8xf32>
// CHECK-NEXT:    [[B1:%[0-9]+]] = nkvector.load %b[%zero, %zero + 8] : memref<2x12xf32>, vector<4xf32>
// CHECK-NEXT:    [[LOW:%[0-9]+]] = nkvector.shuffle [[A]], [[A]] [0, 1, 2, 3] : vector<8xf32>
// CHECK-NEXT:    [[Q1:%[0-9]+]] = nkvector.fma [[LOW]], [[B1]], [[C1]] : vector<4xf32>
// CHECK-NEXT:    nkvector.store [[Q0]], %c[%zero, %zero]
// CHECK-NEXT:    nkvector.store [[Q1]], %c[%zero, %zero + 8] : memref<1x12xf32>, vector<4xf32>
func.func @narrow(%a: memref<1x2xf32>, %b: memref<2x12xf32>, %c: memref<1x12xf32>) attributes {nanokernel.target = "x86-64-v3"} {
  %zero = arith.constant 0 : index
  %acc = nanokernel.load %c[m: %zero, n: %zero] : memref<1x12xf32>, !nanokernel.block<1x12xf32, lanes = n>
  %next = nanokernel.step %acc, %a[m: %zero, k: %zero], %b[k: %zero, n: %zero] depth 1 using "fma.f32x8" : memref<1x2xf32>, memref<2x12xf32>, !nanokernel.block<1x12xf32, lanes = n>
  nanokernel.store %next, %c[m: %zero, n: %zero] : memref<1x12xf32>, !nanokernel.block<1x12xf32, lanes = n>
  return
}

// A block that is narrower than a register altogether.
// CHECK-LABEL: func.func @only_narrow
// CHECK:         nkvector.broadcast_load %a[%zero, %zero] : memref<1x2xf32>, vector<4xf32>
// CHECK:         nkvector.fma {{.*}} : vector<4xf32>
// CHECK-NOT:     vector<8xf32>
// CHECK:         return
func.func @only_narrow(%a: memref<1x2xf32>, %b: memref<2x4xf32>, %c: memref<1x4xf32>) attributes {nanokernel.target = "x86-64-v3"} {
  %zero = arith.constant 0 : index
  %acc = nanokernel.zero : !nanokernel.block<1x4xf32, lanes = n>
  %next = nanokernel.step %acc, %a[m: %zero, k: %zero], %b[k: %zero, n: %zero] depth 1 using "fma.f32x8" : memref<1x2xf32>, memref<2x4xf32>, !nanokernel.block<1x4xf32, lanes = n>
  nanokernel.store %next, %c[m: %zero, n: %zero] : memref<1x4xf32>, !nanokernel.block<1x4xf32, lanes = n>
  return
}

// Any other tail is masked there too.
// CHECK-LABEL: func.func @odd
// CHECK:         [[FIVE:%[0-9]+]] = arith.constant 5 : index
// CHECK:         nkvector.load %c[%zero, %zero + 8], [[FIVE]] : memref<1x13xf32>, vector<8xf32>
func.func @odd(%c: memref<1x13xf32>, %d: memref<1x13xf32>) attributes {nanokernel.target = "x86-64-v3"} {
  %zero = arith.constant 0 : index
  %acc = nanokernel.load %c[m: %zero, n: %zero] : memref<1x13xf32>, !nanokernel.block<1x13xf32, lanes = n>
  nanokernel.store %acc, %d[m: %zero, n: %zero] : memref<1x13xf32>, !nanokernel.block<1x13xf32, lanes = n>
  return
}

// A panel's rows are padded with zeros to whole registers: only the result is masked.
// CHECK-LABEL: func.func @panel
// CHECK-DAG:     [[TAIL2:%[0-9]+]] = arith.constant 4 : index
// CHECK-DAG:     nkvector.load %c[%zero, %zero + 16], [[TAIL2]] : memref<1x20xf32>, vector<16xf32>
// CHECK-DAG:     nkvector.load %panel[%zero, %zero + 16] : memref<2x32xf32, strided<[32, 1]>>, vector<16xf32>
// CHECK:         nkvector.store {{%[0-9]+}}, %c[%zero, %zero + 16], [[TAIL2]] : memref<1x20xf32>, vector<16xf32>
func.func @panel(%a: memref<1x2xf32>, %c: memref<1x20xf32>) attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  %space = nanokernel.workspace at 0 : memref<64xf32>
  %panel = memref.reinterpret_cast %space to offset: [0], sizes: [2, 32], strides: [32, 1] : memref<64xf32> to memref<2x32xf32, strided<[32, 1]>>
  %acc = nanokernel.load %c[m: %zero, n: %zero] : memref<1x20xf32>, !nanokernel.block<1x20xf32, lanes = n>
  %next = nanokernel.step %acc, %a[m: %zero, k: %zero], %panel[k: %zero, n: %zero] depth 1 using "fma.f32x16" : memref<1x2xf32>, memref<2x32xf32, strided<[32, 1]>>, !nanokernel.block<1x20xf32, lanes = n>
  nanokernel.store %next, %c[m: %zero, n: %zero] : memref<1x20xf32>, !nanokernel.block<1x20xf32, lanes = n>
  return
}

// A row that is not padded, or is not read from its start, may end with its tail.
// CHECK-LABEL: func.func @narrow_panel
// CHECK-DAG:     [[TAIL3:%[0-9]+]] = arith.constant 4 : index
// CHECK-DAG:     nkvector.load %space[%zero, %zero + 16], [[TAIL3]] : memref<2x20xf32>, vector<16xf32>
// CHECK-DAG:     nkvector.load %wide[%zero, %i + 16], [[TAIL3]] : memref<2x32xf32>, vector<16xf32>
func.func @narrow_panel(%a: memref<1x2xf32>, %c: memref<1x20xf32>, %i: index) attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  %space = nanokernel.workspace at 0 : memref<2x20xf32>
  %wide = nanokernel.workspace at 192 : memref<2x32xf32>
  %acc = nanokernel.load %c[m: %zero, n: %zero] : memref<1x20xf32>, !nanokernel.block<1x20xf32, lanes = n>
  %next = nanokernel.step %acc, %a[m: %zero, k: %zero], %space[k: %zero, n: %zero] depth 1 using "fma.f32x16" : memref<1x2xf32>, memref<2x20xf32>, !nanokernel.block<1x20xf32, lanes = n>
  %last = nanokernel.step %next, %a[m: %zero, k: %zero], %wide[k: %zero, n: %i] depth 1 using "fma.f32x16" : memref<1x2xf32>, memref<2x32xf32>, !nanokernel.block<1x20xf32, lanes = n>
  nanokernel.store %last, %c[m: %zero, n: %zero] : memref<1x20xf32>, !nanokernel.block<1x20xf32, lanes = n>
  return
}
