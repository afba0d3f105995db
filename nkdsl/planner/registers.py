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


LOADS_AT_ONCE = 4
"""Neighbouring registers that LLVM loads one after the other, however many are free, where no
instruction can read them from memory."""


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
    """Steps, or groups of them, that an instruction takes: the lanes with `lanes = k`, else 1."""
    masked: bool
    """Whether some register is a masked tail."""
    widened: bool = False
    """Whether factors are extended when they are loaded."""
    adds: bool = False
    """Whether products are added by an instruction of their own."""
    from_memory: tuple[str, ...] = ("lhs", "rhs")
    """The factors that the instruction can read from memory."""

    @property
    def instructions(self) -> int:
        """Accumulator registers; a step has one instruction for each."""
        return self.lhs_loads * self.rhs_loads

    @property
    def extensions(self) -> int:
        """Registers of factors that are extended in a step."""
        return self.lhs_loads + self.rhs_loads if self.widened else 0

    @property
    def broadcasts(self) -> int:
        """Broadcast loads in a step."""
        return {"n": self.lhs_loads, "m": self.rhs_loads, "k": 0}[self.lanes]

    @property
    def passing(self) -> str:
        """The factor that passes by, while the registers of the other one are kept."""
        return "lhs" if self.lhs_loads > self.rhs_loads else "rhs"

    @property
    def folded(self) -> int:
        """Loads that an FMA performs itself, because only one FMA uses the value."""
        if self.widened or self.passing not in self.from_memory:
            return 0
        return (
            max(self.lhs_loads, self.rhs_loads) if min(self.lhs_loads, self.rhs_loads) == 1 else 0
        )

    @property
    def micro_ops(self) -> int:
        """Fused micro-operations of a step."""
        arithmetic = self.instructions * (2 if self.adds else 1) + self.extensions
        return arithmetic + self.lhs_loads + self.rhs_loads - self.folded

    def live_registers(self, target: Target) -> int:
        """Vector registers live at once in a step."""
        kept = min(self.lhs_loads, self.rhs_loads)
        mask = 1 if self.masked and not target.masked else 0
        if self.adds:
            mask += 1  # a product on its way to the sum
        if kept == 1 and self.broadcasts > 1 and not target.embedded_broadcast:
            # Each broadcast is used once, so LLVM lets the sum take over its register: the
            # accumulators of one step and of the next live side by side.
            return 2 * self.instructions - 1 + mask
        passing = 1
        loaded = {"n": "rhs", "m": "lhs"}.get(self.lanes) == self.passing
        if loaded and self.passing not in self.from_memory and not target.embedded_broadcast:
            passing = min(LOADS_AT_ONCE, max(self.lhs_loads, self.rhs_loads))
        return self.instructions + kept + passing + mask


@cache
def registers_of(extent: int, instruction: Instruction, target: Target) -> tuple[Register, ...]:
    """The registers that hold `extent` consecutive elements.

    The last one is masked where the extent does not fill it. Without mask registers a half-filled
    last register is a narrower, unmasked one, if the instruction has a form for that.
    """
    lanes = instruction.lanes
    whole = [Register(o, lanes, lanes) for o in range(0, extent - lanes + 1, lanes)]
    tail = extent % lanes
    if not tail:
        return tuple(whole)
    narrow = not target.masked and tail * 2 == lanes and tail > 1
    narrow = narrow and instruction.upstream == "vector.fma"
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
        depth=instruction.lanes if lanes == "k" else 1,
        masked=any(r.masked for r in registers),
        widened=bool(instruction.widened),
        adds=instruction.adds_apart,
        from_memory=target.executed(instruction, "lhs" if lanes == "n" else "rhs").from_memory,
    )
