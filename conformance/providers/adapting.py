"""Common differences between two implementations of one API, as changes of a Call."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from conformance.backends.errors import Unfit
from conformance.subject import Call

#: Values that ask for nothing: an implementation without the argument does the same.
_NOTHING = (None, False, 0)


def translated(call: Call, types: ModuleType) -> Call:
    """Enumeration members in the arguments become those of the same class and name in `types`, where it has the class.

    Unfit where it lacks the member.
    """
    arguments = {name: _translated(value, types) for name, value in call.arguments.items()}
    return dataclasses.replace(call, arguments=arguments)


def _translated(value: Any, types: ModuleType) -> Any:
    theirs = getattr(types, type(value).__name__, None) if isinstance(value, enum.Enum) else None
    if theirs is None:
        return value
    if value.name not in theirs.__members__:
        raise Unfit(f"{types.__name__}.{type(value).__name__} has no member {value.name}")
    return theirs[value.name]


def renamed(call: Call, names: Mapping[str, str]) -> Call:
    """Arguments under other names, in-place ones too."""
    arguments = {names.get(name, name): value for name, value in call.arguments.items()}
    in_place = {output: names.get(name, name) for output, name in call.in_place.items()}
    return dataclasses.replace(call, arguments=arguments, in_place=in_place)


def known_arguments(call: Call, kernel: Callable[..., Any]) -> Call:
    """Without the arguments that `kernel` does not have, where these ask for nothing; Unfit where they do."""
    parameters = inspect.signature(kernel).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return call
    strange = {name: value for name, value in call.arguments.items() if name not in parameters}
    for name, value in strange.items():
        if not any(value is nothing for nothing in _NOTHING):
            raise Unfit(f"{getattr(kernel, '__name__', 'the kernel')} has no argument {name}")
    return dataclasses.replace(
        call, arguments={name: value for name, value in call.arguments.items() if name not in strange}
    )


def rebuilt(value: Any, theirs: type[Any]) -> Any:
    """A dataclass of another package with the same fields. Unfit where a field that it lacks asks for something."""
    known = {field.name for field in dataclasses.fields(theirs)}
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    defaults = {field.name: field.default for field in dataclasses.fields(value)}
    for name in fields.keys() - known:
        if fields[name] != defaults[name]:
            raise Unfit(f"{theirs.__name__} has no field {name}")
    return theirs(**{name: held for name, held in fields.items() if name in known})
