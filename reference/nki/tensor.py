"""nki.tensor: compile-time constants for nl.shared_constant, as NumPy arrays (NKI 0.1 and 0.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.cast import cast
from reference.numerics.formats import format_of


def zeros(shape: Any, dtype: Any = "float32") -> NDArray[Any]:
    """An array of zeros."""
    return np.zeros(tuple(shape), format_of(dtype).storage)


def arange(start: float, stop: float | None = None, step: float = 1, dtype: Any = "float32") -> NDArray[Any]:
    """start, start + step, ... below stop, shape (1, n)."""
    values = np.arange(start) if stop is None else np.arange(start, stop, step)
    return cast(values.reshape(1, -1), dtype)


def identity(n: int, dtype: Any = "float32") -> NDArray[Any]:
    """The n x n identity."""
    return cast(np.eye(n, dtype=np.float32), dtype)


__all__ = ["arange", "identity", "zeros"]
