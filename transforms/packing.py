"""`nanokernel.pack` as registers: a panel filled piece by piece. A part of the pass `unroll`.

L being the lanes of a register, a source is read along its contiguous dimension:

- where that becomes the panel's rows, the source is copied a register at a time;
- where it becomes the panel's columns, the source is cut into tiles of L by L, loaded row by row,
  transposed in registers, and stored as L rows of the panel;
- where it is contiguous in neither direction, the source is copied element by element.

What a tile lacks at the ragged edges is masked on loading, and what lies beyond the panel's last
row is masked on storing. The extents may be known only at run time.

```mlir
nanokernel.pack %b[n: %j, k: %k] extents 256 x 40 into %panel : ...
// becomes, for each 16 of the 40 columns
scf.for %t = %c0 to %c256 step %c16 {
  %r0 = nkvector.load %b[%j, %k + %t] : ..., vector<16xf32>
  ...  // 15 more, and four rounds of shuffles
  nkvector.store %s0, %panel[%t, %c0] : ..., vector<16xf32>
  ...
}
```

Imports: our dialects, targets, planner.
"""

from collections.abc import Callable, Sequence
from itertools import product
from math import gcd

from xdsl.dialects import arith
from xdsl.dialects.builtin import MemRefType
from xdsl.ir import SSAValue

from nkdsl.dialects.nanokernel import PackOp
from nkdsl.dialects.nkvector import constant_index
from nkdsl.planner.registers import Register
from nkdsl.targets.model import Target
from nkdsl.transforms.loops import Carried
from nkdsl.transforms.registers import Access, RegisterBuilder
from nkdsl.types import element_type_of

NARROW_PANEL = 8
"""Registers in a row of a panel that are copied without a loop."""

ROWS_AHEAD = 24
"""How many rows ahead a panel's source is asked for: hardware follows no rows of a few lines each.
Copying so many takes about as long as memory takes to answer."""

COPY_UNROLL = 4
"""Registers copied in a turn of a loop."""


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
        self.column = op.lane_tag
        self.row = op.row_tag
        self.height, self.width = (
            self.loops.constant(e) if isinstance(e, int) else e for e in op.extents
        )
        element = element_type_of(self.element)
        lanes = target.instruction_for(element, element).lanes
        self.pitch = op.panel.type.get_shape()[1]
        self.lanes = gcd(self.pitch, lanes)
        self.whole = Register(0, self.lanes, self.lanes)

    def run(self) -> None:
        """Build the loops."""
        if self.column in self.source.contiguous:
            self._copy()
        elif self.row in self.source.contiguous:
            self._transpose()
        else:
            self._gather()

    # ------------------------------------------------------------------------------- copies

    def _copy(self) -> None:
        """Row by row, in registers."""
        if self.pitch <= NARROW_PANEL * self.lanes:
            registers = self._registers()
            self._rows(lambda row, rows: self._copy_narrow(row, rows, registers))
        else:
            self._rows(self._copy_wide)

    def _rows(self, copy: Callable[[SSAValue, int], None]) -> None:
        """Loops over rows: some a turn, then one by one."""
        step = self.loops.constant(COPY_UNROLL)
        main = self.loops.sub(self.height, self.loops.rem(self.height, step))
        self._each(self.loops.constant(0), main, COPY_UNROLL, lambda r: copy(r, COPY_UNROLL))
        self._each(main, self.height, 1, lambda r: copy(r, 1))

    def _each(
        self, start: SSAValue, end: SSAValue, step: int, body: Callable[[SSAValue], None]
    ) -> None:
        def visit(index: SSAValue, _: Carried) -> Carried:
            body(index)
            return ()

        self.loops.counted(start, end, self.loops.constant(step), visit)

    def _copy_narrow(self, row: SSAValue, rows: int, registers: Sequence[Register]) -> None:
        """Rows of a few registers each."""
        zero = self.loops.constant(0)
        source, panel = self._source_at(row, zero), self._panel_at(row, zero)
        ahead = source.offsets(**{self.row: ROWS_AHEAD})
        for r, register in product(range(rows), registers):
            there = source.offsets(**{self.row: r, self.column: register.offset})
            place = [a + b for a, b in zip(ahead, there, strict=True)]
            self.build.prefetch(source, place)
            value = self._load(source, register, r, register.offset)
            offsets = panel.offsets(**{self.row: r, self.column: register.offset})
            self.build.store(value, panel, self.whole, offsets)

    def _copy_wide(self, row: SSAValue, rows: int) -> None:
        """Long rows, register by register; one row at a time keeps the streams few."""
        turn = COPY_UNROLL * self.lanes
        whole = self.loops.sub(self.width, self.loops.rem(self.width, self.loops.constant(turn)))
        for r in range(rows):

            def some(column: SSAValue, r: int = r) -> None:
                source, panel = self._source_at(row, column), self._panel_at(row, column)
                for piece in range(0, turn, self.lanes):
                    value = self._load(source, self.whole, r, piece)
                    offsets = panel.offsets(**{self.row: r, self.column: piece})
                    self.build.store(value, panel, self.whole, offsets)

            def last(column: SSAValue, r: int = r) -> None:
                source, panel = self._source_at(row, column), self._panel_at(row, column)
                left = self.loops.sub(self.width, column)
                register = Register(0, self.lanes, self.lanes, left)
                value = self._load(source, register, r, 0)
                offsets = panel.offsets(**{self.row: r})
                self.build.store(value, panel, self.whole, offsets)

            self._each(self.loops.constant(0), whole, turn, some)
            self._each(whole, self.width, self.lanes, last)

    def _registers(self) -> list[Register]:
        """The registers of a row, masked where the row may end."""
        known = constant_index(self.width)
        if known is not None:
            return [
                Register(offset, self.lanes, min(self.lanes, known - offset))
                for offset in range(0, known, self.lanes)
            ]
        return [
            Register(
                offset,
                self.lanes,
                self.lanes,
                self._from(self.loops.constant(offset)),
            )
            for offset in range(0, self.pitch, self.lanes)
        ]

    def _from(self, offset: SSAValue) -> SSAValue:
        """How many elements of a row lie beyond an offset; none where it ends before."""
        if constant_index(offset) == 0:
            return self.width
        return self.loops.sub(self.loops.maximum(self.width, offset), offset)

    def _load(self, source: Access, register: Register, row: int, column: int) -> SSAValue:
        offsets = source.offsets(**{self.row: row, self.column: column})
        return self.build.load(source, register, offsets)

    # --------------------------------------------------------------------------- transposes

    def _transpose(self) -> None:
        """Tile by tile; the source is walked along its contiguous dimension."""
        lanes = self.loops.constant(self.lanes)
        whole = self.loops.sub(self.height, self.loops.rem(self.height, lanes))

        def columns(column: SSAValue) -> None:
            left = self.loops.sub(self.width, column)
            self._each(
                self.loops.constant(0),
                whole,
                self.lanes,
                lambda r: self._tile(r, column, left, None),
            )
            rest = self.loops.sub(self.height, whole)
            self._each(whole, self.height, self.lanes, lambda r: self._tile(r, column, left, rest))

        known = constant_index(self.width)
        if known is None:
            self._each(self.loops.constant(0), self.width, self.lanes, columns)
        else:
            for start in range(0, known, self.lanes):
                columns(self.loops.constant(start))

    def _tile(
        self, row: SSAValue, column: SSAValue, columns: SSAValue, rows: SSAValue | None
    ) -> None:
        """A tile at some place of the panel, of which some columns (and rows) exist."""
        source, panel = self._source_at(row, column), self._panel_at(row, column)
        have, known_rows = constant_index(columns), constant_index(rows) if rows else self.lanes
        height = self.lanes if known_rows is None else known_rows
        loaded: list[SSAValue] = []
        for number in range(self.lanes):
            if have is not None and number >= have:
                loaded.append(self.build.zero(self.element, self.lanes))
                continue
            register = Register(0, self.lanes, height)
            if have is None or known_rows is None:
                active = self._if_more(columns, number, rows or self.loops.constant(self.lanes))
                register = Register(0, self.lanes, self.lanes, active)
            loaded.append(self._load(source, register, 0, number))
        for number, value in enumerate(self.build.transpose(loaded)[:height]):
            register = self.whole
            if known_rows is None and rows is not None:
                active = self._if_more(rows, number, self.loops.constant(self.lanes))
                register = Register(0, self.lanes, self.lanes, active)
            self.build.store(value, panel, register, panel.offsets(**{self.row: number}))

    def _if_more(self, count: SSAValue, number: int, value: SSAValue) -> SSAValue:
        """`value` if `count` is more than a number, else zero."""
        if (known := constant_index(count)) is not None:
            return value if known > number else self.loops.constant(0)
        more = arith.CmpiOp(count, self.loops.constant(number), "ugt")
        chosen = arith.SelectOp(self.loops.insert(more), value, self.loops.constant(0))
        return self.loops.insert(chosen).result

    # -------------------------------------------------------------------------------- others

    def _gather(self) -> None:
        """Element by element."""
        one = Register(0, self.lanes, 1)

        def element(row: SSAValue, column: SSAValue) -> None:
            source, panel = self._source_at(row, column), self._panel_at(row, column)
            value = self.build.broadcast(source, self.lanes, source.offsets())
            self.build.store(value, panel, one, panel.offsets())

        zero = self.loops.constant(0)
        self._each(
            zero,
            self.height,
            1,
            lambda r: self._each(zero, self.width, 1, lambda c: element(r, c)),
        )

    # -------------------------------------------------------------------------------- places

    def _source_at(self, row: SSAValue, column: SSAValue) -> Access:
        """The source, moved on by some rows and columns of the panel."""
        moved = {self.row: row, self.column: column}
        indices = tuple(
            self.loops.add(index, moved[tag]) if tag in moved else index
            for index, tag in zip(self.source.indices, self.source.dims, strict=True)
        )
        return Access(self.source.memref, indices, self.source.dims)

    def _panel_at(self, row: SSAValue, column: SSAValue) -> Access:
        return Access(self.panel, (row, column), self.row + self.column)
