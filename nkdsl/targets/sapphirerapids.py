"""Intel Sapphire Rapids (2023) and Emerald Rapids.

Sources: Intel 64 and IA-32 Architectures Optimization Reference Manual (cited: OM), "Golden Cove
Microarchitecture"; uops.info (Alder Lake P with AVX-512: VFMADD231PS ZMM, VPERMT2PS ZMM, VPDPBUSD
ZMM); Agner Fog, microarchitecture.pdf; LLVM's X86SchedSapphireRapids.td (VDPBF16PSZr).
"""

from nkdsl.targets.amx import AMX
from nkdsl.targets.model import Cache, Target
from nkdsl.targets.x86 import (
    ICE_LAKE_AVX512,
    KEEP_ZMM,
    LEVEL_V4,
    dot_bf16_entry,
    dot_int8_entries,
    fma_entry,
    widening_fma_entry,
)

SAPPHIRERAPIDS = Target(
    name="sapphirerapids",
    description="Intel Sapphire and Emerald Rapids: AVX-512, two 512-bit FMA units, AMX",
    cpu="sapphirerapids",
    features=(*LEVEL_V4, *ICE_LAKE_AVX512, "+avx512bf16", "+avx512fp16", "+avxvnni"),
    tuning=KEEP_ZMM,
    registers=32,
    spare_registers=2,  # LLVM spills when all 32 are live, a masked tail takes one more
    masked=True,
    embedded_broadcast=True,
    instructions=(
        fma_entry("f32", 512, latency=4, per_cycle=2.0),  # ports 0 and 5
        fma_entry("f64", 512, latency=4, per_cycle=2.0),
        fma_entry("f32", 256, latency=4, per_cycle=2.0),  # ports 0 and 1
        fma_entry("f64", 256, latency=4, per_cycle=2.0),
        widening_fma_entry("bf16", 512, latency=4, per_cycle=2.0),
        dot_bf16_entry(512, latency=8, per_cycle=0.5),  # two micro-ops each on ports 0 and 5
        widening_fma_entry("f16", 512, latency=4, per_cycle=2.0),
        *dot_int8_entries(512, latency=5, per_cycle=2.0),  # ports 0 and 5
    ),
    loads_per_cycle=2.0,  # of 64 bytes; three of 32
    stores_per_cycle=1.0,  # of 64 bytes; two of 32
    shuffles_per_cycle=1.0,  # port 5 alone
    issue_width=6,
    micro_op_cache=4096,
    caches=(
        # L1: 2 × 64 bytes. L2: peak 64, OM lists 48 sustained, about 40 with write-back beside it.
        # L3: across the mesh.
        Cache(size=48 * 1024, ways=12, bytes_per_cycle=128.0),
        Cache(size=2048 * 1024, ways=16, bytes_per_cycle=40.0),
        Cache(size=32 * 1920 * 1024, ways=15, bytes_per_cycle=8.0),  # 32 slices of 1.875 MiB
    ),
    memory_bytes_per_cycle=4.0,  # about 12 GB/s for one core at 3 GHz
    tiles=AMX,
)
