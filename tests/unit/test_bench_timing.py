"""The stopwatch: it calls what it says it calls, as often, and compares within rounds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from nkdsl.bench import timing
from nkdsl.bench.jit import JitFunction, compile_ir
from nkdsl.bench.timing import (
    MAX_ARITY,
    MAX_RETAKES,
    Lap,
    NativeContender,
    PythonContender,
    Series,
    Timings,
    calibrate,
    fastest,
    geometric_mean,
    lap,
    native_loop,
    spread,
    take_turns,
)

SHORT_NS = 20_000


def _recorder(arity: int) -> JitFunction:
    """A kernel that counts its calls in p0[0] and keeps its other arguments in p0[1:]."""
    parameters = ", ".join(["ptr %p0", *(f"i64 %a{i}" for i in range(1, arity))])
    stores = "\n".join(
        f"  %s{i} = getelementptr i64, ptr %p0, i64 {i}\n  store i64 %a{i}, ptr %s{i}"
        for i in range(1, arity)
    )
    return compile_ir(
        f"""
define void @record({parameters}) {{
  %old = load i64, ptr %p0
  %new = add i64 %old, 1
  store i64 %new, ptr %p0
{stores}
  ret void
}}
""",
        "record",
    )


def _counter(name: str = "counter") -> tuple[NativeContender, np.ndarray]:
    cell = np.zeros(1, dtype=np.int64)
    kernel = _recorder(1)
    return NativeContender(name, kernel.address, (cell.ctypes.data,), 2, keep=(kernel, cell)), cell


@dataclass
class _Scripted:
    """A contender that claims fixed times and logs its turns."""

    name: str
    ns_per_call: float
    log: list[str] = field(default_factory=list)
    flops: int = 1000
    detail: str = ""

    def run(self, reps: int) -> Lap:
        self.log.append(self.name)
        taken = round(reps * self.ns_per_call)
        return Lap(taken, taken)


@dataclass
class _Disturbed:
    """A contender that waits for the CPU in every run but each `calm_every`-th."""

    name: str
    calm_every: int
    runs: int = 0
    flops: int = 1000
    detail: str = ""

    def run(self, reps: int) -> Lap:
        self.runs += 1
        thread = 1000 * reps
        calm = self.calm_every and self.runs % self.calm_every == 0
        return Lap(thread if calm else thread * (2 + self.runs), thread)


@pytest.mark.parametrize("reps", [0, 1, 2, 1000])
def test_the_loop_calls_its_function_exactly_reps_times(reps: int) -> None:
    counter, cell = _counter()
    counter.run(reps)
    assert cell[0] == reps


@pytest.mark.parametrize("arity", [2, 3, 6, 7, MAX_ARITY])
def test_the_loop_passes_every_argument_in_registers_and_on_the_stack(arity: int) -> None:
    seen = np.zeros(arity, dtype=np.int64)
    kernel = _recorder(arity)
    values = tuple(-(10**12) - i for i in range(1, arity))
    NativeContender("r", kernel.address, (seen.ctypes.data, *values), 1).run(3)
    assert seen.tolist() == [3, *values]


def test_the_loop_refuses_more_arguments_than_it_can_pass() -> None:
    with pytest.raises(ValueError, match="at most 16"):
        native_loop(MAX_ARITY + 1)


def test_a_python_contender_is_called_exactly_reps_times() -> None:
    calls: list[None] = []
    PythonContender("p", lambda: calls.append(None), 1).run(7)
    assert len(calls) == 7


def test_calibration_makes_samples_of_about_the_length_wanted() -> None:
    assert calibrate(_Scripted("s", 100.0), sample_ns=1_000_000) == pytest.approx(10_000, rel=0.01)
    assert calibrate(_Scripted("slow", 5e6), sample_ns=1_000_000) == 1


def test_turns_rotate_and_every_contender_has_one_sample_a_round() -> None:
    log: list[str] = []
    contenders = [_Scripted(name, 1e6, log) for name in "abc"]
    timings = take_turns(contenders, rounds=3, sample_ns=1_000_000)
    turns = "".join(log[-18::2])  # each turn is a warm-up and a sample
    assert turns == "abcbcacab"
    assert {len(series.ns) for series in timings.series.values()} == {3}


def test_native_contenders_are_timed_with_a_positive_rate() -> None:
    first, second = _counter("a")[0], _counter("b")[0]
    timings = take_turns([first, second], rounds=3, sample_ns=SHORT_NS)
    assert timings.gflops("a").median > 0
    assert timings.ratio("a", "b").median > 0


def test_the_yardstick_is_sampled_right_before_every_sample() -> None:
    log: list[str] = []
    contenders = [_Scripted(name, 1e6, log) for name in "ab"]
    yardstick = _Scripted("p", 1e6, log)
    timings = take_turns(contenders, rounds=2, sample_ns=1_000_000, yardstick=yardstick)
    assert "".join(log[-16::2]) == "papbpbpa"
    assert timings.yardstick is not None and len(timings.yardstick.ns) == 4


def test_a_share_is_taken_against_the_yardstick_right_before() -> None:
    series = Series(flops=100, reps=1, ns=(10.0, 20.0, 40.0), beside=(5.0, 10.0, 20.0))
    yardstick = Series(flops=100, reps=1, ns=(5.0, 10.0, 20.0))
    share = Timings({"ours": series}, yardstick).share("ours")
    assert (share.p25, share.median, share.p75) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="as a yardstick"):
        Timings({"ours": series}).share("ours")


def test_a_lap_waited_when_the_wall_clock_runs_ahead_of_the_thread() -> None:
    assert not Lap(1000, 990).preempted and not Lap(990, 1000).preempted
    assert Lap(1000, 900).preempted


def test_the_thread_is_only_judged_by_a_clock_that_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "THREAD_CLOCK_IS_FINE", False)
    assert not Lap(1000, 0).preempted


def test_both_clocks_run_while_a_lap_works() -> None:
    taken = lap(lambda: sum(range(10_000)))
    assert taken.wall_ns > 0 and taken.thread_ns > 0


def test_a_sample_that_was_preempted_is_discarded_and_counted() -> None:
    timings = take_turns([_Disturbed("d", calm_every=4)], rounds=3, sample_ns=1_000_000)
    series = timings.series["d"]
    assert series.ns == (1000.0,) * 3
    assert series.retaken > 0 and series.preempted == 0


def test_where_all_are_preempted_the_least_disturbed_is_kept_and_counted() -> None:
    timings = take_turns([_Disturbed("d", calm_every=0)], rounds=2, sample_ns=1_000_000)
    series = timings.series["d"]
    assert (series.retaken, series.preempted) == (2 * MAX_RETAKES, 2)
    assert series.ns[0] < series.ns[1]  # of ever worse samples the first, in each round


def test_two_contenders_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="share a name"):
        take_turns([_Scripted("a", 1.0), _Scripted("a", 1.0)], rounds=1)


def test_ratios_are_paired_by_round_so_that_drift_cancels() -> None:
    ours = Series(flops=100, reps=1, ns=(10.0, 20.0, 40.0, 80.0, 160.0))
    theirs = Series(flops=100, reps=1, ns=(20.0, 40.0, 80.0, 160.0, 320.0))
    ratio = Timings({"ours": ours, "theirs": theirs}).ratio("ours", "theirs")
    assert (ratio.p25, ratio.median, ratio.p75) == (2.0, 2.0, 2.0)


def test_ratios_compare_rates_when_contenders_do_different_work() -> None:
    peak = Series(flops=1000, reps=1, ns=(10.0,))
    ours = Series(flops=100, reps=1, ns=(2.0,))
    assert Timings({"ours": ours, "peak": peak}).ratio("ours", "peak").median == 0.5


def test_spread_gives_quartiles_and_the_geometric_mean_multiplies() -> None:
    found = spread([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (found.p25, found.median, found.p75) == (2.0, 3.0, 4.0)
    assert geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0)
    assert json.dumps(found.median) == "3.0"


def test_the_fastest_of_several_is_the_one_with_the_smallest_time() -> None:
    slow, quick = _Scripted("slow", 3000.0), _Scripted("quick", 1000.0)
    assert fastest([slow, quick]) is quick
    assert fastest([slow]) is slow
