"""Any core with AVX2 and FMA, with the numbers of Haswell and Skylake clients: the table.

It must do well on cores that differ, so each number is the less favourable one: the FMA latency
of Haswell and Zen 2 (5; Skylake and Zen 3 have 4), the L2 of Skylake clients (256 KiB), the one
integer multiplier of Haswell and Zen 2 (Skylake and Zen 3 have two).

Sources: Intel 64 and IA-32 Architectures Optimization Reference Manual (cited: OM), "Haswell
Microarchitecture" and "Skylake Client Microarchitecture"; uops.info (VFMADD231PS YMM, VPMADDWD
YMM); Agner Fog, microarchitecture.pdf.
"""

from nkdsl.targets.model import Cache, Target
from nkdsl.targets.x86 import LEVEL_V3, fma_entry, madd_int8_entries, widening_fma_entry

X86_64_V3 = Target(
    name="x86-64-v3",
    description="any x86-64 core with AVX2 and FMA (Haswell, Zen and later)",
    cpu="x86-64-v3",
    features=LEVEL_V3,
    registers=16,
    spare_registers=1,  # LLVM spills when all 16 are live
    masked=False,  # vmaskmov: a load is whole-speed, a store is not, least of all on AMD
    embedded_broadcast=False,
    instructions=(
        fma_entry("f32", 256, latency=5, per_cycle=2.0),  # ports 0 and 1
        fma_entry("f64", 256, latency=5, per_cycle=2.0),
        widening_fma_entry("f16", 256, latency=5, per_cycle=2.0),
        widening_fma_entry("bf16", 256, latency=5, per_cycle=2.0),
        *madd_int8_entries(256, latency=1, per_cycle=1.0),  # vpmaddwd: port 0 alone
    ),
    loads_per_cycle=2.0,  # ports 2 and 3, 32 bytes each
    stores_per_cycle=1.0,  # port 4, 32 bytes
    shuffles_per_cycle=1.0,  # port 5 alone
    issue_width=4,
    micro_op_cache=1536,
    caches=(
        # L1: 2 × 32 bytes. L2: peak 64, OM lists 25 (Haswell) to 29 (Skylake) sustained.
        # L3: OM lists 14 to 18 sustained.
        Cache(size=32 * 1024, ways=8, bytes_per_cycle=64.0),
        Cache(size=256 * 1024, ways=4, bytes_per_cycle=25.0),
        Cache(size=8 * 1024 * 1024, ways=16, bytes_per_cycle=14.0),  # four slices of 2 MiB
    ),
    memory_bytes_per_cycle=5.0,  # about 18 GB/s for one core at 3.5 GHz
)
