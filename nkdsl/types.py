"""The element types that nkdsl computes with: one table, read by every other module.

An `ElementType` joins the four names that one type has: nkdsl's (`f32`), numpy's, xDSL's
and C's. MLIR's integers have no sign: `s8` and `u8` are one type there, and what multiplies them
says how it reads them. This module imports xDSL, numpy and ml_dtypes only.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from xdsl.dialects.builtin import BFloat16Type, Float16Type, Float32Type, Float64Type, i8, i32
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
    """u: half the distance from 1 to the next larger number; zero for integers."""
    sums: str
    """The name of the type that products of it are added up in."""

    @property
    def size(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    @property
    def is_integer(self) -> bool:
        """Whether it holds integers."""
        return not self.unit_roundoff

    @property
    def is_unsigned(self) -> bool:
        """Whether it holds integers without a sign."""
        return self.dtype.kind == "u"

    @property
    def accumulator(self) -> "ElementType":
        """The type that products of it are added up in."""
        return element_type(self.sums)


ELEMENT_TYPES = (
    ElementType("f32", np.dtype(np.float32), Float32Type(), "float", 2.0**-24, "f32"),
    ElementType("f64", np.dtype(np.float64), Float64Type(), "double", 2.0**-53, "f64"),
    ElementType("bf16", np.dtype(ml_dtypes.bfloat16), BFloat16Type(), "uint16_t", 2.0**-8, "f32"),
    ElementType("f16", np.dtype(np.float16), Float16Type(), "uint16_t", 2.0**-11, "f32"),
    ElementType("s8", np.dtype(np.int8), i8, "int8_t", 0.0, "s32"),
    ElementType("u8", np.dtype(np.uint8), i8, "uint8_t", 0.0, "s32"),
    ElementType("s32", np.dtype(np.int32), i32, "int32_t", 0.0, "s32"),
)
"""Every element type that nkdsl knows."""

_BY_NAME = {t.name: t for t in ELEMENT_TYPES}
_BY_MLIR = {t.mlir: t for t in ELEMENT_TYPES if not t.is_unsigned}


def _known() -> str:
    return ", ".join(_BY_NAME)


def element_type(name: str) -> ElementType:
    """The element type called `name`; raises `Unsupported` with the list of those known."""
    if (found := _BY_NAME.get(name)) is not None:
        return found
    raise Unsupported(f"element type '{name}' is not supported; supported are: {_known()}")


def element_type_of(attribute: Attribute, *, unsigned: bool = False) -> ElementType:
    """The element type of an xDSL type; raises `Unsupported` with the list of those known.

    `unsigned` says how integers of 8 bits are read.
    """
    if (found := _BY_MLIR.get(attribute)) is not None:
        return _BY_NAME["u8"] if unsigned and found.name == "s8" else found
    raise Unsupported(f"element type {attribute} is not supported; supported are: {_known()}")
