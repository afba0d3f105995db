"""Networks: their names, their operands, their text, and a whole run on tiny ones."""

from __future__ import annotations

import argparse
import ctypes
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nkdsl.bench import gemm, mlp
from nkdsl.bench.gemm import GemmOptions, run_gemm
from nkdsl.bench.gemm_sets import PACKED, PLAIN, Case
from nkdsl.bench.gemm_turns import Entrant, Pace
from nkdsl.bench.gemm_worker import GEMM, MLP, Host, Place, make_engine, task_of
from nkdsl.bench.mlp_ours import ENGINE, arguments, mlir_text
from nkdsl.bench.mlp_problem import (
    ACTIVATIONS,
    SCALE,
    Mlp,
    MlpOperands,
    limits,
    make_mlp,
    mlp_fault,
    mlp_operands,
    parse_mlp,
    reference,
)
from nkdsl.bench.peers import Availability, Unable
from nkdsl.bench.peers.engine import Made
from nkdsl.bench.peers.families import MLP_FAMILIES, Family, Variant
from nkdsl.bench.peers.libxsmm_forms import Call, Form, One, Two, Work, interface
from nkdsl.bench.peers.libxsmm_layers import TILES, LibxsmmLayersEngine, tiled, tiled_weights
from nkdsl.bench.peers.mlp import TorchCompileEngine
from nkdsl.bench.problem import PRODUCTS, Array, Types, unpack
from nkdsl.bench.timing import NativeContender, PythonContender
from nkdsl.frontend import load, make_context
from nkdsl.packed import Packed
from nkdsl.types import ElementType

DTYPES = ("f32", "bf16", "s8s8", "u8s8")
TINY = Mlp(3, (5, 7, 4))


class _Exact:
    """An engine by numpy, at will wrong, or unable."""

    def __init__(self, state: str = "right") -> None:
        self.state = state

    def availability(self) -> Availability:
        return Availability(True, "numpy itself")

    def make(self, operands: MlpOperands, contract: str) -> Made:
        if self.state == "unable":
            raise Unable("not today")

        def call() -> None:
            operands.c[...] = reference(operands)
            if self.state == "wrong":
                operands.c[0, 0] += 2

        return Made(PythonContender("numpy", call, operands.row.flops, "by hand"))


# ------------------------------------------------------------------------------------------ shapes


@pytest.mark.parametrize("text", ["256:1024x1024x1024:relu", "1:2x3:none"])
def test_a_network_is_read_back_from_its_name(text: str) -> None:
    assert parse_mlp(text).name == text
    assert parse_mlp("8:2×3").activation == "relu"


@pytest.mark.parametrize("text", ["", "256", "256:1024", "0:2x3", "2:3x0", "2:3x4:tanh"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no network|has rows|known are"):
        parse_mlp(text)


def test_flops_are_those_of_the_products() -> None:
    assert Mlp(3, (5, 7, 4)).flops == 2 * 3 * (5 * 7 + 7 * 4)


def test_every_set_has_networks_and_two_lay_out_weights_beforehand() -> None:
    found = list(mlp.cases(tuple(mlp.SETS), (TINY,), ("f32",), (2, 1)))
    assert {case.set for case in found} == {*mlp.SETS, "chosen"}
    packed = {case.set for case in found if case.contract == PACKED}
    assert packed == {"packed", "packed-none"}
    assert packed.isdisjoint(case.set for case in found if case.contract == PLAIN)
    assert [case.threads for case in found] == sorted(case.threads for case in found)


def test_a_sets_networks_have_the_batches_and_widths_asked_for() -> None:
    found = mlp.cases(("packed-none", "relu"), (), ("f32",), (1,), (3, 4), (5, 7))
    assert [(case.set, case.row.name) for case in found] == [
        *(("packed-none", "3:5x7:none"), ("packed-none", "4:5x7:none")),
        *(("relu", "3:5x7:relu"), ("relu", "4:5x7:relu")),
    ]


# ------------------------------------------------------------------------------------------ checks


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_right_answers_pass_and_wrong_ones_are_found(dtype: str, activation: str) -> None:
    operands = mlp_operands(f"9:40x30x20:{activation}", dtype)
    assert mlp_fault(operands, thorough=True) is not None  # nothing was computed yet
    _Exact().make(operands, PLAIN).contender.run(1)
    assert mlp_fault(operands, thorough=True) is None
    _Exact("wrong").make(operands, PLAIN).contender.run(1)
    assert "1 of 180" in str(mlp_fault(operands, thorough=True))


def test_an_input_that_was_written_is_found() -> None:
    operands = make_mlp(TINY, PRODUCTS["f32"])
    _Exact().make(operands, PLAIN).contender.run(1)
    operands.weights[1][0, 0] += 1
    assert mlp_fault(operands, thorough=True) == "wrong: an input was written"


@pytest.mark.parametrize("dtype", ["s8s8", "u8s8"])
def test_eight_bits_are_neither_all_clamped_nor_all_zero(dtype: str) -> None:
    operands = mlp_operands("64:1024x1024x1024x1024:none", dtype)
    answer = reference(operands)
    low, high = limits(operands.types.lhs)
    assert (answer.min(), answer.max()) == (low, high)
    assert 20 < answer.std() < 100
    assert (answer == high).mean() < 0.2
    assert (answer <= max(low, 0)).mean() < 0.6


# ------------------------------------------------------------------------------------------- ours


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_ours_is_one_function_with_a_product_for_each_layer(dtype: str, activation: str) -> None:
    row = Mlp(3, (5, 7, 4), activation)
    text = mlir_text(row, dtype)
    load(text, make_context()).verify()
    assert text.count("nanokernel.gemm") == 2 and text.count("from zero") == 2
    assert text.count("arith.addf") == (2 if activation == "relu" else 0)
    assert text.count("arith.truncf") == (2 if dtype == "bf16" else 0)
    assert text.count("arith.fptosi") == (2 if dtype == "s8s8" else 0)
    assert text.count("arith.fptoui") == (2 if dtype == "u8s8" else 0)
    operands = make_mlp(row, PRODUCTS[dtype])
    head = text.splitlines()[0]
    assert head.count("memref") == len(list(arguments(operands)))


def test_the_scale_of_eight_bits_is_written_exactly() -> None:
    constants = re.findall(r"%scale = arith.constant (\S+) : f32", mlir_text(TINY, "s8"))
    assert [float(text) for text in constants] == [SCALE, SCALE]


def test_ours_says_why_it_cannot() -> None:
    engine = make_engine(ENGINE, 1, "abacus")
    with pytest.raises(Unable, match="abacus"):
        engine.make(make_mlp(TINY, PRODUCTS["f32"]), PLAIN)
    with pytest.raises(Unable, match="abacus"):
        engine.make(make_mlp(TINY, PRODUCTS["f32"]), PACKED)


@pytest.mark.isa("avx2", "fma")
@pytest.mark.parametrize("dtype", ["f32", "bf16", "u8s8"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_ours_is_one_function_on_packed_weights(dtype: str, activation: str) -> None:
    operands = make_mlp(Mlp(5, (24, 40, 40, 30), activation), PRODUCTS[dtype])
    made = make_engine(ENGINE, 1, "x86-64-v3").make(operands, PACKED)
    contender = made.contender
    assert isinstance(contender, NativeContender)
    contender.run(1)
    assert mlp_fault(operands, thorough=True) is None
    assert contender.detail.startswith("weights packed: #nanokernel.plan")
    packed = [owner for owner in contender.keep if isinstance(owner, Packed)]
    assert len(packed) == 3
    assert [contender.arguments.index(each.address) for each in packed] == (
        [1, 4, 7] if activation == "relu" else [1, 3, 5]
    )
    plain = {weight.ctypes.data for weight in operands.weights}
    assert plain.isdisjoint(contender.arguments)


# ---------------------------------------------------------------------------------------- workers


def test_a_worker_knows_what_its_engine_computes() -> None:
    assert task_of("ours") is task_of("numpy") is GEMM
    assert task_of(ENGINE) is task_of("mlp-jax") is MLP


def test_a_host_prepares_networks() -> None:
    request = {"op": "prepare", "slot": "x", "row": TINY.name, "dtype": "bf16", "contract": PLAIN}
    answer = Host(_Exact(), MLP).answer({**request, "thorough": True})
    assert answer["flops"] == TINY.flops and answer["detail"] == "by hand"
    with pytest.raises(Unable, match="wrong"):
        Host(_Exact("wrong"), MLP).answer({**request, "thorough": True})


def test_torchs_compiler_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    found = TorchCompileEngine().availability()
    assert not found.present and "g++" in found.detail


class _LocalWorker:
    """A worker in this process."""

    def __init__(self, engine: str, place: Place, settings: object) -> None:
        self.host = Host(_Exact(engine), MLP)

    def about(self) -> Availability:
        return Availability(True, "numpy itself")

    def enter(self, case: Case, name: str, **options: Any) -> Entrant:
        request = {"op": "prepare", "slot": name, "row": case.row.name, "dtype": case.dtype}
        self.host.answer({**request, "contract": case.contract, "thorough": options["thorough"]})
        made = self.host._slots[name]
        return Entrant(PythonContender(name, lambda: made.run(1), case.row.flops), 1000)

    def clear(self) -> None:
        self.host.answer({"op": "clear"})

    def close(self) -> None:
        return


def test_a_whole_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gemm, "GemmWorker", _LocalWorker)
    monkeypatch.setattr("nkdsl.bench.peers.families.GemmWorker", _LocalWorker)
    families = {
        state: Family(state, "", lambda _, state=state: (Variant(state, state),))  # type: ignore[misc]
        for state in ("right", "wrong")
    }
    options = GemmOptions(
        cases=(Case("relu", TINY, "f32"),),
        peers=tuple(families),
        families=families,
        engine=ENGINE,
        pace=Pace(rounds=3, sample_ns=20_000),
        command="mlp",
    )
    report = run_gemm(options)
    assert not report.failed
    (row,) = report.rows
    assert row.best_peer and row.best_peer.name == "right" and row.ratio
    assert "wrong" in str(row.results[-1].error)
    data = json.loads(report.to_json())
    assert data["rows"][0]["shape"] == "3:5x7x4:relu"
    pytest.importorskip("matplotlib")
    report.picture(tmp_path / "mlp.png")
    assert (tmp_path / "mlp.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("state", "contract", "failed"),
    [
        ("right", PACKED, False),
        ("unable", PACKED, False),  # packed weights are not everyone's
        ("unable", PLAIN, True),
        ("wrong", PACKED, True),
        ("wrong", PLAIN, True),
    ],
)
def test_a_run_fails_where_ours_is_wrong_or_plain_weights_are_refused(
    state: str, contract: str, failed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gemm, "GemmWorker", _LocalWorker)
    options = GemmOptions(
        cases=(Case("any", TINY, "f32", 1, contract),),
        peers=(),
        families={},
        engine=state,
        pace=Pace(rounds=1, sample_ns=20_000),
        command="mlp",
    )
    assert run_gemm(options).failed == failed


def test_the_command_line_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    mlp.add_arguments(parser)
    found = parser.parse_args(["3:5x7x4", "--dtype", "f32,s8", "--peers", "jax", "--sets", "none"])
    assert found.shapes == [TINY] and found.dtype == ("f32", "s8s8")
    assert found.peers == ("jax",) and found.sets == ("none",)
    assert parser.parse_args(["--peers", "all"]).peers == tuple(MLP_FAMILIES)
    sized = parser.parse_args(["--batches", "7,9", "--widths", "5x7x4"])
    assert (sized.batches, sized.widths) == ((7, 9), (5, 7, 4))
    with pytest.raises(SystemExit):
        parser.parse_args(["3x5"])
    assert "is no network" in capsys.readouterr().err


# -------------------------------------------------------------------- libxsmm in a loop over tiles


class _ByNumpy:
    """What libxsmm's kernels do, in numpy: sums of products of tiles, weights first."""

    def __init__(self, types: Types, tile: int, one_structure: bool, excess: float = 0) -> None:
        self.one_structure = one_structure
        self._types, self._tile, self._excess = types, tile, excess
        pointers = [ctypes.c_void_p] * (1 if one_structure else 4)
        made = ctypes.CFUNCTYPE(None, *pointers)
        self._kernel = made(self._structure if one_structure else self._multiply)

    def strided(self, work: Work) -> Iterator[tuple[str, int]]:
        address = ctypes.cast(self._kernel, ctypes.c_void_p).value
        assert address is not None
        yield "by numpy", address

    def forms(self, work: Work) -> Iterator[Form]:
        raise NotImplementedError

    def _structure(self, address: int) -> None:
        words = (ctypes.c_uint64 * Two.WORDS).from_address(address)
        self._multiply(words[Two.FIRST], words[Two.SECOND], words[Two.THIRD], words[Two.COUNT])

    def _multiply(self, first: int, second: int, sums: int, count: int) -> None:
        tile, types = self._tile, self._types
        tiles = ctypes.c_uint64.from_address(count).value
        packed = (tiles, tile // types.group, tile, types.group)
        weights = at(first, packed, types.rhs)
        if types.narrow:
            weights = unpack(weights, tile)
        activations = at(second, (tiles, tile, tile), types.lhs)
        wide = [x.reshape(tiles, tile, tile).astype(np.float64) for x in (activations, weights)]
        answer = np.matmul(*wide).sum(axis=0) + self._excess
        at(sums, (tile, tile), types.sums)[...] = answer


def at(address: int, shape: tuple[int, ...], element: ElementType) -> Array:
    """An array on memory that something else owns."""
    size = int(np.prod(shape)) * element.size
    buffer = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(memoryview(buffer), np.uint8).view(element.dtype).reshape(shape)


def layers_engine(tile: int) -> LibxsmmLayersEngine:
    """An engine that can be used; skips the test where libxsmm or a compiler is missing."""
    engine = LibxsmmLayersEngine(tile)
    found = engine.availability()
    if not found.present:
        pytest.skip(found.detail)
    return engine


def test_weights_in_tiles_hold_groups_of_the_reduction() -> None:
    types = PRODUCTS["bf16"]
    weight = np.arange(4 * 6).reshape(4, 6).astype(types.rhs.dtype)
    found = tiled_weights(weight, 2, types)
    assert found.shape == (3, 2, 1, 2, 2)
    assert found[1, 0].astype(int).tolist() == [[[2, 8], [3, 9]]]


@pytest.mark.parametrize("one_structure", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_loops_over_tiles_are_right_around_any_kernel(
    dtype: str, activation: str, one_structure: bool
) -> None:
    engine = layers_engine(32)
    operands = make_mlp(Mlp(64, (32, 96, 64), activation), PRODUCTS[dtype])
    network = tiled(operands, 32)
    engine._interface = _ByNumpy(network.types, 32, one_structure)
    orders = set()
    for contender in engine._contenders(network):
        network.spoil()
        contender.run(2)
        assert mlp_fault(operands, thorough=True) is None
        orders.add(contender.detail)
    assert len(orders) == 2


@pytest.mark.isa("avx512bf16", "avx512vnni")
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_libxsmm_in_tiles_computes_networks(tile: int, dtype: str) -> None:
    engine = layers_engine(tile)
    operands = make_mlp(Mlp(64, (64, 128, 64)), PRODUCTS[dtype])
    made = engine.make(operands, PACKED)
    made.contender.run(1)
    assert mlp_fault(operands, thorough=True) is None
    assert made.contender.name == f"libxsmm-{tile}"
    assert f"tiles of {tile}" in made.contender.detail


def test_libxsmm_in_tiles_refuses_what_it_cannot_compare() -> None:
    engine = LibxsmmLayersEngine(32)
    with pytest.raises(Unable, match="laid out beforehand"):
        engine.make(make_mlp(TINY, PRODUCTS["f32"]), PLAIN)
    with pytest.raises(Unable, match="do not divide 3, 5, 7, 4"):
        engine.make(make_mlp(TINY, PRODUCTS["f32"]), PACKED)
    with pytest.raises(Unable, match="no networks of f64"):
        engine.make(make_mlp(TINY, PRODUCTS["f64"]), PACKED)
    with pytest.raises(Unable, match="apt-get install libxsmm-dev"):
        engine.make(make_mlp(Mlp(32, (32, 32)), PRODUCTS["f32"]), PACKED)


def test_a_kernel_that_is_wrong_is_never_timed() -> None:
    engine = layers_engine(32)
    engine._interface = _ByNumpy(PRODUCTS["f32"], 32, one_structure=False, excess=1)
    with pytest.raises(Unable, match="wrong: "):
        engine.make(make_mlp(Mlp(32, (32, 32)), PRODUCTS["f32"]), PACKED)


def test_tiles_take_part_in_rows_of_packed_weights_alone() -> None:
    for tile in TILES:
        family = MLP_FAMILIES[f"libxsmm-{tile}"]
        assert family.contracts == (PACKED,)
        (variant,) = family.variants(1)
        assert task_of(variant.engine) is MLP


# ------------------------------------------------------------------------------- libxsmm's forms


def test_libxsmm_2_gets_our_b_first_and_its_parameters_in_one_structure() -> None:
    asked: list[Any] = []

    def dispatch(shape: Any, flags: Any, prefetch: Any, batch: Any) -> int:
        asked.append((shape, flags.value, batch.kind))
        return 64

    library: Any = SimpleNamespace(libxsmm_dispatch_brgemm=dispatch)
    found = interface(library)
    assert isinstance(found, Two) and not isinstance(found, One)
    call = Call("n in lanes", 16, 8, 4, 16, 4, 16, 0, swapped=True)
    work = Work(PRODUCTS["u8s8"], call, (1000, 2000, 3000), (10, 20), batch=3)
    forms = list(found.forms(work))
    assert [form.label for form in forms] == ["strided", "strided, unroll hint", "addresses"]
    shape, flags, kind = asked[0]
    assert (shape.m, shape.n, shape.k) == (16, 8, 4)
    assert (shape.a, shape.b, shape.c) == tuple(Two.TYPES[name] for name in ("s8", "u8", "s32"))
    assert flags == Two.VNNI_A and kind == Two.STRIDE
    words: Any = forms[0].keep[0]
    assert list(words[[Two.FIRST, Two.SECOND, Two.THIRD]]) == [1000, 2000, 3000]
    lists: Any = forms[2].keep[2:]
    assert [list(each) for each in lists] == [[1000, 1010, 1020], [2000, 2020, 2040]]


def test_a_library_that_is_no_libxsmm_is_known() -> None:
    library: Any = SimpleNamespace()
    assert interface(library) is None
