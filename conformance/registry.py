"""Every kernel the project knows: whatever stands in `conformance/cases/`."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from conformance import adversarial
from conformance.subject import Subject


class CaseModuleError(ImportError):
    """A case module that cannot be used; names every such module, so that none hides another."""


@functools.cache
def kernels(package: str = "conformance.cases") -> Mapping[str, Subject]:
    """Subjects by name, in alphabetical order.

    CaseModuleError lists all modules that fail to import, lack a SUBJECT, or name it differently from
    their file; the others can still be had one by one from `kernel`.
    """
    found: dict[str, Subject] = {}
    complaints: list[str] = []
    for name in kernel_names(package):
        try:
            found[name] = kernel(name, package)
        except CaseModuleError as error:
            complaints.append(str(error))
    if complaints:
        raise CaseModuleError("; ".join(complaints))
    return MappingProxyType(found)


def kernel_names(package: str = "conformance.cases") -> tuple[str, ...]:
    """Names of the case modules, without importing them; a leading underscore hides a helper module."""
    paths = importlib.import_module(package).__path__
    return tuple(sorted(info.name for info in pkgutil.iter_modules(paths) if not info.name.startswith("_")))


@functools.cache
def kernel(name: str, package: str = "conformance.cases") -> Subject:
    """One subject, the cases kept by fuzzing at the end of its catalog; no other case module is imported.

    KeyError for an unknown name, with the known ones; CaseModuleError where its module is broken.
    """
    if name not in kernel_names(package):
        raise KeyError(f"no kernel {name!r}; known: {', '.join(kernel_names(package)) or 'none'}")
    try:
        subject = getattr(importlib.import_module(f"{package}.{name}"), "SUBJECT", None)
    except Exception as error:
        raise CaseModuleError(
            f"{package}.{name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(subject, Subject):
        raise CaseModuleError(f"{package}.{name} exposes no SUBJECT of type Subject")
    if subject.name != name:
        raise CaseModuleError(f"{package}.{name} names its SUBJECT {subject.name!r}; rename one of them")
    try:
        return adversarial.with_cases(subject)
    except adversarial.AdversarialError as error:
        raise CaseModuleError(str(error)) from None
