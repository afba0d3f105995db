// REQUIRES: mlir-opt
// RUN: nkdsl compile %s --target neoverse-n1 --emit=asm | filecheck %s --check-prefixes CHECK,NEON
// RUN: nkdsl compile %s --target neoverse-v2 --emit=asm | filecheck %s --check-prefixes CHECK,SVE

// One element of the left factor is multiplied with each register of the right one.
// CHECK-LABEL: matmul:
// CHECK:         ldr s[[A:[0-9]+]], [x0
// CHECK:         ldr q[[B:[0-9]+]], [
// CHECK:         fmla v{{[0-9]+}}.4s, v{{[0-9]+}}.4s, v{{[0-9]+}}.s[0]
// CHECK-NOT:     {{^\s*}}bl{{\s}}
// CHECK:         ret

// The last 3 columns are masked where the processor has masks, else loaded in parts.
// NEON-LABEL:  tail:
// NEON-NOT:      ld1w
// SVE-LABEL:   tail:
// SVE:           ld1w {{.*}}z{{[0-9]+}}.s {{.*}}p{{[0-7]}}/z, [
// SVE:           st1w {{.*}}z{{[0-9]+}}.s {{.*}}p{{[0-7]}}, [

func.func @matmul(%a: memref<4x64xf32>, %b: memref<64x24xf32>, %c: memref<4x24xf32>) {
  linalg.matmul ins(%a, %b : memref<4x64xf32>, memref<64x24xf32>) outs(%c : memref<4x24xf32>)
  return
}
func.func @tail(%a: memref<4x64xf32>, %b: memref<64x23xf32>, %c: memref<4x23xf32>) {
  linalg.matmul ins(%a, %b : memref<4x64xf32>, memref<64x23xf32>) outs(%c : memref<4x23xf32>)
  return
}
