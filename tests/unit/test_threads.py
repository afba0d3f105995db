"""How many threads there are to use: what is asked for, what cores there are, what time."""

import os
from pathlib import Path

import pytest

from nkdsl.cli import doctor
from nkdsl.errors import InvalidInput
from nkdsl.runtime import threads

UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
SEPARATE = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The root of a machine with 8 CPUs for this process, which tells nothing else."""
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    monkeypatch.setattr(threads, "_ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    return tmp_path


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


# ------------------------------------------------------------------------------ asked for


def test_the_variable_sets_the_number(machine, monkeypatch):
    monkeypatch.setenv(threads.VARIABLE, "3")
    assert threads.default_threads() == threads.resolve_threads(None) == 3
    assert threads.detect_threads().reason == "from NKDSL_NUM_THREADS"


@pytest.mark.parametrize("text", ["0", "-2", "two", "1.5", "4,2"])
def test_the_variable_must_be_a_number_of_threads(machine, monkeypatch, text):
    monkeypatch.setenv(threads.VARIABLE, text)
    with pytest.raises(InvalidInput, match=f"NKDSL_NUM_THREADS={text} .*, or unset it"):
        threads.default_threads()


def test_an_empty_variable_is_none(machine, monkeypatch):
    monkeypatch.setenv(threads.VARIABLE, "")
    assert threads.default_threads() == 8


def test_a_request_comes_before_the_variable(machine, monkeypatch):
    monkeypatch.setenv(threads.VARIABLE, "junk")
    assert threads.resolve_threads(5) == 5


@pytest.mark.parametrize("count", [0, -1])
def test_a_request_for_no_thread_is_refused(count):
    with pytest.raises(InvalidInput, match=f"at least 1 thread, not {count}"):
        threads.resolve_threads(count)


# ---------------------------------------------------------------------------------- cores


def test_without_a_topology_each_cpu_is_a_core(machine):
    assert threads.detect_threads() == threads.ThreadCount(8, "8 cores for this process")


@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
def test_cpus_of_one_core_count_once(machine, name):
    for cpu in range(8):
        pair = f"{cpu % 4},{cpu % 4 + 4}\n"
        write(machine, f"sys/devices/system/cpu/cpu{cpu}/topology/{name}", pair)
    found = threads.detect_threads()
    assert found == threads.ThreadCount(4, "4 cores for this process (8 hardware threads)")


def test_only_cpus_for_this_process_count(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 4, 5})
    for cpu in range(8):
        pair = f"{cpu % 4},{cpu % 4 + 4}\n"
        write(machine, f"sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list", pair)
    assert threads.default_threads() == 2


# -------------------------------------------------------------------------------- cgroups


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("max 100000\n", 8),
        ("250000 100000\n", 3),
        ("200000 100000\n", 2),
        ("10000 100000\n", 1),
        ("9900000 100000\n", 8),
        ("junk\n", 8),
        ("100000 0\n", 8),
        ("", 8),
    ],
)
def test_the_time_of_a_unified_group_bounds_the_number(machine, text, count):
    write(machine, "proc/self/cgroup", "0::/user.slice/app\n")
    write(machine, "proc/self/mountinfo", UNIFIED)
    write(machine, "sys/fs/cgroup/user.slice/app/cpu.max", text)
    assert threads.default_threads() == count


def test_the_reason_tells_the_time(machine):
    write(machine, "proc/self/cgroup", "0::/\n")
    write(machine, "proc/self/mountinfo", UNIFIED)
    write(machine, "sys/fs/cgroup/cpu.max", "150000 100000")
    assert threads.detect_threads() == threads.ThreadCount(
        2, "8 cores for this process, time of 1.5 by its cgroup"
    )


def test_a_group_above_bounds_the_number_too(machine):
    write(machine, "proc/self/cgroup", "0::/pod/app\n")
    write(machine, "proc/self/mountinfo", UNIFIED)
    write(machine, "sys/fs/cgroup/pod/app/cpu.max", "600000 100000")
    write(machine, "sys/fs/cgroup/pod/cpu.max", "400000 100000")
    assert threads.default_threads() == 4


@pytest.mark.parametrize(("quota", "count"), [("-1", 8), ("350000", 4), ("0", 8), ("junk", 8)])
def test_the_time_of_a_group_of_the_first_version_bounds_it(machine, quota, count):
    write(machine, "proc/self/cgroup", "4:cpuset:/\n3:cpu,cpuacct:/app\n0::/\n")
    write(machine, "proc/self/mountinfo", SEPARATE)
    write(machine, "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us", quota)
    write(machine, "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us", "100000")
    assert threads.default_threads() == count


def test_in_a_container_its_group_is_the_root_of_the_mount(machine):
    write(machine, "proc/self/cgroup", "3:cpu,cpuacct:/docker/0123\n")
    write(machine, "proc/self/mountinfo", SEPARATE.replace(" / ", " /docker/0123 "))
    write(machine, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "200000")
    write(machine, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000")
    assert threads.default_threads() == 2


def test_a_group_that_lies_outside_the_mount_is_taken_for_its_root(machine):
    write(machine, "proc/self/cgroup", "0::/elsewhere\n")
    write(machine, "proc/self/mountinfo", UNIFIED.replace(" / ", " /docker/0123 "))
    write(machine, "sys/fs/cgroup/cpu.max", "300000 100000")
    assert threads.default_threads() == 3


# --------------------------------------------------------------------------------- doctor


def test_the_doctor_says_how_many_and_why(machine):
    assert doctor._threads() == "8: 8 cores for this process"


def test_on_this_machine_there_is_one_at_least(monkeypatch):
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    assert 1 <= threads.default_threads() <= len(os.sched_getaffinity(0))
