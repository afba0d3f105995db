"""`nkdsl.testing`: a check must notice each way in which a kernel can be wrong."""

import ctypes
from collections.abc import Callable

import numpy as np
import pytest

from nkdsl import pipeline, testing
from nkdsl.errors import InvalidInput
from nkdsl.frontend import load, make_context
from nkdsl.interpreters import ExecutionError
from nkdsl.testing import ArraySpec, check_all_levels, error_bound, guarded, plain, survives

SOURCE = """
func.func @f(%a: memref<2x3xf32>, %b: memref<3x2xf32>, %c: memref<2x2xf32, strided<[4, 1]>>) {
  %zero = arith.constant 0.0 : f32
  linalg.fill ins(%zero : f32) outs(%c : memref<2x2xf32, strided<[4, 1]>>)
  linalg.matmul ins(%a, %b : memref<2x3xf32>, memref<3x2xf32>)
    outs(%c : memref<2x2xf32, strided<[4, 1]>>)
  func.return
}"""


def addressed(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def read(address: int) -> Callable[[], bytes]:
    return lambda: ctypes.string_at(address, 1)


# ------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("make", [plain, guarded])
@pytest.mark.parametrize(
    ("spec", "span"),
    [
        (ArraySpec((2, 3)), 6),
        (ArraySpec((2, 3), "f64", (8, 2)), 13),
        (ArraySpec((2, 3), "f32", (1, 2)), 6),
        (ArraySpec((2, 3), "f32", (-3, -1)), 6),
        (ArraySpec((4, 3), "f32", (0, 1)), 3),
        (ArraySpec((0, 3), "f32", (5, 1)), 0),
        (ArraySpec(()), 1),
    ],
)
def test_arrays_have_the_layout_that_was_asked_for(
    make: Callable[[ArraySpec], np.ndarray], spec: ArraySpec, span: int
) -> None:
    array = make(spec)
    assert spec.span == span
    assert array.shape == spec.shape
    assert array.strides == tuple(s * array.itemsize for s in spec.element_strides)
    assert np.isnan(array).all()
    array[...] = 1
    assert ArraySpec.of(array) == ArraySpec(spec.shape, spec.element, spec.element_strides)


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025])
def test_a_guarded_array_ends_where_memory_ends(size: int) -> None:
    array = guarded(ArraySpec((size,)), "end")
    end = addressed(array) + array.nbytes
    assert survives(read(end)) == "killed by SIGSEGV"
    assert size == 0 or survives(read(end - 1)) is None


def test_a_guarded_array_starts_where_memory_starts() -> None:
    array = guarded(ArraySpec((5,)), "start")
    assert survives(read(addressed(array) - 1)) == "killed by SIGSEGV"
    assert survives(read(addressed(array))) is None


def test_the_lowest_element_of_a_reversed_array_lies_at_the_start() -> None:
    array = guarded(ArraySpec((5,), "f32", (-1,)), "start")
    assert survives(read(addressed(array[4:]) - 1)) == "killed by SIGSEGV"


def test_what_a_child_writes_to_guarded_memory_is_seen() -> None:
    array = guarded(ArraySpec((5,)))
    assert survives(lambda: array.fill(7)) is None
    assert (array == 7).all()


def test_an_exception_in_a_child_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("what went wrong")

    assert survives(fail) == "ended by an exception"
    assert "what went wrong" in capfd.readouterr().err


# ------------------------------------------------------------------------------------- bounds


def test_the_bound_is_highams() -> None:
    u = 2.0**-24
    (bound,) = error_bound(np.array([3.0]), np.array([1.0]), 10, "f32")
    assert bound == pytest.approx(4 * 12 * u / (1 - 12 * u), rel=1e-12)
    assert error_bound(np.ones(1), np.ones(1), 10, "f64") < 1e-7 * bound


def test_sums_in_any_order_stay_inside_of_the_bound() -> None:
    random = np.random.default_rng(0)
    a, b = random.uniform(-1, 1, (2, 200, 1000)).astype(np.float32)
    products = a * b
    exact = (a.astype(np.float64) * b).sum(axis=1)
    bound = error_bound(np.abs(a.astype(np.float64) * b).sum(axis=1), np.zeros(200), 1000, "f32")
    in_order = np.add.accumulate(products, axis=1)[:, -1]
    for total in (in_order, products.sum(axis=1), np.sort(products).sum(axis=1)):
        assert (np.abs(total - exact) <= bound).all()


def test_there_is_no_bound_when_no_digit_is_left() -> None:
    with pytest.raises(ValueError, match="there is no bound"):
        error_bound(np.ones(1), np.ones(1), 2**24, "f32")


# ------------------------------------------------------------------------------------- checks


@pytest.fixture
def lower_to(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replaces the compiler by one whose only result is a given program, and is never run."""

    def install(lowered: str) -> None:
        context = make_context()
        modules = {"linalg": load(SOURCE, context), "composed": load(lowered, context)}
        monkeypatch.setattr(pipeline, "levels", lambda source, target: modules)
        monkeypatch.setattr(testing, "_obstacle", lambda target: "not in this test")

    return install


def test_a_right_program_passes(lower_to: Callable[[str], None]) -> None:
    lower_to(SOURCE)
    done = check_all_levels(SOURCE, target="x86-64-v3")
    assert done.levels == ("linalg", "composed")
    assert done.native == "not in this test"
    assert np.isnan(done.arguments[2]).all(), "what is filled first starts as NaN"
    a, b, _ = (array.astype(np.float64) for array in done.arguments)
    assert np.allclose(done.reference[2], a @ b, rtol=1e-14)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("constant 0.0", "constant 1.0e-6"),
        (
            "linalg.fill ins(%zero : f32)",
            "linalg.matmul ins(%a, %b : memref<2x3xf32>, memref<3x2xf32>)",
        ),
    ],
    ids=["starts beside zero", "reads what it must not"],
)
def test_wrong_values_are_noticed(lower_to: Callable[[str], None], right: str, wrong: str) -> None:
    lower_to(SOURCE.replace(right, wrong))
    with pytest.raises(AssertionError, match=r"level composed: argument 2 of 'f'.* are wrong"):
        check_all_levels(SOURCE, target="x86-64-v3")


def test_an_error_beyond_rounding_is_noticed(lower_to: Callable[[str], None]) -> None:
    # A few units in the last place: exact on integers is not enough to tell.
    lower_to(SOURCE)
    random = np.random.default_rng(0)
    arrays = [
        random.uniform(-1, 1, (2, 3)).astype(np.float32),
        random.uniform(-1, 1, (3, 2)).astype(np.float32),
        plain(ArraySpec((2, 2), "f32", (4, 1))),
    ]
    check_all_levels(SOURCE, arrays, target="x86-64-v3")
    lower_to(SOURCE.replace("constant 0.0", "constant 1.0e-6"))
    with pytest.raises(AssertionError, match="is allowed"):
        check_all_levels(SOURCE, arrays, target="x86-64-v3")


def test_writing_between_the_rows_of_a_result_is_noticed(lower_to: Callable[[str], None]) -> None:
    stray = """
      %one = arith.constant 1 : index
      %two = arith.constant 2 : index
      %x = arith.constant dense<0.0> : vector<1xf32>
      vector.store %x, %c[%one, %two] : memref<2x2xf32, strided<[4, 1]>>, vector<1xf32>
      func.return"""
    inside = stray.replace("%c[%one, %two]", "%c[%zeroth, %two]").replace(
        "%two =", "%zeroth = arith.constant 0 : index\n%two ="
    )
    lower_to(SOURCE.replace("func.return", inside))
    with pytest.raises(AssertionError, match="memory between its elements was written"):
        check_all_levels(SOURCE, target="x86-64-v3")
    lower_to(SOURCE.replace("func.return", stray))
    with pytest.raises(ExecutionError, match="outside of an allocation"):
        check_all_levels(SOURCE, target="x86-64-v3")


def test_writing_to_an_input_is_noticed(lower_to: Callable[[str], None]) -> None:
    stray = """
      %x = arith.constant 0.5 : f32
      linalg.fill ins(%x : f32) outs(%a : memref<2x3xf32>)
      func.return"""
    lower_to(SOURCE.replace("func.return", stray))
    with pytest.raises(AssertionError, match="argument 0 of 'f' was changed"):
        check_all_levels(SOURCE, target="x86-64-v3")


def test_a_native_crash_is_told_and_survived(
    lower_to: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import nkdsl

    lower_to(SOURCE)
    monkeypatch.setattr(testing, "_obstacle", lambda target: None)
    crash = lambda a, b, c: ctypes.string_at(addressed(a) + a.nbytes, 1)  # noqa: E731
    monkeypatch.setattr(nkdsl, "compile", lambda source, target: crash, raising=False)
    with pytest.raises(AssertionError, match="guarded at the end: killed by SIGSEGV"):
        check_all_levels(SOURCE, target="x86-64-v3", guards=("end",))


def test_a_program_has_one_function() -> None:
    with pytest.raises(InvalidInput, match="has one function, not 0"):
        check_all_levels("func.func private @f()", target="x86-64-v3")


def test_a_program_of_two_arguments_can_be_checked():
    # The body of linalg's operation takes three.
    t = "memref<5x5xf32>"
    source = f"""func.func @square(%a: {t}, %c: {t}) {{
      linalg.matmul ins(%a, %a : {t}, {t}) outs(%c : {t})
      return
    }}"""
    assert "composed" in check_all_levels(source, target="x86-64-v3").levels


def test_a_check_knows_each_product_of_a_program():
    t = "memref<5x5xf32>"
    source = f"""func.func @both(%a: {t}, %b: {t}, %c: {t}, %d: {t}) {{
      %zero = arith.constant 0.0 : f32
      linalg.fill ins(%zero : f32) outs(%c : {t})
      linalg.fill ins(%zero : f32) outs(%d : {t})
      linalg.matmul ins(%a, %b : {t}, {t}) outs(%c : {t})
      linalg.matmul ins(%b, %c : {t}, {t}) outs(%d : {t})
      return
    }}"""
    assert "composed" in check_all_levels(source, target="x86-64-v3").levels
