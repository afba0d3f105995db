// RUN: xdsl-opt %s --split-input-file --verify-diagnostics --parsing-diagnostics | filecheck %s

// CHECK: verify.mlir:{{[0-9]+}}:36
// CHECK: a block lives in registers, so its size must be static
"test.op"() {a = !nanokernel.block<?x48xf32, lanes = n>} : () -> ()

// -----

// CHECK: a block needs at least one row and one column, got 0x48
"test.op"() {a = !nanokernel.block<0x48xf32, lanes = n>} : () -> ()

// -----

// CHECK: lanes must be one of m, n, k, got 'q'
"test.op"() {a = !nanokernel.block<8x48xf32, lanes = q>} : () -> ()

// -----

// CHECK: a block has two dimensions, as in 8x48xf32
"test.op"() {a = !nanokernel.block<8xf32, lanes = n>} : () -> ()

// -----

// CHECK: a block holds floats or integers, not index
"test.op"() {a = !nanokernel.block<8x8xindex, lanes = n>} : () -> ()

// -----

// CHECK: a block has two dimensions, as in 8x48xf32
"test.op"() {a = !nanokernel.block<*xf32, lanes = n>} : () -> ()

// -----

// CHECK: tiles lie along m or n, not k
"test.op"() {a = !nanokernel.block<16x1xf32, lanes = k, tiles = 16x1>} : () -> ()

// -----

// CHECK: tiles of 16x16 don't make up 32x24
"test.op"() {a = !nanokernel.block<32x24xf32, lanes = n, tiles = 16x16>} : () -> ()

// -----

// CHECK: tiles of 0x16 don't make up 32x32
"test.op"() {a = !nanokernel.block<32x32xf32, lanes = n, tiles = 0x16>} : () -> ()

// -----

// CHECK: '<' expected
"test.op"() {a = !nanokernel.block} : () -> ()

// -----

// CHECK: '<' expected
"test.op"() {a = #nanokernel.plan} : () -> ()

// -----

// CHECK: a block has two dimensions, as in 8x48
"test.op"() {a = #nanokernel.plan<target = "a", instruction = "b", block = 8>} : () -> ()

// -----

// CHECK: a block has two dimensions, as in 8x48
"test.op"() {a = #nanokernel.plan<target = "a", instruction = "b", block = "8x8">} : () -> ()

// -----

// CHECK: a block lives in registers, so its size must be static
"test.op"() {a = #nanokernel.plan<target = "a", instruction = "b", block = ?x8>} : () -> ()

// -----

// CHECK: a block needs at least one row and one column, got 0x8
"test.op"() {a = #nanokernel.plan<target = "a", instruction = "b", block = 0x8>} : () -> ()

// -----

// CHECK: Expected integer literal
"test.op"() {a = #nanokernel.plan<target = "a", instruction = "b", block = 8x8, k_unroll = n>} : () -> ()

// -----

// CHECK: Expected integer literal
"test.op"() {a = #nanokernel.plan<target = "a", instruction = "b", block = 8x8, k_unroll = true>} : () -> ()

// -----

// CHECK: k_unroll must be at least 1, got 0
"test.op"() {a = #nanokernel.plan<target = "a", instruction = "b", block = 8x8, k_unroll = 0>} : () -> ()

// -----

// CHECK: prefetch must not be negative, got -1
"test.op"() {a = #nanokernel.plan<target = "a", instruction = "b", block = 8x8, prefetch = -1>} : () -> ()

// -----

// CHECK: identifier expected
"test.op"() {a = #nanokernel.plan<target = "a", instruction = "b", block = 8x8, pack = 3>} : () -> ()

// -----

// CHECK: string literal expected
"test.op"() {a = #nanokernel.plan<target = a, instruction = "b", block = 8x8, pack = none>} : () -> ()

// -----

// CHECK: pack must be one of none, lhs, rhs, both, got 'all'
"test.op"() {a = #nanokernel.plan<target = "a", instruction = "b", block = 8x8, pack = all>} : () -> ()

// -----

// CHECK: edges must be one of even, masked, got 'cut'
"test.op"() {a = #nanokernel.plan<target = "a", instruction = "b", block = 8x8, edges = cut>} : () -> ()

// -----

// CHECK: threads must be at least 1, got 0
"test.op"() {a = #nanokernel.plan<target = "a", instruction = "b", block = 8x8, threads = 0>} : () -> ()

// -----

// CHECK: m_block must not be negative, got -8
"test.op"() {a = #nanokernel.plan<target = "a", instruction = "b", block = 8x8, m_block = -8>} : () -> ()

// -----

// CHECK: n_block must not be negative, got -8
"test.op"() {a = #nanokernel.plan<target = "a", instruction = "b", block = 8x8, n_block = -8>} : () -> ()

// -----

// CHECK: pack_from must not be negative, got -1
"test.op"() {a = #nanokernel.plan<target = "a", instruction = "b", block = 8x8, pack_from = -1>} : () -> ()

// -----

// CHECK: k_block must not be negative, got -1
"test.op"() {a = #nanokernel.plan<target = "a", instruction = "b", block = 8x8, k_block = -1>} : () -> ()

// -----

// CHECK: a plan needs an entry 'block'
"test.op"() {a = #nanokernel.plan<target = "a", instruction = "b">} : () -> ()

// -----

// CHECK: 'target' is written twice in this plan
"test.op"() {a = #nanokernel.plan<target = "a", target = "b">} : () -> ()

// -----

// CHECK: a plan has no entry 'goal'; its entries are: target, instruction, block, lanes, edges, resident, pack, ahead, k_unroll, m_block, n_block, k_block, prefetch, pack_from, threads
"test.op"() {a = #nanokernel.plan<goal = "a">} : () -> ()

// -----

// CHECK: identifier expected
"test.op"() {a = #nanokernel.plan<>} : () -> ()

// -----

// CHECK: Operation does not verify: a map of 2 results can't index memref<4x8x1xf32>
func.func @gemm_rank(%a: memref<4x8x1xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<4x8x1xf32>, memref<8x6xf32>) outs(%c[m, n] : memref<4x6xf32>)
  func.return
}

// -----

// CHECK: Operation does not verify: iterator k has extent 8 and 7
func.func @gemm_extent(%a: memref<4x8xf32>, %b: memref<7x6xf32>, %c: memref<4x6xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<4x8xf32>, memref<7x6xf32>) outs(%c[m, n] : memref<4x6xf32>)
  func.return
}

// -----

// CHECK: Operation does not verify: iterator m has extent 4 and 5
func.func @gemm_extent_of_extra(%a: memref<?x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>, %bias: memref<5x6xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<?x8xf32>, memref<8x6xf32>) outs(%c[m, n] : memref<4x6xf32>) epilogue(%bias[m, n] : memref<5x6xf32>) {
  ^bb0(%s: f32, %x: f32):
    nanokernel.yield %s : f32
  }
  func.return
}

// -----

// CHECK: Operation does not verify: no operand's dimension gives the extent of m
func.func @gemm_extent_unknown(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  nanokernel.gemm ins(%a[2 * m, k], %b[k, n] : memref<4x8xf32>, memref<8x6xf32>) outs(%c[2 * m, n] : memref<4x6xf32>)
  func.return
}

// -----

// CHECK: an iterator is called b, m, n or k, or that and a number, not i
func.func @gemm_name(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  nanokernel.gemm ins(%a[i, k], %b[k, n] : memref<4x8xf32>, memref<8x6xf32>) outs(%c[i, n] : memref<4x6xf32>)
  func.return
}

// -----

// CHECK: iterator n does not index as its name says: b indexes lhs, rhs and out, m lhs and out, n rhs and out, k lhs and rhs
func.func @gemm_kind(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  nanokernel.gemm ins(%a[n, k], %b[k, m] : memref<4x8xf32>, memref<8x6xf32>) outs(%c[n, m] : memref<4x6xf32>)
  func.return
}

// -----

// CHECK: iterator m0 does not index as its name says: b indexes lhs, rhs and out, m lhs and out, n rhs and out, k lhs and rhs
func.func @gemm_kind_none(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  nanokernel.gemm ins(%a[m0, k], %b[k, n] : memref<4x8xf32>, memref<8x6xf32>) outs(%c[m1, n] : memref<4x6xf32>)
  func.return
}

// -----

// CHECK: expected 2 operands, got 1
func.func @gemm_factors(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  nanokernel.gemm ins(%a[m, k] : memref<4x8xf32>) outs(%c[m, n] : memref<4x6xf32>)
  func.return
}

// -----

// CHECK: expected 1 operand, got 2
func.func @gemm_outs(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<4x8xf32>, memref<8x6xf32>) outs(%c[m, n], %c[m, n] : memref<4x6xf32>, memref<4x6xf32>)
  func.return
}

// -----

// CHECK: expected 1 operand types but had 2
func.func @gemm_types(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<4x8xf32>) outs(%c[m, n] : memref<4x6xf32>)
  func.return
}

// -----

// CHECK: Operation does not verify: operand 'lhs' at position 0 does not verify:
func.func @gemm_tensor(%a: tensor<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : tensor<4x8xf32>, memref<8x6xf32>) outs(%c[m, n] : memref<4x6xf32>)
  func.return
}

// -----

// CHECK: Operation does not verify: 'from zero' is either always or decided at run time
func.func @gemm_from_zero(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>, %first: i1) {
  "nanokernel.gemm"(%a, %b, %c, %first) <{maps = [affine_map<(d0, d1, d2) -> (d0, d1)>, affine_map<(d0, d1, d2) -> (d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d2)>], from_zero, operandSegmentSizes = array<i32: 1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0>}> : (memref<4x8xf32>, memref<8x6xf32>, memref<4x6xf32>, i1) -> ()
  func.return
}

// -----

// CHECK: operand is used with type i1, but has been previously used or defined with type index
func.func @gemm_first_type(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>, %first: index) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<4x8xf32>, memref<8x6xf32>) outs(%c[m, n] : memref<4x6xf32>) from zero if %first
  func.return
}

// -----

// CHECK: Operation does not verify: scale needs alpha and beta
func.func @gemm_beta(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>, %alpha: f32) {
  "nanokernel.gemm"(%a, %b, %c, %alpha) <{maps = [affine_map<(d0, d1, d2) -> (d0, d1)>, affine_map<(d0, d1, d2) -> (d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d2)>], operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0>}> : (memref<4x8xf32>, memref<8x6xf32>, memref<4x6xf32>, f32) -> ()
  func.return
}

// -----

// CHECK: Operation does not verify: scale needs alpha and beta
func.func @gemm_alpha(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>, %beta: f32) {
  "nanokernel.gemm"(%a, %b, %c, %beta) <{maps = [affine_map<(d0, d1, d2) -> (d0, d1)>, affine_map<(d0, d1, d2) -> (d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d2)>], operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0>}> : (memref<4x8xf32>, memref<8x6xf32>, memref<4x6xf32>, f32) -> ()
  func.return
}

// -----

// CHECK: Expected ','
func.func @gemm_scale(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>, %alpha: f32) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<4x8xf32>, memref<8x6xf32>) outs(%c[m, n] : memref<4x6xf32>) scale %alpha
  func.return
}

// -----

// CHECK: Operation does not verify: alpha and beta have the element type of the sums, not f64
func.func @gemm_scale_type(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>, %alpha: f64, %beta: f64) {
  "nanokernel.gemm"(%a, %b, %c, %alpha, %beta) <{maps = [affine_map<(d0, d1, d2) -> (d0, d1)>, affine_map<(d0, d1, d2) -> (d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d2)>], operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0>}> : (memref<4x8xf32>, memref<8x6xf32>, memref<4x6xf32>, f64, f64) -> ()
  func.return
}

// -----

// CHECK: expected a #nanokernel.plan
func.func @gemm_plan(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<4x8xf32>, memref<8x6xf32>) outs(%c[m, n] : memref<4x6xf32>) plan 3 : i64
  func.return
}

// -----

// CHECK: Operation does not verify: extra operands need an epilogue that uses them
func.func @gemm_extras(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  "nanokernel.gemm"(%a, %b, %c, %c) <{maps = [affine_map<(d0, d1, d2) -> (d0, d1)>, affine_map<(d0, d1, d2) -> (d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d2)>, affine_map<(d0, d1, d2) -> (d0, d2)>], operandSegmentSizes = array<i32: 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0>}> : (memref<4x8xf32>, memref<8x6xf32>, memref<4x6xf32>, memref<4x6xf32>) -> ()
  func.return
}

// -----

// CHECK: Operation does not verify: expected one map an operand, 3, got 0
func.func @gemm_map_count(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  "nanokernel.gemm"(%a, %b, %c) <{maps = [], operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0>}> : (memref<4x8xf32>, memref<8x6xf32>, memref<4x6xf32>) -> ()
  func.return
}

// -----

// CHECK: Operation does not verify: all maps must have the same iterators and no symbols
func.func @gemm_map_dims(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  "nanokernel.gemm"(%a, %b, %c) <{maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1, d2) -> (d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d2)>], operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0>}> : (memref<4x8xf32>, memref<8x6xf32>, memref<4x6xf32>) -> ()
  func.return
}

// -----

// CHECK: Operation does not verify: maps must be linear, or cut k into groups, got (d0, d1, d2) -> (d0, (d1 ceildiv 2))
func.func @gemm_map_ceildiv(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  "nanokernel.gemm"(%a, %b, %c) <{maps = [affine_map<(d0, d1, d2) -> (d0, d1 ceildiv 2)>, affine_map<(d0, d1, d2) -> (d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d2)>], operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0>}> : (memref<4x8xf32>, memref<8x6xf32>, memref<4x6xf32>) -> ()
  func.return
}

// -----

// CHECK: Operation does not verify: groups need two indices, k floordiv and k mod the same number
func.func @gemm_map_half_a_group(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  "nanokernel.gemm"(%a, %b, %c) <{maps = [affine_map<(d0, d1, d2) -> (d0, d1 floordiv 2)>, affine_map<(d0, d1, d2) -> (d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d2)>], operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0>}> : (memref<4x8xf32>, memref<8x6xf32>, memref<4x6xf32>) -> ()
  func.return
}

// -----

// CHECK: Operation does not verify: iterator d3 has no kind: b indexes lhs, rhs and out, m lhs and out, n rhs and out, k lhs and rhs
func.func @gemm_map_kind(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  "nanokernel.gemm"(%a, %b, %c) <{maps = [affine_map<(d0, d1, d2, d3) -> (d0, d1)>, affine_map<(d0, d1, d2, d3) -> (d1, d2)>, affine_map<(d0, d1, d2, d3) -> (d0, d2)>], operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0>}> : (memref<4x8xf32>, memref<8x6xf32>, memref<4x6xf32>) -> ()
  func.return
}

// -----

// CHECK: Operation does not verify: the epilogue takes the sum and one value an extra operand, 1 in all, not 2
func.func @epilogue_arguments(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<4x8xf32>, memref<8x6xf32>) outs(%c[m, n] : memref<4x6xf32>) epilogue {
  ^bb0(%s: f32, %x: f32):
    nanokernel.yield %s : f32
  }
  func.return
}

// -----

// CHECK: Operation does not verify: the reduction is over when the epilogue runs: no k in extra operands
func.func @epilogue_k(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>, %x: memref<8xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<4x8xf32>, memref<8x6xf32>) outs(%c[m, n] : memref<4x6xf32>) epilogue(%x[k] : memref<8xf32>) {
  ^bb0(%s: f32, %e: f32):
    nanokernel.yield %s : f32
  }
  func.return
}

// -----

// CHECK: Operation does not verify: the epilogue takes the elements of memref<6xbf16>, not f32
func.func @epilogue_extra_type(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>, %x: memref<6xbf16>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<4x8xf32>, memref<8x6xf32>) outs(%c[m, n] : memref<4x6xf32>) epilogue(%x[n] : memref<6xbf16>) {
  ^bb0(%s: f32, %e: f32):
    nanokernel.yield %s : f32
  }
  func.return
}

// -----

// CHECK: Operation does not verify: the epilogue must yield an element of memref<4x6xbf16>, not f32
func.func @epilogue_yield_type(%a: memref<4x8xbf16>, %b: memref<8x6xbf16>, %c: memref<4x6xbf16>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<4x8xbf16>, memref<8x6xbf16>) outs(%c[m, n] : memref<4x6xbf16>) epilogue {
  ^bb0(%s: f32):
    nanokernel.yield %s : f32
  }
  func.return
}

// -----

// CHECK: Operation does not verify: the epilogue must end in nanokernel.yield of one value
func.func @epilogue_yield(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<4x8xf32>, memref<8x6xf32>) outs(%c[m, n] : memref<4x6xf32>) epilogue {
  ^bb0(%s: f32):
    "test.termop"() : () -> ()
  }
  func.return
}

// -----

// CHECK: Operation does not verify: Region 'epilogue' at position 0 expected a single block, but got 0 blocks
func.func @epilogue_empty(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<4x8xf32>, memref<8x6xf32>) outs(%c[m, n] : memref<4x6xf32>) epilogue {
  }
  func.return
}

// -----

// CHECK: Operation does not verify: Region 'epilogue' at position 0 expected a single block, but got 0 blocks
func.func @epilogue_empty_generic(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  "nanokernel.gemm"(%a, %b, %c) <{maps = [affine_map<(d0, d1, d2) -> (d0, d1)>, affine_map<(d0, d1, d2) -> (d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d2)>], operandSegmentSizes = array<i32: 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0>}> ({}) : (memref<4x8xf32>, memref<8x6xf32>, memref<4x6xf32>) -> ()
  func.return
}

// -----

// CHECK: Operation does not verify: Region 'epilogue' at position 0 expected a single block, but got 2 blocks
func.func @epilogue_blocks(%a: memref<4x8xf32>, %b: memref<8x6xf32>, %c: memref<4x6xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<4x8xf32>, memref<8x6xf32>) outs(%c[m, n] : memref<4x6xf32>) epilogue {
  ^bb0(%s: f32):
    cf.br ^bb1
  ^bb1:
    nanokernel.yield %s : f32
  }
  func.return
}

// -----

// CHECK: Operation does not verify: 'nanokernel.yield' expects parent op to be one of 'nanokernel.gemm', 'nanokernel.store'
func.func @yield_parent(%s: f32) {
  nanokernel.yield %s : f32
}

// -----

// CHECK: Operation does not verify: expected 2 indices for memref<16x96xf32>, got 1
func.func @load_indices(%c: memref<16x96xf32>, %i: index) {
  %r = nanokernel.load %c[m: %i] : memref<16x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// -----

// CHECK: Operation does not verify: expected a tag or '_' for each dimension of memref<16x96xf32>, got 'm'
func.func @load_dims(%c: memref<16x96xf32>, %i: index) {
  %r = "nanokernel.load"(%c, %i, %i) <{dims = "m", operandSegmentSizes = array<i32: 0, 1, 2>}> : (memref<16x96xf32>, index, index) -> !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// -----

// CHECK: dimensions are tagged m, n, k or g, not row
func.func @load_tag(%c: memref<16x96xf32>, %i: index) {
  %r = nanokernel.load %c[row: %i, n: %i] : memref<16x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// -----

// CHECK: Operation does not verify: dimensions may be tagged m and n, each once; got 'mk'
func.func @load_tag_k(%c: memref<16x96xf32>, %i: index) {
  %r = nanokernel.load %c[m: %i, k: %i] : memref<16x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// -----

// CHECK: Operation does not verify: 8 elements along m need a dimension m of memref<16x96xf32>
func.func @load_tag_missing(%c: memref<16x96xf32>, %i: index) {
  %r = nanokernel.load %c[%i, n: %i] : memref<16x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// -----

// CHECK: Operation does not verify: memref<16x96xf64> does not hold the elements of !nanokernel.block<8x48xf32, lanes = n>
func.func @load_element(%c: memref<16x96xf64>, %i: index) {
  %r = nanokernel.load %c[m: %i, n: %i] : memref<16x96xf64>, !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// -----

// CHECK: expected a nanokernel.block type, got vector<8xf32>
func.func @load_type(%c: memref<16x96xf32>, %i: index) {
  %r = nanokernel.load %c[m: %i, n: %i] : memref<16x96xf32>, vector<8xf32>
  func.return
}

// -----

// CHECK: operand is used with type index, but has been previously used or defined with type i64
func.func @load_index(%c: memref<16x96xf32>, %i: i64) {
  %r = nanokernel.load %c[m: %i, n: %i] : memref<16x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// -----

// CHECK: Operation does not verify: a tail is counted along the lanes, m or n, not k
func.func @load_tail(%c: memref<16x96xf32>, %i: index) {
  %r = nanokernel.load %c[m: %i, n: %i] tail %i : memref<16x96xf32>, !nanokernel.block<8x1xf32, lanes = k>
  func.return
}

// -----

// CHECK: Operation does not verify: dimensions may be tagged m and n, each once; got 'nn'
func.func @store_tag_twice(%x: !nanokernel.block<8x48xf32, lanes = n>, %c: memref<16x96xf32>, %i: index) {
  nanokernel.store %x, %c[n: %i, n: %i] : memref<16x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// -----

// CHECK: Operation does not verify: a tail is counted along the lanes, m or n, not k
func.func @store_tail(%x: !nanokernel.block<8x1xf32, lanes = k>, %c: memref<16x96xf32>, %i: index) {
  nanokernel.store %x, %c[m: %i, n: %i] tail %i : memref<16x96xf32>, !nanokernel.block<8x1xf32, lanes = k>
  func.return
}

// -----

// CHECK: operand is used with type index, but has been previously used or defined with type i64
func.func @store_tail_type(%x: !nanokernel.block<8x48xf32, lanes = n>, %c: memref<16x96xf32>, %i: index, %tail: i64) {
  nanokernel.store %x, %c[m: %i, n: %i] tail %tail : memref<16x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// -----

// CHECK: Operation does not verify: beta comes with alpha, and says what 'accumulate' would
func.func @store_beta_alone(%x: !nanokernel.block<8x48xf32, lanes = n>, %c: memref<16x96xf32>, %i: index, %beta: f32) {
  "nanokernel.store"(%x, %beta, %c, %i, %i) <{dims = "mn", operandSegmentSizes = array<i32: 1, 0, 0, 1, 0, 0, 1, 2>}> : (!nanokernel.block<8x48xf32, lanes = n>, f32, memref<16x96xf32>, index, index) -> ()
  func.return
}

// -----

// CHECK: Operation does not verify: beta comes with alpha, and says what 'accumulate' would
func.func @store_beta_accumulate(%x: !nanokernel.block<8x48xf32, lanes = n>, %c: memref<16x96xf32>, %i: index, %alpha: f32) {
  nanokernel.store %x, %c[m: %i, n: %i] scale %alpha, %alpha accumulate : memref<16x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// -----

// CHECK: Operation does not verify: alpha and beta have the element type of the block, f32, not f64
func.func @store_alpha_type(%x: !nanokernel.block<8x48xf32, lanes = n>, %c: memref<16x96xf32>, %i: index, %alpha: f64) {
  "nanokernel.store"(%x, %alpha, %c, %i, %i) <{dims = "mn", operandSegmentSizes = array<i32: 1, 0, 1, 0, 0, 0, 1, 2>}> : (!nanokernel.block<8x48xf32, lanes = n>, f64, memref<16x96xf32>, index, index) -> ()
  func.return
}

// -----

// CHECK: Expected ':'
func.func @store_scale(%x: !nanokernel.block<8x48xf32, lanes = n>, %c: memref<16x96xf32>, %i: index, %alpha: f32) {
  nanokernel.store %x, %c[m: %i, n: %i] scale %alpha, %alpha, %alpha : memref<16x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// -----

// CHECK: Operation does not verify: a tail is counted along the lanes, m or n, not k
func.func @step_tail(%x: !nanokernel.block<8x1xf32, lanes = k>, %a: memref<16x64xf32>, %b: memref<64x96xf32>, %i: index) {
  %r = nanokernel.step %x, %a[m: %i, k: %i], %b[k: %i, n: %i] depth 1 using "fma.f32x16" tail %i : memref<16x64xf32>, memref<64x96xf32>, !nanokernel.block<8x1xf32, lanes = k>
  func.return
}

// -----

// CHECK: Operation does not verify: depth must be at least 1, got 0
func.func @step_depth(%x: !nanokernel.block<8x48xf32, lanes = n>, %a: memref<16x64xf32>, %b: memref<64x96xf32>, %i: index) {
  %r = nanokernel.step %x, %a[m: %i, k: %i], %b[k: %i, n: %i] depth 0 using "fma.f32x16" : memref<16x64xf32>, memref<64x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// -----

// CHECK: Operation does not verify: prefetch lhs needs 2 offsets, got 1
func.func @step_prefetch(%x: !nanokernel.block<8x48xf32, lanes = n>, %a: memref<16x64xf32>, %b: memref<64x96xf32>, %i: index) {
  %r = nanokernel.step %x, %a[m: %i, k: %i], %b[k: %i, n: %i] depth 1 using "fma.f32x16" prefetch lhs [4] : memref<16x64xf32>, memref<64x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// -----

// CHECK: Operation does not verify: 2 elements along k need a dimension k of memref<16xf32>
func.func @step_tag_missing(%x: !nanokernel.block<8x48xf32, lanes = n>, %a: memref<16xf32>, %b: memref<64x96xf32>, %i: index) {
  %r = nanokernel.step %x, %a[m: %i], %b[k: %i, n: %i] depth 2 using "fma.f32x16" : memref<16xf32>, memref<64x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// -----

// CHECK: Operation does not verify: dimensions may be tagged m and k and g, each once; got 'nk'
func.func @step_tag(%x: !nanokernel.block<8x48xf32, lanes = n>, %a: memref<16x64xf32>, %b: memref<64x96xf32>, %i: index) {
  %r = nanokernel.step %x, %a[n: %i, k: %i], %b[k: %i, n: %i] depth 2 using "fma.f32x16" : memref<16x64xf32>, memref<64x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// -----

// CHECK: Operation does not verify: the result must have the accumulator's type !nanokernel.block<8x48xf32, lanes = n>
func.func @step_result(%x: !nanokernel.block<8x48xf32, lanes = n>, %a: memref<16x64xf32>, %b: memref<64x96xf32>, %i: index) {
  %r = "nanokernel.step"(%x, %a, %i, %i, %b, %i, %i) <{depth = 1 : i64, instruction = "fma.f32x16", lhs_dims = "mk", rhs_dims = "kn", operandSegmentSizes = array<i32: 1, 1, 2, 1, 2, 0, 0, 0>}> : (!nanokernel.block<8x48xf32, lanes = n>, memref<16x64xf32>, index, index, memref<64x96xf32>, index, index) -> !nanokernel.block<8x32xf32, lanes = n>
  func.return
}

// -----

// CHECK: Operation does not verify: Expected attribute i64 but got i32
func.func @step_depth_type(%x: !nanokernel.block<8x48xf32, lanes = n>, %a: memref<16x64xf32>, %b: memref<64x96xf32>, %i: index) {
  %r = "nanokernel.step"(%x, %a, %i, %i, %b, %i, %i) <{depth = 1 : i32, instruction = "fma.f32x16", lhs_dims = "mk", rhs_dims = "kn", operandSegmentSizes = array<i32: 1, 1, 2, 1, 2, 0, 0, 0>}> : (!nanokernel.block<8x48xf32, lanes = n>, memref<16x64xf32>, index, index, memref<64x96xf32>, index, index) -> !nanokernel.block<8x48xf32, lanes = n>
  func.return
}

// -----

// CHECK: Operation does not verify: workspace parts start at multiples of 64 bytes, not 32
func.func @workspace_alignment() {
  %w = nanokernel.workspace at 32 : memref<8xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: a part of the workspace needs a static shape
func.func @workspace_shape() {
  %w = nanokernel.workspace at 64 : memref<?xf32>
  func.return
}

// -----

// CHECK: expected a memref type, got f32
func.func @workspace_type() {
  %w = nanokernel.workspace at 64 : f32
  func.return
}

// -----

// CHECK: expected 1 type, got 2
func.func @workspace_types() {
  %w = nanokernel.workspace at 64 : memref<8xf32>, memref<8xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: extents must not be negative, got 64x-1
func.func @pack_negative(%b: memref<64x96xf32>, %w: memref<64x48xf32>, %i: index) {
  nanokernel.pack %b[k: %i, n: %i] extents 64 x -1 into %w : memref<64x96xf32>, memref<64x48xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: 48 elements along n need a dimension n of memref<64x96xf32>
func.func @pack_tag_missing(%b: memref<64x96xf32>, %w: memref<64x48xf32>, %i: index) {
  nanokernel.pack %b[k: %i, %i] extents 64 x 48 into %w : memref<64x96xf32>, memref<64x48xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: a panel is a contiguous K×W or K×W×G memref, not memref<64xf32>
func.func @pack_rank(%b: memref<64x96xf32>, %w: memref<64xf32>, %i: index) {
  nanokernel.pack %b[k: %i, n: %i] extents 64 x 48 into %w : memref<64x96xf32>, memref<64xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: a panel is a contiguous K×W or K×W×G memref, not memref<64x48xf32, strided<[64, 1]>>
func.func @pack_layout(%b: memref<64x96xf32>, %w: memref<64x48xf32, strided<[64, 1]>>, %i: index) {
  nanokernel.pack %b[k: %i, n: %i] extents 64 x 48 into %w : memref<64x96xf32>, memref<64x48xf32, strided<[64, 1]>>
  func.return
}

// -----

// CHECK: Operation does not verify: memref<64x32xf32> can't hold 64x48
func.func @pack_small(%b: memref<64x96xf32>, %w: memref<64x32xf32>, %i: index) {
  nanokernel.pack %b[k: %i, n: %i] extents 64 x 48 into %w : memref<64x96xf32>, memref<64x32xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: a panel is a contiguous K×W or K×W×G memref, not memref<64x?xf32>
func.func @pack_dynamic(%b: memref<64x96xf32>, %w: memref<64x?xf32>, %i: index) {
  nanokernel.pack %b[k: %i, n: %i] extents 64 x 48 into %w : memref<64x96xf32>, memref<64x?xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: memref<?x48xf32> can't hold 64x50
func.func @pack_wide(%b: memref<64x96xf32>, %w: memref<?x48xf32>, %i: index) {
  nanokernel.pack %b[k: %i, n: %i] extents 64 x 50 into %w : memref<64x96xf32>, memref<?x48xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: any number of elements along n need a dimension n of memref<64x96xf32>
func.func @pack_run_time_tag(%b: memref<64x96xf32>, %w: memref<64x48xf32>, %i: index) {
  nanokernel.pack %b[k: %i, %i] extents 64 x %i into %w : memref<64x96xf32>, memref<64x48xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: each run-time extent needs its value
func.func @pack_run_time_value(%b: memref<64x96xf32>, %w: memref<64x48xf32>, %i: index) {
  "nanokernel.pack"(%b, %i, %i, %w) <{dims = "kn", depth = -9223372036854775808 : i64, width = 48 : i64, operandSegmentSizes = array<i32: 1, 2, 1, 0>}> : (memref<64x96xf32>, index, index, memref<64x48xf32>) -> ()
  func.return
}

// -----

// CHECK: operand is used with type index, but has been previously used or defined with type i64
func.func @pack_run_time_type(%b: memref<64x96xf32>, %w: memref<64x48xf32>, %i: index, %n: i64) {
  nanokernel.pack %b[k: %i, n: %i] extents 64 x %n into %w : memref<64x96xf32>, memref<64x48xf32>
  func.return
}

// -----

// CHECK: Expected 'k'
func.func @pack_lanes(%b: memref<64x96xf32>, %w: memref<64x48xf32>, %i: index) {
  nanokernel.pack %b[k: %i, n: %i] extents 64 x 48 into %w lanes n : memref<64x96xf32>, memref<64x48xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: 50 elements along n need a dimension n of memref<64x96xf32>
func.func @pack_lanes_tag(%b: memref<64x96xf32>, %w: memref<50x64xf32>, %i: index) {
  nanokernel.pack %b[k: %i, %i] extents 50 x 64 into %w lanes k : memref<64x96xf32>, memref<50x64xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: a panel has the element type of its source, f32
func.func @pack_element(%b: memref<64x96xf32>, %w: memref<64x48xf64>, %i: index) {
  nanokernel.pack %b[k: %i, n: %i] extents 64 x 48 into %w : memref<64x96xf32>, memref<64x48xf64>
  func.return
}

// -----

// CHECK: Expected 'x'
func.func @pack_extents(%b: memref<64x96xf32>, %w: memref<64x48xf32>, %i: index) {
  nanokernel.pack %b[k: %i, n: %i] extents 64x48 into %w : memref<64x96xf32>, memref<64x48xf32>
  func.return
}

// -----

// CHECK: expected a nanokernel.block type, got f32
func.func @zero_type() {
  %z = nanokernel.zero : f32
  func.return
}

// -----

// CHECK: lhs is also the result, which is written before lhs is read for the last time; write to memory of its own
func.func @lhs_is_out(%b: memref<8x8xf32>, %c: memref<8x8xf32>) {
  nanokernel.gemm ins(%c[m, k], %b[k, n] : memref<8x8xf32>, memref<8x8xf32>) outs(%c[m, n] : memref<8x8xf32>)
  return
}

// -----

// CHECK: rhs is also the result, which is written before rhs is read for the last time
func.func @rhs_is_out(%a: memref<8x8xf32>, %c: memref<8x8xf32>) {
  nanokernel.gemm ins(%a[m, k], %c[k, n] : memref<8x8xf32>, memref<8x8xf32>) outs(%c[m, n] : memref<8x8xf32>) from zero
  return
}

// -----

// CHECK: expected 2 operand types but had 1
func.func @microkernel_types(%a: memref<8x8xf32>) {
  nanokernel.microkernel @f(%a) : memref<8x8xf32>, memref<8x8xf32>
  return
}

// -----

// CHECK: Operation does not verify: a microkernel needs the operands that it works on
func.func @microkernel_operands() {
  "nanokernel.microkernel"() <{callee = @f}> : () -> ()
  return
}

// -----

// CHECK: Operation does not verify: a panel is filled by a microkernel, whose plan says masked
func.func @gemm_pack_unplanned(%a: memref<8x4xf32>, %b: memref<4x16xf32>, %c: memref<8x16xf32>, %s: memref<4x16xf32>, %w: memref<4x16xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xf32>, memref<4x16xf32>) outs(%c[m, n] : memref<8x16xf32>) pack %s into %w : memref<4x16xf32>, memref<4x16xf32>
  func.return
}

// -----

// CHECK: Operation does not verify: memref<4x48xf32> has no rows that fill those of memref<4x16xf32>
func.func @gemm_pack_width(%a: memref<8x4xf32>, %b: memref<4x16xf32>, %c: memref<8x16xf32>, %s: memref<4x48xf32>, %w: memref<4x16xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x4xf32>, memref<4x16xf32>) outs(%c[m, n] : memref<8x16xf32>) pack %s into %w : memref<4x48xf32>, memref<4x16xf32> plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 8x16, edges = masked>
  func.return
}
