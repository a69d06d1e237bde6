"""The attention_tkg kernel on the machine: defects of public kernels, what may not change a bit, and what must fit.

Claims: on the inputs that reveal each known defect (facts sheet, section 11.4) the kernel gives the model's bits and
stays inside its tolerance of truth; where a config says that one key is kept, the output is that key's value row, bit
for bit. Placement, transport, sharding by batch, permuted pages, permuted and dropped batches change no bit. The
sizes that decode runs at fit the chip's memories, under explicit addresses as well. A failure of a case ends with the
command that runs it again.

Not here: B5 in its sliding-window form and B6 belong to arguments and kernels that this project does not have; B13 is
about a mask generator, of which the natural order of rows is the part that this kernel reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.backends.sim import SimBackend
from conformance.cases.attention_tkg import SUBJECT
from conformance.runner import run_case
from conformance.subject import Case, case_id
from reference.contracts.attention_tkg import FP8, Config, refusal
from reference.neuroncore.launch import Result
from reference.neuroncore.memory import Allocator
from reference.neuroncore.options import Options
from reference.numerics.ulp import same_bits

pytestmark = pytest.mark.sim

Array = NDArray[Any]
Arrays = dict[str, Array]

#: Bytes per partition that explicit placement gets: what trn2 has, less the 16 KiB that public tests leave free.
SBUF_BYTES = 212984 - 16 * 1024


def config_of(B: int, H: int, s: int, S: int, d: int = 8, **fields: Any) -> Config:
    """A legal config; `block` sets what a block KV cache needs."""
    values: dict[str, Any] = {"full_sprior": S}
    if fields.get("block_len"):
        values |= {"tp_k_prior": True, "strided_mm1": False}
    config = Config(B, H, s, S, **values | {"d_head": d} | fields)
    assert refusal(config) is None, refusal(config)
    return config


def launched(config: Config, inputs: Arrays, options: Options | None = None, **arguments: Any) -> Result:
    """The launch of the kernel with its trace; `arguments` go to the kernel that loads operands."""
    call = SUBJECT.call(config, inputs, SUBJECT.load())
    call = dataclasses.replace(call, arguments={**call.arguments, **arguments})
    return SimBackend(options or Options()).launch(call)


def outputs(config: Config, inputs: Arrays, options: Options | None = None, **arguments: Any) -> Arrays:
    """Named outputs of the kernel."""
    found: Arrays = launched(config, inputs, options, **arguments).outputs
    return found


def assert_same(got: Arrays, wanted: Arrays) -> None:
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        assert same_bits(got[name], array).all(), name


def assert_right(config: Config, lane: str = "normal", seed: int = 0) -> None:
    """Model and truth agree with the kernel, as far as the required grades ask."""
    result = run_case(SUBJECT, Case(case_id(config, lane, seed), config, lane, seed))
    assert result.passed, result.report()


# --- defects ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_b1_runs_and_interleavings_agree_bit_for_bit(seed: int) -> None:
    config = config_of(3, 2, 3, 512, 32, sink="float32", out_in_sb=True)
    inputs = SUBJECT.build(config, "normal", 0)
    assert_same(outputs(config, inputs, Options(seed=seed, quantum=1)), outputs(config, inputs))


@pytest.mark.parametrize(("B", "S", "length"), [(2, 16640, 1), (1, 82432, 2)])
def test_b2_active_values_reach_short_blocks_row_by_row(B: int, S: int, length: int) -> None:
    config = config_of(B, 1, 5, S, block_len=16)
    assert config.plan.block_len == length
    # One key per column, a third of them active: each output is that key's row of values.
    assert_right(config, "one_hot")


@pytest.mark.parametrize("sbuf_bytes", [0, SBUF_BYTES], ids=["placed by the compiler", "explicit"])
@pytest.mark.parametrize("block_len", [0, 16])
def test_b3_every_tile_starts_on_a_whole_word(
    monkeypatch: pytest.MonkeyPatch, sbuf_bytes: int, block_len: int
) -> None:
    starts = []
    place = Allocator.place

    def spy(self: Allocator, *args: Any, **kwargs: Any) -> Any:
        storage = place(self, *args, **kwargs)
        starts.append(storage.byte0)
        return storage

    monkeypatch.setattr(Allocator, "place", spy)
    config = config_of(3, 1, 5, 512, block_len=block_len, sink="float32")
    outputs(config, SUBJECT.build(config, "normal", 0), sbuf_bytes=sbuf_bytes)
    assert starts
    assert all(start % 4 == 0 for start in starts)


def test_b4_each_core_takes_the_active_mask_of_its_own_batches() -> None:
    config = config_of(4, 8, 5, 256, use_pos_id=True, limits="latest")
    inputs = SUBJECT.build(config, "normal", 0)
    assert config.plan.n_bat == 2
    first_half = inputs["mask"].copy()
    first_half[:, 2:] = first_half[:, :2]
    right, wrong = (SUBJECT.model(config, inputs | {"mask": mask}) for mask in (inputs["mask"], first_half))
    assert not same_bits(right["out"], wrong["out"]).all()
    assert_right(config)


def test_b5_later_queries_see_no_stale_slot_behind_the_first_ones_position() -> None:
    config = config_of(2, 1, 5, 256, use_pos_id=True)
    inputs = SUBJECT.build(config, "normal", 0)
    inputs["rope_pos_ids"][:] = 100 + np.arange(5)
    wanted = outputs(config, inputs)
    for name, axis in (("k_prior", 3), ("v_prior", 2)):
        stale = np.moveaxis(inputs[name], axis, 0)
        stale[100:105] = 1000
    assert_same(outputs(config, inputs), wanted)


@pytest.mark.parametrize(("B", "H", "s"), [(5, 7, 4), (3, 16, 7), (131, 1, 1)])
def test_b7_columns_beyond_the_first_128_have_their_own_maximum(B: int, H: int, s: int) -> None:
    assert_right(config_of(B, H, s, 256, sink="float32", debug=True), "shift")


@pytest.mark.parametrize("sink", [None, "float32"])
def test_b8_fully_masked_leading_flash_tiles_leave_no_nan_on_the_second_core(sink: str | None) -> None:
    config = config_of(1, 1, 1, 49152, sink=sink, use_pos_id=True)
    inputs = SUBJECT.build(config, "normal", 0)
    inputs["rope_pos_ids"][:] = 100
    _assert_finite_and_right(config, inputs)


@pytest.mark.parametrize("layout", ["strided", "sequential", "block"])
def test_b8_a_window_inside_the_last_flash_tile_leaves_no_nan(layout: str) -> None:
    block_len = 16 if layout == "block" else 0
    config = config_of(1, 1, 1, 24576, lnc=1, strided_mm1=layout == "strided", block_len=block_len)
    inputs = SUBJECT.build(config, "normal", 0)
    # Rows of the last flash tile come last in every order of rows.
    inputs["mask"][:20000] = 0
    inputs["mask"][20000:] = 1
    _assert_finite_and_right(config, inputs)


def _assert_finite_and_right(config: Config, inputs: Arrays) -> None:
    got, wanted = outputs(config, inputs), SUBJECT.model(config, inputs)
    assert np.isfinite(got["out"].astype(np.float32)).all()
    assert_same(got, wanted)
    truth = SUBJECT.truth(config, inputs)["out"]
    assert np.abs(got["out"].astype(np.float64) - truth).max() <= 1e-2 * np.abs(truth).max()


def test_b9_rows_of_a_mask_of_96_key_tiles_are_in_block_order() -> None:
    assert_right(config_of(1, 1, 5, 12288, block_len=16, lnc=1, enable_fa_s_prior_tiling=False), "one_hot")


def test_b10_blocks_are_cut_for_sequence_shards_not_for_cores() -> None:
    config = config_of(8, 8, 5, 4096, 8, block_len=128)
    assert (config.plan.n_bat, config.plan.block_len) == (2, 32)
    assert_right(config, "one_hot")


def test_b11_block_tables_of_more_than_128_batches_per_core_are_read_whole() -> None:
    config = config_of(260, 1, 1, 256, block_len=16, debug=True)
    assert config.plan.batches_per_core == 130
    assert config.plan.block_factor == 8
    assert_right(config, "one_hot")


@pytest.mark.parametrize("use_gpsimd", [True, False])
@pytest.mark.parametrize(("B", "H", "s"), [(5, 7, 7), (9, 4, 8)])
def test_b12_wide_outputs_are_exchanged_whole(B: int, H: int, s: int, use_gpsimd: bool) -> None:
    assert_right(config_of(B, H, s, 256, use_gpsimd_sb2sb=use_gpsimd, out_in_sb=True))


@pytest.mark.parametrize("strided", [True, False])
def test_b13_rows_of_a_flat_mask_are_tokens(strided: bool) -> None:
    assert_right(config_of(3, 2, 2, 1024, 16, strided_mm1=strided), "one_hot")


@pytest.mark.parametrize("cores", [1, 2])
def test_b14_one_column_and_one_key_tile_are_enough(cores: int) -> None:
    assert_right(config_of(1, 1, 1, 128 * cores, lnc=cores, debug=True, sink="bfloat16"))


@pytest.mark.parametrize("d", [1, 72, 100, 127])
def test_b15_any_head_size_can_be_exchanged(d: int) -> None:
    assert_right(config_of(1, 2, 3, 256, d, out_in_sb=True))


@pytest.mark.filterwarnings("ignore::reference.neuroncore.errors.MachineWarning")
def test_b16_positions_up_to_the_limit_follow_the_models_reduction() -> None:
    config = config_of(1, 2, 3, 256, 64, fuse_rope=True, qk_in_sb=False, k_out=True)
    inputs = SUBJECT.build(config, "normal", 0)
    inputs["rope_pos_ids"][:] = 131069 + np.arange(3)
    assert_same(outputs(config, inputs), SUBJECT.model(config, inputs))


@pytest.mark.parametrize("pos_id", [False, True])
@pytest.mark.parametrize("block_len", [0, 16])
def test_b18_dropped_slots_may_hold_nan_and_positions_may_lie_among_the_active_slots(
    pos_id: bool, block_len: int
) -> None:
    limits = "latest" if pos_id and block_len else "seed"
    config = config_of(3, 2, 5, 512, 16, use_pos_id=pos_id, block_len=block_len, limits=limits)
    for seed in range(3):
        assert_right(config, "poison", seed)
    if pos_id:
        inputs = SUBJECT.build(config, "normal", 0)
        inputs["rope_pos_ids"][:] = 512 - 5 + 3
        assert_same(outputs(config, inputs), SUBJECT.model(config, inputs))


# --- what changes no bit ----------------------------------------------------------------------------------

Changed = Callable[[Config, Arrays], tuple[Config, Arrays]]


def _rows_first(config: Config, inputs: Arrays) -> tuple[Config, Arrays]:
    turned = np.ascontiguousarray(inputs["k_prior"].transpose(0, 1, 3, 2))
    return dataclasses.replace(config, tp_k_prior=True), inputs | {"k_prior": turned}


def _longer_cache(config: Config, inputs: Arrays) -> tuple[Config, Arrays]:
    room = dataclasses.replace(config, full_sprior=config.full_sprior + 77, cache_rows=config.bs + 2)
    k = np.full((room.rows, 1, config.d_head, room.full_sprior), np.nan, inputs["k_prior"].dtype)
    v = np.full((room.rows, 1, room.full_sprior, config.d_head), np.nan, inputs["v_prior"].dtype)
    k[: config.bs, :, :, : config.curr_sprior] = inputs["k_prior"]
    v[: config.bs, :, : config.curr_sprior] = inputs["v_prior"]
    return room, inputs | {"k_prior": k, "v_prior": v}


def _dma_transport(config: Config, inputs: Arrays) -> tuple[Config, Arrays]:
    return dataclasses.replace(config, use_gpsimd_sb2sb=False), inputs


def _other_dropped_values(config: Config, inputs: Arrays) -> tuple[Config, Arrays]:
    dropped = ~inputs["mask"].astype(bool).any(axis=(2, 3)).T
    k, v = inputs["k_prior"].copy(), inputs["v_prior"].copy()
    k.transpose(0, 3, 1, 2)[dropped] = np.nan
    v[:, 0][dropped] = np.inf
    return config, inputs | {"k_prior": k, "v_prior": v}


@pytest.mark.parametrize("change", [_rows_first, _longer_cache, _dma_transport, _other_dropped_values])
@pytest.mark.parametrize("shape", [(3, 2, 3, 512), (4, 8, 5, 256)], ids=["sequence", "batch"])
def test_layouts_transport_and_unread_values_change_no_bit(shape: tuple[int, int, int, int], change: Changed) -> None:
    config = config_of(*shape, 16, sink="float32")
    inputs = SUBJECT.build(config, "normal", 3)
    assert_same(outputs(*change(config, inputs)), outputs(config, inputs))


@pytest.mark.parametrize("shape", [(3, 2, 3, 512), (4, 8, 5, 256)], ids=["sequence", "batch"])
def test_an_output_in_sbuf_has_the_bits_of_one_in_memory_on_every_core(shape: tuple[int, int, int, int]) -> None:
    config = config_of(*shape, 16)
    inputs = SUBJECT.build(config, "normal", 0)
    stored = outputs(config, inputs)["out"]
    kept = outputs(dataclasses.replace(config, out_in_sb=True), inputs)["out"]
    columns = stored.transpose(2, 0, 1, 3).reshape(16, -1)
    assert kept.shape == (2, 16, columns.shape[1])
    assert all(same_bits(copy, columns).all() for copy in kept)


@pytest.mark.parametrize("shape", [(4, 8, 5, 256), (3, 1, 5, 128)], ids=["batch", "neither"])
@pytest.mark.parametrize("block_len", [0, 16])
def test_two_cores_that_do_not_share_keys_give_the_bits_of_one(
    shape: tuple[int, int, int, int], block_len: int
) -> None:
    two = config_of(*shape, 16, sink="bfloat16", block_len=block_len)
    inputs = SUBJECT.build(two, "normal", 0)
    assert two.plan.n_seq == 1
    assert_same(outputs(dataclasses.replace(two, lnc=1), inputs), outputs(two, inputs))


def test_a_mask_from_positions_is_as_good_as_the_same_mask() -> None:
    made = config_of(3, 2, 3, 512, 16, use_pos_id=True)
    inputs = SUBJECT.build(made, "normal", 1)
    rows = np.arange(512)[:, None] < inputs["rope_pos_ids"][:, 0]
    mask = np.broadcast_to(rows[:, :, None, None], (512, 3, 2, 3)).astype(np.uint8)
    mask[509:] = inputs["mask"]
    given = dataclasses.replace(made, use_pos_id=False)
    whole = {name: array for name, array in inputs.items() if name != "rope_pos_ids"} | {"mask": mask}
    assert_same(outputs(given, whole), outputs(made, inputs))


@pytest.mark.parametrize(("block_len", "dtype"), [(16, "bfloat16"), (128, "bfloat16"), (32, FP8)])
def test_pages_may_lie_anywhere(block_len: int, dtype: str) -> None:
    config = config_of(
        3, 2, 3, 1024, 128, block_len=block_len, num_blocks=300, kv_dtype=dtype, active_dtype=dtype
    )
    inputs = SUBJECT.build(config, "pages", 0)
    order = np.random.default_rng(0).permutation(config.blocks)
    moved = {name: inputs[name][order] for name in ("k_prior", "v_prior")}
    moved["active_blocks_table"] = np.argsort(order).astype(np.uint32)[inputs["active_blocks_table"]]
    assert_same(outputs(config, inputs | moved), outputs(config, inputs))


@pytest.mark.parametrize(("pick", "cores"), [((2, 0, 1), 2), ((1,), 2), ((0, 2), 1)], ids=str)
def test_a_batch_has_the_same_bits_whoever_it_shares_a_call_with(pick: tuple[int, ...], cores: int) -> None:
    config = config_of(3, 2, 3, 512, 16, sink="float32", lnc=cores)
    inputs = SUBJECT.build(config, "normal", 2)
    chosen = list(pick)
    part = dataclasses.replace(config, bs=len(chosen))
    assert part.plan.n_seq == config.plan.n_seq
    some = {name: inputs[name][chosen] for name in ("k_prior", "v_prior", "v_active")}
    some["mask"] = np.ascontiguousarray(inputs["mask"][:, chosen])
    for name in ("q", "k_active"):
        split = inputs[name].reshape(16, 3, -1)
        some[name] = np.ascontiguousarray(split[:, chosen]).reshape(16, -1)
    got = outputs(part, inputs | some)["out"]
    assert same_bits(got, outputs(config, inputs)["out"][chosen]).all()


def test_a_column_that_keeps_nothing_is_nan_without_a_sink_and_zero_with_one() -> None:
    for sink in (None, "float32"):
        config = config_of(2, 2, 2, 256, 16, sink=sink, lnc=1)
        inputs = SUBJECT.build(config, "normal", 0)
        whole = outputs(config, inputs)["out"].astype(np.float32)
        inputs["mask"][:, 1, 0, 1] = 0
        got = outputs(config, inputs)["out"].astype(np.float32)
        column = got[1, 0, :, 1]
        assert (column == 0).all() if sink else np.isnan(column).all()
        rest = np.ones(got.shape, bool)
        rest[1, 0, :, 1] = False
        assert np.array_equal(got[rest], whole[rest])


# --- placement --------------------------------------------------------------------------------------------

_FP32: dict[str, Any] = {"dtype": "float32", "kv_dtype": "float32", "active_dtype": "float32"}


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config_of(2, 8, 5, 8192, 128, tp_k_prior=True, lnc=1), id="Llama-3-70B at TP8 on one core"),
        pytest.param(config_of(1, 8, 1, 32768, 128, tp_k_prior=True), id="32k on two cores"),
        pytest.param(config_of(64, 8, 1, 512, 64, tp_k_prior=True), id="64 short contexts"),
        pytest.param(config_of(1, 8, 5, 8192, 128, block_len=16, sink="float32"), id="blocks of 16"),
        pytest.param(config_of(1, 8, 1, 8192, 128, block_len=128, lnc=1), id="blocks of 128 on one core"),
        pytest.param(
            config_of(1, 256, 1, 8192, 16, lnc=1, block_len=16, debug=True, **_FP32), id="score buffer at its limit"
        ),
        pytest.param(
            config_of(1, 32, 1, 65536, 8, lnc=1, enable_fa_s_prior_tiling=False, sink="float32", **_FP32),
            id="longest tile",
        ),
        pytest.param(config_of(1000, 1, 1, 128, 8, mask_dtype="float32", sink="float32"), id="widest batch tile"),
        pytest.param(
            config_of(2, 2, 3, 512, 64, fuse_rope=True, qk_in_sb=False, k_out=True, k_out_in_sb=True), id="rotation"
        ),
    ],
)
def test_explicit_addresses_fit_and_change_no_bit(config: Config) -> None:
    inputs = SUBJECT.build(config, "normal", 0)
    placed = launched(config, inputs, sbuf_bytes=SBUF_BYTES)
    assert_same(placed.outputs, outputs(config, inputs))
    assert max(counters.sbuf_high_water for counters in placed.trace.counters) <= SBUF_BYTES


def test_a_manager_made_on_the_host_is_not_moved_by_two_cores() -> None:
    from kernels.attention_tkg import AttnTKGConfig, attention_tkg
    from kernels.sbuf_manager import SbufManager

    config = config_of(2, 2, 3, 512, 64, fuse_rope=True, qk_in_sb=False, tp_k_prior=True)
    inputs = SUBJECT.build(config, "normal", 0)
    space = SbufManager(0, SBUF_BYTES)
    out = np.zeros((2, 2, 64, 3), inputs["q"].dtype)
    returned, k_out = attention_tkg[2](
        **inputs, out=out, cfg=AttnTKGConfig(**config.kernel_config), sbm=space
    )
    assert k_out is None
    assert same_bits(returned, out).all()
    assert_same({"out": out}, outputs(config, inputs))
    assert (space.peak, space.scopes) == (0, [])


@pytest.mark.parametrize("rope", [False, True], ids=["plain", "rope"])
def test_the_callers_queries_and_keys_stay_as_they_were(rope: bool) -> None:
    config = config_of(2, 2, 3, 512, 64, fuse_rope=rope, qk_in_sb=True)
    inputs = SUBJECT.build(config, "normal", 0)
    kept: list[Any] = []

    def attend(q: Any, k_active: Any, *rest: Any, **named: Any) -> Any:
        found = SUBJECT.load()(q, k_active, *rest, **named)
        # The tiles' bytes at the end of the call, on each core.
        kept.append((np.array(q.array()), np.array(k_active.array())))
        return found

    outputs(config, inputs, attend=attend)
    assert len(kept) == 2
    for q, k_active in kept:
        assert same_bits(q, inputs["q"]).all()
        assert same_bits(k_active, inputs["k_active"]).all()


def test_too_little_memory_is_told_by_scope_and_tile() -> None:
    config = config_of(2, 8, 1, 8192, 128, lnc=1)
    inputs = SUBJECT.build(config, "normal", 0)
    with pytest.raises(AssertionError, match=r"SBUF scope '\w[\w ]*' (overflows|needs)"):
        outputs(config, inputs, sbuf_bytes=16384)
