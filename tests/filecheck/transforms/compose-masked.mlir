// RUN: xdsl-opt %s -p compose | filecheck %s
// RUN: nkdsl-opt %s -p compose --print-op-generic | nkdsl-opt | filecheck %s

// One block, which its run-time columns fill in part: sums from zero, whole turns, single steps, and
// an update that reads the result only where it must.
// CHECK-LABEL: func.func private @microkernel(
// CHECK:         [[TURN:%[0-9]+]] = arith.constant 4 : index
// CHECK:         [[SUMS:%[0-9]+]] = nanokernel.zero : !nanokernel.block<2x32xf32, lanes = n>
// CHECK:         [[DEPTH:%[0-9]+]] = memref.dim %rhs, [[ZERO:%[0-9]+]]
// CHECK:           nanokernel.prefetch %out[m: [[ZERO]], n: [[ZERO]]] : {{.*}}, !nanokernel.block<2x32xf32, lanes = n>
// CHECK-DAG:     [[REST:%[0-9]+]] = arith.remui [[DEPTH]], [[TURN]] : index
// CHECK-DAG:     [[WHOLE:%[0-9]+]] = arith.subi [[DEPTH]], [[REST]] : index
// CHECK-DAG:     [[TAIL:%[0-9]+]] = memref.dim %out,
// CHECK:         [[DONE:%[0-9]+]] = scf.for [[K:%[0-9]+]] = [[ZERO]] to [[WHOLE]] step [[TURN]] iter_args([[PART:%[0-9]+]] = [[SUMS]])
// CHECK-NEXT:      {{%[0-9]+}} = nanokernel.step [[PART]], %lhs[m: [[ZERO]], k: [[K]]], %rhs[k: [[K]], n: [[ZERO]]] depth 4 using "fma.f32x16" tail [[TAIL]]
// CHECK:         [[ALL:%[0-9]+]] = scf.for {{%[0-9]+}} = [[WHOLE]] to [[DEPTH]] step {{%[0-9]+}} iter_args({{%[0-9]+}} = [[DONE]])
// CHECK-NEXT:      {{%[0-9]+}} = nanokernel.step {{.*}} depth 1 using "fma.f32x16" tail [[TAIL]]
// CHECK:         scf.if %first {
// CHECK-NEXT:      nanokernel.store [[ALL]], %out[m: [[ZERO]], n: [[ZERO]]] tail [[TAIL]] :
// CHECK-NEXT:    } else {
// CHECK-NEXT:      nanokernel.store [[ALL]], %out[m: [[ZERO]], n: [[ZERO]]] tail [[TAIL]] accumulate :
// CHECK-NEXT:    }
func.func private @microkernel(%lhs: memref<2x?xf32, strided<[?, 1], offset: ?>>, %rhs: memref<?x?xf32, strided<[?, 1], offset: ?>>, %out: memref<2x?xf32, strided<[?, 1], offset: ?>>, %first: i1) attributes {nanokernel.target = "znver4"} {
  nanokernel.gemm ins(%lhs[m, k], %rhs[k, n] : memref<2x?xf32, strided<[?, 1], offset: ?>>, memref<?x?xf32, strided<[?, 1], offset: ?>>) outs(%out[m, n] : memref<2x?xf32, strided<[?, 1], offset: ?>>) from zero if %first
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 2x32, edges = masked, k_unroll = 4>
  return
}

// A block that is full has no tail. Of three steps, two are a turn.
// CHECK-LABEL: func.func private @full(
// CHECK-NOT:     tail
// CHECK:         nanokernel.step {{.*}} depth 2 using "fma.f32x16" :
// CHECK-NEXT:    {{%[0-9]+}} = nanokernel.step {{.*}} depth 1 using "fma.f32x16" :
// CHECK-NEXT:    nanokernel.store {{.*}} accumulate :
// CHECK-NEXT:    func.return
func.func private @full(%lhs: memref<2x3xf32>, %rhs: memref<3x32xf32>, %out: memref<2x32xf32>) attributes {nanokernel.target = "znver4"} {
  nanokernel.gemm ins(%lhs[m, k], %rhs[k, n] : memref<2x3xf32>, memref<3x32xf32>) outs(%out[m, n] : memref<2x32xf32>)
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 2x32, edges = masked, k_unroll = 2>
  return
}

// Lanes along m count the tail in rows; a scale is the update's.
// CHECK-LABEL: func.func private @scaled(
// CHECK:         [[ROWS:%[0-9]+]] = memref.dim %out,
// CHECK:         scf.if %first {
// CHECK-NEXT:      nanokernel.store {{.*}} tail [[ROWS]] scale %alpha :
// CHECK-NEXT:    } else {
// CHECK-NEXT:      nanokernel.store {{.*}} tail [[ROWS]] scale %alpha, %beta :
// CHECK-NEXT:    }
func.func private @scaled(%lhs: memref<?x?xf32, strided<[?, 1]>>, %rhs: memref<?x3xf32>, %out: memref<3x?xf32, strided<[?, 1]>>, %first: i1, %alpha: f32, %beta: f32) attributes {nanokernel.target = "znver4"} {
  nanokernel.gemm ins(%lhs[k, m], %rhs[k, n] : memref<?x?xf32, strided<[?, 1]>>, memref<?x3xf32>) outs(%out[n, m] : memref<3x?xf32, strided<[?, 1]>>) from zero if %first scale %alpha, %beta
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 16x3, lanes = m, edges = masked, k_unroll = 4>
  return
}

// While one block is computed, the next one's parts of both factors are asked for; else the rows of
// the factor that is loaded as registers, some steps ahead.
// CHECK-LABEL: func.func private @next(
// CHECK:         nanokernel.step {{.*}} depth 2 using "fma.f32x16" prefetch lhs [2, 0] rhs [0, 32] :
// CHECK:         nanokernel.step {{.*}} depth 2 using "fma.f32x16" prefetch lhs [2, 0] rhs [7, 0] :
func.func private @next(%lhs: memref<2x64xf32>, %rhs: memref<64x32xf32>, %out: memref<2x32xf32>) attributes {nanokernel.target = "znver4"} {
  nanokernel.gemm ins(%lhs[m, k], %rhs[k, n] : memref<2x64xf32>, memref<64x32xf32>) outs(%out[m, n] : memref<2x32xf32>)
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 2x32, edges = masked, k_unroll = 2, prefetch = 7, ahead = both>
  nanokernel.gemm ins(%lhs[m, k], %rhs[k, n] : memref<2x64xf32>, memref<64x32xf32>) outs(%out[m, n] : memref<2x32xf32>)
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 2x32, edges = masked, k_unroll = 2, prefetch = 7, ahead = lhs>
  return
}

// The rows of another matrix are packed in the first turns, each asked for some turns before; those
// for which there are too few turns at the end.
// CHECK-LABEL: func.func private @pack(
// CHECK:         [[ROWS:%[0-9]+]] = memref.dim %source,
// CHECK:         [[PART:%[0-9]+]], [[PACKED:%[0-9]+]] = scf.for {{.*}} iter_args([[S:%[0-9]+]] = {{%[0-9]+}}, [[R:%[0-9]+]] = {{%[0-9]+}})
// CHECK-NEXT:      nanokernel.step [[S]], {{.*}} depth 2
// CHECK:           nanokernel.prefetch %source[m: {{%[0-9]+}}, n: {{%[0-9]+}}]
// CHECK-NEXT:      [[ROW:%[0-9]+]] = nanokernel.load %source[m: [[R]], n: {{%[0-9]+}}]
// CHECK-NEXT:      nanokernel.store [[ROW]], %panel[m: [[R]], n: {{%[0-9]+}}]
// CHECK:         scf.for {{%[0-9]+}} = [[PACKED]] to [[ROWS]]
// CHECK:           nanokernel.store {{%[0-9]+}}, %panel
// CHECK:         scf.for
// CHECK-NEXT:      nanokernel.step {{.*}} depth 2
// CHECK:         nanokernel.store {{%[0-9]+}}, %out
func.func private @pack(%lhs: memref<2x64xf32>, %rhs: memref<64x32xf32>, %out: memref<2x32xf32>, %source: memref<?x32xf32, strided<[96, 1], offset: ?>>, %panel: memref<?x32xf32, strided<[32, 1], offset: ?>>) attributes {nanokernel.target = "znver4"} {
  nanokernel.gemm ins(%lhs[m, k], %rhs[k, n] : memref<2x64xf32>, memref<64x32xf32>) outs(%out[m, n] : memref<2x32xf32>)
    pack %source into %panel : memref<?x32xf32, strided<[96, 1], offset: ?>>, memref<?x32xf32, strided<[32, 1], offset: ?>>
    plan #nanokernel.plan<target = "znver4", instruction = "fma.f32x16", block = 2x32, edges = masked, k_unroll = 2, prefetch = 7>
  return
}
