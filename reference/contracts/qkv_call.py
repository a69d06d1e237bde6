"""The raw arguments of a call of `qkv`: what must hold before a Config can describe them.

Tensors are anything with `shape` and `dtype`. Enumeration members are read by their `name`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from reference.contract import Rule
from reference.contracts.qkv_config import MX_WEIGHT, PARTITIONS, QUANTIZATIONS, Config
from reference.numerics.formats import format_of

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """The arguments of one call as the entry sees them, in the published order, and the launch."""

    input: Any
    fused_qkv_weights: Any
    output_layout: Any = "BSD"
    bias: Any = None
    quantization_type: Any = "NONE"
    qkv_w_scale: Any = None
    qkv_in_scale: Any = None
    fused_residual_add: Any = False
    mlp_prev: Any = None
    attention_prev: Any = None
    fused_norm_type: Any = "NO_NORM"
    gamma_norm_weights: Any = None
    layer_norm_bias: Any = None
    norm_eps: Any = 1e-6
    hidden_actual: Any = None
    fused_rope: Any = False
    cos_cache: Any = None
    sin_cache: Any = None
    d_head: Any = None
    num_q_heads: Any = None
    num_kv_heads: Any = None
    k_cache: Any = None
    v_cache: Any = None
    k_scale: Any = None
    v_scale: Any = None
    fp8_max: Any = None
    fp8_min: Any = None
    kv_dtype: Any = None
    use_block_kv: Any = False
    block_size: Any = None
    slot_mapping: Any = None
    store_output_in_sbuf: Any = False
    sbm: Any = None
    use_auto_allocation: Any = False
    load_input_with_DMA_transpose: Any = True
    is_input_swizzled: Any = False
    lnc: int = 1
    generation: str = "gen3"

    @property
    def quantization(self) -> str:
        """The kind of quantization by name."""
        return _name(self.quantization_type)

    @property
    def columns(self) -> int:
        """I, the columns of the weight."""
        return int(self.fused_qkv_weights.shape[1])

    @property
    def hidden(self) -> int:
        """H, the columns of the input."""
        return int(self.input.shape[2])

    @property
    def has_cache(self) -> bool:
        """Whether both caches and both scales are given."""
        return None not in map(_shape, (self.k_cache, self.v_cache, self.k_scale, self.v_scale))

    def config(self) -> Config:
        """The Config of a call whose shapes agree."""
        B, S, H = self.input.shape
        return Config(
            B=B, S=S, H=H, I=self.columns,
            dtype=str(_dtype(self.input)), weight_dtype=self._weight_dtype(),
            bias=_dtype(self.bias), output_layout=_name(self.output_layout),
            quantization=self.quantization, scale_rows=self._scale_rows(),
            fused_residual_add=self.fused_residual_add, norm=_name(self.fused_norm_type),
            gamma=_dtype(self.gamma_norm_weights), beta=_dtype(self.layer_norm_bias),
            norm_eps=self.norm_eps, hidden_actual=self.hidden_actual,
            fused_rope=self.fused_rope, rope_dtype=_dtype(self.cos_cache),
            d_head=self.d_head, num_q_heads=self.num_q_heads, num_kv_heads=self.num_kv_heads,
            **self._cache(),
            store_output_in_sbuf=self.store_output_in_sbuf, sbm=self._manager(),
            use_auto_allocation=self.use_auto_allocation,
            load_input_with_DMA_transpose=self.load_input_with_DMA_transpose,
            is_input_swizzled=self.is_input_swizzled, lnc=self.lnc, generation=self.generation,
        )  # fmt: skip

    def _weight_dtype(self) -> str:
        """Packed formats are stored in plain integers, which do not tell them."""
        found = str(_dtype(self.fused_qkv_weights))
        return MX_WEIGHT if self.quantization == "MX" and found == "uint32" else found

    def _scale_rows(self) -> int:
        with_rows = self.quantization in ("STATIC", "ROW")
        return int(self.qkv_w_scale.shape[0]) if with_rows else PARTITIONS

    def _manager(self) -> str | None:
        if self.sbm is None or isinstance(self.sbm, str):
            return self.sbm
        return "auto" if self.sbm.is_automatic() else "manual"

    def _cache(self) -> dict[str, Any]:
        options = {"fp8_max": self.fp8_max, "fp8_min": self.fp8_min, "kv_dtype": _format(self.kv_dtype)}
        if not self.has_cache:
            return options
        first, second = (int(size) for size in self.k_cache.shape[:2])
        options["kv_dtype"] = _dtype(self.k_cache)
        if self.use_block_kv:
            return options | {"kv_cache": "BLOCK", "num_blocks": first, "block_size": second}
        return options | {"kv_cache": "FLAT", "max_seq_len": second}


def call_of(config: Config, tensors: Mapping[str, Any]) -> Call:
    """The call that `config` describes with these tensors, by argument name; the inverse of `Call.config`.

    An option that stands among the tensors comes before what `config` says of it.
    """
    has_cache = config.kv_cache != "NONE"
    options: dict[str, Any] = {
        "output_layout": config.output_layout, "quantization_type": config.quantization,
        "fused_residual_add": config.fused_residual_add, "fused_norm_type": config.norm, "norm_eps": config.norm_eps,
        "hidden_actual": config.hidden_actual, "fused_rope": config.fused_rope,
        "d_head": config.d_head, "num_q_heads": config.num_q_heads, "num_kv_heads": config.num_kv_heads,
        "fp8_max": config.fp8_max, "fp8_min": config.fp8_min, "kv_dtype": config.kv_dtype if has_cache else None,
        "use_block_kv": config.kv_cache == "BLOCK", "block_size": config.block_size,
        "store_output_in_sbuf": config.store_output_in_sbuf, "sbm": config.sbm,
        "use_auto_allocation": config.use_auto_allocation,
        "load_input_with_DMA_transpose": config.load_input_with_DMA_transpose,
        "is_input_swizzled": config.is_input_swizzled, "lnc": config.lnc, "generation": config.generation,
    }  # fmt: skip
    return Call(**options | dict(tensors))


def _name(option: Any) -> str:
    return option if isinstance(option, str) else str(getattr(option, "name", option))


def _format(dtype: Any) -> str | None:
    """The NKI name of a dtype; one that NKI does not have keeps its own, for the message."""
    if dtype is None:
        return None
    try:
        return format_of(dtype).name
    except ValueError:
        return str(dtype)


def _dtype(tensor: Any) -> str | None:
    return None if tensor is None else _format(tensor.dtype)


def _shape(tensor: Any) -> Shape | None:
    return None if tensor is None else tuple(tensor.shape)


def _absent(*arguments: Any) -> bool:
    # Not by ==, which NumPy arrays answer element by element.
    return all(x is None for x in arguments)


def _text(*tensors: Any) -> str:
    return ", ".join("None" if x is None else f"{_dtype(x)} {_shape(x)}" for x in tensors)


def _fits(tensor: Any, shape: Shape) -> bool:
    return tensor is None or _shape(tensor) == shape


def _scale_fits(scale: Any, shapes: tuple[Shape, ...], dtypes: tuple[str, ...] = ("float32",)) -> bool:
    """Given exactly where a shape is due, with one of the shapes and dtypes."""
    if not shapes or scale is None:
        return scale is None and not shapes
    return _shape(scale) in shapes and _dtype(scale) in dtypes


def _weight_scale(call: Call) -> bool:
    if call.quantization == "MX":
        rows = (call.hidden // 32, call.columns)
        return _scale_fits(call.qkv_w_scale, (rows,), ("uint8", "float8_e8m0fnu"))
    width = {"STATIC": 3, "ROW": call.columns}.get(call.quantization)
    return _scale_fits(call.qkv_w_scale, () if width is None else ((1, width), (PARTITIONS, width)))


def _in_scale(call: Call) -> bool:
    if call.quantization != "STATIC":
        return call.qkv_in_scale is None
    return _scale_fits(call.qkv_in_scale, ((call.qkv_w_scale.shape[0], 1),))


def _residual(call: Call) -> bool:
    tensors = (call.mlp_prev, call.attention_prev)
    if not call.fused_residual_add:
        return _absent(*tensors)
    return all(x is not None and _shape(x) == _shape(call.input) and _dtype(x) == _dtype(call.input) for x in tensors)


def _rope_caches(call: Call) -> bool:
    caches = (call.cos_cache, call.sin_cache)
    if _absent(*caches):
        return True
    heads = (call.num_q_heads or 0) + 2 * (call.num_kv_heads or 0)
    width = call.d_head or (call.columns // heads if heads else 0)
    wanted = (*call.input.shape[:2], width)
    return all(_shape(x) == wanted for x in caches) and _dtype(caches[0]) == _dtype(caches[1])


def _kv_together(call: Call) -> bool:
    given = [x is not None for x in (call.k_cache, call.v_cache, call.k_scale, call.v_scale)]
    return all(given) or not any(given)


def _kv_scales(call: Call) -> bool:
    return all(
        x is None or (_shape(x) == (PARTITIONS, 1) and _dtype(x) == "float32") for x in (call.k_scale, call.v_scale)
    )


def _kv_shape(call: Call) -> Shape:
    """What both caches must have; -1 where any size will do."""
    width = (call.num_kv_heads or 0) * (call.d_head or 0)
    return (-1, call.block_size, width) if call.use_block_kv else (int(call.input.shape[0]), -1, width)


def _kv_caches(call: Call) -> bool:
    if not call.has_cache or None in (call.num_kv_heads, call.d_head):
        return True  # without head sizes a rule about the Config refuses
    shape = tuple(call.k_cache.shape)
    wanted = _kv_shape(call)
    return (
        len(shape) == 3
        and all(w in (-1, s) for w, s in zip(wanted, shape, strict=True))
        and (_shape(call.v_cache), _dtype(call.v_cache)) == (shape, _dtype(call.k_cache))
    )


def _kv_dtype(call: Call) -> bool:
    return not call.has_cache or (_format(call.kv_dtype) or _dtype(call.input)) == _dtype(call.k_cache)


def _block_arguments(call: Call) -> bool:
    block = (call.block_size, call.slot_mapping)
    if not call.use_block_kv:
        return _absent(*block)
    return None not in (call.block_size, _shape(call.slot_mapping)) and call.has_cache


def _slots(call: Call) -> bool:
    slots = call.slot_mapping
    return slots is None or (_shape(slots) == tuple(call.input.shape[:2]) and _dtype(slots) == "int32")


def _slot_values(call: Call) -> bool:
    """Checked where the values are at hand: slots inside the cache or -1, none twice."""
    if not isinstance(call.slot_mapping, np.ndarray):
        return True
    used = call.slot_mapping[call.slot_mapping != -1]
    rows = int(np.prod(call.k_cache.shape[:2]))
    return bool(np.all((used >= 0) & (used < rows))) and len(np.unique(used)) == used.size


_API = "published API page"

#: Tried before the rules about the Config.
CALL_RULES: tuple[Rule[Call], ...] = (
    Rule(
        "input_rank", "input", "input must have three dimensions [B, S, H]",
        lambda c: len(c.input.shape) == 3, lambda c: _text(c.input), "reshape the input", _API,
    ),
    Rule(
        "call_quantization_kind", "quantization_type", "the kind must be NONE, STATIC, ROW or MX",
        lambda c: c.quantization in QUANTIZATIONS, lambda c: repr(c.quantization_type),
        "name one of these", "fact sheet 0",
    ),
    Rule(
        "weight_rows", "fused_qkv_weights", "the weight must have shape [H, I], packed for MX [H/4, I]",
        lambda c: len(c.fused_qkv_weights.shape) == 2
        and c.fused_qkv_weights.shape[0] * (4 if c.quantization == "MX" else 1) == c.hidden,
        lambda c: f"{_text(c.fused_qkv_weights)} with H={c.hidden}, {c.quantization}",
        "contract over the columns of the input", f"{_API}, Raises",
    ),
    Rule(
        "bias_shape", "bias", "bias must have shape [1, I]",
        lambda c: _fits(c.bias, (1, c.columns)), lambda c: f"{_text(c.bias)} with I={c.columns}",
        "reshape the bias", _API,
    ),
    Rule(
        "qkv_w_scale", "qkv_w_scale",
        "must be float32 [1|128, 3] (STATIC), float32 [1|128, I] (ROW), bytes [H/32, I] (MX), None (NONE)",
        _weight_scale, lambda c: f"{_text(c.qkv_w_scale)} with {c.quantization}",
        "pass the scale of the quantization", "fact sheet 1; decision Q11",
    ),
    Rule(
        "qkv_in_scale", "qkv_in_scale",
        "must be float32 [1|128, 1] with the rows of qkv_w_scale (STATIC), else None",
        _in_scale, lambda c: f"{_text(c.qkv_in_scale)} with {c.quantization}",
        "pass the scale of the quantization", "fact sheet 1; decision Q11",
    ),
    Rule(
        "residual_tensors", "mlp_prev, attention_prev",
        "both must be given with fused_residual_add, alike to the input, and neither without",
        _residual, lambda c: f"{_text(c.mlp_prev, c.attention_prev)}, flag {c.fused_residual_add!r}",
        "pass both, or clear the flag", "fact sheet 3",
    ),
    Rule(
        "gamma_shape", "gamma_norm_weights", "gamma must have shape [1, H]",
        lambda c: _fits(c.gamma_norm_weights, (1, c.hidden)), lambda c: _text(c.gamma_norm_weights),
        "reshape gamma", _API,
    ),
    Rule(
        "beta_shape", "layer_norm_bias", "beta must have shape [1, H]",
        lambda c: _fits(c.layer_norm_bias, (1, c.hidden)), lambda c: _text(c.layer_norm_bias),
        "reshape beta", _API,
    ),
    Rule(
        "rope_shape", "cos_cache, sin_cache", "both caches must have shape [B, S, d_head] and one dtype",
        _rope_caches, lambda c: _text(c.cos_cache, c.sin_cache), "pass both caches, one row per token", _API,
    ),
    Rule(
        "kv_together", "k_cache, v_cache, k_scale, v_scale", "all four must be given, or none",
        _kv_together, lambda c: _text(c.k_cache, c.v_cache, c.k_scale, c.v_scale),
        "a cache without its scale would stay unwritten", f"{_API}; defect QKV5",
    ),
    Rule(
        "kv_scale_shape", "k_scale, v_scale", "the scales must be float32 [128, 1]",
        _kv_scales, lambda c: _text(c.k_scale, c.v_scale), "repeat the scale on 128 rows", "fact sheet 1",
    ),
    Rule(
        "use_block_kv_bool", "use_block_kv", "use_block_kv must be bool",
        lambda c: type(c.use_block_kv) is bool, lambda c: repr(c.use_block_kv), "pass it by keyword", _API,
    ),
    Rule(
        "block_arguments", "block_size, slot_mapping",
        "both, and the caches with their scales, must be given with use_block_kv, and neither without",
        _block_arguments, lambda c: f"block_size={c.block_size!r}, {_text(c.slot_mapping, c.k_cache)}",
        "pass them together", f"{_API}, Constraints; defect QKV5",
    ),
    Rule(
        "kv_cache_shape", "k_cache, v_cache",
        "both must be [B, max_seq_len, kv_dim], in blocks [num_blocks, block_size, kv_dim], of one dtype",
        _kv_caches, lambda c: _text(c.k_cache, c.v_cache), "reshape the caches", _API,
    ),
    Rule(
        "kv_dtype_of_cache", "kv_dtype", "kv_dtype (by default the input's dtype) must be that of the caches",
        _kv_dtype, lambda c: f"{_format(c.kv_dtype)} with caches {_dtype(c.k_cache)}",
        "pass kv_dtype", f"{_API}: defaults to the input tensor dtype",
    ),
    Rule(
        "slot_mapping", "slot_mapping", "slot_mapping must be int32 [B, S]",
        _slots, lambda c: _text(c.slot_mapping), "one slot per token", "fact sheet 1; defect QKV22",
    ),
    Rule(
        "slot_values", "slot_mapping", "slots must be rows of the cache or -1, none twice",
        _slot_values, lambda c: f"slots of {_text(c.slot_mapping)}, caches {_text(c.k_cache)}",
        "map every token to a row of its own", "fact sheet 7.7; decision Q10",
    ),
)  # fmt: skip
