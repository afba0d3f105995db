"""`nkdsl`: one command, its subcommands each a module of this package.

    nkdsl run examples/matmul_512.mlir
    nkdsl compile examples/matmul_512.mlir --target x86-64-v3 --emit=asm
    nkdsl explain 127x255x511 --dtype f32 --target skylake-avx512
    nkdsl run examples/matmul_bf16.mlir --target sapphirerapids --emulate

Only the chosen subcommand's module is imported.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from nkdsl.cli.errors import guarded

COMMANDS = {
    "run": "compile a program, check it against numpy on random data, and report its speed; or "
    "emulate its processor",
    "compile": "compile a program to MLIR, LLVM IR, assembly, an object or a shared library",
    "explain": "what is planned for a product and why: blocks, registers or tiles, edges, cycles",
    "bench": "measure kernels against their peers, or count what they execute",
    "doctor": "what is installed, what is missing and how to get it",
    "targets": "the known processors and which of them this machine can run or emulate",
    "opt": "run passes; the same as nkdsl-opt",
}
"""Every subcommand with its line of help; each is a module here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `nkdsl` with some arguments (those of the process by default); returns its status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["opt"]:
        from nkdsl.cli import opt

        return opt.main(given[1:])
    return guarded(lambda: _run(given))


def _run(arguments: list[str]) -> int:
    parsed = make_parser(arguments[0] if arguments else "").parse_args(arguments)
    return int(parsed.main(parsed))


def make_parser(command: str) -> argparse.ArgumentParser:
    """The parser of the command line, with the arguments of one subcommand filled in."""
    parser = argparse.ArgumentParser(
        prog="nkdsl",
        description="A compiler that composes matrix-product kernels from nanokernels.",
    )
    parser.add_argument("--version", action="version", version=f"nkdsl {version('nkdsl')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, help_ in COMMANDS.items():
        subparser = commands.add_parser(name, help=help_, description=f"nkdsl {name}: {help_}.")
        if name != command:
            continue
        module = import_module(f"nkdsl.cli.{name}")
        module.add_arguments(subparser)
        subparser.set_defaults(main=module.main)
    return parser


if __name__ == "__main__":
    sys.exit(main())
