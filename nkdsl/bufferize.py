"""`bufferize`: from linalg on tensors, as frameworks write it, to linalg on memrefs.

A public function takes memrefs in place of its tensors, which it only reads, and then one memref
for each tensor that it returned, which it writes:

```mlir
func.func @f(%a: tensor<8x4xf32>, %b: tensor<4x6xf32>) -> tensor<8x6xf32>
// becomes
func.func @f(%a: memref<8x4xf32>, %b: memref<4x6xf32>, %r: memref<8x6xf32>)
```

The boundary is rewritten here, with `bufferization.to_tensor` and
`bufferization.materialize_in_destination`, and everything behind it by stock mlir-opt:
intermediate tensors become a `memref.alloc` each, freed at the end, and results are computed in
their place wherever nothing speaks against it. Named linalg operations become `linalg.generic`.

Options of mlir-opt that would do the boundary too are not used: they write to arguments, give
results layouts that aren't theirs (`identity-layout-map`), and crash on functions that return an
argument (`buffer-results-to-out-params`, LLVM 22).

Functions without tensors in their signatures stay as they are, tensors inside them included.
Imports: `nkdsl.backends.mlir`, `nkdsl.diagnostics`, xDSL.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO

from xdsl.context import Context
from xdsl.dialects import bufferization, func, tensor
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    FunctionType,
    MemRefType,
    ModuleOp,
    StringAttr,
    TensorType,
    UnitAttr,
)
from xdsl.dialects.linalg import ops as linalg
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.parser import Parser
from xdsl.passes import ModulePass
from xdsl.printer import Printer
from xdsl.rewriter import Rewriter

from nkdsl.backends.mlir import run_mlir_opt
from nkdsl.diagnostics import refuse

MLIR_OPTIONS = (
    # Private functions take and return tensors still; most are gone after these two.
    "--inline",
    "--symbol-dce",
    "--linalg-generalize-named-ops",
    "--eliminate-empty-tensors",
    "--one-shot-bufferize=bufferize-function-boundaries=1",
    "--buffer-deallocation-pipeline",
    "--mlir-print-op-generic",
    "--mlir-print-debuginfo",
    "--mlir-print-local-scope",
)
"""What mlir-opt does once the functions take memrefs."""

ParseText = Callable[[str], ModuleOp]
"""Parses MLIR text in generic form."""


def takes_tensors(module: ModuleOp) -> bool:
    """Whether a public function of a module takes or returns tensors."""
    return any(isinstance(op, func.FuncOp) and _needs_memrefs(op) for op in module.walk())


def bufferize(module: ModuleOp, parse: ParseText, name: str = "<input>") -> ModuleOp:
    """A module on memrefs that does what one on tensors says; the given one is changed.

    Args:
        module: a verified module.
        parse: makes a module of what mlir-opt prints.
        name: what messages of mlir-opt call the program.

    Raises:
        ToolNotFound: where mlir-opt is missing.
        InvalidInput: with mlir-opt's message where it refuses the program.
        DiagnosticException: for a function whose boundary can't be rewritten.
    """
    functions = [op for op in module.walk() if isinstance(op, func.FuncOp) and _needs_memrefs(op)]
    _unshare(module)
    _refuse_calls(module, {function.sym_name.data for function in functions})
    for function in functions:
        _take_memrefs(function)
    names = {
        function.sym_name: [argument.name_hint for argument in function.body.block.args]
        for function in functions
    }
    text = StringIO()
    Printer(stream=text, print_generic_format=True, print_debuginfo=True).print_op(module)
    made = parse(run_mlir_opt(text.getvalue(), list(MLIR_OPTIONS), name))
    for function in [op for op in made.walk() if isinstance(op, func.FuncOp)]:
        # mlir-opt forgets what arguments are called.
        for argument, hint in zip(function.args, names.get(function.sym_name, ()), strict=False):
            argument.name_hint = hint
    return made


def _needs_memrefs(function: func.FuncOp) -> bool:
    if function.is_declaration or function.sym_visibility == StringAttr("private"):
        return False
    types = (*function.function_type.inputs, *function.function_type.outputs)
    return any(isinstance(type_, TensorType) for type_ in types)


def _unshare(module: ModuleOp) -> None:
    """Give each operation that writes to a fresh tensor, or to a filled one, a tensor of its own.

    Programs after common subexpression elimination have one for all. Bufferized as they are, its
    memory would tie together operations that have nothing to do with each other.
    """
    for op in reversed(list(module.walk())):
        if not _is_fresh(op):
            continue
        _, *others = [*op.results[0].uses] or [None]
        for use in others:
            assert use is not None and use.operation.parent is not None
            copy = op.clone()
            use.operation.parent.insert_op_before(copy, use.operation)
            use.operation.operands[use.index] = copy.results[0]


def _is_fresh(op: Operation) -> bool:
    """Whether an operation makes a tensor of undefined contents, or of one number."""
    match op:
        case tensor.EmptyOp():
            return True
        case linalg.FillOp() | linalg.GenericOp() if len(op.results) == len(op.inputs) == 1:
            number, end = op.body.block.args[0], op.body.block.first_op
            return (
                isinstance(end, linalg.YieldOp)
                and end.operands[0] is number
                and not isinstance(op.inputs[0].type, TensorType)
            )
        case _:
            return False


def _refuse_calls(module: ModuleOp, names: set[str]) -> None:
    """Refuse calls of functions that are about to take memrefs."""
    for op in module.walk():
        if isinstance(op, func.CallOp) and op.callee.string_value() in names:
            refuse(
                op,
                f"function '{op.callee.string_value()}' on tensors is called, and can be from "
                "outside too; make it private, or inline it first (mlir-opt --inline)",
            )


def _memref(type_: Attribute) -> Attribute:
    """The memref that holds a tensor; other types are their own."""
    if not isinstance(type_, TensorType):
        return type_
    return MemRefType(type_.get_element_type(), type_.get_shape())


def _take_memrefs(function: func.FuncOp) -> None:
    """Rewrite the boundary of one function."""
    if len(function.body.blocks) != 1:
        refuse(function, f"function '{function.sym_name.data}' on tensors has more than one block")
    returned = function.get_return_op()
    assert returned is not None
    for type_ in function.function_type.outputs:
        if not isinstance(type_, TensorType):
            refuse(
                function,
                f"function '{function.sym_name.data}' returns {type_}; only tensors can be "
                "written to memory that the caller gives",
            )
    block = function.body.block
    first = block.first_op
    assert first is not None
    for argument in block.args:
        if isinstance(argument.type, TensorType):
            block.insert_op_before(_reading(argument), first)
    results = tuple(returned.operands)
    for result in results:
        out = block.insert_arg(_memref(result.type), len(block.args))
        out.name_hint = result.name_hint or "out"
        block.insert_op_before(_written(result, out), returned)
    block.insert_op_before(func.ReturnOp(), returned)
    returned.detach()
    returned.erase()
    function.function_type = FunctionType.from_lists([arg.type for arg in block.args], [])
    if function.arg_attrs is not None:
        nothing = [DictionaryAttr({})] * len(results)
        function.arg_attrs = ArrayAttr([*function.arg_attrs.data, *nothing])
    function.res_attrs = None


def _reading(argument: SSAValue) -> bufferization.ToTensorOp:
    """Let an argument be a memref; the operation that makes a tensor of it for all its users."""
    memref = Rewriter.replace_value_with_new_type(argument, _memref(argument.type))
    read = bufferization.ToTensorOp(memref, restrict=True)
    memref.replace_uses_with_if(read.tensor, lambda use: use.operation is not read)
    return read


def _written(result: SSAValue, out: SSAValue) -> bufferization.MaterializeInDestinationOp:
    """The operation that writes a result to memory of the caller."""
    return bufferization.MaterializeInDestinationOp.create(
        operands=[result, out],
        properties={"restrict": UnitAttr(), "writable": UnitAttr()},
    )


@dataclass(frozen=True)
class BufferizePass(ModulePass):
    """Let functions take memrefs in place of tensors; runs mlir-opt."""

    name = "bufferize"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Replace the contents of the module."""
        if not takes_tensors(op):
            return
        new = bufferize(op, lambda text: Parser(ctx, text).parse_module())
        op.body.detach_block(op.body.block)
        op.body.add_block(new.body.detach_block(new.body.block))
