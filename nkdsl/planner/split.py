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


def split_evenly(size: int, block: int, unit: int) -> tuple[Run, ...]:
    """`even_split`, in blocks that start at multiples of `unit`."""
    return even_split(size, block) if unit == 1 else even_split_lanes(size, block, unit)


@cache
def extents_of(bounds: tuple[int, int | None], block: int, unit: int) -> tuple[int, int]:
    """The smallest and the largest block into which a size within some bounds is split."""
    low, high = bounds
    if low == high:
        sizes = [run.size for run in split_evenly(low, block, unit)]
        return min(sizes, default=1), max(sizes, default=1)
    largest, fewest = block // unit, max(1, -(-low // unit))
    # From largest² units on, the smaller blocks are at most one unit short of the larger.
    most = fewest + largest**2
    if high is not None:
        most = min(most, -(-high // unit))
    counts = range(-(-fewest // largest), -(-most // largest) + 1)
    # The blocks are smallest where so many are only just needed.
    smallest = min(max(fewest, (count - 1) * largest + 1) // count for count in counts)
    # The last block may end ragged.
    ragged = (smallest - 1) * unit + 1
    return ragged, block if high is None else min(block, high)


def last_extent(bounds: tuple[int, int | None], block: int, unit: int) -> int:
    """The smallest last block where all blocks but that are the same multiple of `unit`."""
    low, high = bounds
    if low != high:
        return 1
    units = -(-low // unit)
    blocks = -(-units // (block // unit))
    return low - (blocks - 1) * -(-units // blocks) * unit
