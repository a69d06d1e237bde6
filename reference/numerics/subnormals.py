"""Subnormal operands and results of the vector, scalar and GpSimd engines, as the profile says (U6)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.profile import NumericsProfile

Array = NDArray[Any]

_SMALLEST_NORMAL = np.float32(2.0**-126)


def read_operand(x: Array, profile: NumericsProfile) -> Array:
    """float32 as an engine reads it: subnormals are zeros of the same sign if `subnormals_alu` says daz."""
    return _flushed(x) if profile.subnormals_alu in ("daz", "daz_ftz") else x


def write_result(y: Array, profile: NumericsProfile) -> Array:
    """float32 as an engine hands it on: subnormals are zeros of the same sign if `subnormals_alu` says ftz."""
    return _flushed(y) if profile.subnormals_alu in ("ftz", "daz_ftz") else y


def _flushed(x: Array) -> Array:
    return np.asarray(np.where(np.abs(x) < _SMALLEST_NORMAL, np.copysign(np.float32(0), x), x))
