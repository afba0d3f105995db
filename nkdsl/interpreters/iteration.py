"""The iteration space of an operation with index maps: linalg's, and `nanokernel.gemm`.

All parallel iterators are executed at once, on numpy arrays; the sequential ones (those that are
summed over) one after the other, so that every addition is rounded in the order of the loop.
For that each operand is turned into an array of positions in its allocation, one axis for each
iterator: parallel ones first, sequential ones last. An axis on which the operand does not depend
has extent 1 and broadcasts.

For `C[m, n] += A[m, k] * B[k, n]` of 8x48x256, positions of A have shape (8, 1, 256), those of B
(1, 48, 256) and those of C (8, 48, 1); `at` picks one k.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from xdsl.ir.affine import AffineDimExpr, AffineMap
from xdsl.utils.exceptions import InterpretationError

from nkdsl.dialects.nanokernel import group_index
from nkdsl.interpreters.buffer import Array, Buffer, Positions

Steps = tuple[int, ...]
"""A point in the space of the sequential iterators."""


@dataclass(frozen=True)
class Iteration:
    """Iterators with their extents, and which of them run one step after the other."""

    parallel: tuple[int, ...]
    """Extents of the iterators executed at once."""
    sequential: tuple[int, ...]
    """Extents of the iterators executed step by step, the outermost first."""
    extents: tuple[int, ...]
    """Extents of all iterators, in the maps' numbering."""
    grids: tuple[Positions, ...]
    """For each iterator, in the maps' numbering, its values on its own axis."""

    @classmethod
    def of(
        cls, maps: Sequence[AffineMap], operands: Sequence[Any], sequential: Sequence[int]
    ) -> Self:
        """The space that the operands' shapes span.

        Args:
            maps: one index map an operand.
            operands: buffers; anything else is a scalar, whose map has no results.
            sequential: the positions of the iterators to be executed step by step.

        Raises:
            InterpretationError: if an extent is not known or not the same everywhere.
        """
        extents = _extents(maps, operands)
        parallel = [d for d in range(len(extents)) if d not in sequential]
        order = [*parallel, *sequential]
        axes = np.ogrid[tuple(slice(extents[d]) for d in order)] if order else ()
        return cls(
            tuple(extents[d] for d in parallel),
            tuple(extents[d] for d in sequential),
            extents,
            tuple(np.asarray(axes[order.index(d)]) for d in range(len(extents))),
        )

    def positions(self, buffer: Buffer, map_: AffineMap) -> Positions:
        """Where the elements of an operand lie; raises `InterpretationError` out of bounds."""
        indices = [_evaluate(map_, result, self.grids) for result in range(len(map_.results))]
        positions = buffer.elements(indices)
        # Maps of constants alone give a number.
        return positions.reshape((1,) * (len(self.grids) - positions.ndim) + positions.shape)

    def steps(self) -> Iterator[Steps]:
        """The sequential iterators' values, in order; one empty point if there are none."""
        return iter(np.ndindex(*self.sequential))


def at(positions: Positions, step: Steps) -> Positions:
    """The positions at one point of the sequential iterators.

    Operands that don't depend on an iterator are the same at all of its points, and exist even if
    it has none.
    """
    if not step:
        return positions
    axes = positions.shape[-len(step) :]
    points = (point if extent != 1 else 0 for point, extent in zip(step, axes, strict=True))
    where: tuple[Any, ...] = (..., *points)
    return np.asarray(positions[where])


def gather(buffer: Buffer, positions: Positions, step: Steps) -> Array:
    """The elements of an operand at one point of the sequential iterators."""
    return np.asarray(buffer.data[at(positions, step)])


def _evaluate(map_: AffineMap, result: int, grids: tuple[Positions, ...]) -> Positions:
    # `eval` is written for integers; its operators mean the same on arrays of them.
    value: Any = map_.results[result].eval(grids, ())  # type: ignore[arg-type]
    return np.asarray(value)


def _extents(maps: Sequence[AffineMap], operands: Sequence[Any]) -> tuple[int, ...]:
    extents: dict[int, int] = {}
    for map_, operand in zip(maps, operands, strict=True):
        shape = operand.shape if isinstance(operand, Buffer) else ()
        for result, extent in zip(map_.results, shape, strict=True):
            if not isinstance(result, AffineDimExpr):
                continue
            known = extents.setdefault(result.position, extent)
            if known != extent:
                raise InterpretationError(
                    f"iterator d{result.position} has extent {known} and {extent}"
                )
    for map_, operand in zip(maps, operands, strict=True):
        shape = operand.shape if isinstance(operand, Buffer) else ()
        for result, extent in zip(map_.results, shape, strict=True):
            group = group_index(result)
            if group is not None and not group.within:
                # In groups everywhere: all of the last one counts.
                extents.setdefault(group.position, extent * group.size)
    missing = [d for d in range(maps[0].num_dims) if d not in extents]
    if missing:
        raise InterpretationError(f"no operand gives the extent of iterator d{missing[0]}")
    return tuple(extents[d] for d in range(maps[0].num_dims))
