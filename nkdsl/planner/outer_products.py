"""Plans for outer products of vectors of any length: blocks that hold for all of them.

How many tiles cover a block is known only where the code runs, since tiles are as large as vectors
are long. So a plan's block is the part of the result that one microkernel computes, in elements;
in it, the microkernel walks over grids of tiles, two by two, whose loads and stores end where the
block does. Both factors lie in panels a block wide, along k, in groups where the instruction takes
some; a factor that lies so already is read in place.

A microkernel enters and leaves the mode in which there are tiles, so that a block should be large;
but its panels, of all the reduction that is summed up at once, should stay in L1 and L2.

For an instruction that takes k in groups, problem and plan are those of groups. In: a `Problem`, a
`Target`. Out: plans and their `Cost`. No IR is built or read.
"""

from collections.abc import Iterator

from nkdsl.dialects.nanokernel import PlanAttr
from nkdsl.errors import Unsupported
from nkdsl.planner.blocking import DEPTHS, Sides, accumulates_apart, even, sides_of
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
from nkdsl.planner.packing import packing_of
from nkdsl.planner.problem import Problem, Role
from nkdsl.planner.registers import Tile
from nkdsl.planner.split import split_evenly
from nkdsl.targets.model import Target, TileInstruction, TileUnit

BLOCKS = (32, 64, 128)
"""Rows and columns of a block that are tried: tiles of vectors of 128, 256 and 512 bits fill them
by two and two."""


def tile_grid(unit: TileUnit) -> tuple[int, int]:
    """The (across, along) of tiles that need the fewest loads for an outer product."""
    sizes = range(1, unit.registers + 1)
    fitting = ((a, b) for a in sizes for b in sizes if a * b <= unit.registers)
    return min(fitting, key=lambda grid: (sum(grid) / (grid[0] * grid[1]), abs(grid[0] - grid[1])))


def in_place(problem: Problem, role: Role) -> bool:
    """Whether vectors can be loaded from a factor where it lies: along its own dimension."""
    operand = problem.operand_named(role)
    if problem.group > 1 and operand.within is None:
        return False
    return problem.stride(role, "m" if role == "lhs" else "n") == 1


def outer_plans(
    problem: Problem, target: Target, instruction: TileInstruction
) -> Iterator[PlanAttr]:
    """The plans worth comparing for an instruction that is an outer product."""
    grouped = [r for r in FACTORS if problem.operand_named(r).within is not None]
    if any(not in_place(problem, role) for role in grouped):
        return  # packing takes elements, not groups
    packed = [role for role in FACTORS if not in_place(problem, role)]
    pack = "both" if len(packed) == 2 else "".join(packed) or "none"
    for lanes in ("n", "m"):
        if problem.stride("out", lanes) != 1:
            continue
        sides = sides_of(lanes)
        for depth in _depths(problem, pack):
            for height in _sizes(problem, sides.across):
                for width in _sizes(problem, sides.along):
                    sizes = {sides.across: height, sides.along: width}
                    base = PlanAttr.of(
                        target=target.name,
                        instruction=instruction.name,
                        block=(sizes["m"], sizes["n"]),
                        lanes=lanes,
                        pack=pack,
                        k_block=0 if problem.outer("k") else depth,
                    )
                    yield from _plans(problem, target, sides, base, depth)


def _sizes(problem: Problem, kind: str) -> tuple[int, ...]:
    """The sizes of blocks that are tried along a dimension: none twice as large as it is."""
    if problem.position(kind) in problem.dynamic:
        return BLOCKS[1:2]
    extent = problem.extent(kind)
    return tuple(size for size in BLOCKS if size == BLOCKS[0] or size < 2 * extent)


def _depths(problem: Problem, pack: str) -> list[int]:
    """Parts of the reduction that are tried."""
    extent = max(1, problem.extent("k"))
    open_ = problem.position("k") in problem.dynamic
    if problem.outer("k"):
        return [] if open_ and pack != "none" else [extent]  # what is packed has no size
    if open_:
        return list(DEPTHS)
    return sorted({extent, *(even(extent, depth, 1) for depth in DEPTHS)})


def _plans(
    problem: Problem, target: Target, sides: Sides, base: PlanAttr, depth: int
) -> Iterator[PlanAttr]:
    """The plans for one block: whether a part of each factor is packed at a time, or all of it."""
    sizes = {"m": base.block[0], "n": base.block[1]}
    width, height = sizes[sides.along], sizes[sides.across]
    room = OUTER_CACHE_SHARE * target.caches[1].size / (2 * problem.size * depth)
    outer = OUTER_CACHE_SHARE * target.caches[-1].size / (2 * problem.size * depth)
    rows = even(problem.extent(sides.across), max(height, int(room)), height)
    columns = even(problem.extent(sides.along), max(width, int(outer)), width)
    whole = not (problem.dynamic or accumulates_apart(problem, base))
    for across, along in dict.fromkeys([*([(0, 0)] if whole else []), (rows, columns)]):
        entries = {f"{sides.across}_block": across, f"{sides.along}_block": along}
        for resident in FACTORS:
            if across or resident == sides.vector:
                yield base.with_entries(resident=resident, **entries)


def predict_outer(
    problem: Problem, target: Target, instruction: TileInstruction, plan: PlanAttr
) -> Cost:
    """The cost of a product under a plan, for vectors as long as the target's table assumes."""
    unit = target.tiles
    assert unit is not None
    sides = sides_of(plan.lanes.data)
    across_tiles, along_tiles = tile_grid(unit)
    side = instruction.lanes * unit.vscale
    sizes = {"m": plan.block[0], "n": plan.block[1]}
    depth = _depth(problem, plan)
    parts = max(1, -(-problem.extent("k") // depth))
    step = Step(
        fma=across_tiles * along_tiles / instruction.per_cycle,
        latency=float(instruction.latency),
        loads=(across_tiles + along_tiles) / target.loads_per_cycle,
        stream=_stream(problem, target, plan, depth, (across_tiles + along_tiles) * side),
        issue=(across_tiles * along_tiles + across_tiles + along_tiles + 4) / target.issue_width,
        misses=0.0,
    )
    loads_result = parts > 1 or not problem.from_zero
    calls: list[Call] = []
    for across in split_evenly(problem.extent(sides.across), sizes[sides.across], 1):
        for along in split_evenly(problem.extent(sides.along), sizes[sides.along], 1):
            grids = -(-across.size // (across_tiles * side)) * -(
                -along.size // (along_tiles * side)
            )
            result = across.size * -(-along.size // side)
            moved = result / unit.rows_stored_per_cycle
            moved += result / unit.rows_loaded_per_cycle if loads_result else 0.0
            if problem.finishes:
                moved += across.size * along.size / 4 / target.stores_per_cycle
            steps = step.cycles + STREAM_FRICTION * step.stream
            cycles = grids * (depth * steps + instruction.latency) + moved + unit.configure_cycles
            rows, columns = (across, along) if sides.along == "n" else (along, across)
            tile = Tile(sides.along, across_tiles, along_tiles, 1, masked=False)
            calls.append(Call(rows, columns, tile, step, cycles))
    flops = 2 * side * side * instruction.k
    return Cost(
        calls=tuple(calls),
        repeats=problem.outer_trips("b", "m", "n"),
        chunks=parts * problem.outer_trips("k"),
        packing=sum(
            packing_of(problem, target, role, "m" if role == "lhs" else "n")
            for role in FACTORS
            if plan.packs(role)
        ),
        useful=problem.flops / (flops * instruction.per_cycle),
    )


def _depth(problem: Problem, plan: PlanAttr) -> int:
    """Steps of the reduction that are summed up at once."""
    return plan.k_block.data or max(1, problem.extent("k"))


def _stream(problem: Problem, target: Target, plan: PlanAttr, depth: int, elements: int) -> float:
    """Cycles in which a step's vectors come from the cache where the panels wait."""
    touched = (plan.block[0] + plan.block[1]) * depth * problem.size
    level = cache_level(target, touched)
    return elements * problem.size / bytes_per_cycle(target, level) if level else 0.0


def check_outer(problem: Problem, instruction: TileInstruction, plan: PlanAttr) -> None:
    """Hold a written plan against what outer products can do.

    Raises:
        Unsupported: naming what the plan breaks.
    """
    lanes = plan.lanes.data
    if lanes not in ("m", "n") or problem.stride("out", lanes) != 1:
        raise Unsupported(
            f"lanes = {lanes} needs a result that is contiguous along {lanes}; lanes lie along m "
            "or n, or copy the result from a contiguous array"
        )
    if plan.block[lanes == "n"] % instruction.lanes:
        raise Unsupported(
            f"block {plan.block[0]}x{plan.block[1]} with lanes = {lanes} is no whole number of "
            f"vectors, the shortest of which have {instruction.lanes} lanes for {instruction.name}"
        )
    if problem.outer("k") and plan.k_block.data:
        raise Unsupported("of several reductions none is cut for tiles: leave out k_block")
    if accumulates_apart(problem, plan) and not (plan.m_block.data and plan.n_block.data):
        raise Unsupported(
            "sums that an epilogue or a conversion finishes are kept in the workspace while the "
            "reduction is cut: write m_block and n_block, or leave out k_block"
        )
    for kind, size in zip("mn", plan.block, strict=True):
        block = (plan.m_block if kind == "m" else plan.n_block).data
        if block % size:
            raise Unsupported(f"{kind}_block = {block} is no multiple of the block's {size}")
    for role in FACTORS:
        fits = in_place(problem, role)
        if problem.operand_named(role).within is not None and (plan.packs(role) or not fits):
            raise Unsupported(f"{role} lies in groups, and can only be read where it is, along k")
        if not fits and not plan.packs(role):
            raise Unsupported(f"{role} does not lie along k in groups: write pack = both")
