"""Intel AMX: eight registers of 16 rows of 64 bytes, and what multiplies them.

A left factor lies in rows, 64 bytes of k each; of a right one each row holds a group of k for all
columns ("VNNI layout"). `tdpbf16ps` and its kin multiply the two into 16 by 16 sums of 32 bits.

Sources: Intel 64 and IA-32 Architectures Optimization Reference Manual, "Intel AMX": a tile
multiplication starts every 16 cycles and takes 52, a tile load every 8, a store every 16;
Intel Architecture Instruction Set Extensions Programming Reference, chapter 3 (TDPBF16PS,
TDPBSSD, TDPFP16PS, LDTILECFG).
"""

from nkdsl.targets.model import Semantics, TileInstruction, TileUnit
from nkdsl.targets.semantics import dot_int8, tile_dot
from nkdsl.types import element_type

ROWS = 16
"""Rows of a tile register."""

ROW_BYTES = 64
"""Bytes of a row."""


def _entry(lhs: str, rhs: str, accumulator: str, mnemonic: str) -> TileInstruction:
    size = element_type(lhs).size
    semantics: Semantics = dot_int8 if accumulator == "s32" else tile_dot
    types = lhs if lhs == rhs and accumulator == "f32" else lhs + rhs
    steps = ROW_BYTES // size
    return TileInstruction(
        name=f"tile.{types}x16x16x{steps}",
        operand=lhs,
        other=rhs,
        accumulator=accumulator,
        lanes=ROW_BYTES // 4,
        rows=ROWS,
        k=4 // size,
        depth=ROWS,
        latency=52,
        per_cycle=1 / 16,
        upstream=f"llvm.x86.{mnemonic}",
        mnemonic=mnemonic,
        semantics=semantics,
    )


AMX_INT8 = tuple(
    _entry(lhs, rhs, "s32", f"tdpb{lhs[0]}{rhs[0]}d")
    for lhs in ("u8", "s8")
    for rhs in ("s8", "u8")
)
"""Products of bytes of either sign, added up in s32."""

AMX_BF16 = _entry("bf16", "bf16", "f32", "tdpbf16ps")
"""Products of bf16, added up in f32."""

AMX_FP16 = _entry("f16", "f16", "f32", "tdpfp16ps")
"""Products of f16, added up in f32."""

AMX = TileUnit(
    name="Intel AMX",
    registers=8,
    features=("+amx-tile", "+amx-bf16", "+amx-int8"),
    instructions=(AMX_BF16, *AMX_INT8),
    rows_loaded_per_cycle=2.0,
    rows_stored_per_cycle=1.0,
    configure_cycles=200.0,
)
"""What Sapphire Rapids has."""

AMX_WITH_FP16 = TileUnit(
    name="Intel AMX",
    registers=8,
    features=(*AMX.features, "+amx-fp16"),
    instructions=(*AMX.instructions, AMX_FP16),
    rows_loaded_per_cycle=2.0,
    rows_stored_per_cycle=1.0,
    configure_cycles=200.0,
)
"""What Granite Rapids has."""
