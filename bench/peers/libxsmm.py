"""libxsmm: small matrix products by a JIT of its own, called at its best.

libxsmm is column-major and vectorizes over its m. Row-major C += A·B is column-major
C^T += B^T·A^T on the same memory, so our B is its first operand and our n its vector dimension:

    ours (row-major)          libxsmm (column-major)
    C[m×n] += A[m×k]·B[k×n]   dispatch(m=n, n=m, k, lda=n, ldb=k, ldc=n); kernel(B, A, C)

Our packed B of narrow types is what libxsmm calls its first operand in VNNI layout. It wants K in
whole groups: where K is not, A is copied beforehand into rows that zeros fill up.

The other orientation, with m in the vectors, would need a C^T in memory. Where C is a column
(n = 1) it is its own transpose, so both are tried. Batch-reduce products have a strided form, one
with an unrolling hint, and one by arrays of addresses. Every form that libxsmm will generate is
checked and the fastest of those that are right is timed; what its JIT refuses (some transposed
operands) is reported. Kernels are dispatched beforehand: what is timed is the bare kernel through
its own pointer.

The library is the shared one that `NKDSL_LIBXSMM` names (libxsmm 1.x or 2.x), else one that the
system's C compiler links from Debian's static libxsmm-dev into the user's cache.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nkdsl.bench.gemm_problem import Operands
from nkdsl.bench.memory import reserve
from nkdsl.bench.peers.base import Availability, Unable, checked
from nkdsl.bench.peers.compiled import shared_library, static_library
from nkdsl.bench.peers.engine import Made, plain_only
from nkdsl.bench.peers.libxsmm_forms import (
    TRANS_A,
    TRANS_B,
    Call,
    Form,
    Interface,
    One,
    Work,
    interface,
)
from nkdsl.bench.problem import Problem, Row
from nkdsl.bench.timing import Contender, NativeContender, fastest

HOW_TO_GET = "apt-get install libxsmm-dev gcc, or set NKDSL_LIBXSMM to a shared libxsmm"
SHIM = Path(__file__).with_name("libxsmm_shim.c")
ARCHIVES = ("libxsmm.a", "libxsmmnoblas.a")
OPTIONS = ("-O2", "-lpthread", "-ldl", "-lm")

LARGEST = 192
"""Whole products up to this many rows, columns and terms on average are libxsmm's business."""


class WithLibxsmm:
    """What all ways to call the library have in common."""

    def __init__(self) -> None:
        """Nothing is loaded before `availability`."""
        self._interface: Interface | None = None

    @property
    def interface(self) -> Interface:
        """How to have kernels generated.

        Raises:
            Unable: the library is not here.
        """
        if self._interface is None:
            raise Unable(HOW_TO_GET)
        return self._interface

    def availability(self) -> Availability:
        """Find or build the shared library and load it."""
        try:
            library, self._interface, origin = _load()
        except Unable as error:
            return Availability(False, str(error))
        return Availability(True, f"{_version(library)}, {origin}")


class Libxsmm(WithLibxsmm):
    """The peer `libxsmm`."""

    name = "libxsmm"

    def contender(self, problem: Problem) -> Contender:
        """The fastest of the right kernels that libxsmm generates for this problem."""
        candidates: list[Contender] = []
        reasons: dict[str, None] = {}
        for work, filled in _works(problem):
            for form in self.interface.forms(work):
                try:
                    candidates.append(checked(problem, _native(problem, form, filled)))
                except Unable as error:
                    reasons[str(error)] = None
        if not candidates:
            name = f"{problem.row.name} {problem.types.name}"
            raise Unable("; ".join(reasons) or f"libxsmm's JIT returned no kernel for {name}")
        return fastest(candidates)

    def close(self) -> None:
        """Nothing to give back."""


class LibxsmmEngine(WithLibxsmm):
    """One kernel for a whole product, C := A·B."""

    def make(self, operands: Operands, contract: str) -> Made:
        """The bare kernel, in the orientation that needs no transpose of C."""
        plain_only(contract, "libxsmm")
        row = operands.row
        if operands.types.narrow:
            raise Unable(f"libxsmm takes no plain operands of {operands.types.name}")
        if row.m * row.n * row.k > LARGEST**3:
            raise Unable("libxsmm is for small products")
        a, b, c = operands.pointers
        work = Work(operands.types, next(calls(row)), (b, a, c), beta=0)
        form = next(self.interface.forms(work), None)
        if form is None:
            raise Unable("libxsmm's JIT returned no kernel")
        keep = (operands, *form.keep)
        return Made(NativeContender("libxsmm", form.address, form.arguments, row.flops, "", keep))


def calls(row: Row) -> Iterator[Call]:
    """The orientations in which libxsmm could serve a row, the natural one first."""
    m, n, k = row.m, row.n, row.k
    flags = (TRANS_A if row.transpose_b else 0) | (TRANS_B if row.transpose_a else 0)
    stored_b, stored_a = (k if row.transpose_b else n), (m if row.transpose_a else k)
    yield Call("n in lanes", n, m, k, stored_b, stored_a, n, flags, swapped=True)
    if n == 1:
        flags = 0 if row.transpose_a else TRANS_A
        yield Call("m in lanes", m, 1, k, stored_a, k, m, flags, swapped=False)


def _works(problem: Problem) -> Iterator[tuple[Work, Filled | None]]:
    """What libxsmm could be asked for, with the copy of A that it needs."""
    row, types = problem.row, problem.types
    a, b, c = problem.pointers
    if not types.narrow:
        steps = row.k * row.n * types.rhs.size, row.m * row.k * types.lhs.size
        for call in calls(row) if row.batch == 1 else [next(calls(row))]:
            operands = (b, a, c) if call.swapped else (a, b, c)
            yield Work(types, call, operands, steps, row.batch), None
        return
    whole = Row(row.m, row.n, -(-row.k // types.group) * types.group, row.batch)
    filled = _fill_up(problem, whole.k) if whole != row else None
    steps = whole.k * row.n * types.rhs.size, row.m * whole.k * types.lhs.size
    operands = (b, filled.ctypes.data if filled is not None else a, c)
    yield Work(types, next(calls(whole)), operands, steps, row.batch), filled


Filled = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


def _fill_up(problem: Problem, k: int) -> Filled:
    """A copy of A in rows of `k` elements, the last of them zeros."""
    row, element = problem.row, problem.types.lhs
    shape = (*row.shape_a[:-1], k)
    filled = reserve(int(np.prod(shape)) * element.size).view(element.dtype).reshape(shape)
    filled[..., : row.k] = problem.a
    return filled


def _native(problem: Problem, form: Form, filled: Filled | None) -> NativeContender:
    detail = form.label
    if filled is not None:
        detail += f", A copied beforehand into rows of {filled.shape[-1]}"
    keep = (problem, filled, *form.keep)
    return NativeContender("libxsmm", form.address, form.arguments, problem.row.flops, detail, keep)


def _load() -> tuple[ctypes.CDLL, Interface, str]:
    """The loaded library, how to call it, and where it came from."""
    chosen = os.environ.get("NKDSL_LIBXSMM")
    path = Path(chosen) if chosen else build_shim()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unable(f"cannot load libxsmm: {error}; {HOW_TO_GET}") from error
    found = interface(library)
    if found is None:
        raise Unable(f"{path.name} is no libxsmm 1.x or 2.x; {HOW_TO_GET}")
    library.libxsmm_init()
    return library, found, "NKDSL_LIBXSMM" if chosen else "linked from libxsmm-dev"


def _version(library: ctypes.CDLL) -> str:
    """Version, as far as the library tells, and the instruction set its JIT targets."""
    library.libxsmm_get_target_arch.restype = ctypes.c_char_p
    arch = library.libxsmm_get_target_arch().decode()
    entry = getattr(library, "nkdsl_libxsmm_version", None)
    if entry is None:
        major = 1 if isinstance(interface(library), One) else 2
        return f"{major}.x ({arch})"
    entry.restype = ctypes.c_char_p
    return f"{entry().decode()} ({arch})"


def build_shim() -> Path:
    """Link the static archives into a shared library.

    Raises:
        Unable: no C compiler, no archive, or the linker refuses.
    """
    try:
        archives = [static_library(name) for name in ARCHIVES]
        return shared_library("libxsmm", SHIM.read_text(encoding="utf-8"), OPTIONS, archives)
    except Unable as error:
        raise Unable(f"{error}; {HOW_TO_GET}") from error
