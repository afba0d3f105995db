"""The emulator of AMX: its instructions against a model of their own, written from the manuals.

Everything here executes real AMX instructions, made by LLVM, as kernels do. The model computes in
numpy what Intel's manuals say; it shares no code with the emulator.
"""

import ctypes
import faulthandler
import itertools
import math
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm
import ml_dtypes
import numpy as np
import pytest

from nkdsl.emulation import amx
from nkdsl.errors import InvalidInput, ToolFailed, ToolNotFound

ROOT = Path(__file__).parents[2]
NATIVE = "amx_tile" in Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else False

pytestmark = [
    pytest.mark.skipif(amx.obstacle() is not None, reason=amx.obstacle() or ""),
    pytest.mark.skipif(NATIVE, reason="this CPU has AMX: nothing traps"),
]

Array = np.ndarray
f32, f64 = np.dtype(np.float32), np.dtype(np.float64)
BF16, F16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)

# ---- Machine code -----------------------------------------------------------------------------

DECLARATIONS = """
declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.tilerelease()
declare void @llvm.x86.tilezero(i8)
declare void @llvm.x86.tileloadd64(i8, ptr, i64)
declare void @llvm.x86.tilestored64(i8, ptr, i64)
"""

Native = Callable[..., None]


def compile_functions(ir: str) -> Callable[[str], Native]:
    """Machine code of LLVM IR; gives a function, all of whose arguments are integers."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu="x86-64",
        features="+amx-tile,+amx-bf16,+amx-int8,+amx-fp16",
        opt=2,
        codemodel="jitdefault",
        jit=True,
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(ir), machine)
    engine.finalize_object()

    def function(name: str) -> Native:
        pointer = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 6)(engine.get_function_address(name))

        def call(*arguments: int) -> None:
            pointer(*arguments, *[0] * (6 - len(arguments)))

        call.engine = engine  # type: ignore[attr-defined]  # it owns the code
        call.address = engine.get_function_address(name)  # type: ignore[attr-defined]
        return call

    return function


def assembly_function(name: str, text: str) -> str:
    """A function in assembly; its arguments arrive in rdi, rsi, rdx, rcx, r8 and r9."""
    lines = "\\0A".join(line.strip() for line in [*text.split(";"), "retq"])
    return (
        f"define void @{name}() naked noinline "
        f'{{ call void asm sideeffect "{lines}", ""() unreachable }}\n'
    )


@cache
def assembly(text: str) -> Native:
    """Instructions, separated by semicolons, as a function."""
    return compile_functions(assembly_function("code", text))("code")


def configuration(
    shapes: dict[int, tuple[int, int]], palette: int = 1, start_row: int = 0
) -> Array:
    """The operand of `ldtilecfg` for tiles of (rows, bytes in a row)."""
    result = np.zeros(64, np.uint8)
    result[0], result[1] = palette, start_row
    for tile, (rows, row_bytes) in shapes.items():
        result[16 + 2 * tile] = row_bytes & 255
        result[17 + 2 * tile] = row_bytes >> 8
        result[48 + tile] = rows
    return result


FULL = configuration(dict.fromkeys(range(8), (16, 64)))


def at(array: Array) -> int:
    return int(array.ctypes.data)


# ---- The model --------------------------------------------------------------------------------


def flushed(values: Array) -> Array:
    """Subnormal numbers of float32 as zeros of their sign."""
    return np.where(np.abs(values) < 2.0**-126, np.copysign(0.0, values), values)


def added(x: Array, y: Array) -> Array:
    """The float32 nearest to x + y, both float64; results below the normal range become zeros.

    Rounding to float64 first would be one rounding too many: that sum is rounded to odd.
    """
    total = x + y
    y_part = total - x
    error = (x - (total - y_part)) + (y - y_part)
    to_odd = (np.abs(error) > 0) & (total.view(np.int64) & 1 == 0)
    total = np.where(to_odd, np.nextafter(total, np.copysign(np.inf, error)), total)
    # What would be rounded up to 2^-126 by a format with a wider exponent is not tiny.
    tiny = np.abs(total) < 2.0**-126 - 2.0**-151
    rounded = total.astype(np.float32).astype(np.float64)
    return np.where(tiny, np.copysign(0.0, total), rounded)


def float_product(c: Array, a: Array, b: Array) -> Array:
    """tdpbf16ps and tdpfp16ps: a is (…, m, 2k), b (…, k, 2n), c (…, m, n)."""
    with np.errstate(all="ignore"):
        left, right = (
            (flushed(x.astype(np.float64)) if x.dtype == BF16 else x.astype(np.float64))
            for x in (a, b)
        )
        sums = []
        for part in (0, 1):
            total = np.zeros(c.shape)
            for k in range(b.shape[-2]):
                factors = left[..., :, 2 * k + part, None], right[..., None, k, part::2]
                total = added(factors[0] * factors[1], total)
            sums.append(total)
        return added(flushed(c.astype(np.float64)), added(*sums)).astype(np.float32)


def byte_product(c: Array, a: Array, b: Array) -> Array:
    """tdpb??d: a is (…, m, 4k), b (…, k, 4n), c (…, m, n)."""
    *cases, depth, columns = b.shape
    spread = b.reshape(*cases, depth, columns // 4, 4).astype(np.int64)
    right = np.moveaxis(spread, -1, -2).reshape(*cases, depth * 4, columns // 4)
    return np.asarray(c + a.astype(np.int64) @ right).astype(np.int32)


def exactly(a: Fraction, b: Fraction, c: Fraction) -> float:
    """a * b + c, rounded to float32 by the definition, with results below the range flushed."""
    exact = a * b + c
    if exact == 0:
        return 0.0
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    quantum = Fraction(2) ** (exponent - 23)
    value = round(size / quantum) * quantum
    if value < Fraction(2) ** -126:
        return math.copysign(0.0, exact)
    return math.copysign(math.inf if value >= 2**128 else float(value), exact)


def test_the_model_rounds_once_and_flushes_what_is_tiny() -> None:
    rng = np.random.default_rng(1)
    mantissas = rng.integers(1, 256, (2, 4000)) * 2.0**-7
    exponents = rng.integers(-70, 3, (2, 4000))
    a, b = np.ldexp(mantissas * rng.choice((-1, 1), (2, 4000)), exponents)
    c = np.ldexp(rng.uniform(1, 2, 4000), exponents.sum(axis=0) + rng.integers(-26, 26, 4000))
    c = flushed(c.astype(np.float32).astype(np.float64))
    a[0], b[0], c[0] = 2.0**-76 * 7 / 8, -(2.0**-75), 2.0**-126
    a[1], b[1], c[1] = 2.0**-76 * 9 / 8, -(2.0**-75), 2.0**-126
    wanted = [exactly(*(Fraction(float(x)) for x in t)) for t in zip(a, b, c, strict=True)]
    result = added(a * b, c)
    np.testing.assert_array_equal(result, wanted)
    assert result[0] == 2.0**-126
    assert result[1] == 0


# ---- Products ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """An instruction that multiplies tiles, and its types."""

    name: str
    lhs: np.dtype
    rhs: np.dtype
    sum: np.dtype
    model: Callable[[Array, Array, Array], Array]


INT8, UINT8, INT32 = (np.dtype(t) for t in (np.int8, np.uint8, np.int32))

KINDS = (
    Kind("tdpbf16ps", BF16, BF16, f32, float_product),
    Kind("tdpfp16ps", F16, F16, f32, float_product),
    Kind("tdpbssd", INT8, INT8, INT32, byte_product),
    Kind("tdpbsud", INT8, UINT8, INT32, byte_product),
    Kind("tdpbusd", UINT8, INT8, INT32, byte_product),
    Kind("tdpbuud", UINT8, UINT8, INT32, byte_product),
)

TRIPLES = [(c, (c + i) % 8, (c + j) % 8) for c in range(8) for i, j in ((1, 2), (5, 3), (7, 4))]
"""Tiles (destination, first, second): each in each role, several times."""

MULTIPLY = """
define void @{name}(ptr %cfg, ptr %c, ptr %a, ptr %b, i64 %count) {{
entry:
  call void @llvm.x86.ldtilecfg(ptr %cfg)
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %offset = mul i64 %i, 1024
  %ci = getelementptr i8, ptr %c, i64 %offset
  %ai = getelementptr i8, ptr %a, i64 %offset
  %bi = getelementptr i8, ptr %b, i64 %offset
  call void @llvm.x86.tileloadd64(i8 {t[0]}, ptr %ci, i64 64)
  call void @llvm.x86.tileloadd64(i8 {t[1]}, ptr %ai, i64 64)
  call void @llvm.x86.tileloadd64(i8 {t[2]}, ptr %bi, i64 64)
  call void @llvm.x86.{kind}(i8 {t[0]}, i8 {t[1]}, i8 {t[2]})
  call void @llvm.x86.tilestored64(i8 {t[0]}, ptr %ci, i64 64)
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %count
  br i1 %more, label %loop, label %done
done:
  call void @llvm.x86.tilerelease()
  ret void
}}
"""
"""A product of each of `count` groups of tiles, each tile in 1024 bytes of its own."""


@cache
def multiply_functions() -> Callable[[str], Native]:
    bodies = [
        MULTIPLY.format(name=f"{kind.name}_{c}{a}{b}", kind=kind.name, t=(c, a, b))
        for kind in KINDS
        for c, a, b in TRIPLES
    ]
    declared = [f"declare void @llvm.x86.{kind.name}(i8, i8, i8)\n" for kind in KINDS]
    return compile_functions("".join([DECLARATIONS, *declared, *bodies]))


def random_floats(rng: np.random.Generator, dtype: np.dtype, shape: tuple[int, ...]) -> Array:
    """Elements of one of several families, each with numbers that need care."""
    values = rng.uniform(1, 2, shape) * rng.choice((-1, 1), shape)
    wide = ml_dtypes.finfo(dtype).maxexp > 100
    match rng.integers(0, 5):
        case 0:  # every bit random: all exponents, NaN, infinities
            return rng.integers(0, 256, (*shape, dtype.itemsize), np.uint8).view(dtype)[..., 0]
        case 1:  # sums that cancel
            values = rng.integers(-4, 5, shape) * np.ldexp(1.0, rng.integers(-12, 12, shape))
        case 2 if wide:  # products about as small as the smallest normal number of float32
            values = np.ldexp(values, rng.integers(-68, -58, shape))
        case 2:  # the smallest numbers of f16, subnormal ones among them
            values = np.ldexp(values, rng.integers(-26, -12, shape))
        case 3:  # special numbers among ordinary ones
            special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, 2.0**-130, 2.0**-15])
            values = np.where(rng.random(shape) < 0.02, rng.choice(special, shape), values)
        case _:  # sums about as large as the largest number of float32, where the type has them
            values = np.ldexp(values, rng.integers(56, 65, shape) if wide else 10)
    with np.errstate(all="ignore"):
        return np.asarray(values.astype(dtype))


def random_elements(rng: np.random.Generator, dtype: np.dtype, shape: tuple[int, ...]) -> Array:
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if rng.integers(0, 3) == 0:
            return rng.choice(np.array([limits.min, limits.max], dtype), shape)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return random_floats(rng, dtype, shape)


def in_tiles(elements: Array) -> Array:
    """Rows of elements, (cases, rows, n), at the start of the 64-byte rows of tiles."""
    count, rows, columns = elements.shape
    tiles = np.zeros((count, 16, 64), np.uint8)
    width = columns * elements.itemsize
    tiles[:, :rows, :width] = np.ascontiguousarray(elements).view(np.uint8).reshape(count, rows, -1)
    return tiles


def assert_same_numbers(result: Array, wanted: Array, context: object) -> None:
    """The same bits, so that -0 is not +0, where `wanted` is a number; a NaN where it is none."""
    numbers = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.isnan(result), ~numbers, str(context))
    bits, wanted_bits = (x.view(np.int32)[numbers] for x in (result, wanted))
    np.testing.assert_array_equal(bits, wanted_bits, str(context))


@pytest.mark.parametrize(
    ("kind", "shapes", "cases"),
    [(kind, 190, 42) if kind.model is float_product else (kind, 60, 20) for kind in KINDS],
    ids=[kind.name for kind in KINDS],
)
def test_products_equal_the_model(kind: Kind, shapes: int, cases: int) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    group = 4 // kind.lhs.itemsize
    for number in range(shapes):
        m, n, k = (int(x) for x in rng.integers(1, 17, 3))
        c, a, b = TRIPLES[number % len(TRIPLES)]
        lhs = random_elements(rng, kind.lhs, (cases, m, group * k))
        rhs = random_elements(rng, kind.rhs, (cases, k, group * n))
        acc = random_elements(rng, kind.sum, (cases, m, n))
        tiles = [in_tiles(x) for x in (acc, lhs, rhs)]
        config = configuration({c: (m, 4 * n), a: (m, 4 * k), b: (k, 4 * n)})
        with amx.emulated() as machine:
            run = multiply_functions()(f"{kind.name}_{c}{a}{b}")
            run(at(config), *map(at, tiles), cases)
        assert machine.counts.multiplies == {kind.name: cases}
        result = tiles[0].view(kind.sum)
        wanted = kind.model(acc, lhs, rhs)
        if kind.sum == f32:
            assert_same_numbers(result[:, :m, :n], wanted, (m, n, k))
        else:
            np.testing.assert_array_equal(result[:, :m, :n], wanted)
        assert not result[:, m:].any()
        assert not result[:, :, n:].any()


def test_products_ignore_and_keep_mxcsr() -> None:
    """Round up, flush nothing, and unmask everything: what the program set is none of AMX's."""
    text = (
        "ldtilecfg (%rdi); stmxcsr -8(%rsp); movl $$0x4000, -4(%rsp); ldmxcsr -4(%rsp);"
        "tileloadd (%rsi,%r8), %tmm0; tileloadd (%rdx,%r8), %tmm1; tileloadd (%rcx,%r8), %tmm2;"
        "tdpbf16ps %tmm2, %tmm1, %tmm0; tilestored %tmm0, (%rsi,%r8);"
        "stmxcsr (%r9); ldmxcsr -8(%rsp); tilerelease"
    )
    rng = np.random.default_rng(5)
    lhs, rhs = (random_floats(rng, BF16, (1, 16, 32)) for _ in range(2))
    acc = np.full((1, 16, 16), 2.0**-140, f32)
    tiles, mxcsr = [in_tiles(x) for x in (acc, lhs, rhs)], np.zeros(1, np.uint32)
    with amx.emulated():
        assembly(text)(at(FULL), *map(at, tiles), 64, at(mxcsr))
    assert_same_numbers(tiles[0].view(f32), float_product(acc, lhs, rhs), "mxcsr")
    assert mxcsr[0] == 0x4000


# ---- Loads, stores and configurations ---------------------------------------------------------


def copy_through(tile: int) -> str:
    """Load a tile from rsi with rows rdx bytes apart, and store it to rcx with rows r8 apart."""
    return (
        f"ldtilecfg (%rdi); tileloadd (%rsi,%rdx), %tmm{tile};"
        f"tilestored %tmm{tile}, (%rcx,%r8); tilerelease"
    )


def test_loads_and_stores_move_the_rows_of_every_shape() -> None:
    rng = np.random.default_rng(6)
    source = rng.integers(0, 256, 8192, np.uint8)
    for number, (rows, width) in enumerate(itertools.product(range(1, 17), range(4, 65, 4))):
        for step_in, step_out in ((64, 64), (0, 100), (width, 77), (-81, 64), (200, -64)):
            target = np.full(4096, 0xAA, np.uint8)
            wanted = target.copy()
            for row in range(rows):
                first, to = 4000 + row * step_in, 2000 + row * step_out
                wanted[to : to + width] = source[first : first + width]
            with amx.emulated():
                copy = assembly(copy_through(number % 8))
                config = configuration({number % 8: (rows, width)})
                copy(at(config), at(source) + 4000, step_in, at(target) + 2000, step_out)
            np.testing.assert_array_equal(target, wanted)


def test_rows_of_no_whole_dwords_are_refused() -> None:
    source, target = (np.zeros(1024, np.uint8) for _ in range(2))
    copy = assembly(copy_through(3))
    for width in (n for n in range(1, 65) if n % 4):
        with pytest.raises(amx.EmulationFault, match="no multiple of 4") as caught, amx.emulated():
            copy(at(configuration({3: (2, width)})), at(source), 64, at(target), 64)
        assert caught.value.count == 2


def test_tilezero_zeroes_each_tile_alone() -> None:
    source = np.random.default_rng(7).integers(1, 256, 1024, np.uint8)
    loads = "".join(f"tileloadd (%rsi,%rdx), %tmm{t};" for t in range(8))
    stores = "".join(f"tilestored %tmm{t}, (%rcx,%rdx); addq $$1024, %rcx;" for t in range(8))
    for tile in range(8):
        target = np.zeros((8, 1024), np.uint8)
        with amx.emulated() as machine:
            code = assembly(f"ldtilecfg (%rdi); {loads} tilezero %tmm{tile}; {stores} tilerelease")
            code(at(FULL), at(source), 64, at(target))
        assert not target[tile].any()
        np.testing.assert_array_equal(np.delete(target, tile, 0), np.stack([source] * 7))
        assert machine.counts.tilezero == 1


@pytest.mark.parametrize("start", [0, 1, 7, 15])
def test_loads_and_stores_begin_at_start_row(start: int) -> None:
    source = np.random.default_rng(8).integers(1, 256, (16, 64), np.uint8)
    config = configuration({2: (16, 64)}, start_row=start)
    target, after = np.zeros((16, 64), np.uint8), np.full(64, 0xAA, np.uint8)
    text = "ldtilecfg (%rdi); sttilecfg (%r9); {} tilestored %tmm2, (%rcx,%r8); tilerelease"
    with amx.emulated():
        load = "tileloadd (%rsi,%rdx), %tmm2; sttilecfg 64(%r9);"
        states = np.full((2, 64), 0xAA, np.uint8)
        assembly(text.format(load))(at(config), at(source), 64, at(target), 64, at(states))
    np.testing.assert_array_equal(states[0], config)
    np.testing.assert_array_equal(states[1], configuration({2: (16, 64)}))
    assert not target[:start].any()
    np.testing.assert_array_equal(target[start:], source[start:])
    target[:] = 0xAA
    with amx.emulated():
        assembly(text.format(""))(at(config), 0, 0, at(target), 64, at(after))
    assert (target[:start] == 0xAA).all()
    assert not target[start:].any()


@pytest.mark.parametrize("instruction", ["tilezero %tmm1", "tdpbssd %tmm2, %tmm1, %tmm0"])
def test_instructions_without_memory_reset_start_row(instruction: str) -> None:
    config = configuration(dict.fromkeys(range(3), (16, 64)), start_row=5)
    after = np.zeros(64, np.uint8)
    with amx.emulated():
        assembly(f"ldtilecfg (%rdi); {instruction}; sttilecfg (%rsi); tilerelease")(
            at(config), at(after)
        )
    assert after[1] == 0


def test_random_configurations_are_stored_as_they_were_loaded() -> None:
    rng = np.random.default_rng(9)
    for _ in range(200):
        shapes = {t: (int(rng.integers(1, 17)), int(rng.integers(1, 65))) for t in range(8)}
        used = {t: shape for t, shape in shapes.items() if rng.random() < 0.7}
        config = configuration(used, start_row=int(rng.integers(0, 256)))
        states = np.full((3, 64), 0xAA, np.uint8)
        text = "sttilecfg (%rsi); ldtilecfg (%rdi); sttilecfg 64(%rsi); tilerelease;"
        with amx.emulated():
            assembly(text + "sttilecfg 128(%rsi)")(at(config), at(states))
        assert not states[0].any()
        np.testing.assert_array_equal(states[1], config)
        assert not states[2].any()


def test_a_new_configuration_zeroes_the_tiles() -> None:
    tile, target = np.full(1024, 7, np.uint8), np.full(1024, 7, np.uint8)
    with amx.emulated():
        assembly(
            "ldtilecfg (%rdi); tileloadd (%rsi,%rdx), %tmm0; ldtilecfg (%rdi);"
            "tilestored %tmm0, (%rcx,%rdx); tilerelease"
        )(at(FULL), at(tile), 64, at(target))
    assert not target.any()


# ---- Addresses --------------------------------------------------------------------------------

GENERAL = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)

SAVE = "".join(f"pushq %{r};" for r in ("rbx", "rbp", "r12", "r13", "r14", "r15"))
RESTORE = "".join(f"popq %{r};" for r in ("r15", "r14", "r13", "r12", "rbp", "rbx"))


def address_cases() -> Iterator[tuple[str, str | None, int, int]]:
    """Base, index (None for none), scale and displacement, in all the forms of an encoding."""
    rng = random.Random(10)
    for base in GENERAL:
        for displacement in (0, 1, 127, 128, 70000, -1, -128, -4096):
            if base != "rsp" or displacement >= 0:
                index = rng.choice([r for r in GENERAL if r not in ("rsp", base)])
                yield base, index, 1, displacement
        yield base, None, 1, rng.choice((0, 64, 4096))
    for index in GENERAL:
        for scale in (1, 2, 4, 8):
            if index != "rsp":
                base = rng.choice([r for r in GENERAL if r not in ("rsp", index)])
                yield base, index, scale, rng.choice((0, -8, 1000))


def set_base(base: str, address: int, displacement: int) -> str:
    """Have base + displacement point to 1024 bytes; rsp must stay a stack, so they go there."""
    if base != "rsp":
        return f"movabsq $${address - displacement}, %{base};"
    return (
        f"subq $${displacement + 1024}, %rsp; leaq {displacement}(%rsp), %rdi;"
        f"movabsq $${address}, %rsi; movl $$1024, %ecx; rep movsb;"
    )


def test_addresses_of_all_forms_are_understood() -> None:
    source = np.random.default_rng(11).integers(0, 256, (16, 64), np.uint8)
    target = np.zeros((16, 64), np.uint8)
    cases = list(address_cases())
    functions = []
    for number, (base, index, scale, displacement) in enumerate(cases):
        operand = f"{displacement}(%{base}" + (f",%{index},{scale})" if index else ")")
        text = f"{SAVE} ldtilecfg (%rdi); pushq %rsi; movq %rsp, %xmm0;"
        text += set_base(base, at(source), displacement)
        text += f"movq $${64 // scale}, %{index};" if index else ""
        text += f"tileloadd {operand}, %tmm5; movq %xmm0, %rsp; popq %rsi; movl $$64, %ecx;"
        text += f"tilestored %tmm5, (%rsi,%rcx); {RESTORE} tilerelease"
        functions.append(assembly_function(f"case{number}", text))
    function = compile_functions("".join(functions))
    for number, (_, index, *_) in enumerate(cases):
        with amx.emulated():
            function(f"case{number}")(at(FULL), at(target))
        wanted = np.stack([source[0]] * 16) if index is None else source
        np.testing.assert_array_equal(target, wanted, str(cases[number]))


def test_configurations_are_found_by_all_forms_of_addresses() -> None:
    data = np.zeros(128, np.uint8)
    data[32:96] = FULL
    relative = ",".join(str(byte) for byte in FULL)
    for load in (
        "ldtilecfg 32(%rdi)",
        "movq %rdi, %r12; ldtilecfg 32(%r12)",
        "movl $$4, %r13d; ldtilecfg (%rdi,%r13,8)",
        "movq %rdi, %rbp; subq $$968, %rbp; ldtilecfg 1000(%rbp)",
        f"ldtilecfg 1f(%rip); jmp 2f; 1: .byte {relative}; 2:",
    ):
        after = np.zeros(64, np.uint8)
        with amx.emulated():
            code = f"{SAVE} {load}; sttilecfg (%rsi); tilerelease; {RESTORE}"
            assembly(code)(at(data), at(after))
        np.testing.assert_array_equal(after, FULL, load)


# ---- Integer instructions in between ----------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """An instruction that may stand between two of AMX, and the flags that it defines."""

    text: str
    flags: str = "cpazso"


FLAG_BITS = {"c": 0, "p": 2, "a": 4, "z": 6, "s": 7, "o": 11}
FREE = tuple(r for r in GENERAL if r not in ("rsp", "r15"))


def narrow(register: str) -> str:
    """The name of a register's lower 32 bits."""
    return f"{register}d" if register[1].isdigit() else f"e{register[1:]}"


def random_step(rng: random.Random) -> Step:
    """One of the instructions that the emulator steps over, with any operands."""
    wide = rng.random() < 0.6
    suffix, bits = ("q", 64) if wide else ("l", 32)

    def register() -> str:
        name = rng.choice(FREE)
        return f"%{name if wide else narrow(name)}"

    memory = f"{rng.choice((256, 264, 300))}(%r15)"
    either = rng.choice((register(), memory))
    target = rng.choice((register(), register(), memory))
    immediate = rng.choice((0, 1, -1, 127, -128, 128, 2**31 - 1, -(2**31), rng.randrange(10**6)))
    count = rng.randrange(1, bits)
    arithmetic = rng.choice(("add", "sub", "cmp"))
    bitwise = rng.choice(("and", "or", "xor"))
    address = f"{rng.choice((0, 8, -200, 100000))}(%{rng.choice(FREE)},%{rng.choice(FREE)},4)"
    condition = rng.choice(
        ["o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"]
    )
    far = rng.choice((1, 200))
    padded = rng.choice(("nop", "nopw 8(%rax,%rbx)", "data16 nop", "nopl (%rax)"))
    return rng.choice(
        (
            Step(f"{arithmetic}{suffix} {register()}, {target}"),
            Step(f"{arithmetic}{suffix} {memory}, {register()}"),
            Step(f"{arithmetic}{suffix} $${immediate}, {target}"),
            Step(f"{arithmetic}{suffix} $${immediate}, {'%rax' if wide else '%eax'}"),
            Step(f"{bitwise}{suffix} {either}, {register()}", "cpzso"),
            Step(f"{bitwise}{suffix} $${immediate}, {target}", "cpzso"),
            Step(f"test{suffix} {register()}, {either}", "cpzso"),
            Step(f"{rng.choice(('inc', 'dec'))}{suffix} {target}"),
            Step(f"{rng.choice(('shl', 'shr', 'sar'))}{suffix} $${count}, {target}", "cpzs"),
            Step(f"{rng.choice(('shl', 'shr', 'sar'))}{suffix} {target}", "cpzso"),
            Step(f"imul{suffix} {either}, {register()}", "co"),
            Step(f"imul{suffix} $${immediate}, {either}, {register()}", "co"),
            Step(f"mov{suffix} {either}, {register()}"),
            Step(f"mov{suffix} {register()}, {memory}"),
            Step(f"mov{suffix} $${immediate}, {target}"),
            Step(f"movabsq $${rng.getrandbits(63)}, %{rng.choice(FREE)}"),
            Step(f"movslq {memory}, %{rng.choice(FREE)}"),
            Step(f"lea{suffix} {address}, {register()}"),
            Step(f"cmov{condition}{suffix} {either}, {register()}"),
            Step(f"j{condition} 1f; addq $$1, %rbx; 1:"),
            Step(f"j{condition} 1f; jmp 2f; .fill {far}, 1, 0x90; 1: addq $$1, %rbx; 2:"),
            Step(padded),
        )
    )


def around(before: str, step: Step, after: str) -> str:
    """Code that loads registers and flags from r15, executes a step, and stores them again."""
    load = "".join(f"movq {8 * i}(%r15), %{r};" for i, r in enumerate(FREE))
    store = "".join(f"movq %{r}, {8 * i}(%r15);" for i, r in enumerate(FREE))
    return (
        f"{SAVE} movq %rdi, %r15; pushq 128(%r15); popfq; {load} {before}"
        f"{step.text}; {after} {store} pushfq; popq 128(%r15); {RESTORE}"
    )


def random_state(rng: random.Random) -> Array:
    """Registers, flags and some memory, with many numbers at the ends of their ranges."""
    special = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
    words = [rng.choice((rng.choice(special), rng.getrandbits(64))) for _ in range(64)]
    state = np.array(words, np.uint64)
    state[16] = sum(rng.getrandbits(1) << bit for bit in FLAG_BITS.values())
    return state


def test_integer_instructions_in_between_do_what_the_cpu_does() -> None:
    rng = random.Random(12)
    steps = [random_step(rng) for _ in range(600)]
    functions = [
        assembly_function(f"{name}{number}", around(amx_code, step, amx_code))
        for number, step in enumerate(steps)
        for name, amx_code in (("native", ""), ("stepped", "tilerelease;"))
    ]
    function = compile_functions("".join(functions))
    for number, step in enumerate(steps):
        native = [random_state(rng) for _ in range(4)]
        stepped = [state.copy() for state in native]
        for state in native:
            function(f"native{number}")(at(state))
        with amx.emulated() as machine:
            for state in stepped:
                function(f"stepped{number}")(at(state))
        assert machine.counts.traps == len(stepped), step.text
        for state in (*native, *stepped):
            state[16] &= np.uint64(sum(1 << FLAG_BITS[flag] for flag in step.flags))
        np.testing.assert_array_equal(stepped, native, step.text)


GEMM = """
declare void @llvm.x86.tdpbf16ps(i8, i8, i8)
define void @gemm(ptr %cfg, ptr %a, ptr %b, ptr %c, i64 %n) {
entry:
  call void @llvm.x86.ldtilecfg(ptr %cfg)
  %row.a = mul i64 %n, 2
  %row.c = mul i64 %n, 4
  %down.a = mul i64 %row.a, 16
  %down.c = mul i64 %row.c, 16
  br label %rows
rows:
  %i = phi i64 [ 0, %entry ], [ %i.next, %rows.end ]
  %i.a = mul i64 %i, %row.a
  %i.c = mul i64 %i, %row.c
  %a.i = getelementptr i8, ptr %a, i64 %i.a
  %c.i = getelementptr i8, ptr %c, i64 %i.c
  br label %columns
columns:
  %j = phi i64 [ 0, %rows ], [ %j.next, %columns.end ]
  %j.bytes = mul i64 %j, 4
  %b.j = getelementptr i8, ptr %b, i64 %j.bytes
  %c.00 = getelementptr i8, ptr %c.i, i64 %j.bytes
  %c.01 = getelementptr i8, ptr %c.00, i64 64
  %c.10 = getelementptr i8, ptr %c.00, i64 %down.c
  %c.11 = getelementptr i8, ptr %c.10, i64 64
  call void @llvm.x86.tilezero(i8 0)
  call void @llvm.x86.tilezero(i8 1)
  call void @llvm.x86.tilezero(i8 2)
  call void @llvm.x86.tilezero(i8 3)
  br label %depth
depth:
  %k = phi i64 [ 0, %columns ], [ %k.next, %depth ]
  %k.a = mul i64 %k, 2
  %k.half = lshr i64 %k, 1
  %k.b = mul i64 %k.half, %row.c
  %a.0 = getelementptr i8, ptr %a.i, i64 %k.a
  %a.1 = getelementptr i8, ptr %a.0, i64 %down.a
  %b.0 = getelementptr i8, ptr %b.j, i64 %k.b
  %b.1 = getelementptr i8, ptr %b.0, i64 64
  call void @llvm.x86.tileloadd64(i8 4, ptr %a.0, i64 %row.a)
  call void @llvm.x86.tileloadd64(i8 6, ptr %b.0, i64 %row.c)
  call void @llvm.x86.tdpbf16ps(i8 0, i8 4, i8 6)
  call void @llvm.x86.tileloadd64(i8 7, ptr %b.1, i64 %row.c)
  call void @llvm.x86.tdpbf16ps(i8 1, i8 4, i8 7)
  call void @llvm.x86.tileloadd64(i8 5, ptr %a.1, i64 %row.a)
  call void @llvm.x86.tdpbf16ps(i8 2, i8 5, i8 6)
  call void @llvm.x86.tdpbf16ps(i8 3, i8 5, i8 7)
  %k.next = add i64 %k, 32
  %k.more = icmp ult i64 %k.next, %n
  br i1 %k.more, label %depth, label %columns.end
columns.end:
  call void @llvm.x86.tilestored64(i8 0, ptr %c.00, i64 %row.c)
  call void @llvm.x86.tilestored64(i8 1, ptr %c.01, i64 %row.c)
  call void @llvm.x86.tilestored64(i8 2, ptr %c.10, i64 %row.c)
  call void @llvm.x86.tilestored64(i8 3, ptr %c.11, i64 %row.c)
  %j.next = add i64 %j, 32
  %j.more = icmp ult i64 %j.next, %n
  br i1 %j.more, label %columns, label %rows.end
rows.end:
  %i.next = add i64 %i, 32
  %i.more = icmp ult i64 %i.next, %n
  br i1 %i.more, label %rows, label %done
done:
  call void @llvm.x86.tilerelease()
  ret void
}
"""
"""C = A·B of n × n elements, bfloat16 to float32, B in pairs of rows; blocks of 2 × 2 tiles."""


@cache
def gemm() -> Native:
    return compile_functions(DECLARATIONS + GEMM)("gemm")


@dataclass(frozen=True)
class Square:
    """Operands of `gemm`, of small integers: their product is exact in any order."""

    n: int
    seed: int = 13

    def make(self) -> tuple[Array, Array, Array, Array]:
        """a, b, b in pairs of rows, and room for c."""
        n, rng = self.n, np.random.default_rng(self.seed)
        a, b = (rng.integers(-8, 9, (n, n)).astype(BF16) for _ in range(2))
        pairs = np.ascontiguousarray(b.reshape(n // 2, 2, n).transpose(0, 2, 1))
        return a, b, pairs, np.zeros((n, n), f32)


def multiply(square: Square) -> None:
    """Run `gemm` and check what it computes."""
    a, b, pairs, c = square.make()
    gemm()(at(FULL), at(a), at(pairs), at(c), square.n)
    np.testing.assert_array_equal(c, a.astype(f32) @ b.astype(f32))


def test_a_loop_over_k_runs_in_one_trap() -> None:
    with amx.emulated() as machine:
        multiply(Square(256))
    blocks = (256 // 32) ** 2
    assert machine.counts.multiplies == {"tdpbf16ps": blocks * 8 * 4}
    assert machine.counts.traps <= blocks + 2


# ---- Counts -----------------------------------------------------------------------------------


def test_instructions_are_counted_by_kind_and_by_buffer() -> None:
    a, _, b, c = Square(64).make()
    with amx.emulated() as machine:
        machine.watch_arrays({"a": a, "b": b})
        machine.watch("half of c", at(c), c.nbytes // 2)
        gemm()(at(FULL), at(a), at(b), at(c), 64)
        before = machine.counts
        gemm()(at(FULL), at(a), at(b), at(c), 64)
    assert before == amx.Counts(
        ldtilecfg=1,
        tilerelease=1,
        tilezero=16,
        tileloads=32,
        tilestores=16,
        multiplies={"tdpbf16ps": 32},
        loads_by={"a": 16, "b": 16, "half of c": 0, "elsewhere": 0},
        stores_by={"a": 0, "b": 0, "half of c": 8, "elsewhere": 8},
        traps=before.traps,
    )
    assert machine.counts.tileloads == 64
    assert machine.counts.loads_by["b"] == 32
    assert machine.counts.stores_by == {"a": 0, "b": 0, "half of c": 16, "elsewhere": 16}


def test_arrays_are_watched_from_their_lowest_to_their_highest_byte() -> None:
    memory = np.zeros((4, 16, 64), np.uint8)
    upside_down = memory[2:0:-1, ::-1]
    load = assembly("ldtilecfg (%rdi); tileloadd (%rsi,%rdx), %tmm0; tilerelease")
    with amx.emulated() as machine:
        machine.watch_arrays({"middle": upside_down})
        for block in memory:
            load(at(FULL), at(block), 64)
    assert machine.counts.loads_by == {"middle": 2, "elsewhere": 2}


def test_a_range_that_cannot_be_watched_is_refused() -> None:
    with amx.emulated() as machine:
        machine.watch("a", 4096, 64)
        machine.watch("after a", 4160, 64)
        for name, address, size, reason in (
            ("a", 0, 64, "in use"),
            ("elsewhere", 0, 64, "in use"),
            ("b", 4159, 1, "in common with 'a'"),
            ("b", 0, 10000, "in common with 'a'"),
            ("b", 0, 0, "0 bytes"),
        ):
            with pytest.raises(InvalidInput, match=reason):
                machine.watch(name, address, size)
    with pytest.raises(InvalidInput, match="has been left"):
        machine.watch("b", 0, 64)


def test_places_to_watch_are_given_back() -> None:
    for _ in range(3):
        with amx.emulated() as machine:
            for i in range(200):
                machine.watch(str(i), 64 * i, 64)
            with pytest.raises(InvalidInput, match="too many"):
                for i in range(200, 400):
                    machine.watch(str(i), 64 * i, 64)


def test_nested_contexts_count_apart_what_happens_in_both() -> None:
    a, _, b, c = Square(32).make()
    with amx.emulated() as outer:
        outer.watch_arrays({"a": a})
        multiply(Square(32))
        with amx.emulated() as inner:
            inner.watch_arrays({"a": a, "b": b})
            gemm()(at(FULL), at(a), at(b), at(c), 32)
        multiply(Square(32))
    assert (inner.counts.ldtilecfg, outer.counts.ldtilecfg) == (1, 3)
    assert inner.counts.loads_by == {"a": 2, "b": 2, "elsewhere": 0}
    assert outer.counts.loads_by == {"a": 2, "elsewhere": 10}


# ---- Threads ----------------------------------------------------------------------------------


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run something in threads of its own, all at once; their exceptions arrive here."""
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def test_threads_have_tiles_of_their_own() -> None:
    gemm()

    def work(number: int) -> None:
        for repeat in range(4):
            multiply(Square(64, seed=10 * number + repeat))

    with amx.emulated() as machine:
        in_threads(6, work)
    assert machine.counts.ldtilecfg == 24
    assert machine.counts.multiplies == {"tdpbf16ps": 24 * 32}
    assert machine.counts.configured_threads == 0


def test_contexts_may_be_open_in_several_threads() -> None:
    gemm()

    def work(number: int) -> None:
        for _ in range(20):
            with amx.emulated() as machine:
                multiply(Square(32, seed=number))
            assert machine.counts.multiplies["tdpbf16ps"] >= 4

    in_threads(4, work)


CONFIGURE = "ldtilecfg (%rdi)"


def test_threads_with_configured_tiles_are_counted() -> None:
    configure, release = assembly(CONFIGURE), assembly("tilerelease")
    with amx.emulated() as machine:
        configure(at(FULL))
        configure(at(FULL))
        assert machine.counts.configured_threads == 1
        in_threads(2, lambda number: configure(at(FULL)))
        assert machine.counts.configured_threads == 3
        release()
        release()
    assert machine.counts.configured_threads == 2


def test_tiles_are_released_when_the_next_context_begins() -> None:
    configure, zero = assembly(CONFIGURE), assembly("tilezero %tmm0")
    with amx.emulated():
        configure(at(FULL))
    with (
        pytest.raises(amx.EmulationFault, match="no tiles are configured"),
        amx.emulated() as next_,
    ):
        zero()
    assert next_.counts.configured_threads == 0


def test_signals_that_arrive_meanwhile_do_no_harm() -> None:
    arrived = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: arrived.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    try:
        with amx.emulated():
            for seed in range(20):
                multiply(Square(128, seed))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert arrived


# ---- Faults -----------------------------------------------------------------------------------


def changed(place: int, value: int) -> Array:
    config = FULL.copy()
    config[place] = value
    return config


MIXED = configuration({0: (16, 64), 1: (16, 64), 2: (16, 64), 3: (8, 64), 4: (16, 32), 6: (4, 6)})

FAULTS = {
    "another palette": (changed(0, 2), "", "#GP: the palette"),
    "a reserved byte": (changed(2, 1), "", "#GP: a reserved byte"),
    "the last reserved byte of the first group": (changed(15, 1), "", "#GP: a reserved byte"),
    "bytes of a tile 8": (changed(32, 64), "", "#GP: a reserved byte"),
    "rows of a tile 8": (changed(56, 16), "", "#GP: a reserved byte"),
    "the last byte": (changed(63, 1), "", "#GP: a reserved byte"),
    "65 bytes in a row": (changed(16, 65), "", "#GP: a tile has more than 64 bytes"),
    "320 bytes in a row": (changed(17, 1), "", "#GP: a tile has more than 64 bytes"),
    "17 rows": (changed(48, 17), "", "#GP: a tile has more than 16 rows"),
    "rows without bytes": (changed(16, 0), "", "#GP: a tile has rows without bytes"),
    "bytes without rows": (changed(48, 0), "", "#GP: a tile has rows without bytes"),
    "an unused tile": (MIXED, "tilezero %tmm5", r"tilezero tmm5 \(0×0\): #UD: a tile is not"),
    "a load of an unused tile": (MIXED, "tileloadd (%rsi,%rdx), %tmm7", "#UD: a tile is not"),
    "a store of an unused tile": (MIXED, "tilestored %tmm7, (%rsi,%rdx)", "#UD: a tile is not"),
    "a product with an unused tile": (MIXED, "tdpbf16ps %tmm5, %tmm1, %tmm0", "#UD: a tile is"),
    "a product of odd bytes": (MIXED, "tdpbssd %tmm2, %tmm1, %tmm6", "#UD: the bytes in a row"),
    "other rows of a": (
        MIXED,
        "tdpfp16ps %tmm2, %tmm3, %tmm0",
        r"tdpfp16ps tmm0 \(16×64\), tmm3 \(8×64\), tmm2 \(16×64\): #UD: the first and the second",
    ),
    "other columns of b": (MIXED, "tdpbuud %tmm4, %tmm1, %tmm0", "#UD: the first and the third"),
    "another depth": (MIXED, "tdpbusd %tmm2, %tmm4, %tmm0", "#UD: the second tile has not one"),
    "a start row too far": (
        configuration({0: (3, 64)}, start_row=3),
        "tileloadd (%rsi,%rdx), %tmm0",
        "#UD: start_row",
    ),
    # What LLVM's assembler refuses too. C4; inverted R, X, B, and the map; W, inverted vvvv, L and
    # prefix; opcode; ModRM.
    "c in the place of a": (FULL, ".byte 0xc4,0xe2,0x6b,0x5e,0xc0", "#UD: a tile is named twice"),
    "c in the place of b": (FULL, ".byte 0xc4,0xe2,0x7b,0x5e,0xc1", "#UD: a tile is named twice"),
    "a and b the same": (FULL, ".byte 0xc4,0xe2,0x73,0x5e,0xc1", "#UD: a tile is named twice"),
    "tile 8 to be zeroed": (FULL, ".byte 0xc4,0x62,0x7b,0x49,0xc0", "tmm8: #UD: there are only"),
    "tile 8 to be loaded": (FULL, ".byte 0xc4,0x62,0x7b,0x4b,0x04,0x16", "tmm8: #UD: there are"),
    "tile 9 as a": (FULL, ".byte 0xc4,0xc2,0x6b,0x5e,0xc1", "tmm9, tmm2.*#UD: there are only"),
    "tile 9 as b": (FULL, ".byte 0xc4,0xe2,0x33,0x5e,0xc1", "tmm9: #UD: there are only eight"),
    "vvvv in use": (FULL, ".byte 0xc4,0xe2,0x73,0x49,0xc0", "tilezero.*: #UD: VEX.vvvv names"),
    "a register field in use": (FULL, ".byte 0xc4,0xe2,0x7b,0x49,0xc1", "#UD: a register field"),
    "no SIB byte": (FULL, ".byte 0xc4,0xe2,0x7b,0x4b,0x06", "#UD: an address without SIB"),
    "fs": (FULL, "tilestored %tmm0, %fs:(%rsi,%rdx)", "FS, GS or 32-bit addresses"),
    "addresses of 32 bits": (FULL, "tileloadd (%esi,%edx), %tmm0", "FS, GS or 32-bit addresses"),
}


@pytest.mark.parametrize(("config", "code", "message"), FAULTS.values(), ids=FAULTS)
def test_what_the_hardware_refuses_is_a_fault(config: Array, code: str, message: str) -> None:
    data, after = np.arange(2048, dtype=np.uint16), np.zeros(64, np.uint8)
    before = data.copy()
    with pytest.raises(amx.EmulationFault, match=message) as caught, amx.emulated() as machine:
        assembly(f"ldtilecfg (%rdi); {code}; sttilecfg (%rcx); tilerelease")(
            at(config), at(data), 64, at(after)
        )
    assert caught.value.count == 1
    assert machine.counts.tileloads + machine.counts.tilestores + machine.counts.tilezero == 0
    assert not machine.counts.multiplies
    np.testing.assert_array_equal(data, before)
    np.testing.assert_array_equal(after, config if code else np.zeros(64, np.uint8))


def test_the_rest_of_a_configuration_of_palette_0_is_ignored() -> None:
    after = np.ones(64, np.uint8)
    with amx.emulated() as machine:
        assembly("ldtilecfg (%rdi); ldtilecfg (%rsi); sttilecfg (%rdx)")(
            at(FULL), at(changed(0, 0)), at(after)
        )
    assert not after.any()
    assert machine.counts.configured_threads == 0


def test_a_fault_names_its_instruction_and_the_code_after_it_runs() -> None:
    marks = np.zeros(1, np.int64)
    code = assembly("tilezero %tmm0; tilezero %tmm1; movq $$5, (%rdi)")
    with pytest.raises(amx.EmulationFault, match="and 1 more") as caught, amx.emulated():
        code(at(marks))
    assert marks[0] == 5
    assert caught.value.address == code.address  # type: ignore[attr-defined]
    assert hex(code.address) in str(caught.value)  # type: ignore[attr-defined]
    assert caught.value.count == 2


def test_many_faults_are_counted() -> None:
    code = assembly("tilezero %tmm0")
    with pytest.raises(amx.EmulationFault) as caught, amx.emulated():
        for _ in range(100):
            code()
    assert caught.value.count == 100


def test_an_exception_of_the_body_stays_and_tells_of_the_fault() -> None:
    with pytest.raises(ZeroDivisionError) as caught, amx.emulated():
        assembly("tilezero %tmm3")()
        raise ZeroDivisionError
    assert "tilezero tmm3: #UD" in caught.value.__notes__[0]


def test_every_context_that_is_open_reports_a_fault() -> None:
    code = assembly("tilezero %tmm0")
    with pytest.raises(amx.EmulationFault), amx.emulated():
        with amx.emulated():
            pass
        with pytest.raises(amx.EmulationFault), amx.emulated():
            code()
        with amx.emulated():
            pass
    with amx.emulated():
        pass


# ---- Signals, in processes of their own -------------------------------------------------------


def child(function: Callable[[], None], **environment: str) -> subprocess.CompletedProcess[str]:
    """Call a function of this module in another process."""
    program = f"from tests.unit.test_amx_emulator import {function.__name__} as f; f()"
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def illegal_in_context() -> None:
    with amx.emulated():
        multiply(Square(32))
        assembly("ud2")()


def illegal_with_faulthandler() -> None:
    faulthandler.enable()
    illegal_in_context()


def sent_in_context() -> None:
    with amx.emulated():
        multiply(Square(32))
        os.kill(os.getpid(), signal.SIGILL)


def outside_of_a_context() -> None:
    with amx.emulated():
        multiply(Square(32))
    multiply(Square(32))


def on_a_cpu_with_tiles() -> None:
    with amx.emulated():
        multiply(Square(32))
    vars(amx._PROCESS.library)["amx_is_native"] = lambda: True  # so that nothing is installed
    illegal_in_context()


def fault_that_crashes() -> None:
    with amx.emulated(crash=True):
        assembly("ldtilecfg (%rdi); tilezero %tmm0; tilezero %tmm1; ud2")(
            at(configuration({0: (1, 4)}))
        )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (illegal_in_context, ""),
        (illegal_with_faulthandler, "Fatal Python error: Illegal instruction"),
        (sent_in_context, ""),
        (outside_of_a_context, ""),
        (on_a_cpu_with_tiles, ""),
        (fault_that_crashes, "tilezero tmm1 (0×0): #UD: a tile is not configured"),
    ],
)
def test_what_is_not_emulated_dies_of_sigill(function: Callable[[], None], message: str) -> None:
    done = child(function)
    assert done.returncode == -signal.SIGILL, done.stderr
    assert message in done.stderr
    assert done.stderr.count("Fatal Python error") == (function is illegal_with_faulthandler)
    assert done.stderr.count("#UD") == (function is fault_that_crashes)


LIBC = ctypes.CDLL(None, use_errno=True)
PAGE = os.sysconf("SC_PAGE_SIZE")
READ_WRITE = 3


def guarded_pages() -> int:
    """The address of a page that can't be touched, after one that can."""
    LIBC.mmap.restype = ctypes.c_size_t
    LIBC.mmap.argtypes = [ctypes.c_size_t, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    start: int = LIBC.mmap(0, 2 * PAGE, READ_WRITE, 0x22, -1, 0)
    assert LIBC.mprotect(ctypes.c_size_t(start + PAGE), ctypes.c_size_t(PAGE), 0) == 0
    return start + PAGE


LOAD = "ldtilecfg (%rdi); tileloadd (%rsi,%rdx), %tmm0; tilerelease"


def load_beyond_a_page() -> None:
    faulthandler.enable()
    with amx.emulated():
        assembly(LOAD)(at(FULL), guarded_pages() - 4 * 64, 64)


def store_beyond_a_page() -> None:
    with amx.emulated():
        assembly("ldtilecfg (%rdi); tilestored %tmm0, (%rsi,%rdx)")(
            at(FULL), guarded_pages() - 65, 64
        )


def configure_beyond_a_page() -> None:
    with amx.emulated():
        assembly("tilerelease; ldtilecfg (%rdi)")(guarded_pages() - 8)


def integer_load_beyond_a_page() -> None:
    with amx.emulated():
        assembly("tilerelease; movq (%rdi), %rax; tilerelease")(guarded_pages())


def jump_beyond_a_page() -> None:
    text = f"tilerelease; .byte 0xe9; .long {2**30}"
    with amx.emulated():
        assembly(text)()


def overflow_the_stack() -> None:
    faulthandler.enable()
    with amx.emulated():
        assembly("tilerelease; 1: pushq %rax; jmp 1b")()


@pytest.mark.parametrize(
    "function",
    [
        overflow_the_stack,
        load_beyond_a_page,
        store_beyond_a_page,
        configure_beyond_a_page,
        integer_load_beyond_a_page,
        jump_beyond_a_page,
    ],
)
def test_memory_that_may_not_be_touched_is_a_plain_sigsegv(function: Callable[[], None]) -> None:
    done = child(function)
    assert done.returncode == -signal.SIGSEGV, done.stderr
    fatal = "Fatal Python error: Segmentation fault" in done.stderr
    assert fatal == (function in (load_beyond_a_page, overflow_the_stack))


class SigAction(ctypes.Structure):
    """`struct sigaction` of x86-64 Linux."""

    _fields_ = [
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    ]


HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
SA_SIGINFO = 4


def load_from_a_page_that_comes_later() -> None:
    """A handler of SIGSEGV that sees the instruction, lends the page, and has it done again."""
    guard, tile = guarded_pages(), np.zeros((16, 64), np.uint8)
    start = guard - 4 * 64
    seen: list[tuple[int, int, int, int]] = []

    def lend(number: int, info: int, context: int) -> None:
        registers = (ctypes.c_int64 * 23).from_address(context + 40)
        address = ctypes.c_size_t.from_address(info + 16).value
        seen.append((number, address, registers[16], registers[9]))
        LIBC.mprotect(ctypes.c_size_t(guard), ctypes.c_size_t(PAGE), READ_WRITE)
        ctypes.memset(guard, 2, PAGE)
        ctypes.memset(start, 3, 64)  # rows that were read stay as they are

    handler = HANDLER(lend)
    action = SigAction(ctypes.cast(handler, ctypes.c_void_p), flags=SA_SIGINFO)
    assert LIBC.sigaction(signal.SIGSEGV, ctypes.byref(action), None) == 0
    ctypes.memset(start, 1, 4 * 64)
    code = assembly("tileloadd (%rsi,%rdx), %tmm0; tilestored %tmm0, (%rcx,%rdx); tilerelease")
    with amx.emulated() as machine:
        assembly(CONFIGURE)(at(FULL))
        code(at(FULL), start, 64, at(tile))
    assert seen == [(signal.SIGSEGV, guard, code.address, start)]  # type: ignore[attr-defined]
    assert (tile[:4] == 1).all()
    assert (tile[4:] == 2).all()
    assert machine.counts.tileloads == 1


def test_a_handler_of_sigsegv_sees_the_instruction_and_may_have_it_done_again() -> None:
    done = child(load_from_a_page_that_comes_later)
    assert done.returncode == 0, done.stderr


def faulthandler_at_all_times() -> None:
    with amx.emulated():
        multiply(Square(32))
    faulthandler.enable()
    with amx.emulated():
        multiply(Square(32))
        faulthandler.disable()
        faulthandler.enable()  # displaces the emulator's handlers; a context brings them back
        with amx.emulated() as machine:
            multiply(Square(32))
        assert machine.counts.ldtilecfg == 1
        multiply(Square(32))
    faulthandler.disable()  # brings back a handler of the emulator, outside of any context
    with amx.emulated():
        multiply(Square(32))
    faulthandler.enable()
    assembly("ud2")()


def test_faulthandler_may_be_enabled_before_after_and_with_care_inside() -> None:
    done = child(faulthandler_at_all_times)
    assert done.returncode == -signal.SIGILL, done.stderr
    assert done.stderr.count("Fatal Python error: Illegal instruction") == 1


class Stack(ctypes.Structure):
    """`stack_t` of x86-64 Linux."""

    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def with_an_alternate_stack() -> None:
    """Hardly larger than the kernel demands; and a failing access, whose handler runs on it."""
    size = os.sysconf("SC_MINSIGSTKSZ") + 1024
    memory = ctypes.create_string_buffer(size)
    stack = Stack(ctypes.addressof(memory), 0, size)

    def work() -> None:
        assert LIBC.sigaltstack(ctypes.byref(stack), None) == 0
        with amx.emulated():
            multiply(Square(64))
            store_beyond_a_page()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_threads_with_an_alternate_stack_work() -> None:
    done = child(with_an_alternate_stack)
    assert done.returncode == -signal.SIGSEGV, done.stderr
    assert "Error" not in done.stderr


# ---- Building ---------------------------------------------------------------------------------


def build_and_run() -> None:
    with amx.emulated() as machine:
        multiply(Square(32))
    assert machine.counts.ldtilecfg == 1


def test_the_library_is_built_once_in_the_cache_of_the_user(tmp_path: Path) -> None:
    results = []
    for _ in range(2):
        done = child(build_and_run, XDG_CACHE_HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr
        (library,) = (tmp_path / "nkdsl").iterdir()
        results.append((library.name, library.stat().st_mtime_ns))
    assert results[0] == results[1]


def test_the_library_is_built_elsewhere_where_there_is_no_cache() -> None:
    done = child(build_and_run, XDG_CACHE_HOME="/dev/null/cache")
    assert done.returncode == 0, done.stderr


def test_a_missing_compiler_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    assert "CC is 'no-such-compiler -m64'" in str(amx.obstacle())
    with pytest.raises(ToolNotFound, match="apt-get install"):
        amx._load()
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    assert "(cc, gcc, clang)" in str(amx.obstacle())


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "cc --no-such-option")
    with pytest.raises(ToolFailed, match="no-such-option"):
        amx._load()


def test_other_platforms_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "aarch64; emulate it on Linux on a 64-bit x86 processor" in str(amx.obstacle())
