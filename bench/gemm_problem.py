"""Operands of C := op(A)·op(B) for whole products, and when an answer is right.

`problem` judges small products in extended precision, element by element. A product of thousands of
rows would take minutes that way, so here the reference is numpy's product in double precision, of
all of C or of a sample of it; for f64, whole answers are held against numpy's own
with twice the bound, samples against extended precision. The bound is that of a sum of K terms in
any order, with the Cauchy-Schwarz inequality in place of |A|·|B|:

    |C - ref|[i,j] <= gamma(K + 2)·‖A[i,:]‖·‖B[:,j]‖

to which a C narrower than its sums adds its own rounding. Integers must be exact.

C is all NaN before the call, or one odd integer, which C := A·B never reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nkdsl.bench.memory import reserve
from nkdsl.bench.problem import (
    ALIGNMENT,
    GUARD,
    GUARD_BYTE,
    Array,
    Row,
    Types,
    any_integers,
)
from nkdsl.types import ElementType

SAMPLED = 64
"""A sample is the elements of C in so many rows and columns at most."""
UNTOUCHED = -0x0DDB0DD
"""What integers in C hold before they are computed."""


@dataclass(frozen=True, eq=False)
class Operands:
    """A row with its operands in one arena, a guard before and after each; by `make_operands`."""

    row: Row
    types: Types
    a: Array
    b: Array
    c: Array
    arena: npt.NDArray[np.uint8] = field(repr=False)
    seed: int = 0

    @property
    def pointers(self) -> tuple[int, int, int]:
        """Addresses of A, B and C."""
        return (self.a.ctypes.data, self.b.ctypes.data, self.c.ctypes.data)

    @property
    def bytes(self) -> int:
        """What a product must read and write at least."""
        return self.a.nbytes + self.b.nbytes + self.c.nbytes

    def spoil(self) -> None:
        """Fill C with what no product is."""
        self.c.fill(UNTOUCHED if self.types.out.is_integer else np.nan)


def make_operands(row: Row, types: Types, seed: int = 0) -> Operands:
    """Allocate operands and fill A and B with numbers between -0.5 and 0.5, or any integers.

    Equal arguments give equal numbers at equal page offsets, in any process.
    """
    shapes = (row.shape_a, row.shape_b, row.shape_c)
    elements = (types.lhs, types.rhs, types.out)
    offsets, end = [], GUARD
    for shape, element in zip(shapes, elements, strict=True):
        offsets.append(end)
        size = int(np.prod(shape)) * element.size
        end = -(-(end + size) // ALIGNMENT) * ALIGNMENT + GUARD
    arena = reserve(end)
    views: list[Array] = []
    for offset, shape, element in zip(offsets, shapes, elements, strict=True):
        size = int(np.prod(shape)) * element.size
        arena[offset - GUARD : offset] = GUARD_BYTE
        arena[offset + size : offset + size + GUARD] = GUARD_BYTE
        views.append(arena[offset : offset + size].view(element.dtype).reshape(shape))
    a, b, c = views
    _fill((a, b), (types.lhs, types.rhs), seed)
    operands = Operands(row, types, a, b, c, arena, seed)
    operands.spoil()
    return operands


def _fill(arrays: Sequence[Array], elements: Sequence[ElementType], seed: int) -> None:
    random = np.random.default_rng(seed)
    for array, element in zip(arrays, elements, strict=True):
        if element.is_integer:
            array[...] = any_integers(random, array.shape, element)
            continue
        wide = np.float64 if element.name == "f64" else np.float32
        numbers: Array = random.random(array.shape, dtype=wide)
        numbers -= 0.5
        array[...] = numbers


def fault(operands: Operands, *, thorough: bool) -> str | None:
    """Say what is wrong with C after a call.

    Args:
        operands: with the answer in C.
        thorough: look at every element of C, and at every byte of A and B.

    Returns:
        None when what was looked at is right.
    """
    if stray := _stray_writes(operands, thorough):
        return f"wrong: {stray} bytes outside C were written"
    rows, columns = operands.c.shape
    double = operands.types.sums.name == "f64"
    if thorough and not double:
        return _wrong(operands, slice(None), slice(None), np.float64)
    if thorough and (found := _wrong(operands, slice(None), slice(None), np.float64, 2)):
        return found
    wide = np.longdouble if double else np.float64
    return _wrong(operands, _sample(rows), _sample(columns), wide)


def _sample(size: int) -> npt.NDArray[np.int64]:
    """Some indices, the first and the last among them."""
    return np.unique(np.linspace(0, size - 1, min(size, SAMPLED)).astype(np.int64))


Index = slice | npt.NDArray[np.int64]


def _wrong(
    operands: Operands, rows: Index, columns: Index, wide: type, factor: int = 1
) -> str | None:
    """What is wrong with a part of C, held against a product in a wider type."""
    row = operands.row
    a: Array = (operands.a.T if row.transpose_a else operands.a)[rows].astype(wide)
    b: Array = (operands.b.T if row.transpose_b else operands.b)[:, columns].astype(wide)
    expected = np.matmul(a, b)
    types = operands.types
    terms = (row.k + 2) * types.sums.unit_roundoff
    bound = np.outer(np.linalg.norm(_plain(a), axis=1), np.linalg.norm(_plain(b), axis=0))
    bound *= factor * terms / (1 - terms)
    if types.out != types.sums:
        bound += types.out.unit_roundoff * (np.abs(expected) + bound)
    answer: Array = operands.c[rows][:, columns].astype(wide, copy=False)
    error = np.abs(answer - expected)
    bad = ~(error <= bound)
    if not bad.any():
        return None
    i, j = (int(x) for x in np.argwhere(bad)[0])
    return (
        f"wrong: {int(bad.sum())} of {bad.size} elements looked at are off, "
        f"one is {answer[i, j]:.9g} instead of {expected[i, j]:.9g} ± {bound[i, j]:.2g}"
    )


def _plain(array: Array) -> Array:
    """In double precision, in which norms are quick."""
    return array.astype(np.float64, copy=False)


def _stray_writes(operands: Operands, thorough: bool) -> int:
    """How many bytes outside C differ from what they were."""
    arena = operands.arena
    stray = 0
    for view in (operands.a, operands.b, operands.c):
        start = view.ctypes.data - arena.ctypes.data
        for guard in (arena[start - GUARD : start], arena[start + view.nbytes :][:GUARD]):
            stray += int((guard != GUARD_BYTE).sum())
    if thorough:
        fresh = [np.empty_like(operands.a), np.empty_like(operands.b)]
        _fill(fresh, (operands.types.lhs, operands.types.rhs), operands.seed)
        for have, want in zip((operands.a, operands.b), fresh, strict=True):
            stray += int((have != want).sum()) * have.itemsize
    return stray
