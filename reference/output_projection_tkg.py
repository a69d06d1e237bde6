"""Truth and bit-faithful model of `output_projection_tkg` (contract: the module of that name in contracts).

`inputs` holds arrays by argument name: attention [D, B, N, S] and weight [N*D, H] always; bias [1, H],
weight_scale and input_scale where the config has them (absent or None otherwise). Both functions return
{"out": array} of `config.out_shape`, results left in SBUF stacked on a leading core axis.

Source: fact sheet of the kernel, sections 5 (packing), 6 (double row), 7 (tiles), 8 and 11 (rounding points).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.contract import raise_refusal
from reference.contracts.output_projection_tkg import (
    BANK,
    FP8,
    FP8_MAX,
    PARTITIONS,
    Config,
    inputs_refusal,
)
from reference.numerics import DEFAULT, NumericsProfile
from reference.numerics.alu import BINARY, UNARY
from reference.numerics.cast import to_float32
from reference.numerics.dot import double_row_pass, matmul_passes
from reference.recorder import NO_RECORD, Recorder
from reference.rounding import is_study, round_to

Array = NDArray[Any]
Inputs = Mapping[str, Any]

#: Columns of weight worked on at a time: one group of them, widened to float64, stays in a core's cache.
_BLOCK = 512


def truth(config: Config, inputs: Inputs) -> dict[str, Array]:
    """The projection in float64 without any rounding of intermediates, {"out": float64 of config.out_shape}.

    STATIC: attention/input_scale is clamped to +-240 (the clamp is part of what is computed), but not rounded
    to fp8; the sum is scaled by weight_scale*input_scale. ROW: column h is scaled by weight_scale[0, h]. The
    bias is added last. NaN and infinities propagate as in float64; the clamp keeps NaN.

    The last float64 bits depend on the machine's BLAS: compare within bounds, never store.

    Raises:
        KernelArgumentError: the contract refuses the config or the inputs.
    """
    _require(config, inputs)
    return projected(config, inputs)


def projected(config: Config, inputs: Inputs) -> dict[str, Array]:
    """`truth` of a legal call; attention may be float64, where a stage before this one made it."""
    with np.errstate(all="ignore"):
        plain = _project(_truth_tokens(config, inputs), inputs["weight"]) * _truth_scale(config, inputs)
        if config.bias is not None:
            plain = plain + inputs["bias"].astype(np.float64)
    return {"out": arrange(config, plain)}


def _truth_tokens(config: Config, inputs: Inputs) -> Array:
    """Attention as float64 [BS, N*D], quantisation undone only by its clamp."""
    attention = inputs["attention"].astype(np.float64)
    if config.quantization == "STATIC":
        attention = np.clip(attention / np.float64(inputs["input_scale"][0, 0]), -FP8_MAX, FP8_MAX)
    return np.ascontiguousarray(attention.transpose(1, 3, 2, 0).reshape(config.tokens, -1))


def _truth_scale(config: Config, inputs: Inputs) -> Any:
    """What the sums are multiplied by: a scalar, or one float64 per hidden index."""
    if config.quantization == "NONE":
        return np.float64(1)
    scale = inputs["weight_scale"][0].astype(np.float64)
    return scale * np.float64(inputs["input_scale"][0, 0]) if config.quantization == "STATIC" else scale


def _project(tokens: Array, weight: Array) -> Array:
    """tokens @ weight in float64, [BS, H], without a float64 copy of the whole weight."""
    out = np.empty((tokens.shape[0], weight.shape[1]))
    for start in range(0, weight.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        np.matmul(tokens, to_float32(weight[:, block]).astype(np.float64), out=out[:, block])
    return out


def arrange(config: Config, plain: Array) -> Array:
    """[BS, H] in the layout of the result (contract, transposed index rule)."""
    split: Array
    if config.transpose_out:
        split = plain.reshape(config.tokens, config.lnc, PARTITIONS, config.h2)
        return np.ascontiguousarray(split.transpose((1, 2, 3, 0) if config.out_in_sb else (2, 1, 3, 0)))
    if config.out_in_sb:
        split = plain.reshape(config.tokens, config.lnc, config.shard)
        return np.ascontiguousarray(split.transpose(1, 0, 2))
    return plain


def model(
    config: Config, inputs: Inputs, profile: NumericsProfile = DEFAULT, record: Recorder = NO_RECORD
) -> dict[str, Array]:
    """The kernel's own numbers, rounding point by rounding point: {"out": config.dtype of config.out_shape}.

    Overflow becomes infinity; NaN propagates, through the clamp of STATIC as `profile.maxmin_nan` says; the
    sign of a zero that underflow left is kept, since the first matmul pass overwrites PSUM and scaling adds
    nothing. The inputs are never written. Every point of the contract is recorded under its name, tile by
    tile, per core.

    Raises:
        KernelArgumentError: the contract refuses the config or the inputs.
    """
    if not is_study(profile):
        _require(config, inputs)
    with np.errstate(all="ignore"):
        packed = _operand(config, inputs, profile, record)
        cores = [_core(config, inputs, packed, core, profile, record) for core in range(config.lnc)]
    return {"out": _gather(config, cores)}


def _require(config: Config, inputs: Inputs) -> None:
    """Refuses what the contract refuses, and inputs that are not those of the config."""
    raise_refusal(inputs_refusal(config, inputs))


# --- the attention operand --------------------------------------------------------------------------------


def _operand(config: Config, inputs: Inputs, profile: NumericsProfile, record: Recorder) -> Array:
    """attention_packed as matmul operands: [n, d, BS], in double row [n/2, d, 2, BS]."""
    attention = inputs["attention"]
    if config.quantization == "STATIC":
        attention = _quantize(config, inputs, profile, record)
    groups = _pack(config, attention)
    if not config.double_row:
        _record_all(config, record, "attention_packed", groups.transpose(1, 0, 2).reshape(config.rows, -1))
        return groups
    pairs = groups.reshape(config.groups // 2, 2, config.rows, config.tokens)
    tile = pairs.transpose(2, 1, 0, 3).reshape(config.rows, 2, -1)
    _record_all(config, record, "attention_packed", tile)
    return np.ascontiguousarray(pairs.transpose(0, 2, 1, 3))


def _quantize(config: Config, inputs: Inputs, profile: NumericsProfile, record: Recorder) -> Array:
    """Attention in fp8 (STATIC): scaled, rounded to io, clamped, rounded to fp8."""
    scale = inputs["input_scale"][:1, :1]
    inverse = UNARY["reciprocal"](scale, profile)
    _record_all(config, record, "scale", _partitions(_static_scale(inputs, profile)))
    _record_all(config, record, "inv_scale", _partitions(inverse))
    # The public kernels round to io between the multiply and the cast: two roundings, and not those of one.
    product = BINARY["multiply"](to_float32(inputs["attention"]), inverse, profile)
    scaled = round_to("attention_scaled", product, config.dtype, profile)
    _record_all(config, record, "attention_scaled", scaled)
    clamped = BINARY["minimum"](to_float32(scaled), np.float32(FP8_MAX), profile)
    clamped = BINARY["maximum"](clamped, np.float32(-FP8_MAX), profile)
    quantized = round_to("attention_fp8", clamped, FP8, profile)
    _record_all(config, record, "attention_fp8", quantized)
    return quantized


def _pack(config: Config, attention: Array) -> Array:
    """[D, B, N, S] to [n, d, BS]: head G*g + off becomes rows off*D .. of group G."""
    heads = attention.transpose(2, 0, 1, 3).reshape(config.groups, config.rows, config.tokens)
    return np.ascontiguousarray(heads)


def _static_scale(inputs: Inputs, profile: NumericsProfile) -> Array:
    """The dequantisation scale of STATIC, [1, 1]; the rows of both scales are identical by contract."""
    return BINARY["multiply"](inputs["weight_scale"][:1, :1], inputs["input_scale"][:1, :1], profile)


def _partitions(scalar: Array) -> Array:
    return np.broadcast_to(scalar, (PARTITIONS, 1))


def _record_all(config: Config, record: Recorder, point: str, value: Array) -> None:
    """A tile that every core holds alike."""
    if record.enabled:
        for core in range(config.lnc):
            record(point, (), value, core=core)


# --- one core ---------------------------------------------------------------------------------------------


def _core(
    config: Config, inputs: Inputs, packed: Array, core: int, profile: NumericsProfile, record: Recorder
) -> Array:
    """The result of one core: [BS, Hs], or [128, H_2, BS] transposed."""
    shard = slice(core * config.shard, (core + 1) * config.shard)
    psum = _psum(config, packed, inputs["weight"][:, shard], profile)
    _record_tiles(config, record, "out_psum", psum, core)
    out = _evict(config, inputs, psum, shard, core, profile, record)
    if record.enabled:
        record("out", (0,), out, core=core)
    return out


def _psum(config: Config, packed: Array, weight: Array, profile: NumericsProfile) -> Array:
    """All PSUM values of a core, float32 [BS, Hs], or [128, H_2, BS] transposed.

    Which columns share a matmul instruction changes no bits, so one call covers the shard. The stationary
    operand comes first, as the profile's answers about the PE may tell the two apart.
    """
    groups: Array = weight.reshape(config.groups, config.rows, config.shard)
    if config.double_row:
        groups = groups.reshape(-1, 2, config.rows, config.shard).transpose(0, 2, 1, 3)
    run = _double_row_passes if config.double_row else matmul_passes
    if config.transpose_out:
        # Hidden indices of a shard are partition-major: [Hs] is [128, H_2] as it stands.
        return run(groups, packed, profile).reshape(PARTITIONS, config.h2, config.tokens)
    return run(packed, groups, profile)


def _double_row_passes(stationary: Array, moving: Array, profile: NumericsProfile) -> Array:
    """`matmul_passes` of double_row instructions: [n/2, d, 2, M] and [n/2, d, 2, N] to float32 [M, N]."""
    psum = double_row_pass(stationary[0], moving[0], profile)
    for a, b in zip(stationary[1:], moving[1:], strict=True):
        psum = double_row_pass(a, b, profile, acc=psum)
    return psum


def _evict(
    config: Config,
    inputs: Inputs,
    psum: Array,
    shard: slice,
    core: int,
    profile: NumericsProfile,
    record: Recorder,
) -> Array:
    """PSUM to io: dequantisation first and rounded, then the bias, unscaled and rounded (facts section 8)."""
    value = psum
    if config.quantization != "NONE":
        scale = _dequant_scale(config, inputs, shard, core, profile, record)
        # Without bias the scaled value is the result: one rounding, and the point has the result's name.
        point = "out" if config.bias is None else "out_dequant"
        value = round_to(point, BINARY["multiply"](psum, scale, profile), config.dtype, profile)
    if config.bias is None:
        return value if config.quantization != "NONE" else round_to("out", value, config.dtype, profile)
    if config.quantization != "NONE":
        _record_tiles(config, record, "out_dequant", value, core)
    bias = _per_hidden(config, inputs["bias"][:, shard], "out_bias", core, record)
    return round_to("out", BINARY["add"](to_float32(value), to_float32(bias), profile), config.dtype, profile)


def _dequant_scale(
    config: Config, inputs: Inputs, shard: slice, core: int, profile: NumericsProfile, record: Recorder
) -> Array:
    if config.quantization == "STATIC":
        return _static_scale(inputs, profile)
    return _per_hidden(config, inputs["weight_scale"][:1, shard], "row_scale", core, record)


def _per_hidden(config: Config, row: Array, point: str, core: int, record: Recorder) -> Array:
    """One value per hidden index of a shard, [1, Hs], in the shape that meets the psum array; recorded."""
    if config.transpose_out:
        tile = row.reshape(PARTITIONS, config.h2)
        if record.enabled:
            record(point, (), tile, core=core)
        return tile[:, :, None]
    if record.enabled:
        record(point, (), np.broadcast_to(row, (config.tokens, config.shard)), core=core)
    return row


def _record_tiles(config: Config, record: Recorder, point: str, value: Array, core: int) -> None:
    """Cut an array of psum's shape into PSUM tiles: (0, i) per 512 columns, or (t,) per P values of h_2."""
    if not record.enabled:
        return
    step = config.h2_per_bank if config.transpose_out else BANK
    for index, start in enumerate(range(0, value.shape[1], step)):
        tile = (index,) if config.transpose_out else (0, index)
        record(point, tile, value[:, start : start + step], core=core)


def _gather(config: Config, cores: list[Array]) -> Array:
    """The cores' results as one array: stacked when left in SBUF, else each in its columns or slab of HBM."""
    if config.out_in_sb:
        return np.stack(cores)
    return np.stack(cores, axis=1) if config.transpose_out else np.concatenate(cores, axis=1)
