"""Multiply numpy arrays: any shape, any strides, a kernel for each class of them.

python examples/matmul_numpy.py
"""

from timeit import repeat

import numpy as np

import nkdsl
from nkdsl.products import kernels

random = np.random.default_rng(0)
a = random.standard_normal((300, 200), dtype=np.float32)
b = random.standard_normal((200, 500), dtype=np.float32)

c = nkdsl.matmul(a, b)  # as numpy.matmul; the first product of a class compiles its kernel
print("largest difference to numpy:", np.abs(c - a @ b).max())

nkdsl.matmul(a[:7, 3:99], b[3:99], out=c[:7])  # views are read and written where they lie
nkdsl.matmul(b.T, a.T)  # transposes too
nkdsl.matmul(random.standard_normal((8, 20, 200), dtype=np.float32), b)  # and batches
nkdsl.gemm(0.5, a, b, 1.0, c)  # C := 0.5·A·B + C, as BLAS; always in place

for shape_class, kernel in kernels().items():
    print(shape_class)
    print(f"    {kernel.plan}")


def microseconds(function, *arguments: np.ndarray, count: int, **options: object) -> float:
    """The time of a call, at its best."""
    times = repeat(lambda: function(*arguments, **options), number=count, repeat=7)
    return min(times) / count * 1e6


for size, count in ((4, 50_000), (32, 20_000), (128, 1000), (1024, 3)):
    x = random.standard_normal((size, size), dtype=np.float32)
    out = np.empty_like(x)
    ours = microseconds(nkdsl.matmul, x, x, out=out, threads=1, count=count)
    theirs = microseconds(np.matmul, x, x, out=out, count=count)
    print(f"{size}x{size}x{size}: {ours:.2f} µs on one thread, numpy {theirs:.2f} µs")
