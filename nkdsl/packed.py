"""Factors that are packed once, for kernels that are called again and again with the same one.

```python
w = nkdsl.pack(b, like=k)  # k: a kernel of one product, of static sizes
k(a, w, c)  # reads the panels of w; as often as you like
```

A packed factor lies in panels, each as wide as a block of registers, one behind the other: B as
`[N/48][K][48]`. For the compiler that is a layout like any other, told by index maps, so the kernel
that reads it is the same program with other maps and needs no pass of its own:

```mlir
nanokernel.gemm ins(%a[m, k], %b[k, n] : ...) outs(%c[m, n] : ...)
// becomes
nanokernel.gemm ins(%a[m, k], %b[n0, k, n1] : ...) outs(%c[m, 48 * n0 + n1] : ...)
```

Where the width divides no size, the last panel ends in zeros, and a second product reads as much of
it as there is. The width is the planner's choice: of all widths of register blocks, the one whose
plan is predicted to take the least time.

For an instruction that takes k in groups, two of bf16 or four of 8-bit integers, a panel holds
groups (VNNI), `[N/48][ceil(K/2)][48][2]`, whose last one is filled up with zeros:
`%b[n0, k floordiv 2, n1, k mod 2]`.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from operator import floordiv, itemgetter, mod
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
from xdsl.dialects import func, memref
from xdsl.dialects.builtin import MemRefType, ModuleOp, StridedLayoutAttr, UnitAttr
from xdsl.ir import BlockArgument, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineExpr, AffineMap
from xdsl.parser import Parser
from xdsl.rewriter import InsertPoint, Rewriter

from nkdsl.dialects.nanokernel import FILLED_ATTRIBUTE, GemmOp, PlanAttr
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.frontend import load, make_context
from nkdsl.pipeline import RAISING
from nkdsl.planner import Problem, analyse
from nkdsl.planner.registers import block_tile
from nkdsl.planner.search import candidates, cost_of, every_instruction
from nkdsl.planner.tiles import tile_widths
from nkdsl.runtime.address import address_of
from nkdsl.runtime.workspace import aligned_bytes
from nkdsl.targets.model import Instruction, Target, TileInstruction
from nkdsl.tensors import as_array
from nkdsl.types import ElementType

if TYPE_CHECKING:
    from nkdsl.runtime.kernel import Kernel

__all__ = ["Layout", "Packed", "Variants", "pack"]

Array = npt.NDArray[Any]
Operand = Literal["lhs", "rhs"]

SIDES: dict[Operand, str] = {"lhs": "m", "rhs": "n"}
"""The kind of iterator that a packed factor's panels cut."""

FRUGAL = 0.75
"""What of the most multiplications a load a block must have for its width to be tried."""

ALIKE = 1.01
"""Predicted times that differ by less than this factor are taken as equal: the narrowest panel
among these has the squarest block, for which the caches have the least to do."""


@dataclass(frozen=True)
class Layout:
    """How a packed factor lies in memory, and for which target."""

    operand: Operand
    shape: tuple[int, int]
    """Of the array that is packed."""
    element: ElementType
    cut: int
    """The dimension of the array that is cut into panels; the other one is the reduction."""
    width: int
    """Elements of a panel along it."""
    target: str
    """The target's name."""
    group: int = 1
    """Steps of the reduction that lie side by side."""
    filled: int = 1
    """What the steps are filled up to a multiple of: a tile's."""

    @property
    def panels(self) -> tuple[int, ...]:
        """Panels, steps of the reduction, a panel's width, and a group's size if there are groups.

        Of groups, each is one step.
        """
        depth = -(-self.shape[1 - self.cut] // self.filled) * self.filled
        return _panels(self.shape[self.cut], depth, self.width, self.group)

    @cached_property
    def fingerprint(self) -> str:
        """Equal for equal layouts."""
        told = (
            *(self.operand, self.shape, self.element.name, self.cut, self.width),
            *(self.group, self.filled, self.target),
        )
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]

    def differences(self, other: "Layout") -> Iterator[str]:
        """What another layout has that this one has not, in words."""
        pairs = {
            "shape": (self.shape, other.shape),
            "type": (self.element.dtype.name, other.element.dtype.name),
            "target": (self.target, other.target),
            "reduction along dimension": (1 - self.cut, 1 - other.cut),
            "panel width": (self.width, other.width),
            "group size": (self.group, other.group),
            "steps filled up to": (self.filled, other.filled),
        }
        for what, (mine, theirs) in pairs.items():
            if mine != theirs:
                yield f"{what} {theirs} instead of {mine}"


def _panels(extent: int, depth: int, width: int, group: int) -> tuple[int, ...]:
    """The shape of a factor's panels."""
    shape = -(-extent // width), -(-depth // group), width
    return shape if group == 1 else (*shape, group)


@dataclass(frozen=True, eq=False, repr=False)
class Packed:
    """A factor in the layout that a kernel reads fastest; it can't be changed.

    Made by `nkdsl.pack`, and given to that kernel in the array's place.
    """

    layout: Layout
    panels: Array
    """The memory, read-only: panels, steps of the reduction, elements of a panel, of a group."""

    def __repr__(self) -> str:
        groups = f" in groups of {self.layout.group}" if self.layout.group > 1 else ""
        kind = f"{self.dtype.name} {self.layout.operand}, panels of {self.layout.width}{groups}"
        return f"<nkdsl.Packed {'x'.join(map(str, self.shape))} {kind} for {self.layout.target}>"

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the array that was packed."""
        return self.layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the elements."""
        return self.layout.element.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of memory, those that fill up the last panel among them."""
        return self.panels.nbytes

    @property
    def target(self) -> str:
        """The name of the target that it was packed for."""
        return self.layout.target

    @property
    def fingerprint(self) -> str:
        """What a kernel knows a layout by that it can read."""
        return self.layout.fingerprint

    @property
    def address(self) -> int:
        """Where the panels are, for native callers of `Kernel.packed`; valid as long as this is."""
        return address_of(self.panels)

    def unpack(self) -> Array:
        """The array that was packed, a new one."""
        layout = self.layout
        count, steps, width, *_ = layout.panels
        panels = self.panels.reshape(count, steps, width, layout.group).transpose(1, 3, 0, 2)
        matrix = panels.reshape(steps * layout.group, count * width)
        matrix = matrix[: self.shape[1 - layout.cut], : self.shape[layout.cut]]
        return np.array(matrix if self.layout.cut else matrix.T, order="C")


def pack(array: Array, like: "Kernel", *, operand: Operand = "rhs") -> Packed:
    """Pack a factor for a kernel, once for all its calls.

    The first time the kernel that reads the panels is compiled; `like` keeps it.

    Args:
        array: the factor, of the shape and type that the kernel takes, and of any strides; or a
            tensor of PyTorch.
        like: a kernel of one product of static sizes.
        operand: which of the product's factors it is, `rhs` or `lhs`.

    Returns:
        What `like` takes in the array's place, and every kernel that reads the same layout.

    Raises:
        InvalidInput: for an array of another shape or type.
        Unsupported: for kernels that can't read a packed factor, with the reason.
    """
    if operand not in SIDES:
        raise InvalidInput(f"a product's factors are 'lhs' and 'rhs', not {operand!r}")
    return like.variants.pack(array, operand)


def _filled(array: Array, layout: Layout) -> Array:
    """A factor's panels, the last one, and the last groups, filled up with zeros."""
    count, steps, width, *_ = layout.panels
    group = layout.group
    memory = aligned_bytes(count * steps * width * group * layout.element.size)
    panels = memory.view(layout.element.dtype).reshape(count, steps, width, group)
    panels[-1:] = 0
    panels[:, layout.shape[1 - layout.cut] // group :] = 0
    matrix = array if layout.cut else array.T  # the reduction first
    whole, rest = divmod(layout.shape[layout.cut], width)
    for place in range(group):
        rows = matrix[place::group]
        parts = rows[:, : whole * width].reshape(len(rows), whole, width)
        panels[:whole, : len(rows), :, place] = parts.transpose(1, 0, 2)
        if rest:
            panels[whole, : len(rows), :rest, place] = rows[:, whole * width :]
    panels = panels.reshape(layout.panels)
    panels.flags.writeable = False
    return panels


# ----------------------------------------------------------------------- the kernels that read it


@dataclass(frozen=True)
class _Variant:
    """A program that reads a packed factor, planned."""

    layout: Layout
    position: int
    """The function's argument that is packed."""
    module: ModuleOp
    plans: tuple[PlanAttr, ...]
    cycles: float


class Variants:
    """What a kernel's program becomes when a factor is packed; each is made once, when needed."""

    def __init__(
        self, source: ModuleOp, symbol: str, target: Target, plan: str, *, emulate: bool = False
    ):
        """Of one function.

        Args:
            source: the program that it is in.
            symbol: its name.
            target: what it is compiled for.
            plan: its first product's plan.
            emulate: whether calls go through an emulator.
        """
        self._source = source
        self._symbol = symbol
        self._target = target
        self._plan = plan
        self._emulate = emulate
        self._lock = threading.RLock()
        self._planned: dict[Operand, _Variant] = {}
        self._readers: dict[str, tuple[int, Kernel]] = {}
        """For a layout's fingerprint the argument that is packed, and the kernel that reads it."""

    def pack(self, array: Array, operand: Operand) -> Packed:
        """See `nkdsl.pack`."""
        layout = self._variant(operand).layout
        shape, dtype = layout.shape, layout.element.dtype
        array = as_array(array, f"the {operand} of {self._symbol}")
        if not isinstance(array, np.ndarray):
            found = type(array).__name__
            raise InvalidInput(
                f"the {operand} of {self._symbol} must be a numpy array, not {found}"
            )
        if array.shape != shape or array.dtype != dtype:
            raise InvalidInput(
                f"the {operand} of {self._symbol} has shape {shape} and type {dtype}, not "
                f"{array.shape} and {array.dtype}"
            )
        packed = Packed(layout, _filled(array, layout))
        self.reader(packed)
        return packed

    def reader(self, packed: Packed) -> "tuple[int, Kernel]":
        """The position of a packed argument, and the kernel that reads it.

        Raises:
            InvalidInput: for a layout that isn't this kernel's, saying what differs.
        """
        found = self._readers.get(packed.layout.fingerprint)
        return self._compiled(packed.layout) if found is None else found

    def call(
        self, given: int, arguments: tuple[Any, ...], workspace: npt.NDArray[np.uint8] | None
    ) -> None:
        """Run on arguments of which one, at the position `given`, is packed."""
        packed: Packed = arguments[given]
        after = arguments[given + 1 :]
        position, kernel = self.reader(packed)
        if position != given:
            raise InvalidInput(
                f"argument {given} of {self._symbol} is a packed {packed.layout.operand}, which is "
                f"argument {position}"
            )
        for other in after:
            if type(other) is Packed:
                raise InvalidInput(
                    f"{self._symbol} reads one packed factor; give the other one as an array"
                )
        if workspace is None:
            kernel.entry(*arguments[:given], packed.panels, *after)
        else:
            kernel(*arguments[:given], packed.panels, *after, workspace=workspace)

    def _compiled(self, layout: Layout) -> "tuple[int, Kernel]":
        from nkdsl.api import compile

        with self._lock:
            variant = self._variant(layout.operand)
            if layout != variant.layout:
                self._refuse(variant, layout)
            if layout.fingerprint not in self._readers:
                kernel = compile(
                    variant.module,
                    self._target,
                    function=self._symbol,
                    threads=self._threads,
                    emulate=self._emulate,
                )
                self._readers[layout.fingerprint] = variant.position, kernel
            return self._readers[layout.fingerprint]

    def _refuse(self, variant: _Variant, layout: Layout) -> NoReturn:
        differences = ", ".join(variant.layout.differences(layout))
        operand = "" if layout.operand == "rhs" else f', operand="{layout.operand}"'
        raise InvalidInput(
            f"argument {variant.position} of {self._symbol} was packed for another kernel: it has "
            f"{differences}; pack the array again, with nkdsl.pack(array, like=kernel{operand}) "
            "for this kernel"
        )

    @cached_property
    def _threads(self) -> int:
        """How many threads the kernel was compiled for."""
        plan = Parser(make_context(), self._plan).parse_attribute()
        assert isinstance(plan, PlanAttr)
        return plan.threads.data

    # ------------------------------------------------------------------------- planning

    def _variant(self, operand: Operand) -> _Variant:
        """The program that reads a packed factor."""
        with self._lock:
            if operand not in self._planned:
                self._planned[operand] = self._best(operand)
            return self._planned[operand]

    def _best(self, operand: Operand) -> _Variant:
        """The variant of the width that is predicted to be best.

        Those that as many threads share as the kernel itself come first, then those that fill all
        panels, if they are not much slower.
        """
        product = _Product.read(self._source, self._symbol, operand)
        found = [
            variant
            for instruction in product.instructions(self._target)
            for width in product.widths(self._target, instruction)
            if (variant := product.variant(width, self._target, instruction, self._threads))
            is not None
        ]
        if not found:
            product.refuse(self._target)
        shared = [v for v in found if any(p.threads.data == self._threads for p in v.plans)]
        found = shared or found
        least = min(variant.cycles for variant in found)
        alike = [variant for variant in found if variant.cycles <= ALIKE * least]

        def order(variant: _Variant) -> tuple[bool, int]:
            layout = variant.layout
            return layout.shape[layout.cut] % layout.width != 0, layout.width

        best = min(alike, key=order)
        for op, plan in zip(
            _products(_function(best.module, self._symbol)), best.plans, strict=True
        ):
            op.plan = plan
        return best


def _cuts_panels(plan: PlanAttr) -> bool:
    """Whether a plan packs cache blocks."""
    return plan.blocked and plan.pack.data != "none"


def _function(module: ModuleOp, symbol: str) -> func.FuncOp:
    return next(
        op for op in module.walk() if isinstance(op, func.FuncOp) and op.sym_name.data == symbol
    )


def _products(function: func.FuncOp) -> list[GemmOp]:
    return [op for op in function.walk() if isinstance(op, GemmOp)]


@dataclass(frozen=True)
class _Product:
    """A function of one product, and what there is to know to pack one of its factors."""

    module: ModuleOp
    symbol: str
    operand: Operand
    problem: Problem
    position: int
    """The argument that is packed."""
    iterators: tuple[int, int]
    """Those that the factor's dimensions are."""
    cut: int
    """The dimension that is cut into panels."""

    @classmethod
    def read(cls, source: ModuleOp, symbol: str, operand: Operand) -> "_Product":
        """Read a program; raises `Unsupported` where the factor can't be packed."""
        context = make_context()
        module = load(source, context)
        for each in RAISING:
            each.apply(context, module)
        function = _function(module, symbol)
        ops = _products(function)

        def refuse(reason: str) -> NoReturn:
            raise Unsupported(f"the {operand} of {symbol} can't be packed: {reason}")

        if len(ops) != 1:
            refuse(f"a kernel of one product reads a packed factor, this one has {len(ops)}")
        (op,) = ops
        if any(size < 0 for size in op.sizes):
            refuse("its sizes are known only at run time; compile a kernel for static sizes")
        value, map_ = (
            (op.lhs, op.indexing_maps[0])
            if operand == "lhs"
            else (
                op.rhs,
                op.indexing_maps[1],
            )
        )
        if not isinstance(value, BlockArgument) or value.owner is not function.body.block:
            refuse("it is no argument of the function; make it one")
        if len(list(value.uses)) != 1:
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
        position, cut = value.index, kinds.index(side)
        return cls(module, symbol, operand, analyse(op), position, (first, second), cut)

    @property
    def side(self) -> Literal["m", "n"]:
        """The kind of iterator that is cut into panels."""
        return "m" if self.operand == "lhs" else "n"

    @property
    def op(self) -> GemmOp:
        """The product."""
        return _products(_function(self.module, self.symbol))[0]

    @property
    def extent(self) -> int:
        """Elements along the dimension that is cut."""
        return self.problem.sizes[self.iterators[self.cut]]

    @property
    def element(self) -> ElementType:
        """The element type of the factor."""
        return self.problem.operand if self.operand == "lhs" else self.problem.other

    def instructions(self, target: Target) -> tuple[Instruction, ...]:
        """Those that may multiply; each has groups of its own."""
        if (written := self.op.plan) is not None:
            return (target.instruction(written.instruction.data),)
        return every_instruction(self.problem, target)

    def refuse(self, target: Target) -> NoReturn:
        """Say why no plan reads the factor packed."""
        factor = f"no plan for {self.symbol} reads a packed {self.operand}"
        flipped = [each for each in self.instructions(target) if each.flips]
        if flipped:
            remedy = {"s8": "uint8", "u8": "int8"}[self.problem.operand.name]
            raise Unsupported(
                f"{factor}: both factors are {self.element.dtype}, for which {target.name} flips "
                "the signs of one, and makes up for that with sums that are computed while the "
                f"other is packed; give the other factor as {remedy}, or pass the array itself"
            )
        raise Unsupported(f"{factor}; its result must be contiguous in rows or columns")

    def widths(self, target: Target, instruction: Instruction) -> list[int]:
        """The widths of the register blocks that load little."""
        if (written := self.op.plan) is not None:
            return [written.block[self.side == "n"]]
        # The result is contiguous along the lanes; there a block has whole registers.
        other = "n" if self.side == "m" else "m"
        lanes = self.side if self.problem.stride("out", self.side) == 1 else other
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

    def variant(
        self, width: int, target: Target, instruction: Instruction, threads: int
    ) -> _Variant | None:
        """The program that reads panels of some width; None where there is no plan for it."""
        module = self.module.clone()
        filled = 1
        if isinstance(instruction, TileInstruction) and not instruction.scalable:
            filled = instruction.steps
        ops = self._rewritten(module, width, instruction.k, filled)
        plans: list[PlanAttr] = []
        cycles = 0.0
        for number, op in enumerate(ops):
            problem = analyse(op)
            block = width if number == 0 and self.extent >= width else None
            plan = self._plan(op, problem, target, instruction, threads, block)
            if plan is None:
                return None
            plans.append(plan)
            cycles += cost_of(problem, target, plan).cycles
        shape = [self.problem.sizes[iterator] for iterator in self.iterators]
        layout = Layout(
            self.operand,
            (shape[0], shape[1]),
            self.element,
            self.cut,
            width,
            target.name,
            instruction.k,
            filled,
        )
        return _Variant(layout, self.position, module, tuple(plans), cycles)

    def _plan(
        self,
        op: GemmOp,
        problem: Problem,
        target: Target,
        instruction: Instruction,
        threads: int,
        width: int | None,
    ) -> PlanAttr | None:
        """The best plan that reads panels in place, in blocks of some width if one is given."""
        if op.plan is not None:
            other: Operand = "rhs" if self.operand == "lhs" else "lhs"
            pack = other if op.plan.packs(other) else "none"
            return op.plan.with_entries(pack=pack)
        plans = list(candidates(problem, target, instruction))
        # Cache blocks could only be cut out of one panel.
        usable = [p for p in plans if not p.packs(self.operand) and not _cuts_panels(p)]
        if width is not None:
            usable = [p for p in usable if p.block[self.side == "n"] == width]
        elif not usable and instruction.k == 1:
            # What is left of the last panel is copied where masks can't reach: small elements.
            usable = [p for p in plans if not p.blocked]
        best: dict[bool, tuple[float, PlanAttr]] = {}
        for plan in usable:
            cycles = cost_of(problem, target, plan).cycles
            if plan.blocked not in best or cycles < best[plan.blocked][0]:
                best[plan.blocked] = cycles, plan
        if not best:
            return None
        if threads > 1 and True in best:  # what has cache blocks can be shared
            return best[True][1].with_entries(threads=threads)
        return min(best.values(), key=itemgetter(0))[1]

    # ----------------------------------------------------------------------- rewriting

    def _rewritten(self, module: ModuleOp, width: int, group: int, filled: int) -> list[GemmOp]:
        """Let the product in a copy of the program read panels; the products that it becomes."""
        function = _function(module, self.symbol)
        (op,) = _products(function)
        depth = -(-self.problem.sizes[self.iterators[1 - self.cut]] // filled) * filled
        whole, rest = divmod(self.extent, width)
        shape = _panels(self.extent, depth, width, group)
        panels = MemRefType(self.element.mlir, shape)
        argument = Rewriter.replace_value_with_new_type(
            function.body.block.args[self.position], panels
        )
        function.update_function_type()
        ops: list[GemmOp] = []
        if whole:
            sizes = [whole, *shape[1:]]
            source = self._part(op, argument, 0, sizes) if rest else argument
            ops.append(self._reading(op, source, width, 0, whole * width))
        if rest:
            source = self._part(op, argument, whole, [1, shape[1], rest, *shape[3:]])
            ops.append(self._reading(op, source, width, whole, rest))
        Rewriter.erase_op(op)
        for new in ops if filled > 1 else ():
            new.attributes[FILLED_ATTRIBUTE] = UnitAttr()
        return ops

    def _part(self, op: GemmOp, panels: SSAValue, first: int, sizes: Sequence[int]) -> SSAValue:
        """Some panels from number `first` on, or a part of one."""
        assert isinstance(panels.type, MemRefType)
        shape = panels.type.get_shape()
        strides = [prod(shape[d + 1 :]) for d in range(len(shape))]
        type_ = MemRefType(
            panels.type.element_type, sizes, StridedLayoutAttr(strides, first * strides[0] or None)
        )
        offsets = [first, *[0] * (len(shape) - 1)]
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
                f"the {self.operand} of {self.symbol} can't be packed: its epilogue reads "
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

    def _reading(self, op: GemmOp, panels: SSAValue, width: int, first: int, extent: int) -> GemmOp:
        """The product with the factor's panels from number `first` on, in front of the old one.

        They hold `extent` rows, or columns, of the product.
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
            plan=op.plan,
            epilogue=None if op.epilogue is None else op.epilogue.clone(),
        )
        new.attributes |= op.attributes
        new.location = op.location
        Rewriter.insert_op(new, InsertPoint.before(op))
        return new
