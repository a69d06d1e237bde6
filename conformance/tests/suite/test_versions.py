"""Claim: versions are told of everything that can move a bit, are '' for what is not here, and never fail."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from conformance import versions as module
from conformance.versions import versions

NAMES = {
    "nki_oracle", "commit", "python", "numpy", "ml_dtypes", "platform", "nki", "neuronx-cc", "runtime", "driver",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _afresh() -> Any:
    module._versions.cache_clear()
    yield
    module._versions.cache_clear()


def test_what_computes_is_told() -> None:
    found = versions()
    assert set(found) == NAMES
    assert (found["numpy"], found["ml_dtypes"]) == (np.__version__, ml_dtypes.__version__)
    assert all(type(value) is str for value in found.values())


def test_the_sdk_is_told_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = tmp_path / "libnrt.so.2.31.24.0"
    library.touch()
    (tmp_path / "libnrt.so.1").symlink_to(library.name)
    (tmp_path / "version").write_text("2.27.4.0\n")
    monkeypatch.setattr(module, "RUNTIME", tmp_path / "libnrt.so.1")
    monkeypatch.setattr(module, "DRIVER", tmp_path / "version")
    assert (versions()["runtime"], versions()["driver"]) == ("2.31.24.0", "2.27.4.0")


def test_what_is_not_here_is_empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "RUNTIME", tmp_path / "none")
    monkeypatch.setattr(module, "DRIVER", tmp_path / "none")
    monkeypatch.setattr(module, "HOME", tmp_path)
    assert [versions()[name] for name in ("runtime", "driver", "commit")] == ["", "", ""]


def test_a_checkout_tells_its_commit_and_whether_it_was_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(module, "HOME", tmp_path.resolve())
    commit = git("rev-parse", "--short=12", "HEAD")
    assert module._commit() == commit
    (tmp_path / "file").write_text("2")
    assert module._commit() == f"{commit}+"
    (tmp_path / "inner").mkdir()
    monkeypatch.setattr(module, "HOME", tmp_path.resolve() / "inner")
    assert module._commit() == ""


def test_no_git_and_broken_packages_are_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise OSError("broken")

    monkeypatch.setattr(module.subprocess, "run", broken)
    monkeypatch.setattr(module.metadata, "version", broken)
    found = versions()
    assert (found["commit"], found["numpy"], found["nki_oracle"]) == ("", "", "")


def test_the_record_cannot_be_spoiled_by_its_reader() -> None:
    versions()["numpy"] = "0"
    assert versions()["numpy"] == np.__version__
