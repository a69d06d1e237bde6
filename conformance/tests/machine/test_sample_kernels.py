"""Ten kernels of ten styles run unchanged and stay within the bound of their rounding points of float64 truth.

u is the unit roundoff of the dtype a value is rounded to: 2^-24 for fp32, 2^-8 for bf16, 2^-4 for e4m3 (relative,
round to nearest). Each bound counts the roundings on the way; truth is plain NumPy in float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.randomness import Stream
from conformance.tests.machine import sample_kernels as kernels
from tools.kernel_lint import check_target

U32 = 2.0**-24
UBF = 2.0**-8
BF16 = np.dtype(ml_dtypes.bfloat16)

pytestmark = pytest.mark.sim


def _normal(name: str, *shape: int) -> NDArray[np.float32]:
    return Stream(7, "sample", name).normal(shape)


def _close(got: NDArray[Any], truth: NDArray[Any], bound: NDArray[Any] | float) -> None:
    error = np.abs(got.astype(np.float64) - truth)
    assert (error <= bound).all(), f"largest error over bound: {(error / bound).max()}"
    assert np.abs(got.astype(np.float64)).max() > 0


def test_tiled_matmul_rounds_once_per_pass() -> None:
    a, b = _normal("a", 300, 150).astype(BF16), _normal("b", 300, 700).astype(BF16)
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    # Three passes, each rounded once, and two fp32 additions of partial sums.
    bound = 5 * U32 * (np.abs(a64).T @ np.abs(b64))
    _close(kernels.tiled_matmul(a, b), a64.T @ b64, bound)


@pytest.mark.parametrize("shift", [0.0, 1000.0], ids=["centred", "shifted"])
def test_softmax_survives_a_large_constant(shift: float) -> None:
    x = (_normal("x", 128, 400) + np.float32(shift)).astype(BF16)
    x64 = x.astype(np.float64)
    weights = np.exp(x64 - x64.max(axis=1, keepdims=True))
    truth = weights / weights.sum(axis=1, keepdims=True)
    # x - max is exact here; exp, the sum, its reciprocal, the product: fp32; the result bf16.
    _close(kernels.softmax(x), truth, truth * (6 * U32 + UBF) + 2.0**-133)


def test_layernorm_over_chunks_of_odd_length() -> None:
    x, gamma, beta = _normal("x", 100, 1301), _normal("g", 1, 1301), _normal("b", 1, 1301)
    eps = 1e-5
    x64 = x.astype(np.float64)
    mean, var = x64.mean(axis=1, keepdims=True), x64.var(axis=1, keepdims=True)
    truth = (x64 - mean) / np.sqrt(var + np.float64(np.float32(eps))) * gamma + beta
    # Mean and variance carry a few roundings of values up to max|x|; then four more.
    scale = np.abs(x64).max() / np.sqrt(var) * np.abs(gamma)
    _close(kernels.layernorm(x, gamma, beta, eps), truth, U32 * (16 * scale + 4 * np.abs(truth) + 4 * np.abs(beta)))


def test_rope_turns_pairs_of_halves() -> None:
    x, angle = _normal("x", 64, 128), _normal("angle", 64, 64).astype(np.float64)
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    first, second = x[:, :64].astype(np.float64), x[:, 64:].astype(np.float64)
    truth = np.hstack([first * cos - second * sin, second * cos + first * sin])
    size = np.hstack([np.abs(first * cos) + np.abs(second * sin), np.abs(second * cos) + np.abs(first * sin)])
    _close(kernels.rope(x, cos, sin), truth, 2 * U32 * size + U32 * np.abs(truth))


def test_top16_names_values_and_places_with_duplicates() -> None:
    x = np.rint(_normal("x", 32, 200) * 4).astype(np.float32)
    values, places = kernels.top16(x)
    expected = -np.sort(-x, axis=1)[:, :16]
    assert (values == expected).all()
    assert (np.take_along_axis(x, places.astype(np.int64), axis=1) == expected).all()
    # Within a group of eight, equal values name different places, lowest first.
    for row in places[:, :8]:
        assert len(set(row.tolist())) == 8


def test_gather_scatter_skips_negative_rows_and_leaves_others_zero() -> None:
    table = _normal("table", 40, 24)
    rows_in = np.array([[3], [-1], [39], [0]], np.int32)
    rows_out = np.array([[10], [11], [0], [39]], np.int32)
    got = kernels.gather_scale_scatter(table, rows_in, rows_out, 2.0)
    truth = np.zeros_like(table)
    truth[10], truth[0], truth[39] = 2 * table[3], 2 * table[39], 2 * table[0]
    assert (got == truth).all()


def test_linear_recurrence_keeps_an_fp32_state() -> None:
    decay = (0.5 + 0.25 * _normal("decay", 16, 60)).astype(np.float32).clip(-0.99, 0.99)
    x, initial = _normal("x", 16, 60), _normal("s", 16, 1)
    state, size = initial[:, 0].astype(np.float64), np.abs(initial[:, 0].astype(np.float64))
    truth, bound, error = np.empty(x.shape), np.empty(x.shape), np.zeros(16)
    for t in range(60):
        state = decay[:, t].astype(np.float64) * state + x[:, t]
        size = np.abs(decay[:, t]) * size + np.abs(x[:, t])
        error = np.abs(decay[:, t]) * error + 2 * U32 * size
        truth[:, t], bound[:, t] = state, error * 1.01
    _close(kernels.linear_recurrence(decay, x, initial), truth, bound)


def test_mx_matmul_stays_within_the_block_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn3")
    lhs, rhs = _normal("lhs", 64, 4 * 32).astype(BF16), _normal("rhs", 64, 4 * 48).astype(BF16)
    a = lhs.astype(np.float64).reshape(64, 32, 4).transpose(0, 2, 1).reshape(256, 32)
    b = rhs.astype(np.float64).reshape(64, 48, 4).transpose(0, 2, 1).reshape(256, 48)
    truth = a.T @ b
    # An element of a block of largest magnitude m is off by at most u*|x|, or by half a step of the smallest
    # subnormal, 2^-10, of the scaled block, whose largest value lies in [128, 256).
    u, floor = 2.0**-4, 2.0**-10 / 128

    def spread(x: NDArray[Any]) -> NDArray[Any]:
        return np.abs(x) * u + floor * np.abs(x).max()

    bound = spread(a).T @ np.abs(b) + np.abs(a).T @ spread(b) + spread(a).T @ spread(b)
    _close(kernels.mx_matmul(lhs, rhs), truth, bound + 2 * U32 * (np.abs(a).T @ np.abs(b)))


def test_all_reduce_of_two_cores_gives_both_the_same_sum() -> None:
    x = _normal("x", 2, 96, 50)
    out, same = kernels.lnc_all_reduce[2](x)
    total = x[0] + x[1]
    assert (out == total).all()
    assert (same == out[::-1]).all()


@pytest.mark.parametrize("count", [0, 1, 7, 20])
def test_a_dynamic_loop_runs_as_often_as_the_device_says(count: int) -> None:
    table = np.rint(_normal("table", 20, 33) * 8).astype(np.float32)
    got = kernels.dynamic_row_sum(table, np.array([[count]], np.int32))
    assert (got[0] == table[:count].sum(axis=0)).all()


def test_the_samples_would_compile() -> None:
    findings, count = check_target(str(Path(kernels.__file__)))
    assert findings == []
    assert count == 10
