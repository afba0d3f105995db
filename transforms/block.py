"""`block`: cut each product with cache blocks, or of run-time sizes, into calls of microkernels.

One factor, the *vector* factor, is loaded as registers (rhs with lanes along n), the other one is
broadcast. The product becomes Goto's loops around microkernels (Goto and van de Geijn, "Anatomy of
High-Performance Matrix Multiplication"; Van Zee and van de Geijn, "BLIS"), written here for lanes
along n:

```mlir
scf.for ... columns, n_block at a time
  scf.for ... the reduction, k_block at a time       // the first part starts the sums
    nanokernel.pack ...                              // B's panels, one a block of columns
    scf.for ... rows, m_block at a time
      nanokernel.pack ...                            // A's panels
      scf.for ... columns, a register block at a time
        scf.for ... rows, a register block at a time
          nanokernel.microkernel @f_8x48(%a, %b, %c, %first)
```

Every size is split evenly, at run time as here, and what is known now is computed now. There is one
microkernel a block of registers, a private function: for static sizes those that occur, else one
for each count of rows and of registers, whose last register is masked. Where a block's size is
known only at run time, an `scf.index_switch` picks the microkernel.

With lanes along m the roles of the factors, of rows and of columns are exchanged. If the broadcast
dimension isn't cut, a panel of the vector factor is packed right before its use, into a place that
stays in the caches; where sizes are known, by the first microkernel that reads it (`keep`), or by
those that use the panel before it (`ahead`).

An instruction that takes k in groups finds them in panels of groups; parts of the reduction end
with whole groups, but for the last one. An epilogue goes with the microkernels if they see the
whole reduction. If they don't, a block of sums is kept in the workspace until its reduction is
over; then a loop over its registers makes results of it.

Several threads share a product as a grid of parts of its rows and columns, never of the reduction:
each calls one function, `@f_part`, with its number, and has a slice of the workspace of its own.

No options: the plan says it all. Imports: our dialects, the planner.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from xdsl.context import Context
from xdsl.dialects import arith, func, memref
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    AnyFloat,
    FloatAttr,
    IndexType,
    IntegerAttr,
    MemRefType,
    ModuleOp,
    StridedLayoutAttr,
    StringAttr,
    i1,
)
from xdsl.ir import Attribute, Block, Region, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineExpr, AffineMap
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter
from xdsl.traits import SymbolTable

from nkdsl.diagnostics import refuse
from nkdsl.dialects.nanokernel import (
    TARGET_ATTRIBUTE,
    WORKSPACE_ALIGNMENT,
    BlockAccess,
    BlockType,
    GemmOp,
    LoadOp,
    MicrokernelOp,
    PackOp,
    PlanAttr,
    StoreOp,
    WorkspaceOp,
    group_index,
)
from nkdsl.dialects.nkvector import constant_index
from nkdsl.errors import Unsupported
from nkdsl.planner.blocking import SHARED_STEPS, accumulates_apart, sides_of, thread_grid
from nkdsl.planner.cost import FACTORS
from nkdsl.planner.problem import Problem, Role
from nkdsl.planner.search import is_tiled
from nkdsl.planner.split import Run, extents_of, last_extent, split_evenly
from nkdsl.targets import get_target
from nkdsl.targets.model import TileInstruction
from nkdsl.transforms.compose import (
    Schedule,
    as_number,
    enclosing_function,
    evaluate,
    extra_tags,
    make_up_for_flips,
    part_of,
    schedule,
)
from nkdsl.transforms.loops import Carried, LoopBuilder

Bounds = tuple[int, int | None]
"""The smallest and the largest value of a size; None: any."""


Extents = tuple[SSAValue | int, SSAValue | int]
"""Rows and columns of a panel that are filled."""


@dataclass(frozen=True)
class Length:
    """A size with what is known about it."""

    value: SSAValue
    bounds: Bounds

    @property
    def known(self) -> int | None:
        """The size, where it is known now."""
        return constant_index(self.value)


@dataclass(frozen=True)
class Part:
    """Consecutive indices of one iterator."""

    start: SSAValue
    length: Length


@dataclass(frozen=True)
class View:
    """A memref and the kinds of the iterators that index its dimensions: `mk` for A in rows."""

    memory: SSAValue
    tags: str

    @property
    def type(self) -> MemRefType:
        """The memref's type."""
        assert isinstance(self.memory.type, MemRefType)
        return self.memory.type

    def is_contiguous(self, tag: str) -> bool:
        """Whether a step along a kind of iterator moves one element."""
        strides = self.type.get_strides()
        assert strides is not None
        return tag in self.tags and strides[self.tags.index(tag)] == 1


@dataclass(frozen=True)
class Packed:
    """A part of a factor as it lies in the workspace.

    The vector factor lies in panels, one a register block, each as wide as whole registers; the
    broadcast factor keeps its orientation, in rows of one pitch.
    """

    memory: SSAValue
    """Of one dimension."""
    slice: SSAValue
    """Where this thread's part of it begins."""
    origin: SSAValue
    """Where the packed part begins along m or n."""
    single: bool
    """Whether there is place for one panel only, filled again and again."""


@dataclass(frozen=True)
class Following:
    """The panel that comes next, packed while the one before it is in use."""

    columns: Part
    """What it holds along the lanes."""
    place: Packed
    rows: SSAValue
    """Those to pack: all steps of the reduction, or none where no panel of this width follows."""
    share: int
    """Rows packed for each element across the lanes."""


@dataclass(frozen=True)
class Values:
    """What a product's op reads and writes, as the code around its blocks knows it."""

    memrefs: tuple[SSAValue, ...]
    """lhs, rhs, out and the extras."""
    start: SSAValue | None
    first: SSAValue | None
    alpha: SSAValue | None
    beta: SSAValue | None
    captured: tuple[SSAValue, ...]
    """What the epilogue uses of the code around it."""

    @classmethod
    def of(cls, op: GemmOp) -> "Values":
        """The op's own operands."""
        return cls(op.memrefs, op.start, op.first, op.alpha, op.beta, captured_by(op))

    @property
    def all(self) -> list[SSAValue]:
        """Those there are."""
        optional = (self.start, self.first, self.alpha, self.beta)
        there = (value for value in optional if value is not None)
        return [*self.memrefs, *there, *self.captured]

    def replaced(self, new: Mapping[SSAValue, SSAValue]) -> "Values":
        """Others in their place."""
        optional = (self.start, self.first, self.alpha, self.beta)
        start, first, alpha, beta = (v and new[v] for v in optional)
        memrefs, captured = (tuple(new[v] for v in some) for some in (self.memrefs, self.captured))
        return Values(memrefs, start, first, alpha, beta, captured)


def captured_by(op: GemmOp) -> tuple[SSAValue, ...]:
    """What an epilogue uses of the code around it."""
    if op.epilogue is None:
        return ()
    inside = {*op.epilogue.block.args}
    inside |= {result for inner in op.epilogue.block.ops for result in inner.results}
    used = (value for inner in op.epilogue.block.ops for value in inner.operands)
    return tuple(dict.fromkeys(value for value in used if value not in inside))


class Blocker:
    """Builds the blocked form of one product in front of it."""

    def __init__(self, plan: Schedule, module: ModuleOp, function: func.FuncOp):
        """Cut `plan.op`, which stands in `function`."""
        self.plan = plan
        self.module = module
        self.function = function
        self.loops = LoopBuilder(function.body.blocks[0], InsertPoint.before(plan.op))
        self.values = Values.of(plan.op)
        self.thread: SSAValue | None = None
        """The number of the thread, where several share the product."""
        self.at: dict[int, SSAValue] = {}
        """The index of each iterator outside the blocks."""
        self.reduction = self._reduction()
        self.operands: dict[str, View] = {}
        """lhs, rhs and out at these indices."""
        self.memory: dict[str, SSAValue] = {}
        """The place of each packed factor in the workspace."""
        self.slices: dict[str, int] = {}
        """How many elements of that place a thread has."""
        self.sums: SSAValue | None = None
        """What the sums start with, for the columns, or rows, that are added up at once."""
        self.summed_from: SSAValue | None = None
        """Where these begin."""
        self.scratch: SSAValue | None = None
        """A block of sums, where these are no results yet."""
        self.corner: dict[str, SSAValue] = {}
        """Where the block of sums begins, along m and n."""
        self.microkernels: dict[object, str] = {}
        """The names of those built, by what they were built for."""
        self.packers: dict[object, str] = {}
        """The names of the functions that pack a panel, by what they were built for."""

    # ------------------------------------------------------------------------- what is what

    @property
    def problem(self) -> Problem:
        """The product."""
        return self.plan.problem

    @property
    def op(self) -> GemmOp:
        """The product's op."""
        return self.plan.op

    @property
    def vector(self) -> Role:
        """The factor that is loaded as registers."""
        return sides_of(self.along).vector

    @property
    def broadcast(self) -> Role:
        """The other factor."""
        return sides_of(self.along).broadcast

    @property
    def along(self) -> str:
        """The kind of iterator along the lanes."""
        return self.plan.plan.lanes.data

    @property
    def across(self) -> str:
        """The other kind, m or n."""
        return sides_of(self.along).across

    @property
    def lanes(self) -> int:
        """Accumulators in a register."""
        return self.plan.instruction.lanes

    @property
    def group(self) -> int:
        """Steps of the reduction that the instruction takes at once."""
        return self.plan.instruction.k

    def _register_block(self, kind: str) -> int:
        """Elements of a register block along m or n."""
        return self.plan.plan.block[kind == "n"]

    def _unit(self, kind: str) -> int:
        """What parts along m, n or k are multiples of, but for the last one."""
        if kind == "k":
            return self.group
        return self.lanes if kind == self.along else 1

    def _cache_block(self, kind: str) -> int:
        """Elements of a cache block along m, n or k, whole registers of them; 0 for all."""
        plan, unit = self.plan.plan, self._unit(kind)
        block = {"m": plan.m_block, "n": plan.n_block, "k": plan.k_block}[kind].data
        if kind == "k":
            return -(-block // unit) * unit
        return max(block // unit, 1) * unit if block else 0

    # -------------------------------------------------------------------------------- loops

    def block(self) -> None:
        """Build everything."""
        if self.along == "k":
            raise Unsupported("microkernels have their lanes along m or n, not k")
        self._reserve_workspace()
        if self.threads == 1:
            self._whole()
        else:
            self._share()

    def _whole(self) -> None:
        """One thread's part of everything."""
        self._outer(self.problem.outer("b", "m", "n"), self._product)

    @property
    def threads(self) -> int:
        """How many threads share the product."""
        return self.plan.plan.threads.data

    # ------------------------------------------------------------------------------ threads

    def _share(self) -> None:
        """Let each thread call a function that computes the part of its number."""
        own = [value for value in (self.sums, self.scratch) if value is not None]
        outside = list(dict.fromkeys([*self.values.all, *self.memory.values(), *own]))
        name = self._fresh_name("part")
        loops, count = self.loops, self.threads

        def call(thread: SSAValue) -> None:
            self.loops.insert(func.CallOp(name, [*outside, thread], []))

        def one_by_one() -> None:
            zero, one = loops.constant(0), loops.constant(1)

            def visit(thread: SSAValue, _: Carried) -> Carried:
                call(thread)
                return ()

            loops.counted(zero, loops.constant(count), one, visit)

        if self.problem.dynamic:
            enough = loops.compare(self._steps(), "uge", loops.constant(SHARED_STEPS))
            loops.branch(enough, lambda: loops.parallel(count, call), one_by_one)
        else:
            loops.parallel(count, call)
        self._build_part(name, outside)

    def _build_part(self, name: str, outside: Sequence[SSAValue]) -> None:
        """The function that computes one thread's part of the product."""
        block = Block(arg_types=[*(value.type for value in outside), IndexType()])
        for value, argument in zip(outside, block.args, strict=False):
            argument.name_hint = value.name_hint
        end = func.ReturnOp()
        block.add_op(end)
        self._add_function(name, block)
        inside = dict(zip(outside, block.args, strict=False))
        self.loops = LoopBuilder(block, InsertPoint.before(end))
        self.values = self.values.replaced(inside)
        self.memory = {role: inside[value] for role, value in self.memory.items()}
        self.sums = self.sums and inside[self.sums]
        self.scratch = self.scratch and inside[self.scratch]
        self.thread = block.args[-1]
        self.reduction = self._reduction()
        self._whole()

    def _steps(self) -> SSAValue:
        """Multiplications of the whole product."""
        found = self.loops.constant(1)
        for iterator in range(len(self.problem.kinds)):
            found = self.loops.mul(found, self._size(iterator).value)
        return found

    def _own(self, along: Part, across: Part) -> tuple[Part, Part]:
        """This thread's part of the result; the threads stand in a grid."""
        if self.thread is None:
            return along, across
        columns, rows = self._grid(along.length, across.length)
        return (
            self._own_share(along, self.loops.div(self.thread, rows), columns, self.along),
            self._own_share(across, self.loops.rem(self.thread, rows), rows, self.across),
        )

    def _grid(self, along: Length, across: Length) -> tuple[SSAValue, SSAValue]:
        """Into how many parts the dimensions along and across the lanes are cut.

        At run time it is one of them: the one along the lanes if it is long enough, since threads
        that share a part of it all pack the same part of the vector factor.
        """
        loops, count = self.loops, self.threads
        if along.known is not None and across.known is not None:
            blocks = self._register_block(self.along), self._register_block(self.across)
            grid = thread_grid(count, (along.known, across.known), blocks)
            return loops.constant(grid[0]), loops.constant(grid[1])
        enough = loops.constant(count * self._register_block(self.along))
        one, every = loops.constant(1), loops.constant(count)
        columns, rows = loops.choose(
            loops.compare(along.value, "uge", enough), lambda: (every, one), lambda: (one, every)
        )
        return columns, rows

    def _own_share(self, part: Part, number: SSAValue, count: SSAValue, kind: str) -> Part:
        """One of `count` even shares of a part, in whole units; of known size if all are equal."""
        loops, size, unit = self.loops, part.length.value, self._unit(kind)
        known, parts = part.length.known, constant_index(count)
        if known is not None and parts is not None and known % (parts * unit) == 0:
            share = loops.constant(known // parts)
            return Part(
                loops.add(part.start, loops.mul(number, share)), self._known(known // parts)
            )
        units = loops.ceildiv(size, loops.constant(unit))
        small, larger = loops.div(units, count), loops.rem(units, count)

        def start_of(index: SSAValue) -> SSAValue:
            before = loops.add(loops.mul(index, small), loops.minimum(index, larger))
            return loops.minimum(loops.mul(before, loops.constant(unit)), size)

        start, end = start_of(number), start_of(loops.add(number, loops.constant(1)))
        return Part(loops.add(part.start, start), Length(loops.sub(end, start), (0, None)))

    def _outer(
        self, iterators: Sequence[int], body: Callable[[], None], *, at_least_once: bool = False
    ) -> None:
        """Loops over some iterators, one index at a time."""
        if not iterators:
            body()
            return
        first, *rest = iterators
        zero, one = self.loops.constant(0), self.loops.constant(1)

        def visit(index: SSAValue, _: Carried) -> Carried:
            self.at[first] = index
            self._outer(rest, body, at_least_once=at_least_once)
            return ()

        size = self._size(first).value
        trips = self.loops.maximum(size, one) if at_least_once else size
        self.loops.counted(zero, trips, one, visit)

    def _product(self) -> None:
        """The loops over cache blocks."""
        along, across = self._own(self._inner(self.along), self._inner(self.across))

        def over_reduction(part: Part, rows: Part) -> None:
            def over_k() -> None:
                self._split(
                    self.reduction,
                    self._cache_block("k"),
                    self._unit("k"),
                    lambda k: self._cache_blocks(part, rows, k),
                    at_least_once=True,
                )

            self._outer(self.problem.outer("k"), over_k, at_least_once=True)

        def over_parts(part: Part) -> None:
            if self.scratch is None:
                over_reduction(part, across)
                return
            rows = self._cache_block(self.across)
            self._split(across, rows, self._unit(self.across), lambda y: apart(part, y))

        def apart(x: Part, y: Part) -> None:
            self.corner = {self.along: x.start, self.across: y.start}
            over_reduction(x, y)
            self._finish(x, y)

        self._split(along, self._cache_block(self.along), self._unit(self.along), over_parts)

    def _finish(self, x: Part, y: Part) -> None:
        """Make results of a block of sums, a register at a time."""
        loops, lanes = self.loops, self.loops.constant(self.lanes)
        zero, one, size = loops.constant(0), loops.constant(1), x.length.value
        rest = loops.rem(size, lanes)
        whole = loops.sub(size, rest)

        def row(i: SSAValue, _: Carried) -> Carried:
            def register(j: SSAValue, tail: SSAValue | None) -> Carried:
                self._finish_register({self.along: j, self.across: i}, tail)
                return ()

            loops.counted(zero, whole, lanes, lambda j, _: register(j, None))
            if constant_index(rest) != 0:
                loops.counted(whole, size, lanes, lambda j, _: register(j, rest))
            return ()

        loops.counted(zero, y.length.value, one, row)

    def _finish_register(self, at: dict[str, SSAValue], tail: SSAValue | None) -> None:
        """The same for one register, at some place of the block."""
        loops, op = self.loops, self.op
        shape = (1, self.lanes) if self.along == "n" else (self.lanes, 1)
        type_ = BlockType.of(*shape, op.accumulator, self.along)
        sums = self._scratch_view()
        load = LoadOp(sums.memory, [at[tag] for tag in sums.tags], sums.tags, type_)
        loaded = loops.insert(load).result
        place = {tag: loops.add(self.corner[tag], index) for tag, index in at.items()}
        out = self._operand("out")
        inner = {
            position: place[kind]
            for kind in "mn"
            if (position := self.problem.position(kind)) is not None
        }
        extras: list[BlockAccess] = []
        for memory, map_ in zip(self.values.memrefs[3:], op.indexing_maps[3:], strict=True):
            indices = evaluate(map_, {**self.at, **inner}, loops)
            extras.append(BlockAccess(memory, tuple(indices), extra_tags(self.problem, map_)))
        self._store_result(loaded, out, [place[tag] for tag in out.tags], tail, extras)

    def _store_result(
        self,
        sums: SSAValue,
        out: View,
        place: Sequence[SSAValue],
        tail: SSAValue | None,
        extras: Sequence[BlockAccess],
    ) -> None:
        """Make results of sums whose reduction is over."""
        store = StoreOp(
            *(sums, out.memory, place, out.tags),
            accumulate=not self.problem.from_zero,
            tail=tail,
            extras=extras,
            epilogue=self._epilogue(self.values.captured),
        )
        self.loops.insert(store)

    def _scratch_view(self) -> View:
        """This thread's block of sums: rows along the lanes."""
        assert self.scratch is not None
        loops, width = self.loops, self._scratch_width
        rows = self._largest(self.across)
        start = loops.constant(0)
        if self.thread is not None:
            start = loops.mul(self.thread, loops.constant(rows * width))
        offset = as_number(start)
        layout = StridedLayoutAttr([width, 1], offset if isinstance(offset, int) else None)
        type_ = MemRefType(self.op.accumulator, [rows, width], layout)
        op = memref.ReinterpretCastOp(
            self.scratch,
            _dynamic(offset),
            [],
            [],
            [_static(offset)],
            [rows, width],
            [width, 1],
            type_,
        )
        return View(loops.insert(op).result, self.across + self.along)

    @property
    def _scratch_width(self) -> int:
        """Elements of a row of the block of sums: whole registers."""
        return -(-self._largest(self.along) // self.lanes) * self.lanes

    def _reduction(self) -> Part:
        """All of the inner reduction; nothing of it where one around it has no steps."""
        whole, loops = self._inner("k"), self.loops
        length = whole.length
        for iterator in self.problem.outer("k"):
            some = loops.minimum(self._size(iterator).value, loops.constant(1))
            length = Length(loops.mul(length.value, some), length.bounds)
        return replace(whole, length=length)

    def _cache_blocks(self, along: Part, across: Part, k: Part) -> None:
        """Everything for one part of the reduction."""
        self.operands = {role: self._operand(role) for role in _ROLES}
        self.summed_from = along.start
        if self.scratch is not None:
            self.operands["out"] = self._scratch_view()
        packed = [role for role in FACTORS if self.plan.plan.packs(role)]
        threshold = self.plan.plan.pack_from.data
        if not threshold or not packed:
            self._packed_blocks(along, across, k, packed)
            return
        smaller = self.loops.minimum(along.length.value, across.length.value)
        forced = [role for role in packed if not self._readable(role)]
        self.loops.branch(
            self.loops.compare(smaller, "uge", self.loops.constant(threshold)),
            lambda: self._packed_blocks(along, across, k, packed),
            lambda: self._packed_blocks(along, across, k, forced),
        )

    def _readable(self, role: Role) -> bool:
        """Whether a factor can be read in place."""
        view = self.operands[role]
        if role == self.broadcast:
            return self.group == 1 or view.is_contiguous("k") or "g" in view.tags
        if self.plan.instruction.flips:
            return "g" in view.tags  # what makes up for it are sums of groups
        return view.is_contiguous(self.along) or "g" in view.tags

    def _packed_blocks(self, along: Part, across: Part, k: Part, packed: Sequence[Role]) -> None:
        """The same with some factors packed."""
        whole = not self._cache_block(self.across)
        vector = self._reserve(self.vector, along, single=whole) if self.vector in packed else None
        if vector is not None and not vector.single:
            self._each_block(along, self.along, lambda p: self._fill_panel(vector, p, k))
        elif vector is None and self.sums is not None and not self._sums_single:
            self._each_block(along, self.along, lambda p: self._sum_in_place(p, k))

        def over_blocks(part: Part) -> None:
            broadcast = None
            if self.broadcast in packed:
                broadcast = self._reserve(self.broadcast, part, single=False)
                self._fill_rows(broadcast, part, k)
            self._register_blocks(along, part, k, vector, broadcast)

        self._split(across, self._cache_block(self.across), self._unit(self.across), over_blocks)

    def _register_blocks(
        self, along: Part, across: Part, k: Part, vector: Packed | None, broadcast: Packed | None
    ) -> None:
        """The loops over register blocks; the resident factor's block changes in the outer one."""
        call = partial(self._call, k=k, update=self._update(k), broadcast=broadcast)

        def for_vector(x: Part) -> None:
            first, rest = None, across
            if vector is not None and vector.single:
                first, rest = self._first_block(across)
                if first is not None:
                    call(x, first, vector=vector, keep=True)
                else:
                    self._fill_panel(vector, x, k)
            elif vector is None and self.sums is not None and self._sums_single:
                self._sum_in_place(x, k)
            self._each_block(rest, self.across, lambda y: call(x, y, vector=vector))

        single = vector is not None and vector.single
        if vector is not None and single and self._packs_ahead(along, across):
            self._panels_ahead(along, across, k, vector, call, for_vector)
        elif self.plan.plan.resident.data == self.vector or single:
            self._each_block(along, self.along, for_vector)
        else:
            self._each_block(
                across,
                self.across,
                lambda y: self._each_block(along, self.along, lambda x: call(x, y, vector=vector)),
            )

    def _packs_ahead(self, along: Part, across: Part) -> bool:
        """Whether the microkernels of one panel pack the next one.

        The sizes must be known, several blocks share the work, and the factor lie as panels do.
        """
        known = across.length.known
        if not self.plan.plan.packs_ahead(self.vector) or None in (known, along.length.known):
            return False
        lies_alike = self.operands[self.vector].tags == "k" + self.along and self.group == 1
        first, rest = self._first_block(across)
        return first is not None and lies_alike and rest.length.known != 0

    def _panels_ahead(
        self,
        along: Part,
        across: Part,
        k: Part,
        vector: Packed,
        call: Callable[..., None],
        alone: Callable[[Part], None],
    ) -> None:
        """The loops over register blocks, each panel packed while the one before is in use.

        Of consecutive panels of one width the first one is packed by its first microkernel. There
        is place for two, which are filled in turns. A panel without another one of its width is
        left to `alone`.
        """
        loops = self.loops
        first, rest = self._first_block(across)
        assert first is not None
        assert along.length.known is not None
        assert rest.length.known is not None
        share = -(-self._largest("k") // rest.length.known)

        def panel(number: SSAValue, run: Run) -> None:
            """One panel, the `number`-th of those of its width."""
            size, last = loops.constant(run.size), loops.constant(run.count - 1)
            start = loops.add(along.start, loops.constant(run.start))
            x = Part(loops.add(start, loops.mul(number, size)), self._known(run.size))
            another = loops.minimum(loops.sub(last, number), loops.constant(1))
            following = Following(
                replace(x, start=loops.add(x.start, loops.mul(another, size))),
                self._in_turn(vector, loops.offset(number, 1)),
                loops.mul(another, k.length.value),
                share,
            )
            own = self._in_turn(vector, number)

            def call_ahead(y: Part, rows: Part) -> None:
                call(x, y, vector=own, ahead=self._ahead(following, rows, k))

            nothing = Part(loops.constant(0), self._known(0))
            loops.branch(
                loops.compare(number, "eq", loops.constant(0)),
                lambda: call(x, first, vector=own, keep=True),
                lambda: call_ahead(first, nothing),
            )
            self._each_block(
                rest, self.across, lambda y: call_ahead(y, self._own_rows(following, y, rest))
            )

        for run in split_evenly(along.length.known, self._register_block(self.along), self.lanes):
            if run.count == 1:
                start = loops.add(along.start, loops.constant(run.start))
                alone(Part(start, self._known(run.size)))
                continue

            def visit(number: SSAValue, _: Carried, run: Run = run) -> Carried:
                panel(number, run)
                return ()

            loops.loop(0, run.count, 1, visit)

    def _in_turn(self, packed: Packed, number: SSAValue) -> Packed:
        """One of the two places for panels."""
        loops = self.loops
        place = loops.mul(
            loops.rem(number, loops.constant(2)), loops.constant(self._panel_elements)
        )
        return replace(packed, slice=loops.add(packed.slice, place))

    def _own_rows(self, following: Following, y: Part, rest: Part) -> Part:
        """The rows of the next panel that the microkernel of one block packs."""
        loops, share = self.loops, self.loops.constant(following.share)
        before = loops.mul(loops.sub(y.start, rest.start), share)
        start = loops.minimum(before, following.rows)
        rows = loops.minimum(loops.mul(y.length.value, share), loops.sub(following.rows, start))
        return Part(start, Length(rows, (0, None)))

    def _ahead(self, following: Following, rows: Part, k: Part) -> tuple[View, View]:
        """Rows to pack, and where they go."""
        loops, width = self.loops, following.columns.length.known
        assert width is not None
        there = replace(rows, start=loops.add(k.start, rows.start))
        source = self._slice(
            self.operands[self.vector], {self.along: following.columns, "k": there}
        )
        distance = loops.mul(rows.start, loops.constant(width))
        place = loops.add(following.place.slice, distance)
        panel = self._matrix(following.place.memory, place, rows.length, width)
        return source, View(panel, source.tags)

    def _first_block(self, across: Part) -> tuple[Part | None, Part]:
        """The first register block across the lanes, which can pack for the others, and those.

        Its microkernel reads the vector factor in place and keeps what it loads, so that packing
        takes no time of its own. There is one for each count of registers only: none at run time.
        """
        known = across.length.known
        if not known or not self._readable(self.vector):
            return None, across
        size = split_evenly(known, self._register_block(self.across), 1)[0].size
        rest = Part(self.loops.offset(across.start, size), self._known(known - size))
        return replace(across, length=self._known(size)), rest

    def _each_block(self, part: Part, kind: str, body: Callable[[Part], None]) -> None:
        """A loop over the register blocks of a part."""
        self._split(part, self._register_block(kind), self._unit(kind), body, runs=True)

    def _split(
        self,
        part: Part,
        block: int,
        unit: int,
        body: Callable[[Part], None],
        *,
        at_least_once: bool = False,
        runs: bool = False,
    ) -> None:
        """Split a part evenly into blocks that start at multiples of `unit`, and visit each.

        With `runs`, blocks of a known size are visited in loops of one size each.
        """
        loops = self.loops
        known = part.length.known
        if not block or (known == 0 and at_least_once):
            body(part)
            return
        if known is not None:
            found = split_evenly(known, block, unit)
            if runs or len(found) <= 1:
                loops.runs(
                    found,
                    lambda at, size: body(Part(loops.add(part.start, at), self._known(size))),
                )
                return
        self._split_at_run_time(part, block, unit, body, at_least_once, even=runs)

    def _split_at_run_time(
        self,
        part: Part,
        block: int,
        unit: int,
        body: Callable[[Part], None],
        at_least_once: bool,
        even: bool,
    ) -> None:
        """As `_split`, in one loop for all sizes.

        An `even` split distributes the rest over the blocks; else only the last one is shorter,
        which takes less time to find and matters less the larger blocks are.
        """
        loops, size = self.loops, part.length.value
        one = loops.constant(1)
        units = loops.ceildiv(size, loops.constant(unit))
        blocks = loops.ceildiv(units, loops.constant(block // unit))

        # Divisions take as long as a small product: one block is not divided.
        def divided() -> Sequence[SSAValue]:
            if even:
                return loops.div(units, blocks), loops.rem(units, blocks)
            return loops.ceildiv(units, blocks), loops.constant(0)

        if constant_index(blocks) is None:
            several = loops.compare(blocks, "ugt", one)
            small, larger = loops.choose(several, divided, lambda: (units, loops.constant(0)))
        else:
            small, larger = divided()

        def start_of(number: SSAValue) -> SSAValue:
            start = loops.mul(number, small)
            if even:
                start = loops.add(start, loops.minimum(number, larger))
            return loops.mul(start, loops.constant(unit))

        bounds = extents_of(part.length.bounds, block, unit)
        if not even:
            bounds = last_extent(part.length.bounds, block, unit), bounds[1]

        def visit(number: SSAValue, _: Carried) -> Carried:
            start = start_of(number)
            end = loops.minimum(start_of(loops.add(number, one)), size)
            length = Length(loops.sub(end, start), bounds)
            body(Part(loops.add(part.start, start), length))
            return ()

        some = loops.maximum(blocks, one) if at_least_once else blocks
        loops.counted(loops.constant(0), some, one, visit)

    # ----------------------------------------------------------------------------- operands

    def _known(self, size: int) -> Length:
        return Length(self.loops.constant(size), (size, size))

    def _size(self, iterator: int) -> Length:
        """The extent of an iterator."""
        known = self.op.sizes[iterator]
        if known >= 0:
            return self._known(known)
        # Groups tell no more than a size rounded up: what counts its elements goes first.
        places = list(zip(_ROLES[::-1], self.values.memrefs[2::-1], strict=True))
        places.sort(key=lambda place: self.problem.operand_named(place[0]).group)
        for role, memory in places:
            operand = self.problem.operand_named(role)
            dim = operand.dims[iterator]
            if dim is not None:
                dimension = memref.DimOp(memory, self.loops.constant(dim))
                size: SSAValue = self.loops.insert(dimension).result
                if operand.within is not None and self.problem.kinds[iterator] == "k":
                    size = self.loops.mul(size, self.loops.constant(operand.group))
                return Length(size, (0, None))
        raise AssertionError("the verifier found a dimension that each iterator indexes alone")

    def _inner(self, kind: str) -> Part:
        """All of the iterator that blocks lie on."""
        position = self.problem.position(kind)
        size = self._known(1) if position is None else self._size(position)
        return Part(self.loops.constant(0), size)

    def _operand(self, role: Role) -> View:
        """An operand at the current outer indices, with the dimensions that blocks lie on."""
        position = _ROLES.index(role)
        memory, map_ = self.values.memrefs[position], self.op.indexing_maps[position]
        dims = self.problem.operand_named(role).dims
        tags = ["_"] * len(map_.results)
        for kind in "mnk":
            iterator = self.problem.position(kind)
            if iterator is not None and (dim := dims[iterator]) is not None:
                tags[dim] = kind
        within = self.problem.operand_named(role).within
        if within is not None:
            tags[within] = "g"
        whole = View(memory, "".join(tags))
        simple = (isinstance(r, AffineDimExpr) or group_index(r) for r in map_.results)
        if "_" not in tags and all(simple):
            return whole
        inner = {p: self.loops.constant(0) for p in self.problem.inner if p is not None}
        indices = evaluate(map_, {**self.at, **inner}, self.loops)
        kept = [d for d, tag in enumerate(tags) if tag != "_"]
        lengths = {kind: _extent(self._inner(kind).length) for kind in "mn" if kind in tags}
        depth = self.reduction
        if within is not None:
            depth = self._groups(self._filled(depth) if self.op.is_filled else depth)
        lengths |= {"_": 1, "k": _extent(depth.length), "g": self.group}
        sizes = [lengths[tag] for tag in tags]
        offsets = [as_number(index) for index in indices]
        part = part_of(self.loops, memory, offsets, sizes, kept)
        return View(part, whole.tags.replace("_", ""))

    def _filled(self, k: Part) -> Part:
        """A part of the reduction with what a factor was filled up with."""
        return k

    def _groups(self, k: Part) -> Part:
        """A part of the reduction, which begins with a whole group, counted in groups."""
        loops, size = self.loops, self.loops.constant(self.group)
        count = loops.ceildiv(k.length.value, size)
        return Part(loops.div(k.start, size), Length(count, k.length.bounds))

    def _update(self, k: Part) -> list[SSAValue]:
        """What microkernels are told about a part of the reduction, after their operands.

        Whether they start the sums, and the factors of the sums and of the old result: `beta` in
        the first part, one later; then whether sums start as the product says.
        """
        loops, op = self.loops, self.values
        start = self._is_start(k)
        if self.problem.from_zero or self.scratch is not None:
            first = start
        elif op.first is None:
            first = self._flag(value=False)
        else:
            first = loops.insert(arith.AndIOp(op.first, start)).result
        begins = [start] if self._begins_once else []
        if op.alpha is None or op.beta is None:
            return [first, *begins]
        assert isinstance(op.beta.type, AnyFloat)
        one = loops.insert(arith.ConstantOp(FloatAttr(1.0, op.beta.type))).result
        beta = loops.insert(arith.SelectOp(start, op.beta, one)).result
        return [first, op.alpha, beta, *begins]

    @property
    def _begins_once(self) -> bool:
        """Whether only the first part of the reduction starts as the product says."""
        block, position = self._cache_block("k"), self.problem.position("k")
        extent = 1 if position is None else self.op.sizes[position]
        cut = block and not 0 <= extent <= block
        return self.op.start is not None and bool(cut or self.problem.outer("k"))

    def _is_start(self, k: Part) -> SSAValue:
        """Whether a part of the reduction is the first one."""
        loops = self.loops
        indices = [k.start, *(self.at[p] for p in self.problem.outer("k"))]
        found: SSAValue | None = None
        for index in indices:
            if constant_index(index) == 0:
                continue
            here = loops.compare(index, "eq", loops.constant(0))
            found = here if found is None else loops.insert(arith.AndIOp(found, here)).result
        return self._flag(value=True) if found is None else found

    def _flag(self, *, value: bool) -> SSAValue:
        """A constant truth."""
        return self.loops.insert(arith.ConstantOp(IntegerAttr(int(value), i1))).result

    # ------------------------------------------------------------------------------ packing

    def _reserve_workspace(self) -> int:
        """A place for each packed factor, one behind the other; returns where they end."""
        start = 0
        for role in FACTORS:
            if self.plan.plan.packs(role):
                elements = self._packed_elements(role)
                line = WORKSPACE_ALIGNMENT // self.problem.operand.size
                self.slices[role] = -(-elements // line) * line
                every = self.slices[role] * self.threads
                op = WorkspaceOp(MemRefType(self.problem.operand.mlir, [every]), start)
                self.memory[role] = self.loops.insert(op).result
                bytes_ = every * self.problem.operand.size
                start += -(-bytes_ // WORKSPACE_ALIGNMENT) * WORKSPACE_ALIGNMENT
        if self.plan.instruction.flips and self.op.start is None:
            sums = MemRefType(self.op.accumulator, [self._sums_width * self.threads])
            self.sums = self.loops.insert(WorkspaceOp(sums, start)).result
            start += self._sums_width * self.threads * self.problem.accumulator.size
            start = -(-start // WORKSPACE_ALIGNMENT) * WORKSPACE_ALIGNMENT
        if accumulates_apart(self.problem, self.plan.plan):
            if self.op.first is not None or self.op.alpha is not None:
                raise Unsupported(
                    "a result that is narrower than its sums can't be scaled, or started from zero "
                    "at run time; scale in an epilogue, or write sums"
                )
            elements = self._largest(self.across) * self._scratch_width * self.threads
            apart = MemRefType(self.op.accumulator, [elements])
            self.scratch = self.loops.insert(WorkspaceOp(apart, start)).result
            start += elements * self.problem.accumulator.size
        return -(-start // WORKSPACE_ALIGNMENT) * WORKSPACE_ALIGNMENT

    @property
    def _sums_single(self) -> bool:
        """Whether one register block at a time is added up, right before its use."""
        plan = self.plan.plan
        used_up = plan.packs(self.vector) or plan.resident.data == self.vector
        return used_up and not self._cache_block(self.across)

    @property
    def _sums_width(self) -> int:
        """Columns, or rows, that are added up at once: whole registers."""
        single = self._sums_single
        width = self._register_block(self.along) if single else self._largest(self.along)
        return -(-width // self.lanes) * self.lanes

    def _sums_of(self, at: SSAValue, width: SSAValue | int) -> SSAValue:
        """What the sums of the register block that begins at `at` start with."""
        assert self.sums is not None
        assert self.summed_from is not None
        loops = self.loops
        place = loops.constant(0) if self._sums_single else loops.sub(at, self.summed_from)
        if self.thread is not None:
            slices = loops.mul(self.thread, loops.constant(self._sums_width))
            place = loops.add(slices, place)
        offset = as_number(place)
        type_ = MemRefType(
            self.op.accumulator,
            [_static(width)],
            StridedLayoutAttr([1], offset if isinstance(offset, int) else None),
        )
        op = memref.ReinterpretCastOp(
            self.sums,
            _dynamic(offset),
            _dynamic(width),
            [],
            [_static(offset)],
            [_static(width)],
            [1],
            type_,
        )
        return loops.insert(op).result

    def _packed_elements(self, role: Role) -> int:
        """Elements of the largest packed part of a factor."""
        if role == self.vector:
            single = not self._cache_block(self.across)
            if single:
                return self._panel_elements * (2 if self.plan.plan.packs_ahead(role) else 1)
            return self._deepest * (-(-self._largest(self.along) // self.lanes) * self.lanes)
        lanes = self._row_tag
        return (self._largest(self.across) if lanes == "k" else self._deepest) * self._pitch(lanes)

    @property
    def _panel_elements(self) -> int:
        """Elements of the largest panel of the vector factor."""
        width = -(-self._register_block(self.along) // self.lanes) * self.lanes
        return self._deepest * width

    @property
    def _deepest(self) -> int:
        """Steps of the largest part of the reduction, in whole groups."""
        return -(-self._largest("k") // self._unit("k")) * self._unit("k")

    def _largest(self, kind: str) -> int:
        """The largest part of an iterator that is packed at once."""
        block, position = self._cache_block(kind), self.problem.position(kind)
        extent = 1 if position is None else self.op.sizes[position]
        if extent < 0 and not block:
            raise Unsupported(
                f"a packed factor's {kind} is known only at run time: the plan needs a {kind}_block"
            )
        return max(1, block if extent < 0 else min(block or extent, extent))

    @property
    def _row_tag(self) -> str:
        """The kind of iterator along the rows of the packed broadcast factor."""
        return "k" if self.problem.stride(self.broadcast, "k") == 1 else self.across

    def _reserve(self, role: Role, part: Part, *, single: bool) -> Packed:
        """The place in the workspace of a part of a factor that begins at `part`."""
        slice_ = self.loops.constant(0)
        if self.thread is not None:
            slice_ = self.loops.mul(self.thread, self.loops.constant(self.slices[role]))
        return Packed(self.memory[role], slice_, part.start, single)

    def _place(self, packed: Packed, at: SSAValue, k: Part) -> SSAValue:
        """Where the panel that begins at index `at` along m or n lies in the packed part."""
        if packed.single:
            return packed.slice
        unit = self.loops.constant(self._unit("k"))
        depth = self.loops.mul(self.loops.ceildiv(k.length.value, unit), unit)
        place = self.loops.mul(self.loops.sub(at, packed.origin), depth)
        return self.loops.add(packed.slice, place)

    def _fill_panel(self, packed: Packed, block: Part, k: Part) -> None:
        """Pack one register block of the vector factor into a panel of whole registers."""
        source = self.operands[self.vector]
        place = self._place(packed, block.start, k)

        def fill(registers: int) -> None:
            panel = self._panel(packed.memory, place, k, registers * self.lanes)
            extents = _extent(k.length), _extent(block.length)
            indices = [k.start if tag == "k" else block.start for tag in source.tags]
            if self.problem.dynamic:
                self._call_packer(source, indices, panel, extents)
            else:
                self.loops.insert(PackOp(source.memory, indices, source.tags, panel, extents))
            if self.sums is not None:
                self._add_up(panel, block.start, registers)

        self._by_registers(block, fill)

    def _by_registers(self, block: Part, body: Callable[[int], None]) -> None:
        """Do something for the number of registers that a register block has along the lanes."""
        count = self.loops.ceildiv(block.length.value, self.loops.constant(self.lanes))
        low, high = _registers(block.length.bounds, self.lanes)
        self.loops.switch(count, {n: partial(body, n) for n in range(low, high + 1)})

    def _add_up(self, groups: SSAValue, at: SSAValue, registers: int) -> None:
        """Make up for flips of what is multiplied with a register block that begins at `at`."""
        sums = self._sums_of(at, registers * self.lanes)
        self.loops.insert(make_up_for_flips(self.plan, self.broadcast, groups, sums))

    def _sum_in_place(self, block: Part, k: Part) -> None:
        """Add up one register block of the vector factor, which lies in groups."""
        part = self._slice(self.operands[self.vector], {self.along: block, "k": k})
        self._by_registers(block, partial(self._add_up, part.memory, block.start))

    def _call_packer(
        self, source: View, indices: Sequence[SSAValue], panel: SSAValue, extents: Extents
    ) -> None:
        """Pack in a private function, which does for all panels of a width, wherever packed."""
        assert isinstance(panel.type, MemRefType)
        width = panel.type.get_shape()[1]
        type_, sizes = rows_type(panel.type, width), _dynamic(*extents)
        arguments = [source.memory, *indices, self._cast(panel, type_), *sizes]
        key = source.tags, tuple(map(_static, extents)), tuple(a.type for a in arguments)
        if key not in self.packers:
            self.packers[key] = self._build_packer(source.tags, arguments, extents, width)
        self.loops.insert(func.CallOp(self.packers[key], arguments, []))

    def _build_packer(
        self, tags: str, arguments: Sequence[SSAValue], extents: Extents, width: int
    ) -> str:
        """A private function that packs a panel."""
        block = Block(arg_types=[value.type for value in arguments])
        source, *more = block.args
        indices, panel, sizes = more[: len(tags)], more[len(tags)], iter(more[len(tags) + 1 :])
        rows, columns = (e if isinstance(e, int) else next(sizes) for e in extents)
        op = PackOp(source, indices, tags, panel, (rows, columns))
        block.add_ops([op, func.ReturnOp()])
        name = self._fresh_name(f"pack_{width}")
        self._add_function(name, block)
        return name

    def _fill_rows(self, packed: Packed, part: Part, k: Part) -> None:
        """Copy a part of the broadcast factor, in its own orientation."""
        source, lanes = self.operands[self.broadcast], self._row_tag
        rows, width = (part.length, k.length) if lanes == "k" else (k.length, part.length)
        if lanes == "k":
            panel = self._matrix(packed.memory, packed.slice, rows, self._pitch(lanes))
        else:
            panel = self._panel(packed.memory, packed.slice, k, self._pitch(lanes))
        indices = [k.start if tag == "k" else part.start for tag in source.tags]
        extents = _extent(rows), _extent(width)
        op = PackOp(source.memory, indices, source.tags, panel, extents, lanes == "k")
        self.loops.insert(op)

    def _pitch(self, lanes: str) -> int:
        """Elements from one row of the packed broadcast factor to the next.

        An odd number of cache lines: rows then fall on all sets of a cache in turn.
        """
        block = self._largest(lanes)
        group = 1 if lanes == "k" else self.group
        line = self.plan.target.caches[0].line // (self.problem.operand.size * group)
        return (-(-block // line) | 1) * line

    def _panel(self, memory: SSAValue, place: SSAValue, k: Part, width: SSAValue | int) -> SSAValue:
        """A panel in a part of the workspace: rows along k, or of groups of k."""
        if self.group == 1:
            return self._matrix(memory, place, k.length, width)
        loops, offset, group = self.loops, as_number(place), self.group
        rows = _extent(self._groups(k).length)
        if isinstance(width, int):
            pitch: SSAValue | int = width * group
        else:
            pitch = loops.mul(width, loops.constant(group))
        strides = [_known(pitch), group, 1]
        sizes = [rows, width, group]
        type_ = MemRefType(
            self.problem.operand.mlir,
            [_static(size) for size in sizes],
            StridedLayoutAttr(strides, offset if isinstance(offset, int) else None),
        )
        op = memref.ReinterpretCastOp(
            memory,
            _dynamic(offset),
            _dynamic(*sizes),
            _dynamic(pitch),
            [_static(offset)],
            [_static(size) for size in sizes],
            [_static(pitch), group, 1],
            type_,
        )
        return loops.insert(op).result

    def _matrix(
        self,
        memory: SSAValue,
        place: SSAValue,
        rows: Length,
        width: SSAValue | int,
        *,
        swapped: bool = False,
    ) -> SSAValue:
        """A contiguous matrix in a part of the workspace, or its transpose."""
        assert isinstance(memory.type, MemRefType)
        order = -1 if swapped else 1
        offset, sizes = as_number(place), [_extent(rows), width][::order]
        pitch = None if isinstance(width, SSAValue) else width
        type_ = MemRefType(
            memory.type.element_type,
            [_static(size) for size in sizes],
            StridedLayoutAttr([pitch, 1][::order], offset if isinstance(offset, int) else None),
        )
        op = memref.ReinterpretCastOp(
            memory,
            _dynamic(offset),
            _dynamic(*sizes),
            _dynamic(width),
            [_static(offset)],
            [_static(size) for size in sizes],
            [_static(width), 1][::order],
            type_,
        )
        return self.loops.insert(op).result

    # -------------------------------------------------------------------------------- calls

    def _call(
        self,
        x: Part,
        y: Part,
        k: Part,
        update: Sequence[SSAValue],
        vector: Packed | None,
        broadcast: Packed | None,
        *,
        keep: bool = False,
        ahead: tuple[View, ...] = (),
    ) -> None:
        """Run the microkernel of one block: `x` along the lanes, `y` across.

        With `keep` it reads the vector factor in place, and packs it; with `ahead` it also packs
        rows of another panel.
        """
        panels = (self._vector_panel(x, k, vector),) if keep and vector is not None else ahead
        views: dict[Role, View] = {
            self.vector: self._vector_view(x, k, None if keep else vector),
            self.broadcast: self._broadcast_view(y, k, broadcast),
            "out": self._slice(self.operands["out"], self._of_result(x, y)),
        }
        beside = self._extras({self.along: x, self.across: y})
        if self.sums is not None:
            lanes = self.loops.constant(self.lanes)
            width = self.loops.mul(self.loops.ceildiv(x.length.value, lanes), lanes)
            beside.append(View(self._sums_of(x.start, as_number(width)), START))
        elif self.values.start is not None and self.op.started is not None:
            map_ = self.op.started[1]
            beside.append(self._extra(self.values.start, map_, {self.along: x, self.across: y}))
        loops = self.loops
        if x.length.known is not None and y.length.known is not None:
            shape = y.length.known, x.length.known
            self._microkernel(shape, False, views, update, panels, beside)
            return
        low, high = _registers(x.length.bounds, self.lanes)
        assert y.length.bounds[1] is not None
        heights = range(y.length.bounds[0], y.length.bounds[1] + 1)

        def case(registers: int, height: int) -> Callable[[], None]:
            shape = height, registers * self.lanes
            return lambda: self._microkernel(shape, True, views, update, panels, beside)

        cases = {
            registers * len(heights) + number: case(registers, height)
            for registers in range(low, high + 1)
            for number, height in enumerate(heights)
        }
        registers = loops.ceildiv(x.length.value, loops.constant(self.lanes))
        number = loops.sub(y.length.value, loops.constant(heights[0]))
        loops.switch(loops.add(loops.mul(registers, loops.constant(len(heights))), number), cases)

    def _of_result(self, x: Part, y: Part) -> dict[str, Part]:
        """A block's place in what microkernels write: the result, or a block of sums."""
        parts = {self.along: x, self.across: y}
        if self.scratch is None:
            return parts
        return {
            tag: replace(part, start=self.loops.sub(part.start, self.corner[tag]))
            for tag, part in parts.items()
        }

    def _extras(self, parts: dict[str, Part]) -> list[View]:
        """The parts of the epilogue's further operands that belong to a block."""
        found: list[View] = []
        if self.scratch is not None:
            return found
        maps = self.op.indexing_maps[3:]
        for memory, map_ in zip(self.values.memrefs[3:], maps, strict=True):
            found.append(self._extra(memory, map_, parts))
        return found

    def _extra(self, memory: SSAValue, map_: AffineMap, parts: dict[str, Part]) -> View:
        """The part of an operand beside the factors that belongs to a block."""
        tags = extra_tags(self.problem, map_)
        inner = {p: self.loops.constant(0) for p in self.problem.inner if p is not None}
        at = evaluate(map_, {**self.at, **inner}, self.loops)
        here = {
            tag: parts[tag] if tag != "_" else Part(index, self._known(1))
            for tag, index in zip(tags, at, strict=True)
        }
        view = View(memory, tags)
        return self._without_outer(view, here, at) if tags else view

    def _without_outer(self, view: View, parts: dict[str, Part], at: Sequence[SSAValue]) -> View:
        """A part of an operand without the dimensions that blocks don't lie on."""
        offsets = [
            as_number(index if tag == "_" else parts[tag].start)
            for tag, index in zip(view.tags, at, strict=True)
        ]
        sizes = [1 if tag == "_" else _extent(parts[tag].length) for tag in view.tags]
        # One dimension stays, so that the part says where it begins.
        kept = [d for d, tag in enumerate(view.tags) if tag != "_"] or [len(sizes) - 1]
        part = part_of(self.loops, view.memory, offsets, sizes, kept)
        return View(part, view.tags.replace("_", "") or "_")

    def _vector_view(self, block: Part, k: Part, packed: Packed | None) -> View:
        """A register block of the vector factor."""
        if packed is None:
            return self._slice(self.operands[self.vector], {self.along: block, "k": k})
        panel = self._vector_panel(block, k, packed)
        whole = Part(self.loops.constant(0), k.length)
        start = Part(self.loops.constant(0), block.length)
        return self._slice(panel, {self.along: start, "k": whole})

    def _vector_panel(self, block: Part, k: Part, packed: Packed) -> View:
        """The panel of a register block of the vector factor, of whole registers."""
        lanes = self.loops.constant(self.lanes)
        width = self.loops.mul(self.loops.ceildiv(block.length.value, lanes), lanes)
        place = self._place(packed, block.start, k)
        panel = self._panel(packed.memory, place, k, as_number(width))
        return View(panel, "k" + self.along + ("g" if self.group > 1 else ""))

    def _broadcast_view(self, block: Part, k: Part, packed: Packed | None) -> View:
        """A register block of the broadcast factor."""
        source = self.operands[self.broadcast]
        if packed is None:
            return self._slice(source, {self.across: block, "k": k})
        lanes = self._row_tag
        tags = self.across + "k" if lanes == "k" else "k" + self.across
        here = replace(block, start=self.loops.sub(block.start, packed.origin))
        if lanes != "k" and self.group > 1:
            panel = self._panel(packed.memory, packed.slice, k, self._pitch(lanes))
            whole = Part(self.loops.constant(0), k.length)
            return self._slice(View(panel, tags + "g"), {self.across: here, "k": whole})
        rows = here.length if lanes == "k" else k.length
        end = replace(rows, value=self.loops.add(here.start, rows.value)) if lanes == "k" else rows
        # In the source's order of dimensions: one microkernel serves what is packed and what isn't.
        swapped = tags != source.tags
        pitch = self._pitch(lanes)
        matrix = self._matrix(packed.memory, packed.slice, end, pitch, swapped=swapped)
        whole = Part(self.loops.constant(0), k.length)
        return self._slice(View(matrix, source.tags), {self.across: here, "k": whole})

    def _slice(self, view: View, parts: dict[str, Part]) -> View:
        """A part of an operand along each of its dimensions."""
        if "g" in view.tags:
            every = Part(self.loops.constant(0), self._known(self.group))
            parts = {**parts, "k": self._groups(parts["k"]), "g": every}
        offsets = [as_number(parts[tag].start) for tag in view.tags]
        sizes = [_extent(parts[tag].length) for tag in view.tags]
        type_ = memref.SubviewOp.infer_result_type(view.type, offsets, sizes, [1] * len(sizes))
        op = memref.SubviewOp.get(view.memory, offsets, sizes, [1] * len(sizes), type_)
        return View(self.loops.insert(op).result, view.tags)

    # ------------------------------------------------------------------------ microkernels

    def _microkernel(
        self,
        shape: tuple[int, int],
        masked: bool,
        views: Mapping[Role, View],
        update: Sequence[SSAValue],
        panels: Sequence[View],
        extras: Sequence[View],
    ) -> None:
        """Call the microkernel for a block of some shape (across, along).

        Of `panels` a single one is where it keeps the vector factor; two are a source and where
        that is packed.
        """
        wanted = {
            role: self._argument_type(role, view, shape, masked, packed=len(panels) != 1)
            for role, view in views.items()
        }
        width = -(-shape[1] // self.lanes) * self.lanes
        further = [self._cast(view.memory, rows_type(view.type, width)) for view in panels[:-1]]
        for view in panels[-1:]:
            further.append(self._cast(view.memory, rows_type(view.type, width, width)))
        beside = [self._extra_type(view, shape, masked) for view in extras]
        key = (shape, masked, len(panels), tuple(wanted.values()), tuple(beside))
        if key not in self.microkernels:
            types = [value.type for value in further]
            self.microkernels[key] = self._build(
                shape, masked, wanted, views, types, list(zip(extras, beside, strict=True))
            )
        arguments = [self._cast(views[role].memory, wanted[role]) for role in _ROLES]
        arguments += [
            self._cast(view.memory, type_) for view, type_ in zip(extras, beside, strict=True)
        ]
        arguments += self._passed
        call = MicrokernelOp(self.microkernels[key], [*arguments, *update, *further])
        self.loops.insert(call)

    def _extra_type(self, view: View, shape: tuple[int, int], masked: bool) -> MemRefType:
        """What a microkernel takes for a further operand of the epilogue."""
        extents = {self.across: shape[0], self.along: DYNAMIC_INDEX if masked else shape[1]}
        if not view.tags:
            return view.type
        extents["_"] = 1
        extents[START] = -(-shape[1] // self.lanes) * self.lanes
        strides = view.type.get_strides()
        assert strides is not None
        sizes = [extents[tag] for tag in view.tags]
        return MemRefType(view.type.element_type, sizes, StridedLayoutAttr(strides, None))

    def _argument_type(
        self, role: Role, view: View, shape: tuple[int, int], masked: bool, packed: bool
    ) -> MemRefType:
        """What a microkernel takes: static where it may be, one type for all its calls."""
        extents = {self.across: shape[0], self.along: DYNAMIC_INDEX if masked else shape[1]}
        strides = view.type.get_strides()
        assert strides is not None
        if role != "out" and self.plan.plan.pack_from.data:
            # In place or packed, decided at run time.
            strides = tuple(s if s == 1 else None for s in strides)
        elif packed and role == self.vector and self.plan.plan.packs(role):
            width = -(-shape[1] // self.lanes) * self.lanes
            strides = (width, 1) if self.group == 1 else (width * self.group, self.group, 1)
        extents["g"] = self.group
        sizes = [extents.get(tag, DYNAMIC_INDEX) for tag in view.tags]
        return MemRefType(view.type.element_type, sizes, StridedLayoutAttr(strides, None))

    def _cast(self, value: SSAValue, type_: MemRefType) -> SSAValue:
        if value.type == type_:
            return value
        return SSAValue.get(self.loops.insert(memref.CastOp.get(value, type_)).dest)

    def _build(
        self,
        shape: tuple[int, int],
        masked: bool,
        types: Mapping[Role, MemRefType],
        views: Mapping[Role, View],
        panels: Sequence[Attribute],
        extras: Sequence[tuple[View, MemRefType]],
    ) -> str:
        """A private function that holds one product of a block's size."""
        element = self.op.accumulator
        factors = [element] * 2 if self.op.alpha is not None else []
        scalars = [i1, *factors, *([i1] if self._begins_once else [])]
        captured = [value.type for value in self._passed]
        beside = [type_ for _, type_ in extras]
        inputs = [*(types[role] for role in _ROLES), *beside, *captured, *scalars, *panels]
        block = Block(arg_types=inputs)
        (lhs, rhs, out), rest = block.args[:3], list(block.args[3:])
        epilogue = None
        if self.scratch is None:
            epilogue = self._epilogue(rest[len(extras) : len(extras) + len(captured)])
        others, beginning = rest[: len(extras)], None
        if self.plan.instruction.flips:
            tags = extras[-1][0].tags.replace(START, self.along)
            beginning = others.pop(), tags_map(tags, self.group)
        first, *more = rest[len(extras) + len(captured) :]
        scale, more = more[: len(factors)], more[len(factors) :]
        begins = more.pop(0) if self._begins_once else None
        further = more
        kept = further[0] if len(further) == 1 else None
        packed = (further[0], further[1]) if len(further) == 2 else None
        last = ("panel",) if kept else ("source", "panel")
        numbered = [f"extra{number}" for number in range(len(extras))]
        numbered += [f"value{number}" for number in range(len(captured))]
        flags = ["begins"] if begins is not None else []
        names = (*_ROLES, *numbered, "first", *("alpha", "beta")[: len(scale)], *flags, *last)
        for value, name in zip(block.args, names, strict=False):
            value.name_hint = name
        rows, columns = shape if self.along == "n" else (shape[1], shape[0])
        size = f"{rows}x{columns}"
        columns = -(-columns // self.lanes) * self.lanes if self.along == "n" else columns
        rows = -(-rows // self.lanes) * self.lanes if self.along == "m" else rows
        plan = self.plan.plan
        block.add_ops(
            [
                GemmOp(
                    lhs,
                    rhs,
                    out,
                    [
                        *(tags_map(views[role].tags, self.group) for role in _ROLES),
                        *(tags_map(view.tags, self.group) for view, _ in extras[: len(others)]),
                    ],
                    start=beginning,
                    begins=begins,
                    unsigned=None if self.op.unsigned is None else self.op.unsigned.data,
                    extras=others,
                    epilogue=epilogue,
                    from_zero=self._is_settled and self.problem.from_zero,
                    first=None if self._is_settled else first,
                    scale=(scale[0], scale[1]) if scale else None,
                    kept=kept,
                    packed=packed,
                    plan=plan.with_entries(
                        block=(rows, columns),
                        edges="masked",
                        pack="none",
                        ahead=plan.asked_ahead,
                        prefetch=plan.prefetch.data
                        if further or not plan.packs(self.vector)
                        else 0,
                        **dict.fromkeys(("m_block", "n_block", "k_block", "pack_from"), 0),
                        threads=1,
                    ),
                ),
                func.ReturnOp(),
            ]
        )
        purpose = {0: size, 1: f"{size}_first", 2: f"{size}_ahead"}[len(further)]
        name = self._fresh_name(purpose)
        self._add_function(name, block)
        return name

    @property
    def _passed(self) -> tuple[SSAValue, ...]:
        """What microkernels are given of what the epilogue captured."""
        return () if self.scratch is not None else self.values.captured

    @property
    def _is_settled(self) -> bool:
        """Whether it is known that all microkernels start from zero, or that none does.

        Those that make results of sums see the whole reduction.
        """
        return self.problem.finishes and self.scratch is None and self.op.first is None

    def _epilogue(self, captured: Sequence[SSAValue]) -> Region | None:
        """A copy of the product's epilogue, with other values for those it captured."""
        if self.op.epilogue is None:
            return None
        mapped = dict(zip(captured_by(self.op), captured, strict=True))
        region = Region()
        self.op.epilogue.clone_into(region, value_mapper=mapped)
        return region

    def _fresh_name(self, purpose: str) -> str:
        """A name for a private function."""
        name = f"{self.function.sym_name.data}_{purpose}"
        while SymbolTable.lookup_symbol(self.module, name) is not None:
            name += "_"
        return name

    def _add_function(self, name: str, block: Block) -> func.FuncOp:
        """Add a private function."""
        types = [argument.type for argument in block.args]
        function = func.FuncOp(name, (types, []), Region(block), visibility="private")
        function.attributes[TARGET_ATTRIBUTE] = StringAttr(self.plan.target.name)
        self.module.body.block.add_op(function)
        return function


_ROLES: tuple[Role, ...] = ("lhs", "rhs", "out")

START = "s"
"""The tag of the vector along the lanes that sums start with."""


def rows_type(type_: MemRefType, width: int, pitch: int | None = None) -> MemRefType:
    """The type of a matrix of any number of rows, wherever it begins, of its own pitch if any."""
    strides = type_.get_strides()
    assert strides is not None
    group = type_.get_shape()[2:]
    if pitch is not None:
        strides = (pitch * group[0], group[0], 1) if group else (pitch, 1)
    layout = StridedLayoutAttr(strides, None)
    return MemRefType(type_.element_type, [DYNAMIC_INDEX, width, *group], layout)


def tags_map(tags: str, group: int) -> AffineMap:
    """The map of an operand whose dimensions are indexed by iterators of these kinds."""

    def index(tag: str) -> AffineExpr:
        if tag == "g":
            return AffineExpr.dimension(2) % group
        if tag == "_":
            return AffineExpr.constant(0)
        dim = AffineExpr.dimension("mnk".index(tag))
        return dim // group if tag == "k" and "g" in tags else dim

    return AffineMap(3, 0, tuple(index(tag) for tag in tags))


def _known(value: SSAValue | int) -> int | None:
    """A number, or None where it is known only at run time."""
    return value if isinstance(value, int) else None


def _static(value: SSAValue | int) -> int:
    """A number as it stands in a list of static ones."""
    return value if isinstance(value, int) else DYNAMIC_INDEX


def _dynamic(*values: SSAValue | int) -> list[SSAValue]:
    """Those that are known only at run time."""
    return [value for value in values if isinstance(value, SSAValue)]


def _extent(length: Length) -> SSAValue | int:
    """A length as a number, where it is known now."""
    return as_number(length.value)


def _registers(bounds: Bounds, lanes: int) -> tuple[int, int]:
    """The smallest and the largest number of registers for some elements."""
    low, high = bounds
    assert high is not None
    return max(1, -(-low // lanes)), -(-high // lanes)


def _blocker(plan: Schedule) -> type[Blocker]:
    """What cuts a product: into blocks of vector registers, or of tiles."""
    from nkdsl.transforms.block_outer import OuterBlocker
    from nkdsl.transforms.block_tiles import TileBlocker

    if not isinstance(plan.instruction, TileInstruction):
        return Blocker
    return OuterBlocker if plan.instruction.scalable else TileBlocker


def _needs_blocks(op: GemmOp, plan: PlanAttr) -> bool:
    """Whether only microkernels can do it: its plan says so, or its sizes or update are unknown."""
    if plan.edges.data == "masked":
        return False
    if is_tiled(get_target(plan.target.data), plan):
        return True
    open_update = op.first is not None or op.alpha is not None
    return plan.blocked or open_update or min(op.sizes, default=0) < 0


@dataclass(frozen=True)
class BlockPass(ModulePass):
    """Cut planned products into calls of microkernels."""

    name = "block"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module in place."""
        for gemm in [o for o in op.walk() if isinstance(o, GemmOp)]:
            if gemm.plan is None or not _needs_blocks(gemm, gemm.plan):
                continue
            try:
                plan = schedule(gemm)
                function = enclosing_function(gemm)
                _blocker(plan)(plan, op, function).block()
            except Unsupported as error:
                refuse(gemm, str(error))
            Rewriter.erase_op(gemm)
