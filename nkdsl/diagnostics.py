"""How a pass refuses an operation: one message, with the operation's place in the source."""

from typing import NoReturn

from xdsl.dialects.builtin import FileLineColLoc
from xdsl.ir import Operation
from xdsl.utils.exceptions import DiagnosticException


def source_position(op: Operation) -> str:
    """`file:line:column: ` of an operation whose parser recorded it, else nothing."""
    match op.location:
        case FileLineColLoc(filename=filename, line=line, column=column):
            return f"{filename.data}:{line.data}:{column.data}: "
        case _:
            return ""


def refuse(op: Operation, message: str) -> NoReturn:
    """Stop a pass at `op`; raises `DiagnosticException` showing the operation in its module."""
    text = f"{source_position(op)}{message}"
    op.emit_error(text, DiagnosticException(text))
