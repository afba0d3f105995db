"""Which memory an operation reads and writes, as far as passes on whole products need to know.

Memory is told apart by its *root*: the value that all views of it lead back to. Different arguments
of a function are distinct memory wherever one of them is written, which the runtime sees to;
allocations are memory of their own; so are globals of different names. Anything else may overlap
anything. Imports: our dialects, xDSL.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from xdsl.dialects import func, memref
from xdsl.dialects.builtin import MemRefType
from xdsl.dialects.linalg.abstract_ops import LinalgStructuredOperation
from xdsl.ir import Block, Operation, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineMap
from xdsl.traits import MemoryAllocEffect, is_side_effect_free

from nkdsl.dialects.nanokernel import GemmOp

Allocation = memref.AllocOp | memref.AllocaOp


@dataclass(frozen=True)
class Effects:
    """The memrefs that an operation reads and writes; nothing else is touched."""

    reads: tuple[SSAValue, ...] = ()
    writes: tuple[SSAValue, ...] = ()

    @property
    def touched(self) -> tuple[SSAValue, ...]:
        """What is read or written."""
        return *self.reads, *self.writes


def effects_of(op: Operation) -> Effects | None:
    """What an operation does to memory; None where it may be anything."""
    match op:
        case GemmOp():
            return _effects_of_gemm(op)
        case LinalgStructuredOperation():
            return _effects_of_linalg(op)
        case memref.CopyOp():
            return Effects((op.source,), (op.destination,))
        case memref.LoadOp():
            return Effects(reads=(op.memref,))
        case memref.StoreOp():
            return Effects(writes=(op.memref,))
        case memref.DeallocOp():
            return Effects(writes=(op.memref,))
        case func.ReturnOp():
            return Effects(reads=_memrefs(op.operands))
        case _ if op.regions:
            return None
        case _ if is_side_effect_free(op) or op.has_trait(MemoryAllocEffect()):
            return Effects()
        case _:
            return None


def _effects_of_gemm(op: GemmOp) -> Effects | None:
    if op.kept is not None or op.panel is not None:
        return None
    start = () if op.start is None else (op.start,)
    reads = (op.lhs, op.rhs, *op.extras, *start)
    return Effects(reads if op.from_zero is not None else (*reads, op.out), (op.out,))


def _effects_of_linalg(op: LinalgStructuredOperation) -> Effects:
    arguments = op.body.block.args[len(op.inputs) :]
    read = [out for out, argument in zip(op.outputs, arguments, strict=True) if argument.uses]
    return Effects(_memrefs((*op.inputs, *read)), _memrefs(op.outputs))


def _memrefs(values: Iterable[SSAValue]) -> tuple[SSAValue, ...]:
    return tuple(value for value in values if isinstance(value.type, MemRefType))


def root_of(value: SSAValue) -> SSAValue:
    """The memref that a view, or a view of a view, shows a part of; other values are their own."""
    while True:
        match value.owner:
            case memref.SubviewOp() | memref.ReinterpretCastOp() | memref.CastOp() as view:
                value = view.source
            case memref.ViewOp() as view:
                value = view.source
            case memref.ExpandShapeOp() | memref.CollapseShapeOp() as view:
                value = view.src
            case _:
                return value


def is_argument(value: SSAValue) -> bool:
    """Whether a value is an argument of a function."""
    return isinstance(value.owner, Block) and isinstance(value.owner.parent_op(), func.FuncOp)


def may_overlap(one: SSAValue, other: SSAValue) -> bool:
    """Whether two memrefs, of which one is written, may have an element in common."""
    first, second = root_of(one), root_of(other)
    if first is second:
        return True
    match first.owner, second.owner:
        case memref.GetGlobalOp() as this, memref.GetGlobalOp() as that:
            return this.name_ == that.name_
        case _:
            return not (_is_own_memory(first) and _is_own_memory(second))


def _is_own_memory(root: SSAValue) -> bool:
    return is_argument(root) or isinstance(root.owner, Allocation | memref.GetGlobalOp)


def touches(op: Operation, value: SSAValue) -> bool:
    """Whether an operation may read or write some of a memref."""
    effects = effects_of(op)
    return effects is None or any(may_overlap(other, value) for other in effects.touched)


def writes(op: Operation, value: SSAValue) -> bool:
    """Whether an operation may write some of a memref."""
    effects = effects_of(op)
    return effects is None or any(may_overlap(other, value) for other in effects.writes)


def operations_after(op: Operation, end: Operation | None = None) -> Iterator[Operation]:
    """The operations of a block after `op`, and before `end` if there is one."""
    later = op.next_op
    while later is not None and later is not end:
        yield later
        later = later.next_op


def covers(map_: AffineMap) -> bool:
    """Whether a map reaches each element once: each index is an iterator of its own."""
    positions = [r.position for r in map_.results if isinstance(r, AffineDimExpr)]
    return len(map_.results) == len(positions) == len(set(positions))


def overwrites(op: Operation, value: SSAValue) -> bool:
    """Whether an operation writes every element of a memref and reads none."""
    effects = effects_of(op)
    if effects is None or any(may_overlap(other, value) for other in effects.reads):
        return False
    match op:
        case GemmOp():
            return op.out is value and covers(op.indexing_maps[2])
        case LinalgStructuredOperation():
            maps = [attribute.data for attribute in op.get_indexing_maps()][len(op.inputs) :]
            pairs = zip(op.outputs, maps, strict=True)
            return any(out is value and covers(map_) for out, map_ in pairs)
        case memref.CopyOp():
            return op.destination is value
        case _:
            return False


def is_dead_after(value: SSAValue, op: Operation) -> bool:
    """Whether nothing after `op` sees what a memref holds then.

    That is so where it is overwritten or freed before it is read, and where a function ends that
    allocated it itself.
    """
    for later in operations_after(op):
        if isinstance(later, memref.DeallocOp) and later.memref is value:
            return True
        if touches(later, value):
            return overwrites(later, value)
    block, allocation = op.parent, value.owner
    return (
        isinstance(allocation, Allocation)
        and block is not None
        and allocation.parent is block
        and isinstance(op.parent_op(), func.FuncOp)
        and block.parent is not None
        and len(block.parent.blocks) == 1
    )
