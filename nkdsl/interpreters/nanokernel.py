"""Execution of `nanokernel`: whole products, and microkernels composed of steps.

A block is an array of its accumulators, (M, N). With `lanes = k` each accumulator is a register of
partial sums, (M, N, L), where L is the lanes of the instruction; before the first step it may have
fewer lanes, the rest being zero. After a step with a tail, accumulators that don't exist are NaN.
What a step computes is asked of the target's table: the function's attribute `nanokernel.target`
names the target, the step names the instruction.

The workspace is taken once a run, and filled with NaN: a kernel that reads what it never wrote
can't hide it.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from xdsl.dialects.builtin import DYNAMIC_INDEX, MemRefType, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.interpreter import (
    Interpreter,
    InterpreterFunctions,
    PythonValues,
    ReturnedValues,
    TerminatorValue,
    impl,
    impl_terminator,
    register_impls,
)
from xdsl.ir import Operation
from xdsl.utils.exceptions import InterpretationError

from nkdsl.dialects import nanokernel
from nkdsl.interpreters.buffer import Array, Buffer, Positions, dtype_of, row_major
from nkdsl.interpreters.iteration import Iteration, at, gather
from nkdsl.targets import Instruction, get_target
from nkdsl.targets.semantics import fma
from nkdsl.types import ELEMENT_TYPES

NAN_BYTE = 0xFF
"""Floating-point elements made of this byte are NaN."""

_ELEMENT_DTYPES = frozenset(type_.dtype for type_ in ELEMENT_TYPES)


def workspace_bytes(module: ModuleOp) -> int:
    """How many bytes of workspace the `nanokernel.workspace` operations of a module span."""
    parts = (op for op in module.walk() if isinstance(op, nanokernel.WorkspaceOp))
    return max((op.offset.value.data + _bytes(op) for op in parts), default=0)


def poisoned(size: int) -> Array:
    """A fresh workspace of `size` bytes."""
    return np.full(size, NAN_BYTE, np.uint8)


def reduction_of(op: nanokernel.GemmOp, args: PythonValues) -> Iteration:
    """The iteration space of a product on these operands; sequential along its reduction."""
    sequential = [d for d, kind in enumerate(op.kinds) if kind == "k"]
    return Iteration.of(op.indexing_maps, args[: len(op.memrefs)], sequential)


def _bytes(op: nanokernel.WorkspaceOp) -> int:
    """The size of a part of the workspace."""
    assert isinstance(op.result.type, MemRefType)
    return prod(op.result.type.get_shape()) * dtype_of(op.result.type.element_type).itemsize


def _tile(
    buffer: Buffer, corner: Sequence[int], dims: str, tags: str, extents: tuple[int, int]
) -> Positions:
    """Positions of a tile whose two axes are the dimensions with these tags."""
    axes = tuple(tags.index(tag) if tag in tags else None for tag in dims)
    return buffer.tile(corner, axes, extents)


def _existing(block: nanokernel.BlockType, tail: int | None) -> tuple[int, int]:
    """How much of a block's (M, N) exists: with a tail, that many elements along the lanes."""
    rows, columns = block.shape
    if tail is None:
        return rows, columns
    along_rows = block.lanes.data == "m"
    extent = rows if along_rows else columns
    if not 1 <= tail <= extent:
        raise InterpretationError(f"a tail is 1 to {extent} elements of {block}, not {tail}")
    return (tail, columns) if along_rows else (rows, tail)


def _tree_sum(block: Array) -> Array:
    """The sums along the last axis, added pairwise."""
    while block.shape[-1] > 1:
        if block.shape[-1] % 2:
            block = _with_lanes(block, block.shape[-1] + 1)
        block = block[..., ::2] + block[..., 1::2]
    return block[..., 0]


def _with_lanes(values: Array, lanes: int) -> Array:
    """The same registers with zeros in further lanes."""
    missing = lanes - values.shape[-1]
    if missing <= 0:
        return values
    zeros = np.zeros((*values.shape[:-1], missing), values.dtype)
    return np.concatenate((values, zeros), axis=-1)


def _accumulate_lanes(instruction: Instruction, acc: Array, lhs: Array, rhs: Array) -> Array:
    """Steps along the lanes: lhs (M, K), rhs (K, N), acc (M, N, L)."""
    lanes = instruction.lanes
    depth = -(-lhs.shape[1] // lanes) * lanes
    rows, columns = _with_lanes(lhs, depth), _with_lanes(rhs.T, depth)
    acc = _with_lanes(acc, lanes)
    for k in range(0, depth, lanes):
        factors = rows[:, None, k : k + lanes], columns[None, :, k : k + lanes]
        acc = instruction.semantics(acc, *(np.broadcast_to(f, acc.shape) for f in factors))
    return acc


def _accumulate_block(instruction: Instruction, acc: Array, lhs: Array, rhs: Array) -> Array:
    """Steps one after the other: lhs (M, K), rhs (K, N), acc (M, N)."""
    for k in range(lhs.shape[1]):
        factors = lhs[:, k, None], rhs[None, k, :]
        acc = instruction.semantics(acc, *(np.broadcast_to(f, acc.shape) for f in factors))
    return acc


@register_impls
class NanokernelFunctions(InterpreterFunctions):
    """The rules of `nanokernel`."""

    def __init__(self) -> None:
        self._workspace: Array | None = None
        self._instructions: dict[Operation, Instruction] = {}

    # ------------------------------------------------------------------------------- whole

    @impl(nanokernel.GemmOp)
    def run_gemm(
        self, interpreter: Interpreter, op: nanokernel.GemmOp, args: PythonValues
    ) -> PythonValues:
        space = reduction_of(op, args)
        count = len(op.memrefs)
        lhs, rhs, out, *extras = (
            (buffer, space.positions(buffer, map_))
            for buffer, map_ in zip(args[:count], op.indexing_maps, strict=True)
        )
        scalars = list(args[count:])
        if op.panel is not None:
            panel, source = scalars.pop(), scalars.pop()
            _keep(panel, 0, source.data[source.tile((0, 0), (0, 1), source.shape)])
        if op.kept is not None:
            _keep_factor(op, args, scalars.pop())
        from_zero = scalars.pop(0) if op.first is not None else op.from_zero is not None
        total = _sum_of_products(op, space, lhs, rhs, out, from_zero=from_zero, scale=scalars)
        if op.epilogue is not None:
            # Neither the sum nor the extras depend on k any more.
            further = (gather(*extra, _first(space)) for extra in extras)
            (total,) = interpreter.run_ssacfg_region(op.epilogue, (total, *further), op.name)
        out[0].data[at(out[1], _first(space))] = total
        return ()

    @impl_terminator(nanokernel.YieldOp)
    def run_yield(
        self, interpreter: Interpreter, op: nanokernel.YieldOp, args: PythonValues
    ) -> tuple[TerminatorValue, PythonValues]:
        """Hand the values back to the operation around."""
        return ReturnedValues(args), ()

    # ---------------------------------------------------------------------------- composed

    @impl(nanokernel.WorkspaceOp)
    def run_workspace(
        self, interpreter: Interpreter, op: nanokernel.WorkspaceOp, args: PythonValues
    ) -> PythonValues:
        if self._workspace is None:
            self._workspace = poisoned(workspace_bytes(interpreter.module))
        type_, start = op.result.type, op.offset.value.data
        assert isinstance(type_, MemRefType)
        part = self._workspace[start : start + _bytes(op)].view(dtype_of(type_.element_type))
        return (Buffer(part, 0, type_.get_shape(), row_major(type_.get_shape())),)

    @impl(nanokernel.PackOp)
    def run_pack(
        self, interpreter: Interpreter, op: nanokernel.PackOp, args: PythonValues
    ) -> PythonValues:
        split = 1 + len(op.indices)
        source, corner, panel, given = args[0], args[1:split], args[split], iter(args[split + 1 :])
        height, width = (next(given) if e == DYNAMIC_INDEX else e for e in op.static_extents)
        pitch = panel.shape[1]
        if height < 0 or not 0 <= width <= pitch:
            raise InterpretationError(f"{panel} can't hold {height}x{width}")
        tile = _tile(source, corner, op.dims.data, op.row_tag + op.lane_tag, (height, width))
        # What a row holds beyond has no meaning: whoever uses it is found out.
        values = np.full((height, pitch), np.nan, panel.data.dtype)
        values[:, :width] = source.data[tile]
        panel.data[panel.tile((0, 0), (0, 1), (height, pitch))] = values
        return ()

    @impl(nanokernel.MicrokernelOp)
    def run_microkernel(
        self, interpreter: Interpreter, op: nanokernel.MicrokernelOp, args: PythonValues
    ) -> PythonValues:
        callee = interpreter.get_op_for_symbol(op.callee)
        types = tuple(value.type for value in op.arguments)
        if not isinstance(callee, FuncOp) or callee.function_type.inputs.data != types:
            given = ", ".join(map(str, types))
            raise InterpretationError(f"{op.callee} is no function of {given}")
        interpreter.call_op(callee, args)
        return ()

    @impl(nanokernel.ZeroOp)
    def run_zero(
        self, interpreter: Interpreter, op: nanokernel.ZeroOp, args: PythonValues
    ) -> PythonValues:
        type_ = op.result.type
        assert isinstance(type_, nanokernel.BlockType)
        shape = (*type_.shape, 1) if type_.lanes.data == "k" else type_.shape
        return (np.zeros(shape, dtype_of(type_.element_type)),)

    @impl(nanokernel.LoadOp)
    def run_load(
        self, interpreter: Interpreter, op: nanokernel.LoadOp, args: PythonValues
    ) -> PythonValues:
        buffer, *corner = args
        type_ = op.result.type
        assert isinstance(type_, nanokernel.BlockType)
        values = buffer.data[_tile(buffer, corner, op.dims.data, "mn", type_.shape)]
        return (values[..., None] if type_.lanes.data == "k" else values,)

    @impl(nanokernel.StoreOp)
    def run_store(
        self, interpreter: Interpreter, op: nanokernel.StoreOp, args: PythonValues
    ) -> PythonValues:
        type_ = op.block.type
        assert isinstance(type_, nanokernel.BlockType)
        block, *rest = args
        tail, alpha, beta = (
            rest.pop(0) if operand is not None else None for operand in (op.tail, op.alpha, op.beta)
        )
        buffer, *corner = rest
        rows, columns = _existing(type_, tail)
        tile = _tile(buffer, corner, op.dims.data, "mn", (rows, columns))
        values = (_tree_sum(block) if type_.lanes.data == "k" else block)[:rows, :columns]
        if alpha is not None:
            values = _scaled(values, buffer.data[tile], alpha, beta)
        buffer.data[tile] = buffer.data[tile] + values if op.accumulate is not None else values
        return ()

    @impl(nanokernel.PrefetchOp)
    def run_prefetch(
        self, interpreter: Interpreter, op: nanokernel.PrefetchOp, args: PythonValues
    ) -> PythonValues:
        """A hint computes nothing."""
        return ()

    @impl(nanokernel.StepOp)
    def run_step(
        self, interpreter: Interpreter, op: nanokernel.StepOp, args: PythonValues
    ) -> PythonValues:
        depth = op.depth.value.data
        split = 2 + len(op.lhs_indices)
        end = split + 1 + len(op.rhs_indices)
        acc, lhs, rhs = args[0], args[1], args[split]
        rows, columns = _existing(op.block, args[end] if op.tail is not None else None)
        lhs_tile = _tile(lhs, args[2:split], op.lhs_dims.data, "mk", (rows, depth))
        rhs_tile = _tile(rhs, args[split + 1 : end], op.rhs_dims.data, "kn", (depth, columns))
        accumulate = _accumulate_lanes if op.block.lanes.data == "k" else _accumulate_block
        sums = accumulate(
            self._instruction(op), acc[:rows, :columns], lhs.data[lhs_tile], rhs.data[rhs_tile]
        )
        if op.kept is not None:
            vector = lhs.data[lhs_tile].T if op.block.lanes.data == "m" else rhs.data[rhs_tile]
            dims, indices = op.rhs_dims.data, args[split + 1 : end]
            if op.block.lanes.data == "m":
                dims, indices = op.lhs_dims.data, args[2:split]
            _keep(args[-1], indices[dims.index("k")], vector)
        if op.tail is None:
            return (sums,)
        # The other sums have no meaning: whoever uses them is found out.
        result = np.full_like(acc, np.nan)
        result[:rows, :columns] = sums
        return (result,)

    def _instruction(self, op: nanokernel.StepOp) -> Instruction:
        """The entry of the target's table that a step names."""
        found = self._instructions.get(op)
        if found is None:
            found = get_target(_target_name(op)).instruction(op.instruction.data)
            if found.k != 1:
                raise InterpretationError(f"steps of '{found.name}' can't be executed yet")
            self._instructions[op] = found
        return found


def _keep(panel: Buffer, row: int, values: Array) -> None:
    """Store rows of a panel; what lies beyond them up to the panel's width has no meaning."""
    width = panel.shape[1]
    rows = np.full((values.shape[0], width), np.nan, panel.data.dtype)
    rows[:, : values.shape[1]] = values
    panel.data[panel.tile((row, 0), (0, 1), rows.shape)] = rows


def _keep_factor(op: nanokernel.GemmOp, args: PythonValues, panel: Buffer) -> None:
    """Pack the factor that a microkernel loads as registers."""
    assert op.plan is not None
    position, side = (1, "n") if op.plan.lanes.data == "n" else (0, "m")
    kinds = [op.kinds[next(iter(r.used_dims()))] for r in op.indexing_maps[position].results]
    buffer = args[position]
    extents = tuple(buffer.shape[kinds.index(kind)] for kind in ("k", side))
    axes = tuple(0 if kind == "k" else 1 for kind in kinds)
    _keep(panel, 0, buffer.data[buffer.tile((0,) * len(kinds), axes, extents)])


def _target_name(op: Operation) -> str:
    """The target that the function around an operation was planned for."""
    parent = op.parent_op()
    while parent is not None and not isinstance(parent, FuncOp):
        parent = parent.parent_op()
    match parent.attributes.get(nanokernel.TARGET_ATTRIBUTE) if parent is not None else None:
        case StringAttr(data=name):
            return name
        case _:
            raise InterpretationError(
                f"the function has no attribute '{nanokernel.TARGET_ATTRIBUTE}' that names a target"
            )


def _first(space: Iteration) -> tuple[int, ...]:
    """Any point of the reduction, for operands that do not depend on it."""
    return (0,) * len(space.sequential)


def _sum_of_products(
    op: nanokernel.GemmOp,
    space: Iteration,
    lhs: tuple[Buffer, Positions],
    rhs: tuple[Buffer, Positions],
    out: tuple[Buffer, Positions],
    *,
    from_zero: bool,
    scale: Sequence[Any],
) -> Array:
    """`out + sum over k of lhs * rhs` in the accumulator's type, one rounding a step.

    With a scale, (alpha, beta), `beta * out + alpha * sum`.
    """
    dtype = out[0].data.dtype
    if op.epilogue is not None:
        # A wider array than declared is a reference's: keep its digits.
        dtype = np.promote_types(dtype, dtype_of(op.epilogue.block.args[0].type))
    total = np.zeros(space.parallel, dtype)
    old = None if from_zero else np.asarray(gather(*out, _first(space)), dtype)
    if old is not None and not scale:
        total = old
    for step in space.steps():
        factors = (gather(*factor, step).astype(dtype, copy=False) for factor in (lhs, rhs))
        total = _multiply_add(total, *factors)
    if not scale:
        return total
    alpha, beta = scale
    return _scaled(total, old, alpha, None if old is None else beta)


def _scaled(values: Array, old: Array | None, alpha: Any, beta: Any) -> Array:
    """`alpha * values`, rounded, and with beta `beta * old` added to it in one operation."""
    product = np.asarray(values.dtype.type(alpha) * values)
    if beta is None or old is None:
        return product
    return _multiply_add(product, np.full_like(product, beta), old)


def _multiply_add(acc: Array, lhs: Array, rhs: Array) -> Array:
    """`acc + lhs * rhs`, rounded once; in a type that is no element type, twice."""
    if acc.dtype in _ELEMENT_DTYPES:
        return fma(acc, lhs, rhs)
    return np.asarray(acc + lhs * rhs)
