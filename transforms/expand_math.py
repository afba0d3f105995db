"""`expand-math`: elementary functions in epilogues become arithmetic.

An epilogue is unrolled to registers op by op, and no processor has an instruction for `math.exp`.
This pass rewrites `math.exp`, `exp2`, `tanh`, `erf` and `rsqrt` on f32 into `arith` ops, constants,
and those ops of `math` that are an instruction: `fma`, `absf`, `copysign` and `sqrt`. Everything
else stays: other functions, other types.

```mlir
%e = math.exp2 %x : f32
// becomes, where the result is rounded to bf16 (constants written in place)
%low = arith.maximumf %x, -160.0 : f32                // NaN passes through
%y = arith.minimumf %low, 130.0 : f32
%z = math.fma %y, 0.5, 12583039.0 : f32               // n = round(y / 2), biased, in the last bits
%n = arith.subf 12583039.0, %z : f32                  // -n
%f = math.fma %y, 0.5, %n : f32                       // the fraction, |f| ≤ 1/2
%p2 = math.fma %f, 0.05517167, 0.24261113 : f32       // 2^f by a polynomial
%p1 = math.fma %p2, %f, 0.69326097 : f32
%p = math.fma %p1, %f, 0.99992806 : f32
%bits = arith.bitcast %z : f32 to i32
%exponent = arith.shli %bits, 23 : i32                // the bits of 2^n
%power = arith.bitcast %exponent : i32 to f32
%root = arith.mulf %p, %power : f32
%e = arith.mulf %root, %root : f32                    // overflows and underflows by itself
```

**Two forms.** Where the epilogue yields bf16, the *short* form is within 2^-9 of the value, half a
unit of bf16's last place or less, so that what is stored is one unit from the correctly rounded
value at most: bf16 results that end in exp, tanh, erf, sigmoid, silu or gelu have been compared for
every bf16 argument. Everywhere else, f16 included, the *full* form has an error of a few units in
f32's last place; the largest seen on a dense sample of all arguments, in such units:

| function | error | function | error |
|---|---|---|---|
| exp | 3.0 | tanh | 2.5 |
| exp2 | 2.5 | erf | 2.5 |
| 1/(1 + exp(-x)) | 2.4 | 1 + tanh(x) | 2.4 |
| 1/sqrt(x) | 1.5 | 1 + erf(x) | 5.8 |

Products with x inherit how their argument was rounded: the relative error of silu is 2^-22 (but
digits are lost below x = -87, where sigmoid is subnormal), that of both forms of gelu is
2^-21 (1 + x²/2), and their absolute error less than 4e-7 for |x| < 16.

NaN gives NaN. Infinities give the limit; a product gives what IEEE 754 says of it, so that
x·sigmoid(x) is NaN at -infinity. Subnormal results are kept, in both forms.

**Compositions.** Frameworks write activations as several ops, of which two would be inaccurate:

- `a / (1 + exp(u))` becomes a · sigmoid(-u). exp(u) overflows while the quotient is still a normal
  number times x, as in silu(-89). sigmoid(v) is t/(1 + t) with t = e^v, which is bounded.
- `1 + tanh(u)` and `1 + erf(u)`, also as `c + c·f(u)` or `1 - f(u)`, cancel for negative u. They
  become 2·sigmoid(2u), and erfc(-u), which is computed by itself.

So gelu keeps the relative accuracy of what it is computed from, down to where it underflows.

**How.** 2^y is 2^n · 2^f (Cody and Waite, Software Manual for the Elementary Functions, 1980): to
add 1.5·2^23 rounds y to an integer n that lies in the sum's last bits, whence a shift makes it an
exponent. For e^x, n·ln 2 is subtracted in two parts. The bias of the exponent is part of the sum,
and a factor 2^k may move all of it up, with 2^-k in the polynomial: then the last product
underflows as it should. Where n spans more than f32's exponents, e^(x/2) is squared.

- tanh, full: m/(m + 2) with m = e^(2x) - 1, which the polynomial gives without cancellation.
- erf, full: an odd polynomial near zero, 1 - 2^g(|z|) beyond, where the polynomial g is log2 erfc.
- 1 + erf, full: e^(-z²), with z² in two parts, times a polynomial in 1/(1 + cz). Short: 2^g(|z|).
- tanh and erf, short: odd polynomials, their argument bounded where they reach 1.
- sigmoid, short: 1/(1 + t) for t = e^-|x| ≤ 1 is a polynomial too. No short form divides.

Polynomials are evaluated by Horner's rule: many registers of an epilogue are in flight, so that the
number of ops counts, not their latency. Imports: our dialects, nkdsl.functions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, log2

import numpy as np
from xdsl.context import Context
from xdsl.dialects import arith, math
from xdsl.dialects.builtin import (
    BFloat16Type,
    Float32Type,
    FloatAttr,
    IntegerAttr,
    ModuleOp,
    f32,
    i32,
)
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.traits import is_side_effect_free

from nkdsl import functions
from nkdsl.dialects.nanokernel import GemmOp

MANTISSA_BITS = 23
"""Bits of an f32 below its exponent."""

ROUND = 1.5 * 2.0**MANTISSA_BITS
"""Added to a number, leaves it rounded to an integer in the last bits; these are zero here."""

EXPONENT_BIAS = 127

LIFT = 64
"""How far the exponents of a result ≤ 2^44 are moved up, so that 2^-151 is a normal number too."""

LN2_HIGH = float(np.float32(log(2)))
LN2_LOW = float(np.float32(log(2) - LN2_HIGH))
"""ln 2 in two parts. A product with the first is exact inside an fma, so it may have all bits."""

EXP_RANGE = (-110.0, 90.0)
EXP2_RANGE = (-160.0, 130.0)
"""Below, the results round to zero in f32; above, to infinity."""

SIGMOID_RANGE = (-105.0, 30.0)
"""Below, sigmoid rounds to zero in f32; above, to one."""

TANH_END = 10.0
"""From here on tanh rounds to 1 in f32."""


def expand(body: Region | Block, short: bool) -> None:
    """Rewrite the elementary functions on f32 scalars in a block, or in the one of a region.

    Args:
        body: an epilogue.
        short: whether an error of 2^-9 may be made, which is enough for bf16.
    """
    block = body.block if isinstance(body, Region) else body
    if any(isinstance(op, _EXPANDED) for op in block.ops):
        _Expansion(block, short).run()


@dataclass(frozen=True)
class ExpandMathPass(ModulePass):
    """Replace elementary functions in epilogues by arithmetic."""

    name = "expand-math"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the epilogues in place."""
        for gemm in [o for o in op.walk() if isinstance(o, GemmOp)]:
            if gemm.epilogue is not None:
                stored = gemm.epilogue.block.last_op
                assert stored is not None
                expand(gemm.epilogue, isinstance(stored.operands[0].type, BFloat16Type))


# ---- Recognizing compositions -------------------------------------------------------------------


def _constant(value: SSAValue) -> float | None:
    """The value of a constant."""
    match value.owner:
        case arith.ConstantOp(value=FloatAttr() as number):
            return number.value.data
        case _:
            return None


def _negated(value: SSAValue) -> SSAValue | None:
    """What a value is the negative of."""
    match value.owner:
        case arith.NegfOp() as op:
            return op.operand
        case arith.SubfOp() as op if _constant(op.lhs) == 0:
            return op.rhs
        case arith.MulfOp() as op if _constant(op.rhs) == -1:
            return op.lhs
        case arith.MulfOp() as op if _constant(op.lhs) == -1:
            return op.rhs
        case _:
            return None


@dataclass(frozen=True)
class _Quotient:
    """`numerator / (1 + exp(exponent))`."""

    numerator: SSAValue
    exponent: SSAValue


def _quotient(op: Operation) -> _Quotient | None:
    if not isinstance(op, arith.DivfOp) or not isinstance(op.rhs.owner, arith.AddfOp):
        return None
    total = op.rhs.owner
    for one, exp in ((total.lhs, total.rhs), (total.rhs, total.lhs)):
        if _constant(one) == 1 and isinstance(exp.owner, math.ExpOp):
            return _Quotient(op.lhs, exp.owner.operand)
    return None


@dataclass(frozen=True)
class _Term:
    """`factor * function(argument)`, the function being tanh or erf."""

    factor: float
    function: math.TanhOp | math.ErfOp

    def negative(self) -> "_Term":
        """The term with the other sign."""
        return _Term(-self.factor, self.function)


def _term(value: SSAValue) -> _Term | None:
    inner = _negated(value)
    if inner is not None:
        term = _term(inner)
        return term and term.negative()
    match value.owner:
        case math.TanhOp() | math.ErfOp() as op:
            return _Term(1.0, op)
        case arith.MulfOp() as op:
            return _product(op.lhs, op.rhs)
        case _:
            return None


def _product(lhs: SSAValue, rhs: SSAValue) -> _Term | None:
    """A product as a term."""
    for factor, function in ((lhs, rhs), (rhs, lhs)):
        number = _constant(factor)
        if number is not None and isinstance(function.owner, math.TanhOp | math.ErfOp):
            return _Term(number, function.owner)
    return None


def _one_plus(op: Operation) -> _Term | None:
    """The term t, if the op computes |t's factor| + t."""
    match op:
        case arith.AddfOp():
            cases = [(op.lhs, _term(op.rhs)), (op.rhs, _term(op.lhs))]
        case arith.SubfOp():
            term = _term(op.rhs)
            cases = [(op.lhs, term and term.negative())]
        case math.FmaOp():
            cases = [(op.c, _product(op.a, op.b))]
        case _:
            return None
    for constant, term in cases:
        number = _constant(constant)
        if term is not None and number is not None and number == abs(term.factor):
            return term
    return None


# ---- Building arithmetic ------------------------------------------------------------------------

_EXPANDED = (math.ExpOp, math.Exp2Op, math.TanhOp, math.ErfOp, math.RsqrtOp)


class _Expansion:
    """Rewrites one block; the ops that it builds come before the one at work."""

    def __init__(self, block: Block, short: bool):
        assert block.first_op is not None
        self.block = block
        self.short = short
        self.place = block.first_op
        self.last_constant: Operation | None = None
        self.constants: dict[float, SSAValue] = {}
        self.shift: SSAValue | None = None

    def run(self) -> None:
        """Rewrite compositions, which are lost once their parts are rewritten, then the rest."""
        for rewrite in (self._composition, self._function):
            for op in list(self.block.ops):
                if op.parent is self.block:
                    self._rewrite(op, rewrite)

    def _rewrite(self, op: Operation, rewrite: Callable[[Operation], SSAValue | None]) -> None:
        if len(op.results) != 1 or not isinstance(op.results[0].type, Float32Type):
            return
        self.place = op
        value = rewrite(op)
        if value is not None:
            op.results[0].replace_all_uses_with(value)
            _erase_unused(op)

    def _composition(self, op: Operation) -> SSAValue | None:
        quotient = _quotient(op)
        if quotient is not None:
            inner = _negated(quotient.exponent)
            rate, argument = (1.0, inner) if inner is not None else (-1.0, quotient.exponent)
            sigmoid = self.sigmoid(argument, rate)
            if _constant(quotient.numerator) == 1:
                return sigmoid
            return self.mul(quotient.numerator, sigmoid)
        term = _one_plus(op)
        if term is None:
            return None
        sign = 1.0 if term.factor > 0 else -1.0
        amplitude = abs(term.factor)
        scaled = amplitude in (0.5, 1.0, 2.0)
        built = amplitude if scaled else 1.0
        argument = term.function.operand
        value = (
            self.sigmoid(argument, 2 * sign, 2 * built)
            if isinstance(term.function, math.TanhOp)
            else self.erfc(argument, -sign, built)
        )
        return value if scaled else self.mul(value, amplitude)

    def _function(self, op: Operation) -> SSAValue | None:
        match op:
            case math.ExpOp():
                return self.exp(op.operand)
            case math.Exp2Op():
                return self.exp2(op.operand)
            case math.TanhOp():
                return self.tanh_short(op.operand) if self.short else self.tanh(op.operand)
            case math.ErfOp():
                return self.erf_short(op.operand) if self.short else self.erf(op.operand)
            case math.RsqrtOp():
                return self.div(1.0, self._insert(math.SqrtOp(op.operand)))
            case _:
                return None

    # ---------------------------------------------------------------------------- functions

    def exp(self, x: SSAValue) -> SSAValue:
        """e^x, the square of e^(x/2)."""
        root = self.mul(*self._exponential(self._bounded(x, *EXP_RANGE), 0.5))
        return self.mul(root, root)

    def exp2(self, x: SSAValue) -> SSAValue:
        """2^x, the square of 2^(x/2)."""
        x = self._bounded(x, *EXP2_RANGE)
        rounded, minus_n = self._round(x, 0.5)
        if self.short:
            polynomial = self._horner(functions.EXP2_SHORT, self.fma(x, 0.5, minus_n))
        else:
            # Twice the fraction; the coefficients halve it.
            polynomial = self._horner(_at(functions.EXP2, 0.5), self.fma(minus_n, 2.0, x))
        root = self.mul(polynomial, self._power(rounded))
        return self.mul(root, root)

    def sigmoid(self, x: SSAValue, rate: float, amplitude: float = 1.0) -> SSAValue:
        """A sigmoid, amplitude / (1 + e^(-rate x)), for amplitudes that are powers of two."""
        low, high = (end / rate for end in SIGMOID_RANGE)
        if not self.short:
            x = self._bounded(x, min(low, high), max(low, high))
            t = self.mul(*self._exponential(x, rate, LIFT))
            below = (
                self.fma(t, 1 / amplitude, 1 / amplitude) if amplitude != 1 else self.add(t, 1.0)
            )
            return self.div(t, below)
        size = self.min(self._insert(math.AbsFOp(x)), abs(low))
        t = self.mul(*self._exponential(size, -abs(rate), LIFT))
        above = self._horner([c * amplitude for c in functions.RECIPROCAL_SHORT], t)
        return self._where_negative(x, rate, self.mul(t, above), above)

    def tanh(self, x: SSAValue) -> SSAValue:
        """Tanh as m / (m + 2), where m = e^(2x) - 1 = 2^n (e^r - 1) + (2^n - 1)."""
        x = self._bounded(x, -TANH_END, TANH_END)
        rounded, r = self._reduced(x, 2.0)
        power = self._power(rounded)
        tail = self._horner(_at(functions.EXP, 2.0)[2:], r)
        part = self.fma(self.mul(r, r), tail, self.add(r, r))
        m = self.fma(power, part, self.sub(power, 1.0))
        return self.div(m, self.add(m, 2.0))

    def tanh_short(self, x: SSAValue) -> SSAValue:
        """Tanh as an odd polynomial."""
        return self._odd(functions.TANH_SHORT, x, functions.TANH_SHORT_END)

    def erf(self, z: SSAValue) -> SSAValue:
        """Erf as an odd polynomial near zero, and as 1 - erfc(|z|) with the sign of z elsewhere."""
        size = self.min(self._insert(math.AbsFOp(z)), functions.ERF_END)
        near = self.mul(size, self._horner(functions.ERF_NEAR, self.mul(size, size)))
        far = self.sub(1.0, self._exp2_of(self._horner(functions.LOG2_ERFC_FAR, size), 0))
        is_near = self._insert(arith.CmpfOp(size, self._value(functions.ERF_SPLIT), "olt"))
        value = self._insert(arith.SelectOp(is_near, near, far))
        return self._insert(math.CopySignOp(value, z))

    def erf_short(self, z: SSAValue) -> SSAValue:
        """Erf as an odd polynomial."""
        return self._odd(functions.ERF_SHORT, z, functions.ERF_SHORT_END)

    def erfc(self, z: SSAValue, sign: float, amplitude: float = 1.0) -> SSAValue:
        """The complement of erf at sign * z, times an amplitude."""
        size = self.min(self._insert(math.AbsFOp(z)), functions.ERFC_END)
        if self.short:
            first, *others = functions.LOG2_ERFC_SHORT
            exponent = self._horner([first + log2(amplitude), *others], size)
            tail = self._exp2_of(exponent, LIFT)
        else:
            tail = self._erfc_tail(size, amplitude)
        return self._where_negative(z, -sign, tail, self.sub(2 * amplitude, tail))

    def _erfc_tail(self, z: SSAValue, amplitude: float) -> SSAValue:
        """The product amplitude * erfc(z) for 0 ≤ z ≤ ERFC_END."""
        t = self.div(1.0, self.fma(z, functions.ERFCX_SLOPE, 1.0))
        square = self.mul(z, z)
        rest = self.fma(z, z, self._insert(arith.NegfOp(square)))
        gauss, power = self._exponential(square, -1.0, LIFT, rest)
        slow = self._horner([c * amplitude for c in functions.ERFCX], t)
        return self.mul(self.mul(self.mul(slow, t), gauss), power)

    # -------------------------------------------------------------------------------- steps

    def _exponential(
        self, x: SSAValue, rate: float, lift: int = 0, rest: SSAValue | None = None
    ) -> tuple[SSAValue, SSAValue]:
        """Two factors of e^(rate x), or of e^(rate (x + rest)).

        The rate is a power of two, or the negative of one. The second factor is a power of two,
        2^lift too large, the first as much too small.
        """
        if self.short:
            per_step = rate / log(2)
            rounded, minus_n = self._round(x, per_step, lift)
            fraction = self.fma(x, per_step, minus_n)
            coefficients: Sequence[float] = functions.EXP2_SHORT
        else:
            rounded, fraction = self._reduced(x, rate, lift)
            if rest is not None:
                fraction = self.add(fraction, rest)
            coefficients = _at(functions.EXP, rate)
        scaled = [c * 2.0**-lift for c in coefficients]
        return self._horner(scaled, fraction), self._power(rounded)

    def _reduced(self, x: SSAValue, rate: float, lift: int = 0) -> tuple[SSAValue, SSAValue]:
        """`_round`'s sum for y = rate x / ln 2, and x - n ln 2 / rate."""
        rounded, minus_n = self._round(x, rate / log(2), lift)
        high = self.fma(minus_n, LN2_HIGH / rate, x)
        return rounded, self.fma(minus_n, LN2_LOW / rate, high)

    def _round(self, x: SSAValue, factor: float, lift: int = 0) -> tuple[SSAValue, SSAValue]:
        """A sum with n, the integer next to factor * x, in its last bits, and -n."""
        bias = ROUND + EXPONENT_BIAS + lift
        rounded = self.fma(x, factor, bias) if factor != 1 else self.add(x, bias)
        return rounded, self.sub(bias, rounded)

    def _exp2_of(self, y: SSAValue, lift: int) -> SSAValue:
        """2^y for a y within f32's exponents, or within those that a lift moves there."""
        rounded, minus_n = self._round(y, 1.0, lift)
        coefficients = functions.EXP2_SHORT if self.short else functions.EXP2
        scaled = [c * 2.0**-lift for c in coefficients]
        return self.mul(self._horner(scaled, self.add(y, minus_n)), self._power(rounded))

    def _power(self, rounded: SSAValue) -> SSAValue:
        """2^(n + lift), of `_round`'s sum."""
        if self.shift is None:
            self.shift = self._insert_first(arith.ConstantOp(IntegerAttr(MANTISSA_BITS, i32)))
        bits = self._insert(arith.BitcastOp(rounded, i32))
        return self._insert(arith.BitcastOp(self._insert(arith.ShLIOp(bits, self.shift)), f32))

    def _odd(self, coefficients: Sequence[float], x: SSAValue, end: float) -> SSAValue:
        """An odd polynomial, x P(x²), constant beyond ±end."""
        x = self._bounded(x, -end, end)
        return self.mul(x, self._horner(coefficients, self.mul(x, x)))

    def _horner(self, coefficients: Sequence[float], x: SSAValue) -> SSAValue:
        """A polynomial, lowest power first."""
        *others, last = coefficients
        value = self._value(last)
        for coefficient in reversed(others):
            value = self.fma(value, x, coefficient)
        return value

    def _bounded(self, x: SSAValue, low: float, high: float) -> SSAValue:
        """Within the bounds, or NaN."""
        return self.min(self._insert(arith.MaximumfOp(x, self._value(low))), high)

    def _where_negative(
        self, x: SSAValue, rate: float, negative: SSAValue, otherwise: SSAValue
    ) -> SSAValue:
        """`negative` where rate * x < 0; `otherwise` elsewhere, and for NaN."""
        predicate = "olt" if rate > 0 else "ogt"
        condition = self._insert(arith.CmpfOp(x, self._value(0.0), predicate))
        return self._insert(arith.SelectOp(condition, negative, otherwise))

    # ---------------------------------------------------------------------------------- ops

    def _insert(self, op: Operation) -> SSAValue:
        self.block.insert_op_before(op, self.place)
        return op.results[0]

    def _insert_first(self, op: arith.ConstantOp) -> SSAValue:
        """Insert a constant behind those that the block begins with."""
        if self.last_constant is not None:
            self.block.insert_op_after(op, self.last_constant)
        else:
            assert self.block.first_op is not None
            self.block.insert_op_before(op, self.block.first_op)
        self.last_constant = op
        return op.result

    def _value(self, value: SSAValue | float) -> SSAValue:
        """A value, or a constant at the block's beginning."""
        if isinstance(value, SSAValue):
            return value
        number = float(np.float32(value))
        if number not in self.constants:
            self.constants[number] = self._insert_first(arith.ConstantOp(FloatAttr(number, f32)))
        return self.constants[number]

    def add(self, lhs: SSAValue | float, rhs: SSAValue | float) -> SSAValue:
        """Lhs + rhs."""
        return self._insert(arith.AddfOp(self._value(lhs), self._value(rhs)))

    def sub(self, lhs: SSAValue | float, rhs: SSAValue | float) -> SSAValue:
        """Lhs - rhs."""
        return self._insert(arith.SubfOp(self._value(lhs), self._value(rhs)))

    def mul(self, lhs: SSAValue | float, rhs: SSAValue | float) -> SSAValue:
        """Lhs * rhs."""
        return self._insert(arith.MulfOp(self._value(lhs), self._value(rhs)))

    def div(self, lhs: SSAValue | float, rhs: SSAValue | float) -> SSAValue:
        """Lhs / rhs."""
        return self._insert(arith.DivfOp(self._value(lhs), self._value(rhs)))

    def min(self, lhs: SSAValue | float, rhs: SSAValue | float) -> SSAValue:
        """The smaller of two, or NaN; one instruction where one of them is a constant."""
        return self._insert(arith.MinimumfOp(self._value(lhs), self._value(rhs)))

    def fma(self, lhs: SSAValue | float, rhs: SSAValue | float, acc: SSAValue | float) -> SSAValue:
        """Lhs * rhs + acc, rounded once."""
        operands = (self._value(lhs), self._value(rhs), self._value(acc))
        return self._insert(math.FmaOp(*operands))


def _at(coefficients: Sequence[float], rate: float) -> list[float]:
    """The coefficients of P(rate x)."""
    return [c * rate**k for k, c in enumerate(coefficients)]


def _erase_unused(op: Operation) -> None:
    """Erase an op without uses, then those whose results only it used."""
    if any(result.uses for result in op.results) or not is_side_effect_free(op):
        return
    operands = [operand.owner for operand in op.operands]
    op.detach()
    op.erase()
    for owner in operands:
        if isinstance(owner, Operation) and owner.parent is not None:
            _erase_unused(owner)
