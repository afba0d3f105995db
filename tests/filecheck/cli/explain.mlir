// RUN: nkdsl explain %s --target x86-64-v3 | filecheck %s
// RUN: nkdsl explain 33x47x65 --dtype f32 --target x86-64-v3 | filecheck %s --check-prefix SHAPE

// CHECK-LABEL: product   C = A·B in @matmul: m = 33, k = 65, n = 47
// CHECK-NEXT: f32, 201.6 k floating-point operations
// CHECK-NEXT: A         strides in elements: m 65, k 1
// CHECK-NEXT: B         strides in elements: k 47, n 1
// CHECK: target    x86-64-v3
// CHECK-NEXT: plan      {{[0-9]+}}x{{[0-9]+}} accumulators, lanes along n, fma.f32x8
// CHECK-NEXT: registers {{.*}} kept + 1 passing = {{[0-9]+}} ≤ 15
// CHECK-NEXT: latency   {{.*}}: hidden
// CHECK: step      of a
// CHECK: FMA units
// CHECK: is the bound
// CHECK: rows      {{.*}} = 33
// CHECK-NEXT: columns   {{.*}} = 47
// CHECK: map
// CHECK-DAG: B: loaded
// CHECK-DAG: A: broadcast
// CHECK: loops
// CHECK: packing   none
// CHECK: predicted {{[0-9]+}} cycles, {{.*}}% of peak
// CHECK-NEXT: others

// SHAPE-LABEL: product   C += A·B in @kernel: m = 33, k = 65, n = 47

func.func @matmul(%a: memref<33x65xf32>, %b: memref<65x47xf32>, %c: memref<33x47xf32>) {
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%c : memref<33x47xf32>)
  linalg.matmul ins(%a, %b : memref<33x65xf32>, memref<65x47xf32>) outs(%c : memref<33x47xf32>)
  return
}
