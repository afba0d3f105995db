"""Arithmetic on bf16 and f16, rewritten into arithmetic on f32 with the same results.

Frameworks write activations on narrow floats in the narrow type. Processors compute in f32. Both
agree bit for bit if each f32 result is rounded to the narrow type at once: f32 has twice the bits
of f16 and two more, and more than that of bf16, so that rounding twice is rounding once for sums,
differences, products, quotients and square roots (Figueroa, "When is double rounding innocuous?",
1995).

```mlir
%t = arith.truncf %sum : f32 to bf16
%u = arith.addf %t, %bias : bf16
%v = arith.maximumf %u, %zero : bf16
// becomes
%t = arith.truncf %sum : f32 to bf16
%t32 = arith.extf %t : bf16 to f32
%bias32 = arith.extf %bias : bf16 to f32
%u32 = arith.addf %t32, %bias32 : f32
%v32 = arith.maximumf %u32, %zero32 : f32
%v = arith.truncf %v32 : f32 to bf16
```

Between `addf` and `maximumf` nothing is rounded: rounding keeps the order of numbers, so the larger
one may be chosen before or after it. Imports: xDSL.
"""

from dataclasses import dataclass

from xdsl.dialects import arith, math
from xdsl.dialects.builtin import BFloat16Type, Float16Type, FloatAttr, f32
from xdsl.ir import Attribute, Block, Operation, SSAValue

ROUNDED = (
    arith.AddfOp
    | arith.SubfOp
    | arith.MulfOp
    | arith.DivfOp
    | math.SqrtOp
    | math.RsqrtOp
    | math.ExpOp
    | math.Exp2Op
    | math.TanhOp
    | math.ErfOp
)
"""Operations whose f32 results are rounded to the narrow type at once.

For elementary functions that is what a function of a narrow type means.
"""

MONOTONE = (
    arith.MaximumfOp
    | arith.MinimumfOp
    | arith.MaxnumfOp
    | arith.MinnumfOp
    | arith.NegfOp
    | math.AbsFOp
)
"""Operations that give the same result whether their operands are rounded before or it after."""

STRICTLY_GREATER = (2, 9)
"""`ogt` and `ugt`, as arith.cmpf numbers its predicates."""


def is_narrow(type_: Attribute) -> bool:
    """Whether a type holds floats that are computed with in f32."""
    return isinstance(type_, BFloat16Type | Float16Type)


@dataclass(frozen=True)
class Image:
    """A narrow value as one of f32."""

    value: SSAValue
    type: Attribute
    """The narrow type."""
    exact: bool
    """Whether it is the narrow value; otherwise that is what it rounds to."""


class Widening:
    """Rewrites one block in place."""

    def __init__(self, block: Block):
        """Rewrite `block`."""
        self.block = block
        self.images: dict[SSAValue, Image] = {}
        self.narrowed: dict[SSAValue, SSAValue] = {}
        """Narrow values by the f32 values that they are rounded from."""

    def run(self) -> None:
        """Rewrite every operation; those that have nothing narrow stay as they are."""
        for op in list(self.block.ops):
            self._rewrite(op)
        for op in reversed(list(self.block.ops)):
            if op.results and not any(result.uses for result in op.results):
                op.detach()
                op.erase()

    def _rewrite(self, op: Operation) -> None:
        narrow = [v for v in (*op.operands, *op.results) if is_narrow(v.type)]
        if not narrow:
            return
        match op:
            case arith.ConstantOp(value=FloatAttr() as number):
                self._set(op, self._constant(op, number.value.data), exact=True)
            case arith.ExtFOp():
                self._extend(op)
            case arith.TruncFOp() if op.input.type == f32:
                self._set(op, op.input, exact=False)
            case arith.CmpfOp():
                self._compare(op)
            case arith.SelectOp():
                self._select(op)
            case _ if isinstance(op, ROUNDED):
                operands = [self._exact(operand, op) for operand in op.operands]
                self._set(op, self._computed(op, operands), exact=False)
            case _ if isinstance(op, MONOTONE):
                images = [self._image(operand, op) for operand in op.operands]
                result = self._computed(op, [image.value for image in images])
                self._set(op, result, exact=all(image.exact for image in images))
            case _:
                self._keep(op)

    def _set(self, op: Operation, value: SSAValue, *, exact: bool) -> None:
        """The image of an operation's only result."""
        (result,) = op.results
        self.images[result] = Image(value, result.type, exact)

    def _insert(self, op: Operation, before: Operation) -> SSAValue:
        self.block.insert_op_before(op, before)
        (result,) = op.results
        return result

    def _constant(self, op: Operation, number: float) -> SSAValue:
        return self._insert(arith.ConstantOp(FloatAttr(number, f32)), op)

    def _computed(self, op: Operation, operands: list[SSAValue]) -> SSAValue:
        """The same operation on f32."""
        wide = type(op).create(
            operands=operands, result_types=[f32], properties=op.properties.copy()
        )
        return self._insert(wide, op)

    def _image(self, value: SSAValue, user: Operation) -> Image:
        """A narrow value as one of f32, for a user of it."""
        image = self.images.get(value)
        if image is None:
            image = Image(self._insert(arith.ExtFOp(value, f32), user), value.type, exact=True)
            self.images[value] = image
        return image

    def _exact(self, value: SSAValue, user: Operation) -> SSAValue:
        """A narrow value's very number in f32."""
        image = self._image(value, user)
        if not image.exact:
            wide = self._insert(arith.ExtFOp(self._narrow(value, user), f32), user)
            image = self.images[value] = Image(wide, image.type, exact=True)
        return image.value

    def _narrow(self, value: SSAValue, user: Operation) -> SSAValue:
        """A narrow value as it is, for a user of it."""
        image = self.images.get(value)
        if image is None:
            return value
        source = image.value.owner
        if isinstance(source, arith.ExtFOp) and source.input.type == image.type:
            return source.input
        narrowed = self.narrowed.get(image.value)
        if narrowed is None or narrowed.type != image.type:
            narrowed = self._insert(arith.TruncFOp(image.value, image.type), user)
            self.narrowed[image.value] = narrowed
        return narrowed

    def _extend(self, op: arith.ExtFOp) -> None:
        wide = self._exact(op.input, op)
        if op.result.type != f32:
            wide = self._insert(arith.ExtFOp(wide, op.result.type), op)
        op.result.replace_all_uses_with(wide)

    def _compare(self, op: arith.CmpfOp) -> None:
        if _chooses_the_larger(op):
            operands = [self._image(operand, op).value for operand in op.operands]
        else:
            operands = [self._exact(operand, op) for operand in op.operands]
        same = arith.CmpfOp(operands[0], operands[1], op.predicate.value.data, op.fastmath)
        op.result.replace_all_uses_with(self._insert(same, op))

    def _select(self, op: arith.SelectOp) -> None:
        """`cond ? lhs : rhs`, rounded before or after the choice."""
        lhs, rhs = self._image(op.lhs, op), self._image(op.rhs, op)
        wide = arith.SelectOp(op.cond, lhs.value, rhs.value)
        self._set(op, self._insert(wide, op), exact=lhs.exact and rhs.exact)

    def _keep(self, op: Operation) -> None:
        """An operation that stays what it is, on narrow values."""
        for index, operand in enumerate(op.operands):
            if is_narrow(operand.type):
                op.operands[index] = self._narrow(operand, op)


def _chooses_the_larger(op: arith.CmpfOp) -> bool:
    """Whether a comparison only serves to choose the larger of a number and a constant.

    That is a relu as frameworks write it, and does the same before and after rounding: where only
    rounding makes the two equal, either choice rounds to the constant. A constant minus zero is
    excepted, to which plus zero is equal but not the same.
    """
    match op.rhs.owner:
        case arith.ConstantOp(value=FloatAttr() as number):
            minus_zero = str(number.value.data) == "-0.0"
        case _:
            return False
    return (
        op.predicate.value.data in STRICTLY_GREATER
        and not minus_zero
        and all(
            isinstance(use.operation, arith.SelectOp)
            and use.operation.operands[1:] == op.operands[:]
            for use in op.result.uses
        )
    )


def compute_in_f32(block: Block) -> None:
    """Rewrite a block's arithmetic on narrow floats; what it computes stays the same to the bit."""
    Widening(block).run()
