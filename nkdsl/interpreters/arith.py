"""Execution of `arith`: on numbers, on vectors, and on whole arrays of elements.

Floating-point values are numpy's scalars or arrays, so each operation rounds in the element type.
Indices and integers are Python's, which do not wrap: an index that would is out of bounds anyway.
Operations on unsigned numbers see the bits that a negative one has in its type.
One rule serves scalars, vectors and the bodies of linalg operations, which run on arrays.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from xdsl.dialects import arith
from xdsl.dialects.builtin import (
    DenseIntOrFPElementsAttr,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    ShapedType,
)
from xdsl.interpreter import (
    Interpreter,
    InterpreterFunctions,
    PythonValues,
    impl,
    register_impls,
)
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.utils.exceptions import InterpretationError

from nkdsl.interpreters.buffer import Array, dtype_of

_RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
"""Relations of two numbers."""

_INTEGER_PREDICATES = ("eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt", "uge")
"""Names of arith.cmpi's predicates, by number: `s…` compares signed numbers, `u…` unsigned ones."""

_PREDICATES = (
    *("false", "oeq", "ogt", "oge", "olt", "ole", "one", "ord"),
    *("ueq", "ugt", "uge", "ult", "ule", "une", "uno", "true"),
)
"""Names of arith.cmpf's predicates, by number: with NaN `o…` is false, `u…` is true."""

_INDEX_BITS = 64
"""Bits of an index on every target."""


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


def _bits(value: SSAValue) -> int:
    """The width of an integer."""
    return value.type.bitwidth if isinstance(value.type, IntegerType) else _INDEX_BITS


def _unsigned(op: Operation, args: PythonValues) -> list[Any]:
    """The operands as unsigned numbers."""
    return [int(arg) % (1 << _bits(value)) for arg, value in zip(args, op.operands, strict=True)]


def _signed(op: Operation, value: int) -> int:
    """An operation's result as a signed number again."""
    half = 1 << (_bits(op.results[0]) - 1)
    return (value + half) % (2 * half) - half


def _truncated_division(dividend: int, divisor: int) -> tuple[int, int]:
    """Quotient, rounded towards zero, and remainder, with the sign of the dividend."""
    quotient = abs(dividend) // abs(divisor)
    quotient = quotient if (dividend < 0) == (divisor < 0) else -quotient
    return quotient, dividend - quotient * divisor


def _as_condition(result: Any) -> Any:
    """The result of a comparison: Python's for two numbers."""
    return bool(result) if np.ndim(result) == 0 else result


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

    @impl(arith.DivUIOp)
    def run_divui(
        self, interpreter: Interpreter, op: arith.DivUIOp, args: PythonValues
    ) -> PythonValues:
        lhs, rhs = _unsigned(op, args)
        return (_signed(op, lhs // rhs),)

    @impl(arith.DivSIOp)
    def run_divsi(
        self, interpreter: Interpreter, op: arith.DivSIOp, args: PythonValues
    ) -> PythonValues:
        return (_truncated_division(*args)[0],)

    @impl(arith.FloorDivSIOp)
    def run_floordivsi(
        self, interpreter: Interpreter, op: arith.FloorDivSIOp, args: PythonValues
    ) -> PythonValues:
        return (args[0] // args[1],)

    @impl(arith.CeilDivUIOp)
    def run_ceildivui(
        self, interpreter: Interpreter, op: arith.CeilDivUIOp, args: PythonValues
    ) -> PythonValues:
        lhs, rhs = _unsigned(op, args)
        return (_signed(op, -(-lhs // rhs)),)

    @impl(arith.CeilDivSIOp)
    def run_ceildivsi(
        self, interpreter: Interpreter, op: arith.CeilDivSIOp, args: PythonValues
    ) -> PythonValues:
        return (-(-args[0] // args[1]),)

    @impl(arith.RemUIOp)
    def run_remui(
        self, interpreter: Interpreter, op: arith.RemUIOp, args: PythonValues
    ) -> PythonValues:
        lhs, rhs = _unsigned(op, args)
        return (_signed(op, lhs % rhs),)

    @impl(arith.RemSIOp)
    def run_remsi(
        self, interpreter: Interpreter, op: arith.RemSIOp, args: PythonValues
    ) -> PythonValues:
        return (_truncated_division(*args)[1],)

    @impl(arith.MinUIOp)
    def run_minui(
        self, interpreter: Interpreter, op: arith.MinUIOp, args: PythonValues
    ) -> PythonValues:
        lhs, rhs = _unsigned(op, args)
        return (_signed(op, min(lhs, rhs)),)

    @impl(arith.MinSIOp)
    def run_minsi(
        self, interpreter: Interpreter, op: arith.MinSIOp, args: PythonValues
    ) -> PythonValues:
        return (min(args),)

    @impl(arith.MaxUIOp)
    def run_maxui(
        self, interpreter: Interpreter, op: arith.MaxUIOp, args: PythonValues
    ) -> PythonValues:
        lhs, rhs = _unsigned(op, args)
        return (_signed(op, max(lhs, rhs)),)

    @impl(arith.MaxSIOp)
    def run_maxsi(
        self, interpreter: Interpreter, op: arith.MaxSIOp, args: PythonValues
    ) -> PythonValues:
        return (max(args),)

    @impl(arith.AndIOp)
    def run_andi(
        self, interpreter: Interpreter, op: arith.AndIOp, args: PythonValues
    ) -> PythonValues:
        return (args[0] & args[1],)

    @impl(arith.OrIOp)
    def run_ori(
        self, interpreter: Interpreter, op: arith.OrIOp, args: PythonValues
    ) -> PythonValues:
        return (args[0] | args[1],)

    @impl(arith.XOrIOp)
    def run_xori(
        self, interpreter: Interpreter, op: arith.XOrIOp, args: PythonValues
    ) -> PythonValues:
        return (args[0] ^ args[1],)

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
        lhs, rhs = args
        unordered = np.isnan(lhs) | np.isnan(rhs)
        match _PREDICATES[op.predicate.value.data]:
            case "false" | "true" as constant:
                result = np.full_like(unordered, constant == "true")
            case "ord" | "uno" as kind:
                result = unordered if kind == "uno" else ~unordered
            case predicate:
                related = _RELATIONS[predicate[1:]](lhs, rhs)
                result = related | unordered if predicate[0] == "u" else related & ~unordered
        return (_as_condition(result),)

    @impl(arith.CmpiOp)
    def run_cmpi(
        self, interpreter: Interpreter, op: arith.CmpiOp, args: PythonValues
    ) -> PythonValues:
        predicate = _INTEGER_PREDICATES[op.predicate.value.data]
        lhs, rhs = _unsigned(op, args) if predicate[0] == "u" else args
        return (_as_condition(_RELATIONS[predicate[-2:]](lhs, rhs)),)

    @impl(arith.SelectOp)
    def run_select(
        self, interpreter: Interpreter, op: arith.SelectOp, args: PythonValues
    ) -> PythonValues:
        condition, lhs, rhs = args
        if np.ndim(condition) == 0:
            return (lhs if condition else rhs,)
        return (np.where(condition, lhs, rhs),)
