"""Who else can multiply matrices here, each called at its best.

A peer says whether it is available and, if not, how to get it; given a problem it returns a
contender that was checked against the reference once, or raises `Unable` with the reason. Nothing
wrong is ever timed, and nothing absent is passed over in silence.

To add a peer, write a class with the members of `Peer` in a file of its own and name it in `PEERS`.
"""

from __future__ import annotations

from collections.abc import Callable

from nkdsl.bench.peers.base import Availability, Peer, Unable, checked
from nkdsl.bench.peers.libxsmm import Libxsmm
from nkdsl.bench.peers.openblas import BestOpenBlas, NumpyBlas

PEERS: dict[str, Callable[[], Peer]] = {
    "libxsmm": Libxsmm,
    "numpy": NumpyBlas,
    "openblas": BestOpenBlas,
}
"""Every known peer by its name on the command line, in the order of the report's columns."""

__all__ = ["PEERS", "Availability", "Peer", "Unable", "checked"]
