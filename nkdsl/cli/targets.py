"""`nkdsl targets [NAME]`: the known processors, or the whole table of one."""

import argparse
from collections.abc import Iterator, Sequence

from nkdsl.targets import HostTarget, can_run, detect, get_target, known_targets
from nkdsl.targets.model import Cache, Target


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
    heads = ("", "name", "registers", "multiplies", "L1 / L2 / L3", "runs here")
    yield from aligned([heads, *(_entry(target, host) for target in known_targets())])
    yield ""
    yield f"* host: {host.reason}"


def _entry(target: Target, host: HostTarget) -> tuple[str, ...]:
    width = max(i.bits for i in target.instructions)
    return (
        "*" if target.name == host.target.name else " ",
        target.name,
        f"{target.registers} x {width}",
        _products(target),
        " / ".join(size_in_words(c.size) for c in target.caches),
        "no" if can_run(target) else "yes",
    )


def _products(target: Target) -> str:
    """`f32 f64 bf16·2 u8s8·4`: types of factors, and how many k one instruction takes of them."""
    deepest: dict[str, int] = {}
    for each in target.instructions:
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
    yield f"{target.name}: {target.description}"
    yield f"  runs here        {can_run(target) or 'yes'}"
    yield f"  LLVM cpu         {target.cpu}"
    yield f"  LLVM triple      {target.triple}"
    yield f"  needs            {' '.join(f.removeprefix('+') for f in target.features)}"
    if target.tuning:
        yield f"  tuning           {' '.join(target.tuning)}"
    yield f"  registers        {target.registers}, of which {target.spare_registers} stay free"
    yield f"  masked registers {'yes' if target.masked else 'no'}"
    yield f"  loads a cycle    {target.loads_per_cycle:g}"
    yield f"  stores a cycle   {target.stores_per_cycle:g}"
    yield f"  shuffles a cycle {target.shuffles_per_cycle:g}"
    yield f"  issue width      {target.issue_width} micro-ops"
    yield f"  micro-op cache   {target.micro_op_cache}"
    yield f"  memory           {target.memory_bytes_per_cycle:g} bytes a cycle"
    yield "  instructions"
    rows = [
        ("", "name", "A·B", "into", "lanes", "k", "latency", "a cycle", "becomes", "in assembly")
    ]
    rows += [
        (
            "",
            i.name,
            "·".join(i.operands),
            i.accumulator,
            str(i.lanes),
            str(i.k),
            str(i.latency),
            f"{i.per_cycle:g}",
            i.upstream,
            f"{i.mnemonic}…",
        )
        for i in target.instructions
    ]
    yield from (f"  {line}" for line in aligned(rows))
    yield "  caches"
    heads = ("", "level", "size", "ways", "line", "bytes a cycle")
    yield from (f"  {line}" for line in aligned([heads, *_caches(target.caches)]))


def _caches(caches: Sequence[Cache]) -> list[tuple[str, ...]]:
    return [
        ("", f"L{n}", size_in_words(c.size), str(c.ways), str(c.line), f"{c.bytes_per_cycle:g}")
        for n, c in enumerate(caches, start=1)
    ]
