"""Execution of `linalg`: what to compute, as its definition says, with every rounding.

An operation's body is evaluated once for each point of its reduction iterators, on arrays that
hold the elements of all parallel iterators. A product therefore adds its terms in the order of k,
and a body of `mulf` and `addf` rounds twice a step: this level is a specification, not a kernel.
Works for every structured operation on memrefs that is listed here, whatever its index maps.
"""

from typing import Any

from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.linalg.abstract_ops import LinalgStructuredOperation
from xdsl.interpreter import (
    Interpreter,
    InterpreterFunctions,
    PythonValues,
    ReturnedValues,
    TerminatorValue,
    impl,
    impl_terminator,
    register_impls,
)
from xdsl.utils.exceptions import InterpretationError

from nkdsl.interpreters.buffer import Buffer
from nkdsl.interpreters.iteration import Iteration, at, gather


def iteration_of(op: LinalgStructuredOperation, args: PythonValues) -> Iteration:
    """The iteration space of an operation on these operands."""
    maps = [attribute.data for attribute in op.get_indexing_maps()]
    kinds = [iterator.data.value for iterator in op.get_iterator_types()]
    return Iteration.of(maps, args, [d for d, kind in enumerate(kinds) if kind == "reduction"])


def run_structured(
    interpreter: Interpreter, op: LinalgStructuredOperation, args: PythonValues
) -> PythonValues:
    """Execute a structured operation on memrefs in place."""
    if op.results:
        raise InterpretationError("tensors can't be executed; bufferize first")
    space = iteration_of(op, args)
    operands: list[tuple[Any, Any]] = [
        (arg, space.positions(arg, map_.data) if isinstance(arg, Buffer) else None)
        for arg, map_ in zip(args, op.get_indexing_maps(), strict=True)
    ]
    outputs = operands[len(op.inputs) :]
    for step in space.steps():
        elements = tuple(
            arg if positions is None else gather(arg, positions, step)
            for arg, positions in operands
        )
        results = interpreter.run_ssacfg_region(op.body, elements, op.name)
        for (buffer, positions), result in zip(outputs, results, strict=True):
            buffer.data[at(positions, step)] = result
    return ()


@register_impls
class LinalgFunctions(InterpreterFunctions):
    """The rules of `linalg`."""

    @impl(linalg.GenericOp)
    def run_generic(
        self, interpreter: Interpreter, op: linalg.GenericOp, args: PythonValues
    ) -> PythonValues:
        return run_structured(interpreter, op, args)

    @impl(linalg.MatmulOp)
    def run_matmul(
        self, interpreter: Interpreter, op: linalg.MatmulOp, args: PythonValues
    ) -> PythonValues:
        return run_structured(interpreter, op, args)

    @impl(linalg.FillOp)
    def run_fill(
        self, interpreter: Interpreter, op: linalg.FillOp, args: PythonValues
    ) -> PythonValues:
        return run_structured(interpreter, op, args)

    @impl_terminator(linalg.YieldOp)
    def run_yield(
        self, interpreter: Interpreter, op: linalg.YieldOp, args: PythonValues
    ) -> tuple[TerminatorValue, PythonValues]:
        """Hand the values back to the operation around."""
        return ReturnedValues(args), ()
