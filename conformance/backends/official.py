"""Whether the official `nki` package is here, and which one.

Kernels need nki 0.6, which brought the loops they use. The simulator is the package alone; a launch on a device
compiles with neuronx-cc too. The public index carries placeholders of both names, which are not taken for the real
thing.
"""

from __future__ import annotations

import inspect
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from conformance.backends.errors import SettingsError
from conformance.subject import Call
from reference.dropin import official_spec

INSTALL = "install from AWS's own Neuron package index, see the Neuron SDK setup guide"
#: Versions that hold nothing but a name.
PLACEHOLDERS = {"nki": ("0.0.1",), "neuronx-cc": ("1.0.post1",)}


#: The oldest version whose language holds the project's kernels, and the newest whose documents were read.
OLDEST, NEWEST_READ = (0, 6), (0, 7)


def missing_package() -> str:
    """What stands between this interpreter and the official package, '' for nothing."""
    if complaint := _placeholder("nki"):
        return complaint
    if official_spec() is None:
        return "package nki (no package of that name with instructions, nki.isa, is installed)"
    if (found := _numbers(version("nki"))) and found < OLDEST:
        return f"package nki {_dotted(OLDEST)} or newer (this is {version('nki')}, without the loops that kernels use)"
    return ""


def missing_compiler() -> str:
    """What stands between this interpreter and the compiler, '' for nothing."""
    if version("neuronx-cc"):
        return _placeholder("neuronx-cc")
    return "package neuronx-cc (none is installed; a launch on a device compiles with it)"


def unread(told: str) -> str:
    """A line for a version of nki beyond those whose documents were read; '' for others and for ''."""
    if (found := _numbers(told)) and found > NEWEST_READ:
        return f"nki {told} is not read about: documents were read up to {_dotted(NEWEST_READ)}, see TRN2.md"
    return ""


def _placeholder(name: str) -> str:
    found = version(name)
    return (
        f"package {name} {found} is the placeholder of the public index, not the real one"
        if found in PLACEHOLDERS[name]
        else ""
    )


def _numbers(told: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", told)
    return (int(found[1]), int(found[2])) if found else None


def _dotted(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))


def folder() -> Path | None:
    """Where the official package lies; None without it."""
    spec = official_spec()
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def version(distribution: str) -> str:
    """The version of an installed distribution, '' where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def facts(name: str, stand_in: bool = False) -> dict[str, str]:
    """What runs in this process, to be told with the results of backend `name`. Imports the package.

    SettingsError where `nki` is not the official one: the drop-in, or the stand-in of this project's own tests,
    which no backend but one that asks for it may take.
    """
    if official_spec() is None:
        raise SettingsError(f"backend {name}: the official package nki cannot be found in the child process")
    import nki

    if bool(getattr(nki, "STAND_IN", False)) != stand_in:
        raise SettingsError(f"backend {name}: nki {nki.__version__} ({nki.__file__}) is not what this backend runs on")
    return {
        "nki": str(getattr(nki, "__version__", "") or version("nki")),
        "nki file": str(nki.__file__),
        "neuronx-cc": version("neuronx-cc"),
        "python": sys.version.split()[0],
    }


def on_cores(call: Call) -> Any:
    """The kernel of a launch for its number of cores; a plain function becomes a kernel first.

    The bracket is being deprecated since 0.7 for NEURON_LOGICAL_NC_CONFIG, which is set in any case.
    """
    import nki

    kernel: Any = nki.jit(call.function) if inspect.isfunction(call.function) else call.function
    return kernel[call.lnc] if hasattr(type(kernel), "__getitem__") else kernel
