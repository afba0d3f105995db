"""The interpreter of Arm SME's intrinsics: what it computes, in QEMU too, and what it refuses.

One program in upstream dialects is executed in both, on operands of any bits, with masks that end
anywhere. What an entry of the target's table says is held against the same results.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from xdsl.utils.exceptions import InterpretationError

from nkdsl.backends import mlir, native
from nkdsl.emulation import qemu
from nkdsl.emulation.qemu import Call, Processor
from nkdsl.frontend import load, make_context, to_generic_text
from nkdsl.interpreters import ExecutionError, run
from nkdsl.interpreters.amx import Memory
from nkdsl.interpreters.sme import SmeUnit
from nkdsl.interpreters.tile import vector_length
from nkdsl.targets import TileInstruction, get_target
from nkdsl.types import element_type

Array = np.ndarray

ARMV9 = get_target("armv9-sme")

LENGTHS = (128, 256, 512)

each_length = pytest.mark.parametrize("bits", LENGTHS)

WITHOUT_QEMU = qemu.obstacle()

needs_qemu = pytest.mark.skipif(WITHOUT_QEMU is not None, reason=str(WITHOUT_QEMU))

STREAMING = '"aarch64_pstate_sm_body"'
MODE = f"""passthrough = [["target-features", "{",".join(ARMV9.required)}"],
      {STREAMING}, "aarch64_new_za", "nounwind", ["frame-pointer", "all"]]"""

# ---------------------------------------------------------------------------------------- programs

PROLOGUE = """
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %none = arith.constant 0 : i64
  %bytes = arith.constant 4 : i64
  %four = arith.constant 4 : index
  %many = arith.constant 1152921504606846976 : index
  %all = arith.constant 31 : i32
  %every = llvm.call_intrinsic "llvm.aarch64.sve.ptrue.nxv4i1"(%all) : (i32) -> vector<[4]xi1>
  %vscale = llvm.call_intrinsic "llvm.vscale.i64"() : () -> i64
  %scale = arith.index_cast %vscale : i64 to index
  %side = arith.muli %scale, %four : index
  %side64 = arith.index_cast %side : index to i64
  %row_bytes = arith.muli %side64, %bytes : i64"""
"""`%side` is how many rows and columns a tile has."""


def pointer(name: str, type_: str) -> str:
    """`%name.p`, the address of an argument."""
    return f"""
  %{name}.view = memref.reinterpret_cast %{name} to offset: [0], sizes: [%many], strides: [1]
      : memref<{type_}> to memref<?x{type_}>
  %{name}.index = "memref.extract_aligned_pointer_as_index"(%{name}.view)
      : (memref<?x{type_}>) -> index
  %{name}.bits = arith.index_cast %{name}.index : index to i64
  %{name}.p = llvm.inttoptr %{name}.bits : i64 to !llvm.ptr"""


def rows(intrinsic: str, mask: str, base: str, distance: str, tile: str) -> str:
    """A loop over the rows of a tile, which lie some bytes apart."""
    return f"""
  scf.for %i = %zero to %side step %one {{
    %number = arith.index_cast %i : index to i64
    %place = arith.muli %number, {distance} : i64
    %address = llvm.getelementptr {base}[%place] : (!llvm.ptr, i64) -> !llvm.ptr, i8
    %row = arith.index_cast %i : index to i32
    llvm.call_intrinsic "llvm.aarch64.sme.{intrinsic}"({mask}, %address, {tile}, %row)
        : (vector<[4]xi1>, !llvm.ptr, i32, i32) -> ()
  }}"""


def outer_product(instruction: TileInstruction) -> str:
    """Sums (side, side) and what an outer product of parts of two vectors adds to them."""
    element, sums = instruction.operand_type.mlir, instruction.accumulator_type.mlir
    lanes = 4 * instruction.k
    vector, mask = f"vector<[{lanes}]x{element}>", f"vector<[{lanes}]xi1>"
    masks, vectors = (
        "".join(
            f"""
  %{name}.mask = llvm.call_intrinsic "llvm.aarch64.sve.whilelt.nxv{lanes}i1.i64"(%none, %{count})
      : (i64, i64) -> {mask}"""
            if what == "mask"
            else f"""
  %{name}.all = memref.reinterpret_cast %{name} to offset: [0], sizes: [%many], strides: [1]
      : memref<{element}> to memref<?x{element}>
  %{name}.vector = vector.load %{name}.all[%zero] : memref<?x{element}>, {vector}"""
            for name, count in (("a", "rows"), ("b", "columns"))
        )
        for what in ("mask", "vector")
    )
    return f"""
func.func @outer(%a: memref<{element}>, %b: memref<{element}>, %c: memref<{sums}>,
                 %rows: i64, %columns: i64) attributes {{{MODE}}} {{{PROLOGUE}
  %tile = arith.constant 2 : i32{pointer("c", str(sums))}{masks}{vectors}
  {rows("ld1w.horiz", "%every", "%c.p", "%row_bytes", "%tile")}
  llvm.call_intrinsic "{instruction.upstream}"(%tile, %a.mask, %b.mask, %a.vector, %b.vector)
      : (i32, {mask}, {mask}, {vector}, {vector}) -> ()
  {rows("st1w.horiz", "%every", "%c.p", "%row_bytes", "%tile")}
  func.return
}}"""


MOVES = f"""
func.func @moves(%a: memref<f32>, %c: memref<f32>, %columns: i64) attributes {{{MODE}}} {{{PROLOGUE}
  %everything = arith.constant 255 : i32
  %half_and_another = arith.constant 100 : i32{pointer("a", "f32")}{pointer("c", "f32")}
  %mask = llvm.call_intrinsic "llvm.aarch64.sve.whilelt.nxv4i1.i64"(%none, %columns)
      : (i64, i64) -> vector<[4]xi1>
  %distance = arith.muli %columns, %bytes : i64
  %tile.bytes = arith.muli %row_bytes, %side64 : i64
  %t0 = arith.constant 0 : i32
  %t1 = arith.constant 1 : i32
  %t2 = arith.constant 2 : i32
  %t3 = arith.constant 3 : i32
  llvm.call_intrinsic "llvm.aarch64.sme.zero"(%everything) : (i32) -> ()
  {"".join(rows("ld1w.horiz", "%mask", "%a.p", "%distance", f"%t{t}") for t in range(4))}
  llvm.call_intrinsic "llvm.aarch64.sme.zero"(%half_and_another) : (i32) -> ()
  %p1 = llvm.getelementptr %c.p[%tile.bytes] : (!llvm.ptr, i64) -> !llvm.ptr, i8
  %p2 = llvm.getelementptr %p1[%tile.bytes] : (!llvm.ptr, i64) -> !llvm.ptr, i8
  %p3 = llvm.getelementptr %p2[%tile.bytes] : (!llvm.ptr, i64) -> !llvm.ptr, i8
  {rows("st1w.horiz", "%every", "%c.p", "%row_bytes", "%t0")}
  {"".join(rows("st1w.horiz", "%every", f"%p{t}", "%row_bytes", f"%t{t}") for t in (1, 2, 3))}
  func.return
}}"""
"""All four tiles become what lies in `a`, of as many columns. Then 100, which is 4 + 32 + 64, makes
tile 2 and half of tile 1 zero again; and all are stored one behind the other."""


@cache
def object_code(source: str) -> bytes:
    module = load(source, make_context())
    return native.emit_object(mlir.to_llvm_ir(to_generic_text(module)), ARMV9)


def interpreted(source: str, function: str, calls: Sequence[Sequence[Any]], bits: int) -> None:
    module = load(source, make_context())
    with vector_length(bits):
        for arguments in calls:
            run(module, function, arguments)


# --------------------------------------------------------------------------------- what is computed


def any_numbers(rng: np.random.Generator, element: str, count: int) -> Array:
    """Numbers of any bits among numbers of like exponents, zeros, infinities, tiny and huge."""
    type_ = element_type(element)
    bits = np.dtype(f"u{type_.size}")
    anything = rng.integers(0, np.iinfo(bits).max, count, bits, endpoint=True).view(type_.dtype)
    if type_.is_integer:
        return anything
    ends = np.array([0, -0.0, np.inf, -np.inf, 1e-39, -1e-39, 3e38, 1], type_.dtype)
    near = rng.standard_normal(count).astype(type_.dtype)
    tiny = (near.astype(np.float64) * 2.0**-63).astype(type_.dtype)  # of which products are tiny
    kinds = np.stack([anything, rng.choice(ends, count), near, near, tiny])
    return kinds[rng.integers(0, len(kinds), count), np.arange(count)]


def assert_same_bits(got: Array, wanted: Array) -> None:
    """The same numbers, signs of zeros included, or both none."""
    equal = got.view(np.uint32) == wanted.view(np.uint32)
    if got.dtype.kind == "f":
        equal |= np.isnan(got) & np.isnan(wanted)
    assert equal.all()


@dataclass(frozen=True)
class Multiplication:
    """The operands of one outer product."""

    a: Array
    b: Array
    c: Array
    rows: int
    """Elements of the left factor that are active."""
    columns: int

    @classmethod
    def random(
        cls, rng: np.random.Generator, instruction: TileInstruction, bits: int
    ) -> "Multiplication":
        side = bits // 32
        count = side * instruction.k
        a, b = (any_numbers(rng, name, count) for name in instruction.operands)
        sums = any_numbers(rng, instruction.accumulator, side * side).reshape(side, side)
        # In a third of cases all is active, which a random number seldom says.
        ends = [int(x) for x in np.minimum(rng.integers(0, count * 3 // 2, 2), count)]
        return cls(a, b, sums, ends[0], ends[1])

    def arguments(self) -> tuple[Any, ...]:
        """Those of a call, with a copy of the sums."""
        return self.a, self.b, self.c.copy(), self.rows, self.columns

    def result(self, instruction: TileInstruction) -> Array:
        """What the entry says: what isn't active counts as zero, and adds nothing to its sums."""
        factors, some = [], []
        for factor, end in ((self.a, self.rows), (self.b, self.columns)):
            values = factor.copy()
            values[end:] = 0
            factors.append(values.reshape(-1, instruction.k))
            some.append((np.arange(len(factor)) < end).reshape(-1, instruction.k))
        lhs, rhs = factors
        groups = (lhs[:, None], rhs[None]) if instruction.k > 1 else (lhs, rhs.T)
        touched = np.any(some[0][:, None] & some[1][None], axis=-1)
        return np.where(touched, instruction.semantics(self.c, *groups), self.c)


EVERY = ARMV9.tile_instructions

CALLS = 40


def multiplications(instruction: TileInstruction, bits: int) -> list[Multiplication]:
    rng = np.random.default_rng(bits)
    return [Multiplication.random(rng, instruction, bits) for _ in range(CALLS)]


@pytest.mark.parametrize("instruction", EVERY, ids=lambda instruction: instruction.name)
def test_an_outer_product_is_what_its_entry_says(instruction: TileInstruction) -> None:
    operands = multiplications(instruction, 256)
    found = [each.arguments() for each in operands]
    interpreted(outer_product(instruction), "outer", found, 256)
    for each, arguments in zip(operands, found, strict=True):
        assert_same_bits(arguments[2], each.result(instruction))


@needs_qemu
@each_length
@pytest.mark.parametrize("instruction", EVERY, ids=lambda instruction: instruction.name)
def test_an_outer_product_is_what_qemu_computes(instruction: TileInstruction, bits: int) -> None:
    right = instruction.accumulator == "f32" or qemu.version() >= qemu.RIGHT_ABOUT_TILES
    if not right:
        pytest.skip("this version of QEMU computes outer products of integers wrongly")
    operands, source = multiplications(instruction, bits), outer_product(instruction)
    here, there = ([each.arguments() for each in operands] for _ in range(2))
    interpreted(source, "outer", here, bits)
    calls = [Call("outer", arguments) for arguments in there]
    qemu.run(object_code(source), calls, Processor(streaming_bits=bits))
    for x, y in zip(here, there, strict=True):
        assert_same_bits(x[2], y[2])


@needs_qemu
@each_length
def test_rows_are_moved_and_cleared_as_in_qemu(bits: int) -> None:
    """Rows lie side by side and end where memory does: what isn't active can't be read."""
    rng, side = np.random.default_rng(bits), bits // 32
    sizes = [(side, columns) for columns in range(side + 1)]
    sources = [rng.standard_normal(size).astype(np.float32) for size in sizes]
    here, there = (
        [(a, np.ones((4 * side, side), np.float32), a.shape[1]) for a in sources] for _ in range(2)
    )
    interpreted(MOVES, "moves", here, bits)
    qemu.run(
        object_code(MOVES), [Call("moves", each) for each in there], Processor(streaming_bits=bits)
    )
    for x, y in zip(here, there, strict=True):
        assert x[1].tobytes() == y[1].tobytes()
    tiles = here[-1][1].reshape(4, side, side)
    assert (tiles[0] == sources[-1]).all()
    assert (tiles[1][::2] == sources[-1][::2]).all() and not tiles[1][1::2].any()
    assert not tiles[2].any()


# ------------------------------------------------------------------------------------- what it does


@dataclass(frozen=True)
class Machine:
    """ZA, and memory at an address."""

    unit: SmeUnit
    memory: Array

    @classmethod
    def of(cls, *words: float) -> "Machine":
        data, memory = np.array(words, np.float32), Memory()
        memory.add(data)
        return cls(SmeUnit(memory), data)

    @property
    def address(self) -> int:
        return int(self.memory.ctypes.data)

    def stored(self, tile: int, row: int) -> list[float]:
        """A row of a tile, of vectors of 128 bits."""
        self.unit.store(ALL, self.address, tile, row)
        return list(self.memory[:4].tolist())


ALL = np.ones(4, np.bool_)


def test_what_was_never_written_is_no_number() -> None:
    assert np.isnan(Machine.of(1, 2, 3, 4).stored(0, 0)).all()


def test_lanes_that_are_not_active_are_neither_read_nor_written() -> None:
    machine = Machine.of(1, 2, 3, 4)
    machine.unit.load(np.array([True, True, False, False]), machine.address + 8, 0, 1)
    machine.unit.store(np.array([True, False, True, False]), machine.address, 0, 1)
    assert machine.memory.tolist() == [3, 2, 0, 4]
    machine.unit.load(np.zeros(4, np.bool_), 0, 0, 1)
    assert machine.stored(0, 1) == [0, 0, 0, 0]


def test_a_register_beyond_the_end_of_memory_is_refused() -> None:
    machine = Machine.of(1, 2, 3, 4)
    with pytest.raises(InterpretationError, match=r"16 bytes at .* are outside of all"):
        machine.unit.load(ALL, machine.address + 4, 0, 0)


@pytest.mark.parametrize("tile", [-1, 4])
def test_there_are_four_tiles(tile: int) -> None:
    with pytest.raises(InterpretationError, match=f"there is no tile {tile}"):
        Machine.of(1, 2, 3, 4).stored(tile, 0)


@pytest.mark.parametrize("row", [-1, 4])
def test_a_row_beyond_the_end_of_a_tile_is_refused(row: int) -> None:
    with pytest.raises(InterpretationError, match=f"there is no row {row} in a tile of 4"):
        Machine.of(1, 2, 3, 4).stored(0, row)


def in_function(body: str, passthrough: str) -> str:
    return f"""
    func.func @f() attributes {{passthrough = [{passthrough}]}} {{
      %mask = arith.constant 255 : i32
      %pattern = arith.constant 9 : i32
      {body}
      func.return
    }}"""


ZERO = 'llvm.call_intrinsic "llvm.aarch64.sme.zero"(%mask) : (i32) -> ()'
VSCALE = '%v = llvm.call_intrinsic "llvm.vscale.i64"() : () -> i64'
FIXED = """%p = llvm.call_intrinsic "llvm.aarch64.sve.ptrue.nxv4i1"(%pattern)
        : (i32) -> vector<[4]xi1>"""
OTHER = 'llvm.call_intrinsic "llvm.aarch64.sme.za.enable"() : () -> ()'
INSIDE = f'{STREAMING}, "aarch64_new_za"'


@pytest.mark.parametrize(
    ("body", "passthrough", "message"),
    [
        (ZERO, '"aarch64_new_za"', "a function that is not in streaming mode"),
        (ZERO, STREAMING, "a function without ZA"),
        (VSCALE, '"nounwind"', "'llvm.vscale.i64' in a function that is not in streaming mode"),
        (FIXED, INSIDE, "the pattern 9 of PTRUE can't be executed"),
        (OTHER, INSIDE, "'llvm.aarch64.sme.za.enable' has no semantics here"),
    ],
)
def test_what_no_processor_would_execute_is_refused(
    body: str, passthrough: str, message: str
) -> None:
    module = load(in_function(body, passthrough), make_context())
    with pytest.raises(ExecutionError, match=message):
        run(module, "f", [])


@pytest.mark.parametrize("body", [ZERO, VSCALE])
def test_a_function_may_be_called_in_the_mode(body: str) -> None:
    inherited = '"aarch64_pstate_sm_enabled", "aarch64_inout_za"'
    assert run(load(in_function(body, inherited), make_context()), "f", [])


@each_length
def test_scalable_vectors_are_as_long_as_vectors(bits: int) -> None:
    """A constant, a load and a store of vectors, and a mask that ends within them."""
    source = """
    func.func @f(%from: memref<?xi32>, %to: memref<?xi32>) {
      %zero = arith.constant 0 : index
      %three = arith.constant 3 : index
      %ones = arith.constant dense<1> : vector<[4]xi32>
      %loaded = vector.load %from[%zero] : memref<?xi32>, vector<[4]xi32>
      %sums = arith.addi %ones, %loaded : vector<[4]xi32>
      %mask = vector.create_mask %three : vector<[4]xi1>
      vector.store %sums, %to[%zero] : memref<?xi32>, vector<[4]xi32>
      vector.maskedstore %to[%zero], %mask, %ones
        : memref<?xi32>, vector<[4]xi1>, vector<[4]xi32>
      func.return
    }"""
    given, found = np.arange(64, dtype=np.int32), np.zeros(64, np.int32)
    with vector_length(bits):
        run(load(source, make_context()), "f", [given, found])
    lanes = bits // 32
    assert found[:3].tolist() == [1, 1, 1]
    assert found[3:lanes].tolist() == list(range(4, lanes + 1))
    assert not found[lanes:].any()
