"""`Executor`: xDSL's interpreter, made fast enough to run kernels in tests.

Rules are ordinary xDSL `InterpreterFunctions`, and they work in xDSL's own `Interpreter` too. What
is replaced is the walk through a block: the first time a region runs, each of its operations is
paired with its rule, and each value with a slot in one list; from then on an operation costs a
call of its rule and two list accesses a value. An error leaves as an `ExecutionError` that names
the innermost operation it came from.

A region has at most one block (nkdsl's levels are structured), and functions do not call
themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from xdsl.interpreter import Interpreter, OpImplResult, PythonValues, ReturnedValues
from xdsl.ir import Operation, Region, SSAValue
from xdsl.utils.exceptions import InterpretationError


class ExecutionError(InterpretationError):
    """An operation that can't be executed; the message names it and says why."""


class _Step(NamedTuple):
    """One operation of a block, prepared."""

    op: Operation
    rule: Callable[..., OpImplResult]
    functions: object
    operands: tuple[int, ...]
    results: tuple[int, ...]


class _Program(NamedTuple):
    """One block, prepared."""

    arguments: tuple[int, ...]
    steps: tuple[_Step, ...]


@dataclass
class Executor(Interpreter):
    """Runs functions of a module with the rules that were registered."""

    executed: int = 0
    """Operations executed so far."""
    _values: list[Any] = field(default_factory=list)
    _slots: dict[SSAValue, int] = field(default_factory=dict)
    _programs: dict[Region, _Program] = field(default_factory=dict)

    def run_ssacfg_region(
        self, region: Region, args: PythonValues, name: str = "unknown"
    ) -> PythonValues:
        """Run the region's block and return what its terminator hands back."""
        program = self._programs.get(region) or self._prepare(region)
        values = self._values
        for slot, value in zip(program.arguments, args, strict=True):
            values[slot] = value
        self.executed += len(program.steps)
        step = None
        try:
            for step in program.steps:
                _, rule, functions, operands, results = step
                given, end = rule(
                    functions, self, step.op, tuple([values[slot] for slot in operands])
                )
                for slot, value in zip(results, given, strict=True):
                    values[slot] = value
                if end is not None:
                    return _returned(end)
        except ExecutionError:
            raise
        except Exception as error:
            _locate(step, error)
        return ()

    def _prepare(self, region: Region) -> _Program:
        if len(region.blocks) > 1:
            raise InterpretationError("a region of several blocks can't be executed")
        if not region.blocks:
            # The branch that a conditional leaves out.
            program = self._programs[region] = _Program((), ())
            return program
        block = region.block
        arguments = tuple(self._slot(argument) for argument in block.args)
        program = _Program(arguments, tuple(self._prepare_op(op) for op in block.ops))
        self._programs[region] = program
        return program

    def _prepare_op(self, op: Operation) -> _Step:
        # xDSL offers no way to ask for a rule, only to run it together with its lookup.
        found = self._impls._impl_dict.get(type(op))
        if found is None:
            raise ExecutionError(f"'{op.name}' has no rule to execute it")
        functions, rule = found
        operands = tuple(self._slot(value) for value in op.operands)
        return _Step(op, rule, functions, operands, tuple(self._slot(r) for r in op.results))

    def _slot(self, value: SSAValue) -> int:
        slot = self._slots.setdefault(value, len(self._values))
        if slot == len(self._values):
            self._values.append(None)
        return slot


def _returned(end: object) -> PythonValues:
    if isinstance(end, ReturnedValues):
        return end.values
    raise InterpretationError("branches between blocks can't be executed")


def _locate(step: _Step | None, error: Exception) -> NoReturn:
    """Raise the error again with the operation that it came from."""
    if step is None:
        raise error
    shown = step.op.name if step.op.regions else str(step.op)
    raise ExecutionError(f"'{step.op.name}': {error}\nwhile executing: {shown}") from error
