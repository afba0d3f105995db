// RUN: nkdsl-opt %s -p compose | filecheck %s

// A panel of the packed factor is filled before the blocks that read it; it is as wide as the
// widest block, and refilled for each.
// CHECK-LABEL: func.func @rhs
// CHECK-DAG:     [[C0:%[0-9]+]] = arith.constant 0 : index
// CHECK-DAG:     [[C48:%[0-9]+]] = arith.constant 48 : index
// CHECK:         [[SPACE:%[0-9]+]] = nanokernel.workspace at 0 : memref<3072xf32>
// CHECK-NEXT:    [[WIDE:%[0-9]+]] = memref.reinterpret_cast [[SPACE]] to offset: [0], sizes: [64, 48], strides: [48, 1] : memref<3072xf32> to memref<64x48xf32, strided<[48, 1]>>
// CHECK-NEXT:    nanokernel.pack %b[n: [[C0]], k: [[C0]]] extents 64 x 48 into [[WIDE]]
// CHECK-NEXT:    scf.for [[I:%[0-9]+]] =
// CHECK-NEXT:      nanokernel.zero
// CHECK:             nanokernel.step {{%[0-9]+}}, %a[m: [[I]], k: [[K:%[0-9]+]]], {{%[0-9]+}}[k: [[K]], n: [[C0]]] depth 4
// CHECK:         [[NARROW:%[0-9]+]] = memref.reinterpret_cast [[SPACE]] to offset: [0], sizes: [64, 32], strides: [32, 1]
// CHECK-NEXT:    nanokernel.pack %b[n: [[C48]], k: [[C0]]] extents 64 x 32 into [[NARROW]]
// CHECK-NEXT:    scf.for [[I2:%[0-9]+]] =
// CHECK-NEXT:      nanokernel.zero
// CHECK:             nanokernel.store {{.*}}, %c[m: [[I2]], n: [[C48]]]
func.func @rhs(%a: memref<16x64xf32>, %b: memref<80x64xf32>, %c: memref<16x80xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[n, k] : memref<16x64xf32>, memref<80x64xf32>) outs(%c[m, n] : memref<16x80xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 4, pack = rhs>
  return
}

// A ragged block gets a panel of whole registers.
// CHECK-LABEL: func.func @ragged
// CHECK:         nanokernel.workspace at 0 : memref<2048xf32>
// CHECK:         memref.reinterpret_cast {{.*}} sizes: [64, 32], strides: [32, 1]
// CHECK-NEXT:    nanokernel.pack {{.*}} extents 64 x 20 into
func.func @ragged(%a: memref<8x64xf32>, %b: memref<20x64xf32>, %c: memref<8x20xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[n, k] : memref<8x64xf32>, memref<20x64xf32>) outs(%c[m, n] : memref<8x20xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 4, pack = rhs>
  return
}

// CHECK-LABEL: func.func @lhs
// CHECK:         nanokernel.workspace at 0 : memref<2048xf32>
// CHECK:         nanokernel.pack %a[m: {{%[0-9]+}}, k: {{%[0-9]+}}] extents 64 x 32 into
func.func @lhs(%a: memref<32x64xf32>, %b: memref<64x6xf32>, %c: memref<6x32xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<32x64xf32>, memref<64x6xf32>) outs(%c[n, m] : memref<6x32xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 32x6, lanes = m, k_unroll = 4, pack = lhs, resident = lhs>
  return
}

// Each chunk packs its own part, and its steps count from the part's start.
// CHECK-LABEL: func.func @chunks
// CHECK:         nanokernel.workspace at 0 : memref<1536xf32>
// CHECK:         scf.for [[CHUNK:%[0-9]+]] =
// CHECK:           nanokernel.pack %b[n: [[Z:%[0-9]+]], k: [[CHUNK]]] extents 32 x 48 into
// CHECK:             [[AT:%[0-9]+]] = arith.addi [[CHUNK]], [[KK:%[0-9]+]] : index
// CHECK-NEXT:        nanokernel.step {{%[0-9]+}}, %a[m: [[Z]], k: [[AT]]], {{%[0-9]+}}[k: [[KK]], n: [[Z]]] depth 4
func.func @chunks(%a: memref<8x64xf32>, %b: memref<48x64xf32>, %c: memref<8x48xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[n, k] : memref<8x64xf32>, memref<48x64xf32>) outs(%c[m, n] : memref<8x48xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 4, pack = rhs, k_block = 32>
  return
}

// Of several reductions each has a part of the panel.
// CHECK-LABEL: func.func @batch_reduce
// CHECK:         nanokernel.workspace at 0 : memref<9216xf32>
// CHECK-NEXT:    scf.for [[B:%[0-9]+]] =
// CHECK-NEXT:      [[AT2:%[0-9]+]] = arith.muli [[B]], {{%[0-9]+}} : index
// CHECK-NEXT:      [[PART:%[0-9]+]] = memref.reinterpret_cast {{%[0-9]+}} to offset: [[[AT2]]], sizes: [64, 48], strides: [48, 1] : memref<9216xf32> to memref<64x48xf32, strided<[48, 1], offset: ?>>
// CHECK-NEXT:      nanokernel.pack %b[[[B]], n: {{%[0-9]+}}, k: {{%[0-9]+}}] extents 64 x 48 into [[PART]]
func.func @batch_reduce(%a: memref<3x16x64xf32>, %b: memref<3x48x64xf32>, %c: memref<16x48xf32>) {
  nanokernel.gemm ins(%a[k0, m, k1], %b[k0, n, k1] : memref<3x16x64xf32>, memref<3x48x64xf32>) outs(%c[m, n] : memref<16x48xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, k_unroll = 4, pack = rhs>
  return
}
