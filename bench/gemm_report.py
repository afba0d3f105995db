"""What a run of `gemm` leaves behind: a table to read, JSON to keep, a picture to show.

JSON, schema `nkdsl-bench-gemm/1`; every `spread` is {"p25", "median", "p75"} over the rounds:

    {
      "schema": "nkdsl-bench-gemm/1", "command": "…", …, as in `nkdsl-bench-micro/1`,
      "peers": [{"name": "mkl", "threads": 1, "present": true, "detail": "version, settings"}],
      "rows": [{
        "set": "squares", "shape": "512x512x512", "dtype": "f32", "threads": 1, "contract": "plain",
        "flops": …, "peak": {"instruction": "fma.f32x16", "gflops": spread of all threads together},
        "memory": GB/s as a spread, or null where it was not measured,
        "best_peer": "mkl" or null, "ratio": spread of our rate over the best peer's, or null,
        "contenders": [{
          "name": "ours", "detail": "the plan, or the peer's setting", "error": null or "reason",
          "ns": spread, "gflops": spread, "share": of the peak sampled right before,
          "ratio": spread of our rate over its rate, null for ours,
          "bandwidth": spread of the share of memory's bandwidth, null but for skinny products,
          "rounds": …, "retaken": …, "preempted": …
        }]
      }],
      "summary": [{"set", "dtype", "threads", "rows", "share": geometric mean, "least_share",
                   "ratio": geometric mean, "least_ratio", "least_shape", "won": rows above 1,
                   "own": {another kernel of ours: geometric mean of our rate over its rate}}]
    }

The best peer of a row is the one of the least median time in that very row. `bench mlp` writes the
same: there a `shape` is a network, and sets are those of `mlp`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nkdsl.bench.gemm_bandwidth import NAME as MEMORY
from nkdsl.bench.gemm_sets import PLAIN, Case
from nkdsl.bench.machine import Run
from nkdsl.bench.ours import NAME as OURS
from nkdsl.bench.page import empty_figure, grid, save
from nkdsl.bench.peers.base import Availability
from nkdsl.bench.report import Result
from nkdsl.bench.timing import Spread, Timings, geometric_mean, spread

SCHEMA = "nkdsl-bench-gemm/1"
WRONG = "wrong"
"""What the error of a contender starts with whose answer was looked at."""
NAMED_ROWS = 4
"""A note about more rows than this tells only how many they are."""


@dataclass(frozen=True)
class GemmResult(Result):
    """One contender in one row of whole products."""

    bandwidth: Spread | None = None
    """Its rate of reading over that of memory."""
    rounds: int = 0

    @property
    def is_ours(self) -> bool:
        """Whether this compiler made it: `ours`, or another kernel of ours beside it."""
        return self.name.split(",")[0] == OURS


@dataclass(frozen=True)
class GemmRow:
    """One case."""

    case: Case
    instruction: str
    peak: Spread
    """GF/s."""
    memory: Spread | None
    """GB/s."""
    results: tuple[GemmResult, ...]

    def result(self, name: str) -> GemmResult | None:
        """A contender's result, or None when it took no part."""
        return next((result for result in self.results if result.name == name), None)

    @property
    def best_peer(self) -> GemmResult | None:
        """The fastest peer, or None where none was timed."""
        timed = [(r.ns.median, r) for r in self.results if r.ns and not r.is_ours]
        return min(timed, key=lambda pair: pair[0], default=(0.0, None))[1]

    @property
    def ratio(self) -> Spread | None:
        """Our rate over the best peer's."""
        best = self.best_peer
        return best.ratio if best else None


@dataclass(frozen=True)
class SetSummary:
    """A set in one element type on some number of threads."""

    set: str
    dtype: str
    threads: int
    rows: int
    share: float | None
    least_share: float | None
    ratio: float | None
    least_ratio: float | None
    least_shape: str | None
    won: int
    own: Mapping[str, float]


@dataclass(frozen=True)
class GemmReport:
    """Everything about a run that a reader needs to believe or to repeat it."""

    run: Run
    peers: tuple[tuple[str, int, Availability], ...]
    """Name, threads, and what it is or how to get it."""
    rows: tuple[GemmRow, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Contenders in the order of their first appearance, ours first."""
        found = dict.fromkeys(result.name for row in self.rows for result in row.results)
        return tuple(sorted(found, key=lambda name: name.split(",")[0] != OURS))

    @property
    def failed(self) -> bool:
        """Whether ours failed in a row of plain operands, or was wrong in any."""
        faults = [
            (row.case.contract, result.error)
            for row in self.rows
            if (result := row.result(OURS)) is not None and result.error
        ]
        return any(contract == PLAIN or error.startswith(WRONG) for contract, error in faults)

    def summary(self) -> tuple[SetSummary, ...]:
        """Geometric means and minima by set."""
        keys = dict.fromkeys((r.case.set, r.case.dtype, r.case.threads) for r in self.rows)
        return tuple(self._summarize(*key) for key in keys)

    def _summarize(self, name: str, dtype: str, threads: int) -> SetSummary:
        key = (name, dtype, threads)
        rows = [r for r in self.rows if (r.case.set, r.case.dtype, r.case.threads) == key]
        shares = [found.share.median for r in rows if (found := r.result(OURS)) and found.share]
        ratios = [(r.ratio.median, r.case.row.name) for r in rows if r.ratio]
        least = min(ratios, default=None)
        own: dict[str, list[float]] = {}
        for result in (result for row in rows for result in row.results):
            if result.is_ours and result.ratio:
                own.setdefault(result.name, []).append(result.ratio.median)
        return SetSummary(
            *(name, dtype, threads, len(rows)),
            share=geometric_mean(shares) if shares else None,
            least_share=min(shares, default=None),
            ratio=geometric_mean(ratio for ratio, _ in ratios) if ratios else None,
            least_ratio=least[0] if least else None,
            least_shape=least[1] if least else None,
            won=sum(ratio > 1 for ratio, _ in ratios),
            own={name: geometric_mean(found) for name, found in own.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "schema": SCHEMA,
            **asdict(self.run),
            "peers": [
                {"name": name, "threads": threads, **asdict(found)}
                for name, threads, found in self.peers
            ],
            "rows": [_row_dict(row) for row in self.rows],
            "summary": [asdict(each) for each in self.summary()],
        }

    def to_json(self) -> str:
        """The report in the schema of this module's docstring."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"

    def table(self) -> str:
        """Everything as text: rows, sets, what ran, and what is missing."""
        parts = [str(self.run), grid(*self._row_grid()), grid(*self._summary_grid())]
        parts += ["\n".join(lines) for lines in (self._notes(), self._conditions()) if lines]
        return "\n\n".join(parts) + "\n"

    def picture(self, path: Path | str) -> None:
        """Draw shares of the peak: squares over their size, all others shape by shape.

        Raises:
            MissingExtra: matplotlib is absent.
        """
        _draw(self, path)

    def _row_grid(self) -> tuple[list[str], list[list[str]]]:
        others = [name for name in self.names if name != OURS]
        header = ["set", "shape", "type", "threads", "peak", "ours GF/s", "of peak", "best peer"]
        header += ["ours / best", *others]
        return header, [self._line(row, others) for row in self.rows]

    def _line(self, row: GemmRow, others: Sequence[str]) -> list[str]:
        case, ours, best = row.case, row.result(OURS), row.best_peer
        share = _shown(ours, "share")
        if ours and ours.bandwidth:
            share = f"{share}; {ours.bandwidth.median:.1%} of memory"
        return [
            *(case.set, case.row.name, case.dtype, str(case.threads), f"{row.peak.median:.1f}"),
            f"{ours.gflops.median:.1f}" if ours and ours.gflops else "–",
            share,
            best.name if best else "–",
            str(row.ratio) if row.ratio else "–",
            *(_other(row.result(name)) for name in others),
        ]

    def _summary_grid(self) -> tuple[list[str], list[list[str]]]:
        header = ["set", "type", "threads", "of peak, mean", "least", "ours / best, mean", "least"]
        header += ["at", "won", "rows", "ours / another of ours, mean"]
        lines = []
        for each in self.summary():
            own = ", ".join(f"{name}: {ratio:.3f}" for name, ratio in each.own.items())
            numbers = (each.share, each.least_share, each.ratio, each.least_ratio)
            lines.append(
                [
                    *(each.set, each.dtype, str(each.threads)),
                    *("–" if number is None else f"{number:.3f}" for number in numbers),
                    *(each.least_shape or "–", str(each.won), str(each.rows), own or "–"),
                ]
            )
        return header, lines

    def _notes(self) -> list[str]:
        """What ran or went wrong, one line for each thing to say about a contender."""
        said: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            for result in row.results:
                text = result.error or result.detail
                said.setdefault((result.name, text), []).append(row.case.name)
        return [f"{name}: {text} [{_named(rows)}]" for (name, text), rows in said.items() if text]

    def _conditions(self) -> list[str]:
        """How quiet the machine was, and who is here."""
        timed = [result for row in self.rows for result in row.results if result.ns]
        samples = sum(result.rounds for result in timed)
        retaken = sum(result.retaken for result in timed)
        kept = sum(result.preempted for result in timed)
        lines = [
            f"{samples} samples; {retaken} more were discarded because the thread was preempted, "
            f"{kept} kept although it was"
        ]
        for name, threads, found in self.peers:
            state = "" if found.present else "skipped; "
            lines.append(f"peer {name}, threads {threads}: {state}{found.detail}")
        return lines


def timed_row(
    case: Case,
    instruction: str,
    timings: Timings,
    details: Mapping[str, str],
    refused: Mapping[str, str],
    traffic: int,
) -> GemmRow:
    """A row of what was timed, and of what was not.

    Args:
        case: what was computed.
        instruction: what the peak loop consists of.
        timings: of all contenders.
        details: what each that was timed is.
        refused: why others were not.
        traffic: bytes that the product must move.
    """
    results = [*_results(timings, details, traffic)]
    results += [GemmResult(name, "", error=error) for name, error in refused.items()]
    memory = timings.gflops(MEMORY) if MEMORY in timings.series else None
    return GemmRow(case, instruction, timings.yardstick_gflops(), memory, tuple(results))


def _results(timings: Timings, details: Mapping[str, str], traffic: int) -> Iterator[GemmResult]:
    for name, detail in details.items():
        series = timings.series[name]
        compared = OURS in details and name != OURS
        bandwidth = None
        if MEMORY in timings.series:
            rates = timings.series[MEMORY].rates
            pairs = zip(series.ns, rates, strict=True)
            bandwidth = spread(traffic / ns / rate for ns, rate in pairs)
        yield GemmResult(
            name,
            detail,
            ns=timings.ns(name),
            gflops=timings.gflops(name),
            share=timings.share(name),
            ratio=timings.ratio(OURS, name) if compared else None,
            bandwidth=bandwidth,
            rounds=len(series.ns),
            retaken=series.retaken,
            preempted=series.preempted,
        )


def _row_dict(row: GemmRow) -> dict[str, Any]:
    case = row.case
    return {
        "set": case.set,
        "shape": case.row.name,
        "dtype": case.dtype,
        "threads": case.threads,
        "contract": case.contract,
        "flops": case.row.flops,
        "peak": {"instruction": row.instruction, "gflops": asdict(row.peak)},
        "memory": asdict(row.memory) if row.memory else None,
        "best_peer": row.best_peer.name if row.best_peer else None,
        "ratio": asdict(row.ratio) if row.ratio else None,
        "contenders": [asdict(result) for result in row.results],
    }


def _named(rows: Sequence[str]) -> str:
    return ", ".join(rows) if len(rows) <= NAMED_ROWS else f"{len(rows)} rows"


def _other(result: GemmResult | None) -> str:
    """Its rate; of another kernel of ours, our rate over its rate as well."""
    text = _shown(result, "gflops")
    if result and result.is_ours and result.ratio:
        return f"{text} (ours: ×{result.ratio.median:.2f})"
    return text


def _shown(result: GemmResult | None, what: str) -> str:
    if result is None:
        return "–"
    if result.error:
        return WRONG if result.error.startswith(WRONG) else "unable"
    found: Spread | None = getattr(result, what)
    if found is None:
        return "–"
    return f"{found.median:.1f}" if what == "gflops" else str(found)


def _draw(report: GemmReport, path: Path | str) -> None:
    kinds = dict.fromkeys((row.case.dtype, row.case.threads) for row in report.rows)
    panels: list[tuple[str, list[GemmRow], bool]] = []
    for dtype, threads in kinds:
        rows = [r for r in report.rows if (r.case.dtype, r.case.threads) == (dtype, threads)]
        title = f"{dtype}, {threads} thread{'s' * (threads > 1)}"
        squares = [row for row in rows if row.case.set == "squares"]
        others = [row for row in rows if row.case.set != "squares"]
        panels += [(f"{title}: squares", squares, True)] if squares else []
        panels += [(f"{title}: others", others, False)] if others else []
    most = max((len(rows) for _, rows, _ in panels), default=1)
    figure = empty_figure(max(9, 3 + 0.3 * most), 4.2 * max(1, len(panels)))
    for number, (title, rows, over_size) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, number + 1)
        _draw_panel(axes, rows, report.names, over_size)
        axes.set_title(f"{title}, share of the measured peak", loc="left", fontsize=10)
    figure.suptitle(report.run.cpu, fontsize=9)
    save(figure, path)


def _draw_panel(axes: Any, rows: Sequence[GemmRow], names: Sequence[str], over_size: bool) -> None:
    """Medians with whiskers from quartile to quartile; squares over a logarithmic size."""
    for name in names:
        places: list[float] = []
        found: list[Spread] = []
        for place, row in enumerate(rows):
            result = row.result(name)
            if result and result.share:
                places.append(row.case.row.m if over_size else place)
                found.append(result.share)
        if not found:
            continue
        below = [share.median - share.p25 for share in found]
        above = [share.p75 - share.median for share in found]
        ours = name == OURS
        axes.errorbar(
            places,
            [share.median for share in found],
            yerr=(below, above),
            label=name,
            fmt="o-" if over_size else "o",
            ms=6 if ours else 4,
            lw=2 if ours else 1,
            color="black" if ours else None,
            zorder=3 if ours else 2,
            elinewidth=0.6,
        )
    axes.axhline(1.0, color="grey", lw=0.6)
    if over_size:
        axes.set_xscale("log", base=2)
        sizes = [row.case.row.m for row in rows]
        axes.set_xticks(sizes, [str(size) for size in sizes], rotation=45)
        axes.minorticks_off()
    else:
        labels = [f"{row.case.row.name} {row.case.set}" for row in rows]
        axes.set_xticks(range(len(rows)), labels, rotation=60, ha="right", fontsize=7)
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
