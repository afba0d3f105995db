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
from nkdsl.bench.mlp_problem import MlpOperands
from nkdsl.bench.peers.base import Availability, Unable
from nkdsl.bench.peers.engine import Made, large_enough, plain_only
from nkdsl.bench.problem import Array
from nkdsl.bench.timing import PythonContender
from nkdsl.types import element_type

BF16 = element_type("bf16").dtype


class WithTorch:
    """What engines by way of torch have in common."""

    def __init__(self) -> None:
        """Nothing is loaded before `availability`."""
        self._torch: Any = None

    @property
    def torch(self) -> Any:
        """torch, which shall keep no gradients.

        Raises:
            Unable: it is not here.
        """
        if self._torch is None:
            raise Unable("no torch")
        self._torch.set_grad_enabled(False)
        return self._torch

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


class OneDnnEngine(WithTorch):
    """oneDNN, by torch's operator for a layer without bias."""

    def make(self, operands: Operands, contract: str) -> Made:
        """Its product with the weights as they are, or reordered beforehand."""
        torch, row = self.torch, operands.row
        if operands.types.name == "f64":
            raise Unable("oneDNN has no products of f64 on CPUs")
        large_enough(operands)
        a, b = to_torch(torch, operands.a), to_torch(torch, operands.b)
        a = a.t() if row.transpose_a else a
        if operands.types.lhs.is_integer:
            plain_only(contract, "torch's product of integers")
            right = b.t() if row.transpose_b else b
            return made("onednn", lambda: torch._int_mm(a, right), operands, "torch._int_mm")
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

        return made("onednn", compute, operands, detail)


class WithJax:
    """What engines by way of JAX have in common."""

    def __init__(self) -> None:
        """Nothing is loaded before `availability`."""
        self._jax: Any = None

    @property
    def jax(self) -> Any:
        """JAX.

        Raises:
            Unable: it is not here.
        """
        if self._jax is None:
            raise Unable("no jax")
        return self._jax

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


class JaxEngine(WithJax):
    """XLA for CPUs, by JAX."""

    def make(self, operands: Operands, contract: str) -> Made:
        """A compiled product; operands lie in memory of XLA's own."""
        plain_only(contract, "JAX")
        jax, row = self.jax, operands.row
        large_enough(operands)

        sums, out = operands.types.sums.dtype, operands.types.out.dtype

        def product(a: Any, b: Any) -> Any:
            left, right = a.T if row.transpose_a else a, b.T if row.transpose_b else b
            return jax.numpy.matmul(left, right, preferred_element_type=sums).astype(out)

        compiled = jax.jit(product)
        a, b = jax.device_put(operands.a), jax.device_put(operands.b)

        def compute() -> Any:
            return compiled(a, b).block_until_ready()

        return made("jax", compute, operands, "jit of a dot", calling_thread=False)


def to_torch(torch: Any, array: Array) -> Any:
    """A tensor on the memory of an array; numpy and torch share no bf16."""
    if array.dtype != BF16:
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)


def from_torch(tensor: Any) -> Array:
    """An array on the memory of a tensor."""
    import torch

    if tensor.dtype != torch.bfloat16:
        return np.asarray(tensor)
    return np.asarray(tensor.view(torch.int16)).view(BF16)


def made(
    name: str,
    compute: Callable[[], Any],
    operands: Operands | MlpOperands,
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
        answer = last[0]
        of_torch = type(answer).__module__.startswith("torch")
        np.copyto(operands.c, from_torch(answer) if of_torch else np.asarray(answer))

    contender = PythonContender(name, call, operands.row.flops, detail)
    return Made(contender, deliver, calling_thread)
