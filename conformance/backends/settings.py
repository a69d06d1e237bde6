"""The environment that a launch needs for its numbers to be comparable: stated, set, and looked at again.

The runtime reads most of it once, when it starts; so a child process is started with it, and launches that need
another one get another child.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from conformance.backends.errors import SettingsError
from conformance.subject import Call


@dataclass(frozen=True)
class Setting:
    """One environment variable; None: it must not be set."""

    name: str
    value: str | None
    why: str
    #: Whether it must still be so when a launch is over; else only at the start of the process: the package may use
    #: the variable for programs that it starts.
    lasts: bool = True

    def __str__(self) -> str:
        return f"{self.name} unset" if self.value is None else f"{self.name}={self.value}"


Settings = tuple[Setting, ...]

#: What the compiler and the runtime take their chip from, and the official simulator too.
TARGET = "NEURON_PLATFORM_TARGET_OVERRIDE"
CORES = "NEURON_LOGICAL_NC_CONFIG"
ROUNDING = "NEURON_RT_STOCHASTIC_ROUNDING_EN"
VISIBLE = "NEURON_RT_VISIBLE_CORES"
NUMBER = "NEURON_RT_NUM_CORES"
#: Either of these says which cores a process takes, in logical ones; without one it takes all of them.
_SHARES = (VISIBLE, NUMBER)
#: Ids of the physical cores that a cluster lent to this process for one task ("2,3"); goes before the shares.
LENT = "NKI_ORACLE_LENT_CORES"


def device_settings(chip: str, lnc: int, inherited: Mapping[str, str]) -> Settings:
    """For launches on `lnc` physical cores of a chip ("trn2"). A share of cores set by the caller is kept, and stated:
    a child that was started with another one must not be taken for it. SettingsError for lent cores that make up no
    logical core."""
    stated = (
        Setting(TARGET, chip, "compile for the chip that runs it"),
        Setting(CORES, str(lnc), "a logical core has as many physical ones as the kernel is launched on"),
        Setting(ROUNDING, "0", "models round to nearest even"),
        Setting("NKI_SIMULATOR", None, "else the official package answers from its simulator"),
        Setting("XLA_USE_BF16", None, "frameworks turn stochastic rounding on with it"),
        Setting("NEURON_CC_FLAGS", None, "options for a framework's graphs (--lnc, --auto-cast)", lasts=False),
        Setting("NKI_COMPILER_FRONTEND", None, "the front end that this version comes with", lasts=False),
    )
    return (*stated, *_share(lnc, inherited))


def _share(lnc: int, inherited: Mapping[str, str]) -> Settings:
    if lent := inherited.get(LENT):
        return (
            Setting(VISIBLE, str(logical_core(lent, lnc)), f"of the physical cores {lent}, which the cluster lent"),
            Setting(NUMBER, None, "the cores are named"),
        )
    kept = tuple(
        Setting(name, inherited[name], "the share of cores that this process was given")
        for name in _SHARES
        if inherited.get(name)
    )
    return kept or (Setting(NUMBER, "1", "one logical core, so that others can run beside"),)


def logical_core(lent: str, lnc: int) -> int:
    """The first logical core of `lnc` physical ones that lies within the physical cores `lent` ("2,3").

    Logical core i is taken for physical i * lnc and those behind it: documents say that the runtime handles a group
    of cores as one, and show eight cores as four; how it numbers them, and that VISIBLE counts in groups, is written
    nowhere. SettingsError where there is none.
    """
    cores = {int(one) for one in lent.split(",")}
    for first in sorted(cores):
        if first % lnc == 0 and cores.issuperset(range(first, first + lnc)):
            return first // lnc
    raise SettingsError(f"of the physical cores {lent}, which the cluster lent, no {lnc} make up a logical core")


def simulator_settings(call: Call) -> Settings:
    """For launches under the official simulator, whose own default is trn3."""
    return (
        Setting(TARGET, call.target or "trn2", "the generation that the models are of"),
        Setting(CORES, str(call.lnc), "a logical core has as many physical ones as the kernel is launched on"),
        Setting("NKI_PRECISE_FP", "1", "low-precision tiles keep their precision, the default since 0.4"),
    )


def environment(settings: Settings, inherited: Mapping[str, str]) -> dict[str, str]:
    """`inherited` with the settings put in their place."""
    changed = dict(inherited)
    for one in settings:
        changed.pop(one.name, None)
        if one.value is not None:
            changed[one.name] = one.value
    return changed


def lasting(settings: Settings) -> Settings:
    """Those that have to hold as long as the process lives."""
    return tuple(one for one in settings if one.lasts)


def departures(settings: Iterable[Setting], found: Mapping[str, str]) -> list[str]:
    """What in an environment is not as stated, a line each with the reason why it has to be."""
    return [
        f"{one.name} is {found.get(one.name, 'unset')}, it must be {one.value or 'unset'}: {one.why}"
        for one in settings
        if found.get(one.name) != one.value
    ]


def require(settings: Iterable[Setting], found: Mapping[str, str]) -> None:
    """SettingsError where an environment is not as stated."""
    if wrong := departures(settings, found):
        raise SettingsError("; ".join(wrong))
