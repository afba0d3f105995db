"""What `explain` says of products on tiles, held against the planner and the emulator."""

import re

import pytest

import nkdsl
from nkdsl.cli.main import main
from nkdsl.cli.reference import make_arguments
from nkdsl.emulation import amx
from nkdsl.planner.cost import bytes_per_cycle
from nkdsl.targets import get_target

SAPPHIRE, GRANITE = "sapphirerapids", "graniterapids"


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["explain", *arguments]) == 0
    return capsys.readouterr().out


def section(text: str, label: str) -> str:
    """The lines of a label, joined."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{label} "))
    end = next((i for i, line in enumerate(lines[start + 1 :], start + 1) if line[:1] != " "), None)
    return "\n".join(lines[start:end])


def written(tmp_path, text: str) -> str:
    path = tmp_path / "program.mlir"
    path.write_text(text)
    return str(path)


PRODUCT = """
func.func @f(%a: memref<{a}>, %b: memref<{b}>, %c: memref<{c}>) {{
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<{a}>, memref<{b}>){signs}
      outs(%c[m, n] : memref<{c}>){zero}
  return
}}
"""

EPILOGUE = """
func.func @f(%a: memref<48x{k}xbf16>, %b: memref<{k}x70xbf16>, %c: memref<48x70xbf16>) {{
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<48x{k}xbf16>, memref<{k}x70xbf16>)
      outs(%c[m, n] : memref<48x70xbf16>) from zero epilogue {{
  ^bb0(%sum: f32):
    %zero = arith.constant 0.0 : f32
    %relu = arith.maximumf %sum, %zero : f32
    %rounded = arith.truncf %relu : f32 to bf16
    nanokernel.yield %rounded : bf16
  }}
  return
}}
"""


# ---------------------------------------------------------------------------------- registers


@pytest.mark.parametrize("dtype", ["bf16", "f16", "s8", "u8s8"])
@pytest.mark.parametrize("shape", ["128x128x128", "33x47x65", "48x16x512"])
def test_the_tiles_that_a_plan_needs_are_there(shape, dtype, capsys):
    out = explained(capsys, shape, "--dtype", dtype, "--target", GRANITE)
    line = section(out, "tiles")
    match = re.search(
        r"(\d+)·(\d+) accumulators \+ (\d+) kept \+ 1 passing = (\d+) ≤ (\d+) of Intel AMX; "
        r"(\d+) are in use",
        line,
    )
    assert match
    across, along, kept, live, limit, used = map(int, match.groups())
    assert kept == min(across, along)
    assert live == across * along + kept + 1 <= used <= limit == 8


@pytest.mark.parametrize("shape", ["128x128x128", "33x47x65", "16x96x512"])
def test_the_map_names_each_accumulator_and_its_register_once(shape, capsys):
    out = explained(capsys, shape, "--dtype", "bf16", "--target", SAPPHIRE)
    across, along = map(int, re.findall(r"(\d+)·(\d+) acc", section(out, "tiles"))[0])
    cells = re.findall(r"c(\d)(\d)=t(\d)", section(out, "map"))
    assert [(int(r), int(c)) for r, c, _ in cells] == [
        (r, c) for r in range(across) for c in range(along)
    ]
    assert [int(register) for _, _, register in cells] == list(range(across * along))


def test_the_map_tells_the_shape_of_each_kind_of_tile(capsys):
    out = explained(capsys, "33x64x128", "--dtype", "s8", "--target", SAPPHIRE)
    tiles = section(out, "map")
    assert "A: 11×64" in tiles
    assert "B: 16×64" in tiles
    assert "sums: 11×64" in tiles


def test_with_columns_along_the_lanes_the_factors_change_places(tmp_path, capsys):
    c = "100x64xi32, strided<[1, 100]>"
    types = {"a": "100x128xi8", "b": "128x64xi8", "c": c}
    path = written(tmp_path, PRODUCT.format(**types, signs=" unsigned lhs", zero=""))
    out = explained(capsys, path, "--target", SAPPHIRE)
    assert "lanes along m, tile.u8s8x16x16x64 (tdpbsud)" in section(out, "plan")
    assert "as n by m" in section(out, "map")
    assert "A: packed into panels of groups" in section(out, "groups")
    assert "B: packed in rows along k" in section(out, "groups")


# --------------------------------------------------------------------------------------- step


@pytest.mark.parametrize("shape", ["128x128x128", "4x128x512", "33x47x65", "127x255x511"])
def test_the_bound_that_is_marked_is_the_largest(shape, capsys):
    out = explained(capsys, shape, "--dtype", "bf16", "--target", SAPPHIRE)
    lines = re.findall(r"^ +(\*?) +([A-Za-z ]+?) +(\d+\.\d+)   ", section(out, "step"), re.M)
    assert len(lines) == 5
    assert max(lines, key=lambda line: float(line[2]))[0] == "*"


@pytest.mark.parametrize("shape", ["64x64x64", "64x64x4096", "512x64x512", "512x512x512"])
def test_the_caches_that_are_named_explain_the_bandwidth(shape, capsys):
    """A tile's row is 64 bytes, of which each factor's come from the level that it waits in."""
    out = explained(capsys, shape, "--dtype", "bf16", "--target", GRANITE)
    step = section(out, "step")
    found = re.findall(r"(\d+) rows of tiles of A \+ (\d+) of B", step)[0]
    rows = dict(zip("AB", map(int, found), strict=True))
    shown, words = re.findall(r"cache bandwidth +(\d+\.\d+) +(.*)", step)[0]
    cycles = sum(
        64 * rows[factor] / bytes_per_cycle(get_target(GRANITE), int(level) - 1)
        for factor, level in re.findall(r"([AB]) comes from L(\d)", words)
    )
    assert float(shown) == pytest.approx(cycles, abs=0.01)


def test_a_low_tile_takes_the_multiplier_for_less_long(capsys):
    out = explained(capsys, "33x64x128", "--dtype", "bf16", "--target", SAPPHIRE)
    assert "multiplications of 11 cycles" in section(out, "step")


# -------------------------------------------------------------------------------------- edges


@pytest.mark.parametrize("dtype", ["bf16", "u8s8"])
@pytest.mark.parametrize("shape", ["127x255x511", "64x64x64:tn", "33x47x65:nt", "17x1000x100"])
def test_the_splits_add_up_to_the_sizes(shape, dtype, capsys):
    out = explained(capsys, shape, "--dtype", dtype, "--target", SAPPHIRE)
    m, n, _ = (int(size) for size in re.findall(r"\d+", shape)[:3])
    for label, size in (("rows", m), ("columns", n)):
        terms, total = section(out, label).removeprefix(label).partition(";")[0].split("=")
        added = sum(eval(term.replace("×", "*")) for term in terms.split("+"))
        assert int(total) == size == added


def test_rows_are_spread_evenly_over_tiles(capsys):
    out = explained(capsys, "33x64x128", "--dtype", "bf16", "--target", SAPPHIRE)
    assert "33; 3 tiles of 11" in section(out, "rows")


def test_what_ends_within_a_tile_is_filled_up_and_computed_apart(capsys):
    out = explained(capsys, "127x255x511", "--dtype", "bf16", "--target", SAPPHIRE)
    assert "8 tiles of 16, 1 row beyond the end" in section(out, "rows")
    assert "16 tiles of 16, 1 column beyond the end" in section(out, "columns")
    assert "511 in 16 steps of 32, the last one filled up with 1 zero" in section(out, "k")
    edges = section(out, "edges")
    assert "A and B packed, in whole tiles" in edges
    assert "blocks of 31 rows or 31 columns are computed in the workspace (4 KiB)" in edges


def test_whole_tiles_are_loaded_and_stored_where_they_lie(capsys):
    out = explained(capsys, "256x256x256", "--dtype", "bf16", "--target", SAPPHIRE)
    assert "A: read in place" in section(out, "groups")
    assert "blocks are whole tiles, loaded from and stored to C" in section(out, "edges")


def test_a_factor_that_lies_in_groups_is_not_packed(tmp_path, capsys):
    path = written(
        tmp_path,
        """
        func.func @f(%a: memref<64x128xbf16>, %b: memref<64x64x2xbf16>, %c: memref<64x64xf32>) {
          nanokernel.gemm ins(%a[m, k], %b[k floordiv 2, n, k mod 2]
              : memref<64x128xbf16>, memref<64x64x2xbf16>) outs(%c[m, n] : memref<64x64xf32>)
          return
        }""",
    )
    out = explained(capsys, path, "--target", SAPPHIRE)
    assert "B: lies in groups, read in place" in section(out, "groups")
    assert "no factor is packed" in section(out, "edges")
    assert section(out, "packing").startswith("packing   none")


def test_of_sizes_known_at_run_time_the_rule_is_told(tmp_path, capsys):
    types = {"a": "?x?xbf16", "b": "?x?xbf16", "c": "?x?xf32"}
    path = written(tmp_path, PRODUCT.format(**types, signs="", zero=""))
    out = explained(capsys, path, "--target", SAPPHIRE)
    assert "sizes known at run time" in section(out, "product")
    assert "tiles of 16, whatever the size at run time" in section(out, "rows")
    assert "blocks that end within a tile are computed in the workspace" in section(out, "edges")
    assert "the best on average over sizes from 24 to 2048" in section(out, "predicted")


# -------------------------------------------------------------------------- results, epilogues


def test_an_epilogue_makes_results_of_each_block_in_the_workspace(tmp_path, capsys):
    out = explained(capsys, written(tmp_path, EPILOGUE.format(k=64)), "--target", SAPPHIRE)
    assert "bf16·bf16 added up in f32, stored as bf16" in out
    assert "on each block of sums in the workspace" in section(out, "epilogue")
    assert "maximumf, truncf" in section(out, "epilogue")
    assert "each block is computed in the workspace" in section(out, "edges")


def test_sums_of_a_reduction_in_parts_rest_in_the_workspace(tmp_path, capsys):
    plan = """#nanokernel.plan<target = "sapphirerapids", instruction = "tile.bf16x16x16x32",
        block = 48x16, k_unroll = 1, k_block = 256, resident = rhs, pack = rhs, m_block = 48,
        n_block = 80>"""
    text = EPILOGUE.format(k=1024).replace("from zero", f"from zero plan {plan}")
    out = explained(capsys, written(tmp_path, text), "--target", SAPPHIRE)
    assert "on sums in the workspace, after their last part of k" in section(out, "epilogue")
    assert "a block of 48x70 in f32, 13.1 KiB of workspace, updated 4 times" in section(out, "sums")
    loops = [line.strip() for line in section(out, "loops").splitlines()]
    assert loops[1:3] == ["m: all at once", "k: at most 256 at a time"]


def test_threads_are_told(capsys):
    arguments = ("128x128x128", "--dtype", "bf16", "--target", SAPPHIRE, "--threads", "2")
    out = explained(capsys, *arguments)
    assert section(out, "threads").startswith("threads   2, each with its own part")
    assert "on one thread" in section(out, "counts")


# ------------------------------------------------------------------------------------- counts


@pytest.mark.skipif(amx.obstacle() is not None, reason=str(amx.obstacle()))
@pytest.mark.parametrize("shape", [(48, 70, 100), (64, 64, 256), (33, 16, 64)])
def test_the_counts_are_those_that_are_executed(shape, tmp_path, capsys):
    m, n, k = shape
    types = {"a": f"{m}x{k}xbf16", "b": f"{k}x{n}xbf16", "c": f"{m}x{n}xf32"}
    source = PRODUCT.format(**types, signs="", zero=" from zero")
    kernel = nkdsl.compile(source, target=SAPPHIRE, emulate=True)
    with amx.emulated() as machine:
        kernel(*make_arguments(kernel.signature, 0))
    out = explained(capsys, written(tmp_path, source), "--target", SAPPHIRE)
    words = r"(\d+) (?:multiplications?$|loads of [AB]|of [AB]|loads of sums|stores)"
    found = re.findall(words, section(out, "counts"), re.M)
    multiplications, of_a, of_b, of_sums, stores = map(int, found)
    assert sum(machine.counts.multiplies.values()) == multiplications
    assert machine.counts.tileloads == of_a + of_b + of_sums
    assert machine.counts.tilestores == stores


# ------------------------------------------------------------------------------------- others


def test_the_best_plan_of_vectors_is_told_beside_one_of_tiles(capsys):
    out = explained(capsys, "128x128x128", "--dtype", "bf16", "--target", SAPPHIRE)
    others, vectors = section(out, "others"), section(out, "vectors")
    assert "fma." not in others
    assert "dot." not in others
    assert re.search(r"(fma|dot)\.bf16x16.*: \d+\s+cycles, \d+\.\d times as long", vectors, re.S)


def test_beside_a_plan_of_vectors_tiles_are_said_to_have_been_considered(tmp_path, capsys):
    plan = """ plan #nanokernel.plan<target = "sapphirerapids", instruction = "dot.bf16x16",
        block = 2x64, k_unroll = 4, resident = lhs>"""
    types = {"a": "2x64xbf16", "b": "64x256xbf16", "c": "2x256xf32"}
    path = written(tmp_path, PRODUCT.format(**types, signs="", zero=plan))
    out = explained(capsys, path, "--target", SAPPHIRE)
    assert "dot.bf16x16" in section(out, "plan")
    assert "fma.bf16x16, lanes along" in section(out, "others")  # named where it is another one
    tiles = " ".join(section(out, "tiles").split())
    assert tiles.startswith("tiles considered: 2x")
    assert re.search(r"of tile\.bf16x16x16x32, .*: \d+ cycles, .*, \d+\.\d% of their peak", tiles)


def test_what_is_chosen_is_predicted_to_take_less_than_the_other_kind(capsys):
    """Whichever that is: the planner's costs decide for each product."""
    for shape in ("1x256x256", "4x256x256", "64x64x64"):
        out = explained(capsys, shape, "--dtype", "u8s8", "--target", SAPPHIRE)
        tiled = "tile." in section(out, "plan")
        other = " ".join(section(out, "vectors" if tiled else "tiles").split())
        assert re.search(r"cycles, (\+|\d)", other)


def test_no_plan_shown_beside_the_chosen_one_is_predicted_to_be_faster(capsys):
    for shape in ("127x255x511", "4x128x512"):
        out = explained(capsys, shape, "--dtype", "s8", "--target", SAPPHIRE)
        assert not re.findall(r"cycles, -\d", out)


@pytest.mark.parametrize(("dtype", "target"), [("f32", GRANITE), ("f16", SAPPHIRE)])
def test_types_that_no_tile_multiplies_are_named(dtype, target, capsys):
    out = explained(capsys, "64x64x64", "--dtype", dtype, "--target", target)
    assert f"none: Intel AMX of this target does not multiply {dtype}·{dtype}" in out


def test_a_layout_that_tiles_cannot_read_is_told(tmp_path, capsys):
    path = written(
        tmp_path,
        """
        func.func @f(%a: memref<64x120xbf16>, %b: memref<60x64x2xbf16>, %c: memref<64x64xf32>) {
          nanokernel.gemm ins(%a[m, k], %b[k floordiv 2, n, k mod 2]
              : memref<64x120xbf16>, memref<60x64x2xbf16>) outs(%c[m, n] : memref<64x64xf32>)
          return
        }""",
    )
    out = explained(capsys, path, "--target", SAPPHIRE)
    assert "none: no block of tile.bf16x16x16x32 fits the operands' layouts" in out


def test_targets_without_tiles_are_not_bothered_with_them(capsys):
    out = explained(capsys, "64x64x64", "--dtype", "bf16", "--target", "znver4")
    assert "tiles" not in out


# ------------------------------------------------------------------------------------ command


def test_one_name_of_a_type_does_for_both_factors(capsys):
    arguments = ("64x64x64", "--target", GRANITE, "--dtype")
    assert explained(capsys, *arguments, "s8") == explained(capsys, *arguments, "s8s8")


def test_a_kernel_that_cannot_run_here_is_explained_and_not_measured(capsys, monkeypatch):
    monkeypatch.setattr("nkdsl.cli.run.can_run", lambda target: "it is somewhere else")
    arguments = ("64x64x64", "--dtype", "bf16", "--target", SAPPHIRE, "--measure")
    out = explained(capsys, *arguments)
    assert out.endswith("measured  not on this machine: it is somewhere else\n")


@pytest.mark.parametrize("target", [SAPPHIRE, GRANITE, "armv9-sme"])
@pytest.mark.parametrize("dtype", ["bf16", "s8", "u8s8"])
def test_no_line_is_too_wide_for_a_terminal(dtype, target, capsys):
    for shape in ("127x255x511", "1x1000x1000", "256x256x64:tt", "64x64x64b16"):
        if dtype == "s8" and shape == "64x64x64b16" and target == "armv9-sme":
            continue
        out = explained(capsys, shape, "--dtype", dtype, "--target", target)
        assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("dtype", ["f32", "bf16", "u8s8"])
def test_outer_products_are_explained_for_the_vectors_that_plans_assume(dtype, capsys):
    out = explained(capsys, "256x256x256", "--dtype", dtype, "--target", "armv9-sme")
    assert "2·2 accumulators = 4 ≤ 4 of Arm SME" in section(out, "tiles")
    assert "with vectors of 512 bits" in section(out, "step")
    assert re.findall(r"c\d\d=za(\d)", section(out, "map")) == list("0123")
    share = re.search(r"(\d+\.\d)% of peak", section(out, "predicted"))
    assert share
    assert 0 < float(share[1]) <= 100
