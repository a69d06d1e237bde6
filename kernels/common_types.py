"""Enumerations that callers pass to the kernels."""

from enum import Enum


class QuantizationType(Enum):
    """How weights are quantised. STATIC: per-tensor scales for weight and input; ROW: one scale per output channel."""

    NONE = 0
    STATIC = 1
    ROW = 2
