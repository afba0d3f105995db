"""Products of bf16, f16 and 8-bit integers at every level and as machine code, whatever their plan.

Results are within one rounding of sums in f32, and exact for integers. Shapes are small, cache
blocks tiny: what differs between them is which groups, tails, panels and signs they need. Kernels
run on arrays that lie flush against pages that can't be touched, in a child process.
"""

from dataclasses import dataclass, field
from functools import cached_property

import ml_dtypes
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import nkdsl
from nkdsl.targets import can_run, get_target
from nkdsl.testing import ArraySpec, Check, Like, Lowered
from nkdsl.types import element_type

TARGET = "znver4"
"""It has instructions for all of these types: some take k in groups, some flip signs."""

FACTORS = (
    ("bf16", "bf16"),
    ("f16", "f16"),
    ("u8", "s8"),
    ("s8", "u8"),
    ("s8", "s8"),
    ("u8", "u8"),
)

LAYOUTS = ("rows", "padded", "columns")
FACTOR_LAYOUTS = (*LAYOUTS, "spread")
"""A result must be contiguous in one direction; factors need not."""

EPILOGUES = {
    "bias along n": ("n", "%y = arith.addf %x, %z : f32"),
    "bias along m": ("m", "%y = arith.addf %x, %z : f32"),
    "residual": ("mn", "%y = arith.addf %x, %z : f32"),
    "scale": ("", "%y = arith.mulf %x, %z : f32"),
    "relu": (None, "%zero = arith.constant 0.0 : f32\n%y = arith.maximumf %x, %zero : f32"),
    "gelu": (
        None,
        """%half = arith.constant 0.5 : f32
        %root = arith.constant 0.70710678 : f32
        %one = arith.constant 1.0 : f32
        %scaled = arith.mulf %x, %root : f32
        %erf = math.erf %scaled : f32
        %more = arith.addf %erf, %one : f32
        %part = arith.mulf %x, %half : f32
        %y = arith.mulf %part, %more : f32""",
    ),
}
"""The iterators of a further operand of f32, and what becomes of the sum %x."""

SATURATED = {"s8": (-128, 127, "fptosi"), "u8": (0, 255, "fptoui")}
"""The numbers that a type holds, and the conversion to it."""


@dataclass(frozen=True)
class Case:
    """One product of a narrow type."""

    factors: tuple[str, str]
    m: int
    n: int
    k: int
    result: str
    """Element type of the result: that of the sums, of the factors if these are floats, or any
    with an epilogue."""
    layouts: tuple[str, str, str] = ("rows", "rows", "rows")
    """For each operand `rows`, `padded` (each row followed by a hole), `columns` or `spread` (each
    element followed by one); for rhs also `groups`, of as many steps as four bytes hold."""
    from_zero: bool = False
    epilogue: str | None = None
    dynamic: str = ""
    """Iterators whose extent the program leaves open; strides follow suit."""
    plan: dict[str, object] = field(default_factory=dict)

    @cached_property
    def group(self) -> int:
        """Steps of k in four bytes."""
        return 4 // element_type(self.factors[0]).size

    @property
    def extra(self) -> str | None:
        """The iterators of the epilogue's further operand, if it has one."""
        return None if self.epilogue is None else EPILOGUES[self.epilogue][0]

    @property
    def operands(self) -> list[tuple[str, str, str]]:
        """Iterators, element type and layout of each operand."""
        names = ("mk", "kn", "mn")
        elements = (*self.factors, self.result)
        found = list(zip(names, elements, self.layouts, strict=True))
        return found if self.extra is None else [*found, (self.extra, "f32", "rows")]

    def like(self) -> list[Like]:
        """The arrays of a call."""
        return [self._spec(*operand) for operand in self.operands]

    def _spec(self, iterators: str, element: str, layout: str) -> ArraySpec:
        shape = tuple(getattr(self, i) for i in iterators)
        if layout == "rows":
            return ArraySpec(shape, element)
        rows, columns = shape
        match layout:
            case "groups":
                return ArraySpec((-(-rows // self.group), columns, self.group), element)
            case "columns":
                return ArraySpec(shape, element, (1, max(1, rows)))
            case "padded":
                return ArraySpec(shape, element, (columns + 3, 1))
            case _:
                return ArraySpec(shape, element, (2 * max(1, columns), 2))

    def _type(self, iterators: str, element: str, layout: str) -> str:
        spec = self._spec(iterators, element, layout)
        open_ = [i in self.dynamic for i in iterators] + [False]
        shape = "".join(
            "?x" if unknown else f"{n}x" for n, unknown in zip(spec.shape, open_, strict=False)
        )
        name = element.replace("s8", "i8").replace("u8", "i8").replace("s32", "i32")
        if spec.strides is None:
            return f"memref<{shape}{name}>"
        strides = ("?" if any(open_) and s > 2 else str(s) for s in spec.strides)
        return f"memref<{shape}{name}, strided<[{', '.join(strides)}]>>"

    @property
    def source(self) -> str:
        """The program."""
        types = [self._type(*operand) for operand in self.operands]
        marks = ["", "", " {nanokernel.unsigned}" if self.result == "u8" else "", ""]
        arguments = ", ".join(
            f"%{name}: {t}{mark}" for name, t, mark in zip("abce", types, marks, strict=False)
        )
        rhs = (
            "k, n"
            if self.layouts[1] != "groups"
            else (f"k floordiv {self.group}, n, k mod {self.group}")
        )
        unsigned = [role for role, f in zip(("lhs", "rhs"), self.factors, strict=True) if f == "u8"]
        word = f"unsigned {'both' if len(unsigned) == 2 else unsigned[0]}" if unsigned else ""
        return f"""
        func.func @product({arguments}) {{
          nanokernel.gemm ins(%a[m, k], %b[{rhs}] : {types[0]}, {types[1]}) {word}
            outs(%c[m, n] : {types[2]}) {"from zero" if self.from_zero else ""} {self._plan}
            {self._region(types)}
          func.return
        }}"""

    @property
    def _plan(self) -> str:
        if not self.plan:
            return ""
        target = get_target(TARGET)
        instruction = target.instruction_for(*map(element_type, self.factors))
        entries = {"target": f'"{TARGET}"', "instruction": f'"{instruction.name}"', **self.plan}
        return f"plan #nanokernel.plan<{', '.join(f'{k} = {v}' for k, v in entries.items())}>"

    def _region(self, types: list[str]) -> str:
        if self.epilogue is None:
            return ""
        sums = element_type(self.factors[0]).sums.replace("s32", "i32")
        taken = f"(%e[{', '.join(self.extra)}] : {types[3]})" if self.extra is not None else ""
        argument = ", %z: f32" if self.extra is not None else ""
        start = "%x = arith.sitofp %sum : i32 to f32\n" if sums == "i32" else ""
        first = "%sum" if sums == "i32" else "%x"
        return f"""epilogue{taken} {{
            ^bb0({first}: {sums}{argument}):
              {start}{EPILOGUES[self.epilogue][1]}
              {self._converted}
            }}"""

    @property
    def _converted(self) -> str:
        """The last operations of an epilogue: %y in the type of the result."""
        if self.result == "f32":
            return "nanokernel.yield %y : f32"
        if self.result not in SATURATED:
            return f"""%r = arith.truncf %y : f32 to {self.result}
              nanokernel.yield %r : {self.result}"""
        low, high, conversion = SATURATED[self.result]
        return f"""%low = arith.constant {low}.0 : f32
              %high = arith.constant {high}.0 : f32
              %most = arith.minimumf %y, %high : f32
              %least = arith.maximumf %most, %low : f32
              %r = arith.{conversion} %least : f32 to i8
              nanokernel.yield %r : i8"""


@st.composite
def cases(draw: st.DrawFn, factors: tuple[str, str]) -> Case:
    """Any product of some factors."""
    m, n, k = draw(
        st.sampled_from(
            (
                *((3, 3, 3), (1, 1, 1), (1, 70, 12), (40, 1, 20), (2, 2, 70)),
                *((11, 37, 5), (14, 34, 1), (7, 33, 130), (5, 16, 64)),
            )
        )
    )
    change = st.integers(-1, 2)
    m, n, k = (max(1, size + draw(change)) for size in (m, n, k))
    floats = not element_type(factors[0]).is_integer
    epilogue = draw(st.sampled_from((None, None, *EPILOGUES)))
    results = [element_type(factors[0]).sums, *([factors[0]] if floats else [])]
    if epilogue is not None:
        # Sums of bytes are too large for what depends on their last digits.
        results = ["f32", factors[0]] if floats else ["f32", "s8", "u8"]
    result = draw(st.sampled_from(results))
    # Flipped signs take sums of a factor that is packed on the way.
    grouped = () if factors[0] == factors[1] != "bf16" else ("groups",)
    layout = [draw(st.sampled_from(FACTOR_LAYOUTS)) for _ in range(1)]
    layout += [draw(st.sampled_from((*FACTOR_LAYOUTS, *grouped, *grouped)))]
    # A residual must be contiguous where the result is.
    layout += [draw(st.sampled_from(LAYOUTS[:2] if epilogue == "residual" else LAYOUTS))]
    integers = element_type(result).is_integer or not floats
    from_zero = draw(st.booleans()) or (integers and result != "s32")
    dynamic = draw(st.sampled_from(("", "", "mnk", "m", "k")))
    return Case(
        factors, m, n, k, result, (layout[0], layout[1], layout[2]), from_zero, epilogue, dynamic
    )


def examples_for(share: int) -> settings:
    """A share of the profile's examples; a failure is shrunk, but not explained at length."""
    profile = settings.get_profile(settings.get_current_profile_name())
    phases = tuple(phase for phase in Phase if phase is not Phase.explain)
    return settings(max_examples=max(1, profile.max_examples // share), phases=phases)


def check(case: Case, *, interpret: bool = True) -> Check:
    done = Lowered(case.source, TARGET).check(
        like=case.like(), guards=("start", "end"), interpret=interpret
    )
    assert (done.native is None) == (can_run(get_target(TARGET)) is None)
    return done


@pytest.mark.parametrize("factors", FACTORS, ids="-".join)
@examples_for(10)
@given(data=st.data())
def test_every_level_computes_the_same(data: st.DataObject, factors: tuple[str, str]) -> None:
    check(data.draw(cases(factors)))


@pytest.mark.parametrize("k", [3, 65])
@pytest.mark.parametrize("pack", ["none", "both"])
def test_a_block_of_all_k_is_finished_once_though_its_last_group_is_not_full(
    k: int, pack: str
) -> None:
    blocks = {"m_block": 2, "n_block": 16, "k_block": k, "k_unroll": 1}
    plan = {"block": "2x16", "pack": pack, **blocks}
    factors = ("bf16", "bf16")
    check(Case(factors, 2, 16, k, "f32", from_zero=True, epilogue="bias along n", plan=plan))
    check(Case(factors, 2, 16, k, "bf16", from_zero=True, plan=plan))


@pytest.mark.parametrize("entries", ["", "m_block = 12, n_block = 64, k_block = 512"])
def test_partial_sums_never_take_the_type_of_the_result(entries: str) -> None:
    """4,096 products added up in bf16 would be off by percents; rounded once, by half a place."""
    obstacle = can_run(get_target(TARGET))
    if obstacle is not None:
        pytest.skip(obstacle)
    m, n, k = 20, 70, 4096
    types = [f"memref<{shape}xbf16>" for shape in (f"{m}x{k}", f"{k}x{n}", f"{m}x{n}")]
    plan = f"""plan #nanokernel.plan<target = "{TARGET}", instruction = "dot.bf16x16",
        block = 6x64, pack = rhs, resident = rhs, {entries}>"""
    kernel = nkdsl.compile(
        f"""
        func.func @product(%a: {types[0]}, %b: {types[1]}, %c: {types[2]}) {{
          nanokernel.gemm ins(%a[m, k], %b[k, n] : {types[0]}, {types[1]})
            outs(%c[m, n] : {types[2]}) from zero {plan if entries else ""}
          func.return
        }}""",
        TARGET,
    )
    random = np.random.default_rng(5)
    a = random.uniform(0, 1, (m, k)).astype(ml_dtypes.bfloat16)
    b = random.uniform(0, 1, (k, n)).astype(ml_dtypes.bfloat16)
    c = np.empty((m, n), ml_dtypes.bfloat16)
    kernel(a, b, c)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    sums, result = element_type("f32").unit_roundoff, element_type("bf16").unit_roundoff
    bound = exact * (result + 2 * k * sums)
    assert (np.abs(c.astype(np.float64) - exact) <= bound).all()
    if entries:
        assert "k_block = 512" in kernel.plan
        # The sums are kept as f32: 12 x 64 of them, beside one panel of rhs.
        assert kernel.workspace_bytes >= 12 * 64 * 4 + 512 * 64 * 2
