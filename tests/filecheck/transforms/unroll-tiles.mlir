// RUN: xdsl-opt %s -p unroll | filecheck %s
// RUN: nkdsl-opt %s -p unroll --print-op-generic | nkdsl-opt | filecheck %s

// A block of 2x2 tiles takes registers 0 to 3, its factors two each behind them. Each tile of a factor
// is loaded once a step; those of the row factor stay while those of the column factor pass by.
// CHECK-LABEL: func.func private @grid(
// CHECK:         [[C00:%[0-9]+]] = tile.load %c[%i, %zero] rows 0 into 0 : memref<32x32xf32>, !tile.tile<16x16xf32>
// CHECK-NEXT:    [[C01:%[0-9]+]] = tile.load %c[%i, %zero + 16] rows 0 into 1 :
// CHECK-NEXT:    [[C10:%[0-9]+]] = tile.load %c[%i + 16, %zero] rows 0 into 2 :
// CHECK-NEXT:    [[C11:%[0-9]+]] = tile.load %c[%i + 16, %zero + 16] rows 0 into 3 :
// CHECK-NEXT:    [[B0:%[0-9]+]] = tile.load %b[%q, %zero, %zero] rows 0 into 6 : memref<32x32x2xbf16>, !tile.tile<16x32xbf16>
// CHECK-NEXT:    [[A0:%[0-9]+]] = tile.load %a[%i, %k] rows 0 into 4 : memref<32x64xbf16>, !tile.tile<16x32xbf16>
// CHECK-NEXT:    [[S00:%[0-9]+]] = tile.mma [[C00]], [[A0]], [[B0]] using "tile.bf16x16x16x32" :
// CHECK-NEXT:    [[A1:%[0-9]+]] = tile.load %a[%i + 16, %k] rows 0 into 5 :
// CHECK-NEXT:    [[S10:%[0-9]+]] = tile.mma [[C10]], [[A1]], [[B0]] using
// CHECK-NEXT:    [[B1:%[0-9]+]] = tile.load %b[%q, %zero + 16, %zero] rows 0 into 7 :
// CHECK-NEXT:    [[S01:%[0-9]+]] = tile.mma [[C01]], [[A0]], [[B1]] using
// CHECK-NEXT:    [[S11:%[0-9]+]] = tile.mma [[C11]], [[A1]], [[B1]] using
// CHECK-NEXT:    tile.store [[S00]], %c[%i, %zero] rows 0 : memref<32x32xf32>, !tile.tile<16x16xf32>
// CHECK-NEXT:    tile.store [[S01]], %c[%i, %zero + 16] rows 0 :
// CHECK-NEXT:    tile.store [[S10]], %c[%i + 16, %zero] rows 0 :
// CHECK-NEXT:    tile.store [[S11]], %c[%i + 16, %zero + 16] rows 0 :
// CHECK-NEXT:    func.return
func.func private @grid(%a: memref<32x64xbf16>, %b: memref<32x32x2xbf16>, %c: memref<32x32xf32>, %i: index, %k: index, %q: index) attributes {nanokernel.target = "sapphirerapids"} {
  %zero = arith.constant 0 : index
  %sums = nanokernel.load %c[m: %i, n: %zero] : memref<32x32xf32>, !nanokernel.block<32x32xf32, lanes = n, tiles = 16x16>
  %next = nanokernel.step %sums, %a[m: %i, k: %k], %b[k: %q, n: %zero, g: %zero] depth 32 using "tile.bf16x16x16x32" : memref<32x64xbf16>, memref<32x32x2xbf16>, !nanokernel.block<32x32xf32, lanes = n, tiles = 16x16>
  nanokernel.store %next, %c[m: %i, n: %zero] : memref<32x32xf32>, !nanokernel.block<32x32xf32, lanes = n, tiles = 16x16>
  return
}

// With lanes along m the row factor is rhs, and so the left one of the instruction: the signs change
// places.
// CHECK-LABEL: func.func private @lanes_m(
// CHECK:         [[C0:%[0-9]+]] = tile.zero into 0 : !tile.tile<16x16xi32>
// CHECK-NEXT:    [[C1:%[0-9]+]] = tile.zero into 1 :
// CHECK-NEXT:    [[A0:%[0-9]+]] = tile.load %a[%zero, %zero, %zero] rows 0 into 3 :
// CHECK-NEXT:    [[B:%[0-9]+]] = tile.load %b[%zero, %zero] rows 0 into 2 :
// CHECK-NEXT:    tile.mma [[C0]], [[B]], [[A0]] using "tile.s8u8x16x16x64" :
// CHECK-NEXT:    [[A1:%[0-9]+]] = tile.load %a[%zero, %zero + 16, %zero] rows 0 into 4 :
// CHECK-NEXT:    tile.mma [[C1]], [[B]], [[A1]] using "tile.s8u8x16x16x64" :
func.func private @lanes_m(%a: memref<16x32x4xi8>, %b: memref<16x64xi8>, %c: memref<16x32xi32>) attributes {nanokernel.target = "sapphirerapids"} {
  %zero = arith.constant 0 : index
  %sums = nanokernel.zero : !nanokernel.block<32x16xi32, lanes = m, tiles = 16x16>
  %next = nanokernel.step %sums, %a[k: %zero, m: %zero, g: %zero], %b[n: %zero, k: %zero] depth 64 using "tile.u8s8x16x16x64" : memref<16x32x4xi8>, memref<16x64xi8>, !nanokernel.block<32x16xi32, lanes = m, tiles = 16x16>
  nanokernel.store %next, %c[n: %zero, m: %zero] : memref<16x32xi32>, !nanokernel.block<32x16xi32, lanes = m, tiles = 16x16>
  return
}

// Branches and loops carry a tile for each of a block's; a depth of two instructions takes both. The
// registers are those of the configuration: six are sums of the largest block, of which this one needs
// two, and what passes by takes turns in one register.
// CHECK-LABEL: func.func private @loop(
// CHECK:         [[S:%[0-9]+]], [[T:%[0-9]+]] = scf.if %first -> (!tile.tile<11x16xf32>, !tile.tile<11x16xf32>) {
// CHECK-NEXT:      [[Z0:%[0-9]+]] = tile.zero into 0 :
// CHECK-NEXT:      [[Z1:%[0-9]+]] = tile.zero into 1 :
// CHECK-NEXT:      scf.yield [[Z0]], [[Z1]] :
// CHECK-NEXT:    } else {
// CHECK-NEXT:      [[L0:%[0-9]+]] = tile.load %c[%zero, %zero] rows 0 into 0 :
// CHECK-NEXT:      [[L1:%[0-9]+]] = tile.load %c[%zero, %zero + 16] rows 0 into 1 :
// CHECK-NEXT:      scf.yield [[L0]], [[L1]] :
// CHECK:         [[D:%[0-9]+]], [[E:%[0-9]+]] = scf.for %q = {{.*}} iter_args([[P:%[0-9]+]] = [[S]], [[R:%[0-9]+]] = [[T]])
// CHECK:           tile.load %b[%q, %zero, %zero] rows 0 into 7 :
// CHECK-NEXT:      tile.load %a[%zero, %k] rows 0 into 6 : memref<11x128xbf16>, !tile.tile<11x32xbf16>
// CHECK-NEXT:      [[P1:%[0-9]+]] = tile.mma [[P]],
// CHECK-NEXT:      tile.load %b[%q, %zero + 16, %zero] rows 0 into 7 :
// CHECK-NEXT:      [[R1:%[0-9]+]] = tile.mma [[R]],
// CHECK-NEXT:      tile.load %b[%q + 16, %zero, %zero] rows 0 into 7 :
// CHECK-NEXT:      tile.load %a[%zero, %k + 32] rows 0 into 6 :
// CHECK-NEXT:      [[P2:%[0-9]+]] = tile.mma [[P1]],
// CHECK-NEXT:      tile.load %b[%q + 16, %zero + 16, %zero] rows 0 into 7 :
// CHECK-NEXT:      [[R2:%[0-9]+]] = tile.mma [[R1]],
// CHECK-NEXT:      scf.yield [[P2]], [[R2]] :
// CHECK:         tile.store [[D]],
// CHECK-NEXT:    tile.store [[E]],
func.func private @loop(%a: memref<11x128xbf16>, %b: memref<64x32x2xbf16>, %c: memref<11x32xf32>, %first: i1) attributes {nanokernel.target = "sapphirerapids", tile.configuration = [!tile.tile<11x16xf32>, !tile.tile<11x16xf32>, !tile.tile<11x16xf32>, !tile.tile<11x16xf32>, !tile.tile<11x16xf32>, !tile.tile<11x16xf32>, !tile.tile<11x32xbf16>, !tile.tile<16x32xbf16>]} {
  %zero = arith.constant 0 : index
  %turn = arith.constant 32 : index
  %groups = arith.constant 64 : index
  %two = arith.constant 2 : index
  %start = scf.if %first -> (!nanokernel.block<11x32xf32, lanes = n, tiles = 11x16>) {
    %none = nanokernel.zero : !nanokernel.block<11x32xf32, lanes = n, tiles = 11x16>
    scf.yield %none : !nanokernel.block<11x32xf32, lanes = n, tiles = 11x16>
  } else {
    %old = nanokernel.load %c[m: %zero, n: %zero] : memref<11x32xf32>, !nanokernel.block<11x32xf32, lanes = n, tiles = 11x16>
    scf.yield %old : !nanokernel.block<11x32xf32, lanes = n, tiles = 11x16>
  }
  %sums = scf.for %q = %zero to %groups step %turn iter_args(%part = %start) -> (!nanokernel.block<11x32xf32, lanes = n, tiles = 11x16>) {
    %k = arith.muli %q, %two : index
    %next = nanokernel.step %part, %a[m: %zero, k: %k], %b[k: %q, n: %zero, g: %zero] depth 64 using "tile.bf16x16x16x32" : memref<11x128xbf16>, memref<64x32x2xbf16>, !nanokernel.block<11x32xf32, lanes = n, tiles = 11x16>
    scf.yield %next : !nanokernel.block<11x32xf32, lanes = n, tiles = 11x16>
  }
  nanokernel.store %sums, %c[m: %zero, n: %zero] : memref<11x32xf32>, !nanokernel.block<11x32xf32, lanes = n, tiles = 11x16>
  return
}
