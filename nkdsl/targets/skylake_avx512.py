"""Intel Skylake server (2017): the table, from which those of its kin are derived.

Both 512-bit FMA units are assumed (ports 0+1 fused, and 5): Xeon Gold 6xxx and Platinum; Bronze,
Silver and most Gold 5xxx have one.

Sources: Intel 64 and IA-32 Architectures Optimization Reference Manual (cited: OM), "Skylake Server
Microarchitecture"; uops.info (VFMADD231PS ZMM, VPERMT2PS ZMM, VPMADDWD ZMM, VPADDD ZMM); Agner Fog,
microarchitecture.pdf.
"""

from nkdsl.targets.model import Cache, Target
from nkdsl.targets.x86 import (
    KEEP_ZMM,
    LEVEL_V4,
    fma_entry,
    madd_int8_entries,
    widening_fma_entry,
)

SKYLAKE_AVX512 = Target(
    name="skylake-avx512",
    description="Intel Skylake servers: AVX-512, two 512-bit FMA units",
    cpu="skylake-avx512",
    features=LEVEL_V4,
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
        widening_fma_entry("f16", 512, latency=4, per_cycle=2.0),
        widening_fma_entry("bf16", 512, latency=4, per_cycle=2.0),
        *madd_int8_entries(512, latency=1, per_cycle=1.0),  # both on ports 0 and 5
    ),
    loads_per_cycle=2.0,  # ports 2 and 3, 64 bytes each
    stores_per_cycle=1.0,  # port 4, 64 bytes
    shuffles_per_cycle=1.0,  # port 5 alone
    issue_width=4,
    micro_op_cache=1536,
    caches=(
        # L1: 2 × 64 bytes. L2: peak 64, OM lists about 48 sustained, kernels that also write back
        # to L1 and evict see about 30. L3: OM lists about 15 at best; 10 across the mesh.
        Cache(size=32 * 1024, ways=8, bytes_per_cycle=128.0),
        Cache(size=1024 * 1024, ways=16, bytes_per_cycle=30.0),
        Cache(size=24 * 1408 * 1024, ways=11, bytes_per_cycle=10.0),  # 24 slices of 1.375 MiB
    ),
    memory_bytes_per_cycle=4.0,  # about 12 GB/s for one core at 3 GHz
)
