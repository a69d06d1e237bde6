"""Small golden sets for the tests of the store."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from conformance.golden_manifest import GoldenPoint
from conformance.golden_store import Golden

PROFILE = {"generation": "gen3", "matmul_order": "exact", "nki": [0, 4, 0]}


def golden(case: str, fill: int, *, kernel: str = "toy", **outputs: NDArray[Any]) -> Golden:
    """One golden; without outputs it holds a bfloat16 matrix and an fp8 vector made from `fill`."""
    return Golden(
        kernel=kernel,
        case=case,
        config={"rows": 3, "eps": 1e-06, "layout": "BSD", "shape": [2, fill]},
        lane="exact",
        seed=7,
        profile=PROFILE,
        profile_digest="0a1b2c3d4e5f",
        outputs=outputs or default_outputs(fill),
        points=(GoldenPoint("psum", "00ff"), GoldenPoint("out", f"{fill:04x}")),
    )


def default_outputs(fill: int) -> dict[str, NDArray[Any]]:
    """Two outputs whose bits depend on `fill`."""
    return {
        "out": np.full((3, 4), fill, ml_dtypes.bfloat16),
        "k_cache": np.full(5, fill, ml_dtypes.float8_e4m3),
    }


def golden_set(fill: int, cases: int = 3) -> list[Golden]:
    """A set of goldens; sets with another `fill` share their first file, like most of a real change."""
    return [golden("same", 1), *(golden(f"case-{index}", fill + index) for index in range(1, cases))]
