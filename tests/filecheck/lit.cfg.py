"""How lit runs the FileCheck tests: `lit tests/filecheck`.

A test is an .mlir file whose RUN lines call `nkdsl-opt`, `nkdsl`, `xdsl-opt`, `filecheck` or
`mlir-opt-22`. The first four come from the environment that lit itself runs in. The last is
whichever mlir-opt of version 22 is found; a test that calls it says `REQUIRES: mlir-opt`.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import lit.formats

MLIR_VERSION = 22


def find_mlir_opt() -> str | None:
    """Return the path of an mlir-opt of the right version, or None.

    NKDSL_MLIR_OPT, when set, is the only candidate.
    """
    named = os.environ.get("NKDSL_MLIR_OPT")
    for name in [named] if named else [f"mlir-opt-{MLIR_VERSION}", "mlir-opt"]:
        path = shutil.which(name)
        if path is None:
            continue
        version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        if f"LLVM version {MLIR_VERSION}." in version.stdout:
            return str(Path(path).absolute())
    if named:
        lit_config.warning(f"NKDSL_MLIR_OPT={named} is not an mlir-opt {MLIR_VERSION}")
    return None


repository = Path(__file__).resolve().parents[2]
scripts = Path(sys.executable).absolute().parent

config.name = "nkdsl"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = [".mlir"]
config.excludes = ["Inputs"]
config.test_source_root = str(repository / "tests" / "filecheck")
config.test_exec_root = str(repository / "build" / "filecheck")

config.environment["PATH"] = os.pathsep.join([str(scripts), os.environ.get("PATH", os.defpath)])
for variable, value in os.environ.items():
    if variable.startswith(("NKDSL_", "XDG_")):
        config.environment[variable] = value

mlir_opt = find_mlir_opt()
if mlir_opt is None:
    lit_config.note(f"no mlir-opt {MLIR_VERSION}: tests that require it are unsupported")
else:
    config.available_features.add("mlir-opt")
    # Only where it stands as a command, not inside a path.
    command = rf"(?<![\w./-])mlir-opt-{MLIR_VERSION}(?![\w./-])"
    config.substitutions.append((command, shlex.quote(mlir_opt)))
    config.environment["NKDSL_MLIR_OPT"] = mlir_opt

# lit pastes paths into RUN lines without quotes. Quoting %s, %S, %p and %t before it does so lets
# the tests run in a directory with a space in its name.
for letter in "sSpt":
    config.substitutions.append((rf"(?<![\"'])%{letter}", f'"%{letter}"'))
