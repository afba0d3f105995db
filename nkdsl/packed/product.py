"""One product and the factor of it that is packed: which layout is best, and what reads it.

The width of the panels is the planner's choice: of all widths of register blocks, the one whose
plan is predicted to take the least time. The product that reads them is the same with other index
maps; where the width divides no size, a second one reads what the last panel holds.

In: a raised program, one of its products, and the argument that is packed (`Product.read`). Out: a
`Choice`, layout and plans (`best`), and the program that reads it (`rewritten`).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import prod
from operator import floordiv, itemgetter, mod
from typing import Literal, NoReturn

import numpy as np
from xdsl.dialects import arith, func, memref
from xdsl.dialects.builtin import (
    IntegerAttr,
    MemRefType,
    ModuleOp,
    StridedLayoutAttr,
    UnitAttr,
    i32,
)
from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineExpr, AffineMap
from xdsl.rewriter import InsertPoint, Rewriter

from nkdsl.dialects.nanokernel import FILLED_ATTRIBUTE, GemmOp, PlanAttr
from nkdsl.errors import Unsupported
from nkdsl.packed.layout import Layout, Operand
from nkdsl.planner import Problem, analyse
from nkdsl.planner.cost import chunk_count
from nkdsl.planner.registers import block_tile
from nkdsl.planner.search import candidates, cost_of, every_instruction
from nkdsl.planner.tiles import tile_widths
from nkdsl.targets.model import Instruction, Target, TileInstruction
from nkdsl.types import ElementType

SIDES: dict[Operand, Literal["m", "n"]] = {"lhs": "m", "rhs": "n"}
"""The kind of iterator that a packed factor's panels cut."""

FRUGAL = 0.75
"""What of the most multiplications a load a block must have for its width to be tried."""

ALIKE = 1.01
"""Predicted times that differ by less than this factor are taken as equal: the narrowest panel
among these has the squarest block, for which the caches have the least to do."""


def function_of(module: ModuleOp, symbol: str) -> func.FuncOp:
    """The function of a name, which is there."""
    return next(
        op for op in module.walk() if isinstance(op, func.FuncOp) and op.sym_name.data == symbol
    )


def products_of(function: func.FuncOp) -> list[GemmOp]:
    """The products in a function, in order."""
    return [op for op in function.walk() if isinstance(op, GemmOp)]


def _cuts_panels(plan: PlanAttr) -> bool:
    """Whether a plan packs cache blocks."""
    return plan.blocked and plan.pack.data != "none"


def _sums_alike(
    problem: Problem, instruction: Instruction, alone: PlanAttr, shared: PlanAttr
) -> bool:
    """Whether two plans add up the products of an element in one order."""
    if alone.blocked or isinstance(instruction, TileInstruction):
        return alone.k_block.data == shared.k_block.data
    return chunk_count(problem, alone) == chunk_count(problem, shared) == 1


@dataclass(frozen=True)
class Choice:
    """A layout for a factor, and what reads it."""

    layout: Layout
    plans: tuple[PlanAttr, ...]
    """Of each product that the one product becomes, in order."""
    cycles: float
    """What they are predicted to take."""


def _preferred(choices: Sequence[Choice]) -> Choice:
    """The fastest choice; of those that are not much slower one that fills all panels."""
    least = min(choice.cycles for choice in choices)
    alike = [choice for choice in choices if choice.cycles <= ALIKE * least]

    def order(choice: Choice) -> tuple[bool, int]:
        layout = choice.layout
        return layout.shape[layout.cut] % layout.width != 0, layout.width

    return min(alike, key=order)


@dataclass(frozen=True)
class Product:
    """A product in a function, and what there is to know to pack one of its factors."""

    module: ModuleOp
    symbol: str
    op: GemmOp
    what: str
    """What messages call the factor."""
    operand: Operand
    problem: Problem
    position: int
    """The argument that is packed."""
    iterators: tuple[int, int]
    """Those that the factor's dimensions are."""
    cut: int
    """The dimension that is cut into panels."""

    @classmethod
    def read(
        cls, module: ModuleOp, symbol: str, op: GemmOp, operand: Operand, position: int, what: str
    ) -> "Product":
        """Look at one product of a raised program.

        Args:
            module: the program; it is never changed.
            symbol: the function's name.
            op: the product.
            operand: which factor is packed.
            position: the argument that it is.
            what: what messages call it.

        Raises:
            Unsupported: where it can't be packed, with the reason and the remedy.
        """

        def refuse(reason: str) -> NoReturn:
            raise Unsupported(f"{what} can't be packed: {reason}")

        if any(size < 0 for size in op.sizes):
            refuse("its sizes are known only at run time; compile a kernel for static sizes")
        map_ = op.indexing_maps[0 if operand == "lhs" else 1]
        if len(list(function_of(module, symbol).body.block.args[position].uses)) != 1:
            refuse("something else uses it, too; give that an argument of its own")
        iterators = [e.position for e in map_.results if isinstance(e, AffineDimExpr)]
        kinds = [op.kinds[iterator] for iterator in iterators]
        side = SIDES[operand]
        if len(map_.results) != 2 or sorted(kinds) != sorted(("k", side)):
            refuse(
                f"it must be a matrix with one dimension of kind {side} and one of kind k; "
                "pack a batch one matrix at a time, each for a kernel of its own"
            )
        if op.plan is not None and op.plan.lanes.data == "k":
            refuse("its plan has lanes along k, which no panel has; leave the plan out")
        first, second = iterators
        cut = kinds.index(side)
        problem = analyse(op)
        return cls(module, symbol, op, what, operand, problem, position, (first, second), cut)

    # ---------------------------------------------------------------------------- choosing

    def best(self, target: Target, threads: int) -> Choice:
        """The choice that is predicted to be best, that which fills all panels if it is alike.

        Where several threads share the product, the order of sums is that of one thread, so that
        results are equal; and so is the layout, if some plan for it can be shared.

        Args:
            target: what it is compiled for.
            threads: how many share the product where nothing is packed beforehand.

        Raises:
            Unsupported: where no plan reads panels.
        """
        found = [
            (instruction, choice)
            for instruction in self.instructions(target)
            for width in self.widths(target, instruction)
            if (choice := self.choice(width, target, instruction)) is not None
        ]
        if not found:
            self.refuse(target)
        alone = _preferred([choice for _, choice in found])
        if threads == 1 or self.op.plan is not None:
            return alone
        (instruction,) = (i for i, choice in found if choice is alone)
        shared = self._shared(alone, target, instruction, threads)
        if any(plan.threads.data == threads for plan in shared.plans):
            return shared
        others = [choice for i, choice in found if i is instruction and choice is not alone]
        if isinstance(instruction, TileInstruction) or not self._sums_whole(alone):
            return alone
        ways = [
            self._shared(c, target, instruction, threads) for c in others if self._sums_whole(c)
        ]
        ways = [way for way in ways if any(p.threads.data == threads for p in way.plans)]
        return _preferred(ways) if ways else alone

    def _sums_whole(self, choice: Choice) -> bool:
        """Whether no plan cuts the reduction."""
        return all(chunk_count(self.problem, plan) == 1 for plan in choice.plans)

    def _shared(
        self, alone: Choice, target: Target, instruction: Instruction, threads: int
    ) -> Choice:
        """The best choice of one thread's layout, and order of sums, for several threads."""
        plans: list[PlanAttr] = []
        cycles = 0.0
        ops = self.rewritten(self.module.clone(), alone.layout)
        for op, plan in zip(ops, alone.plans, strict=True):
            problem = analyse(op)
            ways = [] if op.plan is not None else self._usable(problem, target, instruction)
            costs = [
                (cost_of(problem, target, way).cycles, way.with_entries(threads=threads))
                for way in ways
                if way.blocked  # what has cache blocks can be shared
                and way.block[self.side == "n"] == plan.block[self.side == "n"]
                and _sums_alike(problem, instruction, plan, way)
            ]
            best = min(costs, key=itemgetter(0))[1] if costs else plan
            plans.append(best)
            cycles += cost_of(problem, target, best).cycles
        return Choice(alone.layout, tuple(plans), cycles)

    @property
    def side(self) -> Literal["m", "n"]:
        """The kind of iterator that is cut into panels."""
        return SIDES[self.operand]

    @property
    def key(self) -> Hashable:
        """Equal for products in which the choice is the same."""
        op = self.op
        maps = tuple(map(str, op.indexing_maps))
        types = tuple(value.type for value in op.operands)
        return self.operand, self.problem, self.cut, op.plan, maps, types

    @property
    def extent(self) -> int:
        """Elements along the dimension that is cut."""
        return self.problem.sizes[self.iterators[self.cut]]

    @property
    def element(self) -> ElementType:
        """The element type of the factor."""
        return self.problem.operand if self.operand == "lhs" else self.problem.other

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the factor."""
        rows, columns = (self.problem.sizes[iterator] for iterator in self.iterators)
        return rows, columns

    def instructions(self, target: Target) -> tuple[Instruction, ...]:
        """Those that may multiply; each has groups of its own."""
        if (written := self.op.plan) is not None:
            return (target.instruction(written.instruction.data),)
        return every_instruction(self.problem, target)

    def refuse(self, target: Target) -> NoReturn:
        """Say why no plan reads the factor packed."""
        factor = f"no plan reads panels of {self.what}"
        raise Unsupported(f"{factor}; its result must be contiguous in rows or columns")

    def widths(self, target: Target, instruction: Instruction) -> list[int]:
        """The widths of the register blocks that load little."""
        if (written := self.op.plan) is not None:
            return [written.block[self.side == "n"]]
        # Along the lanes a block has whole registers.
        lanes, other = self._lanes, "n" if self.side == "m" else "m"
        if isinstance(instruction, TileInstruction):
            return tile_widths(self.problem, target, instruction, self.side)
        units = {kind: instruction.lanes if kind == lanes else 1 for kind in "mn"}
        limits = {kind: -(-max(self.problem.extent(kind), 1) // units[kind]) for kind in "mn"}
        found: dict[int, float] = {}
        for mine, others in np.ndindex(target.registers, target.registers):
            counts = {self.side: mine + 1, other: others + 1}
            if any(counts[kind] > limits[kind] for kind in "mn"):
                continue
            rows, columns = (counts[kind] * units[kind] for kind in "mn")
            tile = block_tile(rows, columns, lanes, instruction, target)
            if tile.live_registers(target) > target.plannable_registers:
                continue
            width = counts[self.side] * units[self.side]
            worth = tile.instructions / (tile.lhs_loads + tile.rhs_loads)
            found[width] = max(found.get(width, 0.0), worth)
        most = max(found.values())
        return [width for width, worth in found.items() if worth >= FRUGAL * most]

    def choice(self, width: int, target: Target, instruction: Instruction) -> Choice | None:
        """Panels of some width, read by one thread; None where no plan reads them."""
        layout = self._layout(width, target, instruction)
        plans: list[PlanAttr] = []
        cycles = 0.0
        for number, op in enumerate(self.rewritten(self.module.clone(), layout)):
            problem = analyse(op)
            block = width if number == 0 and self.extent >= width else None
            plan = self._plan(op, problem, target, instruction, block)
            if plan is None:
                return None
            plans.append(plan)
            cycles += cost_of(problem, target, plan).cycles
        return Choice(layout, tuple(plans), cycles)

    def _layout(self, width: int, target: Target, instruction: Instruction) -> Layout:
        """Panels of some width that an instruction reads."""
        filled = 1
        if isinstance(instruction, TileInstruction) and not instruction.scalable:
            filled = instruction.steps
        return Layout(
            self.operand,
            self.shape,
            self.element,
            self.cut,
            width,
            target.name,
            instruction.k,
            filled,
            self._sums(instruction),
        )

    def _sums(self, instruction: Instruction) -> int:
        """What the sums of each panel are multiplied by; 0 where the kernel needs none.

        They make up for flipped signs of the other factor: of numbers that are 128 larger if they
        had a sign, and smaller if not. The factor that is loaded as registers is added up; a single
        row or column need not be that one.
        """
        if not instruction.flips or self._lanes != self.side or self.extent <= 1:
            return 0
        other = self.problem.other if self.operand == "lhs" else self.problem.operand
        return 128 if other.is_unsigned else -128

    @property
    def _lanes(self) -> str:
        """The dimension along the lanes: the result is contiguous there."""
        if self.op.plan is not None:
            return self.op.plan.lanes.data
        other = "n" if self.side == "m" else "m"
        return self.side if self.problem.stride("out", self.side) == 1 else other

    def _plan(
        self,
        op: GemmOp,
        problem: Problem,
        target: Target,
        instruction: Instruction,
        width: int | None,
    ) -> PlanAttr | None:
        """The best plan that reads panels in place, in blocks of some width if one is given."""
        if op.plan is not None:
            other: Operand = "rhs" if self.operand == "lhs" else "lhs"
            pack = other if op.plan.packs(other) else "none"
            return op.plan.with_entries(pack=pack)
        usable = self._usable(problem, target, instruction)
        if width is not None:
            usable = [p for p in usable if p.block[self.side == "n"] == width]
        elif not usable and instruction.k == 1:
            # What is left of the last panel is copied where masks can't reach: small elements.
            usable = [p for p in candidates(problem, target, instruction) if not p.blocked]
        if not usable:
            return None
        return min(usable, key=lambda plan: cost_of(problem, target, plan).cycles)

    def _usable(self, problem: Problem, target: Target, instruction: Instruction) -> list[PlanAttr]:
        """The plans that read panels in place."""
        # Cache blocks could only be cut out of one panel.
        return [
            plan
            for plan in candidates(problem, target, instruction)
            if not plan.packs(self.operand) and not _cuts_panels(plan)
        ]

    # --------------------------------------------------------------------------- rewriting

    def rewritten(self, module: ModuleOp, layout: Layout) -> list[GemmOp]:
        """Let the product read panels, in place.

        Args:
            module: a copy of the program, in which factors of other products may be packed.
            layout: how the panels lie.

        Returns:
            The products that it becomes, one or two.
        """
        function = function_of(module, self.symbol)
        (use,) = function.body.block.args[self.position].uses
        op = use.operation
        assert isinstance(op, GemmOp)
        shape, width = layout.panels, layout.width
        whole, rest = divmod(self.extent, width)
        panels = MemRefType(self.element.mlir, shape)
        argument = Rewriter.replace_value_with_new_type(
            function.body.block.args[self.position], panels
        )
        function.update_function_type()
        words = self._words(op, argument) if layout.sums else None
        steps = shape[1] - bool(layout.sums)
        ops: list[GemmOp] = []

        def read(first: int, sizes: Sequence[int], extent: int) -> None:
            part = list(sizes) != list(shape)
            source = self._part(op, argument, first, sizes) if part else argument
            sums = None
            if words is not None:
                sums = self._part(op, words, first, [sizes[0], 1, sizes[2]], steps)
            ops.append(self._reading(op, source, width, first, extent, sums))

        if whole:
            read(0, [whole, steps, *shape[2:]], whole * width)
        if rest:
            read(whole, [1, steps, rest, *shape[3:]], rest)
        Rewriter.erase_op(op)
        for new in ops if layout.filled > 1 else ():
            new.attributes[FILLED_ATTRIBUTE] = UnitAttr()
        return ops

    def _words(self, op: GemmOp, panels: SSAValue) -> SSAValue:
        """All panels with their groups of four bytes as s32: the last step of each are sums."""
        assert isinstance(panels.type, MemRefType)
        shape = panels.type.get_shape()
        size = prod(shape)
        flat = memref.ReinterpretCastOp(
            panels, [], [], [], [0], [size], [1], MemRefType(panels.type.element_type, [size])
        )
        start = arith.ConstantOp(IntegerAttr.from_index_int_value(0))
        words = memref.ViewOp(flat.result, start.result, [], MemRefType(i32, shape[:-1]))
        Rewriter.insert_op([flat, start, words], InsertPoint.before(op))
        return words.result

    def _part(
        self, op: GemmOp, panels: SSAValue, first: int, sizes: Sequence[int], step: int = 0
    ) -> SSAValue:
        """Some panels from number `first` on, or a part of one, that begins at a step."""
        assert isinstance(panels.type, MemRefType)
        shape = panels.type.get_shape()
        strides = [prod(shape[d + 1 :]) for d in range(len(shape))]
        start = first * strides[0] + step * strides[1]
        layout = StridedLayoutAttr(strides, start or None)
        type_ = MemRefType(panels.type.element_type, sizes, layout)
        offsets = [first, step, *[0] * (len(shape) - 2)]
        part = memref.SubviewOp.get(panels, offsets, sizes, [1] * len(shape), type_)
        Rewriter.insert_op(part, InsertPoint.before(op))
        return part.result

    def _extra(
        self, op: GemmOp, extra: SSAValue, map_: AffineMap, width: int, first: int, extent: int
    ) -> tuple[SSAValue, tuple[AffineExpr, ...]]:
        """What an epilogue reads beside some panels, and how it is indexed.

        An epilogue's operand has an iterator alone in a dimension, so that one becomes two.
        """
        cut = AffineExpr.dimension(self.iterators[self.cut])
        if cut not in map_.results:
            return extra, map_.results
        assert isinstance(extra.type, MemRefType)
        strides, offset = extra.type.get_strides(), extra.type.get_offset()
        if strides is None or None in strides or offset is None:
            raise Unsupported(
                f"{self.what} can't be packed: its epilogue reads "
                f"{extra.type}, of a layout that is known only at run time"
            )
        dimension = map_.results.index(cut)
        stride = strides[dimension]
        assert stride is not None
        parts = extent // width, width
        if parts[0] == 0:
            parts = 1, extent
        sizes, steps = list(extra.type.get_shape()), [s for s in strides if s is not None]
        sizes[dimension : dimension + 1] = parts
        steps[dimension : dimension + 1] = stride * width, stride
        start = offset + first * width * stride
        type_ = MemRefType(extra.type.element_type, sizes, StridedLayoutAttr(steps, start or None))
        cast = memref.ReinterpretCastOp(extra, [], [], [], [start], sizes, steps, type_)
        Rewriter.insert_op(cast, InsertPoint.before(op))
        results = list(map_.results)
        results.insert(dimension, AffineExpr.dimension(map_.num_dims))
        return cast.result, tuple(results)

    def _reading(
        self,
        op: GemmOp,
        panels: SSAValue,
        width: int,
        first: int,
        extent: int,
        sums: SSAValue | None,
    ) -> GemmOp:
        """The product with the factor's panels from number `first` on, in front of the old one.

        They hold `extent` rows, or columns, of the product; `sums` is what it starts with, if any.
        """
        cut, depth = self.iterators[self.cut], self.iterators[1 - self.cut]
        count = op.indexing_maps[0].num_dims
        dims = [AffineExpr.dimension(d) for d in range(count + 1)]
        # The last iterator counts panels; the one that is cut now counts within one.
        panel, within = dims[count], dims[cut]
        moved = [*dims[:cut], panel * width + within + first * width, *dims[cut + 1 : count]]
        maps = [map_.replace_dims_and_symbols(moved, (), count + 1, 0) for map_ in op.indexing_maps]
        extras: list[SSAValue] = []
        for number, extra in enumerate(op.extras, start=3):
            part, results = self._extra(op, extra, op.indexing_maps[number], width, first, extent)
            extras.append(part)
            maps[number] = AffineMap(count + 1, 0, results) if results else maps[number]
        left = self.operand == "lhs"
        assert isinstance(panels.type, MemRefType)
        _, _, _, *group = panels.type.get_shape()
        step, *place = [f(dims[depth], *group) for f in (floordiv, mod)] if group else [dims[depth]]
        maps[0 if left else 1] = AffineMap(count + 1, 0, (panel, step, within, *place))
        scale = None if op.alpha is None or op.beta is None else (op.alpha, op.beta)
        start_map = AffineMap(count + 1, 0, (panel, AffineExpr.constant(0), within))
        new = GemmOp(
            panels if left else op.lhs,
            op.rhs if left else panels,
            op.out,
            maps,
            unsigned=None if op.unsigned is None else op.unsigned.data,
            extras=extras,
            from_zero=op.from_zero is not None,
            first=op.first,
            scale=scale,
            start=None if sums is None else (sums, start_map),
            plan=op.plan,
            epilogue=None if op.epilogue is None else op.epilogue.clone(),
        )
        new.attributes |= op.attributes
        new.location = op.location
        Rewriter.insert_op(new, InsertPoint.before(op))
        return new
