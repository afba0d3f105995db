"""libxsmm: small matrix products by a JIT of its own, called at its best.

libxsmm is column-major and vectorizes over its m. Row-major C += A·B is column-major
C^T += B^T·A^T on the same memory, so our B is its first operand and our n its vector dimension:

    ours (row-major)          libxsmm (column-major)
    C[m×n] += A[m×k]·B[k×n]   dispatch(m=n, n=m, k, lda=n, ldb=k, ldc=n); kernel(B, A, C)

The other orientation, with m in the vectors, would need a C^T in memory. Where C is a column
(n = 1) it is its own transpose, so both are tried. Batch-reduce products have a strided form, one
with an unrolling hint, and one by arrays of addresses. Every form that libxsmm will generate is
checked and the fastest is timed; what its JIT refuses (some transposed operands) is reported.
Kernels are dispatched beforehand: what is timed is the bare kernel through its own pointer.

The library is the shared one that `NKDSL_LIBXSMM` names (libxsmm 1.x), else one that the system's C
compiler links from Debian's static libxsmm-dev into the user's cache.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nkdsl.bench.gemm_problem import Operands
from nkdsl.bench.jit import compile_ir
from nkdsl.bench.machine import cache_directory
from nkdsl.bench.peers.base import Availability, Unable, checked
from nkdsl.bench.peers.engine import Made, plain_only
from nkdsl.bench.problem import Problem, Row
from nkdsl.bench.timing import Contender, NativeContender, fastest

HOW_TO_GET = (
    "apt-get install libxsmm-dev gcc, or set NKDSL_LIBXSMM to a shared libxsmm 1.x (libxsmm.so)"
)
SHIM = Path(__file__).with_name("libxsmm_shim.c")
ARCHIVES = ("libxsmm.a", "libxsmmnoblas.a")
BUILD_TIMEOUT_S = 120

LARGEST = 192
"""Whole products up to this many rows, columns and terms on average are libxsmm's business."""
TRANS_A, TRANS_B = 1, 2
PREFETCH_NONE = 0
LETTERS = {"f32": "s", "f64": "d"}
SCALARS: dict[str, type[ctypes.c_float] | type[ctypes.c_double]] = {
    "f32": ctypes.c_float,
    "f64": ctypes.c_double,
}


@dataclass(frozen=True)
class Call:
    """One product in libxsmm's terms: column-major, its m along the vectors."""

    label: str
    m: int
    n: int
    k: int
    lda: int
    ldb: int
    ldc: int
    flags: int
    swapped: bool
    """Our B is libxsmm's first operand."""


class _Loading:
    """What both ways to call the library have in common."""

    def __init__(self) -> None:
        """Nothing is loaded before `availability`."""
        self._library: ctypes.CDLL | None = None

    def availability(self) -> Availability:
        """Find or build the shared library and load it."""
        try:
            self._library, origin = _load()
        except Unable as error:
            return Availability(False, str(error))
        return Availability(True, f"{_version(self._library)}, {origin}")


class Libxsmm(_Loading):
    """The peer `libxsmm`."""

    name = "libxsmm"

    def contender(self, problem: Problem) -> Contender:
        """The fastest of the checked kernels that libxsmm generates for this problem."""
        if self._library is None:
            raise Unable(HOW_TO_GET)
        row = problem.row
        forms = _gemm_forms if row.batch == 1 else _batch_reduce_forms
        candidates = list(forms(self._library, problem))
        if not candidates:
            raise Unable(f"libxsmm's JIT returned no kernel for {row.name} {problem.element.name}")
        return fastest([checked(problem, candidate) for candidate in candidates])

    def close(self) -> None:
        """Nothing to give back."""


class LibxsmmEngine(_Loading):
    """One kernel for a whole product, C := A·B."""

    def make(self, operands: Operands, contract: str) -> Made:
        """The bare kernel, in the orientation that needs no transpose of C."""
        plain_only(contract, "libxsmm")
        row = operands.row
        if self._library is None:
            raise Unable(HOW_TO_GET)
        if row.m * row.n * row.k > LARGEST**3:
            raise Unable("libxsmm is for small products")
        call = next(calls(row))
        address = _dispatch(self._library, "mmdispatch", operands, call, beta=0)
        if not address:
            raise Unable("libxsmm's JIT returned no kernel")
        a, b, c = operands.pointers
        return Made(NativeContender("libxsmm", address, (b, a, c), row.flops, "", (operands,)))


def calls(row: Row) -> Iterator[Call]:
    """The orientations in which libxsmm could serve a row, the natural one first."""
    m, n, k = row.m, row.n, row.k
    flags = (TRANS_A if row.transpose_b else 0) | (TRANS_B if row.transpose_a else 0)
    stored_b, stored_a = (k if row.transpose_b else n), (m if row.transpose_a else k)
    yield Call("n in lanes", n, m, k, stored_b, stored_a, n, flags, swapped=True)
    if n == 1:
        flags = 0 if row.transpose_a else TRANS_A
        yield Call("m in lanes", m, 1, k, stored_a, k, m, flags, swapped=False)


def _gemm_forms(library: ctypes.CDLL, problem: Problem) -> Iterator[NativeContender]:
    for call in calls(problem.row):
        address = _dispatch(library, "mmdispatch", problem, call)
        if address:
            a, b, c = problem.pointers
            operands = (b, a, c) if call.swapped else (a, b, c)
            yield _native(problem, address, operands, call.label)


def _batch_reduce_forms(library: ctypes.CDLL, problem: Problem) -> Iterator[NativeContender]:
    row, size = problem.row, problem.element.size
    call = next(calls(row))
    a, b, c = problem.pointers
    step_a, step_b = row.m * row.k * size, row.k * row.n * size
    count = np.array([row.batch], dtype=np.uint64)
    strided = (
        ("strided", "mmdispatch_reducebatch_strd", (step_b, step_a)),
        ("strided, unroll hint", "mmdispatch_reducebatch_strd_unroll", (step_b, step_a, row.batch)),
    )
    for label, function, extra in strided:
        if address := _dispatch(library, function, problem, call, extra):
            yield _native(problem, address, (b, a, c, count.ctypes.data), label, count)
    if address := _dispatch(library, "mmdispatch_reducebatch_addr", problem, call):
        steps = np.arange(row.batch, dtype=np.uint64)
        addresses = np.concatenate([b + step_b * steps, a + step_a * steps])
        working = np.empty_like(addresses)
        thunk = compile_ir(addresses_ir(row.batch), "thunk")
        arguments = tuple(x.ctypes.data for x in (addresses, working, count))
        arguments = (address, *arguments, c)
        keep = (thunk, addresses, working, count)
        yield _native(problem, thunk.address, arguments, "addresses", *keep)


def addresses_ir(batch: int) -> str:
    """A call of the form by addresses, on a fresh copy of both lists.

    The kernel moves the addresses in its caller's memory on (libxsmm 1.17) and does not move them
    back, so whoever calls it twice has to write them twice.
    """
    return f"""
declare void @llvm.memcpy.inline.p0.p0.i64(ptr, ptr, i64, i1)
define void @thunk(ptr %kernel, ptr %addresses, ptr %first, ptr %count, ptr %c) {{
  call void @llvm.memcpy.inline.p0.p0.i64(ptr %first, ptr %addresses, i64 {16 * batch}, i1 false)
  %second = getelementptr i64, ptr %first, i64 {batch}
  call void %kernel(ptr %first, ptr %second, ptr %c, ptr %count)
  ret void
}}
"""


def _native(
    problem: Problem, address: int, arguments: tuple[int, ...], detail: str, *keep: object
) -> NativeContender:
    return NativeContender(
        "libxsmm", address, arguments, problem.row.flops, detail, (problem, *keep)
    )


def _dispatch(
    library: ctypes.CDLL,
    function: str,
    problem: Problem | Operands,
    call: Call,
    extra: tuple[int, ...] = (),
    beta: int = 1,
) -> int | None:
    """Have a kernel generated for C := beta·C + A·B; its address, or None where it cannot be."""
    entry = getattr(library, f"libxsmm_{LETTERS[problem.element.name]}{function}", None)
    if entry is None:
        return None
    entry.restype = ctypes.c_void_p
    one, factor = (SCALARS[problem.element.name](x) for x in (1, beta))
    pointers = [ctypes.byref(ctypes.c_int(x)) for x in (call.lda, call.ldb, call.ldc)]
    flags, prefetch = ctypes.c_int(call.flags), ctypes.c_int(PREFETCH_NONE)
    sizes = [ctypes.c_int(x) for x in (call.m, call.n, call.k, *extra)]
    scalars = [ctypes.byref(one), ctypes.byref(factor), ctypes.byref(flags), ctypes.byref(prefetch)]
    address: int | None = entry(*sizes, *pointers, *scalars)
    return address


def _load() -> tuple[ctypes.CDLL, str]:
    """The loaded library and where it came from."""
    chosen = os.environ.get("NKDSL_LIBXSMM")
    path = Path(chosen) if chosen else build_shim()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unable(f"cannot load libxsmm: {error}; {HOW_TO_GET}") from error
    if not hasattr(library, "libxsmm_smmdispatch"):
        raise Unable(f"{path.name} is no libxsmm 1.x: it lacks libxsmm_smmdispatch; {HOW_TO_GET}")
    library.libxsmm_init()
    return library, "NKDSL_LIBXSMM" if chosen else "linked from libxsmm-dev"


def _version(library: ctypes.CDLL) -> str:
    """Version, as far as the library tells, and the instruction set its JIT targets."""
    library.libxsmm_get_target_arch.restype = ctypes.c_char_p
    arch = library.libxsmm_get_target_arch().decode()
    entry = getattr(library, "nkdsl_libxsmm_version", None)
    if entry is None:
        return f"1.x ({arch})"
    entry.restype = ctypes.c_char_p
    return f"{entry().decode()} ({arch})"


def build_shim() -> Path:
    """Link the static archives into a shared library in the user's cache, once for each of them.

    Raises:
        Unable: no C compiler, no archive, or the linker refuses.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Unable(f"no C compiler; {HOW_TO_GET}")
    archives = [_archive(compiler, name) for name in ARCHIVES]
    key = hashlib.sha256(SHIM.read_bytes())
    for archive in archives:
        status = archive.stat()
        key.update(f"{archive}:{status.st_size}:{status.st_mtime_ns}".encode())
    target = cache_directory() / f"libxsmm-{key.hexdigest()[:16]}.so"
    if not target.exists():
        _link(compiler, archives, target)
    return target


def _archive(compiler: str, name: str) -> Path:
    """Where the compiler would find a static library."""
    result = subprocess.run(
        [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=False
    )
    path = Path(result.stdout.strip() or name)
    if not path.is_absolute() or not path.exists():
        raise Unable(f"{name} not found; {HOW_TO_GET}")
    return path.resolve()


def _link(compiler: str, archives: list[Path], target: Path) -> None:
    """Build beside the target and rename, so that nobody ever loads half a library."""
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        built = Path(directory) / target.name
        command = [compiler, "-O2", "-fPIC", "-shared", "-o", str(built), str(SHIM)]
        command += [*(str(archive) for archive in archives), "-lpthread", "-ldl", "-lm"]
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=BUILD_TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            raise Unable(f"the C compiler took over {BUILD_TIMEOUT_S} s to link libxsmm") from error
        if result.returncode:
            lines = result.stderr.strip().splitlines() or ["no message"]
            raise Unable(f"cannot link libxsmm: {lines[0]}; {HOW_TO_GET}")
        os.replace(built, target)
