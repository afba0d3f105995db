"""Machine code for AArch64 on any machine: QEMU's user mode runs it in a process of its own.

    run(object_code, [Call("product", (a, b, c))], Processor(vector_bits=256))
    executor(kernel)(a, b, c)  # as kernel(a, b, c) would where the processor is real

Arrays are copied to memory that both processes share, each between guards that can't be touched;
what the code has written is copied back. Many calls may share one process, which takes some 25 ms
to start. No compiler and no library for AArch64 is needed, only QEMU and LLVM's linker: see
`nkdsl.emulation.guest`.

QEMU is found by the environment variable `NKDSL_QEMU_AARCH64`, then by name. Version 7.2 executes
all of NEON and SVE that nkdsl uses rightly, and SME on floating-point numbers; version 10.0 is
right about SME on integers too. Imports: runtime, backends, `nkdsl.emulation.guest`.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nkdsl.backends.linker import find_linker
from nkdsl.emulation.guest import (
    NO_MEMORY,
    TRIPLE,
    Argument,
    Array,
    Bytes,
    Call,
    Edge,
    Image,
    executable,
)
from nkdsl.errors import ToolFailed, ToolNotFound, Unsupported
from nkdsl.runtime.kernel import Kernel
from nkdsl.runtime.workspace import ALIGNMENT
from nkdsl.targets.model import Target

__all__ = [
    "Call",
    "Processor",
    "executor",
    "find_qemu",
    "obstacle",
    "processor_of",
    "run",
    "version",
]

VARIABLE = "NKDSL_QEMU_AARCH64"
"""The environment variable that names the emulator."""

NAMES = ("qemu-aarch64", "qemu-aarch64-static")
"""What it is looked for as otherwise, in order."""

INSTALL = "apt-get install --no-install-recommends qemu-user"

TIMEOUT = 600.0
"""Seconds that a process may take: more than anything does that ends at all."""

RIGHT_ABOUT_TILES = (10, 0)
"""A version that multiplies tiles of integers rightly; 7.2 does not."""

_TILES_OF_INTEGERS = re.compile(r"llvm\.aarch64\.sme\.[su]{1,2}mopa\.")
"""The intrinsics that do so."""

_MEANINGLESS = 0xFF
"""Each byte of a workspace before a call: NaN in all floating-point types."""


@dataclass(frozen=True)
class Processor:
    """What QEMU pretends to be."""

    cpu: str = "max"
    """QEMU's name of a processor; `max` has every extension that QEMU knows."""
    vector_bits: int | None = None
    """The width of SVE's registers; None for a processor without SVE."""
    streaming_bits: int | None = None
    """The width of registers in SME's streaming mode; None for a processor without SME."""

    @property
    def option(self) -> str:
        """The argument of QEMU's option -cpu."""
        if self.cpu != "max":
            return self.cpu
        has_sme = self.streaming_bits is not None
        words = [self.cpu]
        if self.vector_bits is not None:
            # A program starts with registers of 512 bits at most if it isn't said.
            start = f"sve-default-vector-length={self.vector_bits // 8}"
            words += [f"sve{self.vector_bits}=on", start]
        elif not has_sme:  # QEMU has no SME without SVE
            words.append("sve=off")
        # With FA64, what is illegal in streaming mode would go unnoticed.
        words += [f"sme{self.streaming_bits}=on", "sme_fa64=off"] if has_sme else ["sme=off"]
        return ",".join(words)


PLAIN = Processor()
"""A processor with NEON, and neither SVE nor SME."""


# ------------------------------------------------------------------------------------------ tools


def find_qemu() -> str:
    """The path of QEMU.

    Raises:
        ToolNotFound: where it is missing; says how to install it.
    """
    chosen = os.environ.get(VARIABLE)
    candidates = (chosen,) if chosen else NAMES
    found = next((p for name in candidates if (p := shutil.which(name))), None)
    if found is None:
        where = f"{VARIABLE}={chosen}" if chosen else " or ".join(candidates)
        raise ToolNotFound(
            f"QEMU's emulator of AArch64 was not found ({where}); install it with: {INSTALL}"
        )
    return found


def obstacle() -> str | None:
    """Why no code for AArch64 can be run here, with the remedy; None if it can."""
    try:
        find_qemu()
        find_linker(TRIPLE)
    except ToolNotFound as missing:
        return str(missing)
    return None


def version() -> tuple[int, int]:
    """QEMU's version, as in (7, 2).

    Raises:
        ToolNotFound: where it is missing.
        ToolFailed: where it does not tell.
    """
    return _version(find_qemu())


@cache
def _version(path: str) -> tuple[int, int]:
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"version (\d+)\.(\d+)", done.stdout)
    if match is None:
        raise ToolFailed(f"{path} does not tell its version: {done.stderr.strip()}")
    return int(match[1]), int(match[2])


# -------------------------------------------------------------------------------------- execution


def run(
    object_code: bytes,
    calls: Sequence[Call],
    processor: Processor = PLAIN,
    *,
    at: Edge = "end",
    timeout: float = TIMEOUT,
) -> None:
    """Call functions one after the other in one process, and change their arrays as they do.

    Each call sees its arrays as they are now, whatever the calls before it do; no two calls may
    write to the same memory. An array that isn't writeable can't be written by the code either.

    Args:
        object_code: an object file for `guest.TRIPLE`.
        calls: what to call.
        processor: what to emulate.
        at: which end of each array lies against a guard. At the other one only writing is noticed,
            where the array does not fill whole pages.
        timeout: seconds until the process is stopped.

    Raises:
        ToolNotFound: where QEMU or the linker is missing; says how to install it.
        ToolFailed: where the code ends by a signal, writes beside an array or takes too long, and
            where QEMU refuses the processor. Arrays are unchanged then.
    """
    image = Image(calls, at)
    program = executable(object_code, image.prototypes)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as file:
        path = Path(folder, "program")
        path.write_bytes(program)
        path.chmod(0o700)
        file.truncate(image.size)
        memory = np.memmap(file, np.uint8, "r+")
        image.write(memory)
        command = [find_qemu(), "-cpu", processor.option, str(path)]
        try:
            done = subprocess.run(
                command, stdin=file, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            late = f"had not returned after {timeout:g} s"
            raise ToolFailed(f"{_unfinished(image, memory)} {late} under {command[0]}") from error
        if done.returncode:
            raise ToolFailed(_failure(image, memory, done))
        if (stray := image.stray(memory)) is not None:
            call, position = stray
            raise ToolFailed(f"{call.symbol} wrote beside the array of argument {position}")
        image.read(memory)


def _unfinished(image: Image, memory: Bytes) -> str:
    """The call that did not return."""
    number = image.finished(memory)
    if number >= len(image.calls):
        return "a process whose calls had all returned"
    of = f" (call {number} of {len(image.calls)})" if len(image.calls) > 1 else ""
    return f"{image.calls[number].symbol}{of}"


def _failure(image: Image, memory: Bytes, done: "subprocess.CompletedProcess[str]") -> str:
    """What to say of a process that did not end well."""
    qemu, status = done.args[0], done.returncode
    if status < 0:
        name = signal.Signals(-status).name
        return f"{_unfinished(image, memory)} was killed by {name} under {qemu}"
    if status == NO_MEMORY:
        return f"{qemu} could not map {image.size} bytes of arguments"
    return f"{qemu} failed: {done.stderr.strip() or f'it ended with exit status {status}'}"


# ---------------------------------------------------------------------------------------- kernels


def executor(
    kernel: Kernel, processor: Processor | None = None, *, at: Edge = "end"
) -> Callable[..., None]:
    """A function that does what a call of a kernel does, under QEMU.

    It takes arrays and numbers as the kernel does and writes to the arrays in place. What the
    kernel only reads can't be written.

    Args:
        kernel: what to run; its target must be for AArch64.
        processor: what to emulate; by default a processor with what the target has.
        at: which end of each array lies against a guard.

    Raises:
        ToolNotFound: where QEMU or the linker is missing, or QEMU is of a version that is known to
            execute the kernel wrongly; says how to install it.
        Unsupported: for a kernel for another architecture.

    The function raises InvalidInput for arguments that don't fit, and ToolFailed as `run` does.
    """
    target = kernel.target
    if not target.triple.startswith("aarch64-"):
        raise Unsupported(f"QEMU runs code for aarch64, but target '{target.name}' is another one")
    if (missing := obstacle()) is not None:
        raise ToolNotFound(missing)
    _refuse_wrong(kernel.ir("llvm"))
    object_code = kernel.object_code()
    chosen = processor or processor_of(target)

    def execute(*arguments: Any) -> None:
        given = tuple(_native_arguments(kernel, arguments))
        run(object_code, [Call(kernel.signature.symbol, given)], chosen, at=at)

    return execute


def processor_of(target: Target) -> Processor:
    """A processor that has what a target needs, with registers as wide as the target's."""
    widest = max(i.bits for i in target.instructions)
    return Processor(
        vector_bits=widest if "+sve" in target.required else None,
        streaming_bits=target.tiles.vector_bits if target.tiles is not None else None,
    )


def _refuse_wrong(llvm_ir: str) -> None:
    """Refuse code that this QEMU is known to execute wrongly."""
    if version() < RIGHT_ABOUT_TILES and _TILES_OF_INTEGERS.search(llvm_ir):
        have, needed = (".".join(map(str, v)) for v in (version(), RIGHT_ABOUT_TILES))
        raise ToolNotFound(
            f"{find_qemu()} is version {have}, which computes SME's outer products of integers "
            f"wrongly; version {needed} is right (Debian 13 has it, and so has bookworm-backports "
            f"for Debian 12); name it in {VARIABLE}, or install it with: {INSTALL}"
        )


def _native_arguments(kernel: Kernel, arguments: Sequence[Any]) -> Iterator[Argument]:
    """What native code gets of a kernel's arguments, arrays in place of pointers."""
    parameters = kernel.signature.parameters
    values = iter(kernel.signature.check(arguments))
    for argument, parameter in zip(arguments, parameters, strict=True):
        first = next(values)
        if parameter.scalar:
            yield np.float32(first) if parameter.element.size == 4 else float(first)
            continue
        yield argument if parameter.written else _readonly(argument)
        yield from islice(values, len(parameter.endings))
    if kernel.workspace_bytes:
        size = -(-kernel.workspace_bytes // ALIGNMENT) * ALIGNMENT
        yield np.full(size, _MEANINGLESS, np.uint8)


def _readonly(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view
