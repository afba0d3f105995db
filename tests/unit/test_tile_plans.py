"""Plans for tiles: which grids registers hold, which plan is chosen, and what of a written one is
refused."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nkdsl.cli.main import main
from nkdsl.dialects.nanokernel import GemmOp, PlanAttr
from nkdsl.errors import Unsupported
from nkdsl.frontend import load, make_context
from nkdsl.planner import Problem, analyse, check_plan, find_plan
from nkdsl.planner.search import candidates, cost_of
from nkdsl.planner.tiles import Grid, grid_of, grids, split_parts, tile_rows
from nkdsl.targets import Target, get_target
from nkdsl.targets.amx import AMX, AMX_BF16
from nkdsl.targets.model import TileInstruction
from nkdsl.types import element_type
from tests.unit.narrow import NarrowProduct

SAPPHIRE, GRANITE = get_target("sapphirerapids"), get_target("graniterapids")
VECTORS = replace(SAPPHIRE, tiles=None)

KINDS = {"bf16": ("bf16", "bf16"), "s8s8": ("s8", "s8"), "u8s8": ("u8", "s8")}

Shape = tuple[int, int, int]


def problem_of(case: NarrowProduct) -> Problem:
    module = load(case.source, make_context())
    (gemm,) = (op for op in module.walk() if isinstance(op, GemmOp))
    return analyse(gemm)


def problem(kind: str, shape: Shape, **entries: object) -> Problem:
    """`C += A·B` of some sizes."""
    factors = KINDS.get(kind, (kind, kind))
    result = element_type(factors[0]).sums
    return problem_of(NarrowProduct(factors, *shape, result, **entries))  # type: ignore[arg-type]


def tiles_of(stated: Problem, target: Target = SAPPHIRE) -> TileInstruction:
    found = target.tile_instruction_for(stated.operand, stated.other)
    assert found is not None
    return found


def grid(plan: PlanAttr, target: Target = SAPPHIRE) -> Grid:
    instruction = target.instruction(plan.instruction.data)
    assert isinstance(instruction, TileInstruction)
    return grid_of(plan.block, plan.lanes.data, instruction)


# --------------------------------------------------------------------------------------- grids


def test_eight_registers_hold_one_row_of_six_tiles_or_two_by_two() -> None:
    rows = {(1, n) for n in range(1, 7)}
    assert set(grids(AMX.registers)) == rows | {(n, m) for m, n in rows} | {(2, 2)}


def test_two_by_two_needs_a_load_a_multiplication_and_no_other_grid_so_few() -> None:
    loads = {(m, n): (m + n) / (m * n) for m, n in grids(AMX.registers)}
    assert loads.pop((2, 2)) == 1
    assert min(loads.values()) > 1


@pytest.mark.parametrize("counts", grids(AMX.registers))
def test_sums_and_factors_share_the_registers(counts: tuple[int, int]) -> None:
    found = Grid(*counts, height=16, width=16)
    rows, columns = found.factors(AMX.registers)
    assert found.accumulators + rows + columns <= AMX.registers
    assert min(rows, columns) >= 1
    # The tiles of one factor stay while those of the other one pass by.
    assert rows == found.across or columns == found.along


@given(extent=st.integers(1, 500))
def test_rows_are_spread_evenly_over_as_few_tiles_as_there_can_be(extent: int) -> None:
    height = tile_rows(extent, AMX_BF16)
    tiles = -(-extent // height)
    assert tiles == -(-extent // AMX_BF16.rows)
    assert tiles * height - extent < tiles


def test_33_rows_are_three_tiles_of_11() -> None:
    assert tile_rows(33, AMX_BF16) == 11
    assert grid_of((33, 16), "n", AMX_BF16) == Grid(3, 1, 11, 16)
    assert grid_of((16, 33), "m", AMX_BF16) == Grid(3, 1, 11, 16)
    plan = find_plan(problem("bf16", (33, 512, 512)), SAPPHIRE)
    assert grid(plan).height == 11


@given(extent=st.integers(0, 500), block=st.integers(0, 200), unit=st.sampled_from((1, 11, 16, 32)))
def test_cache_blocks_are_alike_but_the_last_and_start_at_whole_tiles(
    extent: int, block: int, unit: int
) -> None:
    parts = split_parts(extent, block, unit)
    assert [part.start for part in parts] == [0, *(part.end for part in parts[:-1])]
    assert parts[-1].end == extent
    assert parts[-1].count == 1
    assert parts[-1].size <= parts[0].size
    assert all(part.start % unit == 0 for part in parts)
    if block:
        assert parts[0].size <= -(-block // unit) * unit


# -------------------------------------------------------------------------------------- choice


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(512, 512, 512), (1024, 1024, 4096), (256, 512, 1024)])
def test_large_products_have_blocks_of_two_by_two(kind: str, shape: Shape) -> None:
    plan = find_plan(problem(kind, shape), SAPPHIRE)
    assert grid(plan) == Grid(2, 2, 16, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_skinny_products_have_one_row_or_one_column_of_tiles(kind: str) -> None:
    flat, tall = (problem(kind, shape) for shape in ((16, 1000, 1000), (1000, 16, 1000)))
    wide = grid(find_plan(flat, SAPPHIRE))
    high = grid(find_plan(tall, SAPPHIRE))
    assert wide.across == 1 < wide.along
    assert high.along == 1 < high.across


SHAPES: tuple[Shape, ...] = (
    *((1, 1, 1), (3, 3, 3), (16, 16, 64), (33, 47, 65), (16, 100, 31), (100, 100, 100)),
    *((127, 255, 511), (1, 1000, 1000), (1000, 1, 100), (5, 300, 129), (512, 512, 512)),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_candidate_fits_the_registers_and_none_is_predicted_to_be_faster(
    shape: Shape, kind: str
) -> None:
    stated = problem(kind, shape)
    chosen = find_plan(stated, SAPPHIRE)
    least = check_plan(stated, SAPPHIRE, chosen).cycles
    offered = list(candidates(stated, SAPPHIRE, tiles_of(stated)))
    assert offered
    for plan in offered:
        assert grid(plan).registers <= AMX.registers
        assert check_plan(stated, SAPPHIRE, plan).cycles >= least


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_are_chosen_where_they_are_predicted_to_be_faster_than_vectors(
    shape: Shape, kind: str
) -> None:
    stated = problem(kind, shape)
    chosen = find_plan(stated, SAPPHIRE)
    vectors = find_plan(stated, VECTORS)
    if isinstance(SAPPHIRE.instruction(chosen.instruction.data), TileInstruction):
        assert cost_of(stated, SAPPHIRE, chosen).cycles < cost_of(stated, VECTORS, vectors).cycles
    else:
        assert chosen == vectors


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["bf16", "u8s8"])
def test_few_rows_are_left_to_vectors_and_explained_so(
    kind: str, m: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Most of such a product is reading a factor, which tiles must have packed before."""
    plan = find_plan(problem(kind, (m, 1000, 1000)), SAPPHIRE)
    name = plan.instruction.data
    assert name in [i.name for i in SAPPHIRE.instructions]
    main(["explain", f"{m}x1000x1000", "--dtype", kind, "--target", "sapphirerapids"])
    (told,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("plan "))
    assert name in told


def test_f16_takes_tiles_where_the_processor_has_them_for_it() -> None:
    stated = problem("f16", (512, 512, 512))
    assert find_plan(stated, SAPPHIRE).instruction.data == "fma.f16x16"
    assert find_plan(stated, GRANITE).instruction.data == "tile.f16x16x16x32"


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_known_at_run_time_are_multiplied_by_two_by_two_tiles(kind: str) -> None:
    plan = find_plan(problem(kind, (5, 5, 5), dynamic="mnk"), SAPPHIRE)
    assert grid(plan) == Grid(2, 2, 16, 16)
    assert plan.pack.data == "both"
    assert plan.m_block.data and plan.n_block.data and plan.k_block.data


def test_an_open_reduction_inside_of_another_one_is_left_to_vectors() -> None:
    """Its panels would have no size."""
    stated = problem("bf16", (5, 5, 5), outer="reduce", dynamic="bmnk")
    plan = find_plan(stated, SAPPHIRE)
    assert plan.instruction.data in [i.name for i in SAPPHIRE.instructions]
    check_plan(stated, SAPPHIRE, plan)


@pytest.mark.parametrize("shape", [(64, 64, 64), (64, 64, 70), (64, 70, 64), (64, 1, 1)])
@pytest.mark.parametrize("dynamic", ["", "m"])
def test_what_lies_in_groups_is_read_in_place_or_left_to_vectors(
    shape: Shape, dynamic: str
) -> None:
    layouts = ("rows", "groups", "rows")
    stated = problem("bf16", shape, layouts=layouts, dynamic=dynamic)
    plan = find_plan(stated, SAPPHIRE)
    check_plan(stated, SAPPHIRE, plan)
    whole = shape[1] % 16 == shape[2] % 32 == 0
    assert plan.instruction.data.startswith("tile.") == whole
    assert not plan.packs("rhs")


def test_a_factor_that_lies_as_tiles_do_is_read_in_place() -> None:
    plans = {
        layout: find_plan(
            problem("bf16", (256, 256, 256), layouts=(layout, "rows", "rows")), SAPPHIRE
        )
        for layout in ("rows", "padded", "columns")
    }
    packed = {layout: plan.packs("lhs") for layout, plan in plans.items()}
    assert packed == {"rows": False, "padded": False, "columns": True}


@pytest.mark.parametrize("shape", [(250, 256, 256), (256, 256, 250)])
def test_a_factor_that_ends_within_a_tile_is_packed(shape: Shape) -> None:
    assert find_plan(problem("bf16", shape), SAPPHIRE).pack.data in ("lhs", "both")


def test_a_column_major_result_lays_tiles_along_its_columns() -> None:
    columns = ("columns", "columns", "columns")
    plan = find_plan(problem("u8s8", (512, 512, 512), layouts=columns), SAPPHIRE)
    assert (plan.lanes.data, plan.block) == ("m", (32, 32))
    assert plan.pack.data == "lhs"


# ------------------------------------------------------------------------------- written plans


def written(**entries: object) -> PlanAttr:
    plan = {
        "target": "sapphirerapids",
        "instruction": AMX_BF16.name,
        "block": (32, 32),
        "pack": "rhs",
        "resident": "rhs",
        **entries,
    }
    return PlanAttr.of(**plan)  # type: ignore[arg-type]


GROUPS = {"layouts": ("rows", "groups", "rows")}


@pytest.mark.parametrize(
    ("shape", "layout", "plan", "bound"),
    [
        ((96, 96, 64), {}, written(block=(48, 48)), r"block 48x48 needs 13 tiles, mr·nr \+ min"),
        ((96, 96, 64), {}, written(block=(16, 112)), "block 16x112 needs 9 tiles.* has 8"),
        ((96, 96, 64), {}, written(block=(32, 40)), "block 32x40 .* is no grid of tiles"),
        ((96, 96, 64), {}, written(block=(35, 16)), "tiles of one height of at most 16"),
        ((96, 96, 64), {}, written(lanes="k"), "lanes = k is no grid of tiles"),
        ((96, 96, 128), {}, written(k_block=48), "k_block is no multiple of the 32 steps of tile"),
        ((96, 96, 64), {}, written(pack="none"), "rhs does not lie as tiles do, .* pack = rhs"),
        ((96, 96, 70), {}, written(), "lhs does not lie as tiles do, or ends within one"),
        ((96, 96, 64), {}, written(m_block=40), "m_block = 40 is no multiple of tiles of 16"),
        ((96, 96, 64), {}, written(n_block=40), "n_block = 40 is no multiple of tiles of 16"),
        ((96, 96, 64), GROUPS, written(), "rhs lies in groups already, .* don't pack it"),
        ((96, 90, 64), GROUPS, written(pack="none"), "rhs lies in groups, which end within a tile"),
        ((96, 96, 70), GROUPS, written(pack="lhs"), "rhs lies in groups, which end within a tile"),
        (
            (96, 96, 64),
            {"layouts": ("rows", "rows", "columns")},
            written(),
            "lanes = n needs a result that is contiguous along n; write lanes = m",
        ),
        (
            (96, 96, 64),
            {"outer": "reduce"},
            written(k_block=32),
            "of several reductions none is cut for tiles: leave out k_block",
        ),
        ((96, 96, 64), {}, written(ahead="lhs"), "only a factor that lies in rows along"),
        ((96, 96, 64), {}, written(ahead="rhs", m_block=48), "write no block across the lanes"),
        ((96, 96, 64), {}, written(instruction="tile.s8s8x16x16x64"), "multiplies s8 and s8"),
    ],
)
def test_a_written_plan_is_refused_by_the_bound_it_breaks(
    shape: Shape, layout: dict[str, object], plan: PlanAttr, bound: str
) -> None:
    with pytest.raises(Unsupported, match=bound):
        check_plan(problem("bf16", shape, **layout), SAPPHIRE, plan)


def test_sums_of_a_cut_reduction_that_are_finished_need_blocks_to_rest_in() -> None:
    case = NarrowProduct(("bf16", "bf16"), 96, 96, 128, "bf16", from_zero=True)
    stated = problem_of(case)
    with pytest.raises(Unsupported, match="write m_block and n_block, or leave out k_block"):
        check_plan(stated, SAPPHIRE, written(k_block=64))
    check_plan(stated, SAPPHIRE, written(k_block=64, m_block=32, n_block=32))


@given(across=st.integers(1, 8), along=st.integers(1, 8))
def test_a_written_grid_is_accepted_exactly_if_its_registers_are_there(
    across: int, along: int
) -> None:
    stated = problem("bf16", (512, 512, 64))
    plan = written(block=(16 * across, 16 * along))
    try:
        check_plan(stated, SAPPHIRE, plan)
    except Unsupported as error:
        assert f"needs {Grid(across, along, 16, 16).registers} tiles" in str(error)
        assert (across, along) not in grids(AMX.registers)
    else:
        assert (across, along) in grids(AMX.registers)


def test_a_panel_is_packed_ahead_only_of_a_factor_that_lies_in_rows() -> None:
    """Its columns, declared before k, would be no rows of a panel."""
    in_rows, in_columns = ("rows", "rows", "rows"), ("columns", "columns", "columns")
    assert (
        find_plan(problem("bf16", (512, 512, 512), layouts=in_rows), SAPPHIRE).ahead.data == "rhs"
    )
    plan = find_plan(problem("bf16", (512, 512, 512), layouts=in_columns), SAPPHIRE)
    assert (plan.lanes.data, plan.ahead.data) == ("m", "none")
