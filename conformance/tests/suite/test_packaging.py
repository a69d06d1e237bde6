"""Claim: both kinds of wheel, normal and editable, install the drop-in hook and find every package.

The wheels are built in this process from the checkout; what pip does with them is unpacking. By hand:
`python -m pip install .` or `python -m pip install -e .` in a new environment, then `python -c "import nki"`.
"""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
PACKAGES = ("reference", "kernels", "conformance", "golden", "tools")

wheel = pytest.importorskip("hatchling.builders.wheel", reason="the build backend is not installed here")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy without caches: a build must not see what other tests are writing."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE", "nki_oracle.pth"):
        shutil.copy(PROJECT / name, copy)
    for name in PACKAGES:
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    return copy


def _installed(checkout: Path, target: Path, version: str) -> Path:
    built = next(iter(wheel.WheelBuilder(str(checkout)).build(directory=str(target), versions=[version])))
    site = target / "site"
    with zipfile.ZipFile(built) as archive:
        archive.extractall(site)
    return site


def _import_nki(site: Path) -> str:
    """Where a fresh interpreter finds nki with `site` as its site folder; -S keeps others out."""
    code = f"import site; site.addsitedir({str(site)!r}); from importlib.util import find_spec as f; "
    command = [sys.executable, "-I", "-S", "-c", code + "print(f('nki').origin)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_wheel_holds_every_package_and_the_hook(checkout: Path, tmp_path: Path) -> None:
    site = _installed(checkout, tmp_path, "standard")
    assert {path.name for path in site.iterdir() if path.is_dir()} >= set(PACKAGES)
    assert (site / "nki_oracle.pth").read_text() == "import reference\n"
    assert Path(_import_nki(site)) == site / "reference/nki/__init__.py"


def test_wheel_holds_the_goldens_byte_for_byte(checkout: Path, tmp_path: Path) -> None:
    site = _installed(checkout, tmp_path, "standard")
    expected = {path.name: path.read_bytes() for path in (PROJECT / "golden").iterdir()}
    assert {path.name: path.read_bytes() for path in (site / "golden").iterdir()} == expected


def test_editable_wheel_finds_the_drop_in_in_the_checkout(checkout: Path, tmp_path: Path) -> None:
    site = _installed(checkout, tmp_path, "editable")
    assert Path(_import_nki(site)) == checkout / "reference/nki/__init__.py"


def test_command_is_declared(checkout: Path, tmp_path: Path) -> None:
    site = _installed(checkout, tmp_path, "standard")
    points = configparser.ConfigParser()
    points.read(next(site.glob("nki_oracle-*.dist-info/entry_points.txt")))
    assert points["console_scripts"]["nki-oracle"] == "tools.cli:main"
