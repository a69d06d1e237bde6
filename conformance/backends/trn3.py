"""Trainium3: kernels on the device through the official nki package."""

from __future__ import annotations

from conformance.backends import device
from conformance.backends.availability import Availability
from conformance.backends.child import TIME_LIMIT, ChildBackend

CHIP = "trn3"


def available() -> Availability:
    """Whether a Trainium3 can be used here."""
    return device.available(CHIP)


def make(name: str = CHIP, timeout: float = TIME_LIMIT) -> ChildBackend:
    """The backend."""
    return device.make(CHIP, name, timeout)
