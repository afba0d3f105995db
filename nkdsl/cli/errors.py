"""How a command fails: one message on stderr, exit status 1, no traceback.

`guarded` runs a command. Errors that a user can cause become `error: file:line:column: what, and
what to do about it`. Anything else is a fault of nkdsl: it ends as one message too, and shows its
traceback where `NKDSL_TRACEBACK` is set.
"""

import os
import re
import sys
import traceback
from collections.abc import Callable

from xdsl.utils.exceptions import ArgSpecParseError, DiagnosticException, ParseError

from nkdsl.errors import NkdslError

FAILED = 1
INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""
PIPE_CLOSED = 141
"""128 + SIGPIPE: who read our output has seen enough."""

TRACEBACK_VARIABLE = "NKDSL_TRACEBACK"

_TOOL_PREFIX = re.compile(r"^(\S+:\d+:\d+: )error: ", re.MULTILINE)
"""How mlir-opt begins a message; ours has its own `error: ` in front."""


def guarded(command: Callable[[], int]) -> int:
    """Run a command and flush its output; returns the exit status whatever happens."""
    try:
        status = command()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        _discard_stdout()
        return PIPE_CLOSED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    # ArgSpecParseError is no Exception in xDSL.
    except (Exception, ArgSpecParseError) as error:
        print(f"error: {message(error)}", file=sys.stderr)
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exception(error)
        return FAILED


def message(error: BaseException) -> str:
    """What to tell a user about an error."""
    match error:
        case NkdslError():
            return _TOOL_PREFIX.sub(r"\1", str(error))
        case ParseError(span=span, msg=text):
            where = span.get_location()
            return f"{where.file}:{where.line}:{where.col}: {text}"
        case DiagnosticException():
            return str(_innermost(error))
        case ArgSpecParseError():
            return str(error).rstrip()
        case OSError(filename=str(name), strerror=str(reason)):
            return f"'{name}': {reason}"
        case _:
            kind = type(error).__name__
            return (
                f"nkdsl itself failed, which is a bug: {kind}: {error}; "
                f"set {TRACEBACK_VARIABLE}=1 to see where"
            )


def _innermost(error: DiagnosticException) -> DiagnosticException:
    """The bare message; xDSL wraps it in a picture of the whole module."""
    while isinstance(error.__cause__, DiagnosticException):
        error = error.__cause__
    return error


def _discard_stdout() -> None:
    """Let nothing complain about the closed pipe when the interpreter flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
