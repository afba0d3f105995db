"""BLAS as numpy carries it, and the same OpenBLAS with the core type that suits a shape best.

Two peers:

- `numpy`: the `cblas_sgemm` and `cblas_dgemm` that numpy itself is linked with, in this process and
  as shipped, on one thread. The call is native; a generated thunk bakes in everything but the
  operands:

      define void @thunk(ptr %a, ptr %b, ptr %c) {
        call void @cblas_sgemm(i32 101, i32 111, i32 111, i64 m, i64 n, i64 k, float 1.0, …)

  Where numpy's BLAS shows no such symbol, `np.matmul` is timed instead, Python's cost included, and
  the report says so.
- `openblas`: OpenBLAS chooses its kernels by the CPU's name when it is loaded, and often chooses
  badly on CPUs younger than itself. `OPENBLAS_CORETYPE` overrides that, but only at load: so each
  core type lives in a worker process of its own, all of them are tried for every row, and the
  fastest takes part in the turns.

Neither has a batch-reduce product; it is one call after another with beta = 1, in the thunk.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nkdsl.bench.jit import LLVM_NAMES, compile_ir
from nkdsl.bench.peers.base import Availability, Unable, blas_letter, checked
from nkdsl.bench.problem import Problem
from nkdsl.bench.timing import Contender, NativeContender, PythonContender, fastest
from nkdsl.bench.worker import Worker, WorkerDied

SPELLINGS = (
    ("scipy_", "64_", 64),
    ("", "64_", 64),
    ("scipy_", "", 32),
    ("", "", 32),
)
"""How builds of OpenBLAS decorate their symbols: prefix, suffix, bits of an integer argument."""

CORE_TYPES = {
    "x86_64": ("Haswell", "Zen", "SkylakeX", "Cooperlake", "SapphireRapids"),
    "aarch64": ("ARMV8", "NEOVERSEN1", "NEOVERSEV1", "ARMV8SVE"),
}
"""Core types tried, by machine; those that the build lacks or the CPU cannot run drop out."""

ROW_MAJOR, NO_TRANS, TRANS = 101, 111, 112


@dataclass(frozen=True)
class Blas:
    """numpy's BLAS in this process."""

    library: ctypes.CDLL
    prefix: str
    suffix: str
    int_bits: int

    def address(self, function: str) -> int:
        """The entry point of a cblas function."""
        entry = getattr(self.library, f"{self.prefix}{function}{self.suffix}")
        return ctypes.cast(entry, ctypes.c_void_p).value or 0

    def openblas(self, function: str) -> Callable[..., Any] | None:
        """OpenBLAS's own function, or None when this is another BLAS."""
        entry: Callable[..., Any] | None = getattr(
            self.library, f"{self.prefix}openblas_{function}{self.suffix}", None
        )
        return entry

    def text(self, function: str) -> str | None:
        """What one of OpenBLAS's functions that return a string says."""
        entry = self.openblas(function)
        if entry is None:
            return None
        setattr(entry, "restype", ctypes.c_char_p)  # noqa: B010
        value: bytes = entry()
        return value.decode()


def find_blas() -> Blas | None:
    """The BLAS that numpy's extension module is linked with, if it shows its symbols."""
    from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

    # Symbols are searched for in the module and in everything that it is linked with.
    library = ctypes.CDLL(_multiarray_umath.__file__)
    for prefix, suffix, bits in SPELLINGS:
        if hasattr(library, f"{prefix}cblas_sgemm{suffix}"):
            return Blas(library, prefix, suffix, bits)
    return None


def thunk_ir(problem: Problem, blas: Blas, function: str) -> str:
    """A function of three pointers that performs the product by `function`, batches in a loop."""
    row, llvm = problem.row, LLVM_NAMES[problem.types.name]
    integer, scalar = f"i{blas.int_bits}", f"{llvm} 1.0"
    trans = [TRANS if flag else NO_TRANS for flag in (row.transpose_a, row.transpose_b)]
    arguments = ", ".join(
        [
            *(f"i32 {x}" for x in (ROW_MAJOR, *trans)),
            *(f"{integer} {x}" for x in (row.m, row.n, row.k)),
            *(scalar, f"ptr %ai, {integer} {row.shape_a[-1]}"),
            *(f"ptr %bi, {integer} {row.shape_b[-1]}", scalar, f"ptr %c, {integer} {row.n}"),
        ]
    )
    return f"""
define void @thunk(ptr %a, ptr %b, ptr %c) {{
entry:
  %f = inttoptr i64 {blas.address(function)} to ptr
  br label %body
body:
  %i = phi i64 [ 0, %entry ], [ %next, %body ]
  %da = mul nuw nsw i64 %i, {row.m * row.k}
  %db = mul nuw nsw i64 %i, {row.k * row.n}
  %ai = getelementptr {llvm}, ptr %a, i64 %da
  %bi = getelementptr {llvm}, ptr %b, i64 %db
  call void %f({arguments})
  %next = add nuw nsw i64 %i, 1
  %more = icmp slt i64 %next, {row.batch}
  br i1 %more, label %body, label %exit
exit:
  ret void
}}
"""


class NumpyBlas:
    """The peer `numpy`."""

    name = "numpy"

    def __init__(self) -> None:
        """Nothing is changed before the first contender."""
        self._blas: Blas | None = None
        self._threads: int | None = None

    def availability(self) -> Availability:
        """Tell what numpy's BLAS is; numpy itself is always here."""
        self._blas = find_blas()
        if self._blas is None:
            return Availability(True, f"{np.__version__}, BLAS symbols hidden: np.matmul is timed")
        core = self._blas.text("get_corename")
        config = self._blas.text("get_config") or "BLAS of unknown make"
        detail = f"{np.__version__}, {' '.join(config.split()[:2])}"
        return Availability(True, f"{detail}, core {core}" if core else detail)

    @property
    def core(self) -> str | None:
        """The core type whose kernels OpenBLAS uses, or None for another BLAS."""
        return self._blas.text("get_corename") if self._blas else None

    def contender(self, problem: Problem) -> Contender:
        """One native call of cblas, or np.matmul where it is hidden."""
        blas, letter = self._blas, blas_letter(problem.types)
        if blas is None:
            return checked(problem, _matmul(problem))
        self._one_thread(blas)
        function = f"cblas_{letter}gemm"
        thunk = compile_ir(thunk_ir(problem, blas, function), "thunk")
        detail = f"{function}, core {self.core}" if self.core else function
        contender = NativeContender(
            self.name, thunk.address, problem.pointers, problem.row.flops, detail, (thunk, problem)
        )
        return checked(problem, contender)

    def close(self) -> None:
        """Give OpenBLAS its threads back."""
        if self._blas is None or self._threads is None:
            return
        if set_threads := self._blas.openblas("set_num_threads"):
            set_threads(self._threads)
        self._threads = None

    def _one_thread(self, blas: Blas) -> None:
        get_threads, set_threads = (blas.openblas(f"{x}_num_threads") for x in ("get", "set"))
        if self._threads is None and get_threads and set_threads:
            self._threads = int(get_threads())
            set_threads(1)


def _matmul(problem: Problem) -> PythonContender:
    """The product through numpy's own interface."""
    row, c = problem.row, problem.c
    a = problem.a.T if row.transpose_a else problem.a
    b = problem.b.T if row.transpose_b else problem.b
    scratch = np.empty((*a.shape[:-1], row.n), dtype=c.dtype)

    def call() -> None:
        np.matmul(a, b, out=scratch)
        np.add(c, scratch if row.batch == 1 else scratch.sum(axis=0), out=c)

    return PythonContender("numpy", call, row.flops, "np.matmul from Python, and an addition")


class BestOpenBlas:
    """The peer `openblas`: every core type in a process of its own, the best one for each row."""

    name = "openblas"

    def __init__(self) -> None:
        """No process is started before `availability`."""
        self._workers: dict[str, Worker] = {}
        """By the core type that OpenBLAS reports, so that no two are alike."""

    def availability(self) -> Availability:
        """Start a worker for each core type and keep those that took effect."""
        blas = find_blas()
        if blas is None or blas.openblas("get_corename") is None:
            return Availability(
                False, "numpy here is not built on OpenBLAS: pip install numpy (the PyPI wheel)"
            )
        self.close()
        # All are started before any is asked: they import at the same time.
        cores = CORE_TYPES.get(platform.machine(), ())
        started = [(core, Worker("numpy", {"OPENBLAS_CORETYPE": core})) for core in cores]
        for core, worker in started:
            self._keep(core, worker)
        if not self._workers:
            return Availability(False, f"no core type to choose from on {platform.machine()}")
        return Availability(True, f"core types tried: {', '.join(self._workers)}")

    def contender(self, problem: Problem) -> Contender:
        """The fastest core type; one that dies or is wrong is left out."""
        blas_letter(problem.types)
        candidates: list[Contender] = []
        reasons = []
        for core, worker in list(self._workers.items()):
            try:
                candidate = worker.prepare(problem.row, problem.types, self.name)
                candidate.run(1)
                candidates.append(candidate)
            except WorkerDied as error:
                reasons.append(f"{core}: {error}")
                self._workers.pop(core).close()
            except Unable as error:
                reasons.append(f"{core}: {error}")
        if not candidates:
            raise Unable("; ".join(reasons) or "no worker is alive")
        return fastest(candidates)

    def close(self) -> None:
        """End every worker."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def _keep(self, core: str, worker: Worker) -> None:
        """Keep a worker whose core type took effect, and end any other."""
        try:
            reported = worker.core()
        except WorkerDied:
            reported = None
        # An unknown core type makes OpenBLAS fall back to its own choice, under another name.
        if reported is None or reported in self._workers or reported.lower() != core.lower():
            worker.close()
            return
        self._workers[reported] = worker
