"""Pytest markers that name a backend: what they mark runs where that backend can run, and is skipped elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

from conformance.backends import BACKENDS, available


def reason_to_skip(markers: Iterable[str]) -> str:
    """Why a test with these markers cannot run here; '' where it can. Other markers are not looked at."""
    for name in markers:
        if name in BACKENDS and not (found := available(name)).here:
            return f"{name}: {found.reason}"
    return ""
