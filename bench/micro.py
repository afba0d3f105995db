"""`nkdsl bench micro`: single microkernels, in cache, one thread, against the peak and every peer.

For each row and element type: operands are made, ours and every peer are compiled and checked once
against the reference, and then peak, ours and the peers take turns. What cannot be timed is in the
report with the reason.

    nkdsl bench micro --dtype f32,f64 --shapes square,33x47x65 --peers libxsmm --json out.json

Groups: `square` are the shapes that every paper shows, `ragged` those that nothing divides,
`transposed` stored transposes, whose ratio to beat is our own plain product of the same size
(`ours, plain` in the table), `avx2` is compiled for AVX2 and held against the peak of AVX2, even
where the machine has more; no peer takes part, since a peer would use whatever the machine has. Of
these, bf16 and 8-bit integers take the rows in `NARROW`, with B packed as `problem` says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from nkdsl.bench import machine, ours
from nkdsl.bench.memory import on_huge_pages
from nkdsl.bench.options import ROUNDS, deliver, known
from nkdsl.bench.options import add_arguments as add_shared_arguments
from nkdsl.bench.peak import Peak, target_peak
from nkdsl.bench.peers import PEERS, Peer, Unable
from nkdsl.bench.problem import (
    Problem,
    Row,
    Types,
    make_problem,
    parse_row,
    product_types,
)
from nkdsl.bench.report import Report, Result, RowReport, timed_results
from nkdsl.bench.timing import SAMPLE_NS, Contender, take_turns
from nkdsl.errors import Unsupported
from nkdsl.targets import get_target


@dataclass(frozen=True)
class Group:
    """Rows of one kind."""

    rows: tuple[Row, ...]
    target: str | None = None
    """What they are compiled for and whose peak is 100 %; None for the target of the run."""
    peers: bool = True
    """Whether peers take part."""


GROUPS: dict[str, Group] = {
    "square": Group(
        (
            Row(16, 16, 16),
            Row(32, 32, 32),
            Row(64, 64, 64),
            Row(128, 128, 128),
            Row(64, 96, 256),
            Row(256, 96, 256),
            Row(32, 32, 32, batch=32),
            Row(64, 64, 64, batch=16),
        )
    ),
    "ragged": Group(
        (
            Row(33, 47, 65),
            Row(17, 31, 63),
            Row(5, 100, 129),
            Row(127, 255, 511),
            Row(1, 1000, 1000),
            Row(1000, 1, 100),
            Row(8, 8, 8),
            Row(7, 7, 7),
            Row(5, 5, 5),
            Row(3, 200, 3),
        )
    ),
    "transposed": Group(
        (
            Row(128, 128, 128, transpose_a=True),
            Row(128, 128, 128, transpose_b=True),
        )
    ),
    "avx2": Group((Row(72, 96, 256),), target="x86-64-v3", peers=False),
}
"""The suite."""

NARROW = (
    Row(32, 32, 32),
    Row(64, 64, 64),
    Row(128, 128, 128),
    Row(64, 96, 256),
    Row(32, 32, 32, batch=32),
    Row(64, 64, 64, batch=16),
    Row(33, 47, 65),
    Row(17, 31, 63),
    Row(127, 255, 511),
)
"""The rows of the suite in types narrower than their sum."""

CHOSEN = "chosen"
"""The group of rows that are given one by one."""
PLAIN = f"{ours.NAME}, plain"

Case = tuple[str, Row]
"""A group's name and a row of it."""


def _no_progress(_: str) -> None:
    return


@dataclass(frozen=True)
class MicroOptions:
    """What to run and how."""

    dtypes: tuple[str, ...] = ("f32",)
    cases: tuple[Case, ...] = field(
        default_factory=lambda: tuple((name, row) for name in GROUPS for row in GROUPS[name].rows)
    )
    target: str = ours.HOST
    peers: tuple[str, ...] = tuple(PEERS)
    with_ours: bool = True
    rounds: int = ROUNDS
    sample_ns: int = SAMPLE_NS
    cpu: int | None = None
    """Pin this process and the peers' to one CPU."""
    command: str = field(default_factory=machine.command_line)
    progress: Callable[[str], None] = _no_progress
    """Told each row's name before it runs."""


def run_micro(options: MicroOptions) -> Report:
    """Run the suite.

    A group whose own target cannot run here is skipped and reported.

    Raises:
        NkdslError: the target is unknown, cannot run here, or lacks an element type; or the CPU to
            pin to is not ours.
    """
    with ExitStack() as stack:
        stack.enter_context(machine.pinned(options.cpu))
        run = machine.this_run(
            options.command,
            target=options.target,
            table=get_target(options.target).name,
            rounds=options.rounds,
            sample_ns=options.sample_ns,
            pinned=options.cpu,
        )
        peaks, skipped = _peaks(options)
        peers = [PEERS[name]() for name in options.peers]
        for peer in peers:
            stack.callback(peer.close)
        available = {peer.name: peer.availability() for peer in peers}
        present = [peer for peer in peers if available[peer.name].present]
        rows = tuple(_run_rows(options, peaks, present))
        return Report(run, available, rows, skipped)


def _peaks(options: MicroOptions) -> tuple[dict[tuple[str, str], Peak], dict[str, str]]:
    """The peaks by group and element type, and the groups that can have none, with the reason."""
    peaks: dict[tuple[str, str], Peak] = {}
    skipped: dict[str, str] = {}
    taken = ((group, dtype) for dtype, group, _ in _rows(options))
    for group, dtype in dict.fromkeys(taken):
        target, types = get_target(_group(group).target or options.target), product_types(dtype)
        try:
            peaks[group, dtype] = target_peak(types.lhs, target, types.rhs)
        except Unsupported as error:
            if _group(group).target is None:
                raise
            skipped[group] = str(error)
    return peaks, skipped


def _rows(options: MicroOptions) -> Iterator[tuple[str, str, Row]]:
    """Types, group and row of everything that is to be timed."""
    for dtype in options.dtypes:
        for group, row in options.cases:
            if group == CHOSEN or row in NARROW or not product_types(dtype).narrow:
                yield dtype, group, row


def _group(name: str) -> Group:
    return GROUPS.get(name) or Group(())


def _run_rows(
    options: MicroOptions, peaks: Mapping[tuple[str, str], Peak], peers: Sequence[Peer]
) -> Iterator[RowReport]:
    for dtype, group, row in _rows(options):
        peak = peaks.get((group, dtype))
        taking_part = peers if _group(group).peers else ()
        if peak is None or not (taking_part or options.with_ours):
            continue
        options.progress(f"{group} {row.name} {dtype}")
        yield run_row(group, row, product_types(dtype), peak, taking_part, options)


def run_row(
    group: str,
    row: Row,
    types: Types,
    peak: Peak,
    peers: Sequence[Peer],
    options: MicroOptions,
) -> RowReport:
    """Prepare and check every contender of one row, then let them take turns with the peak."""
    target = _group(group).target or options.target
    problem = make_problem(row, types)
    makers = _makers(problem, peers, target, options.with_ours)
    contenders: list[Contender] = []
    refused: dict[str, Result] = {}
    for name, make in makers.items():
        try:
            contenders.append(make())
        except Unable as error:
            refused[name] = Result(name, "", error=str(error))
    yardstick = peak.contender()
    # Where nothing can be timed, the row still tells the peak.
    timings = take_turns(
        contenders or [yardstick], options.rounds, options.sample_ns, yardstick=yardstick
    )
    details = {contender.name: contender.detail for contender in contenders}
    timed = {result.name: result for result in timed_results(timings, details)}
    return RowReport(
        group,
        row,
        types.name,
        target,
        on_huge_pages(problem.arena),
        peak.instruction,
        timings.yardstick_gflops(),
        tuple({**timed, **refused}[name] for name in makers),
    )


def _makers(
    problem: Problem, peers: Sequence[Peer], target: str, with_ours: bool
) -> dict[str, Callable[[], Contender]]:
    """How to make each contender of a row, by name, ours first."""
    makers: dict[str, Callable[[], Contender]] = {}
    row = problem.row
    if with_ours:
        makers[ours.NAME] = lambda: ours.compile_ours(problem, target)
    if with_ours and row != row.plain:
        plain = make_problem(row.plain, problem.types)
        makers[PLAIN] = lambda: ours.compile_ours(plain, target, PLAIN)
    for peer in peers:
        makers[peer.name] = lambda peer=peer: peer.contender(problem)  # type: ignore[misc]
    return makers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line; the options are mounted under `nkdsl bench micro`."""
    add_shared_arguments(parser)
    parser.add_argument(
        "--shapes",
        type=_cases,
        default=MicroOptions().cases,
        help=f"groups ({', '.join(GROUPS)}) and shapes (64x96x256, 32x32x32b32, 128x128x128:tn)",
    )
    parser.add_argument(
        "--peers", type=_peers, default=tuple(PEERS), help=f"all, none, or {','.join(PEERS)}"
    )
    parser.add_argument("--no-ours", action="store_true", help="time only the peak and the peers")


def main(args: argparse.Namespace) -> int:
    """Run what the parsed arguments say, and print the table.

    Returns:
        1 when ours failed or was wrong in any row; else 0.

    Raises:
        NkdslError: the run is impossible.
    """
    options = MicroOptions(
        dtypes=args.dtype,
        cases=args.shapes,
        target=args.target,
        peers=args.peers,
        with_ours=not args.no_ours,
        rounds=args.rounds,
        cpu=args.cpu,
        progress=lambda row: print(row, file=sys.stderr, flush=True),
    )
    return deliver(run_micro(options), args)


def _peers(text: str) -> tuple[str, ...]:
    match text:
        case "all":
            return tuple(PEERS)
        case "none":
            return ()
        case _:
            return known(text, PEERS, "peer")


def _cases(text: str) -> tuple[Case, ...]:
    return tuple(case for word in text.split(",") for case in _case(word))


def _case(word: str) -> Iterator[Case]:
    if word in GROUPS:
        yield from ((word, row) for row in GROUPS[word].rows)
        return
    try:
        yield CHOSEN, parse_row(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{error}; or name a group: {', '.join(GROUPS)}"
        ) from error
