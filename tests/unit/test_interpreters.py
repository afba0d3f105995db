"""Each rule of the interpreters, on programs of a few operations."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.exceptions import InterpretationError

from nkdsl.errors import InvalidInput
from nkdsl.frontend import load, make_context
from nkdsl.interpreters import Buffer, ExecutionError, run, workspace_bytes

CONTEXT = make_context()

f32, f64 = np.float32, np.float64


def parse(text: str) -> ModuleOp:
    return load(text, CONTEXT)


def function(
    arguments: str, body: str, attributes: str = 'nanokernel.target = "skylake-avx512"'
) -> ModuleOp:
    """A module of one function `f`."""
    return parse(
        f"func.func @f({arguments}) attributes {{{attributes}}} {{\n"
        f"%c0 = arith.constant 0 : index\n%c1 = arith.constant 1 : index\n"
        f"%c2 = arith.constant 2 : index\n{body}\nfunc.return\n}}"
    )


def execute(arguments: str, body: str, *arrays: np.ndarray, workspace: int | None = None) -> None:
    run(function(arguments, body), "f", arrays, workspace=workspace)


def numbers(*shape: int, dtype: type = f32) -> np.ndarray:
    """Different numbers that are exact in any type."""
    return np.arange(1, 1 + np.prod(shape, dtype=int), dtype=dtype).reshape(shape)


def random(*shape: int, dtype: type = f32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(dtype)


def rounded_once(acc: Any, lhs: Any, rhs: Any) -> float:
    """`acc + lhs * rhs` in f64, by rational arithmetic."""
    return float(Fraction(float(acc)) + Fraction(float(lhs)) * Fraction(float(rhs)))


# ------------------------------------------------------------------------------------ buffers


@pytest.mark.parametrize(
    "view",
    [
        numbers(3, 4),
        numbers(3, 4).T,
        np.asfortranarray(numbers(3, 4)),
        numbers(8, 8)[1:7:2, 3:],
        numbers(8, 8)[::-1, ::-2],
        np.broadcast_to(numbers(4), (3, 4)),
        numbers(2, 3, 4)[:, 1],
        numbers(5)[2:3],
        numbers(1).reshape(()),
        np.frombuffer(bytes(range(24)), np.uint8)[4:24].view(f32),
        np.frombuffer(bytes(range(24)), np.uint8)[3:23].view(f32),
    ],
    ids=lambda view: f"{view.shape}-{view.strides}",
)
def test_a_buffer_finds_every_element_of_any_view(view: np.ndarray) -> None:
    buffer = Buffer.of(view)
    for index in np.ndindex(view.shape):
        assert buffer.data[buffer.element(index)].tobytes() == view[index].tobytes()


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)])
def test_a_buffer_without_elements_has_no_valid_index(shape: tuple[int, ...]) -> None:
    with pytest.raises(InterpretationError, match="outside"):
        Buffer.of(np.empty(shape, f32)).element((0,) * len(shape))


@pytest.mark.parametrize("index", [(3, 0), (0, 4), (-1, 0), (0, -1)])
def test_an_element_lies_inside_of_the_declared_shape(index: tuple[int, int]) -> None:
    with pytest.raises(InterpretationError, match="outside of a memref of shape"):
        Buffer.of(numbers(8, 8)[1:4, 1:5]).element(index)


def test_a_register_may_leave_the_memref_but_not_its_allocation() -> None:
    buffer = Buffer.of(numbers(4, 4)[:2, :2])
    assert buffer.load((1, 0), 12).tolist() == list(range(5, 17))
    with pytest.raises(InterpretationError, match="elements 4 to 16 are outside"):
        buffer.load((1, 0), 13)
    with pytest.raises(InterpretationError, match="elements -1 to 2 are outside"):
        buffer.load((0, -1), 4)


def test_writing_through_a_buffer_changes_the_array() -> None:
    array = np.zeros((2, 6), f32)
    Buffer.of(array[:, ::3]).store((1, 1), numbers(3))
    assert array[1].tolist() == [0, 0, 0, 1, 2, 3]


def test_a_tile_outside_of_the_shape_is_refused() -> None:
    buffer = Buffer.of(numbers(8, 8)[:4, :4])
    assert buffer.data[buffer.tile((2, 1), (1, 0), (3, 2))].tolist() == [
        [18, 26],
        [19, 27],
        [20, 28],
    ]
    with pytest.raises(InterpretationError, match=r"a tile of 3 × 2 at \(3, 1\) leaves"):
        buffer.tile((3, 1), (1, 0), (3, 2))


# -------------------------------------------------------------------------------------- calls


def test_arrays_must_fit_the_declared_types() -> None:
    module = function("%a: memref<2x3xf32, strided<[4, 1]>>", "")
    run(module, "f", [np.zeros((2, 4), f32)[:, :3]])
    for wrong, message in (
        (np.zeros((2, 3), f32), "its strides are not"),
        (np.zeros((3, 4), f32)[:, :3], "of shape"),
        (np.zeros((2, 4), f64)[:, :3], "float64"),
    ):
        with pytest.raises(InvalidInput, match=message):
            run(module, "f", [wrong])
    with pytest.raises(InvalidInput, match="takes 1 arguments, not 2"):
        run(module, "f", [np.zeros(3, f32)] * 2)
    with pytest.raises(InvalidInput, match="there are: f"):
        run(module, "g", [])


def test_strides_that_are_never_walked_do_not_matter() -> None:
    module = function("%a: memref<1x3xf32, strided<[4, 1]>>, %b: memref<0x3xf32>", "")
    run(module, "f", [np.zeros((1, 3), f32), np.zeros((0, 6), f32)[:, ::2]])


def test_an_error_names_the_operation_that_it_came_from() -> None:
    body = """
      scf.for %i = %c0 to %c2 step %c1 {
        %x = memref.load %a[%i] : memref<1xf32>
      }"""
    with pytest.raises(ExecutionError, match=r"'memref.load': index \(1\) is outside") as caught:
        execute("%a: memref<1xf32>", body, np.zeros(1, f32))
    assert "while executing: %x = memref.load" in str(caught.value)


def test_an_operation_without_a_rule_is_refused() -> None:
    with pytest.raises(ExecutionError, match=r"'memref.alloca' has no rule"):
        execute("", "%m = memref.alloca() : memref<2xf32>")


def test_operations_are_counted() -> None:
    body = "scf.for %i = %c0 to %c2 step %c1 {\n%x = arith.addi %i, %i : index\n}"
    module = function("", body)
    assert run(module, "f", []) == 3 + 2 * 2 + 2  # constants, iterations, loop and return


def test_loops_carry_many_values() -> None:
    body = """
      %n = arith.constant 5 : index
      %one = arith.constant 1.0 : f32
      %x, %y = scf.for %i = %c0 to %n step %c1 iter_args(%p = %one, %q = %one) -> (f32, f32) {
        %s = arith.addf %p, %q : f32
        scf.yield %q, %s : f32, f32
      }
      memref.store %x, %a[%c0] : memref<2xf32>
      memref.store %y, %a[%c1] : memref<2xf32>"""
    array = np.zeros(2, f32)
    execute("%a: memref<2xf32>", body, array)
    assert array.tolist() == [8, 13]


# ------------------------------------------------------------------------------------- arith


@pytest.mark.parametrize(("dtype", "name"), [(f32, "f32"), (f64, "f64")])
@pytest.mark.parametrize(
    ("op", "meaning"), [("addf", np.add), ("subf", np.subtract), ("mulf", np.multiply)]
)
def test_arithmetic_rounds_in_the_element_type(
    dtype: type, name: str, op: str, meaning: np.ufunc
) -> None:
    body = f"""
      %x = memref.load %a[%c0] : memref<3x{name}>
      %y = memref.load %a[%c1] : memref<3x{name}>
      %z = arith.{op} %x, %y : {name}
      memref.store %z, %a[%c2] : memref<3x{name}>"""
    array = random(3, dtype=dtype)
    execute(f"%a: memref<3x{name}>", body, array)
    assert array[2] == meaning(array[0], array[1])


def test_maximum_and_minimum_follow_ieee() -> None:
    body = """
      linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>,
        affine_map<(i) -> (i)>, affine_map<(i) -> (i)>], iterator_types = ["parallel"]}
        ins(%a, %b : memref<5xf32>, memref<5xf32>) outs(%c, %d : memref<5xf32>, memref<5xf32>) {
      ^bb0(%x: f32, %y: f32, %p: f32, %q: f32):
        %max = arith.maximumf %x, %y : f32
        %min = arith.minimumf %x, %y : f32
        linalg.yield %max, %min : f32, f32
      }"""
    lhs, rhs = np.array([1, np.nan, 0, -0.0, -0.0], f32), np.array([2, 1, -0.0, 0, -0.0], f32)
    high, low = np.zeros(5, f32), np.zeros(5, f32)
    arguments = ", ".join(f"%{x}: memref<5xf32>" for x in "abcd")
    execute(arguments, body, lhs, rhs, high, low)
    assert [str(x) for x in high] == ["2.0", "nan", "0.0", "0.0", "-0.0"]
    assert [str(x) for x in low] == ["1.0", "nan", "-0.0", "-0.0", "-0.0"]


# ------------------------------------------------------------------------------------- linalg


def test_matmul_rounds_product_and_sum_of_each_step() -> None:
    a, b, c = random(3, 5), random(5, 4, seed=1), random(3, 4, seed=2)
    expected = c.copy()
    for i, j in np.ndindex(3, 4):
        for k in range(5):
            expected[i, j] = a[i, k] * b[k, j] + expected[i, j]
    body = """linalg.matmul ins(%a, %b : memref<3x5xf32>, memref<5x4xf32>)
                            outs(%c : memref<3x4xf32>)"""
    execute("%a: memref<3x5xf32>, %b: memref<5x4xf32>, %c: memref<3x4xf32>", body, a, b, c)
    assert c.tobytes() == expected.tobytes()


def test_fill_writes_every_element_and_nothing_else() -> None:
    memory = numbers(3, 4)
    body = """%x = arith.constant 7.0 : f32
              linalg.fill ins(%x : f32) outs(%a : memref<3x2xf32, strided<[4, 1]>>)"""
    execute("%a: memref<3x2xf32, strided<[4, 1]>>", body, memory[:, :2])
    assert (memory[:, :2] == 7).all()
    assert memory[:, 2:].tolist() == [[3, 4], [7, 8], [11, 12]]


def contraction(maps: str, iterators: str, *types: str) -> tuple[str, str]:
    """Arguments and body of `out += lhs * rhs`; maps are written "m k, k n -> m n"."""
    lists = [
        f"affine_map<({', '.join(iterators)}) -> ({', '.join(m.split())})>"
        for m in maps.replace("->", ",").split(",")
    ]
    out = maps.partition("->")[2]
    kinds = ", ".join('"parallel"' if i in out else '"reduction"' for i in iterators)
    a, b, c = types
    body = f"""
      linalg.generic {{indexing_maps = [{", ".join(lists)}], iterator_types = [{kinds}]}}
        ins(%a, %b : {a}, {b}) outs(%c : {c}) {{
      ^bb0(%x: f32, %y: f32, %z: f32):
        %p = arith.mulf %x, %y : f32
        %s = arith.addf %z, %p : f32
        linalg.yield %s : f32
      }}"""
    return f"%a: {a}, %b: {b}, %c: {c}", body


@pytest.mark.parametrize(
    ("maps", "iterators", "einsum", "shapes"),
    [
        ("k m, k n -> m n", "mnk", "km,kn->mn", [(4, 2), (4, 3), (2, 3)]),
        ("m k, n k -> n m", "mnk", "mk,nk->nm", [(2, 4), (3, 4), (3, 2)]),
        ("b m k, b k n -> b m n", "bmnk", "bmk,bkn->bmn", [(2, 3, 4), (2, 4, 5), (2, 3, 5)]),
        ("b m k, b k n -> m n", "bkmn", "bmk,bkn->mn", [(2, 3, 4), (2, 4, 5), (3, 5)]),
        ("k, k n -> n", "kn", "k,kn->n", [(4,), (4, 3), (3,)]),
        ("k, k -> ", "k", "k,k->", [(4,), (4,), ()]),
    ],
)
def test_generic_contracts_by_any_maps(
    maps: str, iterators: str, einsum: str, shapes: list[tuple[int, ...]]
) -> None:
    a, b, c = (numbers(*shape) for shape in shapes)
    types = [f"memref<{''.join(f'{n}x' for n in shape)}f32>" for shape in shapes]
    expected = c + np.einsum(einsum, a, b)
    execute(*contraction(maps, iterators, *types), a, b, c)
    assert np.array_equal(c, expected)


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 3), (2, 3, 0), (0, 0, 0)])
def test_generic_with_empty_dimensions_adds_nothing(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    types = [f"memref<{x}x{y}xf32>" for x, y in ((m, k), (k, n), (m, n))]
    c = numbers(m, n)
    expected = c.copy()
    arguments, body = contraction("m k, k n -> m n", "mnk", *types)
    execute(arguments, body, numbers(m, k), numbers(k, n), c)
    assert np.array_equal(c, expected)


def test_generic_reads_maps_that_are_not_permutations() -> None:
    body = """
      linalg.generic {indexing_maps = [affine_map<(i, j) -> (2 * i + j)>,
        affine_map<(i, j) -> (i floordiv 2, j)>, affine_map<(i, j) -> (i, j)>],
        iterator_types = ["parallel", "parallel"]}
        ins(%a, %b : memref<9xf32>, memref<2x3xf32>) outs(%c : memref<4x3xf32>) {
      ^bb0(%x: f32, %y: f32, %z: f32):
        %s = arith.subf %x, %y : f32
        linalg.yield %s : f32
      }"""
    a, b, c = numbers(9), numbers(2, 3), np.zeros((4, 3), f32)
    execute("%a: memref<9xf32>, %b: memref<2x3xf32>, %c: memref<4x3xf32>", body, a, b, c)
    i, j = np.ogrid[:4, :3]
    assert np.array_equal(c, a[2 * i + j] - b[i // 2, j])


def test_a_map_that_leaves_its_memref_is_refused() -> None:
    arguments, body = contraction("m k, k n -> m n", "mnk", *["memref<?x?xf32>"] * 3)
    body = body.replace("(m, n, k) -> (m, k)", "(m, n, k) -> (m + 1, k)")
    with pytest.raises(ExecutionError, match="index 2 in dimension 0 is outside"):
        execute(arguments, body, *(numbers(2, 2) for _ in range(3)))


def test_an_iterator_has_one_extent() -> None:
    arguments, body = contraction("m k, k n -> m n", "mnk", *["memref<?x?xf32>"] * 3)
    with pytest.raises(ExecutionError, match="iterator d2 has extent 3 and 2"):
        execute(arguments, body, numbers(2, 3), numbers(2, 2), numbers(2, 2))


# -------------------------------------------------------------------- nanokernel, whole


GEMM = """nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<3x5xf64>, memref<5x4xf64>)
                          outs(%c[m, n] : memref<3x4xf64>)"""
GEMM_ARGUMENTS = "%a: memref<3x5xf64>, %b: memref<5x4xf64>, %c: memref<3x4xf64>"


def test_gemm_adds_in_order_of_k_rounding_once_a_step() -> None:
    a, b = random(3, 5, dtype=f64), random(5, 4, dtype=f64, seed=1)
    c = random(3, 4, dtype=f64, seed=2)
    expected = c.copy()
    for i, j in np.ndindex(3, 4):
        for k in range(5):
            expected[i, j] = rounded_once(expected[i, j], a[i, k], b[k, j])
    execute(GEMM_ARGUMENTS, GEMM, a, b, c)
    assert c.tobytes() == expected.tobytes()


def test_gemm_from_zero_never_reads_its_result() -> None:
    a, b, c = numbers(3, 5, dtype=f64), numbers(5, 4, dtype=f64), np.full((3, 4), np.nan)
    execute(GEMM_ARGUMENTS, GEMM + " from zero", a, b, c)
    assert np.array_equal(c, a @ b)


def test_an_epilogue_runs_once_on_the_whole_sum() -> None:
    body = (
        GEMM.replace("5", "2")
        + """ epilogue(%bias[n], %old[m, n] : memref<4xf64>, memref<3x4xf64>) {
      ^bb0(%s: f64, %x: f64, %y: f64):
        %zero = arith.constant 0.0 : f64
        %t = arith.addf %s, %x : f64
        %u = arith.subf %t, %y : f64
        %r = arith.maximumf %u, %zero : f64
        nanokernel.yield %r : f64
      }"""
    )
    arguments = GEMM_ARGUMENTS.replace("5", "2") + ", %bias: memref<4xf64>, %old: memref<3x4xf64>"
    a, b, c = numbers(3, 2, dtype=f64), numbers(2, 4, dtype=f64), numbers(3, 4, dtype=f64)
    bias, old = numbers(4, dtype=f64), 10 * numbers(3, 4, dtype=f64)
    expected = np.maximum(c + a @ b + bias - old, 0)
    execute(arguments, body, a, b, c, bias, old)
    assert np.array_equal(c, expected)


def test_gemm_with_no_steps_stores_its_start() -> None:
    types = "memref<3x0xf64>", "memref<0x4xf64>"
    body = f"""nanokernel.gemm ins(%a[m, k], %b[k, n] : {types[0]}, {types[1]})
                               outs(%c[m, n] : memref<3x4xf64>) from zero"""
    c = np.full((3, 4), np.nan)
    arguments = f"%a: {types[0]}, %b: {types[1]}, %c: memref<3x4xf64>"
    execute(arguments, body, np.zeros((3, 0)), np.zeros((0, 4)), c)
    assert not c.any()


def test_gemm_reads_blocked_layouts_by_its_maps() -> None:
    body = """nanokernel.gemm
      ins(%a[k0, m, 2 * k1 + k2], %b[k0, k1, k2, n] : memref<2x3x8xf32>, memref<2x4x2x5xf32>)
      outs(%c[n, m] : memref<5x3xf32>)"""
    a, b, c = numbers(2, 3, 8), numbers(2, 4, 2, 5), numbers(5, 3)
    expected = c + np.einsum("kmxy,kxyn->nm", a.reshape(2, 3, 4, 2), b)
    execute("%a: memref<2x3x8xf32>, %b: memref<2x4x2x5xf32>, %c: memref<5x3xf32>", body, a, b, c)
    assert np.array_equal(c, expected)


# ----------------------------------------------------------------- nanokernel, composed


def block(rows: int, columns: int, lanes: str, element: str = "f32") -> str:
    return f"!nanokernel.block<{rows}x{columns}x{element}, lanes = {lanes}>"


@pytest.mark.parametrize("lanes", ["m", "n"])
def test_steps_add_in_order_of_k_rounding_once_each(lanes: str) -> None:
    type_ = block(2, 3, lanes, "f64")
    body = f"""
      %acc = nanokernel.load %c[m: %c1, n: %c2] : memref<4x5xf64>, {type_}
      %s = nanokernel.step %acc, %a[m: %c1, k: %c2], %b[n: %c1, k: %c0] depth 4 using "fma.f64x8"
        : memref<3x6xf64>, memref<4x4xf64>, {type_}
      nanokernel.store %s, %c[m: %c1, n: %c2] : memref<4x5xf64>, {type_}"""
    a, b, c = (random(*s, dtype=f64, seed=i) for i, s in enumerate([(3, 6), (4, 4), (4, 5)]))
    expected = c.copy()
    for i, j in np.ndindex(2, 3):
        for k in range(4):
            cell = 1 + i, 2 + j
            expected[cell] = rounded_once(expected[cell], a[1 + i, 2 + k], b[1 + j, k])
    execute("%a: memref<3x6xf64>, %b: memref<4x4xf64>, %c: memref<4x5xf64>", body, a, b, c)
    assert c.tobytes() == expected.tobytes()


@pytest.mark.parametrize("accumulate", ["", "accumulate"])
def test_lanes_along_k_hold_partial_sums_until_the_store(accumulate: str) -> None:
    # Lane 0 gets the huge terms, which cancel there; in one sum they would swallow the ones.
    type_ = block(1, 1, "k")
    body = f"""
      %z = nanokernel.zero : {type_}
      %s = nanokernel.step %z, %a[k: %c0], %b[k: %c0] depth 35 using "fma.f32x16"
        : memref<35xf32>, memref<35xf32>, {type_}
      nanokernel.store %s, %c[%c1] {accumulate} : memref<2xf32>, {type_}"""
    a, b, c = np.ones(35, f32), np.ones(35, f32), np.array([5, 7], f32)
    a[0], a[16] = 2.0**30, -(2.0**30)
    execute("%a: memref<35xf32>, %b: memref<35xf32>, %c: memref<2xf32>", body, a, b, c)
    assert c.tolist() == [5, 33 + (7 if accumulate else 0)]


def test_a_store_may_accumulate() -> None:
    type_ = block(2, 2, "n")
    body = f"""
      %x = nanokernel.load %c[m: %c0, n: %c1] : memref<2x3xf32>, {type_}
      nanokernel.store %x, %c[m: %c0, n: %c0] accumulate : memref<2x3xf32>, {type_}"""
    c = numbers(2, 3)
    execute("%c: memref<2x3xf32>", body, c)
    assert c.tolist() == [[3, 5, 3], [9, 11, 6]]


def test_a_step_outside_of_a_factor_is_refused() -> None:
    type_ = block(1, 2, "n")
    body = f"""
      %z = nanokernel.zero : {type_}
      %s = nanokernel.step %z, %a[k: %c0], %b[k: %c0, n: %c0] depth 3 using "fma.f32x16"
        : memref<3xf32>, memref<2x2xf32>, {type_}"""
    with pytest.raises(ExecutionError, match=r"'nanokernel.step': a tile of 3 × 2 at \(0, 0\)"):
        execute("%a: memref<3xf32>, %b: memref<2x2xf32>", body, numbers(3), numbers(2, 2))


def test_a_step_needs_the_functions_target() -> None:
    type_ = block(1, 1, "n")
    body = f"""
      %z = nanokernel.zero : {type_}
      %s = nanokernel.step %z, %a[k: %c0], %a[k: %c0] depth 1 using "fma.f32x16"
        : memref<1xf32>, memref<1xf32>, {type_}"""
    module = function("%a: memref<1xf32>", body, attributes="x")
    with pytest.raises(ExecutionError, match=r"no attribute 'nanokernel\.target'"):
        run(module, "f", [numbers(1)])


@pytest.mark.parametrize(
    ("tags", "transposed"), [("k: %c1, n: %c0", False), ("m: %c1, k: %c0", True)]
)
def test_pack_copies_a_tile_and_poisons_what_lies_beyond(tags: str, transposed: bool) -> None:
    body = f"nanokernel.pack %a[{tags}] extents 3 x 2 into %p : memref<5x5xf32>, memref<3x4xf32>"
    a, panel = numbers(5, 5), np.zeros((3, 4), f32)
    execute("%a: memref<5x5xf32>, %p: memref<3x4xf32>", body, a, panel)
    source = a[1:3, 0:3].T if transposed else a[1:4, 0:2]
    assert np.array_equal(panel[:, :2], source)
    assert np.isnan(panel[:, 2:]).all()


WORKSPACE = """
  %u = nanokernel.workspace at 64 : memref<2xf32>
  %v = nanokernel.workspace at 64 : memref<1xf32>
  %x = memref.load %u[%c1] : memref<2xf32>
  memref.store %x, %a[%c0] : memref<2xf32>
  %one = arith.constant 1.0 : f32
  memref.store %one, %u[%c0] : memref<2xf32>
  %y = memref.load %v[%c0] : memref<1xf32>
  memref.store %y, %a[%c1] : memref<2xf32>"""


def test_the_workspace_is_shared_by_offset_and_fresh_in_each_run() -> None:
    module = function("%a: memref<2xf32>", WORKSPACE)
    assert workspace_bytes(module) == 72
    for _ in range(2):
        array = np.zeros(2, f32)
        run(module, "f", [array])
        assert np.isnan(array[0])
        assert array[1] == 1


# ----------------------------------------------------------------------------------- nkvector


def test_a_load_with_active_lanes_reads_only_those() -> None:
    body = """
      %x = nkvector.load %a[%c1 + 1], %c2 : memref<4xf32>, vector<8xf32>
      nkvector.store %x, %b[%c0] : memref<8xf32>, vector<8xf32>"""
    b = numbers(8)
    execute("%a: memref<4xf32>, %b: memref<8xf32>", body, numbers(4), b)
    assert b.tolist() == [3, 4, 0, 0, 0, 0, 0, 0]


def test_a_store_with_active_lanes_writes_only_those() -> None:
    body = """
      %x = nkvector.load %a[%c0] : memref<8xf32>, vector<8xf32>
      nkvector.store %x, %b[%c1, %c1], %c2 : memref<2x3xf32>, vector<8xf32>"""
    b = np.zeros((2, 3), f32)
    execute("%a: memref<8xf32>, %b: memref<2x3xf32>", body, numbers(8), b)
    assert b.tolist() == [[0, 0, 0], [0, 1, 2]]


def test_a_register_outside_of_the_allocation_is_refused() -> None:
    body = "%x = nkvector.load %a[%c1] : memref<4xf32>, vector<4xf32>"
    with pytest.raises(ExecutionError, match=r"'nkvector.load': elements 1 to 4 are outside"):
        execute("%a: memref<4xf32>", body, numbers(4))
    body = """%x = nkvector.load %a[%c0] : memref<4xf32>, vector<4xf32>
              nkvector.store %x, %a[%c2 - 3] : memref<4xf32>, vector<4xf32>"""
    with pytest.raises(ExecutionError, match=r"'nkvector.store': elements -1 to 2 are outside"):
        execute("%a: memref<4xf32>", body, numbers(4))


def test_a_broadcast_reads_one_element_of_the_shape() -> None:
    body = """%x = nkvector.broadcast_load %a[%c1, %c0 + 1] : memref<2x2xf32>, vector<4xf32>
              nkvector.store %x, %b[%c0] : memref<4xf32>, vector<4xf32>"""
    b = np.zeros(4, f32)
    execute("%a: memref<2x2xf32>, %b: memref<4xf32>", body, numbers(2, 2), b)
    assert b.tolist() == [4, 4, 4, 4]
    with pytest.raises(ExecutionError, match=r"index \(1, 2\) is outside"):
        wrong = body.replace("+ 1", "+ 2")
        execute("%a: memref<2x2xf32>, %b: memref<4xf32>", wrong, numbers(2, 2), b)


@pytest.mark.parametrize("level", ["nkvector", "vector"])
@pytest.mark.parametrize(("dtype", "tiny"), [(f32, 2.0**-12), (f64, 2.0**-27)])
def test_fma_rounds_once(level: str, dtype: type, tiny: float) -> None:
    # (1 + t)² - (1 + 2t) is t², which a rounded product has lost.
    name = np.dtype(dtype).name.replace("float", "f")
    vector = f"vector<4x{name}>"
    loads = "\n".join(
        f"%{x} = nkvector.load %m[%c{row}, %c0] : memref<3x4x{name}>, {vector}"
        for row, x in enumerate("xyz")
    )
    body = f"""{loads}
      %r = {level}.fma %x, %y, %z : {vector}
      nkvector.store %r, %m[%c0, %c0] : memref<3x4x{name}>, {vector}"""
    memory: np.ndarray = np.empty((3, 4), dtype)
    memory[:2], memory[2] = 1 + tiny, -(1 + 2 * tiny)
    execute(f"%m: memref<3x4x{name}>", body, memory)
    assert (memory[0] == tiny**2).all()


@pytest.mark.parametrize(
    "shuffle",
    [
        "nkvector.shuffle %x, %y [7, 0, 4] : vector<4xf32>",
        "vector.shuffle %x, %y [7, 0, 4] : vector<4xf32>, vector<4xf32>",
    ],
)
def test_a_shuffle_picks_from_both_registers(shuffle: str) -> None:
    body = f"""
      %c4 = arith.constant 4 : index
      %x = nkvector.load %a[%c0] : memref<8xf32>, vector<4xf32>
      %y = nkvector.load %a[%c4] : memref<8xf32>, vector<4xf32>
      %z = {shuffle}
      nkvector.store %z, %b[%c0] : memref<3xf32>, vector<3xf32>"""
    b = np.zeros(3, f32)
    execute("%a: memref<8xf32>, %b: memref<3xf32>", body, numbers(8), b)
    assert b.tolist() == [8, 1, 5]


def test_a_prefetch_may_ask_for_any_address() -> None:
    body = "nkvector.prefetch %a[%c0 + 1000000, %c1 - 5] : memref<2x2xf32>"
    array = numbers(2, 2)
    execute("%a: memref<2x2xf32>", body, array)
    assert np.array_equal(array, numbers(2, 2))


# ----------------------------------------------------------------------------------- upstream


def test_a_pointer_gets_its_shape_by_reinterpret_cast() -> None:
    body = """
      %m = memref.reinterpret_cast %a to offset: [1], sizes: [2, 2], strides: [%c2, 1]
        : memref<f32> to memref<2x2xf32, strided<[?, 1], offset: 1>>
      %x = memref.load %m[%c1, %c0] : memref<2x2xf32, strided<[?, 1], offset: 1>>
      memref.store %x, %a[] : memref<f32>"""
    memory = numbers(10)
    execute("%a: memref<f32>", body, memory[3:])
    assert memory[3] == 7  # element 3 + 1 + 2 * 1


def test_reinterpret_cast_counts_from_the_aligned_pointer_and_not_from_its_source() -> None:
    body = """
      %m = memref.reinterpret_cast %a to offset: [2], sizes: [2], strides: [1]
        : memref<f32> to memref<2xf32, strided<[1], offset: 2>>
      %n = memref.reinterpret_cast %m to offset: [1], sizes: [2], strides: [1]
        : memref<2xf32, strided<[1], offset: 2>> to memref<2xf32, strided<[1], offset: 1>>
      %x = memref.load %n[%c0] : memref<2xf32, strided<[1], offset: 1>>
      memref.store %x, %a[] : memref<f32>"""
    memory = numbers(8)
    execute("%a: memref<f32>", body, memory)
    assert memory[0] == 2


UPSTREAM_WORKSPACE = """
  %bytes = memref.reinterpret_cast %w to offset: [0], sizes: [72], strides: [1]
    : memref<i8> to memref<72xi8>
  %at = arith.constant 64 : index
  %m = memref.view %bytes[%at][] : memref<72xi8> to memref<2xf32>
  %x = memref.load %m[%c0] : memref<2xf32>
  memref.store %x, %a[] : memref<f32>
  %v = vector.load %m[%c0] : memref<2xf32>, vector<2xf32>
  vector.store %v, %m[%c0] : memref<2xf32>, vector<2xf32>"""


def test_the_workspace_is_a_last_argument_of_nan_bytes() -> None:
    module = function("%a: memref<f32>, %w: memref<i8>", UPSTREAM_WORKSPACE)
    array = np.zeros(1, f32)
    run(module, "f", [array], workspace=72)
    assert np.isnan(array[0])
    with pytest.raises(ExecutionError, match="outside of an allocation of 1"):
        run(module, "f", [array], workspace=71)


def test_a_view_stays_inside_of_its_bytes() -> None:
    body = UPSTREAM_WORKSPACE.replace("memref<2xf32>", "memref<3xf32>")
    with pytest.raises(ExecutionError, match="12 bytes from 64 are outside of 72 bytes"):
        run(function("%a: memref<f32>, %w: memref<i8>", body), "f", [numbers(1)], workspace=80)


@pytest.mark.parametrize(
    "mask",
    [
        "%k = vector.create_mask %c2 : vector<4xi1>",
        "%k = arith.constant dense<[true, true, false, false]> : vector<4xi1>",
    ],
)
def test_masked_lanes_are_not_touched(mask: str) -> None:
    body = f"""
      {mask}
      %seven = arith.constant dense<7.0> : vector<4xf32>
      %x = vector.maskedload %a[%c0], %k, %seven
        : memref<2xf32>, vector<4xi1>, vector<4xf32> into vector<4xf32>
      vector.store %x, %b[%c0] : memref<4xf32>, vector<4xf32>
      vector.maskedstore %c[%c1], %k, %x : memref<3xf32>, vector<4xi1>, vector<4xf32>"""
    b, c = np.zeros(4, f32), np.zeros(3, f32)
    execute("%a: memref<2xf32>, %b: memref<4xf32>, %c: memref<3xf32>", body, numbers(2), b, c)
    assert b.tolist() == [1, 2, 7, 7]
    assert c.tolist() == [0, 1, 2]
    with pytest.raises(ExecutionError, match=r"'vector.maskedload': elements 1 to 2 are outside"):
        wrong = body.replace("%a[%c0]", "%a[%c1]")
        arguments = "%a: memref<2xf32>, %b: memref<4xf32>, %c: memref<3xf32>"
        execute(arguments, wrong, numbers(2), b, c)


def test_a_mask_may_have_holes() -> None:
    body = """
      %k = arith.constant dense<[true, false, true, false]> : vector<4xi1>
      %x = arith.constant dense<[1.0, 2.0, 3.0, 4.0]> : vector<4xf32>
      vector.maskedstore %a[%c0], %k, %x : memref<3xf32>, vector<4xi1>, vector<4xf32>"""
    array = np.zeros(3, f32)
    execute("%a: memref<3xf32>", body, array)
    assert array.tolist() == [1, 0, 3]


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        # In order from the accumulator: 2^24 swallows each 1 by itself.
        ("vector.reduction <add>, %x, %big : vector<4xf32> into f32", 2.0**24),
        (
            "vector.reduction <add>, %x, %big fastmath<reassoc> : vector<4xf32> into f32",
            2.0**24 + 4,
        ),
        ("vector.reduction <add>, %x : vector<4xf32> into f32", 4.0),
    ],
)
def test_a_reduction_keeps_its_order_unless_it_may_not(op: str, expected: float) -> None:
    body = f"""
      %big = arith.constant 16777216.0 : f32
      %one = arith.constant 1.0 : f32
      %x = vector.broadcast %one : f32 to vector<4xf32>
      %r = {op}
      memref.store %r, %a[] : memref<f32>"""
    array = np.zeros(1, f32)
    execute("%a: memref<f32>", body, array)
    assert array[0] == expected


def test_a_prefetch_intrinsic_does_nothing() -> None:
    body = """
      %p = "memref.extract_aligned_pointer_as_index"(%a) : (memref<f32>) -> index
      %q = arith.addi %p, %c2 : index
      %i = arith.index_cast %q : index to i64
      %ptr = llvm.inttoptr %i : i64 to !llvm.ptr
      %rw = arith.constant 0 : i32
      llvm.call_intrinsic "llvm.prefetch.p0"(%ptr, %rw, %rw, %rw)
        : (!llvm.ptr, i32, i32, i32) -> ()"""
    execute("%a: memref<f32>", body, numbers(4))
    with pytest.raises(ExecutionError, match=r"'llvm.ctlz' has no semantics here"):
        execute("%a: memref<f32>", body.replace("llvm.prefetch.p0", "llvm.ctlz"), numbers(4))


def test_index_arithmetic_addresses_vectors() -> None:
    body = """
      %c3 = arith.constant 3 : index
      %m = memref.reinterpret_cast %a to offset: [0], sizes: [12], strides: [1]
        : memref<f32> to memref<12xf32>
      scf.for %i = %c0 to %c2 step %c1 {
        %row = arith.muli %i, %c3 : index
        %up = arith.addi %row, %c3 : index
        %at = arith.subi %up, %c1 : index
        %x = vector.load %m[%row] : memref<12xf32>, vector<4xf32>
        %y = arith.addf %x, %x : vector<4xf32>
        %z = arith.mulf %y, %x : vector<4xf32>
        vector.store %z, %m[%at] : memref<12xf32>, vector<4xf32>
      }"""
    memory = np.ones(12, f32)
    execute("%a: memref<f32>", body, memory)
    assert memory.tolist() == [1, 1, 2, 2, 2, 8, 8, 8, 2, 1, 1, 1]
