"""What a program should compute: the same products by numpy, and how far off an answer may be.

A program that is a straight line of products is evaluated by `numpy.matmul` or `numpy.einsum`, in
its own type (to race against) and in a wider one (to check against). Any other program is executed
by the interpreter of the linalg level, which can only check.

In: a kernel's module at the linalg level. Out: a `Reference`. An answer is right when each element
lies within `nkdsl.testing.error_bound` of the wider result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.context import Context
from xdsl.dialects import arith, func
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import BlockArgument, Operation, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineMap

from nkdsl.cli.shapes import Shapes, strides_of
from nkdsl.dialects.nanokernel import GemmOp
from nkdsl.interpreters import Argument
from nkdsl.planner import Problem, analyse
from nkdsl.runtime.signature import Signature
from nkdsl.runtime.workspace import aligned_bytes
from nkdsl.testing import ArraySpec, Program, error_bound
from nkdsl.transforms.linalg_to_nanokernel import LinalgToNanokernelPass
from nkdsl.types import ElementType

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Product:
    """One product of a straight-line program, on arguments of its function."""

    problem: Problem
    arguments: tuple[int, int, int]
    """Positions of the left factor, the right factor and the result."""
    indices: tuple[str, str, str]
    """einsum's letters for each of them."""
    from_zero: bool
    scale: tuple[int, int] | None = None
    """Positions of the factors of the product and of the old result, where it has them."""

    def extents(self, arguments: Sequence[Argument]) -> dict[str, int]:
        """How far each iterator, by its letter, goes on some arguments."""
        return {
            letter: size
            for position, letters in zip(self.arguments, self.indices, strict=True)
            for letter, size in zip(letters, np.shape(arguments[position]), strict=True)
        }

    def terms(self, arguments: Sequence[Argument]) -> int:
        """Products that are added up for one element of the result."""
        extents = self.extents(arguments)
        return prod(n for letter, n in extents.items() if letter not in self.indices[2])

    def flops(self, arguments: Sequence[Argument]) -> int:
        """Floating-point operations, a multiplication and an addition each counted as one."""
        return 2 * prod(self.extents(arguments).values())

    @property
    def size(self) -> str:
        """M×N×K, with question marks for what is known only at run time."""
        positions = (self.problem.position(kind) for kind in "mnk")
        sizes = zip("mnk", positions, strict=True)
        return "x".join(
            "?" if p in self.problem.dynamic else str(self.problem.extent(kind))
            for kind, p in sizes
        )

    @property
    def text(self) -> str:
        """`ik,kj->ij`."""
        lhs, rhs, out = self.indices
        return f"{lhs},{rhs}->{out}"

    def apply(self, arguments: Sequence[Any]) -> None:
        """Perform the product on all arguments of the function, in place."""
        lhs, rhs, out = (arguments[position] for position in self.arguments)
        matrices = self._matrices()
        if matrices is None:
            value = np.einsum(self.text, lhs, rhs, optimize=True)
        else:
            left, right, result = matrices
            value = np.matmul(lhs.transpose(left), rhs.transpose(right)).transpose(result)
        if self.scale is not None:
            alpha, beta = (arguments[position] for position in self.scale)
            value, out[...] = alpha * value, 0 if self.from_zero else beta * out
        if self.from_zero:
            out[...] = value
        else:
            out += value

    def _matrices(self) -> tuple[tuple[int, ...], ...] | None:
        """Axes that make (b…, m, k), (b…, k, n) of the factors and the result of (b…, m, n)."""
        letters = dict.fromkeys("bmnk", "")
        for position, kind in enumerate(self.problem.kinds):
            letters[kind] += _letter(position)
        if any(len(letters[kind]) != 1 for kind in "mnk"):
            return None
        b, m, n, k = (letters[kind] for kind in "bmnk")
        lhs, rhs, out = self.indices
        return (
            tuple(lhs.index(letter) for letter in b + m + k),
            tuple(rhs.index(letter) for letter in b + k + n),
            tuple((b + m + n).index(letter) for letter in out),
        )


@dataclass(frozen=True)
class Expected:
    """What all arguments should hold after a run, in a wider type, and how far off each may be.

    A number stays as it is.
    """

    arrays: tuple[Any, ...]
    bounds: tuple[Array, ...]


@dataclass(frozen=True)
class Reference:
    """The meaning of one function, independent of the machine code."""

    signature: Signature
    program: Program
    products: tuple[Product, ...] | None
    """The products in order; None where there is more to the function than products."""

    def flops(self, arguments: Sequence[Argument]) -> int | None:
        """Floating-point operations of one call, where they are known."""
        return sum(p.flops(arguments) for p in self.products) if self.products else None

    @property
    def element(self) -> ElementType | None:
        """The element type that all products compute in, if it is one."""
        types = {product.problem.accumulator for product in self.products or ()}
        return types.pop() if len(types) == 1 else None

    def run(self, arguments: Sequence[Argument]) -> None:
        """Perform the products by numpy, in the arrays' own types and in place."""
        for product in self.products or ():
            product.apply(arguments)

    def expect(self, arguments: Sequence[Argument]) -> Expected:
        """What a run on these arguments should leave behind; they are not changed."""
        results = tuple(_widened(argument) for argument in arguments)
        magnitudes = tuple(abs(_widened(argument)) for argument in arguments)
        if self.products is None:
            self.program.execute(results)
            self.program.execute(magnitudes, magnitudes=True)
            roundings = self.program.roundings(arguments)
        else:
            self.run(results)
            self.run(magnitudes)
            roundings = sum(product.terms(arguments) + 4 for product in self.products)
        parameters = self.signature.parameters
        bounds = tuple(
            error_bound(
                np.asarray(magnitude),
                np.zeros(np.shape(magnitude)),
                max(0, roundings - 2),
                p.element,
            )
            for magnitude, p in zip(magnitudes, parameters, strict=True)
        )
        return Expected(results, bounds)


def make_reference(module: ModuleOp, signature: Signature, context: Context) -> Reference:
    """The meaning of a function, by its signature, of a module at the linalg level."""
    alone = module.clone()
    for op in list(alone.ops):
        if isinstance(op, func.FuncOp) and op.sym_name.data != signature.symbol:
            op.detach()
            op.erase()
    return Reference(signature, Program.of(alone), _products(alone.clone(), context))


def make_arguments(signature: Signature, seed: int = 0, shapes: Shapes = ()) -> tuple[Any, ...]:
    """Random arguments in the layouts that a signature demands, arrays aligned to a cache line.

    Args:
        signature: the signature.
        seed: of the random numbers.
        shapes: the shape of each argument, where some size is open.
    """
    random = np.random.default_rng(seed)
    arguments: list[Any] = []
    for parameter, shape in zip(
        signature.parameters, shapes or [p.shape for p in signature.parameters], strict=True
    ):
        if parameter.scalar:
            arguments.append(parameter.element.dtype.type(random.uniform(-1, 1)))
            continue
        spec = ArraySpec(shape, parameter.element.name, strides_of(parameter, shape))
        size = parameter.element.size
        memory = aligned_bytes(max(1, spec.span) * size)
        strides = [stride * size for stride in spec.element_strides]
        array: Array = np.ndarray(
            shape, parameter.element.dtype, memory, spec.first * size, strides
        )
        array[...] = random.uniform(-1, 1, shape)
        arguments.append(array)
    return tuple(arguments)


def _products(module: ModuleOp, context: Context) -> tuple[Product, ...] | None:
    """The products of the only function; None where it holds anything else."""
    LinalgToNanokernelPass().apply(context, module)
    functions = [op for op in module.walk() if isinstance(op, func.FuncOp)]
    if len(functions[0].body.blocks) != 1:
        return None
    products = [_product(op) for op in functions[0].body.block.ops if not _silent(op)]
    return tuple(p for p in products if p is not None) if all(products) else None


def _silent(op: Operation) -> bool:
    """Whether an operation computes nothing that a product would not."""
    return isinstance(op, arith.ConstantOp | func.ReturnOp)


def _product(op: Operation) -> Product | None:
    if not isinstance(op, GemmOp) or op.epilogue is not None:
        return None
    scale = None
    if op.alpha is not None and op.beta is not None:
        alpha, beta = _argument(op.alpha), _argument(op.beta)
        if alpha is None or beta is None:
            return None
        scale = alpha, beta
    if op.first is not None:
        return None
    positions = [_argument(value) for value in (op.lhs, op.rhs, op.out)]
    indices = [_indices(map_) for map_ in op.indexing_maps[:3]]
    lhs, rhs, out = positions
    if lhs is None or rhs is None or out is None or None in indices:
        return None
    a, b, c = (text or "" for text in indices)
    return Product(analyse(op), (lhs, rhs, out), (a, b, c), op.from_zero is not None, scale)


def _argument(value: SSAValue) -> int | None:
    return value.index if isinstance(value, BlockArgument) else None


def _indices(map_: AffineMap) -> str | None:
    """Einsum's letters for a map that only orders iterators; None for any other."""
    positions = [r.position for r in map_.results if isinstance(r, AffineDimExpr)]
    return "".join(map(_letter, positions)) if len(positions) == len(map_.results) else None


def _letter(position: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[position]


def _widened(argument: Any) -> Any:
    """A number, or a dense copy of an array, in a type with more digits."""
    wide = np.float64 if argument.dtype == np.float32 else np.longdouble
    if isinstance(argument, np.ndarray):
        return argument.astype(wide, order="C")
    return wide(argument)
