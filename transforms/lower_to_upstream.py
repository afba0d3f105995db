"""`lower-to-upstream`: from nkvector to the dialects that stock mlir-opt knows.

Every memref argument becomes one pointer, a memref of rank 0 to its first element; a function
that uses the workspace gets one more, `memref<i8>`, at the end. Elements are reached on flat views
of rank 1, by the layouts' static strides. Accesses that share their run-time indices share a view
which begins at these; the constant parts of their indices are all that is left of each, so that
LLVM finds them as displacements.

```mlir
%b1 = nkvector.load %b[%k, %j + 16] : memref<256x96xf32>, vector<16xf32>
// becomes
%flat = memref.reinterpret_cast %arg1 to offset: [0], sizes: [24576], strides: [1] : ...
%row = arith.muli %k, %c96 : index
%at = arith.addi %row, %j : index
%view = memref.reinterpret_cast %flat to offset: [%at], sizes: [%c24576], strides: [1] : ...
%b1 = vector.load %view[%c16] : memref<?xf32, strided<[1], offset: ?>>, vector<16xf32>
```

Functions are marked with the target's processor and features (`passthrough`), without which LLVM
would split wide registers. They are *not* marked as free of aliasing, although the runtime refuses
overlapping results: LLVM would hoist the loads of a fully unrolled reduction out of the loops
over blocks, and spill them. Imports: our dialects and targets.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import combinations
from math import prod
from typing import TypeVar

from xdsl.context import Context
from xdsl.dialects import arith, func, llvm, memref, omp, scf, vector
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    I64,
    ArrayAttr,
    BFloat16Type,
    DenseArrayBase,
    DenseIntOrFPElementsAttr,
    Float16Type,
    Float64Type,
    FunctionType,
    IndexType,
    IntegerAttr,
    IntegerType,
    MemRefType,
    ModuleOp,
    NoneAttr,
    StridedLayoutAttr,
    StringAttr,
    UnitAttr,
    VectorType,
    bf16,
    f32,
    i1,
    i8,
    i16,
    i32,
    i64,
)
from xdsl.ir import Attribute, Block, BlockArgument, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter
from xdsl.utils.type import get_element_type_or_self

from nkdsl.diagnostics import refuse
from nkdsl.dialects import nkvector, tile
from nkdsl.dialects.inline_asm import InlineAsmOp
from nkdsl.dialects.nanokernel import TARGET_ATTRIBUTE, MicrokernelOp, WorkspaceOp
from nkdsl.dialects.nkvector import constant_index, register_type
from nkdsl.dialects.vector_arith import on_vectors
from nkdsl.errors import NkdslError, Unsupported
from nkdsl.layout import Layout, layout_of
from nkdsl.targets import get_target
from nkdsl.targets.model import NEVER_MASKED, Target
from nkdsl.transforms.amx_to_upstream import AmxLowering
from nkdsl.transforms.intrinsics import array, intrinsic, moved_pointer
from nkdsl.transforms.loops import LoopBuilder, Scopes, index_arithmetic
from nkdsl.transforms.registers import zeros
from nkdsl.transforms.sme_to_upstream import SmeLowering
from nkdsl.transforms.tiles_to_upstream import TileLowering, has_tiles
from nkdsl.types import element_type_of

OperationT = TypeVar("OperationT", bound=Operation)

WORKSPACE_ATTRIBUTE = "nanokernel.workspace_bytes"
"""The function attribute that holds the bytes of workspace a call needs."""


def workspace_bytes(function: func.FuncOp) -> int:
    """The bytes of workspace that a call of a lowered function needs."""
    size = function.attributes.get(WORKSPACE_ATTRIBUTE)
    return size.value.data if isinstance(size, IntegerAttr) else 0


I32_LIMIT = 2**31
"""The constant index of a getelementptr has 32 bits."""


UNKNOWN_SPAN = 2**60
"""Elements that a view of run-time size claims: its bounds are known to those who call."""

Number = int | SSAValue
"""A size or stride, in elements; a value where it is known only at run time."""


@dataclass(frozen=True)
class FlatView:
    """A memref as a rank-1 view of its memory."""

    root: SSAValue
    """A memref of rank 0 at the start of the memory."""
    span: int
    """Elements that can be reached from there."""
    base: SSAValue | None
    """Elements from the root to the memref's first element; None for zero."""
    sizes: tuple[Number, ...]
    strides: tuple[Number, ...]


@dataclass(frozen=True)
class Place:
    """Where accesses with the same run-time indices begin."""

    view: FlatView
    variable: SSAValue | None
    """Elements from the view's start, the part known at run time only; None for zero."""
    constant: int
    """Elements from there on."""


VectorAccess = nkvector.LoadOp | nkvector.StoreOp | nkvector.BroadcastLoadOp | nkvector.PrefetchOp
Access = VectorAccess | tile.LoadOp | tile.StoreOp


class Lowering:
    """Rewrites one function."""

    def __init__(self, function: func.FuncOp, target: Target):
        """Lower `function` for `target`."""
        self.function = function
        self.target = target
        self.entry = function.body.blocks[0]
        assert self.entry.first_op is not None
        self.loops = LoopBuilder(self.entry, InsertPoint.before(self.entry.first_op))
        self.last_early = _operation(self.loops.constant(0))
        """What is computed before the function's work begins comes behind this op."""
        self.originals = tuple(self.entry.args)
        self.private = function.sym_visibility == StringAttr("private")
        self.early: set[SSAValue] = set()
        """Values known before the function's work begins."""
        self.early_results: dict[object, SSAValue] = {}
        self.views: dict[SSAValue, FlatView] = {}
        self.flats: dict[SSAValue, SSAValue] = {}
        """The rank-1 view of the memory at each root."""
        self.places: Scopes[object, Place] = Scopes()
        """By memref, run-time indices, and constant offsets along run-time strides."""
        self.products: Scopes[tuple[SSAValue, SSAValue], SSAValue] = Scopes()
        self.windows: Scopes[Place, SSAValue] = Scopes()
        self.pointers: Scopes[Place, SSAValue] = Scopes()
        self.bases: dict[SSAValue, SSAValue] = {}
        """The addresses where flat views start."""
        self.masks: dict[tuple[int, int], SSAValue] = {}
        self.run_time_masks: dict[tuple[SSAValue, int], SSAValue] = {}
        self.zeros: dict[Attribute, SSAValue] = {}
        self.integers: dict[tuple[Attribute, int], SSAValue] = {}
        self.workspace: SSAValue | None = None
        self.workspace_bytes = 0
        self.tiles: TileLowering | None = None

    def run(self) -> None:
        """Rewrite the function."""
        self._arguments()
        if has_tiles(self.function):
            places = self._element_address, self._row_stride, self._address
            scalable = self.target.tiles is not None and self.target.tiles.scalable
            kind = SmeLowering if scalable else AmxLowering
            self.tiles = kind(self.function, self.target, self.loops, *places)
        for block in self.function.body.blocks:
            self._block(block)
        self._signature()

    def _block(self, block: Block) -> None:
        scopes = (self.places, self.windows, self.pointers, self.products)
        with ExitStack() as stack:
            for scope in scopes:
                stack.enter_context(scope.nested())
            self._rewrite(block)

    def _rewrite(self, block: Block) -> None:
        replaced: list[Operation] = []
        for op in list(block.ops):
            self.loops.move_to(InsertPoint.before(op))
            if self.tiles is not None and self.tiles.carries_tiles(op):
                replaced.append(op)
                op = self.tiles.without_tiles(op)
            elif self._op(op):
                replaced.append(op)
            for region in op.regions:
                for inner in region.blocks:
                    self._block(inner)
        for op in reversed(replaced):
            op.detach()
            op.erase()

    # The most frequent operations are built by `create`, which takes a third of the time that
    # their constructors take.

    def _op(self, op: Operation) -> bool:
        """Rewrite one op; returns whether it is replaced."""
        match op:
            case nkvector.FmaOp():
                result = [op.result.type]
                self._replace(op, vector.FMAOp.create(operands=op.operands, result_types=result))
            case nkvector.DotOp():
                op.result.replace_all_uses_with(self._dot(op))
            case nkvector.BroadcastLoadOp() if op.instruction is not None:
                self._replace(op, self._broadcast_using(op, op.instruction.data))
            case nkvector.BroadcastLoadOp() if op.count > 1 or _is_half(op.memref_type):
                self._replace(op, self._broadcast_group(op))
            case nkvector.BroadcastLoadOp():
                element = op.memref_type.element_type
                load = memref.LoadOp.create(operands=self._address(op), result_types=[element])
                scalar = self.loops.insert(load).results[0]
                result = [op.result.type]
                self._replace(op, vector.BroadcastOp.create(operands=[scalar], result_types=result))
            case nkvector.PrefetchOp():
                self._prefetch(op)
            case nkvector.LoadOp():
                self._replace(op, self._load(op))
            case nkvector.StoreOp():
                self._store(op)
            case nkvector.ShuffleOp() if self._is_foreign(op.result.type):
                op.result.replace_all_uses_with(self._shuffled_as_integers(op))
            case nkvector.ShuffleOp():
                self._replace(
                    op,
                    vector.ShuffleOp.create(
                        operands=op.operands,
                        result_types=[op.result.type],
                        properties={"mask": op.mask},
                    ),
                )
            case arith.TruncFOp() if _rounds_twice(op):
                refuse(op, "nothing rounds f64 to 16 bits at once; store the result as f32 or f64")
            case arith.TruncFOp() if self._is_foreign(op.result.type) and _is_f32(op.input.type):
                op.result.replace_all_uses_with(self._rounded_to_bf16(op.input))
            case arith.ExtFOp() if self._is_foreign(op.input.type):
                op.result.replace_all_uses_with(self._extended_bf16(op))
            case nkvector.FenceOp():
                self.loops.insert(llvm.InlineAsmOp("", "", [], [], has_side_effects=True))
            case WorkspaceOp():
                self._reserve(op)
            case memref.ReinterpretCastOp() if op.source in self.views:
                self._reinterpret(op)
            case memref.SubviewOp():
                self._subview(op)
            case memref.ViewOp() if op.source in self.views:
                self._retype(op)
            case memref.CastOp():
                self._cast(op)
            case memref.DimOp():
                self._dim(op)
            case scf.ParallelOp():
                self._parallel(op)
            case MicrokernelOp(callee=callee, arguments=arguments):
                if self.tiles is not None:
                    self.tiles.rewrite(op)  # which checks what the function expects
                self._call(callee.string_value(), arguments)
            case func.CallOp() if self._is_ours(op):
                self._call(op.callee.string_value(), op.arguments)
            case _:
                return self.tiles is not None and self.tiles.rewrite(op)
        return True

    def _replace(self, op: Operation, new: Operation) -> None:
        op.results[0].replace_all_uses_with(self.loops.insert(new).results[0])

    # -------------------------------------------------------------------------- arithmetic

    def _dot(self, op: nkvector.DotOp) -> SSAValue:
        """The intrinsic that the instruction's entry names, with its arguments in its order."""
        instruction = self.target.instruction(op.instruction.data)
        given = {"acc": op.acc, "lhs": op.lhs, "rhs": op.rhs}
        order = [name.strip() for name in instruction.order.split(",")]
        operands = [given[name] for name in order]
        call = intrinsic(instruction.upstream, operands, [op.result.type])
        product = self.loops.insert(call).results[0]
        if "acc" in order:
            return product
        return self.loops.insert(arith.AddiOp(op.acc, product)).result

    # Without instructions for bf16 LLVM computes in f32, calls a function to round, and takes
    # registers apart for that: whatever is done to bf16 is done to its bits.

    def _is_foreign(self, type_: Attribute) -> bool:
        """Whether a type is bf16, or holds it, and the target has no instructions for that."""
        return get_element_type_or_self(type_) == bf16 and not self.target.rounds_to_bf16

    def _make(
        self,
        op: type[Operation],
        element: Attribute,
        *operands: SSAValue,
        properties: Mapping[str, Attribute] | None = None,
    ) -> SSAValue:
        """An elementwise operation on scalars or on registers, with results of some type."""
        like = operands[0].type
        if isinstance(like, VectorType):
            element, op = VectorType(element, like.get_shape()), on_vectors(op)
        made = op.create(
            operands=operands, result_types=[element], properties=dict(properties or {})
        )
        return self.loops.insert(made).results[0]

    def _shuffled_as_integers(self, op: nkvector.ShuffleOp) -> SSAValue:
        lhs, rhs = (self._make(arith.BitcastOp, i16, operand) for operand in op.operands)
        shuffle = vector.ShuffleOp.create(
            operands=[lhs, rhs],
            result_types=[register_type(i16, len(op.lanes))],
            properties={"mask": op.mask},
        )
        return self._make(arith.BitcastOp, bf16, self.loops.insert(shuffle).results[0])

    def _extended_bf16(self, op: arith.ExtFOp) -> SSAValue:
        """bf16 as f32, of which it is the upper half, or as f64."""
        bits = self._make(arith.BitcastOp, i16, op.input)
        upper = self._make(arith.ExtUIOp, i32, bits)
        sixteen = self._integers(upper.type, 16)
        shifted = self._make(arith.ShLIOp, i32, upper, sixteen, properties=_MAY_OVERFLOW)
        single = self._make(arith.BitcastOp, f32, shifted)
        if op.result.type == single.type:
            return single
        return self.loops.insert(arith.ExtFOp(single, op.result.type)).result

    def _rounded_to_bf16(self, value: SSAValue) -> SSAValue:
        """f32 as bf16, rounded to nearest even, in integers: its upper half is what is truncated.

        To that a carry is added from below: from more than half of the last place, or just half if
        the number is odd. A NaN stays one.
        """
        make = self._make
        bits = make(arith.BitcastOp, i32, value)

        def constant(number: int) -> SSAValue:
            return self._integers(bits.type, number)

        upper = make(arith.ShRUIOp, i32, bits, constant(16))
        odd = make(arith.AndIOp, i32, upper, constant(1))
        half = make(arith.AddiOp, i32, odd, constant(0x7FFF), properties=_MAY_OVERFLOW)
        carried = make(arith.AddiOp, i32, bits, half, properties=_MAY_OVERFLOW)
        rounded = make(arith.ShRUIOp, i32, carried, constant(16))
        quiet = make(arith.OrIOp, i32, upper, constant(0x40))
        is_nan = make(arith.CmpfOp, i1, value, value, properties=_UNORDERED)
        chosen = make(arith.SelectOp, i32, is_nan, quiet, rounded)
        narrow = make(arith.TruncIOp, i16, chosen)
        return make(arith.BitcastOp, bf16, narrow)

    def _integers(self, type_: Attribute, number: int) -> SSAValue:
        """A number, or a register of it, made once."""
        if (type_, number) not in self.integers:
            attribute = (
                DenseIntOrFPElementsAttr.from_list(type_, [number])
                if isinstance(type_, VectorType)
                else IntegerAttr(number, i32)
            )
            op = self.loops.insert_at_entry(arith.ConstantOp(attribute))
            self.integers[type_, number] = op.result
        return self.integers[type_, number]

    def _broadcast_using(self, op: nkvector.BroadcastLoadOp, instruction: str) -> Operation:
        """As assembly: LLVM would choose the instruction by the type of what is multiplied."""
        type_ = _vector(op.result.type)
        size = element_type_of(type_.element_type).size * op.count
        if self.target.broadcasts.get(size) != instruction:
            refuse(
                op,
                f"{self.target.name} has no instruction '{instruction}' that broadcasts {size} "
                "bytes; leave it out, and LLVM chooses one",
            )
        word = IntegerType(8 * size)
        register = register_type(word, type_.get_shape()[0] // op.count)
        assembly = InlineAsmOp.of_memory(instruction, self._element_address(op), word, register)
        return vector.BitcastOp.create(
            operands=self.loops.insert(assembly).results, result_types=[type_]
        )

    def _broadcast_group(self, op: nkvector.BroadcastLoadOp) -> Operation:
        """A group is loaded as one wide integer, which is copied to all lanes.

        So is a single float of 16 bits, which LLVM would take apart without AVX-512.
        """
        flat, index = self._address(op)
        element, type_ = op.memref_type.element_type, _vector(op.result.type)
        group = register_type(element, op.count)
        size = element_type_of(element).size * op.count
        word = IntegerType(8 * size)
        if op.active is None:
            load: Operation = vector.LoadOp.create(operands=[flat, index], result_types=[group])
            loaded: SSAValue = self.loops.insert(load).results[0]
        else:
            loaded = self._partial_group(op, flat, index, group)
        single = register_type(word, 1)
        cast = vector.BitcastOp.create(operands=[loaded], result_types=[single])
        bits = vector.ExtractOp.create(
            operands=[self.loops.insert(cast).results[0]],
            result_types=[word],
            properties={"static_position": array(i64, 0)},
        )
        everywhere = vector.BroadcastOp.create(
            operands=[self.loops.insert(bits).results[0]],
            result_types=[register_type(word, type_.get_shape()[0] // op.count)],
        )
        self.loops.insert(everywhere)
        return vector.BitcastOp.create(operands=everywhere.results, result_types=[type_])

    def _partial_group(
        self, op: nkvector.BroadcastLoadOp, flat: SSAValue, index: SSAValue, group: VectorType
    ) -> SSAValue:
        """Some elements of a group, and zeros: masked, or element by element."""
        if element_type_of(group.element_type).size >= self.target.smallest_masked:
            assert op.active is not None
            operands = [flat, index, self._mask(op.active, op.count), self._zero(group)]
            masked = vector.MaskedLoadOp.create(operands=operands, result_types=[group])
            return self.loops.insert(masked).results[0]
        count = constant_index(op.active)
        if count is None:
            refuse(op, "how many elements of a group exist must be known")
        value = self._zero(group)
        for number in range(count):
            place = self.loops.offset(index, number)
            load = memref.LoadOp.create(operands=[flat, place], result_types=[group.element_type])
            element = self.loops.insert(load).results[0]
            insert = vector.InsertOp.create(
                operands=[element, value],
                result_types=[group],
                properties={"static_position": array(i64, number)},
            )
            value = self.loops.insert(insert).results[0]
        return value

    # --------------------------------------------------------------------------- accesses

    def _load(self, op: nkvector.LoadOp) -> Operation:
        flat, index = self._address(op)
        type_ = _vector(op.result.type)
        if op.active is None:
            return vector.LoadOp.create(operands=[flat, index], result_types=[type_])
        self._refuse_unmasked(op)
        mask = self._mask(op.active, op.lanes)
        operands = [flat, index, mask, self._zero(type_)]
        return vector.MaskedLoadOp.create(operands=operands, result_types=[type_])

    def _store(self, op: nkvector.StoreOp) -> None:
        flat, index = self._address(op)
        if op.active is None:
            self.loops.insert(vector.StoreOp.create(operands=[op.vector, flat, index]))
            return
        self._refuse_unmasked(op)
        mask = self._mask(op.active, op.lanes)
        operands = [flat, index, mask, op.vector]
        self.loops.insert(vector.MaskedStoreOp.create(operands=operands))

    def _refuse_unmasked(self, op: nkvector.LoadOp | nkvector.StoreOp) -> None:
        """Refuse to mask elements that the target can't: LLVM would branch for each of them."""
        element, smallest = op.memref_type.element_type, self.target.smallest_masked
        if element_type_of(element).size < smallest:
            others = f", only those of {smallest} bytes or more" if smallest != NEVER_MASKED else ""
            refuse(
                op,
                f"{self.target.name} can't mask elements of {element}{others}; load and store them "
                "in parts",
            )

    def _prefetch(self, op: nkvector.PrefetchOp) -> None:
        """By plain pointer arithmetic, which stays well defined past the end of the memref."""
        place, constant = self._place(op)
        constant += place.constant
        if not -I32_LIMIT <= constant < I32_LIMIT:
            return  # A hint is not worth more than one constant.
        address = self._pointer(place)
        if constant:
            address = self._moved_pointer(address, place, constant)
        read, outer, data, inner = self._prefetch_arguments
        near = inner if op.into_l2 is None else outer
        self.loops.insert(intrinsic("llvm.prefetch.p0", [address, read, near, data]))

    def _element_address(self, op: Access) -> SSAValue:
        """The address of the first element, a tile's first row."""
        place, constant = self._place(op)
        constant += place.constant
        address = self._pointer(place)
        if not constant:
            return address
        if -I32_LIMIT <= constant < I32_LIMIT:
            return self._moved_pointer(address, place, constant)
        distance = self.loops.insert(arith.ConstantOp(IntegerAttr(constant, i64)))
        return self._moved_pointer(address, place, distance.result)

    def _row_stride(self, op: tile.LoadOp | tile.StoreOp) -> Number:
        """Elements from one row of a tile to the next."""
        return self._view(op.memref).strides[op.rows.value.data]

    @cached_property
    def _prefetch_arguments(self) -> list[SSAValue]:
        """Read, keep in all levels but the first, data cache, keep in all levels."""
        values = (arith.ConstantOp(IntegerAttr(value, i32)) for value in (0, 2, 1, 3))
        return [self.loops.insert_at_entry(op).result for op in values]

    def _pointer(self, place: Place) -> SSAValue:
        """The address where a place's run-time part ends."""
        return self.pointers.get(place, lambda: self._build_pointer(place))

    def _build_pointer(self, place: Place) -> SSAValue:
        base = self._base(self._flat(place.view))
        if place.variable is None:
            return base
        cast = arith.IndexCastOp.create(operands=[place.variable], result_types=[i64])
        return self._moved_pointer(base, place, self.loops.insert(cast).result)

    def _moved_pointer(self, start: SSAValue, place: Place, distance: Number) -> SSAValue:
        """An address some elements on."""
        element = _memref(place.view.root.type).element_type
        address = moved_pointer(start, distance, element)
        return self.loops.insert(address).result

    def _base(self, flat: SSAValue) -> SSAValue:
        """The address where a flat view starts, computed right behind the view."""
        if flat not in self.bases:
            index = memref.ExtractAlignedPointerAsIndexOp.get(flat)
            integer = arith.IndexCastOp(index.aligned_pointer, i64)
            pointer = llvm.IntToPtrOp(integer.result)
            self.loops.insert_after(flat, [index, integer, pointer])
            self.bases[flat] = pointer.output
        return self.bases[flat]

    def _mask(self, active: SSAValue, lanes: int) -> SSAValue:
        """The mask of the first `active` lanes."""
        count = constant_index(active)
        if count is None:
            if (active, lanes) not in self.run_time_masks:
                mask = vector.CreateMaskOp([active], register_type(i1, lanes))
                self.loops.insert_after(active, [mask])
                self.run_time_masks[active, lanes] = mask.mask_vector
            return self.run_time_masks[active, lanes]
        if (count, lanes) not in self.masks:
            bits = [lane < count for lane in range(lanes)]
            type_ = VectorType(i1, [lanes])
            attr = DenseIntOrFPElementsAttr.from_list(type_, [int(b) for b in bits])
            self.masks[count, lanes] = self.loops.insert_at_entry(arith.ConstantOp(attr)).result
        return self.masks[count, lanes]

    def _zero(self, type_: VectorType) -> SSAValue:
        if type_ not in self.zeros:
            op = zeros(type_.element_type, type_.get_shape()[0])
            self.zeros[type_] = self.loops.insert_at_entry(op).result
        return self.zeros[type_]

    def _address(self, op: Access) -> tuple[SSAValue, SSAValue]:
        """A view that holds an access, and the index of its first element there."""
        place, constant = self._place(op)
        return self._window(place), self.loops.constant(place.constant + constant)

    def _window(self, place: Place) -> SSAValue:
        """A view that starts where a place's run-time part ends.

        It claims the size of all that can be reached from the root: none is computed, since the
        layouts alone say what may be accessed.
        """
        return self.windows.get(place, lambda: self._build_window(place))

    def _build_window(self, place: Place) -> SSAValue:
        view = place.view
        if place.variable is None:
            return self._flat(view)
        size = self.loops.constant(view.span)
        cast = memref.ReinterpretCastOp.create(
            operands=[self._flat(view), place.variable, size],
            result_types=[_window_type(_memref(view.root.type).element_type)],
            properties=_WINDOW_PROPERTIES,
        )
        return self.loops.insert(cast).result

    def _place(self, op: Access) -> tuple[Place, int]:
        """Where an access begins, and how many elements further on its first element is."""
        view = self._view(op.memref)
        constant, varying = 0, []
        for offset, stride in zip(op.constant_offsets, view.strides, strict=True):
            if isinstance(stride, int):
                constant += offset * stride
            elif offset:
                varying.append((offset, stride))
        indices, key = tuple(op.indices), tuple(varying)
        place = self.places.get(
            (op.memref, indices, key), lambda: self._build_place(view, indices, key)
        )
        return place, constant

    def _build_place(
        self,
        view: FlatView,
        indices: tuple[SSAValue, ...],
        offsets: tuple[tuple[int, SSAValue], ...],
    ) -> Place:
        """`base + Σ offset·stride + Σ index·stride`: what loops don't change comes first."""
        variable, constant = view.base, 0
        for offset, run_time in offsets:
            term = self._product(self.loops.constant(offset), run_time)
            variable = term if variable is None else self._sum(variable, term)
        for index, stride in zip(indices, view.strides, strict=True):
            known = constant_index(index)
            if known == 0:
                continue
            if known is not None and isinstance(stride, int):
                constant += known * stride
                continue
            step = self.loops.constant(stride) if isinstance(stride, int) else stride
            term = self._product(index, step)
            variable = term if variable is None else self.loops.add(variable, term)
        return Place(view, variable, constant)

    def _product(self, lhs: SSAValue, rhs: SSAValue) -> SSAValue:
        """`lhs * rhs`, computed once, and early where both are arguments or constants."""
        if self._is_early(lhs) and self._is_early(rhs):
            return self._early(arith.MuliOp, lhs, rhs)
        return self.products.get((lhs, rhs), lambda: self.loops.mul(lhs, rhs))

    def _sum(self, lhs: SSAValue, rhs: SSAValue) -> SSAValue:
        """`lhs + rhs`, early where possible."""
        if self._is_early(lhs) and self._is_early(rhs):
            return self._early(arith.AddiOp, lhs, rhs)
        return self.loops.add(lhs, rhs)

    def _is_early(self, value: SSAValue) -> bool:
        """Whether a value is known when the function's work begins."""
        return value in self.early or constant_index(value) is not None

    def _hoisted(self, value: SSAValue) -> SSAValue:
        """An early value where all that is early can use it."""
        known = constant_index(value)
        return value if known is None else self.loops.constant(known)

    def _early(
        self, op: type[arith.MuliOp | arith.AddiOp], lhs: SSAValue, rhs: SSAValue
    ) -> SSAValue:
        lhs, rhs = self._hoisted(lhs), self._hoisted(rhs)
        key = op, lhs, rhs
        if key not in self.early_results:
            made = self._insert_early(index_arithmetic(op, lhs, rhs))
            self.early_results[key] = made.result
            self.early.add(made.result)
        return self.early_results[key]

    # ------------------------------------------------------------------------------ views

    def _arguments(self) -> None:
        """Take each memref argument apart, as the native calling convention does.

        A pointer comes first, then (in functions of our own making) the offset of the first element
        where that is known only at run time, then sizes and strides that are.
        """
        for argument in self.originals:
            if not isinstance(argument.type, MemRefType):
                continue
            if argument.type.get_num_dims():
                self._take_apart(argument)
            else:
                self.views[argument] = FlatView(argument, 1, None, (), ())

    def _take_apart(self, argument: BlockArgument) -> None:
        type_ = _memref(argument.type)
        root = self.entry.insert_arg(MemRefType(type_.element_type, []), argument.index)
        root.name_hint = argument.name_hint

        def more() -> SSAValue:
            added = self.entry.insert_arg(IndexType(), argument.index)
            self.early.add(added)
            return added

        base = self._base_of(type_.get_offset(), more)
        sizes = tuple(more() if n == DYNAMIC_INDEX else n for n in type_.get_shape())
        if isinstance(type_.layout, NoneAttr):
            strides = self._row_major(sizes)
        else:
            strides = tuple(more() if s is None else s for s in strides_of(type_))
        self.views[argument] = FlatView(root, _span(base, sizes, strides), base, sizes, strides)

    def _base_of(self, offset: int | None, more: Callable[[], SSAValue]) -> SSAValue | None:
        """Where an argument begins, counted from the pointer that stands for it.

        Others' pointers are to the first element; functions of our own making get the root's.
        """
        if not self.private or offset == 0:
            return None
        return more() if offset is None else self.loops.constant(offset)

    def _row_major(self, sizes: Sequence[Number]) -> tuple[Number, ...]:
        """The strides of a contiguous memref."""
        strides: list[Number] = [1]
        for size in sizes[:0:-1]:
            last = strides[0]
            if isinstance(size, int) and isinstance(last, int):
                strides.insert(0, size * last)
            elif last == 1:
                strides.insert(0, size)
            else:
                strides.insert(0, self._product(self._value(size), self._value(last)))
        return tuple(strides[-len(sizes) :])

    def _value(self, number: Number) -> SSAValue:
        return self.loops.constant(number) if isinstance(number, int) else number

    def _flat(self, view: FlatView) -> SSAValue:
        """A view of rank 1 of everything that can be reached from a view's root."""
        if view.root not in self.flats:
            given = [self.loops.constant(view.span)] if view.span == UNKNOWN_SPAN else []
            extent = DYNAMIC_INDEX if given else view.span
            type_ = MemRefType(_memref(view.root.type).element_type, [extent])
            cast = memref.ReinterpretCastOp(view.root, [], given, [], [0], [extent], [1], type_)
            self.flats[view.root] = self._insert_early(cast).result
        return self.flats[view.root]

    def _insert_early(self, op: OperationT) -> OperationT:
        """Insert an op in front of the function's work."""
        self.entry.insert_op_after(op, self.last_early)
        self.last_early = op
        return op

    def _view(self, source: SSAValue) -> FlatView:
        """The flat view of a memref."""
        if source not in self.views:
            assert isinstance(source.owner, Operation)
            refuse(source.owner, "vectors can be loaded from function arguments and panels only")
        return self.views[source]

    def _reserve(self, op: WorkspaceOp) -> None:
        """A part of the workspace as a flat view."""
        type_ = _memref(op.result.type)
        elements = prod(type_.get_shape())
        start = op.offset.value.data
        size = elements * element_type_of(type_.element_type).size
        self.workspace_bytes = max(self.workspace_bytes, start + size)
        if self.workspace is None:
            self.workspace = self.entry.insert_arg(MemRefType(i8, []), len(self.entry.args))
        bytes_ = self.loops.insert(
            memref.ReinterpretCastOp(
                self.workspace, [], [], [], [0], [start + size], [1], MemRefType(i8, [start + size])
            )
        ).result
        root = self._root_at(bytes_, self.loops.constant(start), type_)
        layout = layout_of(type_)
        # Whatever isn't ours expects a memref of the type that it was.
        others = [use for use in op.result.uses if use.operation.dialect_name() == "linalg"]
        if others:
            shape, strides = list(type_.get_shape()), list(strides_of(type_))
            whole = memref.ReinterpretCastOp(
                root, [], [], [], [0], shape, [s or 1 for s in strides], type_
            )
            self.loops.insert(whole)
            for use in others:
                use.operation.operands[use.index] = whole.result
        self.views[op.result] = FlatView(root, elements, None, layout.shape, layout.strides)

    def _root_at(self, bytes_: SSAValue, start: SSAValue, type_: MemRefType) -> SSAValue:
        """The root of a view of some bytes, from a certain one on, as a memref of another type."""
        flat = MemRefType(type_.element_type, [prod(type_.get_shape())])
        memory = self.loops.insert(memref.ViewOp(bytes_, start, [], flat)).result
        root_type = MemRefType(type_.element_type, [])
        cast = memref.ReinterpretCastOp(memory, [], [], [], [0], [], [], root_type)
        root = self.loops.insert(cast).result
        self.flats[root] = memory
        return root

    def _retype(self, op: memref.ViewOp) -> None:
        """A part of a function's bytes as a memref of another type, of static size."""
        source, type_ = self._view(op.source), _memref(op.result.type)
        layout = layout_of(type_)
        start = op.byte_shift if source.base is None else self._sum(source.base, op.byte_shift)
        root = self._root_at(self._flat(source), start, type_)
        self.views[op.result] = FlatView(
            root, prod(layout.shape), None, layout.shape, layout.strides
        )

    def _reinterpret(self, op: memref.ReinterpretCastOp) -> None:
        """A part of a panel: the same flat view from another element on."""
        source = self.views[op.source]
        (offset,) = _numbers(op.static_offsets, op.offsets)
        sizes = tuple(_numbers(op.static_sizes, op.sizes))
        strides = tuple(_numbers(op.static_strides, op.strides))
        base = self._moved(source.base, offset)
        self.views[op.result] = FlatView(source.root, source.span, base, sizes, strides)

    def _subview(self, op: memref.SubviewOp) -> None:
        """A part of a view: it starts elsewhere and has other sizes."""
        source = self._view(op.source)
        offsets = _numbers(op.static_offsets, op.offsets)
        sizes = _numbers(op.static_sizes, op.sizes)
        base = source.base
        for offset, stride in zip(offsets, source.strides, strict=True):
            if offset == 0:
                continue
            if isinstance(offset, int) and isinstance(stride, int):
                base = self._moved(base, offset * stride)
            else:
                base = self._moved(base, self._product(self._value(offset), self._value(stride)))
        kept = _kept_dimensions(sizes, source.strides, _memref(op.result.type))
        self.views[op.result] = FlatView(
            source.root,
            source.span,
            base,
            tuple(sizes[d] for d in kept),
            tuple(source.strides[d] for d in kept),
        )

    def _moved(self, base: SSAValue | None, distance: Number) -> SSAValue | None:
        """A view's start, moved on."""
        if distance == 0:
            return base
        value = self._value(distance)
        return value if base is None else self._sum(base, value)

    def _cast(self, op: memref.CastOp) -> None:
        """The same view; what its type knows replaces what was computed."""
        source, type_ = self._view(op.source), _memref(op.dest.type)
        sizes = zip(source.sizes, type_.get_shape(), strict=True)
        strides = zip(source.strides, strides_of(type_), strict=True)
        self.views[op.dest] = replace(
            source,
            sizes=tuple(have if known == DYNAMIC_INDEX else known for have, known in sizes),
            strides=tuple(have if known is None else known for have, known in strides),
        )

    def _dim(self, op: memref.DimOp) -> None:
        dim = constant_index(op.index)
        if dim is None:
            refuse(op, "the dimension must be a constant")
        op.result.replace_all_uses_with(self._value(self._view(op.source).sizes[dim]))

    # ----------------------------------------------------------------------------- threads

    def _parallel(self, op: scf.ParallelOp) -> None:
        """A parallel loop becomes OpenMP's, with a thread for each iteration.

        ```mlir
        omp.parallel num_threads(%count) { omp.wsloop nowait { omp.loop_nest ... } }
        ```
        """
        (lower,), (upper,), (step,) = op.lowerBound, op.upperBound, op.step
        count = constant_index(upper)
        if count is None or op.initVals:
            refuse(op, "a parallel loop must have a known number of iterations and no results")
        threads = self.loops.insert_at_entry(arith.ConstantOp(IntegerAttr(count, i32)))
        body = op.body.block
        assert body.last_op is not None
        Rewriter.replace_op(body.last_op, omp.YieldOp())
        region = op.detach_region(op.body)
        nest = omp.LoopNestOp(operands=[[lower], [upper], [step]], regions=[region])
        loop = omp.WsLoopOp(
            operands=[[] for _ in range(6)] + [None],
            properties={"nowait": UnitAttr()},
            regions=[Region(Block([nest]))],
        )
        inside = Region(Block([loop, omp.TerminatorOp()]))
        self.loops.insert(
            omp.ParallelOp(operands=[[], [], None, threads, [], []], regions=[inside])
        )
        self._block(body)

    # ------------------------------------------------------------------------------- calls

    def _is_ours(self, op: func.CallOp) -> bool:
        """Whether a call passes views, which its callee takes apart."""
        return any(value in self.views for value in op.arguments)

    def _call(self, callee: str, arguments: Sequence[SSAValue]) -> None:
        """A call of a private function: views are passed as it takes them apart."""
        passed: list[SSAValue] = []
        for argument in arguments:
            if not (isinstance(argument.type, MemRefType) and argument.type.get_num_dims()):
                passed.append(argument)
                continue
            view, type_ = self._view(argument), argument.type
            passed.append(view.root)
            if type_.get_offset() is None:
                passed.append(self.loops.constant(0) if view.base is None else view.base)
            for size, known in zip(view.sizes, type_.get_shape(), strict=True):
                if known == DYNAMIC_INDEX:
                    passed.append(self._value(size))
            for stride, fixed in zip(view.strides, strides_of(type_), strict=True):
                if fixed is None and not isinstance(type_.layout, NoneAttr):
                    passed.append(self._value(stride))
        self.loops.insert(func.CallOp(callee, passed, []))

    # -------------------------------------------------------------------------- signature

    def _signature(self) -> None:
        """Arguments become pointers; the function says what it was made for."""
        for argument in self.originals:
            if argument in self.views and self.views[argument].root is not argument:
                if argument.first_use is not None:
                    self._restore(argument)
                self.entry.erase_arg(argument)
        inputs = [argument.type for argument in self.entry.args]
        outputs = self.function.function_type.outputs.data
        self.function.properties["function_type"] = FunctionType.from_lists(inputs, list(outputs))
        features = ",".join((*self.target.required, *self.target.tuning))
        passthrough: list[Attribute] = [
            ArrayAttr([StringAttr("target-cpu"), StringAttr(self.target.cpu)]),
            ArrayAttr([StringAttr("target-features"), StringAttr(features)]),
        ]
        passthrough += self.tiles.passthrough if self.tiles is not None else ()
        if self.private:
            # func.func's own words for these are lost on the way down.
            self.function.attributes["llvm.linkage"] = llvm.LinkageAttr("internal")
            self.function.attributes["passthrough"] = ArrayAttr(
                [*passthrough, StringAttr("noinline")]
            )
        else:
            self.function.attributes["passthrough"] = ArrayAttr(passthrough)
        # They are about the arguments as they were.
        self.function.properties.pop("arg_attrs", None)
        del self.function.attributes[TARGET_ATTRIBUTE]
        self.function.attributes.pop(tile.CONFIGURATION_ATTRIBUTE, None)
        if self.workspace_bytes:
            self.function.attributes[WORKSPACE_ATTRIBUTE] = IntegerAttr(self.workspace_bytes, i64)

    def _restore(self, argument: BlockArgument) -> None:
        """Give other users of an argument the memref they expect."""
        type_, view = _memref(argument.type), self.views[argument]
        cast = memref.ReinterpretCastOp(
            view.root,
            _dynamic(() if view.base is None else (view.base,)),
            _dynamic(view.sizes),
            _dynamic(view.strides),
            [0 if view.base is None else DYNAMIC_INDEX],
            _static(view.sizes),
            _static(view.strides),
            type_,
        )
        argument.replace_all_uses_with(self._insert_early(cast).result)


def _rounds_twice(op: arith.TruncFOp) -> bool:
    """Whether f64 becomes a type of 16 bits, by way of f32."""
    wide, narrow = (get_element_type_or_self(v.type) for v in (op.input, op.result))
    return isinstance(wide, Float64Type) and isinstance(narrow, BFloat16Type | Float16Type)


@cache
def _window_type(element: Attribute) -> MemRefType:
    """The type of a view of rank 1 that starts anywhere."""
    return MemRefType(element, [DYNAMIC_INDEX], StridedLayoutAttr([1], None))


_WINDOW_PROPERTIES = {
    "static_offsets": array(i64, DYNAMIC_INDEX),
    "static_sizes": array(i64, DYNAMIC_INDEX),
    "static_strides": array(i64, 1),
    "operandSegmentSizes": array(i32, 1, 1, 1, 0),
}

_MAY_OVERFLOW = {"overflowFlags": arith.IntegerOverflowAttr("none")}
_UNORDERED = {
    "predicate": IntegerAttr(14, i64),  # uno
    "fastmath": arith.FastMathFlagsAttr("none"),
}


def _is_f32(type_: Attribute) -> bool:
    """Whether a type is f32, or holds it."""
    return get_element_type_or_self(type_) == f32


def _is_half(type_: MemRefType) -> bool:
    """Whether elements are floats of 16 bits."""
    return isinstance(type_.element_type, BFloat16Type | Float16Type)


def strides_of(type_: MemRefType) -> Sequence[int | None]:
    """The strides of a strided memref; None for those known only at run time."""
    strides = type_.get_strides()
    if strides is None:
        raise Unsupported(f"{type_} needs a strided layout")
    return strides


def _span(base: SSAValue | None, sizes: Sequence[Number], strides: Sequence[Number]) -> int:
    """Elements from the root to the last one in memory, where that is known."""
    known = [n for n in (*sizes, *strides) if isinstance(n, int)]
    if base is not None or len(known) < 2 * len(sizes):
        return UNKNOWN_SPAN
    return Layout(tuple(known[: len(sizes)]), tuple(known[len(sizes) :])).span


def _numbers(static: DenseArrayBase[I64], values: Sequence[SSAValue]) -> list[Number]:
    """A list of static numbers with the run-time ones filled in."""
    rest = iter(values)
    return [next(rest) if n == DYNAMIC_INDEX else int(n) for n in static.get_values()]


def _static(numbers: Sequence[Number]) -> list[int]:
    return [n if isinstance(n, int) else DYNAMIC_INDEX for n in numbers]


def _dynamic(numbers: Sequence[Number]) -> list[SSAValue]:
    return [n for n in numbers if isinstance(n, SSAValue)]


def _kept_dimensions(
    sizes: Sequence[Number], strides: Sequence[Number], type_: MemRefType
) -> tuple[int, ...]:
    """The dimensions of a view that its type has too; the others have one element."""
    wanted = list(zip(type_.get_shape(), strides_of(type_), strict=True))
    found = [
        (n if isinstance(n, int) else DYNAMIC_INDEX, s if isinstance(s, int) else None)
        for n, s in zip(sizes, strides, strict=True)
    ]
    for kept in combinations(range(len(found)), len(wanted)):
        agree = all(
            a == x and y in (b, None)
            for (a, b), (x, y) in zip((found[d] for d in kept), wanted, strict=True)
        )
        dropped = set(range(len(found))) - set(kept)
        if agree and all(found[d][0] == 1 for d in dropped):
            return kept
    raise Unsupported(f"a subview can't have the type {type_}")


def _operation(value: SSAValue) -> Operation:
    assert isinstance(value.owner, Operation)
    return value.owner


def _vector(type_: Attribute) -> VectorType:
    assert isinstance(type_, VectorType)
    return type_


def _memref(type_: Attribute) -> MemRefType:
    assert isinstance(type_, MemRefType)
    return type_


@dataclass(frozen=True)
class LowerToUpstreamPass(ModulePass):
    """Lower nkvector to upstream dialects, arguments to pointers."""

    name = "lower-to-upstream"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module in place."""
        for function in [o for o in op.walk() if isinstance(o, func.FuncOp)]:
            name = function.attributes.get(TARGET_ATTRIBUTE)
            if not isinstance(name, StringAttr):
                continue
            try:
                Lowering(function, get_target(name.data)).run()
            except NkdslError as error:
                refuse(function, str(error))
