"""Operands of C := op(A)·op(B) for whole products, and when an answer is right.

`problem` judges small products in extended precision, element by element. A product of thousands of
rows would take minutes that way, so here the reference is numpy's product in double precision, of
all of C or of a sample of it; for f64, whole answers are held against numpy's own
with twice the bound, samples against extended precision. The bound is that of a sum of K terms in
any order, with the Cauchy-Schwarz inequality in place of |A|·|B|:

    |C - ref|[i,j] <= gamma(K + 2)·‖A[i,:]‖·‖B[:,j]‖

C is all NaN before the call, which C := A·B never reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nkdsl.bench.memory import reserve
from nkdsl.bench.problem import ALIGNMENT, GUARD, GUARD_BYTE, Array, Row
from nkdsl.types import ElementType

SAMPLED = 64
"""A sample is the elements of C in so many rows and columns at most."""


@dataclass(frozen=True, eq=False)
class Operands:
    """A row with its operands in one arena, a guard before and after each; by `make_operands`."""

    row: Row
    element: ElementType
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
        """Fill C with NaNs."""
        self.c.fill(np.nan)


def make_operands(row: Row, element: ElementType, seed: int = 0) -> Operands:
    """Allocate operands and fill A and B with numbers between -0.5 and 0.5.

    Equal arguments give equal numbers at equal page offsets, in any process.
    """
    shapes = (row.shape_a, row.shape_b, row.shape_c)
    offsets, end = [], GUARD
    for shape in shapes:
        offsets.append(end)
        size = int(np.prod(shape)) * element.size
        end = -(-(end + size) // ALIGNMENT) * ALIGNMENT + GUARD
    arena = reserve(end)
    views: list[Array] = []
    for offset, shape in zip(offsets, shapes, strict=True):
        size = int(np.prod(shape)) * element.size
        arena[offset - GUARD : offset] = GUARD_BYTE
        arena[offset + size : offset + size + GUARD] = GUARD_BYTE
        views.append(arena[offset : offset + size].view(element.dtype).reshape(shape))
    a, b, c = views
    _fill((a, b), seed)
    operands = Operands(row, element, a, b, c, arena, seed)
    operands.spoil()
    return operands


def _fill(arrays: Sequence[Array], seed: int) -> None:
    random = np.random.default_rng(seed)
    for array in arrays:
        random.random(dtype=array.dtype, out=array)
        array -= 0.5


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
    if thorough and operands.element.name == "f32":
        return _wrong(operands, slice(None), slice(None), np.float64)
    if thorough and (found := _wrong(operands, slice(None), slice(None), np.float64, 2)):
        return found
    wide = np.float64 if operands.element.name == "f32" else np.longdouble
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
    terms = (row.k + 2) * operands.element.unit_roundoff
    bound = np.outer(np.linalg.norm(_plain(a), axis=1), np.linalg.norm(_plain(b), axis=0))
    bound *= factor * terms / (1 - terms)
    error = np.abs(operands.c[rows][:, columns] - expected)
    bad = ~(error <= bound)
    if not bad.any():
        return None
    i, j = (int(x) for x in np.argwhere(bad)[0])
    got = operands.c[rows][:, columns][i, j]
    return (
        f"wrong: {int(bad.sum())} of {bad.size} elements looked at are off, "
        f"one is {got:.9g} instead of {expected[i, j]:.9g} ± {bound[i, j]:.2g}"
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
        _fill(fresh, operands.seed)
        for have, want in zip((operands.a, operands.b), fresh, strict=True):
            stray += int((have != want).sum()) * operands.element.size
    return stray
