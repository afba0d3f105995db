"""Interpreters: every level of nkdsl, executed in numpy with the element type's real rounding.

What goes in is a module at any level and numpy arrays; the arrays are changed in place, as a
compiled kernel would change them.

    run(module, "matmul", [a, b, c])

Each operation has one rule, a short method beside its dialect's others:

    buffer      memrefs: an allocation, and a shape and strides on it, with bounds checks
    executor    runs a module's functions by their rules
    iteration   index maps as arrays of positions, for linalg and whole products
    arith, linalg, nanokernel, nkvector, upstream      the rules

A module must compute the same at every level, up to the rounding that a lowering is free to
choose; `nkdsl.testing` checks that. The upstream level is keyed by upstream names and reads no
table of nkdsl, so that an entry which is wrong can't agree with itself. Imports: our dialects,
targets and types, never a pass.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from xdsl.dialects.builtin import DYNAMIC_INDEX, IntegerType, MemRefType, ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.interpreters.func import FuncFunctions
from xdsl.interpreters.scf import ScfFunctions
from xdsl.ir import Attribute

from nkdsl.errors import InvalidInput
from nkdsl.interpreters.arith import ArithFunctions
from nkdsl.interpreters.buffer import Array, Buffer, dtype_of
from nkdsl.interpreters.executor import ExecutionError, Executor
from nkdsl.interpreters.linalg import LinalgFunctions
from nkdsl.interpreters.nanokernel import NanokernelFunctions, poisoned, workspace_bytes
from nkdsl.interpreters.nkvector import NkVectorFunctions
from nkdsl.interpreters.upstream import MemRefFunctions, VectorFunctions

__all__ = [
    "Buffer",
    "ExecutionError",
    "Executor",
    "executor",
    "function_named",
    "run",
    "workspace_bytes",
]

_FUNCTIONS = (
    FuncFunctions,
    ScfFunctions,
    ArithFunctions,
    LinalgFunctions,
    NanokernelFunctions,
    NkVectorFunctions,
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
    module: ModuleOp, function: str, arrays: Sequence[Array], *, workspace: int | None = None
) -> int:
    """Execute a function of a module, at any level, on numpy arrays in place.

    Args:
        module: the module.
        function: the function's name.
        arrays: one array a memref argument, of the type's shape, or of any shape where the type
            is a pointer (a memref of rank 0). A last argument of type `memref<i8>` without an
            array is the workspace.
        workspace: the bytes of workspace that the caller provides where the function takes it as
            an argument. They are filled with NaN.

    Returns:
        The number of operations that were executed.

    Raises:
        InvalidInput: if there is no such function or the arrays don't fit its arguments.
        ExecutionError: if an operation can't be executed, for example out of bounds.
    """
    func = function_named(module, function)
    types = func.function_type.inputs.data
    if len(types) == len(arrays) + 1 and _is_workspace(types[-1]):
        arrays = [*arrays, poisoned(workspace or 0).view(np.int8)]
    if len(types) != len(arrays):
        raise InvalidInput(f"'{function}' takes {len(types)} arguments, not {len(arrays)}")
    buffers = [
        _argument(f"argument {position} of '{function}'", type_, array)
        for position, (type_, array) in enumerate(zip(types, arrays, strict=True))
    ]
    machine = executor(module)
    with np.errstate(all="ignore"):
        machine.call_op(func, tuple(buffers))
    return machine.executed


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


def _argument(what: str, type_: Attribute, array: Array) -> Any:
    """A function's argument: an array as the memref that the type declares."""
    if not isinstance(type_, MemRefType):
        raise InvalidInput(f"{what} is of type {type_}; only memrefs can be passed")
    if array.dtype != dtype_of(type_.element_type):
        raise InvalidInput(f"{what} is {type_}; an array of {array.dtype} can't be passed")
    if type_.get_num_dims() == 0:
        return Buffer.pointer(array)
    buffer = Buffer.of(array)
    extents = [None if extent == DYNAMIC_INDEX else extent for extent in type_.get_shape()]
    if not _fits(extents, buffer.shape):
        raise InvalidInput(f"{what} is {type_}; an array of shape {array.shape} can't be passed")
    # Memory is never stepped through along a dimension of one element, nor in an empty array.
    walked = [extent > 1 and array.size > 0 for extent in buffer.shape]
    strides = [s if w else None for s, w in zip(type_.get_strides() or (), walked, strict=True)]
    if not _fits(strides, buffer.strides):
        raise InvalidInput(f"{what} is {type_}; its strides are not {buffer.strides}")
    return buffer


def _fits(declared: Sequence[int | None], actual: Sequence[int]) -> bool:
    """Whether numbers are those of a type; None stands for any."""
    return len(declared) == len(actual) and all(
        d is None or d == a for d, a in zip(declared, actual, strict=True)
    )
