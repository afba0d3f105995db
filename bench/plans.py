"""The planner's candidates for a row, each as a kernel of its own.

`ours` asks the compiler for its best kernel and learns nothing else. Here its planner is asked for
everything that it compared, with what it predicted, and each plan is compiled in turn: the row is
lowered once to the nanokernel level, and the plan is written on its gemm.

    nanokernel.gemm ins(%a[m, k], %b[k, n] : …) outs(%c[m, n] : …) plan #nanokernel.plan<block = …>
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp

import nkdsl
from nkdsl.bench.ours import bind, mlir_text
from nkdsl.bench.peers.base import Unable
from nkdsl.bench.problem import Problem, Row
from nkdsl.bench.timing import NativeContender
from nkdsl.dialects.nanokernel import GemmOp, PlanAttr
from nkdsl.frontend import load, make_context
from nkdsl.pipeline import lower
from nkdsl.planner import analyse
from nkdsl.planner.cost import block_runs
from nkdsl.planner.search import candidates, cost_of
from nkdsl.targets.model import Target


@dataclass(frozen=True)
class Candidate:
    """A plan that the planner compared."""

    rank: int
    """Its place in the model's order; 1 is the model's choice."""
    plan: PlanAttr
    predicted: float
    """Share of the peak."""

    @property
    def label(self) -> str:
        """What tells it from the others of its row."""
        plan = self.plan
        rows, columns = plan.block
        label = f"{rows}x{columns} by {plan.instruction.data}, {plan.lanes.data} in lanes"
        label += f", {plan.resident.data} resident"
        if plan.pack.data != "none":
            label += f", {plan.pack.data} packed"
        blocks = {"m": plan.m_block.data, "n": plan.n_block.data, "k": plan.k_block.data}
        return label + "".join(f", {kind} by {size}" for kind, size in blocks.items() if size)


@dataclass(frozen=True)
class Planned:
    """A row at the nanokernel level, and everything that its planner compared."""

    module: ModuleOp
    target: Target
    candidates: tuple[Candidate, ...]
    """Best first; of plans that cover the product alike only the best."""

    def compile(self, candidate: Candidate, problem: Problem) -> NativeContender:
        """The candidate's kernel on a problem's operands, checked once.

        Raises:
            Unable: the compiler refuses the plan, compiles another, or its kernel is wrong.
        """
        module = self.module.clone()
        _gemm(module).properties["plan"] = candidate.plan
        try:
            kernel = nkdsl.compile(module, self.target)
        # Whatever goes wrong with one plan is that plan's result; the rest of the run goes on.
        except Exception as error:
            raise Unable(f"{type(error).__name__}: {error}") from error
        if kernel.plan != str(candidate.plan):
            raise Unable(f"another plan was compiled: {kernel.plan}")
        return bind(kernel, problem, candidate.label)


def plan_row(row: Row, dtype: str, target: Target) -> Planned:
    """Ask the planner about a row.

    Raises:
        Unsupported: the target cannot serve it.
    """
    context = make_context()
    module = load(mlir_text(row, dtype), context)
    lower(module, context, target, end="nanokernel")
    return Planned(module, target, tuple(_ranked(_gemm(module), target)))


def _ranked(gemm: GemmOp, target: Target) -> Iterator[Candidate]:
    """All that the planner compares, best first, without those that cover as a better one does."""
    problem = analyse(gemm)
    found = [
        (cost_of(problem, target, plan), plan)
        for instruction in target.instructions_for(problem.operand, problem.other)
        for plan in candidates(problem, target, instruction)
    ]
    seen: set[object] = set()
    # The sort is stable and the planner takes the first of equals: what comes first is its choice.
    for cost, plan in sorted(found, key=lambda pair: pair[0].cycles):
        instruction = target.instruction(plan.instruction.data)
        runs = block_runs(problem, plan, instruction.lanes)
        key = (instruction, runs, plan.lanes, plan.pack, plan.resident, plan.k_block)
        if key not in seen:
            seen.add(key)
            yield Candidate(len(seen), plan, cost.share_of_peak)


def _gemm(module: ModuleOp) -> GemmOp:
    """The row's only product."""
    return next(op for op in module.walk() if isinstance(op, GemmOp))


def spread_choice(count: int, wanted: int) -> tuple[int, ...]:
    """Which of `count` ranked candidates to measure: the best, and a spread of the others.

    Returns:
        The first half of `wanted` from the front, the rest evenly spaced up to the last; all where
        there are no more than `wanted`.
    """
    if count <= wanted:
        return tuple(range(count))
    best = max(1, wanted // 2)
    others = wanted - best
    return (*range(best), *(best - 1 + (count - best) * (i + 1) // others for i in range(others)))
