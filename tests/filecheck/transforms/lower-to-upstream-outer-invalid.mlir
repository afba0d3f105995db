// RUN: xdsl-opt %s -p lower-to-upstream --split-input-file --verify-diagnostics | filecheck %s

// CHECK: tiles of Arm SME have no configuration
func.func @configured() attributes {nanokernel.target = "armv9-sme"} {
  tile.configure [!tile.tile<16x16xf32>]
  return
}

// -----

// CHECK: tiles of Arm SME have no configuration
func.func @released() attributes {nanokernel.target = "armv9-sme"} {
  tile.release
  return
}

// -----

// CHECK: tile.zero must say into which register
func.func @nowhere(%c: memref<64x64xf32>) attributes {nanokernel.target = "armv9-sme"} {
  %zero = arith.constant 0 : index
  %t = tile.zero : !tile.tile<4x4xf32, scalable>
  tile.store %t, %c[%zero, %zero] rows 0 : memref<64x64xf32>, !tile.tile<4x4xf32, scalable>
  return
}

// -----

// CHECK: register 2 holds another tile than tile.store is given
func.func @taken(%c: memref<64x64xf32>) attributes {nanokernel.target = "armv9-sme"} {
  %zero = arith.constant 0 : index
  %t = tile.zero into 2 : !tile.tile<4x4xf32, scalable>
  %u = tile.load %c[%zero, %zero] rows 0 into 2 : memref<64x64xf32>, !tile.tile<4x4xf32, scalable>
  tile.store %t, %c[%zero, %zero] rows 0 : memref<64x64xf32>, !tile.tile<4x4xf32, scalable>
  return
}

// -----

// CHECK: a loop must leave a tile in the register it had
func.func @moved(%c: memref<64x64xf32>, %n: index) attributes {nanokernel.target = "armv9-sme"} {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %t = tile.zero into 0 : !tile.tile<4x4xf32, scalable>
  %done = scf.for %i = %zero to %n step %one iter_args(%part = %t) -> (!tile.tile<4x4xf32, scalable>) {
    %u = tile.load %c[%i, %zero] rows 0 into 1 : memref<64x64xf32>, !tile.tile<4x4xf32, scalable>
    scf.yield %u : !tile.tile<4x4xf32, scalable>
  }
  return
}
