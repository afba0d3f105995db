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
%left = arith.subi %c24576, %at : index
%view = memref.reinterpret_cast %flat to offset: [%at], sizes: [%left], strides: [1] : ...
%b1 = vector.load %view[%c16] : memref<?xf32, strided<[1], offset: ?>>, vector<16xf32>
```

Functions are marked with the target's processor and features (`passthrough`), without which LLVM
would split wide registers. They are *not* marked as free of aliasing, although the runtime refuses
overlapping results: LLVM would hoist the loads of a fully unrolled reduction out of the loops
over blocks, and spill them. Imports: our dialects and targets.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod

from xdsl.context import Context
from xdsl.dialects import arith, func, llvm, memref, vector
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    ArrayAttr,
    DenseIntOrFPElementsAttr,
    FunctionType,
    IntegerAttr,
    MemRefType,
    ModuleOp,
    StridedLayoutAttr,
    StringAttr,
    VectorType,
    i1,
    i8,
    i32,
    i64,
)
from xdsl.ir import Attribute, Block, BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint

from nkdsl.diagnostics import refuse
from nkdsl.dialects import nkvector
from nkdsl.dialects.nanokernel import TARGET_ATTRIBUTE, WorkspaceOp
from nkdsl.dialects.nkvector import constant_index
from nkdsl.errors import NkdslError
from nkdsl.layout import layout_of
from nkdsl.targets import get_target
from nkdsl.targets.model import Target
from nkdsl.transforms.loops import LoopBuilder, Scopes
from nkdsl.transforms.registers import zeros
from nkdsl.types import element_type_of

WORKSPACE_ATTRIBUTE = "nanokernel.workspace_bytes"
"""The function attribute that holds the bytes of workspace a call needs."""


def workspace_bytes(function: func.FuncOp) -> int:
    """The bytes of workspace that a call of a lowered function needs."""
    size = function.attributes.get(WORKSPACE_ATTRIBUTE)
    return size.value.data if isinstance(size, IntegerAttr) else 0


I32_LIMIT = 2**31
"""The constant index of a getelementptr has 32 bits."""


@dataclass(frozen=True)
class FlatView:
    """A memref as a rank-1 view of its memory."""

    flat: SSAValue
    base: SSAValue | None
    """Elements from the view's start to the memref's first element; None for zero."""
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements of the view."""
        return int(_memref(self.flat.type).get_shape()[0])


@dataclass(frozen=True)
class Place:
    """Where accesses with the same run-time indices begin."""

    view: FlatView
    variable: SSAValue | None
    """Elements from the view's start, the part known at run time only; None for zero."""
    constant: int
    """Elements from there on."""


Access = nkvector.LoadOp | nkvector.StoreOp | nkvector.BroadcastLoadOp | nkvector.PrefetchOp


class Lowering:
    """Rewrites one function."""

    def __init__(self, function: func.FuncOp, target: Target):
        """Lower `function` for `target`."""
        self.function = function
        self.target = target
        self.entry = function.body.blocks[0]
        assert self.entry.first_op is not None
        self.loops = LoopBuilder(self.entry, InsertPoint.before(self.entry.first_op))
        self.views: dict[SSAValue, FlatView] = {}
        self.places: Scopes[tuple[SSAValue, tuple[SSAValue, ...]], Place] = Scopes()
        """By memref and run-time indices."""
        self.windows: Scopes[Place, SSAValue] = Scopes()
        self.pointers: Scopes[Place, SSAValue] = Scopes()
        self.bases: dict[SSAValue, SSAValue] = {}
        """The addresses where flat views start."""
        self.masks: dict[tuple[int, int], SSAValue] = {}
        self.zeros: dict[Attribute, SSAValue] = {}
        self.workspace: SSAValue | None = None
        self.workspace_bytes = 0

    def run(self) -> None:
        """Rewrite the function."""
        for block in self.function.body.blocks:
            self._block(block)
        self._signature()

    def _block(self, block: Block) -> None:
        with self.places.nested(), self.windows.nested(), self.pointers.nested():
            self._rewrite(block)

    def _rewrite(self, block: Block) -> None:
        replaced: list[Operation] = []
        for op in list(block.ops):
            self.loops.move_to(InsertPoint.before(op))
            if self._op(op):
                replaced.append(op)
            for region in op.regions:
                for inner in region.blocks:
                    self._block(inner)
        for op in reversed(replaced):
            op.detach()
            op.erase()

    # The most frequent operations are built by `create`, which takes half the time that their
    # constructors take.

    def _op(self, op: Operation) -> bool:
        """Rewrite one op; returns whether it is replaced."""
        match op:
            case nkvector.LoadOp():
                self._replace(op, self._load(op))
            case nkvector.StoreOp():
                self._store(op)
            case nkvector.BroadcastLoadOp():
                element = op.memref_type.element_type
                load = memref.LoadOp.create(operands=self._address(op), result_types=[element])
                scalar = self.loops.insert(load).results[0]
                result = [op.result.type]
                self._replace(op, vector.BroadcastOp.create(operands=[scalar], result_types=result))
            case nkvector.FmaOp():
                result = [op.result.type]
                self._replace(op, vector.FMAOp.create(operands=op.operands, result_types=result))
            case nkvector.ShuffleOp():
                type_ = _vector(op.result.type)
                self._replace(op, vector.ShuffleOp(op.lhs, op.rhs, op.mask, result_type=type_))
            case nkvector.PrefetchOp():
                self._prefetch(op)
            case nkvector.FenceOp():
                self.loops.insert(llvm.InlineAsmOp("", "", [], [], has_side_effects=True))
            case WorkspaceOp():
                self._reserve(op)
            case memref.ReinterpretCastOp() if op.source in self.views:
                self._slice(op)
            case _:
                return False
        return True

    def _replace(self, op: Operation, new: Operation) -> None:
        op.results[0].replace_all_uses_with(self.loops.insert(new).results[0])

    # --------------------------------------------------------------------------- accesses

    def _load(self, op: nkvector.LoadOp) -> Operation:
        flat, index = self._address(op)
        type_ = _vector(op.result.type)
        if op.active is None:
            return vector.LoadOp.create(operands=[flat, index], result_types=[type_])
        mask = self._mask(op.active, op.lanes)
        return vector.MaskedLoadOp(flat, [index], mask, self._zero(type_), type_)

    def _store(self, op: nkvector.StoreOp) -> None:
        flat, index = self._address(op)
        if op.active is None:
            self.loops.insert(vector.StoreOp.create(operands=[op.vector, flat, index]))
            return
        mask = self._mask(op.active, op.lanes)
        self.loops.insert(vector.MaskedStoreOp(flat, [index], mask, op.vector))

    def _prefetch(self, op: nkvector.PrefetchOp) -> None:
        """By plain pointer arithmetic, which stays well defined past the end of the memref."""
        place, constant = self._place(op)
        constant += place.constant
        if not -I32_LIMIT <= constant < I32_LIMIT:
            return  # A hint is not worth more than one constant.
        start = self._pointer(place)
        element = _memref(place.view.flat.type).element_type
        address = self.loops.insert(llvm.GEPOp(start, [constant], element)).result
        self.loops.insert(
            llvm.CallIntrinsicOp("llvm.prefetch.p0", [address, *self._prefetch_arguments], [])
        )

    @cached_property
    def _prefetch_arguments(self) -> list[SSAValue]:
        """Read, keep in all levels, data cache."""
        values = (arith.ConstantOp(IntegerAttr(value, i32)) for value in (0, 3, 1))
        return [self.loops.insert_at_entry(op).result for op in values]

    def _pointer(self, place: Place) -> SSAValue:
        """The address where a place's run-time part ends."""
        return self.pointers.get(place, lambda: self._build_pointer(place))

    def _build_pointer(self, place: Place) -> SSAValue:
        flat = place.view.flat
        base = self._base(flat)
        if place.variable is None:
            return base
        distance = self.loops.insert(arith.IndexCastOp(place.variable, i64)).result
        element = _memref(flat.type).element_type
        address = llvm.GEPOp(base, [llvm.GEP_USE_SSA_VAL], element, [distance])
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
        type_ = VectorType(i1, [lanes])
        if count is None:
            return self.loops.insert(vector.CreateMaskOp([active], type_)).mask_vector
        if (count, lanes) not in self.masks:
            bits = [lane < count for lane in range(lanes)]
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
        """A view that starts where a place's run-time part ends."""
        return self.windows.get(place, lambda: self._build_window(place))

    def _build_window(self, place: Place) -> SSAValue:
        view = place.view
        if place.variable is None:
            return view.flat
        left = arith.SubiOp(self.loops.constant(view.size), place.variable)
        size = self.loops.insert(left).result
        element = _memref(view.flat.type).element_type
        type_ = MemRefType(element, [DYNAMIC_INDEX], StridedLayoutAttr([1], None))
        given = [DYNAMIC_INDEX]
        cast = memref.ReinterpretCastOp(
            view.flat, [place.variable], [size], [], given, given, [1], type_
        )
        return self.loops.insert(cast).result

    def _place(self, op: Access) -> tuple[Place, int]:
        """Where an access begins, and how many elements further on its first element is."""
        key = op.memref, tuple(op.indices)
        place = self.places.get(key, lambda: self._build_place(*key))
        pairs = zip(op.constant_offsets, place.view.strides, strict=True)
        return place, sum(offset * stride for offset, stride in pairs)

    def _build_place(self, source: SSAValue, indices: tuple[SSAValue, ...]) -> Place:
        """`base + Σ index·stride`."""
        view = self._view(source)
        variable, constant = view.base, 0
        for index, stride in zip(indices, view.strides, strict=True):
            known = constant_index(index)
            if known is not None:
                constant += known * stride
                continue
            term = index
            if stride != 1:
                term = self.loops.insert(arith.MuliOp(index, self.loops.constant(stride))).result
            variable = term if variable is None else self.loops.add(variable, term)
        return Place(view, variable, constant)

    # ------------------------------------------------------------------------------ views

    def _view(self, source: SSAValue) -> FlatView:
        """The flat view of a memref; of an argument it is made at the function's start."""
        if source in self.views:
            return self.views[source]
        if not isinstance(source, BlockArgument) or source.owner is not self.entry:
            assert isinstance(source.owner, Operation)
            refuse(source.owner, "vectors can be loaded from function arguments and panels only")
        type_ = _memref(source.type)
        layout = layout_of(type_)
        flat_type = MemRefType(type_.element_type, [layout.span])
        cast = memref.ReinterpretCastOp(source, [], [], [], [0], [layout.span], [1], flat_type)
        view = FlatView(self.loops.insert_at_entry(cast).result, None, layout.strides)
        self.views[source] = view
        return view

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
        flat = memref.ViewOp(
            bytes_, self.loops.constant(start), [], MemRefType(type_.element_type, [elements])
        )
        self.views[op.result] = FlatView(
            self.loops.insert(flat).result, None, layout_of(type_).strides
        )

    def _slice(self, op: memref.ReinterpretCastOp) -> None:
        """A part of a panel: the same flat view from another element on."""
        source = self.views[op.source]
        (offset,) = (int(v) for v in op.static_offsets.get_values())
        base = source.base
        if offset == DYNAMIC_INDEX:
            distance: SSAValue | None = op.offsets[0]
        else:
            distance = self.loops.constant(offset) if offset else None
        if distance is not None:
            base = (
                distance if base is None else self.loops.insert(arith.AddiOp(base, distance)).result
            )
        strides = tuple(int(v) for v in op.static_strides.get_values())
        self.views[op.result] = FlatView(source.flat, base, strides)

    # -------------------------------------------------------------------------- signature

    def _signature(self) -> None:
        """Arguments become pointers; the function says what it was made for."""
        for argument in self.entry.args:
            if isinstance(argument.type, MemRefType) and argument.type.get_num_dims():
                self._retype(argument)
        inputs = [argument.type for argument in self.entry.args]
        outputs = self.function.function_type.outputs.data
        self.function.properties["function_type"] = FunctionType.from_lists(inputs, list(outputs))
        features = ",".join((*self.target.features, *self.target.tuning))
        self.function.attributes["passthrough"] = ArrayAttr(
            [
                ArrayAttr([StringAttr("target-cpu"), StringAttr(self.target.cpu)]),
                ArrayAttr([StringAttr("target-features"), StringAttr(features)]),
            ]
        )
        del self.function.attributes[TARGET_ATTRIBUTE]
        if self.workspace_bytes:
            self.function.attributes[WORKSPACE_ATTRIBUTE] = IntegerAttr(self.workspace_bytes, i64)

    def _retype(self, argument: BlockArgument) -> None:
        """A memref argument becomes a pointer; ops that know only its old type get a view of it."""
        type_ = _memref(argument.type)
        pointer_type = MemRefType(type_.element_type, [])
        position = argument.index
        pointer = self.entry.insert_arg(pointer_type, position)
        view = self.views.get(argument)
        for use in list(argument.uses):
            if view is not None and use.operation is view.flat.owner:
                use.operation.operands[use.index] = pointer
        if argument.first_use is not None:
            self._restore(argument, pointer, type_)
        self.entry.erase_arg(argument)

    def _restore(self, argument: BlockArgument, pointer: SSAValue, type_: MemRefType) -> None:
        """Give other users of an argument the memref they expect."""
        layout = layout_of(type_)
        plain = MemRefType(type_.element_type, layout.shape, type_.layout)
        cast = memref.ReinterpretCastOp(
            pointer, [], [], [], [0], layout.shape, layout.strides, plain
        )
        argument.replace_all_uses_with(self.loops.insert_at_entry(cast).result)


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
