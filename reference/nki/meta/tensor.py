"""nki.meta.tensor: the constants of nki.tensor under their first name."""

from ..tensor import arange, identity, zeros

__all__ = ["arange", "identity", "zeros"]
