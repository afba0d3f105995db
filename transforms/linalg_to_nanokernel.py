"""`linalg-to-nanokernel`: raise every matrix product on memrefs to one `nanokernel.gemm`.

A product is a `linalg.matmul` or any `linalg.generic` whose body multiplies its two inputs and
adds the product to its output, whatever its maps: transposes, batches, batch-reduction and blocked
layouts are maps of the gemm. A `linalg.fill` with zero of the result before, or the
`linalg.generic` that mlir-opt makes of one, makes the gemm start from zero and disappears; nothing
between the two may use the result. The gemm keeps the product's place in the source.

```mlir
linalg.fill ins(%zero : f32) outs(%c : memref<64x96xf32>)
linalg.matmul ins(%a, %b : memref<64x256xf32>, memref<256x96xf32>) outs(%c : memref<64x96xf32>)
// becomes
nanokernel.gemm ins(%a[m, k], %b[k, n] : ...) outs(%c[m, n] : ...) from zero
```

Factors of low precision may be extended in the body before they are multiplied: bf16 and f16 to
f32 (`arith.extf`), i8 to i32, each with a sign or without one (`arith.extsi`, `arith.extui`):

```mlir
^bb0(%x: i8, %y: i8, %sum: i32):
  %u = arith.extui %x : i8 to i32
  %v = arith.extsi %y : i8 to i32
  %product = arith.muli %u, %v : i32
  %next = arith.addi %sum, %product : i32
  linalg.yield %next : i32
// becomes
nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xi8>, memref<256x96xi8>) unsigned lhs
    outs(%c[m, n] : memref<64x96xi32>)
```

Sums of bf16 and f16 may also be written as frameworks do, all in the narrow type, with or without
conversions: read literally, such a body rounds each sum before the next product is added. The gemm
adds up in f32 and rounds once, at the end, which is what these programs are meant to say; its error
is never larger than the bound of the literal reading.

Arguments of a function whose integers have no sign are marked with `nanokernel.unsigned`, for the
runtime to know what arrays they take.

Elementwise operations stay as they are, for `fuse-epilogues` and for stock mlir-opt's loops; a
`memref.copy` becomes the `linalg.generic` that it means. Whatever else of linalg is no product is
refused with the reason. Imports: our dialects, `nkdsl.types`, xDSL.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import arith, func, memref
from xdsl.dialects.builtin import (
    AnyFloat,
    ArrayAttr,
    DictionaryAttr,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    MemRefType,
    ModuleOp,
    TensorType,
    UnitAttr,
)
from xdsl.dialects.linalg import ops as linalg
from xdsl.ir import Attribute, Block, BlockArgument, Operation, SSAValue
from xdsl.ir.affine import AffineMap
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import (
    PatternRewriter,
    PatternRewriteWalker,
    RewritePattern,
    op_type_rewrite_pattern,
)
from xdsl.utils.exceptions import VerifyException

from nkdsl.diagnostics import refuse
from nkdsl.dialects.nanokernel import UNSIGNED_ATTRIBUTE, GemmOp, iterator_kinds
from nkdsl.errors import Unsupported
from nkdsl.transforms.effects import is_argument, root_of, touches
from nkdsl.transforms.elementwise import generic_copy, recognize_elementwise
from nkdsl.types import ElementType, element_type_of

STORED_SUMS = {
    "f32": ("f32",),
    "f64": ("f64",),
    "bf16": ("f32", "bf16"),
    "f16": ("f32", "f16"),
    "s8": ("s32",),
}
"""The types of factors, and those that sums of their products may be stored as."""


@dataclass(frozen=True)
class Contraction:
    """A linalg op recognized as a product."""

    lhs: SSAValue
    rhs: SSAValue
    out: SSAValue
    maps: tuple[AffineMap, ...]
    unsigned: str | None
    """The factors whose integers have no sign: `lhs`, `rhs`, `both` or None."""


@dataclass(frozen=True)
class Refusal:
    """Why an op is not a product that can be raised."""

    reason: str


@dataclass(frozen=True)
class MultiplyAdd:
    """A body recognized as `out + lhs * rhs`, each operand converted or not."""

    type: Attribute
    """The type that it multiplies and adds in."""
    unsigned: tuple[bool, bool]
    """Whether lhs and rhs are extended as integers without a sign."""


def recognize(op: Operation) -> Contraction | Refusal:
    """A linalg op as a contraction, or the reason why it is none."""
    if op.results or any(isinstance(value.type, TensorType) for value in op.operands):
        return Refusal("it works on tensors; bufferize first (mlir-opt --one-shot-bufferize)")
    scalars = [value.type for value in op.operands if not isinstance(value.type, MemRefType)]
    if scalars:
        return Refusal(f"its operands must be memrefs, not {scalars[0]}")
    match op:
        case linalg.MatmulOp():
            return _recognize_product(op)
        case linalg.GenericOp():
            return _recognize_generic(op)
        case _:
            return Refusal("write it as linalg.generic (mlir-opt --linalg-generalize-named-ops)")


def _recognize_generic(op: linalg.GenericOp) -> Contraction | Refusal:
    if len(op.inputs) != 2 or len(op.outputs) != 1:
        return Refusal("a product has two inputs and one output")
    product = _recognize_product(op)
    if isinstance(product, Refusal):
        return product
    kinds = iterator_kinds(*product.maps)
    if "?" in kinds:
        return Refusal(
            f"iterator d{kinds.index('?')} is none of batch (in all three operands), row (first "
            "input and output), column (second input and output), reduction (both inputs)"
        )
    declared = [i.data.value for i in op.get_iterator_types()]
    if [kind == "k" for kind in kinds] != [name == "reduction" for name in declared]:
        return Refusal("its iterator types contradict its maps")
    return product


def _recognize_product(op: linalg.MatmulOp | linalg.GenericOp) -> Contraction | Refusal:
    """Two factors and their product, whatever the maps."""
    (lhs, rhs), (out,) = op.inputs, op.outputs
    try:
        left, right, result = map(_element, (lhs, rhs, out))
    except Unsupported as error:
        return Refusal(f"{error}; convert what it works on to one of these")
    body = _multiply_add(op.body.block)
    if body is None:
        return Refusal("its body is not out + lhs * rhs")
    if (reason := _wrong_types(left, right, result, body)) is not None:
        return Refusal(reason)
    maps = tuple(m.data for m in op.get_indexing_maps())
    return Contraction(lhs, rhs, out, maps, _UNSIGNED[body.unsigned])


_UNSIGNED = {
    (False, False): None,
    (True, False): "lhs",
    (False, True): "rhs",
    (True, True): "both",
}


def _element(value: SSAValue) -> ElementType:
    assert isinstance(value.type, MemRefType)
    return element_type_of(value.type.element_type)


def _wrong_types(
    lhs: ElementType, rhs: ElementType, out: ElementType, body: MultiplyAdd
) -> str | None:
    """Why a product of these types can't be raised; None where it can."""
    if lhs is not rhs:
        return (
            f"its factors hold {lhs.mlir} and {rhs.mlir}; convert one of them to the type of the "
            "other before the product"
        )
    stored = STORED_SUMS.get(lhs.name)
    if stored is None:
        return (
            f"there are no products of {lhs.mlir}; factors hold f32, f64, bf16, f16 or i8, and "
            "those of i8 are extended to i32 in the body (arith.extsi, arith.extui)"
        )
    sums = lhs.accumulator
    narrow = isinstance(lhs.mlir, AnyFloat) and body.type == lhs.mlir
    if body.type != sums.mlir and not narrow:
        wrong = f"products of {lhs.mlir} are added up in {sums.mlir}, not in {body.type}"
        if sums is lhs:
            return f"{wrong}; convert the factors before the product, or the sums after it"
        return f"{wrong}; extend the factors to {sums.mlir} in its body"
    if out.name not in stored:
        return (
            f"sums of products of {lhs.mlir} are stored as {sums.mlir}"
            f"{f' or {lhs.mlir}' if len(stored) > 1 else ''}, not as {out.mlir}; store "
            f"{sums.mlir} and convert that in an operation of its own"
        )
    return None


def _multiply_add(body: Block) -> MultiplyAdd | None:
    """A body that is `yield (out + lhs * rhs)`, in any order of the operands, or None."""
    lhs, rhs, out = body.args
    assert body.last_op is not None
    total = body.last_op.operands[0].owner
    if isinstance(total, arith.TruncFOp):
        total = total.input.owner
    if not isinstance(total, arith.AddfOp | arith.AddiOp):
        return None
    for product, old in ((total.lhs, total.rhs), (total.rhs, total.lhs)):
        if _source(old) is not out or isinstance(old.owner, arith.ExtSIOp | arith.ExtUIOp):
            continue
        if not isinstance(product.owner, arith.MulfOp | arith.MuliOp):
            continue
        factors = {_source(f): f for f in (product.owner.lhs, product.owner.rhs)}
        if factors.keys() == {lhs, rhs}:
            signs = (isinstance(factors[side].owner, arith.ExtUIOp) for side in (lhs, rhs))
            return MultiplyAdd(product.type, (next(signs), next(signs)))
    return None


def _source(value: SSAValue) -> SSAValue:
    """What a value is extended from, if it is."""
    match value.owner:
        case arith.ExtFOp() | arith.ExtSIOp() | arith.ExtUIOp() as conversion:
            return conversion.input
        case _:
            return value


# -------------------------------------------------------------------------- what it starts from


def _is_zero_fill(op: Operation, out: SSAValue) -> bool:
    """Whether an operation writes zero to all of a memref."""
    fill = recognize_elementwise(op)
    if fill is None or fill.out is not out or len(fill.inputs) != 1:
        return False
    scalar = fill.inputs[0]
    if isinstance(scalar.type, MemRefType) or fill.result is not fill.body.args[0]:
        return False
    return _is_zero(scalar)


def _is_zero(value: SSAValue) -> bool:
    match value.owner:
        case arith.ConstantOp(value=FloatAttr() as attr):
            # Minus zero is a different start: -0 + -0 is -0.
            return attr.value.data == 0.0 and str(attr.value.data) == "0.0"
        case arith.ConstantOp(value=IntegerAttr() as attr):
            return attr.value.data == 0
        case _:
            return False


def _zero_fill_before(op: Operation, product: Contraction) -> Operation | None:
    """The fill with zero of the result before a product, with nothing between using the result."""
    previous = op.prev_op
    while previous is not None:
        if _is_zero_fill(previous, product.out):
            return previous
        if touches(previous, product.out):
            return None
        previous = previous.prev_op
    return None


def _is_outer_product(op: Operation) -> bool:
    """Whether an operation without a reduction is a product all the same: of columns and rows."""
    if not isinstance(op, linalg.GenericOp):
        return False
    match recognize(op):
        case Contraction(maps=maps):
            return {"m", "n"} <= set(iterator_kinds(*maps))
        case Refusal():
            return False


# ------------------------------------------------------------------------------------- patterns


class RaiseContraction(RewritePattern):
    """A recognized product becomes a gemm; what is neither that nor elementwise is refused."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        """Rewrite one op."""
        if op.dialect_name() != "linalg" or isinstance(op, linalg.YieldOp | linalg.IndexOp):
            return
        if recognize_elementwise(op) is not None and not _is_outer_product(op):
            return
        match recognize(op):
            case Refusal(reason):
                refuse(op, f"{op.name} can't be raised to nanokernel.gemm: {reason}")
            case Contraction(lhs, rhs, out, maps, unsigned) as product:
                fill = _zero_fill_before(op, product)
                gemm = GemmOp(lhs, rhs, out, maps, unsigned=unsigned, from_zero=fill is not None)
                gemm.location = op.location
                _verify(gemm, op)
                if fill is not None:
                    rewriter.erase(fill)
                rewriter.replace(op, gemm)


class CopyIsElementwise(RewritePattern):
    """A memref.copy becomes the linalg.generic that it means."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: memref.CopyOp, rewriter: PatternRewriter) -> None:
        rewriter.replace(op, generic_copy(op))


def _verify(gemm: GemmOp, source: Operation) -> None:
    try:
        gemm.verify_()
    except VerifyException as error:
        refuse(source, f"{source.name} can't be raised to nanokernel.gemm: {error}")


# ------------------------------------------------------------------- arguments without a sign


def _mark_unsigned(function: func.FuncOp) -> None:
    """Mark the arguments that products read as integers without a sign."""
    signs: dict[SSAValue, bool] = {}
    for op in function.walk():
        if not isinstance(op, GemmOp):
            continue
        for argument, unsigned in _integer_arguments(op):
            if signs.setdefault(argument, unsigned) != unsigned:
                assert isinstance(argument, BlockArgument)
                refuse(
                    op,
                    f"argument {argument.index} of '{function.sym_name.data}' is read as integers "
                    "with a sign and without one; let the function take it twice, as an argument "
                    "for each",
                )
    marked = {value for value, unsigned in signs.items() if unsigned}
    if not marked:
        return
    given = function.arg_attrs.data if function.arg_attrs else ()
    entries = [dict(attributes.data) for attributes in given] or [{} for _ in function.args]
    for argument, entry in zip(function.args, entries, strict=True):
        if argument in marked:
            entry[UNSIGNED_ATTRIBUTE] = UnitAttr()
    function.arg_attrs = ArrayAttr([DictionaryAttr(entry) for entry in entries])


def _integer_arguments(op: GemmOp) -> Iterator[tuple[SSAValue, bool]]:
    """The arguments of a function that hold a product's integer factors; whether without a sign."""
    for role, factor in (("lhs", op.lhs), ("rhs", op.rhs)):
        root = root_of(factor)
        assert isinstance(factor.type, MemRefType)
        if is_argument(root) and isinstance(factor.type.element_type, IntegerType):
            yield root, op.is_unsigned(role)


@dataclass(frozen=True)
class LinalgToNanokernelPass(ModulePass):
    """Raise matrix products to nanokernel.gemm."""

    name = "linalg-to-nanokernel"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module in place."""
        PatternRewriteWalker(CopyIsElementwise(), apply_recursively=False).rewrite_module(op)
        PatternRewriteWalker(RaiseContraction(), apply_recursively=False).rewrite_module(op)
        for function in op.walk():
            if isinstance(function, func.FuncOp) and not function.is_declaration:
                _mark_unsigned(function)
