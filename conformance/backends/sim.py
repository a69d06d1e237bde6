"""The embedded machine: kernels executed instruction by instruction by `reference.neuroncore`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from conformance.backends.child import ChildBackend, Place
from conformance.backends.outputs import fresh_arguments, named_outputs
from conformance.backends.settings import TARGET, Settings
from conformance.subject import Arrays, Call
from reference.neuroncore.options import Options
from reference.neuroncore.trace import Tap, TapKey, Trace


@dataclass(frozen=True)
class Simulated:
    """Outputs of one launch and what the machine recorded of it."""

    outputs: Arrays
    trace: Trace


@dataclass(frozen=True)
class SimBackend:
    """Runs a Call under `options` (checks, races, profile, interleaving seed, taps; see Options)."""

    options: Options = field(default_factory=Options)
    name: str = "sim"

    def run(self, call: Call) -> Arrays:
        """Named outputs; MachineError where the kernel breaks a rule of the machine."""
        return self.launch(call).outputs

    def launch(self, call: Call) -> Simulated:
        """Named outputs with the trace; arguments that `call.in_place` does not name may not be written."""
        import nki

        arguments = fresh_arguments(call)
        kernel: Any = nki.simulate(call.function)
        options = self.options.but(in_place=frozenset(call.in_place.values()))
        with _target(call.target):
            result = kernel[call.lnc].launch((), arguments, options)
        return Simulated(named_outputs(call, result.outputs, arguments), result.trace)


class Tapped:
    """A machine that keeps the taps of its last launch."""

    def __init__(self, machine: SimBackend) -> None:
        self.name = machine.name
        self.taps: Mapping[TapKey, Tap] = {}
        self._machine = SimBackend(machine.options.but(taps=True), machine.name)

    def run(self, call: Call) -> Arrays:
        """As of SimBackend."""
        done = self._machine.launch(call)
        self.taps = done.trace.taps
        return done.outputs


@contextlib.contextmanager
def _target(name: str) -> Iterator[None]:
    """Launches inside run on the generation of this instance family; '' leaves it as it is."""
    before = os.environ.get(TARGET)
    if name:
        os.environ[TARGET] = name
    try:
        yield
    finally:
        if name and before is None:
            del os.environ[TARGET]
        elif before is not None:
            os.environ[TARGET] = before


def timed(options: Options, timeout: float) -> ChildBackend:
    """The machine in a child process, which is killed where a launch takes longer than `timeout` seconds. One and the
    same for equal options."""
    key = (repr(options), timeout)
    if key not in _timed:
        _timed[key] = ChildBackend("sim", Place(f"{__name__}:Launcher", _no_settings, {"options": options}), timeout)
    return _timed[key]


#: Children of `timed`: dear to start, so shared by all cases of a run.
_timed: dict[tuple[str, float], ChildBackend] = {}


def _no_settings(call: Call) -> Settings:
    return ()


class Launcher:
    """The child's side of `timed` (worker.Executor)."""

    def __init__(self, name: str, settings: Settings, options: Options) -> None:
        self.facts: dict[str, str] = {}
        self._backend = SimBackend(options, name)

    def launch(self, call: Call) -> Arrays:
        """Named outputs, as SimBackend gives them."""
        return self._backend.run(call)
