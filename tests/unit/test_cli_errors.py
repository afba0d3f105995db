"""Bad input: exit status 1, one message with place and remedy, no traceback, no output file."""

import subprocess
import sys
from pathlib import Path

import pytest

from nkdsl.cli.main import main

HEADER = "func.func @f(%a: memref<8x8xf32>, %b: memref<8x8xf32>, %c: memref<8x8xf32>) {\n"
MATMUL = "linalg.matmul ins(%a, %b : memref<8x8xf32>, memref<8x8xf32>) outs(%c : memref<8x8xf32>)"

BROKEN = f"{HEADER}  linalg.matmul ins(%a %b\n}}\n"
MISMATCHED = f"{HEADER}  {MATMUL}\n  return\n}}\n".replace(
    "%b: memref<8x8", "%b: memref<9x8"
).replace(", memref<8x8xf32>) outs", ", memref<9x8xf32>) outs")
NO_PRODUCT = f"""{HEADER}
  linalg.generic {{indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (0, j)>],
                  iterator_types = ["reduction", "parallel"]}}
      ins(%a : memref<8x8xf32>) outs(%c : memref<8x8xf32>) {{
  ^bb0(%x: f32, %y: f32):
    %sum = arith.addf %y, %x : f32
    linalg.yield %sum : f32
  }}
  return
}}
"""
SHORT = f"{HEADER}  {MATMUL}\n  return\n}}\n".replace("f32", "i16")
UNKNOWN = f"{HEADER}  {MATMUL}\n  return\n}}\n".replace("8x8xf32", "8x8xf32, strided<[?, ?]>")
NAMED = f"{HEADER}  {MATMUL}\n  return\n}}\n".replace("8x8", "2x8x8").replace(
    "matmul", "batch_matmul"
)
GOOD = f"{HEADER}  {MATMUL}\n  return\n}}\n"

BAD_PROGRAMS = {
    "broken text": (BROKEN, "program.mlir:2:24: Expected ':'"),
    "sizes that contradict": (MISMATCHED, "program.mlir:2:3: linalg.matmul: "),
    "an operation that is no product": (NO_PRODUCT, "program.mlir:3:3: linalg.generic"),
    "an unknown element type": (SHORT, "i16 is not supported; supported are: f32, f64, bf16"),
    "a result of unknown strides": (UNKNOWN, "the result has stride 1 along neither"),
    "no function": ("builtin.module {}", "no function"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a command that fails as it should."""
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("error: ") == 1
    assert "Traceback" not in captured.err
    assert "bug" not in captured.err
    return captured.err


@pytest.mark.parametrize("what", BAD_PROGRAMS)
@pytest.mark.parametrize("kind", ["mlir", "obj"])
def test_compile_refuses(what, kind, folder, capsys):
    text, words = BAD_PROGRAMS[what]
    (folder / "program.mlir").write_text(text)
    arguments = ["compile", "program.mlir", "--target", "znver5", f"--emit={kind}", "-o", "out"]
    assert words in failure(arguments, capsys)
    assert [path.name for path in folder.iterdir()] == ["program.mlir"]


@pytest.mark.parametrize("what", [w for w in BAD_PROGRAMS if w != "no function"])
def test_opt_refuses(what, folder, capsys):
    text, words = BAD_PROGRAMS[what]
    (folder / "program.mlir").write_text(text)
    passes = "linalg-to-nanokernel,plan{target=znver5}"
    arguments = ["opt", "program.mlir", "-p", passes, "-o", "out.mlir"]
    assert words in failure(arguments, capsys)
    assert [path.name for path in folder.iterdir()] == ["program.mlir"]


@pytest.mark.parametrize("command", ["run", "compile", "explain"])
def test_an_unknown_target_is_answered_with_those_known(command, folder, capsys):
    (folder / "program.mlir").write_text(GOOD)
    message = failure([command, "program.mlir", "--target", "zen99"], capsys)
    assert "target 'zen99' is not known; known are: x86-64-v3, " in message


@pytest.mark.parametrize("command", ["run", "compile", "explain", "opt"])
def test_a_missing_file_is_named(command, folder, capsys):
    message = failure([command, "missing.mlir"], capsys)
    assert "'missing.mlir'" in message
    assert "No such file" in message


@pytest.mark.parametrize("command", ["run", "compile", "explain", "opt"])
def test_a_file_that_is_no_text_is_named(command, folder, capsys):
    (folder / "binary.mlir").write_bytes(b"\xff\xfe\x00")
    assert "can't read 'binary.mlir': it is not UTF-8" in failure([command, "binary.mlir"], capsys)


def test_a_place_that_cannot_be_written_is_named(folder, capsys):
    (folder / "program.mlir").write_text(GOOD)
    for command in (["compile", "--target=znver5", "--emit=mlir"], ["opt"]):
        message = failure([*command, "program.mlir", "-o", "missing/out"], capsys)
        assert "can't write 'missing/out': No such file" in message


def test_a_folder_cannot_be_the_output(folder, capsys):
    (folder / "program.mlir").write_text(GOOD)
    (folder / "out").mkdir()
    message = failure(["compile", "program.mlir", "--emit=mlir", "-o", "out"], capsys)
    assert "can't write 'out'" in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["compile", "program.mlir", "--emit=asm"],
        ["compile", "named.mlir", "--emit=mlir"],
        ["run", "program.mlir"],
        ["opt", "named.mlir"],
    ],
    ids=" ".join,
)
def test_a_missing_mlir_opt_is_answered_with_the_command_that_installs_it(
    arguments, folder, capsys, monkeypatch
):
    (folder / "program.mlir").write_text(GOOD)
    (folder / "named.mlir").write_text(NAMED)
    monkeypatch.setenv("NKDSL_MLIR_OPT", "/nonexistent")
    message = failure(arguments, capsys)
    assert "mlir-opt not found (NKDSL_MLIR_OPT=/nonexistent)" in message
    assert "apt-get install --no-install-recommends mlir-22-tools" in message


@pytest.mark.parametrize(
    ("passes", "words"),
    [
        ("no-such-pass", "Unrecognized passes: ['no-such-pass']"),
        ("plan{no-such-option=1}", "no_such_option"),
        ("plan{target=", "Error parsing pass pipeline"),
        ("plan{target=zen99}", "target 'zen99' is not known; known are: "),
    ],
)
def test_opt_refuses_a_wrong_pipeline(passes, words, folder, capsys):
    (folder / "program.mlir").write_text(GOOD)
    assert words in failure(["opt", "program.mlir", "-p", passes], capsys)


@pytest.mark.parametrize(
    ("product", "words"),
    [("0x4x5", "empty"), ("4x5", "MxNxK"), ("2x3x4b5:tn", "batch-reduce")],
)
def test_explain_refuses_shapes_that_are_none(product, words, folder, capsys):
    assert words in failure(["explain", product], capsys)


def test_explain_refuses_unknown_element_types(folder, capsys):
    message = failure(["explain", "4x5x6", "--dtype", "i16"], capsys)
    assert "'i16'" in message
    assert "f32, f64, bf16" in message


def test_a_fault_of_the_compiler_is_one_message_that_says_so(capsys, monkeypatch):
    def fail() -> None:
        raise AssertionError("oops")

    monkeypatch.setattr("nkdsl.cli.targets.detect", fail)
    monkeypatch.delenv("NKDSL_TRACEBACK", raising=False)
    assert main(["targets"]) == 1
    err = capsys.readouterr().err
    assert "which is a bug: AssertionError: oops" in err
    assert "Traceback" not in err


def test_a_split_input_keeps_its_line_numbers(folder, capsys):
    (folder / "program.mlir").write_text(f"{GOOD}// -----\n{BROKEN}")
    assert main(["opt", "program.mlir", "--split-input-file"]) == 1
    assert "error: program.mlir:7:24: Expected ':'" in capsys.readouterr().err
    (folder / "program.mlir").write_text(f"{GOOD}// -----\n{NO_PRODUCT}")
    assert main(["opt", "program.mlir", "--split-input-file", "-p", "linalg-to-nanokernel"]) == 1
    assert "error: program.mlir:8:3: linalg.generic" in capsys.readouterr().err


def test_opt_reports_expected_diagnostics_as_xdsl_opt_does(folder, capsys):
    (folder / "program.mlir").write_text(f"{NO_PRODUCT}// -----\n{BROKEN}// -----\n{MISMATCHED}")
    flags = ["--split-input-file", "--verify-diagnostics", "--parsing-diagnostics"]
    assert main(["opt", "program.mlir", *flags, "-p", "linalg-to-nanokernel"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for words in ("can't be raised to nanokernel.gemm", "Expected ':'", "to be 8, but found 9"):
        assert words in captured.out


def test_a_process_that_fails_prints_one_line_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "nkdsl", "compile", str(tmp_path / "missing.mlir")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: can't read ")
