"""Arm Neoverse N1 (2019; Graviton 2, Ampere Altra): the table.

Sources: Arm Neoverse N1 Software Optimization Guide (latencies, with the forwarding of
accumulators; pipes V0 and V1, L0 and L1); Arm Neoverse N1 Technical Reference Manual (caches).
Rates of L2 and beyond are what streams sustain, not peaks.
"""

from nkdsl.targets.arm import (
    ARMV8_2,
    TRIPLE,
    dot_int8_entries,
    fma_entry,
    widening_fma_entry,
)
from nkdsl.targets.model import NEVER_MASKED, Cache, Target

NEOVERSE_N1 = Target(
    name="neoverse-n1",
    description="Arm Neoverse N1: two units of NEON with int8 dot products",
    cpu="neoverse-n1",
    features=ARMV8_2,
    triple=TRIPLE,
    registers=32,
    spare_registers=2,
    masked=False,
    masked_from=NEVER_MASKED,
    embedded_broadcast=False,
    instructions=(
        fma_entry("f32", latency=2, per_cycle=2.0),  # 4 cycles, 2 of them to the next accumulation
        fma_entry("f64", latency=2, per_cycle=2.0),
        widening_fma_entry("f16", latency=2, per_cycle=2.0),
        widening_fma_entry("bf16", latency=2, per_cycle=2.0),
        *dot_int8_entries(latency=1, per_cycle=2.0, mixed=False),
    ),
    loads_per_cycle=2.0,  # 16 bytes each
    stores_per_cycle=1.0,  # 16 bytes
    shuffles_per_cycle=2.0,
    issue_width=4,
    micro_op_cache=4096,  # it has none: 64 KiB of instructions are decoded as fast as they run
    caches=(
        Cache(size=64 * 1024, ways=4, bytes_per_cycle=32.0),
        Cache(size=1024 * 1024, ways=8, bytes_per_cycle=18.0),
        Cache(size=32 * 1024 * 1024, ways=16, bytes_per_cycle=8.0),  # the system's, shared by all
    ),
    memory_bytes_per_cycle=6.0,  # about 18 GB/s for one core at 3 GHz
)
