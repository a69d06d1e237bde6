"""Which backends this machine has, with the reason where one is missing."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from conformance.subject import Backend
from reference.dropin import official_spec

#: The device file of the first Neuron device.
DEVICE = Path("/dev/neuron0")
#: EC2 instances tell their type here ("trn2.48xlarge").
INSTANCE_TYPE = Path("/sys/devices/virtual/dmi/id/product_name")


class Availability(NamedTuple):
    """Whether a backend can run here; `reason` says why not, or what it will run on."""

    here: bool
    reason: str


def available(name: str) -> Availability:
    """Whether a backend can run in this process. KeyError lists the known names."""
    return _known(name).available()


def backend(name: str, **options: Any) -> Backend:
    """A backend by name; `options` are those of its class. RuntimeError says why it cannot run here."""
    row, found = _known(name), available(name)
    if not found.here:
        raise RuntimeError(f"backend {name} cannot run here: {found.reason}")
    module, _, attribute = row.factory.partition(":")
    made: Backend = getattr(importlib.import_module(module), attribute)(name=name, **options)
    return made


class _Row(NamedTuple):
    available: Callable[[], Availability]
    #: 'module:class', imported when first needed.
    factory: str


def _known(name: str) -> _Row:
    if name not in BACKENDS:
        raise KeyError(f"no backend {name!r}; known: {', '.join(BACKENDS)}")
    return BACKENDS[name]


def _embedded() -> Availability:
    if official_spec() is not None:
        return Availability(False, "the official package answers to the name nki, which kernels import")
    return Availability(True, "the embedded machine")


def _official() -> Availability:
    if official_spec() is None:
        return Availability(False, "no package nki with instructions (nki.isa) is installed")
    return Availability(True, "the official nki package")


def _device(chip: str) -> Availability:
    official = _official()
    if not official.here:
        return official
    if not DEVICE.exists():
        return Availability(False, f"no Neuron device ({DEVICE} does not exist)")
    machine = INSTANCE_TYPE.read_text().strip() if INSTANCE_TYPE.exists() else "of unknown type"
    if not machine.startswith(chip):
        return Availability(False, f"this instance is {machine}, not {chip}")
    return Availability(True, f"{machine} through the official nki package")


BACKENDS: Mapping[str, _Row] = MappingProxyType(
    {
        "sim": _Row(_embedded, "conformance.backends.sim:SimBackend"),
        "nki-sim": _Row(_official, "conformance.backends.official:OfficialSimulator"),
        "trn2": _Row(lambda: _device("trn2"), "conformance.backends.official:Device"),
        "trn3": _Row(lambda: _device("trn3"), "conformance.backends.official:Device"),
    }
)
