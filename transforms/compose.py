"""`compose`: turn each planned `nanokernel.gemm` into loops over nanokernels.

The result of this pass is the composed level: loops over the outer iterators, over the blocks of
rows and columns in the plan's order, and in them one microkernel a block shape: start a block of
accumulators at zero, step through the reduction, store, with the old result added if it counts.
Ragged sizes are covered by an even split, so every edge is a block of the same kind, a little
smaller.

```mlir
nanokernel.gemm ins(%a[m, k], %b[k, n] : ...) outs(%c[m, n] : ...) plan #nanokernel.plan<...>
// becomes
scf.for %j = %c0 to %c96 step %c48 {
  scf.for %i = %c0 to %c64 step %c8 {
    %zero = nanokernel.zero : !nanokernel.block<8x48xf32, lanes = n>
    %done = scf.for %k = %c0 to %c256 step %c4 iter_args(%part = %zero) -> (...) {
      %next = nanokernel.step %part, %a[m: %i, k: %k], %b[k: %k, n: %j] depth 4 ...
      scf.yield %next
    }
    nanokernel.store %done, %c[m: %i, n: %j] accumulate : ...
  }
}
```

A packed factor gets a panel in the workspace, refilled for each of its blocks. For an instruction
that takes k in groups, the panel holds groups, and the loop over k counts them. The product's
epilogue becomes that of its stores. No options: the plan says it all. Imports: our dialects, the
planner.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import arith, func, memref
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    MemRefType,
    ModuleOp,
    StridedLayoutAttr,
)
from xdsl.ir import Block, Region, SSAValue
from xdsl.ir.affine import AffineExpr, AffineMap
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from nkdsl.diagnostics import refuse
from nkdsl.dialects.nanokernel import (
    WORKSPACE_ALIGNMENT,
    BlockAccess,
    BlockType,
    GemmOp,
    LoadOp,
    PackOp,
    PlanAttr,
    StepOp,
    StoreOp,
    SumOp,
    WorkspaceOp,
    ZeroOp,
    group_index,
    linear_coefficients,
)
from nkdsl.dialects.nkvector import constant_index
from nkdsl.errors import Unsupported
from nkdsl.planner import Problem, analyse, check_plan
from nkdsl.planner.blocking import sides_of
from nkdsl.planner.cost import STREAMED, asks_for_next_reduction, block_runs, source_level
from nkdsl.planner.problem import Role
from nkdsl.planner.search import grouped
from nkdsl.planner.split import Run, split_evenly
from nkdsl.targets import get_target
from nkdsl.targets.model import Instruction, Target, TileInstruction
from nkdsl.transforms.loops import Carried, LoopBuilder
from nkdsl.transforms.microkernel import Microkernel
from nkdsl.transforms.tile_microkernel import OuterMicrokernel, TileMicrokernel

SHORT_ROW_LINES = 4
"""Rows of fewer cache lines are not prefetched a line ahead: a quarter or more would be wasted."""


STREAM_AHEAD = 2048
"""Bytes by which rows that are streamed, few at a time, are asked for ahead: on Zen 4 a product
with one row then reads memory at 25 instead of 22 GB/s, one with four rows at 18 instead of 15."""


def microkernel_of(plan: PlanAttr) -> type[Microkernel]:
    """What composes a masked product: of vector registers, of tiles, or of outer products."""
    instruction = get_target(plan.target.data).instruction(plan.instruction.data)
    if not isinstance(instruction, TileInstruction):
        return Microkernel
    return OuterMicrokernel if instruction.scalable else TileMicrokernel


@dataclass(frozen=True)
class Schedule:
    """Everything that is known about one gemm before any op is built."""

    op: GemmOp
    problem: Problem
    plan: PlanAttr
    target: Target
    instruction: Instruction
    rows: tuple[Run, ...]
    """Blocks along the inner m."""
    columns: tuple[Run, ...]
    """Blocks along the inner n."""

    @property
    def packed(self) -> str:
        """The packed factor, `lhs` or `rhs`, or `none`."""
        return self.plan.pack.data

    @property
    def group(self) -> int:
        """Steps of the reduction that the instruction takes at once."""
        return self.instruction.k

    @property
    def executed(self) -> Instruction:
        """The instruction that multiplies: another one, where the plan's flips signs."""
        return self.target.executed(self.instruction, self.broadcast)

    @property
    def broadcast(self) -> str:
        """The factor whose elements are broadcast."""
        return sides_of(self.plan.lanes.data).broadcast

    @property
    def turn(self) -> int:
        """Reduction steps, in groups, of one turn of the inner loop."""
        lanes = self.instruction.lanes if self.plan.lanes.data == "k" else 1
        return self.plan.k_unroll.data * lanes

    @property
    def chunks(self) -> tuple[Run, ...]:
        """How the outermost reduction iterator is cut, the first chunk apart if it starts anew."""
        position = self.problem.reduction[:1]
        extent = self.problem.sizes[position[0]] if position else 1
        unit = self._chunk_unit
        whole = -(-(self.plan.k_block.data or extent or 1) // unit) * unit
        runs = split_evenly(extent, whole, unit)
        uniform = not self.problem.from_zero and self.op.started is None
        if uniform or not runs or (len(runs) == 1 and runs[0].count == 1):
            return runs
        first, *rest = runs
        apart = Run(first.start, first.size, 1)
        remainder = Run(first.start + first.size, first.size, first.count - 1)
        return (apart, *([remainder] if remainder.count else []), *rest)

    @property
    def _chunk_unit(self) -> int:
        """What the parts of the outermost reduction are multiples of: groups aren't cut."""
        position = self.problem.reduction[:1]
        return self.group if position and position[0] == self.problem.position("k") else 1

    def prefetch(self, role: Role, dims: str) -> tuple[int, ...]:
        """Index offsets at which a factor with some tags is prefetched; empty for not at all.

        The factor that is loaded as registers is asked for some steps ahead. A broadcast factor
        that is contiguous in k is asked for a line ahead, unless its rows are so short that much
        of that would fall behind their ends; with reductions around the inner one, at the same
        place of the next of them. Where few rows at a time are streamed, what follows in each is
        asked for; with lanes along k, what the next block reads.
        """
        if self.plan.asks_ahead(role):
            return tuple(self._stream_ahead(tag) if tag in "mn" else 0 for tag in dims)
        if self.plan.lanes.data == "k":
            return ()
        distance = self.plan.prefetch.data
        in_place = self.packed != role
        problem, plan = grouped(self.problem, self.target, self.plan)
        if not distance or (in_place and not source_level(problem, self.target, plan, role)):
            return ()
        if "g" not in dims:
            distance *= self.group
        following = asks_for_next_reduction(self.problem, self.plan, role)
        if following is not None and in_place:
            return tuple(int(dim == following) for dim in range(len(dims)))
        if STREAMED.get(self.plan.lanes.data) != role and self.problem.stride(role, "k") == 1:
            line = self.target.caches[0].line // self.problem.operand.size
            if self.problem.extent("k") < SHORT_ROW_LINES * line:
                return ()
            distance = max(distance, line)
        return tuple(distance if tag == "k" else 0 for tag in dims)

    def _stream_ahead(self, kind: str) -> int:
        """How many elements ahead streamed rows are asked for: whole blocks."""
        block = self.plan.block[kind == "n"]
        if self.plan.lanes.data == "k":
            return block
        return -(-STREAM_AHEAD // (block * self.problem.operand.size)) * block


def schedule(op: GemmOp) -> Schedule:
    """Analyse a planned gemm; raises `Unsupported` with the reason where it can't be composed."""
    if op.plan is None:
        raise Unsupported("this product has no plan; run the pass 'plan' first")
    problem = analyse(op)
    target = get_target(op.plan.target.data)
    check_plan(problem, target, op.plan)
    instruction = target.instruction(op.plan.instruction.data)
    rows, columns = block_runs(problem, op.plan, instruction.lanes)
    return Schedule(op, problem, op.plan, target, instruction, rows, columns)


def flip_of(plan: Schedule) -> str | None:
    """The factor of which signs are flipped, the one that is broadcast, if the instruction does."""
    return plan.broadcast if plan.instruction.flips else None


def make_up_for_flips(
    plan: Schedule, flip: str, source: SSAValue, sums: SSAValue, *, accumulate: bool = False
) -> SumOp:
    """The sums of one factor, in groups, that make up for the flipped signs of the other one.

    Of the latter each number is 128 larger if it was signed, and 128 smaller if not.
    """
    flipped, loaded = plan.problem.operand, plan.problem.other
    if flip == "rhs":
        flipped, loaded = loaded, flipped
    factor = 128 if flipped.is_unsigned else -128
    return SumOp(source, sums, factor, unsigned=loaded.is_unsigned, accumulate=accumulate)


def part_of(
    loops: LoopBuilder,
    memory: SSAValue,
    offsets: Sequence[SSAValue | int],
    sizes: Sequence[SSAValue | int],
    kept: Sequence[int],
) -> SSAValue:
    """A part of a memref with some of its dimensions only; along the others it has one element."""
    assert isinstance(memory.type, MemRefType)
    ones = [1] * len(sizes)
    full = memref.SubviewOp.infer_result_type(memory.type, offsets, sizes, ones)
    strides = full.get_strides()
    assert strides is not None
    type_ = MemRefType(
        full.element_type,
        [full.get_shape()[d] for d in kept],
        StridedLayoutAttr([strides[d] for d in kept], full.get_offset()),
    )
    return loops.insert(memref.SubviewOp.get(memory, offsets, sizes, ones, type_)).result


@dataclass(frozen=True)
class Factor:
    """Where the steps of one block read a factor: a memref, its indices but for k, its tags."""

    memref: SSAValue
    indices: tuple[SSAValue, ...]
    dims: str
    panel: bool = False
    """Whether it is packed, so that k counts from the start of the chunk."""

    @property
    def in_groups(self) -> bool:
        """Whether its index k counts groups."""
        return "g" in self.dims

    def at(self, k: SSAValue) -> tuple[SSAValue, Sequence[SSAValue], str]:
        """The access at step k."""
        indices = [
            k if tag == "k" else index for index, tag in zip(self.indices, self.dims, strict=True)
        ]
        return self.memref, indices, self.dims


class Composer:
    """Builds the composed form of one gemm in front of it."""

    def __init__(self, plan: Schedule, entry: Block):
        """Compose `plan.op`, which stands in the function with entry block `entry`."""
        self.schedule = plan
        self.problem = plan.problem
        self.loops = LoopBuilder(entry, InsertPoint.before(plan.op))
        self.at: dict[int, SSAValue] = {}
        self.local: dict[int, SSAValue] = {}
        """Indices of outer reduction iterators within the current chunk."""
        self.panel: SSAValue | None = None
        self.chunk: tuple[SSAValue, int] = (self.loops.constant(0), 1)
        """Where the current chunk of the outermost reduction iterator starts, and its extent."""
        self.from_zero = self.problem.from_zero
        self.is_first = True
        """Whether the current chunk is the first one."""
        self.sums: SSAValue | None = None
        """What the sums start with, for as many columns, or rows, as a panel has."""
        self.flip = flip_of(plan)

    def compose(self) -> None:
        """Build everything."""
        behind = self._reserve_panel() if self.schedule.packed != "none" else 0
        if self.flip is not None and self.schedule.op.start is None:
            self._reserve_sums(behind)
        self._outer(self.problem.outer("b", "m", "n"), self._chunks)

    def _chunks(self) -> None:
        """The loop over chunks of the reduction; later ones add to the sums of the first."""
        runs = self.schedule.chunks
        if not runs:
            self.chunk = self.loops.constant(0), 0
            self._grid()
            return
        for number, run in enumerate(runs):
            self.is_first = number == 0
            self.from_zero = self.problem.from_zero and self.is_first

            def visit(start: SSAValue, size: int) -> None:
                self.chunk = start, size
                self._grid()

            self.loops.runs([run], visit)

    def _extent(self, position: int) -> int:
        """Extent of an iterator within the current chunk."""
        if position in self.problem.reduction[:1]:
            return self.chunk[1]
        return self.problem.sizes[position]

    def _moved(self, position: int, index: SSAValue) -> SSAValue:
        """An iterator's index, given its index within the current chunk."""
        if position not in self.problem.reduction[:1]:
            return index
        return self.loops.add(self.chunk[0], index)

    def _depth(self) -> int:
        """Extent of the inner reduction within the current chunk."""
        position = self.problem.position("k")
        return 1 if position is None else self._extent(position)

    def _outer(self, iterators: Sequence[int], body: Callable[[], None]) -> None:
        """Loops over some iterators, one index at a time."""
        if not iterators:
            body()
            return
        first, *rest = iterators

        def visit(index: SSAValue, _: Carried) -> Carried:
            self.at[first] = index
            self._outer(rest, body)
            return ()

        self.loops.loop(0, self.problem.sizes[first], 1, visit)

    def _grid(self) -> None:
        """The loops over blocks; the resident factor's block changes in the outer one."""
        rows, columns = self.schedule.rows, self.schedule.columns
        if self.schedule.plan.resident.data == "rhs":
            self.loops.runs(
                columns,
                lambda j, width: self._with_panel(
                    j,
                    width,
                    lambda: self.loops.runs(rows, lambda i, m: self._block(i, m, j, width)),
                ),
            )
        else:
            self.loops.runs(
                rows,
                lambda i, m: self._with_panel(
                    i, m, lambda: self.loops.runs(columns, lambda j, n: self._block(i, m, j, n))
                ),
            )

    # ------------------------------------------------------------------------ one block

    def _block(self, i: SSAValue, rows: int, j: SSAValue, columns: int) -> None:
        """One microkernel: the reduction, from zero on, and then the result.

        Old results come in last, so that no sum waits for them.
        """
        plan, problem = self.schedule.plan, self.problem
        self._set("m", i)
        self._set("n", j)
        block = BlockType.of(rows, columns, problem.accumulator.mlir, plan.lanes.data)
        self._set("k", self.loops.constant(0))
        out, out_dims = self._indices(self.schedule.op.out, 2, "mn")
        start = self.loops.insert(self._start(block))
        (done,) = self._reduction(self.problem.outer("k"), [start.result], rows, columns)
        store = StoreOp(
            done,
            self.schedule.op.out,
            out,
            out_dims,
            accumulate=not self.from_zero,
            extras=self._extras(),
            epilogue=self._epilogue(),
        )
        self.loops.insert(store)

    def _start(self, block: BlockType) -> ZeroOp | LoadOp:
        """What the sums of a block start with."""
        lanes, given = self.schedule.plan.lanes.data, self.schedule.op.started
        width, zero = block.shape[lanes == "n"], [self.loops.constant(0)]
        if self.sums is not None:
            return LoadOp(self._sums_of(width), zero, lanes, block)
        if given is None or not self.is_first:
            return ZeroOp(block)
        start, map_ = given
        tags = extra_tags(self.problem, map_)
        indices = [as_number(i) for i in evaluate(map_, self.at, self.loops)]
        sizes = [width if tag == lanes else 1 for tag in tags]
        part = part_of(self.loops, start, indices, sizes, [tags.index(lanes)])
        return LoadOp(part, zero, lanes, block)

    def _extras(self) -> list[BlockAccess]:
        """Where the block's elements of the epilogue's further operands lie."""
        op = self.schedule.op
        found: list[BlockAccess] = []
        for extra, map_ in zip(op.extras, op.indexing_maps[3:], strict=True):
            indices = evaluate(map_, self.at, self.loops)
            found.append(BlockAccess(extra, tuple(indices), extra_tags(self.problem, map_)))
        return found

    def _epilogue(self) -> Region | None:
        """A copy of the product's epilogue."""
        epilogue = self.schedule.op.epilogue
        return None if epilogue is None else epilogue.clone()

    def _reduction(
        self, iterators: Sequence[int], carried: Carried, rows: int, columns: int
    ) -> Carried:
        """Loops over the outer reduction iterators, then the steps along the inner one."""
        if not iterators:
            return self._steps(carried, rows, columns)
        first, *rest = iterators

        def visit(index: SSAValue, part: Carried) -> Carried:
            self.local[first] = index
            self.at[first] = self._moved(first, index)
            return self._reduction(rest, part, rows, columns)

        return self.loops.loop(0, self._extent(first), 1, visit, carried)

    def _steps(self, carried: Carried, rows: int, columns: int) -> Carried:
        """The inner loop, over groups: whole turns, then what is left as one shorter step."""
        depth, turn, group = self._depth(), self.schedule.turn, self.schedule.group
        lhs = self._factor("lhs", rows)
        rhs = self._factor("rhs", columns)
        prefetch = (
            self.schedule.prefetch("lhs", lhs.dims),
            self.schedule.prefetch("rhs", rhs.dims),
        )

        def step(number: SSAValue, part: Carried, count: int) -> Carried:
            accesses = [f.at(self._step_index(f, number)) for f in (lhs, rhs)]
            op = StepOp(
                *(part[0], accesses[0], accesses[1], count, self.schedule.executed.name, prefetch),
                flip=self.flip,
            )
            return [self.loops.insert(op).result]

        whole = depth // group // turn * turn
        carried = self.loops.loop(
            0, whole, turn, lambda k, part: step(k, part, turn * group), carried
        )
        if depth > whole * group:
            carried = step(self.loops.constant(whole), carried, depth - whole * group)
        return carried

    def _step_index(self, factor: Factor, number: SSAValue) -> SSAValue:
        """A factor's index k in the group of some number."""
        loops, group = self.loops, self.loops.constant(self.schedule.group)
        if factor.panel:
            return number if factor.in_groups else loops.mul(number, group)
        if not factor.in_groups:
            return self._inner_index(loops.mul(number, group))
        start = loops.div(self._inner_index(loops.constant(0)), group)
        return loops.add(start, number)

    def _inner_index(self, k: SSAValue) -> SSAValue:
        """The inner reduction's index, given its index within the current chunk."""
        position = self.problem.position("k")
        return k if position is None else self._moved(position, k)

    def _factor(self, role: str, width: int) -> Factor:
        """Where a factor is read: in place, or in its panel."""
        zero = self.loops.constant(0)
        kind = "m" if role == "lhs" else "n"
        if self.schedule.packed == role:
            tags = kind + "k" if self._dots else "k" + kind
            panel = self._panel_slice(width)
            if self._panel_group > 1:
                tags += "g"
            return Factor(panel, (zero,) * len(tags), tags, panel=True)
        self._set("k", zero)
        position = 0 if role == "lhs" else 1
        operand = self.schedule.op.lhs if role == "lhs" else self.schedule.op.rhs
        indices, dims = self._indices(operand, position, kind + "k")
        return Factor(operand, tuple(indices), dims)

    # ---------------------------------------------------------------------------- panels

    @property
    def _dots(self) -> bool:
        """Whether lanes lie along the reduction; the rows of a panel then do, too."""
        return self.schedule.plan.lanes.data == "k"

    @property
    def _panel_group(self) -> int:
        """Steps of the reduction in a row of a panel; with lanes along k its rows are along k."""
        return 1 if self._dots else self.schedule.group

    def _panel_shape(self, width: int, depth: int) -> tuple[int, ...]:
        """A panel's rows, its columns in whole registers, and the elements of a group if any."""
        instruction = self.schedule.instruction
        lanes = instruction.lanes * (instruction.k if self._dots else 1)
        rows, columns = (width, depth) if self._dots else (depth, width)
        group = self._panel_group
        shape = -(-rows // group), -(-columns // lanes) * lanes
        return (*shape, group) if group > 1 else shape

    def _reserve_panel(self) -> int:
        """One panel in the workspace, as wide as the widest block; returns where it ends."""
        runs = self.schedule.columns if self.schedule.packed == "rhs" else self.schedule.rows
        if not runs:
            return 0
        chunks = self.schedule.chunks
        depth = max((run.size for run in chunks), default=0)
        inner = depth if len(self.problem.reduction) <= 1 else self.problem.extent("k")
        elements = max(math.prod(self._panel_shape(run.size, inner)) for run in runs)
        if len(self.problem.reduction) > 1:
            elements *= depth * math.prod(
                self.problem.sizes[position] for position in self.problem.reduction[1:-1]
            )
        panel = MemRefType(self.problem.operand.mlir, [elements])
        self.panel = self.loops.insert(WorkspaceOp(panel)).result
        size = elements * self.problem.operand.size
        return -(-size // WORKSPACE_ALIGNMENT) * WORKSPACE_ALIGNMENT

    def _reserve_sums(self, start: int) -> None:
        """What makes up for flipped signs, for the widest block, in whole registers."""
        along = self.schedule.plan.lanes.data
        runs = self.schedule.columns if along == "n" else self.schedule.rows
        if runs:
            width = max(self._in_registers(run.size) for run in runs)
            sums = MemRefType(self.problem.accumulator.mlir, [width])
            self.sums = self.loops.insert(WorkspaceOp(sums, start)).result

    def _in_registers(self, width: int) -> int:
        """Accumulators of the registers that some fill."""
        lanes = self.schedule.instruction.lanes
        return -(-width // lanes) * lanes

    def _sums_of(self, width: int) -> SSAValue:
        """What the sums start with, for a block of some width along the lanes."""
        assert self.sums is not None
        whole = self._in_registers(width)
        type_ = MemRefType(self.problem.accumulator.mlir, [whole])
        if self.sums.type == type_:
            return self.sums
        layout = StridedLayoutAttr([1], 0)
        type_ = MemRefType(self.problem.accumulator.mlir, [whole], layout)
        cast = memref.ReinterpretCastOp(self.sums, [], [], [], [0], [whole], [1], type_)
        return self.loops.insert(cast).result

    def _with_panel(self, index: SSAValue, width: int, body: Callable[[], None]) -> None:
        """Fill the panel for the resident factor's block at `index`, where it is packed.

        Where the signs of the other factor are flipped, the block is added up over k, too.
        """
        packed, outer = self.schedule.packed != "none", self.problem.outer("k")
        kind = "m" if self.schedule.plan.resident.data == "lhs" else "n"

        def fill() -> None:
            self._set(kind, index)
            self._set("k", self._inner_index(self.loops.constant(0)))
            part = self._packed_part(width) if packed else self._part_in_groups(width)
            if self.flip is not None and self.sums is not None:
                sums = self._sums_of(width)
                added = make_up_for_flips(
                    self.schedule, self.flip, part, sums, accumulate=bool(outer)
                )
                self.loops.insert(added)

        if self.sums is not None and outer:
            self._clear_sums(width)
        if packed or self.sums is not None:
            self._each_reduction(outer, fill)
        body()

    def _resident(self) -> tuple[SSAValue, list[SSAValue], str]:
        """The resident factor, and its indices and tags at the current iterators."""
        op = self.schedule.op
        if self.schedule.plan.resident.data == "lhs":
            return op.lhs, *self._indices(op.lhs, 0, "mk")
        return op.rhs, *self._indices(op.rhs, 1, "nk")

    def _packed_part(self, width: int) -> SSAValue:
        """The panel of a part of the resident factor, which is packed."""
        panel, (source, indices, dims) = self._panel_slice(width), self._resident()
        if self._depth():
            extents = (width, self._depth()) if self._dots else (self._depth(), width)
            self.loops.insert(PackOp(source, indices, dims, panel, extents, self._dots))
        return panel

    def _part_in_groups(self, width: int) -> SSAValue:
        """A part of the resident factor, which lies in groups, as K×W×G."""
        source, indices, dims = self._resident()
        groups = -(-self._depth() // self.schedule.group)
        extents = {"k": groups, "g": self.schedule.group, "_": 1}
        sizes = [extents.get(tag, width) for tag in dims]
        kept = [dimension for dimension, tag in enumerate(dims) if tag != "_"]
        return part_of(self.loops, source, [as_number(i) for i in indices], sizes, kept)

    def _clear_sums(self, width: int) -> None:
        """Set what the sums start with to zero, for a block of some width."""
        sums, lanes = self._sums_of(width), self.schedule.plan.lanes.data
        whole = self._in_registers(width)
        shape = (1, whole) if lanes == "n" else (whole, 1)
        zeros = ZeroOp(BlockType.of(*shape, self.problem.accumulator.mlir, lanes))
        self.loops.insert(zeros)
        self.loops.insert(StoreOp(zeros.result, sums, [self.loops.constant(0)], lanes))

    def _each_reduction(self, iterators: Sequence[int], body: Callable[[], None]) -> None:
        """Loops over outer reduction iterators within the current chunk."""

        def visit(index: SSAValue, _: Carried) -> Carried:
            first, *rest = iterators
            self.local[first] = index
            self.at[first] = self._moved(first, index)
            self._each_reduction(rest, body)
            return ()

        if iterators:
            self.loops.loop(0, self._extent(iterators[0]), 1, visit)
        else:
            body()

    def _panel_slice(self, width: int) -> SSAValue:
        """The part of the panel that belongs to the current outer reduction indices."""
        assert self.panel is not None
        shape = self._panel_shape(width, self._depth())
        place: SSAValue | None = None
        for position in self.problem.outer("k"):
            if place is not None:
                size = self.loops.constant(self._extent(position))
                place = self.loops.insert(arith.MuliOp(place, size)).result
            index = self.local[position]
            place = index if place is None else self.loops.add(place, index)
        dynamic: list[SSAValue] = []
        if place is not None:
            size = self.loops.constant(math.prod(shape))
            dynamic = [self.loops.insert(arith.MuliOp(place, size)).result]
        offset = None if dynamic else 0
        strides = [math.prod(shape[d:]) for d in range(1, len(shape) + 1)]
        type_ = MemRefType(self.problem.operand.mlir, shape, StridedLayoutAttr(strides, offset))
        static = [DYNAMIC_INDEX if dynamic else 0]
        cast = memref.ReinterpretCastOp(self.panel, dynamic, [], [], static, shape, strides, type_)
        return self.loops.insert(cast).result

    # --------------------------------------------------------------------------- indices

    def _set(self, kind: str, index: SSAValue) -> None:
        position = self.problem.position(kind)
        if position is not None:
            self.at[position] = index

    def _indices(self, operand: SSAValue, position: int, kinds: str) -> tuple[list[SSAValue], str]:
        """An operand's indices at the current iterators, and the tags of its block dimensions."""
        map_ = self.schedule.op.indexing_maps[position]
        role = (self.problem.lhs, self.problem.rhs, self.problem.out)[position]
        tags = ["_"] * len(map_.results)
        for kind in kinds:
            iterator = self.problem.position(kind)
            if iterator is not None:
                dim = role.dims[iterator]
                assert dim is not None
                tags[dim] = kind
                if kind == "k" and role.within is not None:
                    tags[role.within] = "g"
        return evaluate(map_, self.at, self.loops), "".join(tags)


def as_number(value: SSAValue) -> SSAValue | int:
    """A constant as a number."""
    known = constant_index(value)
    return value if known is None else known


def evaluate(map_: AffineMap, at: Mapping[int, SSAValue], loops: LoopBuilder) -> list[SSAValue]:
    """A map's results at some indices of its iterators; of groups these must be whole."""
    values: list[SSAValue] = []
    for result in map_.results:
        if (group := group_index(result)) is not None:
            size = loops.constant(group.size)
            zero = loops.constant(0)
            values.append(zero if group.within else loops.div(at[group.position], size))
            continue
        linear = linear_coefficients(result, map_.num_dims)
        assert linear is not None
        coefficients, constant = linear
        total: SSAValue | None = None
        for position, factor in enumerate(coefficients):
            if factor:
                term = loops.mul(at[position], loops.constant(factor))
                total = term if total is None else loops.add(total, term)
        total = loops.constant(0) if total is None else total
        values.append(loops.offset(total, constant))
    return values


def lone_dimension(map_: AffineMap, iterator: int | None) -> int | None:
    """The dimension that an iterator indexes alone, if there is one."""
    if iterator is None:
        return None
    dims = [d for d, result in enumerate(map_.results) if iterator in result.used_dims()]
    alone = [d for d in dims if map_.results[d] == AffineExpr.dimension(iterator)]
    if dims != alone or len(alone) > 1:
        raise Unsupported("each iterator must index a dimension of an extra operand alone, or none")
    return alone[0] if alone else None


def extra_tags(problem: Problem, map_: AffineMap) -> str:
    """The kinds of the iterators that index a further operand of the epilogue."""
    tags = ["_"] * len(map_.results)
    for kind in "mn":
        dim = lone_dimension(map_, problem.position(kind))
        if dim is not None:
            tags[dim] = kind
    return "".join(tags)


def enclosing_function(op: GemmOp) -> func.FuncOp:
    """The function that a product stands in; raises `Unsupported` where there is none."""
    parent = op.parent_op()
    while not isinstance(parent, func.FuncOp):
        if parent is None:
            raise Unsupported("a product must stand in a function")
        parent = parent.parent_op()
    return parent


@dataclass(frozen=True)
class ComposePass(ModulePass):
    """Turn planned products into loops over nanokernels."""

    name = "compose"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module in place."""
        for gemm in [o for o in op.walk() if isinstance(o, GemmOp)]:
            try:
                entry = enclosing_function(gemm).body.blocks[0]
                if gemm.plan is not None and gemm.plan.edges.data == "masked":
                    loops = LoopBuilder(entry, InsertPoint.before(gemm))
                    microkernel_of(gemm.plan)(gemm, gemm.plan, loops).compose()
                else:
                    Composer(schedule(gemm), entry).compose()
            except Unsupported as error:
                refuse(gemm, str(error))
            Rewriter.erase_op(gemm)
