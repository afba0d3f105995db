"""`nkdsl bench blocks SHAPE…`: the planner's model held against measurement.

For each shape the planner is asked for every plan that it compares. A spread of them is compiled,
the best by prediction and others down to the worst, each checked once against the reference; then
all of them take turns with the peak. What comes out is, for each plan, its predicted and its
measured share of the peak, and for each shape:

- the *rank correlation* of prediction and measurement (Spearman): 1 where the model orders the
  plans as they are;
- the *loss*: by how much the best plan measured is faster than the model's choice.

    nkdsl bench blocks 64x96x256 33x47x65 --dtype f32 --count 12 --json out.json --picture out.png

JSON, schema `nkdsl-bench-blocks/1`, with the run's circumstances as in `nkdsl-bench-micro/1`:

    {
      "schema": "nkdsl-bench-blocks/1", "command": "…", …,
      "shapes": [{
        "shape": "64x96x256", "dtype": "f32", "candidates": how many plans the planner compared,
        "huge_pages": …, "peak": {"instruction": "fma.f32x16", "gflops": spread},
        "rank_correlation": number or null, "loss": number or null,
        "plans": [{
          "rank": by prediction, 1 is the model's choice, "label": "…",
          "plan": "the kernel that ran, as the compiler prints its plan",
          "predicted": share of the peak, "share": spread or null, "ns": spread or null,
          "error": null or "reason", "retaken": …, "preempted": …
        }]
      }]
    }
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nkdsl.bench import machine, ours
from nkdsl.bench.machine import Run
from nkdsl.bench.memory import on_huge_pages
from nkdsl.bench.options import ROUNDS, deliver, positive
from nkdsl.bench.options import add_arguments as add_shared_arguments
from nkdsl.bench.page import empty_figure, grid, save
from nkdsl.bench.peak import Peak, target_peak
from nkdsl.bench.peers import Unable
from nkdsl.bench.plans import Candidate, plan_row, spread_choice
from nkdsl.bench.problem import Row, Types, make_problem, parse_row, product_types
from nkdsl.bench.report import disturbance
from nkdsl.bench.timing import SAMPLE_NS, NativeContender, Spread, take_turns
from nkdsl.targets import get_target
from nkdsl.targets.model import Target

SCHEMA = "nkdsl-bench-blocks/1"
COUNT = 12


def _no_progress(_: str) -> None:
    return


@dataclass(frozen=True)
class BlocksOptions:
    """What to run and how."""

    rows: tuple[Row, ...]
    dtypes: tuple[str, ...] = ("f32",)
    target: str = ours.HOST
    count: int = COUNT
    """Plans measured for each shape, at most."""
    rounds: int = ROUNDS
    sample_ns: int = SAMPLE_NS
    cpu: int | None = None
    """Pin this process to one CPU."""
    command: str = field(default_factory=machine.command_line)
    progress: Callable[[str], None] = _no_progress
    """Told each shape's name before it runs."""


@dataclass(frozen=True)
class PlanResult:
    """One plan of one shape; an error stands in for numbers."""

    rank: int
    """Its place in the model's order; 1 is the model's choice."""
    label: str
    plan: str
    """The kernel that ran: the whole plan as the compiler prints it."""
    predicted: float
    """Share of the peak."""
    error: str | None = None
    share: Spread | None = None
    """Measured share of the peak."""
    ns: Spread | None = None
    retaken: int = 0
    preempted: int = 0


@dataclass(frozen=True)
class ShapeReport:
    """One shape in one element type."""

    row: Row
    dtype: str
    candidates: int
    """How many plans the planner compared."""
    huge_pages: bool | None
    instruction: str
    """What the peak loop consists of."""
    peak: Spread
    """GF/s."""
    plans: tuple[PlanResult, ...]
    """Best by prediction first."""

    @property
    def measured(self) -> tuple[tuple[PlanResult, float], ...]:
        """The plans that were timed, with the medians of their shares."""
        return tuple((plan, plan.share.median) for plan in self.plans if plan.share)

    @property
    def best(self) -> PlanResult | None:
        """The fastest plan, or None where none was timed."""
        return max(self.measured, key=lambda pair: pair[1], default=(None, 0.0))[0]

    @property
    def choice(self) -> PlanResult:
        """What the model chose."""
        return self.plans[0]

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's, of predicted and measured shares; None where either does not vary."""
        return rank_correlation(
            [plan.predicted for plan, _ in self.measured], [share for _, share in self.measured]
        )

    @property
    def loss(self) -> float | None:
        """Best measured over the choice's measured share, less 1; None where that is unknown."""
        if self.best is None or self.best.share is None or self.choice.share is None:
            return None
        return self.best.share.median / self.choice.share.median - 1


@dataclass(frozen=True)
class BlocksReport:
    """Everything about a run of the suite."""

    run: Run
    shapes: tuple[ShapeReport, ...]

    @property
    def failed(self) -> bool:
        """Whether any plan failed, or was wrong."""
        return any(plan.error for shape in self.shapes for plan in shape.plans)

    def table(self) -> str:
        """A table for each shape, one that sums them up, and what went wrong."""
        plans = [plan for shape in self.shapes for plan in shape.plans]
        parts = [str(self.run), *(_shape_table(shape) for shape in self.shapes)]
        parts.append(grid(*_summary_grid(self.shapes)))
        parts += [f"plan {plan.rank}, {plan.label}: {plan.error}" for plan in plans if plan.error]
        parts.append(disturbance(self.run, [plan for plan in plans if plan.share]))
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> str:
        """The report in the schema of this module's docstring."""
        data = {
            "schema": SCHEMA,
            **asdict(self.run),
            "shapes": [_shape_dict(shape) for shape in self.shapes],
        }
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"

    def picture(self, path: Path | str) -> None:
        """Draw measured over predicted shares, a panel for each shape, into a file.

        Raises:
            MissingExtra: matplotlib is absent.
        """
        count = max(1, len(self.shapes))
        columns = min(3, count)
        lines = -(-count // columns)
        figure = empty_figure(3.6 * columns, 3.8 * lines)
        for number, shape in enumerate(self.shapes):
            _draw(figure.add_subplot(lines, columns, number + 1), shape)
        figure.suptitle(self.run.cpu, fontsize=9)
        save(figure, path)


def run_blocks(options: BlocksOptions) -> BlocksReport:
    """Run the suite.

    Raises:
        NkdslError: the target is unknown, cannot run here, or cannot serve a shape; or the CPU to
            pin to is not ours.
    """
    with machine.pinned(options.cpu):
        target = get_target(options.target)
        run = machine.this_run(
            options.command,
            target=options.target,
            table=target.name,
            rounds=options.rounds,
            sample_ns=options.sample_ns,
            pinned=options.cpu,
        )
        return BlocksReport(run, tuple(_run_shapes(options, target)))


def _run_shapes(options: BlocksOptions, target: Target) -> Iterator[ShapeReport]:
    for dtype in options.dtypes:
        types = product_types(dtype)
        peak = target_peak(types.lhs, target, types.rhs)
        for row in options.rows:
            options.progress(f"{row.name} {dtype}")
            yield run_shape(row, types, peak, target, options)


def run_shape(
    row: Row, types: Types, peak: Peak, target: Target, options: BlocksOptions
) -> ShapeReport:
    """Compile and check a spread of one shape's plans, then let them take turns with the peak."""
    planned = plan_row(row, types.name, target)
    problem = make_problem(row, types)
    contenders: dict[int, NativeContender] = {}
    results: dict[int, PlanResult] = {}
    for position in spread_choice(len(planned.candidates), options.count):
        candidate = planned.candidates[position]
        results[candidate.rank] = _untimed(candidate)
        try:
            contenders[candidate.rank] = planned.compile(candidate, problem)
        except Unable as error:
            results[candidate.rank] = _untimed(candidate, str(error))
    yardstick = peak.contender()
    # Where nothing can be timed, the report still tells the peak.
    timed = list(contenders.values()) or [yardstick]
    timings = take_turns(timed, options.rounds, options.sample_ns, yardstick=yardstick)
    for rank, contender in contenders.items():
        series = timings.series[contender.name]
        results[rank] = PlanResult(
            rank,
            results[rank].label,
            contender.detail,
            results[rank].predicted,
            share=timings.share(contender.name),
            ns=timings.ns(contender.name),
            retaken=series.retaken,
            preempted=series.preempted,
        )
    return ShapeReport(
        row,
        types.name,
        len(planned.candidates),
        on_huge_pages(problem.arena),
        peak.instruction,
        timings.yardstick_gflops(),
        tuple(results.values()),
    )


def _untimed(candidate: Candidate, error: str | None = None) -> PlanResult:
    return PlanResult(
        candidate.rank, candidate.label, str(candidate.plan), candidate.predicted, error
    )


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation; ties share the mean of their ranks.

    Returns:
        None where one of the two does not vary.
    """
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: Sequence[float]) -> list[float]:
    """How many are smaller, and half of how many are equal: ranks up to a constant."""
    return [
        sum(other < value for other in values) + sum(other == value for other in values) / 2
        for value in values
    ]


# ------------------------------------------------------------------------------------- showing


def _shape_table(shape: ShapeReport) -> str:
    header = ["rank", "plan", "predicted", "measured"]
    lines = [
        [
            str(plan.rank),
            plan.label,
            f"{plan.predicted:.3f}",
            (str(plan.share) if plan.share else "unable") + (" best" * (plan is shape.best)),
        ]
        for plan in shape.plans
    ]
    name = f"{shape.row.name} {shape.dtype}"
    peak = f"peak {shape.peak.median:.1f} GF/s of {shape.instruction}"
    return f"{name}, {len(shape.plans)} of {shape.candidates} plans, {peak}\n{grid(header, lines)}"


def _summary_grid(shapes: Sequence[ShapeReport]) -> tuple[list[str], list[list[str]]]:
    header = ["shape", "type", "plans", "rank correlation", "choice", "best", "best's rank", "loss"]
    return header, [_summary_line(shape) for shape in shapes]


def _summary_line(shape: ShapeReport) -> list[str]:
    best, correlation, loss = shape.best, shape.rank_correlation, shape.loss
    return [
        *(shape.row.name, shape.dtype, str(len(shape.measured))),
        "–" if correlation is None else f"{correlation:.2f}",
        str(shape.choice.share or "unable"),
        "–" if best is None else str(best.share),
        "–" if best is None else str(best.rank),
        "–" if loss is None else f"{loss:.1%}",
    ]


def _shape_dict(shape: ShapeReport) -> dict[str, Any]:
    return {
        "shape": shape.row.name,
        "dtype": shape.dtype,
        "candidates": shape.candidates,
        "huge_pages": shape.huge_pages,
        "peak": {"instruction": shape.instruction, "gflops": asdict(shape.peak)},
        "rank_correlation": shape.rank_correlation,
        "loss": shape.loss,
        "plans": [asdict(plan) for plan in shape.plans],
    }


def _draw(axes: Any, shape: ShapeReport) -> None:
    """Measured over predicted with quartiles, the diagonal, and a ring around the choice."""
    shares = [(plan.predicted, plan.share) for plan in shape.plans if plan.share]
    predicted = [x for x, _ in shares]
    medians = [share.median for _, share in shares]
    below = [share.median - share.p25 for _, share in shares]
    above = [share.p75 - share.median for _, share in shares]
    axes.plot([0, 1], [0, 1], color="grey", lw=0.6)
    axes.errorbar(predicted, medians, yerr=(below, above), fmt="o", ms=4, lw=0.8)
    if shape.choice.share:
        where = [shape.choice.predicted], [shape.choice.share.median]
        axes.scatter(*where, s=90, facecolors="none", edgecolors="red", label="the model's choice")
        axes.legend(loc="lower right", fontsize=7)
    axes.set(xlabel="predicted share of peak", ylabel="measured")
    # A narrow range would fill the panel with noise.
    low = min([0.9, *predicted, *medians]) - 0.05
    high = max([1.0, *predicted, *medians]) + 0.02
    axes.set(xlim=(low, high), ylim=(low, high))
    correlation = shape.rank_correlation
    found = "" if correlation is None else f", ρ = {correlation:.2f}"
    axes.set_title(f"{shape.row.name} {shape.dtype}{found}", loc="left", fontsize=9)


# -------------------------------------------------------------------------------- command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line; the options are mounted under `nkdsl bench blocks`."""
    parser.add_argument(
        "shapes", metavar="SHAPE", type=_row, nargs="+", help="64x96x256, 32x32x32b32, 64x64x64:tn"
    )
    parser.add_argument(
        "--count", type=positive, default=COUNT, help=f"plans of each shape; default: {COUNT}"
    )
    add_shared_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run what the parsed arguments say, and print the tables.

    Returns:
        1 when a plan failed or was wrong; else 0.

    Raises:
        NkdslError: the run is impossible.
    """
    options = BlocksOptions(
        rows=tuple(args.shapes),
        dtypes=args.dtype,
        target=args.target,
        count=args.count,
        rounds=args.rounds,
        cpu=args.cpu,
        progress=lambda row: print(row, file=sys.stderr, flush=True),
    )
    return deliver(run_blocks(options), args)


def _row(text: str) -> Row:
    try:
        return parse_row(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
