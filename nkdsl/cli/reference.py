"""What a program should compute, by numpy, and how far off an answer may be.

In: a kernel's module at the linalg level. Out: a `Reference`, which evaluates it (`cli.evaluate`)

- in wider types (`expect`), together with the bound of `nkdsl.testing`: as many roundings as any
  term goes through, of the magnitudes that the program makes of its arguments' magnitudes;
- in its own types, on small integers (`expect_exactly`). Sums are exact there in any order, so that
  every rounding is one that the program says, and results must be equal. Through layers of products
  magnitudes grow much faster than results do; then this is the sharper check.

Integers are exact in both. A program with control flow is executed by the interpreter as a whole.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.context import Context
from xdsl.dialects import arith, func
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from nkdsl.cli.evaluate import Action, Mode, Product, Run, Step, is_float, read_actions, wider
from nkdsl.cli.shapes import Shapes, strides_of
from nkdsl.interpreters import Argument, ExecutionError
from nkdsl.runtime.signature import Signature
from nkdsl.runtime.workspace import aligned_bytes
from nkdsl.testing import ArraySpec, Program, Roundings
from nkdsl.transforms.linalg_to_nanokernel import LinalgToNanokernelPass
from nkdsl.types import ELEMENT_TYPES, ElementType

Array = npt.NDArray[Any]

FLUSHED = 2.0**-126
"""What a rounding loses where subnormal numbers become zeros, as they do for AVX512-BF16."""

SMALL = 1
"""The largest of the small integers."""

_UNITS = {t.dtype: t.unit_roundoff for t in ELEMENT_TYPES}
_SMALLEST = {
    t.dtype: float(np.nextafter(t.dtype.type(0), t.dtype.type(1)))
    for t in ELEMENT_TYPES
    if not t.is_integer
}
"""The smallest subnormal number of each type."""


@dataclass(frozen=True)
class Expected:
    """What all arguments should hold after a run, and how far off each may be."""

    arrays: tuple[Any, ...]
    """In a wider type; a number stays as it is."""
    bounds: tuple[Array, ...]


class Unbounded(Exception):
    """No bound of the error is known; says for what."""

    def __init__(self, reason: str, arrays: tuple[Any, ...]):
        """With what the arguments should hold nevertheless."""
        super().__init__(reason)
        self.arrays = arrays


@dataclass(frozen=True)
class Reference:
    """The meaning of one function, independent of the machine code."""

    signature: Signature
    program: Program
    arguments: tuple[SSAValue, ...]
    actions: tuple[Action, ...]
    """What the function does, in order."""

    @property
    def products(self) -> tuple[Product, ...]:
        """The products in order; none where the function is executed as a whole."""
        return tuple(action for action in self.actions if isinstance(action, Product))

    @property
    def does_more(self) -> bool:
        """Whether there is more to the function than products."""
        return any(
            isinstance(action, Step) or (isinstance(action, Product) and action.epilogue)
            for action in self.actions
        )

    @property
    def is_layered(self) -> bool:
        """Whether results of products are multiplied again, or several add up to one."""
        return len(self.products) > 1 and self.program.may_be_exact

    def flops(self, arguments: Sequence[Argument]) -> int | None:
        """Operations of one call, a multiplication and an addition each; None where unknown."""
        if not self.products:
            return None
        return sum(2 * prod(extents.values()) for _, extents in self.extents(arguments))

    def extents(self, arguments: Sequence[Argument]) -> list[tuple[Product, dict[str, int]]]:
        """How far the iterators of each product go."""
        shapes = self._begun("wide", arguments)
        found: list[tuple[Product, dict[str, int]]] = []
        for action in self.actions:
            if isinstance(action, Product):
                found.append((action, action.extents(shapes.held(action.operands))))
            elif not isinstance(action, Step):
                action.apply(shapes)
        return found

    @property
    def factors(self) -> tuple[ElementType, ElementType] | None:
        """The types of the factors of all products, if all have the same."""
        types = {(p.problem.operand, p.problem.other) for p in self.products}
        return types.pop() if len(types) == 1 else None

    def racing(self, arguments: Sequence[Argument]) -> list[tuple[Product, Array, Array]]:
        """Factors for numpy to multiply as fast as it can: floats, what low precision is made."""
        random = np.random.default_rng(0)
        made = []
        for product, extents in self.extents(arguments):
            double = product.problem.accumulator.name == "f64"
            lhs, rhs = (
                random.random([extents[letter] for letter in letters]).astype(
                    np.float64 if double else np.float32
                )
                for letters in product.indices[:2]
            )
            made.append((product, lhs, rhs))
        return made

    def expect(self, arguments: Sequence[Argument]) -> Expected:
        """What a run on these arguments should leave behind; they are not changed.

        Raises:
            Unbounded: where no bound is known.
        """
        wide = self._evaluate("wide", [_widened(argument) for argument in arguments])
        results = tuple(wide.held(self.arguments))
        try:
            magnitudes = self._evaluate("magnitudes", [_magnitude(a) for a in arguments])
        except ExecutionError as error:
            raise Unbounded(str(error).splitlines()[0], results) from error
        bounds = tuple(
            self._bound(result, magnitude, parameter.element, wide.roundings)
            for result, magnitude, parameter in zip(
                results, magnitudes.held(self.arguments), self.signature.parameters, strict=True
            )
        )
        return Expected(results, bounds)

    def expect_exactly(self, arguments: Sequence[Argument]) -> tuple[Any, ...] | None:
        """What a run on small integers should leave behind; None if some sum is not exact."""
        copies = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        run = self._begun("literal", copies)
        for action in self.actions:
            if isinstance(action, Product):
                digits = action.problem.accumulator.unit_roundoff
                if digits and action.magnitude(run) * digits >= 1:
                    return None
            action.apply(run)
        return tuple(run.held(self.arguments))

    def _begun(self, mode: Mode, arguments: Sequence[Any]) -> Run:
        return Run(mode, dict(zip(self.arguments, arguments, strict=True)), Counter())

    def _evaluate(self, mode: Mode, arguments: Sequence[Any]) -> Run:
        run = self._begun(mode, arguments)
        with np.errstate(all="ignore"):
            for action in self.actions:
                action.apply(run)
        return run

    def _bound(
        self, result: Any, magnitude: Any, element: ElementType, roundings: Roundings
    ) -> Array:
        """The largest error of each element, as in `nkdsl.testing`."""
        if element.is_integer:
            # What is cut to an integer after a rounding may be one off.
            cuts = arith.FPToSIOp | arith.FPToUIOp
            cut = any(isinstance(op, cuts) for op in self.program.func.walk())
            return np.full(np.shape(result), int(cut))
        total = Roundings({np.asarray(magnitude).dtype: roundings.total()}) + roundings
        last = Roundings({element.dtype: 1})
        if roundings[element.dtype] > 1:
            return self._lost(magnitude, total)
        # The only rounding to the result's type is the last: what it loses depends on the result.
        before = self._lost(magnitude, total - last)
        return before + self._lost(abs(result) + before, last)

    def _lost(self, magnitude: Any, roundings: Roundings) -> Array:
        """γ · magnitude, and what numbers below the normal range lose."""
        unit = sum(n * _unit(dtype) for dtype, n in roundings.items())
        lost = sum(n * _SMALLEST.get(dtype, 0.0) for dtype, n in roundings.items())
        if self.program.holds_bf16:
            lost = roundings.total() * FLUSHED
        if unit >= 1:
            return np.full(np.shape(magnitude), np.inf)
        return np.asarray(unit / (1 - unit) * magnitude + lost)


def make_reference(module: ModuleOp, signature: Signature, context: Context) -> Reference:
    """The meaning of a function, by its signature, of a module at the linalg level."""
    alone = module.clone()
    for op in list(alone.ops):
        if isinstance(op, func.FuncOp) and op.sym_name.data != signature.symbol:
            op.detach()
            op.erase()
    program = Program.of(alone)
    raised = alone.clone()
    LinalgToNanokernelPass().apply(context, raised)
    function = next(op for op in raised.ops if isinstance(op, func.FuncOp))
    actions = read_actions(function)
    if actions is None:
        arguments = tuple(program.func.body.block.args)
        return Reference(signature, program, arguments, (Step(program, arguments),))
    return Reference(signature, program, tuple(function.body.block.args), actions)


# ------------------------------------------------------------------------------------- arguments


def make_arguments(
    signature: Signature, seed: int = 0, shapes: Shapes = (), *, small: bool = False
) -> tuple[Any, ...]:
    """Random arguments in the layouts that a signature demands, arrays aligned to a cache line.

    Floats lie between -1 and 1, integers are any of their type.

    Args:
        signature: the signature.
        seed: of the random numbers.
        shapes: the shape of each argument, where some size is open.
        small: whether all are small integers instead.
    """
    random = np.random.default_rng(seed)
    arguments: list[Any] = []
    for parameter, shape in zip(
        signature.parameters, shapes or [p.shape for p in signature.parameters], strict=True
    ):
        dtype = parameter.element.dtype
        if parameter.scalar:
            arguments.append(dtype.type(_drawn(random, (), dtype, small)))
            continue
        spec = ArraySpec(shape, parameter.element.name, strides_of(parameter, shape))
        memory = aligned_bytes(max(1, spec.span) * dtype.itemsize)
        strides = [stride * dtype.itemsize for stride in spec.element_strides]
        array: Array = np.ndarray(shape, dtype, memory, spec.first * dtype.itemsize, strides)
        array[...] = _drawn(random, shape, dtype, small)
        arguments.append(array)
    return tuple(arguments)


def _drawn(
    random: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any], small: bool
) -> Any:
    """Random numbers of a type."""
    if small:
        return random.integers(0 if dtype.kind == "u" else -SMALL, SMALL + 1, shape)
    if is_float(dtype):
        return random.uniform(-1, 1, shape)
    limits = np.iinfo(str(dtype))
    return random.integers(limits.min, limits.max, shape, dtype.type, endpoint=True)


# ----------------------------------------------------------------------------------------- types


def _unit(dtype: np.dtype[Any]) -> float:
    """The unit roundoff."""
    return _UNITS[dtype] if dtype in _UNITS else float(np.finfo(dtype).eps) / 2


def _widened(argument: Any) -> Any:
    """A number, or a dense copy of an array, in a type with more digits."""
    wide = wider(argument.dtype)
    if isinstance(argument, np.ndarray):
        return argument.astype(wide, order="C")
    return wide.type(argument)


def _magnitude(argument: Any) -> Any:
    """Absolute values in the wider type; integers, which are exact, as they are."""
    wide = _widened(argument)
    return abs(wide) if is_float(wide.dtype) else wide
