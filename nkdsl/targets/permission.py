"""Asking the operating system for Intel AMX: a process may not use tiles until it has asked.

Linux keeps the 8 KiB of a thread's tiles only for processes that want them: without a request the
first tile instruction ends the process. What is asked once holds for every thread, those to come
too. Source: Linux, Documentation/arch/x86/xstate.rst.
"""

import ctypes
import os
import platform
from functools import cache

_SYS_ARCH_PRCTL = 158
"""Linux's number of the system call arch_prctl on x86-64."""

_ARCH_REQ_XCOMP_PERM = 0x1023
"""Its request for the use of a state component."""

_TILE_DATA = 18
"""The state component of the tiles (XTILEDATA)."""


@cache
def ask_for_tiles() -> str | None:
    """None if this process may use AMX from now on, else why not, in words. Asks once a process."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "only Linux on x86-64 is known to be asked for tiles"
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    arguments = (_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _TILE_DATA)
    if libc.syscall(*map(ctypes.c_long, arguments)) == 0:
        return None
    error = os.strerror(ctypes.get_errno())
    return (
        f"the operating system refuses the use of tiles (ARCH_REQ_XCOMP_PERM: {error}); it takes "
        "Linux 5.16 or newer, and a container or sandbox that lets arch_prctl through"
    )
