"""Checking a program: at every level, and as machine code, against what it means.

What goes in is a program of linalg operations, or of whole products with plans; nothing comes out
but an `AssertionError` if any level computes something else. For tests of nkdsl, and for those of
passes and targets that users add.

    check_all_levels(source, target="skylake-avx512")
    check_all_levels(source, [a, b, c], target="host", guards=("start", "end"))

    lowered = Lowered(source, target="host")  # once, for arguments of many sizes
    lowered.check(like=[ArraySpec((5, 7)), ArraySpec((7, 9)), ArraySpec((5, 9))])

*What is compared.* The program itself, executed in a wider type (float64 for float32, numpy's
longdouble for float64), is the reference. Every level is executed by `nkdsl.interpreters` in the
real type, and the kernel runs natively where this CPU can run it. Three things must hold:

- each result differs from the reference by no more than rounding can explain, see `error_bound`;
- on small integers, where no operation rounds, results are exact;
- nothing else changes: not the inputs, not the memory between the rows of a strided result.

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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NoReturn

import numpy as np
from xdsl.dialects import arith
from xdsl.dialects.builtin import DYNAMIC_INDEX, AnyFloat, MemRefType, ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.linalg.abstract_ops import LinalgStructuredOperation
from xdsl.interpreter import Interpreter, PythonValues, impl, register_impls
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.utils.exceptions import InterpretationError

from nkdsl.dialects.nanokernel import WORKSPACE_ALIGNMENT, GemmOp
from nkdsl.errors import InvalidInput
from nkdsl.interpreters import (
    Argument,
    Buffer,
    executor,
    native_arguments,
    run,
    workspace_bytes,
)
from nkdsl.interpreters.arith import ArithFunctions
from nkdsl.interpreters.buffer import Array, dtype_of, row_major
from nkdsl.interpreters.linalg import iteration_of
from nkdsl.interpreters.nanokernel import reduction_of
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
    """An array in ordinary memory, filled with NaN, holes included; nothing surrounds it."""
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
    dtype = element_type(spec.element).dtype
    # The array that owns the memory is what interpreters may touch: the span and no more.
    whole: Array = np.ndarray(spec.span, dtype, memory, start)
    whole.fill(np.nan)
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

    |computed - exact| ≤ γ(k + 2) · (|C| + Σ|a||b|) with γ(n) = n·u / (1 - n·u): one rounding for
    each product, one for each of k additions, and one to spare; fewer with fused operations. A
    result below the normal range adds at most the smallest subnormal number a step.

    Source: N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, sections
    3.1 and 3.5.

    Args:
        a_abs_sum: Σ|a||b|, for each element of the result.
        c_abs: |C| before, for each element of the result.
        k: the number of products.
        etype: the element type computed with.

    Raises:
        ValueError: if k is so large that there is no bound.
    """
    type_ = element_type(etype) if isinstance(etype, str) else etype
    return _bound(a_abs_sum + c_abs, k + 2, type_.dtype)


def _bound(magnitude: Array, roundings: int, dtype: np.dtype[Any]) -> Array:
    """γ(roundings) · magnitude."""
    info = np.finfo(dtype)
    unit = roundings * np.longdouble(info.eps) / 2
    if unit >= 1:
        raise ValueError(f"{roundings} roundings in {dtype} leave no digit: there is no bound")
    gamma = unit / (1 - unit)
    return np.asarray(gamma * magnitude + roundings * np.longdouble(info.smallest_subnormal))


@register_impls
class _Magnitudes(ArithFunctions):
    """Arithmetic on absolute values: an upper bound of each term's, with nothing cancelling."""

    def constant(self, value: Attribute) -> Any:
        """The magnitude of a constant."""
        return abs(super().constant(value))

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
        raise InterpretationError("no error bound is known for a program that divides")


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
        return cls(module, func, frozenset(written), frozenset(overwritten))

    def roundings(self, arguments: Sequence[Argument]) -> int:
        """The most roundings that any term of a result goes through on the way."""
        buffers: dict[SSAValue, Buffer] = {
            parameter: Buffer.of(argument)
            for parameter, argument in zip(self.func.body.block.args, arguments, strict=True)
            if isinstance(argument, np.ndarray)
        }
        return sum(_roundings(op, buffers) for op in self.func.walk())

    def execute(self, arguments: Sequence[Argument], *, magnitudes: bool = False) -> None:
        """Execute on arrays of any element type, in place."""
        machine = executor(self.module)
        if magnitudes:
            machine.register_implementations(_Magnitudes(), override=True)
        with np.errstate(all="ignore"):
            machine.call_op(self.func, tuple(_as_value(argument) for argument in arguments))


def _as_value(argument: Argument) -> Any:
    """An argument as rules take it."""
    return Buffer.of(argument) if isinstance(argument, np.ndarray) else argument


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


def _roundings(op: Operation, buffers: dict[SSAValue, Buffer]) -> int:
    """The most roundings that a term goes through in one operation, and one to spare."""
    values = tuple(buffers.get(value) for value in op.operands)
    match op:
        case LinalgStructuredOperation():
            steps = math.prod(iteration_of(op, values).sequential)
            once, each_step = _body_roundings(op)
            return steps * each_step + once + 1
        case GemmOp():
            further = sum(_rounds(o) for o in op.walk()) + 2 * (op.alpha is not None)
            return math.prod(reduction_of(op, values).sequential) + further + 2
        case _:
            return 0


def _body_roundings(op: LinalgStructuredOperation) -> tuple[int, int]:
    """Roundings in a body: of what is added in one step, and of the sum in each."""
    carried: set[SSAValue] = set(op.body.block.args[len(op.inputs) :])
    once = each_step = 0
    for inner in op.body.block.ops:
        if carried.isdisjoint(inner.operands):
            once += _rounds(inner)
        else:
            each_step += _rounds(inner)
            carried.update(inner.results)
    return once, each_step


def _rounds(op: Operation) -> bool:
    return isinstance(op, arith.FloatingPointLikeBinaryOperation)


def _spec_of(type_: Attribute, like: ArraySpec | None) -> ArraySpec:
    """The layout of a made-up array of some type."""
    if not isinstance(type_, MemRefType):
        raise InvalidInput(f"arguments of type {type_} can't be made up; pass them")
    element = element_type_of(type_.element_type).name
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
                _compare(f"level {level}", self.program, case, copies)
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
        rounded = map(_rounded, program.types, arguments)
        return (_bounded_case(program, tuple(rounded)),)
    likes = like if like is not None else [None] * len(program.types)
    random = np.random.default_rng(seed)
    integers = _made_up(program, likes, lambda shape: random.integers(-4, 5, shape))
    reals = _made_up(program, likes, lambda shape: random.uniform(-1, 1, shape))
    return _exact_case(program, integers), _bounded_case(program, reals)


def _made_up(
    program: Program, likes: Sequence[Like], draw: Callable[[tuple[int, ...]], Any]
) -> tuple[Argument, ...]:
    """Arguments with drawn values; what is filled first stays NaN."""
    made: list[Argument] = []
    for position, (type_, like) in enumerate(zip(program.types, likes, strict=True)):
        if not isinstance(type_, MemRefType):
            assert not isinstance(like, ArraySpec), f"argument {position} is no array"
            made.append(_rounded(type_, draw(()).item() if like is None else like))
            continue
        assert like is None or isinstance(like, ArraySpec), f"argument {position} is an array"
        array = plain(_spec_of(type_, like))
        if position not in program.overwritten:
            array[...] = draw(array.shape)
        made.append(array)
    return tuple(made)


def _rounded(type_: Attribute, argument: Argument) -> Argument:
    """An argument as its type can hold it."""
    if isinstance(argument, np.ndarray) or not isinstance(type_, AnyFloat):
        return argument
    rounded: np.generic = dtype_of(type_).type(argument)
    return rounded


def _exact_case(program: Program, arguments: tuple[Argument, ...]) -> _Case:
    reference = _reference(program, arguments)
    return _Case(arguments, reference, tuple(np.zeros(np.shape(a)) for a in arguments))


def _bounded_case(program: Program, arguments: tuple[Argument, ...]) -> _Case:
    reference = _reference(program, arguments)
    magnitudes = tuple(_magnitude(argument) for argument in arguments)
    program.execute(magnitudes, magnitudes=True)
    roundings = program.roundings(arguments)
    bounds = (
        # The reference rounds too, though less.
        _bound(m, roundings, a.dtype) + _bound(m, roundings, m.dtype)
        if isinstance(a, np.ndarray) and isinstance(m, np.ndarray) and position in program.written
        else np.zeros(np.shape(a))
        for position, (a, m) in enumerate(zip(arguments, magnitudes, strict=True))
    )
    return _Case(arguments, reference, tuple(bounds))


def _reference(program: Program, arguments: tuple[Argument, ...]) -> tuple[Argument, ...]:
    """All arguments after the program ran in a wider type."""
    wide = tuple(_widened(argument) for argument in arguments)
    program.execute(wide)
    return wide


def _widened(argument: Argument) -> Argument:
    """A copy of an array or a floating-point number in a type with more digits."""
    if isinstance(argument, np.ndarray):
        return argument.astype(_wider(argument.dtype), order="C")
    if isinstance(argument, np.floating):
        wide: np.generic = _wider(argument.dtype).type(argument)
        return wide
    return argument


def _wider(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64 if dtype == np.float32 else np.longdouble)


def _magnitude(argument: Argument) -> Argument:
    """The absolute values of an argument, in the wider type; flags and indices as they are."""
    wide = _widened(argument)
    if isinstance(wide, np.ndarray):
        return np.asarray(np.abs(wide))
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


def _compare(what: str, program: Program, case: _Case, arguments: Sequence[Argument]) -> None:
    """Refuse wrong values and touched holes."""
    for position, (array, before) in enumerate(zip(arguments, case.arguments, strict=True)):
        reference = case.reference[position]
        if not isinstance(array, np.ndarray):
            continue
        assert isinstance(before, np.ndarray)
        assert isinstance(reference, np.ndarray)
        name = f"{what}: argument {position} of '{program.name}'"
        if position in program.written:
            _compare_values(name, array, reference, case.bounds[position])
        else:
            same = array.tobytes() == before.tobytes()
            assert same, f"{name} was changed, though the program does not write to it"
        expected = _copy(array, plain(ArraySpec.of(array)))
        holes = Buffer.of(array).data.tobytes() == Buffer.of(expected).data.tobytes()
        assert holes, f"{name}: memory between its elements was written"


def _compare_values(what: str, got: Array, wanted: Array, bound: Array) -> None:
    with np.errstate(all="ignore"):
        error = np.abs(got.astype(wanted.dtype) - wanted)
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
