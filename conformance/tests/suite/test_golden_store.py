"""Claim: the golden store gives back every bit it was given, and refuses a store with one bit changed.

The expected answer of every refusal is GoldenError with one line that names the damaged file; a
failing case can be repeated by its id, which holds the position of the damage.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from conformance import golden_file, golden_store, sealed_json
from conformance.golden_store import GoldenError
from conformance.tests.suite.golden_samples import default_outputs, golden, golden_set


@pytest.fixture
def store(tmp_path: Path) -> Path:
    directory = tmp_path / "golden"
    golden_store.write(directory, golden_set(10), "first set")
    return directory


def _refusal(directory: Path) -> str:
    """The message of the one error that verifying and reading everything ends in."""
    with pytest.raises(GoldenError) as caught:
        golden_store.verify_files(directory)
    message = str(caught.value)
    assert "\n" not in message
    return message


# -------------------------------------------------------------------------------- what is given back

BITS: dict[str, NDArray[Any]] = {
    "bfloat16-every-code": np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16),
    "float16-every-code": np.arange(2**16, dtype=np.uint16).view(np.float16),
    "float8_e4m3-every-code": np.arange(2**8, dtype=np.uint8).view(ml_dtypes.float8_e4m3),
    "float8_e4m3fn-every-code": np.arange(2**8, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn),
    "float8_e5m2-every-code": np.arange(2**8, dtype=np.uint8).view(ml_dtypes.float8_e5m2),
    "float8_e8m0-every-code": np.arange(2**8, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu),
    "float32-nan-payloads-and-signs": np.array([0x7F800001, 0xFFC00000, 0x80000000, 1], np.uint32).view("f4"),
    "uint32-packed": np.array([[0xDEADBEEF, 0], [1, 2**32 - 1]], np.uint32),
    "int32": np.array([-(2**31), -1, 0, 2**31 - 1], np.int32),
    "scalar": np.array(1.5, np.float32),
    "empty": np.zeros((3, 0, 2), ml_dtypes.bfloat16),
    "transposed": np.arange(12, dtype=np.float32).reshape(3, 4).T,
    "strided": np.arange(24, dtype=np.int8)[::3],
}


@pytest.mark.parametrize("array", BITS.values(), ids=BITS.keys())
def test_every_bit_comes_back(tmp_path: Path, array: NDArray[Any]) -> None:
    directory = tmp_path / "golden"
    manifest = golden_store.write(directory, [golden("one", 0, out=array)], "one")
    found = golden_store.read(directory, manifest.entries[0])["out"]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()


def test_manifest_says_what_was_written(store: Path) -> None:
    entry = golden_store.verify_files(store).entry("toy", "case-1")
    assert entry is not None
    assert (entry.config, entry.lane, entry.seed) == (golden("case-1", 11).config, "exact", 7)
    assert [(one.name, one.dtype, one.shape) for one in entry.outputs] == [
        ("k_cache", "float8_e4m3", (5,)),
        ("out", "bfloat16", (3, 4)),
    ]
    assert entry.points == golden("case-1", 11).points
    assert hashlib.sha256((store / entry.file).read_bytes()).hexdigest() == entry.sha256


def test_files_are_reproducible_byte_for_byte(tmp_path: Path) -> None:
    goldens = golden_set(10)
    turned = [
        dataclasses.replace(one, outputs=dict(reversed(one.outputs.items()))) for one in reversed(goldens)
    ]
    first, second = tmp_path / "a/golden", tmp_path / "b/golden"
    golden_store.write(first, goldens, "why")
    golden_store.write(second, turned, "why")
    assert {path.name: path.read_bytes() for path in first.iterdir()} == {
        path.name: path.read_bytes() for path in second.iterdir()
    }


def test_file_holds_unsigned_integers_only() -> None:
    data = golden_file.encode(default_outputs(3))
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert {header["out"]["dtype"], header["k_cache"]["dtype"]} == {"U16", "U8"}
    assert header["__metadata__"] == {"dtypes": '{"k_cache": "float8_e4m3", "out": "bfloat16"}'}


def test_other_dtypes_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="golden array 'out' is complex64"):
        golden_file.encode({"out": np.zeros(2, np.complex64)})


# -------------------------------------------------------------------------------- what is refused


def test_untouched_store_verifies(store: Path) -> None:
    manifest = golden_store.verify_files(store)
    assert [entry.case for entry in manifest.entries] == ["case-1", "case-2", "same"]
    assert sorted(path.name for path in store.iterdir()) == sorted(
        ["CHANGES.md", "manifest.json", *(entry.file for entry in manifest.entries)]
    )


def _data_file(store: Path) -> Path:
    return min(store.glob("*.safetensors"))


@pytest.mark.parametrize("which", ["data", "manifest"])
def test_one_flipped_bit_anywhere_is_refused(store: Path, which: str) -> None:
    golden_store.write(store, golden_set(10, cases=1), "as few bytes as there can be")
    path = _data_file(store) if which == "data" else store / golden_store.MANIFEST
    whole = path.read_bytes()
    answers = []
    for position in range(len(whole)):
        # Every byte is hit; which of its bits rotates, so that all eight take part.
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        answers.append(_answer(store))
    assert len(answers) > 200
    assert [at for at, answer in enumerate(answers) if path.name not in answer or "\n" in answer] == []


def _answer(store: Path) -> str:
    try:
        golden_store.verify_files(store)
    except GoldenError as error:
        return str(error)
    return "verified"


@pytest.mark.parametrize("which", ["data", "manifest"])
def test_truncated_file_is_refused(store: Path, which: str) -> None:
    path = _data_file(store) if which == "data" else store / golden_store.MANIFEST
    whole = path.read_bytes()
    for length in {0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:length])
        assert path.name in _refusal(store)
    path.write_bytes(whole + b"\n")
    assert path.name in _refusal(store)


def _missing_file(store: Path) -> str:
    _data_file(store).unlink()
    return "it is missing"


def _missing_manifest(store: Path) -> str:
    (store / golden_store.MANIFEST).unlink()
    return "manifest.json: it is missing"


def _missing_changes(store: Path) -> str:
    (store / golden_store.CHANGES).unlink()
    return "CHANGES.md: it is missing"


def _unknown_file(store: Path) -> str:
    (store / "notes.txt").write_text("hello")
    return "notes.txt: the manifest does not list it"


def _unknown_golden(store: Path) -> str:
    shutil.copy(_data_file(store), store / "toy.other.0123456789ab.safetensors")
    return "toy.other.0123456789ab.safetensors: the manifest does not list it"


def _unknown_folder(store: Path) -> str:
    (store / "old").mkdir()
    return "old: the manifest does not list it"


def _swapped_files(store: Path) -> str:
    first, second = sorted(store.glob("*.safetensors"))[:2]
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)
    return "its SHA-256 begins"


def _symbolic_link(store: Path) -> str:
    path = _data_file(store)
    path.rename(store.parent / "elsewhere")
    path.symlink_to(store.parent / "elsewhere")
    return "no symbolic link"


def _folder_for_a_file(store: Path) -> str:
    path = _data_file(store)
    path.unlink()
    path.mkdir()
    return "cannot be read"


def _damaged_journal(store: Path) -> str:
    (store / golden_store.JOURNAL).write_text("{}")
    return "journal.json: not a sealed document"


DAMAGES: list[Callable[[Path], str]] = [
    _missing_file, _missing_manifest, _missing_changes, _unknown_file, _unknown_golden, _unknown_folder,
    _swapped_files, _symbolic_link, _folder_for_a_file, _damaged_journal,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__.strip("_").replace("_", "-"))
def test_damaged_store_is_refused(store: Path, damage: Callable[[Path], str]) -> None:
    expected = damage(store)
    assert expected in _refusal(store)


def _without_entry(manifest: dict[str, Any]) -> str:
    manifest["entries"].pop()
    return "the manifest does not list it"


def _other_version(manifest: dict[str, Any]) -> str:
    manifest["version"] = 2
    return "its version is 2; this program reads version 1"


def _other_format(manifest: dict[str, Any]) -> str:
    manifest["format"] = "something"
    return "its format is 'something'"


def _extra_key(manifest: dict[str, Any]) -> str:
    manifest["comment"] = "hello"
    return "has the keys"


def _entry_without_seed(manifest: dict[str, Any]) -> str:
    del manifest["entries"][0]["seed"]
    return "an entry has the keys"


def _seed_of_another_type(manifest: dict[str, Any]) -> str:
    manifest["entries"][0]["seed"] = True
    return "seed of an entry is a bool, expected int"


def _negative_extent(manifest: dict[str, Any]) -> str:
    manifest["entries"][0]["outputs"][0]["shape"] = [-1]
    return "has shape [-1]"


def _point_without_digest(manifest: dict[str, Any]) -> str:
    del manifest["entries"][0]["points"][0]["digest"]
    return "a point of toy case-1 has the keys"


def _file_in_another_folder(manifest: dict[str, Any]) -> str:
    manifest["entries"][0]["file"] = "../x.safetensors"
    return "is no golden file name"


def _case_twice(manifest: dict[str, Any]) -> str:
    manifest["entries"].append(manifest["entries"][0])
    return "stands twice"


def _unlisted_profile(manifest: dict[str, Any]) -> str:
    manifest["profiles"].clear()
    return "is not listed"


def _entries_as_object(manifest: dict[str, Any]) -> str:
    manifest["entries"] = {}
    return "entries is a dict, expected list"


FORGERIES: list[Callable[[dict[str, Any]], str]] = [
    _without_entry, _other_version, _other_format, _extra_key, _entry_without_seed, _seed_of_another_type,
    _negative_extent, _point_without_digest, _file_in_another_folder, _case_twice, _unlisted_profile,
    _entries_as_object,
]  # fmt: skip


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda one: one.__name__.strip("_").replace("_", "-"))
def test_sealed_manifest_of_another_schema_is_refused(
    store: Path, forge: Callable[[dict[str, Any]], str]
) -> None:
    path = store / golden_store.MANIFEST
    manifest = sealed_json.unseal(path.read_bytes())
    expected = forge(manifest)
    path.write_bytes(sealed_json.seal(manifest))
    assert expected in _refusal(store)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"digest": "0"}', "\udc80", '{"digest": NaN}'])
def test_malformed_manifest_is_refused(store: Path, text: str) -> None:
    path = store / golden_store.MANIFEST
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "manifest.json: " in _refusal(store)


def test_valid_json_in_another_layout_is_refused(store: Path) -> None:
    path = store / golden_store.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_bytes()), sort_keys=True))
    assert "does not match the digest" in _refusal(store)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda outputs: {"out": outputs["out"]}, "the manifest says"),
        (lambda outputs: {**outputs, "out": outputs["out"].reshape(4, 3)}, "the manifest says"),
        (lambda outputs: {**outputs, "out": outputs["out"].view(np.float16)}, "the manifest says"),
    ],
    ids=["output-missing", "other-shape", "other-dtype"],
)
def test_file_that_contradicts_its_entry_is_refused(
    store: Path, damage: Callable[[dict[str, Any]], dict[str, Any]], expected: str
) -> None:
    entry = golden_store.read_manifest(store).entries[0]
    data = golden_file.encode(damage(golden_store.read(store, entry)))
    (store / entry.file).write_bytes(data)
    forged = dataclasses.replace(entry, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(GoldenError, match=expected):
        golden_store.read(store, forged)


@pytest.mark.parametrize(
    "data", [b"", b"\x08", b"\x02\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 64, b"\0" * 64]
)
def test_bytes_of_another_format_are_refused(data: bytes) -> None:
    with pytest.raises(golden_file.GoldenFileError) as caught:
        golden_file.decode(data)
    assert "\n" not in str(caught.value)
