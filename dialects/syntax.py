"""Pieces of custom syntax that the dialects share: 64-bit integers and the closing list of types.

What they refuse, they refuse with a `ParseError` at the text that is wrong. Imports xDSL only.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from xdsl.ir import Attribute
from xdsl.parser import AttrParser, Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

I64_LIMIT = 2**63


@contextmanager
def located(parser: AttrParser) -> Iterator[None]:
    """Give a `VerifyException` raised in the body the location of the text parsed there."""
    start = parser.pos
    try:
        yield
    except VerifyException as error:
        parser.raise_error(str(error), start, parser.pos)


def parse_i64(parser: AttrParser, *, allow_negative: bool = True) -> int:
    """Parse an integer that fits 64 bits; `true` and `false` are none."""
    start = parser.pos
    value = parser.parse_integer(allow_boolean=False, allow_negative=allow_negative)
    if not -I64_LIMIT <= value < I64_LIMIT:
        parser.raise_error(f"{value} does not fit 64 bits", start, parser.pos)
    return value


def parse_types(
    parser: Parser, *kinds: type[Attribute]
) -> tuple[dict[str, Attribute], list[Attribute]]:
    """Parse `{attributes} : type, type`, one type of each of the given kinds."""

    def parse_one() -> tuple[Attribute, int]:
        start = parser.pos
        return parser.parse_type(), start

    attributes = parser.parse_optional_attr_dict()
    parser.parse_punctuation(":")
    start = parser.pos
    types = parser.parse_comma_separated_list(parser.Delimiter.NONE, parse_one)
    if len(types) != len(kinds):
        plural = "s" if len(kinds) > 1 else ""
        parser.raise_error(f"expected {len(kinds)} type{plural}, got {len(types)}", start)
    for (type_, start), kind in zip(types, kinds, strict=True):
        if not isinstance(type_, kind):
            parser.raise_error(f"expected a {kind.name} type, got {type_}", start)
    return attributes, [type_ for type_, _ in types]


def print_types(
    printer: Printer, attributes: dict[str, Attribute], types: Sequence[Attribute]
) -> None:
    """Print ` {attributes} : type, type`."""
    printer.print_op_attributes(attributes)
    printer.print_string(" : ")
    printer.print_list(types, printer.print_attribute)
