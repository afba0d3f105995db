"""The door from the benchmarks to the compiler under test: text in, contender out.

A row becomes MLIR text, the text goes to `nkdsl.compile`, and the kernel's native entry point
becomes a contender, checked like any peer. Plain products are `linalg.matmul`; transposed and
batch-reduce products are `linalg.generic` with the maps that say so, for example B stored n×k:

    #a = affine_map<(m, n, k) -> (m, k)>
    #b = affine_map<(m, n, k) -> (n, k)>
    #c = affine_map<(m, n, k) -> (m, n)>
    linalg.generic {indexing_maps = [#a, #b, #c],
                    iterator_types = ["parallel", "parallel", "reduction"]}
      ins(%a, %b : memref<4x8xf32>, memref<16x8xf32>) outs(%c : memref<4x16xf32>) { … }

Products of narrow types take a packed B, which `nanokernel.gemm` says in its indices:

    nanokernel.gemm ins(%a[m, k], %b[k floordiv 4, n, k mod 4] : memref<4x8xi8>, memref<2x16x4xi8>)
      unsigned lhs outs(%c[m, n] : memref<4x16xi32>)

What is expected of the kernel object: `address`, a native entry `void f(ptr a, ptr b, ptr c)`, with
a fourth pointer to `workspace_bytes` bytes of scratch memory where there are any; `plan`, which
kernel it is, in one line; `explain()`, the same at length.
"""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from nkdsl.bench.peers.base import Unable, checked
from nkdsl.bench.problem import Problem, Row, Types, product_types
from nkdsl.bench.timing import NativeContender
from nkdsl.runtime.workspace import aligned_bytes
from nkdsl.types import ElementType

NAME = "ours"
HOST = "host"


class Kernel(Protocol):
    """What the compiler returns, as far as the benchmarks use it."""

    @property
    def address(self) -> int:
        """Native entry point."""

    @property
    def workspace_bytes(self) -> int:
        """Scratch memory that a call needs."""

    @property
    def plan(self) -> object:
        """Which kernel this is; its string form goes into the report."""

    def explain(self) -> str:
        """Why this plan."""


class Compile(Protocol):
    """The signature of `nkdsl.compile` that is relied on."""

    def __call__(self, source: str, *, target: str) -> Kernel:
        """Compile MLIR text for a target."""


def compile_ours(problem: Problem, target: str, name: str = NAME) -> NativeContender:
    """Compile a problem's row with nkdsl, bind it to the problem's operands, and check it once.

    Args:
        problem: the row, its element type and its operands.
        target: a target's name as `nkdsl.compile` takes it.
        name: what the contender is called in the report.

    Raises:
        Unable: the compiler refuses or fails, or its kernel is wrong; with the reason.
    """
    try:
        kernel = _compiler()(mlir_text(problem.row, problem.types.name), target=target)
    except Unable:
        raise
    # Whatever goes wrong in one row is that row's result; the rest of the run goes on.
    except Exception as error:
        raise Unable(f"{type(error).__name__}: {error}") from error
    return bind(kernel, problem, name)


def bind(kernel: Kernel, problem: Problem, name: str) -> NativeContender:
    """A kernel on a problem's operands, as a contender that was checked once.

    Raises:
        Unable: its answer is wrong.
    """
    workspace = aligned_bytes(kernel.workspace_bytes)
    scratch = (workspace.ctypes.data,) if kernel.workspace_bytes else ()
    contender = NativeContender(
        name,
        kernel.address,
        (*problem.pointers, *scratch),
        problem.row.flops,
        str(kernel.plan),
        (kernel, problem, workspace),
    )
    return checked(problem, contender)


def _compiler() -> Compile:
    try:
        return cast(Compile, importlib.import_module("nkdsl").compile)
    except (ImportError, AttributeError) as error:
        raise Unable(f"nkdsl.compile is not there: {error}") from error


def mlir_text(row: Row, dtype: str) -> str:
    """The row's product as a module with one function `@kernel(%a, %b, %c)` on static memrefs.

    Raises:
        Unsupported: no such types are benchmarked.
    """
    types = product_types(dtype)
    a = memref(row.shape_a, types.lhs)
    b = memref(row.packed_b(types.group), types.rhs)
    c = memref(row.shape_c, types.out)
    operands = f"ins(%a, %b : {a}, {b}) outs(%c : {c})"
    maps, body = "", f"linalg.matmul {operands}"
    if types.narrow:
        batch, k = ("k0, ", "k1") if row.batch > 1 else ("", "k")
        groups = f"{k} floordiv {types.group}, n, {k} mod {types.group}"
        body = gemm_op(types, (f"{batch}m, {k}", f"{batch}{groups}"), (a, b, c))
    elif row != Row(row.m, row.n, row.k):
        maps, body = generic_product(row, dtype, operands)
    return f"""{maps}func.func @kernel(%a: {a}, %b: {b}, %c: {c}) {{
  {body}
  return
}}
"""


def gemm_op(
    types: Types,
    indices: tuple[str, str],
    memrefs: tuple[str, str, str],
    names: tuple[str, str, str] = ("%a", "%b", "%c"),
) -> str:
    """`nanokernel.gemm` of two factors at some indices, into a matrix m×n."""
    a, b, c = (f"{name}[{at}]" for name, at in zip(names, (*indices, "m, n"), strict=True))
    signs = zip(("lhs", "rhs"), (types.lhs, types.rhs), strict=True)
    found = [side for side, element in signs if element.is_unsigned]
    unsigned = f" unsigned {'both' if len(found) == 2 else found[0]}" if found else ""
    return (
        f"nanokernel.gemm ins({a}, {b} : {memrefs[0]}, {memrefs[1]}){unsigned}"
        f" outs({c} : {memrefs[2]})"
    )


def generic_product(row: Row, dtype: str, operands: str) -> tuple[str, str]:
    """Map definitions and the op; dimensions in the order of upstream's named ops."""
    batch = "b, " if row.batch > 1 else ""
    reduction = ['"reduction"'] if row.batch > 1 else []
    iterators = ", ".join([*reduction, '"parallel"', '"parallel"', '"reduction"'])
    results = (
        batch + ("k, m" if row.transpose_a else "m, k"),
        batch + ("n, k" if row.transpose_b else "k, n"),
        "m, n",
    )
    maps = "".join(
        f"#{name} = affine_map<({batch}m, n, k) -> ({result})>\n"
        for name, result in zip("abc", results, strict=True)
    )
    body = f"""linalg.generic {{indexing_maps = [#a, #b, #c], iterator_types = [{iterators}]}}
      {operands} {{
  ^bb0(%x: {dtype}, %y: {dtype}, %z: {dtype}):
    %p = arith.mulf %x, %y : {dtype}
    %s = arith.addf %z, %p : {dtype}
    linalg.yield %s : {dtype}
  }}"""
    return maps, body


def memref(shape: tuple[int | str, ...], element: ElementType) -> str:
    """The type of a matrix in MLIR."""
    return f"memref<{'x'.join(str(size) for size in (*shape, element.mlir))}>"
