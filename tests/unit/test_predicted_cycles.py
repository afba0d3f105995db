"""Kernels for CPUs that this machine is not, timed by LLVM's models of those (llvm-mca).

A table says how many multiplications its CPU starts a cycle, and the planner's blocks are meant to
start that many. So the loop that does most of a product is given to llvm-mca, which schedules it as
its model of the CPU would, all data in L1: it must take as many cycles as the table says, or hardly
more. More would be a loop that something else slows down, spilled registers or too many loads or
micro-operations; another number in either direction, a table that LLVM disagrees with.

LLVM's models are wrong in places, which are written down below, each with what is known better.
Tiles have no model at all, so products are planned without them.
"""

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
from xdsl.dialects.func import FuncOp

from nkdsl.backends import mlir, native
from nkdsl.dialects.nanokernel import GemmOp
from nkdsl.errors import ToolNotFound
from nkdsl.frontend import load, make_context, to_text
from nkdsl.pipeline import lower
from nkdsl.planner import analyse
from nkdsl.planner.cost import predict
from nkdsl.targets import Target, get_target, known_targets, use_target
from nkdsl.targets.arm import TRIPLE as ARM
from nkdsl.targets.model import Instruction
from tests.unit import aarch64, assembly

KINDS = {
    "f32": ("f32", "f32", "f32"),
    "f64": ("f64", "f64", "f64"),
    "bf16": ("bf16", "bf16", "f32"),
    "u8s8": ("u8", "s8", "s32"),
    "s8s8": ("s8", "s8", "s32"),
}
"""The element types of the factors and of the result, by the kind of a product."""

GROUPS = ("bf16", "u8s8", "s8s8")
"""Those whose instructions take groups of the reduction, where a CPU has such."""

SHAPE = (64, 96, 256)

TOLERANCE = 1.15
"""Predicted cycles over those that the table promises, at most."""

PROMISED = 0.95
"""The same at least, of instructions that take factors as they lie in memory."""

ITERATIONS = 100


@dataclass(frozen=True, eq=False)
class Model:
    """LLVM's model of a CPU, and where it is known to be wrong."""

    cpu: str
    """LLVM's name."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Multiplications that it starts a cycle, by what their mnemonics start with, where wrong."""
    dispatch: int = 0
    """Micro-operations that the CPU dispatches a cycle, where the model's number is another."""
    slower: Mapping[str, float] = field(default_factory=dict)
    """Instead of `TOLERANCE`, by the kind of a product; each with its reason beside it."""


MODELS = {
    "x86-64-v3": (
        # To extend bf16 takes shifts, on port 0 alone of Haswell, and on Zen 3 loads of two cycles
        # on a pipe of FMAs. llvm-mca has FMAs take their ports in turn all the same, which is worse
        # than the cores' own choice, by which port waits the least.
        Model("haswell", slower={"bf16": 1.35}),
        Model("skylake"),
        Model("znver3", slower={"bf16": 1.75}),
    ),
    "skylake-avx512": (Model("skylake-avx512"),),
    # To flip the signs of what is broadcast takes an operation on the ports of products, which the
    # planner does not count.
    "cascadelake": (Model("cascadelake", slower={"s8s8": 1.3}),),
    # LLVM has Skylake's server model for it and takes vdpbf16ps for any FMA of that.
    "cooperlake": (Model("cooperlake", rates={"vdpbf16ps": 2.0}, slower={"s8s8": 1.3}),),
    # LLVM has measurements of Alder Lake with AVX-512, whose port 5 has no multiplier; on servers
    # it has (Intel 64 and IA-32 Architectures Optimization Reference Manual, "Golden Cove").
    "sapphirerapids": (Model("sapphirerapids", rates={"vfmadd": 1.0, "vpdpbusd": 1.0}),),
    # `nkdsl bench micro` measures both at the rate of FMAs: kernels of bf16 reach twice, of bytes
    # four times the operations of f32.
    # LLVM has a broadcast take a slot of the unit that multiplies, which is so of vbroadcastss, but
    # not of vpbroadcastd: loops with it are measured at 0.98 to 1.00 of the peak.
    "znver4": (
        Model(
            "znver4",
            rates={"vdpbf16ps": 1 / 3, "vpdpbusd": 1 / 2},
            slower=dict.fromkeys(("f32", "f64", "u8s8"), 1.35),
        ),
    ),
    # Its block is one row of twelve registers: as many loads as products, and seven prefetches.
    "alderlake": (Model("alderlake", slower={"u8s8": 1.3}),),
    # LLVM's widths of dispatch are those with which its own scheduler does best; the CPUs' are in
    # Arm's Software Optimization Guides, "Dispatch constraints": twice as many as instructions.
    # What is broadcast to products of groups is loaded by ld1r, which takes a slot of the units
    # that multiply as well, and on N1 the signs of u8 are flipped there.
    "neoverse-n1": (Model("neoverse-n1", dispatch=8, slower={"u8s8": 1.3}),),
    "neoverse-v1": (Model("neoverse-v1", dispatch=16, slower=dict.fromkeys(GROUPS, 1.2)),),
    "neoverse-v2": (Model("neoverse-v2", dispatch=16, slower=dict.fromkeys(GROUPS, 1.2)),),
}
"""The models of each target's CPU, or of several that a general target is for."""

BORROWED = {
    "graniterapids": "sapphirerapids",
    "znver5": "znver4",
    "arrowlake": "alderlake",
    "sierraforest": "alderlake",
}
"""Targets for whose CPU LLVM has no model of its own, and whose it takes."""

NO_CPU = ("armv9-sme",)
"""Targets that are architectures."""

SLOW = ("cooperlake", "neoverse-v1")
"""Targets, much like others, that are left to the slow tests."""

SPILLED = {
    ("haswell", "f64"): "LLVM loads four registers of B at once, and spills three of them",
    ("znver3", "f64"): "LLVM loads four registers of B at once, and spills three of them",
}
"""Loops that are known to be slow, by the model that shows it and the kind of the product."""


@dataclass(frozen=True)
class Loop:
    """The loop of a product that does most of it."""

    instruction: Instruction
    """What multiplies."""
    widened: bool
    """Whether factors are extended before, or products added apart."""
    cycles: float
    """Of a turn, if nothing but the multiplying units takes time, as the table has them."""
    text: str
    """The code of a turn."""


@pytest.fixture(scope="module", autouse=True)
def _llvm_mca() -> None:
    """Skip everything where the tool is missing."""
    try:
        mlir.find_tool("llvm-mca")
    except ToolNotFound:
        version = mlir.MLIR_VERSION
        pytest.skip(
            f"no llvm-mca {version}: apt-get install --no-install-recommends llvm-{version}"
        )


def source(kind: str) -> str:
    """`C += A·B` as a function called after its kind."""
    m, n, k = SHAPE
    lhs, rhs, out = KINDS[kind]
    shapes = zip(((m, k), (k, n), (m, n)), (lhs, rhs, out), strict=True)
    a, b, c = (f"memref<{x}x{y}x{re.sub('[us]', 'i', element)}>" for (x, y), element in shapes)
    unsigned = "unsigned lhs" if lhs == "u8" else ""
    return f"""
    func.func @{kind}(%a: {a}, %b: {b}, %c: {c}) {{
      nanokernel.gemm ins(%a[m, k], %b[k, n] : {a}, {b}) {unsigned} outs(%c[m, n] : {c})
      func.return
    }}"""


@cache
def loops(name: str) -> dict[str, Loop]:
    """For each kind of product the loop that does most of it; one run of each tool."""
    target = replace(get_target(name), tiles=None)
    with use_target(target):
        context = make_context()
        module = load("\n".join(map(source, KINDS)), context)
        lower(module, context, name, end="nanokernel")
        planned = {
            function.sym_name.data: op
            for function in module.ops
            if isinstance(function, FuncOp)
            for op in function.walk()
            if isinstance(op, GemmOp)
        }
        promised = {kind: promise(op, target) for kind, op in planned.items()}
        lower(module, context, name, start="nanokernel")
        text = native.emit_assembly(mlir.to_llvm_ir(to_text(module)), target)
    found = arm_loops(text) if target.triple == ARM else x86_loops(text)
    return {
        kind: largest(
            [lines for function, lines in found if function.startswith(kind)], *promised[kind]
        )
        for kind in KINDS
    }


Code = tuple[str, list[str]]
"""A function's name, and the instructions of one of its innermost loops."""


def x86_loops(text: str) -> list[Code]:
    """Innermost loops that store nothing but what they spill: others pack."""
    return [
        (name, [instruction.text for instruction in loop])
        for name, lines in assembly.functions(text).items()
        for loop in assembly.innermost_loops(lines)
        if not assembly.count(loop).stores
    ]


def arm_loops(text: str) -> list[Code]:
    """The same."""
    return [
        (name, [line for line in loop if not line.endswith(":")])
        for name, lines in aarch64.functions(text).items()
        for loop in aarch64.innermost_loops(lines)
        if len(aarch64.spills(loop)) >= sum(line.startswith("st") for line in loop)
    ]


def promise(op: GemmOp, target: Target) -> tuple[Instruction, bool, float]:
    """What multiplies, whether it does more than that, and the cycles of one multiplication."""
    problem, plan = analyse(op), op.plan
    assert plan is not None
    instruction = target.instruction(plan.instruction.data)
    call = max(predict(problem, target, plan).calls, key=lambda call: call.tile.instructions)
    widened = bool(instruction.widened) or instruction.adds_apart
    executed = target.executed(instruction, "lhs" if plan.lanes.data == "n" else "rhs")
    return executed, widened, call.step.fma / call.tile.instructions


def largest(
    candidates: list[list[str]], instruction: Instruction, widened: bool, cycles: float
) -> Loop:
    """The loop with the most multiplications."""

    def multiplications(lines: list[str]) -> int:
        return sum(instruction.mnemonic in line for line in lines)

    most = max(candidates, key=multiplications)
    return Loop(instruction, widened, multiplications(most) * cycles, "\n".join(most))


@cache
def simulated(text: str, model: Model, target: Target) -> float:
    """Cycles of a turn of a loop, by LLVM's model of a CPU."""
    options = [f"-mattr={','.join(target.features)}", f"-iterations={ITERATIONS}"]
    options += [f"-dispatch={model.dispatch}"] if model.dispatch else []
    report = llvm_mca(text, target.triple, model.cpu, *options)
    return float(report["CodeRegions"][0]["SummaryView"]["TotalCycles"]) / ITERATIONS


def resources(cpu: str) -> list[str]:
    """What LLVM's model of an x86-64 CPU calls its ports, which tells whose it is."""
    found: list[str] = llvm_mca("nop", "x86_64", cpu)["TargetInfo"]["Resources"]
    return found


def llvm_mca(text: str, triple: str, cpu: str, *options: str) -> dict[str, Any]:
    """What llvm-mca reports of some code."""
    command = [mlir.find_tool("llvm-mca"), f"-mtriple={triple}", f"-mcpu={cpu}", "-json", *options]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def cases(*, spilled: bool = False) -> pytest.MarkDecorator:
    """Every model and every kind of product.

    Args:
        spilled: whether loops in `SPILLED` are expected to fail.
    """

    def marks(target: str, model: Model, kind: str) -> list[pytest.MarkDecorator]:
        found = [pytest.mark.slow] if target in SLOW else []
        if spilled and (model.cpu, kind) in SPILLED:
            found.append(pytest.mark.xfail(reason=SPILLED[model.cpu, kind]))
        return found

    found = [
        pytest.param(
            *(target, model, kind),
            marks=marks(target, model, kind),
            id=f"{target}-{model.cpu}-{kind}",
        )
        for target, models in MODELS.items()
        for model in models
        for kind in KINDS
    ]
    return pytest.mark.parametrize(("target", "model", "kind"), found)


def over_promise(target: str, model: Model, loop: Loop) -> float:
    """Predicted cycles over promised ones, at the model's rate of multiplications."""
    rate = next(
        (rate for name, rate in model.rates.items() if loop.instruction.mnemonic.startswith(name)),
        loop.instruction.per_cycle,
    )
    promised = loop.cycles * loop.instruction.per_cycle / rate
    return simulated(loop.text, model, get_target(target)) / promised


def test_every_target_has_a_model_or_borrows_one_or_is_no_cpu() -> None:
    assert {*MODELS, *BORROWED, *NO_CPU} == {target.name for target in known_targets()}


@pytest.mark.parametrize("target", BORROWED)
def test_llvm_still_has_no_model_of_its_own_for(target: str) -> None:
    own, borrowed = (resources(cpu) for cpu in (get_target(target).cpu, BORROWED[target]))
    assert own == borrowed, f"name {target} in MODELS: LLVM has a model of it now"


def test_models_of_different_cpus_have_different_resources() -> None:
    assert resources("znver4") != resources("alderlake") != resources("sapphirerapids")


@cases(spilled=True)
def test_a_loop_takes_hardly_more_cycles_than_its_table_promises(
    target: str, model: Model, kind: str
) -> None:
    loop = loops(target)[kind]
    assert over_promise(target, model, loop) <= model.slower.get(kind, TOLERANCE)


@cases()
def test_a_table_promises_no_less_than_llvm_predicts(target: str, model: Model, kind: str) -> None:
    loop = loops(target)[kind]
    if not loop.widened:
        assert over_promise(target, model, loop) >= PROMISED
