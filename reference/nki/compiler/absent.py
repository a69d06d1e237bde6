"""What the names of the compiler do here: say that there is none."""

from __future__ import annotations

from typing import Any, NoReturn


class NoCompiler(RuntimeError):
    """The simulator was asked to compile."""


def refuse(name: str) -> NoReturn:
    """Raise NoCompiler."""
    raise NoCompiler(f"{name}: this package simulates; the compiler is part of the official nki package")


class Absent:
    """A class of the compiler: it can be imported and named in annotations, not used."""

    def __init__(self, *_: Any, **__: Any) -> None:
        refuse(type(self).__name__)
