"""Values with their worst case alone: what the bound of the fused block carries from stage to stage."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reference.error_terms import FUNCTION, TINY, UNIT
from reference.numerics.formats import format_of

Array = NDArray[Any]


class Known(NamedTuple):
    """A value in float64 and what a right kernel's may differ from it."""

    value: Array
    error: Array


def rounded(known: Known, dtype: str, operations: int = 1) -> Known:
    """After some float32 operations whose intermediate values are no larger, and a cast to `dtype`."""
    fmt = format_of(dtype)
    relative = 2.0 ** -(fmt.mantissa_bits + 1) + operations * UNIT
    size = np.abs(known.value) + known.error
    return Known(known.value, known.error + relative * size + fmt.min_subnormal / 2 + operations * TINY)


def inverse_root_error(mean: Array, error: Array, eps: float) -> Array:
    """Error of 1 / sqrt(mean + eps), where the kernel takes a negative mean as 0."""
    right = 1 / np.sqrt(mean + eps)
    low = np.maximum(mean - error, 0) + eps * (1 - UNIT)
    return np.asarray((1 / np.sqrt(low) - right) + 2 * FUNCTION / np.sqrt(low))
