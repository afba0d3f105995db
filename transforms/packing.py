"""`nanokernel.pack` as registers: a panel filled piece by piece. A part of the pass `unroll`.

L being the lanes of a register, a source is read along its contiguous dimension:

- where that becomes the panel's rows, the source is copied a register at a time;
- where it becomes the panel's columns, the source is cut into tiles of L by L, loaded row by row,
  transposed in registers, and stored as L rows of the panel;
- where it is contiguous in neither direction, the source is copied element by element.

What a tile lacks at the ragged edges is masked on loading, and what lies beyond the panel's last
row is masked on storing; without masks, the one is loaded in parts (`nkdsl.transforms.registers`),
and the other is jumped over. The extents may be known only at run time.

A panel may hold groups of k. Its lanes then are groups: a source that is contiguous along the
panel's columns is copied a group of rows at a time, interleaved; one that is contiguous along k has
its groups already, and is transposed group by group. What the last group lacks becomes zero.

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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import gcd

from xdsl.dialects import arith
from xdsl.dialects.builtin import MemRefType
from xdsl.ir import SSAValue

from nkdsl.dialects.nanokernel import PackOp, panel_group
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


WORD = 4
"""Bytes of the smallest lanes that registers are transposed in: of smaller ones there are too many
in a register, and rows to hold at once."""

Existing = tuple[int, SSAValue | None]
"""How many rows of a group exist: at most so many, and how many, where that is known later."""


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
        self.group = panel_group(op.panel.type)
        self.rows = self.loops.ceildiv(self.height, self.loops.constant(self.group))
        size = max(element_type_of(self.element).size * self.group, WORD)
        self.pitch = op.panel.type.get_shape()[1]
        self.lanes = gcd(self.pitch, target.vector_bytes // size)
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
            self._rows(
                lambda row, rows, existing: self._copy_narrow(row, rows, existing, registers)
            )
        else:
            self._rows(self._copy_wide)

    def _rows(self, copy: Callable[[SSAValue, int, Existing], None]) -> None:
        """Loops over rows of the panel: some a turn, then one by one, then an incomplete group."""
        group, step = self.loops.constant(self.group), self.loops.constant(COPY_UNROLL)
        whole = self.loops.div(self.height, group)
        main = self.loops.sub(whole, self.loops.rem(whole, step))
        every = self.group, None
        self._each(self.loops.constant(0), main, COPY_UNROLL, lambda r: copy(r, COPY_UNROLL, every))
        self._each(main, whole, 1, lambda r: copy(r, 1, every))
        if self.group > 1:
            rest = self.loops.rem(self.height, group)
            known = constant_index(rest)
            if known != 0:
                existing = (known, None) if known is not None else (self.group, rest)
                self._each(whole, self.rows, 1, lambda r: copy(r, 1, existing))

    def _each(
        self, start: SSAValue, end: SSAValue, step: int, body: Callable[[SSAValue], None]
    ) -> None:
        def visit(index: SSAValue, _: Carried) -> Carried:
            body(index)
            return ()

        self.loops.counted(start, end, self.loops.constant(step), visit)

    def _copy_narrow(
        self, row: SSAValue, rows: int, existing: Existing, registers: Sequence[Register]
    ) -> None:
        """Rows of a few registers each."""
        zero = self.loops.constant(0)
        source, panel = self._source_at(row, zero), self._panel_at(row, zero)
        ahead = source.offsets(**{self.row: ROWS_AHEAD * self.group})
        for r, register in product(range(rows), registers):
            for part in range(existing[0]):
                there = source.offsets(
                    **{self.row: r * self.group + part, self.column: register.offset}
                )
                place = [a + b for a, b in zip(ahead, there, strict=True)]
                self.build.prefetch(source, place)
            value = self._load(source, register, r, existing, register.offset)
            offsets = panel.offsets(**{self.row: r, self.column: register.offset})
            self.build.store(value, panel, self.whole, offsets, self.group)

    def _copy_wide(self, row: SSAValue, rows: int, existing: Existing) -> None:
        """Long rows, register by register; one row at a time keeps the streams few."""
        turn = COPY_UNROLL * self.lanes
        whole = self.loops.sub(self.width, self.loops.rem(self.width, self.loops.constant(turn)))
        for r in range(rows):

            def some(column: SSAValue, r: int = r) -> None:
                source, panel = self._source_at(row, column), self._panel_at(row, column)
                for piece in range(0, turn, self.lanes):
                    value = self._load(source, self.whole, r, existing, piece)
                    offsets = panel.offsets(**{self.row: r, self.column: piece})
                    self.build.store(value, panel, self.whole, offsets, self.group)

            def last(column: SSAValue, r: int = r) -> None:
                source, panel = self._source_at(row, column), self._panel_at(row, column)
                left = self.loops.sub(self.width, column)
                register = Register(0, self.lanes, self.lanes, left)
                value = self._load(source, register, r, existing, 0)
                offsets = panel.offsets(**{self.row: r})
                self.build.store(value, panel, self.whole, offsets, self.group)

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

    def _load(
        self, source: Access, register: Register, row: int, existing: Existing, column: int
    ) -> SSAValue:
        """One register of a row of the panel; of a group of rows those that exist."""
        count, known_later = existing
        parts: list[SSAValue] = []
        for part in range(count):
            place = {self.row: row * self.group + part, self.column: column}
            masked = register
            if known_later is not None:
                lanes = register.run_time or self.loops.constant(register.active)
                masked = replace(register, run_time=self._if_more(known_later, part, lanes))
            parts.append(self.build.load(source, masked, source.offsets(**place)))
        while len(parts) < self.group:
            parts.append(self.build.zero(self.element, self.lanes))
        return self.build.interleaved(parts)

    # --------------------------------------------------------------------------- transposes

    def _transpose(self) -> None:
        """Tile by tile; the source is walked along its contiguous dimension."""
        deep = self.lanes * self.group
        whole = self.loops.div(self.height, self.loops.constant(deep))
        whole = self.loops.mul(whole, self.loops.constant(self.lanes))
        done = self.loops.mul(whole, self.loops.constant(self.group))

        def columns(column: SSAValue) -> None:
            left = self.loops.sub(self.width, column)
            self._each(
                self.loops.constant(0),
                whole,
                self.lanes,
                lambda r: self._tile(r, column, left, None),
            )
            rest = self.loops.sub(self.height, done)
            self._each(whole, self.rows, self.lanes, lambda r: self._tile(r, column, left, rest))

        known = constant_index(self.width)
        if known is None:
            self._each(self.loops.constant(0), self.width, self.lanes, columns)
        else:
            for start in range(0, known, self.lanes):
                columns(self.loops.constant(start))

    def _tile(
        self, row: SSAValue, column: SSAValue, columns: SSAValue, depth: SSAValue | None
    ) -> None:
        """A tile at some place of the panel, of which some columns (and elements of k) exist."""
        loops, deep = self.loops, self.lanes * self.group
        source, panel = self._source_at(row, column), self._panel_at(row, column)
        have, known = constant_index(columns), constant_index(depth) if depth else deep
        loaded: list[SSAValue] = []
        for number in range(self.lanes):
            if have is not None and number >= have:
                loaded.append(self.build.zero(self.element, deep))
                continue
            register = Register(0, deep, deep if known is None else known)
            if have is None or known is None:
                active = self._if_more(columns, number, depth or loops.constant(deep))
                register = Register(0, deep, deep, active)
            place = source.offsets(**{self.column: number})
            loaded.append(self.build.load(source, register, place))
        height = self.lanes if known is None else -(-known // self.group)
        rows = None if known is not None else loops.sub(self.rows, row)
        for number, value in enumerate(self.build.transpose(loaded, self.group)[:height]):
            place = panel.offsets(**{self.row: number})
            if rows is not None:
                self._store_if_more(rows, number, value, panel, place)
            else:
                self.build.store(value, panel, self.whole, place, self.group)

    def _store_if_more(
        self, rows: SSAValue, number: int, value: SSAValue, panel: Access, place: list[int]
    ) -> None:
        """Store a whole register if there are more rows than a number."""
        loops = self.loops
        if not self.build.in_parts(panel):
            active = self._if_more(rows, number, loops.constant(self.lanes))
            register = Register(0, self.lanes, self.lanes, active)
            self.build.store(value, panel, register, place, self.group)
            return
        loops.branch(
            loops.compare(rows, "ugt", loops.constant(number)),
            lambda: self.build.store(value, panel, self.whole, place, self.group),
            lambda: None,
        )

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
        one, group = Register(0, 1, 1), self.loops.constant(self.group)
        zero = self.loops.constant(0)

        def element(row: SSAValue, column: SSAValue) -> None:
            moved = {self.row: row, self.column: column}
            source = self._moved(moved)
            value = self.build.broadcast(source, 1, source.offsets())
            within = (self.loops.rem(row, group),) if self.group > 1 else ()
            panel = self._panel_at(self.loops.div(row, group), column, *within)
            self.build.store(value, panel, one, panel.offsets())

        def empty(row: SSAValue, column: SSAValue) -> None:
            panel = self._panel_at(row, column)
            nothing = self.build.zero(self.element, self.group)
            register = Register(0, 1, 1)
            self.build.store(nothing, panel, register, panel.offsets(), self.group)

        if self.group > 1:
            whole = self.loops.div(self.height, group)
            self._each(
                *(whole, self.rows, 1),
                lambda r: self._each(zero, self.width, 1, lambda c: empty(r, c)),
            )
        self._each(
            zero,
            self.height,
            1,
            lambda r: self._each(zero, self.width, 1, lambda c: element(r, c)),
        )

    # -------------------------------------------------------------------------------- places

    def _source_at(self, row: SSAValue, column: SSAValue) -> Access:
        """The source, moved on by some rows, of groups, and columns of the panel."""
        steps = self.loops.mul(row, self.loops.constant(self.group))
        return self._moved({self.row: steps, self.column: column})

    def _moved(self, distances: Mapping[str, SSAValue]) -> Access:
        """The source, moved on along some dimensions."""
        indices = tuple(
            self.loops.add(index, distances[tag]) if tag in distances else index
            for index, tag in zip(self.source.indices, self.source.dims, strict=True)
        )
        return Access(self.source.memref, indices, self.source.dims)

    def _panel_at(self, row: SSAValue, column: SSAValue, within: SSAValue | None = None) -> Access:
        dims = self.row + self.column
        if self.group == 1:
            return Access(self.panel, (row, column), dims)
        return Access(self.panel, (row, column, within or self.loops.constant(0)), dims + "g")
