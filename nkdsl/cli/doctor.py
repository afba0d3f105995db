"""`nkdsl doctor`: what is installed, what this CPU is, what is missing and how to get it.

Exit status 1 if something is missing without which programs can't be compiled and run here.
Peers of the benchmarks may be missing; they are only told.
"""

import argparse
import platform
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from importlib import metadata

from nkdsl.backends.linker import LINKERS
from nkdsl.backends.mlir import find_tool
from nkdsl.cli.targets import aligned
from nkdsl.emulation import amx, qemu
from nkdsl.errors import NkdslError, ToolNotFound
from nkdsl.runtime import openmp
from nkdsl.runtime.threads import detect_threads
from nkdsl.targets import detect, known_targets
from nkdsl.targets.cpu import this_cpu
from nkdsl.targets.model import TileUnit

PACKAGES = ("nkdsl", "xdsl", "llvmlite", "numpy", "ml_dtypes")
"""The Python packages that compiling takes."""

_SME_ON_INTEGERS = (10, 0)
"""The version of QEMU from which on it is right about Arm SME on integers."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for."""

    what: str
    found: str
    """A version or a place; how to get it where it is missing."""
    present: bool = True
    needed: bool = True

    @property
    def mark(self) -> str:
        """One word for the table."""
        if self.present:
            return "ok"
        return "MISSING" if self.needed else "absent"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are no arguments."""


def main(arguments: argparse.Namespace) -> int:
    """Look, print, and tell by the exit status whether anything needed is missing."""
    findings = [*_needed(), *_peers()]
    for line in aligned([(f.mark, f.what, f.found) for f in findings]):
        print(line)
    missing = [f.what for f in findings if f.needed and not f.present]
    if missing:
        print(f"\nmissing: {', '.join(missing)}")
        return 1
    print("\nnothing that is needed is missing")
    return 0


def _needed() -> Iterator[Finding]:
    yield Finding("python", platform.python_version())
    for name in PACKAGES:
        yield _package(name)
    yield _llvm()
    for tool in ("mlir-opt", "mlir-translate"):
        yield _asked(tool, lambda tool=tool: _tool(tool))  # type: ignore[misc]
    yield _linker()
    yield _asked("host", lambda: detect().reason)
    yield _tiles()
    yield _openmp()
    yield _asked("threads", _threads)
    yield from _emulators()


def _asked(what: str, ask: Callable[[], str], *, needed: bool = True) -> Finding:
    """What an asker answers; its error says how to get what is missing."""
    try:
        return Finding(what, ask())
    except NkdslError as error:
        return Finding(what, str(error), present=False, needed=needed)


def _package(name: str) -> Finding:
    try:
        return Finding(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        # The compiler itself also runs from a checkout that is not installed.
        return Finding(name, f"pip install {name}", present=False, needed=name != "nkdsl")


def _llvm() -> Finding:
    from llvmlite import binding

    version = ".".join(str(part) for part in binding.llvm_version_info)
    return Finding("llvm", f"{version}, within llvmlite")


def _tool(name: str) -> str:
    path = find_tool(name)
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    lines = (line.strip() for line in done.stdout.splitlines())
    return f"{path}: {next((line for line in lines if 'version' in line), '')}"


def _linker() -> Finding:
    """The linker of `--emit=so`; nothing else takes one."""
    found = next((path for name in LINKERS if (path := shutil.which(name))), None)
    remedy = "for --emit=so: apt-get install --no-install-recommends lld-22"
    return Finding("linker", found or remedy, present=found is not None, needed=False)


def _openmp() -> Finding:
    """The runtime that kernels of several threads call; without it they run on one."""
    try:
        runtime = openmp.find()
    except NkdslError as error:
        return Finding("openmp", str(error), present=False)
    if runtime is None:
        return Finding("openmp", openmp.absence(), present=False, needed=False)
    return Finding("openmp", str(runtime))


def _threads() -> str:
    """How many threads kernels use where none are asked for, and why."""
    found = detect_threads()
    return f"{found.count}: {found.reason}"


def _tiles() -> Finding:
    """Registers that hold matrices: whether the CPU has them, and the system permits their use."""
    cpu = this_cpu()
    units = [target.tiles for target in known_targets() if target.tiles is not None]
    found = dict.fromkeys(unit.name for unit in units if _has(unit, cpu.features))
    if found:
        return Finding("tiles", f"{', '.join(found)}, permitted by the operating system")
    names = " or ".join(dict.fromkeys(unit.name for unit in units))
    reason = cpu.withheld or f"this CPU has no {names}; nkdsl run --emulate runs code with tiles"
    return Finding("tiles", reason, present=False, needed=False)


def _has(unit: TileUnit, features: Collection[str]) -> bool:
    return all(feature.removeprefix("+") in features for feature in unit.features)


def _emulators() -> Iterator[Finding]:
    """What runs the code of processors that are not here."""
    yield _asked("emulated Intel AMX", _amx, needed=False)
    yield _asked("emulated AArch64", _qemu, needed=False)


def _amx() -> str:
    """How code with AMX runs where the CPU lacks it."""
    if (obstacle := amx.obstacle()) is not None:
        raise ToolNotFound(obstacle)
    return "in this process, its instructions trapped where the CPU lacks them"


def _qemu() -> str:
    """Where QEMU is, and what its version can't do."""
    if (obstacle := qemu.obstacle()) is not None:
        raise ToolNotFound(obstacle)
    version = qemu.version()
    lacks = "" if version >= _SME_ON_INTEGERS else "; SME on integers takes version 10.0"
    return f"{qemu.find_qemu()}, version {'.'.join(map(str, version))}{lacks}"


def _peers() -> Iterator[Finding]:
    """The libraries that the benchmarks compare with."""
    from nkdsl.bench.peers import PEERS

    for name, make in PEERS.items():
        peer = make()
        try:
            available = peer.availability()
        finally:
            peer.close()
        yield Finding(f"peer {name}", available.detail, available.present, needed=False)
