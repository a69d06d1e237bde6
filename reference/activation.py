"""The functions of the scalar engine, as models use them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.elementary import activate
from reference.numerics.operand import zero_subnormals
from reference.numerics.profile import DEFAULT, NumericsProfile

Float32 = NDArray[np.float32]


def activation(name: str, x: Any, profile: NumericsProfile = DEFAULT) -> Float32:
    """Function `name` of float32 `x`, with subnormal arguments and results as the engine treats them (U6).

    NaN, infinity and overflow as `numerics.elementary` says of the function; S2, S3 and S6 are the profile's.
    """
    if profile.subnormals_alu in ("daz", "daz_ftz"):
        x = zero_subnormals(np.asarray(x, np.float32))
    value: Float32 = activate(name, x, profile)
    return zero_subnormals(value) if profile.subnormals_alu in ("ftz", "daz_ftz") else value
