"""Products of bf16, f16 and 8-bit integers at every level and as machine code, whatever their plan.

Results are within one rounding of sums in f32, and exact for integers. Shapes are small, cache
blocks tiny: what differs between them is which groups, tails, panels and signs they need. Kernels
run on arrays that lie flush against pages that can't be touched, in a child process.
"""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import nkdsl
from nkdsl.targets import can_run, get_target
from nkdsl.testing import Check, Lowered
from nkdsl.types import element_type
from tests.unit.narrow import EPILOGUES, FACTOR_LAYOUTS, FACTORS, LAYOUTS, NarrowProduct

TARGET = "znver4"
"""It has instructions for all of these types: some take k in groups, some flip signs."""


@st.composite
def cases(draw: st.DrawFn, factors: tuple[str, str]) -> NarrowProduct:
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
    grouped = () if factors[0] == "f16" else ("groups",)
    layout = [draw(st.sampled_from(FACTOR_LAYOUTS)) for _ in range(1)]
    layout += [draw(st.sampled_from((*FACTOR_LAYOUTS, *grouped, *grouped)))]
    # A residual must be contiguous where the result is.
    layout += [draw(st.sampled_from(LAYOUTS[:2] if epilogue == "residual" else LAYOUTS))]
    integers = element_type(result).is_integer or not floats
    from_zero = draw(st.booleans()) or (integers and result != "s32")
    dynamic = draw(st.sampled_from(("", "", "mnk", "m", "k")))
    return NarrowProduct(
        factors, m, n, k, result, (layout[0], layout[1], layout[2]), from_zero, epilogue, dynamic
    )


def examples_for(share: int) -> settings:
    """A share of the profile's examples; a failure is shrunk, but not explained at length."""
    profile = settings.get_profile(settings.get_current_profile_name())
    phases = tuple(phase for phase in Phase if phase is not Phase.explain)
    return settings(max_examples=max(1, profile.max_examples // share), phases=phases)


def check(case: NarrowProduct, *, interpret: bool = True) -> Check:
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
    check(
        NarrowProduct(factors, 2, 16, k, "f32", from_zero=True, epilogue="bias along n", plan=plan)
    )
    check(NarrowProduct(factors, 2, 16, k, "bf16", from_zero=True, plan=plan))


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
