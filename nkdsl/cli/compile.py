"""`nkdsl compile FILE`: the program at any level, or as native code for any target.

Levels of MLIR and text go to standard output, code to a file named after the program, unless `-o`
says otherwise. All functions of the program are compiled; each is exported by its name and takes
one pointer a memref, followed by the sizes and strides that its type leaves open (and a pointer to
the workspace where something is packed or kept): see `--header`.

With `--pack` functions read some arguments packed (`cli.packing`); how these lie in memory is told
on standard error, and by the header.
"""

import argparse
import re
import sys
from pathlib import Path

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from nkdsl.backends import linker, mlir, native
from nkdsl.cli.output import STDOUT, write_file
from nkdsl.cli.packing import PackedProgram, add_pack, compiled_functions, pack_program
from nkdsl.cli.threads import add_threads
from nkdsl.errors import InvalidInput
from nkdsl.frontend import load, make_context, to_text
from nkdsl.pipeline import LEVELS, lower
from nkdsl.runtime.signature import read_signature
from nkdsl.runtime.threads import resolve_threads
from nkdsl.targets import get_target
from nkdsl.targets.model import Target
from nkdsl.transforms.lower_to_upstream import workspace_bytes

MLIR_LEVELS = {"mlir": "upstream"} | {level: level for level in LEVELS}
"""What `--emit` calls a level of MLIR."""

SUFFIXES = {"obj": ".o", "so": ".so"}
"""Binary kinds of output and the suffixes of their files."""

KINDS = ("mlir", "llvm", "asm", *SUFFIXES, *LEVELS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.add_argument("file", metavar="FILE", help="a program in MLIR text")
    parser.add_argument("--target", default="host", help="see nkdsl targets; default: host")
    parser.add_argument(
        "--emit", choices=KINDS, default="asm", metavar="KIND", help=f"one of {', '.join(KINDS)}"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="where to; - is standard output, the default of text"
    )
    add_threads(parser)
    add_pack(parser)
    parser.add_argument("--header", metavar="FILE", help="also write the C declarations")


def main(arguments: argparse.Namespace) -> int:
    """Compile, then write everything at the end."""
    target = get_target(arguments.target)
    context = make_context()
    module = load(Path(arguments.file), context)
    _refuse_signatures(module)
    threads = resolve_threads(arguments.threads)
    packed = None
    if arguments.pack is not None:
        packed = pack_program(module, target, threads, arguments.pack)
        module = packed.module.clone()
        for line in packed.told():
            print(f"packed  {line}", file=sys.stderr)
    header = None
    if arguments.header:
        header = _header(module.clone(), context, target, threads, packed)
    end = MLIR_LEVELS.get(arguments.emit, "upstream")
    lower(module, context, target, end=end, threads=threads)
    module.verify()
    content = _emit(arguments.emit, to_text(module), target)
    _write(content, arguments.output or _default_output(arguments))
    if header is not None:
        write_file(Path(arguments.header), header)
    return 0


def _refuse_signatures(module: ModuleOp) -> None:
    """Refuse functions that no kernel can have, before anything is lowered."""
    functions = compiled_functions(module)
    if not functions:
        raise InvalidInput("the program has no function to compile")
    for function in functions:
        read_signature(function)


def _emit(kind: str, text: str, target: Target) -> str | bytes:
    if kind in MLIR_LEVELS:
        return text
    llvm_ir = mlir.to_llvm_ir(text)
    match kind:
        case "llvm":
            return llvm_ir
        case "asm":
            return native.emit_assembly(llvm_ir, target)
        case "obj":
            return native.emit_object(llvm_ir, target)
        case _:
            return linker.link_shared(native.emit_object(llvm_ir, target), target.triple)


def _default_output(arguments: argparse.Namespace) -> str:
    suffix = SUFFIXES.get(arguments.emit)
    return STDOUT if suffix is None else Path(arguments.file).stem + suffix


def _write(content: str | bytes, output: str) -> None:
    if output != STDOUT:
        write_file(Path(output), content)
    elif isinstance(content, str):
        sys.stdout.write(content)
    else:
        sys.stdout.buffer.write(content)


def _header(
    module: ModuleOp,
    context: Context,
    target: Target,
    threads: int,
    packed: PackedProgram | None = None,
) -> str:
    """C declarations of a program, which is lowered all the way to learn its workspaces.

    Which integers have no sign is known once products are raised.
    """
    lower(module, context, target, end="nanokernel", threads=threads)
    signatures = [read_signature(function) for function in compiled_functions(module)]
    lower(module, context, target, start="nanokernel")
    sizes = {
        function.sym_name.data: workspace_bytes(function) for function in compiled_functions(module)
    }
    declarations = "\n".join(
        _packed_comment(packed, s.symbol) + s.declaration(sizes[s.symbol]) for s in signatures
    )
    include = "#include <stdint.h>\n\n" if re.search(r"\bu?int\d+_t\b", declarations) else ""
    return f"""#pragma once
{include}#ifdef __cplusplus
extern "C" {{
#endif

{declarations}

#ifdef __cplusplus
}}
#endif
"""


def _packed_comment(packed: PackedProgram | None, symbol: str) -> str:
    """How arguments of a function lie that it reads packed, in C; nothing where there are none."""
    layouts = packed.layouts.get(symbol) if packed is not None else None
    if not layouts:
        return ""
    lines = ["These arguments are packed; what fills their memory up besides are zeros:"]
    for name, layout in layouts.items():
        sizes = "".join(f"[{size}]" for size in layout.panels)
        place = layout.place("i", "j")
        lines.append(f"{name}{sizes}: {layout}, fingerprint {layout.fingerprint};")
        lines.append(f"  the element of row i and column j is {name}{place}")
        if layout.sums:
            last = f"{name}[p][{layout.panels[1] - 1}]"
            lines.append(f"  {last} holds {layout.sums} times panel p's sums over k, as int32_t")
    text = "\n".join(f" * {line}" for line in lines)
    return f"/*\n{text}\n */\n"
