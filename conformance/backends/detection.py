"""The backends by name: which of them this machine has, with the reason where one is missing."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from conformance.backends import nki_sim, trn2, trn3
from conformance.backends.availability import Availability
from conformance.subject import Backend
from reference.dropin import official_spec


def available(name: str) -> Availability:
    """Whether a backend can run in this process. KeyError lists the known names."""
    return _known(name).available()


def backend(name: str, **options: Any) -> Backend:
    """A backend by name; `options` are those of its factory. RuntimeError says why it cannot run here.

    One whose launches happen in a child process is made once per process and options, and then shared: its
    child is dear.
    """
    row, found = _known(name), available(name)
    if not found.here:
        raise RuntimeError(f"backend {name} cannot run here: {found.reason}")
    if not row.in_child:
        return _made(row, name, options)
    key = (row.factory, name, tuple(sorted(options.items())))
    if key not in _shared:
        _shared[key] = _made(row, name, options)
    return _shared[key]


def in_child(name: str) -> bool:
    """Whether launches of a backend happen in a child process, with a time limit."""
    return _known(name).in_child


def is_hardware(name: str) -> bool:
    """Whether results under this name come from a chip: trn2 and trn3, nothing else."""
    return name in _CHIPS


class _Row(NamedTuple):
    available: Callable[[], Availability]
    #: 'module:callable', imported when first needed.
    factory: str
    #: Whether it takes `timeout` and launches in a child process.
    in_child: bool = False


_CHIPS = (trn2.CHIP, trn3.CHIP)
_shared: dict[Any, Backend] = {}


def _known(name: str) -> _Row:
    if name not in BACKENDS:
        raise KeyError(f"no backend {name!r}; known: {', '.join(BACKENDS)}")
    return BACKENDS[name]


def _made(row: _Row, name: str, options: Mapping[str, Any]) -> Backend:
    module, _, attribute = row.factory.partition(":")
    made: Backend = getattr(importlib.import_module(module), attribute)(name=name, **options)
    return made


def _embedded() -> Availability:
    if official_spec() is not None:
        return Availability(False, "the official package answers to the name nki, which kernels import")
    return Availability(True, "the embedded machine")


BACKENDS: Mapping[str, _Row] = MappingProxyType(
    {
        "sim": _Row(_embedded, "conformance.backends.sim:SimBackend"),
        "nki-sim": _Row(nki_sim.available, "conformance.backends.nki_sim:make", in_child=True),
        "trn2": _Row(trn2.available, "conformance.backends.trn2:make", in_child=True),
        "trn3": _Row(trn3.available, "conformance.backends.trn3:make", in_child=True),
    }
)
