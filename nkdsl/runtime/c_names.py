"""What functions and parameters are called in C: valid names, whatever MLIR calls them."""

import re
from collections.abc import Sequence

WORKSPACE = "workspace"
"""What the pointer to the workspace is called."""

_C_KEYWORDS = """
auto break case char const constexpr continue default do double else enum extern false float for
goto if inline int long nullptr register restrict return short signed sizeof static static_assert
struct switch thread_local true typedef typeof union unsigned void volatile while
"""

_CPP_KEYWORDS = """
alignas alignof and and_eq asm bitand bitor bool catch char8_t char16_t char32_t class compl concept
const_cast consteval constinit co_await co_return co_yield decltype delete dynamic_cast explicit
export friend mutable namespace new noexcept not not_eq operator or or_eq private protected public
reinterpret_cast requires static_cast template this throw try typeid typename using virtual wchar_t
xor xor_eq
"""

RESERVED = frozenset(f"{_C_KEYWORDS} {_CPP_KEYWORDS}".split())
"""Words that C or C++ keeps for itself."""


_SYMBOL = r"[A-Za-z_][A-Za-z0-9_.$]*"
"""What assemblers and linkers take for a symbol without quotes."""


def is_symbol(name: str) -> bool:
    """Whether C can refer to a function of this name, if need be by an `__asm__` label."""
    return re.fullmatch(_SYMBOL, name) is not None


def function_name(symbol: str) -> str:
    """The C name of a function: its symbol where that is a name in C."""
    called = re.sub(r"\W", "_", symbol, flags=re.ASCII)
    return f"{called}_" if called in RESERVED else called


def c_names(names: Sequence[str | None], parts: Sequence[Sequence[str]]) -> list[str]:
    """A C name for each parameter: its own where that is one and no other one has it.

    Args:
        names: what the parameters are called in MLIR.
        parts: for each the endings of further names that it has in C, as `_d0` of `a_d0`.
    """
    found: list[str] = []
    taken = {WORKSPACE}
    for position, (name, endings) in enumerate(zip(names, parts, strict=True)):
        called = re.sub(r"\W", "_", name or "", flags=re.ASCII)
        if not called or called[0].isdigit() or called in RESERVED:
            called = f"arg{position}"
        while not taken.isdisjoint(_with_parts(called, endings)):
            called += "_"
        found.append(called)
        taken.update(_with_parts(called, endings))
    return found


def _with_parts(name: str, endings: Sequence[str]) -> tuple[str, ...]:
    return name, *(name + ending for ending in endings)
