"""What this machine says about its processor: name, features, caches; asked once, then kept.

LLVM's detection is the authority on features. It executes CPUID and reads XCR0, so a feature that
a virtual machine hides, or whose registers the operating system does not save, is absent even
where the processor's name suggests it. The name alone never decides what may run. On AArch64, where
only the operating system can tell, /proc/cpuinfo names features that LLVM does not look for.

Intel AMX is asked for where the processor has it; where the operating system refuses it, it counts
as absent.

Cache sizes come from sysfs, else from the C library, else nobody knows them. The marketing name
from /proc/cpuinfo is for humans only.
"""

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm

from nkdsl.targets.permission import ask_for_tiles

_TILES = "amx-tile"
"""The feature without which there are no other ones of AMX."""

_SYSFS_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_CPUINFO = Path("/proc/cpuinfo")

_SC_LEVEL1_DCACHE_SIZE = 188
"""glibc's number of the first of three values (size, ways, line) for each of the levels 1 to 3;
Python's os.sysconf has no names for them."""

_LINUX_NAMES = {
    "fp": "fp-armv8",
    "asimd": "neon",
    "asimdhp": "fullfp16",
    "asimddp": "dotprod",
    "asimdfhm": "fp16fml",
    "bf16": "bf16",
    "i8mm": "i8mm",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
}
"""LLVM's names of what Linux lists as features of AArch64 processors in /proc/cpuinfo
(Documentation/arch/arm64/elf_hwcaps.rst); LLVM itself looks for some of them only."""

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


@dataclass(frozen=True)
class CacheGeometry:
    """The shape of one data or unified cache."""

    level: int
    """1 is nearest to the core."""
    size: int
    """Bytes."""
    ways: int
    """Associativity."""
    line: int
    """Bytes of a line."""


@dataclass(frozen=True)
class Cpu:
    """One machine's processor."""

    name: str
    """LLVM's name, `skylake-avx512`; `generic` where LLVM does not know it."""
    brand: str
    """The maker's name for it, or an empty string."""
    architecture: str
    """First part of LLVM's target triple, `x86_64`."""
    features: frozenset[str]
    """LLVM's names of the features that both processor and operating system support."""
    caches: tuple[CacheGeometry, ...]
    """The caches that could be found out, in order of their level."""
    caches_from: str
    """Who told the caches: `sysfs`, `sysconf`, or an empty string."""
    withheld: str = ""
    """Why features that the processor has may not be used, or an empty string."""

    def __str__(self) -> str:
        """The processor's names, for messages."""
        return f"{self.brand} (LLVM calls it {self.name})" if self.brand else self.name


@cache
def this_cpu() -> Cpu:
    """The processor that this process runs on."""
    caches, caches_from = _caches_from_sysfs(_SYSFS_CACHES), "sysfs"
    if not caches:
        caches, caches_from = _caches_from_sysconf(), "sysconf"
    features, withheld = _permitted(_features())
    return Cpu(
        name=llvm.get_host_cpu_name(),
        brand=_brand(_CPUINFO),
        architecture=llvm.get_process_triple().partition("-")[0],
        features=features,
        caches=caches,
        caches_from=caches_from if caches else "",
        withheld=withheld,
    )


def _permitted(features: frozenset[str]) -> tuple[frozenset[str], str]:
    """The features that this process may use, and why not all of them, if so."""
    if _TILES not in features or (refusal := ask_for_tiles()) is None:
        return features, ""
    return frozenset(f for f in features if not f.startswith("amx-")), refusal


def _features() -> frozenset[str]:
    return _features_from_llvm() | _features_from_cpuinfo(_CPUINFO)


def _features_from_llvm() -> frozenset[str]:
    try:
        return frozenset(name for name, has in llvm.get_host_cpu_features().items() if has)
    except RuntimeError:  # LLVM can't tell on this platform: rely on nothing
        return frozenset()


def _features_from_cpuinfo(cpuinfo: Path) -> frozenset[str]:
    """What Linux says of a processor of AArch64; on others the list has another name."""
    try:
        found = re.search(r"^Features\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        return frozenset()
    listed = found[1].split() if found else []
    return frozenset(_LINUX_NAMES[name] for name in listed if name in _LINUX_NAMES)


def _brand(cpuinfo: Path) -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1].strip() if found else ""


def _caches_from_sysfs(folder: Path) -> tuple[CacheGeometry, ...]:
    found = (_read_sysfs_cache(index) for index in folder.glob("index*"))
    return tuple(sorted((c for c in found if c), key=lambda c: c.level))


def _read_sysfs_cache(index: Path) -> CacheGeometry | None:
    """The cache that a sysfs folder describes; None if it holds instructions only or is broken."""
    try:
        if (index / "type").read_text().strip() == "Instruction":
            return None
        level, ways, line = (
            int((index / name).read_text())
            for name in ("level", "ways_of_associativity", "coherency_line_size")
        )
        size = _bytes((index / "size").read_text())
    except (OSError, ValueError):
        return None
    return _plausible(level, size, ways, line)


def _bytes(text: str) -> int:
    """`32K` in bytes; raises ValueError for what is no such size."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text.strip())
    if match is None:
        raise ValueError(text)
    return int(match[1]) * _UNITS[match[2]]


def _caches_from_sysconf() -> tuple[CacheGeometry, ...]:
    found = (_read_sysconf_cache(level) for level in (1, 2, 3))
    return tuple(c for c in found if c)


def _read_sysconf_cache(level: int) -> CacheGeometry | None:
    first = _SC_LEVEL1_DCACHE_SIZE + 3 * (level - 1)
    try:
        size, ways, line = (os.sysconf(first + i) for i in range(3))
    except (OSError, ValueError):
        return None
    return _plausible(level, size, ways, line)


def _plausible(level: int, size: int, ways: int, line: int) -> CacheGeometry | None:
    """The geometry, unless a virtual machine left parts of it at zero."""
    return CacheGeometry(level, size, ways, line) if min(level, size, ways, line) > 0 else None
