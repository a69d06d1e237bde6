"""One call of `qkv` as data: sizes, dtypes, options, and which of the two modes serves it."""

from __future__ import annotations

from dataclasses import dataclass

#: Partitions of SBUF and PSUM, and rows of the PE array.
PARTITIONS = 128
#: float32 columns of one PSUM bank: columns of I worked on together.
BANK = 512
#: Most hidden and output columns (published API page, Constraints).
H_LIMIT, I_LIMIT = 24576, 4096
#: Sequence lengths and tokens from which on a call is a context encoding.
TKG_S_LIMIT, TKG_TOKEN_LIMIT = 96, 128

FLOATS = ("bfloat16", "float16", "float32")
FP8, FP8_MAX = "float8_e4m3", 240.0
MX_WEIGHT = "float8_e4m3fn_x4"
LAYOUTS = ("BSD", "NBSd")
QUANTIZATIONS = ("NONE", "STATIC", "ROW", "MX")
NORMS = ("NO_NORM", "RMS_NORM", "LAYER_NORM", "RMS_NORM_SKIP_GAMMA")
KV_CACHES = ("NONE", "FLAT", "BLOCK")
#: dtype of a quantized KV cache: its largest finite value.
KV_DTYPES = {"float8_e4m3": 240.0, "float8_e5m2": 57344.0, "float8_e4m3fn": 448.0}
GENERATIONS = ("gen3", "gen4")


@dataclass(frozen=True)
class Config:
    """A call of `qkv`; JSON-able. dtypes are NKI names; None means that the argument is not given.

    Letters as in the contract: I columns of the fused weight, d = d_head, T = B*S tokens, n = lnc.
    """

    B: int
    S: int
    H: int
    #: Columns of the weight: (num_q_heads + 2*num_kv_heads) * d_head where these are given.
    I: int  # noqa: E741  (the published letter)
    #: dtype of input, mlp_prev and attention_prev.
    dtype: str = "bfloat16"
    weight_dtype: str = "bfloat16"
    #: dtype of the bias.
    bias: str | None = None
    output_layout: str = "BSD"
    quantization: str = "NONE"
    #: Rows of qkv_w_scale (STATIC, ROW) and qkv_in_scale (STATIC): 1, or one value repeated on 128.
    scale_rows: int = 128
    fused_residual_add: bool = False
    norm: str = "NO_NORM"
    #: dtype of gamma_norm_weights and of layer_norm_bias.
    gamma: str | None = None
    beta: str | None = None
    norm_eps: float = 1e-6
    hidden_actual: int | None = None
    fused_rope: bool = False
    #: dtype of cos_cache and sin_cache.
    rope_dtype: str | None = None
    d_head: int | None = None
    num_q_heads: int | None = None
    num_kv_heads: int | None = None
    #: 'NONE'; 'FLAT': caches [B, max_seq_len, kv_dim]; 'BLOCK': [num_blocks, block_size, kv_dim] (use_block_kv).
    kv_cache: str = "NONE"
    #: dtype of k_cache and v_cache, and the argument kv_dtype.
    kv_dtype: str | None = None
    max_seq_len: int | None = None
    num_blocks: int | None = None
    block_size: int | None = None
    fp8_max: float | None = None
    fp8_min: float | None = None
    store_output_in_sbuf: bool = False
    #: None, 'auto' or 'manual': the kind of SBUF manager passed.
    sbm: str | None = None
    use_auto_allocation: bool = False
    load_input_with_DMA_transpose: bool = True
    is_input_swizzled: bool = False
    lnc: int = 1
    generation: str = "gen3"

    @property
    def tokens(self) -> int:
        """T: tokens of the batch, token t = b*S + s."""
        return self.B * self.S

    @property
    def norm_divisor(self) -> int:
        """What RMSNorm divides the sum of squares by; the sum itself runs over all H columns."""
        return self.hidden_actual or self.H

    @property
    def h_tiles(self) -> int:
        """H1: hidden columns per partition."""
        return self.H // PARTITIONS

    @property
    def q_dim(self) -> int:
        """Columns of the query heads; needs the head sizes."""
        assert self.d_head is not None
        assert self.num_q_heads is not None
        return self.num_q_heads * self.d_head

    @property
    def kv_dim(self) -> int:
        """Columns of the key heads, and of the value heads; needs the head sizes."""
        assert self.d_head is not None
        assert self.num_kv_heads is not None
        return self.num_kv_heads * self.d_head

    @property
    def heads_given(self) -> bool:
        """Whether d_head, num_q_heads and num_kv_heads are all given."""
        return None not in (self.d_head, self.num_q_heads, self.num_kv_heads)

    @property
    def segments(self) -> tuple[int, int, int]:
        """Columns of Q, K and V; needs the head sizes."""
        return self.q_dim, self.kv_dim, self.kv_dim

    @property
    def gamma_applied(self) -> bool:
        """Whether the norm multiplies by gamma."""
        return self.norm in ("RMS_NORM", "LAYER_NORM")

    @property
    def kv_max(self) -> float:
        """Upper clamp of quantized K and V; the default is the largest value of kv_dtype."""
        return KV_DTYPES[str(self.kv_dtype)] if self.fp8_max is None else self.fp8_max

    @property
    def kv_min(self) -> float:
        """Lower clamp of quantized K and V; the default is minus `kv_max` (published API page, fp8_min)."""
        return -self.kv_max if self.fp8_min is None else self.fp8_min

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of outputs["out"]: the projection, or with a KV cache the query part alone."""
        if self.kv_cache != "NONE":
            return self.B, self.S, self.q_dim
        if self.output_layout == "BSD":
            return self.B, self.S, self.I
        assert self.d_head is not None
        return self.I // self.d_head, self.B, self.S, self.d_head

    @property
    def cache_shape(self) -> tuple[int, ...]:
        """Shape of k_cache and of v_cache; needs a cache."""
        assert self.kv_cache != "NONE"
        rows = (self.num_blocks, self.block_size) if self.kv_cache == "BLOCK" else (self.B, self.max_seq_len)
        return int(rows[0] or 0), int(rows[1] or 0), self.kv_dim


def mode(config: Config) -> str:
    """'TKG' or 'CTE': which implementation serves a call.

    Release 2.29 of the public kernels (S alone, or tokens, above a limit), and in addition: an option that
    only one mode has chooses that mode, so that none is dropped in silence (defects QKV2, QKV3).
    """
    long = config.S > TKG_S_LIMIT or config.tokens > TKG_TOKEN_LIMIT
    return "CTE" if long or any(cte_only(config)) else "TKG"


def cte_only(config: Config) -> tuple[bool, ...]:
    """The options that only context encoding has, each as whether it is asked for."""
    return (
        config.fused_rope,
        config.kv_cache != "NONE",
        config.norm == "RMS_NORM_SKIP_GAMMA",
        config.quantization == "MX",
        config.is_input_swizzled,
    )
