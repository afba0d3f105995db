// C += A·B in double precision. The same passes, another instruction of the same target.

func.func @matmul(%a: memref<192x256xf64>, %b: memref<256x192xf64>, %c: memref<192x192xf64>) {
  linalg.matmul ins(%a, %b : memref<192x256xf64>, memref<256x192xf64>)
                outs(%c : memref<192x192xf64>)
  return
}
