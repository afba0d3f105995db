// RUN: xdsl-opt %s -p 'plan{target=znver5}' --split-input-file --verify-diagnostics | filecheck %s

// CHECK: the plan is for target 'znver4', not 'znver5'; plan for that target or remove the plan
func.func @another_target(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 8x48>
  return
}

// -----

// CHECK: target 'znver5' has no instruction 'fma.f16x32'; its instructions are: fma.f32x16, 
func.func @unknown_instruction(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f16x32", block = 8x48>
  return
}

// -----

// CHECK: instruction fma.f64x8 multiplies f64 and f64, but the product is one of f32 and f32
func.func @instruction_of_another_type(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f64x8", block = 8x48>
  return
}

// -----

// CHECK: block 8x64 needs 37 vector registers, mr·nv + min(mr, nv) + 1 and {{.*}} if need be, but znver5 can plan with {{[0-9]+}}
func.func @too_many_registers(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x64>
  return
}

// -----

// CHECK: block 10x48 needs 34 vector registers
func.func @one_register_too_many(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 10x48>
  return
}

// -----

// CHECK: block 8x40 is not a multiple of the 16 lanes of fma.f32x16 along n
func.func @broken_lanes(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x40>
  return
}

// -----

// CHECK: lanes = m, pack = none does not fit the operands' layouts; possible are lanes = n, pack = none
func.func @wrong_lanes(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 32x4, lanes = m>
  return
}

// -----

// CHECK: lanes = k, pack = none does not fit the operands' layouts; possible are lanes = n, pack = none
func.func @wrong_lanes_along_k(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 4x4, lanes = k>
  return
}

// -----

// CHECK: lanes = n, pack = rhs does not fit the operands' layouts; possible are lanes = n, pack = none
func.func @needless_pack(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, pack = rhs>
  return
}

// -----

// CHECK: a packed factor must be the resident one: write resident = rhs
func.func @packed_but_streamed(%a: memref<64x256xf32>, %b: memref<96x256xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[n, k] : memref<64x256xf32>, memref<96x256xf32>) outs(%c[m, n] : memref<64x96xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, pack = rhs, resident = lhs>
  return
}

// -----

// CHECK: ahead is for products in cache blocks, or for the factor that is streamed a few rows at a time: give n_block or m_block, or a k_block of at most 8
func.func @next_of_a_flat_product(%a: memref<64x256xf32>, %b: memref<256x96xf32>, %c: memref<64x96xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>) outs(%c[m, n] : memref<64x96xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48, ahead = lhs>
  return
}
