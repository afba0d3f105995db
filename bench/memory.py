"""Memory for operands: on huge pages where the system has some to give.

A product of a few hundred rows can touch more pages of 4 KiB than the first level of address
translation holds, and which physical pages they are decides which cache sets collide. On a huge
page neither makes one run differ from the next. Every contender of a row works on the same memory.
"""

from __future__ import annotations

import mmap
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HUGE_PAGE = 2 << 20
"""Bytes of a huge page on x86-64, and on AArch64 with pages of 4 KiB."""
_RANGE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")


def reserve(size: int) -> npt.NDArray[np.uint8]:
    """`size` zero bytes that start at a multiple of `HUGE_PAGE`, on huge pages if possible.

    Whole huge pages are reserved, since a system gives none for a part of one.
    """
    whole = -(-max(1, size) // HUGE_PAGE) * HUGE_PAGE
    memory = _map(whole + HUGE_PAGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        _ask(memory, mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(memory, dtype=np.uint8)
    start = -raw.ctypes.data % HUGE_PAGE
    return raw[start : start + size]


def _map(size: int) -> mmap.mmap:
    """Anonymous memory, private where the system knows the word: shared has no huge pages."""
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _ask(memory: mmap.mmap, advice: int) -> None:
    """Give the system an advice; a kernel built without huge pages refuses to hear it."""
    try:
        memory.madvise(advice)
    except OSError:
        return


def on_huge_pages(array: npt.NDArray[Any]) -> bool | None:
    """Whether the mapping that holds an array has huge pages; None where the system tells not."""
    try:
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    inside = False
    for line in lines:
        if found := _RANGE.match(line):
            inside = int(found[1], 16) <= array.ctypes.data < int(found[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1]) > 0
    return None
