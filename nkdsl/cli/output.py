"""Output files, whole or not at all: written beside their place, then renamed into it."""

import os
import tempfile
from pathlib import Path

from nkdsl.errors import InvalidInput

STDOUT = "-"
"""The file name that stands for standard output."""


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file; on failure nothing is left behind, and a file that was there stays.

    Raises:
        InvalidInput: where the place can't be written to, with the reason.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file():
            # A device or a pipe has no place to rename into.
            path.write_bytes(data)
            return
        _replace(path, data)
    except OSError as error:
        raise InvalidInput(f"can't write '{path}': {error.strerror}") from error


def _replace(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, _mode(path))
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _mode(path: Path) -> int:
    """The permissions of the file that is replaced, or those of a new one."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
