"""Tiles of the array ZA of Arm SME: a part of the pass `lower-to-upstream`.

Tiles are named by number, as with AMX. Factors become scalable vectors, loaded with a mask; tiles
are loaded and stored row by row, in loops of as many turns as rows exist.

```mlir
%sum = tile.mma %acc, %a, %b using "outer.f32" : ...
// becomes
llvm.call_intrinsic "llvm.aarch64.sme.mopa.nxv4f32"(%t0, %every, %every, %a, %b) : ...
```

A function that uses tiles runs in streaming mode with a ZA of its own: LLVM enters the mode where
the function begins and leaves it where it ends, and saves the registers that belong to the caller.
Masks are computed where their extents are known, outside of the reduction.

Imports: our dialects and targets.
"""

from typing import ClassVar

from xdsl.dialects import arith, func, vector
from xdsl.dialects.builtin import (
    AnyFloat,
    ArrayAttr,
    DenseIntOrFPElementsAttr,
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    StringAttr,
    VectorType,
    i1,
    i8,
    i32,
    i64,
)
from xdsl.ir import Attribute, Operation, SSAValue

from nkdsl.diagnostics import refuse
from nkdsl.dialects import tile
from nkdsl.dialects.tile import TileType, tile_type
from nkdsl.targets.model import Target, TileInstruction
from nkdsl.transforms.intrinsics import intrinsic, moved_pointer
from nkdsl.transforms.loops import Carried, LoopBuilder
from nkdsl.transforms.tiles_to_upstream import Access, Pointer, Stride, TileLowering, Window

_ALL = 31
"""The pattern of a mask of all lanes."""

_ZERO_MASK = 0x11
"""The 64-bit tiles that make up the first of the four 32-bit tiles."""

_TRUE = IntegerAttr(1, i1)

_MASKS = {4: "nxv4i1", 8: "nxv8i1", 16: "nxv16i1"}
"""LLVM's names of masks, by the lanes of 128 bits."""


class SmeLowering(TileLowering):
    """Rewrites the operations on tiles of one function."""

    passthrough: ClassVar[tuple[Attribute, ...]] = (
        StringAttr("aarch64_pstate_sm_body"),
        StringAttr("aarch64_new_za"),
        # Without unwinding nobody asks for the vector length, which takes a function of a library.
        StringAttr("nounwind"),
        # LLVM 22 would not save the return address around the function that saves another ZA.
        ArrayAttr([StringAttr("frame-pointer"), StringAttr("all")]),
    )

    def __init__(
        self,
        function: func.FuncOp,
        target: Target,
        loops: LoopBuilder,
        pointer: Pointer,
        stride: Stride,
        window: Window,
    ):
        """As with any tiles."""
        super().__init__(function, target, loops, pointer, stride, window)
        self._masks: dict[tuple[SSAValue, int], SSAValue] = {}
        self._full: dict[int, SSAValue] = {}
        self._length: SSAValue | None = None

    def rewrite(self, op: Operation) -> bool:
        """Rewrite one op; returns whether it is replaced."""
        match op:
            case tile.ConfigureOp() | tile.ReleaseOp():
                refuse(op, "tiles of Arm SME have no configuration")
            case tile.VscaleOp():
                op.result.replace_all_uses_with(self._vscale())
            case tile.ZeroOp():
                mask = self.number(i32, _ZERO_MASK << self.registers[op.result])
                self.call("llvm.aarch64.sme.zero", mask)
            case tile.LoadOp() if op.register is None:
                op.result.replace_all_uses_with(self._factor(op))
            case tile.LoadOp():
                self._rows("llvm.aarch64.sme.ld1w.horiz", op, op.result)
            case tile.StoreOp():
                self._rows("llvm.aarch64.sme.st1w.horiz", op, op.tile)
            case tile.MmaOp():
                self._multiply(op)
            case _:
                return super().rewrite(op)
        return True

    def _vscale(self) -> SSAValue:
        """The vector length, asked for once, where the function begins."""
        if self._length is None:
            length = intrinsic("llvm.vscale.i64", [], [i64])
            cast = arith.IndexCastOp(length.results[0], IndexType())
            for op in (cast, length):
                self.loops.insert_at_entry(op)
            self._length = cast.result
        return self._length

    def _factor(self, op: tile.LoadOp) -> SSAValue:
        """A vector of a factor, whose elements that don't exist are zero."""
        type_ = _vector(tile_type(op.result))
        view, index = self.window(op)
        (left,) = op.active or (None,)
        if left is None:
            return self.loops.insert(
                vector.LoadOp.create(operands=[view, index], result_types=[type_])
            ).results[0]
        passed = self.loops.insert_at_entry(_zeros(type_)).result
        operands = [view, index, self._mask(left, type_.get_shape()[0]), passed]
        load = vector.MaskedLoadOp.create(operands=operands, result_types=[type_])
        return self.loops.insert(load).results[0]

    def _mask(self, active: SSAValue, lanes: int) -> SSAValue:
        """The mask of the first `active` lanes, made once where their number is known."""
        if (active, lanes) not in self._masks:
            zero = self.number(i64, 0)
            end = arith.IndexCastOp(active, i64)
            name = f"llvm.aarch64.sve.whilelt.{_MASKS[lanes]}.i64"
            mask = intrinsic(name, [zero, end.result], [_mask_type(lanes)])
            self.loops.insert_after(active, [end, mask])
            self._masks[active, lanes] = mask.results[0]
        return self._masks[active, lanes]

    def _every(self, lanes: int) -> SSAValue:
        """The mask of all lanes."""
        if lanes not in self._full:
            pattern = arith.ConstantOp(IntegerAttr(_ALL, i32))
            name = f"llvm.aarch64.sve.ptrue.{_MASKS[lanes]}"
            mask = intrinsic(name, [pattern.result], [_mask_type(lanes)])
            for op in (mask, pattern):  # what is inserted last comes first
                self.loops.insert_at_entry(op)
            self._full[lanes] = mask.results[0]
        return self._full[lanes]

    def _rows(self, name: str, op: Access, value: SSAValue) -> None:
        """Load or store a tile, a row in a turn of a loop."""
        loops, (height, lanes) = self.loops, tile_type(value).shape
        number = self.number(i32, self.registers[value])
        rows = loops.mul(self._vscale(), loops.constant(height))
        mask: SSAValue | None = None
        if op.active:
            rows, mask = loops.minimum(op.active[0], rows), self._mask(op.active[1], lanes)
        first, distance = self.pointer(op), self.row_distance(op)

        def visit(row: SSAValue, _: Carried) -> Carried:
            wide = loops.insert(arith.IndexCastOp(row, i64)).result
            offset = loops.insert(arith.MuliOp(wide, distance)).result
            address = loops.insert(moved_pointer(first, offset, i8)).result
            slice_ = loops.insert(arith.IndexCastOp(row, i32)).result
            self.call(name, mask or self._every(lanes), address, number, slice_)
            return ()

        loops.counted(loops.constant(0), rows, loops.constant(1), visit)

    def _multiply(self, op: tile.MmaOp) -> None:
        instruction = self.target.instruction(op.instruction.data)
        assert isinstance(instruction, TileInstruction)
        assert isinstance(op.lhs.type, VectorType)  # a factor, rewritten already
        every = self._every(op.lhs.type.get_shape()[0])
        number = self.number(i32, self.registers[op.acc])
        self.call(instruction.upstream, number, every, every, op.lhs, op.rhs)


def _vector(type_: TileType) -> VectorType:
    """The vector register that a tile of one row is."""
    return VectorType(type_.element_type, [type_.shape[1]], ArrayAttr([_TRUE]))


def _mask_type(lanes: int) -> VectorType:
    return VectorType(i1, [lanes], ArrayAttr([_TRUE]))


def _zeros(type_: VectorType) -> arith.ConstantOp:
    """A vector of zeros."""
    element = type_.element_type
    if isinstance(element, IntegerType):
        integers = VectorType(element, type_.shape, type_.scalable_dims)
        return arith.ConstantOp(DenseIntOrFPElementsAttr.from_list(integers, [0]))
    assert isinstance(element, AnyFloat)
    floats = VectorType(FloatAttr(0.0, element).type, type_.shape, type_.scalable_dims)
    return arith.ConstantOp(DenseIntOrFPElementsAttr.from_list(floats, [0.0]))
