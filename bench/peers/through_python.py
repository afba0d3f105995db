"""Libraries that are called through Python: oneDNN by way of torch, and XLA by way of JAX.

Both make a new matrix for every answer. Their memory comes from the heap, which the environment
tells to keep what it has, so that no call pays for fresh pages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nkdsl.bench.gemm_problem import Operands
from nkdsl.bench.gemm_sets import PACKED
from nkdsl.bench.peers.base import Availability, Unable
from nkdsl.bench.peers.engine import Made, large_enough, plain_only
from nkdsl.bench.timing import PythonContender


class OneDnnEngine:
    """oneDNN, by torch's operator for a layer without bias."""

    def __init__(self) -> None:
        """Nothing is loaded before `availability`."""
        self._torch: Any = None

    def availability(self) -> Availability:
        """Import torch."""
        try:
            import torch
        except (ImportError, OSError) as error:
            return Availability(False, f"no torch: {error}")
        if not torch.backends.mkldnn.is_available():
            return Availability(False, f"torch {torch.__version__} holds no oneDNN")
        self._torch = torch
        lines = torch.__config__.show().splitlines()
        found = [line for line in lines if "MKL-DNN" in line]
        name = found[0].partition(" v")[2].partition(" ")[0] if found else "of unknown version"
        return Availability(True, f"oneDNN {name} in torch {torch.__version__}")

    def make(self, operands: Operands, contract: str) -> Made:
        """Its product with the weights as they are, or reordered beforehand."""
        torch, row = self._torch, operands.row
        if torch is None:
            raise Unable("no torch")
        if operands.element.name != "f32":
            raise Unable(f"oneDNN has no products of {operands.element.name} on CPUs")
        large_enough(operands)
        torch.set_grad_enabled(False)
        a, b = torch.from_numpy(operands.a), torch.from_numpy(operands.b)
        a = a.t() if row.transpose_a else a
        # The weights of a layer are stored n×k: B as it is, or its transpose as a view.
        weights = b if row.transpose_b else b.t()
        detail = "linear, plain weights"
        if contract == PACKED:
            reorder = torch.ops.mkldnn._reorder_linear_weight
            weights = reorder(weights.contiguous(), row.m)
            detail = "linear, weights reordered"
        linear = torch.ops.mkldnn._linear_pointwise

        def compute() -> Any:
            return linear(a, weights, None, "none", [], "")

        return _made("onednn", compute, operands, detail)


class JaxEngine:
    """XLA for CPUs, by JAX."""

    def __init__(self) -> None:
        """Nothing is loaded before `availability`."""
        self._jax: Any = None

    def availability(self) -> Availability:
        """Import JAX."""
        try:
            import jax
        except (ImportError, OSError) as error:
            return Availability(False, f"no jax: {error}")
        jax.config.update("jax_enable_x64", True)
        jax.config.update("jax_default_matmul_precision", "highest")
        self._jax = jax
        return Availability(True, f"JAX {jax.__version__}")

    def make(self, operands: Operands, contract: str) -> Made:
        """A compiled product; operands lie in memory of XLA's own."""
        plain_only(contract, "JAX")
        jax, row = self._jax, operands.row
        if jax is None:
            raise Unable("no jax")
        large_enough(operands)

        def product(a: Any, b: Any) -> Any:
            return (a.T if row.transpose_a else a) @ (b.T if row.transpose_b else b)

        compiled = jax.jit(product)
        a, b = jax.device_put(operands.a), jax.device_put(operands.b)

        def compute() -> Any:
            return compiled(a, b).block_until_ready()

        return _made("jax", compute, operands, "jit of a dot", calling_thread=False)


def _made(
    name: str,
    compute: Callable[[], Any],
    operands: Operands,
    detail: str,
    *,
    calling_thread: bool = True,
) -> Made:
    """A contender that keeps its last answer."""
    last: list[Any] = [None]

    def call() -> None:
        # The answer before last is given back first, so that its memory serves again.
        last[0] = None
        last[0] = compute()

    def deliver() -> None:
        np.copyto(operands.c, np.asarray(last[0]))

    contender = PythonContender(name, call, operands.row.flops, detail)
    return Made(contender, deliver, calling_thread)
