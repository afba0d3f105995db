"""Programs and calls that once failed, or were refused with the wrong words."""

import gc
import threading
import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from xdsl.dialects.builtin import ModuleOp

import nkdsl
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.frontend import load, make_context
from nkdsl.pipeline import levels
from nkdsl.targets import Target, can_run, get_target, use_target
from nkdsl.testing import check_all_levels
from tests.unit.helpers import Product

Array = npt.NDArray[np.float32]

TARGET = "x86-64-v3"

runs_here = pytest.mark.skipif(
    can_run(get_target(TARGET)) is not None, reason=f"this CPU can't run {TARGET}"
)


def matmul(lhs: str, rhs: str, out: str) -> str:
    """A program with one linalg.matmul, on line 3, on operands of these types."""
    return f"""
    func.func @product(%a: memref<{lhs}>, %b: memref<{rhs}>, %c: memref<{out}>) {{
      linalg.matmul ins(%a, %b : memref<{lhs}>, memref<{rhs}>) outs(%c : memref<{out}>)
      func.return
    }}"""


def strided(array: Array, strides: tuple[int, ...]) -> Array:
    """A copy of an array whose elements lie `strides` elements apart."""
    size = 1 + sum((n - 1) * s for n, s in zip(array.shape, strides, strict=True))
    memory = np.zeros(size, array.dtype)
    in_bytes = [s * array.itemsize for s in strides]
    view = np.lib.stride_tricks.as_strided(memory, array.shape, in_bytes)
    view[...] = array
    return view


# ------------------------------------------------------------------------ layouts and types


@runs_here
@pytest.mark.parametrize(
    ("rows", "columns", "strides"), [(1, 1, (2, 2)), (7, 1, (20, 2)), (5, 1, (20, 2))]
)
def test_an_extent_of_one_needs_no_stride_of_one(
    rows: int, columns: int, strides: tuple[int, int]
) -> None:
    out = f"{rows}x{columns}xf32, strided<[{strides[0]}, {strides[1]}]>"
    kernel = nkdsl.compile(matmul(f"{rows}x9xf32", f"9x{columns}xf32", out), TARGET)
    rng = np.random.default_rng(0)
    a, b, c = (
        rng.integers(-4, 5, s).astype(np.float32)
        for s in ((rows, 9), (9, columns), (rows, columns))
    )
    result = strided(c, strides)
    kernel(a, b, result)
    assert np.array_equal(result, c + a @ b)


@runs_here
@pytest.mark.parametrize("element", ["f32", "f64"])
def test_a_dot_product_ends_in_a_memref_of_rank_zero(element: str) -> None:
    product = Product("k,k->", (("k", 37),), element, from_zero=True)
    kernel = nkdsl.compile(product.source, TARGET)
    dtype = {"f32": np.float32, "f64": np.float64}[element]
    a, c = np.arange(37, dtype=dtype) - 18, np.full((), np.nan, dtype)
    kernel(a, a[::-1].copy(), c)
    assert c == a @ a[::-1]


def test_a_negative_stride_is_refused_with_a_remedy() -> None:
    source = matmul("4x4xf32, strided<[-4, 1]>", "4x4xf32", "4x4xf32")
    with pytest.raises(Unsupported, match=r"<input>:3:7: .*negative stride.*copy it") as error:
        nkdsl.compile(source, TARGET)
    assert "strided<[-4, 1]>" in str(error.value)


@runs_here
@pytest.mark.parametrize(
    ("lhs", "rhs", "out"),
    [
        ("?x4xf32", "4x4xf32", "?x4xf32"),
        ("4x?xf32", "?x4xf32", "4x4xf32"),
        ("4x4xf32", "4x?xf32", "4x?xf32"),
        ("?x4xf32, strided<[4, 1]>", "4x4xf32", "?x4xf32, strided<[?, 1]>"),
        ("?x?xf32", "?x?xf32", "?x?xf32"),
    ],
)
def test_a_size_may_be_known_only_at_run_time(lhs: str, rhs: str, out: str) -> None:
    kernel = nkdsl.compile(matmul(lhs, rhs, out), TARGET)
    a, b, c = arguments(4, 4, 4, seed=0)
    kernel(a, b, c)
    assert np.array_equal(c, a @ b)


@runs_here
@pytest.mark.parametrize("strides", ["?, 1", "1, ?"])
def test_a_stride_may_be_known_only_at_run_time(strides: str) -> None:
    kernel = nkdsl.compile(matmul(f"4x4xf32, strided<[{strides}]>", "4x4xf32", "4x4xf32"), TARGET)
    a, b, c = arguments(4, 4, 4, seed=0)
    kernel(strided(a, (7, 1) if strides == "?, 1" else (1, 7)), b, c)
    assert np.array_equal(c, a @ b)


@pytest.mark.parametrize("strides", ["?, ?", "?, 2"])
def test_a_result_without_a_stride_of_one_is_refused(strides: str) -> None:
    source = matmul("?x?xf32", "?x?xf32", f"?x?xf32, strided<[{strides}]>")
    with pytest.raises(Unsupported, match=r"<input>:3:7: .*stride 1 along neither.*contiguous"):
        nkdsl.compile(source, TARGET)


@runs_here
def test_a_parameter_may_be_dynamic_and_unused() -> None:
    source = "func.func @f(%a: memref<?x?xf32, strided<[?, 1]>>) {\n  func.return\n}"
    kernel = nkdsl.compile(source, TARGET)
    assert (
        kernel.c_declaration == "void f(const float *a, int64_t a_d0, int64_t a_d1, int64_t a_s0);"
    )
    kernel(np.ones((2, 3), np.float32))


@runs_here
def test_a_function_without_products_may_stand_beside_one_with() -> None:
    other = "func.func @g(%x: memref<?xf32>) {\n  func.return\n}\n"
    kernel = nkdsl.compile(other + matmul(*["?x?xf32"] * 3), TARGET, function="product")
    a, b, c = arguments(5, 6, 7, seed=0)
    kernel(a, b, c)
    assert np.array_equal(c, a @ b)


@pytest.mark.parametrize("element", ["i16", "f128"])
def test_a_type_that_is_not_supported_is_refused_with_those_that_are(element: str) -> None:
    types = [f"4x4x{element}"] * 3
    supported = "supported are: f32, f64, bf16, f16, s8, u8, s32"
    with pytest.raises(Unsupported, match=rf"<input>:3:7: .*{element}.*{supported}"):
        nkdsl.compile(matmul(*types), TARGET)


def test_a_sum_that_would_overflow_its_type_is_refused() -> None:
    source = Product("mk,kn->nm", (("m", 4), ("n", 4), ("k", 4)), "i8").source
    integers = source.replace("mulf", "muli").replace("addf", "addi")
    with pytest.raises(Unsupported, match=r"<input>:4:11: .*i8 are added up in i32, not in i8"):
        nkdsl.compile(integers, TARGET)


def test_a_function_with_results_is_refused_at_its_place() -> None:
    source = (
        "func.func @f(%a: memref<4xf32>) -> memref<4xf32> {\n  func.return %a : memref<4xf32>\n}"
    )
    with pytest.raises(Unsupported, match="<input>:1:1: function 'f' returns values"):
        nkdsl.compile(source, TARGET)


# ---------------------------------------------------------------------------------- programs


def gemms(source: str | ModuleOp) -> list[str]:
    """The products that a program is raised to."""
    text = str(levels(source, TARGET)["nanokernel"])
    return [line for line in text.splitlines() if "nanokernel.gemm" in line]


def test_a_fill_that_was_generalized_is_folded() -> None:
    a, b, c = "memref<3x8x4xf32>", "memref<3x4x6xf32>", "memref<8x6xf32>"
    source = f"""
    func.func @f(%a: {a}, %b: {b}, %c: {c}) {{
      %zero = arith.constant 0.0 : f32
      linalg.fill ins(%zero : f32) outs(%c : {c})
      linalg.batch_reduce_matmul ins(%a, %b : {a}, {b}) outs(%c : {c})
      func.return
    }}"""
    (gemm,) = gemms(source)
    assert "from zero" in gemm
    assert "[k0, m, k1]" in gemm


def test_a_matmul_with_maps_of_its_own_is_read() -> None:
    maps = "affine_map<(m,n,k)->(k,m)>, affine_map<(m,n,k)->(k,n)>, affine_map<(m,n,k)->(m,n)>"
    plain = matmul("4x8xf32", "4x6xf32", "8x6xf32")
    (gemm,) = gemms(plain.replace("matmul ins", f"matmul indexing_maps = [{maps}] ins"))
    assert "[k, m]" in gemm


def test_a_fill_of_a_factor_is_not_folded() -> None:
    source = """
    func.func @f(%a: memref<4x4xf32>, %c: memref<4x4xf32>) {
      %zero = arith.constant 0.0 : f32
      linalg.fill ins(%zero : f32) outs(%c : memref<4x4xf32>)
      linalg.matmul ins(%a, %c : memref<4x4xf32>, memref<4x4xf32>) outs(%c : memref<4x4xf32>)
      func.return
    }"""
    with pytest.raises(Unsupported, match=r"<input>:5:7: .*rhs is also the result.*of its own"):
        nkdsl.compile(source, TARGET)


def test_a_product_in_the_place_of_a_factor_is_refused_at_every_level() -> None:
    t = "memref<4x4xf32>"
    source = f"""
    func.func @f(%a: {t}, %c: {t}) {{
      nanokernel.gemm ins(%a[m, k], %c[k, n] : {t}, {t}) outs(%c[m, n] : {t})
      func.return
    }}"""
    with pytest.raises(InvalidInput, match="rhs is also the result"):
        nkdsl.compile(source, TARGET)


@pytest.mark.parametrize("literal", ['"' + "long " * 20, r'"an escape \q ' + "x" * 100 + '"'])
def test_a_broken_string_literal_is_refused_at_once(literal: str) -> None:
    source = f"\n  func.func @f() attributes {{a = {literal}}} {{\n  func.return\n}}"
    with pytest.raises(InvalidInput, match=r"^<input>:2:34: this string literal does not end"):
        load(source, make_context())


def test_quotes_in_comments_and_escapes_are_no_broken_strings() -> None:
    source = (
        '// it\'s "quoted\nfunc.func @f() attributes {a = "\\n\\"\\\\ // \\41"} {\n  func.return\n}'
    )
    load(source, make_context())


# ----------------------------------------------------------------------------------- targets


def unregistered() -> Target:
    """A table that no name stands for."""
    return replace(get_target(TARGET), name="nobody-knows", registers=8)


def test_a_target_need_not_be_registered() -> None:
    source = matmul("32x32xf32", "32x32xf32", "32x32xf32")
    kernel = nkdsl.compile(source, unregistered())
    assert '"nobody-knows"' in kernel.plan
    assert "nobody-knows" in kernel.ir("nkvector")
    assert "nobody-knows" in kernel.explain()
    assert kernel.plan != nkdsl.compile(source, TARGET).plan
    with pytest.raises(Unsupported, match="not known"):
        get_target("nobody-knows")


def test_a_target_object_goes_before_the_table_of_its_name() -> None:
    shrunk = replace(get_target(TARGET), registers=8)
    with use_target(shrunk):
        assert get_target(TARGET) is shrunk
    assert get_target(TARGET) is not shrunk
    source = matmul("64x64xf32", "64x64xf32", "64x64xf32")
    assert nkdsl.compile(source, shrunk).plan != nkdsl.compile(source, TARGET).plan


def test_an_impossible_target_is_refused() -> None:
    impossible = replace(unregistered(), caches=())
    with pytest.raises(InvalidInput, match="impossible target 'nobody-knows'"):
        nkdsl.compile(matmul("4x4xf32", "4x4xf32", "4x4xf32"), impossible)


# ------------------------------------------------------------------------------------- calls


def product_of(m: int, n: int, k: int, spec: str = "mk,kn->mn") -> Product:
    """`C = A * B` of these extents."""
    return Product(spec, (("m", m), ("n", n), ("k", k)), from_zero=True)


def arguments(m: int, n: int, k: int, seed: int, spec: str = "mk,kn->mn") -> list[Array]:
    """Random small integers for a product."""
    rng = np.random.default_rng(seed)
    extents = {"m": m, "n": n, "k": k}
    lhs, rhs, out = spec.replace("->", ",").split(",")
    a, b = (
        rng.integers(-4, 5, [extents[i] for i in operand]).astype(np.float32)
        for operand in (lhs, rhs)
    )
    return [a, b, np.zeros([extents[i] for i in out], np.float32)]


@runs_here
@pytest.mark.parametrize("spec", ["mk,kn->mn", "mk,nk->mn"])
def test_eight_threads_may_call_one_kernel(spec: str) -> None:
    sizes = 65, 70, 130
    kernel = nkdsl.compile(product_of(*sizes, spec).source, TARGET)
    work = [arguments(*sizes, seed, spec) for seed in range(8)]
    start = threading.Barrier(len(work))

    def call(a: Array, b: Array, c: Array) -> None:
        start.wait()
        for _ in range(20):
            c[...] = 0
            kernel(a, b, c)

    threads = [threading.Thread(target=call, args=arrays) for arrays in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b, c in work:
        assert np.array_equal(c, np.einsum(spec, a, b))


@runs_here
def test_pythons_lock_is_free_during_a_call() -> None:
    kernel = nkdsl.compile(product_of(1024, 1024, 1024).source, TARGET)
    a, b, c = arguments(1024, 1024, 1024, seed=0)
    kernel(a, b, c)
    turns, done = [0], threading.Event()

    def count() -> None:
        while not done.is_set():
            turns[0] += 1
            time.sleep(0)

    counter = threading.Thread(target=count)
    counter.start()
    before = turns[0]
    kernel(a, b, c)
    after = turns[0]
    done.set()
    counter.join()
    assert after > before + 1


@runs_here
def test_a_kernel_outlives_the_others() -> None:
    first = nkdsl.compile(product_of(5, 6, 7).source, TARGET)
    second = nkdsl.compile(product_of(8, 9, 10).source, TARGET)
    first(*arguments(5, 6, 7, seed=0))
    del first
    gc.collect()
    a, b, c = arguments(8, 9, 10, seed=1)
    second(a, b, c)
    assert np.array_equal(c, a @ b)


def test_a_packed_column_of_one_step_is_read_as_it_was_written() -> None:
    """With one step of the reduction, A lies along its rows as well as along its columns."""
    a, c = "memref<40x1xf32, strided<[1, 40]>>", "memref<40x48xf32>"
    source = f"""func.func @product(%a: {a}, %b: memref<1x48xf32>, %c: {c}) {{
      nanokernel.gemm ins(%a[m, k], %b[k, n] : {a}, memref<1x48xf32>) outs(%c[m, n] : {c})
        plan #nanokernel.plan<target = "x86-64-v3", instruction = "fma.f32x8", block = 4x16,
          pack = both, m_block = 16, n_block = 48, k_block = 4>
      func.return
    }}"""
    check_all_levels(source, target="x86-64-v3")
