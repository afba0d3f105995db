"""A product as the planner sees it: extents and strides, free of IR.

`analyse` reads a `nanokernel.gemm` and says, for each iterator, its kind, its extent and how far
one step along it moves in each operand. Of several iterators of a kind one is *inner*: the one
that a block lies on. The others become loops outside.

For an instruction that takes k in groups the planner sees the product as one of *groups*
(`Problem.in_groups`): an element then is a group, and all it knows of elements holds for groups.

In: one gemm op. Out: a `Problem`. Imports: our dialects, `nkdsl.types`.
"""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from xdsl.dialects.builtin import DYNAMIC_INDEX, MemRefType
from xdsl.ir.affine import AffineMap

from nkdsl.dialects.nanokernel import GemmOp, group_index, iterator_names, linear_coefficients
from nkdsl.errors import Unsupported
from nkdsl.types import ELEMENT_TYPES, ElementType, element_type_of

Kind = Literal["b", "m", "n", "k"]
Role = Literal["lhs", "rhs", "out"]

OWNER: dict[str, tuple[Role, ...]] = {"m": ("lhs", "out"), "n": ("rhs", "out"), "k": ("lhs", "rhs")}
"""Which operands a block's dimension of a kind lies on."""


SCALES = (24, 48, 96, 192, 512, 1024, 2048)
"""What an extent known only at run time is planned as: a plan must be good for all of these."""


@dataclass(frozen=True)
class Operand:
    """Where the elements of one operand lie."""

    strides: tuple[int, ...]
    """Elements moved in memory by one step along each iterator."""
    dims: tuple[int | None, ...]
    """For each iterator, the operand's dimension that it indexes alone with factor 1."""
    group: int = 1
    """Steps of the reduction that lie side by side, where it is cut into groups."""
    within: int | None = None
    """The dimension within a group, where there are groups."""
    scattered: bool = False
    """Whether what makes up a group lies in several places; of a problem in groups."""
    groups: int = 0
    """How many groups there are, if they go on beyond the reduction, as zeros."""


@dataclass(frozen=True)
class Problem:
    """Extents, layouts and types of one product."""

    kinds: tuple[str, ...]
    """b, m, n or k for each iterator."""
    sizes: tuple[int, ...]
    """Extent of each iterator."""
    lhs: Operand
    rhs: Operand
    out: Operand
    operand: ElementType
    """Element type of the left factor."""
    other: ElementType
    """Element type of the right factor, of the same size."""
    accumulator: ElementType
    """Element type of the sums."""
    result: ElementType
    """Element type of the result."""
    from_zero: bool
    """Whether the sums start at zero instead of at the result's old values."""
    inner: tuple[int | None, int | None, int | None]
    """The iterators m, n and k of a block; None where the product has none of a kind."""
    finishes: bool = False
    """Whether sums are no results yet: an epilogue makes those, or a conversion."""
    group: int = 1
    """Steps of the reduction in one element of the factors."""
    whole_groups: bool = True
    """Whether the reduction ends with a whole group."""
    dynamic: frozenset[int] = frozenset()
    """The iterators whose extent is known only at run time; here it is the last of `SCALES`."""
    added_up: Role | None = None
    """The factor whose sums over k are given, to make up for flipped signs of the other one."""
    scales: tuple["Problem", ...] = ()
    """The same product with each of `SCALES` for those extents, where there are any."""

    def extent(self, kind: str) -> int:
        """Extent of the inner iterator of a kind; 1 where there is none."""
        position = self.position(kind)
        return 1 if position is None else self.sizes[position]

    def position(self, kind: str) -> int | None:
        """The inner iterator of a kind."""
        return self.inner["mnk".index(kind)]

    def stride(self, role: Role, kind: str) -> int:
        """Elements that one step along the inner iterator of a kind moves in an operand.

        An extent of one never moves, so it counts as contiguous.
        """
        position = self.position(kind)
        if position is None or self.sizes[position] <= 1:
            return 1
        return self.operand_named(role).strides[position]

    def operand_named(self, role: Role) -> Operand:
        """The operand of a role."""
        return {"lhs": self.lhs, "rhs": self.rhs, "out": self.out}[role]

    def outer(self, *kinds: str) -> tuple[int, ...]:
        """The iterators of some kinds that are not inner, in order."""
        return tuple(p for p in self._outer if self.kinds[p] in kinds)

    @cached_property
    def _outer(self) -> tuple[int, ...]:
        return tuple(p for p in range(len(self.kinds)) if p not in self.inner)

    def outer_trips(self, *kinds: str) -> int:
        """How often the loops over the outer iterators of some kinds run, multiplied."""
        return math.prod(self.sizes[p] for p in self.outer(*kinds))

    @cached_property
    def reduction(self) -> tuple[int, ...]:
        """The reduction's iterators, outermost first; the inner one comes last."""
        inner = self.position("k")
        return (*self.outer("k"), *(() if inner is None else (inner,)))

    @cached_property
    def depth(self) -> int:
        """Steps of the whole reduction."""
        return self.extent("k") * self.outer_trips("k")

    @property
    def size(self) -> int:
        """Bytes of an element, or a group, of a factor."""
        return self.operand.size * self.group

    @property
    def flops(self) -> int:
        """Operations, a multiplication and an addition each counted as one."""
        return 2 * math.prod(self.sizes) * self.group

    def in_groups(self, count: int) -> "Problem":
        """The same product with `count` steps of the inner reduction taken as one.

        A last group that isn't full counts as one that is.
        """
        position = self.position("k")
        if count in (1, self.group):
            return self
        if position is None:
            return replace(self, group=count, whole_groups=False)
        sizes = list(self.sizes)
        alone = sizes[position] <= 1
        whole = sizes[position] % count == 0 and not alone
        sizes[position] = -(-sizes[position] // count)
        lhs, rhs = (
            # A single step is a group of its own wherever it lies.
            operand if alone and operand.group != count else _in_groups(operand, position, count)
            for operand in (self.lhs, self.rhs)
        )
        return replace(
            self,
            sizes=tuple(sizes),
            lhs=lhs,
            rhs=rhs,
            group=count,
            whole_groups=whole,
            scales=tuple(scale.in_groups(count) for scale in self.scales),
        )

    def is_scattered(self, role: Role) -> bool:
        """Whether the groups of a factor must be made up of elements from several places."""
        return self.operand_named(role).scattered

    def __str__(self) -> str:
        return f"{self.extent('m')}x{self.extent('n')}x{self.extent('k')}"


def analyse(op: GemmOp) -> Problem:
    """The problem that a gemm states.

    Raises:
        Unsupported: for element types outside the table, and layouts in which no iterator of a kind
            indexes a dimension alone.
    """
    dynamic = frozenset(p for p, size in enumerate(op.sizes) if size < 0)
    largest = _analyse(op, SCALES[-1])
    if not dynamic:
        return largest
    return replace(largest, dynamic=dynamic, scales=tuple(_analyse(op, s) for s in SCALES))


def _analyse(op: GemmOp, scale: int) -> Problem:
    """The problem with some extent in place of those known only at run time."""
    kinds = op.kinds
    sizes = tuple(scale if size < 0 else size for size in op.sizes)
    lhs, rhs, out = (
        _operand(operand.type, map_, scale, filled=op.is_filled)
        for operand, map_ in zip((op.lhs, op.rhs, op.out), op.indexing_maps[:3], strict=True)
    )
    left, right = (
        element_type_of(_memref(factor.type).element_type, unsigned=op.is_unsigned(role))
        for role, factor in (("lhs", op.lhs), ("rhs", op.rhs))
    )
    result = element_type_of(_memref(op.out.type).element_type)
    if left.mlir != right.mlir:
        raise Unsupported(
            f"factors of different types, {left.name} and {right.name}, are not supported; "
            "convert one of them"
        )
    if op.epilogue is None and result not in _results(left.accumulator, left):
        raise Unsupported(
            f"products of {left.name} and {right.name} are added up in {left.accumulator.name}, "
            f"which a result of {result.name} can't hold as it is; convert in an epilogue"
        )
    if op.from_zero is None and result not in (left.accumulator, *_narrower(left.accumulator)):
        raise Unsupported(
            f"old results of {result.name} can't be added to sums of {left.accumulator.name}; "
            "start from zero, and add them in the epilogue"
        )
    grouped = {
        group.position
        for map_ in op.indexing_maps[:2]
        for result_ in map_.results
        if (group := group_index(result_)) is not None
    }
    operands: dict[Role, Operand] = {"lhs": lhs, "rhs": rhs, "out": out}
    inner = tuple(_inner(kind, op.kinds, sizes, operands, grouped) for kind in "mnk")
    return Problem(
        kinds=kinds,
        sizes=sizes,
        lhs=lhs,
        rhs=rhs,
        out=out,
        operand=left,
        other=right,
        accumulator=left.accumulator,
        result=result,
        from_zero=op.from_zero is not None,
        inner=(inner[0], inner[1], inner[2]),
        finishes=op.epilogue is not None or result != left.accumulator,
        added_up=op.added_up,
    )


def _narrower(sums: ElementType) -> tuple[ElementType, ...]:
    """The types of old results that are extended to sums."""
    if sums.is_integer:
        return ()
    return tuple(t for t in ELEMENT_TYPES if not t.is_integer and t.size < sums.size)


def _results(sums: ElementType, factors: ElementType) -> tuple[ElementType, ...]:
    """The types that sums are stored in without being told how to convert them."""
    return (sums,) if sums.is_integer else (sums, factors)


def _in_groups(operand: Operand, position: int, count: int) -> Operand:
    """An operand of which `count` steps along an iterator are taken as one element."""
    strides = list(operand.strides)
    if operand.group == count or strides[position] == 1:
        # A group is an element: distances are counted in groups.
        steps = (-(-stride // count) for stride in strides)
        strides = list(steps)
        strides[position] = operand.strides[position] if operand.group == count else 1
        return replace(operand, strides=tuple(strides))
    # Each element is wider, and `count` rows are one.
    return replace(operand, scattered=True)


def _memref(type_: object) -> MemRefType:
    assert isinstance(type_, MemRefType)
    return type_


def _operand(type_: object, map_: AffineMap, scale: int, *, filled: bool) -> Operand:
    memref = _memref(type_)
    memref_strides = _strides(memref, scale)
    groups = [group_index(r) for r in map_.results]
    linear = [linear_coefficients(r, map_.num_dims) for r in map_.results]
    nothing = [0] * map_.num_dims
    coefficients = [nothing if entry is None else entry[0] for entry in linear]
    strides = [0] * map_.num_dims
    for row, stride in zip(coefficients, memref_strides, strict=True):
        for position, factor in enumerate(row):
            strides[position] += factor * stride
    dims = list(_lone_dims(coefficients, map_.num_dims))
    size, within, count = 1, None, 0
    for dim, (group, stride) in enumerate(zip(groups, memref_strides, strict=True)):
        if group is not None and group.within:
            size, within = group.size, dim
        elif group is not None:
            dims[group.position] = dim
            count = memref.get_shape()[dim] if filled else 0
            strides[group.position] = max(1, stride // group.size)
    return Operand(tuple(strides), tuple(dims), size, within, groups=count)


def _strides(memref: MemRefType, scale: int) -> tuple[int, ...]:
    """Strides in elements; those known only at run time are what a contiguous memref has."""
    strides = memref.get_strides()
    if strides is None:
        raise Unsupported(f"{memref} needs a strided layout")
    shape = [scale if n == DYNAMIC_INDEX else n for n in memref.get_shape()]
    order = sorted(range(len(shape)), key=lambda d: (strides[d] is None, -d))
    found: dict[int, int] = {}
    for d in order:
        known = strides[d]
        inner = max((found[e] * shape[e] for e in found), default=1)
        found[d] = max(inner, 2) if known is None else known
    return tuple(found[d] for d in range(len(shape)))


def _lone_dims(coefficients: Sequence[Sequence[int]], num_dims: int) -> tuple[int | None, ...]:
    """For each iterator the one dimension whose index grows by 1 with it, if it is the only one."""
    dims: list[int | None] = []
    for position in range(num_dims):
        users = [d for d, row in enumerate(coefficients) if row[position]]
        alone = len(users) == 1 and coefficients[users[0]][position] == 1
        dims.append(users[0] if alone else None)
    return tuple(dims)


def _inner(
    kind: str,
    kinds: Sequence[str],
    sizes: Sequence[int],
    operands: Mapping[Role, Operand],
    grouped: Set[int],
) -> int | None:
    """Of the iterators of a kind, the one in groups, or that moves least where it lies."""
    owners = [operands[role] for role in reversed(OWNER[kind])]
    candidates = [p for p, k in enumerate(kinds) if k == kind]
    if not candidates:
        return None
    usable = [p for p in candidates if all(o.dims[p] is not None for o in owners)]
    if not usable:
        raise Unsupported(
            f"no iterator of kind {kind} indexes a dimension of its own in both operands; "
            f"iterators are {', '.join(iterator_names(kinds))}"
        )

    def rank(position: int) -> tuple[int, ...]:
        moves = (abs(owner.strides[position]) for owner in owners)
        return position not in grouped, sizes[position] <= 1, *moves

    return min(usable, key=rank)
