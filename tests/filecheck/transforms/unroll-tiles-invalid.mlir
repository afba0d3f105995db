// RUN: xdsl-opt %s -p unroll --split-input-file --verify-diagnostics | filecheck %s

// CHECK: fma.bf16x16 does not multiply tiles
func.func @vectors(%a: memref<16x32xbf16>, %b: memref<16x16x2xbf16>, %c: memref<16x16xf32>) attributes {nanokernel.target = "sapphirerapids"} {
  %zero = arith.constant 0 : index
  %sums = nanokernel.zero : !nanokernel.block<16x16xf32, lanes = n, tiles = 16x16>
  %next = nanokernel.step %sums, %a[m: %zero, k: %zero], %b[k: %zero, n: %zero, g: %zero] depth 32 using "fma.bf16x16" : memref<16x32xbf16>, memref<16x16x2xbf16>, !nanokernel.block<16x16xf32, lanes = n, tiles = 16x16>
  nanokernel.store %next, %c[m: %zero, n: %zero] : memref<16x16xf32>, !nanokernel.block<16x16xf32, lanes = n, tiles = 16x16>
  return
}

// -----

// CHECK: a block of tiles is stored as it is; finish it in the workspace
func.func @accumulated(%c: memref<16x16xf32>) attributes {nanokernel.target = "sapphirerapids"} {
  %zero = arith.constant 0 : index
  %sums = nanokernel.zero : !nanokernel.block<16x16xf32, lanes = n, tiles = 16x16>
  nanokernel.store %sums, %c[m: %zero, n: %zero] accumulate : memref<16x16xf32>, !nanokernel.block<16x16xf32, lanes = n, tiles = 16x16>
  return
}

// -----

// CHECK: a block of tiles is stored as it is; finish it in the workspace
func.func @stored_in_part(%c: memref<16x16xf32>, %n: index) attributes {nanokernel.target = "sapphirerapids"} {
  %zero = arith.constant 0 : index
  %sums = nanokernel.zero : !nanokernel.block<16x16xf32, lanes = n, tiles = 16x16>
  nanokernel.store %sums, %c[m: %zero, n: %zero] tail %n : memref<16x16xf32>, !nanokernel.block<16x16xf32, lanes = n, tiles = 16x16>
  return
}

// -----

// CHECK: a block of tiles is loaded as it is; copy what there is to the workspace
func.func @loaded_in_part(%c: memref<16x16xf32>, %n: index) attributes {nanokernel.target = "sapphirerapids"} {
  %zero = arith.constant 0 : index
  %sums = nanokernel.load %c[m: %zero, n: %zero] tail %n : memref<16x16xf32>, !nanokernel.block<16x16xf32, lanes = n, tiles = 16x16>
  nanokernel.store %sums, %c[m: %zero, n: %zero] : memref<16x16xf32>, !nanokernel.block<16x16xf32, lanes = n, tiles = 16x16>
  return
}

// -----

// CHECK: the configured registers, !tile.tile<16x16xf32>, !tile.tile<16x32xbf16>, !tile.tile<16x32xbf16>, don't hold 1x2 sums of !tile.tile<16x16xf32> and their factors, !tile.tile<16x32xbf16> and !tile.tile<16x32xbf16>
func.func private @too_few(%a: memref<16x32xbf16>, %b: memref<16x32x2xbf16>, %c: memref<16x32xf32>) attributes {nanokernel.target = "sapphirerapids", tile.configuration = [!tile.tile<16x16xf32>, !tile.tile<16x32xbf16>, !tile.tile<16x32xbf16>]} {
  %zero = arith.constant 0 : index
  %sums = nanokernel.zero : !nanokernel.block<16x32xf32, lanes = n, tiles = 16x16>
  %next = nanokernel.step %sums, %a[m: %zero, k: %zero], %b[k: %zero, n: %zero, g: %zero] depth 32 using "tile.bf16x16x16x32" : memref<16x32xbf16>, memref<16x32x2xbf16>, !nanokernel.block<16x32xf32, lanes = n, tiles = 16x16>
  nanokernel.store %next, %c[m: %zero, n: %zero] : memref<16x32xf32>, !nanokernel.block<16x32xf32, lanes = n, tiles = 16x16>
  return
}
