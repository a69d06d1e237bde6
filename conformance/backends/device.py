"""What all chips have in common: a NeuronCore behind the official package, in a child process.

The package compiles for NumPy arguments and runs without a framework.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conformance.backends.availability import Availability
from conformance.backends.child import TIME_LIMIT, ChildBackend, Place
from conformance.backends.errors import CompileFailed
from conformance.backends.official import INSTALL, facts, folder, missing_compiler, missing_package, on_cores
from conformance.backends.outputs import fresh_arguments, named_outputs
from conformance.backends.settings import TARGET, Settings, device_settings, lasting, require
from conformance.backends.tracing import was_tracing
from conformance.subject import Arrays, Call
from conformance.versions import RUNTIME

#: The driver's module, and the device file of the first Neuron device.
DRIVER = Path("/sys/module/neuron")
DEVICE = Path("/dev/neuron0")
#: Where an instance tells its type ("trn2.48xlarge"), the machine's own word before the driver's.
INSTANCE_TYPES = (
    Path("/sys/devices/virtual/dmi/id/product_name"),
    Path("/sys/devices/virtual/neuron_device/neuron0/info/architecture/instance_type"),
)


def available(chip: str) -> Availability:
    """Whether package, driver, device and instance are there for a chip ("trn2"); if not, all that is missing."""
    if missing := list(_missing(chip)):
        return Availability(False, f"missing: {'; '.join(missing)}. For the packages: {INSTALL}")
    return Availability(True, f"{instance_type() or chip} through the official nki package")


def instance_type() -> str:
    """The type that the instance gives itself, '' where it does not say (inside some containers)."""
    for file in INSTANCE_TYPES:
        try:
            if told := file.read_text().strip():
                return told
        except OSError:
            continue
    return ""


def _missing(chip: str) -> Iterator[str]:
    yield from filter(None, (missing_package(), missing_compiler()))
    if not _runtime_is_there():
        yield f"Neuron runtime ({RUNTIME} does not exist, nor {RUNTIME.name} in LD_LIBRARY_PATH)"
    if not DRIVER.exists() and not DEVICE.exists():
        yield f"Neuron driver ({DRIVER} does not exist)"
    if not DEVICE.exists():
        yield f"Neuron device ({DEVICE} does not exist)"
    machine = instance_type()
    if machine.startswith(chip):
        return
    if machine.startswith(("trn", "inf")) or not DEVICE.exists():
        yield f"{chip} instance (this is {machine or 'a machine of unknown type'})"
    elif os.environ.get(TARGET) != chip:
        yield f"the type of this instance ({machine or 'unknown'}); if it is {chip}, say so: {TARGET}={chip}"


def _runtime_is_there() -> bool:
    folders = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    return any((folder / RUNTIME.name).exists() for folder in (RUNTIME.parent, *map(Path, filter(None, folders))))


def make(chip: str, name: str, timeout: float = TIME_LIMIT) -> ChildBackend:
    """The backend of a chip."""
    return ChildBackend(name, place(chip), timeout)


def place(chip: str, path: tuple[str, ...] = (), stand_in: bool = False) -> Place:
    """Where launches happen; `path` and `stand_in` are for this project's own tests."""

    def settings(call: Call) -> Settings:
        return device_settings(chip, call.lnc, os.environ)

    def fits(call: Call) -> str:
        return f"the launch is for {call.target}, this is {chip}" if call.target not in ("", chip) else ""

    return Place(f"{__name__}:Launcher", settings, {"stand_in": stand_in}, fits, preflight=True, path=path)


class Launcher:
    """The child's side (worker.Executor)."""

    def __init__(self, name: str, settings: Settings, stand_in: bool) -> None:
        # Before the package is imported: what it sets for itself later is its own affair, unless it has to last.
        require(settings, os.environ)
        self.facts = facts(name, stand_in) | {"settings": ", ".join(map(str, settings))}
        self._settings = lasting(settings)

    def launch(self, call: Call) -> Arrays:
        """Named outputs. An in-place argument that the kernel returns too is taken from there: whether a host
        array is written back is nowhere promised.

        Settings are looked at before and after, since a framework may change them when it is first imported.
        """
        require(self._settings, os.environ)
        arguments = fresh_arguments(call)
        returned = _launched(call, arguments)
        require(self._settings, os.environ)
        return named_outputs(call, returned, arguments, prefer_returned=True)


def _launched(call: Call, arguments: dict[str, Any]) -> Any:
    kernel = on_cores(call)
    try:
        return kernel(**arguments)
    except Exception as error:
        if was_tracing(error, call.function, folder()):
            raise CompileFailed(f"while the kernel was traced: {type(error).__name__}: {error}") from error
        raise
