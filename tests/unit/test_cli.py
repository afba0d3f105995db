"""The subcommands of `nkdsl`: what they print and write where everything is as it should be."""

import ctypes
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import nkdsl
from nkdsl.backends.mlir import find_tool
from nkdsl.cli import run
from nkdsl.cli.main import COMMANDS, main
from nkdsl.errors import ToolNotFound
from nkdsl.targets import can_run, get_target, known_targets
from nkdsl.targets.cpu import this_cpu

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

LAYERS = """
func.func @layers(%x: memref<5x24xbf16>, %w: memref<24x24xbf16>, %b: memref<24xbf16>,
                  %t: memref<5x24xbf16>, %y: memref<5x24xbf16>) {
  nanokernel.gemm ins(%x[m, k], %w[k, n] : memref<5x24xbf16>, memref<24x24xbf16>)
      outs(%t[m, n] : memref<5x24xbf16>) from zero epilogue(%b[n] : memref<24xbf16>) {
  ^bb0(%sum: f32, %bias: bf16):
    %wide = arith.extf %bias : bf16 to f32
    %biased = arith.addf %sum, %wide : f32
    %zero = arith.constant 0.0 : f32
    %relu = arith.maximumf %biased, %zero : f32
    %rounded = arith.truncf %relu : f32 to bf16
    nanokernel.yield %rounded : bf16
  }
  nanokernel.gemm ins(%t[m, k], %w[n, k] : memref<5x24xbf16>, memref<24x24xbf16>)
      outs(%y[m, n] : memref<5x24xbf16>)
  return
}
"""

SIGMOID = """
func.func @sigmoid(%a: memref<6x8xf32>, %b: memref<8x16xf32>, %c: memref<6x16xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<6x8xf32>, memref<8x16xf32>)
      outs(%c[m, n] : memref<6x16xf32>) from zero epilogue {
  ^bb0(%sum: f32):
    %minus = arith.negf %sum : f32
    %power = math.exp %minus : f32
    %one = arith.constant 1.0 : f32
    %below = arith.addf %one, %power : f32
    %result = arith.divf %one, %below : f32
    nanokernel.yield %result : f32
  }
  return
}
"""

QUANTIZED = """
func.func @quantized(%a: memref<7x33xi8>, %b: memref<33x20xi8>, %scale: f32,
                     %c: memref<7x20xi8>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<7x33xi8>, memref<33x20xi8>) unsigned lhs
      outs(%c[m, n] : memref<7x20xi8>) from zero epilogue {
  ^bb0(%sum: i32):
    %real = arith.sitofp %sum : i32 to f32
    %small = arith.constant 0.0001 : f32
    %scaled = arith.mulf %real, %small : f32
    %result = arith.fptosi %scaled : f32 to i8
    nanokernel.yield %result : i8
  }
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
def test_a_header_says_which_integers_have_no_sign(tmp_path):
    header = tmp_path / "u8s8.h"
    file = str(EXAMPLES / "matmul_u8s8.mlir")
    given = ["--target", "znver5", "--header", str(header), "-o", str(tmp_path / "u8s8.s")]
    assert main(["compile", file, *given]) == 0
    text = header.read_text()
    assert "#include <stdint.h>" in text
    assert "void matmul(const uint8_t *a, const int8_t *b, int32_t *c, void *workspace);" in text


@needs_mlir
@pytest.mark.parametrize("kind", ["mlir", "llvm", "asm", "obj", "so"])
def test_a_program_on_tensors_compiles_to_every_kind_of_code(kind, tmp_path):
    out = tmp_path / "mlp"
    file = str(EXAMPLES / "mlp_bf16.mlir")
    given = ["--target", "sapphirerapids", f"--emit={kind}", "-o", str(out)]
    assert main(["compile", file, *given]) == 0
    assert b"mlp" in out.read_bytes()


@needs_mlir
def test_run_takes_programs_of_several_products(tmp_path, capsys):
    path = tmp_path / "chain.mlir"
    path.write_text(TWO_PRODUCTS)
    assert main(["run", str(path), "--rounds", "0"]) == 0
    out = capsys.readouterr().out
    assert out.count("kernel  8x8x8") == 2
    assert "128 elements agree with numpy" in out


WEIGHTS = LAYERS.replace("%b: memref<24xbf16>,", "%b: memref<24xbf16>, %v: memref<24x24xbf16>,", 1)
WEIGHTS = WEIGHTS.replace("%w[n, k]", "%v[n, k]")
"""Two layers with weights of their own, at the positions 1 and 3."""


@pytest.fixture
def layers(tmp_path: Path) -> str:
    """The path of a program of two layers."""
    path = tmp_path / "layers.mlir"
    path.write_text(WEIGHTS)
    return str(path)


@needs_mlir
@pytest.mark.parametrize(
    ("told", "packed"),
    [("w", ["w"]), ("3", ["v"]), ("1,v", ["w", "v"]), ("all", ["w", "v"]), ("x", ["x"])],
)
def test_run_packs_arguments_and_checks_what_reads_them(told, packed, layers, capsys, monkeypatch):
    from nkdsl.packed import Variants

    ran: list[list[int]] = []
    call = Variants.call

    def noted(self, arguments, workspace=None):
        ran.append([p for p, x in enumerate(arguments) if isinstance(x, nkdsl.Packed)])
        call(self, arguments, workspace)

    monkeypatch.setattr(Variants, "call", noted)
    assert main(["run", layers, "--rounds", "1", "--pack", told]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"packed  (\w+): ", out) == packed
    assert len(re.findall(r"24x24 bfloat16 rhs, panels of \d+", out)) == len(set(packed) - {"x"})
    assert ran == [[{"x": 0, "w": 1, "v": 3}[name] for name in packed]] * 2
    assert "small integers come out exactly" in out
    assert re.search(r"speed +nkdsl .* GF/s", out)


@needs_mlir
def test_run_exposes_panels_that_are_read_wrongly(layers, capsys, monkeypatch):
    from nkdsl.packed.layout import filled

    monkeypatch.setattr(
        "nkdsl.packed.variants.filled", lambda array, layout: filled(array[::-1], layout)
    )
    assert main(["run", layers, "--rounds", "0", "--pack", "v"]) == 1
    assert "error: wrong answer: " in capsys.readouterr().err


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The dimensions of each array that a kernel is timed on, a list a kernel."""
    found: list[list[int]] = []
    ours = run._ours

    def noted(kernel, arrays, flops):
        found.append([array.ndim for array in arrays])
        return ours(kernel, arrays, flops)

    monkeypatch.setattr(run, "_ours", noted)
    return found


@needs_mlir
def test_run_times_the_kernel_that_reads_the_panels(layers, timed):
    assert main(["run", layers, "--rounds", "1", "--pack", "w", "--target", "x86-64-v3"]) == 0
    assert timed == [[2, 3, 1, 2, 2, 2]]


@needs_mlir
def test_explain_measures_the_kernel_that_reads_the_panels(timed, capsys):
    given = ["explain", "8x30x20", "--target", "x86-64-v3", "--pack", "b", "--measure"]
    assert main(given) == 0
    assert re.search(r"measured  .*% of peak", capsys.readouterr().out)
    assert timed == [[2, 3, 2]]


@needs_mlir
@pytest.mark.parametrize(
    ("told", "error"),
    [
        ("q", "layers has no argument 'q'; its arguments are x, w, b, v, t, y"),
        ("9", "layers has no argument 9; positions are 0 to 5"),
        ("b", r"argument 2 \('b'\) of layers can't be packed: it is no factor of a product"),
        ("x,w", "each product of layers reads one packed factor"),
    ],
)
@pytest.mark.parametrize("command", ["run", "compile", "explain"])
def test_what_can_not_be_packed_is_refused(command, told, error, layers, capsys):
    assert main([command, layers, "--pack", told, "--target", "x86-64-v3"]) == 1
    captured = capsys.readouterr()
    assert re.search(f"error: .*{error}", captured.err)
    assert not captured.out


@needs_mlir
@pytest.mark.parametrize("command", ["run", "compile", "explain"])
def test_all_is_refused_where_there_is_nothing_to_pack(command, tmp_path, capsys):
    path = tmp_path / "chain.mlir"
    path.write_text(TWO_PRODUCTS)  # both have the same right factor
    assert main([command, str(path), "--pack", "all"]) == 1
    error = capsys.readouterr().err
    assert re.search(r"error: there is nothing to pack: .* something else uses it, too", error)


@needs_mlir
def test_all_says_what_it_leaves_out(tmp_path, capsys):
    path = tmp_path / "mixed.mlir"
    text = TWO_PRODUCTS.replace("%c: memref<8x8xf64>)", "%c: memref<8x8xf64>, %v: memref<8x8xf64>)")
    third = (
        "linalg.matmul ins(%c, %v : memref<8x8xf64>, memref<8x8xf64>) outs(%t : memref<8x8xf64>)"
    )
    path.write_text(text.replace("  return", f"  {third}\n  return"))
    assert main(["run", str(path), "--rounds", "0", "--pack", "all"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"packed  v: 8x8 float64 rhs", out)
    assert re.search(r"packed  not packed: argument 1 \('b'\) of chain .* something else uses", out)


def test_explain_tells_what_reads_the_panels(layers, capsys):
    assert main(["explain", layers, "--target", "znver4", "--pack", "v"]) == 0
    out = capsys.readouterr().out
    assert re.match(
        r"packed +v: 24x24 bfloat16 rhs, panels of 32 in groups of 2; lies as \[1\]", out
    )
    assert len(re.findall(r"^product ", out, re.M)) == 2
    assert out.count("n0 = 1, n1 = 24") == 1 and out.count("B: lies in groups") == 1


@needs_mlir
def test_a_compiled_library_reads_panels_as_its_header_says(layers, tmp_path, capsys):
    out, header = tmp_path / "layers.so", tmp_path / "layers.h"
    given = ["--pack", "all", "--target", "x86-64-v3", "--emit=so"]
    assert main(["compile", layers, *given, "-o", str(out), "--header", str(header)]) == 0
    assert capsys.readouterr().err.count("packed  ") == 2
    text = header.read_text()
    random = np.random.default_rng(0)
    x, w, b, v, t, y = (
        random.integers(-1, 2, shape).astype(ml_dtypes.bfloat16)
        for shape in ((5, 24), (24, 24), (24,), (24, 24), (5, 24), (5, 24))
    )
    expected = y.astype(np.float32)
    hidden = np.maximum(x.astype(np.float32) @ w.astype(np.float32) + b.astype(np.float32), 0)
    expected += hidden @ v.astype(np.float32).T
    panels = {name: _as_told(text, name, array) for name, array in (("w", w), ("v", v))}
    arrays = (x, panels["w"], b, panels["v"], t, y)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
    if "workspace" in text:
        pointers.append(ctypes.c_void_p(np.zeros(1 << 16, np.uint8).ctypes.data))
    ctypes.CDLL(str(out)).layers(*pointers)
    assert np.abs(expected).max() > 3
    np.testing.assert_array_equal(y.astype(np.float32), expected)


def _as_told(header: str, name: str, array: np.ndarray) -> np.ndarray:
    """An array laid out by a header's words."""
    sizes = re.search(rf"\* {name}((?:\[\d+\])+): ", header)
    place = re.search(rf"row i and column j is {name}((?:\[[ij /%\d]+\])+)$", header, re.M)
    assert sizes and place
    panels = np.zeros([int(n) for n in re.findall(r"\d+", sizes[1])], array.dtype)
    indices = [index.replace("/", "//") for index in re.findall(r"\[(.*?)\]", place[1])]
    for i, j in np.ndindex(array.shape):
        panels[tuple(eval(index, {"i": i, "j": j}) for index in indices)] = array[i, j]
    return panels


def test_compile_packs_all_weights_of_several_functions_or_none_by_name(layers, capsys):
    path = Path(layers)
    path.write_text(WEIGHTS + WEIGHTS.replace("@layers", "@again"))
    given = ["compile", layers, "--emit=nanokernel", "--target", "x86-64-v3", "--pack"]
    assert main([*given, "all"]) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"%[wv]: memref<\d+x24x\d+xbf16>", out)) == 4
    assert main([*given, "w"]) == 1
    error = capsys.readouterr().err
    assert "names arguments of one function, but the program has layers, again" in error


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


@needs_mlir
def test_run_checks_layers_with_epilogues_in_low_precision_on_small_integers_too(tmp_path, capsys):
    path = tmp_path / "layers.mlir"
    path.write_text(LAYERS)
    assert main(["run", str(path), "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"240 elements agree with numpy; .* small integers come out exactly", out)
    assert re.search(r"numpy .* in float32, the products alone; nkdsl runs", out)


@needs_mlir
def test_run_exposes_a_rounding_that_the_bound_of_layers_would_hide(tmp_path, capsys, monkeypatch):
    from nkdsl.runtime.kernel import Kernel

    path = tmp_path / "layers.mlir"
    path.write_text(LAYERS)
    call = Kernel.__call__

    def off_by_a_little(self, *arrays):
        call(self, *arrays)
        arrays[-1][...] *= 1.01

    monkeypatch.setattr(Kernel, "__call__", off_by_a_little)
    assert main(["run", str(path), "--rounds", "0"]) == 1
    assert "of 120 elements of 'y' are off (shape 5x24)" in capsys.readouterr().err


@needs_mlir
def test_run_compares_integers_that_were_cut_from_floats(tmp_path, capsys):
    path = tmp_path / "quantized.mlir"
    path.write_text(QUANTIZED)
    assert main(["run", str(path), "--rounds", "0"]) == 0
    out = capsys.readouterr().out
    assert "void quantized(const uint8_t *a, const int8_t *b, float scale, int8_t *c" in out
    assert "140 elements agree with numpy" in out


@needs_mlir
def test_run_gives_no_verdict_where_no_bound_is_known(tmp_path, capsys):
    path = tmp_path / "sigmoid.mlir"
    path.write_text(SIGMOID)
    assert main(["run", str(path), "--rounds", "0"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"check +largest error \d.* of numpy's largest result; .*'arith.divf'", out)


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


def test_the_doctor_says_which_processors_it_can_emulate(capsys, monkeypatch):
    monkeypatch.setattr("nkdsl.emulation.amx.obstacle", lambda: None)
    monkeypatch.setattr("nkdsl.emulation.qemu.obstacle", lambda: None)
    monkeypatch.setattr("nkdsl.emulation.qemu.find_qemu", lambda: "/somewhere/qemu-aarch64")
    monkeypatch.setattr("nkdsl.emulation.qemu.version", lambda: (7, 2))
    main(["doctor"])
    out = capsys.readouterr().out
    assert re.search(r"^ok +emulated Intel AMX ", out, re.MULTILINE)
    found = re.search(r"^ok +emulated AArch64 +(.*)$", out, re.MULTILINE)
    assert found
    assert found[1].startswith("/somewhere/qemu-aarch64, version 7.2; SME on integers takes")


def test_the_doctor_says_how_to_get_an_emulator_without_which_it_does(capsys, monkeypatch):
    remedy = "no C compiler; apt-get install gcc"
    monkeypatch.setattr("nkdsl.emulation.amx.obstacle", lambda: remedy)
    monkeypatch.setenv("NKDSL_QEMU_AARCH64", "/nonexistent/qemu")
    main(["doctor"])
    out = capsys.readouterr().out
    assert re.search(rf"^absent +emulated Intel AMX +{remedy}$", out, re.MULTILINE)
    assert re.search(r"^absent +emulated AArch64 .*apt-get install", out, re.MULTILINE)
    assert "missing: emulated" not in out


AMX_FEATURES = frozenset({"amx-tile", "amx-bf16", "amx-int8"})


@pytest.mark.parametrize(
    ("features", "withheld", "told"),
    [
        (AMX_FEATURES, "", r"^ok +tiles +Intel AMX, permitted by the operating system$"),
        (frozenset(), "the system refuses it", r"^absent +tiles +the system refuses it$"),
        (frozenset(), "", r"^absent +tiles +this CPU has no Intel AMX.*--emulate"),
    ],
)
def test_the_doctor_says_whether_there_are_tiles(features, withheld, told, capsys, monkeypatch):
    cpu = replace(this_cpu(), features=features, withheld=withheld)
    monkeypatch.setattr("nkdsl.cli.doctor.this_cpu", lambda: cpu)
    main(["doctor"])
    assert re.search(told, capsys.readouterr().out, re.MULTILINE)


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


def test_targets_tells_tiles_and_what_can_only_be_emulated(capsys, monkeypatch):
    monkeypatch.setattr("nkdsl.cli.targets.can_run", lambda target: f"no {target.name} here")
    monkeypatch.setattr("nkdsl.emulation.qemu.obstacle", lambda: None)
    assert main(["targets"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^.  sapphirerapids .* Intel AMX ", out, re.MULTILINE)
    assert re.search(r"^.  neoverse-v2 .* emulated$", out, re.MULTILINE)
    assert re.search(r"^.  znver5 .* no$", out, re.MULTILINE)


def test_targets_shows_the_tiles_of_one(capsys, monkeypatch):
    monkeypatch.setattr("nkdsl.cli.targets.can_run", lambda target: "this CPU has no AMX")
    monkeypatch.setattr("nkdsl.cli.targets.emulation_obstacle", lambda target: None)
    assert main(["targets", "sapphirerapids"]) == 0
    out = capsys.readouterr().out
    assert "runs here        this CPU has no AMX" in out
    assert "emulated here    yes, by --emulate" in out
    tiles = out.partition("tiles of Intel AMX\n")[2].partition("caches\n")[0]
    assert re.search(r"needs +amx-tile amx-bf16 amx-int8$", tiles, re.MULTILINE)
    assert re.search(r"registers +8$", tiles, re.MULTILINE)
    for instruction in get_target("sapphirerapids").tile_instructions:
        assert re.search(rf"{instruction.name} .* 16x16 .* {instruction.mnemonic}…$", tiles, re.M)


def test_targets_tells_that_tiles_may_be_as_large_as_vectors_are_long(capsys):
    assert main(["targets", "armv9-sme"]) == 0
    out = capsys.readouterr().out
    assert "of any length; plans assume 512 bits" in out
    assert re.search(r"outer\.f32 .* 4x4 per 128 bits ", out)


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
