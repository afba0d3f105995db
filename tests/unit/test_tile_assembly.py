"""The machine code of AMX kernels: what their main loops hold, and what stands around these.

    nkdsl compile examples/matmul_bf16.mlir --target sapphirerapids --emit=asm

LLVM allocates no tile: registers are numbered by nkdsl. What LLVM could still do wrong is to keep
addresses on the stack, or to leave something in a loop that doesn't belong there.
"""

import re
from dataclasses import replace
from functools import cache
from itertools import pairwise, product

import pytest

import nkdsl
from tests.unit.assembly import Instruction, Line, functions, instructions, smallest_loop
from tests.unit.narrow import NarrowProduct

TARGET = "sapphirerapids"

BF16, S8, U8 = ("bf16", "bf16"), ("s8", "s8"), ("u8", "s8")

MNEMONICS = {BF16: "tdpbf16ps", S8: "tdpbssd", U8: "tdpbsud"}
"""What multiplies tiles, for factors of u8 and s8 the other way round as in columns."""

PLAN = {"block": "32x32", "pack": "both", "m_block": 128, "n_block": 256, "k_block": 256}

KERNELS: dict[str, dict[str, object]] = {
    "old sums": {},
    "from zero": {"from_zero": True},
    "in columns": {"layouts": ("columns", "columns", "columns")},
    "a transposed factor": {"layouts": ("rows", "columns", "rows")},
    "written cache blocks": {"plan": PLAN},
    "open sizes": {"dynamic": "mnk"},
    "a bias": {"epilogue": "bias along n", "result": "f32", "from_zero": True},
}
"""Products of 512x512x512 whose blocks are of 2x2 tiles."""

each_kernel = pytest.mark.parametrize(
    ("factors", "kernel"),
    [
        pytest.param(factors, kernel, id=f"{'-'.join(factors)}-{kernel}")
        for factors, kernel in [*product((BF16, S8), KERNELS), (U8, "in columns")]
    ],
)


def case_of(factors: tuple[str, str], kernel: str) -> NarrowProduct:
    result = "f32" if factors[0] == "bf16" else "s32"
    case = NarrowProduct(factors, 512, 512, 512, result, target=TARGET)
    case = replace(case, **KERNELS[kernel])  # type: ignore[arg-type]
    if not case.plan:
        return case
    steps = {BF16: "bf16x16x16x32", S8: "s8s8x16x16x64"}[factors]
    return replace(case, plan={"instruction": f'"tile.{steps}"', **case.plan})


@cache
def code(factors: tuple[str, str], kernel: str) -> dict[str, tuple[Line, ...]]:
    """The functions of a kernel."""
    return functions(nkdsl.compile(case_of(factors, kernel).source, TARGET).asm())


def microkernels(factors: tuple[str, str], kernel: str) -> dict[str, tuple[Line, ...]]:
    """The functions that multiply tiles."""
    return {
        name: lines
        for name, lines in code(factors, kernel).items()
        if any(i.tile_product for i in instructions(lines))
    }


def two_by_two(factors: tuple[str, str], kernel: str) -> list[tuple[Line, ...]]:
    """The microkernels of 2x2 tiles."""
    found = microkernels(factors, kernel)
    return [lines for name, lines in found.items() if re.search(r"_32x32(_|$)", name)]


def main_loops(factors: tuple[str, str], kernel: str) -> list[tuple[Instruction, ...]]:
    loops = [smallest_loop(lines, "tdp") for lines in two_by_two(factors, kernel)]
    assert loops
    return loops


@each_kernel
def test_a_main_loop_has_four_multiplications_and_four_loads(
    factors: tuple[str, str], kernel: str
) -> None:
    for loop in main_loops(factors, kernel):
        products = [i for i in loop if i.tile_product]
        assert [i.mnemonic for i in products] == [MNEMONICS[factors]] * 4
        assert sum(i.tile_load for i in loop) == 4
        assert not any(i.tile_store or i.mnemonic == "tilezero" for i in loop)


@each_kernel
def test_four_multiplications_lie_between_two_into_one_accumulator(
    factors: tuple[str, str], kernel: str
) -> None:
    for loop in main_loops(factors, kernel):
        accumulators = [i.tiles[-1] for i in (*loop, *loop) if i.tile_product]
        places: dict[str, list[int]] = {}
        for place, register in enumerate(accumulators):
            places.setdefault(register, []).append(place)
        assert all(b - a >= 4 for found in places.values() for a, b in pairwise(found))


@each_kernel
def test_a_main_loop_neither_configures_nor_calls_nor_touches_the_stack(
    factors: tuple[str, str], kernel: str
) -> None:
    for loop in main_loops(factors, kernel):
        names = {i.mnemonic for i in loop}
        assert not names & {"ldtilecfg", "sttilecfg", "tilerelease"}
        assert not any(name.startswith(("call", "push", "pop")) for name in names)
        assert not any("(%rsp" in (i.memory or "") for i in loop)


@each_kernel
def test_sums_go_in_and_out_of_registers_once_around_the_main_loop(
    factors: tuple[str, str], kernel: str
) -> None:
    for lines in two_by_two(factors, kernel):
        every, loop = instructions(lines), smallest_loop(lines, "tdp")
        around = [i for i in every if i not in loop]
        starts = [i for i in around if i.tile_load or i.mnemonic == "tilezero"]
        accumulators = sorted(i.tiles[-1] for i in loop if i.tile_product)
        assert sorted(i.tiles[0] for i in starts) in (accumulators, sorted(accumulators * 2))
        assert sorted(i.tiles[0] for i in around if i.tile_store) == accumulators
        assert not any(i.tile_product for i in around)


@each_kernel
def test_tiles_are_configured_and_released_once_and_not_in_microkernels(
    factors: tuple[str, str], kernel: str
) -> None:
    found = microkernels(factors, kernel)
    for name, lines in code(factors, kernel).items():
        names = [i.mnemonic for i in instructions(lines)]
        times = 1 if name == "product" else 0
        assert names.count("ldtilecfg") == names.count("tilerelease") == times
        assert "sttilecfg" not in names
        if name not in found:
            assert not any(i.tiles for i in instructions(lines))
    assert "product" not in found


@each_kernel
def test_factors_lie_in_registers_that_no_accumulator_has(
    factors: tuple[str, str], kernel: str
) -> None:
    for lines in microkernels(factors, kernel).values():
        products = [i for i in instructions(lines) if i.tile_product]
        assert {i.tiles[-1] for i in products}.isdisjoint(
            register for i in products for register in i.tiles[:-1]
        )
