"""Tiles on the way to the upstream dialects: what all processors with tiles have in common.

A tile register is named by its number, and no value any more: what carried tiles carries others.
`AmxLowering` and `SmeLowering` add the intrinsics. Parts of the pass `lower-to-upstream`. Imports:
our dialects and targets.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

from xdsl.dialects import arith, func, scf
from xdsl.dialects.builtin import (
    IntegerAttr,
    IntegerType,
    ModuleOp,
    i64,
)
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.utils.exceptions import VerifyException

from nkdsl.diagnostics import refuse
from nkdsl.dialects import tile
from nkdsl.dialects.tile import is_in_file, verify_registers
from nkdsl.targets.model import Target
from nkdsl.transforms.intrinsics import intrinsic
from nkdsl.transforms.loops import LoopBuilder
from nkdsl.transforms.tiles import configured_shapes
from nkdsl.types import element_type_of

Access = tile.LoadOp | tile.StoreOp
"""What moves a tile from or to memory."""

Pointer = Callable[[Access], SSAValue]
"""The address of an access's first element."""

Stride = Callable[[Access], int | SSAValue]
"""Elements from one row of an access to the next."""

Window = Callable[[Access], tuple[SSAValue, SSAValue]]
"""A view of rank 1 that holds an access, and the index of its first element there."""


def has_tiles(function: func.FuncOp) -> bool:
    """Whether a function uses tile registers, or configures them."""
    return any(op.dialect_name() == tile.Tile.name for op in function.walk())


class TileLowering:
    """Rewrites the operations on tiles of one function."""

    passthrough: ClassVar[tuple[Attribute, ...]] = ()
    """LLVM's attributes of a function that uses tiles."""

    def __init__(
        self,
        function: func.FuncOp,
        target: Target,
        loops: LoopBuilder,
        pointer: Pointer,
        stride: Stride,
        window: Window,
    ):
        """Insert through `loops`; addresses are those of the pass around."""
        module = function.parent_op()
        assert isinstance(module, ModuleOp)
        self.function = function
        self.module = module
        self.target = target
        self.loops = loops
        self.pointer = pointer
        self.stride = stride
        self.window = window
        self.numbers: dict[tuple[Attribute, int], SSAValue] = {}
        self.shapes = configured_shapes(function)
        try:
            self.registers = verify_registers(function.body.blocks[0], self.shapes)
        except VerifyException as error:
            refuse(function, str(error))

    def rewrite(self, op: Operation) -> bool:
        """Rewrite one op; returns whether it is replaced."""
        if isinstance(op, scf.YieldOp) and _has_tiles(op.operands):
            self.loops.insert(scf.YieldOp(*_others(op.operands)))
            return True
        return False

    def carries_tiles(self, op: Operation) -> bool:
        """Whether an op with a body carries tiles."""
        return isinstance(op, scf.ForOp | scf.IfOp) and _has_tiles(op.results)

    def without_tiles(self, op: Operation) -> Operation:
        """An op with the body of another one, which no longer carries tiles; its body is as it was.

        Uses of what else it carried are those of the new one.
        """
        results = _others(op.results)
        if isinstance(op, scf.ForOp):
            block = op.detach_region(op.body).block
            initial = _others(op.iter_args)
            new: Operation = self.loops.insert(
                scf.ForOp(op.lb, op.ub, op.step, initial, _loop_body(block))
            )
        else:
            assert isinstance(op, scf.IfOp)
            types = [value.type for value in results]
            then, otherwise = (op.detach_region(region) for region in tuple(op.regions))
            new = self.loops.insert(scf.IfOp(op.cond, types, then, otherwise))
        for old, result in zip(results, new.results, strict=True):
            old.replace_all_uses_with(result)
        return new

    def number(self, type_: IntegerType, number: int) -> SSAValue:
        """A constant, made once."""
        if (type_, number) not in self.numbers:
            op = arith.ConstantOp(IntegerAttr(number, type_))
            self.numbers[type_, number] = self.loops.insert_at_entry(op).result
        return self.numbers[type_, number]

    def call(self, name: str, *arguments: SSAValue) -> None:
        """An intrinsic without a result."""
        self.loops.insert(intrinsic(name, arguments))

    def row_distance(self, op: Access) -> SSAValue:
        """Bytes from one row of an access to the next, as i64."""
        size = element_type_of(op.memref_type.element_type).size
        stride = self.stride(op)
        if isinstance(stride, int):
            return self.number(i64, stride * size)
        index = self.loops.mul(stride, self.loops.constant(size))
        return self.loops.insert(arith.IndexCastOp(index, i64)).result


def _has_tiles(values: Sequence[SSAValue]) -> bool:
    return any(is_in_file(value.type) for value in values)


def _others(values: Sequence[SSAValue]) -> list[SSAValue]:
    """Those that aren't tiles."""
    return [value for value in values if not is_in_file(value.type)]


def _loop_body(block: Block) -> Block:
    """A loop's body whose block carries no tiles; tiles inside refer to the old one's arguments."""
    kept = _others(block.args)
    new = Block(arg_types=[value.type for value in kept])
    for old, argument in zip(kept, new.args, strict=True):
        old.replace_all_uses_with(argument)
    for op in list(block.ops):
        op.detach()
        new.add_op(op)
    return new
