"""`fold-transposes`: a product reads a matrix itself instead of a transposed copy of it.

Frameworks keep the weights of a linear layer as N×K and transpose them before each product. A gemm
takes factors of any layout: where a factor is local memory that holds a copy of another matrix, its
dimensions in some order, the gemm reads that matrix through a map of its own, and the copy goes.

```mlir
linalg.generic {...} ins(%w : memref<96x256xf32>) outs(%copy : memref<256x96xf32>) {
^bb0(%x: f32, %old: f32):
  linalg.yield %x : f32
}
nanokernel.gemm ins(%a[m, k], %copy[k, n] : ...) outs(%c[m, n] : ...)
// becomes
nanokernel.gemm ins(%a[m, k], %w[n, k] : ...) outs(%c[m, n] : ...)
```

Imports: our dialects and transforms, xDSL.
"""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import memref
from xdsl.dialects.builtin import AffineMapAttr, ArrayAttr, MemRefType, ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineExpr, AffineMap
from xdsl.passes import ModulePass

from nkdsl.dialects.nanokernel import GemmOp, canonical_maps
from nkdsl.transforms.effects import Allocation, covers, may_overlap, writes
from nkdsl.transforms.elementwise import Elementwise, recognize_elementwise


def _copy_of(factor: SSAValue, gemm: GemmOp) -> Elementwise | None:
    """The operation that made a factor a copy of another matrix, which still holds the same."""
    if not isinstance(factor.owner, Allocation):
        return None
    between: list[Operation] = []
    previous = gemm.prev_op
    while previous is not None and not writes(previous, factor):
        between.append(previous)
        previous = previous.prev_op
    copy = None if previous is None else recognize_elementwise(previous)
    if copy is None or copy.out is not factor or not _is_permuted_copy(copy):
        return None
    source = copy.inputs[0]
    changed = may_overlap(source, gemm.out) or any(writes(op, source) for op in between)
    return None if changed else copy


def _is_permuted_copy(op: Elementwise) -> bool:
    """Whether an operation copies its only input, the dimensions in some order."""
    return (
        len(op.inputs) == 1
        and isinstance(op.inputs[0].type, MemRefType)
        and op.result is op.body.args[0]
        and covers(op.maps[0])
        and len(op.maps[0].results) == op.maps[0].num_dims
    )


def _through(copy: Elementwise, map_: AffineMap) -> AffineMap:
    """The map of a copy's source, where `map_` is that of the copy."""
    dims = [AffineExpr.dimension(0)] * len(map_.results)
    for index, expression in zip(copy.out_map.results, map_.results, strict=True):
        assert isinstance(index, AffineDimExpr)
        dims[index.position] = expression
    return copy.maps[0].replace_dims_and_symbols(dims, (), map_.num_dims, 0)


def fold(gemm: GemmOp) -> None:
    """Let a gemm read what its factors are copies of."""
    if gemm.plan is not None:
        return
    maps = list(gemm.indexing_maps)
    if gemm.start_map is not None:
        maps.append(gemm.start_map.data)
    for position, factor in enumerate((gemm.lhs, gemm.rhs)):
        copy = _copy_of(factor, gemm)
        if copy is None:
            continue
        maps[position] = _through(copy, maps[position])
        gemm.operands[position] = copy.inputs[0]
        _erase_unread(factor, copy.op)
    renumbered = [AffineMapAttr(m) for m in canonical_maps(maps)]
    if gemm.start_map is not None:
        gemm.start_map = renumbered.pop()
    gemm.maps = ArrayAttr(renumbered)


def _erase_unread(memory: SSAValue, copy: Operation) -> None:
    """Erase a copy, and the memory that it was written to, where nothing else uses that."""
    frees = [use.operation for use in memory.uses if use.operation is not copy]
    if any(not isinstance(op, memref.DeallocOp) for op in frees):
        return
    allocation = memory.owner
    assert isinstance(allocation, Operation)
    for op in (copy, *frees, allocation):
        op.detach()
        op.erase()


@dataclass(frozen=True)
class FoldTransposesPass(ModulePass):
    """Let products read matrices instead of transposed copies."""

    name = "fold-transposes"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module in place."""
        for gemm in [o for o in op.walk() if isinstance(o, GemmOp)]:
            fold(gemm)
