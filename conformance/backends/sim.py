"""The embedded machine: kernels executed instruction by instruction by `reference.neuroncore`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from conformance.backends.outputs import fresh_arguments, named_outputs
from conformance.subject import Arrays, Call
from reference.neuroncore.options import Options
from reference.neuroncore.trace import Trace

#: What the machine reads its generation from, as the official simulator does.
_TARGET = "NEURON_PLATFORM_TARGET_OVERRIDE"


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


@contextlib.contextmanager
def _target(name: str) -> Iterator[None]:
    """Launches inside run on the generation of this instance family; '' leaves it as it is."""
    before = os.environ.get(_TARGET)
    if name:
        os.environ[_TARGET] = name
    try:
        yield
    finally:
        if name and before is None:
            del os.environ[_TARGET]
        elif before is not None:
            os.environ[_TARGET] = before
