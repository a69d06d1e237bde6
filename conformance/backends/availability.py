"""Whether a backend can run here, as data."""

from __future__ import annotations

from typing import NamedTuple


class Availability(NamedTuple):
    """Whether a backend can run here; `reason` says why not, or what it will run on."""

    here: bool
    reason: str
