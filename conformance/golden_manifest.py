"""The manifest of the golden store: what every golden file is of, and what it must hash to."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from conformance.sealed_json import SealError, seal, unseal

FORMAT = "nki-oracle golden"
#: Raised when the meaning of a field of the manifest or of a golden file changes.
VERSION = 1

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class ManifestError(ValueError):
    """A manifest that cannot be used; the message is one line and does not name the file."""


@dataclass(frozen=True)
class GoldenOutput:
    """One array of a golden file."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GoldenPoint:
    """One rounding point the model passed, with the digest of all its tiles."""

    name: str
    digest: str


@dataclass(frozen=True)
class GoldenEntry:
    """One golden file and the case it belongs to; `profile` is a key of `Manifest.profiles`."""

    kernel: str
    case: str
    config: dict[str, Any]
    lane: str
    seed: int
    profile: str
    file: str
    sha256: str
    #: Length of the file in bytes.
    size: int
    outputs: tuple[GoldenOutput, ...]
    #: In the order in which the model passed them: the first that differs is where a change began.
    points: tuple[GoldenPoint, ...]

    @property
    def key(self) -> tuple[str, str]:
        """(kernel, case id), unique in a manifest."""
        return self.kernel, self.case


@dataclass(frozen=True)
class Manifest:
    """All entries, sorted by kernel and case, and the profiles they were computed under by digest."""

    entries: tuple[GoldenEntry, ...]
    profiles: Mapping[str, dict[str, Any]]

    def entry(self, kernel: str, case: str) -> GoldenEntry | None:
        """The entry of one case, or None."""
        return next((entry for entry in self.entries if entry.key == (kernel, case)), None)

    def to_bytes(self) -> bytes:
        """The sealed bytes; equal manifests have equal bytes."""
        entries = [dataclasses.asdict(entry) for entry in sorted(self.entries, key=lambda one: one.key)]
        document = {"format": FORMAT, "version": VERSION, "entries": entries, "profiles": dict(self.profiles)}
        return seal(document)

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """The manifest in `data`; ManifestError for a changed bit, another schema or a contradiction."""
        try:
            document = unseal(data)
        except SealError as error:
            raise ManifestError(str(error)) from None
        _expect(document.get("format") == FORMAT, f"its format is {document.get('format')!r}, not {FORMAT!r}")
        found = document.get("version")
        _expect(found == VERSION, f"its version is {found!r}; this program reads version {VERSION}")
        _expect_keys("the manifest", document, ("format", "version", "entries", "profiles"))
        _expect_type("profiles", document["profiles"], dict)
        _expect_type("entries", document["entries"], list)
        manifest = cls(tuple(_entry(one) for one in document["entries"]), document["profiles"])
        _check_manifest(manifest)
        return manifest


#: JSON type of every field; `outputs` and `points` have records of their own.
_ENTRY_TYPES: Mapping[str, type] = {
    "kernel": str, "case": str, "config": dict, "lane": str, "seed": int, "profile": str,
    "file": str, "sha256": str, "size": int, "outputs": list, "points": list,
}  # fmt: skip
_OUTPUT_TYPES: Mapping[str, type] = {"name": str, "dtype": str, "shape": list}
_POINT_TYPES: Mapping[str, type] = {"name": str, "digest": str}


def _entry(value: Any) -> GoldenEntry:
    _check_record("an entry", value, _ENTRY_TYPES)
    where = f"{value['kernel']} {value['case']}"
    outputs = tuple(_output(where, one) for one in value["outputs"])
    points = tuple(_point(where, one) for one in value["points"])
    entry = GoldenEntry(**{**value, "outputs": outputs, "points": points})
    _check_entry(entry)
    return entry


def _output(where: str, value: Any) -> GoldenOutput:
    _check_record(f"an output of {where}", value, _OUTPUT_TYPES)
    whole = all(type(extent) is int and extent >= 0 for extent in value["shape"])
    _expect(whole, f"output '{value['name']}' of {where} has shape {value['shape']}")
    return GoldenOutput(value["name"], value["dtype"], tuple(value["shape"]))


def _point(where: str, value: Any) -> GoldenPoint:
    _check_record(f"a point of {where}", value, _POINT_TYPES)
    return GoldenPoint(**value)


def _check_entry(entry: GoldenEntry) -> None:
    where = f"{entry.kernel} {entry.case}"
    _expect(bool(_SHA256.match(entry.sha256)), f"{where}: '{entry.sha256}' is no SHA-256")
    plain = PurePosixPath(entry.file).name == entry.file and "\\" not in entry.file
    _expect(plain and entry.file.endswith(".safetensors"), f"{where}: '{entry.file}' is no golden file name")
    _expect(bool(entry.outputs), f"{where} has no outputs")


def _check_manifest(manifest: Manifest) -> None:
    for what, values in (
        ("case", [" ".join(entry.key) for entry in manifest.entries]),
        ("file", [entry.file for entry in manifest.entries]),
    ):
        repeated = sorted({value for value in values if values.count(value) > 1})
        _expect(not repeated, f"{what} {', '.join(repeated)} stands twice")
    for entry in manifest.entries:
        known = isinstance(manifest.profiles.get(entry.profile), dict)
        _expect(known, f"{entry.kernel} {entry.case}: profile {entry.profile} is not listed")


def _check_record(what: str, value: Any, types: Mapping[str, type]) -> None:
    _expect_type(what, value, dict)
    _expect_keys(what, value, tuple(types))
    for name, kind in types.items():
        _expect_type(f"{name} of {what}", value[name], kind)


def _expect_keys(what: str, value: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    _expect(set(value) == set(keys), f"{what} has the keys {sorted(value)}, expected {sorted(keys)}")


def _expect_type(what: str, value: Any, kind: type) -> None:
    # type(), not isinstance(): true is an int to Python and not to this schema.
    _expect(type(value) is kind, f"{what} is a {type(value).__name__}, expected {kind.__name__}")


def _expect(holds: bool, complaint: str) -> None:
    if not holds:
        raise ManifestError(complaint)
