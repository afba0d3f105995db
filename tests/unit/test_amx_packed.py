"""Factors that are packed once for kernels of tiles: whole tiles, filled up with zeros."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

import nkdsl
from nkdsl.emulation import amx
from nkdsl.runtime.kernel import Kernel
from nkdsl.targets import get_target

pytestmark = pytest.mark.skipif(amx.obstacle() is not None, reason=amx.obstacle() or "")

SAPPHIRE = get_target("sapphirerapids")

TILES = replace(
    SAPPHIRE,
    instructions=tuple(replace(i, per_cycle=i.per_cycle / 1e6) for i in SAPPHIRE.instructions),
)
"""A table by which tiles are always the fastest."""


def kernel(m: int, n: int, k: int, element: str, sums: str) -> Kernel:
    a, b, c = f"memref<{m}x{k}x{element}>", f"memref<{k}x{n}x{element}>", f"memref<{m}x{n}x{sums}>"
    source = f"""func.func @f(%a: {a}, %b: {b}, %c: {c}) {{
      nanokernel.gemm ins(%a[m, k], %b[k, n] : {a}, {b}) outs(%c[m, n] : {c}) from zero
      return
    }}"""
    return nkdsl.compile(source, TILES, emulate=True)


def numbers(shape: tuple[int, int], dtype: type) -> np.ndarray:
    rng = np.random.default_rng(shape[0])
    return rng.integers(-8, 9, shape).astype(dtype)


@pytest.mark.parametrize(
    ("m", "n", "k", "element", "steps"),
    [
        (64, 96, 128, "bf16", 32),
        (64, 96, 70, "bf16", 32),
        (33, 64, 31, "bf16", 32),
        (48, 160, 130, "i8", 64),
        (5, 32, 200, "i8", 64),
    ],
)
def test_a_packed_factor_is_read_in_place_by_tiles(m, n, k, element, steps) -> None:
    dtype, sums = (np.int8, "i32") if element == "i8" else (ml_dtypes.bfloat16, "f32")
    program = kernel(m, n, k, element, sums)
    a, b = numbers((m, k), dtype), numbers((k, n), dtype)
    packed = nkdsl.pack(b, like=program)
    assert packed.panels.shape[1] * packed.panels.shape[3] == -(-k // steps) * steps
    np.testing.assert_array_equal(packed.unpack(), b)
    c = np.empty((m, n), np.int32 if element == "i8" else np.float32)
    with amx.emulated() as machine:
        machine.watch_arrays({"w": packed.panels})
        program(a, packed, c)
    products = sum(machine.counts.multiplies.values())
    assert products == -(-m // 16) * (n // 16) * -(-k // steps)
    assert 0 < machine.counts.loads_by["w"] <= products
    np.testing.assert_array_equal(c, a.astype(np.float64) @ b.astype(np.float64))


def test_bytes_of_one_sign_can_be_packed_for_tiles_which_flip_none() -> None:
    program = kernel(32, 64, 64, "i8", "i32")
    assert "tile.s8s8" in program.packed(nkdsl.pack(numbers((64, 64), np.int8), like=program)).plan


def test_a_factor_whose_columns_end_within_a_tile_is_packed_for_vectors() -> None:
    program = kernel(32, 50, 64, "bf16", "f32")
    packed = nkdsl.pack(numbers((64, 50), ml_dtypes.bfloat16), like=program)
    assert "tile." not in program.packed(packed).plan
    assert "tile." in program.plan


def test_panels_that_end_within_a_tile_are_refused() -> None:
    program = kernel(32, 64, 70, "bf16", "f32")
    packed = nkdsl.pack(numbers((70, 64), ml_dtypes.bfloat16), like=program)
    short = replace(packed, layout=replace(packed.layout, filled=1))
    with pytest.raises(nkdsl.InvalidInput, match="steps filled up to 1 instead of 32"):
        program.packed(short)
