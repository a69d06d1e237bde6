"""What a lane promises of a whole case holds for the inputs that a kernel gets, after casts and layouts.

The builders check the tensors that they make a relation of. Here the inputs of every kernel are held to the claim of
their lane by other means: by what model and truth make of them. Each check has a case of lane normal that it refuses.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.envelope import envelopes, values64
from conformance.lanes import EXACT_LANES, FP8_EDGES
from conformance.pairwise import pool
from conformance.registry import kernel, kernel_names
from conformance.subject import Arrays, Subject
from reference.numerics.cast import to_float32
from reference.numerics.ulp import same_bits

Array = NDArray[Any]


@functools.cache
def _drawn(name: str) -> list[Any]:
    return pool(kernel(name), 80, seed=4)


def _configs(name: str, lane: str, drawn: int, wanted: Callable[[Any], bool] = lambda config: True) -> list[Any]:
    """A listed config of a lane, and some drawn ones that it fits."""
    subject = kernel(name)
    listed = [case.config for case in subject.catalog if case.lane == lane and "ci" in case.tags]
    fitting = [config for config in _drawn(name) if subject.lane_fits(config, lane)]
    found = [*itertools.islice(filter(wanted, listed), 1), *filter(wanted, fitting)]
    assert found, f"{name} has no config for lane {lane}"
    return found[: drawn + 1]


def _with_lane(*lanes: str) -> list[Any]:
    return [
        pytest.param(name, lane, id=f"{name}-{lane}") for name in kernel_names() for lane in lanes
        if lane in kernel(name).lanes
    ]  # fmt: skip


# ---- exact lanes: no answer to an open question changes a bit ---------------------------------------------------


def _moved(subject: Subject, config: Any, inputs: Arrays) -> int:
    """Elements that some answer to an open question changes."""
    spans = envelopes(subject, config, inputs).values()
    return sum(int((~((span.low == span.high) | np.isnan(span.low))).sum()) for span in spans)


@pytest.mark.parametrize(("name", "lane"), _with_lane(*EXACT_LANES))
def test_in_an_exact_lane_every_answer_to_every_open_question_gives_the_same_bits(name: str, lane: str) -> None:
    subject = kernel(name)
    for config in _configs(name, lane, 1):
        assert _moved(subject, config, subject.build(config, lane, 5)) == 0


@pytest.mark.parametrize("name", kernel_names())
def test_with_normal_data_some_answer_changes_bits(name: str) -> None:
    subject = kernel(name)
    moved = [_moved(subject, config, subject.build(config, "normal", 5)) for config in _configs(name, "normal", 3)]
    assert max(moved) > 0


# ---- poison: what it replaces is not read -----------------------------------------------------------------------


def _poisoned(inputs: Arrays) -> dict[str, NDArray[np.bool_]]:
    found = {name: np.isnan(to_float32(one)) for name, one in inputs.items() if one.dtype.kind not in "iub"}
    return {name: places for name, places in found.items() if places.any()}


def _reads_poison(subject: Subject, config: Any, inputs: Arrays) -> bool:
    """Whether a number depends on what stands in the poisoned places. NaN is what poison itself may come out as."""
    healthy = dict(inputs)
    for name, places in _poisoned(inputs).items():
        healthy[name] = np.where(places, np.ones((), inputs[name].dtype), inputs[name]).astype(inputs[name].dtype)
    dirty, clean = (subject.model(config, given) for given in (inputs, healthy))
    return not all(np.all(same_bits(dirty[one], clean[one]) | np.isnan(values64(dirty[one]))) for one in dirty)


@pytest.mark.parametrize(("name", "lane"), _with_lane("poison", "pages"))
def test_what_is_poisoned_decides_no_number(name: str, lane: str) -> None:
    subject = kernel(name)
    poisoned, finite = 0, 0
    for config in _configs(name, lane, 5):
        inputs = subject.build(config, lane, 5)
        poisoned += len(_poisoned(inputs))
        finite += sum(int(np.isfinite(values64(one)).sum()) for one in subject.model(config, inputs).values())
        assert not _reads_poison(subject, config, inputs)
    # A page table that names every block, or a single token that is all poison, may be among them.
    assert poisoned
    assert finite


@pytest.mark.parametrize("name", kernel_names())
def test_a_healthy_number_that_turns_into_another_is_noticed(name: str) -> None:
    """The twin: the check sees what happens when healthy values of an argument that is read are poison."""
    subject = kernel(name)
    (config,) = _configs(name, "poison", 0)
    inputs = subject.build(config, "normal", 5)
    assert not _poisoned(inputs)
    read = next(one for one in ("v_prior", "v_cache", "V_cache", "weight", "fused_qkv_weights") if one in inputs)
    inputs[read] = inputs[read].copy()
    inputs[read].reshape(-1)[::2] = np.nan
    assert np.isnan(values64(subject.model(config, inputs)["out"])).any()


# ---- one_hot: an output row is a row of one input ---------------------------------------------------------------


def _rows_found(out: Array, source: Array, width: int) -> float:
    """Share of the rows of `out`, of `width` numbers, that stand in `source`."""
    known = {row.tobytes() for row in values64(source).reshape(-1, width)}
    rows = values64(out).reshape(-1, width)
    return float(np.mean([row.tobytes() in known for row in rows]))


def _shown(name: str, config: Any, inputs: Arrays, outputs: Arrays) -> tuple[Array, Array, int]:
    """An output, the input whose rows it is to show, and their width."""
    if name == "attention_tkg":
        d = config.d_head
        tokens = np.concatenate([values64(inputs[one]).reshape(-1, d) for one in ("v_prior", "v_active")])
        return outputs["out"].reshape(config.bs, -1, d, config.s_active).swapaxes(2, 3), tokens, d
    if name == "attention_segmented_cte":
        return outputs["out"], inputs["v_cache"], config.d_head
    if name == "output_projection_tkg":
        return outputs["out"], inputs["weight"], config.H
    return outputs["out"], inputs["fused_qkv_weights"], config.I


def _is_plain(name: str, config: Any) -> bool:
    """Whether values reach the output as they are: one dtype, no bias, scale, rotation or other layout."""
    c = config
    if name == "attention_tkg":
        same = c.dtype == c.kv_dtype == c.active_dtype == c.out_dtype
        return same and not (c.out_in_sb or c.fuse_rope or c.block_kv)
    if name == "attention_segmented_cte":
        return c.dtype == c.kv_dtype and not (c.v_scale or c.tp_out or c.kvp)
    if name == "output_projection_tkg":
        floats = c.dtype == c.weight_dtype and c.quantization == "NONE"
        return floats and c.bias is None and not (c.transpose_out or c.out_in_sb or c.attention_in_sb)
    floats = c.dtype == c.weight_dtype and c.quantization == "NONE" and c.kv_cache == "NONE"
    return floats and c.bias is None and c.output_layout == "BSD" and not (c.fused_rope or c.fused_residual_add)


ONE_HOT = [name for name in kernel_names() if name != "attention_block_tkg"]


@pytest.mark.parametrize("name", ONE_HOT)
def test_in_lane_one_hot_every_output_row_is_a_row_of_one_input(name: str) -> None:
    subject = kernel(name)
    fits = functools.partial(_is_plain, name)
    # The catalog's own configs come first, then whatever is drawn that is plain.
    for config in _configs(name, "one_hot", 1, fits):
        inputs = subject.build(config, "one_hot", 5)
        assert _rows_found(*_shown(name, config, inputs, subject.model(config, inputs))) == 1
        normal = subject.build(config, "normal", 5)
        assert _rows_found(*_shown(name, config, normal, subject.model(config, normal))) < 0.5


# ---- lanes of scores --------------------------------------------------------------------------------------------


#: Rows of scores are told by a debug output, or by the statistics that partial results come with.
_TOLD = {"attention_tkg": ("dbg_qk_max", {"debug": True}), "attention_segmented_cte": ("neg_max", {"kvp": True})}


def _largest_scores(name: str, lane: str, other: str) -> tuple[Array, Array]:
    """The maximum of every row of scores as truth has it, for the same config in two lanes."""
    subject, (output, told) = kernel(name), _TOLD[name]
    changed = (dataclasses.replace(config, **told) for config in _drawn(name) if subject.lane_fits(config, lane))
    config = next(one for one in changed if subject.legal(one) is None)
    found = []
    for one in (lane, other):
        scores = -subject.truth(config, subject.build(config, one, 0))[output]
        # Zeros stand where a tile has no row, 2**127 for rows that see nothing.
        found.append(np.asarray(scores[(scores != 0) & (np.abs(scores) < 1e30)]))
    return found[0], found[1]


@pytest.mark.parametrize("name", sorted(_TOLD))
def test_in_lane_shift_no_row_survives_exp_without_its_maximum(name: str) -> None:
    shifted, normal = _largest_scores(name, "shift", "normal")
    # exp overflows float32 from 88.73 on.
    assert shifted.min() > 89 > normal.max()


@pytest.mark.parametrize("name", sorted(_TOLD))
def test_in_lane_rising_the_last_keys_are_far_above_what_first_ones_have(name: str) -> None:
    """A maximum that is not renewed leaves weights that are too large by e^16 at least."""
    rising, normal = _largest_scores(name, "rising", "normal")
    # First queries may not see the last keys.
    assert np.median(rising) > 16 > normal.max()


# ---- edges and special tokens -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "outputs"), [("qkv", ("k_cache", "v_cache")), ("attention_block_tkg", ("K_out", "V_out"))]
)
def test_in_lane_fp8_edge_values_come_to_the_cast_at_the_edges_of_its_format(
    name: str, outputs: tuple[str, ...]
) -> None:
    subject = kernel(name)
    for config in _configs(name, "fp8_edge", 2, functools.partial(_casts_new_keys, name)):
        shares = {}
        for lane in ("fp8_edge", "normal"):
            inputs = subject.build(config, lane, 5)
            truth = subject.truth(config, inputs)
            before = [values64(inputs[subject.output(one).argument or one]) for one in outputs]
            fresh = [truth[one][truth[one] != old] for one, old in zip(outputs, before, strict=True)]
            edges = np.asarray(FP8_EDGES) * (2**8 if getattr(config, "kv_dtype", "") == "float8_e5m2" else 1)
            shares[lane] = [float(np.isin(np.abs(new), [*FP8_EDGES, *edges]).mean()) for new in fresh]
        assert min(shares["fp8_edge"]) > 0.25, config
        assert max(shares["normal"]) < 0.05


@pytest.mark.parametrize(("dtype", "largest", "beyond"), [("float8_e4m3", 240, 248), ("float8_e5m2", 57344, 61440)])
@pytest.mark.parametrize("io", ["bfloat16", "float16"])
def test_in_lane_fp8_edge_values_lie_on_both_sides_of_what_caches_clamp_at(
    dtype: str, largest: int, beyond: int, io: str
) -> None:
    subject = kernel("qkv")
    known = dataclasses.replace(subject.case("cte-kv-edge").config, fp8_max=None, fp8_min=None)
    config = dataclasses.replace(known, kv_dtype=dtype, dtype=io, weight_dtype=io)
    hidden = np.abs(values64(subject.build(config, "fp8_edge", 0)["input"]))
    assert np.isfinite(hidden).all()
    assert min((hidden == largest).sum(), (hidden >= beyond).sum()) > 100
    cache = np.abs(values64(subject.model(config, subject.build(config, "fp8_edge", 0))["k_cache"]))
    assert cache[np.isfinite(cache)].max() == largest


def test_in_lane_fp8_edge_the_caches_that_are_read_hold_edges_of_their_format() -> None:
    subject = kernel("attention_segmented_cte")
    for config in _configs(subject.name, "fp8_edge", 3):
        for cache in ("k_cache", "v_cache"):
            # Seed 0 fills all blocks but a few with tokens.
            found = {lane: values64(subject.build(config, lane, 0)[cache]) for lane in ("fp8_edge", "normal")}
            shares = {lane: float(np.isin(np.abs(x), np.asarray(FP8_EDGES)).mean()) for lane, x in found.items()}
            assert shares["fp8_edge"] > 0.4 > 0.1 > shares["normal"], (config, cache)


def _casts_new_keys(name: str, config: Any) -> bool:
    """Whether keys become FP8 that were nothing of the kind before, with room for more than a few edges."""
    if name == "qkv":
        return bool(config.kv_cache != "NONE" and config.quantization == "NONE" and (config.fp8_max or 240) > 200)
    return bool(config.quantized_kv and config.update_cache)


def _tokens(inputs: Arrays, config: Any) -> NDArray[np.float64]:
    """Rows of hidden states, [tokens, H]."""
    name = "input" if "input" in inputs else "X"
    return values64(inputs[name]).reshape(config.tokens, -1)


@pytest.mark.parametrize(("name", "lane"), _with_lane("zero_token"))
def test_in_lane_zero_token_exactly_one_token_is_zero(name: str, lane: str) -> None:
    subject = kernel(name)
    for config in _configs(name, lane, 2, lambda c: not getattr(c, "X_in_sb", False)):
        zero, normal = (_tokens(subject.build(config, one, 5), config) for one in (lane, "normal"))
        assert (~zero.any(axis=1)).tolist() == [False] * (config.tokens - 1) + [True]
        assert normal.any(axis=1).all()


@pytest.mark.parametrize(("name", "lane"), [("qkv", "poison"), ("attention_block_tkg", "nan_token")])
def test_exactly_one_token_is_not_a_number(name: str, lane: str) -> None:
    subject = kernel(name)
    for config in _configs(name, lane, 2, lambda c: not getattr(c, "X_in_sb", False)):
        rows = _tokens(subject.build(config, lane, 5), config)
        padding = rows.shape[1] - (getattr(config, "hidden_actual", None) or rows.shape[1])
        assert np.isnan(rows).sum(axis=1).tolist()[:-1] == [0] * (config.tokens - 1)
        assert np.isnan(rows[-1]).sum() >= rows.shape[1] - padding


def test_in_lane_near_constant_tokens_hardly_vary() -> None:
    subject = kernel("qkv")
    for config in _configs("qkv", "near_constant", 3):
        near, normal = (_tokens(subject.build(config, lane, 5), config) for lane in ("near_constant", "normal"))
        relative = near.std(axis=1) / np.abs(near).mean(axis=1)
        # A step of bfloat16 at 1000 is 4.
        assert relative.max() < 0.005
        assert (normal.std(axis=1) / np.abs(normal.mean(axis=1))).min() > 1


def test_in_lane_mx_edge_blocks_end_at_edges_and_one_holds_a_nan() -> None:
    subject = kernel("qkv")
    (config,) = _configs("qkv", "mx_edge", 0, lambda c: not c.is_input_swizzled)
    edge, normal = (
        values64(subject.build(config, lane, 5)["input"]).reshape(-1, 32) for lane in ("mx_edge", "normal")
    )
    assert np.isnan(edge).any(axis=1).sum() == 1
    tops, plain = (np.nanmax(np.abs(blocks), axis=1) for blocks in (edge, normal))
    powers = [float(np.mean(np.isin(one, 2.0 ** np.arange(-130, 10)))) for one in (tops, plain)]
    assert powers[0] > 0.15 > powers[1]
    assert (tops == 0).any()


def test_in_lane_heavy_tailed_what_a_kernel_reads_has_heavy_tails() -> None:
    for name, tensor in (
        ("qkv", "input"), ("attention_tkg", "v_prior"), ("output_projection_tkg", "attention"),
        ("attention_block_tkg", "X"), ("attention_segmented_cte", "v_cache"), ("attention_segmented_cte", "k_cache"),
    ):  # fmt: skip
        subject = kernel(name)
        (config,) = _configs(name, "heavy_tailed", 0)
        kurtosis = {}
        for lane in ("heavy_tailed", "normal"):
            values = values64(subject.build(config, lane, 5)[tensor])
            squares = np.square(values[np.isfinite(values)])
            kurtosis[lane] = np.mean(np.square(squares)) / np.mean(squares) ** 2
        assert kurtosis["heavy_tailed"] > 6 > kurtosis["normal"], name
