"""Arithmetic on bf16 and f16 is the same to the bit when it is done in f32."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from xdsl.dialects.builtin import BFloat16Type, Float16Type, ModuleOp
from xdsl.dialects.linalg import ops as linalg

from nkdsl.frontend import load, make_context
from nkdsl.interpreters import run
from nkdsl.transforms.narrow_floats import compute_in_f32

CONTEXT = make_context()

TYPES = {"bf16": np.dtype(ml_dtypes.bfloat16), "f16": np.dtype(np.float16)}

BODIES = {
    "sum": "%r = arith.addf %x, %y : T",
    "difference": "%r = arith.subf %x, %y : T",
    "product": "%r = arith.mulf %x, %y : T",
    "quotient": "%r = arith.divf %x, %y : T",
    "negation": "%r = arith.negf %x : T",
    "maximum": "%r = arith.maximumf %x, %y : T",
    "minimum": "%s = arith.addf %x, %y : T\n%r = arith.minimumf %s, %x : T",
    "several": """
        %s = arith.addf %x, %y : T
        %p = arith.mulf %s, %x : T
        %r = arith.subf %p, %y : T""",
    "absolute sum": "%s = arith.addf %x, %y : T\n%r = math.absf %s : T",
    "relu of a sum": """
        %s = arith.addf %x, %y : T
        %c = arith.constant 0.0 : T
        %b = arith.cmpf ugt, %s, %c : T
        %r = arith.select %b, %s, %c : T""",
    "ordered relu of a product": """
        %s = arith.mulf %x, %y : T
        %c = arith.constant 0.0 : T
        %b = arith.cmpf ogt, %s, %c : T
        %r = arith.select %b, %s, %c : T""",
    "at least one": """
        %s = arith.mulf %x, %y : T
        %c = arith.constant 1.0 : T
        %b = arith.cmpf ogt, %s, %c : T
        %r = arith.select %b, %s, %c : T""",
    "at least minus zero": """
        %s = arith.mulf %x, %y : T
        %c = arith.constant -0.0 : T
        %b = arith.cmpf ogt, %s, %c : T
        %r = arith.select %b, %s, %c : T""",
    "not negative": """
        %s = arith.mulf %x, %y : T
        %c = arith.constant 0.0 : T
        %b = arith.cmpf oge, %s, %c : T
        %r = arith.select %b, %s, %c : T""",
    "at most zero": """
        %s = arith.mulf %x, %y : T
        %c = arith.constant 0.0 : T
        %b = arith.cmpf olt, %s, %c : T
        %r = arith.select %b, %s, %c : T""",
    "choice by a comparison used twice": """
        %s = arith.mulf %x, %y : T
        %c = arith.constant 0.0 : T
        %b = arith.cmpf ogt, %s, %c : T
        %t = arith.select %b, %s, %c : T
        %u = arith.select %b, %x, %y : T
        %r = arith.addf %t, %u : T""",
    "through f32": """
        %v = arith.extf %x : T to f32
        %w = arith.extf %y : T to f32
        %s = arith.addf %v, %w : f32
        %t = arith.truncf %s : f32 to T
        %r = arith.maximumf %t, %x : T""",
    "through f64": """
        %v = arith.extf %x : T to f64
        %w = arith.mulf %v, %v : f64
        %s = arith.truncf %w : f64 to T
        %r = arith.addf %s, %y : T""",
    "constant": "%c = arith.constant 0.1 : T\n%r = arith.mulf %x, %c : T",
    "scalar from outside": "%r = arith.mulf %x, %factor : T",
    "bits": """
        %i = arith.bitcast %x : T to i16
        %j = arith.bitcast %i : i16 to T
        %r = arith.addf %j, %y : T""",
    "argument": "%r = arith.addf %x, %x : T",
}


def elementwise(type_: str, body: str) -> ModuleOp:
    """A function that computes `%r` of elements `%x` and `%y`."""
    text = f"""
func.func @f(%lhs: memref<?xT>, %rhs: memref<?xT>, %out: memref<?xT>) {{
  %factor = arith.constant 3.0 : T
  linalg.generic {{indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>,
                                   affine_map<(i) -> (i)>], iterator_types = ["parallel"]}}
      ins(%lhs, %rhs : memref<?xT>, memref<?xT>) outs(%out : memref<?xT>) {{
  ^bb0(%x: T, %y: T, %old: T):
    {body}
    linalg.yield %r : T
  }}
  return
}}"""
    return load(text.replace("T", type_), CONTEXT)


def in_f32(module: ModuleOp) -> ModuleOp:
    """The same program, its body rewritten."""
    result = module.clone()
    for op in result.walk():
        if isinstance(op, linalg.GenericOp):
            compute_in_f32(op.body.block)
    result.verify()
    return result


def operands(dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Every number of a type, each with several others: random bits, equal ones, and close ones."""
    every = np.arange(2**16, dtype=np.uint16)
    others = [
        np.random.default_rng(0).permutation(every),
        every ^ 0x8000,
        every,
        every ^ 0x8001,
        np.roll(every, 300),
        np.zeros_like(every),
        np.full_like(every, 1),
    ]
    lhs = np.concatenate([every] * len(others))
    return lhs.view(dtype), np.concatenate(others).view(dtype)


def execute(module: ModuleOp, lhs: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    result = np.zeros_like(lhs)
    with np.errstate(all="ignore"):
        run(module, "f", [lhs, rhs, result])
    return result


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("body", BODIES)
def test_results_are_the_same_to_the_bit(type_: str, body: str) -> None:
    module = elementwise(type_, BODIES[body])
    lhs, rhs = operands(TYPES[type_])
    before, after = execute(module, lhs, rhs), execute(in_f32(module), lhs, rhs)
    nan = np.isnan(before.astype(np.float32))
    assert np.array_equal(nan, np.isnan(after.astype(np.float32)))
    assert np.array_equal(before.view(np.uint16)[~nan], after.view(np.uint16)[~nan])


ARITHMETIC = ("arith.addf", "arith.subf", "arith.mulf", "arith.divf", "arith.negf", "arith.cmpf")


@pytest.mark.parametrize("body", BODIES)
def test_nothing_narrow_is_computed_with(body: str) -> None:
    module = in_f32(elementwise("bf16", BODIES[body]))
    for op in module.walk():
        if op.name.startswith(("arith.max", "arith.min", "arith.select", *ARITHMETIC)):
            types = {value.type for value in (*op.operands, *op.results)}
            assert not types & {BFloat16Type(), Float16Type()}, op


def conversions(body: str) -> int:
    module = in_f32(elementwise("bf16", BODIES[body]))
    return sum(op.name == "arith.truncf" for op in module.walk())


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("sum", 1),
        ("several", 3),
        ("minimum", 1),
        ("maximum", 1),
        ("relu of a sum", 1),
        ("at least one", 1),
        ("at least minus zero", 2),
        ("not negative", 2),
        ("through f32", 1),
        ("negation", 1),
    ],
)
def test_values_are_rounded_as_often_as_their_results_need_it(body: str, count: int) -> None:
    assert conversions(body) == count
