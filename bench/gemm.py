"""`nkdsl bench gemm`: whole products C := op(A)·op(B), one thread or several, against every BLAS.

    nkdsl bench gemm                                          # every set in f32, on one thread
    nkdsl bench gemm --sets squares --peers openblas,mkl      # a quick look
    nkdsl bench gemm 100x200x300 1024x1024x64:nt --threads 1,2 --quick

Ours and every peer live in processes of their own, with the settings that libraries read when they
are loaded, and sleep between their turns; peers have one process for each setting worth a try, and
the fastest for the very product takes part. All take turns, the peak right before each (see
`timing`). Answers are checked once, ours element by element. The sets are in `gemm_sets`.

Beside `ours` some rows hold another kernel of ours: `ours, dynamic` (`--dynamic`), whose sizes are
known when it is called; `ours, untransposed` in the set `transposed`; `ours, 1 thread` in the set
`threads`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from nkdsl.bench import machine, ours
from nkdsl.bench.gemm_bandwidth import BUFFER, bandwidth
from nkdsl.bench.gemm_ours import DYNAMIC, ENGINE
from nkdsl.bench.gemm_report import GemmReport, GemmRow, timed_row
from nkdsl.bench.gemm_sets import PLAIN, SETS, Case, cases
from nkdsl.bench.gemm_turns import Entrant, Pace, Together, take_turns, together
from nkdsl.bench.gemm_worker import GemmWorker, Place
from nkdsl.bench.options import add_arguments as add_shared_arguments
from nkdsl.bench.options import deliver, known
from nkdsl.bench.peak import Peak, target_peak
from nkdsl.bench.peers.base import Availability, Unable
from nkdsl.bench.peers.families import FAMILIES, Family, Team
from nkdsl.bench.problem import Row, parse_row, product_types
from nkdsl.bench.timing import Contender
from nkdsl.bench.worker import WorkerDied
from nkdsl.errors import InvalidInput
from nkdsl.targets import get_target

PACE = Pace()
QUICK = Pace(rounds=5, budget_ns=2_000_000_000)
OURS = ours.NAME
OURS_DYNAMIC = f"{OURS}, dynamic"
OURS_UNTRANSPOSED = f"{OURS}, untransposed"
OURS_ALONE = f"{OURS}, 1 thread"


def _no_progress(_: str) -> None:
    return


@dataclass(frozen=True)
class GemmOptions:
    """What to run and how."""

    cases: tuple[Case, ...]
    target: str = ours.HOST
    peers: tuple[str, ...] = tuple(FAMILIES)
    families: Mapping[str, Family] = field(default_factory=lambda: FAMILIES)
    """Where the peers are found."""
    engine: str = ENGINE
    """Which of our engines computes the cases."""
    with_ours: bool = True
    dynamic: bool = False
    """Time the kernel of unknown sizes beside that of known ones."""
    pace: Pace = PACE
    cpu: int | None = None
    """Pin one thread to this CPU, several to it and those before it."""
    command: str = field(default_factory=machine.command_line)
    progress: Callable[[str], None] = _no_progress
    """Told each case's name before it runs."""


def run_gemm(options: GemmOptions) -> GemmReport:
    """Run the suite.

    Raises:
        NkdslError: the target is unknown, cannot run here, or lacks an element type; or there are
            not as many CPUs as threads.
    """
    target = get_target(options.target)
    counts = tuple(dict.fromkeys(case.threads for case in options.cases))
    cpus = {count: choose_cpus(count, options.cpu) for count in counts}
    kinds = dict.fromkeys(case.dtype for case in options.cases)
    peaks = {
        kind: target_peak(types.lhs, target, types.rhs)
        for kind, types in ((kind, product_types(kind)) for kind in kinds)
    }
    peers: list[tuple[str, int, Availability]] = []
    rows: list[GemmRow] = []
    with machine.pinned(options.cpu):
        run = machine.this_run(
            options.command,
            target=options.target,
            table=target.name,
            rounds=options.pace.rounds,
            sample_ns=options.pace.sample_ns,
            pinned=options.cpu,
        )
        for count in counts:
            chosen = [case for case in options.cases if case.threads == count]
            with ExitStack() as stack:
                field_ = Field(options, count, cpus[count], peaks, stack)
                peers += ((name, count, found) for name, found in field_.available.items())
                for case in chosen:
                    options.progress(case.name)
                    rows.append(field_.run(case))
    return GemmReport(run, tuple(peers), tuple(rows))


def choose_cpus(threads: int, last: int | None) -> tuple[int, ...]:
    """The CPUs for some number of threads: those before `last`, and itself.

    Returns:
        Nothing where one thread is not to be pinned.

    Raises:
        InvalidInput: there are not so many.
    """
    if not hasattr(os, "sched_getaffinity") or (last is None and threads == 1):
        return ()
    allowed = sorted(os.sched_getaffinity(0))
    before = [cpu for cpu in allowed if last is None or cpu <= last][-threads:]
    if len(before) < threads:
        before = allowed[-threads:]
    if len(before) < threads:
        raise InvalidInput(f"{threads} threads need as many CPUs; there are {len(allowed)}")
    return tuple(before)


class Field:
    """Everyone who takes part on some number of threads."""

    def __init__(
        self,
        options: GemmOptions,
        threads: int,
        cpus: tuple[int, ...],
        peaks: Mapping[str, Peak],
        stack: ExitStack,
    ) -> None:
        """Start all workers, and wait until they have said what they are."""
        self._options, self._stack = options, stack
        self._place = Place(threads, cpus, options.target)
        self._alone = Place(1, cpus[-1:], options.target)
        self._peaks, self._yardsticks = peaks, dict[str, Contender]()
        self._memory: Contender | None = None
        self._ours: dict[Place, GemmWorker] = {}
        stack.callback(self._close)
        families = [options.families[name] for name in options.peers]
        idle = [family for family in families if not family.any_of(peaks)]
        teams = [Team(family, self._place) for family in families if family not in idle]
        for team in teams:
            stack.callback(team.close)
        self.available = {team.name: team.availability() for team in teams}
        for family in idle:
            self.available[family.name] = Availability(False, f"has only {', '.join(family.types)}")
        self._teams = [team for team in teams if self.available[team.name].present]

    def run(self, case: Case) -> GemmRow:
        """Prepare and check everyone for a case, then let them take turns with the peak."""
        entrants: list[Entrant] = []
        refused: dict[str, str] = {}
        for name, enter in self._makers(case):
            try:
                entrants.append(enter())
            except (Unable, WorkerDied) as error:
                refused[name] = str(error)
        details = {entrant.contender.name: entrant.contender.detail for entrant in entrants}
        peak = self._peaks[case.dtype]
        yardstick = self._yardstick(case.dtype)
        if case.set == "skinny":
            memory = self._bandwidth(peak.bits)
            entrants.append(Entrant(memory, memory.run(1).wall_ns))
        try:
            # Where nothing can be timed, the row still tells the peak.
            timings = take_turns(entrants or [Entrant(yardstick, 1)], yardstick, self._options.pace)
        except WorkerDied as error:
            refused |= dict.fromkeys(details, f"no turns: {error}")
            details = {}
            timings = take_turns([Entrant(yardstick, 1)], yardstick, self._options.pace)
        self._clear()
        return timed_row(case, peak.instruction, timings, details, refused, _traffic(case))

    def _makers(self, case: Case) -> Iterator[tuple[str, Callable[[], Entrant]]]:
        """How to prepare everyone, by name, ours first."""
        options = self._options
        if options.with_ours:
            yield OURS, lambda: self._enter(case, OURS, self._place)
            if options.dynamic and case.contract == PLAIN:
                yield OURS_DYNAMIC, lambda: self._enter(case, OURS_DYNAMIC, self._place, DYNAMIC)
            if case.set == "transposed" and isinstance(case.row, Row):
                plain = case.row.plain
                yield (
                    OURS_UNTRANSPOSED,
                    lambda: self._enter(case, OURS_UNTRANSPOSED, self._place, row=plain),
                )
            if case.set == "threads":
                yield OURS_ALONE, lambda: self._enter(case, OURS_ALONE, self._alone)
        for team in self._teams:
            if team.takes(case):
                yield team.name, lambda team=team: team.enter(case)  # type: ignore[misc]

    def _enter(
        self, case: Case, name: str, place: Place, contract: str = "", row: Row | None = None
    ) -> Entrant:
        worker = self._ours.get(place)
        if worker is None:
            worker = self._ours[place] = GemmWorker(self._options.engine, place, {})
        try:
            return worker.enter(case, name, row=row, contract=contract, thorough=True)
        except WorkerDied:
            self._ours.pop(place).close()
            raise

    def _clear(self) -> None:
        """Have everyone forget their operands; who died is started anew when needed."""
        for place, worker in list(self._ours.items()):
            try:
                worker.clear()
            except (Unable, WorkerDied):
                self._ours.pop(place).close()
        for team in self._teams:
            team.clear()

    def _yardstick(self, dtype: str) -> Contender:
        if dtype not in self._yardsticks:
            peak = self._peaks[dtype]
            self._yardsticks[dtype] = self._keep(together(lambda _: peak.contender(), self._cpus))
        return self._yardsticks[dtype]

    def _bandwidth(self, bits: int) -> Contender:
        if self._memory is None:
            self._memory = self._keep(
                together(lambda count: bandwidth(bits, BUFFER // count), self._cpus)
            )
        return self._memory

    @property
    def _cpus(self) -> Sequence[int]:
        """One for each thread."""
        return self._place.cpus or range(self._place.threads)

    def _keep(self, contender: Contender) -> Contender:
        if isinstance(contender, Together):
            self._stack.callback(contender.close)
        return contender

    def _close(self) -> None:
        for worker in self._ours.values():
            worker.close()


def _traffic(case: Case) -> int:
    """Bytes that a product must move; of networks nobody asks."""
    row, types = case.row, product_types(case.dtype).stored
    if not isinstance(row, Row):
        return 0
    factors = row.m * row.k * types.lhs.size + row.k * row.n * types.rhs.size
    return factors + row.m * row.n * types.out.size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line; the options are mounted under `nkdsl bench gemm`."""
    parser.add_argument(
        "shapes",
        metavar="SHAPE",
        type=_row,
        nargs="*",
        help="512x512x512, 768x768x768:nt; no sets are taken then, unless named by --sets",
    )
    parser.add_argument(
        "--dynamic", action="store_true", help="time a kernel of unknown sizes beside ours"
    )
    add_field_arguments(parser, SETS, FAMILIES)


def add_field_arguments(
    parser: argparse.ArgumentParser, sets: Mapping[str, str], families: Mapping[str, Family]
) -> None:
    """The options of suites of whole answers: which sets, against whom, how thoroughly."""
    lines = "; ".join(f"{name}: {help_}" for name, help_ in sets.items())
    parser.add_argument(
        "--sets",
        type=lambda text: tuple(sets) if text == "all" else known(text, sets, "set"),
        default=None,
        help=f"all, or some of these, comma-separated: {lines}",
    )
    parser.add_argument(
        "--peers",
        type=lambda text: _peers(text, families),
        default=tuple(families),
        help=f"all, none, or {','.join(families)}",
    )
    parser.add_argument(
        "--threads", type=_threads, default=(1,), help="numbers of threads: 1,2; default: 1"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--no-ours", action="store_true", help="time only the peak and the peers")
    add_shared_arguments(parser)
    parser.set_defaults(rounds=None)


def main(args: argparse.Namespace) -> int:
    """Run what the parsed arguments say, and print the table.

    Returns:
        1 when ours failed or was wrong in any row; else 0.

    Raises:
        NkdslError: the run is impossible.
    """
    sets = () if args.shapes and args.sets is None else args.sets
    options = GemmOptions(
        cases=cases(sets, tuple(args.shapes), args.dtype, args.threads),
        target=args.target,
        peers=args.peers,
        with_ours=not args.no_ours,
        dynamic=args.dynamic,
        pace=chosen_pace(args),
        cpu=args.cpu,
        progress=lambda case: print(case, file=sys.stderr, flush=True),
    )
    return deliver(run_gemm(options), args)


def chosen_pace(args: argparse.Namespace) -> Pace:
    """How much time the command line gives a row."""
    pace = QUICK if args.quick else PACE
    return Pace(args.rounds, pace.sample_ns, pace.budget_ns) if args.rounds else pace


def _row(text: str) -> Row:
    try:
        row = parse_row(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if row.batch > 1:
        raise argparse.ArgumentTypeError(f"{text}: this suite has no batches; see bench micro")
    return row


def _peers(text: str, families: Mapping[str, Family]) -> tuple[str, ...]:
    match text:
        case "all":
            return tuple(families)
        case "none":
            return ()
        case _:
            return known(text, families, "peer")


def _threads(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError:
        counts = (0,)
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: write numbers of threads, as 1,2")
    return counts
