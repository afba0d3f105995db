// RUN: xdsl-opt %s -p block --split-input-file --verify-diagnostics | filecheck %s

// CHECK: lanes = m needs a result that is contiguous along m; lanes lie along m or n, or copy the result from a contiguous array
func.func @lanes(%a: memref<64x64xf32>, %b: memref<64x64xf32>, %c: memref<64x64xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x64xf32>, memref<64x64xf32>) outs(%c[m, n] : memref<64x64xf32>)
    plan #nanokernel.plan<target = "armv9-sme", instruction = "outer.f32", block = 64x64, lanes = m, pack = both>
  return
}

// -----

// CHECK: block 64x30 with lanes = n is no whole number of vectors, the shortest of which have 4 lanes for outer.f32
func.func @narrow(%a: memref<64x64xf32>, %b: memref<64x64xf32>, %c: memref<64x64xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x64xf32>, memref<64x64xf32>) outs(%c[m, n] : memref<64x64xf32>)
    plan #nanokernel.plan<target = "armv9-sme", instruction = "outer.f32", block = 64x30, pack = both>
  return
}

// -----

// CHECK: of several reductions none is cut for tiles: leave out k_block
func.func @several(%a: memref<3x64x64xf32>, %b: memref<3x64x64xf32>, %c: memref<64x64xf32>) {
  nanokernel.gemm ins(%a[k0, m, k1], %b[k0, k1, n] : memref<3x64x64xf32>, memref<3x64x64xf32>) outs(%c[m, n] : memref<64x64xf32>)
    plan #nanokernel.plan<target = "armv9-sme", instruction = "outer.f32", block = 64x64, pack = both, k_block = 32>
  return
}

// -----

// CHECK: a packed factor's k is known only at run time: the plan needs a k_block
func.func @open(%a: memref<3x64x?xf32>, %b: memref<3x?x64xf32>, %c: memref<64x64xf32>) {
  nanokernel.gemm ins(%a[k0, m, k1], %b[k0, k1, n] : memref<3x64x?xf32>, memref<3x?x64xf32>) outs(%c[m, n] : memref<64x64xf32>)
    plan #nanokernel.plan<target = "armv9-sme", instruction = "outer.f32", block = 64x64, pack = both>
  return
}

// -----

// CHECK: sums that an epilogue or a conversion finishes are kept in the workspace while the reduction is cut: write m_block and n_block, or leave out k_block
func.func @apart(%a: memref<64x64xbf16>, %b: memref<64x64xbf16>, %c: memref<64x64xbf16>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x64xbf16>, memref<64x64xbf16>) outs(%c[m, n] : memref<64x64xbf16>)
    plan #nanokernel.plan<target = "armv9-sme", instruction = "outer.bf16", block = 64x64, pack = both, k_block = 32>
  return
}

// -----

// CHECK: m_block = 96 is no multiple of the block's 64
func.func @cache_block(%a: memref<192x64xf32>, %b: memref<64x64xf32>, %c: memref<192x64xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<192x64xf32>, memref<64x64xf32>) outs(%c[m, n] : memref<192x64xf32>)
    plan #nanokernel.plan<target = "armv9-sme", instruction = "outer.f32", block = 64x64, pack = both, m_block = 96>
  return
}

// -----

// CHECK: lhs does not lie along k in groups: write pack = both
func.func @not_packed(%a: memref<64x64xf32>, %b: memref<64x64xf32>, %c: memref<64x64xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x64xf32>, memref<64x64xf32>) outs(%c[m, n] : memref<64x64xf32>)
    plan #nanokernel.plan<target = "armv9-sme", instruction = "outer.f32", block = 64x64>
  return
}

// -----

// CHECK: rhs lies in groups, and can only be read where it is, along k
func.func @groups(%a: memref<64x64xbf16>, %b: memref<32x64x2xbf16>, %c: memref<64x64xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k floordiv 2, n, k mod 2] : memref<64x64xbf16>, memref<32x64x2xbf16>) outs(%c[m, n] : memref<64x64xf32>)
    plan #nanokernel.plan<target = "armv9-sme", instruction = "outer.bf16", block = 64x64, pack = both>
  return
}
