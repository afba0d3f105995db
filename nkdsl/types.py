"""The element types that nkdsl computes with: one table, read by every other module.

An `ElementType` joins the four names that one type has: nkdsl's (`f32`), numpy's, xDSL's
and C's. This module imports xDSL and numpy only.
"""

from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import Float32Type, Float64Type
from xdsl.ir import Attribute

from nkdsl.errors import Unsupported


@dataclass(frozen=True)
class ElementType:
    """One element type under all its names."""

    name: str
    """The name in MLIR and on the command line."""
    dtype: np.dtype[np.generic]
    """numpy's type."""
    mlir: Attribute
    """xDSL's type attribute."""
    c: str
    """The type in a C declaration."""
    unit_roundoff: float
    """u: half the distance from 1 to the next larger number."""

    @property
    def size(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize


ELEMENT_TYPES = (
    ElementType("f32", np.dtype(np.float32), Float32Type(), "float", 2.0**-24),
    ElementType("f64", np.dtype(np.float64), Float64Type(), "double", 2.0**-53),
)
"""Every element type that nkdsl knows."""

_BY_NAME = {t.name: t for t in ELEMENT_TYPES}
_BY_MLIR = {t.mlir: t for t in ELEMENT_TYPES}


def _known() -> str:
    return ", ".join(_BY_NAME)


def element_type(name: str) -> ElementType:
    """The element type called `name`; raises `Unsupported` with the list of those known."""
    if (found := _BY_NAME.get(name)) is not None:
        return found
    raise Unsupported(f"element type '{name}' is not supported; supported are: {_known()}")


def element_type_of(attribute: Attribute) -> ElementType:
    """The element type of an xDSL type; raises `Unsupported` with the list of those known."""
    if (found := _BY_MLIR.get(attribute)) is not None:
        return found
    raise Unsupported(f"element type {attribute} is not supported; supported are: {_known()}")
