"""`nkdsl targets [NAME]`: the known processors, or the whole table of one."""

import argparse
from collections.abc import Iterator, Sequence

from nkdsl.emulation import amx, qemu
from nkdsl.emulation.calls import ARM, architecture, emulated_target
from nkdsl.errors import Unsupported
from nkdsl.targets import HostTarget, can_run, detect, get_target, known_targets
from nkdsl.targets.model import Cache, Instruction, Target, TileInstruction, TileUnit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="show all that is known of one")


def main(arguments: argparse.Namespace) -> int:
    """Print the list, or one table."""
    lines = _list() if arguments.name is None else _table(get_target(arguments.name))
    for line in lines:
        print(line)
    return 0


def size_in_words(size: int) -> str:
    """`48 KiB`."""
    return f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size / 2**10:g} KiB"


# -------------------------------------------------------------------------------------- list


def _list() -> Iterator[str]:
    host = detect()
    heads = ("", "name", "registers", "multiplies", "tiles", "L1 / L2 / L3", "runs here")
    yield from aligned([heads, *(_entry(target, host) for target in known_targets())])
    yield ""
    yield f"* host: {host.reason}"
    yield "emulated: nkdsl run --emulate runs its code, right but not fast"


def _entry(target: Target, host: HostTarget) -> tuple[str, ...]:
    width = max(i.bits for i in target.instructions)
    return (
        "*" if target.name == host.target.name else " ",
        target.name,
        f"{target.registers} x {width}",
        _products(target.instructions),
        target.tiles.name if target.tiles is not None else "",
        " / ".join(size_in_words(c.size) for c in target.caches),
        _runs(target),
    )


def _runs(target: Target) -> str:
    """`yes`, `emulated` or `no`."""
    if can_run(target) is None:
        return "yes"
    return "no" if emulation_obstacle(target) else "emulated"


def emulation_obstacle(target: Target) -> str | None:
    """Why the code of a target that this CPU isn't can't be emulated here; None where it can."""
    try:
        emulated_target(target)
    except Unsupported as refusal:
        return str(refusal)
    return qemu.obstacle() if architecture(target) == ARM else amx.obstacle()


def _products(instructions: Sequence[Instruction]) -> str:
    """`f32 f64 bf16·2 u8s8·4`: types of factors, and how many k one instruction takes of them."""
    deepest: dict[str, int] = {}
    for each in instructions:
        types = "".join(dict.fromkeys(each.operands)) if not each.operand_type.is_integer else ""
        types = types or "".join(each.operands)
        deepest[types] = max(deepest.get(types, 1), each.k)
    return " ".join(f"{types}·{k}" if k > 1 else types for types, k in deepest.items())


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of words, each column as wide as its widest word."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{word:<{width}}" for word, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


# ------------------------------------------------------------------------------------- table


def _table(target: Target) -> Iterator[str]:
    obstacle = can_run(target)
    yield f"{target.name}: {target.description}"
    yield f"  runs here        {obstacle or 'yes'}"
    if obstacle is not None:
        yield f"  emulated here    {emulation_obstacle(target) or 'yes, by --emulate'}"
    yield f"  LLVM cpu         {target.cpu}"
    yield f"  LLVM triple      {target.triple}"
    yield f"  needs            {_features(target.features)}"
    if target.tuning:
        yield f"  tuning           {' '.join(target.tuning)}"
    yield f"  registers        {target.registers}, of which {target.spare_registers} stay free"
    yield f"  masked registers {'yes' if target.masked else 'no'}"
    yield f"  loads a cycle    {target.loads_per_cycle:g}"
    yield f"  stores a cycle   {target.stores_per_cycle:g}"
    if target.store_buffer:
        yield f"  store buffer     {target.store_buffer} registers"
    if target.broadcasts:
        yield f"  broadcasts by    {' '.join(target.broadcasts.values())}"
    yield f"  shuffles a cycle {target.shuffles_per_cycle:g}"
    yield f"  issue width      {target.issue_width} micro-ops"
    yield f"  micro-op cache   {target.micro_op_cache}"
    yield f"  memory           {target.memory_bytes_per_cycle:g} bytes a cycle"
    yield "  instructions"
    yield from (f"  {line}" for line in aligned(_instructions(target.instructions)))
    if target.tiles is not None:
        yield from _tiles(target.tiles)
    yield "  caches"
    heads = ("", "level", "size", "ways", "line", "bytes a cycle")
    yield from (f"  {line}" for line in aligned([heads, *_caches(target.caches)]))


def _features(features: Sequence[str]) -> str:
    return " ".join(feature.removeprefix("+") for feature in features)


def _instructions(instructions: Sequence[Instruction]) -> list[tuple[str, ...]]:
    heads = ("", "name", "A·B", "into", "lanes", "k", "latency", "a cycle", "becomes")
    return [
        (*heads, "in assembly"),
        *(
            (
                "",
                i.name,
                "·".join(i.operands),
                i.accumulator,
                _lanes(i),
                str(i.steps),
                str(i.latency),
                f"{i.per_cycle:g}",
                i.upstream,
                f"{i.mnemonic}…",
            )
            for i in instructions
        ),
    ]


def _lanes(instruction: Instruction) -> str:
    """`16`, or `16x16` of a tile."""
    if not isinstance(instruction, TileInstruction):
        return str(instruction.lanes)
    each = " per 128 bits" if instruction.scalable else ""
    return f"{instruction.rows}x{instruction.lanes}{each}"


def _tiles(unit: TileUnit) -> Iterator[str]:
    """The registers that hold matrices, and what multiplies them."""
    yield f"  tiles of {unit.name}"
    yield f"    needs              {_features(unit.features)}"
    yield f"    registers          {unit.registers}"
    if unit.scalable:
        yield f"    vectors            of any length; plans assume {unit.vector_bits} bits"
    yield f"    rows loaded/cycle  {unit.rows_loaded_per_cycle:g}"
    yield f"    rows stored/cycle  {unit.rows_stored_per_cycle:g}"
    yield f"    to configure       {unit.configure_cycles:g} cycles"
    yield from (f"  {line}" for line in aligned(_instructions(unit.instructions)))


def _caches(caches: Sequence[Cache]) -> list[tuple[str, ...]]:
    return [
        ("", f"L{n}", size_in_words(c.size), str(c.ways), str(c.line), f"{c.bytes_per_cycle:g}")
        for n, c in enumerate(caches, start=1)
    ]
