"""Execution of `tile`: one value is one register, an array of its rows.

What a multiplication computes is asked of the target's table, as its instruction says. A processor
with scalable tiles is executed as one whose vectors have 128 bits, or as `vector_length` says.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
from xdsl.dialects.builtin import VectorType
from xdsl.interpreter import Interpreter, InterpreterFunctions, PythonValues, impl, register_impls

from nkdsl.dialects import tile
from nkdsl.interpreters.buffer import Buffer, Positions, dtype_of
from nkdsl.interpreters.instructions import Instructions, as_element

_vscale: ContextVar[int] = ContextVar("vscale", default=1)


def vscale() -> int:
    """What the sizes of scalable tiles are multiplied by."""
    return _vscale.get()


@contextmanager
def vector_length(bits: int) -> Iterator[None]:
    """Execute code as on a processor whose vectors, in streaming mode, have some bits."""
    token = _vscale.set(bits // 128)
    try:
        yield
    finally:
        _vscale.reset(token)


def vector_shape(type_: VectorType) -> tuple[int, ...]:
    """The extents of a vector, of a scalable one for vectors as long as they are now."""
    sizes = zip(type_.get_shape(), type_.get_scalable_dims(), strict=True)
    return tuple(size * vscale() if scalable else size for size, scalable in sizes)


@register_impls
class TileFunctions(InterpreterFunctions):
    """The rules of `tile`."""

    def __init__(self) -> None:
        self._instructions = Instructions()

    @impl(tile.ConfigureOp)
    def run_configure(
        self, interpreter: Interpreter, op: tile.ConfigureOp, args: PythonValues
    ) -> PythonValues:
        """Values know their shapes."""
        return ()

    @impl(tile.ReleaseOp)
    def run_release(
        self, interpreter: Interpreter, op: tile.ReleaseOp, args: PythonValues
    ) -> PythonValues:
        return ()

    @impl(tile.VscaleOp)
    def run_vscale(
        self, interpreter: Interpreter, op: tile.VscaleOp, args: PythonValues
    ) -> PythonValues:
        return (vscale(),)

    @impl(tile.ZeroOp)
    def run_zero(
        self, interpreter: Interpreter, op: tile.ZeroOp, args: PythonValues
    ) -> PythonValues:
        type_ = tile.tile_type(op.result)
        return (np.zeros(type_.shape_at(vscale()), dtype_of(type_.element_type)),)

    @impl(tile.LoadOp)
    def run_load(
        self, interpreter: Interpreter, op: tile.LoadOp, args: PythonValues
    ) -> PythonValues:
        active, (buffer, *indices) = args[: len(op.active)], args[len(op.active) :]
        type_ = tile.tile_type(op.result)
        values = np.zeros(type_.shape_at(vscale()), buffer.data.dtype)
        rows, columns = _existing(values.shape, active)
        values[:rows, :columns] = buffer.data[_rows(op, (rows, columns), buffer, indices)]
        return (values,)

    @impl(tile.StoreOp)
    def run_store(
        self, interpreter: Interpreter, op: tile.StoreOp, args: PythonValues
    ) -> PythonValues:
        values, *rest = args
        active, (buffer, *indices) = rest[: len(op.active)], rest[len(op.active) :]
        rows, columns = _existing(values.shape, active)
        buffer.data[_rows(op, (rows, columns), buffer, indices)] = values[:rows, :columns]
        return ()

    @impl(tile.MmaOp)
    def run_mma(self, interpreter: Interpreter, op: tile.MmaOp, args: PythonValues) -> PythonValues:
        instruction = self._instructions.of(op, op.instruction.data)
        acc, lhs, rhs = args
        rows, columns = acc.shape
        left = lhs.reshape(-1, rows, instruction.k) if len(lhs) != rows else None
        # Of an outer product the left factor too has a group for each row of the accumulator.
        row_factor = lhs if left is None else left.transpose(1, 0, 2).reshape(rows, -1)
        column_factor = rhs.reshape(-1, columns, instruction.k).transpose(1, 0, 2)
        factors = (row_factor[:, None, :], column_factor.reshape(columns, -1)[None, :, :])
        shape = (rows, columns, instruction.steps)
        values = (
            np.broadcast_to(as_element(factor, name), shape)
            for factor, name in zip(factors, instruction.operands, strict=True)
        )
        if instruction.steps == 1:
            values = (value[..., 0] for value in values)
        return (instruction.semantics(acc, *values),)


def _existing(shape: tuple[int, ...], active: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a tile that exist."""
    rows, columns = shape
    if not active:
        return rows, columns
    *few, left = active
    return min((rows, *few)), min(columns, left)


def _rows(
    op: tile.LoadOp | tile.StoreOp, shape: tuple[int, int], buffer: Buffer, indices: Sequence[int]
) -> Positions:
    """Where a tile's elements lie: rows a stride apart, each of consecutive elements."""
    place = [index + offset for index, offset in zip(indices, op.constant_offsets, strict=True)]
    return buffer.rows(place, op.rows.value.data, shape)
