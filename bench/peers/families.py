"""The peers of whole products: each a library with the settings that may suit it best.

Most libraries choose their kernels by the CPU's name when they are loaded, and not always well. So
a peer has a worker for each setting worth a try, all of them prepare every product, and the fastest
takes part in the turns.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from nkdsl.bench.gemm_sets import PACKED, PLAIN, Case
from nkdsl.bench.gemm_turns import Entrant, quickest
from nkdsl.bench.gemm_worker import GemmWorker, Place, Remote
from nkdsl.bench.peers.base import Availability, Unable
from nkdsl.bench.peers.cblas import BLIS_KERNELS
from nkdsl.bench.peers.libxsmm_layers import TILES
from nkdsl.bench.peers.mkl import intel_shim
from nkdsl.bench.peers.openblas import CORE_TYPES
from nkdsl.bench.peers.places import find_in_peers
from nkdsl.bench.problem import PRODUCTS
from nkdsl.bench.worker import WorkerDied

GET_PEERS = "tools/peers.sh"
GET_LIBXSMM = "apt-get install libxsmm-dev gcc"


@dataclass(frozen=True)
class Variant:
    """One setting of a library."""

    label: str
    engine: str
    environment: Mapping[str, str] = field(default_factory=dict)
    core: str | None = None
    """What must be found in the library's words about itself, or the setting had no effect."""


@dataclass(frozen=True)
class Family:
    """A peer, with everything that it takes to have it at its best."""

    name: str
    how_to_get: str
    variants: Callable[[int], tuple[Variant, ...]]
    """The settings worth a try on so many threads."""
    contracts: tuple[str, ...] = (PLAIN,)
    types: tuple[str, ...] = ("f32", "f64")
    """What it multiplies, by our names."""

    def any_of(self, types: Iterable[str]) -> bool:
        """Whether it multiplies some of these."""
        return not set(self.types).isdisjoint(types)


def _shipped(engine: str) -> Callable[[int], tuple[Variant, ...]]:
    return lambda _: (Variant("as shipped", engine),)


def _openblas(_: int) -> tuple[Variant, ...]:
    cores = CORE_TYPES.get(platform.machine(), ())
    return tuple(
        Variant(core, "numpy", {"OPENBLAS_CORETYPE": core}, f"core {core}") for core in cores
    )


def _mkl(threads: int) -> tuple[Variant, ...]:
    runtime = find_in_peers("lib/libiomp5.so")
    layer = "SEQUENTIAL" if threads == 1 else "INTEL" if runtime else "GNU"
    base = {"MKL_THREADING_LAYER": layer, "MKL_DYNAMIC": "FALSE"}
    if runtime:
        inherited = os.environ.get("LD_LIBRARY_PATH")
        folders = [str(runtime.parent), *([inherited] if inherited else [])]
        base["LD_LIBRARY_PATH"] = os.pathsep.join(folders)
    found = [Variant("as shipped", "mkl", base)]
    if not _is_intel():
        isa = "MKL_ENABLE_INSTRUCTIONS"
        found.append(Variant("told AVX2", "mkl", {**base, isa: "AVX2"}))
        if shim := intel_shim():
            told = {**base, isa: "AVX512", "LD_PRELOAD": str(shim)}
            found.append(Variant("told Intel and AVX512", "mkl", told))
    return (*found, Variant("torch's", "torch-mkl"))


def _blis(_: int) -> tuple[Variant, ...]:
    found = [Variant("as shipped", "blis")]
    if platform.machine() == "x86_64":
        kinds = ("skx", "haswell")
        found += [Variant(kind, "blis", {BLIS_KERNELS: kind}, f"for {kind}") for kind in kinds]
    return tuple(found)


def _jax(engine: str) -> Callable[[int], tuple[Variant, ...]]:
    def variants(threads: int) -> tuple[Variant, ...]:
        flags = "--xla_cpu_multi_thread_eigen=false" if threads == 1 else ""
        # The pool of threads is as large as the number of CPUs that the process may use.
        return (Variant("as shipped", engine, {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}),)

    return variants


def _torch_compile(_: int) -> tuple[Variant, ...]:
    # Compilers in processes of their own would stay there, beside the turns.
    return (Variant("as shipped", "mlp-torch-compile", {"TORCHINDUCTOR_COMPILE_THREADS": "1"}),)


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


FAMILIES = {
    family.name: family
    for family in (
        Family("numpy", "pip install numpy (the PyPI wheel)", _shipped("numpy")),
        Family("openblas", "pip install numpy (the PyPI wheel)", _openblas),
        Family("mkl", GET_PEERS, _mkl, (PLAIN, PACKED)),
        Family("onednn", GET_PEERS, _shipped("onednn"), (PLAIN, PACKED), tuple(PRODUCTS)),
        Family("blis", "apt-get install libblis4-openmp", _blis),
        Family("jax", GET_PEERS, _jax("jax"), types=tuple(PRODUCTS)),
        Family("libxsmm", GET_LIBXSMM, _shipped("libxsmm")),
    )
}
"""Every known peer by its name on the command line, in the order of the report's columns."""

_OF_TORCH = ("f32", "bf16", "s8s8")
_OF_NETWORKS = (*_OF_TORCH, "u8s8")
MLP_FAMILIES = {
    family.name: family
    for family in (
        Family("torch", GET_PEERS, _shipped("mlp-torch"), types=_OF_TORCH),
        Family(
            "torch.compile",
            f"{GET_PEERS}, and apt-get install g++",
            _torch_compile,
            (PLAIN, PACKED),
            _OF_TORCH,
        ),
        Family("jax", GET_PEERS, _jax("mlp-jax"), types=_OF_NETWORKS),
        *(
            Family(
                f"libxsmm-{tile}",
                GET_LIBXSMM,
                _shipped(f"mlp-libxsmm-{tile}"),
                (PACKED,),
                _OF_NETWORKS,
            )
            for tile in TILES
        ),
    )
}
"""The same for networks."""


class Team:
    """The workers of a peer on some number of threads."""

    def __init__(self, family: Family, place: Place) -> None:
        """Start all of them; none is waited for."""
        self.name = family.name
        self._family, self._place = family, place
        self._variants = {variant.label: variant for variant in family.variants(place.threads)}
        self._workers = {label: self._start(label) for label in self._variants}

    def availability(self) -> Availability:
        """Wait for the workers, and keep those whose settings took effect."""
        details: dict[str, str] = {}
        reasons: list[str] = []
        for label, worker in list(self._workers.items()):
            found = self._about(worker)
            core = self._variants[label].core
            if found.present and (core is None or core.lower() in found.detail.lower()):
                details[label] = found.detail
                continue
            self._workers.pop(label).close()
            if not found.present:
                reasons.append(found.detail)
        if details:
            several = f"; tried: {', '.join(details)}" if len(details) > 1 else ""
            return Availability(True, f"{next(iter(details.values()))}{several}")
        why = next(iter(dict.fromkeys(reasons)), "no setting of it runs here")
        return Availability(False, f"{why}; to get it: {self._family.how_to_get}")

    def takes(self, case: Case) -> bool:
        """Whether it has products of a case's types under its contract."""
        return case.contract in self._family.contracts and case.dtype in self._family.types

    def enter(self, case: Case) -> Entrant:
        """Its fastest setting for a case.

        Raises:
            Unable: no setting is able; with the reasons.
        """
        found: dict[str, Entrant] = {}
        reasons: dict[str, str] = {}
        for label, worker in list(self._workers.items()):
            try:
                found[label] = worker.enter(case, self.name, thorough=False)
            except WorkerDied as error:
                reasons[label] = str(error)
                worker.close()
                self._workers[label] = self._start(label)
            except Unable as error:
                reasons[label] = str(error)
        if not found:
            distinct = dict.fromkeys(reasons.values())
            raise Unable("; ".join(distinct) or "no worker is alive")
        return self._best(found)

    def clear(self) -> None:
        """Have every worker forget its operands."""
        for label, worker in list(self._workers.items()):
            try:
                worker.clear()
            except (Unable, WorkerDied):
                worker.close()
                self._workers[label] = self._start(label)

    def close(self) -> None:
        """End every worker."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def _best(self, found: Mapping[str, Entrant]) -> Entrant:
        """The fastest, its setting named in its detail."""
        best = quickest(tuple(found.values()))
        label = next(label for label, entrant in found.items() if entrant is best)
        remote = best.contender
        if len(self._variants) == 1 or not isinstance(remote, Remote):
            return best
        return replace(best, contender=replace(remote, detail=f"{remote.detail} ({label})"))

    def _start(self, label: str) -> GemmWorker:
        variant = self._variants[label]
        return GemmWorker(variant.engine, self._place, variant.environment)

    def _about(self, worker: GemmWorker) -> Availability:
        try:
            return worker.about()
        except WorkerDied as error:
            return Availability(False, str(error))
