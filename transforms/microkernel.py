"""The body of a microkernel: one masked block of accumulators. A part of the pass `compose`.

A product whose plan says `edges = masked` is one block, which its run-time sizes may fill in part:
the sums start at zero, the reduction runs in turns of `k_unroll` steps and then step by step, and
the result is updated at the end, so that its loads wait for nothing and nothing waits for them.

```mlir
nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x?xf32, ...>, memref<?x?xf32, ...>)
    outs(%c[m, n] : memref<8x?xf32, ...>) from zero if %first plan #nanokernel.plan<...>
// becomes
%zero = nanokernel.zero : !nanokernel.block<8x48xf32, lanes = n>
%sums = scf.for ... {
  %next = nanokernel.step ... depth 4 using "fma.f32x16" tail %n
}
scf.if %first {
  nanokernel.store %sums, %c[m: %c0, n: %c0] tail %n
} else {
  nanokernel.store %sums, %c[m: %c0, n: %c0] tail %n accumulate
}
```

Imports: our dialects, targets.
"""

from collections.abc import Callable

from xdsl.dialects import memref
from xdsl.dialects.builtin import DYNAMIC_INDEX, MemRefType
from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineExpr, AffineMap
from xdsl.rewriter import InsertPoint

from nkdsl.dialects.nanokernel import (
    BlockAccess,
    BlockType,
    GemmOp,
    LoadOp,
    PlanAttr,
    PrefetchOp,
    StepOp,
    StoreOp,
    ZeroOp,
    group_index,
)
from nkdsl.dialects.nkvector import constant_index
from nkdsl.errors import Unsupported
from nkdsl.planner.blocking import sides_of
from nkdsl.planner.cost import FACTORS
from nkdsl.targets import get_target
from nkdsl.targets.model import Instruction, Target
from nkdsl.transforms.loops import Carried, LoopBuilder
from nkdsl.types import element_type_of

LONG_REDUCTION = 64
"""Steps from which on a result is asked for ahead: fewer belong to a product that fits a cache."""


class Microkernel:
    """Composes one masked product in front of it."""

    def __init__(self, op: GemmOp, plan: PlanAttr, loops: LoopBuilder):
        """Compose `op` by `plan`, inserting through `loops`."""
        loops.move_to(InsertPoint.before(op))
        self.op = op
        self.plan = plan
        self.loops = loops
        self.kinds = op.kinds
        if sorted(self.kinds) != sorted(set(self.kinds)) or "b" in self.kinds:
            raise Unsupported("a masked block has one iterator each of rows, columns, reduction")
        self.tags = [self._tags(map_) for map_ in op.indexing_maps]
        self.zero = loops.constant(0)

    def compose(self) -> None:
        """Build everything."""
        plan, op = self.plan, self.op
        block = BlockType.of(*plan.block, op.accumulator, plan.lanes.data)
        start = self._start(block)
        turn, group = self.loops.constant(plan.k_unroll.data), self.loops.constant(self.group)
        steps_in_all = self._size("k")
        depth = self.loops.div(steps_in_all, group)
        self._prefetch_result(block, depth)
        whole = self.loops.sub(depth, self.loops.rem(depth, turn))
        tail = self._tail()

        def steps(
            count: int, existing: SSAValue | None = None
        ) -> Callable[[SSAValue, Carried], Carried]:
            """Steps of the reduction from a group of some number on."""

            def step(number: SSAValue, part: Carried) -> Carried:
                factors = self._factor(0, number), self._factor(1, number)
                name = self.target.executed(self._instruction, self._broadcast).name
                made = StepOp(
                    *(part[0], *factors, count, name, self._prefetch(), tail, op.kept),
                    flip=self._flip,
                    existing=existing,
                )
                return [self.loops.insert(made).result]

            return step

        loops, turns = self.loops, steps(plan.k_unroll.data * self.group)
        sums: SSAValue = start
        begin = self.zero
        if op.source is not None:
            sums, begin = self._pack_meanwhile(turns, sums, whole)
        (sums,) = loops.counted(begin, whole, turn, turns, [sums])
        if plan.k_unroll.data > 1:
            (sums,) = loops.counted(whole, depth, loops.constant(1), steps(self.group), [sums])
        rest = loops.rem(steps_in_all, group)
        if self._masks_groups and constant_index(rest) is None:
            last = self.loops.minimum(rest, loops.constant(1))
            sums = self._one_turn(sums, depth, last, steps(self.group, rest))
        else:
            for count in range(1, self.group):
                sums = self._last_group(sums, depth, rest, count, steps(count))
        self._store(sums, tail)

    @property
    def _masks_groups(self) -> bool:
        """Whether one step does for a last group of any number of elements."""
        vector = int(self.plan.lanes.data == "n")
        element = element_type_of(self._memref(self.op.lhs).element_type)
        return "g" in self.tags[vector] and element.size >= self.target.smallest_masked

    def _one_turn(
        self,
        sums: SSAValue,
        number: SSAValue,
        count: SSAValue,
        step: Callable[[SSAValue, Carried], Carried],
    ) -> SSAValue:
        """The sums after one turn of a loop, or none: `count` says which."""
        loops = self.loops
        end = loops.add(number, count)
        (sums,) = loops.counted(number, end, loops.constant(1), step, [sums])
        return sums

    def _last_group(
        self,
        sums: SSAValue,
        number: SSAValue,
        rest: SSAValue,
        count: int,
        step: Callable[[SSAValue, Carried], Carried],
    ) -> SSAValue:
        """The sums after a last group, if `count` steps of it exist."""
        loops = self.loops
        if (known := constant_index(rest)) is not None:
            return step(number, [sums])[0] if known == count else sums
        one, zero = loops.constant(1), self.zero
        here = loops.compare(rest, "eq", loops.constant(count))
        (turns,) = loops.choose(here, lambda: (one,), lambda: (zero,))
        return self._one_turn(sums, number, turns, step)

    def _start(self, block: BlockType) -> SSAValue:
        """What the sums start with."""
        if self.op.start is None:
            return self.loops.insert(ZeroOp(block)).result
        assert self.op.start_map is not None
        tags = self._tags(self.op.start_map.data)
        narrower = self._memref(self.op.start).get_shape()[tags.index(self.plan.lanes.data)]
        whole = self.plan.block[self.plan.lanes.data == "n"]
        tail = None if narrower >= whole else self._tail()
        load = LoadOp(self.op.start, [self.zero] * len(tags), tags, block, tail)
        if self.op.begins is None:
            return self.loops.insert(load).result

        def given() -> tuple[SSAValue]:
            return (self.loops.insert(load).result,)

        def zero() -> tuple[SSAValue]:
            return (self.loops.insert(ZeroOp(block)).result,)

        (start,) = self.loops.choose(self.op.begins, given, zero)
        return start

    @property
    def target(self) -> Target:
        """The target of the plan."""
        return get_target(self.plan.target.data)

    @property
    def group(self) -> int:
        """Steps of the reduction that the instruction takes at once."""
        return self._instruction.k

    @property
    def _instruction(self) -> Instruction:
        return self.target.instruction(self.plan.instruction.data)

    @property
    def _broadcast(self) -> str:
        """The factor whose elements are broadcast."""
        return sides_of(self.plan.lanes.data).broadcast

    @property
    def _flip(self) -> str | None:
        """The factor of which signs are flipped."""
        return self._broadcast if self._instruction.flips else None

    # ------------------------------------------------------------------------------- packing

    def _pack_meanwhile(
        self,
        turns: Callable[[SSAValue, Carried], Carried],
        sums: SSAValue,
        whole: SSAValue,
    ) -> tuple[SSAValue, SSAValue]:
        """The first turns of the reduction, in each of which a row is packed.

        Returns:
            The sums so far, and the step that comes next.
        """
        loops = self.loops
        assert self.op.source is not None
        rows = loops.insert(memref.DimOp(self.op.source, self.zero)).result
        turn, one = loops.constant(self.plan.k_unroll.data), loops.constant(1)
        end = loops.minimum(loops.mul(rows, turn), whole)

        def visit(k: SSAValue, part: Carried) -> Carried:
            done = turns(k, part[:1])
            self._copy_row(part[1], ask=True)
            return [*done, loops.offset(part[1], 1)]

        def rest(row: SSAValue, _: Carried) -> Carried:
            self._copy_row(row, ask=False)
            return ()

        sums, packed = loops.counted(self.zero, end, turn, visit, [sums, self.zero])
        # Rows for which the reduction has too few turns.
        loops.counted(packed, rows, one, rest)
        return sums, end

    def _copy_row(self, row: SSAValue, *, ask: bool) -> None:
        """Copy one row, and ask for one that a later turn will copy."""
        op, loops, plan = self.op, self.loops, self.plan
        assert op.source is not None
        assert op.panel is not None
        lanes, width = plan.lanes.data, self._memref(op.source).get_shape()[1]
        shape, tags = ((1, width), "mn") if lanes == "n" else ((width, 1), "nm")
        type_ = BlockType.of(*shape, self._memref(op.source).element_type, lanes)
        place = [row, self.zero]
        if ask and plan.prefetch.data:
            turns = -(-plan.prefetch.data // plan.k_unroll.data)
            later = [loops.offset(row, turns), self.zero]
            loops.insert(PrefetchOp(op.source, later, tags, type_))
        loaded = loops.insert(LoadOp(op.source, place, tags, type_)).result
        loops.insert(StoreOp(loaded, op.panel, place, tags))

    def _prefetch_result(self, block: BlockType, depth: SSAValue) -> None:
        """Ask for the result before the reduction, if that is long enough for it to arrive."""
        loops, indices = self.loops, [self.zero] * len(self.tags[2])

        def ask() -> None:
            loops.insert(PrefetchOp(self.op.out, indices, self.tags[2], block))

        enough = loops.compare(depth, "ugt", loops.constant(LONG_REDUCTION))
        loops.branch(enough, ask, lambda: None)

    # ------------------------------------------------------------------------------ operands

    def _tags(self, map_: AffineMap) -> str:
        """The kind of iterator that indexes each dimension."""
        tags = ""
        for result in map_.results:
            group = group_index(result)
            if group is not None and group.size == self.group:
                tags += "g" if group.within else "k"
            elif isinstance(result, AffineDimExpr):
                tags += self.kinds[result.position]
            elif result == AffineExpr.constant(0):
                tags += "_"
            else:
                raise Unsupported("a masked block is indexed by single iterators")
        return tags

    def _memref(self, value: SSAValue) -> MemRefType:
        assert isinstance(value.type, MemRefType)
        return value.type

    def _factor(self, position: int, number: SSAValue) -> tuple[SSAValue, list[SSAValue], str]:
        """A factor's access at the group of some number."""
        tags = self.tags[position]
        k = number
        if "g" not in tags:
            k = self.loops.mul(number, self.loops.constant(self.group))
        return self.op.memrefs[position], [k if tag == "k" else self.zero for tag in tags], tags

    def _size(self, tag: str) -> SSAValue:
        """The extent of a kind of iterator."""
        if tag == "k" and all("g" in tags for tags in self.tags[:2]):
            groups = memref.DimOp(self.op.lhs, self.loops.constant(self.tags[0].index("k")))
            count = self.loops.insert(groups).result
            return self.loops.mul(count, self.loops.constant(self.group))
        for value, tags in zip(self.op.memrefs[::-1], self.tags[::-1], strict=True):
            if tag in tags and not (tag == "k" and "g" in tags):
                known = self._memref(value).get_shape()[tags.index(tag)]
                if known != DYNAMIC_INDEX:
                    return self.loops.constant(known)
        for value, tags in zip(self.op.memrefs[::-1], self.tags[::-1], strict=True):
            if tag in tags and not (tag == "k" and "g" in tags):
                dim = self.loops.constant(tags.index(tag))
                return self.loops.insert(memref.DimOp(value, dim)).result
        return self.loops.constant(1)

    def _tail(self) -> SSAValue | None:
        """The elements along the lanes, where they are not as many as the block has."""
        lanes = self.plan.lanes.data
        size = self._size(lanes)
        block = self.plan.block[lanes == "n"]
        return None if constant_index(size) == block else size

    def _prefetch(self) -> tuple[list[int], list[int]]:
        """How far ahead each factor is asked for, an offset a dimension.

        A block ahead, or the factor that is loaded as registers some steps ahead.
        """
        plan = self.plan
        vector = int(plan.lanes.data == "n")
        found: list[list[int]] = [[], []]
        for position, role in enumerate(FACTORS):
            tags, size = self.tags[position], plan.block[position]
            if plan.asks_ahead(role):
                found[position] = [size if tag in "mn" else 0 for tag in tags]
            elif position == vector and plan.prefetch.data and self.op.source is None:
                steps = plan.prefetch.data * (1 if "g" in tags else self.group)
                found[position] = [steps if tag == "k" else 0 for tag in tags]
        return found[0], found[1]

    def _store(self, block: SSAValue, tail: SSAValue | None) -> None:
        """Update the result, which is not read where the sums start from zero."""
        op, loops = self.op, self.loops
        out, tags = op.out, self.tags[2]
        indices = [self.zero] * len(tags)
        extras = [
            BlockAccess(extra, (self.zero,) * len(dims), dims)
            for extra, dims in zip(op.extras, self.tags[3:], strict=True)
        ]

        def store(*, first: bool) -> None:
            beta = None if first else op.beta
            accumulate = not first and op.alpha is None
            epilogue = None if op.epilogue is None else op.epilogue.clone()
            loops.insert(
                StoreOp(
                    *(block, out, indices, tags, accumulate),
                    tail=tail,
                    alpha=op.alpha,
                    beta=beta,
                    extras=extras,
                    epilogue=epilogue,
                )
            )

        if op.first is not None:
            loops.branch(op.first, lambda: store(first=True), lambda: store(first=False))
        else:
            store(first=op.from_zero is not None)
