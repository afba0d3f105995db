"""What was planned for a product and why, as text: block, registers, edges, cycles.

In: a module at the linalg level (or the nanokernel level, with or without plans) and a target.
Out: one section a product, every number taken from the planner's own functions; nothing is
computed twice in two ways. `explain_module` is what `Kernel.explain` and `nkdsl explain` print.

    print(explain_module(load("examples/matmul_512.mlir", context), get_target("znver5")))
"""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from nkdsl.dialects.nanokernel import GemmOp, PlanAttr, YieldOp, iterator_names
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.frontend import make_context
from nkdsl.pipeline import lower
from nkdsl.planner import Cost, Problem, analyse, check_plan
from nkdsl.planner.blocking import accumulates_apart, residents, sides_of
from nkdsl.planner.cost import STREAMED, Call, reuse_distance, source_level
from nkdsl.planner.problem import SCALES, Role
from nkdsl.planner.registers import Tile, block_tile, registers_of
from nkdsl.planner.search import candidates, grouped
from nkdsl.planner.split import Run, even_split
from nkdsl.targets import get_target, use_target
from nkdsl.targets.model import Instruction, Target

RUNNERS_UP = 4
"""How many other plans are shown."""

FACTORS = {"lhs": "A", "rhs": "B"}
"""What the factors are called here."""

ROLES: tuple[Role, ...] = ("lhs", "rhs")

LABEL = 10
"""Width of the first column."""

LINE = 100
"""Width of a line."""

_BLOCK = "{:>8}{:>8}{:>11}{:>9}{:>10}{:>7}  {}"
"""One line of the table of blocks."""


@dataclass(frozen=True)
class Explained:
    """One planned product."""

    op: GemmOp
    problem: Problem
    target: Target
    plan: PlanAttr
    instruction: Instruction
    cost: Cost
    stated: Problem
    """The same product, of groups of the instruction."""
    counted: PlanAttr
    """The same plan, which counts groups."""

    @classmethod
    def of(cls, op: GemmOp) -> "Explained":
        """Hold a planned op against its target once more."""
        if op.plan is None:
            raise InvalidInput("this product has no plan; run the pass 'plan' first")
        problem, target = analyse(op), get_target(op.plan.target.data)
        instruction = target.instruction(op.plan.instruction.data)
        cost = check_plan(problem, target, op.plan)
        groups = grouped(problem, target, op.plan)
        return cls(op, problem, target, op.plan, instruction, cost, *groups)

    @property
    def lanes(self) -> str:
        """The dimension along the lanes."""
        return self.plan.lanes.data

    @property
    def tile(self) -> Tile:
        """The plan's block as registers."""
        return block_tile(*self.plan.block, self.lanes, self.instruction, self.target)

    @property
    def main(self) -> Call:
        """The block shape that most of the time is spent on."""
        return max(self.cost.calls, key=lambda call: call.cycles * call.count)

    @property
    def kept(self) -> Role:
        """The factor whose registers stay through a step while the other passes by."""
        return "rhs" if self.tile.rhs_loads <= self.tile.lhs_loads else "lhs"

    @property
    def apart(self) -> bool:
        """Whether sums are kept in the workspace until their reduction is over."""
        return self.plan.blocked and accumulates_apart(self.stated, self.counted)

    @property
    def passing(self) -> Role:
        """The other factor."""
        return "lhs" if self.kept == "rhs" else "rhs"


def explain_module(
    module: ModuleOp, target: Target, context: Context | None = None, threads: int = 1
) -> str:
    """Plan every product of a program and explain the plans.

    Args:
        module: a program at the linalg or nanokernel level; it is not changed.
        target: what to plan for.
        context: where dialects come from; a fresh one by default.
        threads: how many may share a product.

    Returns:
        Text, one section a product.

    Raises:
        DiagnosticException: where an operation can't be raised or planned.
    """
    planned = module.clone()
    lower(planned, context or make_context(), target, end="nanokernel", threads=threads)
    products = [op for op in planned.walk() if isinstance(op, GemmOp)]
    if not products:
        return "there is no product to explain\n"
    with use_target(target):
        return "\n".join("\n".join(_section(Explained.of(op))) + "\n" for op in products)


def _section(e: Explained) -> Iterator[str]:
    yield from _problem(e)
    if not e.cost.calls:
        yield _row("plan", "nothing to compute: the result is empty")
        return
    yield from _plan(e)
    yield ""
    yield from _step(e)
    yield ""
    yield from _blocks(e)
    yield ""
    yield from _registers(e)
    yield ""
    yield from (_cache_blocks(e) if e.plan.blocked else _loops(e))
    yield ""
    yield from _prediction(e)
    yield from _runners_up(e)


def _row(label: str, text: str) -> str:
    return f"{label:<{LABEL}}{text}".rstrip()


# ------------------------------------------------------------------------- problem and plan


def _problem(e: Explained) -> Iterator[str]:
    p, names = e.problem, iterator_names(e.problem.kinds)
    sizes = ", ".join(
        f"{name} = {'?' if position in p.dynamic else p.sizes[position]}"
        for position, name in enumerate(names)
    )
    sign = "=" if p.from_zero else "+="
    yield _row("product", f"C {sign} A·B in @{_function_name(e.op)}: {sizes}")
    what = "operations" if p.accumulator.is_integer else "floating-point operations"
    yield _row("", f"{_types(p)}, {_quantity(p.flops)}{what}")
    if p.dynamic:
        yield _row("", f"sizes known at run time; what follows is for {SCALES[-1]}")
    for letter, operand in (("A", p.lhs), ("B", p.rhs), ("C", p.out)):
        used = [(n, s) for n, s in zip(names, operand.strides, strict=True) if s]
        strides = ", ".join(f"{n} {s}" for n, s in used)
        yield _row(letter, f"strides in elements: {strides or 'none'}")
    yield _row("target", f"{e.target.name}: {e.target.description}")


def _types(p: Problem) -> str:
    """`u8·s8 added up in s32, stored as u8`; a type alone where there is no other."""
    if p.accumulator == p.operand == p.result:
        return p.operand.name
    factors = f"{p.operand.name}·{p.other.name}"
    stored = "" if p.result == p.accumulator else f", stored as {p.result.name}"
    return f"{factors} added up in {p.accumulator.name}{stored}"


def _function_name(op: Operation) -> str:
    parent = op.parent_op()
    while parent is not None and not isinstance(parent, func.FuncOp):
        parent = parent.parent_op()
    return parent.sym_name.data if parent is not None else "?"


def _plan(e: Explained) -> Iterator[str]:
    plan, tile, target, i = e.plan, e.tile, e.target, e.instruction
    mr, nr = plan.block
    yield _row("plan", f"{mr}x{nr} accumulators, lanes along {e.lanes}, {i.name} ({i.mnemonic}…)")
    kept = min(tile.lhs_loads, tile.rhs_loads)
    live = tile.live_registers(target)
    mask = int(tile.masked and not target.masked)
    passing = live - tile.instructions - kept - mask - tile.adds
    spared = target.spare_registers
    spare = f" ({target.registers} less {spared} spare)" if spared else ""
    yield _row(
        "registers",
        f"{tile.lhs_loads}·{tile.rhs_loads} accumulators + {kept} kept + {passing} passing"
        f"{' + 1 mask' if mask else ''}{' + 1 product' if tile.adds else ''}"
        f" = {live} ≤ {target.plannable_registers}{spare}",
    )
    needed = i.latency * i.per_cycle
    relation = "≥" if tile.instructions >= needed else "<"
    verdict = "hidden" if tile.instructions >= needed else "not hidden"
    yield _row(
        "latency",
        f"{tile.instructions} independent accumulators {relation} {i.latency} cycles × "
        f"{i.per_cycle:g} a cycle = {needed:g}: {verdict}",
    )
    yield from _low_precision(e)
    yield from _finish(e)


def _low_precision(e: Explained) -> Iterator[str]:
    """What becomes of narrow factors before they are multiplied."""
    i, p = e.instruction, e.problem
    if i.widened:
        yield _row("factors", f"extended to {i.widened} when they are loaded")
    if i.k > 1:
        extent = p.extent("k")
        rest = extent % i.k
        filled = f", the last one filled up with {_count(i.k - rest, 'zero')}" if rest else ""
        yield _row(
            "groups",
            f"of {i.k} k in each lane (VNNI): k = {extent} is "
            f"{_count(-(-extent // i.k), 'group')}{filled}",
        )
        for role in ROLES:
            yield _row("", f"{FACTORS[role]}: {_grouping(e, role)}")
    if i.flips:
        broadcast = sides_of(e.lanes).broadcast
        vector = sides_of(e.lanes).vector
        executed = e.target.executed(i, broadcast)
        position = broadcast == "rhs"
        was, is_ = i.operands[position], executed.operands[position]
        sign = "-" if is_ == "u8" else ""
        yield _row(
            "signs",
            f"of {FACTORS[broadcast]} are flipped, {was} to {is_}, in each register that is "
            f"broadcast: {executed.mnemonic} takes u8·s8",
        )
        yield _row(
            "",
            f"sums start at {sign}128 times those of {FACTORS[vector]} over k, which are added up "
            "when a panel is packed",
        )


def _grouping(e: Explained, role: Role) -> str:
    """Where the groups of a factor come from."""
    operand = e.problem.operand_named(role)
    if e.plan.packs(role):
        return "packed into panels of groups"
    if operand.group == e.instruction.k:
        return "lies in groups"
    if not e.stated.is_scattered(role):
        return "has k side by side, a group is an element"
    return "read in place, rows of k are interleaved in registers"


def _finish(e: Explained) -> Iterator[str]:
    """What is done to the sums."""
    if not e.problem.finishes:
        return
    if e.op.epilogue is None:
        steps = f"rounds to {e.problem.result.name}"
    else:
        ops = [op.name for op in e.op.epilogue.block.ops if not isinstance(op, YieldOp)]
        names = [name for name in ops if name != "arith.constant"]
        steps = ", ".join(name.partition(".")[2] for name in names) or "nothing"
    where = (
        "in a loop over sums in the workspace, after their last part of k"
        if e.apart
        else "on registers, while a block is stored"
    )
    yield _row("epilogue", where)
    yield from _wrapped(steps)


def _wrapped(words: str) -> Iterator[str]:
    """Words on as many lines as they need."""
    for line in textwrap.wrap(words, LINE - LABEL):
        yield _row("", line)


# -------------------------------------------------------------------------------------- step


def _step(e: Explained) -> Iterator[str]:
    call, step = e.main, e.main.step
    tile, target, i = call.tile, e.target, e.instruction
    yield _row("step", f"of a {call.rows.size}x{call.columns.size} block, in cycles:")
    resources = (
        ("FMA units", step.fma, _work(tile, i)),
        ("FMA latency", step.latency, "one addition after another into each accumulator"),
        (
            "load ports",
            step.loads,
            f"{_count(tile.lhs_loads, 'load')} of A + {tile.rhs_loads} of B, "
            f"{target.loads_per_cycle:g} a cycle; split lines, refills of L1",
        ),
        ("cache bandwidth", step.stream, _streams(e)),
        (
            "issue slots",
            step.issue,
            f"{tile.micro_ops} micro-ops and the loop's, {target.issue_width} a cycle",
        ),
    )
    for name, cycles, why in resources:
        mark = "*" if name == step.bound else " "
        yield _row("", f"{mark} {name:<16}{cycles:6.2f}   {why}")
    rate = tile.instructions * i.flops / step.cycles
    yield _row("", f"* is the bound: {rate:.1f} of {_peak(e):g} operations a cycle")


def _work(tile: Tile, instruction: Instruction) -> str:
    """What the units that multiply have to do in a step."""
    also = f" and {_count(tile.extensions, 'extension')}" if tile.extensions else ""
    return f"{tile.instructions}{also}, {instruction.per_cycle:g} a cycle"


def _streams(e: Explained) -> str:
    words = []
    for role in ROLES:
        level = source_level(e.stated, e.target, e.counted, role)
        if level:
            words.append(f"{FACTORS[role]} comes from {_place(e.target, level)}")
    return ", ".join(words) or "both factors are in L1"


def _peak(e: Explained) -> float:
    return e.instruction.flops * e.instruction.per_cycle


# ------------------------------------------------------------------------------------ blocks


def _blocks(e: Explained) -> Iterator[str]:
    rows = tuple(dict.fromkeys(call.rows for call in e.cost.calls))
    columns = tuple(dict.fromkeys(call.columns for call in e.cost.calls))
    yield _row("rows", _split(e, rows, "m"))
    yield _row("columns", _split(e, columns, "n"))
    heads = ("shape", "count", "registers", "a step", "a call", "time", "bound")
    yield _row("blocks", _BLOCK.format(*heads))
    whole = sum(c.cycles * c.count for c in e.cost.calls) or 1.0
    for call in e.cost.calls:
        cells = (
            f"{call.rows.size}x{call.columns.size}",
            call.count,
            call.tile.live_registers(e.target),
            f"{call.step.cycles:.2f}",
            f"{call.cycles:.0f}",
            f"{call.cycles * call.count / whole:.0%}",
            call.step.bound,
        )
        yield _row("", _BLOCK.format(*cells))
    if e.cost.repeats > 1:
        yield _row("", f"all of it {e.cost.repeats} times, once for each step of the outer loops")


def _split(e: Explained, runs: Sequence[Run], kind: str) -> str:
    """`96 + 64 + 31 (masked) = 191`."""
    parts = [_part(e, run, kind) for run in runs]
    return f"{' + '.join(parts)} = {e.problem.extent(kind)}"


def _part(e: Explained, run: Run, kind: str) -> str:
    size = f"{run.count}×{run.size}" if run.count > 1 else f"{run.size}"
    if kind != e.lanes:
        return size
    last = registers_of(run.size, e.instruction, e.target)[-1]
    if last.masked:
        return f"{size} (its last {last.active} masked)"
    narrow = last.lanes < e.instruction.lanes
    return f"{size} (its last {last.lanes} in a narrower register)" if narrow else size


# --------------------------------------------------------------------------------- registers


def _registers(e: Explained) -> Iterator[str]:
    """A grid: accumulators in the middle, the factors' registers on the edges."""
    tile = e.tile
    yield _row("map", "of vector registers, numbered as the kernel uses them (LLVM may rename):")
    sides = _side(e, "lhs"), _side(e, "rhs")
    # The longer side runs down the page.
    down, across = sides if tile.lhs_loads >= tile.rhs_loads else sides[::-1]
    yield _row("", f"{'':>11}{_cells(across.places)}")
    yield _row("", f"{'':>11}{_cells(across.registers)}   {across.remark}")
    for d, (place, register) in enumerate(zip(down.places, down.registers, strict=True)):
        names = (
            f"v{d * tile.rhs_loads + a if down is sides[0] else a * tile.rhs_loads + d}"
            for a in range(len(across.places))
        )
        yield _row("", f"{place:>5}{register:>6}{_cells(names)}   {'' if d else down.remark}")


@dataclass(frozen=True)
class _Side:
    """One side of the map: a factor's registers along a dimension of the block."""

    places: tuple[str, ...]
    """Where in the block each one's elements begin."""
    registers: tuple[str, ...]
    """Which register holds them; the passing factor takes one for all."""
    remark: str


def _side(e: Explained, role: Role) -> _Side:
    tile = e.tile
    kind, count = ("m", tile.lhs_loads) if role == "lhs" else ("n", tile.rhs_loads)
    unit = e.instruction.lanes if e.lanes == kind else 1
    kept = role == e.kept
    first = tile.instructions + (0 if kept else min(tile.lhs_loads, tile.rhs_loads))
    how = "loaded" if e.lanes in ("k", kind) else "broadcast"
    return _Side(
        places=tuple(f"{kind}+{i * unit}" for i in range(count)),
        registers=tuple(f"v{first + (i if kept else 0)}" for i in range(count)),
        remark=f"{FACTORS[role]}: {how}, {'kept through the step' if kept else 'passing'}",
    )


def _cells(words: Iterable[str]) -> str:
    return "".join(f"{word:>6}" for word in words)


# ------------------------------------------------------------------------------------- loops


def _loops(e: Explained) -> Iterator[str]:
    p, plan = e.problem, e.plan
    names = iterator_names(p.kinds)
    resident = plan.resident.data
    order = ("n", "m") if resident == "rhs" else ("m", "n")
    lines = [f"{names[position]}: {p.sizes[position]} times" for position in p.outer("b", "m", "n")]
    if chunk := e.plan.k_block.data:
        outermost = (*p.outer("k"), p.position("k"))[0]
        name = "k" if outermost is None else names[outermost]
        lines.append(f"{name}: chunks of at most {chunk}; the sums rest in C in between")
    for kind in order:
        count = sum(r.count for r in {c.rows if kind == "m" else c.columns for c in e.cost.calls})
        remark = f", the panel of {FACTORS[resident]} is resident" if kind == order[0] else ""
        lines.append(f"{kind}: {_count(count, 'block')}{remark}")
    lines += [f"{names[position]}: {p.sizes[position]} times" for position in p.outer("k")]
    lines.append(f"k: {_turns(e)}")
    for depth, line in enumerate(lines):
        yield _row("" if depth else "loops", f"{'  ' * depth}{line}")
    for role in ROLES:
        level = source_level(e.stated, e.target, e.counted, role)
        distance = reuse_distance(e.stated, e.counted, role)
        yield _row(
            FACTORS[role],
            f"comes from {_place(e.target, level)}: {_bytes(distance)} are touched between two "
            "uses of an element",
        )
    yield _row("prefetch", _prefetch(e))
    yield _row("packing", _packing(e))


def _cache_blocks(e: Explained) -> Iterator[str]:
    """The loops over cache blocks, and what each cache is counted on to hold."""
    plan, along = e.plan, e.lanes
    across = "m" if along == "n" else "n"
    blocks = {"m": plan.m_block.data, "n": plan.n_block.data, "k": plan.k_block.data}
    lines = [
        f"{kind}: {f'at most {blocks[kind]} at a time' if blocks[kind] else 'all at once'}"
        for kind in (along, "k", across)
    ]
    resident = plan.resident.data
    order = ("n", "m") if resident == "rhs" else ("m", "n")
    lines += [f"{kind}: a register block at a time" for kind in order]
    for depth, line in enumerate(lines):
        yield _row("" if depth else "loops", f"{'  ' * depth}{line}")
    for part in residents(e.stated, e.target, e.counted):
        # A last group that is not full is one that is, in panels.
        shape = f"{part.shape[0]}x{part.shape[1] * e.stated.group}"
        yield _row(
            FACTORS[part.role],
            f"{part.what} of {shape}, {_bytes(part.size)}, stays in {_place(e.target, part.level)}"
            + (", packed" if plan.packs(part.role) else ", read in place"),
        )
    yield _row("prefetch", _blocked_prefetch(plan))
    if plan.pack_from.data:
        yield _row("packing", f"where m and n are at least {plan.pack_from.data}")
    elif plan.pack.data != "none":
        share = e.cost.repeats * e.cost.packing / e.cost.cycles if e.cost.cycles else 0.0
        yield _row("packing", f"{e.cost.packing:.0f} cycles in all, {share:.1%} of the time")
        if plan.packs_ahead(STREAMED[plan.lanes.data]):
            yield _row("", "each panel by the microkernels of the one before it")
    yield from _result(e)
    if plan.threads.data > 1:
        yield _row("threads", f"{plan.threads.data}, each with its own part of rows or columns")


def _result(e: Explained) -> Iterator[str]:
    """Where sums rest between two parts of the reduction."""
    p, plan = e.problem, e.plan
    if e.apart:
        rows, columns = (
            min(block.data or p.extent(kind), p.extent(kind))
            for kind, block in (("m", plan.m_block), ("n", plan.n_block))
        )
        size = rows * columns * p.accumulator.size
        yield _row(
            "sums",
            f"a block of {rows}x{columns} in {p.accumulator.name}, {_bytes(size)} of workspace, "
            f"updated {_count(e.cost.chunks, 'time')}",
        )
        yield _row("result", "written once, when a block's sums are complete")
        return
    moved = p.extent("m") * p.extent("n") * p.result.size
    if p.from_zero and e.cost.chunks == 1:
        yield _row("result", f"written once: {_bytes(moved)} stored")
        return
    times = 2 * e.cost.chunks - p.from_zero
    yield _row(
        "result",
        f"updated {_count(e.cost.chunks, 'time')}: {_bytes(times * moved)} loaded and stored",
    )


def _turns(e: Explained) -> str:
    tile, unroll = e.tile, e.plan.k_unroll.data
    extent, chunk = e.problem.extent("k"), e.plan.k_block.data
    if extent and chunk and not e.problem.outer("k"):
        extent = even_split(extent, chunk)[0].size
    deep = tile.depth * e.instruction.k
    steps = -(-extent // deep)
    unit = "" if deep == 1 else f" of {deep} elements"
    if steps <= unroll:
        return f"{_count(steps, 'step')}{unit}, unrolled completely"
    turns, rest = divmod(steps, unroll)
    tail = f" and {rest} more" if rest else ""
    return f"{_count(steps, 'step')}{unit} = {_count(turns, 'turn')} of {unroll}{tail}"


def _prefetch(e: Explained) -> str:
    distance = e.plan.prefetch.data
    if e.plan.ahead.data != "none":
        return f"what follows in the rows of {FACTORS[e.plan.ahead.data]}, into L2"
    if not distance:
        return "none"
    return f"{distance} steps ahead, what comes from beyond L1"


def _blocked_prefetch(plan: PlanAttr) -> str:
    asked = [name for role, name in FACTORS.items() if plan.asks_ahead(role)]
    lines = [f"the next block's part of {name}, into L2" for name in asked]
    if plan.prefetch.data and not plan.asks_ahead(STREAMED[plan.lanes.data]):
        lines.append(f"{plan.prefetch.data} steps ahead, what is read in place as registers")
    return "; ".join(lines) or "the result only"


def _packing(e: Explained) -> str:
    packed = next((role for role in ROLES if e.plan.packs(role)), None)
    if packed is None:
        return "none: both factors are read in place"
    share = e.cost.repeats * e.cost.packing / e.cost.cycles if e.cost.cycles else 0.0
    into = f" into groups of {e.instruction.k}" if e.instruction.k > 1 else ""
    side = "n" if packed == "rhs" else "m"
    lies = "transposed in registers" if e.problem.stride(packed, side) != 1 else "copied"
    return (
        f"a panel of {FACTORS[packed]} at a time, {lies}{into}: "
        f"{e.cost.packing:.0f} cycles in all, {share:.1%} of the time"
    )


def _place(target: Target, level: int) -> str:
    return f"L{level + 1}" if level < len(target.caches) else "memory"


# -------------------------------------------------------------------------------- prediction


def _prediction(e: Explained) -> Iterator[str]:
    cycles = e.cost.cycles
    yield _row(
        "predicted",
        f"{cycles:.0f} cycles, {e.cost.share_of_peak:.1%} of peak: "
        f"{e.problem.flops / cycles if cycles else 0:.1f} of {_peak(e):g} operations a cycle",
    )


def _runners_up(e: Explained) -> Iterator[str]:
    """The best plans of other blocks or lanes."""
    chosen = e.cost.cycles
    best: dict[tuple[tuple[int, int], str], tuple[float, PlanAttr]] = {}
    for plan in candidates(e.problem, e.target, e.instruction):
        key = plan.block, plan.lanes.data
        cycles = _cycles(e, plan)
        if key != (e.plan.block, e.lanes) and (key not in best or cycles < best[key][0]):
            best[key] = cycles, plan
    ranked = sorted(best.values(), key=lambda pair: pair[0])[:RUNNERS_UP]
    for number, (cycles, plan) in enumerate(ranked):
        mr, nr = plan.block
        packed = " and ".join(FACTORS[role] for role in ROLES if plan.packs(role))
        pack = f", pack {packed}" if packed else ""
        pack += ", cache blocks" if plan.blocked else ""
        yield _row(
            "" if number else "others",
            f"{f'{mr}x{nr}':<7} lanes along {plan.lanes.data}, {FACTORS[plan.resident.data]} "
            f"resident{pack}: {cycles:.0f} cycles, {cycles / chosen - 1:+.1%}",
        )


def _cycles(e: Explained, plan: PlanAttr) -> float:
    try:
        return check_plan(e.problem, e.target, plan).cycles
    except Unsupported:
        return float("inf")


# ------------------------------------------------------------------------------------- words


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _bytes(size: int) -> str:
    for unit, scale in (("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} bytes"


def _quantity(number: int) -> str:
    for prefix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.4g} {prefix} "
    return f"{number} "
