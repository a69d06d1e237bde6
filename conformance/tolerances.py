"""Grade D: the tolerances in public use, one row each, and the comparator that goes with them.

The comparator is the public one with all its weaknesses: `rtol` is relative to the largest finite value of
the golden tensor, not to the element. Two known traps are closed here and not there: sentinels are taken out
before the maximum is formed, and infinities must stand at equal places with equal signs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tolerance:
    """Pass where |out - golden| <= atol + rtol * max|golden|, for a share `pass_rate` of the elements.

    `cosine` is the least cosine of the angle between out and golden, where the row asks for one. `kernel`,
    `quantization` and `output` are shell patterns; the first row that fits decides.
    """

    kernel: str
    quantization: str
    output: str
    rtol: float
    atol: float
    source: str
    pass_rate: float = 1.0
    cosine: float | None = None


#: Labels of `Subject.quantization` are the second column. Sources are test files of the public kernel library
#: at the snapshot of facts/numerics.md, section 13.2; figures are facts, the rows are ours.
TOLERANCES = (
    Tolerance("qkv", "cte*+fp8-cache", "*cache*", 1e-1, 1e-5, "test_qkv_cte: fp8 caches"),
    Tolerance("qkv", "cte-static*", "*", 5e-2, 2e-2, "test_qkv_cte: static fp8 weights and input"),
    Tolerance("qkv", "cte-mx*", "*", 5e-2, 1e-2, "test_qkv_cte: mx"),
    Tolerance("qkv", "cte*", "*", 2e-2, 1e-5, "test_qkv_cte: default"),
    Tolerance("qkv", "tkg", "*", 2e-2, 1e-5, "test_qkv_tkg: not quantised"),
    Tolerance("qkv", "tkg-*", "*", 4e-2, 1e-5, "test_qkv_tkg: quantised"),
    Tolerance("attention_tkg", "none", "*", 1e-2, 1e-5, "test_attention_tkg: bf16"),
    Tolerance("attention_tkg", "fp8-kv", "*", 3e-2, 3e-2, "test_attention_tkg: fp8 K and V"),
    Tolerance("attention_segmented_cte", "none", "*", 1e-2, 1e-2, "test_attention_segmented_cte"),
    Tolerance("attention_segmented_cte", "fp8-kv", "*", 3e-2, 3e-2, "none published; that of attention_tkg"),
    Tolerance("output_projection_tkg", "none", "*", 2e-2, 1e-5, "test_output_proj_tkg: not quantised"),
    Tolerance("output_projection_tkg", "*", "*", 5e-2, 1e-5, "test_output_proj_tkg: quantised"),
    Tolerance(
        "attention_block_tkg", "none", "*", 1.5e-2, 1e-5, "test_attention_block_tkg: bf16", cosine=0.99,
    ),
    Tolerance(
        "attention_block_tkg", "*fp8-kv*", "out", 7e-2, 16.0,
        "test_attention_block_tkg: quantised cache; 16 is one e4m3 step in [128, 240]",
        pass_rate=0.99, cosine=0.99,
    ),
    Tolerance(
        "attention_block_tkg", "*", "*", 7e-2, 16.0,
        "test_attention_block_tkg: quantised; 16 is one e4m3 step in [128, 240]", cosine=0.99,
    ),
)  # fmt: skip


def tolerance_for(
    kernel: str, quantization: str, output: str, rows: tuple[Tolerance, ...] = TOLERANCES
) -> Tolerance | None:
    """The first row that fits, or None: then grade D cannot be had."""
    asked = (kernel, quantization, output)
    for row in rows:
        if all(map(fnmatchcase, asked, (row.kernel, row.quantization, row.output))):
            return row
    return None


def tolerance_faults(got: NDArray[Any], golden: NDArray[Any], row: Tolerance) -> list[str]:
    """Why `got` (float values) does not pass against `golden`, [] where it does. Empty arrays pass.

    NaN passes where golden has NaN; infinities where golden has the same one.
    """
    out, want = got.astype(np.float64).ravel(), golden.astype(np.float64).ravel()
    finite = np.isfinite(want)
    strange = np.where(finite, ~np.isfinite(out), ~_same_special(out, want))
    if strange.any():
        return [f"{int(strange.sum())} NaN or Inf at places or of signs other than golden's"]
    return _finite_faults(out[finite], want[finite], row)


def _same_special(out: NDArray[Any], want: NDArray[Any]) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = (out == want) | (np.isnan(out) & np.isnan(want))
    return same


def _finite_faults(out: NDArray[Any], want: NDArray[Any], row: Tolerance) -> list[str]:
    if not want.size:
        return []
    error = np.abs(out - want)
    allowed = row.atol + row.rtol * float(np.abs(want).max())
    faults = []
    passed = float(np.mean(error <= allowed))
    if passed < row.pass_rate:
        faults.append(
            f"{passed:.2%} of elements within {allowed:.3g} (rtol {row.rtol:g}, atol {row.atol:g}), "
            f"{row.pass_rate:.0%} asked; worst {float(error.max()):.3g}"
        )
    if row.cosine is not None and (cosine := _cosine(out, want)) < row.cosine:
        faults.append(f"cosine {cosine:.4f}, at least {row.cosine:g} asked")
    return faults


def _cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Cosine of the angle; 1 where both are zero, 0 where one is. Products of elements, no BLAS."""
    norms = [math.sqrt(math.fsum(np.square(side).tolist())) for side in (a, b)]
    if not all(norms):
        return 1.0 if norms[0] == norms[1] else 0.0
    return math.fsum((a / norms[0] * (b / norms[1])).tolist())
