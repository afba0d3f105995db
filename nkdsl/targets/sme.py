"""Arm SME: tiles of the square of the vector length, and outer products that add to them.

The array ZA holds four tiles of 32-bit sums, each with as many rows and columns as a vector of the
streaming mode has lanes. An outer product takes a column of the left factor and a row of the right
one, or groups of k of both, as vector registers. Vectors may have 128 to 2,048 bits; one code does
for all.

Sources: Arm Architecture Reference Manual, "The Scalable Matrix Extension" (FMOPA, BFMOPA, SMOPA,
UMOPA, SUMOPA, USMOPA); S. Remke, A. Breuer: Hello SME! Generating Fast Matrix Multiplication
Kernels Using the Scalable Matrix Extension, 2024 (rates of Apple M4: vectors of 512 bits, one outer
product a cycle, four independent ones hide its latency).
"""

from nkdsl.targets.model import Semantics, TileInstruction, TileUnit
from nkdsl.targets.semantics import dot_bf16_to_odd, dot_int8, fma
from nkdsl.types import element_type

_LANES = 4
"""Sums of 32 bits in 128."""


def _entry(
    lhs: str, rhs: str, accumulator: str, mnemonic: str, intrinsic: str, semantics: Semantics
) -> TileInstruction:
    types = lhs if lhs == rhs and accumulator == "f32" else lhs + rhs
    return TileInstruction(
        name=f"outer.{types}",
        operand=lhs,
        other=rhs,
        accumulator=accumulator,
        lanes=_LANES,
        rows=_LANES,
        k=4 // element_type(lhs).size,
        depth=1,
        latency=4,
        per_cycle=1.0,
        upstream=f"llvm.aarch64.sme.{intrinsic}",
        mnemonic=mnemonic,
        semantics=semantics,
        scalable=True,
    )


_SIGNS = {("s8", "s8"): "s", ("u8", "u8"): "u", ("s8", "u8"): "su", ("u8", "s8"): "us"}
"""The first letters of int8 outer products, by the types of the left and of the right factor."""

SME = TileUnit(
    name="Arm SME",
    registers=4,
    features=("+sme",),
    instructions=(
        _entry("f32", "f32", "f32", "fmopa", "mopa.nxv4f32", fma),
        _entry("bf16", "bf16", "f32", "bfmopa", "mopa.wide.nxv8bf16", dot_bf16_to_odd),
        *(
            _entry(lhs, rhs, "s32", f"{signs}mopa", f"{signs}mopa.wide.nxv16i8", dot_int8)
            for (lhs, rhs), signs in _SIGNS.items()
        ),
    ),
    rows_loaded_per_cycle=2.0,
    rows_stored_per_cycle=1.0,
    configure_cycles=200.0,
    vector_bits=512,
)
"""What Armv9 cores with SME have."""
