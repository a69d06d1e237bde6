"""The parts of the attention_tkg kernel, each alone in a small launch, against formulas written here.

Claims: the plan cuts as the contract's plan does; illegal calls are asserted against, legal ones are not; masks, token
maps, block ids and loads put every token where the layout says, as counted one by one; maxima and sums down the
columns are those of whole arrays; rotation is the fp32 formula, rounding for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from numpy.typing import NDArray

import reference  # noqa: F401  (the doorway: `import nki` finds the drop-in)

import nki  # isort: skip
import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

from conformance.cases.attention_tkg import configs, illegal
from kernels.attention_mask import kept_rows, load_mask, make_mask
from kernels.attention_tkg import AttnTKGConfig
from kernels.attention_tkg_arguments import (
    check_caches,
    check_debug,
    check_dtypes,
    check_mask,
    check_new_tokens,
    check_plan,
    check_positions,
    check_results,
    check_sizes,
)
from kernels.attention_tkg_plan import AttnPlan, attention_plan, resized_block_len
from kernels.block_table import sub_block_ids
from kernels.cascaded_softmax import (
    broadcast_over_partitions,
    maximum_over_keys,
    shift_and_exponentiate,
    sum_over_keys,
)
from kernels.kv_load import KvLoad, load_keys, load_values
from kernels.rope import load_angles, rotate, wave_of
from kernels.sbuf_manager import SbufManager
from kernels.token_tail import tail_pieces
from reference.contracts.attention_tkg import Config, tensors, written

pytestmark = pytest.mark.sim

Array = NDArray[Any]
FLT_MAX = np.float32(3.4028235e38)


def launch(body: Callable[..., Any], *arrays: Array) -> Any:
    """What `body(*tensors)` returns: tiles in SBUF or PSUM come back as arrays."""

    def kernel(*tensors: Any) -> Any:
        found = body(*tensors)
        return tuple(map(_to_hbm, found)) if isinstance(found, tuple) else _to_hbm(found)

    return nki.jit(kernel)(*arrays)


def _to_hbm(tile: Any) -> Any:
    dense = nl.ndarray(tile.shape, dtype=tile.dtype)
    nisa.tensor_copy(dst=dense, src=tile)
    out = nl.ndarray(tile.shape, dtype=tile.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out, src=dense)
    return out


def plan_of(layout: str, keys: int, block_len: int = 0, factor: int = 1, **fields: Any) -> AttnPlan:
    """A plan of one core, one flash tile."""
    values: dict[str, Any] = {
        "n_prgs": 1, "prg": 0, "n_seq": 1, "n_bat": 1, "keys": keys, "batches": 2, "columns": 3, "s_active": 3,
        "d_head": 8, "batch_tile": 2, "score_group": 32, "flash_keys": keys, "layout": layout,
        "block_len": block_len, "block_factor": factor,
    }  # fmt: skip
    return AttnPlan(**values | fields)


def token_map(plan: AttnPlan, f: int = 0) -> Array:
    """Token [128, n] at every partition and key tile of a flash tile, counted one by one."""
    n, length = plan.key_tiles(f), plan.block_len
    tokens = np.zeros((128, n), np.int64)
    for p in range(128):
        for t in range(n):
            place = {"strided": p * n + t, "sequential": t * 128 + p}
            if plan.layout == "block":
                place["block"] = t // length * 128 * length + p * length + t % length
            tokens[p, t] = plan.first_token(f) + place[plan.layout]
    return tokens


LAYOUTS = [
    pytest.param("strided", 0, id="strided"),
    pytest.param("sequential", 0, id="sequential"),
    pytest.param("block", 2, id="blocks of 2"),
    pytest.param("block", 1, id="blocks of 1"),
    pytest.param("block", 4, id="blocks of 4"),
]


# --- the plan ---------------------------------------------------------------------------------------------


@given(configs())
def test_the_kernel_cuts_the_work_as_the_contract_does(config: Config) -> None:
    contract = config.plan
    cfg = AttnTKGConfig(**config.kernel_config)
    for prg in range(config.lnc):
        plan = attention_plan(cfg, config.dtype, config.lnc, prg)
        assert (plan.n_seq, plan.n_bat, plan.keys) == (contract.n_seq, contract.n_bat, contract.keys_per_core)
        assert (plan.batches, plan.columns) == (contract.batches_per_core, contract.columns_per_batch)
        assert (plan.layout, plan.block_len, plan.block_factor) == (
            contract.layout, contract.block_len, contract.block_factor,
        )
        tiles = [plan.key_tiles(f) for f in range(plan.flash_tiles())]
        assert tiles == [tile.key_tiles for tile in contract.flash_tiles]
        assert (plan.batch_tile, plan.score_group) == (contract.batch_tile, contract.score_group)
        assert plan.batch_tiles() == len(contract.batch_tiles)


@pytest.mark.parametrize(
    ("block_len", "keys", "flash_keys", "resized"),
    [
        (16, 4096, 4096, 16),
        (16, 5120, 5120, 8),
        (16, 8320, 8192, 1),
        (16, 41216, 8192, 2),
        (16, 82432, 8192, 4),
        (128, 4096, 4096, 32),
        (48, 384, 384, 3),
    ],
)
def test_blocks_are_cut_to_fill_folds_of_every_flash_tile(
    block_len: int, keys: int, flash_keys: int, resized: int
) -> None:
    assert resized_block_len(block_len, keys, flash_keys) == resized


# --- arguments --------------------------------------------------------------------------------------------

#: Rules that are the host's alone: spelling of a config, and limits of the published page only.
_HOST_ALONE = {"flags", "limits", "pos_id_batch", "pos_id_block"}


class _Stub:
    """As much of a tensor as an assertion looks at."""

    def __init__(self, shape: tuple[int, ...], dtype: str, memory: str) -> None:
        self.shape, self.dtype = shape, dtype
        self.buffer = nl.sbuf if memory == "sbuf" else nl.hbm


def _checked(config: Config) -> None:
    """The kernel's own assertions on a call as the config describes it."""
    cfg = AttnTKGConfig(**config.kernel_config)
    check_sizes(cfg)
    # Shapes of debug tensors follow from a plan, which the sizes must allow.
    found = tensors(config) | written(config)
    stubs: dict[str, Any] = {name: _Stub(one.shape, one.dtype, one.memory) for name, one in found.items()}
    q, k_active, v_active, k_prior, v_prior = (
        stubs[name] for name in ("q", "k_active", "v_active", "k_prior", "v_prior")
    )
    check_dtypes(q, k_active, v_active, k_prior, v_prior, cfg)
    check_new_tokens(q, k_active, v_active, cfg)
    check_caches(k_prior, v_prior, cfg, stubs.get("active_blocks_table"))
    check_mask(stubs["mask"], stubs.get("sink"), cfg)
    check_positions(stubs.get("inv_freqs"), stubs.get("rope_pos_ids"), cfg)
    check_results(stubs["out"], stubs.get("k_out"), q.dtype, cfg)
    plan = attention_plan(cfg, q.dtype, config.lnc, 0)
    check_plan(cfg, plan, k_prior)
    debug = tuple(stub for name, stub in stubs.items() if name.startswith("dbg_"))
    check_debug(debug if config.debug else None, q.dtype, cfg, plan)


@given(configs())
def test_the_kernel_asserts_nothing_against_a_legal_call(config: Config) -> None:
    _checked(config)


@settings(max_examples=200, suppress_health_check=[HealthCheck.filter_too_much])
@given(illegal())
def test_the_kernel_asserts_what_its_own_callers_could_get_wrong(drawn: tuple[Config, str]) -> None:
    config, rule = drawn
    assume(rule not in _HOST_ALONE)
    with pytest.raises(AssertionError):
        _checked(config)


# --- tokens -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("s", [1, 2, 5, 7, 127, 128])
@pytest.mark.parametrize(("width", "n"), [(1, 1), (1, 6), (2, 6), (3, 3), (4, 8), (64, 64)])
@pytest.mark.parametrize("window", [(0, 1.0), (0, 0.5), (0.5, 0.5)])
def test_tail_pieces_name_every_active_tokens_place_once(
    s: int, width: int, n: int, window: tuple[float, float]
) -> None:
    low, count = int(window[0] * n), max(1, int(window[1] * n))
    found = {}
    for piece in tail_pieces(s, width, n, low, count):
        for i in range(piece.partitions):
            for j in range(piece.tiles):
                place = piece.partition + i, low + piece.tile + j
                assert place not in found
                found[place] = piece.first + i * piece.row + piece.skip + j
    # Token r of the last 128 * width stands at partition r // width of key tile n - width + r % width.
    wanted = {}
    for token in range(s):
        r = 128 * width - s + token
        place = r // width, n - width + r % width
        if low <= place[1] < low + count:
            wanted[place] = token
    assert found == wanted


@pytest.mark.parametrize(("layout", "length"), LAYOUTS)
def test_a_mask_from_positions_compares_every_token(layout: str, length: int) -> None:
    plan = plan_of(layout, 512, length, flash_keys=512)
    positions = np.array([[100.0, 101, 102], [509.0, 510, 511]], np.float32)
    active = (np.random.default_rng(0).random((3, 2, 1, 3)) < 0.5).astype(np.uint8)

    def body(positions: Any, active: Any) -> Any:
        space = SbufManager()
        keep = nl.ndarray((128, 4, 6), dtype=nl.uint8)
        make_mask(space, keep, active, positions, plan, 0, 0, 2)
        return keep

    keep = launch(body, positions, active).reshape(128, 4, 2, 3)
    tokens = token_map(plan)
    for p in range(128):
        for t in range(4):
            for b in range(2):
                slot = tokens[p, t] - (512 - 3)
                # The first query's position counts for every query, and not at all in the active slots.
                wanted = active[slot, b, 0] if slot >= 0 else [tokens[p, t] < positions[b, 0]] * 3
                assert keep[p, t, b].tolist() == list(wanted)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("layout", "length"), LAYOUTS)
def test_a_mask_from_memory_has_rows_by_token_or_by_key_tile(layout: str, length: int, dtype: Any) -> None:
    plan = plan_of(layout, 512, length)
    mask = np.random.default_rng(1).integers(0, 3, (512, 2, 1, 3)).astype(dtype)

    def body(mask: Any) -> Any:
        keep = nl.ndarray((128, 4, 6), dtype=nl.uint8)
        load_mask(SbufManager(), keep, mask, plan, 0, 0, 2)
        return keep

    keep = launch(body, mask)
    for p in range(128):
        for t in range(4):
            row = p * 4 + t if layout == "strided" else t * 128 + p
            assert keep[p, t].tolist() == mask[row].reshape(-1).astype(np.uint8).tolist()


def test_wide_masks_round_and_saturate_to_a_byte() -> None:
    values = np.array([0.0, 0.5, 0.75, 1.5, 255.4, 256.0, -3.0, np.nan], np.float32)
    mask = np.repeat(values, 128).reshape(8, 128).T.reshape(128 * 8, 1, 1, 1)
    plan = plan_of("strided", 1024, columns=1, batches=1)

    def body(mask: Any) -> Any:
        keep = nl.ndarray((128, 8, 1), dtype=nl.uint8)
        load_mask(SbufManager(), keep, mask, plan, 0, 0, 1)
        return keep

    assert launch(body, np.ascontiguousarray(mask))[5, :, 0].tolist() == [0, 0, 1, 2, 255, 255, 0, 0]


@pytest.mark.parametrize("columns", [1, 3])
def test_a_row_is_kept_when_any_column_keeps_it(columns: int) -> None:
    mask = (np.random.default_rng(2).random((128, 4, 2 * columns)) < 0.2).astype(np.uint8) * 7

    def body(mask: Any) -> Any:
        keep = nl.ndarray(mask.shape, dtype=nl.uint8)
        nisa.dma_copy(dst=keep, src=mask)
        return kept_rows(SbufManager(), keep, columns)

    wanted = mask.reshape(128, 4, 2, columns).any(axis=3)
    assert (launch(body, mask) != 0).tolist() == wanted.tolist()


# --- block ids --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batches", "entries", "factor", "first", "folds"),
    [
        (1, 256, 1, 128, 1),
        (3, 64, 8, 128, 3),
        (5, 300, 3, 128, 6),
        (128, 40, 16, 256, 2),
        (2, 1, 128, 0, 1),
        (1, 6000, 1, 0, 46),
    ],
)
def test_sub_block_ids_are_the_entries_unfolded(
    batches: int, entries: int, factor: int, first: int, folds: int
) -> None:
    table = np.random.default_rng(3).integers(0, 2**24 // factor, (batches + 1, entries)).astype(np.uint32)

    def body(table: Any) -> Any:
        return sub_block_ids(SbufManager(), table, 1, batches, first, folds, factor)

    found = launch(body, table)
    unfolded = table[1:, :, None].astype(np.int64) * factor + np.arange(factor)
    wanted = unfolded.reshape(batches, -1)[:, first : first + 128 * folds].reshape(batches, folds, 128)
    assert np.array_equal(found, wanted.transpose(2, 1, 0))


# --- loads ------------------------------------------------------------------------------------------------


def _numbered(shape: tuple[int, ...], dtype: Any) -> Array:
    """Values that name their place, exact in 8 bits of mantissa: rows differ, and so do elements of a row."""
    return (np.arange(math.prod(shape)) % 241).reshape(shape).astype(dtype)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("window", [(0, 4), (1, 2)], ids=["all tiles", "two tiles"])
@pytest.mark.parametrize("rows_first", [True, False], ids=["rows", "transposed"])
@pytest.mark.parametrize("layout", ["strided", "sequential"])
def test_keys_and_values_of_flat_caches_stand_where_the_layout_says(
    layout: str, rows_first: bool, window: tuple[int, int], dtype: Any
) -> None:
    plan = plan_of(layout, 512, s_active=5)
    cache, active = _numbered((3, 1, 640, 8), dtype), _numbered((3, 1, 5, 8), dtype) + dtype(0.5)
    whole = cache[:, 0, :512].copy()
    whole[:, 507:] = active[:, 0]
    keys, values = _loaded(plan, cache, active, None, window, rows_first)
    tokens = token_map(plan)[:, window[0] : window[0] + window[1]]
    assert np.array_equal(values, whole[1:, tokens].transpose(1, 0, 2, 3))
    assert np.array_equal(keys, whole[1:, tokens].transpose(3, 0, 2, 1))


@pytest.mark.parametrize(
    ("dtype", "d"),
    [(ml_dtypes.bfloat16, 128), (ml_dtypes.bfloat16, 8), (np.float32, 128), (ml_dtypes.float8_e4m3, 32)],
    ids=["gathered transposed", "narrow rows", "float32", "float8"],
)
@pytest.mark.parametrize("window", [(0, 4), (1, 2)], ids=["all tiles", "two tiles"])
@pytest.mark.parametrize(("block_len", "length"), [(4, 4), (4, 2), (3, 1)])
def test_keys_and_values_of_blocks_stand_where_the_table_says(
    block_len: int, length: int, window: tuple[int, int], dtype: Any, d: int
) -> None:
    factor = block_len // length
    plan = plan_of("block", 512, length, factor, s_active=5, d_head=d)
    entries = -(-512 // block_len)
    table = np.random.default_rng(4).permutation(3 * entries)[: 3 * entries].reshape(3, entries)
    cache = _numbered((3 * entries, block_len, d), np.float32)
    cache = (cache % 16).astype(dtype) if dtype is ml_dtypes.float8_e4m3 else cache.astype(dtype)
    active = (_numbered((3, 1, 5, d), np.float32) % 8 + 0.5).astype(dtype)
    whole = cache[table].reshape(3, -1, d)[:, :512].copy()
    whole[:, 507:] = active[:, 0]
    keys, values = _loaded(plan, cache, active, table.astype(np.uint32), window, True)
    tokens = token_map(plan)[:, window[0] : window[0] + window[1]]
    assert np.array_equal(values, whole[1:, tokens].transpose(1, 0, 2, 3))
    assert np.array_equal(keys, whole[1:, tokens].transpose(3, 0, 2, 1))


def _loaded(
    plan: AttnPlan, cache: Array, active: Array, table: Array | None, window: tuple[int, int], rows_first: bool
) -> tuple[Array, Array]:
    """Keys [d, 2, tiles, 128] and values [128, 2, tiles, d] of batches 1 and 2, all rows kept."""
    low, tiles = window
    stored = cache if rows_first else np.ascontiguousarray(cache.transpose(0, 1, 3, 2))
    k_active = np.ascontiguousarray(active[:, 0].transpose(2, 0, 1).reshape(plan.d_head, -1))
    arrays = [stored, cache, k_active, active]
    arrays += [] if table is None else [table]

    def body(k_prior: Any, v_prior: Any, k_active: Any, v_active: Any, table: Any = None) -> Any:
        space = SbufManager()
        ids = None
        if table is not None:
            folds = 4 // plan.block_len
            ids = sub_block_ids(space, table, 1, 2, 0, folds, plan.block_factor)
        load = KvLoad(f=0, batch=1, batches=2, low=low, tiles=tiles, ids=ids, id_column=0)
        on_chip = nl.ndarray(k_active.shape, dtype=k_active.dtype)
        nisa.dma_copy(dst=on_chip, src=k_active)
        keep = nl.ndarray((128, tiles, 2), dtype=nl.uint8)
        nisa.memset(dst=keep, value=1)
        keys = load_keys(space, k_prior, on_chip, plan, load, rows_first)
        return keys, load_values(space, v_prior, v_active, plan, load, keep)

    keys, values = launch(body, *arrays)
    return keys, values


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32, ml_dtypes.float8_e4m3])
@pytest.mark.parametrize("d", [7, 8])
def test_values_that_nobody_keeps_become_zero_whatever_they_were(dtype: Any, d: int) -> None:
    plan = plan_of("strided", 256, d_head=d)
    cache = np.full((2, 1, 256, d), np.nan, np.float32).astype(dtype)
    kept = np.random.default_rng(5).random((128, 2, 2)) < 0.5
    tokens = token_map(plan)
    for p, t, b in np.argwhere(kept):
        cache[b, 0, tokens[p, t]] = 3
    active = np.full((2, 1, 3, d), 3, np.float32).astype(dtype)

    def body(cache: Any, active: Any, kept: Any) -> Any:
        keep = nl.ndarray((128, 2, 2), dtype=nl.uint8)
        nisa.dma_copy(dst=keep, src=kept)
        load = KvLoad(f=0, batch=0, batches=2, low=0, tiles=2, ids=None, id_column=0)
        return load_values(SbufManager(), cache, active, plan, load, keep)

    values = launch(body, cache, active, kept.astype(np.uint8)).astype(np.float32)
    wanted = np.where(kept.transpose(0, 2, 1)[..., None], 3.0, 0.0)
    assert np.array_equal(values, np.broadcast_to(wanted, values.shape))
    assert not np.signbit(values).any()


# --- softmax ----------------------------------------------------------------------------------------------


def _scores(columns: int, tiles: int = 3) -> Array:
    scores = np.random.default_rng(6).standard_normal((128, tiles, columns)).astype(np.float32)
    scores[:, :, 0] = -np.inf
    scores[17, 1, -1] = 1e30
    return scores


def _on_chip(source: Any, dtype: Any = None) -> Any:
    tile = nl.ndarray(source.shape, dtype=source.dtype if dtype is None else dtype)
    nisa.dma_copy(dst=tile, src=source)
    return tile


@pytest.mark.parametrize("columns", [1, 5, 128, 129, 300])
def test_the_cascaded_maximum_is_the_maximum_of_the_column_and_never_minus_infinity(columns: int) -> None:
    scores = _scores(columns)
    found = launch(lambda s: tuple(maximum_over_keys(SbufManager(), _on_chip(s), "m")), scores)
    wanted = np.maximum(scores.max(axis=(0, 1)), -FLT_MAX)
    assert np.array_equal(np.concatenate(found)[:, 0], wanted)


@pytest.mark.parametrize("columns", [1, 128, 131])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float8_e4m3"])
def test_the_cascaded_sum_counts_every_weight_once(columns: int, dtype: str) -> None:
    weights = np.random.default_rng(7).integers(0, 3, (128, 5, columns)).astype(np.float32)

    def body(source: Any) -> Any:
        ones = nl.ndarray((128, 1), dtype=dtype)
        nisa.memset(dst=ones, value=1.0)
        return tuple(sum_over_keys(SbufManager(), _on_chip(source, dtype), ones, "parts", "sum"))

    assert np.array_equal(np.concatenate(launch(body, weights))[:, 0], weights.sum(axis=(0, 1)))


@pytest.mark.parametrize("columns", [1, 127, 128, 513, 700])
@pytest.mark.parametrize("partitions", [1, 72, 128])
def test_a_column_vector_reaches_every_partition_with_its_bits(columns: int, partitions: int) -> None:
    values = np.random.default_rng(8).standard_normal((columns, 1)).astype(np.float32)
    values[0] = -FLT_MAX

    def body(source: Any) -> Any:
        vector = []
        for low in range(0, columns, 128):
            tile = nl.ndarray((min(128, columns - low), 1), dtype=nl.float32)
            nisa.dma_copy(dst=tile, src=source[low : low + tile.shape[0], :])
            vector.append(tile)
        return broadcast_over_partitions(SbufManager(), vector, columns, partitions, "rows")

    found = launch(body, values)
    assert np.array_equal(found.view(np.uint32), np.tile(values.T.view(np.uint32), (partitions, 1)))


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_weights_are_one_at_the_maximum_and_zero_where_masked(chunk: int) -> None:
    scores = np.where(np.arange(15).reshape(5, 3) % 2, -np.inf, 4.0).astype(np.float32)
    scores = np.broadcast_to(scores, (128, 5, 3)).copy()

    def body(source: Any) -> Any:
        maximum = nl.ndarray((128, 3), dtype=nl.float32)
        nisa.memset(dst=maximum, value=4.0)
        prob = nl.ndarray((128, 5, 3), dtype=nl.bfloat16)
        shift_and_exponentiate(SbufManager(), prob, _on_chip(source), maximum, chunk, "shift")
        return prob

    assert np.array_equal(launch(body, scores).astype(np.float32), np.where(np.isinf(scores), 0.0, 1.0))


# --- rotary embedding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("io", [np.float32, ml_dtypes.bfloat16], ids=["wide", "narrow"])
def test_rotation_is_the_formula_with_each_rounding(io: Any) -> None:
    d, B, heads, s = 64, 2, 3, 2
    rng = np.random.default_rng(9)
    x = rng.standard_normal((d, B * heads * s)).astype(io)
    sine, cosine = (rng.uniform(-1, 1, (d, B * s)).astype(np.float32) for _ in range(2))

    def body(x: Any, sine: Any, cosine: Any) -> Any:
        result = nl.ndarray(x.shape, dtype=nl.bfloat16)
        rotate(SbufManager(), result, _on_chip(x), _on_chip(sine), _on_chip(cosine), B, heads, 0)
        return result

    found = launch(body, x, sine, cosine)
    wide = x.astype(np.float32).reshape(d, B, heads, s)
    turned = np.concatenate([-wide[d // 2 :], wide[: d // 2]])
    sin, cos = (wave.reshape(d, B, 1, s) for wave in (sine, cosine))
    wanted = wide * cos + (turned * sin).astype(io).astype(np.float32)
    assert np.array_equal(found, wanted.reshape(d, -1).astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("e", [0, 1], ids=["sine", "cosine"])
def test_waves_are_sine_and_cosine_of_the_angle(e: int) -> None:
    # Angles of all fractions of a turn: B17, a cast to int32 that cuts instead of rounding, is off by 1 and more.
    positions = np.arange(96, dtype=np.float32).reshape(32, 3)
    frequencies = np.linspace(0.0, 1.0, 32, dtype=np.float32)[:, None]

    def body(positions: Any, frequencies: Any) -> Any:
        space = SbufManager()
        return wave_of(space, load_angles(space, positions, frequencies), e)

    found = launch(body, positions, frequencies).astype(np.float64)
    angle = (frequencies * positions.reshape(1, -1)).astype(np.float32).astype(np.float64)
    wanted = (np.sin, np.cos)[e](angle)
    assert np.abs(found - np.concatenate([wanted, wanted])).max() < 2e-5
