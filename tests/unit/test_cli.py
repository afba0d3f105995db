"""The subcommands of `nkdsl`: what they print and write where everything is as it should be."""

import ctypes
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nkdsl.backends.mlir import find_tool
from nkdsl.cli.main import COMMANDS, main
from nkdsl.errors import ToolNotFound
from nkdsl.targets import can_run, get_target, known_targets

EXAMPLES = Path(__file__).parents[2] / "examples"


def _tools_missing() -> str | None:
    try:
        find_tool("mlir-opt")
        find_tool("mlir-translate")
    except ToolNotFound as error:
        return str(error)
    return None


needs_mlir = pytest.mark.skipif(_tools_missing() is not None, reason=str(_tools_missing()))

PRODUCT = """
func.func @product(%a: memref<9x33xf32>, %b: memref<33x21xf32>, %c: memref<9x21xf32>) {
  linalg.matmul ins(%a, %b : memref<9x33xf32>, memref<33x21xf32>) outs(%c : memref<9x21xf32>)
  return
}
"""

TWO_PRODUCTS = """
func.func @chain(%a: memref<8x8xf64>, %b: memref<8x8xf64>, %t: memref<8x8xf64>,
                 %c: memref<8x8xf64>) {
  %zero = arith.constant 0.0 : f64
  linalg.fill ins(%zero : f64) outs(%t : memref<8x8xf64>)
  linalg.matmul ins(%a, %b : memref<8x8xf64>, memref<8x8xf64>) outs(%t : memref<8x8xf64>)
  linalg.matmul ins(%t, %b : memref<8x8xf64>, memref<8x8xf64>) outs(%c : memref<8x8xf64>)
  return
}
"""


@pytest.fixture
def product(tmp_path: Path) -> str:
    """The path of a program with one small product."""
    path = tmp_path / "product.mlir"
    path.write_text(PRODUCT)
    return str(path)


def _foreign_target() -> str:
    """A target that this CPU can't run."""
    for target in known_targets():
        if can_run(target):
            return target.name
    pytest.skip("this CPU runs every target")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


# ---------------------------------------------------------------------------------- compile


@pytest.mark.parametrize(
    ("kind", "sign"),
    [
        ("linalg", "linalg.matmul"),
        ("nanokernel", "#nanokernel.plan"),
        ("composed", "nanokernel.step"),
        ("nkvector", "nkvector.fma"),
        ("mlir", "vector.fma"),
    ],
)
def test_compile_prints_every_level_of_mlir_without_mlir_opt(
    kind, sign, product, capsys, monkeypatch
):
    monkeypatch.setenv("NKDSL_MLIR_OPT", "/nonexistent")
    assert main(["compile", product, "--target", "znver5", f"--emit={kind}"]) == 0
    assert sign in capsys.readouterr().out


@needs_mlir
@pytest.mark.parametrize(("kind", "sign"), [("llvm", "define void @product"), ("asm", "vfmadd")])
def test_compile_prints_native_code_for_any_target(kind, sign, product, capsys):
    assert main(["compile", product, "--target", "znver5", f"--emit={kind}"]) == 0
    assert sign in capsys.readouterr().out


@needs_mlir
def test_an_object_for_a_foreign_target_is_an_elf_file_named_after_the_program(
    product, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["compile", product, "--target", _foreign_target(), "--emit=obj"]) == 0
    assert (tmp_path / "product.o").read_bytes().startswith(b"\x7fELF")


@needs_mlir
def test_a_shared_library_computes_what_numpy_computes(product, tmp_path):
    library = tmp_path / "library.so"
    assert main(["compile", product, "--emit=so", "-o", str(library)]) == 0
    a = np.arange(9 * 33, dtype=np.float32).reshape(9, 33) % 7
    b = np.arange(33 * 21, dtype=np.float32).reshape(33, 21) % 5
    c = np.ones((9, 21), np.float32)
    expected = c + a @ b
    function = ctypes.CDLL(str(library)).product
    function(*(ctypes.c_void_p(array.ctypes.data) for array in (a, b, c)))
    np.testing.assert_array_equal(c, expected)


def test_a_header_declares_each_function_and_its_workspace(tmp_path, capsys):
    header = tmp_path / "product.h"
    source = str(EXAMPLES / "matmul_transposed_b.mlir")
    arguments = ["compile", source, "--target", "znver5", "--emit=mlir", "--header", str(header)]
    assert main(arguments) == 0
    declaration = "void matmul(const float *a, const float *b, float *c, void *workspace);"
    assert declaration in header.read_text()


def test_an_output_file_is_replaced_and_nothing_else_is_left(product, tmp_path):
    output = tmp_path / "out.mlir"
    output.write_text("old")
    assert main(["compile", product, "--target", "znver5", "--emit=mlir", "-o", str(output)]) == 0
    assert "vector.fma" in output.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mlir", "product.mlir"]


# -------------------------------------------------------------------------------------- run


@needs_mlir
@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.mlir")), ids=lambda path: path.stem)
def test_every_example_agrees_with_numpy(example, capsys):
    assert main(["run", str(example), "--rounds", "0"]) == 0
    assert "agree with numpy" in capsys.readouterr().out


@needs_mlir
def test_run_reports_the_kernel_and_its_speed_beside_the_peak_and_numpy(product, capsys):
    assert main(["run", product, "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"kernel +9x21x33 +instruction = ", out)
    assert re.search(r"nkdsl .* GF/s .*% of the peak of fma\.f32x", out)
    assert re.search(r"numpy .* GF/s .*times as fast", out)


@needs_mlir
def test_run_tries_a_kernel_of_run_time_sizes_on_many_shapes(tmp_path, capsys):
    path = tmp_path / "open.mlir"
    path.write_text(re.sub(r"<\d+x\d+x", "<?x?x", PRODUCT))
    assert main(["run", str(path), "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"kernel +\?x\?x\? +instruction = ", out)
    shapes = re.search(r"elements of (\d+) shapes agree with numpy", out)
    assert shapes is not None
    assert int(shapes[1]) > 50
    assert re.search(r"speed +64: nkdsl .* GF/s", out)
    assert re.search(r"speed +1024: numpy .* GF/s", out)


@needs_mlir
def test_run_finds_sizes_for_any_layouts_that_are_open(tmp_path, capsys):
    path = tmp_path / "open.mlir"
    a, b, c = "?x8xf32, strided<[1, ?]>", "8x?xf32", "?x?xf32, strided<[?, 1]>"
    path.write_text(f"""
    func.func @f(%a: memref<{a}>, %b: memref<{b}>, %c: memref<{c}>, %x: f32, %y: f32) {{
      nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<{a}>, memref<{b}>)
        outs(%c[m, n] : memref<{c}>) scale %x, %y
      return
    }}""")
    assert main(["run", str(path), "--rounds", "0"]) == 0
    assert "shapes agree with numpy" in capsys.readouterr().out


@needs_mlir
def test_a_header_of_run_time_sizes_has_their_type(tmp_path):
    path, header = tmp_path / "open.mlir", tmp_path / "open.h"
    path.write_text(re.sub(r"<\d+x\d+x", "<?x?x", PRODUCT))
    assert main(["compile", str(path), "--header", str(header), "-o", str(tmp_path / "o.s")]) == 0
    assert "#include <stdint.h>" in header.read_text()
    assert "int64_t a_d0" in header.read_text()


@needs_mlir
def test_run_takes_programs_of_several_products(tmp_path, capsys):
    path = tmp_path / "chain.mlir"
    path.write_text(TWO_PRODUCTS)
    assert main(["run", str(path), "--rounds", "0"]) == 0
    out = capsys.readouterr().out
    assert out.count("kernel  8x8x8") == 2
    assert "128 elements agree with numpy" in out


@needs_mlir
def test_run_chooses_among_functions(tmp_path, capsys):
    path = tmp_path / "two.mlir"
    path.write_text(PRODUCT + PRODUCT.replace("@product", "@second"))
    assert main(["run", str(path), "--rounds", "0", "--function", "second"]) == 0
    assert "void second(" in capsys.readouterr().out


@needs_mlir
def test_run_exposes_a_kernel_that_computes_something_else(product, capsys, monkeypatch):
    from nkdsl.runtime.kernel import Kernel

    monkeypatch.setattr(Kernel, "__call__", lambda self, *arrays: arrays[-1].fill(0))
    assert main(["run", product, "--rounds", "0"]) == 1
    captured = capsys.readouterr()
    assert "error: wrong answer: " in captured.err
    assert "agree" not in captured.out


# -------------------------------------------------------------------------- doctor, targets


@needs_mlir
def test_the_doctor_finds_what_it_needs(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for what in ("xdsl", "llvmlite", "mlir-opt", "host", "peer numpy"):
        assert re.search(rf"^ok +{what} ", out, re.MULTILINE)


def test_the_doctor_says_how_to_get_what_is_missing(capsys, monkeypatch):
    monkeypatch.setenv("NKDSL_MLIR_OPT", "/nonexistent")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^MISSING +mlir-opt .*apt-get install", out, re.MULTILINE)
    assert "missing: mlir-opt" in out


def test_targets_lists_every_target_and_marks_the_hosts(capsys):
    assert main(["targets"]) == 0
    out = capsys.readouterr().out
    for target in known_targets():
        assert re.search(rf"^.  {re.escape(target.name)} ", out, re.MULTILINE)
    assert re.search(rf"^\*  {get_target('host').name} .*yes$", out, re.MULTILINE)


def test_targets_shows_the_table_of_one(capsys):
    assert main(["targets", "znver5"]) == 0
    out = capsys.readouterr().out
    assert "fma.f32x16" in out
    assert re.search(r"L1 +48 KiB", out)


# ---------------------------------------------------------------------------------- process


@pytest.mark.parametrize("module", ["nkdsl", "nkdsl.cli.main"])
def test_the_command_runs_as_a_module(module):
    done = _process([sys.executable, "-m", module, "targets"])
    assert (done.returncode, done.stderr) == (0, "")
    assert "znver5" in done.stdout


def test_a_reader_that_has_seen_enough_is_no_error(product):
    command = f"'{sys.executable}' -m nkdsl compile '{product}' --emit=mlir --target znver5"
    done = _process(["sh", "-c", f"{command} | head -n 1"])
    assert (done.stdout, done.stderr) == ("builtin.module {\n", "")


def test_an_interrupt_ends_without_a_traceback(capsys, monkeypatch):
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nkdsl.cli.targets.detect", interrupt)
    assert main(["targets"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def _process(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
