"""Sections on a plan of outer products, on tiles that are as large as vectors are long.

A plan's block is the part of the result that one microkernel computes, in elements; tiles cover it
where the code runs, as many as it takes there. Everything in cycles is for vectors as long as the
target's table assumes.

Imports: the planner, `nkdsl.explain.product`, `nkdsl.explain.tiles`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from nkdsl.explain.product import (
    FACTORS,
    ROLES,
    Explained,
    block_rows,
    epilogue_rows,
    groups_rows,
    in_bytes,
    latency_row,
    level_name,
    number_of,
    row,
    run_in_words,
    share_of_packing,
    step_rows,
)
from nkdsl.explain.tiles import loop_rows, named_bound, result_rows
from nkdsl.planner.blocking import sides_of
from nkdsl.planner.cost import cache_level
from nkdsl.planner.outer_products import tile_grid
from nkdsl.planner.problem import Role
from nkdsl.planner.tiles import tile_instruction
from nkdsl.targets.model import TileInstruction, TileUnit


@dataclass(frozen=True)
class Outer:
    """An explained product of outer products, with what its sections ask for again and again."""

    e: Explained

    @cached_property
    def instruction(self) -> TileInstruction:
        """What multiplies."""
        return tile_instruction(self.e.target, self.e.plan)

    @property
    def unit(self) -> TileUnit:
        """The tiles."""
        assert self.e.target.tiles is not None
        return self.e.target.tiles

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Tiles across and along the lanes that are summed up at once."""
        return tile_grid(self.unit)

    @property
    def accumulators(self) -> int:
        """All of these tiles."""
        return self.grid[0] * self.grid[1]

    @property
    def side(self) -> int:
        """Rows, and columns, of a tile for vectors as long as plans assume."""
        return self.instruction.lanes * self.unit.vscale

    @property
    def assumed(self) -> str:
        """The vectors that plans assume, in words."""
        return f"vectors of {self.unit.vector_bits} bits"


def sections(e: Explained) -> Iterator[str]:
    """Everything between the product and what is predicted for it."""
    o = Outer(e)
    yield from _plan(o)
    yield ""
    yield from _step(o)
    yield ""
    yield from _cover(o)
    yield ""
    yield from _registers(o)
    yield ""
    across, along = o.grid
    yield from loop_rows(
        e, f"{across}x{along} tiles at a time, for each all of this part of k, {_depth(o)} a step"
    )
    yield from _caches(o)


def _depth(o: Outer) -> str:
    return number_of(o.instruction.steps, "element")


def _plan(o: Outer) -> Iterator[str]:
    e, (across, along) = o.e, o.grid
    mr, nr = e.plan.block
    name = f"{o.instruction.name} ({o.instruction.mnemonic})"
    yield row("plan", f"{mr}x{nr} a microkernel, lanes along {e.lanes}, {name}")
    yield row(
        "tiles",
        f"{across}·{along} accumulators = {o.accumulators} ≤ {o.unit.registers} of {o.unit.name}, "
        f"{o.side}x{o.side} each with {o.assumed}",
    )
    yield latency_row(e, o.accumulators)
    yield from groups_rows(e, {role: _source(e, role) for role in ROLES})
    yield from epilogue_rows(e, "on sums in the workspace, a vector register at a time")


def _source(e: Explained, role: Role) -> str:
    """Where the vectors of a factor are loaded from."""
    if e.plan.packs(role):
        return "packed into panels of groups"
    return "lies in groups, read in place"


def _step(o: Outer) -> Iterator[str]:
    e, step = o.e, o.e.main.step
    across, along = o.grid
    loads = {sides_of(e.lanes).broadcast: across, sides_of(e.lanes).vector: along}
    yield row("step", f"of {across}x{along} tiles, in cycles, with {o.assumed}:")
    yield from step_rows(
        (
            ("multiplier", step.fma, f"{o.accumulators}, {o.instruction.per_cycle:g} a cycle"),
            ("latency", step.latency, "one addition after another into each accumulator"),
            (
                "load ports",
                step.loads,
                f"{number_of(loads['lhs'], 'vector')} of A + {loads['rhs']} of B, "
                f"{e.target.loads_per_cycle:g} a cycle",
            ),
            ("cache bandwidth", step.stream, f"panels come from {_panels_level(o)}"),
            ("issue slots", step.issue, f"{e.target.issue_width} a cycle"),
        )
    )
    rate = o.accumulators * 2 * o.side**2 * o.instruction.k / step.cycles
    yield row("", f"* is the bound: {rate:.1f} of {e.peak:g} operations a cycle")


def _panels_bytes(o: Outer) -> int:
    """Bytes of the panels that a microkernel reads."""
    e = o.e
    depth = e.counted.k_block.data or max(1, e.stated.extent("k"))
    return sum(e.plan.block) * depth * e.stated.size


def _panels_level(o: Outer) -> str:
    """The cache that holds them."""
    return level_name(o.e.target, cache_level(o.e.target, _panels_bytes(o)))


def _cover(o: Outer) -> Iterator[str]:
    """How blocks cover the product."""
    e = o.e
    for label, kind in (("rows", "m"), ("columns", "n")):
        parts = " + ".join(run_in_words(run) for run in e.runs(kind))
        yield row(label, f"{parts} = {e.problem.extent(kind)}")
    yield from block_rows(e, "tiles", lambda _: f"{o.grid[0]}x{o.grid[1]}", named_bound)
    yield row("edges", "vectors and tiles end where a block does; nothing is filled up but groups")


def _registers(o: Outer) -> Iterator[str]:
    """Which tile holds what; factors are vectors."""
    e, (across, along) = o.e, o.grid
    sides = sides_of(e.lanes)
    yield row("map", f"of tiles, as {sides.across} by {sides.along}, in vectors:")
    heads = "".join(f"{f'{sides.along}+{column}':>9}" for column in range(along))
    yield row("", f"{'':>6}{heads}   {FACTORS[sides.vector]}: {number_of(along, 'vector')}")
    for number in range(across):
        first = number * along
        sums = "".join(f"{f'c{number}{j}=za{first + j}':>9}" for j in range(along))
        remark = "" if number else f"   {FACTORS[sides.broadcast]}: {number_of(across, 'vector')}"
        yield row("", f"{f'{sides.across}+{number}':>6}{sums}{remark}")


def _caches(o: Outer) -> Iterator[str]:
    """Where panels wait, and what moving data costs."""
    e = o.e
    packed = " and ".join(FACTORS[role] for role in ROLES if e.plan.packs(role))
    size = in_bytes(_panels_bytes(o))
    yield row("panels", f"of one block: {size}, in {_panels_level(o)}")
    yield row("packing", f"{packed}: {share_of_packing(e)}" if packed else "none")
    yield row("mode", f"entered and left in each microkernel, {o.unit.configure_cycles:g} cycles")
    yield from result_rows(e)
