"""The planner: bounds that every plan keeps, the choice among plans, and the model's parts."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nkdsl.dialects.nanokernel import GemmOp, PlanAttr
from nkdsl.errors import Unsupported
from nkdsl.frontend import load, make_context
from nkdsl.planner import Problem, analyse, check_plan, find_plan
from nkdsl.planner.cost import (
    STORES_HIDDEN,
    THREADS_A_CORE,
    block_runs,
    cache_level,
    reuse_distance,
    source_level,
)
from nkdsl.planner.registers import block_tile, registers_of
from nkdsl.planner.search import candidates
from nkdsl.planner.split import Run, even_split, even_split_lanes
from nkdsl.targets import Target, get_target
from nkdsl.targets.model import Instruction
from nkdsl.transforms.linalg_to_nanokernel import LinalgToNanokernelPass
from tests.unit.helpers import Product

TARGETS = ("skylake-avx512", "sapphirerapids", "znver4", "znver5", "x86-64-v3")
Shape = tuple[int, int, int]
SHAPES: tuple[Shape, ...] = (
    (1, 1, 1),
    (7, 7, 7),
    (16, 16, 16),
    (64, 96, 256),
    (33, 47, 65),
    (100, 100, 100),
    (5, 100, 129),
    (1, 1000, 1000),
    (1000, 1, 100),
    (127, 255, 511),
)


def problem_of(product: Product) -> Problem:
    context = make_context()
    module = load(product.source, context)
    LinalgToNanokernelPass().apply(context, module)
    (gemm,) = (op for op in module.walk() if isinstance(op, GemmOp))
    return analyse(gemm)


def problem(
    m: int,
    n: int,
    k: int,
    element: str = "f32",
    *,
    spec: str = "mk,kn->mn",
    layouts: tuple[str, str, str] = ("rows", "rows", "rows"),
    from_zero: bool = False,
) -> Problem:
    sizes = tuple((i, e) for i, e in (("m", m), ("n", n), ("k", k)) if i in spec)
    return problem_of(Product(spec, sizes, element, layouts, from_zero))


def instruction_of(target: Target, stated: Problem) -> Instruction:
    return target.instruction_for(stated.operand, stated.accumulator)


def live(target: Target, stated: Problem, plan: PlanAttr) -> int:
    """Registers that the widest of a plan's blocks keeps live."""
    instruction = target.instruction(plan.instruction.data)
    rows, columns = block_runs(stated, plan, instruction.lanes)
    tiles = (
        block_tile(r.size, c.size, plan.lanes.data, instruction, target)
        for r in rows
        for c in columns
    )
    return max((tile.live_registers(target) for tile in tiles), default=0)


# ---------------------------------------------------------------------------------- splits


@given(size=st.integers(0, 2000), block=st.integers(1, 2000))
def test_an_even_split_covers_a_size_exactly_and_in_order(size, block):
    position = 0
    for run in even_split(size, block):
        assert run.start == position
        assert 1 <= run.size <= block
        assert run.count >= 1
        position = run.end
    assert position == size


@given(size=st.integers(1, 2000), block=st.integers(1, 2000))
def test_an_even_split_has_the_fewest_blocks_which_differ_by_one_at_most(size, block):
    runs = even_split(size, block)
    assert sum(run.count for run in runs) == -(-size // block)
    assert len(runs) <= 2
    assert runs[0].size - runs[-1].size == len(runs) - 1


@given(size=st.integers(0, 2000), vectors=st.integers(1, 30), lanes=st.sampled_from((2, 4, 8, 16)))
def test_a_split_along_the_lanes_starts_every_block_at_a_whole_register(size, vectors, lanes):
    runs = even_split_lanes(size, vectors * lanes, lanes)
    position = 0
    for run in runs:
        assert run.start == position
        assert run.size <= vectors * lanes
        assert run.start % lanes == 0
        if run.size % lanes:
            assert run == runs[-1]
            assert run.count == 1
        position = run.end
    assert position == size


def test_the_splits_of_the_documentation():
    assert even_split(100, 8) == (Run(0, 8, 9), Run(72, 7, 4))
    assert even_split_lanes(100, 48, 16) == (Run(0, 48, 1), Run(48, 32, 1), Run(80, 20, 1))
    assert even_split(0, 8) == ()
    assert even_split_lanes(0, 48, 16) == ()


# ------------------------------------------------------------------------------- registers


@given(extent=st.integers(1, 200), target=st.sampled_from(TARGETS), element=st.sampled_from((0, 1)))
def test_registers_cover_an_extent_without_overlap(extent, target, element):
    table = get_target(target)
    instruction = table.instructions[element]
    registers = registers_of(extent, instruction, table)
    assert [r.offset for r in registers] == list(range(0, extent, instruction.lanes))
    assert sum(r.active for r in registers) == extent
    assert all(r.active <= r.lanes <= instruction.lanes for r in registers)
    assert not any(r.masked for r in registers[:-1])


def test_half_a_register_is_narrower_only_without_mask_registers():
    masked, plain = get_target("znver5"), get_target("x86-64-v3")
    (_, tail) = registers_of(24, masked.instruction("fma.f32x16"), masked)
    assert (tail.lanes, tail.active) == (16, 8)
    (_, tail) = registers_of(12, plain.instruction("fma.f32x8"), plain)
    assert (tail.lanes, tail.active) == (4, 4)
    (_, tail) = registers_of(13, plain.instruction("fma.f32x8"), plain)
    assert (tail.lanes, tail.active) == (8, 5)


def test_a_block_counts_its_registers_as_the_bound_does():
    target = get_target("znver5")
    tile = block_tile(8, 48, "n", target.instruction("fma.f32x16"), target)
    assert (tile.lhs_loads, tile.rhs_loads, tile.instructions, tile.broadcasts) == (8, 3, 24, 8)
    assert tile.live_registers(target) == 8 * 3 + min(8, 3) + 1


def test_a_mask_needs_a_register_only_without_mask_registers():
    masked, plain = get_target("znver5"), get_target("x86-64-v3")
    tile = block_tile(2, 47, "n", masked.instruction("fma.f32x16"), masked)
    assert tile.live_registers(masked) == 6 + 2 + 1
    tile = block_tile(2, 23, "n", plain.instruction("fma.f32x8"), plain)
    assert tile.live_registers(plain) == 6 + 2 + 1 + 1


# ---------------------------------------------------------------------------------- choice


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_candidate_fits_the_registers_and_none_is_predicted_to_be_faster(
    shape: Shape, target: str
) -> None:
    table = get_target(target)
    for element in ("f32", "f64"):
        stated = problem(*shape, element=element)
        chosen = find_plan(stated, table)
        least = check_plan(stated, table, chosen).cycles
        offered = list(candidates(stated, table, instruction_of(table, stated)))
        assert chosen in offered
        for plan in offered:
            assert live(table, stated, plan) <= table.plannable_registers < table.registers
            assert check_plan(stated, table, plan).cycles >= least


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_blocks_of_a_plan_cover_the_product(shape: Shape, target: str) -> None:
    table = get_target(target)
    stated = problem(*shape)
    plan = find_plan(stated, table)
    rows, columns = block_runs(stated, plan, instruction_of(table, stated).lanes)
    assert rows[-1].end == shape[0]
    assert columns[-1].end == shape[1]
    assert max(run.size for run in rows) <= plan.block[0]
    assert max(run.size for run in columns) <= plan.block[1]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("element", ["f32", "f64"])
def test_a_plan_uses_the_widest_instruction_of_its_type(target, element):
    table = get_target(target)
    plan = find_plan(problem(64, 96, 256, element), table)
    bits = max(i.bits for i in table.instructions if i.operand == element)
    assert table.instruction(plan.instruction.data).bits == bits
    assert plan.target.data == target


@given(
    sizes=st.tuples(*[st.integers(0, 300)] * 3),
    element=st.sampled_from(("f32", "f64")),
    target=st.sampled_from(TARGETS),
)
def test_every_size_has_a_plan_that_keeps_its_bounds(
    sizes: Shape, element: str, target: str
) -> None:
    table = get_target(target)
    stated = problem(*sizes, element=element)
    plan = find_plan(stated, table)
    check_plan(stated, table, plan)
    assert live(table, stated, plan) <= table.plannable_registers
    assert 1 <= plan.k_unroll.data <= max(1, sizes[2])


def test_large_products_are_predicted_to_run_near_peak_and_small_ones_are_not():
    table = get_target("znver5")
    large, tiny = problem(512, 512, 512), problem(3, 3, 3)
    assert check_plan(large, table, find_plan(large, table)).share_of_peak > 0.85
    assert check_plan(tiny, table, find_plan(tiny, table)).share_of_peak < 0.3


@given(sizes=st.tuples(*[st.integers(1, 200)] * 3), target=st.sampled_from(TARGETS))
def test_no_plan_is_predicted_to_be_faster_than_the_machine(sizes, target):
    table = get_target(target)
    stated = problem(*sizes)
    assert 0 < check_plan(stated, table, find_plan(stated, table)).share_of_peak <= 1


# --------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("target", TARGETS)
def test_a_matrix_times_a_vector_lays_lanes_along_the_reduction(target):
    plan = find_plan(problem(1000, 1, 100), get_target(target))
    assert (plan.lanes.data, plan.block[1]) == ("k", 1)


@pytest.mark.parametrize("target", TARGETS)
def test_a_vector_times_a_matrix_lays_lanes_along_the_columns(target):
    plan = find_plan(problem(1, 1000, 1000), get_target(target))
    assert (plan.lanes.data, plan.block[0]) == ("n", 1)


@pytest.mark.parametrize("target", TARGETS)
def test_a_transposed_right_factor_is_packed(target):
    plan = find_plan(problem(100, 100, 100, spec="mk,nk->mn"), get_target(target))
    assert (plan.lanes.data, plan.pack.data) == ("n", "rhs")


@pytest.mark.parametrize("target", TARGETS)
def test_a_transposed_left_factor_is_read_in_place(target):
    plan = find_plan(problem(100, 100, 100, spec="km,kn->mn"), get_target(target))
    assert (plan.lanes.data, plan.pack.data) == ("n", "none")


@pytest.mark.parametrize("target", TARGETS)
def test_a_column_major_result_lays_lanes_along_the_rows(target):
    columns = ("columns", "columns", "columns")
    plan = find_plan(problem(100, 100, 100, layouts=columns), get_target(target))
    assert (plan.lanes.data, plan.pack.data) == ("m", "none")


def test_a_result_without_a_contiguous_direction_is_refused():
    with pytest.raises(Unsupported, match="stride 1 along neither its rows nor its columns"):
        find_plan(problem(9, 9, 9, layouts=("rows", "rows", "spread")), get_target("znver5"))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("sizes", [(0, 8, 8), (8, 0, 8), (8, 8, 0), (0, 0, 0)])
def test_an_empty_product_has_a_plan(sizes, target):
    stated = problem(*sizes)
    cost = check_plan(stated, get_target(target), find_plan(stated, get_target(target)))
    assert cost.useful == 0
    if 0 in sizes[:2]:
        assert cost.cycles == 0


def test_several_reductions_keep_the_one_that_moves_least_inside():
    stated = problem_of(Product("bmk,bkn->mn", (("b", 3), ("m", 8), ("n", 16), ("k", 32))))
    assert (stated.extent("k"), stated.outer_trips("k")) == (32, 3)
    assert (stated.extent("m"), stated.extent("n")) == (8, 16)


# ---------------------------------------------------------------------------- written plans


def written(**entries: object) -> PlanAttr:
    plan = {"target": "znver5", "instruction": "fma.f32x16", "block": (8, 48), **entries}
    return PlanAttr.of(**plan)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("plan", "bound"),
    [
        (written(block=(8, 64)), r"block 8x64 needs 37 vector registers, mr·nv \+ min\(mr, nv\)"),
        (written(block=(8, 40)), "not a multiple of the 16 lanes of fma.f32x16 along n"),
        (written(lanes="m", block=(16, 8)), "lanes = m, pack = none does not fit"),
        (written(lanes="k", block=(4, 4)), "possible are lanes = n, pack = none"),
        (written(pack="rhs"), "lanes = n, pack = rhs does not fit the operands' layouts"),
        (written(instruction="fma.f64x8"), "multiplies f64 and f64, but the product is one of f32"),
        (written(instruction="dot.i8x64"), "has no instruction 'dot.i8x64'"),
    ],
)
def test_a_written_plan_is_refused_by_the_bound_it_breaks(plan, bound):
    with pytest.raises(Unsupported, match=bound):
        check_plan(problem(64, 96, 256), get_target("znver5"), plan)


def test_a_packed_factor_that_does_not_stay_is_refused():
    stated = problem(64, 96, 256, spec="mk,nk->mn")
    with pytest.raises(Unsupported, match="write resident = rhs"):
        check_plan(stated, get_target("znver5"), written(pack="rhs", resident="lhs"))


@given(rows=st.integers(1, 40), vectors=st.integers(1, 40), target=st.sampled_from(TARGETS))
def test_a_written_block_is_accepted_exactly_if_its_registers_fit(rows, vectors, target):
    table = get_target(target)
    stated = problem(64, 64 * 16, 8)
    instruction = instruction_of(table, stated)
    plan = PlanAttr.of(
        target=target, instruction=instruction.name, block=(rows, vectors * instruction.lanes)
    )
    live_at_once = rows * vectors + min(rows, vectors) + 1
    if vectors == 1 and rows > 1 and not table.embedded_broadcast:
        # A broadcast that is used once takes a register of its own for each row.
        live_at_once = 2 * rows - 1
    fits = live_at_once <= table.plannable_registers
    try:
        check_plan(stated, table, plan)
    except Unsupported as error:
        assert "vector registers" in str(error)
        assert not fits
    else:
        assert fits


# ------------------------------------------------------------------------------------ caches

# 64x96x256 in f32 by blocks of 8x48, the right factor's panel resident. Between two uses of an
# element of
#   the resident panel: one panel of each, (8 + 48)·256·4 bytes, and the block, 8·48·4;
#   the streamed factor: all of it and the resident panel, (64 + 48)·256·4, and 64·48·4.
RESIDENT = (8 + 48) * 256 * 4 + 8 * 48 * 4
STREAMED = (64 + 48) * 256 * 4 + 64 * 48 * 4


def test_reuse_distances_follow_the_loop_order():
    stated = problem(64, 96, 256)
    assert reuse_distance(stated, written(resident="rhs"), "rhs") == RESIDENT == 58880
    assert reuse_distance(stated, written(resident="rhs"), "lhs") == STREAMED == 126976
    # The other way round: each left panel stays while all right ones pass by.
    assert reuse_distance(stated, written(resident="lhs"), "lhs") == RESIDENT
    assert reuse_distance(stated, written(resident="lhs"), "rhs") == (
        (96 + 8) * 256 * 4 + 96 * 8 * 4
    )


def test_a_factor_that_is_used_once_lies_where_the_whole_product_left_it():
    everything = (64 + 48) * 256 * 4 + 64 * 48 * 4
    assert reuse_distance(problem(64, 48, 256), written(), "lhs") == everything


def test_chunks_of_the_reduction_shorten_the_distances():
    plan = written(k_block=64)
    assert reuse_distance(problem(64, 96, 256), plan, "rhs") == (8 + 48) * 64 * 4 + 8 * 48 * 4


def test_a_size_lies_in_the_innermost_cache_that_keeps_it():
    target = get_target("znver5")
    l1, l2, l3 = (cache.size for cache in target.caches)
    assert cache_level(target, 0) == cache_level(target, l1) == 0
    assert cache_level(target, l1 + 1) == 1
    assert cache_level(target, l2 + 1) == 2
    assert cache_level(target, l3 + 1) == 3


def test_rows_a_power_of_two_apart_fall_on_the_same_sets():
    # 48 KiB in 12 ways: 64 sets of 64 bytes. Rows 4096 bytes apart all start in the same set, so
    # 128 rows of 3 lines find room for 12 lines each way; rows 4160 bytes apart spread.
    target = get_target("znver5")
    assert target.caches[0].size == 64 * 64 * target.caches[0].ways
    plan = written(resident="rhs")
    together, spread = problem(64, 1024, 128), problem(64, 1040, 128)
    assert cache_level(target, reuse_distance(together, plan, "rhs")) == 0
    assert source_level(together, target, plan, "rhs") == 1
    assert source_level(spread, target, plan, "rhs") == 0


def test_a_packed_panel_never_falls_on_few_sets():
    target = get_target("znver5")
    stated = problem(64, 1024, 128, spec="mk,nk->mn")
    assert source_level(stated, target, written(pack="rhs"), "rhs") == 0


# ------------------------------------------------------------------------------ the answers


def answer(target: str, element: str, shape: Shape) -> str:
    """The model's choice, as the table below writes it."""
    plan = find_plan(problem(*shape, element=element), get_target(target))
    rows, columns = plan.block
    return f"{rows}x{columns} lanes {plan.lanes.data} unroll {plan.k_unroll.data}"


# What the model answers, read from it and written down: the table must change only together with
# the model or a target's numbers. To refresh it:
#   python -c "from tests.unit.test_planner import print_answers; print_answers()"
ANSWERS = {
    ("skylake-avx512", "f32", (16, 16, 16)): "16x16 lanes n unroll 16",
    ("skylake-avx512", "f32", (64, 96, 256)): "8x48 lanes n unroll 8",
    ("skylake-avx512", "f32", (33, 47, 65)): "7x48 lanes n unroll 8",
    ("skylake-avx512", "f32", (100, 100, 100)): "6x64 lanes n unroll 7",
    ("skylake-avx512", "f64", (16, 16, 16)): "8x16 lanes n unroll 16",
    ("skylake-avx512", "f64", (64, 96, 256)): "6x32 lanes n unroll 8",
    ("skylake-avx512", "f64", (33, 47, 65)): "4x48 lanes n unroll 8",
    ("skylake-avx512", "f64", (100, 100, 100)): "8x24 lanes n unroll 7",
    ("znver5", "f32", (16, 16, 16)): "16x16 lanes n unroll 16",
    ("znver5", "f32", (64, 96, 256)): "13x32 lanes n unroll 8",
    ("znver5", "f32", (33, 47, 65)): "7x48 lanes n unroll 8",
    ("znver5", "f32", (100, 100, 100)): "3x112 lanes n unroll 7",
    ("znver5", "f64", (16, 16, 16)): "8x16 lanes n unroll 16",
    ("znver5", "f64", (64, 96, 256)): "7x16 lanes n unroll 11",
    ("znver5", "f64", (33, 47, 65)): "4x48 lanes n unroll 8",
    ("znver5", "f64", (100, 100, 100)): "8x24 lanes n unroll 7",
    ("x86-64-v3", "f32", (16, 16, 16)): "6x16 lanes n unroll 16",
    ("x86-64-v3", "f32", (64, 96, 256)): "6x16 lanes n unroll 16",
    ("x86-64-v3", "f32", (33, 47, 65)): "5x16 lanes n unroll 16",
    ("x86-64-v3", "f32", (100, 100, 100)): "5x16 lanes n unroll 14",
    ("x86-64-v3", "f64", (16, 16, 16)): "6x8 lanes n unroll 16",
    ("x86-64-v3", "f64", (64, 96, 256)): "2x24 lanes n unroll 12",
    ("x86-64-v3", "f64", (33, 47, 65)): "5x8 lanes n unroll 16",
    ("x86-64-v3", "f64", (100, 100, 100)): "6x8 lanes n unroll 14",
}


def print_answers() -> None:
    """Print the table anew."""
    shapes = ((16, 16, 16), (64, 96, 256), (33, 47, 65), (100, 100, 100))
    for asked in product(("skylake-avx512", "znver5", "x86-64-v3"), ("f32", "f64"), shapes):
        print(f"    {asked}: {answer(*asked)!r},".replace("'", '"'))


@pytest.mark.parametrize("asked", ANSWERS)
def test_the_model_answers_as_written_down(asked):
    assert answer(*asked) == ANSWERS[asked]


def test_short_reductions_have_blocks_whose_stores_the_next_block_hides() -> None:
    table = get_target("znver4")
    short, unknown = problem(64, 64, 32), replace(table, name="other", store_buffer=0)
    hidden, exposed = find_plan(short, table), find_plan(short, unknown)

    def registers(plan: PlanAttr) -> int:
        return plan.block[0] * plan.block[1] // 16

    assert registers(hidden) * THREADS_A_CORE <= STORES_HIDDEN[0] * table.store_buffer
    assert registers(exposed) * THREADS_A_CORE > STORES_HIDDEN[1] * table.store_buffer
    cost = [
        check_plan(short, each, plan) for each in (table, unknown) for plan in (hidden, exposed)
    ]
    assert cost[0].cycles < cost[1].cycles == cost[3].cycles < cost[2].cycles


def test_long_reductions_have_blocks_that_load_least() -> None:
    table = get_target("znver4")
    plan = find_plan(problem(1024, 1024, 1024), table)
    tile = block_tile(*plan.block, "n", instruction_of(table, problem(1024, 1024, 1024)), table)
    assert 2 * (tile.lhs_loads + tile.rhs_loads) < tile.instructions
