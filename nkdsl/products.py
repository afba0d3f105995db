"""Products of numpy arrays of any shape: `matmul` as numpy has it, `gemm` as BLAS has it.

Kernels here take sizes and leading dimensions at run time. What one is compiled for is a
`ShapeClass`: the element types, which dimension of each factor is contiguous, what is done to each
sum before it is stored, and what else changes the plan. The first product of a class compiles its
kernel; every later one finds it.

The result's rows are contiguous; where its columns are, its transpose is computed: Cᵀ = Bᵀ·Aᵀ. What
no kernel can read or write is copied: factors of negative strides or without a contiguous
dimension, results of other layouts or types, and results that overlap an operand. Tensors of
PyTorch are arrays of the same memory.
"""

import math
import os
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy import empty, ndarray

from nkdsl.api import Kernel, compile, usable_threads
from nkdsl.arguments import (
    TYPES,
    Extras,
    Operand,
    Steps,
    factor_types,
    gemm_type,
    read_array,
    read_number,
    read_steps,
    refuse_result,
    refuse_unequal,
    result_type,
)
from nkdsl.errors import InvalidInput
from nkdsl.finishing import Finishing
from nkdsl.runtime.entry import Entry
from nkdsl.tensors import Tensor, as_array, as_tensor, is_tensor

__all__ = ["ShapeClass", "gemm", "kernels", "matmul"]

Array = npt.NDArray[Any]

REGIME = "any"
"""What a class knows of the sizes: nothing, one plan serves all so far."""

_INT32 = np.dtype(np.int32)


class ShapeClass(NamedTuple):
    """What a kernel is compiled for."""

    lhs: np.dtype[Any]
    """The type of the left factor's elements."""
    rhs: np.dtype[Any]
    out: np.dtype[Any]
    lhs_rows: bool
    """Whether the left factor's rows are contiguous; otherwise its columns are."""
    rhs_rows: bool
    """The same of the right factor."""
    batched: bool
    """Whether there is one batch dimension."""
    scaled: bool
    """Whether it computes alpha·A·B + beta·C."""
    finishing: Finishing | None
    """What is done to each sum; None where it is stored as it is, or as a factor's type."""
    regime: str
    """What is known of the sizes; see `REGIME`."""
    threads: int
    """How many may share a product; the kernel itself sees which are worth it."""

    @property
    def source(self) -> str:
        """The program, as MLIR text."""
        batch = "b, " if self.batched else ""
        lhs, rhs = self._memref(self.lhs, self.lhs_rows), self._memref(self.rhs, self.rhs_rows)
        out = self._memref(self.out, True)
        mark = " {nanokernel.unsigned}" if TYPES[self.out].is_unsigned else ""
        name, others, first, update, epilogue = "matmul", "", "", "from zero", ""
        if self.scaled:
            t = TYPES[self.out].name
            name, others = "gemm", f", %alpha: {t}, %beta: {t}"
            first = (
                f"  %zero = arith.constant 0.0 : {t}\n"
                f"  %overwrite = arith.cmpf oeq, %beta, %zero : {t}\n"
            )
            update = "from zero if %overwrite scale %alpha, %beta"
        if self.finishing is not None:
            types = TYPES[self.lhs].accumulator, TYPES[self.out], batch
            others = self.finishing.arguments(*types)
            epilogue = f" {self.finishing.region(*types)}"
        return f"""
func.func @{name}(%a: {lhs}, %b: {rhs}, %c: {out}{mark}{others}) {{
{first}  nanokernel.gemm ins(%a[{batch}m, k], %b[{batch}k, n] : {lhs}, {rhs}){self._unsigned}
    outs(%c[{batch}m, n] : {out}) {update}{epilogue}
  return
}}"""

    def _memref(self, dtype: np.dtype[Any], rows: bool) -> str:
        sizes, strides = ("?x?x?x", "?, ") if self.batched else ("?x?x", "")
        strides += "?, 1" if rows else "1, ?"
        return f"memref<{sizes}{TYPES[dtype].mlir}, strided<[{strides}]>>"

    @property
    def _unsigned(self) -> str:
        """Which factors hold integers without a sign."""
        lhs, rhs = TYPES[self.lhs].is_unsigned, TYPES[self.rhs].is_unsigned
        if not (lhs or rhs):
            return ""
        return f" unsigned {'both' if lhs and rhs else 'lhs' if lhs else 'rhs'}"


def matmul(
    a: Operand,
    b: Operand,
    out: Any = None,
    *,
    bias: Operand | None = None,
    activation: str | None = None,
    residual: Operand | None = None,
    scale: Operand | None = None,
    zero_point: int | None = None,
    out_dtype: npt.DTypeLike | None = None,
    threads: int | None = None,
) -> Any:
    """The matrix product of two arrays, with the meaning of `numpy.matmul`, and what follows it.

    One-dimensional arrays are a row on the left and a column on the right; dimensions before the
    last two are a batch, which is broadcast.

    Products are added up in float32 for bfloat16 and float16, in int32 for 8-bit integers, where
    sums wrap around as numpy's do, and else in the type of the factors. Each sum is finished in
    this order: an integer bias is added to an integer sum, which then becomes a float32; times
    scale; plus bias; plus residual; activation; and to the type of the result. For an integer it is
    rounded to the nearest one, halves to the even one, the zero point is added, and what lies
    outside of the type becomes its least or largest number, NaN the least.

    ```python
    y = nkdsl.matmul(a_bf16, w_bf16, bias=b, activation="gelu", out_dtype="bf16")
    q = nkdsl.matmul(a_u8, w_s8, scale=s, zero_point=3, bias=b, out_dtype="u8")
    ```

    Args:
        a: float32, float64, bfloat16 (ml_dtypes'), float16, int8 or uint8, or anything that is so
            together with `b` by numpy's rules; int8 and uint8 multiply each other as they are.
        b: likewise.
        out: where the result goes, of its exact shape; it may overlap the operands.
        bias: one number a column of the result.
        activation: relu, gelu (by erf), gelu_tanh, sigmoid, silu or tanh.
        residual: an array of the result's shape, which is added.
        scale: a number, or one a column of the result.
        zero_point: a whole number of the result's type, for results that are integers.
        out_dtype: the type of the result, numpy's, or by a name of `nkdsl.types`: f32, bf16, f16,
            s8, u8, s32, or f64. By default that of `out`, if sums can be stored so and floats stay
            floats; else that of the factors, but int32 for integers.
        threads: how many threads may share the work; by default `NKDSL_NUM_THREADS`, or as many as
            this process has cores to itself, as either is when it is first needed.

    Returns:
        `out`, or a new array; a number for the product of two one-dimensional arrays. A tensor if
        `a` or `b` is one of PyTorch.

    Raises:
        InvalidInput: for shapes that don't fit each other, and for an unsuitable operand or `out`.
        Unsupported: for other types, with a remedy.
    """
    if (
        bias is None
        and activation is None
        and residual is None
        and scale is None
        and zero_point is None
        and out_dtype is None
        and type(a) is ndarray
        and type(b) is ndarray
        and (out is not None or a.ndim == b.ndim == 2)
    ):
        if out is None:
            result = empty((len(a), b.shape[1]), a.dtype if a.itemsize > 1 else _INT32)
        else:
            result = out
        entry = _made_entry(a, b, result, False, threads)
        if entry is not None:
            try:
                entry(a, b, result)
                return result
            except InvalidInput:
                pass
    steps = Steps(bias, activation, residual, scale, zero_point, out_dtype)
    if not (is_tensor(a) or is_tensor(b)):
        return _matmul(a, b, out, _count(threads), steps)
    arrays = read_array("matmul", "a", a), read_array("matmul", "b", b)
    target = as_array(out, "argument out of matmul")
    made = matmul(*arrays, target, **steps._asdict(), threads=threads)
    return as_tensor(made) if out is None else out


def gemm(
    alpha: float,
    a: Operand,
    b: Operand,
    beta: float,
    c: Array | Tensor,
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
    alpha, beta = read_number("gemm", "alpha", alpha), read_number("gemm", "beta", beta)
    if type(a) is ndarray and type(b) is ndarray:
        entry = _made_entry(a, b, c, True, threads)
        if entry is not None and alpha:
            try:
                entry(a, b, c, alpha, beta)
                return
            except InvalidInput:
                pass
    _gemm(alpha, a, b, beta, c, _count(threads))


def _made_entry(a: Array, b: Array, out: Any, scaled: bool, threads: int | None) -> Entry | None:
    """The entry for what products nearly always are: of matrices, in rows, of a class met before.

    It refuses, before it runs, what the class doesn't tell: `InvalidInput`. Then, too, a product
    goes the long way.
    """
    if type(out) is not ndarray:
        return None
    left, right, strides = a.strides, b.strides, out.strides
    if not len(left) == len(right) == len(strides) == 2 or strides[1] != out.itemsize:
        return None
    x, y = a.dtype, b.dtype
    rows, columns = left[1] == a.itemsize, right[1] == b.itemsize
    count = _count(threads)
    return _entries.get((x, y, out.dtype, rows, columns, False, scaled, None, REGIME, count))


def kernels() -> dict[ShapeClass, Kernel]:
    """The kernels that were compiled so far, each once."""
    return dict(_kernels)


# --------------------------------------------------------------------------- classes and kernels


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


class _Work(NamedTuple):
    """What a product needs beside its factors and its result."""

    types: tuple[np.dtype[Any], np.dtype[Any]]
    """Those that the factors are multiplied as."""
    threads: int
    extras: Extras = Extras()
    scaled: bool = False
    """Whether it is alpha·A·B + beta·C."""


def _matmul(left: Operand, right: Operand, out: Any, threads: int, steps: Steps) -> Any:
    """`matmul` of anything but tensors as factors."""
    a, b = read_array("matmul", "a", left), read_array("matmul", "b", right)
    types = factor_types(a, b)
    for name, array in (("a", a), ("b", b)):
        if not array.ndim:
            raise InvalidInput(
                f"argument {name} of matmul must have at least one dimension, but it is a number; "
                "use numpy.multiply"
            )
    refuse_unequal("matmul", a, b)
    rows = a[None] if a.ndim == 1 else a
    columns = b[:, None] if b.ndim == 1 else b
    full = (*_batch_shape(rows, columns), rows.shape[-2], columns.shape[-1])
    # A vector's added dimension is none of the result's.
    shape = (*full[:-2], *full[-2:][a.ndim == 1 : 2 - (b.ndim == 1)])
    given = None if out is None else as_array(out, "argument out of matmul")
    dtype = result_type(types, given, steps.out_dtype)
    extras = read_steps(steps, types, dtype, shape, full)
    work = _Work(types, threads, extras)
    if given is None:
        result = np.empty(full, dtype)
        _write(rows, columns, result, work)
        return result if shape == full else result.reshape(shape)[()]
    refuse_result("matmul", "out", given, shape, dtype, exactly=steps.out_dtype is not None)
    target = np.asarray(given)
    target = target[..., None] if b.ndim == 1 else target
    target = target[..., None, :] if a.ndim == 1 else target
    if _is_writable(target, dtype) and not _overlaps(target, a, b, *extras.arrays):
        _write(rows, columns, target, work)
    else:
        made = np.empty(full, dtype)
        _write(rows, columns, made, work)
        np.copyto(target, made, casting="same_kind")
    return out


def _gemm(
    alpha: float,
    left: Operand,
    right: Operand,
    beta: float,
    c: Array | Tensor,
    threads: int,
) -> None:
    """`gemm` of anything."""
    a, b = read_array("gemm", "a", left), read_array("gemm", "b", right)
    given: Any = as_array(c, "argument c of gemm")
    dtype = gemm_type(a, b)
    for name, array in (("a", a), ("b", b)):
        if array.ndim != 2:
            raise InvalidInput(
                f"argument {name} of gemm must have 2 dimensions, but its shape is {array.shape}; "
                "matmul takes vectors and batches"
            )
    refuse_unequal("gemm", a, b)
    refuse_result("gemm", "c", given, (a.shape[0], b.shape[1]), dtype)
    if given.dtype != dtype:
        raise InvalidInput(
            f"argument c of gemm must have the type of the product, {dtype}, not {given.dtype}; "
            "convert a and b, as with a.astype(c.dtype)"
        )
    if not alpha:
        a, b = a[:, :0], b[:0]
    target = np.asarray(given)
    work = _Work((dtype, dtype), threads, Extras(others=(alpha, beta)), scaled=True)
    if _is_writable(target, dtype) and not _overlaps(target, a, b):
        _write(a, b, target, work)
    else:
        made = np.array(target, dtype, order="C") if beta else np.empty(given.shape, dtype)
        _write(a, b, made, work)
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


def _write(a: Array, b: Array, out: Array, work: _Work) -> None:
    """Compute a product into a result that kernels can write to.

    Args:
        a: with at least two dimensions.
        b: likewise.
        out: with those of the result, broadcast.
        work: what else it takes.
    """
    if not out.size:
        return
    lhs, rhs = work.types
    finishing, residual, others = work.extras
    if not _in_rows(out):
        a, b, out = b.swapaxes(-1, -2), a.swapaxes(-1, -2), out.swapaxes(-1, -2)
        lhs, rhs = rhs, lhs
        finishing = finishing and finishing._replace(transposed=True)
        residual = None if residual is None else residual.swapaxes(-1, -2)
    a, b = _readable(a, lhs), _readable(b, rhs)
    if residual is not None and not (_is_contiguous(residual) and _in_rows(residual)):
        residual = residual.copy("C")
    results = [out] if residual is None else [out, residual]
    if out.ndim > b.ndim == 2 and all(x.flags.c_contiguous for x in (a, *results)):
        # One matrix on the right: the batch is more rows.
        count = math.prod(out.shape[:-1])
        a, *results = (x.reshape(count, x.shape[-1]) for x in (a, *results))
    batch = results[0].shape[:-2]
    a = a if a.shape[:-2] == batch else np.broadcast_to(a, (*batch, *a.shape[-2:]))
    b = b if b.shape[:-2] == batch else np.broadcast_to(b, (*batch, *b.shape[-2:]))
    for x, y, z, *rest in _batches(a, b, *results):
        wanted = ShapeClass(
            lhs,
            rhs,
            z.dtype,
            _in_rows(x, prefer_columns=True),
            _in_rows(y, prefer_columns=True),
            z.ndim == 3,
            work.scaled,
            finishing,
            REGIME,
            work.threads,
        )
        _entry(wanted)(x, y, z, *rest, *others)


def _batches(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Parts of a product with one batch dimension at most; dimensions are merged if possible."""
    first = arrays[0]
    if first.ndim <= 3:
        yield tuple(x[0] for x in arrays) if first.ndim == 3 and len(first) == 1 else arrays
    elif all(_is_mergeable(x) for x in arrays):
        merged = first.shape[-4] * first.shape[-3]
        yield from _batches(*(x.reshape(*x.shape[:-4], merged, *x.shape[-2:]) for x in arrays))
    else:
        for parts in zip(*arrays, strict=True):
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
