// RUN: xdsl-opt %s -p compose | filecheck %s

// A product of one block and one turn has no loops. Sums start at zero; the old result comes last.
// CHECK-LABEL: func.func @one_block
// CHECK:         [[ZERO:%[0-9]+]] = arith.constant 0 : index
// CHECK-NEXT:    [[ACC:%[0-9]+]] = nanokernel.zero : !nanokernel.block<8x48xf32, lanes = n>
// CHECK-NEXT:    [[DONE:%[0-9]+]] = nanokernel.step [[ACC]], %a[m: [[ZERO]], k: [[ZERO]]], %b[k: [[ZERO]], n: [[ZERO]]] depth 4 using "fma.f32x16" : memref<8x4xf32>, memref<4x48xf32>, !nanokernel.block<8x48xf32, lanes = n>
// CHECK-NEXT:    nanokernel.store [[DONE]], %c[m: [[ZERO]], n: [[ZERO]]] accumulate : memref<8x48xf32>, !nanokernel.block<8x48xf32, lanes = n>
// CHECK-NEXT:    return
func.func @one_block(%a: memref<8x4xf32>, %b: memref<4x48xf32>, %c: memref<8x48xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xf32>, memref<4x48xf32>) outs(%c[m, n] : memref<8x48xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 4>
  return
}

// A product from zero never reads the result.
// CHECK-LABEL: func.func @from_zero
// CHECK: nanokernel.zero : !nanokernel.block<8x48xf32, lanes = n>
// CHECK: nanokernel.step
// CHECK: nanokernel.store {{.*}}] : memref<8x48xf32>
func.func @from_zero(%a: memref<8x4xf32>, %b: memref<4x48xf32>, %c: memref<8x48xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xf32>, memref<4x48xf32>) outs(%c[m, n] : memref<8x48xf32>) from zero
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 4>
  return
}

// Edges are even: 100 rows are 9 blocks of 8 and 4 of 7, 100 columns 48 + 32 + 20, and of the 8
// steps 6 are two turns of 3. The right factor's panel stays while the rows pass by.
// CHECK-LABEL: func.func @edges
// CHECK-DAG:     [[C0:%[0-9]+]] = arith.constant 0 : index
// CHECK-DAG:     [[C7:%[0-9]+]] = arith.constant 7 : index
// CHECK-DAG:     [[C8:%[0-9]+]] = arith.constant 8 : index
// CHECK-DAG:     [[C6:%[0-9]+]] = arith.constant 6 : index
// CHECK-DAG:     [[C3:%[0-9]+]] = arith.constant 3 : index
// CHECK-DAG:     [[C72:%[0-9]+]] = arith.constant 72 : index
// CHECK-DAG:     [[C100:%[0-9]+]] = arith.constant 100 : index
// CHECK-DAG:     [[C48:%[0-9]+]] = arith.constant 48 : index
// CHECK-DAG:     [[C80:%[0-9]+]] = arith.constant 80 : index
// CHECK:         scf.for [[I:%[0-9]+]] = [[C0]] to [[C72]] step [[C8]] {
// CHECK-NEXT:      [[ACC:%[0-9]+]] = nanokernel.zero : {{.*}}block<8x48xf32, lanes = n>
// CHECK-NEXT:      [[SUM:%[0-9]+]] = scf.for [[K:%[0-9]+]] = [[C0]] to [[C6]] step [[C3]] iter_args([[PART:%[0-9]+]] = [[ACC]])
// CHECK-NEXT:        [[NEXT:%[0-9]+]] = nanokernel.step [[PART]], %a[m: [[I]], k: [[K]]], %b[k: [[K]], n: [[C0]]] depth 3
// CHECK-NEXT:        scf.yield [[NEXT]]
// CHECK-NEXT:      }
// CHECK-NEXT:      [[DONE:%[0-9]+]] = nanokernel.step [[SUM]], %a[m: [[I]], k: [[C6]]], %b[k: [[C6]], n: [[C0]]] depth 2
// CHECK-NEXT:      nanokernel.store [[DONE]], %c[m: [[I]], n: [[C0]]] accumulate
// CHECK-NEXT:    }
// CHECK-NEXT:    scf.for [[I7:%[0-9]+]] = [[C72]] to [[C100]] step [[C7]] {
// CHECK-NEXT:      nanokernel.zero : {{.*}}block<7x48xf32, lanes = n>
// CHECK:           nanokernel.store {{.*}}, %c[m: [[I7]], n: [[C0]]] accumulate
// CHECK:         scf.for [[I8:%[0-9]+]] = [[C0]] to [[C72]] step [[C8]] {
// CHECK-NEXT:      nanokernel.zero : {{.*}}block<8x32xf32, lanes = n>
// CHECK:           nanokernel.store {{.*}}, %c[m: [[I8]], n: [[C48]]] accumulate
// CHECK:           nanokernel.zero : {{.*}}block<7x32xf32, lanes = n>
// CHECK:           nanokernel.zero : {{.*}}block<8x20xf32, lanes = n>
// CHECK:           nanokernel.store {{.*}}, %c[m: {{%[0-9]+}}, n: [[C80]]] accumulate
// CHECK:           nanokernel.zero : {{.*}}block<7x20xf32, lanes = n>
// CHECK-NOT:       nanokernel.zero
// CHECK:         return
func.func @edges(%a: memref<100x8xf32>, %b: memref<8x100xf32>, %c: memref<100x100xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<100x8xf32>, memref<8x100xf32>) outs(%c[m, n] : memref<100x100xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 3>
  return
}

// The resident factor's loop is the outer one.
// CHECK-LABEL: func.func @lhs_resident
// CHECK:         scf.for [[I2:%[0-9]+]] =
// CHECK-NEXT:      scf.for [[J2:%[0-9]+]] =
// CHECK-NEXT:        nanokernel.zero
// CHECK:             nanokernel.store {{.*}}, %c[m: [[I2]], n: [[J2]]]
func.func @lhs_resident(%a: memref<16x4xf32>, %b: memref<4x96xf32>, %c: memref<16x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<16x4xf32>, memref<4x96xf32>) outs(%c[m, n] : memref<16x96xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 4, resident = lhs>
  return
}

// CHECK-LABEL: func.func @rhs_resident
// CHECK:         scf.for [[J3:%[0-9]+]] =
// CHECK-NEXT:      scf.for [[I3:%[0-9]+]] =
// CHECK-NEXT:        nanokernel.zero
// CHECK:             nanokernel.store {{.*}}, %c[m: [[I3]], n: [[J3]]]
func.func @rhs_resident(%a: memref<16x4xf32>, %b: memref<4x96xf32>, %c: memref<16x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<16x4xf32>, memref<4x96xf32>) outs(%c[m, n] : memref<16x96xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 4, resident = rhs>
  return
}

// CHECK-LABEL: func.func @batch
// CHECK:         scf.for [[B:%[0-9]+]] =
// CHECK-NEXT:      nanokernel.zero
// CHECK-NEXT:      nanokernel.step {{%[0-9]+}}, %a[[[B]], m: {{.*}}], %b[[[B]], k: {{.*}}] depth 4
// CHECK-NEXT:      nanokernel.store {{%[0-9]+}}, %c[[[B]], m: {{%[0-9]+}}, n: {{%[0-9]+}}]
func.func @batch(%a: memref<2x8x4xf32>, %b: memref<2x4x48xf32>, %c: memref<2x8x48xf32>) {
  nanokernel.gemm ins(%a[b, m, k], %b[b, k, n] : memref<2x8x4xf32>, memref<2x4x48xf32>) outs(%c[b, m, n] : memref<2x8x48xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 4>
  return
}
