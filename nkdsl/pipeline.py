"""The way down, as data: which passes lead from each level to the next."""

import gc
import threading
from dataclasses import dataclass
from itertools import pairwise

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from nkdsl.errors import InvalidInput
from nkdsl.frontend import Source, load, make_context
from nkdsl.targets import get_target, use_target
from nkdsl.targets.model import Target
from nkdsl.transforms.block import BlockPass
from nkdsl.transforms.compose import ComposePass
from nkdsl.transforms.expand_math import ExpandMathPass
from nkdsl.transforms.fold_transposes import FoldTransposesPass
from nkdsl.transforms.fuse_epilogues import FuseEpiloguesPass
from nkdsl.transforms.linalg_to_nanokernel import LinalgToNanokernelPass
from nkdsl.transforms.lower_to_upstream import LowerToUpstreamPass
from nkdsl.transforms.place_buffers import PlaceBuffersPass
from nkdsl.transforms.plan import PlanPass
from nkdsl.transforms.unroll import UnrollPass


@dataclass(frozen=True)
class Level:
    """One level of the IR and the passes that lead to it from the level above."""

    name: str
    passes: tuple[ModulePass, ...]


RAISING: tuple[ModulePass, ...] = (
    LinalgToNanokernelPass(),
    FoldTransposesPass(),
    FuseEpiloguesPass(),
)
"""What makes whole products of linalg operations."""


def pipeline(target: str, threads: int = 1) -> tuple[Level, ...]:
    """The levels from linalg to the upstream dialects, top to bottom."""
    return (
        Level("linalg", ()),
        Level("nanokernel", (*RAISING, PlanPass(target, threads=threads))),
        Level("blocked", (ExpandMathPass(), BlockPass())),
        Level("composed", (ComposePass(), PlaceBuffersPass())),
        Level("nkvector", (UnrollPass(),)),
        Level("upstream", (LowerToUpstreamPass(),)),
    )


class CollectorPause:
    """Python's cyclic garbage collector, off while any thread is inside.

    A module is one large cycle of objects that all stay alive until it is lowered; the collector
    would walk them over and over.
    """

    def __init__(self) -> None:
        """Nobody is inside."""
        self._lock = threading.Lock()
        self._inside = 0
        self._was_enabled = False

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._was_enabled:
                gc.enable()


collector_paused = CollectorPause()
"""`with collector_paused:` around what builds and drops whole modules."""


LEVELS = tuple(level.name for level in pipeline("host"))
"""The names of the levels, top to bottom."""


def lower(
    module: ModuleOp,
    context: Context,
    target: str | Target,
    *,
    start: str = "linalg",
    end: str = "upstream",
    threads: int = 1,
) -> None:
    """Take a module down in place, from the level `start` to the level `end`.

    Products without a written plan are planned for some number of `threads`.

    All passes use the same table: `target` itself, or the one that its name stands for now.

    Raises:
        InvalidInput: for an unknown level, and for an impossible target.
        Unsupported: for an unknown target.
        DiagnosticException: where a pass refuses an operation.
    """
    for name in (start, end):
        if name not in LEVELS:
            raise InvalidInput(f"there is no level '{name}'; levels are {', '.join(LEVELS)}")
    first, last = LEVELS.index(start), LEVELS.index(end)
    table = get_target(target) if isinstance(target, str) else target
    with use_target(table):
        for level in pipeline(table.name, threads)[first + 1 : last + 1]:
            for each in level.passes:
                each.apply(context, module)


def levels(source: Source, target: str | Target = "host") -> dict[str, ModuleOp]:
    """The program at every level, each a module of its own, verified.

    Raises:
        InvalidInput: for a program that can't be parsed.
        DiagnosticException: where a pass refuses an operation.
    """
    context = make_context()
    module = load(source, context)
    found = {"linalg": module}
    for above, below in pairwise(LEVELS):
        module = module.clone()
        lower(module, context, target, start=above, end=below)
        module.verify()
        found[below] = module
    return found
