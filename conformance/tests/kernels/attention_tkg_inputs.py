"""Inputs of attention_tkg for the tests of its model: normal data, every tensor that a config asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.contracts.attention_tkg import Config, refusal, tensors
from reference.numerics.cast import cast
from reference.numerics.formats import format_of

Array = NDArray[Any]
Inputs = dict[str, Array]

FLAT = {"bs": 2, "q_head": 2, "s_active": 3, "curr_sprior": 512, "full_sprior": 640, "d_head": 32}
BLOCK = {"block_len": 16, "strided_mm1": False, "tp_k_prior": True}
ROPE = {"fuse_rope": True, "qk_in_sb": False, "k_out": True, "d_head": 64}
FP8 = {"kv_dtype": "float8_e4m3", "active_dtype": "float8_e4m3"}


def config_of(**changes: Any) -> Config:
    """A legal small config: flat cache, bfloat16, LNC2 sharded over the sequence, unless changed."""
    config = Config(**(FLAT | changes))
    assert (found := refusal(config)) is None, found
    return config


def dtype_changes(dtype: str) -> dict[str, str]:
    """The fields that give q, caches and new tokens one dtype."""
    return {"dtype": dtype, "kv_dtype": dtype, "active_dtype": dtype}


def stored(values: Any, dtype: str) -> Array:
    return cast(np.asarray(values, np.float32), dtype)


def build(config: Config, seed: int = 0) -> Inputs:
    """Normal keys, values and sinks; queries scaled by d^-1/2; a mask that drops a fifth of the keys."""
    draw = np.random.default_rng(seed)
    inputs = {}
    for name, tensor in tensors(config).items():
        if name in SPECIAL:
            inputs[name] = stored_or_int(SPECIAL[name](config, draw, tensor.shape), tensor.dtype)
        else:
            inputs[name] = stored(draw.standard_normal(tensor.shape), tensor.dtype)
    return inputs


def stored_or_int(values: Array, dtype: str) -> Array:
    return values.astype(np.uint32) if dtype == "uint32" else stored(values, dtype)


def _query(config: Config, draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    scale = 1.0 if config.fuse_rope else config.d_head**-0.5
    return draw.standard_normal(shape) * scale


def _mask(config: Config, draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    mask = (draw.random(shape) < 0.8).astype(np.float32)
    if not config.use_pos_id:
        return mask
    order = np.arange(config.s_active)
    return np.broadcast_to((order[:, None] <= order)[:, None, None], shape).astype(np.float32)


def _positions(config: Config, draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    first = draw.integers(1, config.curr_sprior - config.s_active + 1, (config.bs, 1))
    return first + np.arange(config.s_active)


def _frequencies(config: Config, draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return 10000.0 ** (-np.arange(shape[0]) / shape[0])[:, None]


def _table(config: Config, draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return draw.permutation(config.blocks)[: shape[0] * shape[1]].reshape(shape)


SPECIAL = {
    "q": _query,
    "mask": _mask,
    "rope_pos_ids": _positions,
    "inv_freqs": _frequencies,
    "active_blocks_table": _table,
}


def bits(x: Array) -> Array:
    """Bit patterns as unsigned integers; every NaN as one pattern."""
    codes = np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}")
    is_nan = np.isnan(x.astype(np.float32)) if format_of(x.dtype).is_float else np.zeros(x.shape, bool)
    return np.where(is_nan, np.iinfo(codes.dtype).max, codes)


def same(got: Inputs, expected: Inputs) -> bool:
    """Whether two sets of results have the same names, shapes, dtypes and bits."""
    return got.keys() == expected.keys() and all(
        got[name].dtype == expected[name].dtype
        and got[name].shape == expected[name].shape
        and bool((bits(got[name]) == bits(expected[name])).all())
        for name in got
    )


def by_query(config: Config, out: Array) -> Array:
    """out in either place as float32 [B, H, s, d]."""
    values = out.astype(np.float32)
    if config.out_in_sb:
        assert (values == values[:1]).all(), "cores differ"
        shape = (config.d_head, config.bs, config.q_head, config.s_active)
        return values[0].reshape(shape).transpose(1, 2, 3, 0)
    return values.transpose(0, 1, 3, 2)
