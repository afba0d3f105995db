"""Calling a kernel from Python: the checks as machine code, and in Python where they are surprised.

A call of a `CheckedCall` takes some microseconds, longer than many a product. `native_entry` writes
the same checks as LLVM IR, made for one signature: a builtin function that looks into numpy's
arrays, gives Python's lock away, and calls the kernel. It has no words: whatever is not as nearly
always, it leaves to the `CheckedCall`, which raises the error, or accepts what only looked odd.

How arrays, floats and structures of ctypes lie in memory is CPython's and numpy's binary interface
(https://numpy.org/doc/stable/reference/c-api/types-and-structures.html). That this is so here is
seen once, on import; otherwise the `CheckedCall` is all there is.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt

from nkdsl.backends.native import LoadedCode
from nkdsl.errors import InvalidInput
from nkdsl.runtime.address import address_of
from nkdsl.runtime.signature import DYNAMIC, Parameter, Place, Signature
from nkdsl.runtime.workspace import ALIGNMENT, SLOTS, Workspaces

Entry = Callable[..., None]

_SCALARS = {"f32": ctypes.c_float, "f64": ctypes.c_double}


class CheckedCall:
    """A kernel that checks its arguments in Python."""

    def __init__(self, signature: Signature, code: object, address: int, workspace_bytes: int):
        """For native code.

        Args:
            signature: what it takes.
            code: what must live as long as the native code is called.
            address: where the native code is.
            workspace_bytes: bytes of scratch memory that a call needs.
        """
        self.signature = signature
        self.address = address
        self.workspaces = Workspaces(workspace_bytes) if workspace_bytes else None
        self._code = code
        self._bytes = workspace_bytes
        types: list[Any] = []
        for parameter in signature.parameters:
            if parameter.scalar:
                types.append(_SCALARS[parameter.element.name])
                continue
            numbers = len(parameter.open_sizes) + len(parameter.open_strides)
            types += [ctypes.c_void_p, *[ctypes.c_int64] * numbers]
        if workspace_bytes:
            types.append(ctypes.c_void_p)
        # ctypes gives Python's lock away while a function of such a type runs.
        self._native = ctypes.CFUNCTYPE(None, *types)(address)

    def __call__(self, *arguments: object, workspace: npt.NDArray[np.uint8] | None = None) -> None:
        """Check the arguments, then run; see `Kernel.__call__`."""
        self._run(arguments, workspace, settle=False)

    def settle(self, *arguments: object) -> None:
        """The same; the workspace that is made for this call is left to native calls."""
        self._run(arguments, None, settle=True)

    def _run(
        self,
        arguments: Sequence[object],
        workspace: npt.NDArray[np.uint8] | None,
        *,
        settle: bool,
    ) -> None:
        values = self.signature.check(arguments)
        if self.workspaces is None:
            self._native(*values)
        elif workspace is not None:
            self._native(*values, self._checked(workspace))
        else:
            with self.workspaces.borrow(settle=settle) as address:
                self._native(*values, address)

    def _checked(self, workspace: npt.NDArray[np.uint8]) -> int:
        """The address of a workspace that was given."""
        address = address_of(workspace)
        if workspace.nbytes < self._bytes or address % ALIGNMENT:
            raise InvalidInput(
                f"the workspace needs {self._bytes} bytes aligned to {ALIGNMENT}, got "
                f"{workspace.nbytes} at {address:#x}"
            )
        if not (workspace.flags.c_contiguous and workspace.flags.writeable):
            raise InvalidInput("the workspace must be contiguous, writable memory")
        return address


# ------------------------------------------------------------------------- the builtin function

_HEADER = object.__basicsize__
"""Bytes of what every Python object starts with; a pointer to its type comes last."""

_TYPE, _VALUE = _HEADER - 8, _HEADER
_DATA, _RANK, _SIZES, _STRIDES = _HEADER, _HEADER + 8, _HEADER + 16, _HEADER + 24
_DESCR, _FLAGS = _HEADER + 40, _HEADER + 48
_ALIGNED, _WRITEABLE = 0x100, 0x400

_METH_FASTCALL, _METH_KEYWORDS = 0x80, 0x02


class _MethodDef(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


class _State(ctypes.Structure):
    """What the native checks find through their first argument."""

    _fields_ = [
        ("native", ctypes.c_void_p),
        ("check", ctypes.c_void_p),  # a Python callable
        ("settle", ctypes.c_void_p),  # another one
        ("slots", ctypes.c_void_p),
    ]

    keep: tuple[object, ...]
    """What the addresses point into."""


_NATIVE, _CHECK, _SETTLE, _SLOTS = 0, 8, 16, 24


def native_entry(call: CheckedCall) -> Entry:
    """A builtin function that does what `call` does, much faster; `call` itself where none can be.

    It keeps all alive that it needs.
    """
    if not IS_KNOWN:
        return call
    code = _compiled(write_checks(call.signature, workspace=call.workspaces is not None))
    definition = _MethodDef(
        call.signature.symbol.encode(),
        code.address("entry"),
        _METH_FASTCALL | _METH_KEYWORDS,
        None,
    )
    check, settle = call.__call__, call.settle
    slots = ctypes.addressof(call.workspaces.slots) if call.workspaces else None
    state = _State(call.address, id(check), id(settle), slots)
    state.keep = (call, code, definition, check, settle)
    entry: Entry = _new_function(ctypes.byref(definition), state, __name__, None)
    return entry


_new_function = ctypes.pythonapi.PyCMethod_New
_new_function.restype = ctypes.py_object
_new_function.argtypes = [
    ctypes.POINTER(_MethodDef),
    ctypes.py_object,
    ctypes.py_object,
    ctypes.c_void_p,
]


@lru_cache(maxsize=256)
def _compiled(text: str) -> LoadedCode:
    """The machine code of checks; signatures alike share it.

    It compares and multiplies, for which any processor of this architecture will do.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(text)
    machine = llvm.Target.from_default_triple().create_target_machine(opt=0, jit=True)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return LoadedCode(engine)


def _is_known() -> bool:
    """Whether objects look in memory as the native checks expect."""
    if ctypes.sizeof(ctypes.c_void_p) != 8 or not hasattr(ctypes.pythonapi, "PyCMethod_New"):
        return False
    base = np.zeros((3, 5), np.float32)
    frozen = base[::-1, 1:]
    frozen.flags.writeable = False
    arrays: tuple[npt.NDArray[Any], ...] = (base, base.T[::2], frozen, np.zeros(0), np.ones(()))
    state = _State(1, 2, 3, 4)
    return (
        all(_looks_known(array) for array in arrays)
        and _pointer(id(state) + _DATA) == ctypes.addressof(state)
        and all(ctypes.c_double.from_address(id(x) + _VALUE).value == x for x in (0.0, -1.5))
        and _pointer(id(1.5) + _TYPE) == id(float)
    )


def _looks_known(array: npt.NDArray[Any]) -> bool:
    at, rank = id(array), array.ndim
    return (
        _pointer(at + _TYPE) == id(np.ndarray)
        and _pointer(at + _DATA) == array.ctypes.data
        and ctypes.c_int.from_address(at + _RANK).value == rank
        and _integers(at + _SIZES, rank) == array.shape
        and _integers(at + _STRIDES, rank) == array.strides
        and _pointer(at + _DESCR) == id(array.dtype)
        and ctypes.c_int.from_address(at + _FLAGS).value == array.flags.num
        and bool(array.flags.num & _ALIGNED) == array.flags.aligned
        and bool(array.flags.num & _WRITEABLE) == array.flags.writeable
    )


def _pointer(address: int) -> int:
    return ctypes.c_size_t.from_address(address).value


def _integers(address: int, count: int) -> tuple[int, ...]:
    """Integers behind a pointer, which may be null where there are none."""
    return tuple((ctypes.c_int64 * count).from_address(_pointer(address))) if count else ()


# ------------------------------------------------------------------------------- the checks in IR

Value = int | str
"""A number that is known, or an i64 in LLVM IR."""


class _Array:
    """What the checks know of one array: its address, sizes, and strides in bytes."""

    def __init__(self, data: str, sizes: list[Value], strides: list[Value]):
        self.data = data
        self.sizes = sizes
        self.strides = strides


class _Writer:
    """LLVM IR in the making, and conditions that wait for the next branch."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._names = 0
        self._demands: list[str] = []

    def let(self, text: str) -> str:
        """A new value."""
        self._names += 1
        self.lines.append(f"  %v{self._names} = {text}")
        return f"%v{self._names}"

    def load(self, type_: str, base: str, offset: int = 0) -> str:
        """What lies some bytes behind a pointer."""
        place = self.let(f"getelementptr i8, ptr {base}, i64 {offset}") if offset else base
        return self.let(f"load {type_}, ptr {place}, align 4")

    def add(self, a: Value, b: Value) -> Value:
        """The sum."""
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        return self.let(f"add i64 {a}, {b}")

    def mul(self, a: Value, b: Value) -> Value:
        """The product."""
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        return self.let(f"mul i64 {a}, {b}")

    def compare(self, a: Value, predicate: str, b: Value, type_: str = "i64") -> str:
        """A condition."""
        return self.let(f"icmp {predicate} {type_} {a}, {b}")

    def either(self, *conditions: str) -> str:
        """Whether one of some conditions holds."""
        first, *others = conditions
        for other in others:
            first = self.let(f"or i1 {first}, {other}")
        return first

    def both(self, *conditions: str) -> str:
        """Whether all of some conditions hold."""
        first, *others = conditions
        for other in others:
            first = self.let(f"and i1 {first}, {other}")
        return first

    def demand(self, condition: str) -> None:
        """Leave the call to Python, from the next branch on, unless a condition holds."""
        self._demands.append(condition)

    def branch(self, label: str) -> None:
        """Go on at a new block if all is as demanded."""
        condition = self.both(*self._demands) if self._demands else "true"
        self._demands.clear()
        self.lines += [f"  br i1 {condition}, label %{label}, label %ask", f"{label}:"]


def write_checks(signature: Signature, *, workspace: bool) -> str:
    """LLVM IR of `entry(self, arguments, count, names)`, a Python function of a signature.

    `self` is a `_State`. Equal texts are checks that one kernel and another can share.
    """
    return "\n".join(_write_checks(signature, workspace)) + "\n"


def _write_checks(signature: Signature, workspace: bool) -> Iterator[str]:
    parameters = signature.parameters
    w = _Writer()
    state = w.load("ptr", "%self", _DATA)
    w.demand(w.compare("%count", "eq", len(parameters)))
    w.demand(w.compare("%names", "eq", "null", "ptr"))
    w.branch("counted")
    pointers = [w.load("ptr", "%arguments", 8 * i) for i in range(len(parameters))]
    for pointer, parameter in zip(pointers, parameters, strict=True):
        type_ = id(float if parameter.scalar else np.ndarray)
        w.demand(w.compare(w.load("i64", pointer, _TYPE), "eq", type_))
    w.branch("typed")
    given = list(zip(pointers, parameters, strict=True))
    for pointer, parameter in given:
        if not parameter.scalar:
            _demand_header(w, pointer, parameter)
    w.branch("read")
    arrays = {
        position: _read_array(w, pointer, parameter)
        for position, (pointer, parameter) in enumerate(given)
        if not parameter.scalar
    }
    _demand_sizes(w, signature, arrays)
    _demand_distance(w, signature, arrays)
    w.branch("fit")
    values: list[str] = []
    for position, (pointer, parameter) in enumerate(given):
        if parameter.scalar:
            values.append(_scalar(w, pointer, parameter))
        else:
            values += _native(w, arrays[position], parameter)
    native = w.load("ptr", state, _NATIVE)
    yield "define ptr @entry(ptr %self, ptr %arguments, i64 %count, ptr %names) {"
    yield "begin:"
    yield from w.lines
    if workspace:
        yield from _take_slot(state)
        values.append("ptr %workspace")
    yield f"  %thread = call ptr {_api('PyEval_SaveThread')}()"
    yield f"  call void {native}({', '.join(values)})"
    yield f"  call void {_api('PyEval_RestoreThread')}(ptr %thread)"
    if workspace:
        yield "  store atomic ptr %workspace, ptr %slot release, align 8"
    yield f"  call void {_api('Py_IncRef')}({_constant(id(None))})"
    yield f"  ret {_constant(id(None))}"
    reasons = {"ask": _CHECK, "settle": _SETTLE} if workspace else {"ask": _CHECK}
    for label, offset in reasons.items():
        yield f"{label}:"
        yield f"  %{label}.place = getelementptr i8, ptr {state}, i64 {offset}"
        yield f"  %{label}.callee = load ptr, ptr %{label}.place"
        yield (
            f"  %{label}.answer = call ptr {_api('PyObject_Vectorcall')}(ptr %{label}.callee, "
            "ptr %arguments, i64 %count, ptr %names)"
        )
        yield f"  ret ptr %{label}.answer"
    yield "}"


def _constant(address: int) -> str:
    return f"ptr inttoptr (i64 {address} to ptr)"


def _api(name: str) -> str:
    """A function of CPython's C interface."""
    address = ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
    return f"inttoptr (i64 {address} to ptr)"


def _demand_header(w: _Writer, array: str, parameter: Parameter) -> None:
    """Element type, rank and flags."""
    descr = w.load("i64", array, _DESCR)
    w.demand(w.compare(descr, "eq", id(parameter.element.dtype)))
    rank = w.load("i32", array, _RANK)
    w.demand(w.compare(rank, "eq", len(parameter.shape), "i32"))
    wanted = _ALIGNED | (_WRITEABLE if parameter.written else 0)
    flags = w.let(f"and i32 {w.load('i32', array, _FLAGS)}, {wanted}")
    w.demand(w.compare(flags, "eq", wanted, "i32"))


def _read_array(w: _Writer, array: str, parameter: Parameter) -> _Array:
    """Read sizes and strides, and demand that they fit the parameter."""
    rank, element = len(parameter.shape), parameter.element.size
    data = w.load("i64", array, _DATA)
    if rank == 0:
        return _Array(data, [], [])
    places = w.load("ptr", array, _SIZES), w.load("ptr", array, _STRIDES)
    sizes: list[Value] = list(parameter.shape)
    for d, wanted in enumerate(parameter.shape):
        have = w.load("i64", places[0], 8 * d)
        if wanted == DYNAMIC:
            sizes[d] = have
        else:
            w.demand(w.compare(have, "eq", wanted))
    strides: list[Value] = [0] * rank
    dense: Value = element
    for d in reversed(range(rank)):
        size, stride = sizes[d], w.load("i64", places[1], 8 * d)
        if parameter.dense:
            strides[d], dense = dense, w.mul(dense, size)
        elif parameter.strides[d] == DYNAMIC:
            strides[d] = stride
        else:
            strides[d] = parameter.byte_strides[d]
        if size == 1 or 0 in parameter.shape:
            continue  # never walked
        if strides[d] is stride:  # neither negative nor between elements
            bits = w.let(f"and i64 {stride}, {-(1 << 63) | element - 1}")
            fits = w.compare(bits, "eq", 0)
        else:
            fits = w.compare(stride, "eq", strides[d])
        w.demand(fits if isinstance(size, int) else w.either(fits, _is_short(w, size)))
    if parameter.written and parameter.open_strides:
        w.demand(w.either(*(_nested(w, sizes, strides, element, order) for order in _orders(rank))))
    return _Array(data, sizes, strides)


def _is_short(w: _Writer, size: Value) -> str:
    """Whether no step is ever taken along a dimension."""
    return w.compare(size, "ult", 2)


def _orders(rank: int) -> list[list[int]]:
    """From the inmost dimension to the outmost one: row-major, column-major."""
    order = list(range(rank))
    return [order] if rank == 1 else [order[::-1], order]


def _nested(
    w: _Writer, sizes: Sequence[Value], strides: Sequence[Value], element: int, order: list[int]
) -> str:
    """Whether each stride leads past all that those before it in the order reach."""
    conditions: list[str] = []
    reach: Value = element
    for d in order:
        past = w.compare(strides[d], "sge", reach)
        conditions.append(w.either(past, _is_short(w, sizes[d])))
        reach = w.add(reach, w.mul(w.add(sizes[d], -1), strides[d]))
    return w.both(*conditions)


def _demand_sizes(w: _Writer, signature: Signature, arrays: dict[int, _Array]) -> None:
    """That arrays agree on their sizes."""

    def size(place: Place) -> Value:
        argument, dimension = place
        return arrays[argument].sizes[dimension]

    for first, *others in signature.equal:
        for other in others:
            w.demand(w.compare(size(other), "eq", size(first)))
    for reach in signature.reaches:
        least: Value = reach.constant
        most: Value = reach.constant
        for coefficient, place in reach.terms:
            end = w.mul(w.add(size(place), -1), coefficient)
            if coefficient > 0:
                most = w.add(most, end)
            else:
                least = w.add(least, end)
        w.demand(w.compare(least, "sge", 0))
        w.demand(w.compare(most, "slt", size(reach.place)))


def _demand_distance(w: _Writer, signature: Signature, arrays: dict[int, _Array]) -> None:
    """That no result lies between the ends of another argument, nor the other way round."""
    ends: dict[int, Value] = {}
    for position, array in arrays.items():
        span: Value = signature.parameters[position].element.size
        for size, stride in zip(array.sizes, array.strides, strict=True):
            span = w.add(span, w.mul(w.add(size, -1), stride))
        ends[position] = w.add(array.data, span)
    for pair in signature.disjoint:
        if any(0 in signature.parameters[position].shape for position in pair):
            continue
        before, behind = (
            w.compare(ends[first], "ule", arrays[second].data)
            for first, second in (pair, pair[::-1])
        )
        w.demand(w.either(before, behind))


def _native(w: _Writer, array: _Array, parameter: Parameter) -> list[str]:
    """What the kernel gets of an array."""
    values = [f"ptr {w.let(f'inttoptr i64 {array.data} to ptr')}"]
    values += [f"i64 {array.sizes[d]}" for d in parameter.open_sizes]
    shift = parameter.element.size.bit_length() - 1
    for d in parameter.open_strides:
        # Only a stride that is never walked can be negative here.
        stride = array.strides[d]
        walked = w.let(f"select i1 {w.compare(stride, 'slt', 0)}, i64 0, i64 {stride}")
        values.append(f"i64 {w.let(f'lshr i64 {walked}, {shift}')}")
    return values


def _scalar(w: _Writer, number: str, parameter: Parameter) -> str:
    """What the kernel gets of a Python float."""
    value = w.load("double", number, _VALUE)
    if parameter.element.name == "f64":
        return f"double {value}"
    return f"float {w.let(f'fptrunc double {value} to float')}"


def _take_slot(state: str) -> Iterator[str]:
    """Take a workspace from the first slot that has one."""
    yield f"  %slots.place = getelementptr i8, ptr {state}, i64 {_SLOTS}"
    yield "  %slots = load ptr, ptr %slots.place"
    yield "  br label %take"
    yield "take:"
    yield "  %number = phi i64 [0, %fit], [%next, %again]"
    yield "  %slot = getelementptr ptr, ptr %slots, i64 %number"
    yield "  %workspace = atomicrmw xchg ptr %slot, ptr null acquire, align 8"
    yield "  %taken = icmp ne ptr %workspace, null"
    yield "  br i1 %taken, label %run, label %again"
    yield "again:"
    yield "  %next = add i64 %number, 1"
    yield f"  %more = icmp ult i64 %next, {SLOTS}"
    yield "  br i1 %more, label %take, label %settle"
    yield "run:"


IS_KNOWN = _is_known()
"""Whether native checks can be trusted here."""
