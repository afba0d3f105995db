"""Arm SME: products of tiles as large as vectors are long, at every level and as machine code.

One object file runs in QEMU, on processors with vectors of 128, 256, 512 bits and more, and on
arrays that lie flush against pages that can't be touched. Each element is the sum of its products
in order of k, wherever tiles and blocks end: so no bit of a result depends on the vector length,
and `model`, which knows neither tiles nor blocks, predicts all of them.

A table whose vector instructions are slow beyond measure makes every product one of tiles.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from xdsl.ir import Attribute

import nkdsl
from nkdsl.backends import linker, native
from nkdsl.cli.main import main
from nkdsl.emulation import qemu
from nkdsl.emulation.qemu import Call, Processor
from nkdsl.frontend import load, make_context
from nkdsl.interpreters import Buffer, function_named, native_arguments
from nkdsl.interpreters.sme import SmeUnit
from nkdsl.interpreters.tile import vector_length
from nkdsl.runtime.kernel import Kernel
from nkdsl.targets import get_target, use_target
from nkdsl.targets.semantics import dot_bf16_to_odd, dot_int8, fma, rounded
from nkdsl.testing import ArraySpec, Edge, Like, Lowered, plain
from nkdsl.types import element_type
from tests.unit.aarch64 import Line, functions, innermost_loops, mnemonics, spills
from tests.unit.narrow import FACTOR_LAYOUTS, LAYOUTS, OUTER, SATURATED, NarrowProduct

Array = np.ndarray

ARMV9 = get_target("armv9-sme")

TILES = replace(
    ARMV9,
    name="tiles",
    instructions=tuple(replace(i, per_cycle=i.per_cycle / 1e9) for i in ARMV9.instructions),
)
"""A table by which tiles are always the fastest."""

FLOATS = (("f32", "f32"), ("bf16", "bf16"))
INTEGERS = (("s8", "s8"), ("u8", "u8"), ("s8", "u8"), ("u8", "s8"))
FACTORS = (*FLOATS, *INTEGERS)

LENGTHS = (128, 256, 512)
"""Bits of vectors: those of a short tile, those in between, and those that real processors have."""

ALL_LENGTHS = (*LENGTHS, 1024, 2048)

EDGES: tuple[Edge, ...] = ("end", "start")

WITHOUT_QEMU = qemu.obstacle()


def refusal(factors: tuple[str, str]) -> str | None:
    """Why the installed emulator can't multiply these, or None."""
    if WITHOUT_QEMU is not None:
        return WITHOUT_QEMU
    if factors in INTEGERS and qemu.version() < qemu.RIGHT_ABOUT_TILES:
        have, needed = (".".join(map(str, v)) for v in (qemu.version(), qemu.RIGHT_ABOUT_TILES))
        return f"QEMU {have} computes outer products of integers wrongly; {needed} is right"
    return None


EXECUTED = tuple(factors for factors in FACTORS if refusal(factors) is None)
"""What is emulated rightly here."""

needs_qemu = pytest.mark.skipif(WITHOUT_QEMU is not None, reason=str(WITHOUT_QEMU))

every_kind = pytest.mark.parametrize(
    "factors",
    [
        pytest.param(
            factors,
            id="-".join(factors),
            marks=pytest.mark.skipif(refusal(factors) is not None, reason=str(refusal(factors))),
        )
        for factors in FACTORS
    ],
)


@pytest.fixture(autouse=True)
def known_by_its_name() -> Iterator[None]:
    """Passes and interpreters ask for a plan's target by its name."""
    with use_target(TILES):
        yield


def sums_of(factors: tuple[str, str]) -> str:
    """The element type of sums."""
    return element_type(factors[0]).sums


def examples_for(share: int) -> settings:
    """A share of the profile's examples; a failure is shrunk, but not explained at length."""
    profile = settings.get_profile(settings.get_current_profile_name())
    phases = tuple(phase for phase in Phase if phase is not Phase.explain)
    return settings(max_examples=max(1, profile.max_examples // share), phases=phases)


# -------------------------------------------------------------------------------- what is computed


def _add_one(sums: Array, lhs: Array, rhs: Array) -> Array:
    return fma(sums, lhs[..., 0], rhs[..., 0])


ADD: dict[str, Callable[[Array, Array, Array], Array]] = {
    "f32": _add_one,
    "bf16": dot_bf16_to_odd,
    "s8": dot_int8,
    "u8": dot_int8,
}
"""What an instruction adds to a sum, a group of each factor, by the type of the left one."""

FINISH: dict[str, Callable[..., Array]] = {
    "bias along n": lambda x, z: x + z,
    "bias along m": lambda x, z: x + z[:, None],
    "residual": lambda x, z: x + z,
    "scale": lambda x, z: x * z,
    "relu": lambda x: np.where(x > 0, x, np.float32(0)),
}
"""Epilogues in f32, of which each operation rounds once."""


def model(product: NarrowProduct, arrays: Sequence[Array]) -> Array:
    """The result of a product, its sums in order of k."""
    a, b, old, *extra = arrays
    if product.layouts[1] == "groups":
        b = b.swapaxes(-1, -2).reshape(*b.shape[:-3], -1, b.shape[-2])[..., : product.k, :]
    finished = product.epilogue is not None or product.result != sums_of(product.factors)
    sums = np.zeros(old.shape, element_type(sums_of(product.factors)).dtype)
    if not (finished or product.from_zero):
        sums = old
    parts = zip(a, b, strict=True) if product.outer == "reduce" else [(a, b)]
    for lhs, rhs in parts:
        sums = added_up(ADD[product.factors[0]], product.group, sums, lhs, rhs)
    if not finished:
        return sums
    if not product.from_zero:
        sums = old.astype(sums.dtype) + sums
    if product.epilogue is None:
        return rounded(sums, old.dtype)
    return _converted(FINISH[product.epilogue](sums.astype(np.float32), *extra), product.result)


def added_up(
    add: Callable[[Array, Array, Array], Array], group: int, sums: Array, lhs: Array, rhs: Array
) -> Array:
    """Sums (..., M, N) and what a product of (..., M, K) and (..., K, N) adds, group by group."""
    missing = -lhs.shape[-1] % group
    left, right = (
        np.concatenate((x, np.zeros((*x.shape[:-1], missing), x.dtype)), axis=-1)
        for x in (lhs, rhs.swapaxes(-1, -2))
    )
    for k in range(0, left.shape[-1], group):
        part = slice(k, k + group)
        sums = add(sums, left[..., :, None, part], right[..., None, :, part])
    return sums


def _converted(values: Array, result: str) -> Array:
    if result in SATURATED:
        low, high, _ = SATURATED[result]
        return np.clip(values, low, high).astype(element_type(result).dtype)
    return rounded(values, element_type(result).dtype)


def memory_of(array: Array) -> bytes:
    """All of an array's memory, the holes between its elements included."""
    return Buffer.of(array).data.tobytes()


def in_place_of(array: Array, values: Array) -> Array:
    """An array of the same layout with other elements."""
    copied = plain(ArraySpec.of(array))
    copied[...] = values
    return copied


def predicted(product: NarrowProduct, arrays: Sequence[Array]) -> bytes:
    """The memory of the result, as it must be after a call."""
    return memory_of(in_place_of(arrays[2], model(product, arrays)))


# ------------------------------------------------------------------------------------ machine code


@cache
def compiled(source: str) -> tuple[Kernel, bytes, tuple[Attribute, ...]]:
    """A kernel, its only object file, and the types of its arguments."""
    function = function_named(load(source, make_context()), "product")
    kernel = nkdsl.compile(source, TILES, emulate=True)
    assert 'instruction = "outer.' in kernel.plan
    return kernel, kernel.object_code(), tuple(function.function_type.inputs)


def results(source: str, calls: Sequence[Sequence[Array]], bits: int, at: Edge) -> list[bytes]:
    """The memory of the results of some calls, made one after the other in one process."""
    kernel, code, types = compiled(source)
    workspace = [np.full(-(-kernel.workspace_bytes // 64) * 64, 0xFF, np.uint8)]
    made: list[Call] = []
    written: list[Array] = []
    for arrays in calls:
        given = [_readonly(array) for array in arrays]
        written.append(in_place_of(arrays[2], arrays[2]))
        given[2] = written[-1]
        native: list[Any] = native_arguments(types, given)
        made.append(Call("product", (*native, *(workspace if kernel.workspace_bytes else []))))
    qemu.run(code, made, Processor(streaming_bits=bits), at=at)
    return [memory_of(array) for array in written]


def _readonly(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def check_machine_code(
    product: NarrowProduct,
    sizes: Sequence[tuple[int, int, int]],
    lengths: Sequence[int] = LENGTHS,
    edges: Sequence[Edge] = EDGES,
) -> None:
    """Run a product of these sizes with vectors of each length, on arrays at ends of pages."""
    sized = [replace(product, m=m, n=n, k=k) for m, n, k in sizes]
    operands = [each.arrays(seed) for seed, each in enumerate(sized)]
    wanted = [predicted(each, arrays) for each, arrays in zip(sized, operands, strict=True)]
    for bits in lengths:
        for at in edges:
            found = results(product.source, operands, bits, at)
            wrong = [s for s, x, y in zip(sizes, found, wanted, strict=True) if x != y]
            assert not wrong, f"vectors of {bits} bits, arrays guarded at the {at}"


SHAPES = (
    *((1, 1, 1), (1, 17, 5), (33, 1, 2), (1, 1, 40), (4, 4, 4), (5, 3, 7), (8, 8, 1), (7, 9, 3)),
    *((16, 16, 16), (17, 31, 6), (31, 33, 12), (32, 64, 8), (64, 32, 9), (65, 63, 10)),
    *((40, 150, 11), (150, 40, 13), (129, 70, 97), (96, 128, 150)),
)
"""M, N and K of every regime: a part of a tile, tiles and grids of some length and one more, blocks
and parts of the reduction and one more."""

NOTHING = ((0, 5, 6), (5, 0, 6), (5, 6, 0), (0, 0, 0))
"""Products without elements, and sums without terms."""


@every_kind
def test_one_object_computes_the_same_bits_with_vectors_of_any_length(
    factors: tuple[str, str],
) -> None:
    assert len(set(SHAPES)) * len(FLOATS) >= 30
    product = NarrowProduct(factors, 5, 5, 5, sums_of(factors), dynamic="mnk")
    check_machine_code(product, SHAPES)


@needs_qemu
@pytest.mark.parametrize("from_zero", [False, True])
def test_products_of_nothing_leave_old_results_or_zeros(from_zero: bool) -> None:
    product = NarrowProduct(FLOATS[0], 5, 5, 5, "f32", from_zero=from_zero, dynamic="mnk")
    check_machine_code(product, NOTHING)


@pytest.mark.slow
@every_kind
def test_many_shapes_with_vectors_of_all_lengths(factors: tuple[str, str]) -> None:
    """300 shapes and more, even where floats alone are emulated rightly."""
    random = np.random.default_rng(FACTORS.index(factors))
    shapes = {(int(m), int(n), int(k)) for m, n, k in random.integers(1, 151, (170, 3))}
    assert len(shapes) * len(FLOATS) >= 300
    for from_zero in (False, True):
        product = NarrowProduct(
            factors, 5, 5, 5, sums_of(factors), from_zero=from_zero, dynamic="mnk"
        )
        check_machine_code(product, sorted(shapes)[from_zero::2], ALL_LENGTHS, ["end"])


# ------------------------------------------------------------------------------------------- forms


@st.composite
def products(draw: st.DrawFn, factors: tuple[str, str], m: int, n: int, k: int) -> NarrowProduct:
    """Any product of some factors, of extents up to these."""
    sums = sums_of(factors)
    floats = not element_type(factors[0]).is_integer
    epilogue = draw(st.sampled_from((None, None, *FINISH)))
    outer = draw(st.sampled_from(("", "", "", *OUTER))) if epilogue is None else ""
    choices = list(dict.fromkeys((sums, factors[0]))) if floats else [sums]
    if epilogue is not None:
        choices = ["f32", "bf16"] if floats else ["f32", "s8", "u8"]
    result = draw(st.sampled_from(choices))
    groups = ("groups",) if factors[0] != "f32" else ()
    layouts = (
        draw(st.sampled_from(FACTOR_LAYOUTS)),
        draw(st.sampled_from((*FACTOR_LAYOUTS, *groups))),
        # A residual must be contiguous where the result is.
        draw(st.sampled_from(LAYOUTS[:2] if epilogue == "residual" else LAYOUTS)),
    )
    from_zero = draw(st.booleans()) or (not floats and result != "s32")
    # Of several reductions the inner one is packed, which needs a size.
    dynamic = ("", "", "m") if outer == "reduce" else ("", "", "m", "k", "mnk")
    rows, columns, depth = (draw(st.integers(1, most)) for most in (m, n, k))
    return NarrowProduct(
        factors,
        *(rows, columns, depth, result),
        layouts,
        from_zero=from_zero,
        epilogue=epilogue,
        dynamic=draw(st.sampled_from(dynamic)),
        target=TILES.name,
        outer=outer,
    )


@needs_qemu
@examples_for(4)
@given(data=st.data())
def test_machine_code_of_any_form(data: st.DataObject) -> None:
    factors = data.draw(st.sampled_from(EXECUTED))
    product = data.draw(products(factors, 70, 70, 40))
    check_machine_code(product, [(product.m, product.n, product.k)])


@st.composite
def planned_products(
    draw: st.DrawFn, factors: tuple[str, str], m: int, n: int, k: int
) -> NarrowProduct:
    """Any product that can be cut, with any plan of blocks so small that there are several."""
    product = draw(products(factors, m, n, k))
    lhs, rhs, out = product.layouts
    product = replace(
        product,
        outer=product.outer.removesuffix("reduce"),
        layouts=(lhs, "rows" if rhs == "groups" else rhs, out),
    )
    lanes = "m" if out == "columns" else "n"
    across, along = st.sampled_from((1, 3, 8, 20, 33)), st.sampled_from((4, 8, 12, 20, 32))
    rows, columns = (draw(along if kind == lanes else across) for kind in "mn")
    # What is finished while the reduction is cut, or has a size of the call, needs cache blocks.
    finished = product.epilogue is not None or product.result != sums_of(factors)
    least = 1 if finished or product.dynamic else 0
    blocks, depths = st.integers(least, 2), st.sampled_from((0, 1, 3, 4, 8, 9)[least:])
    instruction = TILES.tile_instruction_for(*map(element_type, factors))
    assert instruction is not None
    plan: dict[str, object] = {
        "instruction": f'"{instruction.name}"',
        "block": f"{rows}x{columns}",
        "lanes": lanes,
        "pack": "both",
        "resident": draw(st.sampled_from(("lhs", "rhs"))),
        "m_block": rows * draw(blocks),
        "n_block": columns * draw(blocks),
        "k_block": draw(depths),
    }
    return replace(product, plan=plan)


@needs_qemu
@examples_for(8)
@given(data=st.data())
def test_machine_code_of_any_plan(data: st.DataObject) -> None:
    factors = data.draw(st.sampled_from(EXECUTED))
    product = data.draw(planned_products(factors, 40, 40, 20))
    check_machine_code(product, [(product.m, product.n, product.k)])


@needs_qemu
@pytest.mark.parametrize("operand", ["lhs", "rhs"])
def test_a_factor_that_is_packed_once_serves_vectors_of_any_length(
    operand: Literal["lhs", "rhs"],
) -> None:
    product = NarrowProduct(FLOATS[1], 33, 40, 21, "f32")
    arrays = product.arrays(1)
    kernel, _, _ = compiled(product.source)
    position = ("lhs", "rhs").index(operand)
    packed = nkdsl.pack(arrays[position], like=kernel, operand=operand)
    reader = kernel.packed(packed)
    factors = [*arrays[:2]]
    factors[position] = packed.panels
    for bits in LENGTHS:
        result = in_place_of(arrays[2], arrays[2])
        workspace = np.zeros(reader.workspace_bytes, np.uint8)
        call = Call(reader.signature.symbol, (*factors, result, workspace))
        qemu.run(reader.object_code(), [call], Processor(streaming_bits=bits))
        assert memory_of(result) == predicted(product, arrays)


# ------------------------------------------------------------------------------------------ levels

BITWISE = ("composed", "nkvector", "upstream")
"""The levels that say in which order the products of an element are added, and how each rounds."""

MOST_OPERATIONS = 100_000
"""Interpreted operations that an example may take at one level."""


def check_levels(product: NarrowProduct) -> None:
    """Execute all levels, those that know of tiles with vectors of each length."""
    lowered, arrays = Lowered(product.source, TILES.name), product.arrays(7)
    wanted = predicted(product, arrays)
    done = lowered.check(arrays)
    assert max(done.executed.values()) <= MOST_OPERATIONS
    for bits in LENGTHS:
        with vector_length(bits):
            for level in BITWISE:
                copies = [in_place_of(array, array) for array in arrays]
                lowered.run_level(level, copies)
                assert memory_of(copies[2]) == wanted, f"level {level}, vectors of {bits} bits"


@pytest.mark.parametrize("factors", FACTORS, ids="-".join)
@examples_for(10)
@given(data=st.data())
def test_every_level_computes_the_same_with_vectors_of_any_length(
    data: st.DataObject, factors: tuple[str, str]
) -> None:
    check_levels(data.draw(products(factors, 20, 20, 6)))


@examples_for(8)
@given(data=st.data(), threads=st.integers(1, 3))
def test_every_level_of_any_plan_computes_the_same(data: st.DataObject, threads: int) -> None:
    factors = data.draw(st.sampled_from(FACTORS))
    product = data.draw(planned_products(factors, 12, 12, 6))
    check_levels(replace(product, plan=product.plan | {"threads": threads}))


@pytest.mark.parametrize("size", ["7", "?"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("update", ["from zero if %first", "from zero if %first scale %x, %y"])
def test_an_update_may_be_decided_at_run_time(update: str, first: bool, size: str) -> None:
    type_ = f"memref<{size}x{size}xf32>"
    source = f"""
    func.func @product(%a: {type_}, %b: {type_}, %c: {type_}, %first: i1, %x: f32, %y: f32) {{
      nanokernel.gemm ins(%a[m, k], %b[k, n] : {type_}, {type_}) outs(%c[m, n] : {type_}) {update}
      func.return
    }}"""
    like: list[Like] = [*[ArraySpec((7, 7))] * 3, first, 3.0, -2.0]
    lowered = Lowered(source, TILES.name)
    for bits in LENGTHS:
        with vector_length(bits):
            assert lowered.check(like=like).levels == tuple(lowered.modules)


def test_products_in_a_row_see_each_others_results() -> None:
    type_ = "memref<9x9xbf16>"
    source = f"""
    func.func @chain(%a: {type_}, %b: {type_}, %c: {type_}, %d: memref<9x9xf32>) {{
      nanokernel.gemm ins(%a[m, k], %b[k, n] : {type_}, {type_}) outs(%c[m, n] : {type_}) from zero
      nanokernel.gemm ins(%c[m, k], %b[k, n] : {type_}, {type_}) outs(%d[m, n] : memref<9x9xf32>)
      func.return
    }}"""
    lowered = Lowered(source, TILES.name)
    assert str(lowered.modules["nanokernel"]).count('instruction = "outer.bf16"') == 2
    for bits in LENGTHS:
        with vector_length(bits):
            lowered.check()


# ------------------------------------------------------------------------------------ instructions

MNEMONICS = {
    ("f32", "f32"): "fmopa",
    ("bf16", "bf16"): "bfmopa",
    ("s8", "s8"): "smopa",
    ("u8", "u8"): "umopa",
    ("s8", "u8"): "sumopa",
    ("u8", "s8"): "usmopa",
}

LOADS = {1: "ld1b", 2: "ld1h", 4: "ld1w"}
"""By bytes of an element."""

EXAMPLES = Path(__file__).parents[2] / "examples"


def code_of(product: NarrowProduct) -> dict[str, tuple[Line, ...]]:
    """The functions of a kernel that is planned as it usually is."""
    return functions(nkdsl.compile(product.source, ARMV9).asm())


def microkernels(code: dict[str, tuple[Line, ...]]) -> dict[str, tuple[Line, ...]]:
    """The functions that multiply tiles."""
    return {
        name: lines
        for name, lines in code.items()
        if any(each.endswith("mopa") for each in mnemonics(lines))
    }


def check_main_loop(microkernel: tuple[Line, ...], mnemonic: str, load: str) -> None:
    """Four tiles take turns, for two vectors of each factor; what else there is counts."""
    (loop,) = (x for x in innermost_loops(microkernel) if mnemonics(x)[mnemonic])
    found = mnemonics(loop)
    tiles = [line.split()[1] for line in loop if line.startswith(mnemonic)]
    assert sorted(tiles) == [f"za{number}.s," for number in range(4)]
    assert found[load] == 4
    assert set(found) <= {mnemonic, load, "add", "cmp", "b.lt"}
    assert len(loop) <= 13
    assert not spills(loop)


@pytest.mark.parametrize("factors", FACTORS, ids="-".join)
def test_the_main_loop_multiplies_into_four_tiles_and_loads_as_many_vectors(
    factors: tuple[str, str],
) -> None:
    product = NarrowProduct(factors, 128, 128, 64, sums_of(factors))
    (microkernel,) = microkernels(code_of(product)).values()
    check_main_loop(microkernel, MNEMONICS[factors], LOADS[element_type(factors[0]).size])


def test_results_in_columns_exchange_the_signs_of_factors() -> None:
    layouts = ("columns", "columns", "columns")
    product = NarrowProduct(("u8", "s8"), 128, 128, 64, "s32", layouts)
    (microkernel,) = microkernels(code_of(product)).values()
    check_main_loop(microkernel, "sumopa", "ld1b")


@pytest.mark.parametrize("dynamic", ["", "mnk"])
@pytest.mark.parametrize("factors", [*FLOATS, ("s8", "u8")], ids="-".join)
def test_a_microkernel_enters_and_leaves_streaming_mode_once(
    factors: tuple[str, str], dynamic: str
) -> None:
    product = NarrowProduct(factors, 100, 100, 100, sums_of(factors), dynamic=dynamic)
    code = code_of(product)
    inside = microkernels(code)
    assert inside
    for lines in inside.values():
        assert [line for line in lines if line.startswith("smst")] == [
            *("smstart za", "smstart sm"),
            *("smstop sm", "smstop za"),
        ]
        start, stop = lines.index("smstart sm"), lines.index("smstop sm")
        assert not {"bl", "blr", "ret"} & set(mnemonics(lines[start:stop]))
        assert "ret" not in lines[stop : lines.index("smstop za")]
        assert not [line for line in spills(lines[start + 1 : stop]) if re.search(r"\bz\d", line)]
        calls = [line for line in lines if line.startswith("bl ")]
        assert calls == ["bl __arm_tpidr2_save"]


def test_code_around_microkernels_stays_out_of_streaming_mode() -> None:
    code = code_of(NarrowProduct(FLOATS[1], 100, 100, 100, "bf16", epilogue="relu"))
    outside = {"product"}
    assert outside == set(code) - set(microkernels(code)) - {"__arm_tpidr2_save"}
    for name in outside:
        found = mnemonics(code[name])
        assert found["bl"] >= 1
        assert not {"smstart", "smstop", "rdsvl", "cntw", "whilelt"} & set(found)


@pytest.mark.parametrize("bits", LENGTHS)
def test_as_many_multiplications_are_executed_as_grids_of_tiles_cover_a_block(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grid of 2x2 tiles is multiplied as a whole, wherever the block in it ends."""
    executed = 0
    multiply = SmeUnit.multiply

    def counting(self: SmeUnit, *operands: Any) -> None:
        nonlocal executed
        executed += 1
        multiply(self, *operands)

    monkeypatch.setattr(SmeUnit, "multiply", counting)
    plan: dict[str, object] = {
        "instruction": '"outer.f32"',
        "block": "40x24",
        "pack": "both",
    }
    product = NarrowProduct(FLOATS[0], 40, 24, 5, "f32", plan=plan, target=TILES.name)
    lowered = Lowered(product.source, TILES.name)
    with vector_length(bits):
        lowered.run_level("upstream", product.arrays(0))
    side = 2 * bits // 32
    assert executed == 4 * -(-40 // side) * -(-24 // side) * 5
    assert executed == {128: 300, 256: 120, 512: 40}[bits]


# ----------------------------------------------------------------------------- tiles of the caller

RESTORE_TILES = (
    0xF9400010,  #    ldr x16, [x0]         what was saved
    0xB4000130,  #    cbz x16, 1f
    0x79401011,  #    ldrh w17, [x0, #8]    how many rows
    0x2A1F03EF,  #    mov w15, wzr
    0x6B1101FF,  # 2: cmp w15, w17
    0x540000A2,  #    b.hs 1f
    0xE1006200,  #    ldr za[w15, 0], [x16]
    0x04305830,  #    addsvl x16, x16, #1
    0x110005EF,  #    add w15, w15, #1
    0x17FFFFFB,  #    b 2b
    0xD65F03C0,  # 1: ret
)
"""`__arm_tpidr2_restore`, which callers find in their compiler's library."""

CALLER = f"""
define void @caller(ptr %a, ptr %b, ptr %c, ptr %workspace, ptr %before, ptr %after, i64 %side)
    "aarch64_new_za" "aarch64_pstate_sm_body" "frame-pointer"="all" "target-features"="+sme"
    nounwind {{
begin:
  %all = call <vscale x 4 x i1> @llvm.aarch64.sve.ptrue.nxv4i1(i32 31)
  br label %load
load:
  %i = phi i64 [0, %begin], [%i.next, %load]
  %i.place = mul i64 %i, %side
  %from = getelementptr float, ptr %before, i64 %i.place
  %i.row = trunc i64 %i to i32
  call void @llvm.aarch64.sme.ld1w.horiz(<vscale x 4 x i1> %all, ptr %from, i32 3, i32 %i.row)
  %i.next = add i64 %i, 1
  %loaded = icmp eq i64 %i.next, %side
  br i1 %loaded, label %multiply, label %load
multiply:
  call void @product(ptr %a, ptr %b, ptr %c, ptr %workspace)
  br label %store
store:
  %j = phi i64 [0, %multiply], [%j.next, %store]
  %j.place = mul i64 %j, %side
  %to = getelementptr float, ptr %after, i64 %j.place
  %j.row = trunc i64 %j to i32
  call void @llvm.aarch64.sme.st1w.horiz(<vscale x 4 x i1> %all, ptr %to, i32 3, i32 %j.row)
  %j.next = add i64 %j, 1
  %stored = icmp eq i64 %j.next, %side
  br i1 %stored, label %done, label %store
done:
  ret void
}}
define linkonce_odr hidden void @__arm_tpidr2_restore() noinline
    prologue [11 x i32] [{", ".join(f"i32 u0x{word:08X}" for word in RESTORE_TILES)}] {{
  unreachable
}}
"""
"""A function that holds a tile while it calls a kernel."""


@needs_qemu
@pytest.mark.parametrize("bits", LENGTHS)
def test_a_kernel_leaves_the_tiles_of_its_caller_as_they_are(bits: int) -> None:
    """LLVM asks the called function to save them; the kernel brings the routine that does."""
    product = NarrowProduct(FLOATS[0], 20, 30, 40, "f32")
    arrays = product.arrays(0)
    kernel, _, _ = compiled(product.source)
    code = native.emit_object(kernel.ir("llvm") + CALLER, ARMV9)
    result, side = in_place_of(arrays[2], arrays[2]), bits // 32
    before = np.random.default_rng(0).standard_normal((side, side)).astype(np.float32)
    after, workspace = np.zeros_like(before), np.zeros(kernel.workspace_bytes, np.uint8)
    call = Call("caller", (*arrays[:2], result, workspace, before, after, side))
    qemu.run(code, [call], Processor(streaming_bits=bits))
    assert memory_of(result) == predicted(product, arrays)
    assert after.tobytes() == before.tobytes()


def test_a_kernel_calls_nothing_that_it_does_not_bring_along() -> None:
    text = nkdsl.compile(NarrowProduct(FLOATS[0], 64, 64, 64, "f32").source, ARMV9).asm()
    called = set(re.findall(r"^\s*bl\s+(\S+)", text, re.M))
    assert "__arm_tpidr2_save" in called <= set(functions(text))
    assert re.search(r"^\s*\.hidden\s+__arm_tpidr2_save$", text, re.M)
    assert re.search(r"^\s*\.weak\s+__arm_tpidr2_save$", text, re.M)


def test_kernels_that_bring_the_same_routine_are_linked_together() -> None:
    source = NarrowProduct(FLOATS[0], 64, 64, 64, "f32").source
    objects = [
        nkdsl.compile(source.replace("@product", f"@{name}"), ARMV9).object_code()
        for name in ("first", "second")
    ]
    program = linker.link_static(objects, ARMV9.triple)
    assert b"first" in program
    assert b"second" in program


def test_code_without_tiles_brings_no_routine() -> None:
    text = nkdsl.compile(NarrowProduct(FLOATS[0], 4, 4, 4, "f32").source, ARMV9).asm()
    assert "fmla" in text
    assert "tpidr2" not in text


# ------------------------------------------------------------------------------ as users meet them

PRODUCT = """
func.func @product(%a: memref<37x33xf32>, %b: memref<33x45xf32>, %c: memref<37x45xf32>) {
  linalg.matmul ins(%a, %b : memref<37x33xf32>, memref<33x45xf32>) outs(%c : memref<37x45xf32>)
  return
}
"""


def test_the_command_line_compiles_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    example = str(EXAMPLES / "matmul_512.mlir")
    assert main(["compile", example, "--target", "armv9-sme", "--emit=asm"]) == 0
    (microkernel,) = microkernels(functions(capsys.readouterr().out)).values()
    check_main_loop(microkernel, "fmopa", "ld1w")


@needs_qemu
def test_the_command_line_runs_a_program_and_checks_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "product.mlir"
    file.write_text(PRODUCT)
    assert main(["run", str(file), "--target", "armv9-sme", "--emulate"]) == 0
    told = capsys.readouterr().out
    assert 'instruction = "outer.f32"' in told
    assert "1665 elements agree with numpy" in told
    assert "in QEMU" in told
    assert "speed" not in told


@needs_qemu
def test_an_emulated_kernel_is_called_as_any_other() -> None:
    random = np.random.default_rng(1)
    a, b, c = (random.standard_normal(s).astype(np.float32) for s in ((37, 33), (33, 45), (37, 45)))
    wanted = added_up(_add_one, 1, c, a, b)
    kernel = nkdsl.compile(PRODUCT, "armv9-sme", emulate=True)
    kernel(a, b, c)
    assert 'instruction = "outer.f32"' in kernel.plan
    assert c.tobytes() == wanted.tobytes()


@needs_qemu
def test_a_scale_is_a_number_of_the_call() -> None:
    type_ = "memref<20x20xf32>"
    source = f"""
    func.func @product(%a: {type_}, %b: {type_}, %c: {type_}, %x: f32, %y: f32) {{
      nanokernel.gemm ins(%a[m, k], %b[k, n] : {type_}, {type_}) outs(%c[m, n] : {type_})
        scale %x, %y
      func.return
    }}"""
    random = np.random.default_rng(2)
    a, b, c = (random.standard_normal((20, 20)).astype(np.float32) for _ in "abc")
    sums = added_up(_add_one, 1, np.zeros_like(c), a, b)
    wanted = fma(np.float32(1.5) * sums, np.full_like(c, -0.3), c)
    kernel = nkdsl.compile(source, TILES, emulate=True)
    kernel(a, b, c, 1.5, -0.3)
    assert 'instruction = "outer.f32"' in kernel.plan
    assert c.tobytes() == wanted.tobytes()
