"""How a number is taken: a native loop, turns, and ratios within a round.

1. *Native loop.* A contender is an entry point with its arguments. A generated function calls it
   `reps` times, so a call costs about a nanosecond instead of Python's microsecond; `ctypes`
   releases the GIL around it.
2. *Turns.* All contenders of a row take turns, A B C, B C A, C A B, …, each sample a millisecond or
   two long, preceded by an untimed eighth of it that warms caches and wakes wide vector units.
   Right before each sample of a contender comes one of the yardstick, the peak: p A p B p C.
3. *Ratios within a round.* Shared machines change speed by the minute. A contender's share of the
   peak is the ratio of its sample to the peak's sample right before it; a ratio of two contenders
   is one of two samples of one round, milliseconds apart. The median of these ratios is reported
   with its quartiles. Nothing is ever a quotient of two medians.
4. *Two clocks.* A sample is taken by the wall clock and by the thread's own. Where they disagree,
   something else ran in between, so the sample and its yardstick are discarded and retaken, a
   bounded number of times; how often is reported.

The loop for two arguments (all arguments are pointers or i64, passed alike on every 64-bit ABI):

    define void @loop(i64 %reps, ptr %f, i64 %a0, i64 %a1) {
    entry: br label %body
    body:  %i = phi i64 [0, %entry], [%next, %body]
           call void %f(i64 %a0, i64 %a1)
           …
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import numpy as np

from nkdsl.bench.jit import JitFunction, compile_ir

MAX_ARITY = 16
"""Arguments a native contender may have."""
SAMPLE_NS = 2_000_000
"""Length of one sample: long against the clock's resolution, short against the machine's moods."""
WARM_FRACTION = 8
"""The untimed part before each sample is one over this many of its calls."""
YARDSTICK_FRACTION = 2
"""A sample of the yardstick is one over this as long: it comes before every other."""
MAX_REPS = 1 << 30
"""Calibration stops here; only an empty function gets there."""
PREEMPTED = 1.02
"""Wall time over the thread's time from which on a sample is worthless."""
MAX_RETAKES = 8
"""A sample is retaken no more often; where all were disturbed, the one that lost least is kept."""
THREAD_CLOCK_IS_FINE = time.get_clock_info("thread_time").resolution <= 1e-6
"""Whether the thread's clock can judge a sample: on some systems it counts scheduler ticks."""


@dataclass(frozen=True)
class Lap:
    """How long some calls took, by two clocks."""

    wall_ns: int
    """What is reported."""
    thread_ns: int
    """Time that this thread had a CPU."""

    @property
    def lost(self) -> float:
        """Wall time over the thread's time: 1 where nothing else ran in between."""
        return self.wall_ns / self.thread_ns if self.thread_ns and THREAD_CLOCK_IS_FINE else 1.0

    @property
    def preempted(self) -> bool:
        """Whether the thread had to wait for a CPU."""
        return self.lost > PREEMPTED


def lap(work: Callable[[], object]) -> Lap:
    """Run `work` once between readings of both clocks, the wall clock's innermost."""
    thread = time.thread_time_ns()
    wall = time.perf_counter_ns()
    work()
    wall = time.perf_counter_ns() - wall
    return Lap(wall, time.thread_time_ns() - thread)


class Contender(Protocol):
    """Something that can be timed: ours, a peer, or the peak."""

    @property
    def name(self) -> str:
        """Unique among the contenders of a row."""

    @property
    def detail(self) -> str:
        """Which code ran: a plan, an orientation, a core type."""

    @property
    def flops(self) -> int:
        """Floating-point operations a call."""

    def run(self, reps: int) -> Lap:
        """Call it `reps` times; how long that took."""


@dataclass(frozen=True)
class NativeContender:
    """A native function in this process with its arguments."""

    name: str
    address: int
    arguments: tuple[int, ...]
    """Pointers and 64-bit integers, in order."""
    flops: int
    detail: str = ""
    keep: tuple[object, ...] = field(default=(), repr=False, compare=False)
    """Owners of the code and of the memory behind the pointers."""

    def run(self, reps: int) -> Lap:
        """Call it exactly `reps` times; how long that took."""
        call, address, arguments = native_loop(len(self.arguments)), self.address, self.arguments
        return lap(lambda: call(reps, address, *arguments))


@dataclass(frozen=True)
class PythonContender:
    """A Python callable, for peers that offer no native entry point; its cost includes Python's."""

    name: str
    call: Callable[[], object]
    flops: int
    detail: str = ""

    def run(self, reps: int) -> Lap:
        """Call it exactly `reps` times; how long that took."""
        call = self.call

        def calls() -> None:
            for _ in range(reps):
                call()

        return lap(calls)


@cache
def native_loop(arity: int) -> Callable[..., None]:
    """A function `(reps, address, argument…)` that calls the native `address` `reps` times.

    Raises:
        ValueError: more arguments than `MAX_ARITY`.
    """
    if not 0 <= arity <= MAX_ARITY:
        raise ValueError(f"a contender takes at most {MAX_ARITY} arguments, got {arity}")
    function = compile_loop(arity)
    prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * (arity + 2))
    call = prototype(function.address)

    # The closure owns the code: `call` alone holds a bare address.
    def loop(reps: int, address: int, *arguments: int, _owner: JitFunction = function) -> None:
        call(reps, address, *arguments)

    return loop


def compile_loop(arity: int) -> JitFunction:
    """Generate the loop for functions of `arity` integer or pointer arguments."""
    parameters = "".join(f", i64 %a{i}" for i in range(arity))
    arguments = ", ".join(f"i64 %a{i}" for i in range(arity))
    ir = f"""
define void @loop(i64 %reps, ptr %f{parameters}) {{
entry:
  %some = icmp sgt i64 %reps, 0
  br i1 %some, label %body, label %exit
body:
  %i = phi i64 [ 0, %entry ], [ %next, %body ]
  call void %f({arguments})
  %next = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %next, %reps
  br i1 %more, label %body, label %exit
exit:
  ret void
}}
"""
    return compile_ir(ir, "loop")


@dataclass(frozen=True)
class Timed:
    """A contender and how many of its calls make a sample."""

    contender: Contender
    reps: int

    def lap(self) -> Lap:
        """Warm up, then take one sample."""
        self.contender.run(max(1, self.reps // WARM_FRACTION))
        return self.contender.run(self.reps)


@dataclass(frozen=True)
class Sample:
    """One sample of each of some contenders, one right after the other."""

    ns: tuple[float, ...]
    """Nanoseconds a call."""
    retaken: int
    """How often they were discarded before."""
    preempted: bool
    """Whether these were disturbed too, and kept for want of better ones."""


def sample(*timed: Timed) -> Sample:
    """One sample of each, all of them retaken where the thread was preempted in any."""
    attempts: list[tuple[Lap, ...]] = []
    while len(attempts) <= MAX_RETAKES:
        attempts.append(tuple(each.lap() for each in timed))
        if not any(lap.preempted for lap in attempts[-1]):
            break
    kept = min(reversed(attempts), key=lambda laps: max(lap.lost for lap in laps))
    ns = tuple(lap.wall_ns / each.reps for lap, each in zip(kept, timed, strict=True))
    return Sample(ns, len(attempts) - 1, any(lap.preempted for lap in kept))


def calibrate(contender: Contender, sample_ns: int = SAMPLE_NS) -> int:
    """How many calls make a sample of about `sample_ns`."""
    contender.run(1)
    reps = 1
    while reps < MAX_REPS:
        # The thread's time: a disturbed calibration must not make every sample too short.
        lap = contender.run(reps)
        taken = min(lap.thread_ns, lap.wall_ns)
        if taken * 8 >= sample_ns:
            return max(1, round(reps * sample_ns / taken))
        reps *= 4
    return MAX_REPS


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    p25: float
    median: float
    p75: float

    def __str__(self) -> str:
        """Median and quartiles, as a table shows them."""
        return f"{self.median:.3f} ({self.p25:.3f}–{self.p75:.3f})"


def spread(values: Iterable[float]) -> Spread:
    """Median and quartiles of at least one value."""
    p25, median, p75 = np.percentile(np.fromiter(values, dtype=np.float64), (25, 50, 75))
    return Spread(float(p25), float(median), float(p75))


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean of at least one positive value."""
    logs = np.log(np.fromiter(values, dtype=np.float64))
    return float(np.exp(logs.mean()))


@dataclass(frozen=True)
class Series:
    """One contender's samples, one a round."""

    flops: int
    reps: int
    ns: tuple[float, ...]
    """Nanoseconds a call, round by round."""
    beside: tuple[float, ...] = ()
    """Nanoseconds a call of the yardstick right before each; empty without one."""
    retaken: int = 0
    """Samples that were discarded because the thread was preempted."""
    preempted: int = 0
    """Samples that were kept although it was."""

    @property
    def rates(self) -> tuple[float, ...]:
        """GF/s, round by round."""
        return tuple(self.flops / ns for ns in self.ns)


@dataclass(frozen=True)
class Timings:
    """The samples of all contenders of a row."""

    series: Mapping[str, Series]
    yardstick: Series | None = None
    """The yardstick's samples, several a round."""

    def ns(self, name: str) -> Spread:
        """Nanoseconds a call."""
        return spread(self.series[name].ns)

    def gflops(self, name: str) -> Spread:
        """Billions of floating-point operations a second."""
        return spread(self.series[name].rates)

    def ratio(self, name: str, other: str) -> Spread:
        """How many times as fast `name` computes as `other` (rates), paired round by round."""
        ours, theirs = self.series[name].rates, self.series[other].rates
        return spread(a / b for a, b in zip(ours, theirs, strict=True))

    def yardstick_gflops(self) -> Spread:
        """Billions of floating-point operations a second of the yardstick.

        Raises:
            ValueError: there was none.
        """
        return spread(self._yardstick.rates)

    def share(self, name: str) -> Spread:
        """Its rate over the yardstick's, each sample over the one right before it.

        Raises:
            ValueError: there was no yardstick.
        """
        found, flops = self.series[name], self._yardstick.flops
        pairs = zip(found.ns, found.beside, strict=True)
        return spread(found.flops / ns / (flops / beside) for ns, beside in pairs)

    @property
    def _yardstick(self) -> Series:
        if self.yardstick is None:
            raise ValueError("nothing was timed as a yardstick")
        return self.yardstick


def take_turns(
    contenders: Sequence[Contender],
    rounds: int,
    sample_ns: int = SAMPLE_NS,
    *,
    yardstick: Contender | None = None,
) -> Timings:
    """Time all contenders in turn, the order rotated by one each round.

    Args:
        contenders: at least one, of distinct names.
        rounds: samples of each.
        sample_ns: the length one sample aims at.
        yardstick: timed right before each sample of the others, for `Timings.share`.

    Raises:
        ValueError: two contenders of one name, or no round.
    """
    names = [contender.name for contender in contenders]
    if len(set(names)) != len(names):
        raise ValueError(f"two contenders share a name: {names}")
    if rounds < 1:
        raise ValueError("at least one round is needed")
    before = [_timed(yardstick, sample_ns // YARDSTICK_FRACTION)] if yardstick else []
    timed = [_timed(contender, sample_ns) for contender in contenders]
    samples: list[list[Sample]] = [[] for _ in timed]
    for round_number in range(rounds):
        for place in range(len(timed)):
            who = (place + round_number) % len(timed)
            samples[who].append(sample(*before, timed[who]))
    series = {
        each.contender.name: _series(each, taken)
        for each, taken in zip(timed, samples, strict=True)
    }
    if not before:
        return Timings(series)
    measured = Series(
        before[0].contender.flops,
        before[0].reps,
        tuple(ns for found in series.values() for ns in found.beside),
    )
    return Timings(series, measured)


def _timed(contender: Contender, sample_ns: int) -> Timed:
    return Timed(contender, calibrate(contender, sample_ns))


def _series(timed: Timed, samples: Sequence[Sample]) -> Series:
    """A contender's samples; where there are two times in each, the first is the yardstick's."""
    return Series(
        timed.contender.flops,
        timed.reps,
        tuple(taken.ns[-1] for taken in samples),
        beside=tuple(ns for taken in samples for ns in taken.ns[:-1]),
        retaken=sum(taken.retaken for taken in samples),
        preempted=sum(taken.preempted for taken in samples),
    )


def fastest(contenders: Sequence[Contender], rounds: int = 5) -> Contender:
    """The quickest of several ways to do the same thing, by a short contest in turns."""
    if len(contenders) == 1:
        return contenders[0]
    timed = [_timed(contender, SAMPLE_NS // 4) for contender in contenders]
    ns: list[list[float]] = [[] for _ in timed]
    for _ in range(rounds):
        for who, each in enumerate(timed):
            ns[who] += sample(each).ns
    medians = [float(np.median(times)) for times in ns]
    return contenders[medians.index(min(medians))]
