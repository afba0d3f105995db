"""`Buffer`: what a memref is while a module is interpreted.

A memref is a shape and strides over an allocation that it may cover in part, and several memrefs
may share one. A buffer keeps the whole allocation beside its own extents, because two questions
are asked of an access, and both have to be answered:

- an *element* must lie inside the shape that the memref's type declares;
- a *register* holds consecutive elements in memory. It may cover more than the memref (a row of
  C beside another row), but never leave the allocation. Lanes that a mask switches off are not
  touched, so they may lie anywhere.

Sizes, strides and positions are counted in elements. Imports: xDSL, numpy and `nkdsl.types`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import DYNAMIC_INDEX, IndexType, IntegerType, MemRefType, NoneAttr
from xdsl.ir import Attribute
from xdsl.utils.exceptions import InterpretationError

from nkdsl.types import element_type_of

Array = npt.NDArray[Any]
Positions = npt.NDArray[np.int64]
"""Positions in an allocation, or indices along one dimension."""


def dtype_of(type_: Attribute) -> np.dtype[Any]:
    """The numpy type of an element; raises `Unsupported` for one that nkdsl does not know."""
    match type_:
        case IndexType():
            return np.dtype(np.int64)
        case IntegerType() if type_.width.data == 1:
            return np.dtype(np.bool_)
        case IntegerType() if type_.width.data in (8, 16, 32, 64):
            return np.dtype(f"i{type_.width.data // 8}")
        case _:
            return element_type_of(type_).dtype


def signed(array: Array) -> Array:
    """The same memory, with integers read as signed ones: so all rules meet them."""
    return array.view(f"i{array.itemsize}") if array.dtype.kind == "u" else array


@dataclass(frozen=True, slots=True)
class Buffer:
    """A memref: element `[i, j]` is `data[origin + offset + i * strides[0] + j * strides[1]]`."""

    data: Array
    """The whole allocation, of one dimension."""
    offset: int
    """Position of the first element, counted from `origin`."""
    shape: tuple[int, ...]
    """Extents."""
    strides: tuple[int, ...]
    """Distance in memory from one index to the next; may be zero or negative."""
    origin: int = 0
    """What the memref's aligned pointer points to. memref.reinterpret_cast counts from here."""
    start: int = field(init=False)
    """Position of the first element in `data`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", self.origin + self.offset)

    @classmethod
    def of(cls, array: Array) -> Self:
        """The buffer that a numpy array is, on the array's own memory.

        The array may be any view. The allocation is that of the array which owns the memory, so
        registers may reach beyond the view, as they may on real hardware.

        Raises:
            InterpretationError: if a stride is no multiple of the element size, or the owner's
                memory has holes.
        """
        size = array.itemsize
        if any(stride % size for stride in array.strides):
            raise InterpretationError(f"strides of {array.strides} bytes split elements of {size}")
        data, origin = _allocation(array)
        strides = tuple(stride // size for stride in array.strides)
        return cls(data, 0, array.shape, strides, origin)

    @classmethod
    def pointer(cls, array: Array) -> Self:
        """A memref without dimensions that points to the array's first element."""
        data, origin = _allocation(array)
        return cls(data, 0, (), (), origin)

    def has_shape_of(self, type_: MemRefType) -> bool:
        """Whether the extents are those of a type, where it says them."""
        declared = (None if extent == DYNAMIC_INDEX else extent for extent in type_.get_shape())
        return type_.get_num_dims() == len(self.shape) and _agree(declared, self.shape)

    def has_strides_of(self, type_: MemRefType) -> bool:
        """Whether the strides are those of a type of this shape, where it says them.

        Memory is never stepped through along a dimension of one element, nor if there is none.
        """
        plain = isinstance(type_.layout, NoneAttr)
        declared = row_major(self.shape) if plain else type_.get_strides() or ()
        walked = (0 not in self.shape and extent > 1 for extent in self.shape)
        return len(declared) == len(self.shape) and _agree(
            (d if w else None for d, w in zip(declared, walked, strict=True)), self.strides
        )

    def check_type(self, type_: MemRefType) -> None:
        """Refuse a type whose shape, strides or offset are others, where it says them."""
        if (
            not self.has_shape_of(type_)
            or not self.has_strides_of(type_)
            or type_.get_offset() not in (None, self.offset)
        ):
            raise InterpretationError(
                f"{self}, strides {_text(self.strides)} and offset {self.offset} is no {type_}"
            )

    def subview(
        self, offsets: Sequence[int], sizes: Sequence[int], strides: Sequence[int]
    ) -> "Buffer":
        """Part of the memref; raises `InterpretationError` unless all of it is inside.

        A part without elements need only start there: nothing of it is ever touched.
        """
        empty = 0 in sizes
        for dimension, (offset, size, stride, extent) in enumerate(
            zip(offsets, sizes, strides, self.shape, strict=True)
        ):
            ends = (offset, offset + (size - 1) * stride)
            inside = 0 <= offset <= extent if empty else 0 <= min(ends) <= max(ends) < extent
            if size < 0 or not inside:
                raise InterpretationError(
                    f"{size} elements from {offset} in steps of {stride} in dimension {dimension} "
                    f"are outside of {self}"
                )
        first = self.offset + sum(o * s for o, s in zip(offsets, self.strides, strict=True))
        steps = tuple(s * own for s, own in zip(strides, self.strides, strict=True))
        return Buffer(self.data, first, tuple(sizes), steps, self.origin)

    def element(self, indices: Sequence[int]) -> int:
        """Position of one element; raises `InterpretationError` if the index is out of bounds."""
        position = self.start
        for index, extent, stride in zip(indices, self.shape, self.strides, strict=True):
            if not 0 <= index < extent:
                self._refuse(indices)
            position += index * stride
        if not 0 <= position < len(self.data):
            self._refuse(indices)
        return position

    def elements(self, indices: Sequence[Positions]) -> Positions:
        """Positions of many elements, given by one array of indices a dimension (broadcasting).

        Raises:
            InterpretationError: if an index is out of bounds.
        """
        positions = np.array(self.start)
        for dimension, (index, extent, stride) in enumerate(
            zip(indices, self.shape, self.strides, strict=True)
        ):
            wrong = index[(index < 0) | (index >= extent)]
            if wrong.size:
                raise InterpretationError(
                    f"index {wrong[0]} in dimension {dimension} is outside of {self}"
                )
            positions = positions + index * stride
        self._check_positions(positions)
        return positions

    def tile(
        self, corner: Sequence[int], axes: tuple[int | None, ...], extents: tuple[int, ...]
    ) -> Positions:
        """Positions of a tile of elements.

        Args:
            corner: the index of the tile's first element.
            axes: for each dimension, the axis of the result that lies along it, or None.
            extents: the tile's shape; an axis that no dimension has repeats its elements.

        Raises:
            InterpretationError: if any of the elements is out of bounds.
        """
        for index, extent, axis in zip(corner, self.shape, axes, strict=True):
            last = index if axis is None else index + extents[axis] - 1
            if index < 0 or last >= extent:
                what = " × ".join(map(str, extents))
                raise InterpretationError(f"a tile of {what} at {_text(corner)} leaves {self}")
        first = self.start + sum(i * s for i, s in zip(corner, self.strides, strict=True))
        positions = first + _tile_grid(self.strides, axes, extents)
        self._check_positions(positions)
        return positions

    def address(self, indices: Sequence[int]) -> int:
        """Position that an index means, inside of the allocation or not."""
        position = self.start
        for index, stride in zip(indices, self.strides, strict=True):
            position += index * stride
        return position

    def load(self, indices: Sequence[int], lanes: int) -> Array:
        """A register of `lanes` consecutive elements, the first one at `indices`."""
        position = self.address(indices)
        self._check_register(position, lanes)
        return self.data[position : position + lanes].copy()

    def store(self, indices: Sequence[int], values: Array) -> None:
        """Write a register to consecutive elements, the first one at `indices`."""
        position = self.address(indices)
        self._check_register(position, len(values))
        self.data[position : position + len(values)] = values

    def rows(self, indices: Sequence[int], dimension: int, shape: tuple[int, int]) -> Positions:
        """Positions of rows of consecutive elements, which follow one another along a dimension."""
        rows, columns = shape
        starts = self.address(indices) + np.arange(rows)[:, None] * self.strides[dimension]
        positions = np.asarray(starts + np.arange(columns))
        self._check_positions(positions)
        return positions

    def _check_register(self, position: int, lanes: int) -> None:
        if lanes and not 0 <= position <= len(self.data) - lanes:
            raise InterpretationError(
                f"elements {position} to {position + lanes - 1} are outside of an allocation of "
                f"{len(self.data)}"
            )

    def _check_positions(self, positions: Positions) -> None:
        if positions.size and (positions.min() < 0 or positions.max() >= len(self.data)):
            raise InterpretationError(f"{self} leaves its allocation of {len(self.data)} elements")

    def _refuse(self, indices: Sequence[int]) -> None:
        raise InterpretationError(f"index {_text(indices)} is outside of {self}")

    def __str__(self) -> str:
        return f"a memref of shape {_text(self.shape)}"


def _agree(declared: Iterable[int | None], actual: Iterable[int]) -> bool:
    """Whether numbers are those of a type; None stands for any."""
    return all(d is None or d == a for d, a in zip(declared, actual, strict=True))


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous memref."""
    return tuple(prod(shape[dimension + 1 :]) for dimension in range(len(shape)))


def reinterpret(data: Array, position: int, dtype: np.dtype[Any]) -> tuple[Array, int]:
    """The allocation as elements of another type, and what `position` is in it.

    Bytes before the first and after the last whole element are left out.
    """
    raw = data.view(np.uint8)
    byte = position * data.itemsize
    front = byte % dtype.itemsize
    count = max(0, (len(raw) - front) // dtype.itemsize)
    return raw[front : front + count * dtype.itemsize].view(dtype), byte // dtype.itemsize


@lru_cache(maxsize=1024)
def _tile_grid(
    strides: tuple[int, ...], axes: tuple[int | None, ...], extents: tuple[int, ...]
) -> Positions:
    """Positions of a tile's elements, counted from its first."""
    axis_strides = [
        sum(s for s, a in zip(strides, axes, strict=True) if a == axis)
        for axis in range(len(extents))
    ]
    grids = np.ogrid[tuple(slice(n) for n in extents)] if extents else ()
    total: Positions = np.zeros(extents, np.int64)
    for grid, stride in zip(grids, axis_strides, strict=True):
        total += grid * stride
    return total


def _allocation(array: Array) -> tuple[Array, int]:
    """The memory behind an array as a flat array of its element type, and where the array starts.

    Bytes that precede the array by less than a whole element are left out: a view may start at
    any byte.
    """
    owner = _owner(array)
    if not owner.flags.forc:
        raise InterpretationError("the memory of this array is not contiguous")
    low = owner.__array_interface__["data"][0]
    start = array.__array_interface__["data"][0] - low
    raw = owner.reshape(-1, order="A").view(np.uint8)
    front = start % array.itemsize
    count = max(0, (len(raw) - front) // array.itemsize)
    data = np.ndarray(count, array.dtype, raw, front) if count else np.empty(0, array.dtype)
    return data, start // array.itemsize


def _owner(array: Array) -> Array:
    """The array that owns the memory of a view."""
    owner, base = array, array.base
    while base is not None:
        if isinstance(base, np.ndarray):
            owner = base
        base = getattr(base, "base", None)
    return owner


def _text(values: Sequence[int]) -> str:
    return f"({', '.join(str(v) for v in values)})"
