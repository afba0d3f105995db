"""Even splits: how a size is covered by blocks no larger than a given one.

A size is never cut into full blocks and a small rest, because a small block has few FMAs to hide
its loads behind. 100 rows in blocks of at most 8 are 9 blocks of 8 and 4 of 7.
"""

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Run:
    """Consecutive blocks of one size."""

    start: int
    """Where the first block begins, in elements."""
    size: int
    """Elements of each block."""
    count: int
    """Number of blocks."""

    @property
    def end(self) -> int:
        """Where the last block ends."""
        return self.start + self.size * self.count


@cache
def even_split(size: int, block: int) -> tuple[Run, ...]:
    """Cover `size` with the fewest blocks of at most `block`, their sizes differing by at most 1.

    The larger blocks come first. A size of zero needs no block.
    """
    if size == 0:
        return ()
    blocks = -(-size // block)
    small, larger = divmod(size, blocks)
    runs = (
        Run(0, small + 1, larger),
        Run((small + 1) * larger, small, blocks - larger),
    )
    return tuple(run for run in runs if run.count)


@cache
def even_split_lanes(size: int, block: int, lanes: int) -> tuple[Run, ...]:
    """As `even_split`, but blocks start at multiples of `lanes`; only the last may end ragged."""
    vectors = -(-size // lanes)
    runs = [
        Run(r.start * lanes, r.size * lanes, r.count) for r in even_split(vectors, block // lanes)
    ]
    if not runs or runs[-1].end == size:
        return tuple(runs)
    last = runs.pop()
    tail_start = last.end - last.size
    if last.count > 1:
        runs.append(Run(last.start, last.size, last.count - 1))
    return (*runs, Run(tail_start, size - tail_start, 1))
