"""Sections on a plan whose accumulators are vectors: registers, step, edges, loops.

Imports: the planner, `nkdsl.explain.product`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from nkdsl.dialects.nanokernel import PlanAttr, iterator_names
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
from nkdsl.planner.blocking import predict_blocked, residents, sides_of
from nkdsl.planner.cost import (
    STREAMED,
    THREADS_A_CORE,
    hidden_share,
    predict,
    reuse_distance,
    source_level,
)
from nkdsl.planner.problem import Role
from nkdsl.planner.registers import Tile, block_tile, registers_of
from nkdsl.planner.split import Run, even_split
from nkdsl.targets.model import Instruction


def sections(e: Explained) -> Iterator[str]:
    """Everything between the product and what is predicted for it."""
    yield from _plan(e)
    yield ""
    yield from _step(e)
    yield ""
    yield from _blocks(e)
    yield ""
    yield from _registers(e)
    yield ""
    yield from (_cache_blocks(e) if e.plan.blocked else _loops(e))


def _tile(e: Explained) -> Tile:
    """The plan's block as registers."""
    return block_tile(*e.plan.block, e.lanes, e.instruction, e.target)


# -------------------------------------------------------------------------------------- plan


def _plan(e: Explained) -> Iterator[str]:
    tile, target, i = _tile(e), e.target, e.instruction
    mr, nr = e.plan.block
    yield row("plan", f"{mr}x{nr} accumulators, lanes along {e.lanes}, {i.name} ({i.mnemonic}…)")
    kept = min(tile.lhs_loads, tile.rhs_loads)
    live = tile.live_registers(target)
    mask = int(tile.masked and not target.masked)
    passing = live - tile.instructions - kept - mask - tile.adds
    spared = target.spare_registers
    spare = f" ({target.registers} less {spared} spare)" if spared else ""
    yield row(
        "registers",
        f"{tile.lhs_loads}·{tile.rhs_loads} accumulators + {kept} kept + {passing} passing"
        f"{' + 1 mask' if mask else ''}{' + 1 product' if tile.adds else ''}"
        f" = {live} ≤ {target.plannable_registers}{spare}",
    )
    yield latency_row(e, tile.instructions)
    yield from _low_precision(e)
    where = (
        "in a loop over sums in the workspace, after their last part of k"
        if e.apart
        else "on registers, while a block is stored"
    )
    yield from epilogue_rows(e, where)


def _low_precision(e: Explained) -> Iterator[str]:
    """What becomes of narrow factors before they are multiplied."""
    i = e.instruction
    if i.widened:
        yield row("factors", f"extended to {i.widened} when they are loaded")
    yield from groups_rows(e, {role: _grouping(e, role) for role in ROLES})
    if i.flips:
        yield from _flips(e)


def _grouping(e: Explained, role: Role) -> str:
    """Where the groups of a factor come from."""
    if e.plan.packs(role):
        return "packed into panels of groups"
    if e.problem.operand_named(role).group == e.instruction.k:
        return "lies in groups"
    if not e.stated.is_scattered(role):
        return "has k side by side, a group is an element"
    return "read in place, rows of k are interleaved in registers"


def _flips(e: Explained) -> Iterator[str]:
    """Which factor's signs are flipped, and what makes up for it."""
    sides = sides_of(e.lanes)
    executed = e.target.executed(e.instruction, sides.broadcast)
    position = sides.broadcast == "rhs"
    was, is_ = e.instruction.operands[position], executed.operands[position]
    sign = "-" if is_ == "u8" else ""
    yield row(
        "signs",
        f"of {FACTORS[sides.broadcast]} are flipped, {was} to {is_}, in each register that is "
        f"broadcast: {executed.mnemonic} takes {'·'.join(executed.operands)}",
    )
    sums = f"sums start at {sign}128 times those of {FACTORS[sides.vector]} over k, which"
    if e.problem.added_up is not None:
        yield row("", f"{sums} are given")
        return
    packed = e.plan.packs(sides.vector)
    yield row("", f"{sums} are added up {'when a panel is packed' if packed else 'in place'}")
    cycles = e.cost.repeats * _adding_up(e)
    share = cycles / e.cost.cycles if e.cost.cycles else 0.0
    what = "from the panel" if packed else "a block right before it is used"
    yield row("", f"{what}: {cycles:.0f} cycles in all, {share:.1%} of the time")


def _adding_up(e: Explained) -> float:
    """Cycles to add up the factor that is loaded as registers, as often as that is done."""
    cost = predict_blocked if e.plan.blocked else predict
    without = replace(e.stated, added_up=sides_of(e.lanes).vector)
    return e.cost.packing - cost(without, e.target, e.counted).packing


# -------------------------------------------------------------------------------------- step


def _step(e: Explained) -> Iterator[str]:
    call, step = e.main, e.main.step
    tile, target, i = call.tile, e.target, e.instruction
    yield row("step", f"of a {call.rows.size}x{call.columns.size} block, in cycles:")
    yield from step_rows(
        (
            ("FMA units", step.fma, _work(tile, i)),
            ("FMA latency", step.latency, "one addition after another into each accumulator"),
            (
                "load ports",
                step.loads,
                f"{number_of(tile.lhs_loads, 'load')} of A + {tile.rhs_loads} of B, "
                f"{target.loads_per_cycle:g} a cycle; split lines, refills of L1",
            ),
            ("cache bandwidth", step.stream, _streams(e)),
            (
                "issue slots",
                step.issue,
                f"{tile.micro_ops} micro-ops and the loop's, {target.issue_width} a cycle",
            ),
        )
    )
    rate = tile.instructions * i.flops / step.cycles
    yield row("", f"* is the bound: {rate:.1f} of {e.peak:g} operations a cycle")
    yield from _way_out(e, tile)


def _way_out(e: Explained, tile: Tile) -> Iterator[str]:
    """What the core hides of a block's stores, and which instruction broadcasts."""
    target = e.target
    if target.store_buffer:
        room = target.store_buffer // THREADS_A_CORE
        yield row(
            "stores",
            f"{tile.instructions} of a block, of {room} that a thread may buffer: "
            f"{hidden_share(target, tile):.0%} hidden by the next block",
        )
    if e.lanes == "k":
        return
    loads, sides = {"lhs": tile.lhs_loads, "rhs": tile.rhs_loads}, sides_of(e.lanes)
    named = target.broadcast_instruction(e.instruction, loads[sides.vector], loads[sides.broadcast])
    if named is not None:
        yield row("broadcast", f"by {named}, which the target's table prefers to LLVM's choice")


def _work(tile: Tile, instruction: Instruction) -> str:
    """What the units that multiply have to do in a step."""
    also = f" and {number_of(tile.extensions, 'extension')}" if tile.extensions else ""
    return f"{tile.instructions}{also}, {instruction.per_cycle:g} a cycle"


def _streams(e: Explained) -> str:
    words = []
    for role in ROLES:
        level = source_level(e.stated, e.target, e.counted, role)
        if level:
            words.append(f"{FACTORS[role]} comes from {level_name(e.target, level)}")
    return ", ".join(words) or "both factors are in L1"


# ------------------------------------------------------------------------------------ blocks


def _blocks(e: Explained) -> Iterator[str]:
    for label, kind in (("rows", "m"), ("columns", "n")):
        parts = " + ".join(_part(e, run, kind) for run in e.runs(kind))
        yield row(label, f"{parts} = {e.problem.extent(kind)}")
    yield from block_rows(
        e, "registers", lambda call: str(call.tile.live_registers(e.target)), lambda bound: bound
    )


def _part(e: Explained, run: Run, kind: str) -> str:
    """`63 (its last 15 masked)`."""
    size = run_in_words(run)
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
    tile = _tile(e)
    yield row("map", "of vector registers, numbered as the kernel uses them (LLVM may rename):")
    sides = _side(e, tile, "lhs"), _side(e, tile, "rhs")
    # The longer side runs down the page.
    down, across = sides if tile.lhs_loads >= tile.rhs_loads else sides[::-1]
    yield row("", f"{'':>11}{_cells(across.places)}")
    yield row("", f"{'':>11}{_cells(across.registers)}   {across.remark}")
    for d, (place, register) in enumerate(zip(down.places, down.registers, strict=True)):
        names = (
            f"v{d * tile.rhs_loads + a if down is sides[0] else a * tile.rhs_loads + d}"
            for a in range(len(across.places))
        )
        yield row("", f"{place:>5}{register:>6}{_cells(names)}   {'' if d else down.remark}")


@dataclass(frozen=True)
class _Side:
    """One side of the map: a factor's registers along a dimension of the block."""

    places: tuple[str, ...]
    """Where in the block each one's elements begin."""
    registers: tuple[str, ...]
    """Which register holds them; the passing factor takes one for all."""
    remark: str


def _side(e: Explained, tile: Tile, role: Role) -> _Side:
    kind, count = ("m", tile.lhs_loads) if role == "lhs" else ("n", tile.rhs_loads)
    unit = e.instruction.lanes if e.lanes == kind else 1
    kept = role == ("rhs" if tile.rhs_loads <= tile.lhs_loads else "lhs")
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
        blocks = sum(run.count for run in e.runs(kind))
        remark = f", the panel of {FACTORS[resident]} is resident" if kind == order[0] else ""
        lines.append(f"{kind}: {number_of(blocks, 'block')}{remark}")
    lines += [f"{names[position]}: {p.sizes[position]} times" for position in p.outer("k")]
    lines.append(f"k: {_turns(e)}")
    yield from indented("loops", lines)
    for role in ROLES:
        level = source_level(e.stated, e.target, e.counted, role)
        distance = in_bytes(reuse_distance(e.stated, e.counted, role))
        yield row(
            FACTORS[role],
            f"comes from {level_name(e.target, level)}: {distance} are touched between two uses "
            "of an element",
        )
    yield row("prefetch", _prefetch(e))
    yield row("packing", _packing(e))


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
    yield from indented("loops", lines)
    for part in residents(e.stated, e.target, e.counted):
        # A last group that is not full is one that is, in panels.
        shape = f"{part.shape[0]}x{part.shape[1] * e.stated.group}"
        where = level_name(e.target, part.level)
        how = "packed" if plan.packs(part.role) else "read in place"
        what = f"{part.what} of {shape}, {in_bytes(part.size)}"
        yield row(FACTORS[part.role], f"{what}, stays in {where}, {how}")
    yield row("prefetch", _blocked_prefetch(plan))
    if plan.pack_from.data:
        yield row("packing", f"where m and n are at least {plan.pack_from.data}")
    elif plan.pack.data != "none":
        yield row("packing", share_of_packing(e))
        if plan.packs_ahead(STREAMED[plan.lanes.data]):
            yield row("", "each panel by the microkernels of the one before it")
    if e.apart:
        yield from sums_apart_rows(e)
    else:
        yield result_row(e)
    if plan.threads.data > 1:
        yield row("threads", f"{plan.threads.data}, each with its own part of rows or columns")


def _turns(e: Explained) -> str:
    unroll = e.plan.k_unroll.data
    extent, chunk = e.problem.extent("k"), e.plan.k_block.data
    if extent and chunk and not e.problem.outer("k"):
        extent = even_split(extent, chunk)[0].size
    deep = _tile(e).depth * e.instruction.k
    steps = -(-extent // deep)
    unit = "" if deep == 1 else f" of {deep} elements"
    if steps <= unroll:
        return f"{number_of(steps, 'step')}{unit}, unrolled completely"
    turns, rest = divmod(steps, unroll)
    tail = f" and {rest} more" if rest else ""
    return f"{number_of(steps, 'step')}{unit} = {number_of(turns, 'turn')} of {unroll}{tail}"


def _prefetch(e: Explained) -> str:
    distance = e.plan.prefetch.data
    if e.plan.ahead.data != "none":
        return f"what follows in the rows of {FACTORS[e.plan.ahead.data]}, into L2"
    if not distance:
        return "none"
    return f"{number_of(distance, 'step')} ahead, what comes from beyond L1"


def _blocked_prefetch(plan: PlanAttr) -> str:
    asked = [name for role, name in FACTORS.items() if plan.asks_ahead(role)]
    lines = [f"the next block's part of {name}, into L2" for name in asked]
    if plan.prefetch.data and not plan.asks_ahead(STREAMED[plan.lanes.data]):
        steps = number_of(plan.prefetch.data, "step")
        lines.append(f"{steps} ahead, what is read in place as registers")
    return "; ".join(lines) or "the result only"


def _packing(e: Explained) -> str:
    packed = next((role for role in ROLES if e.plan.packs(role)), None)
    if packed is None:
        return "none: both factors are read in place"
    into = f" into groups of {e.instruction.k}" if e.instruction.k > 1 else ""
    side = "n" if packed == "rhs" else "m"
    lies = "transposed in registers" if e.problem.stride(packed, side) != 1 else "copied"
    return f"a panel of {FACTORS[packed]} at a time, {lies}{into}: {share_of_packing(e)}"
