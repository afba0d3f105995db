"""`nkdsl.matmul` and `nkdsl.gemm`: numpy's and BLAS's meaning for any arrays, by few kernels."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import BroadcastableShapes, mutually_broadcastable_shapes

import nkdsl
from nkdsl import products
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.products import ShapeClass
from nkdsl.targets import can_run, get_target
from nkdsl.testing import error_bound

try:
    OBSTACLE = can_run(get_target("host"))
except Unsupported as error:
    OBSTACLE = str(error)
pytestmark = pytest.mark.skipif(OBSTACLE is not None, reason=str(OBSTACLE))

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
ALONE = 1
"""Threads, so that the kernels don't depend on the machine."""


# ------------------------------------------------------------------------- what kernels were run


class Call(NamedTuple):
    """A kernel's entry that was called and didn't refuse."""

    key: ShapeClass
    arguments: tuple[Any, ...]


class Recording(dict):
    """Entries that write their calls down."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __setitem__(self, key, entry):
        super().__setitem__(key, partial(self._run, key, entry))

    def _run(self, key, entry, *arguments):
        entry(*arguments)
        self.calls.append(Call(key, arguments))


RECORDED = Recording()


@pytest.fixture(scope="module", autouse=True)
def recorded() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for key, kernel in products.kernels().items():
            RECORDED[key] = kernel.entry
        patch.setattr(products, "_entries", RECORDED)
        yield


@pytest.fixture
def fresh(monkeypatch) -> list[str]:
    """No kernels yet; the programs that are compiled."""
    compiled: list[str] = []

    def compile(source, **options):
        compiled.append(source)
        return nkdsl.compile(source, **options)

    monkeypatch.setattr(products, "_kernels", {})
    monkeypatch.setattr(products, "_entries", Recording())
    monkeypatch.setattr(products, "compile", compile)
    return compiled


def run(function: Callable, *arguments: Any, **options: Any) -> tuple[Any, list[Call]]:
    """What a function returns, and the calls of kernels that it made."""
    RECORDED.calls.clear()
    answer = function(*arguments, **{"threads": ALONE, **options})
    return answer, list(RECORDED.calls)


def only(calls: list[Call]) -> Call:
    """The one call there was; of a kernel with a plan."""
    (call,) = calls
    assert products.kernels()[call.key].plan.startswith("#nanokernel.plan<")
    return call


# ------------------------------------------------------------------------------------- operands


def integers(shape: Any, dtype: Any = F32, seed: int = 0) -> np.ndarray:
    """Numbers whose products and sums are exact."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(dtype)


def normals(shape: Any, dtype: Any = F32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def inside(matrix: np.ndarray) -> np.ndarray:
    """Surrounded by other elements."""
    rows, columns = matrix.shape
    around = np.full((rows + 3, columns + 5), np.nan, matrix.dtype)
    around[1 : rows + 1, 2 : columns + 2] = matrix
    return around[1 : rows + 1, 2 : columns + 2]


def stepped(matrix: np.ndarray) -> np.ndarray:
    """Every second row, every third column."""
    around = np.full((2 * matrix.shape[0], 3 * matrix.shape[1]), np.nan, matrix.dtype)
    around[::2, ::3] = matrix
    return around[::2, ::3]


def misaligned(matrix: np.ndarray) -> np.ndarray:
    memory = np.zeros(matrix.nbytes + 1, np.uint8)
    view = memory[1:].view(matrix.dtype).reshape(matrix.shape)
    view[...] = matrix
    return view


def fractional(matrix: np.ndarray) -> np.ndarray:
    """Rows that begin between elements."""
    pitch = matrix.shape[1] * matrix.itemsize + 2
    memory = np.zeros(matrix.shape[0] * pitch + 8, np.uint8)
    view = np.ndarray(matrix.shape, matrix.dtype, memory, 0, (pitch, matrix.itemsize))
    view[...] = matrix
    return view


IN_ROWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rows": np.copy,
    "inside": inside,
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "one row for all": lambda x: np.broadcast_to(x[:1], x.shape) if len(x) else x,
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
}
"""Layouts that kernels read in place, each made from a matrix."""

IN_COLUMNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "columns": np.asfortranarray,
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "transposed inside": lambda x: inside(x.T).T,
    "one column for all": lambda x: np.broadcast_to(x[:, :1].copy(), x.shape) if x.size else x,
}

COPIED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "stepped": stepped,
    "rows backwards": lambda x: x[::-1].copy()[::-1],
    "columns backwards": lambda x: x[:, ::-1].copy()[:, ::-1],
    "all backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "one element for all": lambda x: np.broadcast_to(x[:1, :1], x.shape) if x.size else x,
    "misaligned": misaligned,
    "rows between elements": fractional,
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
}

LAYOUTS = IN_ROWS | IN_COLUMNS | COPIED

SIZES = st.integers(0, 70)


def check(got: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Compare a product with the exact one, and with its very value where nothing is rounded."""
    dtype = np.result_type(a, b)
    wide = np.longdouble
    wanted = np.matmul(a.astype(wide), b.astype(wide))
    assert got.dtype == dtype
    assert got.shape == wanted.shape
    if not np.any(a % 1) and not np.any(b % 1):
        assert np.array_equal(got, wanted)
        return
    sums = np.matmul(abs(a.astype(wide)), abs(b.astype(wide)))
    bound = error_bound(sums, np.zeros_like(sums), a.shape[-1], f"f{dtype.itemsize * 8}")
    assert np.all(abs(got - wanted) <= bound)


# ------------------------------------------------------------------------------ two dimensions


@given(
    sizes=st.tuples(SIZES, SIZES, SIZES),
    layouts=st.tuples(st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(LAYOUTS))),
    exact=st.booleans(),
    seed=st.integers(0, 9),
)
@example(sizes=(1, 1, 1), layouts=("stepped", "stepped"), exact=True, seed=0)
@example(sizes=(1, 9, 7), layouts=("stepped", "stepped"), exact=True, seed=0)
@example(sizes=(9, 1, 7), layouts=("stepped", "stepped"), exact=True, seed=0)
@example(sizes=(9, 7, 1), layouts=("stepped", "stepped"), exact=True, seed=0)
@example(sizes=(5, 6, 0), layouts=("rows", "transposed"), exact=True, seed=0)
@settings(max_examples=settings().max_examples * 3)
def test_any_layouts(sizes, layouts, exact, seed):
    check_layouts(F32, sizes, layouts, exact, seed)


@given(
    sizes=st.tuples(SIZES, SIZES, SIZES),
    layouts=st.tuples(st.sampled_from(sorted(IN_ROWS)), st.sampled_from(sorted(IN_ROWS))),
    exact=st.booleans(),
    seed=st.integers(0, 9),
)
def test_f64(sizes, layouts, exact, seed):
    check_layouts(F64, sizes, layouts, exact, seed)


@pytest.mark.slow
@given(
    sizes=st.tuples(SIZES, SIZES, SIZES),
    layouts=st.tuples(st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(LAYOUTS))),
    exact=st.booleans(),
    seed=st.integers(0, 9),
)
def test_f64_in_any_layouts(sizes, layouts, exact, seed):
    check_layouts(F64, sizes, layouts, exact, seed)


def check_layouts(dtype, sizes, layouts, exact, seed):
    m, n, k = sizes
    make = integers if exact else normals
    a = LAYOUTS[layouts[0]](make((m, k), dtype, seed))
    b = LAYOUTS[layouts[1]](make((k, n), dtype, seed + 1))
    c, calls = run(nkdsl.matmul, a, b)
    check(c, a.astype(dtype), b.astype(dtype))
    if not c.size:
        assert calls == []
        return
    key, (x, y, z) = only(calls)
    assert z is c
    rows = key.lhs_rows, key.rhs_rows
    assert key == ShapeClass(dtype, dtype, dtype, *rows, False, False, None, "any", ALONE)
    for given_, read, layout, in_rows in (
        (a, x, layouts[0], key.lhs_rows),
        (b, y, layouts[1], key.rhs_rows),
    ):
        if min(given_.shape) > 1:
            assert in_rows == (layout not in IN_COLUMNS)
            assert np.shares_memory(given_, read) == (layout not in COPIED)


@pytest.mark.parametrize("a", ["rows", "columns"])
@pytest.mark.parametrize("b", ["rows", "columns"])
def test_the_result_is_as_good_beyond_one_cache_block(a, b):
    left, right = LAYOUTS[a](normals((333, 2500))), LAYOUTS[b](normals((2500, 257), seed=1))
    c, calls = run(nkdsl.matmul, left, right)
    check(c, left, right)
    only(calls)


def test_what_is_no_number_comes_through():
    a, b = normals((20, 30)), normals((30, 40), seed=1)
    a[3, 4], a[5, 6], a[7, 8], a[7, 9] = np.nan, np.inf, np.inf, -np.inf
    b[11, 12], b[6, 13] = np.nan, 0
    with np.errstate(invalid="ignore"):
        wanted = np.matmul(a.astype(F64), b.astype(F64))
    got, calls = run(nkdsl.matmul, a, b)
    only(calls)
    assert np.array_equal(np.isnan(got), np.isnan(wanted))
    assert np.isnan(got[5, 13])  # infinity times zero
    infinite = np.isinf(wanted)
    assert infinite.any()
    assert np.array_equal(got[infinite], wanted[infinite])


def test_the_reused_kernel_is_called_at_once(monkeypatch):
    a, b, c = integers((5, 6)), integers((6, 7)), np.empty((5, 7), F32)
    run(nkdsl.matmul, a, b)
    run(nkdsl.gemm, 1.0, a, b, 0.0, c)

    def detour(*_):
        raise AssertionError("this went the long way")

    monkeypatch.setattr(products, "_matmul", detour)
    monkeypatch.setattr(products, "_gemm", detour)
    for answer, calls in (run(nkdsl.matmul, a, b), run(nkdsl.matmul, a, b, out=c)):
        check(answer, a, b)
        assert only(calls).arguments == (a, b, answer)
    assert run(nkdsl.gemm, 2, a, b, 0, c)[0] is None
    assert np.array_equal(c, 2 * (a @ b))


# ------------------------------------------------------------------------------ where results go

DIRECT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rows": np.copy,
    "inside": inside,
    "columns": np.asfortranarray,
    "transposed inside": lambda x: inside(x.T).T,
}
"""Results that kernels write in place."""

INDIRECT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "stepped": stepped,
    "rows backwards": lambda x: x[::-1].copy()[::-1],
    "misaligned": misaligned,
    "f64": lambda x: x.astype(F64),
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
}


@given(
    sizes=st.tuples(SIZES, SIZES, SIZES),
    layout=st.sampled_from(sorted(DIRECT | INDIRECT)),
    factors=st.tuples(st.sampled_from(["rows", "columns"]), st.sampled_from(["rows", "columns"])),
)
def test_out_may_have_any_layout(sizes, layout, factors):
    m, n, k = sizes
    a, b = LAYOUTS[factors[0]](integers((m, k))), LAYOUTS[factors[1]](integers((k, n), seed=1))
    out = (DIRECT | INDIRECT)[layout](np.full((m, n), np.nan, F32))
    answer, calls = run(nkdsl.matmul, a, b, out=out)
    assert answer is out
    assert np.array_equal(out, a @ b)
    if out.size:
        written = only(calls).arguments[2]
        assert np.shares_memory(written, out) == (layout in DIRECT)


def test_nothing_is_written_beside_the_result():
    around = np.full((40, 50), 7, F32)
    a, b = integers((11, 6)), integers((6, 13))
    for frame in (around, around.T):
        out = frame[5:16, 8:21]
        run(nkdsl.matmul, a, b, out=out)
        assert np.array_equal(out, a @ b)
        out[...] = 7
        assert np.all(around == 7)


@pytest.mark.parametrize("which", ["a", "b", "both", "part of a", "transposed a"])
def test_out_may_overlap_the_factors(which):
    memory = integers((31, 30))
    a, b = memory[:30], integers((30, 30), seed=1)
    out = {"a": a, "b": b, "both": a, "part of a": memory[1:], "transposed a": a.T}[which]
    right = a if which == "both" else b
    wanted = a @ right
    answer, calls = run(nkdsl.matmul, a, right, out=out)
    assert answer is out
    assert np.array_equal(out, wanted)
    assert not np.shares_memory(only(calls).arguments[2], out)


def test_out_may_interlace_with_a_factor():
    memory = integers((20, 25))
    a, out = memory[:, :12], memory[:, 12:]
    wanted = a @ integers((12, 13))
    _, calls = run(nkdsl.matmul, a, integers((12, 13)), out=out)
    assert np.array_equal(out, wanted)
    assert only(calls).arguments[2] is out


def test_steps_may_be_longer_than_2_gigabytes():
    pitch = 1_500_000_000 // F32.itemsize
    try:
        far = [np.empty((3, pitch), F32)[:, :8] for _ in range(3)]
    except MemoryError:
        pytest.skip("this system promises no memory that it doesn't have")
    a, b, c = far
    a[...], b[...] = integers((3, 8)), integers((3, 8), seed=1)
    small = integers((8, 8), seed=2)
    key, (x, _, z) = only(run(nkdsl.matmul, a, small, out=c)[1])
    assert (x is a, z is c, key.lhs_rows) == (True, True, True)
    assert np.array_equal(c, a.copy() @ small)
    # And where the far step is the reduction's: columns of aᵀ, rows of b.
    got, calls = run(nkdsl.matmul, a.T, b)
    key, (x, y, _) = only(calls)
    assert np.shares_memory(x, a)
    assert y is b
    assert np.array_equal(got, a.copy().T @ b.copy())


# ----------------------------------------------------------------------------- other dimensions


@given(
    shapes=mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=3, max_side=5),
    dense=st.booleans(),
)
@example(shapes=BroadcastableShapes(((7,), (7,)), ()), dense=True)
@example(shapes=BroadcastableShapes(((2, 3, 4, 7), (7, 5)), (2, 3, 4, 5)), dense=True)
@example(shapes=BroadcastableShapes(((2, 3, 4, 7), (7, 5)), (2, 3, 4, 5)), dense=False)
@example(shapes=BroadcastableShapes(((4, 7), (3, 7, 5)), (3, 4, 5)), dense=True)
@example(shapes=BroadcastableShapes(((2, 1, 4, 7), (3, 7, 5)), (2, 3, 4, 5)), dense=True)
@example(shapes=BroadcastableShapes(((2, 3, 4, 7), (7,)), (2, 3, 4)), dense=True)
@example(shapes=BroadcastableShapes(((3, 0, 7), (3, 7, 5)), (3, 0, 5)), dense=True)
@example(shapes=BroadcastableShapes(((3, 4, 0), (3, 0, 5)), (3, 4, 5)), dense=True)
@example(shapes=BroadcastableShapes(((3, 4, 0), (0, 5)), (3, 4, 5)), dense=True)
def test_vectors_and_batches(shapes, dense):
    a, b = (integers(shape, seed=d) for d, shape in enumerate(shapes.input_shapes))
    if not dense:  # the last dimension stays as it is
        a, b = (np.repeat(x, 2, axis=0)[::2] if x.ndim > 1 else x for x in (a, b))
    wanted = np.matmul(a.astype(F64), b.astype(F64))
    got, calls = run(nkdsl.matmul, a, b)
    assert type(got) is type(np.matmul(a, b))
    assert (got.shape, got.dtype) == (wanted.shape, F32)
    assert np.array_equal(got, wanted)
    assert bool(calls) == bool(wanted.size)
    out = np.full(wanted.shape, np.nan, F32)
    assert run(nkdsl.matmul, a, b, out=out)[0] is out
    assert np.array_equal(out, wanted)


def test_a_batch_is_one_call_of_a_kernel():
    a, b = integers((3, 4, 5, 6)), integers((3, 4, 6, 7), seed=1)
    assert only(run(nkdsl.matmul, a, b)[1]).key.batched
    # The same matrix for all: more rows of one product, where they follow each other.
    key, (x, y, _) = only(run(nkdsl.matmul, a, b[0, 0])[1])
    assert not key.batched
    assert (x.shape, y.shape) == ((60, 6), (6, 7))
    assert np.shares_memory(x, a)
    _, calls = run(nkdsl.matmul, a[:, :3], b[0, 0])
    assert [call.key.batched for call in calls] == [True] * 3
    assert all(np.shares_memory(call.arguments[0], a) for call in calls)


def test_heads_are_read_where_they_lie():
    """What attention multiplies: (batch, heads, length, width), seen through a transpose."""
    rows = integers((2, 9, 3, 5))
    queries, keys = rows.transpose(0, 2, 1, 3), integers((2, 9, 3, 5), seed=1).transpose(0, 2, 3, 1)
    got, calls = run(nkdsl.matmul, queries, keys)
    assert np.array_equal(got, np.matmul(queries, keys))
    assert [call.key.batched for call in calls] == [True, True]
    assert all(np.shares_memory(call.arguments[0], rows) for call in calls)


# -------------------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("left", "right", "wanted"),
    [
        (F32, F64, F64),
        (F64, F32, F64),
        (np.float16, F32, F32),
        (np.bool_, F32, F32),
        (np.int16, F32, F32),
        (np.int64, F32, F64),
        (">f4", ">f4", F32),
    ],
    ids=str,
)
def test_mixed_types_become_as_in_numpy(left, right, wanted):
    a, b = integers((5, 6)).astype(left), integers((6, 7)).astype(right)
    c, calls = run(nkdsl.matmul, a, b)
    assert c.dtype == wanted == np.matmul(a, b).dtype
    assert np.array_equal(c, np.matmul(a, b))
    assert only(calls).key[:3] == (wanted, wanted, wanted)


def test_what_is_like_an_array_is_taken(tmp_path: Path):
    a = integers((3, 4), F64)
    mapped = np.memmap(tmp_path / "out", F64, "w+", shape=(3, 3))
    c, calls = run(nkdsl.matmul, a.tolist(), a.T, out=mapped)
    assert c is mapped
    assert np.array_equal(mapped, a @ a.T)
    assert np.shares_memory(only(calls).arguments[2], mapped)


OTHER_TYPES = [np.int64, np.complex64, np.longdouble, object, str]


@pytest.mark.parametrize("dtype", OTHER_TYPES)
def test_other_types_are_refused(dtype):
    a = np.ones((2, 2)).astype(dtype)
    message = r"matmul multiplies float32, .* and uint8, but a is \S+ and b is .*a\.astype"
    with pytest.raises(Unsupported, match=message):
        nkdsl.matmul(a, a)


@pytest.mark.parametrize("dtype", [*OTHER_TYPES, np.float16, np.int8])
def test_other_types_are_refused_by_gemm(dtype):
    a = np.ones((2, 2)).astype(dtype)
    message = r"gemm computes in float32 and float64, but a is \S+ and b is .*a\.astype"
    with pytest.raises(Unsupported, match=message) as refusal:
        nkdsl.gemm(1.0, a, a, 0.0, np.ones((2, 2)))
    assert ("use matmul" in str(refusal.value)) == (dtype not in OTHER_TYPES)


# ------------------------------------------------------------------------------------------ gemm

SCALARS = st.sampled_from([0.0, 1.0, -1.0, 2.0, 0.5, -0.0])


@given(
    sizes=st.tuples(SIZES, SIZES, SIZES),
    scalars=st.tuples(SCALARS, SCALARS),
    layouts=st.tuples(st.sampled_from(sorted(IN_ROWS)), st.sampled_from(sorted(IN_ROWS))),
    result=st.sampled_from(["rows", "inside", "stepped", "rows backwards", "misaligned"]),
)
def test_gemm(sizes, scalars, layouts, result):
    check_gemm(F32, sizes, scalars, layouts, result)


@pytest.mark.slow
@given(
    dtype=st.sampled_from([F32, F64]),
    sizes=st.tuples(SIZES, SIZES, SIZES),
    scalars=st.tuples(SCALARS, SCALARS),
    layouts=st.tuples(st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(LAYOUTS))),
    result=st.sampled_from([*sorted(DIRECT), "stepped", "rows backwards", "misaligned"]),
)
def test_gemm_in_any_layouts(dtype, sizes, scalars, layouts, result):
    check_gemm(dtype, sizes, scalars, layouts, result)


def check_gemm(dtype, sizes, scalars, layouts, result):
    m, n, k = sizes
    alpha, beta = scalars
    a = LAYOUTS[layouts[0]](integers((m, k), dtype))
    b = LAYOUTS[layouts[1]](integers((k, n), dtype, 1))
    c = (DIRECT | INDIRECT)[result](integers((m, n), dtype, 2))
    wanted = alpha * (a @ b) + beta * c
    answer, calls = run(nkdsl.gemm, alpha, a, b, beta, c)
    assert answer is None
    assert np.array_equal(c, wanted)
    if c.size:
        key, arguments = only(calls)
        assert key.scaled
        assert np.shares_memory(arguments[2], c) == (result in DIRECT)


@pytest.mark.parametrize("k", [0, 1, 33, 2500])
def test_gemm_rounds_as_little_as_it_must(k):
    alpha, beta = 1.25, -0.75
    a, b, c = normals((37, k)), normals((k, 41), seed=1), normals((37, 41), seed=2)
    wide = np.longdouble
    wanted = alpha * (a.astype(wide) @ b.astype(wide)) + beta * c.astype(wide)
    sums = alpha * (abs(a.astype(wide)) @ abs(b.astype(wide)))
    bound = error_bound(sums, abs(beta * c.astype(wide)), k + 2, "f32")
    only(run(nkdsl.gemm, alpha, a, b, beta, c)[1])
    assert np.all(abs(c - wanted) <= bound)


@pytest.mark.parametrize("k", [0, 5, 2500])
def test_beta_of_zero_never_reads_the_result(k):
    a, b = integers((7, k)), integers((k, 9), seed=1)
    for c in (np.full((7, 9), np.nan, F32), np.full((7, 18), np.nan, F32)[:, ::2]):
        only(run(nkdsl.gemm, 2.0, a, b, -0.0, c)[1])
        assert np.array_equal(c, 2 * (a @ b))


def test_alpha_of_zero_never_reads_the_factors():
    nothing = np.full((7, 9), np.nan, F32)
    c = integers((7, 7))
    wanted = 3 * c
    only(run(nkdsl.gemm, 0.0, nothing, nothing.T, 3.0, c)[1])
    assert np.array_equal(c, wanted)
    only(run(nkdsl.gemm, 0.0, nothing, nothing.T, 0.0, c)[1])
    assert np.array_equal(c, np.zeros_like(c))


def test_gemm_may_overlap():
    a, b = integers((6, 6)), integers((6, 6), seed=1)
    wanted = 2 * (a @ b) + 3 * a
    only(run(nkdsl.gemm, 2.0, a, b, 3.0, a)[1])
    assert np.array_equal(a, wanted)


@pytest.mark.parametrize("number", [2, np.float32(2), np.float64(2), np.int8(2), True])
def test_scalars_are_numbers_of_any_kind(number):
    a, c = integers((4, 4)), integers((4, 4), seed=1)
    wanted = float(number) * (a @ a + c)
    only(run(nkdsl.gemm, number, a, a, number, c)[1])
    assert np.array_equal(c, wanted)


# ---------------------------------------------------------------------------------- what is wrong


def frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


ONES, SQUARE = np.ones((2, 3), F32), np.ones((3, 3), F32)

WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "reduction": (
        lambda: nkdsl.matmul(ONES, ONES),
        r"argument b of matmul has size 2 in dimension 0, but argument a has size 3 in dimension "
        r"1; these must be equal \(shapes \(2, 3\) and \(2, 3\)\)",
    ),
    "vector": (
        lambda: nkdsl.matmul(ONES, np.ones(4, F32)),
        "argument b of matmul has size 4 in dimension 0, but argument a has size 3",
    ),
    "number": (
        lambda: nkdsl.matmul(np.float32(2), ONES),
        "argument a of matmul must have at least one dimension.*numpy.multiply",
    ),
    "batches": (
        lambda: nkdsl.matmul(np.ones((4, 2, 3), F32), np.ones((5, 3, 2), F32)),
        r"arguments a and b of matmul have batches of shapes \(4,\) and \(5,\); .*equal or 1",
    ),
    "shape of out": (
        lambda: nkdsl.matmul(ONES, SQUARE, out=np.ones((3, 2), F32)),
        r"argument out of matmul must have shape \(2, 3\), the product's, not \(3, 2\)",
    ),
    "shape of c": (
        lambda: nkdsl.gemm(1.0, ONES, SQUARE, 1.0, SQUARE),
        r"argument c of gemm must have shape \(2, 3\), the product's, not \(3, 3\)",
    ),
    "type of out": (
        lambda: nkdsl.matmul(ONES, SQUARE, out=np.ones((2, 3), np.int32)),
        "argument out of matmul must have type float32, not int32",
    ),
    "type of c": (
        lambda: nkdsl.gemm(1.0, ONES, SQUARE, 1.0, np.ones((2, 3))),
        r"argument c of gemm must have the type of the product, float32, not float64; convert a",
    ),
    "no array": (
        lambda: nkdsl.matmul(ONES, SQUARE, out=[[0.0]]),
        "argument out of matmul must be a numpy array, not list",
    ),
    "ragged": (
        lambda: nkdsl.matmul([[1.0], [2.0, 3.0]], ONES),
        "argument a of matmul is no array",
    ),
    "read-only": (
        lambda: nkdsl.matmul(ONES, SQUARE, out=frozen(np.ones((2, 3), F32))),
        "argument out of matmul is written but read-only",
    ),
    "dimensions of gemm": (
        lambda: nkdsl.gemm(1.0, ONES[0], SQUARE, 1.0, ONES),
        r"argument a of gemm must have 2 dimensions, but its shape is \(3,\); matmul takes",
    ),
    "no number": (
        lambda: nkdsl.gemm("1", ONES, SQUARE, 1.0, ONES),  # type: ignore[arg-type]
        "argument alpha of gemm must be a number, not str",
    ),
    "complex": (
        lambda: nkdsl.gemm(1.0, ONES, SQUARE, 1j, ONES),  # type: ignore[arg-type]
        "argument beta of gemm must be a number, not complex",
    ),
    "large number": (
        lambda: nkdsl.gemm(10**400, ONES, SQUARE, 1.0, ONES),
        "argument alpha of gemm is too large for a floating-point number",
    ),
    "no threads": (
        lambda: nkdsl.matmul(ONES, SQUARE, threads=0),
        "a kernel needs at least 1 thread, not 0",
    ),
    "half a thread": (
        lambda: nkdsl.matmul(ONES, SQUARE, threads=0.5),  # type: ignore[arg-type]
        "threads must be a whole number, not float",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused(name):
    call, message = WRONG[name]
    with pytest.raises(InvalidInput, match=message):
        call()


def test_masks_are_refused():
    masked = np.ma.masked_array(ONES, mask=ONES > 0)
    with pytest.raises(Unsupported, match=r"argument b of matmul is a masked array.*filled"):
        nkdsl.matmul(ONES.T, masked)


# ---------------------------------------------------------------------------- how few kernels


def test_a_thousand_shapes_need_one_kernel(fresh):
    random = np.random.default_rng(0)
    for m, n, k in random.integers(1, 100, (1000, 3)):
        a, b = np.ones((m, k), F32), np.ones((k, n), F32)
        c = nkdsl.matmul(a, b, threads=ALONE)
        assert c.shape == (m, n)
        assert np.all(c == k)
    assert len(fresh) == 1
    wanted = ShapeClass(F32, F32, F32, True, True, False, False, None, "any", ALONE)
    assert list(products.kernels()) == [wanted]


def test_threads_that_need_a_kernel_make_it_once(fresh):
    count = 8
    barrier = threading.Barrier(count)

    def work(seed: int) -> bool:
        a, b = integers((30 + seed, 20), seed=seed), integers((20, 40), seed=seed + 1)
        barrier.wait()
        return all(
            np.array_equal(nkdsl.matmul(a, b, threads=ALONE), a.astype(F64) @ b) for _ in range(200)
        )

    with ThreadPoolExecutor(count) as pool:
        assert all(pool.map(work, range(count)))
    assert len(fresh) == 1


def test_several_threads_share_a_product():
    a, b = integers((300, 200)), integers((200, 310), seed=1)
    c, calls = run(nkdsl.matmul, a, b, threads=2)
    assert np.array_equal(c, a @ b)
    key = only(calls).key
    assert key.threads in (1, 2)  # 1 where OpenMP's runtime is missing
    assert ("threads = 2" in products.kernels()[key].plan) == (key.threads == 2)


FORK = """
import os, sys, threading
import numpy as np
import nkdsl
from nkdsl import products

a = np.arange(12, dtype=np.float32).reshape(3, 4)
wide = np.ones((400, 400), np.float32)

def right(b):
    return np.array_equal(nkdsl.matmul(a, b), a @ b)

def busy():
    nkdsl.matmul(a, np.asfortranarray(a.T))

assert right(np.ones((4, 5), np.float32))
assert np.all(nkdsl.matmul(wide, wide) == 400)
at_work = threading.Thread(target=busy)  # compiles when this process forks
at_work.start()
child = os.fork()
if child == 0:
    good = right(np.ones((4, 5), np.float32)) and right(a.T) and right(a.T.astype(np.float64))
    good = good and bool(np.all(nkdsl.matmul(wide, wide) == 400)) and len(products.kernels()) >= 3
    os._exit(0 if good else 1)
at_work.join()
assert right(a.T)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("threads", ["1", "2"])
def test_children_go_on(threads):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        env={**os.environ, "NKDSL_NUM_THREADS": threads},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
