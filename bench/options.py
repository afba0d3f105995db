"""What the command lines of all suites share: their options, and how results are delivered."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from nkdsl.bench import machine, ours
from nkdsl.bench.problem import OTHER_NAMES, PRODUCTS

ROUNDS = 21


class Deliverable(Protocol):
    """What a suite measured."""

    @property
    def failed(self) -> bool:
        """Whether ours failed, or was wrong, anywhere."""

    def table(self) -> str:
        """Everything as text."""

    def to_json(self) -> str:
        """Everything for programs."""

    def picture(self, path: Path | str) -> None:
        """What matters, drawn into a file."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every suite has."""
    parser.add_argument(
        "--dtype",
        type=_dtypes,
        default=("f32",),
        help=f"element types, comma-separated: {','.join(PRODUCTS)}",
    )
    parser.add_argument("--target", default=ours.HOST, help="target to compile for; default: host")
    parser.add_argument("--rounds", type=positive, default=ROUNDS, help="samples of each contender")
    parser.add_argument(
        "--cpu",
        type=_cpu,
        default="last",
        help="pin everything to the CPU of this number, to the last one allowed here (last, the "
        "default), or to none",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the report to this file as JSON"
    )
    parser.add_argument(
        "--picture", "--plot", type=Path, metavar="FILE", help="draw the result into this file"
    )


def deliver(report: Deliverable, arguments: argparse.Namespace) -> int:
    """Print the table and write the files that were asked for.

    Returns:
        The exit status: 1 when ours failed or was wrong anywhere; else 0.

    Raises:
        MissingExtra: a picture was asked for, and matplotlib is absent.
        OSError: a file cannot be written.
    """
    print(report.table())
    if arguments.json:
        arguments.json.write_text(report.to_json(), encoding="utf-8")
    if arguments.picture:
        report.picture(arguments.picture)
    return int(report.failed)


def known(text: str, names: Mapping[str, object], what: str) -> tuple[str, ...]:
    """Comma-separated names, each of which must be known."""
    found = tuple(dict.fromkeys(text.split(",")))
    for name in found:
        if name not in names:
            raise argparse.ArgumentTypeError(f"no {what} {name!r}; known: {', '.join(names)}")
    return found


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _dtypes(text: str) -> tuple[str, ...]:
    names = (OTHER_NAMES.get(name, name) for name in text.split(","))
    return known(",".join(names), PRODUCTS, "element type")


def _cpu(text: str) -> int | None:
    match text:
        case "none":
            return None
        case "last":
            return machine.last_cpu()
        case _ if text.isdecimal():
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no CPU: write its number, last or none")
