"""`nkdsl bench tiles`: what kernels on tiles execute, counted; for machines without any.

On a processor with tiles the suites measure as they do elsewhere. On others a time would be that of
an emulator, so that this one takes none: it compiles the kernels of `bench gemm`, asks the planner
what they execute, and reads their microkernels' assembly.

    nkdsl bench tiles 1024x1024x1024 127x255x511 --dtype bf16,s8 --target sapphirerapids --json FILE

The *main loop* of a microkernel is the loop that multiplies. It must not touch the stack: LLVM
allocates no tiles, but could spill the addresses that they are loaded from. Loops within it, which
pack the panel to come, count for that alone.

JSON, schema `nkdsl-bench-tiles/1`:

    {
      "schema": "nkdsl-bench-tiles/1", "command": "…", "table": "sapphirerapids", "versions": {…},
      "rows": [{
        "shape": "127x255x511", "dtype": "bf16", "plan": "as the compiler prints it",
        "instruction": "tile.bf16x16x16x32", "block": "32x32",
        "multiplications": all of the product's, "loads": of factors, "sums": loads and stores,
        "loads_a_multiplication": …, "useful": the product's operations by those multiplied,
        "loop": {"multiplications": …, "loads": …, "instructions": …}, of the largest block,
        "instructions_a_kiloflop": of main loops, for 1000 of the product's operations,
        "spills": instructions of all main loops that touch the stack
      }]
    }
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import nkdsl
from nkdsl.bench import machine
from nkdsl.bench.gemm_ours import mlir_text
from nkdsl.bench.options import known
from nkdsl.bench.page import grid
from nkdsl.bench.problem import OTHER_NAMES, PRODUCTS, Row, parse_row
from nkdsl.dialects.nanokernel import GemmOp
from nkdsl.errors import Unsupported
from nkdsl.frontend import load, make_context
from nkdsl.pipeline import lower
from nkdsl.planner import analyse
from nkdsl.planner.search import is_tiled
from nkdsl.planner.tiles import tile_counts
from nkdsl.targets import get_target
from nkdsl.targets.model import Target

SCHEMA = "nkdsl-bench-tiles/1"
TARGET = "sapphirerapids"
SHAPES = (
    "256x256x256",
    "512x512x512",
    "1024x1024x1024",
    "256x1024x1024",
    "127x255x511",
    "33x47x65",
    "16x256x256",
)
DTYPES = ("bf16", "s8s8", "u8s8")

_LABEL = re.compile(r"^([.\w$]+):")
_FUNCTION = re.compile(r"^\s*\.type\s+([\w.$]+),@function", re.M)
_ENDS = ("jmp", "ret", "retq")
"""What is never followed by the next instruction."""


# ------------------------------------------------------------------------------ assembly


@dataclass(frozen=True)
class MainLoop:
    """The loop of a microkernel that multiplies, as its assembly has it."""

    multiplications: int
    loads: int
    """Loads of tiles."""
    instructions: int
    """All of them, but for those of loops within."""
    on_stack: int
    """Instructions that touch the stack, in loops within too."""


@dataclass(frozen=True)
class _Code:
    """The instructions of a function, and which may follow which."""

    lines: tuple[str, ...]
    next: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, text: Sequence[str]) -> _Code:
        """Some lines of assembly with their labels."""
        lines: list[str] = []
        places: dict[str, int] = {}
        for raw in text:
            line = raw.partition("#")[0].strip()
            if label := _LABEL.match(line):
                places[label[1]] = len(lines)
            elif line and not line.startswith("."):
                lines.append(line)
        return cls(tuple(lines), tuple(_successors(lines, places)))

    def reached(self, start: int, within: set[int]) -> set[int]:
        """What can follow an instruction sooner or later, without leaving some others."""
        found: set[int] = set()
        waiting = [start]
        while waiting:
            new = (set(self.next[waiting.pop()]) & within) - found
            found |= new
            waiting += new
        return found

    def loop_around(self, instruction: int) -> set[int]:
        """The loop that an instruction stands in; nothing where it stands in none."""
        every = set(range(len(self.lines)))
        after = self.reached(instruction, every)
        return {i for i in after if instruction in self.reached(i, every)}

    def counted(self, loop: set[int], multiplied: int) -> MainLoop:
        """What a loop holds; `multiplied` is an instruction that each turn executes."""
        rest = loop - {multiplied}
        outside = [i for i in loop if i == multiplied or i not in self.reached(i, rest)]
        return MainLoop(
            multiplications=sum(self.lines[i].startswith("tdp") for i in outside),
            loads=sum(self.lines[i].startswith("tileload") for i in outside),
            instructions=len(outside),
            on_stack=sum("(%rsp" in self.lines[i] for i in loop),
        )


def _successors(lines: Sequence[str], places: dict[str, int]) -> Iterator[tuple[int, ...]]:
    for number, line in enumerate(lines):
        mnemonic, _, operand = line.partition("\t")
        follows = [] if mnemonic in _ENDS or number + 1 == len(lines) else [number + 1]
        if mnemonic.startswith("j") and operand.strip() in places:
            follows.append(places[operand.strip()])
        yield tuple(place for place in follows if place < len(lines))


def main_loops(assembly: str) -> tuple[MainLoop, ...]:
    """The loops that multiply tiles, in x86-64 assembly of AT&T syntax; the largest block's first.

    A function's multiplications outside of any loop count as one that is left at once.
    """
    found: list[MainLoop] = []
    for code in _functions(assembly):
        seen: set[int] = set()
        for number, line in enumerate(code.lines):
            if line.startswith("tdp") and number not in seen:
                loop = code.loop_around(number) or set(range(len(code.lines)))
                seen |= loop
                found.append(code.counted(loop, number))
    return tuple(sorted(found, key=lambda loop: -loop.multiplications))


def _functions(assembly: str) -> Iterator[_Code]:
    names = set(_FUNCTION.findall(assembly))
    text: list[str] = []
    for line in (*assembly.splitlines(), "end:"):
        label = _LABEL.match(line)
        if label is not None and (label[1] in names or label[1] == "end"):
            yield _Code.of(text)
            text = []
        text.append(line)


# --------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class TileRow:
    """What one product executes, counted."""

    shape: str
    dtype: str
    plan: str
    instruction: str
    block: str
    flops: int
    """The product's own operations."""
    multiplications: int
    loads: int
    """Of factors."""
    sums: int
    """Loads and stores of sums."""
    useful: float
    """The product's operations by those that are multiplied, with what fills tiles up."""
    loop: MainLoop
    """Of the largest block."""
    spills: int
    """Instructions of all main loops that touch the stack."""

    @property
    def loads_a_multiplication(self) -> float:
        """Loads of factors for each multiplication."""
        return self.loads / self.multiplications

    @property
    def instructions_a_kiloflop(self) -> float:
        """Instructions of main loops for 1000 of the product's operations."""
        executed = self.multiplications * self.loop.instructions / self.loop.multiplications
        return 1000 * executed / self.flops

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        figures = asdict(self)
        del figures["loop"]["on_stack"], figures["flops"]
        return figures | {
            "loads_a_multiplication": self.loads_a_multiplication,
            "instructions_a_kiloflop": self.instructions_a_kiloflop,
        }


def tile_row(row: Row, dtype: str, target: Target) -> TileRow:
    """Compile a product and count.

    Raises:
        Unsupported: the product is not multiplied by tiles there.
    """
    text = mlir_text(row, dtype)
    gemm = _planned(text, target)
    plan = gemm.plan
    assert plan is not None
    if not is_tiled(target, plan):
        name = plan.instruction.data
        raise Unsupported(f"{row.name} in {dtype} is multiplied by {name}, without tiles")
    problem, instruction = analyse(gemm), target.instruction(plan.instruction.data)
    counts = tile_counts(problem, target, plan)
    loops = main_loops(nkdsl.compile(text, target).asm())
    return TileRow(
        shape=row.name,
        dtype=dtype,
        plan=str(plan),
        instruction=instruction.name,
        block="x".join(map(str, plan.block)),
        flops=problem.flops,
        multiplications=counts.multiplications,
        loads=counts.row_loads + counts.column_loads,
        sums=counts.result_loads + counts.stores,
        useful=problem.flops / (counts.multiplications * instruction.flops),
        loop=loops[0],
        spills=sum(loop.on_stack for loop in loops),
    )


def _planned(text: str, target: Target) -> GemmOp:
    """The only product of a program, with its plan."""
    context = make_context()
    module = load(text, context)
    lower(module, context, target, end="nanokernel")
    return next(op for op in module.walk() if isinstance(op, GemmOp))


# ------------------------------------------------------------------------------- report


@dataclass(frozen=True)
class TileReport:
    """All rows, and what they depend on."""

    table: str
    """The target."""
    rows: tuple[TileRow, ...]
    command: str = field(default_factory=machine.command_line)

    @property
    def failed(self) -> bool:
        """Whether a main loop touches the stack."""
        return any(row.spills for row in self.rows)

    def table_text(self) -> str:
        """Everything as text."""
        head = ["shape", "dtype", "block", "multiplications", "loads each", "useful"]
        head += ["loop: multiply of all", "instructions / kflop", "spills"]
        lines = [
            [
                *(row.shape, row.dtype, row.block, str(row.multiplications)),
                *(f"{row.loads_a_multiplication:.2f}", f"{row.useful:.1%}"),
                f"{row.loop.multiplications} of {row.loop.instructions}",
                *(f"{row.instructions_a_kiloflop:.2f}", str(row.spills)),
            ]
            for row in self.rows
        ]
        return f"{self.command}\n{self.table}, counted, nothing timed\n{grid(head, lines)}"

    def to_json(self) -> str:
        """Everything for programs."""
        report = {
            "schema": SCHEMA,
            "command": self.command,
            "table": self.table,
            "versions": machine.versions(),
            "rows": [row.to_dict() for row in self.rows],
        }
        return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def run_tiles(rows: Sequence[Row], dtypes: Sequence[str], target: Target) -> TileReport:
    """Count for some products.

    Raises:
        Unsupported: one of them is not multiplied by tiles there.
    """
    found = (tile_row(row, dtype, target) for dtype in dtypes for row in rows)
    return TileReport(target.name, tuple(found))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument(
        "shapes",
        metavar="SHAPE",
        nargs="*",
        type=_shape,
        default=tuple(map(parse_row, SHAPES)),
        help="sizes as in 127x255x511",
    )
    parser.add_argument("--dtype", type=_dtypes, default=DTYPES, help="comma-separated")
    parser.add_argument("--target", default=TARGET, help=f"a target with tiles; default: {TARGET}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts to this file")


def _shape(text: str) -> Row:
    try:
        return parse_row(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _dtypes(text: str) -> tuple[str, ...]:
    names = ",".join(OTHER_NAMES.get(name, name) for name in text.split(","))
    return known(names, PRODUCTS, "element type")


def main(arguments: argparse.Namespace) -> int:
    """Count, print, save; the exit status is 1 where a main loop touches the stack."""
    report = run_tiles(arguments.shapes, arguments.dtype, get_target(arguments.target))
    print(report.table_text())
    if arguments.json:
        arguments.json.write_text(report.to_json(), encoding="utf-8")
    return int(report.failed)
