"""Finds the package `nki`: the official one where it is installed, else the drop-in in `reference/nki`.

Kernels say `import nki`, and the same file must run on a laptop, in CI and on a device. So the
drop-in answers to the official name instead of asking kernels for another import.

A distribution called `nki` may be present without being the real thing: a placeholder release
holds a package without instructions. What makes `nki` real here is a module or package `nki.isa`.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGE = "nki"
#: The compiler package of the older SDK, of which kernels still import annotations.
OLDER = "neuronxcc"
#: The module of `nki` without which a package of that name is only a placeholder.
PROOF = "isa"
HOME = Path(__file__).parent / "nki"
OLDER_HOME = HOME / "shims" / OLDER


class DropIn:
    """Meta-path finder for the top-level names `nki` and, where nobody else has it, `neuronxcc`; submodules
    follow from their `__path__`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the drop-in, or None (the next finder is asked) where it has to step aside."""
        if fullname == OLDER:
            return None if _spec_of_others(OLDER) is not None else _package_spec(OLDER, OLDER_HOME)
        if fullname != PACKAGE or official_spec() is not None:
            return None
        return _package_spec(PACKAGE, HOME)


def install() -> None:
    """Puts the finder first on `sys.meta_path`; a second call changes nothing.

    First, because a placeholder found by a later finder would otherwise win.
    """
    if not any(isinstance(finder, DropIn) for finder in sys.meta_path):
        sys.meta_path.insert(0, DropIn())


def official_spec() -> ModuleSpec | None:
    """The spec of an installed official `nki`, or None where there is none or only a placeholder."""
    spec = _spec_of_others(PACKAGE)
    return spec if spec is not None and _has_instructions(spec) else None


def _spec_of_others(name: str) -> ModuleSpec | None:
    """What the other finders say. All are asked, not only the path finder: editable installs bring their
    own."""
    for finder in sys.meta_path:
        if isinstance(finder, DropIn) or not hasattr(finder, "find_spec"):
            continue
        spec = finder.find_spec(name, None)
        if spec is not None:
            return spec
    return None


def _has_instructions(spec: ModuleSpec) -> bool:
    locations = list(spec.submodule_search_locations or ())
    # By its last name: with a dot in it, a namespace would ask for the parent, which is not imported yet.
    proof = PathFinder.find_spec(PROOF, locations)
    # A bare directory `isa` is found as a namespace without origin: no instructions in there.
    return proof is not None and proof.origin is not None


def _package_spec(name: str, home: Path) -> ModuleSpec | None:
    # Imported late: importlib.util is not needed at the start of an interpreter that never asks for nki.
    from importlib.util import spec_from_file_location

    source = home / "__init__.py"
    if not source.is_file():
        return None
    return spec_from_file_location(name, source, submodule_search_locations=[str(home)])
