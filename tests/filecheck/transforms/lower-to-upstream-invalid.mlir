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

// CHECK: memref<?x16xf32>{{.*}}
func.func @dynamic(%a: memref<?x16xf32>) attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  %x = nkvector.load %a[%zero, %zero] : memref<?x16xf32>, vector<16xf32>
  nkvector.store %x, %a[%zero, %zero] : memref<?x16xf32>, vector<16xf32>
  return
}

// -----

// CHECK: target 'znver99' is not known
func.func @unknown() attributes {nanokernel.target = "znver99"} {
  return
}
