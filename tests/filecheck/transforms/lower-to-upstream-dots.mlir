// RUN: xdsl-opt %s -p lower-to-upstream | filecheck %s

// A group is loaded as one word and copied to all lanes; of a partial one the rest is masked.
// CHECK-LABEL: func.func @dot(
// CHECK:         [[GROUP:%[0-9]+]] = vector.load [[A:%[0-9]+]][{{%[0-9]+}}] : memref<3xbf16>, vector<2xbf16>
// CHECK-NEXT:    [[CAST:%[0-9]+]] = vector.bitcast [[GROUP]] : vector<2xbf16> to vector<1xi32>
// CHECK-NEXT:    [[WORD:%[0-9]+]] = vector.extract [[CAST]][0] : i32 from vector<1xi32>
// CHECK-NEXT:    [[ALL:%[0-9]+]] = vector.broadcast [[WORD]] : i32 to vector<16xi32>
// CHECK-NEXT:    %a0 = vector.bitcast [[ALL]] : vector<16xi32> to vector<32xbf16>
// CHECK-NEXT:    %s = llvm.call_intrinsic "llvm.x86.avx512bf16.dpbf16ps.512"(%acc, %a0, %b0)
// CHECK-NEXT:    vector.maskedload [[A]][{{%[0-9]+}}], {{%[0-9]+}}, {{%[0-9]+}} : memref<3xbf16>, vector<2xi1>, vector<2xbf16> into vector<2xbf16>
// CHECK:         %t = llvm.call_intrinsic "llvm.x86.avx512bf16.dpbf16ps.512"(%s, %a1, %b0)

// vpdpbusd takes the factor without a sign first.
// CHECK-LABEL: func.func @signs(
// CHECK:         %s = llvm.call_intrinsic "llvm.x86.avx512.vpdpbusd.512"(%acc, %b, %a)
func.func @dot(%a: memref<1x3xbf16>, %b: memref<2x16x2xbf16>, %c: memref<1x16xf32>) attributes {nanokernel.target = "znver4"} {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %acc = nkvector.load %c[%zero, %zero] : memref<1x16xf32>, vector<16xf32>
  %b0 = nkvector.load %b[%zero, %zero, %zero] : memref<2x16x2xbf16>, vector<32xbf16>
  %a0 = nkvector.broadcast_load %a[%zero, %zero] group 2 : memref<1x3xbf16>, vector<32xbf16>
  %s = nkvector.dot %a0, %b0, %acc using "dot.bf16x16" : vector<32xbf16>, vector<16xf32>
  %a1 = nkvector.broadcast_load %a[%zero, %zero + 2] group 2, %one : memref<1x3xbf16>, vector<32xbf16>
  %t = nkvector.dot %a1, %b0, %s using "dot.bf16x16" : vector<32xbf16>, vector<16xf32>
  nkvector.store %t, %c[%zero, %zero] : memref<1x16xf32>, vector<16xf32>
  return
}
func.func @signs(%a: vector<64xi8>, %b: vector<64xi8>, %acc: vector<16xi32>, %c: memref<16xi32>) attributes {nanokernel.target = "znver4"} {
  %zero = arith.constant 0 : index
  %s = nkvector.dot %a, %b, %acc using "dot.s8u8x16" : vector<64xi8>, vector<16xi32>
  nkvector.store %s, %c[%zero] : memref<16xi32>, vector<16xi32>
  return
}
