"""What all unit tests share: hypothesis profiles, and skipping what this CPU cannot run."""

import os

import llvmlite.binding
import pytest
from hypothesis import HealthCheck, settings

# Compiling takes as long as it takes on a busy machine: time is never a reason to fail.
_UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# The same examples each time, so that a failure is the change's and not the day's.
settings.register_profile("ci", parent=_UNHURRIED, derandomize=True, max_examples=40)
# New examples each time; what failed once is kept in .hypothesis and tried again first.
settings.register_profile(
    "random", parent=_UNHURRIED, derandomize=False, max_examples=200, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `isa("avx512f", …)` where the CPU lacks one of these features."""
    wanted = {feature for mark in item.iter_markers("isa") for feature in mark.args}
    if not wanted:
        return
    available = llvmlite.binding.get_host_cpu_features()
    missing = sorted(feature for feature in wanted if not available.get(feature, False))
    if missing:
        pytest.skip(f"this CPU lacks {', '.join(missing)}")
