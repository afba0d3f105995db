"""The body of a microkernel of tiles. A part of the pass `compose`.

A product whose plan says `edges = masked` and whose instruction multiplies tiles is one block of
them, which the factors fill: what ends within a tile was filled up when it was packed. The sums
start at zero or with what the result holds, as the instruction adds to them; each step takes one
instruction for each accumulator.

```mlir
nanokernel.gemm ins(%a[m, k], %b[k floordiv 2, n, k mod 2] : memref<32x?xbf16, ...>, ...)
    outs(%c[m, n] : memref<32x32xf32, ...>) from zero if %first plan #nanokernel.plan<...>
// becomes
%start = scf.if %first -> (!nanokernel.block<32x32xf32, lanes = n, tiles = 16x16>) {
  %zero = nanokernel.zero : ...
} else {
  %old = nanokernel.load %c[m: %c0, n: %c0] : ...
}
%sums = scf.for %q = %c0 to %groups step %c16 iter_args(%part = %start) -> (...) {
  %next = nanokernel.step %part, %a[m: %c0, k: %k], %b[k: %q, n: %c0, g: %c0] depth 32 using ...
}
nanokernel.store %sums, %c[m: %c0, n: %c0] : ...
```

Tiles of scalable size make up blocks of two by two, or as many as there are registers for; loops
over such blocks cover what exists of the product's, and one that reaches beyond a view ends there.

```mlir
%v = tile.vscale
%step = arith.muli %v, %c8 : index
scf.for %i = %c0 to %rows step %step {
  scf.for %j = %c0 to %columns step %step {
    %zero = nanokernel.zero : !nanokernel.block<8x8xf32, lanes = n, tiles = 4x4, scalable>
    ...
```

Imports: our dialects, targets, planner.
"""

from collections.abc import Sequence

from xdsl.dialects import memref
from xdsl.ir import SSAValue

from nkdsl.dialects.nanokernel import BlockType, LoadOp, PackOp, StepOp, StoreOp, ZeroOp
from nkdsl.dialects.tile import VscaleOp
from nkdsl.planner.outer_products import tile_grid
from nkdsl.planner.tiles import grid_of, tile_instruction
from nkdsl.transforms.loops import Carried
from nkdsl.transforms.microkernel import Microkernel


class TileMicrokernel(Microkernel):
    """Composes one product of a block of tiles in front of it."""

    def compose(self) -> None:
        """Build everything."""
        loops, instruction = self.loops, tile_instruction(self.target, self.plan)
        depth = loops.ceildiv(self._size("k"), loops.constant(self.group))

        turn = loops.constant(instruction.depth)
        share = self._share(depth, turn)

        def step(number: SSAValue, part: Carried) -> Carried:
            factors = self._factor(0, number), self._factor(1, number)
            made = StepOp(part[0], *factors, instruction.steps, instruction.name)
            sums = loops.insert(made).result
            if share is not None:
                self._pack_rows(loops.mul(loops.div(number, turn), share), share)
            return [sums]

        (sums,) = loops.counted(self.zero, depth, turn, step, [self._sums()])
        loops.insert(StoreOp(sums, *self._result))

    def _share(self, depth: SSAValue, turn: SSAValue) -> SSAValue | None:
        """Rows of another panel to pack in each turn, if there are some to pack at all."""
        if self.op.source is None:
            return None
        loops = self.loops
        steps = loops.insert(memref.DimOp(self.op.source, self.zero)).result
        rows = loops.div(steps, loops.constant(self.group))
        return loops.ceildiv(rows, loops.ceildiv(depth, turn))

    def _pack_rows(self, first: SSAValue, count: SSAValue) -> None:
        """Pack some rows of another panel, each of one group, while the tiles are multiplied."""
        loops, source, panel = self.loops, self.op.source, self.op.panel
        assert source is not None
        assert panel is not None
        rows = loops.insert(memref.DimOp(panel, self.zero)).result
        end = loops.minimum(loops.add(first, count), rows)
        type_ = self._memref(panel)
        _, width, *group = type_.get_shape()
        lanes = self.plan.lanes.data

        def row(number: SSAValue, _: Carried) -> Carried:
            offsets: list[SSAValue | int] = [number, *[0] * (1 + len(group))]
            sizes = [1, width, *group]
            one = memref.SubviewOp.infer_result_type(type_, offsets, sizes, [1] * len(sizes))
            view = memref.SubviewOp.get(panel, offsets, sizes, [1] * len(sizes), one)
            place = loops.insert(view).result
            start = loops.mul(number, loops.constant(self.group))
            extents = self.group, width
            loops.insert(PackOp(source, [start, self.zero], "k" + lanes, place, extents))
            return ()

        loops.counted(first, end, loops.constant(1), row)

    @property
    def _result(self) -> tuple[SSAValue, list[SSAValue], str]:
        """Where the block of the result lies."""
        return self.op.out, [self.zero] * len(self.tags[2]), self.tags[2]

    @property
    def _block(self) -> BlockType:
        """The type of the block of sums."""
        plan, lanes = self.plan, self.plan.lanes.data
        grid = grid_of(plan.block, lanes, tile_instruction(self.target, plan))
        tiles = (grid.height, grid.width) if lanes == "n" else (grid.width, grid.height)
        return BlockType.of(*plan.block, self.op.accumulator, lanes, tiles)

    def _sums(self) -> SSAValue:
        """What the sums start with: zero, or the old result."""
        loops, op, block = self.loops, self.op, self._block

        def zero() -> Sequence[SSAValue]:
            return [loops.insert(ZeroOp(block)).result]

        def old() -> Sequence[SSAValue]:
            return [loops.insert(LoadOp(*self._result, block)).result]

        if op.first is not None:
            return loops.choose(op.first, zero, old)[0]
        return (zero if op.from_zero is not None else old)()[0]


class OuterMicrokernel(TileMicrokernel):
    """Composes one product of outer products in front of it."""

    def compose(self) -> None:
        """Build everything."""
        loops, vscale = self.loops, self.loops.insert(VscaleOp()).result
        steps = [loops.mul(vscale, loops.constant(size)) for size in self._block.shape]
        extents = [self._size(tag) for tag in "mn"]

        def rows(i: SSAValue, _: Carried) -> Carried:
            return loops.counted(self.zero, extents[1], steps[1], lambda j, _: self._at(i, j))

        loops.counted(self.zero, extents[0], steps[0], rows)

    def _at(self, i: SSAValue, j: SSAValue) -> Carried:
        """The block of sums at some row and column."""
        self.corner = {"m": i, "n": j}
        super().compose()
        return ()

    @property
    def _block(self) -> BlockType:
        target, lanes = self.target, self.plan.lanes.data
        assert target.tiles is not None
        instruction = tile_instruction(target, self.plan)
        across, along = tile_grid(target.tiles)
        height, width = instruction.rows, instruction.lanes
        rows, columns = across * height, along * width
        if lanes == "m":
            rows, columns, height, width = columns, rows, width, height
        tiles, sums = (height, width), self.op.accumulator
        return BlockType.of(rows, columns, sums, lanes, tiles, scalable=True)

    @property
    def _result(self) -> tuple[SSAValue, list[SSAValue], str]:
        return self.op.out, [self.corner[tag] for tag in self.tags[2]], self.tags[2]

    def _factor(self, position: int, number: SSAValue) -> tuple[SSAValue, list[SSAValue], str]:
        memref, indices, tags = super()._factor(position, number)
        places = [self.corner.get(tag, index) for tag, index in zip(tags, indices, strict=True)]
        return memref, places, tags
