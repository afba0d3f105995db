"""Arm Neoverse V1 (2021; Graviton 3): the table.

Its registers of SVE have 256 bits, and two of them are multiplied where four of NEON are: nothing
is lost with NEON's.

Sources: Arm Neoverse V1 Software Optimization Guide (latencies, with the forwarding of
accumulators; pipes V0 to V3, L0 to L2), as LLVM's scheduling model has it; Arm Neoverse V1
Technical Reference Manual (caches). Rates of L2 and beyond are what streams sustain, not peaks.
"""

from nkdsl.targets.arm import (
    ARMV8_6,
    TRIPLE,
    dot_bf16_entry,
    dot_int8_entries,
    fma_entry,
    widening_fma_entry,
)
from nkdsl.targets.model import Cache, Target

NEOVERSE_V1 = Target(
    name="neoverse-v1",
    description="Arm Neoverse V1: four units of NEON with bf16 and int8 dot products, SVE's masks",
    cpu="neoverse-v1",
    features=(*ARMV8_6, "+sve"),
    triple=TRIPLE,
    registers=32,
    spare_registers=2,
    masked=True,
    masked_from=4,
    embedded_broadcast=False,
    instructions=(
        fma_entry("f32", latency=2, per_cycle=4.0),  # 4 cycles, 2 of them to the next accumulation
        fma_entry("f64", latency=2, per_cycle=4.0),
        widening_fma_entry("f16", latency=2, per_cycle=4.0),
        dot_bf16_entry(latency=2, per_cycle=4.0),
        *dot_int8_entries(latency=1, per_cycle=4.0, mixed=True),
    ),
    loads_per_cycle=3.0,  # 16 bytes each
    stores_per_cycle=2.0,  # 16 bytes each
    shuffles_per_cycle=4.0,
    issue_width=8,
    micro_op_cache=3072,
    caches=(
        Cache(size=64 * 1024, ways=4, bytes_per_cycle=48.0),
        Cache(size=1024 * 1024, ways=8, bytes_per_cycle=32.0),
        Cache(size=32 * 1024 * 1024, ways=16, bytes_per_cycle=12.0),  # the system's, shared by all
    ),
    memory_bytes_per_cycle=10.0,  # about 26 GB/s for one core at 2.6 GHz
)
