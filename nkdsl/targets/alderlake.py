"""Intel Alder Lake and Raptor Lake (2021): the table of the performance cores, Golden Cove.

Programs move between the cores of such a processor, so there is one table and one kernel for both
kinds. The efficient cores, Gracemont, have units of 128 bits: they take about twice the cycles,
in the same proportions but for loads, of which they start one of 256 bits a cycle.

Sources: Intel 64 and IA-32 Architectures Optimization Reference Manual, "Golden Cove
Microarchitecture" and "Gracemont Microarchitecture"; uops.info (Alder Lake P: VFMADD231PS YMM,
VPDPBUSD VEX YMM, VCVTPH2PS YMM); Agner Fog, microarchitecture.pdf.
"""

from nkdsl.targets.model import Cache, Target
from nkdsl.targets.x86 import HYBRID_V3, dot_int8_entries, fma_entry, widening_fma_entry

ALDERLAKE = Target(
    name="alderlake",
    description="Intel Alder and Raptor Lake: AVX2 with AVX-VNNI",
    cpu="alderlake",
    features=HYBRID_V3,
    registers=16,
    spare_registers=1,  # LLVM spills when all 16 are live
    masked=False,
    embedded_broadcast=False,
    instructions=(
        fma_entry("f32", 256, latency=4, per_cycle=2.0),  # ports 0 and 1
        fma_entry("f64", 256, latency=4, per_cycle=2.0),
        widening_fma_entry("f16", 256, latency=4, per_cycle=2.0),
        widening_fma_entry("bf16", 256, latency=4, per_cycle=2.0),
        *dot_int8_entries(256, latency=5, per_cycle=2.0),  # ports 0 and 1
    ),
    loads_per_cycle=3.0,  # 32 bytes each
    stores_per_cycle=2.0,  # 32 bytes each
    shuffles_per_cycle=1.0,  # across lanes port 5 alone
    issue_width=6,
    micro_op_cache=4096,
    caches=(
        # L1: 3 × 32 bytes. L2: peak 64, 48 sustained, about 40 with write-back beside it.
        Cache(size=48 * 1024, ways=12, bytes_per_cycle=96.0),
        Cache(size=1280 * 1024, ways=10, bytes_per_cycle=40.0),
        Cache(size=10 * 3 * 1024 * 1024, ways=12, bytes_per_cycle=14.0),  # ten slices of 3 MiB
    ),
    memory_bytes_per_cycle=6.0,  # about 30 GB/s for one core at 5 GHz
)
