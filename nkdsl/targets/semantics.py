"""What multiply-accumulate instructions compute, in numpy, with the rounding of the hardware.

`fma(acc, lhs, rhs)` is `acc + lhs * rhs` rounded once, lane by lane, as IEEE 754 defines
fusedMultiplyAdd: with infinities, NaN, overflow, subnormal numbers and signed zeros. numpy has
no such operation, and `acc + lhs * rhs` rounds twice. This module adds the missing exactness
by error-free transformations, which cost a few dozen vector operations instead of rational
arithmetic in each lane:

- float32: the product is exact in float64, but a float64 sum that is then rounded to float32
  would still be rounded twice. Rounding that sum *to odd* makes the second rounding right.
- float64: the product is split into two numbers, and the sum of three is rounded once, after
  Boldo and Melquiond. Lanes where the splitting could overflow or lose bits to underflow are
  computed with Python's rational numbers.

Only round-to-nearest-even is modelled, with subnormal numbers kept: generated code runs with
the default MXCSR. A NaN result is *a* NaN: sign and payload are not modelled.

Instructions for low precision follow: `widened_fma` extends factors before it multiplies them,
`dot_bf16` and `tile_dot` flush subnormal numbers as `vdpbf16ps` and `tdpbf16ps` do whatever MXCSR
says, `dot_bf16_to_odd` does so and rounds as `bfdot` of AArch64, and `dot_int8` adds integers
modulo 2^32. `rounded` is the conversion to a narrower type, rounded once.

Sources:
    S. Boldo, G. Melquiond: Emulation of a FMA and correctly rounded sums: proved algorithms
    using rounding to odd. IEEE Transactions on Computers 57(4), 2008, sections 3 and 4.
    T. J. Dekker: A floating-point technique for extending the available precision. Numerische
    Mathematik 18, 1971 (product and splitting, the latter due to Veltkamp).
    D. E. Knuth: The Art of Computer Programming, volume 2, section 4.2.2 (TwoSum).
    Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: VDPBF16PS,
    VCVTNEPS2BF16, VPDPBUSD, PMADDWD, TDPBF16PS; volume 1, section 4.9.1.5: what is tiny is decided
    after rounding.
    Arm Architecture Reference Manual for A-profile architecture (DDI 0487), pseudocode of BFDotAdd,
    BFMul, BFAdd and BFRound.

This module imports no target table, so a test may hold the tables against it.
"""

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from nkdsl.errors import Unsupported
from nkdsl.targets.model import Array

_F64 = npt.NDArray[np.float64]

# Constants are arrays of no dimensions: on few lanes, numpy spends more time on converting a Python
# number than on the operation itself.
_ZERO = np.array(0.0)
_INFINITY = np.array(np.inf)
_LAST_BIT = np.array(1, dtype=np.int64)
_EVEN = np.array(0, dtype=np.int64)

_SPLITTER = np.array(2.0**27 + 1)
"""Veltkamp's constant: splits 53 bits into 26 and 26 (plus a sign)."""

_FACTOR_MIN, _FACTOR_MAX = np.array(2.0**-450), np.array(2.0**450)
"""Factors in this range, or zero: no split overflows, and the error of the product, a multiple of
2^-1004 (the product of the last places), is representable."""

_ADDEND_MAX = np.array(2.0**1000)
"""Addends up to this size: no sum of the transformation overflows."""


def fma(acc: Array, lhs: Array, rhs: Array) -> Array:
    """`acc + lhs * rhs`, rounded once to nearest even.

    Args:
        acc: the addend, float32 or float64.
        lhs: one factor, of the same element type.
        rhs: the other factor, of the same element type.

    Returns:
        The sums, in the shape that the three operands broadcast to and in their element type.

    Raises:
        Unsupported: for other element types, or if the three differ.
    """
    if acc.dtype == lhs.dtype == rhs.dtype:
        with np.errstate(all="ignore"):
            if acc.dtype == np.float32:
                return _fma_f32(acc, lhs, rhs)
            if acc.dtype == np.float64:
                return _fma_f64(acc, lhs, rhs)
    raise Unsupported(
        f"fma of {lhs.dtype} × {rhs.dtype} + {acc.dtype} has no semantics; "
        "supported are three times float32 or three times float64"
    )


def _fma_f32(acc: Array, lhs: Array, rhs: Array) -> Array:
    # 24 + 24 bits fit into 53: the product is exact. 53 ≥ 24 + 2: rounding to odd first, then to
    # nearest, equals rounding once (Boldo and Melquiond, theorem 1).
    product = lhs.astype(np.float64) * rhs.astype(np.float64)
    return np.asarray(_sum_to_odd(product, acc.astype(np.float64)).astype(np.float32))


def _fma_f64(acc: Array, lhs: Array, rhs: Array) -> Array:
    a, b, c = (np.asarray(x, dtype=np.float64) for x in (lhs, rhs, acc))
    fast = _fma_by_splitting(c, a, b)
    safe = _safe_factor(a) & _safe_factor(b) & (np.abs(c) <= _ADDEND_MAX)
    if not safe.all():
        _replace_unsafe(fast, np.broadcast_to(safe, fast.shape), c, a, b)
    return fast


def _fma_by_splitting(c: _F64, a: _F64, b: _F64) -> _F64:
    """The algorithm of Boldo and Melquiond, section 4.1; right where the operands are safe."""
    high, low = _two_product(a, b)
    t_high, t_low = _two_sum(c, low)
    v_high, v_low = _two_sum(high, t_high)
    total = v_high + _sum_to_odd(t_low, v_low)
    # A sum of zero is exact, but `c + low` may have lost the sign of c: take it from plain
    # arithmetic, which is exact there too.
    return np.where(total == _ZERO, high + c, total)


def _safe_factor(x: _F64) -> npt.NDArray[np.bool_]:
    magnitude = np.abs(x)
    in_range = (magnitude >= _FACTOR_MIN) & (magnitude <= _FACTOR_MAX)
    return np.asarray(in_range | (magnitude == _ZERO))


def _two_sum(a: _F64, b: _F64) -> tuple[_F64, _F64]:
    """Knuth's TwoSum: `a + b` rounded, and what the rounding lost; exact unless it overflows."""
    total = a + b
    b_part = total - a
    return total, (a - (total - b_part)) + (b - b_part)


def _two_product(a: _F64, b: _F64) -> tuple[_F64, _F64]:
    """Dekker's product: `a * b` rounded, and what the rounding lost."""
    product = a * b
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def _split(x: _F64) -> tuple[_F64, _F64]:
    """Veltkamp's splitting: two halves whose products are exact."""
    scaled = _SPLITTER * x
    high = scaled - (scaled - x)
    return high, x - high


def _sum_to_odd(a: _F64, b: _F64) -> _F64:
    """`a + b` rounded to odd: of the two neighbours of an inexact sum, the one whose last bit is 1.

    The sum rounded to nearest is one of the neighbours. If its last bit is 0, the other one is
    next to it in the direction of the error. Where the sum is not finite, the error is a NaN, all
    comparisons with it are false, and the sum stays as it is.
    """
    total, error = _two_sum(a, b)
    inexact = np.abs(error) > _ZERO
    even = (total.view(np.int64) & _LAST_BIT) == _EVEN
    odd_neighbour = np.nextafter(total, np.copysign(_INFINITY, error))
    return np.where(inexact & even, odd_neighbour, total)


def _replace_unsafe(
    result: _F64, safe: npt.NDArray[np.bool_], acc: _F64, lhs: _F64, rhs: _F64
) -> None:
    """Overwrite the lanes of `result` that are not safe, one after the other."""
    c, a, b = (np.broadcast_to(x, result.shape) for x in (acc, lhs, rhs))
    for lane in zip(*np.nonzero(~safe), strict=True):
        result[lane] = _fma_exactly(float(c[lane]), float(a[lane]), float(b[lane]))


def _fma_exactly(c: float, a: float, b: float) -> float:
    """`c + a * b` for any three numbers, by rational arithmetic."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return a * b + c
    if not math.isfinite(c):
        return c  # even where a * b alone would overflow
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        # A product that underflowed keeps its sign; an exact cancellation gives +0.
        return a * b + c if c == 0 else 0.0
    try:
        return exact.numerator / exact.denominator  # Python rounds this division correctly
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


# ---- Low precision ----------------------------------------------------------------------------

_SMALLEST_NORMAL = np.array(2.0**-126)
"""Of float32 and of bfloat16, which have exponents of one width."""

_BEYOND_F32 = np.array(2.0**128)
"""The next number after float32's largest, if it had one."""

_TINY = np.array(2.0**-126 - 2.0**-151)
"""Smaller sums are still below the normal range when they are rounded to 24 bits; this one itself
lies in the middle, and is rounded up to an even number."""

_NARROW = tuple(np.dtype(t) for t in (ml_dtypes.bfloat16, np.float16))
"""Types whose numbers float32 has too."""


def widened_fma(acc: Array, lhs: Array, rhs: Array) -> Array:
    """`fma` of factors that are extended to the accumulator's type first, which is exact.

    Args:
        acc: the addend, float32 or float64.
        lhs: one factor, of a type whose numbers the accumulator's type has too.
        rhs: the other factor.

    Returns:
        The sums, in the shape that the three operands broadcast to.
    """
    return fma(acc, lhs.astype(acc.dtype), rhs.astype(acc.dtype))


def dot_bf16(acc: Array, lhs: Array, rhs: Array) -> Array:
    """`vdpbf16ps`: the odd element's product is added to the sum, then the even element's.

    Each is a fused multiply-add of float32, rounded to nearest even, that takes subnormal operands
    for zeros and turns subnormal results into zeros of their sign, MXCSR notwithstanding. Zen 4
    computes just what Intel's manual says, bit for bit.

    Args:
        acc: float32, (...).
        lhs: bfloat16, (..., 2).
        rhs: bfloat16, (..., 2).

    Returns:
        The sums, float32, (...).
    """
    with np.errstate(all="ignore"):
        total = _flushed(acc.astype(np.float64))
        a, b = (_flushed(factor.astype(np.float64)) for factor in (lhs, rhs))
        for element in (1, 0):
            total = _flushing_sum(total, a[..., element] * b[..., element])
        return np.asarray(total.astype(np.float32))


def tile_dot(acc: Array, lhs: Array, rhs: Array) -> Array:
    """`tdpbf16ps` and `tdpfp16ps`: the products of even and of odd k are summed up apart.

    Both sums start at zero and take a fused multiply-add a pair, in order of k. The sum of the two
    is then added to the accumulator. Every operation is one of float32, rounded to nearest even,
    that takes subnormal operands for zeros and turns subnormal results into zeros of their sign,
    MXCSR notwithstanding. Factors of float16 become float32, in which none of them is subnormal.

    Args:
        acc: float32, (...).
        lhs: bfloat16 or float16, (..., k) of an even number of steps.
        rhs: the same.

    Returns:
        The sums, float32, (...).
    """
    with np.errstate(all="ignore"):
        a, b = (_flushed(factor.astype(np.float64)) for factor in (lhs, rhs))
        products = a * b
        even = odd = np.zeros(products.shape[:-1])
        for k in range(0, products.shape[-1], 2):
            even = _flushing_sum(even, products[..., k])
            odd = _flushing_sum(odd, products[..., k + 1])
        total = _flushing_sum(_flushed(acc.astype(np.float64)), _flushing_sum(even, odd))
        return np.asarray(total.astype(np.float32))


def _flushing_sum(total: _F64, exact: _F64) -> _F64:
    """A float32 plus an exact number, rounded once to float32; subnormal sums become zeros."""
    # As in `_fma_f32`; what is tiny is decided by the sum before it is rounded.
    added = _sum_to_odd(exact, total)
    single = added.astype(np.float32).astype(np.float64)
    return np.where(np.abs(added) < _TINY, np.copysign(_ZERO, added), single)


def dot_bf16_to_odd(acc: Array, lhs: Array, rhs: Array) -> Array:
    """`bfdot` of AArch64 without FPCR.EBF: both products are added up, then added to the sum.

    Products and sums are rounded to odd in float32. Subnormal operands count as zeros, and results
    that are tiny before they are rounded become zeros of their sign, FPCR notwithstanding.

    Args:
        acc: float32, (...).
        lhs: bfloat16, (..., 2).
        rhs: bfloat16, (..., 2).

    Returns:
        The sums, float32, (...).
    """
    with np.errstate(all="ignore"):
        a, b = (_flushed(factor.astype(np.float64)) for factor in (lhs, rhs))
        products = _to_odd_f32(a * b)
        both = _to_odd_f32(_sum_to_odd(products[..., 0], products[..., 1]))
        total = _sum_to_odd(_flushed(acc.astype(np.float64)), both)
        return np.asarray(_to_odd_f32(total).astype(np.float32))


def _to_odd_f32(values: _F64) -> _F64:
    """Numbers rounded to odd in float32, those below its normal range to zeros of their sign.

    What was rounded to odd in float64 before is not changed by that.
    """
    finite = np.abs(values) < _BEYOND_F32
    return np.where(finite, _odd_f32(_flushed(values)), values * _INFINITY)


def _flushed(values: _F64) -> _F64:
    """Numbers below float32's normal range as zeros of their sign."""
    subnormal = np.abs(values) < _SMALLEST_NORMAL
    return np.where(subnormal, np.copysign(_ZERO, values), values)


def dot_int8(acc: Array, lhs: Array, rhs: Array) -> Array:
    """A sum of products of integers, modulo 2^32: `vpdpbusd`, `sdot`, `vpmaddwd` with `vpaddd`.

    Args:
        acc: int32, (...).
        lhs: integers of 8 or 16 bits, of either sign, (..., k), or (...) for one product.
        rhs: the same.

    Returns:
        The sums, int32, (...).
    """
    products = lhs.astype(np.int64) * rhs.astype(np.int64)
    if products.ndim > acc.ndim:
        products = products.sum(axis=-1)
    return np.asarray((acc.astype(np.int64) + products).astype(np.int32))


def rounded(values: Array, dtype: np.dtype[Any]) -> Array:
    """Floating-point numbers in another type, rounded once to nearest even where it is narrower.

    Subnormal numbers are kept. The instruction `vcvtneps2bf16` turns those of bfloat16 into zeros:
    what it gives is up to 2^-126 smaller, and nothing else is different.
    """
    with np.errstate(all="ignore"):
        if dtype in _NARROW and values.dtype not in (*_NARROW, np.dtype(np.float32)):
            # ml_dtypes, and numpy with longdouble, would round twice on the way: see `_fma_f32`.
            values = _odd_f32(np.asarray(values))
        return np.asarray(values.astype(dtype))


def _odd_f32(values: npt.NDArray[Any]) -> Array:
    """Numbers of a wider type rounded to odd in float32."""
    single = np.asarray(values.astype(np.float32))
    back = single.astype(values.dtype)
    even = (single.view(np.int32) & np.int32(1)) == 0
    towards = np.where(back < values, np.float32(np.inf), np.float32(-np.inf))
    # Of an overflow the largest number is the odd neighbour, and it still rounds to infinity.
    return np.where((back != values) & even, np.nextafter(single, towards), single)
