"""The native checks in front of a kernel: what they let through, what they leave to Python."""

import gc
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest

import nkdsl
from nkdsl.backends.native import LoadedCode
from nkdsl.errors import InvalidInput
from nkdsl.runtime import entry as entry_module
from nkdsl.runtime.entry import CheckedCall, native_entry, write_checks
from nkdsl.runtime.signature import Signature
from nkdsl.runtime.workspace import ALIGNMENT, HUGE_PAGE, SLOTS, aligned_bytes
from tests.unit.helpers import Product
from tests.unit.test_signature import ANY, DENSE, ROWS, arrays, blocked, matmul, signature_of

pytestmark = pytest.mark.skipif(
    not entry_module.IS_KNOWN, reason="arrays don't look in memory as the native checks expect"
)


def loaded(llvm_ir: str) -> LoadedCode:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=0, jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(llvm_ir), machine)
    engine.finalize_object()
    return LoadedCode(engine)


class Counted(CheckedCall):
    """Counts the calls that come to Python."""

    calls = 0
    settled = 0

    def __call__(self, *arguments: Any, **keywords: Any) -> None:
        self.calls += 1
        super().__call__(*arguments, **keywords)

    def settle(self, *arguments: Any) -> None:
        self.settled += 1
        super().settle(*arguments)


class Recorder:
    """A native function that notes what it gets, behind native checks."""

    def __init__(self, signature: Signature, workspace_bytes: int = 0):
        types: list[str] = []
        for p in signature.parameters:
            if p.scalar:
                types.append("float" if p.element.name == "f32" else "double")
            else:
                types += ["ptr", *["i64"] * len(p.open_sizes + p.open_strides)]
        if workspace_bytes:
            types.append("ptr")
        self.types = types
        self.memory = np.zeros(len(types) + 1, np.int64)
        lines = [self.store(i + 1, type_) for i, type_ in enumerate(types)]
        parameters = ", ".join(f"{type_} %a{i + 1}" for i, type_ in enumerate(types))
        code = loaded(
            f"""define void @record({parameters}) {{
              %n = load i64, ptr {self.place(0)}
              %m = add i64 %n, 1
              store i64 %m, ptr {self.place(0)}
              {"".join(lines)}
              ret void
            }}"""
        )
        self.checked = Counted(
            signature, (code, self.memory), code.address("record"), workspace_bytes
        )
        self.entry = native_entry(self.checked)

    def place(self, index: int) -> str:
        return f"inttoptr (i64 {self.memory.ctypes.data + 8 * index} to ptr)"

    def store(self, index: int, type_: str) -> str:
        if type_ != "float":
            return f"store {type_} %a{index}, ptr {self.place(index)}\n"
        wide = f"%w{index} = fpext float %a{index} to double\n"
        return f"{wide}store double %w{index}, ptr {self.place(index)}\n"

    @property
    def count(self) -> int:
        """Calls of the native function."""
        return int(self.memory[0])

    @property
    def values(self) -> list[int | float]:
        """What the last call brought."""
        floats = self.memory[1:].view(np.float64)
        return [
            float(floats[i]) if type_ in ("float", "double") else int(self.memory[i + 1])
            for i, type_ in enumerate(self.types)
        ]


# --------------------------------------------------------------------- what goes straight through


SCALED = f"func.func @f(%alpha: f32, %a: {ROWS}, %beta: f64) {{ func.return }}"

PLAIN: dict[str, tuple[Signature, list[Any]]] = {
    "static": (matmul("memref<4x5xf32>", "memref<5x6xf32>", "memref<4x6xf32>"), arrays()),
    "dense": (matmul(), arrays()),
    "mixed": (matmul("memref<4x?xf32>", "memref<?x6xf32>", ANY), arrays()),
    "strided": (
        matmul(ROWS, ANY, ANY),
        [
            np.zeros((9, 9), np.float32)[1:5, 2:7],
            np.zeros((5, 24), np.float32)[:, ::4],
            arrays()[2],
        ],
    ),
    "columns": (matmul(ANY, ANY, ANY), [np.asfortranarray(array) for array in arrays()]),
    "double": (matmul(*["memref<?x?xf64>"] * 3), arrays(dtype=np.float64)),
    "no rank": (
        signature_of("func.func @f(%a: memref<f32>) { func.return }"),
        [np.zeros((), np.float32)],
    ),
    "one row": (matmul(ROWS, DENSE, DENSE), arrays(m=1)),
    "no step": (
        matmul(ROWS, DENSE, ROWS),
        [
            np.zeros((5, 1), np.float32).T,
            np.zeros((5, 1), np.float32),
            np.zeros((1, 1), np.float32),
        ],
    ),
    "nothing": (matmul(), arrays(0, 0, 0)),
    "blocked": (
        blocked(),
        [np.zeros(shape, np.float32) for shape in ((3, 10), (5, 4, 2), (3, 4))],
    ),
    "three dimensions": (
        signature_of(
            "func.func @f(%a: memref<?x3x?xf32, strided<[?, ?, 1]>>, %b: memref<?x?x?xf64>)"
            "{ func.return }"
        ),
        [np.zeros((4, 9, 7), np.float32)[::2, ::3, 1:4], np.zeros((2, 3, 4))],
    ),
    "numbers": (signature_of(SCALED), [0.1, arrays()[0], -2.5]),
    "large number": (signature_of(SCALED), [1e300, arrays()[0], 1e300]),
    "no arguments": (signature_of("func.func @f() { func.return }"), []),
}


@pytest.mark.parametrize("workspace_bytes", [0, 640])
@pytest.mark.parametrize("name", PLAIN)
def test_plain_arguments_need_no_python(name, workspace_bytes):
    signature, given = PLAIN[name]
    recorder = Recorder(signature, workspace_bytes)
    if workspace_bytes:
        recorder.entry(*given)
    assert recorder.checked.settled == recorder.count
    for _ in range(3):
        assert recorder.entry(*given) is None
    assert recorder.checked.calls == 0
    assert recorder.checked.settled == (1 if workspace_bytes else 0)
    assert recorder.count == (4 if workspace_bytes else 3)
    wanted = signature.check(given)
    values = recorder.values
    if workspace_bytes:
        assert values.pop() % ALIGNMENT == 0
    with np.errstate(over="ignore"):
        singles = [t == "float" for t in recorder.types]
        wanted = [float(np.float32(w)) if s else w for w, s in zip(wanted, singles, strict=False)]
    assert values == wanted
    recorder.checked(*given)
    assert recorder.values[: len(values)] == values


def test_an_entry_has_the_functions_name():
    assert Recorder(matmul()).entry.__name__ == "product"


# ---------------------------------------------------------------- what looks odd and fits after all


class Named(np.ndarray):
    """An array with attributes of its own."""


def with_metadata(array: np.ndarray) -> np.ndarray:
    view = array.view(np.dtype("f4", metadata={"unit": "m"}))
    assert view.dtype is not array.dtype
    return view


def any_row(array: np.ndarray, stride: int) -> np.ndarray:
    return np.lib.stride_tricks.as_strided(array, (1, 5), (stride, 4))


ODD: dict[str, tuple[Signature, list[Any]]] = {
    "subclass": (matmul(), [array.view(Named) for array in arrays()]),
    "metadata": (matmul(), [with_metadata(array) for array in arrays()]),
    "empty": (
        matmul(ANY, ROWS, ROWS),
        [np.zeros((4, 0), "f4")[::-1], np.zeros((0, 6), "f4"), np.zeros((4, 6), "f4")],
    ),
    "numbers": (signature_of(SCALED), [1, arrays()[0], np.float32(3)]),
    "middle outmost": (
        signature_of(
            "func.func @f(%a: memref<f32>, %b: memref<?x?x?xf32, strided<[?, ?, ?]>>) {"
            "%z = arith.constant 0.0 : f32 linalg.fill ins(%z : f32) "
            "outs(%b : memref<?x?x?xf32, strided<[?, ?, ?]>>) func.return }"
        ),
        [np.zeros((), "f4"), np.zeros((2, 3, 4), "f4").transpose(1, 0, 2)],
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_arguments_that_fit_are_welcome(name):
    signature, given = ODD[name]
    recorder = Recorder(signature)
    recorder.entry(*given)
    assert recorder.values == signature.check(given)


@pytest.mark.parametrize("stride", [-400, -3, 0, 2, 4, 1 << 40])
@pytest.mark.parametrize("type_", [DENSE, ROWS, ANY, "memref<1x?xf32>", "memref<1x5xf32>"])
def test_a_stride_that_is_never_walked_needs_no_python(type_, stride):
    recorder = Recorder(matmul(type_))
    given = [any_row(np.zeros(99, np.float32), stride), *arrays(m=1)[1:]]
    recorder.entry(*given)
    assert recorder.checked.calls == 0
    assert recorder.values == recorder.checked.signature.check(given)


def test_interleaved_arguments_that_share_no_element_are_accepted():
    memory = np.zeros((4, 12), np.float32)
    given = [memory[:, :6], np.zeros((6, 6), np.float32), memory[:, 6:]]
    recorder = Recorder(matmul(ROWS, DENSE, ROWS))
    recorder.entry(*given)
    assert recorder.checked.calls == recorder.count == 1


# ------------------------------------------------------------------------------- what is refused


def strange(random: np.random.Generator, shape: tuple[int, int], pool: np.ndarray) -> Any:
    """An array that is what one expects, or else."""
    array: Any = np.zeros(shape, np.float32)
    match random.integers(14):
        case 0:
            array = array[::-1]
        case 1:
            array = np.asfortranarray(array)
        case 2:
            array = np.repeat(array, 2, 0)[::2]
        case 3:
            array = np.repeat(array, 3, 1)[:, ::3]
        case 4:
            array = array.astype(random.choice(["f8", ">f4", "i4"]))
        case 5:
            array.flags.writeable = False
        case 6:
            array = array[: random.integers(shape[0] + 1)]
        case 7:
            array = array[0] if shape[0] else array.reshape(-1)
        case 8:
            strides = (int(random.integers(-9, 40)), int(random.choice([-4, 0, 2, 4, 8])))
            array = np.lib.stride_tricks.as_strided(pool[40:], shape, strides)
        case 9:
            array = pool[1 : 1 + 4 * shape[0] * shape[1]].view(np.float32).reshape(shape)
        case 10 | 11:
            start = 4 * int(random.integers(40))
            array = pool[start : start + 4 * shape[0] * shape[1]].view(np.float32).reshape(shape)
        case 12:
            array = [None, 1.0, "x"][random.integers(3)]
        case _:
            pass
    return array


FUZZED = [
    matmul("memref<2x3xf32>", "memref<3x2xf32>", "memref<2x2xf32>"),
    matmul(),
    matmul(ROWS, ROWS, ROWS),
    matmul(ANY, ANY, ANY),
    matmul("memref<2x?xf32>", "memref<?x2xf32>", "memref<2x?xf32, strided<[?, 1]>>"),
]


@pytest.mark.parametrize("index", range(len(FUZZED)))
def test_native_and_pythons_checks_are_of_one_mind(index):
    """Both refuse with the same words, or both call the kernel with the same values."""
    random = np.random.default_rng(index)
    recorder, called, refused = Recorder(FUZZED[index]), 0, 0
    pool = np.zeros(4096, np.uint8)
    for _ in range(3000):
        m, n, k = random.choice([2, 2, 2, 3, 1, 0], 3) if random.random() < 0.5 else (2, 2, 3)
        shapes = ((m, k), (k, n), (m, n))
        given = [
            strange(random, shape, pool) if random.random() < 0.4 else np.zeros(shape, np.float32)
            for shape in shapes
        ]
        before = recorder.count
        try:
            wanted = recorder.checked.signature.check(given)
        except InvalidInput as error:
            with pytest.raises(InvalidInput) as caught:
                recorder.entry(*given)
            assert str(caught.value) == str(error)
            assert recorder.count == before
            refused += 1
        else:
            recorder.entry(*given)
            assert recorder.values == wanted
            assert recorder.count == before + 1
            called += 1
    assert min(called, refused) > 300
    assert recorder.checked.calls - refused < called / 2


@pytest.mark.parametrize(("length", "blocks"), [(9, 5), (10, 6), (0, 1)])
def test_an_index_out_of_bounds_is_refused(length, blocks):
    recorder = Recorder(blocked())
    shapes = ((3, length), (blocks, 4, 2), (3, 4))
    with pytest.raises(InvalidInput, match="is indexed from 0 to"):
        recorder.entry(*(np.zeros(shape, np.float32) for shape in shapes))
    assert recorder.count == 0


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_wrong_number_of_arguments_is_refused(count):
    with pytest.raises(InvalidInput, match=f"product takes 3 arrays, got {count}"):
        Recorder(matmul()).entry(*(arrays() * 2)[:count])


def test_keywords_are_left_to_python():
    recorder = Recorder(matmul(), 64)
    workspace = aligned_bytes(64)
    recorder.entry(*arrays(), workspace=workspace)
    assert recorder.values[-1] == workspace.ctypes.data
    with pytest.raises(InvalidInput, match="the workspace needs 64 bytes"):
        recorder.entry(*arrays(), workspace=workspace[:32])
    with pytest.raises(TypeError, match="unexpected keyword argument 'out'"):
        recorder.entry(*arrays(), out=arrays()[2])
    assert recorder.count == 1


# --------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("workspace_bytes", [0, 64])
def test_references_are_counted(workspace_bytes):
    recorder = Recorder(matmul(), workspace_bytes)
    entry: Any = recorder.entry
    given = arrays()
    odd = [array.view(Named) for array in given]
    wrong = [given[0], given[0], given[2]]
    keyword = aligned_bytes(64)

    def counts() -> list[int]:
        objects = [*given, *odd, keyword, entry, entry.__self__, recorder.checked, np.ndarray]
        return [sys.getrefcount(thing) for thing in objects]

    def use() -> None:
        entry(*given)
        entry(*odd)
        entry(*given, workspace=keyword)
        for spoiled in (wrong, given[:2]):
            with pytest.raises(InvalidInput):
                entry(*spoiled)

    use()
    gc.collect()
    before, nones = counts(), sys.getrefcount(None)
    for _ in range(200):
        use()
    gc.collect()
    assert counts() == before
    assert abs(sys.getrefcount(None) - nones) < 100


def test_signatures_alike_share_their_checks():
    def text(symbol: str, type_: str, workspace: bool = False) -> str:
        source = f"func.func @{symbol}(%{symbol}: {type_}) {{ func.return }}"
        return write_checks(signature_of(source), workspace=workspace)

    assert text("f", DENSE) == text("g", DENSE)
    kinds = [
        text("f", type_, workspace)
        for type_ in (DENSE, ROWS, ANY, "memref<4x4xf32>", "memref<?x?xf64>", "f32")
        for workspace in (False, True)
    ]
    assert len(set(kinds)) == len(kinds)


def test_python_checks_where_arrays_look_unknown(monkeypatch):
    monkeypatch.setattr(entry_module, "IS_KNOWN", False)
    recorder = Recorder(matmul(), 64)
    assert recorder.entry is recorder.checked
    recorder.entry(*arrays())
    assert recorder.count == 1


@pytest.mark.parametrize("size", [1, 64, 1000, HUGE_PAGE - 1])
def test_bytes_start_at_a_cache_line(size):
    memory = aligned_bytes(size)
    assert (memory.size, memory.ctypes.data % ALIGNMENT) == (size, 0)
    memory[...] = 1


@pytest.mark.parametrize("size", [HUGE_PAGE, 3 * HUGE_PAGE + 5])
def test_many_bytes_start_at_a_huge_page(size):
    memory = aligned_bytes(size)
    assert (memory.size, memory.ctypes.data % HUGE_PAGE) == (size, 0)
    memory[...] = 1


# -------------------------------------------------------------------------------------- threads


class Gate:
    """A native function that waits until it may pass, with a workspace that only it writes."""

    def __init__(self) -> None:
        signature = signature_of("func.func @wait(%out: memref<2xf64>) { func.return }")
        self.open = np.zeros(1, np.int64)
        code = loaded(
            f"""define void @wait(ptr %out, ptr %workspace) {{
            begin:
              %address = ptrtoint ptr %workspace to i64
              store i64 %address, ptr %out
              br label %look
            look:
              %i = phi i64 [0, %begin], [%j, %look]
              %j = add i64 %i, 1
              %open = load volatile i64, ptr inttoptr (i64 {self.open.ctypes.data} to ptr)
              %passed = icmp ne i64 %open, 0
              %tired = icmp ugt i64 %j, 20000000000
              %done = or i1 %passed, %tired
              br i1 %done, label %end, label %look
            end:
              %last = getelementptr i64, ptr %out, i64 1
              store i64 %open, ptr %last
              ret void
            }}"""
        )
        self.checked = Counted(signature, (code, self.open), code.address("wait"), 4096)
        self.entry = native_entry(self.checked)

    def together(self, count: int, odd: int = 0) -> set[int]:
        """Calls at the same time, some of them through Python; the addresses of workspaces."""
        self.open[...] = 0
        outs = [np.zeros(2, np.float64) for _ in range(count)]
        given = [out.view(Named) if i < odd else out for i, out in enumerate(outs)]
        threads = [threading.Thread(target=self.entry, args=(array,)) for array in given]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while not all(out.view(np.int64)[0] for out in outs) and time.monotonic() < deadline:
            time.sleep(0.001)
        self.open[...] = 1
        for thread in threads:
            thread.join()
        assert all(out.view(np.int64)[1] == 1 for out in outs)
        addresses = {int(out.view(np.int64)[0]) for out in outs}
        assert len(addresses) == count
        return addresses


def test_pythons_lock_is_free_while_native_code_runs():
    # Were it not, no thread could open the gate.
    gate = Gate()
    gate.together(1)
    gate.together(1)
    assert (gate.checked.calls, gate.checked.settled) == (0, 1)
    gate.together(1, odd=1)
    assert gate.checked.calls == 1


def test_calls_at_the_same_time_have_workspaces_of_their_own():
    gate = Gate()
    first = gate.together(8)
    assert gate.checked.settled == 8
    assert gate.together(8) == first
    assert gate.together(3) <= first
    assert gate.checked.settled == 8


def test_more_calls_at_the_same_time_than_slots():
    gate = Gate()
    count = SLOTS + 3
    first = gate.together(count)
    assert gate.checked.settled == count
    assert gate.together(count) == first
    assert gate.checked.settled == count + 3
    assert gate.together(2, odd=2) < first


def test_one_workspace_serves_one_thread():
    recorder = Recorder(matmul(), 64)
    seen = set()
    for _ in range(50):
        recorder.entry(*arrays())
        seen.add(recorder.values[-1])
    assert len(seen) == 1


def test_eight_threads_may_call_one_entry():
    recorder = Recorder(matmul(), 64)

    def work(_: int) -> int:
        given = arrays()
        for _repeat in range(2000):
            recorder.entry(*given)
        return sum(sys.getrefcount(array) for array in given)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(work, range(8)))) == 1
    assert recorder.checked.settled <= 8


FORK = """
import os, sys
import numpy as np
from tests.unit.test_entry import Recorder
from tests.unit.test_signature import arrays, matmul

recorder = Recorder(matmul(), 3 << 20)
given = arrays()
for _ in range(3):
    recorder.entry(*given)
child = os.fork()
for _ in range(3):
    recorder.entry(*given)
fresh = Recorder(matmul("memref<4x?xf32>"), 64)
fresh.entry(*given)
assert recorder.count == 6 and recorder.checked.settled == 1 and fresh.count == 1
if child == 0:
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
print("both")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_an_entry_works_on_both_sides_of_a_fork():
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        cwd=root, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "both\n"), done.stderr


@pytest.mark.parametrize("dynamic", ["", "mnk"])
def test_what_fits_never_reaches_pythons_checks(monkeypatch, dynamic):
    """The checks in machine code would be of no use if Python's ran all the same."""
    sizes = (("m", 7), ("n", 9), ("k", 5))
    kernel = nkdsl.compile(Product("mk,kn->mn", sizes, from_zero=True, dynamic=dynamic).source)
    a, b, c = (np.ones(shape, np.float32) for shape in ((7, 5), (5, 9), (7, 9)))
    kernel(a, b, c)  # a first call may have to make a workspace
    reached = []
    monkeypatch.setattr(CheckedCall, "_run", lambda self, *given, **how: reached.append(given))
    c[:] = np.nan
    kernel(a, b, c)
    assert np.array_equal(c, np.full((7, 9), 5, np.float32))
    assert not reached
    kernel(a, b, c[:3])
    assert len(reached) == 1
