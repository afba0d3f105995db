"""The public functions; `import nkdsl` finds them here on first use."""

from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.utils.exceptions import DiagnosticException

from nkdsl.backends.mlir import started_translator
from nkdsl.dialects.nanokernel import GemmOp
from nkdsl.emulation.calls import emulated_target
from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.frontend import Source, load, make_context, to_generic_text
from nkdsl.pipeline import collector_paused, lower
from nkdsl.runtime import openmp
from nkdsl.runtime.kernel import Kernel
from nkdsl.runtime.signature import read_signature
from nkdsl.runtime.threads import resolve_threads
from nkdsl.targets import can_run, get_target
from nkdsl.targets.model import Target
from nkdsl.transforms.lower_to_upstream import workspace_bytes

__all__ = ["Kernel", "compile"]


def compile(
    source: Source,
    target: str | Target = "host",
    *,
    function: str | None = None,
    threads: int | None = 1,
    emulate: bool = False,
) -> Kernel:
    """Compile a function that holds matrix products.

    Args:
        source: MLIR text, the path of a file that holds it, or an xDSL module; at the linalg
            level, or at the nanokernel level with or without plans.
        target: a known target's name, `host`, or a `Target`, which need not be registered.
        function: which function; may be left out where the program has only one.
        threads: how many threads may share a product; None for as many as this process should use
            (`NKDSL_NUM_THREADS`, else its share of the cores). Results don't depend on it.
        emulate: whether calls go through an emulator where this CPU isn't the target: of Intel AMX
            in this process, of AArch64 in a process of QEMU. It is right, not fast.

    Returns:
        The kernel. Its machine code is made here if this CPU can run the target, so that the
        first call costs no more than the others.

    Raises:
        InvalidInput: for a program that can't be parsed, with the position of what is wrong.
        Unsupported: naming what can't be served and the remedy.
        ToolNotFound: where mlir-opt or mlir-translate is missing; says how to install it.
    """
    resolved = get_target(target) if isinstance(target, str) else target
    if emulate:
        resolved = emulated_target(resolved)
    count = usable_threads(threads)
    with collector_paused, started_translator() as translator:
        context = make_context()
        module = load(source, context)
        chosen = _choose(module, function)
        kept = module.clone()
        try:
            lower(module, context, resolved, end="nanokernel", threads=count)
            signature = read_signature(chosen)
            plans = tuple(str(op.plan) for op in module.walk() if isinstance(op, GemmOp))
            lower(module, context, resolved, start="nanokernel")
        except DiagnosticException as error:
            raise Unsupported(last_line(error)) from error
        llvm_ir = translator.to_llvm_ir(to_generic_text(module))
    kernel = Kernel(
        source=kept,
        signature=signature,
        target=resolved,
        llvm_ir=llvm_ir,
        workspace_bytes=workspace_bytes(chosen),
        plans=plans,
        threads=count,
        emulate=emulate,
    )
    if emulate or can_run(resolved) is None:
        kernel.prepare()
    return kernel


def usable_threads(requested: int | None) -> int:
    """How many threads a kernel may have; one, with a warning, without OpenMP's runtime."""
    count = resolve_threads(requested)
    if count > 1 and openmp.ensure_loaded() is None:
        openmp.warn_missing()
        return 1
    return count


def last_line(error: DiagnosticException) -> str:
    """A pass's message without the picture of the module around it."""
    cause = error.__cause__ if isinstance(error.__cause__, DiagnosticException) else error
    return str(cause)


def is_private(function: func.FuncOp) -> bool:
    """Whether a function is one that passes made, or that others call."""
    return function.sym_visibility == StringAttr("private")


def _choose(module: ModuleOp, name: str | None) -> func.FuncOp:
    """The function to compile."""
    functions = [
        op
        for op in module.walk()
        if isinstance(op, func.FuncOp) and not op.is_declaration and not is_private(op)
    ]
    names = ", ".join(f.sym_name.data for f in functions) or "none"
    if name is None:
        if len(functions) == 1:
            return functions[0]
        raise InvalidInput(f"name the function to compile; the program has {names}")
    for candidate in functions:
        if candidate.sym_name.data == name:
            return candidate
    raise InvalidInput(f"the program has no function '{name}'; it has {names}")
