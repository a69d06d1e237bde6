"""JSON files that notice any change: one canonical form, closed by a digest over everything else.

A flipped bit in a JSON file often gives other valid JSON: another seed, another shape, a longer
name. So a sealed document carries the SHA-256 of its content, and its bytes must be exactly those
that `seal` writes; a changed digit, name, space or digest is noticed alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DIGEST = "digest"


class SealError(ValueError):
    """A sealed file is not what `seal` wrote; the message is one line and does not name the file."""


def seal(document: Mapping[str, Any]) -> bytes:
    """The canonical bytes of a document; equal documents have equal bytes on every machine.

    ValueError for NaN and infinities, which JSON has no word for, and for a key 'digest'.
    """
    if DIGEST in document:
        raise ValueError(f"the key {DIGEST!r} is the seal's own")
    return _canonical({**document, DIGEST: json_digest(document)})


def unseal(data: bytes) -> dict[str, Any]:
    """The document that `seal` turned into `data`; SealError where a single bit differs."""
    try:
        document = json.loads(data)
    except ValueError as error:
        raise SealError(f"not JSON: {_one_line(error)}") from None
    if not isinstance(document, dict) or DIGEST not in document:
        raise SealError(f"not a sealed document: no object with the key {DIGEST!r}")
    digest = document.pop(DIGEST)
    if digest != json_digest(document) or data != seal(document):
        raise SealError("its content does not match the digest it is closed by")
    return document


def json_digest(document: Any) -> str:
    """SHA-256 of the canonical bytes of any JSON value, in hexadecimal."""
    return hashlib.sha256(_canonical(document)).hexdigest()


def _canonical(document: Any) -> bytes:
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False)
    return f"{text}\n".encode()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
