"""Polynomials for elementary functions, which the pass `expand-math` evaluates in f32.

Each is a minimax polynomial: lowest power first, rounded to f32. `python tools/minimax.py` derives
them and prints this table; its fits tell the intervals and which error is made small. In each line
is the largest weighted error of the rounded coefficients, relative unless it says otherwise.
A polynomial `_SHORT` is enough for results that are rounded to bf16 (half a unit in the last place
is 2^-9 of the value at least), the others are for f32.
"""

Coefficients = tuple[float, ...]

EXP2_SHORT: Coefficients = (0.99992806, 0.69326097, 0.24261113, 0.05517167)
"""2^f for |f| ≤ 1/2; error 2^-13.7."""

EXP2: Coefficients = (
    *(1.0, 0.6931472, 0.24022648, 0.055503324),
    *(0.009618437, 0.0013398874, 0.00015353362),
)
"""2^f for |f| ≤ 1/2, exact at 0; error 2^-25.9."""

EXP: Coefficients = (
    *(1.0, 1.0, 0.49999997, 0.16666543),
    *(0.0416672, 0.008366514, 0.0013882525),
)
"""e^r for |r| ≤ ln(2)/2, exact at 0; error 2^-25.8, relative to e^r - 1 even."""

RECIPROCAL_SHORT: Coefficients = (0.9997027, -0.9848352, 0.86589277, -0.5328551, 0.15224352)
"""1/(1 + t) for 0 ≤ t ≤ 1; error 2^-11.7."""

TANH_SHORT: Coefficients = (
    *(0.999343, -0.32423967, 0.110463224, -0.028835675, 0.005167309),
    *(-0.0005996894, 4.265165e-05, -1.6815067e-06, 2.8066026e-08),
)
"""tanh(x)/x as a polynomial in x², for |x| ≤ TANH_SHORT_END; error 2^-10.5."""

TANH_SHORT_END = 3.6
"""From here on tanh rounds to 1 in bf16, and so does the polynomial's last value."""

ERF_SHORT: Coefficients = (
    *(1.1281563, -0.3731898, 0.106037885),
    *(-0.02067303, 0.0023920478, -0.00012081957),
)
"""erf(z)/z as a polynomial in z², for |z| ≤ ERF_SHORT_END; error 2^-12.3."""

ERF_SHORT_END = 2.25
"""From here on erf rounds to 1 in bf16, and so does the polynomial's last value."""

LOG2_ERFC_SHORT: Coefficients = (
    *(-0.0011084027, -1.6123289, -0.9537737, -0.119940914),
    *(0.019922646, -0.0020441804, 0.000115635165, -2.7425292e-06),
)
"""log2(erfc(z)) for 0 ≤ z ≤ ERFC_END; error 2^-10.3 of erfc."""

ERFC_END = 10.1
"""Here erfc is 2^-152, which rounds to zero even where f32 is subnormal."""

ERF_NEAR: Coefficients = (
    *(1.1283791, -0.37612525, 0.11282141),
    *(-0.026778908, 0.0050119627, -0.000609036),
)
"""erf(z)/z as a polynomial in z², for |z| ≤ ERF_SPLIT; error 2^-23.6."""

ERF_SPLIT = 0.9
"""Where ERF_NEAR ends and LOG2_ERFC_FAR begins."""

LOG2_ERFC_FAR: Coefficients = (
    *(-0.0026289595, -1.6163924, -0.93840635),
    *(-0.13175099, 0.022581898, -0.0018197952),
)
"""log2(erfc(z)) for ERF_SPLIT ≤ z ≤ ERF_END; error 2^-24.7 of erf = 1 - erfc."""

ERF_END = 3.95
"""From here on erf rounds to 1 in f32."""

ERFCX: Coefficients = (
    *(0.28208622, 0.28237876, 0.24307884, 0.20278504, -0.026856828),
    *(0.27840158, -0.4874913, 0.2847153, -0.05909765),
)
"""e^(z²) erfc(z) / t as a polynomial in t = 1/(1 + ERFCX_SLOPE z), for 0 ≤ z ≤ ERFC_END; error
2^-24.0. The change of variable is Shepherd and Laframboise's (Mathematics of Computation 36, 1981)
with another numerator: it maps the long tail, in which the function falls as 1/z, onto an interval.
"""

ERFCX_SLOPE = 0.5
"""Chosen by trying: a smaller one magnifies the error of t near z = 0, a larger one the fit's."""
