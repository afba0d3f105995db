// RUN: xdsl-opt %s -p unroll | filecheck %s
// RUN: nkdsl-opt %s -p unroll --print-op-generic | nkdsl-opt | filecheck %s

// Of a factor in groups a register holds a group in each lane; a broadcast element is a group, too.
// What its last group lacks isn't read.
// CHECK-LABEL: func.func @in_groups(
// CHECK:         [[B:%[0-9]+]] = nkvector.load %b[%zero, %zero, %zero] : memref<2x16x2xbf16>, vector<32xbf16>
// CHECK-NEXT:    [[A:%[0-9]+]] = nkvector.broadcast_load %a[%zero, %zero] group 2 : memref<1x3xbf16>, vector<32xbf16>
// CHECK-NEXT:    [[S:%[0-9]+]] = nkvector.dot [[A]], [[B]], {{%[0-9]+}} using "dot.bf16x16" : vector<32xbf16>, vector<16xf32>
// CHECK:         [[B1:%[0-9]+]] = nkvector.load %b[%zero + 1, %zero, %zero] : memref<2x16x2xbf16>, vector<32xbf16>
// CHECK-NEXT:    [[A1:%[0-9]+]] = nkvector.broadcast_load %a[%zero, %zero + 2] group 2, {{%[0-9]+}} : memref<1x3xbf16>, vector<32xbf16>
// CHECK-NEXT:    [[T:%[0-9]+]] = nkvector.dot [[A1]], [[B1]], [[S]] using "dot.bf16x16"
// CHECK-NEXT:    [[R:%[0-9]+]] = arith.truncf [[T]] : vector<16xf32> to vector<16xbf16>
// CHECK-NEXT:    nkvector.store [[R]], %c[%zero, %zero] : memref<1x16xbf16>, vector<16xbf16>
func.func @in_groups(%a: memref<1x3xbf16>, %b: memref<2x16x2xbf16>, %c: memref<1x16xbf16>) attributes {nanokernel.target = "znver4"} {
  %zero = arith.constant 0 : index
  %start = nanokernel.zero : !nanokernel.block<1x16xf32, lanes = n>
  %sums = nanokernel.step %start, %a[m: %zero, k: %zero], %b[k: %zero, n: %zero, g: %zero] depth 3 using "dot.bf16x16" : memref<1x3xbf16>, memref<2x16x2xbf16>, !nanokernel.block<1x16xf32, lanes = n>
  nanokernel.store %sums, %c[m: %zero, n: %zero] : memref<1x16xbf16>, !nanokernel.block<1x16xf32, lanes = n>
  return
}

// Rows that are read in place are interleaved.
// CHECK-LABEL: func.func @rows(
// CHECK:         [[R0:%[0-9]+]] = nkvector.load %b[%zero, %zero] : memref<2x16xbf16>, vector<16xbf16>
// CHECK-NEXT:    [[R1:%[0-9]+]] = nkvector.load %b[%zero + 1, %zero] : memref<2x16xbf16>, vector<16xbf16>
// CHECK-NEXT:    [[B:%[0-9]+]] = nkvector.shuffle [[R0]], [[R1]] [0, 16, 1, 17, 2, 18,
// CHECK-NEXT:    nkvector.broadcast_load
// CHECK-NEXT:    nkvector.dot
func.func @rows(%a: memref<1x2xbf16>, %b: memref<2x16xbf16>, %c: memref<1x16xf32>) attributes {nanokernel.target = "znver4"} {
  %zero = arith.constant 0 : index
  %start = nanokernel.zero : !nanokernel.block<1x16xf32, lanes = n>
  %sums = nanokernel.step %start, %a[m: %zero, k: %zero], %b[k: %zero, n: %zero] depth 2 using "dot.bf16x16" : memref<1x2xbf16>, memref<2x16xbf16>, !nanokernel.block<1x16xf32, lanes = n>
  nanokernel.store %sums, %c[m: %zero, n: %zero] : memref<1x16xf32>, !nanokernel.block<1x16xf32, lanes = n>
  return
}

// An epilogue is done to a whole register; its bias is one, too.
// CHECK-LABEL: func.func @epilogue(
// CHECK:         [[BIAS:%[0-9]+]] = nkvector.load %bias[%zero] : memref<16xf32>, vector<16xf32>
// CHECK-NEXT:    [[Y:%[0-9]+]] = arith.addf {{%[0-9]+}}, [[BIAS]] : vector<16xf32>
// CHECK-NEXT:    [[ZERO:%[0-9]+]] = arith.constant dense<0.000000e+00> : vector<16xf32>
// CHECK-NEXT:    [[RELU:%[0-9]+]] = arith.maximumf [[Y]], [[ZERO]] : vector<16xf32>
// CHECK-NEXT:    nkvector.store [[RELU]], %c[%zero, %zero]
func.func @epilogue(%c: memref<1x16xf32>, %bias: memref<16xf32>) attributes {nanokernel.target = "znver4"} {
  %zero = arith.constant 0 : index
  %sums = nanokernel.zero : !nanokernel.block<1x16xf32, lanes = n>
  nanokernel.store %sums, %c[m: %zero, n: %zero] epilogue(%bias[n: %zero] : memref<16xf32>) {
  ^bb0(%sum: f32, %b: f32):
    %y = arith.addf %sum, %b : f32
    %z = arith.constant 0.0 : f32
    %r = arith.maximumf %y, %z : f32
    nanokernel.yield %r : f32
  } : memref<1x16xf32>, !nanokernel.block<1x16xf32, lanes = n>
  return
}
