// RUN: xdsl-opt %s | xdsl-opt | filecheck %s
// RUN: xdsl-opt %s --print-op-generic | xdsl-opt | filecheck %s
// RUN: xdsl-opt %s --print-op-generic | filecheck %s --check-prefix=GENERIC

// ---- whole

// CHECK-LABEL: func.func @gemm
// GENERIC: sym_name = "gemm"
func.func @gemm(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) {
  // CHECK: nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
  // GENERIC: "nanokernel.gemm"(%a, %b, %c) <{maps = [affine_map<(d0, d1, d2) -> (d0, d1)>, affine_map<(d0, d1, d2) -> (d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d2)>], operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0>}>
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
  // CHECK: outs(%c[m, n] : memref<64x96xf32>) from zero attributes {hint}
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>) from zero attributes {hint}
  func.return
}

// CHECK-LABEL: func.func @gemm_plan
func.func @gemm_plan(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) {
  // What a plan leaves out has a default.
  // CHECK: plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, lanes = n, edges = even, k_unroll = 1, k_block = 0, resident = rhs, prefetch = 0, pack = none>
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>) plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48>
  // The order of the entries is free.
  // CHECK: from zero plan #nanokernel.plan<target = "x86-64-v3", instruction = "fma.f32x8", block = 24x4, lanes = m, edges = even, k_unroll = 4, k_block = 0, resident = lhs, prefetch = 8, pack = lhs>
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>) from zero plan #nanokernel.plan<pack = lhs, prefetch = 8, resident = lhs, k_unroll = 4, edges = even, lanes = m, block = 24x4, instruction = "fma.f32x8", target = "x86-64-v3">
  // The rules of cache blocks and threads are printed where they say something.
  // CHECK: plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, lanes = n, edges = masked, k_unroll = 1, k_block = 384, resident = rhs, prefetch = 0, pack = both, m_block = 96, n_block = 4080, pack_from = 32, threads = 8>
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>) plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, threads = 8, n_block = 4080, m_block = 96, k_block = 384, pack_from = 32, edges = masked, pack = both>
  // CHECK: prefetch = 0, pack = none, ahead = lhs, n_block = 4080>
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>) plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, m_block = 0, ahead = lhs, n_block = 4080, threads = 1>
  func.return
}

// CHECK-LABEL: func.func @gemm_update
// GENERIC: sym_name = "gemm_update"
func.func @gemm_update(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>, %bias: memref<96xf32>, %first: i1, %alpha: f32, %beta: f32) {
  // CHECK: outs(%c[m, n] : memref<64x96xf32>) from zero if %first attributes {hint}
  // GENERIC: "nanokernel.gemm"(%a, %b, %c, %first) <{maps = [{{.*}}], operandSegmentSizes = array<i32: 1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0>}> {hint}
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>) from zero if %first attributes {hint}
  // CHECK: outs(%c[m, n] : memref<64x96xf32>) scale %alpha, %beta{{$}}
  // GENERIC: "nanokernel.gemm"(%a, %b, %c, %alpha, %beta) <{maps = [{{.*}}], operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0>}>
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>) scale %alpha, %beta
  // CHECK: outs(%c[m, n] : memref<64x96xf32>) from zero scale %alpha, %beta{{$}}
  // GENERIC: "nanokernel.gemm"(%a, %b, %c, %alpha, %beta) <{maps = [{{.*}}], from_zero, operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0>}>
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>) from zero scale %alpha, %beta
  // CHECK: from zero if %first scale %alpha, %beta plan #nanokernel.plan<{{.*}}> epilogue(%bias[n] : memref<96xf32>) {
  // CHECK: } attributes {hint}
  // GENERIC: "nanokernel.gemm"(%a, %b, %c, %bias, %first, %alpha, %beta) <{{{.*}}, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0>}>
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>) from zero if %first scale %alpha, %beta plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48> epilogue(%bias[n] : memref<96xf32>) {
  ^bb0(%sum: f32, %x: f32):
    %r = arith.addf %sum, %x : f32
    nanokernel.yield %r : f32
  } attributes {hint}
  func.return
}

// CHECK-LABEL: func.func @gemm_epilogue
func.func @gemm_epilogue(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xbf16>, %bias: memref<96xf32>, %scale: memref<f32>) {
  // CHECK: outs(%c[m, n] : memref<64x96xbf16>) from zero epilogue(%bias[n], %scale[] : memref<96xf32>, memref<f32>) {
  // CHECK-NEXT: ^bb{{[0-9]+}}(%sum: f32, %x: f32, %y: f32):
  // CHECK:      nanokernel.yield %r : bf16
  // CHECK-NEXT: }
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xbf16>) from zero epilogue(%bias[n], %scale[] : memref<96xf32>, memref<f32>) {
  ^bb0(%sum: f32, %x: f32, %y: f32):
    %p = arith.mulf %sum, %y : f32
    %q = arith.addf %p, %x : f32
    %r = arith.truncf %q : f32 to bf16
    nanokernel.yield %r : bf16
  }
  // CHECK: outs(%c[m, n] : memref<64x96xbf16>) epilogue {
  // CHECK: } attributes {hint}
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xbf16>) epilogue {
  ^bb0(%sum: f32):
    %r = arith.truncf %sum : f32 to bf16
    nanokernel.yield %r : bf16
  } attributes {hint}
  func.return
}

// Sizes may be known only at run time, or from some of the operands only.
// CHECK-LABEL: func.func @gemm_dynamic
func.func @gemm_dynamic(%a: memref<?x?xf32>, %b: memref<256x96xf32, strided<[?, 1]>>, %c: memref<?x?xf32>) {
  // CHECK: nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<?x?xf32>, memref<256x96xf32, strided<[?, 1]>>) outs(%c[m, n] : memref<?x?xf32>)
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<?x?xf32>, memref<256x96xf32, strided<[?, 1]>>) outs(%c[m, n] : memref<?x?xf32>)
  func.return
}

// Transposes, batches, reductions over a batch, broadcast factors and VNNI layouts are maps.
// CHECK-LABEL: func.func @gemm_maps
func.func @gemm_maps(%a: memref<4x32x64xf32>, %at: memref<4x64x32xf32>, %b: memref<4x64x8xf32>, %bv: memref<4x32x8x2xf32>, %c: memref<32x8xf32>, %cb: memref<4x32x8xf32>) {
  // CHECK: ins(%at[b, k, m], %b[b, k, n] : {{.*}}) outs(%cb[b, m, n] : memref<4x32x8xf32>)
  nanokernel.gemm ins(%at[b, k, m], %b[b, k, n] : memref<4x64x32xf32>, memref<4x64x8xf32>) outs(%cb[b, m, n] : memref<4x32x8xf32>)
  // CHECK: ins(%a[k0, m, k1], %b[k0, k1, n] : {{.*}}) outs(%c[m, n] : memref<32x8xf32>)
  nanokernel.gemm ins(%a[k0, m, k1], %b[k0, k1, n] : memref<4x32x64xf32>, memref<4x64x8xf32>) outs(%c[m, n] : memref<32x8xf32>)
  // CHECK: ins(%a[b, m, 2 * k0 + k1], %bv[b, k0, n, k1] : {{.*}}) outs(%cb[b, m, n] : memref<4x32x8xf32>)
  nanokernel.gemm ins(%a[b, m, 2 * k0 + k1], %bv[b, k0, n, k1] : memref<4x32x64xf32>, memref<4x32x8x2xf32>) outs(%cb[b, m, n] : memref<4x32x8xf32>)
  // CHECK: ins(%a[3, m, k], %b[0, k, n] : {{.*}}) outs(%c[m, n] : memref<32x8xf32>)
  nanokernel.gemm ins(%a[3, m, k], %b[0, k, n] : memref<4x32x64xf32>, memref<4x64x8xf32>) outs(%c[m, n] : memref<32x8xf32>)
  // CHECK: ins(%a[m0, m1, k], %b[3, k, n] : {{.*}}) outs(%cb[m0, m1, n] : memref<4x32x8xf32>)
  nanokernel.gemm ins(%a[m0, m1, k], %b[3, k, n] : memref<4x32x64xf32>, memref<4x64x8xf32>) outs(%cb[m0, m1, n] : memref<4x32x8xf32>)
  func.return
}

// CHECK-LABEL: func.func @dot_product
func.func @dot_product(%a: memref<64xf32>, %c: memref<f32>) {
  // CHECK: nanokernel.gemm ins(%a[k], %a[k] : memref<64xf32>, memref<64xf32>) outs(%c[] : memref<f32>)
  nanokernel.gemm ins(%a[k], %a[k] : memref<64xf32>, memref<64xf32>) outs(%c[] : memref<f32>)
  func.return
}

// Iterators are named in order of first use, whatever they were called or numbered before.
// CHECK-LABEL: func.func @iterator_names
func.func @iterator_names(%a: memref<32x4x64xf32>, %b: memref<4x64x8xf32>, %c: memref<32x8xf32>) {
  // CHECK: ins(%a[m, k0, k1], %b[k0, k1, n] : {{.*}}) outs(%c[m, n] : memref<32x8xf32>)
  nanokernel.gemm ins(%a[m7, k2, k0], %b[k2, k0, n1] : memref<32x4x64xf32>, memref<4x64x8xf32>) outs(%c[m7, n1] : memref<32x8xf32>)
  // CHECK: ins(%a[m, k0, k1], %b[k0, k1, n] : {{.*}}) outs(%c[m, n] : memref<32x8xf32>)
  "nanokernel.gemm"(%a, %b, %c) <{maps = [affine_map<(d0, d1, d2, d3) -> (d1, d3, d2)>, affine_map<(d0, d1, d2, d3) -> (d3, d2, d0)>, affine_map<(d0, d1, d2, d3) -> (d1, d0)>], operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0>}> : (memref<32x4x64xf32>, memref<4x64x8xf32>, memref<32x8xf32>) -> ()
  func.return
}

// ---- composed

// CHECK-LABEL: func.func @zero
func.func @zero() {
  // CHECK: nanokernel.zero : !nanokernel.block<8x48xf32, lanes = n>
  %n = nanokernel.zero : !nanokernel.block<8x48xf32, lanes = n>
  // CHECK: nanokernel.zero {hint} : !nanokernel.block<24x4xi32, lanes = m>
  %m = nanokernel.zero {hint} : !nanokernel.block<24x4xi32, lanes = m>
  // CHECK: nanokernel.zero : !nanokernel.block<32x32xf32, lanes = n, tiles = 16x16>
  %t = nanokernel.zero : !nanokernel.block<32x32xf32, lanes = n, tiles = 16x16>
  // CHECK: nanokernel.zero : !nanokernel.block<32x11xi32, lanes = m, tiles = 16x11>
  %u = nanokernel.zero : !nanokernel.block<32x11xi32, lanes = m, tiles = 16x11>
  // CHECK: nanokernel.zero : !nanokernel.block<8x8xf32, lanes = n, tiles = 4x4, scalable>
  %s = nanokernel.zero : !nanokernel.block<8x8xf32, lanes = n, tiles = 4x4, scalable>
  func.return
}

// CHECK-LABEL: func.func @load
// GENERIC: sym_name = "load"
func.func @load(%c: memref<64x96xf32>, %d: memref<4x?x64xf32>, %y: memref<96xf32>, %i: index, %j: index) {
  // CHECK: nanokernel.load %c[m: %i, n: %j] : memref<64x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  // GENERIC: "nanokernel.load"(%c, %i, %j) <{dims = "mn", operandSegmentSizes = array<i32: 0, 1, 2>}>
  %0 = nanokernel.load %c[m: %i, n: %j] : memref<64x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  // CHECK: nanokernel.load %d[%i, n: %j, m: %i] {hint} : memref<4x?x64xf32>, !nanokernel.block<16x4xf32, lanes = m>
  // GENERIC: "nanokernel.load"(%d, %i, %j, %i) <{dims = "_nm", operandSegmentSizes = array<i32: 0, 1, 3>}>
  %1 = nanokernel.load %d[%i, n: %j, m: %i] {hint} : memref<4x?x64xf32>, !nanokernel.block<16x4xf32, lanes = m>
  // A single row needs no dimension m.
  // CHECK: nanokernel.load %y[n: %j] : memref<96xf32>, !nanokernel.block<1x48xf32, lanes = n>
  %2 = nanokernel.load %y[n: %j] : memref<96xf32>, !nanokernel.block<1x48xf32, lanes = n>
  func.return
}

// CHECK-LABEL: func.func @load_tail
// GENERIC: sym_name = "load_tail"
func.func @load_tail(%c: memref<64x96xf32>, %i: index, %j: index, %tail: index) {
  // CHECK: nanokernel.load %c[m: %i, n: %j] tail %tail {hint} : memref<64x96xf32>, !nanokernel.block<1x16xf32, lanes = n>
  // GENERIC: "nanokernel.load"(%tail, %c, %i, %j) <{dims = "mn", operandSegmentSizes = array<i32: 1, 1, 2>}> {hint}
  %0 = nanokernel.load %c[m: %i, n: %j] tail %tail {hint} : memref<64x96xf32>, !nanokernel.block<1x16xf32, lanes = n>
  func.return
}

// CHECK-LABEL: func.func @store
func.func @store(%x: !nanokernel.block<8x48xf32, lanes = n>, %s: !nanokernel.block<8x1xf32, lanes = k>, %c: memref<64x96xf32>, %y: memref<64xf32>, %i: index, %j: index) {
  // CHECK: nanokernel.store %x, %c[m: %i, n: %j] : memref<64x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  nanokernel.store %x, %c[m: %i, n: %j] : memref<64x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  // CHECK: nanokernel.store %s, %y[m: %i] accumulate {hint} : memref<64xf32>, !nanokernel.block<8x1xf32, lanes = k>
  nanokernel.store %s, %y[m: %i] accumulate {hint} : memref<64xf32>, !nanokernel.block<8x1xf32, lanes = k>
  func.return
}

// CHECK-LABEL: func.func @store_update
// GENERIC: sym_name = "store_update"
func.func @store_update(%x: !nanokernel.block<8x48xf32, lanes = n>, %t: !nanokernel.block<16x4xf32, lanes = m>, %s: !nanokernel.block<8x1xf32, lanes = k>, %c: memref<64x96xf32>, %i: index, %j: index, %tail: index, %alpha: f32, %beta: f32) {
  // CHECK: nanokernel.store %x, %c[m: %i, n: %j] tail %tail : memref<64x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  // GENERIC: "nanokernel.store"(%x, %tail, %c, %i, %j) <{dims = "mn", operandSegmentSizes = array<i32: 1, 1, 0, 0, 0, 0, 1, 2>}>
  nanokernel.store %x, %c[m: %i, n: %j] tail %tail : memref<64x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  // CHECK: nanokernel.store %t, %c[m: %i, n: %j] tail %tail scale %alpha, %beta : memref<64x96xf32>, !nanokernel.block<16x4xf32, lanes = m>
  // GENERIC: "nanokernel.store"(%t, %tail, %alpha, %beta, %c, %i, %j) <{dims = "mn", operandSegmentSizes = array<i32: 1, 1, 1, 1, 0, 0, 1, 2>}>
  nanokernel.store %t, %c[m: %i, n: %j] tail %tail scale %alpha, %beta : memref<64x96xf32>, !nanokernel.block<16x4xf32, lanes = m>
  // CHECK: nanokernel.store %s, %c[m: %i, n: %j] scale %alpha accumulate {hint} : memref<64x96xf32>, !nanokernel.block<8x1xf32, lanes = k>
  // GENERIC: "nanokernel.store"(%s, %alpha, %c, %i, %j) <{dims = "mn", accumulate, operandSegmentSizes = array<i32: 1, 0, 1, 0, 0, 0, 1, 2>}>
  nanokernel.store %s, %c[m: %i, n: %j] scale %alpha accumulate {hint} : memref<64x96xf32>, !nanokernel.block<8x1xf32, lanes = k>
  // CHECK: nanokernel.store %x, %c[m: %i, n: %j] scale %alpha : memref<64x96xf32>
  nanokernel.store %x, %c[m: %i, n: %j] scale %alpha : memref<64x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// CHECK-LABEL: func.func @step
// GENERIC: sym_name = "step"
func.func @step(%x: !nanokernel.block<8x48xf32, lanes = n>, %a: memref<64x256xf32>, %b: memref<256x96xf32>, %i: index, %j: index, %k: index, %tail: index) {
  // CHECK: nanokernel.step %x, %a[m: %i, k: %k], %b[k: %k, n: %j] depth 4 using "fma.f32x16" : memref<64x256xf32>, memref<256x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  // GENERIC: "nanokernel.step"(%x, %a, %i, %k, %b, %k, %j) <{lhs_dims = "mk", rhs_dims = "kn", depth = 4 : i64, instruction = "fma.f32x16", operandSegmentSizes = array<i32: 1, 1, 2, 1, 2, 0, 0, 0>}>
  %0 = nanokernel.step %x, %a[m: %i, k: %k], %b[k: %k, n: %j] depth 4 using "fma.f32x16" : memref<64x256xf32>, memref<256x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  // CHECK: depth 1 using "fma.f32x16" prefetch rhs [8, 0] {hint} : memref<64x256xf32>
  %1 = nanokernel.step %0, %a[m: %i, k: %k], %b[k: %k, n: %j] depth 1 using "fma.f32x16" prefetch rhs [8, 0] {hint} : memref<64x256xf32>, memref<256x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  // CHECK: depth 1 using "fma.f32x16" tail %tail prefetch lhs [0, 16] rhs [8, 0] : memref<64x256xf32>
  // GENERIC: "nanokernel.step"(%1, %a, %i, %k, %b, %k, %j, %tail) <{{{.*}}, operandSegmentSizes = array<i32: 1, 1, 2, 1, 2, 1, 0, 0>}>
  %2 = nanokernel.step %1, %a[m: %i, k: %k], %b[k: %k, n: %j] depth 1 using "fma.f32x16" tail %tail prefetch lhs [0, 16] rhs [8, 0] : memref<64x256xf32>, memref<256x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// CHECK-LABEL: func.func @workspace
func.func @workspace() {
  // CHECK: nanokernel.workspace at 0 : memref<256x48xf32>
  %0 = nanokernel.workspace at 0 : memref<256x48xf32>
  // CHECK: nanokernel.workspace at 49152 {hint} : memref<8xf64>
  %1 = nanokernel.workspace at 49152 {hint} : memref<8xf64>
  func.return
}

// CHECK-LABEL: func.func @pack
// GENERIC: sym_name = "pack"
func.func @pack(%a: memref<4x64x256xf32>, %b: memref<256x96xf32>, %pa: memref<256x8xf32>, %pb: memref<256x48xf32>, %i: index, %j: index, %k: index) {
  // CHECK: nanokernel.pack %b[k: %k, n: %j] extents 256 x 40 into %pb : memref<256x96xf32>, memref<256x48xf32>
  // GENERIC: "nanokernel.pack"(%b, %k, %j, %pb) <{dims = "kn", depth = 256 : i64, width = 40 : i64, operandSegmentSizes = array<i32: 1, 2, 1, 0>}>
  nanokernel.pack %b[k: %k, n: %j] extents 256 x 40 into %pb : memref<256x96xf32>, memref<256x48xf32>
  // CHECK: nanokernel.pack %a[%i, m: %i, k: %k] extents 256 x 8 into %pa {hint} : memref<4x64x256xf32>, memref<256x8xf32>
  nanokernel.pack %a[%i, m: %i, k: %k] extents 256 x 8 into %pa {hint} : memref<4x64x256xf32>, memref<256x8xf32>
  func.return
}

// How much is read may be known only at run time, and a panel may hold more rows than that.
// CHECK-LABEL: func.func @pack_run_time
// GENERIC: sym_name = "pack_run_time"
func.func @pack_run_time(%b: memref<?x?xf32, strided<[?, 1]>>, %panel: memref<256x48xf32>, %open: memref<?x48xf32>, %i: index, %k: index, %depth: index, %width: index) {
  // CHECK: nanokernel.pack %b[k: %k, n: %i] extents %depth x %width into %open {hint} : memref<?x?xf32, strided<[?, 1]>>, memref<?x48xf32>
  // GENERIC: "nanokernel.pack"(%b, %k, %i, %open, %depth, %width) <{dims = "kn", depth = -9223372036854775808 : i64, width = -9223372036854775808 : i64, operandSegmentSizes = array<i32: 1, 2, 1, 2>}> {hint}
  nanokernel.pack %b[k: %k, n: %i] extents %depth x %width into %open {hint} : memref<?x?xf32, strided<[?, 1]>>, memref<?x48xf32>
  // CHECK: nanokernel.pack %b[m: %i, k: %k] extents %depth x 48 into %panel : memref<?x?xf32, strided<[?, 1]>>, memref<256x48xf32>
  nanokernel.pack %b[m: %i, k: %k] extents %depth x 48 into %panel : memref<?x?xf32, strided<[?, 1]>>, memref<256x48xf32>
  // CHECK: nanokernel.pack %b[k: %k, n: %i] extents 64 x %width into %open : memref<?x?xf32, strided<[?, 1]>>, memref<?x48xf32>
  // GENERIC: "nanokernel.pack"(%b, %k, %i, %open, %width) <{dims = "kn", depth = 64 : i64, width = -9223372036854775808 : i64, operandSegmentSizes = array<i32: 1, 2, 1, 1>}>
  nanokernel.pack %b[k: %k, n: %i] extents 64 x %width into %open : memref<?x?xf32, strided<[?, 1]>>, memref<?x48xf32>
  func.return
}

// CHECK-LABEL: func.func @pack_lanes
// GENERIC: sym_name = "pack_lanes"
func.func @pack_lanes(%a: memref<64x256xf32>, %panel: memref<8x256xf32>, %i: index, %k: index, %depth: index) {
  // CHECK: nanokernel.pack %a[m: %i, k: %k] extents 8 x 200 into %panel lanes k {hint} : memref<64x256xf32>, memref<8x256xf32>
  // GENERIC: "nanokernel.pack"(%a, %i, %k, %panel) <{dims = "mk", depth = 8 : i64, width = 200 : i64, lanes_k, operandSegmentSizes = array<i32: 1, 2, 1, 0>}> {hint}
  nanokernel.pack %a[m: %i, k: %k] extents 8 x 200 into %panel lanes k {hint} : memref<64x256xf32>, memref<8x256xf32>
  // CHECK: nanokernel.pack %a[m: %i, k: %k] extents 8 x %depth into %panel lanes k : memref<64x256xf32>, memref<8x256xf32>
  nanokernel.pack %a[m: %i, k: %k] extents 8 x %depth into %panel lanes k : memref<64x256xf32>, memref<8x256xf32>
  func.return
}

// CHECK-LABEL: func.func @microkernel
// GENERIC: sym_name = "microkernel"
func.func @microkernel(%a: memref<8x?xf32, strided<[?, 1], offset: ?>>, %first: i1) {
  // CHECK: nanokernel.microkernel @matmul_8x48(%a, %first) : memref<8x?xf32, strided<[?, 1], offset: ?>>, i1
  // GENERIC: "nanokernel.microkernel"(%a, %first) <{callee = @matmul_8x48}> : (memref<8x?xf32, strided<[?, 1], offset: ?>>, i1) -> ()
  nanokernel.microkernel @matmul_8x48(%a, %first) : memref<8x?xf32, strided<[?, 1], offset: ?>>, i1
  // CHECK: nanokernel.microkernel @matmul_8x48(%a, %first) {hint} : memref<8x?xf32, strided<[?, 1], offset: ?>>, i1
  nanokernel.microkernel @matmul_8x48(%a, %first) {hint} : memref<8x?xf32, strided<[?, 1], offset: ?>>, i1
  func.return
}
