"""A network of fully connected layers, its operands, and when its answer is right.

One layer is h' = act(h·W + b), on row-major h (batch × inputs) and W (inputs × outputs), with one b
for each output; all layers of an `Mlp` are alike. `act` is `relu` after the bias, or nothing at all
(`none`: bare products). In f32 and bf16 everything but sums, and b in bf16, is of that type. In 8
bits a layer adds up integers, and its result is scaled, rounded to even and clamped to the range of
h, s8 or u8 (W is s8 always):

    h' = clamp(round(act(SCALE·(h·W) + b)), -128, 127)    or 0 and 255

There SCALE is a power of two and b holds multiples of a smaller one, so that every step but the
rounding is exact in f32, and so must the answer be. In floats the answer is held against one in
double precision whose hidden results are rounded as they are stored. What rounding may do to them
grows from layer to layer far less than can be proven, so this is a tolerance and no bound:

    |y - ref| <= 8·layers·(u + sqrt(K)·u_sums)·(rms(ref) + |ref|)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from nkdsl.bench.gemm_problem import UNTOUCHED
from nkdsl.bench.memory import reserve
from nkdsl.bench.problem import ALIGNMENT, Array, Types, any_integers, product_types
from nkdsl.types import ElementType, element_type

ACTIVATIONS = ("relu", "none")
SCALE = 2.0**-11
"""Keeps results of layers with about a thousand inputs in the range of 8 bits, but for a few."""
BIAS_STEP = 2.0**-6
SLACK = 8
F32 = element_type("f32")


@dataclass(frozen=True)
class Mlp:
    """The shape of a network."""

    batch: int
    widths: tuple[int, ...]
    """Of the input, of what each hidden layer gives, and of the output."""
    activation: str = "relu"

    def __post_init__(self) -> None:
        """Refuse what is no network."""
        if self.batch < 1 or len(self.widths) < 2 or min(self.widths) < 1:
            raise ValueError(f"{self.name}: a network has rows, inputs and outputs")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"{self.activation!r}: known are {', '.join(ACTIVATIONS)}")

    @property
    def name(self) -> str:
        """As it is written on the command line: 256:1024x1024x1024:relu."""
        return f"{self.batch}:{'x'.join(str(width) for width in self.widths)}:{self.activation}"

    @property
    def m(self) -> int:
        """Rows of every product."""
        return self.batch

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of each layer."""
        return tuple(pairwise(self.widths))

    @property
    def flops(self) -> int:
        """Multiplications and additions of the products."""
        return sum(2 * self.batch * inputs * outputs for inputs, outputs in self.layers)


_MLP = re.compile(r"(\d+):(\d+(?:[x×]\d+)+)(?::(\w+))?")


def parse_mlp(text: str) -> Mlp:
    """Read a network's name: its batch, its widths, and the activation, `relu` where none is named.

    Raises:
        ValueError: the text is none.
    """
    match = _MLP.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no network: write BATCH:WIDTHxWIDTHx…, as 256:1024x1024")
    widths = tuple(int(width) for width in re.split("[x×]", match[2]))
    return Mlp(int(match[1]), widths, match[3] or "relu")


@dataclass(frozen=True, eq=False)
class MlpOperands:
    """A network in memory; made by `make_mlp`."""

    row: Mlp
    types: Types
    """Of h, W and h'."""
    x: Array
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    """In f32, or f64; empty without activation."""
    hidden: tuple[Array, ...]
    """What the layers but the last give."""
    c: Array
    """What the last layer gives."""
    pristine: tuple[Array, ...] = field(repr=False)
    """Copies of x, weights and biases."""

    @property
    def inputs(self) -> tuple[Array, ...]:
        """What is only read."""
        return (self.x, *self.weights, *self.biases)

    def spoil(self) -> None:
        """Fill everything that is computed with what no network gives, as far as types can."""
        for array in (*self.hidden, self.c):
            array.fill(UNTOUCHED & 0x7F if self.types.lhs.is_integer else np.nan)


def make_mlp(row: Mlp, types: Types, seed: int = 0) -> MlpOperands:
    """Allocate and fill a network; equal arguments give equal numbers."""
    random = np.random.default_rng(seed)
    stored = types.lhs
    x = reserved((row.batch, row.widths[0]), stored)
    weights = tuple(reserved(layer, types.rhs) for layer in row.layers)
    biased = row.activation != "none"
    sums = F32 if stored.is_integer else types.sums
    biases = tuple(reserved((outputs,), sums) for _, outputs in row.layers if biased)
    if stored.is_integer:
        for array in (x, *weights):
            array[...] = any_integers(random, array.shape, stored)
        for bias in biases:
            bias[...] = BIAS_STEP * random.integers(-500, 500, bias.shape)
    else:
        x[...] = random.standard_normal(x.shape)
        for weight in weights:
            weight[...] = random.standard_normal(weight.shape) * np.sqrt(2 / weight.shape[0])
        for bias in biases:
            # Peers hold biases in the type of the factors, so they are numbers of that.
            bias[...] = (random.standard_normal(bias.shape) / 8).astype(stored.dtype)
    *hidden, c = (reserved((row.batch, outputs), stored) for _, outputs in row.layers)
    pristine = tuple(array.copy() for array in (x, *weights, *biases))
    operands = MlpOperands(row, types, x, weights, biases, tuple(hidden), c, pristine)
    operands.spoil()
    return operands


def mlp_operands(name: str, dtype: str) -> MlpOperands:
    """A network by its name and its types'."""
    types = product_types(dtype)
    return make_mlp(parse_mlp(name), types)


def limits(element: ElementType) -> tuple[float, float]:
    """The least and the largest number of a type."""
    if not element.is_integer:
        return -np.inf, np.inf
    range_ = np.iinfo(element.dtype)  # type: ignore[type-var]
    return float(range_.min), float(range_.max)


def reserved(shape: tuple[int, ...], element: ElementType) -> Array:
    """Zeros on huge pages, from one cache line behind the start of a page."""
    size = int(np.prod(shape)) * element.size
    memory = reserve(size + ALIGNMENT)[ALIGNMENT:]
    return memory.view(element.dtype).reshape(shape)


def mlp_fault(operands: MlpOperands, *, thorough: bool) -> str | None:
    """Say what is wrong with the answer of a call.

    Args:
        operands: with the answer in `c`.
        thorough: look at the inputs as well, whether they are what they were.
    """
    pairs = zip(operands.inputs, operands.pristine, strict=True)
    if thorough and any((have != was).any() for have, was in pairs):
        return "wrong: an input was written"
    expected = reference(operands)
    got = operands.c.astype(np.float64)
    bad = ~(np.abs(got - expected) <= _tolerance(operands, expected))
    if not bad.any():
        return None
    i, j = (int(x) for x in np.argwhere(bad)[0])
    return (
        f"wrong: {int(bad.sum())} of {bad.size} elements are off, "
        f"one is {got[i, j]:.9g} instead of {expected[i, j]:.9g}"
    )


def reference(operands: MlpOperands) -> Array:
    """The answer in double precision."""
    stored = operands.types.lhs
    h: Array = operands.x.astype(np.float64)
    biases = operands.biases or (None,) * len(operands.weights)
    for weight, bias in zip(operands.weights, biases, strict=True):
        h = h @ weight.astype(np.float64)
        h = h * SCALE if stored.is_integer else h
        h = h if bias is None else np.maximum(h + bias, 0)
        h = np.clip(np.rint(h), *limits(stored)) if stored.is_integer else _rounded(h, stored)
    return h


def _rounded(array: Array, element: ElementType) -> Array:
    return array.astype(element.dtype).astype(np.float64)


def _tolerance(operands: MlpOperands, expected: Array) -> Array:
    """How far an element may be off."""
    stored, layers = operands.types.lhs, operands.row.layers
    if stored.is_integer:
        return np.zeros_like(expected)
    depth = max(inputs for inputs, _ in layers)
    unit = stored.unit_roundoff + np.sqrt(depth) * operands.types.sums.unit_roundoff
    scale = np.sqrt(np.mean(expected**2)) + np.abs(expected)
    tolerance: Array = SLACK * len(layers) * unit * scale
    return tolerance
