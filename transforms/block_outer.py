"""Cutting a product into microkernels of outer products. A part of the pass `block`.

Tiles are as large as the processor's vectors are long, which is known where the code runs only. So
one microkernel serves all blocks, whatever part of a block exists: its views say how much that is.
Factors lie in panels along k, each as wide as a block:

```mlir
scf.for ... columns, a block at a time
  nanokernel.pack %b ... into %panel : ..., memref<?x64xf32>
  scf.for ... rows, a block at a time
    nanokernel.microkernel @f_64x64(%a_panel, %panel, %c)
```

A block of sums that something finishes is computed in the workspace, as with other tiles.

Imports: our dialects, the planner.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from xdsl.dialects.builtin import DYNAMIC_INDEX, MemRefType, StridedLayoutAttr
from xdsl.ir import SSAValue

from nkdsl.dialects.nanokernel import PackOp
from nkdsl.planner.problem import Role
from nkdsl.planner.tiles import Grid
from nkdsl.transforms.block import Packed, Part, View
from nkdsl.transforms.block_tiles import TileBlocker
from nkdsl.transforms.compose import Schedule, as_number


class OuterBlocker(TileBlocker):
    """Builds the blocked form of one product of outer products in front of it."""

    def _grid_of(self, plan: Schedule) -> Grid:
        rows, columns = plan.plan.block[:: 1 if plan.plan.lanes.data == "n" else -1]
        return Grid(1, 1, rows, columns)

    def _unit(self, kind: str) -> int:
        return self.group if kind == "k" else super()._unit(kind)

    def _whole(self) -> None:
        self._outer(self.problem.outer("b", "m", "n"), self._product)

    # ------------------------------------------------------------------------------ packing

    def _packed_elements(self, role: Role) -> int:
        if role == self.vector and not self._cache_block(self.across):
            return super()._packed_elements(role)
        kind = self.along if role == self.vector else self.across
        panels = -(-self._largest(kind) // self._unit(kind))
        return self._deepest * panels * self._unit(kind)

    def _fill_panel(self, packed: Packed, block: Part, k: Part) -> None:
        self._fill(self.vector, packed, block, k)

    def _fill_rows(self, packed: Packed, part: Part, k: Part) -> None:
        self._each_block(
            part, self.across, lambda block: self._fill(self.broadcast, packed, block, k)
        )

    def _fill(self, role: Role, packed: Packed, block: Part, k: Part) -> None:
        """Pack one block of a factor into a panel along k."""
        source, kind = self.operands[role], "m" if role == "lhs" else "n"
        place, width = self._place(packed, block.start, k), self._unit(kind)
        panel = self._panel(packed.memory, place, k, width)
        indices = [k.start if tag == "k" else block.start for tag in source.tags]
        extents = as_number(k.length.value), as_number(block.length.value)
        self.loops.insert(PackOp(source.memory, indices, source.tags, panel, extents))

    # -------------------------------------------------------------------------------- blocks

    def _column_factor(self, x: Part, k: Part, packed: Packed | None, width: int) -> View:
        return self._factor(self.vector, x, k, packed)

    def _row_factor(self, y: Part, k: Part, packed: Packed | None, rows: int) -> View:
        return self._factor(self.broadcast, y, k, packed)

    def _factor(self, role: Role, block: Part, k: Part, packed: Packed | None) -> View:
        """What exists of a block's panel."""
        kind, zero = "m" if role == "lhs" else "n", self.loops.constant(0)
        if packed is None:
            return self._slice(self.operands[role], {kind: block, "k": k})
        place = self._place(packed, block.start, k)
        panel = self._panel(packed.memory, place, k, self._unit(kind))
        view = View(panel, "k" + kind + ("g" if self.group > 1 else ""))
        return self._slice(view, {kind: replace(block, start=zero), "k": replace(k, start=zero)})

    def _sums(
        self,
        shape: tuple[int, int],
        x: Part,
        y: Part,
        factors: Mapping[Role, View],
        update: Sequence[SSAValue],
        ahead: Sequence[View] = (),
    ) -> None:
        call = partial(self._multiply, shape, factors)
        if self.scratch is None and self._finishes:
            zero, view = self.loops.constant(0), self._scratch_view()
            here = {self.along: replace(x, start=zero), self.across: replace(y, start=zero)}
            call(self._slice(view, here), self._flag(value=True))
            self._make_results(x, y, update)
            return
        call(self._slice(self.operands["out"], self._of_result(x, y)), update[0])

    def _argument_type(
        self, role: Role, view: View, shape: tuple[int, int], masked: bool, packed: bool
    ) -> MemRefType:
        strides = view.type.get_strides()
        assert strides is not None
        sizes = [self.group if tag == "g" else DYNAMIC_INDEX for tag in view.tags]
        return MemRefType(view.type.element_type, sizes, StridedLayoutAttr(strides, None))
