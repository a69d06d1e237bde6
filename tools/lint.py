"""`nki-oracle lint`: would these kernels compile?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tools.kernel_lint import check_targets

#: The folder of the project's own kernels.
OWN_KERNELS = Path(__file__).parent.parent / "kernels"


def lint(
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders, or FILE:KERNEL; the project's kernels when none is given."),
    ] = None,
) -> None:
    """Hold kernels to the NKI language subset and the documented signatures; exit 1 and list what would not compile."""
    findings, kernels = check_targets(targets or [str(OWN_KERNELS)])
    for finding in findings:
        print(finding)
    print(f"{kernels} kernels checked, {len(findings)} findings")
    if findings:
        raise typer.Exit(1)
