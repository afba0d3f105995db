// RUN: xdsl-opt %s -p lower-to-upstream | filecheck %s
// RUN: xdsl-opt %s -p lower-to-upstream | filecheck %s --check-prefix REST

// Nothing of nkdsl's own is left.
// REST-NOT: nkvector.
// REST-NOT: nanokernel.
// REST: func.func @marked

// Each memref argument is one pointer to its first element.
// CHECK-LABEL: func.func @vectors(%a: memref<f32>, %b: memref<f32>, %c: memref<f32>)
// CHECK-SAME:    passthrough = [["target-cpu", "znver5"], ["target-features", "+sse3,
// CHECK-SAME:    +avx512f,
// CHECK-SAME:    -prefer-256-bit"]]
// CHECK:         memref.reinterpret_cast %b to offset: [0], sizes: [92], strides: [1] : memref<f32> to memref<92xf32>
// CHECK:         memref.reinterpret_cast %a to offset: [0], sizes: [12], strides: [1] : memref<f32> to memref<12xf32>
// CHECK:         memref.reinterpret_cast %c to offset: [0], sizes: [60], strides: [1] : memref<f32> to memref<60xf32>
// CHECK:         scf.for %i =
// CHECK:           %b0 = vector.load {{.*}}, vector<16xf32>
// CHECK:           [[SCALAR:%[0-9]+]] = memref.load
// CHECK-NEXT:      %a0 = vector.broadcast [[SCALAR]] : f32 to vector<16xf32>
// CHECK-NEXT:      %s0 = vector.shuffle %a0, %b0 [0, 16, 1, 17] : vector<16xf32>, vector<16xf32>
// CHECK-NEXT:      %p0 = vector.fma %a0, %b0, %b0 : vector<16xf32>
// CHECK:           vector.store %p0, {{.*}}, vector<16xf32>
func.func @vectors(%a: memref<3x4xf32>, %b: memref<4x20xf32, strided<[24, 1]>>, %c: memref<3x20xf32>) attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %three = arith.constant 3 : index
  scf.for %i = %zero to %three step %one {
    %b0 = nkvector.load %b[%i, %zero] : memref<4x20xf32, strided<[24, 1]>>, vector<16xf32>
    %a0 = nkvector.broadcast_load %a[%i + 1, %one] : memref<3x4xf32>, vector<16xf32>
    %s0 = nkvector.shuffle %a0, %b0 [0, 16, 1, 17] : vector<16xf32>
    %p0 = nkvector.fma %a0, %b0, %b0 : vector<16xf32>
    nkvector.store %p0, %c[%i, %zero] : memref<3x20xf32>, vector<16xf32>
  }
  return
}

// A count of lanes that is a constant makes a constant mask, once; another a mask at run time.
// CHECK-LABEL: func.func @masks
// CHECK:         [[NONE:%[0-9]+]] = arith.constant dense<0.000000e+00> : vector<8xf64>
// CHECK:         [[MASK:%[0-9]+]] = arith.constant dense<[true, true, true, false, false, false, false, false]> : vector<8xi1>
// CHECK-NOT:     dense<[true
// CHECK:         [[COUNTED:%[0-9]+]] = vector.create_mask %n : vector<8xi1>
// CHECK:         %x = vector.maskedload {{.*}}, [[MASK]], [[NONE]] : {{.*}} into vector<8xf64>
// CHECK:         vector.maskedstore {{.*}}, [[MASK]], %x :
// CHECK:         vector.maskedstore {{.*}}, [[COUNTED]], %x :
func.func @masks(%a: memref<8xf64>, %n: index) attributes {nanokernel.target = "skylake-avx512"} {
  %zero = arith.constant 0 : index
  %tail = arith.constant 3 : index
  %x = nkvector.load %a[%zero], %tail : memref<8xf64>, vector<8xf64>
  nkvector.store %x, %a[%zero], %tail : memref<8xf64>, vector<8xf64>
  nkvector.store %x, %a[%zero], %n : memref<8xf64>, vector<8xf64>
  return
}

// Constant indices are folded into one number: 2·24 + 16 here.
// CHECK-LABEL: func.func @constants
// CHECK-NOT:     arith.addi
// CHECK-NOT:     arith.muli
// CHECK-DAG:     [[AT:%[0-9]+]] = arith.constant 64 : index
// CHECK:         vector.load {{%[0-9]+}}[[[AT]]] : memref<{{[0-9]+}}xf32>, vector<4xf32>
// CHECK-NOT:     arith.addi
// CHECK:         return
func.func @constants(%b: memref<4x20xf32, strided<[24, 1]>>) attributes {nanokernel.target = "x86-64-v3"} {
  %zero = arith.constant 0 : index
  %two = arith.constant 2 : index
  %x = nkvector.load %b[%two, %zero + 16] : memref<4x20xf32, strided<[24, 1]>>, vector<4xf32>
  nkvector.store %x, %b[%zero, %zero] : memref<4x20xf32, strided<[24, 1]>>, vector<4xf32>
  return
}

// Accesses of one place share its address: one product for each memref, whatever the offsets.
// CHECK-LABEL: func.func @shared_address
// CHECK:         scf.for
// CHECK:           arith.muli %i,
// CHECK-NOT:       arith.muli %i,
// CHECK:         return
func.func @shared_address(%b: memref<64x32xf32>) attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %many = arith.constant 60 : index
  scf.for %i = %zero to %many step %one {
    %x0 = nkvector.load %b[%i, %zero] : memref<64x32xf32>, vector<16xf32>
    %x1 = nkvector.load %b[%i, %zero + 16] : memref<64x32xf32>, vector<16xf32>
    %x2 = nkvector.load %b[%i + 1, %zero] : memref<64x32xf32>, vector<16xf32>
    nkvector.store %x2, %b[%i + 3, %zero] : memref<64x32xf32>, vector<16xf32>
  }
  return
}

// Any address may be asked for: reading, all cache levels or all but the first, data.
// CHECK-LABEL: func.func @prefetch
// CHECK-DAG:     [[TWO:%[0-9]+]] = arith.constant 2 : i32
// CHECK-DAG:     [[ONE:%[0-9]+]] = arith.constant 1 : i32
// CHECK-DAG:     [[THREE:%[0-9]+]] = arith.constant 3 : i32
// CHECK-DAG:     [[ZERO:%[0-9]+]] = arith.constant 0 : i32
// CHECK:         llvm.call_intrinsic "llvm.prefetch.p0"({{%[0-9]+}}, [[ZERO]], [[THREE]], [[ONE]]) : (!llvm.ptr, i32, i32, i32) -> ()
// CHECK:         llvm.call_intrinsic "llvm.prefetch.p0"({{%[0-9]+}}, [[ZERO]], [[TWO]], [[ONE]]) : (!llvm.ptr, i32, i32, i32) -> ()
func.func @prefetch(%b: memref<64x32xf32>, %i: index) attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  nkvector.prefetch %b[%i + 800, %zero] : memref<64x32xf32>
  nkvector.prefetch %b[%i, %zero + 32] into L2 : memref<64x32xf32>
  return
}

// Ops that need a memref's shape get a view of the pointer.
// CHECK-LABEL: func.func @others(%a: memref<f32>, %n: index, %x: f32)
// CHECK:         [[VIEW:%a_1]] = memref.reinterpret_cast %a to offset: [0], sizes: [4, 6], strides: [6, 1] : memref<f32> to memref<4x6xf32>
// CHECK:         memref.store %x, [[VIEW]][%n, %n] : memref<4x6xf32>
func.func @others(%a: memref<4x6xf32>, %n: index, %x: f32) attributes {nanokernel.target = "znver5"} {
  memref.store %x, %a[%n, %n] : memref<4x6xf32>
  return
}

// CHECK-LABEL: func.func @marked()
// CHECK-SAME:    "target-cpu", "x86-64-v3"
// CHECK-NOT:     avx512
// CHECK-NOT:     nanokernel
func.func @marked() attributes {nanokernel.target = "x86-64-v3"} {
  return
}

// A function that was not planned stays as it is.
// CHECK-LABEL: func.func @unplanned(%a: memref<8xf32>)
// CHECK-NOT:     passthrough
// CHECK:         return
func.func @unplanned(%a: memref<8xf32>) {
  return
}
