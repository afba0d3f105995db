"""How many threads kernels are compiled for: as many as this process has cores to itself.

Threads that share a core share its vector units, so cores count where the system tells them apart.
A container's processor time is a bound too, whatever the machine has.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path, PurePosixPath

from nkdsl.errors import InvalidInput

VARIABLE = "NKDSL_NUM_THREADS"
"""The environment variable that sets the number."""

_ROOT = Path("/")
"""Where `proc` and `sys` are."""


@dataclass(frozen=True)
class ThreadCount:
    """A number of threads."""

    count: int
    reason: str
    """What it comes from, for humans."""


def default_threads() -> int:
    """The number of threads to use where none is asked for.

    Raises:
        InvalidInput: where `NKDSL_NUM_THREADS` is no number of threads.
    """
    return detect_threads().count


def resolve_threads(requested: int | None) -> int:
    """The number of threads asked for, the default for None.

    Raises:
        InvalidInput: for a number below 1.
    """
    if requested is None:
        return default_threads()
    if requested < 1:
        raise InvalidInput(f"a kernel needs at least 1 thread, not {requested}")
    return requested


def detect_threads() -> ThreadCount:
    """The default number of threads, and why.

    Raises:
        InvalidInput: where `NKDSL_NUM_THREADS` is no number of threads.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return ThreadCount(_parsed(chosen), f"from {VARIABLE}")
    usable = os.sched_getaffinity(0)
    cores = _cores(usable)
    reason = f"{_counted(cores, 'core')} for this process"
    if cores < len(usable):
        reason += f" ({len(usable)} hardware threads)"
    quota = _quota()
    if quota is not None and ceil(quota) < cores:
        return ThreadCount(max(ceil(quota), 1), f"{reason}, time of {quota:g} by its cgroup")
    return ThreadCount(cores, reason)


def _parsed(text: str) -> int:
    """The number in the environment variable."""
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise InvalidInput(
            f"{VARIABLE}={text} is no number of threads; set it to 1 or more, or unset it"
        )
    return count


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


# --------------------------------------------------------------------------------- cores


def _cores(cpus: set[int]) -> int:
    """How many cores some of the system's CPUs are; each is one where nothing is told."""
    return len({_siblings(cpu) for cpu in cpus})


def _siblings(cpu: int) -> str:
    """The CPUs of one core, in the system's words."""
    folder = _ROOT / f"sys/devices/system/cpu/cpu{cpu}/topology"
    for name in ("core_cpus_list", "thread_siblings_list"):  # the latter before Linux 5.3
        with suppress(OSError):
            return (folder / name).read_text().strip() or str(cpu)
    return str(cpu)


# --------------------------------------------------------------------------------- cgroups


def _quota() -> float | None:
    """How many CPUs' time this process may use, by its cgroup and those above; None: no bound."""
    return min((quota for folder in _groups() if (quota := _quota_of(folder))), default=None)


def _groups() -> Iterator[Path]:
    """The folders of the groups that may bound the time of this process, of both versions."""
    places = _mounts()
    for line in _lines(_ROOT / "proc/self/cgroup"):
        # Number, controllers and path of a group; no controllers are named in version 2.
        _, controllers, group = line.split(":", 2)
        kind = "cgroup2" if not controllers else "cpu"
        if kind == "cpu" and "cpu" not in controllers.split(","):
            continue
        for root, mount in places.get(kind, ()):
            yield from _with_parents(root, mount, group)


def _with_parents(root: str, mount: str, group: str) -> Iterator[Path]:
    """The folder of a group and those above it, where a hierarchy is mounted from its root on."""
    path = PurePosixPath(group)
    # A container sees its own group as the mount's root, whatever its path is outside.
    below = path.relative_to(root) if path.is_relative_to(root) else PurePosixPath()
    for part in (below, *below.parents):
        yield _ROOT / mount.lstrip("/") / part


def _mounts() -> dict[str, list[tuple[str, str]]]:
    """Root and mount point of the hierarchies: `cgroup2`, and `cpu` of version 1."""
    places: dict[str, list[tuple[str, str]]] = {}
    for line in _lines(_ROOT / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), after.split(maxsplit=2)
        if kind == "cgroup" and "cpu" in options.split(","):
            kind = "cpu"
        if kind in ("cgroup2", "cpu"):
            places.setdefault(kind, []).append((fields[3], fields[4]))
    return places


def _quota_of(folder: Path) -> float | None:
    """CPUs' time that one group may use; `max 100000` and, in version 1, -1 are no bound."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        time = int((folder / "cpu.cfs_quota_us").read_text())
        return time / int((folder / "cpu.cfs_period_us").read_text()) if time > 0 else None
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
