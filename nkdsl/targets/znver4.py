"""AMD Zen 4 (2022): the table.

Vector datapaths are 256 bits wide: a 512-bit instruction occupies its unit for two cycles, so the
rates below, which count 512-bit instructions, are half of those for 256 bits. Arithmetic and
load rates are in the same proportion for both widths; 512 bits need half the instructions.

Sources: AMD Software Optimization Guide for the Zen 4 Microarchitecture (57647); uops.info
(VFMADD231PS ZMM, VMOVUPS ZMM); Agner Fog, microarchitecture.pdf, "AMD Zen 4".
"""

from nkdsl.targets.model import Cache, Target
from nkdsl.targets.x86 import (
    AMD_AVX512,
    KEEP_ZMM,
    LEVEL_V4,
    dot_bf16_entry,
    dot_int8_entries,
    fma_entry,
    widening_fma_entry,
)

ZNVER4 = Target(
    name="znver4",
    description="AMD Zen 4: AVX-512 on 256-bit units",
    cpu="znver4",
    features=(*LEVEL_V4, *AMD_AVX512),
    tuning=KEEP_ZMM,
    registers=32,
    spare_registers=2,  # LLVM spills when all 32 are live, a masked tail takes one more
    masked=True,
    embedded_broadcast=True,
    instructions=(
        fma_entry("f32", 512, latency=4, per_cycle=1.0),  # pipes 0 and 1, two cycles each
        fma_entry("f64", 512, latency=4, per_cycle=1.0),
        fma_entry("f32", 256, latency=4, per_cycle=2.0),
        fma_entry("f64", 256, latency=4, per_cycle=2.0),
        dot_bf16_entry(512, latency=6, per_cycle=1.0),
        widening_fma_entry("f16", 512, latency=4, per_cycle=1.0),
        widening_fma_entry("bf16", 512, latency=4, per_cycle=1.0),
        *dot_int8_entries(512, latency=4, per_cycle=1.0),
    ),
    loads_per_cycle=1.0,  # two of 32 bytes
    # vbroadcastss and vbroadcastsd of memory also take a slot of a unit that multiplies: measured.
    broadcasts={4: "vpbroadcastd", 8: "vpbroadcastq"},
    stores_per_cycle=0.5,  # one of 32 bytes
    store_buffer=32,  # 64 of 32 bytes
    shuffles_per_cycle=1.0,  # pipes 1 and 2, two cycles each
    issue_width=6,
    micro_op_cache=6912,
    caches=(
        # L1: 2 × 32 bytes. L2: peak 32. L3: peak 32, shared by the eight cores of a complex.
        Cache(size=32 * 1024, ways=8, bytes_per_cycle=64.0),
        Cache(size=1024 * 1024, ways=8, bytes_per_cycle=24.0),
        Cache(size=32 * 1024 * 1024, ways=16, bytes_per_cycle=16.0),
    ),
    memory_bytes_per_cycle=6.0,  # about 25 GB/s for one core at 4 GHz
    miss_cycles=0.4,  # 384³ read in place loses 2 to 4 % to a packed product
)
