"""Intel Cascade Lake (2019): the table, Skylake server's with AVX512-VNNI.

Sources: those of Skylake server; uops.info (Cascade Lake: VPDPBUSD ZMM).
"""

from dataclasses import replace

from nkdsl.targets.skylake_avx512 import SKYLAKE_AVX512
from nkdsl.targets.x86 import LEVEL_V4, dot_int8_entries

CASCADELAKE = replace(
    SKYLAKE_AVX512,
    name="cascadelake",
    description="Intel Cascade Lake: AVX-512 with VNNI, two 512-bit FMA units",
    cpu="cascadelake",
    features=(*LEVEL_V4, "+avx512vnni"),
    instructions=(
        *(i for i in SKYLAKE_AVX512.instructions if i.accumulator != "s32"),
        *dot_int8_entries(512, latency=5, per_cycle=2.0),  # ports 0 and 5
    ),
)
