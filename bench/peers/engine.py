"""What multiplies whole matrices inside a worker: C := op(A)·op(B), as one library does it.

An engine lives in a process of its own (`nkdsl.bench.gemm_worker`), which was started with the
settings that the library reads when it is loaded. It says what it is, and makes contenders; whether
their answers are right is looked at by whoever asked for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from nkdsl.bench.gemm_problem import Operands
from nkdsl.bench.gemm_sets import PLAIN
from nkdsl.bench.peers.base import Availability, Unable
from nkdsl.bench.timing import Contender

LEAST_FLOPS = 10_000_000
"""Products from which on the cost of a call from Python is nothing."""


@dataclass(frozen=True)
class Made:
    """A contender, and how to look at its answer."""

    contender: Contender
    deliver: Callable[[], None] | None = None
    """Copies the answer of the last call into C, where the library keeps it elsewhere."""
    calling_thread: bool = True
    """Whether the work is done on the thread that calls."""


class Engine(Protocol):
    """A library in this process."""

    def availability(self) -> Availability:
        """Whether it can be used here; must be called first."""

    def make(self, operands: Any, contract: str) -> Made:
        """A contender for operands of its kind, `Operands` of a product mostly.

        Raises:
            Unable: with the reason.
        """


def plain_only(contract: str, name: str) -> None:
    """Refuse every contract but the plain one.

    Raises:
        Unable: for a packed product.
    """
    if contract != PLAIN:
        raise Unable(f"{name} takes no operands that were packed beforehand")


def large_enough(operands: Operands) -> None:
    """Refuse products that a call from Python would slow down.

    Raises:
        Unable: for a small one.
    """
    if operands.row.flops < LEAST_FLOPS:
        raise Unable(f"called from Python: only products of {LEAST_FLOPS:.0e} flops and more")
