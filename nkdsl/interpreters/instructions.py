"""The instructions that operations name: entries of the target that their function was planned for.

The function's attribute `nanokernel.target` names the target, the operation names the instruction.
Memory holds integers without a sign: `as_element` reads their bits as an instruction does.
"""

from typing import Any

import numpy as np
from xdsl.dialects.builtin import StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation
from xdsl.utils.exceptions import InterpretationError

from nkdsl.dialects.nanokernel import TARGET_ATTRIBUTE
from nkdsl.interpreters.buffer import Array
from nkdsl.targets import Instruction, get_target
from nkdsl.types import element_type


class Instructions:
    """The instructions that operations name, each looked up once."""

    def __init__(self) -> None:
        self._found: dict[Operation, Instruction] = {}

    def of(self, op: Operation, name: str) -> Instruction:
        """The instruction `name` of the target that the function around `op` was planned for.

        Raises:
            InterpretationError: if the function names no target.
            Unsupported: if there is no such target, or it has no such instruction.
        """
        found = self._found.get(op)
        if found is None:
            found = self._found[op] = get_target(_target_name(op)).instruction(name)
        return found


def _target_name(op: Operation) -> str:
    parent = op.parent_op()
    while parent is not None and not isinstance(parent, FuncOp):
        parent = parent.parent_op()
    match parent.attributes.get(TARGET_ATTRIBUTE) if parent is not None else None:
        case StringAttr(data=name):
            return name
        case _:
            raise InterpretationError(
                f"the function has no attribute '{TARGET_ATTRIBUTE}' that names a target"
            )


def as_element(values: Array, name: str) -> Array:
    """Elements of memory as those of type `name`: integers of its size change their sign."""
    return reread(values, element_type(name).dtype)


def reread(values: Array, dtype: np.dtype[Any]) -> Array:
    """The bits of integers read as integers of another sign; anything else as it is."""
    same_size = (
        values.dtype.kind in "iu" and dtype.kind in "iu" and values.itemsize == dtype.itemsize
    )
    return values.view(dtype) if same_size else values
