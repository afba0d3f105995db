"""`place-buffers`: give what a function keeps between its products a place in its workspace.

A program of several products leaves what one computes for the next in local buffers. Nothing is
allocated in a kernel: each buffer becomes a part of the call's workspace, behind what the products
use for packing. Buffers that are never in use at the same time share their place.

```mlir
%hidden = memref.alloc() : memref<256x1024xbf16>
... // products that use it
memref.dealloc %hidden : memref<256x1024xbf16>
// becomes
%hidden = nanokernel.workspace at 131072 : memref<256x1024xbf16>
```

A buffer is in use from the first to the last operation of the function's body that mentions it, or
a view of it. No options. Imports: our dialects.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from xdsl.context import Context
from xdsl.dialects import func, memref
from xdsl.dialects.builtin import DYNAMIC_INDEX, MemRefType, ModuleOp, NoneAttr
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from nkdsl.diagnostics import refuse
from nkdsl.dialects.nanokernel import WORKSPACE_ALIGNMENT, WorkspaceOp
from nkdsl.types import element_type_of


@dataclass(frozen=True)
class Buffer:
    """A local buffer, and when it is in use."""

    op: memref.AllocOp
    type: MemRefType
    size: int
    """Bytes, a multiple of the alignment."""
    first: int
    """The operation of the body that mentions it first, by number."""
    last: int

    def meets(self, other: "Buffer") -> bool:
        """Whether both are ever in use at the same time."""
        return self.first <= other.last and other.first <= self.last


def _aligned(size: int) -> int:
    return -(-size // WORKSPACE_ALIGNMENT) * WORKSPACE_ALIGNMENT


def _size(type_: MemRefType) -> int:
    """Bytes of a contiguous memref."""
    return prod(type_.get_shape()) * element_type_of(type_.element_type).size


def _users(value: SSAValue) -> Iterator[Operation]:
    """The operations that use a memref or a view of it."""
    for use in value.uses:
        yield use.operation
        for result in use.operation.results:
            if isinstance(result.type, MemRefType):
                yield from _users(result)


def _buffers(body: Block) -> Iterator[Buffer]:
    """The local buffers of a function, in order; refuses those of sizes that aren't known now."""
    numbers = {op: number for number, op in enumerate(body.ops)}
    for op in body.walk():
        if not isinstance(op, memref.AllocOp):
            continue
        type_ = op.memref.type
        assert isinstance(type_, MemRefType)
        if DYNAMIC_INDEX in type_.get_shape():
            refuse(
                op,
                "a local buffer's size must be known when the program is compiled; pass the buffer "
                "as an argument",
            )
        if not isinstance(type_.layout, NoneAttr) or op.parent is not body:
            refuse(op, "a local buffer is contiguous, and made in the body of its function")
        used = [numbers[place] for user in _users(op.memref) if (place := _inside(body, user))]
        places = [numbers[op], *used]
        yield Buffer(op, type_, _aligned(_size(type_)), min(places), max(places))


def _inside(body: Block, op: Operation) -> Operation | None:
    """The operation of a body that an operation is, or is nested in; deallocations don't count."""
    return None if isinstance(op, memref.DeallocOp) else body.find_ancestor_op_in_block(op)


def _places(buffers: Sequence[Buffer], start: int) -> dict[Buffer, int]:
    """Where each buffer lies, from `start` on: the lowest place that is free while it is in use."""
    found: dict[Buffer, int] = {}
    for buffer in sorted(buffers, key=lambda b: -b.size):
        taken = sorted(
            (found[other], found[other] + other.size) for other in found if other.meets(buffer)
        )
        place = start
        for begin, end in taken:
            if place + buffer.size <= begin:
                break
            place = max(place, end)
        found[buffer] = place
    return found


def _place_all(function: func.FuncOp) -> None:
    body = function.body.block
    buffers = list(_buffers(body))
    if not buffers:
        return
    parts = [op for op in function.walk() if isinstance(op, WorkspaceOp)]
    ends = (_part_end(op) for op in parts)
    places = _places(buffers, _aligned(max(ends, default=0)))
    for buffer, place in places.items():
        for use in list(buffer.op.memref.uses):
            if isinstance(use.operation, memref.DeallocOp):
                Rewriter.erase_op(use.operation)
        Rewriter.replace_op(buffer.op, WorkspaceOp(buffer.type, place))


def _part_end(op: WorkspaceOp) -> int:
    """Where a part of the workspace ends, in bytes."""
    assert isinstance(op.result.type, MemRefType)
    return op.offset.value.data + _size(op.result.type)


@dataclass(frozen=True)
class PlaceBuffersPass(ModulePass):
    """Let local buffers be parts of the workspace."""

    name = "place-buffers"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module in place."""
        for function in [o for o in op.walk() if isinstance(o, func.FuncOp)]:
            if not function.is_declaration:
                _place_all(function)
