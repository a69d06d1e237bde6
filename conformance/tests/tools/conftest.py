"""The fixture `command`: the command line, knowing one tiny kernel and one backend more."""

from __future__ import annotations

import pytest

from conformance import registry
from conformance.backends import detection
from conformance.backends.detection import Availability
from conformance.tests.tools.command_line import CommandLine
from tools import selection


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line, knowing one kernel (scaled_add) and one backend more (host)."""
    line = CommandLine(capsys)
    row = detection._Row(lambda: Availability(True, ""), "conformance.tests.tools.command_line:Host")
    backends = {**detection.BACKENDS, "host": row}
    monkeypatch.setattr(detection, "BACKENDS", backends)
    monkeypatch.setattr(selection, "BACKENDS", backends)
    monkeypatch.setattr(registry, "kernel_names", lambda: ("scaled_add",))
    monkeypatch.setattr(registry, "kernel", lambda name: line.subject)
    return line
