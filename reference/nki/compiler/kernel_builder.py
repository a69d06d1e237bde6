"""nki.compiler.kernel_builder."""

from __future__ import annotations

from typing import Any

from .absent import refuse


def compile_kernel(*_: Any, **__: Any) -> Any:
    """Raises NoCompiler."""
    refuse("compile_kernel")


__all__ = ["compile_kernel"]
