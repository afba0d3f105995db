"""Targets are data: one table in one file for each processor, read by everything else.

What goes in is the name of a target, or `host`; what comes out is a `Target`, which lists the
processor's registers, multiply-accumulate instructions with their meaning in numpy, rates and
caches. Planner, lowering, interpreter, documentation and tests read that one table, and no pass
names a processor. This package imports only `nkdsl.types` and `nkdsl.errors`.

    get_target("znver5").instruction("fma.f32x16").latency
    get_target("host")            # the best table for this CPU, with its real cache sizes
    detect().reason               # why that one
    can_run(get_target("znver5")) # None, or what this CPU lacks

To add a target, write a table (`skylake_avx512.py` is a model; `dataclasses.replace` makes
variants) and announce it, either for one process:

    register_target(replace(get_target("znver5"), name="strix-point", …))

or, from an installed package, for every process, in its pyproject.toml:

    [project.entry-points."nkdsl.targets"]
    strix-point = "my_package.strix_point:TARGET"

The entry point's value is a `Target` or a function without arguments that returns one. A name
that is taken and a table that contradicts itself are refused. A table can also be used without
being announced at all: `nkdsl.compile(source, target=table)`.

Modules: `model` (the classes), `semantics` (what instructions compute), `x86` and `amx` (what x86
tables share), one module for each table, `validation`, `registry` (by name), `cpu` (what this
machine says about itself), `permission` (what its operating system must be asked for), `host`
(which table fits it).
"""

from nkdsl.targets.host import HostTarget, can_run, detect
from nkdsl.targets.model import (
    Array,
    Cache,
    Instruction,
    Semantics,
    Target,
    TileInstruction,
    TileUnit,
)
from nkdsl.targets.registry import (
    ENTRY_POINT_GROUP,
    get_target,
    known_targets,
    register_target,
    use_target,
)
from nkdsl.targets.validation import validate

__all__ = [
    "ENTRY_POINT_GROUP",
    "Array",
    "Cache",
    "HostTarget",
    "Instruction",
    "Semantics",
    "Target",
    "TileInstruction",
    "TileUnit",
    "can_run",
    "detect",
    "get_target",
    "known_targets",
    "register_target",
    "use_target",
    "validate",
]
