"""`nkdsl bench mlp`: networks of fully connected layers, each as one function, against frameworks.

    nkdsl bench mlp --dtype f32,bf16,s8
    nkdsl bench mlp 256:1024x1024x1024x1024:relu 64:784x512x10 --dtype bf16 --quick
    nkdsl bench mlp --sets packed,packed-none --batches 128 --widths 768x3072x768

A network is written as its batch, its widths, and `relu` (a bias and relu in every layer) or `none`
(bare products); what a layer is in each type, `mlp_problem` tells. Everything else is as in `bench
gemm`, whose processes, turns and report these are.

In the sets `packed` and `packed-none`, and there alone, everyone lays the weights out beforehand.
Inputs and results are plain in all of them, and what lies between two layers is everyone's own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from nkdsl.bench.gemm import GemmOptions, add_field_arguments, chosen_pace, run_gemm
from nkdsl.bench.gemm_sets import CHOSEN, PACKED, PLAIN, Case
from nkdsl.bench.mlp_ours import ENGINE
from nkdsl.bench.mlp_problem import Mlp, parse_mlp
from nkdsl.bench.options import deliver, positive
from nkdsl.bench.peers.families import MLP_FAMILIES

BATCHES = (256, 512)
WIDTHS = (1024,) * 4
SETS = {
    "relu": "a bias and relu in every layer",
    "none": "bare products",
    "packed": "a bias and relu, with weights laid out beforehand",
    "packed-none": "bare products with weights laid out beforehand",
}
"""Every set with its line of help."""
CONTENTS = {
    "relu": ("relu", PLAIN),
    "none": ("none", PLAIN),
    "packed": ("relu", PACKED),
    "packed-none": ("none", PACKED),
}
"""What happens in the layers of a set, and the contract about their weights."""


def cases(
    sets: tuple[str, ...],
    chosen: tuple[Mlp, ...],
    dtypes: tuple[str, ...],
    threads: tuple[int, ...],
    batches: tuple[int, ...] = BATCHES,
    widths: tuple[int, ...] = WIDTHS,
) -> Iterator[Case]:
    """Every network to be measured, those on one thread first.

    Args:
        sets: names in `SETS`.
        chosen: more networks, given one by one, whose weights are plain.
        dtypes: element types.
        threads: numbers of threads.
        batches: those of the networks of each set.
        widths: theirs.
    """
    for count in sorted(threads):
        for dtype in dtypes:
            for row in chosen:
                yield Case(CHOSEN, row, dtype, count)
            for name in sets:
                activation, contract = CONTENTS[name]
                for batch in batches:
                    yield Case(name, Mlp(batch, widths, activation), dtype, count, contract)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line; the options are mounted under `nkdsl bench mlp`."""
    parser.add_argument(
        "shapes",
        metavar="NETWORK",
        type=_network,
        nargs="*",
        help="256:1024x1024x1024, 64:784x512x10:none; no sets are taken then, unless by --sets",
    )
    parser.add_argument(
        "--batches",
        type=_batches,
        default=BATCHES,
        help="rows of the sets' networks, comma-separated; default: 256,512",
    )
    parser.add_argument(
        "--widths",
        type=_widths,
        default=WIDTHS,
        help="inputs, hidden layers' and last outputs of the sets' networks; default: "
        f"{'x'.join(str(width) for width in WIDTHS)}",
    )
    add_field_arguments(parser, SETS, MLP_FAMILIES)


def main(args: argparse.Namespace) -> int:
    """Run what the parsed arguments say, and print the table.

    Returns:
        1 when ours failed in a row of plain weights, or was wrong in any; else 0.

    Raises:
        NkdslError: the run is impossible.
    """
    sets = args.sets if args.sets is not None else () if args.shapes else tuple(SETS)
    options = GemmOptions(
        cases=tuple(
            cases(sets, tuple(args.shapes), args.dtype, args.threads, args.batches, args.widths)
        ),
        target=args.target,
        peers=args.peers,
        families=MLP_FAMILIES,
        engine=ENGINE,
        with_ours=not args.no_ours,
        pace=chosen_pace(args),
        cpu=args.cpu,
        progress=lambda case: print(case, file=sys.stderr, flush=True),
    )
    return deliver(run_gemm(options), args)


def _batches(text: str) -> tuple[int, ...]:
    return tuple(positive(word) for word in text.split(","))


def _widths(text: str) -> tuple[int, ...]:
    """Those of a network of any batch."""
    return _network(f"1:{text}").widths


def _network(text: str) -> Mlp:
    try:
        return parse_mlp(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
