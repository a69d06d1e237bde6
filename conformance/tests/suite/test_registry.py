"""Kernels are found by their files, and a broken case module is named instead of hiding others."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from conformance import registry
from conformance.registry import CaseModuleError

_GOOD = """
import dataclasses
from conformance.tests.suite.scaled_add import SUBJECT as BASE
SUBJECT = dataclasses.replace(BASE, name="{name}")
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty package of case modules, importable by the returned name."""
    name = "toy_cases_" + tmp_path.name.replace("-", "_")
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return name


def _write(package: str, module: str, text: str) -> None:
    home = Path(importlib.import_module(package).__path__[0])
    (home / f"{module}.py").write_text(text)
    importlib.invalidate_caches()


def test_every_case_module_of_the_project_imports() -> None:
    found = registry.kernels()
    assert tuple(found) == registry.kernel_names()
    assert all(subject.name == name for name, subject in found.items())


def test_a_new_file_is_a_new_kernel(package: str) -> None:
    _write(package, "beta", _GOOD.format(name="beta"))
    _write(package, "alpha", _GOOD.format(name="alpha"))
    _write(package, "_helper", "raise RuntimeError('helpers are not case modules')")
    assert list(registry.kernels(package)) == ["alpha", "beta"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("SUBJECT = 3", "exposes no SUBJECT of type Subject"),
        (_GOOD.format(name="other"), "names its SUBJECT 'other'; rename one of them"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_a_broken_module_is_named_and_hides_no_other(package: str, text: str, complaint: str) -> None:
    _write(package, "good", _GOOD.format(name="good"))
    _write(package, "broken", text)
    with pytest.raises(CaseModuleError, match=f"{package}.broken.*{complaint}"):
        registry.kernels(package)
    assert registry.kernel("good", package).name == "good"


def test_all_broken_modules_are_named_at_once(package: str) -> None:
    _write(package, "one", "SUBJECT = 1")
    _write(package, "two", "SUBJECT = 2")
    with pytest.raises(CaseModuleError, match=r"one exposes.*two exposes"):
        registry.kernels(package)


def test_an_unknown_name_lists_the_known_ones(package: str) -> None:
    _write(package, "good", _GOOD.format(name="good"))
    with pytest.raises(KeyError, match="no kernel 'bad'; known: good"):
        registry.kernel("bad", package)
