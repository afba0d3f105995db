"""Finding mlir-opt and the linker, what their failures say, and what the object code holds."""

import ctypes
import os
import struct
from pathlib import Path

import numpy as np
import pytest

import nkdsl
from nkdsl.backends import linker, mlir, native
from nkdsl.errors import InvalidInput, ToolFailed, ToolNotFound, Unsupported
from nkdsl.frontend import load, make_context, to_generic_text, to_text
from nkdsl.targets import can_run, get_target
from tests.unit.helpers import Product

SOURCE = Product("mk,kn->mn", (("m", 3), ("n", 20), ("k", 5))).source
CAN_RUN_V3 = can_run(get_target("x86-64-v3"))
needs_v3 = pytest.mark.skipif(CAN_RUN_V3 is not None, reason=str(CAN_RUN_V3))


@pytest.fixture(scope="module")
def kernel() -> nkdsl.Kernel:
    return nkdsl.compile(SOURCE, target="x86-64-v3")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in PATH, empty; no tool is named by a variable."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in ("NKDSL_MLIR_OPT", "NKDSL_MLIR_TRANSLATE"):
        monkeypatch.delenv(name, raising=False)
    return folder


def make_tool(folder: Path, name: str, *, version: str = "22.1.8", body: str = "exit 0") -> str:
    """A shell script that tells a version, and does `body` for any other option."""
    tool = folder / name
    tool.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = --version ]; then echo "  LLVM version {version}"; exit 0; fi\n'
        f"{body}\n"
    )
    tool.chmod(0o755)
    return str(tool)


# ------------------------------------------------------------------------------ finding tools


@pytest.mark.parametrize("name", ["mlir-opt", "mlir-translate"])
def test_the_name_with_the_version_comes_before_the_plain_one(path, name):
    make_tool(path, name)
    versioned = make_tool(path, f"{name}-22")
    assert mlir.find_tool(name) == versioned


@pytest.mark.parametrize("name", ["mlir-opt", "mlir-translate"])
def test_the_plain_name_will_do(path, name):
    plain = make_tool(path, name)
    assert mlir.find_tool(name) == plain


@pytest.mark.parametrize("name", ["mlir-opt", "mlir-translate"])
def test_a_tool_named_by_its_variable_is_the_only_candidate(path, tmp_path, monkeypatch, name):
    make_tool(path, f"{name}-22")
    chosen = make_tool(tmp_path, "mine")
    variable = "NKDSL_" + name.upper().replace("-", "_")
    monkeypatch.setenv(variable, chosen)
    assert mlir.find_tool(name) == chosen
    monkeypatch.setenv(variable, str(tmp_path / "gone"))
    with pytest.raises(ToolNotFound, match=f"{variable}={tmp_path}/gone"):
        mlir.find_tool(name)


def test_a_missing_tool_comes_with_the_command_that_installs_it(path):
    with pytest.raises(ToolNotFound) as caught:
        mlir.find_tool("mlir-opt")
    message = str(caught.value)
    assert "mlir-opt not found (mlir-opt-22 or mlir-opt)" in message
    assert "apt-get install --no-install-recommends mlir-22-tools" in message


def test_a_tool_of_another_version_is_refused_and_the_variable_named(path):
    tool = make_tool(path, "mlir-opt", version="21.0.0")
    with pytest.raises(ToolNotFound) as caught:
        mlir.find_tool("mlir-opt")
    message = str(caught.value)
    assert f"{tool} is version 21, but version 22 is needed" in message
    assert "NKDSL_MLIR_OPT" in message


def test_a_tool_that_does_not_tell_its_version_is_refused(path):
    make_tool(path, "mlir-opt", version="unknown")
    with pytest.raises(ToolNotFound, match="is version None, but version 22 is needed"):
        mlir.find_tool("mlir-opt")


def test_a_file_that_is_no_program_is_refused(path, monkeypatch):
    broken = path / "broken"
    broken.write_bytes(b"\x7fELF nonsense")
    broken.chmod(0o755)
    monkeypatch.setenv("NKDSL_MLIR_OPT", str(broken))
    with pytest.raises(ToolNotFound, match=f"can't run {broken}"):
        mlir.find_tool("mlir-opt")


def test_compiling_without_tools_says_what_to_install(path):
    with pytest.raises(ToolNotFound, match="apt-get install"):
        nkdsl.compile(SOURCE, target="x86-64-v3")


# ---------------------------------------------------------------------------- failing tools


def test_what_mlir_opt_prints_is_in_the_error():
    with pytest.raises(ToolFailed) as caught:
        mlir.to_llvm_ir("func.func @f() { nonsense }")
    message = str(caught.value)
    assert "mlir-opt" in message.splitlines()[0]
    assert "failed:" in message.splitlines()[0]
    assert "error:" in message


def test_what_mlir_translate_prints_is_in_the_error(path, monkeypatch):
    monkeypatch.setenv("PATH", os.pathsep.join([str(path), "/usr/bin", "/bin"]))
    make_tool(path, "mlir-opt-22", body="cat")
    translate = make_tool(
        path, "mlir-translate-22", body="cat > /dev/null; echo no such luck >&2; exit 3"
    )
    with pytest.raises(ToolFailed, match=f"{translate} failed:\nno such luck"):
        mlir.to_llvm_ir("module {}")


@pytest.mark.parametrize(
    ("opt", "translate", "blamed", "words"),
    [
        ("cat > /dev/null; kill -PIPE $$", "echo no >&2; exit 3", "translate", "failed:\nno"),
        ("cat > /dev/null; exit 74", "echo no >&2; exit 3", "translate", "failed:\nno"),
        ("cat > /dev/null; kill -PIPE $$", "exit 3", "translate", "ended with exit status 3 befor"),
        ("cat > /dev/null; exit 74", "exit 0", "translate", "ended with exit status 0 before it"),
        ("cat > /dev/null; exit 74", "kill -9 $$", "translate", "was killed by SIGKILL before it"),
        ("echo bad >&2; exit 1", "cat > /dev/null; echo empty >&2; exit 1", "opt", "failed:\nbad"),
        ("cat > /dev/null; exit 2", "cat > /dev/null", "opt", "ended with exit status 2 without"),
        ("cat", "cat > /dev/null; exit 2", "translate", "ended with exit status 2 without a mess"),
    ],
)
def test_the_tool_that_failed_is_told_from_the_one_that_it_took_along(
    path, monkeypatch, opt, translate, blamed, words
):
    monkeypatch.setenv("PATH", os.pathsep.join([str(path), "/usr/bin", "/bin"]))
    tools = {
        "opt": make_tool(path, "mlir-opt-22", body=opt),
        "translate": make_tool(path, "mlir-translate-22", body=translate),
    }
    with pytest.raises(ToolFailed) as caught:
        mlir.to_llvm_ir("module {}")
    assert str(caught.value).startswith(f"{tools[blamed]} failed:")
    assert words in str(caught.value)


def test_a_program_that_mlir_opt_refuses_is_invalid_input_with_the_users_name():
    with pytest.raises(InvalidInput, match=r"mine\.mlir:1:\d+: error:"):
        mlir.run_mlir_opt("nonsense", [], name="mine.mlir")


def test_llvm_ir_that_is_none_is_refused():
    with pytest.raises(ToolFailed, match="LLVM refuses the module"):
        native.emit_assembly("nonsense", get_target("x86-64-v3"))


# ------------------------------------------------------------------------------ generic form

ODD = r"""
func.func @odd(%a: memref<4xf32>, %n: index) -> (index, f32) attributes {"an odd name" = "\"q\""} {
  %c0 = arith.constant {marked} 0 : index
  %c1 = arith.constant 1 : index
  cf.br ^loop(%c0 : index)
^loop(%i: index):
  %next = arith.addi %i, %c1 overflow<nsw> {note = "a b", "two words"} : index
  %more = arith.cmpi ult, %next, %n : index
  cf.cond_br %more, ^loop(%next : index), ^end
^end:
  %x:2 = scf.if %more -> (index, f32) {
    %v = memref.load %a[%c0] : memref<4xf32>
    scf.yield %next, %v : index, f32
  } else {
    %w = arith.constant 0.1 : f32
    scf.yield %i, %w : index, f32
  }
  return %x#0, %x#1 : index, f32
}
"""


def test_the_generic_form_is_the_same_program_to_mlir():
    module = load(ODD, make_context())
    texts = [mlir.run_mlir_opt(print_(module), []) for print_ in (to_text, to_generic_text)]
    assert texts[0] == texts[1]
    assert '"an odd name"' in texts[0]


# ----------------------------------------------------------------------------- native code


def test_code_is_not_loaded_where_the_cpu_lacks_a_feature(kernel, monkeypatch):
    monkeypatch.setattr(native, "can_run", lambda target: "it needs what this CPU lacks")
    with pytest.raises(Unsupported) as caught:
        native.load(kernel.ir("llvm"), kernel.target)
    message = str(caught.value)
    assert "can't run code for target 'x86-64-v3': it needs what this CPU lacks" in message
    assert "compile for target 'host', or emit assembly or an object file" in message
    # Emitting needs no such CPU.
    assert "vfmadd" in native.emit_assembly(kernel.ir("llvm"), kernel.target)


def symbols(object_code: bytes) -> dict[str, tuple[int, bool]]:
    """The named symbols of a 64-bit ELF object: (type and binding, whether defined) by name."""
    assert object_code[:6] == b"\x7fELF\x02\x01"
    start, entry_size, entries = (
        struct.unpack_from("<Q", object_code, 40)[0],
        *struct.unpack_from("<HH", object_code, 58),
    )
    headers = [
        struct.unpack_from("<IIQQQQIIQQ", object_code, start + i * entry_size)
        for i in range(entries)
    ]
    found = {}
    for _, kind, _, _, offset, size, link, _, _, each in headers:
        if kind != 2:  # SHT_SYMTAB
            continue
        names = object_code[headers[link][4] : headers[link][4] + headers[link][5]]
        for at in range(offset, offset + size, each):
            name, info, _, section = struct.unpack_from("<IBBH", object_code, at)
            text = names[name : names.index(b"\0", name)].decode()
            if text:
                found[text] = info, section != 0
    return found


def test_an_object_defines_the_function_and_needs_nothing(kernel):
    found = symbols(kernel.object_code())
    global_function = (1 << 4) | 2  # STB_GLOBAL, STT_FUNC
    assert found["product"] == (global_function, True)
    assert [name for name, (_, defined) in found.items() if not defined] == []


def test_an_object_is_for_the_machine_of_its_target(kernel):
    machine = struct.unpack_from("<H", kernel.object_code(), 18)[0]
    assert machine == 62  # EM_X86_64


@needs_v3
def test_a_shared_library_works_from_c(kernel, tmp_path):
    file = tmp_path / "libproduct.so"
    file.write_bytes(kernel.shared_library())
    function = ctypes.CDLL(str(file)).product
    a, b = np.ones((3, 5), np.float32), np.full((5, 20), 2, np.float32)
    c = np.ones((3, 20), np.float32)
    function(*(ctypes.c_void_p(array.ctypes.data) for array in (a, b, c)))
    assert (c == 11).all()


def test_a_missing_linker_comes_with_the_command_that_installs_one(kernel, path):
    with pytest.raises(ToolNotFound) as caught:
        kernel.shared_library()
    message = str(caught.value)
    assert "no linker found (ld.lld-22, ld.lld, ld)" in message
    assert "apt-get install --no-install-recommends lld-22" in message


def test_what_the_linker_prints_is_in_the_error(path):
    tool = make_tool(path, "ld", body="echo out of sorts >&2; exit 1")
    with pytest.raises(ToolFailed, match=f"{tool} failed:\nout of sorts"):
        linker.link_shared(b"", "x86_64-unknown-linux-gnu")


def test_the_systems_plain_linker_is_not_trusted_with_other_machines(path):
    make_tool(path, "ld")
    with pytest.raises(ToolNotFound, match=r"no linker found \(ld\.lld-22, ld\.lld\)"):
        linker.link_shared(b"", "aarch64-unknown-linux-gnu")
