"""Intel Cooper Lake (2020): the table, Cascade Lake's with AVX512-BF16.

Nobody publishes the rate of its `vdpbf16ps`. One a cycle is assumed: pairs of bf16 at the rate of
f32, without anything to extend. Sapphire Rapids starts half as many.

Sources: those of Cascade Lake; Intel 64 and IA-32 Architectures Software Developer's Manual,
volume 2 (VDPBF16PS).
"""

from dataclasses import replace

from nkdsl.targets.cascadelake import CASCADELAKE
from nkdsl.targets.x86 import dot_bf16_entry

COOPERLAKE = replace(
    CASCADELAKE,
    name="cooperlake",
    description="Intel Cooper Lake: AVX-512 with VNNI and BF16, two 512-bit FMA units",
    cpu="cooperlake",
    features=(*CASCADELAKE.features, "+avx512bf16"),
    instructions=(*CASCADELAKE.instructions, dot_bf16_entry(512, latency=8, per_cycle=1.0)),
)
