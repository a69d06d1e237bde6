"""A decode loop of 64 tokens with the kernel on the machine: a cache that grows from empty, layer against sequence.

Every token's result is held against float64 attention over all tokens so far, done densely from X and the weights and
knowing nothing of caches, masks or slots. Unused slots hold large sentinels throughout. Every test is deterministic.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.backends.sim import SimBackend
from conformance.cases.attention_block_tkg import SUBJECT
from conformance.entry import launch
from reference.contracts.attention_block_tkg import SKIP, Config, cache_shape
from reference.neuroncore.options import Options
from reference.numerics.cast import cast, to_float32

pytestmark = pytest.mark.sim

Array = NDArray[Any]
Arrays = dict[str, Array]

TOKENS = 64
#: Power of two, so that the caller's way back from FP8 is exact.
KV_SCALE = 32.0
#: A value of every dtype of caches.
SENTINEL = 192.0
BASE: dict[str, Any] = {"B": 2, "S": 1, "H": 256, "q": 2, "d": 64, "S_ctx": 128, "S_max": 128, "W_out": None}
FP8: dict[str, Any] = {
    "kv_dtype": "float8_e4m3", "k_scale": "float32", "v_scale": "float32", "softmax_scale": 0.125 / KV_SCALE,
}  # fmt: skip
LAYOUTS: dict[str, dict[str, Any]] = {
    "flat": {"S_max": 130},
    "transposed": {"K_cache_transposed": True, "S_ctx": 256, "S_max": 256, "B": 1},
    "block": {"block_len": 16, "S_ctx": 512, "S_max": 512, "num_blocks": 70},
    "fp8": FP8 | {"lnc": 1},
    "block, three at a time": {
        "block_len": 16, "S_ctx": 256, "S_max": 256, "num_blocks": 40, "S": 3, "idx_per_token": True, "cache_rank": 4,
        "block_head_axis": 1,
    },
    "transposed, three at a time": {"K_cache_transposed": True, "S_max": 130, "S": 3, "idx_per_token": True},
}
#: Largest error as a share of the sequence's largest value. Seven roundings to bfloat16, 2^-9 each, lie between X and
#: the result, those of queries and keys times scores of order one; keys and values in FP8 err by 2^-4 of themselves.
BOUND = {layout: 2.0**-4 if layout == "fp8" else 2.0**-6 for layout in LAYOUTS}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_64_tokens_from_an_empty_cache_are_attention_over_the_sequence(layout: str) -> None:
    config = Config(**BASE | LAYOUTS[layout])
    fixed, hidden = weights(config), sequence(config)
    want, keys, values = dense(config, fixed, hidden)
    caches = empty(config)
    got, caches = decoded(config, fixed, hidden, caches, TOKENS)
    worst = np.abs(got - want).max() / np.abs(values).max()
    assert worst <= BOUND[layout]
    for name, written in (("K_cache", keys), ("V_cache", values)):
        rows = logical(config, fixed, caches[name], name == "K_cache" and config.K_cache_transposed)
        error = np.abs(rows[:, :TOKENS] / scale(config) - written).max()
        assert error <= BOUND[layout] * np.abs(written).max()
    assert_untouched(config, caches)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_loop_that_never_writes_its_cache_leaves_the_bound(layout: str) -> None:
    config = Config(**BASE | LAYOUTS[layout])
    fixed, hidden = weights(config), sequence(config)
    want, _, values = dense(config, fixed, hidden)
    got, _ = decoded(config, fixed, hidden, empty(config), 4 * config.S, writes=False)
    first, later = slice(config.S), slice(config.S, 4 * config.S)
    assert np.abs(got[..., first] - want[..., first]).max() <= BOUND[layout] * np.abs(values).max()
    assert np.abs(got[..., later] - want[..., later]).max() > 8 * BOUND[layout] * np.abs(values).max()


# ---- the loop ---------------------------------------------------------------------------------------------------


def decoded(
    config: Config, fixed: Arrays, hidden: Array, caches: Arrays, tokens: int, writes: bool = True
) -> tuple[Array, Arrays]:
    """([B, q, d, tokens], the caches behind): one launch per S tokens, each on the caches of the one before."""
    backend, found = SimBackend(Options()), []
    for first in range(0, tokens, config.S):
        inputs = fixed | caches | at_step(config, fixed, hidden, first, writes)
        got = launch(SUBJECT, config, inputs, backend)
        found.append(to_float32(got["out"]).astype(np.float64) / scale(config))
        caches = {"K_cache": got["K_out"], "V_cache": got["V_out"]}
    return np.concatenate(found, axis=-1)[..., :tokens], caches


def at_step(config: Config, fixed: Arrays, hidden: Array, first: int, writes: bool) -> Arrays:
    """What changes from launch to launch; the tokens before are `first`, which is also the place of the first new one.

    What a last launch has too many is padding: any X, and no slot.
    """
    c, new = config, np.arange(config.S)
    angle = np.stack([angles(c, first + s) for s in new], axis=-1)
    token = np.array([logical_token(c, row) for row in range(c.S_ctx)])[:, None]
    kept = (token < first) | ((token >= c.S_ctx - c.S) & (token - (c.S_ctx - c.S) <= new))
    place = np.tile(first + new, (c.B, 1))
    if c.block_kv:
        block = fixed["active_blocks_table"].astype(np.int64)[:, (first + new) // c.block_len]
        place = block * c.block_len + place % c.block_len
    place[:, (first + new >= TOKENS) | (not writes)] = SKIP
    return {
        "X": np.resize(hidden[:, first : first + c.S].transpose(1, 0, 2), (c.S, c.B, c.H)).transpose(1, 0, 2).copy(),
        "cos": stored(np.broadcast_to(np.cos(angle)[:, None], (c.d // 2, c.B, c.S))),
        "sin": stored(np.broadcast_to(np.sin(angle)[:, None], (c.d // 2, c.B, c.S))),
        "attention_mask": np.broadcast_to(kept[:, None, None], (c.S_ctx, c.B, c.q, c.S)).astype(np.uint8),
        "kv_cache_update_idx": place.astype(np.uint32),
    }


def logical_token(config: Config, row: int) -> int:
    """The token of a mask row: the row itself, or by the formula of block caches."""
    if not config.block_kv:
        return row
    # Blocks are cut until 128 of them make up a core's share.
    share = config.S_ctx // config.lnc
    length = math.gcd(config.block_len, share // 128)
    core, rest = divmod(row, share)
    fold, rest = divmod(rest, 128 * length)
    return core * share + fold * 128 * length + rest % 128 * length + rest // 128


# ---- inputs -----------------------------------------------------------------------------------------------------


def stored(values: Array) -> Array:
    return cast(np.ascontiguousarray(values, np.float32), "bfloat16")


def weights(config: Config) -> Arrays:
    """What stays the same from token to token."""
    c, draw = config, np.random.default_rng(64)
    found = {
        "rmsnorm_X_gamma": stored(draw.uniform(0.5, 1.5, (1, c.H))),
        "W_qkv": stored(draw.standard_normal((c.H, c.I)) * c.H**-0.5),
    }
    if c.quantized_kv:
        found |= {name: np.full((128, 1), KV_SCALE, np.float32) for name in ("k_scale", "v_scale")}
    if c.block_kv:
        blocks = draw.permutation(c.num_blocks)[: c.B * c.S_ctx // c.block_len]
        found["active_blocks_table"] = blocks.reshape(c.B, -1).astype(np.uint32)
    return found


def sequence(config: Config) -> Array:
    """X of all tokens, [B, TOKENS, H]."""
    return stored(np.random.default_rng(65).standard_normal((config.B, TOKENS, config.H)))


def angles(config: Config, place: int) -> NDArray[np.float64]:
    """RoPE of one place, [d/2]."""
    half = config.d // 2
    return np.asarray(place * 10000.0 ** (-np.arange(half) / half))


def empty(config: Config) -> Arrays:
    kinds = (("K_cache", config.K_cache_transposed), ("V_cache", False))
    return {
        name: cast(np.full(cache_shape(config, turned), SENTINEL, np.float32), config.kv_dtype)
        for name, turned in kinds
    }


def scale(config: Config) -> float:
    return KV_SCALE if config.quantized_kv else 1.0


# ---- truth ------------------------------------------------------------------------------------------------------


def dense(config: Config, fixed: Arrays, hidden: Array) -> tuple[Array, Array, Array]:
    """Float64 of the whole sequence: attention [B, q, d, TOKENS], keys and values [B, TOKENS, d]."""
    c = config
    x = hidden.astype(np.float64)
    normed = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-3) * fixed["rmsnorm_X_gamma"].astype(np.float64)
    heads = (normed @ fixed["W_qkv"].astype(np.float64)).reshape(c.B, TOKENS, c.q + 2, c.d)
    turned, values = rotated(c, heads[:, :, :-1]), heads[:, :, -1]
    queries, keys = turned[:, :, : c.q], turned[:, :, c.q]
    scores = np.einsum("bthd,bud->bhtu", queries, keys) * c.d**-0.5
    scores = np.where(np.tri(TOKENS, dtype=bool), scores, -np.inf)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return np.einsum("bhtu,bud->bhdt", shares, values), keys, values


def rotated(config: Config, heads: Array) -> Array:
    """RoPE in halves of [B, TOKENS, heads, d]."""
    angle = np.array([angles(config, place) for place in range(TOKENS)])[None, :, None]
    e, o = heads[..., : config.d // 2], heads[..., config.d // 2 :]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate((e * cos - o * sin, o * cos + e * sin), axis=-1)


# ---- caches -----------------------------------------------------------------------------------------------------


def logical(config: Config, fixed: Arrays, cache: Array, turned: bool) -> Array:
    """A cache in the order of tokens, [B, S_max, d]."""
    values = to_float32(cache).astype(np.float64)
    if config.block_kv:
        return np.asarray(values[fixed["active_blocks_table"]].reshape(config.B, -1, config.d))
    return values.transpose(0, 2, 1) if turned else values


def assert_untouched(config: Config, caches: Arrays) -> None:
    """All rows but those of the tokens hold the sentinel."""
    for name, cache in caches.items():
        axis = 1 if name == "K_cache" and config.K_cache_transposed else -1
        left = (to_float32(cache) == SENTINEL).all(axis=axis).sum()
        rows = cache.size // config.d
        assert left == rows - config.B * TOKENS
