"""Derives the polynomials of `nkdsl/functions.py`: `python tools/minimax.py` prints them.

Each is a minimax approximation, found by Remez's exchange: of all polynomials of a degree, the one
whose largest weighted error on an interval is the smallest. Its error reaches that size with
alternating signs in degree + 2 places; from a guess of these places the polynomial is solved for,
the places are moved to the peaks of its error, and so on until they stay. (E. Remez, 1934; a
textbook treatment: J.-M. Muller, Elementary Functions, chapter 3.) Everything is float64, on a grid
of Chebyshev points, which is far more precise than float32 results need.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

POINTS = 8001
ROUNDS = 60

erf = np.vectorize(math.erf, otypes=[np.float64])
erfc = np.vectorize(math.erfc, otypes=[np.float64])


@dataclass(frozen=True)
class Fit:
    """A polynomial to find."""

    degree: int
    low: float
    high: float
    target: Callable[[Array], Array]
    weight: Callable[[Array], Array]
    """What an error of the polynomial is multiplied with to become the error that counts."""


def errors(fit: Fit, coefficients: Array) -> Array:
    """The weighted errors of a polynomial, lowest power first, all over the interval."""
    x = _grid(fit)
    values = np.polynomial.polynomial.polyval(x, coefficients)
    return np.asarray(fit.weight(x) * (values - fit.target(x)))


def minimax(fit: Fit) -> Array:
    """The polynomial's coefficients, lowest power first."""
    x = _grid(fit)
    weight = fit.weight(x)
    interval = [fit.low, fit.high]
    scaled = (2 * x - fit.low - fit.high) / (fit.high - fit.low)
    basis = np.polynomial.chebyshev.chebvander(scaled, fit.degree) * weight[:, None]
    wanted = fit.target(x) * weight
    places = np.linspace(0, POINTS - 1, fit.degree + 2).astype(int)
    signs = (-1.0) ** np.arange(fit.degree + 2)
    for _ in range(ROUNDS):
        solved = np.linalg.solve(np.c_[basis[places], signs], wanted[places])
        peaks = _peaks(wanted - basis @ solved[:-1], fit.degree + 2)
        if np.array_equal(peaks, places):
            break
        places = peaks
    series = np.polynomial.Chebyshev(solved[:-1], interval)
    return np.asarray(series.convert(kind=np.polynomial.Polynomial).coef)


def _grid(fit: Fit) -> Array:
    angles = np.linspace(0, np.pi, POINTS)
    return np.asarray(fit.low + (fit.high - fit.low) * (1 - np.cos(angles)) / 2)


def _peaks(error: Array, count: int) -> npt.NDArray[np.intp]:
    """Where the error is largest between its changes of sign; the smallest at the ends go."""
    changes = np.flatnonzero(np.diff(np.sign(error))) + 1
    runs = np.split(np.arange(len(error)), changes)
    peaks = [run[np.argmax(np.abs(error[run]))] for run in runs]
    while len(peaks) > count:
        peaks.pop(0 if abs(error[peaks[0]]) < abs(error[peaks[-1]]) else -1)
    if len(peaks) < count:
        raise ValueError(f"the error changes its sign {len(peaks) - 1} times, not {count - 1}")
    return np.array(peaks)


# ---- The functions ------------------------------------------------------------------------------

HALF_LN2 = math.log(2) / 2
TINY = 1e-12  # where an interval begins in place of zero, at which the formulas divide by zero
ERFCX_SLOPE = 0.5


def _exp_tail(r: Array) -> Array:
    """(e^r - 1 - r) / r², by its series where the difference would cancel."""
    series = 1 / 2 + r / 6 + r**2 / 24 + r**3 / 120
    with np.errstate(all="ignore"):
        return np.where(np.abs(r) < 1e-3, series, (np.expm1(r) - r) / r**2)


def _exp2_tail(f: Array) -> Array:
    """(2^f - 1) / f, and its limit at zero."""
    nonzero = np.where(f == 0, 1.0, f)
    return np.where(f == 0, math.log(2), np.expm1(nonzero * math.log(2)) / nonzero)


def _over_root(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """f(√u) / √u: what an odd function's argument is multiplied with."""
    return lambda u: np.asarray(function(np.sqrt(u)) / np.sqrt(u))


def _log2_erfc(z: Array) -> Array:
    return np.asarray(np.log2(erfc(z)))


def _erfcx_over(t: Array) -> Array:
    """e^(z²) erfc(z) / t, with t = 1 / (1 + slope z)."""
    z = (1 / t - 1) / ERFCX_SLOPE
    return np.asarray(erfc(z) * np.exp(z * z) / t)


def _relative(degree: int, low: float, high: float, target: Callable[[Array], Array]) -> Fit:
    """A fit in which relative errors count."""
    return Fit(degree, low, high, target, lambda x: 1 / target(x))


FITS = {
    "EXP2_SHORT": _relative(3, -0.5, 0.5, np.exp2),
    "EXP2_TAIL": Fit(5, -0.5, 0.5, _exp2_tail, lambda f: np.abs(f) * np.exp2(-f)),
    # Relative to e^r - 1, a stronger demand than relative to e^r.
    "EXP_TAIL": Fit(
        4,
        -HALF_LN2,
        HALF_LN2,
        _exp_tail,
        lambda r: np.abs(r) / (1 + r / 2 + r**2 / 6 + r**3 / 24 + r**4 / 120),
    ),
    "RECIPROCAL_SHORT": _relative(4, 0.0, 1.0, lambda t: 1 / (1 + t)),
    "TANH_SHORT": _relative(8, TINY, 3.6**2, _over_root(np.tanh)),
    "ERF_SHORT": _relative(5, TINY, 2.25**2, _over_root(erf)),
    "LOG2_ERFC_SHORT": Fit(7, 0.0, 10.1, _log2_erfc, lambda z: np.full_like(z, math.log(2))),
    "ERF_NEAR": _relative(5, TINY, 0.9**2, _over_root(erf)),
    "LOG2_ERFC_FAR": Fit(
        5, 0.9, 3.95, _log2_erfc, lambda z: np.asarray(erfc(z) * math.log(2) / erf(z))
    ),
    "ERFCX": _relative(8, 1 / (1 + 10.1 * ERFCX_SLOPE), 1.0, _erfcx_over),
}
"""By the names in `nkdsl/functions.py`, which says what each is for."""


def main() -> None:
    """Print every polynomial, rounded to float32, and its largest error after that."""
    for name, fit in FITS.items():
        coefficients = minimax(fit).astype(np.float32)
        error = np.abs(errors(fit, coefficients.astype(np.float64))).max()
        listed = "".join(f"    {c!s},\n" for c in coefficients)
        print(f"{name} = (\n{listed})  # error 2^{math.log2(error):.1f}\n")


if __name__ == "__main__":
    main()
