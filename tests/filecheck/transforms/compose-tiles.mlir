// RUN: xdsl-opt %s -p compose | filecheck %s
// RUN: nkdsl-opt %s -p compose --print-op-generic | nkdsl-opt | filecheck %s

// One block of tiles, which its factors fill: it starts with zero or with old sums, each turn takes an
// instruction's depth of groups, and the sums are stored as they are.
// CHECK-LABEL: func.func private @maybe(
// CHECK-DAG:     [[TURN:%[0-9]+]] = arith.constant 16 : index
// CHECK-DAG:     [[TWO:%[0-9]+]] = arith.constant 2 : index
// CHECK:         [[GROUPS:%[0-9]+]] = arith.divui {{%[0-9]+}}, [[TWO]] : index
// CHECK-NEXT:    [[START:%[0-9]+]] = scf.if %first -> (!nanokernel.block<32x32xf32, lanes = n, tiles = 16x16>) {
// CHECK-NEXT:      nanokernel.zero : !nanokernel.block<32x32xf32, lanes = n, tiles = 16x16>
// CHECK:         } else {
// CHECK-NEXT:      nanokernel.load %out[m: [[ZERO:%[0-9]+]], n: [[ZERO]]] :
// CHECK:         [[SUMS:%[0-9]+]] = scf.for [[Q:%[0-9]+]] = [[ZERO]] to [[GROUPS]] step [[TURN]] iter_args([[PART:%[0-9]+]] = [[START]])
// CHECK-NEXT:      [[K:%[0-9]+]] = arith.muli [[Q]], [[TWO]] : index
// CHECK-NEXT:      nanokernel.step [[PART]], %lhs[m: [[ZERO]], k: [[K]]], %rhs[k: [[Q]], n: [[ZERO]], g: [[ZERO]]] depth 32 using "tile.bf16x16x16x32" :
// CHECK:         nanokernel.store [[SUMS]], %out[m: [[ZERO]], n: [[ZERO]]] : memref<32x32xf32, strided<[64, 1], offset: ?>>, !nanokernel.block<32x32xf32, lanes = n, tiles = 16x16>
func.func private @maybe(%lhs: memref<32x?xbf16, strided<[128, 1], offset: ?>>, %rhs: memref<?x32x2xbf16, strided<[64, 2, 1], offset: ?>>, %out: memref<32x32xf32, strided<[64, 1], offset: ?>>, %first: i1) attributes {nanokernel.target = "sapphirerapids"} {
  nanokernel.gemm ins(%lhs[m, k], %rhs[k floordiv 2, n, k mod 2] : memref<32x?xbf16, strided<[128, 1], offset: ?>>, memref<?x32x2xbf16, strided<[64, 2, 1], offset: ?>>) outs(%out[m, n] : memref<32x32xf32, strided<[64, 1], offset: ?>>) from zero if %first
    plan #nanokernel.plan<target = "sapphirerapids", instruction = "tile.bf16x16x16x32", block = 32x32, edges = masked>
  return
}

// Rows are spread evenly over tiles of one height.
// CHECK-LABEL: func.func private @even(
// CHECK:         [[SUMS:%[0-9]+]] = nanokernel.zero : !nanokernel.block<22x16xi32, lanes = n, tiles = 11x16>
// CHECK-NEXT:    nanokernel.step [[SUMS]], {{.*}} depth 64 using "tile.s8s8x16x16x64" :
// CHECK-NEXT:    nanokernel.store
// CHECK-NEXT:    func.return
func.func private @even(%lhs: memref<22x64xi8>, %rhs: memref<16x16x4xi8>, %out: memref<22x16xi32>) attributes {nanokernel.target = "sapphirerapids"} {
  nanokernel.gemm ins(%lhs[m, k], %rhs[k floordiv 4, n, k mod 4] : memref<22x64xi8>, memref<16x16x4xi8>) outs(%out[m, n] : memref<22x16xi32>) from zero
    plan #nanokernel.plan<target = "sapphirerapids", instruction = "tile.s8s8x16x16x64", block = 22x16, edges = masked>
  return
}

// With lanes along m lhs lies in groups, and rows of rhs along k.
// CHECK-LABEL: func.func private @lanes_m(
// CHECK:         nanokernel.load %out[n: [[ZERO:%[0-9]+]], m: [[ZERO]]] : memref<16x16xi32>, !nanokernel.block<16x16xi32, lanes = m, tiles = 16x16>
// CHECK-NEXT:    nanokernel.step {{%[0-9]+}}, %lhs[k: [[ZERO]], m: [[ZERO]], g: [[ZERO]]], %rhs[n: [[ZERO]], k: [[ZERO]]] depth 64 using "tile.u8s8x16x16x64" :
func.func private @lanes_m(%lhs: memref<16x16x4xi8>, %rhs: memref<16x64xi8>, %out: memref<16x16xi32>) attributes {nanokernel.target = "sapphirerapids"} {
  nanokernel.gemm ins(%lhs[k floordiv 4, m, k mod 4], %rhs[n, k] : memref<16x16x4xi8>, memref<16x64xi8>) unsigned lhs outs(%out[n, m] : memref<16x16xi32>)
    plan #nanokernel.plan<target = "sapphirerapids", instruction = "tile.u8s8x16x16x64", block = 16x16, lanes = m, edges = masked>
  return
}

// Rows of another panel are packed meanwhile, as many as there are, a group at a time.
// CHECK-LABEL: func.func private @ahead(
// CHECK:         [[ROWS:%[0-9]+]] = memref.dim %source,
// CHECK:         [[SUMS:%[0-9]+]] = nanokernel.step
// CHECK:         scf.for [[G:%[0-9]+]] = {{%[0-9]+}} to {{%[0-9]+}} step
// CHECK-NEXT:      [[ROW:%[0-9]+]] = memref.subview %panel[[[G]], 0, 0] [1, 16, 4] [1, 1, 1]
// CHECK-NEXT:      [[K:%[0-9]+]] = arith.muli [[G]],
// CHECK-NEXT:      nanokernel.pack %source[k: [[K]], n: {{%[0-9]+}}] extents 4 x 16 into [[ROW]] :
// CHECK:         nanokernel.store [[SUMS]], %out
func.func private @ahead(%lhs: memref<16x64xi8>, %rhs: memref<16x16x4xi8>, %out: memref<16x16xi32>, %source: memref<?x16xi8, strided<[64, 1], offset: ?>>, %panel: memref<?x16x4xi8, strided<[64, 4, 1], offset: ?>>) attributes {nanokernel.target = "sapphirerapids"} {
  nanokernel.gemm ins(%lhs[m, k], %rhs[k floordiv 4, n, k mod 4] : memref<16x64xi8>, memref<16x16x4xi8>) outs(%out[m, n] : memref<16x16xi32>) pack %source into %panel : memref<?x16xi8, strided<[64, 1], offset: ?>>, memref<?x16x4xi8, strided<[64, 4, 1], offset: ?>>
    plan #nanokernel.plan<target = "sapphirerapids", instruction = "tile.s8s8x16x16x64", block = 16x16, edges = masked>
  return
}
