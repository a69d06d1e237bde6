"""nki.framework: the class behind nki.jit."""

from . import kernel

__all__ = ["kernel"]
