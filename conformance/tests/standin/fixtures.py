"""How tests run cases on the stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance import judging
from conformance.required import requirement
from conformance.tests import standin

#: What the stand-in plays, and so whose grades are required of it.
_PLAYED = "trn2"


class Stage:
    """The plan that the stand-in follows, and grades for it: no row of the product's table knows it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: Path) -> None:
        self._monkeypatch, self._count = monkeypatch, count
        monkeypatch.setattr(judging, "requirement", _requirement)
        monkeypatch.setenv(standin.COUNT, str(count))
        self.plays("right")

    def plays(self, *plan: str, preflight: str = "right") -> None:
        """What the launches from now on do, the last for good. Children that are there keep to the old plan."""
        self._count.unlink(missing_ok=True)
        self._monkeypatch.setenv(standin.PLAN, ",".join(plan))
        self._monkeypatch.setenv(standin.PREFLIGHT, preflight)

    @property
    def launches(self) -> int:
        """How many there were, not counting the preflight."""
        return int(self._count.read_text()) if self._count.exists() else 0


def _requirement(kernel: str, output: str, dtype: str, quantization: str, lane: str, backend: str) -> Any:
    asked = _PLAYED if backend == standin.NAME else backend
    return requirement(kernel, output, dtype, quantization, lane, asked)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stage]:
    """The stand-in does the right thing until told otherwise."""
    return Stage(monkeypatch, tmp_path / "launches")
