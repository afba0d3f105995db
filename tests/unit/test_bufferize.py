"""Functions on tensors take memrefs: arguments that are read, then results that are written."""

import pytest
from xdsl.dialects import func
from xdsl.dialects.builtin import FileLineColLoc, ModuleOp
from xdsl.dialects.linalg import ops as linalg

from nkdsl.bufferize import takes_tensors
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.frontend import load, make_context, to_text

PRODUCT = """
func.func @f(%a: tensor<8x4xf32>, %n: index, %b: tensor<4x6xf32>)
    -> (tensor<8x6xf32>, tensor<8x6xf32>) {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<8x6xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<8x6xf32>) -> tensor<8x6xf32>
  %c = linalg.matmul ins(%a, %b : tensor<8x4xf32>, tensor<4x6xf32>)
      outs(%f : tensor<8x6xf32>) -> tensor<8x6xf32>
  return %c, %f : tensor<8x6xf32>, tensor<8x6xf32>
}"""


def loaded(text: str) -> ModuleOp:
    return load(text, make_context())


def signature(module: ModuleOp) -> list[str]:
    (function,) = (op for op in module.walk() if isinstance(op, func.FuncOp))
    assert not function.function_type.outputs.data
    return [str(type_) for type_ in function.function_type.inputs]


def test_results_follow_the_arguments() -> None:
    assert signature(loaded(PRODUCT)) == [
        "memref<8x4xf32>",
        "index",
        "memref<4x6xf32>",
        "memref<8x6xf32>",
        "memref<8x6xf32>",
    ]


def test_a_module_on_tensors_stays_as_it_was() -> None:
    context = make_context()
    module = loaded("func.func @f(%a: memref<4xf32>) { return }")
    (function,) = (op for op in module.walk() if isinstance(op, func.FuncOp))
    assert not takes_tensors(module)
    assert to_text(load(module, context)) == to_text(module)
    assert function.parent_op() is module


def test_operations_keep_their_places_in_the_source() -> None:
    (product,) = (
        op
        for op in loaded(PRODUCT).walk()
        if isinstance(op, linalg.GenericOp) and len(op.inputs) == 2
    )
    assert isinstance(product.location, FileLineColLoc)
    assert (product.location.line.data, product.location.column.data) == (7, 3)


def test_attributes_of_arguments_stay() -> None:
    text = "func.func @f(%a: tensor<4xf32> {my.attribute}) -> tensor<4xf32> {\n"
    (function,) = (
        op
        for op in loaded(f"{text} return %a : tensor<4xf32>\n}}").walk()
        if isinstance(op, func.FuncOp)
    )
    assert function.arg_attrs is not None
    assert [sorted(a.data) for a in function.arg_attrs] == [["my.attribute"], []]


def test_a_filled_tensor_is_made_for_each_that_writes_to_it() -> None:
    module = loaded("""
func.func @f(%a: tensor<8x8xf32>) -> tensor<8x8xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<8x8xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<8x8xf32>) -> tensor<8x8xf32>
  %b = linalg.matmul ins(%a, %a : tensor<8x8xf32>, tensor<8x8xf32>)
      outs(%f : tensor<8x8xf32>) -> tensor<8x8xf32>
  %c = linalg.matmul ins(%b, %a : tensor<8x8xf32>, tensor<8x8xf32>)
      outs(%f : tensor<8x8xf32>) -> tensor<8x8xf32>
  return %c : tensor<8x8xf32>
}""")
    fills = [op for op in module.walk() if isinstance(op, linalg.GenericOp) and len(op.inputs) == 1]
    assert len({op.outputs[0] for op in fills}) == 2
    assert "memref.copy" not in to_text(module)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "func.func @f(%a: tensor<4xf32>, %x: f32) -> f32 { return %x : f32 }\n",
            "1:1: function 'f' returns f32; only tensors can be written",
        ),
        (
            "func.func @f(%a: tensor<4xf32>) -> tensor<4xf32> { return %a : tensor<4xf32> }\n"
            "func.func @g(%a: tensor<4xf32>) -> tensor<4xf32> {\n"
            "  %b = func.call @f(%a) : (tensor<4xf32>) -> tensor<4xf32>\n"
            "  return %b : tensor<4xf32>\n}",
            "3:3: function 'f' on tensors is called, and can be from outside too; make it private",
        ),
    ],
)
def test_what_can_not_be_bufferized_is_refused(text: str, message: str) -> None:
    with pytest.raises(Unsupported) as caught:
        loaded(text)
    assert message in str(caught.value)


def test_a_matmul_that_xdsl_can_not_convert_names_the_remedy() -> None:
    with pytest.raises(InvalidInput, match=r"1:.*linalg.matmul converts i8, i8, f32; write it as"):
        loaded(
            "func.func @f(%a: memref<8x4xi8>, %b: memref<4x6xi8>, %c: memref<8x6xf32>) { "
            "linalg.matmul ins(%a, %b : memref<8x4xi8>, memref<4x6xi8>) "
            "outs(%c : memref<8x6xf32>) return }"
        )
