"""What `matmul` and `gemm` are given, read and checked: arrays, types, and what follows sums.

Whatever can't be served is refused here, with the argument's name, what is wrong with it, and what
to do. Imports: `nkdsl.finishing`, `nkdsl.tensors`, `nkdsl.types`.
"""

import operator
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.finishing import ACTIVATIONS, RESULTS, Finishing, limits
from nkdsl.tensors import Tensor, as_array
from nkdsl.types import ELEMENT_TYPES, ElementType, element_type

__all__ = [
    "TYPES",
    "Extras",
    "Operand",
    "Steps",
    "factor_types",
    "gemm_type",
    "read_array",
    "read_number",
    "read_steps",
    "refuse_result",
    "refuse_unequal",
    "result_type",
]

Array = npt.NDArray[Any]
Operand = npt.ArrayLike | Tensor
DType = np.dtype[Any]

TYPES: dict[Any, ElementType] = {t.dtype: t for t in ELEMENT_TYPES}
"""The element types by numpy's."""

FACTORS = [t.dtype for t in ELEMENT_TYPES if t.name != "s32"]
"""The types of `matmul`'s factors."""

STORED = {
    factor: [element_type(name).dtype for name in RESULTS[TYPES[factor].sums]] for factor in FACTORS
}
"""What sums of factors of a type can be stored as."""

INT32 = np.iinfo(np.int32)


class Steps(NamedTuple):
    """What follows a product, as `matmul` is told."""

    bias: Operand | None
    activation: str | None
    residual: Operand | None
    scale: Operand | None
    zero_point: int | None
    out_dtype: npt.DTypeLike | None


class Extras(NamedTuple):
    """What a kernel does beside the product, and its arguments that say with which numbers."""

    finishing: Finishing | None = None
    residual: Array | None = None
    """Of the result's shape."""
    others: tuple[Array | float, ...] = ()
    """The other arguments, in order: those of the finishing, or alpha and beta."""

    @property
    def arrays(self) -> list[Array]:
        """What is read."""
        found = [x for x in self.others if isinstance(x, np.ndarray)]
        return found if self.residual is None else [self.residual, *found]


# ---------------------------------------------------------------------------- arrays and numbers


def read_array(function: str, name: str, argument: Operand) -> Array:
    """An operand as an array."""
    if type(argument) is np.ndarray:
        return argument
    if isinstance(argument, np.ma.MaskedArray):
        raise Unsupported(
            f"argument {name} of {function} is a masked array, but kernels know no masks; "
            "fill it, as with a.filled(0)"
        )
    try:
        return np.asarray(as_array(argument, f"argument {name} of {function}"))
    except ValueError as error:
        raise InvalidInput(f"argument {name} of {function} is no array: {error}") from error


def read_number(function: str, name: str, value: object) -> float:
    """An operand that is a number."""
    if type(value) is float:
        return value
    if not isinstance(value, float | int | np.floating | np.integer):
        raise InvalidInput(
            f"argument {name} of {function} must be a number, not {type(value).__name__}"
        )
    try:
        return float(value)
    except OverflowError:
        raise InvalidInput(
            f"argument {name} of {function} is too large for a floating-point number"
        ) from None


def _read_real(name: str, value: Operand) -> Array:
    """An operand of `matmul` that holds real numbers."""
    array = read_array("matmul", name, value)
    if array.dtype.kind in "biuf" or array.dtype in TYPES:
        return array
    raise InvalidInput(f"argument {name} of matmul must hold real numbers, not {array.dtype}")


def _dense(array: Array, dtype: DType) -> Array:
    """Numbers side by side."""
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned:
        return array
    return array.astype(dtype, order="C")


# ----------------------------------------------------------------------------------------- types


def factor_types(a: Array, b: Array) -> tuple[DType, DType]:
    """The types that the factors of `matmul` are multiplied as."""
    if a.dtype in FACTORS and (
        a.dtype == b.dtype or (a.itemsize == b.itemsize == 1 and b.dtype in FACTORS)
    ):
        return a.dtype, b.dtype
    common = _promoted(a, b)
    if common not in FACTORS:
        *known, last = map(str, FACTORS)
        raise Unsupported(
            f"matmul multiplies {', '.join(known)} and {last}, but a is {a.dtype} and b is "
            f"{b.dtype}; convert them, as with a.astype(numpy.float64)"
        )
    return common, common


def gemm_type(a: Array, b: Array) -> DType:
    """The type that `gemm` computes in."""
    dtype = _promoted(a, b)
    if dtype not in (np.float32, np.float64):
        other = ", or use matmul, which takes them" if dtype in FACTORS else ""
        raise Unsupported(
            f"gemm computes in float32 and float64, but a is {a.dtype} and b is {b.dtype}; "
            f"convert them, as with a.astype(numpy.float64){other}"
        )
    return dtype


def _promoted(a: Array, b: Array) -> DType:
    """The type that holds what two types do, by numpy's rules."""
    try:
        return np.result_type(a.dtype, b.dtype)
    except TypeError:
        return np.dtype(object)


def result_type(factors: tuple[DType, DType], out: object, wanted: npt.DTypeLike | None) -> DType:
    """The type that the sums of `matmul` are stored as.

    Args:
        factors: the types of the factors.
        out: the result's array, if one is given.
        wanted: the type that is asked for.
    """
    sums, known = TYPES[factors[0]].accumulator, STORED[factors[0]]
    if wanted is not None:
        dtype = _named_type(wanted)
        if dtype not in known:
            raise Unsupported(
                f"matmul stores sums of {factors[0]} as {', '.join(map(str, known))}, not as "
                f"{dtype}; convert the factors or the result with astype"
            )
        return dtype
    # A float is made an integer only where that is asked for.
    if (
        isinstance(out, np.ndarray)
        and out.dtype in known
        and (sums.is_integer or not TYPES[out.dtype].is_integer)
    ):
        return TYPES[out.dtype].dtype
    return sums.dtype if sums.is_integer else factors[0]


def _named_type(wanted: Any) -> DType:
    """A type by its name here, by numpy's, or by PyTorch's."""
    name = str(wanted).removeprefix("torch.")
    for known in ELEMENT_TYPES:
        if known.name == name:
            return known.dtype
    try:
        found = TYPES.get(np.dtype(name if type(wanted).__module__ == "torch" else wanted))
    except TypeError:
        found = None
    if found is None:
        names = ", ".join(f"{t.name} ({t.dtype})" for t in ELEMENT_TYPES)
        raise InvalidInput(f"argument out_dtype of matmul must be one of {names}, not {wanted!r}")
    return found.dtype


# ------------------------------------------------------------------------------ what follows sums


def read_steps(
    steps: Steps,
    factors: tuple[DType, DType],
    dtype: DType,
    shape: tuple[int, ...],
    full: tuple[int, ...],
) -> Extras:
    """What follows each sum.

    Args:
        steps: what was asked for.
        factors: the types of the factors.
        dtype: the type of the result.
        shape: the result's shape.
        full: the same with the dimensions that vectors lack.
    """
    sums, out = TYPES[factors[0]].accumulator, TYPES[dtype]
    wide = np.dtype(np.float32) if sums.is_integer else sums.dtype
    finishing = Finishing(activation=_read_activation(steps.activation, sums))
    residual = None
    others: list[Array | float] = []
    if steps.residual is not None:
        residual = _read_residual(steps.residual, shape, wide).reshape(full)
        finishing = finishing._replace(residual=TYPES[residual.dtype].name)
    if steps.bias is not None:
        bias = _read_bias(steps.bias, full[-1], sums, wide)
        finishing = finishing._replace(bias=TYPES[bias.dtype].name)
        others.append(bias)
    if steps.scale is not None:
        scale = _read_scale(steps.scale, full[-1], wide)
        finishing = finishing._replace(scale="number" if isinstance(scale, float) else "columns")
        others.append(scale)
    if steps.zero_point is not None:
        finishing = finishing._replace(zero_point=True)
        others.append(_read_zero_point(steps.zero_point, out))
    as_it_is = sums == out or (dtype == factors[0] and not sums.is_integer)
    if finishing == Finishing() and as_it_is:
        return Extras()
    return Extras(finishing, residual, tuple(others))


def _read_activation(name: object, sums: ElementType) -> str:
    """An activation's name; empty for none."""
    if name is None:
        return ""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise InvalidInput(
            f"argument activation of matmul must be one of {', '.join(ACTIVATIONS)}, not {name!r}"
        )
    if name == "gelu" and sums.name == "f64":
        raise Unsupported(
            "matmul computes no gelu in float64; use gelu_tanh, or convert the factors, as with "
            "a.astype(numpy.float32)"
        )
    return name


def _read_residual(value: Operand, shape: tuple[int, ...], wide: DType) -> Array:
    """What is added to the result, of a type that the epilogue can extend."""
    array = _read_real("residual", value)
    if array.shape != shape:
        raise InvalidInput(
            f"argument residual of matmul must have shape {shape}, the result's, not {array.shape}"
        )
    known = TYPES.get(array.dtype)
    if known is not None and known.accumulator.dtype == wide:
        return array
    return array.astype(wide)


def _read_bias(value: Operand, columns: int, sums: ElementType, wide: DType) -> Array:
    """What is added to each column: integers to integer sums, else floats."""
    array = _read_real("bias", value)
    _refuse_columns("bias", array, columns)
    if not sums.is_integer or array.dtype.kind not in "biu":
        return _dense(array, wide)
    if array.size and not (INT32.min <= array.min() and array.max() <= INT32.max):
        raise InvalidInput(
            "argument bias of matmul holds integers beyond int32, the type of the sums; give it as "
            "floats, as with bias.astype(numpy.float32), to add it to the converted sums"
        )
    return _dense(array, sums.dtype)


def _read_scale(value: Operand, columns: int, wide: DType) -> Array | float:
    """What sums are multiplied by: a number, or one a column."""
    if isinstance(value, float | int):
        return read_number("matmul", "scale", value)
    array = _read_real("scale", value)
    if not array.ndim:
        return float(array)
    _refuse_columns("scale", array, columns, also="a number, or ")
    return _dense(array, wide)


def _refuse_columns(name: str, array: Array, columns: int, also: str = "") -> None:
    if array.shape != (columns,):
        raise InvalidInput(
            f"argument {name} of matmul must be {also}of shape ({columns},), a number for each "
            f"column of the result, not {array.shape}"
        )


def _read_zero_point(value: Any, out: ElementType) -> float:
    """What is added to results that are rounded."""
    if not out.is_integer:
        raise InvalidInput(
            f"argument zero_point of matmul is for integer results, but these are {out.dtype}; "
            'leave it out, or ask for integers, as with out_dtype="u8"'
        )
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidInput(
            f"argument zero_point of matmul must be a whole number, not {type(value).__name__}"
        ) from None
    least, most = limits(out)
    if not least <= number <= most:
        raise InvalidInput(
            f"argument zero_point of matmul must be a number of {out.dtype}, from {least} to "
            f"{most}, not {number}"
        )
    return float(number)


# ------------------------------------------------------------------------------------- how they fit


def refuse_unequal(function: str, a: Array, b: Array) -> None:
    """Refuse factors that disagree on the reduction."""
    dimension = max(b.ndim - 2, 0)
    if a.shape[-1] != b.shape[dimension]:
        raise InvalidInput(
            f"argument b of {function} has size {b.shape[dimension]} in dimension {dimension}, but "
            f"argument a has size {a.shape[-1]} in dimension {a.ndim - 1}; these must be equal "
            f"(shapes {a.shape} and {b.shape})"
        )


def refuse_result(
    function: str,
    name: str,
    result: Any,
    shape: tuple[int, ...],
    dtype: DType,
    *,
    exactly: bool = False,
) -> None:
    """Refuse a result that can't be written to as it is.

    Its type may be a wider or narrower float, or one that holds all integers of the product's type;
    but `exactly` the product's type where that was asked for.
    """

    def refuse(reason: str) -> NoReturn:
        raise InvalidInput(f"argument {name} of {function} {reason}")

    if not isinstance(result, np.ndarray):
        refuse(f"must be a numpy array, not {type(result).__name__}")
    if result.shape != shape:
        refuse(f"must have shape {shape}, the product's, not {result.shape}")
    casting: Literal["equiv", "safe", "same_kind"] = "same_kind"
    if exactly or dtype.kind in "iu":
        casting = "equiv" if exactly else "safe"
    if not np.can_cast(dtype, result.dtype, casting):
        refuse(f"must have type {dtype}, not {result.dtype}")
    if not result.flags.writeable:
        refuse("is written but read-only; give a copy of it")
