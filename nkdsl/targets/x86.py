"""What the x86-64 tables have in common: feature levels and the constructor of FMA entries.

The feature lists hold everything that LLVM may select of its own accord for a `target-cpu`, not
only the vector instructions that nkdsl asks for: address arithmetic uses BMI2 shifts, shuffles
become VBMI permutations. A CPU, or a virtual machine, that lacks one of them must refuse the code.
What only an intrinsic can select (VAES, VP2INTERSECT) is left out: its absence does no harm.
"""

from nkdsl.targets.model import Instruction
from nkdsl.targets.semantics import fma
from nkdsl.types import element_type

LEVEL_V3 = (
    *("+sse3", "+ssse3", "+sse4.1", "+sse4.2", "+avx", "+avx2", "+fma", "+f16c"),
    *("+bmi", "+bmi2", "+lzcnt", "+movbe", "+popcnt", "+cx16", "+sahf"),
)
"""LLVM's features of the psABI level x86-64-v3: AVX2 and FMA."""

LEVEL_V4 = (*LEVEL_V3, "+avx512f", "+avx512bw", "+avx512cd", "+avx512dq", "+avx512vl")
"""LLVM's features of the psABI level x86-64-v4: AVX-512 as in Skylake servers."""

ICE_LAKE_AVX512 = (
    *("+avx512vbmi", "+avx512vbmi2", "+avx512ifma", "+avx512vnni", "+avx512bitalg"),
    *("+avx512vpopcntdq", "+gfni"),
)
"""What Ice Lake servers added to x86-64-v4, and every later AVX-512 core has."""

AMD_AVX512 = (*ICE_LAKE_AVX512, "+avx512bf16", "+sse4a")
"""What Zen 4 and Zen 5 have beyond x86-64-v4. LLVM uses SSE4a, which only AMD has, in shuffles."""

KEEP_ZMM = ("-prefer-256-bit",)
"""Tuning that keeps LLVM from splitting 512-bit values into 256-bit halves, its default on Intel
processors, where it avoids the lower clock of 512-bit code."""


def fma_entry(operand: str, bits: int, *, latency: int, per_cycle: float) -> Instruction:
    """The fused multiply-add on registers of `bits` bits, as `fma.f32x16` for f32 and 512 bits.

    Args:
        operand: element type of factors and accumulator, `f32` or `f64`.
        bits: width of the register.
        latency: cycles from one accumulation to the next into the same register.
        per_cycle: instructions started a cycle.
    """
    lanes = bits // (8 * element_type(operand).size)
    return Instruction(
        name=f"fma.{operand}x{lanes}",
        operand=operand,
        accumulator=operand,
        lanes=lanes,
        k=1,
        latency=latency,
        per_cycle=per_cycle,
        upstream="vector.fma",
        mnemonic="vfmadd",
        semantics=fma,
    )
