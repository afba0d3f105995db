"""Execution of `arith` on vectors where xDSL's operations are for scalars, by the same rules."""

from collections.abc import Callable
from typing import Any

from xdsl.interpreter import (
    Interpreter,
    InterpreterFunctions,
    PythonValues,
    impl,
    register_impls,
)
from xdsl.ir import Operation

from nkdsl.dialects import vector_arith
from nkdsl.interpreters.arith import ArithFunctions


def _as(rule: Any, op_type: type[Operation]) -> Callable[..., Any]:
    """The rule of an operation on scalars, for the one on vectors."""

    def run(
        self: "VectorArithFunctions", interpreter: Interpreter, op: Operation, args: PythonValues
    ) -> PythonValues:
        values: PythonValues = rule(self.scalars, interpreter, op, args).values
        return values

    return impl(op_type)(run)


@register_impls
class VectorArithFunctions(InterpreterFunctions):
    """The rules of `nkdsl.dialects.vector_arith`."""

    def __init__(self) -> None:
        self.scalars = ArithFunctions()

    run_cmpf = _as(ArithFunctions.run_cmpf, vector_arith.CmpfOp)
    run_cmpi = _as(ArithFunctions.run_cmpi, vector_arith.CmpiOp)
    run_select = _as(ArithFunctions.run_select, vector_arith.SelectOp)
    run_extsi = _as(ArithFunctions.run_extsi, vector_arith.ExtSIOp)
    run_extui = _as(ArithFunctions.run_extui, vector_arith.ExtUIOp)
    run_trunci = _as(ArithFunctions.run_trunci, vector_arith.TruncIOp)
    run_sitofp = _as(ArithFunctions.run_sitofp, vector_arith.SIToFPOp)
    run_uitofp = _as(ArithFunctions.run_uitofp, vector_arith.UIToFPOp)
    run_fptosi = _as(ArithFunctions.run_fptosi, vector_arith.FPToSIOp)
    run_fptoui = _as(ArithFunctions.run_fptoui, vector_arith.FPToUIOp)
