"""Execution of `nkvector`: one value is one register, an array of its lanes.

Loads and stores are checked against the allocation; lanes beyond `active` are not touched. What a
`dot` computes is asked of the target's table, as its instruction says.
"""

from typing import NamedTuple

import numpy as np
from xdsl.interpreter import (
    Interpreter,
    InterpreterFunctions,
    PythonValues,
    impl,
    register_impls,
)
from xdsl.ir import Operation
from xdsl.utils.exceptions import InterpretationError

from nkdsl.dialects import nkvector
from nkdsl.interpreters.buffer import Array, Buffer
from nkdsl.interpreters.instructions import Instructions, as_element
from nkdsl.targets.semantics import fma

_Access = nkvector.LoadOp | nkvector.BroadcastLoadOp | nkvector.StoreOp


class _Decoded(NamedTuple):
    """What a memory operation says, read from its attributes once."""

    lanes: int
    masked: bool
    offsets: tuple[int, ...]
    group: int
    """Elements that are loaded, and repeated, by a broadcast."""


@register_impls
class NkVectorFunctions(InterpreterFunctions):
    """The rules of `nkvector`."""

    def __init__(self) -> None:
        self._decoded: dict[Operation, _Decoded] = {}
        self._masks: dict[Operation, Array] = {}
        self._instructions = Instructions()

    @impl(nkvector.LoadOp)
    def run_load(
        self, interpreter: Interpreter, op: nkvector.LoadOp, args: PythonValues
    ) -> PythonValues:
        lanes, masked, offsets, _ = self._decode(op)
        if not masked:
            buffer, *indices = args
            return (buffer.load(_shifted(indices, offsets), lanes),)
        active, buffer, *indices = args
        register = np.zeros(lanes, buffer.data.dtype)
        count = _active(active, lanes)
        register[:count] = buffer.load(_shifted(indices, offsets), count)
        return (register,)

    @impl(nkvector.BroadcastLoadOp)
    def run_broadcast_load(
        self, interpreter: Interpreter, op: nkvector.BroadcastLoadOp, args: PythonValues
    ) -> PythonValues:
        lanes, masked, offsets, group = self._decode(op)
        active, args = (_active(args[0], group), args[1:]) if masked else (group, args)
        buffer: Buffer = args[0]
        indices = _shifted(args[1:], offsets)
        elements = np.zeros(group, buffer.data.dtype)
        if active:
            # The first one at least is an element of the memref; a register may reach beyond.
            buffer.element(indices)
            elements[:active] = buffer.load(indices, active)
        return (np.tile(elements, lanes // group),)

    @impl(nkvector.StoreOp)
    def run_store(
        self, interpreter: Interpreter, op: nkvector.StoreOp, args: PythonValues
    ) -> PythonValues:
        lanes, masked, offsets, _ = self._decode(op)
        if not masked:
            vector, buffer, *indices = args
            buffer.store(_shifted(indices, offsets), vector)
            return ()
        vector, active, buffer, *indices = args
        buffer.store(_shifted(indices, offsets), vector[: _active(active, lanes)])
        return ()

    @impl(nkvector.FenceOp)
    def run_fence(
        self, interpreter: Interpreter, op: nkvector.FenceOp, args: PythonValues
    ) -> PythonValues:
        return ()

    @impl(nkvector.PrefetchOp)
    def run_prefetch(
        self, interpreter: Interpreter, op: nkvector.PrefetchOp, args: PythonValues
    ) -> PythonValues:
        return ()

    @impl(nkvector.FmaOp)
    def run_fma(
        self, interpreter: Interpreter, op: nkvector.FmaOp, args: PythonValues
    ) -> PythonValues:
        lhs, rhs, acc = args
        return (fma(acc, lhs, rhs),)

    @impl(nkvector.DotOp)
    def run_dot(
        self, interpreter: Interpreter, op: nkvector.DotOp, args: PythonValues
    ) -> PythonValues:
        lhs, rhs, acc = args
        instruction = self._instructions.of(op, op.instruction.data)
        if not instruction.widened:
            names = instruction.operands
            lhs, rhs = (as_element(f, n) for f, n in zip((lhs, rhs), names, strict=True))
        if instruction.k > 1:
            lhs, rhs = (factor.reshape(-1, instruction.k) for factor in (lhs, rhs))
        return (instruction.semantics(acc, lhs, rhs),)

    @impl(nkvector.ShuffleOp)
    def run_shuffle(
        self, interpreter: Interpreter, op: nkvector.ShuffleOp, args: PythonValues
    ) -> PythonValues:
        mask = self._masks.get(op)
        if mask is None:
            mask = self._masks[op] = np.array(op.lanes)
        return (np.concatenate(args)[mask],)

    def _decode(self, op: _Access) -> _Decoded:
        found = self._decoded.get(op)
        if found is None:
            vector = op.vector if isinstance(op, nkvector.StoreOp) else op.result
            group = op.count if isinstance(op, nkvector.BroadcastLoadOp) else 1
            lanes = nkvector.vector_lanes(vector.type)
            found = _Decoded(lanes, op.active is not None, op.constant_offsets, group)
            self._decoded[op] = found
        return found


def _shifted(indices: PythonValues | list[int], offsets: tuple[int, ...]) -> list[int]:
    return [index + offset for index, offset in zip(indices, offsets, strict=True)]


def _active(active: int, lanes: int) -> int:
    """The number of active lanes; more than there are means all."""
    if active < 0:
        raise InterpretationError(f"{active} lanes can't be active")
    return min(active, lanes)
