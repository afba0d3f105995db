"""Products whose signs are flipped: where the sums that make up for it come from.

A factor that lies in groups is added up in place, panels when they are packed, and sums that are
given aren't added up at all; of several reductions each adds its own. Shapes are ragged and plans
are written, so that every way is taken; results are exact at every level and as machine code.
"""

from dataclasses import dataclass, field

import pytest

from nkdsl.backends import mlir, native
from nkdsl.dialects.nanokernel import GemmOp
from nkdsl.errors import Unsupported
from nkdsl.frontend import load, make_context, to_text
from nkdsl.pipeline import lower
from nkdsl.planner import analyse, check_plan, find_plan
from nkdsl.planner.cost import sums_cycles
from nkdsl.planner.search import cost_of, grouped
from nkdsl.targets import can_run, get_target
from nkdsl.testing import Lowered
from tests.unit.assembly import functions, instructions
from tests.unit.narrow import NarrowProduct

TARGET = "znver4"

TYPES = (("s8", "s8"), ("u8", "u8"))

PLANS: dict[str, dict[str, object]] = {
    "found": {},
    "parts of k": {"block": "2x16", "k_block": 8, "k_unroll": 2},
    "blocks of columns": {"block": "2x16", "k_block": 8, "n_block": 32},
    "blocks of both": {"block": "2x16", "k_block": 8, "m_block": 4, "n_block": 32},
    "rows outside": {"block": "4x32", "m_block": 8, "n_block": 32, "resident": "lhs"},
    "two threads": {"block": "2x32", "k_block": 12, "n_block": 64, "m_block": 8, "threads": 2},
}
"""Of a product whose rhs is read in groups, in place."""


def check(source: str, **options: object) -> None:
    """Every level computes the same, and so does machine code where this CPU runs it."""
    done = Lowered(source, TARGET).check(guards=("start", "end"), **options)  # type: ignore[arg-type]
    assert (done.native is None) == (can_run(get_target(TARGET)) is None)


def gemm_of(source: str) -> GemmOp:
    module = load(source, make_context())
    (gemm,) = (op for op in module.walk() if isinstance(op, GemmOp))
    return gemm


def mnemonics_of(source: str, target: str = TARGET) -> set[str]:
    """The instructions of a program's machine code."""
    context = make_context()
    module = load(source, context)
    lower(module, context, get_target(target))
    text = native.emit_assembly(mlir.to_llvm_ir(to_text(module)), get_target(target))
    return {i.mnemonic for code in functions(text).values() for i in instructions(code)}


# ---- a factor in groups


@pytest.mark.parametrize("plan", PLANS, ids=lambda name: name.replace(" ", "-"))
@pytest.mark.parametrize("factors", TYPES, ids="".join)
def test_a_factor_in_groups_is_added_up_in_place(factors: tuple[str, str], plan: str) -> None:
    layouts = ("rows", "groups", "rows")
    for m, n, k, from_zero in ((9, 37, 21, True), (3, 48, 32, False)):
        product = NarrowProduct(factors, m, n, k, "s32", layouts, from_zero, plan=PLANS[plan])
        check(product.source, like=product.like())


@pytest.mark.parametrize("plan", ["found", "blocks of both"])
def test_what_follows_sees_the_finished_sums(plan: str) -> None:
    layouts = ("rows", "groups", "rows")
    product = NarrowProduct(
        *(("s8", "s8"), 9, 37, 21, "s8", layouts, True, "bias along n"), plan=PLANS[plan]
    )
    check(product.source, like=product.like())


@pytest.mark.parametrize("dynamic", ["mnk", "n", "k"])
@pytest.mark.parametrize("factors", TYPES, ids="".join)
def test_sizes_may_be_known_at_run_time_only(factors: tuple[str, str], dynamic: str) -> None:
    product = NarrowProduct(
        *(factors, 9, 37, 21, "s32", ("rows", "groups", "rows"), True), dynamic=dynamic
    )
    check(product.source, like=product.like())


@dataclass(frozen=True)
class Loaded:
    """A product whose factor `side` lies in groups, and is loaded as registers."""

    side: str
    """`n`: B in groups; `m`: A in groups, and a result in columns."""
    shape: tuple[int, int, int]
    """Of the other dimension, of panels, and of k."""
    width: int
    """Of a panel."""
    types: str = "s8s8"
    given: bool = False
    """Whether sums are given beside."""
    entries: dict[str, object] = field(default_factory=dict)
    """Of the plan, but for the block."""

    @property
    def source(self) -> str:
        """The program."""
        (rows, panels, k), width, side = self.shape, self.width, self.side
        extent, other = panels * width, {"m": "n", "n": "m"}[side]
        plain, sums = f"memref<{rows}x{k}xi8>", f"memref<{panels}x{width}xi32>"
        loaded = f"memref<{panels}x{-(-k // 4)}x{width}x4xi8>"
        result = f"memref<{rows}x{extent}xi32>"
        if side == "m":
            result = f"memref<{extent}x{rows}xi32, strided<[1, {extent}]>>"
        x, y = f"%x[{other}, k]", f"%y[{side}0, k floordiv 4, {side}1, k mod 4]"
        place = f"{width} * {side}0 + {side}1"
        ins = f"{x}, {y} : {plain}, {loaded}" if side == "n" else f"{y}, {x} : {loaded}, {plain}"
        out = f"%c[m, {place}]" if side == "n" else f"%c[{place}, n]"
        given = f"start(%s[{side}0, {side}1] : {sums})" if self.given else ""
        extra = f", %s: {sums}" if self.given else ""
        unsigned = {"u8u8": "unsigned both", "u8s8": "unsigned lhs"}.get(self.types, "")
        return f"""
        func.func @product(%x: {plain}, %y: {loaded}{extra}, %c: {result}) {{
          nanokernel.gemm ins({ins}) {unsigned} outs({out} : {result}) {given} {self._plan}
          func.return
        }}"""

    @property
    def _plan(self) -> str:
        if not self.entries:
            return ""
        role = "rhs" if self.side == "n" else "lhs"
        entries = {
            "target": f'"{TARGET}"',
            "instruction": f'"dot.{self.types}x16"',
            "block": "2x16" if self.side == "n" else "16x2",
            "lanes": self.side,
            "resident": role,
            **self.entries,
        }
        return f"plan #nanokernel.plan<{', '.join(f'{k} = {v}' for k, v in entries.items())}>"


@pytest.mark.parametrize("types", ["s8s8", "u8u8"])
@pytest.mark.parametrize("entries", [{}, {"k_block": 8}, {"m_block": 32, "n_block": 4}])
def test_lhs_in_groups_is_added_up_where_lanes_lie_along_rows(
    types: str, entries: dict[str, object]
) -> None:
    product = Loaded("m", (5, 2, 18), 37, types, entries=entries)
    check(product.source)
    assert find_plan(analyse(gemm_of(product.source)), get_target(TARGET)).lanes.data == "m"


@pytest.mark.parametrize(
    ("target", "factors"),
    [("neoverse-n1", ("u8", "s8")), ("neoverse-n1", ("s8", "u8")), ("alderlake", ("s8", "s8"))],
)
@pytest.mark.parametrize("outer", ["", "reduce"])
def test_other_processors_flip_alike(target: str, factors: tuple[str, str], outer: str) -> None:
    """Of NEON it is factors of different signs, and AVX2 has no masks for what is ragged."""
    layouts = ("rows", "groups", "rows")
    product = NarrowProduct(*(factors, 5, 37, 21, "s32", layouts, True), outer=outer)
    problem = analyse(gemm_of(product.source))
    plan = find_plan(problem, get_target(target))
    assert get_target(target).instruction(plan.instruction.data).flips
    Lowered(product.source, target).check(like=product.like(), guards=("start", "end"))


@pytest.mark.parametrize("types", ["s8s8", "u8u8"])
def test_groups_are_multiplied_by_the_dot_product_of_mixed_signs(types: str) -> None:
    for product in (Loaded("n", (9, 1, 64), 64, types), Loaded("m", (9, 2, 64), 32, types)):
        problem = analyse(gemm_of(product.source))
        plan = find_plan(problem, get_target(TARGET))
        assert (plan.instruction.data, plan.pack.data) == (f"dot.{types}x16", "none")
        found = mnemonics_of(product.source)
        assert "vpdpbusd" in found
        assert not any(name.startswith(("vpmadd", "vpmovsx", "vpmovzx")) for name in found)


def test_predictions_include_what_adding_up_takes() -> None:
    target = get_target(TARGET)
    for m in (1, 64):
        flipped, mixed = (
            analyse(gemm_of(Loaded("n", (m, 1, 256), 256, types).source))
            for types in ("s8s8", "u8s8")
        )
        plan = find_plan(flipped, target)
        cost = cost_of(flipped, target, plan)
        stated, counted = grouped(flipped, target, plan)
        added = sums_cycles(stated, target, counted, target.instruction(plan.instruction.data))
        # 16 registers in each of 64 rows, of which two are loaded a cycle at the very best.
        assert added >= 16 * 64 / 2
        assert cost.packing >= added
        assert cost.cycles > cost_of(mixed, target, find_plan(mixed, target)).cycles


def test_what_was_just_added_up_is_not_asked_for_again() -> None:
    """Prefetches in each step would take the places of loads."""
    product = NarrowProduct(
        *(("s8", "s8"), 1024, 1024, 1024, "s32", ("rows", "groups", "rows"), True)
    )
    plan = find_plan(analyse(gemm_of(product.source)), get_target(TARGET))
    assert plan.blocked
    assert (plan.pack.data, plan.prefetch.data, plan.ahead.data) == ("none", 0, "both")


# ---- several reductions


@pytest.mark.parametrize("layout", ["rows", "groups", "columns"])
@pytest.mark.parametrize("factors", TYPES, ids="".join)
def test_each_of_several_reductions_is_made_up_for(factors: tuple[str, str], layout: str) -> None:
    layouts = ("rows", layout, "rows")
    for epilogue, result in ((None, "s32"), ("scale", "f32")):
        product = NarrowProduct(
            *(factors, 9, 37, 21, result, layouts, True, epilogue), outer="reduce", b=3
        )
        check(product.source, like=product.like())


@pytest.mark.parametrize("layout", ["rows", "groups"])
@pytest.mark.parametrize(
    "plan", [{"k_block": 2}, {"k_block": 8, "m_block": 8, "n_block": 32}], ids=["loops", "blocks"]
)
def test_reductions_may_be_cut(plan: dict[str, object], layout: str) -> None:
    entries = {"block": "2x16", "pack": "none" if layout == "groups" else "rhs", **plan}
    layouts = ("rows", layout, "rows")
    product = NarrowProduct(
        *(("s8", "s8"), 9, 37, 21, "s32", layouts, True), outer="reduce", b=3, plan=entries
    )
    check(product.source, like=product.like())


def test_a_batch_is_added_up_one_by_one() -> None:
    product = NarrowProduct(
        *(("u8", "u8"), 9, 37, 21, "s32", ("rows", "groups", "rows")), outer="batch", b=3
    )
    check(product.source, like=product.like())


@pytest.mark.parametrize("layout", ["rows", "groups"])
def test_a_reduction_without_steps_adds_nothing(layout: str) -> None:
    for outer, b, k in (("reduce", 0, 8), ("reduce", 2, 0), ("", 1, 0)):
        product = NarrowProduct(
            *(("s8", "s8"), 3, 20, k, "s32", ("rows", layout, "rows"), True), outer=outer, b=b
        )
        check(product.source, like=product.like())


# ---- sums that are given


@pytest.mark.parametrize("side", ["n", "m"])
@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"k_block": 8, "k_unroll": 2},
        {"m_block": 64, "n_block": 64},
        {"k_block": 8, "m_block": 4, "n_block": 64},
        {"k_block": 8, "m_block": 64, "n_block": 16, "threads": 2},
    ],
    ids=["found", "parts", "blocks", "parts in blocks", "two threads"],
)
def test_sums_may_be_given(side: str, entries: dict[str, object]) -> None:
    for shape, width, types in (((9, 3, 21), 48, "s8s8"), ((5, 1, 9), 5, "u8u8")):
        product = Loaded(side, shape, width, types, given=True, entries=entries)
        check(product.source)


def test_given_sums_cost_nothing() -> None:
    target, product = get_target(TARGET), Loaded("n", (4, 1, 256), 256)
    given = analyse(gemm_of(Loaded("n", (4, 1, 256), 256, given=True).source))
    plain = analyse(gemm_of(product.source))
    costs = [cost_of(p, target, find_plan(p, target)).cycles for p in (given, plain)]
    assert costs[0] < costs[1]


def test_given_sums_decide_which_factor_is_loaded() -> None:
    target = get_target(TARGET)
    problem = analyse(gemm_of(Loaded("n", (16, 1, 64), 16, given=True).source))
    plan = find_plan(problem, target)
    assert plan.lanes.data == "n"
    with pytest.raises(Unsupported, match="it can't do lanes = m: sums of rhs are given"):
        check_plan(problem, target, plan.with_entries(lanes="m", block=(16, 2)))


def test_given_sums_need_an_instruction_that_flips() -> None:
    problem = analyse(gemm_of(Loaded("n", (16, 1, 64), 16, given=True).source))
    for name in ("sierraforest", "x86-64-v3", "sapphirerapids"):
        target = get_target(name)
        flips = any(i.flips for i in target.instructions_for(problem.operand, problem.other))
        if flips:
            assert not find_plan(problem, target).instruction.data.startswith("tile")
            continue
        with pytest.raises(Unsupported, match=r"flipped signs are made up for, but .* flips none"):
            find_plan(problem, target)


def test_what_is_added_up_in_place_is_used_up_first() -> None:
    problem, target = analyse(gemm_of(Loaded("n", (16, 1, 64), 64).source)), get_target(TARGET)
    plan = find_plan(problem, target)
    assert (plan.resident.data, plan.blocked) == ("rhs", False)
    with pytest.raises(Unsupported, match="resident = lhs: a block of rhs is added up"):
        check_plan(problem, target, plan.with_entries(resident="lhs"))


def test_rows_that_are_read_in_place_are_not_added_up() -> None:
    product = NarrowProduct(("s8", "s8"), 16, 64, 64, "s32")
    problem, target = analyse(gemm_of(product.source)), get_target(TARGET)
    plan = find_plan(problem, target)
    with pytest.raises(
        Unsupported, match="it can't do rhs, which is loaded as registers, in place"
    ):
        check_plan(problem, target, plan.with_entries(pack="none"))
