"""The compile check: each refused construct is caught, and its accepted twin passes.

Reproduce one: write the body into a file under `@nki.jit def k(x, y):` and run `nki-oracle lint FILE`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.cli import run
from tools.kernel_lint import check_target, check_targets
from tools.lint import OWN_KERNELS

HEAD = """import nki
import nki.isa as nisa
import nki.language as nl
from nki.isa import tensor_copy
import numpy as np

"""

#: (what, body that must be caught, word of the finding, body that must pass)
TWINS = [
    ("raise", "raise ValueError('x')", "raise", "assert x.shape[0] == 1, 'x'"),
    ("try", "try:\n    pass\nexcept ValueError:\n    pass", "try", "if True:\n    pass"),
    ("lambda", "f = lambda a: a", "lambda", "f = nl.add"),
    ("list comprehension", "a = [i for i in range(3)]", "list comprehension", "a = [1, 2]\na.append(3)"),
    ("dict comprehension", "a = {str(i): i for i in range(3)}", "dict comprehension", "a = {'b': 1}"),
    ("generator", "a = sum(i for i in range(3))", "generator", "a = (1, 2)"),
    ("set display", "a = {1, 2}", "set display", "a = (1, 2)"),
    ("walrus", "if (a := 1) == 1:\n    pass", "walrus", "a = 1\nif a == 1:\n    pass"),
    ("inner import", "import math", "import inside", "a = np.float32"),
    ("global", "global g", "global", "g = 1"),
    ("del", "a = 1\ndel a", "del", "a = 1"),
    ("match", "match y:\n    case 1:\n        pass", "match", "if y == 1:\n    pass"),
    ("in", "a = y in (1, 2)", "in:", "a = y == 1 or y == 2"),
    ("not in", "a = y not in (1, 2)", "not in", "a = y != 1 and y != 2"),
    ("is", "a = y is None", "is:", "a = y == None"),
    ("is not", "a = y is not None", "is not", "a = y != None"),
    ("matmul operator", "a = x @ y", "@", "a = 3 ** 2"),
    ("augmented matmul", "x @= y", "@", "y += 1"),
    ("for else", "for i in range(3):\n    pass\nelse:\n    pass", "else of a loop", "for i in range(3):\n    pass"),
    ("while else", "while y:\n    pass\nelse:\n    pass", "else of a loop", "while y:\n    break"),
    ("tuple loop target", "for a, b in ((1, 2),):\n    pass", "tuple target", "for a in (1, 2):\n    pass"),
    ("with as", "with nl.no_reorder() as r:\n    pass", "with", "with nl.no_reorder():\n    pass"),
    ("with argument", "with open('f'):\n    pass", "with", "with nl.no_reorder():\n    pass"),
    ("inner function", "def f():\n    pass", "function inside", "f = nl.add"),
    (
        "loop body called too",
        "def f(i):\n    pass\nnl.fori_loop(0, 2, f)\nf(0)",
        "function inside",
        "def f(i):\n    nisa.tensor_copy(x, y)\nnl.fori_loop(0, 2, f)",
    ),
    (
        "loop body of two parameters",
        "def f(i, j):\n    pass\nnl.while_loop(y, f)",
        "function inside",
        "def f(i):\n    return i\nnl.while_loop(y, f)",
    ),
    (
        "function handed elsewhere",
        "def f(i):\n    pass\nk2(0, 2, f)",
        "function inside",
        "def f(i):\n    pass\nnl.fori_loop(0, 2, body_fun=f)",
    ),
    (
        "raise in a loop body",
        "def f(i):\n    raise ValueError\nnl.fori_loop(0, 2, f)",
        "raise",
        "def f(i):\n    assert x.shape == y.shape\nnl.fori_loop(0, 2, f)",
    ),
    (
        "star in a loop body",
        "def f(i, *rest):\n    pass\nnl.fori_loop(0, 2, f)",
        "signature",
        "def f(i):\n    pass\nnl.fori_loop(0, 2, f)",
    ),
    (
        "dynamic range",
        "for i in nl.dynamic_range(0, y):\n    pass",
        "removed in NKI 0.7",
        "for i in nl.affine_range(2):\n    pass",
    ),
    ("format spec", "a = f'{y:.2f}'", "format specifier", "a = f'{y}'"),
    ("format conversion", "a = f'{y!r}'", "format specifier", "a = f'{y}'"),
    ("subscript tuple target", "a = [0, 0]\na[0], a[1] = 1, 2", "tuple target", "a, b = 1, 2"),
    ("mapping call", "a = nl.ndarray(**y)", "**mapping", "a = nl.ndarray((1, 1), nl.float32)"),
    ("unknown instruction", "nisa.tensor_add(x, y)", "not in the API", "nisa.tensor_copy(x, y)"),
    ("unknown keyword", "nisa.tensor_copy(dst=x, src=y, mask=1)", "mask", "nisa.tensor_copy(dst=x, src=y)"),
    ("missing operand", "nisa.nc_matmul(x, y)", "missing", "nisa.nc_matmul(x, y, y)"),
    ("too many operands", "nisa.reciprocal(x, y, 'n', 4)", "too many", "nisa.reciprocal(x, y)"),
    ("imported by name", "tensor_copy(x, y, source=1)", "source", "tensor_copy(x, y, engine=nisa.vector_engine)"),
    ("unknown enum member", "a = nisa.engine.pool", "not in the API", "a = nisa.engine.gpsimd"),
    ("unknown dtype", "a = nl.float64", "not in the API", "a = nl.bfloat16"),
    ("tensor method", "a = x.ap(offset=1)", "NkiTensor.ap", "a = x.ap([[1, 1], [1, 1]], offset=1)"),
]


def _file(folder: Path, body: str, prefix: str = "", signature: str = "x, y") -> Path:
    lines = "\n".join("    " + line for line in body.splitlines())
    path = folder / "kernel.py"
    path.write_text(f"{HEAD}{prefix}@nki.jit\ndef k({signature}):\n{lines}\n    return x\n")
    return path


@pytest.mark.parametrize(("bad", "word", "good"), [row[1:] for row in TWINS], ids=[row[0] for row in TWINS])
def test_a_refused_construct_is_caught_and_its_twin_passes(
    tmp_path: Path, bad: str, word: str, good: str
) -> None:
    findings, kernels = check_target(str(_file(tmp_path, bad)))
    assert kernels == 1
    assert findings, f"{bad!r} was not caught"
    assert word in str(findings[0])
    assert findings[0].line >= 9, "the finding must point into the kernel's body"
    (tmp_path / "good").mkdir()
    assert check_target(str(_file(tmp_path / "good", good)))[0] == []


@pytest.mark.parametrize("signature", ["x, *y", "x, *, y=1", "x, **y", "x, /, y"])
def test_a_signature_outside_the_subset_is_caught(tmp_path: Path, signature: str) -> None:
    findings, _ = check_target(str(_file(tmp_path, "pass", signature=signature)))
    assert findings
    assert "signature" in findings[0].construct


@pytest.mark.parametrize(
    ("definition", "word"),
    [
        ("class C:\n    a: int = 1\n", "without base"),
        ("class C(dict):\n    a: int = 1\n", "base class"),
        ("class C(nl.NKIObject, metaclass=type):\n    a: int = 1\n", "keywords"),
        ("class C(nl.NKIObject):\n    for i in range(2):\n        pass\n", "class body"),
        ("class C(nl.NKIObject):\n    def m(self):\n        raise ValueError\n", "raise"),
        ("@np.vectorize\ndef C():\n    pass\n", "decorator"),
    ],
)
def test_what_a_kernel_reaches_is_checked_too(tmp_path: Path, definition: str, word: str) -> None:
    findings, _ = check_target(str(_file(tmp_path, "a = C()", prefix=definition + "\n\n")))
    assert findings
    assert word in str(findings[0])


def test_a_class_of_the_subset_passes(tmp_path: Path) -> None:
    good = '@dataclass\nclass C(nl.NKIObject):\n    """Doc."""\n    a: int = 1\n\n\n'
    assert check_target(str(_file(tmp_path, "a = C()", prefix="from dataclasses import dataclass\n" + good)))[0] == []


def test_host_code_beside_a_kernel_may_be_any_python(tmp_path: Path) -> None:
    host = "def host():\n    return [i for i in range(3)]\n\n\n"
    assert check_target(str(_file(tmp_path, "pass", prefix=host)))[0] == []
    findings, _ = check_target(str(_file(tmp_path, "a = host()", prefix=host)))
    assert findings[0].construct == "list comprehension"


def test_a_helper_in_another_module_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lint_helper_for_test.py").write_text("def f(x):\n    return x is None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    findings, _ = check_target(str(_file(tmp_path, "f(x)", prefix="from lint_helper_for_test import f\n")))
    assert [f.construct for f in findings] == ["is"]
    assert findings[0].path.endswith("lint_helper_for_test.py")
    assert findings[0].line == 2


def test_all_kernels_of_the_project_would_compile() -> None:
    findings, kernels = check_targets([str(OWN_KERNELS)])
    assert findings == []
    assert kernels >= 2


def test_the_command_exits_1_on_findings_0_without_2_on_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = _file(tmp_path, "a = y is None")
    assert run(["lint", str(bad)]) == 1
    assert f"{bad.name}:9 is: use ==" in capsys.readouterr().out
    assert run(["lint", str(_file(tmp_path, "a = y == None")) + ":k"]) == 0
    assert run(["lint", str(tmp_path / "nothing.py")]) == 2
    assert run(["lint", f"{bad}:other"]) == 2
