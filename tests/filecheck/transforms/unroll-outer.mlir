// RUN: xdsl-opt %s -p unroll | filecheck %s
// RUN: nkdsl-opt %s -p unroll --print-op-generic | nkdsl-opt | filecheck %s

// A grid of 2x2 tiles takes two vectors of each factor, loaded once. How much of each exists is computed
// where its place is known, outside of the loop: what the memref has left behind it, and nothing if it
// ends before.
// CHECK-LABEL: func.func private @grid(
// CHECK-DAG:     [[FOUR:%[0-9]+]] = arith.constant 4 : index
// CHECK-DAG:     [[EXTENT:%[0-9]+]] = memref.dim %a, {{%[0-9]+}} :
// CHECK:         [[END0:%[0-9]+]] = arith.maxui [[EXTENT]], %i : index
// CHECK-NEXT:    [[LEFT0:%[0-9]+]] = arith.subi [[END0]], %i : index
// CHECK:         [[V:%[0-9]+]] = tile.vscale
// CHECK-NEXT:    [[STEP:%[0-9]+]] = arith.muli [[V]], [[FOUR]] : index
// CHECK-DAG:     [[I1:%[0-9]+]] = arith.addi %i, [[STEP]] : index
// CHECK-DAG:     [[END1:%[0-9]+]] = arith.maxui [[EXTENT]], [[I1]] : index
// CHECK-DAG:     [[LEFT1:%[0-9]+]] = arith.subi [[END1]], [[I1]] : index
// CHECK-DAG:     [[J1:%[0-9]+]] = arith.addi %j, [[STEP]] : index
// CHECK:         [[C0:%[0-9]+]] = tile.load %c[%i, %j] rows 0 active [[M0:%[0-9]+]], [[N0:%[0-9]+]] into 0 :
// CHECK-NEXT:    [[C1:%[0-9]+]] = tile.load %c[%i, [[J1]]] rows 0 active [[M0]], [[N1:%[0-9]+]] into 1 :
// CHECK-NEXT:    [[C2:%[0-9]+]] = tile.load %c[[[I1]], %j] rows 0 active [[M1:%[0-9]+]], [[N0]] into 2 :
// CHECK-NEXT:    [[C3:%[0-9]+]] = tile.load %c[[[I1]], [[J1]]] rows 0 active [[M1]], [[N1]] into 3 :
// CHECK-NEXT:    [[D0:%[0-9]+]], [[D1:%[0-9]+]], [[D2:%[0-9]+]], [[D3:%[0-9]+]] = scf.for %k = %zero to %depth step %one iter_args([[P0:%[0-9]+]] = [[C0]], [[P1:%[0-9]+]] = [[C1]], [[P2:%[0-9]+]] = [[C2]], [[P3:%[0-9]+]] = [[C3]])
// CHECK-NEXT:      [[B0:%[0-9]+]] = tile.load %b[%k, %j] rows 0 active [[W0:%[0-9]+]] : memref<?x?xf32, strided<[70, 1]>>, !tile.tile<1x4xf32, scalable>
// CHECK-NEXT:      [[A0:%[0-9]+]] = tile.load %a[%k, %i] rows 0 active [[LEFT0]] :
// CHECK-NEXT:      [[S0:%[0-9]+]] = tile.mma [[P0]], [[A0]], [[B0]] using "outer.f32" : !tile.tile<4x4xf32, scalable>, !tile.tile<1x4xf32, scalable>, !tile.tile<1x4xf32, scalable>
// CHECK-NEXT:      [[A1:%[0-9]+]] = tile.load %a[%k, [[I1]]] rows 0 active [[LEFT1]] :
// CHECK-NEXT:      [[S2:%[0-9]+]] = tile.mma [[P2]], [[A1]], [[B0]] using "outer.f32"
// CHECK-NEXT:      [[B1:%[0-9]+]] = tile.load %b[%k, [[J1]]] rows 0 active
// CHECK-NEXT:      [[S1:%[0-9]+]] = tile.mma [[P1]], [[A0]], [[B1]] using "outer.f32"
// CHECK-NEXT:      [[S3:%[0-9]+]] = tile.mma [[P3]], [[A1]], [[B1]] using "outer.f32"
// CHECK-NEXT:      scf.yield [[S0]], [[S1]], [[S2]], [[S3]] :
// CHECK:         tile.store [[D0]], %c[%i, %j] rows 0 active [[M0]], [[N0]] :
// CHECK-NEXT:    tile.store [[D1]], %c[%i, [[J1]]] rows 0 active [[M0]], [[N1]] :
// CHECK-NEXT:    tile.store [[D2]], %c[[[I1]], %j] rows 0 active [[M1]], [[N0]] :
// CHECK-NEXT:    tile.store [[D3]], %c[[[I1]], [[J1]]] rows 0 active [[M1]], [[N1]] :
// CHECK-NEXT:    func.return
func.func private @grid(%a: memref<?x?xf32, strided<[64, 1]>>, %b: memref<?x?xf32, strided<[70, 1]>>, %c: memref<?x?xf32, strided<[70, 1]>>, %i: index, %j: index, %depth: index) attributes {nanokernel.target = "armv9-sme"} {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %old = nanokernel.load %c[m: %i, n: %j] : memref<?x?xf32, strided<[70, 1]>>, !nanokernel.block<8x8xf32, lanes = n, tiles = 4x4, scalable>
  %sums = scf.for %k = %zero to %depth step %one iter_args(%part = %old) -> (!nanokernel.block<8x8xf32, lanes = n, tiles = 4x4, scalable>) {
    %next = nanokernel.step %part, %a[k: %k, m: %i], %b[k: %k, n: %j] depth 1 using "outer.f32" : memref<?x?xf32, strided<[64, 1]>>, memref<?x?xf32, strided<[70, 1]>>, !nanokernel.block<8x8xf32, lanes = n, tiles = 4x4, scalable>
    scf.yield %next : !nanokernel.block<8x8xf32, lanes = n, tiles = 4x4, scalable>
  }
  nanokernel.store %sums, %c[m: %i, n: %j] : memref<?x?xf32, strided<[70, 1]>>, !nanokernel.block<8x8xf32, lanes = n, tiles = 4x4, scalable>
  return
}

// With lanes along m the row factor is rhs, and so the left one of the instruction: the signs change
// places. Of factors in groups all elements of a group exist, or none.
// CHECK-LABEL: func.func private @lanes_m(
// CHECK-DAG:     [[FOUR:%[0-9]+]] = arith.constant 4 : index
// CHECK-DAG:     [[COUNT:%[0-9]+]] = arith.subi {{%[0-9]+}}, %zero : index
// CHECK-DAG:     [[BYTES:%[0-9]+]] = arith.muli {{%[0-9]+}}, [[FOUR]] : index
// CHECK:         [[C0:%[0-9]+]] = tile.zero into 0 : !tile.tile<4x4xi32, scalable>
// CHECK-NEXT:    [[C1:%[0-9]+]] = tile.zero into 1 : !tile.tile<4x4xi32, scalable>
// CHECK-NEXT:    [[B0:%[0-9]+]] = tile.load %b[%k, %zero, %zero] rows 0 active {{%[0-9]+}} : memref<?x?x4xi8>, !tile.tile<1x16xi8, scalable>
// CHECK-NEXT:    [[A:%[0-9]+]] = tile.load %a[%k, %zero, %zero] rows 0 active
// CHECK-NEXT:    tile.mma [[C0]], [[B0]], [[A]] using "outer.s8u8" : !tile.tile<4x4xi32, scalable>, !tile.tile<1x16xi8, scalable>, !tile.tile<1x16xi8, scalable>
// CHECK-NEXT:    [[B1:%[0-9]+]] = tile.load %b[%k, [[N1:%[0-9]+]], %zero] rows 0 active
// CHECK-NEXT:    tile.mma [[C1]], [[B1]], [[A]] using "outer.s8u8"
// CHECK:         tile.store {{%[0-9]+}}, %c[%zero, %zero] rows 0 active
// CHECK-NEXT:    tile.store {{%[0-9]+}}, %c[[[N1]], %zero] rows 0 active
func.func private @lanes_m(%a: memref<?x?x4xi8>, %b: memref<?x?x4xi8>, %c: memref<?x?xi32>, %k: index) attributes {nanokernel.target = "armv9-sme"} {
  %zero = arith.constant 0 : index
  %sums = nanokernel.zero : !nanokernel.block<4x8xi32, lanes = m, tiles = 4x4, scalable>
  %next = nanokernel.step %sums, %a[k: %k, m: %zero, g: %zero], %b[k: %k, n: %zero, g: %zero] depth 4 using "outer.u8s8" : memref<?x?x4xi8>, memref<?x?x4xi8>, !nanokernel.block<4x8xi32, lanes = m, tiles = 4x4, scalable>
  nanokernel.store %next, %c[n: %zero, m: %zero] : memref<?x?xi32>, !nanokernel.block<4x8xi32, lanes = m, tiles = 4x4, scalable>
  return
}
