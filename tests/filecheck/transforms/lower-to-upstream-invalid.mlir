// RUN: xdsl-opt %s -p lower-to-upstream --split-input-file --verify-diagnostics | filecheck %s

// CHECK: vectors can be loaded from function arguments and panels only
func.func @allocated() attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  %a = memref.alloc() : memref<16xf32>
  %x = nkvector.load %a[%zero] : memref<16xf32>, vector<16xf32>
  nkvector.store %x, %a[%zero] : memref<16xf32>, vector<16xf32>
  return
}

// -----

// CHECK: znver5 has no instruction 'vpbroadcastd' that broadcasts 4 bytes; leave it out, and LLVM chooses one
func.func @broadcast(%a: memref<16xf32>, %c: memref<16xf32>) attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  %x = nkvector.broadcast_load %a[%zero] using "vpbroadcastd" : memref<16xf32>, vector<16xf32>
  nkvector.store %x, %c[%zero] : memref<16xf32>, vector<16xf32>
  return
}

// -----

// CHECK: the dimension must be a constant
func.func @dimension(%a: memref<?x16xf32>, %n: index) attributes {nanokernel.target = "znver5"} {
  %size = memref.dim %a, %n : memref<?x16xf32>
  return
}

// -----

// CHECK: memref<4x4xf32, affine_map<(d0, d1) -> (d1, d0)>> needs a strided layout
func.func @not_strided(%a: memref<4x4xf32, affine_map<(d0, d1) -> (d1, d0)>>) attributes {nanokernel.target = "znver5"} {
  return
}

// -----

// CHECK: target 'znver99' is not known
func.func @unknown() attributes {nanokernel.target = "znver99"} {
  return
}
