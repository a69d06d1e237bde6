"""A private copy of the package `kernels` per mutant, patched as it is imported.

`kernels_mutant_<id>` holds the same modules as `kernels`; a module that a patch names is compiled from the
patched text, under the real file's name, so that reports point at the line a reader can open. Enumerations
are shared with the real package: callers pass members of them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import kernels
from conformance.mutants.mutant import Mutant

PREFIX = "kernels_mutant_"
HOME = Path(next(iter(kernels.__path__)))
#: Modules that stay those of the real package, since their objects travel between caller and kernel.
SHARED = ("common_types",)

_KNOWN: dict[str, Mutant] = {}


def implementation(mutant: Mutant, original: str) -> str:
    """'module:attribute' of the faulty twin of `original` ('kernels.module:attribute')."""
    _KNOWN[mutant.id] = mutant
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    module, _, attribute = original.partition(":")
    return f"{_package(mutant)}.{module.removeprefix('kernels.')}:{attribute}"


def forget(mutant: Mutant) -> None:
    """Drop the mutant's modules, so that thousands can be tried in one process."""
    package = _package(mutant)
    for name in [n for n in sys.modules if n == package or n.startswith(package + ".")]:
        del sys.modules[name]


def patched_sources(mutant: Mutant) -> dict[str, str]:
    """Patched text by file name; PatchError where a patch does not apply."""
    sources: dict[str, str] = {}
    for patch in mutant.patches:
        text = sources.get(patch.file) or (HOME / patch.file).read_text()
        sources[patch.file] = patch.apply(text)
    return sources


def _package(mutant: Mutant) -> str:
    return PREFIX + mutant.id.replace("-", "_")


class _Finder(MetaPathFinder):
    """Finds `kernels_mutant_<id>` and its modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, module = fullname.partition(".")
        mutant = next((m for m in _KNOWN.values() if _package(m) == package), None)
        if mutant is None:
            return None
        loader = _Loader(mutant, module)
        return importlib.util.spec_from_loader(fullname, loader, is_package=not module)


class _Loader(Loader):
    """Compiles one module of a mutant's package."""

    def __init__(self, mutant: Mutant, module: str) -> None:
        self.mutant = mutant
        self.file = f"{module}.py" if module else "__init__.py"

    def exec_module(self, module: ModuleType) -> None:
        path = HOME / self.file
        text = patched_sources(self.mutant).get(self.file)
        if text is None:
            text = path.read_text() if path.is_file() or self.file != "__init__.py" else ""
        own = _package(self.mutant)
        for shared in SHARED:
            text = text.replace(f"kernels.{shared}", f"kernels_shared.{shared}")
        text = text.replace("from kernels.", f"from {own}.").replace("import kernels.", f"import {own}.")
        text = text.replace("kernels_shared.", "kernels.")
        # The lines must stay where they are: replacements above are within lines.
        exec(compile(text, str(path), "exec"), module.__dict__)
