"""The official `nki` package: its own simulator, and a device behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conformance.backends.outputs import fresh_arguments, named_outputs
from conformance.subject import Arrays, Call


@dataclass(frozen=True)
class OfficialSimulator:
    """`nki.simulate`, which computes on the host."""

    name: str = "nki-sim"

    def run(self, call: Call) -> Arrays:
        """Named outputs; whatever the package raises passes through."""
        import nki

        arguments = fresh_arguments(call)
        kernel: Any = call.function
        return named_outputs(call, nki.simulate(kernel[call.lnc])(**arguments), arguments)


@dataclass(frozen=True)
class Device:
    """A NeuronCore: the official package compiles for NumPy arguments and runs without a framework.

    The runtime must have been started for the same number of cores (NEURON_LOGICAL_NC_CONFIG) and with
    stochastic rounding off, its default.
    """

    name: str = "trn2"

    def run(self, call: Call) -> Arrays:
        """Named outputs; whatever compiler and runtime raise passes through."""
        arguments = fresh_arguments(call)
        kernel: Any = call.function
        return named_outputs(call, kernel[call.lnc](**arguments), arguments)
