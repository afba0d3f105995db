"""One copy of LLVM's OpenMP runtime in a process, whoever brings it and when."""

import ctypes
import os
import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

from nkdsl.cli import doctor
from nkdsl.errors import InvalidInput
from nkdsl.runtime import openmp

RUNTIME = openmp.find()
ROOT = Path(__file__).parents[2]
needs_openmp = pytest.mark.skipif(RUNTIME is None, reason=openmp.absence())
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")

# What the programs below have at hand. `team` has each thread of a region of 2 add 1, through
# machine code that finds the runtime's functions as kernels do.
PRELUDE = """
import ctypes, os, sys
from pathlib import Path
import llvmlite.binding as llvm
from nkdsl.runtime import openmp

IR = '''
@place = private constant { i32, i32, i32, i32, ptr } { i32 0, i32 2, i32 0, i32 0, ptr null }
declare i32 @__kmpc_global_thread_num(ptr)
declare void @__kmpc_push_num_threads(ptr, i32, i32)
declare void @__kmpc_fork_call(ptr, i32, ptr, ...)
define internal void @part(ptr %thread, ptr %bound, ptr %sum) {
  %old = atomicrmw add ptr %sum, i32 1 seq_cst
  ret void
}
define void @region(ptr %sum) {
  %me = call i32 @__kmpc_global_thread_num(ptr @place)
  call void @__kmpc_push_num_threads(ptr @place, i32 %me, i32 2)
  call void (ptr, i32, ptr, ...) @__kmpc_fork_call(ptr @place, i32 1, ptr @part, ptr %sum)
  ret void
}
'''

def compiled():
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    machine = target.create_target_machine(codemodel="jitdefault", jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(IR), machine)
    engine.finalize_object()
    return engine

def team(engine):
    sum = ctypes.c_int(0)
    region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(engine.get_function_address("region"))
    region(ctypes.addressof(sum))
    return sum.value

def copies():
    "The files in memory that hold a runtime."
    paths = (Path(path) for path in openmp._mapped_libraries())
    return [str(path) for path in paths if openmp._is_runtime(path)]

def blocktime(path):
    return ctypes.CDLL(path, mode=os.RTLD_NOLOAD).kmp_get_blocktime()
"""


def run(program: str, *arguments: str, **variables: str) -> str:
    """What a program prints, in a process of its own where OpenMP is set up by `variables` only."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "KMP_", "LD_PRELOAD"))
    }
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program, *arguments],
        env=inherited | variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def nothing_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a runtime."""
    monkeypatch.delenv(openmp.VARIABLE, raising=False)
    monkeypatch.setattr(openmp, "_FOLDERS", ())
    monkeypatch.setattr(openmp, "_of_environment", lambda: iter(()))
    monkeypatch.setattr(openmp, "_libraries", lambda: iter(()))
    monkeypatch.setattr(openmp, "_running_copy", lambda: None)
    monkeypatch.setattr(openmp, "_loaded", None)
    monkeypatch.setattr(openmp, "_warned", False)


def path_of_runtime() -> str:
    assert RUNTIME is not None
    return RUNTIME.path


# ------------------------------------------------------------------------------- one copy


@needs_openmp
def test_a_copy_is_loaded_where_there_is_none_and_stays_out_of_the_global_scope():
    out = run("""
assert copies() == [] and openmp.find() is not None and copies() == []
runtime = openmp.ensure_loaded()
assert openmp.ensure_loaded() is runtime and openmp.find() is runtime
assert not hasattr(ctypes.CDLL(None), "GOMP_parallel")
print(len(copies()), team(compiled()))
""")
    assert out == "1 2\n"


@needs_openmp
@pytest.mark.parametrize("name", ["libomp.so.5", "libunheardof.so"])
@pytest.mark.parametrize("used", [False, True], ids=["idle", "used"])
def test_a_copy_that_is_loaded_apart_is_used(tmp_path, name, used):
    other = shutil.copy(path_of_runtime(), tmp_path / name)
    program = f"""
other = ctypes.CDLL(sys.argv[1], mode=os.RTLD_LOCAL)
if {used}:
    other.omp_get_max_threads()
runtime = openmp.ensure_loaded()
assert runtime.path == sys.argv[1] and runtime.origin == "already in the process", runtime
print(len(copies()), team(compiled()), other.omp_get_max_threads() > 0)
"""
    assert run(program, other) == "1 2 True\n"


@needs_openmp
def test_a_copy_that_is_preloaded_is_used(tmp_path):
    other = shutil.copy(path_of_runtime(), tmp_path / "libunheardof.so")
    program = """
assert openmp.find().path == sys.argv[1]
assert openmp.ensure_loaded().path == sys.argv[1]
print(len(copies()), team(compiled()))
"""
    assert run(program, other, LD_PRELOAD=other) == "1 2\n"


@needs_openmp
def test_a_copy_in_the_process_comes_before_the_variable(tmp_path):
    other = shutil.copy(path_of_runtime(), tmp_path / "libunheardof.so")
    program = """
other = ctypes.CDLL(sys.argv[1], mode=os.RTLD_LOCAL)
print(openmp.ensure_loaded().path == sys.argv[1], len(copies()))
"""
    assert run(program, other, **{openmp.VARIABLE: path_of_runtime()}) == "True 1\n"


@needs_openmp
def test_of_several_copies_the_one_that_runs_is_used(tmp_path):
    idle = shutil.copy(path_of_runtime(), tmp_path / "libomp.so.5")
    program = """
idle = ctypes.CDLL(sys.argv[1], mode=os.RTLD_LOCAL)
running = ctypes.CDLL(sys.argv[2], mode=os.RTLD_LOCAL)
running.omp_get_max_threads()
print(openmp.ensure_loaded().path != sys.argv[1], team(compiled()))
"""
    assert run(program, idle, path_of_runtime()) == "True 2\n"


@needs_openmp
def test_whoever_loads_the_file_later_gets_the_same_copy():
    out = run("""
runtime = openmp.ensure_loaded()
later = ctypes.CDLL(runtime.path, mode=os.RTLD_GLOBAL)
print(len(copies()), later.omp_get_max_threads() > 0, team(compiled()))
""")
    assert out == "1 True 2\n"


@needs_openmp
@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize("first", ["torch", "nkdsl"])
def test_torch_works_beside_it_in_either_order(first):
    program = """
def use_torch():
    import torch
    return (torch.ones(300, 300) @ torch.ones(300, 300)).sum().item()

def use_nkdsl():
    openmp.ensure_loaded()
    return team(compiled())

if sys.argv[1] == "torch":
    product = use_torch()
print(use_nkdsl())
if sys.argv[1] == "nkdsl":
    product = use_torch()
print(product == 300**3, use_nkdsl())
"""
    assert run(program, first) == "2\nTrue 2\n"


# ---------------------------------------------------------- a copy that nobody can call


@needs_openmp
def test_where_a_copy_runs_that_can_not_be_called_no_second_one_is_loaded():
    out = run("""
# As after linking one into a library, with its functions hidden.
path = openmp.find().path
library = ctypes.CDLL(path, mode=os.RTLD_LOCAL)
library.omp_get_max_threads()
before = copies()
openmp._libraries = lambda: iter(())
print(openmp.find(), openmp.ensure_loaded(), copies() == before, path in openmp.absence())
""")
    assert out == "None None True True\n"


@pytest.mark.parametrize("kept", [True, False], ids=["alive", "left behind"])
def test_a_register_counts_while_its_value_is_where_it_says(monkeypatch, tmp_path, kept):
    libc = ctypes.CDLL(None)
    value = ctypes.c_uint32.in_dll(libc, "opterr")  # any variable of any library
    name = f"__KMP_REGISTERED_LIB_{os.getpid()}_{os.getuid()}"
    told = value.value if kept else value.value + 1
    entry = f"{ctypes.addressof(value):#x}-{told:x}-libomp.so.5"
    Path(tmp_path, name).write_bytes(entry.encode() + bytes(20))
    monkeypatch.setattr(openmp, "_REGISTERS", (str(tmp_path),))
    assert (openmp._running_copy() == openmp._object_at(ctypes.addressof(value))) is kept


@pytest.mark.parametrize("text", ["", "junk", "0x10-cafe0001-libomp.so.5"])
def test_a_register_of_nonsense_does_not_count(monkeypatch, text):
    monkeypatch.setattr(openmp, "_registers", lambda: iter([text]))
    assert openmp._running_copy() is None


# ------------------------------------------------------------------------------ after a fork


@needs_openmp
def test_a_child_of_a_process_with_workers_has_its_own():
    out = run("""
openmp.ensure_loaded()
engine = compiled()
assert team(engine) == 2
child = os.fork()
if child == 0:
    sys.exit(team(engine))  # the long way, on which the runtime tidies up
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), team(engine))
""")
    assert out == "2 2\n"


# ----------------------------------------------------------------------------- its settings


@needs_openmp
def test_idle_workers_of_a_copy_loaded_here_sleep_soon():
    out = run("""
import threading
path = openmp.ensure_loaded().path
print(blocktime(path))
other = threading.Thread(target=lambda: print(blocktime(path)))
other.start()
other.join()
print("KMP_BLOCKTIME" in os.environ)
""")
    assert out == f"{openmp.BLOCKTIME}\n{openmp.BLOCKTIME}\nFalse\n"


@needs_openmp
def test_what_the_user_or_another_package_set_up_stays():
    program = "print(blocktime(openmp.ensure_loaded().path))"
    assert run(program, KMP_BLOCKTIME="37") == "37\n"
    assert run(program, OMP_WAIT_POLICY="active") != f"{openmp.BLOCKTIME}\n"
    program = """
other = ctypes.CDLL(openmp.find().path, mode=os.RTLD_LOCAL)
other.kmp_set_blocktime(41)
print(blocktime(openmp.ensure_loaded().path))
"""
    assert run(program) == "41\n"


@needs_openmp
def test_other_settings_of_the_environment_hold():
    program = "print(ctypes.CDLL(openmp.ensure_loaded().path).omp_get_max_threads())"
    assert run(program, OMP_NUM_THREADS="3") == "3\n"


@needs_openmp
def test_the_number_of_threads_of_regions_that_ask_for_none():
    out = run("""
library = ctypes.CDLL(openmp.ensure_loaded().path)
openmp.set_threads(5)
print(library.omp_get_max_threads())
""")
    assert out == "5\n"


# ---------------------------------------------------------------------------------- finding


@needs_openmp
def test_the_variable_names_the_file(tmp_path):
    other = shutil.copy(path_of_runtime(), tmp_path / "libunheardof.so")
    program = """
runtime = openmp.find()
assert openmp.ensure_loaded() == runtime and copies() == [sys.argv[1]]
print(runtime)
"""
    assert run(program, other, NKDSL_OPENMP=other) == f"{other} (NKDSL_OPENMP)\n"


@pytest.mark.parametrize("content", [None, b"", b"\x7fELF GOMP_parallel\0"])
def test_the_variable_must_name_a_runtime(nothing_found, monkeypatch, tmp_path, content):
    file = tmp_path / "libgomp.so.1"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv(openmp.VARIABLE, str(file))
    for ask in (openmp.find, openmp.ensure_loaded):
        with pytest.raises(InvalidInput, match=f"{file} is not LLVM's .*, or unset NKDSL_OPENMP"):
            ask()


def test_a_named_file_that_can_not_be_loaded_is_refused(nothing_found, monkeypatch, tmp_path):
    file = make_candidate(tmp_path)
    monkeypatch.setenv(openmp.VARIABLE, str(file))
    with pytest.raises(InvalidInput, match=f"{file} can't be loaded"):
        openmp.ensure_loaded()


def test_a_named_library_must_have_what_kernels_call(nothing_found, monkeypatch):
    # Not just any: one that a test has made may need the runtime itself.
    c_library = next(path for path in openmp._mapped_libraries() if "/libc." in path)
    monkeypatch.setenv(openmp.VARIABLE, c_library)
    monkeypatch.setattr(openmp, "_is_runtime", lambda path: True)
    with pytest.raises(InvalidInput, match="lacks functions that kernels call"):
        openmp.ensure_loaded()


def test_a_found_file_that_can_not_be_loaded_is_passed_over(nothing_found, monkeypatch, tmp_path):
    make_candidate(tmp_path)
    monkeypatch.setattr(openmp, "_FOLDERS", (str(tmp_path),))
    assert openmp.ensure_loaded() is None


def test_the_latest_llvm_comes_first_and_the_environment_before_the_system(
    nothing_found, monkeypatch, tmp_path
):
    nine, ten = (make_candidate(tmp_path / f"llvm-{version}" / "lib") for version in (9, 10))
    monkeypatch.setattr(openmp, "_FOLDERS", (f"{tmp_path}/llvm-*/lib",))
    found = openmp.find()
    assert found is not None
    assert str(found) == f"{ten} (LLVM 10, the system)"
    monkeypatch.setattr(openmp, "_of_environment", lambda: iter([nine]))
    found = openmp.find()
    assert found is not None
    assert found.path == str(nine)


def make_candidate(folder: Path) -> Path:
    """A file that has the name of a runtime and looks like one, and is none."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / openmp.NAMES[0]
    file.write_bytes(openmp._MARK)
    return file


# ---------------------------------------------------------------------------------- absence


def test_where_there_is_none_one_warning_says_how_to_get_it(nothing_found):
    assert openmp.find() is None
    assert openmp.ensure_loaded() is None
    with pytest.warns(RuntimeWarning, match=r"one thread: .* apt-get install .* NKDSL_OPENMP"):
        openmp.warn_missing()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        openmp.warn_missing()


def test_the_doctor_says_how_to_get_it_and_that_it_is_not_needed(nothing_found):
    finding = doctor._openmp()
    assert (finding.mark, finding.found) == ("absent", openmp.absence())


@needs_openmp
def test_the_doctor_says_where_it_is(monkeypatch):
    monkeypatch.delenv(openmp.VARIABLE, raising=False)
    finding = doctor._openmp()
    assert finding.mark == "ok"
    assert finding.found == str(openmp.find())


def test_the_doctor_reports_a_variable_that_names_something_else(nothing_found, monkeypatch):
    monkeypatch.setenv(openmp.VARIABLE, "/nonexistent")
    finding = doctor._openmp()
    assert finding.mark == "MISSING"
    assert "/nonexistent" in finding.found
