"""nkdsl: machine code for matrix products, composed by a compiler.

```python
import nkdsl

k = nkdsl.compile("examples/matmul_512.mlir")  # or MLIR text, or an xDSL module
k(a, b, c)  # numpy arrays, in the function's order
print(k.explain())

c = nkdsl.matmul(a, b)  # arrays or tensors of any shape; kernels are made as they are needed
y = nkdsl.matmul(a, w, bias=v, activation="gelu", out_dtype="bf16")  # one kernel does it all
```

Importing this package is cheap: the compiler itself is loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nkdsl.errors import InvalidInput, NkdslError, ToolFailed, ToolNotFound, Unsupported

if TYPE_CHECKING:
    from nkdsl.api import Kernel, compile
    from nkdsl.packed import Packed, pack
    from nkdsl.products import gemm, matmul

__all__ = [
    "InvalidInput",
    "Kernel",
    "NkdslError",
    "Packed",
    "ToolFailed",
    "ToolNotFound",
    "Unsupported",
    "compile",
    "gemm",
    "matmul",
    "pack",
]

_PLACES = {
    "Kernel": "nkdsl.api",
    "Packed": "nkdsl.packed",
    "compile": "nkdsl.api",
    "gemm": "nkdsl.products",
    "matmul": "nkdsl.products",
    "pack": "nkdsl.packed",
}
"""The modules of what is loaded on first use."""


def __getattr__(name: str) -> Any:
    """Load the public functions on first use."""
    if name not in _PLACES:
        raise AttributeError(f"module 'nkdsl' has no attribute '{name}'")
    found = globals()[name] = getattr(import_module(_PLACES[name]), name)
    return found
