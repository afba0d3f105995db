"""Building loops over blocks: index constants and `scf.for`, with one-trip loops left out.

Shared by the passes that build loops, as is `Scopes`, which remembers what was built in which
block. Imports xDSL and `nkdsl.planner.split`.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from xdsl.builder import Builder
from xdsl.dialects import arith, scf
from xdsl.dialects.builtin import IndexType, IntegerAttr
from xdsl.ir import Block, Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from nkdsl.dialects.nkvector import constant_index
from nkdsl.planner.split import Run

OperationT = TypeVar("OperationT", bound=Operation)
Carried = Sequence[SSAValue]
KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class Scopes(Generic[KeyT, ValueT]):
    """Values built once a block, and found again there and in the blocks nested in it."""

    def __init__(self) -> None:
        """Begin outside of any block."""
        self._scopes: list[dict[KeyT, ValueT]] = []

    @contextmanager
    def nested(self) -> Iterator[None]:
        """What is built within is forgotten at the end."""
        self._scopes.append({})
        try:
            yield
        finally:
            self._scopes.pop()

    def get(self, key: KeyT, build: Callable[[], ValueT]) -> ValueT:
        """The value of a key, built in the innermost block where there is none yet."""
        for scope in reversed(self._scopes):
            if key in scope:
                return scope[key]
        value = self._scopes[-1][key] = build()
        return value


def _defining_op(value: SSAValue) -> Operation:
    assert isinstance(value.owner, Operation)
    return value.owner


class LoopBuilder:
    """Inserts ops at a point that moves into and out of the loops it opens.

    Index constants are made once, at the start of the function, so that they dominate every use.
    """

    def __init__(self, entry: Block, point: InsertPoint):
        """Insert at `point`, somewhere inside the function whose entry block is `entry`."""
        self._builder = Builder(point)
        self._entry = entry
        self._constants: dict[int, SSAValue] = {}

    def move_to(self, point: InsertPoint) -> None:
        """Insert at another point from now on."""
        self._builder.insertion_point = point

    def insert(self, op: OperationT) -> OperationT:
        """Insert one op at the current point."""
        return self._builder.insert(op)

    def insert_at_entry(self, op: OperationT) -> OperationT:
        """Insert an op that needs the function's arguments at most, at the function's start."""
        assert self._entry.first_op is not None, "a function body ends in a terminator"
        self._entry.insert_op_before(op, self._entry.first_op)
        return op

    def insert_after(self, value: SSAValue, ops: Sequence[Operation]) -> None:
        """Insert ops right behind the op that defines a value."""
        Rewriter.insert_op(ops, InsertPoint.after(_defining_op(value)))

    def constant(self, value: int) -> SSAValue:
        """An index constant."""
        if value not in self._constants:
            op = arith.ConstantOp(IntegerAttr(value, IndexType()))
            self._constants[value] = self.insert_at_entry(op).result
        return self._constants[value]

    def offset(self, index: SSAValue, distance: int) -> SSAValue:
        """`index + distance`, without an addition where the distance is zero."""
        if distance == 0:
            return index
        return self.insert(arith.AddiOp(index, self.constant(distance))).result

    def add(self, lhs: SSAValue, rhs: SSAValue) -> SSAValue:
        """`lhs + rhs` of two indices; adding a constant zero, or two constants, costs nothing."""
        left, right = constant_index(lhs), constant_index(rhs)
        if left is not None and right is not None:
            return self.constant(left + right)
        if left == 0:
            return rhs
        if right == 0:
            return lhs
        return self.insert(arith.AddiOp(lhs, rhs)).result

    def loop(
        self,
        start: int,
        end: int,
        step: int,
        body: Callable[[SSAValue, Carried], Carried],
        carried: Carried = (),
    ) -> Carried:
        """`for i in range(start, end, step)`, carrying values; `body` returns their new versions.

        A loop of one trip is its body; a loop of none is nothing.
        """
        if start >= end:
            return carried
        if start + step >= end:
            return body(self.constant(start), carried)
        block = Block(arg_types=[IndexType(), *(value.type for value in carried)])
        index, *arguments = block.args
        outside = self._builder.insertion_point
        self._builder.insertion_point = InsertPoint.at_end(block)
        results = body(index, arguments)
        self.insert(scf.YieldOp(*results))
        self._builder.insertion_point = outside
        lower, upper, stride = (self.constant(value) for value in (start, end, step))
        return self.insert(scf.ForOp(lower, upper, stride, carried, block)).res

    def runs(self, runs: Sequence[Run], body: Callable[[SSAValue, int], None]) -> None:
        """Visit every block of some runs: `body(start, size)`."""
        for run in runs:

            def visit(index: SSAValue, _: Carried, size: int = run.size) -> Carried:
                body(index, size)
                return ()

            self.loop(run.start, run.end, run.size, visit)
