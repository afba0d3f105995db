"""Execution of `math`: elementary functions of numbers, vectors and arrays.

Each is evaluated with more digits and then rounded to its type, so that a result is the correctly
rounded one but for very few arguments. For float64, `erf` is Python's own, which rounds less well.
"""

import math as python
from collections.abc import Callable
from typing import Any

import numpy as np
from xdsl.dialects import math
from xdsl.interpreter import (
    Interpreter,
    InterpreterFunctions,
    PythonValues,
    impl,
    register_impls,
)
from xdsl.ir import Operation

from nkdsl.interpreters.arith import as_given, multiply_add
from nkdsl.interpreters.buffer import Array
from nkdsl.targets.semantics import rounded

_erf = np.vectorize(python.erf, otypes=[np.float64])


def _round(x: Array) -> Array:
    """To the nearest integer, halves away from zero."""
    truncated = np.trunc(x)
    return np.asarray(truncated + np.copysign(np.abs(x - truncated) >= 0.5, x))


FUNCTIONS: dict[type[Operation], Callable[..., Any]] = {
    math.AbsFOp: np.abs,
    math.Atan2Op: np.arctan2,
    math.AtanOp: np.arctan,
    math.CbrtOp: np.cbrt,
    math.CeilOp: np.ceil,
    math.CopySignOp: np.copysign,
    math.CosOp: np.cos,
    math.ErfOp: _erf,
    math.Exp2Op: np.exp2,
    math.ExpM1Op: np.expm1,
    math.ExpOp: np.exp,
    math.FloorOp: np.floor,
    math.Log10Op: np.log10,
    math.Log1pOp: np.log1p,
    math.Log2Op: np.log2,
    math.LogOp: np.log,
    math.PowFOp: np.power,
    math.RoundEvenOp: np.rint,
    math.RoundOp: _round,
    math.RsqrtOp: lambda x: 1 / np.sqrt(x),
    math.SinOp: np.sin,
    math.SqrtOp: np.sqrt,
    math.TanhOp: np.tanh,
    math.TanOp: np.tan,
    math.TruncOp: np.trunc,
}
"""What each operation computes, on arrays of a type with digits to spare."""


def evaluate(function: Callable[..., Any], *arguments: Any) -> Any:
    """A function of floating-point numbers or arrays, rounded to their type."""
    dtype = np.result_type(*arguments)
    wide: np.dtype[Any] = np.dtype(np.longdouble if dtype.itemsize >= 8 else np.float64)
    if function is np.sqrt and dtype.itemsize >= 8:
        wide = dtype  # it rounds by itself, and longdouble has too few digits to round again
    result = function(*(np.asarray(argument).astype(wide) for argument in arguments))
    return as_given(rounded(np.asarray(result), dtype), *arguments)


def _rule(op_type: type[Operation], function: Callable[..., Any]) -> Any:
    """The rule of an operation that applies a function to its operands."""

    @impl(op_type)
    def run(
        self: InterpreterFunctions, interpreter: Interpreter, op: Operation, args: PythonValues
    ) -> PythonValues:
        return (evaluate(function, *args),)

    return run


class MathFunctions(InterpreterFunctions):
    """The rules of `math`."""

    @impl(math.FmaOp)
    def run_fma(self, interpreter: Interpreter, op: math.FmaOp, args: PythonValues) -> PythonValues:
        lhs, rhs, acc = args
        return (as_given(multiply_add(*map(np.asarray, (acc, lhs, rhs))), *args),)

    @impl(math.AbsIOp)
    def run_absi(
        self, interpreter: Interpreter, op: math.AbsIOp, args: PythonValues
    ) -> PythonValues:
        return (abs(args[0]),)


for _type, _function in FUNCTIONS.items():
    setattr(MathFunctions, f"run_{_type.name.removeprefix('math.')}", _rule(_type, _function))
register_impls(MathFunctions)
