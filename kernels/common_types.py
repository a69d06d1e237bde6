"""Enumerations that callers pass to the kernels."""

from enum import Enum


class QuantizationType(Enum):
    """How weights are quantised.

    STATIC: fp8, scales per tensor for weight and input; ROW: fp8, one scale per output channel; MX: fp8 with one
    power-of-two scale per block of 32.
    """

    NONE = 0
    STATIC = 1
    ROW = 2
    MX = 3


class QKVOutputLayout(Enum):
    """BSD: [B, S, I]. NBSd: [heads, B, S, d]. NBdS is named by the API and supported by no mode."""

    BSD = 0
    NBSd = 1
    NBdS = 2


class NormType(Enum):
    """Normalisation in front of the projection; SKIP_GAMMA is RMS without weights."""

    NO_NORM = 0
    RMS_NORM = 1
    LAYER_NORM = 2
    RMS_NORM_SKIP_GAMMA = 3
