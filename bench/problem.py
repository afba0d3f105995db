"""What is computed in a row of a table, on which data, and when an answer is right.

A `Row` is a shape: C += op(A)·op(B), everything row-major and dense; `batch` > 1 is a batch-reduce
product C += sum over i of A[i]·B[i]. `Types` are the element types of its operands; where they are
narrower than their sum, B is packed beforehand as instructions for dot products take it ("VNNI
layout"), v steps of the reduction side by side, the last v filled up with zeros:

    B[k×n]  ->  B[⌈k/v⌉][n][v],   v = 2 for bf16, 4 for 8-bit integers

A `Problem` is a row in some types with its operands in memory.

The reference is computed in `numpy.longdouble`, which numpy multiplies without any BLAS, so that a
BLAS is never its own judge. An answer is right when nothing but C was written and every element
lies within the proven bound for a sum of K + 1 terms in any order (Higham, Accuracy and Stability
of Numerical Algorithms, 2nd ed., section 3.1):

    |C - ref| <= gamma(K + 2)·(|C0| + |A|·|B|),   gamma(n) = n·u / (1 - n·u)

Here u is that of the type in which products are added up; integers have u = 0 and must be exact.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nkdsl.bench.memory import reserve
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.types import ElementType, element_type

Array = npt.NDArray[Any]

ALIGNMENT = 64
"""Bytes: every operand starts on a cache line, as wide as the widest vector."""
GUARD = 5 * ALIGNMENT
"""Bytes between operands. They catch writes out of bounds, and keep operands whose sizes are powers
of two from lying a multiple of 4 KiB apart, where loads would falsely alias stores."""
GUARD_BYTE = 0xFF
"""Fills the guards: a NaN in every float type, so that a stray read shows in the result."""


LARGEST_START = 1 << 20
"""Integers in C start between this and its negative: no sum leaves 32 bits."""


@dataclass(frozen=True)
class Types:
    """The element types of a product's operands."""

    name: str
    """On the command line and in reports: f32, u8s8."""
    lhs: ElementType
    rhs: ElementType
    out: ElementType

    @property
    def sums(self) -> ElementType:
        """What products are added up in."""
        return self.lhs.accumulator

    @property
    def group(self) -> int:
        """Steps of the reduction that lie side by side in a packed B; 1 where none is packed."""
        return self.sums.size // self.lhs.size

    @property
    def narrow(self) -> bool:
        """Whether factors are narrower than their sum."""
        return self.group > 1

    @property
    def stored(self) -> Types:
        """The same with results as a layer hands them on: floats rounded, integers in full."""
        return self if self.lhs.is_integer else replace(self, out=self.lhs)


def _types(name: str, lhs: str, rhs: str) -> Types:
    left = element_type(lhs)
    return Types(name, left, element_type(rhs), left.accumulator)


PRODUCTS = {
    types.name: types
    for types in (
        _types("f32", "f32", "f32"),
        _types("f64", "f64", "f64"),
        _types("bf16", "bf16", "bf16"),
        _types("u8s8", "u8", "s8"),
        _types("s8s8", "s8", "s8"),
    )
}
"""Element types of A and B by the names of the command line, C being of the type of their sum."""
OTHER_NAMES = {"s8": "s8s8"}


def product_types(name: str) -> Types:
    """The types called `name`; raises `Unsupported` with the list of those known."""
    if (found := PRODUCTS.get(OTHER_NAMES.get(name, name))) is not None:
        return found
    raise Unsupported(f"products of '{name}' are not benchmarked; known are: {', '.join(PRODUCTS)}")


@dataclass(frozen=True)
class Row:
    """A shape of C += op(A)·op(B)."""

    m: int
    n: int
    k: int
    batch: int = 1
    transpose_a: bool = False
    """A is stored k×m."""
    transpose_b: bool = False
    """B is stored n×k."""

    def __post_init__(self) -> None:
        """Refuse empty products: there is nothing to time."""
        if min(self.m, self.n, self.k, self.batch) < 1:
            raise ValueError(f"a benchmark needs sizes of at least 1, got {self.name}")
        if self.batch > 1 and (self.transpose_a or self.transpose_b):
            raise ValueError("batch-reduce rows with transposes are not part of the suite")

    @property
    def kind(self) -> str:
        """`gemm` or `batch-reduce`."""
        return "gemm" if self.batch == 1 else "batch-reduce"

    @property
    def name(self) -> str:
        """As it is written on the command line: 64x96x256, 32x32x32b32, 128x128x128:tn."""
        text = f"{self.m}x{self.n}x{self.k}"
        if self.batch > 1:
            text += f"b{self.batch}"
        if self.transpose_a or self.transpose_b:
            text += f":{'nt'[self.transpose_a]}{'nt'[self.transpose_b]}"
        return text

    @property
    def flops(self) -> int:
        """Floating-point operations, a multiply and an add counted as two."""
        return 2 * self.m * self.n * self.k * self.batch

    @property
    def plain(self) -> Row:
        """The same sizes without transposes."""
        return Row(self.m, self.n, self.k, self.batch)

    @property
    def shape_a(self) -> tuple[int, ...]:
        """A as stored."""
        matrix = (self.k, self.m) if self.transpose_a else (self.m, self.k)
        return matrix if self.batch == 1 else (self.batch, *matrix)

    @property
    def shape_b(self) -> tuple[int, ...]:
        """B as stored."""
        matrix = (self.n, self.k) if self.transpose_b else (self.k, self.n)
        return matrix if self.batch == 1 else (self.batch, *matrix)

    def packed_b(self, group: int) -> tuple[int, ...]:
        """B in groups of so many steps of the reduction; for 1, as stored."""
        if group == 1:
            return self.shape_b
        matrix = (-(-self.k // group), self.n, group)
        return matrix if self.batch == 1 else (self.batch, *matrix)

    @property
    def shape_c(self) -> tuple[int, int]:
        """C as stored."""
        return (self.m, self.n)


_ROW = re.compile(r"(\d+)[x×](\d+)[x×](\d+)(?:b(\d+))?(?::([nt])([nt]))?")


def parse_row(text: str) -> Row:
    """Read a row's name: MxNxK, then `b` and the batch, or `:` and n or t for each of A and B.

    Raises:
        ValueError: the text is not a row, or a size is 0.
    """
    match = _ROW.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no shape: write MxNxK, MxNxKbBATCH or MxNxK:tn")
    m, n, k, batch, a, b = match.groups()
    return Row(int(m), int(n), int(k), int(batch or 1), a == "t", b == "t")


@dataclass(frozen=True, eq=False)
class Problem:
    """A row with its operands in memory, all views of one arena; made by `make_problem`."""

    row: Row
    types: Types
    a: Array
    b: Array
    """Packed where its types are narrow."""
    c: Array
    arena: npt.NDArray[np.uint8] = field(repr=False)
    pristine: npt.NDArray[np.uint8] = field(repr=False)
    """A copy of the arena before any kernel ran."""

    @property
    def pointers(self) -> tuple[int, int, int]:
        """Addresses of A, B and C: the arguments of a native kernel."""
        return (self.a.ctypes.data, self.b.ctypes.data, self.c.ctypes.data)

    def reset(self) -> None:
        """Put every byte back to what it was at first."""
        self.arena[:] = self.pristine


def make_problem(row: Row, types: Types, seed: int = 0) -> Problem:
    """Allocate a problem's operands and fill them with normal random numbers, or any integers.

    The arena starts on a huge page, and is one where the system has some to give. Equal arguments
    give equal numbers at equal page offsets, in any process.

    Raises:
        InvalidInput: a transpose of a narrow type, whose layout is another.
    """
    if types.narrow and row != row.plain:
        raise InvalidInput(f"{row.name}: B of {types.name} is packed, and nothing transposed")
    stored = (row.shape_a, row.packed_b(types.group), row.shape_c)
    elements = (types.lhs, types.rhs, types.out)
    sizes = [
        int(np.prod(shape)) * element.size for shape, element in zip(stored, elements, strict=True)
    ]
    offsets, end = _lay_out(sizes)
    arena = reserve(end)
    arena[:] = GUARD_BYTE
    a, b, c = (
        arena[offset : offset + size].view(element.dtype).reshape(shape)
        for offset, size, shape, element in zip(offsets, sizes, stored, elements, strict=True)
    )
    random = np.random.default_rng(seed)
    a[...] = _numbers(random, row.shape_a, types.lhs)
    b[...] = pack(_numbers(random, row.shape_b, types.rhs), types.group)
    c[...] = _numbers(random, row.shape_c, types.out)
    return Problem(row, types, a, b, c, arena, arena.copy())


def _numbers(random: np.random.Generator, shape: tuple[int, ...], element: ElementType) -> Array:
    if not element.is_integer:
        return random.standard_normal(shape).astype(element.dtype)
    return any_integers(random, shape, element)


def any_integers(
    random: np.random.Generator, shape: tuple[int, ...], element: ElementType
) -> Array:
    """Integers of the whole range of a type of 8 bits, or of a wide one up to `LARGEST_START`."""
    range_ = np.iinfo(element.dtype)  # type: ignore[type-var]
    low, high = max(range_.min, -LARGEST_START), min(range_.max, LARGEST_START)
    return random.integers(low, high, shape, endpoint=True).astype(element.dtype)


def pack(b: Array, group: int) -> Array:
    """One k×n matrix or several, in groups of so many steps of k; 1 leaves them as they are."""
    if group == 1:
        return b
    *batch, k, n = b.shape
    filled = np.zeros((*batch, -(-k // group) * group, n), b.dtype)
    filled[..., :k, :] = b
    return filled.reshape(*batch, -1, group, n).swapaxes(-1, -2)


def unpack(b: Array, k: int) -> Array:
    """The k×n matrices that were packed."""
    *batch, _, n, _ = b.shape
    return b.swapaxes(-1, -2).reshape(*batch, -1, n)[..., :k, :]


def _lay_out(sizes: list[int]) -> tuple[list[int], int]:
    """Aligned offsets of the operands with a guard before, between and after them, and the end."""
    offsets, end = [], GUARD
    for size in sizes:
        offsets.append(end)
        end = -(-(end + size) // ALIGNMENT) * ALIGNMENT + GUARD
    return offsets, end


def fault(problem: Problem, calls: int = 1) -> str | None:
    """Say what is wrong with C after exactly `calls` calls of a kernel on a reset problem.

    Each call adds A·B again, so the bound is that of a sum of `calls`·K + 1 terms.

    Returns:
        None when the answer lies within the bound and nothing else was written.
    """
    fresh = _fresh(problem)
    got = problem.c.astype(np.longdouble)
    expected, bound = _reference(fresh, calls)
    if stray := _stray_writes(problem):
        return f"wrong: {stray} bytes outside C were written"
    error = np.abs(got - expected)
    bad = ~(error <= bound)
    if not bad.any():
        return None
    i, j = (int(x) for x in np.argwhere(bad)[0])
    return (
        f"wrong: {int(bad.sum())} of {bad.size} elements are off; "
        f"C[{i},{j}] is {got[i, j]:.9g} instead of {expected[i, j]:.9g} ± {bound[i, j]:.2g}"
    )


def _fresh(problem: Problem) -> Problem:
    """The same problem as it was at first, on the pristine copy of the arena."""

    def copied(view: Array) -> Array:
        offset = view.ctypes.data - problem.arena.ctypes.data
        piece = problem.pristine[offset : offset + view.nbytes]
        return piece.view(view.dtype).reshape(view.shape)

    a, b, c = (copied(view) for view in (problem.a, problem.b, problem.c))
    return Problem(problem.row, problem.types, a, b, c, problem.pristine, problem.pristine)


def _reference(problem: Problem, calls: int) -> tuple[Array, Array]:
    """The exact answer as near as numpy gets without a BLAS, and each element's bound."""
    row = problem.row
    a, b, c = (x.astype(np.longdouble) for x in (problem.a, problem.b, problem.c))
    a = a.swapaxes(-1, -2) if row.transpose_a else a
    b = b.swapaxes(-1, -2) if row.transpose_b else b
    b = unpack(b, row.k) if problem.types.narrow else b
    terms = (calls * row.k * row.batch + 2) * problem.types.sums.unit_roundoff
    gamma = terms / (1 - terms)
    magnitude = np.abs(c) + calls * _product(np.abs(a), np.abs(b))
    return c + calls * _product(a, b), gamma * magnitude


def _product(a: Array, b: Array) -> Array:
    result: Array = np.matmul(a, b)
    return result if result.ndim == 2 else result.sum(axis=0)


def _stray_writes(problem: Problem) -> int:
    """How many bytes outside C differ from what they were."""
    changed = problem.arena != problem.pristine
    start = problem.c.ctypes.data - problem.arena.ctypes.data
    changed[start : start + problem.c.nbytes] = False
    return int(changed.sum())
