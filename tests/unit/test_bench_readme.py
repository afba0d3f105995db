"""The results section of README is made from reports alone."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from nkdsl.bench.gemm_report import SCHEMA
from nkdsl.bench.readme import BEGIN, END, MARKERS, update
from nkdsl.bench.tiles import SCHEMA as TILES_SCHEMA
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


def _gemm_report(command: str, dtypes: tuple[str, ...], shape: str) -> dict[str, Any]:
    spread = {"p25": 0.9, "median": 0.985, "p75": 1.0}
    ours = {"name": "ours", "gflops": spread, "share": spread, "ratio": None}
    row = {"set": "squares", "shape": shape, "threads": 1, "best_peer": "mkl", "ratio": spread}
    summary = {"set": "squares", "threads": 1, "share": 0.9, "least_share": 0.8, "ratio": 1.1}
    return {
        "schema": SCHEMA,
        "command": command,
        "cpu": "a processor",
        "table": "znver5",
        "peers": [{"name": name, "present": True} for name in ("mkl", "torch")],
        "rows": [
            row | {"dtype": dtype, "contenders": [ours, ours | {"name": peer, "ratio": spread}]}
            for dtype, peer in zip(dtypes, ("mkl", "torch"), strict=False)
        ],
        "summary": [
            summary | {"dtype": dtype, "least_ratio": 1.0, "won": 1, "rows": 1} for dtype in dtypes
        ],
    }


def test_suites_of_one_schema_have_tables_of_their_own(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(
        "\n".join(f"{begin}\nold {name}\n{end}" for name, (begin, end) in MARKERS.items())
    )
    reports = {
        "gemm-s8": _gemm_report("nkdsl bench gemm --dtype s8,u8s8", ("s8s8", "u8s8"), "64x64x64"),
        "mlp": _gemm_report("nkdsl bench mlp", ("bf16",), "256:1024x1024:relu"),
    }
    for name, report in reports.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    update(readme, [tmp_path / f"{name}.json" for name in reports])
    text = readme.read_text()
    between = {
        name: text.partition(begin)[2].partition(end)[0] for name, (begin, end) in MARKERS.items()
    }
    assert "old micro" in between["micro"]
    assert re.findall(r"\*\*(\w+)\*\* on", between["gemm"]) == ["s8s8", "u8s8"]
    assert between["gemm"].count("1 of 1") == between["gemm"].count("| 64x64x64 |") == 2
    assert between["gemm"].count("× torch") == 1  # of the type that it took part in
    assert "whole networks" in between["mlp"] and "256:1024x1024:relu" in between["mlp"]
    assert "gemm-s8.png" in between["gemm"] and "mlp.png" in between["mlp"]


def test_tiles_have_a_table_of_counts_and_no_picture(tmp_path: Path) -> None:
    readme, results = tmp_path / "README.md", tmp_path / "tiles.json"
    begin, end = MARKERS["tiles"]
    readme.write_text(f"{begin}\nold\n{end}\n")
    row = {
        "shape": "64x64x64",
        "dtype": "bf16",
        "block": "32x32",
        "multiplications": 32,
        "loads_a_multiplication": 1.0,
        "useful": 0.986,
        "instructions_a_kiloflop": 0.2289,
        "spills": 0,
    }
    report = {"schema": TILES_SCHEMA, "command": "nkdsl bench tiles", "table": "a", "rows": [row]}
    results.write_text(json.dumps(report))
    update(readme, [results])
    text = readme.read_text()
    assert "| 64x64x64 | bf16 | 32x32 | 32 | 1.00 | 98.6% | 0.23 | 0 |" in text
    assert "old" not in text and ".png" not in text
