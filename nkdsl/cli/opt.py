"""`nkdsl-opt`: xDSL's `xdsl-opt` with clean errors.

The options, dialects and passes are those of xdsl-opt, which finds nkdsl's by itself. Differences:

- an error is one message with its place in the source, and exit status 1; with
  `--verify-diagnostics` and `--parsing-diagnostics` everything is as in xdsl-opt;
- operations remember where they were parsed, so that a pass which refuses one can say so;
- named linalg operations that xDSL can't parse are generalized by mlir-opt first;
- an output file is written whole or not at all.
"""

import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import IO, Any

from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.exceptions import ParseError
from xdsl.utils.lexer import Input, Span
from xdsl.xdsl_opt_main import xDSLOptMain

from nkdsl.cli.errors import guarded
from nkdsl.cli.output import STDOUT, write_file
from nkdsl.errors import InvalidInput
from nkdsl.frontend import LocatingParser, generalized, verify
from nkdsl.universe import NKDSL_UNIVERSE


class _Held(StringIO):
    """Output that is kept back until the run has succeeded."""

    def close(self) -> None:
        """Keep the text: xDSL closes its output after success and failure alike."""


class OptMain(xDSLOptMain):
    """xdsl-opt's driver with nkdsl's parser and output."""

    def __init__(self, arguments: Sequence[str] | None = None):
        """Parse the arguments (those of the process by default) and set up the passes."""
        self._held = _Held()
        super().__init__("Runs passes of xDSL and nkdsl on MLIR text.", arguments)

    def register_all_dialects(self) -> None:
        """Every dialect that xDSL finds, and nkdsl's even where it is not installed."""
        _untyped(super()).register_all_dialects()
        known = {*self.ctx.registered_dialect_names}
        for name, factory in NKDSL_UNIVERSE.all_dialects.items():
            if name not in known:
                self.ctx.register_dialect(name, factory)

    def register_all_passes(self) -> None:
        """Every pass that xDSL finds, and nkdsl's even where it is not installed."""
        _untyped(super()).register_all_passes()
        for name, factory in NKDSL_UNIVERSE.all_passes.items():
            self.register_pass(name, factory)

    def setup_pipeline(self) -> None:
        """Set up the passes; raises `InvalidInput` for unknown ones and for wrong options."""
        try:
            _untyped(super()).setup_pipeline()
        except ValueError as error:
            raise InvalidInput(f"{error}; nkdsl-opt --help lists the passes") from error

    def prepare_input(self) -> tuple[list[tuple[IO[bytes], int]], str]:
        """Open the input; raises `InvalidInput` where no parser knows its kind."""
        try:
            return super().prepare_input()
        except ValueError as error:
            raise InvalidInput(f"{error}; name the kind of input with --frontend") from error

    def parse_chunk(
        self, chunk: IO[bytes], file_extension: str, start_offset: int = 0
    ) -> ModuleOp | None:
        """Parse one piece of the input, knowing at which line of the whole it begins."""
        if file_extension != "mlir":
            return super().parse_chunk(chunk, file_extension, start_offset)
        name = str(self.args.input_file or "stdin")
        # Operations take their line from the text before them.
        padded = "\n" * start_offset + _decoded(chunk.read(), name)
        text = generalized(padded, name)
        try:
            parser = LocatingParser(self.ctx, text, name)
            module = parser.parse_module(not self.args.no_implicit_module)
        except ParseError as error:
            error.span = _without_padding(error.span, start_offset if text is padded else 0)
            raise
        if not (self.args.disable_verify or self.args.verify_diagnostics):
            verify(module, name)
        return module

    def prepare_output(self) -> IO[str]:
        """Standard output, or a buffer that becomes the output file after success."""
        return sys.stdout if self._path is None else self._held

    def write_output(self) -> None:
        """Write the output file, if there is to be one."""
        if self._path is not None:
            write_file(self._path, self._held.getvalue())

    @property
    def _path(self) -> Path | None:
        name = self.args.output_file
        return None if name in (None, STDOUT) else Path(name)


def _untyped(thing: object) -> Any:
    """Something of xDSL whose methods lack annotations."""
    return thing


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"can't read '{name}': it is not UTF-8 text") from error


def _without_padding(span: Span[str] | Span[bytes], lines: int) -> Span[str] | Span[bytes]:
    """A span of the padded text as a span of the chunk; the driver adds the offset itself."""
    content = span.input.content
    if not lines or not isinstance(content, str):
        return span
    chunk = Input(content[lines:], span.input.name)
    return Span(span.start - lines, span.end - lines, chunk)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `nkdsl-opt`; returns its status."""

    def run() -> int:
        driver = OptMain(arguments)
        _untyped(driver).run()
        driver.write_output()
        return 0

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
