"""The targets by name: those that nkdsl brings, and those that users add.

A target comes from one of three places, all equal once they are here: the tables beside this
module, a call of `register_target`, or an entry point of an installed package in the group
`nkdsl.targets`, whose value is a `Target` or a function without arguments that returns one.
Whatever its origin, a table is validated (`nkdsl.targets.validation`) and its name must be new.

Passes know a target by its name, which is what the IR holds. `use_target` makes a name stand for
one very table meanwhile: one that was never registered, or the host's with its real caches.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.targets.alderlake import ALDERLAKE
from nkdsl.targets.armv9_sme import ARMV9_SME
from nkdsl.targets.arrowlake import ARROWLAKE
from nkdsl.targets.cascadelake import CASCADELAKE
from nkdsl.targets.cooperlake import COOPERLAKE
from nkdsl.targets.graniterapids import GRANITERAPIDS
from nkdsl.targets.model import Target
from nkdsl.targets.neoverse_n1 import NEOVERSE_N1
from nkdsl.targets.neoverse_v1 import NEOVERSE_V1
from nkdsl.targets.neoverse_v2 import NEOVERSE_V2
from nkdsl.targets.sapphirerapids import SAPPHIRERAPIDS
from nkdsl.targets.sierraforest import SIERRAFOREST
from nkdsl.targets.skylake_avx512 import SKYLAKE_AVX512
from nkdsl.targets.validation import validate
from nkdsl.targets.x86_64_v3 import X86_64_V3
from nkdsl.targets.znver4 import ZNVER4
from nkdsl.targets.znver5 import ZNVER5

HOST = "host"
"""The name that stands for the best table this CPU can run."""

ENTRY_POINT_GROUP = "nkdsl.targets"
"""Where installed packages announce their targets."""

BUILT_IN = (
    *(X86_64_V3, SKYLAKE_AVX512, CASCADELAKE, COOPERLAKE, SAPPHIRERAPIDS, GRANITERAPIDS),
    *(ZNVER4, ZNVER5),
    *(ALDERLAKE, ARROWLAKE, SIERRAFOREST),
    *(NEOVERSE_N1, NEOVERSE_V1, NEOVERSE_V2, ARMV9_SME),
)
"""The tables that nkdsl brings: x86-64, the most general one first, and those without AVX-512 last;
then AArch64."""

_BUILT_IN_BY_NAME = {target.name: target for target in BUILT_IN}

_registered: dict[str, Target] = {}

_in_use: ContextVar[Target | None] = ContextVar("target in use", default=None)


def get_target(name: str) -> Target:
    """The target called `name`; `host` is the best one for this CPU, with its real cache sizes.

    Within `use_target` the target in use goes before all others of its name.

    Raises:
        Unsupported: if there is no such target, or no table that this CPU could run.
        InvalidInput: if an installed package announces a broken target.
    """
    in_use = _in_use.get()
    if in_use is not None and in_use.name == name:
        return in_use
    if name == HOST:
        # Detection chooses among the targets of this module, hence the late import.
        from nkdsl.targets.host import detect

        return detect().target
    # Before any entry point is loaded: a package may derive its target from one of these.
    if name in _BUILT_IN_BY_NAME:
        return _BUILT_IN_BY_NAME[name]
    targets = _by_name()
    if name in targets:
        return targets[name]
    known = ", ".join((*targets, HOST))
    raise Unsupported(f"target '{name}' is not known; known are: {known}")


@contextmanager
def use_target(target: Target) -> Iterator[None]:
    """Let `get_target` answer `target`'s name with `target` itself, in this thread or task.

    Raises:
        InvalidInput: if the table contradicts itself, or is called `host`.
    """
    _refuse_taken(target, {})
    validate(target)
    token = _in_use.set(target)
    try:
        yield
    finally:
        _in_use.reset(token)


def known_targets() -> tuple[Target, ...]:
    """Every target: first those that nkdsl brings, then installed, then registered ones.

    Raises:
        InvalidInput: if an installed package announces a broken target.
    """
    return tuple(_by_name().values())


def register_target(target: Target) -> None:
    """Add a target for the rest of this process.

    Raises:
        InvalidInput: if the name is taken or the table contradicts itself.
    """
    validate(target)
    _refuse_taken(target, _by_name())
    _registered[target.name] = target


def _by_name() -> dict[str, Target]:
    return _installed() | _registered


@cache
def _installed() -> dict[str, Target]:
    """Built-in targets and those of installed packages, by name."""
    targets: dict[str, Target] = {}
    announced = (_load(e) for e in entry_points(group=ENTRY_POINT_GROUP))
    for target in (*BUILT_IN, *announced):
        validate(target)
        _refuse_taken(target, targets)
        targets[target.name] = target
    return targets


def _load(entry: EntryPoint) -> Target:
    """The target that an entry point announces."""
    try:
        announced: Target | Callable[[], object] = entry.load()
        target = announced if isinstance(announced, Target) else announced()
    except Exception as error:
        raise InvalidInput(
            f"the entry point '{entry.name} = {entry.value}' in the group {ENTRY_POINT_GROUP} "
            f"can't be loaded: {error}; repair or uninstall the package that declares it"
        ) from error
    if isinstance(target, Target):
        return target
    raise InvalidInput(
        f"the entry point '{entry.name} = {entry.value}' in the group {ENTRY_POINT_GROUP} gives "
        f"{type(target).__name__}; it must be a Target or a function that returns one"
    )


def _refuse_taken(target: Target, taken: dict[str, Target]) -> None:
    if target.name == HOST or target.name in taken:
        raise InvalidInput(f"a target called '{target.name}' exists already; choose another name")
