"""Where the elements of a packed factor lie, and the memory that holds them so."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nkdsl.runtime.address import address_of
from nkdsl.runtime.workspace import aligned_bytes
from nkdsl.types import ElementType

Array = npt.NDArray[Any]
Operand = Literal["lhs", "rhs"]


@dataclass(frozen=True)
class Layout:
    """How a packed factor lies in memory, and for which target."""

    operand: Operand
    shape: tuple[int, int]
    """Of the array that is packed."""
    element: ElementType
    cut: int
    """The dimension of the array that is cut into panels; the other one is the reduction."""
    width: int
    """Elements of a panel along it."""
    target: str
    """The target's name."""
    group: int = 1
    """Steps of the reduction that lie side by side."""
    filled: int = 1
    """What the steps are filled up to a multiple of: a tile's."""
    sums: int = 0
    """What sums over the reduction are multiplied by that each panel ends with, for a kernel that
    flips the signs of the other factor: in a step more, groups of four bytes are s32. 0: none."""

    @property
    def panels(self) -> tuple[int, ...]:
        """Panels, steps of the reduction, a panel's width, and a group's size if there are groups.

        Of groups, each is one step; so are the sums that a panel ends with.
        """
        depth = -(-self.shape[1 - self.cut] // self.filled) * self.filled
        steps = -(-depth // self.group) + bool(self.sums)
        shape = -(-self.shape[self.cut] // self.width), steps, self.width
        return shape if self.group == 1 else (*shape, self.group)

    @cached_property
    def fingerprint(self) -> str:
        """Equal for equal layouts."""
        told = (
            *(self.operand, self.shape, self.element.name, self.cut, self.width),
            *(self.group, self.filled, self.target, self.sums),
        )
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]

    def place(self, row: str, column: str) -> str:
        """The index of an element of the array among the panels, as in C: `[n / 48][k][n % 48]`.

        Args:
            row: what the element's first index is called.
            column: and its second.
        """
        along, step = (row, column) if self.cut == 0 else (column, row)
        indices = [f"{along} / {self.width}", step, f"{along} % {self.width}"]
        if self.group > 1:
            indices[1:] = f"{step} / {self.group}", indices[2], f"{step} % {self.group}"
        return "".join(f"[{index}]" for index in indices)

    def __str__(self) -> str:
        """Shape, type and panels: `1024x4096 float32 rhs, panels of 48`."""
        groups = f" in groups of {self.group}" if self.group > 1 else ""
        shape = "x".join(map(str, self.shape))
        sums = ", each with its sums" if self.sums else ""
        return (
            f"{shape} {self.element.dtype.name} {self.operand}, panels of {self.width}{groups}"
            f"{sums}"
        )

    def differences(self, other: "Layout") -> Iterator[str]:
        """What another layout has that this one has not, in words."""
        pairs = {
            "shape": (self.shape, other.shape),
            "type": (self.element.dtype.name, other.element.dtype.name),
            "target": (self.target, other.target),
            "reduction along dimension": (1 - self.cut, 1 - other.cut),
            "panel width": (self.width, other.width),
            "group size": (self.group, other.group),
            "steps filled up to": (self.filled, other.filled),
            "sums times": (self.sums, other.sums),
        }
        for what, (mine, theirs) in pairs.items():
            if mine != theirs:
                yield f"{what} {theirs} instead of {mine}"


@dataclass(frozen=True, eq=False, repr=False)
class Packed:
    """A factor in the layout that a kernel reads fastest; it can't be changed.

    Made by `nkdsl.pack`, and given to that kernel in the array's place, or to any that reads the
    same layout.
    """

    layout: Layout
    panels: Array
    """The memory, read-only: panels, steps of the reduction, elements of a panel, of a group."""

    def __repr__(self) -> str:
        return f"<nkdsl.Packed {self.layout} for {self.layout.target}>"

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the array that was packed."""
        return self.layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the elements."""
        return self.layout.element.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of memory, those that fill up the last panel among them."""
        return self.panels.nbytes

    @property
    def target(self) -> str:
        """The name of the target that it was packed for."""
        return self.layout.target

    @property
    def fingerprint(self) -> str:
        """What a kernel knows a layout by that it can read."""
        return self.layout.fingerprint

    @property
    def address(self) -> int:
        """Where the panels are, for native callers of `Kernel.packed`; valid as long as this is."""
        return address_of(self.panels)

    def unpack(self) -> Array:
        """The array that was packed, a new one."""
        layout = self.layout
        count, steps, width, *_ = layout.panels
        panels = self.panels.reshape(count, steps, width, layout.group)
        steps -= bool(layout.sums)
        panels = panels[:, :steps].transpose(1, 3, 0, 2)
        matrix = panels.reshape(steps * layout.group, count * width)
        matrix = matrix[: self.shape[1 - layout.cut], : self.shape[layout.cut]]
        return np.array(matrix if self.layout.cut else matrix.T, order="C")


def filled(array: Array, layout: Layout) -> Array:
    """A factor's panels, the last one, and the last groups, filled up with zeros."""
    count, steps, width, *_ = layout.panels
    group = layout.group
    memory = aligned_bytes(count * steps * width * group * layout.element.size)
    panels = memory.view(layout.element.dtype).reshape(count, steps, width, group)
    panels[-1:] = 0
    panels[:, layout.shape[1 - layout.cut] // group :] = 0
    matrix = array if layout.cut else array.T  # the reduction first
    whole, rest = divmod(layout.shape[layout.cut], width)
    for place in range(group):
        rows = matrix[place::group]
        parts = rows[:, : whole * width].reshape(len(rows), whole, width)
        panels[:whole, : len(rows), :, place] = parts.transpose(1, 0, 2)
        if rest:
            panels[whole, : len(rows), :rest, place] = rows[:, whole * width :]
    if layout.sums:
        sums = panels[:, :-1].sum(axis=(1, 3), dtype=np.int64) * layout.sums
        memory.view(np.int32).reshape(count, steps, width)[:, -1] = sums.astype(np.int32)
    panels = panels.reshape(layout.panels)
    panels.flags.writeable = False
    return panels
