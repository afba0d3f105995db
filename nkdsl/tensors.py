"""Tensors of PyTorch as arrays of numpy, and back, in the same memory.

PyTorch is never imported here: whoever holds a tensor has imported it. numpy has no bfloat16 of its
own, and PyTorch knows nothing of ml_dtypes': such tensors go through integers of 16 bits.
"""

import sys
from functools import lru_cache
from typing import Any, Protocol, TypeGuard

import ml_dtypes
import numpy as np
import numpy.typing as npt

from nkdsl.errors import InvalidInput

__all__ = ["Tensor", "as_array", "as_tensor", "is_tensor"]

_BF16 = np.dtype(ml_dtypes.bfloat16)


class Tensor(Protocol):
    """What is used of a tensor."""

    @property
    def device(self) -> Any:
        """Where its memory is."""

    @property
    def dtype(self) -> Any:
        """The type of its elements."""

    @property
    def requires_grad(self) -> bool:
        """Whether gradients are computed for it."""

    def numpy(self) -> Any:
        """The array of its memory."""

    def view(self, dtype: Any, /) -> Any:
        """The same memory as elements of another type."""


def is_tensor(value: Any) -> TypeGuard[Tensor]:
    """Whether a value is a tensor of PyTorch, or of a class derived from it."""
    class_: Any = type(value)
    return _is_class_of_tensors(class_)


@lru_cache(maxsize=256)
def _is_class_of_tensors(class_: type) -> bool:
    return any(t.__name__ == "Tensor" and t.__module__ == "torch" for t in class_.__mro__)


def as_array(value: Any, name: str) -> Any:
    """A tensor as the array of the same memory; any other value as it is.

    Args:
        value: anything.
        name: what messages call it.

    Raises:
        InvalidInput: for tensors that are not plain memory of the CPU, and for those that gradients
            are computed for, which would miss this product.
    """
    if not is_tensor(value):
        return value
    if value.device.type != "cpu":
        raise InvalidInput(
            f"{name} is a tensor on {value.device}, but kernels run on the CPU; move it, as with "
            "x.cpu()"
        )
    if value.requires_grad:
        raise InvalidInput(
            f"{name} is a tensor that requires grad, but kernels compute no gradients; detach it, "
            "as with x.detach()"
        )
    try:
        if str(value.dtype) == "torch.bfloat16":
            return value.view(_torch().int16).numpy().view(_BF16)
        return value.numpy()
    except (RuntimeError, TypeError) as error:
        raise InvalidInput(f"{name} is a tensor that is no array: {error}") from error


def as_tensor(array: npt.NDArray[Any] | np.generic) -> Any:
    """The tensor of an array's memory; where tensors are, PyTorch is imported already."""
    array = np.asarray(array)
    if array.dtype == _BF16:
        return _torch().from_numpy(array.view(np.int16)).view(_torch().bfloat16)
    return _torch().from_numpy(array)


def _torch() -> Any:
    return sys.modules["torch"]
