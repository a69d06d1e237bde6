"""One call of `attention_block_tkg` as data, its tensors, and the calls of the three stages it is made of."""

from __future__ import annotations

from dataclasses import dataclass

from reference.contracts import attention_tkg, output_projection_tkg, qkv_config
from reference.contracts.tensor_call import Tensor

PARTITIONS = 128
FP8, FP8_MAX = "float8_e4m3", 240.0
#: Legal dtypes of X, called io.
IO_DTYPES = ("bfloat16", "float16")
FLOATS = ("float32", "bfloat16", "float16")
QUANTIZATIONS = ("NONE", "STATIC", "ROW")
GENERATIONS = ("gen3", "gen4")
#: kv_cache_update_idx of a batch that writes nothing.
SKIP = 0xFFFFFFFF
#: rmsnorm_X_eps where None is given (published API page).
DEFAULT_EPS = 1e-3


@dataclass(frozen=True)
class Config:
    """A call of `attention_block_tkg`; JSON-able. dtypes are NKI names; None means that the argument is not given.

    Letters as in the contract: T = B*S tokens, q heads of d channels, S_ctx slots attended to.
    """

    B: int
    S: int
    H: int
    q: int
    d: int
    S_ctx: int
    #: Slots of a flat cache; for a block cache S_ctx.
    S_max: int
    #: dtype of X and of all that is kept between stages, called io.
    dtype: str = "bfloat16"
    X_in_sb: bool = False
    X_hidden_dim_actual: int | None = None
    rmsnorm_X_enabled: bool = True
    rmsnorm_X_eps: float | None = None
    #: dtype of rmsnorm_X_gamma.
    gamma: str | None = "bfloat16"
    W_qkv: str = "bfloat16"
    #: dtype of the biases.
    bias_qkv: str | None = None
    quantization_type_qkv: str = "NONE"
    #: Rows of the scales of QKV: 1, or one value repeated on 128.
    scale_rows: int = 128
    rmsnorm_QK_pre_rope_enabled: bool = False
    rmsnorm_QK_pre_rope_eps: float = 1e-6
    #: dtypes of cos and sin.
    cos: str | None = "bfloat16"
    sin: str | None = "bfloat16"
    rope_contiguous_layout: bool = True
    rmsnorm_QK_post_rope_enabled: bool = False
    rmsnorm_QK_post_rope_eps: float = 1e-6
    #: dtypes of rmsnorm_QK_post_rope_W_Q and rmsnorm_QK_post_rope_W_K.
    W_Q: str | None = None
    W_K: str | None = None
    K_cache_transposed: bool = False
    #: Block length of a block KV cache, 0 for a flat one.
    block_len: int = 0
    #: Blocks of a block KV cache; 0 means B*S_ctx/block_len.
    num_blocks: int = 0
    #: dtype of K_cache and V_cache.
    kv_dtype: str = "bfloat16"
    #: Dimensions of the caches: 3, or 4 with a head axis of size 1.
    cache_rank: int = 3
    #: Where the head axis of 4-D block caches stands: 2, or 1 as in 4-D flat ones.
    block_head_axis: int = 2
    mask_dtype: str = "uint8"
    #: dtype of the sink.
    sink: str | None = None
    softmax_scale: float | None = None
    update_cache: bool = True
    #: Whether kv_cache_update_idx is [B, S] and names the slot of every token; else [B, 1], the first of a batch.
    idx_per_token: bool = False
    #: dtypes of k_scale and v_scale, and their rows: 1, or one value repeated on 128.
    k_scale: str | None = None
    v_scale: str | None = None
    k_scale_rows: int = 128
    v_scale_rows: int = 128
    #: dtypes of W_out and bias_out.
    W_out: str | None = "bfloat16"
    bias_out: str | None = None
    quantization_type_out: str = "NONE"
    transposed_out: bool = False
    out_in_sb: bool = False
    skip_attention: bool = False
    lnc: int = 2
    generation: str = "gen3"

    @property
    def tokens(self) -> int:
        """T."""
        return self.B * self.S

    @property
    def I(self) -> int:  # noqa: E743  (the letter of the QKV stage)
        """Columns of W_qkv: q heads of queries, one of keys, one of values."""
        return self.d * (self.q + 2)

    @property
    def rope(self) -> bool:
        """Whether queries and keys are rotated."""
        return self.cos is not None and self.sin is not None

    @property
    def quantized_kv(self) -> bool:
        """Whether new keys and values become float8_e4m3."""
        return self.k_scale is not None and self.v_scale is not None

    @property
    def block_kv(self) -> bool:
        return self.block_len > 0

    @property
    def blocks(self) -> int:
        """Blocks of a block KV cache."""
        return self.num_blocks or (self.B * self.S_ctx // self.block_len if self.block_kv else 0)

    @property
    def head_axis(self) -> int:
        """Where 4-D caches have their head axis."""
        return self.block_head_axis if self.block_kv else 1

    @property
    def eps(self) -> float:
        """eps of the norm of X."""
        return DEFAULT_EPS if self.rmsnorm_X_eps is None else self.rmsnorm_X_eps

    @property
    def scale(self) -> float:
        """What queries are multiplied by, before it is rounded to float32."""
        return float(self.d**-0.5) if self.softmax_scale is None else self.softmax_scale

    @property
    def rope_layout(self) -> str:
        """Name of the layout in `reference.rope`."""
        return "contiguous" if self.rope_contiguous_layout else "interleaved"

    @property
    def attention_in_sb(self) -> bool:
        """Whether attention leaves its result in SBUF."""
        return self.W_out is not None or self.out_in_sb

    # --- stages ---------------------------------------------------------------------------------------

    @property
    def qkv(self) -> qkv_config.Config:
        """The QKV stage as a call of `qkv`; always served by token generation, whatever S is."""
        return qkv_config.Config(
            B=self.B, S=self.S, H=self.H, I=self.I, dtype=self.dtype, weight_dtype=self.W_qkv,
            bias=self.bias_qkv, quantization=self.quantization_type_qkv, scale_rows=self.scale_rows,
            norm="RMS_NORM" if self.rmsnorm_X_enabled else "NO_NORM", gamma=self.gamma, norm_eps=self.eps,
            hidden_actual=self.X_hidden_dim_actual, d_head=self.d, num_q_heads=self.q, num_kv_heads=1,
            lnc=self.lnc, generation=self.generation,
        )  # fmt: skip

    @property
    def attention(self) -> attention_tkg.Config:
        """The attention stage as a call of `attention_tkg`."""
        return attention_tkg.Config(
            bs=self.B, q_head=self.q, s_active=self.S, curr_sprior=self.S_ctx, full_sprior=self.S_max,
            d_head=self.d, block_len=self.block_len, tp_k_prior=not self.K_cache_transposed,
            strided_mm1=not self.block_kv, out_in_sb=self.attention_in_sb, dtype=self.dtype,
            kv_dtype=self.kv_dtype, active_dtype=self.kv_dtype, out_dtype=self.dtype,
            mask_dtype=self.mask_dtype, sink=self.sink, num_blocks=self.blocks, lnc=self.lnc,
        )  # fmt: skip

    @property
    def projection(self) -> output_projection_tkg.Config:
        """The output projection as a call of `output_projection_tkg`; needs W_out."""
        assert self.W_out is not None
        return output_projection_tkg.Config(
            B=self.B, N=self.q, S=self.S, D=self.d, H=self.H, dtype=self.dtype, weight_dtype=self.W_out,
            bias=self.bias_out, transpose_out=self.transposed_out, out_in_sb=self.out_in_sb,
            attention_in_sb=True, quantization=self.quantization_type_out, lnc=self.lnc,
        )  # fmt: skip


# --- tensors ----------------------------------------------------------------------------------------------


def tensors(config: Config) -> dict[str, Tensor]:
    """The tensors of a legal call by argument name; the caches are written, too, when update_cache."""
    c = config
    wanted = {
        "X": Tensor((PARTITIONS, c.tokens, c.H // PARTITIONS), c.dtype, "sbuf")
        if c.X_in_sb
        else Tensor((c.B, c.S, c.H), c.dtype),
        "rmsnorm_X_gamma": _optional((1, c.H), c.gamma),
        "W_qkv": Tensor((c.H, c.I), c.W_qkv),
        "bias_qkv": _optional((1, c.I), c.bias_qkv),
        "cos": _optional((c.d // 2, c.B, c.S), c.cos),
        "sin": _optional((c.d // 2, c.B, c.S), c.sin),
        "rmsnorm_QK_post_rope_W_Q": _optional((1, c.d), c.W_Q),
        "rmsnorm_QK_post_rope_W_K": _optional((1, c.d), c.W_K),
        "active_blocks_table": Tensor((c.B, c.S_ctx // c.block_len), "uint32") if c.block_kv else None,
        "K_cache": Tensor(cache_shape(c, c.K_cache_transposed), c.kv_dtype),
        "V_cache": Tensor(cache_shape(c, False), c.kv_dtype),
        "attention_mask": Tensor((c.S_ctx, c.B, c.q, c.S), c.mask_dtype),
        "sink": _optional((c.q, 1), c.sink),
        "kv_cache_update_idx": _optional(index_shape(c), "uint32" if c.update_cache else None),
        "k_scale": _optional((c.k_scale_rows, 1), c.k_scale),
        "v_scale": _optional((c.v_scale_rows, 1), c.v_scale),
        "W_out": _optional((c.q * c.d, c.H), c.W_out),
        "bias_out": _optional((1, c.H), c.bias_out),
    }
    found = {name: tensor for name, tensor in wanted.items() if tensor is not None}
    return found | _scales("qkv", c.quantization_type_qkv, c.scale_rows, 3, c.I) | _scales(
        "out", c.quantization_type_out, PARTITIONS, 1, c.H
    )  # fmt: skip


def index_shape(config: Config) -> tuple[int, int]:
    """Shape of kv_cache_update_idx; with one token per batch both forms are one."""
    return (config.B, config.S if config.idx_per_token else 1)


def cache_shape(config: Config, transposed: bool) -> tuple[int, ...]:
    """Shape of a cache as the caller passes it, with a head axis of size 1 at `head_axis` in four dimensions."""
    c = config
    rows = (c.d, c.S_max) if transposed else (c.S_max, c.d)
    shape = (c.blocks, c.block_len, c.d) if c.block_kv else (c.B, *rows)
    return (*shape[: c.head_axis], 1, *shape[c.head_axis :]) if c.cache_rank == 4 else shape


def results(config: Config) -> dict[str, Tensor]:
    """The results of a legal call as the model gives them: what stays in SBUF stacked, one copy per core."""
    c = config
    found = {"out": _out(c)}
    if c.update_cache:
        wanted = tensors(c)
        return found | {"K_out": wanted["K_cache"], "V_out": wanted["V_cache"]}
    keys, values = (c.d, c.B, c.S), (c.B, 1, c.S, c.d)
    return found | {"K_out": Tensor(keys, c.kv_dtype), "V_out": Tensor(values, c.kv_dtype)}


def _out(c: Config) -> Tensor:
    memory = "sbuf" if c.out_in_sb else "hbm"
    if c.W_out is not None:
        return Tensor(c.projection.out_shape, c.dtype, memory)
    columns = (c.d, c.B * c.q * c.S)
    if c.out_in_sb:
        return Tensor((c.lnc, *columns), c.dtype, memory)
    return Tensor(columns if c.skip_attention else (c.B, c.q, c.d, c.S), c.dtype, memory)


def _optional(shape: tuple[int, ...], dtype: str | None) -> Tensor | None:
    return None if dtype is None else Tensor(shape, dtype)


def _scales(stage: str, kind: str, rows: int, static: int, row: int) -> dict[str, Tensor]:
    """The scales of a projection: `static` or `row` columns for the weight."""
    if kind == "NONE":
        return {}
    columns = static if kind == "STATIC" else row
    found = {f"weight_dequant_scale_{stage}": Tensor((rows, columns), "float32")}
    if kind == "STATIC":
        found[f"input_dequant_scale_{stage}"] = Tensor((rows, 1), "float32")
    return found
