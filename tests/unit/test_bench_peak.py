"""The peak loop: its assembly holds the FMAs that are counted, and nothing beside them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nkdsl.bench import peak as peak_module
from nkdsl.bench.jit import Cpu
from nkdsl.bench.peak import LOOPS, Peak, compile_peak, loop_body, target_peak
from nkdsl.bench.timing import take_turns
from nkdsl.errors import Unsupported
from nkdsl.targets import Instruction, get_target
from nkdsl.types import element_type

AVX512, AVX2 = Cpu("x86-64-v4"), Cpu("x86-64-v3")


def _entry(mnemonic: str, operand: str, lanes: int, k: int = 1) -> Instruction:
    """An instruction as a table has it, as far as a loop needs."""
    return Instruction(
        name=f"{mnemonic}.{operand}x{lanes}",
        operand=operand,
        accumulator=element_type(operand).accumulator.name,
        lanes=lanes,
        k=k,
        latency=4,
        per_cycle=2.0,
        upstream="",
        mnemonic=mnemonic,
        semantics=lambda acc, lhs, rhs: acc,
    )


F32, F64 = _entry("vfmadd", "f32", 16), _entry("vfmadd", "f64", 8)
F32_AVX2, F64_AVX2 = _entry("vfmadd", "f32", 8), _entry("vfmadd", "f64", 4)

x86 = pytest.mark.isa("sse2")  # LLVM generates for the host's architecture only


@x86
@pytest.mark.parametrize(
    ("entry", "cpu", "register"),
    [
        (F32, AVX512, "zmm"),
        (F64, AVX512, "zmm"),
        (F32_AVX2, AVX2, "ymm"),
        (F64_AVX2, AVX2, "ymm"),
        (_entry("vfmadd", "bf16", 16), AVX512, "zmm"),
        (_entry("vdpbf16ps", "bf16", 16, 2), Cpu("znver4"), "zmm"),
        (_entry("vdpbf16ps", "bf16", 8, 2), Cpu("znver4"), "ymm"),
        (_entry("vpdpbusd", "u8", 16, 4), Cpu("znver4"), "zmm"),
        (_entry("vpdpwssd", "s8", 16, 2), Cpu("znver4"), "zmm"),
        (_entry("vpmaddwd", "s8", 16, 2), AVX512, "zmm"),
        (_entry("vpmaddwd", "s8", 8, 2), AVX2, "ymm"),
    ],
)
def test_the_loop_holds_exactly_the_instructions_that_are_counted(
    entry: Instruction, cpu: Cpu, register: str
) -> None:
    peak = compile_peak(entry, cpu)
    assert peak.faults() == ()
    written = [line for line in peak.loop() if entry.mnemonic in line]
    assert len(written) == peak.count
    assert all(line.count(register) == 3 for line in written)
    assert not any("(" in line for line in peak.loop()), "a memory operand"


@x86
@pytest.mark.parametrize(
    "entry", get_target("graniterapids").tile_instructions, ids=lambda entry: entry.name
)
def test_the_loop_on_tiles_holds_exactly_the_products_that_are_counted(entry: Instruction) -> None:
    features = ",".join(get_target("graniterapids").required)
    peak = compile_peak(entry, Cpu("x86-64-v4", features))
    assert peak.faults() == ()
    assert len([line for line in peak.loop() if entry.mnemonic in line]) == peak.count
    assert peak.flops % (2 * 16 * 16 * entry.steps * peak.count) == 0


@x86
@pytest.mark.parametrize("entry", [F32, F64, _entry("vdpbf16ps", "bf16", 16, 2)])
def test_flops_count_two_for_each_product_of_each_instruction(entry: Instruction) -> None:
    peak = compile_peak(entry, Cpu("znver4"))
    assert peak.instruction == entry.name
    assert peak.flops % (2 * entry.lanes * entry.k * peak.count) == 0


@x86
def test_a_loop_that_a_cpu_must_split_is_found_unfit() -> None:
    peak = compile_peak(F32, AVX2)
    assert any("registers other than 512" in x or "in the loop instead" in x for x in peak.faults())


@x86
def test_a_spill_inside_the_loop_is_found() -> None:
    peak = compile_peak(F32_AVX2, AVX2)
    spilling = peak.function.assembly.replace("\tcmpq", "\tvmovaps\t%ymm0, 8(%rsp)\n\tcmpq")
    spoiled: Peak = replace(peak, function=replace(peak.function, assembly=spilling))
    assert any("memory access" in fault for fault in spoiled.faults())


def test_an_instruction_without_a_loop_is_refused() -> None:
    with pytest.raises(Unsupported, match=f"known are: {', '.join(LOOPS)}"):
        compile_peak(_entry("abacus", "f32", 16))


def test_a_target_wider_than_this_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_module, "can_run", lambda target: "target 'znver5' needs gfni")
    with pytest.raises(Unsupported, match="nothing can be timed here: target 'znver5' needs gfni"):
        target_peak(element_type("f32"), get_target("znver5"))


def test_the_loop_body_ends_at_the_backward_branch() -> None:
    text = "f:\n\tjmp\t.L2\n.L1:\n\tvfmadd231ps a\n\tjne\t.L1\n.L2:\n\tretq\n"
    assert loop_body(text) == ("\tvfmadd231ps a", "\tjne\t.L1")
    assert loop_body("f:\n\tretq\n") == ()


def test_the_host_has_a_peak_and_it_can_be_timed() -> None:
    target = get_target("host")
    peak = target_peak(element_type("f32"), target)
    assert peak.instruction in {instruction.name for instruction in target.instructions}
    timings = take_turns([peak.contender()], rounds=2, sample_ns=20_000)
    assert timings.gflops("peak").median > 0
