"""The grades an output can have, best first."""

from __future__ import annotations

import enum


class Grade(enum.Enum):
    """How close an output is to the reference; the value is a short description."""

    A = "same bits"
    B = "legal variant: inside the envelope of the open questions"
    C = "inside the derived error bound"
    D = "within the published tolerance"
    F = "none of these"

    def meets(self, required: Grade) -> bool:
        """Whether this grade is as good as `required` or better."""
        return self.name <= required.name

    def __str__(self) -> str:
        return self.name
