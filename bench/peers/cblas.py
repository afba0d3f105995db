"""Libraries with BLAS's C or Fortran interface, called natively: numpy's OpenBLAS, and BLIS.

A generated thunk bakes in everything but the operands, so that a contender is a native function of
three pointers:

    define void @thunk(ptr %a, ptr %b, ptr %c) {
      call void @cblas_sgemm(i32 101, i32 111, i32 111, i64 m, i64 n, i64 k, float 1.0, …)
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import numpy as np

from nkdsl.bench.gemm_problem import Operands
from nkdsl.bench.jit import LLVM_NAMES, compile_ir
from nkdsl.bench.peers.base import Availability, Unable, blas_letter
from nkdsl.bench.peers.engine import Made, plain_only
from nkdsl.bench.peers.openblas import NO_TRANS, ROW_MAJOR, TRANS, find_blas
from nkdsl.bench.problem import Row, Types
from nkdsl.bench.timing import NativeContender

BLIS_KINDS = 16
"""Of so many kinds of core at least, every version of BLIS knows the names."""
BLIS_KERNELS = "NKDSL_BLIS_KERNELS"
"""Whose kernels BLIS shall use, in its words; it takes only numbers, which change with versions."""


def native(operands: Operands, ir: str, name: str, detail: str, *keep: object) -> Made:
    """A contender of a function `@thunk` of three pointers."""
    thunk = compile_ir(ir, "thunk")
    return Made(
        NativeContender(
            name,
            thunk.address,
            operands.pointers,
            operands.row.flops,
            detail,
            (thunk, operands, *keep),
        )
    )


def address_of(library: ctypes.CDLL, symbol: str) -> int:
    """Where a function of a library is.

    Raises:
        Unable: it has no such function.
    """
    try:
        entry = getattr(library, symbol)
    except AttributeError as error:
        raise Unable(f"the library has no {symbol}") from error
    return ctypes.cast(entry, ctypes.c_void_p).value or 0


def cblas_ir(row: Row, types: Types, address: int, bits: int) -> str:
    """A thunk around `cblas_?gemm`, whose integers have so many bits."""
    integer, scalar = f"i{bits}", LLVM_NAMES[types.name]
    trans = (TRANS if flag else NO_TRANS for flag in (row.transpose_a, row.transpose_b))
    arguments = ", ".join(
        [
            *(f"i32 {x}" for x in (ROW_MAJOR, *trans)),
            *(f"{integer} {x}" for x in (row.m, row.n, row.k)),
            *(f"{scalar} 1.0", f"ptr %a, {integer} {row.shape_a[-1]}"),
            *(f"ptr %b, {integer} {row.shape_b[-1]}", f"{scalar} 0.0"),
            f"ptr %c, {integer} {row.n}",
        ]
    )
    return f"""
define void @thunk(ptr %a, ptr %b, ptr %c) {{
  %f = inttoptr i64 {address} to ptr
  call void %f({arguments})
  ret void
}}
"""


def fortran_ir(row: Row, types: Types, address: int) -> str:
    """A thunk around `?gemm_`, which is column-major: it computes C^T := op(B)^T·op(A)^T."""
    scalar = LLVM_NAMES[types.name]
    integers = {
        "m": row.n,
        "n": row.m,
        "k": row.k,
        "lda": row.shape_b[-1],
        "ldb": row.shape_a[-1],
        "ldc": row.n,
    }
    letters = {"ta": row.transpose_b, "tb": row.transpose_a}
    constants = [f"@{name} = private constant i32 {value}" for name, value in integers.items()]
    constants += [
        f"@{name} = private constant i8 {ord('T' if flag else 'N')}"
        for name, flag in letters.items()
    ]
    constants += [f"@one = private constant {scalar} 1.0", f"@zero = private constant {scalar} 0.0"]
    order = ("@ta", "@tb", "@m", "@n", "@k", "@one", "%b", "@lda", "%a", "@ldb", "@zero")
    # gfortran and the libraries that follow it take the lengths of strings last.
    arguments = ", ".join([*(f"ptr {name}" for name in (*order, "%c", "@ldc")), "i64 1", "i64 1"])
    return "\n".join(
        [
            *constants,
            "define void @thunk(ptr %a, ptr %b, ptr %c) {",
            f"  %f = inttoptr i64 {address} to ptr",
            f"  call void %f({arguments})",
            "  ret void",
            "}",
        ]
    )


class NumpyEngine:
    """The OpenBLAS that numpy carries, or whatever BLAS it is linked with."""

    def availability(self) -> Availability:
        """Tell what it is, and which core's kernels it uses."""
        self._blas = find_blas()
        if self._blas is None:
            return Availability(False, "numpy hides its BLAS: pip install numpy (the PyPI wheel)")
        config = self._blas.text("get_config") or "BLAS of unknown make"
        core = self._blas.text("get_corename")
        return Availability(True, f"{np.__version__}, {' '.join(config.split()[:2])}, core {core}")

    def make(self, operands: Operands, contract: str) -> Made:
        """One call of cblas."""
        plain_only(contract, "OpenBLAS")
        if self._blas is None:
            raise Unable("numpy hides its BLAS")
        row, types = operands.row, operands.types
        function = f"cblas_{blas_letter(types)}gemm"
        ir = cblas_ir(row, types, self._blas.address(function), self._blas.int_bits)
        detail = f"{function}, core {self._blas.text('get_corename')}"
        return native(operands, ir, "openblas", detail)


class BlisEngine:
    """BLIS as Debian packages it, or the library that `NKDSL_BLIS` names."""

    def __init__(self) -> None:
        """Nothing is loaded before `availability`."""
        self._library: ctypes.CDLL | None = None

    def availability(self) -> Availability:
        """Load the library."""
        path = find_blis()
        try:
            self._library = ctypes.CDLL(path) if path else None
        except OSError as error:
            return Availability(False, f"cannot load {path}: {error}")
        if self._library is None:
            return Availability(False, "no libblis.so.4")
        self._choose(os.environ.get(BLIS_KERNELS))
        return Availability(True, f"{self._version()}, kernels for {self._architecture()}")

    def make(self, operands: Operands, contract: str) -> Made:
        """One call of cblas."""
        plain_only(contract, "BLIS")
        if self._library is None:
            raise Unable("no libblis.so.4")
        function = f"cblas_{blas_letter(operands.types)}gemm"
        address = address_of(self._library, function)
        ir = cblas_ir(operands.row, operands.types, address, 32)
        return native(operands, ir, "blis", f"{function}, {self._architecture()}", self._library)

    def _choose(self, kernels: str | None) -> None:
        """Set what BLIS reads when it is initialized, and initialize it."""
        for number in range(BLIS_KINDS):
            if kernels and self._name(number) == kernels:
                os.environ["BLIS_ARCH_TYPE"] = str(number)
        # Asked for its architecture before, it would end the process.
        if initialize := getattr(self._library, "bli_init", None):
            initialize()

    def _version(self) -> str:
        return self._text("bli_info_get_version_str")

    def _architecture(self) -> str:
        """Whose kernels are used."""
        query = getattr(self._library, "bli_arch_query_id", None)
        return self._name(query()) if query else "an unknown core"

    def _name(self, number: int) -> str:
        """A kind of core in BLIS's words."""
        name = getattr(self._library, "bli_arch_string", None)
        if name is None:
            return "unknown"
        name.restype = ctypes.c_char_p
        text: bytes | None = name(number)
        return text.decode() if text else "unknown"

    def _text(self, function: str) -> str:
        entry = getattr(self._library, function, None)
        if entry is None:
            return "unknown version"
        entry.restype = ctypes.c_char_p
        text: bytes = entry()
        return text.decode()


def find_blis() -> str | None:
    """The path of a BLIS whose threads are OpenMP's, else of any."""
    if chosen := os.environ.get("NKDSL_BLIS"):
        return chosen
    folders = [Path(folder) for folder in ("/usr/lib", "/usr/local/lib", "/usr/lib64")]
    for build in ("*/blis-openmp", "*/blis-pthread", "*/blis-serial", ".", "*"):
        for folder in folders:
            for path in sorted(folder.glob(f"{build}/libblis.so.*")):
                return str(path)
    return None
