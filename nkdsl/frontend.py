"""Reading a program: MLIR text, a path or an xDSL module in; a verified module with positions out.

Every parsed operation remembers its line and column, so that a pass that refuses it can say where
it stands. Named linalg ops that xDSL can't parse (linalg.batch_matmul, a linalg.matmul with maps of
its own, ...) are first generalized by mlir-opt. A linalg.matmul of narrow factors into wide sums
gets the conversions that MLIR gives it and xDSL forgets. Programs whose functions take tensors are
bufferized (see `nkdsl.bufferize`).
"""

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

from xdsl.context import Context
from xdsl.dialects import arith, get_all_dialects
from xdsl.dialects.builtin import (
    AnyFloat,
    FileLineColLoc,
    IntAttr,
    IntegerType,
    ModuleOp,
    StringAttr,
    UnknownLoc,
    UnregisteredOp,
)
from xdsl.dialects.linalg.ops import MatmulOp, YieldOp
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import DiagnosticException, ParseError, VerifyException

from nkdsl.backends.mlir import run_mlir_opt
from nkdsl.bufferize import bufferize, takes_tensors
from nkdsl.diagnostics import source_position
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.universe import NKDSL_UNIVERSE

Source = str | Path | ModuleOp

NATIVE_LINALG = frozenset({"matmul", "generic", "fill", "yield", "index"})
"""The linalg ops that xDSL reads and prints faithfully; others are generalized first."""

NATIVE_TENSOR = frozenset({"empty", "dim", "cast"})
"""The tensor ops that xDSL reads; with others, mlir-opt prints the program in generic form."""

_STRINGS = re.compile(
    r"""
    //[^\n]*                                               # a comment, or
    | "(?:[^"\\\n\v\f] | \\(?:["nt\\] | [0-9A-Fa-f]{2}))*"  # a string literal, or
    | (?P<broken>")                                       # the beginning of what is none
    """,
    re.VERBOSE,
)


class LocatingParser(Parser):
    """A parser that gives each operation without a location its position in the text."""

    def __init__(self, context: Context, text: str, name: str):
        """Parse `text`; raises `InvalidInput` for a broken string literal.

        xDSL's lexer takes time exponential in the length of one.
        """
        for match in _STRINGS.finditer(text):
            if match["broken"]:
                line, column = _line_and_column(text, match.start())
                raise InvalidInput(
                    f"{name}:{line}:{column}: this string literal does not end on its line, or "
                    'holds an escape other than \\n, \\t, \\\\, \\" and two hexadecimal digits'
                )
        super().__init__(context, text, name)

    def parse_operation(self) -> Operation:
        """Parse one operation and note where it began."""
        span = self._current_token.span
        op = super().parse_operation()
        if isinstance(op, MatmulOp) and not _converts_factors(op):
            self.raise_error(
                "xDSL doesn't know how linalg.matmul converts "
                f"{', '.join(str(a.type) for a in op.body.block.args)}; write it as "
                "linalg.generic (mlir-opt --linalg-generalize-named-ops)",
                span.start,
                span.end,
            )
        if isinstance(op.location, UnknownLoc):
            line, column = _line_and_column(span.input.content, span.start)
            name = StringAttr(span.input.name)
            op.location = FileLineColLoc(name, IntAttr(line), IntAttr(column))
        return op


def _converts_factors(op: MatmulOp) -> bool:
    """Let a product's body extend its factors to the sum's type; False where that can't be.

    The body that xDSL makes of the custom form takes them as they are.
    """
    *factors, out = op.body.block.args
    first = op.body.block.first_op
    if not isinstance(first, arith.MulfOp | arith.MuliOp) or first.lhs not in factors:
        return True  # in generic form the body says it all
    if all(factor.type == out.type for factor in factors):
        return True
    body = _extending_body([factor.type for factor in factors], out.type)
    if body is None:
        return False
    op.body.detach_block(op.body.block)
    op.body.add_block(body)
    return True


def _extending_body(factors: Sequence[Attribute], out: Attribute) -> Block | None:
    """The body of a product that extends its factors; None where something else is needed."""
    body = Block(arg_types=[*factors, out])
    *arguments, sums = body.args
    lhs, rhs = (_extended(argument, out) for argument in arguments)
    if lhs is None or rhs is None:
        return None
    product: Operation
    total: Operation
    if isinstance(out, AnyFloat):
        product = arith.MulfOp(lhs, rhs)
        total = arith.AddfOp(sums, product)
    else:
        product = arith.MuliOp(lhs, rhs)
        total = arith.AddiOp(sums, product)
    body.add_ops([lhs, rhs, product, total, YieldOp(total)])
    return body


def _extended(value: SSAValue, wide: Attribute) -> Operation | None:
    """What extends a number to a type, with its sign; None where nothing does."""
    narrow = value.type
    if isinstance(narrow, AnyFloat) and isinstance(wide, AnyFloat):
        return arith.ExtFOp(value, wide) if narrow.bitwidth < wide.bitwidth else None
    if isinstance(narrow, IntegerType) and isinstance(wide, IntegerType):
        return arith.ExtSIOp(value, wide) if narrow.bitwidth < wide.bitwidth else None
    return None


def _line_and_column(text: str, position: int) -> tuple[int, int]:
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def make_context() -> Context:
    """A context that knows xDSL's dialects and nkdsl's, each loaded on first use."""
    context = Context()
    for name, factory in (get_all_dialects() | NKDSL_UNIVERSE.all_dialects).items():
        context.register_dialect(name, factory)
    return context


def read_source(source: str | Path) -> tuple[str, str]:
    """The text of a program and a name for messages.

    Raises:
        InvalidInput: where a path can't be read.
    """
    if isinstance(source, str) and ("\n" in source or "(" in source):
        return source, "<input>"
    path = Path(source)
    try:
        return path.read_text(), str(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidInput(f"can't read '{path}': {reason}") from error


def load(source: Source, context: Context) -> ModuleOp:
    """Parse and verify a program; functions on tensors take memrefs afterwards.

    Raises:
        InvalidInput: naming file, line and column of what is wrong.
        ToolNotFound: where mlir-opt is missing and the program needs it.
        Unsupported: for a function on tensors that can't be bufferized.
    """
    if isinstance(source, ModuleOp):
        name, module = "<module>", source.clone()
    else:
        text, name = read_source(source)
        module = parse(generalized(text, name), name, context)
    if not takes_tensors(module):
        return module
    try:
        return bufferize(module, lambda text: parse(text, name, context), name)
    except DiagnosticException as error:
        raise Unsupported(str(error)) from error


def parse(text: str, name: str, context: Context) -> ModuleOp:
    """Parse and verify MLIR text; raises `InvalidInput` with the position of what is wrong."""
    try:
        module = LocatingParser(context, text, name).parse_module()
    except ParseError as error:
        line, column = _line_and_column(error.span.input.content, error.span.start)
        raise InvalidInput(f"{name}:{line}:{column}: {error.args[-1] or error}") from error
    verify(module, name)
    return module


def verify(module: ModuleOp, name: str) -> None:
    """Verify a program; raises `InvalidInput` with the position of the operation that is wrong."""
    try:
        module.verify()
    except VerifyException as error:
        raise InvalidInput(_fault(module) or f"{name}: {error}") from error


def _fault(module: ModuleOp) -> str | None:
    """Position and fault of the first operation that is wrong by itself."""
    for op in module.walk():
        try:
            op.verify(verify_nested_ops=False)
        except VerifyException as error:
            return f"{source_position(op)}{op.name}: {error}"
    return None


def generalized(text: str, name: str) -> str:
    """A program without named linalg operations that xDSL can't parse; positions are kept.

    Raises:
        ToolNotFound: where there are such operations but no mlir-opt.
        InvalidInput: with mlir-opt's message where it refuses the program.
    """
    if not _needs_generalizing(text):
        return text
    options = (
        "--linalg-generalize-named-ops",
        "--mlir-print-op-generic",
        "--mlir-print-debuginfo",
        "--mlir-print-local-scope",
    )
    rewritten = run_mlir_opt(text, list(options), name)
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return rewritten.replace('loc("<stdin>"', f'loc("{escaped}"')


def _needs_generalizing(text: str) -> bool:
    uncommented = re.sub(r"//[^\n]*", "", text)
    named = set(re.findall(r"\blinalg\.([a-z_0-9]+)", uncommented))
    on_tensors = set(re.findall(r"\btensor\.([a-z_0-9]+)", uncommented))
    attributes = {"iterator_type", "index"}
    # xDSL reads maps of a matmul in generic form only.
    mapped = re.search(r"\blinalg\.matmul\s+indexing_maps\b", uncommented)
    foreign = named - NATIVE_LINALG - attributes or on_tensors - NATIVE_TENSOR
    return mapped is not None or bool(foreign)


class TextPrinter(Printer):
    """A printer to memory that spends less on the pieces of a line: a kernel has 50,000 of them."""

    def __init__(self) -> None:
        """Begin with no text."""
        self._stream = StringIO()
        super().__init__(self._stream)

    def print_string(self, text: str, *, indent: int | None = None) -> None:
        """Print a piece of text; what has line breaks is indented as xDSL does."""
        if "\n" in text:
            super().print_string(text, indent=indent)
        else:
            self._stream.write(text)

    @property
    def text(self) -> str:
        """All that was printed."""
        return self._stream.getvalue()


class GenericPrinter(TextPrinter):
    """A printer of MLIR's generic form, several times as fast as that of custom forms.

    Nearly all operations have neither regions nor successors, and look alike:

        %7 = "arith.constant"() <{value = 16 : index}> : () -> (index)
    """

    def __init__(self) -> None:
        """Begin with no text."""
        super().__init__()
        self.print_generic_format = True
        # Attributes are found again by identity: they live as long as the operations.
        self._type_texts: dict[int, str] = {}
        self._entry_texts: dict[tuple[str, int], str] = {}

    def print_op(self, op: Operation) -> None:
        """Print one operation and those in it."""
        if op.regions or op.successors or isinstance(op, UnregisteredOp):
            super().print_op(op)
            return
        operands, results = tuple(op.operands), op.results
        left = ", ".join(map(self._name, results)) + " = " if results else ""
        properties = f" <{self._dictionary(op.properties)}>" if op.properties else ""
        attributes = f" {self._dictionary(op.attributes)}" if op.attributes else ""
        self._stream.write(
            f'{left}"{op.name}"({", ".join(map(self._name, operands))}){properties}{attributes}'
            f" : ({self._types(operands)}) -> ({self._types(results)})"
        )

    def _name(self, value: SSAValue) -> str:
        """The name of a value: a number where no operation with regions has given another."""
        name = self._ssa_values.get(value)
        if name is None:
            name = self._ssa_values[value] = self._get_new_valid_name_id()
        return f"%{name}"

    def _types(self, values: Sequence[SSAValue]) -> str:
        return ", ".join([self._type(value.type) for value in values])

    def _type(self, type_: Attribute) -> str:
        text = self._type_texts.get(id(type_))
        if text is None:
            text = self._type_texts[id(type_)] = str(type_)
        return text

    def _dictionary(self, attributes: Mapping[str, Attribute]) -> str:
        return f"{{{', '.join(map(self._entry, attributes.items()))}}}"

    def _entry(self, entry: tuple[str, Attribute]) -> str:
        name, value = entry
        text = self._entry_texts.get((name, id(value)))
        if text is None:
            printer = TextPrinter()
            printer.print_attr_dict({name: value})
            text = self._entry_texts[name, id(value)] = printer.text[1:-1]
        return text


def to_text(op: Operation) -> str:
    """An operation as MLIR text."""
    return _printed(op, TextPrinter())


def to_generic_text(op: Operation) -> str:
    """An operation as MLIR text for tools, in generic form."""
    return _printed(op, GenericPrinter())


def _printed(op: Operation, printer: TextPrinter) -> str:
    printer.print_op(op)
    return printer.text + "\n"
