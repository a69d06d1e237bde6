"""Whether the official `nki` package is here, and which one.

The public index carries placeholders of the names nki and neuronx-cc. Neither is taken for the real thing.
"""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Any

from conformance.backends.errors import SettingsError
from conformance.subject import Call
from reference.dropin import official_spec

INSTALL = "install from AWS's own Neuron package index, see the Neuron SDK setup guide"
#: Versions that hold nothing but a name.
PLACEHOLDERS = {"nki": ("0.0.1",), "neuronx-cc": ("1.0.post1",)}


def missing_package() -> str:
    """What stands between this interpreter and the official package, '' for nothing."""
    for name, versions in PLACEHOLDERS.items():
        if version(name) in versions:
            return f"package {name} {version(name)} is the placeholder of the public index, not the real one"
    if official_spec() is None:
        return "package nki (no package of that name with instructions, nki.isa, is installed)"
    return ""


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
    """The kernel of a launch for its number of cores; a plain function becomes a kernel first."""
    import nki

    kernel: Any = call.function
    return (kernel if hasattr(type(kernel), "__getitem__") else nki.jit(kernel))[call.lnc]
