"""Which grade every output must reach: one table to read and to change in a review, a reason per row."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from conformance.grades import Grade


@dataclass(frozen=True)
class Requirement:
    """The least grade where all patterns fit; shell patterns, '*' for any. The first row that fits decides.

    `backend` is what produced the output: sim, nki-sim, trn2, trn3, or 'model' for the model judged against
    truth. A grade of F asks for nothing: the grade is reported, and only crashes fail.
    """

    backend: str
    grade: Grade
    reason: str
    kernel: str = "*"
    output: str = "*"
    dtype: str = "*"
    quantization: str = "*"
    lane: str = "*"


REQUIRED = (
    Requirement("sim", Grade.A, "model and kernel follow one contract in one arithmetic"),
    Requirement("nki-sim", Grade.A, "every legal order gives the same bits", lane="exact*"),
    Requirement("trn*", Grade.A, "every legal order gives the same bits", lane="exact*"),
    Requirement("nki-sim", Grade.C, "open questions of the profile and the host's libm decide last bits"),
    Requirement("trn*", Grade.C, "open questions of the profile decide last bits"),
    Requirement(
        "model",
        Grade.F,
        "a mean of squares less a squared mean keeps nothing of this spread, and what is left may overflow",
        kernel="qkv",
        dtype="float16",
        quantization="tkg*",
        lane="near_constant",
    ),
    # 8-bit edges, overflow and subnormals are no exception: clamps are part of truth, and a bound is infinite where
    # a value may leave its format, and half a step of the subnormals below it.
    Requirement("model", Grade.C, "truth does not round; every rounding of the model has its share of the bound"),
)


def requirement(
    kernel: str,
    output: str,
    dtype: str,
    quantization: str,
    lane: str,
    backend: str,
    rows: tuple[Requirement, ...] = REQUIRED,
) -> Requirement:
    """The first row that fits; KeyError where none does, so that no output goes without a requirement."""
    asked = (backend, kernel, output, dtype, quantization, lane)
    for row in rows:
        patterns = (row.backend, row.kernel, row.output, row.dtype, row.quantization, row.lane)
        if all(map(fnmatchcase, asked, patterns)):
            return row
    raise KeyError(
        f"no required grade for {kernel}.{output} ({dtype}, {quantization}, lane {lane}) on {backend}"
    )
