// Stock mlir-opt reads tile registers as intrinsics that name them, and LLVM calls these.

// REQUIRES: mlir-opt
// RUN: nkdsl-opt %s -p 'linalg-to-nanokernel,plan{target=sapphirerapids},block,compose,place-buffers,unroll,lower-to-upstream' | mlir-opt-22 | filecheck %s --check-prefix UPSTREAM
// RUN: nkdsl-opt %s -p 'linalg-to-nanokernel,plan{target=sapphirerapids},block,compose,place-buffers,unroll,lower-to-upstream' --print-op-generic | mlir-opt-22 --canonicalize --cse | filecheck %s --check-prefix UPSTREAM
// RUN: nkdsl compile %s --target sapphirerapids --emit=llvm | filecheck %s --check-prefix LLVM

// UPSTREAM: memref.global "private" constant @tile_configuration_16x64_16x64_16x64_16x64_16x64_16x64_16x64_16x64 : memref<64xi8> = dense<{{.*}}> {alignment = 64 : i64}

// UPSTREAM-LABEL: func.func @known(
// UPSTREAM: llvm.call_intrinsic "llvm.x86.ldtilecfg"(
// UPSTREAM: call @known_
// UPSTREAM: llvm.call_intrinsic "llvm.x86.tilerelease"()

// LLVM: @tile_configuration_{{[x_0-9]+}} = private constant [64 x i8] c"\01{{.*}}", align 64
// LLVM: define void @known(ptr %0, ptr %1, ptr %2, ptr %3)
// LLVM: call void @llvm.x86.ldtilecfg(ptr
// LLVM: call void @known_32x32
// LLVM: call void @llvm.x86.tilerelease()
// LLVM: define internal void @known_32x32
// LLVM: call void @llvm.x86.tileloadd64(i8 4, ptr
// LLVM: call void @llvm.x86.tdpbf16ps(i8 0, i8 4, i8 6)
// LLVM: call void @llvm.x86.tilestored64(i8 0, ptr
func.func @known(%a: memref<256x256xbf16>, %b: memref<256x256xbf16>, %c: memref<256x256xf32>) {
  linalg.matmul ins(%a, %b : memref<256x256xbf16>, memref<256x256xbf16>) outs(%c : memref<256x256xf32>)
  return
}

// UPSTREAM-LABEL: func.func @run_time(
// UPSTREAM: llvm.call_intrinsic "llvm.x86.ldtilecfg"(
// UPSTREAM: call @run_time_
func.func @run_time(%a: memref<?x?xi8>, %b: memref<?x?xi8>, %c: memref<?x?xi32>) {
  linalg.matmul ins(%a, %b : memref<?x?xi8>, memref<?x?xi8>) outs(%c : memref<?x?xi32>)
  return
}

// UPSTREAM-LABEL: func.func private @known_32x32
// UPSTREAM: scf.for
// UPSTREAM: llvm.call_intrinsic "llvm.x86.tdpbf16ps"(
