// RUN: xdsl-opt %s -p block | filecheck %s
// RUN: nkdsl-opt %s -p block --print-op-generic | nkdsl-opt | filecheck %s

// Panels are packed ahead: the first one by the microkernel that reads it first, each other one in
// the second of two places by those that read the one before, so many rows each. Whether another
// panel follows decides how many there are.
// CHECK-LABEL: func.func @ahead(
// CHECK:         [[PLACE:%[0-9]+]] = nanokernel.workspace at 0 : memref<512xf32>
// CHECK:         scf.for [[N:%[0-9]+]] =
// CHECK:           [[LEFT:%[0-9]+]] = arith.minui
// CHECK:           scf.if {{%[0-9]+}} {
// CHECK:             nanokernel.microkernel @ahead_3x16_first(
// CHECK:           } else {
// CHECK:             nanokernel.microkernel @ahead_3x16_ahead(
// CHECK:           scf.for
// CHECK:             [[SOURCE:%[0-9]+]] = memref.subview %b[{{%[0-9]+}}, {{%[0-9]+}}] [{{%[0-9]+}}, 16] [1, 1]
// CHECK:             [[PANEL:%[0-9]+]] = memref.reinterpret_cast [[PLACE]] to offset: [{{%[0-9]+}}], sizes: [{{%[0-9]+}}, 16], strides: [16, 1]
// CHECK:             nanokernel.microkernel @ahead_3x16_ahead(
// CHECK-NOT:       nanokernel.pack
// CHECK:         func.return
// CHECK:         func.func private @ahead_3x16_first(
// CHECK:           nanokernel.gemm {{.*}} from zero if %first keep %panel : memref<?x16xf32, strided<[16, 1], offset: ?>> plan
// CHECK:         func.func private @ahead_3x16_ahead(
// CHECK:           nanokernel.gemm {{.*}} from zero if %first pack %source into %panel : memref<?x16xf32, strided<[64, 1], offset: ?>>, memref<?x16xf32, strided<[16, 1], offset: ?>> plan {{.*}} ahead = lhs>
func.func @ahead(%a: memref<12x16xf32>, %b: memref<16x64xf32>, %c: memref<12x64xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<12x16xf32>, memref<16x64xf32>) outs(%c[m, n] : memref<12x64xf32>) from zero
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 3x16, k_unroll = 4, pack = rhs, ahead = both, n_block = 64>
  return
}
