// RUN: xdsl-opt %s -p block | filecheck %s
// RUN: nkdsl-opt %s -p block --print-op-generic | nkdsl-opt | filecheck %s

// The registers are configured once, around all loops. Both factors lie as tiles do and end with whole
// ones: nothing is packed, and sums stay in the result between the parts of the reduction.
// CHECK-LABEL: func.func @in_place(
// CHECK:         tile.configure [!tile.tile<16x16xf32>, !tile.tile<16x16xf32>, !tile.tile<16x16xf32>, !tile.tile<16x16xf32>, !tile.tile<16x32xbf16>, !tile.tile<16x32xbf16>, !tile.tile<16x32xbf16>, !tile.tile<16x32xbf16>]
// CHECK-NEXT:    scf.for [[K:%[0-9]+]] =
// CHECK-NOT:     nanokernel.pack
// CHECK:             [[GROUP:%[0-9]+]] = arith.divui [[K]],
// CHECK-NEXT:        memref.subview %b[[[GROUP]], {{%[0-9]+}}, 0] [32, 32, 2] [1, 1, 1]
// CHECK-NEXT:        memref.subview %a[{{%[0-9]+}}, [[K]]] [32, 64] [1, 1]
// CHECK-NEXT:        memref.subview %c[{{%[0-9]+}}, {{%[0-9]+}}] [32, 32] [1, 1]
// CHECK:             nanokernel.microkernel @in_place_32x32(
// CHECK:         tile.release
// CHECK-NEXT:    func.return
func.func @in_place(%a: memref<64x128xbf16>, %b: memref<64x64x2xbf16>, %c: memref<64x64xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k floordiv 2, n, k mod 2] : memref<64x128xbf16>, memref<64x64x2xbf16>) outs(%c[m, n] : memref<64x64xf32>)
    plan #nanokernel.plan<target = "sapphirerapids", instruction = "tile.bf16x16x16x32", block = 32x32, k_block = 64>
  return
}

// 33 rows are three tiles of 11: two in one block, one in the other. What ends within a tile is packed
// and filled up with zeros along the reduction, the rows at their end, the panel below its last group.
// Blocks that end within a tile are computed in the workspace; of 20 columns the last 4 are a tail.
// CHECK-LABEL: func.func @ragged(
// CHECK:         [[ROWS:%[0-9]+]] = nanokernel.workspace at 0 : memref<3168xbf16>
// CHECK:         [[PANEL:%[0-9]+]] = nanokernel.workspace at 6336 : memref<2048xbf16>
// CHECK:         [[SUMS:%[0-9]+]] = nanokernel.workspace at 10432 : memref<704xf32>
// CHECK:         tile.configure [!tile.tile<11x16xf32>, !tile.tile<11x16xf32>, !tile.tile<11x16xf32>, !tile.tile<11x16xf32>, !tile.tile<11x32xbf16>, !tile.tile<11x32xbf16>, !tile.tile<16x32xbf16>, !tile.tile<16x32xbf16>]
// CHECK:         nanokernel.pack %a[m: {{%[0-9]+}}, k: {{%[0-9]+}}] extents 33 x 40 into {{%[0-9]+}} lanes k :
// CHECK:         scf.for [[ROW:%[0-9]+]] =
// CHECK-NEXT:      [[NONE:%[0-9]+]] = nanokernel.zero : !nanokernel.block<1x32xbf16, lanes = n>
// CHECK-NEXT:      nanokernel.store [[NONE]], {{%[0-9]+}}[m: [[ROW]], n: {{%[0-9]+}}] : memref<33x96xbf16,
// CHECK:         nanokernel.pack %b[k: {{%[0-9]+}}, n: {{%[0-9]+}}] extents 40 x 20 into {{%[0-9]+}} : memref<40x20xbf16>, memref<20x32x2xbf16,
// CHECK:         nanokernel.zero : !nanokernel.block<1x32xbf16, lanes = n>
// CHECK:         memref.reinterpret_cast [[PANEL]] to offset: [0], sizes: [32, 32, 2], strides: [64, 2, 1]
// CHECK:         nanokernel.microkernel @ragged_22x32_first(
// CHECK:         scf.for
// CHECK:           [[WIDE:%[0-9]+]] = nanokernel.load {{%[0-9]+}}[m: {{%[0-9]+}}, n: {{%[0-9]+}}] : memref<22x32xf32, strided<[32, 1]>>, !nanokernel.block<1x16xf32, lanes = n>
// CHECK:           nanokernel.store [[WIDE]], %c[m: {{%[0-9]+}}, n: {{%[0-9]+}}] : memref<33x20xf32>,
// CHECK:           nanokernel.store {{%[0-9]+}}, %c[m: {{%[0-9]+}}, n: {{%[0-9]+}}] tail {{%[0-9]+}} : memref<33x20xf32>,
// CHECK:         nanokernel.microkernel @ragged_11x32_first(
// CHECK:         tile.release
func.func @ragged(%a: memref<33x40xbf16>, %b: memref<40x20xbf16>, %c: memref<33x20xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<33x40xbf16>, memref<40x20xbf16>) outs(%c[m, n] : memref<33x20xf32>) from zero
    plan #nanokernel.plan<target = "sapphirerapids", instruction = "tile.bf16x16x16x32", block = 22x32, pack = both, resident = rhs>
  return
}

// Old sums that count are copied there before, what is beyond a tail left alone.
// CHECK-LABEL: func.func @old_sums(
// CHECK:         scf.for
// CHECK-NEXT:      [[OLD:%[0-9]+]] = nanokernel.load %c[m: {{%[0-9]+}}, n: {{%[0-9]+}}] tail {{%[0-9]+}} : memref<16x4xf32>, !nanokernel.block<1x16xf32, lanes = n>
// CHECK-NEXT:      nanokernel.store [[OLD]], {{%[0-9]+}}[m: {{%[0-9]+}}, n: {{%[0-9]+}}] : memref<16x16xf32,
// CHECK:         nanokernel.microkernel @old_sums_16x16(
func.func @old_sums(%a: memref<16x32xbf16>, %b: memref<32x4xbf16>, %c: memref<16x4xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<16x32xbf16>, memref<32x4xbf16>) outs(%c[m, n] : memref<16x4xf32>)
    plan #nanokernel.plan<target = "sapphirerapids", instruction = "tile.bf16x16x16x32", block = 16x16, pack = rhs, resident = rhs>
  return
}

// What follows the sums is done on their way from the workspace, a register at a time.
// CHECK-LABEL: func.func @finished(
// CHECK:         nanokernel.microkernel @finished_32x32_first(
// CHECK:         [[SUM:%[0-9]+]] = nanokernel.load {{%[0-9]+}}[m: {{%[0-9]+}}, n: {{%[0-9]+}}] : memref<32x32xf32, strided<[32, 1]>>, !nanokernel.block<1x16xf32, lanes = n>
// CHECK-NEXT:    nanokernel.store [[SUM]], %c[m: {{%[0-9]+}}, n: {{%[0-9]+}}] epilogue(%bias[n: {{%[0-9]+}}] : memref<32xf32>) {
func.func @finished(%a: memref<32x64xbf16>, %b: memref<64x32xbf16>, %bias: memref<32xf32>, %c: memref<32x32xbf16>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<32x64xbf16>, memref<64x32xbf16>) outs(%c[m, n] : memref<32x32xbf16>) from zero
    plan #nanokernel.plan<target = "sapphirerapids", instruction = "tile.bf16x16x16x32", block = 32x32, pack = rhs, resident = rhs> epilogue(%bias[n] : memref<32xf32>) {
  ^bb0(%sum: f32, %x: f32):
    %y = arith.addf %sum, %x : f32
    %r = arith.truncf %y : f32 to bf16
    nanokernel.yield %r : bf16
  }
  return
}

// There is place for two panels: the microkernels of one pack the next.
// CHECK-LABEL: func.func @ahead(
// CHECK:         nanokernel.workspace at 0 : memref<4096xi8>
// CHECK:         tile.configure
// CHECK:         nanokernel.pack %b[k: {{%[0-9]+}}, n: {{%[0-9]+}}] extents 64 x 32 into {{%[0-9]+}} :
// CHECK-NEXT:    scf.for
// CHECK-NOT:       nanokernel.pack
// CHECK:           nanokernel.microkernel @ahead_32x32_first_ahead({{.*}}) : {{.*}}, memref<?x32xi8, strided<[128, 1], offset: ?>>, memref<?x32x4xi8, strided<[128, 4, 1], offset: ?>>
// CHECK:         tile.release
func.func @ahead(%a: memref<32x64xi8>, %b: memref<64x128xi8>, %c: memref<32x128xi32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<32x64xi8>, memref<64x128xi8>) outs(%c[m, n] : memref<32x128xi32>) from zero
    plan #nanokernel.plan<target = "sapphirerapids", instruction = "tile.s8s8x16x16x64", block = 32x32, pack = rhs, resident = rhs, ahead = rhs>
  return
}

// Of run-time sizes each count of tiles has a microkernel, one for the result and one for the workspace.
// CHECK-LABEL: func.func @run_time(
// CHECK:         tile.configure
// CHECK:         scf.index_switch
// CHECK:           [[WHOLE:%[0-9]+]] = arith.andi
// CHECK-NEXT:      scf.if [[WHOLE]] {
// CHECK:             nanokernel.microkernel @run_time_16x16(
// CHECK-NEXT:      } else {
// CHECK:             nanokernel.microkernel @run_time_16x16_(
// CHECK:             nanokernel.microkernel @run_time_32x32(
// CHECK:         tile.release
func.func @run_time(%a: memref<?x?xbf16>, %b: memref<?x?xbf16>, %c: memref<?x?xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<?x?xbf16>, memref<?x?xbf16>) outs(%c[m, n] : memref<?x?xf32>)
    plan #nanokernel.plan<target = "sapphirerapids", instruction = "tile.bf16x16x16x32", block = 32x32, pack = both, resident = rhs, m_block = 64, n_block = 64, k_block = 64>
  return
}

// Each thread has registers of its own: they are configured in its part, at the end of the module.
// CHECK-LABEL: func.func @shared(
// CHECK-NOT:     tile.configure
// CHECK:         func.return
func.func @shared(%a: memref<128x128xbf16>, %b: memref<128x128xbf16>, %c: memref<128x128xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<128x128xbf16>, memref<128x128xbf16>) outs(%c[m, n] : memref<128x128xf32>)
    plan #nanokernel.plan<target = "sapphirerapids", instruction = "tile.bf16x16x16x32", block = 32x32, pack = rhs, resident = rhs, m_block = 64, n_block = 64, k_block = 128, threads = 2>
  return
}

// A microkernel is called with the registers of the whole product, whatever it uses.
// CHECK-LABEL: func.func private @in_place_32x32(
// CHECK-SAME:    tile.configuration = [!tile.tile<16x16xf32>, {{.*}}, !tile.tile<16x32xbf16>]
// CHECK-NEXT:    nanokernel.gemm {{.*}} block = 32x32, lanes = n, edges = masked

// CHECK-LABEL: func.func private @shared_part(
// CHECK:         tile.configure
// CHECK:         nanokernel.microkernel @shared_32x32
// CHECK:         tile.release
// CHECK-NEXT:    func.return
