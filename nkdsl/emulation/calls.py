"""Kernels for processors that this machine has not: what they are compiled for, and how they run.

An x86-64 target with Intel AMX runs in this process, its tile instructions emulated (`amx`); what
else the table promises and this CPU lacks is left out of the code. An AArch64 target runs in a
process of QEMU (`qemu`). A processor that is here needs no emulation, and gets none.

Imports: targets, runtime, the emulators.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from nkdsl.errors import Unsupported
from nkdsl.targets import can_run
from nkdsl.targets.cpu import this_cpu
from nkdsl.targets.model import Target

if TYPE_CHECKING:
    from nkdsl.emulation.amx import Counts
    from nkdsl.runtime.kernel import Kernel

ARM = "aarch64"


def architecture(target: Target) -> str:
    """The first part of LLVM's triple."""
    return target.triple.partition("-")[0]


def emulated_target(target: Target) -> Target:
    """The table to compile for, if its code is to run here.

    Its features are those that this CPU has, and those that are emulated. Code that multiplies
    tiles is the same: what is left out are instructions beside it, of which LLVM has others.

    Raises:
        Unsupported: where nothing emulates the target; says why.
    """
    if can_run(target) is None or architecture(target) == ARM:
        return target
    cpu = this_cpu()
    if target.tiles is None or architecture(target) != cpu.architecture:
        emulated = "x86-64 targets with AMX on x86-64, and AArch64 targets"
        raise Unsupported(f"{can_run(target)}; what is emulated are {emulated}")
    missing = [f for f in target.features if f.removeprefix("+") not in cpu.features]
    return replace(
        target,
        features=tuple(f for f in target.features if f not in missing),
        tuning=(*target.tuning, *(f"-{f.removeprefix('+')}" for f in missing)),
    )


def emulated_call(kernel: "Kernel") -> Callable[..., None]:
    """A call of a kernel, as `kernel(...)` would be where its processor is real.

    Raises:
        ToolNotFound: where an emulator, or what builds it, is missing; says how to get it.
    """
    if architecture(kernel.target) == ARM:
        from nkdsl.emulation import qemu

        return qemu.executor(kernel)
    from nkdsl.emulation import amx

    native = kernel.checked

    def call(*arguments: object) -> None:
        with amx.emulated():
            native(*arguments)

    return call


@contextmanager
def emulated(kernel: "Kernel") -> Iterator[list[str]]:
    """Calls of an emulated kernel, of which a list then says what was executed, in words."""
    told: list[str] = []
    if architecture(kernel.target) == ARM:
        yield told
        told.append("in QEMU")
        return
    from nkdsl.emulation import amx

    with amx.emulated() as machine:
        yield told
        told += _in_words(machine.counts)


def _in_words(counts: "Counts") -> list[str]:
    """What the tile registers did."""
    products = sum(counts.multiplies.values())
    if not products:
        return ["no tile instruction was executed"]
    names = ", ".join(f"{count} {name}" for name, count in counts.multiplies.items())
    return [
        f"{names}; {counts.tileloads} tile loads, {counts.tileloads / products:.2f} a product; "
        f"{counts.tilestores} tile stores; {counts.ldtilecfg} configurations, "
        f"{counts.tilerelease} releases"
    ]
