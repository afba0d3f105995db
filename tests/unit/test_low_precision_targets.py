"""Products of low precision on every target: which instruction multiplies, and what is computed.

The assembly of each target is read: it must hold the instruction that the target has for a pair of
types, none that saturates, no call and no spill in an inner loop. Where registers can't be masked
(AVX2), what is ragged is checked at every level, and as machine code where this CPU can run it.

Targets are taken without their tiles, if they have some: this is about vector instructions, those
of x86-64 where assembly is read.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache

import ml_dtypes
import numpy as np
import pytest
from xdsl.utils.exceptions import DiagnosticException

import nkdsl
from nkdsl.backends import mlir, native
from nkdsl.dialects.nanokernel import GemmOp, PlanAttr
from nkdsl.errors import Unsupported
from nkdsl.frontend import load, make_context, to_text
from nkdsl.pipeline import lower
from nkdsl.planner import analyse, check_plan, find_plan
from nkdsl.planner.cost import predict
from nkdsl.planner.registers import block_tile, registers_of
from nkdsl.planner.search import grouped, layouts
from nkdsl.targets import Target, get_target, known_targets
from nkdsl.testing import ArraySpec, check_all_levels
from nkdsl.types import element_type
from tests.unit.assembly import Line, count, functions, innermost_loops, instructions

KINDS = {
    "bf16": ("bf16", "bf16"),
    "f16": ("f16", "f16"),
    "u8s8": ("u8", "s8"),
    "s8s8": ("s8", "s8"),
    "s8u8": ("s8", "u8"),
    "u8u8": ("u8", "u8"),
}
"""The factors of each kind of product."""

INTEGERS = tuple(kind for kind in KINDS if kind.endswith("8"))

SHAPES = ((64, 96, 256), (17, 31, 63))
"""One that divides by everything, and one that by nothing."""

UNMASKED = tuple(t.name for t in known_targets() if not t.masked)

RUNS_AVX2 = pytest.mark.isa("avx2", "fma", "f16c")

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Product:
    """`C += A·B` of plain row-major operands."""

    kind: str
    shape: Shape
    result: str = ""
    """The element type of the result; empty for that of the sums."""
    dynamic: bool = False
    """Whether its sizes are known only at run time."""

    @property
    def operands(self) -> tuple[ArraySpec, ArraySpec, ArraySpec]:
        m, n, k = self.shape
        lhs, rhs = KINDS[self.kind]
        result = self.result or ("s32" if self.kind in INTEGERS else "f32")
        return ArraySpec((m, k), lhs), ArraySpec((k, n), rhs), ArraySpec((m, n), result)

    def source(self, name: str = "product") -> str:
        """The program."""
        types = [self._type(spec) for spec in self.operands]
        signs = [t == "u8" for t in KINDS[self.kind]]
        unsigned = {(1, 1): "unsigned both", (1, 0): "unsigned lhs", (0, 1): "unsigned rhs"}
        return f"""
        func.func @{name}(%a: {types[0]}, %b: {types[1]}, %c: {types[2]}) {{
          nanokernel.gemm ins(%a[m, k], %b[k, n] : {types[0]}, {types[1]})
            {unsigned.get((signs[0], signs[1]), "")} outs(%c[m, n] : {types[2]})
          func.return
        }}"""

    def _type(self, spec: ArraySpec) -> str:
        extents = "".join("?x" if self.dynamic else f"{n}x" for n in spec.shape)
        element = {"u8": "i8", "s8": "i8", "s32": "i32"}.get(spec.element, spec.element)
        return f"memref<{extents}{element}>"


def gemm_of(product: Product) -> GemmOp:
    module = load(product.source(), make_context())
    (gemm,) = (op for op in module.walk() if isinstance(op, GemmOp))
    return gemm


def vectors_of(name: str) -> Target:
    """A target without tiles."""
    return replace(get_target(name), tiles=None)


def name_of(kind: str, shape: Shape) -> str:
    return f"{kind}_{'x'.join(map(str, shape))}"


SLOW = ("f16", "s8u8", "u8u8")
"""Kinds whose ragged products, much like those of other kinds, are left to the slow tests."""


def is_slow(kind: str, shape: Shape) -> bool:
    return kind in SLOW and shape == SHAPES[1]


def code_of(target: str, kind: str, shape: Shape) -> tuple[Line, ...]:
    return compiled(target, is_slow(kind, shape))[name_of(kind, shape)]


@cache
def compiled(target_name: str, slow: bool) -> dict[str, tuple[Line, ...]]:
    """The code of products for a target, functions of one module: one run of each tool."""
    target = vectors_of(target_name)
    products = [Product(kind, shape) for kind in KINDS for shape in SHAPES]
    sources = [
        p.source(name_of(p.kind, p.shape)) for p in products if is_slow(p.kind, p.shape) == slow
    ]
    context = make_context()
    module = load("\n".join(sources), context)
    lower(module, context, target)
    text = native.emit_assembly(mlir.to_llvm_ir(to_text(module)), target)
    return functions(re.sub(r"\{e?vex\}\s+", "", text))


def mnemonics(target: str, kind: str, shape: Shape) -> Counter[str]:
    return Counter(i.mnemonic for i in instructions(code_of(target, kind, shape)))


VNNI = {**dict.fromkeys(INTEGERS, "vpdpbusd"), "f16": "vfmadd"}
MADD = {**dict.fromkeys(INTEGERS, "vpmaddwd"), "f16": "vfmadd", "bf16": "vfmadd"}
ANY_SIGNS = {"u8s8": "vpdpbusd", "s8s8": "vpdpbssd", "s8u8": "vpdpbsud", "u8u8": "vpdpbuud"}
FLOATS = {"f16": "vfmadd", "bf16": "vfmadd"}

EXPECTED = {
    "x86-64-v3": MADD,
    "skylake-avx512": MADD,
    "cascadelake": VNNI | FLOATS,
    "cooperlake": VNNI | {"bf16": "vdpbf16ps"},
    "sapphirerapids": VNNI | {"bf16": "vfmadd"},
    "graniterapids": VNNI | {"bf16": "vfmadd"},
    "znver4": VNNI | {"bf16": "vdpbf16ps"},
    "znver5": VNNI | {"bf16": "vdpbf16ps"},
    "alderlake": VNNI | FLOATS,
    "arrowlake": ANY_SIGNS | FLOATS,
    "sierraforest": ANY_SIGNS | FLOATS,
}
"""What multiplies in a product of 64x96x256."""

MULTIPLYING = ("vfmadd", "vpdp", "vdpbf16ps", "vpmadd", "vpmull", "vmulps")


def cases(shapes: tuple[Shape, ...]) -> pytest.MarkDecorator:
    """Every target, every kind, and some shapes."""
    found = [
        pytest.param(
            *(target, kind, shape),
            marks=[pytest.mark.slow] if is_slow(kind, shape) else [],
            id=f"{target}-{name_of(kind, shape)}",
        )
        for target in EXPECTED
        for kind in KINDS
        for shape in shapes
    ]
    return pytest.mark.parametrize(("target", "kind", "shape"), found)


def multiplying(target: str, kind: str, shape: Shape) -> set[str]:
    """The instructions that multiply."""
    return {name for name in mnemonics(target, kind, shape) if name.startswith(MULTIPLYING)}


def test_every_target_of_x86_64_is_expected_to_do_something() -> None:
    targets = (target for target in known_targets() if target.triple.startswith("x86_64"))
    assert set(EXPECTED) == {target.name for target in targets}


# ---- Machine code -----------------------------------------------------------------------------


@cases(SHAPES[:1])
def test_the_targets_instruction_multiplies_and_no_other(target, kind, shape) -> None:
    found = multiplying(target, kind, shape)
    assert found
    assert all(name.startswith(EXPECTED[target][kind]) for name in found), found


@cases(SHAPES[1:])
def test_a_ragged_product_is_multiplied_by_an_instruction_for_its_types(
    target, kind, shape
) -> None:
    table = get_target(target)
    lhs, rhs = gemm_types(kind)
    allowed = {
        table.executed(instruction, role).mnemonic
        for instruction in table.instructions_for(lhs, rhs)
        for role in ("lhs", "rhs")
    }
    found = multiplying(target, kind, shape)
    assert found
    assert all(name.startswith(tuple(allowed)) for name in found), found


def gemm_types(kind: str):
    problem = analyse(gemm_of(Product(kind, SHAPES[0])))
    return problem.operand, problem.other


@cases(SHAPES)
def test_nothing_saturates_calls_or_spills_in_a_loop(target, kind, shape) -> None:
    code = code_of(target, kind, shape)
    found = mnemonics(target, kind, shape)
    assert not [name for name in found if name.startswith(("vpmaddubsw", "vpdpbusds"))]
    assert count(code).calls == 0
    assert not any(count(loop).spills for loop in innermost_loops(code))


@cases(SHAPES[1:])
def test_what_is_ragged_is_not_loaded_element_by_element(target, kind, shape) -> None:
    """LLVM would insert each of a masked load's elements. A last group of the other factor is."""
    found = mnemonics(target, kind, shape)
    inserts = sum(n for name, n in found.items() if name.startswith(("vpinsr", "vpextr")))
    products = sum(n for name, n in found.items() if name.startswith(MULTIPLYING))
    assert inserts < products


# ---- Planning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", UNMASKED)
@pytest.mark.parametrize("kind", KINDS)
def test_a_ragged_factor_is_packed_where_it_cannot_be_masked(target: str, kind: str) -> None:
    table = get_target(target)
    for product in (Product(kind, (64, 101, 256)), Product(kind, (300, 401, 500))):
        problem = analyse(gemm_of(product))
        plan = find_plan(problem, table)
        role = {"n": "rhs", "m": "lhs"}.get(plan.lanes.data)
        assert role is None or plan.packs(role)


@pytest.mark.parametrize("kind", KINDS)
def test_of_run_time_sizes_a_factor_that_cannot_be_masked_is_always_packed(kind: str) -> None:
    plan = find_plan(
        analyse(gemm_of(Product(kind, (8, 8, 8), dynamic=True))), get_target("x86-64-v3")
    )
    assert plan.packs("rhs")
    assert plan.pack_from.data == 0


def test_a_plan_that_reads_a_ragged_factor_in_place_is_refused_with_what_is_possible() -> None:
    product, table = Product("f16", (64, 100, 256)), get_target("x86-64-v3")
    problem = analyse(gemm_of(product))
    plan = find_plan(problem, table)
    in_place = plan.with_entries(pack="none", block=(4, 16), n_block=0, m_block=0, k_block=0)
    with pytest.raises(Unsupported, match=r"possible are .*pack = rhs"):
        check_plan(problem, table, in_place)
    blocked = in_place.with_entries(n_block=48, m_block=64, k_block=128)
    with pytest.raises(Unsupported, match="can't mask elements of f16"):
        check_plan(problem, table, blocked)


def test_whole_registers_may_be_read_in_place_without_mask_registers() -> None:
    problem = analyse(gemm_of(Product("f16", (64, 96, 256))))
    assert ("n", "none") in [(a.lanes, a.pack) for a in layouts(problem, get_target("x86-64-v3"))]


def test_instructions_of_fixed_width_are_not_made_narrower() -> None:
    target = get_target("x86-64-v3")
    for name, lanes in (("fma.bf16x8", 4), ("madd.s8s8x8", 8)):
        (_, tail) = registers_of(12, target.instruction(name), target)
        assert (tail.lanes, tail.active) == (lanes, 4)


@pytest.mark.parametrize(
    ("target", "name", "live"),
    [
        ("x86-64-v3", "fma.f32x8", 12 + 2 + 1),
        ("x86-64-v3", "fma.bf16x8", 12 + 2 + 1),
        ("x86-64-v3", "madd.s8s8x8", 12 + 2 + 1 + 1),  # a product on its way to the sum
        ("alderlake", "dot.u8s8x8", 12 + 2 + 1),
        ("alderlake", "dot.s8u8x8", 12 + 2 + 4),  # what is loaded can't come from memory
    ],
)
def test_live_registers_of_a_wide_block(target: str, name: str, live: int) -> None:
    table = get_target(target)
    tile = block_tile(2, 48, "n", table.instruction(name), table)
    assert tile.live_registers(table) == live


def test_extending_factors_costs_micro_operations_and_slots_of_multiplications() -> None:
    table = get_target("x86-64-v3")
    plain, widened = (
        block_tile(6, 16, "n", table.instruction(f"fma.{t}x8"), table) for t in ("f32", "bf16")
    )
    assert widened.micro_ops == plain.micro_ops + 8
    assert widened.extensions == 8
    steps = [step_cycles(table, kind) for kind in ("f32", "bf16")]
    assert steps[1] > 1.2 * steps[0]


def step_cycles(table: Target, kind: str) -> float:
    """Cycles of a step of 6x16 with all operands near."""
    product = Product("bf16", (6, 16, 64))
    source = product.source().replace("bf16", kind)
    module = load(source, make_context())
    (gemm,) = (op for op in module.walk() if isinstance(op, GemmOp))
    problem = analyse(gemm)
    plan = PlanAttr.of(
        target=table.name, instruction=f"fma.{kind}x8", block=(6, 16), lanes="n", k_unroll=4
    )
    (call,) = predict(problem, table, plan).calls
    return call.step.cycles


@pytest.mark.parametrize(
    ("target", "instruction"),
    [
        ("znver4", "dot.bf16x16"),
        ("znver5", "dot.bf16x16"),
        ("cooperlake", "dot.bf16x16"),
        ("sapphirerapids", "fma.bf16x16"),
    ],
)
def test_the_instruction_for_bf16_is_chosen_by_predicted_cycles(
    target: str, instruction: str
) -> None:
    table = vectors_of(target)
    problem = analyse(gemm_of(Product("bf16", (192, 192, 192))))
    plan = find_plan(problem, table)
    assert plan.instruction.data == instruction
    others = [i for i in table.instructions if i.operand == "bf16" and i.name != instruction]
    assert others
    alone = replace(table, instructions=tuple(i for i in table.instructions if i in others))
    other = find_plan(problem, alone)
    costs = [predicted(problem, table, plan), predicted(problem, alone, other)]
    assert costs[0] <= costs[1]


def predicted(problem, table: Target, plan: PlanAttr) -> float:
    return check_plan(problem, table, plan).cycles


def test_groups_of_two_and_of_four_are_counted_alike() -> None:
    problem, table = analyse(gemm_of(Product("s8s8", SHAPES[1]))), get_target("x86-64-v3")
    stated, plan = grouped(problem, table, find_plan(problem, table))
    assert stated.group == 2
    assert stated.extent("k") == 32
    assert plan.k_unroll.data == 1, "LLVM would add up the products of several steps first"


# ---- Results ----------------------------------------------------------------------------------

RAGGED = (
    Product("bf16", (3, 13, 9)),
    Product("bf16", (5, 11, 6), "bf16"),
    Product("bf16", (9, 1, 45)),
    Product("f16", (3, 13, 9), "f16"),
    Product("s8u8", (3, 13, 7)),
    Product("u8u8", (5, 23, 6)),
    Product("s8s8", (9, 1, 70)),
)


@pytest.mark.parametrize("product", RAGGED, ids=lambda p: name_of(p.kind + p.result, p.shape))
@pytest.mark.parametrize("target", ["x86-64-v3", "alderlake", "skylake-avx512"])
def test_every_level_computes_the_same(target: str, product: Product) -> None:
    check_all_levels(
        product.source(), like=product.operands, target=target, guards=("start", "end")
    )


DYNAMIC = (Product("bf16", (7, 29, 18), "bf16", True), Product("s8u8", (13, 21, 35), "", True))


@RUNS_AVX2
@pytest.mark.parametrize("product", DYNAMIC, ids=lambda p: p.kind)
def test_one_kernel_for_run_time_sizes_computes_any(product: Product) -> None:
    kernel = nkdsl.compile(product.source(), "x86-64-v3")
    for shape in ((1, 1, 1), (7, 29, 18), (13, 8, 35), (6, 50, 3), (40, 33, 70)):
        check_natively(kernel, replace(product, shape=shape))


NATIVE = tuple(
    pytest.param(Product(kind, shape, result), marks=marks, id=name_of(kind + result, shape))
    for kind, result in [(k, "") for k in KINDS] + [("bf16", "bf16"), ("f16", "f16")]
    for shape, marks in (((33, 47, 65), ()), ((100, 7, 130), pytest.mark.slow))
)


@RUNS_AVX2
@pytest.mark.parametrize("product", NATIVE)
def test_avx2_kernels_compute_what_they_say(product: Product) -> None:
    check_natively(nkdsl.compile(product.source(), "x86-64-v3"), product)


@RUNS_AVX2
def test_a_large_product_is_packed_and_right() -> None:
    for kind in ("bf16", "u8s8"):
        product = Product(kind, (150, 423, 601))
        check_natively(nkdsl.compile(product.source(), "x86-64-v3"), product)


def check_natively(kernel, product: Product) -> None:
    """Run a kernel on random numbers, the result between numbers that must stay."""
    rng = np.random.default_rng(0)
    a, b, c = (random_array(rng, spec) for spec in product.operands)
    around = np.full(c.size + 128, 99, c.dtype)
    result = around[64 : 64 + c.size].reshape(c.shape)
    result[...] = c
    kernel(a, b, result)
    assert (around[:64] == 99).all()
    assert (around[64 + c.size :] == 99).all()
    if product.kind in INTEGERS:
        wanted = (a.astype(np.int64) @ b.astype(np.int64) + c).astype(np.int32)
        np.testing.assert_array_equal(result, wanted)
        return
    wide_a, wide_b, wide_c = (x.astype(np.float64) for x in (a, b, c))
    exact = wide_c + wide_a @ wide_b
    magnitude = np.abs(wide_c) + np.abs(wide_a) @ np.abs(wide_b)
    last = 2.0**-8 if product.result == "bf16" else 2.0**-11 if product.result == "f16" else 0.0
    bound = magnitude * 2.0**-23 * (product.shape[2] + 2) + np.abs(exact) * last * 1.01 + 1e-30
    assert (np.abs(result.astype(np.float64) - exact) <= bound).all()


def random_array(rng: np.random.Generator, spec: ArraySpec) -> np.ndarray:
    match spec.element:
        case "u8" | "s8" | "s32":
            low, high = {"u8": (0, 255), "s8": (-128, 127), "s32": (-(2**15), 2**15)}[spec.element]
            dtype = element_type(spec.element).dtype
            return rng.integers(low, high, spec.shape, endpoint=True).astype(dtype)
        case name:
            return rng.standard_normal(spec.shape).astype(element_type(name).dtype)


# ---- Lowering ---------------------------------------------------------------------------------


def lowered(body: str, arguments: str, target: str) -> str:
    """A function's text at the upstream level, from the level of registers."""
    source = f"""func.func @f({arguments}) attributes {{nanokernel.target = "{target}"}} {{
      {body}
      func.return
    }}"""
    context = make_context()
    module = load(source, context)
    lower(module, context, target, start="nkvector")
    return to_text(module)


@pytest.mark.parametrize(
    "access",
    [
        "%v = nkvector.load %a[%i], %n : memref<64xbf16>, vector<8xbf16>",
        "%v = arith.constant dense<0.0> : vector<8xbf16>\n"
        "nkvector.store %v, %a[%i], %n : memref<64xbf16>, vector<8xbf16>",
    ],
    ids=["load", "store"],
)
def test_masking_small_elements_is_refused_without_mask_registers(access: str) -> None:
    arguments = "%a: memref<64xbf16>, %i: index, %n: index"
    assert "masked" in lowered(access, arguments, "znver4")
    with pytest.raises(DiagnosticException, match="x86-64-v3 can't mask elements of bf16"):
        lowered(access, arguments, "x86-64-v3")


@RUNS_AVX2
def test_bf16_is_rounded_in_integers_where_no_instruction_does_it() -> None:
    """Ties, infinities, overflow, NaN and subnormal numbers, as ml_dtypes rounds them."""
    source = """func.func @f(%a: memref<16x1xbf16>, %b: memref<1x1xbf16>, %c: memref<16x1xf32>,
        %d: memref<16x1xbf16>) {
      nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<16x1xbf16>, memref<1x1xbf16>)
        outs(%d[m, n] : memref<16x1xbf16>) from zero epilogue(%c[m, n] : memref<16x1xf32>) {
      ^bb0(%sum: f32, %x: f32):
        %t = arith.truncf %x : f32 to bf16
        nanokernel.yield %t : bf16
      }
      func.return
    }"""
    kernel = nkdsl.compile(source, "x86-64-v3")
    bits = [0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F800000, 0xFF800000, 0x7F7FFFFF]
    bits += [0x7F800001, 0xFFFFFFFF, 0x00000000, 0x80000000, 0x00008000, 0x00018000, 0x007FFFFF]
    bits += [0x12345678, 0xC0490FDB]
    c = np.array(bits, np.uint32).view(np.float32).reshape(16, 1)
    a, b = (np.zeros(s, ml_dtypes.bfloat16) for s in ((16, 1), (1, 1)))
    d = np.zeros((16, 1), ml_dtypes.bfloat16)
    kernel(a, b, c, d)
    with np.errstate(invalid="ignore"):
        wanted = c.astype(ml_dtypes.bfloat16)
    nan = np.isnan(wanted)
    assert np.isnan(d[nan]).all()
    np.testing.assert_array_equal(d[~nan].view(np.uint16), wanted[~nan].view(np.uint16))
