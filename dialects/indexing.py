"""Indices with constant offsets, `%a[%i + 3, %k]`, of the operations that touch memory.

An unrolled kernel touches many elements at constant distances from a few run-time positions.
Keeping the distance on the operation (`offsets`, one integer a dimension) instead of in an
`arith.addi` halves the size of the IR and keeps the constants visible to the last pass, which
folds them into the address.

Imports: xDSL and `dialects.syntax` only.
"""

from collections.abc import Sequence
from functools import cache

from xdsl.dialects.builtin import I64, DenseArrayBase, IndexType, MemRefType, i64
from xdsl.ir import SSAValue
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from nkdsl.dialects.syntax import parse_i64

Offsets = DenseArrayBase[I64]


def offsets_attr(offsets: Sequence[int]) -> Offsets:
    """The attribute that stores constant index offsets, in elements."""
    return _offsets_attr(tuple(offsets))


@cache
def _offsets_attr(offsets: tuple[int, ...]) -> Offsets:
    """Made once for each list: attributes never change, and unrolled code repeats its offsets."""
    return DenseArrayBase.from_list(i64, offsets)


def parse_offset(parser: Parser) -> int:
    """Parse ` + 3`, ` - 3` or nothing."""
    if parser.parse_optional_characters("+") is not None:
        return parse_i64(parser, allow_negative=False)
    if parser.parse_optional_characters("-") is not None:
        return -parse_i64(parser, allow_negative=False)
    return 0


def print_offset(printer: Printer, offset: int) -> None:
    """Print ` + 3`, ` - 3` or nothing."""
    if offset:
        printer.print_string(f" {'+' if offset > 0 else '-'} {abs(offset)}")


def parse_indices(parser: Parser) -> tuple[list[SSAValue], list[int]]:
    """Parse `[%i + 3, %k]` into the values and their offsets."""

    def parse_one() -> tuple[SSAValue, int]:
        value = parser.resolve_operand(parser.parse_unresolved_operand(), IndexType())
        return value, parse_offset(parser)

    pairs = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parse_one)
    return [value for value, _ in pairs], [offset for _, offset in pairs]


def print_indices(printer: Printer, indices: Sequence[SSAValue], offsets: Sequence[int]) -> None:
    """Print `[%i + 3, %k]`."""

    def print_one(pair: tuple[SSAValue, int]) -> None:
        printer.print_ssa_value(pair[0])
        print_offset(printer, pair[1])

    with printer.in_square_brackets():
        printer.print_list(list(zip(indices, offsets, strict=True)), print_one)


def verify_indices(memref: MemRefType, indices: Sequence[SSAValue], offsets: Sequence[int]) -> None:
    """Refuse an index list that does not have one index and one offset a dimension."""
    if len(indices) != memref.get_num_dims():
        raise VerifyException(
            f"expected {memref.get_num_dims()} indices for {memref}, got {len(indices)}"
        )
    if len(offsets) != len(indices):
        raise VerifyException(f"expected {len(indices)} offsets, got {len(offsets)}")
