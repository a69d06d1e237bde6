"""Kernel configs as JSON, as a digest, and as one line of text that parses back.

A config is a frozen dataclass whose fields are numbers, strings, booleans, None, enums, tuples of
these, or nested dataclasses. The text form names only the fields that differ from their defaults, so
that a case a fuzzer drew can be typed at a prompt; a digest over *all* fields closes it, so that a
default which changes later makes the old text refuse instead of meaning another case in silence.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import quote, unquote

C = TypeVar("C")

#: What stays bare in the text form; everything else is percent-quoted JSON. No shell, file system or
#: pytest id gives one of these characters a meaning of its own.
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.+-]*\Z")
_INTEGER = re.compile(r"-?[0-9]+\Z")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?\Z")
_JSON_WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None}
_DIGEST_IN_TEXT = 6


def config_to_dict(config: Any) -> dict[str, Any]:
    """All fields of a config as JSON values: enums by name, tuples as lists, inf and nan as strings."""
    hints = typing.get_type_hints(type(config))
    return {name: _field_to_json(hints[name], getattr(config, name)) for name in _field_names(config)}


def config_from_dict(config_type: type[C], values: Mapping[str, Any]) -> C:
    """The config that `config_to_dict` turned into `values`; missing fields take their defaults.

    ValueError names an unknown field, and lets the config's own TypeError for a missing one pass.
    """
    hints = typing.get_type_hints(config_type)
    known = _field_names(config_type)
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(
            f"{config_type.__name__} has no field {unknown[0]!r}; its fields are {', '.join(known)}"
        )
    return config_type(**{name: _from_json(hints[name], value) for name, value in values.items()})


def config_digest(config: Any) -> str:
    """16 hexadecimal digits of SHA-256 over every field, defaults included; equal on every machine."""
    return dict_digest(config_to_dict(config))


def dict_digest(values: Mapping[str, Any]) -> str:
    """The `config_digest` of the config that `config_to_dict` turned into `values`."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_text(config: Any) -> str:
    """`bs=4,shape=2:128,~1a2b3c`: the fields that differ from their defaults, and the digest."""
    changed = {name: value for name, value in config_to_dict(config).items() if not _is_default(config, name)}
    pairs = [f"{name}={_value_text(value)}" for name, value in changed.items()]
    return ",".join([*pairs, "~" + config_digest(config)[:_DIGEST_IN_TEXT]])


def config_from_text(config_type: type[C], text: str) -> C:
    """The config that `config_text` wrote; the digest may be left out, and is checked where it stands.

    ValueError for text of another shape, an unknown field, or a digest that no longer fits.
    """
    parts = [part for part in text.split(",") if part]
    digest = parts.pop()[1:] if parts and parts[-1].startswith("~") else ""
    config = config_from_dict(config_type, dict(_parse_pair(part) for part in parts))
    if digest and not config_digest(config).startswith(digest):
        raise ValueError(
            f"{config_type.__name__} changed its fields or defaults since '{text}' was written; "
            f"leave out ',~{digest}' to run it with the present ones"
        )
    return config


def _field_names(config: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(config)]


def _field_to_json(hint: Any, value: Any) -> Any:
    """An int in a field of floats is the float it equals: both are one config, with one digest."""
    json_value = _to_json(value)
    is_whole = isinstance(json_value, int) and _means_float(list(_options(hint)), json_value)
    return float(json_value) if is_whole else json_value


def _parse_pair(part: str) -> tuple[str, Any]:
    name, equals, value = part.partition("=")
    if not equals:
        raise ValueError(f"'{part}' is not of the form field=value")
    return name, _parse_value(value)


def _is_default(config: Any, name: str) -> bool:
    field = next(field for field in dataclasses.fields(config) if field.name == name)
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return default is not dataclasses.MISSING and _to_json(default) == _to_json(getattr(config, name))


def _to_json(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, (bool, str)):
        return value
    if dataclasses.is_dataclass(value):
        return config_to_dict(value)
    if isinstance(value, (tuple, list)):
        return [_to_json(item) for item in value]
    return _number_to_json(value)


def _number_to_json(value: Any) -> int | float | str:
    """Python and NumPy numbers; JSON has no word for infinities and NaN, so they become strings."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    raise TypeError(f"a config field holds {value!r} of type {type(value).__name__}, which has no JSON form")


def _from_json(hint: Any, value: Any) -> Any:
    """`value` as the annotated type says; an annotation that says nothing leaves it as it is."""
    options = [option for option in _options(hint) if option is not type(None)]
    if value is None:
        return None
    for option in options:
        if isinstance(option, type) and issubclass(option, enum.Enum) and isinstance(value, str):
            return option[value]
        if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            return config_from_dict(typing.cast(Any, option), value)
    if _means_float(options, value):
        return float(value)
    if isinstance(value, list):
        return _tuple_from_json(options, value)
    return value


def _means_float(options: list[Any], value: Any) -> bool:
    """Whether JSON wrote a float as something else: 1 for 1.0 (typed by hand), "inf" for infinity."""
    whole = isinstance(value, int) and not isinstance(value, bool) and int not in options
    return float in options and (whole or value in ("nan", "inf", "-inf"))


def _tuple_from_json(options: list[Any], value: list[Any]) -> tuple[Any, ...]:
    arguments: tuple[Any, ...] = ()
    for option in options:
        if typing.get_origin(option) is tuple:
            arguments = typing.get_args(option)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        arguments = (Any,) * len(value)
    return tuple(_from_json(hint, item) for hint, item in zip(arguments, value, strict=True))


def _options(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _value_text(value: Any) -> str:
    if isinstance(value, list) and value and all(_is_scalar(item) for item in value):
        # The trailing colon parts a tuple of one from a number.
        return ":".join(_value_text(item) for item in value) + (":" if len(value) == 1 else "")
    if isinstance(value, str) and _WORD.match(value) and value not in _JSON_WORDS:
        return value
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text if _is_scalar(value) and not isinstance(value, str) else quote(text, safe="")


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _parse_value(text: str) -> Any:
    if ":" in text:
        return [_parse_value(item) for item in text.removesuffix(":").split(":")]
    if text in _JSON_WORDS:
        return _JSON_WORDS[text]
    if _INTEGER.match(text):
        return int(text)
    if _NUMBER.match(text):
        return float(text)
    if _WORD.match(text):
        return text
    try:
        return json.loads(unquote(text))
    except json.JSONDecodeError:
        raise ValueError(f"'{text}' is no number, word or quoted JSON") from None
