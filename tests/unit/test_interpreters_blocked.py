"""Sizes known only at run time: tails, scales, views, loops and calls, rule by rule."""

from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import MemRefType
from xdsl.utils.exceptions import InterpretationError

from nkdsl.errors import InvalidInput
from nkdsl.interpreters import Argument, Buffer, ExecutionError, native_arguments, run
from tests.unit.test_interpreters import block, function, numbers, parse, random, rounded_once

f32, f64 = np.float32, np.float64


def execute(arguments: str, body: str, *values: Argument) -> None:
    run(function(arguments, body), "f", values)


def memref_types(*texts: str) -> list[MemRefType]:
    arguments = ", ".join(f"%a{i}: {text}" for i, text in enumerate(texts))
    (func,) = function(arguments, "").body.block.ops
    return [value.type for value in func.regions[0].block.args]  # type: ignore[misc]


# ------------------------------------------------------------------------- nanokernel, whole

GEMM = """nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<3x5xf64>, memref<5x4xf64>)
                          outs(%c[m, n] : memref<3x4xf64>)"""
GEMM_ARGUMENTS = "%a: memref<3x5xf64>, %b: memref<5x4xf64>, %c: memref<3x4xf64>"


@pytest.mark.parametrize("first", [True, False])
def test_a_flag_decides_whether_a_product_starts_at_zero(first: bool) -> None:
    a, b, c = numbers(3, 5, dtype=f64), numbers(5, 4, dtype=f64), numbers(3, 4, dtype=f64)
    expected = a @ b + (0 if first else c)
    if first:
        c[...] = np.nan
    execute(GEMM_ARGUMENTS + ", %x: i1", GEMM + " from zero if %x", a, b, c, first)
    assert np.array_equal(c, expected)


def test_scale_rounds_the_sum_and_then_the_update_once() -> None:
    a, b = random(3, 5, dtype=f64), random(5, 4, dtype=f64, seed=1)
    c = random(3, 4, dtype=f64, seed=2)
    sums = np.zeros((3, 4))
    for i, j, k in np.ndindex(3, 4, 5):
        sums[i, j] = rounded_once(sums[i, j], a[i, k], b[k, j])
    expected = [rounded_once(0.7 * x, 0.3, y) for x, y in zip(sums.flat, c.flat, strict=True)]
    arguments = GEMM_ARGUMENTS + ", %alpha: f64, %beta: f64"
    execute(arguments, GEMM + " scale %alpha, %beta", a, b, c, 0.7, 0.3)
    assert c.flatten().tolist() == expected


@pytest.mark.parametrize("start", ["from zero", "from zero if %first"])
def test_scale_from_zero_never_reads_the_result(start: str) -> None:
    a, b, c = numbers(3, 5, dtype=f64), numbers(5, 4, dtype=f64), np.full((3, 4), np.nan)
    arguments = GEMM_ARGUMENTS + ", %alpha: f64, %beta: f64, %first: i1"
    execute(arguments, f"{GEMM} {start} scale %alpha, %beta", a, b, c, 2.0, 3.0, True)
    assert np.array_equal(c, 2 * (a @ b))


def test_a_factor_of_zero_does_read_the_result() -> None:
    a, b, c = numbers(3, 5, dtype=f64), numbers(5, 4, dtype=f64), np.full((3, 4), np.nan)
    arguments = GEMM_ARGUMENTS + ", %alpha: f64, %beta: f64"
    execute(arguments, GEMM + " scale %alpha, %beta", a, b, c, 2.0, 0.0)
    assert np.isnan(c).all()


def test_an_epilogue_follows_the_scale() -> None:
    body = (
        GEMM
        + """ from zero if %first scale %alpha, %beta epilogue(%bias[n] : memref<4xf64>) {
      ^bb0(%s: f64, %x: f64):
        %t = arith.addf %s, %x : f64
        nanokernel.yield %t : f64
      }"""
    )
    a, b, c = numbers(3, 5, dtype=f64), numbers(5, 4, dtype=f64), numbers(3, 4, dtype=f64)
    bias = numbers(4, dtype=f64)
    expected = 3 * c + 2 * (a @ b) + bias
    arguments = GEMM_ARGUMENTS + ", %bias: memref<4xf64>, %first: i1, %alpha: f64, %beta: f64"
    execute(arguments, body, a, b, c, bias, False, 2.0, 3.0)
    assert np.array_equal(c, expected)


# ---------------------------------------------------------------------- nanokernel, composed


def step_and_store(lanes: str, store_tail: str = "tail %n") -> str:
    type_ = block(4, 4, lanes)
    return f"""
      %z = nanokernel.zero : {type_}
      %s = nanokernel.step %z, %a[m: %c0, k: %c0], %b[k: %c0, n: %c0] depth 3 using "fma.f32x16"
        tail %n : memref<?x3xf32>, memref<3x?xf32>, {type_}
      %t = nanokernel.step %s, %a[m: %c0, k: %c0], %b[k: %c0, n: %c0] depth 3 using "fma.f32x16"
        tail %n : memref<?x3xf32>, memref<3x?xf32>, {type_}
      nanokernel.store %t, %c[m: %c0, n: %c0] {store_tail} : memref<?x?xf32>, {type_}"""


TAIL_ARGUMENTS = "%a: memref<?x3xf32>, %b: memref<3x?xf32>, %c: memref<?x?xf32>, %n: index"


@pytest.mark.parametrize("tail", [1, 3, 4])
@pytest.mark.parametrize("lanes", ["m", "n"])
def test_beyond_a_tail_nothing_is_read_or_written(lanes: str, tail: int) -> None:
    rows, columns = (tail, 4) if lanes == "m" else (4, tail)
    a, b, c = numbers(rows, 3), numbers(3, columns), np.full((rows, columns), np.nan, f32)
    execute(TAIL_ARGUMENTS, step_and_store(lanes), a, b, c, tail)
    assert np.array_equal(c, 2 * (a @ b))


@pytest.mark.parametrize("lanes", ["m", "n"])
def test_sums_beyond_a_tail_are_poisoned(lanes: str) -> None:
    a, b, c = numbers(4, 3), numbers(3, 4), np.zeros((4, 4), f32)
    execute(TAIL_ARGUMENTS, step_and_store(lanes, store_tail=""), a, b, c, 3)
    exists = (slice(3), slice(4)) if lanes == "m" else (slice(4), slice(3))
    assert np.array_equal(c[exists], 2 * (a @ b)[exists])
    assert np.isnan(c).sum() == 4


@pytest.mark.parametrize("tail", [0, 5, -1])
def test_a_tail_lies_inside_of_the_block(tail: int) -> None:
    arrays = numbers(4, 3), numbers(3, 4), np.zeros((4, 4), f32)
    with pytest.raises(ExecutionError, match=f"a tail is 1 to 4 elements of .*, not {tail}"):
        execute(TAIL_ARGUMENTS, step_and_store("n"), *arrays, tail)


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        ("scale %alpha", lambda old, new: 2 * new),
        ("scale %alpha accumulate", lambda old, new: old + 2 * new),
        ("scale %alpha, %beta", lambda old, new: 3 * old + 2 * new),
        ("accumulate", lambda old, new: old + new),
        ("", lambda old, new: new),
    ],
)
@pytest.mark.parametrize("tail", ["", "tail %c2"])
def test_a_store_may_scale_what_it_stores_and_what_is_there(
    update: str, expected: Any, tail: str
) -> None:
    type_ = block(2, 3, "n")
    body = f"""
      %x = nanokernel.load %a[m: %c0, n: %c0] : memref<2x3xf32>, {type_}
      nanokernel.store %x, %c[m: %c0, n: %c0] {tail} {update} : memref<2x3xf32>, {type_}"""
    a, c = 10 * numbers(2, 3), numbers(2, 3)
    wanted = c.copy()
    written = slice(2 if tail else 3)
    wanted[:, written] = expected(c, a)[:, written]
    execute("%a: memref<2x3xf32>, %c: memref<2x3xf32>, %alpha: f32, %beta: f32", body, a, c, 2, 3)
    assert np.array_equal(c, wanted)


def test_a_store_rounds_the_product_and_then_the_update_once() -> None:
    type_ = block(1, 4, "n", "f64")
    body = f"""
      %x = nanokernel.load %a[n: %c0] : memref<4xf64>, {type_}
      nanokernel.store %x, %c[n: %c0] scale %alpha, %beta : memref<4xf64>, {type_}"""
    a, c = random(4, dtype=f64), random(4, dtype=f64, seed=1)
    expected = [rounded_once(0.7 * x, 0.3, y) for x, y in zip(a, c, strict=True)]
    execute("%a: memref<4xf64>, %c: memref<4xf64>, %alpha: f64, %beta: f64", body, a, c, 0.7, 0.3)
    assert c.tolist() == expected


def test_partial_sums_are_added_up_before_they_are_scaled() -> None:
    type_ = block(1, 1, "k")
    body = f"""
      %z = nanokernel.zero : {type_}
      %s = nanokernel.step %z, %a[k: %c0], %a[k: %c0] depth 20 using "fma.f32x16"
        : memref<20xf32>, memref<20xf32>, {type_}
      nanokernel.store %s, %c[%c0] scale %alpha, %beta : memref<1xf32>, {type_}"""
    c = np.array([5], f32)
    arguments = "%a: memref<20xf32>, %c: memref<1xf32>, %alpha: f32, %beta: f32"
    execute(arguments, body, np.ones(20, f32), c, 0.5, 2.0)
    assert c.tolist() == [20]


PACK_ARGUMENTS = "%a: memref<5x5xf32>, %p: memref<?x4xf32>, %d: index, %w: index"


@pytest.mark.parametrize(
    ("tags", "transposed"), [("k: %c1, n: %c0", False), ("m: %c1, k: %c0", True)]
)
@pytest.mark.parametrize(("depth", "width"), [(3, 2), (4, 4), (0, 3), (2, 0)])
def test_pack_leaves_the_rows_beyond_its_depth_alone(
    tags: str, transposed: bool, depth: int, width: int
) -> None:
    body = f"nanokernel.pack %a[{tags}] extents %d x %w into %p : memref<5x5xf32>, memref<?x4xf32>"
    a, panel = numbers(5, 5), np.zeros((6, 4), f32)
    execute(PACK_ARGUMENTS, body, a, panel, depth, width)
    source = a[1 : 1 + width, :depth].T if transposed else a[1 : 1 + depth, :width]
    assert np.array_equal(panel[:depth, :width], source)
    assert np.isnan(panel[:depth, width:]).all()
    assert not panel[depth:].any()


@pytest.mark.parametrize("tags", ["k: %c1, n: %c0", "m: %c1, k: %c0"])
def test_a_panel_may_have_the_reduction_along_its_lanes(tags: str) -> None:
    body = f"""nanokernel.pack %a[{tags}] extents %d x %w into %p lanes k
      : memref<5x5xf32>, memref<?x4xf32>"""
    a, panel = numbers(5, 5), np.zeros((4, 4), f32)
    execute(PACK_ARGUMENTS, body, a, panel, 2, 3)
    source = a[1:4, 0:2].T if tags.startswith("k") else a[1:3, 0:3]
    assert np.array_equal(panel[:2, :3], source)
    assert np.isnan(panel[:2, 3:]).all()
    assert not panel[2:].any()


@pytest.mark.parametrize(
    ("depth", "width", "message"),
    [
        (3, 5, "can't hold 3x5"),
        (-1, 2, "can't hold -1x2"),
        (3, -1, "can't hold 3x-1"),
        (4, 2, "a tile of 4 × 4 at .* leaves a memref of shape"),
        (5, 2, "a tile of 5 × 2 at .* leaves a memref of shape"),
    ],
)
def test_pack_stays_inside_of_source_and_panel(depth: int, width: int, message: str) -> None:
    body = """nanokernel.pack %a[k: %c1, n: %c0] extents %d x %w into %p
      : memref<5x5xf32>, memref<?x4xf32>"""
    with pytest.raises(ExecutionError, match=message):
        execute(PACK_ARGUMENTS, body, numbers(5, 5), np.zeros((3, 4), f32), depth, width)


MICROKERNEL = """
  func.func private @double(%x: memref<?xf32>, %first: i1) {{
    %zero = arith.constant 0 : index
    %old = memref.load %x[%zero] : memref<?xf32>
    %new = arith.addf %old, %old : f32
    memref.store %new, %x[%zero] : memref<?xf32>
    func.return
  }}
  func.func @f(%a: memref<{size}xf32>, %first: i1) {{
    nanokernel.microkernel @{callee}(%a, %first) : memref<{size}xf32>, i1
    nanokernel.microkernel @{callee}(%a, %first) : memref<{size}xf32>, i1
    func.return
  }}"""


def test_a_microkernel_is_called_with_its_operands() -> None:
    array = numbers(2)
    run(parse(MICROKERNEL.format(size="?", callee="double")), "f", [array, True])
    assert array.tolist() == [4, 2]


def test_a_microkernel_must_be_there_and_take_these_operands() -> None:
    module = parse(MICROKERNEL.format(size="2", callee="double"))
    with pytest.raises(ExecutionError, match="@double is no function of memref<2xf32>, i1"):
        run(module, "f", [numbers(2), True])
    module = parse(MICROKERNEL.format(size="?", callee="triple"))
    with pytest.raises(ExecutionError, match="Could not find symbol @triple"):
        run(module, "f", [numbers(2), True])


# --------------------------------------------------------------------------- index arithmetic


def computed(op: str, type_: str, *operands: Argument, result: str | None = None) -> Any:
    """What an operation on scalars of a type makes of these."""
    result = result or type_
    names = [f"%x{i}" for i in range(len(operands))]
    given = "".join(f", {name}: {type_}" for name in names)
    body = f"%r = {op} {', '.join(names)} : {type_}\nmemref.store %r, %to[] : memref<{result}>"
    types = {"index": np.int64, "i1": np.bool_, "i32": np.int32, "f32": f32, "f64": f64}
    to: np.ndarray = np.zeros(1, types[result])
    execute(f"%to: memref<{result}>{given}", body, to, *operands)
    return to[0].item()


@pytest.mark.parametrize(
    ("op", "lhs", "rhs", "expected"),
    [
        ("addi", 7, 5, 12),
        ("subi", 5, 7, -2),
        ("muli", -3, 4, -12),
        ("divui", 17, 5, 3),
        ("divui", -1, 2, 2**63 - 1),
        ("divsi", -17, 5, -3),
        ("divsi", 17, -5, -3),
        ("divsi", -17, -5, 3),
        ("floordivsi", -17, 5, -4),
        ("ceildivui", 17, 5, 4),
        ("ceildivui", 15, 5, 3),
        ("ceildivui", 0, 5, 0),
        ("ceildivsi", 17, 5, 4),
        ("ceildivsi", -17, 5, -3),
        ("remui", 17, 5, 2),
        ("remui", -1, 10, (2**64 - 1) % 10),
        ("remsi", -17, 5, -2),
        ("remsi", 17, -5, 2),
        ("minui", -1, 5, 5),
        ("minsi", -1, 5, -1),
        ("maxui", -1, 5, -1),
        ("maxsi", -1, 5, 5),
        ("andi", 12, 10, 8),
        ("ori", 12, 10, 14),
        ("xori", 12, 10, 6),
    ],
)
def test_index_arithmetic(op: str, lhs: int, rhs: int, expected: int) -> None:
    assert computed(f"arith.{op}", "index", lhs, rhs) == expected


def test_the_width_of_an_integer_is_its_types() -> None:
    assert computed("arith.divui", "i32", -1, 2) == 2**31 - 1
    assert computed("arith.maxui", "i32", -1, 5) == -1


@pytest.mark.parametrize("op", ["divui", "divsi", "ceildivui", "ceildivsi", "remui", "remsi"])
def test_a_division_by_zero_is_refused(op: str) -> None:
    with pytest.raises(ExecutionError, match=f"'arith.{op}': .*by zero"):
        computed(f"arith.{op}", "index", 1, 0)


@pytest.mark.parametrize(
    ("predicate", "holds"),
    [
        # For (-1, 5), (5, 5), (5, -1).
        ("eq", [False, True, False]),
        ("ne", [True, False, True]),
        ("slt", [True, False, False]),
        ("sle", [True, True, False]),
        ("sgt", [False, False, True]),
        ("sge", [False, True, True]),
        ("ult", [False, False, True]),
        ("ule", [False, True, True]),
        ("ugt", [True, False, False]),
        ("uge", [True, True, False]),
    ],
)
def test_comparisons_of_integers(predicate: str, holds: list[bool]) -> None:
    pairs = (-1, 5), (5, 5), (5, -1)
    for type_ in ("index", "i32"):
        got = [computed(f"arith.cmpi {predicate},", type_, *pair, result="i1") for pair in pairs]
        assert got == holds


@pytest.mark.parametrize(
    ("relation", "holds"),
    [
        # For (1, 2), (2, 2), (2, 1).
        ("eq", [False, True, False]),
        ("ne", [True, False, True]),
        ("lt", [True, False, False]),
        ("le", [True, True, False]),
        ("gt", [False, False, True]),
        ("ge", [False, True, True]),
    ],
)
@pytest.mark.parametrize("ordered", [True, False])
def test_comparisons_of_floats(relation: str, holds: list[bool], ordered: bool) -> None:
    op = f"arith.cmpf {'o' if ordered else 'u'}{relation},"
    pairs = (1.0, 2.0), (2.0, 2.0), (2.0, 1.0)
    assert [computed(op, "f64", *pair, result="i1") for pair in pairs] == holds
    assert computed(op, "f64", 1.0, np.nan, result="i1") is not ordered


@pytest.mark.parametrize(
    ("predicate", "numbers_hold", "nan_holds"),
    [
        ("false", False, False),
        ("ord", True, False),
        ("uno", False, True),
        ("true", True, True),
    ],
)
def test_comparisons_that_only_ask_for_nan(
    predicate: str, numbers_hold: bool, nan_holds: bool
) -> None:
    op = f"arith.cmpf {predicate},"
    assert computed(op, "f32", 1.0, 2.0, result="i1") is numbers_hold
    assert computed(op, "f32", np.nan, 2.0, result="i1") is nan_holds


@pytest.mark.parametrize(("lhs", "rhs"), [(a, b) for a in (True, False) for b in (True, False)])
def test_logic(lhs: bool, rhs: bool) -> None:
    assert computed("arith.andi", "i1", lhs, rhs) is (lhs and rhs)
    assert computed("arith.ori", "i1", lhs, rhs) is (lhs or rhs)
    assert computed("arith.xori", "i1", lhs, rhs) is (lhs != rhs)


@pytest.mark.parametrize("x", [1.0, 3.0])
def test_a_condition_selects_memrefs_and_numbers(x: float) -> None:
    body = """
      %two = arith.constant 2.0 : f32
      %less = arith.cmpf olt, %x, %two : f32
      %to = arith.select %less, %a, %b : memref<2xf32>
      %at = arith.select %less, %c0, %c1 : index
      %zero = arith.cmpi eq, %at, %c0 : index
      %v = arith.select %zero, %x, %two : f32
      memref.store %v, %to[%at] : memref<2xf32>"""
    a, b = np.zeros(2, f32), np.zeros(2, f32)
    execute("%a: memref<2xf32>, %b: memref<2xf32>, %x: f32", body, a, b, x)
    assert (a.tolist(), b.tolist()) == (([1, 0], [0, 0]) if x < 2 else ([0, 0], [0, 2]))


# ------------------------------------------------------------------------------ control flow


def loop(parallel: bool, lower: str, upper: str, step: str, body: str) -> str:
    """A loop over %i with these bounds."""
    if not parallel:
        return f"scf.for %i = {lower} to {upper} step {step} {{\n{body}\n}}"
    return f"""
      "scf.parallel"({lower}, {upper}, {step})
          <{{operandSegmentSizes = array<i32: 1, 1, 1, 0>}}> ({{
      ^bb0(%i: index):
        {body}
        scf.reduce
      }}) : (index, index, index) -> ()"""


@pytest.mark.parametrize(
    ("lower", "upper", "step", "expected"),
    [(0, 7, 3, [0, 3, 6]), (2, 2, 1, []), (5, 2, 1, []), (-1, 1, 1, [-1, 0])],
)
@pytest.mark.parametrize("parallel", [False, True])
def test_a_loop_of_run_time_bounds(
    parallel: bool, lower: int, upper: int, step: int, expected: list[int]
) -> None:
    note = """
      %at = memref.load %n[] : memref<index>
      memref.store %i, %a[%at] : memref<9xindex>
      %next = arith.addi %at, %c1 : index
      memref.store %next, %n[] : memref<index>"""
    body = loop(parallel, "%l", "%u", "%s", note)
    a, n = np.full(9, -9), np.zeros(1, np.int64)
    arguments = "%a: memref<9xindex>, %n: memref<index>, %l: index, %u: index, %s: index"
    execute(arguments, body, a, n, lower, upper, step)
    # Parallel iterations have no order; they are executed in an unusual one.
    assert a[: n[0]].tolist() == (expected[::-1] if parallel else expected)


@pytest.mark.parametrize("step", [0, -1])
@pytest.mark.parametrize("parallel", [False, True])
def test_a_step_is_positive(parallel: bool, step: int) -> None:
    with pytest.raises(ExecutionError, match=f"step must be positive, not {step}"):
        execute("%s: index", loop(parallel, "%c0", "%c2", "%s", ""), step)


def test_a_parallel_loop_of_several_dimensions_runs_each_point_once() -> None:
    body = """
      %c3 = arith.constant 3 : index
      %one = arith.constant 1.0 : f32
      "scf.parallel"(%c0, %c1, %c2, %c3, %c1, %c1)
          <{operandSegmentSizes = array<i32: 2, 2, 2, 0>}> ({
      ^bb0(%i: index, %j: index):
        %x = memref.load %a[%i, %j] : memref<2x3xf32>
        %y = arith.addf %x, %one : f32
        memref.store %y, %a[%i, %j] : memref<2x3xf32>
        scf.reduce
      }) : (index, index, index, index, index, index) -> ()"""
    a = np.zeros((2, 3), f32)
    execute("%a: memref<2x3xf32>", body, a)
    assert a.tolist() == [[0, 1, 1], [0, 1, 1]]


def test_a_parallel_loop_has_no_results() -> None:
    body = """
      %r = "scf.parallel"(%c0, %c2, %c1, %c0)
          <{operandSegmentSizes = array<i32: 1, 1, 1, 1>}> ({
      ^bb0(%i: index):
        scf.reduce(%i : index) {
        ^bb1(%x: index, %y: index):
          scf.reduce.return %x : index
        }
      }) : (index, index, index, index) -> index"""
    with pytest.raises(ExecutionError, match="a parallel loop with results can't be executed"):
        execute("", body)


@pytest.mark.parametrize(("condition", "expected"), [(True, [2, 1]), (False, [0, 5])])
def test_a_branch_may_be_left_out_and_may_have_results(
    condition: bool, expected: list[int]
) -> None:
    body = """
      %five = arith.constant 5 : index
      scf.if %if {
        memref.store %c2, %a[%c0] : memref<2xindex>
      }
      %x = scf.if %if -> (index) {
        scf.yield %c1 : index
      } else {
        scf.yield %five : index
      }
      memref.store %x, %a[%c1] : memref<2xindex>"""
    a = np.zeros(2, np.int64)
    execute("%a: memref<2xindex>, %if: i1", body, a, condition)
    assert a.tolist() == expected


@pytest.mark.parametrize(("case", "expected"), [(1, 10), (4, 40), (2, 99), (-1, 99)])
def test_a_switch_takes_its_case_or_the_default(case: int, expected: int) -> None:
    body = """
      %r = scf.index_switch %i -> index
      case 1 {
        %x = arith.constant 10 : index
        scf.yield %x : index
      }
      case 4 {
        %x = arith.constant 40 : index
        scf.yield %x : index
      }
      default {
        %x = arith.constant 99 : index
        scf.yield %x : index
      }
      memref.store %r, %a[] : memref<index>"""
    a = np.zeros(1, np.int64)
    execute("%a: memref<index>, %i: index", body, a, case)
    assert a[0] == expected


def test_a_private_function_gets_its_values_as_they_are() -> None:
    module = parse("""
      func.func private @set(%m: memref<f32>, %offset: index, %x: f32) -> index {
        %v = memref.reinterpret_cast %m to offset: [%offset], sizes: [1], strides: [1]
          : memref<f32> to memref<1xf32, strided<[1], offset: ?>>
        %zero = arith.constant 0 : index
        memref.store %x, %v[%zero] : memref<1xf32, strided<[1], offset: ?>>
        %one = arith.constant 1 : index
        %next = arith.addi %offset, %one : index
        func.return %next : index
      }
      func.func @f(%a: memref<f32>, %i: index, %x: f32) {
        %j = func.call @set(%a, %i, %x) : (memref<f32>, index, f32) -> index
        %k = func.call @set(%a, %j, %x) : (memref<f32>, index, f32) -> index
        func.return
      }""")
    a = np.zeros(5, f32)
    run(module, "f", [a, 2, 7.5])
    assert a.tolist() == [0, 0, 7.5, 7.5, 0]


# ------------------------------------------------------------------------------------- memref


def test_a_subview_is_a_view() -> None:
    body = """
      %v = memref.subview %a[%i, 1] [2, %n] [2, %c1] : memref<?x?xf32, strided<[?, 1]>>
        to memref<2x?xf32, strided<[?, ?], offset: ?>>
      %x = memref.load %v[%c1, %c1] : memref<2x?xf32, strided<[?, ?], offset: ?>>
      %row = memref.subview %v[1, 0] [1, %n] [1, 1]
        : memref<2x?xf32, strided<[?, ?], offset: ?>> to memref<?xf32, strided<[?], offset: ?>>
      memref.store %x, %row[%c0] : memref<?xf32, strided<[?], offset: ?>>"""
    memory = numbers(6, 8)
    expected = memory.copy()
    expected[4, 2] = memory[4, 3]
    arguments = "%a: memref<?x?xf32, strided<[?, 1]>>, %i: index, %n: index"
    execute(arguments, body, memory[1:, 1:7], 1, 3)
    assert np.array_equal(memory, expected)


@pytest.mark.parametrize(
    ("offset", "size", "stride", "fits"),
    [
        (0, 6, 1, True),
        (5, 1, 1, True),
        (5, 2, 1, False),
        (-1, 2, 1, False),
        (1, 3, 2, True),
        (2, 3, 2, False),
        (5, 3, -2, True),
        (3, 3, -2, False),
        (6, 0, 1, True),
        (7, 0, 1, False),
        (0, -1, 1, False),
        (6, 1, 1, False),
    ],
)
def test_a_subview_lies_inside_of_its_source(
    offset: int, size: int, stride: int, fits: bool
) -> None:
    body = """%v = memref.subview %a[%o] [%n] [%s]
      : memref<6xf32> to memref<?xf32, strided<[?], offset: ?>>"""
    arguments = "%a: memref<6xf32>, %o: index, %n: index, %s: index"
    # More memory than the memref covers must not help.
    values = numbers(20)[4:10], offset, size, stride
    if fits:
        execute(arguments, body, *values)
    else:
        message = f"{size} elements from {offset} in steps of {stride} in dimension 0 are outside"
        with pytest.raises(ExecutionError, match=message):
            execute(arguments, body, *values)


@pytest.mark.parametrize(
    "type_",
    [
        "memref<2x3xf32, strided<[6, 1], offset: 7>>",
        "memref<2x2xf32, strided<[5, 1], offset: 7>>",
        "memref<2x2xf32, strided<[6, 1], offset: 8>>",
        "memref<2x2xf32>",
        "memref<2xf32, strided<[6], offset: 7>>",
    ],
)
def test_a_subview_is_of_its_declared_type(type_: str) -> None:
    right = "memref<2x2xf32, strided<[6, 1], offset: 7>>"
    body = f"%v = memref.subview %a[1, 1] [2, 2] [1, 1] : memref<4x6xf32> to {right}"
    execute("%a: memref<4x6xf32>", body, numbers(4, 6))
    with pytest.raises(ExecutionError, match=r"'memref\.subview': a memref of shape"):
        execute("%a: memref<4x6xf32>", body.replace(right, type_), numbers(4, 6))


@pytest.mark.parametrize(
    ("sizes", "type_", "expected"),
    [
        ("1, 2, 1", "memref<2xf32, strided<[2], offset: ?>>", [5, 7]),
        ("1, 2, 1", "memref<2x1xf32, strided<[2, 1], offset: ?>>", [5, 7]),
        ("1, 1, 1", "memref<f32, strided<[], offset: ?>>", [5]),
    ],
)
def test_a_subview_may_leave_out_dimensions_of_one_element(
    sizes: str, type_: str, expected: list[int]
) -> None:
    source = numbers(2, 2, 2)
    types = memref_types("memref<2x2x2xf32>", type_)
    body = f"%v = memref.subview %a[1, 0, 0] [{sizes}] [1, 1, 1] : memref<2x2x2xf32> to {type_}"
    rank = types[1].get_num_dims()
    indices = ", ".join(["%i", "%c0"][:rank])
    body += f"""
      scf.for %i = %c0 to %n step %c1 {{
        %x = memref.load %v[{indices}] : {type_}
        memref.store %x, %to[%i] : memref<?xf32>
      }}"""
    to = np.zeros(len(expected), f32)
    arguments = "%a: memref<2x2x2xf32>, %to: memref<?xf32>, %n: index"
    execute(arguments, body, source, to, len(expected))
    assert to.tolist() == expected


CAST = '%v = "memref.cast"(%a) : (memref<?x?xf32>) -> TYPE'


@pytest.mark.parametrize(
    "type_", ["memref<2x3xf32>", "memref<2x?xf32>", "memref<2x3xf32, strided<[3, 1]>>"]
)
def test_a_cast_states_what_is_so(type_: str) -> None:
    body = CAST.replace("TYPE", type_)
    execute("%a: memref<?x?xf32>", body, numbers(2, 3))
    with pytest.raises(ExecutionError, match=r"'memref.cast': a memref of shape \(3, 2\)"):
        execute("%a: memref<?x?xf32>", body, numbers(3, 2))


def test_a_cast_checks_strides_where_memory_is_walked() -> None:
    body = CAST.replace("TYPE", "memref<?x?xf32, strided<[7, 1]>>")
    execute("%a: memref<?x?xf32>", body, numbers(1, 3))
    with pytest.raises(ExecutionError, match=r"strides \(3, 1\) and offset 0"):
        execute("%a: memref<?x?xf32>", body, numbers(2, 3))


def test_dim_and_metadata_tell_the_layout() -> None:
    type_ = "memref<?x?xf32, strided<[?, 1], offset: ?>>"
    body = f"""
      %v = memref.subview %a[1, 2] [3, 2] [2, 1] : memref<8x5xf32> to {type_}
      %base, %offset, %size0, %size1, %stride0, %stride1 = "memref.extract_strided_metadata"(%v)
        : ({type_}) -> (memref<f32>, index, index, index, index, index)
      %rows = memref.dim %v, %c0 : {type_}
      %same = memref.reinterpret_cast %base to offset: [%offset], sizes: [%rows, %size1],
        strides: [%stride0, 1] : memref<f32> to {type_}
      %x = memref.load %same[%c2, %c1] : {type_}
      memref.store %x, %to[] : memref<f32>
      memref.store %stride0, %n[] : memref<index>"""
    a, to, n = numbers(8, 5), np.zeros(1, f32), np.zeros(1, np.int64)
    execute("%a: memref<8x5xf32>, %to: memref<f32>, %n: memref<index>", body, a, to, n)
    assert to[0] == a[5, 3]
    assert n[0] == 10
    with pytest.raises(ExecutionError, match="has no dimension 2"):
        execute("%a: memref<2x2xf32>", "%d = memref.dim %a, %c2 : memref<2x2xf32>", numbers(2, 2))


def test_a_subview_of_a_buffer_keeps_its_aligned_pointer() -> None:
    whole = Buffer.of(numbers(4, 4)[1:, 1:])
    part = whole.subview((1, 1), (2, 2), (1, 1))
    assert (part.origin, part.offset) == (whole.origin, 5)
    with pytest.raises(InterpretationError, match="outside of a memref of shape"):
        whole.subview((2, 0), (2, 2), (1, 1))


# ------------------------------------------------------------------------------------- vector


@pytest.mark.parametrize("active", [-3, 0, 1, 4, 9])
def test_a_mask_of_a_run_time_count(active: int) -> None:
    body = """
      %k = vector.create_mask %n : vector<4xi1>
      %x = arith.constant dense<7.0> : vector<4xf32>
      %y = vector.maskedload %a[%c0], %k, %x
        : memref<?xf32>, vector<4xi1>, vector<4xf32> into vector<4xf32>
      vector.maskedstore %b[%c0], %k, %y : memref<?xf32>, vector<4xi1>, vector<4xf32>
      vector.store %y, %all[%c0] : memref<4xf32>, vector<4xf32>"""
    count = min(max(active, 0), 4)
    a, b, everything = numbers(count), np.zeros(count, f32), np.zeros(4, f32)
    arguments = "%a: memref<?xf32>, %b: memref<?xf32>, %all: memref<4xf32>, %n: index"
    execute(arguments, body, a, b, everything, active)
    assert np.array_equal(b, a)
    assert everything.tolist() == a.tolist() + [7] * (4 - count)


def test_a_scalar_scales_a_vector() -> None:
    body = """
      %v = vector.broadcast %x : f32 to vector<4xf32>
      %a4 = vector.load %a[%c0] : memref<4xf32>, vector<4xf32>
      %p = arith.mulf %v, %a4 : vector<4xf32>
      vector.store %p, %a[%c0] : memref<4xf32>, vector<4xf32>"""
    a = numbers(4)
    execute("%a: memref<4xf32>, %x: f32", body, a, 0.1)
    assert a.tolist() == (f32(0.1) * numbers(4)).tolist()


# -------------------------------------------------------------------------------------- calls


def test_numbers_must_fit_the_declared_types() -> None:
    module = function("%i: index, %flag: i1, %x: f32, %a: memref<1xf32>", "")
    array = np.zeros(1, f32)
    run(module, "f", [3, True, 0.5, array])
    run(module, "f", [np.int32(3), np.bool_(True), np.float64(0.5), array])
    run(module, "f", [3, 1, 2, array])
    refused: list[tuple[list[Argument], str]] = [
        ([3.0, True, 0.5, array], "argument 0 of 'f' is index; a float can't be passed"),
        ([3, True, array, array], "argument 2 of 'f' is f32; a ndarray can't be passed"),
        ([3, True, 0.5, 1.0], "argument 3 of 'f' is memref<1xf32>; a float can't be passed"),
    ]
    for wrong, message in refused:
        with pytest.raises(InvalidInput, match=message):
            run(module, "f", wrong)


def test_a_float_is_rounded_to_its_type() -> None:
    body = "memref.store %x, %a[] : memref<f32>"
    a = np.zeros(1, f32)
    execute("%a: memref<f32>, %x: f32", body, a, 0.1)
    assert a[0] == f32(0.1)


def test_a_layout_without_holes_may_have_none_at_run_time() -> None:
    module = function("%a: memref<?x?xf32>", "")
    run(module, "f", [np.zeros((3, 4), f32)])
    run(module, "f", [np.zeros((1, 4), f32)[:, :3]])
    for wrong in (np.zeros((3, 4), f32)[:, :3], np.zeros((3, 4), f32).T):
        with pytest.raises(InvalidInput, match="its strides are not"):
            run(module, "f", [wrong])


@pytest.mark.parametrize(
    ("type_", "array", "expected"),
    [
        ("memref<4x6xf32>", numbers(4, 6), []),
        ("memref<?x?xf32>", numbers(4, 6), [4, 6]),
        ("memref<?x6xf32>", numbers(4, 6), [4]),
        ("memref<?x?xf32, strided<[?, 1]>>", numbers(4, 8)[:, :6], [4, 6, 8]),
        ("memref<4x?xf32, strided<[?, ?]>>", numbers(6, 4).T, [6, 1, 4]),
        ("memref<?x?xf32, strided<[?, ?], offset: ?>>", numbers(4, 6)[::-1], [4, 6, -6, 1]),
        ("memref<f32>", numbers(1), []),
    ],
)
def test_native_arguments_are_pointer_sizes_and_strides(
    type_: str, array: np.ndarray, expected: list[int]
) -> None:
    pointer, *numbers_ = native_arguments(memref_types(type_), [array])
    assert pointer is array
    assert numbers_ == expected


def test_native_arguments_come_in_order_and_leave_numbers_alone() -> None:
    types = memref_types("memref<?xf32>", "f32", "memref<2x?xf64, strided<[?, 1]>>", "index")
    x, y = numbers(3), numbers(2, 5, dtype=f64)[:, :4]
    flat = native_arguments(types, [x, 0.5, y, 7])
    assert [v for v in flat if not isinstance(v, np.ndarray)] == [3, 0.5, 4, 5, 7]
    assert flat[0] is x
    assert flat[3] is y


def test_native_arguments_must_fit_their_types() -> None:
    types = memref_types("memref<?x4xf32>")
    with pytest.raises(InvalidInput, match=r"argument 0 is memref<\?x4xf32>; an array"):
        native_arguments(types, [numbers(2, 5)])
    with pytest.raises(InvalidInput, match="1 arguments are needed, not 2"):
        native_arguments(types, [numbers(2, 4)] * 2)


def test_a_native_function_runs_on_its_flattened_arguments() -> None:
    body = """
      %m = memref.reinterpret_cast %a to offset: [0], sizes: [%rows, %columns],
        strides: [%stride, 1] : memref<f32> to memref<?x?xf32, strided<[?, 1]>>
      %i = arith.subi %rows, %c1 : index
      %j = arith.subi %columns, %c1 : index
      %x = memref.load %m[%i, %j] : memref<?x?xf32, strided<[?, 1]>>
      memref.store %x, %m[%c0, %c0] : memref<?x?xf32, strided<[?, 1]>>"""
    arguments = "%a: memref<f32>, %rows: index, %columns: index, %stride: index, %w: memref<i8>"
    memory = numbers(5, 8)
    types = memref_types("memref<?x?xf32, strided<[?, 1]>>")
    values = native_arguments(types, [memory[1:, 2:7]])
    run(function(arguments, body), "f", values, workspace=64)
    assert memory[1, 2] == memory[4, 6] == 39
