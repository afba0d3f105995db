// RUN: nkdsl-opt %s -p unroll | filecheck %s

// Sums are products with ones; what the last register lacks is masked, and where the factor lies
// elsewhere its rows are asked for ahead.
// CHECK-LABEL: func.func @in_place
// CHECK-DAG:     [[ONES:%[0-9]+]] = arith.constant dense<1> : vector<64xi8>
// CHECK:         [[DONE0:%[0-9]+]], [[DONE1:%[0-9]+]] = scf.for [[ROW:%[0-9]+]] = {{.*}} iter_args([[S0:%[0-9]+]] = {{%[0-9]+}}, [[S1:%[0-9]+]] = {{%[0-9]+}})
// CHECK-NEXT:      nkvector.prefetch %part{{\[}}[[ROW]] + {{[0-9]+}}, {{%[0-9]+}}, {{%[0-9]+}}]
// CHECK-NEXT:      nkvector.prefetch %part{{\[}}[[ROW]] + {{[0-9]+}}, {{%[0-9]+}} + 16, {{%[0-9]+}}]
// CHECK-NEXT:      [[B0:%[0-9]+]] = nkvector.load %part{{\[}}[[ROW]], {{%[0-9]+}}, {{%[0-9]+}}] :
// CHECK-NEXT:      nkvector.dot [[ONES]], [[B0]], [[S0]] using "dot.u8s8x16"
// CHECK-NEXT:      [[B1:%[0-9]+]] = nkvector.load %part{{\[}}[[ROW]], {{%[0-9]+}} + 16, {{%[0-9]+}}], {{%[0-9]+}} :
// CHECK-NEXT:      nkvector.dot [[ONES]], [[B1]], [[S1]] using "dot.u8s8x16"
// CHECK:         [[P0:%[0-9]+]] = arith.muli [[DONE0]]
// CHECK-NEXT:    [[OLD:%[0-9]+]] = nkvector.load %sums
// CHECK-NEXT:    [[NEW:%[0-9]+]] = arith.addi [[P0]], [[OLD]]
// CHECK-NEXT:    nkvector.store [[NEW]], %sums
func.func @in_place(%part: memref<8x20x4xi8, strided<[256, 4, 1]>>, %sums: memref<32xi32>) attributes {nanokernel.target = "znver4"} {
  nanokernel.sum %part times -128 into %sums accumulate : memref<8x20x4xi8, strided<[256, 4, 1]>>, memref<32xi32>
  return
}

// A panel has just been filled.
// CHECK-LABEL: func.func @panel
// CHECK-NOT:     nkvector.prefetch
// CHECK:         nkvector.dot {{.*}} using "dot.u8s8x16"
// CHECK-NOT:     nkvector.load %sums
// CHECK:         nkvector.store
func.func @panel(%sums: memref<16xi32>) attributes {nanokernel.target = "znver4"} {
  %panel = nanokernel.workspace at 0 : memref<2x16x4xi8>
  nanokernel.sum %panel times -128 into %sums : memref<2x16x4xi8>, memref<16xi32>
  return
}

// Without a sign the other type of ones is multiplied; what ends at run time is masked there.
// CHECK-LABEL: func.func @run_time
// CHECK:         [[WIDTH:%[0-9]+]] = memref.dim %part
// CHECK:         [[B:%[0-9]+]] = nkvector.load %part{{.*}}, {{%[0-9]+}} : memref<2x?x4xi8>, vector<64xi8>
// CHECK-NEXT:    nkvector.dot {{%[0-9]+}}, [[B]], {{%[0-9]+}} using "dot.s8u8x16"
func.func @run_time(%part: memref<2x?x4xi8>, %sums: memref<16xi32>) attributes {nanokernel.target = "znver4"} {
  nanokernel.sum %part unsigned times 128 into %sums : memref<2x?x4xi8>, memref<16xi32>
  return
}
