"""What a figure depends on besides the code: the CPU, versions, the command, the cache directory.

`Run` is what every report says about itself; `pinned` keeps a run on one CPU.

All of it is found at run time; no path and no machine is written down.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from nkdsl.errors import InvalidInput, Unsupported

DISTRIBUTIONS = ("nkdsl", "xdsl", "llvmlite", "numpy")
"""Python distributions whose versions every report names."""


def cpu_model() -> str:
    """The CPU's name as its vendor writes it, or the architecture where the system tells none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of Python, LLVM and every distribution in `DISTRIBUTIONS`."""
    from llvmlite import binding as llvm

    found = {"python": platform.python_version()}
    found["llvm"] = ".".join(str(part) for part in llvm.llvm_version_info)
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed as a distribution"
    return found


def command_line() -> str:
    """The command that runs now, the program by its bare name, quoted for a shell."""
    program = Path(sys.argv[0]).name
    return shlex.join([program, *sys.argv[1:]])


def cache_directory() -> Path:
    """The user's cache for things that take long to build; created on first use.

    `NKDSL_CACHE_DIR` wins over the platform's convention.
    """
    path = _cache_root()
    path.mkdir(parents=True, exist_ok=True)
    return path


def _cache_root() -> Path:
    if chosen := os.environ.get("NKDSL_CACHE_DIR"):
        return Path(chosen)
    match sys.platform:
        case "darwin":
            return Path.home() / "Library" / "Caches" / "nkdsl"
        case "win32":
            return Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "nkdsl" / "Cache"
        case _:
            base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
            return Path(base) / "nkdsl"


@dataclass(frozen=True)
class Run:
    """All that a reader needs, besides the numbers, to believe a run or to repeat it."""

    command: str
    cpu: str
    """The CPU's name."""
    pinned: int | None
    """The number of the only CPU that was used; None where the scheduler chose."""
    target: str
    """As it was asked for."""
    table: str
    """The target's table that this name stands for here."""
    rounds: int
    sample_ns: int
    started: str
    """ISO 8601, UTC."""
    versions: Mapping[str, str]

    def __str__(self) -> str:
        """Three lines for the head of a table."""
        name = self.target if self.target == self.table else f"{self.target} ({self.table})"
        where = "not pinned" if self.pinned is None else f"pinned to CPU {self.pinned}"
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.command}\n{self.cpu}, {where}; target {name}; {self.rounds} rounds\n{versions}"
        )


def this_run(
    command: str, *, target: str, table: str, rounds: int, sample_ns: int, pinned: int | None
) -> Run:
    """A run that starts now, on this machine."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return Run(command, cpu_model(), pinned, target, table, rounds, sample_ns, started, versions())


def last_cpu() -> int | None:
    """The last CPU that this process may use, or None where the system tells not.

    Interrupts and whatever else a system does for itself mostly run on the first.
    """
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


@contextmanager
def pinned(cpu: int | None) -> Iterator[None]:
    """Run on one CPU, and let processes started inside inherit that; restored on the way out.

    Args:
        cpu: the CPU's number, or None to leave the scheduler alone.

    Raises:
        Unsupported: the system cannot pin.
        InvalidInput: it has no such CPU for us.
    """
    if cpu is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise Unsupported(f"{sys.platform} offers no way to pin a process to a CPU; use --cpu none")
    before = os.sched_getaffinity(0)
    if cpu not in before:
        allowed = ", ".join(str(each) for each in sorted(before))
        raise InvalidInput(f"CPU {cpu} is not among those allowed here: {allowed}")
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
