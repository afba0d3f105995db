"""A block of accumulators as vector registers: which registers, how many loads, how many live.

The bound on live registers is the one of the design: `mr·nv + min(mr, nv) + 1`, accumulators,
the factor that is kept while the other passes by, and one register of the passing factor.
"""

from dataclasses import dataclass
from functools import cache

from xdsl.ir import SSAValue

from nkdsl.targets.model import Instruction, Target


@dataclass(frozen=True)
class Register:
    """One register of a row of a block."""

    offset: int
    """Its first element."""
    lanes: int
    """Its width in elements."""
    active: int
    """Elements used; fewer than `lanes` only in a masked tail."""
    run_time: SSAValue | None = None
    """Elements used, where that is known only at run time."""

    @property
    def masked(self) -> bool:
        """Whether loads and stores of it need a mask."""
        return self.active < self.lanes or self.run_time is not None


@dataclass(frozen=True)
class Tile:
    """A block as registers, and what one step on it executes."""

    lanes: str
    """The dimension along the lanes: m, n or k."""
    lhs_loads: int
    """Loads (or broadcasts) of the left factor in a step."""
    rhs_loads: int
    """Loads (or broadcasts) of the right factor in a step."""
    depth: int
    """Reduction steps that one instruction consumes: the lanes with `lanes = k`, else 1."""
    masked: bool
    """Whether some register is a masked tail."""

    @property
    def instructions(self) -> int:
        """Accumulator registers; a step has one instruction for each."""
        return self.lhs_loads * self.rhs_loads

    @property
    def broadcasts(self) -> int:
        """Broadcast loads in a step."""
        return {"n": self.lhs_loads, "m": self.rhs_loads, "k": 0}[self.lanes]

    @property
    def folded(self) -> int:
        """Loads that an FMA performs itself, because only one FMA uses the value."""
        return (
            max(self.lhs_loads, self.rhs_loads) if min(self.lhs_loads, self.rhs_loads) == 1 else 0
        )

    @property
    def micro_ops(self) -> int:
        """Fused micro-operations of a step."""
        return self.instructions + self.lhs_loads + self.rhs_loads - self.folded

    def live_registers(self, target: Target) -> int:
        """Vector registers live at once in a step."""
        kept = min(self.lhs_loads, self.rhs_loads)
        mask = 1 if self.masked and not target.masked else 0
        if kept == 1 and self.broadcasts > 1 and not target.embedded_broadcast:
            # Each broadcast is used once, so LLVM lets the sum take over its register: the
            # accumulators of one step and of the next live side by side.
            return 2 * self.instructions - 1 + mask
        return self.instructions + kept + 1 + mask


@cache
def registers_of(extent: int, instruction: Instruction, target: Target) -> tuple[Register, ...]:
    """The registers that hold `extent` consecutive elements.

    The last one is masked where the extent does not fill it. Without mask registers a half-filled
    last register is a narrower, unmasked one.
    """
    lanes = instruction.lanes
    whole = [Register(o, lanes, lanes) for o in range(0, extent - lanes + 1, lanes)]
    tail = extent % lanes
    if not tail:
        return tuple(whole)
    narrow = not target.masked and tail * 2 == lanes and tail > 1
    return (*whole, Register(extent - tail, tail if narrow else lanes, tail))


@cache
def block_tile(
    rows: int, columns: int, lanes: str, instruction: Instruction, target: Target
) -> Tile:
    """The registers of a block of rows×columns accumulators."""
    along = {"m": rows, "n": columns}.get(lanes)
    registers = () if along is None else registers_of(along, instruction, target)
    return Tile(
        lanes=lanes,
        lhs_loads=len(registers) if lanes == "m" else rows,
        rhs_loads=len(registers) if lanes == "n" else columns,
        depth=instruction.lanes if lanes == "k" else instruction.k,
        masked=any(r.masked for r in registers),
    )
