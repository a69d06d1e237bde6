"""scaled_add with a model that rounds twice on the way to y, and once on another way to total."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from conformance.subject import Arrays, Case, Subject
from conformance.tests.suite import scaled_add
from reference.contract import RoundingPoint
from reference.numerics.cast import to_float32
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.recorder import NO_RECORD, Recorder
from reference.rounding import round_to

POINTS = (
    RoundingPoint("product", "see the subject", "sbuf", "[rows, cols]", (), "R(a * scale)"),
    RoundingPoint(
        "sum", "see the subject", "sbuf", "[rows, cols]", ("r",), "R(product + b); r = 0: left, r = 1: right"
    ),
    RoundingPoint("total_sum", "bfloat16", "sbuf", "[rows, cols]", (), "R_bf16(total + a * scale)"),
)


def subject(product: str, result: str) -> Subject:
    """The toy whose product is rounded to `product`, and each half of y to `result`."""

    def model(config: Any, inputs: Arrays, profile: NumericsProfile = DEFAULT, record: Recorder = NO_RECORD) -> Arrays:
        exact = to_float32(inputs["a"]) * np.float32(config.scale)
        rounded = to_float32(round_to("product", exact, product, profile))
        total = rounded + to_float32(inputs["b"])
        half = config.cols // 2
        parts = (total[:, :half], total[:, half:])
        sums = [round_to("sum", part, result, profile, (r,)) for r, part in enumerate(parts)]
        return {
            "y": np.concatenate(sums, axis=1),
            "total": to_float32(round_to("total_sum", inputs["total"] + exact, "bfloat16", profile)),
        }

    return dataclasses.replace(
        scaled_add.SUBJECT, model=model, contract=dataclasses.replace(scaled_add.CONTRACT, points=POINTS)
    )


CASE = Case("large", scaled_add.Config(rows=64, cols=64))
