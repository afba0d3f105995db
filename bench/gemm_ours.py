"""The door from `bench gemm` to the compiler: C := op(A)·op(B) as text in, contender out.

A fill with zero and a product are one function:

    func.func @kernel(%a: memref<8x16xf32>, %b: memref<16x32xf32>, %c: memref<8x32xf32>) {
      %zero = arith.constant 0.0 : f32
      linalg.fill ins(%zero : f32) outs(%c : memref<8x32xf32>)
      linalg.matmul ins(%a, %b : …) outs(%c : …)
      …

Of narrow types a `nanokernel.gemm`, which says how integers are read, and rounds bf16 once:

    nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x16xbf16>, memref<16x32xbf16>)
      outs(%c[m, n] : memref<8x32xbf16>) from zero epilogue {
    ^bb0(%sum: f32):
      %rounded = arith.truncf %sum : f32 to bf16
      nanokernel.yield %rounded : bf16
    }

What is expected of a kernel besides what `ours` says: where sizes are dynamic, an argument's
pointer is followed by its sizes and its strides in elements, those that the kernel's `signature`
calls open; and `nkdsl.compile(…, threads=N)` makes a kernel that runs on several threads.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nkdsl.bench.gemm_problem import Operands
from nkdsl.bench.gemm_sets import PACKED
from nkdsl.bench.ours import gemm_op, generic_product, memref
from nkdsl.bench.peers.base import Availability, Unable
from nkdsl.bench.peers.engine import Made
from nkdsl.bench.problem import Row, Types, product_types
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
        text = mlir_text(operands.row, operands.types.name, dynamic=contract == DYNAMIC)
        with failures():
            kernel = compile_text(text, self._target, self._threads)
            if contract == PACKED:
                packed = _nkdsl().pack(operands.b, like=kernel)
                kernel = kernel.packed(packed)
                a, _, c = operands.pointers
                arguments: tuple[int, ...] = (a, packed.panels.ctypes.data, c)
            else:
                packed = None
                arguments = tuple(_arguments(kernel, operands, contract == DYNAMIC))
        return Made(bound(kernel, arguments, operands.row.flops, operands, packed))


def _nkdsl() -> Any:
    return importlib.import_module("nkdsl")


@contextmanager
def failures() -> Iterator[None]:
    """Whatever goes wrong in one row is that row's result; the rest of the run goes on.

    Raises:
        Unable: with the first line of the reason.
    """
    try:
        yield
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise Unable(f"{type(error).__name__}: {reason}") from error


def compile_text(text: str, target: str, threads: int) -> Any:
    """A kernel for some number of threads."""
    options = {"threads": threads} if threads > 1 else {}
    return _nkdsl().compile(text, target=target, **options)


def bound(kernel: Any, arguments: tuple[int, ...], flops: int, *keep: object) -> NativeContender:
    """A contender of a kernel's native entry, with the workspace that it needs."""
    workspace = aligned_bytes(kernel.workspace_bytes)
    scratch = (workspace.ctypes.data,) if kernel.workspace_bytes else ()
    owners = (kernel, workspace, *keep)
    plan = str(kernel.plan)
    return NativeContender("ours", kernel.address, (*arguments, *scratch), flops, plan, owners)


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
    types = product_types(dtype).stored
    a, b, c = (
        memref(("?", "?") if dynamic else shape, element)
        for shape, element in (
            (row.shape_a, types.lhs),
            (row.shape_b, types.rhs),
            (row.shape_c, types.out),
        )
    )
    maps, body = "", _narrow_product(row, types, (a, b, c))
    if not types.narrow:
        maps, body = _product(row, dtype, (a, b, c))
    return f"""{maps}func.func @kernel(%a: {a}, %b: {b}, %c: {c}) {{
  {body}
  return
}}
"""


def _product(row: Row, dtype: str, memrefs: tuple[str, str, str]) -> tuple[str, str]:
    """Map definitions and the ops."""
    a, b, c = memrefs
    operands = f"ins(%a, %b : {a}, {b}) outs(%c : {c})"
    maps, product = "", f"linalg.matmul {operands}"
    if row.transpose_a or row.transpose_b:
        maps, product = generic_product(row, dtype, operands)
    return (
        maps,
        f"""%zero = arith.constant 0.0 : {dtype}
  linalg.fill ins(%zero : {dtype}) outs(%c : {c})
  {product}""",
    )


def _narrow_product(row: Row, types: Types, memrefs: tuple[str, str, str]) -> str:
    """The op, and how its sums are rounded where they are."""
    indices = ("k, m" if row.transpose_a else "m, k", "n, k" if row.transpose_b else "k, n")
    product = f"{gemm_op(types, indices, memrefs)} from zero"
    if types.out == types.sums:
        return product
    return f"""{product} epilogue {{
  ^bb0(%sum: {types.sums.mlir}):
    %rounded = arith.truncf %sum : {types.sums.mlir} to {types.out.mlir}
    nanokernel.yield %rounded : {types.out.mlir}
  }}"""
