"""The machine code is what the plan promised: counted, loop by loop, for machines we need not have.

A kernel that gives right numbers by a slow path is the failure that results can't show. So the
assembly of each target is read, and must hold exactly the multiply-adds and loads that follow from
the plan's block, and nothing that a plan never asks for: spills, calls, gathers, scalar arithmetic.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property

import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp

import nkdsl
from nkdsl.backends import mlir, native
from nkdsl.dialects.nanokernel import GemmOp, PlanAttr, StepOp
from nkdsl.frontend import load, make_context, to_text
from nkdsl.pipeline import lower
from nkdsl.planner import Problem, analyse
from nkdsl.planner.cost import block_runs, predict
from nkdsl.planner.registers import Tile, block_tile
from nkdsl.planner.search import candidates
from nkdsl.planner.split import even_split
from nkdsl.targets import Target, get_target
from nkdsl.targets.model import Instruction
from tests.unit.assembly import (
    Counts,
    Line,
    count,
    function,
    functions,
    innermost_loops,
    instructions,
)
from tests.unit.helpers import Product

AVX512 = ("skylake-avx512", "znver4", "znver5", "sapphirerapids")
TARGETS = (*AVX512, "x86-64-v3")


def product(spec: str, m: int, n: int, k: int, *, from_zero: bool = False) -> Product:
    return Product(spec, (("m", m), ("n", n), ("k", k)), from_zero=from_zero)


CASES = {
    "even": product("mk,kn->mn", 64, 96, 256),
    "even_rows_of_9": product("mk,kn->mn", 72, 96, 256),
    "ragged": product("mk,kn->mn", 33, 47, 65),
    "edges": product("mk,kn->mn", 100, 100, 100),
    "lhs_transposed": product("km,kn->mn", 100, 100, 100),
    "rhs_packed": product("mk,nk->mn", 100, 100, 100),
    "from_zero": product("mk,kn->mn", 64, 96, 256, from_zero=True),
}


@dataclass(frozen=True)
class Compiled:
    """One product, compiled for one target."""

    target: Target
    problem: Problem
    plan: PlanAttr
    steps: tuple[int, ...]
    """The depths of the nanokernels that were composed."""
    code: tuple[Line, ...]

    @property
    def instruction(self) -> Instruction:
        return self.target.instruction(self.plan.instruction.data)

    @property
    def tiles(self) -> list[Tile]:
        """The block shapes, each with code of its own."""
        rows, columns = block_runs(self.problem, self.plan, self.instruction.lanes)
        lanes = self.plan.lanes.data
        return [
            block_tile(r.size, c.size, lanes, self.instruction, self.target)
            for r in rows
            for c in columns
        ]

    @property
    def depths(self) -> list[int]:
        """Steps of the reduction in each part of it that has code of its own."""
        whole = self.problem.extent("k")
        runs = even_split(whole, self.plan.k_block.data or whole)
        sizes = [run.size for run in runs]
        split = self.problem.from_zero and sum(run.count for run in runs) > 1
        # The first part starts the sums; the others of its size add to them.
        return [sizes[0], *sizes] if split and runs[0].count > 1 else sizes

    @cached_property
    def counts(self) -> Counts:
        return count(self.code)

    @cached_property
    def product_loops(self) -> list[Counts]:
        """What the innermost loops that multiply execute a turn."""
        return [c for c in map(count, innermost_loops(self.code)) if c.fmas]


@cache
def compiled(target_name: str, element: str) -> dict[str, Compiled]:
    """All cases for a target, as functions of one module: one run of each tool."""
    target = get_target(target_name)
    sources = (
        Product(p.spec, p.sizes, element, from_zero=p.from_zero).source.replace("@product", f"@{n}")
        for n, p in CASES.items()
    )
    context = make_context()
    module = load("\n".join(sources), context)
    lower(module, context, target_name, end="nanokernel")
    for gemm in [op for op in module.walk() if isinstance(op, GemmOp)]:
        gemm.properties["plan"] = without_microkernels(gemm, target)
    products = {
        name: (analyse(gemm), gemm.plan)
        for name in CASES
        for gemm in in_function(module, name)
        if isinstance(gemm, GemmOp)
    }
    lower(module, context, target_name, start="nanokernel", end="composed")
    steps = {
        name: tuple(
            op.depth.value.data for op in in_function(module, name) if isinstance(op, StepOp)
        )
        for name in CASES
    }
    lower(module, context, target_name, start="composed")
    code = functions(native.emit_assembly(mlir.to_llvm_ir(to_text(module)), target))
    found = {}
    for name, (problem, plan) in products.items():
        assert plan is not None
        found[name] = Compiled(target, problem, plan, steps[name], code[name])
    return found


def without_microkernels(gemm: GemmOp, target: Target) -> PlanAttr:
    """A product's plan, or where that is one of cache blocks the best of the others."""
    assert gemm.plan is not None
    if not gemm.plan.blocked:
        return gemm.plan
    problem, instruction = analyse(gemm), target.instruction(gemm.plan.instruction.data)
    plans = (p for p in candidates(problem, target, instruction) if not p.blocked)
    return min(plans, key=lambda plan: predict(problem, target, plan).cycles)


def in_function(module: ModuleOp, name: str):
    """All operations of one function."""
    for op in module.ops:
        if isinstance(op, FuncOp) and op.sym_name.data == name:
            yield from op.walk()


EVERY = pytest.mark.parametrize("name", CASES)
EVERY_TARGET = pytest.mark.parametrize("target", TARGETS)
EVERY_ELEMENT = pytest.mark.parametrize(
    "element", ["f32", pytest.param("f64", marks=pytest.mark.slow)]
)


@EVERY_ELEMENT
@EVERY_TARGET
@EVERY
def test_a_turn_of_the_inner_loop_has_exactly_the_predicted_instructions(name, target, element):
    kernel = compiled(target, element)[name]
    unroll = kernel.plan.k_unroll.data
    wanted = Counter(
        (unroll * tile.instructions, unroll * (tile.lhs_loads + tile.rhs_loads))
        for depth in kernel.depths
        if depth // (unroll * kernel.tiles[0].depth) > 1
        for tile in kernel.tiles
    )
    assert wanted, "every case is meant to have a loop along the reduction"
    assert Counter((c.fmas, c.loads + c.broadcasts) for c in kernel.product_loops) == wanted


@EVERY_ELEMENT
@EVERY_TARGET
@EVERY
def test_broadcasts_and_loads_are_of_the_predicted_factors(name, target, element):
    kernel = compiled(target, element)[name]
    unroll = kernel.plan.k_unroll.data
    wanted = {unroll * tile.broadcasts for tile in kernel.tiles}
    assert {loop.broadcasts for loop in kernel.product_loops} == wanted


@EVERY_ELEMENT
@EVERY_TARGET
@EVERY
def test_the_whole_function_has_no_multiply_add_that_was_not_planned(name, target, element):
    kernel = compiled(target, element)[name]
    turn = kernel.plan.k_unroll.data
    steps = sum((turn if d >= turn else 0) + d % turn for d in kernel.depths)
    assert kernel.counts.fmas == steps * sum(tile.instructions for tile in kernel.tiles)


@EVERY_ELEMENT
@EVERY_TARGET
@EVERY
def test_nanokernels_were_composed_for_every_block_shape(name, target, element):
    kernel = compiled(target, element)[name]
    turn = kernel.plan.k_unroll.data
    wanted: Counter[int] = Counter()
    for depth in kernel.depths:
        for part in (turn if depth >= turn else 0, depth % turn):
            wanted[part] += len(kernel.tiles)
    assert Counter(kernel.steps) == Counter({p: n for p, n in wanted.items() if p})


@EVERY_ELEMENT
@EVERY_TARGET
@EVERY
def test_no_innermost_loop_spills(name, target, element):
    kernel = compiled(target, element)[name]
    assert [count(loop).spills for loop in innermost_loops(kernel.code) if count(loop).spills] == []


@EVERY_ELEMENT
@pytest.mark.parametrize("target", AVX512)
@EVERY
def test_with_avx512_nothing_spills_and_no_loop_reads_a_vector_constant(name, target, element):
    kernel = compiled(target, element)[name]
    assert kernel.counts.spills == 0
    assert [loop.constants for loop in kernel.product_loops if loop.constants] == []


@EVERY_ELEMENT
@EVERY_TARGET
@EVERY
def test_nothing_runs_that_no_plan_asks_for(name, target, element):
    kernel = compiled(target, element)[name]
    assert kernel.counts.calls == 0
    assert kernel.counts.scalars == 0
    assert [i.text for i in instructions(kernel.code) if i.gathers] == []


@EVERY_ELEMENT
@EVERY_TARGET
@EVERY
def test_multiply_adds_use_the_widest_registers(name, target, element):
    kernel = compiled(target, element)[name]
    widths = {i.width for i in instructions(kernel.code) if i.fma}
    if target in AVX512:
        assert widths == {512} == {kernel.instruction.bits}
    else:
        # Half a register of tail is a narrower one.
        assert kernel.instruction.bits in widths <= {256, 128}


@EVERY_ELEMENT
@EVERY_TARGET
@EVERY
def test_only_ragged_rows_are_masked(name, target, element):
    kernel = compiled(target, element)[name]
    ragged = any(tile.masked for tile in kernel.tiles)
    if name in ("even", "even_rows_of_9", "from_zero"):
        assert not ragged
    # A panel is padded to whole registers; packing it may meet a ragged end of the reduction.
    in_place = kernel.plan.pack.data == "none"
    assert any(loop.masked for loop in kernel.product_loops) == (ragged and in_place)
    if in_place:
        assert (kernel.counts.masked > 0) == ragged


@EVERY_ELEMENT
@EVERY_TARGET
@EVERY
def test_every_product_is_fused_with_its_sum(name, target, element):
    kernel = compiled(target, element)[name]
    unfused = [i.mnemonic[:4] for i in instructions(kernel.code) if i.unfused]
    # Old results are added once, at the end; the part that starts sums from zero has none.
    parts = len(kernel.depths) - kernel.problem.from_zero
    assert unfused == ["vadd"] * (parts * sum(tile.instructions for tile in kernel.tiles))


@EVERY_TARGET
def test_sums_from_zero_read_no_result(target):
    kernels = compiled(target, "f32")
    accumulate, from_zero = kernels["even"], kernels["from_zero"]
    assert accumulate.plan.block == from_zero.plan.block
    assert from_zero.counts.loads < accumulate.counts.loads


@pytest.mark.parametrize("target", ["znver5", "x86-64-v3"])
def test_a_compiled_kernel_shows_the_same_code(target):
    kernel = nkdsl.compile(CASES["ragged"].source, target=target)
    reference = compiled(target, "f32")["ragged"]
    assert kernel.plan == str(reference.plan)
    assert "nanokernel.step" in kernel.ir("composed")
    assert count(function(kernel.asm(), "product")).fmas == reference.counts.fmas


# ------------------------------------------------------------------------- run-time sizes


@dataclass(frozen=True)
class Microkernel:
    """One of the functions that a product of run-time sizes calls."""

    plan: PlanAttr
    target: Target
    rows: int
    registers: int
    """Registers in a row of its block; the last one is masked."""
    code: tuple[Line, ...]

    @property
    def loops(self) -> list[Counts]:
        """What the loops along the reduction execute a turn."""
        return [c for c in map(count, innermost_loops(self.code)) if c.fmas]


@cache
def microkernels(target_name: str, element: str) -> dict[tuple[int, int], Microkernel]:
    """By rows and registers, those of a matrix product whose sizes are known only at run time."""
    target, type_ = get_target(target_name), f"memref<?x?x{element}>"
    context = make_context()
    source = f"""
    func.func @product(%a: {type_}, %b: {type_}, %c: {type_}) {{
      linalg.matmul ins(%a, %b : {type_}, {type_}) outs(%c : {type_})
      func.return
    }}"""
    module = load(source, context)
    lower(module, context, target_name, end="nanokernel")
    (plan,) = (op.plan for op in module.walk() if isinstance(op, GemmOp))
    assert plan is not None
    lower(module, context, target_name, start="nanokernel")
    lanes = target.instruction(plan.instruction.data).lanes
    found: dict[tuple[int, int], Microkernel] = {}
    for name, code in functions(
        native.emit_assembly(mlir.to_llvm_ir(to_text(module)), target)
    ).items():
        if name != "product" and not name.startswith("product_pack_"):
            rows, columns = map(int, name.removeprefix("product_").split("x"))
            found[rows, columns // lanes] = Microkernel(plan, target, rows, columns // lanes, code)
    return found


RUN_TIME_TARGETS = pytest.mark.parametrize("target", ["znver4", "skylake-avx512", "x86-64-v3"])


@EVERY_ELEMENT
@RUN_TIME_TARGETS
def test_run_time_sizes_have_a_microkernel_for_each_block(target, element):
    found = microkernels(target, element)
    plan = found[1, 1].plan
    lanes = get_target(target).instruction(plan.instruction.data).lanes
    rows, columns = plan.block
    assert plan.lanes.data == "n"
    assert set(found) == {
        (m, r) for m in range(1, rows + 1) for r in range(1, columns // lanes + 1)
    }


@EVERY_ELEMENT
@RUN_TIME_TARGETS
def test_a_microkernels_loops_have_exactly_the_predicted_instructions(target, element):
    for (rows, registers), kernel in microkernels(target, element).items():
        assert [(loop.fmas, loop.loads, loop.broadcasts, loop.masked) for loop in kernel.loops] == [
            (turn * rows * registers, turn * registers, turn * rows, turn)
            for turn in (kernel.plan.k_unroll.data, 1)
        ]


@EVERY_ELEMENT
@RUN_TIME_TARGETS
def test_no_loop_of_a_microkernel_spills_or_reads_constants(target, element):
    for kernel in microkernels(target, element).values():
        assert [(loop.spills, loop.constants) for loop in kernel.loops] == [(0, 0)] * 2
        if target in AVX512:
            assert count(kernel.code).spills == 0


@EVERY_ELEMENT
@RUN_TIME_TARGETS
def test_microkernels_do_nothing_that_no_plan_asks_for(target, element):
    for (rows, registers), kernel in microkernels(target, element).items():
        counts, code = count(kernel.code), instructions(kernel.code)
        assert (counts.calls, counts.scalars) == (0, 0)
        assert [i.text for i in code if i.gathers] == []
        # Old results are added once, at the end.
        assert [i.mnemonic[:4] for i in code if i.unfused] == ["vadd"] * (rows * registers)


def test_a_large_products_microkernels_fetch_ahead_without_spills():
    sizes = (("m", 1024), ("n", 1024), ("k", 1024))
    kernel = nkdsl.compile(Product("mk,kn->mn", sizes, from_zero=True).source, target="znver4")
    assert "pack = rhs, ahead = both" in kernel.plan
    ahead = {n: code for n, code in functions(kernel.asm()).items() if n.endswith("_ahead")}
    assert ahead
    for code in ahead.values():
        packing, turn, step = (c for c in map(count, innermost_loops(code)) if c.fmas)
        assert (packing.spills, turn.spills, step.spills) == (0, 0, 0)
        # One row of the next panel is packed a turn, of both factors something is asked for.
        assert (packing.stores, turn.stores, step.stores) == (4, 0, 0)
        assert packing.prefetches > turn.prefetches > 0
        assert any(i.mnemonic == "prefetcht1" for i in instructions(code))


# ------------------------------------------------------------------------------- the reader

LISTING = """
\t.text
\t.type\tf,@function
f:
\tpushq\t%rbx
\tvbroadcastss\t.LCPI0_0(%rip), %zmm3     # constant
.LBB0_1:
\txorl\t%eax, %eax
\t.p2align\t4
.LBB0_2:
\tvmovups\t(%rsi,%rax), %zmm1
\tvmovups\t64(%rsi,%rax), %zmm2 {%k1} {z}
\tvbroadcastss\t(%rdi,%rax,4), %zmm4
\tvfmadd231ps\t%zmm1, %zmm4, %zmm5
\tvfmadd231ps\t(%rdi){1to16}, %zmm1, %zmm6
\tvfmadd231ps\t(%rsi), %zmm1, %zmm7
\tvmovups\t%zmm7, -72(%rsp)
\tvmovaps\t.LCPI0_1(%rip), %ymm0
\tprefetcht0\t1536(%rsi,%rax)
\tvmovups\t%zmm7, (%rdx)
\tvmulss\t%xmm0, %xmm1, %xmm2
\taddq\t$64, %rax
\tjb\t.LBB0_2
\tcallq\tmemcpy@PLT
\tjne\t.LBB0_1
\tretq
.Lfunc_end0:
\t.size\tf, .Lfunc_end0-f
\t.type\tg,@function
g:
\tvgatherdps\t(%rdi,%zmm1,4), %zmm0 {%k1}
\tretq
.Lfunc_end1:
"""


def test_the_reader_splits_functions():
    assert set(functions(LISTING)) == {"f", "g"}
    assert [i.gathers for i in instructions(function(LISTING, "g"))] == [True, False]


def test_the_reader_finds_the_innermost_loop_only():
    (loop,) = innermost_loops(function(LISTING, "f"))
    assert loop[0].text == "vmovups (%rsi,%rax), %zmm1"
    assert loop[-1].mnemonic == "addq"


def test_the_reader_counts_each_kind_once():
    (loop,) = innermost_loops(function(LISTING, "f"))
    assert count(loop) == Counts(
        fmas=3,
        loads=3,
        broadcasts=2,
        stores=1,
        prefetches=1,
        masked=1,
        constants=1,
        spills=1,
        scalars=1,
        calls=0,
    )
    assert count(function(LISTING, "f")).calls == 1


def test_the_reader_tells_products_and_sums_from_both_at_once():
    assert [i.mnemonic for i in instructions(function(LISTING, "f")) if i.unfused] == ["vmulss"]


def test_the_reader_tells_widths_apart():
    widths = {i.mnemonic: i.width for i in instructions(function(LISTING, "f"))}
    assert (widths["vfmadd231ps"], widths["vmulss"], widths["addq"]) == (512, 128, 0)


BROADCASTS = {(4, 2): "vpbroadcast", (4, 4): "vbroadcasts", (8, 1): "{1to"}
"""By rows and registers of a block for Zen 4, what broadcasts: the instruction of its table where a
step has many loads, else what LLVM picks, a part of the multiplication where it is used once."""


@pytest.mark.parametrize("element", ["f32", "f64"])
@pytest.mark.parametrize("shape", BROADCASTS, ids="{0[0]}x{0[1]}".format)
def test_crowded_blocks_broadcast_by_the_instruction_of_the_table(shape, element):
    target = get_target("znver4")
    rows, columns = shape[0], shape[1] * (16 if element == "f32" else 8)
    case = Product("mk,kn->mn", (("m", rows), ("n", columns), ("k", 64)), element)
    module = load(case.source, make_context())
    lower(module, make_context(), target, end="nanokernel")
    (gemm,) = (op for op in module.walk() if isinstance(op, GemmOp))
    gemm.plan = without_microkernels(gemm, target).with_entries(block=(rows, columns), lanes="n")
    code = function(nkdsl.compile(module, target).asm(), "product")
    broadcasts = [line for line in instructions(code) if line.broadcast]
    assert len(broadcasts) >= rows
    assert all(BROADCASTS[shape] in line.text for line in broadcasts)
