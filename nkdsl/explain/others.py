"""The plans that came next: others of the chosen one's kind, and the best of the other kind.

A target with tiles multiplies some pairs of types by vectors and by tiles. The planner's costs
decide for each product, and here it says what the decision was about.

Imports: the planner, `nkdsl.explain.product`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nkdsl.dialects.nanokernel import PlanAttr
from nkdsl.errors import Unsupported
from nkdsl.explain.product import FACTORS, ROLES, Explained, row, wrapped
from nkdsl.planner import check_plan
from nkdsl.planner.search import candidates, cost_of, every_instruction, is_tiled

RUNNERS_UP = 4
"""How many other plans are shown."""


@dataclass(frozen=True)
class Other:
    """A plan that the planner compared."""

    plan: PlanAttr
    cycles: float


def other_rows(e: Explained) -> Iterator[str]:
    """The best plans of other blocks or lanes; then the best of the other kind."""
    ranked = _ranked(e)
    alike = [o for o in ranked if is_tiled(e.target, o.plan) == e.is_tiled]
    for number, other in enumerate(alike[:RUNNERS_UP]):
        yield from wrapped("" if number else "others", _other(e, other))
    if e.target.tiles is None:
        return
    unlike = next((o for o in ranked if is_tiled(e.target, o.plan) != e.is_tiled), None)
    yield from _best_of_vectors(e, unlike) if e.is_tiled else _best_of_tiles(e, unlike)


def _ranked(e: Explained) -> list[Other]:
    """For each instruction, block and lanes other than the chosen ones, the best plan."""
    best: dict[object, Other] = {}
    for plan in _compared(e):
        key = _key(plan)
        cycles = _cycles(e, plan)
        if key != _key(e.plan) and (key not in best or cycles < best[key].cycles):
            best[key] = Other(plan, cycles)
    return sorted(best.values(), key=lambda other: other.cycles)


def _compared(e: Explained) -> Iterable[PlanAttr]:
    """The plans of all instructions."""
    for instruction in every_instruction(e.problem, e.target):
        for plan in candidates(e.problem, e.target, instruction):
            if _is_shareable(e, plan):
                yield plan


def _is_shareable(e: Explained, plan: PlanAttr) -> bool:
    """Whether as many threads as share the product could share it under another plan."""
    return e.plan.threads.data == 1 or plan.blocked or is_tiled(e.target, plan)


def _key(plan: PlanAttr) -> object:
    return plan.instruction, plan.block, plan.lanes


def _cycles(e: Explained, plan: PlanAttr) -> float:
    try:
        return check_plan(e.problem, e.target, plan).cycles
    except Unsupported:
        return float("inf")


# ------------------------------------------------------------------------------------- words


def _other(e: Explained, other: Other) -> str:
    """One plan on a line, in columns."""
    return f"{_block(other):<7} {_words(e, other)}"


def _block(other: Other) -> str:
    mr, nr = other.plan.block
    return f"{mr}x{nr}"


def _words(e: Explained, other: Other) -> str:
    """What is to be said of a plan beside its block."""
    plan = other.plan
    packed = " and ".join(FACTORS[role] for role in ROLES if plan.packs(role))
    by = f"{plan.instruction.data}, " if plan.instruction != e.plan.instruction else ""
    pack = f", pack {packed}" if packed else ""
    pack += ", cache blocks" if plan.blocked else ""
    resident = FACTORS[plan.resident.data]
    return f"{by}lanes along {plan.lanes.data}, {resident} resident{pack}: {_time(e, other)}"


def _time(e: Explained, other: Other) -> str:
    """`8110 cycles, +3.4%`."""
    more = other.cycles / e.cost.cycles - 1
    # A vector kernel may take several times as long as tiles.
    relation = f"{more:+.1%}" if more < 1 else f"{more + 1:.1f} times as long"
    return f"{other.cycles:.0f} cycles, {relation}"


def _best_of_vectors(e: Explained, best: Other | None) -> Iterator[str]:
    """What the product would take without tiles."""
    if best is not None:
        yield from wrapped("vectors", _other(e, best))


def _best_of_tiles(e: Explained, best: Other | None) -> Iterator[str]:
    """What tiles would take, and how little of them would be used."""
    unit, p = e.target.tiles, e.problem
    assert unit is not None
    instruction = e.target.tile_instruction_for(p.operand, p.other)
    if instruction is None:
        types = f"{p.operand.name}·{p.other.name}"
        yield row("tiles", f"none: {unit.name} of this target does not multiply {types}")
        return
    if best is None:
        yield row("tiles", f"none: no block of {instruction.name} fits the operands' layouts")
        return
    share = cost_of(p, e.target, best.plan).share_of_peak
    words = f"considered: {_block(best)} of {_words(e, best)}, {share:.1%} of their peak"
    yield from wrapped("tiles", words)
