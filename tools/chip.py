"""Which chip probes are asked of: a device is one, a simulator plays one."""

from __future__ import annotations

import os
import re

from conformance.backends import is_hardware
from conformance.backends.settings import TARGET
from conformance.probes.probe import Setting
from conformance.versions import versions
from reference.numerics.profile import DEFAULT, NumericsProfile
from tools.errors import BadInput

HELP = "Chip that a simulator plays for probes: trn2, trn3. [trn2]"

_GENERATIONS = {"trn1": "gen2", "inf2": "gen2", "trn2": "gen3", "trn3": "gen4"}


def setting(
    backend: str, target: str | None = None, played: NumericsProfile = DEFAULT, exhaustive: bool = False
) -> Setting:
    """Where probes run on a backend; the `target` of a simulator is the environment's where none is told. BadInput for
    a chip that is not known, or that the backend is not."""
    chip = backend if is_hardware(backend) else target or os.environ.get(TARGET, "") or "trn2"
    if is_hardware(backend) and target not in (None, backend):
        raise BadInput(f"--target {target}: backend {backend} is a chip, and no simulator of one")
    if chip not in _GENERATIONS:
        raise BadInput(f"--target {chip}: known are {', '.join(_GENERATIONS)}")
    nki = played.nki if backend == "sim" else _version(versions()["nki"]) or played.nki
    return Setting(_GENERATIONS[chip], nki, "exhaustive" if exhaustive else "sample")


def _version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version; () where there are none."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
