"""The peers of networks: torch as it is, torch compiled, JAX, and libxsmm in a loop over tiles.

Weights are plain, inputs × outputs, and are arguments; with the contract `packed` they are
constants, which torch's compiler then lays out beforehand (its option `freezing`). libxsmm takes
them in tiles, so with that contract alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from nkdsl.bench.gemm_sets import PACKED
from nkdsl.bench.mlp_problem import SCALE, MlpOperands, limits
from nkdsl.bench.peers.base import Availability, Unable
from nkdsl.bench.peers.engine import Engine, Made, plain_only
from nkdsl.bench.peers.libxsmm_layers import TILES, LibxsmmLayersEngine
from nkdsl.bench.peers.through_python import WithJax, WithTorch, made, to_torch
from nkdsl.types import element_type

S8 = element_type("s8")


def layer(torch: Any, h: Any, weight: Any, bias: Any | None) -> Any:
    """One layer in torch's words."""
    if h.dtype == torch.int8:
        scaled = torch._int_mm(h, weight).float().mul_(SCALE)
        biased = scaled if bias is None else scaled.add_(bias).relu_()
        return biased.round_().clamp_(*limits(S8)).to(torch.int8)
    return torch.mm(h, weight) if bias is None else torch.addmm(bias, h, weight).relu_()


class TorchEngine(WithTorch):
    """torch, one operator after the other."""

    def make(self, operands: MlpOperands, contract: str) -> Made:
        """A product with its bias, and relu in place."""
        plain_only(contract, "torch without its compiler")
        torch = self.torch
        x, weights, biases = tensors(torch, operands)

        def compute() -> Any:
            h = x
            for weight, bias in zip(weights, biases, strict=True):
                h = layer(torch, h, weight, bias)
            return h

        return made("torch", compute, operands, "one operator after the other")


class TorchCompileEngine(WithTorch):
    """torch's compiler at its highest setting."""

    def availability(self) -> Availability:
        """Import torch, and look for the C++ compiler that its compiler calls."""
        if not any(shutil.which(name) for name in ("g++", "clang++")):
            return Availability(False, "no C++ compiler: apt-get install g++")
        return super().availability()

    def make(self, operands: MlpOperands, contract: str) -> Made:
        """One compiled function of all layers."""
        torch = self.torch
        x, weights, biases = tensors(torch, operands)
        import torch._inductor.config as inductor

        inductor.freezing = contract == PACKED

        class Network(torch.nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                for number, weight in enumerate(weights):
                    self.register_buffer(f"weight{number}", weight)
                    self.register_buffer(f"bias{number}", biases[number])

            def forward(self, h: Any) -> Any:
                for number in range(len(weights)):
                    weight, bias = (getattr(self, f"{what}{number}") for what in ("weight", "bias"))
                    h = layer(torch, h, weight, bias)
                return h

        torch._dynamo.reset()
        compiled = torch.compile(Network().eval(), mode="max-autotune")
        # Whatever the compiler runs into is this row's result.
        try:
            compiled(x)
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise Unable(f"torch.compile: {type(error).__name__}: {reason}") from error
        detail = "max-autotune, weights frozen" if contract == PACKED else "max-autotune"
        return made("torch.compile", lambda: compiled(x), operands, detail)


def tensors(torch: Any, operands: MlpOperands) -> tuple[Any, list[Any], list[Any]]:
    """The input, and a weight and a bias of each layer, None where there is no bias."""
    stored = operands.types.lhs
    kind = np.dtype(np.float32) if stored.is_integer else stored.dtype
    weights = [to_torch(torch, weight) for weight in operands.weights]
    biases = [to_torch(torch, bias.astype(kind)) for bias in operands.biases]
    return to_torch(torch, operands.x), weights, biases or [None] * len(weights)


class JaxMlpEngine(WithJax):
    """XLA for CPUs, by JAX."""

    def make(self, operands: MlpOperands, contract: str) -> Made:
        """One compiled function of all layers."""
        plain_only(contract, "JAX")
        jax = self.jax
        numpy, types = jax.numpy, operands.types
        stored, sums = types.lhs, types.sums.dtype

        def network(h: Any, weights: Any, biases: Any) -> Any:
            for number, weight in enumerate(weights):
                h = numpy.matmul(h, weight, preferred_element_type=sums)
                h = h.astype(numpy.float32) * np.float32(SCALE) if stored.is_integer else h
                h = numpy.maximum(h + biases[number], 0) if biases else h
                h = numpy.clip(numpy.round(h), *limits(stored)) if stored.is_integer else h
                h = h.astype(stored.dtype)
            return h

        compiled = jax.jit(network)
        x, weights, biases = jax.device_put((operands.x, operands.weights, operands.biases))

        def compute() -> Any:
            return compiled(x, weights, biases).block_until_ready()

        return made("jax", compute, operands, "jit of all layers", calling_thread=False)


ENGINES: dict[str, Callable[[], Engine]] = {
    "mlp-torch": TorchEngine,
    "mlp-torch-compile": TorchCompileEngine,
    "mlp-jax": JaxMlpEngine,
    **{f"mlp-libxsmm-{tile}": partial(LibxsmmLayersEngine, tile) for tile in TILES},
}
"""Every engine of networks but ours."""
