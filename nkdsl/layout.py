"""Memory layouts that nkdsl can compile for: everything known, every step forward.

`layout_of` is the one place that refuses the others, for all passes and for signatures. Imports
xDSL and `nkdsl.errors` only.
"""

from dataclasses import dataclass

from xdsl.dialects.builtin import DYNAMIC_INDEX, MemRefType

from nkdsl.errors import Unsupported


@dataclass(frozen=True)
class Layout:
    """Where the elements of a memref lie."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements; none is negative."""

    @property
    def span(self) -> int:
        """Elements from the first to the last one in memory, both included."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))


def layout_of(type_: MemRefType) -> Layout:
    """The layout of a memref type.

    Raises:
        Unsupported: for sizes or strides known only at run time, for layouts that aren't strided,
            and for negative strides.
    """
    shape = type_.get_shape()
    if DYNAMIC_INDEX in shape:
        raise Unsupported(
            f"{type_}: sizes known only at run time are not supported yet; give every dimension "
            "an extent, and compile once for each shape"
        )
    strides = type_.get_strides()
    if strides is None or None in strides:
        raise Unsupported(
            f"{type_} needs a static strided layout, as in strided<[{'8, ' * (len(shape) - 1)}1]>"
        )
    known = tuple(s for s in strides if s is not None)
    if any(s < 0 for s in known):
        raise Unsupported(
            f"{type_} has a negative stride, but kernels get a pointer to the lowest address; "
            "copy it to memory in which every stride is positive"
        )
    return Layout(shape, known)
