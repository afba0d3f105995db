"""`unroll`: turn blocks of accumulators into registers, one `nkvector` op an instruction.

A value of block type becomes one vector value a register; loops that carried a block carry its
registers. Each op of the composed level has one rule:

- `zero`, `load`, `store`: a register at a time; a ragged last register is masked, or narrower.
- `step` with lanes along n (or m): for each of its steps, load the registers of the right (left)
  factor, then for each row (column) broadcast one element of the other and multiply. The factor
  with fewer registers is loaded first and kept.
- `step` with lanes along k: load a register of each row and column, multiply all pairs; `store`
  then adds up the lanes of each accumulator in a tree of shuffles.
- `step` with an instruction that takes k in groups: a lane holds a group. Where a factor that is
  loaded as registers isn't in groups, rows are loaded and interleaved by shuffles; an element that
  is broadcast is a group of neighbours along k.
- `store` with an epilogue: its operations, each on a whole register.
- all of these on blocks of tiles: a tile at a time, see `nkdsl.transforms.tiles`,
  and `nkdsl.transforms.outer_products` for tiles of scalable size.
- `pack`: a loop over L×L tiles transposed in registers, see `nkdsl.transforms.packing`.

```mlir
%next = nanokernel.step %part, %a[m: %i, k: %k], %b[k: %k, n: %j] depth 1 using "fma.f32x16"
// becomes, for a block of 2x32
%b0 = nkvector.load %b[%k, %j] : ...
%b1 = nkvector.load %b[%k, %j + 16] : ...
%a0 = nkvector.broadcast_load %a[%i, %k] : ...
%p0 = nkvector.fma %a0, %b0, %part0 : vector<16xf32>
%p1 = nkvector.fma %a0, %b1, %part1 : vector<16xf32>
%a1 = nkvector.broadcast_load %a[%i + 1, %k] : ...
...
```

Reads the target from the function's attribute. Imports: our dialects, targets, planner.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from xdsl.context import Context
from xdsl.dialects import arith, func, memref, scf, vector
from xdsl.dialects.builtin import (
    AnyFloat,
    FloatAttr,
    IntegerAttr,
    MemRefType,
    ModuleOp,
    StringAttr,
    VectorType,
    bf16,
    f32,
    i8,
    i16,
    i32,
)
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint

from nkdsl.diagnostics import refuse
from nkdsl.dialects import nkvector, vector_arith
from nkdsl.dialects.nanokernel import (
    TARGET_ATTRIBUTE,
    BlockType,
    LoadOp,
    PackOp,
    PrefetchOp,
    StepOp,
    StoreOp,
    SumOp,
    WorkspaceOp,
    YieldOp,
    ZeroOp,
)
from nkdsl.dialects.nkvector import constant_index
from nkdsl.errors import NkdslError, Unsupported
from nkdsl.planner.blocking import MEMORY_LATENCY
from nkdsl.planner.registers import Register, registers_of
from nkdsl.targets import get_target
from nkdsl.targets.model import Instruction, Target
from nkdsl.transforms.loops import Carried, LoopBuilder
from nkdsl.transforms.outer_products import OuterBuilder
from nkdsl.transforms.packing import Packer
from nkdsl.transforms.registers import Access, RegisterBuilder, splat
from nkdsl.transforms.tiles import TileBuilder
from nkdsl.types import element_type, element_type_of


def _block_type(value: SSAValue) -> BlockType:
    assert isinstance(value.type, BlockType)
    return value.type


def _along(block: BlockType) -> int:
    """Elements of a block along the lanes."""
    return block.shape[block.lanes.data == "n"]


def _vector_type(value: SSAValue) -> VectorType:
    assert isinstance(value.type, VectorType)
    return value.type


@dataclass(frozen=True)
class Accumulators:
    """A block of accumulators as registers."""

    registers: tuple[SSAValue, ...]
    instruction: Instruction
    """The one that accumulates into them; it decides how wide they are."""


@dataclass(frozen=True)
class OuterProduct:
    """The steps of a block with lanes along m or n: registers of one factor times the other."""

    vector: Access
    """The factor that is loaded a register at a time."""
    scalar: Access
    """The factor of which single elements are broadcast."""
    along: str
    """The dimension along the lanes."""
    across: str
    """The other one."""
    registers: tuple[Register, ...]
    """Those of `vector` in one step, masked only where memory may end behind the tail."""
    count: int
    """Elements of `scalar` in one step."""
    vector_ahead: tuple[int, ...]
    """How far ahead `vector` is prefetched, an offset a dimension; empty for not at all."""
    scalar_ahead: tuple[int, ...]
    """The same of `scalar`."""
    instruction: Instruction
    """What multiplies."""
    lhs_is_vector: bool
    """Whether `vector` is the left factor."""
    depth: int
    """Elements of k in all."""
    flips: bool
    """Whether the signs of `scalar` are flipped."""
    run_time: SSAValue | None
    """How many elements of the only group exist, where that is known only at run time."""
    broadcast: str | None
    """The instruction that copies an element of `scalar` to all lanes, if LLVM is not to choose."""
    panel: Access | None = None
    """Where the registers of `vector` are kept."""

    @classmethod
    def of(cls, op: StepOp, instruction: Instruction, target: Target) -> Self:
        """Read a step."""
        lhs = Access(op.lhs, tuple(op.lhs_indices), op.lhs_dims.data)
        rhs = Access(op.rhs, tuple(op.rhs_indices), op.rhs_dims.data)
        rows, columns = op.block.shape
        lhs_ahead, rhs_ahead = op.prefetch
        if op.block.lanes.data == "n":
            registers = _readable(rhs, "n", registers_of(columns, instruction, target))
            return cls(
                *(rhs, lhs, "n", "m", registers, rows, rhs_ahead, lhs_ahead),
                *(instruction, False, op.depth.value.data, op.flip is not None, op.existing),
                target.broadcast_instruction(instruction, len(registers), rows),
            )
        registers = _readable(lhs, "m", registers_of(rows, instruction, target))
        return cls(
            *(lhs, rhs, "m", "n", registers, columns, lhs_ahead, rhs_ahead),
            *(instruction, True, op.depth.value.data, op.flip is not None, op.existing),
            target.broadcast_instruction(instruction, len(registers), columns),
        )

    @property
    def group(self) -> int:
        """Elements of k that the instruction takes at once."""
        return self.instruction.k

    def existing(self, step: int) -> int:
        """Elements of the group of a step that exist."""
        return min(self.group, self.depth - step * self.group)

    def step_of(self, access: Access, step: int) -> int:
        """How far along a factor's index k a step is."""
        return step if "g" in access.dims else step * self.group

    @property
    def extent(self) -> int:
        """Elements of `vector` in one step."""
        return self.registers[-1].offset + self.registers[-1].active


def _readable(factor: Access, along: str, registers: tuple[Register, ...]) -> tuple[Register, ...]:
    """The registers in which a factor is loaded: those of a panel are whole.

    Its rows hold whole registers, and zeros in the lanes that no element of the factor fills.
    """
    if not _is_panel(factor.memref) or along not in factor.dims:
        return registers
    position = factor.dims.index(along)
    if constant_index(factor.indices[position]) != 0:
        return registers
    width = factor.type.get_shape()[position]
    return tuple(
        replace(r, active=r.lanes) if r.offset + r.lanes <= width else r for r in registers
    )


def _is_panel(value: SSAValue) -> bool:
    """Whether a memref is a part of the workspace."""
    match value.owner:
        case WorkspaceOp():
            return True
        case memref.ReinterpretCastOp(source=source):
            return _is_panel(source)
        case _:
            return False


Pair = tuple[SSAValue, SSAValue]
"""A register of the factor that is loaded, and one of the factor that is broadcast."""

_WIDENED: dict[str, Attribute] = {"f32": f32, "i16": i16}
"""The types that instructions have factors extended to."""


def _splat_of(op: arith.ConstantOp, lanes: int) -> arith.ConstantOp:
    """A constant in all lanes."""
    match op.value:
        case FloatAttr() | IntegerAttr() as value:
            return splat(op.result.type, lanes, value.value.data)
        case other:
            raise Unsupported(f"an epilogue's constants are numbers, not {other}")


SIGN_BIT = -128
"""The highest bit of eight, as a signed number."""


class Unroller:
    """Rewrites one function from blocks to registers."""

    def __init__(self, function: func.FuncOp, target: Target):
        """Unroll `function` for `target`."""
        self.function = function
        self.target = target
        self.blocks: dict[SSAValue, Accumulators] = {}
        self.tails: dict[tuple[SSAValue, int], SSAValue] = {}
        """Active lanes of the last register, by extent and first element."""
        entry = function.body.blocks[0]
        assert entry.first_op is not None
        self.loops = LoopBuilder(entry, InsertPoint.before(entry.first_op))
        self.build = RegisterBuilder(self.loops, target)
        kind = OuterBuilder if target.tiles and target.tiles.scalable else TileBuilder
        self.tiles = kind(self.loops, target, function)

    def run(self) -> None:
        """Rewrite the whole function."""
        for block in self.function.body.blocks:
            self._block(block)

    def _block(self, block: Block) -> None:
        """Rewrite the ops of a block in order, erasing those replaced from the end."""
        replaced: list[Operation] = []
        for op in list(block.ops):
            self.loops.move_to(InsertPoint.before(op))
            if self._op(op):
                replaced.append(op)
        for op in reversed(replaced):
            op.detach()
            op.erase(safe_erase=False)

    def _op(self, op: Operation) -> bool:
        """Rewrite one op; returns whether it is replaced."""
        match op:
            case ZeroOp():
                self.blocks[op.result] = self._zero(op)
            case LoadOp():
                self.blocks[op.result] = self._load(op)
            case StepOp():
                self.blocks[op.result] = self._step(op)
            case StoreOp():
                self._store(op)
            case PrefetchOp():
                self._prefetch_block(op)
            case PackOp():
                Packer(op, self.target, self.build).run()
            case SumOp():
                self._sum(op)
            case scf.ForOp() if any(isinstance(a.type, BlockType) for a in op.iter_args):
                self._loop(op)
            case scf.IfOp() if any(isinstance(r.type, BlockType) for r in op.results):
                self._branch(op)
            case scf.YieldOp() if any(isinstance(a.type, BlockType) for a in op.operands):
                self.loops.insert(scf.YieldOp(*self._expand(op.operands)))
            case _:
                for region in op.regions:
                    for inner in region.blocks:
                        self._block(inner)
                return False
        return True

    # ----------------------------------------------------------------------------- loops

    def _expand(self, values: Sequence[SSAValue]) -> list[SSAValue]:
        """Blocks replaced by their registers, other values as they are."""
        return [
            register
            for value in values
            for register in (self.blocks[value].registers if value in self.blocks else [value])
        ]

    def _loop(self, op: scf.ForOp) -> None:
        """A loop that carries blocks carries their registers."""
        initial = self._expand(op.iter_args)
        index, *arguments = op.body.block.args
        new = Block(arg_types=[index.type, *(v.type for v in initial)])
        index.replace_all_uses_with(new.args[0])
        self._carry(op.iter_args, arguments, new.args[1:])
        for inner in list(op.body.block.ops):
            inner.detach()
            new.add_op(inner)
        loop = self.loops.insert(scf.ForOp(op.lb, op.ub, op.step, initial, new))
        self._carry(op.iter_args, op.res, loop.res)
        self._block(new)

    def _branch(self, op: scf.IfOp) -> None:
        """A branch that results in blocks results in their registers."""
        end = op.true_region.block.last_op
        assert end is not None
        results = tuple(end.operands)
        for region in op.regions:
            self._block(region.block)
        types = [value.type for value in self._expand(results)]
        then, otherwise = (op.detach_region(region) for region in tuple(op.regions))
        self.loops.move_to(InsertPoint.before(op))
        branch = self.loops.insert(scf.IfOp(op.cond, types, then, otherwise))
        self._carry(results, op.results, branch.results)

    def _carry(
        self, initial: Sequence[SSAValue], old: Sequence[SSAValue], new: Sequence[SSAValue]
    ) -> None:
        """Let what a loop carried, `old`, be the registers `new`, of which a block has several."""
        start = 0
        for source, value in zip(initial, old, strict=True):
            if source not in self.blocks:
                value.replace_all_uses_with(new[start])
                start += 1
                continue
            carried = self.blocks[source]
            end = start + len(carried.registers)
            self.blocks[value] = Accumulators(tuple(new[start:end]), carried.instruction)
            start = end

    # ---------------------------------------------------------------------- accumulators

    def _instruction(self, block: SSAValue) -> Instruction:
        """The instruction that will accumulate into a new block."""
        name = _next_step(block)
        if name is not None:
            return self.target.instruction(name)
        # None will: any instruction whose registers have the widest lanes of such elements.
        element = _block_type(block).element_type
        return self.target.widest_of(element_type_of(element).size)

    def _layout(self, block: BlockType, instruction: Instruction) -> list[tuple[int, Register]]:
        """The registers of a block, row by row: (row, register) with lanes along n.

        With lanes along m the roles of rows and columns are exchanged; with lanes along k there
        is one whole register an accumulator.
        """
        rows, columns = block.shape
        match block.lanes.data:
            case "n":
                along, across = columns, rows
            case "m":
                along, across = rows, columns
            case _:
                whole = Register(0, instruction.lanes, instruction.lanes)
                return [(position, whole) for position in range(rows * columns)]
        registers = registers_of(along, instruction, self.target)
        return [(position, r) for position in range(across) for r in registers]

    def _zero(self, op: ZeroOp) -> Accumulators:
        block, instruction = _block_type(op.result), self._instruction(op.result)
        if block.tiles is not None:
            return Accumulators(tuple(self.tiles.zero(op)), instruction)
        layout = self._layout(block, instruction)
        widths = dict.fromkeys(register.lanes for _, register in layout)
        made = {width: self.build.zero(block.element_type, width) for width in widths}
        return Accumulators(tuple(made[register.lanes] for _, register in layout), instruction)

    def _load(self, op: LoadOp) -> Accumulators:
        access = Access(op.memref, tuple(op.indices), op.dims.data)
        block, instruction = _block_type(op.result), self._instruction(op.result)
        if block.tiles is not None:
            return Accumulators(tuple(self.tiles.load(op)), instruction)
        return Accumulators(
            tuple(
                self._converted(
                    self.build.load(access, self._cut(register, _along(block), op.tail), offsets),
                    block.element_type,
                )
                for register, offsets in self._positions(access, block, instruction)
            ),
            instruction,
        )

    def _converted(self, value: SSAValue, element: Attribute) -> SSAValue:
        """A register in another floating-point type, if it is of another one."""
        type_ = _vector_type(value)
        if type_.element_type == element:
            return value
        wanted = nkvector.register_type(element, type_.get_shape()[0])
        assert isinstance(element, AnyFloat)
        assert isinstance(type_.element_type, AnyFloat)
        if type_.element_type.bitwidth < element.bitwidth:
            return self.loops.insert(arith.ExtFOp(value, wanted)).result
        return self.loops.insert(arith.TruncFOp(value, wanted)).result

    def _sum(self, op: SumOp) -> None:
        """Sums over k of what lies in groups: products with ones, and then with the factor."""
        assert isinstance(op.source.type, MemRefType)
        assert isinstance(op.sums.type, MemRefType)
        factor = element_type("u8" if op.unsigned is not None else "s8")
        candidates = (self.target.instruction_for(element_type(t), factor) for t in ("u8", "s8"))
        # One is a number of either type: whichever the target multiplies as it is.
        instruction = next(i for i in candidates if not i.flips)
        loops, (_, width, group) = self.loops, op.source.type.get_shape()
        zero, one, (whole,) = loops.constant(0), loops.constant(1), op.sums.type.get_shape()
        result = Access(op.sums, (zero,), "n")
        registers = registers_of(whole, instruction, self.target)
        present = registers_of(whole if width < 0 else width, instruction, self.target)
        tail = loops.insert(memref.DimOp(op.source, one)).result if width < 0 else None
        present = tuple(self._cut(register, whole, tail) for register in present)
        ones = self.build.splat(i8, instruction.lanes * group, 1)
        nothing = self.build.zero(i32, instruction.lanes)

        ahead = 0 if _is_panel(op.source) else self._rows_ahead(instruction, len(present))

        def visit(row: SSAValue, sums: Carried) -> Carried:
            source = Access(op.source, (row, zero, zero), "kng")
            for start in range(0, whole * group if ahead else 0, self.target.caches[0].line):
                self.build.prefetch(source, [ahead, start // group, 0])
            added: list[SSAValue] = []
            for register, total in zip(present, sums, strict=True):
                place = source.offsets(n=register.offset)
                loaded = self.build.load(source, register, place, group)
                added.append(self._accumulated(instruction, ones, loaded, total))
            return added

        rows = loops.insert(memref.DimOp(op.source, zero)).result
        sums = loops.counted(zero, rows, one, visit, [nothing] * len(present))
        times = self.build.splat(i32, instruction.lanes, op.factor.value.data)
        for register, total in zip(registers, sums, strict=False):
            value: SSAValue = loops.insert(arith.MuliOp(total, times)).result
            if op.accumulate is not None:
                value = self.build.sum(value, self.build.load(result, register, [register.offset]))
            self.build.store(value, result, register, [register.offset])

    def _rows_ahead(self, instruction: Instruction, registers: int) -> int:
        """How many rows ahead memory is asked for what is added up, some registers a row."""
        cycles = max(registers / instruction.per_cycle, float(instruction.latency))
        return math.ceil(MEMORY_LATENCY / cycles)

    def _positions(
        self, access: Access, block: BlockType, instruction: Instruction
    ) -> list[tuple[Register, list[int]]]:
        """Each register of a block with lanes along m or n, and where it lies in memory."""
        along, across = ("n", "m") if block.lanes.data == "n" else ("m", "n")
        return [
            (register, access.offsets(**{across: position, along: register.offset}))
            for position, register in self._layout(block, instruction)
        ]

    def _store(self, op: StoreOp) -> None:
        access = Access(op.memref, tuple(op.indices), op.dims.data)
        block, accumulators = _block_type(op.block), self.blocks[op.block]
        if block.tiles is not None:
            self.tiles.store(op, accumulators.registers)
            return
        if block.lanes.data == "k":
            self._store_sums(op, access)
            return
        positions = self._positions(access, block, accumulators.instruction)
        # All old results are loaded before any is stored: a load waits for a masked store before it
        # whose lanes it seems to overlap, those of the next row, too.
        places = [(self._cut(r, _along(block), op.tail), offsets) for r, offsets in positions]
        finished = [
            self._result(op, value, access, *place)
            for value, place in zip(accumulators.registers, places, strict=True)
        ]
        for value, place in zip(finished, places, strict=True):
            self.build.store(value, access, *place)

    def _prefetch_block(self, op: PrefetchOp) -> None:
        """Ask for each line of a block once."""
        access = Access(op.memref, tuple(op.indices), op.dims.data)
        along, across = ("n", "m") if op.block.lanes.data == "n" else ("m", "n")
        line = self.target.caches[0].line // element_type_of(op.block.element_type).size
        extent = dict(zip("mn", op.block.shape, strict=True))
        for position in range(extent[across]):
            for start in range(0, extent[along], line):
                offsets = access.offsets(**{across: position, along: start})
                self.loops.insert(nkvector.PrefetchOp(op.memref, op.indices, offsets))

    def _cut(self, register: Register, extent: int, tail: SSAValue | None) -> Register:
        """A register of a block with a run-time extent: the last one ends there."""
        if tail is None or register.offset + register.lanes < extent:
            return register
        if (tail, register.offset) not in self.tails:
            offset = self.loops.constant(register.offset)
            active = arith.SubiOp(tail, offset)
            self.loops.insert_after(tail, [active])
            self.tails[tail, register.offset] = active.result
        return replace(register, run_time=self.tails[tail, register.offset])

    def _result(
        self,
        op: StoreOp,
        value: SSAValue,
        access: Access,
        register: Register,
        offsets: Sequence[int],
    ) -> SSAValue:
        """One register of results: sums scaled, added to the old ones, finished, as `op` says."""
        element = _vector_type(value).element_type

        def old() -> SSAValue:
            return self._converted(self.build.load(access, register, offsets), element)

        if op.alpha is not None:
            value = self.loops.insert(arith.MulfOp(value, self._splat(op.alpha, value))).result
        if op.accumulate is not None:
            value = self.build.sum(old(), value)
        if op.beta is not None:
            beta = self._splat(op.beta, value)
            value = self.loops.insert(nkvector.FmaOp(old(), beta, value)).result
        if op.epilogue is not None:
            place = dict(zip(access.dims, offsets, strict=True))
            return self._finished(op, value, register, place)
        return self._converted(value, access.type.element_type)

    def _finished(
        self, op: StoreOp, value: SSAValue, register: Register, place: Mapping[str, int]
    ) -> SSAValue:
        """What the epilogue makes of one register of sums, at some place of the block."""
        assert op.epilogue is not None
        block, lanes = op.epilogue.block, nkvector.vector_lanes(value.type)
        values: dict[SSAValue, SSAValue] = {block.args[0]: value}
        along = self._lanes_dimension(op)
        for extra, argument in zip(op.extra_accesses, block.args[1:], strict=True):
            access = Access(extra.memref, extra.indices, extra.dims)
            distances = {tag: place.get(tag, 0) for tag in "mn"}
            values[argument] = self._extra(access, along, register, distances)
        for inner in block.ops:
            if isinstance(inner, YieldOp):
                return self._as_register(values, inner.operands[0], lanes)
            operands = [self._as_register(values, operand, lanes) for operand in inner.operands]
            types = [nkvector.register_type(result.type, lanes) for result in inner.results]
            if isinstance(inner, arith.ConstantOp):
                made: Operation = _splat_of(inner, lanes)
            else:
                made = vector_arith.on_vectors(type(inner)).create(
                    operands=operands,
                    result_types=types,
                    properties=inner.properties,
                    attributes=inner.attributes,
                )
            self.loops.insert(made)
            values |= zip(inner.results, made.results, strict=True)
        raise AssertionError("the verifier found what the epilogue yields")

    def _lanes_dimension(self, op: StoreOp) -> str:
        """The kind of iterator along the lanes of the registers that are stored."""
        block = _block_type(op.block)
        return block.lanes.data if block.lanes.data != "k" else self._sums_along(op)

    def _as_register(
        self, values: dict[SSAValue, SSAValue], value: SSAValue, lanes: int
    ) -> SSAValue:
        """An operand of an epilogue's operation; what comes from outside is in all lanes."""
        if value not in values:
            type_ = nkvector.register_type(value.type, lanes)
            values[value] = self.loops.insert(vector.BroadcastOp(value, type_)).vector
        return values[value]

    def _extra(
        self, access: Access, along: str, register: Register, distances: dict[str, int]
    ) -> SSAValue:
        """A register of a further operand: its elements, or one of them in all lanes."""
        offsets = access.offsets(**distances)
        if along not in access.dims:
            return self.build.broadcast(access, register.lanes, offsets)
        if along in access.contiguous:
            return self.build.load(access, register, offsets)
        raise Unsupported(
            f"an extra operand of the epilogue must be contiguous along {along}; copy it"
        )

    def _splat(self, scalar: SSAValue, like: SSAValue) -> SSAValue:
        """A register of one value."""
        return self.loops.insert(vector.BroadcastOp(scalar, _vector_type(like))).vector

    # ---------------------------------------------------------------------- horizontal sums

    def _store_sums(self, op: StoreOp, access: Access) -> None:
        """Add up each accumulator's lanes; registers of sums lie along the contiguous side."""
        extents = _block_type(op.block).shape
        columns = extents[1]
        along = self._sums_along(op)
        across = "m" if along == "n" else "n"
        extent = dict(zip("mn", extents, strict=True))
        if along not in access.contiguous and extent[along] > 1:
            refuse(op, "sums of lanes need a result that is contiguous along rows or columns")
        values, instruction = self.blocks[op.block].registers, self.blocks[op.block].instruction
        step, row = (1, columns) if along == "n" else (columns, 1)
        for position in range(extent[across]):
            for register in registers_of(extent[along], instruction, self.target):
                first = position * row + register.offset * step
                group = values[first : first + register.active * step : step]
                sums = self.build.sum_lanes(group, instruction.lanes)
                narrow = self.build.narrow(sums, register.lanes)
                offsets = access.offsets(**{across: position, along: register.offset})
                result = self._result(op, narrow, access, register, offsets)
                self.build.store(result, access, register, offsets)

    def _sums_along(self, op: StoreOp) -> str:
        """The dimension that registers of sums lie along: a contiguous one, the longer of two."""
        rows, columns = _block_type(op.block).shape
        contiguous = Access(op.memref, tuple(op.indices), op.dims.data).contiguous
        if "m" in contiguous and not ("n" in contiguous and columns >= rows):
            return "m"
        return "n"

    # ------------------------------------------------------------------------------- steps

    def _step(self, op: StepOp) -> Accumulators:
        instruction = self.target.instruction(op.instruction.data)
        values = list(self.blocks[op.acc].registers)
        depth = op.depth.value.data
        if op.block.tiles is not None:
            return Accumulators(tuple(self.tiles.step(op, values)), instruction)
        if op.block.lanes.data == "k":
            width = instruction.lanes * instruction.k
            for start in range(0, depth, width):
                self.loops.insert(nkvector.FenceOp())
                self._dot(values, op, Register(start, width, min(width, depth - start)))
            return Accumulators(tuple(values), instruction)
        product = OuterProduct.of(op, instruction, self.target)
        if op.tail is not None:
            extent = _along(op.block)
            cut = tuple(self._cut(r, extent, op.tail) for r in product.registers)
            product = replace(product, registers=cut)
        if op.kept is not None:
            row = product.vector.indices[product.vector.dims.index("k")]
            zero, group = self.loops.constant(0), instruction.k
            dims = "k" + product.along + ("g" if group > 1 else "")
            row = self.loops.div(row, self.loops.constant(group))
            panel = Access(op.kept, (row, *[zero] * (len(dims) - 1)), dims)
            product = replace(product, panel=panel)
        for step in range(-(-depth // instruction.k)):
            self.loops.insert(nkvector.FenceOp())
            self._ask_ahead(product, step)
            self._outer_product(values, product, step)
        return Accumulators(tuple(values), instruction)

    def _ask_ahead(self, product: OuterProduct, step: int) -> None:
        """Ask for what later steps or blocks read."""
        line = self.target.caches[0].line // product.instruction.operand_type.size
        vector, scalar = product.vector, product.scalar
        if product.vector_ahead:
            in_groups = "g" in vector.dims
            places = range(0, product.extent, line // product.group if in_groups else line)
            rows = 1 if in_groups else product.existing(step)
            first = product.step_of(vector, step)
            for k in range(first, first + rows):
                self._prefetch(vector, product.vector_ahead, product.along, k, places)
        if product.scalar_ahead:
            places = range(0, product.count, line)
            if product.across not in scalar.contiguous:
                # Each row once in a line's worth of steps, or once a turn if that is shorter.
                steps = -(-product.depth // product.group)
                every = line // product.group
                places = range(step % every, product.count, min(steps, every))
            k = product.step_of(scalar, step)
            self._prefetch(scalar, product.scalar_ahead, product.across, k, places)

    def _outer_product(self, values: list[SSAValue], product: OuterProduct, k: int) -> None:
        """One step with lanes along m or n; the factor with fewer registers is loaded first."""
        registers, count = product.registers, product.count
        if len(registers) <= count:
            kept = [self._vector(product, register, k) for register in registers]
            for position in range(count):
                element = self._scalar(product, position, k)
                for column, loaded in enumerate(kept):
                    slot = position * len(registers) + column
                    self._multiply(values, slot, product, (loaded, element))
        else:
            elements = [self._scalar(product, position, k) for position in range(count)]
            for column, register in enumerate(registers):
                loaded = self._vector(product, register, k)
                for position, element in enumerate(elements):
                    slot = position * len(registers) + column
                    self._multiply(values, slot, product, (loaded, element))

    def _vector(self, product: OuterProduct, register: Register, step: int) -> SSAValue:
        vector, group = product.vector, product.group
        along = {product.along: register.offset}
        first = product.step_of(vector, step)
        if group == 1 or "g" in vector.dims:
            value = self.build.load(vector, register, vector.offsets(**along, k=first), group)
        else:
            # Rows that don't exist count as zero.
            rows = [
                self.build.load(vector, register, vector.offsets(**along, k=first + row))
                for row in range(product.existing(step))
            ]
            while len(rows) < group:
                rows.append(self.build.zero(vector.type.element_type, register.lanes))
            value = self.build.interleaved(rows)
        if product.panel is not None:
            whole = replace(register, active=register.lanes, run_time=None)
            offsets = product.panel.offsets(**along, k=step)
            self.build.store(value, product.panel, whole, offsets, group)
        return self._widened(value, product.instruction, left=product.lhs_is_vector)

    def _scalar(self, product: OuterProduct, position: int, step: int) -> SSAValue:
        scalar, group = product.scalar, product.group
        k = product.step_of(scalar, step)
        offsets = scalar.offsets(**{product.across: position, "k": k})
        active: int | SSAValue | None = None
        if "g" not in scalar.dims:
            active = product.run_time or product.existing(step)
        lanes = product.registers[0].lanes
        if product.instruction.widened and scalar.type.element_type == bf16:
            return self._extended_bf16(scalar, lanes, offsets)
        value = self.build.broadcast(scalar, lanes, offsets, group, active, product.broadcast)
        if product.flips:
            signs = self.build.splat(scalar.type.element_type, lanes * group, SIGN_BIT)
            value = self.loops.insert(arith.XOrIOp(value, signs)).result
        return self._widened(value, product.instruction, left=not product.lhs_is_vector)

    def _extended_bf16(self, scalar: Access, lanes: int, offsets: Sequence[int]) -> SSAValue:
        """One number of bf16 in all lanes, as f32.

        It has the upper half of f32's bits: two copies of it in a lane need no shuffle to extend.
        """
        insert = self.loops.insert
        twice = self.build.broadcast(scalar, 2 * lanes, offsets)
        bits = insert(vector.BitcastOp(twice, nkvector.register_type(i32, lanes))).result
        shifted = insert(arith.ShLIOp(bits, self.build.splat(i32, lanes, 16))).result
        return insert(vector.BitcastOp(shifted, nkvector.register_type(f32, lanes))).result

    def _widened(self, value: SSAValue, instruction: Instruction, *, left: bool) -> SSAValue:
        """A register of factors in the type that the instruction takes."""
        if not instruction.widened:
            return value
        type_ = _vector_type(value)
        element = _WIDENED[instruction.widened]
        wanted = nkvector.register_type(element, type_.get_shape()[0])
        factor = element_type(instruction.operands[not left])
        if not factor.is_integer:
            return self.loops.insert(arith.ExtFOp(value, wanted)).result
        op = vector_arith.ExtUIOp if factor.is_unsigned else vector_arith.ExtSIOp
        return self.loops.insert(op.create(operands=[value], result_types=[wanted])).results[0]

    def _multiply(
        self, values: list[SSAValue], slot: int, product: OuterProduct, pair: Pair
    ) -> None:
        """Multiply a register and a broadcast group into the accumulator at `slot`."""
        loaded, element = pair
        element = self.build.narrow(element, nkvector.vector_lanes(loaded.type))
        lhs, rhs = (loaded, element) if product.lhs_is_vector else (element, loaded)
        values[slot] = self._accumulated(product.instruction, lhs, rhs, values[slot])

    def _accumulated(
        self, instruction: Instruction, lhs: SSAValue, rhs: SSAValue, acc: SSAValue
    ) -> SSAValue:
        """The sums after one instruction."""
        if instruction.upstream == "vector.fma":
            return self.loops.insert(nkvector.FmaOp(lhs, rhs, acc)).result
        return self.loops.insert(nkvector.DotOp(lhs, rhs, acc, instruction.name)).result

    def _dot(self, values: list[SSAValue], op: StepOp, register: Register) -> None:
        """One step with lanes along k: a register of each row and column, all pairs multiplied."""
        lhs = Access(op.lhs, tuple(op.lhs_indices), op.lhs_dims.data)
        rhs = Access(op.rhs, tuple(op.rhs_indices), op.rhs_dims.data)
        # Lanes that are not read are zero, and add nothing.
        whole = Register(0, register.lanes, register.active)
        rows, columns = op.block.shape
        for factor, ahead, tag, count in zip(
            (lhs, rhs), op.prefetch, "mn", (rows, columns), strict=True
        ):
            if ahead:
                self._prefetch(factor, ahead, tag, register.offset, range(count))
        instruction = self.target.instruction(op.instruction.data)

        def load(factor: Access, left: bool, **place: int) -> SSAValue:
            step = register.offset
            if "g" in factor.dims:
                step //= instruction.k
            value = self.build.load(factor, whole, factor.offsets(**place, k=step))
            return self._widened(value, instruction, left=left)

        kept = [load(rhs, False, n=n) for n in range(columns)]
        for m in range(rows):
            loaded = load(lhs, True, m=m)
            for n, other in enumerate(kept):
                slot = m * columns + n
                values[slot] = self._accumulated(instruction, loaded, other, values[slot])

    def _prefetch(
        self, access: Access, distance: Sequence[int], along: str, k: int, places: Iterable[int]
    ) -> None:
        """Ask for the lines at some places along a factor, `distance` away from step k.

        What another block is going to read is wanted in L2: until then much passes through L1.
        """
        into_l2 = any(d for d, tag in zip(distance, access.dims, strict=True) if tag in "mn")
        for place in places:
            offsets = access.offsets(**{along: place, "k": k})
            ahead = [o + d for o, d in zip(offsets, distance, strict=True)]
            op = nkvector.PrefetchOp(access.memref, access.indices, ahead, into_l2=into_l2)
            self.loops.insert(op)


def _next_step(block: SSAValue) -> str | None:
    """The instruction of the next step that a block goes to; None where there is no step."""
    for use in block.uses:
        match use.operation:
            case StepOp(instruction=StringAttr(data=name)):
                return name
            case scf.ForOp() as loop:
                inner = _next_step(loop.body.block.args[use.index - 2])
                if inner is not None:
                    return inner
            case _:
                pass
    return None


@dataclass(frozen=True)
class UnrollPass(ModulePass):
    """Turn blocks into registers and nanokernels into nkvector ops."""

    name = "unroll"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module in place."""
        for function in [o for o in op.walk() if isinstance(o, func.FuncOp)]:
            if not any(isinstance(o, LoadOp | ZeroOp | PackOp | SumOp) for o in function.walk()):
                continue
            name = function.attributes.get(TARGET_ATTRIBUTE)
            if not isinstance(name, StringAttr):
                refuse(function, f"the function has no attribute {TARGET_ATTRIBUTE}")
            try:
                target = get_target(name.data)
                Unroller(function, target).run()
            except NkdslError as error:
                refuse(function, str(error))
