"""The targets of AArch64: their instructions in QEMU, and whole kernels, bit for bit.

Each instruction of the tables is executed on thousands of operands, those that numbers of a type
rarely are among them. Kernels run on arrays that lie flush against pages that can't be touched.
Their results are within the bounds of rounding for any operands, exact for small integers, and of
the very bits that the interpreter of the upstream level predicts.
"""

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xdsl.dialects import func

import nkdsl
from nkdsl.backends import mlir, native
from nkdsl.bench.peak import ACCUMULATORS, UNROLL, peak_ir
from nkdsl.emulation import qemu
from nkdsl.emulation.qemu import Call, Processor
from nkdsl.frontend import load, make_context, to_text
from nkdsl.interpreters.neon import NEON
from nkdsl.pipeline import lower
from nkdsl.targets import Target, get_target, host
from nkdsl.targets import cpu as cpu_module
from nkdsl.targets.cpu import Cpu
from nkdsl.targets.model import Instruction
from nkdsl.testing import Edge, Lowered
from nkdsl.transforms.lower_to_upstream import workspace_bytes
from nkdsl.types import element_type
from tests.unit.aarch64 import functions, innermost_loops, mnemonics, spills
from tests.unit.narrow import LAYOUTS, NarrowProduct

Array = npt.NDArray[Any]

N1, V1, V2 = (get_target(f"neoverse-{core}") for core in ("n1", "v1", "v2"))
TARGETS = (N1, V1, V2)

PROCESSORS = {
    N1.name: Processor("neoverse-n1"),
    V1.name: Processor(vector_bits=256),
    V2.name: Processor(vector_bits=128),
}
"""What each target's code runs on: the core itself where QEMU knows it."""

needs_qemu = pytest.mark.skipif(qemu.obstacle() is not None, reason=str(qemu.obstacle()))
each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)

# ---- Instructions -----------------------------------------------------------------------------

VECTORS = 3000

LLVM_TYPES = {"f32": "float", "f64": "double", "bf16": "bfloat", "f16": "half", "s32": "i32"}


def executed_by(*targets: Target) -> list[tuple[Target, Instruction]]:
    """The instructions of some targets that are executed, each for the first one that has it."""
    found: dict[str, tuple[Target, Instruction]] = {}
    for target in targets:
        for instruction in target.instructions:
            if not instruction.flips:
                key = instruction.name + instruction.mnemonic
                found.setdefault(key, (target, instruction))
    return list(found.values())


def applied(instruction: Instruction) -> str:
    """LLVM IR of a function that applies an instruction to vectors in a row."""
    lanes, taken = instruction.lanes, instruction.lanes * instruction.k
    sums = f"<{lanes} x {LLVM_TYPES[instruction.accumulator]}>"
    stored = f"<{taken} x {LLVM_TYPES.get(instruction.operand, 'i8')}>"
    vectors = {"acc": f"{sums} %acc", "lhs": f"{stored} %lhs", "rhs": f"{stored} %rhs"}
    extended = ""
    if instruction.widened:
        wide = f"<{taken} x float>"
        extended = "\n".join(
            f"  %{name}.wide = fpext {stored} %{name} to {wide}" for name in ("lhs", "rhs")
        )
        vectors |= {name: f"{wide} %{name}.wide" for name in ("lhs", "rhs")}
    name, order = instruction.upstream, instruction.order.split(", ")
    if name == "vector.fma":
        name, order = f"llvm.fma.v{lanes}{instruction.accumulator}", ["lhs", "rhs", "acc"]
    arguments = ", ".join(vectors[argument] for argument in order)
    types = ", ".join(vectors[argument].rpartition(" ")[0] for argument in order)
    return f"""
declare {sums} @{name}({types})
define void @apply(ptr %sums, ptr %lefts, ptr %rights, i64 %count) {{
begin:
  br label %more
more:
  %i = phi i64 [0, %begin], [%next, %more]
  %p = getelementptr {sums}, ptr %sums, i64 %i
  %q = getelementptr {stored}, ptr %lefts, i64 %i
  %r = getelementptr {stored}, ptr %rights, i64 %i
  %acc = load {sums}, ptr %p, align 1
  %lhs = load {stored}, ptr %q, align 1
  %rhs = load {stored}, ptr %r, align 1
{extended}
  %sum = call {sums} @{name}({arguments})
  store {sums} %sum, ptr %p, align 1
  %next = add i64 %i, 1
  %again = icmp slt i64 %next, %count
  br i1 %again, label %more, label %done
done:
  ret void
}}"""


def hard_numbers(rng: np.random.Generator, element: str, count: int) -> Array:
    """Numbers of any bits, of like exponents, and those where something begins or ends."""
    dtype = element_type(element).dtype
    bits = np.dtype(f"u{dtype.itemsize}")
    anything = rng.integers(0, np.iinfo(bits).max, count, bits, endpoint=True).view(dtype)
    if element_type(element).is_integer:
        return anything
    info: Any = ml_dtypes.finfo(dtype)
    one, least = dtype.type(1), info.smallest_subnormal
    positive = [0, one, info.max, info.tiny, info.tiny - least, least, np.inf, np.nan]
    ends = np.array([*positive, *(-x for x in positive)], dtype)
    near = (rng.uniform(1, 2, count) * 2.0 ** rng.integers(-6, 7, count)).astype(dtype)
    near *= rng.choice([-1, 1], count).astype(dtype)
    tiny = (near.astype(np.float64) * np.sqrt(float(info.tiny))).astype(dtype)
    kinds = np.stack([anything, rng.choice(ends, count), near, near, tiny])
    return kinds[rng.integers(0, len(kinds), count), np.arange(count)]


def same_bits(got: Array, wanted: Array) -> Array:
    """Where numbers are the same, signs of zeros included, or both none."""
    bits = f"u{got.itemsize}"
    equal = got.view(bits) == wanted.view(bits)
    return equal if got.dtype.kind in "iu" else equal | (np.isnan(got) & np.isnan(wanted))


@needs_qemu
@pytest.mark.parametrize(
    ("target", "instruction"),
    executed_by(N1, V2),
    ids=lambda value: value.name,
)
def test_an_instruction_computes_what_its_entry_and_the_interpreter_say(
    target: Target, instruction: Instruction
) -> None:
    rng, lanes, k = np.random.default_rng(3), VECTORS * instruction.lanes, instruction.k
    acc = hard_numbers(rng, instruction.accumulator, lanes)
    lhs, rhs = (hard_numbers(rng, name, lanes * k) for name in instruction.operands)
    got = acc.copy()
    code = native.emit_object(applied(instruction), target)
    qemu.run(code, [Call("apply", (got, lhs, rhs, VECTORS))], PROCESSORS[target.name])
    groups = (x.reshape(lanes, k) if k > 1 else x for x in (lhs, rhs))
    assert same_bits(got, instruction.semantics(acc, *groups)).all()
    if instruction.upstream in NEON:
        given = {"acc": acc, "lhs": lhs, "rhs": rhs}
        order = instruction.order.split(", ")
        predicted = NEON[instruction.upstream](*(given[name] for name in order))
        assert same_bits(got, predicted).all()


@pytest.mark.parametrize(
    ("target", "instruction"), executed_by(N1, V2), ids=lambda value: value.name
)
def test_the_peak_loop_holds_nothing_but_the_instruction(
    target: Target, instruction: Instruction
) -> None:
    if instruction.widened:
        pytest.skip("of factors that are extended, no loop is made")
    text = native.emit_assembly(peak_ir(instruction), target)
    (loop,) = innermost_loops(functions(text)["peak"])
    count = ACCUMULATORS[instruction.bits] * UNROLL
    assert mnemonics(loop)[instruction.mnemonic] == count
    assert len(loop) <= count + 3
    assert not spills(loop)


# ---- Kernels ----------------------------------------------------------------------------------

FACTORS = (
    *(("f32", "f32"), ("f64", "f64"), ("bf16", "bf16"), ("f16", "f16")),
    *(("s8", "s8"), ("u8", "u8"), ("u8", "s8"), ("s8", "u8")),
)

EPILOGUES = (None, None, "bias along n", "bias along m", "relu")
"""Those that the reference below knows."""


def result_of(factors: tuple[str, str]) -> str:
    """The element type of sums."""
    return element_type(factors[0]).sums


@st.composite
def products(draw: st.DrawFn, factors: tuple[str, str]) -> NarrowProduct:
    """A product of known sizes; few of them fit any block."""
    m, n, k = (draw(st.integers(1, most)) for most in (40, 70, 90))
    narrow = factors[0] in ("bf16", "f16")
    epilogue = draw(st.sampled_from(EPILOGUES)) if factors[0] in ("f32", "bf16", "f16") else None
    return NarrowProduct(
        factors,
        *(m, n, k),
        result=draw(st.sampled_from(factors[:1])) if narrow and draw(st.booleans()) else "",
        layouts=tuple(draw(st.sampled_from(LAYOUTS)) for _ in range(3)),  # type: ignore[arg-type]
        from_zero=draw(st.booleans()),
        epilogue=epilogue,
    )


@dataclass(frozen=True)
class Code:
    """Functions compiled together, `f0` and so on."""

    target: Target
    cases: tuple[NarrowProduct, ...]
    object_code: bytes
    workspaces: tuple[int, ...]

    @classmethod
    def of(cls, target: Target, cases: tuple[NarrowProduct, ...]) -> "Code":
        """Compile products: one run of each tool."""
        sources = [c.source.replace("@product", f"@f{i}") for i, c in enumerate(cases)]
        context = make_context()
        module = load("\n".join(sources), context)
        lower(module, context, target)
        sizes = {
            f.sym_name.data: workspace_bytes(f) for f in module.ops if isinstance(f, func.FuncOp)
        }
        object_code = native.emit_object(mlir.to_llvm_ir(to_text(module)), target)
        return cls(target, cases, object_code, tuple(sizes[f"f{i}"] for i in range(len(cases))))

    def run(self, operands: list[list[Array]], at: Edge) -> None:
        """Call each function on its operands."""
        calls = [
            Call(f"f{i}", (*arrays, *([workspace(size)] if size else [])))
            for i, (arrays, size) in enumerate(zip(operands, self.workspaces, strict=True))
        ]
        qemu.run(self.object_code, calls, PROCESSORS[self.target.name], at=at)


def workspace(size: int) -> Array:
    """Memory full of NaN, a whole number of cache lines."""
    return np.full(-(-size // 64) * 64, 0xFF, np.uint8)


def complete(case: NarrowProduct) -> NarrowProduct:
    """A product with a type for its result."""
    return replace(case, result=case.result or result_of(case.factors))


def small_numbers(case: NarrowProduct) -> list[Array]:
    """Operands of which all sums are exact, whatever is rounded."""
    arrays, rng = case.arrays(0), np.random.default_rng(1)
    for array in arrays:
        least = 0 if array.dtype.kind == "u" else -1
        array[...] = rng.integers(least, 2, array.shape).astype(array.dtype)
    return arrays


def reference(case: NarrowProduct, arrays: list[Array]) -> tuple[Array, Array]:
    """Results in a wide type, and what they may be off by."""
    integers = element_type(case.result).is_integer
    wide: Any = np.int64 if integers else np.longdouble
    a, b, c, *extra = (x.astype(wide) for x in arrays)
    if case.from_zero:
        c = np.zeros_like(c)
    exact, magnitude = c + a @ b, np.abs(c) + np.abs(a) @ np.abs(b)
    if extra:
        bias = extra[0] if case.epilogue == "bias along n" else extra[0][:, None]
        exact, magnitude = exact + bias, magnitude + np.abs(bias)
    if case.epilogue == "relu":
        exact = np.maximum(exact, 0)
    if integers:
        return exact.astype(np.int32).astype(wide), np.zeros(exact.shape)
    # Rounding to odd, as bfdot does, loses up to twice what rounding to nearest does.
    sums = element_type(result_of(case.factors)).unit_roundoff
    unit = 2 * (case.k + 3) * sums
    bound = unit / (1 - unit) * magnitude
    last = element_type(case.result).unit_roundoff
    return exact, bound + last * (np.abs(exact) + bound)


def check(code: Code, at: Edge, *, small: bool) -> None:
    """Run all functions and compare their results; nothing else may change."""
    operands = [
        small_numbers(case) if small else case.arrays(seed) for seed, case in enumerate(code.cases)
    ]
    wanted = [reference(case, arrays) for case, arrays in zip(code.cases, operands, strict=True)]
    before = [[x.copy() for x in arrays] for arrays in operands]
    code.run(operands, at)
    for case, arrays, old, (exact, bound) in zip(code.cases, operands, before, wanted, strict=True):
        if small and not element_type(case.result).is_integer:
            exact, bound = exact.astype(arrays[2].dtype).astype(np.longdouble), np.zeros(1)
        error = np.abs(arrays[2].astype(exact.dtype) - exact)
        assert (error <= bound).all(), case
        for position in {0, 1, 3}.intersection(range(len(arrays))):
            assert arrays[position].tobytes() == old[position].tobytes(), case


RAGGED = ((3, 13, 9), (17, 31, 63), (1, 40, 33), (26, 1, 45))
"""Blocks with edges on both sides, and products of matrices and vectors."""


@cache
def ragged(target: Target) -> Code:
    """Products of all types, each of two shapes."""
    shapes = [RAGGED[i % 4 :: 2][:2] for i in range(len(FACTORS))]
    cases = [
        NarrowProduct(factors, *shape, result_of(factors))
        for factors, some in zip(FACTORS, shapes, strict=True)
        for shape in some
    ]
    narrow = [NarrowProduct((t, t), 5, 11, 6, t) for t in ("bf16", "f16")]
    return Code.of(target, (*cases, *narrow))


@needs_qemu
@pytest.mark.parametrize(
    "target",
    [N1, V2, pytest.param(V1, marks=pytest.mark.slow)],  # V1's table is V2's but for its latencies
    ids=lambda target: target.name,
)
@pytest.mark.parametrize("at", ["start", "end"])
def test_kernels_of_ragged_products_touch_nothing_else(target: Target, at: Edge) -> None:
    check(ragged(target), at, small=True)
    check(ragged(target), at, small=False)


@needs_qemu
@pytest.mark.parametrize("bits", [128, 512, 2048])
def test_code_with_masks_runs_on_registers_of_any_width(bits: int, monkeypatch) -> None:
    monkeypatch.setitem(PROCESSORS, V2.name, Processor(vector_bits=bits))
    check(ragged(V2), "end", small=True)


def some_products(data: st.DataObject, target: Target, count: int) -> Code:
    factors = data.draw(st.lists(st.sampled_from(FACTORS), min_size=count, max_size=count))
    drawn = [data.draw(products(types)) for types in factors]
    return Code.of(target, tuple(complete(case) for case in drawn))


@needs_qemu
@pytest.mark.parametrize("target", [N1, V2], ids=lambda target: target.name)
@settings(max_examples=2)  # the first one is the smallest
@given(data=st.data())
def test_kernels_of_any_products_are_right(data: st.DataObject, target: Target) -> None:
    code = some_products(data, target, 5)
    check(code, "end", small=False)
    check(code, "start", small=True)


@needs_qemu
@pytest.mark.slow
@each_target
@settings(max_examples=2)
@given(data=st.data())
def test_kernels_of_many_products_are_right(data: st.DataObject, target: Target) -> None:
    code = some_products(data, target, 20)
    for at in ("start", "end"):
        check(code, at, small=True)
        check(code, at, small=False)


PREDICTED = (
    NarrowProduct(("f32", "f32"), 5, 14, 7, "f32", ("padded", "columns", "rows")),
    NarrowProduct(("bf16", "bf16"), 6, 9, 11, "bf16", epilogue="gelu"),
    NarrowProduct(("f16", "f16"), 3, 7, 5, "f16", from_zero=True),
    NarrowProduct(("u8", "s8"), 4, 21, 18, "s32", ("rows", "spread", "columns")),
)


@needs_qemu
@pytest.mark.parametrize("case", PREDICTED, ids=lambda case: case.factors[0])
@pytest.mark.parametrize("target", [N1, V2], ids=lambda target: target.name)
def test_every_level_computes_the_same_and_qemu_the_same_bits(
    target: Target, case: NarrowProduct
) -> None:
    lowered = Lowered(case.source, target.name)
    lowered.check(like=case.like())
    predicted, real = case.arrays(7), case.arrays(7)
    lowered.run_level("upstream", predicted)
    qemu.executor(nkdsl.compile(case.source, target.name))(*real)
    assert same_bits(real[2].copy(), predicted[2].copy()).all()


@needs_qemu
@pytest.mark.slow  # of run-time sizes, many blocks are compiled
@pytest.mark.parametrize("target", [N1, V2], ids=lambda target: target.name)
@pytest.mark.parametrize("factors", [("f32", "f32"), ("bf16", "bf16"), ("s8", "u8")], ids="-".join)
def test_one_kernel_for_run_time_sizes_computes_any(
    target: Target, factors: tuple[str, str]
) -> None:
    sizes = ((1, 1, 1), (7, 29, 18), (13, 8, 35), (6, 50, 3), (40, 33, 70), (130, 270, 300))
    cases = [NarrowProduct(factors, *s, result_of(factors), dynamic="mnk") for s in sizes]
    kernel = nkdsl.compile(cases[0].source, target.name)
    for at in ("start", "end"):
        execute = qemu.executor(kernel, at=at)
        for case in cases:
            arrays = case.arrays(1)
            exact, bound = reference(case, arrays)
            execute(*arrays)
            assert (np.abs(arrays[2].astype(exact.dtype) - exact) <= bound).all(), case


# ---- Machine code -----------------------------------------------------------------------------

MULTIPLIES = {
    N1.name: {"u8s8": "sdot", "s8u8": "udot", "bf16bf16": "fmla"},
    V1.name: {"u8s8": "usdot", "s8u8": "usdot", "bf16bf16": "bfdot"},
    V2.name: {"u8s8": "usdot", "s8u8": "usdot", "bf16bf16": "bfdot"},
}
OTHERWISE = {"s8s8": "sdot", "u8u8": "udot"}
"""What multiplies factors of some types; all others are multiplied by fmla."""

ALL_THAT_MULTIPLY = re.compile(r"^(f?ml[as]|fmul|[su]mull?|[us]*dot|bfdot|bfml|fmadd|mul\b)")


@cache
def assembly(target: Target, factors: tuple[str, str]) -> dict[str, tuple[str, ...]]:
    case = NarrowProduct(factors, 64, 96, 256, result_of(factors))
    return functions(nkdsl.compile(case.source, target).asm())


@each_target
@pytest.mark.parametrize("factors", FACTORS, ids="-".join)
def test_the_targets_instruction_multiplies_in_the_main_loop_without_spills(
    target: Target, factors: tuple[str, str]
) -> None:
    code = assembly(target, factors)
    loops = [loop for lines in code.values() for loop in innermost_loops(lines)]
    main = max(loops, key=len)
    types = "".join(factors)
    expected = MULTIPLIES[target.name].get(types, OTHERWISE.get(types, "fmla"))
    found = {name for name in mnemonics(main) if ALL_THAT_MULTIPLY.match(name)}
    assert found == {expected}
    assert mnemonics(main)[expected] >= len(main) / 2 - 8
    assert not any(spills(loop) for loop in loops)
    assert not any("bl" in mnemonics(lines) for lines in code.values())


def test_a_tail_of_f32_is_masked_with_sve_only() -> None:
    case = NarrowProduct(("f32", "f32"), 17, 31, 63, "f32")
    codes = {t: functions(nkdsl.compile(case.source, t).asm())["product"] for t in (N1, V2)}
    masked = {t.name: sum("ld1w" in line for line in code) for t, code in codes.items()}
    assert masked[N1.name] == 0 < masked[V2.name]


@pytest.mark.parametrize(("target", "rounds"), [(N1, 0), (V2, 1)], ids=["n1", "v2"])
def test_bf16_is_rounded_by_an_instruction_where_there_is_one(target: Target, rounds: int) -> None:
    case = NarrowProduct(("bf16", "bf16"), 8, 16, 4, "bf16", from_zero=True)
    code = functions(nkdsl.compile(case.source, target).asm())["product"]
    found = mnemonics(code)
    assert bool(sum(found[name] for name in ("bfcvtn", "bfcvtn2", "bfcvt"))) == bool(rounds)
    assert "bl" not in found


@each_target
def test_nothing_of_x86_is_left_above_llvm(target: Target) -> None:
    cases = [NarrowProduct(f, 5, 11, 9, result_of(f)) for f in FACTORS]
    context = make_context()
    sources = [case.source.replace("@product", f"@f{i}") for i, case in enumerate(cases)]
    module = load("\n".join(sources), context)
    lower(module, context, target)
    text = to_text(module)
    assert "x86" not in text
    assert set(re.findall(r"llvm\.aarch64\.\w+", text)) == {"llvm.aarch64.neon"}


# ---- This machine, if it were another ---------------------------------------------------------

CPUINFO = """processor	: 0
BogoMIPS	: 2100.00
Features	: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimddp sve bf16 i8mm asimdfhm
CPU implementer	: 0x41
"""


def test_features_that_linux_lists_have_llvms_names(tmp_path: Path) -> None:
    listing = tmp_path / "cpuinfo"
    listing.write_text(CPUINFO)
    wanted = {"fp-armv8", "neon", "fullfp16", "dotprod", "sve", "bf16", "i8mm", "fp16fml"}
    assert cpu_module._features_from_cpuinfo(listing) == wanted
    listing.write_text("flags\t: fpu vme sse bf16\n")
    assert cpu_module._features_from_cpuinfo(listing) == set()
    assert cpu_module._features_from_cpuinfo(tmp_path / "absent") == set()


def machine(name: str, *features: str) -> Cpu:
    return Cpu(name, "", "aarch64", frozenset(features), (), "")


@pytest.mark.parametrize(
    ("cpu", "table"),
    [
        (machine("neoverse-n1", "fp-armv8", "neon", "fullfp16", "dotprod"), N1),
        (machine("neoverse-v2", *(f[1:] for f in V2.features)), V2),
        (machine("generic", *(f[1:] for f in V1.features)), V1),
    ],
    ids=lambda value: value.name,
)
def test_an_arm_machine_gets_the_table_that_it_can_run(cpu: Cpu, table: Target) -> None:
    assert host._choose(TARGETS, cpu).target.name == table.name
