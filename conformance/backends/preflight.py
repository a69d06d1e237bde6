"""A launch whose outcome is known on every conforming machine, run before any case is believed.

Every element of x lies a quarter of the way from 1 to the next bfloat16. To nearest it becomes 1; rounded at random
one in four would become the other, and among so many elements that cannot be missed. Each core writes its own half,
so a runtime that grouped other cores than it was asked to leaves one out.
"""

from __future__ import annotations

import importlib

import numpy as np

from conformance.backends.errors import SettingsError
from conformance.subject import Arrays, Call

ROWS, COLUMNS = 128, 512
#: bfloat16 keeps 7 bits of the fraction.
_STEP = 2.0**-7


def preflight_call(lnc: int) -> Call:
    """The launch on `lnc` cores."""
    # Not at the top: a kernel imports nki, which the backends themselves do not need.
    kernel = importlib.import_module("conformance.backends.preflight_kernel").preflight
    x = np.full((ROWS, COLUMNS), 1 + _STEP / 4, np.float32)
    return Call(kernel, {"x": x}, ("y",), lnc)


def verdict(outputs: Arrays) -> str:
    """'' where every element is 1, else what is wrong. SettingsError where some were rounded up: at random, then."""
    y = np.asarray(outputs["y"], np.float32)
    if y.shape != (ROWS, COLUMNS):
        return f"the preflight kernel returned shape {list(y.shape)}, expected {[ROWS, COLUMNS]}"
    up, right = int((y == 1 + _STEP).sum()), int((y == 1).sum())
    if up:
        raise SettingsError(
            f"stochastic rounding is on: of {y.size} equal elements {up} were rounded up and {right} down; "
            "nothing that this runtime computes can be held against a model"
        )
    return "" if right == y.size else f"the preflight kernel gave {y.size - right} wrong elements of {y.size}"
