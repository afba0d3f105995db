"""C that becomes a shared library: built once, rebuilt when anything changes, or refused."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from nkdsl.bench.peers import Unable, compiled
from nkdsl.bench.peers.compiled import find_compiler, shared_library, static_library

ANSWER = "int answer(void) { return NUMBER; }\n"


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache; skips the test where there is no C compiler."""
    monkeypatch.setenv("NKDSL_CACHE_DIR", str(tmp_path))
    try:
        find_compiler()
    except Unable as error:
        pytest.skip(str(error))
    return tmp_path


def test_a_library_is_built_once_for_each_text_and_options(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (shared_library("x", ANSWER, [f"-DNUMBER={n}"]) for n in (41, 42))
    assert [ctypes.CDLL(str(path)).answer() for path in (first, second)] == [41, 42]
    assert {first, second} == set(cache.iterdir())
    monkeypatch.setattr(compiled, "_build", None)
    assert shared_library("x", ANSWER, ["-DNUMBER=42"]) == second


def test_a_library_for_another_cpu_is_another_one(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = shared_library("x", ANSWER, ["-DNUMBER=1"])
    monkeypatch.setattr(compiled, "host_cpu", lambda: "another")
    assert shared_library("x", ANSWER, ["-DNUMBER=1"]) != here


def test_a_static_library_that_was_written_again_makes_a_new_one(cache: Path) -> None:
    archive = cache / "empty.a"
    archive.write_bytes(b"!<arch>\n")
    first = shared_library("x", ANSWER, ["-DNUMBER=1"], [archive])
    os.utime(archive, (0, 0))
    assert shared_library("x", ANSWER, ["-DNUMBER=1"], [archive]) != first


def test_what_the_compiler_refuses_leaves_nothing_behind(cache: Path) -> None:
    with pytest.raises(Unable, match="cannot build x-"):
        shared_library("x", "this is no C\n", [])
    assert list(cache.iterdir()) == []


def test_a_static_library_that_is_nowhere_is_named(cache: Path) -> None:
    with pytest.raises(Unable, match=r"libnowhere\.a not found"):
        static_library("libnowhere.a")


def test_no_compiler_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(Unable, match="no C compiler"):
        shared_library("x", ANSWER, [])
