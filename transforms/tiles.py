"""Blocks of tiles as registers: a part of the pass `unroll`.

A block is a grid of tiles, each in a register of its own, row by row; behind them come those of the
factors. The registers' shapes were configured for the largest block there is, and a smaller one
finds its registers among them. A step loads each tile of the factors once. The tiles of one factor
stay while those of the other one pass by: with two by two accumulators

```mlir
%b0 = tile.load %panel[%q, %j, %g] rows 0 into 6 : ...
%a0 = tile.load %a[%i, %k] rows 0 into 4 : ...
%p00 = tile.mma %s00, %a0, %b0 using "tile.bf16x16x16x32" : ...
%a1 = tile.load %a[%i + 16, %k] rows 0 into 5 : ...
%p10 = tile.mma %s10, %a1, %b0 using "tile.bf16x16x16x32" : ...
%b1 = tile.load %panel[%q, %j + 16, %g] rows 0 into 7 : ...
%p01 = tile.mma %s01, %a0, %b1 using "tile.bf16x16x16x32" : ...
%p11 = tile.mma %s11, %a1, %b1 using "tile.bf16x16x16x32" : ...
```

Imports: our dialects, targets, planner.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xdsl.dialects import func
from xdsl.dialects.builtin import ArrayAttr
from xdsl.ir import Attribute, SSAValue

from nkdsl.dialects import tile
from nkdsl.dialects.nanokernel import BlockType, LoadOp, PlanAttr, StepOp, StoreOp, ZeroOp
from nkdsl.dialects.tile import CONFIGURATION_ATTRIBUTE, TileType
from nkdsl.errors import Unsupported
from nkdsl.planner.tiles import Grid, grid_of, tile_instruction
from nkdsl.targets.model import Target, TileInstruction
from nkdsl.transforms.loops import LoopBuilder
from nkdsl.transforms.registers import Access
from nkdsl.types import element_type


@dataclass(frozen=True)
class TileTypes:
    """The types of a block's tiles."""

    accumulator: TileType
    row: TileType
    column: TileType

    @classmethod
    def of(cls, grid: Grid, instruction: TileInstruction) -> "TileTypes":
        """What an instruction multiplies for tiles of some height."""
        sums = instruction.accumulator_type.mlir
        factors = element_type(instruction.operand).mlir
        return cls(
            TileType.of(grid.height, grid.width, sums),
            TileType.of(grid.height, instruction.steps, factors),
            TileType.of(instruction.depth, grid.width * instruction.k, factors),
        )


@dataclass(frozen=True)
class TileMap:
    """Which register holds what."""

    accumulators: tuple[int, ...]
    """Row by row of the grid."""
    rows: tuple[int, ...]
    """What tiles of the row factor take turns in."""
    columns: tuple[int, ...]
    """What tiles of the column factor take turns in."""

    @classmethod
    def of(cls, grid: Grid, types: TileTypes, shapes: Sequence[TileType]) -> "TileMap":
        """The registers for a grid, of some that are configured for it or for a larger one.

        Raises:
            Unsupported: if there are too few of a shape.
        """
        sums, rows, columns = (
            tuple(number for number, shape in enumerate(shapes) if shape == type_)
            for type_ in (types.accumulator, types.row, types.column)
        )
        if types.row == types.column:
            count, _ = grid.factors(grid.accumulators + len(rows))
            rows, columns = rows[:count], rows[count:]
        stays = (grid.across, rows) if grid.across <= grid.along else (grid.along, columns)
        if len(sums) < grid.accumulators or not rows or not columns or len(stays[1]) < stays[0]:
            raise Unsupported(
                f"the configured registers, {', '.join(map(str, shapes))}, don't hold "
                f"{grid.across}x{grid.along} sums of {types.accumulator} and their factors, "
                f"{types.row} and {types.column}"
            )
        return cls(sums[: grid.accumulators], rows, columns)


def configuration(target: Target, plan: PlanAttr) -> tuple[TileType, ...]:
    """The shape of each register under a plan, from register 0 on."""
    instruction = tile_instruction(target, plan)
    assert target.tiles is not None
    grid = grid_of(plan.block, plan.lanes.data, instruction)
    return configuration_of(grid, instruction, target.tiles.registers)


def configuration_of(
    grid: Grid, instruction: TileInstruction, registers: int
) -> tuple[TileType, ...]:
    """The shapes of a grid's sums, behind them those of its factors."""
    rows, columns = grid.factors(registers)
    types = TileTypes.of(grid, instruction)
    shapes = [types.accumulator] * grid.accumulators
    return (*shapes, *[types.row] * rows, *[types.column] * columns)


@dataclass(frozen=True)
class Place:
    """Where a tile lies in memory."""

    memref: SSAValue
    indices: tuple[SSAValue, ...]
    offsets: tuple[int, ...]
    """The constant part of each index."""
    active: tuple[SSAValue, ...] = ()
    """How much of a scalable tile exists."""


Loader = Callable[[int], SSAValue]
"""Loads the tile of some number."""


class TileBuilder:
    """Inserts operations on tiles where a `LoopBuilder` stands."""

    def __init__(self, loops: LoopBuilder, target: Target, function: func.FuncOp):
        """Insert through `loops`, in a function, what `target` can execute."""
        self.loops = loops
        self.target = target
        self.shapes = configured_shapes(function)
        """The shape of each register; nothing where the function does not say."""

    def zero(self, op: ZeroOp) -> list[SSAValue]:
        """A block of zeros."""
        grid, type_ = grid_and_type(op.result.type)
        made = (tile.ZeroOp(type_, number) for number in self._sums(grid, type_))
        return [self.loops.insert(each).result for each in made]

    def load(self, op: LoadOp) -> list[SSAValue]:
        """A block of old results, loaded as it is."""
        if op.tail is not None:
            raise Unsupported(
                "a block of tiles is loaded as it is; copy what there is to the workspace"
            )
        access = Access(op.memref, tuple(op.indices), op.dims.data)
        grid, type_ = grid_and_type(op.result.type)
        row = access.dims.index(across_of(op.result.type))
        registers = iter(self._sums(grid, type_))
        loaded: list[SSAValue] = []
        for place in self._places(access, op.result.type, grid):
            made = tile.LoadOp(
                *(place.memref, place.indices, type_, place.offsets, row),
                *(next(registers), place.active),
            )
            loaded.append(self.loops.insert(made).result)
        return loaded

    def _sums(self, grid: Grid, type_: TileType) -> tuple[int, ...]:
        """The registers of a block's sums."""
        places = [n for n, shape in enumerate(self.shapes) if shape == type_]
        return tuple(places[: grid.accumulators] or range(grid.accumulators))

    def store(self, op: StoreOp, values: Sequence[SSAValue]) -> None:
        """A block of results, stored as it is."""
        plain = op.accumulate is None and op.alpha is None and op.epilogue is None
        if not plain or op.tail is not None:
            raise Unsupported("a block of tiles is stored as it is; finish it in the workspace")
        access = Access(op.memref, tuple(op.indices), op.dims.data)
        grid, _ = grid_and_type(op.block.type)
        row = access.dims.index(across_of(op.block.type))
        places = self._places(access, op.block.type, grid)
        for value, place in zip(values, places, strict=True):
            self.loops.insert(
                tile.StoreOp(value, place.memref, place.indices, place.offsets, row, place.active)
            )

    def _places(self, access: Access, block: Attribute, grid: Grid) -> list[Place]:
        """Where each tile of a block lies."""
        return [
            self._place(access, block, grid, row, column)
            for row in range(grid.across)
            for column in range(grid.along)
        ]

    def _place(self, access: Access, block: Attribute, grid: Grid, row: int, column: int) -> Place:
        """Where one tile of a block lies."""
        distances = {across_of(block): row * grid.height, along_of(block): column * grid.width}
        return Place(access.memref, access.indices, tuple(access.offsets(**distances)))

    def step(self, op: StepOp, values: Sequence[SSAValue]) -> list[SSAValue]:
        """The sums after the instructions of a step."""
        instruction = self.target.instruction(op.instruction.data)
        if not isinstance(instruction, TileInstruction):
            raise Unsupported(f"{instruction.name} does not multiply tiles")
        sums = list(values)
        for start in range(0, op.depth.value.data, instruction.steps):
            self._multiply(op, instruction, start, sums)
        return sums

    def _multiply(
        self, op: StepOp, instruction: TileInstruction, start: int, sums: list[SSAValue]
    ) -> None:
        """One instruction for each accumulator."""
        grid, _ = grid_and_type(op.acc.type)
        row_tile, column_tile = self._factors(op, instruction, start, grid)
        name = self._name(op, instruction)
        kept: dict[int, SSAValue] = {}
        by_columns = grid.across <= grid.along
        passing, staying = (column_tile, row_tile) if by_columns else (row_tile, column_tile)
        counts = (grid.along, grid.across) if by_columns else (grid.across, grid.along)
        for outer in range(counts[0]):
            passed = passing(outer)
            for inner in range(counts[1]):
                if inner not in kept:
                    kept[inner] = staying(inner)
                row, column = (inner, outer) if by_columns else (outer, inner)
                factors = (kept[inner], passed) if by_columns else (passed, kept[inner])
                slot = row * grid.along + column
                made = tile.MmaOp(sums[slot], *factors, name)
                sums[slot] = self.loops.insert(made).result

    def _factors(
        self, op: StepOp, instruction: TileInstruction, start: int, grid: Grid
    ) -> tuple[Loader, Loader]:
        """What loads a tile of the row factor, and one of the column factor, by its number."""
        assert self.target.tiles is not None
        own = configuration_of(grid, instruction, self.target.tiles.registers)
        types = TileTypes.of(grid, instruction)
        places = TileMap.of(grid, types, self.shapes or own)
        row_factor, column_factor = factors_of(op)
        across, along = across_of(op.block), along_of(op.block)

        def row_tile(number: int) -> SSAValue:
            distances = {across: number * grid.height, "k": start}
            register = places.rows[number % len(places.rows)]
            return self._load(row_factor, distances, across, types.row, register)

        def column_tile(number: int) -> SSAValue:
            distances = {along: number * grid.width, "k": start // instruction.k}
            register = places.columns[number % len(places.columns)]
            return self._load(column_factor, distances, "k", types.column, register)

        return row_tile, column_tile

    def _name(self, op: StepOp, instruction: TileInstruction) -> str:
        """The instruction whose left factor is the row factor."""
        if op.block.lanes.data == "n":
            return instruction.name
        types = [element_type(name) for name in instruction.operands[::-1]]
        swapped = self.target.tile_instruction_for(types[0], types[1])
        if swapped is None:
            raise Unsupported(f"{instruction.name} has no counterpart with its factors exchanged")
        return swapped.name

    def _load(
        self, factor: Access, distances: dict[str, int], row: str, type_: TileType, register: int
    ) -> SSAValue:
        """A tile of a factor."""
        op = tile.LoadOp(
            *(factor.memref, factor.indices, type_, factor.offsets(**distances)),
            *(factor.dims.index(row), register),
        )
        return self.loops.insert(op).result


def factors_of(op: StepOp) -> tuple[Access, Access]:
    """The row factor and the column factor of a step."""
    lhs = Access(op.lhs, tuple(op.lhs_indices), op.lhs_dims.data)
    rhs = Access(op.rhs, tuple(op.rhs_indices), op.rhs_dims.data)
    return (lhs, rhs) if op.block.lanes.data == "n" else (rhs, lhs)


def configured_shapes(function: func.FuncOp) -> tuple[TileType, ...]:
    """The shapes of registers in a function: those it is called with, or its only ones."""
    given = function.attributes.get(CONFIGURATION_ATTRIBUTE)
    if isinstance(given, ArrayAttr):
        return tuple(shape for shape in given if isinstance(shape, TileType))
    own = {op.shapes for op in function.walk() if isinstance(op, tile.ConfigureOp)}
    return tuple(own.pop()) if len(own) == 1 else ()


def _block(type_: Attribute) -> BlockType:
    assert isinstance(type_, BlockType)
    return type_


def along_of(type_: Attribute) -> str:
    """The dimension of a block along the lanes."""
    return _block(type_).lanes.data


def across_of(type_: Attribute) -> str:
    """The other dimension of a block, m or n."""
    return "m" if along_of(type_) == "n" else "n"


def grid_and_type(type_: Attribute) -> tuple[Grid, TileType]:
    """The tiles of a block, and the type of one."""
    block = _block(type_)
    assert block.tiles is not None
    order = 1 if block.lanes.data == "n" else -1
    (across, along), (height, width) = block.shape[::order], block.tiles[::order]
    grid = Grid(across // height, along // width, height, width)
    return grid, TileType.of(height, width, block.element_type, scalable=block.scalable)
