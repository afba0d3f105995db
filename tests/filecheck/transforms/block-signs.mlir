// RUN: nkdsl-opt %s -p block | filecheck %s

// A factor that lies in groups is added up in place, part of the reduction by part: all of a cache
// block where rows are cut, too.
// CHECK-LABEL: func.func @in_place
// CHECK:         [[SUMS:%[0-9]+]] = nanokernel.workspace at 0 : memref<32xi32>
// CHECK:         scf.for [[K:%[0-9]+]] =
// CHECK:           scf.for
// CHECK:             [[PART:%[0-9]+]] = memref.subview %b[{{%[0-9]+}}, {{%[0-9]+}}, 0] [4, 16, 4] [1, 1, 1]
// CHECK:             [[PLACE:%[0-9]+]] = memref.reinterpret_cast [[SUMS]] to offset: [{{%[0-9]+}}], sizes: [16], strides: [1]
// CHECK-NEXT:        nanokernel.sum [[PART]] times -128 into [[PLACE]] :
// CHECK:           nanokernel.microkernel @in_place_2x16(
func.func @in_place(%a: memref<4x32xi8>, %b: memref<8x32x4xi8>, %c: memref<4x32xi32>) {
  nanokernel.gemm ins(%a[m, k], %b[k floordiv 4, n, k mod 4] : memref<4x32xi8>, memref<8x32x4xi8>) outs(%c[m, n] : memref<4x32xi32>) from zero
    plan #nanokernel.plan<target = "znver4", instruction = "dot.s8s8x16", block = 2x16, k_unroll = 2, k_block = 16, m_block = 2, n_block = 32>
  return
}

// Else a register block right before its use.
// CHECK-LABEL: func.func @one_by_one
// CHECK:         nanokernel.workspace at 0 : memref<16xi32>
func.func @one_by_one(%a: memref<4x32xi8>, %b: memref<8x32x4xi8>, %c: memref<4x32xi32>) {
  nanokernel.gemm ins(%a[m, k], %b[k floordiv 4, n, k mod 4] : memref<4x32xi8>, memref<8x32x4xi8>) outs(%c[m, n] : memref<4x32xi32>) from zero
    plan #nanokernel.plan<target = "znver4", instruction = "dot.s8s8x16", block = 2x16, k_unroll = 2, k_block = 16, n_block = 32>
  return
}

// Each of several reductions adds up its own part.
// CHECK-LABEL: func.func @reductions
// CHECK:         scf.for [[OUTER:%[0-9]+]] =
// CHECK:           nanokernel.sum {{%[0-9]+}} unsigned times 128 into
// CHECK:           nanokernel.microkernel @reductions_2x16(
func.func @reductions(%a: memref<5x2x8xi8>, %b: memref<5x2x16x4xi8>, %c: memref<2x16xi32>) {
  nanokernel.gemm ins(%a[k0, m, k1], %b[k0, k1 floordiv 4, n, k1 mod 4] : memref<5x2x8xi8>, memref<5x2x16x4xi8>) unsigned both outs(%c[m, n] : memref<2x16xi32>)
    plan #nanokernel.plan<target = "znver4", instruction = "dot.u8u8x16", block = 2x16, k_unroll = 2, k_block = 8, n_block = 16>
  return
}

// Sums that are given are those of the whole reduction: microkernels are told which part is first.
// CHECK-LABEL: func.func @given
// CHECK-NOT:     nanokernel.sum
// CHECK:         [[FIRST:%[0-9]+]] = arith.cmpi eq
// CHECK:         [[START:%[0-9]+]] = memref.subview %s[{{%[0-9]+}}, 0] [1, 16] [1, 1]
// CHECK:         nanokernel.microkernel @given_2x16({{.*}}, [[START]], {{%[0-9]+}}, [[FIRST]])
func.func @given(%a: memref<2x32xi8>, %b: memref<2x8x16x4xi8>, %s: memref<2x16xi32>, %c: memref<2x32xi32>) {
  nanokernel.gemm ins(%a[m, k], %b[n0, k floordiv 4, n1, k mod 4] : memref<2x32xi8>, memref<2x8x16x4xi8>) outs(%c[m, 16 * n0 + n1] : memref<2x32xi32>) start(%s[n0, n1] : memref<2x16xi32>)
    plan #nanokernel.plan<target = "znver4", instruction = "dot.s8s8x16", block = 2x16, k_unroll = 2, k_block = 16, m_block = 2, n_block = 16>
  return
}

// All of the reduction at once needs no flag.
// CHECK-LABEL: func.func @at_once
func.func @at_once(%a: memref<2x32xi8>, %b: memref<2x8x16x4xi8>, %s: memref<2x16xi32>, %c: memref<2x32xi32>) {
  nanokernel.gemm ins(%a[m, k], %b[n0, k floordiv 4, n1, k mod 4] : memref<2x32xi8>, memref<2x8x16x4xi8>) outs(%c[m, 16 * n0 + n1] : memref<2x32xi32>) start(%s[n0, n1] : memref<2x16xi32>)
    plan #nanokernel.plan<target = "znver4", instruction = "dot.s8s8x16", block = 2x16, k_unroll = 2, m_block = 2, n_block = 16>
  return
}

// CHECK:       func.func private @in_place_2x16(
// CHECK:         from zero if %first start(%{{.*}}[n] : memref<16xi32, strided<[1], offset: ?>>) plan
// CHECK:       func.func private @given_2x16(
// CHECK:         start({{.*}}) if %begins plan
// CHECK:       func.func private @at_once_2x16(
// CHECK:         start({{.*}}) plan
