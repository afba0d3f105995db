"""Networks around libxsmm: tiles of weights and activations, a batch-reduce kernel for each block.

This is how libraries of fully connected layers use libxsmm (Georganas et al., "High-Performance
Deep Learning via a Single Building Block", arXiv 1906.06440): everything lies in tiles of 32 or 64,
a layer is a loop over the tiles of what it gives, one kernel adds up all the products of such a
tile, and bias and relu follow while the tile is in the nearest cache. The loop is in
`libxsmm_layers.c`, which a call enters once.

Weights are laid out beforehand, so this takes part in rows of packed weights alone. Its input and
its output are plain: they are blocked and unblocked within a call. Of the kernels with and without
a hint at the number of products, and of both orders of the tiles, the fastest one that is right is
timed.

libxsmm multiplies u8 by s8. Activations of s8 are kept as u8, larger by 128, and 128 times the sum
of each column of weights, known beforehand, is subtracted from the sums.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from nkdsl.bench.gemm_sets import PACKED
from nkdsl.bench.mlp_problem import SCALE, MlpOperands, limits, mlp_fault, reserved
from nkdsl.bench.peers.base import Availability, Unable
from nkdsl.bench.peers.compiled import shared_library
from nkdsl.bench.peers.engine import Made
from nkdsl.bench.peers.libxsmm import HOW_TO_GET, WithLibxsmm
from nkdsl.bench.peers.libxsmm_forms import Call, Work
from nkdsl.bench.problem import Array, Types, pack, product_types
from nkdsl.bench.timing import NativeContender, fastest
from nkdsl.types import element_type

TILES = (32, 64)
SOURCE = Path(__file__).with_name("libxsmm_layers.c")
OPTIONS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-lm")
"""The first four let the compiler use this CPU's vectors in every loop over a tile's row."""

ELEMENTS = {"f32": 0, "bf16": 1, "u8s8": 2, "s8s8": 2}
"""The numbers in `libxsmm_layers.c` of what activations are, by the types of a network."""
SHIFT = 128
"""By how much s8 is less than the u8 that it is kept as."""
S8, S32, F32 = (element_type(name) for name in ("s8", "s32", "f32"))


class _Layer(ctypes.Structure):
    """`Layer` in `libxsmm_layers.c`."""

    _fields_ = [
        ("kernel", ctypes.c_void_p),
        ("inputs", ctypes.c_uint64),
        ("outputs", ctypes.c_uint64),
        ("weights", ctypes.c_void_p),
        ("weights_step", ctypes.c_uint64),
        ("source", ctypes.c_void_p),
        ("source_step", ctypes.c_uint64),
        ("target", ctypes.c_void_p),
        ("down_step", ctypes.c_uint64),
        ("right_step", ctypes.c_uint64),
        ("row_step", ctypes.c_uint64),
        ("bias", ctypes.c_void_p),
        ("offset", ctypes.c_void_p),
        ("shift", ctypes.c_int64),
    ]


class _Network(ctypes.Structure):
    """`Network` there."""

    _fields_ = [
        ("layers", ctypes.c_void_p),
        ("depth", ctypes.c_uint64),
        ("rows", ctypes.c_uint64),
        ("tile", ctypes.c_uint64),
        ("element", ctypes.c_uint64),
        ("one_structure", ctypes.c_uint64),
        ("rows_outside", ctypes.c_uint64),
        ("input", ctypes.c_void_p),
        ("blocked", ctypes.c_void_p),
        ("input_columns", ctypes.c_uint64),
        ("tile_bytes", ctypes.c_uint64),
        ("flip", ctypes.c_uint64),
        ("scale", ctypes.c_float),
        ("floor", ctypes.c_float),
        ("ceiling", ctypes.c_float),
    ]


@dataclass(frozen=True, eq=False)
class Tiled:
    """A network in tiles; made by `tiled`."""

    operands: MlpOperands
    tile: int
    weights: tuple[Array, ...]
    """Each [outputs / t][inputs / t][t / v][t][v]."""
    biases: tuple[Array, ...]
    """Of f32, zeros where the network has none."""
    offsets: tuple[Array, ...]
    """What the sums of each column are too large by; of 8-bit integers only."""
    activations: tuple[Array, ...]
    """Where the input of each layer lies in blocks."""

    @property
    def types(self) -> Types:
        """Those that libxsmm multiplies."""
        types = self.operands.types
        return product_types("u8s8") if types.lhs.is_integer else types

    @property
    def keeps_larger(self) -> bool:
        """Whether activations are kept as numbers larger by `SHIFT`."""
        return self.operands.types.lhs == S8

    def spoil(self) -> None:
        """Fill everything that is computed with what no network gives, as far as types can."""
        self.operands.spoil()
        for array in self.activations:
            array.fill(self.operands.c[0, 0])


def tiled(operands: MlpOperands, tile: int) -> Tiled:
    """Lay a network out, all but its input.

    Raises:
        Unable: tiles divide not all of its sizes.
    """
    row, types = operands.row, operands.types
    odd = [size for size in (row.batch, *row.widths) if size % tile]
    if odd:
        raise Unable(f"tiles of {tile} do not divide {', '.join(str(size) for size in odd)}")
    widths = [outputs for _, outputs in row.layers]
    biases = tuple(reserved((width,), F32) for width in widths)
    for bias, given in zip(biases, operands.biases, strict=False):
        bias[...] = given
    offsets = tuple(reserved((width,), S32) for width in widths)
    if types.lhs == S8:
        for offset, weight in zip(offsets, operands.weights, strict=True):
            offset[...] = SHIFT * weight.sum(axis=0, dtype=np.int32)
    return Tiled(
        operands,
        tile,
        tuple(tiled_weights(weight, tile, types) for weight in operands.weights),
        biases,
        offsets,
        tuple(reserved((row.batch, inputs), types.lhs) for inputs, _ in row.layers),
    )


def tiled_weights(weight: Array, tile: int, types: Types) -> Array:
    """Weights in tiles: [inputs][outputs] as [outputs / t][inputs / t][t / v][t][v]."""
    inputs, outputs = weight.shape
    tiles = weight.reshape(inputs // tile, tile, outputs // tile, tile).transpose(2, 0, 1, 3)
    packed = pack(tiles, types.group)
    found = reserved(packed.shape, types.rhs)
    found[...] = packed
    return found


class LibxsmmLayersEngine(WithLibxsmm):
    """libxsmm's kernels in a loop over tiles."""

    def __init__(self, tile: int) -> None:
        """Tiles of so many rows and columns."""
        super().__init__()
        self._tile = tile
        self._loops: ctypes.CDLL | None = None

    def availability(self) -> Availability:
        """Load libxsmm, and compile the loops around its kernels."""
        found = super().availability()
        if not found.present:
            return found
        try:
            path = shared_library("libxsmm-layers", SOURCE.read_text(encoding="utf-8"), OPTIONS)
            self._loops = ctypes.CDLL(str(path))
        except (Unable, OSError) as error:
            return Availability(False, f"{error}; {HOW_TO_GET}")
        return found

    def make(self, operands: MlpOperands, contract: str) -> Made:
        """The fastest of the right ways to go through the tiles.

        Raises:
            Unable: weights are plain, sizes or types are not libxsmm's, or no kernel is right.
        """
        if contract != PACKED:
            raise Unable("weights lie in tiles, laid out beforehand")
        if operands.types.name not in ELEMENTS:
            raise Unable(f"libxsmm has no networks of {operands.types.name}")
        best = fastest(self._right(tiled(operands, self._tile)))
        assert isinstance(best, NativeContender)
        operands.spoil()
        return Made(best)

    def _right(self, network: Tiled) -> list[NativeContender]:
        """The contenders whose answers are right.

        Raises:
            Unable: there are none; with the reasons.
        """
        right: list[NativeContender] = []
        reasons: dict[str, None] = {}
        for contender in self._contenders(network):
            network.spoil()
            contender.run(1)
            if found := mlp_fault(network.operands, thorough=False):
                reasons[found] = None
            else:
                right.append(contender)
        if not right:
            raise Unable("; ".join(reasons))
        return right

    def _contenders(self, network: Tiled) -> Iterator[NativeContender]:
        """Every choice of kernels in both orders of the tiles."""
        row = network.operands.row
        entry = ctypes.cast(self._entry, ctypes.c_void_p).value or 0
        for (label, kernels), rows_outside in product(self._kernels(network), (True, False)):
            layers = (_Layer * len(kernels))(*_layers(network, kernels))
            described = _described(network, layers, self.interface.one_structure, rows_outside)
            order = "row by row" if rows_outside else "column by column"
            detail = f"{label}, tiles of {network.tile} {order}"
            yield NativeContender(
                f"libxsmm-{network.tile}",
                entry,
                (ctypes.addressof(described),),
                row.flops,
                detail,
                (network, layers, described, self._loops),
            )

    def _kernels(self, network: Tiled) -> list[tuple[str, tuple[int, ...]]]:
        """Choices of a kernel for each layer, with their label.

        Raises:
            Unable: libxsmm's JIT has none for some layer.
        """
        found = [
            list(self.interface.strided(_work(network, inputs)))
            for inputs, _ in network.operands.row.layers
        ]
        if not all(found):
            name = network.operands.types.name
            raise Unable(f"libxsmm's JIT returned no kernel for tiles of {network.tile} in {name}")
        longest = max(found, key=len)
        # A layer whose input is one tile wide has the bare kernel and no other.
        return [
            (label, tuple(kernels[min(number, len(kernels) - 1)][1] for kernels in found))
            for number, (label, _) in enumerate(longest)
        ]

    @property
    def _entry(self) -> ctypes._NamedFuncPointer:
        if self._loops is None:
            raise Unable(HOW_TO_GET)
        return self._loops.nkdsl_network


def _work(network: Tiled, inputs: int) -> Work:
    """A tile of sums, in libxsmm's terms: ours transposed, our weights first."""
    tile, types = network.tile, network.types
    call = Call("one product", tile, tile, tile, tile, tile, tile, 0, swapped=True)
    steps = tile * tile * types.rhs.size, tile * tile * types.lhs.size
    return Work(types, call, (0, 0, 0), steps, inputs // tile, beta=0)


def _layers(network: Tiled, kernels: tuple[int, ...]) -> Iterator[_Layer]:
    """What the loops are told of every layer."""
    operands, tile = network.operands, network.tile
    size = operands.types.lhs.size
    targets = [*network.activations[1:], operands.c]
    for number, (inputs, outputs) in enumerate(operands.row.layers):
        last = targets[number] is operands.c
        right, row = (tile, outputs) if last else (tile * tile, tile)
        yield _Layer(
            kernel=kernels[number],
            inputs=inputs // tile,
            outputs=outputs // tile,
            weights=network.weights[number].ctypes.data,
            weights_step=inputs * tile * operands.types.rhs.size,
            source=network.activations[number].ctypes.data,
            source_step=inputs * tile * size,
            target=targets[number].ctypes.data,
            down_step=outputs * tile * size,
            right_step=right * size,
            row_step=row * size,
            bias=network.biases[number].ctypes.data,
            offset=network.offsets[number].ctypes.data,
            shift=0 if last or not network.keeps_larger else SHIFT,
        )


def _described(
    network: Tiled, layers: ctypes.Array[_Layer], one_structure: bool, rows_outside: bool
) -> _Network:
    """What the loops are told of the whole."""
    operands, tile = network.operands, network.tile
    row, stored = operands.row, operands.types.lhs
    low, high = limits(stored)
    return _Network(
        layers=ctypes.addressof(layers),
        depth=len(layers),
        rows=row.batch // tile,
        tile=tile,
        element=ELEMENTS[operands.types.name],
        one_structure=one_structure,
        rows_outside=rows_outside,
        input=operands.x.ctypes.data,
        blocked=network.activations[0].ctypes.data,
        input_columns=row.widths[0] // tile,
        tile_bytes=tile * stored.size,
        flip=SHIFT if network.keeps_larger else 0,
        scale=SCALE,
        floor=low if row.activation == "none" else max(low, 0.0),
        ceiling=high,
    )
