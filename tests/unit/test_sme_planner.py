"""Plans for outer products: which are compared, which is chosen, what a written one may say."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nkdsl.dialects.nanokernel import GemmOp, PlanAttr
from nkdsl.errors import Unsupported
from nkdsl.frontend import load, make_context
from nkdsl.planner import Problem, analyse, check_plan, find_plan
from nkdsl.planner.outer_products import BLOCKS, in_place, tile_grid
from nkdsl.planner.search import candidates, cost_of
from nkdsl.targets import Target, TileInstruction, get_target
from nkdsl.types import element_type
from tests.unit.narrow import NarrowProduct

ARMV9 = get_target("armv9-sme")

F32, BF16, S8 = ("f32", "f32"), ("bf16", "bf16"), ("s8", "s8")

ROWS, COLUMNS = ("rows", "rows", "rows"), ("columns", "columns", "columns")
PLACED = ("columns", "rows", "rows")
"""Both factors lie along their own dimension, m or n."""


def problem_of(source: str) -> Problem:
    module = load(source, make_context())
    (gemm,) = (op for op in module.walk() if isinstance(op, GemmOp))
    return analyse(gemm)


def problem(
    factors: tuple[str, str] = F32,
    m: int = 512,
    n: int = 512,
    k: int = 512,
    result: str = "",
    layouts: tuple[str, str, str] = ROWS,
    **further: Any,
) -> Problem:
    sums = result or element_type(factors[0]).sums
    return problem_of(NarrowProduct(factors, m, n, k, sums, layouts, **further).source)


def instruction_of(stated: Problem) -> TileInstruction:
    instruction = ARMV9.tile_instruction_for(stated.operand, stated.other)
    assert instruction is not None
    return instruction


def with_vectors(bits: int) -> Target:
    """The target whose plans assume vectors of some length."""
    assert ARMV9.tiles is not None
    return replace(ARMV9, tiles=replace(ARMV9.tiles, vector_bits=bits))


# ------------------------------------------------------------------------------------------- tiles


@pytest.mark.parametrize(
    ("registers", "grid"), [(1, (1, 1)), (2, (1, 2)), (4, (2, 2)), (8, (2, 4)), (16, (4, 4))]
)
def test_tiles_are_arranged_for_the_fewest_loads(registers: int, grid: tuple[int, int]) -> None:
    assert ARMV9.tiles is not None
    found = tile_grid(replace(ARMV9.tiles, registers=registers))
    assert tuple(sorted(found)) == grid


@pytest.mark.parametrize(
    ("factors", "layouts", "lhs", "rhs"),
    [
        (F32, ROWS, False, True),
        (F32, PLACED, True, True),
        (F32, COLUMNS, True, False),
        (F32, ("spread", "spread", "rows"), False, False),
        (BF16, PLACED, False, False),
        (BF16, ("rows", "groups", "rows"), False, True),
        (S8, ("columns", "groups", "rows"), False, True),
    ],
)
def test_vectors_are_loaded_where_a_factor_lies_along_its_own_dimension(
    factors: tuple[str, str], layouts: tuple[str, str, str], lhs: bool, rhs: bool
) -> None:
    stated = problem(factors, layouts=layouts)
    grouped = stated.in_groups(instruction_of(stated).k)
    assert in_place(grouped, "lhs") == lhs
    assert in_place(grouped, "rhs") == rhs


# ------------------------------------------------------------------------------------------ choice


@pytest.mark.parametrize("factors", [F32, BF16, S8, ("u8", "s8"), ("s8", "u8"), ("u8", "u8")])
def test_a_large_product_is_one_of_tiles(factors: tuple[str, str]) -> None:
    names = "".join(dict.fromkeys(factors)) if factors in (F32, BF16) else "".join(factors)
    assert find_plan(problem(factors), ARMV9).instruction.data == f"outer.{names}"


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 8, 8), (4, 40, 4)])
def test_a_small_product_is_not_worth_the_change_of_modes(shape: tuple[int, int, int]) -> None:
    assert find_plan(problem(F32, *shape), ARMV9).instruction.data == "fma.f32x4"


def test_what_tiles_don_t_multiply_vectors_do() -> None:
    f64 = problem_of(
        """func.func @f(%a: memref<512x512xf64>, %b: memref<512x512xf64>, %c: memref<512x512xf64>) {
          nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<512x512xf64>, memref<512x512xf64>)
            outs(%c[m, n] : memref<512x512xf64>)
          func.return
        }"""
    )
    assert find_plan(f64, ARMV9).instruction.data == "fma.f64x2"
    assert find_plan(problem(("f16", "f16")), ARMV9).instruction.data == "fma.f16x4"


@pytest.mark.parametrize(
    ("layouts", "lanes", "pack"), [(ROWS, "n", "lhs"), (PLACED, "n", "none"), (COLUMNS, "m", "rhs")]
)
def test_no_more_is_packed_than_must_be(
    layouts: tuple[str, str, str], lanes: str, pack: str
) -> None:
    plan = find_plan(problem(layouts=layouts), ARMV9)
    assert (plan.lanes.data, plan.pack.data) == (lanes, pack)


@given(shape=st.tuples(*[st.integers(1, 700)] * 3), factors=st.sampled_from([F32, BF16, S8]))
def test_every_plan_that_is_compared_may_be_written(
    shape: tuple[int, int, int], factors: tuple[str, str]
) -> None:
    stated = problem(factors, *shape)
    found = list(candidates(stated, ARMV9, instruction_of(stated)))
    assert found
    for plan in found:
        assert check_plan(stated, ARMV9, plan).cycles > 0
        assert set(plan.block) <= set(BLOCKS)
        for size, extent in zip(plan.block, shape, strict=False):
            assert size == BLOCKS[0] or size < 2 * extent


@pytest.mark.parametrize("m", [1, 33, 512])
def test_longer_vectors_take_less_time(m: int) -> None:
    stated = problem(F32, m)
    plan = next(candidates(stated, ARMV9, instruction_of(stated)))
    cycles = [cost_of(stated, with_vectors(bits), plan).cycles for bits in (128, 256, 512, 1024)]
    assert cycles == sorted(cycles, reverse=True)
    assert cycles[0] > cycles[-1]


def test_no_prediction_exceeds_the_peak() -> None:
    for m, n, k in ((1, 1, 1), (32, 32, 512), (64, 64, 64), (512, 512, 512), (1000, 1000, 1000)):
        stated = problem(F32, m, n, k)
        for plan in candidates(stated, ARMV9, instruction_of(stated)):
            assert 0 < cost_of(stated, ARMV9, plan).share_of_peak <= 1


def test_threads_cut_the_reduction_where_one_does() -> None:
    stated = problem(BF16, 1024, 1024, 2048)
    alone, shared = (find_plan(stated, ARMV9, threads) for threads in (1, 4))
    assert alone.instruction == shared.instruction
    assert alone.k_block == shared.k_block


def test_sizes_of_the_call_have_blocks_and_parts_of_their_own() -> None:
    plan = find_plan(problem(F32, dynamic="mnk"), ARMV9)
    assert plan.instruction.data == "outer.f32"
    assert plan.k_block.data and plan.m_block.data and plan.n_block.data


@pytest.mark.parametrize("dynamic", ["", "m", "n"])
@pytest.mark.parametrize("factors", [BF16, S8])
def test_a_single_step_may_lie_in_a_group(factors: tuple[str, str], dynamic: str) -> None:
    layouts = ("rows", "groups", "rows")
    stated = problem(factors, k=1, layouts=layouts, dynamic=dynamic)
    plan = find_plan(stated, ARMV9)
    assert plan.pack.data in ("none", "lhs")
    assert in_place(stated.in_groups(instruction_of(stated).k), "rhs")


def test_of_several_reductions_that_in_groups_is_the_inner_one_however_short() -> None:
    stated = problem(BF16, k=1, layouts=("rows", "groups", "rows"), outer="reduce", b=5)
    assert stated.extent("k") == 1
    assert stated.outer_trips("k") == 5


@pytest.mark.parametrize(("layouts", "name"), [(ROWS, "fma.f32x4"), (PLACED, "outer.f32")])
def test_of_several_reductions_of_the_call_none_is_packed(
    layouts: tuple[str, str, str], name: str
) -> None:
    """What is packed has no size that is known before."""
    stated = problem(F32, layouts=layouts, outer="reduce", dynamic="mnk")
    assert find_plan(stated, ARMV9).instruction.data == name


# -------------------------------------------------------------------------------- what is written


def written(stated: Problem, **entries: Any) -> PlanAttr:
    """A plan that is right for two factors that lie in rows, but for what is said."""
    right = {
        "target": ARMV9.name,
        "instruction": instruction_of(stated).name,
        "block": (64, 64),
        "pack": "both",
        "resident": "rhs",
    }
    return PlanAttr.of(**(right | entries))


def refused() -> Iterator[tuple[Problem, dict[str, Any], str]]:
    """A problem, entries of a plan for it, and the message."""
    rows, groups = problem(), problem(BF16, layouts=("rows", "groups", "rows"))
    several = problem(F32, outer="reduce")
    finished = problem(F32, epilogue="relu")
    yield rows, {"lanes": "m"}, "lanes = m needs a result that is contiguous along m"
    yield rows, {"lanes": "k"}, "lanes = k needs a result .* lanes lie along m or n, or copy the"
    yield rows, {"block": (64, 3)}, "block 64x3 with lanes = n is no whole number of vectors, the"
    yield rows, {"block": (64, 30)}, "the shortest of which have 4 lanes for outer.f32"
    yield several, {"k_block": 8}, "of several reductions none is cut for tiles: leave out k_block"
    yield finished, {"k_block": 64}, "sums that an epilogue .* write m_block and n_block, or leave"
    yield rows, {"m_block": 96}, "m_block = 96 is no multiple of the block's 64"
    yield rows, {"n_block": 32}, "n_block = 32 is no multiple of the block's 64"
    yield rows, {"pack": "none"}, "lhs does not lie along k in groups: write pack = both"
    yield problem(BF16), {"pack": "lhs"}, "rhs does not lie along k in groups: write pack = both"
    yield groups, {}, "rhs lies in groups, and can only be read where it is, along k"
    yield rows, {"instruction": "outer.bf16"}, "outer.bf16 multiplies bf16 and bf16, but the prod"


@pytest.mark.parametrize(("stated", "entries", "message"), list(refused()))
def test_a_plan_that_breaks_a_bound_is_refused(
    stated: Problem, entries: dict[str, Any], message: str
) -> None:
    with pytest.raises(Unsupported, match=message):
        check_plan(stated, ARMV9, written(stated, **entries))


@pytest.mark.parametrize("block", [(1, 4), (3, 20), (64, 64), (128, 32), (1000, 1000)])
def test_a_block_may_have_any_size_in_whole_vectors(block: tuple[int, int]) -> None:
    stated = problem(F32, 100, 100, 100)
    assert check_plan(stated, ARMV9, written(stated, block=block)).cycles > 0


@pytest.mark.parametrize("role", ["lhs", "rhs"])
def test_a_factor_may_be_packed_though_it_need_not_be(role: str) -> None:
    stated = problem(layouts=PLACED)
    assert check_plan(stated, ARMV9, written(stated, pack=role)).packing > 0
