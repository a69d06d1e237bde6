"""What a kernel reaches: the functions and classes that the front end would compile with it."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: Packages a kernel calls but does not bring along.
OUTSIDE = frozenset({"nki", "neuronxcc", "numpy", "np", "ml_dtypes", "enum", "dataclasses", "typing", "math"})


@dataclass
class Module:
    """One parsed source file: its top-level definitions, constants, and where imported names come from."""

    path: Path
    tree: ast.Module
    definitions: dict[str, ast.FunctionDef | ast.ClassDef] = field(default_factory=dict)
    #: local name -> (module, attribute), attribute '' for a whole module.
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                self.definitions[node.name] = node
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    whole = alias.name if alias.asname else alias.name.split(".")[0]
                    self.imports[alias.asname or whole] = (whole, "")
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    self.imports[alias.asname or alias.name] = (node.module, alias.name)


@dataclass(frozen=True)
class Reached:
    """One definition that is compiled with a kernel."""

    module: Module
    node: ast.FunctionDef | ast.ClassDef


def load(path: Path) -> Module:
    """The module in a file; SyntaxError as Python raises it."""
    return _parsed(path, path.read_bytes())


@functools.cache
def _parsed(path: Path, source: bytes) -> Module:
    return Module(path, ast.parse(source, filename=str(path)))


def kernels_of(module: Module) -> list[str]:
    """Names of the functions that carry nki.jit."""
    return [
        name
        for name, node in module.definitions.items()
        if isinstance(node, ast.FunctionDef) and any(_is_jit(d) for d in node.decorator_list)
    ]


def _is_jit(decorator: ast.expr) -> bool:
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
    return name == "jit"


def reached_from(module: Module, names: list[str]) -> list[Reached]:
    """The definitions `names` of `module` and all that they use, each once, in order of discovery."""
    found: dict[tuple[Path, str], Reached] = {}
    waiting = [(module, name) for name in names]
    while waiting:
        home, name = waiting.pop(0)
        node = home.definitions[name]
        if (home.path, name) in found:
            continue
        found[home.path, name] = Reached(home, node)
        waiting += _uses(home, node)
    return list(found.values())


def _uses(module: Module, node: ast.AST) -> Iterator[tuple[Module, str]]:
    for child in ast.walk(node):
        if isinstance(child, ast.Name):
            yield from _resolve(module, child.id)
        elif isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name):
            yield from _resolve_attribute(module, child.value.id, child.attr)


def _resolve(module: Module, name: str) -> Iterator[tuple[Module, str]]:
    if name in module.definitions:
        yield module, name
    elif name in module.imports:
        home, attribute = module.imports[name]
        if attribute:
            yield from _definition(home, attribute)


def _resolve_attribute(module: Module, name: str, attribute: str) -> Iterator[tuple[Module, str]]:
    home, inner = module.imports.get(name, ("", ""))
    if home:
        yield from _definition(f"{home}.{inner}" if inner else home, attribute)


def _definition(home: str, name: str) -> Iterator[tuple[Module, str]]:
    module = _find(home)
    if module is None:
        return
    if name in module.definitions:
        yield module, name
    elif name in module.imports:
        yield from _resolve(module, name)


def _find(name: str) -> Module | None:
    if name.split(".")[0] in OUTSIDE:
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return load(Path(spec.origin))
