"""nki.compiler.ncc_driver."""

from .absent import Absent


class CompileOptions(Absent):
    """Options of the compiler driver."""


__all__ = ["CompileOptions"]
