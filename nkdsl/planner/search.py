"""Finding a plan, and checking one that somebody wrote.

`find_plan` enumerates every block that the target's registers hold, for each dimension that may
lie along the lanes and for both loop orders, and returns the one with the smallest predicted time
(`nkdsl.planner.cost`). Nothing else decides: no shape, target or type has a rule of its own.

`check_plan` holds a written plan against the same bounds and says which one it breaks.

Several instructions may multiply the factors: each is asked for its best plan. Where one takes k in
groups, the search is one of groups of k; only plans count steps.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from operator import itemgetter

from nkdsl.dialects.nanokernel import PlanAttr
from nkdsl.errors import Unsupported
from nkdsl.planner.blocking import (
    SHARED_STEPS,
    accumulates_apart,
    blocked_plans,
    predict_blocked,
)
from nkdsl.planner.cost import (
    FACTORS,
    HARDWARE_STREAMS,
    STREAMED,
    Cost,
    chunk_count,
    chunk_depth,
    outgrows_l2,
    predict,
    split_block,
)
from nkdsl.planner.problem import SCALES, Problem, Role
from nkdsl.planner.registers import block_tile
from nkdsl.planner.tiles import check_tiles, predict_tiles, tile_plans
from nkdsl.targets.model import Instruction, Target, TileInstruction

LOOP_CYCLES = 0.5
"""Lost at the end of a turn of the inner loop: its counter and branch take FMA issue slots."""

LOOP_SHARE = 0.0075
"""The share of the inner loop that its control may cost; the unroll factor follows from it."""


STRAIGHT_LINE = 512
"""Micro-operations worth unrolling fully: beyond, the code only takes longer to compile."""


FINALISTS = 24
"""Plans for run-time sizes, the best for large ones, that are compared at all scales."""


@dataclass(frozen=True)
class Layout:
    """Which dimension lies along the lanes, and which factor must be packed for it."""

    lanes: str
    pack: str


def in_whole_registers(problem: Problem, target: Target, kind: str) -> bool:
    """Whether a factor can be loaded along m or n in registers that the target needn't take apart.

    Without mask registers that is what happens to a ragged register of small elements, step by
    step; a panel holds whole ones. Groups that lie in memory are read where they are all the same.
    """
    if problem.operand.size >= target.smallest_masked:
        return True
    role = STREAMED[kind]
    if _lies_in_groups(problem, role):
        return True
    lanes = target.vector_bytes // problem.accumulator.size
    return problem.position(kind) not in problem.dynamic and not problem.extent(kind) % lanes


def _lies_in_groups(problem: Problem, role: Role) -> bool:
    """Whether a factor lies in groups already. It is read where it is: packing takes elements."""
    return problem.operand_named(role).within is not None


def layouts(
    problem: Problem, target: Target | None = None, *, flips: bool = False
) -> tuple[Layout, ...]:
    """Every way to lay registers on the operands, of any target or of one.

    Where the instruction `flips` signs, what is loaded as registers may always be packed, and lanes
    lie along the result.

    Lanes lie along a dimension in which the result is contiguous; a factor that isn't contiguous
    there is packed, and so is one that would be taken apart. Lanes along k end in horizontal sums;
    of factors that aren't contiguous in k, the smaller one can be packed.
    """
    found: list[Layout] = []
    for kind, role in STREAMED.items():
        other: Role = "lhs" if role == "rhs" else "rhs"
        # Of a factor whose elements are broadcast the groups must lie side by side.
        if problem.stride("out", kind) != 1 or problem.is_scattered(other):
            continue
        whole = target is None or in_whole_registers(problem, target, kind)
        if problem.stride(role, kind) == 1 and whole:
            found.append(Layout(kind, "none"))
        copied = problem.stride(role, kind) != 1 or problem.is_scattered(role) or not whole
        if (copied or flips) and not _lies_in_groups(problem, role):
            found.append(Layout(kind, role))
    strided: list[Role] = [
        role for role in FACTORS if problem.stride(role, "k") != 1 or problem.is_scattered(role)
    ]
    if any(_lies_in_groups(problem, role) for role in strided):
        strided = list(FACTORS)
    result_contiguous = 1 in (problem.stride("out", "m"), problem.stride("out", "n"))
    small = "lhs" if problem.extent("m") < problem.extent("n") else "rhs"
    if result_contiguous and strided in ([], [small]) and not flips:
        found.append(Layout("k", strided[0] if strided else "none"))
    if not found and not _needs_both(problem):
        raise Unsupported(
            "the result has stride 1 along neither its rows nor its columns; "
            "write it to a contiguous array and copy that"
        )
    return tuple(found)


def _needs_both(problem: Problem) -> bool:
    """Whether some way to lay registers on the operands exists if both factors are packed."""
    return 1 in (problem.stride("out", "m"), problem.stride("out", "n"))


def grouped(problem: Problem, target: Target, plan: PlanAttr) -> tuple[Problem, PlanAttr]:
    """A problem and a plan as the cost model takes them: with steps of the plan's instruction."""
    count = target.instruction(plan.instruction.data).k
    if count == 1 or problem.group == count:
        return problem, plan
    depth = -(-plan.k_block.data // count)
    return problem.in_groups(count), plan.with_entries(k_block=depth)


def ungrouped(problem: Problem, plan: PlanAttr, count: int) -> PlanAttr:
    """A plan found for groups, in steps of the reduction."""
    if count == 1:
        return plan
    position = problem.reduction[:1]
    extent = problem.sizes[position[0]] if position else 0
    # Of several reductions around, the outermost one is cut, and counts no groups.
    scale = count if position and position[0] == problem.position("k") else 1
    depth = plan.k_block.data * scale
    return plan.with_entries(k_block=min(depth, extent) if extent else depth)


def find_plan(problem: Problem, target: Target, threads: int = 1) -> PlanAttr:
    """The plan with the smallest predicted time; raises `Unsupported` where there can be none."""
    target.instruction_for(problem.operand, problem.other)  # says what there is if there is none
    found: list[tuple[float, PlanAttr]] = []
    refused: Unsupported | None = None
    for instruction in every_instruction(problem, target):
        stated = problem.in_groups(instruction.k)
        try:
            plan = _find(stated, target, instruction, threads)
        except Unsupported as error:
            refused = refused or error
            continue
        # At all scales of run-time sizes, as far as there are some.
        cycles = math.prod(
            _predicted(scale, target, plan).cycles for scale in stated.scales or (stated,)
        )
        found.append((cycles, ungrouped(problem, plan, instruction.k)))
    if not found:
        assert refused is not None
        raise refused
    return min(found, key=itemgetter(0))[1]


def every_instruction(problem: Problem, target: Target) -> tuple[Instruction, ...]:
    """What multiplies the factors on a target: vectors, and tiles if it has some for them."""
    vectors = target.instructions_for(problem.operand, problem.other)
    tiled = target.tile_instruction_for(problem.operand, problem.other)
    return vectors if tiled is None else (*vectors, tiled)


def is_tiled(target: Target, plan: PlanAttr) -> bool:
    """Whether a plan multiplies tiles."""
    return isinstance(target.instruction(plan.instruction.data), TileInstruction)


def _predicted(problem: Problem, target: Target, plan: PlanAttr) -> Cost:
    """The predicted cost of a plan, for groups if the problem is one of groups."""
    if is_tiled(target, plan):
        return predict_tiles(problem, target, plan)
    return (predict_blocked if plan.blocked else predict)(problem, target, plan)


def _find(problem: Problem, target: Target, instruction: Instruction, threads: int) -> PlanAttr:
    """The best plan for one instruction; the problem is one of its groups."""
    if problem.dynamic:
        return _find_dynamic(problem, target, instruction).with_entries(threads=threads)
    if threads > 1 and (shared := _find_shared(problem, target, instruction, threads)) is not None:
        return shared
    return _find_alone(problem, target, instruction)


def _find_alone(problem: Problem, target: Target, instruction: Instruction) -> PlanAttr:
    """The best plan of one thread for one instruction."""
    best: tuple[float, PlanAttr] | None = None
    for plan in _candidates(problem, target, instruction):
        cycles = _predicted(problem, target, plan).cycles
        if best is None or cycles < best[0]:
            best = cycles, plan
    if best is None:
        raise Unsupported(_why_none(problem, instruction))
    return best[1]


def _why_none(problem: Problem, instruction: Instruction) -> str:
    """Why there is no plan; raises `Unsupported` itself if there is no way to lay registers out."""
    layouts(problem)
    if (reason := _why_unsuitable(problem, instruction)) is not None:
        return reason
    return (
        "no plan fits: a factor whose groups of k are scattered is packed in cache blocks, for "
        "which the product is too small; give it with k contiguous"
    )


def _find_dynamic(problem: Problem, target: Target, instruction: Instruction) -> PlanAttr:
    """The plan that is best on average, in shares of the peak, for run-time sizes of all scales."""
    every = list(_blocked_candidates(problem, target, instruction))
    # Of what lies in groups already, there may be nothing to pack.
    plans = [plan for plan in every if plan.pack.data != "none"] or every
    if not plans:
        raise Unsupported(_why_none(problem, instruction))
    plans.sort(key=lambda plan: _predicted(problem, target, plan).cycles)
    found = [_with_threshold(problem, target, plan) for plan in plans[:FINALISTS]]
    return max(found, key=lambda pair: pair[1])[0]


def _with_threshold(problem: Problem, target: Target, plan: PlanAttr) -> tuple[PlanAttr, float]:
    """A plan with the scale from which on it packs, and its mean share of the peak."""
    lanes = plan.lanes.data
    # Microkernels that make up groups themselves would be as much code again.
    in_one_place = problem.is_scattered(STREAMED[lanes]) or plan.pack.data == "none"
    in_one_place |= is_tiled(target, plan)
    if in_one_place or not in_whole_registers(problem, target, lanes):
        return plan, _mean_share(problem, target, plan)
    in_place = plan.with_entries(pack="none")
    shares = [
        (
            predict_blocked(scale, target, in_place).share_of_peak,
            predict_blocked(scale, target, plan).share_of_peak,
        )
        for scale in problem.scales
    ]
    means = []
    for first in range(len(shares) + 1):
        used = [pair[number >= first] for number, pair in enumerate(shares)]
        means.append((math.prod(used), first))
    share, first = max(means)
    threshold = SCALES[first] if first < len(shares) else 1 << 30
    return plan.with_entries(pack_from=threshold), share


def _mean_share(problem: Problem, target: Target, plan: PlanAttr) -> float:
    """The product of a plan's shares of the peak at all scales, if it packs at all of them."""
    return math.prod(_predicted(scale, target, plan).share_of_peak for scale in problem.scales)


def _find_shared(
    problem: Problem, target: Target, instruction: Instruction, threads: int
) -> PlanAttr | None:
    """The best plan that several threads can share; None for a product too small to be shared.

    It is the best one for a single thread's part of the product, among those that cut the reduction
    where the plan for one thread does: so every element's sum has one order.
    """
    if problem.flops < 2 * SHARED_STEPS:
        return None
    alone = _find_alone(problem, target, instruction)
    best: tuple[float, PlanAttr] | None = None
    for plan in _blocked_candidates(problem, target, instruction):
        if not _sums_alike(problem, instruction, alone, plan):
            continue
        cycles = _predicted(problem, target, plan).cycles
        if best is None or cycles < best[0]:
            best = cycles, plan
    return None if best is None else best[1].with_entries(threads=threads)


def _sums_alike(
    problem: Problem, instruction: Instruction, alone: PlanAttr, shared: PlanAttr
) -> bool:
    """Whether two plans add up the products of an element in one order, with the same roundings.

    With lanes along k each lane has a sum of its own.
    """
    if alone.blocked or isinstance(instruction, TileInstruction):
        return alone.k_block.data == shared.k_block.data
    if alone.lanes.data == "k":
        return False
    return chunk_count(problem, alone) == chunk_count(problem, shared) == 1


def cost_of(problem: Problem, target: Target, plan: PlanAttr) -> Cost:
    """The predicted cost of a product under a plan."""
    stated, counted = grouped(problem, target, plan)
    return _predicted(stated, target, counted)


def candidates(problem: Problem, target: Target, instruction: Instruction) -> Iterator[PlanAttr]:
    """Every plan that the planner compares for an instruction."""
    for plan in _candidates(problem.in_groups(instruction.k), target, instruction):
        yield ungrouped(problem, plan, instruction.k)


def _candidates(problem: Problem, target: Target, instruction: Instruction) -> Iterator[PlanAttr]:
    """The same, for a problem of the instruction's groups."""
    if _why_unsuitable(problem, instruction) is not None:
        return
    if isinstance(instruction, TileInstruction):
        yield from tile_plans(problem, target, instruction)
        return
    plans = _all_candidates(problem, target, instruction)
    yield from _possible(problem, target, instruction, plans)


def _possible(
    problem: Problem, target: Target, instruction: Instruction, plans: Iterable[PlanAttr]
) -> Iterator[PlanAttr]:
    """Those of some plans that the instruction and the target can do."""
    for plan in plans:
        if _why_not_flipped(problem, instruction, plan) is not None:
            continue
        if _packs_groups(problem, plan) is not None or not _is_whole(problem, target, plan):
            continue
        if not _can_group_in_place(problem, target, instruction, plan):
            continue
        if instruction.adds_apart:
            # LLVM adds up the products of neighbouring steps first, and spills sums meanwhile.
            yield plan.with_entries(k_unroll=1)
        else:
            yield plan


GROUPING_REGISTERS = {2: 1, 4: 2}
"""Registers that hold rows of a factor while one of groups is made up of them, that one apart."""


def _can_group_in_place(
    problem: Problem, target: Target, instruction: Instruction, plan: PlanAttr
) -> bool:
    """Whether there are registers for making up the groups of a factor that is read in place."""
    role = STREAMED.get(plan.lanes.data)
    if role is None or plan.packs(role) or not problem.is_scattered(role):
        return True
    tile = block_tile(*plan.block, plan.lanes.data, instruction, target)
    kept = min(tile.lhs_loads, tile.rhs_loads)
    # Of a factor that is kept the last register is made up before the other factor is needed.
    beside = kept + 1 if kept == tile.broadcasts else kept
    rows = GROUPING_REGISTERS[problem.group]
    return tile.instructions + beside + rows < target.registers


def _packs_groups(problem: Problem, plan: PlanAttr) -> str | None:
    """The factor that a plan packs although it lies in groups already."""
    found = (r for r in FACTORS if plan.packs(r) and _lies_in_groups(problem, r))
    return next(found, None)


def _is_whole(problem: Problem, target: Target, plan: PlanAttr) -> bool:
    """Whether a plan packs what the target can't load in whole registers."""
    role = STREAMED.get(plan.lanes.data)
    return role is None or plan.packs(role) or in_whole_registers(problem, target, plan.lanes.data)


def _why_unsuitable(problem: Problem, instruction: Instruction) -> str | None:
    """Why an instruction can't multiply the factors as they are given, in words."""
    if problem.added_up is not None and not instruction.flips:
        return f"sums start where flipped signs are made up for, but {instruction.name} flips none"
    for role in FACTORS:
        group = problem.operand_named(role).group
        if group not in (1, instruction.k):
            return f"{role} lies in groups of {group}, but {instruction.name} takes {instruction.k}"
    return None


def _why_not_flipped(problem: Problem, instruction: Instruction, plan: PlanAttr) -> str | None:
    """Why a plan can't flip the signs of a factor, where its instruction does."""
    if not instruction.flips:
        return None
    role = STREAMED.get(plan.lanes.data)
    if role is None:
        return "lanes along k"
    if problem.added_up not in (None, role):
        return f"lanes = {plan.lanes.data}: sums of {problem.added_up} are given"
    if plan.packs(role) or problem.added_up is not None:
        return None
    if not _lies_in_groups(problem, role):
        return f"{role}, which is loaded as registers, in place"
    if not plan.blocked and plan.resident.data != role:
        return f"resident = {plan.resident.data}: a block of {role} is added up, then used up"
    return None


def _all_candidates(
    problem: Problem, target: Target, instruction: Instruction
) -> Iterator[PlanAttr]:
    """The plans, whether the instruction can do them or not."""
    blocked: list[PlanAttr] = []
    ways = layouts(problem, target, flips=instruction.flips)
    if problem.dynamic or outgrows_l2(problem, target) or not ways:
        blocked = list(_blocked_candidates(problem, target, instruction))
        yield from blocked
    if problem.dynamic:
        return
    # With cache blocks on offer, a reduction in parts is theirs: threads can share those.
    k_blocks = (0,) if blocked else _k_blocks(problem, target)
    for layout in ways:
        seen: set[object] = set()
        for block in _blocks(problem, target, instruction, layout.lanes):
            runs = split_block(problem, block, layout.lanes, instruction.lanes)
            if runs in seen:
                continue
            seen.add(runs)
            for resident, k_block in product(_residents(layout), k_blocks):
                yield _plan(problem, target, instruction, layout, block, resident, k_block)


def _blocked_candidates(
    problem: Problem, target: Target, instruction: Instruction
) -> Iterator[PlanAttr]:
    """The plans with cache blocks, for the register blocks that lose least in a step."""
    if _why_unsuitable(problem, instruction) is not None:
        return
    small = min(problem.extent(kind) for kind in "mn") < target.registers
    # Without cache blocks only one factor can be packed.
    # Refuses a result that can't be written.
    ways = layouts(problem, target, flips=instruction.flips)
    if isinstance(instruction, TileInstruction):
        yield from tile_plans(problem, target, instruction)
        return
    needed = problem.dynamic or not ways
    if not needed and (small or problem.depth < 2):
        return
    for lanes in STREAMED:
        if problem.stride("out", lanes) == 1:
            blocks = list(_blocks(problem, target, instruction, lanes))
            plans = blocked_plans(problem, target, instruction, lanes, blocks)
            yield from _possible(problem, target, instruction, plans)


def _k_blocks(problem: Problem, target: Target) -> tuple[int, ...]:
    """Parts of the reduction to try: the whole; where L2 can't hold it, one that fits, its double.

    A shorter part lets both factors stay in L2, for the price of loading and storing the result
    once more. Where the result is so narrow that a factor is read only once, a part of few rows
    lets hardware stream it from farther away.
    """
    if not problem.reduction or problem.finishes:
        return (0,)
    m, n, extent = problem.extent("m"), problem.extent("n"), problem.sizes[problem.reduction[0]]
    walked = (m + n) * problem.depth * problem.size
    part = extent
    while walked * part > target.caches[1].size * extent // 2 and part > 1:
        part = -(-part // 2)
    options = [0, 2 * part, part] if part < extent else [0]
    rows = HARDWARE_STREAMS * extent // max(1, problem.depth)
    if part < extent and min(m, n) <= target.registers and 0 < rows < part:
        options.append(rows)
    return tuple(options)


def _residents(layout: Layout) -> tuple[str, ...]:
    """The loop orders to try: a packed panel is used up before the next one is packed."""
    if layout.pack != "none":
        return (layout.pack,)
    return ("lhs", "rhs")


def _blocks(
    problem: Problem, target: Target, instruction: Instruction, lanes: str
) -> Iterator[tuple[int, int]]:
    """Every block, in accumulators, that fits the registers and is not larger than the product."""
    unit = {kind: instruction.lanes if kind == lanes else 1 for kind in "mn"}
    limit = {kind: max(1, -(-problem.extent(kind) // unit[kind])) for kind in "mn"}
    small = target.store_buffer > 0 and not problem.dynamic and not outgrows_l2(problem, target)
    for columns in range(1, min(limit["n"], target.registers) + 1):
        fitting = [
            (rows * unit["m"], columns * unit["n"])
            for rows in range(1, min(limit["m"], target.registers) + 1)
            if _live(problem, target, instruction, lanes, (rows * unit["m"], columns * unit["n"]))
            <= target.plannable_registers
        ]
        # Half as many rows for the same columns only adds loads, but their results' way out is
        # hidden more easily.
        most = 0 if small else len(fitting) // 2
        yield from fitting[most:]
        if lanes != "n" and most >= HARDWARE_STREAMS:
            # Where memory is what counts, a few rows, or registers of a column, stream better.
            yield fitting[HARDWARE_STREAMS - 1]


FLIPPING_REGISTERS = 2
"""The signs, and what is broadcast before they are flipped."""


def _live(
    problem: Problem, target: Target, instruction: Instruction, lanes: str, block: tuple[int, int]
) -> int:
    """Registers live for a block, with those for a ragged edge, or for flips, if there are any."""
    tile = block_tile(*block, lanes, instruction, target)
    ragged = lanes in "mn" and problem.extent(lanes) % instruction.lanes
    live = tile.live_registers(target) + (1 if ragged and not target.masked else 0)
    return live + (FLIPPING_REGISTERS if instruction.flips else 0)


def _plan(
    problem: Problem,
    target: Target,
    instruction: Instruction,
    layout: Layout,
    block: tuple[int, int],
    resident: str,
    k_block: int,
) -> PlanAttr:
    """A choice of block, loop order and chunk, with unroll factor and prefetch distance added."""
    tile = block_tile(*block, layout.lanes, instruction, target)
    iterators = problem.reduction
    depth = problem.depth
    if k_block:
        depth = depth // problem.sizes[iterators[0]] * k_block
    step_cycles = max(tile.instructions / instruction.per_cycle, float(instruction.latency))
    rows, columns = split_block(problem, block, layout.lanes, instruction.lanes)
    shapes = max(1, len(rows) * len(columns))
    inner = k_block if k_block and len(iterators) == 1 else problem.extent("k")
    steps = max(1, -(-inner // tile.depth))
    plan = PlanAttr.of(
        target=target.name,
        instruction=instruction.name,
        block=block,
        lanes=layout.lanes,
        resident=resident,
        pack=layout.pack,
        k_block=k_block,
        k_unroll=_k_unroll(target, steps, step_cycles, steps * tile.micro_ops * shapes),
        prefetch=_prefetch(target, step_cycles, depth),
    )
    # Of a few rows at a time hardware foresees what comes next, but too late from beyond L2.
    streamed = _streamed(problem, plan)
    if streamed == "none":
        return plan
    far = outgrows_l2(problem, target)
    return plan.with_entries(prefetch=0, ahead=streamed if far else "none")


def _prefetch(target: Target, step_cycles: float, depth: int) -> int:
    """How many steps ahead to ask for data outside L1; never where most of that would be unused."""
    distance = max(1, round(target.prefetch_cycles / step_cycles))
    return distance if 2 * distance < depth else 0


def _k_unroll(target: Target, steps: int, step_cycles: float, micro_ops: int) -> int:
    """Reduction steps a turn: all of them if the whole product then fits the micro-op cache.

    Otherwise enough to make loop control cheap, up to twice as many, with as little code as
    possible: what the turns leave over is unrolled too.
    """
    if micro_ops <= min(target.micro_op_cache // 2, STRAIGHT_LINE):
        return steps
    enough = math.ceil(LOOP_CYCLES / (LOOP_SHARE * step_cycles))
    if steps <= enough:
        return steps
    turns = range(enough, min(2 * enough, steps) + 1)
    return min(turns, key=lambda turn: (turn + steps % turn, steps % turn))


def check_plan(problem: Problem, target: Target, plan: PlanAttr) -> Cost:
    """Hold a plan against the bounds of its target and problem.

    Returns:
        The cost of the product under the plan.

    Raises:
        Unsupported: naming the bound that the plan breaks.
    """
    instruction = target.instruction(plan.instruction.data)
    factors = problem.operand.name, problem.other.name
    if instruction.operands != factors:
        raise Unsupported(
            f"instruction {instruction.name} multiplies {' and '.join(instruction.operands)}, but "
            f"the product is one of {' and '.join(factors)}"
        )
    problem, plan = grouped(problem, target, plan)
    if (reason := _why_unsuitable(problem, instruction)) is not None:
        raise Unsupported(reason)
    if isinstance(instruction, TileInstruction):
        check_tiles(problem, target, plan)
        return _predicted(problem, target, plan)
    if (reason := _why_not_flipped(problem, instruction, plan)) is not None:
        raise Unsupported(
            f"{instruction.name} flips signs, and makes up for that with sums of the factor that "
            f"is loaded as registers, of panels or groups: it can't do {reason}"
        )
    if (grouped_role := _packs_groups(problem, plan)) is not None:
        raise Unsupported(
            f"{grouped_role} lies in groups already, and is read where it is: don't pack it"
        )
    if plan.blocked:
        _check_blocked_layout(problem, target, plan)
    else:
        _check_layout(problem, target, plan)
    _check_block(problem, target, instruction, plan)
    return cost_of(problem, target, plan)


def _check_layout(problem: Problem, target: Target, plan: PlanAttr) -> None:
    if plan.ahead.data != "none" and plan.ahead.data != _streamed(problem, plan):
        raise Unsupported(
            "ahead is for products in cache blocks, or for the factor that is streamed a few rows "
            f"at a time: give n_block or m_block, or a k_block of at most {HARDWARE_STREAMS}"
        )
    flips = target.instruction(plan.instruction.data).flips
    allowed = layouts(problem, target, flips=flips)
    wanted = plan.lanes.data, plan.pack.data
    if wanted in [(a.lanes, a.pack) for a in allowed]:
        if plan.pack.data not in ("none", plan.resident.data):
            raise Unsupported(
                f"a packed factor must be the resident one: write resident = {plan.pack.data}"
            )
        return
    choices = " or ".join(f"lanes = {a.lanes}, pack = {a.pack}" for a in allowed)
    raise Unsupported(
        f"lanes = {wanted[0]}, pack = {wanted[1]} does not fit the operands' layouts; "
        f"possible are {choices}"
    )


def _streamed(problem: Problem, plan: PlanAttr) -> str:
    """The factor of which a plan without cache blocks streams a few rows at a time, or none."""
    if plan.lanes.data == "k":
        larger = "lhs" if problem.extent("m") > problem.extent("n") else "rhs"
        return "none" if plan.packs(larger) else larger
    few = chunk_depth(problem, plan) <= HARDWARE_STREAMS
    return STREAMED[plan.lanes.data] if few and plan.pack.data == "none" else "none"


def _check_blocked_layout(problem: Problem, target: Target, plan: PlanAttr) -> None:
    lanes = plan.lanes.data
    if lanes not in STREAMED:
        raise Unsupported("a product in cache blocks has its lanes along m or n, not k")
    if problem.stride("out", lanes) != 1:
        other = "m" if lanes == "n" else "n"
        raise Unsupported(
            f"lanes = {lanes} needs a result that is contiguous along {lanes}; "
            f"write lanes = {other}, or copy the result from a contiguous array"
        )
    if accumulates_apart(problem, plan) and not (plan.m_block.data and plan.n_block.data):
        raise Unsupported(
            "sums that an epilogue or a conversion finishes are kept in the workspace while the "
            "reduction is cut: write m_block and n_block, or leave out k_block"
        )
    role = STREAMED[lanes]
    if problem.stride(role, lanes) != 1 and not plan.packs(role):
        raise Unsupported(
            f"lanes = {lanes} loads {role} along {lanes}, in which it is not contiguous: "
            f"write pack = {role}, or pack = both"
        )
    if not _is_whole(problem, target, plan):
        raise Unsupported(
            f"{target.name} can't mask elements of {problem.operand.name}, of which a ragged or "
            f"run-time {lanes} needs some: write pack = {role}, or pack = both"
        )


def _check_block(
    problem: Problem, target: Target, instruction: Instruction, plan: PlanAttr
) -> None:
    block, lanes = plan.block, plan.lanes.data
    along = {"m": block[0], "n": block[1]}.get(lanes)
    if along is not None and along % instruction.lanes:
        raise Unsupported(
            f"block {block[0]}x{block[1]} is not a multiple of the {instruction.lanes} lanes of "
            f"{instruction.name} along {lanes}"
        )
    live = _live(problem, target, instruction, lanes, block)
    if live > target.plannable_registers:
        raise Unsupported(
            f"block {block[0]}x{block[1]} needs {live} vector registers, mr·nv + min(mr, nv) + 1 "
            f"and one for a mask if need be, but {target.name} can plan with "
            f"{target.plannable_registers}"
        )
