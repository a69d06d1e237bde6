"""What the report needs to find in the JSON of each command, as data, and where a file differs from that.

A form is a type or a tuple of types, [form] for a list, {name: form} for an object that has at least these names (a
'?' behind one that may be missing), or Each(form) for an object of any names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Each:
    """An object whose every value has one form."""

    form: Any


_NONE = type(None)
#: NaN and infinities are words in JSON.
_NUMBER = (int, float, str)
_MAYBE_NUMBER = (*_NUMBER, _NONE)
_TEXTS = [str]

_OUTPUT = {"rung": str, "name": str, "grade": str, "required": str, "because": str, "missed": str, "passed": bool}
_CASE = {
    "kernel": str, "case": str, "config": dict, "lane": str, "status": str, "error": str, "repro": str,
    "outputs": [_OUTPUT | {"share_of_bound?": _MAYBE_NUMBER, "ulp_histogram?": Each(int)}],
}  # fmt: skip
_MUTANT = {
    "id": str, "kernel": str, "class": str, "title": str, "case": str, "killed": bool, "hardware": bool,
    "outputs": bool, "stops": bool, "refused": str, "tolerance": bool, "tolerance_on_normal": bool,
    "gates": Each(bool), "point": str, "survives": _TEXTS, "complaints": _TEXTS,
    "sights": [{"lane": str, "faults": Each(str), "asked": _TEXTS}],
}  # fmt: skip
_VARIANT = {"kernel": str, "case": str, "profile": str, "passed": bool, "missed": str}
_FUZZED = {
    "kernel": str, "passed": bool, "examples": int, "refusals": int, "seconds": (int, float), "failure": str,
    "findings": [{"report": str, "repro": str}], "coverage": {"pairs": int, "covered": int},
    "worst": [{"output": str, "family": str, "share": _NUMBER, "repro": str}],
}  # fmt: skip
_MOVED = {
    "change": str, "kernel": str, "case": str, "output": str, "rung": str, "grades": [(str, _NONE)], "apart": str,
    "first": str, "why": str, "fails": bool,
}  # fmt: skip
_POINT = {
    "name": str, "operand": (str, _NONE), "kind": str, "description": str, "dtype": (str, _NONE),
    "introduced": _MAYBE_NUMBER, "error": _MAYBE_NUMBER, "share": _MAYBE_NUMBER,
}  # fmt: skip
_CACHES = {"arguments": _TEXTS, "dtype": str, "adds": Each(Each(_NUMBER))}
_MARGIN = {"kernel": str, "legal": _MAYBE_NUMBER, "killed": _MAYBE_NUMBER}

_ANY = {"versions?": Each(str)}
#: Per command what its JSON holds.
FORMS: Mapping[str, Any] = {
    "check": _ANY | {"backend": str, "passed": bool, "complaints?": _TEXTS, "results": [_CASE]},
    "mutants": _ANY | {
        "passed": bool, "gates": Each(str), "mutants": [_MUTANT], "variants": [_VARIANT],
        "summary": {"margins": [_MARGIN]},
    },
    "fuzz": _ANY | {"passed": bool, "results": [_FUZZED]},
    "probe": _ANY | {"backend": str, "questions": [{"id": str, "verdict": str, "candidates_left": _TEXTS}]},
    "drift": _ANY | {
        "old": str, "new": str, "passed": bool, "counts": Each(int), "changes": [_MOVED], "lacking?": _TEXTS,
        "differs": [{"what": str, "old": str, "new": str}],
    },
    "budget": _ANY | {
        "kernel": str, "case": str, "output": str, "total": _NUMBER, "kernel_alone": _MAYBE_NUMBER,
        "points": [_POINT], "outside": _TEXTS, "method": _TEXTS, "caches": (dict, _NONE),
    },
}  # fmt: skip


def misfit(value: Any, command: str) -> str:
    """The first place at which a document is not what `command` writes: 'mutants[3].sights is missing'; '' for none."""
    places = [*_misfits(value, FORMS[command], "")]
    if not places and command == "budget" and value["caches"] is not None:
        places = [*_misfits(value["caches"], _CACHES, ".caches")]
    return places[0].removeprefix(".") if places else ""


def _misfits(value: Any, form: Any, place: str) -> Iterator[str]:
    if isinstance(form, (type, tuple)):
        if not isinstance(value, form):
            yield f"{place} is {_told(value)}"
    elif not isinstance(value, list if isinstance(form, list) else dict):
        yield f"{place} is {_told(value)}"
    else:
        yield from _within(value, form, place)


def _within(value: Any, form: Any, place: str) -> Iterator[str]:
    if isinstance(form, list):
        for number, one in enumerate(value):
            yield from _misfits(one, form[0], f"{place}[{number}]")
    elif isinstance(form, Each):
        for name, one in value.items():
            yield from _misfits(one, form.form, f"{place}.{name}")
    else:
        yield from _names(value, form, place)


def _names(value: Mapping[str, Any], form: Mapping[str, Any], place: str) -> Iterator[str]:
    for word, inner in form.items():
        name = word.removesuffix("?")
        if name in value:
            yield from _misfits(value[name], inner, f"{place}.{name}")
        elif not word.endswith("?"):
            yield f"{place}.{name} is missing"


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
