"""A function of any number of products: which of its arguments can be packed, and what reads them.

An argument can be packed that is, whole, one factor of one product. What reads several of them is
made by rewriting one product after the other in the same program. All others stay as they are, and
so does what products leave for each other.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import NoReturn

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import BlockArgument

from nkdsl.dialects.nanokernel import GemmOp, PlanAttr
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.frontend import load, make_context
from nkdsl.packed.layout import Operand
from nkdsl.packed.product import SIDES, Choice, Product, function_of, products_of
from nkdsl.pipeline import RAISING


@dataclass(frozen=True)
class Program:
    """A function, its linalg operations raised to products."""

    module: ModuleOp
    symbol: str
    names: tuple[str, ...]
    """What its arguments are called in C."""
    factors: tuple[tuple[int, Operand, GemmOp], ...]
    """The arguments that are factors: position, which one of which product."""

    @classmethod
    def read(cls, source: ModuleOp, symbol: str, names: Sequence[str]) -> "Program":
        """Raise a copy of a program.

        Args:
            source: a module at the linalg or nanokernel level.
            symbol: the function's name.
            names: what its arguments are called.
        """
        context = make_context()
        module = load(source, context)
        for each in RAISING:
            each.apply(context, module)
        function = function_of(module, symbol)
        factors: list[tuple[int, Operand, GemmOp]] = []
        sides: tuple[Operand, ...] = ("lhs", "rhs")
        for op in products_of(function):
            for operand, value in zip(sides, (op.lhs, op.rhs), strict=True):
                if isinstance(value, BlockArgument) and value.owner is function.body.block:
                    factors.append((value.index, operand, op))
        return cls(module, symbol, tuple(names), tuple(factors))

    @property
    def products(self) -> list[GemmOp]:
        """The function's products, in order."""
        return products_of(function_of(self.module, self.symbol))

    # --------------------------------------------------------------------------- arguments

    def position(self, argument: int | str | None, operand: Operand | None) -> int:
        """The position of an argument that is to be packed.

        Args:
            argument: its position or its name; may be left out where there is one product.
            operand: which factor it is; the right one where nothing else says so.

        Raises:
            InvalidInput: for an argument that isn't there, or isn't that factor.
            Unsupported: where there are several products, and nothing says which argument.
        """
        if operand is not None and operand not in SIDES:
            raise InvalidInput(f"a product's factors are 'lhs' and 'rhs', not {operand!r}")
        if argument is None:
            return self._of_one_product(operand or "rhs")
        position = self._known(argument)
        found = self.operand(position)
        if operand is not None and found is not None and operand != found:
            raise InvalidInput(
                f"{self.called(position)} of {self.symbol} is the {found} of a product, not the "
                f"{operand}; leave operand out"
            )
        return position

    def _of_one_product(self, operand: Operand) -> int:
        """The position of the factor of the only product."""
        what, count = f"the {operand} of {self.symbol}", len(self.products)
        if count == 0:
            raise Unsupported(f"{what} can't be packed: the function has no product")
        if count > 1:
            remedy = self._remedy("name the argument, as in nkdsl.pack(array, like=kernel, {})")
            raise Unsupported(
                f"{what} can't be packed: {self.symbol} has {count} products; {remedy}"
            )
        found = self.positions(operand)
        if not found:
            raise Unsupported(
                f"{what} can't be packed: it is no argument of the function; make it one"
            )
        return found[0]

    def _known(self, argument: int | str) -> int:
        """The position of an argument that is told by position or name."""
        count = len(self.names)
        if isinstance(argument, str):
            if argument not in self.names:
                raise InvalidInput(
                    f"{self.symbol} has no argument '{argument}'; its arguments are "
                    f"{', '.join(self.names)}"
                )
            return self.names.index(argument)
        try:
            position = index(argument)
        except TypeError as error:
            told = f"by its position or its name, not by {argument!r}"
            raise InvalidInput(f"an argument of {self.symbol} is told {told}") from error
        if not 0 <= position < count:
            raise InvalidInput(
                f"{self.symbol} has no argument {position}; positions are 0 to {count - 1}"
            )
        return position

    def called(self, position: int) -> str:
        """An argument in words: its position, and its name if the source gave one."""
        name = self.names[position] if position < len(self.names) else ""
        return f"argument {position}" + (f" ('{name}')" if name != f"arg{position}" else "")

    def what(self, position: int) -> str:
        """What messages call an argument that is packed."""
        found = [operand for at, operand, _ in self.factors if at == position]
        if len(self.products) == len(found) == 1:
            return f"the {found[0]} of {self.symbol}"
        return f"{self.called(position)} of {self.symbol}"

    def operand(self, position: int) -> Operand | None:
        """Which factor an argument is, of the first product that has it; None if of none."""
        return next((operand for at, operand, _ in self.factors if at == position), None)

    def number(self, position: int) -> int:
        """The number of the product that has an argument as a factor."""
        op = next(op for at, _, op in self.factors if at == position)
        return self.products.index(op)

    def positions(self, operand: Operand) -> list[int]:
        """The arguments that are this factor of some product, in order."""
        return sorted({at for at, of, _ in self.factors if of == operand})

    def packable(self) -> Iterator[int]:
        """The arguments that can be packed, as far as can be told without planning."""
        for position in sorted({at for at, _, _ in self.factors}):
            try:
                self.product(position)
            except Unsupported:
                continue
            yield position

    def _remedy(self, words: str) -> str:
        """What to do instead; `{}` stands for an argument that can be packed."""
        found = list(self.packable())
        if not found:
            return "none of its arguments can be packed"
        weights = [p for p in found if self.operand(p) == "rhs"]
        told = ", ".join(f"{self.called(p)[len('argument ') :]}" for p in found)
        usual = (weights or found)[0]
        return f"{words.format(f'argument={usual}')}; those that can be packed are {told}"

    def product(self, position: int) -> Product:
        """The product that has an argument as a factor.

        Raises:
            Unsupported: where that can't be packed, with the reason and the remedy.
        """
        found = [(operand, op) for at, operand, op in self.factors if at == position]
        if not found:
            self._refuse_other(position)
        operand, op = found[0]
        return Product.read(self.module, self.symbol, op, operand, position, self.what(position))

    def _refuse_other(self, position: int) -> NoReturn:
        """Refuse an argument that no product has as a factor."""
        remedy = self._remedy("name a factor, as in nkdsl.pack(array, like=kernel, {})")
        raise Unsupported(
            f"{self.called(position)} of {self.symbol} can't be packed: it is no factor of a "
            f"product; {remedy}"
        )

    # --------------------------------------------------------------------------- rewriting

    def reading(self, choices: Mapping[int, Choice], plans: Sequence[PlanAttr]) -> ModuleOp:
        """The program that reads some arguments packed.

        Args:
            choices: how, for the position of each that is packed.
            plans: of each product of the function where nothing is packed.

        Returns:
            A module of its own, all products of the function planned.
        """
        module = self.module.clone()
        for op, plan in zip(products_of(function_of(module, self.symbol)), plans, strict=True):
            op.plan = plan
        for position, choice in choices.items():
            ops = self.product(position).rewritten(module, choice.layout)
            for op, plan in zip(ops, choice.plans, strict=True):
                op.plan = plan
        return module
