"""Compile a product from Python, call it on numpy arrays, and look at what became of it.

python examples/call_from_python.py
"""

import numpy as np

import nkdsl

SOURCE = """
func.func @matmul(%a: memref<100x300xf32>, %b: memref<300x200xf32>, %c: memref<100x200xf32>) {
  linalg.matmul ins(%a, %b : memref<100x300xf32>, memref<300x200xf32>)
                outs(%c : memref<100x200xf32>)
  return
}
"""

kernel = nkdsl.compile(SOURCE)

random = np.random.default_rng(0)
a = random.standard_normal((100, 300), dtype=np.float32)
b = random.standard_normal((300, 200), dtype=np.float32)
c = np.zeros((100, 200), dtype=np.float32)
kernel(a, b, c)  # C += A·B, in place

print("largest difference to numpy:", np.abs(c - a @ b).max())
print("in C:", kernel.c_declaration)
print(kernel.explain())
print(kernel.ir("composed"))
