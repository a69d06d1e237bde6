"""Versions of everything that can move a bit: the project, what it computes with, and the Neuron SDK where it is."""

from __future__ import annotations

import functools
import importlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from reference.dropin import official_spec

#: The checkout or the folder of packages that this runs from.
HOME = Path(__file__).parents[1]
#: Where the Neuron runtime is installed; its library is a link to a file named after the version.
RUNTIME = Path("/opt/aws/neuron/lib/libnrt.so.1")
#: The kernel module tells its version here while it is loaded.
DRIVER = Path("/sys/module/neuron/version")
_SECONDS = 10


def versions() -> dict[str, str]:
    """Name to version, '' for what is not here. Never raises; the first call of a process takes up to a second.

    `commit` is that of the checkout this runs from, with '+' where tracked files differ from it; '' elsewhere.
    `nki` is '' with the drop-in, which is part of the project.
    """
    return dict(_versions())


@functools.cache
def _versions() -> MappingProxyType[str, str]:
    official = official_spec() is not None
    return MappingProxyType(
        {
            "nki_oracle": _distribution("nki-oracle"),
            "commit": _commit(),
            "python": platform.python_version(),
            "numpy": _distribution("numpy"),
            "ml_dtypes": _distribution("ml_dtypes"),
            "platform": platform.platform(),
            "nki": _official_nki() if official else "",
            "neuronx-cc": _distribution("neuronx-cc") if official else "",
            "runtime": _runtime(),
            "driver": _first_line(DRIVER),
        }
    )


def _distribution(name: str) -> str:
    try:
        return metadata.version(name)
    # Not PackageNotFoundError alone: half-removed packages raise whatever their remains lead to.
    except Exception:
        return ""


def _official_nki() -> str:
    """Preview releases of the package carry a version in the module alone."""
    try:
        told = getattr(importlib.import_module("nki"), "__version__", "")
    except Exception:
        told = ""
    return str(told) or _distribution("nki")


def _runtime() -> str:
    try:
        name = RUNTIME.resolve(strict=True).name
    except (OSError, RuntimeError):
        return ""
    return name.partition(".so.")[2]


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip()
    except OSError:
        return ""


def _commit() -> str:
    # A project installed into another checkout's environment must not borrow that checkout's commit.
    if _git("rev-parse", "--show-toplevel") != str(HOME):
        return ""
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return _git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def _git(*words: str) -> str:
    command = ["git", "-C", str(HOME), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout.strip()
