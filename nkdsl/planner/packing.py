"""What it costs to pack a factor for tiles: vectors moved, interleaved or transposed, and lines.

In: a `Problem`, of groups where the instruction takes k in groups, and a `Target`. Out: cycles.
"""

from nkdsl.planner.cost import FAR_MISS_CYCLES, bytes_per_cycle, cache_level, grouping_cycles
from nkdsl.planner.problem import Problem, Role
from nkdsl.targets.model import Target

WORD = 4
"""Bytes of the smallest lanes that registers are transposed in."""


def packing_of(
    problem: Problem, target: Target, role: Role, kind: str, along: str | None = None
) -> float:
    """Cycles to pack a factor once.

    Args:
        problem: the product.
        target: what packs.
        role: the factor.
        kind: its own dimension, m or n.
        along: the dimension along a panel's rows: its own, or k.
    """
    along = along or kind
    elements = problem.extent(kind) * problem.extent("k")
    lanes = target.vector_bytes // max(problem.size, WORD)
    vectors, moved = elements / lanes, elements * problem.size
    cost = vectors * (1 / target.loads_per_cycle + 1 / target.stores_per_cycle)
    if problem.stride(role, along) != 1:
        cost += vectors * (lanes.bit_length() - 1) / target.shuffles_per_cycle
    elif along == kind:
        cost = max(cost, vectors * grouping_cycles(problem, target, role))
    level = cache_level(target, moved)
    arriving = moved / bytes_per_cycle(target, max(1, level)) + 2 * moved / bytes_per_cycle(
        target, 1
    )
    if level >= 2:
        # Rows are asked for ahead, but a core bears half of what it would without that.
        arriving += moved / target.caches[0].line * FAR_MISS_CYCLES[min(level, 3) - 2] / 2
    return max(cost, arriving)
