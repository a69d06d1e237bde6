"""Lane exact_rounding of qkv: every legal kernel gives the same bits, and yet every rounding point has bits to decide.

Operands are whole numbers, times powers of two, of as many bits as their formats hold: sums and products are exact
in float32 and do not fit the narrower formats they are rounded to. What cannot be exact falls on no tie:

norms        the elements of a token have a mean square whose root is irrational, and so that no product with the root
             comes near a tie of the tokens' format: an inexact root (open questions S1, S2) moves no bit there, an eps
             or a sum that is not right does. Tokens of float32, which has no room for that, get an exact root.
reciprocals  those of conformance.nudged_scale, whose last bit decides nothing
residuals    of float32 cancel in the orders that are legal (open question D1), and lose bits in any other
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance import lanes
from conformance.lanes import LaneError
from conformance.nudged_scale import NUDGE, SCALE, TAKEN_BACK
from conformance.randomness import Stream
from conformance.whole_squares import shuffled, whole_squares
from reference.contracts.qkv_config import FP8_MAX, Config, mode
from reference.numerics.cast import cast, to_float32
from reference.numerics.formats import format_of
from reference.numerics.ulp import ulp_size

Array = NDArray[Any]
Arrays = dict[str, Array]

#: Largest whole number of a token that is normed, and where it is centred before: then some need one bit more.
_MOST, _MOST_CENTRED = 127, 255
#: Mean square of such tokens where the root must be exact.
_SQUARE, _SQUARE_CENTRED = 4096, 16384
#: Where the search for one without ties begins, as a share of that: the root is far from a power of two.
_SHARE = 0.7
#: Mean squares tried before a format is taken for too wide to avoid its ties.
_TRIED = 200
#: Tokens of other numbers, beside permutations of them.
_KINDS = 8
#: Relative error of a root and of the products with it that legal kernels may have, twice over.
_NOISE = 2.0**-20
#: Most columns that one bn_stats instruction takes: each piece has the mean and the variance of the whole.
_PIECE = 512
#: Mean of tokens whose norm subtracts one: no whole number, so that the difference has one bit more.
_MEAN = 0.5
#: Largest term of a residual sum without a norm: the sum of two has a bit more than bfloat16 holds.
_MOST_OF_TERMS = 255
#: What float32 residuals carry and take back: beside it odd numbers are lost.
_BALLAST = np.float32(2.0**24)


def fits(config: Config) -> bool:
    """Whether the lane can be built; `build` refuses a few more, that are too large for exact sums."""
    c = config
    if c.quantization == "MX" or c.is_input_swizzled:
        return False
    if c.norm == "NO_NORM":
        return True
    # The mean divides by a power of two, and over all columns.
    return c.norm_divisor & (c.norm_divisor - 1) == 0 and c.norm_divisor == c.H


def build(config: Config, stream: Stream) -> Arrays:
    """The tensors of a call but its caches and slots, in storage dtypes. LaneError where exactness has no room."""
    c = config
    gamma = _gamma(config, stream.child("gamma"))
    hidden = _hidden(config, stream.child("hidden"))
    found = _terms(config, stream.child("terms"), hidden)
    if c.bias is not None:
        # A float32 bias has more bits than the result it is added to.
        bias = _integers(stream.child("bias"), (1, c.I), 2047 if c.bias == "float32" else 127)
        found["bias"] = cast(bias, c.bias)
    if c.gamma is not None:
        found["gamma_norm_weights"] = cast(gamma, c.gamma)
    if c.beta is not None:
        found["layer_norm_bias"] = cast(_integers(stream.child("beta"), (1, c.H), 63) / np.float32(32), c.beta)
    found |= _scales(config) | _rope(config, stream.child("rope"))
    return found | {"fused_qkv_weights": _weights(config, stream.child("weights"), _operand(config, hidden, found))}


def _weights(config: Config, stream: Stream, operand: Array) -> Array:
    """Whole numbers from -4 to 4, or -1, 0 and 1, most of them 0, where sums would need too many bits."""
    weights = to_float32(lanes.fill("exact", stream, (config.H, config.I), config.weight_dtype))
    some = stream.integers(0, 16, weights.shape) == 0
    few = np.sign(weights) * some
    fewer = few * (stream.integers(0, 8, (config.H, 1)) == 0)
    for kind in (weights, np.sign(weights), few, fewer):
        try:
            lanes.require_exact_dot(operand, kind.T)
        except LaneError as error:
            refused = error
        else:
            return np.asarray(cast(kind, config.weight_dtype))
    raise refused


def cache_scale(config: Config) -> np.float32:
    """Scale of keys and values: they come out around a third of what e4m3 holds, some beyond its end."""
    spread = 1.0 if config.norm != "NO_NORM" else _most(config) / math.sqrt(3)
    # Weights of lane exact have the deviation 2.6; a static scale makes no difference, it is taken back.
    spread *= 2.6 * math.sqrt(config.H)
    return np.float32(SCALE * 2.0 ** round(math.log2(spread / 80)))


# ---- tokens ------------------------------------------------------------------------------------------------------


def _tile(config: Config) -> str:
    """dtype of the tokens before and after a norm."""
    return "bfloat16" if config.dtype == "float32" and mode(config) == "CTE" else config.dtype


def _centred(config: Config) -> bool:
    return config.norm == "LAYER_NORM"


def _most(config: Config) -> int:
    """Largest magnitude of an input without a norm: sums stay inside float16, and reach the clamp of STATIC."""
    if config.dtype == "float16":
        return 63
    if config.quantization == "STATIC":
        return 255
    # Context encoding rounds a float32 input to bfloat16.
    return 1023 if config.dtype == "float32" and mode(config) == "CTE" and config.H <= 1024 else 127


def _hidden(config: Config, stream: Stream) -> Array:
    """Hidden states [T, H] before they are rounded to the tiles' dtype, as float32."""
    c = config
    if c.norm == "NO_NORM":
        return _integers(stream, (c.tokens, c.H), _MOST_OF_TERMS if c.fused_residual_add else _most(config))
    mean, most = (_MEAN, _MOST_CENTRED) if _centred(c) else (0.0, _MOST)
    square = mean_square(config)
    if c.H * (square + 1) > 2**lanes.FLOAT32_BITS:
        raise LaneError(f"lane exact_rounding: float32 does not hold the squares of {c.H} columns")
    piece = min(c.H, _PIECE) if _centred(c) else c.H
    sums = round(piece * (square + mean**2)), round(piece * mean)
    rows = []
    for kind in range(min(_KINDS, c.tokens)):
        row = whole_squares(stream.child(f"row {kind}"), piece, *sums, most)
        count = len(range(kind, c.tokens, _KINDS)) * (c.H // piece)
        rows.append(shuffled(stream.child(f"order {kind}"), row, count, signs=mean == 0).reshape(-1, c.H))
    return np.concatenate(rows).astype(np.float32) * unit(config)


def mean_square(config: Config) -> int:
    """Mean square, or variance, of a token in units of its grid. LaneError where no root avoids all ties."""
    c = config
    first = _SQUARE_CENTRED if _centred(c) and c.H <= 1024 else _SQUARE
    if _tile(c) == "float32":
        return first
    start = int(first * _SHARE)
    for square in range(start, start - _TRIED, -1):
        if _avoids_ties(config, square):
            return square
    raise LaneError(f"lane exact_rounding: no root keeps products off the ties of {_tile(c)}")


def _avoids_ties(config: Config, square: int) -> bool:
    """Whether no number times gamma times the root of this mean square comes near a tie of the tokens' format."""
    fmt = format_of(_tile(config))
    values = np.arange(1, (_MOST_CENTRED if _centred(config) else _MOST) + 1) - (_MEAN if _centred(config) else 0.0)
    products = _before_the_root(config, values) * (float(unit(config)) * root(config, square))
    steps = products / ulp_size(products, fmt)
    from_tie = np.abs(steps - np.floor(steps) - 0.5)
    return bool((from_tie > _NOISE * np.abs(steps)).all())


def _before_the_root(config: Config, values: Array) -> Array:
    """What a norm multiplies by the root: decode has multiplied by gamma, LayerNorm rounds in between."""
    if mode(config) == "CTE":
        return values
    tile = _tile(config)
    if _centred(config):
        values = to_float32(cast(values.astype(np.float32), tile)).astype(np.float64)
    products = values[:, None] * _GAMMAS
    if _centred(config):
        products = to_float32(cast(products.astype(np.float32), tile)).astype(np.float64)
    return products


def root(config: Config, square: int) -> float:
    """1 / sqrt(mean square + eps) of a token, float64."""
    eps = np.asarray(config.norm_eps, np.float32)
    if mode(config) == "CTE" and config.quantization != "STATIC":
        eps = to_float32(cast(eps, _tile(config)))
    return 1.0 / math.sqrt(float(np.float32(square) * unit(config) ** 2 + np.float32(eps[()])))


def unit(config: Config) -> np.float32:
    """The power of two that elements of a token are multiples of.

    Mean squares lie around 1, where eps shows; where the root must be exact, so high that eps vanishes beside them.
    """
    if config.norm == "NO_NORM":
        return np.float32(1)
    high = _SQUARE_CENTRED if _centred(config) and config.H <= 1024 else _SQUARE
    found = np.float32(1 / math.sqrt(high))
    while _tile(config) == "float32" and high * found**2 + np.float32(config.norm_eps) != high * found**2:
        found *= 2
    return np.float32(found)


#: What gamma may be, in both signs: more bits than one product with a token's element leaves unrounded.
_GAMMAS = np.array([17, 19, 23, 29], np.float64) / 16


def _gamma(config: Config, stream: Stream) -> Array:
    return stream.choice([*_GAMMAS, *-_GAMMAS], (1, config.H))


def _terms(config: Config, stream: Stream, hidden: Array) -> Arrays:
    """The input and the residuals. Where a norm follows their sum is `hidden`, else it has bits to round off."""
    c = config
    found: Arrays = {}
    shape = (c.B, c.S, c.H)
    if c.fused_residual_add and c.dtype == "float32":
        found, hidden = _with_ballast(config, stream, hidden)
    elif c.fused_residual_add:
        for name in ("mlp_prev", "attention_prev"):
            part = _integers(stream.child(name), shape, 63 if c.norm != "NO_NORM" else _MOST_OF_TERMS) * unit(config)
            found[name] = cast(part, c.dtype)
            hidden = hidden - part.reshape(hidden.shape) if c.norm != "NO_NORM" else hidden
    return {"input": cast(hidden.reshape(shape), c.dtype)} | found


def _with_ballast(config: Config, stream: Stream, hidden: Array) -> tuple[Arrays, Array]:
    """Residuals of float32, and the input: the second term of the legal order takes back what the first one carries."""
    second, third = ("mlp_prev", "attention_prev") if mode(config) == "CTE" else ("attention_prev", "mlp_prev")
    step = unit(config)
    # Not negative: with the ballast taken back first, nothing may go beyond it.
    part = 2 * np.abs(_integers(stream.child(third), hidden.shape, 31)) + np.mod(hidden / step, 2)
    shape = (config.B, config.S, config.H)
    found = {third: (part * step).reshape(shape), second: np.full(shape, -_BALLAST * step, np.float32)}
    return found, hidden - part * step + _BALLAST * step


def _integers(stream: Stream, shape: tuple[int, ...], most: int) -> Array:
    return stream.integers(-most, most + 1, shape).astype(np.float32)


# ---- scales and waves --------------------------------------------------------------------------------------------


def _scales(config: Config) -> Arrays:
    c = config
    if c.quantization == "ROW":
        row = TAKEN_BACK * np.float32(2.0) ** (np.arange(c.I) % 3 - 1).astype(np.float32)
        return {"qkv_w_scale": np.repeat(row[None], c.scale_rows, axis=0)}
    if c.quantization != "STATIC":
        return {}
    # Normed tokens are of order one: into the range of fp8, the largest of them beyond its end.
    own = SCALE * np.float32(1.0 if c.norm == "NO_NORM" else 2.0**-6)
    weights = NUDGE * np.array([[0.5, 1.0, 2.0]], np.float32)
    if not c.fused_rope:
        # With RoPE sums are scaled as they are, and of more bits than a fused addition of the bias leaves exact.
        weights = weights * TAKEN_BACK
    return {
        "qkv_w_scale": np.repeat(weights, c.scale_rows, axis=0),
        "qkv_in_scale": np.full((c.scale_rows, 1), own, np.float32),
    }


def _rope(config: Config, stream: Stream) -> Arrays:
    """Cosines and sines of as many bits as their tiles hold; a float32 table has four more to be rounded off."""
    if not config.fused_rope:
        return {}
    bits = 11 if config.rope_dtype == "float32" else 7
    shape = (config.B, config.S, config.d_head or 0)
    return {
        name: cast(_integers(stream.child(name), shape, 2**bits - 1) / np.float32(2**bits), str(config.rope_dtype))
        for name in ("cos_cache", "sin_cache")
    }


# ---- the claim ---------------------------------------------------------------------------------------------------


def _operand(config: Config, hidden: Array, found: Arrays) -> Array:
    """What the sums multiply the weights with, [T, H], each step exact or rounded once."""
    c, tile = config, _tile(config)
    value = to_float32(cast(hidden, tile))
    if c.fused_residual_add and c.norm == "NO_NORM":
        terms = [to_float32(found[name]).reshape(hidden.shape) for name in ("mlp_prev", "attention_prev")]
        whole = to_float32(found["input"]).reshape(hidden.shape).astype(np.float64) + terms[0] + terms[1]
        value = to_float32(cast(whole.astype(np.float32), tile))
    if c.norm != "NO_NORM":
        value = _normed(config, value, found)
    if c.quantization == "STATIC":
        scaled = value / found["qkv_in_scale"][0, 0]
        value = to_float32(cast(np.clip(scaled, -FP8_MAX, FP8_MAX), "float8_e4m3"))
    return value


def _normed(config: Config, value: Array, found: Arrays) -> Array:
    tile, gamma = _tile(config), np.ones((1, config.H))
    if "gamma_norm_weights" in found:
        gamma = to_float32(found["gamma_norm_weights"]).astype(np.float64)

    def rounded(x: Array) -> Array:
        return to_float32(cast(x, tile)).astype(np.float64)

    exact = value.astype(np.float64) - (_MEAN * float(unit(config)) if _centred(config) else 0.0)
    factor = root(config, mean_square(config))
    if mode(config) == "CTE":
        exact = rounded(exact * factor) * gamma
    elif _centred(config):
        exact = rounded(rounded(rounded(exact) * gamma) * factor)
    else:
        exact = exact * gamma * factor
    if "layer_norm_bias" in found:
        exact = (rounded(exact) if mode(config) != "CTE" else exact) + to_float32(found["layer_norm_bias"])
    return rounded(exact).astype(np.float32)
