"""C files that become shared libraries in the user's cache, by the system's compiler.

A library is built once for each text, options, set of static libraries and CPU, so that code for
this very CPU (`-march=native`) is never found by another one that shares the cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from nkdsl.bench.jit import host_cpu
from nkdsl.bench.machine import cache_directory
from nkdsl.bench.peers.base import Unable

COMPILERS = ("cc", "gcc", "clang")
"""In the order in which they are looked for."""
BUILD_TIMEOUT_S = 120


def find_compiler() -> str:
    """The system's C compiler.

    Raises:
        Unable: there is none.
    """
    for name in COMPILERS:
        if found := shutil.which(name):
            return found
    raise Unable("no C compiler")


def static_library(name: str) -> Path:
    """Where the compiler would find a static library.

    Raises:
        Unable: nowhere, or there is no compiler.
    """
    found = subprocess.run(
        [find_compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=False
    )
    path = Path(found.stdout.strip() or name)
    if not path.is_absolute() or not path.exists():
        raise Unable(f"{name} not found")
    return path.resolve()


def shared_library(
    stem: str, source: str, options: Sequence[str], archives: Iterable[Path] = ()
) -> Path:
    """Compile and link a shared library, unless that was done before.

    Args:
        stem: what its file's name starts with.
        source: C.
        options: of the compiler, behind the source.
        archives: static libraries, linked right behind the source; a new one makes a new library.

    Raises:
        Unable: no compiler, or it refuses; with its first line.
    """
    compiler = find_compiler()
    archives = tuple(archives)
    command = [*(str(archive) for archive in archives), *options]
    key = hashlib.sha256(repr((source, command, host_cpu())).encode())
    for archive in archives:
        status = archive.stat()
        key.update(f"{status.st_size}:{status.st_mtime_ns}".encode())
    target = cache_directory() / f"{stem}-{key.hexdigest()[:16]}.so"
    if not target.exists():
        _build(compiler, source, command, target)
    return target


def _build(compiler: str, source: str, options: Sequence[str], target: Path) -> None:
    """Build beside the target and rename, so that nobody ever loads half a library."""
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        written, built = Path(directory) / "source.c", Path(directory) / target.name
        written.write_text(source, encoding="utf-8")
        command = [compiler, "-fPIC", "-shared", "-o", str(built), str(written), *options]
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=BUILD_TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            took = f"the C compiler took over {BUILD_TIMEOUT_S} s for {target.stem}"
            raise Unable(took) from error
        if result.returncode:
            lines = result.stderr.strip().splitlines() or ["no message"]
            raise Unable(f"cannot build {target.stem}: {lines[0]}")
        os.replace(built, target)
