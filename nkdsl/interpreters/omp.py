"""Execution of `omp`: the parallel loops that nkdsl emits, by OpenMP's words for them.

All threads of a team run a parallel region, and share the iterations of a worksharing loop in it. A
region that holds nothing else may run once, with every iteration; they run in reverse order, as any
order is right.
"""

from xdsl.dialects import omp
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

from nkdsl.interpreters.scf import any_order


@register_impls
class OmpFunctions(InterpreterFunctions):
    """The rules of `omp`."""

    @impl(omp.ParallelOp)
    def run_parallel(
        self, interpreter: Interpreter, op: omp.ParallelOp, args: PythonValues
    ) -> PythonValues:
        kinds = [type(inner) for inner in op.region.block.ops]
        if kinds != [omp.WsLoopOp, omp.TerminatorOp]:
            raise InterpretationError("only a parallel region of one loop can be executed")
        interpreter.run_ssacfg_region(op.region, (), op.name)
        return ()

    @impl(omp.WsLoopOp)
    def run_wsloop(
        self, interpreter: Interpreter, op: omp.WsLoopOp, args: PythonValues
    ) -> PythonValues:
        nest = op.body.block.first_op
        if not isinstance(nest, omp.LoopNestOp) or args:
            raise InterpretationError("a loop with clauses can't be executed")
        interpreter.run_ssacfg_region(op.body, (), op.name)
        return ()

    @impl(omp.LoopNestOp)
    def run_loop_nest(
        self, interpreter: Interpreter, op: omp.LoopNestOp, args: PythonValues
    ) -> PythonValues:
        for point in any_order(args):
            interpreter.run_ssacfg_region(op.body, point, op.name)
        return ()

    @impl_terminator(omp.YieldOp)
    def run_yield(
        self, interpreter: Interpreter, op: omp.YieldOp, args: PythonValues
    ) -> tuple[TerminatorValue, PythonValues]:
        """End an iteration."""
        return ReturnedValues(args), ()

    @impl_terminator(omp.TerminatorOp)
    def run_terminator(
        self, interpreter: Interpreter, op: omp.TerminatorOp, args: PythonValues
    ) -> tuple[TerminatorValue, PythonValues]:
        """End a parallel region."""
        return ReturnedValues(()), ()
