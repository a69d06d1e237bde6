"""Claims about the contract of `attention_tkg`: edges accepted, the next step refused, and the cuts of a call."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from conformance.tests.kernels.attention_tkg_inputs import BLOCK, FP8, ROPE, build, config_of, dtype_changes
from reference.attention_tkg import model
from reference.contracts.attention_tkg import (
    CALL_RULES,
    CONTRACT,
    Config,
    call_refusal,
    refusal,
    tensors,
    validate,
    validate_call,
    written,
)
from reference.contracts.attention_tkg_plan import plan
from reference.errors import KernelArgumentError
from reference.numerics.formats import format_of

FLAT = config_of()
PAGED = config_of(**BLOCK)
TURNED = config_of(**ROPE)
QUANTIZED = config_of(**FP8)
EIGHTS = config_of(**dtype_changes("float8_e4m3"))
WIDE = config_of(**dtype_changes("float32"))
ALONE = config_of(bs=1, q_head=1, s_active=1)

#: rule id: (a config at the edge that is legal, the same config one step past it).
EDGES = {
    "sizes": [
        *(
            (FLAT, replace(FLAT, **{name: 0}))
            for name in ("bs", "q_head", "s_active", "d_head", "curr_sprior")
        ),
        (ALONE, replace(ALONE, bs=-1)),
        (FLAT, replace(FLAT, curr_sprior=512.0)),
        (FLAT, replace(FLAT, block_len=-16)),
    ],
    "flags": [
        (replace(FLAT, out_in_sb=True), replace(FLAT, out_in_sb=1)),
        (PAGED, replace(PAGED, tp_k_prior=2)),
    ],
    "lnc": [(replace(FLAT, lnc=1), replace(FLAT, lnc=0)), (FLAT, replace(FLAT, lnc=3))],
    "limits": [(replace(FLAT, limits="latest"), replace(FLAT, limits="later"))],
    "d_head": [(replace(FLAT, d_head=128), replace(FLAT, d_head=129))],
    "s_active": [(replace(ALONE, s_active=128), replace(ALONE, s_active=129))],
    "columns": [(replace(ALONE, q_head=512), replace(ALONE, q_head=513))],
    "sprior": [
        (replace(FLAT, full_sprior=512), replace(FLAT, full_sprior=511)),
        (replace(ALONE, s_active=128, curr_sprior=128), replace(ALONE, s_active=128, curr_sprior=127)),
    ],
    "cache_rows": [(replace(FLAT, cache_rows=2), replace(FLAT, cache_rows=1))],
    "dtypes": [
        (FLAT, replace(FLAT, kv_dtype="float8_e5m2")),
        (FLAT, replace(FLAT, dtype="float8_e4m3fn")),
        (replace(FLAT, sink="float16"), replace(FLAT, sink="float8_e4m3")),
        (replace(FLAT, out_dtype="float32"), replace(FLAT, out_dtype="float8_e4m3")),
        (replace(FLAT, mask_dtype="int32"), replace(FLAT, mask_dtype="int8")),
    ],
    "fp8_kv": [
        (QUANTIZED, replace(QUANTIZED, active_dtype="bfloat16")),
        (FLAT, replace(FLAT, active_dtype="float8_e4m3")),
    ],
    "fp8_query": [(EIGHTS, replace(QUANTIZED, dtype="float32")), (FLAT, replace(FLAT, dtype="float8_e4m3"))],
    "fp8_rope": [
        (QUANTIZED, replace(QUANTIZED, qk_in_sb=False)),
        (QUANTIZED, replace(QUANTIZED, fuse_rope=True)),
    ],
    "float32_pair": [
        (WIDE, replace(WIDE, dtype="bfloat16", active_dtype="float32")),
        (FLAT, replace(FLAT, kv_dtype="float32")),
    ],
    "active_dtype": [
        (replace(FLAT, dtype="float16", active_dtype="float16"), replace(FLAT, active_dtype="float16")),
        (TURNED, replace(TURNED, kv_dtype="float16", active_dtype="float16")),
    ],
    "qk_in_sb": [(TURNED, replace(FLAT, qk_in_sb=False))],
    "block_strided": [(PAGED, replace(PAGED, strided_mm1=True))],
    "block_tp_k": [(PAGED, replace(PAGED, tp_k_prior=False))],
    "block_qk_in_sb": [(PAGED, replace(PAGED, fuse_rope=True, qk_in_sb=False))],
    "block_multiple": [(PAGED, replace(PAGED, block_len=48))],
    "key_tiles": [
        (replace(FLAT, lnc=1, curr_sprior=384), replace(FLAT, curr_sprior=384)),
        (replace(FLAT, bs=4, q_head=8, s_active=5, curr_sprior=384), replace(FLAT, bs=1, curr_sprior=384)),
        (replace(FLAT, curr_sprior=128), replace(FLAT, curr_sprior=127)),
    ],
    "block_ids": [(replace(PAGED, num_blocks=2**21), replace(PAGED, num_blocks=2**21 + 1))],
    "rope_batch": [
        (replace(TURNED, bs=1, q_head=42), replace(TURNED, bs=1, q_head=43)),
        (replace(TURNED, lnc=1, curr_sprior=128), replace(TURNED, curr_sprior=128)),
    ],
    "rope_d": [(replace(TURNED, d_head=128), replace(TURNED, d_head=96))],
    "rope_sprior": [
        (
            replace(TURNED, curr_sprior=2**17, full_sprior=2**17),
            replace(TURNED, curr_sprior=2**17 + 256, full_sprior=2**18),
        )
    ],
    "k_out_rope": [
        (TURNED, replace(FLAT, k_out=True)),
        (replace(TURNED, k_out_in_sb=True), replace(TURNED, k_out=False, k_out_in_sb=True)),
    ],
    "pos_id_batch": [
        (
            replace(FLAT, use_pos_id=True, curr_sprior=128, limits="latest"),
            replace(FLAT, use_pos_id=True, curr_sprior=128),
        )
    ],
    "pos_id_block": [(replace(PAGED, use_pos_id=True, limits="latest"), replace(PAGED, use_pos_id=True))],
    "psum_columns": [
        (
            replace(ALONE, curr_sprior=131072, full_sprior=2**18, enable_fa_s_prior_tiling=False),
            replace(ALONE, curr_sprior=131328, full_sprior=2**18, enable_fa_s_prior_tiling=False),
        ),
    ],
    "score_buffer": [
        (
            replace(FLAT, lnc=1, q_head=128, s_active=2, curr_sprior=16384, full_sprior=16384),
            replace(FLAT, lnc=1, q_head=257, s_active=1, curr_sprior=16384, full_sprior=16384),
        ),
    ],
}


def test_every_rule_has_an_edge() -> None:
    assert set(EDGES) == {rule.id for rule in CONTRACT.rules}


@pytest.mark.parametrize(
    ("rule", "legal", "illegal"), [(r, *pair) for r, pairs in EDGES.items() for pair in pairs]
)
def test_the_edge_is_accepted_and_the_next_step_refused_by_its_rule(
    rule: str, legal: Config, illegal: Config
) -> None:
    assert refusal(legal) is None
    found = refusal(illegal)
    assert found is not None
    assert found.rule == rule
    with pytest.raises(KernelArgumentError, match=rf"^attention_tkg: .*\[{rule}\]; got "):
        validate(illegal)


def test_a_config_survives_json() -> None:
    for config in (FLAT, PAGED, TURNED, EIGHTS):
        assert Config(**json.loads(json.dumps(asdict(config)))) == config


def test_the_kernels_config_has_its_fields_in_the_published_order() -> None:
    assert list(FLAT.kernel_config) == [
        "bs", "q_head", "s_active", "curr_sprior", "full_sprior", "d_head", "block_len", "tp_k_prior",
        "strided_mm1", "use_pos_id", "fuse_rope", "use_gpsimd_sb2sb", "qk_in_sb", "k_out_in_sb", "out_in_sb",
        "enable_fa_s_prior_tiling",
    ]  # fmt: skip


def test_the_signature_is_the_published_one() -> None:
    assert CONTRACT.signature == (
        "attention_tkg(q, k_active, v_active, k_prior, v_prior, mask, out, cfg, sbm, inv_freqs=None, "
        "rope_pos_ids=None, sink=None, active_blocks_table=None, k_out=None, DBG_TENSORS=None)"
    )


# --- the plan ---------------------------------------------------------------------------------------------

#: (bs, q_head, s_active, curr_sprior) on two cores: sharding, keys per core, keys of the flash tiles.
CUTS = {
    (4, 2, 7, 256): ("sequence", 128, [128]),
    (128, 1, 1, 1024): ("sequence", 512, [512]),
    (129, 1, 1, 1024): ("sequence", 512, [512]),
    (130, 1, 1, 1024): ("batch", 1024, [1024]),
    (4, 8, 7, 3072): ("batch", 3072, [3072]),
    (4, 1, 5, 128): ("batch", 128, [128]),
    (5, 7, 7, 24576): ("sequence", 12288, [8192, 4096]),
    (3, 1, 5, 128): ("none", 128, [128]),
    (1, 1, 1, 16384): ("sequence", 8192, [8192]),
    (1, 1, 1, 32768): ("sequence", 16384, [8192, 8192]),
    (2, 1, 1, 16640): ("sequence", 8320, [8192, 128]),
}


@pytest.mark.parametrize("sizes", CUTS)
def test_calls_are_cut_as_published(sizes: tuple[int, int, int, int]) -> None:
    kind, keys, tiles = CUTS[sizes]
    names = ("bs", "q_head", "s_active", "curr_sprior")
    found = plan(config_of(**dict(zip(names, sizes, strict=True)), full_sprior=sizes[3]))
    assert (found.sharding, found.keys_per_core, [tile.keys for tile in found.flash_tiles]) == (
        kind,
        keys,
        tiles,
    )


def test_one_core_is_never_sharded() -> None:
    for sizes in CUTS:
        config = config_of(curr_sprior=sizes[3], full_sprior=sizes[3], bs=sizes[0], lnc=1, q_head=1)
        assert config.plan.sharding == "none"
        assert config.plan.shards == 1


def test_without_flash_tiling_there_is_one_tile() -> None:
    config = config_of(curr_sprior=32768, full_sprior=32768, enable_fa_s_prior_tiling=False)
    assert [tile.keys for tile in config.plan.flash_tiles] == [16384]


#: (bs, q_head, s_active, curr_sprior, block_len): resized length, on two cores.
LENGTHS = {
    (4, 1, 5, 8192, 16): 16,
    (4, 1, 5, 10240, 16): 8,
    (4, 1, 5, 16640, 16): 1,
    (4, 1, 5, 82432, 16): 2,
    (8, 8, 5, 82432, 16): 4,
    (8, 8, 5, 4096, 128): 32,
}


@pytest.mark.parametrize("sizes", LENGTHS)
def test_blocks_are_resized_as_published(sizes: tuple[int, ...]) -> None:
    names = ("bs", "q_head", "s_active", "curr_sprior", "block_len")
    config = config_of(**BLOCK | dict(zip(names, sizes, strict=True)) | {"full_sprior": sizes[3]})
    assert config.plan.block_len == LENGTHS[sizes]
    assert config.plan.block_len * config.plan.block_factor == sizes[4]


def test_batch_tiles_cover_the_batch_within_their_budget() -> None:
    for bs, heads, slots in ((1024, 4, 256), (7, 128, 8448), (1, 256, 8192), (64, 8, 2048)):
        found = config_of(bs=bs, q_head=heads, s_active=1, curr_sprior=slots, full_sprior=slots, lnc=1).plan
        covered = [b for tile in found.batch_tiles for b in tile]
        assert covered == list(range(bs))
        longest = max(tile.key_tiles for tile in found.flash_tiles)
        assert found.batch_tile == 1 or found.batch_tile * heads * (longest * 7 + 32) <= 131072
        assert found.score_group * heads <= 512
        assert found.score_group <= 32


# --- calls ------------------------------------------------------------------------------------------------


def given(config: Config) -> dict[str, Any]:
    """All tensors of a legal call, those that are written included."""
    inputs: dict[str, Any] = build(config)
    return inputs | {
        name: np.zeros(tensor.shape, format_of(tensor.dtype).storage)
        for name, tensor in written(config).items()
    }


CONFIGS = {
    "flat": replace(FLAT, out_in_sb=True),
    "block": PAGED,
    "rope": TURNED,
    "debug": replace(PAGED, debug=True, sink="bfloat16"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_legal_call_is_accepted(name: str) -> None:
    config = CONFIGS[name]
    validate_call(config, given(config))
    validate_call(config, build(config))
    assert set(given(config)) == set(tensors(config)) | set(written(config))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_tensor_is_missed_and_every_shape_and_dtype_checked(name: str) -> None:
    config = CONFIGS[name]
    whole = given(config)
    for tensor in tensors(config):
        assert refused(config, whole | {tensor: None}) == "tensors_given"
    for tensor, x in whole.items():
        assert refused(config, whole | {tensor: x[..., None]}) == "tensor_shapes"
        assert refused(config, whole | {tensor: x[:-1]}) == "tensor_shapes"
        other = np.uint16 if x.dtype.itemsize != 2 else np.uint8
        assert refused(config, whole | {tensor: np.zeros(x.shape, other)}) == "tensor_shapes"
    assert refused(config, whole | {"q": whole["q"].astype(np.float64)}) == "tensor_shapes"


def refused(config: Config, tensors_: dict[str, Any]) -> str | None:
    found = call_refusal(config, tensors_)
    return None if found is None else found.rule


def test_tensors_that_the_mode_does_not_read_are_refused() -> None:
    extra = given(TURNED) | {"sink": np.zeros((2, 1), np.float32), "active_blocks_table": np.zeros((2, 1))}
    for name in ("inv_freqs", "rope_pos_ids", "k_out", "sink", "active_blocks_table"):
        assert refused(FLAT, given(FLAT) | {name: extra[name]}) == "tensors_unused"


def test_block_ids_and_positions_are_looked_at() -> None:
    inputs = build(PAGED)
    inputs["active_blocks_table"][1, 3] = PAGED.blocks
    assert refused(PAGED, inputs) == "block_id_range"
    for bad in (-1.0, np.nan, np.inf):
        inputs = build(TURNED)
        inputs["rope_pos_ids"][0, 1] = bad
        assert refused(TURNED, inputs) == "position_range"


def test_every_call_rule_is_reached_by_a_test_above() -> None:
    reached = {"tensors_given", "tensors_unused", "tensor_shapes", "block_id_range", "position_range"}
    assert {rule.id for rule in CALL_RULES} == reached


def test_the_model_refuses_an_illegal_call() -> None:
    inputs = build(FLAT)
    del inputs["mask"]
    with pytest.raises(KernelArgumentError, match=r"no mask"):
        model(FLAT, inputs)
