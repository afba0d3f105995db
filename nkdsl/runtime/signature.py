"""What a kernel's arguments must be, the check that they are, and what native code gets of them.

A `Signature` is read from a function once. `Signature.check` says in words what doesn't fit; the
same conditions without words are the machine code of `runtime.entry`, which nearly every call
takes.

Native code gets, for each memref, a pointer to its first element, then those sizes and those
strides (in elements) that its type leaves open, all of them `int64_t`; a number by value; and last
a pointer to the workspace, if there is one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from xdsl.dialects import func, memref
from xdsl.dialects.builtin import DYNAMIC_INDEX, AnyFloat, MemRefType, NoneAttr
from xdsl.dialects.linalg.abstract_ops import LinalgStructuredOperation
from xdsl.ir import Block, BlockArgument, SSAValue
from xdsl.ir.affine import AffineMap

from nkdsl.diagnostics import source_position
from nkdsl.dialects.nanokernel import GemmOp, is_unsigned, linear_coefficients
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.layout import layout_of
from nkdsl.runtime.address import address_of
from nkdsl.runtime.c_names import WORKSPACE, c_names, function_name, is_symbol
from nkdsl.types import ElementType, element_type_of

Array = npt.NDArray[np.generic]

Place = tuple[int, int]
"""An argument's position and one of its dimensions."""

DYNAMIC = -1
"""A size or stride that is known only at run time."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: a memref, or a number."""

    name: str
    """Its name in C."""
    element: ElementType
    shape: tuple[int, ...]
    """`DYNAMIC` where a size is known only at run time."""
    strides: tuple[int, ...]
    """In elements; `DYNAMIC` where one is known only at run time."""
    written: bool
    """Whether the kernel writes to it."""
    dense: bool = False
    """Whether its strides follow from its sizes, row-major; native code isn't told them."""
    scalar: bool = False
    """Whether it is a number, passed by value."""

    @cached_property
    def open_sizes(self) -> tuple[int, ...]:
        """The dimensions whose sizes native code is told."""
        return tuple(d for d, size in enumerate(self.shape) if size == DYNAMIC)

    @cached_property
    def open_strides(self) -> tuple[int, ...]:
        """The dimensions whose strides native code is told."""
        if self.dense:
            return ()
        return tuple(d for d, stride in enumerate(self.strides) if stride == DYNAMIC)

    @property
    def endings(self) -> tuple[str, ...]:
        """What its sizes and strides are called after its name, in the order of native code."""
        sizes = [f"_d{d}" for d in self.open_sizes]
        return *sizes, *(f"_s{d}" for d in self.open_strides)

    @cached_property
    def byte_strides(self) -> tuple[int, ...]:
        """Strides in bytes, as numpy counts them; `DYNAMIC` stays what it is."""
        return tuple(s if s == DYNAMIC else s * self.element.size for s in self.strides)

    @property
    def c(self) -> str:
        """Its declaration in C."""
        if self.scalar:
            return f"{self.element.c} {self.name}"
        const = "" if self.written else "const "
        numbers = [f"int64_t {self.name}{ending}" for ending in self.endings]
        return ", ".join([f"{const}{self.element.c} *{self.name}", *numbers])

    def strides_for(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Strides in bytes of an array of this shape; `DYNAMIC` where any will do."""
        strides, dense = list(self.byte_strides), self.element.size
        for d in reversed(range(len(shape))):
            if self.dense:
                strides[d] = dense
            dense *= shape[d]
        return tuple(strides)


@dataclass(frozen=True)
class Reach:
    """An index that is a sum: all its values lie inside one dimension."""

    place: Place
    constant: int
    terms: tuple[tuple[int, Place], ...]
    """Coefficients, and a dimension as large as the iterator that each belongs to."""

    def bounds(self, sizes: Sequence[int]) -> tuple[int, int]:
        """The least and the largest value, if each term's iterator has this size."""
        ends = [c * (size - 1) for (c, _), size in zip(self.terms, sizes, strict=True)]
        least = self.constant + sum(min(0, end) for end in ends)
        return least, self.constant + sum(max(0, end) for end in ends)


@dataclass(frozen=True)
class Signature:
    """A kernel's name, its parameters, and how their sizes depend on each other."""

    symbol: str
    parameters: tuple[Parameter, ...]
    equal: tuple[tuple[Place, ...], ...] = ()
    """Dimensions of equal size, some known only at run time; one that is known comes first."""
    reaches: tuple[Reach, ...] = ()
    """What sums of iterators index, where some size is known only at run time."""

    def declaration(self, workspace_bytes: int) -> str:
        """The C prototype; with a workspace, a pointer to it comes last.

        A symbol that is no name in C gets another one there, and a label that says the symbol.
        Where sizes or strides are parameters, <stdint.h> has their type.
        """
        parameters = [p.c for p in self.parameters]
        if workspace_bytes:
            parameters.append(f"void *{WORKSPACE}")
        name = function_name(self.symbol)
        label = "" if name == self.symbol else f' __asm__("{self.symbol}")'
        return f"void {name}({', '.join(parameters) or 'void'}){label};"

    @cached_property
    def disjoint(self) -> tuple[tuple[int, int], ...]:
        """A result and an argument that it must not overlap; two results make one pair."""
        return tuple(
            (position, other)
            for position, parameter in enumerate(self.parameters)
            for other, another in enumerate(self.parameters)
            if parameter.written
            and other != position
            and not another.scalar
            and not (another.written and other < position)
        )

    def check(self, arguments: Sequence[Any]) -> list[int | float]:
        """Refuse arguments that the native code must not see.

        Returns:
            What the native code gets, without the workspace.

        Raises:
            InvalidInput: for a wrong number, type, shape, layout, for sizes that disagree, for a
                read-only output, and for an output that overlaps another argument.
        """
        wanted, given = len(self.parameters), len(arguments)
        if given != wanted:
            what = "arguments" if any(p.scalar for p in self.parameters) else "arrays"
            raise InvalidInput(f"{self.symbol} takes {wanted} {what}, got {given}")
        for position, (argument, parameter) in enumerate(
            zip(arguments, self.parameters, strict=True)
        ):
            reason = _mismatch(argument, parameter)
            if reason is not None:
                raise InvalidInput(f"argument {position} of {self.symbol} {reason}")
        self._refuse_sizes(arguments)
        self._refuse_overlap(arguments)
        return [
            value
            for argument, parameter in zip(arguments, self.parameters, strict=True)
            for value in _native(argument, parameter)
        ]

    def _refuse_sizes(self, arrays: Sequence[Any]) -> None:
        """Refuse arrays whose sizes disagree with each other."""

        def size(place: Place) -> int:
            argument, dimension = place
            return int(arrays[argument].shape[dimension])

        for first, *others in self.equal:
            for other in others:
                if size(other) != size(first):
                    raise InvalidInput(
                        f"argument {other[0]} of {self.symbol} has size {size(other)} in "
                        f"dimension {other[1]}, but argument {first[0]} has size {size(first)} in "
                        f"dimension {first[1]}; these must be equal"
                    )
        for reach in self.reaches:
            sizes = [size(place) for _, place in reach.terms]
            least, most = reach.bounds(sizes)
            if 0 not in sizes and not (least >= 0 and most < size(reach.place)):
                terms = [
                    f"argument {place[0]} has size {size(place)} in dimension {place[1]}"
                    for _, place in reach.terms
                ]
                raise InvalidInput(
                    f"argument {reach.place[0]} of {self.symbol} has size {size(reach.place)} in "
                    f"dimension {reach.place[1]}, which is indexed from {least} to {most} "
                    f"({'; '.join(terms)})"
                )

    def _refuse_overlap(self, arrays: Sequence[Any]) -> None:
        """Refuse a result that has an element in common with another argument."""
        for result, other in self.disjoint:
            if np.shares_memory(arrays[other], arrays[result]):
                raise InvalidInput(
                    f"argument {result} of {self.symbol} is written and overlaps argument {other}; "
                    "give the result memory of its own"
                )


def _native(array: Any, parameter: Parameter) -> Iterator[int | float]:
    """What native code gets of an argument that fits."""
    if parameter.scalar:
        yield float(array)
        return
    yield address_of(array)
    yield from (array.shape[d] for d in parameter.open_sizes)
    # Only a stride that is never walked can be negative here.
    for d in parameter.open_strides:
        yield max(array.strides[d], 0) // parameter.element.size


# ------------------------------------------------------------------------ what doesn't fit


def _mismatch(argument: object, parameter: Parameter) -> str | None:
    """What is wrong with an argument for a parameter, in words; None where nothing is."""
    if parameter.scalar:
        return _no_number(argument)
    if not isinstance(argument, np.ndarray):
        return f"must be a numpy array, not {type(argument).__name__}"
    if argument.dtype != parameter.element.dtype:
        return f"must have type {parameter.element.dtype}, not {argument.dtype}"
    if not _fits(argument.shape, parameter.shape):
        return f"must have shape {_text(parameter.shape)}, not {argument.shape}"
    reason = _wrong_strides(argument, parameter)
    if reason is not None:
        return reason
    if parameter.written and not argument.flags.writeable:
        return "is written by the kernel but read-only"
    if not argument.flags.aligned:
        return "must be aligned to its element type"
    return None


def _no_number(argument: object) -> str | None:
    if not isinstance(argument, float | int | np.floating | np.integer):
        return f"must be a number, not {type(argument).__name__}"
    try:
        float(argument)
    except OverflowError:
        return "is too large for a floating-point number"
    return None


def _fits(have: Sequence[int], want: Sequence[int]) -> bool:
    return len(have) == len(want) and all(
        w in (DYNAMIC, h) for h, w in zip(have, want, strict=True)
    )


def _text(numbers: Sequence[int]) -> str:
    """A tuple as Python prints it, with question marks for what is known only at run time."""
    words = ["?" if n == DYNAMIC else str(n) for n in numbers]
    return f"({', '.join(words)}{',' if len(words) == 1 else ''})"


def _wrong_strides(array: Array, parameter: Parameter) -> str | None:
    """What is wrong with the strides, looking only at those that are ever walked."""
    if 0 in array.shape:
        return None
    wanted = parameter.strides_for(array.shape)
    if array.strides == wanted and not parameter.open_strides:
        return None
    walked = [
        (extent, have, want)
        for extent, have, want in zip(array.shape, array.strides, wanted, strict=True)
        if extent > 1
    ]
    size = parameter.element.size
    copy = "copy it with numpy.ascontiguousarray"
    if any(want not in (DYNAMIC, have) for _, have, want in walked):
        return (
            f"must have strides {_text(wanted)} bytes, not {array.strides}; "
            f"{copy}, or compile for its layout (strided<...>)"
        )
    if any(have < 0 for _, have, _ in walked):
        return (
            f"has strides {array.strides} bytes, but kernels get a pointer to the lowest "
            f"address; {copy}, in which every stride is positive"
        )
    if any(have % size for _, have, _ in walked):
        return (
            f"has strides {array.strides} bytes, which are no multiples of its element's {size} "
            f"bytes; {copy}"
        )
    if parameter.written and parameter.open_strides and not _is_nested(walked, size):
        return (
            f"is written, but its strides {array.strides} bytes make elements share memory; "
            "give the result memory of its own"
        )
    return None


def _is_nested(walked: Sequence[tuple[int, int, int]], size: int) -> bool:
    """Whether each stride leads past all that the smaller ones reach."""
    reach = size
    for extent, stride, _ in sorted(walked, key=lambda entry: entry[1]):
        if stride < reach:
            return False
        reach += (extent - 1) * stride
    return True


# ------------------------------------------------------------------ reading it from a function


def read_signature(function: func.FuncOp) -> Signature:
    """The signature of a function at the linalg or nanokernel level.

    Raises:
        Unsupported: for parameters that are neither memrefs of strided layout nor numbers, for
            results, for names that can't be linked to, and for sizes that can't agree; with the
            function's place in the source.
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
    block = function.body.blocks[0]
    unnamed = [_parameter(argument, name, argument in written) for argument in block.args]
    names = c_names([a.name_hint for a in block.args], [p.endings for p in unnamed])
    parameters = tuple(replace(p, name=called) for p, called in zip(unnamed, names, strict=True))
    equal, reaches = _relations(function, block, parameters)
    return Signature(name, parameters, equal, reaches)


def _parameter(argument: BlockArgument, function: str, written: bool) -> Parameter:
    """A parameter without its name."""
    place = f"parameter {argument.index} of '{function}'"
    type_ = argument.type
    if not isinstance(type_, MemRefType | AnyFloat):
        raise Unsupported(f"{place} is {type_}, neither a memref nor a float")
    try:
        if not isinstance(type_, MemRefType):
            return _number(element_type_of(type_))
        shape, strides = _layout(type_)
        element = element_type_of(type_.element_type, unsigned=is_unsigned(argument))
    except Unsupported as error:
        raise Unsupported(f"{place}: {error}") from error
    return Parameter(
        name="",
        element=element,
        shape=shape,
        strides=strides,
        written=written,
        dense=isinstance(type_.layout, NoneAttr) and DYNAMIC in strides,
    )


def _number(element: ElementType) -> Parameter:
    """A parameter that is passed by value."""
    if element.size < 4:
        raise Unsupported(
            f"numbers are passed as f32 or f64, not as {element.name}; pass f32, and round it with "
            "arith.truncf"
        )
    return Parameter("", element, (), (), written=False, scalar=True)


def _layout(type_: MemRefType) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape and the strides of a memref type, `DYNAMIC` where it leaves them open."""
    shape = tuple(DYNAMIC if n == DYNAMIC_INDEX else n for n in type_.get_shape())
    strides = type_.get_strides()
    if strides is None and DYNAMIC in shape:
        raise Unsupported(
            f"{type_} needs a strided layout, as in strided<[{'?, ' * (len(shape) - 1)}1]>"
        )
    if strides is None or (DYNAMIC not in shape and None not in strides):
        known = layout_of(type_)
        return known.shape, known.strides
    if any(s is not None and s < 0 for s in strides):
        raise Unsupported(
            f"{type_} has a negative stride, but kernels get a pointer to the lowest address; "
            "copy it to memory in which every stride is positive"
        )
    return shape, tuple(DYNAMIC if s is None else s for s in strides)


def _written(function: func.FuncOp) -> set[SSAValue]:
    """The arguments that some op writes."""
    found: set[SSAValue] = set()
    for op in function.walk():
        match op:
            case LinalgStructuredOperation():
                found.update(_memory(value) for value in op.outputs)
            case GemmOp():
                found.add(_memory(op.out))
            case _:
                pass
    return found


def _memory(value: SSAValue) -> SSAValue:
    """What a view shows a part of; other values are their own."""
    while isinstance(value.owner, memref.SubviewOp | memref.CastOp | memref.ReinterpretCastOp):
        value = value.owner.source
    return value


# ---- how sizes depend on each other


def _relations(
    function: func.FuncOp, block: Block, parameters: Sequence[Parameter]
) -> tuple[tuple[tuple[Place, ...], ...], tuple[Reach, ...]]:
    """Dimensions of equal size, and indices that are sums, as far as neither is known."""

    def size(place: Place) -> int:
        argument, dimension = place
        return parameters[argument].shape[dimension]

    groups: list[set[Place]] = []
    reaches: list[Reach] = []
    for op in function.walk():
        if not isinstance(op, GemmOp | LinalgStructuredOperation):
            continue
        if isinstance(op, GemmOp):
            operands, maps = op.memrefs, op.indexing_maps
        else:
            operands = tuple(op.operands)
            maps = tuple(attribute.data for attribute in op.get_indexing_maps())
        alone, sums = _indexed(operands, maps, block)
        for places in alone.values():
            touching = [group for group in groups if group & places]
            groups = [group for group in groups if not group & places]
            groups.append(places.union(*touching))
        extents = {iterator: min(places) for iterator, places in alone.items()}
        for place, coefficients, constant in sums:
            used = [(c, d) for d, c in enumerate(coefficients) if c]
            if all(d in extents for _, d in used):
                reaches.append(Reach(place, constant, tuple((c, extents[d]) for c, d in used)))
    equal = []
    for group in groups:
        known = sorted(place for place in group if size(place) != DYNAMIC)
        if len({size(place) for place in known}) > 1:
            _refuse_known(function, known, size)
        entry = (*known[:1], *sorted(group.difference(known)))
        if len(entry) > len(known[:1]) and len(entry) > 1:
            equal.append(entry)
    return tuple(equal), tuple(
        reach
        for reach in dict.fromkeys(reaches)
        if DYNAMIC in (size(reach.place), *(size(place) for _, place in reach.terms))
    )


def _refuse_known(
    function: func.FuncOp, places: Sequence[Place], size: Callable[[Place], int]
) -> NoReturn:
    """Refuse a program that no arguments fit."""
    sizes = [f"{size((p, d))} (parameter {p}, dimension {d})" for p, d in places]
    raise Unsupported(
        f"function '{function.sym_name.data}' needs dimensions of equal size, but their types "
        f"say {', '.join(sizes)}; give them one size"
    )


def _indexed(
    operands: Sequence[SSAValue], maps: Sequence[AffineMap], block: Block
) -> tuple[dict[int, set[Place]], list[tuple[Place, list[int], int]]]:
    """The dimensions of arguments that an iterator indexes alone, and those that sums index.

    Sums are told by the coefficients of all iterators and a constant.
    """
    alone: dict[int, set[Place]] = {}
    sums: list[tuple[Place, list[int], int]] = []
    for operand, map_ in zip(operands, maps, strict=True):
        if operand.owner is not block or not isinstance(operand, BlockArgument):
            continue
        for dimension, index in enumerate(map_.results):
            linear = linear_coefficients(index, map_.num_dims)
            if linear is None:
                continue
            coefficients, constant = linear
            place = operand.index, dimension
            used = [(c, d) for d, c in enumerate(coefficients) if c]
            if constant == 0 and [c for c, _ in used] == [1]:
                alone.setdefault(used[0][1], set()).add(place)
            else:
                sums.append((place, coefficients, constant))
    return alone, sums
