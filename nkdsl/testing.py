"""Checking a program: at every level, and as machine code, against what it means.

What goes in is a program of linalg operations, or of whole products with plans; nothing comes out
but an `AssertionError` if any level computes something else. For tests of nkdsl, and for those of
passes and targets that users add.

    check_all_levels(source, target="skylake-avx512")
    check_all_levels(source, [a, b, c], target="host", guards=("start", "end"))

    lowered = Lowered(source, target="host")  # once, for arguments of many sizes
    lowered.check(like=[ArraySpec((5, 7)), ArraySpec((7, 9)), ArraySpec((5, 9))])

*What is compared.* The program itself, executed in a wider type (numpy's longdouble for float64,
float64 for narrower ones), is the reference; integers wrap as they do in their type. Every level is
executed by `nkdsl.interpreters` in the real type, and the kernel runs natively where this CPU can
run it. Three things must hold:

- each result differs from the reference by no more than rounding can explain, see `error_bound`;
  integers don't differ at all, unless floating-point numbers were cut to them;
- on small integers, where no operation rounds, results are exact;
- nothing else changes: not the inputs, not the memory between the rows of a strided result.

*Low precision.* Products of bf16 and f16 are added up in f32 and rounded once, to the type of the
result. A program may say, read literally, that each sum is rounded to the narrow type; then the
linalg level, and no other, may be off by as much as that. AVX512-BF16 turns subnormal numbers into
zeros: where bf16 occurs, every rounding may lose 2^-126.

*The bound* needs the sum of the magnitudes |C| + Σ|a||b|. It is found by executing the program
once more on absolute values, each subtraction turned into an addition. That holds for products with
any maps, and for further sums and products of results.

*Arguments.* Arrays for memrefs, numbers for the rest. What is not given is made up, as far as the
types say its shape; `like` says the rest.

*Memory.* `guarded` puts an array flush against a page that can't be touched, so that machine code
which reads or writes one element too far is caught by the processor. It then dies, and with it
its process: `survives` runs a call in a child and says how it ended. The child's workspace is full
of NaN, and ends at such a page.

Imports: interpreters, targets; the compiler itself only when a check starts.
"""

import ctypes
import faulthandler
import math
import mmap
import os
import resource
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NoReturn

import ml_dtypes
import numpy as np
from xdsl.dialects import arith
from xdsl.dialects import math as fmath
from xdsl.dialects.builtin import DYNAMIC_INDEX, AnyFloat, BFloat16Type, MemRefType, ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.linalg.abstract_ops import LinalgStructuredOperation
from xdsl.interpreter import (
    Interpreter,
    InterpreterFunctions,
    PythonValues,
    impl,
    register_impls,
)
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.utils.exceptions import InterpretationError

from nkdsl.dialects.nanokernel import WORKSPACE_ALIGNMENT, GemmOp, is_unsigned
from nkdsl.errors import InvalidInput
from nkdsl.interpreters import (
    Argument,
    Buffer,
    executor,
    native_arguments,
    run,
    workspace_bytes,
)
from nkdsl.interpreters.arith import ArithFunctions, constant_value
from nkdsl.interpreters.buffer import Array, dtype_of, row_major, signed
from nkdsl.interpreters.linalg import iteration_of
from nkdsl.interpreters.math import FUNCTIONS
from nkdsl.interpreters.nanokernel import MEANINGLESS, reduction_of
from nkdsl.targets.semantics import rounded
from nkdsl.types import ELEMENT_TYPES, ElementType, element_type, element_type_of

Edge = Literal["start", "end"]
"""Which end of an array lies against a guard page."""

# ------------------------------------------------------------------------------------- memory


@dataclass(frozen=True)
class ArraySpec:
    """The shape and layout of an array in memory."""

    shape: tuple[int, ...]
    """Extents; any may be zero."""
    element: str = "f32"
    """Element type."""
    strides: tuple[int, ...] | None = None
    """Strides in elements, of any sign; row-major without holes if None."""

    @property
    def element_strides(self) -> tuple[int, ...]:
        """The strides in elements."""
        return row_major(self.shape) if self.strides is None else self.strides

    @property
    def first(self) -> int:
        """Elements from the lowest address to element (0, …, 0); for negative strides not zero."""
        return -sum(min(0, reach) for reach in self._reaches())

    @property
    def span(self) -> int:
        """Elements from the lowest address to the highest, holes included."""
        if 0 in self.shape:
            return 0
        return 1 + sum(abs(reach) for reach in self._reaches())

    def _reaches(self) -> Iterator[int]:
        """How far each dimension leads from its first to its last index."""
        for extent, stride in zip(self.shape, self.element_strides, strict=True):
            yield (extent - 1) * stride if 0 not in self.shape else 0

    @classmethod
    def of(cls, array: Array) -> "ArraySpec":
        """The layout of an existing array."""
        strides = tuple(stride // array.itemsize for stride in array.strides)
        return cls(array.shape, _element_type_of(array).name, strides)


def plain(spec: ArraySpec) -> Array:
    """An array in ordinary memory, filled with NaN, holes included; nothing surrounds it.

    Integers are all of one odd value instead.
    """
    memory = np.empty(spec.span, element_type(spec.element).dtype)
    return _layout(spec, memory, 0)


def guarded(spec: ArraySpec, at: Edge = "end") -> Array:
    """An array between two pages that can't be touched, filled with NaN, holes included.

    Args:
        spec: its layout.
        at: "start" puts its lowest element behind the first page, and so at a page's start; "end"
            puts its highest element before the last page, so that it starts anywhere.

    The memory is shared with child processes, see `survives`.
    """
    dtype = element_type(spec.element).dtype
    size = spec.span * dtype.itemsize
    inside = max(1, -(-size // mmap.PAGESIZE)) * mmap.PAGESIZE
    area = mmap.mmap(-1, inside + 2 * mmap.PAGESIZE)
    _forbid(area, 0)
    _forbid(area, mmap.PAGESIZE + inside)
    start = mmap.PAGESIZE + (inside - size if at == "end" else 0)
    return _layout(spec, area, start)


def survives(call: Callable[[], object]) -> str | None:
    """Run a call in a child process.

    Args:
        call: what to run. Only what it writes to memory from `guarded` is seen afterwards.

    Returns:
        None if it ended well, else how it died, for example "killed by SIGSEGV".
    """
    child = os.fork()
    if child == 0:
        _run_and_exit(call)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return None if os.WEXITSTATUS(status) == 0 else "ended by an exception"


def _run_and_exit(call: Callable[[], object]) -> NoReturn:
    """Run a call in a process that was made for it."""
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        call()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _layout(spec: ArraySpec, memory: Any, start: int) -> Array:
    """Lay an array out on memory, from byte `start` on, after filling that with NaN."""
    type_ = element_type(spec.element)
    dtype = type_.dtype
    # The array that owns the memory is what interpreters may touch: the span and no more.
    whole: Array = np.ndarray(spec.span, dtype, memory, start)
    whole.fill(np.nan if type_.unit_roundoff else np.array(MEANINGLESS).astype(dtype))
    strides = [stride * dtype.itemsize for stride in spec.element_strides]
    return np.ndarray(spec.shape, dtype, whole, spec.first * dtype.itemsize, strides)


def _forbid(area: mmap.mmap, start: int) -> None:
    """Make one page of a mapping inaccessible."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(area, start))
    libc = ctypes.CDLL(None, use_errno=True)
    none = 0  # PROT_NONE
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), none):
        raise OSError(ctypes.get_errno(), "mprotect")


# ------------------------------------------------------------------------------------- bounds


def error_bound(a_abs_sum: Array, c_abs: Array, k: int, etype: ElementType | str) -> Array:
    """How far a sum of k products may be from the exact one, in any order of summation.

    A sum of a type that is added up in a wider one, bf16 or f16, is rounded once more, at the end.
    Sums of integers are exact.

    |computed - exact| ≤ γ(k + 2) · (|C| + Σ|a||b|) with γ(n) = n·u / (1 - n·u): one rounding for
    each product, one for each of k additions, and one to spare; fewer with fused operations. A
    result below the normal range adds at most the smallest subnormal number a step.

    Source: N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, sections
    3.1 and 3.5.

    Args:
        a_abs_sum: Σ|a||b|, for each element of the result.
        c_abs: |C| before, for each element of the result.
        k: the number of products.
        etype: the element type of the result.

    Raises:
        ValueError: if k is so large that there is no bound.
    """
    type_ = element_type(etype) if isinstance(etype, str) else etype
    magnitude = a_abs_sum + c_abs
    if type_.is_integer:
        return np.zeros(np.shape(magnitude))
    roundings = Counter({type_.accumulator.dtype: k + 2})
    if type_ != type_.accumulator:
        roundings[type_.dtype] += 1
    return _bound(magnitude, roundings)


Roundings = Counter[np.dtype[Any]]
"""How often a term is rounded, in each type."""

_FLUSHED = np.longdouble(2.0**-126)
"""What a sum or a factor loses when subnormal numbers of f32 or bf16 become zeros."""


def _bound(magnitude: Array, roundings: Roundings, flushed: bool = False) -> Array:
    """γ · magnitude, where each rounding counts with its type's unit roundoff.

    `flushed`: whether subnormal numbers of f32 and bf16 may become zeros.
    """
    unit = lost = np.longdouble(0)
    for dtype, count in roundings.items():
        info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
        unit += count * np.longdouble(info.eps) / 2
        smallest = np.longdouble(info.smallest_subnormal)
        lost += count * (np.maximum(smallest, _FLUSHED) if flushed else smallest)
    if unit >= 1:
        counts = " and ".join(f"{count} roundings in {dtype}" for dtype, count in roundings.items())
        raise ValueError(f"{counts} leave no digit: there is no bound")
    return np.asarray(unit / (1 - unit) * magnitude + lost)


@register_impls
class _Wide(ArithFunctions):
    """Arithmetic on arrays of wider types than declared: conversions keep the digits."""

    def float_dtype(self, op: Operation) -> np.dtype[Any]:
        """A type with more digits than the declared one."""
        return _wider(super().float_dtype(op))


@register_impls
class _Magnitudes(_Wide):
    """Arithmetic on absolute values: an upper bound of each term's, with nothing cancelling.

    Integers, which are exact, keep their values until they are converted.
    """

    def constant(self, value: Attribute) -> Any:
        """The magnitude of a constant."""
        constant = super().constant(value)
        return constant if isinstance(constant, int) else abs(constant)

    @impl(arith.SIToFPOp)
    def run_sitofp(
        self, interpreter: Interpreter, op: arith.SIToFPOp, args: PythonValues
    ) -> PythonValues:
        return (abs(self.from_integer(op, args[0])),)

    @impl(arith.MinimumfOp)
    def run_minimumf(
        self, interpreter: Interpreter, op: arith.MinimumfOp, args: PythonValues
    ) -> PythonValues:
        return (np.maximum(*args),)

    @impl(arith.MinnumfOp)
    def run_minnumf(
        self, interpreter: Interpreter, op: arith.MinnumfOp, args: PythonValues
    ) -> PythonValues:
        return (np.maximum(*args),)

    @impl(arith.SelectOp)
    def run_select(
        self, interpreter: Interpreter, op: arith.SelectOp, args: PythonValues
    ) -> PythonValues:
        if isinstance(op.result.type, AnyFloat):
            return (np.maximum(args[1], args[2]),)
        return (np.where(*args),)

    @impl(arith.SubfOp)
    def run_subf(
        self, interpreter: Interpreter, op: arith.SubfOp, args: PythonValues
    ) -> PythonValues:
        return (args[0] + args[1],)

    @impl(arith.NegfOp)
    def run_negf(
        self, interpreter: Interpreter, op: arith.NegfOp, args: PythonValues
    ) -> PythonValues:
        return args

    @impl(arith.DivfOp)
    def run_divf(
        self, interpreter: Interpreter, op: arith.DivfOp, args: PythonValues
    ) -> PythonValues:
        _unbounded(op)


def _unbounded(op: Operation) -> NoReturn:
    raise InterpretationError(f"no error bound is known for a program with '{op.name}'")


_MAGNITUDES: dict[type[Operation], Callable[..., Any]] = {
    fmath.AbsFOp: lambda x: x,
    fmath.CopySignOp: lambda x, _: x,
    fmath.FmaOp: lambda x, y, z: x * y + z,
    fmath.TanhOp: lambda x: x,
    fmath.ErfOp: lambda x: 2 * x,
    fmath.ExpOp: lambda x: np.exp(x) * (1 + x),
    fmath.Exp2Op: lambda x: np.exp2(x) * (1 + x),
}
"""Of functions: what is no smaller than the value and than the argument's error in the value, if
that error is small and one in the same unit: |f(x)| and |x·f'(x)|."""


def _magnitude_rule(op_type: type[Operation]) -> Any:
    """The rule of a function on absolute values."""

    @impl(op_type)
    def run(
        self: InterpreterFunctions, interpreter: Interpreter, op: Operation, args: PythonValues
    ) -> PythonValues:
        function = _MAGNITUDES.get(op_type)
        return (_unbounded(op) if function is None else function(*args),)

    return run


class _MathMagnitudes(InterpreterFunctions):
    """Functions of absolute values."""


for _type in {*FUNCTIONS, *_MAGNITUDES}:
    setattr(_MathMagnitudes, f"run_{_type.name}", _magnitude_rule(_type))
register_impls(_MathMagnitudes)


# ----------------------------------------------------------------------------------- programs


@dataclass(frozen=True)
class Program:
    """A function of linalg operations or whole products, taken apart."""

    module: ModuleOp
    func: FuncOp
    written: frozenset[int]
    """The arguments that it writes."""
    overwritten: frozenset[int]
    """Those of them that it writes before it reads them, whatever its arguments are."""
    unsigned: frozenset[int]
    """The arguments whose integers have no sign."""

    @property
    def name(self) -> str:
        """The function's name."""
        return self.func.sym_name.data

    @property
    def types(self) -> tuple[Attribute, ...]:
        """The types of its arguments."""
        return self.func.function_type.inputs.data

    @classmethod
    def of(cls, module: ModuleOp) -> "Program":
        """The only function of a module; raises `InvalidInput` if there is not one."""
        functions = [op for op in module.ops if isinstance(op, FuncOp) and op.body.blocks]
        if len(functions) != 1:
            raise InvalidInput(f"a program to check has one function, not {len(functions)}")
        func = functions[0]
        arguments = func.body.block.args
        written = (a.index for a in arguments if any(a in _outputs(op) for op in func.walk()))
        overwritten = (a.index for a in arguments if _is_overwritten(func, a))
        read = {value for op in func.walk() for value in _unsigned_operands(op)}
        unsigned = (a.index for a in arguments if a in read or is_unsigned(a))
        return cls(module, func, frozenset(written), frozenset(overwritten), frozenset(unsigned))

    def element(self, position: int) -> ElementType | None:
        """The element type of an argument that is a memref."""
        type_ = self.types[position]
        if not isinstance(type_, MemRefType):
            return None
        return element_type_of(type_.element_type, unsigned=position in self.unsigned)

    def roundings(self, arguments: Sequence[Argument]) -> int:
        """The most roundings that any term of a result goes through on the way."""
        return self.roundings_by_type(arguments, literally=True).total()

    def roundings_by_type(
        self, arguments: Sequence[Argument], *, literally: bool = False
    ) -> Roundings:
        """The same for each type; `literally` if sums in a narrow type are rounded at each step."""
        buffers: dict[SSAValue, Buffer] = {
            parameter: Buffer.of(argument)
            for parameter, argument in zip(self.func.body.block.args, arguments, strict=True)
            if isinstance(argument, np.ndarray)
        }
        total = Roundings()
        for op in self.func.walk():
            total += _roundings(op, buffers, literally)
        return total

    @property
    def holds_bf16(self) -> bool:
        """Whether any of its memrefs holds bf16."""
        types = (type_ for type_ in self.types if isinstance(type_, MemRefType))
        return any(isinstance(type_.element_type, BFloat16Type) for type_ in types)

    @property
    def may_be_exact(self) -> bool:
        """Whether nothing has to be rounded where arguments are small integers."""
        return not any(_always_rounds(op) for op in self.func.walk())

    def execute(self, arguments: Sequence[Argument], *, magnitudes: bool = False) -> None:
        """Execute on arrays of types that may be wider than declared, in place."""
        machine = executor(self.module)
        machine.register_implementations(_Wide(), override=True)
        if magnitudes:
            machine.register_implementations(_Magnitudes(), override=True)
            machine.register_implementations(_MathMagnitudes(), override=True)
        with np.errstate(all="ignore"):
            machine.call_op(self.func, tuple(_as_value(argument) for argument in arguments))


def _as_value(argument: Argument) -> Any:
    """An argument as rules take it."""
    return Buffer.of(signed(argument)) if isinstance(argument, np.ndarray) else argument


def _unsigned_operands(op: Operation) -> Iterator[SSAValue]:
    """The memrefs whose elements an operation reads as integers without a sign."""
    match op:
        case GemmOp():
            yield from (f for role, f in (("lhs", op.lhs), ("rhs", op.rhs)) if op.is_unsigned(role))
        case LinalgStructuredOperation():
            for operand, element in zip(op.operands, op.body.block.args, strict=False):
                uses = [use.operation for use in element.uses]
                if uses and all(isinstance(o, arith.ExtUIOp | arith.UIToFPOp) for o in uses):
                    yield operand
        case _:
            pass


def _outputs(op: Operation) -> Sequence[SSAValue]:
    """The memrefs that an operation of a program writes."""
    match op:
        case LinalgStructuredOperation():
            return op.outputs
        case GemmOp():
            return (op.out,)
        case _:
            return ()


def _is_overwritten(func: FuncOp, argument: SSAValue) -> bool:
    """Whether the first operation that uses a memref writes it without reading it."""
    match next((op for op in func.body.block.ops if argument in op.operands), None):
        case linalg.FillOp():
            return True
        case GemmOp() as op:
            return op.from_zero is not None and op.out is argument
        case _:
            return False


def _roundings(op: Operation, buffers: dict[SSAValue, Buffer], literally: bool) -> Roundings:
    """The most roundings that a term goes through in one operation, and one to spare."""
    values = tuple(buffers.get(value) for value in op.operands)
    match op:
        case LinalgStructuredOperation():
            steps = math.prod(iteration_of(op, values).sequential)
            return _body_roundings(op, steps, literally or steps == 1)
        case GemmOp():
            steps = math.prod(reduction_of(op, values).sequential)
            sums = element_type_of(op.accumulator)
            result = _memref_element(op.out)
            total = _rounded(sums, steps + 2 * (op.alpha is not None) + 1) + _rounded(result, 1)
            for inner in op.walk():
                total += _rounds(inner)
            return total
        case _:
            return Roundings()


def _body_roundings(op: LinalgStructuredOperation, steps: int, literally: bool) -> Roundings:
    """Roundings in a body: once of what is added in one step, and in each step of the sum.

    Unless it is taken literally, sums are added up in a wide type and rounded once, at the end.
    """
    carried: set[SSAValue] = set(op.body.block.args[len(op.inputs) :])
    total = Roundings()
    for inner in op.body.block.ops:
        count = 1
        if not carried.isdisjoint(inner.operands):
            count = steps
            carried.update(inner.results)
        for dtype, n in _rounds(inner).items():
            type_ = next(t for t in ELEMENT_TYPES if t.dtype == dtype)
            total += _rounded(type_ if literally else type_.accumulator, n * count)
    result = _memref_element(op.outputs[0])
    return total + _rounded(result.accumulator, 1) + _rounded(result, int(not literally))


def _memref_element(memref: SSAValue) -> ElementType:
    assert isinstance(memref.type, MemRefType)
    return element_type_of(memref.type.element_type)


def _rounded(type_: ElementType, count: int) -> Roundings:
    """So many roundings to a type; none to integers."""
    return Roundings() if type_.is_integer or not count else Roundings({type_.dtype: count})


_EXACT_FUNCTIONS = frozenset(
    {
        *(fmath.AbsFOp, fmath.CopySignOp, fmath.FmaOp),
        *(fmath.CeilOp, fmath.FloorOp, fmath.RoundOp, fmath.RoundEvenOp, fmath.TruncOp),
    }
)
"""Functions that round once at most, and nothing where their operands are small integers."""

_ELEMENTARY_ROUNDINGS = 8
"""How many roundings an elementary function counts for, in its own type."""


def _rounds(op: Operation) -> Roundings:
    """The roundings of one operation of a body."""
    conversions = arith.TruncFOp | arith.SIToFPOp | arith.UIToFPOp
    match op:
        case _ if isinstance(op, conversions) or type(op) in _EXACT_FUNCTIONS:
            return _rounded(element_type_of(op.results[0].type), 1)
        case arith.FloatingPointLikeBinaryOperation():
            return _rounded(element_type_of(op.results[0].type), 1)
        case _ if type(op) in FUNCTIONS:
            type_ = element_type_of(op.results[0].type)
            total = _rounded(type_, _ELEMENTARY_ROUNDINGS)
            # Where a result is rounded to bf16, functions need not be better than that.
            for yielded in _yielded_types(op):
                total += _rounded(yielded, int(yielded.name == "bf16"))
            return total
        case _:
            return Roundings()


def _yielded_types(op: Operation) -> Iterator[ElementType]:
    """The types that the body around an operation yields."""
    end = op.parent.last_op if op.parent is not None else None
    for value in end.operands if end is not None else ():
        yield element_type_of(value.type)


def _always_rounds(op: Operation) -> bool:
    """Whether an operation has to round even where its operands are small integers."""
    if isinstance(op, arith.DivfOp) or type(op) in FUNCTIONS:
        return type(op) not in _EXACT_FUNCTIONS
    if not isinstance(op, arith.ConstantOp):
        return False
    values = np.asarray(constant_value(op.value), np.float64)
    return bool((values * 256 % 1 != 0).any())


def _spec_of(type_: Attribute, element: str, like: ArraySpec | None) -> ArraySpec:
    """The layout of a made-up array of some type."""
    if not isinstance(type_, MemRefType):
        raise InvalidInput(f"arguments of type {type_} can't be made up; pass them")
    if like is not None:
        return ArraySpec(like.shape, element, like.strides)
    strides = type_.get_strides() or ()
    static = tuple(stride for stride in strides if stride is not None)
    if DYNAMIC_INDEX in type_.get_shape() or len(static) < type_.get_num_dims():
        raise InvalidInput(
            f"arrays for {type_} can't be made up; pass arrays, or what they are like"
        )
    return ArraySpec(type_.get_shape(), element, static)


# -------------------------------------------------------------------------------------- checks


@dataclass(frozen=True)
class Check:
    """What a successful check did."""

    levels: tuple[str, ...]
    """The levels executed, in the order of lowering."""
    executed: dict[str, int]
    """Interpreted operations at each level, for one set of data."""
    arguments: tuple[Any, ...]
    """All arguments before the run, for the last set of data."""
    reference: tuple[Any, ...]
    """All arguments after the run, in the wider type, for the last set of data."""
    native: str | None
    """None if the kernel ran natively, else why it did not."""


@dataclass(frozen=True)
class _Case:
    """One set of data with what must come of it."""

    arguments: tuple[Argument, ...]
    reference: tuple[Argument, ...]
    bounds: tuple[Array, ...]
    """The largest error allowed, for each element of each argument."""
    literal_bounds: tuple[Array, ...]
    """The same for a program taken literally, with sums in a narrow type rounded at each step."""


Like = ArraySpec | bool | int | float | np.generic | None
"""What an argument is like: the layout of an array, or a number; None: as its type says."""


def check_all_levels(
    source: str | ModuleOp,
    arguments: Sequence[Argument] | None = None,
    *,
    like: Sequence[Like] | None = None,
    target: str = "host",
    seed: int = 0,
    guards: Sequence[Edge] = (),
) -> Check:
    """Lower a program, execute it at every level and natively, and compare everything.

    Args:
        source: a module with one function on memrefs, at the linalg level or of whole products,
            with plans or without; as text or as a module.
        arguments: the function's arguments. They are not changed. If None, two sets are made up:
            random numbers, and small integers, for which results must be exact. A result that is
            filled first starts as NaN.
        like: what made-up arguments are like, as far as their types don't say it.
        target: what to compile for. The kernel runs only where this CPU can run it.
        seed: of the made-up arguments.
        guards: also run the kernel in a child process, with all arrays flush against a page that
            can't be touched, at each of these ends.

    Returns:
        What was executed.

    Raises:
        AssertionError: if a level computes something else, or the kernel crashes.
        InvalidInput: if there is not one function, or arguments are needed but not given.
        Unsupported: if nkdsl can't compile the program for this target.
    """
    return Lowered(source, target).check(arguments, like=like, seed=seed, guards=guards)


class Lowered:
    """A program at every level and, where this CPU can run it, as machine code."""

    def __init__(self, source: str | ModuleOp, target: str = "host"):
        """Lower and compile; `source` and `target` as in `check_all_levels`."""
        import nkdsl
        from nkdsl import pipeline

        self.modules = pipeline.levels(source, target)
        """The program at every level, top to bottom."""
        self.program = Program.of(self.modules["linalg"])
        self.workspace = workspace_bytes(self.modules["composed"])
        """Bytes of workspace that a call needs."""
        self.obstacle = _obstacle(target) or _unsuitable(self.program)
        """Why the kernel can't run here, or None."""
        self.kernel = nkdsl.compile(source, target) if self.obstacle is None else None

    def check(
        self,
        arguments: Sequence[Argument] | None = None,
        *,
        like: Sequence[Like] | None = None,
        seed: int = 0,
        guards: Sequence[Edge] = (),
        interpret: bool = True,
    ) -> Check:
        """Execute everything and compare; as `check_all_levels`.

        Without `interpret` only the machine code runs.
        """
        cases = _cases(self.program, arguments, like, seed)
        executed: dict[str, int] = {}
        for case in cases:
            for level in self.modules if interpret else ():
                copies = tuple(_copy_plain(argument) for argument in case.arguments)
                executed[level] = self.run_level(level, copies)
                literally = level == "linalg"
                _compare(f"level {level}", self.program, case, copies, literally=literally)
        if self.kernel is not None:
            _check_native(self.kernel, self.workspace, self.program, cases, guards)
        last = cases[-1]
        return Check(tuple(executed), executed, last.arguments, last.reference, self.obstacle)

    def run_level(self, level: str, arguments: Sequence[Argument]) -> int:
        """Execute one level in place; returns the number of operations executed."""
        if level == "upstream":
            arguments = native_arguments(self.program.types, arguments)
        module, name = self.modules[level], self.program.name
        return run(module, name, arguments, workspace=self.workspace)


def _obstacle(target: str) -> str | None:
    """Why this CPU can't run the kernel, or None."""
    from nkdsl.targets import can_run, get_target

    return can_run(get_target(target))


def _unsuitable(program: Program) -> str | None:
    """Why no kernel can be called with the program's arguments, or None."""
    for type_ in program.types:
        if not isinstance(type_, MemRefType | AnyFloat):
            return f"a kernel takes no {type_}"
    return None


def _check_native(
    kernel: Callable[..., None],
    workspace: int,
    program: Program,
    cases: Sequence[_Case],
    guards: Sequence[Edge],
) -> None:
    """Run the kernel."""
    for case in cases:
        # First where a stray access can't take this process with it.
        for at in guards:
            copies = tuple(
                _copy(a, guarded(ArraySpec.of(a), at)) if isinstance(a, np.ndarray) else a
                for a in case.arguments
            )
            given = {"workspace": _guarded_workspace(workspace)} if workspace else {}
            end = survives(partial(kernel, *copies, **given))
            assert end is None, f"native code, arrays guarded at the {at}: {end}"
            _compare(f"native code, arrays guarded at the {at}", program, case, copies)
        copies = tuple(_copy_plain(argument) for argument in case.arguments)
        kernel(*copies)
        _compare("native code", program, case, copies)


def _guarded_workspace(size: int) -> Array:
    """A workspace full of NaN; the page behind its last cache line can't be touched."""
    elements = -(-size // WORKSPACE_ALIGNMENT) * WORKSPACE_ALIGNMENT // 4
    return guarded(ArraySpec((elements,))).view(np.uint8)


def _cases(
    program: Program,
    arguments: Sequence[Argument] | None,
    like: Sequence[Like] | None,
    seed: int,
) -> tuple[_Case, ...]:
    if arguments is not None:
        typed = map(_as_typed, program.types, arguments)
        return (_bounded_case(program, tuple(typed)),)
    likes = like if like is not None else [None] * len(program.types)
    random = np.random.default_rng(seed)
    # Sums of so small integers fit into the few digits of a narrow type.
    narrow = any(_is_narrow(program.element(position)) for position in program.written)
    most = 1 if narrow else 4

    def small(shape: tuple[int, ...], element: ElementType | None) -> Any:
        return random.integers(-most, most + 1, shape)

    def any_number(shape: tuple[int, ...], element: ElementType | None) -> Any:
        if element is None or not element.is_integer:
            return random.uniform(-1, 1, shape)
        limits = np.iinfo(str(element.dtype))
        return random.integers(limits.min, limits.max, shape, element.dtype, endpoint=True)

    integers = _made_up(program, likes, small)
    reals = _made_up(program, likes, any_number)
    first = _exact_case if program.may_be_exact else _bounded_case
    return first(program, integers), _bounded_case(program, reals)


def _is_narrow(element: ElementType | None) -> bool:
    """Whether sums of a type are added up in a wider one."""
    return element is not None and element.accumulator != element and not element.is_integer


Draw = Callable[[tuple[int, ...], ElementType | None], Any]
"""Numbers of a shape, for an element type; None for a scalar argument."""


def _made_up(program: Program, likes: Sequence[Like], draw: Draw) -> tuple[Argument, ...]:
    """Arguments with drawn values; what is filled first stays NaN."""
    made: list[Argument] = []
    for position, (type_, like) in enumerate(zip(program.types, likes, strict=True)):
        if not isinstance(type_, MemRefType):
            assert not isinstance(like, ArraySpec), f"argument {position} is no array"
            made.append(_as_typed(type_, draw((), None).item() if like is None else like))
            continue
        assert like is None or isinstance(like, ArraySpec), f"argument {position} is an array"
        element = program.element(position)
        assert element is not None
        array = plain(_spec_of(type_, element.name, like))
        if position not in program.overwritten:
            array[...] = draw(array.shape, element)
        made.append(array)
    return tuple(made)


def _as_typed(type_: Attribute, argument: Argument) -> Argument:
    """An argument as its type can hold it."""
    if isinstance(argument, np.ndarray) or not isinstance(type_, AnyFloat):
        return argument
    rounded: np.generic = dtype_of(type_).type(argument)
    return rounded


def _exact_case(program: Program, arguments: tuple[Argument, ...]) -> _Case:
    # Results of a narrow type are rounded, once and always to the same number.
    reference = tuple(
        _rounded_like(exact, argument)
        for exact, argument in zip(_reference(program, arguments), arguments, strict=True)
    )
    none = tuple(np.zeros(np.shape(a)) for a in arguments)
    return _Case(arguments, reference, none, none)


def _rounded_like(exact: Argument, argument: Argument) -> Argument:
    """A result in the wider type, rounded to that of the argument and widened again."""
    if not isinstance(exact, np.ndarray) or not isinstance(argument, np.ndarray):
        return exact
    if exact.dtype.kind in "iu":
        return exact
    return np.asarray(rounded(exact, argument.dtype).astype(exact.dtype))


def _bounded_case(program: Program, arguments: tuple[Argument, ...]) -> _Case:
    reference = _reference(program, arguments)
    magnitudes = tuple(_magnitude(argument) for argument in arguments)
    if any(not _is_integer(arguments[position]) for position in program.written):
        program.execute(magnitudes, magnitudes=True)

    def bounds(roundings: Roundings) -> tuple[Array, ...]:
        return tuple(
            _allowed(program, wanted, argument, magnitude, roundings)
            if position in program.written
            else np.zeros(np.shape(argument))
            for position, (wanted, argument, magnitude) in enumerate(
                zip(reference, arguments, magnitudes, strict=True)
            )
        )

    least = bounds(program.roundings_by_type(arguments))
    try:
        literal = bounds(program.roundings_by_type(arguments, literally=True))
    except ValueError:  # of a long sum in a narrow type no digit is left
        literal = tuple(np.full(np.shape(argument), np.inf) for argument in arguments)
    return _Case(arguments, reference, least, literal)


def _is_integer(argument: Argument) -> bool:
    return isinstance(argument, np.ndarray) and argument.dtype.kind in "iu"


def _allowed(
    program: Program,
    reference: Argument,
    argument: Argument,
    magnitude: Argument,
    roundings: Roundings,
) -> Array:
    """The largest error allowed for each element of a result."""
    assert isinstance(reference, np.ndarray)
    assert isinstance(argument, np.ndarray)
    assert isinstance(magnitude, np.ndarray)
    if _is_integer(argument):
        # What is cut to an integer after a rounding may be one off.
        cut = any(isinstance(op, arith.FPToSIOp | arith.FPToUIOp) for op in program.func.walk())
        return np.full(argument.shape, int(cut))
    # The reference rounds too, though less.
    wide = _bound(magnitude, Roundings({magnitude.dtype: roundings.total()}))
    last = Roundings({argument.dtype: 1})
    if roundings[argument.dtype] > 1:
        return _bound(magnitude, roundings, program.holds_bf16) + wide
    # The only rounding to the result's type is the last: what it loses depends on the result.
    before = _bound(magnitude, roundings - last, program.holds_bf16) + wide
    return before + _bound(np.abs(reference) + before, last, program.holds_bf16)


def _reference(program: Program, arguments: tuple[Argument, ...]) -> tuple[Argument, ...]:
    """All arguments after the program ran in a wider type."""
    wide = tuple(_widened(argument) for argument in arguments)
    program.execute(wide)
    return wide


def _widened(argument: Argument) -> Argument:
    """A copy of an array or a floating-point number in a type with more digits."""
    if isinstance(argument, np.ndarray):
        return argument.astype(_wider(argument.dtype), order="C")
    if isinstance(argument, np.generic) and argument.dtype.kind not in "iub":
        wide: np.generic = _wider(argument.dtype).type(argument)
        return wide
    return argument


def _wider(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A floating-point type with more digits; integers are exact as they are."""
    if dtype.kind in "iub":
        return dtype
    return np.dtype(np.float64 if dtype.itemsize <= 4 else np.longdouble)


def _magnitude(argument: Argument) -> Argument:
    """Absolute values in the wider type; integers, flags and indices as they are."""
    wide = _widened(argument)
    if isinstance(wide, np.ndarray):
        return wide if wide.dtype.kind in "iub" else np.asarray(np.abs(wide))
    return abs(wide) if isinstance(wide, np.floating) else wide


def _element_type_of(array: Array) -> ElementType:
    for type_ in ELEMENT_TYPES:
        if type_.dtype == array.dtype:
            return type_
    raise InvalidInput(f"arrays of {array.dtype} can't be checked")


def _copy_plain(argument: Argument) -> Argument:
    if not isinstance(argument, np.ndarray):
        return argument
    return _copy(argument, plain(ArraySpec.of(argument)))


def _copy(array: Array, place: Array) -> Array:
    place[...] = array
    return place


def _compare(
    what: str,
    program: Program,
    case: _Case,
    arguments: Sequence[Argument],
    *,
    literally: bool = False,
) -> None:
    """Refuse wrong values and touched holes."""
    bounds = case.literal_bounds if literally else case.bounds
    for position, (array, before) in enumerate(zip(arguments, case.arguments, strict=True)):
        reference = case.reference[position]
        if not isinstance(array, np.ndarray):
            continue
        assert isinstance(before, np.ndarray)
        assert isinstance(reference, np.ndarray)
        name = f"{what}: argument {position} of '{program.name}'"
        if position in program.written:
            _compare_values(name, array, reference, bounds[position])
        else:
            same = array.tobytes() == before.tobytes()
            assert same, f"{name} was changed, though the program does not write to it"
        expected = _copy(array, plain(ArraySpec.of(array)))
        holes = Buffer.of(array).data.tobytes() == Buffer.of(expected).data.tobytes()
        assert holes, f"{name}: memory between its elements was written"


def _compare_values(what: str, got: Array, wanted: Array, bound: Array) -> None:
    with np.errstate(all="ignore"):
        # Differences of integers need more digits than they have.
        exact = np.dtype(np.int64) if wanted.dtype.kind in "iu" else wanted.dtype
        error = np.abs(got.astype(exact) - wanted.astype(exact))
        # The difference is NaN for equal infinities, and NaN is right where it is wanted.
        right = (error <= bound) | (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        if right.all():
            return
        index = np.unravel_index(np.argmax(np.where(right, -1, error - bound)), got.shape)
    raise AssertionError(
        f"{what}: {np.count_nonzero(~right)} of {right.size} elements are wrong, for example "
        f"{tuple(int(i) for i in index)}: {got[index]} instead of {wanted[index]}, an error of "
        f"{error[index]:.3g} where {bound[index]:.3g} is allowed"
    )
