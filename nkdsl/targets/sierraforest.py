"""Intel Sierra Forest (2024), and Grand Ridge: the table; its cores are Crestmont's.

Vector units are 128 bits wide: an instruction on 256 bits occupies one for two cycles, or two of
them, so the rates below, which count instructions on 256 bits, are half of those for 128 bits.

Sources: Intel 64 and IA-32 Architectures Optimization Reference Manual, "Crestmont
Microarchitecture"; uops.info (Alder Lake E: VFMADD231PS YMM, VPDPBUSD VEX YMM); Agner Fog,
microarchitecture.pdf, "Gracemont".
"""

from nkdsl.targets.model import Cache, Target
from nkdsl.targets.x86 import (
    HYBRID_INT8,
    dot_any_int8_entries,
    fma_entry,
    widening_fma_entry,
)

SIERRAFOREST = Target(
    name="sierraforest",
    description="Intel Sierra Forest: AVX2 with AVX-VNNI-INT8 on 128-bit units",
    cpu="sierraforest",
    features=HYBRID_INT8,
    registers=16,
    spare_registers=1,  # LLVM spills when all 16 are live
    masked=False,
    embedded_broadcast=False,
    instructions=(
        fma_entry("f32", 256, latency=6, per_cycle=1.0),  # two units
        fma_entry("f64", 256, latency=6, per_cycle=1.0),
        widening_fma_entry("f16", 256, latency=6, per_cycle=1.0),
        widening_fma_entry("bf16", 256, latency=6, per_cycle=1.0),
        *dot_any_int8_entries(256, latency=5, per_cycle=1.0),
    ),
    loads_per_cycle=1.0,  # two of 16 bytes
    stores_per_cycle=1.0,  # two of 16 bytes
    shuffles_per_cycle=0.5,  # across lanes of 16 bytes, two micro-ops a half
    issue_width=6,
    micro_op_cache=4096,  # it has none; code is decoded from 64 KiB of L1 as quickly
    caches=(
        # L1: 2 × 16 bytes. L2: shared by the cores of a module.
        Cache(size=32 * 1024, ways=8, bytes_per_cycle=32.0),
        Cache(size=4 * 1024 * 1024, ways=16, bytes_per_cycle=20.0),
        Cache(size=36 * 3 * 1024 * 1024, ways=12, bytes_per_cycle=6.0),
    ),
    memory_bytes_per_cycle=4.0,  # about 12 GB/s for one core at 3 GHz
)
