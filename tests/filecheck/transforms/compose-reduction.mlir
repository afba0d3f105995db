// RUN: nkdsl-opt %s -p compose | filecheck %s

// A reduction in chunks: 100 is 34 + 33 + 33. Between two of them the sums rest in the result.
// CHECK-LABEL: func.func @chunks
// CHECK-DAG:     [[C0:%[0-9]+]] = arith.constant 0 : index
// CHECK-DAG:     [[C4:%[0-9]+]] = arith.constant 4 : index
// CHECK-DAG:     [[C32:%[0-9]+]] = arith.constant 32 : index
// CHECK-DAG:     [[C33:%[0-9]+]] = arith.constant 33 : index
// CHECK-DAG:     [[C34:%[0-9]+]] = arith.constant 34 : index
// CHECK-DAG:     [[C100:%[0-9]+]] = arith.constant 100 : index
// CHECK:         nanokernel.zero
// CHECK-NEXT:    scf.for {{%[0-9]+}} = [[C0]] to [[C32]] step [[C4]]
// CHECK:         nanokernel.step {{.*}} depth 2
// CHECK-NEXT:    nanokernel.store {{.*}} accumulate
// CHECK-NEXT:    scf.for [[CHUNK:%[0-9]+]] = [[C34]] to [[C100]] step [[C33]] {
// CHECK-NEXT:      nanokernel.zero
// CHECK-NEXT:      scf.for [[K:%[0-9]+]] = [[C0]] to [[C32]] step [[C4]]
// CHECK-NEXT:        [[AT:%[0-9]+]] = arith.addi [[CHUNK]], [[K]] : index
// CHECK:             nanokernel.step {{%[0-9]+}}, %a[m: [[C0]], k: [[AT]]], %b[k: {{%[0-9]+}}, n: [[C0]]] depth 4
// CHECK:           [[LAST:%[0-9]+]] = arith.addi [[CHUNK]], [[C32]] : index
// CHECK:           nanokernel.step {{%[0-9]+}}, %a[m: [[C0]], k: [[LAST]]], %b[k: {{%[0-9]+}}, n: [[C0]]] depth 1
// CHECK-NEXT:      nanokernel.store {{.*}} accumulate
func.func @chunks(%a: memref<8x100xf32>, %b: memref<100x48xf32>, %c: memref<8x48xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x100xf32>, memref<100x48xf32>) outs(%c[m, n] : memref<8x48xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 4, k_block = 40>
  return
}

// Only the first chunk doesn't add to the result.
// CHECK-LABEL: func.func @chunks_from_zero
// CHECK:         nanokernel.zero
// CHECK:         nanokernel.store {{.*}}] : memref<8x48xf32>
// CHECK-NEXT:    scf.for
// CHECK-NEXT:      nanokernel.zero
// CHECK:           nanokernel.store {{.*}} accumulate
// CHECK-NOT:     nanokernel.store
// CHECK:         return
func.func @chunks_from_zero(%a: memref<8x100xf32>, %b: memref<100x48xf32>, %c: memref<8x48xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x100xf32>, memref<100x48xf32>) outs(%c[m, n] : memref<8x48xf32>) from zero
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 5, k_block = 20>
  return
}

// A chunk as long as the reduction is the reduction.
// CHECK-LABEL: func.func @one_chunk
// CHECK:         nanokernel.store {{.*}}] : memref<8x48xf32>
// CHECK-NOT:     nanokernel.store
// CHECK:         return
func.func @one_chunk(%a: memref<8x4xf32>, %b: memref<4x48xf32>, %c: memref<8x48xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xf32>, memref<4x48xf32>) outs(%c[m, n] : memref<8x48xf32>) from zero
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 4, k_block = 4>
  return
}

// Reductions of several iterators carry one block through all of them.
// CHECK-LABEL: func.func @batch_reduce
// CHECK:         [[ACC:%[0-9]+]] = nanokernel.zero
// CHECK-NEXT:    [[ALL:%[0-9]+]] = scf.for [[B:%[0-9]+]] = {{.*}} iter_args([[OUTER:%[0-9]+]] = [[ACC]])
// CHECK-NEXT:      [[ROW:%[0-9]+]] = scf.for [[K1:%[0-9]+]] = {{.*}} iter_args([[INNER:%[0-9]+]] = [[OUTER]])
// CHECK-NEXT:        nanokernel.step [[INNER]], %a[[[B]], m: {{%[0-9]+}}, k: [[K1]]], %b[[[B]], k: [[K1]], n: {{%[0-9]+}}] depth 4
// CHECK:           scf.yield [[ROW]]
// CHECK:         nanokernel.store [[ALL]]
func.func @batch_reduce(%a: memref<3x8x64xf32>, %b: memref<3x64x48xf32>, %c: memref<8x48xf32>) {
  nanokernel.gemm ins(%a[k0, m, k1], %b[k0, k1, n] : memref<3x8x64xf32>, memref<3x64x48xf32>) outs(%c[m, n] : memref<8x48xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 4>
  return
}

// Indices that are sums of iterators.
// CHECK-LABEL: func.func @blocked_lhs
// CHECK:         scf.for [[K0:%[0-9]+]] =
// CHECK:           [[TWICE:%[0-9]+]] = arith.muli [[K0]], {{%[0-9]+}} : index
// CHECK:           nanokernel.step
func.func @blocked_lhs(%a: memref<1x64xf32>, %b: memref<32x2x48xf32>, %c: memref<1x48xf32>) {
  nanokernel.gemm ins(%a[m, 2 * k0 + k1], %b[k0, k1, n] : memref<1x64xf32>, memref<32x2x48xf32>) outs(%c[m, n] : memref<1x48xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 1x48, k_unroll = 2>
  return
}

// Lanes along the reduction: the block is added to the result when its lanes are added up. Depth counts elements: a turn is two registers of 16.
// CHECK-LABEL: func.func @lanes_k
// CHECK-DAG:     [[Z:%[0-9]+]] = arith.constant 0 : index
// CHECK-DAG:     [[C96:%[0-9]+]] = arith.constant 96 : index
// CHECK-DAG:     [[TURN:%[0-9]+]] = arith.constant 32 : index
// CHECK-NOT:     nanokernel.load
// CHECK:         nanokernel.zero : !nanokernel.block<5x1xf32, lanes = k>
// CHECK-NEXT:    scf.for [[KK:%[0-9]+]] = [[Z]] to [[C96]] step [[TURN]]
// CHECK-NEXT:      nanokernel.step {{%[0-9]+}}, %a[m: [[Z]], k: [[KK]]], %x[k: [[KK]]] depth 32 using "fma.f32x16"
// CHECK:         nanokernel.step {{%[0-9]+}}, %a[m: [[Z]], k: [[C96]]], %x[k: [[C96]]] depth 4
// CHECK-NEXT:    nanokernel.store {{%[0-9]+}}, %y[m: [[Z]]] accumulate
// CHECK-NEXT:    nanokernel.zero : !nanokernel.block<4x1xf32, lanes = k>
func.func @lanes_k(%a: memref<9x100xf32>, %x: memref<100xf32>, %y: memref<9xf32>) {
  nanokernel.gemm ins(%a[m, k], %x[k] : memref<9x100xf32>, memref<100xf32>) outs(%y[m] : memref<9xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x1, lanes = k, k_unroll = 2>
  return
}

// CHECK-LABEL: func.func @lanes_k_from_zero
// CHECK:         nanokernel.store
// CHECK-NOT:     accumulate
// CHECK:         return
func.func @lanes_k_from_zero(%a: memref<8x100xf32>, %x: memref<100xf32>, %y: memref<8xf32>) {
  nanokernel.gemm ins(%a[m, k], %x[k] : memref<8x100xf32>, memref<100xf32>) outs(%y[m] : memref<8xf32>) from zero
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x1, lanes = k, k_unroll = 2>
  return
}
