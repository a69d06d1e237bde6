"""Rounding points of `attention_block_tkg`: those of the QKV stage, its own, of attention, of the output projection.

The rows of the three stages are the rows of their contracts. No two stages share a name, so a name tells the stage.
"""

from __future__ import annotations

from reference.contract import RoundingPoint
from reference.contracts import attention_tkg, output_projection_tkg
from reference.contracts.qkv_tkg_points import POINTS as QKV_POINTS

_HEADS, _HALF = "[d, B*n_r*S], column b*n_r*S + h*S + s; r = 0: Q, n_0 = q; r = 1: K, n_1 = 1", "[d/2, B*n_r*S]"


def _own(
    name: str, dtype: str, shape: str, produced: str, when: str = "", memory: str = "sbuf", exact: bool = False
) -> RoundingPoint:
    return RoundingPoint(name, dtype, memory, shape, ("r",), produced, exact, when)


def _norm(prefix: str, when: str) -> tuple[RoundingPoint, ...]:
    return (
        _own(f"{prefix}_square", "float32", _HEADS, "x * x, VectorE", when),
        _own(
            f"{prefix}_total", "float32", _HEADS, "ones [d, d] times square, one matmul", when, memory="psum",
        ),
        _own(
            f"{prefix}_rsqrt", "float32", _HEADS, "rsqrt(total * float32(1/d) + float32(eps)), ScalarE", when,
        ),
    )  # fmt: skip


def _rope(name: str, produced: str) -> RoundingPoint:
    return _own(name, "io", _HALF, produced, "cos and sin")


_PRE, _POST = "rmsnorm_QK_pre_rope_enabled", "rmsnorm_QK_post_rope_enabled"
_KV = "k_scale and v_scale"
_NEW = "r = 1: K [d, B*S]; r = 2: V [T, d]"

OWN_POINTS: tuple[RoundingPoint, ...] = (
    _own("heads", "io", _HEADS, "Q and K columns of QKV, transposed", exact=True),
    *_norm("pre", _PRE),
    _own("pre_normed", "io", _HEADS, "R_io(x * pre_rsqrt), VectorE", _PRE),
    _rope("rope_even_cos", "R_io(e * cos), e and o the members of a pair, VectorE"),
    _rope("rope_odd_sin", "R_io(o * sin)"),
    _rope("rope_odd_cos", "R_io(o * cos)"),
    _rope("rope_even_sin", "R_io(e * sin)"),
    _rope("rope_even", "R_io(even_cos - odd_sin)"),
    _rope("rope_odd", "R_io(odd_cos + even_sin)"),
    _own("rotated", "io", _HEADS, "the pairs in the layout of the input", "cos and sin", exact=True),
    *_norm("post", _POST),
    _own(
        "post_scaled", "float32", _HEADS, "x * post_rsqrt, VectorE", "rmsnorm_QK_post_rope_W_Q (r = 0), _W_K (r = 1)",
    ),
    _own("post_normed", "io", _HEADS, "R_io(x * post_rsqrt), with W R_io(post_scaled * W), VectorE", _POST),
    _own("kv_scaled", "float32", _NEW, "x * k_scale, x * v_scale, VectorE", _KV),
    _own("kv_quantized", "float8_e4m3", _NEW, "R_fp8(max(min(kv_scaled, 240), -240)), VectorE", _KV),
    RoundingPoint(
        "scaled_query", "io", "sbuf", "[d, B*q*S]", (), "R_io(Q * float32(softmax_scale)), VectorE",
        when="not skip_attention",
    ),
)  # fmt: skip


def _points() -> tuple[RoundingPoint, ...]:
    stages = (QKV_POINTS, OWN_POINTS, attention_tkg.CONTRACT.points, output_projection_tkg.CONTRACT.points)
    return tuple(row for stage in stages for row in stage if not _foreign(row))


def _foreign(row: RoundingPoint) -> bool:
    """Rows of options that no stage of the block turns on."""
    return row.when in ("fuse_rope", "TKG, LAYER_NORM") or "LAYER_NORM with beta" in row.when


POINTS = _points()
