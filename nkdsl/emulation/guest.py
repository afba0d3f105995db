"""What runs beside machine code on an emulated AArch64: a driver without a C library, and memory.

The driver is LLVM IR, so that no compiler and no library for AArch64 is needed. Its standard input
is a file that the emulator's process and this one both map; it holds an `Image`: the calls, as
words of 64 bits, then the memory of the arrays, each between two guards that can't be touched.

    protections, calls, finished    how many; `finished` is counted up by the driver
    address, bytes, protection      for each range of pages that is not plain memory
    thunk, address of its slots     for each call
    slots                           one word for each argument of each call

A *thunk* loads the arguments of one kind of call from their slots; LLVM puts them where the
calling convention wants them.

Numbers of system calls, and their flags, are those of Linux on AArch64 (include/uapi/asm-generic:
unistd.h, mman-common.h, resource.h). Imports: llvmlite, numpy, `backends.linker`.
"""

import ctypes
import math
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt

from nkdsl.backends.linker import link_static
from nkdsl.runtime.address import address_of

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

Argument = Array | np.float32 | float | int
"""An array is passed as a pointer to its first element, a float as f64, an integer as i64."""

Edge = Literal["start", "end"]
"""Which end of an array lies against a guard."""

TRIPLE = "aarch64-unknown-linux-gnu"
"""LLVM's name of what is emulated."""

# ------------------------------------------------------------------------------------- the driver

BASE = 1 << 40
"""Where the file is mapped: far from programs, which lie at either end of the address space."""

NO_MEMORY = 99
"""The driver's exit status where the file can't be mapped."""

_SYSTEM_CALL = """
define i64 @system_call(i64 %number, i64 %a, i64 %b, i64 %c, i64 %d, i64 %e, i64 %f) noinline
    prologue [9 x i32] [
      i32 u0xAA0003E8, ; mov x8, x0
      i32 u0xAA0103E0, ; mov x0, x1
      i32 u0xAA0203E1, ; mov x1, x2
      i32 u0xAA0303E2, ; mov x2, x3
      i32 u0xAA0403E3, ; mov x3, x4
      i32 u0xAA0503E4, ; mov x4, x5
      i32 u0xAA0603E5, ; mov x5, x6
      i32 u0xD4000001, ; svc #0
      i32 u0xD65F03C0  ; ret
    ] {
  unreachable
}
"""
"""A system call as numbers: llvmlite has an assembler for this machine's architecture only."""

_START = f"""
@no_limit = private constant [2 x i64] zeroinitializer

define void @_start() noreturn {{
begin:
  ; No core dump of a crash: prlimit64(0, RLIMIT_CORE, {{0, 0}}, null).
  %limit = ptrtoint ptr @no_limit to i64
  call i64 @system_call(i64 261, i64 0, i64 4, i64 %limit, i64 0, i64 0, i64 0)
  ; lseek(0, 0, SEEK_END)
  %size = call i64 @system_call(i64 62, i64 0, i64 0, i64 2, i64 0, i64 0, i64 0)
  ; mmap(BASE, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, 0, 0)
  %mapped = call i64 @system_call(i64 222, i64 {BASE}, i64 %size, i64 3, i64 1048577, i64 0, i64 0)
  %is_mapped = icmp eq i64 %mapped, {BASE}
  br i1 %is_mapped, label %read, label %fail
fail:
  ; exit_group(NO_MEMORY)
  call i64 @system_call(i64 94, i64 {NO_MEMORY}, i64 0, i64 0, i64 0, i64 0, i64 0)
  unreachable
read:
  %file = inttoptr i64 {BASE} to ptr
  %protections = load i64, ptr %file
  %calls_place = getelementptr i64, ptr %file, i64 1
  %calls = load i64, ptr %calls_place
  %finished_place = getelementptr i64, ptr %file, i64 2
  %first = getelementptr i64, ptr %file, i64 3
  br label %protect
protect:
  %protected = phi i64 [0, %read], [%protected_next, %protect_one]
  %range = phi ptr [%first, %read], [%range_next, %protect_one]
  %is_protected = icmp eq i64 %protected, %protections
  br i1 %is_protected, label %call, label %protect_one
protect_one:
  %bytes_place = getelementptr i64, ptr %range, i64 1
  %protection_place = getelementptr i64, ptr %range, i64 2
  %address = load i64, ptr %range
  %bytes = load i64, ptr %bytes_place
  %protection = load i64, ptr %protection_place
  ; mprotect(address, bytes, protection)
  call i64 @system_call(i64 226, i64 %address, i64 %bytes, i64 %protection, i64 0, i64 0, i64 0)
  %protected_next = add i64 %protected, 1
  %range_next = getelementptr i64, ptr %range, i64 3
  br label %protect
call:
  %called = phi i64 [0, %protect], [%called_next, %call_one]
  %record = phi ptr [%range, %protect], [%record_next, %call_one]
  %is_done = icmp eq i64 %called, %calls
  br i1 %is_done, label %done, label %call_one
call_one:
  %number = load i64, ptr %record
  %slots_place = getelementptr i64, ptr %record, i64 1
  %slots = load ptr, ptr %slots_place
  %thunk_place = getelementptr ptr, ptr @thunks, i64 %number
  %thunk = load ptr, ptr %thunk_place
  call void %thunk(ptr %slots)
  %called_next = add i64 %called, 1
  store i64 %called_next, ptr %finished_place
  %record_next = getelementptr i64, ptr %record, i64 2
  br label %call
done:
  ; exit_group(0)
  call i64 @system_call(i64 94, i64 0, i64 0, i64 0, i64 0, i64 0, i64 0)
  unreachable
}}
"""


@dataclass(frozen=True)
class Prototype:
    """One way in which a function is called."""

    symbol: str
    types: tuple[str, ...]
    """LLVM's types of its arguments: `ptr`, `i64`, `float` or `double`."""


@lru_cache(maxsize=16)
def executable(object_code: bytes, prototypes: tuple[Prototype, ...]) -> bytes:
    """A static program: the driver, with a thunk for each prototype, and the object code.

    Raises:
        ToolNotFound: where no linker for AArch64 is installed; says how to get one.
        ToolFailed: with the linker's message, for a function that is nowhere defined.
    """
    return link_static((_driver(prototypes), object_code), TRIPLE)


def _driver(prototypes: Sequence[Prototype]) -> bytes:
    """The driver's object code."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly("\n".join(_driver_ir(prototypes)))
    module.triple = TRIPLE
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine(reloc="static")
    return bytes(machine.emit_object(module))


def _driver_ir(prototypes: Sequence[Prototype]) -> Iterator[str]:
    thunks = ", ".join(f"ptr @thunk{number}" for number in range(len(prototypes)))
    yield f"@thunks = private constant [{len(prototypes)} x ptr] [{thunks}]"
    for symbol in dict.fromkeys(prototype.symbol for prototype in prototypes):
        yield f'declare void @"{symbol}"()'
    yield _SYSTEM_CALL
    yield _START
    for number, prototype in enumerate(prototypes):
        yield from _thunk(f"thunk{number}", prototype)


def _thunk(name: str, prototype: Prototype) -> Iterator[str]:
    """A function of one argument, the address of slots, which calls another."""
    yield f"define private void @{name}(ptr %slots) {{"
    for position, type_ in enumerate(prototype.types):
        yield f"  %place{position} = getelementptr i64, ptr %slots, i64 {position}"
        yield f"  %argument{position} = load {type_}, ptr %place{position}"
    arguments = ", ".join(f"{type_} %argument{i}" for i, type_ in enumerate(prototype.types))
    yield f'  call void @"{prototype.symbol}"({arguments})'
    yield "  ret void"
    yield "}"


# ------------------------------------------------------------------------------------- its memory

_GUARD = 1 << 16
"""Bytes in front of and behind each array; also the largest page that AArch64 has."""

_PAGE = max(_GUARD, mmap.PAGESIZE)
"""Bytes of which array's memory takes whole numbers."""

_FILL = 0xFF
"""What surrounds an array in its pages: NaN in all floating-point types."""

_NONE, _READ = 0, 1
"""Protections of pages."""

_HEADER = 3
"""Words in front of the first protection."""


@dataclass(frozen=True)
class Call:
    """One call of a function that returns nothing."""

    symbol: str
    arguments: tuple[Argument, ...]
    """They are read when the call is run; arrays may be any views."""

    @cached_property
    def prototype(self) -> Prototype:
        """The kind of this call."""
        return Prototype(self.symbol, tuple(_llvm_type(argument) for argument in self.arguments))


def _llvm_type(argument: Argument) -> str:
    if isinstance(argument, np.ndarray):
        return "ptr"
    if isinstance(argument, np.float32):
        return "float"
    return "double" if isinstance(argument, float) else "i64"


@dataclass(frozen=True)
class Buffer:
    """An array's memory, holes included, and its copy in the file."""

    span: Bytes
    """From the lowest address to the highest."""
    first: int
    """Bytes from there to the array's first element."""
    pages: slice
    """The bytes of the file that can be touched."""
    place: slice
    """Those that are the array."""
    readonly: bool

    @classmethod
    def of(cls, array: Array, start: int, at: Edge) -> "Buffer":
        """The buffer of an array whose pages start at some byte of the file."""
        span, first = _span(array)
        size = math.ceil(span.size / _PAGE) * _PAGE
        low = start + (size - span.size if at == "end" else 0)
        pages, place = slice(start, start + size), slice(low, low + span.size)
        return cls(span, first, pages, place, not array.flags.writeable)

    @property
    def address(self) -> int:
        """Where the array's first element is."""
        return int(BASE + self.place.start + self.first)

    def write(self, file: Bytes) -> None:
        """Copy the array into the file."""
        file[self.pages] = _FILL
        file[self.place] = self.span

    def is_alone_changed(self, file: Bytes) -> bool:
        """Whether nothing beside the array was written."""
        before = file[self.pages.start : self.place.start]
        behind = file[self.place.stop : self.pages.stop]
        return bool((before == _FILL).all() and (behind == _FILL).all())

    def changed(self, file: Bytes) -> npt.NDArray[np.bool_]:
        """Which bytes were written; the others may be holes, and another's memory."""
        return np.asarray(file[self.place] != self.span)

    def read(self, file: Bytes, changed: npt.NDArray[np.bool_]) -> None:
        """Take over the bytes that were changed."""
        if changed.any():
            self.span[changed] = file[self.place][changed]


def _span(array: Array) -> tuple[Bytes, int]:
    """The memory of an array, and the bytes from its start to the first element."""
    if not array.size:
        return np.empty(0, np.uint8), 0
    reaches = [(n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)]
    first = -sum(min(0, reach) for reach in reaches)
    size = array.itemsize + sum(abs(reach) for reach in reaches)
    memory = (ctypes.c_uint8 * size).from_address(address_of(array) - first)
    return np.frombuffer(memory, np.uint8), first


class Image:
    """The file that the driver maps."""

    def __init__(self, calls: Sequence[Call], at: Edge):
        """Of calls whose arrays end, or start, at a guard."""
        self.calls = tuple(calls)
        self.prototypes = tuple(dict.fromkeys(call.prototype for call in calls))
        arrays = [a for call in calls for a in call.arguments if isinstance(a, np.ndarray)]
        start = self._header_size(len(arrays))
        buffers: list[Buffer] = []
        for array in arrays:
            buffers.append(Buffer.of(array, start + _GUARD, at))
            start = buffers[-1].pages.stop
        self.buffers = tuple(buffers)
        """Those of each call's arrays, in order."""
        self.size = start + _GUARD
        """Bytes of the file."""

    def _header_size(self, arrays: int) -> int:
        """Bytes in front of the first guard."""
        # A guard in front of each array, and perhaps pages that are only read; a last guard.
        protections = 2 * arrays + 1
        slots = sum(len(call.arguments) for call in self.calls)
        words = _HEADER + 3 * protections + 2 * len(self.calls) + slots
        return math.ceil(8 * words / _PAGE) * _PAGE

    def write(self, file: Bytes) -> None:
        """Fill a file of zeros."""
        words = self._words()
        file[: 8 * len(words)].view(np.uint64)[:] = words
        for buffer in self.buffers:
            buffer.write(file)

    def _words(self) -> list[int]:
        """The calls."""
        ranges = list(self._protected())
        words = [len(ranges), len(self.calls), 0]
        for start, size, protection in ranges:
            words += [BASE + start, size, protection]
        addresses = iter([buffer.address for buffer in self.buffers])
        first_slot = len(words) + 2 * len(self.calls)
        slots: list[int] = []
        for call in self.calls:
            number = self.prototypes.index(call.prototype)
            words += [number, BASE + 8 * (first_slot + len(slots))]
            slots += [_slot(argument, addresses) for argument in call.arguments]
        return words + slots

    def _protected(self) -> Iterator[tuple[int, int, int]]:
        """First byte, size and protection of what is not plain memory."""
        for buffer in self.buffers:
            pages = buffer.pages
            yield pages.start - _GUARD, _GUARD, _NONE
            if buffer.readonly and buffer.span.size:
                yield pages.start, pages.stop - pages.start, _READ
        yield self.size - _GUARD, _GUARD, _NONE

    def finished(self, file: Bytes) -> int:
        """How many calls have returned."""
        return int(file[: 8 * _HEADER].view(np.uint64)[2])

    def stray(self, file: Bytes) -> tuple[Call, int] | None:
        """A call and the position of an array beside which memory was written, if any was."""
        buffers = iter(self.buffers)
        for call in self.calls:
            for position, argument in enumerate(call.arguments):
                if isinstance(argument, np.ndarray) and not next(buffers).is_alone_changed(file):
                    return call, position
        return None

    def read(self, file: Bytes) -> None:
        """Change the arrays as the calls did, in their order."""
        # What was changed is found before any array is, for an array may have several buffers.
        changes = [buffer.changed(file) for buffer in self.buffers]
        for buffer, changed in zip(self.buffers, changes, strict=True):
            buffer.read(file, changed)


def _slot(argument: Argument, addresses: Iterator[int]) -> int:
    """The word that an argument is loaded from."""
    if isinstance(argument, np.ndarray):
        return next(addresses)
    if isinstance(argument, np.float32):
        return int(argument.view(np.uint32))
    if isinstance(argument, float):
        return int(np.float64(argument).view(np.uint64))
    return int(argument) % 2**64
