// RUN: xdsl-opt %s -p compose | filecheck %s
// RUN: nkdsl-opt %s -p compose --print-op-generic | nkdsl-opt | filecheck %s

// Grids of 2x2 tiles walk over what exists of a block; each sums up all of the reduction.
// CHECK-LABEL: func.func private @microkernel(
// CHECK-DAG:     [[ONE:%[0-9]+]] = arith.constant 1 : index
// CHECK-DAG:     [[EIGHT:%[0-9]+]] = arith.constant 8 : index
// CHECK-DAG:     [[ZERO:%[0-9]+]] = arith.constant 0 : index
// CHECK:         [[V:%[0-9]+]] = tile.vscale
// CHECK-NEXT:    [[ROWS:%[0-9]+]] = arith.muli [[V]], [[EIGHT]] : index
// CHECK-NEXT:    [[COLUMNS:%[0-9]+]] = arith.muli [[V]], [[EIGHT]] : index
// CHECK-DAG:     [[M:%[0-9]+]] = memref.dim %out, [[ZERO]]
// CHECK-DAG:     [[N:%[0-9]+]] = memref.dim %out, [[ONE]]
// CHECK:         scf.for [[I:%[0-9]+]] = [[ZERO]] to [[M]] step [[ROWS]] {
// CHECK-NEXT:      scf.for [[J:%[0-9]+]] = [[ZERO]] to [[N]] step [[COLUMNS]] {
// CHECK:             [[START:%[0-9]+]] = scf.if %first -> (!nanokernel.block<8x8xf32, lanes = n, tiles = 4x4, scalable>) {
// CHECK-NEXT:          nanokernel.zero : !nanokernel.block<8x8xf32, lanes = n, tiles = 4x4, scalable>
// CHECK:             } else {
// CHECK-NEXT:          nanokernel.load %out[m: [[I]], n: [[J]]] :
// CHECK:             [[DONE:%[0-9]+]] = scf.for [[K:%[0-9]+]] = [[ZERO]] to {{%[0-9]+}} step [[ONE]] iter_args([[PART:%[0-9]+]] = [[START]])
// CHECK-NEXT:          nanokernel.step [[PART]], %lhs[k: [[K]], m: [[I]]], %rhs[k: [[K]], n: [[J]]] depth 1 using "outer.f32" :
// CHECK:             nanokernel.store [[DONE]], %out[m: [[I]], n: [[J]]] :
func.func private @microkernel(%lhs: memref<?x?xf32, strided<[64, 1], offset: ?>>, %rhs: memref<?x?xf32, strided<[70, 1], offset: ?>>, %out: memref<?x?xf32, strided<[70, 1], offset: ?>>, %first: i1) attributes {nanokernel.target = "armv9-sme"} {
  nanokernel.gemm ins(%lhs[k, m], %rhs[k, n] : memref<?x?xf32, strided<[64, 1], offset: ?>>, memref<?x?xf32, strided<[70, 1], offset: ?>>) outs(%out[m, n] : memref<?x?xf32, strided<[70, 1], offset: ?>>) from zero if %first
    plan #nanokernel.plan<target = "armv9-sme", instruction = "outer.f32", block = 64x32, edges = masked>
  return
}

// Where factors lie in groups, the loop counts these; results in columns have lanes along m.
// CHECK-LABEL: func.func private @groups(
// CHECK:         [[GROUPS:%[0-9]+]] = arith.divui
// CHECK-NEXT:    [[START:%[0-9]+]] = nanokernel.zero : !nanokernel.block<8x8xi32, lanes = m, tiles = 4x4, scalable>
// CHECK-NEXT:    scf.for [[K:%[0-9]+]] = [[ZERO:%[0-9]+]] to [[GROUPS]] step {{%[0-9]+}} iter_args({{%[0-9]+}} = [[START]])
// CHECK-NEXT:      nanokernel.step {{%[0-9]+}}, %lhs[k: [[K]], m: {{%[0-9]+}}, g: [[ZERO]]], %rhs[k: [[K]], n: {{%[0-9]+}}, g: [[ZERO]]] depth 4 using "outer.u8s8" :
func.func private @groups(%lhs: memref<?x?x4xi8, strided<[128, 4, 1], offset: ?>>, %rhs: memref<?x?x4xi8, strided<[128, 4, 1], offset: ?>>, %out: memref<?x?xi32, strided<[1, 64], offset: ?>>) attributes {nanokernel.target = "armv9-sme"} {
  nanokernel.gemm ins(%lhs[k floordiv 4, m, k mod 4], %rhs[k floordiv 4, n, k mod 4] : memref<?x?x4xi8, strided<[128, 4, 1], offset: ?>>, memref<?x?x4xi8, strided<[128, 4, 1], offset: ?>>) unsigned lhs outs(%out[m, n] : memref<?x?xi32, strided<[1, 64], offset: ?>>) from zero
    plan #nanokernel.plan<target = "armv9-sme", instruction = "outer.u8s8", block = 32x32, lanes = m, edges = masked>
  return
}
