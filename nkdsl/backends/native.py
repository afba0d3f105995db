"""LLVM in process, through llvmlite: from LLVM IR to assembly, object code and running code.

Of LLVM's own passes only three run before code generation, those in `PASSES`. Kernels arrive
unrolled, vectorized and with their addresses laid out; what -O3 does beyond takes ten times as
long, and where it changes anything it hoists addresses out of loops until registers spill. For the
program in memory the code is made for the target's processor, never for "whatever this machine is".

Instructions are selected in the order of the IR: the machine scheduler, which knows nothing of
how a nanokernel keeps one factor and lets the other pass by, moves dozens of loads to the front of
long blocks and spills them. It is switched off around code generation only, since LLVM keeps that
switch for the whole process. (`llc -enable-misched=false` does the same.)
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import llvmlite.binding as llvm

from nkdsl.backends.routines import with_routines
from nkdsl.errors import ToolFailed, Unsupported
from nkdsl.targets import can_run
from nkdsl.targets.model import Target

_NAMED_INSTRUCTION = re.compile(r'\basm (sideeffect )?"[^"]')
"""Assembly that isn't empty, in LLVM IR."""

PASSES = ("simplify_cfg", "instruction_combine", "loop_rotate")
"""LLVM's function passes that run, by the names that llvmlite gives them."""


@cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.initialize_native_asmparser()


def _target_machine(target: Target, *, jit: bool) -> Any:
    _initialize()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu,
        features=",".join((*target.required, *target.tuning)),
        opt=3,
        reloc="default" if jit else "pic",
        codemodel="jitdefault" if jit else "default",
        jit=jit,
    )


def _optimized(llvm_ir: str, machine: Any, triple: str) -> Any:
    """The module after `PASSES`.

    Raises:
        ToolFailed: where LLVM refuses the module.
        Unsupported: for instructions written out, of another machine than this one: llvmlite reads
            only its own.
    """
    architecture = triple.split("-", maxsplit=1)[0]
    native = llvm.get_default_triple().split("-", maxsplit=1)[0]
    if architecture != native and _NAMED_INSTRUCTION.search(llvm_ir):
        raise Unsupported(
            f"the module names instructions of {architecture}, which can't be encoded on {native}; "
            "emit LLVM IR (--emit=llvm), and let llc make code of it"
        )
    try:
        module = llvm.parse_assembly(with_routines(llvm_ir))
        module.triple = triple
        module.verify()
    except RuntimeError as error:
        raise ToolFailed(f"LLVM refuses the module: {error}") from error
    passes = llvm.create_new_function_pass_manager()
    for name in PASSES:
        getattr(passes, f"add_{name}_pass")()
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options())
    for function in module.functions:
        if not function.is_declaration:
            passes.run(function, builder)
    return module


_ORDER = threading.Lock()
"""Held while LLVM's process-wide switches differ from its defaults."""


@contextmanager
def _source_order() -> Iterator[None]:
    """Generate code in the order of the IR."""
    with _ORDER:
        llvm.set_option("", "-enable-misched=false")
        try:
            yield
        finally:
            llvm.set_option("", "-enable-misched=true")


@dataclass(frozen=True)
class LoadedCode:
    """Machine code in memory; it lives as long as this object."""

    engine: Any
    """llvmlite's execution engine, which owns the code."""

    def address(self, symbol: str) -> int:
        """The entry point of a function."""
        return int(self.engine.get_function_address(symbol))


def load(llvm_ir: str, target: Target, *, emulated: bool = False) -> LoadedCode:
    """Machine code for this process.

    Args:
        llvm_ir: the module.
        target: what it was made for.
        emulated: whether its tile instructions will be emulated, so that the CPU may lack them.

    Raises:
        Unsupported: where this CPU lacks a feature that the target has.
    """
    missing = can_run(replace(target, tiles=None) if emulated else target)
    if missing is not None:
        raise Unsupported(
            f"this CPU can't run code for target '{target.name}': {missing}; "
            "compile for target 'host', or emit assembly or an object file instead"
        )
    machine = _target_machine(target, jit=True)
    module = _optimized(llvm_ir, machine, target.triple)
    with _source_order():
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
    return LoadedCode(engine)


def emit_assembly(llvm_ir: str, target: Target) -> str:
    """Assembly text for the target, on any machine."""
    machine = _target_machine(target, jit=False)
    module = _optimized(llvm_ir, machine, target.triple)
    with _source_order():
        return str(machine.emit_assembly(module))


def emit_object(llvm_ir: str, target: Target) -> bytes:
    """A position-independent object file for the target, on any machine."""
    machine = _target_machine(target, jit=False)
    module = _optimized(llvm_ir, machine, target.triple)
    with _source_order():
        return bytes(machine.emit_object(module))
