"""Products that several threads share: the same bits for every number of threads."""

import numpy as np
import pytest

import nkdsl
from nkdsl.planner.blocking import thread_grid
from nkdsl.runtime import openmp
from nkdsl.targets import can_run, get_target
from tests.unit.helpers import Product

TARGETS = ("x86-64-v3", "host")

pytestmark = pytest.mark.skipif(openmp.find() is None, reason="no OpenMP runtime")

WRITTEN = """
func.func @product(%a: memref<35x64xf32>, %b: memref<64x70xf32>, %c: memref<35x70xf32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<35x64xf32>, memref<64x70xf32>)
    outs(%c[m, n] : memref<35x70xf32>) from zero
    plan #nanokernel.plan<target = "x86-64-v3", instruction = "fma.f32x8", block = 2x16,
      n_block = 64, m_block = 16, k_block = 32, pack = both, threads = THREADS>
  return
}
"""


def operands(m: int, n: int, k: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(m + n + k)
    return (
        generator.standard_normal((m, k)).astype(dtype),
        generator.standard_normal((k, n)).astype(dtype),
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("element", "dtype", "dynamic", "shape"),
    [
        ("f32", "float32", "", (130, 200, 150)),
        ("f64", "float64", "", (97, 301, 64)),
        ("f32", "float32", "", (70, 100, 3000)),
        ("f32", "float32", "mnk", (311, 65, 1300)),
    ],
)
def test_the_result_is_the_same_for_every_number_of_threads(
    target: str, element: str, dtype: str, dynamic: str, shape: tuple[int, int, int]
) -> None:
    if can_run(get_target(target)):
        pytest.skip(f"this CPU can't run {target}")
    m, n, k = shape
    sizes = (("m", m), ("n", n), ("k", k))
    product = Product("mk,kn->mn", sizes, element, from_zero=True, dynamic=dynamic)
    a, b = operands(m, n, k, dtype)
    results = []
    for threads in (1, 2, 3):
        kernel = nkdsl.compile(product.source, target, threads=threads)
        assert f"threads = {threads}" in kernel.plan or threads == 1
        assert openmp.is_called(kernel.ir("llvm")) == (threads > 1)
        c = np.full((m, n), np.nan, dtype)
        kernel(a, b, c)
        results.append(c)
    assert np.allclose(results[0], a.astype("float64") @ b, rtol=1e-3, atol=1e-3)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[1], results[2])


@pytest.mark.parametrize("from_zero", [True, False])
@pytest.mark.parametrize("shape", [(999, 37, 1001), (128, 128, 128), (300, 310, 320)])
def test_a_plan_whose_sums_would_differ_is_not_shared(
    shape: tuple[int, int, int], from_zero: bool
) -> None:
    m, n, k = shape
    product = Product("mk,kn->mn", (("m", m), ("n", n), ("k", k)), from_zero=from_zero)
    a, b = operands(m, n, k, "float32")
    start = np.random.default_rng(1).standard_normal((m, n)).astype("float32")
    results = []
    for threads in (1, 2):
        c = start.copy()
        nkdsl.compile(product.source, threads=threads)(a, b, c)
        results.append(c)
    assert np.array_equal(results[0], results[1])


PART = """
func.func @product(%a: memref<97x301xf32>, %all: memref<310x96xf32>, %c: memref<97x64xf32>) {
  %zero = arith.constant 0.0 : f32
  %b = memref.subview %all[5, 7] [301, 64] [1, 1]
      : memref<310x96xf32> to memref<301x64xf32, strided<[96, 1], offset: 487>>
  linalg.fill ins(%zero : f32) outs(%c : memref<97x64xf32>)
  linalg.matmul
      ins(%a, %b : memref<97x301xf32>, memref<301x64xf32, strided<[96, 1], offset: 487>>)
      outs(%c : memref<97x64xf32>)
  return
}
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_told_where_a_part_of_a_memref_begins(threads: int) -> None:
    a, b = operands(97, 96, 301, "float32")
    whole = np.zeros((310, 96), "float32")
    whole[5:306] = b
    kernel = nkdsl.compile(PART, "x86-64-v3", threads=threads)
    assert openmp.is_called(kernel.ir("llvm")) == (threads > 1)
    c = np.zeros((97, 64), "float32")
    kernel(a, whole, c)
    assert np.allclose(c, a.astype("float64") @ b[:, 7:71], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_a_written_number_of_threads_is_obeyed(threads: int) -> None:
    if can_run(get_target("x86-64-v3")):
        pytest.skip("this CPU can't run x86-64-v3")
    kernel = nkdsl.compile(WRITTEN.replace("THREADS", str(threads)), "x86-64-v3")
    assert openmp.is_called(kernel.ir("llvm")) == (threads > 1)
    a, b = operands(35, 70, 64, "float32")
    c = np.full((35, 70), np.nan, "float32")
    kernel(a, b, c)
    assert np.allclose(c, a @ b, rtol=1e-3, atol=1e-5)


def test_threads_stand_in_a_grid_that_leaves_none_with_more_blocks_than_needed() -> None:
    assert thread_grid(2, (1024, 128), (48, 8)) == (2, 1)
    assert thread_grid(2, (48, 1024), (48, 8)) == (1, 2)
    assert thread_grid(6, (144, 1024), (48, 8)) == (3, 2)
    assert thread_grid(1, (5, 5), (48, 8)) == (1, 1)


def test_a_small_product_is_not_shared() -> None:
    product = Product("mk,kn->mn", (("m", 8), ("n", 8), ("k", 8)))
    assert "threads" not in nkdsl.compile(product.source, threads=2).plan
