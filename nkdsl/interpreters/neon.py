"""What intrinsics of NEON compute, by LLVM's name; a part of `nkdsl.interpreters.upstream`.

The documentation is Arm's, of the instructions SDOT, UDOT, USDOT and BFDOT (vector). Which bits an
intrinsic reads, and how, is said here; the exact arithmetic is borrowed from
`nkdsl.targets.semantics`.
"""

from collections.abc import Callable

from nkdsl.interpreters.buffer import Array
from nkdsl.targets.semantics import dot_bf16_to_odd, dot_int8


def _sdot(acc: Array, lhs: Array, rhs: Array) -> Array:
    """Groups of four products of signed bytes."""
    return dot_int8(acc, _groups(lhs, "i1"), _groups(rhs, "i1"))


def _udot(acc: Array, lhs: Array, rhs: Array) -> Array:
    """Groups of four products of unsigned bytes."""
    return dot_int8(acc, _groups(lhs, "u1"), _groups(rhs, "u1"))


def _usdot(acc: Array, lhs: Array, rhs: Array) -> Array:
    """Groups of four products of unsigned bytes on the left and signed ones on the right."""
    return dot_int8(acc, _groups(lhs, "u1"), _groups(rhs, "i1"))


def _groups(bytes_: Array, type_: str) -> Array:
    return bytes_.view(type_).reshape(-1, 4)


def _bfdot(acc: Array, lhs: Array, rhs: Array) -> Array:
    """Pairs of bf16, as FPCR.EBF = 0 has it, which it is unless a program sets it."""
    return dot_bf16_to_odd(acc, lhs.reshape(-1, 2), rhs.reshape(-1, 2))


NEON: dict[str, Callable[..., Array]] = {
    "llvm.aarch64.neon.sdot.v4i32.v16i8": _sdot,
    "llvm.aarch64.neon.udot.v4i32.v16i8": _udot,
    "llvm.aarch64.neon.usdot.v4i32.v16i8": _usdot,
    "llvm.aarch64.neon.bfdot.v4f32.v8bf16": _bfdot,
}
"""Each takes the accumulator first."""
