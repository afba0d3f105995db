"""Packed factors of s8·s8 and u8·u8 where the processor multiplies u8 by s8 only.

Each panel ends with its sums, computed once, when the factor is packed: kernels start there, and
add nothing up.
"""

from dataclasses import dataclass

import numpy as np
import pytest

import nkdsl
from nkdsl import Kernel
from nkdsl.errors import InvalidInput
from nkdsl.packed import Packed
from nkdsl.targets import can_run, get_target
from nkdsl.testing import Lowered

TARGET = "znver4"

RUNS = can_run(get_target(TARGET)) is None

RANGES = {"s8": (np.int8, -128, 127), "u8": (np.uint8, 0, 255)}

FACTORS = {"s8": -128, "u8": 128}
"""What sums are multiplied by, where the factors are of a type."""


@dataclass(frozen=True)
class Product:
    """`C = A·B`, or with what C was, or quantized."""

    shape: tuple[int, int, int]
    """(M, N, K)."""
    kind: str = "s8"
    """The type of both factors."""
    operand: str = "rhs"
    """The one that is packed."""
    columns: bool = False
    """Whether the result lies in columns; the factor's k is its first dimension otherwise."""
    accumulates: bool = False
    scaled: bool = False
    """Whether an epilogue adds a bias along n."""
    threads: int = 1

    @property
    def source(self) -> str:
        """The program."""
        m, n, k = self.shape
        sign = " {nanokernel.unsigned}" if self.kind == "u8" else ""
        b, b_map = (f"{n}x{k}", "n, k") if self.columns else (f"{k}x{n}", "k, n")
        c, c_map = (f"{n}x{m}", "n, m") if self.columns else (f"{m}x{n}", "m, n")
        a, b, c = f"memref<{m}x{k}xi8>", f"memref<{b}xi8>", f"memref<{c}xi32>"
        extra = f", %bias: memref<{n}xi32>" if self.scaled else ""
        region = f"""epilogue(%bias[n] : memref<{n}xi32>) {{
          ^bb0(%sum: i32, %more: i32):
            %total = arith.addi %sum, %more : i32
            nanokernel.yield %total : i32
          }}"""
        return f"""
        func.func @product(%a: {a}{sign}, %b: {b}{sign}, %c: {c}{extra}) {{
          nanokernel.gemm ins(%a[m, k], %b[{b_map}] : {a}, {b})
            {"unsigned both" if self.kind == "u8" else ""} outs(%c[{c_map}] : {c})
            {"" if self.accumulates else "from zero"} {region if self.scaled else ""}
          func.return
        }}"""

    def kernel(self) -> Kernel:
        """What multiplies plain factors."""
        return nkdsl.compile(self.source, TARGET, threads=self.threads)

    def arrays(self) -> list[np.ndarray]:
        """Random arguments, from all of the types' ranges."""
        m, n, k = self.shape
        dtype, low, high = RANGES[self.kind]
        random = np.random.default_rng(m * n + k)
        shapes = (m, k), (n, k) if self.columns else (k, n)
        factors = [random.integers(low, high, s, endpoint=True).astype(dtype) for s in shapes]
        result = random.integers(-999, 999, (n, m) if self.columns else (m, n)).astype(np.int32)
        bias = random.integers(-999, 999, n).astype(np.int32)
        return [*factors, result, *([bias] if self.scaled else [])]

    def expected(self, arrays: list[np.ndarray]) -> np.ndarray:
        """The result."""
        a, b, c, *bias = (array.astype(np.int64) for array in arrays)
        product = a @ (b.T if self.columns else b) + (bias[0] if bias else 0)
        product = product.T if self.columns else product
        return product + c if self.accumulates else product

    def check(self) -> tuple[Packed, Kernel]:
        """Pack one factor, and hold the kernel that reads it against numpy."""
        kernel, arrays = self.kernel(), self.arrays()
        position = int(self.operand == "rhs")
        factor = nkdsl.pack(arrays[position], like=kernel, operand=self.operand)  # type: ignore[arg-type]
        np.testing.assert_array_equal(factor.unpack(), arrays[position])
        expected = self.expected(arrays)
        given: list[np.ndarray | Packed] = list(arrays)
        given[position] = factor
        if RUNS:
            kernel(*given)
            np.testing.assert_array_equal(arrays[2], expected)
        return factor, kernel.packed(factor)


SHAPES = ((9, 37, 21), (64, 128, 256), (6, 300, 1030), (33, 65, 1), (2, 2, 3))

RHS = [Product(shape, kind) for shape in SHAPES for kind in RANGES]

LHS = [Product(shape, kind, "lhs", columns=True) for shape in SHAPES[:3] for kind in RANGES]
"""Of a result in columns lhs is what is loaded as registers."""

OTHERS = [
    Product((9, 37, 21), accumulates=True),
    Product((9, 37, 21), "u8", scaled=True),
    Product((9, 37, 21), operand="lhs", columns=True, scaled=True),
    Product((130, 200, 300), threads=2),
    Product((130, 200, 300), "u8", "lhs", columns=True, accumulates=True, threads=2),
]


@pytest.mark.parametrize("product", RHS + LHS + OTHERS, ids=str)
def test_each_panel_ends_with_its_sums(product: Product) -> None:
    factor, reader = product.check()
    layout = factor.layout
    assert layout.sums == FACTORS[product.kind]
    count, steps, width, group = factor.panels.shape
    assert (steps, group) == (-(-product.shape[2] // 4) + 1, 4)
    sums = factor.panels.reshape(-1).view(np.int32).reshape(count, steps, width)[:, -1]
    wanted = factor.panels[:, :-1].astype(np.int64).sum(axis=(1, 3)) * layout.sums
    np.testing.assert_array_equal(sums, wanted)
    assert "start(" in reader.ir("nanokernel")
    assert "nanokernel.sum" not in reader.ir("composed")
    for plan in reader.plans:
        assert f"dot.{product.kind}{product.kind}x16" in plan
        assert "pack = none" in plan
    assert "vpdpbusd" in reader.asm()
    assert not any(word in reader.asm() for word in ("vpmaddwd", "vpmovsx", "vpmovzx"))


@pytest.mark.parametrize(
    "product",
    [Product((9, 37, 21)), Product((5, 80, 33), "u8"), Product((9, 37, 21), "u8", "lhs", True)],
    ids=str,
)
def test_every_level_starts_there(product: Product) -> None:
    factor, reader = product.check()
    lowered, arrays = Lowered(reader.ir("nanokernel"), TARGET), product.arrays()
    assert "upstream" in lowered.modules
    position = int(product.operand == "rhs")
    for level in lowered.modules:
        given = [array.copy() for array in arrays]
        given[position] = factor.panels
        assert lowered.run_level(level, given) > 0
        np.testing.assert_array_equal(given[2], product.expected(arrays), err_msg=level)


@pytest.mark.parametrize("kind", RANGES)
def test_a_factor_that_is_broadcast_needs_no_sums(kind: str) -> None:
    for product in (
        Product((9, 37, 21), kind, "lhs"),
        Product((9, 37, 21), kind, "rhs", columns=True),
        Product((1, 37, 21), kind, "lhs"),
    ):
        factor, reader = product.check()
        assert factor.layout.sums == 0
        assert "nanokernel.sum" in reader.ir("composed")  # of the other one, where it is packed


def test_given_sums_are_explained() -> None:
    _, reader = Product((64, 128, 256)).check()
    assert "sums start at -128 times those of B over k, which are given" in reader.explain()
    assert "adding up" not in reader.explain()


def test_other_signs_are_another_layout() -> None:
    signed, unsigned = Product((9, 37, 21)).kernel(), Product((9, 37, 21), "u8").kernel()
    factor = nkdsl.pack(Product((9, 37, 21)).arrays()[1], like=signed)
    assert "each with its sums" in repr(factor)
    with pytest.raises(InvalidInput, match="sums times -128 instead of 128"):
        unsigned.packed(factor)


def test_a_processor_with_all_dot_products_needs_no_sums() -> None:
    kernel = nkdsl.compile(Product((9, 37, 21)).source, "sierraforest")
    factor = nkdsl.pack(Product((9, 37, 21)).arrays()[1], like=kernel)
    assert factor.layout.sums == 0
    assert "vpdpbssd" in kernel.packed(factor).asm()
