"""Checks of programs in low precision: what they take for right, and what they notice."""

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from nkdsl import pipeline, testing
from nkdsl.frontend import load, make_context
from nkdsl.testing import ArraySpec, Program, check_all_levels, error_bound, plain

bf16 = np.dtype(ml_dtypes.bfloat16)

MAPS = """{indexing_maps = [affine_map<(m, n, k) -> (m, k)>, affine_map<(m, n, k) -> (k, n)>,
    affine_map<(m, n, k) -> (m, n)>], iterator_types = ["parallel", "parallel", "reduction"]}"""


def program(factor: str, result: str, depth: int, body: str) -> str:
    """A product as linalg has it."""
    a, b, c = f"memref<3x{depth}x{factor}>", f"memref<{depth}x4x{factor}>", f"memref<3x4x{result}>"
    return f"""func.func @f(%a: {a}, %b: {b}, %c: {c}) {{
      linalg.generic {MAPS} ins(%a, %b : {a}, {b}) outs(%c : {c}) {{
      ^bb0(%x: {factor}, %y: {factor}, %z: {result}):
        {body}
      }}
      func.return
    }}"""


def gemm(factor: str, result: str, depth: int, tail: str = "", unsigned: str = "") -> str:
    """The same as one whole product."""
    a, b, c = f"memref<3x{depth}x{factor}>", f"memref<{depth}x4x{factor}>", f"memref<3x4x{result}>"
    return f"""func.func @f(%a: {a}, %b: {b}, %c: {c}) {{
      nanokernel.gemm ins(%a[m, k], %b[k, n] : {a}, {b}) {unsigned} outs(%c[m, n] : {c}) {tail}
      func.return
    }}"""


def extended(extend: str, factor: str, result: str) -> str:
    """A body that extends its factors first."""
    multiply, add = ("mulf", "addf") if extend == "extf" else ("muli", "addi")
    return f"""%p = arith.{extend} %x : {factor} to {result}
        %q = arith.{extend} %y : {factor} to {result}
        %r = arith.{multiply} %p, %q : {result}
        %s = arith.{add} %z, %r : {result}
        linalg.yield %s : {result}"""


LITERAL = """%p = arith.mulf %x, %y : bf16
        %s = arith.addf %z, %p : bf16
        linalg.yield %s : bf16"""

Lower = Callable[[str, str], None]


@pytest.fixture
def lower_to(monkeypatch: pytest.MonkeyPatch) -> Lower:
    """Replaces the compiler by one whose results are two given programs, and is never run."""

    def install(source: str, lowered: str) -> None:
        context = make_context()
        modules = {"linalg": load(source, context), "composed": load(lowered, context)}
        monkeypatch.setattr(pipeline, "levels", lambda source, target: modules)
        monkeypatch.setattr(testing, "_obstacle", lambda target: "not in this test")

    return install


@pytest.mark.parametrize("factor", ["bf16", "f16"])
def test_factors_may_be_extended(lower_to: Lower, factor: str) -> None:
    source = program(factor, "f32", 70, extended("extf", factor, "f32"))
    lower_to(source, gemm(factor, "f32", 70))
    done = check_all_levels(source)
    a, b, c = (x.astype(np.float64) for x in done.arguments)
    assert np.allclose(done.reference[2], c + a @ b, rtol=1e-14)


def test_a_sum_in_bf16_is_rounded_once_but_for_the_literal_reading(lower_to: Lower) -> None:
    source = program("bf16", "bf16", 70, LITERAL)
    lower_to(source, gemm("bf16", "bf16", 70))
    done = check_all_levels(source)
    case = testing._bounded_case(Program.of(load(source, make_context())), done.arguments)
    assert (case.bounds[2] * 50 < case.literal_bounds[2]).all()
    # What is read literally is too far off for any other level.
    lower_to(source, source)
    with pytest.raises(AssertionError, match="level composed"):
        check_all_levels(source)


@pytest.mark.parametrize(("extend", "unsigned"), [("extsi", ""), ("extui", "unsigned both")])
def test_integers_are_compared_exactly(lower_to: Lower, extend: str, unsigned: str) -> None:
    source = program("i8", "i32", 70, extended(extend, "i8", "i32"))
    lower_to(source, gemm("i8", "i32", 70, unsigned=unsigned))
    done = check_all_levels(source)
    assert done.arguments[0].dtype == (np.uint8 if unsigned else np.int8)
    assert np.ptp(done.arguments[0].astype(int)) > 200, "they have the full range"
    a, b, c = (x.astype(np.int64) for x in done.arguments)
    np.testing.assert_array_equal(done.reference[2], (c + a @ b).astype(np.int32))
    one_off = """epilogue {
      ^bb0(%sum: i32):
        %one = arith.constant 1 : i32
        %s = arith.addi %sum, %one : i32
        nanokernel.yield %s : i32
      }"""
    lower_to(source, gemm("i8", "i32", 70, one_off, unsigned))
    with pytest.raises(AssertionError, match="12 of 12 elements are wrong"):
        check_all_levels(source)


def test_an_epilogue_in_f32_has_a_bound(lower_to: Lower) -> None:
    body = """%p = arith.extf %x : bf16 to f32
        %q = arith.extf %y : bf16 to f32
        %r = arith.mulf %p, %q : f32
        %s = arith.addf %z, %r : f32
        linalg.yield %s : f32"""
    tail = """epilogue {
      ^bb0(%sum: f32):
        %zero = arith.constant 0.0 : f32
        %r = math.tanh %sum : f32
        %s = arith.maximumf %r, %zero : f32
        nanokernel.yield %s : f32
      }"""
    both = gemm("bf16", "f32", 20, tail)
    lower_to(both, both)
    done = check_all_levels(both)
    a, b, c = (x.astype(np.float64) for x in done.arguments)
    assert np.allclose(done.reference[2], np.maximum(np.tanh(c + a @ b), 0), rtol=1e-12)
    lower_to(both, program("bf16", "f32", 20, body))
    with pytest.raises(AssertionError, match="level composed"):
        check_all_levels(both)


def test_numbers_cut_to_integers_may_be_one_off(lower_to: Lower) -> None:
    tail = """from zero epilogue {{
      ^bb0(%sum: i32):
        %x = arith.sitofp %sum : i32 to f32
        %s = arith.constant {scale} : f32
        %y = arith.mulf %x, %s : f32
        %z = math.roundeven %y : f32
        %h = arith.constant 127.0 : f32
        %l = arith.constant -128.0 : f32
        %u = arith.minimumf %z, %h : f32
        %v = arith.maximumf %u, %l : f32
        %q = arith.fptosi %v : f32 to i8
        nanokernel.yield %q : i8
      }}"""
    source = gemm("i8", "i8", 30, tail.format(scale="1.0e-3"))
    lower_to(source, source)
    check_all_levels(source)
    lower_to(source, gemm("i8", "i8", 30, tail.format(scale="1.2e-3")))
    with pytest.raises(AssertionError, match="level composed"):
        check_all_levels(source)


# -------------------------------------------------------------------------------- arrays, bounds


@pytest.mark.parametrize("element", ["f32", "f64", "bf16", "f16", "s8", "u8", "s32"])
def test_arrays_of_every_type_are_laid_out(element: str) -> None:
    spec = ArraySpec((3, 2), element, (4, 1))
    array = plain(spec)
    assert ArraySpec.of(array) == spec
    assert len({x.tobytes() for x in array.reshape(-1)}) == 1
    assert np.isnan(array.astype(np.float64)).all() or (array != 0).all()


def test_a_narrow_result_is_rounded_once_more() -> None:
    ones = np.ones(1)
    (f32_bound,) = error_bound(ones, ones, 10, "f32")
    (bound,) = error_bound(ones, ones, 10, "bf16")
    assert 2 * 2.0**-8 < bound - f32_bound < 2.1 * 2.0**-8
    assert error_bound(ones, ones, 10, "s32") == 0


def test_flushed_numbers_are_within_the_bound() -> None:
    program_ = Program.of(load(gemm("bf16", "bf16", 5), make_context()))
    arguments = tuple(np.zeros(shape, bf16) for shape in ((3, 5), (5, 4), (3, 4)))
    bounds = testing._bounded_case(program_, arguments).bounds[2]
    assert (bounds >= 5 * 2.0**-126).all()
