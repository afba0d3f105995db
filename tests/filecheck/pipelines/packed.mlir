// RUN: nkdsl-opt %s -p 'plan{target=x86-64-v3},compose' | xdsl-opt | filecheck %s --check-prefix COMPOSED
// RUN: xdsl-opt %s -p 'plan{target=x86-64-v3},compose,unroll' | nkdsl-opt | filecheck %s --check-prefix REGISTERS
// RUN: nkdsl-opt %s -p 'plan{target=x86-64-v3},compose,unroll,lower-to-upstream' | xdsl-opt | filecheck %s --check-prefix UPSTREAM

// COMPOSED-LABEL: func.func @packed
// COMPOSED: nanokernel.workspace at 0
// COMPOSED: nanokernel.pack %b
// COMPOSED: nanokernel.step

// REGISTERS-LABEL: func.func @packed
// REGISTERS: nanokernel.workspace at 0
// REGISTERS: nkvector.shuffle
// REGISTERS: nkvector.fma {{.*}} : vector<8xf32>

// UPSTREAM-LABEL: func.func @packed(%a: memref<f32>, %b: memref<f32>, %c: memref<f32>, %{{[0-9]+}}: memref<i8>)
// UPSTREAM-SAME: nanokernel.workspace_bytes = {{[0-9]+}} : i64
// UPSTREAM: memref.view
// UPSTREAM: vector.shuffle
// UPSTREAM: vector.fma {{.*}} : vector<8xf32>

func.func @packed(%a: memref<16x32xf32>, %b: memref<24x32xf32>, %c: memref<16x24xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[n, k] : memref<16x32xf32>, memref<24x32xf32>) outs(%c[m, n] : memref<16x24xf32>)
  return
}
