"""The peak loop: its assembly holds the FMAs that are counted, and nothing beside them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nkdsl.bench import peak as peak_module
from nkdsl.bench.jit import Cpu
from nkdsl.bench.peak import Peak, compile_peak, loop_body, target_peak
from nkdsl.bench.problem import ELEMENTS
from nkdsl.bench.timing import take_turns
from nkdsl.errors import Unsupported
from nkdsl.targets import get_target

AVX512, AVX2 = Cpu("x86-64-v4"), Cpu("x86-64-v3")

x86 = pytest.mark.isa("sse2")  # LLVM generates for the host's architecture only


@x86
@pytest.mark.parametrize("name", ELEMENTS)
@pytest.mark.parametrize(("cpu", "bits", "register"), [(AVX512, 512, "zmm"), (AVX2, 256, "ymm")])
def test_the_loop_holds_exactly_the_fmas_that_are_counted(
    name: str, cpu: Cpu, bits: int, register: str
) -> None:
    peak = compile_peak(ELEMENTS[name], bits, cpu)
    fmas = [line for line in peak.loop() if "vfmadd" in line]
    assert peak.faults() == ()
    assert len(fmas) == peak.fmas
    assert all(line.count(register) == 3 for line in fmas)
    assert not any("(" in line for line in peak.loop()), "a memory operand"


@x86
def test_flops_count_two_for_each_lane_of_each_fma() -> None:
    peak = compile_peak(ELEMENTS["f64"], 512, AVX512)
    assert peak.instruction == "fma.f64x8"
    assert peak.flops % (2 * 8 * peak.fmas) == 0


@x86
def test_a_loop_that_a_cpu_must_split_is_found_unfit() -> None:
    peak = compile_peak(ELEMENTS["f32"], 512, AVX2)
    assert any("registers other than 512" in fault or "FMAs" in fault for fault in peak.faults())


@x86
def test_a_spill_inside_the_loop_is_found() -> None:
    peak = compile_peak(ELEMENTS["f32"], 256, AVX2)
    spilling = peak.function.assembly.replace("\tcmpq", "\tvmovaps\t%ymm0, 8(%rsp)\n\tcmpq")
    spoiled: Peak = replace(peak, function=replace(peak.function, assembly=spilling))
    assert any("memory access" in fault for fault in spoiled.faults())


def test_a_target_wider_than_this_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_module, "can_run", lambda target: "target 'znver5' needs gfni")
    with pytest.raises(Unsupported, match="nothing can be timed here: target 'znver5' needs gfni"):
        target_peak(ELEMENTS["f32"], get_target("znver5"))


def test_the_loop_body_ends_at_the_backward_branch() -> None:
    text = "f:\n\tjmp\t.L2\n.L1:\n\tvfmadd231ps a\n\tjne\t.L1\n.L2:\n\tretq\n"
    assert loop_body(text) == ("\tvfmadd231ps a", "\tjne\t.L1")
    assert loop_body("f:\n\tretq\n") == ()


def test_the_host_has_a_peak_and_it_can_be_timed() -> None:
    target = get_target("host")
    peak = target_peak(ELEMENTS["f32"], target)
    assert peak.instruction in {instruction.name for instruction in target.instructions}
    timings = take_turns([peak.contender()], rounds=2, sample_ns=20_000)
    assert timings.gflops("peak").median > 0
