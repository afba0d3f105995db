"""The `nanokernel` dialect: a matrix product whole, and composed of nanokernels.

It holds two of nkdsl's levels. *Whole*: one `gemm` op says what to compute, on operands of any
layout, and carries its plan. *Composed*: loops around `step`s, each one step of the reduction on
a block of accumulators that is one SSA value until the last pass unrolls it.

```mlir
// whole
nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<64x256xf32>, memref<256x96xf32>)
    outs(%c[m, n] : memref<64x96xf32>) plan #nanokernel.plan<target = "znver5", ...>

// composed
%acc = nanokernel.load %c[m: %i, n: %j]
    : memref<64x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
%done = scf.for %k = %c0 to %c256 step %c4 iter_args(%part = %acc) -> (!nanokernel.block<...>) {
  %next = nanokernel.step %part, %a[m: %i, k: %k], %b[k: %k, n: %j] depth 4 using "fma.f32x16"
      : memref<64x256xf32>, memref<256x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
  scf.yield %next : !nanokernel.block<8x48xf32, lanes = n>
}
nanokernel.store %done, %c[m: %i, n: %j]
    : memref<64x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
```

Iterators are called by kind: b (batch: in both factors and the result), m (left factor and
result), n (right factor and result), k (both factors, summed over). Several of each are allowed,
so blocked layouts, batch-reduce and transposes are index maps and not ops of their own. So are
factors in *groups* of k, as instructions with k > 1 take them ("VNNI layout"): `k floordiv 2`
counts groups of two steps of the reduction, `k mod 2` says which of the two; in composed form the
dimension within a group has the tag g, and the index tagged k then counts groups.

Imports: xDSL, `nkdsl.types` and `dialects.syntax` only.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    I64,
    AffineMapAttr,
    AnyFloat,
    AnyFloatConstr,
    ArrayAttr,
    DenseArrayBase,
    DictionaryAttr,
    FlatSymbolRefAttrConstr,
    IndexType,
    IntAttr,
    IntegerAttr,
    IntegerType,
    MemRefType,
    StringAttr,
    SymbolRefAttr,
    UnitAttr,
    i1,
    i8,
    i32,
    i64,
)
from xdsl.dialects.utils import AbstractYieldOperation
from xdsl.ir import (
    Attribute,
    Block,
    BlockArgument,
    Dialect,
    ParametrizedAttribute,
    Region,
    SSAValue,
    TypeAttribute,
)
from xdsl.ir.affine import (
    AffineBinaryOpExpr,
    AffineBinaryOpKind,
    AffineConstantExpr,
    AffineDimExpr,
    AffineExpr,
    AffineMap,
)
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    lazy_traits_def,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    opt_region_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.parser import AttrParser, Parser, UnresolvedOperand
from xdsl.printer import Printer
from xdsl.traits import (
    HasParent,
    IsTerminator,
    MemoryReadEffect,
    MemoryWriteEffect,
    NoMemoryEffect,
    Pure,
)
from xdsl.utils.exceptions import VerifyException

from nkdsl.dialects.indexing import offsets_attr
from nkdsl.dialects.syntax import located, parse_i64, parse_types, print_types
from nkdsl.types import element_type_of

KINDS = ("b", "m", "n", "k")
"""The kinds of iterators: batch, rows, columns, reduction."""

LANES = ("m", "n", "k")
"""The kinds that a block extends along; one of them lies along the lanes of a register."""

TAGS = (*LANES, "g")
"""How the dimensions that a block extends along are tagged; g is the one within a group of k."""

_KINDS_HELP = "b indexes lhs, rhs and out, m lhs and out, n rhs and out, k lhs and rhs"

_ITERATOR_NAME = rf"[{''.join(KINDS)}][0-9]*"

WORKSPACE_ALIGNMENT = 64
"""Bytes: the workspace and each of its parts start at a multiple, a cache line of every target."""

TARGET_ATTRIBUTE = "nanokernel.target"
"""The function attribute that names the target a function was planned for."""

FILLED_ATTRIBUTE = "nanokernel.filled"
"""The attribute of a product of which a factor in groups may be longer than the reduction: it was
filled up with zeros, to whole tiles."""

UNSIGNED_ATTRIBUTE = "nanokernel.unsigned"
"""The attribute of a function's argument whose integers have no sign."""


def is_unsigned(argument: BlockArgument) -> bool:
    """Whether a function says that an argument's integers have no sign."""
    function = argument.owner.parent_op()
    attributes = None if function is None else function.properties.get("arg_attrs")
    if not isinstance(attributes, ArrayAttr) or argument.index >= len(attributes):
        return False
    told = attributes.data[argument.index]
    return isinstance(told, DictionaryAttr) and UNSIGNED_ATTRIBUTE in told.data


# ----------------------------------------------------------------------------- attributes


@irdl_attr_definition
class BlockType(ParametrizedAttribute, TypeAttribute):
    """A block of M×N accumulators, `!nanokernel.block<8x48xf32, lanes = n>`.

    `lanes` says which dimension lies along the vector lanes; with `lanes = k` each accumulator is
    a whole register of partial sums, added up when the block is stored.

    A block may be one of tiles, `!nanokernel.block<32x32xf32, lanes = n, tiles = 16x16>`: registers
    that hold matrices, whose rows lie along the lanes. With `scalable` all sizes are that many
    times the processor's vector length in units of 128 bits.
    """

    name = "nanokernel.block"

    rows: IntAttr
    columns: IntAttr
    element_type: Attribute
    lanes: StringAttr
    tile_rows: IntAttr
    tile_columns: IntAttr
    scaled: IntAttr

    @classmethod
    def of(
        cls,
        rows: int,
        columns: int,
        element_type: Attribute,
        lanes: str,
        tiles: tuple[int, int] | None = None,
        *,
        scalable: bool = False,
    ) -> Self:
        """The type of a rows×columns block, of vector registers or of tiles of some (M, N)."""
        height, width = tiles or (0, 0)
        return cls(
            *(IntAttr(rows), IntAttr(columns), element_type, StringAttr(lanes)),
            *(IntAttr(height), IntAttr(width), IntAttr(int(scalable))),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(M, N); to be multiplied if the block is scalable."""
        return self.rows.data, self.columns.data

    @property
    def tiles(self) -> tuple[int, int] | None:
        """(M, N) of one of its tiles; None for a block of vector registers."""
        shape = self.tile_rows.data, self.tile_columns.data
        return shape if shape != (0, 0) else None

    @property
    def scalable(self) -> bool:
        """Whether all sizes are multiples of the vector length."""
        return bool(self.scaled.data)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Parse `<8x48xf32, lanes = n>`, with `tiles = 16x16` and `scalable` if it says so."""
        with parser.in_angle_brackets(), located(parser):
            start = parser.pos
            shape, element_type = parser.parse_shape()
            if shape is None or len(shape) != 2:
                parser.raise_error("a block has two dimensions, as in 8x48xf32", start, parser.pos)
            parser.parse_punctuation(",")
            parser.parse_keyword("lanes")
            parser.parse_punctuation("=")
            lanes = parser.parse_identifier()
            tiles, scalable = None, False
            if parser.parse_optional_punctuation(",") is not None:
                parser.parse_keyword("tiles")
                parser.parse_punctuation("=")
                tiles = _parse_plan_block(parser)
                scalable = parser.parse_optional_punctuation(",") is not None
            if scalable:
                parser.parse_keyword("scalable")
            rows, columns = shape
            block = cls.of(rows, columns, element_type, lanes, tiles, scalable=scalable)
            return block.parameters

    def print_parameters(self, printer: Printer) -> None:
        """Print `<8x48xf32, lanes = n>`."""
        rows, columns = self.shape
        with printer.in_angle_brackets():
            printer.print_string(f"{rows}x{columns}x")
            printer.print_attribute(self.element_type)
            printer.print_string(f", lanes = {self.lanes.data}")
            if self.tiles is not None:
                printer.print_string(f", tiles = {self.tiles[0]}x{self.tiles[1]}")
            if self.scalable:
                printer.print_string(", scalable")

    def verify(self) -> None:
        """Refuse blocks without accumulators or of run-time size, and unknown words."""
        if DYNAMIC_INDEX in self.shape:
            raise VerifyException("a block lives in registers, so its size must be static")
        if min(self.shape) < 1:
            rows, columns = self.shape
            raise VerifyException(
                f"a block needs at least one row and one column, got {rows}x{columns}"
            )
        if not isinstance(self.element_type, AnyFloat | IntegerType):
            raise VerifyException(f"a block holds floats or integers, not {self.element_type}")
        if self.lanes.data not in LANES:
            raise VerifyException(
                f"lanes must be one of {', '.join(LANES)}, got '{self.lanes.data}'"
            )
        if self.tiles is not None and self.lanes.data == "k":
            raise VerifyException("tiles lie along m or n, not k")
        if self.tiles is not None and (
            min(self.tiles) < 1
            or any(size % tile for size, tile in zip(self.shape, self.tiles, strict=True))
        ):
            (rows, columns), (height, width) = self.shape, self.tiles
            raise VerifyException(f"tiles of {height}x{width} don't make up {rows}x{columns}")


_PLAN_CHOICES = {
    "lanes": LANES,
    "edges": ("even", "masked"),
    "resident": ("lhs", "rhs"),
    "pack": ("none", "lhs", "rhs", "both"),
    "ahead": ("none", "lhs", "rhs", "both"),
}
"""The words that each symbolic entry of a plan may hold."""

_PLAN_SIZES = ("k_unroll", "m_block", "n_block", "k_block", "prefetch", "pack_from", "threads")
"""The entries of a plan that count something."""

_PLAN_DEFAULTS: dict[str, int | str] = {
    "ahead": "none",
    "m_block": 0,
    "n_block": 0,
    "pack_from": 0,
    "threads": 1,
}
"""The entries that are not printed where they say nothing."""

_PLAN_NAMES = ("target", "instruction", *_PLAN_CHOICES, *_PLAN_SIZES)
"""The entries but `block`."""

_PLAN_REQUIRED = ("target", "instruction", "block")
"""The entries that no plan may leave out."""


@irdl_attr_definition
class PlanAttr(ParametrizedAttribute):
    """The rules that a product is compiled by, found by the planner or written by hand.

    Rules, not lists: they hold for any sizes. `k_unroll` and `prefetch` count steps of the
    reduction, `block` counts accumulators, M×N.
    """

    name = "nanokernel.plan"

    target: StringAttr
    instruction: StringAttr
    rows: IntAttr
    columns: IntAttr
    lanes: StringAttr
    edges: StringAttr
    k_unroll: IntAttr
    resident: StringAttr
    prefetch: IntAttr
    pack: StringAttr
    ahead: StringAttr
    k_block: IntAttr
    m_block: IntAttr
    n_block: IntAttr
    pack_from: IntAttr
    threads: IntAttr

    @classmethod
    def of(
        cls,
        *,
        target: str,
        instruction: str,
        block: tuple[int, int],
        lanes: str = "n",
        edges: str = "even",
        k_unroll: int = 1,
        resident: str = "rhs",
        prefetch: int = 0,
        pack: str = "none",
        ahead: str = "none",
        k_block: int = 0,
        m_block: int = 0,
        n_block: int = 0,
        pack_from: int = 0,
        threads: int = 1,
    ) -> Self:
        """A plan from Python values.

        Args:
            target: the target's name.
            instruction: one of the target's instructions.
            block: accumulators in registers, (M, N).
            lanes: the dimension along the vector lanes, "m", "n" or "k".
            edges: how sizes that the block doesn't divide are covered: "even" splits them evenly;
                "masked" is the rule of a microkernel, one block that its sizes may fill in part.
            k_unroll: reduction steps in one turn of the inner loop.
            resident: the factor whose panel is reused by consecutive blocks ("lhs" or "rhs").
            prefetch: how many reduction steps ahead the streamed factors are asked for; 0: never.
            k_block: how much of the outermost reduction iterator is summed up before the next
                block of accumulators; the sums rest in the result meanwhile. 0: all of it.
            pack: the factors that are copied into the workspace first: "lhs", "rhs", "both" or
                "none".
            ahead: the factors of which the next register block's part is fetched while one is
                computed: asked for where it is read in place, instead of by `prefetch`, and
                packed where a panel of it is packed at a time.
            m_block: rows of lhs that are kept in an outer cache while a part of the reduction is
                summed up; 0: all of them. Where it or n_block is given, or a size is known only at
                run time, the product is cut into cache blocks.
            n_block: columns of rhs, likewise.
            pack_from: nothing is packed, unless it can't be read in place, where rows or columns
                are fewer; for sizes known only at run time.
            threads: how many threads share the product; 1: the caller's own.
        """
        return cls(
            StringAttr(target),
            StringAttr(instruction),
            IntAttr(block[0]),
            IntAttr(block[1]),
            StringAttr(lanes),
            StringAttr(edges),
            IntAttr(k_unroll),
            StringAttr(resident),
            IntAttr(prefetch),
            StringAttr(pack),
            StringAttr(ahead),
            IntAttr(k_block),
            IntAttr(m_block),
            IntAttr(n_block),
            IntAttr(pack_from),
            IntAttr(threads),
        )

    @property
    def blocked(self) -> bool:
        """Whether the product is cut into cache blocks."""
        return bool(self.m_block.data or self.n_block.data)

    def packs(self, role: str) -> bool:
        """Whether a factor, `lhs` or `rhs`, is packed."""
        return self.pack.data in (role, "both")

    def asks_ahead(self, role: str) -> bool:
        """Whether the next block's part of a factor, `lhs` or `rhs`, is asked for ahead."""
        return self.ahead.data in (role, "both") and not self.packs(role)

    @property
    def asked_ahead(self) -> str:
        """The factors of which the next block's part is asked for: what `ahead` leaves in place."""
        asked = [role for role in ("lhs", "rhs") if self.asks_ahead(role)]
        return "both" if len(asked) == 2 else "".join(asked) or "none"

    def packs_ahead(self, role: str) -> bool:
        """Whether the next block's part of a factor, `lhs` or `rhs`, is packed ahead."""
        return self.ahead.data in (role, "both") and self.packs(role)

    def with_entries(self, **entries: Any) -> Self:
        """The same plan with other values of some entries, as `of` takes them."""
        old = {name: getattr(self, name).data for name in _PLAN_NAMES}
        return self.of(**{"block": self.block, **old, **entries})

    @property
    def block(self) -> tuple[int, int]:
        """Accumulators in registers, (M, N)."""
        return self.rows.data, self.columns.data

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        """Parse `<key = value, ...>`; target, instruction and block are required."""
        values: dict[str, Any] = {}

        def parse_entry() -> None:
            key, value = _parse_plan_entry(parser, known=values)
            values[key] = value

        with parser.in_angle_brackets(), located(parser):
            parser.parse_comma_separated_list(parser.Delimiter.NONE, parse_entry)
            for key in _PLAN_REQUIRED:
                if key not in values:
                    raise VerifyException(f"a plan needs an entry '{key}'")
            return cls.of(**values).parameters

    def print_parameters(self, printer: Printer) -> None:
        """Print `<key = value, ...>`."""
        mr, nr = self.block
        with printer.in_angle_brackets():
            printer.print_string("target = ")
            printer.print_string_literal(self.target.data)
            printer.print_string(", instruction = ")
            printer.print_string_literal(self.instruction.data)
            printer.print_string(f", block = {mr}x{nr}")
            for key in ("lanes", "edges", "k_unroll", "k_block", "resident", "prefetch", "pack"):
                printer.print_string(f", {key} = {getattr(self, key).data}")
            for key, default in _PLAN_DEFAULTS.items():
                if getattr(self, key).data != default:
                    printer.print_string(f", {key} = {getattr(self, key).data}")

    def verify(self) -> None:
        """Refuse words and sizes that no plan can have."""
        for key, choices in _PLAN_CHOICES.items():
            word = getattr(self, key).data
            if word not in choices:
                raise VerifyException(f"{key} must be one of {', '.join(choices)}, got '{word}'")
        if DYNAMIC_INDEX in self.block:
            raise VerifyException("a block lives in registers, so its size must be static")
        if min(self.block) < 1:
            mr, nr = self.block
            raise VerifyException(f"a block needs at least one row and one column, got {mr}x{nr}")
        if self.k_unroll.data < 1:
            raise VerifyException(f"k_unroll must be at least 1, got {self.k_unroll.data}")
        if self.threads.data < 1:
            raise VerifyException(f"threads must be at least 1, got {self.threads.data}")
        for key in ("m_block", "n_block", "k_block", "pack_from", "prefetch"):
            if getattr(self, key).data < 0:
                raise VerifyException(f"{key} must not be negative, got {getattr(self, key).data}")


def _parse_plan_entry(parser: AttrParser, known: Mapping[str, Any]) -> tuple[str, Any]:
    """Parse `key = value`, one entry of a plan that has the `known` ones already."""
    start = parser.pos
    key = parser.parse_identifier()
    end = parser.pos
    if key in known:
        parser.raise_error(f"'{key}' is written twice in this plan", start, end)
    if key not in (*_PLAN_REQUIRED, *_PLAN_CHOICES, *_PLAN_SIZES):
        entries = ", ".join((*_PLAN_REQUIRED, *_PLAN_CHOICES, *_PLAN_SIZES))
        parser.raise_error(f"a plan has no entry '{key}'; its entries are: {entries}", start, end)
    parser.parse_punctuation("=")
    if key == "block":
        return key, _parse_plan_block(parser)
    if key in _PLAN_CHOICES:
        return key, parser.parse_identifier()
    return key, parse_i64(parser) if key in _PLAN_SIZES else parser.parse_str_literal()


def _parse_plan_block(parser: AttrParser) -> tuple[int, int]:
    """Parse `8x48`."""
    start = parser.pos
    dimensions = parser.parse_dimension_list()
    if len(dimensions) != 2:
        parser.raise_error("a block has two dimensions, as in 8x48", start, parser.pos)
    return dimensions[0], dimensions[1]


# ------------------------------------------------------------------------------ index maps


def linear_coefficients(expr: AffineExpr, num_dims: int) -> tuple[list[int], int] | None:
    """Coefficient of each dimension and the constant of a linear expression, or None."""
    zero = [0] * num_dims
    match expr:
        case AffineDimExpr(position=position):
            return [int(d == position) for d in range(num_dims)], 0
        case AffineConstantExpr(value=value):
            return zero, value
        case AffineBinaryOpExpr(kind=kind, lhs=lhs, rhs=rhs):
            left, right = linear_coefficients(lhs, num_dims), linear_coefficients(rhs, num_dims)
            if left is None or right is None:
                return None
            return _combine_linear(kind, left, right)
        case _:
            return None


def _combine_linear(
    kind: AffineBinaryOpKind, left: tuple[list[int], int], right: tuple[list[int], int]
) -> tuple[list[int], int] | None:
    (lc, lk), (rc, rk) = left, right
    match kind:
        case AffineBinaryOpKind.Add:
            return [x + y for x, y in zip(lc, rc, strict=True)], lk + rk
        case AffineBinaryOpKind.Mul if not any(rc):
            return [x * rk for x in lc], lk * rk
        case AffineBinaryOpKind.Mul if not any(lc):
            return [x * lk for x in rc], lk * rk
        case _:
            return None


@dataclass(frozen=True)
class GroupIndex:
    """An index that cuts an iterator into groups: `k floordiv 2`, or within one, `k mod 2`."""

    position: int
    """The iterator."""
    size: int
    """Its values in a group."""
    within: bool
    """Whether it counts within a group."""


def group_index(expr: AffineExpr) -> GroupIndex | None:
    """An index expression as one of groups, or None."""
    match expr:
        case AffineBinaryOpExpr(
            kind=AffineBinaryOpKind.FloorDiv | AffineBinaryOpKind.Mod as kind,
            lhs=AffineDimExpr(position=position),
            rhs=AffineConstantExpr(value=size),
        ) if size > 1:
            return GroupIndex(position, size, kind is AffineBinaryOpKind.Mod)
        case _:
            return None


def dims_of(map_: AffineMap) -> frozenset[int]:
    """The iterators that a map depends on."""
    used: set[int] = set()
    for result in map_.results:
        used |= result.used_dims()
    return frozenset(used)


def iterator_kinds(lhs: AffineMap, rhs: AffineMap, out: AffineMap) -> tuple[str, ...]:
    """The kind of each iterator, by the operands it indexes; `?` where it is none of b, m, n, k."""
    by_use = {
        (True, True, True): "b",
        (True, False, True): "m",
        (False, True, True): "n",
        (True, True, False): "k",
    }
    uses = [dims_of(m) for m in (lhs, rhs, out)]
    return tuple(
        by_use.get((d in uses[0], d in uses[1], d in uses[2]), "?") for d in range(lhs.num_dims)
    )


def iterator_names(kinds: Sequence[str]) -> tuple[str, ...]:
    """Readable names: the kind, numbered where several iterators share it."""
    names: list[str] = []
    for position, kind in enumerate(kinds):
        alone = kinds.count(kind) == 1
        names.append(kind if alone else f"{kind}{kinds[:position].count(kind)}")
    return tuple(names)


def canonical_maps(maps: Sequence[AffineMap]) -> tuple[AffineMap, ...]:
    """The same maps with the iterators numbered in order of first use."""
    order: list[int] = []
    for map_ in maps:
        for result in map_.results:
            order += [d for d in sorted(result.used_dims()) if d not in order]
    order += [d for d in range(maps[0].num_dims) if d not in order]
    new = [AffineExpr.dimension(order.index(d)) for d in range(len(order))]
    return tuple(m.replace_dims_and_symbols(new, (), len(order), 0) for m in maps)


def _print_expr(expr: AffineExpr, names: Sequence[str]) -> str:
    """`2 * k0 + k1`, or `k mod 2`."""
    if (group := group_index(expr)) is not None:
        return f"{names[group.position]} {'mod' if group.within else 'floordiv'} {group.size}"
    linear = linear_coefficients(expr, len(names))
    assert linear is not None
    coefficients, constant = linear
    terms = [
        name if factor == 1 else f"{factor} * {name}"
        for factor, name in zip(coefficients, names, strict=True)
        if factor
    ]
    if constant or not terms:
        terms.append(str(constant))
    return " + ".join(terms)


_Terms = list[tuple[int, int | None]] | GroupIndex
"""An index while it is parsed: if linear, (factor, iterator) pairs, no iterator for a constant."""


def _parse_iterator(parser: Parser, names: list[str]) -> int:
    """Parse the name of an iterator into its position in `names`; a new one is appended."""
    start = parser.pos
    name = parser.parse_identifier(" of an iterator")
    if re.fullmatch(_ITERATOR_NAME, name) is None:
        parser.raise_error(
            f"an iterator is called b, m, n or k, or that and a number, not {name}",
            start,
            parser.pos,
        )
    if name not in names:
        names.append(name)
    return names.index(name)


def _parse_expr(parser: Parser, names: list[str]) -> _Terms:
    """Parse an index into (factor, iterator) terms or one of groups; new names are appended."""
    terms: list[tuple[int, int | None]] = []
    while True:
        factor = parser.parse_optional_integer(allow_boolean=False)
        if factor is None:
            iterator = _parse_iterator(parser, names)
            word = parser.parse_optional_keyword_in(("floordiv", "mod"))
            if word is not None and not terms:
                return GroupIndex(iterator, parse_i64(parser), word == "mod")
            terms.append((1, iterator))
        elif parser.parse_optional_characters("*") is not None:
            terms.append((factor, _parse_iterator(parser, names)))
        else:
            terms.append((factor, None))
        if parser.parse_optional_characters("+") is None:
            return terms


def _build_map(results: Sequence[_Terms], num_dims: int) -> AffineMap:
    """The map whose results are the given expressions."""

    def build(terms: _Terms) -> AffineExpr:
        if isinstance(terms, GroupIndex):
            iterator = AffineExpr.dimension(terms.position)
            return iterator % terms.size if terms.within else iterator // terms.size
        total = AffineExpr.constant(0)
        for factor, dim in terms:
            one = AffineExpr.constant(1) if dim is None else AffineExpr.dimension(dim)
            total = total + one * factor
        return total

    return AffineMap(num_dims, 0, tuple(build(terms) for terms in results))


# ------------------------------------------------------------------------------------- ops


def _memref(value: SSAValue) -> MemRefType:
    """The type of a value that is constrained to be a memref."""
    assert isinstance(value.type, MemRefType)
    return value.type


@irdl_op_definition
class YieldOp(AbstractYieldOperation[Attribute]):
    """Ends an epilogue with the value to store, an element of the result."""

    name = "nanokernel.yield"

    traits = lazy_traits_def(lambda: (IsTerminator(), HasParent(GemmOp, StoreOp), Pure()))


@irdl_op_definition
class GemmOp(IRDLOperation):
    """A whole product: `out = epilogue(out + sum over k of lhs * rhs)`.

    Products are added up in a type that is wide enough: f32 for factors of bf16 and f16, i32 for
    those of i8, else their own. Of the i8 factors those named by `unsigned`, `lhs`, `rhs` or
    `both`, hold numbers from 0 to 255. A result of a narrower floating-point type is rounded once,
    at the end.

    With `from zero` the sum starts at zero and `out` is never read; with `from zero if %flag` that
    is decided at run time. With `scale %alpha, %beta` the product is `beta * out + alpha * sum`, as
    in BLAS. The epilogue is a region as in linalg.generic: its first argument is the sum in the
    accumulator's type, further ones are elements of `extras`, whose maps use batch, row and column
    iterators only. Without a region the sum is stored as it is. It runs once, after the last step
    of the reduction.

    ```mlir
    // relu(a * b + bias), where a is blocked by two along k
    nanokernel.gemm ins(%a[m, 2 * k0 + k1], %b[k0, n, k1]
            : memref<64x256xf32>, memref<128x96x2xf32>)
        outs(%c[m, n] : memref<64x96xf32>) from zero epilogue(%bias[n] : memref<96xf32>) {
    ^bb0(%sum: f32, %b_n: f32):
      %biased = arith.addf %sum, %b_n : f32
      %zero = arith.constant 0.0 : f32
      %relu = arith.maximumf %biased, %zero : f32
      nanokernel.yield %relu : f32
    }
    ```

    With `start(%sums[n] : memref<96xi32>)` each sum starts at an element that makes up for this:
    the highest bits of the other factor, here lhs, are flipped, so that its numbers have the other
    sign, and are 128 larger or smaller. The elements are -128, or 128, times the sums over k of the
    factor whose iterators, of kind n or m, index them; that is loaded as registers. What flipped
    zeros of a last group are multiplied with counts, too. With `start(...) if %flag` it is decided
    at run time whether the sums start there or at zero.

    With `keep %panel` a microkernel also copies the factor that it loads as registers, as
    `nanokernel.pack` would, for those that follow. With `pack %source into %panel` it also copies
    the rows of a matrix as wide as its block, for those that come much later.

    An index is a linear expression of iterators, whose names have no meaning beyond their kind:
    they are numbered anew, in order of first use, when the op is made or printed. Each iterator
    must index some dimension alone, which gives its extent. A factor may hold an iterator of kind k
    in groups, `%b[k floordiv 2, n, k mod 2]`: what its last group lacks is zero. If both do, k ends
    with a whole group. The result is memory of its own, not
    a factor: a block is stored while others still have to read the factors.
    """

    name = "nanokernel.gemm"

    lhs = operand_def(MemRefType)
    rhs = operand_def(MemRefType)
    out = operand_def(MemRefType)
    extras = var_operand_def(MemRefType)
    first = opt_operand_def(i1)
    alpha = opt_operand_def(AnyFloatConstr)
    beta = opt_operand_def(AnyFloatConstr)
    kept = opt_operand_def(MemRefType)
    source = opt_operand_def(MemRefType)
    panel = opt_operand_def(MemRefType)
    start = opt_operand_def(MemRefType)
    begins = opt_operand_def(i1)
    maps = prop_def(ArrayAttr[AffineMapAttr])
    start_map = opt_prop_def(AffineMapAttr)
    unsigned = opt_prop_def(StringAttr)
    from_zero = opt_prop_def(UnitAttr)
    plan = opt_prop_def(PlanAttr)
    epilogue = opt_region_def("single_block")

    irdl_options = (AttrSizedOperandSegments(as_property=True),)

    traits = traits_def(MemoryReadEffect(), MemoryWriteEffect())

    def __init__(
        self,
        lhs: SSAValue,
        rhs: SSAValue,
        out: SSAValue,
        maps: Sequence[AffineMap],
        *,
        unsigned: str | None = None,
        extras: Sequence[SSAValue] = (),
        from_zero: bool = False,
        first: SSAValue | None = None,
        scale: tuple[SSAValue, SSAValue] | None = None,
        kept: SSAValue | None = None,
        packed: tuple[SSAValue, SSAValue] | None = None,
        start: tuple[SSAValue, AffineMap] | None = None,
        begins: SSAValue | None = None,
        plan: PlanAttr | None = None,
        epilogue: Region | None = None,
    ):
        """`first` decides at run time whether the sum starts at zero, `begins` whether at `start`.

        `unsigned`: the factors that are, `lhs`, `rhs` or `both`; `scale`: (alpha, beta); `packed`:
        (source, panel); `start`: the vector, and its map.
        """
        alpha, beta = scale or (None, None)
        value, start_map = start or (None, None)
        every = canonical_maps(maps if start_map is None else [*maps, start_map])
        super().__init__(
            operands=[
                *(lhs, rhs, out, extras, first, alpha, beta, kept),
                *(packed or (None, None)),
                *(value, begins),
            ],
            properties={
                "maps": ArrayAttr([AffineMapAttr(m) for m in every[: len(maps)]]),
                "start_map": None if start_map is None else AffineMapAttr(every[-1]),
                "unsigned": StringAttr(unsigned) if unsigned else None,
                "from_zero": UnitAttr() if from_zero else None,
                "plan": plan,
            },
            regions=[[epilogue] if epilogue is not None else []],
        )

    @property
    def indexing_maps(self) -> tuple[AffineMap, ...]:
        """The maps of lhs, rhs, out and the extras."""
        return tuple(m.data for m in self.maps)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each iterator."""
        lhs, rhs, out = self.indexing_maps[:3]
        return iterator_kinds(lhs, rhs, out)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The extent of each iterator; -1 where it is known only at run time."""
        sizes: dict[int, int] = {}
        for extent, index in self._dimensions():
            if isinstance(index, AffineDimExpr):
                known = sizes.get(index.position, -1)
                sizes[index.position] = max(known, extent)  # DYNAMIC_INDEX is far below -1
        for extent, index in self._dimensions():
            group = group_index(index)
            if group is not None and not group.within and group.position not in sizes:
                sizes[group.position] = -1 if extent == DYNAMIC_INDEX else extent * group.size
        return tuple(sizes[d] for d in range(len(self.kinds)))

    def _dimensions(self) -> Iterator[tuple[int, AffineExpr]]:
        """Every dimension of every operand: its extent, and the expression that indexes it."""
        for operand, map_ in zip(self.memrefs, self.indexing_maps, strict=True):
            yield from zip(_memref(operand).get_shape(), map_.results, strict=True)

    @property
    def memrefs(self) -> tuple[SSAValue, ...]:
        """lhs, rhs, out and the extras."""
        return self.lhs, self.rhs, self.out, *self.extras

    @property
    def is_filled(self) -> bool:
        """Whether groups of a factor go on beyond the reduction, as zeros."""
        return FILLED_ATTRIBUTE in self.attributes

    def is_unsigned(self, role: str) -> bool:
        """Whether the integers of a factor, `lhs` or `rhs`, have no sign."""
        return self.unsigned is not None and self.unsigned.data in (role, "both")

    @property
    def started(self) -> tuple[SSAValue, AffineMap] | None:
        """What the sums start with and its map, if they don't start at zero."""
        if self.start is None or self.start_map is None:
            return None
        return self.start, self.start_map.data

    @property
    def added_up(self) -> Literal["lhs", "rhs"] | None:
        """The factor whose sums over k those of the product start with, if they do."""
        if self.start_map is None:
            return None
        kinds = {self.kinds[position] for position in dims_of(self.start_map.data)}
        return "lhs" if kinds == {"m"} else "rhs"

    @property
    def accumulator(self) -> Attribute:
        """The element type of the sums; raises `Unsupported` for unknown factors."""
        return element_type_of(_memref(self.lhs).element_type).accumulator.mlir

    def verify_(self) -> None:
        """Refuse maps that state no product, operands that don't fit, and wrong epilogues."""
        self._verify_out()
        self._verify_unsigned()
        self._verify_maps()
        self._verify_kinds()
        self._verify_extents()
        self._verify_update()
        self._verify_epilogue()

    def _verify_update(self) -> None:
        if self.from_zero is not None and self.first is not None:
            raise VerifyException("'from zero' is either always or decided at run time")
        if (self.alpha is None) != (self.beta is None):
            raise VerifyException("scale needs alpha and beta")
        masked = self.plan is not None and self.plan.edges.data == "masked"
        for panel in (self.kept, self.panel):
            if panel is not None:
                if not masked:
                    raise VerifyException(
                        "a panel is filled by a microkernel, whose plan says masked"
                    )
                _verify_panel(panel, _memref(self.lhs).element_type)
        self._verify_start()
        if (self.source is None) != (self.panel is None):
            raise VerifyException("pack needs a source and a panel")
        if self.source is not None and self.panel is not None:
            source, panel_type = _memref(self.source), _memref(self.panel)
            if source.get_num_dims() != 2 or (
                source.get_shape()[1],
                source.element_type,
            ) != (panel_type.get_shape()[1], panel_type.element_type):
                raise VerifyException(f"{source} has no rows that fill those of {panel_type}")
        for value in (self.alpha, self.beta):
            if value is not None and value.type != self.accumulator:
                raise VerifyException(
                    f"alpha and beta have the element type of the sums, not {value.type}"
                )

    def _verify_start(self) -> None:
        if (self.start is None) != (self.start_map is None):
            raise VerifyException("what sums start with needs a map")
        if self.start is None or self.start_map is None:
            if self.begins is not None:
                raise VerifyException("'if' needs what the sums start with")
            return
        type_, map_ = _memref(self.start), self.start_map.data
        if type_.element_type != self.accumulator or _memref(self.lhs).element_type != i8:
            raise VerifyException(
                f"what sums of i8 products start with is of their type, {self.accumulator}, not "
                f"{type_.element_type}"
            )
        if map_.num_dims != len(self.kinds) or len(map_.results) != type_.get_num_dims():
            raise VerifyException(f"a map of {len(map_.results)} results can't index {type_}")
        alone = all(isinstance(r, AffineDimExpr | AffineConstantExpr) for r in map_.results)
        sides = [{p for p, kind in enumerate(self.kinds) if kind == side} for side in "mn"]
        if not alone or not dims_of(map_) or set(dims_of(map_)) not in sides:
            raise VerifyException(
                "what sums start with is indexed by all iterators of kind m, or n, each alone"
            )

    def _verify_out(self) -> None:
        for name, factor in (("lhs", self.lhs), ("rhs", self.rhs)):
            if factor is self.out:
                raise VerifyException(
                    f"{name} is also the result, which is written before {name} is read for the "
                    "last time; write to memory of its own, and copy the result from there"
                )

    def _verify_unsigned(self) -> None:
        if self.unsigned is None:
            return
        if self.unsigned.data not in ("lhs", "rhs", "both"):
            raise VerifyException(f"unsigned are lhs, rhs or both, not '{self.unsigned.data}'")
        for name, factor in (("lhs", self.lhs), ("rhs", self.rhs)):
            element = _memref(factor).element_type
            if self.is_unsigned(name) and not isinstance(element, IntegerType):
                raise VerifyException(f"{name} can't be unsigned: it holds {element}")

    def _verify_maps(self) -> None:
        if len(self.maps) != len(self.memrefs):
            raise VerifyException(
                f"expected one map an operand, {len(self.memrefs)}, got {len(self.maps)}"
            )
        num_dims = self.indexing_maps[0].num_dims
        for operand, map_ in zip(self.memrefs, self.indexing_maps, strict=True):
            if map_.num_dims != num_dims or map_.num_symbols:
                raise VerifyException("all maps must have the same iterators and no symbols")
            if len(map_.results) != _memref(operand).get_num_dims():
                raise VerifyException(
                    f"a map of {len(map_.results)} results can't index {operand.type}"
                )
            groups = [group_index(r) for r in map_.results]
            if any(
                group is None and linear_coefficients(r, num_dims) is None
                for r, group in zip(map_.results, groups, strict=True)
            ):
                raise VerifyException(f"maps must be linear, or cut k into groups, got {map_}")
            self._verify_groups(operand, groups)

    def _verify_groups(self, operand: SSAValue, groups: Sequence[GroupIndex | None]) -> None:
        """Refuse groups of anything but a factor's k, and those that no index walks within."""
        found = [group for group in groups if group is not None]
        if not found:
            return
        if operand not in (self.lhs, self.rhs) or any(
            self.kinds[group.position] != "k" for group in found
        ):
            raise VerifyException("only the k of a factor can be cut into groups")
        first, *rest = sorted(found, key=lambda group: group.within)
        if rest != [GroupIndex(first.position, first.size, True)] or first.within:
            raise VerifyException("groups need two indices, k floordiv and k mod the same number")
        dimension = groups.index(rest[0])
        if _memref(operand).get_shape()[dimension] != first.size:
            raise VerifyException(
                f"the index within groups of {first.size} needs a dimension of that size"
            )

    def _verify_kinds(self) -> None:
        for position, kind in enumerate(self.kinds):
            if kind == "?":
                raise VerifyException(f"iterator d{position} has no kind: {_KINDS_HELP}")

    def _verify_extents(self) -> None:
        names = iterator_names(self.kinds)
        extents: dict[int, int] = {}
        for extent, index in self._dimensions():
            if not isinstance(index, AffineDimExpr):
                continue
            known = extents.setdefault(index.position, extent)
            if known == DYNAMIC_INDEX:
                extents[index.position] = extent
            elif extent not in (known, DYNAMIC_INDEX):
                raise VerifyException(
                    f"iterator {names[index.position]} has extent {known} and {extent}"
                )
        for extent, index in self._dimensions():
            group = group_index(index)
            if group is not None and not group.within and group.position not in extents:
                # In groups everywhere: all of the last one counts.
                unknown = extent == DYNAMIC_INDEX
                extents[group.position] = extent if unknown else extent * group.size
        for position, name in enumerate(names):
            if position not in extents:
                raise VerifyException(f"no operand's dimension gives the extent of {name}")
        for extent, index in self._dimensions():
            group = group_index(index)
            if group is None or group.within or DYNAMIC_INDEX in (extent, extents[group.position]):
                continue
            needed = -(-extents[group.position] // group.size)
            if extent != needed and not (self.is_filled and extent > needed):
                raise VerifyException(
                    f"{extents[group.position]} steps of {names[group.position]} are "
                    f"{-(-extents[group.position] // group.size)} groups of {group.size}, not "
                    f"{extent}"
                )

    def _verify_epilogue(self) -> None:
        if self.epilogue is None:
            if self.extras:
                raise VerifyException("extra operands need an epilogue that uses them")
            return
        for map_ in self.indexing_maps[3:]:
            if any(self.kinds[d] == "k" for d in dims_of(map_)):
                raise VerifyException(
                    "the reduction is over when the epilogue runs: no k in extra operands"
                )
        _verify_body(self.epilogue.block, self.accumulator, self.extras, self.out)

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        starts = [] if self.start_map is None else [self.start_map.data]
        maps = canonical_maps([*self.indexing_maps, *starts])
        names = iterator_names(iterator_kinds(*maps[:3]))

        def print_access(pair: tuple[SSAValue, AffineMap]) -> None:
            printer.print_ssa_value(pair[0])
            results = ", ".join(_print_expr(r, names) for r in pair[1].results)
            printer.print_string(f"[{results}]")

        def print_group(values: Sequence[SSAValue], maps: Sequence[AffineMap]) -> None:
            with printer.in_parens():
                printer.print_list(list(zip(values, maps, strict=True)), print_access)
                printer.print_string(" : ")
                printer.print_list([v.type for v in values], printer.print_attribute)

        printer.print_string(" ins")
        print_group([self.lhs, self.rhs], maps[:2])
        if self.unsigned is not None:
            printer.print_string(f" unsigned {self.unsigned.data}")
        printer.print_string(" outs")
        print_group([self.out], maps[2:3])
        if self.from_zero is not None or self.first is not None:
            printer.print_string(" from zero")
        if self.first is not None:
            printer.print_string(" if ")
            printer.print_ssa_value(self.first)
        if self.alpha is not None and self.beta is not None:
            printer.print_string(" scale ")
            printer.print_list([self.alpha, self.beta], printer.print_ssa_value)
        if self.kept is not None:
            printer.print_string(" keep ")
            printer.print_ssa_value(self.kept)
            printer.print_string(" : ")
            printer.print_attribute(self.kept.type)
        if self.source is not None and self.panel is not None:
            printer.print_string(" pack ")
            printer.print_ssa_value(self.source)
            printer.print_string(" into ")
            printer.print_ssa_value(self.panel)
            printer.print_string(" : ")
            printer.print_list([self.source.type, self.panel.type], printer.print_attribute)
        if self.start is not None:
            printer.print_string(" start")
            print_group([self.start], maps[-1:])
        if self.begins is not None:
            printer.print_string(" if ")
            printer.print_ssa_value(self.begins)
        if self.plan is not None:
            printer.print_string(" plan ")
            printer.print_attribute(self.plan)
        if self.epilogue is not None:
            printer.print_string(" epilogue")
            if self.extras:
                print_group(self.extras, maps[3 : 3 + len(self.extras)])
            printer.print_string(" ")
            printer.print_region(self.epilogue)
        printer.print_op_attributes(self.attributes, print_keyword=True)

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        names: list[str] = []
        start = parser.pos
        parser.parse_keyword("ins")
        (lhs, rhs), factor_indices = _parse_group(parser, names, count=2)
        unsigned = None
        if parser.parse_optional_keyword("unsigned") is not None:
            unsigned = parser.parse_identifier()
        parser.parse_keyword("outs")
        (out,), out_indices = _parse_group(parser, names, count=1)
        from_zero = parser.parse_optional_keyword("from") is not None
        first = None
        if from_zero:
            parser.parse_keyword("zero")
            if parser.parse_optional_keyword("if") is not None:
                first = parser.resolve_operand(parser.parse_unresolved_operand(), i1)
        scale = None
        if parser.parse_optional_keyword("scale") is not None:
            element = element_type_of(_memref(lhs).element_type).accumulator.mlir
            alpha = parser.resolve_operand(parser.parse_unresolved_operand(), element)
            parser.parse_punctuation(",")
            scale = alpha, parser.resolve_operand(parser.parse_unresolved_operand(), element)
        kept = None
        if parser.parse_optional_keyword("keep") is not None:
            panel = parser.parse_unresolved_operand()
            parser.parse_punctuation(":")
            kept = parser.resolve_operand(panel, parser.parse_type())
        packed = None
        if parser.parse_optional_keyword("pack") is not None:
            source = parser.parse_unresolved_operand()
            parser.parse_keyword("into")
            panel = parser.parse_unresolved_operand()
            parser.parse_punctuation(":")
            source_type = parser.parse_type()
            parser.parse_punctuation(",")
            packed = (
                parser.resolve_operand(source, source_type),
                parser.resolve_operand(panel, parser.parse_type()),
            )
        starts: list[SSAValue] = []
        start_indices: list[list[_Terms]] = []
        begins = None
        if parser.parse_optional_keyword("start") is not None:
            starts, start_indices = _parse_group(parser, names, count=1)
            if parser.parse_optional_keyword("if") is not None:
                begins = parser.resolve_operand(parser.parse_unresolved_operand(), i1)
        plan = _parse_optional_plan(parser)
        extras: list[SSAValue] = []
        extra_indices: list[list[_Terms]] = []
        epilogue = None
        if parser.parse_optional_keyword("epilogue") is not None:
            if parser.parse_optional_punctuation("(") is not None:
                extras, extra_indices = _parse_group(parser, names)
            epilogue = parser.parse_region()
        attributes = parser.parse_optional_attr_dict_with_keyword()
        indices = [*factor_indices, *out_indices, *extra_indices]
        maps = [_build_map(index, len(names)) for index in indices]
        for name, kind in zip(names, iterator_kinds(*maps[:3]), strict=True):
            if name[0] != kind:
                parser.raise_error(
                    f"iterator {name} does not index as its name says: {_KINDS_HELP}", start
                )
        op = cls(
            lhs,
            rhs,
            out,
            maps,
            unsigned=unsigned,
            extras=extras,
            from_zero=from_zero and first is None,
            first=first,
            scale=scale,
            kept=kept,
            packed=packed,
            start=(starts[0], _build_map(start_indices[0], len(names))) if starts else None,
            begins=begins,
            plan=plan,
            epilogue=epilogue,
        )
        if attributes is not None:
            op.attributes |= attributes.data
        return op


def _parse_group(
    parser: Parser, names: list[str], count: int | None = None
) -> tuple[list[SSAValue], list[list[_Terms]]]:
    """Parse `(%a[m, k], %b[k, n] : type, type)` into operands and their indices.

    Without a `count` of operands the opening parenthesis has been parsed already.
    """
    indices: list[list[_Terms]] = []

    def parse_access() -> UnresolvedOperand:
        operand = parser.parse_unresolved_operand()
        indices.append(
            parser.parse_comma_separated_list(
                parser.Delimiter.SQUARE, lambda: _parse_expr(parser, names)
            )
        )
        return operand

    if count is not None:
        parser.parse_punctuation("(")
    start = parser.pos
    operands = parser.parse_comma_separated_list(parser.Delimiter.NONE, parse_access)
    if count is not None and len(operands) != count:
        plural = "s" if count > 1 else ""
        parser.raise_error(
            f"expected {count} operand{plural}, got {len(operands)}", start, parser.pos
        )
    parser.parse_punctuation(":")
    types = parser.parse_comma_separated_list(parser.Delimiter.NONE, parser.parse_type)
    values = list(parser.resolve_operands(operands, types, start))
    parser.parse_punctuation(")")
    return values, indices


def _parse_optional_plan(parser: Parser) -> PlanAttr | None:
    """Parse `plan #nanokernel.plan<...>` or nothing."""
    if parser.parse_optional_keyword("plan") is None:
        return None
    start = parser.pos
    plan = parser.parse_attribute()
    if not isinstance(plan, PlanAttr):
        parser.raise_error("expected a #nanokernel.plan", start)
    return plan


# ---- blocks and their memory: `%a[%b, m: %i, k: %k]`


def _verify_tagged(
    memref: SSAValue, indices: Sequence[SSAValue], dims: str, extents: Mapping[str, int]
) -> None:
    """Refuse an access that isn't one index a dimension, or lacks a dimension it extends along.

    `dims` holds the tag of each dimension, `_` for none; `extents` says which tags are allowed,
    each once, and how far the access extends along each.
    """
    type_ = _memref(memref)
    if len(indices) != type_.get_num_dims():
        raise VerifyException(
            f"expected {type_.get_num_dims()} indices for {type_}, got {len(indices)}"
        )
    if len(dims) != type_.get_num_dims():
        raise VerifyException(f"expected a tag or '_' for each dimension of {type_}, got '{dims}'")
    for tag in dims:
        if tag != "_" and (tag not in extents or dims.count(tag) > 1):
            raise VerifyException(
                f"dimensions may be tagged {' and '.join(extents)}, each once; got '{dims}'"
            )
    for tag, extent in extents.items():
        if tag not in dims and (extent > 1 or extent == DYNAMIC_INDEX):
            count = "any number of" if extent == DYNAMIC_INDEX else extent
            raise VerifyException(f"{count} elements along {tag} need a dimension {tag} of {type_}")


def _print_tagged(
    printer: Printer, memref: SSAValue, indices: Sequence[SSAValue], dims: str
) -> None:
    """Print `%a[%b, m: %i, k: %k]`."""

    def print_index(pair: tuple[SSAValue, str]) -> None:
        if pair[1] != "_":
            printer.print_string(f"{pair[1]}: ")
        printer.print_ssa_value(pair[0])

    printer.print_ssa_value(memref)
    with printer.in_square_brackets():
        printer.print_list(list(zip(indices, dims, strict=True)), print_index)


def _parse_tagged(parser: Parser) -> tuple[UnresolvedOperand, list[SSAValue], str]:
    """Parse `%a[%b, m: %i, k: %k]` into memref, indices and tags."""

    def parse_index() -> tuple[SSAValue, str]:
        start = parser.pos
        tag = parser.parse_optional_identifier()
        if tag is not None:
            if tag not in TAGS:
                parser.raise_error(
                    f"dimensions are tagged m, n, k or g, not {tag}", start, parser.pos
                )
            parser.parse_punctuation(":")
        value = parser.resolve_operand(parser.parse_unresolved_operand(), IndexType())
        return value, tag or "_"

    memref = parser.parse_unresolved_operand()
    pairs = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parse_index)
    return memref, [value for value, _ in pairs], "".join(tag for _, tag in pairs)


def _verify_panel(panel: SSAValue, element: Attribute) -> None:
    """Refuse what isn't a contiguous matrix of rows of known length, or of groups: K×W or K×W×G."""
    type_ = _memref(panel)
    shape, strides = type_.get_shape(), type_.get_strides()
    row = shape[1:]
    contiguous = tuple(math.prod(row[d:]) for d in range(len(row) + 1))
    if len(shape) not in (2, 3) or DYNAMIC_INDEX in row or strides != contiguous:
        raise VerifyException(f"a panel is a contiguous K×W or K×W×G memref, not {type_}")
    if type_.element_type != element:
        raise VerifyException(f"a panel has the element type of its source, {element}")


def panel_group(panel: MemRefType) -> int:
    """How many steps of the reduction a row of a panel holds."""
    shape = panel.get_shape()
    return shape[2] if len(shape) == 3 else 1


def _verify_body(body: Block, start: Attribute, extras: Sequence[SSAValue], out: SSAValue) -> None:
    """Refuse an epilogue's body that doesn't take a sum and extra elements, and give a result."""
    if len(body.args) != 1 + len(extras):
        raise VerifyException(
            "the epilogue takes the sum and one value an extra operand, "
            f"{1 + len(extras)} in all, not {len(body.args)}"
        )
    if body.args[0].type != start:
        raise VerifyException(f"the epilogue takes a sum of {start}, not {body.args[0].type}")
    for extra, argument in zip(extras, body.args[1:], strict=True):
        if argument.type != _memref(extra).element_type:
            raise VerifyException(
                f"the epilogue takes the elements of {extra.type}, not {argument.type}"
            )
    last = body.last_op
    if not isinstance(last, YieldOp) or len(last.operands) != 1:
        raise VerifyException("the epilogue must end in nanokernel.yield of one value")
    if last.operands[0].type != _memref(out).element_type:
        raise VerifyException(
            f"the epilogue must yield an element of {out.type}, not {last.operands[0].type}"
        )


def _converts(element: Attribute, sums: Attribute) -> bool:
    """Whether elements of memory are loaded as sums, and stored from them, by a conversion."""
    if element == sums:
        return True
    if not isinstance(element, AnyFloat) or not isinstance(sums, AnyFloat):
        return False
    return element.bitwidth < sums.bitwidth


def _verify_tail(block: BlockType) -> None:
    """Refuse a run-time extent of a block whose sums, not elements, lie along the lanes."""
    if block.lanes.data == "k":
        raise VerifyException("a tail is counted along the lanes, m or n, not k")


def _print_tail(printer: Printer, tail: SSAValue | None) -> None:
    """Print ` tail %n`, or nothing."""
    if tail is not None:
        printer.print_string(" tail ")
        printer.print_ssa_value(tail)


def _parse_tail(parser: Parser) -> SSAValue | None:
    """Parse `tail %n`, or nothing."""
    if parser.parse_optional_keyword("tail") is None:
        return None
    return parser.resolve_operand(parser.parse_unresolved_operand(), IndexType())


@dataclass(frozen=True)
class BlockAccess:
    """Where a block lies on a memref: the indices of its first element, and each one's tag."""

    memref: SSAValue
    indices: tuple[SSAValue, ...]
    dims: str


def _parse_extras(parser: Parser) -> list[BlockAccess]:
    """Parse `(%bias[n: %j], %r[m: %i, n: %j] : type, type)`, or nothing."""
    if parser.parse_optional_punctuation("(") is None:
        return []
    accesses = parser.parse_comma_separated_list(
        parser.Delimiter.NONE, lambda: _parse_tagged(parser)
    )
    parser.parse_punctuation(":")
    start = parser.pos
    types = parser.parse_comma_separated_list(parser.Delimiter.NONE, parser.parse_type)
    values = parser.resolve_operands([access[0] for access in accesses], types, start)
    parser.parse_punctuation(")")
    return [
        BlockAccess(value, tuple(indices), dims)
        for value, (_, indices, dims) in zip(values, accesses, strict=True)
    ]


@irdl_op_definition
class ZeroOp(IRDLOperation):
    """A block of zeros.

    ```mlir
    %acc = nanokernel.zero : !nanokernel.block<8x48xf32, lanes = n>
    ```
    """

    name = "nanokernel.zero"
    result = result_def(BlockType)

    traits = traits_def(Pure())

    def __init__(self, result_type: Attribute):
        super().__init__(result_types=[result_type])

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        print_types(printer, self.attributes, [self.result.type])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        attributes, (block_type,) = parse_types(parser, BlockType)
        op = cls(block_type)
        op.attributes |= attributes
        return op


class _BlockAccess(IRDLOperation):
    """What load and store share: a memref whose m and n dimensions the block lies on."""

    memref = operand_def(MemRefType)
    indices = var_operand_def(IndexType)
    dims = prop_def(StringAttr)

    def _verify_block(
        self, block: Attribute, *, tail: bool = False, converted: bool = False
    ) -> None:
        assert isinstance(block, BlockType)
        if tail:
            _verify_tail(block)
        extents = dict(zip("mn", block.shape, strict=True))
        _verify_tagged(self.memref, self.indices, self.dims.data, extents)
        if not converted and not _converts(_memref(self.memref).element_type, block.element_type):
            raise VerifyException(f"{self.memref.type} does not hold the elements of {block}")


@irdl_op_definition
class LoadOp(_BlockAccess):
    """Load a block of accumulators; `m:` and `n:` tag the dimensions it lies on.

    ```mlir
    %acc = nanokernel.load %c[%batch, m: %i, n: %j]
        : memref<4x64x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
    ```

    The indices are those of the block's first element. A block of one row needs no dimension m,
    one of one column no dimension n; a vector along the lanes is loaded into every row, or column.
    Elements of a narrower floating-point type are extended. With `tail %n` only the first %n
    elements along the lanes exist; the others are not read, and have no meaning.
    """

    name = "nanokernel.load"
    tail = opt_operand_def(IndexType)
    result = result_def(BlockType)

    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(MemoryReadEffect())

    def __init__(
        self,
        memref: SSAValue,
        indices: Sequence[SSAValue],
        dims: str,
        result_type: Attribute,
        tail: SSAValue | None = None,
    ):
        super().__init__(
            operands=[tail, memref, indices],
            properties={"dims": StringAttr(dims)},
            result_types=[result_type],
        )

    def verify_(self) -> None:
        """Refuse wrong tags and indices, and a memref of other elements."""
        block = self.result.type
        assert isinstance(block, BlockType)
        if self.dims.data == block.lanes.data:
            along = block.shape[block.lanes.data == "n"]
            shape = (1, along) if block.lanes.data == "n" else (along, 1)
            block = BlockType.of(*shape, block.element_type, block.lanes.data)
        self._verify_block(block)
        if self.tail is not None:
            _verify_tail(block)

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        printer.print_string(" ")
        _print_tagged(printer, self.memref, self.indices, self.dims.data)
        _print_tail(printer, self.tail)
        print_types(printer, self.attributes, [self.memref.type, self.result.type])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        memref, indices, dims = _parse_tagged(parser)
        tail = _parse_tail(parser)
        attributes, (memref_type, block_type) = parse_types(parser, MemRefType, BlockType)
        op = cls(parser.resolve_operand(memref, memref_type), indices, dims, block_type, tail)
        op.attributes |= attributes
        return op


@irdl_op_definition
class StoreOp(_BlockAccess):
    """Store a block of accumulators; `m:` and `n:` tag the dimensions it lies on.

    With `accumulate` the block is added to what is there: for `lanes = k`, whose sums are
    complete only now, and in microkernels, whose loads then wait for nothing. With `scale %alpha`
    it is multiplied first; with `scale %alpha, %beta` the result is `beta * old + alpha * block`.
    With `tail %n` only the first %n elements along the lanes exist: all of each register but the
    last, and at least one of that. Last comes the epilogue, a region as that of `gemm`, whose extra
    operands lie along m, n, both or neither; without one, a narrower floating-point result is
    rounded.

    ```mlir
    nanokernel.store %done, %c[%batch, m: %i, n: %j]
        : memref<4x64x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
    nanokernel.store %sums, %y[m: %i] accumulate
        : memref<64xf32>, !nanokernel.block<8x1xf32, lanes = k>
    nanokernel.store %done, %d[m: %i, n: %j] epilogue(%bias[n: %j] : memref<96xf32>) {
    ^bb0(%sum: f32, %b: f32):
      %biased = arith.addf %sum, %b : f32
      nanokernel.yield %biased : f32
    } : memref<64x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
    ```
    """

    name = "nanokernel.store"
    block = operand_def(BlockType)
    tail = opt_operand_def(IndexType)
    alpha = opt_operand_def(AnyFloatConstr)
    beta = opt_operand_def(AnyFloatConstr)
    extras = var_operand_def(MemRefType)
    extra_indices = var_operand_def(IndexType)
    extra_dims = opt_prop_def(ArrayAttr[StringAttr])
    accumulate = opt_prop_def(UnitAttr)
    epilogue = opt_region_def("single_block")

    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(MemoryReadEffect(), MemoryWriteEffect())

    def __init__(
        self,
        block: SSAValue,
        memref: SSAValue,
        indices: Sequence[SSAValue],
        dims: str,
        accumulate: bool = False,
        *,
        tail: SSAValue | None = None,
        alpha: SSAValue | None = None,
        beta: SSAValue | None = None,
        extras: Sequence[BlockAccess] = (),
        epilogue: Region | None = None,
    ):
        """`extras`: what the epilogue takes beside the sum."""
        places = [index for extra in extras for index in extra.indices]
        super().__init__(
            operands=[
                *(block, tail, alpha, beta),
                *([extra.memref for extra in extras], places, memref, indices),
            ],
            properties={
                "dims": StringAttr(dims),
                "extra_dims": ArrayAttr([StringAttr(extra.dims) for extra in extras])
                if extras
                else None,
                "accumulate": UnitAttr() if accumulate else None,
            },
            regions=[[epilogue] if epilogue is not None else []],
        )

    @property
    def extra_accesses(self) -> tuple[BlockAccess, ...]:
        """What the epilogue takes beside the sum."""
        found: list[BlockAccess] = []
        places = list(self.extra_indices)
        for memref, dims in zip(self.extras, self.extra_dims or (), strict=True):
            rank = len(dims.data)
            found.append(BlockAccess(memref, tuple(places[:rank]), dims.data))
            del places[:rank]
        return tuple(found)

    def verify_(self) -> None:
        """Refuse wrong tags and indices, a memref of other elements, and wrong epilogues."""
        converted = self.epilogue is not None
        self._verify_block(self.block.type, tail=self.tail is not None, converted=converted)
        assert isinstance(self.block.type, BlockType)
        element = self.block.type.element_type
        if self.epilogue is not None:
            _verify_body(self.epilogue.block, element, self.extras, self.memref)
        elif self.extras:
            raise VerifyException("extra operands need an epilogue that uses them")
        for extra in self.extra_accesses:
            _verify_tagged(extra.memref, extra.indices, extra.dims, {"m": 1, "n": 1})
        for value in (self.alpha, self.beta):
            if value is not None and value.type != element:
                raise VerifyException(
                    f"alpha and beta have the element type of the block, {element}, "
                    f"not {value.type}"
                )
        if self.beta is not None and (self.alpha is None or self.accumulate is not None):
            raise VerifyException("beta comes with alpha, and says what 'accumulate' would")

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        printer.print_string(" ")
        printer.print_ssa_value(self.block)
        printer.print_string(", ")
        _print_tagged(printer, self.memref, self.indices, self.dims.data)
        _print_tail(printer, self.tail)
        if self.alpha is not None:
            printer.print_string(" scale ")
            factors = [self.alpha] if self.beta is None else [self.alpha, self.beta]
            printer.print_list(factors, printer.print_ssa_value)
        if self.accumulate is not None:
            printer.print_string(" accumulate")
        if self.epilogue is not None:
            printer.print_string(" epilogue")
            if self.extras:
                with printer.in_parens():
                    printer.print_list(
                        self.extra_accesses,
                        lambda e: _print_tagged(printer, e.memref, e.indices, e.dims),
                    )
                    printer.print_string(" : ")
                    printer.print_list([v.type for v in self.extras], printer.print_attribute)
            printer.print_string(" ")
            printer.print_region(self.epilogue)
        print_types(printer, self.attributes, [self.memref.type, self.block.type])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        block = parser.parse_unresolved_operand()
        parser.parse_punctuation(",")
        memref, indices, dims = _parse_tagged(parser)
        tail = _parse_tail(parser)
        factors: list[UnresolvedOperand] = []
        if parser.parse_optional_keyword("scale") is not None:
            factors.append(parser.parse_unresolved_operand())
            if parser.parse_optional_punctuation(",") is not None:
                factors.append(parser.parse_unresolved_operand())
        accumulate = parser.parse_optional_keyword("accumulate") is not None
        extras: list[BlockAccess] = []
        epilogue = None
        if parser.parse_optional_keyword("epilogue") is not None:
            extras = _parse_extras(parser)
            epilogue = parser.parse_region()
        attributes, (memref_type, block_type) = parse_types(parser, MemRefType, BlockType)
        stored = parser.resolve_operand(block, block_type)
        target = parser.resolve_operand(memref, memref_type)
        assert isinstance(block_type, BlockType)
        scale = [parser.resolve_operand(f, block_type.element_type) for f in factors]
        alpha, beta = (*scale, None, None)[:2]
        op = cls(
            stored,
            target,
            indices,
            dims,
            accumulate,
            tail=tail,
            alpha=alpha,
            beta=beta,
            extras=extras,
            epilogue=epilogue,
        )
        op.attributes |= attributes
        return op


@irdl_op_definition
class PrefetchOp(_BlockAccess):
    """Ask for the memory that a block of accumulators will be stored to; a hint.

    ```mlir
    nanokernel.prefetch %c[m: %i, n: %j] : memref<64x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
    ```
    """

    name = "nanokernel.prefetch"
    block = prop_def(BlockType)

    traits = traits_def(MemoryReadEffect(), MemoryWriteEffect())

    def __init__(self, memref: SSAValue, indices: Sequence[SSAValue], dims: str, block: BlockType):
        super().__init__(
            operands=[memref, indices], properties={"dims": StringAttr(dims), "block": block}
        )

    def verify_(self) -> None:
        """Refuse wrong tags and indices, and a memref of other elements."""
        self._verify_block(self.block, converted=True)

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        printer.print_string(" ")
        _print_tagged(printer, self.memref, self.indices, self.dims.data)
        print_types(printer, self.attributes, [self.memref.type, self.block])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        memref, indices, dims = _parse_tagged(parser)
        attributes, (memref_type, block_type) = parse_types(parser, MemRefType, BlockType)
        assert isinstance(block_type, BlockType)
        op = cls(parser.resolve_operand(memref, memref_type), indices, dims, block_type)
        op.attributes |= attributes
        return op


@irdl_op_definition
class StepOp(IRDLOperation):
    """One nanokernel: `acc[m, n] += lhs[m, k] * rhs[k, n]` for `depth` steps k of the reduction.

    The products are added in order of k, each with one rounding, or as an instruction that takes a
    group of them adds those up; with `lanes = k` lane l adds those with k = l modulo the lanes.
    What the last group lacks counts as zero. With `existing %n` the only group has %n elements,
    which is known only at run time; a factor that is loaded as registers must lie in groups.

    `prefetch` asks for the elements of lhs or rhs that lie at some distance, one offset an index,
    from those that the step uses; those of another row or column are for later, and wanted in L2.
    With `tail %n` only the first %n elements along the lanes exist; the others are not read, and
    their sums have no meaning. With `flip lhs` or `flip rhs` the highest bits of that factor's
    elements are flipped: integers of another sign are taken for those that the instruction
    multiplies, and are 128 larger, or smaller, than they were. With `keep %panel` the registers
    loaded for step k are also stored, as row k of a panel.

    ```mlir
    %next = nanokernel.step %acc, %a[m: %i, k: %k], %b[k: %k, n: %j]
        depth 4 using "fma.f32x16" prefetch rhs [8, 0]
        : memref<64x256xf32>, memref<256x96xf32>, !nanokernel.block<8x48xf32, lanes = n>
    ```

    The indices are those of the first element that each factor contributes, and the types those of
    lhs, rhs and the block. A factor in groups has a dimension g; the index tagged k counts groups.

    ```mlir
    %next = nanokernel.step %acc, %a[m: %i, k: %k], %b[k: %q, n: %j, g: %c0]
        depth 8 using "dot.bf16x16"
        : memref<64x256xbf16>, memref<128x96x2xbf16>, !nanokernel.block<8x48xf32, lanes = n>
    ```
    """

    name = "nanokernel.step"
    acc = operand_def(BlockType)
    lhs = operand_def(MemRefType)
    lhs_indices = var_operand_def(IndexType)
    rhs = operand_def(MemRefType)
    rhs_indices = var_operand_def(IndexType)
    tail = opt_operand_def(IndexType)
    kept = opt_operand_def(MemRefType)
    existing = opt_operand_def(IndexType)
    lhs_dims = prop_def(StringAttr)
    rhs_dims = prop_def(StringAttr)
    depth = prop_def(IntegerAttr[I64])
    instruction = prop_def(StringAttr)
    prefetch_lhs = opt_prop_def(DenseArrayBase[I64])
    prefetch_rhs = opt_prop_def(DenseArrayBase[I64])
    flip = opt_prop_def(StringAttr)
    result = result_def(BlockType)

    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(MemoryReadEffect())

    def __init__(
        self,
        acc: SSAValue,
        lhs: tuple[SSAValue, Sequence[SSAValue], str],
        rhs: tuple[SSAValue, Sequence[SSAValue], str],
        depth: int,
        instruction: str,
        prefetch: tuple[Sequence[int], Sequence[int]] = ((), ()),
        tail: SSAValue | None = None,
        kept: SSAValue | None = None,
        flip: str | None = None,
        existing: SSAValue | None = None,
    ):
        """Factors are given as (memref, indices, tags); `prefetch` as offsets of (lhs, rhs)."""
        super().__init__(
            operands=[acc, lhs[0], lhs[1], rhs[0], rhs[1], tail, kept, existing],
            properties={
                "lhs_dims": StringAttr(lhs[2]),
                "rhs_dims": StringAttr(rhs[2]),
                "depth": IntegerAttr(depth, i64),
                "instruction": StringAttr(instruction),
                "prefetch_lhs": offsets_attr(prefetch[0]) if prefetch[0] else None,
                "prefetch_rhs": offsets_attr(prefetch[1]) if prefetch[1] else None,
                "flip": StringAttr(flip) if flip else None,
            },
            result_types=[acc.type],
        )

    @property
    def block(self) -> BlockType:
        """The block's type."""
        assert isinstance(self.acc.type, BlockType)
        return self.acc.type

    @property
    def prefetch(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Index offsets at which (lhs, rhs) are prefetched; empty for not at all."""
        lhs, rhs = (
            () if attr is None else tuple(int(o) for o in attr.get_values())
            for attr in (self.prefetch_lhs, self.prefetch_rhs)
        )
        return lhs, rhs

    def verify_(self) -> None:
        """Refuse wrong tags and indices, counts out of range, and a result of another type."""
        depth = self.depth.value.data
        if depth < 1:
            raise VerifyException(f"depth must be at least 1, got {depth}")
        for name, offsets, indices in zip(
            ("lhs", "rhs"), self.prefetch, (self.lhs_indices, self.rhs_indices), strict=True
        ):
            if offsets and len(offsets) != len(indices):
                raise VerifyException(
                    f"prefetch {name} needs {len(indices)} offsets, got {len(offsets)}"
                )
        if self.flip is not None and self.flip.data not in ("lhs", "rhs"):
            raise VerifyException(f"flip lhs or rhs, not '{self.flip.data}'")
        if self.tail is not None:
            _verify_tail(self.block)
        if self.kept is not None:
            _verify_panel(self.kept, _memref(self.lhs).element_type)
        rows, columns = self.block.shape
        lhs_extents, rhs_extents = (
            {"m": rows, "k": depth, "g": 1},
            {"k": depth, "n": columns, "g": 1},
        )
        _verify_tagged(self.lhs, self.lhs_indices, self.lhs_dims.data, lhs_extents)
        _verify_tagged(self.rhs, self.rhs_indices, self.rhs_dims.data, rhs_extents)
        if self.result.type != self.acc.type:
            raise VerifyException(f"the result must have the accumulator's type {self.acc.type}")

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        printer.print_string(" ")
        printer.print_ssa_value(self.acc)
        printer.print_string(", ")
        _print_tagged(printer, self.lhs, self.lhs_indices, self.lhs_dims.data)
        printer.print_string(", ")
        _print_tagged(printer, self.rhs, self.rhs_indices, self.rhs_dims.data)
        printer.print_string(f" depth {self.depth.value.data}")
        if self.existing is not None:
            printer.print_string(" existing ")
            printer.print_ssa_value(self.existing)
        printer.print_string(" using ")
        printer.print_string_literal(self.instruction.data)
        if self.flip is not None:
            printer.print_string(f" flip {self.flip.data}")
        _print_tail(printer, self.tail)
        if self.kept is not None:
            printer.print_string(" keep ")
            printer.print_ssa_value(self.kept)
        if any(self.prefetch):
            printer.print_string(" prefetch")
        for name, offsets in zip(("lhs", "rhs"), self.prefetch, strict=True):
            if offsets:
                printer.print_string(f" {name} [{', '.join(map(str, offsets))}]")
        panel = [] if self.kept is None else [self.kept.type]
        types = [self.lhs.type, self.rhs.type, *panel, self.acc.type]
        print_types(printer, self.attributes, types)

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        acc = parser.parse_unresolved_operand()
        parser.parse_punctuation(",")
        lhs, lhs_indices, lhs_dims = _parse_tagged(parser)
        parser.parse_punctuation(",")
        rhs, rhs_indices, rhs_dims = _parse_tagged(parser)
        parser.parse_keyword("depth")
        depth = parse_i64(parser)
        existing = None
        if parser.parse_optional_keyword("existing") is not None:
            count = parser.parse_unresolved_operand()
            existing = parser.resolve_operand(count, IndexType())
        parser.parse_keyword("using")
        instruction = parser.parse_str_literal()
        flip = None
        if parser.parse_optional_keyword("flip") is not None:
            flip = parser.parse_identifier()
        tail = _parse_tail(parser)
        panel = None
        if parser.parse_optional_keyword("keep") is not None:
            panel = parser.parse_unresolved_operand()
        prefetch: dict[str, list[int]] = {"lhs": [], "rhs": []}
        if parser.parse_optional_keyword("prefetch") is not None:
            while (factor := parser.parse_optional_keyword_in(("lhs", "rhs"))) is not None:
                prefetch[factor] = parser.parse_comma_separated_list(
                    parser.Delimiter.SQUARE, lambda: parse_i64(parser)
                )
        panels = (MemRefType,) if panel is not None else ()
        attributes, (lhs_type, rhs_type, *panel_type, block_type) = parse_types(
            parser, MemRefType, MemRefType, *panels, BlockType
        )
        op = cls(
            parser.resolve_operand(acc, block_type),
            (parser.resolve_operand(lhs, lhs_type), lhs_indices, lhs_dims),
            (parser.resolve_operand(rhs, rhs_type), rhs_indices, rhs_dims),
            depth,
            instruction,
            (prefetch["lhs"], prefetch["rhs"]),
            tail,
            None if panel is None else parser.resolve_operand(panel, panel_type[0]),
            flip,
            existing,
        )
        op.attributes |= attributes
        return op


@irdl_op_definition
class WorkspaceOp(IRDLOperation):
    """A part of the call's workspace, `offset` bytes from its start; its contents are undefined.

    ```mlir
    %panel = nanokernel.workspace at 49152 : memref<256x48xf32>
    ```
    """

    name = "nanokernel.workspace"
    offset = prop_def(IntegerAttr[I64])
    result = result_def(MemRefType)

    traits = traits_def(NoMemoryEffect())

    def __init__(self, result_type: Attribute, offset: int = 0):
        super().__init__(
            properties={"offset": IntegerAttr(offset, i64)}, result_types=[result_type]
        )

    def verify_(self) -> None:
        """Refuse parts that aren't aligned, or whose size is known only at run time."""
        offset = self.offset.value.data
        if offset < 0 or offset % WORKSPACE_ALIGNMENT:
            raise VerifyException(
                f"workspace parts start at multiples of {WORKSPACE_ALIGNMENT} bytes, not {offset}"
            )
        if DYNAMIC_INDEX in _memref(self.result).get_shape():
            raise VerifyException("a part of the workspace needs a static shape")

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        printer.print_string(f" at {self.offset.value.data}")
        print_types(printer, self.attributes, [self.result.type])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        parser.parse_keyword("at")
        offset = parse_i64(parser)
        attributes, (result_type,) = parse_types(parser, MemRefType)
        op = cls(result_type, offset)
        op.attributes |= attributes
        return op


@irdl_op_definition
class PackOp(IRDLOperation):
    """Copy a K×W tile of a factor into a panel, `panel[k, w] = source[...]`, transposing as needed.

    A panel of three dimensions, K×W×G, holds groups, `panel[k floordiv G, w, k mod G]`; what the
    last group lacks is zero.

    `extents` K×W says how much of the source is read, in numbers or run-time values; what the panel
    holds beyond has no meaning. The tags name the source's dimensions: k, and m or n for the
    panel's lanes. With `lanes k` the roles are exchanged: `panel[w, k] = source[...]`, W×K.

    ```mlir
    nanokernel.pack %b[k: %k, n: %j] extents 256 x 40 into %panel
        : memref<256x96xf32>, memref<256x48xf32>
    ```
    """

    name = "nanokernel.pack"
    source = operand_def(MemRefType)
    indices = var_operand_def(IndexType)
    panel = operand_def(MemRefType)
    run_time_extents = var_operand_def(IndexType)
    dims = prop_def(StringAttr)
    depth = prop_def(IntegerAttr[I64])
    width = prop_def(IntegerAttr[I64])
    lanes_k = opt_prop_def(UnitAttr)

    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(MemoryReadEffect(), MemoryWriteEffect())

    def __init__(
        self,
        source: SSAValue,
        indices: Sequence[SSAValue],
        dims: str,
        panel: SSAValue,
        extents: tuple[int | SSAValue, int | SSAValue],
        lanes_k: bool = False,
    ):
        """`extents`: rows and columns of the panel; `lanes_k`: whether its columns are k."""
        static = [e if isinstance(e, int) else DYNAMIC_INDEX for e in extents]
        super().__init__(
            operands=[source, indices, panel, [e for e in extents if not isinstance(e, int)]],
            properties={
                "dims": StringAttr(dims),
                "depth": IntegerAttr(static[0], i64),
                "width": IntegerAttr(static[1], i64),
                "lanes_k": UnitAttr() if lanes_k else None,
            },
        )

    @property
    def static_extents(self) -> tuple[int, int]:
        """Rows and columns of the panel that are filled; DYNAMIC_INDEX for run-time ones."""
        return self.depth.value.data, self.width.value.data

    @property
    def extents(self) -> tuple[int | SSAValue, int | SSAValue]:
        """Rows and columns of the panel that are filled."""
        values = iter(self.run_time_extents)
        depth, width = (next(values) if e == DYNAMIC_INDEX else e for e in self.static_extents)
        return depth, width

    @property
    def lane_tag(self) -> str:
        """The source's dimension that becomes the panel's columns."""
        return "k" if self.lanes_k is not None else self._side

    @property
    def row_tag(self) -> str:
        """The source's dimension that becomes the panel's rows."""
        return self._side if self.lanes_k is not None else "k"

    @property
    def _side(self) -> str:
        return "m" if "m" in self.dims.data else "n"

    def verify_(self) -> None:
        """Refuse wrong tags and indices, and a panel that can't hold what is read."""
        depth, width = self.static_extents
        if self.static_extents.count(DYNAMIC_INDEX) != len(self.run_time_extents):
            raise VerifyException("each run-time extent needs its value")
        if any(extent < 0 and extent != DYNAMIC_INDEX for extent in (depth, width)):
            raise VerifyException(f"extents must not be negative, got {depth}x{width}")
        extents = {self.row_tag: depth, self.lane_tag: width}
        _verify_tagged(self.source, self.indices, self.dims.data, extents)
        _verify_panel(self.panel, _memref(self.source).element_type)
        panel = _memref(self.panel)
        shape = panel.get_shape()
        rows = depth if depth == DYNAMIC_INDEX else -(-depth // panel_group(panel))
        if (DYNAMIC_INDEX not in (shape[0], rows) and shape[0] != rows) or width > shape[1]:
            raise VerifyException(f"{panel} can't hold {depth}x{width}")
        if self.lanes_k is not None and panel_group(panel) != 1:
            raise VerifyException("a panel with lanes along k holds no groups")

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        printer.print_string(" ")
        _print_tagged(printer, self.source, self.indices, self.dims.data)
        printer.print_string(" extents ")
        for separator, extent in zip((" x ", " into "), self.extents, strict=True):
            if isinstance(extent, int):
                printer.print_string(str(extent))
            else:
                printer.print_ssa_value(extent)
            printer.print_string(separator)
        printer.print_ssa_value(self.panel)
        if self.lanes_k is not None:
            printer.print_string(" lanes k")
        print_types(printer, self.attributes, [self.source.type, self.panel.type])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        source, indices, dims = _parse_tagged(parser)
        parser.parse_keyword("extents")
        depth = _parse_extent(parser)
        parser.parse_keyword("x")
        width = _parse_extent(parser)
        parser.parse_keyword("into")
        panel = parser.parse_unresolved_operand()
        lanes_k = parser.parse_optional_keyword("lanes") is not None
        if lanes_k:
            parser.parse_keyword("k")
        attributes, (source_type, panel_type) = parse_types(parser, MemRefType, MemRefType)
        op = cls(
            parser.resolve_operand(source, source_type),
            indices,
            dims,
            parser.resolve_operand(panel, panel_type),
            (depth, width),
            lanes_k,
        )
        op.attributes |= attributes
        return op


@irdl_op_definition
class SumOp(IRDLOperation):
    """The sums over k of i8 in groups, K×W×G, times a factor: `sums[w] = f * Σ source[k, w, g]`.

    The source is a panel, or a part of a factor that lies in groups. Sums beyond its width have no
    meaning; there are less than a register of these. With `accumulate` the old sums are added.

    ```mlir
    nanokernel.sum %panel times -128 into %sums : memref<64x48x4xi8>, memref<48xi32>
    nanokernel.sum %part unsigned times 128 into %sums accumulate
        : memref<64x?x4xi8, strided<[384, 4, 1], offset: ?>>, memref<48xi32>
    ```
    """

    name = "nanokernel.sum"
    source = operand_def(MemRefType)
    sums = operand_def(MemRefType)
    factor = prop_def(IntegerAttr[I64])
    unsigned = opt_prop_def(UnitAttr)
    accumulate = opt_prop_def(UnitAttr)

    traits = traits_def(MemoryReadEffect(), MemoryWriteEffect())

    def __init__(
        self,
        source: SSAValue,
        sums: SSAValue,
        factor: int,
        *,
        unsigned: bool = False,
        accumulate: bool = False,
    ):
        super().__init__(
            operands=[source, sums],
            properties={
                "factor": IntegerAttr(factor, i64),
                "unsigned": UnitAttr() if unsigned else None,
                "accumulate": UnitAttr() if accumulate else None,
            },
        )

    def verify_(self) -> None:
        """Refuse what isn't in groups, and sums of another width or type."""
        source, sums = _memref(self.source), _memref(self.sums)
        shape, strides = source.get_shape(), source.get_strides()
        if len(shape) != 3 or shape[2] == DYNAMIC_INDEX or source.element_type != i8:
            raise VerifyException(f"what is added up is a K×W×G memref of i8, not {source}")
        if strides is None or strides[1:] != (shape[2], 1):
            raise VerifyException(f"groups must lie one behind the other in {source}")
        width = sums.get_shape()
        fits = len(width) == 1 and DYNAMIC_INDEX not in width and shape[1] <= width[0]
        if sums.element_type != i32 or not fits:
            raise VerifyException(f"{sums} can't hold the sums of {source}")

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        printer.print_string(" ")
        printer.print_ssa_value(self.source)
        if self.unsigned is not None:
            printer.print_string(" unsigned")
        printer.print_string(f" times {self.factor.value.data} into ")
        printer.print_ssa_value(self.sums)
        if self.accumulate is not None:
            printer.print_string(" accumulate")
        print_types(printer, self.attributes, [self.source.type, self.sums.type])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        source = parser.parse_unresolved_operand()
        unsigned = parser.parse_optional_keyword("unsigned") is not None
        parser.parse_keyword("times")
        factor = parse_i64(parser)
        parser.parse_keyword("into")
        sums = parser.parse_unresolved_operand()
        accumulate = parser.parse_optional_keyword("accumulate") is not None
        attributes, (source_type, sums_type) = parse_types(parser, MemRefType, MemRefType)
        op = cls(
            parser.resolve_operand(source, source_type),
            parser.resolve_operand(sums, sums_type),
            factor,
            unsigned=unsigned,
            accumulate=accumulate,
        )
        op.attributes |= attributes
        return op


def _parse_extent(parser: Parser) -> int | SSAValue:
    """Parse an extent, a number or a run-time value."""
    value = parser.parse_optional_unresolved_operand()
    return parse_i64(parser) if value is None else parser.resolve_operand(value, IndexType())


@irdl_op_definition
class MicrokernelOp(IRDLOperation):
    """Run a microkernel, a private function, on blocks of the operands in its order.

    ```mlir
    nanokernel.microkernel @matmul_8x48(%a, %b, %c, %first) : memref<8x?xf32, ...>, ..., i1
    ```
    """

    name = "nanokernel.microkernel"
    callee = prop_def(FlatSymbolRefAttrConstr)
    arguments = var_operand_def()

    traits = traits_def(MemoryReadEffect(), MemoryWriteEffect())

    def __init__(self, callee: str, arguments: Sequence[SSAValue]):
        super().__init__(operands=[arguments], properties={"callee": SymbolRefAttr(callee)})

    def verify_(self) -> None:
        """Refuse a microkernel without operands."""
        if not self.arguments:
            raise VerifyException("a microkernel needs the operands that it works on")

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        printer.print_string(" ")
        printer.print_attribute(self.callee)
        with printer.in_parens():
            printer.print_list(self.arguments, printer.print_ssa_value)
        print_types(printer, self.attributes, [value.type for value in self.arguments])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        callee = parser.parse_symbol_name()
        start = parser.pos
        arguments = parser.parse_comma_separated_list(
            parser.Delimiter.PAREN, parser.parse_unresolved_operand
        )
        attributes = parser.parse_optional_attr_dict()
        parser.parse_punctuation(":")
        types = parser.parse_comma_separated_list(parser.Delimiter.NONE, parser.parse_type)
        op = cls(callee.data, parser.resolve_operands(arguments, types, start))
        op.attributes |= attributes
        return op


Nanokernel = Dialect(
    "nanokernel",
    [
        *(GemmOp, YieldOp, MicrokernelOp, WorkspaceOp, PackOp, SumOp),
        *(ZeroOp, LoadOp, StoreOp, PrefetchOp, StepOp),
    ],
    [BlockType, PlanAttr],
)
