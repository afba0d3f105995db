"""Finding a plan, and checking one that somebody wrote.

`find_plan` enumerates every block that the target's registers hold, for each dimension that may
lie along the lanes and for both loop orders, and returns the one with the smallest predicted time
(`nkdsl.planner.cost`). Nothing else decides: no shape, target or type has a rule of its own.

`check_plan` holds a written plan against the same bounds and says which one it breaks.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from nkdsl.dialects.nanokernel import PlanAttr
from nkdsl.errors import Unsupported
from nkdsl.planner.blocking import SHARED_STEPS, blocked_plans, predict_blocked
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
from nkdsl.planner.problem import SCALES, Problem
from nkdsl.planner.registers import block_tile
from nkdsl.targets.model import Instruction, Target

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


def layouts(problem: Problem) -> tuple[Layout, ...]:
    """Every way to lay registers on the operands.

    Lanes lie along a dimension in which the result is contiguous; a factor that isn't contiguous
    there is packed. Lanes along k end in horizontal sums; of factors that aren't contiguous in k,
    the smaller one can be packed.
    """
    found = [
        Layout(kind, "none" if problem.stride(role, kind) == 1 else role)
        for kind, role in STREAMED.items()
        if problem.stride("out", kind) == 1
    ]
    strided = [role for role in FACTORS if problem.stride(role, "k") != 1]
    result_contiguous = 1 in (problem.stride("out", "m"), problem.stride("out", "n"))
    small = "lhs" if problem.extent("m") < problem.extent("n") else "rhs"
    if result_contiguous and strided in ([], [small]):
        found.append(Layout("k", strided[0] if strided else "none"))
    if not found:
        raise Unsupported(
            "the result has stride 1 along neither its rows nor its columns; "
            "write it to a contiguous array and copy that"
        )
    return tuple(found)


def find_plan(problem: Problem, target: Target, threads: int = 1) -> PlanAttr:
    """The plan with the smallest predicted time; raises `Unsupported` where there can be none."""
    instruction = target.instruction_for(problem.operand, problem.accumulator)
    if problem.dynamic:
        return _find_dynamic(problem, target, instruction).with_entries(threads=threads)
    if threads > 1 and (shared := _find_shared(problem, target, instruction, threads)) is not None:
        return shared
    best: tuple[float, PlanAttr] | None = None
    for plan in candidates(problem, target, instruction):
        cycles = cost_of(problem, target, plan).cycles
        if best is None or cycles < best[0]:
            best = cycles, plan
    assert best is not None
    return best[1]


def _find_dynamic(problem: Problem, target: Target, instruction: Instruction) -> PlanAttr:
    """The plan that is best on average, in shares of the peak, for run-time sizes of all scales."""
    plans = [
        plan
        for plan in _blocked_candidates(problem, target, instruction)
        if plan.pack.data != "none"
    ]
    plans.sort(key=lambda plan: predict_blocked(problem, target, plan).cycles)
    found = [_with_threshold(problem, target, plan) for plan in plans[:FINALISTS]]
    return max(found, key=lambda pair: pair[1])[0]


def _with_threshold(problem: Problem, target: Target, plan: PlanAttr) -> tuple[PlanAttr, float]:
    """A plan with the scale from which on it packs, and its mean share of the peak."""
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


def _find_shared(
    problem: Problem, target: Target, instruction: Instruction, threads: int
) -> PlanAttr | None:
    """The best plan that several threads can share; None for a product too small to be shared.

    It is the best one for a single thread's part of the product, among those that cut the reduction
    where the plan for one thread does: so every element's sum has one order.
    """
    if problem.flops < 2 * SHARED_STEPS:
        return None
    alone = find_plan(problem, target)
    best: tuple[float, PlanAttr] | None = None
    for plan in _blocked_candidates(problem, target, instruction):
        if not _sums_alike(problem, alone, plan):
            continue
        cycles = predict_blocked(problem, target, plan).cycles
        if best is None or cycles < best[0]:
            best = cycles, plan
    return None if best is None else best[1].with_entries(threads=threads)


def _sums_alike(problem: Problem, alone: PlanAttr, shared: PlanAttr) -> bool:
    """Whether two plans add up the products of an element in one order, with the same roundings.

    With cache blocks the old result is added in the end, without them the sums start with it; with
    lanes along k each lane has a sum of its own.
    """
    if alone.blocked:
        return alone.k_block.data == shared.k_block.data
    if alone.lanes.data == "k" or not problem.from_zero:
        return False
    return chunk_count(problem, alone) == chunk_count(problem, shared) == 1


def cost_of(problem: Problem, target: Target, plan: PlanAttr) -> Cost:
    """The predicted cost of a product under a plan."""
    return (predict_blocked if plan.blocked else predict)(problem, target, plan)


def candidates(problem: Problem, target: Target, instruction: Instruction) -> Iterator[PlanAttr]:
    """Every plan that the planner compares."""
    blocked: list[PlanAttr] = []
    if problem.dynamic or outgrows_l2(problem, target):
        blocked = list(_blocked_candidates(problem, target, instruction))
        yield from blocked
    if problem.dynamic:
        return
    # With cache blocks on offer, a reduction in parts is theirs: threads can share those.
    k_blocks = (0,) if blocked else _k_blocks(problem, target)
    for layout in layouts(problem):
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
    small = min(problem.extent(kind) for kind in "mn") < target.registers
    if not problem.dynamic and (small or problem.depth < 2):
        return
    for layout in layouts(problem):
        if layout.lanes == "k":
            continue
        blocks = list(_blocks(problem, target, instruction, layout.lanes))
        yield from blocked_plans(problem, target, instruction, layout.lanes, blocks)


def _k_blocks(problem: Problem, target: Target) -> tuple[int, ...]:
    """Parts of the reduction to try: the whole; where L2 can't hold it, one that fits, its double.

    A shorter part lets both factors stay in L2, for the price of loading and storing the result
    once more. Where the result is so narrow that a factor is read only once, a part of few rows
    lets hardware stream it from farther away.
    """
    if not problem.reduction:
        return (0,)
    m, n, extent = problem.extent("m"), problem.extent("n"), problem.sizes[problem.reduction[0]]
    walked = (m + n) * problem.depth * problem.operand.size
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
    for columns in range(1, min(limit["n"], target.registers) + 1):
        fitting = [
            (rows * unit["m"], columns * unit["n"])
            for rows in range(1, min(limit["m"], target.registers) + 1)
            if _live(problem, target, instruction, lanes, (rows * unit["m"], columns * unit["n"]))
            <= target.plannable_registers
        ]
        # Half as many rows for the same columns only adds loads.
        most = len(fitting) // 2
        yield from fitting[most:]
        if lanes != "n" and most >= HARDWARE_STREAMS:
            # Where memory is what counts, a few rows, or registers of a column, stream better.
            yield fitting[HARDWARE_STREAMS - 1]


def _live(
    problem: Problem, target: Target, instruction: Instruction, lanes: str, block: tuple[int, int]
) -> int:
    """Registers live for a block; the one of the ragged edge where the product has one."""
    tile = block_tile(*block, lanes, instruction, target)
    ragged = lanes in "mn" and problem.extent(lanes) % instruction.lanes
    return tile.live_registers(target) + (1 if ragged and not target.masked else 0)


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
    if (instruction.operand, instruction.accumulator) != (
        problem.operand.name,
        problem.accumulator.name,
    ):
        raise Unsupported(
            f"instruction {instruction.name} multiplies {instruction.operand} into "
            f"{instruction.accumulator}, but the product is {problem.operand.name} into "
            f"{problem.accumulator.name}"
        )
    if plan.blocked:
        _check_blocked_layout(problem, plan)
    else:
        _check_layout(problem, plan)
    _check_block(problem, target, instruction, plan)
    return cost_of(problem, target, plan)


def _check_layout(problem: Problem, plan: PlanAttr) -> None:
    if plan.ahead.data != "none" and plan.ahead.data != _streamed(problem, plan):
        raise Unsupported(
            "ahead is for products in cache blocks, or for the factor that is streamed a few rows "
            f"at a time: give n_block or m_block, or a k_block of at most {HARDWARE_STREAMS}"
        )
    allowed = layouts(problem)
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


def _check_blocked_layout(problem: Problem, plan: PlanAttr) -> None:
    lanes = plan.lanes.data
    if lanes not in STREAMED:
        raise Unsupported("a product in cache blocks has its lanes along m or n, not k")
    if problem.stride("out", lanes) != 1:
        other = "m" if lanes == "n" else "n"
        raise Unsupported(
            f"lanes = {lanes} needs a result that is contiguous along {lanes}; "
            f"write lanes = {other}, or copy the result from a contiguous array"
        )
    role = STREAMED[lanes]
    if problem.stride(role, lanes) != 1 and not plan.packs(role):
        raise Unsupported(
            f"lanes = {lanes} loads {role} along {lanes}, in which it is not contiguous: "
            f"write pack = {role}, or pack = both"
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
