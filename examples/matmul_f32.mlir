// C += A B of ragged sizes, in f32: on any processor, and in tiles of Arm SME where there are some.
//
//   nkdsl run examples/matmul_f32.mlir
//   nkdsl run examples/matmul_f32.mlir --target armv9-sme --emulate
//   nkdsl compile examples/matmul_f32.mlir --target armv9-sme --emit=asm

func.func @matmul(%a: memref<150x90xf32>, %b: memref<90x210xf32>, %c: memref<150x210xf32>) {
  linalg.matmul ins(%a, %b : memref<150x90xf32>, memref<90x210xf32>)
                outs(%c : memref<150x210xf32>)
  return
}
