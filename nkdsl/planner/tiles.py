"""Plans for registers that hold matrices: how a block falls into tiles, and what it costs.

A block of accumulators is a grid of tiles. In one step each tile of the row factor meets each of
the column factor: `across + along` loads for `across * along` multiplications. The rule for the
registers is the one of vectors, `mr·nr + min(mr, nr) + 1 ≤ registers`, counted in tiles; with eight
of them 2x2 needs one load a multiplication, and no other grid needs fewer.

The rows of a product are spread evenly over tiles of one height, so that one configuration of the
registers serves all of it: 33 rows are three tiles of 11. What such tiles reach beyond the product,
and beyond the reduction, is filled up: a factor that ends within a tile is packed, and a block of
the result that does is computed in the workspace and copied.

One factor lies in rows along k, the row factor; of the other one, the column factor, each row holds
a group of k for all columns ("VNNI layout"), in panels a block wide. A step costs as much as the
scarcest of the multiplier, the chain of additions into one tile, the loads, and the way in from the
cache where a factor's panel waits between two uses.

For an instruction that takes k in groups, problem and plan are those of groups
(`nkdsl.planner.search.grouped`). In: a `Problem`, a `Target`. Out: plans and their `Cost`. No IR is
built or read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from nkdsl.dialects.nanokernel import PlanAttr
from nkdsl.errors import Unsupported
from nkdsl.planner.blocking import CALL_CYCLES, DEPTHS, Sides, accumulates_apart, even, sides_of
from nkdsl.planner.cost import (
    FACTORS,
    OUTER_CACHE_SHARE,
    STREAM_FRICTION,
    Call,
    Cost,
    Step,
    bytes_per_cycle,
    cache_level,
)
from nkdsl.planner.outer_products import BLOCKS, check_outer, outer_plans, predict_outer
from nkdsl.planner.packing import packing_of
from nkdsl.planner.problem import Problem, Role
from nkdsl.planner.registers import Tile
from nkdsl.planner.split import Run, split_evenly
from nkdsl.targets.model import Target, TileInstruction, TileUnit

TILE_LOAD_FRICTION = 0.25
"""What of the time that a step's loads take the multiplier doesn't hide: a row of a tile is a cache
line, and a load waits for the last of them."""

MEANWHILE_SHARE = 0.25
"""What packing costs of its time where tiles are multiplied meanwhile: it asks for load ports."""

HIDING_SHARE = 0.9
"""What of the time of multiplications can hide packing: blocks that take less of it are better even
where packing takes longest."""

RESULT_SHARE = 0.5
"""The part of the way in and out of a block's sums that multiplications of others don't hide."""


@dataclass(frozen=True)
class Grid:
    """A block of accumulators as tiles."""

    across: int
    """Tiles across the lanes, those of the row factor."""
    along: int
    """Tiles along the lanes, those of the column factor."""
    height: int
    """Rows of each tile."""
    width: int
    """Columns of each tile: the lanes."""

    @property
    def accumulators(self) -> int:
        """Tiles of sums; a step has one multiplication for each."""
        return self.across * self.along

    @property
    def registers(self) -> int:
        """Registers that it cannot do without."""
        return self.accumulators + min(self.across, self.along) + 1

    def factors(self, registers: int) -> tuple[int, int]:
        """How many registers the tiles of the row and of the column factor take turns in.

        All of them have one of their own if there are enough; else those of the factor with fewer
        tiles do, and the others pass by one after the other.
        """
        room = registers - self.accumulators
        if self.across <= self.along:
            return self.across, min(self.along, room - self.across)
        return min(self.across, room - self.along), self.along


def tile_rows(extent: int, instruction: TileInstruction) -> int:
    """The height of tiles that an extent is spread over evenly."""
    return -(-extent // max(1, -(-extent // instruction.rows)))


def grid_of(block: tuple[int, int], lanes: str, instruction: TileInstruction) -> Grid:
    """The tiles of a block, (M, N), with some dimension along the lanes.

    Raises:
        Unsupported: for a block that is no whole number of tiles.
    """
    along, across = (block[1], block[0]) if lanes == "n" else (block[0], block[1])
    count = max(1, -(-across // instruction.rows))
    if lanes not in ("m", "n") or along % instruction.lanes or across % count:
        raise Unsupported(
            f"block {block[0]}x{block[1]} with lanes = {lanes} is no grid of tiles: "
            f"{instruction.name} has {instruction.lanes} lanes, along m or n, and tiles of one "
            f"height of at most {instruction.rows}"
        )
    return Grid(count, along // instruction.lanes, across // count, instruction.lanes)


@cache
def grids(registers: int) -> tuple[tuple[int, int], ...]:
    """Every (across, along) that some registers hold."""
    sizes = range(1, registers)
    every = (Grid(across, along, 1, 1) for across in sizes for along in sizes)
    return tuple((g.across, g.along) for g in every if g.registers <= registers)


# ----------------------------------------------------------------------------------- layouts


def in_place(problem: Problem, plan: PlanAttr, instruction: TileInstruction, role: Role) -> bool:
    """Whether tiles can be loaded from a factor where it lies.

    It must lie as tiles do, and end with whole ones.
    """
    sides = sides_of(plan.lanes.data)
    kind, operand = ("m" if role == "lhs" else "n"), problem.operand_named(role)
    unit = instruction.lanes
    if role == sides.broadcast:
        unit = grid_of(plan.block, plan.lanes.data, instruction).height
    static = not {problem.position(kind), problem.position("k")} & problem.dynamic
    # A problem in groups rounds its reduction up; that it was whole, the stated extent tells.
    fills = problem.extent("k") % instruction.depth == 0 and problem.whole_groups
    padded = -(-problem.extent("k") // instruction.depth) * instruction.depth
    whole = static and problem.extent(kind) % unit == 0 and (fills or operand.groups >= padded)
    if role == sides.broadcast:
        return whole and not operand.scattered and problem.stride(role, "k") == 1
    if operand.within is None and problem.group > 1:
        return False
    return whole and problem.stride(role, sides.along) == 1


def _packs(problem: Problem, plan: PlanAttr, instruction: TileInstruction) -> str:
    """The factors that can't be read in place."""
    packed = [role for role in FACTORS if not in_place(problem, plan, instruction, role)]
    return "both" if len(packed) == 2 else "".join(packed) or "none"


# ------------------------------------------------------------------------------------- plans


def tile_plans(
    problem: Problem, target: Target, instruction: TileInstruction
) -> Iterator[PlanAttr]:
    """The plans worth comparing for an instruction that multiplies tiles."""
    if instruction.scalable:
        yield from outer_plans(problem, target, instruction)
        return
    unit = target.tiles
    assert unit is not None
    for lanes in ("n", "m"):
        if problem.stride("out", lanes) != 1:
            continue
        sides = sides_of(lanes)
        height = _height(problem, instruction, sides.across)
        limits = {
            sides.across: -(-problem.extent(sides.across) // height),
            sides.along: -(-problem.extent(sides.along) // instruction.lanes),
        }
        for across, along in grids(unit.registers):
            if across > max(1, limits[sides.across]) or along > max(1, limits[sides.along]):
                continue
            sizes = {sides.across: across * height, sides.along: along * instruction.lanes}
            block = sizes["m"], sizes["n"]
            yield from _plans(problem, target, instruction, sides, block)


def _height(problem: Problem, instruction: TileInstruction, kind: str) -> int:
    """Rows of a tile: an even share of what is known now."""
    if problem.position(kind) in problem.dynamic:
        return instruction.rows
    return max(1, tile_rows(problem.extent(kind), instruction))


def _plans(
    problem: Problem,
    target: Target,
    instruction: TileInstruction,
    sides: Sides,
    block: tuple[int, int],
) -> Iterator[PlanAttr]:
    """The plans for one register block: parts of the reduction, and cache blocks."""
    sizes = {"m": block[0], "n": block[1]}
    width, height = sizes[sides.along], sizes[sides.across]
    for depth in _depths(problem, instruction):
        base = PlanAttr.of(
            target=target.name,
            instruction=instruction.name,
            block=block,
            lanes=sides.along,
            k_block=0 if problem.outer("k") else depth,
        )
        base = base.with_entries(pack=_packs(problem, base, instruction))
        if any(
            base.packs(role) and problem.operand_named(role).within is not None for role in FACTORS
        ):
            continue  # packing takes elements, not groups
        room = OUTER_CACHE_SHARE * target.caches[1].size / (problem.size * depth)
        outer = OUTER_CACHE_SHARE * target.caches[-1].size / (2 * problem.size * depth)
        rows = even(problem.extent(sides.across), max(height, int(room / 2)), height)
        columns = even(problem.extent(sides.along), max(width, int(outer)), width)
        near = even(problem.extent(sides.along), max(width, int(room / 2)), width)
        fixed = bool(problem.dynamic) or accumulates_apart(problem, base)
        choices = [(rows, columns), (rows, near)] if fixed else [(0, 0), (rows, columns)]
        for across, along in dict.fromkeys(choices):
            entries = {f"{sides.across}_block": across, f"{sides.along}_block": along}
            for resident in FACTORS:
                # A panel that is filled again and again is used up before the next one.
                if across or resident == sides.vector:
                    plan = base.with_entries(resident=resident, **entries)
                    yield plan
            if _can_pack_ahead(problem, instruction, plan):
                yield plan.with_entries(ahead=sides.vector)


def _can_pack_ahead(problem: Problem, instruction: TileInstruction, plan: PlanAttr) -> bool:
    """Whether a panel of the column factor can be packed while the one before is in use.

    One that lies in rows, whose reduction ends with whole tiles, and which is packed a panel at a
    time: the row factor's dimension isn't cut.
    """
    sides = sides_of(plan.lanes.data)
    cut = (plan.m_block if sides.across == "m" else plan.n_block).data
    if cut or problem.dynamic or not plan.packs(sides.vector):
        return False
    whole = problem.whole_groups and problem.extent("k") % instruction.depth == 0
    return whole and _lies_in_rows(problem, sides)


def _lies_in_rows(problem: Problem, sides: Sides) -> bool:
    """Whether the column factor has the dimensions of panels: k, then the contiguous one."""
    k, along = problem.position("k"), problem.position(sides.along)
    if k is None or along is None or problem.stride(sides.vector, sides.along) != 1:
        return False
    before, after = (problem.operand_named(sides.vector).dims[i] for i in (k, along))
    return before is not None and after is not None and before < after


def _depths(problem: Problem, instruction: TileInstruction) -> list[int]:
    """Parts of the reduction that are tried: whole tiles."""
    extent, unit = problem.extent("k"), instruction.depth
    every = -(-extent // unit) * unit
    open_ = problem.position("k") in problem.dynamic
    if problem.outer("k"):
        return [] if open_ else [every]  # what is packed has no size
    if open_:
        return [-(-depth // unit) * unit for depth in DEPTHS]
    return sorted({every, *(even(extent, max(unit, depth), unit) for depth in DEPTHS)})


# -------------------------------------------------------------------------------- prediction


def predict_tiles(problem: Problem, target: Target, plan: PlanAttr) -> Cost:
    """The cost of a product under a plan that multiplies tiles."""
    instruction, unit = tile_instruction(target, plan), target.tiles
    assert unit is not None
    if instruction.scalable:
        return predict_outer(problem, target, instruction, plan)
    sides = sides_of(plan.lanes.data)
    grid = grid_of(plan.block, plan.lanes.data, instruction)
    extents = {kind: problem.extent(kind) for kind in "mnk"}
    parts, used = parts_of(problem, plan, instruction)
    steps = -(-used["k"] // instruction.depth)
    levels = {role: _level(problem, target, plan, used, role) for role in FACTORS}
    rate = bytes_per_cycle(target, _result_level(problem, target, sides, used))
    calls: list[Call] = []
    for across in split_evenly(extents[sides.across], grid.across * grid.height, grid.height):
        for along in split_evenly(extents[sides.along], grid.along * grid.width, grid.width):
            call = Grid(-(-across.size // grid.height), -(-along.size // grid.width), *_shape(grid))
            step = _step(target, unit, instruction, call, sides, levels)
            lost = STREAM_FRICTION * step.stream + TILE_LOAD_FRICTION * step.loads
            cycles = steps * (step.cycles + lost) + CALL_CYCLES + instruction.latency
            cycles += _result_cycles(problem, target, unit, call, parts["k"], (across, along), rate)
            calls.append(_call(sides, across, along, call, instruction, step, cycles))
    repeats = problem.outer_trips("b", "m", "n")
    configured = unit.configure_cycles / max(1, repeats)  # once, outside of all loops
    walk = sum(call.cycles * call.count for call in calls)
    return Cost(
        calls=tuple(calls),
        repeats=repeats,
        chunks=parts["k"] * problem.outer_trips("k"),
        packing=_packing(problem, target, plan, parts, walk) + configured,
        useful=problem.flops / (instruction.flops * instruction.per_cycle),
    )


def tile_instruction(target: Target, plan: PlanAttr) -> TileInstruction:
    """The plan's instruction, which multiplies tiles."""
    instruction = target.instruction(plan.instruction.data)
    assert isinstance(instruction, TileInstruction)
    return instruction


def _shape(grid: Grid) -> tuple[int, int]:
    return grid.height, grid.width


def _call(
    sides: Sides,
    across: Run,
    along: Run,
    grid: Grid,
    instruction: TileInstruction,
    step: Step,
    cycles: float,
) -> Call:
    """The calls for one shape of block, as costs list them."""
    rows, columns = (across, along) if sides.along == "n" else (along, across)
    loads = {sides.broadcast: grid.across, sides.vector: grid.along}
    tile = Tile(sides.along, loads["lhs"], loads["rhs"], instruction.depth, masked=False)
    return Call(rows, columns, tile, step, cycles)


def parts_of(
    problem: Problem, plan: PlanAttr, instruction: TileInstruction
) -> tuple[dict[str, int], dict[str, int]]:
    """Into how many parts each dimension is cut, and the extent of one."""
    blocks = {"m": plan.m_block.data, "n": plan.n_block.data, "k": plan.k_block.data}
    extents = {kind: max(1, problem.extent(kind)) for kind in "mnk"}
    for sizes in (blocks, extents):
        sizes["k"] = -(-sizes["k"] // instruction.depth) * instruction.depth
    parts = {kind: max(1, -(-extents[kind] // (blocks[kind] or extents[kind]))) for kind in "mnk"}
    return parts, {kind: -(-extents[kind] // parts[kind]) for kind in "mnk"}


def _level(
    problem: Problem, target: Target, plan: PlanAttr, used: dict[str, int], role: Role
) -> int:
    """The cache in which a factor's panel waits between two uses."""
    block = {"m": plan.block[0], "n": plan.block[1]}
    mine, other = ("m", "n") if role == "lhs" else ("n", "m")
    if plan.resident.data == role:
        touched = block[mine] + 2 * block[other]
    else:
        touched = used[mine] + block[other]
    return cache_level(target, touched * used["k"] * problem.size)


def _step(
    target: Target,
    unit: TileUnit,
    instruction: TileInstruction,
    grid: Grid,
    sides: Sides,
    levels: dict[Role, int],
) -> Step:
    """One round of multiplications."""
    row_bytes = instruction.lanes * instruction.k * instruction.operand_type.size
    rows = {
        sides.broadcast: grid.across * grid.height,
        sides.vector: grid.along * instruction.depth,
    }
    share = grid.height / instruction.rows
    return Step(
        fma=grid.accumulators * share / instruction.per_cycle,
        latency=float(instruction.latency),
        loads=sum(rows.values()) / unit.rows_loaded_per_cycle,
        stream=sum(
            rows[role] * row_bytes / bytes_per_cycle(target, levels[role])
            for role in FACTORS
            if levels[role]
        ),
        issue=(grid.accumulators + grid.across + grid.along + 4) / target.issue_width,
        misses=0.0,
    )


def _result_level(problem: Problem, target: Target, sides: Sides, used: dict[str, int]) -> int:
    """The cache in which sums wait for the next part of the reduction: all that passes between."""
    across, along = problem.extent(sides.across), used[sides.along]
    touched = across * along * problem.accumulator.size
    return cache_level(target, touched + (across + along) * used["k"] * problem.size)


def _result_cycles(
    problem: Problem,
    target: Target,
    unit: TileUnit,
    grid: Grid,
    chunks: int,
    sizes: tuple[Run, Run],
    rate: float,
) -> float:
    """Cycles for the way in and out of a block's sums, in one part of the reduction.

    `sizes`: the block's, across and along the lanes; `rate`: bytes a cycle of where results lie.
    """
    rows, (across, along) = grid.accumulators * grid.height, sizes
    elements = across.size * along.size
    loaded = chunks > 1 or not problem.from_zero
    ports = rows / unit.rows_stored_per_cycle
    ports += rows / unit.rows_loaded_per_cycle if loaded else 0.0
    moved = elements * problem.result.size * (2 if loaded else 1)
    cycles = max(ports, moved / rate) * RESULT_SHARE
    if problem.finishes or across.size % grid.height or along.size % grid.width:
        copied = elements * problem.accumulator.size / bytes_per_cycle(target, 1)
        cycles += copied + across.size * grid.along / target.stores_per_cycle
    return cycles


def _packing(
    problem: Problem, target: Target, plan: PlanAttr, parts: dict[str, int], walk: float
) -> float:
    """Cycles to pack what is packed, each part as often as it is.

    `walk`: cycles of the multiplications in one part of the reduction. They hide packing ahead as
    far as they take as long.
    """
    sides, total = sides_of(plan.lanes.data), 0.0
    kinds: tuple[tuple[Role, str], ...] = (("lhs", "m"), ("rhs", "n"))
    for role, kind in kinds:
        if not plan.packs(role):
            continue
        times = 1 if role == sides.vector else parts[sides.along]
        cycles = packing_of(problem, target, role, kind, kind if role == sides.vector else "k")
        if plan.packs_ahead(role):
            hidden = HIDING_SHARE * walk * parts["k"]
            cycles = max(MEANWHILE_SHARE * cycles, cycles - hidden)
        total += times * cycles
    return total * problem.outer_trips("k")


# ------------------------------------------------------------------------------------ checks


def check_tiles(problem: Problem, target: Target, plan: PlanAttr) -> None:
    """Hold a written plan against the bounds of a target's tiles.

    Raises:
        Unsupported: naming the bound that the plan breaks.
    """
    instruction, unit = tile_instruction(target, plan), target.tiles
    assert unit is not None
    if instruction.scalable:
        check_outer(problem, instruction, plan)
        return
    lanes = plan.lanes.data
    grid = grid_of(plan.block, lanes, instruction)
    if grid.registers > unit.registers:
        raise Unsupported(
            f"block {plan.block[0]}x{plan.block[1]} needs {grid.registers} tiles, "
            f"mr·nr + min(mr, nr) + 1, but {target.name} has {unit.registers}"
        )
    if problem.stride("out", lanes) != 1:
        other = "m" if lanes == "n" else "n"
        raise Unsupported(
            f"lanes = {lanes} needs a result that is contiguous along {lanes}; "
            f"write lanes = {other}, or copy the result from a contiguous array"
        )
    if problem.outer("k") and plan.k_block.data:
        raise Unsupported("of several reductions none is cut for tiles: leave out k_block")
    if plan.k_block.data % instruction.depth and plan.k_block.data < problem.extent("k"):
        raise Unsupported(
            f"k_block is no multiple of the {instruction.steps} steps of {instruction.name}"
        )
    if accumulates_apart(problem, plan) and not (plan.m_block.data and plan.n_block.data):
        raise Unsupported(
            "sums that an epilogue or a conversion finishes are kept in the workspace while the "
            "reduction is cut: write m_block and n_block, or leave out k_block"
        )
    if plan.ahead.data not in ("none", sides_of(lanes).vector) or (
        plan.ahead.data != "none" and not _can_pack_ahead(problem, instruction, plan)
    ):
        raise Unsupported(
            "only a factor that lies in rows along the lanes, whose reduction ends with whole "
            "tiles, is packed ahead, a panel at a time: leave out ahead, or write no block across "
            "the lanes"
        )
    _check_cache_blocks(plan, grid)
    _check_packing(problem, plan, instruction)


def _check_cache_blocks(plan: PlanAttr, grid: Grid) -> None:
    """Refuse cache blocks that are no whole number of tiles."""
    sides = sides_of(plan.lanes.data)
    for kind, unit in ((sides.across, grid.height), (sides.along, grid.width)):
        size = (plan.m_block if kind == "m" else plan.n_block).data
        if size % unit:
            raise Unsupported(f"{kind}_block = {size} is no multiple of tiles of {unit}")


def _check_packing(problem: Problem, plan: PlanAttr, instruction: TileInstruction) -> None:
    """Refuse a factor that is packed although it lies in groups, or isn't although it must be."""
    for role in FACTORS:
        grouped = problem.operand_named(role).within is not None
        fits = in_place(problem, plan, instruction, role)
        if not fits and grouped:
            raise Unsupported(
                f"{role} lies in groups, which end within a tile: give it as it is, not in groups, "
                "or fill it up to whole tiles"
            )
        if plan.packs(role) and grouped:
            raise Unsupported(
                f"{role} lies in groups already, and is read where it is: don't pack it"
            )
        if not fits and not plan.packs(role):
            raise Unsupported(
                f"{role} does not lie as tiles do, or ends within one: write pack = {role}, or "
                "pack = both"
            )


FRUGAL = 0.9
"""What of the most multiplications a load a grid must have for its width to be tried."""


def tile_widths(
    problem: Problem, target: Target, instruction: TileInstruction, kind: str
) -> list[int]:
    """The widths of panels worth packing a factor ahead for, whose own dimension is m or n.

    Lanes lie along a dimension in which the result is contiguous. A row factor lies in rows, and in
    no panels.
    """
    assert target.tiles is not None
    extent = problem.extent(kind)
    if instruction.scalable:
        return [size for size in BLOCKS if size == BLOCKS[0] or size < 2 * extent]
    if problem.stride("out", kind) != 1:
        return []
    most = -(-extent // instruction.lanes)
    others = -(-problem.extent("m" if kind == "n" else "n") // instruction.rows)
    worth = {
        (across, along): across * along / (across + along)
        for across, along in grids(target.tiles.registers)
        if across <= max(1, others) and along <= max(1, most)
    }
    best = max(worth.values())
    counts = {along for (_, along), each in worth.items() if each >= FRUGAL * best}
    return [count * instruction.lanes for count in sorted(counts)]


# ------------------------------------------------------------------------------------- counts


@dataclass(frozen=True)
class TileCounts:
    """What a product executes on tiles, all of it."""

    multiplications: int
    row_loads: int
    """Loads of tiles of the row factor."""
    column_loads: int
    """Loads of tiles of the column factor."""
    result_loads: int
    """Loads of sums, from the result or from the workspace."""
    stores: int
    """Stores of sums, likewise."""

    @property
    def loads_a_multiplication(self) -> float:
        """Loads of factors for each multiplication."""
        return (self.row_loads + self.column_loads) / max(1, self.multiplications)


def tile_counts(problem: Problem, target: Target, plan: PlanAttr) -> TileCounts:
    """What one thread executes under a plan, whose sizes and those of the product are known.

    Problem and plan are those of elements, not of groups.
    """
    instruction = tile_instruction(target, plan)
    sides, grid = sides_of(plan.lanes.data), grid_of(plan.block, plan.lanes.data, instruction)
    blocks = {"m": plan.m_block.data, "n": plan.n_block.data, "k": plan.k_block.data}
    steps, parts = 0, 0
    for run in split_parts(problem.extent("k"), blocks["k"], instruction.steps):
        steps += run.count * -(-run.size // instruction.steps)
        parts += run.count
    across, along = (
        _tiles_of(problem.extent(kind), blocks[kind], count * unit, unit)
        for kind, count, unit in (
            (sides.across, grid.across, grid.height),
            (sides.along, grid.along, grid.width),
        )
    )
    repeats, outer = problem.outer_trips("b", "m", "n"), problem.outer_trips("k")
    tiles = sum(across) * sum(along)
    resting = problem.finishes and not accumulates_apart(problem, plan)
    starts = 1 if problem.from_zero or problem.finishes else 0
    return TileCounts(
        multiplications=repeats * outer * tiles * steps,
        row_loads=repeats * outer * steps * sum(across) * len(along),
        column_loads=repeats * outer * steps * sum(along) * len(across),
        result_loads=0 if resting else repeats * tiles * (parts * outer - starts),
        stores=repeats * tiles * parts * outer,
    )


def split_parts(extent: int, block: int, unit: int) -> tuple[Run, ...]:
    """How a dimension of known size is cut into cache blocks; 0: not at all.

    All are alike but the last one, which may be shorter.
    """
    units = -(-extent // unit)
    count = -(-units // -(-block // unit)) if block else 1
    if count <= 1:
        return (Run(0, extent, 1),)
    size = -(-units // count) * unit
    end = (count - 1) * size
    return Run(0, size, count - 1), Run(end, extent - end, 1)


def _tiles_of(extent: int, cache_block: int, block: int, unit: int) -> list[int]:
    """For each register block along a dimension, how many tiles cover it."""
    return [
        -(-run.size // unit)
        for part in split_parts(extent, cache_block, unit)
        for _ in range(part.count)
        for run in split_evenly(part.size, block, unit)
        for _ in range(run.count)
    ]
