"""Products of numpy arrays of any shape: `matmul` as numpy has it, `gemm` as BLAS has it.

Kernels here take sizes and leading dimensions at run time. What one is compiled for is a
`ShapeClass`: the element type, which dimension of each factor is contiguous, and what else changes
the plan. The first product of a class compiles its kernel; every later one finds it.

The result's rows are contiguous; where its columns are, its transpose is computed: Cᵀ = Bᵀ·Aᵀ. What
no kernel can read or write is copied: factors of negative strides or without a contiguous
dimension, results of other layouts or types, and results that overlap a factor.
"""

import math
import os
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from nkdsl.api import Kernel, compile, usable_threads
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.runtime.entry import Entry
from nkdsl.types import ELEMENT_TYPES

__all__ = ["ShapeClass", "gemm", "kernels", "matmul"]

Array = npt.NDArray[Any]

_NAMES = {t.dtype: t.name for t in ELEMENT_TYPES}


class ShapeClass(NamedTuple):
    """What a kernel is compiled for."""

    dtype: np.dtype[Any]
    lhs_rows: bool
    """Whether the left factor's rows are contiguous; otherwise its columns are."""
    rhs_rows: bool
    """The same of the right factor."""
    batched: bool
    """Whether there is one batch dimension."""
    scaled: bool
    """Whether it computes alpha·A·B + beta·C."""
    regime: str
    """What is known of the sizes; see `_regime`."""
    threads: int
    """How many may share a product; the kernel itself sees which are worth it."""

    @property
    def source(self) -> str:
        """The program, as MLIR text."""
        t, batch = _NAMES[self.dtype], "b, " if self.batched else ""
        lhs, rhs, out = map(self._memref, (self.lhs_rows, self.rhs_rows, True))
        name, scalars, flag, update = "matmul", "", "", "from zero"
        if self.scaled:
            name, scalars = "gemm", f", %alpha: {t}, %beta: {t}"
            flag = (
                f"%zero = arith.constant 0.0 : {t}\n"
                f"  %overwrite = arith.cmpf oeq, %beta, %zero : {t}"
            )
            update = "from zero if %overwrite scale %alpha, %beta"
        return f"""
func.func @{name}(%a: {lhs}, %b: {rhs}, %c: {out}{scalars}) {{
  {flag}
  nanokernel.gemm ins(%a[{batch}m, k], %b[{batch}k, n] : {lhs}, {rhs})
    outs(%c[{batch}m, n] : {out}) {update}
  return
}}"""

    def _memref(self, rows: bool) -> str:
        sizes, strides = ("?x?x?x", "?, ") if self.batched else ("?x?x", "")
        strides += "?, 1" if rows else "1, ?"
        return f"memref<{sizes}{_NAMES[self.dtype]}, strided<[{strides}]>>"


def matmul(
    a: npt.ArrayLike, b: npt.ArrayLike, out: Array | None = None, *, threads: int | None = None
) -> Any:
    """The matrix product of two arrays, with the meaning of `numpy.matmul`.

    One-dimensional arrays are a row on the left and a column on the right; dimensions before the
    last two are a batch, which is broadcast.

    Args:
        a: float32 or float64, or anything that is together with `b` by numpy's rules.
        b: likewise.
        out: where the result goes, of its exact shape; it may overlap `a` and `b`.
        threads: how many threads may share the work; by default `NKDSL_NUM_THREADS`, or as many as
            this process has cores to itself, as either is when it is first needed.

    Returns:
        `out`, or a new array; a number for the product of two one-dimensional arrays.

    Raises:
        InvalidInput: for shapes that don't fit each other, and for an unsuitable `out`.
        Unsupported: for other types, with a remedy.
    """
    if type(a) is np.ndarray and type(b) is np.ndarray and len(a.shape) == len(b.shape) == 2:
        result = np.empty((len(a), b.shape[1]), a.dtype) if out is None else out
        entry = _made_entry(a, b, result, False, threads)
        if entry is not None:
            try:
                entry(a, b, result)
                return result
            except InvalidInput:
                pass
    return _matmul(a, b, out, _count(threads))


def gemm(
    alpha: float,
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    beta: float,
    c: Array,
    *,
    threads: int | None = None,
) -> None:
    """C := alpha·A·B + beta·C, in place, as BLAS has it.

    Where beta is 0, `c` is never read; where alpha is 0, `a` and `b` aren't: what isn't read may
    hold NaN. Otherwise both are rounded to the type of `c`.

    Args:
        alpha: the factor of the product.
        a: a matrix; together with `b` it is of the type of `c`, by numpy's rules.
        b: likewise.
        beta: the factor of what was in `c`.
        c: a matrix of type float32 or float64; it may overlap `a` and `b`.
        threads: as `matmul` has it.

    Raises:
        InvalidInput: for shapes that don't fit each other, and for an unsuitable `c`.
        Unsupported: for other types, with a remedy.
    """
    alpha, beta = _number("alpha", alpha), _number("beta", beta)
    if type(a) is np.ndarray and type(b) is np.ndarray and len(a.shape) == len(b.shape) == 2:
        entry = _made_entry(a, b, c, True, threads)
        if entry is not None and alpha:
            try:
                entry(a, b, c, alpha, beta)
                return
            except InvalidInput:
                pass
    _gemm(alpha, a, b, beta, c, _count(threads))


def _made_entry(a: Array, b: Array, out: Array, scaled: bool, threads: int | None) -> Entry | None:
    """The entry for what products nearly always are: of matrices, in rows, of a class met before.

    It refuses, before it runs, what the class doesn't tell: `InvalidInput`. Then, too, a product
    goes the long way.
    """
    if type(out) is not np.ndarray or len(strides := out.strides) != 2:
        return None
    size = out.itemsize
    if strides[1] != size:
        return None
    rows, columns = a.strides[1] == size, b.strides[1] == size
    return _entries.get((out.dtype, rows, columns, False, scaled, _regime(a, b), _count(threads)))


def kernels() -> dict[ShapeClass, Kernel]:
    """The kernels that were compiled so far, each once."""
    return dict(_kernels)


# --------------------------------------------------------------------------- classes and kernels


def _regime(a: Array, b: Array) -> str:
    """What the sizes of a product say about its plan; one plan serves all sizes so far."""
    return "any"


@lru_cache(maxsize=64)
def _count(threads: int | None) -> int:
    """The number of threads to compile for."""
    if not isinstance(threads, int | np.integer | None):
        raise InvalidInput(f"threads must be a whole number, not {type(threads).__name__}")
    return usable_threads(threads)


_kernels: dict[ShapeClass, Kernel] = {}
_entries: dict[tuple[Any, ...], Entry] = {}
"""The kernels' entries, found by what equals a `ShapeClass`."""

_compiling = threading.RLock()
# A child's copy of the lock must not be held by a thread that the child doesn't have.
os.register_at_fork(
    before=_compiling.acquire,
    after_in_parent=_compiling.release,
    after_in_child=_compiling.release,
)


def _entry(wanted: ShapeClass) -> Entry:
    """The entry of a class's kernel, which is compiled if there is none."""
    if wanted not in _entries:
        with _compiling:
            if wanted not in _entries:
                kernel = compile(wanted.source, threads=wanted.threads)
                _kernels[wanted] = kernel
                _entries[wanted] = kernel.entry
    return _entries[wanted]


# ------------------------------------------------------------------------------------ any arrays


def _matmul(left: npt.ArrayLike, right: npt.ArrayLike, out: Array | None, threads: int) -> Any:
    """`matmul` of anything."""
    a, b = _array("matmul", "a", left), _array("matmul", "b", right)
    dtype = _common_type("matmul", a, b)
    for name, array in (("a", a), ("b", b)):
        if not array.ndim:
            raise InvalidInput(
                f"argument {name} of matmul must have at least one dimension, but it is a number; "
                "use numpy.multiply"
            )
    _refuse_unequal("matmul", a, b)
    rows = a[None] if a.ndim == 1 else a
    columns = b[:, None] if b.ndim == 1 else b
    full = (*_batch_shape(rows, columns), rows.shape[-2], columns.shape[-1])
    # A vector's added dimension is none of the result's.
    shape = (*full[:-2], *full[-2:][a.ndim == 1 : 2 - (b.ndim == 1)])
    if out is None:
        result = np.empty(full, dtype)
        _write(rows, columns, result, threads)
        return result if shape == full else result.reshape(shape)[()]
    _refuse_result("matmul", "out", out, shape, dtype)
    target = np.asarray(out)
    target = target[..., None] if b.ndim == 1 else target
    target = target[..., None, :] if a.ndim == 1 else target
    if _is_writable(target, dtype) and not _overlaps(target, a, b):
        _write(rows, columns, target, threads)
    else:
        made = np.empty(full, dtype)
        _write(rows, columns, made, threads)
        np.copyto(target, made, casting="same_kind")
    return out


def _gemm(
    alpha: float,
    left: npt.ArrayLike,
    right: npt.ArrayLike,
    beta: float,
    c: Array,
    threads: int,
) -> None:
    """`gemm` of anything."""
    a, b = _array("gemm", "a", left), _array("gemm", "b", right)
    dtype = _common_type("gemm", a, b)
    for name, array in (("a", a), ("b", b)):
        if array.ndim != 2:
            raise InvalidInput(
                f"argument {name} of gemm must have 2 dimensions, but its shape is {array.shape}; "
                "matmul takes vectors and batches"
            )
    _refuse_unequal("gemm", a, b)
    _refuse_result("gemm", "c", c, (a.shape[0], b.shape[1]), dtype)
    if c.dtype != dtype:
        raise InvalidInput(
            f"argument c of gemm must have the type of the product, {dtype}, not {c.dtype}; "
            "convert a and b, as with a.astype(c.dtype)"
        )
    if not alpha:
        a, b = a[:, :0], b[:0]
    target = np.asarray(c)
    if _is_writable(target, dtype) and not _overlaps(target, a, b):
        _write(a, b, target, threads, (alpha, beta))
    else:
        made = np.array(target, dtype, order="C") if beta else np.empty(c.shape, dtype)
        _write(a, b, made, threads, (alpha, beta))
        target[...] = made


def _batch_shape(a: Array, b: Array) -> tuple[int, ...]:
    """The batch dimensions of a product."""
    first, second = a.shape[:-2], b.shape[:-2]
    if not second or first == second:
        return first
    try:
        return np.broadcast_shapes(first, second)
    except ValueError:
        raise InvalidInput(
            f"arguments a and b of matmul have batches of shapes {first} and {second}; from the "
            "last dimension on, sizes must be equal or 1"
        ) from None


def _write(a: Array, b: Array, out: Array, threads: int, scalars: Sequence[float] = ()) -> None:
    """Compute a product into a result that kernels can write to.

    Args:
        a: with at least two dimensions.
        b: likewise.
        out: with those of the result, broadcast.
        threads: how many to use.
        scalars: alpha and beta, if the result is scaled.
    """
    if not out.size:
        return
    if not _in_rows(out):
        a, b, out = b.swapaxes(-1, -2), a.swapaxes(-1, -2), out.swapaxes(-1, -2)
    a, b = _readable(a, out.dtype), _readable(b, out.dtype)
    if out.ndim > b.ndim == 2 and a.flags.c_contiguous and out.flags.c_contiguous:
        # One matrix on the right: the batch is more rows.
        count = math.prod(out.shape[:-1])
        a, out = a.reshape(count, a.shape[-1]), out.reshape(count, out.shape[-1])
    batch = out.shape[:-2]
    a = a if a.shape[:-2] == batch else np.broadcast_to(a, (*batch, *a.shape[-2:]))
    b = b if b.shape[:-2] == batch else np.broadcast_to(b, (*batch, *b.shape[-2:]))
    for x, y, z in _batches(a, b, out):
        wanted = ShapeClass(
            z.dtype,
            _in_rows(x, prefer_columns=True),
            _in_rows(y, prefer_columns=True),
            z.ndim == 3,
            bool(scalars),
            _regime(x, y),
            threads,
        )
        _entry(wanted)(x, y, z, *scalars)


def _batches(a: Array, b: Array, out: Array) -> Iterator[tuple[Array, Array, Array]]:
    """Parts of a product with one batch dimension at most; dimensions are merged if possible."""
    if out.ndim <= 3:
        if out.ndim == 3 and len(out) == 1:
            a, b, out = a[0], b[0], out[0]
        yield a, b, out
    elif all(_is_mergeable(x) for x in (a, b, out)):
        first, second, third = (
            x.reshape(*x.shape[:-4], x.shape[-4] * x.shape[-3], *x.shape[-2:]) for x in (a, b, out)
        )
        yield from _batches(first, second, third)
    else:
        for parts in zip(a, b, out, strict=True):
            yield from _batches(*parts)


def _is_mergeable(array: Array) -> bool:
    """Whether the last two batch dimensions are as one in memory."""
    return bool(array.strides[-4] == array.strides[-3] * array.shape[-3])


# ---------------------------------------------------------------------------------- layouts


def _in_rows(matrix: Array, *, prefer_columns: bool = False) -> bool:
    """Whether a row's elements lie side by side, as far as there is more than one.

    Args:
        matrix: with two dimensions or more, of which one is contiguous.
        prefer_columns: take a column whose elements lie side by side for a column.
    """
    down, right = matrix.strides[-2:]
    if right == matrix.itemsize or not prefer_columns:
        return right == matrix.itemsize or matrix.shape[-1] <= 1
    return down != matrix.itemsize and matrix.shape[-2] > 1


def _is_contiguous(matrix: Array) -> bool:
    """Whether rows or columns lie side by side, and no step leads backwards or between elements."""
    flags = matrix.flags
    if not flags.aligned:
        return False
    if flags.c_contiguous or (flags.f_contiguous and matrix.ndim == 2):
        return True
    size = matrix.itemsize
    *_, (rows, down), (columns, right) = zip(matrix.shape, matrix.strides, strict=True)
    return (right == size or columns <= 1 or down == size or rows <= 1) and all(
        stride >= 0 and stride % size == 0
        for extent, stride in zip(matrix.shape, matrix.strides, strict=True)
        if extent > 1
    )


def _readable(factor: Array, dtype: np.dtype[Any]) -> Array:
    """A factor as kernels can read it: itself, or a copy."""
    if factor.dtype == dtype and (not factor.size or _is_contiguous(factor)):
        return factor
    return factor.astype(dtype, order="C")


def _is_writable(result: Array, dtype: np.dtype[Any]) -> bool:
    """Whether kernels can write to a result: to each element by itself."""
    if result.dtype != dtype or not _is_contiguous(result):
        return False
    if result.flags.forc:
        return True
    reach = result.itemsize
    walked = [(s, n) for n, s in zip(result.shape, result.strides, strict=True) if n > 1]
    for stride, extent in sorted(walked):
        if stride < reach:
            return False
        reach += (extent - 1) * stride
    return True


def _overlaps(result: Array, *factors: Array) -> bool:
    """Whether a result has an element in common with a factor."""
    return any(np.shares_memory(factor, result) for factor in factors)


# -------------------------------------------------------------------------------- what is refused


def _array(function: str, name: str, argument: npt.ArrayLike) -> Array:
    """An operand as an array."""
    if isinstance(argument, np.ma.MaskedArray):
        raise Unsupported(
            f"argument {name} of {function} is a masked array, but kernels know no masks; "
            "fill it, as with a.filled(0)"
        )
    try:
        return np.asarray(argument)
    except ValueError as error:
        raise InvalidInput(f"argument {name} of {function} is no array: {error}") from error


def _common_type(function: str, a: Array, b: Array) -> np.dtype[Any]:
    """The type to compute in."""
    if a.dtype == b.dtype and a.dtype in _NAMES:
        return a.dtype
    try:
        dtype = np.result_type(a.dtype, b.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype not in _NAMES:
        raise Unsupported(
            f"{function} computes in float32 and float64, but a is {a.dtype} and b is {b.dtype}; "
            "convert them, as with a.astype(numpy.float64)"
        )
    return dtype


def _number(name: str, value: object) -> float:
    """A factor of `gemm`."""
    if type(value) is float:
        return value
    if not isinstance(value, float | int | np.floating | np.integer):
        raise InvalidInput(f"argument {name} of gemm must be a number, not {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise InvalidInput(
            f"argument {name} of gemm is too large for a floating-point number"
        ) from None


def _refuse_unequal(function: str, a: Array, b: Array) -> None:
    """Refuse factors that disagree on the reduction."""
    dimension = max(b.ndim - 2, 0)
    if a.shape[-1] != b.shape[dimension]:
        raise InvalidInput(
            f"argument b of {function} has size {b.shape[dimension]} in dimension {dimension}, but "
            f"argument a has size {a.shape[-1]} in dimension {a.ndim - 1}; these must be equal "
            f"(shapes {a.shape} and {b.shape})"
        )


def _refuse_result(
    function: str, name: str, result: Any, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    """Refuse a result that can't be written to as it is."""

    def refuse(reason: str) -> NoReturn:
        raise InvalidInput(f"argument {name} of {function} {reason}")

    if not isinstance(result, np.ndarray):
        refuse(f"must be a numpy array, not {type(result).__name__}")
    if result.shape != shape:
        refuse(f"must have shape {shape}, the product's, not {result.shape}")
    if not np.can_cast(dtype, result.dtype, "same_kind"):
        refuse(f"must have type {dtype}, not {result.dtype}")
    if not result.flags.writeable:
        refuse("is written but read-only; give a copy of it")
