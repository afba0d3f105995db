"""What nkdsl adds to xDSL's tools, found by `xdsl-opt` through the `xdsl.universe` entry point.

Every value is a function that imports lazily, so that a tool that uses none of it pays nothing.
"""

from xdsl.ir import Dialect
from xdsl.passes import ModulePass
from xdsl.universe import Universe


def _nanokernel() -> Dialect:
    from nkdsl.dialects.nanokernel import Nanokernel

    return Nanokernel


def _nkvector() -> Dialect:
    from nkdsl.dialects.nkvector import NkVector

    return NkVector


def _tile() -> Dialect:
    from nkdsl.dialects.tile import Tile

    return Tile


def _bufferize() -> type[ModulePass]:
    from nkdsl.bufferize import BufferizePass

    return BufferizePass


def _linalg_to_nanokernel() -> type[ModulePass]:
    from nkdsl.transforms.linalg_to_nanokernel import LinalgToNanokernelPass

    return LinalgToNanokernelPass


def _fold_transposes() -> type[ModulePass]:
    from nkdsl.transforms.fold_transposes import FoldTransposesPass

    return FoldTransposesPass


def _fuse_epilogues() -> type[ModulePass]:
    from nkdsl.transforms.fuse_epilogues import FuseEpiloguesPass

    return FuseEpiloguesPass


def _expand_math() -> type[ModulePass]:
    from nkdsl.transforms.expand_math import ExpandMathPass

    return ExpandMathPass


def _plan() -> type[ModulePass]:
    from nkdsl.transforms.plan import PlanPass

    return PlanPass


def _block() -> type[ModulePass]:
    from nkdsl.transforms.block import BlockPass

    return BlockPass


def _compose() -> type[ModulePass]:
    from nkdsl.transforms.compose import ComposePass

    return ComposePass


def _place_buffers() -> type[ModulePass]:
    from nkdsl.transforms.place_buffers import PlaceBuffersPass

    return PlaceBuffersPass


def _unroll() -> type[ModulePass]:
    from nkdsl.transforms.unroll import UnrollPass

    return UnrollPass


def _lower_to_upstream() -> type[ModulePass]:
    from nkdsl.transforms.lower_to_upstream import LowerToUpstreamPass

    return LowerToUpstreamPass


NKDSL_UNIVERSE = Universe(
    all_dialects={"nanokernel": _nanokernel, "nkvector": _nkvector, "tile": _tile},
    all_passes={
        "bufferize": _bufferize,
        "linalg-to-nanokernel": _linalg_to_nanokernel,
        "fold-transposes": _fold_transposes,
        "fuse-epilogues": _fuse_epilogues,
        "expand-math": _expand_math,
        "plan": _plan,
        "block": _block,
        "compose": _compose,
        "place-buffers": _place_buffers,
        "unroll": _unroll,
        "lower-to-upstream": _lower_to_upstream,
    },
)
