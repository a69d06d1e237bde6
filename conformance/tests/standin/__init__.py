"""A stand-in for a device: the official package's calling convention over the embedded machine, with bad manners.

The folder holds a package named `nki`. On the path of a child process it is taken for the official one, since it
has `nki.isa`; it refuses to be imported unless the variable below is set, and calls itself a stand-in in its
version. The variable lists what successive launches do, the last for good:

    NKI_ORACLE_STAND_IN=right,hang,right

Launches are counted in a file, so that the list goes on where a child died. nki/play.py holds the manners.
"""

from __future__ import annotations

from pathlib import Path

from conformance.backends import device, nki_sim
from conformance.backends.child import ChildBackend

FOLDER = str(Path(__file__).parent)
PLAN = "NKI_ORACLE_STAND_IN"
COUNT = "NKI_ORACLE_STAND_IN_COUNT"
PREFLIGHT = "NKI_ORACLE_STAND_IN_PREFLIGHT"
NAME = "stand-in"
#: Seconds. Long enough for a loaded machine to start a child, where nothing is meant to hang.
PATIENT = 60.0


def make(name: str = NAME, timeout: float = PATIENT) -> ChildBackend:
    """The device backend of trn2 with the stand-in in the child's path."""
    return ChildBackend(name, device.place("trn2", (FOLDER,), stand_in=True), timeout)


def make_simulator(name: str = NAME, timeout: float = PATIENT) -> ChildBackend:
    """The backend nki-sim likewise."""
    return ChildBackend(name, nki_sim.place((FOLDER,), stand_in=True), timeout)
