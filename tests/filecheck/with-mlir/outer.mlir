// Stock mlir-opt reads scalable vectors and intrinsics of Arm SME; LLVM enters and leaves the mode.

// REQUIRES: mlir-opt
// RUN: nkdsl-opt %s -p 'linalg-to-nanokernel,plan{target=armv9-sme},block,compose,place-buffers,unroll,lower-to-upstream' | mlir-opt-22 | filecheck %s --check-prefix UPSTREAM
// RUN: xdsl-opt %s -p 'linalg-to-nanokernel,plan{target=armv9-sme},block,compose,place-buffers,unroll,lower-to-upstream' --print-op-generic | mlir-opt-22 --canonicalize --cse | filecheck %s --check-prefix UPSTREAM
// RUN: nkdsl compile %s --target armv9-sme --emit=llvm | filecheck %s --check-prefix LLVM
// RUN: nkdsl compile %s --target armv9-sme --emit=asm | filecheck %s --check-prefix CODE

// UPSTREAM-LABEL: func.func @known(
// UPSTREAM: call @known_

// LLVM: define void @known(ptr %0, ptr %1, ptr %2, ptr %3)
// LLVM: call void @known_
// LLVM: define internal void @known_
// LLVM: call <vscale x 4 x float> @llvm.masked.load.nxv4f32
// LLVM: call void @llvm.aarch64.sme.mopa.nxv4f32(i32 0,
// LLVM: attributes #{{[0-9]+}} = { {{.*}}"aarch64_new_za" "aarch64_pstate_sm_body" "frame-pointer"="all"

// CODE-LABEL: known:
// CODE-NOT: smstart
// CODE: bl known_
// CODE: smstart za
// CODE-NEXT: smstart sm
// CODE-COUNT-4: fmopa
// CODE-NOT: fmopa
// CODE: smstop sm
// CODE-NEXT: smstop za
// CODE: .hidden __arm_tpidr2_save
func.func @known(%a: memref<256x256xf32>, %b: memref<256x256xf32>, %c: memref<256x256xf32>) {
  linalg.matmul ins(%a, %b : memref<256x256xf32>, memref<256x256xf32>) outs(%c : memref<256x256xf32>)
  return
}

// UPSTREAM-LABEL: func.func @run_time(
// UPSTREAM: call @run_time_
func.func @run_time(%a: memref<?x?xi8>, %b: memref<?x?xi8>, %c: memref<?x?xi32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<?x?xi8>, memref<?x?xi8>) outs(%c[m, n] : memref<?x?xi32>)
  return
}

// UPSTREAM-LABEL: func.func private @known_
// UPSTREAM: llvm.call_intrinsic "llvm.aarch64.sme.mopa.nxv4f32"(
// UPSTREAM-LABEL: func.func private @run_time_
// UPSTREAM: llvm.call_intrinsic "llvm.aarch64.sme.smopa.wide.nxv16i8"(
