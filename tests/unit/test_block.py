"""Products in cache blocks: packed or not, of sizes known now or at run time, at every level.

Cache blocks are tiny, so that small products cross all their boundaries. Kernels run on arrays and
a workspace that lie flush against pages that can't be touched.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from xdsl.dialects.func import FuncOp
from xdsl.dialects.scf import IfOp, IndexSwitchOp
from xdsl.interpreter import Interpreter, PythonValues, impl, register_impls

import nkdsl
from nkdsl.dialects.nanokernel import MicrokernelOp, PackOp
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.interpreters import Buffer, executor
from nkdsl.interpreters.nanokernel import NanokernelFunctions
from nkdsl.pipeline import levels
from nkdsl.targets import can_run, get_target
from nkdsl.testing import ArraySpec, Like, Lowered
from tests.unit.assembly import functions

TARGETS = ("x86-64-v3", "skylake-avx512", "znver4")
"""One without mask registers, two with them."""

SPECS = {
    "plain": "mk,kn->mn",
    "lhs transposed": "km,kn->mn",
    "rhs transposed": "mk,nk->mn",
    "result transposed": "km,kn->nm",
    "batch": "bmk,bkn->bmn",
    "rows in two parts": "xmk,kn->xmn",
    "batch-reduce": "lmk,lkn->mn",
    "blocked reduction": "mlk,lkn->mn",
}


@dataclass(frozen=True)
class Case:
    """One product with a plan."""

    spec: str = "mk,kn->mn"
    target: str = "x86-64-v3"
    element: str = "f32"
    dynamic: str = "mnk"
    """The iterators whose extent is known only at run time."""
    layouts: tuple[str, str, str] = ("rows", "rows", "rows")
    """`rows`, or `pitched`: rows at a distance known only at run time."""
    update: str = "from zero"
    plan: dict[str, object] = field(default_factory=dict)

    @property
    def operands(self) -> list[str]:
        """The iterators of each operand."""
        return self.spec.replace("->", ",").split(",")

    def type(self, position: int, sizes: dict[str, int]) -> str:
        """The memref type of an operand."""
        operand = self.operands[position]
        shape = "".join("?x" if i in self.dynamic else f"{sizes[i]}x" for i in operand)
        if self.layouts[position] == "rows":
            return f"memref<{shape}{self.element}>"
        return f"memref<{shape}{self.element}, strided<[{'?, ' * (len(operand) - 1)}1]>>"

    def source(self, sizes: dict[str, int]) -> str:
        """The program; of the sizes, those that are dynamic are not used."""
        types = [self.type(position, sizes) for position in range(3)]
        # As the dialect calls them: iterators of one kind are numbered.
        names = {i: i for i in sizes}
        names |= {"x": "m0", "m": "m1"} if "x" in sizes else {}
        names |= {"l": "k0", "k": "k1"} if "l" in sizes else {}
        a, b, c = (f"[{', '.join(names[i] for i in operand)}]" for operand in self.operands)
        scalars = f", %alpha: {self.element}, %beta: {self.element}" * ("scale" in self.update)
        plan = ", ".join(f"{key} = {value}" for key, value in self.entries.items())
        return f"""
        func.func @f(%a: {types[0]}, %b: {types[1]}, %c: {types[2]}{scalars}) {{
          %yes = arith.constant true
          %no = arith.constant false
          nanokernel.gemm ins(%a{a}, %b{b} : {types[0]}, {types[1]}) outs(%c{c} : {types[2]})
            {self.update} plan #nanokernel.plan<{plan}>
          func.return
        }}"""

    @property
    def entries(self) -> dict[str, object]:
        """The entries of the plan."""
        element, target = self.element, get_target(self.target)
        instruction = next(i for i in target.instructions if i.operand == i.accumulator == element)
        registers, count = 2, 3
        block = {
            "n": f"{count}x{registers * instruction.lanes}",
            "m": f"{registers * instruction.lanes}x{count}",
        }.get(str(self.plan.get("lanes", "n")))
        named = {"target": f'"{self.target}"', "instruction": f'"{instruction.name}"'}
        return {**named, "block": block, "k_unroll": 2, **self.plan}

    def like(self, sizes: dict[str, int]) -> list[Like]:
        """The arrays of a call; pitched rows are followed by a hole."""
        found: list[Like] = []
        for operand, layout in zip(self.operands, self.layouts, strict=True):
            shape = [sizes[i] for i in operand]
            strides = [1]
            for extent in shape[:0:-1]:
                pitch = extent + 3 if len(strides) == 1 and layout == "pitched" else extent
                strides.insert(0, strides[0] * max(1, pitch))
            found.append(ArraySpec(tuple(shape), self.element, tuple(strides)))
        return [*found, *([None, None] if "scale" in self.update else [])]


def sizes_of(spec: str, m: int, n: int, k: int, outer: int = 2) -> dict[str, int]:
    """The extent of each iterator."""
    return {i: {"m": m, "n": n, "k": k}.get(i, outer) for i in dict.fromkeys(spec) if i.isalpha()}


def check(case: Case, *many: dict[str, int]) -> None:
    """Hold a case against its meaning for some sizes, which agree where they are known now."""
    lowered = Lowered(case.source(many[0]), case.target)
    for seed, sizes in enumerate(many):
        done = lowered.check(like=case.like(sizes), seed=seed, guards=("start", "end"))
        assert (done.native is None) == (can_run(get_target(case.target)) is None)
        assert "blocked" in done.levels


# ------------------------------------------------------------------------------ any plan


@st.composite
def cases(draw: st.DrawFn, spec: str) -> tuple[Case, list[dict[str, int]]]:
    """Any plan in tiny cache blocks, and sizes for it."""
    iterators = [i for i in dict.fromkeys(spec) if i.isalpha()]
    dynamic = "".join(i for i in iterators if draw(st.integers(0, 3)))
    lhs, rhs, out = spec.replace("->", ",").split(",")
    lanes = out[-1]
    vector, where = ("rhs", rhs) if lanes == "n" else ("lhs", lhs)
    must = [] if where[-1] == lanes else [vector]
    pack = draw(st.sampled_from([p for p in ("none", "lhs", "rhs", "both") if _has(p, must)]))
    blocks = {
        "m_block": draw(st.integers(5, 20)),
        "n_block": draw(st.integers(16, 64)),
        "k_block": draw(st.integers(3, 20)),
    }
    for name in blocks:
        if name[0] not in dynamic and draw(st.booleans()):
            blocks[name] = 0
    if not blocks["m_block"] and not blocks["n_block"]:
        blocks["n_block"] = 32
    plan: dict[str, object] = {
        "lanes": lanes,
        "pack": pack,
        "resident": draw(st.sampled_from(("lhs", "rhs"))),
        "k_unroll": draw(st.integers(1, 4)),
        "prefetch": draw(st.sampled_from((0, 0, 3))),
        "ahead": draw(st.sampled_from(("none", "lhs", "rhs", "both"))),
        "pack_from": draw(st.sampled_from((0, 0, 1, 17))),
        **blocks,
    }
    case = Case(
        spec,
        draw(st.sampled_from(TARGETS)),
        draw(st.sampled_from(("f32", "f64"))),
        dynamic,
        tuple(draw(st.sampled_from(("rows", "pitched"))) for _ in range(3)),  # type: ignore[arg-type]
        draw(st.sampled_from(UPDATES)),
        plan,
    )
    # From one to a little more than two blocks each way, and now and then nothing at all.
    most = {"m": 43, "n": 70, "k": 43} if len(iterators) == 3 else {"m": 21, "n": 40, "k": 21}
    known = {i: draw(st.integers(0, most.get(i, 2))) for i in iterators}
    further = [
        known | {i: draw(st.integers(0, most.get(i, 2))) for i in dynamic}
        for _ in range(2 if dynamic else 0)
    ]
    return case, [known, *further]


UPDATES = (
    "",
    "from zero",
    "from zero",
    "from zero if %yes",
    "from zero if %no",
    "scale %alpha, %beta",
    "from zero scale %alpha, %beta",
    "from zero if %no scale %alpha, %beta",
)


def _has(pack: str, roles: Sequence[str]) -> bool:
    return all(pack in (role, "both") for role in roles)


def examples_for(share: int) -> settings:
    """A share of the profile's examples; a failure is shrunk, but not explained at length."""
    profile = settings.get_profile(settings.get_current_profile_name())
    phases = tuple(phase for phase in Phase if phase is not Phase.explain)
    return settings(max_examples=max(1, profile.max_examples // share), phases=phases)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@examples_for(10)
@given(data=st.data())
def test_every_blocked_plan_computes_the_same(data: st.DataObject, spec: str) -> None:
    case, sizes = data.draw(cases(spec))
    check(case, *sizes)


# ----------------------------------------------------------------------- every boundary


def around(*boundaries: int) -> list[int]:
    """1, and what lies at some boundaries or one element beside them."""
    near = {b + d for b in boundaries for d in (-1, 0, 1)}
    return sorted({1, *(n for n in near if n > 0)})


BLOCKED = {"pack": "both", "m_block": 6, "n_block": 32, "k_block": 5, "k_unroll": 2}


QUICK = {
    ("x86-64-v3", "both", "rhs"),
    ("skylake-avx512", "rhs", "lhs"),
    ("znver4", "none", "rhs"),
    ("x86-64-v3", "lhs", "lhs"),
}
"""The combinations that every run of the tests tries."""


@pytest.mark.parametrize(
    ("target", "pack", "resident"),
    [
        pytest.param(*each, marks=() if each in QUICK else pytest.mark.slow)
        for each in product(TARGETS, ("none", "lhs", "rhs", "both"), ("lhs", "rhs"))
    ],
)
def test_one_kernel_serves_sizes_around_every_boundary(
    target: str, pack: str, resident: str
) -> None:
    case = Case(target=target, plan=BLOCKED | {"pack": pack, "resident": resident})
    lowered = Lowered(case.source(sizes_of(case.spec, 1, 1, 1)), target)
    rows, columns, depths = around(3, 6, 12), around(8, 16, 32, 64), around(2, 5, 10)
    middle = 7, 33, 6
    for number, sizes in enumerate(
        [(m, *middle[1:]) for m in rows]
        + [(middle[0], n, middle[2]) for n in columns]
        + [(*middle[:2], k) for k in depths]
        + list(zip(rows, columns, depths, strict=False))
    ):
        like = case.like(sizes_of(case.spec, *sizes))
        # Levels in between are executed for some, the machine code for all.
        lowered.check(like=like, seed=number, guards=("end",), interpret=number % 7 == 0)


@pytest.mark.parametrize("target", ["x86-64-v3", pytest.param("znver4", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "empty",
    ["m", "n", "k", *(pytest.param(e, marks=pytest.mark.slow) for e in ("mn", "mk", "nk")), "mnk"],
)
@pytest.mark.parametrize("dynamic", ["", "mnk"])
def test_empty_products_touch_nothing_but_the_sums_they_start(
    empty: str, target: str, dynamic: str
) -> None:
    sizes = {i: 0 if i in empty else n for i, n in {"m": 7, "n": 33, "k": 6}.items()}
    for update in ("from zero", "", "scale %alpha, %beta"):
        check(Case(target=target, dynamic=dynamic, update=update, plan=BLOCKED), sizes)


@pytest.mark.parametrize("dynamic", ["", "mnkl", "l"])
@pytest.mark.parametrize("empty", ["k", "l", "kl"])
def test_an_empty_outer_reduction_still_starts_the_sums(empty: str, dynamic: str) -> None:
    sizes = {i: 0 if i in empty else n for i, n in {"l": 2, "m": 7, "n": 19, "k": 6}.items()}
    for update in ("from zero", "scale %alpha, %beta"):
        check(Case("lmk,lkn->mn", dynamic=dynamic, update=update, plan=BLOCKED), sizes)


AHEAD = {"pack": "rhs", "ahead": "both", "n_block": 4096, "k_block": 7, "prefetch": 5}


@pytest.mark.parametrize("target", ["x86-64-v3", "znver4"])
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [
        # Panels of one width, and of two; one block to a panel; too few turns for all the rows.
        (12, 128, 21),
        (10, 150, 20),
        (3, 96, 7),
        (4, 80, 40),
        (7, 65, 1),
    ],
)
def test_panels_are_packed_ahead(m: int, n: int, k: int, target: str) -> None:
    sizes = {"m": m, "n": n, "k": k}
    for update in ("", "from zero", "scale %alpha, %beta"):
        check(Case(target=target, dynamic="", update=update, plan=AHEAD), sizes)
        mirrored = AHEAD | {"lanes": "m", "pack": "lhs", "m_block": 4096, "n_block": 0}
        swapped = {"m": n, "n": m, "k": k}
        check(Case("km,nk->nm", target, dynamic="", update=update, plan=mirrored), swapped)


def test_the_microkernels_of_a_panel_pack_the_next() -> None:
    case = Case(dynamic="", update="from zero", plan=AHEAD)
    found = ran(case, 12, 16 * 3 + 5, 7)
    # Three panels of four blocks: the very first one packs its own panel. One of another width.
    assert found.microkernels == {
        "f_3x16_first": 1,
        "f_3x16_ahead": 11,
        "f_3x5_first": 1,
        "f_3x5": 3,
    }
    assert found.packed == 0


# ------------------------------------------------------------------- which microkernels run


@register_impls
class _Counting(NanokernelFunctions):
    """Notes what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.microkernels: Counter[str] = Counter()
        self.packed = 0

    @impl(MicrokernelOp)
    def run_microkernel(
        self, interpreter: Interpreter, op: MicrokernelOp, args: PythonValues
    ) -> PythonValues:
        self.microkernels[op.callee.string_value()] += 1
        return _values(super().run_microkernel(interpreter, op, args))

    @impl(PackOp)
    def run_pack(self, interpreter: Interpreter, op: PackOp, args: PythonValues) -> PythonValues:
        self.packed += 1
        return _values(super().run_pack(interpreter, op, args))


def _values(result: Any) -> PythonValues:
    """What a rule returned, as xDSL wraps it."""
    return result[0]


def ran(case: Case, m: int, n: int, k: int) -> _Counting:
    """What runs at the blocked level for some sizes."""
    sizes = sizes_of(case.spec, m, n, k)
    module = levels(case.source(sizes), case.target)["blocked"]
    (function,) = (f for f in module.ops if isinstance(f, FuncOp) and f.sym_name.data == "f")
    arrays = [np.ones([sizes[i] for i in operand], np.float32) for operand in case.operands]
    machine, counting = executor(module), _Counting()
    machine.register_implementations(counting, override=True)
    machine.call_op(function, tuple(Buffer.of(array) for array in arrays))
    assert (arrays[2] == k).all()
    return counting


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ((3, 16, 5), {"f_3x16": 1}),
        # Masked in its last register, which needs no code of its own.
        ((3, 9, 5), {"f_3x16": 1}),
        ((3, 1, 5), {"f_3x8": 1}),
        ((1, 8, 5), {"f_1x8": 1}),
        # Two parts of the reduction.
        ((3, 16, 6), {"f_3x16": 2}),
        # Seven rows are a part of four and one of three, and four rows two blocks of two.
        ((7, 16, 5), {"f_2x16": 2, "f_3x16": 1}),
        ((12, 32, 5), {"f_3x16": 8}),
        ((0, 16, 5), {}),
        # Sums of nothing are started all the same.
        ((3, 16, 0), {"f_3x16": 1}),
    ],
)
def test_blocks_are_even_and_each_has_its_microkernel(
    sizes: tuple[int, int, int], wanted: dict[str, int]
) -> None:
    assert ran(Case(plan=BLOCKED), *sizes).microkernels == wanted


@pytest.mark.parametrize("sizes", [(8, 32, 10), (9, 40, 11), (20, 70, 12)])
def test_little_of_a_product_runs_in_small_microkernels(sizes: tuple[int, int, int]) -> None:
    """An even split leaves no sliver: blocks hold more than half of what they could."""
    rows = {int(name[2:].split("x")[0]) for name in ran(Case(plan=BLOCKED), *sizes).microkernels}
    assert min(rows) >= 2


def test_known_sizes_have_only_the_microkernels_that_occur() -> None:
    case = Case(dynamic="", plan=BLOCKED | {"m_block": 0})
    module = levels(case.source(sizes_of(case.spec, 7, 20, 5)), case.target)["blocked"]
    private = {f.sym_name.data for f in module.ops if isinstance(f, FuncOp)} - {"f"}
    assert private == set(ran(case, 7, 20, 5).microkernels)
    assert not any(isinstance(op, IndexSwitchOp) for op in module.walk())


def test_run_time_sizes_have_a_microkernel_for_every_block() -> None:
    case = Case(plan=BLOCKED)
    kernel = nkdsl.compile(case.source(sizes_of(case.spec, 1, 1, 1)), case.target)
    code = functions(kernel.asm())
    microkernels = (f"f_{m}x{n}" for m in (1, 2, 3) for n in (8, 16))
    assert set(code) == {"f", *microkernels, "f_pack_8", "f_pack_16"}


@pytest.mark.parametrize(("smaller", "packs"), [(15, False), (16, True), (17, True)])
def test_small_products_are_read_in_place(smaller: int, packs: bool) -> None:
    case = Case(plan=BLOCKED | {"pack_from": 16, "m_block": 40})
    assert bool(ran(case, smaller, 32, 5).packed) == packs
    assert bool(ran(case, 40, smaller, 5).packed) == packs


def test_what_cant_be_read_in_place_is_always_packed() -> None:
    case = Case("mk,nk->mn", plan=BLOCKED | {"pack_from": 100})
    assert ran(case, 7, 20, 5).packed
    check(case, sizes_of(case.spec, 7, 20, 6), sizes_of(case.spec, 1, 1, 1))


def test_without_a_limit_nothing_is_decided_at_run_time() -> None:
    module = levels(Case(plan=BLOCKED).source(sizes_of("mnk", 1, 1, 1)), "x86-64-v3")["blocked"]
    assert not any(op.results == () and isinstance(op, IfOp) for op in module.walk())


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (Case(plan=BLOCKED | {"k_block": 0}), "k is known only at run time.*needs a k_block"),
        (
            Case("mk,nk->mn", plan=BLOCKED | {"pack": "lhs"}),
            "rhs along n, in which it is not contiguous: write pack = rhs",
        ),
        (Case("mk,kn->nm", plan=BLOCKED), "contiguous along n; write lanes = m"),
        (Case(plan=BLOCKED | {"lanes": "k", "block": "3x4"}), "lanes along m or n, not k"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(case: Case, words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        nkdsl.compile(case.source(sizes_of(case.spec, 1, 1, 1)), case.target)


def test_sizes_that_disagree_are_refused_before_anything_runs() -> None:
    case = Case(plan=BLOCKED)
    if can_run(get_target(case.target)) is not None:
        pytest.skip(f"this CPU can't run {case.target}")
    kernel = nkdsl.compile(case.source(sizes_of(case.spec, 1, 1, 1)), case.target)
    a, b, c = np.ones((3, 4), np.float32), np.ones((5, 6), np.float32), np.ones((3, 6), np.float32)
    with pytest.raises(InvalidInput, match=r"size 5 in dimension 0.*size 4 in dimension 1"):
        kernel(a, b, c)
    assert (c == 1).all()
