"""`linalg-to-nanokernel`: raise every matrix product on memrefs to one `nanokernel.gemm`.

A product is a `linalg.matmul` or any `linalg.generic` whose body multiplies its two inputs and
adds the product to its output, whatever its maps: transposes, batches, batch-reduction and blocked
layouts are maps of the gemm. A `linalg.fill` with zero of the result before, or the
`linalg.generic` that mlir-opt makes of one, makes the gemm start from zero and disappears; between
the two there may be constants, and fills and products of other arguments of the function, which
are distinct memory: the runtime refuses results that overlap anything. The gemm keeps the
product's place in the source.

```mlir
linalg.fill ins(%zero : f32) outs(%c : memref<64x96xf32>)
linalg.matmul ins(%a, %b : memref<64x256xf32>, memref<256x96xf32>) outs(%c : memref<64x96xf32>)
// becomes
nanokernel.gemm ins(%a[m, k], %b[k, n] : ...) outs(%c[m, n] : ...) from zero
```

Whatever linalg op is left afterwards is refused with the reason. Imports: our dialects,
`nkdsl.types`, xDSL.
"""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import arith, func
from xdsl.dialects.builtin import FloatAttr, IntegerAttr, MemRefType, ModuleOp, TensorType
from xdsl.dialects.linalg import ops as linalg
from xdsl.ir import Block, Operation, SSAValue
from xdsl.ir.affine import AffineMap
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter, PatternRewriteWalker, RewritePattern
from xdsl.utils.exceptions import VerifyException

from nkdsl.diagnostics import refuse
from nkdsl.dialects.nanokernel import GemmOp, dims_of, iterator_kinds
from nkdsl.errors import Unsupported
from nkdsl.types import element_type_of


@dataclass(frozen=True)
class Contraction:
    """A linalg op recognized as a product."""

    lhs: SSAValue
    rhs: SSAValue
    out: SSAValue
    maps: tuple[AffineMap, ...]


@dataclass(frozen=True)
class Refusal:
    """Why an op is not a product that can be raised."""

    reason: str


@dataclass(frozen=True)
class Fill:
    """A linalg op recognized as one that writes one value to all of a memref."""

    op: Operation
    value: SSAValue
    out: SSAValue


def recognize(op: Operation) -> Contraction | Refusal:
    """A linalg op as a contraction, or the reason why it is none."""
    if op.results or any(isinstance(value.type, TensorType) for value in op.operands):
        return Refusal("it works on tensors; bufferize first (mlir-opt --one-shot-bufferize)")
    scalars = [value.type for value in op.operands if not isinstance(value.type, MemRefType)]
    if scalars:
        return Refusal(f"its operands must be memrefs, not {scalars[0]}")
    match op:
        case linalg.MatmulOp():
            (lhs, rhs), (out,) = op.inputs, op.outputs
            maps = tuple(m.data for m in op.get_indexing_maps())
            return Contraction(lhs, rhs, out, maps)
        case linalg.GenericOp():
            return _recognize_generic(op)
        case _:
            return Refusal("write it as linalg.generic (mlir-opt --linalg-generalize-named-ops)")


def _recognize_generic(op: linalg.GenericOp) -> Contraction | Refusal:
    if len(op.inputs) != 2 or len(op.outputs) != 1:
        return Refusal("a product has two inputs and one output")
    if (reason := _unknown_type(op)) is not None:
        return Refusal(reason)
    if not _multiplies_and_adds(op.body.block):
        return Refusal("its body is not out + lhs * rhs")
    (lhs, rhs), (out,) = op.inputs, op.outputs
    maps = tuple(m.data for m in op.get_indexing_maps())
    kinds = iterator_kinds(*maps)
    if "?" in kinds:
        return Refusal(
            f"iterator d{kinds.index('?')} is none of batch (in all three operands), row (first "
            "input and output), column (second input and output), reduction (both inputs)"
        )
    declared = [i.data.value for i in op.get_iterator_types()]
    if [kind == "k" for kind in kinds] != [name == "reduction" for name in declared]:
        return Refusal("its iterator types contradict its maps")
    return Contraction(lhs, rhs, out, maps)


def _unknown_type(op: linalg.GenericOp) -> str | None:
    """Why nkdsl can't compute with the elements of an op; None where it can."""
    try:
        for operand in op.operands:
            assert isinstance(operand.type, MemRefType)
            element_type_of(operand.type.element_type)
    except Unsupported as error:
        return str(error)
    return None


def _multiplies_and_adds(body: Block) -> bool:
    """Whether a body is `yield (out + lhs * rhs)`, in any order of the operands."""
    match list(body.ops):
        case [arith.MulfOp() as mul, arith.AddfOp() as add, linalg.YieldOp() as end]:
            lhs, rhs, out = body.args
            return (
                {mul.lhs, mul.rhs} == {lhs, rhs}
                and {add.lhs, add.rhs} == {mul.result, out}
                and end.operands[0] == add.result
            )
        case _:
            return False


def recognize_fill(op: Operation) -> Fill | None:
    """A `linalg.fill` of a memref, or the `linalg.generic` that means the same."""
    match op:
        case linalg.FillOp() if not op.results:
            return Fill(op, op.inputs[0], op.outputs[0])
        case linalg.GenericOp() if not op.results and len(op.inputs) == len(op.outputs) == 1:
            return Fill(op, op.inputs[0], op.outputs[0]) if _writes_its_input(op) else None
        case _:
            return None


def _writes_its_input(op: linalg.GenericOp) -> bool:
    """Whether a generic writes its only input, a scalar, to every element of its only output."""
    (scalar, out), body = op.operands, op.body.block
    if isinstance(scalar.type, MemRefType) or not isinstance(out.type, MemRefType):
        return False
    end = body.first_op
    if not isinstance(end, linalg.YieldOp) or end.operands[0] != body.args[0]:
        return False
    written = op.get_indexing_maps().data[1].data
    return written.num_dims == len(written.results) == len(dims_of(written))


def _is_zero(value: SSAValue) -> bool:
    match value.owner:
        case arith.ConstantOp(value=FloatAttr() as attr):
            # Minus zero is a different start: -0 + -0 is -0.
            return attr.value.data == 0.0 and str(attr.value.data) == "0.0"
        case arith.ConstantOp(value=IntegerAttr() as attr):
            return attr.value.data == 0
        case _:
            return False


def _is_argument(value: SSAValue) -> bool:
    """Whether a value is an argument of a function."""
    return isinstance(value.owner, Block) and isinstance(value.owner.parent_op(), func.FuncOp)


def _spares(op: Operation, out: SSAValue) -> bool:
    """Whether an op, which is no fill of `out`, certainly neither reads nor writes `out`.

    Arguments of the function are distinct memory. A view may be of any other memref.
    """
    if isinstance(op, arith.ConstantOp):
        return True
    if not isinstance(op, GemmOp) and recognize_fill(op) is None:
        return False
    memrefs = [value for value in op.operands if isinstance(value.type, MemRefType)]
    return _is_argument(out) and all(_is_argument(m) and m is not out for m in memrefs)


def _zero_fill_before(op: Operation, product: Contraction) -> Operation | None:
    """The fill with zero of the result before a product, with nothing between using the result.

    Products before this one have been raised already.
    """
    previous = op.prev_op
    while previous is not None:
        fill = recognize_fill(previous)
        if fill is not None and fill.out is product.out:
            return fill.op if _is_zero(fill.value) else None
        if not _spares(previous, product.out):
            return None
        previous = previous.prev_op
    return None


class RaiseContraction(RewritePattern):
    """A recognized product becomes a gemm; anything else of linalg is refused."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        """Rewrite one op."""
        if op.dialect_name() != "linalg" or isinstance(op, linalg.YieldOp | linalg.IndexOp):
            return
        # Products come after the fills that they make superfluous.
        if recognize_fill(op) is not None:
            return
        match recognize(op):
            case Refusal(reason):
                refuse(op, f"{op.name} can't be raised to nanokernel.gemm: {reason}")
            case Contraction(lhs, rhs, out, maps) as product:
                fill = _zero_fill_before(op, product)
                gemm = GemmOp(lhs, rhs, out, maps, from_zero=fill is not None)
                gemm.location = op.location
                _verify(gemm, op)
                if fill is not None:
                    rewriter.erase(fill)
                rewriter.replace(op, gemm)


def _verify(gemm: GemmOp, source: Operation) -> None:
    try:
        gemm.verify_()
    except VerifyException as error:
        refuse(source, f"{source.name} can't be raised to nanokernel.gemm: {error}")


def _refuse_leftover_fill(op: Operation) -> None:
    if recognize_fill(op) is not None:
        refuse(
            op,
            "linalg.fill is left over: a fill is folded only when it writes zero to the result of "
            "a product after it, and nothing between may use that result",
        )


@dataclass(frozen=True)
class LinalgToNanokernelPass(ModulePass):
    """Raise matrix products to nanokernel.gemm."""

    name = "linalg-to-nanokernel"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module in place."""
        PatternRewriteWalker(RaiseContraction(), apply_recursively=False).rewrite_module(op)
        for left in op.walk():
            _refuse_leftover_fill(left)
