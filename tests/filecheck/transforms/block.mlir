// RUN: xdsl-opt %s -p block | filecheck %s
// RUN: nkdsl-opt %s -p block --print-op-generic | nkdsl-opt | filecheck %s

// Known sizes, nothing packed: 12 rows are two cache blocks of 6, each of them two blocks of 3; the
// columns are 16 and 9, the last register masked. Only the microkernels that occur are made, with all
// that is known: rows and columns are static, and every loop's bounds.
// CHECK-LABEL: func.func @known(
// CHECK-NOT:     nanokernel.workspace
// CHECK-NOT:     nanokernel.pack
// CHECK-NOT:     scf.index_switch
// CHECK:         scf.for
// CHECK:           memref.subview %b[0, 0] [24, 16] [1, 1]
// CHECK:           nanokernel.microkernel @known_3x16({{.*}}) : memref<3x?xf32, strided<[24, 1], offset: ?>>, memref<?x16xf32, strided<[25, 1], offset: ?>>, memref<3x16xf32, strided<[25, 1], offset: ?>>, i1
// CHECK:           memref.subview %b[0, 16] [24, 9] [1, 1]
// CHECK:           nanokernel.microkernel @known_3x9(
// CHECK-NOT:       nanokernel.microkernel
// CHECK:         func.return
func.func @known(%a: memref<12x24xf32>, %b: memref<24x25xf32>, %c: memref<12x25xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<12x24xf32>, memref<24x25xf32>) outs(%c[m, n] : memref<12x25xf32>) from zero
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 3x16, k_unroll = 4, m_block = 6>
  return
}

// Packed panels: the vector factor's lie one behind the other, whole registers wide; the rows of the
// broadcast factor keep their orientation, an odd number of cache lines apart. The second part of the
// reduction adds to what the first one started.
// CHECK-LABEL: func.func @packed(
// CHECK:         [[ROWS:%[0-9]+]] = nanokernel.workspace at 0 : memref<96xf32>
// CHECK:         [[PANELS:%[0-9]+]] = nanokernel.workspace at 384 : memref<384xf32>
// CHECK:         scf.for [[K:%[0-9]+]] =
// CHECK-NEXT:      [[P0:%[0-9]+]] = memref.reinterpret_cast [[PANELS]] to offset: [0], sizes: [12, 16], strides: [16, 1]
// CHECK-NEXT:      nanokernel.pack %b[k: [[K]], n: {{%[0-9]+}}] extents 12 x 16 into [[P0]] :
// CHECK-NEXT:      [[P1:%[0-9]+]] = memref.reinterpret_cast [[PANELS]] to offset: [192], sizes: [12, 16], strides: [16, 1]
// CHECK-NEXT:      nanokernel.pack %b[k: [[K]], n: {{%[0-9]+}}] extents 12 x 9 into [[P1]] :
// CHECK-NEXT:      scf.for [[M:%[0-9]+]] =
// CHECK-NEXT:        [[R:%[0-9]+]] = memref.reinterpret_cast [[ROWS]] to offset: [0], sizes: [6, 16], strides: [16, 1]
// CHECK-NEXT:        nanokernel.pack %a[m: [[M]], k: [[K]]] extents 6 x 12 into [[R]] lanes k :
// CHECK:         [[FIRST:%[0-9]+]] = arith.cmpi eq, [[K]],
// CHECK:         nanokernel.microkernel @packed_3x16({{.*}}, [[FIRST]]) : memref<3x?xf32, strided<[16, 1], offset: ?>>, memref<?x16xf32, strided<[16, 1], offset: ?>>, memref<3x16xf32, strided<[25, 1], offset: ?>>, i1
// CHECK:         nanokernel.microkernel @packed_3x9({{.*}}, [[FIRST]]) : memref<3x?xf32, strided<[16, 1], offset: ?>>, memref<?x9xf32, strided<[16, 1], offset: ?>>, memref<3x9xf32, strided<[25, 1], offset: ?>>, i1
func.func @packed(%a: memref<12x24xf32>, %b: memref<24x25xf32>, %c: memref<12x25xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<12x24xf32>, memref<24x25xf32>) outs(%c[m, n] : memref<12x25xf32>) from zero
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 3x16, k_unroll = 4, pack = both, m_block = 6, n_block = 32, k_block = 12>
  return
}

// Run-time sizes: which block there is at an edge is found then, by its registers and rows. Whether
// anything is packed is decided by the smaller side; one function packs all panels of a width.
// CHECK-LABEL: func.func @run_time(
// CHECK-DAG:     memref.dim %b,
// CHECK-DAG:     memref.dim %c,
// CHECK:         [[LARGE:%[0-9]+]] = arith.cmpi uge, {{%[0-9]+}}, {{%[0-9]+}} : index
// CHECK-NEXT:    scf.if [[LARGE]] {
// CHECK:           scf.index_switch
// CHECK-NEXT:      case 1 {
// CHECK:             func.call @run_time_pack_16(%b, {{.*}}) : (memref<?x?xf32>, index, index, memref<?x16xf32, strided<[16, 1], offset: ?>>, index, index) -> ()
// CHECK:           default {
// CHECK:             func.call @run_time_pack_32(%b, {{.*}}) : (memref<?x?xf32>, index, index, memref<?x32xf32, strided<[32, 1], offset: ?>>, index, index) -> ()
// CHECK:           nanokernel.pack %a{{.*}} lanes k
// CHECK:           scf.index_switch
// CHECK:             nanokernel.microkernel @run_time_1x16(
// CHECK:             nanokernel.microkernel @run_time_2x16(
// CHECK:             nanokernel.microkernel @run_time_1x32(
// CHECK:           default {
// CHECK:             nanokernel.microkernel @run_time_2x32({{.*}}) : memref<2x?xf32, strided<[?, 1], offset: ?>>, memref<?x?xf32, strided<[?, 1], offset: ?>>, memref<2x?xf32, strided<[?, 1], offset: ?>>, i1
// CHECK:         } else {
// CHECK-NOT:       nanokernel.pack
// CHECK:           nanokernel.microkernel @run_time_2x32(
// CHECK:         func.return
func.func @run_time(%a: memref<?x?xf32>, %b: memref<?x?xf32>, %c: memref<?x?xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<?x?xf32>, memref<?x?xf32>) outs(%c[m, n] : memref<?x?xf32>) from zero
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 2x32, k_unroll = 4, pack = both, m_block = 6, n_block = 64, k_block = 32, pack_from = 16>
  return
}

// Lanes along m exchange the roles of the factors: lhs lies in panels, rhs is broadcast. The first
// microkernel packs the panel in passing.
// CHECK-LABEL: func.func @lanes_m(
// CHECK-NOT:     nanokernel.pack
// CHECK:         nanokernel.microkernel @lanes_m_16x3_first({{.*}}) : memref<?x16xf32, strided<[16, 1], offset: ?>>, memref<?x3xf32, strided<[6, 1], offset: ?>>, memref<3x16xf32, strided<[16, 1], offset: ?>>, i1, memref<?x16xf32, strided<[16, 1], offset: ?>>
// CHECK:         nanokernel.microkernel @lanes_m_16x3({{.*}}) : memref<?x16xf32, strided<[16, 1], offset: ?>>, memref<?x3xf32, strided<[6, 1], offset: ?>>, memref<3x16xf32, strided<[16, 1], offset: ?>>, i1
func.func @lanes_m(%a: memref<24x16xf32>, %b: memref<24x6xf32>, %c: memref<6x16xf32>) {
  nanokernel.gemm ins(%a[k, m], %b[k, n] : memref<24x16xf32>, memref<24x6xf32>) outs(%c[n, m] : memref<6x16xf32>) from zero
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 16x3, lanes = m, k_unroll = 4, resident = lhs, pack = lhs, m_block = 32>
  return
}

// Iterators outside of the blocks are loops around views; `beta` counts in the first part only.
// CHECK-LABEL: func.func @batch(
// CHECK:         scf.for [[B:%[0-9]+]] =
// CHECK:           memref.subview %a[{{%[0-9]+}}, 0, 0] [1, 6, 24] [1, 1, 1] : memref<5x6x24xf32> to memref<6x24xf32, strided<[24, 1], offset: ?>>
// CHECK:           [[ONE:%[0-9]+]] = arith.constant 1.000000e+00 : f32
// CHECK:           [[BETA:%[0-9]+]] = arith.select {{%[0-9]+}}, %beta, [[ONE]] : f32
// CHECK:           nanokernel.microkernel @batch_3x16({{.*}}, %alpha, [[BETA]])
func.func @batch(%a: memref<5x6x24xf32>, %b: memref<5x24x16xf32>, %c: memref<5x6x16xf32>, %alpha: f32, %beta: f32) {
  nanokernel.gemm ins(%a[b, m, k], %b[b, k, n] : memref<5x6x24xf32>, memref<5x24x16xf32>) outs(%c[b, m, n] : memref<5x6x16xf32>) scale %alpha, %beta
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 3x16, k_unroll = 4, m_block = 6, k_block = 12>
  return
}

// A product that needs no cache blocks is left to `compose`.
// CHECK-LABEL: func.func @small(
// CHECK-NEXT:    nanokernel.gemm
func.func @small(%a: memref<3x4xf32>, %b: memref<4x16xf32>, %c: memref<3x16xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<3x4xf32>, memref<4x16xf32>) outs(%c[m, n] : memref<3x16xf32>)
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 3x16, k_unroll = 4>
  return
}

// A microkernel is a private function that holds one product of a block's size. Where its size is
// known only at run time, the rows are static, the columns masked.
// CHECK:       func.func private @known_3x16(%lhs: memref<3x?xf32, strided<[24, 1], offset: ?>>, %rhs: memref<?x16xf32, strided<[25, 1], offset: ?>>, %out: memref<3x16xf32, strided<[25, 1], offset: ?>>, %first: i1) attributes {nanokernel.target = "znver4"} {
// CHECK-NEXT:    nanokernel.gemm ins(%lhs[m, k], %rhs[k, n] : {{.*}}) outs(%out[m, n] : {{.*}}) from zero if %first plan #nanokernel.plan<{{.*}} block = 3x16, lanes = n, edges = masked, k_unroll = 4, k_block = 0, {{.*}} pack = none>
// CHECK-NEXT:    func.return
// CHECK:       func.func private @known_3x9(
// CHECK-NEXT:    {{.*}} block = 3x16,
// CHECK:       func.func private @packed_3x16(
// CHECK:       func.func private @run_time_1x16(%lhs: memref<1x?xf32, {{.*}}>, %rhs: memref<?x?xf32, {{.*}}>, %out: memref<1x?xf32, {{.*}}>, %first: i1)
// CHECK-NEXT:    {{.*}} block = 1x16,
// CHECK:       func.func private @batch_3x16({{.*}}, %first: i1, %alpha: f32, %beta: f32)
// CHECK-NEXT:    {{.*}} from zero if %first scale %alpha, %beta plan
