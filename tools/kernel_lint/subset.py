"""The NKI subset of Python, as tables: what the front end refuses, and what to write instead.

Source: the language restrictions of the NKI documentation (migration and language guides) and the open NKI
front end, as collected in the language-subset fact sheet.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType

#: Expressions and statements that are refused wherever they stand.
REFUSED: MappingProxyType[type[ast.AST], tuple[str, str]] = MappingProxyType(
    {
        ast.Raise: ("raise", "use assert cond, 'message'; refuse arguments on the host before the launch"),
        ast.Try: ("try", "use if/else, or assert"),
        ast.Lambda: ("lambda", "define a function at top level and pass it as a value"),
        ast.ListComp: ("list comprehension", "append in a loop"),
        ast.SetComp: ("set comprehension", "append to a list in a loop"),
        ast.DictComp: ("dict comprehension", "fill a dict in a loop"),
        ast.GeneratorExp: ("generator expression", "append in a loop"),
        ast.Set: ("set display", "use a tuple or list"),
        ast.Yield: ("yield", "return a list"),
        ast.YieldFrom: ("yield from", "return a list"),
        ast.NamedExpr: ("walrus :=", "assign on a line of its own"),
        ast.Await: ("await", "kernels are sequential programs"),
        ast.AsyncFor: ("async for", "kernels are sequential programs"),
        ast.AsyncWith: ("async with", "kernels are sequential programs"),
        ast.AsyncFunctionDef: ("async function", "kernels are sequential programs"),
        ast.Import: ("import inside a function", "import at module level"),
        ast.ImportFrom: ("import inside a function", "import at module level"),
        ast.Global: ("global", "pass a dict between functions"),
        ast.Nonlocal: ("nonlocal", "pass a dict between functions"),
        ast.Delete: ("del", "let the name go out of use"),
        ast.Match: ("match", "use if/elif"),
        ast.In: ("in", "compare explicitly, or loop in a helper"),
        ast.NotIn: ("not in", "compare explicitly, or loop in a helper"),
        ast.Is: ("is", "use =="),
        ast.IsNot: ("is not", "use !="),
        ast.MatMult: ("@", "use nisa.nc_matmul"),
        ast.FunctionDef: ("function inside a function", "define it at top level, except the body of nl.fori_loop"),
        ast.ClassDef: ("class inside a function", "define it at top level"),
    }
)

#: Loops of the device, and where among the arguments their body stands: the one function that may be defined inside
#: another (the examples of both in the API reference, 0.6).
LOOPS = MappingProxyType({"fori_loop": 2, "while_loop": 1})

#: What a class may derive from, and the decorators a reached function or class may carry.
CLASS_BASES = ("NKIObject", "Enum", "NamedTuple")
DECORATORS = ("jit", "dataclass", "staticmethod")


@dataclass(frozen=True)
class Construct:
    """One construct outside the subset."""

    line: int
    construct: str
    remedy: str


def check_function(node: ast.FunctionDef) -> Iterator[Construct]:
    """Everything in one function that the front end refuses."""
    yield from _signature(node)
    yield from _decorators(node.decorator_list)
    bodies = _loop_bodies(node)
    for statement in node.body:
        yield from _statements(statement, bodies)


def check_class(node: ast.ClassDef) -> Iterator[Construct]:
    """Everything in one class that the front end refuses; its methods are checked as functions."""
    if node.keywords or getattr(node, "type_params", []):
        yield Construct(node.lineno, "class keywords or type parameters", "write a plain class")
    for base in node.bases:
        if _last_name(base) not in CLASS_BASES:
            remedy = f"derive from {', '.join(CLASS_BASES)} alone"
            yield Construct(node.lineno, f"base class {ast.unparse(base)}", remedy)
    if not node.bases:
        yield Construct(node.lineno, f"class {node.name} without base", "derive from nl.NKIObject or Enum")
    yield from _decorators(node.decorator_list)
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef):
            yield from check_function(statement)
        elif not _is_field(statement):
            yield Construct(statement.lineno, "statement in a class body", "only fields, methods, a docstring")


def _is_field(statement: ast.stmt) -> bool:
    docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return docstring or isinstance(statement, (ast.Assign, ast.AnnAssign, ast.Pass))


def _signature(node: ast.FunctionDef) -> Iterator[Construct]:
    arguments = node.args
    if arguments.vararg is not None or arguments.kwarg is not None:
        yield Construct(node.lineno, "*args or **kwargs in a signature", "name every parameter")
    if arguments.kwonlyargs and arguments.vararg is None:
        yield Construct(node.lineno, "bare * in a signature", "put parameters with defaults at the end")
    if arguments.posonlyargs:
        yield Construct(node.lineno, "/ in a signature", "use ordinary parameters")


def _decorators(decorators: list[ast.expr]) -> Iterator[Construct]:
    for decorator in decorators:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        if _last_name(target) not in DECORATORS:
            yield Construct(decorator.lineno, f"decorator {ast.unparse(decorator)}", "call a plain function")


def _loop_bodies(root: ast.FunctionDef) -> frozenset[ast.FunctionDef]:
    """Functions inside `root` of one parameter that are handed to a loop of the device, and used for nothing else."""
    handed = {id(body) for node in ast.walk(root) if isinstance(node, ast.Call) for body in _bodies(node)}
    uses: dict[str, list[bool]] = {}
    for node in ast.walk(root):
        if isinstance(node, ast.Name):
            uses.setdefault(node.id, []).append(id(node) in handed)
    inner = (node for node in ast.walk(root) if isinstance(node, ast.FunctionDef) and node is not root)
    return frozenset(node for node in inner if all(uses.get(node.name, [False])) and len(node.args.args) == 1)


def _bodies(call: ast.Call) -> list[ast.expr]:
    place = LOOPS.get(_last_name(call.func))
    if place is None:
        return []
    return [*call.args[place : place + 1], *(one.value for one in call.keywords if one.arg == "body_fun")]


def _statements(root: ast.AST, bodies: frozenset[ast.FunctionDef]) -> Iterator[Construct]:
    for node in ast.walk(root):
        if isinstance(node, ast.FunctionDef) and node in bodies:
            yield from _signature(node)
            yield from _decorators(node.decorator_list)
            continue
        found = REFUSED.get(type(node))
        # Operators are reported at the expression that holds them: they carry no line of their own.
        if found is not None and not isinstance(node, (ast.cmpop, ast.operator)):
            yield Construct(_line(node, root), *found)
        for kind, rule in _CONTEXTUAL:
            if isinstance(node, kind):
                yield from rule(node)
        if isinstance(node, ast.Compare):
            for operator in node.ops:
                if type(operator) in REFUSED:
                    yield Construct(node.lineno, *REFUSED[type(operator)])
        if isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in REFUSED:
            yield Construct(node.lineno, *REFUSED[type(node.op)])


def _line(node: ast.AST, root: ast.AST) -> int:
    return int(getattr(node, "lineno", getattr(root, "lineno", 0)))


def _with(node: ast.With) -> Iterator[Construct]:
    item = node.items[0]
    call = item.context_expr
    plain = isinstance(call, ast.Call) and not call.args and not call.keywords
    if len(node.items) > 1 or item.optional_vars is not None or not plain:
        yield Construct(node.lineno, "with", "one item, a call without arguments, no `as`")


def _loop(node: ast.For | ast.While) -> Iterator[Construct]:
    if node.orelse:
        yield Construct(node.lineno, "else of a loop", "set a flag")
    if isinstance(node, ast.For) and not isinstance(node.target, ast.Name):
        yield Construct(node.lineno, "tuple target of a loop", "loop over an index")


def _format(node: ast.FormattedValue) -> Iterator[Construct]:
    if node.format_spec is not None or node.conversion != -1:
        yield Construct(node.lineno, "format specifier in an f-string", "write plain {x}")


def _assign(node: ast.Assign) -> Iterator[Construct]:
    for target in node.targets:
        if isinstance(target, (ast.Tuple, ast.List)):
            for part in target.elts:
                if not isinstance(part, ast.Name):
                    yield Construct(
                        node.lineno, "subscript, attribute or star in a tuple target", "assign to plain names first"
                    )


def _call(node: ast.Call) -> Iterator[Construct]:
    if any(keyword.arg is None for keyword in node.keywords):
        yield Construct(node.lineno, "**mapping in a call", "pass keywords by name")


_CONTEXTUAL: tuple[tuple[type[ast.AST] | tuple[type[ast.AST], ...], Callable[..., Iterator[Construct]]], ...] = (
    (ast.With, _with),
    ((ast.For, ast.While), _loop),
    (ast.FormattedValue, _format),
    (ast.Assign, _assign),
    (ast.Call, _call),
)


def _last_name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
