"""Findings over a kernel file, or one kernel of it, and all that it reaches."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import reference  # noqa: F401  (makes `nki` importable where no official one is installed)
from tools.errors import BadInput
from tools.kernel_lint.reach import Module, Reached, kernels_of, load, reached_from
from tools.kernel_lint.signatures import check_calls
from tools.kernel_lint.subset import Construct, check_class, check_function


@dataclass(frozen=True, order=True)
class Finding:
    """One construct, call or name that would not compile."""

    path: str
    line: int
    construct: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.construct}: {self.remedy}"


def check_targets(targets: Iterable[str]) -> tuple[list[Finding], int]:
    """(findings in order of place, number of kernels checked) over files, folders and FILE:KERNEL targets."""
    findings: set[Finding] = set()
    count = 0
    for target in targets:
        for one in _files(target):
            found, kernels = check_target(one)
            findings.update(found)
            count += kernels
    return sorted(findings), count


def _files(target: str) -> list[str]:
    path = Path(target)
    if path.is_dir():
        return [str(file) for file in sorted(path.rglob("*.py"))]
    return [target]


def check_target(target: str) -> tuple[list[Finding], int]:
    """(findings, number of kernels) of `FILE` or `FILE:KERNEL`. BadInput where there is no such file or kernel."""
    name, _, kernel = target.partition(":")
    path = Path(name).resolve()
    if not path.is_file():
        raise BadInput(f"lint: no file '{name}'")
    try:
        module = load(path)
    except SyntaxError as error:
        return [Finding(_shown(path), error.lineno or 1, f"cannot be parsed ({error.msg})", "fix the syntax")], 0
    names = kernels_of(module)
    if kernel and kernel not in module.definitions:
        raise BadInput(f"lint: {name} has no function '{kernel}'; its kernels are {', '.join(names) or 'none'}")
    roots = [kernel] if kernel else names or list(module.definitions)
    findings = [finding for item in reached_from(module, roots) for finding in _findings(item)]
    return findings, len([kernel] if kernel else names)


def _findings(item: Reached) -> list[Finding]:
    node = item.node
    constructs = check_function(node) if isinstance(node, ast.FunctionDef) else check_class(node)
    return [_finding(item.module, one) for one in (*constructs, *check_calls(item.module, node))]


def _finding(module: Module, construct: Construct) -> Finding:
    return Finding(_shown(module.path), construct.line, construct.construct, construct.remedy)


def _shown(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
