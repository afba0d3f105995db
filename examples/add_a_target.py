"""A target of your own: a table derived from another, planned for and compiled to assembly.

    python examples/add_a_target.py

Zen 5 as in laptops ("Strix Point"): 256-bit units, so a 512-bit FMA starts every cycle, not twice.
An installed package announces its table in pyproject.toml instead of calling register_target:

    [project.entry-points."nkdsl.targets"]
    strix-point = "my_package:STRIX_POINT"
"""

from dataclasses import replace
from pathlib import Path

import nkdsl
from nkdsl.targets import get_target, register_target

ZEN5 = get_target("znver5")
STRIX_POINT = replace(
    ZEN5,
    name="strix-point",
    description="AMD Zen 5 in laptops: AVX-512 on 256-bit units",
    instructions=tuple(
        replace(i, per_cycle=i.per_cycle / 2) if i.bits == 512 else i for i in ZEN5.instructions
    ),
)

if __name__ == "__main__":
    register_target(STRIX_POINT)
    source = Path(__file__).with_name("matmul_127x255x511.mlir")
    kernel = nkdsl.compile(source, target="strix-point")
    print(kernel.explain())
    print(kernel.asm().count("vfmadd"), "FMAs in the assembly")
