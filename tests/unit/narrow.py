"""Programs of products of bf16, f16 and 8-bit integers, with what may follow them, and operands."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np

from nkdsl.targets import get_target
from nkdsl.testing import ArraySpec, Like, plain
from nkdsl.types import element_type

FACTORS = (
    ("bf16", "bf16"),
    ("f16", "f16"),
    ("u8", "s8"),
    ("s8", "u8"),
    ("s8", "s8"),
    ("u8", "u8"),
)

LAYOUTS = ("rows", "padded", "columns")
FACTOR_LAYOUTS = (*LAYOUTS, "spread")
"""A result must be contiguous in one direction; factors need not."""

EPILOGUES = {
    "bias along n": ("n", "%y = arith.addf %x, %z : f32"),
    "bias along m": ("m", "%y = arith.addf %x, %z : f32"),
    "residual": ("mn", "%y = arith.addf %x, %z : f32"),
    "scale": ("", "%y = arith.mulf %x, %z : f32"),
    "relu": (None, "%zero = arith.constant 0.0 : f32\n%y = arith.maximumf %x, %zero : f32"),
    "gelu": (
        None,
        """%half = arith.constant 0.5 : f32
        %root = arith.constant 0.70710678 : f32
        %one = arith.constant 1.0 : f32
        %scaled = arith.mulf %x, %root : f32
        %erf = math.erf %scaled : f32
        %more = arith.addf %erf, %one : f32
        %part = arith.mulf %x, %half : f32
        %y = arith.mulf %part, %more : f32""",
    ),
}
"""The iterators of a further operand of f32, and what becomes of the sum %x."""

SATURATED = {"s8": (-128, 127, "fptosi"), "u8": (0, 255, "fptoui")}
"""The numbers that a type holds, and the conversion to it."""

OUTER = {
    "": ("mk", "kn", "mn"),
    "batch": ("bmk", "bkn", "bmn"),
    "reduce": ("bmk", "bkn", "mn"),
}
"""The iterators of the operands of one product, of a batch of them, and of the sum of a batch."""


@dataclass(frozen=True)
class NarrowProduct:
    """One product of a narrow type."""

    factors: tuple[str, str]
    m: int
    n: int
    k: int
    result: str
    """Element type of the result: that of the sums, of the factors if these are floats, or any
    with an epilogue."""
    layouts: tuple[str, str, str] = ("rows", "rows", "rows")
    """For each operand `rows`, `padded` (each row followed by a hole), `columns` or `spread` (each
    element followed by one); for rhs also `groups`, of as many steps as four bytes hold."""
    from_zero: bool = False
    epilogue: str | None = None
    dynamic: str = ""
    """Iterators whose extent the program leaves open; strides follow suit."""
    plan: dict[str, object] = field(default_factory=dict)
    """Entries of a written plan."""
    target: str = "znver4"
    """What a written plan is for."""
    outer: str = ""
    """A key of `OUTER`."""
    b: int = 2
    """Products in a batch."""

    @cached_property
    def group(self) -> int:
        """Steps of k in four bytes."""
        return 4 // element_type(self.factors[0]).size

    @property
    def extra(self) -> str | None:
        """The iterators of the epilogue's further operand, if it has one."""
        return None if self.epilogue is None else EPILOGUES[self.epilogue][0]

    @property
    def operands(self) -> list[tuple[str, str, str]]:
        """Iterators, element type and layout of each operand."""
        elements = (*self.factors, self.result)
        found = list(zip(OUTER[self.outer], elements, self.layouts, strict=True))
        return found if self.extra is None else [*found, (self.extra, "f32", "rows")]

    def like(self) -> list[Like]:
        """The arrays of a call."""
        return [self._spec(*operand) for operand in self.operands]

    def arrays(
        self, seed: int, place: Callable[[ArraySpec], np.ndarray] = plain
    ) -> list[np.ndarray]:
        """Random operands: integers of the types' whole range, sums a little away from zero."""
        rng, found = np.random.default_rng(seed), []
        for operand in self.operands:
            spec = self._spec(*operand)
            array = place(spec)
            array[...] = random_numbers(rng, spec)
            found.append(array)
        return found

    def _spec(self, iterators: str, element: str, layout: str) -> ArraySpec:
        shape = tuple(getattr(self, i) for i in iterators)
        if layout == "rows":
            return ArraySpec(shape, element)
        *outer, rows, columns = shape
        match layout:
            case "groups":
                groups = (*outer, -(-rows // self.group), columns, self.group)
                return ArraySpec(groups, element)
            case "columns":
                strides, size = (1, max(1, rows)), rows * columns
            case "padded":
                strides, size = (columns + 3, 1), rows * (columns + 3)
            case _:
                strides, size = (2 * max(1, columns), 2), 2 * rows * columns
        steps = (max(1, size) * prod(outer[d + 1 :]) for d in range(len(outer)))
        return ArraySpec(shape, element, (*steps, *strides))

    def _type(self, iterators: str, element: str, layout: str) -> str:
        spec = self._spec(iterators, element, layout)
        open_ = [i in self.dynamic for i in iterators] + [False]
        shape = "".join(
            "?x" if unknown else f"{n}x" for n, unknown in zip(spec.shape, open_, strict=False)
        )
        name = element.replace("s8", "i8").replace("u8", "i8").replace("s32", "i32")
        if spec.strides is None:
            return f"memref<{shape}{name}>"
        strides = ("?" if any(open_) and s > 2 else str(s) for s in spec.strides)
        return f"memref<{shape}{name}, strided<[{', '.join(strides)}]>>"

    @property
    def source(self) -> str:
        """The program."""
        types = [self._type(*operand) for operand in self.operands]
        marks = ["", "", " {nanokernel.unsigned}" if self.result == "u8" else "", ""]
        arguments = ", ".join(
            f"%{name}: {t}{mark}" for name, t, mark in zip("abce", types, marks, strict=False)
        )
        unsigned = [role for role, f in zip(("lhs", "rhs"), self.factors, strict=True) if f == "u8"]
        word = f"unsigned {'both' if len(unsigned) == 2 else unsigned[0]}" if unsigned else ""
        lhs, rhs, out = self._indices
        return f"""
        func.func @product({arguments}) {{
          nanokernel.gemm ins(%a[{lhs}], %b[{rhs}] : {types[0]}, {types[1]}) {word}
            outs(%c[{out}] : {types[2]}) {"from zero" if self.from_zero else ""} {self._plan}
            {self._region(types)}
          func.return
        }}"""

    @property
    def _indices(self) -> tuple[str, str, str]:
        """The maps of the operands."""
        outer, k = {"": ("", "k"), "batch": ("b, ", "k"), "reduce": ("k0, ", "k1")}[self.outer]
        rhs = f"{k}, n"
        if self.layouts[1] == "groups":
            rhs = f"{k} floordiv {self.group}, n, {k} mod {self.group}"
        return f"{outer}m, {k}", f"{outer}{rhs}", f"{outer if self.outer == 'batch' else ''}m, n"

    @property
    def _plan(self) -> str:
        if not self.plan:
            return ""
        instruction = get_target(self.target).instruction_for(*map(element_type, self.factors))
        entries = {
            "target": f'"{self.target}"',
            "instruction": f'"{instruction.name}"',
            **self.plan,
        }
        return f"plan #nanokernel.plan<{', '.join(f'{k} = {v}' for k, v in entries.items())}>"

    def _region(self, types: list[str]) -> str:
        if self.epilogue is None:
            return ""
        sums = element_type(self.factors[0]).sums.replace("s32", "i32")
        taken = f"(%e[{', '.join(self.extra)}] : {types[3]})" if self.extra is not None else ""
        argument = ", %z: f32" if self.extra is not None else ""
        start = "%x = arith.sitofp %sum : i32 to f32\n" if sums == "i32" else ""
        first = "%sum" if sums == "i32" else "%x"
        return f"""epilogue{taken} {{
            ^bb0({first}: {sums}{argument}):
              {start}{EPILOGUES[self.epilogue][1]}
              {self._converted}
            }}"""

    @property
    def _converted(self) -> str:
        """The last operations of an epilogue: %y in the type of the result."""
        if self.result == "f32":
            return "nanokernel.yield %y : f32"
        if self.result not in SATURATED:
            return f"""%r = arith.truncf %y : f32 to {self.result}
              nanokernel.yield %r : {self.result}"""
        low, high, conversion = SATURATED[self.result]
        return f"""%low = arith.constant {low}.0 : f32
              %high = arith.constant {high}.0 : f32
              %most = arith.minimumf %y, %high : f32
              %least = arith.maximumf %most, %low : f32
              %r = arith.{conversion} %least : f32 to i8
              nanokernel.yield %r : i8"""


def random_numbers(rng: np.random.Generator, spec: ArraySpec) -> np.ndarray:
    """Numbers of a shape and type, those of 8 bits from all of their range."""
    dtype = element_type(spec.element).dtype
    match spec.element:
        case "s8" | "u8" | "s32":
            low, high = {"s8": (-128, 127), "u8": (0, 255), "s32": (-(2**15), 2**15)}[spec.element]
            return rng.integers(low, high, spec.shape, endpoint=True).astype(dtype)
        case _:
            return np.asarray(rng.standard_normal(spec.shape).astype(dtype))
