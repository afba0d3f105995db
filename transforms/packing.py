"""`nanokernel.pack` as registers: a panel filled tile by tile. A part of the pass `unroll`.

The source is cut into tiles of L rows and L steps of the reduction, L being the lanes of a
register. A tile whose rows are contiguous along k is loaded row by row, transposed in registers,
and stored as L rows of the panel. A source that is contiguous in neither direction is copied
element by element. What a tile lacks at the ragged edges is masked on loading, and zero in the
panel.

```mlir
nanokernel.pack %b[n: %j, k: %k] extents 256 x 40 into %panel : ...
// becomes, for each 16 of the 40 rows
scf.for %t = %c0 to %c256 step %c16 {
  %r0 = nkvector.load %b[%j, %k + %t] : ..., vector<16xf32>
  ...  // 15 more, and four rounds of shuffles
  nkvector.store %s0, %panel[%t, %c0] : ..., vector<16xf32>
  ...
}
```

Imports: our dialects, targets, planner.
"""

from collections.abc import Iterable
from math import gcd

from xdsl.dialects import arith
from xdsl.dialects.builtin import MemRefType
from xdsl.ir import SSAValue

from nkdsl.dialects.nanokernel import PackOp
from nkdsl.planner.registers import Register
from nkdsl.targets.model import Target
from nkdsl.transforms.loops import Carried
from nkdsl.transforms.registers import Access, RegisterBuilder
from nkdsl.types import element_type_of


class Packer:
    """Fills one panel."""

    def __init__(self, op: PackOp, target: Target, build: RegisterBuilder):
        """Pack as `op` says, in the widest registers of `target` that divide the panel's rows."""
        assert isinstance(op.panel.type, MemRefType)
        self.build = build
        self.loops = build.loops
        self.source = Access(op.source, tuple(op.indices), op.dims.data)
        self.panel = op.panel
        self.element = op.panel.type.element_type
        self.along = op.lane_tag
        self.depth, self.width = op.extents
        element = element_type_of(self.element)
        lanes = target.instruction_for(element, element).lanes
        self.lanes = gcd(op.panel.type.get_shape()[1], lanes)

    def run(self) -> None:
        """Build the loops over tiles."""
        whole = self.depth - self.depth % self.lanes
        for start in range(0, self.width, self.lanes):

            def visit(k: SSAValue, _: Carried, start: int = start) -> Carried:
                self._tile(k, start, self.lanes)
                return ()

            self.loops.loop(0, whole, self.lanes, visit)
            if whole < self.depth:
                self._tile(self.loops.constant(whole), start, self.depth - whole)

    def _tile(self, k: SSAValue, start: int, depth: int) -> None:
        """`depth` rows of the panel from step k on, its lanes from `start` on."""
        source = self._source_at(k)
        if "k" in source.contiguous:
            rows: Iterable[SSAValue] = self._transposed(source, start, depth)
        else:
            rows = (self._gathered(source, start, row) for row in range(depth))
        panel = Access(self.panel, (k, self.loops.constant(start)), "k" + self.along)
        whole = Register(0, self.lanes, self.lanes)
        for row, value in enumerate(rows):
            self.build.store(value, panel, whole, panel.offsets(k=row))

    def _source_at(self, k: SSAValue) -> Access:
        """The source, its k index moved on by `k`."""
        indices = tuple(
            self.loops.insert(arith.AddiOp(index, k)).result if tag == "k" else index
            for index, tag in zip(self.source.indices, self.source.dims, strict=True)
        )
        return Access(self.source.memref, indices, self.source.dims)

    def _active(self, start: int) -> int:
        """Lanes of the panel from `start` on that the source fills."""
        return min(self.lanes, self.width - start)

    def _transposed(self, source: Access, start: int, depth: int) -> list[SSAValue]:
        """A tile of a source that is contiguous in k."""
        register = Register(0, self.lanes, depth)
        active = self._active(start)
        missing = self.lanes - active
        nothing = [self.build.zero(self.element, self.lanes)] * missing if missing else []
        rows = [
            self.build.load(source, register, source.offsets(**{self.along: start + row}))
            for row in range(active)
        ]
        return self.build.transpose([*rows, *nothing])[:depth]

    def _gathered(self, source: Access, start: int, row: int) -> SSAValue:
        """One row of a tile, element by element."""
        value = self.build.zero(self.element, self.lanes)
        for lane in range(self._active(start)):
            offsets = source.offsets(**{self.along: start + lane, "k": row})
            one = self.build.broadcast(source, self.lanes, offsets)
            mask = [self.lanes + p if p == lane else p for p in range(self.lanes)]
            value = self.build.shuffle(value, one, mask)
        return value
