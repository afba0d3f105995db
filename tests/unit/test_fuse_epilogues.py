"""Raising, folding and fusing change no result: programs are executed before and after."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xdsl.dialects import func, memref
from xdsl.dialects.builtin import MemRefType, ModuleOp
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.linalg.abstract_ops import LinalgStructuredOperation
from xdsl.interpreter import (
    Interpreter,
    InterpreterFunctions,
    PythonValues,
    impl,
    register_impls,
)
from xdsl.passes import ModulePass

from nkdsl import interpreters
from nkdsl.dialects.nanokernel import GemmOp
from nkdsl.frontend import load, make_context
from nkdsl.interpreters import Buffer, run
from nkdsl.interpreters.linalg import run_structured
from nkdsl.transforms.fold_transposes import FoldTransposesPass
from nkdsl.transforms.fuse_epilogues import FuseEpiloguesPass
from nkdsl.transforms.linalg_to_nanokernel import LinalgToNanokernelPass
from nkdsl.types import element_type_of

CONTEXT = make_context()


def elements(buffer: Buffer) -> np.ndarray:
    """A memref as an array on its memory."""
    strides = [stride * buffer.data.itemsize for stride in buffer.strides]
    return np.lib.stride_tricks.as_strided(buffer.data[buffer.start :], buffer.shape, strides)


@register_impls
class Allocations(InterpreterFunctions):
    """What frameworks do with memory of a function's own."""

    @impl(memref.CopyOp)
    def run_copy(
        self, interpreter: Interpreter, op: memref.CopyOp, args: PythonValues
    ) -> PythonValues:
        elements(args[1])[...] = elements(args[0])
        return ()

    @impl(linalg.TransposeOp)
    def run_transpose(
        self, interpreter: Interpreter, op: linalg.TransposeOp, args: PythonValues
    ) -> PythonValues:
        return run_structured(interpreter, op, args)


@pytest.fixture(autouse=True)
def allocations(monkeypatch: pytest.MonkeyPatch) -> None:
    known = interpreters._FUNCTIONS
    monkeypatch.setattr(interpreters, "_FUNCTIONS", (*known, Allocations))


ROOT = Path(__file__).parents[2]

PROGRAMS = (
    "linalg-to-nanokernel",
    "linalg-to-nanokernel-narrow",
    "linalg-to-nanokernel-elementwise",
    "fold-transposes",
    "fuse-epilogues",
    "fuse-epilogues-apart",
)
"""FileCheck tests, whose functions are executed."""

NOT_EXECUTED = {
    "position": "the interpreter has no linalg.index",
    "compares": "the interpreter has no memory of truth values",
}

ELEMENTS = 4000
"""The memory of each argument."""

PASSES: tuple[ModulePass, ...] = (
    LinalgToNanokernelPass(),
    FoldTransposesPass(),
    FuseEpiloguesPass(),
)


def functions() -> Iterator[Any]:
    for program in PROGRAMS:
        text = (ROOT / f"tests/filecheck/transforms/{program}.mlir").read_text()
        for op in load(text, CONTEXT).walk():
            if isinstance(op, func.FuncOp) and not op.function_type.outputs.data:
                yield pytest.param(program, op.sym_name.data, id=f"{program}-{op.sym_name.data}")


def lowered(module: ModuleOp) -> ModuleOp:
    module = module.clone()
    for each in PASSES:
        each.apply(CONTEXT, module)
        module.verify()
    return module


def arguments_for(module: ModuleOp, name: str) -> list[Any]:
    """Small numbers, so that every order of additions gives the same result."""
    random = np.random.default_rng(0)
    (function,) = (
        op for op in module.walk() if isinstance(op, func.FuncOp) and op.sym_name.data == name
    )
    arguments: list[Any] = []
    for type_ in function.function_type.inputs:
        if not isinstance(type_, MemRefType):
            arguments.append(float(random.integers(1, 4)))
            continue
        dtype = element_type_of(type_.element_type).dtype
        shape = [6 if size < 0 else size for size in type_.get_shape()]
        strides = [(stride or 0) * dtype.itemsize for stride in type_.get_strides() or ()]
        memory = random.integers(-2, 3, ELEMENTS).astype(dtype)
        arguments.append(np.lib.stride_tricks.as_strided(memory, shape, strides or None))
    return arguments


def copied(array: np.ndarray) -> np.ndarray:
    """The same elements at the same strides, in other memory."""
    base = np.lib.stride_tricks.as_strided(array, (ELEMENTS,), (array.itemsize,))
    return np.lib.stride_tricks.as_strided(base.copy(), array.shape, array.strides)


def results(module: ModuleOp, name: str, arguments: list[Any]) -> list[np.ndarray]:
    given = [copied(a) if isinstance(a, np.ndarray) else a for a in arguments]
    run(module, name, given)
    return [a for a in given if isinstance(a, np.ndarray)]


def assert_same(module: ModuleOp, name: str, after: ModuleOp | None = None) -> None:
    arguments = arguments_for(module, name)
    before = results(module, name, arguments)
    for wanted, got in zip(before, results(after or lowered(module), name, arguments), strict=True):
        np.testing.assert_array_equal(got.astype(np.float64), wanted.astype(np.float64))


@pytest.mark.parametrize(("program", "name"), list(functions()))
def test_a_function_computes_the_same_before_and_after(program: str, name: str) -> None:
    text = (ROOT / f"tests/filecheck/transforms/{program}.mlir").read_text()
    if name in NOT_EXECUTED:
        pytest.skip(NOT_EXECUTED[name])
    assert_same(load(text, CONTEXT), name)


def mlp(batch: int, width: int) -> ModuleOp:
    """The example at another size."""
    text = (ROOT / "examples/mlp_bf16.mlir").read_text()
    text = re.sub(r"\b256x1024x", f"{batch}x{width}x", text)
    return load(
        re.sub(r"\b1024x1024x", f"{width}x{width}x", text).replace("1024x", f"{width}x"), CONTEXT
    )


def test_the_layers_of_a_perceptron_become_one_product_each() -> None:
    module = lowered(mlp(6, 10))
    gemms = [op for op in module.walk() if isinstance(op, GemmOp)]
    assert len(gemms) == 3
    assert all(gemm.from_zero is not None and gemm.epilogue is not None for gemm in gemms)
    assert not any(isinstance(op, LinalgStructuredOperation) for op in module.walk())
    assert sum(isinstance(op, memref.AllocOp) for op in module.walk()) == 2


def test_a_perceptron_computes_the_same_before_and_after() -> None:
    assert_same(mlp(6, 10), "mlp")
