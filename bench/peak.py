"""What 100 % means: the rate of a loop that does nothing but FMAs on registers.

The loop keeps enough independent accumulators to hide the latency of the FMA on every port
(latency 4 or 5 cycles times 2 ports needs 8 to 10) and few enough to leave room for two operands:

    define void @peak(i64 %steps, ptr %in, ptr %out) {
      … load every accumulator, %x and %y from %in …
    body:
      %s0.0 = call <16 x float> @llvm.fma.v16f32(%x, %y, %acc0)      ; one per accumulator,
      %s0.1 = call <16 x float> @llvm.fma.v16f32(%x, %y, %acc1)      ; UNROLL times over
      …
      … store every accumulator to %out …

The start values come from memory and fast-math is off, so LLVM can fold nothing. `Peak.faults`
reads the assembly back: the loop must hold exactly the FMAs that are counted, on whole registers,
and neither a load, a store nor a spill. `target_peak` takes the instruction from the target's
table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from nkdsl.bench.jit import LLVM_NAMES, Cpu, JitFunction, compile_ir, host_cpu
from nkdsl.bench.timing import NativeContender
from nkdsl.errors import Unsupported
from nkdsl.targets import Target, can_run
from nkdsl.types import ElementType

STEPS = 256
"""Trips of the loop a call: some ten microseconds, against which the call is nothing."""
UNROLL = 4
"""FMAs on each accumulator a trip: the loop's own add, compare and branch fit beside them."""
ACCUMULATORS = {512: 20, 256: 12, 128: 12}
"""Independent accumulators by register width: 32 registers at 512 bits, else at least 16."""
_FMA = re.compile(r"\s(vfn?m(?:add|sub)\d+p[sd]|fmla)\s")
_MEMORY = re.compile(r"\(%|\[(?:sp|x\d+|r[a-z0-9]+)")
_LABEL = re.compile(r"^([.\w$]+):")
_BRANCH = re.compile(r"^\s+(?:j\w+|b\.\w+)\s+([.\w$]+)")
_REGISTER = {
    512: re.compile(r"zmm\d+"),
    256: re.compile(r"ymm\d+"),
    128: re.compile(r"xmm\d+|v\d+\."),
}


@dataclass(frozen=True)
class Peak:
    """A compiled peak loop."""

    element: ElementType
    bits: int
    cpu: Cpu
    function: JitFunction

    @property
    def lanes(self) -> int:
        """Elements a register."""
        return self.bits // (8 * self.element.size)

    @property
    def fmas(self) -> int:
        """FMA instructions a trip of the loop."""
        return ACCUMULATORS[self.bits] * UNROLL

    @property
    def instruction(self) -> str:
        """What is counted, in the compiler's words: fma.f32x16."""
        return f"fma.{self.element.name}x{self.lanes}"

    @property
    def flops(self) -> int:
        """Floating-point operations a call."""
        return STEPS * self.fmas * self.lanes * 2

    def loop(self) -> tuple[str, ...]:
        """The assembly of the loop's body."""
        return loop_body(self.function.assembly)

    def faults(self) -> tuple[str, ...]:
        """Why this loop would not measure the peak; empty when it does."""
        body = self.loop()
        fmas = [line for line in body if _FMA.search(line)]
        problems = []
        if len(fmas) != self.fmas:
            problems.append(f"{len(fmas)} FMAs in the loop instead of {self.fmas}")
        if any(not _REGISTER[self.bits].search(line) for line in fmas):
            problems.append(f"FMAs on registers other than {self.bits} bits wide")
        problems += [f"memory access: {line.strip()}" for line in body if _MEMORY.search(line)]
        return tuple(problems)

    def contender(self) -> NativeContender:
        """The loop as a contender named `peak`."""
        count = (ACCUMULATORS[self.bits] + 2) * self.lanes
        start = np.linspace(0.5, 1.0, count, dtype=self.element.dtype)
        end = np.zeros_like(start)
        arguments = (STEPS, start.ctypes.data, end.ctypes.data)
        keep = (self.function, start, end)
        return NativeContender(
            "peak", self.function.address, arguments, self.flops, self.instruction, keep
        )


def compile_peak(element: ElementType, bits: int, cpu: Cpu | None = None) -> Peak:
    """Generate the loop for one register width, unproven: see `Peak.faults`."""
    chosen = cpu or host_cpu()
    return Peak(element, bits, chosen, compile_ir(peak_ir(element, bits), "peak", chosen))


def target_peak(element: ElementType, target: Target) -> Peak:
    """The loop of the target's best instruction for an element type, proven fit.

    Raises:
        Unsupported: the target has no such instruction, this CPU cannot run it, or LLVM does not
            keep the loop in registers.
    """
    instruction = target.instruction_for(element, element)
    if obstacle := can_run(target):
        raise Unsupported(f"nothing can be timed here: {obstacle}")
    features = ",".join([*target.features, *target.tuning])
    peak = compile_peak(element, instruction.bits, Cpu(target.cpu, features))
    if faults := peak.faults():
        raise Unsupported(f"no loop that measures {instruction.name}: {'; '.join(faults)}")
    return peak


def peak_ir(element: ElementType, bits: int) -> str:
    """The loop as LLVM IR text."""
    lanes = bits // (8 * element.size)
    vector, accumulators = f"<{lanes} x {LLVM_NAMES[element.name]}>", range(ACCUMULATORS[bits])
    fma = f"@llvm.fma.v{lanes}{element.name}"
    slots = [*(f"start{i}" for i in accumulators), "x", "y"]
    loads = [
        f"  %p.{slot} = getelementptr {vector}, ptr %in, i64 {i}\n"
        f"  %{slot} = load {vector}, ptr %p.{slot}, align {element.size}"
        for i, slot in enumerate(slots)
    ]
    phis = [
        f"  %s0.{i} = phi {vector} [ %start{i}, %entry ], [ %s{UNROLL}.{i}, %body ]"
        for i in accumulators
    ]
    steps = [
        f"  %s{u + 1}.{i} = call {vector} {fma}({vector} %x, {vector} %y, {vector} %s{u}.{i})"
        for u in range(UNROLL)
        for i in accumulators
    ]
    stores = [
        f"  %q{i} = getelementptr {vector}, ptr %out, i64 {i}\n"
        f"  store {vector} %s{UNROLL}.{i}, ptr %q{i}, align {element.size}"
        for i in accumulators
    ]
    lines = [
        f"declare {vector} {fma}({vector}, {vector}, {vector})",
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
