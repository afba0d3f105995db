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
from xdsl.ir.affine import AffineDimExpr, AffineMap
from xdsl.rewriter import InsertPoint

from nkdsl.dialects.nanokernel import (
    BlockType,
    GemmOp,
    LoadOp,
    PlanAttr,
    PrefetchOp,
    StepOp,
    StoreOp,
    ZeroOp,
)
from nkdsl.dialects.nkvector import constant_index
from nkdsl.errors import Unsupported
from nkdsl.planner.cost import FACTORS
from nkdsl.transforms.loops import Carried, LoopBuilder

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
        out = self._memref(op.out)
        block = BlockType.of(*plan.block, out.element_type, plan.lanes.data)
        start = self.loops.insert(ZeroOp(block)).result
        depth, turn = self._depth(), self.loops.constant(plan.k_unroll.data)
        self._prefetch_result(block, depth)
        whole = self.loops.sub(depth, self.loops.rem(depth, turn))
        tail = self._tail()

        def steps(count: int) -> Callable[[SSAValue, Carried], Carried]:
            def step(k: SSAValue, part: Carried) -> Carried:
                factors = self._factor(0, k), self._factor(1, k)
                name = plan.instruction.data
                made = StepOp(part[0], *factors, count, name, self._prefetch(), tail, op.kept)
                return [self.loops.insert(made).result]

            return step

        loops, turns = self.loops, steps(plan.k_unroll.data)
        sums: SSAValue = start
        begin = self.zero
        if op.source is not None:
            sums, begin = self._pack_meanwhile(turns, sums, whole)
        (sums,) = loops.counted(begin, whole, turn, turns, [sums])
        if plan.k_unroll.data > 1:
            (sums,) = loops.counted(whole, depth, loops.constant(1), steps(1), [sums])
        self._store(sums, tail)

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
            if not isinstance(result, AffineDimExpr):
                raise Unsupported("a masked block is indexed by single iterators")
            tags += self.kinds[result.position]
        return tags

    def _memref(self, value: SSAValue) -> MemRefType:
        assert isinstance(value.type, MemRefType)
        return value.type

    def _factor(self, position: int, k: SSAValue) -> tuple[SSAValue, list[SSAValue], str]:
        """A factor's access at step k."""
        tags = self.tags[position]
        return self.op.memrefs[position], [k if tag == "k" else self.zero for tag in tags], tags

    def _size(self, tag: str) -> SSAValue:
        """The extent of a kind of iterator."""
        for value, tags in zip(self.op.memrefs[::-1], self.tags[::-1], strict=True):
            if tag in tags:
                known = self._memref(value).get_shape()[tags.index(tag)]
                if known != DYNAMIC_INDEX:
                    return self.loops.constant(known)
        for value, tags in zip(self.op.memrefs[::-1], self.tags[::-1], strict=True):
            if tag in tags:
                dim = self.loops.constant(tags.index(tag))
                return self.loops.insert(memref.DimOp(value, dim)).result
        return self.loops.constant(1)

    def _depth(self) -> SSAValue:
        return self._size("k")

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
                found[position] = [0 if tag == "k" else size for tag in tags]
            elif position == vector and plan.prefetch.data and self.op.source is None:
                found[position] = [plan.prefetch.data if tag == "k" else 0 for tag in tags]
        return found[0], found[1]

    def _store(self, block: SSAValue, tail: SSAValue | None) -> None:
        """Update the result, which is not read where the sums start from zero."""
        op, loops = self.op, self.loops
        out, tags = op.out, self.tags[2]
        indices = [self.zero] * len(tags)

        def store(*, first: bool) -> None:
            beta = None if first else op.beta
            accumulate = not first and op.alpha is None
            loops.insert(
                StoreOp(block, out, indices, tags, accumulate, tail=tail, alpha=op.alpha, beta=beta)
            )

        if op.first is not None:
            loops.branch(op.first, lambda: store(first=True), lambda: store(first=False))
        else:
            store(first=op.from_zero is not None)
