"""The results sections of README.md, made from the JSON of the suites of `nkdsl bench`.

    python -m nkdsl.bench.readme README.md bench/results/micro-f32.json bench/results/gemm-f32.json

writes a table for each report, and each type in it, between the markers of its suite, under the
command that made it: `<!-- bench:begin -->` and `<!-- bench:end -->` for `micro`, `<!-- bench
gemm:begin -->` and `<!-- bench gemm:end -->` for `gemm`, and the same for `mlp` and `tiles`.
Nothing else in README quotes a figure.

`mlp` writes what `gemm` does, and is told from it by its command.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from nkdsl.bench.gemm_report import SCHEMA as GEMM_SCHEMA
from nkdsl.bench.ours import NAME as OURS
from nkdsl.bench.tiles import SCHEMA as TILES_SCHEMA
from nkdsl.errors import InvalidInput

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
GEMM_BEGIN, GEMM_END = "<!-- bench gemm:begin -->", "<!-- bench gemm:end -->"
MARKERS = {
    "gemm": (GEMM_BEGIN, GEMM_END),
    "mlp": ("<!-- bench mlp:begin -->", "<!-- bench mlp:end -->"),
    "micro": (BEGIN, END),
    "tiles": ("<!-- bench tiles:begin -->", "<!-- bench tiles:end -->"),
}
"""What each suite's tables stand between."""

WHAT = {"gemm": "C := A·B", "mlp": "whole networks"}
"""What the rows of a suite are, for those of one schema."""


def section(report: dict[str, Any], picture: str) -> str:
    """One report as a Markdown table: shares of the peak, and how many times a peer's speed."""
    peers = [p["name"] for p in report["peers"] if p["present"]]
    dtype = report["rows"][0]["dtype"]
    head = ["shape", "of the peak", *(f"× {peer}" for peer in peers)]
    lines = [
        f"**{dtype}** on {report['cpu']} (`{report['table']}`), one core: `{report['command']}`",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(cells)} |" for cells in _rows(report, peers)),
        "",
        f"![share of the peak by shape, {dtype}]({picture})",
    ]
    return "\n".join(lines)


def _rows(report: dict[str, Any], peers: list[str]) -> list[list[str]]:
    """The cells of every shape, then the geometric means of every group."""
    rows: list[list[str]] = []
    for row in report["rows"]:
        found = {c["name"]: c for c in row["contenders"]}
        shape = row["shape"] if row["target"] == report["target"] else f"{row['shape']}, AVX2"
        ratios = [_median(found.get(peer, {}).get("ratio"), "{:.2f}") for peer in peers]
        rows.append([shape, _median(found[OURS]["share"], "{:.1%}"), *ratios])
    means = {(s["group"], s["name"]): s for s in report["summary"]}
    for group in dict.fromkeys(row["group"] for row in report["rows"]):
        share = means.get((group, OURS), {}).get("share")
        ratios = [_number(means.get((group, peer), {}).get("ratio"), "{:.2f}") for peer in peers]
        rows.append([f"*{group}, geometric mean*", _number(share, "{:.1%}"), *ratios])
    return rows


def suite(report: dict[str, Any]) -> str:
    """The suite that a report is of: `micro`, `gemm`, `mlp` or `tiles`."""
    if report.get("schema") == TILES_SCHEMA:
        return "tiles"
    if report.get("schema") != GEMM_SCHEMA:
        return "micro"
    return "mlp" if report["command"].split()[:3] == ["nkdsl", "bench", "mlp"] else "gemm"


def gemm_section(report: dict[str, Any], picture: str) -> str:
    """A report of whole products, or networks: a table for each type, and the picture."""
    dtypes = dict.fromkeys(row["dtype"] for row in report["rows"])
    lines = [
        *(line for dtype in dtypes for line in _gemm_tables(report, dtype)),
        f"![share of the peak over size, {', '.join(dtypes)}]({picture})",
    ]
    return "\n".join(lines)


def _gemm_tables(report: dict[str, Any], dtype: str) -> list[str]:
    """One type: our share of the peak, and our speed over each peer's; then the same by set."""
    rows = [row for row in report["rows"] if row["dtype"] == dtype]
    timed = {contender["name"] for row in rows for contender in row["contenders"]}
    present = dict.fromkeys(peer["name"] for peer in report["peers"] if peer["present"])
    peers = [name for name in present if name in timed]
    head = ["set", "shape", "threads", "GF/s", "of the peak", "best peer", "× best"]
    head += [f"× {peer}" for peer in peers]
    what = WHAT[suite(report)]
    return [
        f"**{dtype}** on {report['cpu']} (`{report['table']}`), {what}: `{report['command']}`",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(_gemm_row(row, peers))} |" for row in rows),
        "",
        *_gemm_summary([each for each in report["summary"] if each["dtype"] == dtype]),
        "",
    ]


def _gemm_row(row: dict[str, Any], peers: list[str]) -> list[str]:
    found = {contender["name"]: contender for contender in row["contenders"]}
    mine = found.get(OURS, {})
    return [
        *(row["set"], row["shape"], str(row["threads"])),
        _median(mine.get("gflops"), "{:.1f}"),
        _median(mine.get("share"), "{:.1%}"),
        row["best_peer"] or "–",
        _median(row["ratio"], "{:.2f}"),
        *(_median(found.get(peer, {}).get("ratio"), "{:.2f}") for peer in peers),
    ]


def _gemm_summary(summary: list[dict[str, Any]]) -> list[str]:
    """A small table: means and minima by set."""
    head = ["set", "threads", "of the peak, mean", "least", "× best peer, mean", "least", "won"]
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(_gemm_summary_row(each))} |" for each in summary),
    ]


def _gemm_summary_row(each: dict[str, Any]) -> list[str]:
    return [
        *(each["set"], str(each["threads"])),
        *(_number(each[name], "{:.1%}") for name in ("share", "least_share")),
        *(_number(each[name], "{:.2f}") for name in ("ratio", "least_ratio")),
        f"{each['won']} of {each['rows']}",
    ]


def tiles_section(report: dict[str, Any], _: str) -> str:
    """What kernels on tiles execute, counted: one table, and no picture."""
    head = ["shape", "types", "block", "multiplications", "loads each", "useful"]
    head += ["instructions / kflop", "spills"]
    return "\n".join(
        [
            f"**Tiles** of `{report['table']}`, counted: `{report['command']}`",
            "",
            f"| {' | '.join(head)} |",
            f"|{'---|' * len(head)}",
            *(f"| {' | '.join(_tiles_row(row))} |" for row in report["rows"]),
        ]
    )


def _tiles_row(row: dict[str, Any]) -> list[str]:
    return [
        *(row["shape"], row["dtype"], row["block"], str(row["multiplications"])),
        *(f"{row['loads_a_multiplication']:.2f}", f"{row['useful']:.1%}"),
        *(f"{row['instructions_a_kiloflop']:.2f}", str(row["spills"])),
    ]


MAKERS = {"gemm": gemm_section, "mlp": gemm_section, "micro": section, "tiles": tiles_section}
"""What makes a suite's section of a report and the path of its picture."""


def _median(spread: dict[str, float] | None, form: str) -> str:
    return _number(None if spread is None else spread["median"], form)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def update(readme: Path, results: list[Path]) -> None:
    """Replace what stands between the markers of each suite that there are results of.

    Raises:
        InvalidInput: where the markers are missing.
    """
    sections: dict[str, list[str]] = {}
    for path in results:
        report, picture = json.loads(path.read_text()), path.with_suffix(".png").as_posix()
        name = suite(report)
        sections.setdefault(name, []).append(MAKERS[name](report, picture))
    text = readme.read_text()
    for name, found in (sections or {"micro": []}).items():
        text = _replaced(text, *MARKERS[name], found, readme)
    readme.write_text(text)


def _replaced(text: str, begin: str, end: str, sections: list[str], readme: Path) -> str:
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise InvalidInput(f"{readme} has no {begin} … {end}")
    return f"{before}{begin}\n\n" + "\n\n".join(sections) + f"\n\n{end}{after}"


if __name__ == "__main__":
    update(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
