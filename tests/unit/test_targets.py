"""The tables are possible and true to LLVM; the registry and the choice for this machine work."""

import re
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints

import llvmlite.binding as llvm
import numpy as np
import pytest

from nkdsl.errors import InvalidInput, Unsupported
from nkdsl.targets import (
    Cache,
    Target,
    can_run,
    detect,
    get_target,
    host,
    known_targets,
    registry,
    validate,
)
from nkdsl.targets import cpu as cpu_module
from nkdsl.targets.amx import AMX, AMX_BF16
from nkdsl.targets.cpu import CacheGeometry, Cpu
from nkdsl.targets.x86 import fma_entry
from nkdsl.types import element_type

TABLES = registry.BUILT_IN
ENTRIES = [(target, instruction) for target in TABLES for instruction in target.instructions]

TILED = [(target, instruction) for target in TABLES for instruction in target.tile_instructions]

each_table = pytest.mark.parametrize("target", TABLES, ids=lambda t: t.name)
each_entry = pytest.mark.parametrize(
    ("target", "instruction"), ENTRIES, ids=[f"{t.name}-{i.name}" for t, i in ENTRIES]
)
each_tiled_entry = pytest.mark.parametrize(
    ("target", "instruction"), TILED, ids=[f"{t.name}-{i.name}" for t, i in TILED]
)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch):
    """Targets that a test adds are gone after it, and targets installed here do not disturb it."""
    monkeypatch.setattr(registry, "_registered", {})
    announce(monkeypatch)
    yield
    registry._installed.cache_clear()


def announce(monkeypatch: pytest.MonkeyPatch, **entries: object) -> None:
    """Pretend that installed packages announce these objects."""

    class Announced(EntryPoint):
        def load(self) -> object:
            return entries[self.name]

    points = EntryPoints(
        Announced(name, f"package:{name}", registry.ENTRY_POINT_GROUP) for name in entries
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))
    registry._installed.cache_clear()


def variant(name: str = "mine", **fields: object) -> Target:
    return replace(get_target("skylake-avx512"), name=name, **fields)  # type: ignore[arg-type]


# ---- The tables -------------------------------------------------------------------------------


@each_table
def test_table_is_possible(target: Target) -> None:
    validate(target)


@each_table
def test_table_multiplies_f32_and_f64_with_its_widest_registers(target: Target) -> None:
    widest = max(i.bits for i in target.instructions)
    for name in ("f32", "f64"):
        assert target.instruction_for(element_type(name), element_type(name)).bits == widest


@each_table
def test_tables_have_an_accumulator_block_that_hides_the_latency(target: Target) -> None:
    best = target.instructions[0]
    in_flight = best.latency * best.per_cycle
    blocks = ((mr, nv) for mr in range(1, 32) for nv in range(1, 32) if mr * nv >= in_flight)
    assert any(mr * nv + min(mr, nv) + 1 <= target.plannable_registers for mr, nv in blocks)


@each_table
@pytest.mark.parametrize("lhs", ["bf16", "f16", "u8", "s8"])
def test_table_multiplies_low_precision_with_its_widest_registers(target: Target, lhs: str) -> None:
    widest = max(i.bits for i in target.instructions)
    for rhs in ("u8", "s8") if lhs.endswith("8") else (lhs,):
        found = target.instruction_for(element_type(lhs), element_type(rhs))
        assert found.bits == widest
        assert found.accumulator == element_type(lhs).sums


@each_entry
def test_what_flips_signs_has_an_instruction_to_execute(target, instruction) -> None:
    for role in ("lhs", "rhs"):
        executed = target.executed(instruction, role)
        assert not executed.flips
        assert (executed is instruction) == (not instruction.flips)


VECTORS = {
    "x86_64": {128: "%xmm", 256: "%ymm", 512: "%zmm"},
    "aarch64": {128: r"v\d+\.(4s|2d)"},
}
"""The names of registers of some bits."""


@each_entry
def test_llvm_selects_the_instruction_at_its_full_width(target, instruction, capfd) -> None:
    executed = target.executed(instruction, "lhs")
    assembly = emit_assembly(target, function_of(executed))
    assert len(re.findall(rf"\b{executed.mnemonic}", assembly)) == 1
    register = VECTORS[target.triple.partition("-")[0]][executed.bits]
    assert re.search(rf"\b{executed.mnemonic}.*{register}", assembly)
    assert "not a recognized" not in capfd.readouterr().err, "LLVM knows the cpu and its features"


@each_entry
def test_semantics_accumulate_products(target, instruction) -> None:
    lanes, k = instruction.lanes, instruction.k
    acc = np.full(lanes, 1, dtype=instruction.accumulator_type.dtype)
    lhs, rhs = (
        np.full((lanes, k) if k > 1 else lanes, number, dtype=element_type(name).dtype)
        for name, number in zip(instruction.operands, (2, 3), strict=True)
    )
    np.testing.assert_array_equal(
        instruction.semantics(acc, lhs, rhs), np.full_like(acc, 1 + 6 * k)
    )


@each_tiled_entry
def test_semantics_of_tiles_accumulate_all_steps_of_an_instruction(target, instruction) -> None:
    shape, steps = (instruction.rows, instruction.lanes), instruction.steps
    acc = np.full(shape, 1, dtype=instruction.accumulator_type.dtype)
    lhs, rhs = (
        np.full((*shape, steps) if steps > 1 else shape, number, dtype=element_type(name).dtype)
        for name, number in zip(instruction.operands, (2, 3), strict=True)
    )
    np.testing.assert_array_equal(
        instruction.semantics(acc, lhs, rhs), np.full_like(acc, 1 + 6 * steps)
    )


@pytest.mark.parametrize(
    ("target", "instruction"),
    [entry for entry in TILED if entry[1].upstream.startswith("llvm.x86.")],
    ids=lambda x: x.name,
)
def test_llvm_has_the_intrinsics_of_amx(target, instruction, capfd) -> None:
    name = instruction.upstream
    assembly = emit_assembly(
        target,
        f"""define void @f() {{
          call void @{name}(i8 0, i8 1, i8 2)
          ret void
        }}
        declare void @{name}(i8, i8, i8)""",
    )
    assert f"{instruction.mnemonic}\t%tmm2, %tmm1, %tmm0" in assembly
    assert "not a recognized" not in capfd.readouterr().err, "LLVM knows the cpu and its features"


def test_factors_of_one_type_may_both_come_from_memory_of_two_the_last_one() -> None:
    plain, swapped = (get_target("alderlake").instruction(f"dot.{i}x8") for i in ("u8s8", "s8u8"))
    assert (plain.from_memory, swapped.from_memory) == (("rhs",), ("lhs",))
    both = get_target("arrowlake").instruction("dot.s8s8x8")
    assert both.from_memory == ("lhs", "rhs")


def test_only_lanes_of_four_bytes_are_masked_without_mask_registers() -> None:
    assert [get_target(t).smallest_masked for t in ("znver4", "x86-64-v3")] == [1, 4]


LLVM_TYPES = {"f32": "float", "f64": "double", "bf16": "bfloat", "f16": "half"}


def function_of(instruction) -> str:
    """LLVM IR with one instruction in it, and what extends its factors or adds its products."""
    lanes, k = instruction.lanes, instruction.k
    sums = f"<{lanes} x {LLVM_TYPES.get(instruction.accumulator, 'i32')}>"
    stored = f"<{lanes * k} x {LLVM_TYPES.get(instruction.operand, 'i8')}>"
    taken, extended = stored, ("%y", "%z")
    lines: list[str] = []
    if instruction.widened:
        taken = f"<{lanes * k} x {LLVM_TYPES.get(instruction.widened, instruction.widened)}>"
        extended = "%yy", "%zz"
        for name, factor in zip(("y", "z"), instruction.operands, strict=True):
            cast = {"u8": "zext", "s8": "sext"}.get(factor, "fpext")
            lines.append(f"%{name}{name} = {cast} {stored} %{name} to {taken}")
    given = {"acc": f"{sums} %x", "lhs": f"{taken} {extended[0]}", "rhs": f"{taken} {extended[1]}"}
    if instruction.upstream == "vector.fma":
        intrinsic = f"llvm.fma.v{lanes}{instruction.accumulator}"
        order = ["lhs", "rhs", "acc"]
    else:
        intrinsic, order = instruction.upstream, instruction.order.split(", ")
    arguments = ", ".join(given[name] for name in order)
    types = ", ".join(given[name].rpartition(" ")[0] for name in order)
    lines.append(f"%p = call {sums} @{intrinsic}({arguments})")
    lines.append(f"%r = add {sums} %p, %x" if instruction.adds_apart else "")
    result = "%r" if instruction.adds_apart else "%p"
    body = "\n          ".join(lines)
    return f"""
        define void @f(ptr %c, ptr %a, ptr %b) {{
          %x = load {sums}, ptr %c, align 1
          %y = load {stored}, ptr %a, align 1
          %z = load {stored}, ptr %b, align 1
          {body}
          store {sums} {result}, ptr %c, align 1
          ret void
        }}
        declare {sums} @{intrinsic}({types})
    """


def emit_assembly(target: Target, ir: str) -> str:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=",".join((*target.required, *target.tuning))
    )
    return machine.emit_assembly(llvm.parse_assembly(ir))


# ---- The registry -----------------------------------------------------------------------------


def test_every_table_is_found_by_its_name() -> None:
    assert known_targets() == TABLES
    assert [get_target(t.name) for t in TABLES] == list(TABLES)


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Unsupported) as refusal:
        get_target("pentium")
    for name in ("pentium", "host", *(t.name for t in TABLES)):
        assert name in str(refusal.value)


def test_unknown_instruction_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Unsupported, match=r"fma\.f32x8, fma\.f64x4"):
        get_target("x86-64-v3").instruction("fma.f32x16")


def test_registered_target_is_found() -> None:
    registry.register_target(variant())
    assert get_target("mine") == variant()
    assert known_targets() == (*TABLES, variant())


@pytest.mark.parametrize("name", ["mine", "host", "znver5"])
def test_taken_name_is_refused(name: str) -> None:
    registry.register_target(variant())
    with pytest.raises(InvalidInput, match=f"'{name}' exists already"):
        registry.register_target(variant(name))


@pytest.mark.parametrize("as_function", [False, True])
def test_target_of_an_entry_point_is_found(monkeypatch, as_function: bool) -> None:
    announce(monkeypatch, theirs=(lambda: variant("theirs")) if as_function else variant("theirs"))
    assert get_target("theirs") == variant("theirs")
    assert known_targets() == (*TABLES, variant("theirs"))


def test_registered_target_cannot_take_the_name_of_an_installed_one(monkeypatch) -> None:
    announce(monkeypatch, theirs=variant("theirs"))
    with pytest.raises(InvalidInput, match="'theirs' exists already"):
        registry.register_target(variant("theirs"))


@pytest.mark.parametrize(
    ("announced", "fault"),
    [
        ("a string", "can't be loaded.*repair or uninstall"),
        (lambda: 1 / 0, "can't be loaded: division by zero"),
        (lambda: "a string", "gives str"),
        (variant("znver5"), "exists already"),
        (variant(registers=1), "impossible target"),
    ],
)
def test_broken_entry_point_is_refused_by_name(monkeypatch, announced, fault: str) -> None:
    announce(monkeypatch, theirs=announced)
    with pytest.raises(InvalidInput, match=fault):
        known_targets()
    assert get_target("skylake-avx512") in TABLES, "what nkdsl brings is there all the same"


BAD_FMA = fma_entry("f32", 512, latency=4, per_cycle=2.0)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"instructions": (replace(BAD_FMA, lanes=12),)}, "12 lanes of f32 make .* 384 bits"),
        ({"instructions": (replace(BAD_FMA, k=2),)}, "16 lanes of 2 f32 factors do not fit"),
        ({"instructions": (replace(BAD_FMA, operand="f7"),)}, "element type 'f7'"),
        ({"instructions": (replace(BAD_FMA, latency=0),)}, "latency of 0"),
        ({"instructions": (replace(BAD_FMA, per_cycle=0.0),)}, "per_cycle is 0"),
        ({"instructions": (replace(BAD_FMA, upstream=""),)}, "lowered to"),
        ({"instructions": (BAD_FMA, BAD_FMA)}, r"two instructions are called fma\.f32x16"),
        ({"instructions": ()}, "no instructions"),
        ({"registers": 2}, "2 registers"),
        ({"spare_registers": 32}, "32 of 32 registers"),
        ({"loads_per_cycle": float("nan")}, "loads_per_cycle is nan"),
        ({"refill_cycles": -1.0}, "refill_cycles is -1"),
        ({"features": ("avx2",)}, "'avx2' is not of the form"),
        ({"tuning": ("prefer-256-bit",)}, "'prefer-256-bit' is not of the form"),
        ({"cpu": ""}, "no LLVM cpu"),
        ({"name": "a,b"}, "its name"),
        ({"caches": ()}, "no caches"),
        ({"caches": (Cache(0, 8, 64.0),)}, "L1: sizes and rates"),
        ({"caches": (Cache(1000, 8, 64.0),)}, "whole number of sets"),
        ({"caches": (Cache(65536, 8, 64.0), Cache(32768, 8, 64.0))}, "shrink"),
        ({"tiles": replace(AMX, registers=2)}, "2 tiles can't hold two factors"),
        ({"tiles": replace(AMX, features=("amx-tile",))}, "'amx-tile' of Intel AMX is not of"),
        ({"tiles": replace(AMX, rows_loaded_per_cycle=0.0)}, "rates of Intel AMX must be positive"),
        ({"tiles": replace(AMX, configure_cycles=-1.0)}, "configure_cycles .* is -1.* negative"),
        ({"tiles": replace(AMX, instructions=(replace(AMX_BF16, depth=0),))}, "make no tile"),
        (
            {"tiles": replace(AMX, instructions=(AMX_BF16, AMX_BF16))},
            r"two instructions are called tile\.bf16x16x16x32",
        ),
    ],
)
def test_impossible_target_is_refused(fields: dict[str, object], fault: str) -> None:
    with pytest.raises(InvalidInput, match=f"impossible target.*{fault}"):
        registry.register_target(replace(variant(), **fields))  # type: ignore[arg-type]
    assert "mine" not in [t.name for t in known_targets()]


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidInput, match=r"0 registers.*loads_per_cycle.*no caches"):
        validate(variant(registers=0, loads_per_cycle=0.0, caches=()))


# ---- This machine -----------------------------------------------------------------------------


def machine(name: str, *targets: str, **fields: object) -> Cpu:
    """A processor that LLVM calls `name`, with all features of these targets."""
    features = {f.removeprefix("+") for t in targets for f in get_target(t).required}
    nothing = Cpu(name, "", "x86_64", frozenset(features), (), "")
    return replace(nothing, **fields)  # type: ignore[arg-type]


def choose(cpu: Cpu) -> host.HostTarget:
    return host._choose(known_targets(), cpu)


@pytest.mark.isa("avx2", "fma")
def test_host_is_a_table_that_this_cpu_can_run() -> None:
    target = get_target("host")
    assert target == detect().target
    assert can_run(target) is None
    assert target.name in [t.name for t in known_targets()]
    assert target.name in detect().reason
    validate(target)


@pytest.mark.parametrize(
    ("cpu", "table"),
    [
        (machine("skylake-avx512", "skylake-avx512"), "skylake-avx512"),
        (machine("cascadelake", "cascadelake"), "cascadelake"),
        (machine("cooperlake", "cooperlake"), "cooperlake"),
        (machine("icelake-server", "cascadelake"), "cascadelake"),
        (machine("znver4", "znver4"), "znver4"),
        (machine("znver5", "znver5"), "znver5"),
        (machine("sapphirerapids", "sapphirerapids"), "sapphirerapids"),
        (machine("graniterapids", "graniterapids"), "graniterapids"),
        (machine("emeraldrapids", "sapphirerapids"), "sapphirerapids"),
        (machine("diamondrapids", "graniterapids"), "graniterapids"),
        # A later processor of a family, even where another family's table uses more features.
        (machine("znver6", "znver5", "sapphirerapids"), "znver5"),
        (machine("haswell", "x86-64-v3"), "x86-64-v3"),
        (machine("znver3", "x86-64-v3"), "x86-64-v3"),
        (machine("alderlake", "alderlake"), "alderlake"),
        (machine("raptorlake", "alderlake"), "alderlake"),
        (machine("arrowlake", "arrowlake"), "arrowlake"),
        (machine("sierraforest", "sierraforest"), "sierraforest"),
        # A virtual machine that hides features of the processor it names.
        (machine("znver5", "skylake-avx512"), "skylake-avx512"),
        (machine("cascadelake", "skylake-avx512"), "skylake-avx512"),
        (machine("sapphirerapids", "x86-64-v3"), "x86-64-v3"),
    ],
    ids=lambda x: x if isinstance(x, str) else x.name,
)
def test_choice_goes_by_name_then_family_then_features(cpu: Cpu, table: str) -> None:
    assert choose(cpu).target == get_target(table)


def test_where_only_the_tiles_are_missing_the_table_does_without() -> None:
    cpu = machine("sapphirerapids", "sapphirerapids")
    without = replace(cpu, features=frozenset(f for f in cpu.features if not f.startswith("amx-")))
    assert choose(without).target == replace(get_target("sapphirerapids"), tiles=None)


def test_reason_names_the_features_that_the_processor_should_have() -> None:
    reason = choose(machine("skylake-avx512", "x86-64-v3")).reason
    assert re.search("table x86-64-v3.*'skylake-avx512' needs avx512f", reason)


def test_machine_that_fits_no_table_is_refused_with_what_it_lacks() -> None:
    with pytest.raises(Unsupported, match=r"'x86-64-v3' needs .*avx2.*name the target"):
        choose(machine("nehalem"))


def test_machine_of_another_architecture_is_refused() -> None:
    cpu = machine("sifive-x280", architecture="riscv64")
    with pytest.raises(Unsupported, match=r"is for \w+, but this machine is riscv64"):
        choose(cpu)


def test_can_run_tells_the_missing_features(monkeypatch) -> None:
    monkeypatch.setattr(host, "this_cpu", lambda: machine("haswell", "x86-64-v3"))
    assert can_run(get_target("x86-64-v3")) is None
    obstacle = can_run(get_target("skylake-avx512"))
    assert obstacle is not None
    assert re.search("needs avx512f, .*avx512vl, which haswell lacks", obstacle)


def test_caches_of_the_machine_replace_those_of_the_table() -> None:
    table = get_target("znver5")
    measured = (CacheGeometry(1, 32 * 1024, 8, 64), CacheGeometry(2, 2**21, 16, 64))
    chosen = choose(machine("znver5", "znver5", caches=measured, caches_from="sysfs"))
    sizes = [(c.size, c.ways) for c in chosen.target.caches]
    assert sizes == [(32 * 1024, 8), (2**21, 16), (32 * 2**20, 16)]
    rates = [c.bytes_per_cycle for c in chosen.target.caches]
    assert rates == [c.bytes_per_cycle for c in table.caches]
    assert chosen.target.name == "znver5"
    assert "L1D 32 KiB, L2 2 MiB, L3 32 MiB from sysfs" in chosen.reason


@pytest.mark.parametrize(
    ("caches", "told"),
    [
        ((), "does not tell"),
        ((CacheGeometry(1, 2**30, 8, 64),), "tells an impossible L1D 1024 MiB"),
    ],
)
def test_caches_of_the_table_stay_where_the_machine_tells_none(caches, told: str) -> None:
    chosen = choose(machine("znver5", "znver5", caches=caches, caches_from="sysfs"))
    assert chosen.target == get_target("znver5")
    assert told in chosen.reason


def test_sysfs_caches_are_read_without_instruction_and_broken_ones(tmp_path) -> None:
    def describe(index: int, kind: str, level: int, size: str, ways: int) -> None:
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        (folder / "type").write_text(f"{kind}\n")
        (folder / "level").write_text(f"{level}\n")
        (folder / "size").write_text(f"{size}\n")
        (folder / "ways_of_associativity").write_text(f"{ways}\n")
        (folder / "coherency_line_size").write_text("64\n")

    describe(0, "Unified", 2, "1M", 16)
    describe(1, "Data", 1, "48K", 12)
    describe(2, "Instruction", 1, "32K", 8)
    describe(3, "Unified", 3, "32M", 0)
    describe(4, "Unified", 4, "lots", 16)
    (tmp_path / "index5").mkdir()
    wanted = (CacheGeometry(1, 48 * 1024, 12, 64), CacheGeometry(2, 2**20, 16, 64))
    assert cpu_module._caches_from_sysfs(tmp_path) == wanted


def test_missing_sysfs_tells_no_caches(tmp_path) -> None:
    assert cpu_module._caches_from_sysfs(tmp_path / "absent") == ()
