"""`unroll`: turn blocks of accumulators into registers, one `nkvector` op an instruction.

A value of block type becomes one vector value a register; loops that carried a block carry its
registers. Each op of the composed level has one rule:

- `zero`, `load`, `store`: a register at a time; a ragged last register is masked, or narrower.
- `step` with lanes along n (or m): for each of its steps, load the registers of the right (left)
  factor, then for each row (column) broadcast one element of the other and multiply. The factor
  with fewer registers is loaded first and kept.
- `step` with lanes along k: load a register of each row and column, multiply all pairs; `store`
  then adds up the lanes of each accumulator in a tree of shuffles.
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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from xdsl.context import Context
from xdsl.dialects import arith, func, memref, scf, vector
from xdsl.dialects.builtin import ModuleOp, StringAttr, VectorType
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint

from nkdsl.diagnostics import refuse
from nkdsl.dialects import nkvector
from nkdsl.dialects.nanokernel import (
    TARGET_ATTRIBUTE,
    BlockType,
    LoadOp,
    PackOp,
    PrefetchOp,
    StepOp,
    StoreOp,
    WorkspaceOp,
    ZeroOp,
)
from nkdsl.dialects.nkvector import constant_index
from nkdsl.errors import NkdslError
from nkdsl.planner.registers import Register, registers_of
from nkdsl.targets import get_target
from nkdsl.targets.model import Instruction, Target
from nkdsl.transforms.loops import LoopBuilder
from nkdsl.transforms.packing import Packer
from nkdsl.transforms.registers import Access, RegisterBuilder
from nkdsl.types import element_type_of


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
            return cls(rhs, lhs, "n", "m", registers, rows, rhs_ahead, lhs_ahead)
        registers = _readable(lhs, "m", registers_of(rows, instruction, target))
        return cls(lhs, rhs, "m", "n", registers, columns, lhs_ahead, rhs_ahead)

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
        self.build = RegisterBuilder(self.loops)

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
            case scf.ForOp() if any(isinstance(a.type, BlockType) for a in op.iter_args):
                self._loop(op)
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
        element = element_type_of(_block_type(block).element_type)
        return self.target.instruction_for(element, element)

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
        layout = self._layout(block, instruction)
        widths = dict.fromkeys(register.lanes for _, register in layout)
        made = {width: self.build.zero(block.element_type, width) for width in widths}
        return Accumulators(tuple(made[register.lanes] for _, register in layout), instruction)

    def _load(self, op: LoadOp) -> Accumulators:
        access = Access(op.memref, tuple(op.indices), op.dims.data)
        instruction = self._instruction(op.result)
        positions = self._positions(access, _block_type(op.result), instruction)
        return Accumulators(
            tuple(self.build.load(access, register, offsets) for register, offsets in positions),
            instruction,
        )

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
        if block.lanes.data == "k":
            self._store_sums(op, access)
            return
        positions = self._positions(access, block, accumulators.instruction)
        for value, (register, offsets) in zip(accumulators.registers, positions, strict=True):
            cut = self._cut(register, _along(block), op.tail)
            self._store_result(op, value, access, cut, offsets)

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

    def _store_result(
        self,
        op: StoreOp,
        value: SSAValue,
        access: Access,
        register: Register,
        offsets: Sequence[int],
    ) -> None:
        """Store one register of results, scaled and added to the old ones as `op` says."""
        if op.alpha is not None:
            value = self.loops.insert(arith.MulfOp(value, self._splat(op.alpha, value))).result
        if op.accumulate is not None:
            old = self.build.load(access, register, offsets)
            value = self.loops.insert(arith.AddfOp(old, value)).result
        if op.beta is not None:
            old = self.build.load(access, register, offsets)
            beta = self._splat(op.beta, value)
            value = self.loops.insert(nkvector.FmaOp(old, beta, value)).result
        self.build.store(value, access, register, offsets)

    def _splat(self, scalar: SSAValue, like: SSAValue) -> SSAValue:
        """A register of one value."""
        return self.loops.insert(vector.BroadcastOp(scalar, _vector_type(like))).vector

    # ---------------------------------------------------------------------- horizontal sums

    def _store_sums(self, op: StoreOp, access: Access) -> None:
        """Add up each accumulator's lanes; registers of sums lie along the contiguous side."""
        rows, columns = extents = _block_type(op.block).shape
        along, across = ("n", "m")
        if "m" in access.contiguous and not ("n" in access.contiguous and columns >= rows):
            along, across = ("m", "n")
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
                self._store_result(op, narrow, access, register, offsets)

    # ------------------------------------------------------------------------------- steps

    def _step(self, op: StepOp) -> Accumulators:
        instruction = self.target.instruction(op.instruction.data)
        values = list(self.blocks[op.acc].registers)
        depth = op.depth.value.data
        if op.block.lanes.data == "k":
            for register in registers_of(depth, instruction, self.target):
                self.loops.insert(nkvector.FenceOp())
                self._dot(values, op, Register(register.offset, instruction.lanes, register.active))
            return Accumulators(tuple(values), instruction)
        product = OuterProduct.of(op, instruction, self.target)
        if op.tail is not None:
            extent = _along(op.block)
            cut = tuple(self._cut(r, extent, op.tail) for r in product.registers)
            product = replace(product, registers=cut)
        if op.kept is not None:
            row = product.vector.indices[product.vector.dims.index("k")]
            panel = Access(op.kept, (row, self.loops.constant(0)), "k" + product.along)
            product = replace(product, panel=panel)
        line = self.target.caches[0].line // instruction.operand_type.size
        for k in range(depth):
            self.loops.insert(nkvector.FenceOp())
            if product.vector_ahead:
                places = range(0, product.extent, line)
                self._prefetch(product.vector, product.vector_ahead, product.along, k, places)
            if product.scalar_ahead:
                places = range(0, product.count, line)
                if product.across not in product.scalar.contiguous:
                    # Each row once in a line's worth of steps, or once a turn if that is shorter.
                    places = range(k % line, product.count, min(depth, line))
                self._prefetch(product.scalar, product.scalar_ahead, product.across, k, places)
            self._outer_product(values, product, k)
        return Accumulators(tuple(values), instruction)

    def _outer_product(self, values: list[SSAValue], product: OuterProduct, k: int) -> None:
        """Step k with lanes along m or n; the factor with fewer registers is loaded first."""
        registers, count = product.registers, product.count
        if len(registers) <= count:
            kept = [self._vector(product, register, k) for register in registers]
            for position in range(count):
                element = self._scalar(product, position, k)
                for column, loaded in enumerate(kept):
                    slot = position * len(registers) + column
                    self._multiply(values, slot, loaded, element)
        else:
            elements = [self._scalar(product, position, k) for position in range(count)]
            for column, register in enumerate(registers):
                loaded = self._vector(product, register, k)
                for position, element in enumerate(elements):
                    slot = position * len(registers) + column
                    self._multiply(values, slot, loaded, element)

    def _vector(self, product: OuterProduct, register: Register, k: int) -> SSAValue:
        offsets = {product.along: register.offset, "k": k}
        value = self.build.load(product.vector, register, product.vector.offsets(**offsets))
        if product.panel is not None:
            whole = replace(register, active=register.lanes, run_time=None)
            self.build.store(value, product.panel, whole, product.panel.offsets(**offsets))
        return value

    def _scalar(self, product: OuterProduct, position: int, k: int) -> SSAValue:
        offsets = product.scalar.offsets(**{product.across: position, "k": k})
        return self.build.broadcast(product.scalar, product.registers[0].lanes, offsets)

    def _multiply(
        self, values: list[SSAValue], slot: int, loaded: SSAValue, element: SSAValue
    ) -> None:
        """Multiply a register and a broadcast element into the accumulator at `slot`."""
        element = self.build.narrow(element, nkvector.vector_lanes(loaded.type))
        values[slot] = self.loops.insert(nkvector.FmaOp(loaded, element, values[slot])).result

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
        kept = [
            self.build.load(rhs, whole, rhs.offsets(n=n, k=register.offset)) for n in range(columns)
        ]
        for m in range(rows):
            loaded = self.build.load(lhs, whole, lhs.offsets(m=m, k=register.offset))
            for n, other in enumerate(kept):
                slot = m * columns + n
                values[slot] = self.loops.insert(nkvector.FmaOp(loaded, other, values[slot])).result

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
            if not any(isinstance(o, LoadOp | ZeroOp | PackOp) for o in function.walk()):
                continue
            name = function.attributes.get(TARGET_ATTRIBUTE)
            if not isinstance(name, StringAttr):
                refuse(function, f"the function has no attribute {TARGET_ATTRIBUTE}")
            try:
                target = get_target(name.data)
                Unroller(function, target).run()
            except NkdslError as error:
                refuse(function, str(error))
