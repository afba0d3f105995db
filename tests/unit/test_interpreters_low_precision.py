"""Rules of the interpreters on bf16, f16 and integers, against numpy on the same numbers."""

import math
from collections.abc import Callable
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from nkdsl.interpreters import ExecutionError, native_arguments, run
from nkdsl.interpreters.nanokernel import MEANINGLESS
from nkdsl.targets.semantics import dot_bf16, fma
from tests.unit.test_interpreters import block, function

bf16, f16, f32 = ml_dtypes.bfloat16, np.float16, np.float32
i8, u8, i16, i32 = np.int8, np.uint8, np.int16, np.int32

TARGET = 'nanokernel.target = "znver4"'

MLIR = {bf16: "bf16", f16: "f16", f32: "f32", i8: "i8", u8: "i8", i32: "i32"}


def execute(arguments: str, body: str, *values: object) -> None:
    run(function(arguments, body, TARGET), "f", values)  # type: ignore[arg-type]


def drawn(dtype: type, *shape: int, seed: int = 0) -> np.ndarray:
    """Random numbers of modest size, or integers of the full range."""
    random = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        return random.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return random.uniform(-1, 1, shape).astype(dtype)


def matrix_product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """`c + a @ b` of integers, modulo 2^32."""
    return (c.astype(np.int64) + a.astype(np.int64) @ b.astype(np.int64)).astype(i32)


def in_groups(matrix: np.ndarray, group: int) -> np.ndarray:
    """K×N as ⌈K/G⌉×N×G, the last group filled with zeros."""
    depth, width = matrix.shape
    padded = np.zeros((-(-depth // group) * group, width), matrix.dtype)
    padded[:depth] = matrix
    return padded.reshape(-1, group, width).transpose(0, 2, 1).copy()


def in_order(a: np.ndarray, b: np.ndarray, acc: np.ndarray) -> np.ndarray:
    """Products in f32, each added with one rounding."""
    for k in range(a.shape[1]):
        factors = (x.astype(f32) for x in np.broadcast_arrays(a[:, k, None], b[None, k]))
        acc = fma(acc, *factors)
    return acc


# ------------------------------------------------------------------------------ whole products


@pytest.mark.parametrize("factor", [bf16, f16])
@pytest.mark.parametrize("narrow", [False, True])
def test_a_gemm_adds_up_in_f32_and_rounds_once(factor: type, narrow: bool) -> None:
    result = factor if narrow else f32
    a, b, c = drawn(factor, 3, 50), drawn(factor, 50, 4, seed=1), drawn(result, 3, 4, seed=2)
    wanted: np.ndarray = in_order(a, b, c.astype(f32)).astype(result)
    t, r = MLIR[factor], MLIR[result]
    execute(
        f"%a: memref<3x50x{t}>, %b: memref<50x4x{t}>, %c: memref<3x4x{r}>",
        f"nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<3x50x{t}>, memref<50x4x{t}>) "
        f"outs(%c[m, n] : memref<3x4x{r}>)",
        *(a, b, c),
    )
    assert c.tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    ("lhs", "rhs", "unsigned"),
    [(i8, i8, ""), (u8, i8, "unsigned lhs"), (i8, u8, "unsigned rhs"), (u8, u8, "unsigned both")],
)
@pytest.mark.parametrize("grouped", [False, True])
def test_a_gemm_reads_integers_with_and_without_a_sign(
    lhs: type, rhs: type, unsigned: str, grouped: bool
) -> None:
    a, b, c = drawn(lhs, 3, 9), drawn(rhs, 9, 4, seed=1), drawn(i32, 3, 4, seed=2)
    wanted = matrix_product(a, b, c)
    type_, index = ("3x4x4xi8", "k floordiv 4, n, k mod 4") if grouped else ("9x4xi8", "k, n")
    execute(
        f"%a: memref<3x9xi8>, %b: memref<{type_}>, %c: memref<3x4xi32>",
        f"nanokernel.gemm ins(%a[m, k], %b[{index}] : memref<3x9xi8>, memref<{type_}>) {unsigned} "
        "outs(%c[m, n] : memref<3x4xi32>)",
        *(a, in_groups(b, 4) if grouped else b, c),
    )
    np.testing.assert_array_equal(c, wanted)


def test_an_epilogue_turns_integer_sums_into_bytes() -> None:
    a, b, bias = drawn(u8, 3, 9), drawn(i8, 9, 4, seed=1), drawn(f32, 4, seed=2) * f32(50)
    c = np.zeros((3, 4), i8)
    execute(
        "%a: memref<3x9xi8>, %b: memref<9x4xi8>, %c: memref<3x4xi8>, %d: memref<4xf32>",
        """nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<3x9xi8>, memref<9x4xi8>) unsigned lhs
          outs(%c[m, n] : memref<3x4xi8>) from zero epilogue(%d[n] : memref<4xf32>) {
        ^bb0(%sum: i32, %d_n: f32):
          %x = arith.sitofp %sum : i32 to f32
          %s = arith.constant 1.0e-3 : f32
          %y = arith.mulf %x, %s : f32
          %z = arith.addf %y, %d_n : f32
          %r = math.roundeven %z : f32
          %low = arith.constant -128.0 : f32
          %high = arith.constant 127.0 : f32
          %l = arith.maximumf %r, %low : f32
          %h = arith.minimumf %l, %high : f32
          %q = arith.fptosi %h : f32 to i8
          nanokernel.yield %q : i8
        }""",
        *(a, b, c, bias),
    )
    sums = matrix_product(a, b, np.zeros((3, 4), i32)).astype(f32)
    wanted = np.clip(np.rint(sums * f32(1e-3) + bias), -128, 127).astype(i8)
    np.testing.assert_array_equal(c, wanted)


# -------------------------------------------------------------------------------------- panels


@pytest.mark.parametrize(("dtype", "group"), [(bf16, 2), (i8, 4), (f16, 2)])
@pytest.mark.parametrize("depth", [1, 7, 8])
def test_pack_puts_steps_of_the_reduction_into_groups(dtype: type, group: int, depth: int) -> None:
    source, rows = drawn(dtype, 9, 9), -(-depth // group)
    panel = drawn(dtype, rows, 6, group)
    t = MLIR[dtype]
    execute(
        f"%a: memref<9x9x{t}>, %p: memref<{rows}x6x{group}x{t}>",
        f"nanokernel.pack %a[n: %c2, k: %c1] extents {depth} x 5 into %p "
        f": memref<9x9x{t}>, memref<{rows}x6x{group}x{t}>",
        *(source, panel),
    )
    matrix = source[2:7, 1 : 1 + depth].T
    assert panel[:, :5].tobytes() == in_groups(matrix, group).tobytes()
    meaningless = panel[:, 5:].astype(np.float64)
    assert (np.isnan(meaningless) | (meaningless == MEANINGLESS)).all()


# --------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize("lanes", ["m", "n"])
@pytest.mark.parametrize("grouped", ["none", "lhs", "rhs", "both"])
@pytest.mark.parametrize("depth", [4, 5])
def test_a_step_takes_pairs_of_bf16(lanes: str, grouped: str, depth: int) -> None:
    a, b = drawn(bf16, 3, depth), drawn(bf16, depth, 4, seed=1)
    c = drawn(f32, 3, 4, seed=2)
    wanted = c
    left, right = (in_groups(x, 2) for x in (a.T, b))
    for lhs, rhs in zip(left, right, strict=True):
        pairs = (np.broadcast_to(x, (3, 4, 2)) for x in (lhs[:, None], rhs[None]))
        wanted = dot_bf16(wanted, *pairs)
    type_, q = block(3, 4, lanes), -(-depth // 2)
    lhs_type, lhs_at = f"memref<3x{depth}xbf16>", "m: %c0, k: %c0"
    rhs_type, rhs_at = f"memref<{depth}x4xbf16>", "k: %c0, n: %c0"
    if grouped in ("lhs", "both"):
        a, lhs_type, lhs_at = left, f"memref<{q}x3x2xbf16>", "k: %c0, m: %c0, g: %c0"
    if grouped in ("rhs", "both"):
        b, rhs_type, rhs_at = right, f"memref<{q}x4x2xbf16>", "k: %c0, n: %c0, g: %c0"
    execute(
        f"%a: {lhs_type}, %b: {rhs_type}, %c: memref<3x4xf32>",
        f"""%x = nanokernel.load %c[m: %c0, n: %c0] : memref<3x4xf32>, {type_}
          %y = nanokernel.step %x, %a[{lhs_at}], %b[{rhs_at}] depth {depth} using "dot.bf16x16"
            : {lhs_type}, {rhs_type}, {type_}
          nanokernel.store %y, %c[m: %c0, n: %c0] : memref<3x4xf32>, {type_}""",
        *(a, b, c),
    )
    assert c.tobytes() == wanted.tobytes()


INTEGERS = {"u8s8": (u8, i8), "s8u8": (i8, u8), "s8s8": (i8, i8), "u8u8": (u8, u8)}


@pytest.mark.parametrize("types", INTEGERS)
@pytest.mark.parametrize("lanes", ["n", "k"])
@pytest.mark.parametrize("depth", [3, 64, 70])
def test_a_step_takes_groups_of_integers(types: str, lanes: str, depth: int) -> None:
    lhs, rhs = INTEGERS[types]
    a, b, c = drawn(lhs, 3, depth), drawn(rhs, depth, 4, seed=1), drawn(i32, 3, 4, seed=2)
    wanted = matrix_product(a, b, c)
    type_ = block(3, 4, lanes, "i32")
    execute(
        f"%a: memref<3x{depth}xi8>, %b: memref<{depth}x4xi8>, %c: memref<3x4xi32>",
        f"""%x = nanokernel.zero : {type_}
          %y = nanokernel.step %x, %a[m: %c0, k: %c0], %b[k: %c0, n: %c0]
            depth {depth} using "dot.{types}x16"
            : memref<3x{depth}xi8>, memref<{depth}x4xi8>, {type_}
          nanokernel.store %y, %c[m: %c0, n: %c0] accumulate : memref<3x4xi32>, {type_}""",
        *(a, b, c),
    )
    np.testing.assert_array_equal(c, wanted)


@pytest.mark.parametrize(("flip", "name"), [("lhs", "u8s8"), ("rhs", "s8u8")])
def test_sums_make_up_for_the_signs_that_a_step_flips(flip: str, name: str) -> None:
    a, b = drawn(i8, 4, 7), drawn(i8, 7, 4, seed=1)
    c, sums = np.zeros((4, 4), i32), np.zeros(4, i32)
    wanted = matrix_product(a, b, c)
    other = b if flip == "lhs" else a.T
    type_ = block(4, 4, "n", "i32")
    execute(
        """%a: memref<4x7xi8>, %b: memref<7x4xi8>, %c: memref<4x4xi32>,
           %p: memref<2x4x4xi8>, %s: memref<4xi32>""",
        f"""nanokernel.sum %p times -128 into %s : memref<2x4x4xi8>, memref<4xi32>
          %z = nanokernel.zero : {type_}
          %y = nanokernel.step %z, %a[m: %c0, k: %c0], %b[k: %c0, n: %c0]
            depth 7 using "dot.{name}x16" flip {flip} : memref<4x7xi8>, memref<7x4xi8>, {type_}
          nanokernel.store %y, %c[m: %c0, n: %c0] : memref<4x4xi32>, {type_}""",
        *(a, b, c, in_groups(other, 4), sums),
    )
    assert sums.tolist() == (-128 * other.astype(int).sum(axis=0)).tolist()
    np.testing.assert_array_equal(c + (sums if flip == "lhs" else sums[:, None]), wanted)


def test_the_sums_of_a_panel_may_be_of_numbers_without_a_sign() -> None:
    panel, sums = drawn(u8, 2, 3, 4), np.zeros(3, i32)
    execute(
        "%p: memref<2x3x4xi8>, %s: memref<3xi32>",
        "nanokernel.sum %p unsigned times 128 into %s : memref<2x3x4xi8>, memref<3xi32>",
        *(panel, sums),
    )
    assert sums.tolist() == (128 * panel.astype(int).sum(axis=(0, 2))).tolist()


@pytest.mark.parametrize("factor", [bf16, f16])
def test_a_step_of_a_widening_instruction_extends_its_factors(factor: type) -> None:
    a, b, c = drawn(factor, 3, 5), drawn(factor, 5, 4, seed=1), drawn(factor, 3, 4, seed=2)
    wanted: np.ndarray = in_order(a, b, c.astype(f32)).astype(factor)
    type_, t = block(3, 4, "n"), MLIR[factor]
    execute(
        f"%a: memref<3x5x{t}>, %b: memref<5x4x{t}>, %c: memref<3x4x{t}>",
        f"""%x = nanokernel.load %c[m: %c0, n: %c0] : memref<3x4x{t}>, {type_}
          %y = nanokernel.step %x, %a[m: %c0, k: %c0], %b[k: %c0, n: %c0]
            depth 5 using "fma.{t}x16" : memref<3x5x{t}>, memref<5x4x{t}>, {type_}
          nanokernel.store %y, %c[m: %c0, n: %c0] : memref<3x4x{t}>, {type_}""",
        *(a, b, c),
    )
    assert c.tobytes() == wanted.tobytes()


@pytest.mark.parametrize(("dtype", "group", "name"), [(bf16, 2, "bf16"), (i8, 4, "s8s8")])
def test_a_step_keeps_what_it_loads_in_groups(dtype: type, group: int, name: str) -> None:
    # The third group of steps, ragged, with two of three columns in existence.
    start, depth = 2 * group, group + 1
    a, b = drawn(dtype, 1, start + depth), drawn(dtype, start + depth, 3, seed=1)
    panel = drawn(dtype, 4, 3, group)
    before = panel.copy()
    t, s = MLIR[dtype], "f32" if dtype == bf16 else "i32"
    lhs, rhs = f"memref<1x{start + depth}x{t}>", f"memref<{start + depth}x3x{t}>"
    kept, type_ = f"memref<4x3x{group}x{t}>", block(1, 3, "n", s)
    execute(
        f"%a: {lhs}, %b: {rhs}, %p: {kept}",
        f"""%z = nanokernel.zero : {type_}
          %k = arith.constant {start} : index
          %y = nanokernel.step %z, %a[m: %c0, k: %k], %b[k: %k, n: %c0]
            depth {depth} using "dot.{name}x16" tail %c2 keep %p : {lhs}, {rhs}, {kept}, {type_}""",
        *(a, b, panel),
    )
    assert panel[:2].tobytes() == before[:2].tobytes()
    assert panel[2:4, :2].tobytes() == in_groups(b[start:, :2], group).tobytes()


def test_a_group_is_not_kept_from_its_middle() -> None:
    type_ = block(1, 3, "n")
    with pytest.raises(ExecutionError, match="step 1 starts within a group"):
        execute(
            "%a: memref<1x4xbf16>, %b: memref<4x3xbf16>, %p: memref<2x3x2xbf16>",
            f"""%z = nanokernel.zero : {type_}
              %y = nanokernel.step %z, %a[m: %c0, k: %c1], %b[k: %c1, n: %c0]
                depth 2 using "dot.bf16x16" keep %p
                : memref<1x4xbf16>, memref<4x3xbf16>, memref<2x3x2xbf16>, {type_}""",
            *(drawn(bf16, 1, 4), drawn(bf16, 4, 3), drawn(bf16, 2, 3, 2)),
        )


def test_sums_beyond_a_tail_have_no_meaning() -> None:
    a, b, c = drawn(u8, 2, 4), drawn(i8, 4, 3, seed=1), np.zeros((2, 3), i32)
    type_ = block(2, 3, "n", "i32")
    execute(
        "%a: memref<2x4xi8>, %b: memref<4x3xi8>, %c: memref<2x3xi32>",
        f"""%z = nanokernel.zero : {type_}
          %y = nanokernel.step %z, %a[m: %c0, k: %c0], %b[k: %c0, n: %c0]
            depth 4 using "dot.u8s8x16" tail %c2 : memref<2x4xi8>, memref<4x3xi8>, {type_}
          nanokernel.store %y, %c[m: %c0, n: %c0] : memref<2x3xi32>, {type_}""",
        *(a, b, c),
    )
    np.testing.assert_array_equal(c[:, :2], matrix_product(a, b, np.zeros((2, 3), i32))[:, :2])
    assert (c[:, 2] == MEANINGLESS).all()


# -------------------------------------------------------------------------------------- stores


def test_a_store_scales_then_adds_then_runs_its_epilogue() -> None:
    sums, c = drawn(f32, 2, 3), drawn(bf16, 2, 3, seed=1)
    row, column, one = drawn(bf16, 4, seed=2), drawn(f32, 3, seed=3), drawn(f32, seed=4)
    residual = drawn(f32, 2, 4, seed=5)
    scaled = fma(f32(3) * sums, np.full((2, 3), f32(-2)), c.astype(f32))
    type_ = block(2, 3, "n")
    execute(
        """%s: memref<2x3xf32>, %c: memref<2x3xbf16>, %row: memref<4xbf16>, %col: memref<3xf32>,
           %one: memref<f32>, %r: memref<2x4xf32>""",
        f"""%x = nanokernel.load %s[m: %c0, n: %c0] : memref<2x3xf32>, {type_}
          %alpha = arith.constant 3.0 : f32
          %beta = arith.constant -2.0 : f32
          nanokernel.store %x, %c[m: %c0, n: %c0] tail %c2 scale %alpha, %beta
            epilogue(%row[n: %c1], %col[m: %c1], %one[], %r[m: %c0, n: %c1]
              : memref<4xbf16>, memref<3xf32>, memref<f32>, memref<2x4xf32>) {{
          ^bb0(%sum: f32, %b: bf16, %d: f32, %o: f32, %e: f32):
            %w = arith.extf %b : bf16 to f32
            %p = arith.addf %sum, %w : f32
            %q = arith.mulf %p, %d : f32
            %t = arith.subf %q, %o : f32
            %u = arith.addf %t, %e : f32
            %h = arith.truncf %u : f32 to bf16
            nanokernel.yield %h : bf16
          }} : memref<2x3xbf16>, {type_}""",
        *(sums, c, row, column, one, residual),
    )
    wanted = ((scaled + row[1:4].astype(f32)) * column[1:3, None] - one) + residual[:, 1:]
    assert c[:, :2].tobytes() == wanted[:, :2].astype(bf16).tobytes()
    assert c[:, 2].tobytes() == drawn(bf16, 2, 3, seed=1)[:, 2].tobytes()


# ----------------------------------------------------------------------------------- registers


@pytest.mark.parametrize("types", ["u8s8", "s8u8"])
def test_a_dot_reads_registers_as_its_instruction_does(types: str) -> None:
    a, b = (drawn(i8, 64, seed=seed) for seed in (0, 1))
    c = drawn(i32, 16, seed=2)
    left, right = (x.view(INTEGERS[types][i]).astype(np.int64) for i, x in enumerate((a, b)))
    wanted = (c + (left * right).reshape(16, 4).sum(axis=1)).astype(i32)
    execute(
        "%a: memref<64xi8>, %b: memref<64xi8>, %c: memref<16xi32>",
        f"""%x = nkvector.load %a[%c0] : memref<64xi8>, vector<64xi8>
          %y = nkvector.load %b[%c0] : memref<64xi8>, vector<64xi8>
          %z = nkvector.load %c[%c0] : memref<16xi32>, vector<16xi32>
          %r = nkvector.dot %x, %y, %z using "dot.{types}x16" : vector<64xi8>, vector<16xi32>
          nkvector.store %r, %c[%c0] : memref<16xi32>, vector<16xi32>""",
        *(a, b, c),
    )
    np.testing.assert_array_equal(c, wanted)


@pytest.mark.parametrize(("active", "read"), [("", 4), (", %c2", 2), (", %c0", 0)])
def test_a_group_is_loaded_and_repeated(active: str, read: int) -> None:
    a, c = drawn(i8, 3, 5), np.zeros(12, i8)
    execute(
        "%a: memref<3x5xi8>, %c: memref<12xi8>",
        f"""%x = nkvector.broadcast_load %a[%c2, %c1] group 4{active}
            : memref<3x5xi8>, vector<12xi8>
          nkvector.store %x, %c[%c0] : memref<12xi8>, vector<12xi8>""",
        *(a, c),
    )
    np.testing.assert_array_equal(c, np.tile([*a[2, 1 : 1 + read], *[0] * (4 - read)], 3))


def test_a_group_beyond_an_allocation_is_refused() -> None:
    body = """%x = nkvector.broadcast_load %a[%c2] group 2 : memref<3xbf16>, vector<4xbf16>"""
    with pytest.raises(ExecutionError, match="outside of an allocation"):
        execute("%a: memref<3xbf16>", body, drawn(bf16, 3))


# ---------------------------------------------------------------------------------- intrinsics


def upstream(
    intrinsic: str, *vectors: np.ndarray, result: np.ndarray, as_i32: bool = False
) -> None:
    """Call an intrinsic on whole arrays; integers as they are, or bitcast to i32."""
    names, types, loads, operands = "abc"[: len(vectors)], [], [], []
    for name, vector in zip(names, vectors, strict=True):
        t = {"int16": "i16"}.get(str(vector.dtype)) or MLIR[vector.dtype.type]
        loads.append(f"%v{name} = vector.load %{name}[%c0] : memref<{len(vector)}x{t}>,")
        loads[-1] += f" vector<{len(vector)}x{t}>"
        operand = (f"%v{name}", f"vector<{len(vector)}x{t}>")
        if as_i32 and t == "i8":
            operand = (f"%w{name}", f"vector<{len(vector) // 4}xi32>")
            loads.append(
                f"%w{name} = vector.bitcast %v{name} : vector<{len(vector)}xi8> to {operand[1]}"
            )
        operands.append(operand)
        types.append(f"memref<{len(vector)}x{t}>")
    of_result = f"{len(result)}x{MLIR[result.dtype.type]}"
    given = ", ".join(value for value, _ in operands)
    arguments = ", ".join(f"%{n}: {t}" for n, t in zip(names, types, strict=True))
    body = (
        "\n".join(loads)
        + f"""
      %r = llvm.call_intrinsic "{intrinsic}"({given})
        : ({", ".join(t for _, t in operands)}) -> vector<{of_result}>
      vector.store %r, %out[%c0] : memref<{of_result}>, vector<{of_result}>"""
    )
    execute(f"{arguments}, %out: memref<{of_result}>", body, *vectors, result)


@pytest.mark.parametrize("bits", [128, 256, 512])
def test_the_intrinsic_of_bf16(bits: int) -> None:
    lanes = bits // 32
    c, out = drawn(f32, lanes), np.zeros(lanes, f32)
    a, b = drawn(bf16, 2 * lanes, seed=1), drawn(bf16, 2 * lanes, seed=2)
    upstream(f"llvm.x86.avx512bf16.dpbf16ps.{bits}", c, a, b, result=out)
    assert out.tobytes() == dot_bf16(c, a.reshape(-1, 2), b.reshape(-1, 2)).tobytes()


@pytest.mark.parametrize("as_i32", [False, True])
@pytest.mark.parametrize(
    ("name", "lhs", "rhs", "bits"),
    [
        *(("avx512.vpdpbusd", u8, i8, bits) for bits in (128, 256, 512)),
        *(("avx2.vpdpbssd", i8, i8, bits) for bits in (128, 256)),
        *(("avx2.vpdpbsud", i8, u8, bits) for bits in (128, 256)),
        *(("avx2.vpdpbuud", u8, u8, bits) for bits in (128, 256)),
    ],
)
def test_the_intrinsics_of_bytes(name: str, lhs: type, rhs: type, bits: int, as_i32: bool) -> None:
    c, out = drawn(i32, bits // 32), np.zeros(bits // 32, i32)
    a, b = drawn(lhs, bits // 8, seed=1), drawn(rhs, bits // 8, seed=2)
    upstream(f"llvm.x86.{name}.{bits}", c, a, b, result=out, as_i32=as_i32)
    products = (a.astype(np.int64) * b).reshape(-1, 4).sum(axis=1)
    np.testing.assert_array_equal(out, (c + products).astype(i32))


@pytest.mark.parametrize(("name", "lanes"), [("avx2.pmadd.wd", 8), ("avx512.pmaddw.d.512", 16)])
def test_the_intrinsics_of_words(name: str, lanes: int) -> None:
    a, b, out = drawn(i16, 2 * lanes), drawn(i16, 2 * lanes, seed=1), np.zeros(lanes, i32)
    a[:2] = b[:2] = -(2**15)  # the one sum that wraps
    upstream(f"llvm.x86.{name}", a, b, result=out)
    products = (a.astype(np.int64) * b).reshape(-1, 2).sum(axis=1)
    np.testing.assert_array_equal(out, products.astype(i32))
    assert out[0] == -(2**31)


def test_an_unknown_intrinsic_is_refused() -> None:
    with pytest.raises(ExecutionError, match="has no semantics here"):
        upstream("llvm.x86.avx512.vpdpbusds.128", drawn(i32, 4), result=np.zeros(4, i32))


def test_a_group_is_broadcast_through_one_integer() -> None:
    a, c = drawn(bf16, 6), np.zeros(8, bf16)
    execute(
        "%a: memref<6xbf16>, %c: memref<8xbf16>",
        """%x = vector.load %a[%c2] : memref<6xbf16>, vector<2xbf16>
          %y = vector.bitcast %x : vector<2xbf16> to vector<1xi32>
          %z = vector.extract %y[0] : i32 from vector<1xi32>
          %w = vector.broadcast %z : i32 to vector<4xi32>
          %v = vector.bitcast %w : vector<4xi32> to vector<8xbf16>
          %e = memref.load %a[%c0] : memref<6xbf16>
          %u = vector.insert %e, %v[3] : bf16 into vector<8xbf16>
          vector.store %u, %c[%c0] : memref<8xbf16>, vector<8xbf16>""",
        *(a, c),
    )
    wanted = np.tile(a[2:4], 4)
    wanted[3] = a[0]
    assert c.tobytes() == wanted.tobytes()


# ------------------------------------------------------------------------------ scalars, vectors


def unary(op: str, source: str, result: str, values: np.ndarray, out: np.ndarray) -> list[list]:
    """An operation on an array, as linalg's bodies have it, and on one element after the other."""
    n, many = len(values), [out.copy(), out.copy()]
    arguments = f"%a: memref<{n}x{source}>, %c: memref<{n}x{result}>"
    types = source if source == result else f"{source} to {result}"
    execute(
        arguments,
        f"""linalg.generic {{indexing_maps = [affine_map<(m) -> (m)>, affine_map<(m) -> (m)>],
            iterator_types = ["parallel"]}}
            ins(%a : memref<{n}x{source}>) outs(%c : memref<{n}x{result}>) {{
          ^bb0(%x: {source}, %old: {result}):
            %y = {op} %x : {types}
            linalg.yield %y : {result}
          }}""",
        *(values, many[0]),
    )
    execute(
        arguments,
        f"""%end = arith.constant {n} : index
          scf.for %i = %c0 to %end step %c1 {{
            %x = memref.load %a[%i] : memref<{n}x{source}>
            %y = {op} %x : {types}
            memref.store %y, %c[%i] : memref<{n}x{result}>
          }}""",
        *(values, many[1]),
    )
    return [x.tolist() for x in many]


def test_integers_are_extended_and_cut() -> None:
    values = np.array([0, 1, -1, 127, -128, -86], i8)
    for op, wanted in (("arith.extsi", values), ("arith.extui", values.view(u8))):
        assert unary(op, "i8", "i32", values, np.zeros(6, i32)) == [wanted.tolist()] * 2
    wide = np.array([300, -300, 2**31 - 1, -(2**31), 128, -129], i32)
    assert (
        unary("arith.trunci", "i32", "i8", wide, np.zeros(6, i8)) == [wide.astype(i8).tolist()] * 2
    )


def test_integers_become_floating_point_numbers_with_one_rounding() -> None:
    values = np.array([0, -1, 2**24 + 1, 2**31 - 1, -(2**31), 16777219], i32)
    nearest = values.astype(np.float64).astype(f32).tolist()
    assert unary("arith.sitofp", "i32", "f32", values, np.zeros(6, f32)) == [nearest] * 2
    unsigned = values.view(np.uint32).astype(np.float64).astype(f32).tolist()
    assert unary("arith.uitofp", "i32", "f32", values, np.zeros(6, f32)) == [unsigned] * 2


def test_floating_point_numbers_are_cut_to_integers() -> None:
    values = np.array([1.9, -1.9, 127.5, -128.9, 0.0, -0.5], f32)
    wanted = [1, -1, 127, -128, 0, 0]
    assert unary("arith.fptosi", "f32", "i8", values, np.zeros(6, i8)) == [wanted] * 2
    positive = np.array([1.9, 200.5, 255.9], f32)
    found = unary("arith.fptoui", "f32", "i8", positive, np.zeros(3, i8))
    assert found == [[1, 200 - 256, -1]] * 2


def test_bf16_and_f16_are_extended_exactly_and_rounded_to_nearest_even() -> None:
    values = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-20, 2.0**-133, 3e38], f32)
    wanted = [1.0, 1 + 2.0**-6, 1 + 2.0**-7, 2.0**-133, float(f32(3e38).astype(bf16))]
    found = unary("arith.truncf", "f32", "bf16", values, np.zeros(5, bf16))
    assert [[float(x) for x in row] for row in found] == [wanted] * 2
    for dtype in (bf16, f16):
        narrow = drawn(dtype, 7)
        found = unary("arith.extf", MLIR[dtype], "f32", narrow, np.zeros(7, f32))
        assert found == [narrow.astype(f32).tolist()] * 2


BINARY: dict[str, Callable[[int, int], int]] = {
    "arith.addi": lambda x, y: x + y,
    "arith.subi": lambda x, y: x - y,
    "arith.muli": lambda x, y: x * y,
    "arith.andi": lambda x, y: x & y,
    "arith.ori": lambda x, y: x | y,
    "arith.xori": lambda x, y: x ^ y,
    "arith.shli": lambda x, y: x << (y % 8),
    "arith.shrsi": lambda x, y: x >> (y % 8),
    "arith.shrui": lambda x, y: (x % 256) >> (y % 8),
    "arith.maxsi": max,
    "arith.minsi": min,
    "arith.maxui": lambda x, y: max(x % 256, y % 256),
    "arith.minui": lambda x, y: min(x % 256, y % 256),
    "arith.divsi": lambda x, y: int(Fraction(x, y)),
    "arith.remsi": lambda x, y: x - y * int(Fraction(x, y)),
    "arith.divui": lambda x, y: (x % 256) // (y % 256),
    "arith.remui": lambda x, y: (x % 256) % (y % 256),
}


@pytest.mark.parametrize("op", BINARY)
def test_integers_wrap_in_the_width_of_their_type(op: str) -> None:
    a, b = drawn(i8, 40), drawn(i8, 40, seed=1)
    b[b == 0] = 1
    if op.startswith("arith.sh"):
        b %= 8
    exact = (BINARY[op](x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True))
    wanted = [(x + 128) % 256 - 128 for x in exact]
    vectors, scalars = np.zeros((2, 40), i8)
    execute(
        "%a: memref<40xi8>, %b: memref<40xi8>, %c: memref<40xi8>",
        f"""%x = vector.load %a[%c0] : memref<40xi8>, vector<40xi8>
          %y = vector.load %b[%c0] : memref<40xi8>, vector<40xi8>
          %z = {op} %x, %y : vector<40xi8>
          vector.store %z, %c[%c0] : memref<40xi8>, vector<40xi8>""",
        *(a, b, vectors),
    )
    execute(
        "%a: memref<40xi8>, %b: memref<40xi8>, %c: memref<40xi8>",
        f"""%end = arith.constant 40 : index
          scf.for %i = %c0 to %end step %c1 {{
            %x = memref.load %a[%i] : memref<40xi8>
            %y = memref.load %b[%i] : memref<40xi8>
            %z = {op} %x, %y : i8
            memref.store %z, %c[%i] : memref<40xi8>
          }}""",
        *(a, b, scalars),
    )
    assert vectors.tolist() == wanted
    assert scalars.tolist() == wanted


def test_the_bits_of_a_number_are_read_as_another() -> None:
    values = np.array([1.0, -0.0, 1.5, np.inf], f32)
    wanted = values.view(i32)
    assert unary("arith.bitcast", "f32", "i32", values, np.zeros(4, i32)) == [wanted.tolist()] * 2
    back = unary("arith.bitcast", "i32", "f32", wanted, np.zeros(4, f32))
    assert back == [values.tolist()] * 2


@pytest.mark.parametrize("op", ["exp", "tanh", "erf", "sqrt", "roundeven", "floor", "absf"])
def test_functions_are_rounded_once(op: str) -> None:
    other: dict[str, Callable[[float], float]] = {"roundeven": round, "absf": abs}
    exact = other.get(op) or getattr(math, op)
    for dtype in (f32, bf16, f16):
        values = np.abs(drawn(dtype, 9) * dtype(4))
        wanted = np.array([exact(float(x)) for x in values]).astype(f32 if dtype == bf16 else dtype)
        found = unary(f"math.{op}", MLIR[dtype], MLIR[dtype], values, np.zeros(9, dtype))
        assert found == [wanted.astype(dtype).tolist()] * 2


# ------------------------------------------------------------------------------------ arguments


def test_integers_without_a_sign_are_the_same_memory() -> None:
    a, c = np.array([200, 3], u8), np.zeros(2, i32)
    module = function(
        "%a: memref<2xi8>, %c: memref<2xi32>",
        """linalg.generic {indexing_maps = [affine_map<(m) -> (m)>, affine_map<(m) -> (m)>],
            iterator_types = ["parallel"]} ins(%a : memref<2xi8>) outs(%c : memref<2xi32>) {
          ^bb0(%x: i8, %y: i32):
            %z = arith.extui %x : i8 to i32
            linalg.yield %z : i32
          }""",
    )
    run(module, "f", [a, c])
    assert c.tolist() == [200, 3]
    types = module.ops.first.function_type.inputs.data  # type: ignore[union-attr]
    assert native_arguments(types, [a, c])[0] is a
