"""Lane exact_rounding of qkv: every sum is exact in any order, and yet every rounding point has bits to decide.

Operands are whole numbers, times powers of two, of as many bits as their formats hold: sums and products are exact
in float32 and do not fit the narrower formats they are rounded to. What no power of two could make exact:

norms        the elements of a token are chosen so that their mean square is a power of four, together with eps
             or beside an eps that vanishes
reciprocals  those of conformance.nudged_scale, whose last bit decides nothing
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance import lanes
from conformance.lanes import LaneError
from conformance.nudged_scale import NUDGE, SCALE
from conformance.randomness import Stream
from conformance.whole_squares import shuffled, whole_squares
from reference.contracts.qkv_config import FP8_MAX, Config, mode
from reference.numerics.cast import cast, to_float32

Array = NDArray[Any]
Arrays = dict[str, Array]

#: Root of the mean square of a token that is normed.
_ROOT = 64
#: Most columns that one bn_stats instruction takes: each piece has the mean and the variance of the whole.
_PIECE = 512
#: Mean of tokens whose norm subtracts one: no whole number, so that the difference has one bit more.
_MEAN = 0.5


def fits(config: Config) -> bool:
    """Whether the lane can be built; `build` refuses a few more, whose eps leaves no exact root."""
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
    hidden = _hidden(config, stream.child("hidden"))
    found = _terms(config, stream.child("terms"), hidden)
    found["fused_qkv_weights"] = lanes.fill("exact", stream.child("weights"), (c.H, c.I), c.weight_dtype)
    if c.bias is not None:
        # A float32 bias has more bits than the result it is added to.
        most = 2047 if c.bias == "float32" else 127
        found["bias"] = _whole(stream.child("bias"), (1, c.I), most, c.bias)
    if c.gamma is not None:
        odd = 2 * stream.child("gamma").integers(8, 16, (1, c.H)) + 1
        signed = odd * stream.child("sign").signs((1, c.H)).astype(np.int64)
        found["gamma_norm_weights"] = cast((signed / 16).astype(np.float32), c.gamma)
    if c.beta is not None:
        found["layer_norm_bias"] = cast(_integers(stream.child("beta"), (1, c.H), 63) / np.float32(32), c.beta)
    found |= _scales(config) | _rope(config, stream.child("rope"))
    operand = _operand(config, found)
    lanes.require_exact_dot(operand, to_float32(found["fused_qkv_weights"]).T)
    return found


def cache_scale(config: Config) -> np.float32:
    """Scale of keys and values: they come out around a quarter of what e4m3 holds, some beyond its end."""
    if config.norm == "NO_NORM":
        spread = _most(config) / math.sqrt(3)
    else:
        spread = 1.0
    # Weights of lane exact have the deviation 2.6; a static scale makes no difference, it is taken back.
    spread *= 2.6 * math.sqrt(config.H)
    return np.float32(SCALE * 2.0 ** round(math.log2(spread / 80)))


# ---- tokens ------------------------------------------------------------------------------------------------------


def _most(config: Config) -> int:
    """Largest magnitude of an input without a norm: sums stay inside float16, and reach the clamp of STATIC."""
    if config.dtype == "float16":
        return 63
    if config.quantization == "STATIC":
        return 255
    # Context encoding rounds a float32 input to bfloat16.
    return 1023 if config.dtype == "float32" and mode(config) == "CTE" and config.H <= 1024 else 127


def _hidden(config: Config, stream: Stream) -> Array:
    """Hidden states [T, H] before they are rounded to the tiles' dtype, whole numbers as float32."""
    c = config
    if c.norm == "NO_NORM":
        return _integers(stream, (c.tokens, c.H), _most(config))
    mean = _MEAN if c.norm == "LAYER_NORM" else 0.0
    piece = min(c.H, _PIECE) if c.norm == "LAYER_NORM" else c.H
    squares = round(piece * (_ROOT**2 - _whole_eps(config) + mean**2))
    row = whole_squares(stream.child("row"), piece, squares, round(piece * mean), 127)
    rows = shuffled(stream.child("order"), row, c.tokens * (c.H // piece), signs=mean == 0)
    return rows.reshape(c.tokens, c.H).astype(np.float32) * _unit(config)


def _eps(config: Config) -> np.float32:
    """As the norm adds it: in most of context encoding from a tile of the tokens' dtype."""
    c = config
    eps = np.asarray(c.norm_eps, np.float32)
    if mode(c) == "CTE" and c.quantization != "STATIC":
        eps = to_float32(cast(eps, "bfloat16" if c.dtype == "float32" else c.dtype))
    return np.float32(eps[()])


def _whole_eps(config: Config) -> int:
    """eps where whole numbers make up for it, else 0."""
    eps = float(_eps(config))
    return int(eps) if eps == int(eps) and eps < _ROOT**2 / 2 else 0


def _unit(config: Config) -> np.float32:
    """The power of two that tokens of a norm are multiples of, so large that an eps that is not made up for vanishes."""
    unit, eps = np.float32(1), _eps(config)
    if config.norm == "NO_NORM" or _whole_eps(config):
        return unit
    while np.square(_ROOT * unit) + eps != np.square(_ROOT * unit):
        unit *= 2
    return unit


def _terms(config: Config, stream: Stream, hidden: Array) -> Arrays:
    """The input and the residuals. Where a norm follows their sum is `hidden`, else it has bits to round off."""
    c = config
    found, shape = {}, (c.B, c.S, c.H)
    if c.fused_residual_add:
        for name in ("mlp_prev", "attention_prev"):
            most = 63 if c.norm != "NO_NORM" else _most(config)
            part = _integers(stream.child(name), shape, most) * _unit(config)
            found[name] = cast(part, c.dtype)
            hidden = hidden - part.reshape(hidden.shape) if c.norm != "NO_NORM" else hidden
    return {"input": cast(hidden.reshape(shape), c.dtype)} | found


def _integers(stream: Stream, shape: tuple[int, ...], most: int) -> Array:
    return stream.integers(-most, most + 1, shape).astype(np.float32)


def _whole(stream: Stream, shape: tuple[int, ...], most: int, dtype: str) -> Array:
    stored: Array = cast(_integers(stream, shape, most), dtype)
    return stored


# ---- scales and waves --------------------------------------------------------------------------------------------


def _scales(config: Config) -> Arrays:
    c = config
    if c.quantization == "ROW":
        row = np.float32(2.0) ** (np.arange(c.I) % 3 - 1).astype(np.float32)
        return {"qkv_w_scale": np.repeat(row[None], c.scale_rows, axis=0)}
    if c.quantization != "STATIC":
        return {}
    # Normed tokens are of order one: into the range of fp8, the largest of them beyond its end.
    own = SCALE * np.float32(1.0 if c.norm == "NO_NORM" else 2.0**-6)
    weights = NUDGE * np.array([[0.5, 1.0, 2.0]], np.float32)
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


def _operand(config: Config, found: Arrays) -> Array:
    """What the sums multiply the weights with, [T, H], by plain arithmetic: each step is exact or rounds once."""
    c = config
    tile = "bfloat16" if c.dtype == "float32" and mode(c) == "CTE" else c.dtype
    terms = [to_float32(found[name]) for name in ("input", "mlp_prev", "attention_prev") if name in found]
    value = to_float32(cast(sum(terms[1:], terms[0]).reshape(c.tokens, c.H), tile))
    if c.norm != "NO_NORM":
        value = value - np.float32(_MEAN) * _unit(config) if c.norm == "LAYER_NORM" else value
        gamma = to_float32(found["gamma_norm_weights"]) if "gamma_norm_weights" in found else np.float32(1)
        value = to_float32(cast(value * gamma / (_ROOT * _unit(config)), tile))
        if "layer_norm_bias" in found:
            value = to_float32(cast(value + to_float32(found["layer_norm_bias"]), tile))
    if c.quantization == "STATIC":
        scaled = value / found["qkv_in_scale"][0, 0]
        value = to_float32(cast(np.clip(scaled, -FP8_MAX, FP8_MAX), "float8_e4m3"))
    return value
