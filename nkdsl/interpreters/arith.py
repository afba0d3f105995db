"""Execution of `arith`: on numbers, on vectors, and on whole arrays of elements.

Floating-point values are numpy's scalars or arrays, so each operation rounds in the element type.
Indices and integers are Python's, which do not wrap: an index that would is out of bounds anyway.
One rule serves scalars, vectors and the bodies of linalg operations, which run on arrays.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from xdsl.dialects import arith
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr, FloatAttr, IntegerAttr, ShapedType
from xdsl.interpreter import (
    Interpreter,
    InterpreterFunctions,
    PythonValues,
    impl,
    register_impls,
)
from xdsl.ir import Attribute, Operation
from xdsl.utils.exceptions import InterpretationError

from nkdsl.interpreters.buffer import Array, dtype_of

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "oeq": lambda x, y: x == y,
    "ogt": lambda x, y: x > y,
    "oge": lambda x, y: x >= y,
    "olt": lambda x, y: x < y,
    "ole": lambda x, y: x <= y,
    "une": lambda x, y: x != y,
}
"""Comparisons that numpy has, by what NaN does: `o…` is false, `u…` is true."""

_PREDICATES = (
    *("false", "oeq", "ogt", "oge", "olt", "ole", "one", "ord"),
    *("ueq", "ugt", "uge", "ult", "ule", "une", "uno", "true"),
)
"""Names of arith.cmpf's predicates, by number."""


def constant_value(value: Attribute) -> Any:
    """The Python or numpy value of a constant's attribute."""
    match value:
        case IntegerAttr():
            number = value.value.data
            return bool(number) if dtype_of(value.type) == np.bool_ else number
        case FloatAttr():
            return dtype_of(value.type).type(value.value.data)
        case DenseIntOrFPElementsAttr():
            return _dense(value)
        case _:
            raise InterpretationError(f"a constant of {value} can't be executed")


def _dense(value: DenseIntOrFPElementsAttr) -> Array:
    assert isinstance(value.type, ShapedType)
    dtype = dtype_of(value.get_element_type())
    shape = value.get_shape()
    elements = np.array(value.get_values()).astype(dtype)
    return np.full(shape, elements[0]) if len(elements) == 1 else elements.reshape(shape)


@register_impls
class ArithFunctions(InterpreterFunctions):
    """The rules of `arith`."""

    def __init__(self) -> None:
        self._constants: dict[Operation, PythonValues] = {}

    @impl(arith.ConstantOp)
    def run_constant(
        self, interpreter: Interpreter, op: arith.ConstantOp, args: PythonValues
    ) -> PythonValues:
        value = self._constants.get(op)
        if value is None:
            value = self._constants[op] = (self.constant(op.value),)
        return value

    def constant(self, value: Attribute) -> Any:
        """The value of a constant; taken once for each operation."""
        return constant_value(value)

    @impl(arith.IndexCastOp)
    def run_index_cast(
        self, interpreter: Interpreter, op: arith.IndexCastOp, args: PythonValues
    ) -> PythonValues:
        return args

    @impl(arith.AddiOp)
    def run_addi(
        self, interpreter: Interpreter, op: arith.AddiOp, args: PythonValues
    ) -> PythonValues:
        return (args[0] + args[1],)

    @impl(arith.SubiOp)
    def run_subi(
        self, interpreter: Interpreter, op: arith.SubiOp, args: PythonValues
    ) -> PythonValues:
        return (args[0] - args[1],)

    @impl(arith.MuliOp)
    def run_muli(
        self, interpreter: Interpreter, op: arith.MuliOp, args: PythonValues
    ) -> PythonValues:
        return (args[0] * args[1],)

    @impl(arith.AddfOp)
    def run_addf(
        self, interpreter: Interpreter, op: arith.AddfOp, args: PythonValues
    ) -> PythonValues:
        return (args[0] + args[1],)

    @impl(arith.SubfOp)
    def run_subf(
        self, interpreter: Interpreter, op: arith.SubfOp, args: PythonValues
    ) -> PythonValues:
        return (args[0] - args[1],)

    @impl(arith.MulfOp)
    def run_mulf(
        self, interpreter: Interpreter, op: arith.MulfOp, args: PythonValues
    ) -> PythonValues:
        return (args[0] * args[1],)

    @impl(arith.DivfOp)
    def run_divf(
        self, interpreter: Interpreter, op: arith.DivfOp, args: PythonValues
    ) -> PythonValues:
        return (args[0] / args[1],)

    @impl(arith.NegfOp)
    def run_negf(
        self, interpreter: Interpreter, op: arith.NegfOp, args: PythonValues
    ) -> PythonValues:
        return (-args[0],)

    @impl(arith.MaximumfOp)
    def run_maximumf(
        self, interpreter: Interpreter, op: arith.MaximumfOp, args: PythonValues
    ) -> PythonValues:
        # numpy's maximum propagates NaN too, but leaves the sign of a zero to chance.
        lhs, rhs = args
        return (np.where((lhs == 0) & (rhs == 0), lhs + rhs, np.maximum(lhs, rhs)),)

    @impl(arith.MinimumfOp)
    def run_minimumf(
        self, interpreter: Interpreter, op: arith.MinimumfOp, args: PythonValues
    ) -> PythonValues:
        lhs, rhs = args
        return (np.where((lhs == 0) & (rhs == 0), -(-lhs - rhs), np.minimum(lhs, rhs)),)

    @impl(arith.CmpfOp)
    def run_cmpf(
        self, interpreter: Interpreter, op: arith.CmpfOp, args: PythonValues
    ) -> PythonValues:
        predicate = _PREDICATES[op.predicate.value.data]
        compare = _COMPARISONS.get(predicate)
        if compare is None:
            raise InterpretationError(
                f"predicate '{predicate}' can't be executed; known are: {', '.join(_COMPARISONS)}"
            )
        return (compare(args[0], args[1]),)

    @impl(arith.SelectOp)
    def run_select(
        self, interpreter: Interpreter, op: arith.SelectOp, args: PythonValues
    ) -> PythonValues:
        condition, lhs, rhs = args
        if isinstance(condition, bool):
            return (lhs if condition else rhs,)
        return (np.where(condition, lhs, rhs),)
