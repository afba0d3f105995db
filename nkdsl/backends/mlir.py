"""Stock mlir-opt and mlir-translate: finding them and running them.

The two make one pipe, a `Translator`. It is started before there is anything to translate, so that
the tools load while the compiler is still at work:

    with started_translator() as translator:
        text = ...
        llvm_ir = translator.to_llvm_ir(text)

Each tool is looked for by its environment variable (`NKDSL_MLIR_OPT`, `NKDSL_MLIR_TRANSLATE`),
then as `mlir-opt-22`, then as `mlir-opt`; its version must be the one that the pipeline was
written for.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import IO

from nkdsl.errors import InvalidInput, ToolFailed, ToolNotFound

MLIR_VERSION = 22
"""The major version of MLIR whose passes the pipeline uses."""

LOWER_TO_LLVM = (
    "--convert-linalg-to-loops",
    "--lower-affine",
    "--convert-math-to-llvm",
    "--convert-math-to-libm",  # what LLVM has no intrinsic for
    "--convert-scf-to-cf",
    "--convert-vector-to-llvm=enable-x86vector",
    "--finalize-memref-to-llvm",
    "--convert-cf-to-llvm",
    "--convert-func-to-llvm=use-bare-ptr-memref-call-conv",
    "--convert-openmp-to-llvm",
    "--convert-arith-to-llvm",
    "--reconcile-unrealized-casts",
    "--canonicalize",
    "--cse",
    "--emit-bytecode",  # quicker than text between the tools
    "--verify-each=false",  # the parsed module and the result are verified all the same
)
"""mlir-opt's options from the upstream dialects to the llvm dialect."""

BROKEN_PIPE = (-signal.SIGPIPE, os.EX_IOERR)
"""How a tool ends when nobody reads what it writes: by the signal, or as LLVM handles that."""

INSTALL = f"apt-get install --no-install-recommends mlir-{MLIR_VERSION}-tools"


def find_tool(name: str) -> str:
    """The path of `mlir-opt` or `mlir-translate`.

    Raises:
        ToolNotFound: where it is missing or of another version; says how to install it.
    """
    variable = "NKDSL_" + name.upper().replace("-", "_")
    return _find_tool(name, variable, os.environ.get(variable), os.environ.get("PATH", ""))


@cache
def _find_tool(name: str, variable: str, chosen: str | None, path: str) -> str:
    """As `find_tool`; cached for one setting of the environment."""
    candidates = [chosen] if chosen else [f"{name}-{MLIR_VERSION}", name]
    found = next((p for c in candidates if (p := shutil.which(c, path=path))), None)
    if found is None:
        where = f"{variable}={chosen}" if chosen else " or ".join(candidates)
        raise ToolNotFound(f"{name} not found ({where}); install it with: {INSTALL}")
    version = tool_version(found)
    if version != MLIR_VERSION:
        raise ToolNotFound(
            f"{found} is version {version}, but version {MLIR_VERSION} is needed; "
            f"install it with: {INSTALL}, or name it in {variable}"
        )
    return found


@cache
def tool_version(path: str) -> int | None:
    """The major LLVM version of a tool, None where it doesn't tell."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise ToolNotFound(f"can't run {path}: {error.strerror}") from error
    match = re.search(r"version (\d+)\.", done.stdout)
    return int(match[1]) if match else None


def run_mlir_opt(text: str, options: list[str], name: str = "<input>") -> str:
    """What mlir-opt makes of some MLIR text given by a user.

    Raises:
        ToolNotFound: where mlir-opt is missing.
        InvalidInput: with mlir-opt's message where it refuses the text.
    """
    done = subprocess.run(
        [find_tool("mlir-opt"), *options], input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InvalidInput(done.stderr.strip().replace("<stdin>", name))
    return done.stdout


@dataclass(frozen=True)
class Translator:
    """mlir-opt and mlir-translate side by side, for one module in upstream dialects."""

    opt: "subprocess.Popen[bytes]"
    translate: "subprocess.Popen[bytes]"
    errors: tuple[IO[bytes], IO[bytes]]
    """What each of them prints."""

    def to_llvm_ir(self, text: str) -> str:
        """LLVM IR of a module in upstream dialects; can be called once.

        Raises:
            ToolFailed: with a tool's message where it refuses the module.
        """
        assert self.opt.stdin is not None
        # Where the pipe is broken, the tool has failed, and says below why.
        with suppress(BrokenPipeError), self.opt.stdin as stdin:
            stdin.write(text.encode())
        llvm_ir, _ = self.translate.communicate()
        self.opt.wait()
        if self.opt.returncode or self.translate.returncode:
            raise ToolFailed(self._failure())
        return llvm_ir.decode()

    def _failure(self) -> str:
        """What to say of the tool that failed by itself.

        One that says why comes first. Where none does, mlir-opt may have been ended by
        mlir-translate, which no longer read what it wrote.
        """
        for process, errors in zip((self.opt, self.translate), self.errors, strict=True):
            if process.returncode and (message := _content(errors)):
                return f"{_program(process)} failed:\n{message}"
        if self.opt.returncode in BROKEN_PIPE:
            reader = self.translate
            return f"{_program(reader)} failed: it {_end(reader)} before it had read its input"
        failed = self.opt if self.opt.returncode else self.translate
        return f"{_program(failed)} failed: it {_end(failed)} without a message"


@contextmanager
def started_translator() -> Iterator[Translator]:
    """Both tools, which load while the caller is at work; they end with the context.

    Raises:
        ToolNotFound: where a tool is missing.
    """
    opt_command = [find_tool("mlir-opt"), *LOWER_TO_LLVM]
    translate_command = [find_tool("mlir-translate"), "--mlir-to-llvmir"]
    pipe = subprocess.PIPE
    with (
        # Messages go to files: nobody reads a pipe of them while the other tool is waited for.
        tempfile.TemporaryFile() as opt_errors,
        tempfile.TemporaryFile() as translate_errors,
        subprocess.Popen(opt_command, stdin=pipe, stdout=pipe, stderr=opt_errors) as opt,
        subprocess.Popen(
            translate_command, stdin=opt.stdout, stdout=pipe, stderr=translate_errors
        ) as translate,
    ):
        # Only mlir-translate reads the pipe between them.
        assert opt.stdout is not None
        opt.stdout.close()
        try:
            yield Translator(opt, translate, (opt_errors, translate_errors))
        finally:
            opt.kill()
            translate.kill()


def _program(process: "subprocess.Popen[bytes]") -> str:
    """The path of a process's program."""
    arguments = process.args
    return str(arguments[0]) if isinstance(arguments, list) else str(arguments)


def _end(process: "subprocess.Popen[bytes]") -> str:
    """How a process ended."""
    status = process.returncode
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit status {status}"


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").strip()


def to_llvm_ir(text: str) -> str:
    """LLVM IR of a module in upstream dialects.

    Raises:
        ToolNotFound: where a tool is missing.
        ToolFailed: with the tool's message where it refuses the module.
    """
    with started_translator() as translator:
        return translator.to_llvm_ir(text)
