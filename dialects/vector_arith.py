"""Upstream's operations of `arith` on vectors that xDSL has for scalars only.

Comparisons, `select`, and the conversions of integers.

xDSL's own operations of these names know scalars only. These are made where a program is unrolled
into registers; they print as upstream's do, in generic form, for mlir-opt to read. They belong to
no dialect here, since their names are taken.

```mlir
%less = "arith.cmpf"(%x, %y) <{predicate = 4 : i64, ...}> : (vector<16xf32>, ...) -> vector<16xi1>
%least = "arith.select"(%less, %x, %y) : (vector<16xi1>, vector<16xf32>, ...) -> vector<16xf32>
```

Imports: xDSL only.
"""

from typing import ClassVar

from xdsl.dialects import arith
from xdsl.dialects.arith import FastMathFlagsAttr
from xdsl.dialects.builtin import IntegerAttr, VectorType
from xdsl.ir import Operation
from xdsl.irdl import (
    BaseAttr,
    IRDLOperation,
    VarConstraint,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure


@irdl_op_definition
class CmpfOp(IRDLOperation):
    """`arith.cmpf` of two registers: one bit a lane."""

    name = "arith.cmpf"
    T: ClassVar = VarConstraint("T", BaseAttr(VectorType))
    predicate = prop_def(IntegerAttr)
    fastmath = opt_prop_def(FastMathFlagsAttr)
    lhs = operand_def(T)
    rhs = operand_def(T)
    result = result_def(VectorType)

    traits = traits_def(Pure())


@irdl_op_definition
class CmpiOp(IRDLOperation):
    """`arith.cmpi` of two registers: one bit a lane."""

    name = "arith.cmpi"
    T: ClassVar = VarConstraint("T", BaseAttr(VectorType))
    predicate = prop_def(IntegerAttr)
    lhs = operand_def(T)
    rhs = operand_def(T)
    result = result_def(VectorType)

    traits = traits_def(Pure())


@irdl_op_definition
class SelectOp(IRDLOperation):
    """`arith.select` lane by lane."""

    name = "arith.select"
    T: ClassVar = VarConstraint("T", BaseAttr(VectorType))
    cond = operand_def(VectorType)
    lhs = operand_def(T)
    rhs = operand_def(T)
    result = result_def(T)

    traits = traits_def(Pure())


class _Conversion(IRDLOperation):
    """A conversion lane by lane."""

    value = operand_def(VectorType)
    result = result_def(VectorType)

    traits = traits_def(Pure())


@irdl_op_definition
class ExtSIOp(_Conversion):
    """`arith.extsi` lane by lane."""

    name = "arith.extsi"


@irdl_op_definition
class ExtUIOp(_Conversion):
    """`arith.extui` lane by lane."""

    name = "arith.extui"


@irdl_op_definition
class TruncIOp(_Conversion):
    """`arith.trunci` lane by lane."""

    name = "arith.trunci"


@irdl_op_definition
class SIToFPOp(_Conversion):
    """`arith.sitofp` lane by lane."""

    name = "arith.sitofp"


@irdl_op_definition
class UIToFPOp(_Conversion):
    """`arith.uitofp` lane by lane."""

    name = "arith.uitofp"


@irdl_op_definition
class FPToSIOp(_Conversion):
    """`arith.fptosi` lane by lane."""

    name = "arith.fptosi"


@irdl_op_definition
class FPToUIOp(_Conversion):
    """`arith.fptoui` lane by lane."""

    name = "arith.fptoui"


_ON_VECTORS: dict[type[Operation], type[Operation]] = {
    arith.CmpfOp: CmpfOp,
    arith.CmpiOp: CmpiOp,
    arith.SelectOp: SelectOp,
    arith.ExtSIOp: ExtSIOp,
    arith.ExtUIOp: ExtUIOp,
    arith.TruncIOp: TruncIOp,
    arith.SIToFPOp: SIToFPOp,
    arith.UIToFPOp: UIToFPOp,
    arith.FPToSIOp: FPToSIOp,
    arith.FPToUIOp: FPToUIOp,
}


def on_vectors(op: type[Operation]) -> type[Operation]:
    """What an elementwise operation on scalars is called here if its operands are vectors."""
    return _ON_VECTORS.get(op, op)
