"""`nkdsl run FILE`: compile, run on random data, check against numpy, report the speed.

The machine code runs once on fresh data, and every argument must lie within the error bound of
numpy's result in a wider type; where sizes are known only at run time, it runs on many shapes
(`cli.shapes`), and speed is measured for some square ones. Then the peak loop, the kernel and numpy
take turns, each on one thread unless `--threads` says otherwise; shares and ratios are medians over
turns (`nkdsl.bench.timing`).
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from xdsl.dialects.builtin import ModuleOp

from nkdsl.api import compile as compile_source
from nkdsl.bench.peak import target_peak
from nkdsl.bench.peers.openblas import find_blas
from nkdsl.bench.timing import (
    MAX_ARITY,
    Contender,
    NativeContender,
    PythonContender,
    Timings,
    take_turns,
)
from nkdsl.cli.reference import Reference, make_arguments, make_reference
from nkdsl.cli.shapes import Open
from nkdsl.cli.threads import add_threads
from nkdsl.errors import NkdslError, Unsupported
from nkdsl.frontend import load, make_context
from nkdsl.runtime.kernel import Kernel
from nkdsl.runtime.workspace import thread_workspace
from nkdsl.targets import can_run, get_target
from nkdsl.targets.model import Target

Array = npt.NDArray[Any]

ROUNDS = 15
ATTEMPTS = 3
STEADY = 0.1
"""Quartiles farther apart than this share of the median make a run of turns worth repeating."""
_PLAN_FRAME = re.compile(r'^#nanokernel\.plan<target = "[^"]*", |>$')
OURS, NUMPY, PEAK = "nkdsl", "numpy", "peak"


class WrongAnswer(NkdslError):
    """The machine code and numpy disagree beyond rounding."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("file", metavar="FILE", help="a program in MLIR text")
    parser.add_argument("--target", default="host", help="see nkdsl targets; default: host")
    parser.add_argument("--function", help="which function, where the program has several")
    parser.add_argument("--seed", type=int, default=0, help="of the random data; default: 0")
    add_threads(parser)
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"turns of timing, 0 for none; default: {ROUNDS}"
    )


def main(arguments: argparse.Namespace) -> int:
    """Compile, check, time; raises `WrongAnswer` where numpy disagrees."""
    target = get_target(arguments.target)
    if obstacle := can_run(target):
        raise Unsupported(f"nothing to run: {obstacle}; nkdsl compile works for any target")
    context = make_context()
    module = load(Path(arguments.file), context)
    kernel = compile_source(module, target, function=arguments.function, threads=arguments.threads)
    reference = make_reference(module, kernel.signature, context)
    print(f"{kernel.c_declaration.removesuffix(';')}  for {target.name}")
    for line in _plans(kernel, reference):
        print(f"  kernel  {line}")
    shapes = Open.of(kernel.signature)
    if shapes.groups:
        print(f"  check   {_check_many(kernel, reference, shapes, arguments.seed)}", flush=True)
        cases = [
            (f"{size}: ", make_arguments(kernel.signature, arguments.seed, chosen))
            for size, chosen in shapes.squares()
        ]
    else:
        arrays = make_arguments(kernel.signature, arguments.seed)
        print(f"  check   {_check(kernel, reference, arrays)}", flush=True)
        cases = [("", arrays)]
    for label, arrays in cases if arguments.rounds > 0 else ():
        for line in _speed(kernel, reference, arrays, target, arguments.rounds, arguments.threads):
            print(f"  speed   {label}{line}", flush=True)
    return 0


def _plans(kernel: Kernel, reference: Reference) -> Iterator[str]:
    """One line a product: its size, and the plan that serves it."""
    problems = [f"{p.size}  " for p in reference.products or ()]
    if len(problems) != len(kernel.plans):
        problems = [""] * len(kernel.plans)
    for problem, plan in zip(problems, kernel.plans, strict=True):
        yield f"{problem}{_PLAN_FRAME.sub('', plan)}"


# -------------------------------------------------------------------------------------- check


def _check(kernel: Kernel, reference: Reference, arrays: Sequence[Any]) -> str:
    """Call the kernel once; says how near it came to numpy."""
    checked, worst = _compare(kernel, reference, arrays)
    return f"{checked} elements agree with numpy; largest error {worst:.2g} of the bound"


def _check_many(kernel: Kernel, reference: Reference, shapes: Open, seed: int) -> str:
    """Call the kernel on many shapes; says how near it came to numpy."""
    count, checked, worst = 0, 0, 0.0
    for chosen in shapes.tried(kernel.plans):
        elements, share = _compare(
            kernel, reference, make_arguments(kernel.signature, seed + count, chosen)
        )
        count, checked, worst = count + 1, checked + elements, max(worst, share)
    return (
        f"{checked} elements of {count} shapes agree with numpy; "
        f"largest error {worst:.2g} of the bound"
    )


def _compare(kernel: Kernel, reference: Reference, arrays: Sequence[Any]) -> tuple[int, float]:
    """Call the kernel once; how many elements it wrote, and the largest share of a bound used."""
    expected = reference.expect(arrays)
    before = [array.tobytes() for array in arrays]
    kernel(*arrays)
    checked, worst = 0, 0.0
    for position, parameter in enumerate(kernel.signature.parameters):
        array = arrays[position]
        if not parameter.written:
            if isinstance(array, np.ndarray) and array.tobytes() != before[position]:
                raise WrongAnswer(f"argument '{parameter.name}' was changed, but is only read")
            continue
        share = _error(parameter.name, array, expected.arrays[position], expected.bounds[position])
        checked, worst = checked + array.size, max(worst, share)
    return checked, worst


def _error(name: str, array: Array, wanted: Array, bound: Array) -> float:
    """The largest share of the error bound that was used; raises `WrongAnswer` above 1."""
    if array.size == 0:
        return 0.0
    error = np.abs(array - wanted)
    wrong = ~(error <= bound)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise WrongAnswer(
            f"wrong answer: {int(wrong.sum())} of {wrong.size} elements of '{name}' are off"
            f"{_shape_text(array.shape)}, "
            f"for example {index}: {array[index]} instead of {wanted[index]}; this is a bug in "
            "nkdsl, please report it with the program"
        )
    return float(np.max(error / np.maximum(bound, np.finfo(bound.dtype).tiny)))


def _shape_text(shape: tuple[int, ...]) -> str:
    return f" (shape {'x'.join(map(str, shape))})" if shape else ""


# -------------------------------------------------------------------------------------- speed


def measured(module: ModuleOp, target: Target) -> str:
    """The share of peak that the only function of a program reaches here, in words."""
    if obstacle := can_run(target):
        return f"not on this machine: {obstacle}"
    kernel = compile_source(module, target)
    reference = make_reference(module, kernel.signature, make_context())
    arguments = _typical_arguments(kernel)
    flops = reference.flops(arguments)
    if not flops or reference.element is None:
        return "nothing to time: the products are empty, or not all of one type"
    peak = target_peak(reference.element, target).contender()
    ours = _ours(kernel, arguments, flops)
    timings = _steadiest([peak, ours], ROUNDS)
    share, rate = timings.ratio(OURS, PEAK), timings.gflops(OURS).median
    return (
        f"{share.median:.1%} of peak (quartiles {share.p25:.1%} to {share.p75:.1%}): {rate:.1f} of "
        f"{timings.gflops(PEAK).median:.1f} GF/s, measured beside it"
    )


def _typical_arguments(kernel: Kernel) -> tuple[Any, ...]:
    """Arguments; what is open has the largest size that is measured."""
    shapes = Open.of(kernel.signature)
    *_, (_, largest) = shapes.squares()
    return make_arguments(kernel.signature, shapes=largest)


def _speed(
    kernel: Kernel,
    reference: Reference,
    arrays: Sequence[Any],
    target: Target,
    rounds: int,
    threads: int,
) -> Iterator[str]:
    """Lines that say how fast the kernel is, and how fast everything beside it."""
    flops = reference.flops(arrays)
    if flops == 0:
        yield "nothing to time: the products are empty"
        return
    contenders: list[Contender] = [_ours(kernel, arrays, flops or 0)]
    if reference.element is not None:
        contenders.insert(0, target_peak(reference.element, target).contender())
    if reference.products is not None:
        numpys = tuple(array.copy() for array in arrays)
        contenders.append(PythonContender(NUMPY, lambda: reference.run(numpys), flops or 0))
    with one_blas_thread() if threads == 1 else nullcontext():
        timings = _steadiest(contenders, rounds)
    if flops is None:
        yield f"{timings.ns(OURS).median / 1000:.2f} µs a call"
        return
    yield _line(OURS, timings, _of_peak(timings, contenders[0]))
    if NUMPY in timings.series:
        ratio = timings.ratio(OURS, NUMPY)
        beside = "one thread each" if threads == 1 else f"{threads} threads beside numpy's own"
        yield _line(NUMPY, timings, f"nkdsl runs {ratio.median:.2f} times as fast, {beside}")
    if unsteadiness(timings) >= STEADY:
        yield (
            f"(other work disturbed this: quartiles are {unsteadiness(timings):.0%} apart; "
            "run it again on a quiet machine)"
        )


def _steadiest(contenders: Sequence[Contender], rounds: int) -> Timings:
    """The first run of turns that nothing disturbed, or the least disturbed of a few."""
    runs: list[Timings] = []
    for _ in range(ATTEMPTS):
        runs.append(take_turns(contenders, rounds))
        if unsteadiness(runs[-1]) < STEADY:
            return runs[-1]
    return min(runs, key=unsteadiness)


def unsteadiness(timings: Timings) -> float:
    """How far the quartiles of the native contenders' times lie apart, relative to the median."""
    spreads = [timings.ns(name) for name in timings.series if name != NUMPY]
    return max((s.p75 - s.p25) / s.median for s in spreads)


def _line(name: str, timings: Timings, remark: str) -> str:
    rate, time = timings.gflops(name).median, timings.ns(name).median / 1000
    return f"{name:<6}{rate:8.1f} GF/s {time:10.2f} µs   {remark}"


def _of_peak(timings: Timings, peak: Contender) -> str:
    if PEAK not in timings.series:
        return ""
    share, rate = timings.ratio(OURS, PEAK).median, timings.gflops(PEAK).median
    return f"{share:.1%} of the peak of {peak.detail}, {rate:.1f} GF/s beside it"


def _ours(kernel: Kernel, arrays: Sequence[Any], flops: int) -> Contender:
    values = kernel.signature.check(arrays)
    pointers = [value for value in values if isinstance(value, int)]
    workspace = thread_workspace(kernel.workspace_bytes)
    if kernel.workspace_bytes:
        pointers.append(workspace.ctypes.data)
    if len(pointers) > MAX_ARITY or any(isinstance(value, float) for value in values):
        return PythonContender(OURS, lambda: kernel(*arrays), flops)
    keep = (kernel, arrays, workspace)
    return NativeContender(OURS, kernel.address, tuple(pointers), flops, keep=keep)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold numpy's BLAS to one thread, where it can be told."""
    blas = find_blas()
    get_threads = blas.openblas("get_num_threads") if blas else None
    set_threads = blas.openblas("set_num_threads") if blas else None
    if get_threads is None or set_threads is None:
        yield
        return
    before = int(get_threads())
    set_threads(1)
    try:
        yield
    finally:
        set_threads(before)
