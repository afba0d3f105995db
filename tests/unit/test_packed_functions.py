"""Functions of several products: any of their weights may be packed, and nothing else changes."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from itertools import chain, combinations, pairwise
from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import MemRefType

import nkdsl
from nkdsl import api
from nkdsl.dialects.nanokernel import GemmOp, PackOp
from nkdsl.emulation import amx, qemu
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.frontend import make_context, parse
from nkdsl.packed import Layout, Variants
from nkdsl.planner.registers import block_tile
from nkdsl.runtime import openmp
from nkdsl.runtime.kernel import Kernel
from nkdsl.runtime.workspace import aligned_bytes
from nkdsl.targets import can_run, get_target

TARGET = "x86-64-v3"
OBSTACLE = can_run(get_target(TARGET))
pytestmark = pytest.mark.skipif(OBSTACLE is not None, reason=str(OBSTACLE))

WIDTHS = (19, 37, 53, 21)
"""Inputs and outputs of three layers, none a multiple of any register."""
WEIGHTS = (1, 3, 5)
"""The positions of `%w0`, `%w1` and `%w2`."""

TYPES = {
    # MLIR's type of what is stored, the sums', the keyword, and what follows a sum
    "f32": ("f32", "f32", "", ""),
    "bf16": ("bf16", "f32", "", "%out = arith.truncf %biased : f32 to bf16"),
    "u8s8": ("i8", "i32", "unsigned lhs", "%out = arith.trunci %biased : i32 to i8"),
}


def layer(number: int, source: str, out: str, rows: int, types: str, plan: str = "") -> str:
    """One product of `%w<number>`, stored k by n, and an addition of `%b<number>`."""
    element, sums, signs, rounding = TYPES[types]
    k, n = WIDTHS[number : number + 2]
    a, w, c = (f"memref<{s}x{element}>" for s in (f"{rows}x{k}", f"{k}x{n}", f"{rows}x{n}"))
    add = "arith.addi" if sums == "i32" else "arith.addf"
    return f"""
  nanokernel.gemm ins({source}[m, k], %w{number}[k, n] : {a}, {w}) {signs}
    outs({out}[m, n] : {c}) from zero {plan} epilogue(%b{number}[n] : memref<{n}x{sums}>) {{
  ^bb0(%sum: {sums}, %bias: {sums}):
    %biased = {add} %sum, %bias : {sums}
    {rounding}
    nanokernel.yield {"%out" if rounding else "%biased"} : {element}
  }}"""


def network(types: str = "f32", rows: int = 23, plan: str = "") -> str:
    """Three layers; what two of them leave for the next one lies in the workspace."""
    element, sums, *_ = TYPES[types]
    hidden = [f"memref<{rows}x{n}x{element}>" for n in WIDTHS[1:3]]
    arguments = [f"%x: memref<{rows}x{WIDTHS[0]}x{element}>"]
    for number in range(3):
        k, n = WIDTHS[number : number + 2]
        arguments += [f"%w{number}: memref<{k}x{n}x{element}>", f"%b{number}: memref<{n}x{sums}>"]
    arguments.append(f"%y: memref<{rows}x{WIDTHS[3]}x{element}>")
    return f"""
func.func @network({", ".join(arguments)}) {{
  %h0 = memref.alloc() : {hidden[0]}
  {layer(0, "%x", "%h0", rows, types)}
  %h1 = memref.alloc() : {hidden[1]}
  {layer(1, "%h0", "%h1", rows, types, plan)}
  {layer(2, "%h1", "%y", rows, types)}
  memref.dealloc %h0 : {hidden[0]}
  memref.dealloc %h1 : {hidden[1]}
  return
}}"""


SQUARE = """
func.func @chain(%x: memref<9x32xf32>, %v: memref<32x32xf32>, %w: memref<32x32xf32>,
                 %h: memref<9x32xf32>, %y: memref<9x32xf32>) {
  nanokernel.gemm ins(%x[m, k], %v[k, n] : memref<9x32xf32>, memref<32x32xf32>)
    outs(%h[m, n] : memref<9x32xf32>) from zero
  nanokernel.gemm ins(%h[m, k], %w[k, n] : memref<9x32xf32>, memref<32x32xf32>)
    outs(%y[m, n] : memref<9x32xf32>) from zero
  return
}"""
"""Two products with weights of one shape, and what lies between them an argument."""


def runs(target: str) -> str:
    """A target that this CPU can run."""
    if obstacle := can_run(get_target(target)):
        pytest.skip(obstacle)
    return target


@cache
def compiled(types: str = "f32", target: str = TARGET, threads: int = 1, rows: int = 23) -> Kernel:
    return nkdsl.compile(network(types, rows), target=target, threads=threads)


@cache
def chained() -> Kernel:
    return nkdsl.compile(SQUARE, target=TARGET)


def operands(kernel: Kernel, seed: int = 0) -> list[Any]:
    """Integers so small that bf16 holds all sums of three layers, and nothing is rounded."""
    random = np.random.default_rng(seed)
    found: list[Any] = []
    for parameter in kernel.signature.parameters:
        least = 0 if parameter.element.is_unsigned else -1
        array = random.integers(least, 2, parameter.shape)
        if len(parameter.shape) == 2:
            array *= random.random(parameter.shape) < 0.3
        found.append(array.astype(parameter.element.dtype))
    return found


def factors(kernel: Kernel, arrays: list[Any], positions: Any) -> dict[int, nkdsl.Packed]:
    return {p: nkdsl.pack(arrays[p], like=kernel, argument=p) for p in positions}


def called(kernel: Kernel, arrays: list[Any], packed: dict[int, nkdsl.Packed], **options: Any):
    """The last argument after a call with some arguments packed."""
    given = [packed.get(position, array) for position, array in enumerate(arrays)]
    given[-1] = np.full_like(arrays[-1], 77)
    kernel(*given, **options)
    return given[-1]


def packs(kernel: Kernel) -> int:
    module = parse(kernel.ir("composed"), "composed", make_context())
    return sum(isinstance(op, PackOp) for op in module.walk())


def gemms(kernel: Kernel) -> list[GemmOp]:
    module = parse(kernel.ir("nanokernel"), "nanokernel", make_context())
    return [op for op in module.walk() if isinstance(op, GemmOp)]


def ranks(kernel: Kernel) -> list[int]:
    return [len(parameter.shape) for parameter in kernel.signature.parameters]


# ---------------------------------------------------------------------------- right results

SUBSETS = tuple(chain.from_iterable(combinations(WEIGHTS, n) for n in (1, 2, 3)))


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("target", [TARGET, "znver4"])
@pytest.mark.parametrize("positions", [(1,), (3, 5), WEIGHTS])
def test_packed_weights_give_the_same_result(types, target, positions):
    kernel = compiled(types, runs(target))
    arrays = operands(kernel)
    expected = called(kernel, arrays, {})
    assert len(np.unique(expected.astype(np.float64))) > 3
    assert (called(kernel, arrays, factors(kernel, arrays, positions)) == expected).all()


@pytest.mark.parametrize("positions", SUBSETS)
def test_the_kernel_that_runs_reads_just_these_panels(positions, monkeypatch: pytest.MonkeyPatch):
    kernel = compiled()
    arrays = operands(kernel)
    packed = factors(kernel, arrays, positions)
    reader = kernel.packed(*packed.values(), arguments=tuple(packed))
    assert [p for p, rank in enumerate(ranks(reader)) if rank == 3] == list(positions)
    entry, seen = reader.entry, []

    def noted(*arguments: Any) -> None:
        seen.append(arguments)
        entry(*arguments)

    monkeypatch.setitem(reader.__dict__, "entry", noted)
    assert (called(kernel, arrays, packed) == called(kernel, arrays, {})).all()
    (arguments,) = seen
    for position, argument in enumerate(arguments[:-1]):
        panels = packed[position].panels if position in packed else arrays[position]
        assert argument is panels


def test_an_activation_may_be_packed_too():
    kernel = compiled()
    arrays = operands(kernel)
    packed = factors(kernel, arrays, (0, 3))
    assert packed[0].layout.operand == "lhs" and packed[3].layout.operand == "rhs"
    assert (called(kernel, arrays, packed) == called(kernel, arrays, {})).all()


def test_random_shapes():
    random = np.random.default_rng(5)
    for _ in range(3):
        m, *widths = (int(size) for size in random.integers(1, 90, 4))
        k, h, n = widths
        x, v, w, u, y = (
            f"memref<{rows}x{columns}xbf16>"
            for rows, columns in ((m, k), (h, k), (n, h), (m, h), (m, n))
        )
        rounded = """from zero epilogue {
          ^bb0(%s: f32):
            %r = arith.truncf %s : f32 to bf16
            nanokernel.yield %r : bf16
          }"""
        kernel = nkdsl.compile(
            f"""func.func @f(%x: {x}, %v: {v}, %w: {w}, %u: {u}, %y: {y}) {{
          nanokernel.gemm ins(%x[m, k], %v[n, k] : {x}, {v}) outs(%u[m, n] : {u}) {rounded}
          nanokernel.gemm ins(%u[m, k], %w[n, k] : {u}, {w}) outs(%y[m, n] : {y}) {rounded}
          return
        }}""",
            target=TARGET,
        )
        arrays = operands(kernel)
        given, expected = [a.copy() for a in arrays], [a.copy() for a in arrays]
        kernel(*expected)
        given[1], given[2] = (nkdsl.pack(arrays[i], like=kernel, argument=i) for i in (1, 2))
        kernel(*given)
        for mine, theirs in zip(given[3:], expected[3:], strict=True):
            assert (mine == theirs).all()


TENSORS = """
func.func @layers(%x: tensor<8x40xf32>, %v: tensor<70x40xf32>, %w: tensor<70x30xf32>)
    -> (tensor<8x30xf32>, tensor<8x70xf32>) {
  %start = arith.constant 0.0 : f32
  %space = tensor.empty() : tensor<40x70xf32>
  %t = linalg.transpose ins(%v : tensor<70x40xf32>)
      outs(%space : tensor<40x70xf32>) permutation = [1, 0]
  %sums = tensor.empty() : tensor<8x70xf32>
  %first = linalg.fill ins(%start : f32) outs(%sums : tensor<8x70xf32>) -> tensor<8x70xf32>
  %h = linalg.matmul ins(%x, %t : tensor<8x40xf32>, tensor<40x70xf32>)
      outs(%first : tensor<8x70xf32>) -> tensor<8x70xf32>
  %out = tensor.empty() : tensor<8x30xf32>
  %zero = linalg.fill ins(%start : f32) outs(%out : tensor<8x30xf32>) -> tensor<8x30xf32>
  %y = linalg.matmul ins(%h, %w : tensor<8x70xf32>, tensor<70x30xf32>)
      outs(%zero : tensor<8x30xf32>) -> tensor<8x30xf32>
  return %y, %h : tensor<8x30xf32>, tensor<8x70xf32>
}"""


def test_a_program_on_tensors():
    kernel = nkdsl.compile(TENSORS, target=TARGET)
    arrays = operands(kernel)
    x, v, w, y, h = arrays
    packed = [nkdsl.pack(array, like=kernel, argument=i) for i, array in ((1, v), (2, w))]
    assert packed[0].shape == (70, 40) and packed[0].layout.cut == 0
    kernel(x, *packed, y, h)
    assert (h == x @ v.T).all() and (y == h @ w).all()


def test_two_threads_compute_what_one_does():
    if openmp.ensure_loaded() is None:
        pytest.skip("there is no OpenMP runtime")
    one = nkdsl.compile(_large(), target=TARGET)
    two = nkdsl.compile(_large(), target=TARGET, threads=2)
    arrays = operands(one)
    random = np.random.default_rng(1)
    for array in arrays:
        array[...] = random.standard_normal(array.shape)
    results = []
    for kernel in (one, two):
        packed = factors(kernel, arrays, (1, 2))
        results.append(called(kernel, arrays, packed))
        reader = kernel.packed(*packed.values(), arguments=(1, 2))
        assert any("threads = 2" in plan for plan in reader.plans) == (kernel is two)
    assert (results[0] == results[1]).all()
    plain = called(one, arrays, {})
    assert np.allclose(results[0], plain, rtol=0, atol=1e-4 * np.abs(plain).max())
    assert np.abs(results[0]).max() > 100


def _large() -> str:
    """Two layers whose last panels are not full, shared between threads with what follows them."""
    x, v, w, h, y = (
        f"memref<{s}xf32>" for s in ("200x512", "512x500", "500x300", "200x500", "200x300")
    )

    def biased(n: int) -> str:
        return f"""from zero epilogue(%b{n}[n] : memref<{n}xf32>) {{
          ^bb0(%sum: f32, %bias: f32):
            %biased = arith.addf %sum, %bias : f32
            nanokernel.yield %biased : f32
          }}"""

    return f"""func.func @large(%x: {x}, %v: {v}, %w: {w}, %b500: memref<500xf32>,
                             %b300: memref<300xf32>, %h: {h}, %y: {y}) {{
      nanokernel.gemm ins(%x[m, k], %v[k, n] : {x}, {v}) outs(%h[m, n] : {h}) {biased(500)}
      nanokernel.gemm ins(%h[m, k], %w[k, n] : {h}, {w}) outs(%y[m, n] : {y}) {biased(300)}
      return
    }}"""


def test_a_workspace_may_be_given():
    kernel = compiled()
    arrays = operands(kernel)
    packed = factors(kernel, arrays, WEIGHTS)
    size = kernel.packed(*packed.values()).workspace_bytes
    assert size >= 23 * (37 + 53) * 4  # what two layers leave
    expected = called(kernel, arrays, {})
    workspace = aligned_bytes(size)
    workspace[...] = 0
    assert (called(kernel, arrays, packed, workspace=workspace) == expected).all()
    assert workspace.any()
    with pytest.raises(InvalidInput, match="the workspace needs"):
        called(kernel, arrays, packed, workspace=aligned_bytes(64))


@pytest.mark.skipif(amx.obstacle() is not None, reason=amx.obstacle() or "")
def test_tiles_read_packed_weights_of_several_products():
    table = get_target("sapphirerapids")
    slow = tuple(replace(i, per_cycle=i.per_cycle / 1e6) for i in table.instructions)
    x, v, w, h, y = (
        f"memref<{s}>"
        for s in ("32x70xbf16", "70x64xbf16", "64x96xbf16", "32x64xbf16", "32x96xf32")
    )
    source = f"""func.func @f(%x: {x}, %v: {v}, %w: {w}, %y: {y}) {{
      %h = memref.alloc() : {h}
      nanokernel.gemm ins(%x[m, k], %v[k, n] : {x}, {v}) outs(%h[m, n] : {h}) from zero epilogue {{
      ^bb0(%sum: f32):
        %rounded = arith.truncf %sum : f32 to bf16
        nanokernel.yield %rounded : bf16
      }}
      nanokernel.gemm ins(%h[m, k], %w[k, n] : {h}, {w}) outs(%y[m, n] : {y}) from zero
      memref.dealloc %h : {h}
      return
    }}"""
    kernel = nkdsl.compile(source, replace(table, instructions=slow), emulate=True)
    arrays = operands(kernel)
    packed = factors(kernel, arrays, (1, 2))
    assert [f.layout.filled for f in packed.values()] == [32, 32]
    with amx.emulated() as machine:
        machine.watch_arrays({"v": packed[1].panels, "w": packed[2].panels})
        result = called(kernel, arrays, packed)
    assert machine.counts.loads_by["v"] > 0 and machine.counts.loads_by["w"] > 0
    x_, v_, w_, _ = (array.astype(np.float64) for array in arrays)
    assert (result == x_ @ v_ @ w_).all()


@pytest.mark.skipif(qemu.obstacle() is not None, reason=qemu.obstacle() or "")
def test_an_emulated_kernel_for_another_architecture_takes_packed_weights():
    kernel = nkdsl.compile(SQUARE, "neoverse-n1", emulate=True)
    x, v, w, h, y = operands(kernel)
    kernel(
        x, nkdsl.pack(v, like=kernel, argument="v"), nkdsl.pack(w, like=kernel, argument=2), h, y
    )
    assert (h == x @ v).all() and (y == h @ w).all()


# -------------------------------------------------------------------------- what becomes of plans


def test_each_layout_is_chosen_for_its_product_alone():
    kernel = compiled()
    arrays = operands(kernel)
    k, n = WIDTHS[1:3]
    a, w, c = f"memref<23x{k}xf32>", f"memref<{k}x{n}xf32>", f"memref<23x{n}xf32>"
    alone = nkdsl.compile(
        f"""func.func @layer(%h0: {a}, %w1: {w}, %b1: memref<{n}xf32>, %h1: {c}) {{
          {layer(1, "%h0", "%h1", 23, "f32")}
          return
        }}""",
        target=TARGET,
    )
    mine = nkdsl.pack(arrays[3], like=kernel, argument=3)
    theirs = nkdsl.pack(arrays[3], like=alone)
    assert mine.layout == theirs.layout and mine.fingerprint == theirs.fingerprint
    expected = called(kernel, arrays, {})
    assert (called(kernel, arrays, {3: theirs}) == expected).all()  # whoever reads it takes it
    *_, second, _ = _grouped(kernel.packed(mine, arguments=[3]), kernel, 1)
    assert second == alone.packed(theirs).plans


def _grouped(reader: Kernel, kernel: Kernel, number: int) -> list[tuple[str, ...]]:
    """The plans of a reader's products by the products of the kernel, of which one is packed."""
    more = len(reader.plans) - len(kernel.plans)
    cuts = [*range(number + 1), *range(number + 1 + more, len(reader.plans) + 1)]
    return [reader.plans[i:j] for i, j in pairwise(cuts)]


def test_the_other_products_keep_their_plans():
    kernel = compiled()
    arrays = operands(kernel)
    packed = nkdsl.pack(arrays[3], like=kernel, argument=3)
    first, second, third = _grouped(kernel.packed(packed, arguments=[3]), kernel, 1)
    assert (*first, *third) == (kernel.plans[0], kernel.plans[2])
    assert all("pack = none" in plan for plan in second)


def test_a_written_plan_is_obeyed_packed_or_not():
    plan = f'plan #nanokernel.plan<target = "{TARGET}", instruction = "fma.f32x8", block = 3x8>'
    kernel = nkdsl.compile(network(plan=plan), target=TARGET)
    arrays = operands(kernel)
    expected = called(kernel, arrays, {})
    one, other = (nkdsl.pack(arrays[p], like=kernel, argument=p) for p in (3, 5))
    assert one.panels.shape[2] == 8
    for position, packed in ((3, one), (5, other)):
        reader = kernel.packed(packed, arguments=[position])
        assert sum("block = 3x8" in each for each in reader.plans) == (2 if position == 3 else 1)
        assert (called(kernel, arrays, {position: packed}) == expected).all()


def test_what_products_leave_for_each_other_stays_where_it_is():
    kernel = compiled()
    reader = kernel.packed(*factors(kernel, operands(kernel), WEIGHTS).values())
    types = [op.out.type for op in gemms(reader)]
    shapes = {type_.get_shape() for type_ in types if isinstance(type_, MemRefType)}
    assert shapes == {(23, n) for n in WIDTHS[1:]}
    assert reader.c_declaration == kernel.c_declaration
    assert not packs(reader)


def test_alike_products_are_planned_once(monkeypatch: pytest.MonkeyPatch):
    kernel = nkdsl.compile(SQUARE, target=TARGET)
    tried: list[int] = []

    def counting(*arguments: Any) -> Any:
        tried.append(1)
        return block_tile(*arguments)

    monkeypatch.setattr("nkdsl.packed.product.block_tile", counting)
    _, v, w, *_ = operands(kernel)
    nkdsl.pack(v, like=kernel, argument="v")
    once = len(tried)
    nkdsl.pack(w, like=kernel, argument="w")
    assert len(tried) == once > 0


# ----------------------------------------------------------------------------- which argument


def test_one_layout_serves_two_arguments():
    kernel = chained()
    x, v, w, h, y = operands(kernel)
    packed = nkdsl.pack(v, like=kernel, argument=1)
    kernel(x, packed, packed, h, y)
    assert (h == x @ v).all() and (y == h @ v).all()
    other = nkdsl.pack(w, like=kernel, argument=1)
    kernel(x, packed, other, h, y)
    assert (y == h @ w).all()


@pytest.mark.parametrize("argument", [2, "w", np.int64(2)])
def test_an_argument_is_told_by_position_or_name(argument):
    kernel = chained()
    x, v, w, h, y = operands(kernel)
    packed = nkdsl.pack(w, like=kernel, argument=argument)
    assert kernel.packed(packed, arguments=[argument]) is kernel.packed(packed, arguments=[2])
    kernel(x, v, packed, h, y)
    assert (y == x @ v @ w).all()


def test_one_product_takes_an_argument_as_well():
    text = SQUARE.replace("@chain", "@one").split("nanokernel.gemm ins(%h")[0] + "return }"
    kernel = nkdsl.compile(text, target=TARGET)
    _, v, *_ = operands(kernel)
    assert nkdsl.pack(v, like=kernel, argument="v").layout == nkdsl.pack(v, like=kernel).layout
    with pytest.raises(InvalidInput, match=r"argument 1 \('v'\) of one is the rhs .* not the lhs"):
        nkdsl.pack(v, like=kernel, argument=1, operand="lhs")


def test_functions_beside_it_do_not_matter():
    other = SQUARE.replace("@chain", "@before").replace("9x32", "5x32")
    kernel = nkdsl.compile(other + SQUARE, target=TARGET, function="chain")
    x, v, w, h, y = operands(kernel)
    packed = nkdsl.pack(w, like=kernel, argument=2)
    kernel(x, v, packed, h, y)
    assert (y == x @ v @ w).all()
    assert [
        len(g.indexing_maps[1].results) for g in gemms(kernel.packed(packed, arguments=[2]))
    ] == [
        *(2, 2, 2),
        3,
    ]


def test_native_callers_name_arguments_where_several_fit():
    kernel = chained()
    x, v, w, h, y = operands(kernel)
    one, two = (nkdsl.pack(a, like=kernel, argument=i) for i, a in ((1, v), (2, w)))
    reader = kernel.packed(one, two)
    reader(x, one.panels, two.panels, h, y)
    assert (y == x @ v @ w).all()
    with pytest.raises(InvalidInput, match=r"arguments 1, 2 of chain .* arguments=\(1,\)"):
        kernel.packed(one)
    for arguments in ([1], [1, 1], [1, 2, 3]):
        with pytest.raises(InvalidInput, match="2 packed factors need as many different arguments"):
            kernel.packed(one, two, arguments=arguments)
    with pytest.raises(InvalidInput, match=r"give what nkdsl\.pack made"):
        kernel.packed()


def test_native_callers_give_factors_in_the_order_of_the_arguments():
    kernel = compiled()
    packed = factors(kernel, operands(kernel), (1, 5))
    assert kernel.packed(packed[1], packed[5]) is kernel.packed(
        packed[5], packed[1], arguments=("w2", "w0")
    )
    assert ranks(kernel.packed(packed[5]))[5] == 3
    with pytest.raises(InvalidInput, match="in the order of its arguments"):
        kernel.packed(packed[5], packed[1])


# ------------------------------------------------------------------------------------ compiling


def test_a_combination_is_compiled_once_when_it_is_called_first(monkeypatch: pytest.MonkeyPatch):
    kernel = nkdsl.compile(SQUARE, target=TARGET)
    made: list[Any] = []

    def counting(*arguments: Any, **options: Any) -> Kernel:
        made.append(arguments)
        return compile_(*arguments, **options)

    compile_ = api.compile
    monkeypatch.setattr(api, "compile", counting)
    x, v, w, h, y = operands(kernel)
    one, two = (nkdsl.pack(a, like=kernel, argument=i) for i, a in ((1, v), (2, w)))
    assert not made  # who packs both needs no kernel that reads one
    with ThreadPoolExecutor(4) as pool:
        barrier = threading.Barrier(4)

        def work(_: int) -> np.ndarray:
            barrier.wait()
            mine = np.zeros_like(y)
            kernel(x, one, two, np.zeros_like(h), mine)
            return mine

        for result in pool.map(work, range(4)):
            assert (result == x @ v @ w).all()
    assert len(made) == 1
    kernel(x, one, w, h, y)
    kernel(x, two, w, h, y)  # of the same layout
    assert len(made) == 2


def test_a_call_looks_at_no_layout_twice(monkeypatch: pytest.MonkeyPatch):
    kernel = compiled()
    arrays = operands(kernel)
    packed = factors(kernel, arrays, WEIGHTS)
    expected = called(kernel, arrays, packed)

    def again(*_: Any) -> Any:
        raise AssertionError("this was known already")

    monkeypatch.setattr(Variants, "_reader", again)
    monkeypatch.setattr(Layout, "panels", property(again))
    monkeypatch.setattr("nkdsl.packed.layout.hashlib.sha256", again)
    assert (called(kernel, arrays, packed) == expected).all()


# ------------------------------------------------------------------------------------- refusals


def test_without_an_argument_the_remedy_is_named():
    kernel = compiled()
    array = operands(kernel)[1]
    message = (
        r"the rhs of network can't be packed: network has 3 products; name the argument, as in "
        r"nkdsl\.pack\(array, like=kernel, argument=1\); those that can be packed are "
        r"0 \('x'\), 1 \('w0'\), 3 \('w1'\), 5 \('w2'\)$"
    )
    with pytest.raises(Unsupported, match=message):
        nkdsl.pack(array, like=kernel)


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        (
            2,
            Unsupported,
            r"argument 2 \('b0'\) of network .* no factor of a product; name a factor",
        ),
        (
            7,
            Unsupported,
            r"argument 7 \('y'\) of network .* those that can be packed are 0 \('x'\)",
        ),
        (8, InvalidInput, "network has no argument 8; positions are 0 to 7"),
        (-1, InvalidInput, "network has no argument -1"),
        ("w7", InvalidInput, "network has no argument 'w7'; its arguments are x, w0, b0,"),
        (1.0, InvalidInput, "by its position or its name, not by 1.0"),
        (3, InvalidInput, r"argument 3 \('w1'\) of network has shape \(37, 53\) .* not \(19, 37\)"),
    ],
)
def test_arguments_that_are_not_packed(argument, error, message):
    kernel = compiled()
    with pytest.raises(error, match=message):
        nkdsl.pack(operands(kernel)[1], like=kernel, argument=argument)


def test_an_argument_that_two_products_use_is_not_packed():
    kernel = nkdsl.compile(SQUARE.replace("%w[k, n]", "%v[k, n]"), target=TARGET)
    _, v, *_ = operands(kernel)
    message = r"argument 1 \('v'\) of chain .* something else uses it, too; give that an argument"
    with pytest.raises(Unsupported, match=message):
        nkdsl.pack(v, like=kernel, argument=1)


def test_sizes_of_run_time_are_refused():
    text = SQUARE.replace("9x32", "?x32").replace("32x32", "?x?").replace("?x32", "?x?")
    kernel = nkdsl.compile(text, target=TARGET)
    with pytest.raises(Unsupported, match="known only at run time; compile a kernel for static"):
        nkdsl.pack(np.zeros((4, 4), np.float32), like=kernel, argument="v")


def test_both_factors_of_a_product_are_refused():
    kernel = compiled()
    arrays = operands(kernel)
    packed = factors(kernel, arrays, (0, 1))
    message = "reads one packed factor; give the other one, argument 0 or 1, as an array"
    with pytest.raises(InvalidInput, match=message):
        called(kernel, arrays, packed)
    with pytest.raises(InvalidInput, match=message):
        kernel.packed(*packed.values())
    with pytest.raises(InvalidInput, match=message):
        kernel.variants.reading((0, 1))


def test_a_packed_factor_in_the_wrong_place_is_refused():
    kernel = compiled()
    arrays = operands(kernel)
    packed = factors(kernel, arrays, (1,))[1]
    places = "argument {} of network is a packed rhs, which are arguments 1, 3, 5"
    for position in (0, 2, 7):
        given = list(arrays)
        given[position] = packed
        with pytest.raises(InvalidInput, match=places.format(position)):
            kernel(*given)
    given = [*arrays[:3], packed, *arrays[4:]]
    message = (
        r"argument 3 of network was packed for another kernel: it has shape \(19, 37\) instead of "
        r"\(37, 53\).*; pack the array again, with nkdsl\.pack\(array, like=kernel, argument=3\)"
    )
    with pytest.raises(InvalidInput, match=message):
        kernel(*given)
    with pytest.raises(InvalidInput, match="network takes 8 arrays, got 2"):
        kernel(arrays[0], packed)


def test_a_layout_that_no_argument_has_is_refused():
    kernel = compiled()
    packed = factors(kernel, operands(kernel), (1,))[1]
    other = replace(packed, layout=replace(packed.layout, width=packed.layout.width + 1))
    message = r"no argument of network is read in this layout \(for argument 1: panel width"
    with pytest.raises(InvalidInput, match=message):
        kernel.packed(other)
