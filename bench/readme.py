"""The results section of README.md, made from the JSON of `nkdsl bench micro`.

    python -m nkdsl.bench.readme README.md bench/results/micro-f32.json bench/results/micro-f64.json

writes one table an element type between the markers `<!-- bench:begin -->` and
`<!-- bench:end -->`, under the command that made it. Nothing else in README quotes a figure.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from nkdsl.bench.ours import NAME as OURS
from nkdsl.errors import InvalidInput

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


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


def _median(spread: dict[str, float] | None, form: str) -> str:
    return _number(None if spread is None else spread["median"], form)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def update(readme: Path, results: list[Path]) -> None:
    """Replace what stands between the markers.

    Raises:
        InvalidInput: where the markers are missing.
    """
    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InvalidInput(f"{readme} has no {BEGIN} … {END}")
    sections = [
        section(json.loads(path.read_text()), path.with_suffix(".png").as_posix())
        for path in results
    ]
    readme.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(sections) + f"\n\n{END}{after}")


if __name__ == "__main__":
    update(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
