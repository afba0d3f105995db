"""How results are shown, whatever they are: a table as text, a figure as a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from nkdsl.errors import InvalidInput, NkdslError

TABLE_WIDTH = 240


class MissingExtra(NkdslError):
    """A library of the optional extra `nkdsl[bench]` is absent."""


def grid(header: list[str], lines: list[list[str]]) -> str:
    """A table by rich where it is installed, else plain columns."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        return plain_grid(header, lines)
    table = Table(*header, box=box.SIMPLE)
    for line in lines:
        table.add_row(*line)
    out = io.StringIO()
    Console(file=out, width=TABLE_WIDTH).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n")


def plain_grid(header: list[str], lines: list[list[str]]) -> str:
    """A table in columns as wide as their widest cells."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *lines, strict=True)]
    rows = [header, ["-" * width for width in widths], *lines]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def empty_figure(width: float, height: float) -> Any:
    """A matplotlib figure, in inches, that needs no screen.

    Raises:
        MissingExtra: matplotlib is absent.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("a picture needs matplotlib: pip install 'nkdsl[bench]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path | str) -> None:
    """Write a figure in the format that the file's name ends in.

    Raises:
        InvalidInput: there is no such format.
    """
    try:
        figure.savefig(path, dpi=150)
    except ValueError as error:
        raise InvalidInput(f"cannot draw into '{path}': {error}") from error
