"""What a kernel's arguments must be, and the check that they are.

A `Signature` is read from a function once. Checking an argument list is a comparison of tuples;
the words of a refusal are put together only when there is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from numpy import ndarray
from xdsl.dialects import func
from xdsl.dialects.builtin import MemRefType
from xdsl.dialects.linalg.abstract_ops import LinalgStructuredOperation
from xdsl.ir import BlockArgument, SSAValue

from nkdsl.diagnostics import source_position
from nkdsl.dialects.nanokernel import GemmOp
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.layout import Layout, layout_of
from nkdsl.runtime.address import address_of
from nkdsl.runtime.c_names import WORKSPACE, c_names, function_name, is_symbol
from nkdsl.types import ElementType, element_type_of

Array = npt.NDArray[np.generic]
Description = tuple[np.dtype[np.generic], tuple[int, ...], tuple[int, ...], bool, int]
"""An array's dtype, shape, strides in bytes, whether it is written, and its alignment in bytes."""


@dataclass(frozen=True)
class Parameter:
    """One memref parameter of a kernel."""

    name: str
    """Its name in C."""
    element: ElementType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements."""
    written: bool
    """Whether the kernel writes to it."""

    @cached_property
    def byte_strides(self) -> tuple[int, ...]:
        """Strides in bytes, as numpy counts them."""
        return tuple(s * self.element.size for s in self.strides)

    @cached_property
    def bytes(self) -> int:
        """Bytes from its first element to the end of its last one in memory."""
        return Layout(self.shape, self.strides).span * self.element.size

    @property
    def c(self) -> str:
        """Its declaration in C."""
        const = "" if self.written else "const "
        return f"{const}{self.element.c} *{self.name}"


@dataclass(frozen=True)
class Signature:
    """A kernel's name and parameters."""

    symbol: str
    parameters: tuple[Parameter, ...]

    def declaration(self, workspace_bytes: int) -> str:
        """The C prototype; with a workspace, a pointer to it comes last.

        A symbol that is no name in C gets another one there, and a label that says the symbol.
        """
        parameters = [p.c for p in self.parameters]
        if workspace_bytes:
            parameters.append(f"void *{WORKSPACE}")
        name = function_name(self.symbol)
        label = "" if name == self.symbol else f' __asm__("{self.symbol}")'
        return f"void {name}({', '.join(parameters) or 'void'}){label};"

    def check(self, arrays: Sequence[Array]) -> list[int]:
        """Refuse arguments that the native code must not see.

        Returns:
            The address of each array.

        Raises:
            InvalidInput: for a wrong number, type, shape, layout, for a read-only output, and for
                an output that overlaps another argument.
        """
        if len(arrays) != len(self.parameters):
            raise InvalidInput(
                f"{self.symbol} takes {len(self.parameters)} arrays, got {len(arrays)}"
            )
        addresses: list[int] = []
        # `strict` would take as long as the rest of a turn, and the lengths are known.
        for array, (dtype, shape, strides, written, unit) in zip(arrays, self._wanted):  # noqa: B905
            if (
                type(array) is not ndarray
                or array.dtype is not dtype
                or array.shape != shape
                or array.strides != strides
                or (written and not array.flags.writeable)
            ):
                self._refuse_mismatch(arrays)
            address = address_of(array)
            if address % unit:
                self._refuse_mismatch(arrays)
            addresses.append(address)
        for result, end, other, other_end in self._ranges:
            start, other_start = addresses[result], addresses[other]
            if start < other_start + other_end and other_start < start + end:
                self._refuse_overlap(arrays, result, other)
        return addresses

    def _refuse_mismatch(self, arrays: Sequence[Array]) -> None:
        """Refuse the first array that doesn't fit; one that looks odd may fit after all."""
        for position, (array, parameter) in enumerate(zip(arrays, self.parameters, strict=True)):
            reason = _mismatch(array, parameter)
            if reason is not None:
                raise InvalidInput(f"argument {position} of {self.symbol} {reason}")

    def _refuse_overlap(self, arrays: Sequence[Array], result: int, other: int) -> None:
        """Refuse two arrays with a common element; their ranges overlap."""
        if np.shares_memory(arrays[other], arrays[result]):
            raise InvalidInput(
                f"argument {result} of {self.symbol} is written and overlaps argument {other}; "
                "give the result memory of its own"
            )

    @cached_property
    def _wanted(self) -> tuple[Description, ...]:
        """What an array for each parameter answers, nearly always."""
        return tuple(
            (p.element.dtype, p.shape, p.byte_strides, p.written, p.element.dtype.alignment)
            for p in self.parameters
        )

    @cached_property
    def _ranges(self) -> tuple[tuple[int, int, int, int], ...]:
        """A result and an argument that it must not overlap, each by its position and bytes.

        Two results make one pair.
        """
        return tuple(
            (position, parameter.bytes, other, another.bytes)
            for position, parameter in enumerate(self.parameters)
            for other, another in enumerate(self.parameters)
            if parameter.written
            and other != position
            and not (another.written and other < position)
        )


def _mismatch(array: object, parameter: Parameter) -> str | None:
    """What is wrong with an array for a parameter, in words; None where nothing is."""
    if not isinstance(array, np.ndarray):
        return f"must be a numpy array, not {type(array).__name__}"
    if array.dtype != parameter.element.dtype:
        return f"must have type {parameter.element.dtype}, not {array.dtype}"
    if array.shape != parameter.shape:
        return f"must have shape {parameter.shape}, not {array.shape}"
    if array.strides != parameter.byte_strides and not _same_layout(array, parameter):
        return (
            f"must have strides {parameter.byte_strides} bytes, not {array.strides}; "
            "copy it with numpy.ascontiguousarray, or compile for its layout (strided<...>)"
        )
    if parameter.written and not array.flags.writeable:
        return "is written by the kernel but read-only"
    if not array.flags.aligned:
        return "must be aligned to its element type"
    return None


def _same_layout(array: Array, parameter: Parameter) -> bool:
    """Whether strides differ only along dimensions that are never walked."""
    if 0 in parameter.shape:
        return True
    triples = zip(array.shape, array.strides, parameter.byte_strides, strict=True)
    return all(extent == 1 or have == want for extent, have, want in triples)


def read_signature(function: func.FuncOp) -> Signature:
    """The signature of a function at the linalg or nanokernel level.

    Raises:
        Unsupported: for parameters that aren't memrefs of known layout, for results, and for names
            that can't be linked to; with the function's place in the source.
    """
    try:
        return _read_signature(function)
    except Unsupported as error:
        raise Unsupported(f"{source_position(function)}{error}") from error


def _read_signature(function: func.FuncOp) -> Signature:
    name = function.sym_name.data
    if not is_symbol(name):
        raise Unsupported(
            f"function '{name}' can't be called by this name from C; rename it, with letters, "
            "digits, '_', '.' and '$' only, a letter or '_' first"
        )
    if function.function_type.outputs.data:
        raise Unsupported(
            f"function '{name}' returns values; write results to memref arguments instead"
        )
    written = _written(function)
    arguments = function.body.blocks[0].args
    names = c_names([argument.name_hint for argument in arguments])
    return Signature(
        name,
        tuple(
            _parameter(argument, name, called, argument in written)
            for argument, called in zip(arguments, names, strict=True)
        ),
    )


def _parameter(argument: BlockArgument, function: str, name: str, written: bool) -> Parameter:
    place = f"parameter {argument.index} of '{function}'"
    if not isinstance(argument.type, MemRefType):
        raise Unsupported(f"{place} is {argument.type}, not a memref")
    try:
        layout = layout_of(argument.type)
        element = element_type_of(argument.type.element_type)
    except Unsupported as error:
        raise Unsupported(f"{place}: {error}") from error
    return Parameter(
        name=name,
        element=element,
        shape=layout.shape,
        strides=layout.strides,
        written=written,
    )


def _written(function: func.FuncOp) -> set[SSAValue]:
    """The arguments that some op writes."""
    found: set[SSAValue] = set()
    for op in function.walk():
        match op:
            case LinalgStructuredOperation():
                found.update(op.outputs)
            case GemmOp():
                found.add(op.out)
            case _:
                pass
    return found
