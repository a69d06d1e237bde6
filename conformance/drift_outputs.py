"""How far the outputs of one golden are from those of another, element by element; any NaN equals any NaN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from conformance.drift_sides import Record
from conformance.mismatch import mismatch_report, ulp_text
from reference.numerics.metrics import compare

Array = NDArray[Any]


@dataclass(frozen=True)
class Apart:
    """One output that is not what it was.

    `max_ulp` is None where shapes or dtypes differ or one side is missing; `NAN_DISTANCE` where a NaN came or went.
    """

    name: str
    changed: int
    elements: int
    max_ulp: int | None
    #: Worst elements first, several lines.
    report: str

    def text(self) -> str:
        """In a few words."""
        if self.max_ulp is None:
            return self.report
        return f"{self.changed} of {self.elements}, up to {ulp_text(self.max_ulp)}"


def outputs_apart(old: Record, new: Record) -> tuple[Apart, ...]:
    """Every output of two records with values that differs, is new or is gone, by name."""
    sides = [{one.name: one.values for one in record.outputs} for record in (old, new)]
    found = [apart(name, sides[0].get(name), sides[1].get(name)) for name in sorted({*sides[0], *sides[1]})]
    return tuple(one for one in found if one is not None)


def apart(name: str, old: Array | None, new: Array | None) -> Apart | None:
    """How far one output is from what it was; None where it has the same bits."""
    if old is None or new is None:
        whole = sum(array.size for array in (old, new) if array is not None)
        return Apart(name, whole, whole, None, f"{name}: {'new' if old is None else 'gone'}")
    if old.shape != new.shape or old.dtype != new.dtype:
        return Apart(name, new.size, new.size, None, mismatch_report(name, new, old))
    found = compare(new, old, worst=0)
    if not found.different:
        return None
    return Apart(name, found.different, found.elements, found.max_ulp, mismatch_report(name, new, old))
