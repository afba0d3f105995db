"""The workspace of kernels that pack: aligned memory, kept between calls.

`Workspaces` keeps those of one kernel. Native code takes them from slots, each by one atomic
exchange, so that no lock is needed whatever number of threads call.
"""

import ctypes
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import numpy.typing as npt

from nkdsl.runtime.address import address_of

Bytes = npt.NDArray[np.uint8]

ALIGNMENT = 64
"""Bytes; a cache line and the widest register."""

HUGE_PAGE = 2 << 20
"""Bytes; memory of at least this size asks for pages of this size, where the system has them."""

SLOTS = 16
"""How many threads at once find a workspace without asking Python."""

_local = threading.local()


def aligned_bytes(size: int) -> Bytes:
    """`size` bytes of any content that start at a multiple of `ALIGNMENT`."""
    if size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        return _huge_bytes(size)
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -address_of(memory) % ALIGNMENT
    return memory[start : start + size]


def _huge_bytes(size: int) -> Bytes:
    """Bytes that start where a huge page does, the last one whole."""
    whole = -(-size // HUGE_PAGE) * HUGE_PAGE
    pages = mmap.mmap(-1, whole + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory = np.frombuffer(pages, np.uint8)
    start = -address_of(memory) % HUGE_PAGE
    with suppress(OSError):  # a system without huge pages: small ones do
        pages.madvise(mmap.MADV_HUGEPAGE, start, whole)
    return memory[start : start + size]


def thread_workspace(size: int) -> Bytes:
    """This thread's workspace, at least `size` bytes; valid until its next call."""
    memory: Bytes | None = getattr(_local, "memory", None)
    if memory is None or memory.size < size:
        memory = aligned_bytes(size)
        _local.memory = memory
    return memory


class Workspaces:
    """The workspaces of one kernel; as many as there were ever calls at once."""

    def __init__(self, size: int):
        """Of `size` bytes each; none is made yet."""
        self.slots = (ctypes.c_void_p * SLOTS)()
        """Addresses of workspaces; null where a call uses one, or none was made."""
        self._size = size
        self._empty = iter(range(SLOTS))
        self._spare: list[Bytes] = []
        self._settled: list[Bytes] = []

    @contextmanager
    def borrow(self, *, settle: bool) -> Iterator[int]:
        """The address of a workspace that no other call uses meanwhile.

        Args:
            settle: leave it in a slot afterwards, if one is empty.
        """
        # One list method or one step of an iterator at a time: threads can't come between.
        try:
            memory = self._spare.pop()
        except IndexError:
            memory = aligned_bytes(self._size)
        try:
            yield address_of(memory)
        finally:
            slot = next(self._empty, None) if settle else None
            if slot is None:
                self._spare.append(memory)
            else:
                self._settled.append(memory)
                self.slots[slot] = address_of(memory)
