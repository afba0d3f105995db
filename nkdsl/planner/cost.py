"""Predicted cycles of a product under a plan: what the planner minimizes and `explain` prints.

A *microkernel call* works on one block of accumulators: it loads them, runs K steps, stores them.
A step costs as much as the scarcest of

- the FMA units: `instructions / per_cycle`,
- the chain of additions into one accumulator: its latency, and a cycle that the scheduler loses,
- the load ports: one load a factor register; a register that crosses a cache line takes two, and
  every line that arrives from an outer cache takes a slot to be written into L1,
- the way in from the cache where a factor's panel survives between two uses:
  `bytes / bytes_per_cycle` of that level,
- the issue slots,

and, on top, for what the core can't hide of a line that arrives from an outer cache unasked.

While the stores of one block wait for their sums, the core already works on the next one, as long
as its store buffer has room for them. A block of more registers than that makes it wait for the
last sums, and for the stores: smaller blocks, which load more, are then faster where the reduction
is short.

Where a panel survives follows from the reuse distance: the bytes touched between two uses of the
same element (Low et al., "Analytical Modeling Is Enough for High-Performance BLIS", section 4,
state the same for a blocked product).

For an instruction that takes k in groups, problem and plan are those of groups
(`nkdsl.planner.search.grouped`).

In: a `Problem`, a `Target`, a `PlanAttr`. Out: a `Cost`. No IR is built or read.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from nkdsl.dialects.nanokernel import PlanAttr
from nkdsl.planner.problem import Problem, Role
from nkdsl.planner.registers import Tile, block_tile
from nkdsl.planner.split import Run, even_split, even_split_lanes
from nkdsl.targets.model import Cache, Instruction, Target

SCHEDULING_SLACK = 1.0
"""Cycles added to an instruction's latency: chains wait for a port now and then."""

OUTER_CACHE_SHARE = 0.6
"""What of an outer cache can be counted on: it is indexed by physical pages, which collide."""

HARDWARE_STREAMS = 8
"""Rows that a hardware prefetcher follows at once (one a page) without losing any."""

STREAM_PIECE = 512
"""Bytes of a row after which a core must visit the next one, to keep all of them streaming."""

UNSTREAMED_SHARE = 0.7
"""The share of the rate that is left when it follows none."""

PAGE = 4096
"""Bytes within which hardware prefetchers follow a stream."""

PIECE_CYCLES = 2.0
"""Lost on each separate piece of memory that a block of the result is loaded from and stored to:
stores to many places delay loads from addresses that agree with theirs within a page."""

NOT_OVERLAPPED = 0.25
"""The part of the arrival of operands, or of the work on them, that the other one does not hide."""

FAR_MISS_CYCLES = (15.0, 40.0)
"""Lost on a line from the last cache, and from memory, whose row nothing foresaw: their latencies
of about 200 and 400 cycles, of which the core bears ten at a time."""

FAR_STEP = 1.08
"""A step takes this much longer where a factor read in place arrives from beyond L2, whatever was
asked for: 6 to 12 % were measured at 768³, 1000³ and 2047x2049x257 on Zen 4."""

STREAM_FRICTION = 0.03
"""What of the time that a step's data take to come from L2 the FMAs don't hide: on Zen 4 a block of
6x64, with 11 bytes a cycle, is 0.5 to 1 % faster than one of 4x80, with 16."""

LOAD_FRICTION = 0.08
"""What of the time that the load ports take in a step the FMAs don't hide: on Zen 4 a block of
13x32, with 15 loads for 26 instructions, is 1 to 4 % slower than one of 8x48, with 11 for 24."""

CROWDED_FROM, CROWDED_LOADS = 0.75, 0.3
"""From which part of a step's multiplications on its loads delay them, and how much of what is
beyond isn't hidden: measured at 127x255x511 on Zen 4, whose rows split lines. Blocks of 6x32 and
4x48 lose 1.2 and 2 cycles of 12 a step, of 8x48 and 6x64 0.4 of 24."""

STORES_HIDDEN = (0.75, 1.15)
"""Up to which part of what a thread has of the store buffer a block's stores are hidden by the work
on the next block, and from which part on not at all. Measured on Zen 4, whose threads have 16
registers of it each: blocks of 12 lose 6 cycles, of 16 25, of 18 45, of 24 62."""

THREADS_A_CORE = 2
"""How many threads may share a core's buffers: the other one may be somebody else's."""

REVISITED_SHARE = 0.9
"""The share that is left where each part of a stream is used several times before the next."""

LOOP_MICRO_OPS = 3
"""Counter, compare-and-branch, one pointer."""


@dataclass(frozen=True)
class Step:
    """Cycles of one step of the reduction, by the resource that asks for them."""

    fma: float
    latency: float
    loads: float
    stream: float
    issue: float
    misses: float
    """Lost on lines that nobody prefetches, whatever else is going on."""

    @property
    def cycles(self) -> float:
        """Cycles of the scarcest resource, and those lost on misses."""
        return max(self.fma, self.latency, self.loads, self.stream, self.issue) + self.misses

    @property
    def bound(self) -> str:
        """The scarcest resource, in words."""
        return max(
            (self.fma, "FMA units"),
            (self.latency, "FMA latency"),
            (self.loads, "load ports"),
            (self.stream, "cache bandwidth"),
            (self.issue, "issue slots"),
            key=lambda pair: pair[0],
        )[1]


@dataclass(frozen=True)
class Call:
    """All calls of one microkernel: blocks of one shape."""

    rows: Run
    columns: Run
    tile: Tile
    """The block as registers."""
    step: Step
    cycles: float
    """Cycles of one call."""

    @property
    def count(self) -> int:
        """Number of blocks of this shape."""
        return self.rows.count * self.columns.count


@dataclass(frozen=True)
class Cost:
    """A predicted time and what it consists of."""

    calls: tuple[Call, ...]
    """One entry a block shape."""
    repeats: int
    """How often the grid of blocks is walked: the product of the outer loops."""
    chunks: int
    """Into how many parts the reduction is cut; each walks the grid once."""
    packing: float
    """Cycles spent packing in one walk."""
    useful: float
    """Cycles that the FMA units need at least for the product's own operations."""
    arrival: float = 0.0
    """Cycles that it takes at least until every operand has arrived once."""

    @cached_property
    def cycles(self) -> float:
        """Cycles of the whole product."""
        walk = sum(call.cycles * call.count for call in self.calls)
        work = self.repeats * (self.packing + self.chunks * walk)
        return max(self.arrival, work) + NOT_OVERLAPPED * min(self.arrival, work)

    @property
    def share_of_peak(self) -> float:
        """Predicted share of the FMA units' rate."""
        return self.useful / self.cycles if self.cycles else 1.0


def chunk_count(problem: Problem, plan: PlanAttr) -> int:
    """Into how many parts `k_block` cuts the outermost reduction iterator."""
    iterators = problem.reduction
    if not iterators or not plan.k_block.data:
        return 1
    return max(1, -(-problem.sizes[iterators[0]] // plan.k_block.data))


def chunk_depth(problem: Problem, plan: PlanAttr) -> int:
    """Steps of the reduction in one part, the larger ones where they differ."""
    return -(-problem.depth // chunk_count(problem, plan))


Runs = tuple[Run, ...]

FACTORS: tuple[Role, ...] = ("lhs", "rhs")
OPERANDS: tuple[Role, ...] = (*FACTORS, "out")


def split_block(
    problem: Problem, block: tuple[int, int], along: str, lanes: int
) -> tuple[Runs, Runs]:
    """How a block covers the inner m and n: the runs of rows and of columns.

    Along the dimension `along` blocks start at multiples of `lanes`.
    """
    rows, columns = (
        even_split_lanes(problem.extent(kind), size, lanes)
        if along == kind
        else even_split(problem.extent(kind), size)
        for kind, size in zip("mn", block, strict=True)
    )
    return rows, columns


def block_runs(problem: Problem, plan: PlanAttr, lanes: int) -> tuple[Runs, Runs]:
    """How the plan's block covers the inner m and n: the runs of rows and of columns."""
    return split_block(problem, plan.block, plan.lanes.data, lanes)


STREAMED: dict[str, Role] = {"n": "rhs", "m": "lhs"}
"""The factor whose rows are loaded as registers, in strides that hardware prefetchers miss."""


@dataclass(frozen=True)
class Source:
    """Where a factor comes from in the steps of a plan, and what that costs."""

    level: int
    """The cache (0 is L1); one more than the last for memory."""
    bytes_per_cycle: float
    """The rate at which it arrives from there."""
    lines_a_load: float
    """Cache lines that a register load touches on average."""
    cycles_a_line: float
    """Cycles lost on a line that arrives, beyond what its rate says."""


def factor_source(
    problem: Problem, target: Target, plan: PlanAttr, instruction: Instruction, role: Role
) -> Source:
    """Where a factor comes from under a plan."""
    level = source_level(problem, target, plan, role)
    few_rows = _streams(problem, plan, role)
    streamed = STREAMED.get(plan.lanes.data)
    rate = bytes_per_cycle(target, level)
    # Hardware foresees what is read from end to end: both factors with lanes along k, and a factor
    # read once in panels that lie within a page. The plan foresees the factor that it streams,
    # but asks for it only as far ahead as L2 is away.
    foreseen = streamed is None or (
        uses(problem, plan, role) <= 1 and _panel_span(problem, plan, role) <= PAGE
    )
    foreseen |= streamed == role and (few_rows or (plan.prefetch.data > 0 and level <= 1))
    foreseen |= asks_for_next_reduction(problem, plan, role) is not None
    lost = 0.0 if foreseen or not level else cycles_a_miss(problem, target, plan, role, level)
    # Beyond L2 only the hardware's streams reach the full rate, and it follows a limited number.
    lost_streams = level > 1 and streamed in (None, role) and not few_rows
    share = UNSTREAMED_SHARE if lost_streams else 1.0
    lines = lines_a_load(problem, instruction, plan, role, target.caches[0].line)
    return Source(level, rate * share, lines, lost)


def _streams(problem: Problem, plan: PlanAttr, role: Role) -> bool:
    """Whether the rows of a factor that a plan walks along are so few that hardware follows all.

    With lanes along k they lie side by side in a microkernel. Else a part of the reduction is so
    short that the next block continues its rows, and each must be visited again soon.
    """
    if plan.lanes.data == "k":
        return _panel_width(problem, plan, role)[1] <= HARDWARE_STREAMS
    piece = _panel_width(problem, plan, role)[1] * problem.size
    return chunk_depth(problem, plan) <= HARDWARE_STREAMS and piece <= STREAM_PIECE


def cycles_a_miss(
    problem: Problem, target: Target, plan: PlanAttr, role: Role, level: int
) -> float:
    """Cycles lost on a line that arrives from a cache unasked.

    Of a factor that a microkernel walks along in rows of a few lines each, hardware foresees
    nothing: L2 is near enough, but what is beyond makes the core wait.
    """
    streamed = STREAMED.get(plan.lanes.data) == role
    if streamed and plan.blocked and plan.prefetch.data and not plan.asks_ahead(role):
        return 0.0
    walked = streamed or problem.stride(role, "k") != 1
    if level >= 2 and walked:
        return FAR_MISS_CYCLES[min(level, 3) - 2]
    rate = bytes_per_cycle(target, level)
    return target.miss_cycles * bytes_per_cycle(target, 1) / rate


def asks_for_next_reduction(problem: Problem, plan: PlanAttr, role: Role) -> int | None:
    """The dimension of a factor along which its next inner reduction lies, if it is prefetched.

    A broadcast factor with rows along k is asked for one whole inner reduction ahead where there
    are reductions around that: they are short, and most lines would lie behind a row's end.
    """
    outer = problem.outer("k")
    broadcast = STREAMED.get(plan.lanes.data) not in (None, role)
    if not (outer and broadcast and plan.prefetch.data and problem.stride(role, "k") == 1):
        return None
    return problem.operand_named(role).dims[outer[-1]]


def uses(problem: Problem, plan: PlanAttr, role: Role) -> int:
    """How many blocks an element of a factor takes part in."""
    other = "n" if role == "lhs" else "m"
    return -(-problem.extent(other) // min(plan.block[other == "n"], max(1, problem.extent(other))))


def _panel_width(problem: Problem, plan: PlanAttr, role: Role) -> tuple[str, int]:
    """The dimension across a factor's panel, m or n, and the panel's extent along it."""
    kind = "m" if role == "lhs" else "n"
    return kind, min(plan.block[kind == "n"], problem.extent(kind))


def _panel_span(problem: Problem, plan: PlanAttr, role: Role) -> int:
    """Bytes from the first to the last element of a factor's panel."""
    kind, width = _panel_width(problem, plan, role)
    elements = (width - 1) * problem.stride(role, kind)
    elements += (problem.extent("k") - 1) * problem.stride(role, "k") + 1
    return elements * problem.size


def predict(problem: Problem, target: Target, plan: PlanAttr) -> Cost:
    """The cost of a product under a plan that the target can hold."""
    instruction = target.instruction(plan.instruction.data)
    rows, columns = block_runs(problem, plan, instruction.lanes)
    lhs, rhs = (factor_source(problem, target, plan, instruction, role) for role in ("lhs", "rhs"))
    chunks, depth = chunk_count(problem, plan), chunk_depth(problem, plan)
    loads_result = chunks > 1 or not problem.from_zero
    far = cache_level(target, sum(operand_bytes(problem).values())) > 1
    calls: list[Call] = []
    for row_run in rows:
        for column_run in columns:
            tile = block_tile(row_run.size, column_run.size, plan.lanes.data, instruction, target)
            element = problem.size * tile.depth
            panels = (
                (lhs, moved_in_a_step(problem, target, plan, "lhs", row_run.size * element)),
                (rhs, moved_in_a_step(problem, target, plan, "rhs", column_run.size * element)),
            )
            step = step_of(
                target,
                plan,
                instruction,
                tile,
                panels,
                grouping_in_place(problem, target, plan, tile),
            )
            hidden = 0.0 if far else hidden_share(target, tile)
            cycles = _call_cycles(
                target, plan, instruction, tile, step, depth, loads_result, hidden
            )
            if max(lhs.level, rhs.level) > 1:
                cycles *= FAR_STEP
            cycles += -(-depth // tile.depth) * (
                friction(target, tile, step) if far else _near_friction(target, step)
            )
            pieces = _result_pieces(problem, plan, row_run.size, column_run.size)
            cycles += pieces * PIECE_CYCLES * (1.0 - hidden)
            calls.append(Call(row_run, column_run, tile, step, cycles))
    return Cost(
        calls=tuple(calls),
        repeats=problem.outer_trips("b", "m", "n"),
        chunks=chunks,
        packing=packing_cycles(problem, target, plan, instruction)
        + sums_cycles(problem, target, plan, instruction)
        + first_touch_cycles(problem, target, plan),
        useful=problem.flops / (instruction.flops * instruction.per_cycle),
        arrival=_arrival(problem, target, plan),
    )


def friction(target: Target, tile: Tile, step: Step) -> float:
    """Cycles of a step that its data's way through the caches adds, however little it is."""
    loads = (tile.lhs_loads + tile.rhs_loads) / target.loads_per_cycle
    return STREAM_FRICTION * step.stream + LOAD_FRICTION * loads


def _near_friction(target: Target, step: Step) -> float:
    """The same in a product that L2 holds, for tables that tell the store buffer's size.

    Others count it among what is lost between two blocks.
    """
    if not target.store_buffer:
        return 0.0
    crowded = max(0.0, step.loads - CROWDED_FROM * step.fma)
    return STREAM_FRICTION * step.stream + CROWDED_LOADS * crowded


def operand_bytes(problem: Problem) -> dict[Role, int]:
    """The bytes of each operand, all iterators counted."""
    return {
        role: (problem.result.size if role == "out" else problem.size)
        * math.prod(
            size
            for size, stride in zip(problem.sizes, problem.operand_named(role).strides, strict=True)
            if stride
        )
        for role in OPERANDS
    }


def outgrows_l2(problem: Problem, target: Target) -> bool:
    """Whether L2 can't hold all of a product's operands: else it needs no cache blocks."""
    m, n, k = (problem.extent(kind) for kind in "mnk")
    size = (m * k + k * n) * problem.size + m * n * problem.result.size
    return size > OUTER_CACHE_SHARE * target.caches[1].size


def first_touch_cycles(problem: Problem, target: Target, plan: PlanAttr) -> float:
    """Lost when a factor that is loaded as registers, in place, first comes from beyond L2.

    Its rows are too many for hardware to follow; how often blocks use them later doesn't help.
    """
    role = STREAMED.get(plan.lanes.data)
    if role is None or plan.packs(role) or _streams(problem, plan, role):
        return 0.0
    size = problem.extent("k") * problem.extent("m" if role == "lhs" else "n")
    size *= problem.size
    level = cache_level(target, size * problem.outer_trips("b", "m", "n"))
    kind, width = _panel_width(problem, plan, role)
    contiguous = problem.stride(role, "k") == width or problem.extent(kind) <= width
    if level < 2 or contiguous:
        return 0.0
    unasked = 1.0
    if plan.asks_ahead(role):
        unasked = float(conflicts(problem, target, 1, plan, role))
    elif plan.blocked and plan.prefetch.data:
        # Nobody asks for the first steps of a block.
        unasked = min(1.0, plan.prefetch.data / chunk_depth(problem, plan))
    return unasked * size / target.caches[0].line * FAR_MISS_CYCLES[min(level, 3) - 2]


def _arrival(problem: Problem, target: Target, plan: PlanAttr) -> float:
    """Cycles until every element of the factors has come once from where a call finds it.

    What is used only once arrives in the steps themselves, and is counted there.
    """
    sizes = {role: size for role, size in operand_bytes(problem).items() if role != "out"}
    level = cache_level(target, sum(sizes.values()))
    if level <= 1:
        return 0.0
    rate = bytes_per_cycle(target, level)
    return sum(
        size / (rate * (REVISITED_SHARE if _streams(problem, plan, role) else UNSTREAMED_SHARE))
        for role, size in sizes.items()
        if uses(problem, plan, role) > 1
    )


def moved_in_a_step(problem: Problem, target: Target, plan: PlanAttr, role: Role, size: int) -> int:
    """Bytes that a factor, of which a step uses `size`, brings along from an outer cache.

    A broadcast factor that lies along its rows or columns brings a whole line, or two, each step;
    one in rows along k a line a row, where those push each other out of L1.
    """
    broadcast = STREAMED.get(plan.lanes.data) not in (None, role)
    if not broadcast or plan.packs(role):
        return size
    line = target.caches[0].line
    if problem.stride(role, "k") != 1:
        return (-(-size // line) + 1) * line if size % line else size
    kind, rows = _panel_width(problem, plan, role)
    distance = problem.stride(role, kind) * problem.size
    collide = rows > _sets_met(target.caches[0], distance) * (target.caches[0].ways - 1)
    return rows * line if collide else size


def _sets_met(cache: Cache, distance: int) -> int:
    """On how many sets of a cache lie addresses some bytes apart, however many they are."""
    around = cache.size // cache.ways
    return around // math.gcd(distance, around)


def _call_cycles(
    target: Target,
    plan: PlanAttr,
    instruction: Instruction,
    tile: Tile,
    step: Step,
    depth: int,
    loads_result: bool,
    hidden: float,
) -> float:
    """Cycles of one call: the steps, the accumulators in and out, what is lost between calls.

    A part of all but the steps is `hidden` by the next call.
    """
    steps = -(-depth // tile.depth)
    loaded = tile.instructions if loads_result else 0
    moved = max(loaded / target.loads_per_cycle, tile.instructions / target.stores_per_cycle)
    refill = target.refill_cycles if steps > plan.k_unroll.data else None
    restart = instruction.latency if refill is None else refill
    return (
        steps * step.cycles
        + (moved + instruction.latency + restart) * (1.0 - hidden)
        + (moved + (refill or 0.0)) * NOT_OVERLAPPED * hidden
        + _horizontal_sum_cycles(tile, target, instruction)
    )


def hidden_share(target: Target, tile: Tile) -> float:
    """The part of what is lost between two blocks that the work on the second one hides.

    So it is in products that L2 holds: else stores wait for their lines, too.
    """
    if not target.store_buffer:
        return 0.0
    whole, none = STORES_HIDDEN
    taken = tile.instructions * THREADS_A_CORE / target.store_buffer
    return min(1.0, max(0.0, (none - taken) / (none - whole)))


def _result_pieces(problem: Problem, plan: PlanAttr, rows: int, columns: int) -> int:
    """Into how many separate pieces of memory a block of the result falls."""
    if plan.lanes.data == "m":
        return 1 if problem.stride("out", "n") == rows else columns
    return 1 if problem.stride("out", "m") == columns else rows


def _horizontal_sum_cycles(tile: Tile, target: Target, instruction: Instruction) -> float:
    """Adding up the lanes of each accumulator, two shuffles a halving for two registers."""
    if tile.depth == 1:
        return 0.0
    return 2.0 * tile.instructions / target.shuffles_per_cycle + 2.0 * instruction.latency


def step_of(
    target: Target,
    plan: PlanAttr,
    instruction: Instruction,
    tile: Tile,
    panels: tuple[tuple[Source, int], tuple[Source, int]],
    grouping: float = 0.0,
) -> Step:
    """One step, given for lhs and rhs where they come from and their bytes in a step.

    `grouping`: cycles to make up groups of what is loaded in place.
    """
    line = target.caches[0].line
    (lhs, _), (rhs, _) = panels
    loads = tile.lhs_loads * lhs.lines_a_load + tile.rhs_loads * rhs.lines_a_load
    arriving = [(source, size) for source, size in panels if source.level]
    return Step(
        fma=max(
            (tile.instructions + _extending(target, instruction, tile)) / instruction.per_cycle
            + grouping,
            tile.extensions / target.shuffles_per_cycle,
        ),
        latency=instruction.latency + SCHEDULING_SLACK,
        loads=loads / target.loads_per_cycle + sum(size for _, size in arriving) / line,
        stream=sum(size / source.bytes_per_cycle for source, size in arriving),
        issue=(tile.micro_ops + LOOP_MICRO_OPS / plan.k_unroll.data) / target.issue_width,
        misses=sum(size / line * source.cycles_a_line for source, size in arriving),
    )


def _extending(target: Target, instruction: Instruction, tile: Tile) -> int:
    """FMAs in whose place something is done to extend the factors of a step.

    To extend a register takes a shuffle, of memory, and an operation on the units of FMAs: a shift
    for bf16, a conversion for f16. Where fewer shuffles start than FMAs of the same width, it is
    one of their ports that does them (port 5, for 512 bits on Intel's processors).
    """
    shared = instruction.bits > 256 and target.shuffles_per_cycle < instruction.per_cycle
    return tile.extensions * (2 if shared else 1)


def lines_a_load(
    problem: Problem, instruction: Instruction, plan: PlanAttr, role: Role, line: int
) -> float:
    """Cache lines that a register load touches on average, more than one in unaligned rows."""
    kind = "m" if role == "lhs" else "n"
    if plan.lanes.data not in (kind, "k") or plan.packs(role):
        return 1.0
    size = problem.size
    strides = problem.operand_named(role).strides
    if all(stride == 1 or stride * size % line == 0 for stride in strides if stride):
        return 1.0
    return 1.0 + (instruction.lanes - 1) * size / line


def source_level(problem: Problem, target: Target, plan: PlanAttr, role: Role) -> int:
    """The cache (0 is L1) from which a factor's elements come in the steps; one more for memory."""
    level = cache_level(target, reuse_distance(problem, plan, role))
    while level < len(target.caches) and conflicts(problem, target, level, plan, role):
        level += 1
    return level


def conflicts(problem: Problem, target: Target, level: int, plan: PlanAttr, role: Role) -> bool:
    """Whether a factor's panel falls on too few sets of a cache to stay there.

    Rows that lie a multiple of a power of two apart share sets, however small the panel is.
    """
    if plan.packs(role):
        return False
    cache = target.caches[level]
    kind, width = _panel_width(problem, plan, role)
    extents = {kind: width, "k": min(problem.extent("k"), chunk_depth(problem, plan))}
    across, along = sorted((kind, "k"), key=lambda k: -problem.stride(role, k))
    size = problem.size
    lines_a_row = -(-extents[along] * problem.stride(role, along) * size // cache.line)
    sets = cache.size // (cache.line * cache.ways)
    starts = _sets_met(cache, problem.stride(role, across) * size)
    touched = min(sets, min(starts, extents[across]) * max(1, lines_a_row))
    return extents[across] * lines_a_row > touched * (cache.ways - 1)


def reuse_distance(problem: Problem, plan: PlanAttr, role: Role) -> int:
    """Bytes touched between two uses of the same element of a factor.

    The resident factor's panel meets every panel of the other factor in turn; the other factor is
    streamed through whole for each resident panel. A factor used only once lies wherever the
    previous call of the function left it: everything was touched since.
    """
    m, n = problem.extent("m"), problem.extent("n")
    mr, nr = min(plan.block[0], m), min(plan.block[1], n)
    element = problem.size
    k = chunk_depth(problem, plan)
    held = problem.result.size
    everything = (m + n) * problem.depth * element * problem.outer_trips("b") + m * n * held
    if uses(problem, plan, role) <= 1:
        return everything
    result = mr * nr * held
    if role == plan.resident.data:
        return (mr + nr) * k * element + result
    streamed, resident = (m, nr) if role == "lhs" else (n, mr)
    return (streamed + resident) * k * element + streamed * resident * held


def cache_level(target: Target, size: int) -> int:
    """The innermost cache that keeps `size` bytes; the number of caches where none does."""
    for level, cache in enumerate(target.caches):
        if size <= cache.size * (1.0 if level == 0 else OUTER_CACHE_SHARE):
            return level
    return len(target.caches)


def bytes_per_cycle(target: Target, level: int) -> float:
    """Sustained rate from a cache level, or from memory beyond the last."""
    if level < len(target.caches):
        return target.caches[level].bytes_per_cycle
    return target.memory_bytes_per_cycle


def packing_cycles(
    problem: Problem, target: Target, plan: PlanAttr, instruction: Instruction
) -> float:
    """Cycles to copy the packed factor once.

    A tile of L×L elements costs L loads and L stores, and L·log2(L) shuffles where it is
    transposed; without a contiguous dimension, a load an element.
    """
    if plan.pack.data == "none":
        return 0.0
    role: Role = "lhs" if plan.pack.data == "lhs" else "rhs"
    kind, _ = _panel_width(problem, plan, role)
    lanes = instruction.lanes
    vectors = -(-problem.extent(kind) // lanes) * -(-problem.depth // lanes) * lanes
    moved = problem.extent(kind) * problem.depth * problem.size
    level = cache_level(target, moved)
    arriving = moved / bytes_per_cycle(target, max(1, level))
    if level >= 2:
        # Rows are asked for ahead, but a core bears half of what it would without that.
        arriving += moved / target.caches[0].line * FAR_MISS_CYCLES[min(level, 3) - 2] / 2
    copied = 1 / target.loads_per_cycle + 1 / target.stores_per_cycle
    copied = max(copied, arriving / max(1, vectors))
    along = "k" if plan.lanes.data == "k" else kind
    across = kind if plan.lanes.data == "k" else "k"
    if problem.stride(role, along) == 1:
        return vectors * max(copied, grouping_cycles(problem, target, role))
    if problem.stride(role, across) != 1:
        return vectors * lanes / target.loads_per_cycle
    shuffles = lanes.bit_length() - 1
    return vectors * max(copied, shuffles / target.shuffles_per_cycle)


def sums_cycles(
    problem: Problem, target: Target, plan: PlanAttr, instruction: Instruction
) -> float:
    """Cycles to add up once, over k, the factor whose sums make up for flipped signs.

    It is read a register block at a time: its panel where it was just packed, or in place, where
    rows are asked for ahead. Sums that are given cost nothing.
    """
    if not instruction.flips or problem.added_up is not None:
        return 0.0
    role = STREAMED[plan.lanes.data]
    kind, width = _panel_width(problem, plan, role)
    extent, lanes = problem.extent(kind), instruction.lanes
    vectors = -(-extent // lanes) * problem.depth
    panel = width * chunk_depth(problem, plan) * problem.size
    in_place = extent * problem.depth * problem.size
    rate = bytes_per_cycle(target, cache_level(target, panel if plan.packs(role) else in_place))
    loads = 1 if plan.packs(role) else 2  # what asks for a line takes a load's place
    return vectors * max(
        loads / target.loads_per_cycle,
        1 / instruction.per_cycle,
        instruction.latency / max(1, -(-width // lanes)),
        lanes * problem.size / rate,
    )


def grouping_cycles(problem: Problem, target: Target, role: Role) -> float:
    """Cycles to make up the groups of one register of a factor: a shuffle for each of its rows."""
    if not problem.operand_named(role).scattered:
        return 0.0
    return problem.group / target.shuffles_per_cycle


GROUPING_SHARE = 0.5
"""The part of the shuffles that make up groups which takes the place of multiplications."""


def grouping_in_place(problem: Problem, target: Target, plan: PlanAttr, tile: Tile) -> float:
    """Cycles of a step lost on making up groups of a factor that is read in place."""
    role = STREAMED.get(plan.lanes.data)
    if role is None or plan.packs(role):
        return 0.0
    registers = tile.lhs_loads if role == "lhs" else tile.rhs_loads
    return registers * grouping_cycles(problem, target, role) * GROUPING_SHARE
