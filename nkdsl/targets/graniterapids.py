"""Intel Granite Rapids (2024): the core of Sapphire Rapids, and AMX with f16.

Sources: as of Sapphire Rapids, whose vector units it has (LLVM models both by one table); Intel
Architecture Instruction Set Extensions Programming Reference, AMX-FP16; Intel's data sheets of the
Xeon 6 P-cores: 2 MiB of L2, up to 504 MiB of L3.
"""

from dataclasses import replace

from nkdsl.targets.amx import AMX_WITH_FP16
from nkdsl.targets.model import Cache
from nkdsl.targets.sapphirerapids import SAPPHIRERAPIDS

GRANITERAPIDS = replace(
    SAPPHIRERAPIDS,
    name="graniterapids",
    description="Intel Granite Rapids: AVX-512, two 512-bit FMA units, AMX with f16",
    cpu="graniterapids",
    caches=(
        *SAPPHIRERAPIDS.caches[:2],
        Cache(size=96 * 4096 * 1024, ways=16, bytes_per_cycle=8.0),  # 96 slices of 4 MiB
    ),
    tiles=AMX_WITH_FP16,
)
