// RUN: nkdsl-opt %s -p lower-to-upstream | filecheck %s

// The workspace is the last argument, one pointer to bytes; the function says how many it needs.
// CHECK-LABEL: func.func @two_parts(%a: memref<f32>, %{{[0-9]+}}: memref<i8>)
// CHECK-SAME:    nanokernel.workspace_bytes = 256 : i64
// CHECK-DAG:     [[FIRST:%[0-9]+]] = arith.constant 0 : index
// CHECK-DAG:     [[SECOND:%[0-9]+]] = arith.constant 128 : index
// CHECK:         [[B0:%[0-9]+]] = memref.reinterpret_cast {{%[0-9]+}} to {{.*}} : memref<i8> to memref<128xi8>
// CHECK-NEXT:    memref.view [[B0]][[[FIRST]]][] : memref<128xi8> to memref<32xf32>
// CHECK:         [[B1:%[0-9]+]] = memref.reinterpret_cast {{%[0-9]+}} to {{.*}} : memref<i8> to memref<256xi8>
// CHECK-NEXT:    memref.view [[B1]][[[SECOND]]][] : memref<256xi8> to memref<16xf64>
// CHECK:         vector.load
func.func @two_parts(%a: memref<16xf32>) attributes {nanokernel.target = "znver5"} {
  %zero = arith.constant 0 : index
  %x = nanokernel.workspace at 0 : memref<32xf32>
  %y = nanokernel.workspace at 128 : memref<16xf64>
  %v = nkvector.load %a[%zero] : memref<16xf32>, vector<16xf32>
  nkvector.store %v, %x[%zero + 16] : memref<32xf32>, vector<16xf32>
  %d = nkvector.load %y[%zero] : memref<16xf64>, vector<8xf64>
  nkvector.store %d, %y[%zero + 8] : memref<16xf64>, vector<8xf64>
  return
}

// CHECK-LABEL: func.func @none(%a: memref<f32>)
// CHECK-NOT:     workspace
// CHECK:         return
func.func @none(%a: memref<16xf32>) attributes {nanokernel.target = "znver5"} {
  return
}
