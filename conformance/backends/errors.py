"""What a launch can come to besides outputs: one exception per status of `conformance.results.STATUSES`.

A backend whose launches happen in a child process raises these; `details` holds the child's own traceback or
the last lines it printed. Other backends let the kernel's exceptions pass, and the runner sorts them.
"""

from __future__ import annotations

from typing import ClassVar


class BackendError(Exception):
    """A launch without outputs. `status` says which kind, the text is one line for a reader."""

    status: ClassVar[str] = "crashed"

    def __init__(self, text: str, details: str = "") -> None:
        super().__init__(text)
        self.details = details


class Crashed(BackendError):
    """The call raised something that no other class stands for."""


class NotRun(BackendError):
    """Nothing was launched, or nothing that could be believed, for a reason that lies outside the kernel: it says
    nothing of it, and is tried again when a run is resumed."""

    status = "not-run"


class SettingsError(NotRun):
    """The runtime is not set as a comparable result needs it, so nothing was launched or believed."""


class CompileFailed(BackendError):
    """The kernel was refused by front end or compiler: nothing ran."""

    status = "compile-failed"


class Refused(BackendError):
    """The kernel itself refused its arguments."""

    status = "refused"


class RuleViolated(BackendError):
    """The kernel breaks a rule of the machine, says the tool that ran it."""

    status = "violation"


class Unfit(BackendError):
    """The launch asks for something this backend is not, another chip say; nothing is said of the kernel."""

    status = "unfit"


class TimedOut(BackendError):
    """No answer within the time limit; the child was killed."""

    status = "timed-out"


class Died(BackendError):
    """The child process ended, or the device behind it failed, in the middle of the launch."""

    status = "died"


_KINDS = (Crashed, NotRun, SettingsError, CompileFailed, Refused, RuleViolated, Unfit, TimedOut, Died)
#: For statuses that several classes share, the most general one.
BY_STATUS: dict[str, type[BackendError]] = {kind.status: kind for kind in reversed(_KINDS)}
BY_NAME: dict[str, type[BackendError]] = {kind.__name__: kind for kind in _KINDS}
