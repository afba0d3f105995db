"""Programs that several tests build: one contraction each, written like numpy's einsum."""

from dataclasses import dataclass
from math import prod

from nkdsl.testing import ArraySpec


@dataclass(frozen=True)
class Product:
    """`C += A * B`, or `C = A * B`, on memrefs of given layouts."""

    spec: str
    """The operands' iterators, for example `mk,kn->mn`."""
    sizes: tuple[tuple[str, int], ...]
    """The extent of each iterator."""
    element: str = "f32"
    layouts: tuple[str, str, str] = ("rows", "rows", "rows")
    """For each operand `rows` (row-major), `padded` (row-major, each row followed by a hole),
    `columns` (column-major) or `spread` (row-major, each element followed by a hole)."""
    from_zero: bool = False
    """Whether the result is filled with zero first."""
    dynamic: str = ""
    """Iterators whose extent the program leaves open; strides follow suit."""

    @property
    def operands(self) -> tuple[str, str, str]:
        """The iterators of each operand."""
        lhs, rhs, out = self.spec.replace("->", ",").split(",")
        return lhs, rhs, out

    def type(self, position: int) -> str:
        """The memref type of an operand."""
        operand, spec = self.operands[position], self.like(position)
        extents = zip(operand, spec.shape, strict=True)
        text = "".join("?x" if i in self.dynamic else f"{n}x" for i, n in extents) + self.element
        if self.layouts[position] == "rows" or not operand:
            return f"memref<{text}>"
        assert spec.strides is not None
        unknown = not set(operand).isdisjoint(self.dynamic)
        strides = ["?" if unknown and stride != 1 else str(stride) for stride in spec.strides]
        return f"memref<{text}, strided<[{', '.join(strides)}]>>"

    def like(self, position: int) -> ArraySpec:
        """The layout of an operand."""
        extents = dict(self.sizes)
        shape = [extents[iterator] for iterator in self.operands[position]]
        layout = self.layouts[position]
        strides = None if layout == "rows" or not shape else tuple(self._strides(layout, shape))
        return ArraySpec(tuple(shape), self.element, strides)

    def _strides(self, layout: str, shape: list[int]) -> list[int]:
        match layout:
            case "columns":
                return [prod(shape[:d]) for d in range(len(shape))]
            case "padded":
                shape = [*shape[:-1], shape[-1] + 3]
                return [prod(shape[d + 1 :]) for d in range(len(shape))]
            case _:
                return [2 * prod(shape[d + 1 :]) for d in range(len(shape))]

    @property
    def source(self) -> str:
        """The program."""
        types = [self.type(position) for position in range(3)]
        arguments = ", ".join(f"%{name}: {t}" for name, t in zip("abc", types, strict=True))
        ins, outs = f"ins(%a, %b : {types[0]}, {types[1]})", f"outs(%c : {types[2]})"
        body = (
            f"linalg.matmul {ins} {outs}" if self.spec == "mk,kn->mn" else self._generic(ins, outs)
        )
        fill = f"""%zero = arith.constant 0.0 : {self.element}
          linalg.fill ins(%zero : {self.element}) {outs}"""
        return f"""
        func.func @product({arguments}) {{
          {fill if self.from_zero else ""}
          {body}
          func.return
        }}"""

    def _generic(self, ins: str, outs: str) -> str:
        iterators = [iterator for iterator, _ in self.sizes]
        maps = ", ".join(
            f"affine_map<({', '.join(iterators)}) -> ({', '.join(operand)})>"
            for operand in self.operands
        )
        kinds = ", ".join(
            '"parallel"' if iterator in self.operands[2] else '"reduction"'
            for iterator in iterators
        )
        t = self.element
        return f"""linalg.generic {{indexing_maps = [{maps}], iterator_types = [{kinds}]}}
              {ins} {outs} {{
            ^bb0(%x: {t}, %y: {t}, %z: {t}):
              %p = arith.mulf %x, %y : {t}
              %s = arith.addf %z, %p : {t}
              linalg.yield %s : {t}
            }}"""
