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

    def __str__(self) -> str:
        return f"{self.name} unset" if self.value is None else f"{self.name}={self.value}"


Settings = tuple[Setting, ...]

#: What the compiler and the runtime take their chip from, and the official simulator too.
TARGET = "NEURON_PLATFORM_TARGET_OVERRIDE"
CORES = "NEURON_LOGICAL_NC_CONFIG"
ROUNDING = "NEURON_RT_STOCHASTIC_ROUNDING_EN"
#: Either of these says which physical cores a process takes; without one it takes all of them.
_SHARES = ("NEURON_RT_VISIBLE_CORES", "NEURON_RT_NUM_CORES")


def device_settings(chip: str, lnc: int, inherited: Mapping[str, str]) -> Settings:
    """For launches on `lnc` physical cores of a chip ("trn2"). A share of cores set by the caller is kept."""
    stated = (
        Setting(TARGET, chip, "compile for the chip that runs it"),
        Setting(CORES, str(lnc), "a logical core has as many physical ones as the kernel is launched on"),
        Setting(ROUNDING, "0", "models round to nearest even"),
        Setting("NKI_SIMULATOR", None, "else the official package answers from its simulator"),
        Setting("XLA_USE_BF16", None, "frameworks turn stochastic rounding on with it"),
    )
    if any(inherited.get(name) for name in _SHARES):
        return stated
    return (*stated, Setting("NEURON_RT_NUM_CORES", "1", "one logical core, so that others can run beside"))


def simulator_settings(call: Call) -> Settings:
    """For launches under the official simulator, whose own default is trn3."""
    return (
        Setting(TARGET, call.target or "trn2", "the generation that the models are of"),
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
