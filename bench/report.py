"""What a run of `micro` leaves behind: a table to read, JSON to keep, a picture to show.

JSON, schema `nkdsl-bench-micro/1`; every `spread` is {"p25", "median", "p75"} over the rounds:

    {
      "schema": "nkdsl-bench-micro/1",
      "command": "nkdsl bench micro --dtype f32",
      "cpu": "…", "pinned": the only CPU used or null, "target": "host", "table": "znver5",
      "rounds": 21, "sample_ns": 2000000, "started": "ISO 8601, UTC",
      "versions": {"python": "…", "llvm": "…", "numpy": "…", …},
      "peers": [{"name": "libxsmm", "present": true, "detail": "its version, or how to get it"}],
      "rows": [{
        "group": "square", "shape": "64x96x256", "kind": "gemm", "dtype": "f32", "flops": 3145728,
        "target": "host", or the group's own,
        "huge_pages": whether the operands lie on such; null where the system tells not,
        "peak": {"instruction": "fma.f32x16", "gflops": spread},
        "contenders": [{
          "name": "ours", "detail": "the plan, orientation or core type", "error": null or "reason",
          "ns": spread, "gflops": spread, "share": spread of its rate over the peak's right before,
          "ratio": spread of our rate over its rate, null for ours, or when either was not timed,
          "retaken": samples discarded because the thread was preempted, "preempted": those kept
        }]
      }],
      "skipped": {a group: why its target cannot be timed here},
      "summary": [{"group", "dtype", "name", "rows": how many, "share": geometric mean or null,
                   "ratio": geometric mean or null, "ratio_rows": how many}]
    }

A contender with an error has null in place of every spread. Ratios above 1 mean that we are faster.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from nkdsl.bench.machine import Run
from nkdsl.bench.ours import NAME as OURS
from nkdsl.bench.page import empty_figure, grid, save
from nkdsl.bench.peers.base import Availability
from nkdsl.bench.problem import Row
from nkdsl.bench.timing import Spread, Timings, geometric_mean

SCHEMA = "nkdsl-bench-micro/1"
NAMED_ROWS = 4
"""A note about more rows than this tells only how many they are."""


@dataclass(frozen=True)
class Result:
    """One contender in one row; an error stands in for numbers."""

    name: str
    detail: str
    error: str | None = None
    ns: Spread | None = None
    gflops: Spread | None = None
    share: Spread | None = None
    """Its rate over the peak's right before."""
    ratio: Spread | None = None
    """Our rate over its rate, paired round by round."""
    retaken: int = 0
    """Samples that were discarded because the thread was preempted."""
    preempted: int = 0
    """Samples that were kept although it was."""


@dataclass(frozen=True)
class RowReport:
    """One shape in one element type."""

    group: str
    row: Row
    dtype: str
    target: str
    """As it was asked for, or as the group demands."""
    huge_pages: bool | None
    """Whether the operands lie on such; None where the system tells not."""
    instruction: str
    """What the peak loop consists of."""
    peak: Spread
    """GF/s."""
    results: tuple[Result, ...]

    def result(self, name: str) -> Result | None:
        """A contender's result, or None when it took no part in this row."""
        return next((result for result in self.results if result.name == name), None)


@dataclass(frozen=True)
class Summary:
    """Geometric means of the medians of one contender over a group."""

    group: str
    dtype: str
    name: str
    rows: int
    share: float | None
    ratio: float | None
    ratio_rows: int


@dataclass(frozen=True)
class Report:
    """Everything about a run that a reader needs to believe or to repeat it."""

    run: Run
    peers: Mapping[str, Availability]
    rows: tuple[RowReport, ...]
    skipped: Mapping[str, str]
    """Groups whose own target cannot be timed here, and why."""

    @property
    def names(self) -> tuple[str, ...]:
        """Contenders in the order of their first appearance."""
        return tuple(dict.fromkeys(result.name for row in self.rows for result in row.results))

    @property
    def failed(self) -> bool:
        """Whether ours failed, or was wrong, in any row."""
        return any(
            result.error for row in self.rows for result in row.results if result.name == OURS
        )

    def summary(self) -> tuple[Summary, ...]:
        """Geometric means by group, element type and contender."""
        keys = dict.fromkeys((row.group, row.dtype) for row in self.rows)
        found = (self._mean(*key, name) for key in keys for name in self.names)
        return tuple(mean for mean in found if mean.rows)

    def _mean(self, group: str, dtype: str, name: str) -> Summary:
        rows = [row for row in self.rows if (row.group, row.dtype) == (group, dtype)]
        results = [found for row in rows if (found := row.result(name))]
        shares = [result.share.median for result in results if result.share]
        ratios = [result.ratio.median for result in results if result.ratio]
        share = geometric_mean(shares) if shares else None
        ratio = geometric_mean(ratios) if ratios else None
        return Summary(group, dtype, name, len(shares), share, ratio, len(ratios))

    def to_json(self) -> str:
        """The report in the schema of this module's docstring."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "schema": SCHEMA,
            **asdict(self.run),
            "peers": [{"name": name, **asdict(peer)} for name, peer in self.peers.items()],
            "rows": [_row_dict(row) for row in self.rows],
            "skipped": dict(self.skipped),
            "summary": [asdict(mean) for mean in self.summary()],
        }

    def table(self) -> str:
        """Everything as text: rows, geometric means, what ran, and what is missing."""
        parts = [str(self.run), grid(*self._row_grid()), grid(*self._summary_grid())]
        notes = (self._notes(), [self._conditions(), *self._absent()])
        parts += ["\n".join(lines) for lines in notes if lines]
        return "\n\n".join(parts) + "\n"

    def picture(self, path: Path | str) -> None:
        """Draw every contender's share of peak, a panel for each element type, into a file.

        Raises:
            MissingExtra: matplotlib is absent.
        """
        _draw(self, Path(path))

    def _conditions(self) -> str:
        """How quiet the machine was, and on which pages the operands lay."""
        results = [result for row in self.rows for result in row.results if result.ns]
        huge = sum(bool(row.huge_pages) for row in self.rows)
        return f"{disturbance(self.run, results)}; huge pages in {huge} of {len(self.rows)} rows"

    def _row_grid(self) -> tuple[list[str], list[list[str]]]:
        others = [name for name in self.names if name != OURS]
        header = ["group", "shape", "type", "target", "peak GF/s", *self._columns(others)]
        return header, [self._line(row, others) for row in self.rows]

    def _columns(self, others: Sequence[str]) -> Iterator[str]:
        if OURS in self.names:
            yield OURS
        for name in others:
            yield name
            if OURS in self.names:
                yield f"ours / {name}"

    def _line(self, row: RowReport, others: Sequence[str]) -> list[str]:
        cells = [row.group, row.row.name, row.dtype, row.target, f"{row.peak.median:.1f}"]
        if OURS in self.names:
            cells.append(_share(row.result(OURS)))
        for name in others:
            result = row.result(name)
            cells.append(_share(result))
            if OURS in self.names:
                cells.append(str(result.ratio) if result and result.ratio else "–")
        return cells

    def _summary_grid(self) -> tuple[list[str], list[list[str]]]:
        header = [
            "geometric mean",
            "type",
            "contender",
            "share of peak",
            "rows",
            "ours / it",
            "rows",
        ]
        lines = [
            [
                *(mean.group, mean.dtype, mean.name),
                *("–" if mean.share is None else f"{mean.share:.3f}", str(mean.rows)),
                *("–" if mean.ratio is None else f"{mean.ratio:.3f}", str(mean.ratio_rows)),
            ]
            for mean in self.summary()
        ]
        return header, lines

    def _notes(self) -> list[str]:
        """What ran or went wrong, one line for each thing to say about a contender."""
        said: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            for result in row.results:
                text = result.error or result.detail
                said.setdefault((result.name, text), []).append(f"{row.row.name} {row.dtype}")
        return [f"{name}: {text} [{_named(rows)}]" for (name, text), rows in said.items() if text]

    def _absent(self) -> list[str]:
        state = {True: "", False: "absent; "}
        peers = [f"peer {name}: {state[p.present]}{p.detail}" for name, p in self.peers.items()]
        return [*peers, *(f"group {name}: skipped; {why}" for name, why in self.skipped.items())]


class Disturbed(Protocol):
    """A result, as far as it tells how quiet the machine was."""

    @property
    def retaken(self) -> int:
        """Samples that were discarded because the thread was preempted."""

    @property
    def preempted(self) -> int:
        """Samples that were kept although it was."""


def disturbance(run: Run, results: Sequence[Disturbed]) -> str:
    """How many samples of all that were timed had to be retaken."""
    retaken = sum(result.retaken for result in results)
    kept = sum(result.preempted for result in results)
    samples = run.rounds * len(results)
    return (
        f"{samples} samples; {retaken} more were discarded because the thread was preempted, "
        f"{kept} kept although it was"
    )


def timed_results(timings: Timings, details: Mapping[str, str]) -> Iterator[Result]:
    """Results of all contenders that were timed beside the peak, in their order."""
    for name in details:
        series = timings.series[name]
        compared = OURS in timings.series and name != OURS
        yield Result(
            name,
            details[name],
            ns=timings.ns(name),
            gflops=timings.gflops(name),
            share=timings.share(name),
            ratio=timings.ratio(OURS, name) if compared else None,
            retaken=series.retaken,
            preempted=series.preempted,
        )


def _row_dict(row: RowReport) -> dict[str, Any]:
    return {
        "group": row.group,
        "shape": row.row.name,
        "kind": row.row.kind,
        "dtype": row.dtype,
        "flops": row.row.flops,
        "target": row.target,
        "huge_pages": row.huge_pages,
        "peak": {"instruction": row.instruction, "gflops": asdict(row.peak)},
        "contenders": [asdict(result) for result in row.results],
    }


def _named(rows: Sequence[str]) -> str:
    return ", ".join(rows) if len(rows) <= NAMED_ROWS else f"{len(rows)} rows"


def _share(result: Result | None) -> str:
    if result is None:
        return "–"
    if result.error:
        return result.error.partition(":")[0] if result.error.startswith("wrong") else "unable"
    return str(result.share) if result.share else "–"


def _draw(report: Report, path: Path) -> None:
    dtypes = tuple(dict.fromkeys(row.dtype for row in report.rows))
    most = max((sum(row.dtype == dtype for row in report.rows) for dtype in dtypes), default=1)
    figure = empty_figure(4 + 0.6 * most, 3.6 * max(1, len(dtypes)))
    for number, dtype in enumerate(dtypes):
        axes = figure.add_subplot(len(dtypes), 1, number + 1)
        _draw_panel(axes, [row for row in report.rows if row.dtype == dtype], report.names)
        axes.set_title(f"{dtype}, share of the measured peak", loc="left", fontsize=10)
    figure.suptitle(report.run.cpu, fontsize=9)
    save(figure, path)


def _draw_panel(axes: Any, rows: Sequence[RowReport], names: Sequence[str]) -> None:
    """Bars side by side for each shape, a whisker from quartile to quartile, and a line at 1."""
    width = 0.8 / max(1, len(names))
    for place, name in enumerate(names):
        shares = [(x, _share_of(row, name)) for x, row in enumerate(rows)]
        timed = [(x, share) for x, share in shares if share]
        left = [x + (place - (len(names) - 1) / 2) * width for x, _ in timed]
        below = [share.median - share.p25 for _, share in timed]
        above = [share.p75 - share.median for _, share in timed]
        heights = [share.median for _, share in timed]
        axes.bar(left, heights, width, yerr=(below, above), label=name, error_kw={"lw": 0.6})
    axes.axhline(1.0, color="black", lw=0.6)
    axes.set_xticks(range(len(rows)), [row.row.name for row in rows], rotation=45, ha="right")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), fontsize=8, ncols=max(1, len(names)))


def _share_of(row: RowReport, name: str) -> Spread | None:
    result = row.result(name)
    return result.share if result else None
