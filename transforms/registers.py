"""Building `nkvector` ops, one a register: loads, stores, shuffles, and networks of shuffles.

Shared by the pass `unroll` and its packing. Two rearrangements of lanes are known here:

- `sum_lanes` adds up the lanes of up to L registers into one, in log2(L) rounds;
- `transpose` turns L registers of L lanes by 90 degrees, in log2(L) rounds.

A target without mask registers can mask lanes of four bytes and more (vmaskmov). What a register
holds of smaller elements is loaded and stored in *parts* there, of 8, 4, 2 and 1 elements if the
register has 16 lanes: whichever of them its number of elements is the sum of.

```mlir
%r = nkvector.load %a[%i], %active : memref<?xbf16>, vector<8xbf16>
// becomes, where 6 elements are active
%p4 = nkvector.load %a[%i] : memref<?xbf16>, vector<4xbf16>
%p2 = nkvector.load %a[%i + 4] : memref<?xbf16>, vector<2xbf16>
%h = nkvector.shuffle %p2, %zeros [0, 1, 2, 3] : vector<2xbf16>
%r = nkvector.shuffle %p4, %h [0, 1, 2, 3, 4, 5, 6, 7] : vector<4xbf16>
```

Imports: our dialects, targets, `nkdsl.planner.registers`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from xdsl.dialects import arith
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    AnyFloat,
    DenseIntOrFPElementsAttr,
    FloatAttr,
    IntegerType,
    MemRefType,
    VectorType,
    bf16,
    i16,
)
from xdsl.ir import Attribute, SSAValue

from nkdsl.dialects import nkvector
from nkdsl.dialects.nkvector import constant_index
from nkdsl.planner.registers import Register
from nkdsl.targets.model import Target
from nkdsl.transforms.loops import LoopBuilder
from nkdsl.types import element_type_of


@dataclass(frozen=True)
class Access:
    """A memref, its indices, and which of its dimensions are tagged m, n and k."""

    memref: SSAValue
    indices: tuple[SSAValue, ...]
    dims: str

    def offsets(self, **distances: int) -> list[int]:
        """Constant offsets of an element that lies `distances` away along the tagged dimensions."""
        return [distances.get(tag, 0) for tag in self.dims]

    @property
    def type(self) -> MemRefType:
        """The memref's type."""
        assert isinstance(self.memref.type, MemRefType)
        return self.memref.type

    def moved(self, dimension: int, distance: SSAValue, loops: LoopBuilder) -> "Access":
        """The same, some elements on along one of the dimensions."""
        indices = list(self.indices)
        indices[dimension] = loops.add(indices[dimension], distance)
        return replace(self, indices=tuple(indices))

    def along(self, group: int) -> int:
        """The dimension that consecutive groups of elements lie along, the longest if several."""
        strides = self.type.get_strides()
        assert strides is not None
        extents = [1 << 62 if n == DYNAMIC_INDEX else n for n in self.type.get_shape()]
        there = [d for d, s in enumerate(strides) if s == group and self.dims[d] != "g"]
        # Where there is none, nothing lies behind the first group.
        return max(there, key=lambda d: extents[d], default=len(extents) - 1)

    @property
    def contiguous(self) -> str:
        """The tagged dimensions with stride 1."""
        strides = self.type.get_strides()
        assert strides is not None
        return "".join(t for t, s in zip(self.dims, strides, strict=True) if s == 1 and t != "_")


def splat(element: Attribute, lanes: int, value: float) -> arith.ConstantOp:
    """A register of one value."""
    if isinstance(element, IntegerType):
        integers = VectorType(element, [lanes])
        return arith.ConstantOp(DenseIntOrFPElementsAttr.from_list(integers, [int(value)]))
    assert isinstance(element, AnyFloat)
    floats = VectorType(FloatAttr(value, element).type, [lanes])
    return arith.ConstantOp(DenseIntOrFPElementsAttr.from_list(floats, [float(value)]))


def zeros(element: Attribute, lanes: int) -> arith.ConstantOp:
    """A register of zeros."""
    return splat(element, lanes, 0)


def _bits_of(element: Attribute) -> Attribute:
    """What parts of registers are put together as.

    Without instructions for bf16, LLVM would round whatever passes through a branch or a shuffle.
    """
    return i16 if element == bf16 else element


class RegisterBuilder:
    """Inserts ops on single registers where a `LoopBuilder` stands."""

    def __init__(self, loops: LoopBuilder, target: Target):
        """Insert through `loops`, what `target` can execute."""
        self.loops = loops
        self.target = target
        self.widened: dict[tuple[SSAValue, int], SSAValue] = {}
        """Active elements, by active lanes and the elements of a group."""
        self.splats: dict[tuple[Attribute, int, int], SSAValue] = {}

    # ------------------------------------------------------------------------------ memory

    def load(
        self, access: Access, register: Register, offsets: Sequence[int], group: int = 1
    ) -> SSAValue:
        """Load a register, masked where it is not full; of a `group` of elements a lane, if so."""
        register = self._of_elements(register, group)
        if register.masked and self.in_parts(access):
            return self._load_parts(access, register, offsets, group)
        type_ = nkvector.register_type(access.type.element_type, register.lanes)
        active = self._active(register)
        op = nkvector.LoadOp(access.memref, access.indices, type_, offsets, active)
        return self.loops.insert(op).result

    def _of_elements(self, register: Register, group: int) -> Register:
        """A register of groups as one of elements."""
        if group == 1:
            return register
        run_time = register.run_time
        if run_time is not None:
            if (run_time, group) not in self.widened:
                size = self.loops.constant(group)
                product = arith.MuliOp(run_time, size)
                self.loops.insert_after(run_time, [product])
                self.widened[run_time, group] = product.result
            run_time = self.widened[run_time, group]
        return replace(
            register,
            offset=register.offset * group,
            lanes=register.lanes * group,
            active=register.active * group,
            run_time=run_time,
        )

    def _active(self, register: Register) -> SSAValue | None:
        """The active lanes of a register that is masked."""
        if register.run_time is not None:
            return register.run_time
        return self.loops.constant(register.active) if register.masked else None

    def store(
        self,
        value: SSAValue,
        access: Access,
        register: Register,
        offsets: Sequence[int],
        group: int = 1,
    ) -> None:
        """Store a register, masked where it is not full; of a `group` of elements a lane, if so."""
        register = self._of_elements(register, group)
        if register.masked and self.in_parts(access):
            self._store_parts(value, access, register, offsets, group)
            return
        active = self._active(register)
        self.loops.insert(nkvector.StoreOp(value, access.memref, access.indices, offsets, active))

    def in_parts(self, access: Access) -> bool:
        """Whether a register of some memref's elements can't be masked: it is accessed in parts."""
        size = element_type_of(access.type.element_type).size
        return size < self.target.smallest_masked

    def _load_parts(
        self, access: Access, register: Register, offsets: Sequence[int], group: int
    ) -> SSAValue:
        """Load the active elements of a register, and zeros for the others.

        The last elements come first: a register of w lanes holds the last `active % w` elements;
        behind w others that exist, or before w zeros, they make one of 2w lanes.
        """
        lanes, loops = register.lanes, self.loops
        element = access.type.element_type
        bits = _bits_of(element)

        def whole() -> SSAValue:
            return self._cast(self._load_whole(access, lanes, offsets), bits)

        def doubled(found: SSAValue, width: int, active: SSAValue) -> SSAValue:
            def behind() -> tuple[SSAValue]:
                start = loops.sub(active, loops.rem(active, loops.constant(2 * width)))
                there, at = self._part_at(access, offsets, start, group)
                loaded = self._cast(self._load_whole(there, width, at), bits)
                return (self.shuffle(loaded, found, range(2 * width)),)

            def before() -> tuple[SSAValue]:
                return (self.shuffle(found, self.zero(bits, width), range(2 * width)),)

            return self._if_part(active, width, behind, before)[0]

        def parts(active: SSAValue) -> SSAValue:
            width, found = group, self.zero(bits, group)
            while width < lanes:
                found = doubled(found, width, active)
                width *= 2
            return found

        loaded = self._by_parts(register, lambda: (whole(),), lambda active: (parts(active),))[0]
        return self._cast(loaded, element)

    def _store_parts(
        self,
        value: SSAValue,
        access: Access,
        register: Register,
        offsets: Sequence[int],
        group: int,
    ) -> None:
        """Store the active elements of a register, the first ones first."""
        loops, element = self.loops, access.type.element_type

        def whole() -> tuple[()]:
            op = nkvector.StoreOp(value, access.memref, access.indices, offsets)
            loops.insert(op)
            return ()

        def halved(left: SSAValue, width: int, active: SSAValue) -> SSAValue:
            low = self.shuffle(left, left, range(width))
            high = self.shuffle(left, left, range(width, 2 * width))

            def stored() -> tuple[SSAValue]:
                start = loops.sub(active, loops.rem(active, loops.constant(2 * width)))
                there, at = self._part_at(access, offsets, start, group)
                part = self._cast(low, element)
                loops.insert(nkvector.StoreOp(part, there.memref, there.indices, at))
                return (high,)

            return self._if_part(active, width, stored, lambda: (low,))[0]

        def parts(active: SSAValue) -> tuple[()]:
            width, left = register.lanes // 2, self._cast(value, _bits_of(element))
            while width >= group:
                left = halved(left, width, active)
                width //= 2
            return ()

        self._by_parts(register, whole, parts)

    def _by_parts(
        self,
        register: Register,
        whole: Callable[[], Sequence[SSAValue]],
        parts: Callable[[SSAValue], Sequence[SSAValue]],
    ) -> Sequence[SSAValue]:
        """What is made of a register all of whose lanes are active, or of the parts of others."""
        active = register.run_time
        if active is None:
            active = self.loops.constant(register.active)
        known = constant_index(active)
        if known is not None:
            return whole() if known >= register.lanes else parts(active)
        full = self.loops.compare(active, "uge", self.loops.constant(register.lanes))
        return self.loops.choose(full, whole, lambda: parts(active))

    def _if_part(
        self,
        active: SSAValue,
        width: int,
        then: Callable[[], Sequence[SSAValue]],
        otherwise: Callable[[], Sequence[SSAValue]],
    ) -> Sequence[SSAValue]:
        """One thing or the other: whether a number of elements has a part of some width."""
        loops = self.loops
        there = loops.rem(loops.div(active, loops.constant(width)), loops.constant(2))
        if (known := constant_index(there)) is not None:
            return then() if known else otherwise()
        return loops.choose(loops.compare(there, "ne", loops.constant(0)), then, otherwise)

    def _part_at(
        self, access: Access, offsets: Sequence[int], start: SSAValue, group: int
    ) -> tuple[Access, list[int]]:
        """Where the part of a register lies that begins at some element, of whole groups."""
        place, position = self.loops.div(start, self.loops.constant(group)), access.along(group)
        moved = list(offsets)
        if (known := constant_index(place)) is not None:
            moved[position] += known
            return access, moved
        return access.moved(position, place, self.loops), moved

    def _cast(self, value: SSAValue, element: Attribute) -> SSAValue:
        """The bits of a register as elements of another type."""
        assert isinstance(value.type, VectorType)
        if value.type.element_type == element:
            return value
        type_ = nkvector.register_type(element, value.type.get_shape()[0])
        return self.loops.insert(arith.BitcastOp(value, type_)).result

    def _load_whole(self, access: Access, lanes: int, offsets: Sequence[int]) -> SSAValue:
        """Load a register whose lanes are all active."""
        type_ = nkvector.register_type(access.type.element_type, lanes)
        op = nkvector.LoadOp(access.memref, access.indices, type_, offsets)
        return self.loops.insert(op).result

    def prefetch(self, access: Access, offsets: Sequence[int]) -> None:
        """Ask for the line of an element."""
        self.loops.insert(nkvector.PrefetchOp(access.memref, access.indices, offsets))

    def broadcast(
        self,
        access: Access,
        lanes: int,
        offsets: Sequence[int],
        group: int = 1,
        active: int | SSAValue | None = None,
        instruction: str | None = None,
    ) -> SSAValue:
        """Load one element, or a group of which some exist, into all lanes of a register.

        An instruction, if one is named, loads a whole group.
        """
        type_ = nkvector.register_type(access.type.element_type, lanes * group)
        count = active if isinstance(active, SSAValue) else None
        if isinstance(active, int) and active != group:
            count = self.loops.constant(active)
        named = instruction if count is None else None
        op = nkvector.BroadcastLoadOp(
            access.memref, access.indices, type_, offsets, group, count, named
        )
        return self.loops.insert(op).result

    def interleaved(self, rows: Sequence[SSAValue]) -> SSAValue:
        """One register of groups: lane l holds the elements of lane l of each of some rows."""
        if len(rows) == 1:
            return rows[0]
        half = len(rows) // 2
        # Of four rows the first and the third make up every other element: so all are in order.
        even = self.interleaved(rows[::2]) if half > 1 else rows[0]
        odd = self.interleaved(rows[1::2]) if half > 1 else rows[1]
        lanes = nkvector.vector_lanes(even.type)
        mask = [lane + start for lane in range(lanes) for start in (0, lanes)]
        return self.shuffle(even, odd, mask)

    def zero(self, element: Attribute, lanes: int) -> SSAValue:
        """A register of zeros."""
        return self.loops.insert(zeros(element, lanes)).result

    def splat(self, element: Attribute, lanes: int, value: int) -> SSAValue:
        """A register of one number, made once."""
        key = element, lanes, value
        if key not in self.splats:
            made = self.loops.insert_at_entry(splat(element, lanes, value))
            self.splats[key] = made.result
        return self.splats[key]

    # ------------------------------------------------------------------------------- lanes

    def shuffle(self, lhs: SSAValue, rhs: SSAValue, mask: Sequence[int]) -> SSAValue:
        """Lanes picked from two registers."""
        return self.loops.insert(nkvector.ShuffleOp(lhs, rhs, list(mask))).result

    def narrow(self, value: SSAValue, lanes: int) -> SSAValue:
        """The first lanes of a register."""
        if nkvector.vector_lanes(value.type) == lanes:
            return value
        return self.shuffle(value, value, range(lanes))

    def sum_lanes(self, values: Sequence[SSAValue], lanes: int) -> SSAValue:
        """One register whose lane l is the sum of the lanes of `values[l]`.

        Pairs are halved together: after each level a register holds the partial sums of twice as
        many accumulators, half as many each. Accumulators beyond the last are never formed.
        """
        # Position p of the tree's leaves is bit-reversed so that the sums come out in order.
        bits = lanes.bit_length() - 1
        level: list[SSAValue | None] = [None] * lanes
        for lane, value in enumerate(values):
            level[int(f"{lane:0{bits}b}"[::-1], 2) if bits else 0] = value
        half = lanes // 2
        while len(level) > 1:
            level = [
                self._halve(first, second, half, lanes)
                for first, second in zip(level[::2], level[1::2], strict=True)
            ]
            half //= 2
        assert level[0] is not None
        return level[0]

    def _halve(
        self, first: SSAValue | None, second: SSAValue | None, half: int, lanes: int
    ) -> SSAValue | None:
        """Add the two halves of every group of `2*half` lanes, of two registers at once.

        Groups of `first` end up in the lower half of each group's place, those of `second` in
        the upper.
        """
        present = first if first is not None else second
        if present is None:
            return None
        first = first if first is not None else present
        second = second if second is not None else present
        low: list[int] = []
        high: list[int] = []
        for group in range(0, lanes, 2 * half):
            low += [*range(group, group + half), *range(lanes + group, lanes + group + half)]
            high += [
                *range(group + half, group + 2 * half),
                *range(lanes + group + half, lanes + group + 2 * half),
            ]
        lows = self.shuffle(first, second, low)
        highs = self.shuffle(first, second, high)
        return self.sum(lows, highs)

    def sum(self, lhs: SSAValue, rhs: SSAValue) -> SSAValue:
        """The sum of two registers."""
        assert isinstance(lhs.type, VectorType)
        integers = isinstance(lhs.type.element_type, IntegerType)
        op = arith.AddiOp(lhs, rhs) if integers else arith.AddfOp(lhs, rhs)
        return self.loops.insert(op).result

    def transpose(self, rows: list[SSAValue], group: int = 1) -> list[SSAValue]:
        """Transpose L registers of L lanes by log2(L) rounds of exchanging lane groups.

        A lane may be a `group` of elements, which stay together.
        """
        lanes = len(rows)
        distance = 1
        while distance < lanes:
            low, high = (
                [lane * group + element for lane in mask for element in range(group)]
                for mask in _exchange_masks(lanes, distance)
            )
            result = list(rows)
            for first in range(lanes):
                if first & distance:
                    continue
                second = first | distance
                result[first] = self.shuffle(rows[first], rows[second], low)
                result[second] = self.shuffle(rows[first], rows[second], high)
            rows = result
            distance *= 2
        return rows


def _exchange_masks(lanes: int, distance: int) -> tuple[list[int], list[int]]:
    """Shuffle masks that exchange, between two rows, the lane groups of one size.

    The lower row keeps its lanes whose bit `distance` is clear and takes the upper row's such
    lanes into the others; the upper row the other way round.
    """
    low = [lane if not lane & distance else lanes + lane - distance for lane in range(lanes)]
    high = [lane + distance if not lane & distance else lanes + lane for lane in range(lanes)]
    return low, high
