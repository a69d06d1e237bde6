"""Exact lanes of the whole block: X and the weights of QKV are such that queries, keys and values of the exact lanes
of attention come out of the projection, the norm and the rotation to the bit.

Each column of W_qkv picks one column of X, so X holds what each head shall be, and more columns that bring its mean
square to a power of four. Cosines and sines turn by quarters. So every stage moves or scales bits, every order of
every sum gives the same ones, and a device must give those of the model.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.cases import _attention_tkg_inputs as attention
from conformance.cases.output_projection_tkg import build as build_projection
from conformance.lanes import LaneError, require_exact_dot
from conformance.randomness import Stream
from conformance.whole_squares import whole_squares
from reference.attention_block_tkg_layout import hidden_tile
from reference.attention_tkg import truth as attention_truth
from reference.contracts.attention_block_tkg import Config, cache_shape
from reference.numerics.cast import cast, to_float32

Array = NDArray[Any]
Arrays = dict[str, Array]

#: Root of the mean square of X in units of its grid, and the factor by which gamma undoes it, one sign and one half
#: of it drawn per column.
_ROOT = 64
#: Columns of X at least that no head picks: they bring the mean square to where it has an exact root.
_SPARE = 64
#: Largest whole numbers that bfloat16 holds one and all.
_MOST = 255
#: What new keys and values are multiplied by before they are FP8.
_KV_SCALES = {"k_scale": 2.0, "v_scale": 0.5}


def fits(config: Config, lane: str) -> bool:
    """Whether the lane can be built for the block with its attention."""
    c = config
    plain = c.quantization_type_qkv == c.quantization_type_out == "NONE"
    between = c.rmsnorm_QK_pre_rope_enabled or c.rmsnorm_QK_post_rope_enabled
    if c.skip_attention or between or not plain or not attention.fits(c.attention, lane):
        return False
    whole = c.X_hidden_dim_actual in (None, c.H) and c.H & (c.H - 1) == 0
    return _power_of_two(c.scale) and c.I + _SPARE <= c.H and (whole or not c.rmsnorm_X_enabled)


def build(config: Config, lane: str, seed: int) -> Arrays:
    """All tensors of a call but where new rows go, in storage dtypes. LaneError where exactness has no room."""
    c = config
    stream = Stream(seed, "attention_block_tkg", "whole", lane)
    given = attention.build(c.attention, lane, seed)
    found: Arrays = {
        "K_cache": given["k_prior"].reshape(cache_shape(c, c.K_cache_transposed)),
        "V_cache": given["v_prior"].reshape(cache_shape(c, False)),
        "attention_mask": given["mask"],
    }
    found |= {name: given[name] for name in ("sink", "active_blocks_table") if name in given}
    found |= _tables(config, stream.child("tables")) | _kv_scales(config)
    found |= _projection(config, stream.child("projection"), _heads(config, given, found))
    if c.W_out is not None:
        found |= _output(config, lane, seed, given)
    return found


def _power_of_two(value: float) -> bool:
    return value > 0 and math.frexp(value)[0] == 0.5


# ---- between projection and attention ------------------------------------------------------------------------------


def _tables(config: Config, stream: Stream) -> Arrays:
    """Turns by quarters, another for every channel and token: one of cosine and sine is 0, the other 1 or -1."""
    if not config.rope:
        return {}
    turns = stream.integers(0, 4, (config.d // 2, config.B, config.S))
    waves = {"cos": np.array([1, 0, -1, 0], np.float32), "sin": np.array([0, 1, 0, -1], np.float32)}
    return {name: cast(wave[turns], str(getattr(config, name))) for name, wave in waves.items()}


def _kv_scales(config: Config) -> Arrays:
    found = {}
    for name, value in _KV_SCALES.items():
        if (dtype := getattr(config, name)) is not None:
            found[name] = cast(np.full((getattr(config, f"{name}_rows"), 1), value, np.float32), dtype)
    return found


def _heads(config: Config, given: Arrays, found: Arrays) -> Array:
    """What the projection must give, float32 [T, I]: queries, keys and values before all that follows it."""
    c = config
    q = to_float32(given["q"]).reshape(c.d, c.B, c.q, c.S) / np.float32(c.scale)
    k = to_float32(given["k_active"]).reshape(c.d, c.B, 1, c.S)
    v = to_float32(given["v_active"])[:, 0].transpose(2, 0, 1)[:, :, None]
    if c.quantized_kv:
        k, v = k / np.float32(_KV_SCALES["k_scale"]), v / np.float32(_KV_SCALES["v_scale"])
    if c.rope:
        q, k = (_turned_back(x, found, c.rope_contiguous_layout) for x in (q, k))
    heads = np.concatenate((q, k, v), axis=2)
    return np.ascontiguousarray(heads.transpose(1, 3, 2, 0).reshape(c.tokens, c.I))


def _turned_back(x: Array, found: Arrays, contiguous: bool) -> Array:
    """What a turn by (cos, sin) brings to x [d, B, heads, S]."""
    cos, sin = (to_float32(found[name])[:, :, None] for name in ("cos", "sin"))
    half = len(x) // 2
    first, second = (x[:half], x[half:]) if contiguous else (x[0::2], x[1::2])
    pair = first * cos + second * sin, second * cos - first * sin
    return np.concatenate(pair) if contiguous else np.stack(pair, axis=1).reshape(x.shape)


# ---- projection of X ---------------------------------------------------------------------------------------------


def _projection(config: Config, stream: Stream, wanted: Array) -> Arrays:
    """X, its norm's gamma, W_qkv and the bias whose product is `wanted`."""
    c = config
    found: Arrays = {}
    if c.bias_qkv is not None:
        bias = stream.child("bias").integers(-3, 4, (1, c.I)).astype(np.float32)
        found["bias_qkv"], wanted = cast(bias, c.bias_qkv), wanted - bias
    picked = stream.child("picked").permutation(c.H)[: c.I]
    weight = np.zeros((c.H, c.I), np.float32)
    weight[picked, np.arange(c.I)] = 1
    found["W_qkv"] = cast(weight, c.W_qkv)
    rows, unit = np.zeros((c.tokens, c.H), np.float32), np.float32(1)
    rows[:, picked] = wanted
    spare = np.setdiff1d(np.arange(c.H), picked)
    if c.rmsnorm_X_enabled:
        gamma = stream.child("gamma").choice((64.0, 32.0, -64.0, -32.0), (1, c.H))
        found["rmsnorm_X_gamma"] = cast(gamma, str(c.gamma))
        rows[:, picked] *= _ROOT / gamma[0, picked]
        unit = _unit(c.eps)
        for t in range(c.tokens):
            rows[t, spare] = _rest(stream.child(f"rest {t}"), c.H, rows[t, picked], spare.size)
    else:
        rows[:, spare] = stream.child("rest").integers(-_MOST, _MOST + 1, (c.tokens, spare.size))
    hidden = _exactly(rows * unit, c.dtype).reshape(c.B, c.S, c.H)
    found["X"] = hidden_tile(config, hidden) if c.X_in_sb else hidden
    return found


def _unit(eps: float) -> np.float32:
    """The power of two by which X is multiplied, so that eps vanishes beside its mean square."""
    unit = np.float32(1)
    while np.square(_ROOT * unit) + np.float32(eps) != np.square(_ROOT * unit):
        unit *= 2
    return unit


def _rest(stream: Stream, columns: int, known: Array, count: int) -> NDArray[np.int64]:
    """Whole numbers that bring the sum of squares of a token to that of its root."""
    squares = columns * _ROOT**2 - int(np.square(known.astype(np.int64)).sum())
    if columns * _ROOT**2 > 2**24:
        raise LaneError(f"lane exact: float32 does not hold the squares of {columns} columns")
    return whole_squares(stream, count, squares, squares % 2, _MOST)


def _exactly(values: Array, dtype: str) -> Array:
    stored: Array = cast(values.astype(np.float32), dtype)
    if (to_float32(stored) != values).any():
        raise LaneError(f"lane exact: X needs more bits or a larger range than {dtype} has")
    return stored


# ---- output projection -------------------------------------------------------------------------------------------


def _output(config: Config, lane: str, seed: int, given: Arrays) -> Arrays:
    """Weight and bias of the output projection, whose sums over the heads must be exact as well."""
    c = config
    built = build_projection(c.projection, lane, seed)
    found = {"W_out": built["weight"]} | ({"bias_out": built["bias"]} if "bias" in built else {})
    out = attention_truth(c.attention, given)["out"]
    attended = out[0] if c.attention_in_sb and out.ndim == 3 else out
    values = to_float32(cast(np.nan_to_num(attended), c.dtype)).reshape(c.d, c.B, c.q, c.S)
    rows = values.transpose(1, 3, 2, 0).reshape(c.tokens, -1)
    require_exact_dot(rows, to_float32(found["W_out"]).T)
    return found
