"""Linking object files with the system's linker: into a shared library, or a static program."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nkdsl.errors import ToolFailed, ToolNotFound

LINKERS = ("ld.lld-22", "ld.lld", "ld")
"""Linkers that are tried, in order. The code needs no C library, hence no compiler driver."""


def link_shared(object_code: bytes, triple: str) -> bytes:
    """A shared library that holds one object file.

    Raises:
        ToolNotFound: where no linker is installed; says how to get one.
        ToolFailed: with the linker's message.
    """
    return _linked(["-shared", "-z", "noexecstack"], [object_code], triple)


def link_static(objects: Sequence[bytes], triple: str) -> bytes:
    """A program that starts at `_start` and needs nothing but the system's kernel.

    Raises:
        ToolNotFound: where no linker is installed; says how to get one.
        ToolFailed: with the linker's message, also where a function is nowhere defined.
    """
    return _linked(["-static", "-z", "noexecstack"], objects, triple)


def find_linker(triple: str) -> str:
    """The path of a linker for a target triple.

    Raises:
        ToolNotFound: where none is installed; says how to get one.
    """
    native = triple.startswith("x86_64")
    candidates = LINKERS if native else LINKERS[:2]
    linker = next((p for name in candidates if (p := shutil.which(name))), None)
    if linker is None:
        raise ToolNotFound(
            f"no linker found ({', '.join(candidates)}); install one with: "
            "apt-get install --no-install-recommends lld-22"
        )
    return linker


def _linked(options: Sequence[str], objects: Sequence[bytes], triple: str) -> bytes:
    """What the linker makes of some object files."""
    linker = find_linker(triple)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result")
        sources = [Path(folder, f"{number}.o") for number in range(len(objects))]
        for source, object_code in zip(sources, objects, strict=True):
            source.write_bytes(object_code)
        done = subprocess.run(
            [linker, *options, "-o", str(result), *map(str, sources)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ToolFailed(f"{linker} failed:\n{done.stderr.strip()}")
        return result.read_bytes()
