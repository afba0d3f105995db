"""Linking an object file into a shared library with the system's linker."""

import shutil
import subprocess
import tempfile
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
    native = triple.startswith("x86_64")
    candidates = LINKERS if native else LINKERS[:2]
    linker = next((p for name in candidates if (p := shutil.which(name))), None)
    if linker is None:
        raise ToolNotFound(
            f"no linker found ({', '.join(candidates)}); install one with: "
            "apt-get install --no-install-recommends lld-22"
        )
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "kernel.o"), Path(folder, "kernel.so")
        source.write_bytes(object_code)
        done = subprocess.run(
            [linker, "-shared", "-z", "noexecstack", "-o", str(result), str(source)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ToolFailed(f"{linker} failed:\n{done.stderr.strip()}")
        return result.read_bytes()
