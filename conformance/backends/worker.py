"""The child's side: serves launches until the run that started it is gone.

Started as `python -c ... serve(fd)`, in a process group of its own. One message in, one message out: first
('start', 'module:class', options), answered by the facts of the place, then ('launch', call) as often as asked.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import socket
import threading
import time
import traceback
from typing import Any, Protocol

from conformance.backends.errors import BY_STATUS, BackendError, CompileFailed, NotRun
from conformance.backends.official import folder
from conformance.backends.signs import status_of
from conformance.backends.wire import Closed, receive, send
from conformance.subject import Arrays, Call
from reference.errors import KernelArgumentError

#: A child waits for its next launch as long as it takes.
_FOREVER = float("inf")
_ANSWER_SECONDS = 3600.0


class Executor(Protocol):
    """What does the launches: made once, from the options of ('start', ...); raises where the place is wrong."""

    #: What is to be told with results: versions.
    facts: dict[str, str]

    def launch(self, call: Call) -> Arrays:
        """Named outputs of one launch."""


def serve(descriptor: int) -> None:
    """Answers messages on an inherited socket until it is closed."""
    # Compilers that a launch starts must not hold the socket: its end is how the run learns of a death.
    os.set_inheritable(descriptor, False)
    channel = socket.socket(fileno=descriptor)
    _end_with_the_run(channel)
    desk = _Desk()
    while True:
        try:
            answer = desk.answer(*receive(channel, _FOREVER))
        except Closed:
            return
        except Exception as error:
            answer = _told(_not_imported(error))
        _reply(channel, answer)


class _Desk:
    """The executor, once there is one."""

    def __init__(self) -> None:
        self._executor: Executor | None = None

    def answer(self, kind: str, *content: Any) -> tuple[Any, ...]:
        try:
            return ("done", self._start(*content) if kind == "start" else self._launch(*content))
        except Exception as error:
            return _told(error)

    def _start(self, executor: str, options: dict[str, Any]) -> dict[str, str]:
        module, _, name = executor.partition(":")
        made: Executor = getattr(importlib.import_module(module), name)(**options)
        self._executor = made
        return made.facts

    def _launch(self, call: Call) -> Arrays:
        if self._executor is None:
            raise RuntimeError("a launch before the start")
        return self._executor.launch(call)


def _reply(channel: socket.socket, answer: tuple[Any, ...]) -> None:
    until = time.monotonic() + _ANSWER_SECONDS
    try:
        send(channel, answer, until)
    except BackendError as error:
        send(channel, _told(error), until)


def _told(error: Exception) -> tuple[Any, ...]:
    """An exception as words; the classes of official packages may not exist where the answer is read."""
    if isinstance(error, KernelArgumentError):
        return ("refused", error)
    details = "".join(traceback.format_exception(error))
    if isinstance(error, BackendError):
        return ("raised", type(error).__name__, str(error), error.details or details)
    kind = BY_STATUS[status_of(error, folder())]
    return ("raised", kind.__name__, f"{type(error).__name__}: {error}", details)


def _not_imported(error: Exception) -> BackendError:
    """The message is whole, but something that it names cannot be imported here: because nki lacks what the module
    asks of it, or because there is no such module."""
    details = "".join(traceback.format_exception(error))
    lacks = not isinstance(error, ImportError) or (error.name or "").partition(".")[0] == "nki"
    kind = CompileFailed if lacks else NotRun
    return kind(f"the kernel cannot be imported: {type(error).__name__}: {error}", details)


def _end_with_the_run(channel: socket.socket) -> None:
    """Ends this process group when the run is gone, in the middle of a launch too: an orphan would keep the
    device from everybody else."""

    def watch() -> None:
        hangup = select.poll()
        hangup.register(channel, 0)
        hangup.poll()
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
