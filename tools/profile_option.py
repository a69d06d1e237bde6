"""Numerics profiles as they are named on a command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reference.numerics.profile import CHAIN, DEFAULT, PARTS, QUESTIONS, NumericsProfile
from tools.errors import BadInput

HELP = (
    "A numerics profile: 'default', 'chain' (every sum in sequence), answers like U1=chain or "
    "matmul_order=chain,V1=fused, or a JSON file as probes write it."
)

_NAMED = {"default": DEFAULT, "chain": CHAIN}


def profile_of(text: str) -> NumericsProfile:
    """The profile that `text` names; BadInput where it names none."""
    if text in _NAMED:
        return _NAMED[text]
    try:
        return _answered(text) if "=" in text else _from_file(Path(text))
    except ValueError as error:
        raise BadInput(f"--profile {text}: {error}") from None


def _answered(text: str) -> NumericsProfile:
    """The default with some questions answered otherwise: NAME=VALUE, by commas, ids of questions or fields."""
    changes: dict[str, Any] = {}
    for one in text.split(","):
        name, _, value = one.partition("=")
        changes |= _answer(name.strip(), value.strip())
    return DEFAULT.replace(**changes)


def _answer(name: str, value: str) -> dict[str, Any]:
    fields = list(_fields(name))
    for field in fields:
        for candidate in PARTS[field].candidates:
            if _spelled(candidate) == value.lower():
                return {field: candidate}
    known = "; ".join(f"{field}: {', '.join(map(_spelled, PARTS[field].candidates))}" for field in fields)
    raise ValueError(f"'{value}' is no answer to {name}; {known}")


def _fields(name: str) -> Iterator[str]:
    if name in PARTS:
        yield name
    elif name in QUESTIONS:
        yield from (part.field for part in QUESTIONS[name].parts)
    else:
        raise ValueError(f"no question '{name}'; known: {', '.join((*QUESTIONS, *PARTS))}")


def _spelled(candidate: object) -> str:
    return str(candidate).lower()


def _from_file(path: Path) -> NumericsProfile:
    """A profile as `NumericsProfile.to_dict` has it, or under the key 'profile' of a larger document."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"no profile of that name, and the file cannot be read: {error.strerror}") from None
    if not isinstance(document, dict):
        raise ValueError("the file holds no JSON object")
    return NumericsProfile.from_dict(document.get("profile", document))
