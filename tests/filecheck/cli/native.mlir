// REQUIRES: mlir-opt
// RUN: nkdsl compile %s --target znver5 --emit=llvm | filecheck %s --check-prefix LLVM
// RUN: nkdsl compile %s --target znver5 --emit=asm | filecheck %s --check-prefix ASM
// RUN: nkdsl compile %s --target x86-64-v3 --emit=asm | filecheck %s --check-prefix NARROW

// One pointer a memref, and the name of the function.
// LLVM: define void @matmul(ptr %0, ptr %1, ptr %2)

// ASM-LABEL: matmul:
// ASM: vfmadd{{[0-9]+}}ps {{.*}}%zmm
// ASM: retq

// NARROW-LABEL: matmul:
// NARROW-NOT: %zmm
// NARROW: vfmadd{{[0-9]+}}ps {{.*}}%ymm
// NARROW: retq

func.func @matmul(%a: memref<8x32xf32>, %b: memref<32x48xf32>, %c: memref<8x48xf32>) {
  linalg.matmul ins(%a, %b : memref<8x32xf32>, memref<32x48xf32>) outs(%c : memref<8x48xf32>)
  return
}
