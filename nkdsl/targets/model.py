"""What a target is: one table that the planner, the passes, the interpreters and the tests read.

A `Target` describes a processor core as far as matrix products are concerned: its vector
registers, its instructions, how many loads and FMAs it starts a cycle, its caches. An
`Instruction` describes one multiply-accumulate instruction together with its meaning in
numpy. Adding a processor means adding a table; no pass names a processor.

Units: sizes in bytes unless said otherwise, rates per core clock cycle, latencies in cycles.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nkdsl.errors import Unsupported
from nkdsl.types import ElementType, element_type

Array = npt.NDArray[np.generic]
Semantics = Callable[[Array, Array, Array], Array]
"""(acc, lhs, rhs) -> the new accumulator; all operands hold one register's lanes."""


@dataclass(frozen=True)
class Instruction:
    """One multiply-accumulate instruction: `acc[l] += sum over kk of lhs[l, kk] * rhs[l, kk]`."""

    name: str
    """How plans and diagnostics call it, for example `fma.f32x16`."""
    operand: str
    """Element type of the two factors."""
    accumulator: str
    """Element type of the accumulator."""
    lanes: int
    """Accumulator elements in one register."""
    k: int
    """How many steps of the reduction one instruction consumes."""
    latency: int
    """Cycles from one accumulation to the next into the same register."""
    per_cycle: float
    """Instructions started a cycle."""
    upstream: str
    """The upstream op (or LLVM intrinsic) it is lowered to."""
    mnemonic: str
    """The prefix of its name in assembly, for counting."""
    semantics: Semantics
    """Its meaning, with the rounding of the real instruction."""

    def __hash__(self) -> int:
        """Cheap, because the planner's caches use instructions as keys."""
        return hash(self.name)

    @property
    def operand_type(self) -> ElementType:
        """The factors' element type."""
        return element_type(self.operand)

    @property
    def accumulator_type(self) -> ElementType:
        """The accumulator's element type."""
        return element_type(self.accumulator)

    @property
    def bits(self) -> int:
        """Width of the accumulator register in bits."""
        return self.lanes * self.accumulator_type.size * 8

    @property
    def flops(self) -> int:
        """Floating-point operations of one instruction."""
        return 2 * self.lanes * self.k


@dataclass(frozen=True)
class Cache:
    """One level of the memory hierarchy as a single core sees it."""

    size: int
    """Bytes one core may use; of a shared cache all of it, as a lone core may."""
    ways: int
    """Associativity."""
    bytes_per_cycle: float
    """Sustained rate at which this level feeds the one nearer to the core (loads, for L1)."""
    line: int = 64
    """Bytes of a cache line."""


@dataclass(frozen=True)
class Target:
    """A processor core: what it can execute and how fast."""

    name: str
    """How the user calls it."""
    description: str
    """One line for listings."""
    cpu: str
    """LLVM's name for the processor (`target-cpu`)."""
    features: tuple[str, ...]
    """LLVM features that emitted code relies on; the JIT refuses a CPU without them."""
    registers: int
    """Architectural vector registers."""
    spare_registers: int
    """Vector registers that a plan leaves free, so that LLVM's allocator never spills."""
    masked: bool
    """Whether loads and stores of any lane count are as fast as whole ones (mask registers)."""
    embedded_broadcast: bool
    """Whether an FMA can itself broadcast an element from memory."""
    instructions: tuple[Instruction, ...]
    """Multiply-accumulate instructions, the preferred one for a type first."""
    loads_per_cycle: float
    """Vector or broadcast loads started a cycle."""
    stores_per_cycle: float
    """Vector stores started a cycle."""
    shuffles_per_cycle: float
    """Two-source lane shuffles started a cycle."""
    issue_width: int
    """Fused micro-operations issued a cycle."""
    micro_op_cache: int
    """Micro-operations that the decoded-instruction cache holds."""
    caches: tuple[Cache, ...]
    """L1 data cache first; the last level last."""
    memory_bytes_per_cycle: float
    """Sustained rate of main memory for one core."""
    refill_cycles: float = 20.0
    """Cycles lost when an inner loop ends: a mispredicted branch, the next block's first loads."""
    miss_cycles: float = 1.3
    """Cycles lost on a line from an outer cache that nothing asked for ahead of its use."""
    prefetch_cycles: float = 48.0
    """How long before its use data outside L1 is asked for: the loaded latency of L2."""
    triple: str = "x86_64-unknown-linux-gnu"
    """LLVM's target triple."""
    tuning: tuple[str, ...] = ()
    """LLVM features that change speed only, never what may run (`-prefer-256-bit`)."""

    def __hash__(self) -> int:
        """Cheap, because the planner's caches use targets as keys."""
        return hash(self.name)

    def instruction(self, name: str) -> Instruction:
        """The instruction called `name`; raises `Unsupported` with the list of those known."""
        for instruction in self.instructions:
            if instruction.name == name:
                return instruction
        known = ", ".join(i.name for i in self.instructions)
        raise Unsupported(
            f"target '{self.name}' has no instruction '{name}'; its instructions are: {known}"
        )

    def instruction_for(self, operand: ElementType, accumulator: ElementType) -> Instruction:
        """The best instruction for a pair of types; raises `Unsupported` where there is none."""
        for instruction in self.instructions:
            if (instruction.operand, instruction.accumulator) == (operand.name, accumulator.name):
                return instruction
        known = ", ".join(f"{i.operand}→{i.accumulator}" for i in self.instructions)
        raise Unsupported(
            f"target '{self.name}' has no instruction for {operand.name}→{accumulator.name}; "
            f"it multiplies {known}"
        )

    @property
    def plannable_registers(self) -> int:
        """Vector registers that a plan may keep live at once."""
        return self.registers - self.spare_registers
