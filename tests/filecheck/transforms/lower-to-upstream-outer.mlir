// RUN: xdsl-opt %s -p lower-to-upstream | filecheck %s
// RUN: nkdsl-opt %s -p lower-to-upstream --print-op-generic | nkdsl-opt | filecheck %s

// A function with tiles runs in streaming mode, with tiles of its own, which are named by number and are
// no values any more: what a loop carried beside them it carries alone. A mask is made once for each
// extent; a tile is stored row by row, as many as exist. Bits 1 and 5 are those of tile 1.
// CHECK-LABEL: func.func private @product(
// CHECK-SAME:  ["target-features", "{{.*}},+sme"], "aarch64_pstate_sm_body", "aarch64_new_za", "nounwind", ["frame-pointer", "all"], "noinline"]
// CHECK-DAG:     [[ROW:%[0-9]+]] = arith.constant 280 : i64
// CHECK-DAG:     [[TILE:%[0-9]+]] = arith.constant 1 : i32
// CHECK-DAG:     [[PATTERN:%[0-9]+]] = arith.constant 31 : i32
// CHECK-DAG:     [[EVERY:%[0-9]+]] = llvm.call_intrinsic "llvm.aarch64.sve.ptrue.nxv4i1"([[PATTERN]]) : (i32) -> vector<[4]xi1>
// CHECK-DAG:     [[BITS:%[0-9]+]] = arith.constant 34 : i32
// CHECK-DAG:     [[NONE:%[0-9]+]] = arith.constant 0 : i64
// CHECK-DAG:     [[ZEROS:%[0-9]+]] = arith.constant dense<0.000000e+00> : vector<[4]xf32>
// CHECK-DAG:     [[LENGTH:%[0-9]+]] = llvm.call_intrinsic "llvm.vscale.i64"() : () -> i64
// CHECK-DAG:     %v = arith.index_cast [[LENGTH]] : i64 to index
// CHECK-DAG:     [[M:%[0-9]+]] = arith.index_cast %m : index to i64
// CHECK-DAG:     [[MASK:%[0-9]+]] = llvm.call_intrinsic "llvm.aarch64.sve.whilelt.nxv4i1.i64"([[NONE]], [[M]]) : (i64, i64) -> vector<[4]xi1>
// CHECK-DAG:     [[N:%[0-9]+]] = arith.index_cast %n : index to i64
// CHECK-DAG:     [[COLUMNS:%[0-9]+]] = llvm.call_intrinsic "llvm.aarch64.sve.whilelt.nxv4i1.i64"([[NONE]], [[N]]) : (i64, i64) -> vector<[4]xi1>
// CHECK:         llvm.call_intrinsic "llvm.aarch64.sme.zero"([[BITS]]) : (i32) -> ()
// CHECK-NEXT:    %last = scf.for %k = %zero to %depth step %one iter_args(%before = %zero) -> (index) {
// CHECK:           %x = vector.maskedload {{%[0-9]+}}[{{%[0-9]+}}], [[MASK]], [[ZEROS]] : memref<?xf32, strided<[1], offset: ?>>, vector<[4]xi1>, vector<[4]xf32> into vector<[4]xf32>
// CHECK:           %y = vector.load {{%[0-9]+}}[{{%[0-9]+}}] : memref<?xf32, strided<[1], offset: ?>>, vector<[4]xf32>
// CHECK-NEXT:      llvm.call_intrinsic "llvm.aarch64.sme.mopa.nxv4f32"([[TILE]], [[EVERY]], [[EVERY]], %x, %y) : (i32, vector<[4]xi1>, vector<[4]xi1>, vector<[4]xf32>, vector<[4]xf32>) -> ()
// CHECK-NEXT:      scf.yield %k : index
// CHECK:         [[SIDE:%[0-9]+]] = arith.muli %v, {{%[0-9]+}} : index
// CHECK-NEXT:    [[ROWS:%[0-9]+]] = arith.minui %m, [[SIDE]] : index
// CHECK:         [[FIRST:%[0-9]+]] = llvm.getelementptr
// CHECK:         scf.for [[I:%[0-9]+]] = {{%[0-9]+}} to [[ROWS]] step {{%[0-9]+}} {
// CHECK-NEXT:      [[WIDE:%[0-9]+]] = arith.index_cast [[I]] : index to i64
// CHECK-NEXT:      [[PLACE:%[0-9]+]] = arith.muli [[WIDE]], [[ROW]] : i64
// CHECK-NEXT:      [[ADDRESS:%[0-9]+]] = llvm.getelementptr [[FIRST]][[[PLACE]]] : (!llvm.ptr, i64) -> !llvm.ptr, i8
// CHECK-NEXT:      [[SLICE:%[0-9]+]] = arith.index_cast [[I]] : index to i32
// CHECK-NEXT:      llvm.call_intrinsic "llvm.aarch64.sme.st1w.horiz"([[COLUMNS]], [[ADDRESS]], [[TILE]], [[SLICE]]) : (vector<[4]xi1>, !llvm.ptr, i32, i32) -> ()
// CHECK-NOT:     !tile
func.func private @product(%a: memref<?x64xf32>, %b: memref<?x70xf32>, %c: memref<?x70xf32>, %m: index, %n: index, %depth: index) attributes {nanokernel.target = "armv9-sme"} {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %v = tile.vscale
  %start = tile.zero into 1 : !tile.tile<4x4xf32, scalable>
  %sum, %last = scf.for %k = %zero to %depth step %one iter_args(%part = %start, %before = %zero) -> (!tile.tile<4x4xf32, scalable>, index) {
    %x = tile.load %a[%k, %zero] rows 0 active %m : memref<?x64xf32>, !tile.tile<1x4xf32, scalable>
    %y = tile.load %b[%k, %zero + 4] rows 0 : memref<?x70xf32>, !tile.tile<1x4xf32, scalable>
    %next = tile.mma %part, %x, %y using "outer.f32" : !tile.tile<4x4xf32, scalable>, !tile.tile<1x4xf32, scalable>, !tile.tile<1x4xf32, scalable>
    scf.yield %next, %k : !tile.tile<4x4xf32, scalable>, index
  }
  tile.store %sum, %c[%last, %zero] rows 0 active %m, %n : memref<?x70xf32>, !tile.tile<4x4xf32, scalable>
  return
}

// Without extents all of a tile is loaded and stored. Factors of 16 bits have masks of as many lanes.
// CHECK-LABEL: func.func private @whole(
// CHECK-DAG:     [[HALVES:%[0-9]+]] = llvm.call_intrinsic "llvm.aarch64.sve.ptrue.nxv8i1"({{%[0-9]+}}) : (i32) -> vector<[8]xi1>
// CHECK-DAG:     [[EVERY:%[0-9]+]] = llvm.call_intrinsic "llvm.aarch64.sve.ptrue.nxv4i1"({{%[0-9]+}}) : (i32) -> vector<[4]xi1>
// CHECK-DAG:     [[TILE:%[0-9]+]] = arith.constant 3 : i32
// CHECK:         [[SIDE:%[0-9]+]] = arith.muli
// CHECK-NEXT:    scf.for {{%[0-9]+}} = {{%[0-9]+}} to [[SIDE]] step {{%[0-9]+}} {
// CHECK:           llvm.call_intrinsic "llvm.aarch64.sme.ld1w.horiz"([[EVERY]], {{%[0-9]+}}, [[TILE]], {{%[0-9]+}}) : (vector<[4]xi1>, !llvm.ptr, i32, i32) -> ()
// CHECK:         %x = vector.load {{%[0-9]+}}[{{%[0-9]+}}] : memref<1024xbf16>, vector<[8]xbf16>
// CHECK-NEXT:    llvm.call_intrinsic "llvm.aarch64.sme.mopa.wide.nxv8bf16"([[TILE]], [[HALVES]], [[HALVES]], %x, %x) :
// CHECK:           llvm.call_intrinsic "llvm.aarch64.sme.st1w.horiz"([[EVERY]],
func.func private @whole(%a: memref<8x64x2xbf16>, %c: memref<64x64xf32>) attributes {nanokernel.target = "armv9-sme"} {
  %zero = arith.constant 0 : index
  %old = tile.load %c[%zero, %zero] rows 0 into 3 : memref<64x64xf32>, !tile.tile<4x4xf32, scalable>
  %x = tile.load %a[%zero, %zero, %zero] rows 0 : memref<8x64x2xbf16>, !tile.tile<1x8xbf16, scalable>
  %next = tile.mma %old, %x, %x using "outer.bf16" : !tile.tile<4x4xf32, scalable>, !tile.tile<1x8xbf16, scalable>, !tile.tile<1x8xbf16, scalable>
  tile.store %next, %c[%zero, %zero] rows 0 : memref<64x64xf32>, !tile.tile<4x4xf32, scalable>
  return
}

// Code around microkernels has no tiles, and runs outside of the mode.
// CHECK-LABEL: func.func @around(
// CHECK-NOT:     aarch64_
// CHECK:         func.call @whole(
func.func @around(%a: memref<8x64x2xbf16>, %c: memref<64x64xf32>) attributes {nanokernel.target = "armv9-sme"} {
  nanokernel.microkernel @whole(%a, %c) : memref<8x64x2xbf16>, memref<64x64xf32>
  return
}
