"""`nkdsl-opt` on good input: every level prints, and what it prints parses again."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nkdsl.cli.main import main

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "matmul_f64.mlir")
PASSES = ("linalg-to-nanokernel", "plan{target=znver5}", "compose", "unroll", "lower-to-upstream")
PREFIXES = [",".join(PASSES[:count]) for count in range(len(PASSES) + 1)]


@pytest.mark.parametrize("passes", PREFIXES)
def test_every_prefix_of_the_pipeline_prints_what_parses_again(passes, tmp_path, capsys):
    first, second = tmp_path / "first.mlir", tmp_path / "second.mlir"
    assert main(["opt", EXAMPLE, "-p", passes, "-o", str(first)]) == 0
    assert main(["opt", str(first), "-o", str(second)]) == 0
    assert first.read_text() == second.read_text()
    assert capsys.readouterr().out == ""


def test_passes_one_by_one_lead_where_the_pipeline_leads(tmp_path):
    step = tmp_path / "step.mlir"
    shutil.copy(EXAMPLE, step)
    for name in PASSES:
        assert main(["opt", str(step), "-p", name, "-o", str(step)]) == 0
    whole = tmp_path / "whole.mlir"
    assert main(["opt", EXAMPLE, "-p", ",".join(PASSES), "-o", str(whole)]) == 0
    assert step.read_text() == whole.read_text()


def test_plain_xdsl_opt_runs_the_same_passes(tmp_path):
    ours, theirs = tmp_path / "ours.mlir", tmp_path / "theirs.mlir"
    xdsl_opt = Path(sys.executable).with_name("xdsl-opt")
    if not xdsl_opt.exists():
        pytest.skip("xdsl-opt is not beside this Python")
    passes = ",".join(PASSES[:3])
    assert main(["opt", EXAMPLE, "-p", passes, "-o", str(ours)]) == 0
    subprocess.run([xdsl_opt, EXAMPLE, "-p", passes, "-o", theirs], check=True)
    assert ours.read_text() == theirs.read_text()
