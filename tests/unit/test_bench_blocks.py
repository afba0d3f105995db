"""The planner's model held against measurement: which plans, which kernels, which numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nkdsl.bench import blocks
from nkdsl.bench.blocks import (
    SCHEMA,
    BlocksOptions,
    BlocksReport,
    PlanResult,
    ShapeReport,
    rank_correlation,
    run_blocks,
)
from nkdsl.bench.peers import Unable
from nkdsl.bench.plans import Candidate, Planned, plan_row, spread_choice
from nkdsl.bench.problem import PRODUCTS, Problem, Row, make_problem, parse_row
from nkdsl.bench.timing import NativeContender, Spread
from nkdsl.cli.main import main
from nkdsl.dialects.nanokernel import GemmOp
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.planner import analyse, find_plan
from nkdsl.targets import can_run, detect, get_target

ROW = Row(9, 40, 12)
SHORT_NS = 20_000


def _host_or_skip() -> None:
    try:
        detect()
    except Unsupported as reason:
        pytest.skip(str(reason))


def _result(rank: int, predicted: float, measured: float | None) -> PlanResult:
    share = None if measured is None else Spread(measured, measured, measured)
    return PlanResult(rank, f"plan {rank}", "…", predicted, share=share)


def _shape(*plans: PlanResult) -> ShapeReport:
    return ShapeReport(ROW, "f32", 9, None, "fma.f32x16", Spread(1.0, 1.0, 1.0), plans)


@pytest.mark.parametrize(
    ("count", "wanted", "chosen"),
    [
        (3, 12, (0, 1, 2)),
        (10, 4, (0, 1, 5, 9)),
        (100, 1, (0,)),
        (10, 3, (0, 4, 9)),
    ],
)
def test_the_best_and_a_spread_of_the_others_down_to_the_worst_are_chosen(
    count: int, wanted: int, chosen: tuple[int, ...]
) -> None:
    assert spread_choice(count, wanted) == chosen


@pytest.mark.parametrize("count", [13, 14, 40, 997])
def test_no_candidate_is_chosen_twice(count: int) -> None:
    chosen = spread_choice(count, 12)
    assert len(set(chosen)) == 12 and chosen[-1] == count - 1


@pytest.mark.parametrize("text", ["9x40x12", "33x47x65", "8x48x16b3", "16x32x8:tn", "16x32x8:nt"])
def test_the_first_candidate_is_the_models_choice(text: str) -> None:
    target = get_target("skylake-avx512")
    planned = plan_row(parse_row(text), "f32", target)
    gemm = next(op for op in planned.module.walk() if isinstance(op, GemmOp))
    assert planned.candidates[0].plan == find_plan(analyse(gemm), target) == gemm.plan
    predicted = [candidate.predicted for candidate in planned.candidates]
    assert predicted == sorted(predicted, reverse=True)


def test_candidates_of_a_row_have_labels_of_their_own() -> None:
    for text in ("64x96x256", "300x40x9000", "128x128x128:nt"):
        planned = plan_row(parse_row(text), "f32", get_target("x86-64-v3"))
        labels = [candidate.label for candidate in planned.candidates]
        assert len(set(labels)) == len(labels)


def test_spearman_compares_ranks_and_shares_those_of_ties() -> None:
    assert rank_correlation([1, 2, 3], [10, 200, 201]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert rank_correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(3**0.5 / 2)
    assert rank_correlation([1, 1], [1, 2]) is None
    assert rank_correlation([], []) is None


def test_the_loss_is_how_much_faster_the_best_is_than_the_choice() -> None:
    shape = _shape(_result(1, 0.9, 0.8), _result(2, 0.8, 0.88), _result(3, 0.7, None))
    assert shape.loss == pytest.approx(0.1)
    assert shape.best is not None and shape.best.rank == 2
    assert shape.rank_correlation == pytest.approx(-1.0)


def test_the_loss_is_unknown_where_the_choice_was_not_timed() -> None:
    assert _shape(_result(1, 0.9, None), _result(2, 0.8, 0.8)).loss is None
    assert _shape(_result(1, 0.9, None)).best is None


@pytest.fixture(scope="module")
def report() -> BlocksReport:
    """A whole run on one small shape."""
    _host_or_skip()
    options = BlocksOptions((ROW,), ("f32",), count=3, rounds=2, sample_ns=SHORT_NS)
    return run_blocks(options)


def test_every_plan_is_compiled_checked_and_timed(report: BlocksReport) -> None:
    (shape,) = report.shapes
    assert not report.failed and len(shape.plans) == 3
    assert all(plan.share is not None and plan.share.median > 0 for plan in shape.plans)
    assert shape.choice.rank == 1 and shape.loss is not None and shape.loss >= 0


def test_the_kernel_that_ran_is_the_plan_that_was_asked_for(report: BlocksReport) -> None:
    (shape,) = report.shapes
    planned = plan_row(ROW, "f32", get_target("host"))
    by_rank = {candidate.rank: str(candidate.plan) for candidate in planned.candidates}
    assert [plan.plan for plan in shape.plans] == [by_rank[plan.rank] for plan in shape.plans]


def test_the_report_is_shown_in_every_form(report: BlocksReport, tmp_path: Path) -> None:
    assert "rank correlation" in report.table() and ROW.name in report.table()
    data = json.loads(report.to_json())
    assert data["schema"] == SCHEMA
    assert set(data["shapes"][0]) == {
        *("shape", "dtype", "candidates", "huge_pages", "peak", "rank_correlation", "loss"),
        "plans",
    }
    pytest.importorskip("matplotlib")
    report.picture(tmp_path / "blocks.png")
    assert (tmp_path / "blocks.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InvalidInput, match="cannot draw into"):
        report.picture(tmp_path / "blocks.poem")


def test_a_plan_that_fails_is_reported_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    _host_or_skip()
    real = Planned.compile

    def refuse_first(self: Planned, candidate: Candidate, problem: Problem) -> NativeContender:
        if candidate.rank == 1:
            raise Unable("wrong: all of it")
        return real(self, candidate, problem)

    monkeypatch.setattr(Planned, "compile", refuse_first)
    found = run_blocks(BlocksOptions((ROW,), count=2, rounds=1, sample_ns=SHORT_NS))
    first, second = found.shapes[0].plans
    assert first.error == "wrong: all of it" and first.share is None and second.share is not None
    assert found.failed and "wrong: all of it" in found.table()


def test_a_plan_that_the_compiler_refuses_is_unable_with_its_reason() -> None:
    target = get_target("x86-64-v3")
    if obstacle := can_run(target):
        pytest.skip(obstacle)
    planned = plan_row(ROW, "f32", target)
    other = plan_row(ROW, "f32", get_target("skylake-avx512")).candidates[0]
    with pytest.raises(Unable, match="not 'x86-64-v3'"):
        planned.compile(other, make_problem(ROW, PRODUCTS["f32"]))


def test_the_command_line_refuses_what_is_no_shape(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "blocks", "oblong"])
    assert "'oblong' is no shape" in capsys.readouterr().err


def test_an_impossible_run_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "blocks", "8x8x8", "--target", "abacus"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_the_command_line_runs_the_suite(
    monkeypatch: pytest.MonkeyPatch, report: BlocksReport, tmp_path: Path
) -> None:
    asked: list[BlocksOptions] = []

    def fake_run(options: BlocksOptions) -> BlocksReport:
        asked.append(options)
        return report

    monkeypatch.setattr(blocks, "run_blocks", fake_run)
    out = tmp_path / "out.json"
    words = ["8x8x8", "4x4x4b2", "--count", "5", "--dtype", "f32,f64", "--json", str(out)]
    assert main(["bench", "blocks", *words]) == 0
    assert [row.name for row in asked[0].rows] == ["8x8x8", "4x4x4b2"]
    assert (asked[0].count, asked[0].dtypes) == (5, ("f32", "f64"))
    assert json.loads(out.read_text(encoding="utf-8"))["schema"] == SCHEMA
