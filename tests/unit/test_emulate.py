"""Kernels whose processor is not here: emulated on request, refused with a remedy otherwise.

What the operating system withholds counts as absent: the tiles of Intel AMX, for which a process
must ask.
"""

import ctypes
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llvmlite.binding as llvm
import ml_dtypes
import numpy as np
import pytest

import nkdsl
from nkdsl.cli.main import main
from nkdsl.emulation import amx, calls
from nkdsl.emulation.calls import emulated_target
from nkdsl.errors import ToolNotFound, Unsupported
from nkdsl.runtime.kernel import Kernel
from nkdsl.targets import can_run, detect, get_target, host, permission
from nkdsl.targets import cpu as cpu_module
from nkdsl.targets.cpu import Cpu, this_cpu
from nkdsl.targets.model import Target
from tests.unit.assembly import functions, instructions, smallest_loop
from tests.unit.narrow import NarrowProduct

SAPPHIRE = get_target("sapphirerapids")
EXAMPLES = Path(__file__).parents[2] / "examples"

NATIVE = "amx_tile" in Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else False

emulates = pytest.mark.skipif(
    amx.obstacle() is not None or NATIVE,
    reason=amx.obstacle() or "this CPU has AMX: nothing is emulated",
)
foreign = pytest.mark.skipif(NATIVE, reason="this CPU has AMX, and can run the target")

PRODUCT = NarrowProduct(("bf16", "bf16"), 48, 64, 96, "f32")


def operands() -> list[np.ndarray]:
    """Small integers, so that sums are exact in any order."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-4, 5, shape) for shape in ((48, 96), (96, 64)))
    return [a.astype(ml_dtypes.bfloat16), b.astype(ml_dtypes.bfloat16), np.ones((48, 64), "f4")]


def wanted(arrays: list[np.ndarray]) -> np.ndarray:
    a, b, c = (array.astype(np.float64) for array in arrays)
    return np.asarray(a @ b + c)


# ------------------------------------------------------------------------------------- kernels


@emulates
def test_an_emulated_kernel_is_called_as_any_other() -> None:
    kernel = nkdsl.compile(PRODUCT.source, "sapphirerapids", emulate=True)
    arrays = operands()
    expected = wanted(arrays)
    kernel(*arrays)
    np.testing.assert_array_equal(arrays[2], expected)


@emulates
def test_calls_in_an_open_emulator_are_counted_there() -> None:
    kernel = nkdsl.compile(PRODUCT.source, "sapphirerapids", emulate=True)
    with amx.emulated() as machine:
        kernel(*operands())
        kernel(*operands())
    assert machine.counts.multiplies == {"tdpbf16ps": 2 * 3 * 4 * 3}


@foreign
def test_a_kernel_that_nothing_emulates_says_what_is_missing_when_it_is_called() -> None:
    kernel = nkdsl.compile(PRODUCT.source, "sapphirerapids")
    assert "tdpbf16ps" in kernel.asm()
    with pytest.raises(Unsupported, match=r"can't run code for target 'sapphirerapids'.*amx-tile"):
        kernel(*operands())


@pytest.mark.isa("avx2", "fma")
def test_a_processor_that_is_here_is_not_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kernel: Kernel) -> None:
        raise AssertionError("emulated")

    monkeypatch.setattr("nkdsl.runtime.kernel.emulated_call", refuse)
    kernel = nkdsl.compile(PRODUCT.source, "x86-64-v3", emulate=True)
    arrays = operands()
    expected = wanted(arrays)
    kernel(*arrays)
    np.testing.assert_array_equal(arrays[2], expected)
    assert kernel.target == get_target("x86-64-v3")


@foreign
def test_an_emulated_target_keeps_its_tiles_and_loses_what_this_cpu_lacks() -> None:
    target = emulated_target(SAPPHIRE)
    features = this_cpu().features
    assert target.tiles == SAPPHIRE.tiles
    assert {f.removeprefix("+") for f in target.features} <= features
    lost = {f.removeprefix("+") for f in SAPPHIRE.features} - features
    assert {f"-{name}" for name in lost} <= set(target.tuning)
    assert can_run(replace(target, tiles=None)) is None


def impossible(**fields: Any) -> Target:
    """A target that no processor can run."""
    features = (*get_target("x86-64-v3").features, "+telepathy")
    return replace(get_target("x86-64-v3"), name="oracle", features=features, **fields)


def test_what_nothing_emulates_is_refused_with_what_is_emulated() -> None:
    with pytest.raises(Unsupported, match=r"telepathy.* emulated are x86-64 targets with AMX"):
        nkdsl.compile(PRODUCT.source, impossible(), emulate=True)


def test_tiles_of_another_architecture_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = replace(this_cpu(), architecture="riscv64")
    for module in (calls, host):
        monkeypatch.setattr(module, "this_cpu", lambda: elsewhere)
    with pytest.raises(Unsupported, match="is for x86_64, but this machine is riscv64"):
        emulated_target(SAPPHIRE)


@foreign
def test_without_a_compiler_the_emulator_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(amx._PROCESS, "library", None)
    monkeypatch.setenv("CC", "no-such-compiler")
    kernel = nkdsl.compile(PRODUCT.source, "sapphirerapids", emulate=True)
    with pytest.raises(ToolNotFound, match=r"needs a C compiler.*apt-get install"):
        kernel(*operands())


# -------------------------------------------------------------------------------- command line


@pytest.fixture
def program(tmp_path: Path) -> str:
    file = tmp_path / "product.mlir"
    file.write_text(PRODUCT.source)
    return str(file)


@emulates
def test_run_emulates_and_tells_what_was_executed(program: str, capsys: Any) -> None:
    assert main(["run", program, "--target", "sapphirerapids", "--emulate"]) == 0
    out = capsys.readouterr().out
    assert "agree with numpy" in out
    told = re.search(r"emulated +(\d+) tdpbf16ps; (\d+) tile loads, ([\d.]+) a product; .*", out)
    assert told is not None
    assert int(told[1]) == 3 * 4 * 3
    assert float(told[3]) == pytest.approx(int(told[2]) / int(told[1]), abs=0.01)
    assert told[0].endswith("1 configurations, 1 releases")
    assert "speed" not in out


@emulates
def test_run_says_where_no_tile_was_needed(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "vector.mlir"
    file.write_text(replace(PRODUCT, m=1).source)
    assert main(["run", str(file), "--target", "sapphirerapids", "--emulate"]) == 0
    assert re.search(r"emulated +no tile instruction was executed", capsys.readouterr().out)


@emulates
def test_run_emulates_run_time_sizes_of_many_shapes(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "open.mlir"
    file.write_text(replace(PRODUCT, dynamic="mnk").source)
    assert main(["run", str(file), "--target", "sapphirerapids", "--emulate"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"elements of \d+ shapes agree with numpy", out)
    assert re.search(r"emulated +\d+ tdpbf16ps; ", out)


@emulates
def test_run_exposes_an_emulated_kernel_that_computes_something_else(
    program: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Kernel, "__call__", lambda self, *arrays: arrays[-1].fill(0))
    assert main(["run", program, "--target", "sapphirerapids", "--emulate"]) == 1
    captured = capsys.readouterr()
    assert "error: wrong answer: " in captured.err
    assert "agree" not in captured.out


@foreign
def test_run_tells_of_emulation_where_the_processor_is_missing(program: str, capsys: Any) -> None:
    assert main(["run", program, "--target", "sapphirerapids"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search("nothing to run: .*amx-tile.*--emulate runs the code", captured.err)
    assert "Traceback" not in captured.err


@pytest.mark.isa("avx2", "fma")
def test_run_emulates_no_processor_that_is_here(program: str, capsys: Any) -> None:
    assert main(["run", program, "--target", "x86-64-v3", "--emulate", "--rounds", "0"]) == 0
    out = capsys.readouterr().out
    assert "agree with numpy" in out
    assert "emulated" not in out


def test_the_example_in_bf16_compiles_to_two_by_two_tiles(capsys: Any) -> None:
    example = str(EXAMPLES / "matmul_bf16.mlir")
    assert main(["compile", example, "--target", "sapphirerapids", "--emit=asm"]) == 0
    (kernel,) = (
        lines
        for name, lines in functions(capsys.readouterr().out).items()
        if any(i.tile_product for i in instructions(lines))
    )
    loop = smallest_loop(kernel, "tdp")
    products = [i for i in loop if i.tile_product]
    assert {i.mnemonic for i in products} == {"tdpbf16ps"}
    assert len({i.tiles[-1] for i in products}) == len(products) == 4
    assert sum(i.tile_load for i in loop) == 4


# ---------------------------------------------------------------------------------- permission

REFUSAL = "the operating system refuses the use of tiles; it takes Linux 5.16 or newer"

AMX_FEATURES = frozenset(f.removeprefix("+") for f in SAPPHIRE.required)


@pytest.fixture
def sapphire(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process on a Sapphire Rapids whose operating system refuses tiles."""
    monkeypatch.setattr(cpu_module, "_features", lambda: AMX_FEATURES)
    monkeypatch.setattr(cpu_module, "ask_for_tiles", lambda: REFUSAL)
    monkeypatch.setattr(llvm, "get_host_cpu_name", lambda: "sapphirerapids")
    monkeypatch.setattr(llvm, "get_process_triple", lambda: "x86_64-unknown-linux-gnu")
    this_cpu.cache_clear()
    yield
    this_cpu.cache_clear()


@pytest.mark.usefixtures("sapphire")
def test_a_process_that_is_refused_tiles_runs_vector_code_and_says_why() -> None:
    found = detect()
    caches = found.target.caches
    assert found.target == replace(SAPPHIRE, tiles=None, caches=caches)
    assert REFUSAL in found.reason
    kernel = nkdsl.compile(PRODUCT.source, replace(found.target, caches=SAPPHIRE.caches))
    assert "vfmadd" in kernel.asm()
    assert "tdpbf16ps" not in kernel.asm()


@pytest.mark.usefixtures("sapphire")
def test_a_target_with_tiles_is_refused_with_the_remedy_where_they_are_withheld() -> None:
    obstacle = can_run(SAPPHIRE)
    assert obstacle is not None
    assert re.search(f"needs amx-tile, .*{REFUSAL}", obstacle)
    kernel = nkdsl.compile(PRODUCT.source, "sapphirerapids")
    with pytest.raises(Unsupported, match=f"can't run code for target .*{REFUSAL}"):
        kernel(*operands())


@pytest.mark.usefixtures("sapphire")
def test_a_process_that_is_granted_tiles_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_module, "ask_for_tiles", lambda: None)
    assert detect().target.tiles == SAPPHIRE.tiles
    assert can_run(SAPPHIRE) is None
    assert this_cpu().withheld == ""


def test_a_cpu_without_tiles_is_not_asked_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(cpu_module, "ask_for_tiles", refuse)
    plain = frozenset({"avx2", "avx512f"})
    assert cpu_module._permitted(plain) == (plain, "")


def test_all_features_of_amx_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_module, "ask_for_tiles", lambda: REFUSAL)
    features = frozenset({"avx2", "amx-tile", "amx-int8", "amx-bf16", "amx-fp16"})
    assert cpu_module._permitted(features) == (frozenset({"avx2"}), REFUSAL)


@pytest.fixture
def asked_again() -> Iterator[None]:
    """The answer of another test, or of the process, is none for this one."""
    permission.ask_for_tiles.cache_clear()
    yield
    permission.ask_for_tiles.cache_clear()


class _Kernel:
    """A C library whose kernel answers a request, or refuses it with an error."""

    def __init__(self, error: int) -> None:
        self.requests: list[tuple[int, ...]] = []
        self.syscall: Any = self._Syscall(self, error)

    class _Syscall:
        restype: Any = None

        def __init__(self, kernel: "_Kernel", error: int) -> None:
            self.kernel, self.error = kernel, error

        def __call__(self, *arguments: ctypes.c_long) -> int:
            self.kernel.requests.append(tuple(a.value for a in arguments))
            ctypes.set_errno(self.error)
            return -1 if self.error else 0


@pytest.mark.usefixtures("asked_again")
@pytest.mark.parametrize(
    ("error", "words"), [(0, None), (1, "not permitted"), (22, "Invalid argument.*Linux 5.16")]
)
def test_the_operating_system_is_asked_once_for_the_state_of_tiles(
    error: int, words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = _Kernel(error)
    theirs = SimpleNamespace(**{**vars(ctypes), "CDLL": lambda *_, **__: library})
    monkeypatch.setattr(permission, "ctypes", theirs)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    answers = {permission.ask_for_tiles() for _ in range(3)}
    # arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)
    assert library.requests == [(158, 0x1023, 18)]
    (answer,) = answers
    assert (answer is None) == (words is None)
    if words is not None:
        assert re.search(words, str(answer))


@pytest.mark.usefixtures("asked_again")
@pytest.mark.parametrize(("system", "machine"), [("Darwin", "x86_64"), ("Linux", "aarch64")])
def test_another_operating_system_or_processor_is_not_asked(
    system: str, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert permission.ask_for_tiles() == "only Linux on x86-64 is known to be asked for tiles"


def test_a_processor_is_told_with_what_is_withheld() -> None:
    cpu = Cpu("sapphirerapids", "", "x86_64", AMX_FEATURES - {"amx-tile"}, (), "", REFUSAL)
    found = host._obstacle(SAPPHIRE, cpu)
    assert found is not None
    assert found.endswith(f"which sapphirerapids lacks: {REFUSAL}")
