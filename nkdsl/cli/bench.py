"""`nkdsl bench SUITE`: the suites of `nkdsl.bench`, each with its own options."""

import argparse

from nkdsl.bench import blocks, gemm, micro, mlp, tiles

SUITES = {
    "micro": (
        micro,
        "single microkernels, in cache, one thread, against the peak and every peer",
    ),
    "gemm": (gemm, "whole products, on one thread or several, against every BLAS found here"),
    "mlp": (
        mlp,
        "networks of fully connected layers, against torch, its compiler, JAX and libxsmm",
    ),
    "blocks": (blocks, "the planner's model against measurement: many plans of one product"),
    "tiles": (tiles, "what kernels on tiles execute, counted; nothing is timed"),
}
"""Every suite's module with its line of help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Mount each suite as a subcommand."""
    suites = parser.add_subparsers(metavar="SUITE", required=True)
    for name, (module, help_) in SUITES.items():
        suite = suites.add_parser(name, help=help_, description=f"{help_}.")
        module.add_arguments(suite)
        suite.set_defaults(suite=module.main)


def main(arguments: argparse.Namespace) -> int:
    """Run the suite."""
    return int(arguments.suite(arguments))
