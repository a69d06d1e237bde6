"""Bit-faithful model of `qkv` in context encoding.

Every token is computed on its own, so tokens are worked on in blocks and cut into the kernel's tiles of 128
only where they are recorded. Source: fact sheet of the kernel, sections 7 and 8.C to 8.E; contract:
reference.contracts.qkv.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.contracts.qkv_config import BANK, FP8, FP8_MAX, MX_WEIGHT, PARTITIONS, Config
from reference.kv_store import flat_slots, quantize_rows, store_rows
from reference.numerics.alu import BINARY, UNARY, multiply_add
from reference.numerics.cast import to_float32
from reference.numerics.dot import double_row_pass, matmul_pass, matmul_passes, mx_pass
from reference.numerics.formats import format_of
from reference.numerics.mx import GROUP_PARTITIONS, LANES, MxOperand, encode_scale, quantize_mx, scatter_scales
from reference.numerics.profile import NumericsProfile
from reference.recorder import Recorder
from reference.rounding import alongside, carry, is_exact, is_study, round_to, weigh
from reference.token_norms import apply_gamma, layer_norm, rms_norm

Array = NDArray[Any]
Inputs = Mapping[str, Any]

#: Hidden columns that one nc_matmul_mx contracts.
MX_COLUMNS = PARTITIONS * LANES
#: Tokens worked on together, whole tiles; MX repacks the weight per block, so its blocks are longer.
TOKEN_BLOCK, MX_TOKEN_BLOCK = 2 * PARTITIONS, 8 * PARTITIONS


def model(config: Config, inputs: Inputs, profile: NumericsProfile, record: Recorder) -> dict[str, Array]:
    """Results of a legal call that context encoding serves, see `reference.qkv`."""
    with np.errstate(all="ignore"):
        return _Call(config, inputs, profile, record).run()


@dataclass(frozen=True)
class Block:
    """Some tokens of one core, beginning with a whole tile."""

    core: int
    #: Index of the first token tile, counted per core.
    first: int
    #: Of the T tokens.
    tokens: slice

    @property
    def size(self) -> int:
        """Number of tokens."""
        return int(self.tokens.stop - self.tokens.start)

    def tiles(self, extent: int) -> Iterator[tuple[int, slice]]:
        """(tile index, its rows) of an array with `extent` rows."""
        for i, start in enumerate(range(0, extent, PARTITIONS)):
            yield self.first + i, slice(start, min(extent, start + PARTITIONS))


def token_blocks(config: Config, length: int) -> Iterator[Block]:
    """Blocks of up to `length` tokens: each core has T // LNC tokens, the last one also the odd one."""
    share = config.tokens // config.lnc
    for core in range(config.lnc):
        stop = config.tokens if core == config.lnc - 1 else (core + 1) * share
        for start in range(core * share, stop, length):
            first = (start - core * share) // PARTITIONS
            yield Block(core, first, slice(start, min(stop, start + length)))


class _Call:
    """One call: the parts that its steps read."""

    def __init__(self, config: Config, inputs: Inputs, profile: NumericsProfile, record: Recorder) -> None:
        self.config, self.inputs, self.profile, self.record = config, inputs, profile, record
        #: C: dtype of the tiles up to the PE.
        self.tile = "bfloat16" if config.dtype == "float32" else config.dtype
        #: E: dtype of the tiles behind it.
        self.end = "bfloat16" if config.quantization == "STATIC" else self.tile
        self.mx = config.quantization == "MX"
        self.static = config.quantization == "STATIC"
        #: eps as the engine reads it: out of a tile of dtype C, in STATIC of float32.
        eps = np.full(1, config.norm_eps, np.float32)
        self.eps = np.float32((eps if self.static else to_float32(round_to("eps", eps, self.tile, profile)))[0])

    def run(self) -> dict[str, Array]:
        blocks = list(token_blocks(self.config, MX_TOKEN_BLOCK if self.mx else TOKEN_BLOCK))
        for core in sorted({block.core for block in blocks}):
            self.record_constants(core)
        rows = [self.projected(block) for block in blocks]
        if self.config.kv_cache != "NONE":
            return self.cached(blocks, rows)
        return {"out": self.arranged(np.concatenate(rows))}

    # --- tokens up to the PE --------------------------------------------------------------------------

    def hidden(self, block: Block) -> Array:
        """Rows in C [nb, H] as they lie in HBM; the residual is added by DMA, one float32 sum, one rounding."""
        names = ("input", "mlp_prev", "attention_prev")
        rows = [self.inputs[name].reshape(self.config.tokens, -1)[block.tokens] for name in names[: self.terms]]
        if len(rows) == 1:
            hidden = self.moved("hidden", rows[0], self.tile)
        else:
            values = [to_float32(row) for row in rows]
            if self.profile.dma_add_order == "list_rev":
                values.reverse()
            hidden = self.moved("hidden", (values[0] + values[1]) + values[2], self.tile)
        self.record_rows("hidden", hidden, block)
        return hidden

    @property
    def terms(self) -> int:
        """Tensors whose sum is the hidden state."""
        return 3 if self.config.fused_residual_add else 1

    def moved(self, point: str, x: Array, dtype: str) -> Array:
        """What a DMA writes into a tensor of another dtype: one rounding of the float32 value."""
        if x.dtype == format_of(dtype).storage:
            return x
        return round_to(point, x, dtype, self.profile, rounding=self.profile.dma_cast_round)

    def stored(self, x: Array) -> Array:
        """What a DMA writes into a result, whose dtype holds all values of a tile."""
        return x if x.dtype == format_of(self.config.dtype).storage else carry(x, self.config.dtype, self.profile)

    def operand(self, block: Block) -> Array:
        """The tokens as the PE or the quantisation sees them: C [nb, H], columns in their natural order."""
        rows = self.normed(self.hidden(block), block)
        if self.config.is_input_swizzled:
            # Stored [k, t, p] holds column 512 t + 4 p + k.
            stored = rows.reshape(len(rows), LANES, -1, PARTITIONS)
            rows = stored.transpose(0, 2, 3, 1).reshape(len(rows), -1)
        if self.config.gamma_applied:
            beta = None if self.config.beta is None else self.inputs["layer_norm_bias"]
            rows = apply_gamma(rows, self.inputs["gamma_norm_weights"], beta, self.profile, self.tile)
        if self.mx and len(rows) % 2:
            # The PE takes an even number of stationary columns; the odd one out is a token of zeros.
            rows = np.concatenate([rows, np.zeros_like(rows[:1])])
        self.record_tiles("operand", block, len(rows), lambda at: self.transposed(rows[at]))
        return rows

    def normed(self, hidden: Array, block: Block) -> Array:
        if self.config.norm == "NO_NORM":
            return hidden
        if self.config.norm == "LAYER_NORM":
            steps: Any = layer_norm(hidden, self.eps, self.profile, self.tile)
        else:
            steps = rms_norm(hidden, self.config.norm_divisor, self.eps, self.profile, self.tile)
        for name, value in steps._asdict().items():
            self.record_rows(name, value, block)
        normalized: Array = steps.normalized
        return normalized

    def transposed(self, rows: Array) -> Array:
        """[nt, H] as [128, H1, nt], in MX as [128, H/512, nt, 4]."""
        if self.mx:
            return rows.reshape(len(rows), -1, PARTITIONS, LANES).transpose(2, 1, 0, 3)
        return rows.reshape(len(rows), -1, PARTITIONS).transpose(2, 1, 0)

    # --- projection -----------------------------------------------------------------------------------

    def product(self, block: Block) -> Array:
        """PSUM, float32 [nb, I]."""
        run = {"NONE": self.plain_product, "STATIC": self.static_product, "MX": self.mx_product}
        product = run[self.config.quantization](self.operand(block), block)
        if self.record.enabled:
            for s, at in block.tiles(len(product)):
                for i, start in enumerate(range(0, self.config.I, BANK)):
                    self.record("product", (s, i), product[at, start : start + BANK], core=block.core)
        return product[: block.size]

    def plain_product(self, operand: Array, block: Block) -> Array:
        return matmul_passes(self.passes(operand), self.weight_tiles, self.profile)

    @staticmethod
    def passes(operand: Array) -> Array:
        """[nb, H] as stationary operands [H1, 128, nb]: pass j contracts 128 consecutive columns."""
        return operand.reshape(len(operand), -1, PARTITIONS).transpose(1, 2, 0)

    @cached_property
    def weight_tiles(self) -> Array:
        """The weight as moving operands [H1, 128, I], in C (STATIC: as it is)."""
        weight = self.inputs["fused_qkv_weights"]
        tiles = weight if self.static else self.moved("weight", weight, self.tile)
        return tiles.reshape(-1, PARTITIONS, self.config.I)

    def static_product(self, operand: Array, block: Block) -> Array:
        """Passes over pairs of tiles; an odd last tile goes alone, as it must not read past the operand."""
        order, limits = ("minimum", "maximum"), (-FP8_MAX, FP8_MAX)
        codes = quantize_rows(operand, self.input_inverse, limits, FP8, self.profile, order, "operand_fp8")
        self.record_tiles("operand_fp8", block, len(codes), lambda at: self.transposed(codes[at]))
        stationary, moving = self.passes(codes), self.weight_tiles
        psum = None
        for j in range(0, len(moving) - 1, 2):
            a, b = (tiles[j : j + 2].transpose(1, 0, 2) for tiles in (stationary, moving))
            psum = double_row_pass(a, b, self.profile, acc=psum)
        if len(moving) % 2:
            psum = matmul_pass(stationary[-1], moving[-1], self.profile, acc=psum)
        assert psum is not None
        return psum

    def mx_product(self, operand: Array, block: Block) -> Array:
        """Passes of 512 columns, quantised in groups of 8 partitions x 4 lanes."""
        tiles = self.config.H // MX_COLUMNS
        if is_exact("operand_mx", self.profile):
            return self.mx_passes(self.whole_operands(operand))
        source = self.transposed(operand).reshape(PARTITIONS, -1)
        data, scales = quantize_mx(source, MX_WEIGHT, self.profile)
        data = data.reshape(PARTITIONS, tiles, -1)
        scales = scales.reshape(PARTITIONS // GROUP_PARTITIONS, tiles, -1)
        self.record_tiles("operand_mx", block, len(operand), lambda at: data[:, :, at])
        self.record_tiles("operand_scale", block, len(operand), lambda at: spread_scales(scales[:, :, at]))
        operands = [MxOperand.unpack(data[:, t], scales[:, t], MX_WEIGHT) for t in range(tiles)]
        if is_study(self.profile):
            for whole, rounded in zip(self.whole_operands(operand), operands, strict=True):
                weigh("operand_mx", whole.lanes, rounded.values(self.profile), "float8_e4m3fn", self.profile)
        return self.mx_passes(operands)

    def whole_operands(self, operand: Array) -> list[MxOperand]:
        """The operand of each 512 columns as a study has it: values themselves under scales of 1."""
        tiles = to_float32(self.transposed(operand)).transpose(1, 0, 3, 2)
        scales = encode_scale(np.zeros((PARTITIONS // GROUP_PARTITIONS, len(operand)), np.int64))
        return [MxOperand(lanes, scales, 0.0) for lanes in tiles]

    def mx_passes(self, operands: list[MxOperand]) -> Array:
        psum = None
        for stationary, weight in zip(operands, self.mx_weights, strict=True):
            psum = mx_pass(stationary, weight, self.profile, acc=psum)
        assert psum is not None
        return psum

    @cached_property
    def mx_weights(self) -> list[MxOperand]:
        """Moving operands, one per 512 hidden columns."""
        data = self.inputs["fused_qkv_weights"].reshape(-1, PARTITIONS, self.config.I)
        scales = self.inputs["qkv_w_scale"].view(np.uint8).reshape(len(data), -1, self.config.I)
        return [MxOperand.unpack(*tile, MX_WEIGHT) for tile in zip(data, scales, strict=True)]

    # --- behind the PE --------------------------------------------------------------------------------

    def projected(self, block: Block) -> Array:
        """The finished rows of a block, E [nb, I]."""
        rows = self.scaled(self.product(block), block) if self.static else self.biased(self.product(block))
        self.record_rows("projected", rows, block)
        return self.rotated(rows, block) if self.config.fused_rope else rows

    def biased(self, product: Array) -> Array:
        if self.bias is not None:
            product = BINARY["add"](product, to_float32(self.bias), self.profile)
        return self.rounded("projected", product)

    def scaled(self, product: Array, block: Block) -> Array:
        """STATIC: dequantised, then the bias, unscaled. Only without RoPE the raw sums are rounded first."""
        if not self.config.fused_rope:
            raw = self.rounded("raw", product)
            self.record_rows("raw", raw, block)
            product = to_float32(raw)
        scale = np.repeat(self.segment_scales, self.config.segments, axis=1)
        if self.bias is None:
            return self.rounded("projected", BINARY["multiply"](product, scale, self.profile))
        bias, fused = to_float32(self.bias), self.profile.fma_vector
        return self.rounded("projected", multiply_add(product, scale, bias, self.profile, fused=fused))

    def rotated(self, rows: Array, block: Block) -> Array:
        """RoPE on the Q and K heads: every product and the sum rounded to E. Only half of sin is read."""
        turning, half = self.config.q_dim + self.config.kv_dim, int(self.config.d_head or 0) // 2
        heads = to_float32(rows[:, :turning]).reshape(len(rows), -1, 2, half)
        cos, sin = self.wave("cos", block, 2 * half), self.wave("sin", block, half)
        sines, cosines = sin.reshape(-1, 1, 1, half), cos.reshape(-1, 1, 2, half)
        crossed = self.rounded("sine_part", BINARY["multiply"](heads[:, :, ::-1], sines, self.profile))
        crossed[:, :, 0] = -crossed[:, :, 0]
        straight = self.rounded("cosine_part", BINARY["multiply"](heads, cosines, self.profile))
        total = self.rounded("rotated", BINARY["add"](to_float32(straight), to_float32(crossed), self.profile))
        parts = {"sine_part": crossed, "cosine_part": straight, "rotated": total}
        for point, part in parts.items():
            self.record_rows(point, part.reshape(len(rows), turning), block)
        return np.concatenate([total.reshape(len(rows), turning), rows[:, turning:]], axis=1)

    def wave(self, name: str, block: Block, width: int) -> Array:
        """The first columns of a RoPE cache for some tokens: the values of a tile in E."""
        cache = self.inputs[f"{name}_cache"].reshape(self.config.tokens, -1)
        tile = self.moved(name, cache[block.tokens, :width], self.end)
        self.record_rows(name, tile, block)
        return to_float32(tile)

    def rounded(self, point: str, x: Array) -> Array:
        return round_to(point, x, self.end, self.profile)

    # --- constants ------------------------------------------------------------------------------------

    @cached_property
    def bias(self) -> Array | None:
        """[1, I] in E."""
        return None if self.config.bias is None else self.moved("bias_rows", self.inputs["bias"], self.end)

    @cached_property
    def input_inverse(self) -> Array:
        """What the input of STATIC is multiplied with, float32 [1, 1]."""
        return self.inverse("qkv_in_scale")

    @cached_property
    def segment_scales(self) -> Array:
        """Dequantisation of Q, K and V in STATIC, float32 [1, 3]."""
        scales = self.inputs["qkv_w_scale"][:1], self.inputs["qkv_in_scale"][:1]
        return BINARY["multiply"](*scales, self.profile)

    def inverse(self, name: str) -> Array:
        return UNARY["reciprocal"](self.inputs[name][:1, :1], self.profile)

    def record_constants(self, core: int) -> None:
        if not self.record.enabled:
            return
        tiles: dict[str, Array] = {}
        if self.bias is not None:
            tiles["bias_rows"] = self.bias
        if self.static:
            tiles |= {"in_scale_inverse": self.input_inverse, "dequant_scale": self.segment_scales}
        if self.config.kv_cache != "NONE":
            tiles |= {f"{name}_inverse": self.inverse(name) for name in ("k_scale", "v_scale")}
        for point, row in tiles.items():
            self.record(point, (), np.broadcast_to(row, (PARTITIONS, row.shape[1])), core=core)

    # --- results --------------------------------------------------------------------------------------

    def cached(self, blocks: list[Block], rows: list[Array]) -> dict[str, Array]:
        """The query part, and copies of the caches with the tokens' rows written."""
        ends = self.config.q_dim, self.config.q_dim + self.config.kv_dim, self.config.I
        results = {}
        for name, start, stop in (("k", ends[0], ends[1]), ("v", ends[1], ends[2])):
            parts = [part[:, start:stop] for part in rows]
            results[f"{name}_cache"] = self.written(name, blocks, parts)
        query = self.stored(np.concatenate([part[:, : ends[0]] for part in rows]))
        return {"out": query.reshape(self.config.out_shape), **results}

    def written(self, name: str, blocks: list[Block], parts: list[Array]) -> Array:
        """One cache after the call; `parts` are the blocks' rows of K or V."""
        factor, limits = self.inverse(f"{name}_scale"), (self.config.kv_min, self.config.kv_max)
        point, dtype = f"{name}_quantized", self.config.kv_dtype
        codes = [quantize_rows(part, factor, limits, dtype, self.profile, point=point) for part in parts]
        for block, part in zip(blocks, codes, strict=True):
            self.record_rows(point, part, block)
        cache, written = alongside(np.array(self.inputs[f"{name}_cache"]), np.concatenate(codes), self.profile)
        store_rows(cache, written, self.slots)
        return cache

    @cached_property
    def slots(self) -> Array:
        """Row of the caches for each of the T tokens."""
        if self.config.kv_cache == "BLOCK":
            return np.asarray(self.inputs["slot_mapping"], np.int64).reshape(-1)
        return flat_slots(self.config.B, self.config.S, int(self.config.max_seq_len or 0))

    def arranged(self, rows: Array) -> Array:
        """[T, I] in the layout and dtype of the result."""
        stored = rows if self.static else self.stored(rows)
        tokens: Array = stored.reshape(self.config.B, self.config.S, self.config.I)
        if self.config.output_layout == "BSD":
            return tokens
        heads: Array = tokens.reshape(*tokens.shape[:2], -1, int(self.config.d_head or 0))
        return np.ascontiguousarray(heads.transpose(2, 0, 1, 3))

    # --- records --------------------------------------------------------------------------------------

    def record_rows(self, point: str, value: Array, block: Block) -> None:
        """Rows of a block, one per token, as tiles."""
        self.record_tiles(point, block, len(value), lambda at: value[at])

    def record_tiles(self, point: str, block: Block, extent: int, tile: Callable[[slice], Array]) -> None:
        """The tiles of a block, made from their tokens only where somebody looks."""
        if self.record.enabled:
            for s, at in block.tiles(extent):
                self.record(point, (s,), tile(at), core=block.core)


def spread_scales(scales: Array) -> Array:
    """Scale bytes of the groups [16, t, n] in the rows where the PE looks for them, zeros between: [128, t, n]."""
    tile = np.zeros((PARTITIONS, *scales.shape[1:]), np.uint8)
    scatter_scales(tile, scales)
    return tile
