// RUN: xdsl-opt %s -p linalg-to-nanokernel --verify-diagnostics | filecheck %s

// The reason is the fill's own.
// CHECK: linalg.fill is left over: a fill is folded only when it writes zero to the result of a product after it, and nothing between may use that result
func.func @alone(%c: memref<8x6xf32>) {
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%c : memref<8x6xf32>)
  return
}
