"""The same product at every level and as machine code: within rounding, and exact on integers.

Shapes are small: what differs between them is which edges, masks and register blocks they need.
Kernels run on arrays that lie flush against pages that can't be touched, in a child process.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import Phase, given, reject, settings
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp

from nkdsl.dialects.nanokernel import GemmOp, PlanAttr
from nkdsl.errors import Unsupported
from nkdsl.pipeline import levels
from nkdsl.planner import analyse, check_plan
from nkdsl.planner.search import layouts
from nkdsl.targets import Target, can_run, get_target
from nkdsl.testing import ArraySpec, Check, Like, Lowered, check_all_levels
from tests.unit.helpers import Product

TARGETS = ("skylake-avx512", "x86-64-v3")
"""One with mask registers, one without."""

SPECS = {
    "plain": "mk,kn->mn",
    "lhs transposed": "km,kn->mn",
    "rhs transposed": "mk,nk->mn",
    "both transposed": "km,nk->mn",
    "result transposed": "mk,kn->nm",
    "batch": "bmk,bkn->bmn",
    "batch inside": "mbk,kbn->mbn",
    "batch-reduce": "bmk,bkn->mn",
    "blocked reduction": "mlk,lkn->mn",
    "matrix times vector": "mk,k->m",
    "vector times matrix": "k,kn->n",
    "dot product": "k,k->",
    "outer product": "m,n->mn",
}

LAYOUTS = ("rows", "padded", "columns")
FACTOR_LAYOUTS = (*LAYOUTS, "spread")
"""A result must be contiguous in one direction; factors need not."""

MOST_OPERATIONS = 100_000
"""Interpreted operations that an example may take at one level."""


def extents(m: int, n: int, k: int) -> st.SearchStrategy[dict[str, int]]:
    """Extents up to these, none of them zero."""
    bounds = {"b": 3, "l": 3, "m": m, "n": n, "k": k}
    return st.fixed_dictionaries({i: st.integers(1, most) for i, most in bounds.items()})


@st.composite
def with_a_zero(draw: st.DrawFn) -> dict[str, int]:
    return draw(extents(4, 20, 4)) | {draw(st.sampled_from("bmnk")): 0}


SIZES = st.one_of(
    extents(3, 3, 3),  # tiny
    extents(11, 37, 5),  # ragged edges in both directions
    extents(37, 11, 5),
    extents(1, 70, 12),  # skinny
    extents(40, 1, 20),
    extents(2, 2, 70),  # long sums
    extents(14, 34, 1),
    with_a_zero(),
)


def examples_for(share: int) -> settings:
    """A share of the profile's examples; a failure is shrunk, but not explained at length."""
    profile = settings.get_profile(settings.get_current_profile_name())
    phases = tuple(phase for phase in Phase if phase is not Phase.explain)
    return settings(max_examples=max(1, profile.max_examples // share), phases=phases)


def check(source: str | ModuleOp, target: str) -> Check:
    done = check_all_levels(source, target=target, guards=("start", "end"))
    assert max(done.executed.values()) <= MOST_OPERATIONS
    assert (done.native is None) == (can_run(get_target(target)) is None)
    return done


def assert_agrees_with_einsum(product: Product, done: Check) -> None:
    """The reference is the interpreter's: hold it against numpy's."""
    a, b, c = (array.astype(np.float64) for array in done.arguments)
    expected = np.einsum(product.spec, a, b) + (0 if product.from_zero else c)
    assert np.allclose(done.reference[2].astype(np.float64), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@examples_for(8)
@given(
    sizes=SIZES,
    element=st.sampled_from(("f32", "f64")),
    from_zero=st.booleans(),
    padded=st.tuples(*[st.booleans()] * 3),
    target=st.sampled_from(TARGETS),
)
def test_every_level_computes_the_same_for_any_maps(
    spec: str,
    sizes: dict[str, int],
    element: str,
    from_zero: bool,
    padded: tuple[bool, bool, bool],
    target: str,
) -> None:
    used = tuple((i, extent) for i, extent in sizes.items() if i in spec)
    lhs, rhs, out = ("padded" if p else "rows" for p in padded)
    product = Product(spec, used, element, (lhs, rhs, out), from_zero)
    assert_agrees_with_einsum(product, check(product.source, target))


@pytest.mark.parametrize("target", TARGETS)
@examples_for(5)
@given(
    sizes=SIZES,
    element=st.sampled_from(("f32", "f64")),
    laid_out=st.tuples(*map(st.sampled_from, (FACTOR_LAYOUTS, FACTOR_LAYOUTS, LAYOUTS))),
    from_zero=st.booleans(),
)
def test_every_level_computes_the_same_for_any_layouts(
    target: str,
    sizes: dict[str, int],
    element: str,
    laid_out: tuple[str, str, str],
    from_zero: bool,
) -> None:
    used = tuple((i, extent) for i, extent in sizes.items() if i in "mnk")
    product = Product("mk,kn->mn", used, element, laid_out, from_zero)
    assert_agrees_with_einsum(product, check(product.source, target))


PLANNED = ("mk,kn->mn", "mk,nk->mn", "km,kn->mn", "km,nk->mn", "mk,kn->nm", "bmk,bkn->mn")
"""Specs whose layouts allow registers along rows, along columns and along the reduction, packed
and not."""


@st.composite
def plans(draw: st.DrawFn, gemm: GemmOp, target: Target) -> PlanAttr:
    """Any plan that the target allows for a product."""
    problem = analyse(gemm)
    layout = draw(st.sampled_from(layouts(problem)))
    instruction = target.instruction_for(problem.operand, problem.accumulator)
    lanes = {kind: instruction.lanes if kind == layout.lanes else 1 for kind in "mn"}
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    resident = st.sampled_from(("lhs", "rhs")) if layout.pack == "none" else st.just(layout.pack)
    plan = PlanAttr.of(
        target=target.name,
        instruction=instruction.name,
        block=(rows * lanes["m"], columns * lanes["n"]),
        lanes=layout.lanes,
        k_unroll=draw(st.integers(1, 3)),
        k_block=draw(st.one_of(st.just(0), st.integers(1, 30))),
        resident=draw(resident),
        prefetch=draw(st.integers(0, 5)),
        pack=layout.pack,
    )
    try:
        check_plan(problem, target, plan)
    except Unsupported:
        reject()
    return plan


@pytest.mark.parametrize("spec", PLANNED)
@examples_for(5)
@given(
    data=st.data(),
    sizes=SIZES,
    element=st.sampled_from(("f32", "f64")),
    from_zero=st.booleans(),
    target=st.sampled_from(TARGETS),
)
def test_every_plan_computes_the_same(
    data: st.DataObject,
    spec: str,
    sizes: dict[str, int],
    element: str,
    from_zero: bool,
    target: str,
) -> None:
    used = tuple((i, extent) for i, extent in sizes.items() if i in spec)
    product = Product(spec, used, element, from_zero=from_zero)
    whole = levels(product.source, target)["nanokernel"]
    (gemm,) = (op for op in whole.walk() if isinstance(op, GemmOp))
    gemm.properties["plan"] = data.draw(plans(gemm, get_target(target)))
    assert_agrees_with_einsum(product, check(whole, target))


@pytest.mark.parametrize("target", TARGETS)
def test_products_in_a_row_see_each_others_results(target: str) -> None:
    first, second, out = "memref<5x6xf32>", "memref<6x5xf32>", "memref<5x5xf32>"
    source = f"""
    func.func @chain(%a: {first}, %b: {second}, %c: {out}, %d: {out}) {{
      %zero = arith.constant 0.0 : f32
      linalg.fill ins(%zero : f32) outs(%c : {out})
      linalg.matmul ins(%a, %b : {first}, {second}) outs(%c : {out})
      linalg.matmul ins(%a, %b : {first}, {second}) outs(%c : {out})
      linalg.matmul ins(%c, %c : {out}, {out}) outs(%d : {out})
      func.return
    }}"""
    done = check(source, target)
    a, b, _, d = (array.astype(np.float64) for array in done.arguments)
    twice = 2 * (a @ b)
    assert np.allclose(done.reference[3].astype(np.float64), d + twice @ twice, rtol=1e-12)


# ------------------------------------------------------------------------- run-time sizes


@cache
def lowered(product: Product, target: str) -> Lowered:
    """A product with sizes left open; those it has don't matter."""
    return Lowered(product.source, target)


OPEN = {
    "plain": Product("mk,kn->mn", (("m", 5), ("n", 5), ("k", 5))),
    "pitched": Product("mk,kn->mn", (("m", 5), ("n", 5), ("k", 5)), layouts=("padded",) * 3),
    "columns": Product("mk,kn->mn", (("m", 5), ("n", 5), ("k", 5)), layouts=("columns",) * 3),
    "rhs in columns": Product(
        "mk,kn->mn", (("m", 5), ("n", 5), ("k", 5)), "f64", ("rows", "columns", "padded")
    ),
    "both transposed": Product("km,nk->mn", (("m", 5), ("n", 5), ("k", 5))),
    "batch": Product("bmk,bkn->bmn", (("b", 5), ("m", 5), ("n", 5), ("k", 5))),
    "batch-reduce": Product("bmk,bkn->mn", (("b", 5), ("m", 5), ("n", 5), ("k", 5))),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", OPEN)
@examples_for(10)
@given(sizes=SIZES, from_zero=st.booleans(), seed=st.integers(0, 99))
def test_one_kernel_computes_the_same_for_any_sizes(
    name: str, target: str, sizes: dict[str, int], from_zero: bool, seed: int
) -> None:
    used = tuple(i for i, _ in OPEN[name].sizes)
    product = replace(OPEN[name], from_zero=from_zero, dynamic="".join(used))
    actual = replace(product, sizes=tuple((i, sizes[i]) for i in used))
    like = [actual.like(position) for position in range(3)]
    done = lowered(product, target).check(like=like, seed=seed, guards=("start", "end"))
    assert "blocked" in done.levels
    assert max(done.executed.values()) <= MOST_OPERATIONS
    assert_agrees_with_einsum(product, done)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("update", ["from zero if %first", "from zero if %first scale %x, %y"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("size", ["7", "?"])
def test_an_update_may_be_decided_at_run_time(
    update: str, first: bool, size: str, target: str
) -> None:
    type_ = f"memref<{size}x{size}xf32>"
    source = f"""
    func.func @product(%a: {type_}, %b: {type_}, %c: {type_}, %first: i1, %x: f32, %y: f32) {{
      nanokernel.gemm ins(%a[m, k], %b[k, n] : {type_}, {type_}) outs(%c[m, n] : {type_}) {update}
      func.return
    }}"""
    like: list[Like] = [*[ArraySpec((7, 7))] * 3, first, 3.0, -2.0]
    done = check_all_levels(source, like=like, target=target)
    assert done.native in ("a kernel takes no i1", can_run(get_target(target)))
    a, b, c = (array.astype(np.float64) for array in done.arguments[:3])
    alpha, beta = (3, -2) if "scale" in update else (1, 1)
    wanted = alpha * (a @ b) + (0 if first else beta * c)
    assert np.allclose(done.reference[2], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("start", ["", "from zero"])
@pytest.mark.parametrize("size", ["7", "?"])
def test_a_scale_is_a_number_of_the_call(start: str, size: str, target: str) -> None:
    type_ = f"memref<{size}x{size}xf64>"
    source = f"""
    func.func @product(%a: {type_}, %b: {type_}, %c: {type_}, %x: f64, %y: f64) {{
      nanokernel.gemm ins(%a[m, k], %b[k, n] : {type_}, {type_}) outs(%c[m, n] : {type_})
        {start} scale %x, %y
      func.return
    }}"""
    like = [*[ArraySpec((7, 7), "f64")] * 3, None, None]
    done = check_all_levels(source, like=like, target=target, guards=("start", "end"))
    assert (done.native is None) == (can_run(get_target(target)) is None)
