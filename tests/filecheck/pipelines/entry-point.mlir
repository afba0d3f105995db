// xDSL's own driver finds passes and dialects through the entry point, and its own passes run
// between ours.

// RUN: xdsl-opt --help | filecheck %s --check-prefix HELP
// RUN: xdsl-opt %s -p 'linalg-to-nanokernel,plan{target=znver5 block=2x16 k-unroll=4},canonicalize,block,compose,canonicalize,unroll,cse,canonicalize,lower-to-upstream,cse' | filecheck %s

// The help breaks lines within names.
// HELP: bufferize,linalg-to-nanokernel,fold-transposes,fuse-
// HELP-NEXT: epilogues,expand-math,plan,block,compose,place-
// HELP-NEXT: buffers,unroll,lower-to-upstream,

// CHECK-LABEL: func.func @product
// CHECK: vector.fma {{.*}} : vector<16xf32>
// CHECK-NOT: nkvector
// CHECK: return

func.func @product(%a: memref<2x4xf32>, %b: memref<4x16xf32>, %c: memref<2x16xf32>) {
  linalg.matmul ins(%a, %b : memref<2x4xf32>, memref<4x16xf32>) outs(%c : memref<2x16xf32>)
  return
}
