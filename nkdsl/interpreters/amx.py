"""Execution of the intrinsics of Intel AMX, which name registers by number.

The registers are state: eight of up to 16 rows of 64 bytes, and their configuration. Their meaning
is taken from Intel's documentation, by the intrinsics' names, and from nothing of nkdsl's; only the
exact arithmetic is borrowed of `nkdsl.targets.semantics`. What the processor refuses, a register
that isn't configured or shapes that don't fit one another, is refused.

Source: Intel Architecture Instruction Set Extensions Programming Reference, chapter 3.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
from xdsl.utils.exceptions import InterpretationError

from nkdsl.interpreters.buffer import Array
from nkdsl.targets.semantics import dot_int8, tile_dot

_ROWS, _ROW_BYTES = 16, 64

_FACTORS: dict[str, tuple[np.dtype[np.generic], np.dtype[np.generic]]] = {
    "tdpbf16ps": (np.dtype(ml_dtypes.bfloat16),) * 2,
    "tdpfp16ps": (np.dtype(np.float16),) * 2,
    "tdpbssd": (np.dtype("i1"), np.dtype("i1")),
    "tdpbsud": (np.dtype("i1"), np.dtype("u1")),
    "tdpbusd": (np.dtype("u1"), np.dtype("i1")),
    "tdpbuud": (np.dtype("u1"), np.dtype("u1")),
}
"""The types of the factors of each multiplication."""


class Memory:
    """The allocations that addresses were taken of."""

    def __init__(self) -> None:
        self._known: dict[int, Array] = {}

    def add(self, data: Array) -> None:
        """Remember an allocation."""
        self._known[data.__array_interface__["data"][0]] = data

    def at(self, address: int, size: int) -> Array:
        """Some bytes of memory, to be read or written.

        Raises:
            InterpretationError: if they aren't inside of one allocation.
        """
        for start, data in self._known.items():
            if start <= address and address + size <= start + data.nbytes:
                return data.view(np.uint8)[address - start : address - start + size]
        raise InterpretationError(f"{size} bytes at {address:#x} are outside of all allocations")


@dataclass
class AmxUnit:
    """The tile registers of one thread."""

    memory: Memory
    shapes: list[tuple[int, int]] = field(default_factory=list)
    """Rows, and bytes of a row, of each register; nothing while they aren't configured."""
    data: Array = field(default_factory=lambda: np.zeros((8, _ROWS, _ROW_BYTES), np.uint8))

    def runs(self, intrinsic: str) -> Callable[..., None] | None:
        """What an intrinsic does, or None for others than those of AMX."""
        name = intrinsic.removeprefix("llvm.x86.")
        if name in _FACTORS:
            return lambda *registers: self.multiply(name, *registers)
        others: dict[str, Callable[..., None]] = {
            "ldtilecfg": self.configure,
            "tilerelease": self.release,
            "tilezero": self.zero,
            "tileloadd64": self.load,
            "tilestored64": self.store,
        }
        return others.get(name)

    def configure(self, address: int) -> None:
        """LDTILECFG: shapes of the registers, which become zero."""
        table = self.memory.at(address, 64)
        if table[0] != 1 or table[1:16].any() or table[32:48].any() or table[56:].any():
            raise InterpretationError("this is no configuration of palette 1")
        sizes = table[16:32].view(np.uint16)
        self.shapes = [
            (int(rows), int(size)) for rows, size in zip(table[48:56], sizes, strict=True)
        ]
        for rows, size in self.shapes:
            if rows > _ROWS or size > _ROW_BYTES or (rows == 0) != (size == 0):
                raise InterpretationError(f"a tile of {rows} rows of {size} bytes is impossible")
        self.data[:] = 0

    def release(self) -> None:
        """TILERELEASE."""
        self.shapes = []
        self.data[:] = 0

    def zero(self, register: int) -> None:
        """TILEZERO."""
        self._shape(register)
        self.data[register] = 0

    def load(self, register: int, address: int, stride: int) -> None:
        """TILELOADD."""
        rows, size = self._shape(register)
        self.data[register] = 0
        for row in range(rows):
            self.data[register, row, :size] = self.memory.at(address + row * stride, size)

    def store(self, register: int, address: int, stride: int) -> None:
        """TILESTORED."""
        rows, size = self._shape(register)
        for row in range(rows):
            self.memory.at(address + row * stride, size)[:] = self.data[register, row, :size]

    def multiply(self, name: str, acc: int, lhs: int, rhs: int) -> None:
        """TDPBF16PS and its kin."""
        shapes = [self._shape(register) for register in (acc, lhs, rhs)]
        (rows, size), (lhs_rows, lhs_size), (rhs_rows, rhs_size) = shapes
        fits = (rows, size, lhs_size) == (lhs_rows, rhs_size, 4 * rhs_rows)
        if not fits or len({acc, lhs, rhs}) != 3:
            raise InterpretationError(f"{name} can't multiply tiles {acc}, {lhs}, {rhs}: {shapes}")
        floats = name.endswith("ps")
        sums = self._read(acc, np.dtype(np.float32 if floats else np.int32))
        left, right = (
            self._read(register, type_)
            for register, type_ in zip((lhs, rhs), _FACTORS[name], strict=True)
        )
        group = 4 // left.itemsize
        columns = right.reshape(rhs_rows, -1, group).transpose(1, 0, 2).reshape(size // 4, -1)
        shape = (rows, size // 4, left.shape[1])
        factors = np.broadcast_to(left[:, None], shape), np.broadcast_to(columns[None], shape)
        result = tile_dot(sums, *factors) if floats else dot_int8(sums, *factors)
        self.data[acc] = 0
        self.data[acc, :rows, :size] = np.ascontiguousarray(result).view(np.uint8)

    def _read(self, register: int, dtype: np.dtype[np.generic]) -> Array:
        """A register's elements, by rows."""
        rows, size = self.shapes[register]
        return np.ascontiguousarray(self.data[register, :rows, :size]).view(dtype)

    def _shape(self, register: int) -> tuple[int, int]:
        if not self.shapes or self.shapes[register] == (0, 0):
            raise InterpretationError(f"tile {register} is not configured")
        return self.shapes[register]
