"""Whole products: their sets, their checks, their turns, and a whole run on tiny shapes."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nkdsl.bench import gemm, gemm_worker
from nkdsl.bench.gemm import GemmOptions, choose_cpus, run_gemm
from nkdsl.bench.gemm_bandwidth import bandwidth
from nkdsl.bench.gemm_ours import mlir_text
from nkdsl.bench.gemm_problem import Operands, fault, make_operands
from nkdsl.bench.gemm_report import GemmReport, GemmRow, timed_row
from nkdsl.bench.gemm_sets import NARROW_SETS, PACKED, PLAIN, SETS, Case, cases, rows_of
from nkdsl.bench.gemm_turns import Entrant, Pace, quickest, take_turns, together
from nkdsl.bench.gemm_worker import GemmWorker, Host, Place, WorkerDied
from nkdsl.bench.machine import this_run
from nkdsl.bench.peers import Availability, Unable
from nkdsl.bench.peers.cblas import NumpyEngine
from nkdsl.bench.peers.engine import Made
from nkdsl.bench.peers.families import FAMILIES, Family, Team, Variant
from nkdsl.bench.peers.libxsmm import LibxsmmEngine
from nkdsl.bench.problem import PRODUCTS, Row, parse_row
from nkdsl.bench.readme import GEMM_BEGIN, GEMM_END, update
from nkdsl.bench.timing import Lap, PythonContender, Series, Timings
from nkdsl.errors import InvalidInput
from nkdsl.frontend import load, make_context

PACE = Pace(rounds=3, sample_ns=20_000)
F32 = PRODUCTS["f32"]


class _Exact:
    """An engine by numpy, at will wrong."""

    def __init__(self, state: str = "right") -> None:
        self.state = state

    def availability(self) -> Availability:
        return Availability(self.state != "absent", "numpy itself")

    def make(self, operands: Operands, contract: str) -> Made:
        if self.state == "unable":
            raise Unable("not on Sundays")
        row = operands.row
        a = operands.a.T if row.transpose_a else operands.a
        b = operands.b.T if row.transpose_b else operands.b

        wide = operands.types.sums.dtype

        def call() -> None:
            operands.c[...] = np.matmul(a.astype(wide), b.astype(wide))
            if self.state == "wrong":
                operands.c[-1, -1] += 1

        return Made(PythonContender("numpy", call, row.flops, "np.matmul"))


def _prepare(row: str, engine: _Exact, **changes: object) -> dict[str, object]:
    request = {"op": "prepare", "slot": "x", "row": row, "dtype": "f32", "contract": PLAIN}
    return Host(engine).answer({**request, "thorough": True, **changes})


# ------------------------------------------------------------------------------------------- sets


def test_every_set_has_rows() -> None:
    for name in SETS:
        assert all(row.batch == 1 for row in rows_of(name, "f32"))
        assert rows_of(name, "f64")


def test_squares_in_f64_leave_out_the_ends() -> None:
    sizes = [row.m for row in rows_of("squares", "f64")]
    assert (min(sizes), max(sizes)) == (256, 2048)


def test_threads_are_two_where_only_one_is_asked_for() -> None:
    found = cases(("squares", "threads", "packed"), (), ("f32",), (1,))
    counts = {case.set: case.threads for case in found}
    assert counts == {"squares": 1, "packed": 1, "threads": 2}
    assert [case.threads for case in found] == sorted(case.threads for case in found)
    assert {case.contract for case in found if case.set == "packed"} == {PACKED}


@pytest.mark.parametrize("shape", ["3x4x5", "3x4x5:tn", "3x4x5:nt", "3x4x5:tt"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_ours_is_a_fill_and_a_product(shape: str, dynamic: bool) -> None:
    text = mlir_text(parse_row(shape), "f32", dynamic=dynamic)
    load(text, make_context()).verify()
    assert "linalg.fill" in text
    assert ("memref<?x?xf32>" in text) == dynamic
    assert ("linalg.matmul" in text) == (shape == "3x4x5")


@pytest.mark.parametrize("shape", ["3x4x5", "3x4x5:tn", "3x4x5:nt", "3x4x5:tt"])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("dtype", "word"),
    [("bf16", "arith.truncf"), ("u8s8", "unsigned lhs"), ("s8s8", "xi8>) outs")],
)
def test_ours_of_narrow_types_is_one_product_from_zero(
    shape: str, dynamic: bool, dtype: str, word: str
) -> None:
    text = mlir_text(parse_row(shape), dtype, dynamic=dynamic)
    load(text, make_context()).verify()
    assert "from zero" in text and word in text


def test_narrow_types_have_fewer_sets_unless_they_are_named() -> None:
    found = cases(None, (), ("f32", "bf16"), (1,))
    assert {case.set for case in found if case.dtype == "f32"} == set(SETS)
    assert {case.set for case in found if case.dtype == "bf16"} == set(NARROW_SETS)
    assert {case.set for case in cases(("small",), (), ("bf16",), (1,))} == {"small"}


def test_peers_that_lack_the_types_take_no_part() -> None:
    lacking = [family.name for family in FAMILIES.values() if not family.any_of(["u8s8"])]
    assert set(lacking) == {"numpy", "openblas", "mkl", "blis", "libxsmm"}
    team = Team(FAMILIES["jax"], Place(1, (), "host"))
    assert team.takes(Case("squares", Row(8, 8, 8), "s8s8"))
    assert not team.takes(Case("packed", Row(8, 8, 8), "s8s8", contract=PACKED))
    team.close()


# ----------------------------------------------------------------------------------------- checks


@pytest.mark.parametrize("dtype", PRODUCTS)
@pytest.mark.parametrize("shape", ["70x130x9", "7x5x3:tt", "1x90x4:nt"])
@pytest.mark.parametrize("thorough", [False, True])
def test_right_answers_pass(dtype: str, shape: str, thorough: bool) -> None:
    operands = make_operands(parse_row(shape), PRODUCTS[dtype].stored)
    assert fault(operands, thorough=thorough) is not None  # nothing was computed yet
    _Exact().make(operands, PLAIN).contender.run(1)
    assert fault(operands, thorough=thorough) is None


def test_a_wrong_element_is_found_anywhere() -> None:
    operands = make_operands(Row(200, 300, 5), F32)
    _Exact().make(operands, PLAIN).contender.run(1)
    operands.c[101, 103] += 1e-3
    assert "1 of 60000" in str(fault(operands, thorough=True))
    operands = make_operands(Row(20, 30, 5), PRODUCTS["s8s8"])
    _Exact().make(operands, PLAIN).contender.run(1)
    operands.c[11, 13] += 1
    assert "1 of 600" in str(fault(operands, thorough=True))


def test_a_narrow_result_may_be_rounded_once_and_not_more() -> None:
    operands = make_operands(Row(20, 30, 50), PRODUCTS["bf16"].stored)
    _Exact().make(operands, PLAIN).contender.run(1)
    largest = np.unravel_index(np.abs(operands.c).astype(np.float32).argmax(), operands.c.shape)
    operands.c[largest] *= 1.02
    assert "1 of 600" in str(fault(operands, thorough=True))


def test_writes_outside_the_result_are_found() -> None:
    operands = make_operands(Row(8, 8, 8), F32)
    _Exact().make(operands, PLAIN).contender.run(1)
    operands.a[0, 0] += 1
    assert "outside C" in str(fault(operands, thorough=True))
    operands = make_operands(Row(8, 8, 8), F32)
    _Exact().make(operands, PLAIN).contender.run(1)
    start = operands.c.ctypes.data - operands.arena.ctypes.data
    operands.arena[start + operands.c.nbytes] = 0
    assert "1 bytes outside C" in str(fault(operands, thorough=False))


def test_operands_are_the_same_everywhere() -> None:
    first, second = (make_operands(Row(5, 6, 7), F32) for _ in range(2))
    assert np.array_equal(first.a, second.a) and np.array_equal(first.b, second.b)
    assert np.isnan(first.c).all()


# ------------------------------------------------------------------------------------------ turns


def _fake(name: str, call_ns: int) -> Entrant:
    class Fake:
        detail, flops = "", 100

        def __init__(self) -> None:
            self.name = name

        def run(self, reps: int) -> Lap:
            return Lap(reps * call_ns, reps * call_ns)

    return Entrant(Fake(), call_ns)


def test_turns_shrink_to_their_budget_but_not_to_nothing() -> None:
    peak = _fake("peak", 10).contender
    short = take_turns([_fake("a", 50)], peak, Pace(rounds=7, sample_ns=1000))
    assert len(short.series["a"].ns) == 7
    long = take_turns([_fake("a", 10**9), _fake("b", 10**9)], peak, Pace(rounds=7))
    assert len(long.series["a"].ns) == 3 and long.series["a"].reps == 1
    assert long.ratio("a", "b").median == pytest.approx(1.0)
    assert long.share("a").median == pytest.approx(1e-8)


def test_the_quickest_way_is_found() -> None:
    for scale in (1, 10**8, 10**9):
        ways = [_fake("slow", 30 * scale), _fake("fast", 10 * scale), _fake("fair", 11 * scale)]
        assert quickest(ways) is ways[1]


def test_memory_is_read_by_one_thread_and_by_two() -> None:
    cpus = choose_cpus(1, None) or (0,)
    one = together(lambda count: bandwidth(256, (1 << 20) // count), cpus)
    assert one.flops == 1 << 20 and one.run(2).wall_ns > 0
    two = together(lambda count: bandwidth(256, (1 << 20) // count), (0, 0))
    assert two.flops == 1 << 20 and two.run(2).wall_ns > 0
    two.close()  # type: ignore[union-attr]


def test_cpus_are_the_last_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert choose_cpus(1, None) == ()
    assert choose_cpus(1, 2) == (2,)
    assert choose_cpus(2, 2) == (1, 2)
    assert choose_cpus(2, 0) == (2, 3)
    with pytest.raises(InvalidInput, match="5 threads"):
        choose_cpus(5, 3)


# ---------------------------------------------------------------------------------------- workers


def test_a_host_prepares_runs_and_clears() -> None:
    host = Host(_Exact())
    request = {"op": "prepare", "slot": "x", "row": "8x9x10", "dtype": "f32", "contract": PLAIN}
    answer = host.answer({**request, "thorough": True})
    assert answer["flops"] == 1440 and answer["detail"] == "np.matmul"
    assert set(host.answer({"op": "run", "slot": "x", "reps": 3})) == {"wall_ns", "thread_ns"}
    assert host.answer({"op": "clear"}) == {}
    with pytest.raises(Unable):
        host.answer({"op": "run", "slot": "x", "reps": 3})


def test_a_host_refuses_what_is_wrong_absent_or_unable() -> None:
    with pytest.raises(Unable, match="wrong"):
        _prepare("8x9x10", _Exact("wrong"))
    with pytest.raises(Unable, match="numpy itself"):
        _prepare("8x9x10", _Exact("absent"))
    with pytest.raises(Unable, match="Sundays"):
        _prepare("8x9x10", _Exact("unable"))


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("shape", ["16x24x8", "16x24x8:tn", "16x24x8:nt", "16x24x8:tt"])
def test_peers_called_natively_are_right(shape: str, dtype: str) -> None:
    for engine in (NumpyEngine(), LibxsmmEngine()):
        if not engine.availability().present:
            continue
        operands = make_operands(parse_row(shape), PRODUCTS[dtype])
        try:
            made = engine.make(operands, PLAIN)
        except Unable as error:
            assert "returned no kernel" in str(error)
            continue
        made.contender.run(1)
        assert fault(operands, thorough=True) is None


def test_peers_refuse_packed_operands() -> None:
    engine = NumpyEngine()
    engine.availability()
    with pytest.raises(Unable, match="packed"):
        engine.make(make_operands(Row(8, 8, 8), F32), PACKED)


class _LocalWorker:
    """A worker in this process."""

    def __init__(self, engine: str, place: Place, settings: Mapping[str, str]) -> None:
        self.host = Host(_Exact(engine if engine != "ours" else "right"))

    def about(self) -> Availability:
        return _Exact(self.host._engine.state).availability()  # type: ignore[attr-defined]

    def enter(
        self,
        case: Case,
        name: str,
        *,
        row: Row | None = None,
        contract: str = "",
        thorough: bool,
    ) -> Entrant:
        if self.host._engine.state == "dies":  # type: ignore[attr-defined]
            raise WorkerDied("its process was ended by SIGSEGV")
        request = {"op": "prepare", "slot": name, "row": (row or case.row).name, "dtype": "f32"}
        answer = self.host.answer({**request, "contract": PLAIN, "thorough": thorough})
        call_ns = answer["call_ns"]
        assert isinstance(call_ns, int)
        return Entrant(replace(self.host._slots[name], name=name), call_ns)  # type: ignore[type-var]

    def clear(self) -> None:
        self.host.answer({"op": "clear"})

    def close(self) -> None:
        return


def _always(variants: tuple[Variant, ...], threads: int) -> tuple[Variant, ...]:
    return variants


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers in this process, and peers by numpy."""
    monkeypatch.setattr(gemm, "GemmWorker", _LocalWorker)
    monkeypatch.setattr("nkdsl.bench.peers.families.GemmWorker", _LocalWorker)
    for state in ("right", "absent", "wrong", "dies"):
        variants = (Variant(state, state),)
        family = Family(state, "ask the moon", partial(_always, variants))
        monkeypatch.setitem(FAMILIES, state, family)


@pytest.mark.usefixtures("local")
def test_a_whole_run(tmp_path: Path) -> None:
    chosen = (
        Case("squares", Row(8, 8, 8), "f32"),
        Case("transposed", parse_row("8x9x7:tn"), "f32"),
        Case("packed", Row(8, 9, 7), "f32", contract=PACKED),
    )
    peers = ("right", "absent", "wrong", "dies")
    said: list[str] = []
    options = GemmOptions(
        chosen, peers=peers, dynamic=True, pace=PACE, command="gemm", progress=said.append
    )
    report = run_gemm(options)
    assert said == [case.name for case in chosen]
    assert not report.failed
    first, second, packed = report.rows
    assert first.best_peer and first.best_peer.name == "right" and first.ratio
    assert [r.name for r in first.results] == ["ours", "ours, dynamic", "right", "wrong", "dies"]
    assert "SIGSEGV" in str(first.results[-1].error)
    assert second.result("ours, untransposed")
    assert [r.name for r in packed.results] == ["ours"]
    table = report.table()
    for word in ("8x9x7:tn", "wrong:", "SIGSEGV", "skipped; numpy itself", "ask the moon"):
        assert word in table
    data = json.loads(report.to_json())
    assert data["schema"] == "nkdsl-bench-gemm/1"
    assert data["rows"][0]["best_peer"] == "right"
    assert data["summary"][0]["least_shape"] == "8x8x8"


def test_a_team_keeps_only_settings_that_took_effect(
    monkeypatch: pytest.MonkeyPatch, local: None
) -> None:
    variants = (Variant("a", "right"), Variant("b", "right", core="core Elsewhere"))
    team = Team(Family("right", "", lambda _: variants), Place(1, (), "host"))
    assert team.availability() == Availability(True, "numpy itself")
    entrant = team.enter(Case("small", Row(4, 4, 4), "f32"))
    assert entrant.contender.name == "right"
    team.clear()
    team.close()


@pytest.mark.slow
def test_a_worker_of_its_own_serves_numpy() -> None:
    worker = GemmWorker("numpy", Place(1, (), "host"), {})
    try:
        if not worker.about().present:
            pytest.skip("numpy hides its BLAS")
        case = Case("small", Row(24, 24, 24), "f32")
        entrant = worker.enter(case, "numpy", thorough=True)
        assert entrant.contender.run(10).wall_ns > 0
        worker.clear()
        with pytest.raises(Unable):
            entrant.contender.run(1)
    finally:
        worker.close()


def test_every_library_is_told_the_number_of_threads_and_waits_by_its_own_rules() -> None:
    found = gemm_worker.environment(2)
    assert found["OMP_NUM_THREADS"] == found["MKL_NUM_THREADS"] == "2"
    assert "OMP_WAIT_POLICY" not in found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to look at")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_worker_of_several_threads_is_stopped_between_its_turns(threads: int) -> None:
    worker = GemmWorker("numpy", Place(threads, (), "host"), {})
    try:
        for _ in range(2):
            worker.about()
            assert _state(worker.process_id, "T" if threads > 1 else "S")
    finally:
        worker.close()


def _state(process: int, wanted: str) -> bool:
    """Whether a process gets into a state soon, as /proc writes it."""
    for _ in range(200):
        if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == wanted:
            return True
        time.sleep(0.01)
    return False


# ---------------------------------------------------------------------------------------- reports


def _row(case: Case, ours: float, peers: Mapping[str, float]) -> GemmRow:
    """A row of so many nanoseconds a call."""
    ns = {"ours": ours, **peers}
    series = {
        name: Series(case.row.flops, 1, (value,) * 3, beside=(1.0,) * 3)
        for name, value in ns.items()
    }
    timings = Timings(series, Series(100, 1, (1.0,) * 9))
    return timed_row(case, "fma.f32x16", timings, dict.fromkeys(ns, ""), {}, 100)


def _report(*rows: GemmRow) -> GemmReport:
    run = this_run("gemm", target="host", table="x", rounds=3, sample_ns=1, pinned=None)
    peers = tuple((name, 1, Availability(True, "1.0")) for name in ("mkl", "blis"))
    return GemmReport(run, peers, rows)


def test_each_row_is_held_against_its_own_best_peer() -> None:
    first = _row(Case("squares", Row(8, 8, 8), "f32"), 10, {"mkl": 8, "blis": 20})
    second = _row(Case("squares", Row(9, 9, 9), "f32"), 10, {"mkl": 30, "blis": 20})
    assert [row.best_peer.name for row in (first, second) if row.best_peer] == ["mkl", "blis"]
    (mean,) = _report(first, second).summary()
    assert mean.least_ratio == pytest.approx(0.8) and mean.least_shape == "8x8x8"
    assert mean.ratio == pytest.approx((0.8 * 2.0) ** 0.5) and mean.won == 1


def test_the_readme_gets_its_own_table(tmp_path: Path) -> None:
    readme, results = tmp_path / "README.md", tmp_path / "gemm-f32.json"
    readme.write_text(f"above\n{GEMM_BEGIN}\nold\n{GEMM_END}\nbelow\n")
    case = Case("squares", Row(8, 8, 8), "f32")
    results.write_text(_report(_row(case, 10, {"mkl": 8})).to_json())
    update(readme, [results])
    text = readme.read_text()
    assert text.startswith("above\n") and text.endswith("\nbelow\n") and "old" not in text
    assert "| squares | 8x8x8 | 1 | 102.4 |" in text and "| mkl | 0.80 |" in text


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    square = _row(Case("squares", Row(8, 8, 8), "f32"), 10, {"mkl": 8})
    other = _row(Case("ragged", Row(8, 9, 7), "f32", 2), 10, {"mkl": 8})
    path = tmp_path / "gemm.png"
    _report(square, other).picture(path)
    assert path.stat().st_size > 1000


# ----------------------------------------------------------------------------------- command line


def _parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    gemm.add_arguments(parser)
    return parser.parse_args(arguments)


def test_the_command_line_is_read() -> None:
    found = _parse("8x9x10:nt", "--threads", "1,2", "--peers", "mkl,blis", "--sets", "small")
    assert found.shapes == [parse_row("8x9x10:nt")]
    assert found.threads == (1, 2) and found.peers == ("mkl", "blis") and found.sets == ("small",)
    assert _parse("--peers", "none").peers == ()
    assert _parse("--peers", "all").peers == tuple(FAMILIES)


@pytest.mark.parametrize(
    "words", [("8x8x8b2",), ("8x8",), ("--sets", "x"), ("--peers", "x"), ("--threads", "0")]
)
def test_nonsense_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit):
        _parse(*words)
