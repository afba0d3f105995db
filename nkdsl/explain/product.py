"""One planned product as `explain` reads it, and the lines that plans of all kinds share.

In: a `nanokernel.gemm` with its plan. Out: an `Explained`, which holds the planner's own answers,
and rows of text, with a label in the first column.

Imports: our dialects, the planner.
"""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nkdsl.dialects.nanokernel import GemmOp, PlanAttr, YieldOp
from nkdsl.errors import InvalidInput
from nkdsl.planner import Cost, Problem, analyse, check_plan
from nkdsl.planner.blocking import accumulates_apart
from nkdsl.planner.cost import Call
from nkdsl.planner.problem import Role
from nkdsl.planner.search import grouped, is_tiled
from nkdsl.planner.split import Run
from nkdsl.targets import get_target
from nkdsl.targets.model import Instruction, Target, TileInstruction

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
    def is_tiled(self) -> bool:
        """Whether the plan multiplies tiles."""
        return is_tiled(self.target, self.plan)

    @property
    def lanes(self) -> str:
        """The dimension along the lanes."""
        return self.plan.lanes.data

    @property
    def main(self) -> Call:
        """The block shape that most of the time is spent on."""
        return max(self.cost.calls, key=lambda call: call.cycles * call.count)

    @property
    def apart(self) -> bool:
        """Whether sums are kept in the workspace until their reduction is over."""
        return self.plan.blocked and accumulates_apart(self.stated, self.counted)

    @property
    def peak(self) -> float:
        """Operations that the instruction starts a cycle; of vectors as long as plans assume."""
        i, unit = self.instruction, self.target.tiles
        scalable = isinstance(i, TileInstruction) and i.scalable
        scale = unit.vscale if scalable and unit is not None else 1
        return i.flops * scale**2 * i.per_cycle

    @property
    def whole(self) -> float:
        """Cycles of all calls of one walk over the blocks."""
        return sum(call.cycles * call.count for call in self.cost.calls)

    def runs(self, kind: str) -> tuple[Run, ...]:
        """How blocks cover the rows, m, or the columns, n."""
        every = (call.rows if kind == "m" else call.columns for call in self.cost.calls)
        return tuple(dict.fromkeys(every))


# -------------------------------------------------------------------------------------- rows


def row(label: str, text: str) -> str:
    """One line."""
    return f"{label:<{LABEL}}{text}".rstrip()


def wrapped(label: str, words: str) -> Iterator[str]:
    """Words on as many lines as they need."""
    for number, line in enumerate(textwrap.wrap(words, LINE - LABEL)):
        yield row("" if number else label, line)


def indented(label: str, lines: Sequence[str]) -> Iterator[str]:
    """Loops, each within the one above it."""
    for depth, line in enumerate(lines):
        yield row("" if depth else label, f"{'  ' * depth}{line}")


def latency_row(e: Explained, accumulators: int) -> str:
    """Whether accumulators are enough to hide the instruction's latency."""
    i = e.instruction
    needed = i.latency * i.per_cycle
    relation, verdict = ("≥", "hidden") if accumulators >= needed else ("<", "not hidden")
    return row(
        "latency",
        f"{number_of(accumulators, 'independent accumulator')} {relation} {i.latency} cycles × "
        f"{i.per_cycle:g} a cycle = {needed:g}: {verdict}",
    )


def groups_rows(e: Explained, sources: Mapping[Role, str]) -> Iterator[str]:
    """The groups that an instruction takes k in, and where those of each factor come from."""
    size, extent = e.instruction.k, e.problem.extent("k")
    if size == 1:
        return
    rest = extent % size
    filled = f", the last one filled up with {number_of(size - rest, 'zero')}" if rest else ""
    yield row(
        "groups",
        f"of {size} k in each lane (VNNI): k = {extent} is "
        f"{number_of(-(-extent // size), 'group')}{filled}",
    )
    for role in ROLES:
        yield row("", f"{FACTORS[role]}: {sources[role]}")


def epilogue_rows(e: Explained, where: str) -> Iterator[str]:
    """What is done to the sums, and where."""
    if not e.problem.finishes:
        return
    if e.op.epilogue is None:
        steps = f"rounds to {e.problem.result.name}"
    else:
        ops = [op.name for op in e.op.epilogue.block.ops if not isinstance(op, YieldOp)]
        names = [name for name in ops if name != "arith.constant"]
        steps = ", ".join(name.partition(".")[2] for name in names) or "nothing"
    yield row("epilogue", where)
    yield from wrapped("", steps)


def step_rows(resources: Sequence[tuple[str, float, str]]) -> Iterator[str]:
    """The cycles that resources ask for in a step: name, cycles, why. The bound has a mark."""
    bound = max(resources, key=lambda resource: resource[1])[0]
    for name, cycles, why in resources:
        mark = "*" if name == bound else " "
        yield row("", f"{mark} {name:<16}{cycles:6.2f}   {why}")


def block_rows(
    e: Explained, head: str, registers: Callable[[Call], str], bound: Callable[[str], str]
) -> Iterator[str]:
    """The table of block shapes.

    `head` and `registers`: what is told of the registers of each; `bound`: what a bound is called.
    """
    yield row("blocks", _BLOCK.format("shape", "count", head, "a step", "a call", "time", "bound"))
    for call in e.cost.calls:
        cells = (
            f"{call.rows.size}x{call.columns.size}",
            call.count,
            registers(call),
            f"{call.step.cycles:.2f}",
            f"{call.cycles:.0f}",
            f"{call.cycles * call.count / (e.whole or 1.0):.0%}",
            bound(call.step.bound),
        )
        yield row("", _BLOCK.format(*cells))
    if e.cost.repeats > 1:
        yield row("", f"all of it {e.cost.repeats} times, once for each step of the outer loops")


def sums_apart_rows(e: Explained) -> Iterator[str]:
    """The block of sums that waits in the workspace until its reduction is over."""
    p, plan = e.problem, e.plan
    rows, columns = (
        min(block.data or p.extent(kind), p.extent(kind))
        for kind, block in (("m", plan.m_block), ("n", plan.n_block))
    )
    size = rows * columns * p.accumulator.size
    yield row(
        "sums",
        f"a block of {rows}x{columns} in {p.accumulator.name}, {in_bytes(size)} of workspace, "
        f"updated {number_of(e.cost.chunks, 'time')}",
    )
    yield row("result", "written once, when a block's sums are complete")


def result_row(e: Explained) -> str:
    """How often the result is read and written."""
    p = e.problem
    moved = p.extent("m") * p.extent("n") * p.result.size
    if p.from_zero and e.cost.chunks == 1:
        return row("result", f"written once: {in_bytes(moved)} stored")
    times = 2 * e.cost.chunks - p.from_zero
    return row(
        "result",
        f"updated {number_of(e.cost.chunks, 'time')}: {in_bytes(times * moved)} loaded and stored",
    )


# ------------------------------------------------------------------------------------- words


def run_in_words(run: Run) -> str:
    """`3×64`, or `63` of a single block."""
    return f"{run.count}×{run.size}" if run.count > 1 else f"{run.size}"


def share_of_packing(e: Explained) -> str:
    """Cycles that packing takes, and their share of all."""
    share = e.cost.repeats * e.cost.packing / e.cost.cycles if e.cost.cycles else 0.0
    return f"{e.cost.packing:.0f} cycles in all, {share:.1%} of the time"


def level_name(target: Target, level: int) -> str:
    """`L2`, or memory."""
    return f"L{level + 1}" if level < len(target.caches) else "memory"


def number_of(number: int, what: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def in_bytes(size: int) -> str:
    """`36 KiB`."""
    for unit, scale in (("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} bytes"


def quantity(number: int) -> str:
    """`2.147 G `."""
    for prefix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.4g} {prefix} "
    return f"{number} "
