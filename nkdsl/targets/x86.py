"""What the x86-64 tables have in common: feature levels and the constructors of entries.

The feature lists hold everything that LLVM may select of its own accord for a `target-cpu`, not
only the vector instructions that nkdsl asks for: address arithmetic uses BMI2 shifts, shuffles
become VBMI permutations. A CPU, or a virtual machine, that lacks one of them must refuse the code.
What only an intrinsic can select (VAES, VP2INTERSECT) is left out: its absence does no harm.
"""

from dataclasses import replace

from nkdsl.targets.model import Instruction
from nkdsl.targets.semantics import dot_bf16, dot_int8, fma, widened_fma
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

HYBRID_V3 = (*LEVEL_V3, "+avxvnni", "+gfni")
"""What Alder Lake has beyond x86-64-v3, on all of its cores. LLVM uses GFNI to shift bytes."""

HYBRID_INT8 = (*HYBRID_V3, "+avxvnniint8", "+avxneconvert", "+avxifma")
"""The same of Arrow Lake and Sierra Forest."""

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


def widening_fma_entry(operand: str, bits: int, *, latency: int, per_cycle: float) -> Instruction:
    """The multiply-add in f32 of factors of `bf16` or `f16`, extended when they are loaded.

    Args:
        operand: element type of the factors, `bf16` or `f16`.
        bits: width of the accumulator register.
        latency: cycles from one accumulation to the next into the same register.
        per_cycle: instructions started a cycle, what extending costs apart.
    """
    lanes = bits // 32
    return Instruction(
        name=f"fma.{operand}x{lanes}",
        operand=operand,
        accumulator="f32",
        lanes=lanes,
        k=1,
        latency=latency,
        per_cycle=per_cycle,
        upstream="vector.fma",
        mnemonic="vfmadd",
        semantics=widened_fma,
        widened="f32",
    )


def dot_bf16_entry(bits: int, *, latency: int, per_cycle: float) -> Instruction:
    """`vdpbf16ps`: pairs of bf16 into f32, of AVX512-BF16.

    Args:
        bits: width of the register.
        latency: cycles from one accumulation to the next into the same register.
        per_cycle: instructions started a cycle.
    """
    lanes = bits // 32
    return Instruction(
        name=f"dot.bf16x{lanes}",
        operand="bf16",
        accumulator="f32",
        lanes=lanes,
        k=2,
        latency=latency,
        per_cycle=per_cycle,
        upstream=f"llvm.x86.avx512bf16.dpbf16ps.{bits}",
        mnemonic="vdpbf16ps",
        semantics=dot_bf16,
    )


def _dot_int8(
    lhs: str, rhs: str, bits: int, intrinsic: str, *, latency: int, per_cycle: float
) -> Instruction:
    """A sum of four products of bytes; its intrinsic ends in the mnemonic."""
    return Instruction(
        name=f"dot.{lhs}{rhs}x{bits // 32}",
        operand=lhs,
        other=rhs,
        accumulator="s32",
        lanes=bits // 32,
        k=4,
        latency=latency,
        per_cycle=per_cycle,
        upstream=f"llvm.x86.{intrinsic}.{bits}",
        mnemonic=intrinsic.partition(".")[2],
        semantics=dot_int8,
    )


def dot_int8_entries(bits: int, *, latency: int, per_cycle: float) -> tuple[Instruction, ...]:
    """`vpdpbusd`: groups of four products of u8 and s8 into s32, of AVX512-VNNI and AVX-VNNI.

    It takes the u8 factor first, whichever that is. Where both factors are s8, or both u8, one of
    them is taken for the other type: (a + 128)·b - 128·b is a·b.

    Args:
        bits: width of the register.
        latency: cycles from one accumulation to the next into the same register.
        per_cycle: instructions started a cycle.
    """
    orders = {
        ("u8", "s8"): "acc, lhs, rhs",
        ("s8", "u8"): "acc, rhs, lhs",
        ("s8", "s8"): "",
        ("u8", "u8"): "",
    }
    return tuple(
        replace(
            _dot_int8(lhs, rhs, bits, "avx512.vpdpbusd", latency=latency, per_cycle=per_cycle),
            flips=not order,
            order=order,
        )
        for (lhs, rhs), order in orders.items()
    )


def dot_any_int8_entries(bits: int, *, latency: int, per_cycle: float) -> tuple[Instruction, ...]:
    """The same with an instruction for each pair of signs, of AVX-VNNI and AVX-VNNI-INT8.

    Args:
        bits: width of the register, 128 or 256.
        latency: cycles from one accumulation to the next into the same register.
        per_cycle: instructions started a cycle.
    """
    features = {
        ("u", "s"): "avx512",
        ("s", "s"): "avx2",
        ("s", "u"): "avx2",
        ("u", "u"): "avx2",
    }
    return tuple(
        _dot_int8(
            *(f"{lhs}8", f"{rhs}8", bits, f"{feature}.vpdpb{lhs}{rhs}d"),
            latency=latency,
            per_cycle=per_cycle,
        )
        for (lhs, rhs), feature in features.items()
    )


_PMADDWD = {
    256: "llvm.x86.avx2.pmadd.wd",
    512: "llvm.x86.avx512.pmaddw.d.512",
}
"""LLVM's names of `vpmaddwd`, by the width of the register."""


def madd_int8_entries(bits: int, *, latency: int, per_cycle: float) -> tuple[Instruction, ...]:
    """`vpmaddwd` and `vpaddd`: pairs of products of s16 into s32, for cores without VNNI.

    Factors are extended to s16 when they are loaded. That is exact for all signs, whereas
    `vpmaddubsw`, which takes bytes, saturates the sums of two products.

    Args:
        bits: width of the register, 256 or 512.
        latency: cycles from one accumulation to the next into the same register, of `vpaddd`.
        per_cycle: pairs of the two instructions started a cycle.
    """
    return tuple(
        Instruction(
            name=f"madd.{lhs}{rhs}x{bits // 32}",
            operand=lhs,
            other=rhs,
            accumulator="s32",
            lanes=bits // 32,
            k=2,
            latency=latency,
            per_cycle=per_cycle,
            upstream=_PMADDWD[bits],
            mnemonic="vpmaddwd",
            semantics=dot_int8,
            widened="i16",
            order="lhs, rhs",
        )
        for lhs in ("u8", "s8")
        for rhs in ("u8", "s8")
    )
