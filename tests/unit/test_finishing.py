"""What follows a product in `nkdsl.matmul`: bias, scale, residual, activations, and other types.

Most tests run the programs in an interpreter, which takes milliseconds a program. Those marked
`native` compile a few of them.
"""

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import nkdsl
from nkdsl import products
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.finishing import ACTIVATIONS, RESULTS, limits
from nkdsl.frontend import load, make_context
from nkdsl.interpreters import run
from nkdsl.targets import can_run, get_target
from nkdsl.testing import error_bound
from nkdsl.types import ELEMENT_TYPES, element_type

try:
    OBSTACLE = can_run(get_target("host"))
except Unsupported as error:
    OBSTACLE = str(error)
native = pytest.mark.skipif(OBSTACLE is not None, reason=str(OBSTACLE))

Array = np.ndarray
DTYPES = {t.name: t.dtype for t in ELEMENT_TYPES}
F32, F64, BF16, S32 = (DTYPES[name] for name in ("f32", "f64", "bf16", "s32"))
ALONE = 1
"""Threads, so that the kernels don't depend on the machine."""

FACTORS = [
    *(("f32", "f32"), ("f64", "f64"), ("bf16", "bf16"), ("f16", "f16")),
    *(("s8", "s8"), ("s8", "u8"), ("u8", "s8"), ("u8", "u8")),
]


@pytest.fixture
def interpreted(monkeypatch) -> None:
    """Kernels are interpreted instead of compiled."""
    monkeypatch.setattr(products, "_kernels", {})
    monkeypatch.setattr(products, "_entries", {})
    monkeypatch.setattr(products, "compile", interpret)


def interpret(source: str, **_: Any) -> SimpleNamespace:
    module = load(source, make_context())
    module.verify()
    return SimpleNamespace(entry=lambda *arguments: run(module, "matmul", arguments))


# ------------------------------------------------------------------------------ what is expected

_erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x: Array) -> Array:
    t = np.exp(-np.abs(x))
    return np.where(x < 0, t, 1.0) / (1 + t)


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x / 2 * (1 + _erf(x * math.sqrt(0.5))),
    "gelu_tanh": lambda x: x * sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "tanh": np.tanh,
}

STEEPEST = 1.13
"""No activation's slope is larger."""


class Wanted(NamedTuple):
    """Values before they become the type of the result, and how far computed ones may be off."""

    value: Array
    error: Array


def wanted(a: Array, b: Array, out: str, steps: dict[str, Any]) -> Wanted:
    """What `matmul` is to give, in float64 for sums of floats and as it says for integers."""
    if a.dtype.kind in "iu":
        return of_integers(a, b, steps)
    x = np.matmul(a.astype(F64), b.astype(F64))
    sums = "f64" if a.dtype == F64 else "f32"
    u = element_type(sums).unit_roundoff
    magnitudes = np.matmul(abs(a.astype(F64)), abs(b.astype(F64)))
    error = error_bound(magnitudes, np.zeros_like(magnitudes), a.shape[-1], sums)
    if "scale" in steps:
        factor = np.asarray(steps["scale"], F64)
        x, error = x * factor, error * abs(factor)
        error = error + 2 * u * abs(x)  # the scale is rounded, and the product
    for step in ("bias", "residual"):
        if step in steps:
            x = x + steps[step].astype(F64)
            error = error + u * (abs(x) + abs(steps[step].astype(F64)))
    return activated(x, error, steps, out, u)


def of_integers(a: Array, b: Array, steps: dict[str, Any]) -> Wanted:
    """Everything but activations is what numpy computes in float32."""
    x = np.matmul(a.astype(np.int64), b.astype(np.int64))
    bias = steps.get("bias")
    if bias is not None and bias.dtype.kind in "iu":
        x, bias = x + bias, None
    if not steps.keys() & {"scale", "residual"} and bias is None and "activation" not in steps:
        return Wanted(x.astype(F64), np.zeros(x.shape))
    y = x.astype(F32)
    if "scale" in steps:
        y = y * np.asarray(steps["scale"], F32)
    if bias is not None:
        y = y + bias.astype(F32)
    if "residual" in steps:
        y = y + steps["residual"].astype(F32)
    return activated(y.astype(F64), np.zeros(y.shape), steps, "f32", 2.0**-24)


def activated(x: Array, error: Array, steps: dict[str, Any], out: str, u: float) -> Wanted:
    name = steps.get("activation")
    if name is None:
        return Wanted(x, error)
    y = FUNCTIONS[name](x)
    if name == "relu":
        return Wanted(y, error)
    # As `expand-math` says of its two forms, and of what is a product with x.
    relative = 2.0**-8 if out == "bf16" else 8 * u * (1 + x * x / 2)
    return Wanted(y, STEEPEST * error + relative * abs(y) + 2 * u * abs(x) * (relative > 0))


def check(got: Array, a: Array, b: Array, out: str, steps: dict[str, Any]) -> None:
    """Compare a result; exactly where every step is exact."""
    value, error = wanted(a, b, out, steps)
    type_ = element_type(out)
    assert got.dtype == type_.dtype
    assert got.shape == value.shape
    far = abs(got.astype(F64) - value)
    if not type_.is_integer:
        least = 2.0**-25 if out == "f16" else 2.0**-133  # half of the least number, at the most
        fits = far <= error + type_.unit_roundoff * (abs(value) + error) + least
        if out == "f16":  # which ends at 65504
            fits |= (got == np.copysign(np.inf, value)) & (abs(value) + error > 65504)
        assert np.all(fits)
        return
    zero = steps.get("zero_point", 0)
    least, most = limits(type_)
    far = abs(got.astype(F64) - np.clip(np.rint(value) + zero, least, most))
    assert np.all(far <= np.where(error > 0, np.ceil(error) + 1, 0))


# ----------------------------------------------------------------------------------- operands


def numbers(shape: Any, name: str, seed: int = 0) -> Array:
    random = np.random.default_rng(seed)
    type_ = element_type(name)
    if type_.is_integer and type_.size == 1:
        least, most = limits(type_)
        return random.integers(least, most + 1, shape).astype(type_.dtype)
    if type_.is_integer:
        return random.integers(-1000, 1000, shape).astype(type_.dtype)
    return random.standard_normal(shape).astype(type_.dtype)


def in_columns(shape: tuple[int, ...], dtype: Any) -> Array:
    return np.zeros((*shape[:-2], shape[-1], shape[-2]), dtype).swapaxes(-1, -2)


OUTS: dict[str, Callable[[tuple[int, ...], Any], Array | None]] = {
    "new": lambda shape, dtype: None,
    "rows": np.zeros,
    "columns": in_columns,
    "stepped": lambda shape, dtype: np.zeros((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2],
}


class Case(NamedTuple):
    """A class of products: which types and steps, not which sizes."""

    factors: tuple[str, str]
    out: str
    bias: str = ""
    scale: str = ""
    residual: str = ""
    activation: str = ""
    zero_point: int | None = None

    def steps(self, shape: tuple[int, ...], reduction: int) -> dict[str, Any]:
        """The options of `matmul`, with numbers of which few results are beyond their range."""
        columns = shape[-1]
        steps: dict[str, Any] = {}
        spread = math.sqrt(max(reduction, 1))
        if element_type(self.factors[0]).is_integer:
            spread *= 100.0**2
        narrow = 40.0 if element_type(self.out).is_integer else 1.0
        if self.bias:
            steps["bias"] = numbers((columns,), self.bias, 2)
        if self.scale == "number":
            steps["scale"] = narrow / spread
        if self.scale == "columns":
            steps["scale"] = numbers((columns,), "f32", 3) * np.float32(narrow / spread)
        if self.residual:
            steps["residual"] = numbers(shape, self.residual, 4)
        if self.activation:
            steps["activation"] = self.activation
        if self.zero_point is not None:
            steps["zero_point"] = self.zero_point
        return steps


def run_case(
    case: Case, left: tuple[int, ...], right: tuple[int, ...], seed: int = 0, out: str = "new"
) -> None:
    """Multiply arrays of these shapes and check the result."""
    a, b = numbers(left, case.factors[0], seed), numbers(right, case.factors[1], seed + 1)
    shape = np.matmul(np.zeros(left), np.zeros(right)).shape
    steps = case.steps(shape, left[-1])
    result = OUTS[out](shape, DTYPES[case.out])
    got = nkdsl.matmul(a, b, result, **steps, out_dtype=case.out, threads=ALONE)
    assert result is None or got is result
    check(got, a, b, case.out, steps)


@st.composite
def cases(draw) -> Case:
    factors = draw(st.sampled_from(FACTORS))
    sums = element_type(factors[0]).accumulator
    out = draw(st.sampled_from(RESULTS[sums.name]))
    wide = "f64" if sums.name == "f64" else "f32"
    biases = ["", wide, "s32"] if sums.is_integer else ["", wide]
    activations = [name for name in ACTIVATIONS if name != "gelu" or wide == "f32"]
    return Case(
        factors,
        out,
        bias=draw(st.sampled_from(biases)),
        scale=draw(st.sampled_from(["", "number", "columns"])),
        residual=draw(st.sampled_from(["", "f32", "bf16", "f64"])),
        activation=draw(st.sampled_from(["", *activations])),
        zero_point=draw(st.sampled_from([None, 3])) if element_type(out).is_integer else None,
    )


SHAPES = st.sampled_from(
    [
        *(((5, 7), (7, 6)), ((1, 7), (7, 1)), ((5, 0), (0, 6)), ((0, 7), (7, 6)), ((5, 7), (7, 0))),
        *(((3, 5, 7), (7, 6)), ((3, 5, 7), (3, 7, 6)), ((2, 1, 5, 7), (3, 7, 6))),
    ]
)


@pytest.mark.usefixtures("interpreted")
class TestPrograms:
    """In an interpreter."""

    @given(case=cases(), shapes=SHAPES, out=st.sampled_from(sorted(OUTS)), seed=st.integers(0, 9))
    @settings(max_examples=settings().max_examples * 3)
    def test_any_steps(self, case, shapes, out, seed):
        left, right = shapes
        run_case(case, left, right, seed, out)

    @pytest.mark.parametrize("factors", FACTORS)
    def test_results_are_of_the_factors_type_but_int32_for_integers(self, factors):
        a, b = numbers((4, 5), factors[0]), numbers((5, 3), factors[1])
        got = nkdsl.matmul(a, b)
        assert got.dtype == (S32 if a.itemsize == 1 else a.dtype)
        check(got, a, b, "s32" if a.itemsize == 1 else factors[0], {})
        assert nkdsl.matmul(a, b).tobytes() == got.tobytes()

    @pytest.mark.parametrize("wanted", ["u8", np.uint8, "uint8", np.dtype("u1")])
    def test_the_type_of_the_result_has_many_names(self, wanted):
        a, b = numbers((4, 5), "u8"), numbers((5, 3), "s8")
        assert nkdsl.matmul(a, b, out_dtype=wanted).dtype == np.uint8

    @pytest.mark.parametrize("wanted", ["bf16", BF16, ml_dtypes.bfloat16, "bfloat16"])
    def test_bfloat16_too(self, wanted):
        assert nkdsl.matmul(np.ones((2, 3)), np.ones((3, 2), F32), out_dtype="f64").dtype == F64
        got = nkdsl.matmul(np.ones((2, 3), F32), np.ones((3, 2), F32), out_dtype=wanted)
        assert got.dtype == BF16

    def test_out_says_how_sums_are_stored(self):
        a, b = numbers((4, 50), "bf16"), numbers((50, 3), "bf16")
        out = np.zeros((4, 3), F32)
        assert nkdsl.matmul(a, b, out) is out
        assert np.any(out != out.astype(BF16))  # never rounded
        check(out, a, b, "f32", {})
        c, d = numbers((4, 50), "s8"), numbers((50, 3), "s8")
        sums = c.astype(int) @ d
        for name in ("s8", "u8", "f32", "bf16"):
            found = nkdsl.matmul(c, d, np.zeros((4, 3), DTYPES[name]))
            check(found, c, d, name, {})
        far = nkdsl.matmul(c, d, np.zeros((4, 3), np.int64))
        assert np.array_equal(far, sums)

    def test_halves_are_rounded_to_even_and_what_is_too_large_saturates(self):
        x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 254.5, 255.5, 1e9, -1e9, 3e38, -3e38], F32)
        one = np.ones((1, 1), F32)
        for name in ("u8", "s8"):
            least, most = limits(element_type(name))
            got = nkdsl.matmul(one, x[None], out_dtype=name)
            assert got[0].tolist() == np.clip(np.rint(x), least, most).tolist()
            got = nkdsl.matmul(one, x[None], zero_point=5, out_dtype=name)
            assert got[0].tolist() == np.clip(np.rint(x) + 5, least, most).tolist()
        strange = np.array([[np.nan, np.inf, -np.inf]], F32)
        assert nkdsl.matmul(one, strange, out_dtype="s8").tolist() == [[-128, 127, -128]]
        assert nkdsl.matmul(one, strange, out_dtype="u8").tolist() == [[0, 255, 0]]

    def test_int32_results_saturate_to_the_last_number(self):
        x = np.array([2.5, 3.5, 2147483520, 2147483648, 3e9, -2147483648, -3e9, np.nan], F32)
        most, least = 2**31 - 1, -(2**31)
        got = nkdsl.matmul(np.ones((1, 1), F32), x[None], out_dtype="s32")
        assert got[0].tolist() == [2, 4, 2147483520, most, most, least, least, least]
        got = nkdsl.matmul(np.ones((1, 1), F32), x[None], zero_point=-2147483645, out_dtype="s32")
        assert got[0, 4] == 3_000_000_000 - 2147483645
        assert got[0, 2] == 2147483520 - 2147483645

    def test_integers_stay_integers_if_they_can(self):
        a, b = np.full((1, 600), 255, np.uint8), np.full((600, 1), 255, np.uint8)
        b[0] = 254
        exact = 255 * 255 * 600 - 255
        rounded = int(np.float32(exact))
        assert rounded != exact
        assert nkdsl.matmul(a, b, activation="relu")[0, 0] == exact
        assert nkdsl.matmul(a, b, bias=[2])[0, 0] == exact + 2
        assert nkdsl.matmul(a, b, bias=[0.0])[0, 0] == rounded

    @pytest.mark.parametrize("type_", [np.int8, np.uint16, np.int64, np.bool_])
    def test_an_integer_bias_has_any_integer_type(self, type_):
        a, b = numbers((4, 5), "s8"), numbers((5, 3), "u8")
        bias = np.array([1, 0, 1], type_)
        assert np.array_equal(nkdsl.matmul(a, b, bias=bias), a.astype(int) @ b + bias)

    def test_an_integer_bias_comes_before_the_scale(self):
        a, b = np.ones((1, 1), np.int8), np.ones((1, 1), np.int8)
        assert nkdsl.matmul(a, b, bias=[3], scale=0.5, out_dtype="f32")[0, 0] == 2
        assert nkdsl.matmul(a, b, bias=[3.0], scale=0.5, out_dtype="f32")[0, 0] == 3.5

    def test_the_residual_comes_before_the_activation(self):
        one = np.ones((1, 1), F32)
        assert nkdsl.matmul(one, one, residual=np.full((1, 1), -2.0), activation="relu") == 0

    def test_vectors_have_bias_and_residual(self):
        a, b = numbers((4, 5), "f32"), numbers((5,), "f32")
        got = nkdsl.matmul(a, b, bias=[2.0], residual=np.arange(4.0))
        assert np.allclose(got, a @ b + 2 + np.arange(4))
        got = nkdsl.matmul(b, b, bias=[2.0], activation="relu", scale=np.float64(0.5))
        assert isinstance(got, np.float32)
        assert np.isclose(got, b @ b / 2 + 2)

    @pytest.mark.parametrize("which", ["residual", "bias", "scale"])
    def test_out_may_overlap_what_is_added(self, which):
        a, b = numbers((5, 4), "f32"), numbers((4, 5), "f32")
        out = numbers((5, 5), "f32", 3)
        operand = out if which == "residual" else out[2]
        sums = a.astype(F64) @ b
        expected = sums * operand if which == "scale" else sums + operand
        step: dict[str, Any] = {which: operand}
        nkdsl.matmul(a, b, out, **step)
        assert np.allclose(out, expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        "layout",
        [
            lambda x: x[:, ::-1].copy()[:, ::-1],
            np.asfortranarray,
            lambda x: np.repeat(x, 2, axis=1)[:, ::2],
            lambda x: np.broadcast_to(x[:1], x.shape),
            lambda x: x.tolist(),
            lambda x: x.astype(">f4"),
            lambda x: x.astype(np.longdouble),
        ],
    )
    def test_a_residual_of_any_layout(self, layout):
        a, b = numbers((5, 4), "f32"), numbers((4, 6), "f32")
        residual = layout(numbers((5, 6), "f32", 3))
        for out in (None, in_columns((5, 6), F32)):
            got = nkdsl.matmul(a, b, out, residual=residual)
            assert np.allclose(got, a @ b + np.asarray(residual), rtol=1e-5, atol=1e-5)

    def test_mixed_types_become_as_in_numpy(self):
        for left, right, result in (
            *(("bf16", "f32", "f32"), ("bf16", "f64", "f64"), ("f16", "f32", "f32")),
            *(("s8", "f32", "f32"), ("u8", "bf16", "bf16"), ("s8", "f16", "f16")),
        ):
            a, b = numbers((4, 5), left), numbers((5, 3), right)
            got = nkdsl.matmul(a, b)
            common = DTYPES[result]
            assert got.dtype == np.result_type(a, b) == common
            check(got, a.astype(common), b.astype(common), result, {})


# ---------------------------------------------------------------------------------- machine code

BF16_LAYER = Case(("bf16", "bf16"), "bf16", bias="f32", activation="gelu", residual="bf16")
QUANTIZED = Case(("u8", "s8"), "u8", bias="f32", scale="number", zero_point=3)
COLUMNS = Case(("f32", "f32"), "f32", scale="columns", activation="silu", residual="f32")

NATIVE = [
    BF16_LAYER,
    QUANTIZED,
    COLUMNS,
    Case(("s8", "s8"), "s32", bias="s32", activation="relu"),
    Case(("f16", "f16"), "f16"),
    Case(("f32", "f32"), "s8", scale="number", activation="tanh", zero_point=-5),
    Case(("f64", "f64"), "f64", bias="f64", activation="sigmoid"),
]

SLOW = [
    Case(("f32", "f32"), "s32", scale="number", zero_point=5),
    *(Case(factors, "s32") for factors in FACTORS if factors[0] in ("s8", "u8")),
    *(Case(("bf16", "bf16"), "bf16", activation=name) for name in ACTIVATIONS),
    *(Case(("f32", "f32"), "f32", activation=name) for name in ACTIVATIONS),
    *(Case(("f64", "f64"), "f64", activation=name) for name in ACTIVATIONS if name != "gelu"),
    *(Case(("f64", "f64"), name) for name in ("f32", "s8", "u8", "s32")),
    *(Case(("f16", "f16"), name, bias="f32") for name in RESULTS["f32"]),
    *(Case(("s8", "u8"), name, scale="columns", residual="bf16") for name in RESULTS["s32"]),
]

SIZES = st.integers(0, 70)
FEW = settings(max_examples=8)


@native
class TestKernels:
    """Compiled for this machine."""

    @pytest.mark.parametrize("case", NATIVE, ids=str)
    @given(sizes=st.tuples(SIZES, SIZES, SIZES), seed=st.integers(0, 9))
    @example(sizes=(3, 5, 0), seed=0)
    @FEW
    def test_any_sizes(self, case, sizes, seed):
        m, n, k = sizes
        run_case(case, (m, k), (k, n), seed)

    @pytest.mark.slow
    @pytest.mark.parametrize("case", SLOW, ids=str)
    @given(sizes=st.tuples(SIZES, SIZES, SIZES), seed=st.integers(0, 9))
    @FEW
    def test_other_steps(self, case, sizes, seed):
        m, n, k = sizes
        run_case(case, (m, k), (k, n), seed)

    @pytest.mark.parametrize("case", [BF16_LAYER, QUANTIZED, COLUMNS], ids=str)
    def test_beyond_one_cache_block(self, case):
        run_case(case, (333, 2500), (2500, 257))

    def test_the_transpose_of_the_result_has_its_columns_in_rows(self):
        run_case(COLUMNS, (30, 40), (40, 50), out="columns")

    def test_each_row_of_a_batch_has_the_same_columns(self):
        run_case(COLUMNS, (2, 3, 5, 40), (40, 50))

    @pytest.mark.slow
    def test_batches(self):
        run_case(QUANTIZED, (2, 3, 5, 40), (3, 40, 50))
        run_case(BF16_LAYER, (2, 3, 5, 40), (3, 40, 50), out="columns")

    @pytest.mark.slow
    @pytest.mark.parametrize("case", [BF16_LAYER, QUANTIZED], ids=str)
    def test_threads_change_nothing(self, case):
        a, b = numbers((500, 300), case.factors[0]), numbers((300, 400), case.factors[1])
        steps = case.steps((500, 400), 300)
        alone, shared = (
            nkdsl.matmul(a, b, **steps, out_dtype=case.out, threads=count) for count in (1, 2)
        )
        assert alone.tobytes() == shared.tobytes()

    def test_halves_saturation_and_what_is_no_number(self):
        """The cases of the interpreter, for a kernel that was compiled above."""
        x = np.array([[0.5, 1.5, 2.5, -0.5, 3e9, -3e9, np.nan, np.inf]], F32)
        got = nkdsl.matmul(
            np.ones((1, 1), F32),
            x,
            scale=1.0,
            activation="tanh",
            zero_point=-5,
            out_dtype="s8",
            threads=ALONE,
        )
        assert got.tolist() == [[-5, -4, -4, -5, -4, -6, -128, -4]]


# ------------------------------------------------------------------------------- what is refused

A, B, Q = np.ones((2, 3), F32), np.ones((3, 4), F32), np.ones((3, 3), np.int8)


def refused() -> Iterator[tuple[dict[str, Any], str]]:
    """Options of A·B, and the message."""
    yield {"bias": np.ones(3)}, r"bias of matmul must be of shape \(4,\), .* not \(3,\)"
    yield {"bias": np.ones((1, 4))}, r"bias of matmul must be of shape \(4,\), .* not \(1, 4\)"
    yield {"bias": ["x"] * 4}, "bias of matmul must hold real numbers, not <U1"
    yield {"bias": 1j * np.ones(4)}, "bias of matmul must hold real numbers, not complex128"
    yield {"scale": np.ones(2)}, r"scale of matmul must be a number, or of shape \(4,\)"
    yield {"scale": "big"}, "scale of matmul must hold real numbers"
    yield {"scale": 10**400}, "scale of matmul is too large for a floating-point number"
    yield {"residual": np.ones((2, 3))}, r"residual of matmul must have shape \(2, 4\), the res"
    yield {"activation": "swish"}, "activation of matmul must be one of relu, .*, not 'swish'"
    yield {"activation": np.tanh}, "activation of matmul must be one of relu, .*, not <ufunc"
    yield {"zero_point": 3}, "zero_point of matmul is for integer results, .* float32; leave it"
    yield {"zero_point": 0.5, "out_dtype": "u8"}, "zero_point .* whole number, not float"
    yield {"zero_point": -1, "out_dtype": "u8"}, "zero_point .* uint8, from 0 to 255, not -1"
    yield {"out_dtype": "x"}, r"out_dtype of matmul must be one of f32 \(float32\), .*, not 'x'"
    yield {"out_dtype": np.int64}, "out_dtype of matmul must be one of .*, not <class"
    yield {"out_dtype": object}, "out_dtype of matmul must be one of .*, not <class"
    yield {"out_dtype": "bf16", "out": np.ones((2, 4), F32)}, "out .* bfloat16, not float32"
    yield {"out": np.ones((2, 4), np.int8)}, "out of matmul must have type float32, not int8"


@pytest.mark.parametrize(("steps", "message"), list(refused()))
def test_wrong_options_are_refused(steps, message):
    with pytest.raises(InvalidInput, match=f"argument {message}"):
        nkdsl.matmul(A, B, **steps)


def test_wrong_integers_are_refused():
    with pytest.raises(InvalidInput, match=r"bias of matmul holds integers beyond int32.*astype"):
        nkdsl.matmul(Q, Q, bias=[0, 0, 2**31])
    with pytest.raises(InvalidInput, match=r"out of matmul must have type int32, not int16"):
        nkdsl.matmul(Q, Q, np.zeros((3, 3), np.int16))


def test_what_is_not_supported_has_a_remedy():
    with pytest.raises(Unsupported, match=r"no gelu in float64; use gelu_tanh, or convert"):
        nkdsl.matmul(A.astype(F64), B, activation="gelu")
    with pytest.raises(Unsupported, match=r"stores sums of float64 as .*, not as bfloat16; conv"):
        nkdsl.matmul(A.astype(F64), B, out_dtype="bf16")
    with pytest.raises(Unsupported, match=r"stores sums of int8 as .*, not as float64; convert"):
        nkdsl.matmul(Q, Q, out_dtype="f64")
    with pytest.raises(Unsupported, match=r"but a is bfloat16 and b is float16; convert them"):
        nkdsl.matmul(A.astype(BF16), B.astype(np.float16))
    with pytest.raises(Unsupported, match=r"bias of matmul is a masked array.*filled"):
        nkdsl.matmul(A, B, bias=np.ma.masked_array(np.ones(4), mask=True))
