"""Intel AMX on x86-64 CPUs without it: machine code runs as it is, its AMX instructions trap.

```python
with amx.emulated() as machine:
    machine.watch_arrays({"a": a, "b": b, "c": c})
    kernel(a, b, c)  # native code, called through ctypes as on a CPU with AMX
assert machine.counts.multiplies == {"tdpbf16ps": 4096}
assert machine.counts.loads_by["c"] == 0
```

A CPU without AMX raises #UD at an AMX instruction, and the kernel sends SIGILL. A signal handler,
C code that the system's compiler builds on first use, executes the instruction on tiles of the
thread, then those that follow: AMX instructions, and the address arithmetic, counters and branches
between them. All else runs on the CPU. A trap takes about 10 µs, an emulated product of whole tiles
0.5 µs; a loop over k usually runs in one trap.

**What is emulated:** AMX-TILE, AMX-BF16, AMX-INT8 and AMX-FP16, instruction by instruction as in
Intel's manuals (amx_tiles.c says what they leave open). FS, GS and 32-bit addresses are refused.
Asking the kernel for permission (ARCH_REQ_XCOMP_PERM) is neither needed nor emulated.

**Faults:** what raises #UD or #GP on the hardware (no configuration, shapes that do not match, …)
is recorded; execution goes on after the instruction, and leaving the context raises
`EmulationFault`. Memory that a tile load or store may not touch is a plain SIGSEGV, at the
instruction.

**Counts** are those of the process, from all its threads, OpenMP's too. Contexts may be nested and
may be open in several threads at once; each sees all that happens while it is open. Where none was
open before, all threads begin with tiles released.

**Signals:** the handlers (SIGILL, SIGSEGV, SIGBUS) are installed while a context is open and pass
on what is not theirs to whoever had the signal before. `faulthandler` may be enabled before or
after a context, not inside of one: it would displace the handlers, and the next AMX instruction
would end the process. If that cannot be avoided, entering another context, nested, installs them
again. A thread that executes AMX instructions when the last context has been left dies of SIGILL,
as it does without emulator. Signal handlers must not execute AMX instructions: they would find the
tiles of the interrupted code.

**On a CPU with AMX** nothing is installed and nothing traps: code runs on the hardware, provided
that it has the kernel's permission, and all counts are 0.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from nkdsl.errors import InvalidInput, NkdslError, ToolFailed, ToolNotFound, Unsupported
from nkdsl.runtime.address import address_of

ELSEWHERE: Final = "elsewhere"
"""Where loads and stores are counted that no watched range holds."""

COMPILERS = ("cc", "gcc", "clang")
"""C compilers that are tried, in order, where the environment has no CC."""

FLAGS = (
    *("-std=gnu11", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread"),
    # The result runs on this machine only. A product and a sum are one operation where the source
    # says so, and nowhere else; floating-point exceptions are masked.
    *("-march=native", "-ffp-contract=off", "-fno-trapping-math"),
)

_FOLDER = Path(__file__).parent
_SOURCES = ("amx.c", "amx_decode.c", "amx_tiles.c", "amx_integer.c")
_HEADER = "amx.h"


class EmulationFault(NkdslError):
    """AMX instructions that the hardware would not have executed.

    The message names the first: its address, tiles with their shapes (rows × bytes in a row), and
    the reason.
    """

    address: int | None
    """Of the first such instruction, where it is known."""
    count: int
    """How many such instructions there were."""

    def __init__(self, message: str, address: int | None, count: int) -> None:
        super().__init__(message)
        self.address = address
        self.count = count


@dataclass(frozen=True)
class Counts:
    """How many AMX instructions were executed without fault, by kind."""

    ldtilecfg: int = 0
    sttilecfg: int = 0
    tilerelease: int = 0
    tilezero: int = 0
    tileloads: int = 0
    """`tileloadd` and `tileloaddt1`."""
    tilestores: int = 0
    multiplies: Mapping[str, int] = field(default_factory=dict)
    """By mnemonic, such as `tdpbf16ps`; those that were not executed are absent."""
    loads_by: Mapping[str, int] = field(default_factory=dict)
    """By the name of the watched range that holds the first byte, and `ELSEWHERE`."""
    stores_by: Mapping[str, int] = field(default_factory=dict)
    """The same for stores."""
    configured_threads: int = 0
    """Threads whose tiles are configured; one that ended so stays counted."""
    traps: int = 0
    """Signals that all this took."""


# ---- The library ------------------------------------------------------------------------------


def obstacle() -> str | None:
    """Why AMX cannot be emulated on this machine, and what to do about it; None where it can."""
    return _wrong_platform() or _no_compiler()


def _wrong_platform() -> str | None:
    if sys.platform == "linux" and platform.machine() == "x86_64" and sys.maxsize > 2**32:
        return None
    return (
        f"AMX machine code cannot run on {platform.system()}, {platform.machine()}; "
        "emulate it on Linux on a 64-bit x86 processor"
    )


def _compiler() -> list[str] | None:
    """The command line of the C compiler, or None where there is none."""
    chosen = shlex.split(os.environ.get("CC", ""))
    for words in [chosen] if chosen else [[name] for name in COMPILERS]:
        if path := shutil.which(words[0]):
            return [path, *words[1:]]
    return None


def _no_compiler() -> str | None:
    if _compiler() is not None:
        return None
    chosen = os.environ.get("CC", "").strip()
    names = f"CC is '{chosen}'" if chosen else ", ".join(COMPILERS)
    return (
        f"the emulator of AMX needs a C compiler, and none was found ({names}); install one with: "
        "apt-get install --no-install-recommends gcc libc6-dev"
    )


def _processor() -> str:
    """What `-march=native` depends on."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        first = file.read().split("\n\n")[0].splitlines()
    return "\n".join(line for line in first if line.startswith(("model name", "flags")))


def _build(command: list[str], folder: Path) -> ctypes.CDLL:
    """The library from a folder, compiled first where the folder lacks it.

    Raises:
        ToolFailed: with the compiler's message.
        OSError: where the folder can't be written to, or code in it can't be loaded.
    """
    texts = [(_FOLDER / name).read_bytes() for name in (*_SOURCES, _HEADER)]
    texts += [part.encode() for part in (*command, _processor())]
    digest = hashlib.sha256(b"\0".join(texts)).hexdigest()
    target = folder / f"amx-{digest[:32]}.so"
    if not target.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as private:
            result = Path(private, target.name)
            _compile(command, result)
            result.replace(target)  # at once: other processes see all of it, or nothing
    return ctypes.CDLL(str(target))


def _compile(command: list[str], result: Path) -> None:
    sources = [str(_FOLDER / name) for name in _SOURCES]
    done = subprocess.run(
        [*command, "-o", str(result), *sources, "-lm"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ToolFailed(f"{command[0]} failed on the emulator of AMX:\n{done.stderr.strip()}")


def _cache_folder() -> Path:
    """The user's cache of compiled emulators, by the XDG Base Directory Specification."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # to be ignored, says the specification
        base = Path("~/.cache").expanduser()
    return base / "nkdsl"


def _load() -> ctypes.CDLL:
    if (wrong := _wrong_platform()) is not None:
        raise Unsupported(wrong)
    compiler = _compiler()
    if compiler is None:
        raise ToolNotFound(_no_compiler())
    command = [*compiler, *FLAGS]
    try:
        library = _build(command, _cache_folder())
    except (OSError, RuntimeError):  # no home, no right to write there, or no right to execute
        with tempfile.TemporaryDirectory(prefix="nkdsl-") as folder:
            library = _build(command, Path(folder))
    _declare(library)
    return library


def _declare(library: ctypes.CDLL) -> None:
    """The types of the functions that amx.c exports."""
    slot, number = ctypes.c_int, ctypes.c_uint
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "amx_is_native": (ctypes.c_bool, []),
        "amx_reset": (None, []),
        "amx_install": (None, []),
        "amx_remove": (None, []),
        "amx_collect": (None, [ctypes.c_int]),
        "amx_name": (ctypes.c_char_p, [number]),
        "amx_executed": (ctypes.c_uint64, [number]),
        "amx_traps": (ctypes.c_uint64, []),
        "amx_configured_threads": (ctypes.c_int, []),
        "amx_fault_count": (number, []),
        "amx_fault": (ctypes.c_char_p, [number, ctypes.POINTER(ctypes.c_uint64)]),
        "amx_watch": (slot, [ctypes.c_uint64, ctypes.c_size_t]),
        "amx_watched_loads": (ctypes.c_uint64, [slot]),
        "amx_watched_stores": (ctypes.c_uint64, [slot]),
        "amx_unwatch": (None, [slot]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


@dataclass
class _Process:
    """What there is once in a process: the library, and how many contexts are open."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    library: ctypes.CDLL | None = None
    open_contexts: int = 0

    def enter(self, collect: bool) -> ctypes.CDLL:
        """Open a context, which wants faults to be collected or not; hold the lock."""
        library = self.library = self.library or _load()
        if not self.open_contexts:
            library.amx_reset()
        if not library.amx_is_native():
            library.amx_install()
        library.amx_collect(int(collect))
        self.open_contexts += 1
        return library

    def leave(self, collect: bool) -> None:
        """Close a context; hold the lock."""
        assert self.library is not None
        self.open_contexts -= 1
        self.library.amx_collect(-int(collect))
        if not self.open_contexts:
            self.library.amx_remove()


_PROCESS = _Process()

# ---- The machine ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Range:
    """A watched range of addresses, and its slot in the library's table."""

    start: int
    size: int
    slot: int


class Machine:
    """The emulated processor, as one context sees it."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._ranges: dict[str, _Range] = {}
        self._executed_before = self._executed()
        self._traps_before: int = library.amx_traps()
        self._faults_before: int = library.amx_fault_count()
        self._final: Counts | None = None

    def watch(self, name: str, address: int, size: int) -> None:
        """Count tile loads and stores from now on whose first byte is in a range of addresses.

        Args:
            name: the key in `Counts.loads_by` and `Counts.stores_by`.
            address: the first byte of the range.
            size: its size in bytes.

        Raises:
            InvalidInput: for a name that is in use, a range that is empty or has bytes in common
                with another range of this machine, or more ranges than the emulator has room for.
        """
        if self._final is not None:
            raise InvalidInput(f"cannot watch '{name}': the context has been left")
        if name == ELSEWHERE or name in self._ranges:
            raise InvalidInput(f"cannot watch '{name}': the name is in use")
        if size <= 0:
            raise InvalidInput(f"cannot watch '{name}': a range of {size} bytes")
        for other, known in self._ranges.items():
            if address < known.start + known.size and known.start < address + size:
                raise InvalidInput(f"cannot watch '{name}': it has bytes in common with '{other}'")
        with _PROCESS.lock:
            slot = self._library.amx_watch(address, size)
        if slot < 0:
            raise InvalidInput(f"cannot watch '{name}': too many ranges are being watched")
        self._ranges[name] = _Range(address, size, slot)

    def watch_arrays(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """`watch` the memory of arrays, from the lowest to the highest byte of their elements."""
        for name, array in arrays.items():
            steps = [(n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)]
            below, above = (sum(pick(0, step) for step in steps) for pick in (min, max))
            size = above - below + array.itemsize if array.size else 0
            self.watch(name, address_of(array) + below, size)

    @property
    def counts(self) -> Counts:
        """What was executed since the context was entered; final when it has been left."""
        return self._final or self._counts()

    def _executed(self) -> dict[str, int]:
        """For each mnemonic, how often the process has executed it."""
        result: dict[str, int] = {}
        while name := self._library.amx_name(len(result)):
            result[name.decode()] = self._library.amx_executed(len(result))
        return result

    def _counts(self) -> Counts:
        executed = {
            name: count - self._executed_before[name] for name, count in self._executed().items()
        }
        loads = executed["tileloadd"] + executed["tileloaddt1"]
        stores = executed["tilestored"]
        return Counts(
            ldtilecfg=executed["ldtilecfg"],
            sttilecfg=executed["sttilecfg"],
            tilerelease=executed["tilerelease"],
            tilezero=executed["tilezero"],
            tileloads=loads,
            tilestores=stores,
            multiplies={k: n for k, n in executed.items() if k.startswith("tdp") and n},
            loads_by=self._by_range(loads, self._library.amx_watched_loads),
            stores_by=self._by_range(stores, self._library.amx_watched_stores),
            configured_threads=self._library.amx_configured_threads(),
            traps=self._library.amx_traps() - self._traps_before,
        )

    def _by_range(self, total: int, count_of: Callable[[int], int]) -> dict[str, int]:
        counts = {name: count_of(known.slot) for name, known in self._ranges.items()}
        return counts | {ELSEWHERE: total - sum(counts.values())}

    def _fault(self) -> EmulationFault | None:
        """What went wrong while the context was open."""
        first = self._faults_before
        count: int = self._library.amx_fault_count() - first
        if count == 0:
            return None
        place = ctypes.c_uint64()
        text: bytes | None = self._library.amx_fault(first, place)
        if text is None:
            return EmulationFault(f"{count} AMX faults, after many others", None, count)
        more = f" (and {count - 1} more)" if count > 1 else ""
        message = f"AMX fault at {place.value:#x}: {text.decode()}{more}"
        return EmulationFault(message, place.value, count)

    def _close(self) -> None:
        self._final = self._counts()
        for known in self._ranges.values():
            self._library.amx_unwatch(known.slot)


@contextmanager
def emulated(*, crash: bool = False) -> Iterator[Machine]:
    """Emulate AMX while the context is open.

    Args:
        crash: do not record faults: print them to the standard error stream and leave the signal
            SIGILL to whoever had it before, so that a debugger or a core dump shows the
            instruction. Applies where no other open context records faults.

    Yields:
        The machine, which counts.

    Raises:
        Unsupported: on another operating system or processor.
        ToolNotFound: where there is no C compiler; the message says how to get one.
        ToolFailed: where the compiler can't compile the emulator; the message is the compiler's.
        EmulationFault: on leaving, if an instruction faulted. Where the body of the context raised
            an exception of its own, that one stays and gets the fault as a note.
    """
    with _PROCESS.lock:
        machine = Machine(_PROCESS.enter(collect=not crash))
    leave = partial(_leave, machine, collect=not crash)
    try:
        yield machine
    except BaseException as error:
        if (fault := leave()) is not None:
            error.add_note(str(fault))
        raise
    if (fault := leave()) is not None:
        raise fault


def _leave(machine: Machine, collect: bool) -> EmulationFault | None:
    """Leave a context; returns the fault of its time, if there was one."""
    with _PROCESS.lock:
        machine._close()
        fault = machine._fault()
        _PROCESS.leave(collect)
    return fault
