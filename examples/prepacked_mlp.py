"""Pack the weights of a whole network once: three layers, one function, one call.

python examples/prepacked_mlp.py
"""

import time
from pathlib import Path

import ml_dtypes
import numpy as np

import nkdsl

kernel = nkdsl.compile(Path(__file__).with_name("mlp_bf16.mlir"))
print(kernel.c_declaration)

random = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    """Random numbers, so small that results stay near one."""
    return (random.standard_normal(shape) / shape[-1] ** 0.5).astype(ml_dtypes.bfloat16)


x, y = normal(256, 1024), np.zeros((256, 1024), ml_dtypes.bfloat16)
weights = [normal(1024, 1024) for _ in range(3)]
biases = [normal(1024) for _ in range(3)]

# Of several products say which argument it is: by position, or by name where the source has one.
packed = [nkdsl.pack(w, like=kernel, argument=1 + 2 * i) for i, w in enumerate(weights)]
print(*packed, sep="\n")
reader = kernel.packed(*packed)  # compiles it now, not in the first call
print("; ".join(dict.fromkeys(reader.plans)))


def call(factors: list[np.ndarray | nkdsl.Packed]) -> np.ndarray:
    """The network's results; any of the weights may be packed, the others are arrays."""
    (w0, w1, w2), (b0, b1, b2) = factors, biases
    kernel(x, w0, b0, w1, b1, w2, b2, y)
    return y.astype(np.float32)


def seconds(factors: list[np.ndarray | nkdsl.Packed]) -> float:
    """The time of one call."""
    start = time.perf_counter()
    call(factors)
    return time.perf_counter() - start


print("largest difference to arrays:", np.abs(call([*packed]) - call([*weights])).max())
call([weights[0], packed[1], weights[2]])  # another mixture, compiled when it is first called

# In turns, since the speed of a shared machine changes.
ratios = [seconds([*weights]) / seconds([*packed]) for _ in range(30)]
print(f"{np.median(ratios):.2f} times as fast as with arrays")
