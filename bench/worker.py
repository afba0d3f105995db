"""A peer in a process and an environment of its own, idle between its turns.

Some libraries read their settings only when they are loaded (`OPENBLAS_CORETYPE`), so that one
process can hold one setting. The parent starts `python -m nkdsl.bench.worker NAME` with those
settings in its environment and one thread, and talks to it in lines of JSON over pipes:

    -> {"op": "core"}                                              <- {"core": "SkylakeX"}
    -> {"op": "prepare", "row": "64x64x64", "dtype": "f32"}        <- {"detail": "…", "flops": …}
    -> {"op": "run", "reps": 1000}                                 <- {"wall_ns": …, "thread_ns": …}

A request that cannot be served answers {"unable": "reason"}. `prepare` makes the operands (the same
numbers at the same page offsets as in the parent), checks the answer once, and replaces what was
prepared before. Between requests the worker blocks in a read and costs nothing; its time is taken
inside, by both clocks, so the pipe's latency is not part of it. It ends when its input does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nkdsl.bench.peers.base import Unable
from nkdsl.bench.problem import Row, Types, make_problem, parse_row, product_types
from nkdsl.bench.timing import Contender, Lap

ONE_QUIET_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
}
"""Environment of every worker: one thread, which sleeps while it waits."""
CLOSE_TIMEOUT_S = 5


class WorkerDied(Exception):
    """The worker ended without an answer, for example by an instruction that the CPU lacks."""


class Worker:
    """The parent's end of a worker process."""

    def __init__(self, peer: str, environment: Mapping[str, str]) -> None:
        """Start a process that hosts a peer; settings in `environment` win over the inherited."""
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nkdsl.bench.worker", peer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **ONE_QUIET_THREAD, **environment},
        )

    def core(self) -> str | None:
        """The core type in effect, or None where the peer knows none.

        Raises:
            WorkerDied: it could not even start.
        """
        answer: str | None = self.ask({"op": "core"})["core"]
        return answer

    def prepare(self, row: Row, types: Types, name: str) -> WorkerContender:
        """Have the worker set up and check a row.

        Raises:
            Unable: the peer cannot do it, or does it wrong.
            WorkerDied: the attempt killed it.
        """
        answer = self.ask({"op": "prepare", "row": row.name, "dtype": types.name})
        return WorkerContender(name, str(answer["detail"]), int(answer["flops"]), self)

    def ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            Unable: with the worker's reason.
            WorkerDied: the worker ended instead.
        """
        send, receive = self._process.stdin, self._process.stdout
        if send is None or receive is None:
            raise WorkerDied("the worker has no pipes")
        try:
            send.write(json.dumps(request) + "\n")
            send.flush()
            line = receive.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        if not line:
            raise WorkerDied(self._obituary())
        answer: dict[str, Any] = json.loads(line)
        if "unable" in answer:
            raise Unable(answer["unable"])
        return answer

    def close(self) -> None:
        """End the process; harmless when it already has."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                _close_quietly(pipe)
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _obituary(self) -> str:
        code = self._process.wait(CLOSE_TIMEOUT_S)
        if code >= 0:
            return f"its process ended with exit status {code}"
        return f"its process was ended by {signal.Signals(-code).name}"


@dataclass(frozen=True)
class WorkerContender:
    """What a worker prepared last, as a contender."""

    name: str
    detail: str
    flops: int
    worker: Worker

    def run(self, reps: int) -> Lap:
        """Have the worker call it `reps` times; how long that took, by the worker's clocks."""
        answer = self.worker.ask({"op": "run", "reps": reps})
        return Lap(int(answer["wall_ns"]), int(answer["thread_ns"]))


def _close_quietly(pipe: Any) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        return


class _Host:
    """The worker's end: one peer, and the contender prepared last."""

    def __init__(self, peer: str) -> None:
        from nkdsl.bench.peers import PEERS

        self.peer = PEERS[peer]()
        self.available = self.peer.availability()
        self.contender: Contender | None = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, object]:
        match request["op"]:
            case "core":
                return {"core": getattr(self.peer, "core", None)}
            case "prepare":
                return self._prepare(request["row"], request["dtype"])
            case "run" if self.contender is not None:
                return asdict(self.contender.run(request["reps"]))
            case op:
                raise Unable(f"cannot {op} now")

    def _prepare(self, row: str, dtype: str) -> dict[str, object]:
        if not self.available.present:
            raise Unable(self.available.detail)
        self.contender = None
        problem = make_problem(parse_row(row), product_types(dtype))
        self.contender = self.peer.contender(problem)
        return {"detail": self.contender.detail, "flops": self.contender.flops}


def main() -> None:
    """Serve requests until the input ends."""
    # A library that prints must not garble the answers: they get the pipe to themselves.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # An interrupt is the parent's affair; it closes the pipes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    host = _Host(sys.argv[1])
    for line in sys.stdin:
        try:
            answer = host.answer(json.loads(line))
        except Unable as error:
            answer = {"unable": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
