"""LLVM's OpenMP runtime, which kernels of several threads call: finding it and loading it once.

Two copies of this runtime in one process end it (`OMP: Error #15`). So the copy that something
else has brought is used, wherever the dynamic loader hides it, and only where there is none is one
loaded: the file that `NKDSL_OPENMP` names, else the one of this Python environment, which its other
packages would load too, else the system's.

The copy loaded here stays out of the process's global scope. It also offers the entry points of
GNU's libgomp, and libraries that come later must keep their own. LLVM is told the few addresses
that kernels need.
"""

import ctypes
import mmap
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import llvmlite.binding as llvm

from nkdsl.errors import InvalidInput

VARIABLE = "NKDSL_OPENMP"
"""The environment variable that names the runtime to load."""

SYMBOLS = (
    "__kmpc_fork_call",
    "__kmpc_push_num_threads",
    "__kmpc_global_thread_num",
    "__kmpc_for_static_init_8u",
    "__kmpc_for_static_fini",
    "__kmpc_barrier",
)
"""What kernels call."""

_CALL = "@__kmpc_fork_call("
"""What starts a parallel region in LLVM IR."""

_MARK = b"__KMP_REGISTERED_LIB_"
"""What every copy says of itself while it runs; no other library has these words in its file."""

NAMES = ("libomp.so.5", "libomp.so", "libiomp5.so")
"""The file names of LLVM's runtime; Intel's is a build of the same source."""

REMEDY = (
    "apt-get install --no-install-recommends libomp5, or pip install intel-openmp, "
    f"or name the library in {VARIABLE}"
)

BLOCKTIME = 5
"""Milliseconds that an idle worker spins before it sleeps.

Waking a sleeper takes 0.1. Below the scheduler's time slice, 3 or 4, most calls on a busy machine
pay for that: a thread that waits for one without a core falls asleep meanwhile. The runtime's own
default, 200, burns a core long after the last call."""

_BLOCKTIME_VARIABLES = ("KMP_BLOCKTIME", "KMP_LIBRARY", "OMP_WAIT_POLICY")
"""Where one of these is set, the user has decided."""

_FOLDERS = (
    "/usr/lib/llvm-*/lib",
    "/usr/local/lib",
    "/usr/lib/*-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/opt/intel/oneapi/compiler/latest/lib",
)
"""Where systems keep it, as patterns."""

_MAPS = Path("/proc/self/maps")
_REGISTERS = ("/dev/shm", "/tmp")
"""Where a running copy writes down that it runs, so that another one can refuse to."""


@dataclass(frozen=True)
class Runtime:
    """One copy of the runtime."""

    path: str
    origin: str
    """Who brought it."""

    def __str__(self) -> str:
        """For humans: the file, its version where it is known, and who brought it."""
        version = _version(self.path)
        return f"{self.path} ({version + ', ' if version else ''}{self.origin})"


@dataclass(frozen=True)
class _Loaded:
    """A copy in this process."""

    runtime: Runtime
    library: ctypes.CDLL


_lock = threading.Lock()
_loaded: _Loaded | None = None
_warned = False


def find() -> Runtime | None:
    """The runtime that `ensure_loaded` would use; loads nothing.

    Raises:
        InvalidInput: where `NKDSL_OPENMP` names something else.
    """
    if _loaded is not None:
        return _loaded.runtime
    present = _in_process()
    if present is not None:
        return present.runtime
    return None if _running_copy() is not None else next(_on_disk(), None)


def ensure_loaded() -> Runtime | None:
    """Have the runtime in this process, its functions known to LLVM; None where there is none.

    Machine code that calls the runtime must not be loaded after None: LLVM ends the process.

    Raises:
        InvalidInput: where `NKDSL_OPENMP` names something else.
    """
    global _loaded
    with _lock:
        if _loaded is None:
            loaded = _in_process() or _load()
            if loaded is None:
                return None
            for name in SYMBOLS:
                llvm.add_symbol(name, _address(loaded.library, name))
            _loaded = loaded
        return _loaded.runtime


def set_threads(count: int) -> None:
    """How many threads the next regions of the calling thread get that ask for no number."""
    assert _loaded is not None, "ensure_loaded() comes first"
    _loaded.library.omp_set_num_threads(ctypes.c_int(count))


def is_called(llvm_ir: str) -> bool:
    """Whether a program needs the runtime."""
    return _CALL in llvm_ir


def absence() -> str:
    """Why there is no runtime to use, and the remedy."""
    running = _running_copy()
    if running is not None:
        return (
            f"{running} holds a copy of LLVM's OpenMP runtime that others can't call, and a second "
            "one would end the process; use nkdsl's threads in a process without it"
        )
    return f"LLVM's OpenMP runtime was not found; get it with: {REMEDY}"


def warn_missing() -> None:
    """Warn, once in a process, that kernels run on one thread."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(f"kernels run on one thread: {absence()}", RuntimeWarning, stacklevel=2)


# ------------------------------------------------------------------------ in the process


def _in_process() -> _Loaded | None:
    """The copy that is in the process; of several, the one that runs."""
    running = _running_copy()
    for library in _libraries():
        if not _is_complete(library):
            continue
        path = _object_at(_address(library, SYMBOLS[0]))
        if path is not None and running in (None, path):
            return _Loaded(Runtime(path, "already in the process"), library)
    return None


def _libraries() -> Iterator[ctypes.CDLL]:
    """The global scope, then what was loaded apart from it: likely names first, then all."""
    yield ctypes.CDLL(None)
    for name in (*NAMES, *_mapped_libraries()):
        with suppress(OSError):
            yield ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_LOCAL)


def _mapped_libraries() -> list[str]:
    """The shared libraries in this process's memory."""
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:
        return []
    # Address range, permissions, offset, device, inode, and the file.
    fields = (line.split(maxsplit=5) for line in lines)
    paths = (found[5].removesuffix(" (deleted)") for found in fields if len(found) == 6)
    return list(dict.fromkeys(path for path in paths if ".so" in Path(path).name))


def _is_complete(library: ctypes.CDLL) -> bool:
    return all(hasattr(library, name) for name in SYMBOLS)


def _address(library: ctypes.CDLL, name: str) -> int:
    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    assert address is not None
    return address


class _Place(ctypes.Structure):
    """C's `Dl_info`."""

    _fields_ = [
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    ]


def _object_at(address: int) -> str | None:
    """The file that the code or data at an address came from."""
    place = _Place()
    found = ctypes.CDLL(None).dladdr(ctypes.c_void_p(address), ctypes.byref(place))
    return os.fsdecode(place.file) if found and place.file else None


def _running_copy() -> str | None:
    """The file that holds the copy which has started in this process, callable or not.

    A copy registers itself as `address-value-name`; the value at the address proves that the
    register is not one that another process of this number left behind.
    """
    for text in _registers():
        entry = re.match(r"(0x[0-9a-f]+)-([0-9a-f]+)-", text)
        if entry is None:
            continue
        address, value = (int(number, 16) for number in entry.groups())
        path = _object_at(address)
        if path is not None and ctypes.c_uint32.from_address(address).value == value:
            return path
    return None


def _registers() -> Iterator[str]:
    """What copies have written under this process's number: in a file, older ones in a variable."""
    old_name = f"{_MARK.decode()}{os.getpid()}"
    name = f"{old_name}_{os.getuid()}"
    for folder in _REGISTERS:
        with suppress(OSError):
            yield Path(folder, name).read_bytes().rstrip(b"\0").decode(errors="replace")
    # Python's own environment doesn't show what libraries add.
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    for variable in (name, old_name):
        text: bytes | None = getenv(variable.encode())
        if text is not None:
            yield text.decode(errors="replace")


# ------------------------------------------------------------------------------- on disk


def _load() -> _Loaded | None:
    """Load the first copy on disk that can be loaded."""
    if _running_copy() is not None:
        return None
    for runtime in _on_disk():
        try:
            library = ctypes.CDLL(runtime.path, mode=os.RTLD_LOCAL)
        except OSError as error:
            if runtime.origin == VARIABLE:
                raise InvalidInput(f"{VARIABLE}={runtime.path} can't be loaded: {error}") from error
            continue
        if _is_complete(library):
            _calm(library)
            return _Loaded(runtime, library)
        if runtime.origin == VARIABLE:
            raise InvalidInput(f"{VARIABLE}={runtime.path} lacks functions that kernels call")
    return None


def _calm(library: ctypes.CDLL) -> None:
    """Let idle workers sleep soon, in every thread; leaves the environment as it is."""
    if not any(variable in os.environ for variable in _BLOCKTIME_VARIABLES):
        with suppress(AttributeError):
            library.kmp_set_defaults(f"KMP_BLOCKTIME={BLOCKTIME}".encode())


def _on_disk() -> Iterator[Runtime]:
    """The files that hold a runtime, the best first.

    Raises:
        InvalidInput: where `NKDSL_OPENMP` names something else.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        if not _is_runtime(Path(chosen)):
            raise InvalidInput(
                f"{VARIABLE}={chosen} is not LLVM's OpenMP runtime (GNU's libgomp is another one); "
                f"name a libomp.so.5 or libiomp5.so, or unset {VARIABLE}"
            )
        yield Runtime(str(Path(chosen).absolute()), VARIABLE)
        return
    candidates = (
        *((path, "this Python environment") for path in _of_environment()),
        *((path, "the system") for path in _of_system()),
    )
    yield from (Runtime(str(path), origin) for path, origin in candidates if _is_runtime(path))


def _of_environment() -> Iterator[Path]:
    """Where packages of this Python put it: the wheel of Intel's, or conda's."""
    with suppress(metadata.PackageNotFoundError):
        for file in metadata.files("intel-openmp") or ():
            if file.name == "libiomp5.so":
                yield Path(str(file.locate())).resolve()
    yield from (Path(sys.prefix, "lib", name) for name in NAMES)


def _of_system() -> Iterator[Path]:
    """Where the system has it; of several versions of LLVM the latest first."""
    for pattern in _FOLDERS:
        folders = Path("/").glob(pattern.removeprefix("/"))
        for folder in sorted(folders, key=lambda path: _llvm_version(str(path)), reverse=True):
            yield from (folder / name for name in NAMES)


def _is_runtime(path: Path) -> bool:
    """Whether a file looks like the runtime; doesn't load it."""
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return content.find(_MARK) >= 0
    except (OSError, ValueError):  # not there, or empty
        return False


def _llvm_version(path: str) -> int:
    """The version in a path of the form that Debian uses, 0 without one."""
    found = re.search(r"/llvm-(\d+)", path)
    return int(found[1]) if found else 0


def _version(path: str) -> str:
    """Which release a file is of, where its place tells."""
    real = Path(path).resolve()
    number = _llvm_version(str(real))
    if number:
        return f"LLVM {number}"
    with suppress(metadata.PackageNotFoundError):
        wheel = metadata.distribution("intel-openmp")
        if any(Path(str(file.locate())).resolve() == real for file in wheel.files or ()):
            return f"intel-openmp {wheel.version}"
    return ""
