"""`plan{target=…}`: give every `nanokernel.gemm` its plan.

The planner's model chooses (`nkdsl.planner`); a plan that is already written on an op is obeyed,
or refused with the bound that it breaks. Functions are marked with the target, which all later
passes read; those without a product, too, so that they take their arguments as the others do.

```mlir
nanokernel.gemm ins(...) outs(...)
// becomes
nanokernel.gemm ins(...) outs(...) plan #nanokernel.plan<target = "znver5",
    instruction = "fma.f32x16", block = 8x48, lanes = n, edges = even, k_unroll = 4, ...>
```

Options: `target`, a known target's name or `host`; `threads`, how many may share a product;
`block`, `k-unroll` and `prefetch` override the model's choice for every gemm without a written
plan.
"""

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import DYNAMIC_INDEX, MemRefType, ModuleOp, StringAttr
from xdsl.ir import Operation
from xdsl.passes import ModulePass
from xdsl.utils.arg_spec import ParameterListType, ParameterType
from xdsl.utils.exceptions import DiagnosticException

from nkdsl.diagnostics import refuse
from nkdsl.dialects.nanokernel import TARGET_ATTRIBUTE, GemmOp, PlanAttr
from nkdsl.errors import NkdslError, Unsupported
from nkdsl.layout import layout_of
from nkdsl.planner import analyse, check_plan, find_plan
from nkdsl.targets import get_target
from nkdsl.targets.model import Target


def plan_gemm(
    op: GemmOp, target: Target, overrides: dict[str, object], threads: int = 1
) -> PlanAttr:
    """The plan of one gemm; raises `Unsupported` with the reason where there is none."""
    for operand in op.memrefs:
        assert isinstance(operand.type, MemRefType)
        static = DYNAMIC_INDEX not in operand.type.get_shape()
        if static and None not in (operand.type.get_strides() or ()):
            layout_of(operand.type)
    problem = analyse(op)
    if op.plan is None:
        plan = find_plan(problem, target, threads).with_entries(**overrides)
    else:
        plan = op.plan
        if plan.target.data != target.name:
            raise Unsupported(
                f"the plan is for target '{plan.target.data}', not '{target.name}'; "
                "plan for that target or remove the plan"
            )
    check_plan(problem, target, plan)
    return plan


def _parse_block(option: ParameterType | ParameterListType) -> tuple[int, int]:
    text = ",".join(map(str, option)) if isinstance(option, tuple) else str(option)
    rows, separator, columns = text.partition("x")
    if not (separator and rows.isdigit() and columns.isdigit()):
        raise DiagnosticException(f"plan: block is written as 8x48, not '{text}'")
    return int(rows), int(columns)


@dataclass(frozen=True)
class PlanPass(ModulePass):
    """Choose block, loop order, unrolling and packing of every product for a target."""

    name = "plan"

    target: str = "host"
    block: ParameterType | ParameterListType | None = None
    """As 8x48. Anything else is let in by its type, to be refused in words that say how."""
    k_unroll: int | None = None
    prefetch: int | None = None
    threads: int = 1

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Write the plans in place."""
        try:
            target = get_target(self.target)
        except NkdslError as error:
            raise DiagnosticException(f"plan: {error}") from error
        overrides: dict[str, object] = {
            key: value
            for key, value in (("k_unroll", self.k_unroll), ("prefetch", self.prefetch))
            if value is not None
        }
        if self.block is not None:
            overrides["block"] = _parse_block(self.block)
        for gemm in [o for o in op.walk() if isinstance(o, GemmOp)]:
            try:
                gemm.properties["plan"] = plan_gemm(gemm, target, overrides, self.threads)
            except Unsupported as error:
                refuse(gemm, f"{gemm.name} can't be planned: {error}")
            _mark(gemm, target)
        for function in [o for o in op.walk() if isinstance(o, func.FuncOp)]:
            if not function.is_declaration:
                function.attributes.setdefault(TARGET_ATTRIBUTE, StringAttr(target.name))


def _mark(op: Operation, target: Target) -> None:
    """Write the target on the function around `op`."""
    parent = op.parent_op()
    while parent is not None and not isinstance(parent, func.FuncOp):
        parent = parent.parent_op()
    if parent is None:
        refuse(op, "a product must stand in a function")
    known = parent.attributes.setdefault(TARGET_ATTRIBUTE, StringAttr(target.name))
    if known != StringAttr(target.name):
        refuse(op, f"its function is already planned for target {known}")
