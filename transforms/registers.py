"""Building `nkvector` ops, one a register: loads, stores, shuffles, and networks of shuffles.

Shared by the pass `unroll` and its packing. Two rearrangements of lanes are known here:

- `sum_lanes` adds up the lanes of up to L registers into one, in log2(L) rounds;
- `transpose` turns L registers of L lanes by 90 degrees, in log2(L) rounds.

Imports: our dialects, `nkdsl.planner.registers`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.dialects import arith
from xdsl.dialects.builtin import (
    AnyFloat,
    DenseIntOrFPElementsAttr,
    FloatAttr,
    MemRefType,
    VectorType,
)
from xdsl.ir import Attribute, SSAValue

from nkdsl.dialects import nkvector
from nkdsl.planner.registers import Register
from nkdsl.transforms.loops import LoopBuilder


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

    @property
    def contiguous(self) -> str:
        """The tagged dimensions with stride 1."""
        strides = self.type.get_strides()
        assert strides is not None
        return "".join(t for t, s in zip(self.dims, strides, strict=True) if s == 1 and t != "_")


def zeros(element: Attribute, lanes: int) -> arith.ConstantOp:
    """A register of zeros."""
    assert isinstance(element, AnyFloat)
    zero = FloatAttr(0.0, element)
    return arith.ConstantOp(
        DenseIntOrFPElementsAttr.from_list(VectorType(element, [lanes]), [zero.value.data])
    )


class RegisterBuilder:
    """Inserts ops on single registers where a `LoopBuilder` stands."""

    def __init__(self, loops: LoopBuilder):
        """Insert through `loops`."""
        self.loops = loops

    # ------------------------------------------------------------------------------ memory

    def load(self, access: Access, register: Register, offsets: Sequence[int]) -> SSAValue:
        """Load a register, masked where it is not full."""
        type_ = nkvector.register_type(access.type.element_type, register.lanes)
        active = self._active(register)
        op = nkvector.LoadOp(access.memref, access.indices, type_, offsets, active)
        return self.loops.insert(op).result

    def _active(self, register: Register) -> SSAValue | None:
        """The active lanes of a register that is masked."""
        if register.run_time is not None:
            return register.run_time
        return self.loops.constant(register.active) if register.masked else None

    def store(
        self, value: SSAValue, access: Access, register: Register, offsets: Sequence[int]
    ) -> None:
        """Store a register, masked where it is not full."""
        active = self._active(register)
        self.loops.insert(nkvector.StoreOp(value, access.memref, access.indices, offsets, active))

    def prefetch(self, access: Access, offsets: Sequence[int]) -> None:
        """Ask for the line of an element."""
        self.loops.insert(nkvector.PrefetchOp(access.memref, access.indices, offsets))

    def broadcast(self, access: Access, lanes: int, offsets: Sequence[int]) -> SSAValue:
        """Load one element into all lanes of a register."""
        type_ = nkvector.register_type(access.type.element_type, lanes)
        op = nkvector.BroadcastLoadOp(access.memref, access.indices, type_, offsets)
        return self.loops.insert(op).result

    def zero(self, element: Attribute, lanes: int) -> SSAValue:
        """A register of zeros."""
        return self.loops.insert(zeros(element, lanes)).result

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
        return self.loops.insert(arith.AddfOp(lows, highs)).result

    def transpose(self, rows: list[SSAValue]) -> list[SSAValue]:
        """Transpose L registers of L lanes by log2(L) rounds of exchanging lane groups."""
        lanes = len(rows)
        distance = 1
        while distance < lanes:
            low, high = _exchange_masks(lanes, distance)
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
