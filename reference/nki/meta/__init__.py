"""nki.meta: where NKI 0.1 kept what is computed while compiling."""

from .. import tensor

__all__ = ["tensor"]
