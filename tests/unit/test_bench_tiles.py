"""Kernels on tiles, counted: what is read of assembly, and what is told of it."""

from __future__ import annotations

import json

import pytest

from nkdsl.backends.mlir import find_tool
from nkdsl.bench.problem import parse_row
from nkdsl.bench.tiles import MainLoop, TileReport, TileRow, main_loops, run_tiles
from nkdsl.cli.main import main
from nkdsl.errors import ToolNotFound, Unsupported
from nkdsl.targets import get_target


def _tools_missing() -> str | None:
    try:
        find_tool("mlir-opt")
        find_tool("mlir-translate")
    except ToolNotFound as error:
        return str(error)
    return None


needs_mlir = pytest.mark.skipif(_tools_missing() is not None, reason=str(_tools_missing()))

MICROKERNEL = """
	.type	matmul,@function
matmul:
	movq	%rdi, 8(%rsp)
	callq	matmul_32x32
	retq
	.type	matmul_32x32,@function
matmul_32x32:
	pushq	%rbx
	tilezero	%tmm0
	jmp	.LBB1_2
.LBB1_1:
	addq	$16, %rdx
	cmpq	%r9, %rdx
	jge	.LBB1_4
.LBB1_2:
	tileloadd	(%rsi,%rax), %tmm4
	tileloadd	(%rdi,%rax), %tmm6
	tdpbf16ps	%tmm6, %tmm4, %tmm0
	cmpq	%r10, %r11
	jge	.LBB1_1
.LBB1_3:
	vmovdqu64	(%r14), %zmm0{spill}
	incq	%r10
	jl	.LBB1_3
	jmp	.LBB1_1
.LBB1_4:
	movq	-8(%rsp), %rax
	tilestored	%tmm0, (%rcx,%rax)
	retq
"""


def test_the_main_loop_is_found_around_its_multiplications_whatever_its_layout() -> None:
    (loop,) = main_loops(MICROKERNEL.format(spill=""))
    assert loop == MainLoop(multiplications=1, loads=2, instructions=9, on_stack=0)


def test_what_the_stack_is_touched_for_in_a_loop_is_counted_in_loops_within_too() -> None:
    (loop,) = main_loops(MICROKERNEL.format(spill="\n\tmovq\t104(%rsp), %r12"))
    assert loop.on_stack == 1
    assert loop.instructions == 9


STRAIGHT = """
	.type	f,@function
f:
	tileloadd	(%rsi), %tmm4
	{multiply}	%tmm4, %tmm5, %tmm0
	retq
"""


def test_multiplications_without_a_loop_are_one_turn() -> None:
    (loop,) = main_loops(STRAIGHT.format(multiply="tdpbssd"))
    assert loop == MainLoop(multiplications=1, loads=1, instructions=3, on_stack=0)


def test_code_that_multiplies_no_tiles_has_no_main_loop() -> None:
    assert main_loops(STRAIGHT.format(multiply="vpaddd")) == ()


@needs_mlir
@pytest.mark.parametrize("dtype", ["bf16", "s8s8", "u8s8"])
def test_kernels_load_one_tile_a_multiplication_and_spill_nothing(dtype: str) -> None:
    report = run_tiles([parse_row("512x512x512")], [dtype], get_target("sapphirerapids"))
    (row,) = report.rows
    assert row.loads_a_multiplication == 1.0
    assert row.useful == 1.0
    assert row.loop.multiplications == row.loop.loads == 4
    assert row.spills == 0
    assert not report.failed


@needs_mlir
def test_of_ragged_products_not_all_that_is_multiplied_is_useful() -> None:
    report = run_tiles([parse_row("127x255x511")], ["bf16"], get_target("sapphirerapids"))
    assert report.rows[0].useful == pytest.approx(127 * 255 * 511 / (128 * 256 * 512))


def test_what_is_not_multiplied_by_tiles_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"64x64x64 in bf16 is multiplied by .*, without tiles"):
        run_tiles([parse_row("64x64x64")], ["bf16"], get_target("znver4"))


@needs_mlir
def test_the_command_prints_counts_and_saves_them(tmp_path, capsys) -> None:
    path = tmp_path / "tiles.json"
    assert main(["bench", "tiles", "64x64x64", "--dtype", "bf16", "--json", str(path)]) == 0
    assert "counted, nothing timed" in capsys.readouterr().out
    report = json.loads(path.read_text())
    assert report["schema"] == "nkdsl-bench-tiles/1"
    (row,) = report["rows"]
    assert row["shape"] == "64x64x64"
    assert row["spills"] == 0


def test_a_main_loop_that_touches_the_stack_fails_the_run() -> None:
    row = TileRow(
        shape="64x64x64",
        dtype="bf16",
        plan="",
        instruction="tile.bf16x16x16x32",
        block="32x32",
        flops=1000,
        multiplications=4,
        loads=4,
        sums=8,
        useful=1.0,
        loop=MainLoop(multiplications=4, loads=4, instructions=20, on_stack=1),
        spills=1,
    )
    assert TileReport("sapphirerapids", (row,), "nkdsl bench tiles").failed
    assert row.instructions_a_kiloflop == 20
