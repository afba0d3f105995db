"""What a target is: one table that the planner, the passes, the interpreters and the tests read.

A `Target` describes a processor core as far as matrix products are concerned: its vector
registers, its instructions, how many loads and FMAs it starts a cycle, its caches. An
`Instruction` describes one multiply-accumulate instruction together with its meaning in
numpy. Adding a processor means adding a table; no pass names a processor.

Units: sizes in bytes unless said otherwise, rates per core clock cycle, latencies in cycles.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nkdsl.errors import Unsupported
from nkdsl.types import ElementType, element_type

Array = npt.NDArray[np.generic]
Semantics = Callable[[Array, Array, Array], Array]
"""(acc, lhs, rhs) -> the new accumulator; all operands hold one register's lanes."""


@dataclass(frozen=True)
class Instruction:
    """One multiply-accumulate instruction: `acc[l] += sum over kk of lhs[l, kk] * rhs[l, kk]`.

    With k > 1 it takes a *group* of k consecutive steps of the reduction in each lane: a register
    of factors holds `lanes` groups side by side, `k * lanes` elements.
    """

    name: str
    """How plans and diagnostics call it, for example `fma.f32x16`."""
    operand: str
    """Element type of the left factor in memory, and of the right one if `other` is empty."""
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
    """Its meaning, with the rounding of the real instruction: acc of any shape, lhs and rhs of that
    shape, with a last dimension of k more where k > 1; factors in the types of memory."""
    other: str = ""
    """Element type of the right factor, where it is not the left one's."""
    widened: str = ""
    """The MLIR type that factors are extended to when they are loaded, `f32` or `i16`; empty where
    the instruction takes them as they are."""
    flips: bool = False
    """Whether it is another instruction, for which the signs of the factor that is broadcast are
    flipped: numbers of s8 become numbers of u8 that are 128 larger, and the other way round. Sums
    start with what makes up for that."""
    order: str = "acc, lhs, rhs"
    """The arguments of the intrinsic that `upstream` names; without `acc`, the result is added."""

    def __hash__(self) -> int:
        """Cheap, because the planner's caches use instructions as keys."""
        return hash(self.name)

    @property
    def from_memory(self) -> tuple[str, ...]:
        """The factors that may come from memory: the last argument of the intrinsic.

        Factors of one type can change places, so that either may be the last one.
        """
        if not self.other or self.other == self.operand:
            return ("lhs", "rhs")
        return (self.order.rsplit(", ", 1)[-1],)

    @property
    def adds_apart(self) -> bool:
        """Whether its products are added by an instruction of their own."""
        return not self.flips and "acc" not in self.order

    @property
    def operands(self) -> tuple[str, str]:
        """Element types of the left and of the right factor."""
        return self.operand, self.other or self.operand

    @property
    def operand_type(self) -> ElementType:
        """The left factor's element type; the right one's has the same size."""
        return element_type(self.operand)

    @property
    def accumulator_type(self) -> ElementType:
        """The accumulator's element type."""
        return element_type(self.accumulator)

    @property
    def steps(self) -> int:
        """Steps of the reduction that it consumes of each factor."""
        return self.k

    @property
    def bits(self) -> int:
        """Width of the accumulator register in bits."""
        return self.lanes * self.accumulator_type.size * 8

    @property
    def flops(self) -> int:
        """Floating-point operations of one instruction."""
        return 2 * self.lanes * self.k


@dataclass(frozen=True)
class TileInstruction(Instruction):
    """An instruction that multiplies matrices: `acc[m, n] += sum over k of lhs[m, k] * rhs[k, n]`.

    Its accumulator is a tile of `rows` times `lanes` elements, and it takes `depth` groups of k of
    each factor. `semantics` then has a last dimension of `steps` for the factors.
    """

    rows: int = 16
    """Rows of an accumulator."""
    depth: int = 1
    """Groups of k that it takes of each factor."""
    scalable: bool = False
    """Whether it is an outer product of vector registers, of any length: `rows` and `lanes` are
    those of vectors of 128 bits, which the processor multiplies by its own length."""

    __hash__ = Instruction.__hash__

    @property
    def steps(self) -> int:
        """Steps of the reduction that it consumes."""
        return self.k * self.depth

    @property
    def flops(self) -> int:
        """Operations of one instruction."""
        return 2 * self.rows * self.lanes * self.steps


@dataclass(frozen=True)
class TileUnit:
    """Registers that hold matrices, and what multiplies them."""

    name: str
    """What its maker calls it, for messages."""
    registers: int
    """Architectural tile registers, for accumulators and factors alike."""
    features: tuple[str, ...]
    """LLVM features that its instructions need, beside those of the target."""
    instructions: tuple[TileInstruction, ...]
    """What multiplies tiles, one entry for each pair of types."""
    rows_loaded_per_cycle: float
    """Rows of a tile that are loaded a cycle, from L1."""
    rows_stored_per_cycle: float
    """Rows of a tile that are stored a cycle."""
    configure_cycles: float
    """Cycles to set the registers' shapes, or to enter and leave the mode that has them."""
    vector_bits: int = 128
    """Bits of the vectors that scalable plans assume; their code runs with any."""

    @property
    def scalable(self) -> bool:
        """Whether tiles are as large as the processor's vectors are long."""
        return any(i.scalable for i in self.instructions)

    @property
    def vscale(self) -> int:
        """What plans assume that scalable sizes are multiplied by."""
        return self.vector_bits // 128

    def __hash__(self) -> int:
        """Cheap, because the planner's caches use targets as keys."""
        return hash(self.name)


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


ROUNDING_TO_BF16 = frozenset(("+avx512bf16", "+avxneconvert", "+bf16"))
"""Features that have an instruction which rounds f32 to bf16."""


NEVER_MASKED = 1 << 10
"""More bytes than any element has: loads and stores of its kind can't be masked."""


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
    store_buffer: int = 0
    """Vector registers whose stores may wait for their turn; 0 where that was not measured: then
    nothing is taken to be hidden of the time between two blocks."""
    miss_cycles: float = 1.3
    """Cycles lost on a line from an outer cache that nothing asked for ahead of its use."""
    prefetch_cycles: float = 48.0
    """How long before its use data outside L1 is asked for: the loaded latency of L2."""
    triple: str = "x86_64-unknown-linux-gnu"
    """LLVM's target triple."""
    tuning: tuple[str, ...] = ()
    """LLVM features that change speed only, never what may run (`-prefer-256-bit`)."""
    tiles: TileUnit | None = None
    """Its registers that hold matrices, if it has some."""
    broadcasts: Mapping[int, str] = field(default_factory=dict)
    """By the bytes of an element, or of a group, the instruction that best loads it into all lanes
    of floats, where that isn't the one that LLVM picks."""
    masked_from: int | None = None
    """Bytes of the smallest elements of which loads and stores can be masked at all, where that is
    neither 1 with mask registers nor 4 without them (vmaskmov); `NEVER_MASKED` for none."""

    def __hash__(self) -> int:
        """Cheap, because the planner's caches use targets as keys."""
        return hash(self.name)

    def broadcast_instruction(
        self, instruction: Instruction, registers: int, elements: int
    ) -> str | None:
        """What loads an element, or a group, into all lanes; None to leave that to LLVM.

        The table's own instruction is for steps whose loads take more than half of their time, and
        only where each element is multiplied several times. Elsewhere LLVM's is as good, and LLVM
        may move it, or make it a part of a multiplication.

        Args:
            instruction: what multiplies.
            registers: those that are loaded in a step.
            elements: those that are broadcast.
        """
        factor = instruction.operand_type
        if factor.is_integer or instruction.widened or registers == 1:
            return None
        loads = (registers + elements) / self.loads_per_cycle
        if 2.0 * loads <= registers * elements / instruction.per_cycle:
            return None
        return self.broadcasts.get(factor.size * instruction.k)

    def instruction(self, name: str) -> Instruction:
        """The instruction called `name`; raises `Unsupported` with the list of those known."""
        every = (*self.instructions, *self.tile_instructions)
        for instruction in every:
            if instruction.name == name:
                return instruction
        known = ", ".join(i.name for i in every)
        raise Unsupported(
            f"target '{self.name}' has no instruction '{name}'; its instructions are: {known}"
        )

    def instruction_for(self, lhs: ElementType, rhs: ElementType | None = None) -> Instruction:
        """The best instruction for a pair of factors; raises `Unsupported` where there is none.

        Without `rhs`, both are of one type.
        """
        if found := self.instructions_for(lhs, rhs or lhs):
            return found[0]
        operands = lhs.name, (rhs or lhs).name
        known = ", ".join(dict.fromkeys("×".join(i.operands) for i in self.instructions))
        raise Unsupported(
            f"target '{self.name}' has no instruction for {'×'.join(operands)}; "
            f"it multiplies {known}"
        )

    def instructions_for(self, lhs: ElementType, rhs: ElementType) -> tuple[Instruction, ...]:
        """The instructions for a pair of factors, of the widest registers there are for it."""
        operands = lhs.name, rhs.name
        found = [i for i in self.instructions if i.operands == operands]
        widest = max((i.bits for i in found), default=0)
        return tuple(i for i in found if i.bits == widest)

    @property
    def tile_instructions(self) -> tuple[TileInstruction, ...]:
        """What multiplies tiles, if anything does."""
        return self.tiles.instructions if self.tiles is not None else ()

    def tile_instruction_for(self, lhs: ElementType, rhs: ElementType) -> TileInstruction | None:
        """The instruction that multiplies tiles of a pair of types, if there is one."""
        operands = lhs.name, rhs.name
        return next((i for i in self.tile_instructions if i.operands == operands), None)

    @property
    def required(self) -> tuple[str, ...]:
        """All LLVM features that emitted code may rely on."""
        return (*self.features, *(self.tiles.features if self.tiles is not None else ()))

    @property
    def smallest_masked(self) -> int:
        """Bytes of the smallest elements of which loads and stores can be masked."""
        if self.masked_from is not None:
            return self.masked_from
        return 1 if self.masked else 4

    @property
    def rounds_to_bf16(self) -> bool:
        """Whether an instruction rounds f32 to bf16; LLVM would call a function otherwise."""
        return not ROUNDING_TO_BF16.isdisjoint(self.features)

    @property
    def vector_bytes(self) -> int:
        """Bytes of the widest vector register that an instruction accumulates into."""
        return max(i.bits for i in self.instructions) // 8

    def executed(self, instruction: Instruction, role: str) -> Instruction:
        """What multiplies, where the factor `role`, `lhs` or `rhs`, is broadcast.

        The instruction itself, or what it is with that factor's signs flipped.
        """
        if not instruction.flips:
            return instruction
        types = list(instruction.operands)
        position = role == "rhs"
        types[position] = "u8" if types[position] == "s8" else "s8"
        for other in self.instructions:
            if (list(other.operands), other.lanes) == (types, instruction.lanes):
                return other
        raise Unsupported(f"target '{self.name}' has no instruction for {'×'.join(types)}")

    def widest_of(self, size: int) -> Instruction:
        """An instruction with the widest registers of accumulators of some size in bytes.

        Smaller elements than accumulators ever are lie in as many lanes as the smallest of those.
        """
        smallest = min(i.accumulator_type.size for i in self.instructions)
        size = max(size, smallest)
        found = [i for i in self.instructions if i.accumulator_type.size == size]
        return max(found, key=lambda i: i.bits)

    @property
    def plannable_registers(self) -> int:
        """Vector registers that a plan may keep live at once."""
        return self.registers - self.spare_registers
