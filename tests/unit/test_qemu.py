"""QEMU runs functions for AArch64 on arrays of this process, and tells how they ended.

The functions are a few lines of LLVM IR each. What needs no QEMU comes last.
"""

import re

import numpy as np
import pytest

import nkdsl
from nkdsl.backends import native
from nkdsl.emulation import qemu
from nkdsl.emulation.qemu import Call, Processor, run
from nkdsl.errors import InvalidInput, ToolFailed, ToolNotFound, Unsupported
from nkdsl.targets import get_target

needs_qemu = pytest.mark.skipif(qemu.obstacle() is not None, reason=str(qemu.obstacle()))


def object_of(text: str) -> bytes:
    return native.emit_object(text, get_target("neoverse-n1"))


SUM = object_of("""
define void @sum(ptr %result, i64 %a, float %b, double %c, i64 %d, i64 %e, i64 %f, i64 %g, i64 %h,
                 i64 %i, i64 %j) {
  %b64 = fpext float %b to double
  %bc = fadd double %b64, %c
  %weighted = mul i64 %j, 1000
  %rest = add i64 %a, %weighted
  %rest64 = sitofp i64 %rest to double
  %total = fadd double %bc, %rest64
  store double %total, ptr %result
  ret void
}
""")
"""Some of its arguments are passed on the stack."""

ADD_ONE = object_of("""
define void @add_one(ptr %source, ptr %result, i64 %first, i64 %end) {
begin:
  br label %more
more:
  %i = phi i64 [%first, %begin], [%next, %more]
  %from = getelementptr float, ptr %source, i64 %i
  %to = getelementptr float, ptr %result, i64 %i
  %value = load float, ptr %from
  %sum = fadd float %value, 1.0
  store float %sum, ptr %to
  %next = add i64 %i, 1
  %again = icmp slt i64 %next, %end
  br i1 %again, label %more, label %done
done:
  ret void
}
""")


def numbers(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.float32)


# ---- Arguments --------------------------------------------------------------------------------


@needs_qemu
def test_arguments_of_every_kind_arrive() -> None:
    result = np.zeros(1)
    run(SUM, [Call("sum", (result, -7, np.float32(0.5), 0.25, 0, 0, 0, 0, 0, 0, 3))])
    assert result[0] == -7 + 0.5 + 0.25 + 3000


@needs_qemu
@pytest.mark.parametrize("at", ["start", "end"])
def test_what_is_written_arrives_in_views_of_any_strides(at) -> None:
    memory = numbers(60).reshape(6, 10)
    view = memory[::2, 7:1:-3]  # its first element is not at its lowest address
    expected = memory.copy()
    expected[0, 7] += 1
    run(ADD_ONE, [Call("add_one", (view, view, 0, 1))], at=at)
    np.testing.assert_array_equal(memory, expected)


@needs_qemu
def test_holes_of_a_view_are_left_to_their_owner() -> None:
    memory = 10 * numbers(8)
    run(ADD_ONE, [Call("add_one", (memory[::2], memory[1::2], 2, 3))])
    assert list(memory) == [0, 10, 20, 21, 40, 50, 60, 70]


@needs_qemu
def test_an_empty_array_may_be_passed_but_not_read() -> None:
    result, empty = np.zeros(1), np.zeros(0, np.float32)
    run(SUM, [Call("sum", (result, 1, np.float32(0), 0.0, 0, 0, 0, 0, 0, 0, 0))])
    with pytest.raises(ToolFailed, match="SIGSEGV"):
        run(ADD_ONE, [Call("add_one", (empty, numbers(4), 0, 1))])


@needs_qemu
def test_calls_share_a_process_and_none_sees_what_another_writes() -> None:
    first, second = numbers(4), np.zeros(4, np.float32)
    calls = [Call("add_one", (first, second, 0, 4)), Call("add_one", (second, first, 0, 4))]
    run(ADD_ONE, calls)
    assert list(second) == [1, 2, 3, 4]
    assert list(first) == [1, 1, 1, 1]


# ---- What goes wrong --------------------------------------------------------------------------


@needs_qemu
@pytest.mark.parametrize(("at", "first", "end"), [("end", 0, 5), ("start", -1, 4)])
def test_an_element_too_far_is_found_out(at, first: int, end: int) -> None:
    source, result = numbers(4), np.zeros(8, np.float32)
    with pytest.raises(ToolFailed, match=r"^add_one was killed by SIGSEGV under .*qemu"):
        run(ADD_ONE, [Call("add_one", (source, result[2:6], first, end))], at=at)
    assert not result.any()


@needs_qemu
def test_writing_at_the_unguarded_end_is_found_out_afterwards() -> None:
    poke = object_of("define void @poke(i64 %n, ptr %p) {\n store i64 %n, ptr %p\n ret void\n}")
    result = np.zeros(3, np.int8)
    with pytest.raises(ToolFailed, match="poke wrote beside the array of argument 1"):
        run(poke, [Call("poke", (7, result))], at="start")
    assert not result.any()


@needs_qemu
def test_an_array_that_is_not_writeable_is_not_written() -> None:
    source, result = numbers(4), numbers(4)
    result.flags.writeable = False
    with pytest.raises(ToolFailed, match="SIGSEGV"):
        run(ADD_ONE, [Call("add_one", (source, result, 0, 4))])


@needs_qemu
def test_the_call_that_failed_is_named() -> None:
    good = Call("add_one", (numbers(4), numbers(4), 0, 4))
    bad = Call("add_one", (numbers(4), numbers(4), 0, 5))
    with pytest.raises(ToolFailed, match=r"add_one \(call 2 of 4\) was killed by SIGSEGV"):
        run(ADD_ONE, [good, good, bad, good])


@needs_qemu
def test_a_call_that_never_returns_is_stopped() -> None:
    endless = object_of("define void @endless() {\n br label %l\nl:\n br label %l\n}")
    with pytest.raises(ToolFailed, match=r"endless had not returned after 0\.3 s"):
        run(endless, [Call("endless", ())], timeout=0.3)


@needs_qemu
def test_a_function_that_is_missing_is_named() -> None:
    calling = object_of("declare void @elsewhere()\ndefine void @f() {\n call void @elsewhere()\n "
                        "ret void\n}")  # fmt: skip
    with pytest.raises(ToolFailed, match=r"undefined symbol: elsewhere"):
        run(calling, [Call("f", ())])
    with pytest.raises(ToolFailed, match=r"undefined symbol: g"):
        run(calling, [Call("g", ())])


@needs_qemu
def test_a_processor_that_qemu_does_not_know_is_refused_in_its_words() -> None:
    with pytest.raises(ToolFailed, match="abacus"):
        run(ADD_ONE, [Call("add_one", (numbers(4), numbers(4), 0, 4))], Processor("abacus"))


# ---- Processors -------------------------------------------------------------------------------

VECTOR_LENGTHS = object_of("""
declare i64 @llvm.vscale.i64()
define void @vector(ptr %result) "target-features"="+sve" {
  %vscale = call i64 @llvm.vscale.i64()
  store i64 %vscale, ptr %result
  ret void
}
define void @streaming(ptr %result) nounwind "aarch64_pstate_sm_body" "target-features"="+sme" {
  %vscale = call i64 @llvm.vscale.i64()
  store i64 %vscale, ptr %result
  ret void
}
""")
"""How many times 128 bits registers have."""


@needs_qemu
@pytest.mark.parametrize("bits", [128, 256, 512, 2048])
def test_registers_are_as_wide_as_asked_for(bits: int) -> None:
    found = np.zeros(1, np.int64)
    run(VECTOR_LENGTHS, [Call("vector", (found,))], Processor(vector_bits=bits))
    assert 128 * found[0] == bits
    processor = Processor(vector_bits=128, streaming_bits=bits)
    run(VECTOR_LENGTHS, [Call("streaming", (found,))], processor)
    assert 128 * found[0] == bits


@needs_qemu
@pytest.mark.parametrize("symbol", ["vector", "streaming"])
def test_a_processor_without_an_extension_does_not_execute_it(symbol: str) -> None:
    with pytest.raises(ToolFailed, match=f"{symbol} was killed by SIGILL"):
        run(VECTOR_LENGTHS, [Call(symbol, (np.zeros(1, np.int64),))])


@needs_qemu
def test_what_is_illegal_in_streaming_mode_is_not_executed() -> None:
    words = ("0xD503437F", "0x4E20D400", "0xD503427F", "0xD65F03C0")
    listing = ", ".join(f"i32 u{word}" for word in words)  # smstart sm; fadd v0.4s…; smstop sm; ret
    text = f"define void @f() prologue [4 x i32] [{listing}] {{ unreachable }}"
    with pytest.raises(ToolFailed, match="f was killed by SIGILL"):
        run(object_of(text), [Call("f", ())], Processor(streaming_bits=256))


# ---- Kernels ----------------------------------------------------------------------------------

PRODUCT = """
func.func @product(%a: memref<?x?xf32>, %b: memref<?x?xf32>, %c: memref<?x?xf32>, %s: f32) {
  linalg.matmul ins(%a, %b : memref<?x?xf32>, memref<?x?xf32>) outs(%c : memref<?x?xf32>)
  func.return
}
"""

SCALED = """
func.func @scaled(%a: memref<5x6xf32>, %c: memref<5x6xf32, strided<[9, 1]>>, %s: f32) {
  linalg.generic {indexing_maps = [affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> ()>,
                                   affine_map<(m, n) -> (m, n)>],
                  iterator_types = ["parallel", "parallel"]}
      ins(%a, %s : memref<5x6xf32>, f32) outs(%c : memref<5x6xf32, strided<[9, 1]>>) {
    ^bb0(%x: f32, %t: f32, %y: f32):
      %p = arith.mulf %x, %t : f32
      linalg.yield %p : f32
  }
  func.return
}
"""


@needs_qemu
def test_an_executor_does_what_a_call_of_the_kernel_does() -> None:
    execute = qemu.executor(nkdsl.compile(SCALED, "neoverse-n1"))
    a, memory = np.random.default_rng(0).random((5, 6), np.float32), np.zeros((5, 9), np.float32)
    execute(a, memory[:, :6], 2.0)
    np.testing.assert_array_equal(memory[:, :6], 2 * a)
    assert not memory[:, 6:].any()


@needs_qemu
def test_an_executor_refuses_what_does_not_fit() -> None:
    execute = qemu.executor(nkdsl.compile(SCALED, "neoverse-n1"))
    with pytest.raises(InvalidInput, match="argument 0 of scaled"):
        execute(np.zeros((5, 7), np.float32), np.zeros((5, 9), np.float32)[:, :6], 1.0)


@needs_qemu
@pytest.mark.slow  # run-time sizes: many blocks are compiled
def test_an_executor_passes_sizes_and_a_workspace() -> None:
    execute = qemu.executor(nkdsl.compile(PRODUCT, "neoverse-n1"))
    random = np.random.default_rng(0)
    for m, n, k in ((1, 1, 1), (7, 29, 18), (300, 200, 300)):
        a, b = (random.integers(-4, 5, s).astype(np.float32) for s in ((m, k), (k, n)))
        c = np.ones((m, n), np.float32)
        execute(a, b, c, 0.0)
        np.testing.assert_array_equal(c, 1 + a @ b)


@needs_qemu
def test_an_executor_runs_code_for_aarch64_only() -> None:
    kernel = nkdsl.compile(SCALED, "x86-64-v3")
    with pytest.raises(Unsupported, match="QEMU runs code for aarch64, but target 'x86-64-v3'"):
        qemu.executor(kernel)


TILES_OF_INTEGERS = """
func.func @product(%a: memref<32x64xi8>, %b: memref<64x32xi8>, %c: memref<32x32xi32>) {
  nanokernel.gemm ins(%a[m, k], %b[k, n] : memref<32x64xi8>, memref<64x32xi8>)
    outs(%c[m, n] : memref<32x32xi32>)
  func.return
}
"""


@needs_qemu
def test_what_qemu_computes_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "version", lambda: (7, 2))
    kernel = nkdsl.compile(TILES_OF_INTEGERS, "armv9-sme")
    with pytest.raises(ToolNotFound, match=r"7\.2, which computes .* wrongly; version 10\.0"):
        qemu.executor(kernel)
    monkeypatch.setattr(qemu, "version", lambda: (10, 0))
    assert callable(qemu.executor(kernel))


# ---- Tools ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("processor", "option"),
    [
        (Processor(), "max,sve=off,sme=off"),
        (Processor(vector_bits=256), "max,sve256=on,sve-default-vector-length=32,sme=off"),
        (Processor(streaming_bits=512), "max,sme512=on,sme_fa64=off"),
        (
            Processor(vector_bits=128, streaming_bits=256),
            "max,sve128=on,sve-default-vector-length=16,sme256=on,sme_fa64=off",
        ),
        (Processor("neoverse-n1"), "neoverse-n1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_processors_as_qemu_takes_them(processor: Processor, option: str) -> None:
    assert processor.option == option


@pytest.mark.parametrize(
    ("target", "processor"),
    [
        ("neoverse-n1", Processor()),
        ("neoverse-v2", Processor(vector_bits=128)),
        ("armv9-sme", Processor(streaming_bits=512)),
    ],
)
def test_a_target_gets_a_processor_with_all_it_needs(target: str, processor: Processor) -> None:
    assert qemu.processor_of(get_target(target)) == processor


def test_a_missing_tool_is_an_obstacle_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(qemu.VARIABLE, "/nowhere/qemu")
    obstacle = qemu.obstacle()
    assert obstacle is not None
    assert re.search(r"NKDSL_QEMU_AARCH64=/nowhere/qemu.*apt-get install.*qemu-user", obstacle)
    monkeypatch.delenv(qemu.VARIABLE)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ToolNotFound, match="qemu-aarch64 or qemu-aarch64-static"):
        qemu.find_qemu()


@needs_qemu
def test_qemu_tells_its_version() -> None:
    assert qemu.version() >= (5, 0)
