// RUN: nkdsl-opt %s -p compose | filecheck %s
// RUN: nkdsl-opt %s -p compose --print-op-generic | nkdsl-opt | filecheck %s

// Where the signs of a factor are flipped, sums of the other one make up for it. A factor that lies
// in groups is added up in place, a block right before its use; sums of a ragged one are whole
// registers.
// CHECK-LABEL: func.func @in_place
// CHECK:         [[SUMS:%[0-9]+]] = nanokernel.workspace at 0 : memref<16xi32>
// CHECK-NEXT:    [[WIDE:%[0-9]+]] = memref.subview %b[0, 0, 0] [3, 16, 4] [1, 1, 1]
// CHECK-NEXT:    nanokernel.sum [[WIDE]] times -128 into [[SUMS]] :
// CHECK-NEXT:    [[START:%[0-9]+]] = nanokernel.load [[SUMS]][n: {{%[0-9]+}}] : memref<16xi32>, !nanokernel.block<2x16xi32, lanes = n>
// CHECK-NEXT:    nanokernel.step [[START]], {{.*}} depth 10 using "dot.u8s8x16" flip lhs :
// CHECK-NEXT:    nanokernel.store
// CHECK-NEXT:    [[NARROW:%[0-9]+]] = memref.subview %b[0, 16, 0] [3, 8, 4] [1, 1, 1]
// CHECK-NEXT:    nanokernel.sum [[NARROW]] times -128 into [[SUMS]] :
func.func @in_place(%a: memref<2x10xi8>, %b: memref<3x24x4xi8>, %c: memref<2x24xi32>) {
  nanokernel.gemm ins(%a[m, k], %b[k floordiv 4, n, k mod 4] : memref<2x10xi8>, memref<3x24x4xi8>) outs(%c[m, n] : memref<2x24xi32>) from zero
    plan #nanokernel.plan<target = "znver4", instruction = "dot.s8s8x16", block = 2x16, k_unroll = 3>
  return
}

// With lanes along m it is lhs that is added up; of u8 factors the flipped ones become smaller.
// CHECK-LABEL: func.func @lhs_in_place
// CHECK:         nanokernel.sum {{%[0-9]+}} unsigned times 128 into {{%[0-9]+}} : memref<3x16x4xi8, strided<[64, 4, 1]>>, memref<16xi32>
// CHECK:         nanokernel.step {{.*}} using "dot.u8s8x16" flip rhs
func.func @lhs_in_place(%a: memref<3x16x4xi8>, %b: memref<2x10xi8>, %c: memref<2x16xi32>) {
  nanokernel.gemm ins(%a[k floordiv 4, m, k mod 4], %b[n, k] : memref<3x16x4xi8>, memref<2x10xi8>) unsigned both outs(%c[n, m] : memref<2x16xi32>)
    plan #nanokernel.plan<target = "znver4", instruction = "dot.u8u8x16", block = 16x2, lanes = m, resident = lhs>
  return
}

// Sums over several reductions are added up before the first step of any.
// CHECK-LABEL: func.func @reductions
// CHECK:         [[PLACE:%[0-9]+]] = nanokernel.workspace at 640 : memref<16xi32>
// CHECK-NEXT:    [[ZERO:%[0-9]+]] = nanokernel.zero : !nanokernel.block<1x16xi32, lanes = n>
// CHECK-NEXT:    nanokernel.store [[ZERO]], [[PLACE]][n: {{%[0-9]+}}]
// CHECK-NEXT:    scf.for
// CHECK:           nanokernel.pack %b[{{%[0-9]+}}, k: {{%[0-9]+}}, n: {{%[0-9]+}}] extents 8 x 16 into [[PANEL:%[0-9]+]]
// CHECK-NEXT:      nanokernel.sum [[PANEL]] times -128 into [[PLACE]] accumulate :
// CHECK-NEXT:    }
// CHECK-NEXT:    [[FIRST:%[0-9]+]] = nanokernel.load [[PLACE]][n: {{%[0-9]+}}]
// CHECK-NEXT:    scf.for {{.*}} iter_args({{%[0-9]+}} = [[FIRST]])
func.func @reductions(%a: memref<5x2x8xi8>, %b: memref<5x8x16xi8>, %c: memref<2x16xi32>) {
  nanokernel.gemm ins(%a[k0, m, k1], %b[k0, k1, n] : memref<5x2x8xi8>, memref<5x8x16xi8>) outs(%c[m, n] : memref<2x16xi32>) from zero
    plan #nanokernel.plan<target = "znver4", instruction = "dot.s8s8x16", block = 2x16, k_unroll = 2, pack = rhs>
  return
}

// Sums that are given are those of the whole reduction: only its first part starts with them.
// CHECK-LABEL: func.func @given
// CHECK-NOT:     nanokernel.sum
// CHECK:         scf.for [[PANEL:%[0-9]+]] =
// CHECK:           [[PART:%[0-9]+]] = memref.subview %s{{\[}}[[PANEL]], 0] [1, 16] [1, 1] : memref<2x16xi32> to memref<16xi32, strided<[1], offset: ?>>
// CHECK-NEXT:      [[START:%[0-9]+]] = nanokernel.load [[PART]][n: {{%[0-9]+}}]
// CHECK-NEXT:      scf.for {{.*}} iter_args({{%[0-9]+}} = [[START]])
// CHECK:           nanokernel.store {{.*}} accumulate
// CHECK:           [[NONE:%[0-9]+]] = nanokernel.zero
// CHECK-NEXT:      scf.for {{.*}} iter_args({{%[0-9]+}} = [[NONE]])
// CHECK:           nanokernel.store {{.*}} accumulate
func.func @given(%a: memref<2x32xi8>, %b: memref<2x8x16x4xi8>, %s: memref<2x16xi32>, %c: memref<2x32xi32>) {
  nanokernel.gemm ins(%a[m, k], %b[n0, k floordiv 4, n1, k mod 4] : memref<2x32xi8>, memref<2x8x16x4xi8>) outs(%c[m, 16 * n0 + n1] : memref<2x32xi32>) start(%s[n0, n1] : memref<2x16xi32>)
    plan #nanokernel.plan<target = "znver4", instruction = "dot.s8s8x16", block = 2x16, k_unroll = 2, k_block = 16>
  return
}

// A microkernel is told whether it sees the first part; what a ragged block starts with is masked.
// CHECK-LABEL: func.func @masked
// CHECK:         scf.if %begins -> (!nanokernel.block<2x16xi32, lanes = n>) {
// CHECK-NEXT:      nanokernel.load %s[n: {{%[0-9]+}}] tail {{%[0-9]+}}
// CHECK-NEXT:      scf.yield
// CHECK-NEXT:    } else {
// CHECK-NEXT:      nanokernel.zero
func.func @masked(%a: memref<2x?xi8>, %b: memref<?x5x4xi8>, %c: memref<2x5xi32>, %s: memref<5xi32>, %begins: i1) {
  nanokernel.gemm ins(%a[m, k], %b[k floordiv 4, n, k mod 4] : memref<2x?xi8>, memref<?x5x4xi8>) outs(%c[m, n] : memref<2x5xi32>) start(%s[n] : memref<5xi32>) if %begins
    plan #nanokernel.plan<target = "znver4", instruction = "dot.s8s8x16", block = 2x16, edges = masked>
  return
}
