"""Execution of `scf`: xDSL's rules, and loops that state what they ask of their iterations.

The iterations of a parallel loop run in reverse order: any order is right, and one that a program
must not rely on shows where it does.
"""

from collections.abc import Iterator
from itertools import product

from xdsl.dialects import scf
from xdsl.interpreter import (
    Interpreter,
    PythonValues,
    ReturnedValues,
    TerminatorValue,
    impl,
    impl_terminator,
    register_impls,
)
from xdsl.interpreters.scf import ScfFunctions as UpstreamScfFunctions
from xdsl.utils.exceptions import InterpretationError


def _iterations(lower: int, upper: int, step: int) -> range:
    """The values of a loop's variable; a step that isn't positive has no meaning."""
    if step < 1:
        raise InterpretationError(f"a loop's step must be positive, not {step}")
    return range(lower, upper, step)


def any_order(bounds: PythonValues) -> Iterator[tuple[int, ...]]:
    """The points of a parallel loop, given its lower bounds, upper bounds and steps: in reverse."""
    rank = len(bounds) // 3
    loops = zip(bounds[:rank], bounds[rank : 2 * rank], bounds[2 * rank :], strict=True)
    return product(*(reversed(_iterations(*loop)) for loop in loops))


@register_impls
class ScfFunctions(UpstreamScfFunctions):
    """The rules of `scf`."""

    @impl(scf.ForOp)
    def run_for(self, interpreter: Interpreter, op: scf.ForOp, args: PythonValues) -> PythonValues:
        lower, upper, step, *carried = args
        values = tuple(carried)
        for index in _iterations(lower, upper, step):
            values = interpreter.run_ssacfg_region(op.body, (index, *values), op.name)
        return values

    @impl(scf.ParallelOp)
    def run_parallel(
        self, interpreter: Interpreter, op: scf.ParallelOp, args: PythonValues
    ) -> PythonValues:
        if op.initVals:
            raise InterpretationError("a parallel loop with results can't be executed")
        for point in any_order(args):
            interpreter.run_ssacfg_region(op.body, point, op.name)
        return ()

    @impl_terminator(scf.ReduceOp)
    def run_reduce(
        self, interpreter: Interpreter, op: scf.ReduceOp, args: PythonValues
    ) -> tuple[TerminatorValue, PythonValues]:
        """End an iteration of a parallel loop."""
        return ReturnedValues(args), ()
