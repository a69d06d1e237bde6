"""The golden store: a folder of golden files under one manifest, replaced as a whole or not at all.

    golden/manifest.json                              what there is, sealed
    golden/<kernel>.<case>.<hash>.safetensors         one file per case, named after its content
    golden/CHANGES.md                                 why the goldens changed, one section per change
    golden/journal.json                               only while a replacement is under way, sealed

How a replacement survives `kill -9` at any instant: because data files are named after their
content, old and new ones stand side by side, and the one atomic rename of the manifest is the
moment at which the new set becomes the set. Everything is prepared (written, fsynced) in a sibling
folder `.golden-regen-*`; then the journal names every file that may for a while belong to no
manifest, and the text for CHANGES.md; then files move in, the manifest is replaced, the text is
appended, files of the old set go, and last the journal. Readers need the manifest alone; the journal
only tells them which unlisted files are leftovers and no intruders. The next writer settles what an
interrupted one left behind.

Reading changes nothing on disk. Writing takes a lock on the folder, which ends with the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from conformance.golden_file import GoldenFileError, decode, encode
from conformance.golden_manifest import GoldenEntry, GoldenOutput, GoldenPoint, Manifest, ManifestError
from conformance.sealed_json import SealError, seal, unseal

MANIFEST = "manifest.json"
CHANGES = "CHANGES.md"
JOURNAL = "journal.json"
SUFFIX = ".safetensors"
STAGING_PREFIX = ".golden-regen-"

_CHANGES_HEAD = """# Changes of the goldens

One section per accepted change of any bit, headed by the first digits of the manifest's digest.
"""

#: The store of this project, beside the packages both in a checkout and after installation.
HOME = Path(__file__).parents[1] / "golden"


class GoldenError(Exception):
    """The store is damaged, incomplete or in use; the message is one line that names the file."""


@dataclass(frozen=True)
class Golden:
    """One case to be stored: what it is of, and its outputs in storage dtypes.

    `config` is a JSON object; `profile` the dict of the numerics profile and `profile_digest` its name.
    """

    kernel: str
    case: str
    config: dict[str, Any]
    lane: str
    seed: int
    profile: dict[str, Any]
    profile_digest: str
    outputs: Mapping[str, NDArray[Any]]
    points: tuple[GoldenPoint, ...] = ()


# ------------------------------------------------------------------------------------------ reading


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a store, checked for itself; files are not looked at."""
    try:
        return Manifest.from_bytes(_read_bytes(directory / MANIFEST))
    except ManifestError as error:
        raise GoldenError(f"{directory / MANIFEST}: {error}") from None


def read(directory: Path, entry: GoldenEntry) -> dict[str, NDArray[Any]]:
    """The arrays of one entry, in storage dtypes and with the bits they were written with."""
    path = directory / entry.file
    try:
        arrays = decode(_checked_bytes(directory, entry))
    except GoldenFileError as error:
        raise GoldenError(f"{path}: {error}") from None
    found = _describe(arrays)
    if found != entry.outputs:
        raise GoldenError(f"{path}: it holds {found}, the manifest says {entry.outputs}")
    return arrays


def verify_files(directory: Path) -> Manifest:
    """The manifest of a store whose every byte is accounted for.

    GoldenError for a manifest that was touched, a listed file that is absent, shorter, longer or
    changed in one bit, and anything in the folder that neither the manifest nor a journal lists.
    """
    manifest = read_manifest(directory)
    for entry in manifest.entries:
        _checked_bytes(directory, entry)
    _read_bytes(directory / CHANGES)
    listed = {MANIFEST, CHANGES, *(entry.file for entry in manifest.entries), *_tolerated(directory)}
    for path in sorted(directory.iterdir()):
        if path.name not in listed or not path.is_file():
            raise GoldenError(f"{path}: the manifest does not list it")
    return manifest


def _checked_bytes(directory: Path, entry: GoldenEntry) -> bytes:
    path = directory / entry.file
    data = _read_bytes(path)
    if len(data) != entry.size:
        raise GoldenError(f"{path}: it has {len(data)} bytes, the manifest says {entry.size}")
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry.sha256:
        raise GoldenError(f"{path}: its SHA-256 begins {digest[:12]}, the manifest says {entry.sha256[:12]}")
    return data


def _read_bytes(path: Path) -> bytes:
    if path.is_symlink():
        raise GoldenError(f"{path}: a golden file is no symbolic link")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise GoldenError(f"{path}: it is missing") from None
    except OSError as error:
        raise GoldenError(f"{path}: cannot be read: {error.strerror}") from None


def _describe(arrays: Mapping[str, NDArray[Any]]) -> tuple[GoldenOutput, ...]:
    return tuple(GoldenOutput(name, one.dtype.name, one.shape) for name, one in sorted(arrays.items()))


# ------------------------------------------------------------------------------------------ writing


def write(directory: Path, goldens: Sequence[Golden], change: str) -> Manifest:
    """Replaces the whole store by `goldens`, with `change` (Markdown) as the new section of CHANGES.md.

    The folder is created where it is missing, and a damaged one is replaced like any other; files
    that are no goldens are left alone. GoldenError where another process is writing. An exception or a
    kill leaves the old set or the new one, never a mixture.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
        _settle(directory)
        with _staging(directory) as staging:
            manifest = _stage(staging, goldens)
            stale = _golden_names(directory) - _golden_names(staging)
            _commit(directory, staging, stale, change)
        return manifest


def _stage(staging: Path, goldens: Sequence[Golden]) -> Manifest:
    """Writes all data files and the manifest below `staging`."""
    entries = tuple(sorted((_stage_one(staging, one) for one in goldens), key=lambda entry: entry.key))
    manifest = Manifest(entries, {one.profile_digest: one.profile for one in goldens})
    data = manifest.to_bytes()
    # What cannot be read back must not become the set.
    if Manifest.from_bytes(data) != manifest:
        raise GoldenError("the configs or profiles hold values that JSON does not give back as they were")
    _write_synced(staging / MANIFEST, data)
    return manifest


def _stage_one(staging: Path, golden: Golden) -> GoldenEntry:
    data = encode(golden.outputs)
    digest = hashlib.sha256(data).hexdigest()
    file = f"{golden.kernel}.{golden.case}.{digest[:12]}{SUFFIX}"
    _write_synced(staging / file, data)
    return GoldenEntry(
        kernel=golden.kernel,
        case=golden.case,
        config=golden.config,
        lane=golden.lane,
        seed=golden.seed,
        profile=golden.profile_digest,
        file=file,
        sha256=digest,
        size=len(data),
        outputs=_describe(golden.outputs),
        points=golden.points,
    )


def _commit(directory: Path, staging: Path, stale: set[str], change: str) -> None:
    fresh = _golden_names(staging)
    digest = hashlib.sha256((staging / MANIFEST).read_bytes()).hexdigest()
    section = f"\n## {digest[:12]}\n\n{change.strip()}\n"
    journal = {"manifest": digest, "files": sorted(fresh | stale), "change": section}
    _put(staging, directory, JOURNAL, seal(journal))
    for name in sorted(fresh):
        os.replace(staging / name, directory / name)
    _sync_folder(directory)
    os.replace(staging / MANIFEST, directory / MANIFEST)
    _sync_folder(directory)
    _finish(directory, staging, journal)


def _finish(directory: Path, staging: Path, journal: Mapping[str, Any]) -> None:
    """What remains once the journal's manifest is in place, or once it is clear that it never will be."""
    if _digest_in_place(directory) == journal["manifest"]:
        _append_change(directory, staging, journal["change"])
    for name in set(journal["files"]) - _listed_names(directory):
        (directory / name).unlink(missing_ok=True)
    _sync_folder(directory)
    (directory / JOURNAL).unlink()
    _sync_folder(directory)


def _append_change(directory: Path, staging: Path, section: str) -> None:
    path = directory / CHANGES
    text = path.read_text(encoding="utf-8") if path.exists() else _CHANGES_HEAD
    if not text.endswith(section):
        _put(staging, directory, CHANGES, (text + section).encode())


def _settle(directory: Path) -> None:
    """Finishes or undoes what an interrupted writer left; the lock tells that none is at work."""
    for leftover in directory.parent.glob(f"{STAGING_PREFIX}{directory.name}-*"):
        shutil.rmtree(leftover)
    journal = _journal(directory)
    if journal is not None:
        with _staging(directory) as staging:
            _finish(directory, staging, journal)


def _tolerated(directory: Path) -> set[str]:
    journal = _journal(directory)
    return {JOURNAL, *journal["files"]} if journal is not None else set()


def _journal(directory: Path) -> dict[str, Any] | None:
    path = directory / JOURNAL
    if not path.exists():
        return None
    try:
        journal = unseal(_read_bytes(path))
    except SealError as error:
        raise GoldenError(f"{path}: {error}") from None
    if set(journal) != {"manifest", "files", "change"}:
        raise GoldenError(f"{path}: it has the keys {sorted(journal)}")
    return journal


def _golden_names(directory: Path) -> set[str]:
    return {path.name for path in directory.glob(f"*{SUFFIX}")}


def _listed_names(directory: Path) -> set[str]:
    """Files of the set in place; all of them where the manifest cannot be read, so that nothing is lost."""
    try:
        return {entry.file for entry in read_manifest(directory).entries}
    except GoldenError:
        return _golden_names(directory) if (directory / MANIFEST).exists() else set()


def _digest_in_place(directory: Path) -> str:
    path = directory / MANIFEST
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


# ------------------------------------------------------------------------------- files and folders


@contextlib.contextmanager
def _staging(directory: Path) -> Iterator[Path]:
    """A folder beside the store: the same file system, so that renames into the store are atomic."""
    prefix = f"{STAGING_PREFIX}{directory.name}-"
    staging = Path(tempfile.mkdtemp(prefix=prefix, dir=directory.parent))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    # Imported here: reading works where there is no fcntl.
    import fcntl

    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GoldenError(f"{directory}: another process is writing it") from None
        yield
    finally:
        os.close(descriptor)


def _put(staging: Path, directory: Path, name: str, data: bytes) -> None:
    """Creates or replaces one file of the store in one atomic step."""
    _write_synced(staging / name, data)
    os.replace(staging / name, directory / name)
    _sync_folder(directory)


def _write_synced(path: Path, data: bytes) -> None:
    # Mode "xb": two cases whose file names collide must not overwrite each other in silence.
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
