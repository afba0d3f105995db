"""Programs evaluated by numpy, operation by operation: in wider types, on magnitudes, or literally.

Products are `numpy.matmul` or `numpy.einsum`; whatever else there is (an epilogue, an activation, a
transpose) is executed by the interpreter as a function of its own, for which `nkdsl.testing` knows
all three ways. Products alone are raised for that: no pass that fuses anything has a part in it.

In: a function in which products are raised. Out: `Action`s, which are applied to a `Run`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from xdsl.dialects import arith, func, memref
from xdsl.dialects.builtin import DYNAMIC_INDEX, AffineMapAttr, FunctionType, MemRefType, ModuleOp
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.linalg.abstract_ops import LinalgStructuredOperation
from xdsl.dialects.linalg.attrs import IteratorTypeAttr
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.ir.affine import AffineConstantExpr, AffineDimExpr, AffineExpr, AffineMap
from xdsl.rewriter import Rewriter
from xdsl.traits import is_side_effect_free

from nkdsl.dialects.nanokernel import GemmOp, YieldOp
from nkdsl.interpreters import Buffer, executor, run
from nkdsl.planner import Problem, analyse
from nkdsl.targets.semantics import rounded
from nkdsl.testing import Program, Roundings
from nkdsl.types import ElementType, element_type_of

Array = npt.NDArray[Any]

Mode = Literal["wide", "magnitudes", "literal"]
"""How a program is evaluated: in wider types, the same on magnitudes, or in its own types."""

STEP = "step"
"""What the function of one operation is called."""


@dataclass(frozen=True)
class Run:
    """One evaluation: what the values of a function hold."""

    mode: Mode
    values: dict[SSAValue, Any]
    roundings: Roundings
    """The most roundings that a term has gone through so far."""

    def held(self, values: Sequence[SSAValue]) -> list[Any]:
        """What some values hold."""
        return [self.values[value] for value in values]

    def dtype(self, element: ElementType) -> np.dtype[Any]:
        """The type that numbers of an element type are held in."""
        return element.dtype if self.mode == "literal" else wider(element.dtype)


@dataclass(frozen=True)
class Memory:
    """An allocation."""

    op: memref.AllocOp | memref.AllocaOp

    def apply(self, run: Run) -> None:
        """Make an array."""
        type_ = self.op.results[0].type
        assert isinstance(type_, MemRefType)
        given = iter(run.held(self.op.dynamic_sizes))
        shape = [int(next(given)) if size < 0 else size for size in type_.get_shape()]
        dtype = run.dtype(element_type_of(type_.element_type))
        run.values[self.op.results[0]] = np.zeros(shape, dtype)


@dataclass(frozen=True)
class Scalar:
    """An operation that touches no memory: a constant, a size, a view."""

    op: Operation

    def apply(self, run: Run) -> None:
        """Let the interpreter execute it."""
        operands = [
            Buffer.of(value) if isinstance(value, np.ndarray) and value.ndim else value
            for value in run.held(self.op.operands)
        ]
        machine = executor(ModuleOp([]))
        for result, value in zip(
            self.op.results, machine.run_op(self.op, tuple(operands)), strict=True
        ):
            if isinstance(value, Buffer):
                value = _array(value)
            elif run.mode == "magnitudes" and isinstance(value, np.floating):
                value = abs(value)
            run.values[result] = value


@dataclass(frozen=True)
class Step:
    """An operation as a function of its own, which the interpreter executes."""

    program: Program
    operands: tuple[SSAValue, ...]

    @classmethod
    def of(cls, op: Operation) -> "Step":
        """The function of one operation; constants that it uses move into it."""
        used = [v for inner in op.walk() for v in inner.operands if not _is_within(v, op)]
        used = list(dict.fromkeys(used))
        constants = [v.owner for v in used if isinstance(v.owner, arith.ConstantOp)]
        operands = [v for v in used if not isinstance(v.owner, arith.ConstantOp)]
        block = Block(arg_types=[v.type for v in operands])
        new: dict[SSAValue, SSAValue] = dict(zip(operands, block.args, strict=True))
        block.add_ops([*(c.clone(new) for c in constants), op.clone(new), func.ReturnOp()])
        types = FunctionType.from_lists([v.type for v in operands], [])
        function = func.FuncOp(STEP, types, Region(block))
        return cls(Program.of(ModuleOp([function])), tuple(operands))

    def apply(self, run: Run) -> None:
        """Let the interpreter execute it."""
        self.execute(run, run.held(self.operands))

    def execute(self, run: Run, arguments: Sequence[Any]) -> None:
        """Execute it on some arguments, in place."""
        match run.mode:
            case "literal":
                _run(self.program, arguments)
            case "wide":
                self.program.execute(arguments)
                run.roundings.update(self.program.roundings_by_type(arguments))
            case "magnitudes":
                self.program.execute(arguments, magnitudes=True)


def _run(program: Program, arguments: Sequence[Any]) -> None:
    """Execute a function in its own types."""
    plain = [float(a) if isinstance(a, np.generic) and is_float(a.dtype) else a for a in arguments]
    run(program.module, program.name, plain)


def _is_within(value: SSAValue, op: Operation) -> bool:
    """Whether a value is made inside of an operation."""
    owner = value.owner
    return op.is_ancestor(owner)


def _array(buffer: Buffer) -> Array:
    """The array that a buffer is."""
    strides = [stride * buffer.data.itemsize for stride in buffer.strides]
    return np.lib.stride_tricks.as_strided(buffer.data[buffer.start :], buffer.shape, strides)


@dataclass(frozen=True)
class Product:
    """One product of a straight-line program."""

    problem: Problem
    operands: tuple[SSAValue, SSAValue, SSAValue]
    """The left factor, the right factor and the result."""
    indices: tuple[str, str, str]
    """einsum's letters for each of them."""
    unsigned: tuple[bool, bool]
    """Whether the integers of a factor have no sign."""
    from_zero: bool
    scale: tuple[SSAValue, SSAValue] | None = None
    """The factors of the product and of the old result, where it has them."""
    epilogue: Step | None = None
    """What follows; its first operand are the sums, by the parallel iterators in order."""

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

    @property
    def _parallel(self) -> str:
        """The letters of the parallel iterators, in order."""
        return "".join(_letter(p) for p, kind in enumerate(self.problem.kinds) if kind != "k")

    def extents(self, arrays: Sequence[Array]) -> dict[str, int]:
        """How far each iterator, by its letter, goes on some operands."""
        return {
            letter: size
            for array, letters in zip(arrays, self.indices, strict=True)
            for letter, size in zip(letters, array.shape, strict=True)
        }

    def terms(self, arrays: Sequence[Array]) -> int:
        """Products that are added up for one element of the result."""
        extents = self.extents(arrays)
        return prod(n for letter, n in extents.items() if letter not in self.indices[2])

    def multiply(self, lhs: Array, rhs: Array) -> Array:
        """The sums of the products, with the result's dimensions."""
        matrices = self._matrices()
        if matrices is None:
            return np.asarray(np.einsum(self.text, lhs, rhs, optimize=True))
        left, right, result = matrices
        product: Array = np.matmul(lhs.transpose(left), rhs.transpose(right))
        return product.transpose(result)

    def apply(self, run: Run) -> None:
        """Evaluate the product and what follows it."""
        lhs, rhs, out = run.held(self.operands)
        sums = self._sums(run, lhs, rhs, out)
        element = self.problem.accumulator
        if not element.is_integer:
            run.roundings.update(self._roundings(run, lhs, rhs, out))
        if self.epilogue is None:
            out[...] = rounded(sums, out.dtype) if out.dtype.kind not in "iu" else sums
            return
        order = [self.indices[2].index(letter) for letter in self._parallel]
        held = np.ascontiguousarray(sums.transpose(order)).astype(run.dtype(element))
        self.epilogue.execute(run, [held, *run.held(self.epilogue.operands[1:])])

    def _sums(self, run: Run, lhs: Array, rhs: Array, out: Array) -> Array:
        factors = (_exactly(f, u) for f, u in zip((lhs, rhs), self.unsigned, strict=True))
        sums = self.multiply(*factors)
        if self.problem.accumulator.is_integer:
            # Sums of 2^53 and more are none that these types and memories can give.
            sums = sums.astype(np.int64)
        old = out.astype(sums.dtype)
        if self.scale is not None:
            alpha, beta = run.held(self.scale)
            sums, old = alpha * sums, beta * old
        if not self.from_zero:
            sums = sums + old
        if self.problem.accumulator.is_integer:
            return sums.astype(np.int32)
        return sums

    def _roundings(self, run: Run, lhs: Array, rhs: Array, out: Array) -> Roundings:
        """As `Program.roundings_by_type` counts them."""
        terms = self.terms((lhs, rhs, out))
        count = Roundings({self.problem.accumulator.dtype: terms + 2 * bool(self.scale) + 1})
        return count + Roundings({self.problem.result.dtype: int(self.epilogue is None)})

    def magnitude(self, run: Run) -> float:
        """The largest sum of magnitudes that is added up."""
        lhs, rhs, out = (abs(x.astype(np.float64)) for x in run.held(self.operands))
        sums = self.multiply(lhs, rhs)
        if not self.from_zero:
            sums = sums + out
        scales = [abs(float(s)) for s in run.held(self.scale or ())]
        return float(sums.max(initial=0.0)) * max([1.0, *scales])

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


Action = Memory | Scalar | Step | Product


# ----------------------------------------------------------------------------------- functions


def read_actions(function: func.FuncOp) -> tuple[Action, ...] | None:
    """What a straight-line function does; None for any other."""
    if len(function.body.blocks) != 1:
        return None
    actions: list[Action] = []
    for op in function.body.block.ops:
        match op:
            case func.ReturnOp() | memref.DeallocOp():
                continue
            case GemmOp():
                actions.append(_product(op) or Step.of(op))
            case LinalgStructuredOperation():
                actions.append(Step.of(op))
            case memref.AllocOp() | memref.AllocaOp():
                actions.append(Memory(op))
            case _ if not op.regions and is_side_effect_free(op):
                actions.append(Scalar(op))
            case _:
                return None
    return tuple(actions)


def _product(op: GemmOp) -> Product | None:
    """A product that numpy evaluates; None for one that it can't."""
    indices = [_indices(map_) for map_ in op.indexing_maps[:3]]
    if op.first is not None or op.start is not None or None in indices:
        return None
    a, b, c = (text or "" for text in indices)
    scale = None if op.alpha is None or op.beta is None else (op.alpha, op.beta)
    return Product(
        analyse(op),
        (op.lhs, op.rhs, op.out),
        (a, b, c),
        (op.is_unsigned("lhs"), op.is_unsigned("rhs")),
        op.from_zero is not None,
        scale,
        None if op.epilogue is None else _epilogue(op, op.epilogue),
    )


def _epilogue(op: GemmOp, region: Region) -> Step:
    """The epilogue of a product as an elementwise operation, whose first operand are the sums."""
    parallel = [p for p, kind in enumerate(op.kinds) if kind != "k"]
    sizes = [DYNAMIC_INDEX if op.sizes[p] < 0 else op.sizes[p] for p in parallel]
    sums = memref.AllocOp((), (), MemRefType(op.accumulator, sizes)).results[0]
    dims: list[AffineExpr] = [AffineConstantExpr(0)] * len(op.kinds)
    for new, old in enumerate(parallel):
        dims[old] = AffineDimExpr(new)
    _, _, out, *extras = (
        map_.replace_dims_and_symbols(dims, (), len(parallel), 0) for map_ in op.indexing_maps
    )
    body = region.clone()
    assert isinstance(op.out.type, MemRefType)
    body.block.insert_arg(op.out.type.element_type, len(body.block.args))
    end = body.block.last_op
    assert isinstance(end, YieldOp)
    Rewriter.replace_op(end, linalg.YieldOp(*end.operands))
    generic = linalg.GenericOp(
        (sums, *op.extras),
        (op.out,),
        body,
        [AffineMapAttr(m) for m in (AffineMap.identity(len(parallel)), *extras, out)],
        [IteratorTypeAttr.parallel()] * len(parallel),
    )
    return Step.of(generic)


def _indices(map_: AffineMap) -> str | None:
    """Einsum's letters for a map that only orders iterators; None for any other."""
    positions = [r.position for r in map_.results if isinstance(r, AffineDimExpr)]
    return "".join(map(_letter, positions)) if len(positions) == len(map_.results) else None


def _letter(position: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[position]


# ----------------------------------------------------------------------------------------- types


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether a type holds floats; numpy doesn't know of all that do."""
    return dtype.kind not in "iub"


def wider(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A floating-point type with more digits; integers are exact as they are."""
    if not is_float(dtype):
        return dtype
    return np.dtype(np.float64 if dtype.itemsize <= 4 else np.longdouble)


def _exactly(factor: Array, unsigned: bool) -> Array:
    """A factor in a type in which products are exact, or at least wide."""
    if not is_float(factor.dtype):
        kind = "u" if unsigned else "i"
        return factor.view(f"{kind}{factor.itemsize}").astype(np.float64)
    return factor if factor.dtype == np.longdouble else factor.astype(np.float64)
