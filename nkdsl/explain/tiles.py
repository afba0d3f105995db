"""Sections on a plan that multiplies tiles of a configured shape: registers, edges, counts, loops.

The factor whose rows lie across the lanes is the *row factor* (A, with lanes along n), the other
one the *column factor*, as in `nkdsl.planner.tiles`. Outer products, on tiles as large as vectors
are long, have sections of their own (`nkdsl.explain.outer_products`), which share some of these.

Imports: the planner, `nkdsl.explain.product`, and of the passes what they know of registers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from nkdsl.dialects.nanokernel import iterator_names
from nkdsl.dialects.tile import TileType
from nkdsl.explain.product import (
    FACTORS,
    ROLES,
    Explained,
    block_rows,
    epilogue_rows,
    groups_rows,
    in_bytes,
    indented,
    latency_row,
    level_name,
    number_of,
    result_row,
    row,
    run_in_words,
    share_of_packing,
    step_rows,
    sums_apart_rows,
)
from nkdsl.planner.blocking import Sides, residents, sides_of
from nkdsl.planner.cost import Call
from nkdsl.planner.problem import Role
from nkdsl.planner.tiles import Grid, grid_of, tile_counts, tile_instruction
from nkdsl.targets.model import TileInstruction, TileUnit
from nkdsl.transforms.tiles import TileMap, TileTypes, configuration
from nkdsl.types import element_type, element_type_of

BOUNDS = {"FMA units": "multiplier", "FMA latency": "latency"}
"""What resources are called that tiles share with vectors in the planner."""


@dataclass(frozen=True)
class Tiled:
    """An explained product of tiles, with what its sections ask for again and again."""

    e: Explained

    @cached_property
    def instruction(self) -> TileInstruction:
        """What multiplies."""
        return tile_instruction(self.e.target, self.e.plan)

    @property
    def unit(self) -> TileUnit:
        """The registers."""
        assert self.e.target.tiles is not None
        return self.e.target.tiles

    @cached_property
    def sides(self) -> Sides:
        """The parts that dimensions and factors play."""
        return sides_of(self.e.lanes)

    @cached_property
    def grid(self) -> Grid:
        """The tiles of a block."""
        return grid_of(self.e.plan.block, self.e.lanes, self.instruction)

    @cached_property
    def types(self) -> TileTypes:
        """Their shapes."""
        return TileTypes.of(self.grid, self.instruction)

    @cached_property
    def shapes(self) -> tuple[TileType, ...]:
        """The shape that each register is configured for."""
        return configuration(self.e.target, self.e.plan)

    @property
    def executed(self) -> TileInstruction:
        """The instruction whose left factor is the row factor."""
        left, right = map(element_type, self.instruction.operands)
        if self.e.lanes == "n":
            return self.instruction
        return self.e.target.tile_instruction_for(right, left) or self.instruction

    @property
    def block_bytes(self) -> int:
        """Bytes of the sums of a block of whole tiles."""
        grid = self.grid
        elements = grid.accumulators * grid.height * grid.width
        return elements * self.e.problem.accumulator.size

    def size(self, kind: str) -> int:
        """Rows, or columns, of a tile of sums along m or n."""
        return self.grid.width if kind == self.e.lanes else self.grid.height

    def counted_along(self, kind: str, size: int) -> int:
        """How many tiles cover a size along m or n."""
        return -(-size // self.size(kind))

    def is_open(self, kind: str) -> bool:
        """Whether an extent is known only at run time."""
        return self.e.problem.position(kind) in self.e.problem.dynamic


def sections(e: Explained) -> Iterator[str]:
    """Everything between the product and what is predicted for it."""
    t = Tiled(e)
    yield from _plan(t)
    yield ""
    yield from _step(t)
    yield ""
    yield from _cover(t)
    yield ""
    yield from _registers(t)
    yield ""
    yield from _counts(t)
    yield ""
    yield from loop_rows(e, f"k: {t.instruction.steps} at a time, a tile of each factor deep")
    yield from _caches(t)


# -------------------------------------------------------------------------------------- plan


def _plan(t: Tiled) -> Iterator[str]:
    e, grid = t.e, t.grid
    mr, nr = e.plan.block
    name = f"{t.instruction.name} ({t.executed.mnemonic})"
    yield row("plan", f"{mr}x{nr} accumulators, lanes along {e.lanes}, {name}")
    yield row(
        "tiles",
        f"{grid.across}·{grid.along} accumulators + {min(grid.across, grid.along)} kept + 1 passing"
        f" = {grid.registers} ≤ {t.unit.registers} of {t.unit.name}; {len(t.shapes)} are in use",
    )
    yield latency_row(e, grid.accumulators)
    yield from groups_rows(e, {role: _source(t, role) for role in ROLES})
    where = (
        "on sums in the workspace, after their last part of k"
        if e.apart
        else "on each block of sums in the workspace, a vector register at a time"
    )
    yield from epilogue_rows(e, where)


def _source(t: Tiled, role: Role) -> str:
    """Where tiles of a factor are loaded from."""
    e = t.e
    if e.plan.packs(role):
        if role == t.sides.broadcast:
            return "packed in rows along k, as they lie in a tile"
        return "packed into panels of groups"
    if e.problem.operand_named(role).group == t.instruction.k:
        return "lies in groups, read in place"
    return "read in place, its rows are those of tiles"


# -------------------------------------------------------------------------------------- step


def _step(t: Tiled) -> Iterator[str]:
    call, step, grid = t.e.main, t.e.main.step, t.grid
    tile, target = call.tile, t.e.target
    each = grid.height / t.instruction.rows / t.instruction.per_cycle
    yield row(
        "step",
        f"of {t.instruction.steps} k on a {call.rows.size}x{call.columns.size} block, in cycles:",
    )
    rows = {t.sides.broadcast: grid.height, t.sides.vector: t.instruction.depth}
    products = number_of(tile.instructions, "multiplication")
    loads = number_of(tile.lhs_loads + tile.rhs_loads, "load")
    yield from step_rows(
        (
            ("multiplier", step.fma, f"{products} of {each:g} cycles"),
            ("latency", step.latency, "one addition after another into each accumulator"),
            (
                "load ports",
                step.loads,
                f"{tile.lhs_loads * rows['lhs']} rows of tiles of A + "
                f"{tile.rhs_loads * rows['rhs']} of B, "
                f"{t.unit.rows_loaded_per_cycle:g} a cycle",
            ),
            ("cache bandwidth", step.stream, _streams(t)),
            (
                "issue slots",
                step.issue,
                f"{products}, {loads} and the loop's, {target.issue_width} a cycle",
            ),
        )
    )
    rate = tile.instructions * grid.height * grid.width * 2 * t.instruction.steps / step.cycles
    yield row("", f"* is the bound: {rate:.1f} of {t.e.peak:g} operations a cycle")
    yield from _call_rows(t, call)


def _call_rows(t: Tiled, call: Call) -> Iterator[str]:
    """What a call takes beside its steps."""
    steps = _steps(t)
    inside = steps * call.step.cycles
    yield row(
        "",
        f"a call: {number_of(steps, 'step')} = {inside:.0f} of its {call.cycles:.0f} cycles; the "
        "rest are sums on their way in and out,",
    )
    yield row("", "loads that the multiplier waits for, and the call itself")


def _steps(t: Tiled) -> int:
    """Steps of the largest part of the reduction."""
    extent, part = t.e.problem.extent("k"), t.e.plan.k_block.data
    parts = -(-extent // part) if part else 1
    units = -(-extent // t.instruction.steps)
    return -(-units // max(1, parts))


def _streams(t: Tiled) -> str:
    levels = {part.role: part.level for part in residents(t.e.stated, t.e.target, t.e.counted)}
    words = [
        f"{FACTORS[role]} comes from {level_name(t.e.target, levels[role])}"
        for role in ROLES
        if levels[role]
    ]
    return ", ".join(words) or "both factors are in L1"


# ------------------------------------------------------------------------------------- edges


def _cover(t: Tiled) -> Iterator[str]:
    """How blocks and tiles cover the product, and what becomes of its edges."""
    e = t.e
    for label, kind in (("rows", "m"), ("columns", "n")):
        yield row(label, f"{_split(t, kind)}; {_filled(t, kind)}")
    yield row("k", _reduction(t))
    yield from block_rows(e, "tiles", lambda call: _tiles_of(t, call), named_bound)
    yield from _edges(t)


def _split(t: Tiled, kind: str) -> str:
    """`3×32 + 31 = 127`."""
    parts = " + ".join(run_in_words(run) for run in t.e.runs(kind))
    return f"{parts} = {t.e.problem.extent(kind)}"


def _filled(t: Tiled, kind: str) -> str:
    """How tiles of one size cover an extent."""
    size, extent = t.size(kind), t.e.problem.extent(kind)
    if t.is_open(kind):
        return f"tiles of {size}, whatever the size at run time"
    tiles = t.counted_along(kind, extent)
    beyond = tiles * size - extent
    word = "row" if kind == "m" else "column"
    reach = f", {number_of(beyond, word)} beyond the end" if beyond else ""
    return f"{number_of(tiles, 'tile')} of {size}{reach}"


def _reduction(t: Tiled) -> str:
    """The reduction in parts and steps."""
    extent, size = t.e.problem.extent("k"), t.instruction.steps
    part = t.e.plan.k_block.data
    cut = f"; at most {part} at a time" if part and (part < extent or t.is_open("k")) else ""
    if t.is_open("k"):
        return f"steps of {size}, the last one filled up with zeros{cut}"
    beyond = -extent % size
    zeros = f", the last one filled up with {number_of(beyond, 'zero')}" if beyond else ""
    return f"{extent} in {number_of(-(-extent // size), 'step')} of {size}{zeros}{cut}"


def _tiles_of(t: Tiled, call: Call) -> str:
    return f"{t.counted_along('m', call.rows.size)}x{t.counted_along('n', call.columns.size)}"


def named_bound(name: str) -> str:
    """What the planner's name of a bound means for tiles."""
    return BOUNDS.get(name, name)


def _edges(t: Tiled) -> Iterator[str]:
    """What is packed and filled up, and which blocks are computed in the workspace."""
    e = t.e
    filled = [FACTORS[role] for role in ROLES if e.plan.packs(role)]
    packed = f"{' and '.join(filled)} packed, in whole tiles" if filled else "no factor is packed"
    yield row("edges", packed)
    if e.apart:
        return  # told with the sums
    size = in_bytes(t.block_bytes)
    if e.problem.finishes:
        yield row("", f"each block is computed in the workspace ({size}), results made of it there")
        return
    yield row("", _copied(t, size))


def _copied(t: Tiled, size: str) -> str:
    """Which blocks are computed apart because they end within a tile."""
    kinds = {"m": "rows", "n": "columns"}
    if any(t.is_open(kind) for kind in kinds):
        return f"blocks that end within a tile are computed in the workspace ({size}) and copied"
    sizes = [
        f"{run.size} {word}"
        for kind, word in kinds.items()
        for run in t.e.runs(kind)
        if run.size % t.size(kind)
    ]
    if not sizes:
        return "blocks are whole tiles, loaded from and stored to C"
    return f"blocks of {' or '.join(sizes)} are computed in the workspace ({size}) and copied"


# --------------------------------------------------------------------------------- registers


def _registers(t: Tiled) -> Iterator[str]:
    """A grid: accumulators in the middle, the factors' tiles on the edges."""
    grid, places = t.grid, TileMap.of(t.grid, t.types, t.shapes)
    rows, columns = t.sides.across, t.e.lanes
    yield row("map", f"of tile registers, as {rows} by {columns}; rows × bytes of one:")
    heads = [f"{columns}+{number * grid.width}" for number in range(grid.along)]
    factors = _registers_of(places.columns, grid.along)
    shape = _shape(t.types.column)
    yield row("", f"{'':>12}{_cells(heads)}")
    yield row("", f"{'':>12}{_cells(factors)}   {FACTORS[t.sides.vector]}: {shape}")
    for number, register in enumerate(_registers_of(places.rows, grid.across)):
        sums = (
            f"c{number}{column}=t{places.accumulators[number * grid.along + column]}"
            for column in range(grid.along)
        )
        shape = _shape(t.types.row)
        remark = "" if number else f"   {FACTORS[t.sides.broadcast]}: {shape}"
        yield row("", f"{f'{rows}+{number * grid.height}':>6}{register:>6}{_cells(sums)}{remark}")
    sums_shape = _shape(t.types.accumulator)
    yield row("", f"sums: {sums_shape}; configured once a call, and released at its end")


def _registers_of(numbers: Sequence[int], count: int) -> list[str]:
    """The registers that a factor's tiles take turns in."""
    return [f"t{numbers[number % len(numbers)]}" for number in range(count)]


def _shape(type_: TileType) -> str:
    """`16×64 s32`."""
    rows, columns = type_.shape
    return f"{rows}×{columns * element_type_of(type_.element_type).size}"


def _cells(words: Sequence[str] | Iterator[str]) -> str:
    return "".join(f"{word:>9}" for word in words)


# ------------------------------------------------------------------------------------ counts


def _counts(t: Tiled) -> Iterator[str]:
    """How many tile instructions the product takes."""
    counts = tile_counts(t.e.problem, t.e.target, t.e.plan)
    loads = {t.sides.broadcast: counts.row_loads, t.sides.vector: counts.column_loads}
    alone = ", on one thread" if t.e.plan.threads.data > 1 else ""
    yield row("counts", f"{number_of(counts.multiplications, 'multiplication')}{alone}")
    yield row(
        "",
        f"{loads['lhs']} loads of A + {loads['rhs']} of B: "
        f"{counts.loads_a_multiplication:.2f} a multiplication",
    )
    parts = t.e.cost.chunks
    each = f", of each of {parts} parts of k {counts.stores // parts}" if parts > 1 else ""
    yield row("", f"{counts.result_loads} loads of sums, {counts.stores} stores{each}")


# ------------------------------------------------------------------------------------- loops


def loop_rows(e: Explained, innermost: str) -> Iterator[str]:
    """The loops of the pass `block`, from the outermost one on, and what is inside of them."""
    p, plan, sides = e.problem, e.plan, sides_of(e.lanes)
    names = iterator_names(p.kinds)
    around = [
        f"{names[position]}: {p.sizes[position]} times" for position in p.outer("b", "m", "n")
    ]
    sums = [f"{names[position]}: {p.sizes[position]} times" for position in p.outer("k")]
    sums.append(_at_a_time(e, "k"))
    across = _at_a_time(e, sides.across)
    cut = [_at_a_time(e, sides.along), *([across, *sums] if e.apart else [*sums, across])]
    resident_first = plan.resident.data == sides.vector or _single(e)
    order = (sides.along, sides.across) if resident_first else (sides.across, sides.along)
    blocks = [
        f"{kind}: a block of {plan.block[kind == 'n']} at a time{_fills(e, kind)}" for kind in order
    ]
    yield from indented("loops", [*around, *cut, *blocks, innermost])


def _at_a_time(e: Explained, kind: str) -> str:
    """`k: at most 512 at a time`."""
    plan = e.plan
    block = {"m": plan.m_block, "n": plan.n_block, "k": plan.k_block}[kind].data
    known = e.problem.position(kind) not in e.problem.dynamic
    if not block or (known and block >= e.problem.extent(kind)):
        return f"{kind}: all at once"
    return f"{kind}: at most {block} at a time"


def _single(e: Explained) -> bool:
    """Whether there is place for one panel of the column factor, packed right before its use."""
    sides = sides_of(e.lanes)
    across = e.plan.m_block if sides.across == "m" else e.plan.n_block
    return e.plan.packs(sides.vector) and not across.data


def _fills(e: Explained, kind: str) -> str:
    """When the panel of a block is packed, if that is in the loop over these."""
    sides = sides_of(e.lanes)
    if kind != sides.along or not _single(e):
        return ""
    if e.plan.packs_ahead(sides.vector):
        return ", its panel packed while the one before it is multiplied"
    return ", its panel is packed first"


def _caches(t: Tiled) -> Iterator[str]:
    """What each cache is counted on to hold, and what moving data costs."""
    e, plan = t.e, t.e.plan
    for part in residents(e.stated, e.target, e.counted):
        shape = f"{part.shape[0]}x{part.shape[1] * e.stated.group}"
        what = f"{part.what} of {shape}, {in_bytes(part.size)}"
        how = "packed" if plan.packs(part.role) else "read in place"
        where = level_name(e.target, part.level)
        yield row(FACTORS[part.role], f"{what}, stays in {where}, {how}")
    yield row("packing", _packing(t))
    yield from result_rows(e)


def _packing(t: Tiled) -> str:
    """What packing takes; the planner counts setting up the registers with it."""
    configure = f"{t.unit.configure_cycles:g}"
    if t.e.plan.pack.data == "none":
        return f"none; {configure} cycles to configure the registers"
    return f"{share_of_packing(t.e)}, {configure} to configure the registers among them"


def result_rows(e: Explained) -> Iterator[str]:
    """Where sums rest, how often the result is touched, and who shares the work."""
    if e.apart:
        yield from sums_apart_rows(e)
    else:
        yield result_row(e)
    if e.plan.threads.data > 1:
        yield row("threads", f"{e.plan.threads.data}, each with its own part of rows or columns")
