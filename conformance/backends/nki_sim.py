"""The official simulator, `nki.simulate`, in a child process."""

from __future__ import annotations

import os

from conformance.backends.availability import Availability
from conformance.backends.child import TIME_LIMIT, ChildBackend, Place
from conformance.backends.official import INSTALL, facts, missing_package, on_cores
from conformance.backends.outputs import fresh_arguments, named_outputs
from conformance.backends.settings import Settings, require, simulator_settings
from conformance.subject import Arrays, Call


def available() -> Availability:
    """Whether the official package is installed."""
    if missing := missing_package():
        return Availability(False, f"missing: {missing}; {INSTALL}")
    return Availability(True, "nki.simulate of the official nki package")


def make(name: str = "nki-sim", timeout: float = TIME_LIMIT) -> ChildBackend:
    """The backend."""
    return ChildBackend(name, place(), timeout)


def place(path: tuple[str, ...] = (), stand_in: bool = False) -> Place:
    """Where launches happen; `path` and `stand_in` are for this project's own tests."""
    return Place(f"{__name__}:Launcher", simulator_settings, {"stand_in": stand_in}, path=path)


class Launcher:
    """The child's side (worker.Executor)."""

    def __init__(self, name: str, settings: Settings, stand_in: bool) -> None:
        self.facts = facts(name, stand_in) | {"settings": ", ".join(map(str, settings))}
        self._settings = settings

    def launch(self, call: Call) -> Arrays:
        """Named outputs; in-place arguments are read where they stand, as the simulator writes them there."""
        import nki

        require(self._settings, os.environ)
        arguments = fresh_arguments(call)
        return named_outputs(call, nki.simulate(on_cores(call))(**arguments), arguments)
