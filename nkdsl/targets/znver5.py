"""AMD Zen 5 (2024), server and desktop, with full 512-bit datapaths: the table.

Mobile parts (Strix Point) have 256-bit units and should run the table of Zen 4.

Sources: AMD Software Optimization Guide for the Zen 5 Microarchitecture (58455); Agner Fog,
microarchitecture.pdf, "AMD Zen 5". Rates of L2 and beyond are what kernels sustain, not peaks.
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

ZNVER5 = Target(
    name="znver5",
    description="AMD Zen 5: AVX-512, two 512-bit FMA units",
    cpu="znver5",
    features=(*LEVEL_V4, *AMD_AVX512, "+avxvnni"),
    tuning=KEEP_ZMM,
    registers=32,
    spare_registers=2,  # LLVM spills when all 32 are live, a masked tail takes one more
    masked=True,
    embedded_broadcast=True,
    instructions=(
        fma_entry("f32", 512, latency=4, per_cycle=2.0),  # pipes 0 and 1
        fma_entry("f64", 512, latency=4, per_cycle=2.0),
        fma_entry("f32", 256, latency=4, per_cycle=2.0),
        fma_entry("f64", 256, latency=4, per_cycle=2.0),
        # Both start as often as FMAs: kernels reach twice, and four times, the rate of f32.
        dot_bf16_entry(512, latency=6, per_cycle=2.0),
        widening_fma_entry("f16", 512, latency=4, per_cycle=2.0),
        widening_fma_entry("bf16", 512, latency=4, per_cycle=2.0),
        *dot_int8_entries(512, latency=4, per_cycle=2.0),
    ),
    loads_per_cycle=2.0,  # 64 bytes each
    stores_per_cycle=1.0,  # 64 bytes
    shuffles_per_cycle=2.0,  # both of 512 bits
    issue_width=8,
    micro_op_cache=6144,
    caches=(
        # L1: 2 × 64 bytes. L2: peak 64; products that stream 26 bytes a cycle from it were measured
        # 8 % slower than those that stream 16. L3: peak 32, shared by the eight cores of a complex.
        Cache(size=48 * 1024, ways=12, bytes_per_cycle=128.0),
        Cache(size=1024 * 1024, ways=16, bytes_per_cycle=28.0),
        Cache(size=32 * 1024 * 1024, ways=16, bytes_per_cycle=16.0),
    ),
    memory_bytes_per_cycle=8.0,  # about 32 GB/s for one core at 4 GHz
)
