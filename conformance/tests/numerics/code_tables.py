"""The values of all codes of the narrow formats, from the bit fields alone: the witness of the cast tests.

Nothing here uses ml_dtypes or the project: a code is a sign, an exponent field and a fraction field, and the
rules for the topmost codes stand in `NARROW` per format, as the numerics sheet (facts 1.1) prints them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Narrow:
    """Bit fields of one narrow format, and which of its magnitudes are not numbers."""

    name: str
    exponent_bits: int
    fraction_bits: int
    #: First magnitude code that is infinity, or None; and the magnitude codes that are NaN.
    infinity: int | None
    nan: range
    signed: bool = True

    @property
    def bits(self) -> int:
        return self.signed + self.exponent_bits + self.fraction_bits

    @property
    def bias(self) -> int:
        return 2 ** (self.exponent_bits - 1) - 1

    def magnitudes(self) -> range:
        return range(2 ** (self.exponent_bits + self.fraction_bits))

    def finite(self) -> range:
        """Magnitude codes that are numbers; they are the lowest ones in every format."""
        stops = [len(self.magnitudes()), *([] if self.infinity is None else [self.infinity]), *self.nan[:1]]
        return range(min(stops))

    def exact(self, magnitude: int) -> Fraction:
        """Value of a magnitude by the IEEE rule, also past the last finite one (where overflow begins)."""
        exponent, fraction = divmod(magnitude, 2**self.fraction_bits)
        if not self.signed:
            return Fraction(2) ** (exponent - self.bias)
        unit = Fraction(2) ** (max(exponent, 1) - self.bias - self.fraction_bits)
        return unit * (fraction + (2**self.fraction_bits if exponent else 0))

    def value(self, code: int) -> float:
        """float64 value of a whole code, sign included."""
        sign, magnitude = divmod(code, len(self.magnitudes()))
        if magnitude in self.nan:
            return math.nan
        size = math.inf if magnitude == self.infinity else float(self.exact(magnitude))
        return -size if sign else size


NARROW = {
    row.name: row
    for row in (
        Narrow("bfloat16", 8, 7, 0x7F80, range(0x7F81, 0x8000)),
        Narrow("float16", 5, 10, 0x7C00, range(0x7C01, 0x8000)),
        Narrow("float8_e4m3", 4, 3, 0x78, range(0x79, 0x80)),
        Narrow("float8_e4m3fn", 4, 3, None, range(0x7F, 0x80)),
        Narrow("float8_e5m2", 5, 2, 0x7C, range(0x7D, 0x80)),
        Narrow("float4_e2m1fn", 2, 1, None, range(0)),
        Narrow("float8_e8m0fnu", 8, 0, None, range(0xFF, 0x100), signed=False),
    )
}
