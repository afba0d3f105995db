"""Tensors of PyTorch in place of arrays: the same memory, read and written.

PyTorch need not be installed: a few lines that look like it from outside take its place.
"""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import nkdsl
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.targets import can_run, get_target
from nkdsl.tensors import as_array, as_tensor, is_tensor

try:
    OBSTACLE = can_run(get_target("host"))
except Unsupported as error:
    OBSTACLE = str(error)
native = pytest.mark.skipif(OBSTACLE is not None, reason=str(OBSTACLE))

BF16 = np.dtype(ml_dtypes.bfloat16)
ALONE = 1


class DType:
    """A type of elements, as `torch.float32`."""

    __module__ = "torch"

    def __init__(self, dtype: Any):
        self.dtype = np.dtype(dtype)

    def __repr__(self) -> str:
        return f"torch.{self.dtype}"


DTYPES = {DType(dtype) for dtype in ("f2", "f4", "f8", "i1", "u1", "i2", "i4", ml_dtypes.bfloat16)}


class Tensor:
    """What tensors show of themselves; memory that numpy describes."""

    __module__ = "torch"

    def __init__(self, memory: Any, device: str = "cpu", *, requires_grad: bool = False):
        self.memory = memory
        self.device = SimpleNamespace(type=device.partition(":")[0], __str__=lambda: device)
        self.requires_grad = requires_grad
        self.dtype = next(t for t in DTYPES if t.dtype == memory.dtype)

    def view(self, dtype: DType) -> "Tensor":
        return Tensor(self.memory.view(dtype.dtype))

    def numpy(self) -> Any:
        if self.memory.dtype == BF16:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.memory


class Parameter(Tensor):
    """A class derived from it."""

    __module__ = "torch.nn.parameter"


def imitation() -> ModuleType:
    """What stands in for the module."""
    module = ModuleType("torch")
    for dtype in DTYPES:
        setattr(module, str(dtype.dtype), dtype)

    def from_numpy(array: np.ndarray) -> Tensor:
        assert array.dtype != BF16
        return Tensor(array)

    module.from_numpy = from_numpy  # type: ignore[attr-defined]
    return module


@pytest.fixture
def torch(monkeypatch) -> Any:
    """PyTorch, or what looks like it."""
    try:
        import torch
    except ImportError:
        monkeypatch.setitem(sys.modules, "torch", imitation())
        return sys.modules["torch"]
    return torch


def make(torch: Any, array: np.ndarray) -> Any:
    """A tensor of an array's memory."""
    if array.dtype == BF16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


NAMES = ["float32", "float64", "float16", "bfloat16", "int8", "uint8", "int32"]


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_and_its_array_share_their_memory(torch, name):
    dtype = BF16 if name == "bfloat16" else np.dtype(name)
    memory = np.arange(12).astype(dtype).reshape(3, 4)
    tensor = as_tensor(memory)
    assert is_tensor(tensor)
    assert str(tensor.dtype) == f"torch.{name}"
    for view in (memory, memory.T, memory[:, ::2]):
        array = as_array(make(torch, view), "a")
        assert (array.dtype, array.strides) == (dtype, view.strides)
        assert np.shares_memory(array, memory)
        assert np.array_equal(array, view)


def test_anything_else_stays_what_it_is():
    for value in (np.ones(3), 1.5, [1, 2], None, "torch", SimpleNamespace(device="cpu")):
        assert not is_tensor(value)
        assert as_array(value, "a") is value


def test_derived_classes_are_tensors():
    memory = np.ones((2, 2), np.float32)
    assert is_tensor(Parameter(memory))
    assert as_array(Parameter(memory), "a") is memory


def test_tensors_elsewhere_are_refused():
    with pytest.raises(InvalidInput, match=r"argument a of matmul is a tensor on .*x\.cpu\(\)"):
        nkdsl.matmul(Tensor(np.ones((2, 2), np.float32), "cuda:0"), np.ones((2, 2)))


def test_tensors_that_require_grad_are_refused():
    weights = Parameter(np.ones((2, 2), np.float32), requires_grad=True)
    with pytest.raises(InvalidInput, match=r"argument b of matmul .* requires grad.*x\.detach"):
        nkdsl.matmul(np.ones((2, 2)), weights)


def test_tensors_that_are_no_memory_are_refused():
    class Sparse(Tensor):
        def numpy(self) -> Any:
            raise TypeError("can't convert Sparse layout tensor to numpy")

    with pytest.raises(InvalidInput, match="bias of matmul is a tensor that is no array: can't"):
        nkdsl.matmul(np.ones((2, 2)), np.ones((2, 2)), bias=Sparse(np.ones(2)))


@native
class TestProducts:
    """Through kernels."""

    @pytest.mark.parametrize("name", ["float32", "bfloat16", "int8"])
    def test_the_product_of_a_tensor_is_one(self, torch, name):
        dtype = BF16 if name == "bfloat16" else np.dtype(name)
        a, b = np.arange(12).reshape(3, 4).astype(dtype), np.arange(20).reshape(4, 5).astype(dtype)
        wanted = a.astype(float) @ b.astype(float)
        for x, y in ((make(torch, a), make(torch, b)), (make(torch, a), b), (a, make(torch, b))):
            product = nkdsl.matmul(x, y, threads=ALONE)
            assert str(product.dtype) == ("torch.int32" if name == "int8" else f"torch.{name}")
            assert np.array_equal(as_array(product, ""), wanted.astype(dtype).astype(float)) or (
                name == "int8" and np.array_equal(as_array(product, ""), wanted)
            )

    def test_all_operands_may_be_tensors(self, torch):
        a, b = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)
        bias, residual = np.arange(5, dtype=np.float32), np.ones((3, 5), np.float32)
        out = make(torch, np.zeros((3, 5), np.float32))
        steps = {"bias": make(torch, bias), "residual": make(torch, residual)}
        assert nkdsl.matmul(a, make(torch, b), out, **steps, threads=ALONE) is out
        assert np.array_equal(as_array(out, ""), a @ b + bias + residual)
        assert nkdsl.matmul(a, b, out, threads=ALONE) is out
        assert np.array_equal(as_array(out, ""), a @ b)

    def test_the_type_of_the_result_may_be_one_of_pytorch(self, torch):
        a = make(torch, np.ones((3, 3), BF16))
        product = nkdsl.matmul(a, a, out_dtype=torch.float32, threads=ALONE)
        assert str(product.dtype) == "torch.float32"
        product = nkdsl.matmul(a, a, out_dtype=torch.bfloat16, threads=ALONE)
        assert str(product.dtype) == "torch.bfloat16"

    def test_gemm_writes_to_a_tensor(self, torch):
        a, c = np.ones((3, 3), np.float32), make(torch, np.ones((3, 3), np.float32))
        nkdsl.gemm(2.0, make(torch, a), a, 1.0, c, threads=ALONE)
        assert np.all(as_array(c, "") == 7)

    def test_kernels_take_tensors(self, torch):
        kernel = nkdsl.compile("""
            func.func @f(%a: memref<3x4xbf16>, %b: memref<4x5xbf16>, %c: memref<3x5xf32>) {
              nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<3x4xbf16>, memref<4x5xbf16>)
                outs(%c[m, n] : memref<3x5xf32>) from zero
              return
            }""")
        a, b = np.ones((3, 4), BF16), np.ones((4, 5), BF16)
        c = make(torch, np.zeros((3, 5), np.float32))
        kernel(make(torch, a), b, c)
        assert np.all(as_array(c, "") == 4)
        with pytest.raises(InvalidInput, match=r"argument 2 of f must have type float32, not bfl"):
            kernel(a, b, make(torch, np.zeros((3, 5), BF16)))
        with pytest.raises(InvalidInput, match=r"argument 0 of f is a tensor on .*x\.cpu\(\)"):
            kernel(Tensor(a, "cuda:0"), b, c)
