"""Pack a factor once, for many products with it: the weights of a layer, say.

python examples/prepacked.py
"""

import time

import numpy as np

import nkdsl

SOURCE = """
func.func @layer(%x: memref<128x1024xf32>, %w: memref<1024x4096xf32>, %y: memref<128x4096xf32>) {
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%y : memref<128x4096xf32>)
  linalg.matmul ins(%x, %w : memref<128x1024xf32>, memref<1024x4096xf32>)
                outs(%y : memref<128x4096xf32>)
  return
}
"""

kernel = nkdsl.compile(SOURCE)

random = np.random.default_rng(0)
x = random.standard_normal((128, 1024), dtype=np.float32)
weights = random.standard_normal((1024, 4096), dtype=np.float32)
y = np.zeros((128, 4096), dtype=np.float32)

packed = nkdsl.pack(weights, like=kernel)  # once
print(packed)
print("its kernel in C:", kernel.packed(packed).c_declaration)
kernel(x, packed, y)  # as often as you like
print("largest difference to numpy:", np.abs(y - x @ weights).max())


def seconds(factor: np.ndarray | nkdsl.Packed) -> float:
    """The time of one call."""
    start = time.perf_counter()
    kernel(x, factor, y)
    return time.perf_counter() - start


# In turns, since the speed of a shared machine changes.
ratios = [seconds(weights) / seconds(packed) for _ in range(30)]
print(f"{np.median(ratios):.2f} times as fast as with the array")
