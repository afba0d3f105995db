"""An instruction by its name: xDSL's `llvm.inline_asm`, with an operand in memory.

```mlir
%b = "llvm.inline_asm"(%address) <{asm_string = "vpbroadcastd $1, $0", constraints = "=v,*m",
    has_side_effects}> {operand_attrs = [{elementtype = i32}]} : (!llvm.ptr) -> vector<16xi32>
```

LLVM wants to know what an address points to. MLIR's syntax for that is none of xDSL's, so the op is
printed in the generic one, which both read. Imports xDSL only.
"""

from typing import Self

from xdsl.dialects import llvm
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, StringAttr, UnitAttr
from xdsl.ir import Attribute, Operation, SSAValue

__all__ = ["InlineAsmOp"]


class InlineAsmOp(llvm.InlineAsmOp):
    """`llvm.inline_asm`, printed in the generic syntax."""

    print = Operation.print

    @classmethod
    def of_memory(
        cls, instruction: str, address: SSAValue, element: Attribute, result: Attribute
    ) -> Self:
        """An instruction of one operand, what lies at an address, and one register of vectors.

        It stays where it is among loads and stores: what it reads may have been stored before.
        """
        return cls.create(
            operands=[address],
            result_types=[result],
            properties={
                "asm_string": StringAttr(f"{instruction} $1, $0"),
                "constraints": StringAttr("=v,*m"),
                "has_side_effects": UnitAttr(),
                "tail_call_kind": llvm.TailCallKindAttr(llvm.TailCallKind.NONE),
            },
            attributes={"operand_attrs": ArrayAttr([DictionaryAttr({"elementtype": element})])},
        )
