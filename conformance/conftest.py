"""How the suite runs under pytest: Hypothesis profiles, and markers that ask for a backend.

A profile is chosen by `--hypothesis-profile NAME` or the variable HYPOTHESIS_PROFILE; tox chooses `ci`.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from conformance.markers import reason_to_skip
from reference.dropin import official_spec

#: Tests of the machine import parts of the drop-in that the official package, where it is installed, need not have;
#: `pytest -m trn2` would stop at them before it runs anything.
collect_ignore = ["tests/machine"] if official_spec() is not None else []

# No deadline anywhere: the time of an example says more about the machine than about the kernel.
# ci draws the same examples on every run, so that a red run is about the change and can be repeated.
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=25, print_blob=True)
settings.register_profile("dev", deadline=None, max_examples=25, print_blob=True)
settings.register_profile(
    "nightly",
    deadline=None,
    max_examples=1000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips, with the reason, what is marked for a backend that cannot run here."""
    for item in items:
        reason = reason_to_skip(mark.name for mark in item.iter_markers())
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
