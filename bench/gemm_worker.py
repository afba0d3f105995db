"""One library, one setting, one number of threads: a process of its own, idle between its turns.

Like `worker`, whose pipes and patience it shares, but for whole products. The parent starts
`python -m nkdsl.bench.gemm_worker ENGINE THREADS TARGET` on the CPUs that it may use, since
libraries count these when they are loaded, and asks:

    -> {"op": "about"}                                     <- {"present": true, "detail": "…"}
    -> {"op": "prepare", "slot": "ours", "row": "64x64x64", "dtype": "f32", "contract": "plain",
        "thorough": true}                                  <- {"detail": "…", "call_ns": …, …}
    -> {"op": "run", "slot": "ours", "reps": 10}           <- {"wall_ns": …, "thread_ns": …}
    -> {"op": "clear"}                                     <- {}

`prepare` makes operands and a contender, calls it twice, and looks at the answer of the first call;
a slot keeps it until `clear`.

Threads of a library that wait for work keep their CPUs busy for a while. Each library's do so by
its own rules; but between its turns the whole process is stopped, so that it takes no other's time.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from nkdsl.bench import mlp_ours
from nkdsl.bench.gemm_ours import ENGINE, OursEngine
from nkdsl.bench.gemm_problem import fault, make_operands
from nkdsl.bench.gemm_sets import Case
from nkdsl.bench.gemm_turns import WARMED_NS, Entrant
from nkdsl.bench.mlp_problem import Mlp, mlp_fault, mlp_operands
from nkdsl.bench.peers.base import Availability, Unable
from nkdsl.bench.peers.cblas import BlisEngine, NumpyEngine
from nkdsl.bench.peers.engine import Engine
from nkdsl.bench.peers.libxsmm import LibxsmmEngine
from nkdsl.bench.peers.mkl import MklEngine, TorchMklEngine
from nkdsl.bench.peers.mlp import ENGINES as MLP_ENGINES
from nkdsl.bench.peers.places import peers_packages
from nkdsl.bench.peers.through_python import JaxEngine, OneDnnEngine
from nkdsl.bench.problem import Row, parse_row, product_types
from nkdsl.bench.timing import Contender, Lap
from nkdsl.bench.worker import Worker, WorkerDied

ENGINES: dict[str, Callable[[], Engine]] = {
    "numpy": NumpyEngine,
    "mkl": MklEngine,
    "torch-mkl": TorchMklEngine,
    "onednn": OneDnnEngine,
    "blis": BlisEngine,
    "jax": JaxEngine,
    "libxsmm": LibxsmmEngine,
    **MLP_ENGINES,
}
"""Every engine but ours."""


@dataclass(frozen=True)
class Task:
    """What engines of a kind compute."""

    operands: Callable[[str, str], Any]
    """Made of the names of a shape and of element types."""
    fault: Callable[..., str | None]
    """What is wrong with their answer; takes `thorough`."""


GEMM = Task(
    lambda row, dtype: make_operands(parse_row(row), product_types(dtype).stored),
    fault,
)
MLP = Task(mlp_operands, mlp_fault)

QUIET = {
    "OMP_DYNAMIC": "false",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 34),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
}
"""Environment of every worker: as many threads as asked for, and memory is kept."""
_PR_SET_PDEATHSIG = 1
"""Linux's number for it."""
COUNTS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NKDSL_NUM_THREADS",
)
"""Variables that hold the number of threads."""


def environment(threads: int) -> dict[str, str]:
    """What every worker of so many threads finds in its environment."""
    return {**QUIET, **{name: str(threads) for name in COUNTS}}


@dataclass(frozen=True)
class Place:
    """Where a worker runs."""

    threads: int
    cpus: tuple[int, ...]
    """CPUs that it may use; empty where the scheduler chooses."""
    target: str
    """What ours is compiled for."""


class GemmWorker(Worker):
    """The parent's end."""

    def __init__(self, engine: str, place: Place, settings: Mapping[str, str]) -> None:
        """Start the process; `settings` win over everything else in its environment."""
        path = os.pathsep.join([*(entry for entry in sys.path if entry), *peers_packages()])
        arguments = (engine, str(place.threads), place.target)
        with _moved(place.cpus):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "nkdsl.bench.gemm_worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": path, **environment(place.threads), **settings},
            )
        self._threads = place.threads

    def ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        """Send a request and wait for its answer; with several threads, awake only meanwhile."""
        if self._threads == 1:
            return super().ask(request)
        self._signal(signal.SIGCONT)
        try:
            return super().ask(request)
        finally:
            self._signal(signal.SIGSTOP)

    def close(self) -> None:
        """End the process; harmless when it already has."""
        self._signal(signal.SIGCONT)
        super().close()

    @property
    def process_id(self) -> int:
        """Of the worker."""
        return self._process.pid

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)

    def about(self) -> Availability:
        """What the library says of itself.

        Raises:
            WorkerDied: it could not even start.
        """
        answer = self.ask({"op": "about"})
        return Availability(bool(answer["present"]), str(answer["detail"]))

    def enter(
        self,
        case: Case,
        name: str,
        *,
        row: Row | Mlp | None = None,
        contract: str = "",
        thorough: bool,
    ) -> Entrant:
        """Have the worker set up a case and look at the answer.

        Args:
            case: what to compute.
            name: the contender's, and that of its slot.
            row: another product than the case's.
            contract: another contract than the case's.
            thorough: look at all of the answer.

        Raises:
            Unable: the library cannot do it, or does it wrong.
            WorkerDied: the attempt killed it.
        """
        answer = self.ask(
            {
                "op": "prepare",
                "slot": name,
                "row": (row or case.row).name,
                "dtype": case.dtype,
                "contract": contract or case.contract,
                "thorough": thorough,
            }
        )
        judged = bool(answer["calling_thread"]) and self._threads == 1
        remote = Remote(name, str(answer["detail"]), int(answer["flops"]), self, judged)
        return Entrant(remote, int(answer["call_ns"]))

    def clear(self) -> None:
        """Have it forget every slot."""
        self.ask({"op": "clear"})


@contextmanager
def _moved(cpus: tuple[int, ...]) -> Iterator[None]:
    """Let processes started inside have some CPUs; none means those that this one has."""
    if not cpus:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Remote:
    """A slot of a worker, as a contender."""

    name: str
    detail: str
    flops: int
    worker: GemmWorker
    judged: bool
    """Whether the clock of the thread that calls tells what was disturbed."""

    def run(self, reps: int) -> Lap:
        """Have the worker call it `reps` times; how long that took, by the worker's clocks."""
        answer = self.worker.ask({"op": "run", "slot": self.name, "reps": reps})
        wall = int(answer["wall_ns"])
        return Lap(wall, int(answer["thread_ns"]) if self.judged else wall)


class Host:
    """The worker's end: an engine, and the contenders prepared last."""

    def __init__(self, engine: Engine, task: Task = GEMM) -> None:
        """Load what the engine needs."""
        self._engine, self._task = engine, task
        self._available = engine.availability()
        self._slots: dict[str, Contender] = {}

    def answer(self, request: Mapping[str, Any]) -> dict[str, object]:
        """Serve a request.

        Raises:
            Unable: it cannot be served.
        """
        match request["op"]:
            case "about":
                return asdict(self._available)
            case "prepare":
                return self._prepare(**{k: v for k, v in request.items() if k != "op"})
            case "run" if request["slot"] in self._slots:
                return asdict(self._slots[request["slot"]].run(request["reps"]))
            case "clear":
                self._slots.clear()
                return {}
            case op:
                raise Unable(f"cannot {op} now")

    def _prepare(
        self, slot: str, row: str, dtype: str, contract: str, thorough: bool
    ) -> dict[str, object]:
        if not self._available.present:
            raise Unable(self._available.detail)
        self._slots.pop(slot, None)
        operands = self._task.operands(row, dtype)
        made = self._engine.make(operands, contract)
        first = made.contender.run(1)
        if made.deliver:
            made.deliver()
        if found := self._task.fault(operands, thorough=thorough):
            raise Unable(found)
        # A first call may allocate or compile; where calls are long, that is nothing.
        lap = first if first.wall_ns > WARMED_NS else made.contender.run(1)
        self._slots[slot] = made.contender
        return {
            "detail": made.contender.detail,
            "flops": made.contender.flops,
            "call_ns": max(1, min(first.wall_ns, lap.wall_ns)),
            "calling_thread": made.calling_thread,
        }


def _end_with_parent() -> None:
    """Have the system end this process when its parent ends, where it can."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def make_engine(name: str, threads: int, target: str) -> Engine:
    """The engine of a name."""
    own: dict[str, Callable[[str, int], Engine]] = {
        ENGINE: OursEngine,
        mlp_ours.ENGINE: mlp_ours.MlpOursEngine,
    }
    return own[name](target, threads) if name in own else ENGINES[name]()


def task_of(name: str) -> Task:
    """What the engine of a name computes."""
    return MLP if name == mlp_ours.ENGINE or name in MLP_ENGINES else GEMM


def main(arguments: Sequence[str]) -> None:
    """Serve requests until the input ends."""
    engine, threads, target = arguments
    # A library that prints must not garble the answers: they get the pipe to themselves.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # An interrupt is the parent's affair; it closes the pipes. A stopped process sees neither.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    host = Host(make_engine(engine, int(threads), target), task_of(engine))
    for line in sys.stdin:
        try:
            answer = host.answer(json.loads(line))
        except Unable as error:
            answer = {"unable": str(error)}
        except MemoryError:
            answer = {"unable": "not enough memory"}
        print(json.dumps(answer), file=answers, flush=True)


__all__ = ["ENGINES", "GemmWorker", "Host", "Place", "Remote", "WorkerDied", "make_engine"]

if __name__ == "__main__":
    main(sys.argv[1:])
