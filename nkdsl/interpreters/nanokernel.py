"""Execution of `nanokernel`: whole products, and microkernels composed of steps.

A block is an array of its accumulators, (M, N). With `lanes = k` each accumulator is a register of
partial sums, (M, N, L), where L is the lanes of the instruction; before the first step it may have
fewer lanes, the rest being zero. After a step with a tail, accumulators that don't exist have no
meaning: they are NaN, or for integers `MEANINGLESS`. What a step computes is asked of the target's
table: the function's attribute `nanokernel.target` names the target, the step the instruction.

The workspace is taken once a run, and filled with NaN: a kernel that reads what it never wrote
can't hide it.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from xdsl.dialects.builtin import DYNAMIC_INDEX, MemRefType, ModuleOp
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
from xdsl.ir import SSAValue
from xdsl.utils.exceptions import InterpretationError

from nkdsl.dialects import nanokernel
from nkdsl.interpreters.arith import multiply_add
from nkdsl.interpreters.buffer import Array, Buffer, Positions, dtype_of, row_major
from nkdsl.interpreters.instructions import Instructions, as_element, reread
from nkdsl.interpreters.iteration import Iteration, at, gather
from nkdsl.interpreters.tile import vscale
from nkdsl.targets import Instruction
from nkdsl.targets.semantics import rounded

NAN_BYTE = 0xFF
"""Floating-point elements made of this byte are NaN, integers -1."""

MEANINGLESS = -86
"""What stands where an integer has no meaning."""


SIGN_BIT = np.int8(-128)
"""The highest bit of a byte."""


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


def _grouped_tile(
    buffer: Buffer, corner: Sequence[int], dims: str, extent: int, depth: int
) -> Array:
    """What a factor in groups has along m or n, and k: the groups that hold `depth` elements.

    All elements of the last group are there, those beyond `depth` too.
    """
    within, first = dims.index("g"), corner[dims.index("g")]
    size = buffer.shape[within]
    elements = np.arange(first, -(-(first + depth) // size) * size)
    indices = [np.asarray(index) for index in corner]
    indices[within] = elements % size
    for dimension, tag in enumerate(dims):
        if tag == "k":
            indices[dimension] = indices[dimension] + elements // size
        elif tag in "mn":
            indices[dimension] = indices[dimension] + np.arange(extent)[:, None]
    positions = buffer.elements(indices)
    return np.asarray(buffer.data[np.broadcast_to(positions, (extent, len(elements)))])


def _factor(
    access: tuple[Buffer, Sequence[int], str], side: str, extent: int, depth: int, group: int
) -> Array:
    """A factor of a step along `side`, m or n, and k, with k filled up to whole groups.

    What the last group lacks is zero. Where memory holds groups, they are whole already.
    """
    buffer, corner, dims = access
    if "g" in dims:
        values = _grouped_tile(buffer, corner, dims, extent, depth)
    else:
        values = buffer.data[_tile(buffer, corner, dims, "k" + side, (depth, extent))].T
    whole = -(-depth // group) * group
    return _with_lanes(values[:, :whole], whole)


def _meaningless(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Elements that no one may use."""
    return np.full(shape, MEANINGLESS if dtype.kind in "iu" else np.nan, dtype)


Place = tuple[Buffer, Sequence[int], str]
"""A memref, the indices of an element, and the tags of its dimensions."""


def _shape(block: nanokernel.BlockType) -> tuple[int, int]:
    """A block's (M, N), for vectors as long as they are now."""
    rows, columns = block.shape
    return (rows * vscale(), columns * vscale()) if block.scalable else (rows, columns)


def _within(
    extents: tuple[int, int], block: nanokernel.BlockType, *places: Place
) -> tuple[int, int]:
    """How much of a block's (M, N) exists where it lies: a scalable one ends where memrefs do."""
    found = list(extents)
    for buffer, corner, dims in places if block.scalable else ():
        for dimension, tag in enumerate(dims):
            if tag in "mn":
                left = buffer.shape[dimension] - corner[dimension]
                found["mn".index(tag)] = min(found["mn".index(tag)], left)
    return found[0], found[1]


def _existing(block: nanokernel.BlockType, tail: int | None) -> tuple[int, int]:
    """How much of a block's (M, N) exists: with a tail, that many elements along the lanes."""
    rows, columns = _shape(block)
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
    """Steps along the lanes: lhs (M, K), rhs (N, K), acc (M, N, L)."""
    register = instruction.lanes * instruction.k
    depth = -(-lhs.shape[1] // register) * register
    rows, columns = (_with_lanes(factor, depth) for factor in (lhs, rhs))
    acc = _with_lanes(acc, instruction.lanes)
    for k in range(0, depth, register):
        factors = rows[:, None, k : k + register], columns[None, :, k : k + register]
        acc = _executed(
            instruction, acc, *(f.reshape(*f.shape[:2], -1, instruction.k) for f in factors)
        )
    return acc


def _accumulate_block(instruction: Instruction, acc: Array, lhs: Array, rhs: Array) -> Array:
    """Steps one after the other: lhs (M, K), rhs (N, K), acc (M, N)."""
    group = instruction.steps
    for k in range(0, lhs.shape[1], group):
        acc = _executed(instruction, acc, lhs[:, None, k : k + group], rhs[None, :, k : k + group])
    return acc


def _executed(instruction: Instruction, acc: Array, lhs: Array, rhs: Array) -> Array:
    """The sums after one instruction; the factors' last axis is what it takes of k."""
    shape = (*acc.shape, instruction.steps)
    lhs, rhs = (np.broadcast_to(factor, shape) for factor in (lhs, rhs))
    if instruction.steps == 1:
        lhs, rhs = lhs[..., 0], rhs[..., 0]
    return instruction.semantics(acc, lhs, rhs)


@register_impls
class NanokernelFunctions(InterpreterFunctions):
    """The rules of `nanokernel`."""

    def __init__(self) -> None:
        self._workspace: Array | None = None
        self._instructions = Instructions()

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
        begins = scalars.pop() if op.begins is not None else True
        start = scalars.pop() if op.start is not None else None
        if op.panel is not None:
            panel, source = scalars.pop(), scalars.pop()
            _keep(panel, 0, source.data[source.tile((0, 0), (0, 1), source.shape)])
        if op.kept is not None:
            _keep_factor(op, args, scalars.pop())
        from_zero = scalars.pop(0) if op.first is not None else op.from_zero is not None
        total = _sum_of_products(op, space, lhs, rhs, out, from_zero=from_zero, scale=scalars)
        if start is not None and op.start_map is not None:
            total = total + _last_group_of(op, space, args)
            if begins:
                positions = space.positions(start, op.start_map.data)
                total = total + gather(start, positions, _first(space))
        if op.epilogue is not None:
            # Neither the sum nor the extras depend on k any more.
            further = (gather(*extra, _first(space)) for extra in extras)
            (total,) = interpreter.run_ssacfg_region(op.epilogue, (total, *further), op.name)
        out[0].data[at(out[1], _first(space))] = _stored(total, out[0])
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
        if height < 0 or not 0 <= width <= panel.shape[1]:
            raise InterpretationError(f"{panel} can't hold {height}x{width}")
        tile = _tile(source, corner, op.dims.data, op.row_tag + op.lane_tag, (height, width))
        _keep(panel, 0, source.data[tile])
        return ()

    @impl(nanokernel.SumOp)
    def run_sum(
        self, interpreter: Interpreter, op: nanokernel.SumOp, args: PythonValues
    ) -> PythonValues:
        source, sums = args
        elements = _read(source, op.unsigned is not None)[
            source.tile((0, 0, 0), (0, 1, 2), source.shape)
        ]
        total = elements.astype(np.int64).sum(axis=(0, 2)) * op.factor.value.data
        place = sums.tile((0,), (0,), sums.shape)
        whole = _meaningless(sums.shape, sums.data.dtype)
        whole[: len(total)] = total.astype(np.int32)
        if op.accumulate is not None:
            whole += sums.data[place]
        sums.data[place] = whole
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
        shape = (*type_.shape, 1) if type_.lanes.data == "k" else _shape(type_)
        return (np.zeros(shape, dtype_of(type_.element_type)),)

    @impl(nanokernel.LoadOp)
    def run_load(
        self, interpreter: Interpreter, op: nanokernel.LoadOp, args: PythonValues
    ) -> PythonValues:
        tail, rest = (args[0], args[1:]) if op.tail is not None else (None, args)
        buffer, *corner = rest
        type_ = op.result.type
        assert isinstance(type_, nanokernel.BlockType)
        rows, columns = _within(_existing(type_, tail), type_, (buffer, corner, op.dims.data))
        loaded = buffer.data[_tile(buffer, corner, op.dims.data, "mn", (rows, columns))]
        values = loaded.astype(dtype_of(type_.element_type), copy=False)
        if (rows, columns) != _shape(type_):
            values = _meaningless(_shape(type_), values.dtype)
            values[:rows, :columns] = loaded
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
        places = len(op.extras), len(op.extras) + len(op.extra_indices)
        extras, indices, (buffer, *corner) = (
            *(rest[: places[0]], rest[places[0] : places[1]], rest[places[1] :]),
        )
        existing = _within(_existing(type_, tail), type_, (buffer, corner, op.dims.data))
        tile = _tile(buffer, corner, op.dims.data, "mn", existing)
        values = _tree_sum(block) if type_.lanes.data == "k" else block
        values = values[: existing[0], : existing[1]]
        if alpha is not None:
            old = buffer.data[tile].astype(values.dtype) if beta is not None else None
            values = _scaled(values, old, alpha, beta)
        if op.accumulate is not None:
            values = buffer.data[tile].astype(values.dtype) + values
        if op.epilogue is not None:
            further = (
                extra.data[
                    _tile(extra, _taken(indices, len(access.dims)), access.dims, "mn", existing)
                ]
                for extra, access in zip(extras, op.extra_accesses, strict=True)
            )
            (values,) = interpreter.run_ssacfg_region(op.epilogue, (values, *further), op.name)
        buffer.data[tile] = _stored(values, buffer)
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
        instruction = self._instructions.of(op, op.instruction.data)
        lhs = args[1], args[2:split], op.lhs_dims.data
        rhs = args[split], args[split + 1 : end], op.rhs_dims.data
        acc = args[0]
        tail, panel, existing = _optional(args[end:], op.tail, op.kept, op.existing)
        depth = depth if existing is None else existing
        rows, columns = _within(_existing(op.block, tail), op.block, lhs, rhs)
        factors = (
            _factor(lhs, "m", rows, depth, instruction.k),
            _factor(rhs, "n", columns, depth, instruction.k),
        )
        if op.kept is not None:
            position = 0 if op.block.lanes.data == "m" else 1
            count = factors[position].shape[1]
            loaded = factors[position][:, : depth if len(panel.shape) == 2 else count]
            _keep_steps(panel, (lhs, rhs)[position], loaded)
        left, right = (
            as_element(factor ^ SIGN_BIT if _flips(op, role) else factor, name)
            for role, factor, name in zip(
                ("lhs", "rhs"), factors, instruction.operands, strict=True
            )
        )
        accumulate = _accumulate_lanes if op.block.lanes.data == "k" else _accumulate_block
        sums = accumulate(instruction, acc[:rows, :columns], left, right)
        if (rows, columns) == acc.shape[:2]:
            return (sums,)
        # The other sums have no meaning: whoever uses them is found out.
        result = _meaningless(acc.shape, acc.dtype)
        result[:rows, :columns] = sums
        return (result,)


def _optional(values: PythonValues, *operands: SSAValue | None) -> list[Any]:
    """The values of optional operands, None for those that an operation hasn't."""
    given = iter(values)
    return [None if operand is None else next(given) for operand in operands]


def _flips(op: nanokernel.StepOp, role: str) -> bool:
    """Whether a step flips the signs of a factor, `lhs` or `rhs`."""
    return op.flip is not None and op.flip.data == role


def _taken(values: list[int], count: int) -> list[int]:
    """The first values of a list, which loses them."""
    first = values[:count]
    del values[:count]
    return first


def _stored(values: Array, buffer: Buffer) -> Array:
    """Values as a memref holds them: of a narrower floating-point type, rounded once."""
    dtype = buffer.data.dtype
    return values if dtype.kind in "iub" or values.dtype == dtype else rounded(values, dtype)


def _keep(panel: Buffer, row: int, values: Array) -> None:
    """Store rows of a panel, given as (K, W), in groups if it holds groups.

    What the last group lacks is zero; what lies beyond W up to the panel's width has no meaning.
    """
    depth, existing = values.shape
    _, width, *groups = panel.shape
    group = prod(groups)
    rows = -(-depth // group)
    filled = np.zeros((rows * group, existing), panel.data.dtype)
    filled[:depth] = values
    whole = _meaningless((rows, width, group), panel.data.dtype)
    whole[:, :existing] = filled.reshape(rows, group, existing).transpose(0, 2, 1)
    shape = rows, width, *groups
    tile = panel.tile((row, *(0 for _ in shape[1:])), tuple(range(len(shape))), shape)
    panel.data[tile] = whole.reshape(shape)


def _keep_steps(panel: Buffer, access: tuple[Buffer, Sequence[int], str], values: Array) -> None:
    """Store what a step loaded, (W, K), as rows of a panel, at the step's index k.

    A row of groups is counted as the factor's own, or holds that many of its elements.
    """
    _, indices, dims = access
    row = indices[dims.index("k")]
    if len(panel.shape) == 3 and "g" not in dims:
        row, rest = divmod(row, panel.shape[2])
        if rest:
            raise InterpretationError(f"step {indices[dims.index('k')]} starts within a group")
    _keep(panel, row, values.T)


def _keep_factor(op: nanokernel.GemmOp, args: PythonValues, panel: Buffer) -> None:
    """Pack the factor that a microkernel loads as registers."""
    assert op.plan is not None
    position, side = (1, "n") if op.plan.lanes.data == "n" else (0, "m")
    grids: list[Any] = [np.array(0)] * len(op.kinds)
    extents = dict(zip(op.kinds, reduction_of(op, args).extents, strict=True))
    grids[op.kinds.index("k")] = np.arange(extents["k"])[:, None]
    grids[op.kinds.index(side)] = np.arange(extents[side])
    buffer = args[position]
    indices = [np.asarray(r.eval(grids, ())) for r in op.indexing_maps[position].results]
    positions = np.broadcast_to(buffer.elements(indices), (extents["k"], extents[side]))
    _keep(panel, 0, buffer.data[positions])


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
    factors: list[tuple[Array, Positions]] = []
    for role, (buffer, positions) in zip(("lhs", "rhs"), (lhs, rhs), strict=True):
        data = _read(buffer, op.is_unsigned(role))
        if op.start is not None and role == _broadcast(op):
            data = (data ^ SIGN_BIT.astype(data.dtype)).view(_OTHER_SIGN[data.dtype.kind])
        factors.append((data, positions))
    # A wider array than declared is a reference's: keep its digits.
    dtype = np.result_type(dtype_of(op.accumulator), *(data.dtype for data, _ in factors))
    total = np.zeros(space.parallel, dtype)
    old = None if from_zero else np.asarray(gather(*out, _first(space)), dtype)
    if old is not None and not scale:
        total = old
    for step in space.steps():
        left, right = (data[at(positions, step)] for data, positions in factors)
        total = multiply_add(total, left.astype(dtype), right.astype(dtype))
    if not scale:
        return total
    alpha, beta = scale
    return _scaled(total, old, alpha, None if old is None else beta)


_OTHER_SIGN = {"i": np.uint8, "u": np.int8}
"""Integers of 8 bits, by the kind of those whose highest bit is flipped."""


def _broadcast(op: nanokernel.GemmOp) -> str:
    """The factor whose signs are flipped, where sums make up for that."""
    return "lhs" if op.added_up == "rhs" else "rhs"


def _last_group_of(op: nanokernel.GemmOp, space: Iteration, args: PythonValues) -> Array:
    """What flipped zeros add, multiplied with elements of a last group behind the reduction's end.

    Those are in the sums that a microkernel starts with, and need not be zero therefore.
    """
    position = int(_broadcast(op) == "lhs")
    buffer, map_ = args[position], op.indexing_maps[position]
    groups = {g.position: g.size for r in map_.results if (g := nanokernel.group_index(r))}
    order = sorted(range(len(op.kinds)), key=lambda iterator: op.kinds[iterator] == "k")
    grids: list[Any] = [None] * len(order)
    for axis, iterator in enumerate(order):
        extent, size = space.extents[iterator], groups.get(iterator, 1)
        first = extent if iterator in groups else 0
        grid = np.arange(first, -(-extent // size) * size)
        grids[iterator] = grid.reshape([-1 if d == axis else 1 for d in range(len(order))])
    indices = [np.asarray(r.eval(grids, ())) for r in map_.results]
    elements = _read(buffer, op.is_unsigned(op.added_up or "rhs"))[buffer.elements(indices)]
    along_k = tuple(range(len(order) - op.kinds.count("k"), len(order)))
    total = elements.astype(np.int64).sum(axis=along_k) if groups else np.zeros(())
    return np.asarray(total * (-128 if op.is_unsigned(_broadcast(op)) else 128)).astype(np.int32)


def _read(buffer: Buffer, unsigned: bool) -> Array:
    """The memory of a factor, integers with a sign or without."""
    data = buffer.data
    if data.dtype.kind not in "iu":
        return data
    return reread(data, np.dtype(f"{'u' if unsigned else 'i'}{data.itemsize}"))


def _scaled(values: Array, old: Array | None, alpha: Any, beta: Any) -> Array:
    """`alpha * values`, rounded, and with beta `beta * old` added to it in one operation."""
    product = np.asarray(values.dtype.type(alpha) * values)
    if beta is None or old is None:
        return product
    return multiply_add(product, np.full_like(product, beta), old)
