"""nki.framework.kernel: the class that nki.jit returns."""

from ..kernel import Kernel

__all__ = ["Kernel"]
