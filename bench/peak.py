"""What 100 % means: the rate of a loop that does nothing but multiply-accumulate on registers.

The loop keeps enough independent accumulators to hide the latency of the instruction on every port
(latency 4 to 6 cycles times 2 ports needs 8 to 12) and few enough to leave room for two operands:

    define void @peak(i64 %steps, ptr %in, ptr %out) {
      … load every accumulator, %x and %y from %in …
    body:
      %s0.0 = call <16 x float> @llvm.fma.v16f32(%x, %y, %acc0)      ; one per accumulator,
      %s0.1 = call <16 x float> @llvm.fma.v16f32(%x, %y, %acc1)      ; UNROLL times over
      …
      … store every accumulator to %out …

Which instruction that is, the target's table tells by its mnemonic; how to write it, `LOOPS` does:
vfmadd, vdpbf16ps, vpdpbusd, fmla, sdot, …

On a processor with tiles the instruction multiplies those, and the registers are tiles:

    body:
      call void @llvm.x86.tdpbf16ps(i8 0, i8 6, i8 7)                ; one per accumulator

The start values come from memory and fast-math is off, so LLVM can fold nothing. `Peak.faults`
reads the assembly back: the loop must hold exactly the instructions that are counted, on whole
registers, and neither a load, a store nor a spill.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nkdsl.bench.jit import LLVM_NAMES, Cpu, JitFunction, compile_ir, host_cpu
from nkdsl.bench.timing import NativeContender
from nkdsl.errors import Unsupported
from nkdsl.targets import Instruction, Target, TileInstruction, can_run
from nkdsl.types import ElementType, element_type

STEPS = 256
"""Trips of the loop a call: some ten microseconds, against which the call is nothing."""
UNROLL = 4
"""Instructions on each accumulator a trip: the loop's own three fit beside them."""
ACCUMULATORS = {512: 20, 256: 12, 128: 12}
"""Independent accumulators by register width: 32 registers at 512 bits, else at least 16."""
TILE_ACCUMULATORS = 6
"""Of the eight tiles; the other two are the factors."""
_MEMORY = re.compile(r"\(%|\[(?:sp|x\d+|r[a-z0-9]+)")
_LABEL = re.compile(r"^([.\w$]+):")
_BRANCH = re.compile(r"^\s+(?:j\w+|b\.\w+)\s+([.\w$]+)")
_REGISTER = {
    512: re.compile(r"zmm\d+"),
    256: re.compile(r"ymm\d+"),
    128: re.compile(r"xmm\d+|v\d+\."),
}


@dataclass(frozen=True)
class Loop:
    """How LLVM IR writes one multiply-accumulate instruction."""

    intrinsic: str
    """Its name, with `{lanes}`, `{type}` and `{bits}` of the accumulator's register."""
    factor: str
    """LLVM's type of a factor's element; empty for the accumulator's own."""
    factors_first: bool = False
    """Whether the accumulator is the last argument."""
    adds: bool = True
    """Whether it adds; else its result is added by an instruction that is not counted."""
    assembly: str = ""
    """A regular expression for its names in assembly, where there are several."""


LOOPS = {
    "vfmadd": Loop("llvm.fma.v{lanes}{type}", "", True, assembly=r"vfn?m(?:add|sub)\d+p[sd]"),
    "vdpbf16ps": Loop("llvm.x86.avx512bf16.dpbf16ps.{bits}", "bfloat"),
    "vpdpbusd": Loop("llvm.x86.avx512.vpdpbusd.{bits}", "i8"),
    "vpdpwssd": Loop("llvm.x86.avx512.vpdpwssd.{bits}", "i16"),
    "vpmaddwd": Loop("{madd}", "i16", adds=False),
    "fmla": Loop("llvm.fma.v{lanes}{type}", "", True),
    "bfdot": Loop("llvm.aarch64.neon.bfdot.v4f32.v8bf16", "bfloat"),
    "sdot": Loop("llvm.aarch64.neon.sdot.v4i32.v16i8", "i8"),
    "udot": Loop("llvm.aarch64.neon.udot.v4i32.v16i8", "i8"),
    "usdot": Loop("llvm.aarch64.neon.usdot.v4i32.v16i8", "i8"),
}
"""By the mnemonic in a target's table."""
_MADD = {512: "llvm.x86.avx512.pmaddw.d.512", 256: "llvm.x86.avx2.pmadd.wd"}
_SIZES = {"float": 4, "double": 8, "i32": 4, "bfloat": 2, "i16": 2, "i8": 1}
"""Bytes of LLVM's types."""


@dataclass(frozen=True)
class Peak:
    """A compiled peak loop."""

    entry: Instruction
    cpu: Cpu
    function: JitFunction

    @property
    def bits(self) -> int:
        """Width of a register."""
        return self.entry.bits

    @property
    def on_tiles(self) -> bool:
        """Whether registers are tiles."""
        return isinstance(self.entry, TileInstruction)

    @property
    def count(self) -> int:
        """Instructions a trip of the loop."""
        return (TILE_ACCUMULATORS if self.on_tiles else ACCUMULATORS[self.bits]) * UNROLL

    @property
    def instruction(self) -> str:
        """What is counted, in the compiler's words: fma.f32x16."""
        return self.entry.name

    @property
    def flops(self) -> int:
        """Multiplications and additions a call."""
        return STEPS * self.count * self.entry.flops

    def loop(self) -> tuple[str, ...]:
        """The assembly of the loop's body."""
        return loop_body(self.function.assembly)

    def faults(self) -> tuple[str, ...]:
        """Why this loop would not measure the peak; empty when it does."""
        body, name = self.loop(), self.entry.mnemonic
        names = name if self.on_tiles else LOOPS[name].assembly or name
        counted = re.compile(rf"\s(?:{names})\s")
        found = [line for line in body if counted.search(line)]
        problems = []
        if len(found) != self.count:
            problems.append(f"{len(found)} of {name} in the loop instead of {self.count}")
        register = re.compile(r"tmm\d") if self.on_tiles else _REGISTER[self.bits]
        if any(not register.search(line) for line in found):
            problems.append(f"{name} on registers other than {self.bits} bits wide")
        problems += [f"memory access: {line.strip()}" for line in body if _MEMORY.search(line)]
        return tuple(problems)

    def contender(self) -> NativeContender:
        """The loop as a contender named `peak`."""
        start = _configuration(self.entry) if self.on_tiles else _start(self.entry)
        end = np.zeros_like(start)
        arguments = (STEPS, start.ctypes.data, end.ctypes.data)
        keep = (self.function, start, end)
        return NativeContender(
            "peak", self.function.address, arguments, self.flops, self.instruction, keep
        )


def _start(entry: Instruction) -> npt.NDArray[np.uint8]:
    """The first values of the accumulators, then those of two factors, register by register."""
    element = entry.accumulator_type
    lanes = ACCUMULATORS[entry.bits] * entry.lanes
    if element.is_integer:
        numbers = np.arange(lanes).astype(element.dtype)
        factors = np.arange(entry.bits // 4, dtype=np.uint8)
        return np.concatenate([numbers.view(np.uint8), factors])
    numbers = np.linspace(0.5, 1.0, lanes).astype(element.dtype)
    factor = element_type("bf16") if _factor(entry) == "bfloat" else element
    factors = np.linspace(0.5, 1.0, entry.bits // (4 * factor.size)).astype(factor.dtype)
    return np.concatenate([numbers.view(np.uint8), factors.view(np.uint8)])


def _configuration(entry: Instruction) -> npt.NDArray[np.uint8]:
    """What LDTILECFG reads, palette 1 and each tile 16 rows of 64 bytes; then two factors."""
    table = np.zeros(64, np.uint8)
    table[0], table[16:32:2], table[48:56] = 1, 64, 16
    rng, factor = np.random.default_rng(0), entry.operand_type
    if factor.is_integer:
        return np.concatenate([table, rng.integers(0, 256, 2048, np.uint8)])
    factors = rng.uniform(0.5, 1.0, 2048 // factor.size).astype(factor.dtype)
    return np.concatenate([table, factors.view(np.uint8)])


def compile_peak(entry: Instruction, cpu: Cpu | None = None) -> Peak:
    """Generate the loop of an instruction, unproven: see `Peak.faults`.

    Raises:
        Unsupported: nobody said how LLVM IR writes it.
    """
    if entry.mnemonic not in LOOPS and not _on_amx(entry):
        raise Unsupported(f"no loop measures {entry.name}; known are: {', '.join(LOOPS)}")
    chosen = cpu or host_cpu()
    return Peak(entry, chosen, compile_ir(peak_ir(entry), "peak", chosen))


def target_peak(lhs: ElementType, target: Target, rhs: ElementType | None = None) -> Peak:
    """The loop of the target's best instruction for a pair of factors, proven fit.

    Without `rhs`, both are of one type. Of integers it is the fastest whatever their signs, since a
    product of one kind can be had by way of another.

    Raises:
        Unsupported: the target has no such instruction, this CPU cannot run it, or LLVM does not
            keep the loop in registers.
    """
    entry = _best(lhs, target, rhs)
    if obstacle := can_run(target):
        raise Unsupported(f"nothing can be timed here: {obstacle}")
    features = ",".join([*target.required, *target.tuning])
    peak = compile_peak(entry, Cpu(target.cpu, features))
    if faults := peak.faults():
        raise Unsupported(f"no loop that measures {entry.name}: {'; '.join(faults)}")
    return peak


def _best(lhs: ElementType, target: Target, rhs: ElementType | None) -> Instruction:
    """The target's first choice for floats, the most operations a cycle for integers.

    What multiplies tiles goes before all.
    """
    tiled = target.tile_instruction_for(lhs, rhs or lhs)
    if tiled is not None and _on_amx(tiled):
        return tiled
    integer = [each for each in target.instructions if each.operand_type.is_integer]
    if lhs.is_integer and integer:
        return max(integer, key=lambda each: each.flops * each.per_cycle)
    return target.instruction_for(lhs, rhs)


def _factor(entry: Instruction) -> str:
    """LLVM's type of a factor's element."""
    return LOOPS[entry.mnemonic].factor or LLVM_NAMES[entry.accumulator]


def _on_amx(entry: Instruction) -> bool:
    """Whether an instruction multiplies tiles that are named by number."""
    return isinstance(entry, TileInstruction) and not entry.scalable


def _tile_ir(entry: Instruction) -> str:
    """The loop on tiles as LLVM IR text."""
    lhs, rhs = TILE_ACCUMULATORS, TILE_ACCUMULATORS + 1
    zeros = [f"  call void @llvm.x86.tilezero(i8 {number})" for number in range(lhs)]
    loads = [
        f"  %p{place} = getelementptr i8, ptr %in, i64 {64 + 1024 * place}\n"
        f"  call void @llvm.x86.tileloadd64(i8 {number}, ptr %p{place}, i64 64)"
        for place, number in enumerate((lhs, rhs))
    ]
    products = [
        f"  call void @{entry.upstream}(i8 {number}, i8 {lhs}, i8 {rhs})"
        for _ in range(UNROLL)
        for number in range(TILE_ACCUMULATORS)
    ]
    lines = [
        "declare void @llvm.x86.ldtilecfg(ptr)",
        "declare void @llvm.x86.tilezero(i8)",
        "declare void @llvm.x86.tileloadd64(i8, ptr, i64)",
        "declare void @llvm.x86.tilerelease()",
        f"declare void @{entry.upstream}(i8, i8, i8)",
        "define void @peak(i64 %steps, ptr %in, ptr %out) {",
        "entry:",
        "  call void @llvm.x86.ldtilecfg(ptr %in)",
        *zeros,
        *loads,
        "  br label %body",
        "body:",
        "  %trip = phi i64 [ 0, %entry ], [ %next, %body ]",
        *products,
        "  %next = add nuw nsw i64 %trip, 1",
        "  %more = icmp slt i64 %next, %steps",
        "  br i1 %more, label %body, label %exit",
        "exit:",
        "  call void @llvm.x86.tilerelease()",
        "  ret void",
        "}",
    ]
    return "\n".join(lines)


def peak_ir(entry: Instruction) -> str:
    """The loop as LLVM IR text."""
    if _on_amx(entry):
        return _tile_ir(entry)
    loop, bits = LOOPS[entry.mnemonic], entry.bits
    scalar, count = _factor(entry), ACCUMULATORS[bits]
    vector = f"<{entry.lanes} x {LLVM_NAMES[entry.accumulator]}>"
    factor = f"<{bits // 8 // _SIZES[scalar]} x {scalar}>"
    slots = {**{f"start{i}": vector for i in range(count)}, "x": factor, "y": factor}
    loads = [
        f"  %p.{slot} = getelementptr [{bits // 8} x i8], ptr %in, i64 {i}\n"
        f"  %{slot} = load {type_}, ptr %p.{slot}, align 1"
        for i, (slot, type_) in enumerate(slots.items())
    ]
    phis = [
        f"  %s0.{i} = phi {vector} [ %start{i}, %entry ], [ %s{UNROLL}.{i}, %body ]"
        for i in range(count)
    ]
    steps = [
        _step(loop, entry, vector, factor, f"s{u}.{i}", f"s{u + 1}.{i}")
        for u in range(UNROLL)
        for i in range(count)
    ]
    stores = [
        f"  %q{i} = getelementptr {vector}, ptr %out, i64 {i}\n"
        f"  store {vector} %s{UNROLL}.{i}, ptr %q{i}, align 1"
        for i in range(count)
    ]
    lines = [
        f"declare {vector} @{_intrinsic(loop, entry)}({_signature(loop, vector, factor)})",
        "define void @peak(i64 %steps, ptr %in, ptr %out) #0 {",
        "entry:",
        *loads,
        "  br label %body",
        "body:",
        "  %trip = phi i64 [ 0, %entry ], [ %next, %body ]",
        *phis,
        *steps,
        "  %next = add nuw nsw i64 %trip, 1",
        "  %more = icmp slt i64 %next, %steps",
        "  br i1 %more, label %body, label %exit",
        "exit:",
        *stores,
        "  ret void",
        "}",
        # LLVM prefers 256-bit registers on several AVX-512 CPUs and would split the vectors.
        f'attributes #0 = {{ nounwind "prefer-vector-width"="{bits}"'
        f' "min-legal-vector-width"="{bits}" }}',
    ]
    return "\n".join(lines)


def _intrinsic(loop: Loop, entry: Instruction) -> str:
    return loop.intrinsic.format(
        lanes=entry.lanes, type=entry.accumulator, bits=entry.bits, madd=_MADD.get(entry.bits, "")
    )


def _signature(loop: Loop, vector: str, factor: str) -> str:
    if not loop.adds:
        return f"{factor}, {factor}"
    return ", ".join([factor, factor, vector] if loop.factors_first else [vector, factor, factor])


def _step(loop: Loop, entry: Instruction, vector: str, factor: str, before: str, after: str) -> str:
    """One accumulation, from one value of an accumulator to the next."""
    call = f"call {vector} @{_intrinsic(loop, entry)}"
    if loop.adds:
        sum_, factors = f"{vector} %{before}", f"{factor} %x, {factor} %y"
        arguments = (factors, sum_) if loop.factors_first else (sum_, factors)
        return f"  %{after} = {call}({', '.join(arguments)})"
    # The same product twice would be computed once, so the accumulator is a factor.
    return (
        f"  %f.{after} = bitcast {vector} %{before} to {factor}\n"
        f"  %p.{after} = {call}({factor} %f.{after}, {factor} %y)\n"
        f"  %{after} = add {vector} %{before}, %p.{after}"
    )


def loop_body(assembly: str) -> tuple[str, ...]:
    """The lines between the target of the only backward branch and that branch.

    Returns:
        Nothing when there is no backward branch.
    """
    lines = assembly.splitlines()
    labels: dict[str, int] = {}
    for number, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label[1]] = number
        branch = _BRANCH.match(line)
        if branch and branch[1] in labels:
            return tuple(lines[labels[branch[1]] + 1 : number + 1])
    return ()
