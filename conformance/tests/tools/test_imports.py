"""Claim: the import checker accepts every allowed direction, and reports every other one as file:line.

The trees are planted below a temporary root; by hand: `python -m tools.imports ROOT`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools import imports

PROJECT = Path(imports.__file__).parents[1]

#: One file per room, each with everything its row allows.
CLEAN = {
    "reference/__init__.py": "from reference.dropin import install\n",
    "reference/dropin.py": "import sys\n",
    "reference/errors.py": "",
    "reference/recorder.py": "import numpy\n",
    "reference/numerics/__init__.py": "from reference.numerics.cast import cast\n",
    "reference/numerics/cast.py": "import math\nimport mpmath\nfrom . import formats\n",
    "reference/numerics/formats.py": "import ml_dtypes\n",
    "reference/neuroncore/core.py": "import greenlet\nfrom reference.numerics import formats\n",
    "reference/nki/__init__.py": "from reference.neuroncore import core\nimport nki.isa as nisa\n",
    "reference/nki/isa/__init__.py": "from .enums import x\nfrom .. import language\n",
    "reference/nki/isa/enums.py": "import nki.language\nfrom reference.neuroncore import core\n",
    "reference/nki/language.py": "",
    "reference/contract.py": "from reference.errors import KernelArgumentError\n",
    "reference/contracts/toy.py": "from reference.contract import Contract\nimport reference.numerics\n",
    "reference/rope.py": "from reference import numerics\n",
    "reference/toy.py": "from reference.contracts.toy import C\nfrom reference import rope, recorder\n",
    "kernels/toy.py": "import math\nimport nki.language\nimport numpy\nfrom kernels import parts\n",
    "kernels/parts.py": "import nki\n",
    "conformance/runner.py": "import pytest\nfrom reference import toy\nimport kernels.toy\nimport nki\n",
    "conformance/tests/tools/test_cli.py": "from tools import cli\n",
    "tools/cli.py": "import typer\nfrom conformance import runner\n",
}


def _plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_clean_tree_passes(tmp_path: Path) -> None:
    assert imports.check(_plant(tmp_path, CLEAN)) == []


def test_this_project_passes() -> None:
    assert [str(violation) for violation in imports.check(PROJECT)] == []


PLANTED = {
    "model-imports-machine": ("reference/toy.py", "from reference.neuroncore import core"),
    "model-imports-nki": ("reference/toy.py", "import nki.isa"),
    "model-imports-kernel": ("reference/toy.py", "import kernels.toy"),
    "part-imports-machine": ("reference/rope.py", "import reference.neuroncore.core"),
    "numerics-imports-machine": ("reference/numerics/cast.py", "from ..neuroncore import core"),
    "numerics-imports-model": ("reference/numerics/cast.py", "from .. import toy"),
    "numerics-imports-scipy": ("reference/numerics/cast.py", "import scipy.special"),
    "machine-imports-nki": ("reference/neuroncore/core.py", "from nki import isa"),
    "machine-imports-model": ("reference/neuroncore/core.py", "from reference import toy"),
    "machine-imports-contract": ("reference/neuroncore/core.py", "import reference.contracts.toy"),
    "dropin-imports-model": ("reference/nki/language.py", "import reference.toy"),
    "contract-imports-model": ("reference/contracts/toy.py", "from reference import toy"),
    "contract-imports-machine": ("reference/contract.py", "from reference.neuroncore import core"),
    "kernel-imports-model": ("kernels/toy.py", "from reference.toy import model"),
    "kernel-imports-reference": ("kernels/toy.py", "import reference"),
    "kernel-imports-numerics": ("kernels/toy.py", "import reference.numerics.formats"),
    "kernel-imports-suite": ("kernels/toy.py", "import conformance.runner"),
    "kernel-imports-torch": ("kernels/toy.py", "import torch"),
    "suite-imports-tools": ("conformance/runner.py", "from tools import cli"),
    "doorway-imports-numpy": ("reference/dropin.py", "import numpy"),
    "two-copies-of-the-dropin": ("tools/cli.py", "from reference.nki import isa"),
    "inside-a-function": ("reference/toy.py", "def f():\n    import kernels.toy"),
    "by-literal-name": ("reference/toy.py", "import importlib\nimportlib.import_module('kernels.toy')"),
}


@pytest.mark.parametrize(("path", "statement"), PLANTED.values(), ids=PLANTED.keys())
def test_planted_violation_is_reported_by_line(tmp_path: Path, path: str, statement: str) -> None:
    before = "'''A docstring.'''\n"
    root = _plant(tmp_path, CLEAN | {path: before + statement + "\n"})
    line = 2 + statement.count("\n")
    assert [(found.path, found.line) for found in imports.check(root)] == [(path, line)]


def test_file_outside_every_room_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "ROOMS", tuple(room for room in imports.ROOMS if room.name != "tools"))
    assert "tools/cli.py" in [found.path for found in imports.check(_plant(tmp_path, CLEAN))]


def test_unparsable_file_is_reported(tmp_path: Path) -> None:
    root = _plant(tmp_path, CLEAN | {"kernels/toy.py": "x = 1\ndef f(:\n"})
    assert [(found.path, found.line) for found in imports.check(root)] == [("kernels/toy.py", 2)]


@pytest.mark.parametrize(
    ("change", "code", "printed"),
    [
        ({}, 0, ""),
        ({"kernels/toy.py": "import reference.toy\n"}, 1, "kernels/toy.py:1: kernels imports models"),
    ],
    ids=["clean", "violation"],
)
def test_command_exits_by_the_result(tmp_path: Path, change: dict[str, str], code: int, printed: str) -> None:
    root = _plant(tmp_path, CLEAN | change)
    command = [sys.executable, "-m", "tools.imports", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.returncode == code
    assert done.stdout.startswith(printed)


def test_command_refuses_a_folder_that_is_no_project(tmp_path: Path) -> None:
    assert imports.main([str(tmp_path)]) == 2
