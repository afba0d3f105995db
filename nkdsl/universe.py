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


def _linalg_to_nanokernel() -> type[ModulePass]:
    from nkdsl.transforms.linalg_to_nanokernel import LinalgToNanokernelPass

    return LinalgToNanokernelPass


def _plan() -> type[ModulePass]:
    from nkdsl.transforms.plan import PlanPass

    return PlanPass


def _block() -> type[ModulePass]:
    from nkdsl.transforms.block import BlockPass

    return BlockPass


def _compose() -> type[ModulePass]:
    from nkdsl.transforms.compose import ComposePass

    return ComposePass


def _unroll() -> type[ModulePass]:
    from nkdsl.transforms.unroll import UnrollPass

    return UnrollPass


def _lower_to_upstream() -> type[ModulePass]:
    from nkdsl.transforms.lower_to_upstream import LowerToUpstreamPass

    return LowerToUpstreamPass


NKDSL_UNIVERSE = Universe(
    all_dialects={"nanokernel": _nanokernel, "nkvector": _nkvector},
    all_passes={
        "linalg-to-nanokernel": _linalg_to_nanokernel,
        "plan": _plan,
        "block": _block,
        "compose": _compose,
        "unroll": _unroll,
        "lower-to-upstream": _lower_to_upstream,
    },
)
