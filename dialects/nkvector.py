"""The `nkvector` dialect: one value, one vector register.

The level between nanokernels, which speak of whole blocks, and the upstream dialects. Every
op is one machine instruction on the targets that have it, so register pressure and port use
can be read off the text:

```mlir
%b0 = nkvector.load %b[%k, %j] : memref<256x96xf32>, vector<16xf32>
%b1 = nkvector.load %b[%k, %j + 16], %tail : memref<256x96xf32>, vector<16xf32>
%a0 = nkvector.broadcast_load %a[%i + 1, %k] : memref<64x256xf32>, vector<16xf32>
%p0 = nkvector.fma %a0, %b0, %q0 : vector<16xf32>
nkvector.store %p0, %c[%i + 1, %j] : memref<64x96xf32>, vector<16xf32>
```

The second load reads its first `%tail` lanes only.

The lanes of a load or store are consecutive elements in memory, so one dimension of the memref
must have stride 1; which one is the business of the level above. A dimension of extent 1 is never
walked, so it counts as one: its accesses have one active lane. Imports: xDSL, `dialects.indexing`
and `dialects.syntax` only.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import ClassVar, Self

from xdsl.dialects.builtin import (
    I32,
    I64,
    AnyFloat,
    DenseArrayBase,
    IndexType,
    IntegerAttr,
    MemRefType,
    StringAttr,
    UnitAttr,
    VectorType,
    i32,
    i64,
)
from xdsl.interfaces import HasFolderInterface
from xdsl.ir import Attribute, Dialect, Operation, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    BaseAttr,
    IRDLOperation,
    VarConstraint,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.parser import Parser
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern
from xdsl.printer import Printer
from xdsl.traits import (
    HasCanonicalizationPatternsTrait,
    MemoryReadEffect,
    MemoryWriteEffect,
    Pure,
)
from xdsl.utils.exceptions import VerifyException

from nkdsl.dialects.indexing import (
    offsets_attr,
    parse_indices,
    print_indices,
    verify_indices,
)
from nkdsl.dialects.syntax import parse_i64, parse_types, print_types


@cache
def register_type(element: Attribute, lanes: int) -> VectorType:
    """The type of a register, made once: unrolled code asks for it thousands of times."""
    return VectorType(element, [lanes])


def vector_lanes(type_: Attribute) -> int:
    """Elements of a vector type of rank 1."""
    assert isinstance(type_, VectorType)
    return type_.get_shape()[0]


def constant_index(value: SSAValue | None) -> int | None:
    """The value of an `arith.constant` of type index, or None where it isn't one."""
    # Only canonicalization needs arith: importing it late spares the others the time.
    from xdsl.transforms.canonicalization_patterns.utils import const_evaluate_operand

    return None if value is None else const_evaluate_operand(value)


def _element(type_: Attribute) -> Attribute:
    assert isinstance(type_, MemRefType | VectorType)
    element: Attribute = type_.element_type
    return element


def _verify_register(type_: Attribute) -> None:
    assert isinstance(type_, VectorType)
    if type_.get_num_dims() != 1 or type_.get_num_scalable_dims() or vector_lanes(type_) < 1:
        raise VerifyException(
            f"expected one register, a vector of rank 1 with a fixed number of lanes, got {type_}"
        )


def _has_consecutive_elements(type_: MemRefType) -> bool:
    """Whether some dimension has stride 1 or an extent that makes its stride meaningless."""
    return (
        type_.get_num_dims() == 0
        or any(extent in (0, 1) for extent in type_.get_shape())
        or 1 in (type_.get_strides() or ())
    )


class _LoadPatterns(HasCanonicalizationPatternsTrait):
    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        return (_DropFullMask(),)


class _StorePatterns(HasCanonicalizationPatternsTrait):
    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        return (_DropFullMask(), _EraseEmptyStore())


class _PlainOp(IRDLOperation):
    """An operation whose constructor knows its operands one by one.

    Kernels have thousands of these operations. xDSL's general constructor, which sorts optional
    and variadic operands, would take twice as long.
    """

    def _build(
        self,
        operands: Sequence[SSAValue],
        result_types: Sequence[Attribute] = (),
        properties: Mapping[str, Attribute] = MappingProxyType({}),
    ) -> None:
        """What a constructor calls at its end."""
        Operation.__init__(
            self, operands=operands, result_types=result_types, properties=properties
        )


@cache
def _segments(*sizes: int) -> DenseArrayBase[I32]:
    """How many operands belong to each of an operation's operand definitions."""
    return DenseArrayBase.from_list(i32, sizes)


# -------------------------------------------------------------------------------- memory ops


class _AccessOp(_PlainOp):
    """What all memory operations share: a memref, indices with constant offsets."""

    memref = operand_def(MemRefType)
    indices = var_operand_def(IndexType)
    offsets = prop_def(DenseArrayBase[I64])

    @property
    def constant_offsets(self) -> tuple[int, ...]:
        """The constant part of each index, in elements."""
        return self.offsets.get_values()

    @property
    def memref_type(self) -> MemRefType:
        """The accessed memref's type."""
        type_ = self.memref.type
        assert isinstance(type_, MemRefType)
        return type_

    def verify_(self) -> None:
        """Refuse an access without one index and one offset a dimension."""
        verify_indices(self.memref_type, self.indices, self.constant_offsets)

    def _verify_vector(self, vector: Attribute, *, consecutive: bool) -> None:
        """Refuse a vector that isn't one register of (consecutive) elements of the memref."""
        _verify_register(vector)
        if _element(vector) != self.memref_type.element_type:
            raise VerifyException(f"{self.memref_type} does not hold the elements of {vector}")
        if consecutive and not _has_consecutive_elements(self.memref_type):
            raise VerifyException(
                "a register holds consecutive elements, but no dimension of "
                f"{self.memref_type} has stride 1"
            )

    def _print_access(self, printer: Printer) -> None:
        """Print ` %memref[%i + 3, %k]`."""
        printer.print_string(" ")
        printer.print_ssa_value(self.memref)
        print_indices(printer, self.indices, self.constant_offsets)


def _parse_active(parser: Parser) -> SSAValue | None:
    """Parse `, %active` or nothing."""
    if parser.parse_optional_punctuation(",") is None:
        return None
    return parser.resolve_operand(parser.parse_unresolved_operand(), IndexType())


def _print_active(printer: Printer, active: SSAValue | None) -> None:
    """Print `, %active` or nothing."""
    if active is not None:
        printer.print_string(", ")
        printer.print_ssa_value(active)


@irdl_op_definition
class LoadOp(_AccessOp):
    """Load one register.

    With `active`, which is not negative, only the first `active` lanes are read (all of them if
    there are fewer); the others are zero, and their addresses are not touched.

    ```mlir
    %b0 = nkvector.load %b[%k, %j + 16] : memref<256x96xf32>, vector<16xf32>
    %b1 = nkvector.load %b[%k, %j + 32], %tail : memref<256x96xf32>, vector<16xf32>
    ```
    """

    name = "nkvector.load"
    active = opt_operand_def(IndexType)
    result = result_def(VectorType)

    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(MemoryReadEffect(), _LoadPatterns())

    def __init__(
        self,
        memref: SSAValue,
        indices: Sequence[SSAValue],
        result_type: Attribute,
        offsets: Sequence[int],
        active: SSAValue | None = None,
    ):
        mask = () if active is None else (active,)
        self._build(
            [*mask, memref, *indices],
            [result_type],
            {
                "offsets": offsets_attr(offsets),
                "operandSegmentSizes": _segments(len(mask), 1, len(indices)),
            },
        )

    @property
    def lanes(self) -> int:
        """Elements in the register."""
        return vector_lanes(self.result.type)

    def verify_(self) -> None:
        """Refuse wrong indices, and a result that isn't one register of the memref's elements."""
        super().verify_()
        self._verify_vector(self.result.type, consecutive=True)

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        self._print_access(printer)
        _print_active(printer, self.active)
        print_types(printer, self.attributes, [self.memref.type, self.result.type])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        memref = parser.parse_unresolved_operand()
        indices, offsets = parse_indices(parser)
        active = _parse_active(parser)
        attributes, (memref_type, vector_type) = parse_types(parser, MemRefType, VectorType)
        source = parser.resolve_operand(memref, memref_type)
        op = cls(source, indices, vector_type, offsets, active)
        op.attributes |= attributes
        return op


@irdl_op_definition
class BroadcastLoadOp(_AccessOp):
    """Load one element, or a group of consecutive ones, again and again into all of a register.

    With `active`, which is not negative, only the first `active` elements of the group are read
    (all of them if there are fewer); the others are zero. With `using` it becomes the instruction
    of that name, which the target's table lists; else LLVM chooses one.

    ```mlir
    %a0 = nkvector.broadcast_load %a[%i + 1, %k] : memref<64x256xf32>, vector<16xf32>
    %a1 = nkvector.broadcast_load %a[%i, %k] group 2 : memref<64x256xbf16>, vector<32xbf16>
    %a2 = nkvector.broadcast_load %a[%i, %k] group 2, %rest : memref<64x255xbf16>, vector<32xbf16>
    %a3 = nkvector.broadcast_load %a[%i, %k] using "vpbroadcastd"
        : memref<64x256xf32>, vector<16xf32>
    ```
    """

    name = "nkvector.broadcast_load"
    active = opt_operand_def(IndexType)
    group = opt_prop_def(IntegerAttr[I64])
    instruction = opt_prop_def(StringAttr)
    result = result_def(VectorType)

    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(MemoryReadEffect())

    def __init__(
        self,
        memref: SSAValue,
        indices: Sequence[SSAValue],
        result_type: Attribute,
        offsets: Sequence[int],
        group: int = 1,
        active: SSAValue | None = None,
        instruction: str | None = None,
    ):
        mask = () if active is None else (active,)
        properties: dict[str, Attribute] = {
            "offsets": offsets_attr(offsets),
            "operandSegmentSizes": _segments(len(mask), 1, len(indices)),
        }
        if group != 1:
            properties["group"] = IntegerAttr(group, i64)
        if instruction is not None:
            properties["instruction"] = StringAttr(instruction)
        self._build([*mask, memref, *indices], [result_type], properties)

    @property
    def count(self) -> int:
        """Elements of the group."""
        return 1 if self.group is None else self.group.value.data

    def verify_(self) -> None:
        """Refuse wrong indices, and a result that isn't one register of the memref's elements."""
        super().verify_()
        self._verify_vector(self.result.type, consecutive=self.count > 1)
        if self.count < 1 or vector_lanes(self.result.type) % self.count:
            raise VerifyException(f"{self.result.type} holds no groups of {self.count} elements")
        if self.active is not None and self.count == 1:
            raise VerifyException("active counts the elements of a group")
        if self.active is not None and self.instruction is not None:
            raise VerifyException("an instruction loads whole groups, not some elements of them")

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        self._print_access(printer)
        if self.group is not None:
            printer.print_string(f" group {self.count}")
        _print_active(printer, self.active)
        if self.instruction is not None:
            printer.print_string(" using ")
            printer.print_string_literal(self.instruction.data)
        print_types(printer, self.attributes, [self.memref.type, self.result.type])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        memref = parser.parse_unresolved_operand()
        indices, offsets = parse_indices(parser)
        group = 1
        if parser.parse_optional_keyword("group") is not None:
            group = parse_i64(parser)
        active = _parse_active(parser)
        instruction = None
        if parser.parse_optional_keyword("using") is not None:
            instruction = parser.parse_str_literal()
        attributes, (memref_type, vector_type) = parse_types(parser, MemRefType, VectorType)
        source = parser.resolve_operand(memref, memref_type)
        op = cls(source, indices, vector_type, offsets, group, active, instruction)
        op.attributes |= attributes
        return op


@irdl_op_definition
class StoreOp(_AccessOp):
    """Store one register.

    With `active`, which is not negative, only the first `active` lanes are written (all of them
    if there are fewer); the others' addresses are not touched.

    ```mlir
    nkvector.store %v, %c[%i + 1, %j] : memref<64x96xf32>, vector<16xf32>
    nkvector.store %w, %c[%i + 1, %j + 16], %tail : memref<64x96xf32>, vector<16xf32>
    ```
    """

    name = "nkvector.store"
    vector = operand_def(VectorType)
    active = opt_operand_def(IndexType)

    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(MemoryWriteEffect(), _StorePatterns())

    def __init__(
        self,
        vector: SSAValue,
        memref: SSAValue,
        indices: Sequence[SSAValue],
        offsets: Sequence[int],
        active: SSAValue | None = None,
    ):
        mask = () if active is None else (active,)
        self._build(
            [vector, *mask, memref, *indices],
            properties={
                "offsets": offsets_attr(offsets),
                "operandSegmentSizes": _segments(1, len(mask), 1, len(indices)),
            },
        )

    @property
    def lanes(self) -> int:
        """Elements in the register."""
        return vector_lanes(self.vector.type)

    def verify_(self) -> None:
        """Refuse wrong indices, and a vector that isn't one register of the memref's elements."""
        super().verify_()
        self._verify_vector(self.vector.type, consecutive=True)

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        printer.print_string(" ")
        printer.print_ssa_value(self.vector)
        printer.print_string(",")
        self._print_access(printer)
        _print_active(printer, self.active)
        print_types(printer, self.attributes, [self.memref.type, self.vector.type])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        vector = parser.parse_unresolved_operand()
        parser.parse_punctuation(",")
        memref = parser.parse_unresolved_operand()
        indices, offsets = parse_indices(parser)
        active = _parse_active(parser)
        attributes, (memref_type, vector_type) = parse_types(parser, MemRefType, VectorType)
        stored = parser.resolve_operand(vector, vector_type)
        target = parser.resolve_operand(memref, memref_type)
        op = cls(stored, target, indices, offsets, active)
        op.attributes |= attributes
        return op


@irdl_op_definition
class PrefetchOp(_AccessOp):
    """Ask for the cache line of one element; any address is allowed, none is dereferenced.

    With `into L2` it is wanted later, and would only take the place of others in L1.

    ```mlir
    nkvector.prefetch %b[%k + 4, %j] : memref<256x96xf32>
    nkvector.prefetch %a[%i + 8, %k] into L2 : memref<64x256xf32>
    ```
    """

    name = "nkvector.prefetch"
    into_l2 = opt_prop_def(UnitAttr)

    # It changes nothing that a program could observe, but effects keep it alive and in its place.
    traits = traits_def(MemoryReadEffect(), MemoryWriteEffect())

    def __init__(
        self,
        memref: SSAValue,
        indices: Sequence[SSAValue],
        offsets: Sequence[int],
        *,
        into_l2: bool = False,
    ):
        properties: dict[str, Attribute] = {"offsets": offsets_attr(offsets)}
        if into_l2:
            properties["into_l2"] = UnitAttr()
        self._build([memref, *indices], properties=properties)

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        self._print_access(printer)
        if self.into_l2 is not None:
            printer.print_string(" into L2")
        print_types(printer, self.attributes, [self.memref.type])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        memref = parser.parse_unresolved_operand()
        indices, offsets = parse_indices(parser)
        into_l2 = parser.parse_optional_keyword("into") is not None
        if into_l2:
            parser.parse_keyword("L2")
        attributes, (memref_type,) = parse_types(parser, MemRefType)
        op = cls(parser.resolve_operand(memref, memref_type), indices, offsets, into_l2=into_l2)
        op.attributes |= attributes
        return op


# ------------------------------------------------------------------------------ register ops


@irdl_op_definition
class FenceOp(IRDLOperation):
    """No memory access moves across it while code is generated; it becomes no instruction.

    It keeps the loads of one step behind the arithmetic of the step before. LLVM would otherwise
    cluster loads of neighbouring steps, and spill what it loaded too early.

    ```mlir
    nkvector.fence
    ```
    """

    name = "nkvector.fence"

    assembly_format = "attr-dict"
    traits = traits_def(MemoryReadEffect(), MemoryWriteEffect())

    def __init__(self) -> None:
        super().__init__()


@irdl_op_definition
class FmaOp(_PlainOp):
    """`lhs * rhs + acc` in every lane, rounded once.

    ```mlir
    %p1 = nkvector.fma %a0, %b0, %p0 : vector<16xf32>
    ```
    """

    name = "nkvector.fma"
    T: ClassVar = VarConstraint("T", BaseAttr(VectorType))
    lhs = operand_def(T)
    rhs = operand_def(T)
    acc = operand_def(T)
    result = result_def(T)

    traits = traits_def(Pure())

    def __init__(self, lhs: SSAValue, rhs: SSAValue, acc: SSAValue):
        self._build([lhs, rhs, acc], [acc.type])

    def verify_(self) -> None:
        """Refuse what isn't a register of floating-point numbers."""
        _verify_register(self.result.type)
        if not isinstance(_element(self.result.type), AnyFloat):
            raise VerifyException(f"fma needs a floating-point vector, got {self.result.type}")

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        printer.print_string(" ")
        printer.print_list(self.operands, printer.print_ssa_value)
        print_types(printer, self.attributes, [self.result.type])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        lhs = parser.parse_unresolved_operand()
        parser.parse_punctuation(",")
        rhs = parser.parse_unresolved_operand()
        parser.parse_punctuation(",")
        acc = parser.parse_unresolved_operand()
        attributes, (type_,) = parse_types(parser, VectorType)
        op = cls(*(parser.resolve_operand(operand, type_) for operand in (lhs, rhs, acc)))
        op.attributes |= attributes
        return op


@irdl_op_definition
class DotOp(_PlainOp):
    """`acc[l] + sum over a group g of lhs[l, g] * rhs[l, g]` in every lane.

    It is computed as an instruction has it, one of the target's that the function's attribute
    `nanokernel.target` names.

    ```mlir
    %p1 = nkvector.dot %a0, %b0, %p0 using "dot.bf16x16" : vector<32xbf16>, vector<16xf32>
    ```
    """

    name = "nkvector.dot"
    T: ClassVar = VarConstraint("T", BaseAttr(VectorType))
    S: ClassVar = VarConstraint("S", BaseAttr(VectorType))
    lhs = operand_def(T)
    rhs = operand_def(T)
    acc = operand_def(S)
    instruction = prop_def(StringAttr)
    result = result_def(S)

    traits = traits_def(Pure())

    def __init__(self, lhs: SSAValue, rhs: SSAValue, acc: SSAValue, instruction: StringAttr | str):
        name = StringAttr(instruction) if isinstance(instruction, str) else instruction
        self._build([lhs, rhs, acc], [acc.type], {"instruction": name})

    def verify_(self) -> None:
        """Refuse what isn't a register of groups for each lane of the sums."""
        _verify_register(self.lhs.type)
        _verify_register(self.result.type)
        factors, sums = vector_lanes(self.lhs.type), vector_lanes(self.result.type)
        if factors % sums:
            raise VerifyException(f"{self.lhs.type} holds no group for each of {sums} lanes")

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        printer.print_string(" ")
        printer.print_list(self.operands, printer.print_ssa_value)
        printer.print_string(" using ")
        printer.print_string_literal(self.instruction.data)
        print_types(printer, self.attributes, [self.lhs.type, self.result.type])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        lhs = parser.parse_unresolved_operand()
        parser.parse_punctuation(",")
        rhs = parser.parse_unresolved_operand()
        parser.parse_punctuation(",")
        acc = parser.parse_unresolved_operand()
        parser.parse_keyword("using")
        instruction = parser.parse_str_literal()
        attributes, (factors, sums) = parse_types(parser, VectorType, VectorType)
        first, second = (parser.resolve_operand(operand, factors) for operand in (lhs, rhs))
        op = cls(first, second, parser.resolve_operand(acc, sums), instruction)
        op.attributes |= attributes
        return op


@irdl_op_definition
class ShuffleOp(_PlainOp, HasFolderInterface):
    """Lanes picked from two registers: lane l is lane `mask[l]` of `lhs` followed by `rhs`.

    ```mlir
    %low = nkvector.shuffle %x, %y [0, 4, 1, 5] : vector<4xf32>  // interleave the lower halves
    ```

    The result has as many lanes as the mask.
    """

    name = "nkvector.shuffle"
    lhs = operand_def(VectorType)
    rhs = operand_def(VectorType)
    mask = prop_def(DenseArrayBase[I64])
    result = result_def(VectorType)

    traits = traits_def(Pure())

    def __init__(self, lhs: SSAValue, rhs: SSAValue, mask: Sequence[int]):
        result_type = register_type(_element(lhs.type), len(mask))
        self._build([lhs, rhs], [result_type], {"mask": offsets_attr(mask)})

    @property
    def lanes(self) -> tuple[int, ...]:
        """The lane picked for each lane of the result."""
        return self.mask.get_values()

    def fold(self) -> Sequence[SSAValue | Attribute] | None:
        """A shuffle that picks one operand's lanes in order is that operand."""
        size = vector_lanes(self.lhs.type)
        if self.lanes == tuple(range(size)):
            return (self.lhs,)
        if self.lanes == tuple(range(size, 2 * size)):
            return (self.rhs,)
        return None

    def verify_(self) -> None:
        """Refuse operands of two types, an empty mask, and lanes that the operands lack."""
        _verify_register(self.lhs.type)
        if self.lhs.type != self.rhs.type:
            raise VerifyException(
                f"a shuffle's operands have one type, got {self.lhs.type} and {self.rhs.type}"
            )
        if not self.lanes:
            raise VerifyException("a shuffle's mask has at least one lane")
        expected = VectorType(_element(self.lhs.type), [len(self.lanes)])
        if self.result.type != expected:
            raise VerifyException(
                f"a mask of {len(self.lanes)} lanes gives {expected}, not {self.result.type}"
            )
        limit = 2 * vector_lanes(self.lhs.type)
        for lane in self.lanes:
            if not 0 <= lane < limit:
                raise VerifyException(f"shuffle lanes must lie in [0, {limit}), got {lane}")

    def print(self, printer: Printer) -> None:
        """Print the custom syntax."""
        printer.print_string(" ")
        printer.print_ssa_value(self.lhs)
        printer.print_string(", ")
        printer.print_ssa_value(self.rhs)
        printer.print_string(" ")
        with printer.in_square_brackets():
            printer.print_list(self.lanes, lambda lane: printer.print_string(str(lane)))
        print_types(printer, self.attributes, [self.lhs.type])

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        """Parse the custom syntax."""
        lhs = parser.parse_unresolved_operand()
        parser.parse_punctuation(",")
        rhs = parser.parse_unresolved_operand()
        mask = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, lambda: parse_i64(parser))
        attributes, (type_,) = parse_types(parser, VectorType)
        op = cls(parser.resolve_operand(lhs, type_), parser.resolve_operand(rhs, type_), mask)
        op.attributes |= attributes
        return op


# -------------------------------------------------------------------------- canonicalization


class _DropFullMask(RewritePattern):
    """A mask of all lanes is no mask."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: LoadOp | StoreOp, rewriter: PatternRewriter) -> None:
        active = constant_index(op.active)
        if active is None or active < op.lanes:
            return
        new: LoadOp | StoreOp
        match op:
            case LoadOp():
                new = LoadOp(op.memref, op.indices, op.result.type, op.constant_offsets)
            case StoreOp():
                new = StoreOp(op.vector, op.memref, op.indices, op.constant_offsets)
        new.attributes = op.attributes.copy()
        rewriter.replace_op(op, new)


class _EraseEmptyStore(RewritePattern):
    """A store of no lanes does nothing."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: StoreOp, rewriter: PatternRewriter) -> None:
        if constant_index(op.active) == 0:
            rewriter.erase_op(op)


NkVector = Dialect(
    "nkvector",
    [LoadOp, BroadcastLoadOp, StoreOp, PrefetchOp, FenceOp, FmaOp, DotOp, ShuffleOp],
    [],
)
