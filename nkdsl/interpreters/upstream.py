"""Execution of the upstream operations that nkdsl's last pass emits.

The meaning of each is taken from MLIR's documentation of that operation, by its upstream name, and
from nothing of nkdsl's: no target table, no dialect of ours. So an error in a lowering can't be
repeated here. `vector.fma` and the intrinsics borrow the exact arithmetic, and no more, of
`nkdsl.targets.semantics`: which bits an intrinsic reads, and how, is said here.

At this level a memref argument of a function is a pointer to its first element, a `Buffer` of rank
0; `memref.reinterpret_cast` gives it its shape back.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import combinations
from math import prod
from typing import Any

import numpy as np
from xdsl.dialects import llvm, memref, vector
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    I64,
    DenseArrayBase,
    DenseIntOrFPElementsAttr,
    MemRefType,
    VectorType,
)
from xdsl.dialects.utils import FastMathFlag
from xdsl.interpreter import (
    Interpreter,
    InterpreterFunctions,
    PythonValues,
    impl,
    register_impls,
)
from xdsl.ir import Attribute, Operation
from xdsl.utils.exceptions import InterpretationError

from nkdsl.dialects.inline_asm import InlineAsmOp
from nkdsl.interpreters.amx import AmxUnit, Memory
from nkdsl.interpreters.buffer import Array, Buffer, dtype_of, reinterpret, row_major
from nkdsl.interpreters.neon import NEON
from nkdsl.interpreters.sme import VECTORS, SmeUnit, check_mode
from nkdsl.interpreters.tile import vector_shape
from nkdsl.targets.semantics import dot_bf16, dot_int8, fma

_BROADCASTS = {"vpbroadcastd $1, $0": 4, "vpbroadcastq $1, $0": 8}
"""Inline assembly that loads so many bytes, and copies them to all lanes of a register."""

_NO_EFFECT = frozenset({"llvm.prefetch.p0", "llvm.prefetch"})
"""Intrinsics that change nothing one could observe."""


def _dot_bf16(acc: Array, lhs: Array, rhs: Array) -> Array:
    """`vdpbf16ps`: pairs of bf16."""
    return dot_bf16(acc, lhs.reshape(-1, 2), rhs.reshape(-1, 2))


def _dot_integers(lhs_type: str, rhs_type: str, acc: Array, lhs: Array, rhs: Array) -> Array:
    """Sums of as many products as 32 bits hold; a vector may come as one of bytes or of i32."""
    factors = (
        factor.view(type_).reshape(len(acc), -1)
        for factor, type_ in ((lhs, lhs_type), (rhs, rhs_type))
    )
    return dot_int8(acc, *factors)


def _dot_words(lhs: Array, rhs: Array) -> Array:
    """`vpmaddwd`: pairs of i16, without an accumulator."""
    return _dot_integers("i2", "i2", np.zeros(len(lhs) // 2, np.int32), lhs, rhs)


def _integer_dots() -> dict[str, Callable[..., Array]]:
    """`vpdpbusd` and its kin: `u` is a factor without a sign, `s` one with a sign."""
    types = {"u": "u1", "s": "i1"}
    families = (
        ("avx512", ("us",), (128, 256, 512)),
        ("avx2", ("ss", "su", "uu"), (128, 256)),
        ("avx10", ("ss", "su", "uu"), (512,)),
    )
    return {
        f"llvm.x86.{feature}.vpdpb{pair}d.{bits}": partial(
            _dot_integers, types[pair[0]], types[pair[1]]
        )
        for feature, pairs, widths in families
        for pair in pairs
        for bits in widths
    }


_INTRINSICS: dict[str, Callable[..., Any]] = {
    **{f"llvm.x86.avx512bf16.dpbf16ps.{bits}": _dot_bf16 for bits in (128, 256, 512)},
    **_integer_dots(),
    **{
        f"llvm.x86.avx512.vpdpwssd.{bits}": partial(_dot_integers, "i2", "i2")
        for bits in (128, 256, 512)
    },
    "llvm.x86.sse2.pmadd.wd": _dot_words,
    "llvm.x86.avx2.pmadd.wd": _dot_words,
    "llvm.x86.avx512.pmaddw.d.512": _dot_words,
    **NEON,
    **VECTORS,
}
"""What intrinsics compute, by LLVM's name. The documentation of those of x86 is Intel's, of the
instructions VDPBF16PS, VPDPBUSD, VPDPBSSD, VPDPBSUD, VPDPBUUD, VPDPWSSD and PMADDWD."""


def _scalar(value: Any) -> Any:
    """A number taken from an array: Python's if it is an integer."""
    return int(value) if isinstance(value, np.integer) else value


def _vector_type(type_: Attribute) -> VectorType:
    assert isinstance(type_, VectorType)
    return type_


_UNWRITTEN = 0xFF
"""A byte of which floating-point numbers are NaN."""


def _vector_shape(type_: Attribute) -> tuple[int, ...]:
    return vector_shape(_vector_type(type_))


def _memref_type(type_: Attribute) -> MemRefType:
    if isinstance(type_, MemRefType):
        return type_
    raise InterpretationError(f"{type_} can't be executed, only memrefs of a known rank")


def _mixed(static: DenseArrayBase[I64], dynamic: list[int]) -> tuple[int, ...]:
    """A list of static values with the dynamic ones filled in, taken from the front."""
    values = (int(value) for value in static.get_values())
    return tuple(dynamic.pop(0) if value == DYNAMIC_INDEX else value for value in values)


def _of_rank(part: Buffer, static_sizes: DenseArrayBase[I64], type_: MemRefType) -> Buffer:
    """A view without the dimensions, statically of one element, that its type leaves out."""
    units = [d for d, size in enumerate(static_sizes.get_values()) if size == 1]
    for dropped in combinations(units, max(0, len(part.shape) - type_.get_num_dims())):
        kept = [d for d in range(len(part.shape)) if d not in dropped]
        shape, strides = (tuple(of[d] for d in kept) for of in (part.shape, part.strides))
        view = Buffer(part.data, part.offset, shape, strides, part.origin)
        if view.has_shape_of(type_) and view.has_strides_of(type_):
            part = view
            break
    part.check_type(type_)
    return part


@register_impls
class MemRefFunctions(InterpreterFunctions):
    """The rules of `memref`, and of the few `llvm` operations that take addresses."""

    def __init__(self) -> None:
        self._memory = Memory()
        self._units = (AmxUnit(self._memory), SmeUnit(self._memory))
        self._legal: set[Operation] = set()
        self._constants: dict[str, Array] = {}

    @impl(memref.GlobalOp)
    def run_global(
        self, interpreter: Interpreter, op: memref.GlobalOp, args: PythonValues
    ) -> PythonValues:
        return ()

    @impl(memref.GetGlobalOp)
    def run_get_global(
        self, interpreter: Interpreter, op: memref.GetGlobalOp, args: PythonValues
    ) -> PythonValues:
        name, type_ = op.name_.string_value(), _memref_type(op.memref.type)
        if name not in self._constants:
            constant = interpreter.get_op_for_symbol(op.name_)
            assert isinstance(constant, memref.GlobalOp)
            assert isinstance(constant.initial_value, DenseIntOrFPElementsAttr)
            values = np.array(constant.initial_value.get_values(), dtype_of(type_.element_type))
            self._constants[name] = values.reshape(type_.get_shape())
        return (Buffer.of(self._constants[name]),)

    @impl(memref.LoadOp)
    def run_load(
        self, interpreter: Interpreter, op: memref.LoadOp, args: PythonValues
    ) -> PythonValues:
        buffer: Buffer = args[0]
        return (_scalar(buffer.data[buffer.element(args[1:])]),)

    @impl(memref.StoreOp)
    def run_store(
        self, interpreter: Interpreter, op: memref.StoreOp, args: PythonValues
    ) -> PythonValues:
        buffer: Buffer = args[1]
        buffer.data[buffer.element(args[2:])] = args[0]
        return ()

    @impl(memref.AllocOp)
    def run_alloc(
        self, interpreter: Interpreter, op: memref.AllocOp, args: PythonValues
    ) -> PythonValues:
        """Memory that nothing was written to: whoever reads it is found out."""
        type_ = _memref_type(op.memref.type)
        dynamic = list(args[: len(op.dynamic_sizes)])
        shape = tuple(dynamic.pop(0) if n == DYNAMIC_INDEX else n for n in type_.get_shape())
        array = np.empty(shape, dtype_of(type_.element_type))
        array.view(np.uint8).fill(_UNWRITTEN)
        return (Buffer.of(array),)

    @impl(memref.DeallocOp)
    def run_dealloc(
        self, interpreter: Interpreter, op: memref.DeallocOp, args: PythonValues
    ) -> PythonValues:
        return ()

    @impl(memref.ReinterpretCastOp)
    def run_reinterpret_cast(
        self, interpreter: Interpreter, op: memref.ReinterpretCastOp, args: PythonValues
    ) -> PythonValues:
        source: Buffer = args[0]
        dynamic = list(args[1:])
        (offset,) = _mixed(op.static_offsets, dynamic)
        sizes = _mixed(op.static_sizes, dynamic)
        strides = _mixed(op.static_strides, dynamic)
        # The offset counts from the aligned pointer: that of the source is forgotten.
        result = Buffer(source.data, offset, sizes, strides, source.origin)
        result.check_type(_memref_type(op.result.type))
        return (result,)

    @impl(memref.SubviewOp)
    def run_subview(
        self, interpreter: Interpreter, op: memref.SubviewOp, args: PythonValues
    ) -> PythonValues:
        source: Buffer = args[0]
        dynamic = list(args[1:])
        offsets = _mixed(op.static_offsets, dynamic)
        sizes = _mixed(op.static_sizes, dynamic)
        strides = _mixed(op.static_strides, dynamic)
        part = source.subview(offsets, sizes, strides)
        return (_of_rank(part, op.static_sizes, _memref_type(op.result.type)),)

    @impl(memref.CastOp)
    def run_cast(
        self, interpreter: Interpreter, op: memref.CastOp, args: PythonValues
    ) -> PythonValues:
        source: Buffer = args[0]
        source.check_type(_memref_type(op.dest.type))
        return args

    @impl(memref.DimOp)
    def run_dim(
        self, interpreter: Interpreter, op: memref.DimOp, args: PythonValues
    ) -> PythonValues:
        source, dimension = args
        if not 0 <= dimension < len(source.shape):
            raise InterpretationError(f"{source} has no dimension {dimension}")
        return (source.shape[dimension],)

    @impl(memref.ExtractStridedMetaDataOp)
    def run_extract_strided_metadata(
        self, interpreter: Interpreter, op: memref.ExtractStridedMetaDataOp, args: PythonValues
    ) -> PythonValues:
        source: Buffer = args[0]
        base = Buffer(source.data, 0, (), (), source.origin)
        return (base, source.offset, *source.shape, *source.strides)

    @impl(memref.ViewOp)
    def run_view(
        self, interpreter: Interpreter, op: memref.ViewOp, args: PythonValues
    ) -> PythonValues:
        source: Buffer = args[0]
        type_ = _memref_type(op.result.type)
        dynamic = list(args[2:])
        shape = tuple(dynamic.pop(0) if n == DYNAMIC_INDEX else n for n in type_.get_shape())
        dtype = dtype_of(type_.element_type)
        _check_view(source, args[1], prod(shape) * dtype.itemsize)
        data, origin = reinterpret(source.data, source.start + args[1], dtype)
        return (Buffer(data, 0, shape, row_major(shape), origin),)

    @impl(memref.ExtractAlignedPointerAsIndexOp)
    def run_extract_aligned_pointer_as_index(
        self,
        interpreter: Interpreter,
        op: memref.ExtractAlignedPointerAsIndexOp,
        args: PythonValues,
    ) -> PythonValues:
        source: Buffer = args[0]
        data = source.data
        self._memory.add(data)
        return (data.__array_interface__["data"][0] + source.origin * data.itemsize,)

    @impl(llvm.IntToPtrOp)
    def run_inttoptr(
        self, interpreter: Interpreter, op: llvm.IntToPtrOp, args: PythonValues
    ) -> PythonValues:
        return args

    @impl(llvm.GEPOp)
    def run_getelementptr(
        self, interpreter: Interpreter, op: llvm.GEPOp, args: PythonValues
    ) -> PythonValues:
        pointer, *indices = args
        (constant,) = op.rawConstantIndices.get_values()
        index = indices[0] if constant == llvm.GEP_USE_SSA_VAL else int(constant)
        return (pointer + index * dtype_of(op.elem_type).itemsize,)

    @impl(llvm.CallIntrinsicOp)
    def run_call_intrinsic(
        self, interpreter: Interpreter, op: llvm.CallIntrinsicOp, args: PythonValues
    ) -> PythonValues:
        name = op.intrin.data
        if name in _NO_EFFECT:
            return ()
        if op not in self._legal:
            check_mode(op, name)
            self._legal.add(op)
        for unit in self._units:
            if (runs := unit.runs(name)) is not None:
                runs(*args)
                return ()
        if name not in _INTRINSICS:
            raise InterpretationError(f"the intrinsic '{name}' has no semantics here")
        return (_INTRINSICS[name](*args),)

    @impl(llvm.InlineAsmOp)
    def run_inline_asm(
        self, interpreter: Interpreter, op: llvm.InlineAsmOp, args: PythonValues
    ) -> PythonValues:
        return self._run_asm(op, args) if op.asm_string.data else ()

    @impl(InlineAsmOp)
    def run_instruction(
        self, interpreter: Interpreter, op: InlineAsmOp, args: PythonValues
    ) -> PythonValues:
        return self._run_asm(op, args)

    def _run_asm(self, op: llvm.InlineAsmOp, args: PythonValues) -> PythonValues:
        text = op.asm_string.data
        if (size := _BROADCASTS.get(text)) is None or op.constraints.data != "=v,*m":
            raise InterpretationError(f"the inline assembly '{text}' has no semantics here")
        assert op.res is not None and isinstance(op.res.type, VectorType)
        (lanes,) = op.res.type.get_shape()
        word = self._memory.at(args[0], size).view(dtype_of(op.res.type.element_type))
        return (np.repeat(word, lanes),)


@register_impls
class VectorFunctions(InterpreterFunctions):
    """The rules of `vector`, for vectors of one dimension."""

    def __init__(self) -> None:
        self._lanes: dict[Operation, int] = {}
        self._masks: dict[Operation, Array] = {}

    @impl(vector.LoadOp)
    def run_load(
        self, interpreter: Interpreter, op: vector.LoadOp, args: PythonValues
    ) -> PythonValues:
        buffer: Buffer = args[0]
        return (buffer.load(args[1:], self._lanes_of(op, op.result.type)),)

    @impl(vector.StoreOp)
    def run_store(
        self, interpreter: Interpreter, op: vector.StoreOp, args: PythonValues
    ) -> PythonValues:
        values, buffer, *indices = args
        buffer.store(indices, values)
        return ()

    @impl(vector.MaskedLoadOp)
    def run_masked_load(
        self, interpreter: Interpreter, op: vector.MaskedLoadOp, args: PythonValues
    ) -> PythonValues:
        buffer, *indices, mask, passed = args
        result = passed.copy()
        result[mask] = buffer.data[_touched(buffer, indices, mask)]
        return (result,)

    @impl(vector.MaskedStoreOp)
    def run_masked_store(
        self, interpreter: Interpreter, op: vector.MaskedStoreOp, args: PythonValues
    ) -> PythonValues:
        buffer, *indices, mask, values = args
        buffer.data[_touched(buffer, indices, mask)] = values[mask]
        return ()

    @impl(vector.BroadcastOp)
    def run_broadcast(
        self, interpreter: Interpreter, op: vector.BroadcastOp, args: PythonValues
    ) -> PythonValues:
        source = args[0]
        shape = _vector_shape(op.vector.type)
        return (np.array(np.broadcast_to(source, shape), dtype_of(op.vector.type.element_type)),)

    @impl(vector.FMAOp)
    def run_fma(
        self, interpreter: Interpreter, op: vector.FMAOp, args: PythonValues
    ) -> PythonValues:
        lhs, rhs, acc = args
        return (fma(acc, lhs, rhs),)

    @impl(vector.ShuffleOp)
    def run_shuffle(
        self, interpreter: Interpreter, op: vector.ShuffleOp, args: PythonValues
    ) -> PythonValues:
        mask = self._masks.get(op)
        if mask is None:
            mask = self._masks[op] = _shuffle_mask(op)
        return (np.concatenate(args)[mask],)

    @impl(vector.BitcastOp)
    def run_bitcast(
        self, interpreter: Interpreter, op: vector.BitcastOp, args: PythonValues
    ) -> PythonValues:
        return (args[0].view(dtype_of(_vector_type(op.result.type).get_element_type())),)

    @impl(vector.ExtractOp)
    def run_extract(
        self, interpreter: Interpreter, op: vector.ExtractOp, args: PythonValues
    ) -> PythonValues:
        values, *dynamic = args
        return (_scalar(values[_mixed(op.static_position, dynamic)]),)

    @impl(vector.InsertOp)
    def run_insert(
        self, interpreter: Interpreter, op: vector.InsertOp, args: PythonValues
    ) -> PythonValues:
        value, values, *dynamic = args
        result = values.copy()
        result[_mixed(op.static_position, dynamic)] = value
        return (result,)

    @impl(vector.CreateMaskOp)
    def run_create_mask(
        self, interpreter: Interpreter, op: vector.CreateMaskOp, args: PythonValues
    ) -> PythonValues:
        (lanes,), (active,) = _vector_shape(op.mask_vector.type), args
        return (np.arange(lanes) < active,)

    @impl(vector.ReductionOp)
    def run_reduction(
        self, interpreter: Interpreter, op: vector.ReductionOp, args: PythonValues
    ) -> PythonValues:
        kind = op.kind.data.value
        if kind != "add":
            raise InterpretationError(f"a reduction by '{kind}' can't be executed")
        values, *start = args
        if FastMathFlag.REASSOC in op.fastmath.data:
            total = sum(start, _pairwise_sum(values))
        else:
            # Without leave to reassociate, lanes are added in order, after the accumulator.
            total = reduce(lambda total, lane: total + lane, [*start, *values])
        return (_scalar(values.dtype.type(total)),)

    def _lanes_of(self, op: Operation, type_: Attribute) -> int:
        lanes = self._lanes.get(op)
        if lanes is None:
            (lanes,) = _vector_shape(type_)
            self._lanes[op] = lanes
        return lanes


def _check_view(source: Buffer, shift: int, size: int) -> None:
    """A view lies inside of the bytes that it is taken of."""
    available = prod(source.shape)
    if shift < 0 or shift + size > available:
        raise InterpretationError(f"{size} bytes from {shift} are outside of {available} bytes")


def _touched(buffer: Buffer, indices: Sequence[int], mask: Array) -> Array:
    """Positions of the active lanes; raises `InterpretationError` outside of the allocation."""
    positions = buffer.address(indices) + np.flatnonzero(mask)
    if positions.size and not 0 <= positions[0] <= positions[-1] < len(buffer.data):
        raise InterpretationError(
            f"elements {positions[0]} to {positions[-1]} are outside of an allocation of "
            f"{len(buffer.data)}"
        )
    return positions


def _shuffle_mask(op: vector.ShuffleOp) -> Array:
    mask = np.array(op.mask.get_values())
    if (mask < 0).any():
        raise InterpretationError("a shuffle with undefined lanes can't be executed")
    return mask


def _pairwise_sum(values: Array) -> Any:
    """Lanes added in halves, as log2(lanes) shuffles do."""
    while len(values) > 1:
        if len(values) % 2:
            values = np.append(values, values.dtype.type(0))
        values = values[: len(values) // 2] + values[len(values) // 2 :]
    return values[0]
