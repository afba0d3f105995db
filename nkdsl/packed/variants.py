"""The kernels that do what another one does, with some of its arguments packed."""

import threading
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser

from nkdsl.dialects.nanokernel import GemmOp, PlanAttr
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.frontend import make_context
from nkdsl.packed.layout import Array, Layout, Operand, Packed, filled
from nkdsl.packed.product import Choice
from nkdsl.packed.program import Program
from nkdsl.targets.model import Target
from nkdsl.tensors import as_array

if TYPE_CHECKING:
    from nkdsl.runtime.kernel import Kernel

Key = tuple[int | str, ...]
"""What a kernel reads packed: positions of arguments, each followed by a layout's fingerprint."""


class Variants:
    """What a kernel's program becomes when arguments are packed; each is made once, when needed.

    Which layout is best for an argument is decided for its product alone. Products of which nothing
    is packed keep their plans.
    """

    def __init__(
        self,
        source: ModuleOp,
        symbol: str,
        target: Target,
        plans: Sequence[str],
        names: Sequence[str],
        *,
        threads: int = 1,
        emulate: bool = False,
    ):
        """Of one function.

        Args:
            source: the program that it is in.
            symbol: its name.
            target: what it is compiled for.
            plans: those of all products of the program, in order.
            names: what its arguments are called.
            threads: how many it is compiled for.
            emulate: whether calls go through an emulator.
        """
        self._source = source
        self._symbol = symbol
        self._target = target
        self._written = tuple(plans)
        self._names = tuple(names)
        self._threads = threads
        self._emulate = emulate
        self._lock = threading.RLock()
        self._read: tuple[Program, list[PlanAttr]] | None = None
        self._choices: dict[int, Choice] = {}
        self._alike: dict[Hashable, Choice] = {}
        self._readers: dict[Key, Kernel] = {}

    # -------------------------------------------------------------------------- the program

    @property
    def program(self) -> Program:
        """The function and its products."""
        return self._parsed()[0]

    def _parsed(self) -> tuple[Program, list[PlanAttr]]:
        """The function, and the plan of each of its products where nothing is packed."""
        with self._lock:
            if self._read is None:
                program = Program.read(self._source, self._symbol, self._names)
                everywhere = [op for op in program.module.walk() if isinstance(op, GemmOp)]
                mine, context = program.products, make_context()
                plans: list[PlanAttr] = []
                for op, text in zip(everywhere, self._written, strict=True):
                    if op in mine:
                        plan = Parser(context, text).parse_attribute()
                        assert isinstance(plan, PlanAttr)
                        plans.append(plan)
                self._read = program, plans
            return self._read

    def layout(self, position: int) -> Layout:
        """The layout in which an argument is packed.

        Raises:
            Unsupported: where it can't be, with the reason and the remedy.
        """
        return self._choice(position).layout

    def _choice(self, position: int) -> Choice:
        with self._lock:
            if position not in self._choices:
                program, plans = self._parsed()
                product = program.product(position)
                threads = plans[program.number(position)].threads.data
                key = product.key, threads  # layers are often alike
                if key not in self._alike:
                    self._alike[key] = product.best(self._target, threads)
                self._choices[position] = self._alike[key]
            return self._choices[position]

    def reading(self, positions: Iterable[int]) -> ModuleOp:
        """The program that reads some arguments packed, its function's products planned.

        Raises:
            Unsupported: for an argument that can't be packed, and for two of one product.
        """
        with self._lock:
            program, plans = self._parsed()
            choices = {position: self._choice(position) for position in sorted(positions)}
            self._refuse_pairs(choices)
            return program.reading(choices, plans)

    def kernel(self, positions: Iterable[int]) -> "Kernel":
        """The kernel that reads some arguments packed.

        Raises:
            InvalidInput: for both factors of one product.
            Unsupported: for an argument that can't be packed.
        """
        return self._reader({position: self.layout(position) for position in positions})

    # ------------------------------------------------------------------------------ packing

    def pack(
        self, array: Array, argument: int | str | None = None, operand: Operand | None = None
    ) -> Packed:
        """See `nkdsl.pack`."""
        program = self.program
        position = program.position(argument, operand)
        layout = self.layout(position)
        shape, dtype = layout.shape, layout.element.dtype
        what = program.what(position)
        array = as_array(array, what)
        if not isinstance(array, np.ndarray):
            raise InvalidInput(f"{what} must be a numpy array, not {type(array).__name__}")
        if array.shape != shape or array.dtype != dtype:
            raise InvalidInput(
                f"{what} has shape {shape} and type {dtype}, not {array.shape} and {array.dtype}"
            )
        packed = Packed(layout, filled(array, layout))
        if len(program.products) == 1:
            self._reader({position: layout})
        return packed

    # ------------------------------------------------------------------------------ calling

    def call(
        self, arguments: Sequence[Any], workspace: npt.NDArray[np.uint8] | None = None
    ) -> None:
        """Run on arguments of which some are packed.

        Raises:
            InvalidInput: for what is packed otherwise than the kernel reads it, saying what
                differs, and for two factors of one product.
        """
        given = list(arguments)
        key: list[int | str] = []
        for position, argument in enumerate(arguments):
            if type(argument) is Packed:
                given[position] = argument.panels
                key += position, argument.layout.fingerprint
        kernel = self._readers.get(tuple(key))
        if kernel is None:
            packed = [(p, x.layout) for p, x in enumerate(arguments) if type(x) is Packed]
            kernel = self._reader(dict(packed))
        if workspace is None:
            kernel.entry(*given)
        else:
            kernel(*given, workspace=workspace)

    def reader(
        self, factors: Sequence[Packed], arguments: Sequence[int | str] | None = None
    ) -> "Kernel":
        """See `Kernel.packed`."""
        layouts = [factor.layout for factor in factors]
        if not layouts:
            raise InvalidInput("give what nkdsl.pack made; without it, the kernel itself is it")
        if arguments is None:
            positions = self._places(layouts)
        else:
            positions = [self.program.position(argument, None) for argument in arguments]
            if len(set(positions)) != len(layouts) or len(positions) != len(layouts):
                raise InvalidInput(
                    f"{len(layouts)} packed factors need as many different arguments, got "
                    f"arguments={tuple(arguments)}"
                )
        return self._reader(dict(zip(positions, layouts, strict=True)))

    def _reader(self, layouts: Mapping[int, Layout]) -> "Kernel":
        """The kernel that reads some arguments packed."""
        from nkdsl.api import compile

        with self._lock:
            for position, layout in layouts.items():
                self._verify(position, layout)
            key: Key = tuple(word for p in sorted(layouts) for word in (p, layouts[p].fingerprint))
            if key not in self._readers:
                self._readers[key] = compile(
                    self.reading(layouts),
                    self._target,
                    function=self._symbol,
                    threads=self._threads,
                    emulate=self._emulate,
                )
            return self._readers[key]

    # ----------------------------------------------------------------------- places, refusals

    def _places(self, layouts: Sequence[Layout]) -> list[int]:
        """The arguments that factors in the arguments' order are; there must be one way only."""
        fitting = [self._fitting(layout) for layout in layouts]
        first = _in_order(fitting)
        last = _in_order([[-p for p in reversed(places)] for places in reversed(fitting)])
        if first is None or last is None:
            raise InvalidInput(
                f"the packed factors are no arguments of {self._symbol} in this order; give them "
                "in the order of its arguments, or say which, as in "
                f"packed(factor, arguments=({fitting[0][0]},))"
            )
        if first != [-p for p in reversed(last)]:
            several = next(places for places in fitting if len(places) > 1)
            told = ", ".join(map(str, several))
            raise InvalidInput(
                f"arguments {told} of {self._symbol} are read in one layout; say which it is, as "
                f"in packed(factor, arguments=({several[0]},))"
            )
        return first

    def _fitting(self, layout: Layout) -> list[int]:
        """The arguments that are read in a layout; raises where there are none."""
        places = self.program.positions(layout.operand)
        if len(places) == 1:
            self._verify(places[0], layout)
            return places
        found = [position for position in places if self._reads(position, layout)]
        if not found:
            self._refuse_everywhere(places, layout)
        return found

    def _reads(self, position: int, layout: Layout) -> bool:
        try:
            product = self.program.product(position)
            alike = product.shape == layout.shape and product.element == layout.element
            return alike and self.layout(position) == layout
        except Unsupported:
            return False

    def _verify(self, position: int, layout: Layout) -> None:
        """Refuse a layout in which an argument isn't read."""
        program = self.program
        if all((position, layout.operand) != factor[:2] for factor in program.factors):
            self._refuse_place(
                layout, f"argument {position} of {self._symbol} is a packed {layout.operand}"
            )
        wanted = self.layout(position)
        if layout == wanted:
            return
        options = "" if layout.operand == "rhs" else f', operand="{layout.operand}"'
        if len(program.products) > 1:
            options = f", argument={position}"
        raise InvalidInput(
            f"argument {position} of {self._symbol} was packed for another kernel: it has "
            f"{', '.join(wanted.differences(layout))}; pack the array again, with "
            f"nkdsl.pack(array, like=kernel{options}) for this kernel"
        )

    def _refuse_place(self, layout: Layout, what: str) -> NoReturn:
        """Say where a packed factor belongs."""
        places = [str(p) for p in self.program.positions(layout.operand)]
        if not places:
            raise InvalidInput(f"{what}, but no argument of {self._symbol} is a {layout.operand}")
        which = f"argument {places[0]}" if len(places) == 1 else f"arguments {', '.join(places)}"
        verb = "is" if len(places) == 1 else "are"
        raise InvalidInput(f"{what}, which {verb} {which}")

    def _refuse_everywhere(self, places: Sequence[int], layout: Layout) -> NoReturn:
        """Say what a layout has that none of some arguments is read in."""
        if not places:
            self._refuse_place(layout, f"the factor is a packed {layout.operand}")
        told: list[str] = []
        for position in places:
            try:
                differences = ", ".join(self.layout(position).differences(layout))
            except Unsupported as error:
                differences = str(error)
            told.append(f"for argument {position}: {differences}")
        raise InvalidInput(
            f"no argument of {self._symbol} is read in this layout ({'; '.join(told)}); pack "
            f"the array again, with nkdsl.pack(array, like=kernel, argument={places[0]})"
        )

    def _refuse_pairs(self, positions: Iterable[int]) -> None:
        """Refuse both factors of one product."""
        taken: dict[int, int] = {}
        for position in positions:
            other = taken.setdefault(self.program.number(position), position)
            if other != position:
                raise InvalidInput(
                    f"each product of {self._symbol} reads one packed factor; give the other one, "
                    f"argument {other} or {position}, as an array"
                )


def _in_order(places: Sequence[Sequence[int]]) -> list[int] | None:
    """The least place for each, every one behind the one before; None where there is no such."""
    found: list[int] = []
    for each in places:
        behind = [place for place in each if not found or place > found[-1]]
        if not behind:
            return None
        found.append(behind[0])
    return found
