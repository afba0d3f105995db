"""Building loops over blocks: index constants and `scf.for`, with one-trip loops left out.

Shared by the passes that build loops, as is `Scopes`, which remembers what was built in which
block. Imports xDSL and `nkdsl.planner.split`.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

from xdsl.dialects import arith, scf
from xdsl.dialects.builtin import DenseArrayBase, IndexType, IntegerAttr, i64
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from nkdsl.dialects.nkvector import constant_index
from nkdsl.planner.split import Run

OperationT = TypeVar("OperationT", bound=Operation)
Carried = Sequence[SSAValue]
INDEX = IndexType()
_NO_OVERFLOW = {"overflowFlags": arith.IntegerOverflowAttr("none")}
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


def index_arithmetic(op: type[OperationT], lhs: SSAValue, rhs: SSAValue) -> OperationT:
    """An operation on two indices; its constructor would take three times as long."""
    overflows = issubclass(op, arith.SignlessIntegerBinaryOperationWithOverflow)
    properties = _NO_OVERFLOW if overflows else {}
    return op.create(operands=[lhs, rhs], result_types=[INDEX], properties=properties)


class LoopBuilder:
    """Inserts ops at a point that moves into and out of the loops it opens.

    Index constants are made once, at the start of the function, so that they dominate every use.
    """

    def __init__(self, entry: Block, point: InsertPoint):
        """Insert at `point`, somewhere inside the function whose entry block is `entry`."""
        self._point = point
        self._entry = entry
        self._constants: dict[int, SSAValue] = {}

    def move_to(self, point: InsertPoint) -> None:
        """Insert at another point from now on."""
        self._point = point

    def insert(self, op: OperationT) -> OperationT:
        """Insert one op at the current point."""
        if self._point.insert_before is None:
            self._point.block.add_op(op)
        else:
            self._point.block.insert_op_before(op, self._point.insert_before)
        return op

    def insert_at_entry(self, op: OperationT) -> OperationT:
        """Insert an op that needs the function's arguments at most, at the function's start."""
        assert self._entry.first_op is not None, "a function body ends in a terminator"
        self._entry.insert_op_before(op, self._entry.first_op)
        return op

    def insert_after(self, value: SSAValue, ops: Sequence[Operation]) -> None:
        """Insert ops where a value and the index constants are first known."""
        owner = value.owner
        if isinstance(owner, Operation):
            Rewriter.insert_op(ops, InsertPoint.after(owner))
        elif owner is self._entry:
            constants = [_defining_op(c) for c in self._constants.values()]
            last = max(constants, key=self._entry.get_operation_index)
            Rewriter.insert_op(ops, InsertPoint.after(last))
        else:
            Rewriter.insert_op(ops, InsertPoint.at_start(owner))

    def constant(self, value: int) -> SSAValue:
        """An index constant."""
        if value not in self._constants:
            op = arith.ConstantOp.create(
                result_types=[INDEX], properties={"value": IntegerAttr(value, INDEX)}
            )
            self._constants[value] = self.insert_at_entry(op).result
        return self._constants[value]

    def offset(self, index: SSAValue, distance: int) -> SSAValue:
        """`index + distance`, without an addition where the distance is zero."""
        if distance == 0:
            return index
        return self._arithmetic(arith.AddiOp, index, self.constant(distance))

    def add(self, lhs: SSAValue, rhs: SSAValue) -> SSAValue:
        """`lhs + rhs` of two indices; adding a constant zero, or two constants, costs nothing."""
        left, right = constant_index(lhs), constant_index(rhs)
        if left is not None and right is not None:
            return self.constant(left + right)
        if left == 0:
            return rhs
        if right == 0:
            return lhs
        return self._arithmetic(arith.AddiOp, lhs, rhs)

    # ---- arithmetic on indices; of constants it is done here, and so is what changes nothing

    def sub(self, lhs: SSAValue, rhs: SSAValue) -> SSAValue:
        """`lhs - rhs` of two indices."""
        return self._fold(arith.SubiOp, lambda x, y: x - y, lhs, rhs, right_neutral=0)

    def mul(self, lhs: SSAValue, rhs: SSAValue) -> SSAValue:
        """`lhs * rhs` of two indices."""
        if constant_index(lhs) == 1:
            return rhs
        if 0 in (constant_index(lhs), constant_index(rhs)):
            return self.constant(0)
        return self._fold(arith.MuliOp, lambda x, y: x * y, lhs, rhs, right_neutral=1)

    def div(self, lhs: SSAValue, rhs: SSAValue) -> SSAValue:
        """`lhs // rhs` of two indices, which aren't negative."""
        return self._fold(arith.DivUIOp, lambda x, y: x // y, lhs, rhs, right_neutral=1)

    def rem(self, lhs: SSAValue, rhs: SSAValue) -> SSAValue:
        """`lhs % rhs` of two indices, which aren't negative."""
        if constant_index(rhs) == 1:
            return self.constant(0)
        return self._fold(arith.RemUIOp, lambda x, y: x % y, lhs, rhs)

    def ceildiv(self, lhs: SSAValue, rhs: SSAValue) -> SSAValue:
        """`lhs / rhs`, rounded up."""
        return self.div(self.add(lhs, self.sub(rhs, self.constant(1))), rhs)

    def minimum(self, lhs: SSAValue, rhs: SSAValue) -> SSAValue:
        """The smaller index."""
        return lhs if lhs is rhs else self._fold(arith.MinUIOp, min, lhs, rhs)

    def maximum(self, lhs: SSAValue, rhs: SSAValue) -> SSAValue:
        """The larger index."""
        return lhs if lhs is rhs else self._fold(arith.MaxUIOp, max, lhs, rhs)

    def _fold(
        self,
        op: type[Operation],
        compute: Callable[[int, int], int],
        lhs: SSAValue,
        rhs: SSAValue,
        right_neutral: int | None = None,
    ) -> SSAValue:
        """The result of an operation, computed here where both operands are known."""
        left, right = constant_index(lhs), constant_index(rhs)
        if left is not None and right is not None:
            return self.constant(compute(left, right))
        if right is not None and right == right_neutral:
            return lhs
        return self._arithmetic(op, lhs, rhs)

    def _arithmetic(self, op: type[Operation], lhs: SSAValue, rhs: SSAValue) -> SSAValue:
        """The result of an operation."""
        return self.insert(index_arithmetic(op, lhs, rhs)).results[0]

    # ---- control

    def counted(
        self,
        start: SSAValue,
        end: SSAValue,
        step: SSAValue,
        body: Callable[[SSAValue, Carried], Carried],
        carried: Carried = (),
    ) -> Carried:
        """As `loop`, with bounds that may be known only at run time."""
        known = constant_index(start), constant_index(end), constant_index(step)
        if None not in known:
            first, last, stride = (value for value in known if value is not None)
            return self.loop(first, last, stride, body, carried)
        block = self._body(carried, body)
        return self.insert(scf.ForOp(start, end, step, carried, block)).res

    def _body(self, carried: Carried, body: Callable[[SSAValue, Carried], Carried]) -> Block:
        """The block of a loop."""
        block = Block(arg_types=[INDEX, *(value.type for value in carried)])
        index, *arguments = block.args
        with self.inside(block):
            results = body(index, arguments)
            self.insert(scf.YieldOp(*results))
        return block

    @contextmanager
    def inside(self, block: Block) -> Iterator[None]:
        """Insert at the end of a block meanwhile."""
        outside = self._point
        self._point = InsertPoint.at_end(block)
        try:
            yield
        finally:
            self._point = outside

    def parallel(self, count: int, body: Callable[[SSAValue], None]) -> None:
        """`for i in range(count)`, every iteration in a thread of its own."""
        block = Block(arg_types=[INDEX])
        with self.inside(block):
            body(block.args[0])
            self.insert(scf.ReduceOp())
        lower, upper, step = ([self.constant(value)] for value in (0, count, 1))
        self.insert(scf.ParallelOp(lower, upper, step, Region(block)))

    def branch(
        self, condition: SSAValue, then: Callable[[], None], otherwise: Callable[[], None]
    ) -> None:
        """`if condition: then() else: otherwise()`."""

        def nothing(body: Callable[[], None]) -> Sequence[SSAValue]:
            body()
            return ()

        self.choose(condition, lambda: nothing(then), lambda: nothing(otherwise))

    def choose(
        self,
        condition: SSAValue,
        then: Callable[[], Sequence[SSAValue]],
        otherwise: Callable[[], Sequence[SSAValue]],
    ) -> Sequence[SSAValue]:
        """Values computed by one of two bodies."""
        blocks: list[Block] = []
        results: Sequence[SSAValue] = ()
        for body in (then, otherwise):
            blocks.append(Block())
            with self.inside(blocks[-1]):
                results = body()
                self.insert(scf.YieldOp(*results))
        types = [value.type for value in results]
        return self.insert(scf.IfOp(condition, types, [blocks[0]], [blocks[1]])).output

    def compare(self, lhs: SSAValue, predicate: str, rhs: SSAValue) -> SSAValue:
        """A comparison of two indices."""
        return self.insert(arith.CmpiOp(lhs, rhs, predicate)).result

    def switch(self, value: SSAValue, cases: Mapping[int, Callable[[], None]]) -> None:
        """Do what belongs to the value, which must be one of the cases."""
        if len(cases) == 1:
            next(iter(cases.values()))()
            return
        numbers = sorted(cases)
        regions: list[Region] = []
        for number in numbers:
            block = Block()
            with self.inside(block):
                cases[number]()
                self.insert(scf.YieldOp())
            regions.append(Region(block))
        *others, last = regions
        labels = DenseArrayBase.from_list(i64, numbers[:-1])
        self.insert(scf.IndexSwitchOp(value, labels, last, others, []))

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
        block = self._body(carried, body)
        lower, upper, stride = (self.constant(value) for value in (start, end, step))
        return self.insert(scf.ForOp(lower, upper, stride, carried, block)).res

    def runs(self, runs: Sequence[Run], body: Callable[[SSAValue, int], None]) -> None:
        """Visit every block of some runs: `body(start, size)`."""
        for run in runs:

            def visit(index: SSAValue, _: Carried, size: int = run.size) -> Carried:
                body(index, size)
                return ()

            self.loop(run.start, run.end, run.size, visit)
