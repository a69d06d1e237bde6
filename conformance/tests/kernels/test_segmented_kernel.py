"""The attention_segmented_cte kernel on the machine: its helpers against formulas written here, defects of public
kernels against a dense float64 softmax written here, and changes of a call that may change no bit.

Claims: floor and ceil are right for every bfloat16; the loader puts every token where its block says and zeros
everywhere else; each defect of the contract's list is absent, and the input would reveal it; layouts, pages, unread
memory and, for whole rows, the number of cores change nothing, and the length of segments changes rounding only.
"""

from __future__ import annotations

import dataclasses
import math
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

from conformance.backends import backend
from conformance.cases.attention_segmented_cte import SUBJECT
from kernels.attention_segmented_cte import load_kv_cache
from kernels.float_to_int import ceil_nisa_kernel, floor_nisa_kernel
from kernels.modular_allocator import ModularAllocator
from kernels.segment_schedule import core_slices, passes
from reference.contracts.attention_segmented_cte import Config

pytestmark = pytest.mark.sim

Array = NDArray[Any]
Inputs = dict[str, Array]

#: Three bfloat16 roundings, of weights, sums and results, in shares of the largest result (fact sheet 11).
TOLERANCE = 3 * 2.0**-8


def launch(body: Callable[..., Any], *arrays: Array) -> Any:
    """What `body(*tensors)` returns: SBUF tiles come back as arrays."""

    def kernel(*tensors: Any) -> Any:
        found = body(*tensors)
        return tuple(map(_to_hbm, found)) if isinstance(found, tuple) else _to_hbm(found)

    return nki.jit(kernel)(*arrays)


def _to_hbm(tile: Any) -> Any:
    result = nl.ndarray(tile.shape, dtype=tile.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=result, src=tile)
    return result


def in_sbuf(tensor: Any) -> Any:
    tile = nl.ndarray(tensor.shape, dtype=tensor.dtype)
    nisa.dma_copy(dst=tile, src=tensor)
    return tile


# --- floor and ceil ---------------------------------------------------------------------------------------


def whole(function: Callable[[float], int], x: Array) -> Array:
    """`function` of every element as int32: saturated, 0 for NaN."""
    found = []
    for value in x.ravel().tolist():
        if math.isnan(value):
            found.append(0)
        elif math.isinf(value):
            found.append(2**31 - 1 if value > 0 else -(2**31))
        else:
            found.append(max(-(2**31), min(2**31 - 1, function(value))))
    return np.array(found, np.int64).astype(np.int32).reshape(x.shape)


def rounded(kernel: Callable[..., None], x: Array, allocator: ModularAllocator | None = None) -> Array:
    def body(tensor: Any) -> Any:
        source, result = in_sbuf(tensor), nl.ndarray(tensor.shape, dtype=nl.int32)
        kernel(source, result, *tensor.shape, allocator)
        return result

    found: Array = launch(body, x)
    return found


ALL_BFLOAT16 = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32).reshape(128, 512)


@pytest.mark.parametrize(
    ("kernel", "function"), [(floor_nisa_kernel, math.floor), (ceil_nisa_kernel, math.ceil)], ids=["floor", "ceil"]
)
def test_every_bfloat16_is_rounded_as_python_does(kernel: Any, function: Any) -> None:
    assert (rounded(kernel, ALL_BFLOAT16) == whole(function, ALL_BFLOAT16)).all()


def test_float32_near_integers_and_halves_is_rounded_as_python_does() -> None:
    grid = np.concatenate([np.arange(-40, 41) / 2, [2.0**23 - 0.5, 2.0**24 + 2, 2.0**31, -(2.0**31), 2.0**31 - 128]])
    x = grid.astype(np.float32)
    near = np.stack([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(-np.inf))])
    assert (rounded(floor_nisa_kernel, near) == whole(math.floor, near)).all()
    assert (rounded(ceil_nisa_kernel, near) == whole(math.ceil, near)).all()


def test_a_cast_alone_is_no_floor() -> None:
    x = np.array([[0.75, -0.25, 1.5]], np.float32)
    cast = launch(lambda t: nl.copy(in_sbuf(t), dtype=nl.int32), x)
    assert (cast != whole(math.floor, x)).any()


# --- ModularAllocator -------------------------------------------------------------------------------------


def test_tiles_of_an_allocator_lie_one_behind_the_other_until_it_goes_back() -> None:
    starts = []

    def body(tensor: Any) -> Any:
        space = ModularAllocator(100)
        first = space.alloc_sbuf_tensor((128, 3), nl.float32)
        second = space.alloc_sbuf_tensor((4, 5, 6), nl.bfloat16, align_to=4, name="second")
        mark = space.get_current_address()
        third = space.alloc_sbuf_tensor((1, 1), nl.int32, align_to=64)
        space.set_current_address(mark)
        again = space.alloc_sbuf_tensor((1, 1), nl.int32, align_to=4)
        starts.extend([first.start_byte, second.start_byte, mark, third.start_byte, again.start_byte])
        return in_sbuf(tensor)

    launch(body, np.zeros((1, 1), np.float32))
    assert starts == [128, 140, 200, 256, 200]


@pytest.mark.parametrize("misuse", [lambda: ModularAllocator(-1), lambda: ModularAllocator().set_current_address(-4)])
def test_an_allocator_has_no_negative_addresses(misuse: Callable[[], Any]) -> None:
    with pytest.raises(AssertionError, match="at least 0"):
        misuse()


@pytest.mark.parametrize("step", [2, 6, 0])
def test_an_allocator_refuses_to_share_words(step: int) -> None:
    with pytest.raises(AssertionError, match="multiple of 4"):
        ModularAllocator().alloc_sbuf_tensor((1, 1), nl.float32, align_to=step)


@pytest.mark.parametrize("kernel", [floor_nisa_kernel, ceil_nisa_kernel])
def test_helpers_leave_an_allocator_where_it_was(kernel: Any) -> None:
    space = ModularAllocator(65536)
    x = ALL_BFLOAT16[:, 200:260]
    assert (rounded(kernel, x, space) == rounded(kernel, x)).all()
    assert space.get_current_address() == 65536


# --- load_kv_cache ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Loading:
    """One call of the loader."""

    block: int
    count: int
    offset: int
    d: int = 16
    turned: bool = False
    dtype: Any = ml_dtypes.bfloat16
    #: Tiles beyond those that the blocks need.
    spare: int = 0
    allocator: bool = False


BLOCKS, HEADS, HEAD, ENTRIES = 9, 2, 1, 12


def caches(case: Loading) -> tuple[Array, Array, Array]:
    """k and v [blocks, heads, tokens, d], block 0 NaN; a table whose last row has -1 and blocks that do not exist."""
    rng = np.random.default_rng(case.block)
    k, v = (
        rng.standard_normal((BLOCKS, HEADS, case.block, case.d)).astype(np.float32).astype(case.dtype)
        for _ in range(2)
    )
    k[0], v[0] = np.nan, np.nan
    table = rng.integers(1, BLOCKS, (2, ENTRIES)).astype(np.int32)
    table[1, [2, 5, 7]] = [-1, BLOCKS, 2**31 - 1]
    return k, v, table


def expected(case: Loading, cache: Array, table: Array, length: int) -> Array:
    """[length tokens, d] as bfloat16, block after block."""
    found = np.zeros((length, case.d), ml_dtypes.bfloat16)
    for n in range(case.count):
        entry = case.offset + n
        block = table[1, entry] if entry < ENTRIES else -1
        if 0 <= block < BLOCKS:
            found[n * case.block : (n + 1) * case.block] = cache[block, HEAD].astype(np.float32)
    return found


def loaded(case: Loading, k: Array, v: Array, table: Array, index: type = np.int32) -> tuple[Array, Array]:
    """Keys and values [tokens of all tiles, d] as the loader leaves them."""
    tokens = case.block * case.count
    key_tiles, value_tiles = -(-tokens // 512) + case.spare, -(-tokens // 128) + case.spare

    def body(k_cache: Any, v_cache: Any, tables: Any, offset: Any) -> Any:
        keys = [nl.ndarray((case.d, 512), dtype=nl.bfloat16) for _ in range(key_tiles)]
        values = [nl.ndarray((128, case.d), dtype=nl.bfloat16) for _ in range(value_tiles)]
        space = ModularAllocator(100 * 1024) if case.allocator else None
        load_kv_cache(
            k_cache, v_cache, tables, keys, values, 1, HEAD, in_sbuf(offset), case.count, space, case.turned
        )
        assert space is None or space.get_current_address() == 100 * 1024
        return (*keys, *values)

    if case.turned:
        k = np.ascontiguousarray(k.transpose(0, 1, 3, 2)).reshape(-1, case.d, case.block)
    found = launch(body, k, v, table, np.full((1, 1), case.offset, index))
    return np.concatenate([tile.T for tile in found[:key_tiles]]), np.concatenate(found[key_tiles:])


LOADINGS = [
    *(Loading(block, count, 1, turned=turned) for turned in (False, True)
      for block, count in ((4, 11), (16, 11), (64, 7), (128, 5), (256, 3), (512, 2))),
    Loading(16, 8, 6, dtype=ml_dtypes.float8_e4m3),
    Loading(16, 8, 6, dtype=ml_dtypes.float8_e5m2, turned=True),
    Loading(32, 9, 0, d=128, spare=2, allocator=True),
    Loading(32, 9, 0, d=100, spare=1, turned=True, allocator=True),
    Loading(16, 6, ENTRIES + 40),
]  # fmt: skip


def label(case: Loading) -> str:
    return f"bs{case.block}-n{case.count}-at{case.offset}-d{case.d}{'-turned' if case.turned else ''}"


@pytest.mark.parametrize("case", LOADINGS, ids=label)
def test_every_token_of_a_block_has_its_place_and_all_others_are_zero(case: Loading) -> None:
    k, v, table = caches(case)
    keys, values = loaded(case, k, v, table)
    assert keys.tobytes() == expected(case, k, table, len(keys)).tobytes()
    assert values.tobytes() == expected(case, v, table, len(values)).tobytes()


def test_the_offset_of_a_load_may_be_unsigned() -> None:
    case = Loading(16, 4, 3)
    k, v, table = caches(case)
    signed, unsigned = loaded(case, k, v, table), loaded(case, k, v, table, np.uint32)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(signed, unsigned, strict=True))


# --- calls of the kernel ----------------------------------------------------------------------------------


def config_of(
    queries: int, prior: int, segment: int, block: int = 16, heads: int = 1, d: int = 32, **more: Any
) -> Config:
    """One sequence whose table holds `prior` tokens and the chunk, when data come from seed 0."""
    entries = (prior + queries) // block
    fields = {"batch": 1, "num_q_heads": heads, "max_blocks": entries, "num_blocks": more.get("batch", 1) * entries + 4}
    return Config(seqlen_q=queries, d_head=d, block_size=block, prior_seg_size=segment, **fields | more)


def inputs_of(config: Config, lane: str = "normal", seed: int = 0) -> Inputs:
    return SUBJECT.build(config, lane, seed)


def run(config: Config, inputs: Inputs) -> Inputs:
    return SUBJECT.kernel(config, inputs, backend("sim"))


def dense(config: Config, inputs: Inputs, sink: Array | None = None) -> Array:
    """[BQ, S, d] in float64: one softmax over all keys, looked up token by token. Default layouts alone."""
    c = config
    prior = int(inputs["prior_tokens"][0, 0])
    token = np.arange(prior + c.seqlen_q)
    query = np.arange(c.seqlen_q)[:, None]
    visible = token <= prior + query
    if c.kvp:
        visible = token <= query + int(inputs["kvp_offset"][0, 0])
    if c.sliding_window:
        visible &= token > prior + query - c.sliding_window
    sink = inputs.get("sink") if sink is None else sink
    found = np.zeros((c.rows, c.seqlen_q, c.d_head))
    for row in range(c.rows):
        entry = inputs["block_tables"][row // c.num_q_heads, token // c.block_size].astype(np.int64)
        # Nothing is looked up that no query sees.
        entry = np.where(visible.any(axis=0), entry, -1)
        head = row % c.num_q_heads * c.num_kv_heads // c.num_q_heads
        k, v = (
            np.where((entry >= 0)[:, None], inputs[n][entry, head, token % c.block_size].astype(np.float64), 0.0)
            for n in ("k_cache", "v_cache")
        )
        q = inputs["q"][row].astype(np.float64)
        if c.k_scale:
            q = q * inputs["k_scale"][: c.d_head, 0]
        scores = np.where(visible, c.scale * (q @ k.T), -np.inf)
        columns = [] if sink is None else [np.full((c.seqlen_q, 1), float(sink[row, 0]))]
        logits = np.concatenate([scores, *columns], axis=1)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        out = weights[:, : token.size] @ v / weights.sum(axis=1, keepdims=True)
        found[row] = out * inputs["v_scale"][: c.d_head, 0] if c.v_scale else out
    return found


def distance(got: Array, wanted: Array) -> float:
    """Largest error in shares of the largest value; inf where one is NaN."""
    error = float(np.abs(got.astype(np.float64) - wanted).max() / np.abs(wanted).max())
    return math.inf if math.isnan(error) else error


def assert_right(config: Config, inputs: Inputs) -> None:
    assert distance(run(config, inputs)["out"], dense(config, inputs)) <= TOLERANCE


def same(one: Inputs, other: Inputs) -> bool:
    return all(one[name].tobytes() == other[name].tobytes() for name in one)


# --- defects ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "prior"), [(128, 0), (0, 0), (0, 128), (0, 256), (0, 640)])
def test_b1_the_sink_counts_once_whatever_the_prior(window: int, prior: int) -> None:
    config = config_of(128, prior, 256, heads=2, sink="float32", sliding_window=window)
    inputs = inputs_of(config)
    out = run(config, inputs)["out"]
    assert distance(out, dense(config, inputs)) <= TOLERANCE
    for wrong in (np.full((2, 1), -np.inf), inputs["sink"] + np.log(2.0)):
        assert distance(out, dense(config, inputs, wrong)) > 2 * TOLERANCE


@pytest.mark.parametrize("queries", [256, 512])
def test_b2_the_other_cores_tokens_are_attended_without_zero_columns(queries: int) -> None:
    config = config_of(queries, 128, 256)
    inputs = inputs_of(config)
    assert_right(config, inputs)
    alone = run(dataclasses.replace(config, lnc=1), inputs)["out"]
    assert distance(run(config, inputs)["out"], alone.astype(np.float64)) <= TOLERANCE


def test_b3_every_row_has_its_own_sink() -> None:
    config = config_of(128, 0, 256, heads=2, batch=2, sink="float32")
    inputs = inputs_of(config)
    out = run(config, inputs)["out"]
    assert distance(out, dense(config, inputs)) <= TOLERANCE
    assert distance(out, dense(config, inputs, np.repeat(inputs["sink"][:1], 4, axis=0))) > 2 * TOLERANCE


@pytest.mark.parametrize("prior", [0, 16])
def test_b4_never_written_memory_meets_no_weight(prior: int) -> None:
    config = config_of(256, prior, 1024)
    assert np.isfinite(run(config, inputs_of(config, "poison"))["out"].astype(np.float32)).all()


def test_b5_k_scale_acts_in_the_partial_segment() -> None:
    config = config_of(512, 256, 512, k_scale=True)
    inputs = inputs_of(config)
    inputs["k_scale"][:32] = 1.5
    assert_right(config, inputs)


@pytest.mark.parametrize(
    ("queries", "prior", "segment", "more"),
    [
        (256, 768, 256, {"sliding_window": 640}),
        (128, 1024, 640, {}),
        (128, 128, 128, {"k_pre_transposed": True}),
        (128, 384, 384, {"k_pre_transposed": True}),
    ],
)
def test_b6_tails_of_tiles_are_loaded(queries: int, prior: int, segment: int, more: dict[str, Any]) -> None:
    config = config_of(queries, prior, segment, 128, heads=2, **more)
    rows = dataclasses.replace(config, k_pre_transposed=False)
    inputs = inputs_of(config, "poison")
    assert distance(run(config, inputs)["out"], dense(rows, inputs_of(rows, "poison"))) <= TOLERANCE


def test_b7_v_scale_runs_along_the_head() -> None:
    config = config_of(128, 128, 128, v_scale=True, tp_out=True)
    inputs = inputs_of(config)
    inputs["v_scale"][:32, 0] = np.linspace(0.5, 1.5, 32)
    out = run(config, inputs)["out"].transpose(0, 2, 1)
    assert distance(out, dense(config, inputs)) <= TOLERANCE


def test_b8_the_prior_is_attended_once() -> None:
    config = config_of(128, 256, 512)
    assert_right(config, inputs_of(config))


@pytest.mark.parametrize("turned", [False, True])
def test_b9_tiles_at_addresses_of_their_own_share_no_bytes_while_they_are_read(turned: bool) -> None:
    case = Loading(64, 9, 1, d=64, turned=turned, allocator=True)
    k, v, table = caches(case)
    placed, free = loaded(case, k, v, table), loaded(dataclasses.replace(case, allocator=False), k, v, table)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(placed, free, strict=True))


def test_b10_many_segments_are_summed_in_float32() -> None:
    config = config_of(128, 4096, 64, d=16, lnc=1)
    assert_right(config, inputs_of(config))


def test_b11_every_row_counts_its_own_segments() -> None:
    config = config_of(128, 512, 128, heads=4, num_kv_heads=4, batch=2, lnc=1)
    assert_right(config, inputs_of(config))


def test_b12_an_offset_of_the_prior_is_plain_attention() -> None:
    config = config_of(256, 400, 256, heads=2, kvp=True)
    inputs = inputs_of(config)
    assert int(inputs["kvp_offset"][0, 0]) == 400
    plain = run(dataclasses.replace(config, kvp=False), {n: x for n, x in inputs.items() if n != "kvp_offset"})
    assert distance(run(config, inputs)["out"], plain["out"].astype(np.float64)) <= TOLERANCE
    assert_right(config, inputs)


def test_b13_a_rounded_reciprocal_loses_no_segment() -> None:
    assert np.float32(656) * np.float32(1.0 / 656) < 1
    for prior in (656, 1312):
        config = config_of(128, prior, 656)
        assert_right(config, inputs_of(config))


@pytest.mark.parametrize("turned", [False, True])
def test_b14_a_skipped_page_behind_the_tokens_is_zeros(turned: bool) -> None:
    config = config_of(128, 144, 256, d=64, k_pre_transposed=turned)
    inputs = inputs_of(config, "poison")
    dropped = inputs["block_tables"][0, -3:].copy()
    inputs["block_tables"][0, -3:] = -1
    for name in ("k_cache", "v_cache"):
        inputs[name][dropped] = np.nan
    out = run(config, inputs)["out"]
    padded = {name: x.copy() for name, x in inputs.items()}
    padded["block_tables"][0, -3:] = dropped
    for name in ("k_cache", "v_cache"):
        padded[name][dropped] = 0
    assert np.isfinite(out.astype(np.float32)).all()
    assert out.tobytes() == run(config, padded)["out"].tobytes()


def test_b15_block_0_is_no_padding() -> None:
    config = config_of(128, 144, 256)
    inputs = inputs_of(config)
    table = inputs["block_tables"]
    spare = int(np.setdiff1d(np.arange(config.num_blocks), table)[0])
    for name in ("k_cache", "v_cache"):
        inputs[name][spare] = inputs[name][0]
        inputs[name][0] = np.nan
    table[table == 0] = spare
    assert_right(config, inputs)


def test_b16_a_table_narrower_than_the_window_is_enough() -> None:
    config = config_of(128, 0, 128, 128, sliding_window=128)
    assert config.max_blocks == 1
    assert_right(config, inputs_of(config))


def test_b17_a_window_with_an_offset_is_refused_by_the_kernel_itself() -> None:
    config = config_of(128, 0, 128, kvp=True)
    inputs = inputs_of(config)
    with pytest.raises(AssertionError, match="cannot be combined"):
        run(dataclasses.replace(config, sliding_window=128), inputs)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"block_size": 32}, "block_size must be that of the caches"),
        ({"prior_seg_size": 250}, "prior_seg_size must be"),
        ({"num_q_heads": 3}, "a row per sequence"),
        ({"sliding_window": 24}, "sliding_window must be"),
    ],
)
def test_a_call_that_the_kernel_cannot_carry_out_is_asserted_against(changes: dict[str, Any], text: str) -> None:
    config = config_of(128, 128, 256)
    with pytest.raises(AssertionError, match=text):
        run(dataclasses.replace(config, **changes), inputs_of(config))


# --- what changes no bit, and what rounding only ----------------------------------------------------------

BASE = config_of(256, 400, 256, heads=4, num_kv_heads=2, sink="float32")


@pytest.mark.parametrize("flag", ["tp_q", "tp_out", "k_pre_transposed"])
def test_layouts_change_no_bit(flag: str) -> None:
    other = dataclasses.replace(BASE, **{flag: not getattr(BASE, flag)})
    out, turned = run(BASE, inputs_of(BASE))["out"], run(other, inputs_of(other))["out"]
    if flag == "tp_out":
        turned = np.ascontiguousarray(turned.transpose(0, 2, 1))
    assert out.tobytes() == turned.tobytes()


@pytest.mark.parametrize("path", [{}, {"sliding_window": 128}, {"kvp": True}])
def test_permuted_pages_unread_blocks_and_a_wider_table_change_no_bit(path: dict[str, Any]) -> None:
    config = dataclasses.replace(BASE, **path)
    inputs = inputs_of(config)
    rng = np.random.default_rng(1)
    wide = dataclasses.replace(config, num_blocks=config.num_blocks + 7, max_blocks=config.max_blocks + 50)
    place = rng.permutation(wide.num_blocks)[: config.num_blocks]
    moved = dict(inputs)
    for name in ("k_cache", "v_cache"):
        moved[name] = np.full((wide.num_blocks, *inputs[name].shape[1:]), np.nan, inputs[name].dtype)
        moved[name][place] = inputs[name]
    table = rng.integers(-(2**31), 2**31, (1, wide.max_blocks)).astype(np.int32)
    named = (inputs["block_tables"] >= 0) & (inputs["block_tables"] < config.num_blocks)
    table[:, : config.max_blocks][named] = place[inputs["block_tables"][named]]
    assert same(run(config, inputs), run(wide, moved | {"block_tables": table}))


@pytest.mark.parametrize("path", [{}, {"sliding_window": 128}, {"kvp": True}])
def test_whole_rows_on_one_core_or_two_have_the_same_bits(path: dict[str, Any]) -> None:
    config = dataclasses.replace(BASE, **path)
    inputs = inputs_of(config)
    assert same(run(config, inputs), run(dataclasses.replace(config, lnc=1), inputs))


def test_a_power_of_two_as_k_scale_is_that_scale_of_q() -> None:
    config = dataclasses.replace(BASE, k_scale=True)
    inputs = inputs_of(config)
    inputs["k_scale"][:] = 2.0
    plain = {name: x for name, x in inputs.items() if name != "k_scale"}
    plain["q"] = inputs["q"] * inputs["q"].dtype.type(2)
    assert same(run(config, inputs), run(BASE, plain))


@pytest.mark.parametrize("kv_dtype", ["float8_e4m3", "float8_e5m2"])
def test_eight_bit_caches_are_their_values_in_bfloat16(kv_dtype: str) -> None:
    config = dataclasses.replace(BASE, kv_dtype=kv_dtype)
    inputs = inputs_of(config)
    wide = {name: inputs[name].astype(np.float32).astype(ml_dtypes.bfloat16) for name in ("k_cache", "v_cache")}
    assert same(run(config, inputs), run(BASE, inputs | wide))


@pytest.mark.parametrize("segment", [16, 48, 128, 400, 640])
def test_the_length_of_segments_changes_rounding_only(segment: int) -> None:
    config = dataclasses.replace(BASE, prior_seg_size=segment)
    assert_right(config, inputs_of(BASE))


@pytest.mark.parametrize("segment", [16, 128, 400])
def test_ties_have_the_same_bits_whatever_the_segments(segment: int) -> None:
    inputs = inputs_of(BASE, "exact")
    assert same(run(BASE, inputs), run(dataclasses.replace(BASE, prior_seg_size=segment), inputs))


def test_one_chunk_and_two_agree_up_to_rounding() -> None:
    config = dataclasses.replace(BASE, sink=None)
    inputs = inputs_of(config)
    half = dataclasses.replace(config, seqlen_q=128)
    parts = [
        run(half, inputs | {"q": inputs["q"][:, at : at + 128], "prior_tokens": np.full((1, 1), 400 + at, np.int32)})
        for at in (0, 128)
    ]
    joined = np.concatenate([part["out"] for part in parts], axis=1).astype(np.float64)
    assert distance(run(config, inputs)["out"], joined) <= TOLERANCE


# --- shares of the cores ----------------------------------------------------------------------------------


@pytest.mark.parametrize("with_offset", [False, True])
@pytest.mark.parametrize(
    ("rows", "queries", "block"), [(1, 128, 16), (1, 256, 256), (3, 1024, 512), (4, 384, 16), (5, 640, 16)]
)
def test_two_cores_own_every_query_once(rows: int, queries: int, block: int, with_offset: bool) -> None:
    owned = np.zeros((rows, queries), np.int64)
    for prg in range(2):
        for part in core_slices(rows, queries, block, with_offset, 2, prg):
            assert part.first % max(128, block) == 0
            assert part.length % 128 == 0
            owned[part.row, part.first : part.first + part.length] += 1
    assert (owned == 1).all()


def test_rows_share_a_pass_only_where_they_meet_the_same_keys_and_fit() -> None:
    parts = core_slices(8, 128, 16, False, 1, 0)
    by_rows = [[part.row for part in group] for group in passes(parts, 4, 2, 64, True)]
    assert by_rows == [[0, 1], [2, 3], [4, 5], [6, 7]]
    long = core_slices(8, 10240, 16, False, 1, 0)
    assert [len(group) for group in passes(long, 8, 1, 128, True)] == [1] * 8
