"""Which table stands for this machine, and whether this machine can run code made for a table.

`detect` takes, among the tables whose features this CPU has, the one made for its LLVM name; else
the latest of its family (a future `znver6` runs the table of `znver5`); else the one that uses
most of its features. The caches of the chosen table are replaced by those of the machine.

The result keeps the name of its table. Cache sizes steer the planner only, and a plan states every
block that it chose: the name of the table and the plan together reproduce a kernel anywhere,
whereas a name of its own for each machine would mean nothing elsewhere. Anything cached by target
must use the whole `Target` as its key, which is hashable, not its name.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.targets.cpu import CacheGeometry, Cpu, this_cpu
from nkdsl.targets.model import Cache, Target
from nkdsl.targets.registry import known_targets
from nkdsl.targets.validation import validate

_LEVEL_NAMES = ("L1D", "L2", "L3", "L4")


@dataclass(frozen=True)
class HostTarget:
    """The table chosen for this machine."""

    target: Target
    """The table, with this machine's cache sizes."""
    reason: str
    """Why this one, and whose cache sizes: one line for humans."""


def detect() -> HostTarget:
    """The best target for this machine.

    Raises:
        Unsupported: if this CPU can run none of the known targets.
    """
    return _choose(known_targets(), this_cpu())


def can_run(target: Target) -> str | None:
    """None if this machine can run code made for `target`, else what it lacks, in words."""
    return _obstacle(target, this_cpu())


@cache
def _choose(tables: tuple[Target, ...], cpu: Cpu) -> HostTarget:
    tables = tuple(_without_missing_tiles(table, cpu) for table in tables)
    possible = [table for table in tables if _obstacle(table, cpu) is None]
    if not possible:
        least = min(tables, key=lambda t: (_architecture(t) != cpu.architecture, len(t.features)))
        raise Unsupported(
            f"no known target fits this machine: {_obstacle(least, cpu)}; "
            "name the target to compile for another machine"
        )
    table = max(possible, key=lambda table: _fitness(table, cpu))
    target, caches = _with_caches_of(table, cpu)
    remark = _remark(table, tables, cpu) + (f" ({cpu.withheld})" if cpu.withheld else "")
    return HostTarget(target, f"{cpu}: table {table.name}{remark} with {caches}")


def _without_missing_tiles(table: Target, cpu: Cpu) -> Target:
    """A table without tiles, where that is all that keeps this machine from running it."""
    plain = replace(table, tiles=None)
    return plain if _obstacle(table, cpu) and not _obstacle(plain, cpu) else table


def _fitness(table: Target, cpu: Cpu) -> tuple[bool, bool, int]:
    """Larger is better: same processor, same family, more of its features in use."""
    same_family = _family(table.cpu) == _family(cpu.name)
    return table.cpu == cpu.name, same_family, len(table.required)


def _family(cpu_name: str) -> str:
    """`znver` of `znver5`."""
    return cpu_name.rstrip("0123456789")


def _remark(table: Target, tables: tuple[Target, ...], cpu: Cpu) -> str:
    """Why the table is not the one that the processor's name suggests, or nothing."""
    if table.cpu == cpu.name:
        return ""
    namesakes = (t for t in tables if t.cpu == cpu.name)
    obstacles = [o for t in namesakes if (o := _obstacle(t, cpu))]
    return f" ({obstacles[0]})" if obstacles else " (the closest that it can run)"


def _obstacle(target: Target, cpu: Cpu) -> str | None:
    """What keeps `cpu` from running code made for `target`, or None."""
    architecture = _architecture(target)
    if architecture != cpu.architecture:
        return (
            f"target '{target.name}' is for {architecture}, but this machine is {cpu.architecture}"
        )
    needed = (feature.removeprefix("+") for feature in target.required)
    missing = [feature for feature in needed if feature not in cpu.features]
    if not missing:
        return None
    reason = f": {cpu.withheld}" if cpu.withheld else ""
    return f"target '{target.name}' needs {', '.join(missing)}, which {cpu} lacks{reason}"


def _architecture(target: Target) -> str:
    """`x86_64` of `x86_64-unknown-linux-gnu`."""
    return target.triple.partition("-")[0]


def _with_caches_of(table: Target, cpu: Cpu) -> tuple[Target, str]:
    """The table with the machine's caches where they are known, and words that say so."""
    if not cpu.caches:
        return table, f"the table's own {_in_words(table.caches)}: this machine does not tell"
    geometry = {c.level: c for c in cpu.caches}
    caches = tuple(
        _with_geometry(cache, geometry.get(level))
        for level, cache in enumerate(table.caches, start=1)
    )
    target = replace(table, caches=caches)
    try:
        validate(target)
    except InvalidInput:
        nonsense = f"{cpu.caches_from} tells an impossible {_in_words(caches)}"
        return table, f"the table's own {_in_words(table.caches)}: {nonsense}"
    return target, f"{_in_words(caches)} from {cpu.caches_from}"


def _with_geometry(cache: Cache, geometry: CacheGeometry | None) -> Cache:
    """The table's cache level in the machine's size; a level that is not told stays as it is."""
    if geometry is None:
        return cache
    return replace(cache, size=geometry.size, ways=geometry.ways, line=geometry.line)


def _in_words(caches: Iterable[Cache]) -> str:
    named = zip(_LEVEL_NAMES, caches, strict=False)
    return ", ".join(f"{name} {_size_in_words(cache.size)}" for name, cache in named)


def _size_in_words(size: int) -> str:
    return f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size / 2**10:g} KiB"
