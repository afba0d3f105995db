"""Reading AArch64 assembly: functions, innermost loops, and what they execute.

loops = innermost_loops(functions(text)["product"])
mnemonics(loops[0])["fmla"]
"""

import re
from collections import Counter
from collections.abc import Iterable

Line = str
"""An instruction in one line, `fmla v0.4s, v1.4s, v2.4s`, or a label with its colon."""

_LABEL = re.compile(r"^([.\w$]+):")
_BRANCH = re.compile(r"^(?:b|b\.\w+|cbn?z|tbn?z)\s+(?:.*,\s*)?(\.?L\w+)$")
_VECTOR_ON_STACK = re.compile(r"^(?:ld|st)\w*\s.*\b[bhsdqvzp]\d+\b.*\[sp")


def functions(text: str) -> dict[str, tuple[Line, ...]]:
    """The lines of each function, by its name."""
    found: dict[str, list[Line]] = {}
    lines: list[Line] | None = None
    for raw in text.splitlines():
        line = raw.strip()
        if (label := _LABEL.match(line)) and not line.startswith("."):
            lines = found.setdefault(label[1], [])
        elif label and lines is not None and not line.startswith(".Lfunc_end"):
            lines.append(line)
        elif line and not line.startswith((".", "//")) and lines is not None:
            lines.append(" ".join(line.split()))
    return {name: tuple(lines) for name, lines in found.items()}


def innermost_loops(code: Iterable[Line]) -> list[tuple[Line, ...]]:
    """What lies between a label and a branch back to it, where no other such stretch is inside."""
    lines = list(code)
    places = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    loops = [
        (places[branch[1]], i)
        for i, line in enumerate(lines)
        if (branch := _BRANCH.match(line)) and places.get(branch[1], len(lines)) < i
    ]
    return [
        tuple(lines[start + 1 : end + 1])
        for start, end in loops
        if not any(start < s and e < end for s, e in loops)
    ]


def mnemonics(code: Iterable[Line]) -> Counter[str]:
    """How often each instruction occurs."""
    return Counter(line.split()[0] for line in code if not line.endswith(":"))


def spills(code: Iterable[Line]) -> list[Line]:
    """The instructions that move vector or predicate registers to or from the stack."""
    return [line for line in code if _VECTOR_ON_STACK.match(line)]
