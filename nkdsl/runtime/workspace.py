"""The workspace of kernels that pack: aligned memory, kept per thread between calls."""

import threading

import numpy as np
import numpy.typing as npt

from nkdsl.runtime.address import address_of

ALIGNMENT = 64
"""Bytes; a cache line and the widest register."""

_local = threading.local()


def aligned_bytes(size: int) -> npt.NDArray[np.uint8]:
    """`size` uninitialized bytes that start at a multiple of `ALIGNMENT`."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -address_of(memory) % ALIGNMENT
    return memory[start : start + size]


def thread_workspace(size: int) -> npt.NDArray[np.uint8]:
    """This thread's workspace, at least `size` bytes; valid until its next call."""
    memory: npt.NDArray[np.uint8] | None = getattr(_local, "memory", None)
    if memory is None or memory.size < size:
        memory = aligned_bytes(size)
        _local.memory = memory
    return memory
