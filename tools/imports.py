"""Holds the direction of imports: the layers as one table, and a checker that reads the source.

    python -m tools.imports [ROOT]

prints one line per violation, `file:line: <room> imports <room> (<module>): <reason>`, and exits 1 if there
is any. The table `ROOMS` is the whole rule; a new folder gets a row there.

What it does not see: names handed to `importlib.import_module` that are not literals.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

#: Distributions that arithmetic may rest on; anything else would decide bits without our knowing.
ARITHMETIC = frozenset({"numpy", "ml_dtypes"})
ANY = frozenset({"*"})
BELOW_THE_SUITE = "doorway errors numerics neuroncore nki contracts models kernels"


@dataclass(frozen=True)
class Room:
    """One layer: the files it holds, the rooms it may import, and the outside packages it may import."""

    name: str
    #: fnmatch patterns of posix paths from the root; `*` also crosses slashes.
    files: tuple[str, ...]
    #: Rooms it may import besides itself; `*` stands for any.
    rooms: frozenset[str]
    #: Outside packages besides the standard library; `*` stands for any.
    outside: frozenset[str]
    reason: str


def _room(name: str, files: str, rooms: str, outside: frozenset[str], reason: str) -> Room:
    return Room(name, tuple(files.split()), frozenset(rooms.split()), outside, reason)


#: The first row with a matching pattern decides, so narrow patterns stand above wide ones.
ROOMS: tuple[Room, ...] = (
    _room(
        "doorway",
        "reference/__init__.py reference/dropin.py",
        "",
        frozenset(),
        "it runs at every start of the interpreter and stays light",
    ),
    _room(
        "errors",
        "reference/errors.py reference/recorder.py",
        "numerics",
        ARITHMETIC,
        "everyone imports it, so it imports numerics at most",
    ),
    _room(
        "numerics",
        "reference/numerics/*",
        "",
        ARITHMETIC | {"mpmath", "numba"},
        "what a single number does depends on no machine and no kernel",
    ),
    _room(
        "neuroncore",
        "reference/neuroncore/*",
        "numerics errors",
        ARITHMETIC | {"greenlet"},
        "the machine knows no kernel, no model and no names of the nki package",
    ),
    _room(
        "nki",
        "reference/nki/*",
        "neuroncore numerics errors",
        ARITHMETIC,
        "the drop-in is names over the machine",
    ),
    _room(
        "contracts",
        "reference/contract.py reference/contracts/*",
        "numerics errors",
        ARITHMETIC,
        "contracts are data",
    ),
    _room(
        "models",
        "reference/*",
        "numerics contracts errors",
        ARITHMETIC,
        "a model that shares code with the machine or a kernel is no evidence about either",
    ),
    _room(
        "kernels",
        "kernels/*",
        "nki",
        ARITHMETIC,
        "a kernel must run unchanged where only the official nki is installed",
    ),
    _room("tests", "conformance/tests/*", "*", ANY, "tests may look at everything"),
    _room(
        "conformance",
        "conformance/*",
        BELOW_THE_SUITE,
        ANY,
        "the suite is usable without the command line",
    ),
    _room(
        "tools",
        "tools/*",
        f"conformance {BELOW_THE_SUITE}",
        ANY,
        "the command line stands on top",
    ),
)

TOP_LEVEL = ("reference", "kernels", "conformance", "tools")


@dataclass(frozen=True)
class Violation:
    """One import against the table."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def check(root: Path) -> list[Violation]:
    """All violations below `root`, in the order of path and line.

    A file that is not Python is reported as a violation at the line of the syntax error.
    """
    files = sorted(path for top in TOP_LEVEL for path in (root / top).rglob("*.py"))
    return [violation for path in files for violation in check_file(root, path)]


def check_file(root: Path, path: Path) -> list[Violation]:
    """The violations of one file; `path` lies below `root`."""
    shown = path.relative_to(root).as_posix()
    try:
        tree = ast.parse(path.read_bytes(), filename=shown)
    except SyntaxError as error:
        return [Violation(shown, error.lineno or 1, f"cannot be parsed: {error.msg}")]
    room = room_of(shown)
    if room is None:
        return [Violation(shown, 1, "belongs to no room; add a row to tools/imports.py: ROOMS")]
    found = {
        (line, message)
        for line, module in imported(root, path, tree)
        if (message := _judge(root, room, module)) is not None
    }
    return [Violation(shown, line, message) for line, message in sorted(found)]


def room_of(path: str) -> Room | None:
    """The room of a posix path from the root, or None outside every room."""
    return next((room for room in ROOMS if any(fnmatch(path, pattern) for pattern in room.files)), None)


def imported(root: Path, path: Path, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import in a file, in functions and under conditions too.

    Relative imports are made absolute, and `from package import name` names the submodule where
    `name` is one.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(root, path, node)
            yield from ((node.lineno, _submodule(root, base, alias.name)) for alias in node.names)
        elif isinstance(node, ast.Call) and (module := _dynamic(node)) is not None:
            yield node.lineno, module


def _absolute(root: Path, path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = path.relative_to(root).parent.parts
    if package[:2] == ("reference", "nki"):
        package = package[1:]
    kept = package[: len(package) - (node.level - 1)]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _submodule(root: Path, base: str, name: str) -> str:
    candidate = f"{base}.{name}"
    return candidate if _source(root, candidate) is not None else base


def _dynamic(node: ast.Call) -> str | None:
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    if name not in ("import_module", "__import__") or not node.args:
        return None
    argument = node.args[0]
    if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
        return None
    return argument.value


def _source(root: Path, module: str) -> str | None:
    """The posix path of a module of the project, or None where there is no such module."""
    base = module.replace(".", "/")
    if base == "nki" or base.startswith("nki/"):
        # The one place where the import name differs from the folder.
        base = f"reference/{base}"
    for candidate in (f"{base}.py", f"{base}/__init__.py"):
        if (root / candidate).is_file():
            return candidate
    return f"{base}/__init__.py" if (root / base).is_dir() else None


def _judge(root: Path, room: Room, module: str) -> str | None:
    if module == "reference.nki" or module.startswith("reference.nki."):
        return f"imports {module}: the drop-in is imported as nki, or two copies of it exist"
    top = module.split(".")[0]
    if top in TOP_LEVEL or top == "nki":
        return _judge_room(root, room, module)
    return _judge_outside(room, module, top)


def _judge_room(root: Path, room: Room, module: str) -> str | None:
    source = _source(root, module)
    # Where only the official nki is installed no source is found; the name still tells the room.
    target = room_of(source or module.replace(".", "/") + ".py")
    if module.split(".")[0] == "nki":
        target = next(row for row in ROOMS if row.name == "nki")
    if target is None:
        return f"imports {module}, which belongs to no room"
    if target is room or {target.name, "*"} & room.rooms:
        return None
    return f"{room.name} imports {target.name} ({module}): {room.reason}"


def _judge_outside(room: Room, module: str, top: str) -> str | None:
    if top in sys.stdlib_module_names or top in room.outside or "*" in room.outside:
        return None
    return f"{room.name} imports {module}: {room.reason}; allowed outside packages: {_names(room)}"


def _names(room: Room) -> str:
    return ", ".join(sorted(room.outside)) or "none"


def main(arguments: list[str]) -> int:
    """Prints the violations below the given root (default: the current directory); 1 if there are any."""
    root = Path(arguments[0]) if arguments else Path.cwd()
    if not (root / "reference").is_dir():
        print(f"no folder reference/ below {root}: give the root of the project", file=sys.stderr)
        return 2
    violations = check(root)
    for violation in violations:
        print(violation)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
