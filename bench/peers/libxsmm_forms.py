"""How libxsmm is asked for a kernel: its two interfaces, 1.x and 2.x, behind one.

`Work` is a product in memory in libxsmm's terms, and a `Form` one kernel for it, ready to be
called. libxsmm 1.x has a function for each element type and each kind of batch, and its kernels
take addresses:

    kernel = libxsmm_bsmmdispatch(m, n, k, &lda, &ldb, &ldc, &alpha, &beta, &flags, &prefetch)
    kernel(a, b, c)

libxsmm 2.x has one function for all of them, and its kernels take a structure of addresses:

    kernel = libxsmm_dispatch_brgemm(shape, flags, prefetch, batch)
    kernel(&parameters)

The structures and numbers of 2.x are those of its headers as of 2.0.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nkdsl.bench.jit import compile_ir
from nkdsl.bench.problem import Types

TRANS_A, TRANS_B = 1, 2


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
    """`TRANS_A`, `TRANS_B`."""
    swapped: bool
    """Our B is libxsmm's first operand."""


@dataclass(frozen=True)
class Work:
    """A product C := beta·C + A·B, or a sum of them, in memory."""

    types: Types
    call: Call
    operands: tuple[int, int, int]
    """Addresses of libxsmm's A, B and C."""
    steps: tuple[int, int] = (0, 0)
    """Bytes from one A to the next, and from one B to the next."""
    batch: int = 1
    beta: int = 1

    def addresses(self) -> list[np.ndarray[tuple[int], np.dtype[np.uint64]]]:
        """Those of every A, and those of every B."""
        count = np.arange(self.batch, dtype=np.uint64)
        return [
            start + step * count for start, step in zip(self.operands[:2], self.steps, strict=True)
        ]


@dataclass(frozen=True)
class Form:
    """A kernel that libxsmm generated, with its arguments."""

    label: str
    address: int
    arguments: tuple[int, ...]
    keep: tuple[object, ...] = ()
    """Owners of what the arguments point to."""


class Interface(Protocol):
    """A loaded libxsmm."""

    @property
    def one_structure(self) -> bool:
        """Whether kernels take one structure of addresses; else they take the addresses."""

    def forms(self, work: Work) -> Iterator[Form]:
        """Every kernel that its JIT returns for some work."""

    def strided(self, work: Work) -> Iterator[tuple[str, int]]:
        """Label and address of every kernel for factors that lie a step apart, wherever that is.

        The bare kernel where there is one pair of them; else each takes their number as well.
        """


# ------------------------------------------------------------------------------------------- 1.x


class One:
    """libxsmm 1.x."""

    STEMS = {"f32": "s", "f64": "d", "bf16": "bs", "u8s8": "subi", "s8s8": "ssbi"}
    """Of its functions by our types; in subi libxsmm's first operand, our B, is the signed one."""
    SCALARS: dict[str, type[ctypes.c_float | ctypes.c_double | ctypes.c_int]] = {
        "f32": ctypes.c_float,
        "f64": ctypes.c_double,
        "s32": ctypes.c_int,
    }
    """Types of alpha and beta, by that of sums."""
    VNNI_A = 1 << 15
    PREFETCH_NONE = 0
    one_structure = False

    def __init__(self, library: ctypes.CDLL) -> None:
        """`library` is loaded and initialized."""
        self._library = library

    def forms(self, work: Work) -> Iterator[Form]:
        """The bare kernel; of batches, a strided form, one with a hint, and one by addresses."""
        count = np.array([work.batch], dtype=np.uint64)
        several = (count.ctypes.data,) if work.batch > 1 else ()
        for label, address in self.strided(work):
            yield Form(label, address, (*work.operands, *several), (count,))
        if work.batch == 1:
            return
        if by_address := self._dispatch(work, "mmdispatch_reducebatch_addr"):
            addresses = np.concatenate(work.addresses())
            working = np.empty_like(addresses)
            thunk = compile_ir(addresses_ir(work.batch), "thunk")
            lists = tuple(x.ctypes.data for x in (addresses, working, count))
            arguments = (by_address, *lists, work.operands[2])
            yield Form("addresses", thunk.address, arguments, (thunk, addresses, working, count))

    def strided(self, work: Work) -> Iterator[tuple[str, int]]:
        """The bare kernel; or one for factors a step apart, and one with a hint at their number."""
        functions: dict[str, tuple[str, tuple[int, ...]]] = {work.call.label: ("mmdispatch", ())}
        if work.batch > 1:
            stem, hint = "mmdispatch_reducebatch_strd", (*work.steps, work.batch)
            functions = {
                "strided": (stem, work.steps),
                "strided, unroll hint": (f"{stem}_unroll", hint),
            }
        for label, (function, extra) in functions.items():
            if address := self._dispatch(work, function, extra):
                yield label, address

    def _dispatch(self, work: Work, function: str, extra: tuple[int, ...] = ()) -> int | None:
        """Have a kernel generated; its address, or None where it cannot be."""
        types, call = work.types, work.call
        entry = getattr(self._library, f"libxsmm_{self.STEMS[types.name]}{function}", None)
        if entry is None:
            return None
        entry.restype = ctypes.c_void_p
        scalars = [self.SCALARS[types.sums.name](x) for x in (1, work.beta)]
        flags = ctypes.c_int(call.flags | (self.VNNI_A if types.narrow else 0))
        leading = [ctypes.c_int(x) for x in (call.lda, call.ldb, call.ldc)]
        sizes = [ctypes.c_int(x) for x in (call.m, call.n, call.k, *extra)]
        pointers = [*leading, *scalars, flags, ctypes.c_int(self.PREFETCH_NONE)]
        address: int | None = entry(*sizes, *(ctypes.byref(x) for x in pointers))
        return address


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


# ------------------------------------------------------------------------------------------- 2.x


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int) for name in ("m", "n", "k", "lda", "ldb", "ldc", "a", "b", "c", "sum")
    ]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int),
        ("step_a", ctypes.c_int),
        ("step_b", ctypes.c_int),
        ("unroll", ctypes.c_ubyte),
    ]


class Two:
    """libxsmm 2.x."""

    TYPES = {"f64": 0, "f32": 1, "bf16": 2, "f16": 3, "s32": 8, "s8": 12, "u8": 13}
    BETA_0, VNNI_A = 1 << 2, 1 << 8
    ADDRESS, STRIDE = 1, 4
    """Kinds of batches."""
    one_structure = True
    LARGEST_HINT = 255
    WORDS = 22
    """Of the parameters: 4 of the operation, then 6 of each operand."""
    COUNT, FIRST, SECOND, THIRD = 2, 4, 10, 16
    """Where among them the number of pairs is found, and A, B and C."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """`library` is loaded and initialized."""
        self._library = library

    def forms(self, work: Work) -> Iterator[Form]:
        """The bare kernel; of batches, a strided form, one with a hint, and one by addresses."""
        for label, address in self.strided(work):
            yield self._form(work, label, address, work.operands)
        if work.batch == 1:
            return
        if by_address := self._dispatch(work, _Batch(self.ADDRESS, 0, 0, 0)):
            first, second = work.addresses()
            lists = (first.ctypes.data, second.ctypes.data, work.operands[2])
            yield self._form(work, "addresses", by_address, lists, first, second)

    def strided(self, work: Work) -> Iterator[tuple[str, int]]:
        """The bare kernel; or one for factors a step apart, and one with a hint at their number."""
        batches: dict[str, _Batch | None] = {work.call.label: None}
        if work.batch > 1:
            hint = min(work.batch, self.LARGEST_HINT)
            unrolled = {"strided": 0, "strided, unroll hint": hint}
            batches = {
                label: _Batch(self.STRIDE, *work.steps, unroll)
                for label, unroll in unrolled.items()
            }
        for label, batch in batches.items():
            if address := self._dispatch(work, batch):
                yield label, address

    def _form(
        self, work: Work, label: str, address: int, operands: tuple[int, int, int], *keep: object
    ) -> Form:
        count = np.array([work.batch], dtype=np.uint64)
        words = np.zeros(self.WORDS, dtype=np.uint64)
        words[[self.FIRST, self.SECOND, self.THIRD]] = operands
        words[self.COUNT] = count.ctypes.data
        return Form(label, address, (words.ctypes.data,), (words, count, *keep))

    def _dispatch(self, work: Work, batch: _Batch | None) -> int | None:
        """Have a kernel generated; its address, or None where it cannot be."""
        types, call = work.types, work.call
        first, second = (types.rhs, types.lhs) if call.swapped else (types.lhs, types.rhs)
        elements = (first, second, types.out, types.sums)
        sizes = (call.m, call.n, call.k, call.lda, call.ldb, call.ldc)
        shape = _Shape(*sizes, *(self.TYPES[element.name] for element in elements))
        flags = call.flags | (self.VNNI_A if types.narrow else 0)
        flags |= 0 if work.beta else self.BETA_0
        name = "libxsmm_dispatch_gemm" if batch is None else "libxsmm_dispatch_brgemm"
        entry = getattr(self._library, name)
        entry.restype = ctypes.c_void_p
        last = () if batch is None else (batch,)
        prefetch = ctypes.c_uint(0)
        address: int | None = entry(shape, ctypes.c_uint(flags), prefetch, *last)
        return address


def interface(library: ctypes.CDLL) -> Interface | None:
    """The interface that a library has; None where it is no libxsmm."""
    if hasattr(library, "libxsmm_smmdispatch"):
        return One(library)
    if hasattr(library, "libxsmm_dispatch_brgemm"):
        return Two(library)
    return None
