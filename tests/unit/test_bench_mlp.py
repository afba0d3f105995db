"""Networks: their names, their operands, their text, and a whole run on tiny ones."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nkdsl.bench import gemm, mlp
from nkdsl.bench.gemm import GemmOptions, run_gemm
from nkdsl.bench.gemm_sets import PACKED, PLAIN, Case
from nkdsl.bench.gemm_turns import Entrant, Pace
from nkdsl.bench.gemm_worker import GEMM, MLP, Host, Place, make_engine, task_of
from nkdsl.bench.mlp_ours import ENGINE, arguments, mlir_text
from nkdsl.bench.mlp_problem import (
    ACTIVATIONS,
    SCALE,
    Mlp,
    MlpOperands,
    make_mlp,
    mlp_fault,
    mlp_operands,
    parse_mlp,
    reference,
)
from nkdsl.bench.peers import Availability, Unable
from nkdsl.bench.peers.engine import Made
from nkdsl.bench.peers.families import MLP_FAMILIES, Family, Variant
from nkdsl.bench.peers.libxsmm_forms import Call, One, Two, Work, interface
from nkdsl.bench.peers.mlp import TorchCompileEngine
from nkdsl.bench.problem import PRODUCTS
from nkdsl.bench.timing import PythonContender
from nkdsl.frontend import load, make_context

DTYPES = ("f32", "bf16", "s8s8")
TINY = Mlp(3, (5, 7, 4))


class _Exact:
    """An engine by numpy, at will wrong."""

    def __init__(self, state: str = "right") -> None:
        self.state = state

    def availability(self) -> Availability:
        return Availability(True, "numpy itself")

    def make(self, operands: MlpOperands, contract: str) -> Made:
        def call() -> None:
            operands.c[...] = reference(operands)
            if self.state == "wrong":
                operands.c[0, 0] += 2

        return Made(PythonContender("numpy", call, operands.row.flops, "by hand"))


# ------------------------------------------------------------------------------------------ shapes


@pytest.mark.parametrize("text", ["256:1024x1024x1024:relu", "1:2x3:none"])
def test_a_network_is_read_back_from_its_name(text: str) -> None:
    assert parse_mlp(text).name == text
    assert parse_mlp("8:2×3").activation == "relu"


@pytest.mark.parametrize("text", ["", "256", "256:1024", "0:2x3", "2:3x0", "2:3x4:tanh"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no network|has rows|known are"):
        parse_mlp(text)


def test_flops_are_those_of_the_products() -> None:
    assert Mlp(3, (5, 7, 4)).flops == 2 * 3 * (5 * 7 + 7 * 4)


def test_every_set_has_networks_and_one_lays_out_weights_beforehand() -> None:
    found = list(mlp.cases(tuple(mlp.SETS), (TINY,), ("f32",), (2, 1)))
    assert {case.set for case in found} == {*mlp.SETS, "chosen"}
    assert {case.contract for case in found if case.set != "packed"} == {PLAIN}
    assert {case.contract for case in found if case.set == "packed"} == {PACKED}
    assert [case.threads for case in found] == sorted(case.threads for case in found)


# ------------------------------------------------------------------------------------------ checks


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_right_answers_pass_and_wrong_ones_are_found(dtype: str, activation: str) -> None:
    operands = mlp_operands(f"9:40x30x20:{activation}", dtype)
    assert mlp_fault(operands, thorough=True) is not None  # nothing was computed yet
    _Exact().make(operands, PLAIN).contender.run(1)
    assert mlp_fault(operands, thorough=True) is None
    _Exact("wrong").make(operands, PLAIN).contender.run(1)
    assert "1 of 180" in str(mlp_fault(operands, thorough=True))


def test_an_input_that_was_written_is_found() -> None:
    operands = make_mlp(TINY, PRODUCTS["f32"])
    _Exact().make(operands, PLAIN).contender.run(1)
    operands.weights[1][0, 0] += 1
    assert mlp_fault(operands, thorough=True) == "wrong: an input was written"


def test_eight_bits_are_neither_all_clamped_nor_all_zero() -> None:
    operands = mlp_operands("64:1024x1024x1024x1024:none", "s8s8")
    answer = reference(operands)
    assert 20 < answer.std() < 100
    assert 0 < (np.abs(answer) >= 127).mean() < 0.2


# ------------------------------------------------------------------------------------------- ours


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_ours_is_one_function_with_a_product_for_each_layer(dtype: str, activation: str) -> None:
    row = Mlp(3, (5, 7, 4), activation)
    text = mlir_text(row, dtype)
    load(text, make_context()).verify()
    assert text.count("nanokernel.gemm") == 2 and text.count("from zero") == 2
    assert text.count("arith.addf") == (2 if activation == "relu" else 0)
    assert text.count("arith.truncf") == (2 if dtype == "bf16" else 0)
    assert text.count("arith.fptosi") == (2 if dtype == "s8s8" else 0)
    operands = make_mlp(row, PRODUCTS[dtype])
    head = text.splitlines()[0]
    assert head.count("memref") == len(list(arguments(operands)))


def test_the_scale_of_eight_bits_is_written_exactly() -> None:
    constants = re.findall(r"%scale = arith.constant (\S+) : f32", mlir_text(TINY, "s8"))
    assert [float(text) for text in constants] == [SCALE, SCALE]


def test_ours_says_why_it_cannot() -> None:
    engine = make_engine(ENGINE, 1, "abacus")
    with pytest.raises(Unable, match="abacus"):
        engine.make(make_mlp(TINY, PRODUCTS["f32"]), PLAIN)
    with pytest.raises(Unable, match="packed beforehand"):
        engine.make(make_mlp(TINY, PRODUCTS["f32"]), PACKED)


# ---------------------------------------------------------------------------------------- workers


def test_a_worker_knows_what_its_engine_computes() -> None:
    assert task_of("ours") is task_of("numpy") is GEMM
    assert task_of(ENGINE) is task_of("mlp-jax") is MLP


def test_a_host_prepares_networks() -> None:
    request = {"op": "prepare", "slot": "x", "row": TINY.name, "dtype": "bf16", "contract": PLAIN}
    answer = Host(_Exact(), MLP).answer({**request, "thorough": True})
    assert answer["flops"] == TINY.flops and answer["detail"] == "by hand"
    with pytest.raises(Unable, match="wrong"):
        Host(_Exact("wrong"), MLP).answer({**request, "thorough": True})


def test_torchs_compiler_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    found = TorchCompileEngine().availability()
    assert not found.present and "g++" in found.detail


class _LocalWorker:
    """A worker in this process."""

    def __init__(self, engine: str, place: Place, settings: object) -> None:
        self.host = Host(_Exact("wrong" if engine == "wrong" else "right"), MLP)

    def about(self) -> Availability:
        return Availability(True, "numpy itself")

    def enter(self, case: Case, name: str, **options: Any) -> Entrant:
        request = {"op": "prepare", "slot": name, "row": case.row.name, "dtype": case.dtype}
        self.host.answer({**request, "contract": case.contract, "thorough": options["thorough"]})
        made = self.host._slots[name]
        return Entrant(PythonContender(name, lambda: made.run(1), case.row.flops), 1000)

    def clear(self) -> None:
        self.host.answer({"op": "clear"})

    def close(self) -> None:
        return


def test_a_whole_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gemm, "GemmWorker", _LocalWorker)
    monkeypatch.setattr("nkdsl.bench.peers.families.GemmWorker", _LocalWorker)
    families = {
        state: Family(state, "", lambda _, state=state: (Variant(state, state),))  # type: ignore[misc]
        for state in ("right", "wrong")
    }
    options = GemmOptions(
        cases=(Case("relu", TINY, "f32"),),
        peers=tuple(families),
        families=families,
        engine=ENGINE,
        pace=Pace(rounds=3, sample_ns=20_000),
        command="mlp",
    )
    report = run_gemm(options)
    assert not report.failed
    (row,) = report.rows
    assert row.best_peer and row.best_peer.name == "right" and row.ratio
    assert "wrong" in str(row.results[-1].error)
    data = json.loads(report.to_json())
    assert data["rows"][0]["shape"] == "3:5x7x4:relu"
    pytest.importorskip("matplotlib")
    report.picture(tmp_path / "mlp.png")
    assert (tmp_path / "mlp.png").stat().st_size > 1000


def test_the_command_line_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    mlp.add_arguments(parser)
    found = parser.parse_args(["3:5x7x4", "--dtype", "f32,s8", "--peers", "jax", "--sets", "none"])
    assert found.shapes == [TINY] and found.dtype == ("f32", "s8s8")
    assert found.peers == ("jax",) and found.sets == ("none",)
    assert parser.parse_args(["--peers", "all"]).peers == tuple(MLP_FAMILIES)
    with pytest.raises(SystemExit):
        parser.parse_args(["3x5"])
    assert "is no network" in capsys.readouterr().err


# ------------------------------------------------------------------------------- libxsmm's forms


def test_libxsmm_2_gets_our_b_first_and_its_parameters_in_one_structure() -> None:
    asked: list[Any] = []

    def dispatch(shape: Any, flags: Any, prefetch: Any, batch: Any) -> int:
        asked.append((shape, flags.value, batch.kind))
        return 64

    library: Any = SimpleNamespace(libxsmm_dispatch_brgemm=dispatch)
    found = interface(library)
    assert isinstance(found, Two) and not isinstance(found, One)
    call = Call("n in lanes", 16, 8, 4, 16, 4, 16, 0, swapped=True)
    work = Work(PRODUCTS["u8s8"], call, (1000, 2000, 3000), (10, 20), batch=3)
    forms = list(found.forms(work))
    assert [form.label for form in forms] == ["strided", "strided, unroll hint", "addresses"]
    shape, flags, kind = asked[0]
    assert (shape.m, shape.n, shape.k) == (16, 8, 4)
    assert (shape.a, shape.b, shape.c) == tuple(Two.TYPES[name] for name in ("s8", "u8", "s32"))
    assert flags == Two.VNNI_A and kind == Two.STRIDE
    words: Any = forms[0].keep[0]
    assert list(words[[Two.FIRST, Two.SECOND, Two.THIRD]]) == [1000, 2000, 3000]
    lists: Any = forms[2].keep[2:]
    assert [list(each) for each in lists] == [[1000, 1010, 1020], [2000, 2020, 2040]]


def test_a_library_that_is_no_libxsmm_is_known() -> None:
    library: Any = SimpleNamespace()
    assert interface(library) is None
