"""Execution of the intrinsics of Arm SME: vectors of any length, and outer products on ZA.

ZA is state: as many rows as a vector has bytes, each as long as a vector. Its four tiles of
elements of 32 bits take turns: those of tile n are rows n, n + 4, n + 8 and so on. Meaning is taken
from Arm's documentation, by the intrinsics' names, and from nothing of nkdsl's; only the exact
arithmetic is borrowed of `nkdsl.targets.semantics`. Vectors are as long as `vector_length` says.

What nobody may rely on is refused: an intrinsic in a function that LLVM would not compile it in,
for want of the streaming mode or of ZA, and a row beyond the end of a tile, which processors count
from its start again. What ZA holds before it is written has no meaning: it is NaN.

Sources: Arm Architecture Reference Manual for A-profile architecture (DDI 0487), instructions
FMOPA (non-widening), BFMOPA (widening), SMOPA, UMOPA, SUMOPA and USMOPA (4-way), LD1W and ST1W
(tile slices), ZERO (tile), PTRUE, WHILELT; Procedure Call Standard for the Arm 64-bit Architecture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation
from xdsl.utils.exceptions import InterpretationError

from nkdsl.interpreters.amx import Memory
from nkdsl.interpreters.buffer import Array
from nkdsl.interpreters.tile import vscale
from nkdsl.targets.semantics import dot_bf16_to_odd, dot_int8, fma

_WORD = 4
"""Bytes of an element of the tiles that there are four of; also how many those are."""

_DOUBLE_TILES = 8
"""Tiles of elements of 64 bits, by which ZERO counts."""

_ALL = 31
"""The pattern of PTRUE that means all lanes."""

_UNWRITTEN = 0xFF
"""A byte of which floating-point numbers are NaN."""

# ------------------------------------------------------------------------------- where it is legal

_STREAMING = frozenset(("aarch64_pstate_sm_body", "aarch64_pstate_sm_enabled"))
"""LLVM's attributes of functions whose bodies run in streaming mode."""

_WITH_ZA = frozenset(("aarch64_new_za", "aarch64_inout_za", "aarch64_in_za", "aarch64_out_za"))
"""Those of functions that have ZA, of their own or their caller's."""


def check_mode(op: Operation, intrinsic: str) -> None:
    """Refuse an intrinsic whose function lacks the mode, or the state, that it needs.

    Raises:
        InterpretationError: naming what is missing.
    """
    has_za = intrinsic.startswith("llvm.aarch64.sme.")
    if not has_za and not intrinsic.startswith(("llvm.aarch64.sve.", "llvm.vscale.")):
        return
    attributes = _attributes_around(op)
    if attributes.isdisjoint(_STREAMING):
        raise InterpretationError(f"'{intrinsic}' in a function that is not in streaming mode")
    if has_za and attributes.isdisjoint(_WITH_ZA):
        raise InterpretationError(f"'{intrinsic}' in a function without ZA")


def _attributes_around(op: Operation) -> set[str]:
    """LLVM's attributes of the function around an operation, those that are words."""
    parent = op.parent_op()
    while parent is not None and not isinstance(parent, FuncOp):
        parent = parent.parent_op()
    given = parent.attributes.get("passthrough") if parent is not None else None
    words = given.data if isinstance(given, ArrayAttr) else ()
    return {word.data for word in words if isinstance(word, StringAttr)}


# ------------------------------------------------------------------------------ vectors and masks


def _vscale() -> int:
    """`llvm.vscale`: the vector length in units of 128 bits."""
    return vscale()


def _every_lane(lanes: int) -> Callable[[int], Array]:
    """PTRUE, for so many lanes in 128 bits."""

    def mask(pattern: int) -> Array:
        if pattern != _ALL:
            raise InterpretationError(f"the pattern {pattern} of PTRUE can't be executed")
        return np.ones(lanes * vscale(), np.bool_)

    return mask


def _first_lanes(lanes: int) -> Callable[[int, int], Array]:
    """WHILELT: lanes for as long as a number that is counted up stays below another one."""

    def mask(start: int, end: int) -> Array:
        return start + np.arange(lanes * vscale()) < end

    return mask


VECTORS: dict[str, Callable[..., Any]] = {
    "llvm.vscale.i64": _vscale,
    **{f"llvm.aarch64.sve.ptrue.nxv{n}i1": _every_lane(n) for n in (2, 4, 8, 16)},
    **{f"llvm.aarch64.sve.whilelt.nxv{n}i1.i64": _first_lanes(n) for n in (2, 4, 8, 16)},
}
"""What intrinsics compute that don't use ZA."""

# ---------------------------------------------------------------------------------------------- ZA


@dataclass(frozen=True)
class _OuterProduct:
    """What an instruction adds to each sum: the products of a group of each factor."""

    lhs: str
    """numpy's type of the left factor's elements; empty for that which they have."""
    rhs: str
    sums: str
    group: int
    """Elements of each factor for one sum."""
    add: Callable[[Array, Array, Array], Array]


def _add_one(sums: Array, lhs: Array, rhs: Array) -> Array:
    """A fused multiply-add."""
    return fma(sums, lhs[..., 0], rhs[..., 0])


_OUTER_PRODUCTS = {
    "mopa.nxv4f32": _OuterProduct("", "", "f4", 1, _add_one),
    # As FPCR.EBF = 0 has it, which it is unless a program sets it.
    "mopa.wide.nxv8bf16": _OuterProduct("", "", "f4", 2, dot_bf16_to_odd),
    "smopa.wide.nxv16i8": _OuterProduct("i1", "i1", "i4", 4, dot_int8),
    "umopa.wide.nxv16i8": _OuterProduct("u1", "u1", "i4", 4, dot_int8),
    "sumopa.wide.nxv16i8": _OuterProduct("i1", "u1", "i4", 4, dot_int8),
    "usmopa.wide.nxv16i8": _OuterProduct("u1", "i1", "i4", 4, dot_int8),
}
"""By the end of LLVM's name. A vector of bytes has no sign: the instruction says how it is read."""


class SmeUnit:
    """ZA of one thread."""

    def __init__(self, memory: Memory) -> None:
        """ZA before anything is written to it; it loads from `memory` and stores there."""
        self._memory = memory
        size = 4 * _WORD * vscale()
        self._rows = np.full((size, size), _UNWRITTEN, np.uint8)

    def runs(self, intrinsic: str) -> Callable[..., None] | None:
        """What an intrinsic does, or None for others than those that use ZA."""
        name = intrinsic.removeprefix("llvm.aarch64.sme.")
        if (product := _OUTER_PRODUCTS.get(name)) is not None:
            return lambda *operands: self.multiply(product, *operands)
        others: dict[str, Callable[..., None]] = {
            "zero": self.zero,
            "ld1w.horiz": self.load,
            "st1w.horiz": self.store,
        }
        return others.get(name)

    def zero(self, mask: int) -> None:
        """ZERO: the tiles of 64 bits that a mask names."""
        for tile in range(_DOUBLE_TILES):
            if mask >> tile & 1:
                self._rows[tile::_DOUBLE_TILES] = 0

    def load(self, mask: Array, address: int, tile: int, row: int) -> None:
        """LD1W: a row of a tile; lanes that are not active become zero."""
        words, (memory, active) = self._row(tile, row), self._span(mask, address)
        words[:] = 0
        words[mask] = memory[active]

    def store(self, mask: Array, address: int, tile: int, row: int) -> None:
        """ST1W: the active lanes of a row of a tile."""
        words, (memory, active) = self._row(tile, row), self._span(mask, address)
        memory[active] = words[mask]

    def multiply(
        self,
        product: _OuterProduct,
        tile: int,
        row_mask: Array,
        column_mask: Array,
        lhs: Array,
        rhs: Array,
    ) -> None:
        """FMOPA and its kin: inactive elements count as zeros, sums of none but those are left."""
        sums = self._tile(tile).view(product.sums)
        count = len(sums)
        rows, columns = (count, 1, product.group), (1, count, product.group)
        added = product.add(
            sums,
            _active(lhs, row_mask, product.lhs).reshape(rows),
            _active(rhs, column_mask, product.rhs).reshape(columns),
        )
        touched = (row_mask.reshape(rows) & column_mask.reshape(columns)).any(axis=-1)
        sums[touched] = added[touched]

    def _tile(self, tile: int) -> Array:
        """A tile, as a view of words."""
        if not 0 <= tile < _WORD:
            raise InterpretationError(f"there is no tile {tile} of elements of 32 bits")
        return self._rows[tile::_WORD].view(np.uint32)

    def _row(self, tile: int, row: int) -> Array:
        """A row of a tile, as a view."""
        words = self._tile(tile)
        if not 0 <= row < len(words):
            raise InterpretationError(f"there is no row {row} in a tile of {len(words)}")
        return np.asarray(words[row])

    def _span(self, mask: Array, address: int) -> tuple[Array, Array]:
        """Memory from the first active lane to the last, as a view of words; the active of them."""
        active = np.flatnonzero(mask)
        if not active.size:
            return np.empty(0, np.uint32), active
        first, last = int(active[0]), int(active[-1])
        memory = self._memory.at(address + _WORD * first, _WORD * (last - first + 1))
        return memory.view(np.uint32), active - first


def _active(factor: Array, mask: Array, dtype: str) -> Array:
    """A factor's elements, as an instruction reads them, with zeros in place of inactive ones."""
    values = factor.copy()
    values[~mask] = 0
    return values.view(dtype) if dtype else values
