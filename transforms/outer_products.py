"""Blocks of scalable tiles as registers: a part of the pass `unroll`.

As in `nkdsl.transforms.tiles`; but how far apart tiles lie, and how much of each exists, is known
where the code runs. A tile ends where the memref does that it lies in.

```mlir
%b0 = tile.load %panel[%k, %j] rows 0 active %left0 : ..., !tile.tile<1x4xf32, scalable>
%b1 = tile.load %panel[%k, %j1] rows 0 active %left1 : ..., !tile.tile<1x4xf32, scalable>
```

Both are computed as soon as the block's place is known, outside of the reduction. Imports: our
dialects, targets, planner.
"""

from xdsl.dialects import arith, memref
from xdsl.ir import Attribute, Block, Operation, SSAValue

from nkdsl.dialects import tile
from nkdsl.dialects.nanokernel import StepOp
from nkdsl.dialects.tile import TileType, VscaleOp
from nkdsl.planner.tiles import Grid
from nkdsl.targets.model import TileInstruction
from nkdsl.transforms.loops import index_arithmetic
from nkdsl.transforms.registers import Access
from nkdsl.transforms.tiles import (
    Loader,
    Place,
    TileBuilder,
    across_of,
    along_of,
    factors_of,
)
from nkdsl.types import element_type


class OuterBuilder(TileBuilder):
    """Inserts operations on scalable tiles."""

    _vscale: SSAValue | None = None
    _made: dict[object, SSAValue]

    def _place(self, access: Access, block: Attribute, grid: Grid, row: int, column: int) -> Place:
        indices = list(access.indices)
        active: list[SSAValue] = []
        steps = ((across_of(block), row * grid.height), (along_of(block), column * grid.width))
        for tag, distance in steps:
            dimension = access.dims.index(tag)
            indices[dimension] = self._moved(indices[dimension], distance)
            active.append(self._left(access.memref, dimension, indices[dimension], 1))
        return Place(access.memref, tuple(indices), (0,) * len(indices), tuple(active))

    def _factors(
        self, op: StepOp, instruction: TileInstruction, start: int, grid: Grid
    ) -> tuple[Loader, Loader]:
        row_factor, column_factor = factors_of(op)
        types = instruction.operands if along_of(op.block) == "n" else instruction.operands[::-1]

        def loader(factor: Access, tag: str, size: int, name: str) -> Loader:
            type_ = TileType.of(1, size * instruction.k, element_type(name).mlir, scalable=True)
            dimension = factor.dims.index(tag)

            def load(number: int) -> SSAValue:
                indices = list(factor.indices)
                indices[dimension] = self._moved(indices[dimension], number * size)
                left = self._left(factor.memref, dimension, indices[dimension], instruction.k)
                offsets = factor.offsets(k=start // instruction.k)
                made = tile.LoadOp(
                    *(factor.memref, indices, type_, offsets, factor.dims.index("k")),
                    active=[left],
                )
                return self.loops.insert(made).result

            return load

        return (
            loader(row_factor, across_of(op.block), grid.height, types[0]),
            loader(column_factor, along_of(op.block), grid.width, types[1]),
        )

    # ------------------------------------------------------------------------- early values

    def _moved(self, index: SSAValue, distance: int) -> SSAValue:
        """An index some vectors further on."""
        if not distance:
            return index
        vscale, size = self._length(), self.loops.constant(distance)
        step = self._early("step", distance, index_arithmetic(arith.MuliOp, vscale, size))
        moved = index_arithmetic(arith.AddiOp, index, step)
        return self._early("moved", (index, distance), moved)

    def _left(self, memory: SSAValue, dimension: int, index: SSAValue, group: int) -> SSAValue:
        """How many elements of a dimension lie at an index or behind it, times a group."""
        dim = memref.DimOp(memory, self.loops.constant(dimension))
        extent = self._early("extent", (memory, dimension), dim)
        end = index_arithmetic(arith.MaxUIOp, extent, index)
        largest = self._early("end", (memory, dimension, index), end)
        rest = index_arithmetic(arith.SubiOp, largest, index)
        left = self._early("left", (memory, dimension, index), rest)
        if group == 1:
            return left
        elements = index_arithmetic(arith.MuliOp, left, self.loops.constant(group))
        return self._early("elements", (memory, dimension, index, group), elements)

    def _length(self) -> SSAValue:
        """The processor's vector length."""
        if self._vscale is None:
            self._made = {}
            self._vscale = self.loops.insert_at_entry(VscaleOp()).result
        return self._vscale

    def _early(self, what: str, key: object, op: Operation) -> SSAValue:
        """The result of an op, which is inserted once, where all that it needs is known."""
        self._length()
        if (what, key) not in self._made:
            self.loops.insert_after(max(op.operands, key=_place), [op])
            self._made[what, key] = op.results[0]
        return self._made[what, key]


def _place(value: SSAValue) -> tuple[int, int]:
    """In how many operations the block of a value lies, and where in it the value is made."""
    owner = value.owner
    block = owner if isinstance(owner, Block) else owner.parent
    assert block is not None
    number = -1 if isinstance(owner, Block) else block.get_operation_index(owner)
    depth, around = 0, block.parent_op()
    while around is not None:
        depth, around = depth + 1, around.parent_op()
    return depth, number
