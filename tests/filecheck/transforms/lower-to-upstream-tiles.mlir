// RUN: xdsl-opt %s -p lower-to-upstream | filecheck %s
// RUN: nkdsl-opt %s -p lower-to-upstream --print-op-generic | nkdsl-opt | filecheck %s

// A configuration is constant data, one for all functions: palette 1; from byte 16 on the bytes of each
// register's rows, from byte 48 on the number of rows.
// CHECK:       sym_name = "tile_configuration_11x64_11x32", type = memref<64xi8>,
// CHECK-SAME:  dense<[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 32, 0, {{.*}} 0, 11, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]> : tensor<64xi8>, sym_visibility = "private", constant, alignment = 64 : i64
// CHECK:       sym_name = "tile_configuration_16x64_16x64_16x64"
// CHECK-NOT:   memref.global

// Tiles are no values any more: what a loop carried beside them it carries alone. The distance of rows
// is one in bytes.
// CHECK-LABEL: func.func @product(
// CHECK-SAME:  +amx-tile,+amx-bf16,+amx-int8
// CHECK-DAG:     [[R0:%[0-9]+]] = arith.constant 0 : i8
// CHECK-DAG:     [[R1:%[0-9]+]] = arith.constant 1 : i8
// CHECK-DAG:     [[R2:%[0-9]+]] = arith.constant 2 : i8
// CHECK-DAG:     [[ROW:%[0-9]+]] = arith.constant 128 : i64
// CHECK:         [[DATA:%[0-9]+]] = memref.get_global @tile_configuration_16x64_16x64_16x64 : memref<64xi8>
// CHECK:         [[ADDRESS:%[0-9]+]] = llvm.inttoptr {{%[0-9]+}} : i64 to !llvm.ptr
// CHECK-NEXT:    llvm.call_intrinsic "llvm.x86.ldtilecfg"([[ADDRESS]]) : (!llvm.ptr) -> ()
// CHECK-NEXT:    llvm.call_intrinsic "llvm.x86.tilezero"([[R0]]) : (i8) -> ()
// CHECK-NEXT:    %last = scf.for %q = %zero to %groups step %turn iter_args(%before = %zero) -> (index) {
// CHECK:           [[A:%[0-9]+]] = llvm.getelementptr {{%[0-9]+}}[1024] : (!llvm.ptr) -> !llvm.ptr, bf16
// CHECK-NEXT:      llvm.call_intrinsic "llvm.x86.tileloadd64"([[R1]], [[A]], [[ROW]]) : (i8, !llvm.ptr, i64) -> ()
// CHECK:           [[B:%[0-9]+]] = llvm.getelementptr {{%[0-9]+}}[32] : (!llvm.ptr) -> !llvm.ptr, bf16
// CHECK-NEXT:      llvm.call_intrinsic "llvm.x86.tileloadd64"([[R2]], [[B]], [[ROW]])
// CHECK-NEXT:      llvm.call_intrinsic "llvm.x86.tdpbf16ps"([[R0]], [[R1]], [[R2]]) : (i8, i8, i8) -> ()
// CHECK-NEXT:      scf.yield %q : index
// CHECK:         llvm.call_intrinsic "llvm.x86.tilestored64"([[R0]], {{%[0-9]+}}, [[ROW]]) : (i8, !llvm.ptr, i64) -> ()
// CHECK-NEXT:    llvm.call_intrinsic "llvm.x86.tilerelease"() : () -> ()
// CHECK-NOT:     !tile
func.func @product(%a: memref<32x64xbf16>, %b: memref<32x32x2xbf16>, %c: memref<32x32xf32>) attributes {nanokernel.target = "sapphirerapids"} {
  %zero = arith.constant 0 : index
  %i = arith.constant 16 : index
  %turn = arith.constant 16 : index
  %groups = arith.constant 32 : index
  %two = arith.constant 2 : index
  tile.configure [!tile.tile<16x16xf32>, !tile.tile<16x32xbf16>, !tile.tile<16x32xbf16>]
  %start = tile.zero into 0 : !tile.tile<16x16xf32>
  %done, %last = scf.for %q = %zero to %groups step %turn iter_args(%part = %start, %before = %zero) -> (!tile.tile<16x16xf32>, index) {
    %k = arith.muli %q, %two : index
    %left = tile.load %a[%i, %k] rows 0 into 1 : memref<32x64xbf16>, !tile.tile<16x32xbf16>
    %right = tile.load %b[%q, %zero + 16, %zero] rows 0 into 2 : memref<32x32x2xbf16>, !tile.tile<16x32xbf16>
    %sum = tile.mma %part, %left, %right using "tile.bf16x16x16x32" : !tile.tile<16x16xf32>, !tile.tile<16x32xbf16>, !tile.tile<16x32xbf16>
    scf.yield %sum, %q : !tile.tile<16x16xf32>, index
  }
  tile.store %done, %c[%i, %last] rows 0 : memref<32x32xf32>, !tile.tile<16x16xf32>
  tile.release
  return
}

// A branch results in nothing but what its registers hold. A stride known only at run time is counted in
// bytes then.
// CHECK-LABEL: func.func @branch(
// CHECK-SAME:    %c: memref<i32>, {{%[0-9]+}}: index, {{%[0-9]+}}: index, [[STRIDE:%[0-9]+]]: index, %first: i1)
// CHECK:         scf.if %first {
// CHECK-NEXT:      llvm.call_intrinsic "llvm.x86.tilezero"([[R0:%[0-9]+]]) : (i8) -> ()
// CHECK-NEXT:    } else {
// CHECK-NEXT:      [[BYTES:%[0-9]+]] = arith.muli [[STRIDE]], {{%[0-9]+}} : index
// CHECK-NEXT:      [[ROW:%[0-9]+]] = arith.index_cast [[BYTES]] : index to i64
// CHECK-NEXT:      llvm.call_intrinsic "llvm.x86.tileloadd64"([[R0]], {{%[0-9]+}}, [[ROW]])
// CHECK-NEXT:    }
// CHECK:         llvm.call_intrinsic "llvm.x86.tilestored64"([[R0]],
func.func @branch(%c: memref<?x?xi32, strided<[?, 1]>>, %first: i1) attributes {nanokernel.target = "sapphirerapids"} {
  %zero = arith.constant 0 : index
  tile.configure [!tile.tile<11x16xi32>, !tile.tile<11x32xi8>]
  %start = scf.if %first -> (!tile.tile<11x16xi32>) {
    %none = tile.zero into 0 : !tile.tile<11x16xi32>
    scf.yield %none : !tile.tile<11x16xi32>
  } else {
    %old = tile.load %c[%zero, %zero] rows 0 into 0 : memref<?x?xi32, strided<[?, 1]>>, !tile.tile<11x16xi32>
    scf.yield %old : !tile.tile<11x16xi32>
  }
  tile.store %start, %c[%zero, %zero] rows 0 : memref<?x?xi32, strided<[?, 1]>>, !tile.tile<11x16xi32>
  tile.release
  return
}

// A private function is called with registers that its caller configured.
// CHECK-LABEL: func.func private @callee(
// CHECK-NOT:     tile.configuration
// CHECK-NOT:     ldtilecfg
// CHECK:         llvm.call_intrinsic "llvm.x86.tilezero"(
// CHECK:         llvm.call_intrinsic "llvm.x86.tilestored64"(
// CHECK-NEXT:    func.return
func.func private @callee(%c: memref<16x16xf32, strided<[16, 1], offset: ?>>) attributes {nanokernel.target = "sapphirerapids", tile.configuration = [!tile.tile<16x16xf32>, !tile.tile<16x32xbf16>, !tile.tile<16x32xbf16>]} {
  %zero = arith.constant 0 : index
  %none = tile.zero into 0 : !tile.tile<16x16xf32>
  tile.store %none, %c[%zero, %zero] rows 0 : memref<16x16xf32, strided<[16, 1], offset: ?>>, !tile.tile<16x16xf32>
  return
}

// CHECK-LABEL: func.func @caller(
// CHECK:         memref.get_global @tile_configuration_16x64_16x64_16x64
// CHECK:         llvm.call_intrinsic "llvm.x86.ldtilecfg"(
// CHECK:         func.call @callee(
// CHECK:         llvm.call_intrinsic "llvm.x86.tilerelease"()
func.func @caller(%c: memref<16x16xf32>) attributes {nanokernel.target = "sapphirerapids"} {
  tile.configure [!tile.tile<16x16xf32>, !tile.tile<16x32xbf16>, !tile.tile<16x32xbf16>]
  %view = "memref.cast"(%c) : (memref<16x16xf32>) -> memref<16x16xf32, strided<[16, 1], offset: ?>>
  nanokernel.microkernel @callee(%view) : memref<16x16xf32, strided<[16, 1], offset: ?>>
  tile.release
  return
}
