"""Rows, operands, and the judge that says whether an answer is right."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nkdsl.bench.memory import HUGE_PAGE, on_huge_pages, reserve
from nkdsl.bench.problem import (
    ALIGNMENT,
    PRODUCTS,
    Problem,
    Row,
    fault,
    make_problem,
    pack,
    parse_row,
    product_types,
    unpack,
)
from nkdsl.errors import InvalidInput, Unsupported

SIZES = st.integers(1, 9)
ROWS = st.one_of(
    st.builds(Row, SIZES, SIZES, SIZES, batch=st.integers(1, 3)),
    st.builds(Row, SIZES, SIZES, SIZES, transpose_a=st.booleans(), transpose_b=st.booleans()),
)


def _solve(problem: Problem) -> None:
    a = problem.a.swapaxes(-1, -2) if problem.row.transpose_a else problem.a
    b = problem.b.swapaxes(-1, -2) if problem.row.transpose_b else problem.b
    b = unpack(b, problem.row.k) if problem.types.narrow else b
    product = np.matmul(a.astype(problem.c.dtype), b.astype(problem.c.dtype))
    problem.c[...] += product if product.ndim == 2 else product.sum(axis=0)


@given(ROWS)
def test_a_row_is_read_back_from_its_name(row: Row) -> None:
    assert parse_row(row.name) == row


@pytest.mark.parametrize("text", ["", "16", "16x16", "16x16x16x16", "axbxc", "2x2x2:xy", "0x1x1"])
def test_what_is_no_row_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no shape|at least 1"):
        parse_row(text)


@given(ROWS, st.sampled_from(sorted(PRODUCTS)))
def test_operands_are_aligned_and_the_right_answer_is_accepted(row: Row, name: str) -> None:
    problem = make_problem(row.plain if PRODUCTS[name].narrow else row, PRODUCTS[name])
    assert all(pointer % ALIGNMENT == 0 for pointer in problem.pointers)
    _solve(problem)
    assert fault(problem) is None


@given(st.integers(1, 9), st.integers(1, 5), st.sampled_from([1, 2, 4]))
def test_a_packed_matrix_holds_steps_side_by_side_and_is_filled_up_with_zeros(
    k: int, n: int, group: int
) -> None:
    matrix = np.arange(1, 1 + k * n).reshape(k, n)
    packed = pack(matrix, group)
    if group == 1:
        assert packed is matrix
        return
    assert packed.shape == (-(-k // group), n, group)
    assert packed.sum() == matrix.sum()
    for step, column in np.ndindex(k, n):
        assert packed[step // group, column, step % group] == matrix[step, column]
    assert np.array_equal(unpack(packed, k), matrix)


def test_transposes_of_narrow_types_are_refused() -> None:
    with pytest.raises(InvalidInput, match="packed"):
        make_problem(parse_row("3x4x5:tn"), PRODUCTS["bf16"])


def test_types_have_a_second_name_and_unknown_ones_are_refused() -> None:
    assert product_types("s8") is PRODUCTS["s8s8"]
    with pytest.raises(Unsupported, match="f32, f64, bf16, u8s8, s8s8"):
        product_types("f8")


def test_results_are_stored_as_factors_are_but_integers_in_full() -> None:
    stored = {name: types.stored.out.name for name, types in PRODUCTS.items()}
    assert stored == {"f32": "f32", "f64": "f64", "bf16": "bf16", "u8s8": "s32", "s8s8": "s32"}


@pytest.mark.parametrize("size", [1, HUGE_PAGE, HUGE_PAGE + 1])
def test_memory_starts_on_a_huge_page_and_can_be_written(size: int) -> None:
    memory = reserve(size)
    assert memory.size == size and memory.ctypes.data % HUGE_PAGE == 0
    memory[:] = 7
    assert memory[-1] == 7
    assert on_huge_pages(memory) in (True, False, None)


def test_memory_is_reserved_where_the_system_has_no_huge_pages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    assert reserve(100).size == 100


def test_several_calls_are_judged_by_their_sum() -> None:
    problem = make_problem(Row(4, 5, 6), PRODUCTS["f64"])
    _solve(problem)
    assert fault(problem, calls=2) is not None
    _solve(problem)
    assert fault(problem, calls=2) is None


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_slightly_wrong_element_is_reported_with_its_place(name: str) -> None:
    problem = make_problem(Row(4, 5, 6), PRODUCTS[name])
    _solve(problem)
    roundoff = PRODUCTS[name].sums.unit_roundoff
    problem.c[2, 3] += 1000 * roundoff * abs(problem.a).max() * 6 if roundoff else 1
    assert "C[2,3]" in (fault(problem) or "")


def test_a_nan_is_wrong() -> None:
    problem = make_problem(Row(4, 5, 6), PRODUCTS["f32"])
    _solve(problem)
    problem.c[0, 0] = np.nan
    assert "1 of 20 elements" in (fault(problem) or "")


def test_a_write_outside_c_is_reported() -> None:
    problem = make_problem(Row(4, 5, 6), PRODUCTS["f32"])
    _solve(problem)
    end = problem.c.ctypes.data + problem.c.nbytes - problem.arena.ctypes.data
    problem.arena[end] = 0
    assert "1 bytes outside C" in (fault(problem) or "")


def test_reset_restores_every_byte() -> None:
    problem = make_problem(Row(4, 5, 6), PRODUCTS["f32"])
    before = problem.c.copy()
    _solve(problem)
    problem.reset()
    assert np.array_equal(problem.c, before)


def test_equal_arguments_give_equal_operands() -> None:
    first, second = (make_problem(Row(3, 4, 5), PRODUCTS["f64"]) for _ in range(2))
    assert np.array_equal(first.arena, second.arena)
