"""What a function's arguments must be: read from its types and products, said in C and in words."""

import re
from collections.abc import Callable

import numpy as np
import pytest
from xdsl.dialects import func

from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.frontend import load, make_context
from nkdsl.runtime.signature import DYNAMIC, Reach, Signature, read_signature

ROWS = "memref<?x?xf32, strided<[?, 1], offset: ?>>"
ANY = "memref<?x?xf32, strided<[?, ?]>>"
DENSE = "memref<?x?xf32>"


def signature_of(source: str) -> Signature:
    module = load(source, make_context())
    return read_signature(next(op for op in module.walk() if isinstance(op, func.FuncOp)))


def matmul(a: str = DENSE, b: str = DENSE, c: str = DENSE, level: str = "linalg") -> Signature:
    """The signature of `C += A * B`."""
    product = {
        "linalg": f"linalg.matmul ins(%a, %b : {a}, {b}) outs(%c : {c})",
        "nanokernel": f"nanokernel.gemm ins(%a[m, k], %b[k, n] : {a}, {b}) outs(%c[m, n] : {c})",
    }[level]
    return signature_of(
        f"func.func @product(%a: {a}, %b: {b}, %c: {c}) {{\n{product}\nfunc.return\n}}"
    )


def arrays(m: int = 4, n: int = 6, k: int = 5, dtype=np.float32) -> list[np.ndarray]:
    return [np.zeros(shape, dtype) for shape in ((m, k), (k, n), (m, n))]


# ----------------------------------------------------------------------------------- reading


def test_sizes_and_strides_that_types_leave_open_are_read():
    a, b, c = matmul("memref<4x?xf32>", ROWS, ANY).parameters
    assert (a.shape, a.strides, a.dense) == ((4, DYNAMIC), (DYNAMIC, 1), True)
    assert (b.shape, b.strides, b.dense) == ((DYNAMIC, DYNAMIC), (DYNAMIC, 1), False)
    assert c.strides == (DYNAMIC, DYNAMIC)
    assert [p.written for p in (a, b, c)] == [False, False, True]
    assert (a.open_sizes, a.open_strides) == ((1,), ())
    assert (b.open_sizes, b.open_strides) == ((0, 1), (0,))


def test_a_row_of_known_length_has_a_known_stride():
    (a, _, _) = matmul("memref<?x8xf32>").parameters
    assert (a.shape, a.strides, a.dense) == ((DYNAMIC, 8), (8, 1), False)


@pytest.mark.parametrize("level", ["linalg", "nanokernel"])
def test_dimensions_of_one_iterator_have_one_size(level):
    assert matmul(level=level).equal == (((0, 0), (2, 0)), ((0, 1), (1, 0)), ((1, 1), (2, 1)))


@pytest.mark.parametrize("level", ["linalg", "nanokernel"])
def test_a_known_size_comes_first_and_known_ones_are_not_compared(level):
    signature = matmul("memref<4x5xf32>", "memref<5x?xf32>", DENSE, level)
    assert signature.equal == (((0, 0), (2, 0)), ((1, 1), (2, 1)))
    assert matmul("memref<4x5xf32>", "memref<5x6xf32>", "memref<4x6xf32>", level).equal == ()


def test_products_that_share_an_argument_share_its_sizes():
    signature = signature_of(
        f"""func.func @chain(%a: {DENSE}, %b: {DENSE}, %c: {DENSE}, %d: {DENSE}) {{
          linalg.matmul ins(%a, %b : {DENSE}, {DENSE}) outs(%c : {DENSE})
          linalg.matmul ins(%c, %b : {DENSE}, {DENSE}) outs(%d : {DENSE})
          func.return
        }}"""
    )
    assert ((0, 0), (2, 0), (3, 0)) in signature.equal
    # b is k×n in one product and n×n in the other.
    assert ((0, 1), (1, 0), (1, 1), (2, 1), (3, 1)) in signature.equal


def test_sizes_that_can_not_agree_are_refused():
    with pytest.raises(Unsupported, match=r"needs dimensions of equal size.* say 4 .* 8 \(par"):
        signature_of(
            f"""func.func @f(%a: {DENSE}, %b: memref<?x4xf32>, %c: memref<?x8xf32>, %d: {DENSE}) {{
              linalg.matmul ins(%a, %a : {DENSE}, {DENSE}) outs(%d : {DENSE})
              linalg.matmul ins(%a, %d : {DENSE}, {DENSE}) outs(%b : memref<?x4xf32>)
              linalg.matmul ins(%a, %d : {DENSE}, {DENSE}) outs(%c : memref<?x8xf32>)
              func.return
            }}"""
        )


def blocked() -> Signature:
    """A product whose k is one iterator in its left factor and two in its right one."""
    a, b, c = "memref<?x?xf32>", "memref<?x?x2xf32>", "memref<?x?xf32>"
    return signature_of(
        f"""func.func @f(%a: {a}, %b: {b}, %c: {c}) {{
          nanokernel.gemm ins(%a[m, 2 * k0 + k1], %b[k0, n, k1] : {a}, {b}) outs(%c[m, n] : {c})
          func.return
        }}"""
    )


def test_a_sum_of_iterators_stays_inside_its_dimension():
    signature = blocked()
    assert signature.reaches == (Reach((0, 1), 0, ((2, (1, 0)), (1, (1, 2)))),)

    def check(length: int, blocks: int) -> None:
        shapes = ((3, length), (blocks, 4, 2), (3, 4))
        signature.check([np.zeros(shape, np.float32) for shape in shapes])

    check(10, 5)
    check(11, 5)
    check(0, 0)
    with pytest.raises(
        InvalidInput, match=r"argument 0 of f has size 9 in dimension 1, .* indexed from 0 to 9 "
    ):
        check(9, 5)


def test_numbers_are_parameters():
    signature = signature_of(
        f"func.func @f(%alpha: f32, %a: {DENSE}, %beta: f64) {{ func.return }}"
    )
    assert [p.scalar for p in signature.parameters] == [True, False, True]
    assert signature.declaration(0) == (
        "void f(float alpha, const float *a, int64_t a_d0, int64_t a_d1, double beta);"
    )


@pytest.mark.parametrize(
    ("type_", "message"),
    [
        ("index", "parameter 0 of 'f' is index, neither a memref nor a float"),
        ("f16", "numbers are passed as f32 or f64, not as f16"),
        ("memref<?xi16>", "element type i16 is not supported"),
        ("memref<?x?xf32, strided<[-1, 1]>>", "has a negative stride"),
        ("memref<?x?xf32, strided<[?, -2]>>", "has a negative stride"),
        (
            "memref<?x?xf32, affine_map<(i, j) -> (j, i)>>",
            r"needs a strided layout, as in strided<\[\?, 1\]>",
        ),
    ],
)
def test_a_parameter_that_has_no_such_layout_is_refused_at_its_function(type_, message):
    with pytest.raises(Unsupported, match=f"<input>:1:1: .*{message}"):
        signature_of(f"func.func @f(%a: {type_}) {{ func.return }}")


# ------------------------------------------------------------------------------- declarations


def test_the_c_declaration_has_sizes_then_strides_after_each_pointer():
    assert matmul(ROWS, ANY, "memref<4x?xf32>").declaration(64) == (
        "void product(const float *a, int64_t a_d0, int64_t a_d1, int64_t a_s0, "
        "const float *b, int64_t b_d0, int64_t b_d1, int64_t b_s0, int64_t b_s1, "
        "float *c, int64_t c_d1, void *workspace);"
    )


@pytest.mark.parametrize(
    "names", [("a", "a_d0", "a_d1"), ("a_d0", "a", "a_s0"), ("a_d0", "a_", "a"), ("0", "arg0", "1")]
)
def test_no_two_parameters_in_c_have_one_name(names):
    a, b, c = names
    signature = signature_of(
        f"func.func @f(%{a}: {ROWS}, %{b}: {ROWS}, %{c}: {ROWS}) {{ func.return }}"
    )
    called = re.findall(r"(\w+)[,)]", signature.declaration(0))
    assert len(called) == len(set(called)) == 12


# ------------------------------------------------------------------------------------- checks


def test_native_code_gets_addresses_sizes_and_strides_in_elements():
    a, b, c = arrays()
    wide = np.zeros((5, 2, 9), np.float32)[:, 1, ::2]
    given = matmul(ROWS, ANY, "memref<4x?xf32>").check([a, wide[:, 1:], np.zeros((4, 4), "f4")])
    assert given[:4] == [a.ctypes.data, 4, 5, 5]
    assert given[4:9] == [wide[:, 1:].ctypes.data, 5, 4, 18, 2]
    assert given[10:] == [4]
    assert matmul().check([a, b, c]) == [
        a.ctypes.data, 4, 5, b.ctypes.data, 5, 6, c.ctypes.data, 4, 6
    ]  # fmt: skip


def test_arrays_whose_sizes_disagree_are_refused_by_name():
    a, b, c = arrays()
    signature = matmul()
    with pytest.raises(
        InvalidInput,
        match="argument 1 of product has size 4 in dimension 0, but argument 0 has size 5 in "
        "dimension 1; these must be equal",
    ):
        signature.check([a, b[:4], c])
    with pytest.raises(InvalidInput, match="argument 2 of product has size 3 in dimension 0, but"):
        signature.check([a, b, c[:3]])
    static = matmul("memref<4x5xf32>", "memref<5x?xf32>", DENSE)
    with pytest.raises(InvalidInput, match=r"argument 2 of product has size 3 .* argument 0 has"):
        static.check([a, b, c[:3]])


REFUSED: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray], str]] = {
    "rank": (DENSE, lambda a: a.reshape(-1), r"must have shape \(\?, \?\), not \(20,\)"),
    "size": ("memref<4x?xf32>", lambda a: a[:3], r"must have shape \(4, \?\), not \(3, 5\)"),
    "not dense": (
        DENSE,
        lambda a: np.repeat(a, 2, 0)[::2],
        r"must have strides \(20, 4\) bytes, not \(40, 4\); copy it with numpy.ascontiguousarray",
    ),
    "columns": (DENSE, np.asfortranarray, r"must have strides \(20, 4\) bytes, not \(4, 16\)"),
    "unit stride": (
        ROWS,
        lambda a: np.repeat(a, 2, 1)[:, ::2],
        r"must have strides \(\?, 4\) bytes, not \(40, 8\); copy it",
    ),
    "backwards": (
        ROWS,
        lambda a: a[::-1],
        r"has strides \(-20, 4\) bytes, but .* copy",
    ),
    "backwards within": (ANY, lambda a: a[:, ::-1], r"has strides \(20, -4\) bytes, but kernels"),
    "between elements": (
        ANY,
        lambda a: np.lib.stride_tricks.as_strided(a, (2, 2), (6, 4)),
        r"has strides \(6, 4\) bytes, which are no multiples of its element's 4 bytes; copy",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_array_that_does_not_fit_is_refused_with_a_remedy(name):
    type_, spoil, message = REFUSED[name]
    a, b, c = arrays()
    with pytest.raises(InvalidInput, match=f"argument 0 of product {message}"):
        matmul(type_).check([spoil(a), b, c])


@pytest.mark.parametrize("strides", [(0, 4), (4, 4), (16, 0), (8, 4)])
def test_a_result_whose_elements_share_memory_is_refused(strides):
    a, b, _ = arrays()
    c = np.lib.stride_tricks.as_strided(np.zeros(99, np.float32), (4, 6), strides)
    with pytest.raises(InvalidInput, match="argument 2 of product is written, but its strides"):
        matmul(c=ANY).check([a, b, c])


def test_a_factor_may_repeat_its_elements():
    a, b, c = arrays()
    a = np.broadcast_to(a[:1], a.shape)
    assert matmul(ANY).check([a, b, c])[1:5] == [4, 5, 0, 1]


@pytest.mark.parametrize("type_", [DENSE, ROWS, ANY, "memref<?x5xf32>"])
@pytest.mark.parametrize("stride", [-4, 0, 2, 3, 1000])
def test_a_stride_that_is_never_walked_may_be_anything(type_, stride):
    a = np.lib.stride_tricks.as_strided(np.zeros(99, np.float32), (1, 5), (stride, 4))
    given = matmul(type_).check([a, *arrays(1)[1:]])
    assert given[0] == a.ctypes.data
    assert min(given) >= 0


@pytest.mark.parametrize("sizes", [(0, 6, 5), (4, 0, 5), (4, 6, 0), (0, 0, 0)])
@pytest.mark.parametrize("type_", [DENSE, ROWS, ANY])
def test_sizes_may_be_zero(sizes, type_):
    spread = [np.repeat(np.repeat(array, 3, 0), 2, 1)[::-3, ::-2] for array in arrays(*sizes)]
    for given in (arrays(*sizes), spread):
        if given is spread and 0 not in sizes[:1] + sizes[2:]:
            continue  # the left factor has elements
        matmul(type_).check([given[0], *arrays(*sizes)[1:]])


def test_an_overlap_is_found_at_run_time():
    memory = np.zeros((12, 12), np.float32)
    signature = matmul(ROWS, ROWS, ROWS)
    a, b = memory[:4, :4], memory[4:8, 4:8]
    signature.check([a, b, memory[:4, 4:8]])
    signature.check([a, a, b])
    with pytest.raises(InvalidInput, match="2 of product is written and overlaps argument 1"):
        signature.check([a, b, memory[7:11, 7:11]])
    with pytest.raises(InvalidInput, match="overlaps argument 0"):
        signature.check([a, b, a])


@pytest.mark.parametrize(("number", "value"), [(2, 2.0), (np.float32(0.5), 0.5), (np.int8(3), 3.0)])
def test_numbers_of_any_type_are_welcome(number, value):
    signature = signature_of("func.func @f(%x: f64) { func.return }")
    assert signature.check([number]) == [value]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ("2", "argument 0 of f must be a number, not str"),
        (1j, "must be a number, not complex"),
        (np.ones(1), "must be a number, not ndarray"),
        (10**400, "is too large"),
    ],
)
def test_what_is_no_number_is_refused(number, message):
    signature = signature_of("func.func @f(%x: f64) { func.return }")
    with pytest.raises(InvalidInput, match=message):
        signature.check([number])
    with pytest.raises(InvalidInput, match="f takes 1 arguments, got 0"):
        signature.check([])
