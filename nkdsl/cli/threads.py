"""The option `--threads`, which several commands have."""

import argparse


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Describe `--threads`."""
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="how many threads may share a product; default: 1",
    )
