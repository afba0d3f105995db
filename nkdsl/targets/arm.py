"""What the AArch64 tables have in common: features, and the constructors of entries.

All entries are of NEON, on registers of 128 bits. Where a core has SVE, whatever the width of its
registers, LLVM uses SVE to mask loads and stores of 128 bits; those of fewer bits it takes apart,
so only elements of 4 bytes and more are masked.

NEON multiplies by a lane of a register: what is broadcast costs one load of an element, as it does
on x86-64, and no shuffle. No instruction but loads and stores reads memory.

Latencies are those between accumulations: these cores forward an accumulator from one
multiply-add to the next of its kind some cycles before the result is there for others.
"""

from dataclasses import replace

from nkdsl.targets.model import Instruction
from nkdsl.targets.semantics import dot_bf16_to_odd, dot_int8, fma, widened_fma
from nkdsl.types import element_type

TRIPLE = "aarch64-unknown-linux-gnu"
"""LLVM's target triple."""

ARMV8_2 = ("+fp-armv8", "+neon", "+fullfp16", "+dotprod")
"""LLVM's features of Armv8.2 with arithmetic on f16 and sums of four products of bytes."""

ARMV8_6 = (*ARMV8_2, "+fp16fml", "+bf16", "+i8mm")
"""The same of Armv8.6: bf16, and products of bytes of different signs."""

_BITS = 128


def fma_entry(operand: str, *, latency: int, per_cycle: float) -> Instruction:
    """`fmla`: the fused multiply-add of f32 or f64.

    Args:
        operand: element type of factors and accumulator.
        latency: cycles from one accumulation to the next into the same register.
        per_cycle: instructions started a cycle.
    """
    lanes = _BITS // (8 * element_type(operand).size)
    return Instruction(
        name=f"fma.{operand}x{lanes}",
        operand=operand,
        accumulator=operand,
        lanes=lanes,
        k=1,
        latency=latency,
        per_cycle=per_cycle,
        upstream="vector.fma",
        mnemonic="fmla",
        semantics=fma,
    )


def widening_fma_entry(operand: str, *, latency: int, per_cycle: float) -> Instruction:
    """`fmla` in f32 of factors of `bf16` or `f16`, extended when they are loaded.

    `fmlal` multiplies f16 as it is, but reads half of a register of 128 bits, whichever it says.

    Args:
        operand: element type of the factors.
        latency: cycles from one accumulation to the next into the same register.
        per_cycle: instructions started a cycle, what extending costs apart.
    """
    entry = fma_entry("f32", latency=latency, per_cycle=per_cycle)
    name = f"fma.{operand}x{entry.lanes}"
    return replace(entry, name=name, operand=operand, semantics=widened_fma, widened="f32")


def dot_bf16_entry(*, latency: int, per_cycle: float) -> Instruction:
    """`bfdot`: pairs of bf16 into f32.

    Args:
        latency: cycles from one accumulation to the next into the same register.
        per_cycle: instructions started a cycle.
    """
    return Instruction(
        name="dot.bf16x4",
        operand="bf16",
        accumulator="f32",
        lanes=4,
        k=2,
        latency=latency,
        per_cycle=per_cycle,
        upstream="llvm.aarch64.neon.bfdot.v4f32.v8bf16",
        mnemonic="bfdot",
        semantics=dot_bf16_to_odd,
    )


def dot_int8_entries(*, latency: int, per_cycle: float, mixed: bool) -> tuple[Instruction, ...]:
    """`sdot`, `udot` and `usdot`: groups of four products of bytes into s32.

    Without `usdot`, which takes the u8 factor first, the signs of one factor are flipped where they
    differ: (a + 128)·b - 128·b is a·b.

    Args:
        latency: cycles from one accumulation to the next into the same register.
        per_cycle: instructions started a cycle.
        mixed: whether there is `usdot`.
    """

    def dot(lhs: str, rhs: str, mnemonic: str, order: str = "acc, lhs, rhs") -> Instruction:
        return Instruction(
            name=f"dot.{lhs}{rhs}x4",
            operand=lhs,
            other=rhs,
            accumulator="s32",
            lanes=4,
            k=4,
            latency=latency,
            per_cycle=per_cycle,
            upstream=f"llvm.aarch64.neon.{mnemonic}.v4i32.v16i8",
            mnemonic=mnemonic,
            semantics=dot_int8,
            flips=not order,
            order=order,
        )

    of_one_type = dot("s8", "s8", "sdot"), dot("u8", "u8", "udot")
    if mixed:
        swapped = dot("s8", "u8", "usdot", "acc, rhs, lhs")
        return *of_one_type, dot("u8", "s8", "usdot"), swapped
    return *of_one_type, dot("u8", "s8", "sdot", ""), dot("s8", "u8", "sdot", "")
