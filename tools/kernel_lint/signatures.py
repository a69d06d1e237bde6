"""Calls of the API: every name exists, and every call fits its documented signature."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from tools.kernel_lint.reach import Module
from tools.kernel_lint.subset import Construct

#: Modules whose names and signatures are checked.
API = ("nki", "nki.isa", "nki.language", "nki.collectives", "nki.isa.constants", "nki.typing", "nki.dtype")

#: What the newest version read about no longer has, and what to write instead.
REMOVED = {"nki.language.dynamic_range": ("removed in NKI 0.7", "hand the body to nl.fori_loop")}


def check_calls(module: Module, node: ast.AST) -> Iterator[Construct]:
    """Unknown API names and calls that do not bind, inside one definition."""
    for child in ast.walk(node):
        if isinstance(child, ast.Attribute):
            yield from _unknown_name(module, child)
        elif isinstance(child, ast.Call):
            yield from _bad_call(module, child)


def _api_object(module: Module, node: ast.expr) -> tuple[str, Any] | None:
    """(dotted name, object) of an expression that names something of the API; None for anything else."""
    if isinstance(node, ast.Name):
        home, attribute = module.imports.get(node.id, ("", ""))
        if home.split(".")[0] != "nki":
            return None
        owner = importlib.import_module(home)
        if not attribute:
            return home, owner
        return f"{home}.{attribute}", getattr(owner, attribute, _Missing)
    if isinstance(node, ast.Attribute):
        parent = _api_object(module, node.value)
        if parent is None or parent[1] is _Missing:
            return None
        return f"{parent[0]}.{node.attr}", getattr(parent[1], node.attr, _Missing)
    return None


class _Missing:
    """Stands for a name that the API does not have."""


def _unknown_name(module: Module, node: ast.Attribute) -> Iterator[Construct]:
    found = _api_object(module, node)
    if found is not None and found[1] is _Missing:
        yield Construct(node.lineno, f"{found[0]} is not in the API", "see nki/api_names.txt for the names")
    elif found is not None and found[0] in REMOVED:
        why, remedy = REMOVED[found[0]]
        yield Construct(node.lineno, f"{found[0]}, {why}", remedy)


def _bad_call(module: Module, node: ast.Call) -> Iterator[Construct]:
    found = _api_object(module, node.func)
    if found is None:
        yield from _bad_method(node)
        return
    name, target = found
    if target is not _Missing and callable(target):
        yield from _misbound(node, name, target)


def _bad_method(node: ast.Call) -> Iterator[Construct]:
    """A tensor method, recognised by its name alone: names shared with str, list and dict are left out."""
    from nki.language import NkiTensor

    if not isinstance(node.func, ast.Attribute):
        return
    name = node.func.attr
    if name.startswith("_") or any(hasattr(kind, name) for kind in (str, list, dict, tuple)):
        return
    method = NkiTensor.__dict__.get(name)
    if inspect.isfunction(method):
        yield from _misbound(node, f"NkiTensor.{name}", method, bound=True)


def _misbound(node: ast.Call, name: str, target: Callable[..., Any], bound: bool = False) -> Iterator[Construct]:
    if any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords):
        return
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return
    arguments = [None] * (len(node.args) + bound)
    try:
        signature.bind(*arguments, **{k.arg: None for k in node.keywords if k.arg})
    except TypeError as error:
        yield Construct(node.lineno, f"call of {name}: {error}", f"signature: {name}{signature}")
