"""The door from `bench gemm` to the compiler: C := op(A)·op(B) as text in, contender out.

A fill with zero and a product are one function:

    func.func @kernel(%a: memref<8x16xf32>, %b: memref<16x32xf32>, %c: memref<8x32xf32>) {
      %zero = arith.constant 0.0 : f32
      linalg.fill ins(%zero : f32) outs(%c : memref<8x32xf32>)
      linalg.matmul ins(%a, %b : …) outs(%c : …)
      …

What is expected of a kernel besides what `ours` says: where sizes are dynamic, an argument's
pointer is followed by its sizes and its strides in elements, those that the kernel's `signature`
calls open; and `nkdsl.compile(…, threads=N)` makes a kernel that runs on several threads.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from nkdsl.bench.gemm_problem import Operands
from nkdsl.bench.gemm_sets import PACKED
from nkdsl.bench.ours import generic_product
from nkdsl.bench.peers.base import Availability, Unable
from nkdsl.bench.peers.engine import Made
from nkdsl.bench.problem import Row
from nkdsl.bench.timing import NativeContender
from nkdsl.runtime.workspace import aligned_bytes

ENGINE = "ours"
DYNAMIC = "dynamic"
"""A contract beside those of the peers: a kernel that learns every size when it is called."""


class OursEngine:
    """This compiler."""

    def __init__(self, target: str, threads: int) -> None:
        """Compile for a target and a number of threads."""
        self._target, self._threads = target, threads

    def availability(self) -> Availability:
        """Always here."""
        return Availability(True, f"for {self._target}")

    def make(self, operands: Operands, contract: str) -> Made:
        """A kernel on operands.

        Raises:
            Unable: the compiler refuses or fails.
        """
        nkdsl: Any = importlib.import_module("nkdsl")
        text = mlir_text(operands.row, operands.element.name, dynamic=contract == DYNAMIC)
        options = {"threads": self._threads} if self._threads > 1 else {}
        # Whatever goes wrong in one row is that row's result; the rest of the run goes on.
        try:
            kernel = nkdsl.compile(text, target=self._target, **options)
            if contract == PACKED:
                packed = nkdsl.pack(operands.b, like=kernel)
                kernel = kernel.packed(packed)
                a, _, c = operands.pointers
                arguments: tuple[int, ...] = (a, packed.panels.ctypes.data, c)
            else:
                packed = None
                arguments = tuple(_arguments(kernel, operands, contract == DYNAMIC))
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise Unable(f"{type(error).__name__}: {reason}") from error
        workspace = aligned_bytes(kernel.workspace_bytes)
        scratch = (workspace.ctypes.data,) if kernel.workspace_bytes else ()
        keep = (kernel, operands, workspace, packed)
        return Made(
            NativeContender(
                ENGINE,
                kernel.address,
                (*arguments, *scratch),
                operands.row.flops,
                str(kernel.plan),
                keep,
            )
        )


def _arguments(kernel: Any, operands: Operands, dynamic: bool) -> Iterator[int]:
    """What the native entry takes, but for the workspace."""
    if not dynamic:
        yield from operands.pointers
        return
    matrices = (operands.a, operands.b, operands.c)
    for matrix, parameter in zip(matrices, kernel.signature.parameters, strict=True):
        yield matrix.ctypes.data
        yield from (matrix.shape[d] for d in parameter.open_sizes)
        yield from (matrix.strides[d] // matrix.itemsize for d in parameter.open_strides)


def mlir_text(row: Row, dtype: str, *, dynamic: bool = False) -> str:
    """The product as a module with one function `@kernel(%a, %b, %c)`."""
    a, b, c = (
        f"memref<{'?x?' if dynamic else 'x'.join(str(size) for size in shape)}x{dtype}>"
        for shape in (row.shape_a, row.shape_b, row.shape_c)
    )
    operands = f"ins(%a, %b : {a}, {b}) outs(%c : {c})"
    maps, product = "", f"linalg.matmul {operands}"
    if row.transpose_a or row.transpose_b:
        maps, product = generic_product(row, dtype, operands)
    return f"""{maps}func.func @kernel(%a: {a}, %b: {b}, %c: {c}) {{
  %zero = arith.constant 0.0 : {dtype}
  linalg.fill ins(%zero : {dtype}) outs(%c : {c})
  {product}
  return
}}
"""
