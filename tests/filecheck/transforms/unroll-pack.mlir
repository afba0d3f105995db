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
// CHECK-NEXT:      [[R0:%[0-9]+]] = nkvector.load %b[[[C0]], [[K]]] : memref<7x10xf64>, vector<4xf64>
// CHECK-NEXT:      [[R1:%[0-9]+]] = nkvector.load %b[[[C0]] + 1, [[K]]]
// CHECK-NEXT:      [[R2:%[0-9]+]] = nkvector.load %b[[[C0]] + 2, [[K]]]
// CHECK-NEXT:      [[R3:%[0-9]+]] = nkvector.load %b[[[C0]] + 3, [[K]]]
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
// CHECK:         nkvector.load %b[[[C0]], [[C8]]], [[C2]] : memref<7x10xf64>, vector<4xf64>
// CHECK:         nkvector.store {{%[0-9]+}}, %panel[[[C8]], [[C0]]]
// CHECK-NEXT:    nkvector.store {{%[0-9]+}}, %panel[[[C8]] + 1, [[C0]]]
// CHECK-NEXT:    scf.for
// CHECK-COUNT-3:   nkvector.load
// CHECK-NOT:       nkvector.load
// CHECK:           [[NONE:%[0-9]+]] = arith.constant dense<0.000000e+00> : vector<4xf64>
// CHECK:           nkvector.shuffle {{%[0-9]+}}, [[NONE]] [0, 4, 2, 6]
func.func @transpose(%b: memref<7x10xf64>) attributes {nanokernel.target = "x86-64-v3"} {
  %zero = arith.constant 0 : index
  %space = nanokernel.workspace at 0 : memref<80xf64>
  %panel = memref.reinterpret_cast %space to offset: [0], sizes: [10, 8], strides: [8, 1] : memref<80xf64> to memref<10x8xf64, strided<[8, 1]>>
  nanokernel.pack %b[n: %zero, k: %zero] extents 10 x 7 into %panel : memref<7x10xf64>, memref<10x8xf64, strided<[8, 1]>>
  return
}

// A source that is contiguous in neither direction is copied element by element.
// CHECK-LABEL: func.func @spread
// CHECK:         scf.for [[N:%[0-9]+]] =
// CHECK-NEXT:      [[E:%[0-9]+]] = nkvector.broadcast_load %b[[[N]], [[Z:%[0-9]+]]]
// CHECK-NEXT:      nkvector.store [[E]], %panel[[[Z]], [[N]]] : {{.*}}, vector<1xf64>
// CHECK-NEXT:    }
// CHECK-NEXT:    return
func.func @spread(%b: memref<2x1xf64, strided<[8, 2]>>) attributes {nanokernel.target = "x86-64-v3"} {
  %zero = arith.constant 0 : index
  %space = nanokernel.workspace at 0 : memref<4xf64>
  %panel = memref.reinterpret_cast %space to offset: [0], sizes: [1, 4], strides: [4, 1] : memref<4xf64> to memref<1x4xf64, strided<[4, 1]>>
  nanokernel.pack %b[n: %zero, k: %zero] extents 1 x 2 into %panel : memref<2x1xf64, strided<[8, 2]>>, memref<1x4xf64, strided<[4, 1]>>
  return
}

// A source that is contiguous along the panel's rows is copied in registers, four rows a turn, then row
// by row, and its lines are asked for some rows ahead. Of 6 columns the second register is half full.
// CHECK-LABEL: func.func @copy
// CHECK-DAG:     [[C0:%[0-9]+]] = arith.constant 0 : index
// CHECK-DAG:     [[C1:%[0-9]+]] = arith.constant 1 : index
// CHECK-DAG:     [[C2:%[0-9]+]] = arith.constant 2 : index
// CHECK-DAG:     [[C4:%[0-9]+]] = arith.constant 4 : index
// CHECK-DAG:     [[C8:%[0-9]+]] = arith.constant 8 : index
// CHECK-DAG:     [[C10:%[0-9]+]] = arith.constant 10 : index
// CHECK:         scf.for [[K:%[0-9]+]] = [[C0]] to [[C8]] step [[C4]] {
// CHECK-NEXT:      nkvector.prefetch %b[[[K]] + 24, [[C0]]]
// CHECK-NEXT:      [[X0:%[0-9]+]] = nkvector.load %b[[[K]], [[C0]]] : memref<10x7xf64>, vector<4xf64>
// CHECK-NEXT:      nkvector.store [[X0]], %panel[[[K]], [[C0]]]
// CHECK-NEXT:      nkvector.prefetch %b[[[K]] + 24, [[C0]] + 4]
// CHECK-NEXT:      [[X1:%[0-9]+]] = nkvector.load %b[[[K]], [[C0]] + 4], [[C2]]
// CHECK-NEXT:      nkvector.store [[X1]], %panel[[[K]], [[C0]] + 4]
// CHECK:           [[X2:%[0-9]+]] = nkvector.load %b[[[K]] + 1, [[C0]]]
// CHECK:           nkvector.load %b[[[K]] + 3, [[C0]] + 4], [[C2]]
// CHECK:         }
// CHECK:         scf.for [[R:%[0-9]+]] = [[C8]] to [[C10]] step [[C1]] {
// CHECK:           nkvector.load %b[[[R]], [[C0]]]
func.func @copy(%b: memref<10x7xf64>) attributes {nanokernel.target = "x86-64-v3"} {
  %zero = arith.constant 0 : index
  %space = nanokernel.workspace at 0 : memref<80xf64>
  %panel = memref.reinterpret_cast %space to offset: [0], sizes: [10, 8], strides: [8, 1] : memref<80xf64> to memref<10x8xf64, strided<[8, 1]>>
  nanokernel.pack %b[k: %zero, n: %zero] extents 10 x 6 into %panel : memref<10x7xf64>, memref<10x8xf64, strided<[8, 1]>>
  return
}

// Sizes may be known only at run time. A register that starts beyond the last column is empty.
// CHECK-LABEL: func.func @copy_some
// CHECK:         [[D4:%[0-9]+]] = arith.constant 4 : index
// CHECK:         [[BEYOND:%[0-9]+]] = arith.maxui %n, [[D4]] : index
// CHECK-NEXT:    [[LEFT:%[0-9]+]] = arith.subi [[BEYOND]], [[D4]] : index
// CHECK-NEXT:    [[REST:%[0-9]+]] = arith.remui %k, [[D4]] : index
// CHECK-NEXT:    [[WHOLE:%[0-9]+]] = arith.subi %k, [[REST]] : index
// CHECK-NEXT:    scf.for [[K:%[0-9]+]] = {{%[0-9]+}} to [[WHOLE]] step [[D4]] {
// CHECK:           nkvector.load %b[[[K]], {{%[0-9]+}}], %n :
// CHECK:           nkvector.load %b[[[K]], {{%[0-9]+}} + 4], [[LEFT]]
// CHECK:         scf.for {{%[0-9]+}} = [[WHOLE]] to %k step
func.func @copy_some(%b: memref<?x?xf64>, %k: index, %n: index) attributes {nanokernel.target = "x86-64-v3"} {
  %zero = arith.constant 0 : index
  %space = nanokernel.workspace at 0 : memref<80xf64>
  %panel = memref.reinterpret_cast %space to offset: [0], sizes: [%k, 8], strides: [8, 1] : memref<80xf64> to memref<?x8xf64, strided<[8, 1]>>
  nanokernel.pack %b[k: %zero, n: %zero] extents %k x %n into %panel : memref<?x?xf64>, memref<?x8xf64, strided<[8, 1]>>
  return
}

// Rows that are as long as a factor's part of the reduction are copied one at a time, whole turns of
// four registers first.
// CHECK-LABEL: func.func @copy_long
// CHECK:         scf.for [[M:%[0-9]+]] =
// CHECK:           scf.for [[K:%[0-9]+]] =
// CHECK-COUNT-4:     nkvector.load {{.*}}] : memref<6x70xf64>, vector<4xf64>
// CHECK:           }
// CHECK:           nkvector.load {{.*}}], {{%[0-9]+}} : memref<6x70xf64>, vector<4xf64>
func.func @copy_long(%a: memref<6x70xf64>) attributes {nanokernel.target = "x86-64-v3"} {
  %zero = arith.constant 0 : index
  %space = nanokernel.workspace at 0 : memref<432xf64>
  %panel = memref.reinterpret_cast %space to offset: [0], sizes: [6, 72], strides: [72, 1] : memref<432xf64> to memref<6x72xf64, strided<[72, 1]>>
  nanokernel.pack %a[m: %zero, k: %zero] extents 6 x 70 into %panel lanes k : memref<6x70xf64>, memref<6x72xf64, strided<[72, 1]>>
  return
}
