"""`nkdsl explain MxNxK|FILE`: what is planned and why; with `--measure`, how it turns out here."""

import argparse
import re
import sys
from pathlib import Path

from xdsl.dialects.builtin import ModuleOp

from nkdsl.bench.problem import Row, parse_row
from nkdsl.cli.packing import add_pack, pack_program
from nkdsl.cli.threads import add_threads
from nkdsl.errors import InvalidInput
from nkdsl.explain import explain_module
from nkdsl.frontend import load, make_context
from nkdsl.runtime.threads import resolve_threads
from nkdsl.targets import get_target
from nkdsl.types import ElementType, element_type

SHAPE = re.compile(r"[\dx×]+(b\d+)?(:[nt]{2})?")
"""What is read as a shape; anything else is a file."""

PAIR = re.compile(r"([us]8)([us]8)")
"""Types of A and B that differ, or may."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument(
        "product",
        metavar="MxNxK|FILE",
        help="sizes as in 127x255x511, 32x32x32b16 for a batch-reduce product; or a program",
    )
    parser.add_argument(
        "--dtype",
        default="f32",
        help="element type of a shape: f32, f64, bf16, f16, s8, u8; or of A and B, as in u8s8; "
        "default: f32",
    )
    parser.add_argument("--target", default="host", help="see nkdsl targets; default: host")
    parser.add_argument("--lhs-transposed", action="store_true", help="A is stored K×M")
    parser.add_argument("--rhs-transposed", action="store_true", help="B is stored N×K")
    parser.add_argument(
        "--accumulate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="C += A·B (the default) or C = A·B",
    )
    add_threads(parser)
    add_pack(parser)
    parser.add_argument(
        "--measure", action="store_true", help="also run it here and measure its share of peak"
    )


def main(arguments: argparse.Namespace) -> int:
    """Plan and explain."""
    target = get_target(arguments.target)
    module = _module(arguments)
    threads = resolve_threads(arguments.threads)
    explained = module
    if arguments.pack is not None:
        packed = pack_program(module, target, threads, arguments.pack)
        explained = packed.module
        for line in packed.told():
            print(f"{'packed':<10}{line}")
        print()
    sys.stdout.write(explain_module(explained, target, threads=threads))
    if arguments.measure:
        from nkdsl.cli.run import measured

        print(f"{'measured':<10}{measured(module, target, arguments.pack)}")
    return 0


def _module(arguments: argparse.Namespace) -> ModuleOp:
    if SHAPE.fullmatch(arguments.product):
        source: str | Path = product_text(_row(arguments), arguments.dtype, arguments.accumulate)
    else:
        source = Path(arguments.product)
    return load(source, make_context())


def _row(arguments: argparse.Namespace) -> Row:
    if 0 in map(int, re.findall(r"\d+", arguments.product)):
        raise InvalidInput(f"{arguments.product} is an empty product: there is nothing to plan")
    try:
        row = parse_row(arguments.product)
        return Row(
            row.m,
            row.n,
            row.k,
            row.batch,
            row.transpose_a or arguments.lhs_transposed,
            row.transpose_b or arguments.rhs_transposed,
        )
    except ValueError as error:
        raise InvalidInput(str(error)) from error


def product_text(row: Row, dtype: str, accumulate: bool) -> str:
    """A shape as a program with one function, `@kernel`, that starts from C or from zero.

    Args:
        row: the shape.
        dtype: an element type, or those of A and B one after the other, as in u8s8.
        accumulate: whether it starts from C.

    Raises:
        Unsupported: for unknown types.
    """
    lhs, rhs = factor_types(dtype)
    a, b, c = (
        f"memref<{'x'.join(map(str, shape))}x{type_.mlir}>"
        for shape, type_ in (
            (row.shape_a, lhs),
            (row.shape_b, rhs),
            (row.shape_c, lhs.accumulator),
        )
    )
    batch, k = ("k0, ", "k1") if row.batch > 1 else ("", "k")
    lhs_index = f"{k}, m" if row.transpose_a else f"m, {k}"
    rhs_index = f"n, {k}" if row.transpose_b else f"{k}, n"
    signs = [role for role, type_ in (("lhs", lhs), ("rhs", rhs)) if type_.is_unsigned]
    unsigned = f" unsigned {'both' if len(signs) == 2 else signs[0]}" if signs else ""
    return f"""func.func @kernel(%a: {a}, %b: {b}, %c: {c}) {{
  nanokernel.gemm ins(%a[{batch}{lhs_index}], %b[{batch}{rhs_index}] : {a}, {b}){unsigned}
      outs(%c[m, n] : {c}){"" if accumulate else " from zero"}
  return
}}
"""


def factor_types(dtype: str) -> tuple[ElementType, ElementType]:
    """The types of A and B: of one name, or of two as in u8s8."""
    if pair := PAIR.fullmatch(dtype):
        return element_type(pair[1]), element_type(pair[2])
    return element_type(dtype), element_type(dtype)
