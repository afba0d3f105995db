"""Execution of `arith`: on numbers, on vectors, and on whole arrays of elements.

Floating-point values are numpy's scalars or arrays, so each operation rounds in the element type.
Indices are Python's integers, which do not wrap: one that would is out of bounds anyway. Integers
are Python's too, signed and wrapped to the width of their type; vectors of them are numpy's arrays.
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
    VectorType,
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
from nkdsl.interpreters.tile import vector_shape
from nkdsl.targets.semantics import fma, rounded

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
            dtype, number = dtype_of(value.type), value.value.data
            return bool(number) if dtype == np.bool_ else int(np.array(number).astype(dtype))
        case FloatAttr():
            return dtype_of(value.type).type(value.value.data)
        case DenseIntOrFPElementsAttr():
            return _dense(value)
        case _:
            raise InterpretationError(f"a constant of {value} can't be executed")


def _bits(value: SSAValue) -> int:
    """The width of an integer."""
    return value.type.bitwidth if isinstance(value.type, IntegerType) else _INDEX_BITS


def _is_number(value: Any) -> bool:
    """Whether a value is one of Python's numbers, not numpy's."""
    return isinstance(value, int)


def _unsigned(op: Operation, args: PythonValues) -> list[Any]:
    """The operands as unsigned numbers."""
    return [_unsigned_bits(arg, _bits(value)) for arg, value in zip(args, op.operands, strict=True)]


def _unsigned_bits(value: Any, bits: int) -> Any:
    """The bits of an integer, or of an array of them, as an unsigned number."""
    if _is_number(value):
        return int(value) % (1 << bits)
    return value.view(f"u{value.dtype.itemsize}") if value.dtype.kind == "i" else value


def _signed(op: Operation, value: Any) -> Any:
    """An operation's result as a signed number again, wrapped to the width of its type."""
    if not _is_number(value):
        return value.view(f"i{value.dtype.itemsize}") if value.dtype.kind == "u" else value
    bits = _bits(op.results[0])
    if bits == 1:
        return bool(value & 1)
    half = 1 << (bits - 1)
    return (value + half) % (2 * half) - half


def _wrapped(op: Operation, value: Any) -> Any:
    """An operation's result in the width of its type; an index does not wrap."""
    if _is_number(value) and isinstance(op.results[0].type, IntegerType):
        return _signed(op, value)
    return value


def _truncated_division(dividend: Any, divisor: Any) -> tuple[Any, Any]:
    """Quotient, rounded towards zero, and remainder, with the sign of the dividend."""
    floor = dividend // divisor
    inexact = floor * divisor != dividend
    quotient = floor + (inexact & ((dividend < 0) != (divisor < 0)))
    return quotient, dividend - quotient * divisor


def as_given(result: Array, *operands: Any) -> Any:
    """The result of array operations: a scalar if all operands were."""
    return result if any(isinstance(o, np.ndarray) for o in operands) else result[()]


def multiply_add(acc: Array, lhs: Array, rhs: Array) -> Array:
    """`acc + lhs * rhs`, for float32 and float64 rounded once, for wider types twice."""
    if acc.dtype.kind in "iu" or acc.dtype == np.longdouble:
        return np.asarray(acc + lhs * rhs)
    return fma(acc, lhs, rhs)


def result_dtype(op: Operation) -> np.dtype[Any]:
    """The numpy type of an operation's result, or of its elements."""
    return dtype_of(_element_of(op.results[0].type))


def _element_of(type_: Attribute) -> Attribute:
    """The type of a vector's elements, or of a scalar."""
    return type_.get_element_type() if isinstance(type_, VectorType) else type_


def _extreme(function: Callable[..., Any], lhs: Any, rhs: Any) -> Any:
    """The smaller or the greater of two integers, or of each two."""
    if _is_number(lhs) and _is_number(rhs):
        return min(lhs, rhs) if function is np.minimum else max(lhs, rhs)
    return function(lhs, rhs)


def _as_condition(result: Any) -> Any:
    """The result of a comparison: Python's for two numbers."""
    return bool(result) if np.ndim(result) == 0 else result


def _dense(value: DenseIntOrFPElementsAttr) -> Array:
    assert isinstance(value.type, ShapedType)
    dtype = dtype_of(value.get_element_type())
    shape = value.get_shape()
    elements = np.array(value.get_values()).astype(dtype)
    if isinstance(value.type, VectorType) and value.is_splat():
        return np.full(vector_shape(value.type), elements[0])
    return np.full(shape, elements[0]) if len(elements) == 1 else elements.reshape(shape)


def _to_integer(op: Operation, value: Any, dtype: np.dtype[Any]) -> Any:
    """Numbers cut to integers; what doesn't fit, NaN too, is x86's indefinite integer."""
    limits = np.iinfo(dtype)
    whole = np.trunc(np.asarray(value).astype(np.longdouble))
    fits = (whole >= limits.min) & (whole <= limits.max)
    indefinite = limits.max if dtype.kind == "u" else limits.min
    result = _signed(op, np.where(fits, whole, 0).astype(dtype))
    result = np.where(fits, result, _signed(op, np.array(indefinite, dtype)))
    return result if isinstance(value, np.ndarray) else int(result)


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
        (value,) = args
        if _is_number(value):
            return (_wrapped(op, int(value)),)
        return (value.astype(result_dtype(op)),)

    @impl(arith.AddiOp)
    def run_addi(
        self, interpreter: Interpreter, op: arith.AddiOp, args: PythonValues
    ) -> PythonValues:
        return (_wrapped(op, args[0] + args[1]),)

    @impl(arith.SubiOp)
    def run_subi(
        self, interpreter: Interpreter, op: arith.SubiOp, args: PythonValues
    ) -> PythonValues:
        return (_wrapped(op, args[0] - args[1]),)

    @impl(arith.MuliOp)
    def run_muli(
        self, interpreter: Interpreter, op: arith.MuliOp, args: PythonValues
    ) -> PythonValues:
        return (_wrapped(op, args[0] * args[1]),)

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
        return (_wrapped(op, _truncated_division(*args)[0]),)

    @impl(arith.FloorDivSIOp)
    def run_floordivsi(
        self, interpreter: Interpreter, op: arith.FloorDivSIOp, args: PythonValues
    ) -> PythonValues:
        return (_wrapped(op, args[0] // args[1]),)

    @impl(arith.CeilDivUIOp)
    def run_ceildivui(
        self, interpreter: Interpreter, op: arith.CeilDivUIOp, args: PythonValues
    ) -> PythonValues:
        lhs, rhs = _unsigned(op, args)
        return (_signed(op, lhs // rhs + (lhs % rhs != 0)),)

    @impl(arith.CeilDivSIOp)
    def run_ceildivsi(
        self, interpreter: Interpreter, op: arith.CeilDivSIOp, args: PythonValues
    ) -> PythonValues:
        return (_wrapped(op, args[0] // args[1] + (args[0] % args[1] != 0)),)

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
        return (_signed(op, _extreme(np.minimum, *_unsigned(op, args))),)

    @impl(arith.MaxUIOp)
    def run_maxui(
        self, interpreter: Interpreter, op: arith.MaxUIOp, args: PythonValues
    ) -> PythonValues:
        return (_signed(op, _extreme(np.maximum, *_unsigned(op, args))),)

    @impl(arith.MinSIOp)
    def run_minsi(
        self, interpreter: Interpreter, op: arith.MinSIOp, args: PythonValues
    ) -> PythonValues:
        return (_extreme(np.minimum, *args),)

    @impl(arith.MaxSIOp)
    def run_maxsi(
        self, interpreter: Interpreter, op: arith.MaxSIOp, args: PythonValues
    ) -> PythonValues:
        return (_extreme(np.maximum, *args),)

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

    @impl(arith.ShLIOp)
    def run_shli(
        self, interpreter: Interpreter, op: arith.ShLIOp, args: PythonValues
    ) -> PythonValues:
        return (_wrapped(op, args[0] << args[1]),)

    @impl(arith.ShRSIOp)
    def run_shrsi(
        self, interpreter: Interpreter, op: arith.ShRSIOp, args: PythonValues
    ) -> PythonValues:
        return (args[0] >> args[1],)

    @impl(arith.ShRUIOp)
    def run_shrui(
        self, interpreter: Interpreter, op: arith.ShRUIOp, args: PythonValues
    ) -> PythonValues:
        value, count = _unsigned(op, args)
        return (_signed(op, value >> count),)

    # ------------------------------------------------------------------------ conversions

    @impl(arith.ExtSIOp)
    def run_extsi(
        self, interpreter: Interpreter, op: arith.ExtSIOp, args: PythonValues
    ) -> PythonValues:
        (value,) = args
        if _is_number(value):
            return (-int(value) if isinstance(value, bool) else value,)
        wide = _signed(op, value).astype(result_dtype(op))
        return (-wide if value.dtype == np.bool_ else wide,)

    @impl(arith.ExtUIOp)
    def run_extui(
        self, interpreter: Interpreter, op: arith.ExtUIOp, args: PythonValues
    ) -> PythonValues:
        (value,) = _unsigned(op, args)
        return (value if _is_number(value) else value.astype(result_dtype(op)),)

    @impl(arith.TruncIOp)
    def run_trunci(
        self, interpreter: Interpreter, op: arith.TruncIOp, args: PythonValues
    ) -> PythonValues:
        (value,) = args
        if _is_number(value):
            return (_wrapped(op, value),)
        dtype = result_dtype(op)
        return ((value & 1 if dtype == np.bool_ else value).astype(dtype),)

    @impl(arith.ExtFOp)
    def run_extf(
        self, interpreter: Interpreter, op: arith.ExtFOp, args: PythonValues
    ) -> PythonValues:
        """Exact."""
        return (args[0].astype(self.float_dtype(op)),)

    @impl(arith.TruncFOp)
    def run_truncf(
        self, interpreter: Interpreter, op: arith.TruncFOp, args: PythonValues
    ) -> PythonValues:
        """To nearest even, subnormal numbers kept; `rounded` says how AVX512-BF16 differs."""
        return (as_given(rounded(np.asarray(args[0]), self.float_dtype(op)), *args),)

    @impl(arith.SIToFPOp)
    def run_sitofp(
        self, interpreter: Interpreter, op: arith.SIToFPOp, args: PythonValues
    ) -> PythonValues:
        return (self.from_integer(op, args[0]),)

    @impl(arith.UIToFPOp)
    def run_uitofp(
        self, interpreter: Interpreter, op: arith.UIToFPOp, args: PythonValues
    ) -> PythonValues:
        return (self.from_integer(op, *_unsigned(op, args)),)

    @impl(arith.FPToSIOp)
    def run_fptosi(
        self, interpreter: Interpreter, op: arith.FPToSIOp, args: PythonValues
    ) -> PythonValues:
        return (_to_integer(op, args[0], result_dtype(op)),)

    @impl(arith.FPToUIOp)
    def run_fptoui(
        self, interpreter: Interpreter, op: arith.FPToUIOp, args: PythonValues
    ) -> PythonValues:
        unsigned = np.dtype(f"u{result_dtype(op).itemsize}")
        return (_to_integer(op, args[0], unsigned),)

    @impl(arith.BitcastOp)
    def run_bitcast(
        self, interpreter: Interpreter, op: arith.BitcastOp, args: PythonValues
    ) -> PythonValues:
        (value,) = args
        # The bits are those of the declared type, even where values have more digits.
        declared = dtype_of(_element_of(op.operands[0].type))
        result = np.asarray(value).astype(declared).view(result_dtype(op))
        if result.dtype.kind == "i":
            return (result if isinstance(value, np.ndarray) else int(result),)
        return (as_given(result.astype(self.float_dtype(op)), value),)

    def float_dtype(self, op: Operation) -> np.dtype[Any]:
        """The type of floating-point results."""
        return result_dtype(op)

    def from_integer(self, op: Operation, value: Any) -> Any:
        """An integer, or an array of them, rounded to the operation's result type."""
        # Every integer of 64 bits is one of longdouble's numbers: it is rounded once.
        exact = np.asarray(value).astype(np.longdouble)
        return as_given(rounded(exact, self.float_dtype(op)), value)

    # ---------------------------------------------------------------- floating-point numbers

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

    @impl(arith.MaxnumfOp)
    def run_maxnumf(
        self, interpreter: Interpreter, op: arith.MaxnumfOp, args: PythonValues
    ) -> PythonValues:
        """The number, where the other one is NaN."""
        return (np.fmax(*args),)

    @impl(arith.MinnumfOp)
    def run_minnumf(
        self, interpreter: Interpreter, op: arith.MinnumfOp, args: PythonValues
    ) -> PythonValues:
        """The number, where the other one is NaN."""
        return (np.fmin(*args),)

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
