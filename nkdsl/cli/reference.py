"""What a program should compute: the same products by numpy, and how far off an answer may be.

A program that is a straight line of products is evaluated by `numpy.matmul` or `numpy.einsum`, in
its own type (to race against) and in a wider one (to check against). Any other program is executed
by the interpreter of the linalg level, which can only check.

In: a kernel's module at the linalg level. Out: a `Reference`. An answer is right when each element
lies within `nkdsl.testing.error_bound` of the wider result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.context import Context
from xdsl.dialects import arith, func
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import BlockArgument, Operation, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineMap

from nkdsl.dialects.nanokernel import GemmOp
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

    @property
    def terms(self) -> int:
        """Products that are added up for one element of the result."""
        return self.problem.extent("k") * self.problem.outer_trips("k")

    @property
    def text(self) -> str:
        """`ik,kj->ij`."""
        lhs, rhs, out = self.indices
        return f"{lhs},{rhs}->{out}"

    def apply(self, arrays: Sequence[Array]) -> None:
        """Perform the product on all arguments of the function, in place."""
        lhs, rhs, out = (arrays[position] for position in self.arguments)
        matrices = self._matrices()
        if matrices is None:
            value = np.einsum(self.text, lhs, rhs, optimize=True)
        else:
            left, right, result = matrices
            value = np.matmul(lhs.transpose(left), rhs.transpose(right)).transpose(result)
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
    """What all arguments should hold after a run, in a wider type, and how far off each may be."""

    arrays: tuple[Array, ...]
    bounds: tuple[Array, ...]


@dataclass(frozen=True)
class Reference:
    """The meaning of one function, independent of the machine code."""

    signature: Signature
    program: Program
    products: tuple[Product, ...] | None
    """The products in order; None where there is more to the function than products."""

    @property
    def flops(self) -> int | None:
        """Floating-point operations of one call, where they are known."""
        return sum(p.problem.flops for p in self.products) if self.products else None

    @property
    def element(self) -> ElementType | None:
        """The element type that all products compute in, if it is one."""
        types = {product.problem.accumulator for product in self.products or ()}
        return types.pop() if len(types) == 1 else None

    def run(self, arrays: Sequence[Array]) -> None:
        """Perform the products by numpy, in the arrays' own types and in place."""
        for product in self.products or ():
            product.apply(arrays)

    def expect(self, arrays: Sequence[Array]) -> Expected:
        """What a run on these arrays should leave behind; the arrays are not changed."""
        results = tuple(_widened(array) for array in arrays)
        magnitudes = tuple(np.abs(_widened(array)) for array in arrays)
        if self.products is None:
            self.program.execute(results)
            self.program.execute(magnitudes, magnitudes=True)
            roundings = self.program.roundings(arrays)
        else:
            self.run(results)
            self.run(magnitudes)
            roundings = sum(product.terms + 2 for product in self.products)
        parameters = self.signature.parameters
        bounds = tuple(
            error_bound(magnitude, np.zeros_like(magnitude), max(0, roundings - 2), p.element)
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


def make_arrays(signature: Signature, seed: int = 0) -> tuple[Array, ...]:
    """Random arguments in the layouts that a signature demands, each aligned to a cache line."""
    random = np.random.default_rng(seed)
    arrays: list[Array] = []
    for parameter in signature.parameters:
        spec = ArraySpec(parameter.shape, parameter.element.name, parameter.strides)
        size = parameter.element.size
        memory = aligned_bytes(spec.span * size)
        array: Array = np.ndarray(
            spec.shape, parameter.element.dtype, memory, spec.first * size, parameter.byte_strides
        )
        array[...] = random.uniform(-1, 1, spec.shape)
        arrays.append(array)
    return tuple(arrays)


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
    positions = [_argument(value) for value in (op.lhs, op.rhs, op.out)]
    indices = [_indices(map_) for map_ in op.indexing_maps[:3]]
    lhs, rhs, out = positions
    if lhs is None or rhs is None or out is None or None in indices:
        return None
    a, b, c = (text or "" for text in indices)
    return Product(analyse(op), (lhs, rhs, out), (a, b, c), op.from_zero is not None)


def _argument(value: SSAValue) -> int | None:
    return value.index if isinstance(value, BlockArgument) else None


def _indices(map_: AffineMap) -> str | None:
    """Einsum's letters for a map that only orders iterators; None for any other."""
    positions = [r.position for r in map_.results if isinstance(r, AffineDimExpr)]
    return "".join(map(_letter, positions)) if len(positions) == len(map_.results) else None


def _letter(position: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[position]


def _widened(array: Array) -> Array:
    """A dense copy in a type with more digits."""
    return array.astype(np.float64 if array.dtype == np.float32 else np.longdouble, order="C")
