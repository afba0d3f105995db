"""What xDSL's tools find of nkdsl, and that finding it costs nothing."""

import importlib.metadata
import subprocess
import sys

import pytest
from xdsl.ir import Dialect
from xdsl.passes import ModulePass

from nkdsl.universe import NKDSL_UNIVERSE

PASSES = (
    *("bufferize", "linalg-to-nanokernel", "fold-transposes", "fuse-epilogues", "expand-math"),
    *("plan", "block", "compose", "place-buffers", "unroll", "lower-to-upstream"),
)
OF_MLIR_OPT = ("bufferize",)
"""What stock mlir-opt does for us."""
DIALECTS = ("nanokernel", "nkvector", "tile")


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after a statement."""
    program = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_entry_point_is_registered():
    (entry,) = (
        e for e in importlib.metadata.entry_points(group="xdsl.universe") if e.name == "nkdsl"
    )
    assert entry.load() is NKDSL_UNIVERSE


def test_every_pass_is_announced_by_the_name_that_it_has():
    assert tuple(NKDSL_UNIVERSE.all_passes) == PASSES
    for name, load in NKDSL_UNIVERSE.all_passes.items():
        loaded = load()
        assert issubclass(loaded, ModulePass)
        assert loaded.name == name


def test_every_dialect_is_announced_by_the_name_that_it_has():
    assert tuple(NKDSL_UNIVERSE.all_dialects) == DIALECTS
    for name, load in NKDSL_UNIVERSE.all_dialects.items():
        loaded = load()
        assert isinstance(loaded, Dialect)
        assert loaded.name == name
        assert all(op.name.startswith(f"{name}.") for op in loaded.operations)


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_lives_in_a_module_of_its_name(name):
    folder = "nkdsl" if name in OF_MLIR_OPT else "nkdsl.transforms"
    module = f"{folder}.{name.replace('-', '_')}"
    assert NKDSL_UNIVERSE.all_passes[name]().__module__ == module


def test_importing_nkdsl_loads_neither_xdsl_nor_llvm():
    modules = loaded_by("import nkdsl")
    assert "nkdsl" in modules
    assert not {m for m in modules if m.split(".")[0] in ("xdsl", "llvmlite", "numpy")}


def test_importing_the_universe_loads_no_pass_and_no_dialect():
    modules = loaded_by("import nkdsl.universe")
    heavy = ("nkdsl.dialects", "nkdsl.transforms", "nkdsl.planner", "nkdsl.backends", "llvmlite")
    assert not {m for m in modules if m.startswith(heavy)}


def test_passes_and_dialects_load_no_backend():
    modules = loaded_by(
        "from nkdsl.universe import NKDSL_UNIVERSE as u\n"
        f"passes = [load for name, load in u.all_passes.items() if name not in {OF_MLIR_OPT}]\n"
        "[load() for load in (*passes, *u.all_dialects.values())]"
    )
    assert "nkdsl.transforms.compose" in modules
    assert not {m for m in modules if m.startswith(("nkdsl.backends", "nkdsl.runtime"))}


def test_a_name_that_nkdsl_lacks_is_an_attribute_error():
    import nkdsl

    with pytest.raises(AttributeError, match="no attribute 'matmull'"):
        nkdsl.matmull  # noqa: B018
