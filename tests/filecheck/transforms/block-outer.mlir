// RUN: xdsl-opt %s -p block | filecheck %s
// RUN: nkdsl-opt %s -p block --print-op-generic | nkdsl-opt | filecheck %s

// One microkernel serves all blocks: its views say how much of one exists. Tiles have no configuration.
// Rows of lhs are packed into panels along k, each as wide as a block; rhs is read in place.
// CHECK-LABEL: func.func @known(
// CHECK-NOT:     tile.configure
// CHECK:         [[PANELS:%[0-9]+]] = nanokernel.workspace at 0 : memref<1152xf32>
// CHECK:         [[P0:%[0-9]+]] = memref.reinterpret_cast [[PANELS]] to offset: [0], sizes: [9, 64], strides: [64, 1]
// CHECK-NEXT:    nanokernel.pack %a[m: {{%[0-9]+}}, k: {{%[0-9]+}}] extents 9 x 64 into [[P0]] :
// CHECK-NEXT:    [[P1:%[0-9]+]] = memref.reinterpret_cast [[PANELS]] to offset: [576], sizes: [9, 64], strides: [64, 1]
// CHECK-NEXT:    nanokernel.pack %a[m: {{%[0-9]+}}, k: {{%[0-9]+}}] extents 9 x 36 into [[P1]] :
// CHECK:         scf.for [[N:%[0-9]+]] =
// CHECK-NEXT:      [[B:%[0-9]+]] = memref.subview %b[0, [[N]]] [9, 32] [1, 1]
// CHECK:           memref.subview {{%[0-9]+}}[0, 0] [9, 64] [1, 1]
// CHECK:           memref.subview %c[0, [[N]]] [64, 32] [1, 1]
// CHECK:           nanokernel.microkernel @known_64x32_first({{.*}}) : memref<?x?xf32, strided<[64, 1], offset: ?>>, memref<?x?xf32, strided<[70, 1], offset: ?>>, memref<?x?xf32, strided<[70, 1], offset: ?>>
// CHECK:           memref.subview {{%[0-9]+}}[0, 0] [9, 36] [1, 1]
// CHECK:           memref.subview %c[64, [[N]]] [36, 32] [1, 1]
// CHECK:           nanokernel.microkernel @known_64x32_first(
// CHECK:         memref.subview %b[0, 64] [9, 6] [1, 1]
// CHECK-NOT:     tile.release
// CHECK:         func.return
func.func @known(%a: memref<100x9xf32>, %b: memref<9x70xf32>, %c: memref<100x70xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<100x9xf32>, memref<9x70xf32>) outs(%c[m, n] : memref<100x70xf32>) from zero
    plan #nanokernel.plan<target = "armv9-sme", instruction = "outer.f32", block = 64x32, pack = lhs, resident = rhs>
  return
}

// Groups of k that lie in memory are read in place, others are made up by packing. A block of sums that
// an epilogue finishes is computed in the workspace, and finished in vector registers.
// CHECK-LABEL: func.func @finished(
// CHECK:         [[PANEL:%[0-9]+]] = nanokernel.workspace at 0 : memref<320xbf16>
// CHECK-NEXT:    [[SUMS:%[0-9]+]] = nanokernel.workspace at 640 : memref<2048xf32>
// CHECK:         [[P:%[0-9]+]] = memref.reinterpret_cast [[PANEL]] to offset: [0], sizes: [5, 32, 2], strides: [64, 2, 1]
// CHECK-NEXT:    nanokernel.pack %a[m: {{%[0-9]+}}, k: {{%[0-9]+}}] extents 9 x 20 into [[P]] :
// CHECK:         memref.subview %b[0, 0, 0] [5, 40, 2] [1, 1, 1]
// CHECK:         [[BLOCK:%[0-9]+]] = memref.reinterpret_cast [[SUMS]] to offset: [0], sizes: [32, 64], strides: [64, 1]
// CHECK-NEXT:    memref.subview [[BLOCK]][0, 0] [20, 40] [1, 1]
// CHECK:         nanokernel.microkernel @finished_32x64_first(
// CHECK-NEXT:    scf.for [[I:%[0-9]+]] =
// CHECK-NEXT:      scf.for [[J:%[0-9]+]] =
// CHECK:             [[PART:%[0-9]+]] = nanokernel.load {{%[0-9]+}}[m: [[I]], n: [[J]]] :
// CHECK-NEXT:        nanokernel.store [[PART]], %c[m: [[I]], n: [[J]]] epilogue(%bias[n: [[J]]] : memref<40xf32>) {
func.func @finished(%a: memref<20x9xbf16>, %b: memref<5x40x2xbf16>, %c: memref<20x40xbf16>, %bias: memref<40xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k floordiv 2, n, k mod 2] : memref<20x9xbf16>, memref<5x40x2xbf16>) outs(%c[m, n] : memref<20x40xbf16>) from zero
    plan #nanokernel.plan<target = "armv9-sme", instruction = "outer.bf16", block = 32x64, pack = lhs, resident = rhs>
    epilogue(%bias[n] : memref<40xf32>) {
    ^bb0(%sum: f32, %b_n: f32):
      %biased = arith.addf %sum, %b_n : f32
      %narrow = arith.truncf %biased : f32 to bf16
      nanokernel.yield %narrow : bf16
    }
  return
}

// A part of the reduction that is not the first one adds to old results. A panel has the width of a
// block, however much of it exists: the last of three is half full.
// CHECK-LABEL: func.func @cut(
// CHECK:         nanokernel.workspace at 0 : memref<384xf32>
// CHECK-NEXT:    [[PANELS:%[0-9]+]] = nanokernel.workspace at 1536 : memref<1152xf32>
// CHECK:         scf.for [[K:%[0-9]+]] =
// CHECK:           [[P:%[0-9]+]] = memref.reinterpret_cast [[PANELS]] to offset: [{{%[0-9]+}}], sizes: [24, 16], strides: [16, 1]
// CHECK-NEXT:      nanokernel.pack %b[k: [[K]], n: {{%[0-9]+}}] extents 24 x 16 into [[P]] :
// CHECK:           [[LAST:%[0-9]+]] = memref.reinterpret_cast [[PANELS]] to offset: [768], sizes: [24, 16], strides: [16, 1]
// CHECK-NEXT:      nanokernel.pack %b[k: [[K]], n: {{%[0-9]+}}] extents 24 x 8 into [[LAST]] :
// CHECK:           [[FIRST:%[0-9]+]] = arith.cmpi eq, [[K]],
// CHECK:           nanokernel.microkernel @cut_16x16({{.*}}, [[FIRST]]) :
// CHECK:           memref.subview {{%[0-9]+}}[0, 0] [24, 8] [1, 1]
// CHECK:           memref.subview %c[0, 32] [16, 8] [1, 1]
// CHECK:           nanokernel.microkernel @cut_16x16({{.*}}, [[FIRST]]) :
func.func @cut(%a: memref<16x48xf32>, %b: memref<48x40xf32>, %c: memref<16x40xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<16x48xf32>, memref<48x40xf32>) outs(%c[m, n] : memref<16x40xf32>) from zero
    plan #nanokernel.plan<target = "armv9-sme", instruction = "outer.f32", block = 16x16, pack = both, resident = lhs, m_block = 16, n_block = 48, k_block = 24>
  return
}

// CHECK-LABEL: func.func private @known_64x32_first(
// CHECK:         nanokernel.gemm ins(%lhs[k, m], %rhs[k, n] : memref<?x?xf32, strided<[64, 1], offset: ?>>, memref<?x?xf32, strided<[70, 1], offset: ?>>)
// CHECK-SAME:    outs(%out[m, n] : memref<?x?xf32, strided<[70, 1], offset: ?>>) from zero plan #nanokernel.plan<target = "armv9-sme", instruction = "outer.f32", block = 64x32, lanes = n, edges = masked,
// CHECK-LABEL: func.func private @finished_32x64_first(
// CHECK:         nanokernel.gemm ins(%lhs[k floordiv 2, m, k mod 2], %rhs[k floordiv 2, n, k mod 2] :
// CHECK-LABEL: func.func private @cut_16x16(
// CHECK-SAME:    %first: i1)
// CHECK:         from zero if %first plan
