"""The parts of qkv's context encoding, each alone in a small launch, against formulas written here.

Claims: norms round where the table says and sum over all columns; both ways of transposing give the same operand, of
any lane count and any number of tokens; rotation rounds each product before the sum and reads half of the sine table;
keys and values are clamped before their one cast and stored to the addressed rows and no other; weights come whole or
in blocks, every row once; MX scales stand where the tensor engine looks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import reference  # noqa: F401  (the doorway: `import nki` finds the drop-in)

import nki  # isort: skip
import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

from conformance.tests.kernels import by_hand
from kernels.kv_store import inverse_scale, largest_finite, load_slots, quantize_rows, store_flat, store_slots
from kernels.mx_load import load_scales, quantize_tokens
from kernels.norm_cte import eps_tile, layer_norm_tokens, rms_norm_tokens
from kernels.qkv_cte import CteCall, group_size, quantize_operand, tokens_of_core
from kernels.qkv_cte_weights import SBUF_BYTES, WeightPlan, weight_block, weight_plan
from kernels.rope_cte import load_tables, rotate_heads
from kernels.token_transpose import transpose_tokens

pytestmark = pytest.mark.sim

Array = NDArray[Any]
F32 = np.float32
BF16 = ml_dtypes.bfloat16
FP8 = ml_dtypes.float8_e4m3


def launch(body: Callable[..., Any], *arrays: Array) -> Any:
    """What `body(*tensors)` returns: tiles come back as arrays, None as None."""

    def kernel(*tensors: Any) -> Any:
        found = body(*tensors)
        return tuple(map(_to_hbm, found)) if isinstance(found, tuple) else _to_hbm(found)

    return nki.jit(kernel)(*arrays)


def _to_hbm(tile: Any) -> Any:
    if tile is None or not nl.is_on_chip(tile.buffer):
        return tile
    out = nl.ndarray(tile.shape, dtype=tile.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out, src=tile)
    return out


def tile_of(tensor: Any, dtype: Any = None) -> Any:
    """An SBUF copy of an argument."""
    tile = nl.ndarray(tensor.shape, dtype=dtype or tensor.dtype)
    nisa.dma_copy(dst=tile, src=tensor)
    return tile


def normal(shape: tuple[int, ...], dtype: Any = F32, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32).astype(dtype)


def product(x: Array, y: Array) -> Array:
    """fp32 product of values of any narrow dtype."""
    result: Array = x.astype(F32) * y.astype(F32)
    return result


def bits(array: Array) -> Array:
    """Comparable bit patterns; every NaN alike."""
    codes = np.ascontiguousarray(array).view({1: np.uint8, 2: np.uint16, 4: np.uint32}[array.dtype.itemsize])
    if array.dtype.kind in "iu":
        return codes
    return np.where(np.isnan(array.astype(F32)), -1, codes.astype(np.int64))


# --- norms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 5, 128])
@pytest.mark.parametrize("dtype", [BF16, np.float16], ids=["bfloat16", "float16"])
def test_rms_norm_sums_every_column_and_rounds_once(tokens: int, dtype: Any) -> None:
    # Integers: squares and their sums are exact in any order.
    hidden = np.random.default_rng(1).integers(-9, 10, (tokens, 640)).astype(dtype)

    def body(x: Any) -> Any:
        return rms_norm_tokens(tile_of(x), eps_tile(0.25, nl.float32), 500, 0)

    total = np.square(hidden.astype(np.float64)).sum(axis=1, keepdims=True).astype(F32)
    mean = total * F32(1 / 500) + F32(0.25)
    root = (1 / np.sqrt(mean.astype(np.float64))).astype(F32)
    assert np.array_equal(bits(launch(body, hidden)), bits(product(hidden, root).astype(dtype)))


def test_rms_norm_sums_the_squares_before_they_are_rounded() -> None:
    # 300^2 is no finite float16: its scratch overflows, the sum must not.
    hidden = np.full((2, 128), 300, np.float16)

    def body(x: Any) -> Any:
        return rms_norm_tokens(tile_of(x), eps_tile(0.0, nl.float32), 128, 0)

    assert (launch(body, hidden) == 1).all()


def balanced(columns: int) -> Array:
    """1 and 5, as many of either among the even and among the odd columns of every 512: every mean is exactly 3."""
    draw = np.random.default_rng(2)
    row = np.empty(columns)
    for low in range(0, columns, 512):
        part = row[low : low + 512]
        for half in (part[0::2], part[1::2]):
            half[:] = draw.permutation(np.repeat([1.0, 5.0], half.size // 2))
    return row


@pytest.mark.parametrize("columns", [128, 512, 640, 1536])
def test_layer_norm_takes_mean_and_variance_over_all_pieces(columns: int) -> None:
    row = balanced(columns)
    hidden = np.stack([row, 2 * row, row[::-1], np.repeat([1.0, 5.0], columns // 2)]).astype(BF16)

    def body(x: Any) -> Any:
        return layer_norm_tokens(tile_of(x), eps_tile(0.0, nl.float32), 0)

    # Variance 4, and 16 of the doubled row: roots 1/2 and 1/4 exactly.
    wanted = np.where(hidden.astype(F32) > hidden.astype(F32).mean(axis=1, keepdims=True), 1, -1)
    assert launch(body, hidden).astype(F32).tolist() == wanted.tolist()


def test_layer_norm_adds_eps_to_the_variance() -> None:
    hidden = np.tile(np.array([1.0, 5.0], BF16), (1, 64))

    def body(x: Any) -> Any:
        return layer_norm_tokens(tile_of(x), eps_tile(12.0, nl.float32), 0)

    assert launch(body, hidden).astype(F32).tolist() == [[-0.5, 0.5] * 64]


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
def test_eps_has_the_precision_of_the_data(name: str) -> None:
    got = launch(lambda x: eps_tile(1e-6, name), np.zeros((1, 1), F32))
    assert got.dtype == F32
    assert set(got.ravel().tolist()) == {by_hand.to(by_hand.to(1e-6, "float32"), name)}


# --- the operand --------------------------------------------------------------------------------------------


def operand_by_hand(value: Array, lanes: int, gamma: Array | None, beta: Array | None) -> Array:
    """operand[p, t, k, r] for h = 128*lanes*t + lanes*p + k."""
    scaled = value.astype(F32)
    if gamma is not None:
        scaled = scaled * gamma
    if beta is not None:
        scaled = scaled + beta
    tokens, H = value.shape
    return scaled.astype(value.dtype).reshape(tokens, H // 128 // lanes, 128, lanes).transpose(2, 1, 3, 0)


@pytest.mark.parametrize("use_dma", [True, False], ids=["dma", "pe"])
@pytest.mark.parametrize("weights", [0, 1, 2], ids=["plain", "gamma", "gamma and beta"])
@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize(("tokens", "H"), [(1, 512), (7, 512), (128, 1536)])
def test_both_ways_of_transposing_give_the_operand(
    tokens: int, H: int, lanes: int, weights: int, use_dma: bool
) -> None:
    value = normal((tokens, H), BF16)
    gamma = normal((1, H), F32, 1) if weights > 0 else None
    beta = normal((1, H), F32, 2) if weights > 1 else None

    def columns(vector: Any) -> Any:
        tile = nl.ndarray((128, H // 128), dtype=nl.float32)
        nisa.dma_copy(dst=tile, src=vector.reshape((H // 128 // lanes, 128, lanes)).permute((1, 0, 2)))
        return tile

    def body(*tensors: Any) -> Any:
        source = tile_of(tensors[0]).reshape((tokens, H // 128 // lanes, 128, lanes)).permute((0, 1, 3, 2))
        dst = nl.ndarray((128, H // 128 // lanes, lanes, tokens), dtype=nl.bfloat16)
        scale = columns(tensors[1]) if weights > 0 else None
        shift = columns(tensors[2]) if weights > 1 else None
        transpose_tokens(dst, source, scale, shift, use_dma)
        return dst

    arrays = [a for a in (value, gamma, beta) if a is not None]
    assert np.array_equal(bits(launch(body, *arrays)), bits(operand_by_hand(value, lanes, gamma, beta)))


def test_an_operand_is_clamped_before_the_cast_to_fp8() -> None:
    # 249 and more round to infinity in e4m3 unless they are clamped to 240 first; 2/3 is rounded once.
    values = np.array([[[1.0, 100.0, 166.0, 170.0, -1000.0, np.inf, 0.1, -0.0]]], BF16).repeat(128, axis=0)

    def body(x: Any) -> Any:
        inverse = nl.ndarray((128, 1), dtype=nl.float32)
        nisa.memset(dst=inverse, value=1.5)
        return quantize_operand(tile_of(x), inverse, 0)

    wanted = np.clip(values.astype(F32) * F32(1.5), -240, 240).astype(FP8)
    assert np.array_equal(bits(launch(body, values)), bits(wanted))


# --- rotation -----------------------------------------------------------------------------------------------


def rotated_by_hand(x: Array, cos: Array, sin: Array, d: int) -> Array:
    """[tokens, heads*d], every product and the sum rounded to the dtype of x."""
    tokens, half, dtype = x.shape[0], d // 2, x.dtype
    heads = x.reshape(tokens, -1, d)
    first, second = heads[:, :, :half], heads[:, :, half:]
    table = sin[:, None, :half]
    turned = np.concatenate([-product(second, table).astype(dtype), product(first, table).astype(dtype)], axis=2)
    straight = product(heads, cos[:, None, :]).astype(dtype)
    return (straight.astype(F32) + turned.astype(F32)).astype(dtype).reshape(tokens, -1)


@pytest.mark.parametrize(("heads", "d"), [(1, 2), (3, 64), (6, 96), (9, 88)])
@pytest.mark.parametrize("dtype", [BF16, np.float16], ids=["bfloat16", "float16"])
def test_rotation_rounds_products_and_reads_half_of_the_sines(heads: int, d: int, dtype: Any) -> None:
    S, first, tokens = 11, 5, 13
    cos, sin = normal((2, S, d), F32, 3), normal((2, S, d), F32, 4)
    sin[:, :, d // 2 :] = np.nan
    x = normal((tokens, heads * d), dtype)

    def body(x: Any, cos: Any, sin: Any) -> Any:
        tables = load_tables(cos, sin, first, tokens, x.dtype, 0)
        return rotate_heads(tile_of(x), *tables, 0)

    rows = slice(first, first + tokens)
    wanted = rotated_by_hand(x, cos.reshape(2 * S, d)[rows].astype(dtype), sin.reshape(2 * S, d)[rows].astype(dtype), d)
    assert np.array_equal(bits(launch(body, x, cos, sin)), bits(wanted))


# --- KV caches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "largest"), [("float8_e4m3", 240.0), ("float8_e5m2", 57344.0), ("float8_e4m3fn", 448.0)]
)
def test_the_default_limit_is_the_largest_value_of_the_format(name: str, largest: float) -> None:
    assert largest_finite(getattr(nl, name)) == largest == float(ml_dtypes.finfo(getattr(ml_dtypes, name)).max)


@pytest.mark.parametrize(
    ("limit", "stored"), [(240.0, 240.0), (100.5, 104.0), (16.0, 16.0)], ids=["default", "off the grid", "small"]
)
def test_keys_are_clamped_before_their_one_cast(limit: float, stored: float) -> None:
    values = np.array([[0.0, 1.0, 3.3, 120.0, 1e4, -1e4, -3.3, np.nan]], BF16)

    def body(x: Any, scale: Any) -> Any:
        inverse = inverse_scale(scale, "inverse")
        return quantize_rows(tile_of(x), inverse, limit, -limit, nl.float8_e4m3, "quantized")

    scale = np.full((128, 1), 0.4, F32)
    got = launch(body, values, scale)
    inverse = F32(by_hand.reciprocal(float(F32(0.4))))
    wanted = np.clip(values.astype(F32) * inverse, -F32(limit), F32(limit)).astype(FP8)
    assert np.array_equal(bits(got), bits(wanted))
    assert got.astype(F32)[0, 4:6].tolist() == [stored, -stored]


@pytest.mark.parametrize("first", [0, 1, 4, 9, 10])
@pytest.mark.parametrize("tokens", [1, 4, 5, 10, 15])
def test_a_flat_cache_gets_each_token_at_its_sequence_and_position(first: int, tokens: int) -> None:
    B, S, room, columns = 5, 5, 7, 6
    rows = np.arange(tokens * columns, dtype=F32).reshape(tokens, columns) % 13

    def body(cache: Any, rows: Any) -> Any:
        store_flat(cache, tile_of(rows, nl.float8_e4m3), first, S)
        return cache

    cache = np.full((B, room, columns), -1, FP8)
    wanted = cache.copy()
    for r in range(tokens):
        wanted[(first + r) // S, (first + r) % S] = rows[r].astype(FP8)
    assert np.array_equal(bits(launch(body, cache, rows)), bits(wanted))


def test_slots_address_rows_in_any_order_and_minus_one_writes_nothing() -> None:
    slots = np.array([[11, -1, 0, 5], [-1, 3, 4, 7]], np.int32)
    rows = (np.arange(30, dtype=F32).reshape(5, 6) % 13).astype(FP8)

    def body(cache: Any, rows: Any, slots: Any) -> Any:
        store_slots(cache, tile_of(rows), load_slots(slots, 2, 5))
        return cache

    cache = np.full((3, 4, 6), -1, FP8)
    wanted = cache.copy().reshape(12, 6)
    for r, slot in enumerate([0, 5, -1, 3, 4]):
        if slot >= 0:
            wanted[slot] = rows[r]
    assert np.array_equal(bits(launch(body, cache, rows, slots)), bits(wanted.reshape(3, 4, 6)))


# --- weights and MX ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("working", [0, SBUF_BYTES], ids=["whole", "streamed"])
def test_weights_come_row_tile_by_row_tile_each_once(working: int) -> None:
    tiles, columns = 11, 3000
    weights = normal((tiles * 128, columns), F32)
    steps: list[tuple[int, int]] = []

    def body(w: Any) -> Any:
        plan = weight_plan(w, None, nl.bfloat16, working)
        out = nl.ndarray((tiles, 128, columns), dtype=nl.bfloat16, buffer=nl.shared_hbm)
        for first in range(0, plan.tiles, plan.step):
            block = weight_block(plan, first)
            steps.append((block.first, block.count))
            for j in range(block.count):
                nisa.dma_copy(dst=out[first + j], src=block.data[:, j, :])
        return out

    got = launch(body, weights)
    assert np.array_equal(bits(got.reshape(tiles * 128, columns)), bits(weights.astype(BF16)))
    # Even blocks but for the last, so that double rows find both of their tiles.
    assert steps == ([(0, 11)] if working == 0 else [(f, min(2, 11 - f)) for f in range(0, 11, 2)])


def test_mx_scales_stand_on_the_partitions_of_their_groups() -> None:
    scales = np.random.default_rng(5).integers(1, 255, (48, 10)).astype(np.uint8)
    got = launch(lambda s: load_scales(s, 1, 2), scales)
    wanted = np.zeros((128, 2, 10), np.uint8)
    for t in range(2):
        for g in range(16):
            wanted[32 * (g // 4) + g % 4, t] = scales[16 * (1 + t) + g]
    assert np.array_equal(got, wanted)


def test_mx_tokens_share_a_scale_over_32_hidden_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn3")
    rng = np.random.default_rng(6)
    # One group in five all zero, magnitudes over 40 octaves.
    octaves = rng.integers(-20, 20, (16, 2, 4)).repeat(8, axis=0)[..., None]
    values = (rng.uniform(-1, 1, (128, 2, 4, 4)) * 2.0**octaves * (rng.random((128, 2, 4, 1)) < 0.97)).astype(BF16)
    values[8:16, 1, 2] = 0
    values[16, 0, 0, 0] = 1.984375 * 2**20  # a maximum just below a power of two

    def body(x: Any) -> Any:
        data, scale = quantize_tokens(tile_of(x), 0)
        return data.view(nl.uint32), scale

    data, scale = launch(body, values)
    wanted = np.zeros_like(scale)
    elements = np.ascontiguousarray(data).view(np.uint8).reshape(128, 2, 4, 4).view(ml_dtypes.float8_e4m3fn)
    groups = values.astype(F32).reshape(16, 8, 2, 4, 4)
    top = np.abs(groups).max(axis=(1, 4))
    exponent = np.where(top > 0, np.frexp(top)[1] - 1 - 7, -127)
    for g in range(16):
        wanted[32 * (g // 4) + g % 4] = 127 + exponent[g]
    assert np.array_equal(scale, wanted)
    assert (top[1, 1, 2], scale[1, 1, 2]) == (0, 0)
    scaled = groups / np.exp2(exponent.astype(np.float64))[:, None, :, :, None]
    assert np.array_equal(
        elements.astype(F32).reshape(groups.shape), scaled.astype(ml_dtypes.float8_e4m3fn).astype(F32)
    )


# --- who does what ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 2, 97, 300])
def test_cores_share_the_tokens_without_gap_or_overlap(T: int) -> None:
    found: list[tuple[int, int]] = []

    def kernel(x: Any) -> None:
        found.append(tokens_of_core(T))

    nki.jit(kernel)[2](np.zeros((1, 1), F32))
    (first, count), (second, rest) = sorted(found, key=lambda share: (share[0], share[1]))
    assert (first, count, count + rest) == (0, T // 2, T)
    assert second == count


@pytest.mark.parametrize("columns", [1, 512, 513, 1280, 2560, 4096])
@pytest.mark.parametrize("H", [128, 8192, 24576])
def test_a_group_fits_the_banks_and_its_operands_their_room(H: int, columns: int) -> None:
    tiles = group_size(CteCall(H=H, I=columns), WeightPlan())
    assert tiles * -(-columns // 512) <= 8
    assert tiles == 1 or tiles * 2 * H <= 96 * 1024
    assert group_size(CteCall(H=H, I=columns), WeightPlan(resident=True)) == 1
