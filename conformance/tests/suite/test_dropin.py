"""Claim: `import nki` finds the official package where one is installed, and the drop-in everywhere else.

Each case starts a fresh interpreter, because the answer is fixed at the first import of `nki`.
To repeat one by hand: `python -c "import reference, nki; print(nki.__file__)"`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reference import dropin

WHERE_IS_NKI = "import importlib.util as u, reference; print(u.find_spec('nki').origin)"
DROP_IN = dropin.HOME / "__init__.py"


def _write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _python(code: str, *flags: str, path: Path | None = None) -> str:
    entries = [str(path)] * (path is not None) + [str(dropin.HOME.parents[1])]
    setup = f"import sys; sys.path[:0] = {entries!r}\n"
    command = [sys.executable, *flags, "-c", setup + code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _found(path: Path | None = None) -> Path:
    # -S leaves site-packages out, so that what is installed on this machine does not take part.
    return Path(_python(WHERE_IS_NKI, "-S", path=path))


def test_dropin_answers_when_nothing_is_installed() -> None:
    assert _found() == DROP_IN


@pytest.mark.parametrize("isa", ["nki/isa.py", "nki/isa/__init__.py"], ids=["module", "package"])
def test_official_package_wins(tmp_path: Path, isa: str) -> None:
    _write(tmp_path / "nki/__init__.py")
    _write(tmp_path / isa)
    assert _found(tmp_path) == tmp_path / "nki/__init__.py"


@pytest.mark.parametrize("isa", [None, "nki/isa/notes.txt"], ids=["without-isa", "isa-without-code"])
def test_placeholder_does_not_win(tmp_path: Path, isa: str | None) -> None:
    _write(tmp_path / "nki/__init__.py", "__version__ = '0.0.1'\n")
    if isa is not None:
        _write(tmp_path / isa)
    assert _found(tmp_path) == DROP_IN


def test_submodules_carry_the_official_name() -> None:
    code = "import reference, nki.isa, sys; print(nki.isa.__name__, 'reference.nki' in sys.modules)"
    assert _python(code) == "nki.isa False"


def test_other_names_are_left_to_other_finders() -> None:
    assert dropin.DropIn().find_spec("nki_samples") is None
    assert dropin.DropIn().find_spec("nki.isa") is None


def test_install_twice_leaves_one_finder() -> None:
    dropin.install()
    dropin.install()
    assert sum(isinstance(finder, dropin.DropIn) for finder in sys.meta_path) == 1


def test_start_of_the_interpreter_stays_light() -> None:
    heavy = _python("import reference; print([m for m in ('numpy', 'ml_dtypes', 'nki') if m in sys.modules])")
    assert heavy == "[]"


def test_older_package_is_answered_for_until_it_is_installed(tmp_path: Path) -> None:
    code = "import importlib.util as u, reference; print(u.find_spec('neuronxcc').origin)"
    assert Path(_python(code, "-S")) == dropin.OLDER_HOME / "__init__.py"
    _write(tmp_path / "neuronxcc/__init__.py")
    assert Path(_python(code, "-S", path=tmp_path)) == tmp_path / "neuronxcc/__init__.py"
