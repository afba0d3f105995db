"""nkdsl: machine code for matrix products, composed by a compiler.

```python
import nkdsl

k = nkdsl.compile("examples/matmul_512.mlir")  # or MLIR text, or an xDSL module
k(a, b, c)  # numpy arrays, in the function's order
print(k.explain())
```

Importing this package is cheap: the compiler itself is loaded on first use.
"""

from typing import TYPE_CHECKING, Any

from nkdsl.errors import InvalidInput, NkdslError, ToolFailed, ToolNotFound, Unsupported

if TYPE_CHECKING:
    from nkdsl.api import Kernel, compile

__all__ = [
    "InvalidInput",
    "Kernel",
    "NkdslError",
    "ToolFailed",
    "ToolNotFound",
    "Unsupported",
    "compile",
]


def __getattr__(name: str) -> Any:
    """Load the public functions on first use."""
    if name in ("Kernel", "compile"):
        from nkdsl import api

        return getattr(api, name)
    raise AttributeError(f"module 'nkdsl' has no attribute '{name}'")
