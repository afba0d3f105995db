"""What `explain` says, held against what the planner knows."""

import re

import pytest

import nkdsl
from nkdsl.cli.main import main


def explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["explain", *arguments]) == 0
    return capsys.readouterr().out


def section(text: str, label: str) -> str:
    """The lines of a label, joined."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(label))
    end = next((i for i, line in enumerate(lines[start + 1 :], start + 1) if line[:1] != " "), None)
    return "\n".join(lines[start:end])


@pytest.mark.parametrize("target", ["x86-64-v3", "skylake-avx512", "znver5"])
@pytest.mark.parametrize("shape", ["127x255x511", "64x64x64:tn", "33x47x65:nt", "1x1000x100"])
def test_the_splits_add_up_to_the_sizes(shape, target, capsys):
    out = explained([shape, "--target", target], capsys)
    m, n, _ = (int(size) for size in re.findall(r"\d+", shape)[:3])
    for label, size in (("rows", m), ("columns", n)):
        terms, total = section(out, label).removeprefix(label).split("=")
        terms = re.sub(r"\(.*?\)", "", terms)
        added = sum(eval(term.replace("×", "*")) for term in terms.split("+"))
        assert int(total) == size == added


@pytest.mark.parametrize("target", ["x86-64-v3", "znver5"])
def test_the_register_inequality_holds_in_the_numbers_shown(target, capsys):
    line = section(explained(["96x96x96", "--target", target], capsys), "registers")
    match = re.search(r"(\d+)·(\d+) accumulators \+ (\d+) kept \+ 1 passing = (\d+) ≤ (\d+)", line)
    assert match
    rows, columns, kept, live, limit = map(int, match.groups())
    assert kept == min(rows, columns)
    assert live == rows * columns + kept + 1 <= limit


def test_the_map_shows_each_accumulator_once(capsys):
    out = explained(["96x96x96", "--target", "znver5"], capsys)
    match = re.search(r"(\d+)·(\d+) accumulators", out)
    assert match
    count = int(match[1]) * int(match[2])
    names = re.findall(r"\bv(\d+)\b", section(out, "map"))
    assert all(names.count(str(number)) == 1 for number in range(count))


def test_the_bound_that_is_marked_is_the_largest(capsys):
    out = explained(["1x1000x1000", "--target", "znver5"], capsys)
    lines = re.findall(r"^ +(\*?) +([A-Za-z ]+?) +(\d+\.\d+)   ", section(out, "step"), re.M)
    assert len(lines) == 5
    assert max(lines, key=lambda line: float(line[2]))[0] == "*"


def test_what_the_next_block_hides_is_told_where_the_table_knows_it(capsys):
    short = explained(["64x64x32", "--target", "znver4"], capsys)
    assert "of 16 that a thread may buffer: 100% hidden" in section(short, "stores")
    assert "by vpbroadcastd" in section(short, "broadcast")
    long = explained(["1024x1024x1024", "--target", "znver4"], capsys)
    assert ": 0% hidden" in section(long, "stores")
    assert "\nbroadcast " not in long
    assert "\nstores " not in explained(["64x64x32", "--target", "znver5"], capsys)


def test_no_plan_shown_beside_the_chosen_one_is_predicted_to_be_faster(capsys):
    out = explained(["127x255x511", "--target", "skylake-avx512"], capsys)
    others = re.findall(r"cycles, ([+-]\d+\.\d+)%", section(out, "others"))
    assert others
    assert all(float(other) >= 0 for other in others)


def test_a_packed_factor_is_explained(capsys):
    out = explained(["128x192x256", "--rhs-transposed", "--target", "znver5"], capsys)
    assert "a panel of B at a time" in section(out, "packing")


def test_a_blocked_reduction_is_explained(tmp_path, capsys):
    path = tmp_path / "planned.mlir"
    path.write_text("""
      func.func @f(%a: memref<8x1000xf32>, %b: memref<1000x48xf32>, %c: memref<8x48xf32>) {
        nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<8x1000xf32>, memref<1000x48xf32>)
            outs(%c[m, n] : memref<8x48xf32>)
            plan #nanokernel.plan<target = "znver5", instruction = "fma.f32x16", block = 8x48,
                                  k_unroll = 4, k_block = 256>
        return
      }""")
    loops = section(explained([str(path), "--target", "znver5"], capsys), "loops")
    assert "k: chunks of at most 256; the sums rest in C in between" in loops
    assert "k: 250 steps = 62 turns of 4 and 2 more" in loops


def test_cache_blocks_tell_what_they_ask_for_ahead(capsys):
    out = explained(["1024x1024x1024", "--target", "znver4"], capsys)
    assert "the next block's part of A, into L2" in section(out, "prefetch")


def test_the_options_change_the_product(capsys):
    out = explained(["8x16x24", "--dtype=f64", "--no-accumulate", "--lhs-transposed"], capsys)
    assert "C = A·B" in out
    assert re.search(r"^ +f64, ", out, re.M)
    assert re.search(r"^A +strides in elements: k 8, m 1$", out, re.M)


@pytest.mark.parametrize("target", ["x86-64-v3", "znver4", "neoverse-v2"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "u8s8", "s8s8"])
def test_no_line_is_too_wide_for_a_terminal(dtype, target, capsys):
    for shape in ("127x255x511", "1x1000x1000", "64x64x64b16"):
        out = explained([shape, "--dtype", dtype, "--target", target], capsys)
        assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("dtype", "size", "instruction"),
    [("bf16", 2, "dot.bf16x16"), ("u8s8", 4, "dot.u8s8x16"), ("s8s8", 4, "dot.s8s8x16")],
)
def test_groups_of_the_reduction_are_explained(dtype, size, instruction, capsys):
    out = explained(["1024x1024x1023", "--dtype", dtype, "--target", "znver4"], capsys)
    assert instruction in section(out, "plan")
    groups = section(out, "groups")
    assert f"of {size} k in each lane (VNNI): k = 1023 is {-(-1023 // size)} groups" in groups
    assert "the last one filled up with 1 zero" in groups
    assert "B: packed into panels of groups" in groups


def test_flipped_signs_are_explained(capsys):
    out = explained(["256x256x256", "--dtype", "s8s8", "--target", "znver4"], capsys)
    assert "of A are flipped, s8 to u8" in section(out, "signs")
    signs = section(out, "signs")
    out = explained(["256x256x256", "--dtype", "u8s8", "--target", "neoverse-n1"], capsys)
    assert "of A are flipped, u8 to s8" in section(out, "signs")
    assert "sdot takes s8·s8" in section(out, "signs")
    assert "sums start at -128 times those of B over k, which are added up when a pan" in signs
    assert re.search(r"from the panel: \d+ cycles in all, \d\.\d% of the time", signs)
    for dtype in ("u8s8", "bf16"):
        assert "signs" not in explained(["64x64x64", "--dtype", dtype, "--target=znver4"], capsys)


def test_where_sums_that_make_up_for_signs_come_from_is_explained(tmp_path, capsys):
    types = "memref<32x256xi8>, memref<64x128x4xi8>"
    product = """func.func @product(%a: memref<32x256xi8>, %b: memref<64x128x4xi8>,
        %c: memref<32x128xi32>, %s: memref<128xi32>) {{
      nanokernel.gemm ins(%a[m, k], %b[k floordiv 4, n, k mod 4] : {types})
          outs(%c[m, n] : memref<32x128xi32>) {start}
      return
    }}"""
    found = []
    for number, start in enumerate(("", "start(%s[n] : memref<128xi32>)")):
        file = tmp_path / f"{number}.mlir"
        file.write_text(product.format(types=types, start=start))
        out = explained([str(file), "--target", "znver4"], capsys)
        found.append(section(out, "signs"))
    assert "of B over k, which are added up in place" in found[0]
    assert re.search(r"a block right before it is used: \d+ cycles in all, \d", found[0])
    assert "of B over k, which are given" in found[1]
    assert "cycles" not in found[1]


def test_factors_that_are_extended_are_explained(capsys):
    out = explained(["64x64x64", "--dtype", "f16", "--target", "x86-64-v3"], capsys)
    assert "f16·f16 added up in f32" in out
    assert "extended to f32" in section(out, "factors")
    out = explained(["64x64x64", "--dtype", "u8s8", "--target", "x86-64-v3"], capsys)
    assert "extended to i16" in section(out, "factors")
    assert "1 product = " in section(out, "registers")


def test_steps_are_counted_in_groups(capsys):
    out = explained(["24x32x63", "--dtype", "u8s8", "--target", "znver4"], capsys)
    assert "k: 16 steps of 4 elements" in section(out, "loops")


EPILOGUE = """
func.func @f(%a: memref<48x{k}xbf16>, %b: memref<{k}x64xbf16>, %c: memref<48x64xbf16>) {{
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<48x{k}xbf16>, memref<{k}x64xbf16>)
      outs(%c[m, n] : memref<48x64xbf16>) from zero{plan} epilogue {{
  ^bb0(%sum: f32):
    %zero = arith.constant 0.0 : f32
    %relu = arith.maximumf %sum, %zero : f32
    %rounded = arith.truncf %relu : f32 to bf16
    nanokernel.yield %rounded : bf16
  }}
  return
}}
"""


def test_an_epilogue_runs_while_blocks_are_stored(tmp_path, capsys):
    path = tmp_path / "whole.mlir"
    path.write_text(EPILOGUE.format(k=100, plan=""))
    out = explained([str(path), "--target", "znver4"], capsys)
    assert "bf16·bf16 added up in f32, stored as bf16" in out
    assert "on registers, while a block is stored" in section(out, "epilogue")
    assert "maximumf, truncf" in section(out, "epilogue")
    assert "sums  " not in out


def test_sums_of_a_reduction_in_parts_rest_in_the_workspace(tmp_path, capsys):
    path = tmp_path / "cut.mlir"
    plan = """ plan #nanokernel.plan<target = "znver4", instruction = "dot.bf16x16", block = 6x64,
        k_unroll = 4, k_block = 256, resident = rhs, pack = rhs, m_block = 48, n_block = 64>"""
    path.write_text(EPILOGUE.format(k=1024, plan=plan))
    out = explained([str(path), "--target", "znver4"], capsys)
    assert "in a loop over sums in the workspace" in section(out, "epilogue")
    assert "a block of 48x64 in f32, 12 KiB of workspace, updated 4 times" in section(out, "sums")
    assert "written once" in section(out, "result")


def test_an_empty_product_is_explained_as_such(tmp_path, capsys):
    path = tmp_path / "empty.mlir"
    path.write_text("""
      func.func @f(%a: memref<0x4xf32>, %b: memref<4x8xf32>, %c: memref<0x8xf32>) {
        linalg.matmul ins(%a, %b : memref<0x4xf32>, memref<4x8xf32>) outs(%c : memref<0x8xf32>)
        return
      }""")
    assert "nothing to compute" in explained([str(path), "--target", "znver5"], capsys)


def test_a_kernel_explains_itself_as_the_command_does(capsys, tmp_path):
    source = """
      func.func @f(%a: memref<9x4xf32>, %b: memref<4x8xf32>, %c: memref<9x8xf32>) {
        linalg.matmul ins(%a, %b : memref<9x4xf32>, memref<4x8xf32>) outs(%c : memref<9x8xf32>)
        return
      }"""
    path = tmp_path / "f.mlir"
    path.write_text(source)
    kernel = nkdsl.compile(source, target="x86-64-v3")
    assert kernel.explain() == explained([str(path), "--target", "x86-64-v3"], capsys)
