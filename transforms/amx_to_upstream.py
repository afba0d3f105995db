"""Tiles as registers of Intel AMX: a part of the pass `lower-to-upstream`.

Every operation on tiles becomes an intrinsic that names its registers by number, so that LLVM
allocates none: it can neither spill a tile nor configure the registers again.

```mlir
%sum = tile.mma %acc, %a, %b using "tile.bf16x16x16x32" : ...
// becomes
llvm.call_intrinsic "llvm.x86.tdpbf16ps"(%r0, %r4, %r6) : (i8, i8, i8) -> ()
```

A configuration is 64 bytes of constant data: the palette, 1; from byte 16 on the bytes of a row of
each register, in 16 bits; from byte 48 on its rows, in 8 bits (Intel Architecture Instruction Set
Extensions Programming Reference, "LDTILECFG").

Imports: our dialects and targets.
"""

from collections.abc import Sequence

from xdsl.dialects import arith, llvm, memref
from xdsl.dialects.builtin import (
    DenseIntOrFPElementsAttr,
    IntegerAttr,
    MemRefType,
    StringAttr,
    TensorType,
    UnitAttr,
    i8,
    i64,
)
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter
from xdsl.traits import SymbolTable

from nkdsl.diagnostics import refuse
from nkdsl.dialects import tile
from nkdsl.dialects.nanokernel import MicrokernelOp
from nkdsl.dialects.tile import CONFIGURATION_ATTRIBUTE, TileType
from nkdsl.transforms.tiles_to_upstream import Access, TileLowering
from nkdsl.types import element_type_of

CONFIGURATION_BYTES = 64
"""Bytes that LDTILECFG reads."""

_PALETTE = 1
_ROW_BYTES_AT = 16
_ROWS_AT = 48


def configuration_bytes(shapes: Sequence[TileType]) -> bytes:
    """What LDTILECFG reads for registers of some shapes."""
    data = bytearray(CONFIGURATION_BYTES)
    data[0] = _PALETTE
    for number, shape in enumerate(shapes):
        rows, columns = shape.shape
        size = columns * element_type_of(shape.element_type).size
        place = _ROW_BYTES_AT + 2 * number
        data[place : place + 2] = size.to_bytes(2, "little")
        data[_ROWS_AT + number] = rows
    return bytes(data)


class AmxLowering(TileLowering):
    """Rewrites the operations on tiles of one function."""

    def rewrite(self, op: Operation) -> bool:
        """Rewrite one op; returns whether it is replaced."""
        match op:
            case tile.ConfigureOp():
                self._configure(op)
            case tile.ReleaseOp():
                self.call("llvm.x86.tilerelease")
            case tile.ZeroOp():
                self.call("llvm.x86.tilezero", self._register(op.result))
            case tile.LoadOp():
                self._access("llvm.x86.tileloadd64", op, op.result)
            case tile.StoreOp():
                self._access("llvm.x86.tilestored64", op, op.tile)
            case tile.MmaOp():
                name = self.target.instruction(op.instruction.data).upstream
                self.call(name, *(self._register(value) for value in op.operands))
            case MicrokernelOp():
                self._verify_call(op)
                return False
            case _:
                return super().rewrite(op)
        return True

    def _verify_call(self, call: MicrokernelOp) -> None:
        """Refuse a call of a function that expects the registers to be configured otherwise."""
        found = SymbolTable.lookup_symbol(self.module, call.callee)
        expected = found and found.attributes.get(CONFIGURATION_ATTRIBUTE)
        current: Attribute | None = self.function.attributes.get(CONFIGURATION_ATTRIBUTE)
        for op in self.function.walk():
            match op:
                case tile.ConfigureOp(shapes=shapes):
                    current = shapes
                case tile.ReleaseOp():
                    current = None
                case _ if op is call:
                    break
                case _:
                    pass
        if expected is not None and expected != current:
            refuse(call, f"{call.callee} expects registers configured as {expected}")

    def _configure(self, op: tile.ConfigureOp) -> None:
        data = configuration_bytes(tuple(op.shapes))
        type_ = MemRefType(i8, [CONFIGURATION_BYTES])
        memory = self.loops.insert(memref.GetGlobalOp(self._constant(data, type_), type_)).memref
        index = self.loops.insert(memref.ExtractAlignedPointerAsIndexOp.get(memory))
        integer = self.loops.insert(arith.IndexCastOp(index.aligned_pointer, i64)).result
        self.call("llvm.x86.ldtilecfg", self.loops.insert(llvm.IntToPtrOp(integer)).output)

    def _constant(self, data: bytes, type_: MemRefType) -> str:
        """The name of constant data in the module."""
        used = [number for number in range(8) if data[_ROWS_AT + number]]
        shapes = "_".join(f"{data[_ROWS_AT + n]}x{data[_ROW_BYTES_AT + 2 * n]}" for n in used)
        name = f"tile_configuration_{shapes}"
        if SymbolTable.lookup_symbol(self.module, name) is None:
            signed = [byte - 256 if byte > 127 else byte for byte in data]
            constant = memref.GlobalOp.get(
                StringAttr(name),
                type_,
                DenseIntOrFPElementsAttr.from_list(TensorType(i8, [CONFIGURATION_BYTES]), signed),
                StringAttr("private"),
                UnitAttr(),
                IntegerAttr(CONFIGURATION_BYTES, i64),
            )
            Rewriter.insert_op(constant, InsertPoint.at_start(self.module.body.block))
        return name

    def _access(self, name: str, op: Access, value: SSAValue) -> None:
        """A load or a store: the register, the first row's address, the rows' distance in bytes."""
        self.call(name, self._register(value), self.pointer(op), self.row_distance(op))

    def _register(self, value: SSAValue) -> SSAValue:
        return self.number(i8, self.registers[value])
