"""AMX kernels as machine code, their tile instructions emulated: what they compute and execute.

Sums are those of the instructions' documented order, bit for bit: tiles of k one after the other,
whatever blocks a plan makes. Tile instructions are counted, loads and stores by the memory that
they touch, and held against what the plan says. A table whose vector instructions are slow beyond
measure makes every product one of tiles.

Kernels for run-time sizes are compiled once and called for many sizes; they also run in a child
process, on arrays and a workspace that lie flush against pages that can't be touched.
"""

import random
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from xdsl.parser import Parser

import nkdsl
from nkdsl.dialects.nanokernel import GemmOp, PlanAttr
from nkdsl.emulation import amx
from nkdsl.frontend import load, make_context
from nkdsl.planner import analyse
from nkdsl.planner.tiles import TileCounts, tile_counts
from nkdsl.runtime import openmp
from nkdsl.runtime.kernel import Kernel
from nkdsl.targets import Target, get_target
from nkdsl.targets.registry import use_target
from nkdsl.targets.semantics import tile_dot
from nkdsl.testing import ArraySpec, Edge, Lowered, guarded, plain, survives
from nkdsl.types import element_type
from tests.unit.narrow import EPILOGUES, FACTORS, LAYOUTS, NarrowProduct

NATIVE = "amx_tile" in Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else False

pytestmark = [
    pytest.mark.skipif(amx.obstacle() is not None, reason=amx.obstacle() or ""),
    pytest.mark.skipif(NATIVE, reason="this CPU has AMX: nothing is emulated, and nothing counted"),
]

Array = np.ndarray
Shape = tuple[int, int, int]

GRANITE = get_target("graniterapids")

TILES = replace(
    GRANITE,
    name="tiles",
    instructions=tuple(replace(i, per_cycle=i.per_cycle / 1e6) for i in GRANITE.instructions),
)
"""A table by which tiles are always the fastest; it has them for all types."""


@pytest.fixture(autouse=True)
def known_by_its_name() -> Iterator[None]:
    """Passes and interpreters ask for a plan's target by its name."""
    with use_target(TILES):
        yield


# ---------------------------------------------------------------------------- what is computed


def steps_of(factors: tuple[str, str]) -> int:
    """The steps of k that one instruction takes."""
    instruction = TILES.tile_instruction_for(*map(element_type, factors))
    assert instruction is not None
    return instruction.steps


def sums(lhs: Array, rhs: Array, start: Array) -> Array:
    """Start plus the product of two matrices, in the order of the instructions."""
    if lhs.dtype.kind in "iu":
        exact = lhs.astype(np.float64) @ rhs.astype(np.float64)  # below 2^53
        return np.asarray((start.astype(np.int64) + exact.astype(np.int64)).astype(np.int32))
    steps = 64 // lhs.itemsize
    missing = -lhs.shape[1] % steps
    left, right = np.pad(lhs, ((0, 0), (0, missing))), np.pad(rhs.T, ((0, 0), (0, missing)))
    total = start
    for k in range(0, left.shape[1], steps):
        part = left[:, None, k : k + steps], right[None, :, k : k + steps]
        total = tile_dot(total, *part)
    return total


def wanted(case: NarrowProduct, arrays: Sequence[Array]) -> Array:
    """The result of a product that nothing follows, its sums of the instructions' order."""
    a, b, c = arrays
    if case.layouts[1] == "groups":
        b = b.swapaxes(-1, -2).reshape(*b.shape[:-3], -1, b.shape[-2])[..., : case.k, :]
    start = np.zeros_like(c) if case.from_zero else c
    if case.outer == "batch":
        return np.stack([sums(x, y, z) for x, y, z in zip(a, b, start, strict=True)])
    for x, y in zip(a, b, strict=True) if case.outer == "reduce" else [(a, b)]:
        start = sums(x, y, start)
    return start


def assert_same(got: Array, expected: Array, what: object = "") -> None:
    """The same numbers, bit for bit."""
    assert got.dtype == expected.dtype
    bits = np.dtype(f"u{got.itemsize}")
    found, sought = (np.ascontiguousarray(array).view(bits) for array in (got, expected))
    if not np.array_equal(found, sought):
        np.testing.assert_array_equal(got, expected, str(what))  # as numbers, to be read
        np.testing.assert_array_equal(found, sought, str(what))


# ---------------------------------------------------------------------------- what is executed


@dataclass(frozen=True)
class Compiled:
    """A kernel, and what it consists of."""

    kernel: Kernel

    @cached_property
    def plan(self) -> PlanAttr:
        found = Parser(make_context(), self.kernel.plan).parse_attribute()
        assert isinstance(found, PlanAttr)
        return found

    @cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """Where in the workspace packed factors and sums lie: first byte, and size in bytes."""
        text = self.kernel.ir("blocked")
        found = re.findall(r"nanokernel\.workspace at (\d+) : memref<(\d+)x([a-z]+)(\d+)>", text)
        names = [role for role in ("lhs", "rhs") if self.plan.packs(role)]
        sizes = ((int(start), int(n) * int(bits) // 8) for start, n, _, bits in found)
        return dict(zip([*names, "sums"], sizes, strict=True))

    def run(self, arrays: Sequence[Array]) -> amx.Counts:
        """Call the kernel; loads and stores are counted by argument and place in the workspace."""
        with amx.emulated() as machine:
            machine.watch_arrays(dict(zip("abc", arrays, strict=False)))
            workspace = new_workspace(self.kernel)
            for name, (start, size) in self.places.items():
                machine.watch(name, workspace.ctypes.data + start, size)
            self.kernel(*arrays, workspace=workspace)
        return machine.counts

    def counts(self, case: NarrowProduct) -> TileCounts:
        """What the plan says is executed for a product of known sizes."""
        module = load(replace(case, dynamic="", plan={}).source, make_context())
        (gemm,) = (op for op in module.walk() if isinstance(op, GemmOp))
        return tile_counts(analyse(gemm), TILES, self.plan)

    def check_counts(self, case: NarrowProduct, executed: amx.Counts) -> None:
        """Hold what one thread executed against the plan."""
        expected = self.counts(case)
        roles = ("lhs", "rhs") if self.plan.lanes.data == "n" else ("rhs", "lhs")
        left, right = (case.factors[role == "rhs"] for role in roles)
        instruction = TILES.tile_instruction_for(element_type(left), element_type(right))
        assert instruction is not None
        assert sum(executed.multiplies.values()) == expected.multiplications
        assert set(executed.multiplies) <= {instruction.mnemonic}
        row, column = (role if role in self.places else "ab"[role == "rhs"] for role in roles)
        loads, stores = executed.loads_by, executed.stores_by
        assert loads[row] == expected.row_loads
        assert loads[column] == expected.column_loads
        assert loads["c"] + loads["sums"] == expected.result_loads
        assert stores["c"] + stores["sums"] == expected.stores
        assert executed.tileloads == loads[row] + loads[column] + expected.result_loads
        assert executed.tilestores == expected.stores
        assert_left_as_found(executed, times=1)


def assert_left_as_found(executed: amx.Counts, times: int | None = None) -> None:
    """As often configured as released, and no thread is left configured."""
    assert executed.ldtilecfg == executed.tilerelease
    assert times in (None, executed.ldtilecfg)
    assert executed.sttilecfg == 0
    assert executed.configured_threads == 0


def new_workspace(kernel: Kernel, at: Edge = "end") -> Array:
    """A workspace full of NaN, at an edge of memory that can't be touched."""
    elements = -(-max(1, kernel.workspace_bytes) // 64) * 16
    return guarded(ArraySpec((elements,)), at).view(np.uint8)


@cache
def compiled(source: str, target: Target = TILES, threads: int = 1) -> Compiled:
    return Compiled(nkdsl.compile(source, target, threads=threads, emulate=True))


def copies(arrays: Sequence[Array]) -> list[Array]:
    """The same arrays, layout included, elsewhere."""
    found = [plain(ArraySpec.of(array)) for array in arrays]
    for copy, array in zip(found, arrays, strict=True):
        copy[...] = array
    return found


# ------------------------------------------------------------------------------ large products

LARGE = [
    pytest.param(factors, shape, id=f"{factors[0]}-{'x'.join(map(str, shape))}")
    for factors in (("bf16", "bf16"), ("s8", "s8"))
    for shape in ((512, 512, 512), (1024, 1024, 4096))
]


@pytest.mark.parametrize("from_zero", [False, True])
@pytest.mark.parametrize(("factors", "shape"), LARGE)
def test_a_large_product_loads_one_tile_a_multiplication(
    factors: tuple[str, str], shape: Shape, from_zero: bool
) -> None:
    """And each tile of sums once for each further part of the reduction, once more if it is old."""
    m, n, k = shape
    case = product(factors, shape, from_zero=from_zero)
    found = compiled(case.source, get_target("sapphirerapids"))
    arrays = case.arrays(seed=0)
    result = copies(arrays)
    executed = found.run(result)
    tiles, steps = (m // 16) * (n // 16), k // steps_of(factors)
    parts = -(-k // found.plan.k_block.data)
    factor_loads = sum(executed.loads_by.get(name, 0) for name in ("lhs", "rhs", "a", "b"))
    assert sum(executed.multiplies.values()) == tiles * steps == factor_loads
    assert executed.loads_by["c"] == tiles * (parts - from_zero)
    assert executed.stores_by["c"] == tiles * parts
    assert executed.loads_by["sums"] == executed.stores_by["sums"] == 0
    found.check_counts(case, executed)
    check_some_rows(case, arrays, result[2])


def check_some_rows(case: NarrowProduct, arrays: Sequence[Array], result: Array) -> None:
    """All numbers to within rounding, or exactly for integers, and a few rows bit for bit."""
    a, b, c = arrays
    rows = np.array([0, 17, case.m // 2, case.m - 1])
    assert_same(result[rows], wanted(replace(case, m=4), [a[rows], b, c[rows]]))
    exact = a.astype(np.float64) @ b.astype(np.float64) + (0 if case.from_zero else c)
    bound = 0.0 if c.dtype == np.int32 else 2.0**-23 * case.k * np.abs(exact).max()
    assert np.abs(result - exact).max() <= bound


def product(factors: tuple[str, str], shape: Shape, **entries: object) -> NarrowProduct:
    """A product with a result of sums."""
    result = element_type(factors[0]).sums
    return NarrowProduct(factors, *shape, result, **entries)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(512, 512, 512), (127, 255, 511), (33, 47, 65), (16, 100, 31)])
@pytest.mark.parametrize("factors", FACTORS, ids="-".join)
def test_as_many_multiplications_as_tiles_cover_the_product(
    factors: tuple[str, str], shape: Shape
) -> None:
    case = product(factors, shape)
    found = compiled(case.source)
    result = case.arrays(seed=1)
    executed = found.run(result)
    m, n, k = shape
    tiles = -(-m // 16) * -(-n // 16) * -(-k // steps_of(factors))
    assert sum(executed.multiplies.values()) == tiles
    found.check_counts(case, executed)


# --------------------------------------------------------------------------- any run-time sizes

NEAR = (1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65)
"""Extents around those of tiles and of blocks."""


def shapes(count: int, seed: str) -> list[Shape]:
    """So many shapes, no two of them alike."""
    rng, found = random.Random(seed), dict[Shape, None]()

    def extent() -> int:
        return rng.choice((rng.choice(NEAR), rng.randint(1, 40), rng.randint(1, 110)))

    while len(found) < count:
        found[extent(), extent(), extent()] = None
    return list(found)


ROWS, COLUMNS = ("rows", "rows", "rows"), ("columns", "columns", "columns")

VARIANTS: dict[str, dict[str, object]] = {
    "accumulates": {"layouts": ROWS},
    "from zero": {"layouts": ("padded", "padded", "padded"), "from_zero": True},
    "lanes along m": {"layouts": COLUMNS},
    "rhs transposed": {"layouts": ("rows", "columns", "padded"), "from_zero": True},
    "lhs transposed": {"layouts": ("columns", "rows", "rows")},
    "batch": {"layouts": ROWS, "outer": "batch", "from_zero": True},
}
"""Products whose sizes are open, in small cache blocks."""


def open_product(factors: tuple[str, str], variant: str) -> NarrowProduct:
    """A product of any sizes in blocks of 2x2 tiles, of which few make up a cache block."""
    entries = VARIANTS[variant]
    instruction = TILES.tile_instruction_for(*map(element_type, factors))
    assert instruction is not None
    lanes = "m" if entries["layouts"] == COLUMNS else "n"
    plan = {
        "instruction": f'"{instruction.name}"',
        "block": "32x32",
        "lanes": lanes,
        "resident": "rhs" if lanes == "n" else "lhs",
        "pack": "both",
        "m_block": 48,
        "n_block": 64,
        "k_block": instruction.steps,
    }
    dynamic = "bmnk" if "outer" in entries else "mnk"
    return product(factors, (5, 5, 5), dynamic=dynamic, plan=plan, target=TILES.name, **entries)


QUICK, SLOW = 40, 70
"""Shapes of each pair of types: for the variant that every run of the tests tries, and for each of
those that are left to the slow ones."""


def sweeps() -> Iterator[object]:
    """Products no two of which are alike: 6·40 quick ones, 6·5·70 slow ones."""
    for number, factors in enumerate(FACTORS):
        variants = [*VARIANTS][number:] + [*VARIANTS][:number]
        every = iter(shapes(QUICK + SLOW * (len(variants) - 1), seed="".join(factors)))
        for variant in variants:
            quick = variant == variants[0]
            yield pytest.param(
                *(factors, variant, list(islice(every, QUICK if quick else SLOW))),
                id=f"{'-'.join(factors)}-{variant}",
                marks=[] if quick else pytest.mark.slow,
            )


@pytest.mark.parametrize(("factors", "variant", "sizes"), list(sweeps()))
def test_one_kernel_multiplies_matrices_of_any_sizes(
    factors: tuple[str, str], variant: str, sizes: list[Shape]
) -> None:
    case = open_product(factors, variant)
    found = compiled(case.source)
    for number, (m, n, k) in enumerate(sizes):
        actual = replace(case, m=m, n=n, k=k, b=1 + number % 3)
        arrays = actual.arrays(seed=number)
        expected = wanted(actual, arrays)
        for at in ("start", "end"):
            check_in_a_child(found.kernel, arrays, expected, at)
        executed = found.run(arrays)
        assert_same(arrays[2], expected, actual)
        found.check_counts(actual, executed)


def check_in_a_child(kernel: Kernel, arrays: Sequence[Array], expected: Array, at: Edge) -> None:
    """Call a kernel with all of its memory at an edge of what can be touched."""
    inside = [guarded(ArraySpec.of(array), at) for array in arrays]
    for copy, array in zip(inside, arrays, strict=True):
        copy[...] = array
    workspace = new_workspace(kernel, at)

    def call() -> None:
        with amx.emulated():
            kernel(*inside, workspace=workspace)

    end = survives(call)
    assert end is None, f"arrays of {[a.shape for a in arrays]} at the {at}: {end}"
    assert_same(inside[2], expected)
    for copy, array in zip(inside[:2], arrays, strict=False):
        assert_same(copy, array)


# ---------------------------------------------------------------------------------- any product


@st.composite
def products(draw: st.DrawFn, least: int = 1, most: int = 50) -> NarrowProduct:
    """Any product of so many rows and columns, with anything after it."""
    factors = draw(st.sampled_from(FACTORS))
    floats = not element_type(factors[0]).is_integer
    whole = st.integers(-(-least // 16), most // 16).map(lambda tiles: 16 * tiles)
    m, n = (draw(st.one_of(st.integers(least, most), whole)) for _ in "mn")
    k = draw(st.one_of(st.integers(1, 140), st.sampled_from((32, 64, 128))))
    outer = draw(st.sampled_from(("", "", "", "batch", "reduce")))
    epilogue = draw(st.sampled_from((None, None, *EPILOGUES)))
    results = [element_type(factors[0]).sums, *([factors[0]] if floats else [])]
    if epilogue is not None:
        results = ["f32", factors[0]] if floats else ["f32", "s8", "u8"]
    result = draw(st.sampled_from(results))
    in_rows, layout = (st.sampled_from(LAYOUTS[:count]) for count in (2, 3))
    rhs = draw(st.sampled_from((*LAYOUTS, "groups")))
    dynamic = draw(st.sampled_from(("", "", "" if outer == "reduce" else "mnk", "m")))
    if rhs == "groups":
        # These are read where they are, as whole tiles.
        steps = steps_of(factors)
        n, k, dynamic = -(-n // 16) * 16, -(-k // steps) * steps, dynamic[:1]
    # A residual must be contiguous where the result is.
    out = draw(in_rows if epilogue == "residual" or rhs == "groups" else layout)
    integers = element_type(result).is_integer or not floats
    return NarrowProduct(
        factors,
        *(m, n, k, result),
        layouts=(draw(layout), rhs, out),
        from_zero=draw(st.booleans()) or (integers and result != "s32"),
        epilogue=epilogue,
        dynamic=dynamic,
        outer=outer,
        b=draw(st.integers(1, 3)),
    )


def examples_for(share: int) -> settings:
    """A share of the profile's examples; a failure is shrunk, but not explained at length."""
    profile = settings.get_profile(settings.get_current_profile_name())
    phases = tuple(phase for phase in Phase if phase is not Phase.explain)
    return settings(max_examples=max(1, profile.max_examples // share), phases=phases)


@examples_for(3)
@given(case=products(), seed=st.integers(0, 99))
def test_machine_code_computes_what_the_interpreters_do_bit_for_bit(
    case: NarrowProduct, seed: int
) -> None:
    found = compiled(case.source)
    assume(found.plan.instruction.data.startswith("tile."))
    arrays = case.arrays(seed)
    expected = copies(arrays)
    lowered = Lowered(case.source, TILES.name)
    lowered.run_level("composed", expected)
    intrinsics = copies(arrays)
    lowered.run_level("upstream", intrinsics)
    check_in_a_child(found.kernel, arrays, expected[2], "end")
    executed = found.run(arrays)
    assert_same(arrays[2], expected[2], case)
    assert_same(intrinsics[2], expected[2], case)
    found.check_counts(case, executed)


@examples_for(10)
@given(case=products(), seed=st.integers(0, 99))
def test_every_level_computes_the_same(case: NarrowProduct, seed: int) -> None:
    lowered = Lowered(case.source, TILES.name)
    assume("tile.configure" in str(lowered.modules["blocked"]))
    lowered.check(like=case.like(), seed=seed)


@pytest.mark.parametrize("from_zero", [False, True])
@pytest.mark.parametrize("empty", ["m", "n", "k", "mnk"])
@pytest.mark.parametrize("factors", [("bf16", "bf16"), ("s8", "u8")], ids="-".join)
def test_empty_products_execute_no_multiplication(
    factors: tuple[str, str], empty: str, from_zero: bool
) -> None:
    case = replace(open_product(factors, "accumulates"), from_zero=from_zero)
    sizes = {i: 0 if i in empty else 20 for i in "mnk"}
    actual = replace(case, **sizes)  # type: ignore[arg-type]
    arrays = actual.arrays(seed=0)
    old = arrays[2].copy()
    with amx.emulated() as machine:
        compiled(case.source).kernel(*arrays)
    assert_same(arrays[2], np.zeros_like(old) if from_zero else old)
    assert machine.counts.multiplies == {}
    assert_left_as_found(machine.counts)


# --------------------------------------------------------------------------------------- threads


@pytest.fixture
def two_threads() -> int:
    if openmp.ensure_loaded() is None:
        pytest.skip(openmp.absence())
    return 2


SHARED = {
    "known": product(("bf16", "bf16"), (100, 150, 90)),
    "known, in columns": product(("s8", "u8"), (100, 150, 90), layouts=COLUMNS, from_zero=True),
    "known, converted": replace(product(("bf16", "bf16"), (100, 150, 90)), result="bf16"),
    "open": replace(open_product(("f16", "f16"), "accumulates"), plan={}),
    "open, batch": replace(open_product(("s8", "s8"), "batch"), plan={}),
}


@pytest.mark.parametrize("name", SHARED)
def test_every_thread_configures_its_tiles_and_releases_them(name: str, two_threads: int) -> None:
    case = SHARED[name]
    shared = compiled(case.source, threads=two_threads)
    assert shared.plan.threads.data == two_threads
    actual = replace(case, m=100, n=150, k=90)
    arrays = actual.arrays(seed=0)
    alone = copies(arrays)
    compiled(case.source).kernel(*alone)
    with amx.emulated() as machine:
        shared.kernel(*arrays)
    assert_same(arrays[2], alone[2])
    if case.result != "bf16":
        assert_same(arrays[2], wanted(actual, actual.arrays(seed=0)))
    assert_left_as_found(machine.counts, times=two_threads)


@examples_for(10)
@given(case=products(least=80, most=150), seed=st.integers(0, 99))
def test_two_threads_compute_what_one_does_bit_for_bit(case: NarrowProduct, seed: int) -> None:
    if openmp.ensure_loaded() is None:
        pytest.skip(openmp.absence())
    shared = compiled(case.source, threads=2)
    assume(shared.plan.instruction.data.startswith("tile."))
    arrays = case.arrays(seed)
    alone = copies(arrays)
    compiled(case.source).kernel(*alone)
    executed = shared.run(arrays)
    assert_same(arrays[2], alone[2], case)
    assert_left_as_found(executed)
    assert executed.loads_by["elsewhere"] == executed.stores_by["elsewhere"] == 0


def test_threads_may_call_one_kernel_at_a_time_each_with_tiles_of_its_own() -> None:
    case = product(("bf16", "bf16"), (70, 50, 60))
    found = compiled(case.source)
    calls = [case.arrays(seed) for seed in range(8)]
    expected = [wanted(case, arrays) for arrays in calls]
    with amx.emulated() as machine, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda arrays: found.kernel(*arrays), calls))
    for arrays, result in zip(calls, expected, strict=True):
        assert_same(arrays[2], result)
    assert_left_as_found(machine.counts, times=len(calls))
