"""Where a numpy array's first element is, quickly.

`array.ctypes.data` and `array.__array_interface__` build Python objects that nobody here looks at,
which takes longer than many a product. numpy's C interface keeps the address right behind the
object's header (`PyArrayObject`: https://numpy.org/doc/stable/reference/c-api/types-and-structures.html).
That this is so here is seen once, on import; otherwise the address comes the slow way.
"""

import ctypes

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

_HEADER = object.__basicsize__
"""Bytes of what every Python object starts with; the next field of an array is its address."""

_at = ctypes.c_size_t.from_address


def _read(array: Array) -> int:
    """The address as the C interface has it."""
    return _at(id(array) + _HEADER).value


def _ask(array: Array) -> int:
    """The address as Python's interface has it."""
    return int(array.ctypes.data)


def _is_known() -> bool:
    """Whether arrays look in memory as `_read` expects."""
    array = np.zeros(3, np.int8)
    return all(_read(view) == _ask(view) for view in (array, array[1:], array[::-1]))


address_of = _read if _is_known() else _ask
"""The address of an array's first element."""
