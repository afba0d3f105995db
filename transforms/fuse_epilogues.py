"""`fuse-epilogues`: what is done to a product's result, done while it is stored.

Elementwise linalg operations on the result of a `nanokernel.gemm` become its epilogue, one after
the other: biases, residuals, scales, activations, conversions of types. The memory between two of
them disappears with the traffic to it.

```mlir
nanokernel.gemm ins(%a[m, k], %b[k, n] : ...) outs(%t[m, n] : memref<64x96xf32>) from zero
linalg.generic {...} ins(%t, %bias : memref<64x96xf32>, memref<96xf32>)
    outs(%c : memref<64x96xbf16>) {
^bb0(%sum: f32, %b_n: f32, %old: bf16):
  %biased = arith.addf %sum, %b_n : f32
  %rounded = arith.truncf %biased : f32 to bf16
  linalg.yield %rounded : bf16
}
// becomes
nanokernel.gemm ins(%a[m, k], %b[k, n] : ...) outs(%c[m, n] : memref<64x96xbf16>) from zero
    epilogue(%bias[n] : memref<96xf32>) {
^bb0(%sum: f32, %b_n: f32):
  %biased = arith.addf %sum, %b_n : f32
  %rounded = arith.truncf %biased : f32 to bf16
  nanokernel.yield %rounded : bf16
}
```

So does what writes a product's first value, where that isn't zero: a fill, a bias broadcast into
the result, a copy of another matrix. The gemm then starts from zero and its epilogue adds that
value. For floats this is another order of additions, with the same bound of the error: the value
comes last instead of first.

Apart from that, results are the same to the bit. A result of bf16 that is read by the next
operation is rounded to bf16 in the epilogue too; arithmetic on narrow floats is then rewritten into
f32 (see `narrow_floats`). An operation that can't be fused stays where it is, and the product as
well: it needs what its output held before, operations in between touch what it works on, it isn't
written in terms of one element each, it reads a matrix across the result's rows, or the product is
used again.

Imports: our dialects and transforms, xDSL.
"""

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import arith, memref
from xdsl.dialects.builtin import AnyFloat, MemRefType, ModuleOp, UnitAttr
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.ir.affine import AffineConstantExpr, AffineDimExpr, AffineExpr, AffineMap
from xdsl.passes import ModulePass

from nkdsl.dialects.nanokernel import GemmOp, YieldOp
from nkdsl.errors import Unsupported
from nkdsl.transforms.effects import (
    Allocation,
    covers,
    is_dead_after,
    may_overlap,
    operations_after,
    touches,
    writes,
)
from nkdsl.transforms.elementwise import Elementwise, recognize_elementwise
from nkdsl.transforms.narrow_floats import compute_in_f32
from nkdsl.types import element_type_of


@dataclass(frozen=True)
class Extra:
    """An operand of an epilogue and its map onto the gemm's iterators."""

    value: SSAValue
    map: AffineMap


@dataclass(frozen=True)
class Reading:
    """An elementwise operation, seen from the iterators of a gemm whose result it works on."""

    op: Elementwise
    maps: tuple[AffineMap, ...]
    """The maps of its inputs and its output onto the gemm's iterators."""

    def extras(self, held: Container[SSAValue] = ()) -> tuple[Extra, ...]:
        """The memrefs it reads but those `held`, which the gemm computes itself."""
        return tuple(
            Extra(value, map_)
            for value, map_ in zip(self.op.inputs, self.maps[:-1], strict=True)
            if isinstance(value.type, MemRefType) and value not in held
        )


# -------------------------------------------------------------------------------------- analyse


def _element(value: SSAValue) -> Attribute:
    assert isinstance(value.type, MemRefType)
    element: Attribute = value.type.element_type
    return element


def _is_known(value: SSAValue) -> bool:
    """Whether nkdsl computes with what a memref holds; what is no memref is."""
    if not isinstance(value.type, MemRefType):
        return True
    try:
        element_type_of(value.type.element_type)
    except Unsupported:
        return False
    return True


def _extras_of(op: GemmOp) -> list[Extra]:
    """What the epilogue of a gemm reads."""
    pairs = zip(op.extras, op.indexing_maps[3:], strict=True)
    return [Extra(value, map_) for value, map_ in pairs]


def _is_plain(op: GemmOp) -> bool:
    """Whether a gemm is a product as raised, which no plan, scale or flag says more about."""
    if not _is_known(op.lhs):
        return False
    more = (op.plan, op.first, op.alpha, op.kept, op.panel)
    return all(item is None for item in more) and covers(op.indexing_maps[2])


def _seen_from(
    gemm: GemmOp, op: Elementwise, accesses: Sequence[tuple[AffineMap, AffineMap]]
) -> Reading | None:
    """An operation in terms of the gemm's iterators.

    `accesses` are to what the gemm computes: their maps in the operation, and onto the gemm's
    iterators. None where they don't fit together, or other operands can't be read so.
    """
    first, onto = accesses[0]
    if not covers(first) or len(first.results) != first.num_dims:
        return None
    if not all(map(_is_known, (*op.inputs, op.out))):
        return None
    dims = [AffineExpr.dimension(0)] * first.num_dims
    for index, iterator in zip(first.results, onto.results, strict=True):
        assert isinstance(index, AffineDimExpr)
        dims[index.position] = iterator

    def seen(map_: AffineMap) -> AffineMap:
        return map_.replace_dims_and_symbols(dims, (), onto.num_dims, 0)

    if any(seen(map_) != wanted for map_, wanted in accesses):
        return None
    reading = Reading(op, tuple(map(seen, op.maps)))
    return reading if all(map(_is_readable, reading.maps)) else None


def _is_readable(map_: AffineMap) -> bool:
    """Whether each index is an iterator, or zero: a dimension of size one."""
    return all(
        isinstance(index, AffineDimExpr)
        or (isinstance(index, AffineConstantExpr) and index.value == 0)
        for index in map_.results
    )


def _walk_together(extras: Iterable[Extra], out: SSAValue, out_map: AffineMap) -> bool:
    """Whether operands are contiguous along the dimension in which the result is.

    Registers lie along that one; operands that don't depend on it are broadcast.
    """
    lanes = {index for index, stride in _strided(out, out_map) if stride == 1}
    return all(
        stride == 1
        for extra in extras
        for index, stride in _strided(extra.value, extra.map)
        if index in lanes
    )


def _strided(value: SSAValue, map_: AffineMap) -> Iterator[tuple[AffineExpr, int | None]]:
    """The index of each dimension of more than one element, and its stride; None if unknown."""
    assert isinstance(value.type, MemRefType)
    strides = value.type.get_strides() or [None] * len(map_.results)
    for index, stride, size in zip(map_.results, strides, value.type.get_shape(), strict=True):
        if size != 1:
            yield index, stride


def _first_value(gemm: GemmOp) -> Reading | None:
    """What writes the value that a gemm adds to, if the gemm can add it itself."""
    if gemm.from_zero is not None or gemm.epilogue is not None:
        return None
    between: list[Operation] = []
    previous = gemm.prev_op
    while previous is not None and not touches(previous, gemm.out):
        between.append(previous)
        previous = previous.prev_op
    op = None if previous is None else recognize_elementwise(previous)
    if op is None or op.out is not gemm.out or op.reads_out or not op.is_fusible:
        return None
    reading = _seen_from(gemm, op, [(op.out_map, gemm.indexing_maps[2])])
    if reading is None or any(may_overlap(e.value, gemm.out) for e in reading.extras()):
        return None
    if not _walk_together(reading.extras(), gemm.out, gemm.indexing_maps[2]):
        return None
    changed = any(writes(o, e.value) for o in between for e in reading.extras())
    return None if changed else reading


def _consumers(gemm: GemmOp) -> tuple[Reading, ...]:
    """The next operations on a gemm's result, if the gemm can do them itself.

    As few as possible: after the last, the result of all is in one memref, and nothing needs what
    was in others.
    """
    held = {gemm.out: gemm.indexing_maps[2]}
    readings: list[Reading] = []
    between: list[Operation] = []
    for later in operations_after(gemm):
        if not any(touches(later, value) for value in held):
            between.append(later)
            continue
        reading = _reading(gemm, later, held)
        if reading is None:
            return ()
        readings.append(reading)
        held[reading.op.out] = reading.maps[-1]
        if _is_settled(gemm, readings, held, between):
            return tuple(readings)
    return ()


def _reading(gemm: GemmOp, later: Operation, held: Mapping[SSAValue, AffineMap]) -> Reading | None:
    """An operation on what the gemm computes, which is `held` in some memrefs."""
    op = recognize_elementwise(later)
    if op is None or not op.is_fusible or (op.reads_out and op.out not in held):
        return None
    inputs = zip(op.inputs, op.maps, strict=False)
    accesses = [(map_, held[value]) for value, map_ in inputs if value in held]
    if not accesses and not op.reads_out:
        return None
    if op.out in held:
        accesses.append((op.out_map, held[op.out]))
    return _seen_from(gemm, op, accesses)


def _is_settled(
    gemm: GemmOp,
    readings: Sequence[Reading],
    held: Collection[SSAValue],
    between: Sequence[Operation],
) -> bool:
    """Whether a gemm can do some operations in the place of the last, and write its output."""
    last = readings[-1].op
    more = [extra for reading in readings for extra in reading.extras(held)]
    extras = [extra.value for extra in more]
    inputs = (gemm.lhs, gemm.rhs, *gemm.extras, *extras)
    return (
        _walk_together([*_extras_of(gemm), *more], last.out, readings[-1].maps[-1])
        and (last.out is gemm.out or gemm.from_zero is not None)
        and not any(may_overlap(value, last.out) for value in inputs)
        and not any(may_overlap(value, other) for value in extras for other in held)
        and not any(writes(op, value) for value in inputs for op in between)
        and all(value is last.out or is_dead_after(value, last.op) for value in held)
    )


# ---------------------------------------------------------------------------------------- build


class Epilogue:
    """The epilogue of a gemm to be, one operation after the other."""

    def __init__(self, gemm: GemmOp):
        """Begin with the epilogue that `gemm` has."""
        self.extras = _extras_of(gemm)
        if gemm.epilogue is not None:
            self.region = gemm.epilogue.clone()
            self.block = self.region.block
            last = self.block.last_op
            assert last is not None
            self.value = last.operands[0]
            last.detach()
            last.erase()
            return
        self.block = Block(arg_types=[gemm.accumulator])
        self.region = Region(self.block)
        self.value = self.block.args[0]

    def add(self, op: Operation) -> SSAValue:
        """Append an operation; its result."""
        self.block.add_op(op)
        (result,) = op.results
        return result

    def round_to(self, element: Attribute) -> None:
        """Round the value to the type that it was stored as in between."""
        if self.value.type != element:
            self.value = self.add(arith.TruncFOp(self.value, element))

    def element(self, extra: Extra) -> SSAValue:
        """The element of an operand."""
        if extra not in self.extras:
            self.block.insert_arg(_element(extra.value), len(self.block.args))
            self.extras.append(extra)
        return self.block.args[1 + self.extras.index(extra)]

    def apply(self, reading: Reading, held: Mapping[SSAValue, SSAValue]) -> SSAValue:
        """Compute what an operation does, with elements of memrefs that are `held`; the result."""
        op = reading.op
        known: dict[SSAValue, SSAValue] = {}
        if op.out in held:
            known[op.body.args[-1]] = held[op.out]
        for argument, value, map_ in zip(op.arguments, op.inputs, reading.maps, strict=False):
            if value in held:
                known[argument] = held[value]
            elif isinstance(value.type, MemRefType):
                known[argument] = self.element(Extra(value, map_))
            else:
                known[argument] = self._scalar(value)
        *body, _ = op.body.ops
        for each in body:
            for operand in each.operands:
                if operand not in known:
                    known[operand] = self._scalar(operand)
            self.block.add_op(each.clone(known))
        return known[op.result] if op.result in known else self._scalar(op.result)

    def _scalar(self, value: SSAValue) -> SSAValue:
        """A number from outside; constants are taken along."""
        if isinstance(value.owner, arith.ConstantOp):
            return self.add(value.owner.clone())
        return value

    def gemm(self, old: GemmOp, out: SSAValue, out_map: AffineMap) -> GemmOp:
        """The gemm with this epilogue and another output; it starts as `old` does."""
        self.block.add_op(YieldOp(self.value))
        new = GemmOp(
            old.lhs,
            old.rhs,
            out,
            [*old.indexing_maps[:2], out_map, *(extra.map for extra in self.extras)],
            unsigned=None if old.unsigned is None else old.unsigned.data,
            extras=[extra.value for extra in self.extras],
            from_zero=old.from_zero is not None,
            start=old.started,
            epilogue=self.region,
        )
        new.location = old.location
        new.attributes |= old.attributes
        return new


def _start_from_zero(gemm: GemmOp, first: Reading) -> GemmOp:
    """The gemm that starts from zero and adds its first value last."""
    epilogue = Epilogue(gemm)
    sums = gemm.accumulator
    value = epilogue.apply(first, {})
    if value.type != sums:
        value = epilogue.add(arith.ExtFOp(value, sums))
    add = arith.AddfOp if isinstance(sums, AnyFloat) else arith.AddiOp
    epilogue.value = epilogue.add(add(epilogue.value, value))
    epilogue.round_to(_element(gemm.out))
    new = epilogue.gemm(gemm, gemm.out, gemm.indexing_maps[2])
    new.from_zero = UnitAttr()
    _replace(gemm, new, at=gemm)
    _erase(first.op.op)
    return new


def _fuse(gemm: GemmOp, consumers: Sequence[Reading]) -> GemmOp:
    """The gemm that does what operations after it did; it stands in the place of the last."""
    epilogue = Epilogue(gemm)
    epilogue.round_to(_element(gemm.out))
    held = {gemm.out: epilogue.value}
    for consumer in consumers:
        held[consumer.op.out] = epilogue.apply(consumer, held)
    last = consumers[-1]
    epilogue.value = held[last.op.out]
    new = epilogue.gemm(gemm, last.op.out, last.maps[-1])
    _replace(gemm, new, at=last.op.op)
    for consumer in consumers:
        _erase(consumer.op.op)
    return new


def _replace(gemm: GemmOp, new: GemmOp, at: Operation) -> None:
    assert at.parent is not None
    at.parent.insert_op_before(new, at)
    _erase(gemm)


def _erase(op: Operation) -> None:
    op.detach()
    op.erase()


def fuse(gemm: GemmOp) -> None:
    """Fuse everything around a gemm that can be."""
    if not _is_plain(gemm):
        return
    if (first := _first_value(gemm)) is not None:
        gemm = _start_from_zero(gemm, first)
    while consumers := _consumers(gemm):
        gemm = _fuse(gemm, consumers)
    if gemm.epilogue is not None:
        compute_in_f32(gemm.epilogue.block)


def _erase_unused(allocations: Sequence[Operation]) -> None:
    """Erase memory that is only freed."""
    for op in allocations:
        users = [use.operation for use in op.results[0].uses]
        if all(isinstance(user, memref.DeallocOp) for user in users):
            for each in (*users, op):
                _erase(each)


@dataclass(frozen=True)
class FuseEpiloguesPass(ModulePass):
    """Make elementwise operations on the results of products their epilogues."""

    name = "fuse-epilogues"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite the module in place."""
        for gemm in [o for o in op.walk() if isinstance(o, GemmOp)]:
            fuse(gemm)
        _erase_unused([o for o in op.walk() if isinstance(o, Allocation)])
