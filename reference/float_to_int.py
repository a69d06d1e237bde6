"""Floor and ceiling of float32 as int32, by the steps of the helper kernels.

The engine's cast only rounds to a neighbour; a comparison then tells whether it went up, and one is taken
off. The result does not depend on how the cast rounds, as long as it gives a neighbouring integer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.alu import BINARY
from reference.numerics.cast import cast, to_float32
from reference.numerics.profile import DEFAULT, NumericsProfile

Int32 = NDArray[np.int32]


def floor_to_int32(src: Any, profile: NumericsProfile = DEFAULT) -> Int32:
    """Largest integer not above float32 `src`, int32 of the same shape.

    -0.0 gives 0. 2^31 and more, infinity included, give 2147483647; below -2^31, -infinity included,
    -2147483648. NaN gives the profile's `nan_to_int`. A negative subnormal gives -1, or 0 where the engine
    reads subnormals as zero (U6).
    """
    x = np.asarray(src, np.float32)
    near = cast(x, "int32", profile)
    one_less = cast(BINARY["subtract"](to_float32(near, "int32"), np.float32(1), profile), "int32", profile)
    went_up = BINARY["greater"](to_float32(near, "int32"), x, profile)
    stayed = BINARY["logical_xor"](went_up, np.float32(1), profile)
    low = _product(near, stayed, profile)
    high = _product(one_less, went_up, profile)
    # One of the two is 0: this integer addition cannot overflow.
    return np.asarray(high + low, np.int32)


def ceil_to_int32(src: Any, profile: NumericsProfile = DEFAULT) -> Int32:
    """Smallest integer not below float32 `src`, int32: minus the floor of minus `src`.

    Saturates as `floor_to_int32`: +infinity gives 2147483647, -infinity -2147483648; -0.5 gives 0.
    """
    negated = BINARY["multiply"](np.asarray(src, np.float32), np.float32(-1), profile)
    return _product(floor_to_int32(negated, profile), np.float32(-1), profile)


def _product(x: Int32, factor: Any, profile: NumericsProfile) -> Int32:
    """int32 times float32, through float32 and back: exact where `x` fits 24 bits or is a float32."""
    product = BINARY["multiply"](to_float32(x, "int32"), factor, profile)
    return np.asarray(cast(product, "int32", profile))
