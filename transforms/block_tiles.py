"""Cutting a product into microkernels of tiles. A part of the pass `block`.

The loops are those of `nkdsl.transforms.block`; what differs is what a block is made of. All blocks
are whole grids of tiles of one shape, so that the registers are configured once, before the loops,
and released behind them:

```mlir
tile.configure [!tile.tile<16x16xf32>, ...]
scf.for ... columns, a register block at a time
  nanokernel.pack ...                             // B's panel, filled up with zeros along k
  scf.for ... rows, a register block at a time
    nanokernel.microkernel @f_32x32(%a, %panel, %c)
tile.release
```

- A factor that ends within a tile is packed, and filled up with zeros along the reduction. What
  rows beyond its end hold doesn't matter: no result depends on it.
- A block of the result that ends within a tile, or that an epilogue or a conversion finishes, is
  computed in the workspace. Old results that count are copied there before, if the sums are to
  start with them; and results are made of the sums a register at a time.

Imports: our dialects, the planner.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from xdsl.dialects import arith, func
from xdsl.dialects.builtin import ArrayAttr, MemRefType, ModuleOp, i1
from xdsl.ir import Block, SSAValue

from nkdsl.dialects.nanokernel import (
    BlockAccess,
    BlockType,
    GemmOp,
    LoadOp,
    MicrokernelOp,
    StoreOp,
    WorkspaceOp,
    ZeroOp,
)
from nkdsl.dialects.nkvector import constant_index
from nkdsl.dialects.tile import CONFIGURATION_ATTRIBUTE, ConfigureOp, ReleaseOp, TileType
from nkdsl.planner.problem import Role
from nkdsl.planner.split import Run, split_evenly
from nkdsl.planner.tiles import Grid, grid_of, tile_instruction
from nkdsl.transforms.block import Blocker, Length, Packed, Part, View, rows_type, tags_map
from nkdsl.transforms.compose import Schedule
from nkdsl.transforms.loops import Carried
from nkdsl.transforms.tiles import configuration

SUMS = "block"
"""The place in the workspace of the sums of one block."""


class TileBlocker(Blocker):
    """Builds the blocked form of one product of tiles in front of it."""

    def __init__(self, plan: Schedule, module: ModuleOp, function: func.FuncOp):
        """Cut `plan.op`, which stands in `function`."""
        self.instruction = tile_instruction(plan.target, plan.plan)
        self.grid = self._grid_of(plan)
        super().__init__(plan, module, function)

    def _grid_of(self, plan: Schedule) -> Grid:
        """The tiles of a register block."""
        return grid_of(plan.plan.block, plan.plan.lanes.data, self.instruction)

    def _unit(self, kind: str) -> int:
        if kind == "k":
            return self.instruction.steps
        return self.grid.width if kind == self.along else self.grid.height

    def _whole(self) -> None:
        self.loops.insert(ConfigureOp(self._shapes))
        super()._whole()
        self.loops.insert(ReleaseOp())

    @property
    def _shapes(self) -> tuple[TileType, ...]:
        """The configured shape of each register."""
        if self.instruction.scalable:
            return ()
        return configuration(self.plan.target, self.plan.plan)

    # ---------------------------------------------------------------------------- workspace

    def _reserve_workspace(self) -> int:
        end = super()._reserve_workspace()
        if self.scratch is not None:
            return end
        rows, width = self._block_size
        type_ = MemRefType(self.op.accumulator, [rows * width * self.threads])
        self.memory[SUMS] = self.loops.insert(WorkspaceOp(type_, end)).result
        return end + rows * width * self.threads * self.problem.accumulator.size

    @property
    def _block_size(self) -> tuple[int, int]:
        """Elements of a register block, across and along the lanes."""
        grid = self.grid
        return grid.across * grid.height, grid.along * grid.width

    def _largest(self, kind: str) -> int:
        unit = self._unit(kind) if kind == self.across else 1
        return -(-super()._largest(kind) // unit) * unit

    @property
    def _row_tag(self) -> str:
        return "k"

    def _pitch(self, lanes: str) -> int:
        """As ever, with room for what a last tile is filled up with."""
        line = self.plan.target.caches[0].line // self.problem.operand.size
        return (-(-(self._deepest + self.instruction.steps) // line) | 1) * line

    def _scratch_view(self) -> View:
        if self.scratch is not None:
            return super()._scratch_view()
        rows, width = self._block_size
        start = self.loops.constant(0)
        if self.thread is not None:
            start = self.loops.mul(self.thread, self.loops.constant(rows * width))
        memory = self._matrix(self.memory[SUMS], start, self._known(rows), width)
        return View(memory, self.across + self.along)

    # ------------------------------------------------------------------------------ packing

    def _padded(self, k: Part) -> Part:
        """A part of the reduction, in whole tiles."""
        loops, unit = self.loops, self.loops.constant(self.instruction.steps)
        size = loops.mul(loops.ceildiv(k.length.value, unit), unit)
        return replace(k, length=Length(size, k.length.bounds))

    def _filled(self, k: Part) -> Part:
        return self._padded(k)

    def _fill_panel(self, packed: Packed, block: Part, k: Part) -> None:
        super()._fill_panel(packed, block, k)
        loops = self.loops
        lanes = loops.constant(self.lanes)
        width = loops.mul(loops.ceildiv(block.length.value, lanes), lanes)
        first, end = (self._groups(part).length.value for part in (k, self._padded(k)))
        if constant_index(loops.sub(end, first)) == 0:
            return
        place = self._place(packed, block.start, k)
        step = self.lanes * self.group
        pitch = loops.mul(width, loops.constant(self.group))
        known = constant_index(pitch)
        panel = self._matrix(packed.memory, place, Length(end, (0, None)), known or pitch)

        def row(number: SSAValue, _: Carried) -> Carried:
            def register(column: SSAValue, _: Carried) -> Carried:
                self._store_zeros(panel, number, column, step)
                return ()

            return loops.counted(loops.constant(0), pitch, loops.constant(step), register)

        loops.counted(first, end, loops.constant(1), row)

    def _fill_rows(self, packed: Packed, part: Part, k: Part) -> None:
        super()._fill_rows(packed, part, k)
        loops, steps = self.loops, self.instruction.steps
        rest = loops.rem(k.length.value, loops.constant(steps))
        rows = loops.mul(part.length.value, loops.minimum(rest, loops.constant(1)))
        panel = self._matrix(packed.memory, packed.slice, part.length, self._pitch("k"))

        def row(number: SSAValue, _: Carried) -> Carried:
            self._store_zeros(panel, number, k.length.value, steps)
            return ()

        loops.counted(loops.constant(0), rows, loops.constant(1), row)

    def _store_zeros(self, matrix: SSAValue, row: SSAValue, column: SSAValue, count: int) -> None:
        """Some zeros side by side."""
        block = BlockType.of(1, count, self.problem.operand.mlir, "n")
        zeros = self.loops.insert(ZeroOp(block)).result
        self.loops.insert(StoreOp(zeros, matrix, [row, column], "mn"))

    # -------------------------------------------------------------------------------- blocks

    def _register_blocks(
        self, along: Part, across: Part, k: Part, vector: Packed | None, broadcast: Packed | None
    ) -> None:
        if vector is not None and self._packs_ahead(along, across):
            self._panels_in_turn(along, across, k, vector, broadcast)
            return
        call = partial(self._block, k=k, update=self._update(k), vector=vector, broadcast=broadcast)

        def panel(x: Part) -> None:
            if vector is not None and vector.single:
                self._fill_panel(vector, x, k)
            self._each_block(across, self.across, lambda y: call(x, y))

        single = vector is not None and vector.single
        if self.plan.plan.resident.data == self.vector or single:
            self._each_block(along, self.along, panel)
            return
        self._each_block(
            across,
            self.across,
            lambda y: self._each_block(along, self.along, lambda x: call(x, y)),
        )

    def _packs_ahead(self, along: Part, across: Part) -> bool:
        """Whether the microkernels of one panel pack the next one, as the plan may ask for.

        The sizes of the result must be known.
        """
        known = None not in (across.length.known, along.length.known)
        return known and self.plan.plan.packs_ahead(self.vector)

    def _panels_in_turn(
        self, along: Part, across: Part, k: Part, vector: Packed, broadcast: Packed | None
    ) -> None:
        """The loops over register blocks, each panel packed while the one before is in use.

        The first of consecutive panels of one width is packed before all. There is place for two,
        which are filled in turns; each block packs an even share of the rows of the next.
        """
        loops = self.loops
        call = partial(self._block, k=k, update=self._update(k), broadcast=broadcast)
        height = self._register_block(self.across)
        assert across.length.known is not None
        assert along.length.known is not None
        blocks = sum(
            r.count for r in split_evenly(across.length.known, height, self._unit(self.across))
        )
        groups = self._groups(k).length.value
        share = loops.ceildiv(groups, loops.constant(blocks))

        def panel(number: SSAValue, first: SSAValue, run: Run) -> None:
            size, last = loops.constant(run.size), loops.constant(run.count - 1)
            x = Part(loops.add(first, loops.mul(number, size)), self._known(run.size))
            another = loops.minimum(loops.sub(last, number), loops.constant(1))
            following = replace(x, start=loops.add(x.start, loops.mul(another, size)))
            rows = loops.mul(another, groups)

            def block(y: Part) -> None:
                index = loops.div(loops.sub(y.start, across.start), loops.constant(height))
                start = loops.minimum(loops.mul(index, share), rows)
                length = loops.minimum(share, loops.sub(rows, start))
                place = self._in_turn(vector, loops.offset(number, 1))
                ahead = self._rows_ahead(
                    following, Part(start, Length(length, (0, None))), k, place
                )
                call(x, y, vector=self._in_turn(vector, number), ahead=ahead)

            self._each_block(across, self.across, block)

        for run in split_evenly(
            along.length.known, self._register_block(self.along), self._unit(self.along)
        ):
            start = loops.add(along.start, loops.constant(run.start))
            self._fill_panel(vector, Part(start, self._known(run.size)), k)

            def visit(
                number: SSAValue, _: Carried, start: SSAValue = start, run: Run = run
            ) -> Carried:
                panel(number, start, run)
                return ()

            loops.loop(0, run.count, 1, visit)

    def _rows_ahead(self, x: Part, rows: Part, k: Part, place: Packed) -> tuple[View, View]:
        """Rows of groups to pack, and where they go."""
        loops, group, width = self.loops, self.loops.constant(self.group), x.length.known
        assert width is not None
        steps = Length(loops.mul(rows.length.value, group), (0, None))
        there = Part(loops.add(k.start, loops.mul(rows.start, group)), steps)
        source = self._slice(self.operands[self.vector], {self.along: x, "k": there})
        distance = loops.mul(rows.start, loops.constant(width * self.group))
        panel = self._panel(place.memory, loops.add(place.slice, distance), there, width)
        return source, View(panel, "k" + self.along + "g")

    def _block(
        self,
        x: Part,
        y: Part,
        k: Part,
        update: Sequence[SSAValue],
        vector: Packed | None,
        broadcast: Packed | None,
        ahead: tuple[View, ...] = (),
    ) -> None:
        """One register block: `x` along the lanes, `y` across, as many tiles as there are.

        With `ahead` its microkernel also packs rows of another panel.
        """
        loops = self.loops
        along, low, high = self._tiles(x, self.along)
        across, least, most = self._tiles(y, self.across)
        heights = range(least, most + 1)

        def case(columns: int, rows: int) -> Callable[[], None]:
            shape = rows * self.grid.height, columns * self.grid.width
            factors: dict[Role, View] = {}

            def block() -> None:
                factors[self.vector] = self._column_factor(x, k, vector, shape[1])
                factors[self.broadcast] = self._row_factor(y, k, broadcast, shape[0])
                self._sums(shape, x, y, factors, update, ahead)

            return block

        cases = {
            columns * len(heights) + number: case(columns, rows)
            for columns in range(low, high + 1)
            for number, rows in enumerate(heights)
        }
        number = loops.sub(across, loops.constant(least))
        loops.switch(loops.add(loops.mul(along, loops.constant(len(heights))), number), cases)

    def _tiles(self, part: Part, kind: str) -> tuple[SSAValue, int, int]:
        """How many tiles cover a part of a block, and the fewest and the most it can be."""
        unit = self._unit(kind)
        low, high = part.length.bounds
        assert high is not None
        count = self.loops.ceildiv(part.length.value, self.loops.constant(unit))
        return count, max(1, -(-low // unit)), max(1, -(-high // unit))

    def _column_factor(self, x: Part, k: Part, packed: Packed | None, width: int) -> View:
        """The panel of the vector factor, in whole tiles."""
        whole, padded = self._known(width), self._padded(k)
        if packed is None:
            parts = {self.along: replace(x, length=whole), "k": padded}
            return self._slice(self.operands[self.vector], parts)
        place = self._place(packed, x.start, k)
        panel = self._panel(packed.memory, place, padded, width)
        return View(panel, "k" + self.along + ("g" if self.group > 1 else ""))

    def _row_factor(self, y: Part, k: Part, packed: Packed | None, rows: int) -> View:
        """The rows of the broadcast factor, in whole tiles."""
        whole, padded = self._known(rows), self._padded(k)
        if packed is None:
            parts = {self.across: replace(y, length=whole), "k": padded}
            return self._slice(self.operands[self.broadcast], parts)
        start = self.loops.sub(y.start, packed.origin)
        end = Length(self.loops.add(start, whole.value), (0, None))
        matrix = self._matrix(packed.memory, packed.slice, end, self._pitch("k"))
        view = View(matrix, self.across + "k")
        return self._slice(
            view,
            {self.across: Part(start, whole), "k": replace(padded, start=self.loops.constant(0))},
        )

    def _sums(
        self,
        shape: tuple[int, int],
        x: Part,
        y: Part,
        factors: Mapping[Role, View],
        update: Sequence[SSAValue],
        ahead: Sequence[View] = (),
    ) -> None:
        """Add a part of the reduction to the sums of a block, wherever these are."""
        parts = {
            self.along: replace(x, length=self._known(shape[1])),
            self.across: replace(y, length=self._known(shape[0])),
        }
        call = partial(self._multiply, shape, factors, ahead=ahead)
        if self.scratch is not None:
            there = self._of_result(parts[self.along], parts[self.across])
            call(self._slice(self.operands["out"], there), update[0])
            return
        if self._finishes:
            call(self._in_workspace(shape), self._flag(value=True))
            self._make_results(x, y, update)
            return

        def direct() -> None:
            call(self._slice(self.operands["out"], parts), update[0])

        def copied() -> None:
            self._copy_old(x, y, update[0])
            call(self._in_workspace(shape), update[0])
            self._make_results(x, y, ())

        self._if_whole(shape, x, y, direct, copied)

    @property
    def _finishes(self) -> bool:
        """Whether something is done to the sums before they are results."""
        return self.problem.finishes or self.op.alpha is not None

    def _if_whole(
        self,
        shape: tuple[int, int],
        x: Part,
        y: Part,
        direct: Callable[[], None],
        copied: Callable[[], None],
    ) -> None:
        """One of two ways: whether a block fills its tiles may be known only at run time."""
        loops = self.loops
        known = (y.length.known, x.length.known)
        if known == shape:
            direct()
            return
        if any(k is not None and k != size for k, size in zip(known, shape, strict=True)):
            copied()
            return
        whole = [
            loops.compare(part.length.value, "eq", loops.constant(size))
            for part, size in zip((y, x), shape, strict=True)
            if part.length.known is None
        ]
        every = whole[0]
        for other in whole[1:]:
            every = loops.insert(arith.AndIOp(every, other)).result
        loops.branch(every, direct, copied)

    # ------------------------------------------------------------------------------- results

    def _in_workspace(self, shape: tuple[int, int]) -> View:
        """The place of a block's sums."""
        zero, view = self.loops.constant(0), self._scratch_view()
        parts = dict(zip(view.tags, (Part(zero, self._known(size)) for size in shape), strict=True))
        return self._slice(view, parts)

    def _make_results(self, x: Part, y: Part, update: Sequence[SSAValue]) -> None:
        """Make results of a block of sums in the workspace; without an update they are some."""
        self.corner = {self.along: x.start, self.across: y.start}
        self.update = tuple(update)
        self._finish(x, y)

    def _store_result(
        self,
        sums: SSAValue,
        out: View,
        place: Sequence[SSAValue],
        tail: SSAValue | None,
        extras: Sequence[BlockAccess],
    ) -> None:
        if self.scratch is not None:
            super()._store_result(sums, out, place, tail, extras)
            return
        loops = self.loops
        first, *scale = self.update or (self._flag(value=True),)

        def store(*, is_first: bool) -> None:
            alpha, beta = (scale[0], scale[1]) if scale else (None, None)
            made = StoreOp(
                *(sums, out.memory, place, out.tags),
                accumulate=not is_first and alpha is None,
                tail=tail,
                alpha=alpha,
                beta=None if is_first else beta,
                extras=extras,
                epilogue=self._epilogue(self.values.captured),
            )
            loops.insert(made)

        if (known := self._truth(first)) is not None:
            store(is_first=known)
        else:
            loops.branch(first, lambda: store(is_first=True), lambda: store(is_first=False))

    def _copy_old(self, x: Part, y: Part, first: SSAValue) -> None:
        """Copy old results into the workspace, unless the sums start from zero."""
        known = self._truth(first)
        if known:
            return
        if known is None:
            self.loops.branch(first, lambda: None, lambda: self._copy_block(x, y))
        else:
            self._copy_block(x, y)

    def _copy_block(self, x: Part, y: Part) -> None:
        """Copy a block of the result into the workspace."""
        loops, lanes = self.loops, self.loops.constant(self.lanes)
        zero, one, size = loops.constant(0), loops.constant(1), x.length.value
        rest = loops.rem(size, lanes)
        whole = loops.sub(size, rest)
        shape = (1, self.lanes) if self.along == "n" else (self.lanes, 1)
        sums, out = self._scratch_view(), self.operands["out"]
        type_ = BlockType.of(*shape, self.op.accumulator, self.along)

        def copy(i: SSAValue, j: SSAValue, tail: SSAValue | None) -> Carried:
            there = {self.along: loops.add(x.start, j), self.across: loops.add(y.start, i)}
            here = {self.along: j, self.across: i}
            loaded = LoadOp(out.memory, [there[t] for t in out.tags], out.tags, type_, tail)
            value = loops.insert(loaded).result
            loops.insert(StoreOp(value, sums.memory, [here[t] for t in sums.tags], sums.tags))
            return ()

        def row(i: SSAValue, _: Carried) -> Carried:
            loops.counted(zero, whole, lanes, lambda j, _: copy(i, j, None))
            if constant_index(rest) != 0:
                loops.counted(whole, size, lanes, lambda j, _: copy(i, j, rest))
            return ()

        loops.counted(zero, y.length.value, one, row)

    def _truth(self, flag: SSAValue) -> bool | None:
        """A truth that is known now."""
        known = constant_index(flag)
        return None if known is None else bool(known)

    # --------------------------------------------------------------------------- microkernels

    def _multiply(
        self,
        shape: tuple[int, int],
        factors: Mapping[Role, View],
        out: View,
        first: SSAValue,
        ahead: Sequence[View] = (),
    ) -> None:
        """Call the microkernel for a block of tiles of some shape, across and along the lanes."""
        views: dict[Role, View] = {**factors, "out": out}
        roles: tuple[Role, ...] = ("lhs", "rhs", "out")
        types = {
            role: self._argument_type(role, views[role], shape, masked=False, packed=True)
            for role in roles
        }
        known = self._truth(first)
        rows = [rows_type(view.type, view.type.get_shape()[1]) for view in ahead]
        key = (shape, known, tuple(types.values()), tuple(rows))
        if key not in self.microkernels:
            self.microkernels[key] = self._build_tiled(shape, known, types, views, rows)
        arguments = [self._cast(views[role].memory, types[role]) for role in roles]
        passed = [first] if known is None else []
        passed += [self._cast(view.memory, type_) for view, type_ in zip(ahead, rows, strict=True)]
        self.loops.insert(MicrokernelOp(self.microkernels[key], [*arguments, *passed]))

    def _build_tiled(
        self,
        shape: tuple[int, int],
        from_zero: bool | None,
        types: Mapping[Role, MemRefType],
        views: Mapping[Role, View],
        rows: Sequence[MemRefType],
    ) -> str:
        """A private function that holds one product of a block of tiles.

        `rows`: the types of what it packs, and of the rows of a panel that it packs that into.
        """
        truths = [i1] if from_zero is None else []
        block = Block(arg_types=[*types.values(), *truths, *rows])
        names = ("lhs", "rhs", "out", *("first" for _ in truths), "source", "panel")
        for value, name in zip(block.args, names, strict=False):
            value.name_hint = name
        lhs, rhs, out = block.args[:3]
        height, width = shape if self.along == "n" else shape[::-1]
        cleared = dict.fromkeys(("m_block", "n_block", "k_block"), 0)
        plan = self.plan.plan.with_entries(
            block=(height, width),
            edges="masked",
            pack="none",
            ahead="none",
            threads=1,
            **cleared,
        )
        op = GemmOp(
            *(lhs, rhs, out, [tags_map(views[role].tags, self.group) for role in types]),
            unsigned=None if self.op.unsigned is None else self.op.unsigned.data,
            from_zero=bool(from_zero),
            first=block.args[3] if from_zero is None else None,
            packed=(block.args[-2], block.args[-1]) if rows else None,
            plan=plan,
        )
        block.add_ops([op, func.ReturnOp()])
        purpose = f"{height}x{width}" + ("_first" if from_zero else "") + ("_ahead" if rows else "")
        name = self._fresh_name(purpose)
        function = self._add_function(name, block)
        if self._shapes:
            function.attributes[CONFIGURATION_ATTRIBUTE] = ArrayAttr(self._shapes)
        return name
