"""Packed factors: what reads them is right, and nothing else is let near them."""

import dataclasses
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import nkdsl
from nkdsl import api
from nkdsl.dialects.nanokernel import PackOp
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.frontend import make_context, parse
from nkdsl.packed.layout import filled
from nkdsl.packed.program import Program
from nkdsl.planner.cost import chunk_count
from nkdsl.runtime import openmp
from nkdsl.runtime.address import address_of
from nkdsl.runtime.workspace import ALIGNMENT
from nkdsl.targets import can_run, get_target
from nkdsl.types import element_type
from tests.unit.helpers import Product

TARGET = "x86-64-v3"
OBSTACLE = can_run(get_target(TARGET))
pytestmark = pytest.mark.skipif(OBSTACLE is not None, reason=str(OBSTACLE))

SPEC = "mk,kn->mn"
M, N, K = 21, 48, 19
RAGGED = 53


@cache
def compiled(
    m: int = M,
    n: int = N,
    k: int = K,
    element: str = "f32",
    spec: str = SPEC,
    layouts: tuple[str, str, str] = ("rows", "rows", "rows"),
    from_zero: bool = False,
    threads: int = 1,
    target: str = TARGET,
) -> nkdsl.Kernel:
    sizes = (("m", m), ("n", n), ("k", k))
    source = Product(spec, sizes, element, layouts, from_zero).source
    return nkdsl.compile(source, target=target, threads=threads)


def operands(kernel: nkdsl.Kernel) -> list[np.ndarray]:
    """Small integers, for which sums are exact, in the layouts that a kernel takes."""
    random = np.random.default_rng(0)
    found = []
    for parameter in kernel.signature.parameters:
        least = 0 if parameter.element.is_unsigned else -4
        array = random.integers(least, 5, parameter.shape).astype(parameter.element.dtype)
        spread = max(s * n for s, n in zip(parameter.strides, parameter.shape, strict=True))
        memory = np.zeros(max(spread, 1), array.dtype)
        view = np.lib.stride_tricks.as_strided(memory, parameter.shape, parameter.byte_strides)
        view[...] = array
        found.append(view)
    return found


def check(kernel: nkdsl.Kernel, operand: Any = "rhs") -> nkdsl.Packed:
    """Hold a call with a packed factor against one with the array."""
    arrays, expected = operands(kernel), operands(kernel)
    kernel(*expected)
    position = 1 if operand == "rhs" else 0
    factor = nkdsl.pack(arrays[position], like=kernel, operand=operand)
    assert (factor.unpack() == arrays[position]).all()
    given: list[Any] = list(arrays)
    given[position] = factor
    kernel(*given)
    assert (arrays[2] == expected[2]).all()
    return factor


def packs(kernel: nkdsl.Kernel) -> list[PackOp]:
    text = kernel.ir("composed")
    module = parse(text, "composed", make_context())
    return [op for op in module.walk() if isinstance(op, PackOp)]


# ---------------------------------------------------------------------------- right results


@pytest.mark.parametrize("element", ["f32", "f64"])
@pytest.mark.parametrize("n", [N, RAGGED, 1])
@pytest.mark.parametrize("operand", ["rhs", "lhs"])
def test_a_packed_factor_gives_the_same_result(element, n, operand):
    check(compiled(n=n, element=element), operand)


@pytest.mark.parametrize("target", ["skylake-avx512", "znver4"])
def test_the_same_on_wider_registers(target):
    obstacle = can_run(get_target(target))
    if obstacle is not None:
        pytest.skip(str(obstacle))
    check(compiled(n=131, target=target))


@pytest.mark.parametrize("spec", ["mk,nk->mn", "km,kn->mn", "mk,kn->nm", "mk,nk->nm"])
@pytest.mark.parametrize("operand", ["rhs", "lhs"])
def test_any_orientation(spec, operand):
    check(compiled(n=RAGGED, spec=spec), operand)


@pytest.mark.parametrize("layouts", [("padded",) * 3, ("columns", "columns", "rows")])
def test_the_array_keeps_its_own_layout(layouts):
    check(compiled(n=RAGGED, layouts=layouts))


def test_sums_that_start_at_zero():
    kernel = compiled(n=RAGGED, from_zero=True)
    a, b, _ = operands(kernel)
    c = np.full((M, RAGGED), np.nan, np.float32)
    kernel(a, nkdsl.pack(b, like=kernel), c)
    assert (c == a @ b).all()


@pytest.mark.parametrize("sizes", [(0, 20, 3), (20, 0, 3), (20, 20, 0), (1, 1, 1)])
def test_next_to_nothing(sizes):
    m, n, k = sizes
    kernel = compiled(m, n, k, from_zero=True)
    a, b = np.ones((m, k), np.float32), np.ones((k, n), np.float32)
    c = np.full((m, n), 7, np.float32)
    kernel(a, nkdsl.pack(b, like=kernel), c)
    assert (c == k).all()


def test_an_array_of_any_strides_is_packed():
    kernel = compiled(n=RAGGED)
    _, b, _ = operands(kernel)
    sources = (np.asfortranarray(b), np.repeat(b, 2, 1)[:, ::2], b[::-1].copy()[::-1])
    panels = [nkdsl.pack(source, like=kernel).panels for source in (b, *sources)]
    for other in panels[1:]:
        assert (other == panels[0]).all()


def test_a_batch_shares_a_packed_factor():
    text = """
    func.func @f(%a: memref<3x7x19xf32>, %b: memref<19x48xf32>, %c: memref<3x7x48xf32>) {
      nanokernel.gemm ins(%a[m0, m1, k], %b[k, n] : memref<3x7x19xf32>, memref<19x48xf32>)
        outs(%c[m0, m1, n] : memref<3x7x48xf32>)
      return
    }"""
    check(nkdsl.compile(text, target=TARGET))


SCALED = """
func.func @f(%a: memref<21x19xf32>, %b: memref<19x80xf32>, %c: memref<21x80xf32>,
             %alpha: f32, %beta: f32) {
  %zero = arith.constant 0.0 : f32
  %overwrite = arith.cmpf oeq, %beta, %zero : f32
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<21x19xf32>, memref<19x80xf32>)
    outs(%c[m, n] : memref<21x80xf32>) from zero if %overwrite scale %alpha, %beta
  return
}"""


@pytest.mark.parametrize("beta", [0.0, 3.0])
def test_alpha_and_beta(beta):
    kernel = nkdsl.compile(SCALED, target=TARGET)
    a, b, _ = operands(compiled(n=80))
    c = np.full((21, 80), 5, np.float32)
    kernel(a, nkdsl.pack(b, like=kernel), c, 2.0, beta)
    assert (c == 2 * (a @ b) + beta * 5).all()


# --------------------------------------------------------------------------------- low precision


TARGETS = (TARGET, "znver4")
"""One that extends bf16, and 8-bit integers to pairs, and one that multiplies groups of them."""

NARROW = {
    "bf16": ("bf16", "bf16", "bf16", "f32"),
    "f16": ("f16", "f16", "f16", "f32"),
    "u8s8": ("i8", "u8", "s8", "i32"),
    "s8u8": ("i8", "s8", "u8", "i32"),
    "s8s8": ("i8", "s8", "s8", "i32"),
}
"""Of each pair of factors: MLIR's type, those of the factors, and the result's."""


def _runs(target: str) -> str:
    """A target that this CPU can run."""
    if obstacle := can_run(get_target(target)):
        pytest.skip(obstacle)
    return target


@cache
def narrow(types: str, n: int, k: int, index: str = "k, n", target: str = TARGET) -> nkdsl.Kernel:
    element, lhs, rhs, out = NARROW[types]
    unsigned = [role for role, name in (("lhs", lhs), ("rhs", rhs)) if name == "u8"]
    shape = f"{k}x{n}" if index == "k, n" else f"{n}x{k}"
    a, b, c = f"memref<{M}x{k}x{element}>", f"memref<{shape}x{element}>", f"memref<{M}x{n}x{out}>"
    text = f"""
    func.func @product(%a: {a}, %b: {b}, %c: {c}) {{
      nanokernel.gemm ins(%a[m, k], %b[{index}] : {a}, {b})
        {f"unsigned {unsigned[0]}" if unsigned else ""} outs(%c[m, n] : {c})
      return
    }}"""
    return nkdsl.compile(text, target=target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("types", ["bf16", "f16", "u8s8", "s8u8"])
@pytest.mark.parametrize(("n", "k"), [(48, 20), (RAGGED, 19), (1, 1)])
def test_panels_of_low_precision(types, n, k, target):
    check(narrow(types, n, k, target=_runs(target)))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("types", ["bf16", "u8s8"])
def test_the_left_factor_in_low_precision(types, target):
    check(narrow(types, RAGGED, 19, target=_runs(target)), "lhs")


@pytest.mark.parametrize("types", ["bf16", "u8s8"])
def test_panels_of_transposed_weights(types):
    factor = check(narrow(types, RAGGED, 19, "n, k"))
    assert factor.shape == (RAGGED, 19) and factor.layout.cut == 0


@pytest.mark.parametrize(("types", "size"), [("bf16", 2), ("u8s8", 4)])
def test_panels_hold_groups_of_the_reduction(types, size):
    kernel = narrow(types, RAGGED, 19, target=_runs("znver4"))
    b = operands(kernel)[1]
    b[...] = np.arange(b.size).reshape(b.shape) % 61 + 1
    factor = nkdsl.pack(b, like=kernel)
    count, steps, width, group = factor.panels.shape
    assert (steps, group) == (-(-19 // size), size)
    assert factor.nbytes == count * steps * width * size * b.itemsize
    for k, n in ((0, 0), (3, min(width, RAGGED - 1)), (18, RAGGED - 1)):
        assert factor.panels[n // width, k // size, n % width, k % size] == b[k, n]
    filled = factor.panels[:, -1, :, 19 % size :]
    assert filled.size and (filled == 0).all()
    assert (factor.unpack() == b).all()
    assert repr(factor) == (
        f"<nkdsl.Packed 19x{RAGGED} {b.dtype} rhs, "
        f"panels of {width} in groups of {size} for znver4>"
    )
    reader = kernel.packed(factor)
    assert not packs(reader)
    assert all(f"dot.{types}x16" in plan and "pack = none" in plan for plan in reader.plans)


def test_signs_of_a_packed_factor_stay():
    kernel = narrow("u8s8", RAGGED, 19)
    reader = kernel.packed(check(kernel))
    assert "const uint8_t *a, const int8_t *b" in reader.c_declaration


def test_factors_of_one_sign_can_be_packed():
    check(narrow("s8s8", 48, 20, target=_runs("znver4")))
    check(narrow("s8s8", 48, 20))  # AVX2 multiplies what is extended


def test_groups_tell_layouts_apart():
    kernel = narrow("bf16", RAGGED, 19, target=_runs("znver4"))
    a, b, c = operands(kernel)
    factor = changed(nkdsl.pack(b, like=kernel), group=4)
    with pytest.raises(
        InvalidInput, match="it has group size 4 instead of 2; pack the array again"
    ):
        kernel(a, factor, c)


LAYER = """
func.func @layer(%x: memref<21x37xbf16>, %w: memref<{n}x37xbf16>, %y: memref<21x{n}xbf16>,
                 %bias: memref<{n}xf32>, %residual: memref<21x{n}xbf16>) {{
  nanokernel.gemm ins(%x[m, k], %w[n, k] : memref<21x37xbf16>, memref<{n}x37xbf16>)
      outs(%y[m, n] : memref<21x{n}xbf16>) from zero
      epilogue(%bias[n], %residual[m, n] : memref<{n}xf32>, memref<21x{n}xbf16>) {{
  ^bb0(%sum: f32, %b: f32, %r: bf16):
    %wide = arith.extf %r : bf16 to f32
    %biased = arith.addf %sum, %b : f32
    %added = arith.addf %biased, %wide : f32
    %zero = arith.constant 0.0 : f32
    %relu = arith.maximumf %added, %zero : f32
    %rounded = arith.truncf %relu : f32 to bf16
    nanokernel.yield %rounded : bf16
  }}
  return
}}"""


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("n", "operand"), [(RAGGED, "rhs"), (96, "rhs"), (200, "lhs")])
def test_an_epilogue_after_a_packed_factor(n, operand, target):
    check(nkdsl.compile(LAYER.format(n=n), target=_runs(target)), operand)


def test_a_layer_on_tensors():
    text = """
    func.func @layer(%x: tensor<8x40xbf16>, %w: tensor<70x40xbf16>) -> tensor<8x70xbf16> {
      %zero = arith.constant 0.0 : bf16
      %start = arith.constant 0.0 : f32
      %weights = tensor.empty() : tensor<40x70xbf16>
      %t = linalg.transpose ins(%w : tensor<70x40xbf16>)
          outs(%weights : tensor<40x70xbf16>) permutation = [1, 0]
      %sums = tensor.empty() : tensor<8x70xf32>
      %first = linalg.fill ins(%start : f32) outs(%sums : tensor<8x70xf32>) -> tensor<8x70xf32>
      %p = linalg.matmul ins(%x, %t : tensor<8x40xbf16>, tensor<40x70xbf16>)
          outs(%first : tensor<8x70xf32>) -> tensor<8x70xf32>
      %layer = tensor.empty() : tensor<8x70xbf16>
      %y = linalg.generic {indexing_maps = [affine_map<(m, n) -> (m, n)>,
          affine_map<(m, n) -> (m, n)>], iterator_types = ["parallel", "parallel"]}
          ins(%p : tensor<8x70xf32>) outs(%layer : tensor<8x70xbf16>) {
      ^bb0(%sum: f32, %old: bf16):
        %rounded = arith.truncf %sum : f32 to bf16
        linalg.yield %rounded : bf16
      } -> tensor<8x70xbf16>
      return %y : tensor<8x70xbf16>
    }"""
    assert check(nkdsl.compile(text, target=TARGET)).shape == (70, 40)


# --------------------------------------------------------------------------------- what it is


def test_it_says_what_it_is():
    kernel = compiled(n=RAGGED)
    _, b, _ = operands(kernel)
    factor = nkdsl.pack(b, like=kernel)
    assert isinstance(factor, nkdsl.Packed)
    assert factor.shape == (K, RAGGED) and factor.dtype == np.float32
    assert factor.target == TARGET and len(factor.fingerprint) == 16
    count, depth, width = factor.panels.shape
    assert depth == K and (count - 1) * width < RAGGED <= count * width
    assert factor.nbytes == count * depth * width * 4
    assert factor.address == address_of(factor.panels)
    assert factor.address % ALIGNMENT == 0
    assert repr(factor) == (
        f"<nkdsl.Packed {K}x{RAGGED} float32 rhs, panels of {width} for {TARGET}>"
    )


def test_the_last_panel_ends_in_zeros():
    kernel = compiled(n=RAGGED)
    _, b, _ = operands(kernel)
    panels = nkdsl.pack(b + 9, like=kernel).panels
    rest = RAGGED % panels.shape[2]
    assert rest and (panels[-1, :, :rest] != 0).all() and (panels[-1, :, rest:] == 0).all()


def test_it_can_not_be_changed():
    kernel = compiled()
    a, b, c = operands(kernel)
    factor: Any = nkdsl.pack(b, like=kernel)
    with pytest.raises(ValueError, match="read-only"):
        factor.panels[0, 0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        factor.panels = None
    expected = c + a @ b
    b[:] = 0
    factor.unpack()[:] = 0
    kernel(a, factor, c)
    assert (c == expected).all()


def test_a_width_that_divides_the_size_is_preferred():
    assert N % nkdsl.pack(operands(compiled())[1], like=compiled()).panels.shape[2] == 0


# -------------------------------------------------------------------------- the kernel behind it


@pytest.mark.parametrize("n", [N, RAGGED])
def test_its_kernel_packs_nothing(n):
    kernel = compiled(n=n, spec="mk,nk->mn")  # in place, only lanes along k could read it
    factor = check(kernel)
    reader = kernel.packed(factor)
    width = factor.panels.shape[2]
    assert len(reader.plans) == (1 if n % width == 0 else 2)
    assert all("pack = none" in plan for plan in reader.plans)
    assert f"x{width}, lanes = n" in reader.plan
    assert not packs(reader) and reader.workspace_bytes == 0
    assert "packed" not in reader.c_declaration and reader.signature.symbol == "product"
    a, _, c = operands(kernel)
    expected = c.copy()
    kernel(a, factor, expected)
    reader(a, factor.panels, c)
    assert (c == expected).all()


def test_its_kernel_is_compiled_once(monkeypatch: pytest.MonkeyPatch):
    kernel = nkdsl.compile(Product(SPEC, (("m", 3), ("n", 16), ("k", 2))).source, target=TARGET)
    made = []

    def counting(*arguments: Any, **options: Any) -> nkdsl.Kernel:
        made.append(arguments)
        return compile_(*arguments, **options)

    compile_ = api.compile
    monkeypatch.setattr(api, "compile", counting)
    b = np.ones((2, 16), np.float32)
    with ThreadPoolExecutor(4) as pool:
        barrier = threading.Barrier(4)

        def work(_: int) -> nkdsl.Packed:
            barrier.wait()
            return nkdsl.pack(b, like=kernel)

        factors = list(pool.map(work, range(4)))
    assert len(made) == 1
    c = np.zeros((3, 16), np.float32)
    calls = []
    reader = kernel.packed(factors[0])
    entry = reader.entry

    def noted(*arguments: Any) -> None:
        calls.append(arguments)
        entry(*arguments)

    reader.__dict__["entry"] = noted
    for factor in factors:
        kernel(np.ones((3, 2), np.float32), factor, c)
    assert len(calls) == 4 and (c == 8).all()
    assert len(made) == 1


def test_a_kernel_of_equal_layout_reads_it_too():
    first, second = compiled(m=M), compiled(m=M, from_zero=True)
    _, b, _ = operands(first)
    a, _, c = operands(second)
    factor = nkdsl.pack(b, like=first)
    second(a, factor, c)
    assert (c == a @ b).all()


def test_a_written_plan_is_kept():
    text = f"""
    func.func @f(%a: memref<21x19xf32>, %b: memref<19x48xf32>, %c: memref<21x48xf32>) {{
      nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<21x19xf32>, memref<19x48xf32>)
        outs(%c[m, n] : memref<21x48xf32>) plan #nanokernel.plan<target = "{TARGET}",
        instruction = "fma.f32x8", block = 2x24, k_unroll = 3, prefetch = 1>
      return
    }}"""
    kernel = nkdsl.compile(text, target=TARGET)
    factor = check(kernel)
    assert factor.panels.shape == (2, 19, 24)
    assert kernel.packed(factor).plans == kernel.plans


@pytest.mark.parametrize(("m", "n", "k"), [(96, 304, 320), (200, 500, 512), (256, 1024, 512)])
@pytest.mark.parametrize("target", [TARGET, "znver4"])
def test_two_threads_compute_what_one_does(m, n, k, target):
    if openmp.ensure_loaded() is None:
        pytest.skip("there is no OpenMP runtime")
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n)))
    results = []
    for threads in (1, 2):
        kernel = compiled(m, n, k, from_zero=True, threads=threads, target=_runs(target))
        factor = nkdsl.pack(b, like=kernel)
        c = np.empty((m, n), np.float32)
        kernel(a, factor, c)
        results.append(c)
        shared = any(f"threads = {threads}" in plan for plan in kernel.packed(factor).plans)
    assert shared or m < 256
    assert (results[0] == results[1]).all()


def test_sums_of_two_threads_are_cut_where_those_of_one_are():
    """Here the plan that threads would share best cuts the reduction in two."""
    a, b, c = "memref<64x768xbf16>", "memref<768x3072xbf16>", "memref<64x3072xf32>"
    text = f"""func.func @f(%a: {a}, %b: {b}, %c: {c}) {{
      nanokernel.gemm ins(%a[m, k], %b[k, n] : {a}, {b}) outs(%c[m, n] : {c}) from zero
      return
    }}"""
    module = parse(text, "product", make_context())
    product = Program.read(module, "f", ("a", "b", "c")).product(1)
    choices = [product.best(get_target(TARGET), threads) for threads in (1, 2)]
    parts = [{chunk_count(product.problem, plan) for plan in each.plans} for each in choices]
    assert parts[0] == parts[1] == {1}


def test_the_kernel_can_go():
    kernel = nkdsl.compile(Product(SPEC, (("m", 3), ("n", 16), ("k", 2))).source, target=TARGET)
    entry = kernel.entry
    a, b, c = np.ones((3, 2), np.float32), np.ones((2, 16), np.float32), np.zeros((3, 16), "f4")
    factor = nkdsl.pack(b, like=kernel)
    gone = weakref.ref(kernel)
    del kernel
    gc.collect()
    assert gone() is None
    entry(a, factor, c)
    assert (c == 2).all()


# ---------------------------------------------------------------------------------- refusals


def test_what_pack_refuses():
    kernel = compiled()
    _, b, _ = operands(kernel)
    for array, message in (
        (b.tolist(), "the rhs of product must be a numpy array, not list"),
        (b.astype(np.float64), "has shape .* and type float32, not .* and float64"),
        (b.T.copy(), r"has shape \(19, 48\) and type float32, not \(48, 19\)"),
    ):
        with pytest.raises(InvalidInput, match=message):
            nkdsl.pack(array, like=kernel)
    with pytest.raises(InvalidInput, match="'lhs' and 'rhs', not 'out'"):
        nkdsl.pack(b, like=kernel, operand="out")  # type: ignore[arg-type]


UNPACKABLE = {
    "its sizes are known only at run time; compile a kernel for static sizes": """
      func.func @f(%a: memref<?x?xf32>, %b: memref<?x?xf32>, %c: memref<?x?xf32>) {
        linalg.matmul ins(%a, %b : memref<?x?xf32>, memref<?x?xf32>) outs(%c : memref<?x?xf32>)
        return
      }""",
    "f has 2 products; none of its arguments can be packed": """
      func.func @f(%a: memref<4x4xf32>, %b: memref<4x4xf32>, %c: memref<4x4xf32>) {
        linalg.matmul ins(%a, %b : memref<4x4xf32>, memref<4x4xf32>) outs(%c : memref<4x4xf32>)
        linalg.matmul ins(%a, %b : memref<4x4xf32>, memref<4x4xf32>) outs(%c : memref<4x4xf32>)
        return
      }""",
    "something else uses it, too": """
      func.func @f(%b: memref<4x4xf32>, %c: memref<4x4xf32>) {
        linalg.matmul ins(%b, %b : memref<4x4xf32>, memref<4x4xf32>) outs(%c : memref<4x4xf32>)
        return
      }""",
    "pack a batch one matrix at a time": """
      func.func @f(%a: memref<2x4x4xf32>, %b: memref<2x4x4xf32>, %c: memref<2x4x4xf32>) {
        linalg.batch_matmul ins(%a, %b : memref<2x4x4xf32>, memref<2x4x4xf32>)
          outs(%c : memref<2x4x4xf32>)
        return
      }""",
    "its plan has lanes along k": f"""
      func.func @f(%a: memref<4x16xf32>, %b: memref<4x16xf32>, %c: memref<4x4xf32>) {{
        nanokernel.gemm ins(%a[m, k], %b[n, k] : memref<4x16xf32>, memref<4x16xf32>)
          outs(%c[m, n] : memref<4x4xf32>) plan #nanokernel.plan<target = "{TARGET}",
          instruction = "fma.f32x8", block = 2x2, lanes = k>
        return
      }}""",
}


@pytest.mark.parametrize("message", UNPACKABLE)
def test_kernels_that_read_no_packed_factor(message):
    kernel = nkdsl.compile(UNPACKABLE[message], target=TARGET)
    what = r"(the rhs|argument 0 \('b'\)) of f"
    with pytest.raises(Unsupported, match=f"{what} can't be packed: .*{message}"):
        nkdsl.pack(np.zeros((4, 4), np.float32), like=kernel)


def changed(factor: nkdsl.Packed, **fields: Any) -> nkdsl.Packed:
    return replace(factor, layout=replace(factor.layout, **fields))


DIFFERENT: dict[str, dict[str, Any]] = {
    "target znver5 instead of x86-64-v3": {"target": "znver5"},
    "panel width 7 instead of": {"width": 7},
    "group size 2 instead of 1": {"group": 2},
    r"shape \(19, 49\) instead of \(19, 48\)": {"shape": (19, 49)},
    "type float64 instead of float32": {"element": element_type("f64")},
    "reduction along dimension 1 instead of 0": {"cut": 0},
}


@pytest.mark.parametrize("message", DIFFERENT)
def test_a_layout_of_another_kernel_is_refused(message):
    kernel = compiled()
    a, b, c = operands(kernel)
    before = c.copy()
    factor = changed(nkdsl.pack(b, like=kernel), **DIFFERENT[message])
    remedy = r"argument 1 of product was packed for another kernel: it has .*{}.*; pack the array "
    with pytest.raises(InvalidInput, match=remedy.format(message) + r"again, with nkdsl\.pack\("):
        kernel(a, factor, c)
    with pytest.raises(InvalidInput, match=message):
        kernel.packed(factor)
    assert (c == before).all()


def test_another_kernel_refuses_it():
    kernel, other = compiled(), compiled(n=RAGGED)
    factor = nkdsl.pack(operands(other)[1], like=other)
    a, _, c = operands(kernel)
    with pytest.raises(InvalidInput, match=r"shape \(19, 53\) instead of \(19, 48\)"):
        kernel(a, factor, c)
    dynamic = nkdsl.compile(next(iter(UNPACKABLE.values())), target=TARGET)
    with pytest.raises(Unsupported, match="compile a kernel for static sizes"):
        dynamic(a, factor, c)


def test_a_packed_factor_belongs_in_its_place():
    kernel = compiled(m=N, n=N, k=N)
    a, b, c = operands(kernel)
    factor = nkdsl.pack(b, like=kernel)
    with pytest.raises(InvalidInput, match=r"argument 0 of product is a packed rhs, .* argument 1"):
        kernel(factor, b, c)
    with pytest.raises(InvalidInput, match=r"argument 2 of product is a packed rhs, .* argument 1"):
        kernel(a, b, factor)
    with pytest.raises(InvalidInput, match="reads one packed factor; give the other one"):
        kernel(nkdsl.pack(a, like=kernel, operand="lhs"), factor, c)


def test_the_other_arguments_are_checked():
    kernel = compiled()
    a, b, c = operands(kernel)
    factor = nkdsl.pack(b, like=kernel)
    with pytest.raises(InvalidInput, match="product takes 3 arrays, got 2"):
        kernel(a, factor)
    with pytest.raises(InvalidInput, match="argument 0 of product must have type float32"):
        kernel(a.astype(np.float64), factor, c)
    with pytest.raises(InvalidInput, match=r"argument 2 of product must have shape \(21, 48\)"):
        kernel(a, factor, c[:-1])
    memory = np.zeros(M * (N + K), np.float32)
    out, near = memory[: M * N].reshape(M, N), memory[M * N - 1 :][: M * K].reshape(M, K)
    with pytest.raises(InvalidInput, match="overlap"):
        kernel(near, factor, out)
    frozen = c.view()
    frozen.flags.writeable = False
    with pytest.raises(InvalidInput, match="read-only"):
        kernel(a, factor, frozen)


def test_a_workspace_is_checked():
    kernel = compiled(spec="km,kn->nm", n=RAGGED)
    factor = check(kernel)
    a, _, c = operands(kernel)
    if kernel.packed(factor).workspace_bytes:
        with pytest.raises(InvalidInput, match="the workspace needs"):
            kernel(a, factor, c, workspace=np.zeros(1, np.uint8))


def test_fingerprints_tell_layouts_apart():
    layout = nkdsl.pack(operands(compiled())[1], like=compiled()).layout
    others = [replace(layout, **fields) for fields in DIFFERENT.values()]
    others += [replace(layout, operand="lhs")]
    assert len({layout.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)
    assert replace(layout).fingerprint == layout.fingerprint


def test_every_width_is_right():
    """What the planner doesn't choose here, it may elsewhere."""
    kernel = compiled(n=RAGGED)
    a, b, _ = operands(kernel)
    product = kernel.variants.program.product(1)
    (instruction,) = product.instructions(kernel.target)
    widths = product.widths(kernel.target, instruction)
    assert len(widths) > 1
    for width in widths:
        choice = product.choice(width, kernel.target, instruction)
        if choice is None:
            continue
        module = product.module.clone()
        gemms = product.rewritten(module, choice.layout)
        assert len(gemms) == len(choice.plans) == (2 if width < RAGGED else 1)
        reader = nkdsl.compile(module, target=TARGET)
        c = np.zeros((M, RAGGED), np.float32)
        reader(a, filled(b, choice.layout), c)
        assert (c == a @ b).all()
