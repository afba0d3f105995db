"""The errors that a user of nkdsl can meet.

Every error carries one message that says what was asked, why it can't be served, and
what to do about it. The command line prints that message and exits with status 1;
Python sees the exception. This module imports nothing of nkdsl.
"""


class NkdslError(Exception):
    """Base of all errors that nkdsl raises on purpose."""


class Unsupported(NkdslError):
    """A valid request that this target, type or shape can't serve; the message names the remedy."""


class InvalidInput(NkdslError):
    """Input that is not what it claims to be: broken MLIR, a wrong array, an unknown name."""


class ToolNotFound(NkdslError):
    """A tool outside Python is missing; the message holds the command that installs it."""


class ToolFailed(NkdslError):
    """An outside tool refused its input; the message holds what the tool printed."""
