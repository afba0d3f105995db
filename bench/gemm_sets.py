"""The products of `nkdsl bench gemm`, by sets of one purpose."""

from __future__ import annotations

from dataclasses import dataclass

from nkdsl.bench.mlp_problem import Mlp
from nkdsl.bench.problem import Row, product_types

SIZES = (128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096)
FEWER_SIZES = range(256, 2049)
"""In types other than f32, squares of these sizes alone are taken."""
THREADED_SIZES = range(512, 4097)

PLAIN, PACKED = "plain", "packed"
"""Contracts: C := A·B on matrices as they are; the same where B was packed beforehand. One is
never held against the other."""


@dataclass(frozen=True)
class Case:
    """A row of the table to be."""

    set: str
    row: Row | Mlp
    dtype: str
    threads: int = 1
    contract: str = PLAIN

    @property
    def name(self) -> str:
        """For humans."""
        threads = f", {self.threads} threads" if self.threads > 1 else ""
        return f"{self.set} {self.row.name} {self.dtype}{threads}"


def _layers() -> tuple[Row, ...]:
    return (
        Row(128, 1024, 1024),
        Row(128, 4096, 1024),
        Row(128, 768, 3072),
        Row(256, 1024, 1024),
        Row(256, 768, 768),
        Row(1024, 1024, 512),
        Row(1024, 2560, 1024),
        Row(1024, 352, 512),
    )


def _squares(dtype: str) -> tuple[Row, ...]:
    sizes = SIZES if dtype == "f32" else tuple(size for size in SIZES if size in FEWER_SIZES)
    return tuple(Row(size, size, size) for size in sizes)


SETS = {
    "squares": "squares",
    "layers": "layers of neural networks",
    "ragged": "sizes that nothing divides",
    "small": "one native call of a small product against another",
    "transposed": "operands stored transposed; beside our own untransposed product",
    "skinny": "a matrix and a few vectors; beside the bandwidth of memory",
    "threads": "squares from 512 and layers on several threads, beside our own on one",
    "packed": "layers with B packed beforehand",
}
"""Every set with its line of help."""
NARROW_SETS = ("squares", "layers", "ragged")
"""Those that are taken in narrow types where none are named."""

CHOSEN = "chosen"
"""The set of rows that are given one by one."""


def rows_of(name: str, dtype: str) -> tuple[Row, ...]:
    """The products of a set."""
    match name:
        case "squares":
            return _squares(dtype)
        case "layers" | "packed":
            return _layers()
        case "ragged":
            return (
                Row(127, 255, 511),
                Row(1000, 1000, 1000),
                Row(33, 4095, 77),
                Row(999, 37, 1001),
                Row(2047, 2049, 257),
            )
        case "small":
            return tuple(Row(size, size, size) for size in (8, 16, 24, 48, 96))
        case "transposed":
            size = (768, 768, 768)
            return (
                Row(*size, transpose_a=True),
                Row(*size, transpose_b=True),
                Row(*size, transpose_a=True, transpose_b=True),
            )
        case "skinny":
            return (
                Row(1, 4096, 4096),
                Row(1, 4096, 4096, transpose_b=True),
                Row(4096, 1, 4096),
                Row(4096, 1, 4096, transpose_a=True),
                Row(4, 4096, 4096),
                Row(4, 4096, 4096, transpose_b=True),
            )
        case "threads":
            squares = (row for row in _squares(dtype) if row.m in THREADED_SIZES)
            return (*squares, *_layers())
    raise KeyError(name)


def _sets_of(dtype: str) -> tuple[str, ...]:
    return NARROW_SETS if product_types(dtype).narrow else tuple(SETS)


def cases(
    sets: tuple[str, ...] | None,
    shapes: tuple[Row, ...],
    dtypes: tuple[str, ...],
    threads: tuple[int, ...],
) -> tuple[Case, ...]:
    """Every row to be measured, those on one thread first.

    Args:
        sets: names in `SETS`; None for all that the types have.
        shapes: more products, given one by one.
        dtypes: element types.
        threads: numbers of threads; the set `threads` is taken at those above 1, at 2 if none is.
    """
    found = []
    for dtype in dtypes:
        for count in threads:
            found += [Case(CHOSEN, row, dtype, count) for row in shapes]
        for name in _sets_of(dtype) if sets is None else sets:
            contract = PACKED if name == "packed" else PLAIN
            several = tuple(count for count in threads if count > 1) or (2,)
            for count in several if name == "threads" else threads:
                found += [Case(name, row, dtype, count, contract) for row in rows_of(name, dtype)]
    return tuple(sorted(found, key=lambda case: case.threads))
