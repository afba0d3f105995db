// RUN: xdsl-opt %s -p compose,unroll | filecheck %s

// The plan's instruction decides how wide a register is, not the target's widest one.
// CHECK-LABEL: func.func @narrow
// CHECK: nkvector.fma {{.*}} : vector<8xf32>
// CHECK-NOT: vector<16xf32>
// CHECK: return
func.func @narrow(%a: memref<6x4xf32>, %b: memref<4x8xf32>, %c: memref<6x8xf32>) attributes {nanokernel.target = "znver5"} {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<6x4xf32>, memref<4x8xf32>) outs(%c[m, n] : memref<6x8xf32>)
    plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x8", block = 6x8>
  return
}
