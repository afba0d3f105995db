"""`nkdsl run FILE`: compile, run on random data, check against numpy, report the speed.

The machine code runs on fresh data, and every argument must lie within the error bound of numpy's
result in a wider type; where products follow each other, it also runs on small integers, for which
results must be equal (`cli.reference`). Where sizes are known only at run time, it runs on many
shapes (`cli.shapes`), and speed is measured for some square ones.

Then the peak loop, the kernel and numpy take turns, each on one thread unless `--threads` says
otherwise; shares and ratios are medians over turns (`nkdsl.bench.timing`). numpy multiplies floats
of 32 bits where the program's are narrower, and integers too, for which it has no fast product; and
it does the products alone, whatever follows them in the program.

With `--pack` weights are packed first (`cli.packing`): the same checks are made with what was
packed, and the kernel that reads it is timed, packing left out.
"""

import argparse
import re
import time
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
from nkdsl.cli.packing import Prepacked, add_pack
from nkdsl.cli.reference import Reference, Unbounded, make_arguments, make_reference
from nkdsl.cli.shapes import Open, Shapes
from nkdsl.cli.threads import add_threads
from nkdsl.emulation.calls import emulated
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
PATIENCE = 2.0
"""Seconds that turns may take: there are fewer of long calls, and none is repeated after that."""
FEWEST = 5
"""Turns of the longest calls."""
_PLAN_FRAME = re.compile(r'^#nanokernel\.plan<target = "[^"]*", |>$')
OURS, NUMPY, PEAK = "nkdsl", "numpy", "peak"

Runner = Kernel | Prepacked
"""What is checked and timed; both are called with arrays."""


class WrongAnswer(NkdslError):
    """The machine code and numpy disagree beyond rounding."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("file", metavar="FILE", help="a program in MLIR text")
    parser.add_argument("--target", default="host", help="see nkdsl targets; default: host")
    parser.add_argument("--function", help="which function, where the program has several")
    parser.add_argument("--seed", type=int, default=0, help="of the random data; default: 0")
    add_threads(parser)
    add_pack(parser)
    parser.add_argument(
        "--emulate",
        action="store_true",
        help="run the machine code of a target that is not here under an emulator: Intel AMX in "
        "this process, AArch64 in QEMU; nothing is timed then",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        help=f"turns of timing, 0 for none; default: {ROUNDS}, fewer of calls that take long",
    )


def main(arguments: argparse.Namespace) -> int:
    """Compile, check, time; raises `WrongAnswer` where numpy disagrees."""
    target = get_target(arguments.target)
    obstacle = can_run(target)
    emulate = arguments.emulate and obstacle is not None
    if obstacle and not emulate:
        raise Unsupported(
            f"nothing to run: {obstacle}; nkdsl compile works for any target, and --emulate runs "
            "the code of some"
        )
    context = make_context()
    module = load(Path(arguments.file), context)
    kernel = compile_source(
        module,
        target,
        function=arguments.function,
        threads=arguments.threads,
        emulate=emulate,
    )
    reference = make_reference(module, kernel.signature, context)
    runner = kernel if arguments.pack is None else Prepacked(kernel, arguments.pack)
    native = runner.reader if isinstance(runner, Prepacked) else kernel
    print(f"{native.c_declaration.removesuffix(';')}  for {target.name}")
    for line in runner.told() if isinstance(runner, Prepacked) else ():
        print(f"  packed  {line}")
    for line in _plans(runner, reference):
        print(f"  kernel  {line}")
    with emulated(kernel) if emulate else nullcontext() as told:
        cases = _checked(runner, reference, arguments.seed)
    if emulate:
        for line in told or ():
            print(f"  emulated  {line}")
        return 0
    for label, arrays in cases if arguments.rounds is None or arguments.rounds > 0 else ():
        for line in _speed(runner, reference, arrays, target, arguments.rounds, arguments.threads):
            print(f"  speed   {label}{line}", flush=True)
    return 0


def _checked(kernel: Runner, reference: Reference, seed: int) -> list[tuple[str, tuple[Any, ...]]]:
    """Check the kernel, say so, and give what it is to be timed on: a label, and arguments."""
    shapes = Open.of(kernel.signature)
    if shapes.groups:
        many = list(shapes.tried(kernel.plans))
        print(f"  check   {_check(kernel, reference, many, seed)}", flush=True)
        return [
            (f"{size}: ", make_arguments(kernel.signature, seed, chosen))
            for size, chosen in shapes.squares()
        ]
    print(f"  check   {_check(kernel, reference, [()], seed)}", flush=True)
    return [("", make_arguments(kernel.signature, seed))]


def _plans(kernel: Runner, reference: Reference) -> Iterator[str]:
    """One line a product: its size, and the plan that serves it."""
    problems = [f"{p.size}  " for p in reference.products]
    if len(problems) != len(kernel.plans):
        problems = [""] * len(kernel.plans)
    for problem, plan in zip(problems, kernel.plans, strict=True):
        yield f"{problem}{_PLAN_FRAME.sub('', plan)}"


# -------------------------------------------------------------------------------------- check


def _check(kernel: Runner, reference: Reference, shapes: Sequence[Shapes], seed: int) -> str:
    """Call the kernel on arguments of some shapes; says how near it came to numpy."""
    checked, worst, exact = 0, 0.0, 0
    signature = kernel.signature
    for count, chosen in enumerate(shapes):
        arrays = make_arguments(signature, seed + count, chosen)
        try:
            elements, share = _compare(kernel, reference, arrays)
        except Unbounded as unknown:
            return str(unknown)
        checked, worst = checked + elements, max(worst, share)
        if reference.is_layered:
            small = make_arguments(signature, seed + count, chosen, small=True)
            exact += _compare_exactly(kernel, reference, small)
    of = f" of {len(shapes)} shapes" if len(shapes) > 1 else ""
    if _is_exact(kernel) and not worst:
        return f"{checked} elements{of} agree with numpy exactly"
    also = "; small integers come out exactly" if exact == len(shapes) else ""
    return f"{checked} elements{of} agree with numpy; largest error {worst:.2g} of the bound{also}"


def _is_exact(kernel: Runner) -> bool:
    """Whether all results are integers."""
    return all(p.element.is_integer for p in kernel.signature.parameters if p.written)


def _compare(kernel: Runner, reference: Reference, arrays: Sequence[Any]) -> tuple[int, float]:
    """Call the kernel once; how many elements it wrote, and the largest share of a bound used."""
    try:
        expected = reference.expect(arrays)
    except Unbounded as unknown:
        raise Unbounded(_describe(kernel, arrays, unknown), ()) from unknown
    _call(kernel, arrays)
    checked, worst = 0, 0.0
    for position, parameter in enumerate(kernel.signature.parameters):
        if parameter.written:
            array = arrays[position]
            wanted, bound = expected.arrays[position], expected.bounds[position]
            checked += array.size
            worst = max(worst, _error(parameter.name, array, wanted, bound))
    return checked, worst


def _compare_exactly(kernel: Runner, reference: Reference, arrays: Sequence[Any]) -> bool:
    """Call the kernel once on small integers; False where sums of them are not exact."""
    expected = reference.expect_exactly(arrays)
    if expected is None:
        return False
    _call(kernel, arrays)
    for position, parameter in enumerate(kernel.signature.parameters):
        if parameter.written:
            wanted = expected[position]
            _error(parameter.name, arrays[position], wanted, np.zeros(wanted.shape))
    return True


def _call(kernel: Runner, arrays: Sequence[Any]) -> None:
    """Call the kernel; raises `WrongAnswer` where it changes what it only reads."""
    before = [array.tobytes() for array in arrays]
    kernel(*arrays)
    for array, old, parameter in zip(arrays, before, kernel.signature.parameters, strict=True):
        if not parameter.written and isinstance(array, np.ndarray) and array.tobytes() != old:
            raise WrongAnswer(f"argument '{parameter.name}' was changed, but is only read")


def _describe(kernel: Runner, arrays: Sequence[Any], unknown: Unbounded) -> str:
    """How far off a kernel is where nobody knows how far off it may be."""
    _call(kernel, arrays)
    worst = 0.0
    for position, parameter in enumerate(kernel.signature.parameters):
        wanted = unknown.arrays[position]
        if parameter.written and wanted.size:
            error = np.abs(arrays[position].astype(wanted.dtype) - wanted)
            worst = max(worst, float(np.max(error) / max(np.max(np.abs(wanted)), 1e-300)))
    return f"largest error {worst:.2g} of numpy's largest result; {unknown}"


def _error(name: str, array: Array, wanted: Array, bound: Array) -> float:
    """The largest share of the error bound that was used; raises `WrongAnswer` above 1."""
    if array.size == 0:
        return 0.0
    with np.errstate(invalid="ignore"):
        exact = np.dtype(np.int64) if wanted.dtype.kind in "iu" else np.dtype(np.longdouble)
        error = np.abs(array.astype(exact) - wanted.astype(exact))
        # The difference is NaN for equal infinities, and NaN is right where it is wanted.
        equal = (array == wanted) | (np.isnan(array) & np.isnan(wanted))
    wrong = ~((error <= bound) | equal)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise WrongAnswer(
            f"wrong answer: {int(wrong.sum())} of {wrong.size} elements of '{name}' are off"
            f"{_shape_text(array.shape)}, "
            f"for example {index}: {array[index]} instead of {wanted[index]}; this is a bug in "
            "nkdsl, please report it with the program"
        )
    return float(np.max(np.where(equal, 0.0, error / np.maximum(bound, np.finfo(np.float64).tiny))))


def _shape_text(shape: tuple[int, ...]) -> str:
    return f" (shape {'x'.join(map(str, shape))})" if shape else ""


# -------------------------------------------------------------------------------------- speed


def measured(module: ModuleOp, target: Target, pack: str | None = None) -> str:
    """The share of peak that the only function of a program reaches here, in words.

    Args:
        module: the program.
        target: what it is compiled for.
        pack: what `--pack` tells, if it is given.
    """
    if obstacle := can_run(target):
        return f"not on this machine: {obstacle}"
    kernel = compile_source(module, target)
    reference = make_reference(module, kernel.signature, make_context())
    arguments = _typical_arguments(kernel)
    flops = reference.flops(arguments)
    if not flops or reference.factors is None:
        return "nothing to time: the products are empty, or not all of one type"
    lhs, rhs = reference.factors
    peak = target_peak(lhs, target, rhs).contender()
    runner = kernel if pack is None else Prepacked(kernel, pack)
    ours = _native(runner, arguments, flops)
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
    kernel: Runner,
    reference: Reference,
    arrays: Sequence[Any],
    target: Target,
    rounds: int | None,
    threads: int,
) -> Iterator[str]:
    """Lines that say how fast the kernel is, and how fast everything beside it."""
    flops = reference.flops(arrays)
    if flops == 0:
        yield "nothing to time: the products are empty"
        return
    contenders: list[Contender] = [_native(kernel, arrays, flops or 0)]
    if reference.factors is not None:
        lhs, rhs = reference.factors
        contenders.insert(0, target_peak(lhs, target, rhs).contender())
    if reference.products:
        contenders.append(_numpy(reference, arrays, flops or 0))
    with one_blas_thread() if threads == 1 else nullcontext():
        timings = _steadiest(contenders, rounds or _rounds(contenders))
    if flops is None:
        yield f"{timings.ns(OURS).median / 1000:.2f} µs a call"
        return
    yield _line(OURS, timings, _of_peak(timings, contenders[0]))
    if NUMPY in timings.series:
        ratio = timings.ratio(OURS, NUMPY)
        beside = "one thread each" if threads == 1 else f"{threads} threads beside numpy's own"
        what = contenders[-1].detail
        yield _line(NUMPY, timings, f"{what}nkdsl runs {ratio.median:.2f} times as fast, {beside}")
    if unsteadiness(timings) >= STEADY:
        yield (
            f"(other work disturbed this: quartiles are {unsteadiness(timings):.0%} apart; "
            "run it again on a quiet machine)"
        )


def _rounds(contenders: Sequence[Contender]) -> int:
    """As many turns as there is time for."""
    turn = sum(contender.run(1).wall_ns for contender in contenders) / 1e9
    return max(FEWEST, min(ROUNDS, int(PATIENCE / turn)))


def _steadiest(contenders: Sequence[Contender], rounds: int) -> Timings:
    """The first run of turns that nothing disturbed, or the least disturbed of a few."""
    runs: list[Timings] = []
    started = time.monotonic()
    for _ in range(ATTEMPTS):
        runs.append(take_turns(contenders, rounds))
        if unsteadiness(runs[-1]) < STEADY:
            return runs[-1]
        if time.monotonic() - started > PATIENCE:
            break
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


def _native(kernel: Runner, arrays: Sequence[Any], flops: int) -> Contender:
    """The kernel, what it reads packed already."""
    if isinstance(kernel, Prepacked):
        return _ours(kernel.reader, kernel.native(arrays), flops)
    return _ours(kernel, arrays, flops)


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


def _numpy(reference: Reference, arrays: Sequence[Any], flops: int) -> Contender:
    """The products of floats of the same sizes by numpy."""
    factors = reference.racing(arrays)

    def multiply() -> None:
        for product, lhs, rhs in factors:
            product.multiply(lhs, rhs)

    narrow = any(p.problem.operand.name not in ("f32", "f64") for p in reference.products)
    words = [
        *(["in float32"] if narrow else []),
        *(["the products alone"] if reference.does_more else []),
    ]
    detail = f"{', '.join(words)}; " if words else ""
    return PythonContender(NUMPY, multiply, flops, detail)


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
