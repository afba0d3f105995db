"""Sizes to try for a kernel that leaves some open: around its blocks' boundaries, and primes.

One dimension is varied at a time, the others being odd numbers that no block divides; then all of
them at once. In: a signature and plans. Out: shapes of arguments.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nkdsl.runtime.signature import DYNAMIC, Parameter, Place, Signature

PRIMES = (2, 7, 31, 61, 127, 211)
BESIDE = (37, 53, 29)
"""Sizes of the dimensions that are not varied."""

LARGEST = 2048
"""Boundaries beyond are not tried: the blocks before them have shown as much."""

SQUARES = (64, 256, 1024)
"""What speed is measured for."""

Shapes = tuple[tuple[int, ...], ...]
"""The shape of each argument; of a number ()."""


@dataclass(frozen=True)
class Open:
    """What a signature leaves open: sizes that may be chosen, each for some places."""

    signature: Signature
    groups: tuple[tuple[Place, ...], ...]
    """Places of equal size, all of them open."""

    @classmethod
    def of(cls, signature: Signature) -> "Open":
        """The open sizes of a signature."""
        fixed: set[Place] = set()
        groups: list[tuple[Place, ...]] = []
        for places in signature.equal:
            known = any(_size(signature.parameters, place) != DYNAMIC for place in places)
            fixed.update(places)
            if not known:
                groups.append(places)
        for argument, parameter in enumerate(signature.parameters):
            for dimension in parameter.open_sizes:
                if (argument, dimension) not in fixed:
                    groups.append(((argument, dimension),))
        return cls(signature, tuple(groups))

    def shapes(self, sizes: Sequence[int]) -> Shapes:
        """The arguments' shapes for a size of each group."""
        parameters = self.signature.parameters
        chosen: dict[Place, int] = {}
        for places in self.signature.equal:
            known = [_size(parameters, p) for p in places if _size(parameters, p) != DYNAMIC]
            chosen |= dict.fromkeys(places, known[0] if known else DYNAMIC)
        for places, size in zip(self.groups, sizes, strict=True):
            chosen |= dict.fromkeys(places, size)
        for reach in self.signature.reaches:
            if _size(parameters, reach.place) == DYNAMIC:
                terms = [chosen.get(place, _size(parameters, place)) for _, place in reach.terms]
                chosen[reach.place] = max(chosen.get(reach.place, 0), reach.bounds(terms)[1] + 1)
        return tuple(
            tuple(
                chosen.get((a, d), size) if size == DYNAMIC else size
                for d, size in enumerate(p.shape)
            )
            for a, p in enumerate(parameters)
        )

    def tried(self, plans: Sequence[str]) -> Iterator[Shapes]:
        """Shapes to try, for the plans of a kernel."""
        near = sorted({1, *PRIMES, *_boundaries(plans)})
        count = len(self.groups)
        beside = [BESIDE[group % len(BESIDE)] for group in range(count)]
        for group in range(count):
            for size in near:
                yield self.shapes([*beside[:group], size, *beside[group + 1 :]])
        moderate = [size for size in near if size < 2 * PRIMES[-1]]
        for start in range(len(moderate)):
            chosen = (
                moderate[(start * (group + 1) + group) % len(moderate)] for group in range(count)
            )
            yield self.shapes(list(chosen))

    def squares(self) -> Iterator[tuple[int, Shapes]]:
        """Shapes to measure, each with the size that all that is open has."""
        for size in SQUARES:
            yield size, self.shapes([size] * len(self.groups))


def _size(parameters: Sequence[Parameter], place: Place) -> int:
    argument, dimension = place
    return parameters[argument].shape[dimension]


def _boundaries(plans: Sequence[str]) -> Iterator[int]:
    """The sizes of the blocks of some plans and their multiples, and one element beside them."""
    found: set[int] = set()
    for plan in plans:
        for name in ("k_unroll", "m_block", "n_block", "k_block", "pack_from"):
            match = re.search(rf"\b{name} = (\d+)", plan)
            found.update([int(match[1])] if match else [])
        match = re.search(r"\bblock = (\d+)x(\d+)", plan)
        for size in map(int, match.groups()) if match else ():
            found |= {size, 2 * size}
    for size in found:
        yield from (n for n in (size - 1, size, size + 1) if 0 < n <= LARGEST)


def strides_of(parameter: Parameter, shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements for an array of some shape, without holes as far as they are open."""
    found = dict[int, int]()
    for d in sorted(range(len(shape)), key=lambda d: (parameter.strides[d] == DYNAMIC, -d)):
        inner = max((found[e] * max(1, shape[e]) for e in found), default=1)
        found[d] = inner if parameter.strides[d] == DYNAMIC else parameter.strides[d]
    if parameter.dense:
        return tuple(s // parameter.element.size for s in parameter.strides_for(shape))
    return tuple(found[d] for d in range(len(shape)))
