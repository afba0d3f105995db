"""Elementwise linalg operations on memrefs: what they are, and what of them an epilogue can hold.

An operation is elementwise where all its iterators are parallel and it writes each element of its
only output once: a fill, a broadcast, a copy, an activation, a conversion of types. Imports: our
dialects, xDSL.
"""

from dataclasses import dataclass

from xdsl.dialects import arith, math, memref
from xdsl.dialects.builtin import AffineMapAttr, IndexType, MemRefType, TensorType
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.linalg.abstract_ops import LinalgStructuredOperation
from xdsl.dialects.linalg.attrs import IteratorTypeAttr
from xdsl.ir import Block, BlockArgument, Operation, Region, SSAValue
from xdsl.ir.affine import AffineMap

from nkdsl.transforms.effects import covers

FUSIBLE = (
    *(arith.AddfOp, arith.SubfOp, arith.MulfOp, arith.DivfOp, arith.NegfOp),
    *(arith.MaximumfOp, arith.MinimumfOp, arith.MaxnumfOp, arith.MinnumfOp),
    *(arith.AddiOp, arith.SubiOp, arith.MuliOp),
    *(arith.MaxSIOp, arith.MinSIOp, arith.MaxUIOp, arith.MinUIOp),
    *(arith.AndIOp, arith.OrIOp, arith.XOrIOp, arith.ShLIOp, arith.ShRSIOp, arith.ShRUIOp),
    *(arith.CmpfOp, arith.CmpiOp, arith.SelectOp, arith.ConstantOp),
    *(arith.ExtFOp, arith.TruncFOp, arith.ExtSIOp, arith.ExtUIOp, arith.TruncIOp),
    *(arith.SIToFPOp, arith.UIToFPOp, arith.FPToSIOp, arith.FPToUIOp, arith.BitcastOp),
    *(math.AbsFOp, math.CopySignOp, math.FmaOp, math.SqrtOp, math.RsqrtOp),
    *(math.ExpOp, math.Exp2Op, math.TanhOp, math.ErfOp),
)
"""What an epilogue may hold: operations that work on vectors as they do on numbers.

Those of `math` that are no instruction are expanded later (`expand-math`).
"""


@dataclass(frozen=True)
class Elementwise:
    """A linalg operation recognized as elementwise."""

    op: LinalgStructuredOperation
    inputs: tuple[SSAValue, ...]
    out: SSAValue
    maps: tuple[AffineMap, ...]
    """The maps of the inputs and the output."""

    @property
    def out_map(self) -> AffineMap:
        """The map of the output."""
        return self.maps[-1]

    @property
    def body(self) -> Block:
        """What it computes of one element of each operand."""
        return self.op.body.block

    @property
    def arguments(self) -> tuple[BlockArgument, ...]:
        """The body's arguments for the inputs."""
        return self.body.args[:-1]

    @property
    def result(self) -> SSAValue:
        """What the body computes."""
        assert self.body.last_op is not None
        return self.body.last_op.operands[0]

    @property
    def reads_out(self) -> bool:
        """Whether it reads what its output held before."""
        return bool(self.body.args[-1].uses)

    @property
    def is_fusible(self) -> bool:
        """Whether an epilogue can hold its body."""
        *ops, _ = self.body.ops
        return all(
            isinstance(op, FUSIBLE) and not any(isinstance(r.type, IndexType) for r in op.results)
            for op in ops
        )


def recognize_elementwise(op: Operation) -> Elementwise | None:
    """An operation as an elementwise one, or None."""
    if not isinstance(op, LinalgStructuredOperation) or len(op.outputs) != 1:
        return None
    if op.results or any(isinstance(value.type, TensorType) for value in op.operands):
        return None
    if any(iterator.data.value != "parallel" for iterator in op.get_iterator_types()):
        return None
    maps = tuple(attribute.data for attribute in op.get_indexing_maps())
    if not covers(maps[-1]) or len(maps[-1].results) != maps[-1].num_dims:
        return None
    return Elementwise(op, tuple(op.inputs), op.outputs[0], maps)


def generic_copy(op: memref.CopyOp) -> linalg.GenericOp:
    """The linalg.generic that means the same as a memref.copy."""
    assert isinstance(op.source.type, MemRefType)
    element, rank = op.source.type.element_type, op.source.type.get_num_dims()
    body = Block(arg_types=[element, element])
    body.add_op(linalg.YieldOp(body.args[0]))
    identity = AffineMapAttr(AffineMap.identity(rank))
    parallel = [IteratorTypeAttr.parallel()] * rank
    copy = linalg.GenericOp(
        [op.source], [op.destination], Region(body), [identity, identity], parallel
    )
    copy.location = op.location
    return copy
