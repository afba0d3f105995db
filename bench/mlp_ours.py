"""The door from `bench mlp` to the compiler: a network as text in, contender out.

Every layer is one product with an epilogue, and what hidden layers give lies in arguments:

    func.func @kernel(%x: memref<256x1024xbf16>, %w0: memref<1024x1024xbf16>,
                      %b0: memref<1024xf32>, %h0: memref<256x1024xbf16>, %w1: …) {
      nanokernel.gemm ins(%x[m, k], %w0[k, n] : …) outs(%h0[m, n] : …) from zero
        epilogue(%b0[n] : memref<1024xf32>) {
      ^bb0(%sum: f32, %b: f32):
        %biased = arith.addf %sum, %b : f32
        %zero = arith.constant 0.0 : f32
        %act = arith.maximumf %biased, %zero : f32
        %out = arith.truncf %act : f32 to bf16
        nanokernel.yield %out : bf16
      }
      …

Where weights may be laid out beforehand, it is the same function, all of whose weights are packed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from nkdsl.bench.gemm_ours import bound, compile_text, failures
from nkdsl.bench.gemm_sets import PACKED
from nkdsl.bench.mlp_problem import SCALE, Mlp, MlpOperands, limits
from nkdsl.bench.ours import gemm_op, memref
from nkdsl.bench.peers.base import Availability
from nkdsl.bench.peers.engine import Made
from nkdsl.bench.problem import Array, Types, product_types
from nkdsl.types import element_type

ENGINE = "mlp-ours"


class MlpOursEngine:
    """This compiler."""

    def __init__(self, target: str, threads: int) -> None:
        """Compile for a target and a number of threads."""
        self._target, self._threads = target, threads

    def availability(self) -> Availability:
        """Always here."""
        return Availability(True, f"for {self._target}")

    def make(self, operands: MlpOperands, contract: str) -> Made:
        """A kernel on operands.

        Raises:
            Unable: the compiler refuses or fails.
        """
        with failures():
            text = mlir_text(operands.row, operands.types.name)
            kernel = compile_text(text, self._target, self._threads)
            if contract == PACKED:
                return packed(kernel, operands)
        pointers = tuple(array.ctypes.data for array in arguments(operands))
        return Made(bound(kernel, pointers, operands.row.flops, operands))


def packed(kernel: Any, operands: MlpOperands) -> Made:
    """The kernel that reads every weight packed."""
    pack = importlib.import_module("nkdsl").pack
    weights = {f"w{number}": weight for number, weight in enumerate(operands.weights)}
    made = {name: pack(weight, like=kernel, argument=name) for name, weight in weights.items()}
    reader = kernel.packed(*made.values(), arguments=tuple(made))
    pointers = tuple(
        made[parameter.name].address if parameter.name in made else array.ctypes.data
        for parameter, array in zip(reader.signature.parameters, arguments(operands), strict=True)
    )
    contender = bound(reader, pointers, operands.row.flops, operands, *made.values())
    plans = "; ".join(dict.fromkeys(reader.plans))
    return Made(replace(contender, detail=f"weights packed: {plans}"))


def arguments(operands: MlpOperands) -> Iterator[Array]:
    """The arrays in the order of the function's arguments."""
    yield operands.x
    results = (*operands.hidden, operands.c)
    for number, (weight, result) in enumerate(zip(operands.weights, results, strict=True)):
        yield weight
        yield from operands.biases[number : number + 1]
        yield result


def mlir_text(row: Mlp, dtype: str) -> str:
    """The network as a module with one function `@kernel(%x, %w0, %b0, %h0, %w1, …)`."""
    types = product_types(dtype)
    biased = row.activation != "none"
    bias_type = element_type("f32") if types.lhs.is_integer else types.sums
    parameters = [f"%x: {memref((row.batch, row.widths[0]), types.lhs)}"]
    ops: list[str] = []
    source = "%x"
    for number, (inputs, outputs) in enumerate(row.layers):
        memrefs = (
            memref((row.batch, inputs), types.lhs),
            memref((inputs, outputs), types.rhs),
            memref((row.batch, outputs), types.lhs),
        )
        bias = memref((outputs,), bias_type)
        names = (source, f"%w{number}", f"%h{number}")
        parameters.append(f"%w{number}: {memrefs[1]}")
        parameters += [f"%b{number}: {bias}"] if biased else []
        parameters.append(f"%h{number}: {memrefs[2]}")
        op = f"{gemm_op(types, ('m, k', 'k, n'), memrefs, names)} from zero"
        if body := _epilogue(types, biased):
            operand = f"(%b{number}[n] : {bias})" if biased else ""
            argument = f", %b: {bias_type.mlir}" if biased else ""
            op += f" epilogue{operand} {{\n  ^bb0(%sum: {types.sums.mlir}{argument}):\n"
            op += "".join(f"    {line}\n" for line in body) + "  }"
        ops.append(f"  {op}\n")
        source = f"%h{number}"
    return f"func.func @kernel({', '.join(parameters)}) {{\n{''.join(ops)}  return\n}}\n"


def _epilogue(types: Types, biased: bool) -> list[str]:
    """What is done to a sum; nothing for bare products that are stored as they are."""
    stored, sums = types.lhs, types.sums
    lines: list[str] = []
    value, type_ = "%sum", str(sums.mlir)
    if stored.is_integer:
        type_ = "f32"
        lines += [
            f"%float = arith.sitofp %sum : {sums.mlir} to f32",
            f"%scale = arith.constant {SCALE!r} : f32",
            "%scaled = arith.mulf %float, %scale : f32",
        ]
        value = "%scaled"
    if biased:
        lines += [
            f"%biased = arith.addf {value}, %b : {type_}",
            f"%zero = arith.constant 0.0 : {type_}",
            f"%act = arith.maximumf %biased, %zero : {type_}",
        ]
        value = "%act"
    if stored.is_integer:
        low, high = limits(stored)
        convert = "fptoui" if stored.is_unsigned else "fptosi"
        lines += [
            f"%low = arith.constant {low!r} : f32",
            f"%high = arith.constant {high!r} : f32",
            f"%above = arith.maximumf {value}, %low : f32",
            "%within = arith.minimumf %above, %high : f32",
            "%whole = math.roundeven %within : f32",
            f"%out = arith.{convert} %whole : f32 to {stored.mlir}",
        ]
        value = "%out"
    elif stored != sums:
        lines.append(f"%out = arith.truncf {value} : {type_} to {stored.mlir}")
        value = "%out"
    return [*lines, f"nanokernel.yield {value} : {stored.mlir}"] if lines else []
