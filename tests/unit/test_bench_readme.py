"""The results section of README is made from reports alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from nkdsl.bench.readme import BEGIN, END, update
from nkdsl.errors import InvalidInput


def _report() -> dict[str, Any]:
    spread = {"p25": 0.9, "median": 0.985, "p75": 1.0}
    ours = {"name": "ours", "share": spread, "ratio": None}
    peer = {"name": "libxsmm", "share": spread, "ratio": {"p25": 1.0, "median": 1.054, "p75": 1.1}}
    return {
        "command": "nkdsl bench micro --dtype f32",
        "cpu": "a processor",
        "target": "host",
        "table": "znver5",
        "peers": [{"name": "libxsmm", "present": True}, {"name": "numpy", "present": False}],
        "rows": [
            {
                "group": "square",
                "shape": "64x96x256",
                "dtype": "f32",
                "target": "host",
                "contenders": [ours, peer],
            }
        ],
        "summary": [
            {"group": "square", "name": "ours", "share": 0.97, "ratio": None},
            {"group": "square", "name": "libxsmm", "share": 0.9, "ratio": 1.02},
        ],
    }


def test_the_table_replaces_what_stood_between_the_markers(tmp_path: Path) -> None:
    readme, results = tmp_path / "README.md", tmp_path / "micro-f32.json"
    readme.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    results.write_text(json.dumps(_report()))
    update(readme, [results])
    text = readme.read_text()
    assert text.startswith("above\n") and text.endswith("\nbelow\n") and "old" not in text
    assert "| 64x96x256 | 98.5% | 1.05 |" in text
    assert "| *square, geometric mean* | 97.0% | 1.02 |" in text
    assert "nkdsl bench micro --dtype f32" in text and "numpy" not in text


def test_a_readme_without_markers_is_refused(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    with pytest.raises(InvalidInput, match="bench:begin"):
        update(readme, [])
