"""The rate at which memory can be read: a loop that only loads, over more than any cache holds.

Every trip reads whole cache lines into accumulators of their own, which are added up, so that no
load waits for another and none is left out:

    body:
      %v0 = load <8 x i64>, ptr %p0      ; ACCUMULATORS of them, one after the other
      %s0 = add <8 x i64> %acc0, %v0
      …
"""

from __future__ import annotations

import numpy as np

from nkdsl.bench.jit import compile_ir
from nkdsl.bench.memory import reserve
from nkdsl.bench.timing import NativeContender

BUFFER = 512 << 20
"""Bytes read a call, by all threads together: much more than a last-level cache."""
ACCUMULATORS = 8
NAME = "memory"


def bandwidth(bits: int, size: int = BUFFER) -> NativeContender:
    """A contender that reads `size` bytes a call; its `flops` are bytes.

    Args:
        bits: the width of a register.
        size: bytes; rounded down to whole trips of the loop.
    """
    step = ACCUMULATORS * bits // 8
    trips = size // step
    buffer = reserve(trips * step)
    # Pages that were never written to are all one and the same page of zeros.
    buffer.fill(1)
    out = np.zeros(step, np.uint8)
    function = compile_ir(bandwidth_ir(bits), "stream")
    return NativeContender(
        NAME,
        function.address,
        (trips, buffer.ctypes.data, out.ctypes.data),
        trips * step,
        f"reads of {bits // 8} bytes, {ACCUMULATORS} at once",
        (function, buffer, out),
    )


def bandwidth_ir(bits: int) -> str:
    """The loop as LLVM IR text."""
    vector, each = f"<{bits // 64} x i64>", range(ACCUMULATORS)
    lines = [
        "define void @stream(i64 %trips, ptr %in, ptr %out) #0 {",
        "entry:",
        "  br label %body",
        "body:",
        "  %i = phi i64 [ 0, %entry ], [ %next, %body ]",
        "  %p = phi ptr [ %in, %entry ], [ %past, %body ]",
        *(f"  %a{j} = phi {vector} [ zeroinitializer, %entry ], [ %s{j}, %body ]" for j in each),
    ]
    for j in each:
        lines += [
            f"  %p{j} = getelementptr {vector}, ptr %p, i64 {j}",
            f"  %v{j} = load {vector}, ptr %p{j}, align 64",
            f"  %s{j} = add {vector} %a{j}, %v{j}",
        ]
    lines += [
        f"  %past = getelementptr {vector}, ptr %p, i64 {ACCUMULATORS}",
        "  %next = add nuw nsw i64 %i, 1",
        "  %more = icmp slt i64 %next, %trips",
        "  br i1 %more, label %body, label %exit",
        "exit:",
    ]
    for j in each:
        lines += [
            f"  %q{j} = getelementptr {vector}, ptr %out, i64 {j}",
            f"  store {vector} %s{j}, ptr %q{j}, align 8",
        ]
    lines += [
        "  ret void",
        "}",
        f'attributes #0 = {{ nounwind "prefer-vector-width"="{bits}"'
        f' "min-legal-vector-width"="{bits}" }}',
    ]
    return "\n".join(lines)
