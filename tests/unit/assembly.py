"""Reading x86-64 assembly in AT&T syntax: functions, innermost loops, and what a loop executes.

    loops = innermost_loops(function(text, "matmul"))
    count(loops[0]).fmas

Only what a compiler of matrix products emits is understood: the destination is the last operand,
and a memory operand is the one with parentheses.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

_LABEL = re.compile(r"^([.\w$]+):")
_OPERAND = re.compile(r"(?:[^,(]|\([^)]*\))+")
_FMA = re.compile(r"^vfn?m(?:add|sub)\d{3}([sp])[sd]$")
_SCALAR = re.compile(r"^v?(?:mul|add|sub|div|mov)s[sd]$|^vfn?m(?:add|sub)\d{3}s[sd]$")
_UNFUSED = re.compile(r"^v?h?(?:mul|add|sub|addsub|dp)[sp][sd]$")
_VECTOR_REGISTER = re.compile(r"%[xyz]mm\d+")
_TILE = re.compile(r"%tmm\d+")


@dataclass(frozen=True)
class Instruction:
    """One instruction."""

    mnemonic: str
    operands: tuple[str, ...]

    @property
    def text(self) -> str:
        """The instruction as written."""
        return f"{self.mnemonic} {', '.join(self.operands)}".strip()

    @property
    def memory(self) -> str | None:
        """The memory operand, if there is one."""
        return next((o for o in self.operands if "(" in o), None)

    @property
    def writes_memory(self) -> bool:
        """Whether the destination is in memory."""
        return bool(self.operands) and "(" in self.operands[-1]

    @property
    def registers(self) -> tuple[str, ...]:
        """The vector registers it names."""
        return tuple(_VECTOR_REGISTER.findall(" ".join(self.operands)))

    @property
    def width(self) -> int:
        """Bits of the widest vector register it names; 0 without one."""
        return max((_WIDTHS[register[1]] for register in self.registers), default=0)

    @property
    def fma(self) -> bool:
        """Whether it multiplies and adds vectors."""
        match = _FMA.match(self.mnemonic)
        return match is not None and match[1] == "p"

    @property
    def unfused(self) -> bool:
        """Whether it multiplies, or adds, floating-point numbers and no more."""
        return _UNFUSED.match(self.mnemonic) is not None

    @property
    def scalar(self) -> bool:
        """Whether it computes on, or moves, a single element."""
        return _SCALAR.match(self.mnemonic) is not None

    @property
    def gathers(self) -> bool:
        """Whether it is a gather or a scatter."""
        return "gather" in self.mnemonic or "scatter" in self.mnemonic

    @property
    def on_stack(self) -> bool:
        """Whether it moves a vector or a mask register to or from the stack."""
        moves_register = self.registers or self.mnemonic.startswith("kmov")
        return bool(moves_register) and "(%rsp" in (self.memory or "")

    @property
    def constant(self) -> bool:
        """Whether it reads a vector constant from beside the code."""
        return bool(self.registers) and "(%rip)" in (self.memory or "")

    @property
    def broadcast(self) -> bool:
        """Whether it reads one element from memory into all lanes."""
        if self.memory is None or self.writes_memory or not self.registers:
            return False
        spread = self.mnemonic.startswith(("vbroadcast", "vpbroadcast", "vmovddup"))
        return spread or "{1to" in self.memory

    @property
    def vector_load(self) -> bool:
        """Whether it reads a register's worth of consecutive elements of an operand."""
        reads = self.memory is not None and bool(self.registers) and not self.writes_memory
        elsewhere = self.on_stack or self.constant
        return reads and not elsewhere and not self.broadcast and not self.scalar

    @property
    def vector_store(self) -> bool:
        """Whether it writes a register to an operand."""
        return self.writes_memory and bool(self.registers) and not self.on_stack

    @property
    def tiles(self) -> tuple[str, ...]:
        """The tile registers it names, the one it changes last."""
        return tuple(_TILE.findall(" ".join(self.operands)))

    @property
    def tile_product(self) -> bool:
        """Whether it multiplies tiles."""
        return self.mnemonic.startswith("tdp")

    @property
    def tile_load(self) -> bool:
        """Whether it loads a tile."""
        return self.mnemonic.startswith("tileload")

    @property
    def tile_store(self) -> bool:
        """Whether it stores a tile."""
        return self.mnemonic.startswith("tilestore")

    @property
    def masked(self) -> bool:
        """Whether it reads or writes some lanes of memory only."""
        if self.memory is None or not self.registers:
            return False
        return "{%k" in " ".join(self.operands) or self.mnemonic.startswith("vmaskmov")

    @property
    def jump(self) -> str | None:
        """The label that it may jump to."""
        return self.operands[0] if self.mnemonic.startswith("j") and self.operands else None


_WIDTHS = {"x": 128, "y": 256, "z": 512}

Line = Instruction | str
"""An instruction, or the name of a label."""


@dataclass(frozen=True)
class Counts:
    """How many instructions of each kind some code has."""

    fmas: int
    loads: int
    """Vector loads from operands, those that an FMA performs itself included."""
    broadcasts: int
    """Broadcasts from memory, those that an FMA performs itself included."""
    stores: int
    prefetches: int
    masked: int
    """Masked loads and stores."""
    constants: int
    """Reads of vector constants."""
    spills: int
    """Vector or mask registers moved to or from the stack."""
    scalars: int
    calls: int

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def functions(text: str) -> dict[str, tuple[Line, ...]]:
    """The lines of each function, by its name; what lies outside of functions is dropped."""
    names = set(re.findall(r"^\s*\.type\s+([\w.$]+),@function", text, re.M))
    found: dict[str, list[Line]] = {}
    current: list[Line] | None = None
    for line in _lines(text):
        if isinstance(line, str) and line in names:
            current = found.setdefault(line, [])
        elif isinstance(line, str) and line.startswith(".Lfunc_end"):
            current = None
        elif current is not None:
            current.append(line)
    return {name: tuple(lines) for name, lines in found.items()}


def function(text: str, name: str) -> tuple[Line, ...]:
    """The lines of one function."""
    return functions(text)[name]


def _lines(text: str) -> Iterator[Line]:
    for raw in text.splitlines():
        line = raw.partition("#")[0].strip()
        label = _LABEL.match(line)
        if label is not None:
            yield label[1]
        elif line and not line.startswith("."):
            mnemonic, _, rest = line.partition("\t")
            operands = tuple(o.strip() for o in _OPERAND.findall(rest))
            yield Instruction(mnemonic.strip(), operands)


def instructions(lines: Iterable[Line]) -> tuple[Instruction, ...]:
    """The instructions among some lines."""
    return tuple(line for line in lines if isinstance(line, Instruction))


def innermost_loops(lines: tuple[Line, ...]) -> tuple[tuple[Instruction, ...], ...]:
    """The loops without a label inside: from a label to a jump back to it."""
    loops: list[tuple[Instruction, ...]] = []
    label, start = "", 0
    for position, line in enumerate(lines):
        if isinstance(line, str):
            label, start = line, position
        elif line.jump == label:
            loops.append(instructions(lines[start:position]))
    return tuple(loops)


def count(code: Iterable[Line]) -> Counts:
    """What some code has."""
    all_ = instructions(code)
    return Counts(
        fmas=sum(i.fma for i in all_),
        loads=sum(i.vector_load for i in all_),
        broadcasts=sum(i.broadcast for i in all_),
        stores=sum(i.vector_store for i in all_),
        prefetches=sum(i.mnemonic.startswith("prefetch") for i in all_),
        masked=sum(i.masked for i in all_),
        constants=sum(i.constant for i in all_),
        spills=sum(i.on_stack for i in all_),
        scalars=sum(i.scalar for i in all_),
        calls=sum(i.mnemonic.startswith("call") for i in all_),
    )


def smallest_loop(lines: tuple[Line, ...], mnemonic: str) -> tuple[Instruction, ...]:
    """The shortest code that is jumped back over and holds an instruction, inner loops included.

    What is found begins at some turn of the loop, not always with its first instruction.
    """
    labels = {line: position for position, line in enumerate(lines) if isinstance(line, str)}
    found: dict[str, tuple[Line, ...]] = {}
    for position, line in enumerate(lines):
        if isinstance(line, Instruction) and line.jump in labels:
            start = labels[line.jump]
            if start < position:
                found[line.jump] = lines[start : position + 1]
    holding = (instructions(loop) for loop in found.values())
    return min(
        (loop for loop in holding if any(i.mnemonic.startswith(mnemonic) for i in loop)), key=len
    )
