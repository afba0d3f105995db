"""What instructions compute, against exact arithmetic and against this CPU's own instructions."""

import ctypes
import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Literal

import llvmlite.binding as llvm
import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nkdsl.errors import Unsupported
from nkdsl.targets.semantics import dot_bf16, dot_int8, fma, rounded, widened_fma

LANES = 8

f32 = np.float32

Array = np.ndarray
Dtype = type[np.float32] | type[np.float64]

# ---- The reference: exact arithmetic, rounded by the definition -------------------------------


def nearest(exact: Fraction, dtype: Dtype | np.dtype) -> float:
    """A nonzero number rounded to nearest even in dtype's format, from IEEE 754's definition."""
    info = ml_dtypes.finfo(dtype)
    precision, smallest_exponent = int(info.nmant) + 1, int(info.minexp)
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
        return nearest(exact, dtype)
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


# ---- Low precision, against this CPU ----------------------------------------------------------

BF16, F16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
FEW = 16000
"""Operands a test; a multiple of the lanes of any register."""

LOW_PRECISION_IR = """
define void @run(ptr %acc, ptr %lhs, ptr %rhs, ptr %out, i64 %count) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %j = mul i64 %i, FACTOR_BYTES
  %pc = getelementptr i32, ptr %acc, i64 %i
  %pa = getelementptr i8, ptr %lhs, i64 %j
  %pb = getelementptr i8, ptr %rhs, i64 %j
  %po = getelementptr i32, ptr %out, i64 %i
  %c = load <16 x SUM>, ptr %pc, align 4
  %a = load FACTORS, ptr %pa, align 1
  %b = load FACTORS, ptr %pb, align 1
  BODY
  store <16 x SUM> %r, ptr %po, align 4
  %next = add i64 %i, 16
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}
DECLARATION
"""
"""A loop over registers of 16 sums; factors have FACTOR_BYTES for each sum."""


def compile_low_precision(
    declaration: str, body: str, factors: str, mnemonic: str, without: str = ""
) -> Fma:
    """A function of (acc, lhs, rhs) that this CPU executes with one instruction."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    if without:
        features[without] = False
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features.flatten()
    )
    count, bits = int(factors.split()[0][1:]), {"h": 16, "b": 16, "f": 32, "i": 0}
    element = factors.split()[2].rstrip(">")
    width = bits[element[0]] or int(element[1:])
    sums = "i32" if element[0] == "i" else "float"
    texts = {"FACTOR_BYTES": str(count * width // 8 // 16), "FACTORS": factors, "SUM": sums}
    ir = LOW_PRECISION_IR
    for name, text in {**texts, "BODY": body, "DECLARATION": declaration}.items():
        ir = ir.replace(name, text)
    module = llvm.parse_assembly(ir)
    assert mnemonic in machine.emit_assembly(module), "not the instruction that is asked for"
    engine = llvm.create_mcjit_compiler(module, machine)
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int64)
    native = signature(engine.get_function_address("run"))

    def run(acc: Array, lhs: Array, rhs: Array) -> Array:
        operands = [np.ascontiguousarray(x) for x in (acc, lhs, rhs)]
        out = np.empty_like(operands[0])
        native(*(x.ctypes.data for x in (*operands, out)), len(out))
        return out

    run.engine = engine  # type: ignore[attr-defined]  # it owns the code
    return run


def call(intrinsic: str, result: str, *types: str) -> tuple[str, str]:
    """The declaration of an intrinsic, and its call on c, a and b, or on a and b."""
    names = ("%c", "%a", "%b")[3 - len(types) :]
    arguments = ", ".join(f"{t} {n}" for t, n in zip(types, names, strict=True))
    declaration = f"declare {result} @{intrinsic}({', '.join(types)})"
    return declaration, f"%r = call {result} @{intrinsic}({arguments})"


def bits_of(dtype: np.dtype, *shape: int, seed: int = 5) -> Array:
    """Every bit random."""
    raw = np.random.default_rng(seed).bytes(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(raw, dtype).reshape(shape)


def bf16_with_random_bits() -> list[Array]:
    factors = bits_of(BF16, 2, FEW, 2)
    return [bits_of(np.dtype(np.float32), FEW, seed=6), factors[0], factors[1]]


def bf16_around(exponent: int, cancelled: int) -> list[Array]:
    """Products around 2^exponent, and an addend that cancels the sum of the `cancelled` last."""
    rng = np.random.default_rng(abs(exponent) + cancelled)
    mantissas = rng.uniform(1, 2, (2, FEW, 2)) * rng.choice((-1, 1), (2, FEW, 2))
    shift = rng.integers(-60, 60, (FEW, 2))
    half = exponent // 2
    with np.errstate(all="ignore"):
        lhs = np.ldexp(mantissas[0], half + shift).astype(BF16)
        rhs = np.ldexp(mantissas[1], exponent - half - shift + rng.integers(-4, 5, shift.shape))
        rhs = rhs.astype(BF16)
        products = lhs.astype(np.float64) * rhs.astype(np.float64)
        addend = np.ldexp(mantissas[0, :, 0], exponent + rng.integers(-6, 7, FEW))
        acc = -products[:, 2 - cancelled :].sum(axis=1) if cancelled else addend
        return [acc.astype(np.float32), lhs, rhs]


def bf16_special() -> list[Array]:
    values = np.array([0, 1, 1.5, np.inf, np.nan, 2.0**-126, 2.0**-133, 2.0**127])
    factors = np.array(list(itertools.product((*values, *-values), repeat=4)))
    accs = np.concatenate((values, -values)).astype(np.float32)
    return [np.resize(accs, len(factors)), factors[:, :2].astype(BF16), factors[:, 2:].astype(BF16)]


def bf16_sums_about_to_be_subnormal() -> list[Array]:
    """2^-126 less a few eighths of the last place of the numbers below it."""
    acc = np.full(64, 2.0**-126, np.float32)
    lhs, rhs = np.zeros((2, 64, 2), BF16)
    for element in (0, 1):
        part = slice(32 * element, 32 * element + 32)
        lhs[part, element] = np.arange(32) / 8 * 2.0**-75
        rhs[part, element] = -(2.0**-76)
    return [acc, lhs, rhs]


BF16_OPERANDS = {
    "random bits": bf16_with_random_bits,
    "special": bf16_special,
    "about to be subnormal": bf16_sums_about_to_be_subnormal,
} | {
    f"around 2^{exponent}, {cancelled} cancelled": partial(bf16_around, exponent, cancelled)
    for exponent in (0, 127, 128, -100, -126, -128, -140)
    for cancelled in (0, 1, 2)
}


@pytest.mark.isa("avx512bf16")
@pytest.mark.parametrize("operands", BF16_OPERANDS.values(), ids=BF16_OPERANDS)
def test_dot_bf16_equals_the_instruction(operands) -> None:
    name, pairs = "llvm.x86.avx512bf16.dpbf16ps.512", "<32 x bfloat>"
    declared = call(name, "<16 x float>", "<16 x float>", pairs, pairs)
    acc, lhs, rhs = operands()
    wanted = compile_low_precision(*declared, pairs, "vdpbf16ps")(acc, lhs, rhs)
    assert_same(dot_bf16(acc, lhs, rhs), wanted, acc)


@pytest.mark.isa("fma", "f16c", "avx512f")
@pytest.mark.parametrize(("dtype", "element"), [(BF16, "bfloat"), (F16, "half")])
def test_widened_fma_equals_the_instructions(dtype: np.dtype, element: str) -> None:
    t = "<16 x float>"
    factors = f"<16 x {element}>"
    body = f"%x = fpext {factors} %a to {t}\n  %y = fpext {factors} %b to {t}\n"
    body += f"  %r = call {t} @llvm.fma.v16f32({t} %x, {t} %y, {t} %c)"
    declaration = f"declare {t} @llvm.fma.v16f32({t}, {t}, {t})"
    native = compile_low_precision(declaration, body, factors, "vfmadd")
    lhs, rhs = bits_of(dtype, 2, FEW)
    with np.errstate(all="ignore"):
        cancelling = -(lhs.astype(f32) * rhs.astype(f32))
    for acc in (bits_of(np.dtype(f32), FEW), cancelling):
        assert_same(widened_fma(acc, lhs, rhs), native(acc, lhs, rhs), acc)


def whole_range(*dtypes: type) -> list[Array]:
    """Sums, and groups of factors: random ones, and the largest and smallest that there are."""
    rng = np.random.default_rng(7)
    operands = [rng.integers(-(2**31), 2**31, FEW).astype(np.int32)]
    for dtype in dtypes:
        limits = np.iinfo(dtype)
        group = 4 // np.dtype(dtype).itemsize
        factors: Array = rng.integers(limits.min, limits.max + 1, (FEW, group)).astype(dtype)
        factors[: FEW // 4] = rng.choice((limits.min, limits.max), (FEW // 4, group))
        operands.append(factors)
    operands[0][: FEW // 8] = rng.choice((-(2**31), 2**31 - 1), FEW // 8)
    return operands


@pytest.mark.isa("avx512vnni")
def test_dot_int8_equals_the_instruction() -> None:
    bytes_, sums = "<64 x i8>", "<16 x i32>"
    declared = call("llvm.x86.avx512.vpdpbusd.512", sums, sums, bytes_, bytes_)
    native = compile_low_precision(*declared, bytes_, "vpdpbusd")
    acc, lhs, rhs = whole_range(np.uint8, np.int8)
    np.testing.assert_array_equal(dot_int8(acc, lhs, rhs), native(acc, lhs, rhs))
    np.testing.assert_array_equal(dot_int8(acc, rhs, lhs), native(acc, lhs, rhs))


@pytest.mark.isa("avx512bw")
def test_dot_int8_of_widened_pairs_equals_the_instruction() -> None:
    words = "<32 x i16>"
    declaration, body = call("llvm.x86.avx512.pmaddw.d.512", "<16 x i32>", words, words)
    body = body.replace("%r", "%p") + "\n  %r = add <16 x i32> %c, %p"
    # With VNNI, LLVM makes one instruction of the two.
    native = compile_low_precision(declaration, body, words, "vpmaddwd", without="avx512vnni")
    acc, lhs, rhs = whole_range(np.int16, np.int16)
    np.testing.assert_array_equal(dot_int8(acc, lhs, rhs), native(acc, lhs, rhs))


def test_dot_int8_equals_python() -> None:
    for types in itertools.product((np.int8, np.uint8), repeat=2):
        acc, lhs, rhs = (x[:2000] for x in whole_range(*types))
        terms = zip(acc.tolist(), lhs.tolist(), rhs.tolist(), strict=True)
        exact = [c + sum(x * y for x, y in zip(a, b, strict=True)) for c, a, b in terms]
        wrapped = [(x + 2**31) % 2**32 - 2**31 for x in exact]
        assert dot_int8(acc, lhs, rhs).tolist() == wrapped
        one = dot_int8(acc, lhs[:, 0], rhs[:, 0])
        np.testing.assert_array_equal(one, dot_int8(acc, lhs[:, :1], rhs[:, :1]))


# ---- Rounding to a narrower type --------------------------------------------------------------


@pytest.mark.parametrize("dtype", [BF16, F16])
@pytest.mark.parametrize("wide", [np.float32, np.float64, np.longdouble])
def test_numbers_are_rounded_once(dtype: np.dtype, wide: type) -> None:
    info = ml_dtypes.finfo(dtype)
    rng = np.random.default_rng(8)
    low, high = int(info.minexp) - int(info.nmant) - 2, int(info.maxexp) + 2
    values = np.ldexp(rng.uniform(-2, 2, 3000), rng.integers(low, high, 3000))
    values = values[np.abs(values) < 1.99 * 2.0 ** (int(info.maxexp) - 1)]
    # Middles between two neighbours, and what lies just beside them.
    middles = values[:1000].astype(dtype).astype(np.float64)
    middles *= 1 + 2.0 ** -(int(info.nmant) + 1)
    beside = [middles * (1 + side * 2.0**-bits) for side in (-1, 1) for bits in (20, 30, 45)]
    with np.errstate(over="ignore"):
        cases: Array = np.concatenate((values, middles, *beside)).astype(wide)
    cases = cases[np.isfinite(cases) & (cases != 0)]
    wanted = [nearest(Fraction(*x.as_integer_ratio()), dtype) for x in cases]
    np.testing.assert_array_equal(rounded(cases, dtype).astype(np.float64), wanted)


@pytest.mark.parametrize("dtype", [BF16, F16])
def test_rounding_keeps_what_is_no_number(dtype: np.dtype) -> None:
    values = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e300, -1e300])
    result = rounded(values, dtype).astype(np.float64)
    np.testing.assert_array_equal(result, [np.inf, -np.inf, np.nan, 0, 0, np.inf, -np.inf])
    assert np.signbit(result[4])


def test_numbers_of_64_bits_reach_bf16_by_no_middle() -> None:
    assert float(rounded(np.array(1 + 2.0**-8 + 2.0**-40), BF16)) == 1 + 2.0**-7


@pytest.mark.isa("avx512bf16")
def test_the_instruction_rounds_to_bf16_but_flushes_subnormal_numbers() -> None:
    t, n = "<16 x float>", "<16 x bfloat>"
    body = f"%h = fptrunc {t} %c to {n}\n  %r = fpext {n} %h to {t}"
    values = bits_of(np.dtype(f32), 4 * FEW)
    few = np.resize(np.ldexp(np.arange(1, 999, dtype=f32), -149), FEW)
    values = np.concatenate((values, few, np.nextafter(f32(2.0**-126), few)))
    native = compile_low_precision("", body, t, "vcvtneps2bf16")
    software = rounded(values, BF16).astype(f32)
    # What is rounded up to the smallest normal number was subnormal, too.
    wanted = np.where(np.abs(values) < 2.0**-126, np.copysign(f32(0), values), software)
    finite = np.isfinite(software)
    assert (np.abs(wanted[finite] - software[finite]) <= 2.0**-126).all()
    assert_same(native(values, values, values), wanted, values)


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
