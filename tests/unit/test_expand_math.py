"""`expand-math`: how far epilogues without elementary functions are from these functions."""

import ctypes
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.arith import Arith
from xdsl.dialects.builtin import Builtin
from xdsl.dialects.func import Func, FuncOp
from xdsl.dialects.math import Math
from xdsl.ir import Block
from xdsl.parser import Parser

from nkdsl import functions
from nkdsl.backends import mlir, native
from nkdsl.errors import ToolNotFound
from nkdsl.targets import get_target
from nkdsl.targets.semantics import fma
from nkdsl.transforms.expand_math import expand
from tools.minimax import FITS, errors, minimax

Array = np.ndarray
Function = Callable[[Array], Array]

BF16 = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
"""Every bf16 number."""

F32 = np.arange(0, 2**32, 4099, dtype=np.int64).astype(np.uint32).view(np.float32)
"""A million f32 numbers of all magnitudes."""

# ---- Activations as frameworks write them, and their values -----------------------------------

erf = np.vectorize(math.erf, otypes=[np.float64])
erfc = np.vectorize(math.erfc, otypes=[np.float64])


def sigmoid(x: Array) -> Array:
    t = np.exp(-np.abs(x))
    return np.where(x < 0, t, 1.0) / (1 + t)


def gelu_tanh(x: Array) -> Array:
    return x * sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


CONSTANTS = f"""
%zero = arith.constant 0.0 : f32
%half = arith.constant 0.5 : f32
%one = arith.constant 1.0 : f32
%two = arith.constant 2.0 : f32
%root_half = arith.constant {math.sqrt(0.5)!r} : f32
%k = arith.constant {math.sqrt(2 / math.pi)!r} : f32
%cubic = arith.constant 0.044715 : f32
"""

SIGMOID = """
%n = arith.negf %x : f32
%e = math.exp %n : f32
%d = arith.addf %one, %e : f32
%r = arith.divf %one, %d : f32"""

GELU = """
%z = arith.mulf %x, %root_half : f32
%t = math.erf %z : f32
%s = arith.addf %t, %one : f32
%h = arith.mulf %x, %half : f32
%r = arith.mulf %h, %s : f32"""

GELU_TANH = """
%x2 = arith.mulf %x, %x : f32
%x3 = arith.mulf %x2, %x : f32
%c = arith.mulf %x3, %cubic : f32
%u = arith.addf %x, %c : f32
%z = arith.mulf %u, %k : f32
%t = math.tanh %z : f32
%s = arith.addf %one, %t : f32
%h = arith.mulf %x, %half : f32
%r = arith.mulf %h, %s : f32"""


@dataclass(frozen=True)
class Activation:
    """A function of %x, its definition, and what its expansions may cost."""

    body: str
    exact: Function
    full_ulps: float
    """The largest error of the full form; NaN where it is conditioned badly."""
    short_instructions: int
    """Vector instructions of the short form on AVX-512."""


ILL = math.nan

ACTIVATIONS = {
    "exp": Activation("%r = math.exp %x : f32", np.exp, 3, 11),
    "exp2": Activation("%r = math.exp2 %x : f32", np.exp2, 3, 11),
    "tanh": Activation("%r = math.tanh %x : f32", np.tanh, 3, 12),
    "erf": Activation("%r = math.erf %x : f32", erf, 3, 9),
    "rsqrt": Activation("%r = math.rsqrt %x : f32", lambda x: 1 / np.sqrt(x), 1.5, 2),
    "relu": Activation("%r = arith.maximumf %x, %zero : f32", lambda x: np.maximum(x, 0), 0, 3),
    "sigmoid": Activation(SIGMOID, sigmoid, 2.5, 17),
    "silu": Activation(SIGMOID.replace("%one, %d", "%x, %d"), lambda x: x * sigmoid(x), ILL, 18),
    "silu-product": Activation(
        SIGMOID.replace("%r", "%q") + "\n%r = arith.mulf %x, %q : f32",
        lambda x: x * sigmoid(x),
        ILL,
        18,
    ),
    "one-plus-tanh": Activation(
        "%t = math.tanh %x : f32\n%r = arith.addf %one, %t : f32",
        lambda x: 2 * sigmoid(2 * x),
        2.5,
        17,
    ),
    "sigmoid-by-tanh": Activation(
        "%h = arith.mulf %x, %half : f32\n%t = math.tanh %h : f32\n"
        "%r = math.fma %t, %half, %half : f32",
        sigmoid,
        2.5,
        18,
    ),
    "one-minus-tanh": Activation(
        "%t = math.tanh %x : f32\n%r = arith.subf %one, %t : f32",
        lambda x: 2 * sigmoid(-2 * x),
        2.5,
        17,
    ),
    "one-plus-erf": Activation(
        "%t = math.erf %x : f32\n%r = arith.addf %t, %one : f32", lambda x: erfc(-x), 6, 20
    ),
    "half-minus-half-erf": Activation(
        "%t = math.erf %x : f32\n%h = arith.mulf %half, %t : f32\n%r = arith.subf %half, %h : f32",
        lambda x: 0.5 * erfc(x),
        6,
        20,
    ),
    "gelu": Activation(GELU, lambda x: 0.5 * x * erfc(-x * math.sqrt(0.5)), ILL, 23),
    "gelu-tanh": Activation(GELU_TANH, gelu_tanh, ILL, 24),
}


# ---- Executing expansions ---------------------------------------------------------------------


def parsed(body: str) -> FuncOp:
    context = Context()
    for dialect in (Arith, Builtin, Func, Math):
        context.load_dialect(dialect)
    text = f"func.func @f(%x: f32) -> f32 {{\n{CONSTANTS}{body}\nfunc.return %r : f32\n}}"
    function = Parser(context, text).parse_module().body.block.first_op
    assert isinstance(function, FuncOp)
    return function


def expanded(body: str, *, short: bool) -> FuncOp:
    function = parsed(body)
    expand(function.body, short)
    function.verify()
    return function


def relation(predicate: int) -> Callable[[Array, Array], Array]:
    return {2: np.greater, 4: np.less}[predicate]


RULES: dict[str, Callable[..., Array]] = {
    "arith.addf": np.add,
    "arith.subf": np.subtract,
    "arith.mulf": np.multiply,
    "arith.divf": np.divide,
    "arith.negf": np.negative,
    "arith.maximumf": np.maximum,
    "arith.minimumf": np.minimum,
    "arith.select": np.where,
    "arith.shli": np.left_shift,
    "math.fma": lambda a, b, c: fma(*np.broadcast_arrays(c, a, b)),
    "math.absf": np.abs,
    "math.copysign": np.copysign,
    "math.sqrt": np.sqrt,
}


def execute(block: Block, x: Array) -> Array:
    """What a block of arithmetic on f32 returns."""
    values: dict[object, Array] = {block.args[0]: x}
    types: dict[str, type] = {"f32": np.float32, "i32": np.int32}
    for op in block.ops:
        operands = [values[operand] for operand in op.operands]
        match op.name:
            case "func.return":
                return operands[0]
            case "arith.constant":
                value = op.value.value.data
                result = types[str(op.results[0].type)](value)
            case "arith.bitcast":
                result = operands[0].view(types[str(op.results[0].type)])
            case "arith.cmpf":
                result = relation(op.predicate.value.data)(*operands)
            case name:
                result = RULES[name](*operands)
        values[op.results[0]] = result
    raise AssertionError("the block returns nothing")


def run(name: str, x: Array, *, short: bool) -> tuple[Array, Array]:
    """The expansion's values, and the right ones in f64."""
    activation = ACTIVATIONS[name]
    with np.errstate(all="ignore"):
        actual = execute(expanded(activation.body, short=short).body.block, x)
        return actual, activation.exact(x.astype(np.float64))


def assert_same_nan(actual: Array, exact: Array, x: Array) -> None:
    wrong = np.isnan(actual) != np.isnan(exact)
    # A composition that multiplies by its argument has no value at -infinity.
    wrong &= ~np.isneginf(x)
    assert not wrong.any(), (x[wrong][:5], actual[wrong][:5], exact[wrong][:5])


# ---- Accuracy -----------------------------------------------------------------------------------


def places(x: Array) -> Array:
    """The place of each number among all bf16 numbers."""
    bits = x.view(np.int16).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFF), bits)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_short_results_are_at_most_the_next_bf16_number(name):
    actual, exact = run(name, BF16, short=True)
    assert_same_nan(actual, exact, BF16)
    with np.errstate(all="ignore"):
        stored, wanted = (v.astype(ml_dtypes.bfloat16) for v in (actual, exact))
    numbers = ~np.isnan(exact)
    distance = np.abs(places(stored) - places(wanted))[numbers]
    assert distance.max() <= 1, BF16[numbers][distance > 1][:5]
    assert (distance == 0).mean() > 0.98


def ulps(actual: Array, exact: Array) -> Array:
    """Errors in units in the last place of the exact value; none where infinities agree."""
    exponent = np.maximum(np.frexp(exact)[1] - 24, -149)
    with np.errstate(all="ignore"):
        error = np.abs(actual - exact) / np.ldexp(1.0, exponent)
        return np.where(actual == exact.astype(np.float32), 0, error)


@pytest.mark.parametrize("name", [n for n, a in ACTIVATIONS.items() if a.full_ulps >= 0])
def test_full_results_are_within_a_few_units_in_the_last_place(name):
    actual, exact = run(name, F32, short=False)
    assert_same_nan(actual, exact, F32)
    error = ulps(actual, exact)[~np.isnan(exact)]
    assert error.max() <= ACTIVATIONS[name].full_ulps, F32[~np.isnan(exact)][np.argmax(error)]


@pytest.mark.parametrize(
    ("name", "bits", "growth"), [("silu", 22, 0.0), ("gelu", 21, 0.5), ("gelu-tanh", 21, 0.5)]
)
def test_the_full_error_of_products_with_x_grows_with_their_conditioning(name, bits, growth):
    """It is 2^-bits (1 + growth x²): rounding the argument of exp, erf or tanh costs as much."""
    x = np.concatenate([F32, np.linspace(-13, 13, 100_000, dtype=np.float32)])
    actual, exact = run(name, x, short=False)
    assert_same_nan(actual, exact, x)
    normal = (np.abs(exact) > 2.0**-110) & (np.abs(x) < 1e6)
    x, actual, exact = x[normal], actual[normal], exact[normal]
    error = np.abs(actual - exact) / np.abs(exact) / (1 + growth * x.astype(np.float64) ** 2)
    assert error.max() < 2.0**-bits, x[np.argmax(error)]


def test_silu_is_right_where_sigmoid_is_subnormal_and_where_it_is_one():
    actual, exact = run("silu", np.array([-95, -89, 3e38], np.float32), short=False)
    np.testing.assert_allclose(actual, exact, rtol=1e-3)


@pytest.mark.parametrize("short", [True, False])
def test_infinities_give_the_limits(short):
    ends = np.array([-np.inf, np.inf], np.float32)
    limits = {"exp": (0, np.inf), "sigmoid": (0, 1), "tanh": (-1, 1), "erf": (-1, 1)}
    for name, limit in limits.items():
        actual, _ = run(name, ends, short=short)
        assert tuple(actual.astype(ml_dtypes.bfloat16)) == limit


# ---- Coefficients -------------------------------------------------------------------------------

STORED = {
    "EXP2_TAIL": functions.EXP2[1:],
    "EXP_TAIL": functions.EXP[2:],
}


@pytest.mark.parametrize("name", FITS)
def test_the_tool_derives_the_coefficients(name):
    stored = np.array(STORED.get(name) or getattr(functions, name))
    fit = FITS[name]
    derived = minimax(fit)
    np.testing.assert_allclose(stored, derived, rtol=1e-4)
    # What rounding the coefficients to f32 may add.
    assert np.abs(errors(fit, stored)).max() < 1.05 * np.abs(errors(fit, derived)).max() + 2.0**-23


# ---- Machine code -----------------------------------------------------------------------------


def vectorized(symbol: str, function: FuncOp) -> str:
    """A function in MLIR that applies an expansion to 16 lanes in place."""
    *body, last = str(function).splitlines()[1:-1]
    text = "\n".join(body)
    text = re.sub(r"arith.constant (\S+) :", r"arith.constant dense<\1> :", text)
    text = re.sub(r"(arith.select .*) : f32", r"\1 : i1, f32", text)
    text = re.sub(r"\b([fi])(1|32)\b", r"vector<16x\1\2>", text)
    result = last.split()[1]
    place = "%memory[%first] : memref<16xf32>, vector<16xf32>"
    return (
        f"func.func @{symbol}(%memory: memref<16xf32>) {{\n%first = arith.constant 0 : index\n"
        f"%x = vector.load {place}\n{text}\nvector.store {result}, {place}\nreturn\n}}\n"
    )


@pytest.fixture(scope="module")
def llvm_ir() -> str:
    """Both forms of every activation, lowered by stock mlir-opt."""
    functions = [
        vectorized(symbol(name, short), expanded(activation.body, short=short))
        for name, activation in ACTIVATIONS.items()
        for short in (True, False)
    ]
    try:
        return mlir.to_llvm_ir(mlir.run_mlir_opt("".join(functions), ["--convert-math-to-llvm"]))
    except ToolNotFound as error:
        pytest.skip(str(error))


def symbol(name: str, short: bool) -> str:
    return name.replace("-", "_") + ("_short" if short else "_full")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_expansions_are_a_handful_of_vector_instructions(name, llvm_ir):
    assembly = native.emit_assembly(llvm_ir, get_target("znver4"))
    start = assembly.index(f"\n{symbol(name, True)}:\n")
    end = assembly.index("\n.Lfunc_end", start)
    code = re.findall(r"^\t(\w+)\t(.*)$", assembly[start:end], re.M)
    assert not any(op.startswith(("call", "jmp")) for op, _ in code)
    moves = ("vmov", "vbroadcast", "vpbroadcast", "vxor", "vzeroupper")
    counted = [op for op, _ in code if op.startswith("v") and not op.startswith(moves)]
    assert len(counted) <= ACTIVATIONS[name].short_instructions, code


@pytest.mark.isa("avx2", "fma")
@pytest.mark.parametrize("short", [True, False])
def test_machine_code_computes_what_the_ops_say(llvm_ir, short):
    code = native.load(llvm_ir, get_target("x86-64-v3"))
    generator = np.random.default_rng(0)
    few = generator.choice(F32, 2**12)
    small = generator.uniform(-20, 20, 2**12).astype(np.float32)
    x = np.concatenate([few, small, np.array([np.nan, np.inf, -np.inf, 0.0] * 4, np.float32)])
    for name in ACTIVATIONS:
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.address(symbol(name, short)))
        memory = x.copy()
        for first in range(0, len(memory), 16):
            call(memory.ctypes.data + 4 * first)
        np.testing.assert_array_equal(memory, run(name, x, short=short)[0], err_msg=name)
