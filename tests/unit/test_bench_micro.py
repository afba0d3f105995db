"""A whole run on tiny rows, with a kernel of our own made by hand in place of the compiler's."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nkdsl.bench import machine, micro, ours, peers
from nkdsl.bench.jit import LLVM_NAMES, JitFunction, compile_ir
from nkdsl.bench.micro import CHOSEN, GROUPS, NARROW, PLAIN, Group, MicroOptions, run_micro
from nkdsl.bench.page import MissingExtra, plain_grid
from nkdsl.bench.peak import Peak, target_peak
from nkdsl.bench.peers import Availability, Unable
from nkdsl.bench.problem import PRODUCTS, Problem, Row, Types, make_problem, parse_row
from nkdsl.bench.report import SCHEMA, Report
from nkdsl.bench.timing import NativeContender
from nkdsl.bench.worker import Worker, WorkerDied
from nkdsl.cli.main import main
from nkdsl.errors import InvalidInput
from nkdsl.frontend import load, make_context
from nkdsl.targets import can_run, get_target
from nkdsl.types import ElementType

SHORT_NS = 20_000
ELEMENT = PRODUCTS["f32"].lhs


def _naive(row: Row, types: Types, wrong: bool = False) -> JitFunction:
    """C += op(A)·op(B) as four nested loops, batch and k innermost; B as it is packed."""
    lhs, rhs, llvm = (LLVM_NAMES[each.name] for each in (types.lhs, types.rhs, types.out))
    integer, group = types.out.is_integer, types.group
    multiply, add = ("mul", "add") if integer else ("fmul", "fadd")
    op = add.replace("add", "sub") if wrong else add
    widen_a, widen_b = (_widen(each, types.out) for each in (types.lhs, types.rhs))
    a = (1, row.m) if row.transpose_a else (row.k, 1)
    b = (1, row.k) if row.transpose_b else (row.n, 1)
    total = row.m * row.n * row.k * row.batch
    return compile_ir(
        f"""
define void @naive(ptr %a, ptr %b, ptr %c) {{
entry:
  br label %body
body:
  %x = phi i64 [ 0, %entry ], [ %next, %body ]
  %k = urem i64 %x, {row.k}
  %x1 = udiv i64 %x, {row.k}
  %g = urem i64 %x1, {row.batch}
  %x2 = udiv i64 %x1, {row.batch}
  %j = urem i64 %x2, {row.n}
  %i = udiv i64 %x2, {row.n}
  %a0 = mul i64 %g, {row.m * row.k}
  %a1 = mul i64 %i, {a[0]}
  %a2 = mul i64 %k, {a[1]}
  %a3 = add i64 %a0, %a1
  %a4 = add i64 %a3, %a2
  %b0 = mul i64 %g, {-(-row.k // group) * group * row.n}
  %kg = udiv i64 %k, {group}
  %kr = urem i64 %k, {group}
  %b1 = mul i64 %kg, {b[0] * group}
  %b2 = mul i64 %j, {b[1] * group}
  %b3 = add i64 %b0, %b1
  %b5 = add i64 %b3, %b2
  %b4 = add i64 %b5, %kr
  %c1 = mul i64 %i, {row.n}
  %c2 = add i64 %c1, %j
  %pa = getelementptr {lhs}, ptr %a, i64 %a4
  %pb = getelementptr {rhs}, ptr %b, i64 %b4
  %pc = getelementptr {llvm}, ptr %c, i64 %c2
  %na = load {lhs}, ptr %pa
  %nb = load {rhs}, ptr %pb
  %va = {widen_a} {lhs} %na to {llvm}
  %vb = {widen_b} {rhs} %nb to {llvm}
  %vc = load {llvm}, ptr %pc
  %p = {multiply} {llvm} %va, %vb
  %s = {op} {llvm} %vc, %p
  store {llvm} %s, ptr %pc
  %next = add i64 %x, 1
  %more = icmp ult i64 %next, {total}
  br i1 %more, label %body, label %exit
exit:
  ret void
}}
""",
        "naive",
    )


def _widen(narrow: ElementType, wide: ElementType) -> str:
    """The LLVM instruction that does."""
    if narrow == wide:
        return "bitcast"
    if not wide.is_integer:
        return "fpext"
    return "zext" if narrow.is_unsigned else "sext"


@dataclass(frozen=True)
class _Kernel:
    function: JitFunction
    plan: str = "naive"
    workspace_bytes: int = 0

    @property
    def address(self) -> int:
        return self.function.address

    def explain(self) -> str:
        return "four loops"


class _FakePeer:
    """A peer by the naive kernel, at will absent, wrong or unable."""

    def __init__(self, name: str, state: str = "right") -> None:
        self.name, self.state, self.closed = name, state, False

    def availability(self) -> Availability:
        if self.state == "absent":
            return Availability(False, "get it from the moon")
        return Availability(True, "1.0")

    def contender(self, problem: Problem) -> NativeContender:
        if self.state == "unable":
            raise Unable("not on Sundays")
        function = _naive(problem.row, problem.types, wrong=self.state == "wrong")
        flops = problem.row.flops
        made = NativeContender(
            self.name, function.address, problem.pointers, flops, "loops", (function, problem)
        )
        return peers.checked(problem, made)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def fake_compiler(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the compiler; returns the list of texts that it was given."""
    texts: list[str] = []
    rows = {
        ours.mlir_text(row, name): (row, types)
        for row in (*TINY, *(row.plain for row in TINY))
        for name, types in PRODUCTS.items()
    }

    def compile_text(source: str, *, target: str) -> _Kernel:
        texts.append(source)
        return _Kernel(_naive(*rows[source]), f"naive for {target}")

    monkeypatch.setattr(ours, "_compiler", lambda: compile_text)
    return texts


TINY = tuple(parse_row(text) for text in ("3x4x5", "3x4x5b2", "3x4x5:tn", "3x4x5:nt"))


def _options(**changes: Any) -> MicroOptions:
    settings: dict[str, Any] = {
        "cases": tuple((CHOSEN, row) for row in TINY),
        "peers": (),
        "rounds": 3,
        "sample_ns": SHORT_NS,
        "command": "nkdsl bench micro",
    }
    return MicroOptions(**{**settings, **changes})


def _with_peers(monkeypatch: pytest.MonkeyPatch, *fakes: _FakePeer) -> tuple[str, ...]:
    made = {fake.name: (lambda fake=fake: fake) for fake in fakes}
    monkeypatch.setattr(micro, "PEERS", made)
    return tuple(made)


def _run(monkeypatch: pytest.MonkeyPatch, *fakes: _FakePeer, **changes: Any) -> Report:
    return run_micro(_options(peers=_with_peers(monkeypatch, *fakes), **changes))


def test_every_row_is_timed_beside_the_peak_and_names_the_kernel_that_ran(
    monkeypatch: pytest.MonkeyPatch, fake_compiler: list[str]
) -> None:
    report = _run(monkeypatch, _FakePeer("rival"), dtypes=("f32", "f64"))
    assert len(report.rows) == 2 * len(TINY)
    for row in report.rows:
        result, rival = row.result("ours"), row.result("rival")
        assert result is not None and rival is not None
        assert result.error is None and result.detail == "naive for host"
        assert result.share is not None and result.share.median > 0
        assert rival.ratio is not None and rival.ratio.median > 0
    assert not report.failed


@pytest.mark.parametrize("dtype", ["bf16", "u8s8", "s8s8"])
def test_narrow_types_are_timed_beside_their_own_peak(
    monkeypatch: pytest.MonkeyPatch, fake_compiler: list[str], dtype: str
) -> None:
    monkeypatch.setattr(micro, "target_peak", lambda lhs, target, rhs: _any_peak())
    cases = tuple((CHOSEN, row) for row in TINY if row == row.plain)
    report = _run(monkeypatch, _FakePeer("rival"), dtypes=(dtype,), cases=cases)
    assert [row.row.name for row in report.rows] == ["3x4x5", "3x4x5b2"]
    assert {row.dtype for row in report.rows} == {dtype}
    assert not report.failed and "wrong" not in report.table()


def _any_peak() -> Peak:
    return target_peak(ELEMENT, get_target("host"))


def test_narrow_types_take_only_some_rows_of_the_suite(
    monkeypatch: pytest.MonkeyPatch, fake_compiler: list[str]
) -> None:
    monkeypatch.setitem(GROUPS, "tiny", Group((TINY[0], TINY[1])))
    monkeypatch.setattr(micro, "NARROW", (TINY[1],))
    monkeypatch.setattr(micro, "target_peak", lambda lhs, target, rhs: _any_peak())
    cases = tuple(("tiny", row) for row in GROUPS["tiny"].rows)
    report = _run(monkeypatch, dtypes=("f32", "bf16"), cases=cases)
    taken = [(row.row.name, row.dtype) for row in report.rows]
    assert taken == [("3x4x5", "f32"), ("3x4x5b2", "f32"), ("3x4x5b2", "bf16")]
    assert all(any(row in group.rows for group in GROUPS.values()) for row in NARROW)


def test_transposed_rows_are_compared_with_the_plain_product(
    monkeypatch: pytest.MonkeyPatch, fake_compiler: list[str]
) -> None:
    report = _run(monkeypatch)
    compared = [row.row.name for row in report.rows if row.result(PLAIN) is not None]
    assert compared == ["3x4x5:tn", "3x4x5:nt"]


def test_a_group_with_a_target_is_compiled_for_it_and_meets_no_peer(
    monkeypatch: pytest.MonkeyPatch, fake_compiler: list[str]
) -> None:
    if obstacle := can_run(get_target("x86-64-v3")):
        pytest.skip(obstacle)
    group = Group((TINY[0],), target="x86-64-v3", peers=False)
    monkeypatch.setitem(GROUPS, "avx2", group)
    cases = ((CHOSEN, TINY[1]), ("avx2", TINY[0]))
    report = _run(monkeypatch, _FakePeer("rival"), cases=cases)
    first, second = report.rows
    assert (first.target, second.target) == ("host", "x86-64-v3")
    assert second.instruction == "fma.f32x8"
    assert [(r.name, r.detail) for r in second.results] == [("ours", "naive for x86-64-v3")]


def test_a_group_whose_target_cannot_run_here_is_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, fake_compiler: list[str]
) -> None:
    monkeypatch.setattr("nkdsl.bench.peak.can_run", lambda target: _without_avx2(target.name))
    report = _run(monkeypatch, cases=((CHOSEN, TINY[0]), ("avx2", TINY[0])))
    assert [row.group for row in report.rows] == [CHOSEN]
    assert "no AVX2 here" in report.skipped["avx2"]
    assert "group avx2: skipped; nothing can be timed here" in report.table()


def _without_avx2(target: str) -> str | None:
    return "no AVX2 here" if target == "x86-64-v3" else None


def test_the_suite_has_a_row_for_avx2() -> None:
    assert GROUPS["avx2"] == Group((Row(72, 96, 256),), target="x86-64-v3", peers=False)


def test_retaken_samples_and_pages_are_reported(
    monkeypatch: pytest.MonkeyPatch, fake_compiler: list[str]
) -> None:
    report = _run(monkeypatch, cases=((CHOSEN, TINY[0]),))
    assert "3 samples; " in report.table()
    assert "huge pages in" in report.table()
    contender = report.to_dict()["rows"][0]["contenders"][0]
    assert {"retaken", "preempted"} <= set(contender)


def test_the_last_cpu_is_pinned_unless_none_is_wanted() -> None:
    parser = argparse.ArgumentParser()
    micro.add_arguments(parser)
    assert parser.parse_args([]).cpu == machine.last_cpu()
    assert parser.parse_args(["--cpu", "none"]).cpu is None
    assert parser.parse_args(["--cpu", "3"]).cpu == 3


def test_a_cpu_that_is_not_ours_is_refused() -> None:
    if machine.last_cpu() is None:
        pytest.skip("this system cannot pin")
    with pytest.raises(InvalidInput, match="CPU 999999 is not among those allowed here"):
        run_micro(_options(cpu=999999))


@pytest.mark.parametrize("words", [["--cpu", "999999"], ["--target", "abacus"]])
def test_an_impossible_run_ends_with_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["bench", "micro", "--shapes", "3x4x5", "--peers", "none", *words])
    captured = capsys.readouterr()
    assert status == 1 and captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1


def test_an_absent_peer_is_listed_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, fake_compiler: list[str]
) -> None:
    report = _run(monkeypatch, _FakePeer("lunar", "absent"))
    assert report.names == ("ours", PLAIN)
    assert "peer lunar: absent; get it from the moon" in report.table()
    assert report.to_dict()["peers"] == [
        {"name": "lunar", "present": False, "detail": "get it from the moon"}
    ]


@pytest.mark.parametrize(
    ("state", "reason"), [("wrong", "elements are off"), ("unable", "not on Sundays")]
)
def test_a_peer_that_is_wrong_or_unable_is_reported_and_not_timed(
    monkeypatch: pytest.MonkeyPatch, fake_compiler: list[str], state: str, reason: str
) -> None:
    peer = _FakePeer("rival", state)
    report = _run(monkeypatch, peer)
    for row in report.rows:
        result = row.result("rival")
        assert result is not None and reason in (result.error or "")
        assert result.ns is None
    assert reason in report.table()
    assert peer.closed and not report.failed


def test_a_wrong_kernel_of_ours_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = _Kernel(_naive(TINY[0], PRODUCTS["f32"], wrong=True))
    monkeypatch.setattr(ours, "_compiler", lambda: lambda source, target: wrong)
    report = _run(monkeypatch, cases=((CHOSEN, TINY[0]),))
    assert report.failed
    assert "wrong" in report.table()


def test_without_a_compiler_the_peers_are_still_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nkdsl", SimpleNamespace())
    report = _run(monkeypatch, _FakePeer("rival"))
    assert report.failed
    first = report.rows[0]
    mine, rival = first.result("ours"), first.result("rival")
    assert mine is not None and "nkdsl.compile is not there" in (mine.error or "")
    assert rival is not None and rival.share is not None and rival.ratio is None


def test_json_has_every_key_of_its_schema(
    monkeypatch: pytest.MonkeyPatch, fake_compiler: list[str]
) -> None:
    data = json.loads(_run(monkeypatch, _FakePeer("rival")).to_json())
    assert data["schema"] == SCHEMA and data["command"] == "nkdsl bench micro"
    row = data["rows"][0]
    assert set(row) == {
        *("group", "shape", "kind", "dtype", "flops", "target", "huge_pages", "peak"),
        "contenders",
    }
    assert set(row["contenders"][1]["ratio"]) == {"p25", "median", "p75"}
    assert {"group", "dtype", "name", "rows", "share", "ratio", "ratio_rows"} == set(
        data["summary"][0]
    )


def test_a_picture_is_drawn_or_its_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, fake_compiler: list[str], tmp_path: Path
) -> None:
    report = _run(monkeypatch, cases=((CHOSEN, TINY[0]),))
    path = tmp_path / "out.png"
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"nkdsl\[bench\]"):
        report.picture(path)
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    report.picture(path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_tables_need_no_rich() -> None:
    assert plain_grid(["a", "bc"], [["123", "4"]]) == "a    bc\n---  --\n123  4"


def test_the_command_line_reads_groups_shapes_types_and_peers() -> None:
    parser = argparse.ArgumentParser()
    micro.add_arguments(parser)
    args = parser.parse_args(
        ["--dtype", "f32,s8", "--shapes", "transposed,3x4x5", "--peers", "libxsmm"]
    )
    assert args.dtype == ("f32", "s8s8") and args.peers == ("libxsmm",)
    assert [group for group, _ in args.shapes] == ["transposed", "transposed", CHOSEN]
    assert len(parser.parse_args([]).shapes) == sum(len(group.rows) for group in GROUPS.values())


@pytest.mark.parametrize(
    "words",
    [["--dtype", "f8"], ["--shapes", "oblong"], ["--peers", "x"], ["--cpu", "some"]],
)
def test_the_command_line_names_what_it_knows_when_it_refuses(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    micro.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(words)
    assert words[1] in capsys.readouterr().err


@pytest.mark.parametrize("row", TINY, ids=lambda row: row.name)
def test_the_text_given_to_the_compiler_is_valid_mlir(row: Row) -> None:
    from xdsl.context import Context
    from xdsl.dialects import get_all_dialects
    from xdsl.parser import Parser

    context = Context()
    for name, factory in get_all_dialects().items():
        context.register_dialect(name, factory)
    Parser(context, ours.mlir_text(row, "f32")).parse_module().verify()


@pytest.mark.parametrize("shape", ["3x4x5", "3x4x5b2", "33x47x65"])
@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("bf16", ("floordiv 2, n, k", "x2xbf16>", "xf32>)")),
        ("u8s8", ("floordiv 4, n, k", "x4xi8>) unsigned lhs outs", "xi32>)")),
        ("s8s8", ("floordiv 4, n, k", "x4xi8>) outs", "xi32>)")),
    ],
)
def test_the_text_of_narrow_types_says_how_b_is_packed(
    shape: str, dtype: str, words: tuple[str, ...]
) -> None:
    text = ours.mlir_text(parse_row(shape), dtype)
    load(text, make_context()).verify()
    assert all(word in text for word in words)


def test_libxsmm_says_how_to_get_it_when_there_is_no_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NKDSL_LIBXSMM", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    found = peers.PEERS["libxsmm"]().availability()
    assert not found.present and "apt-get install libxsmm-dev" in found.detail


@pytest.mark.parametrize("name", ["libxsmm", "numpy"])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_in_process_peers_solve_plain_ragged_and_batched_rows(name: str, dtype: str) -> None:
    peer = peers.PEERS[name]()
    found = peer.availability()
    if not found.present:
        pytest.skip(found.detail)
    for text in ("16x16x16", "5x7x9", "7x1x9", "1x7x9", "4x8x4b3"):
        problem = make_problem(parse_row(text), PRODUCTS[dtype])
        assert peer.contender(problem).flops == problem.row.flops  # checked by the peer
    peer.close()


@pytest.mark.isa("avx512bf16", "avx512vnni")
@pytest.mark.parametrize("dtype", ["bf16", "u8s8"])
@pytest.mark.parametrize("shape", ["16x16x16", "16x32x64b3", "33x47x65", "17x31x63b2"])
def test_libxsmm_takes_packed_operands_and_whole_groups_of_k(shape: str, dtype: str) -> None:
    peer = peers.PEERS["libxsmm"]()
    found = peer.availability()
    if not found.present:
        pytest.skip(found.detail)
    problem = make_problem(parse_row(shape), PRODUCTS[dtype])
    contender = peer.contender(problem)  # checked by the peer
    odd = problem.row.k % problem.types.group > 0
    assert ("A copied beforehand into rows of" in contender.detail) == odd


def test_blas_has_no_narrow_types() -> None:
    for name in ("numpy", "openblas"):
        with pytest.raises(Unable, match="BLAS multiplies f32 and f64 only"):
            peers.PEERS[name]().contender(make_problem(TINY[0], PRODUCTS["bf16"]))


def test_numpy_is_timed_through_matmul_where_its_blas_is_hidden() -> None:
    peer = peers.PEERS["numpy"]()  # not asked for its availability: no BLAS was looked for
    for row in TINY:
        problem = make_problem(row, PRODUCTS["f64"])
        assert "np.matmul" in peer.contender(problem).detail


def test_a_worker_serves_a_peer_and_reports_its_death() -> None:
    worker = Worker("numpy", {})
    contender = worker.prepare(parse_row("5x7x9"), PRODUCTS["f32"], "remote")
    assert contender.name == "remote" and contender.flops == 2 * 5 * 7 * 9
    assert contender.run(3).wall_ns > 0
    with pytest.raises(Unable, match="cannot dance now"):
        worker.ask({"op": "dance"})
    worker.close()
    broken = Worker("no such peer", {})
    with pytest.raises(WorkerDied, match="exit status"):
        broken.core()
    broken.close()
