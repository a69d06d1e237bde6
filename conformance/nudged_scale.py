"""Scales for exact lanes: reciprocals of 1 + 2^-12.

What is divided by such a scale falls on no tie of any format, from which one unit of an inexact reciprocal (open
question V6) could push it: an odd number times 4097 has at least 12 bits more than formats of up to 12 bits keep.
Rounded to such a format in between, it is again what it was, and may lie on a tie of an 8-bit format; without that
rounding it lies just above. So a rounding dropped or added before the cast decides bits.
"""

from __future__ import annotations

import numpy as np

#: What sums of quantised products are multiplied by in the end: no power of two, which would pass a rounding
#: before it unseen, and of few bits, so that the product with a sum of up to 20 bits is exact.
TAKEN_BACK = np.float32(1.375)
#: The factor, and its reciprocal rounded to float32; reciprocal and product of that are exact again.
NUDGE = np.float32(1 + 2.0**-12)
SCALE = np.float32(1) / NUDGE
