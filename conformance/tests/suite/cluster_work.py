"""Work for the workers of a test: tasks that are numbers, and that tell who did them by a file each."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance.backends import child, detection
from conformance.backends.availability import Availability
from conformance.backends.settings import LENT
from conformance.campaign import Task
from conformance.providers import Provider
from conformance.results import CaseResult
from tools import campaign

#: Where `gated` finds its gate and tells who stands before it.
GATE = "NKI_ORACLE_TEST_GATE"


@dataclass(frozen=True)
class Errand:
    """`number` squared. Attempt after attempt leaves a file in `folder`; `kills` of them end the worker."""

    number: int
    folder: Path
    kills: int = 0
    seconds: float = 0.0
    raises: bool = False


def square(errand: Errand) -> int:
    """The square, unless the worker is killed or the errand raises."""
    attempt = len(list(errand.folder.glob(f"{errand.number}-*")))
    (errand.folder / f"{errand.number}-{attempt}-{os.getpid()}").touch()
    if attempt < errand.kills:
        os.kill(os.getpid(), signal.SIGKILL)
    if errand.raises:
        raise ZeroDivisionError(f"errand {errand.number}")
    time.sleep(errand.seconds)
    return errand.number**2


def gated(task: Task) -> CaseResult:
    """A task of a campaign, which waits before a gate (the file 'open' of a folder) if it is not among the 'free'."""
    folder = Path(os.environ[GATE])
    if task.case.id not in (folder / "free").read_text().split():
        (folder / f"waiting-{os.getpid()}").touch()
        while not (folder / "open").exists():
            time.sleep(0.02)
    return campaign.perform(task)


#: Where `on_stand_in` keeps its notes.
NOTES = "NKI_ORACLE_TEST_NOTES"


def on_stand_in(task: Task) -> CaseResult:
    """A task of a campaign on trn2, which the stand-in plays. The first two wait for each other.

    Notes, a line of JSON each: what every child took of the cores, and when the task ended with how many children."""
    _play_trn2()
    folder = Path(os.environ[NOTES])
    (folder / f"begun-{os.getpid()}").touch()
    end = time.monotonic() + 60
    while len(list(folder.glob("begun-*"))) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    begun = time.monotonic()
    result = campaign.perform(task)
    _note(task=task.case.id, begun=begun, ended=time.monotonic(), lent=os.environ[LENT], children=_CHILDREN)
    return result


_CHILDREN: list[int] = []


def _note(**told: Any) -> None:
    with open(Path(os.environ[NOTES]) / f"notes-{os.getpid()}", "a") as file:
        file.write(json.dumps(told) + "\n")


def _play_trn2() -> None:
    """Makes the stand-in trn2 in this process, and every child of it known."""
    if detection.BACKENDS["trn2"].factory == "conformance.tests.standin:make":
        return
    made = detection._Row(lambda: Availability(True, "the stand-in"), "conformance.tests.standin:make", True)
    detection.BACKENDS = {**detection.BACKENDS, "trn2": made}
    start, close = child._Child.__init__, child.ChildBackend.close

    def started(self: Any, path: Any, variables: Any) -> None:
        start(self, path, variables)
        _CHILDREN.append(self._process.pid)
        _note(visible=variables["NEURON_RT_VISIBLE_CORES"], lnc=variables["NEURON_LOGICAL_NC_CONFIG"],
              lent=variables[LENT])  # fmt: skip

    def closed(self: Any) -> None:
        close(self)
        _CHILDREN[:] = [process for process in _CHILDREN if Path(f"/proc/{process}").exists()]

    child._Child.__init__, child.ChildBackend.close = started, closed  # type: ignore[method-assign]


class Here:
    """A cluster that is this process; `after` so many tasks someone presses Ctrl-C."""

    after = 1000

    def __init__(self, work: Any, *options: Any) -> None:
        self._work = work

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def results(self, tasks: Sequence[Task]) -> Any:
        """Each task with its result."""
        for number, task in enumerate(tasks):
            if number == self.after:
                raise KeyboardInterrupt
            yield task, self._work(task)


class Bad(Provider):
    """Somebody's kernels, none of which works."""

    name = "bad"

    def implementation(self, kernel: str) -> Any:
        """A function that gives nothing."""
        return _nothing


def _nothing(**arguments: Any) -> None:
    return None
