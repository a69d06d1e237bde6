"""Compares the drop-in `nki` with a list of the API's names.

    python -m tools.api_coverage [NAMES_FILE]

The list has one `category name` per line (default: the names of NKI 0.6 that ship with the drop-in). Prints
one line per category, the missing names, and the share; exits 1 if any is missing. A function counts as
there when it is callable and documented, a class when it is a class, a value when it exists.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = Path(__file__).parents[1] / "reference" / "nki" / "api_names.txt"


def _is_function(value: Any) -> bool:
    return callable(value) and bool(getattr(value, "__doc__", None))


def _is_class(value: Any) -> bool:
    return isinstance(value, type)


def _exists(value: Any) -> bool:
    return value is not None


@dataclass(frozen=True)
class Category:
    """Where the names of one category live, and what they must be."""

    owner: str
    kind: Callable[[Any], bool]


#: `module:attribute path` of the owner; names are looked up on it.
CATEGORIES = {
    "nki": Category("nki", _is_function),
    "isa": Category("nki.isa", _is_function),
    "language": Category("nki.language", _is_function),
    "collectives": Category("nki.collectives", _is_function),
    "NkiTensor": Category("nki.language:NkiTensor", _is_function),
    "NkiTensor-attr": Category("nki.language:NkiTensor", _exists),
    "tile_size": Category("nki.language:tile_size", _exists),
    "isa-const": Category("nki.isa", _exists),
    "isa-enum": Category("nki.isa", _exists),
    "isa-class": Category("nki.isa", _is_class),
    "language-dtype": Category("nki.language", _exists),
    "language-region": Category("nki.language", _exists),
    "language-const": Category("nki.language", _exists),
    "language-class": Category("nki.language", _is_class),
    "collectives-class": Category("nki.collectives", _is_class),
}


@dataclass(frozen=True)
class Coverage:
    """How many names of each category exist, and which do not."""

    total: dict[str, int]
    missing: tuple[str, ...]

    @property
    def share(self) -> float:
        """Existing names divided by listed names."""
        count = sum(self.total.values())
        return (count - len(self.missing)) / count


def measure(names: Path = NAMES) -> Coverage:
    """Look every listed name up. A line without two words or with an unknown category raises ValueError."""
    total: Counter[str] = Counter()
    missing = []
    for number, line in enumerate(names.read_text().splitlines(), start=1):
        category, _, name = line.strip().partition(" ")
        if not name or category not in CATEGORIES:
            raise ValueError(f"{names}:{number}: '{line}' is no line of the form 'category name'")
        total[category] += 1
        if not _has(CATEGORIES[category], name):
            missing.append(f"{category} {name}")
    return Coverage(dict(total), tuple(missing))


def _has(category: Category, name: str) -> bool:
    module, _, path = category.owner.partition(":")
    value: Any = importlib.import_module(module)
    try:
        for part in [*filter(None, path.split(".")), *name.split(".")]:
            value = getattr(value, part)
    except AttributeError:
        return False
    return category.kind(value)


def main(arguments: list[str]) -> int:
    """Print the coverage; 0 if it is complete."""
    import reference  # noqa: F401 - makes `import nki` work from a checkout

    coverage = measure(Path(arguments[0]) if arguments else NAMES)
    missing = Counter(line.split()[0] for line in coverage.missing)
    for category, count in coverage.total.items():
        print(f"{category:18} {count - missing[category]:4} of {count:4}")
    for line in coverage.missing:
        print(f"missing: {line}")
    print(f"{100 * coverage.share:.1f} % of {sum(coverage.total.values())} names")
    return 1 if coverage.missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
