"""LLVM IR text in, callable machine code and its assembly out.

The benchmarks need a handful of tiny native functions (a loop of calls, a loop of FMAs, a call with
constants baked in). They are written as LLVM IR text in SSA form and are compiled *without* IR
optimization passes, so that what is timed is what is written: code generation alone neither
unrolls nor vectorizes. This is deliberately not the compiler's own backend: the stopwatch must not
depend on what it measures.

    define void @f(i64 %n) { … }   ->   JitFunction(address=0x7f…, assembly="f: …")
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from llvmlite import binding as llvm

LLVM_NAMES = {
    "f32": "float",
    "f64": "double",
    "bf16": "bfloat",
    "s8": "i8",
    "u8": "i8",
    "s32": "i32",
}
"""LLVM's names of the element types."""


@dataclass(frozen=True)
class JitFunction:
    """A compiled function; its code lives as long as this object."""

    name: str
    address: int
    """Entry point, for `ctypes` or for a native loop."""
    assembly: str
    """The whole module's assembly, for tests that count instructions."""
    owner: object = field(repr=False, compare=False)
    """Keeps the execution engine, and so the machine code, alive."""


@dataclass(frozen=True)
class Cpu:
    """What code is generated for: LLVM's name of a CPU and its feature string."""

    name: str
    features: str = ""


@cache
def host_cpu() -> Cpu:
    """This machine, as LLVM sees it."""
    return Cpu(llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())


@cache
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def compile_ir(ir: str, name: str, cpu: Cpu | None = None) -> JitFunction:
    """Compile `ir` and look up `name` in it.

    Args:
        ir: a module as LLVM IR text.
        name: the function wanted.
        cpu: what to generate code for; the host when absent.

    Raises:
        RuntimeError: LLVM rejects the text.
        ValueError: no such function.
    """
    _initialize()
    chosen = cpu or host_cpu()
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(
        cpu=chosen.name, features=chosen.features, opt=3, jit=True
    )
    module = llvm.parse_assembly(ir)
    module.verify()
    assembly = machine.emit_assembly(module)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    address = engine.get_function_address(name)
    if not address:
        raise ValueError(f"the module defines no function @{name}")
    return JitFunction(name, address, assembly, (engine, machine))
