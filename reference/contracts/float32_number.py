"""Which Python numbers a kernel can take as scalars: engines hold them in float32."""

from __future__ import annotations

from typing import Any

#: Half a step beyond the largest float32: what is below rounds to a finite number. A float holds it exactly.
_OVERFLOW = float(2**128 - 2**103)


def is_float32_number(value: Any) -> bool:
    """Whether a value is an int or a float, no bool, and finite once rounded to float32; whatever its size."""
    # Python compares an int of any size with a float exactly; math.isfinite raises where float(value) overflows.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _OVERFLOW
