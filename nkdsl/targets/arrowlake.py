"""Intel Arrow Lake (2024): the table of the performance cores, Lion Cove.

As on Alder Lake, one kernel serves both kinds of cores; the efficient ones, Skymont, have four
units of 128 bits, and start as many FMAs.

Sources: Intel 64 and IA-32 Architectures Optimization Reference Manual, "Lion Cove
Microarchitecture"; Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2
(VPDPBSSD). For what these don't tell of the vector units, the numbers of Golden Cove stand.
"""

from nkdsl.targets.model import Cache, Target
from nkdsl.targets.x86 import (
    HYBRID_INT8,
    dot_any_int8_entries,
    fma_entry,
    widening_fma_entry,
)

ARROWLAKE = Target(
    name="arrowlake",
    description="Intel Arrow Lake: AVX2 with AVX-VNNI-INT8",
    cpu="arrowlake",
    features=HYBRID_INT8,
    registers=16,
    spare_registers=1,  # LLVM spills when all 16 are live
    masked=False,
    embedded_broadcast=False,
    instructions=(
        fma_entry("f32", 256, latency=4, per_cycle=2.0),
        fma_entry("f64", 256, latency=4, per_cycle=2.0),
        widening_fma_entry("f16", 256, latency=4, per_cycle=2.0),
        widening_fma_entry("bf16", 256, latency=4, per_cycle=2.0),
        *dot_any_int8_entries(256, latency=5, per_cycle=2.0),
    ),
    loads_per_cycle=3.0,  # 32 bytes each
    stores_per_cycle=2.0,  # 32 bytes each
    shuffles_per_cycle=1.0,  # across lanes
    issue_width=8,
    micro_op_cache=5250,
    caches=(
        # The nearest one (Intel's L0) and L2; the 192 KiB between the two, which feed the core at
        # about the rate of L2, count as a part of that. L2: peak 64.
        Cache(size=48 * 1024, ways=12, bytes_per_cycle=96.0),
        Cache(size=3 * 1024 * 1024, ways=12, bytes_per_cycle=40.0),
        Cache(size=12 * 3 * 1024 * 1024, ways=12, bytes_per_cycle=12.0),  # twelve slices of 3 MiB
    ),
    memory_bytes_per_cycle=6.0,  # about 30 GB/s for one core at 5 GHz
)
