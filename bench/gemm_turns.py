"""Turns of contenders whose calls take from nanoseconds to seconds, on one thread or several.

`timing` says how a number is taken; this is the same for calls that may be as long as a whole row
of small ones. A call longer than a sample is a sample by itself. The number of rounds shrinks until
a row fits its budget, but not below three. The longer a call, the longer the peak's sample right
before it, and the fewer retakes.

On several threads the thread's own clock can judge nothing, since a thread that waits for the
others is no disturbance; there no sample is retaken. The peak of several threads is that of loops
on as many CPUs at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier

from nkdsl.bench.timing import (
    MAX_RETAKES,
    SAMPLE_NS,
    WARM_FRACTION,
    YARDSTICK_FRACTION,
    Contender,
    Lap,
    NativeContender,
    Sample,
    Series,
    Timings,
    calibrate,
)

MILLISECOND = 1_000_000
WARMED_NS = 50 * MILLISECOND
"""Calls shorter than this are preceded by one that is not timed."""
LONG_NS = 500 * MILLISECOND
"""Ways to do the same thing whose calls are longer are compared by their first ones."""
LONGEST_YARDSTICK_NS = 20 * MILLISECOND
RETAKES = ((20 * MILLISECOND, MAX_RETAKES), (200 * MILLISECOND, 2))
"""Calls up to a length are retaken so often; longer ones are not."""
LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Pace:
    """How much time a row is worth."""

    rounds: int = 11
    sample_ns: int = SAMPLE_NS
    budget_ns: int = 8_000 * MILLISECOND
    """For the turns of a row."""

    def rounds_within(self, round_ns: float) -> int:
        """How many rounds of a length a row has."""
        return max(min(self.rounds, LEAST_ROUNDS), min(self.rounds, int(self.budget_ns / round_ns)))


@dataclass(frozen=True)
class Entrant:
    """A contender that was called before, and how long that took."""

    contender: Contender
    call_ns: int


@dataclass(frozen=True)
class _Seat:
    """An entrant with what makes one of its samples."""

    contender: Contender
    reps: int
    call_ns: float
    yardstick: Contender
    yardstick_reps: int

    @property
    def turn_ns(self) -> float:
        """About how long a turn takes."""
        sample = self.reps * self.call_ns
        return sample * (1 + (self.warm > 0) / WARM_FRACTION) + sample / 20

    @property
    def warm(self) -> int:
        """Calls before a sample that are not timed."""
        return max(1, self.reps // WARM_FRACTION) if self.call_ns < WARMED_NS else 0

    def sample(self) -> Sample:
        """A sample of the yardstick and one of the contender, retaken where disturbed."""
        retakes = next((count for ns, count in RETAKES if self.call_ns <= ns), 0)
        attempts: list[tuple[Lap, Lap]] = []
        while len(attempts) <= retakes:
            self.yardstick.run(max(1, self.yardstick_reps // WARM_FRACTION))
            before = self.yardstick.run(self.yardstick_reps)
            if self.warm:
                self.contender.run(self.warm)
            attempts.append((before, self.contender.run(self.reps)))
            if not any(lap.preempted for lap in attempts[-1]):
                break
        kept = min(reversed(attempts), key=lambda laps: max(lap.lost for lap in laps))
        ns = (kept[0].wall_ns / self.yardstick_reps, kept[1].wall_ns / self.reps)
        return Sample(ns, len(attempts) - 1, any(lap.preempted for lap in kept))


def take_turns(
    entrants: Sequence[Entrant], yardstick: Contender, pace: Pace, rounds: int | None = None
) -> Timings:
    """Time all entrants in turn, the order rotated by one each round.

    Args:
        entrants: at least one, of distinct names.
        yardstick: timed right before each of their samples.
        pace: how much time there is.
        rounds: so many, whatever the pace says.

    Raises:
        ValueError: two entrants of one name.
    """
    names = [entrant.contender.name for entrant in entrants]
    if len(set(names)) != len(names):
        raise ValueError(f"two contenders share a name: {names}")
    peak_ns = pace.sample_ns // YARDSTICK_FRACTION
    peak_reps = calibrate(yardstick, peak_ns)
    seats = [_seat(entrant, yardstick, peak_ns / peak_reps, pace) for entrant in entrants]
    count = rounds or pace.rounds_within(sum(seat.turn_ns + peak_ns for seat in seats))
    samples: list[list[Sample]] = [[] for _ in seats]
    for number in range(count):
        for place in range(len(seats)):
            who = (place + number) % len(seats)
            samples[who].append(seats[who].sample())
    series = {
        seat.contender.name: Series(
            seat.contender.flops,
            seat.reps,
            tuple(taken.ns[1] for taken in found),
            beside=tuple(taken.ns[0] for taken in found),
            retaken=sum(taken.retaken for taken in found),
            preempted=sum(taken.preempted for taken in found),
        )
        for seat, found in zip(seats, samples, strict=True)
    }
    beside = tuple(ns for found in series.values() for ns in found.beside)
    return Timings(series, Series(yardstick.flops, peak_reps, beside))


def _seat(entrant: Entrant, yardstick: Contender, peak_ns: float, pace: Pace) -> _Seat:
    reps, call_ns = _reps(entrant, pace.sample_ns)
    least = pace.sample_ns // YARDSTICK_FRACTION
    wanted = min(max(least, reps * call_ns / 10), LONGEST_YARDSTICK_NS)
    return _Seat(entrant.contender, reps, call_ns, yardstick, max(1, round(wanted / peak_ns)))


def _reps(entrant: Entrant, sample_ns: int) -> tuple[int, float]:
    """How many calls make a sample, and about how long one takes."""
    if entrant.call_ns >= 2 * sample_ns:
        return 1, entrant.call_ns
    reps = calibrate(entrant.contender, sample_ns)
    return reps, sample_ns / reps if reps > 1 else entrant.call_ns


def quickest(entrants: Sequence[Entrant], rounds: int = 3, slack: float = 1.3) -> Entrant:
    """The fastest of several ways to do the same thing.

    Where calls are long, those that were slower than the best by more than `slack` when they were
    first called take no part; where they are very long, the first call decides.
    """
    first = min(entrants, key=lambda entrant: entrant.call_ns)
    if first.call_ns >= LONG_NS:
        return first
    if first.call_ns >= WARMED_NS:
        entrants = [each for each in entrants if each.call_ns <= slack * first.call_ns]
        rounds = 1
    if len(entrants) == 1:
        return entrants[0]
    reps = [_reps(entrant, SAMPLE_NS // 4)[0] for entrant in entrants]
    least = [float("inf")] * len(entrants)
    for _ in range(rounds):
        for who, entrant in enumerate(entrants):
            lap = entrant.contender.run(reps[who])
            least[who] = min(least[who], lap.wall_ns / reps[who])
    return entrants[least.index(min(least))]


class Together:
    """Native contenders at once, each on a CPU of its own: what several threads can do at most."""

    def __init__(self, contenders: Sequence[NativeContender], cpus: Sequence[int]) -> None:
        """One contender a CPU."""
        self.name = contenders[0].name
        self.detail = f"{contenders[0].detail}, on {len(contenders)} CPUs"
        self.flops = sum(contender.flops for contender in contenders)
        self._pools = [ThreadPoolExecutor(1, initializer=_pin, initargs=(cpu,)) for cpu in cpus]
        self._barrier = Barrier(len(contenders))
        self._contenders = tuple(contenders)

    def run(self, reps: int) -> Lap:
        """Run all of them; the time of the slowest."""
        waiting = [
            pool.submit(self._one, contender, reps)
            for pool, contender in zip(self._pools, self._contenders, strict=True)
        ]
        slowest = max(future.result().wall_ns for future in waiting)
        return Lap(slowest, slowest)

    def close(self) -> None:
        """End the threads."""
        for pool in self._pools:
            pool.shutdown()

    def _one(self, contender: NativeContender, reps: int) -> Lap:
        self._barrier.wait()
        return contender.run(reps)


def _pin(cpu: int) -> None:
    """Keep the calling thread on a CPU."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cpu})


def together(
    make: Callable[[int], NativeContender], cpus: Sequence[int]
) -> NativeContender | Together:
    """A contender for one CPU, or one that keeps several busy.

    Args:
        make: makes the contender of one CPU, told how many share the work.
        cpus: which.
    """
    if len(cpus) == 1:
        return make(1)
    return Together([make(len(cpus)) for _ in cpus], cpus)
