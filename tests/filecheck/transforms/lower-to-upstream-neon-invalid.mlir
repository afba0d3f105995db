// RUN: xdsl-opt %s -p lower-to-upstream --split-input-file --verify-diagnostics | filecheck %s

// NEON has no masks, and SVE's are for elements of four bytes and more.
func.func @neon(%a: memref<3xf32>, %c: memref<4xf32>) attributes {nanokernel.target = "neoverse-n1"} {
  %zero = arith.constant 0 : index
  %three = arith.constant 3 : index
  // CHECK: neoverse-n1 can't mask elements of f32; load and store them in parts
  %x = nkvector.load %a[%zero], %three : memref<3xf32>, vector<4xf32>
  nkvector.store %x, %c[%zero] : memref<4xf32>, vector<4xf32>
  return
}

// -----

func.func @sve(%a: memref<3xbf16>, %c: memref<4xbf16>) attributes {nanokernel.target = "neoverse-v2"} {
  %zero = arith.constant 0 : index
  %three = arith.constant 3 : index
  // CHECK: neoverse-v2 can't mask elements of bf16, only those of 4 bytes or more
  %x = nkvector.load %a[%zero], %three : memref<3xbf16>, vector<4xbf16>
  nkvector.store %x, %c[%zero] : memref<4xbf16>, vector<4xbf16>
  return
}
