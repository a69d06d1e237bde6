"""All mutants: whatever stands in the catalog modules of this package."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from conformance.mutants.mutant import Mutant

#: Modules of this package that are not catalogs.
_MACHINERY = frozenset({"kinds", "mutant", "patched", "registry", "snippets", "trial", "unseen"})


@functools.cache
def mutants(kernel: str = "") -> tuple[Mutant, ...]:
    """Mutants of one kernel, or of all, in order of kernel and catalog. ValueError where an id stands twice."""
    package = importlib.import_module("conformance.mutants")
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__) if info.name not in _MACHINERY)
    found = [m for name in names for m in importlib.import_module(f"conformance.mutants.{name}").MUTANTS]
    twice = {m.id for m in found if [other.id for other in found].count(m.id) > 1}
    if twice:
        raise ValueError(f"mutant ids stand twice: {', '.join(sorted(twice))}")
    return tuple(m for m in found if kernel in ("", m.kernel))
