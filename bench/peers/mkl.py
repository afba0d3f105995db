"""Intel's MKL: as PyPI has it, and as it is built into torch.

PyPI's package `mkl` has cblas, with a form for a B that was packed beforehand
(`cblas_sgemm_pack`, `cblas_sgemm_compute`). torch's copy shows the Fortran interface alone. MKL
asks the CPU for its vendor and gives CPUs of other vendors slower code than they can run; it asks
by a function, `mkl_serv_intel_cpu_true`, for which a library loaded before MKL can answer.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from nkdsl.bench.gemm_problem import Operands
from nkdsl.bench.gemm_sets import PACKED
from nkdsl.bench.jit import LLVM_NAMES
from nkdsl.bench.peers.base import Availability, Unable, blas_letter
from nkdsl.bench.peers.cblas import address_of, cblas_ir, fortran_ir, native
from nkdsl.bench.peers.compiled import shared_library
from nkdsl.bench.peers.engine import Made, plain_only
from nkdsl.bench.peers.openblas import NO_TRANS, ROW_MAJOR, TRANS
from nkdsl.bench.peers.places import find_in_peers

PACKED_OPERAND, B_MATRIX = 151, 162
"""MKL's names for an operand that was packed, and for the right one."""
SHIM = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"


class MklEngine:
    """MKL as PyPI has it."""

    def __init__(self) -> None:
        """Nothing is loaded before `availability`."""
        self._library: ctypes.CDLL | None = None

    def availability(self) -> Availability:
        """Load `libmkl_rt`."""
        path = find_in_peers("lib/libmkl_rt.so*")
        if path is None:
            return Availability(False, "no libmkl_rt.so")
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            return Availability(False, f"cannot load {path.name}: {error}")
        return Availability(True, version(self._library))

    def make(self, operands: Operands, contract: str) -> Made:
        """One call of cblas, or one with B packed."""
        if self._library is None:
            raise Unable("no libmkl_rt.so")
        if contract == PACKED:
            return self._packed(self._library, operands)
        function = f"cblas_{blas_letter(operands.types)}gemm"
        address = address_of(self._library, function)
        ir = cblas_ir(operands.row, operands.types, address, 32)
        return native(operands, ir, "mkl", function, self._library)

    def _packed(self, library: ctypes.CDLL, operands: Operands) -> Made:
        row, types = operands.row, operands.types
        stem = f"cblas_{blas_letter(types)}gemm"
        get_size = getattr(library, f"{stem}_pack_get_size", None)
        pack = getattr(library, f"{stem}_pack", None)
        if get_size is None or pack is None:
            raise Unable(f"the library has no {stem}_pack")
        get_size.restype = ctypes.c_size_t
        packed = np.zeros(get_size(B_MATRIX, row.m, row.n, row.k) + 64, np.uint8)
        start = packed.ctypes.data + -packed.ctypes.data % 64
        one = {"f32": ctypes.c_float, "f64": ctypes.c_double}[types.name](1)
        trans = [TRANS if flag else NO_TRANS for flag in (row.transpose_a, row.transpose_b)]
        source = ctypes.c_void_p(operands.b.ctypes.data)
        sizes = (row.m, row.n, row.k)
        pack(
            *(ROW_MAJOR, B_MATRIX, trans[1], *sizes, one),
            *(source, row.shape_b[-1], ctypes.c_void_p(start)),
        )
        scalar = LLVM_NAMES[types.name]
        ir = f"""
define void @thunk(ptr %a, ptr %b, ptr %c) {{
  %f = inttoptr i64 {address_of(library, f"{stem}_compute")} to ptr
  %packed = inttoptr i64 {start} to ptr
  call void %f(i32 {ROW_MAJOR}, i32 {trans[0]}, i32 {PACKED_OPERAND}, i32 {row.m}, i32 {row.n},
               i32 {row.k}, ptr %a, i32 {row.shape_a[-1]}, ptr %packed, i32 {row.shape_b[-1]},
               {scalar} 0.0, ptr %c, i32 {row.n})
  ret void
}}
"""
        return native(operands, ir, "mkl", f"{stem}_compute, B packed", library, packed)


class TorchMklEngine:
    """MKL as it is built into torch."""

    def __init__(self) -> None:
        """Nothing is loaded before `availability`."""
        self._library: ctypes.CDLL | None = None

    def availability(self) -> Availability:
        """Load torch, whose library holds MKL."""
        try:
            import torch
        except (ImportError, OSError) as error:
            return Availability(False, f"no torch: {error}")
        if not torch.backends.mkl.is_available():
            return Availability(False, f"torch {torch.__version__} holds no MKL")
        folder = Path(torch.__file__).parent / "lib"
        self._library = ctypes.CDLL(str(folder / "libtorch_cpu.so"))
        return Availability(True, f"{version(self._library)} in torch {torch.__version__}")

    def make(self, operands: Operands, contract: str) -> Made:
        """One call of the Fortran interface."""
        plain_only(contract, "torch's MKL")
        if self._library is None:
            raise Unable("no torch")
        function = f"{blas_letter(operands.types)}gemm_"
        address = address_of(self._library, function)
        ir = fortran_ir(operands.row, operands.types, address)
        return native(operands, ir, "mkl", f"{function} in torch", self._library)


def version(library: ctypes.CDLL) -> str:
    """MKL's version in its own words."""
    entry = getattr(library, "MKL_Get_Version_String", None) or getattr(
        library, "mkl_get_version_string", None
    )
    if entry is None:
        return "MKL of unknown version"
    text = ctypes.create_string_buffer(200)
    entry(text, 198)
    words = text.value.decode().partition(" for ")[0]
    return words.replace("Intel(R) oneAPI Math Kernel Library Version", "MKL").strip()


def intel_shim() -> Path | None:
    """A library that tells MKL that this CPU is Intel's, or None where nothing can compile it."""
    try:
        return shared_library("mkl-intel-cpu", SHIM, ())
    except Unable:
        return None
