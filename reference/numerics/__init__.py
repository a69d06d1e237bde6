"""What a single number does: formats, casts, functions, sums, block formats, metrics, the profile."""

from reference.numerics.profile import (
    CHAIN,
    DEFAULT,
    QUESTIONS,
    NumericsProfile,
    Question,
    question_of,
    variants,
)

__all__ = [
    "CHAIN",
    "DEFAULT",
    "QUESTIONS",
    "NumericsProfile",
    "Question",
    "question_of",
    "variants",
]
