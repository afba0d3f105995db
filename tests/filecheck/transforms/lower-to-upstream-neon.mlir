// RUN: xdsl-opt %s -p lower-to-upstream | filecheck %s

// CHECK-LABEL: func.func @dot(
// CHECK-SAME:  "target-cpu", "neoverse-v2"
// CHECK:       [[WORD:%[0-9]+]] = vector.extract {{%[0-9]+}}[0] : i32 from vector<1xi32>
// CHECK-NEXT:  [[ALL:%[0-9]+]] = vector.broadcast [[WORD]] : i32 to vector<4xi32>
// CHECK-NEXT:  %a0 = vector.bitcast [[ALL]] : vector<4xi32> to vector<8xbf16>
// CHECK-NEXT:  %s = llvm.call_intrinsic "llvm.aarch64.neon.bfdot.v4f32.v8bf16"(%acc, %a0, %b0)
func.func @dot(%a: memref<1x2xbf16>, %b: memref<1x4x2xbf16>, %c: memref<1x4xf32>) attributes {nanokernel.target = "neoverse-v2"} {
  %zero = arith.constant 0 : index
  %acc = nkvector.load %c[%zero, %zero] : memref<1x4xf32>, vector<4xf32>
  %b0 = nkvector.load %b[%zero, %zero, %zero] : memref<1x4x2xbf16>, vector<8xbf16>
  %a0 = nkvector.broadcast_load %a[%zero, %zero] group 2 : memref<1x2xbf16>, vector<8xbf16>
  %s = nkvector.dot %a0, %b0, %acc using "dot.bf16x4" : vector<8xbf16>, vector<4xf32>
  nkvector.store %s, %c[%zero, %zero] : memref<1x4xf32>, vector<4xf32>
  return
}

// usdot takes the factor without a sign first.
// CHECK-LABEL: func.func @signs(
// CHECK:         %s = llvm.call_intrinsic "llvm.aarch64.neon.usdot.v4i32.v16i8"(%acc, %b, %a)
func.func @signs(%a: vector<16xi8>, %b: vector<16xi8>, %acc: vector<4xi32>, %c: memref<4xi32>) attributes {nanokernel.target = "neoverse-v2"} {
  %zero = arith.constant 0 : index
  %s = nkvector.dot %a, %b, %acc using "dot.s8u8x4" : vector<16xi8>, vector<4xi32>
  nkvector.store %s, %c[%zero] : memref<4xi32>, vector<4xi32>
  return
}

// f32 is rounded to bf16 by an instruction where there is one, else in integers.
// CHECK-LABEL: func.func @rounded(
// CHECK:         %y = arith.truncf %x : vector<4xf32> to vector<4xbf16>
func.func @rounded(%a: memref<4xf32>, %c: memref<4xbf16>) attributes {nanokernel.target = "neoverse-v2"} {
  %zero = arith.constant 0 : index
  %x = nkvector.load %a[%zero] : memref<4xf32>, vector<4xf32>
  %y = arith.truncf %x : vector<4xf32> to vector<4xbf16>
  nkvector.store %y, %c[%zero] : memref<4xbf16>, vector<4xbf16>
  return
}

// CHECK-LABEL: func.func @rounded_in_integers(
// CHECK-NOT:     arith.truncf
// CHECK:         arith.trunci{{.*}}vector<4xi16>
// CHECK-NEXT:    %y = arith.bitcast {{%[0-9]+}} : vector<4xi16> to vector<4xbf16>
func.func @rounded_in_integers(%a: memref<4xf32>, %c: memref<4xbf16>) attributes {nanokernel.target = "neoverse-n1"} {
  %zero = arith.constant 0 : index
  %x = nkvector.load %a[%zero] : memref<4xf32>, vector<4xf32>
  %y = arith.truncf %x : vector<4xf32> to vector<4xbf16>
  nkvector.store %y, %c[%zero] : memref<4xbf16>, vector<4xbf16>
  return
}
