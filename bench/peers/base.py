"""What a peer is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from nkdsl.bench.problem import Problem, Types, fault
from nkdsl.bench.timing import Contender

CHECKED_CALLS = 2
"""A kernel must also leave its arguments fit for the next call, so one call proves too little."""


class Unable(Exception):
    """A contender cannot be made, or gave a wrong answer; the message is the reason reported."""


@dataclass(frozen=True)
class Availability:
    """Whether a peer can be used on this machine."""

    present: bool
    detail: str
    """Its version when present, else how to get it."""


class Peer(Protocol):
    """Another implementation of C += A·B, row-major, one thread."""

    @property
    def name(self) -> str:
        """The name on the command line and in reports."""

    def availability(self) -> Availability:
        """Whether it can be used here; must be called before `contender`, and may be slow once."""

    def contender(self, problem: Problem) -> Contender:
        """Its best way to solve a problem, already checked; valid until the next call.

        Raises:
            Unable: with the reason.
        """

    def close(self) -> None:
        """Give back processes and settings."""


BLAS_LETTERS = {"f32": "s", "f64": "d"}


def blas_letter(types: Types) -> str:
    """What BLAS calls the element type of a product.

    Raises:
        Unable: it has none of such types.
    """
    if (letter := BLAS_LETTERS.get(types.name)) is not None:
        return letter
    raise Unable(f"BLAS multiplies {' and '.join(BLAS_LETTERS)} only")


AnyContender = TypeVar("AnyContender", bound=Contender)


def checked(problem: Problem, contender: AnyContender) -> AnyContender:
    """Run a contender on the fresh problem and return it if its answer is right.

    Raises:
        Unable: the answer is wrong, or something besides C was written.
    """
    problem.reset()
    contender.run(CHECKED_CALLS)
    found = fault(problem, CHECKED_CALLS)
    problem.reset()
    if found is not None:
        raise Unable(found)
    return contender
