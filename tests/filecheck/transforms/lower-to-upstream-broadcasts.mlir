// RUN: xdsl-opt %s -p lower-to-upstream | filecheck %s
// RUN: xdsl-opt %s -p lower-to-upstream | xdsl-opt --print-op-generic | filecheck %s --check-prefix=GENERIC

// An instruction that is named becomes assembly, whose operand LLVM addresses like any load's. It
// must stay behind what is stored before.
// CHECK-LABEL: func.func @named(
// CHECK:         llvm.getelementptr {{%[0-9]+}}[19] : (!llvm.ptr) -> !llvm.ptr, f32
// CHECK-NEXT:    "llvm.inline_asm"({{%[0-9]+}}) <{asm_string = "vpbroadcastd $1, $0", constraints = "=v,*m", has_side_effects
// CHECK-SAME:    elementtype = i32
// CHECK-SAME:    (!llvm.ptr) -> vector<16xi32>
// CHECK-NEXT:    vector.bitcast {{%[0-9]+}} : vector<16xi32> to vector<16xf32>
// CHECK:         "llvm.inline_asm"({{%[0-9]+}}) <{asm_string = "vpbroadcastq $1, $0"
// CHECK-SAME:    elementtype = i64
// CHECK-SAME:    (!llvm.ptr) -> vector<8xi64>
// GENERIC-COUNT-2: elementtype = i
func.func @named(%a: memref<4x8xf32>, %b: memref<4x8xf64>, %c: memref<16xf32>, %d: memref<8xf64>) attributes {nanokernel.target = "znver4"} {
  %zero = arith.constant 0 : index
  %x = nkvector.broadcast_load %a[%zero + 2, %zero + 3] using "vpbroadcastd" : memref<4x8xf32>, vector<16xf32>
  nkvector.store %x, %c[%zero] : memref<16xf32>, vector<16xf32>
  %y = nkvector.broadcast_load %b[%zero, %zero] using "vpbroadcastq" : memref<4x8xf64>, vector<8xf64>
  nkvector.store %y, %d[%zero] : memref<8xf64>, vector<8xf64>
  return
}
