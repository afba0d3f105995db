"""Where the peers' own Python environment is: torch, MKL and JAX are too heavy for this one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "NKDSL_PEERS"
FOLDER = ".venv-peers"


def peers_folder() -> Path | None:
    """The environment that `NKDSL_PEERS` names, else `.venv-peers` beside the one that runs."""
    chosen = os.environ.get(VARIABLE)
    folder = Path(chosen) if chosen else Path(sys.prefix).parent / FOLDER
    return folder if folder.is_dir() else None


def peers_packages() -> tuple[str, ...]:
    """What to append to Python's path to find the packages there."""
    folder = peers_folder()
    if folder is None:
        return ()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return tuple(str(path) for path in folder.glob(f"lib/{version}/site-packages"))


def find_in_peers(pattern: str) -> Path | None:
    """A file there, or in the environment that runs."""
    for folder in (peers_folder(), Path(sys.prefix)):
        if folder is not None:
            for path in sorted(folder.glob(pattern)):
                return path
    return None
