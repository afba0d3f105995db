"""Calling a kernel: arguments are checked before any native code runs, and then it is right."""

import ctypes
import gc
import re
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest

import nkdsl
from nkdsl import api
from nkdsl.backends import mlir, native
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.pipeline import LEVELS, CollectorPause
from nkdsl.runtime.address import address_of
from nkdsl.runtime.entry import CheckedCall, native_entry
from nkdsl.runtime.workspace import aligned_bytes
from nkdsl.targets import can_run, get_target
from tests.unit.helpers import Product

TARGET = "x86-64-v3"
OBSTACLE = can_run(get_target(TARGET))
pytestmark = pytest.mark.skipif(OBSTACLE is not None, reason=str(OBSTACLE))

M, N, K = 6, 20, 9
SIZES = (("m", M), ("n", N), ("k", K))


@cache
def compiled(
    spec: str = "mk,kn->mn",
    sizes: tuple[tuple[str, int], ...] = SIZES,
    element: str = "f32",
    layouts: tuple[str, str, str] = ("rows", "rows", "rows"),
    from_zero: bool = False,
) -> nkdsl.Kernel:
    return nkdsl.compile(Product(spec, sizes, element, layouts, from_zero).source, target=TARGET)


def operands(dtype: Any = np.float32) -> list[np.ndarray]:
    """Small integers, for which sums are exact."""
    random = np.random.default_rng(0)
    shapes = ((M, K), (K, N), (M, N))
    return [random.integers(-4, 5, shape).astype(dtype) for shape in shapes]


def with_workspace() -> nkdsl.Kernel:
    """A kernel that packs its right factor."""
    kernel = compiled("mk,nk->mn", (("m", 40), ("n", 24), ("k", 33)))
    assert kernel.workspace_bytes > 0
    return kernel


# ---------------------------------------------------------------------------------- checks


def transposed_copy(array: np.ndarray) -> np.ndarray:
    return np.asfortranarray(array)


def misaligned(array: np.ndarray) -> np.ndarray:
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    assert not view.flags.aligned
    return view


def read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


REFUSED: dict[str, tuple[int, Callable[[np.ndarray], object], str]] = {
    "no array": (0, lambda a: a.tolist(), "argument 0 of product must be a numpy array, not list"),
    "nothing": (1, lambda b: None, "argument 1 of product must be a numpy array, not NoneType"),
    "type": (
        0,
        lambda a: a.astype(np.float64),
        "argument 0 of product must have type float32, not float64",
    ),
    "byte order": (
        1,
        lambda b: b.astype(">f4"),
        "argument 1 of product must have type float32, not >f4",
    ),
    "integer": (2, lambda c: c.astype(np.int32), "must have type float32, not int32"),
    "shape": (1, lambda b: b[:-1].copy(), r"must have shape \(9, 20\), not \(8, 20\)"),
    "rank": (2, lambda c: c.reshape(-1), r"must have shape \(6, 20\), not \(120,\)"),
    "transposed": (0, transposed_copy, r"must have strides \(36, 4\) bytes, not \(4, 24\)"),
    "spread": (2, lambda c: np.repeat(c, 2, 0)[::2], "copy it with numpy.ascontiguousarray"),
    "repeated": (1, lambda b: np.broadcast_to(b[:1], b.shape), r"not \(0, 4\)"),
    "read-only": (2, read_only, "argument 2 of product is written by the kernel but read-only"),
    "misaligned": (0, misaligned, "argument 0 of product must be aligned to its element type"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_argument_is_refused_and_nothing_is_written(name):
    position, spoil, message = REFUSED[name]
    arrays: list[Any] = operands()
    result = arrays[2]
    before = result.copy()
    arrays[position] = spoil(arrays[position])
    with pytest.raises(InvalidInput, match=message):
        compiled()(*arrays)
    assert (result == before).all()


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_wrong_number_of_arguments_is_refused(count):
    arrays = (operands() + operands())[:count]
    with pytest.raises(InvalidInput, match=f"product takes 3 arrays, got {count}"):
        compiled()(*arrays)


def test_native_code_is_not_entered_when_a_check_fails():
    entered = np.zeros(1, np.int64)
    code = native.load(
        f"""define void @product(ptr %a, ptr %b, ptr %c) {{
          %before = load i64, ptr inttoptr (i64 {entered.ctypes.data} to ptr)
          %after = add i64 %before, 1
          store i64 %after, ptr inttoptr (i64 {entered.ctypes.data} to ptr)
          ret void
        }}""",
        get_target(TARGET),
    )
    checked = CheckedCall(compiled().signature, code, code.address("product"), 0)
    for call in (checked, native_entry(checked)):
        for position, spoil, _ in REFUSED.values():
            arrays: list[Any] = operands()
            arrays[position] = spoil(arrays[position])
            with pytest.raises(InvalidInput):
                call(*arrays)
        assert entered == 0
        call(*operands())
        assert entered == 1
        entered[...] = 0


def test_read_only_factors_are_welcome():
    a, b, c = operands()
    expected = c + a @ b
    compiled()(read_only(a), read_only(b), c)
    assert (c == expected).all()


def test_a_stride_that_is_never_walked_may_be_anything():
    kernel = compiled(sizes=(("m", 1), ("n", 8), ("k", 4)))
    a = np.lib.stride_tricks.as_strided(np.ones(4, np.float32), (1, 4), (1000, 4))
    b, c = np.ones((4, 8), np.float32), np.zeros((1, 8), np.float32)
    kernel(a, b, c)
    assert (c == 4).all()


def test_a_result_that_overlaps_a_factor_is_refused():
    kernel = compiled(sizes=(("m", 8), ("n", 8), ("k", 8)))
    memory = np.ones((9, 8), np.float32)
    before = memory.copy()
    other = np.ones((8, 8), np.float32)
    with pytest.raises(InvalidInput, match="argument 2 of product is written and overlaps arg"):
        kernel(memory[:8], other, memory[1:])
    with pytest.raises(InvalidInput, match="overlaps argument 1"):
        kernel(other, memory[:8], memory[:8])
    assert (memory == before).all()


def test_results_that_overlap_each_other_are_refused():
    t = "memref<4x4xf32>"
    kernel = nkdsl.compile(
        f"""func.func @f(%a: {t}, %c: {t}, %d: {t}) {{
          linalg.matmul ins(%a, %a : {t}, {t}) outs(%c : {t})
          linalg.matmul ins(%a, %a : {t}, {t}) outs(%d : {t})
          return
        }}""",
        target=TARGET,
    )
    a, memory = np.ones((4, 4), np.float32), np.zeros((9, 4), np.float32)
    with pytest.raises(InvalidInput, match="argument 1 of f is written and overlaps argument 2"):
        kernel(a, memory[:4], memory[3:7])
    kernel(a, memory[:4], memory[4:8])
    assert (memory[:8] == 4).all()
    assert (memory[8] == 0).all()


def test_arrays_of_a_subclass_are_welcome():
    class Named(np.ndarray):
        """An array with attributes of its own."""

        name = "mine"

    a, b, c = (array.view(Named) for array in operands())
    expected = c + a @ b
    compiled()(a, b, c)
    assert (c == expected).all()


@pytest.mark.parametrize("make", [np.asarray, lambda a: a[::2], lambda a: a[::-1], read_only])
def test_an_address_is_where_the_first_element_is(make):
    array = make(np.arange(6, dtype=np.float64))
    assert address_of(array) == array.ctypes.data


def test_factors_may_be_the_same_memory():
    kernel = compiled(sizes=(("m", 8), ("n", 8), ("k", 8)))
    a, c = np.ones((8, 8), np.float32), np.zeros((8, 8), np.float32)
    kernel(a, a, c)
    assert (c == 8).all()


def test_interleaved_arguments_that_share_no_element_are_accepted():
    # Rows of 3, each followed by a hole of 3, in which a row of another argument lies.
    sizes = (("m", 4), ("n", 3), ("k", 3))
    kernel = compiled(sizes=sizes, layouts=("rows", "padded", "padded"))
    memory = np.zeros((4, 6), np.float32)
    result, between = memory[:, :3], memory[:3, 3:]
    between[...] = 1
    a = np.ones((4, 3), np.float32)
    assert np.may_share_memory(result, between)
    kernel(a, between, result)
    assert (result == 3).all()
    assert (between == 1).all()


# ---------------------------------------------------------------------------------- results


@pytest.mark.parametrize("element", ["f32", "f64"])
def test_a_call_adds_the_product_in_place(element):
    a, b, c = operands(np.float32 if element == "f32" else np.float64)
    expected = c + a @ b
    assert compiled(element=element)(a, b, c) is None
    assert (c == expected).all()


def test_sums_from_zero_forget_the_old_result_even_nan():
    a, b, c = operands()
    c[...] = np.nan
    compiled(from_zero=True)(a, b, c)
    assert (c == a @ b).all()


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_special_values_reach_exactly_the_results_that_they_belong_to(special):
    a, b, c = operands()
    b[...] = 1
    a[2, 3] = special
    with np.errstate(invalid="ignore"):
        expected = c + a @ b
    compiled()(a, b, c)
    np.testing.assert_array_equal(c, expected)
    assert np.isfinite(np.delete(c, 2, axis=0)).all()


def test_infinities_of_both_signs_make_nan():
    a, b, c = (np.ones(s, np.float32) for s in ((M, K), (K, N), (M, N)))
    a[0, 0], a[0, 1] = np.inf, -np.inf
    compiled()(a, b, c)
    assert np.isnan(c[0]).all()
    assert (c[1:] == K + 1).all()


@pytest.mark.parametrize("sizes", [(0, 4, 4), (4, 0, 4), (4, 4, 0)])
def test_an_empty_product_can_be_called(sizes):
    m, n, k = sizes
    kernel = compiled(sizes=(("m", m), ("n", n), ("k", k)), from_zero=True)
    c = np.full((m, n), 7, np.float32)
    kernel(np.ones((m, k), np.float32), np.ones((k, n), np.float32), c)
    assert (c == 0).all()


# ----------------------------------------------------------------------- the collector's pause


@pytest.fixture
def collector():
    """Python's collector, switched on; as it was, afterwards."""
    was_enabled = gc.isenabled()
    gc.enable()
    yield
    (gc.enable if was_enabled else gc.disable)()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_before_when_all_have_left_its_pause(collector, enabled):
    (gc.enable if enabled else gc.disable)()
    pause = CollectorPause()
    with pause:
        assert not gc.isenabled()
        with pytest.raises(RuntimeError), pause:
            raise RuntimeError
        assert not gc.isenabled()
    assert gc.isenabled() == enabled


def test_the_collector_stays_off_while_any_thread_is_inside(collector):
    pause, entered, done = CollectorPause(), threading.Event(), threading.Event()

    def stay() -> None:
        with pause:
            entered.set()
            done.wait(timeout=60)

    thread = threading.Thread(target=stay)
    with pause:
        thread.start()
        assert entered.wait(timeout=60)
    assert not gc.isenabled()
    done.set()
    thread.join()
    assert gc.isenabled()


def test_the_collector_is_on_again_after_compiling_and_after_an_error(collector):
    nkdsl.compile(Product("mk,kn->mn", SIZES).source, target=TARGET)
    assert gc.isenabled()
    with pytest.raises(InvalidInput):
        nkdsl.compile("func.func @f() {", target=TARGET)
    assert gc.isenabled()


# ---------------------------------------------------------------------------------- threads


def test_eight_threads_may_call_one_kernel():
    kernel = with_workspace()
    random = np.random.default_rng(1)
    barrier = threading.Barrier(8)

    def work(_: int) -> bool:
        shapes = ((40, 33), (24, 33), (40, 24))
        a, b, c = (random_integers(shape) for shape in shapes)
        expected = c + 20 * (a @ b.T)
        barrier.wait()
        for _repeat in range(20):
            kernel(a, b, c)
        return bool((c == expected).all())

    lock = threading.Lock()

    def random_integers(shape: tuple[int, int]) -> np.ndarray:
        with lock:
            return random.integers(-4, 5, shape).astype(np.float32)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [True] * 8


# -------------------------------------------------------------------------------- workspace


def packed_operands() -> list[np.ndarray]:
    return [np.ones(shape, np.float32) for shape in ((40, 33), (24, 33), (40, 24))]


def test_a_workspace_may_be_given():
    kernel = with_workspace()
    workspace = aligned_bytes(kernel.workspace_bytes)
    workspace[...] = 0xFF
    a, b, c = packed_operands()
    kernel(a, b, c, workspace=workspace)
    assert (c == 34).all()
    assert (workspace != 0xFF).any()


@pytest.mark.parametrize(
    "spoil",
    [lambda w: w[:-64], lambda w: w[1:], lambda w: w[:0]],
    ids=["small", "misaligned", "empty"],
)
def test_a_workspace_that_does_not_fit_is_refused(spoil):
    kernel = with_workspace()
    a, b, c = packed_operands()
    with pytest.raises(InvalidInput, match=f"needs {kernel.workspace_bytes} bytes aligned to 64"):
        kernel(a, b, c, workspace=spoil(aligned_bytes(kernel.workspace_bytes)))
    assert (c == 1).all()


def reversed_view(size: int) -> np.ndarray:
    """Enough bytes, their first one aligned, but in falling order."""
    view = aligned_bytes(-(-size // 64) * 64 + 1)[::-1]
    assert view.ctypes.data % 64 == 0
    return view


def repeated_byte(size: int) -> np.ndarray:
    """A view that looks large and is one byte."""
    return np.lib.stride_tricks.as_strided(aligned_bytes(64), (size,), (0,))


@pytest.mark.parametrize(
    "make",
    [reversed_view, repeated_byte, lambda size: read_only(aligned_bytes(size))],
    ids=["reversed", "repeated", "read-only"],
)
def test_a_workspace_must_be_plain_writable_memory(make, monkeypatch):
    kernel = with_workspace()
    # Should the check fail to refuse it, nothing must run on it.
    monkeypatch.setattr(kernel.checked, "_native", lambda *pointers: None)
    with pytest.raises(InvalidInput, match="workspace"):
        kernel(*packed_operands(), workspace=make(kernel.workspace_bytes))


def test_a_larger_workspace_is_left_alone_beyond_its_need():
    kernel = with_workspace()
    workspace = aligned_bytes(kernel.workspace_bytes + 256)
    workspace[...] = 0xA5
    kernel(*packed_operands(), workspace=workspace)
    assert (workspace[kernel.workspace_bytes :] == 0xA5).all()


# ------------------------------------------------------------------------------ descriptions


@pytest.mark.parametrize("level", [*LEVELS, "llvm", "mlir"])
def test_every_level_can_be_looked_at(level):
    marks = {
        "linalg": "linalg.matmul",
        "nanokernel": "nanokernel.gemm",
        "blocked": "nanokernel.gemm",
        "composed": "nanokernel.step",
        "nkvector": "nkvector.fma",
        "upstream": "vector.fma",
        "mlir": "vector.fma",
        "llvm": "define void @product(ptr",
    }
    assert marks[level] in compiled().ir(level)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_levels_show_what_was_compiled(threads):
    source = Product("mk,kn->mn", SIZES).source
    kernel = nkdsl.compile(source, target=TARGET, threads=threads)
    assert kernel.plan in kernel.ir("nanokernel")
    assert mlir.to_llvm_ir(kernel.ir("upstream")) == kernel.ir("llvm")


def test_an_unknown_level_is_refused_with_those_known():
    with pytest.raises(InvalidInput) as caught:
        compiled().ir("assembly")
    message = str(caught.value)
    assert "there is no level 'assembly'" in message
    assert all(level in message for level in (*LEVELS, "llvm"))


def test_a_kernel_says_its_plan_and_why():
    kernel = compiled()
    assert kernel.plan.startswith(f'#nanokernel.plan<target = "{TARGET}"')
    assert kernel.plans == (kernel.plan,)
    assert "predicted" in kernel.explain()
    assert TARGET in repr(kernel)


def test_the_c_declaration_names_the_parameters_and_what_is_written():
    assert compiled().c_declaration == "void product(const float *a, const float *b, float *c);"
    assert "const double *a" in compiled(element="f64").c_declaration
    assert with_workspace().c_declaration.endswith("float *c, void *workspace);")


@pytest.mark.parametrize(
    "names", [("double", "float", "int"), ("a-b", "a.b", "c"), ("arg1", "0", "workspace")]
)
def test_the_c_declaration_is_c_whatever_values_are_called(names):
    a, b, c = names
    t = "memref<2x8xf32>"
    kernel = nkdsl.compile(
        f"""func.func @f(%{a}: memref<2x2xf32>, %{b}: {t}, %{c}: {t}) {{
          linalg.matmul ins(%{a}, %{b} : memref<2x2xf32>, {t}) outs(%{c} : {t})
          return
        }}""",
        target=TARGET,
    )
    parameters = kernel.signature.declaration(64).partition("(")[2].rstrip(");").split(", ")
    found = [re.fullmatch(r"(?:const )?(?:float|void) \*(\w+)", p) for p in parameters]
    assert all(found)
    called = [match[1] for match in found if match]
    assert len(set(called)) == 4
    assert not {"double", "float", "int"} & set(called)


def named(symbol: str) -> str:
    """A product in a function of this name."""
    return Product("mk,kn->mn", SIZES).source.replace("@product", f"@{symbol}")


@pytest.mark.parametrize(
    ("symbol", "name"), [("double", "double_"), ("a.b", "a_b"), ("class", "class_"), ("f$1", "f_1")]
)
def test_a_function_whose_name_is_none_in_c_is_declared_with_its_symbol(symbol, name):
    kernel = nkdsl.compile(named(symbol), target=TARGET)
    assert kernel.c_declaration == (
        f'void {name}(const float *a, const float *b, float *c) __asm__("{symbol}");'
    )
    assert symbol.encode() + b"\0" in kernel.object_code()


@pytest.mark.parametrize("symbol", ['"a b"', '"1f"', '"$x"', '".L"', '""', '"a\\22b"'])
def test_a_name_that_can_not_be_linked_to_is_refused_at_its_function(symbol):
    with pytest.raises(Unsupported, match=r"<input>:\d+:\d+: function .* can't be called by this"):
        nkdsl.compile(named(symbol), target=TARGET)


def test_the_address_can_be_called_from_c():
    a, b, c = operands()
    expected = c + a @ b
    entry = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(compiled().address)
    entry(a.ctypes.data, b.ctypes.data, c.ctypes.data)
    assert (c == expected).all()


def test_the_entry_is_the_kernel_without_a_detour():
    kernel = with_workspace()
    a, b, c = packed_operands()
    for call in (kernel.entry, kernel):
        call(a, b, c)
        call(a, b, c, workspace=aligned_bytes(kernel.workspace_bytes))
    assert (c == 1 + 4 * 33).all()
    with pytest.raises(InvalidInput, match="product takes 3 arrays, got 1"):
        kernel.entry(a)


def test_an_entry_outlives_its_kernel():
    entry = nkdsl.compile(named("alone"), target=TARGET).entry
    gc.collect()
    a, b, c = operands()
    expected = c + a @ b
    entry(a, b, c)
    assert (c == expected).all()


def test_a_kernel_is_gone_when_nobody_refers_to_it():
    kernel = nkdsl.compile(named("gone"), target=TARGET)
    kernel(*operands())
    left = weakref.ref(kernel), weakref.ref(kernel.checked)
    gc.disable()
    try:
        del kernel
        assert [reference() for reference in left] == [None, None]
    finally:
        gc.enable()


def test_a_kernel_for_another_cpu_can_be_read_but_not_called(monkeypatch):
    for module in (api, native):
        monkeypatch.setattr(module, "can_run", lambda target: "it lacks avx512f")
    kernel = nkdsl.compile(
        Product("mk,kn->mn", (("m", 1), ("n", 8), ("k", 1))).source, target="x86-64-v3"
    )
    assert "vfmadd" in kernel.asm()
    arrays = [np.ones(shape, np.float32) for shape in ((1, 1), (1, 8), (1, 8))]
    with pytest.raises(Unsupported, match="can't run code for target 'x86-64-v3'"):
        kernel(*arrays)
    assert (arrays[2] == 1).all()
