"""Launches in a child process with a time limit, so that one that hangs or dies costs one case and not the run.

A child serves many launches, since starting one and its runtime is dear. It is started anew after it died or was
killed, and when a launch needs another environment; there is never more than one, since a device serves one
process at a time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from conformance.backends.errors import BY_NAME, BackendError, Crashed, Died, NotRun, SettingsError, TimedOut, Unfit
from conformance.backends.preflight import preflight_call, verdict
from conformance.backends.settings import Settings, environment
from conformance.backends.wire import Closed, Late, receive, send
from conformance.subject import Arrays, Call

#: Seconds for one launch, compilation included, and as many for the start of a child.
TIME_LIMIT = 600.0
#: How many of the last characters that a child printed are told when it fails.
_TAIL = 2000
_BOOT = "import sys; sys.path[:] = {path!r}; from conformance.backends.worker import serve; serve({descriptor})"


def _fits_always(call: Call) -> str:
    return ""


@dataclass(frozen=True)
class Place:
    """Where launches happen.

    executor    'module:class' that does them in the child (see worker.Executor)
    settings    the environment that a Call needs
    options     keywords of that class, beside the name of the backend and the settings
    fits        why a Call does not belong here, '' where it does
    preflight   whether a known kernel is run first, once per number of cores
    path        entries put before sys.path in the child
    """

    executor: str
    settings: Callable[[Call], Settings]
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    fits: Callable[[Call], str] = _fits_always
    preflight: bool = False
    path: tuple[str, ...] = ()


class ChildBackend:
    """A backend whose launches happen in a child process, `timeout` seconds each.

    `facts` is what the last child told of its place (versions), with the verdicts of the preflight.
    """

    def __init__(self, name: str, place: Place, timeout: float = TIME_LIMIT) -> None:
        self.name = name
        self.timeout = timeout
        self.facts: dict[str, str] = {}
        self._place = place
        self._child: _Child | None = None
        self._settings: Settings = ()
        self._flown: dict[int, str] = {}

    def run(self, call: Call) -> Arrays:
        """Named outputs. Where there are none: KernelArgumentError, or an error of conformance/backends/errors.py."""
        if complaint := self._place.fits(call):
            raise Unfit(complaint)
        # Cores that do not suit this launch are no verdict of the preflight, which is kept.
        self._place.settings(call)
        if self._place.preflight:
            self._fly_once(call.lnc)
        return self._ask(call)

    def fly(self, lnc: int) -> str:
        """Runs the preflight kernel on `lnc` cores: '' where it came out right, else what is wrong.

        SettingsError where the outcome shows that results could not be compared.
        """
        try:
            return verdict(self._ask(preflight_call(lnc)))
        except SettingsError:
            raise
        except BackendError as error:
            return f"{error.status}: {error}"

    def close(self) -> None:
        """Ends the child; the next launch starts another."""
        if self._child is not None:
            self._child.end()
        self._child = None

    def _fly_once(self, lnc: int) -> None:
        """A preflight that shows stochastic rounding stops every launch; one that merely fails is a fact beside the
        results, since a tool may dislike that kernel and no other. One that never ran is tried again."""
        if self._flown.get(lnc, NotRun.status).startswith(NotRun.status):
            try:
                self._flown[lnc] = self.fly(lnc) or "right"
            except SettingsError as error:
                self._flown[lnc] = f"settings: {error}"
        self.facts[f"preflight on {lnc} core(s)"] = told = self._flown[lnc]
        if told.startswith("settings: "):
            raise SettingsError(told.removeprefix("settings: "))

    def _ask(self, call: Call) -> Arrays:
        child = self._child_for(self._place.settings(call))
        outputs: Arrays = self._answered(child, "launch", call)
        return outputs

    def _child_for(self, settings: Settings) -> _Child:
        if self._child is not None and self._settings == settings and self._child.lives():
            return self._child
        self.close()
        self._settings = settings
        self._child = _Child((*self._place.path, *sys.path), environment(settings, os.environ))
        options = dict(self._place.options) | {"settings": settings, "name": self.name}
        self.facts |= self._answered(self._child, "start", self._place.executor, options)
        return self._child

    def _answered(self, child: _Child, *message: Any) -> Any:
        try:
            answer = child.ask(message, self.timeout)
        except BaseException:
            # Whatever it still has to say would be taken for the answer to the next question.
            self.close()
            raise
        if answer[0] == "done":
            return answer[1]
        if answer[0] == "refused":
            raise answer[1]
        error = BY_NAME.get(answer[1], Crashed)(*answer[2:])
        starts = message[0] == "start"
        if starts or isinstance(error, (Died, TimedOut, NotRun)):
            self.close()
        if starts and not isinstance(error, (Died, TimedOut, NotRun)):
            raise NotRun(f"the child process could not start: {error}", error.details)
        raise error


class _Child:
    """One process, and the socket to it."""

    def __init__(self, path: tuple[str, ...], variables: Mapping[str, str]) -> None:
        self._channel, theirs = socket.socketpair()
        # Kept open here: its last lines are all there is to learn of a child that dies.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the child)
        self._marked = 0
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT.format(path=list(path), descriptor=theirs.fileno())],
                env=dict(variables),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self.end = weakref.finalize(self, _end, self._process, self._channel)

    def lives(self) -> bool:
        return self._process.poll() is None

    def ask(self, message: tuple[Any, ...], seconds: float) -> tuple[Any, ...]:
        """The answer to a message. TimedOut, Died; CannotTravel before anything was sent."""
        self._marked = self._log.seek(0, os.SEEK_END)
        deadline = time.monotonic() + seconds
        try:
            send(self._channel, message, deadline)
            answer: tuple[Any, ...] = receive(self._channel, deadline, self.lives)
        except Late:
            what = "the child process did not start" if message[0] == "start" else "no answer"
            raise TimedOut(f"{what} within {seconds:g} s; it was killed", self.printed()) from None
        except Closed as closed:
            raise Died(self._end_of_life(closed), self.printed()) from None
        return answer

    def printed(self) -> str:
        """The last lines that the process printed since it was asked."""
        end = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(self._marked, end - _TAIL))
        return self._log.read().decode("utf-8", "replace").strip()

    def _end_of_life(self, closed: Closed) -> str:
        try:
            code = self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            return f"the child process broke off: {closed}"
        if code < 0:
            return f"the child process was killed by {signal.Signals(-code).name}"
        return f"the child process ended with exit code {code}"


def _end(process: subprocess.Popen[bytes], channel: socket.socket) -> None:
    """Kills the whole process group: compilers that a child started must not outlive it."""
    channel.close()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
