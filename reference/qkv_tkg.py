"""Bit-faithful model of `qkv` in token generation.

Core s, partition p, column j hold hidden index h = s*H/n + p*H1s + j, so that a token seen as [n, 128, H1s] needs
no copy. Each core contracts its own half of H; the halves meet in the last step. Source: fact sheet of the
kernel, sections 6 and 8.A, 8.B; contract: reference.contracts.qkv.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.contracts.qkv_config import BANK, FP8, FP8_MAX, PARTITIONS, Config
from reference.norms import LayerNormGammaFirst, RmsGammaFirst, layer_norm_gamma_first, rms_gamma_first
from reference.numerics.alu import BINARY, UNARY
from reference.numerics.cast import to_float32
from reference.numerics.dot import matmul_passes
from reference.numerics.profile import NumericsProfile
from reference.recorder import Recorder
from reference.rounding import round_to

Array = NDArray[Any]
Inputs = Mapping[str, Any]

#: PE tiles of one weight block: where the assignment of tiles to groups starts again.
H_BLOCK = 16
#: Columns of the hidden tile that one token tile of a norm may have per partition.
NORM_COLUMNS = 4096
#: Steps of the norms that hold every core's columns; what has no columns holds one value per token.
_FULL = ("norm_square",)


def model(config: Config, inputs: Inputs, profile: NumericsProfile, record: Recorder) -> dict[str, Array]:
    """Results of a legal call that token generation serves: {"out", "fused_hidden"}, see `reference.qkv`."""
    with np.errstate(all="ignore"):
        return _Call(config, inputs, profile, record).run()


@dataclass(frozen=True)
class Groups:
    """Which PSUM accumulation group each PE tile of a core belongs to."""

    #: H1s, PE tiles of a core.
    tiles: int
    #: T, tokens.
    tokens: int

    @property
    def width(self) -> int:
        """F: groups side by side in the PE array's columns, as many as leave room for the tokens."""
        return 4 if self.tokens <= 32 else 2 if self.tokens <= 64 else 1

    @property
    def full(self) -> int:
        """PE tiles in whole blocks."""
        return self.tiles - self.rest

    @property
    def rest(self) -> int:
        """PE tiles of the last, partial block."""
        return self.tiles % H_BLOCK

    @property
    def rest_width(self) -> int:
        """Groups of the partial block: all of them, or one where they would get unequal shares."""
        return self.width if self.rest % self.width == 0 else 1

    @property
    def count(self) -> int:
        """Groups that are combined."""
        return self.width if self.full else self.rest_width

    def members(self, group: int) -> Iterator[slice]:
        """The PE tiles of a group, ascending, as slices of the core's H1s tiles."""
        if self.full:
            yield slice(group, self.full, self.width)
        if self.rest and group < self.rest_width:
            yield slice(self.full + group, self.tiles, self.rest_width)


class _Call:
    """One call: the parts that its steps read."""

    def __init__(self, config: Config, inputs: Inputs, profile: NumericsProfile, record: Recorder) -> None:
        self.config, self.inputs, self.profile, self.record = config, inputs, profile, record
        self.io = config.dtype
        #: H1s: columns per partition on one core, and the number of its PE tiles.
        self.columns = config.h_tiles // config.lnc
        self.groups = Groups(self.columns, config.tokens)
        self.normed = config.norm != "NO_NORM"

    def run(self) -> dict[str, Array]:
        hidden = self.hidden()
        operand = self.operand(hidden)
        parts = [self.part(operand[:, core], core) for core in range(self.config.lnc)]
        results = {"out": self.arranged(parts[0] if len(parts) == 1 else self.joined(parts))}
        if self.config.fused_residual_add:
            results["fused_hidden"] = hidden.reshape(self.inputs["input"].shape)
        return results

    # --- tokens ---------------------------------------------------------------------------------------

    def hidden(self) -> Array:
        """The tokens as [T, n, 128, H1s] in io, the residual added by DMA: one float32 sum, one rounding."""
        hidden = self.inputs["input"]
        if self.config.fused_residual_add:
            terms = [to_float32(self.inputs[name]) for name in ("input", "attention_prev", "mlp_prev")]
            if self.profile.dma_add_order == "list_rev":
                terms.reverse()
            total = (terms[0] + terms[1]) + terms[2]
            hidden = round_to("x", total, self.io, self.profile, rounding=self.profile.dma_cast_round)
        mapped = self.by_partition(hidden)
        self.record_tokens("x", mapped, shard=not self.normed)
        return mapped

    def by_partition(self, rows: Array) -> Array:
        """[..., H] as [rows, n, 128, H1s]."""
        mapped: Array = rows.reshape(-1, self.config.lnc, PARTITIONS, self.columns)
        return mapped

    def operand(self, hidden: Array) -> Array:
        """What the PE multiplies: the normalised tokens, in STATIC in fp8; [T, n, 128, H1s]."""
        y = self.norm(hidden) if self.normed else hidden
        return self.quantized(y) if self.config.quantization == "STATIC" else y

    def norm(self, hidden: Array) -> Array:
        steps = self.norm_steps(hidden)
        for name, value in steps._asdict().items():
            if value is None:
                continue
            if value.ndim == 2:
                self.record_statistic(name, value)
            else:
                self.record_tokens(name, value, shard=name not in _FULL)
        return steps.y

    def norm_steps(self, hidden: Array) -> RmsGammaFirst | LayerNormGammaFirst:
        gamma = self.by_partition(self.inputs["gamma_norm_weights"])[0]
        eps = self.config.norm_eps
        if self.config.norm == "RMS_NORM":
            return rms_gamma_first(hidden, gamma, self.config.norm_divisor, eps, self.profile, self.io)
        beta = None if self.config.beta is None else self.by_partition(self.inputs["layer_norm_bias"])[0]
        return layer_norm_gamma_first(hidden, gamma, beta, eps, self.profile, self.io)

    def quantized(self, y: Array) -> Array:
        """Scaled by the reciprocal, rounded to io, clamped, rounded to fp8: two roundings."""
        inverse = UNARY["reciprocal"](self.inputs["qkv_in_scale"][:1, :1], self.profile)
        scaled = self.times("scaled", y, inverse)
        clamped = BINARY["minimum"](to_float32(scaled), np.float32(FP8_MAX), self.profile)
        clamped = BINARY["maximum"](clamped, np.float32(-FP8_MAX), self.profile)
        codes = round_to("quantized", clamped, FP8, self.profile)
        self.record_all("in_scale_inverse", np.broadcast_to(inverse, (PARTITIONS, 1)))
        self.record_all("dequant_scale", np.broadcast_to(self.segment_scales(), (PARTITIONS, 3)))
        self.record_tokens("scaled", scaled, shard=True)
        self.record_tokens("quantized", codes, shard=True)
        return codes

    def segment_scales(self) -> Array:
        """Scales of Q, K and V, [1, 3]."""
        scales = self.inputs["qkv_w_scale"][:1], self.inputs["qkv_in_scale"][:1]
        return BINARY["multiply"](*scales, self.profile)

    # --- projection -----------------------------------------------------------------------------------

    def part(self, operand: Array, core: int) -> Array:
        """One core's share of the result, io [T, I]."""
        out = self.combined(operand, core)
        if self.config.quantization == "NONE":
            return out
        out = self.times("dequant", out, self.dequantisation())
        self.record_columns("dequant", out, (), core)
        if not self.has_bias(core):
            return out
        out = self.plus("biased", out, to_float32(self.inputs["bias"]))
        self.record_columns("biased", out, (), core)
        return out

    def combined(self, operand: Array, core: int) -> Array:
        """The groups' sums added one by one, each addition rounded to io; raw units when quantized."""
        out = np.zeros((1, self.config.I), np.float32)
        if self.has_bias(core):
            bias = self.inputs["bias"]
            if self.record.enabled:
                self.record("bias_tile", (), np.repeat(bias, self.config.tokens, axis=0), core=core)
            if self.config.quantization == "NONE":
                out = bias
        stationary = operand.transpose(2, 1, 0)
        moving = self.by_partition_of_weight(core)
        for group in range(self.groups.count):
            psum = self.psum(stationary, moving, group)
            self.record_columns("psum", psum, (group,), core)
            out = self.plus("partial", out, psum)
            self.record_columns("partial", out, (group,), core)
        return out

    def by_partition_of_weight(self, core: int) -> Array:
        """The core's weight as [H1s, 128, I]: PE tile j holds the rows of column j of every partition."""
        weight: Array = self.inputs["fused_qkv_weights"]
        split = weight.reshape(self.config.lnc, PARTITIONS, self.columns, self.config.I)
        return np.asarray(split[core].transpose(1, 0, 2))

    def psum(self, stationary: Array, moving: Array, group: int) -> Array:
        """PSUM of one group, float32 [T, I]; PE tiles in ascending order, the first overwrites."""
        total = None
        for tiles in self.groups.members(group):
            total = matmul_passes(stationary[tiles], moving[tiles], self.profile, acc=total)
        assert total is not None
        return total

    def dequantisation(self) -> Array:
        """One float32 factor per column of I, [1, I]."""
        if self.config.quantization == "ROW":
            return np.asarray(self.inputs["qkv_w_scale"][:1])
        return np.repeat(self.segment_scales(), self.config.segments, axis=1)

    def has_bias(self, core: int) -> bool:
        """The bias is added once: by the first core."""
        return self.config.bias is not None and core == 0

    def plus(self, point: str, x: Array, y: Array) -> Array:
        return round_to(point, BINARY["add"](to_float32(x), y, self.profile), self.io, self.profile)

    def times(self, point: str, x: Array, y: Array) -> Array:
        return round_to(point, BINARY["multiply"](to_float32(x), y, self.profile), self.io, self.profile)

    def joined(self, parts: list[Array]) -> Array:
        """The sum of both cores' shares, which each core forms with its own share first."""
        for core in (1, 0):
            total = self.plus("total", parts[core], to_float32(parts[1 - core]))
            self.record_columns("total", total, (), core)
        return total

    def arranged(self, out: Array) -> Array:
        """[T, I] in the layout of the result."""
        tokens: Array = out.reshape(self.config.B, self.config.S, self.config.I)
        if self.config.output_layout == "BSD":
            return tokens
        heads: Array = tokens.reshape(*tokens.shape[:2], -1, int(self.config.d_head or 0))
        return np.ascontiguousarray(heads.transpose(2, 0, 1, 3))

    # --- records --------------------------------------------------------------------------------------

    def token_tiles(self) -> Iterator[tuple[int, slice]]:
        """Tokens that a norm works on together; all of them without a norm."""
        tokens = self.config.tokens
        step = max(1, NORM_COLUMNS // self.config.h_tiles) if self.normed else tokens
        for index, start in enumerate(range(0, tokens, step)):
            yield index, slice(start, min(tokens, start + step))

    def record_all(self, point: str, value: Array) -> None:
        """A tile that every core holds alike."""
        if self.record.enabled:
            for core in range(self.config.lnc):
                self.record(point, (), value, core=core)

    def record_statistic(self, point: str, value: Array) -> None:
        """[128, T], on every core."""
        if self.record.enabled:
            for core in range(self.config.lnc):
                for index, tokens in self.token_tiles():
                    self.record(point, (index,), value[:, tokens], core=core)

    def record_tokens(self, point: str, value: Array, shard: bool) -> None:
        """[T, n, 128, H1s] as tiles [128, tokens, H1s] of each core's own columns, or [128, tokens, H1]."""
        if not self.record.enabled:
            return
        rows = value.transpose(2, 0, 1, 3)
        for core in range(self.config.lnc):
            own = rows[:, :, core] if shard else rows.reshape(PARTITIONS, self.config.tokens, -1)
            for index, tokens in self.token_tiles():
                self.record(point, (index,), own[:, tokens], core=core)

    def record_columns(self, point: str, value: Array, index: tuple[int, ...], core: int) -> None:
        """[T, I] as tiles of 512 columns."""
        if self.record.enabled:
            for i, start in enumerate(range(0, self.config.I, BANK)):
                self.record(point, (i, *index), value[:, start : start + BANK], core=core)
