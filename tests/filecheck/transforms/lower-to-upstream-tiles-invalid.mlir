// RUN: xdsl-opt %s -p lower-to-upstream --split-input-file --verify-diagnostics | filecheck %s

// CHECK: tile.zero must say into which register
func.func @nowhere(%c: memref<16x16xf32>) attributes {nanokernel.target = "sapphirerapids"} {
  %zero = arith.constant 0 : index
  tile.configure [!tile.tile<16x16xf32>]
  %t = tile.zero : !tile.tile<16x16xf32>
  tile.store %t, %c[%zero, %zero] rows 0 : memref<16x16xf32>, !tile.tile<16x16xf32>
  tile.release
  return
}

// -----

// CHECK: register 1 is configured as !tile.tile<16x32xbf16>, not !tile.tile<16x16xf32>
func.func @other_shape(%c: memref<16x16xf32>) attributes {nanokernel.target = "sapphirerapids"} {
  %zero = arith.constant 0 : index
  tile.configure [!tile.tile<16x16xf32>, !tile.tile<16x32xbf16>]
  %t = tile.zero into 1 : !tile.tile<16x16xf32>
  tile.release
  return
}

// -----

// CHECK: register 0 is configured as nothing, not !tile.tile<16x16xf32>
func.func @not_configured(%c: memref<16x16xf32>) attributes {nanokernel.target = "sapphirerapids"} {
  %t = tile.zero into 0 : !tile.tile<16x16xf32>
  return
}

// -----

// CHECK: register 0 holds another tile than tile.store is given
func.func @taken(%c: memref<16x16xf32>) attributes {nanokernel.target = "sapphirerapids"} {
  %zero = arith.constant 0 : index
  tile.configure [!tile.tile<16x16xf32>]
  %t = tile.zero into 0 : !tile.tile<16x16xf32>
  %u = tile.load %c[%zero, %zero] rows 0 into 0 : memref<16x16xf32>, !tile.tile<16x16xf32>
  tile.store %t, %c[%zero, %zero] rows 0 : memref<16x16xf32>, !tile.tile<16x16xf32>
  tile.release
  return
}

// -----

// CHECK: register 0 holds another tile than tile.store is given
func.func @released(%c: memref<16x16xf32>) attributes {nanokernel.target = "sapphirerapids"} {
  %zero = arith.constant 0 : index
  tile.configure [!tile.tile<16x16xf32>]
  %t = tile.zero into 0 : !tile.tile<16x16xf32>
  tile.release
  tile.store %t, %c[%zero, %zero] rows 0 : memref<16x16xf32>, !tile.tile<16x16xf32>
  return
}

// -----

// CHECK: @callee expects registers configured as [!tile.tile<16x16xf32>]
func.func @caller(%i: index) attributes {nanokernel.target = "sapphirerapids"} {
  tile.configure [!tile.tile<11x16xf32>]
  nanokernel.microkernel @callee(%i) : index
  tile.release
  return
}
func.func private @callee(%i: index) attributes {nanokernel.target = "sapphirerapids", tile.configuration = [!tile.tile<16x16xf32>]} {
  return
}

// -----

// CHECK: @callee expects registers configured as [!tile.tile<16x16xf32>]
func.func @caller_without_registers(%i: index) attributes {nanokernel.target = "sapphirerapids"} {
  tile.configure [!tile.tile<16x16xf32>]
  tile.release
  nanokernel.microkernel @callee(%i) : index
  return
}
func.func private @callee(%i: index) attributes {nanokernel.target = "sapphirerapids", tile.configuration = [!tile.tile<16x16xf32>]} {
  return
}

// -----

// CHECK: target 'sapphirerapids' has no instruction 'tile.f16x16x16x32'
func.func @no_f16(%c: memref<16x16xf32>, %a: memref<16x32xf16>) attributes {nanokernel.target = "sapphirerapids"} {
  %zero = arith.constant 0 : index
  tile.configure [!tile.tile<16x16xf32>, !tile.tile<16x32xf16>]
  %t = tile.zero into 0 : !tile.tile<16x16xf32>
  %l = tile.load %a[%zero, %zero] rows 0 into 1 : memref<16x32xf16>, !tile.tile<16x32xf16>
  %s = tile.mma %t, %l, %l using "tile.f16x16x16x32" : !tile.tile<16x16xf32>, !tile.tile<16x32xf16>, !tile.tile<16x32xf16>
  tile.store %s, %c[%zero, %zero] rows 0 : memref<16x16xf32>, !tile.tile<16x16xf32>
  tile.release
  return
}
