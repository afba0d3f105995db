"""Tiles in the interpreters: as values, and as registers that AMX's intrinsics name by number.

The intrinsics are held against machine code, which the emulator of AMX executes.
"""

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from xdsl.utils.exceptions import InterpretationError

from nkdsl.emulation import amx
from nkdsl.interpreters import run
from nkdsl.interpreters.amx import AmxUnit, Memory
from nkdsl.targets.semantics import tile_dot
from tests.unit.test_amx_emulator import (
    KINDS,
    NATIVE,
    TRIPLES,
    Kind,
    assert_same_numbers,
    at,
    configuration,
    in_tiles,
    multiply_functions,
    random_elements,
)
from tests.unit.test_interpreters import function

Array = np.ndarray
BF16 = ml_dtypes.bfloat16

TARGET = 'nanokernel.target = "sapphirerapids"'


def execute(arguments: str, body: str, *arrays: Array) -> None:
    run(function(arguments, body, TARGET), "f", arrays)


# ---------------------------------------------------------------------------------- as values


def test_rows_of_a_tile_lie_a_stride_apart_and_their_elements_side_by_side() -> None:
    memory = np.arange(200, dtype=np.float32).reshape(10, 20)
    result = np.zeros((20, 10), np.float32)
    execute(
        "%a: memref<10x20xf32>, %c: memref<20x10xf32>",
        """%t = tile.load %a[%c1, %c2 + 3] rows 0 into 0 : memref<10x20xf32>, !tile.tile<3x4xf32>
        tile.store %t, %c[%c2, %c1] rows 0 : memref<20x10xf32>, !tile.tile<3x4xf32>""",
        *(memory, result),
    )
    wanted = np.zeros_like(result)
    wanted[2:5, 1:5] = memory[1:4, 5:9]
    np.testing.assert_array_equal(result, wanted)


def test_rows_may_follow_one_another_along_the_last_dimension() -> None:
    memory = np.arange(200, dtype=np.float32).reshape(10, 20).T
    result = np.zeros((3, 4), np.float32)
    execute(
        "%a: memref<20x10xf32, strided<[1, 20]>>, %c: memref<3x4xf32>",
        """%t = tile.load %a[%c2, %c1] rows 1 into 0
            : memref<20x10xf32, strided<[1, 20]>>, !tile.tile<3x4xf32>
        tile.store %t, %c[%c0, %c0] rows 0 : memref<3x4xf32>, !tile.tile<3x4xf32>""",
        *(memory, result),
    )
    np.testing.assert_array_equal(result, memory[2:6, 1:4].T)


@pytest.mark.parametrize("name", ["tile.load", "tile.store"])
def test_an_access_beyond_an_array_is_refused(name: str) -> None:
    place = "%a[%c0, %c2] rows 0"
    types = "memref<16x17xf32>, !tile.tile<16x16xf32>"
    body = {
        "tile.load": f"%t = tile.load {place} into 0 : {types}",
        "tile.store": f"%t = tile.zero into 0 : !tile.tile<16x16xf32>\n"
        f"tile.store %t, {place} : {types}",
    }[name]
    with pytest.raises(InterpretationError):
        execute("%a: memref<16x17xf32>", body, np.zeros((16, 17), np.float32))


def test_a_multiplication_takes_a_group_of_k_for_each_column() -> None:
    """In the order that the table says, which isn't that of a plain sum."""
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(shape).astype(BF16) for shape in ((5, 32), (32, 16)))
    c = rng.standard_normal((5, 16)).astype(np.float32)
    old, pairs = c.copy(), np.ascontiguousarray(b.reshape(16, 2, 16).transpose(0, 2, 1))
    types = "!tile.tile<5x16xf32>, !tile.tile<5x32xbf16>, !tile.tile<16x32xbf16>"
    execute(
        "%a: memref<5x32xbf16>, %b: memref<16x16x2xbf16>, %c: memref<5x16xf32>",
        f"""%s = tile.load %c[%c0, %c0] rows 0 into 0 : memref<5x16xf32>, !tile.tile<5x16xf32>
        %l = tile.load %a[%c0, %c0] rows 0 into 1 : memref<5x32xbf16>, !tile.tile<5x32xbf16>
        %r = tile.load %b[%c0, %c0, %c0] rows 0 into 2
            : memref<16x16x2xbf16>, !tile.tile<16x32xbf16>
        %t = tile.mma %s, %l, %r using "tile.bf16x16x16x32" : {types}
        tile.store %t, %c[%c0, %c0] rows 0 : memref<5x16xf32>, !tile.tile<5x16xf32>""",
        *(a, pairs, c),
    )
    shape = (5, 16, 32)
    factors = np.broadcast_to(a[:, None], shape), np.broadcast_to(b.T[None], shape)
    np.testing.assert_array_equal(c, tile_dot(old, *factors))


# ------------------------------------------------------------------------------- as registers


def unit_of(*arrays: Array) -> AmxUnit:
    """A unit that knows some arrays."""
    memory = Memory()
    for array in arrays:
        memory.add(array)
    return AmxUnit(memory)


def configured(shapes: dict[int, tuple[int, int]], *arrays: Array) -> AmxUnit:
    table = configuration(shapes)
    unit = unit_of(table, *arrays)
    unit.configure(at(table))
    return unit


@pytest.mark.skipif(amx.obstacle() is not None, reason=amx.obstacle() or "")
@pytest.mark.skipif(NATIVE, reason="this CPU has AMX: nothing traps")
@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_multiplications_are_those_of_the_emulator_bit_for_bit(kind: Kind) -> None:
    rng = np.random.default_rng(2)
    group = 4 // kind.lhs.itemsize
    for number in range(30):
        m, n, k = (int(x) for x in rng.integers(1, 17, 3))
        c, a, b = TRIPLES[number % len(TRIPLES)]
        sizes = ((m, n), (m, group * k), (k, group * n))
        types = (kind.sum, kind.lhs, kind.rhs)
        tiles = [
            in_tiles(random_elements(rng, dtype, (8, *size)))
            for dtype, size in zip(types, sizes, strict=True)
        ]
        shapes = {c: (m, 4 * n), a: (m, 4 * k), b: (k, 4 * n)}
        copies = [tile.copy() for tile in tiles]
        for case in range(8):
            data = [np.ascontiguousarray(tile[case]).reshape(-1) for tile in tiles]
            unit = configured(shapes, *data)
            for register, rows in zip((c, a, b), data, strict=True):
                unit.load(register, at(rows), 64)
            unit.multiply(kind.name, c, a, b)
            unit.store(c, at(data[0]), 64)
            tiles[0][case] = data[0].reshape(16, 64)
        with amx.emulated():
            run_native = multiply_functions()(f"{kind.name}_{c}{a}{b}")
            run_native(at(configuration(shapes)), *map(at, copies), 8)
        if kind.sum == np.float32:
            numbers, native = (each[0].view(np.float32) for each in (tiles, copies))
            assert_same_numbers(numbers, native, (m, n, k))
        else:
            np.testing.assert_array_equal(tiles[0], copies[0])


def test_zero_and_a_new_configuration_clear_registers() -> None:
    rows, target = np.full(1024, 7, np.uint8), np.full(1024, 9, np.uint8)
    table = configuration({0: (16, 64), 1: (3, 8)})
    unit = unit_of(table, rows, target)
    unit.configure(at(table))
    unit.load(0, at(rows), 64)
    unit.load(1, at(rows), 64)
    unit.zero(0)
    unit.store(1, at(target), 64)
    assert (target.reshape(16, 64)[:3, :8] == 7).all()
    unit.store(0, at(target), 64)
    assert not target.any()
    unit.configure(at(table))
    target[:] = 9
    unit.store(1, at(target), 64)
    assert not target.reshape(16, 64)[:3, :8].any()
    assert (target.reshape(16, 64)[3:] == 9).all()


def changed(position: int, value: int) -> Array:
    """A configuration of one register, one of its bytes another one."""
    table = configuration({0: (16, 64)})
    table[position] = value
    return table


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (changed(0, 0), "no configuration of palette 1"),
        (changed(0, 2), "no configuration of palette 1"),
        (changed(1, 5), "no configuration of palette 1"),
        (changed(15, 1), "no configuration of palette 1"),
        (changed(40, 1), "no configuration of palette 1"),
        (changed(60, 1), "no configuration of palette 1"),
        (changed(48, 17), "a tile of 17 rows of 64 bytes is impossible"),
        (changed(48, 0), "a tile of 0 rows of 64 bytes is impossible"),
        (changed(16, 65), "a tile of 16 rows of 65 bytes is impossible"),
        (changed(17, 1), "a tile of 16 rows of 320 bytes is impossible"),
        (changed(18, 4), "a tile of 0 rows of 4 bytes is impossible"),
    ],
)
def test_an_impossible_configuration_is_refused(table: Array, words: str) -> None:
    with pytest.raises(InterpretationError, match=words):
        unit_of(table).configure(at(table))


USES: dict[str, Callable[[AmxUnit, int], None]] = {
    "zero": lambda unit, address: unit.zero(2),
    "load": lambda unit, address: unit.load(2, address, 64),
    "store": lambda unit, address: unit.store(2, address, 64),
    "multiply": lambda unit, address: unit.multiply("tdpbssd", 0, 1, 2),
}


@pytest.mark.parametrize("use", USES)
def test_a_register_that_is_not_configured_is_refused(use: str) -> None:
    rows = np.zeros(1024, np.uint8)
    unit = configured({0: (16, 64), 1: (16, 64)}, rows)
    with pytest.raises(InterpretationError, match="tile 2 is not configured"):
        USES[use](unit, at(rows))


@pytest.mark.parametrize("use", USES)
def test_no_register_is_left_after_a_release(use: str) -> None:
    rows = np.zeros(1024, np.uint8)
    unit = configured({0: (16, 64), 1: (16, 64), 2: (16, 64)}, rows)
    USES[use](unit, at(rows))
    unit.release()
    with pytest.raises(InterpretationError, match="is not configured"):
        USES[use](unit, at(rows))


@pytest.mark.parametrize(
    "shapes",
    [
        {0: (16, 64), 1: (15, 64), 2: (16, 64)},  # rows of sums and of the left factor
        {0: (16, 64), 1: (16, 64), 2: (16, 60)},  # columns of sums and of the right factor
        {0: (16, 64), 1: (16, 60), 2: (16, 64)},  # the reduction
        {0: (16, 64), 1: (16, 64), 2: (15, 64)},
    ],
)
def test_factors_that_do_not_fit_are_refused(shapes: dict[int, tuple[int, int]]) -> None:
    with pytest.raises(InterpretationError, match="tdpbf16ps can't multiply tiles 0, 1, 2"):
        configured(shapes).multiply("tdpbf16ps", 0, 1, 2)


@pytest.mark.parametrize("registers", [(0, 0, 1), (0, 1, 0), (0, 1, 1)])
def test_a_register_has_one_part_in_a_multiplication(registers: tuple[int, int, int]) -> None:
    unit = configured({0: (16, 64), 1: (16, 64)})
    with pytest.raises(InterpretationError, match="can't multiply tiles"):
        unit.multiply("tdpbssd", *registers)


@pytest.mark.parametrize(("offset", "stride"), [(-1, 64), (0, 65), (1, 64), (0, -64)])
def test_memory_beyond_an_allocation_is_refused(offset: int, stride: int) -> None:
    rows = np.zeros(1024, np.uint8)
    unit = configured({0: (16, 64)}, rows)
    for access in (unit.load, unit.store):
        with pytest.raises(InterpretationError, match="outside of all allocations"):
            access(0, at(rows) + offset, stride)
        access(0, at(rows), 64)


def test_intrinsics_are_known_by_their_names_and_others_are_none_of_a_unit() -> None:
    unit = unit_of()
    known = ("ldtilecfg", "tilerelease", "tilezero", "tileloadd64", "tilestored64")
    assert all(unit.runs(f"llvm.x86.{name}") for name in (*known, *(kind.name for kind in KINDS)))
    assert unit.runs("llvm.x86.avx512.vpdpbusd.512") is None
