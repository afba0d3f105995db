"""Interpreters: every level of nkdsl, executed in numpy with the element type's real rounding.

What goes in is a module at any level and numpy arrays; the arrays are changed in place, as a
compiled kernel would change them.

    run(module, "matmul", [a, b, c])
    run(upstream, "matmul", native_arguments(types, [a, b, c]))

Each operation has one rule, a short method beside its dialect's others:

    buffer      memrefs: an allocation, and a shape and strides on it, with bounds checks
    executor    runs a module's functions by their rules
    iteration   index maps as arrays of positions, for linalg and whole products
    instructions    what an instruction computes: entries of the target's table
    arith, linalg, math, nanokernel, nkvector, tile, scf, upstream      the rules
    amx, sme        tile registers as intrinsics know them

A module must compute the same at every level, up to the rounding that a lowering is free to
choose; `nkdsl.testing` checks that. The upstream level is keyed by upstream names and reads no
table of nkdsl, so that an entry which is wrong can't agree with itself. Imports: our dialects,
targets and types, never a pass.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    AnyFloat,
    IndexType,
    IntegerType,
    MemRefType,
    ModuleOp,
    StridedLayoutAttr,
)
from xdsl.dialects.func import FuncOp
from xdsl.interpreters.func import FuncFunctions
from xdsl.ir import Attribute

from nkdsl.errors import InvalidInput
from nkdsl.interpreters.arith import ArithFunctions
from nkdsl.interpreters.buffer import Array, Buffer, dtype_of, signed
from nkdsl.interpreters.executor import ExecutionError, Executor
from nkdsl.interpreters.linalg import LinalgFunctions
from nkdsl.interpreters.math import MathFunctions
from nkdsl.interpreters.nanokernel import NanokernelFunctions, poisoned, workspace_bytes
from nkdsl.interpreters.nkvector import NkVectorFunctions
from nkdsl.interpreters.omp import OmpFunctions
from nkdsl.interpreters.scf import ScfFunctions
from nkdsl.interpreters.tile import TileFunctions
from nkdsl.interpreters.upstream import MemRefFunctions, VectorFunctions
from nkdsl.interpreters.vector_arith import VectorArithFunctions

__all__ = [
    "Argument",
    "Buffer",
    "ExecutionError",
    "Executor",
    "executor",
    "function_named",
    "native_arguments",
    "run",
    "workspace_bytes",
]

Argument = Array | bool | int | float | np.generic
"""What a function takes: an array for a memref, a number for an index, an integer or a float."""

_FUNCTIONS = (
    FuncFunctions,
    ScfFunctions,
    ArithFunctions,
    VectorArithFunctions,
    TileFunctions,
    MathFunctions,
    LinalgFunctions,
    NanokernelFunctions,
    NkVectorFunctions,
    OmpFunctions,
    MemRefFunctions,
    VectorFunctions,
)
"""The rules of every dialect that a level of nkdsl uses."""


def executor(module: ModuleOp) -> Executor:
    """An executor of one run of `module`, with the rules of all levels."""
    result = Executor(module)
    for functions in _FUNCTIONS:
        result.register_implementations(functions())
    return result


def run(
    module: ModuleOp, function: str, arguments: Sequence[Argument], *, workspace: int | None = None
) -> int:
    """Execute a function of a module, at any level, on numpy arrays in place.

    Args:
        module: the module.
        function: the function's name.
        arguments: one array a memref argument, of the type's shape, or of any shape where the type
            is a pointer (a memref of rank 0), and numbers for arguments of other types. A last
            argument of type `memref<i8>` without an array is the workspace.
        workspace: the bytes of workspace that the caller provides where the function takes it as
            an argument. They are filled with NaN.

    Returns:
        The number of operations that were executed.

    Raises:
        InvalidInput: if there is no such function or the arguments don't fit.
        ExecutionError: if an operation can't be executed, for example out of bounds.
    """
    func = function_named(module, function)
    types = func.function_type.inputs.data
    if len(types) == len(arguments) + 1 and _is_workspace(types[-1]):
        arguments = [*arguments, poisoned(workspace or 0).view(np.int8)]
    if len(types) != len(arguments):
        raise InvalidInput(f"'{function}' takes {len(types)} arguments, not {len(arguments)}")
    values = [
        _value(f"argument {position} of '{function}'", type_, argument)
        for position, (type_, argument) in enumerate(zip(types, arguments, strict=True))
    ]
    machine = executor(module)
    with np.errstate(all="ignore"):
        machine.call_op(func, tuple(values))
    return machine.executed


def native_arguments(types: Sequence[Attribute], arguments: Sequence[Argument]) -> list[Argument]:
    """A function's arguments as its machine code, and the upstream level, takes them.

    Each array is a pointer, followed by the sizes and then by the strides, in elements, that its
    type leaves open. Other arguments stay as they are.

    Args:
        types: of the arguments, as the function declares them at the levels above.
        arguments: one for each.

    Raises:
        InvalidInput: if the arguments don't fit their types.
    """
    if len(types) != len(arguments):
        raise InvalidInput(f"{len(types)} arguments are needed, not {len(arguments)}")
    flat: list[Argument] = []
    for position, (type_, argument) in enumerate(zip(types, arguments, strict=True)):
        value = _value(f"argument {position}", type_, argument)
        flat.append(argument)
        if isinstance(type_, MemRefType) and type_.get_num_dims():
            flat += _left_open(type_, value)
    return flat


def _left_open(type_: MemRefType, buffer: Buffer) -> Iterator[int]:
    """The sizes and the strides that a type does not say."""
    for declared, size in zip(type_.get_shape(), buffer.shape, strict=True):
        if declared == DYNAMIC_INDEX:
            yield size
    if isinstance(type_.layout, StridedLayoutAttr):
        for stride, actual in zip(type_.layout.get_strides(), buffer.strides, strict=True):
            if stride is None:
                yield actual


def function_named(module: ModuleOp, name: str) -> FuncOp:
    """The function called `name`; raises `InvalidInput` with the list of those there are."""
    functions = {op.sym_name.data: op for op in module.ops if isinstance(op, FuncOp)}
    if name in functions:
        return functions[name]
    raise InvalidInput(f"no function '{name}'; there are: {', '.join(functions) or 'none'}")


def _is_workspace(type_: Attribute) -> bool:
    """Whether an argument's type is `memref<i8>`."""
    match type_:
        case MemRefType(element_type=IntegerType(width=width)):
            return width.data == 8 and type_.get_num_dims() == 0
        case _:
            return False


def _value(what: str, type_: Attribute, argument: Argument) -> Any:
    """A function's argument: an array as the memref that the type declares, a number as it is."""
    match type_, argument:
        case MemRefType(), np.ndarray():
            return _buffer(what, type_, argument)
        case IndexType() | IntegerType(), bool() | int() | np.integer() | np.bool_():
            return bool(argument) if dtype_of(type_) == np.bool_ else int(argument)
        case _, bool() | int() | float() | np.floating() if isinstance(type_, AnyFloat):
            return dtype_of(type_).type(argument)
        case _:
            raise InvalidInput(f"{what} is {type_}; a {type(argument).__name__} can't be passed")


def _buffer(what: str, type_: MemRefType, array: Array) -> Buffer:
    """An array as the memref that the type declares; MLIR's integers have no sign."""
    array = signed(array)
    if array.dtype != dtype_of(type_.element_type):
        raise InvalidInput(f"{what} is {type_}; an array of {array.dtype} can't be passed")
    if type_.get_num_dims() == 0:
        return Buffer.pointer(array)
    buffer = Buffer.of(array)
    if not buffer.has_shape_of(type_):
        raise InvalidInput(f"{what} is {type_}; an array of shape {array.shape} can't be passed")
    if not buffer.has_strides_of(type_):
        raise InvalidInput(f"{what} is {type_}; its strides are not {buffer.strides}")
    return buffer
