"""The `tile` dialect: one value, one register that holds a matrix.

The level of `nkvector` for processors with tiles. A tile has some rows of elements that lie side by
side in memory; a multiplication takes a left factor in rows along k, and a right one of which each
row holds a group of k for all columns:

```mlir
tile.configure [!tile.tile<16x16xf32>, ..., !tile.tile<16x32xbf16>]
%acc = tile.zero into 0 : !tile.tile<16x16xf32>
%a = tile.load %lhs[%i, %k] rows 0 into 4 : memref<64x256xbf16>, !tile.tile<16x32xbf16>
%b = tile.load %rhs[%q, %j, %g] rows 0 into 6 : memref<128x32x2xbf16>, !tile.tile<16x32xbf16>
%sum = tile.mma %acc, %a, %b using "tile.bf16x16x16x32"
    : !tile.tile<16x16xf32>, !tile.tile<16x32xbf16>, !tile.tile<16x32xbf16>
tile.store %sum, %c[%i, %j] rows 0 : memref<64x96xf32>, !tile.tile<16x16xf32>
tile.release
```

Register numbers are part of the program, as they are of the machine's: `into` says which register
a value takes, and the result of `mma` stays in that of its accumulator. `verify_registers` is the
check that no value is used after another one took its register. The shapes of all registers are
configured at once, before any is used, and stay until they are released; a private function may
state, in the attribute `tile.configuration`, which configuration it is called with.

With `scalable`, the columns of a tile, and its rows if there are several, are that many times the
processor's vector length in units of 128 bits, which `vscale` says. A tile of one row is a vector
register then, of which there are enough; a multiplication is an outer product of two of them.
Loads and stores of such tiles may be told how much of them exists:

```mlir
%a = tile.load %lhs[%k, %i] rows 0 active %left : memref<?x32xf32>, !tile.tile<1x4xf32, scalable>
tile.store %sum, %c[%i, %j] rows 0 active %rows, %columns
    : memref<?x?xf32, strided<[?, 1]>>, !tile.tile<4x4xf32, scalable>
```

Imports: xDSL, `dialects.indexing` and `dialects.syntax` only.
"""

from collections.abc import Iterator, Sequence
from typing import Self

from xdsl.dialects import scf
from xdsl.dialects.builtin import (
    I64,
    AnyFloat,
    ArrayAttr,
    DenseArrayBase,
    IndexType,
    IntAttr,
    IntegerAttr,
    IntegerType,
    MemRefType,
    StringAttr,
    i64,
)
from xdsl.ir import (
    Attribute,
    Block,
    Dialect,
    Operation,
    ParametrizedAttribute,
    SSAValue,
    TypeAttribute,
)
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.parser import AttrParser, Parser
from xdsl.printer import Printer
from xdsl.traits import MemoryReadEffect, MemoryWriteEffect, Pure
from xdsl.utils.exceptions import VerifyException

from nkdsl.dialects.indexing import (
    offsets_attr,
    parse_indices,
    print_indices,
    verify_indices,
)
from nkdsl.dialects.syntax import located, parse_i64, parse_types, print_types

CONFIGURATION_ATTRIBUTE = "tile.configuration"
"""The attribute of a private function that lists the registers' shapes when it is called."""


@irdl_attr_definition
class TileType(ParametrizedAttribute, TypeAttribute):
    """A register of rows: `!tile.tile<16x32xbf16>`, or `!tile.tile<4x4xf32, scalable>`."""

    name = "tile.tile"

    rows: IntAttr
    columns: IntAttr
    element_type: Attribute
    scaled: IntAttr
    """1 if the size is a multiple of the vector length."""

    @classmethod
    def of(
        cls, rows: int, columns: int, element_type: Attribute, *, scalable: bool = False
    ) -> Self:
        """The type of a register of some rows."""
        return cls(IntAttr(rows), IntAttr(columns), element_type, IntAttr(int(scalable)))

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns), in elements; to be multiplied if the tile is scalable."""
        return self.rows.data, self.columns.data

    @property
    def scalable(self) -> bool:
        """Whether the size is a multiple of the vector length."""
        return bool(self.scaled.data)

    def shape_at(self, vscale: int) -> tuple[int, int]:
        """(rows, columns) where a vector has `vscale` times 128 bits."""
        rows, columns = self.shape
        if not self.scalable:
            return rows, columns
        return rows * vscale if rows > 1 else 1, columns * vscale

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Parse `<16x32xbf16>`."""
        with parser.in_angle_brackets(), located(parser):
            start = parser.pos
            shape, element_type = parser.parse_shape()
            if shape is None or len(shape) != 2:
                parser.raise_error("a tile has two dimensions, as in 16x32xbf16", start, parser.pos)
            scalable = parser.parse_optional_punctuation(",") is not None
            if scalable:
                parser.parse_keyword("scalable")
            return cls.of(shape[0], shape[1], element_type, scalable=scalable).parameters

    def print_parameters(self, printer: Printer) -> None:
        """Print `<16x32xbf16>`."""
        rows, columns = self.shape
        with printer.in_angle_brackets():
            printer.print_string(f"{rows}x{columns}x")
            printer.print_attribute(self.element_type)
            if self.scalable:
                printer.print_string(", scalable")

    def verify(self) -> None:
        """Refuse tiles without elements, of run-time size, or of no numbers."""
        if min(self.shape) < 1:
            rows, columns = self.shape
            raise VerifyException(f"a tile has rows and columns, got {rows}x{columns}")
        if not isinstance(self.element_type, AnyFloat | IntegerType):
            raise VerifyException(f"a tile holds floats or integers, not {self.element_type}")


def tile_type(value: SSAValue) -> TileType:
    """The type of a tile."""
    assert isinstance(value.type, TileType)
    return value.type


def _print_register(printer: Printer, register: IntegerAttr[I64] | None) -> None:
    """Print ` into 4`, or nothing."""
    if register is not None:
        printer.print_string(f" into {register.value.data}")


def _parse_register(parser: Parser) -> int | None:
    """Parse `into 4`, or nothing."""
    return parse_i64(parser) if parser.parse_optional_keyword("into") else None


def _register_attr(register: int | None) -> IntegerAttr[I64] | None:
    return None if register is None else IntegerAttr(register, i64)


def _verify_register(register: IntegerAttr[I64] | None) -> None:
    if register is not None and register.value.data < 0:
        raise VerifyException(f"there is no register {register.value.data}")


# ----------------------------------------------------------------------------- configuration


@irdl_op_definition
class ConfigureOp(IRDLOperation):
    """Set the shapes of registers 0, 1, ..., and all of them to zero.

    ```mlir
    tile.configure [!tile.tile<16x16xf32>, !tile.tile<16x32xbf16>, !tile.tile<16x32xbf16>]
    ```
    """

    name = "tile.configure"
    shapes = prop_def(ArrayAttr[TileType])

    traits = traits_def(MemoryReadEffect(), MemoryWriteEffect())

    def __init__(self, shapes: Sequence[TileType]):
        super().__init__(properties={"shapes": ArrayAttr(shapes)})

    def verify_(self) -> None:
        """Refuse a configuration of nothing."""
        if not self.shapes.data:
            raise VerifyException("a configuration lists the shape of each register in use")

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        printer.print_string(" ")
        printer.print_attribute(self.shapes)
        printer.print_op_attributes(self.attributes)

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        start = parser.pos
        shapes = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_type)
        types = [shape for shape in shapes if isinstance(shape, TileType)]
        if len(types) != len(shapes):
            parser.raise_error("a configuration lists tile types", start, parser.pos)
        op = cls(types)
        op.attributes |= parser.parse_optional_attr_dict()
        return op


@irdl_op_definition
class ReleaseOp(IRDLOperation):
    """Leave the registers without a configuration, as a thread must before others may have them."""

    name = "tile.release"

    traits = traits_def(MemoryReadEffect(), MemoryWriteEffect())

    assembly_format = "attr-dict"

    def __init__(self) -> None:
        super().__init__()


# ------------------------------------------------------------------------------------ values


@irdl_op_definition
class ZeroOp(IRDLOperation):
    """A register of zeros.

    ```mlir
    %acc = tile.zero into 0 : !tile.tile<16x16xf32>
    ```
    """

    name = "tile.zero"
    register = opt_prop_def(IntegerAttr[I64])
    result = result_def(TileType)

    traits = traits_def(Pure())

    def __init__(self, result_type: Attribute, register: int | None = None):
        super().__init__(
            result_types=[result_type], properties={"register": _register_attr(register)}
        )

    def verify_(self) -> None:
        """Refuse a negative register."""
        _verify_register(self.register)

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        _print_register(printer, self.register)
        print_types(printer, self.attributes, [self.result.type])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        register = _parse_register(parser)
        attributes, (type_,) = parse_types(parser, TileType)
        op = cls(type_, register)
        op.attributes |= attributes
        return op


@irdl_op_definition
class VscaleOp(IRDLOperation):
    """The processor's vector length, in units of 128 bits.

    ```mlir
    %v = tile.vscale
    ```
    """

    name = "tile.vscale"
    result = result_def(IndexType)

    traits = traits_def(Pure())

    assembly_format = "attr-dict"

    def __init__(self) -> None:
        super().__init__(result_types=[IndexType()])


class _AccessOp(IRDLOperation):
    """What loads and stores share: a memref, indices with constant offsets, where rows lie.

    `active`: how many columns of a scalable tile exist, or rows and columns if it has several rows;
    the others are not touched, and are zero in what is loaded.
    """

    active = var_operand_def(IndexType)
    memref = operand_def(MemRefType)
    indices = var_operand_def(IndexType)
    offsets = prop_def(DenseArrayBase[I64])
    rows = prop_def(IntegerAttr[I64])

    @property
    def constant_offsets(self) -> tuple[int, ...]:
        """The constant part of each index, in elements."""
        return self.offsets.get_values()

    @property
    def memref_type(self) -> MemRefType:
        """The accessed memref's type."""
        assert isinstance(self.memref.type, MemRefType)
        return self.memref.type

    def _verify_access(self, tile: SSAValue) -> None:
        """Refuse wrong indices, and a memref whose elements are others or lie apart."""
        verify_indices(self.memref_type, self.indices, self.constant_offsets)
        type_ = tile_type(tile)
        dimensions = 1 if type_.shape[0] == 1 else 2
        if len(self.active) not in (0, dimensions) or (self.active and not type_.scalable):
            raise VerifyException(
                f"{type_} takes {dimensions if type_.scalable else 0} active extents, or none"
            )
        row = self.rows.value.data
        if not 0 <= row < self.memref_type.get_num_dims():
            raise VerifyException(
                f"{self.memref_type} has no dimension {row} for rows to lie along"
            )
        if self.memref_type.element_type != type_.element_type:
            raise VerifyException(f"{self.memref_type} does not hold the elements of {tile.type}")
        strides = tuple(self.memref_type.get_strides() or ())
        if type_.shape[0] > 1 and 1 not in strides[:row] + strides[row + 1 :]:
            raise VerifyException(
                "a row's elements lie side by side, but no dimension of "
                f"{self.memref_type} other than {row} has stride 1"
            )

    def _print_access(self, printer: Printer) -> None:
        """Print ` %memref[%i + 3, %k] rows 0`."""
        printer.print_string(" ")
        printer.print_ssa_value(self.memref)
        print_indices(printer, self.indices, self.constant_offsets)
        printer.print_string(f" rows {self.rows.value.data}")
        if self.active:
            printer.print_string(" active ")
            printer.print_list(self.active, printer.print_ssa_value)


def _parse_place(parser: Parser) -> tuple[list[SSAValue], list[int], int, list[SSAValue]]:
    """Parse `[%i + 3, %k] rows 0 active %n`: indices, offsets, dimension, extents."""
    indices, offsets = parse_indices(parser)
    parser.parse_keyword("rows")
    rows = parse_i64(parser)
    active: list[SSAValue] = []
    if parser.parse_optional_keyword("active"):
        given = parser.parse_comma_separated_list(
            parser.Delimiter.NONE, parser.parse_unresolved_operand
        )
        active = [parser.resolve_operand(value, IndexType()) for value in given]
    return indices, offsets, rows, active


@irdl_op_definition
class LoadOp(_AccessOp):
    """Load a register: its rows lie along one dimension, their elements along the contiguous one.

    ```mlir
    %a = tile.load %lhs[%i + 16, %k] rows 0 into 5 : memref<64x256xbf16>, !tile.tile<16x32xbf16>
    ```
    """

    name = "tile.load"
    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    register = opt_prop_def(IntegerAttr[I64])
    result = result_def(TileType)

    traits = traits_def(MemoryReadEffect())

    def __init__(
        self,
        memref: SSAValue,
        indices: Sequence[SSAValue],
        result_type: Attribute,
        offsets: Sequence[int],
        rows: int,
        register: int | None = None,
        active: Sequence[SSAValue] = (),
    ):
        """`rows`: the memref's dimension along which the tile's rows lie."""
        super().__init__(
            operands=[active, memref, indices],
            result_types=[result_type],
            properties={
                "offsets": offsets_attr(offsets),
                "rows": IntegerAttr(rows, i64),
                "register": _register_attr(register),
            },
        )

    def verify_(self) -> None:
        """Refuse wrong indices and places."""
        _verify_register(self.register)
        self._verify_access(self.result)

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        self._print_access(printer)
        _print_register(printer, self.register)
        print_types(printer, self.attributes, [self.memref.type, self.result.type])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        memref = parser.parse_unresolved_operand()
        indices, offsets, rows, active = _parse_place(parser)
        register = _parse_register(parser)
        attributes, (memref_type, type_) = parse_types(parser, MemRefType, TileType)
        source = parser.resolve_operand(memref, memref_type)
        op = cls(source, indices, type_, offsets, rows, register, active)
        op.attributes |= attributes
        return op


@irdl_op_definition
class StoreOp(_AccessOp):
    """Store a register, as `tile.load` reads one.

    ```mlir
    tile.store %sum, %c[%i, %j + 16] rows 0 : memref<64x96xf32>, !tile.tile<16x16xf32>
    ```
    """

    name = "tile.store"
    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    tile = operand_def(TileType)

    traits = traits_def(MemoryWriteEffect())

    def __init__(
        self,
        tile: SSAValue,
        memref: SSAValue,
        indices: Sequence[SSAValue],
        offsets: Sequence[int],
        rows: int,
        active: Sequence[SSAValue] = (),
    ):
        """`rows`: the memref's dimension along which the tile's rows lie."""
        super().__init__(
            operands=[tile, active, memref, indices],
            properties={"offsets": offsets_attr(offsets), "rows": IntegerAttr(rows, i64)},
        )

    def verify_(self) -> None:
        """Refuse wrong indices and places."""
        self._verify_access(self.tile)

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        printer.print_string(" ")
        printer.print_ssa_value(self.tile)
        printer.print_string(",")
        self._print_access(printer)
        print_types(printer, self.attributes, [self.memref.type, self.tile.type])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        tile = parser.parse_unresolved_operand()
        parser.parse_punctuation(",")
        memref = parser.parse_unresolved_operand()
        indices, offsets, rows, active = _parse_place(parser)
        attributes, (memref_type, type_) = parse_types(parser, MemRefType, TileType)
        target = parser.resolve_operand(memref, memref_type)
        op = cls(parser.resolve_operand(tile, type_), target, indices, offsets, rows, active)
        op.attributes |= attributes
        return op


@irdl_op_definition
class MmaOp(IRDLOperation):
    """Multiply two factors and add the products to an accumulator, in whose register they stay.

    The left factor has as many rows as the accumulator. The right one has as many groups of k as
    the left one's rows have, one in each row, and in a row a group for each of the accumulator's
    columns. What is added in which order is the instruction's business: its entry in the target's
    table says.

    ```mlir
    %sum = tile.mma %acc, %a, %b using "tile.bf16x16x16x32"
        : !tile.tile<16x16xf32>, !tile.tile<16x32xbf16>, !tile.tile<16x32xbf16>
    ```
    """

    name = "tile.mma"
    acc = operand_def(TileType)
    lhs = operand_def(TileType)
    rhs = operand_def(TileType)
    instruction = prop_def(StringAttr)
    result = result_def(TileType)

    traits = traits_def(Pure())

    def __init__(self, acc: SSAValue, lhs: SSAValue, rhs: SSAValue, instruction: str):
        super().__init__(
            operands=[acc, lhs, rhs],
            result_types=[acc.type],
            properties={"instruction": StringAttr(instruction)},
        )

    def verify_(self) -> None:
        """Refuse factors that don't fit the accumulator, or one another."""
        acc, lhs, rhs = (tile_type(value) for value in self.operands)
        if self.result.type != acc:
            raise VerifyException(f"the result is what the accumulator is, {acc}")
        if len({acc.scalable, lhs.scalable, rhs.scalable}) != 1:
            raise VerifyException("all three tiles are scalable, or none is")
        group, rest = divmod(rhs.shape[1], acc.shape[1])
        if rest:
            raise VerifyException(f"a row of {rhs} holds a group for each column of {acc}")
        if acc.scalable:
            if lhs.shape != (1, acc.shape[0] * group) or rhs.shape[0] != 1:
                raise VerifyException(
                    f"an outer product of {lhs} and {rhs} has not the shape of {acc}"
                )
        elif lhs.shape != (acc.shape[0], rhs.shape[0] * group):
            raise VerifyException(f"{lhs} and {rhs} have not the product {acc}")

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        printer.print_string(" ")
        printer.print_list(self.operands, printer.print_ssa_value)
        printer.print_string(" using ")
        printer.print_string_literal(self.instruction.data)
        print_types(printer, self.attributes, [value.type for value in self.operands])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        values = [parser.parse_unresolved_operand()]
        for _ in range(2):
            parser.parse_punctuation(",")
            values.append(parser.parse_unresolved_operand())
        parser.parse_keyword("using")
        instruction = parser.parse_str_literal()
        attributes, types = parse_types(parser, TileType, TileType, TileType)
        acc, lhs, rhs = (parser.resolve_operand(v, t) for v, t in zip(values, types, strict=True))
        op = cls(acc, lhs, rhs, instruction)
        op.attributes |= attributes
        return op


# --------------------------------------------------------------------------------- registers


class RegisterFile:
    """Which register each tile of a function lies in, found by following values through it."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._of: dict[SSAValue, int] = {}

    def __getitem__(self, value: SSAValue) -> int:
        """The number of a tile's register."""
        return self._of[value]

    def __contains__(self, value: SSAValue) -> bool:
        """Whether a tile's register is known."""
        return value in self._of

    def place(self, value: SSAValue, register: int) -> None:
        """Say where a tile lies."""
        self._of[value] = register


def is_in_file(type_: Attribute) -> bool:
    """Whether a value lies in a tile register, and not in a vector register."""
    return isinstance(type_, TileType) and not (type_.scalable and type_.shape[0] == 1)


def verify_registers(body: Block, shapes: Sequence[TileType]) -> RegisterFile:
    """Give each tile in a function its register, and check that no value loses it before its use.

    Args:
        body: the function's entry block.
        shapes: the configured shape of each register.

    Returns:
        Where each tile lies.

    Raises:
        VerifyException: for a value without a register, a register that is configured otherwise,
            and a value whose register another one took before the value's last use, in the next
            turn of a loop too.
    """
    registers = RegisterFile()
    held: dict[int, SSAValue] = {}
    for op in _in_order(body):
        _follow(op, shapes, registers, held)
    return registers


def _in_order(block: Block) -> Iterator[Operation]:
    """The operations of a block and of those nested in it, as they are first reached."""
    for op in block.ops:
        yield op
        for region in op.regions:
            for inner in region.blocks:
                yield from _in_order(inner)


def _follow(
    op: Operation,
    shapes: Sequence[TileType],
    registers: RegisterFile,
    held: dict[int, SSAValue],
) -> None:
    """What one operation does to the registers; `held` says what each one holds."""

    def take(value: SSAValue, register: int) -> None:
        type_ = tile_type(value)
        if type_.scalable:
            registers.place(value, register)
            held[register] = value
            return
        if register >= len(shapes) or shapes[register] != type_:
            configured = shapes[register] if register < len(shapes) else "nothing"
            raise VerifyException(f"register {register} is configured as {configured}, not {type_}")
        registers.place(value, register)
        held[register] = value

    for operand in op.operands:
        if not is_in_file(operand.type):
            continue
        if held.get(registers[operand]) is not operand:
            raise VerifyException(
                f"register {registers[operand]} holds another tile than {op.name} is given"
            )
    match op:
        case ZeroOp() | LoadOp() if is_in_file(op.result.type):
            if op.register is None:
                raise VerifyException(f"{op.name} must say into which register")
            take(op.result, op.register.value.data)
        case MmaOp():
            take(op.result, registers[op.acc])
        case scf.ForOp():
            for initial, inside, after in zip(
                op.iter_args, op.body.block.args[1:], op.res, strict=True
            ):
                if is_in_file(initial.type):
                    take(inside, registers[initial])
                    registers.place(after, registers[initial])
        case scf.YieldOp() if isinstance(op.parent_op(), scf.ForOp):
            parent = op.parent_op()
            assert parent is not None
            for value, result in zip(op.operands, parent.results, strict=True):
                if is_in_file(value.type):
                    if registers[value] != registers[result]:
                        raise VerifyException("a loop must leave a tile in the register it had")
                    held[registers[result]] = result
            for value in _from_outside(parent):
                if held.get(registers[value]) is not value:
                    raise VerifyException(
                        f"register {registers[value]} holds another tile in the loop's next turn"
                    )
        case scf.YieldOp() if isinstance(op.parent_op(), scf.IfOp):
            parent = op.parent_op()
            assert parent is not None
            for value, result in zip(op.operands, parent.results, strict=True):
                if is_in_file(value.type):
                    if result in registers and registers[result] != registers[value]:
                        raise VerifyException("both branches must leave a tile in one register")
                    registers.place(result, registers[value])
                    held[registers[value]] = result
        case ConfigureOp() | ReleaseOp():
            held.clear()
        case _:
            pass


def _from_outside(loop: Operation) -> Iterator[SSAValue]:
    """The tiles that a loop uses, but neither makes nor carries."""
    for op in loop.walk():
        for value in op.operands if op is not loop else ():
            if is_in_file(value.type) and not loop.is_ancestor(value.owner):
                yield value


Tile = Dialect(
    "tile",
    [ConfigureOp, ReleaseOp, VscaleOp, ZeroOp, LoadOp, StoreOp, MmaOp],
    [TileType],
)
