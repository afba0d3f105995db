"""fma against exact rational arithmetic, and against this CPU's own FMA instruction."""

import ctypes
import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import llvmlite.binding as llvm
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nkdsl.errors import Unsupported
from nkdsl.targets.semantics import fma

LANES = 8

Array = np.ndarray
Dtype = type[np.float32] | type[np.float64]

# ---- The reference: exact arithmetic, rounded by the definition -------------------------------


def rounded(exact: Fraction, dtype: Dtype) -> float:
    """A nonzero number rounded to nearest even in dtype's format, from IEEE 754's definition."""
    info = np.finfo(dtype)
    precision, smallest_exponent = info.nmant + 1, int(info.minexp)
    magnitude = abs(exact)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if magnitude < Fraction(2) ** exponent:
        exponent -= 1
    quantum = Fraction(2) ** (max(exponent, smallest_exponent) - precision + 1)
    value = round(magnitude / quantum) * quantum  # Python rounds halves to even
    result = math.inf if value >= Fraction(2) ** int(info.maxexp) else float(value)
    return -result if exact < 0 else result


def expected(c: float, a: float, b: float, dtype: Dtype) -> float:
    """The FMA of finite operands."""
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact != 0:
        return rounded(exact, dtype)
    # A sum of zeros is -0 only if both terms are; an exact cancellation gives +0.
    product_is_zero = a == 0 or b == 0
    product_sign = math.copysign(1, a) * math.copysign(1, b)
    return -0.0 if product_is_zero and product_sign == -1 == math.copysign(1, c) else 0.0


def assert_same(actual: Array, wanted: Array, *operands: Array) -> None:
    """Same NaN positions, and the same bits elsewhere (so that -0 is not +0)."""
    assert actual.dtype == wanted.dtype
    unsigned = {4: np.uint32, 8: np.uint64}[wanted.itemsize]
    both_nan = np.isnan(actual) & np.isnan(wanted)
    wrong = ~(both_nan | (actual.view(unsigned) == wanted.view(unsigned)))
    cases = [
        tuple(float(x[i]).hex() for x in (*operands, actual, wanted))
        for i in (*wrong.nonzero()[0][:5],)
    ]
    assert not wrong.any(), f"(acc, lhs, rhs, actual, wanted): {cases}"


def check_exactly(cases: list[tuple[float, float, float]], dtype: Dtype) -> None:
    acc, lhs, rhs = np.array(cases, dtype=dtype).T.copy()
    operands = zip(acc.tolist(), lhs.tolist(), rhs.tolist(), strict=True)
    wanted = np.array([expected(c, a, b, dtype) for c, a, b in operands], dtype=dtype)
    assert_same(fma(acc, lhs, rhs), wanted, acc, lhs, rhs)


# ---- Operands ---------------------------------------------------------------------------------


def few_bits(precision: int, exponents: int) -> st.SearchStrategy[float]:
    """±(2^i ± 2^j ± 1) 2^e: sums of these often lie on, or just beside, a rounding boundary."""

    def build(sign: int, i: int, j: int, second: int, last: int, e: int) -> float:
        return math.ldexp(sign * (2**i + second * 2**j + last), e - i)

    bit = st.integers(1, precision - 1)
    unit = st.sampled_from((-1, 0, 1))
    return st.builds(
        build, st.sampled_from((-1, 1)), bit, bit, unit, unit, st.integers(-exponents, exponents)
    ).filter(lambda x: x != 0)


def any_finite(dtype: Dtype) -> st.SearchStrategy[float]:
    info = np.finfo(dtype)
    width: Literal[32, 64] = 32 if dtype is np.float32 else 64
    every_exponent = st.floats(width=width, allow_nan=False, allow_infinity=False)
    return every_exponent | few_bits(info.nmant + 1, 3) | few_bits(info.nmant + 1, 60)


@st.composite
def cancelling(draw: st.DrawFn, dtype: Dtype) -> tuple[float, float, float]:
    """An addend that almost cancels the product: what remains are the product's last bits."""
    factor = any_finite(dtype)
    a, b = draw(factor), draw(factor)
    with np.errstate(all="ignore"):
        addend = -(dtype(a) * dtype(b))
        for _ in range(draw(st.integers(0, 2))):
            addend = np.nextafter(addend, dtype(draw(st.sampled_from((-np.inf, np.inf)))))
    return (float(addend) if np.isfinite(addend) else 0.0), a, b


def triples(dtype: Dtype) -> st.SearchStrategy[list[tuple[float, float, float]]]:
    anything = st.tuples(any_finite(dtype), any_finite(dtype), any_finite(dtype))
    return st.lists(anything | cancelling(dtype), min_size=1, max_size=2 * LANES)


# ---- Against exact arithmetic -----------------------------------------------------------------

F32_ULP, F64_ULP = 2.0**-23, 2.0**-52


@given(triples(np.float32))
# In float64 the sum is the middle of two float32 numbers; the error decides, and is lost.
@example([(1.0, 2.0**-24 * (1 + F32_ULP), 1 - F32_ULP), (1 + F32_ULP, 2.0**-12, 2.0**-12)])
@example([(2.0**-149, 2.0**-100, 2.0**-100), (2.0**-149, 2.0**-75, 2.0**-75 * (1 - F32_ULP))])
@example([(-(2.0**127), 2.0**127, 2.0), (2.0**127 * (2 - F32_ULP), 2.0**103, 1.0)])
def test_f32_fma_equals_exact_arithmetic(cases: list[tuple[float, float, float]]) -> None:
    check_exactly(cases, np.float32)


@given(triples(np.float64))
@example([(1.0, 2.0**-53 * (1 + F64_ULP), 1 - F64_ULP), (1 + F64_ULP, 2.0**-27, 2.0**-26)])
@example([(-1.0, 1 + F64_ULP, 1 - F64_ULP), (2.0**-1074, 2.0**-537, -(2.0**-538))])
@example([(2.0**-1074, 2.0**-450, 2.0**-450), (-(2.0**-1022), 2.0**-511, 2.0**-511)])
@example([(-(2.0**1023), 2.0**1023, 2.0), (2.0**1023 * (2 - F64_ULP), 2.0**970, 1.0)])
@example([(-0.0, -0.0, 1.0), (0.0, -0.0, 1.0), (-0.0, 2.0**-600, -(2.0**-600))])
def test_f64_fma_equals_exact_arithmetic(cases: list[tuple[float, float, float]]) -> None:
    check_exactly(cases, np.float64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_random_operands_equal_exact_arithmetic(dtype: Dtype) -> None:
    rng = np.random.default_rng(1)
    acc, lhs, rhs = (x.tolist() for x in rng.standard_normal((3, 4000)).astype(dtype))
    check_exactly(list(zip(acc, lhs, rhs, strict=True)), dtype)


# ---- Against this CPU -------------------------------------------------------------------------

SPECIALS = (0.0, 1.0, 1.5, math.inf, math.nan)


def specials(dtype: Dtype) -> Array:
    """Signed zeros, infinities, NaN, and the smallest and largest numbers of their kinds."""
    info = np.finfo(dtype)
    limits = (info.max, info.tiny, info.smallest_subnormal, info.eps, np.sqrt(info.max))
    neighbours = (np.nextafter(info.tiny, dtype(0)), np.nextafter(dtype(1), dtype(0)))
    positive = np.array((*SPECIALS, *limits, *neighbours), dtype=dtype)
    return np.concatenate((positive, np.negative(positive)))


def special_triples(dtype: Dtype) -> list[Array]:
    values = specials(dtype)
    return list(np.array(list(itertools.product(values, repeat=3)), dtype=dtype).T.copy())


def random_bits(dtype: Dtype, count: int = 6000) -> list[Array]:
    """Every bit random: all exponents, subnormal numbers, infinities, NaN."""
    raw = np.random.default_rng(2).bytes(3 * count * np.dtype(dtype).itemsize)
    return list(np.frombuffer(raw, dtype=dtype).reshape(3, count))


def random_near_exponents(dtype: Dtype, count: int = 20000) -> list[Array]:
    """Sums whose terms overlap in part: the addend's size is within a few ulps of the product."""
    rng = np.random.default_rng(3)
    bits = np.finfo(dtype).nmant
    mantissas = rng.uniform(1, 2, (3, count)) * rng.choice((-1, 1), (3, count))
    exponents = rng.integers(-bits - 4, bits + 4, (3, count)) * [[2], [1], [1]]
    return list(np.ldexp(mantissas, exponents).astype(dtype))


def random_cancelling_at_the_limits(dtype: Dtype, count: int = 5000) -> list[Array]:
    """Products near the largest and smallest numbers; the addend leaves only their last bits."""
    rng = np.random.default_rng(4)
    info = np.finfo(dtype)
    limit = rng.choice((int(info.maxexp), int(info.minexp)), count) // 2
    exponents = limit + rng.integers(-2 * info.nmant, 2 * info.nmant, (2, count))
    with np.errstate(all="ignore"):
        lhs, rhs = np.ldexp(rng.uniform(1, 2, (2, count)), exponents).astype(dtype)
        product = lhs * rhs
        acc = -product + rng.integers(-2, 3, count).astype(dtype) * np.spacing(product)
    return [acc, lhs, rhs]


IR = """
define void @fma({t}* %acc, {t}* %lhs, {t}* %rhs, {t}* %out, i64 %count) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %pc = getelementptr {t}, {t}* %acc, i64 %i
  %pa = getelementptr {t}, {t}* %lhs, i64 %i
  %pb = getelementptr {t}, {t}* %rhs, i64 %i
  %po = getelementptr {t}, {t}* %out, i64 %i
  %c = load <8 x {t}>, ptr %pc, align 4
  %a = load <8 x {t}>, ptr %pa, align 4
  %b = load <8 x {t}>, ptr %pb, align 4
  %r = call <8 x {t}> @llvm.fma.v8{s}(<8 x {t}> %a, <8 x {t}> %b, <8 x {t}> %c)
  store <8 x {t}> %r, ptr %po, align 4
  %next = add i64 %i, 8
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}}
declare <8 x {t}> @llvm.fma.v8{s}(<8 x {t}>, <8 x {t}>, <8 x {t}>)
""".replace("{t}*", "ptr")

Fma = Callable[[Array, Array, Array], Array]


@pytest.fixture(scope="module")
def hardware_fma() -> Callable[[Dtype], Fma]:
    """The CPU's FMA of arrays whose length is a multiple of LANES, for an element type."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()

    def compile_for(dtype: Dtype) -> Fma:
        name, suffix = {np.float32: ("float", "f32"), np.float64: ("double", "f64")}[dtype]
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten()
        )
        module = llvm.parse_assembly(IR.format(t=name, s=suffix))
        assert "vfmadd" in machine.emit_assembly(module), "not the instruction, a library call"
        engine = llvm.create_mcjit_compiler(module, machine)
        signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int64)
        native = signature(engine.get_function_address("fma"))

        def run(acc: Array, lhs: Array, rhs: Array) -> Array:
            assert len(acc) % LANES == 0
            operands = [np.ascontiguousarray(x) for x in (acc, lhs, rhs)]
            out = np.empty_like(operands[0])
            native(*(x.ctypes.data for x in (*operands, out)), len(out))
            return out

        run.engine = engine  # type: ignore[attr-defined]  # it owns the code
        return run

    return compile_for


@pytest.mark.isa("fma")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "operands",
    [special_triples, random_bits, random_near_exponents, random_cancelling_at_the_limits],
)
def test_fma_equals_the_instruction(hardware_fma, operands, dtype: Dtype) -> None:
    acc, lhs, rhs = operands(dtype)
    wanted = hardware_fma(dtype)(acc, lhs, rhs)
    assert_same(fma(acc, lhs, rhs), wanted, acc, lhs, rhs)


# ---- The interface ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_operands_broadcast(dtype: Dtype) -> None:
    acc = np.arange(6, dtype=dtype).reshape(2, 3)
    column, row = np.array([[2], [3]], dtype=dtype), np.array([1, 5, 7], dtype=dtype)
    result = fma(acc, column, row)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, [[2, 11, 16], [6, 19, 26]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_infinity_in_a_broadcast_operand_reaches_every_lane(dtype: Dtype) -> None:
    acc = np.zeros((2, 3), dtype=dtype)
    result = fma(acc, np.array([[np.inf], [1]], dtype=dtype), np.ones(3, dtype=dtype))
    np.testing.assert_array_equal(result, [[np.inf] * 3, [1] * 3])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_scalars_and_empty_arrays_keep_their_shape(shape: tuple[int, ...], dtype: Dtype) -> None:
    operand = np.full(shape, 3, dtype=dtype)
    result = fma(operand, operand, operand)
    assert isinstance(result, np.ndarray)
    assert result.shape == shape
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, np.full(shape, 12))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_operands_are_left_alone_and_no_warning_escapes(dtype: Dtype) -> None:
    operands = [np.array([np.inf, np.nan, np.finfo(dtype).max], dtype=dtype) for _ in range(3)]
    before = [x.copy() for x in operands]
    with np.errstate(all="raise"):
        fma(*operands)
    for x, y in zip(operands, before, strict=True):
        np.testing.assert_array_equal(x, y)


def test_other_and_mixed_types_are_refused() -> None:
    f16, f32, f64 = (np.ones(2, dtype=t) for t in (np.float16, np.float32, np.float64))
    with pytest.raises(Unsupported, match="float16"):
        fma(f16, f16, f16)
    with pytest.raises(Unsupported, match="float64 × float32"):
        fma(f32, f64, f32)
