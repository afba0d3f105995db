// RUN: nkdsl-opt %s -p unroll | filecheck %s

// A source that is contiguous along k is transposed in registers, a tile of 4x4 at a time: two
// rounds that exchange groups of one and of two lanes. What is ragged along k is masked, rows
// that the source lacks are zero.
// CHECK-LABEL: func.func @transpose
// CHECK-DAG:     [[C0:%[0-9]+]] = arith.constant 0 : index
// CHECK-DAG:     [[C4:%[0-9]+]] = arith.constant 4 : index
// CHECK-DAG:     [[C8:%[0-9]+]] = arith.constant 8 : index
// CHECK-DAG:     [[C2:%[0-9]+]] = arith.constant 2 : index
// CHECK:         scf.for [[K:%[0-9]+]] = [[C0]] to [[C8]] step [[C4]] {
// CHECK:           [[AT:%[0-9]+]] = arith.addi %zero, [[K]] : index
// CHECK:           [[R0:%[0-9]+]] = nkvector.load %b[%zero, [[AT]]] : memref<7x10xf64>, vector<4xf64>
// CHECK-NEXT:      [[R1:%[0-9]+]] = nkvector.load %b[%zero + 1, [[AT]]]
// CHECK-NEXT:      [[R2:%[0-9]+]] = nkvector.load %b[%zero + 2, [[AT]]]
// CHECK-NEXT:      [[R3:%[0-9]+]] = nkvector.load %b[%zero + 3, [[AT]]]
// CHECK-NEXT:      [[S0:%[0-9]+]] = nkvector.shuffle [[R0]], [[R1]] [0, 4, 2, 6]
// CHECK-NEXT:      [[S1:%[0-9]+]] = nkvector.shuffle [[R0]], [[R1]] [1, 5, 3, 7]
// CHECK-NEXT:      [[S2:%[0-9]+]] = nkvector.shuffle [[R2]], [[R3]] [0, 4, 2, 6]
// CHECK-NEXT:      [[S3:%[0-9]+]] = nkvector.shuffle [[R2]], [[R3]] [1, 5, 3, 7]
// CHECK-NEXT:      [[T0:%[0-9]+]] = nkvector.shuffle [[S0]], [[S2]] [0, 1, 4, 5]
// CHECK-NEXT:      [[T2:%[0-9]+]] = nkvector.shuffle [[S0]], [[S2]] [2, 3, 6, 7]
// CHECK-NEXT:      [[T1:%[0-9]+]] = nkvector.shuffle [[S1]], [[S3]] [0, 1, 4, 5]
// CHECK-NEXT:      [[T3:%[0-9]+]] = nkvector.shuffle [[S1]], [[S3]] [2, 3, 6, 7]
// CHECK-NEXT:      nkvector.store [[T0]], %panel[[[K]], [[C0]]]
// CHECK-NEXT:      nkvector.store [[T1]], %panel[[[K]] + 1, [[C0]]]
// CHECK-NEXT:      nkvector.store [[T2]], %panel[[[K]] + 2, [[C0]]]
// CHECK-NEXT:      nkvector.store [[T3]], %panel[[[K]] + 3, [[C0]]]
// CHECK-NEXT:    }
// CHECK:         nkvector.load %b[%zero, {{%[0-9]+}}], [[C2]] : memref<7x10xf64>, vector<4xf64>
// CHECK:         nkvector.store {{%[0-9]+}}, %panel[[[C8]], [[C0]]]
// CHECK-NEXT:    nkvector.store {{%[0-9]+}}, %panel[[[C8]] + 1, [[C0]]]
// CHECK-NEXT:    scf.for
// CHECK:           [[NONE:%[0-9]+]] = arith.constant dense<0.000000e+00> : vector<4xf64>
// CHECK-COUNT-3:   nkvector.load
// CHECK-NOT:       nkvector.load
// CHECK:           nkvector.shuffle {{%[0-9]+}}, [[NONE]] [0, 4, 2, 6]
func.func @transpose(%b: memref<7x10xf64>) attributes {nanokernel.target = "x86-64-v3"} {
  %zero = arith.constant 0 : index
  %space = nanokernel.workspace at 0 : memref<80xf64>
  %panel = memref.reinterpret_cast %space to offset: [0], sizes: [10, 8], strides: [8, 1] : memref<80xf64> to memref<10x8xf64, strided<[8, 1]>>
  nanokernel.pack %b[n: %zero, k: %zero] extents 10 x 7 into %panel : memref<7x10xf64>, memref<10x8xf64, strided<[8, 1]>>
  return
}

// A source that is contiguous in neither direction is gathered element by element.
// CHECK-LABEL: func.func @spread
// CHECK:         [[NONE2:%[0-9]+]] = arith.constant dense<0.000000e+00> : vector<4xf64>
// CHECK-NEXT:    [[E0:%[0-9]+]] = nkvector.broadcast_load %b[%zero, {{%[0-9]+}}]
// CHECK-NEXT:    [[V0:%[0-9]+]] = nkvector.shuffle [[NONE2]], [[E0]] [4, 1, 2, 3]
// CHECK-NEXT:    [[E1:%[0-9]+]] = nkvector.broadcast_load %b[%zero + 1, {{%[0-9]+}}]
// CHECK-NEXT:    [[V1:%[0-9]+]] = nkvector.shuffle [[V0]], [[E1]] [0, 5, 2, 3]
// CHECK-NEXT:    nkvector.store [[V1]], %panel
// CHECK-NEXT:    return
func.func @spread(%b: memref<2x1xf64, strided<[8, 2]>>) attributes {nanokernel.target = "x86-64-v3"} {
  %zero = arith.constant 0 : index
  %space = nanokernel.workspace at 0 : memref<4xf64>
  %panel = memref.reinterpret_cast %space to offset: [0], sizes: [1, 4], strides: [4, 1] : memref<4xf64> to memref<1x4xf64, strided<[4, 1]>>
  nanokernel.pack %b[n: %zero, k: %zero] extents 1 x 2 into %panel : memref<2x1xf64, strided<[8, 2]>>, memref<1x4xf64, strided<[4, 1]>>
  return
}
