"""Work for the workers of a test: tasks that are numbers, and that tell who did them by a file each."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path


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
