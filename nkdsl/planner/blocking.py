"""Cache blocks: how large, what is packed, and what that is predicted to cost.

Goto's loops cut a product three times: `k_block` steps of the reduction at a time, and of the
result `m_block` rows and `n_block` columns (Goto and van de Geijn, "Anatomy of High-Performance
Matrix Multiplication"). One factor, the vector factor, is loaded as registers, the other one is
broadcast; a *micro-panel* is what a microkernel reads of a factor. As Low et al. do ("Analytical
Modeling Is Enough for High-Performance BLIS"), each kind of plan gives every cache a task, and
the largest blocks follow that leave it the room:

- *panel*: a micro-panel of the vector factor is packed right before its use and stays in L1 or L2,
  while all of the broadcast factor passes by;
- *block*: a block of the broadcast factor is packed and stays in L2, while micro-panels of the
  vector factor, packed before, pass by;
- *rows*: a block of the vector factor is packed and stays in L2, while the broadcast factor passes
  by, a micro-panel of it in L1 at a time.

How deep the parts of the reduction are is a compromise: each updates the whole result. The
candidates are compared by `predict_blocked`; what a microkernel's step costs is what it costs
anywhere (`planner.cost`).

In: a `Problem`, a `Target`. Out: plans and their `Cost`. No IR is built or read.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from nkdsl.dialects.nanokernel import PlanAttr
from nkdsl.planner.cost import (
    FACTORS,
    FAR_MISS_CYCLES,
    FAR_STEP,
    OUTER_CACHE_SHARE,
    PAGE,
    Call,
    Cost,
    Source,
    block_runs,
    bytes_per_cycle,
    cache_level,
    conflicts,
    cycles_a_miss,
    first_touch_cycles,
    friction,
    grouping_cycles,
    grouping_in_place,
    lines_a_load,
    moved_in_a_step,
    source_level,
    step_of,
    sums_cycles,
)
from nkdsl.planner.problem import Problem, Role
from nkdsl.planner.registers import block_tile
from nkdsl.targets.model import Instruction, Target

DEPTHS = (96, 128, 192, 256, 384, 512, 768, 1024)
"""Steps of the reduction in one part that are tried, then evened out."""

CALL_CYCLES = 30.0
"""Lost on a call of a microkernel: its arguments, the way in and out, the first loads."""

MEMORY_LATENCY = 384.0
"""Cycles until memory has answered."""

SCRATCH_ROWS = (96, 192, 384)
"""Rows of sums kept apart, until their reduction is over, that are tried."""

PANEL_SHARE = 0.25
"""What of L2 a micro-panel of the vector factor may take: a block of the other one is there too."""

SHARED_STEPS = 1 << 18
"""Multiplications from which on threads share a product: with fewer, starting them takes longer."""

PASSING_SHARE = 0.5
"""What storing a panel costs of its time where a microkernel computes meanwhile."""

PAGE_CYCLES = 8.0
"""Lost on a page that the first-level TLB has forgotten."""


@dataclass(frozen=True)
class Sides:
    """The two dimensions of the result, and the factors, by the part they play."""

    along: str
    """The dimension along the lanes, m or n."""
    across: str
    vector: Role
    """The factor that is loaded as registers."""
    broadcast: Role


@cache
def sides_of(lanes: str) -> Sides:
    """The parts with some dimension along the lanes."""
    if lanes == "n":
        return Sides("n", "m", "rhs", "lhs")
    return Sides("m", "n", "lhs", "rhs")


def blocked_plans(
    problem: Problem,
    target: Target,
    instruction: Instruction,
    lanes: str,
    blocks: Sequence[tuple[int, int]],
) -> Iterator[PlanAttr]:
    """The plans with cache blocks that are worth comparing, for some register blocks."""
    sides = sides_of(lanes)
    position = problem.position("k")
    fixed = position in problem.dynamic
    depths = sorted({d if fixed else even(problem.extent("k"), d, 1) for d in DEPTHS})
    if problem.finishes and not fixed:
        depths = sorted({*depths, problem.extent("k")})
    for block in blocks:
        for depth in depths:
            yield from _plans(problem, target, instruction, sides, block, depth)


def _plans(
    problem: Problem,
    target: Target,
    instruction: Instruction,
    sides: Sides,
    block: tuple[int, int],
    depth: int,
) -> Iterator[PlanAttr]:
    """The plans for one register block and one depth."""
    room = OUTER_CACHE_SHARE * target.caches[1].size / (problem.size * depth)
    sizes = {"m": block[0], "n": block[1]}
    width, height = sizes[sides.along], sizes[sides.across]
    whole = even(problem.extent(sides.along), 1 << 30, instruction.lanes)
    if width * depth * problem.size > PANEL_SHARE * target.caches[1].size:
        return
    base = PlanAttr.of(
        target=target.name,
        instruction=instruction.name,
        block=block,
        lanes=sides.along,
        k_block=depth,
        k_unroll=_unroll(target, instruction, block, sides, depth),
        prefetch=0,
    )
    if accumulates_apart(problem, base):
        yield from _plans_apart(problem, target, instruction, sides, base)
        return
    in_place = problem.stride(sides.vector, sides.along) == 1
    scattered = problem.is_scattered(sides.broadcast)
    grouped = problem.group > 1 and problem.operand_named(sides.vector).group == problem.group
    along, across = f"{sides.along}_block", f"{sides.across}_block"
    every = even(problem.extent(sides.across), 1 << 30, 1)

    # A panel at a time, or nothing packed at all.
    panel = base.with_entries(
        pack=sides.vector, resident=sides.vector, ahead=sides.broadcast, **{along: whole}
    )
    if scattered:
        # Groups of the broadcast factor lie side by side only where it is packed.
        pack = sides.broadcast if grouped else "both"
        panel = panel.with_entries(pack=pack, ahead="none", **{across: every})
    elif in_place:
        panel = panel.with_entries(prefetch=_rows_ahead(target, instruction, block, sides))
        alone = panel.with_entries(pack="none")
        if not problem.dynamic and not problem.is_scattered(sides.vector):
            yield panel.with_entries(ahead="both")
        if not instruction.flips or problem.added_up is not None:
            yield alone  # else the factor has come by then: it was added up
        yield alone.with_entries(ahead="both", prefetch=0)
    yield panel

    # Blocks of both factors.
    rows = even(problem.extent(sides.across), max(height, int(room) - width), height)
    largest = OUTER_CACHE_SHARE * target.caches[-1].size / 2
    columns = int(largest / (problem.size * depth))
    columns = even(problem.extent(sides.along), columns, width)
    yield base.with_entries(pack="both", resident=sides.vector, **{along: columns, across: rows})

    # A block of the vector factor, all of the other one in place.
    if scattered:
        return
    columns = even(problem.extent(sides.along), max(width, int(room) - height), width)
    yield base.with_entries(
        pack=sides.vector,
        resident=sides.broadcast,
        ahead=sides.broadcast,
        **{along: columns, across: every},
    )


def accumulates_apart(problem: Problem, plan: PlanAttr) -> bool:
    """Whether parts of the sums, which are no results yet, are kept in the workspace meanwhile."""
    if not problem.finishes:
        return False
    position = problem.position("k")
    cut = plan.k_block.data and plan.k_block.data < problem.extent("k")
    return bool(cut) or position in problem.dynamic or bool(problem.outer("k"))


def _plans_apart(
    problem: Problem, target: Target, instruction: Instruction, sides: Sides, base: PlanAttr
) -> Iterator[PlanAttr]:
    """The plans that keep a block of sums in the workspace, until its reduction is over.

    The block and the panels that it is computed from share L2.
    """
    sizes = {"m": base.block[0], "n": base.block[1]}
    width, height = sizes[sides.along], sizes[sides.across]
    depth = base.k_block.data or problem.extent("k")
    room = OUTER_CACHE_SHARE * target.caches[1].size
    packed = [role for role in FACTORS if problem.is_scattered(role) or role == sides.vector]
    if problem.operand_named(sides.vector).within is not None:
        packed.remove(sides.vector)  # in groups already
    pack = "both" if len(packed) == 2 else "".join(packed) or "none"
    for rows in SCRATCH_ROWS:
        across = even(problem.extent(sides.across), max(rows, height), height)
        column = depth * problem.size + across * problem.accumulator.size
        along = even(problem.extent(sides.along), max(width, int(room / column)), width)
        entries = {f"{sides.along}_block": along, f"{sides.across}_block": across}
        yield base.with_entries(pack=pack, resident=sides.vector, **entries)


def _finishing(problem: Problem, target: Target) -> float:
    """Cycles to make results of sums that were kept apart."""
    elements = problem.extent("m") * problem.extent("n")
    moved = elements * (2 * problem.accumulator.size + problem.result.size)
    return moved / bytes_per_cycle(target, 1)


@cache
def thread_grid(threads: int, extents: tuple[int, int], blocks: tuple[int, int]) -> tuple[int, int]:
    """How many threads share the dimensions along and across the lanes.

    Args:
        threads: threads in all.
        extents: elements along and across.
        blocks: a register block, along and across.

    Returns:
        The grid whose largest part has the fewest register blocks; of several, the one that cuts
        the dimension along the lanes most, so that the fewest threads pack the same panels.
    """

    def largest(grid: tuple[int, int]) -> int:
        parts = (-(-e // n) for e, n in zip(extents, grid, strict=True))
        return math.prod(-(-part // block) for part, block in zip(parts, blocks, strict=True))

    grids = [(n, threads // n) for n in range(threads, 0, -1) if threads % n == 0]
    return min(grids, key=largest)


def even(extent: int, block: int, unit: int) -> int:
    """The smallest multiple of `unit` that cuts an extent into as few parts as `block` allows."""
    parts = max(1, -(-extent // max(block // unit * unit, unit)))
    return max(unit, -(-extent // (parts * unit)) * unit)


def _rows_ahead(
    target: Target, instruction: Instruction, block: tuple[int, int], sides: Sides
) -> int:
    """How many steps ahead a factor that is read in place is asked for: as long as memory takes."""
    tile = block_tile(*block, sides.along, instruction, target)
    cycles = max(tile.instructions / instruction.per_cycle, float(instruction.latency))
    return math.ceil(MEMORY_LATENCY / cycles)


def _unroll(
    target: Target, instruction: Instruction, block: tuple[int, int], sides: Sides, depth: int
) -> int:
    """Steps a turn of a microkernel's loop: enough to make its control cheap."""
    tile = block_tile(*block, sides.along, instruction, target)
    cycles = max(tile.instructions / instruction.per_cycle, float(instruction.latency))
    return max(1, min(depth, math.ceil(0.5 / (0.0075 * cycles))))


@dataclass(frozen=True)
class Resident:
    """What one cache is counted on to hold."""

    what: str
    """The part of a factor, in words."""
    role: Role
    shape: tuple[int, int]
    """(M or N, K) of it."""
    size: int
    """Bytes of it."""
    level: int
    """The cache, 0 for L1."""


def residents(problem: Problem, target: Target, plan: PlanAttr) -> tuple[Resident, ...]:
    """What each factor's part is that is used again, and the cache in which it waits."""
    used, size = _used(problem, plan)[1], problem.size
    block = {"m": plan.block[0], "n": plan.block[1]}
    found: list[Resident] = []
    sides: tuple[tuple[Role, str], ...] = (("lhs", "m"), ("rhs", "n"))
    for role, mine in sides:
        resident = plan.resident.data == role
        extent = block[mine] if resident else used[mine]
        level = cache_level(target, _between(problem, plan, used, role))
        what = "a micro-panel" if resident else "a block"
        shape = extent, used["k"]
        found.append(Resident(what, role, shape, extent * used["k"] * size, level))
    return tuple(found)


def _used(problem: Problem, plan: PlanAttr) -> tuple[dict[str, int], dict[str, int]]:
    """Into how many parts each dimension is cut, and the extent of one."""
    blocks = {"m": plan.m_block.data, "n": plan.n_block.data, "k": plan.k_block.data}
    extents = {kind: problem.extent(kind) for kind in "mnk"}
    parts = {
        kind: max(1, -(-extents[kind] // (blocks[kind] or extents[kind] or 1))) for kind in "mnk"
    }
    return parts, {kind: -(-extents[kind] // parts[kind]) for kind in "mnk"}


def _between(problem: Problem, plan: PlanAttr, used: dict[str, int], role: Role) -> int:
    """Bytes touched between two uses of an element of a factor."""
    block = {"m": plan.block[0], "n": plan.block[1]}
    mine, other = ("m", "n") if role == "lhs" else ("n", "m")
    if plan.resident.data == role:
        touched = block[mine] + 2 * block[other]
    else:
        touched = used[mine] + block[other]
    return touched * used["k"] * problem.size


# ------------------------------------------------------------------------------- prediction


def predict_blocked(problem: Problem, target: Target, plan: PlanAttr) -> Cost:
    """The cost of a product under a plan with cache blocks."""
    instruction, sides = target.instruction(plan.instruction.data), sides_of(plan.lanes.data)
    size = problem.size
    extents = {kind: problem.extent(kind) for kind in "mnk"}
    parts, used = _used(problem, plan)
    depth = used["k"]
    sources = {role: _source(problem, target, plan, instruction, role, used) for role in FACTORS}
    held = problem.result.size
    everything = size * (extents["m"] + extents["n"]) * extents["k"]
    everything += held * extents["m"] * extents["n"]
    apart = accumulates_apart(problem, plan)
    # What is kept apart takes all of the reduction for one block, then for the next.
    added_up = parts[sides.across] if apart else 1
    result_rate = bytes_per_cycle(target, 1 if apart else cache_level(target, everything))
    loads_result = parts["k"] > 1 or not problem.from_zero
    in_place_far = not plan.packs(sides.vector) and sources[sides.vector].level > 1
    rows, columns = block_runs(problem, plan, instruction.lanes)
    calls: list[Call] = []
    for row_run in rows:
        for column_run in columns:
            tile = block_tile(row_run.size, column_run.size, plan.lanes.data, instruction, target)
            panels = (
                (
                    sources["lhs"],
                    moved_in_a_step(problem, target, plan, "lhs", row_run.size * size),
                ),
                (
                    sources["rhs"],
                    moved_in_a_step(problem, target, plan, "rhs", column_run.size * size),
                ),
            )
            grouping = grouping_in_place(problem, target, plan, tile)
            step = step_of(target, plan, instruction, tile, panels, grouping)
            moved = row_run.size * column_run.size * held * (2 if loads_result else 1)
            cycles = (
                depth
                * (step.cycles + friction(target, tile, step))
                * (FAR_STEP if in_place_far else 1.0)
                + CALL_CYCLES
                + tile.instructions / target.stores_per_cycle
                + moved / result_rate / 2
                + PAGE_CYCLES * _new_pages(problem, plan, sides, row_run.size, column_run.size)
            )
            calls.append(Call(row_run, column_run, tile, step, cycles))
    return Cost(
        calls=tuple(calls),
        repeats=problem.outer_trips("b", "m", "n"),
        chunks=parts["k"] * problem.outer_trips("k"),
        packing=_packing(problem, target, plan, instruction, sides, parts)
        + added_up * sums_cycles(problem, target, plan, instruction)
        + (_finishing(problem, target) if apart else 0.0)
        + first_touch_cycles(problem, target, plan),
        useful=problem.flops / (instruction.flops * instruction.per_cycle),
    )


def _source(
    problem: Problem,
    target: Target,
    plan: PlanAttr,
    instruction: Instruction,
    role: Role,
    used: dict[str, int],
) -> Source:
    """Where a factor's elements come from in the steps."""
    level = cache_level(target, _between(problem, plan, used, role))
    packed = plan.packs(role)
    if not packed:
        level = max(level, source_level(problem, target, plan, role))
    rate = bytes_per_cycle(target, level)
    lost = 0.0 if packed or not level else cycles_a_miss(problem, target, plan, role, level)
    lines = lines_a_load(problem, instruction, plan, role, target.caches[0].line)
    streamed = sides_of(plan.lanes.data).vector == role
    if plan.asks_ahead(role) and not (streamed and conflicts(problem, target, 1, plan, role)):
        lost = 0.0 if streamed or not level else target.miss_cycles  # it waits in L2
        if streamed:
            level, rate = min(level, 1), bytes_per_cycle(target, min(level, 1))
            lines += 1.0  # what asks for a line takes a load's place
    return Source(level, rate, lines, lost)


def _new_pages(problem: Problem, plan: PlanAttr, sides: Sides, rows: int, columns: int) -> float:
    """Pages that a call touches and the one before it did not."""
    across = rows if sides.across == "m" else columns
    pages = 0.0
    if plan.resident.data == sides.vector:
        pages += across * min(1.0, problem.stride("out", sides.across) * problem.result.size / PAGE)
        if not plan.packs(sides.broadcast):
            stride = problem.stride(sides.broadcast, sides.across)
            pages += across * min(1.0, stride * problem.size / PAGE)
    return pages


def packs_in_passing(problem: Problem, plan: PlanAttr) -> bool:
    """Whether the first microkernels pack the panels that they read."""
    sides = sides_of(plan.lanes.data)
    cut = (plan.m_block if sides.across == "m" else plan.n_block).data
    return plan.packs(sides.vector) and not cut and not problem.dynamic


def _arriving_meanwhile(
    problem: Problem, target: Target, plan: PlanAttr, sides: Sides, level: int
) -> float:
    """Cycles by which packing in passing is slower because the factor comes from beyond L2.

    A microkernel takes twice the time then; with panels packed ahead the first one's does.
    """
    if level < 2:
        return 0.0
    elements = problem.extent(sides.along) * problem.extent("k")
    lines = elements * problem.size / target.caches[0].line
    if plan.packs_ahead(sides.vector):
        lines *= min(1.0, plan.block[sides.along == "n"] / max(1, problem.extent(sides.along)))
    return lines * FAR_MISS_CYCLES[min(level, 3) - 2] / 2


def _packing(
    problem: Problem,
    target: Target,
    plan: PlanAttr,
    instruction: Instruction,
    sides: Sides,
    parts: dict[str, int],
) -> float:
    """Cycles to pack what is packed, each part as often as it is."""
    total = 0.0
    kinds: tuple[tuple[Role, str], ...] = (("lhs", "m"), ("rhs", "n"))
    for role, kind in kinds:
        if not plan.packs(role):
            continue
        elements = problem.extent(kind) * problem.extent("k")
        times = 1 if role == sides.vector else parts[sides.along]
        if role == sides.vector and accumulates_apart(problem, plan):
            times = parts[sides.across]  # all of the reduction for one block, then for the next
        vectors = elements / instruction.lanes
        moved = elements * problem.size
        level = cache_level(target, moved)
        cost = vectors * (1 / target.loads_per_cycle + 1 / target.stores_per_cycle)
        contiguous = problem.stride(role, sides.along if role == sides.vector else kind) == 1
        if role == sides.vector and contiguous and packs_in_passing(problem, plan):
            passing = max(1 / target.stores_per_cycle, grouping_cycles(problem, target, role))
            total += vectors * passing * PASSING_SHARE
            total += _arriving_meanwhile(problem, target, plan, sides, level)
            continue
        if contiguous or role != sides.vector:
            cost = max(cost, vectors * grouping_cycles(problem, target, role))
        if role == sides.vector and not contiguous:
            cost += vectors * (instruction.lanes.bit_length() - 1) / target.shuffles_per_cycle
        # A line is read, and one of the panel fetched and later written back.
        rate = bytes_per_cycle(target, 1)
        arriving = moved / bytes_per_cycle(target, max(1, level)) + 2 * moved / rate
        if role == sides.broadcast and level >= 2:
            # Copying a part of each row, one row after the other, leaves no time to foresee it.
            arriving += moved / target.caches[0].line * FAR_MISS_CYCLES[min(level, 3) - 2]
        total += times * max(cost, arriving)
    return total + _returning(problem, target, plan, sides, parts)


def _returning(
    problem: Problem, target: Target, plan: PlanAttr, sides: Sides, parts: dict[str, int]
) -> float:
    """Cycles lost on packed panels that come back from beyond L2 for each block of the other one.

    A microkernel that reads one first takes twice the time, as in `_arriving_meanwhile`.
    """
    if plan.pack.data != "both":
        return 0.0
    size = problem.extent(sides.along) * problem.extent("k") * problem.size
    level = cache_level(target, size // (parts[sides.along] * parts["k"]))
    if level < 2:
        return 0.0
    lines = parts[sides.across] * size / target.caches[0].line
    return lines * FAR_MISS_CYCLES[min(level, 3) - 2] / 2
