"""The option `--pack`, which several commands have: arguments that are packed beforehand.

`--pack w1,3` names arguments by name or position; `--pack all` stands for the weights: every
argument that is the right factor (rhs) of a product and can be packed.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp

from nkdsl.api import is_private
from nkdsl.dialects.nanokernel import GemmOp
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.frontend import make_context
from nkdsl.packed import Layout, Packed, Variants
from nkdsl.pipeline import lower
from nkdsl.runtime.kernel import Kernel
from nkdsl.runtime.signature import Signature, read_signature
from nkdsl.targets.model import Target

ALL = "all"


def add_pack(parser: argparse.ArgumentParser) -> None:
    """Describe `--pack`."""
    parser.add_argument(
        "--pack",
        metavar="ARGUMENTS",
        help="arguments that are packed beforehand, by name or position, as in w1,3; or all: every "
        "argument that is the right factor of a product and can be packed",
    )


@dataclass(frozen=True)
class Chosen:
    """Arguments of one function that are packed."""

    positions: tuple[int, ...]
    left: tuple[str, ...] = ()
    """Why right factors among the arguments are not packed, where all were to be."""


def chosen(variants: Variants, text: str) -> Chosen:
    """The arguments that `--pack` tells.

    Raises:
        InvalidInput: for an argument that isn't there.
        Unsupported: for one that can't be packed; of all, where none can be.
    """
    if text != ALL:
        words = [word.strip() for word in text.split(",")]
        told = [int(word) if word.isdecimal() else word for word in words]
        positions = [variants.program.position(argument, None) for argument in told]
        return Chosen(tuple(dict.fromkeys(positions)))
    found: list[int] = []
    left: list[str] = []
    for position in variants.program.positions("rhs"):
        try:
            variants.layout(position)
        except Unsupported as error:
            left.append(str(error))
        else:
            found.append(position)
    return Chosen(tuple(found), tuple(left))


def nothing_to_pack(reasons: Sequence[str]) -> Unsupported:
    """What to raise where `--pack all` finds nothing."""
    why = "; ".join(reasons) or "no argument is the right factor of a product"
    return Unsupported(f"there is nothing to pack: {why}")


class Prepacked:
    """A kernel of which some arguments are packed before it runs; it is called with arrays."""

    def __init__(self, kernel: Kernel, text: str):
        """For what `--pack` tells; the kernel that reads the panels is compiled here.

        Raises:
            InvalidInput: for an argument that isn't there.
            Unsupported: for one that can't be packed, or where there is none to pack.
        """
        self._kernel = kernel
        self._chosen = chosen(kernel.variants, text)
        if not self._chosen.positions:
            raise nothing_to_pack(self._chosen.left)
        self.signature: Signature = kernel.signature
        """Of the arrays."""
        self.reader = kernel.variants.kernel(self._chosen.positions)
        """What reads the panels."""

    @property
    def plans(self) -> tuple[str, ...]:
        """The plan of each product that is computed."""
        return self.reader.plans

    def __call__(self, *arrays: Any) -> None:
        """Pack, then run."""
        self._kernel(*self._given(arrays))

    def native(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments of `reader` that these arrays become."""
        return tuple(x.panels if isinstance(x, Packed) else x for x in self._given(arrays))

    def _given(self, arrays: Sequence[Any]) -> list[Any]:
        given = list(arrays)
        for position in self._chosen.positions:
            given[position] = self._kernel.variants.pack(arrays[position], position)
        return given

    def told(self) -> Iterator[str]:
        """Lines that say what is packed, and what isn't though it might be expected."""
        variants, parameters = self._kernel.variants, self.signature.parameters
        for position in self._chosen.positions:
            yield described(parameters[position].name, variants.layout(position))
        yield from (f"not packed: {reason}" for reason in self._chosen.left)


def described(name: str, layout: Layout) -> str:
    """A packed argument in words."""
    shape = "".join(f"[{size}]" for size in layout.panels)
    return f"{name}: {layout}; lies as {shape}"


@dataclass(frozen=True)
class PackedProgram:
    """A program that reads some arguments packed."""

    module: ModuleOp
    layouts: dict[str, dict[str, Layout]]
    """For each function that reads any, by the names of its arguments."""
    left: tuple[str, ...]
    """Why others are not packed, where all were to be."""

    def told(self) -> Iterator[str]:
        """Lines that say what is packed, and what isn't though it might be expected."""
        for layouts in self.layouts.values():
            yield from (described(name, layout) for name, layout in layouts.items())
        yield from (f"not packed: {reason}" for reason in self.left)


def pack_program(module: ModuleOp, target: Target, threads: int, text: str) -> PackedProgram:
    """Rewrite a program for what `--pack` tells; its functions' products are planned then.

    Args:
        module: at the linalg or nanokernel level; it is not changed.
        target: what it is compiled for.
        threads: how many may share a product.
        text: what `--pack` tells.

    Raises:
        InvalidInput: for arguments that aren't there, or names where there are several functions.
        Unsupported: for one that can't be packed, or where there is none to pack.
    """
    planned = _planned(module, target, threads)
    signatures = [read_signature(function) for function in compiled_functions(planned)]
    if text != ALL and len(signatures) != 1:
        listed = ", ".join(signature.symbol for signature in signatures) or "none"
        raise InvalidInput(
            f"--pack names arguments of one function, but the program has {listed}; give --pack "
            "all, or a program for each"
        )
    layouts: dict[str, dict[str, Layout]] = {}
    left: list[str] = []
    for signature in signatures:
        plans = [str(op.plan) for op in planned.walk() if isinstance(op, GemmOp)]
        names = [parameter.name for parameter in signature.parameters]
        variants = Variants(module, signature.symbol, target, plans, names, threads=threads)
        found = chosen(variants, text)
        left += found.left
        if found.positions:
            module = variants.reading(found.positions)
            layouts[signature.symbol] = {names[p]: variants.layout(p) for p in found.positions}
            planned = _planned(module, target, threads)
    if not layouts:
        raise nothing_to_pack(left)
    return PackedProgram(module, layouts, tuple(left))


def _planned(module: ModuleOp, target: Target, threads: int) -> ModuleOp:
    planned = module.clone()
    lower(planned, make_context(), target, end="nanokernel", threads=threads)
    return planned


def compiled_functions(module: ModuleOp) -> list[func.FuncOp]:
    """The functions that are compiled, and exported."""
    functions = [op for op in module.walk() if isinstance(op, func.FuncOp)]
    return [f for f in functions if not f.is_declaration and not is_private(f)]
