"""What was planned for a product and why, as text: block, registers, edges, cycles.

In: a module at the linalg level (or the nanokernel level, with or without plans) and a target.
Out: one section a product, every number taken from the planner's own functions; nothing is
computed twice in two ways. `explain_module` is what `Kernel.explain` and `nkdsl explain` print.

    print(explain_module(load("examples/matmul_512.mlir", context), get_target("znver5")))

Modules: `product` (what is explained, and its rows of text), `vectors`, `tiles` and
`outer_products` (plans by what accumulates), `others` (the plans that came next).
"""

from collections.abc import Iterator

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from nkdsl.dialects.nanokernel import GemmOp, iterator_names
from nkdsl.explain import outer_products, tiles, vectors
from nkdsl.explain.others import other_rows
from nkdsl.explain.product import Explained, quantity, row, wrapped
from nkdsl.frontend import make_context
from nkdsl.pipeline import lower
from nkdsl.planner import Problem
from nkdsl.planner.problem import SCALES
from nkdsl.targets import use_target
from nkdsl.targets.model import Target, TileInstruction


def explain_module(
    module: ModuleOp, target: Target, context: Context | None = None, threads: int = 1
) -> str:
    """Plan every product of a program and explain the plans.

    Args:
        module: a program at the linalg or nanokernel level; it is not changed.
        target: what to plan for.
        context: where dialects come from; a fresh one by default.
        threads: how many may share a product.

    Returns:
        Text, one section a product.

    Raises:
        DiagnosticException: where an operation can't be raised or planned.
    """
    planned = module.clone()
    lower(planned, context or make_context(), target, end="nanokernel", threads=threads)
    products = [op for op in planned.walk() if isinstance(op, GemmOp)]
    if not products:
        return "there is no product to explain\n"
    with use_target(target):
        return "\n".join("\n".join(_section(Explained.of(op))) + "\n" for op in products)


def _section(e: Explained) -> Iterator[str]:
    yield from _problem(e)
    if not e.cost.calls:
        yield row("plan", "nothing to compute: the result is empty")
        return
    yield from _planned(e)
    yield ""
    yield from _prediction(e)
    yield from other_rows(e)


def _planned(e: Explained) -> Iterator[str]:
    """What is to be said of a plan of its kind."""
    match e.instruction:
        case TileInstruction(scalable=True):
            return outer_products.sections(e)
        case TileInstruction():
            return tiles.sections(e)
        case _:
            return vectors.sections(e)


def _problem(e: Explained) -> Iterator[str]:
    p, names = e.problem, iterator_names(e.problem.kinds)
    sizes = ", ".join(
        f"{name} = {'?' if position in p.dynamic else p.sizes[position]}"
        for position, name in enumerate(names)
    )
    sign = "=" if p.from_zero else "+="
    yield row("product", f"C {sign} A·B in @{_function_name(e.op)}: {sizes}")
    what = "operations" if p.accumulator.is_integer else "floating-point operations"
    yield row("", f"{_types(p)}, {quantity(p.flops)}{what}")
    if p.dynamic:
        yield row("", f"sizes known at run time; what follows is for {SCALES[-1]}")
    for letter, operand in (("A", p.lhs), ("B", p.rhs), ("C", p.out)):
        used = [(n, s) for n, s in zip(names, operand.strides, strict=True) if s]
        strides = ", ".join(f"{n} {s}" for n, s in used)
        yield row(letter, f"strides in elements: {strides or 'none'}")
    yield from wrapped("target", f"{e.target.name}: {e.target.description}")


def _types(p: Problem) -> str:
    """`u8·s8 added up in s32, stored as u8`; a type alone where there is no other."""
    if p.accumulator == p.operand == p.result:
        return p.operand.name
    factors = f"{p.operand.name}·{p.other.name}"
    stored = "" if p.result == p.accumulator else f", stored as {p.result.name}"
    return f"{factors} added up in {p.accumulator.name}{stored}"


def _function_name(op: Operation) -> str:
    parent = op.parent_op()
    while parent is not None and not isinstance(parent, func.FuncOp):
        parent = parent.parent_op()
    return parent.sym_name.data if parent is not None else "?"


def _prediction(e: Explained) -> Iterator[str]:
    cycles = e.cost.cycles
    yield row(
        "predicted",
        f"{cycles:.0f} cycles, {e.cost.share_of_peak:.1%} of peak: "
        f"{e.problem.flops / cycles if cycles else 0:.1f} of {e.peak:g} operations a cycle",
    )
    if e.problem.dynamic:
        smallest, *_, largest = SCALES
        of = f"of {e.instruction.name}'s plans"
        yield row("", f"({of} the best on average over sizes from {smallest} to {largest})")
