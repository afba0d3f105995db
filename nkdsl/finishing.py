"""What `nkdsl.matmul` does with each sum before it is stored: an epilogue, as MLIR text.

A `Finishing` says which of the steps there are, not with which numbers: it is part of what a kernel
is compiled for. The steps, in this order, on the sum of one element's products:

| step | on sums of floats | on sums of integers |
|---|---|---|
| bias | below | of integers: added to the sum |
| conversion | | to f32 |
| scale | times a number, or one a column | the same |
| bias | plus a number a column | of floats: the same |
| residual | plus an element of a matrix | the same |
| activation | one of `ACTIVATIONS` | the same |
| result | rounded to the float; to an integer below | likewise |

Results that are integers are rounded to the nearest one, halves to the even one; the zero point is
added; what lies outside of the type becomes its least or largest number, and NaN the least. An
integer sum that nothing is done to but a bias of integers and relu stays an integer.

```mlir
// Finishing(bias="f32", activation="relu") for bf16, as the region of a nanokernel.gemm
epilogue(%bias[n] : memref<?xf32>) {
^bb0(%sum: f32, %bias_n: f32):
  %v0 = arith.addf %sum, %bias_n : f32
  %v1 = arith.constant 0.0 : f32
  %v2 = arith.maximumf %v0, %v1 : f32
  %v3 = arith.truncf %v2 : f32 to bf16
  nanokernel.yield %v3 : bf16
}
```

Imports: `nkdsl.types` only.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from nkdsl.types import ElementType, element_type

__all__ = ["ACTIVATIONS", "RESULTS", "Finishing", "limits"]

RESULTS = {
    "f32": ("f32", "bf16", "f16", "s8", "u8", "s32"),
    "f64": ("f64", "f32", "s8", "u8", "s32"),
    "s32": ("s32", "f32", "bf16", "f16", "s8", "u8"),
}
"""What sums of a type can be stored as."""


class Operand(NamedTuple):
    """An argument of the kernel that its epilogue takes."""

    name: str
    type: str
    """The name of its elements' type, or of its own."""
    place: str
    """The iterators that index it; empty for a number."""


class Finishing(NamedTuple):
    """Which steps there are between a sum and the element that is stored."""

    bias: str = ""
    """The name of its elements' type: s32 for one that is added to integer sums."""
    scale: str = ""
    """`number`, `columns` for one number each, or nothing."""
    residual: str = ""
    """The name of its elements' type."""
    activation: str = ""
    """One of `ACTIVATIONS`."""
    zero_point: bool = False
    """Whether a number is added to results that are integers."""
    transposed: bool = False
    """Whether the kernel computes the transpose, whose rows are the columns."""

    def operands(self, sums: ElementType, out: ElementType, batch: str) -> list[Operand]:
        """What the kernel takes after the result, in this order.

        Args:
            sums: the type of the sums.
            out: the type of the result.
            batch: the iterators of its batch, as in `b, `.
        """
        column = "m" if self.transposed else "n"
        wide = _arithmetic(sums).name
        found = []
        if self.residual:
            found.append(Operand("residual", self.residual, f"{batch}m, n"))
        if self.bias:
            found.append(Operand("bias", self.bias, column))
        if self.scale:
            found.append(Operand("scale", wide, column if self.scale == "columns" else ""))
        if self.zero_point:
            found.append(Operand("zero_point", _rounding(sums, out).name, ""))
        return found

    def arguments(self, sums: ElementType, out: ElementType, batch: str) -> str:
        """The arguments of the function that hold the operands, after others."""
        return "".join(
            f", %{operand.name}: {_type(operand)}" for operand in self.operands(sums, out, batch)
        )

    def region(self, sums: ElementType, out: ElementType, batch: str) -> str:
        """The epilogue of the product."""
        elements = [o for o in self.operands(sums, out, batch) if o.place]
        accesses = ", ".join(f"%{o.name}[{o.place}]" for o in elements)
        types = ", ".join(map(_type, elements))
        arguments = [f"%sum: {sums.mlir}"]
        arguments += [f"%{o.name}_at: {element_type(o.type).mlir}" for o in elements]
        body = _Body()
        result = self._finished(body, sums, out)
        lines = "\n".join(f"    {line}" for line in body.lines)
        return (
            f"epilogue{f'({accesses} : {types})' if elements else ''} {{\n"
            f"  ^bb0({', '.join(arguments)}):\n{lines}\n"
            f"    nanokernel.yield {result} : {out.mlir}\n  }}"
        )

    def _finished(self, body: "_Body", sums: ElementType, out: ElementType) -> str:
        """The element that is stored, of the value `%sum`."""
        value = "%sum"
        if self.bias == "s32":
            value = body.let(f"arith.addi {value}, %bias_at : i32")
        if self._stays_integer(sums, out):
            if self.activation:
                zero = body.let("arith.constant 0 : i32")
                value = body.let(f"arith.maxsi {value}, {zero} : i32")
            return value
        wide = _arithmetic(sums)
        if sums.is_integer:
            value = body.let(f"arith.sitofp {value} : i32 to {wide.name}")
        t = body.type = wide.name
        if self.scale:
            value = body.mul(value, "%scale_at" if self.scale == "columns" else "%scale")
        if self.bias and self.bias != "s32":
            value = body.add(value, "%bias_at")
        if self.residual:
            other = "%residual_at"
            if self.residual != t:
                other = body.let(f"arith.extf {other} : {self.residual} to {t}")
            value = body.add(value, other)
        if self.activation:
            value = ACTIVATIONS[self.activation](body, value)
        if out.is_integer:
            return self._rounded(body, value, _rounding(sums, out), out)
        return value if out.name == t else body.let(f"arith.truncf {value} : {t} to {out.name}")

    def _stays_integer(self, sums: ElementType, out: ElementType) -> bool:
        return (
            sums == out
            and out.is_integer
            and not (self.scale or self.residual or self.zero_point)
            and self.bias in ("", "s32")
            and self.activation in ("", "relu")
        )

    def _rounded(self, body: "_Body", value: str, wide: ElementType, out: ElementType) -> str:
        """A float as an integer of the result's type, computed in a type that holds all of them."""
        if wide.name != body.type:
            value = body.let(f"arith.extf {value} : {body.type} to {wide.name}")
            body.type = wide.name
        value = body.let(f"math.roundeven {value} : {wide.name}")
        if self.zero_point:
            value = body.add(value, "%zero_point")
        least, most = limits(out)
        # A comparison with NaN is false, and chooses the limit.
        value = body.choose("ogt", value, body.constant(least))
        value = body.choose("olt", value, body.constant(most))
        conversion = "fptoui" if out.is_unsigned else "fptosi"
        return body.let(f"arith.{conversion} {value} : {wide.name} to {out.mlir}")


def limits(integers: ElementType) -> tuple[int, int]:
    """The least and the largest number of a type."""
    count = 2 ** (8 * integers.size)
    return (0, count - 1) if integers.is_unsigned else (-count // 2, count // 2 - 1)


def _arithmetic(sums: ElementType) -> ElementType:
    """The type that sums are finished in."""
    return element_type("f32") if sums.is_integer else sums


def _rounding(sums: ElementType, out: ElementType) -> ElementType:
    """The type that results are rounded in, which holds every number of theirs."""
    return element_type("f64") if out.name == "s32" else _arithmetic(sums)


def _type(operand: Operand) -> str:
    """The type of a function's argument, in MLIR."""
    element = element_type(operand.type).mlir
    rank = len(operand.place.split(", ")) if operand.place else 0
    if rank == 0:
        return str(element)
    layout = f", strided<[{'?, ' * (rank - 1)}1]>" if rank > 1 else ""
    return f"memref<{'?x' * rank}{element}{layout}>"


# ------------------------------------------------------------------------------------ writing it


class _Body:
    """The lines of a region in the making."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.type = "f32"
        """The type of the floats at work."""

    def let(self, text: str) -> str:
        """A new value."""
        name = f"%v{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return name

    def constant(self, number: float) -> str:
        return self.let(f"arith.constant {float(number)!r} : {self.type}")

    def add(self, a: str, b: str) -> str:
        return self.let(f"arith.addf {a}, {b} : {self.type}")

    def mul(self, a: str, b: str) -> str:
        return self.let(f"arith.mulf {a}, {b} : {self.type}")

    def call(self, function: str, x: str) -> str:
        return self.let(f"math.{function} {x} : {self.type}")

    def choose(self, predicate: str, a: str, b: str) -> str:
        """The first one if the two compare so, or else the second one."""
        chosen = self.let(f"arith.cmpf {predicate}, {a}, {b} : {self.type}")
        return self.let(f"arith.select {chosen}, {a}, {b} : {self.type}")

    def logistic(self, numerator: str, exponent: str) -> str:
        """`numerator / (1 + exp(exponent))`, which `expand-math` knows as a whole."""
        below = self.add(self.constant(1.0), self.call("exp", exponent))
        return self.let(f"arith.divf {numerator}, {below} : {self.type}")


def _relu(body: _Body, x: str) -> str:
    return body.let(f"arith.maximumf {x}, {body.constant(0.0)} : {body.type}")


def _gelu(body: _Body, x: str) -> str:
    """x/2 · (1 + erf(x/√2))."""
    function = body.call("erf", body.mul(x, body.constant(math.sqrt(0.5))))
    return body.mul(body.mul(x, body.constant(0.5)), body.add(function, body.constant(1.0)))


def _gelu_tanh(body: _Body, x: str) -> str:
    """x/2 · (1 + tanh(u)) = x / (1 + exp(-2u)) with u = √(2/π) · (x + 0.044715 x³)."""
    rate = -2 * math.sqrt(2 / math.pi)
    square = body.mul(x, x)
    slope = body.let(
        f"math.fma {square}, {body.constant(0.044715 * rate)}, {body.constant(rate)} : {body.type}"
    )
    return body.logistic(x, body.mul(slope, x))


def _sigmoid(body: _Body, x: str) -> str:
    return body.logistic(body.constant(1.0), body.let(f"arith.negf {x} : {body.type}"))


def _silu(body: _Body, x: str) -> str:
    return body.logistic(x, body.let(f"arith.negf {x} : {body.type}"))


def _tanh(body: _Body, x: str) -> str:
    return body.call("tanh", x)


ACTIVATIONS: dict[str, Callable[[_Body, str], str]] = {
    "relu": _relu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "sigmoid": _sigmoid,
    "silu": _silu,
    "tanh": _tanh,
}
"""The activations, each written for a value: relu is max(x, 0), gelu x/2 · (1 + erf(x/√2)),
gelu_tanh the same with tanh(√(2/π) (x + 0.044715 x³)) for erf, sigmoid 1/(1 + exp(-x)), and silu
x · sigmoid(x)."""
