"""One row per instruction of the vector, scalar and GpSimd engines: its tensor operands and a legal call.

The rules that all instructions share (memory, partitions, types, keywords) are tested over this table, so a new
instruction is covered by adding its row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import reference  # noqa: F401 - makes `import nki` work

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

Spec = tuple[tuple[int, ...], str]


@dataclass(frozen=True)
class Row:
    """An instruction: `reads` and `writes` map roles to (shape, dtype); `call` issues it with a tensor per role."""

    name: str
    engine: str
    reads: Mapping[str, Spec]
    writes: Mapping[str, Spec]
    call: Callable[..., Any]
    generation: str = "gen3"
    sbuf_only: bool = False
    #: Roles with partition rules of their own.
    free_start: tuple[str, ...] = ()

    @property
    def operands(self) -> dict[str, Spec]:
        return {**self.reads, **self.writes}


P = 16
_TILE, _COLUMN = ((P, 8), "float32"), ((P, 1), "float32")


def _row(name: str, engine: str, reads: Any, writes: Any, **more: Any) -> Row:
    fixed = more.pop("fixed", {})
    function = getattr(nisa, name)
    return Row(name, engine, reads, writes, lambda **tiles: function(**tiles, **fixed), **more)


TABLE = [
    _row("tensor_copy", "vector", {"src": _TILE}, {"dst": _TILE}),
    _row(
        "tensor_copy_predicated",
        "vector",
        {"src": _TILE, "predicate": ((P, 8), "uint8")},
        {"dst": _TILE},
    ),
    _row("tensor_tensor", "vector", {"data1": _TILE, "data2": _TILE}, {"dst": _TILE}, fixed={"op": nl.add}),
    _row(
        "tensor_scalar",
        "vector",
        {"data": _TILE, "operand0": _COLUMN, "operand1": _COLUMN},
        {"dst": _TILE},
        fixed={"op0": nl.multiply, "op1": nl.add},
    ),
    _row(
        "scalar_tensor_tensor",
        "vector",
        {"data": _TILE, "operand0": _COLUMN, "operand1": _TILE},
        {"dst": _TILE},
        fixed={"op0": nl.multiply, "op1": nl.add},
    ),
    _row("reciprocal", "vector", {"data": _TILE}, {"dst": _TILE}),
    _row("tensor_reduce", "vector", {"data": _TILE}, {"dst": _COLUMN}, fixed={"op": nl.add, "axis": 1}),
    _row(
        "tensor_scalar_reduce",
        "vector",
        {"data": _TILE, "operand0": _COLUMN},
        {"dst": _TILE, "reduce_res": _COLUMN},
        fixed={"op0": nl.multiply, "reduce_op": nl.add},
    ),
    _row(
        "tensor_scalar_cumulative",
        "vector",
        {"src": _TILE, "imm0": _COLUMN},
        {"dst": _TILE},
        fixed={"op0": nl.multiply, "op1": nl.add},
    ),
    _row(
        "tensor_tensor_scan",
        "vector",
        {"data0": _TILE, "data1": _TILE, "initial": _COLUMN},
        {"dst": _TILE},
        fixed={"op0": nl.multiply, "op1": nl.add},
    ),
    _row("nc_stream_shuffle", "vector", {"src": _TILE}, {"dst": _TILE}, fixed={"shuffle_mask": list(range(32))}),
    _row("max8", "vector", {"src": _TILE}, {"dst": _TILE}),
    _row("nc_find_index8", "vector", {"data": _TILE, "vals": _TILE}, {"dst": ((P, 8), "uint32")}),
    _row(
        "nc_match_replace8",
        "vector",
        {"data": _TILE, "vals": _TILE},
        {"dst": _TILE, "dst_idx": ((P, 8), "uint32")},
        fixed={"imm": 0.0},
    ),
    _row("bn_stats", "vector", {"data": _TILE}, {"dst": ((P, 6), "float32")}),
    _row("bn_aggr", "vector", {"data": ((P, 6), "float32")}, {"dst": ((P, 2), "float32")}),
    _row(
        "range_select",
        "vector",
        {"on_true_tile": _TILE, "bound0": _COLUMN, "bound1": _COLUMN},
        {"dst": _TILE, "reduce_res": _COLUMN},
        fixed={"comp_op0": nl.greater_equal, "comp_op1": nl.less},
    ),
    _row(
        "select_reduce",
        "vector",
        {"predicate": ((P, 8), "uint8"), "on_true": _TILE, "on_false": _COLUMN},
        {"dst": _TILE, "reduce_res": _COLUMN},
        fixed={"reduce_cmd": nisa.reduce_cmd.reset_reduce},
    ),
    _row(
        "exponential",
        "vector",
        {"src": _TILE, "max_value": _COLUMN},
        {"dst": _TILE, "reduce_res": _COLUMN},
        fixed={"reduce_cmd": nisa.reduce_cmd.reset_reduce},
        generation="gen4",
    ),
    _row(
        "quantize_mx",
        "vector",
        {"src": ((32, 8), "bfloat16")},
        {"dst": ((32, 2), "float8_e4m3fn_x4"), "dst_scale": ((4, 2), "uint8")},
        generation="gen4",
        sbuf_only=True,
        free_start=("dst_scale",),
    ),
    _row("rng", "vector", {}, {"dst": ((P, 8), "uint32")}),
    _row("dropout", "vector", {"data": _TILE, "prob": _COLUMN}, {"dst": _TILE}),
    _row("set_rng_seed", "vector", {"src_seeds": ((1, 1), "uint32")}, {}),
    _row("rand_set_state", "gpsimd", {"src_seeds": ((P, 6), "uint32")}, {}, sbuf_only=True),
    _row("rand_get_state", "gpsimd", {}, {"dst": ((P, 6), "uint32")}, sbuf_only=True),
    _row("rand2", "vector", {}, {"dst": _TILE}, fixed={"min": 0.0, "max": 1.0}, generation="gen4"),
    _row(
        "activation",
        "scalar",
        {"data": _TILE, "bias": _COLUMN, "scale": _COLUMN},
        {"dst": _TILE, "reduce_res": _COLUMN},
        fixed={"op": nl.copy, "reduce_op": nl.add, "reduce_cmd": nisa.reduce_cmd.reset_reduce},
    ),
    _row(
        "activation_reduce",
        "scalar",
        {"data": _TILE, "bias": _COLUMN},
        {"dst": _TILE, "reduce_res": _COLUMN},
        fixed={"op": nl.copy, "reduce_op": nl.add},
    ),
    _row(
        "activate2",
        "scalar",
        {"data": _TILE, "imm0": _COLUMN, "imm1": _COLUMN, "relu_param": _COLUMN},
        {"dst": _TILE},
        fixed={"op": nl.prelu, "op0": nl.multiply, "op1": nl.add},
        generation="gen4",
    ),
    _row("memset", "vector", {}, {"dst": _TILE}, fixed={"value": 0}),
    _row("iota", "gpsimd", {}, {"dst": _TILE}, fixed={"pattern": [[1, 8]]}, sbuf_only=True),
    _row(
        "affine_select",
        "gpsimd",
        {"on_true_tile": _TILE},
        {"dst": _TILE},
        fixed={"pattern": [[1, 8]], "channel_multiplier": 1, "on_false_value": 0.0},
        sbuf_only=True,
    ),
    _row(
        "tensor_partition_reduce",
        "gpsimd",
        {"data": _TILE},
        {"dst": ((1, 8), "float32")},
        fixed={"op": nl.add},
        sbuf_only=True,
    ),
    _row(
        "local_gather",
        "gpsimd",
        {"src_buffer": _TILE, "index": ((P, 1), "uint16")},
        {"dst": ((P, 16), "float32")},
        sbuf_only=True,
    ),
    _row(
        "nc_n_gather",
        "gpsimd",
        {"data": _TILE, "indices": ((P, 4), "uint32")},
        {"dst": ((P, 4), "float32")},
        sbuf_only=True,
    ),
    _row(
        "nonzero_with_count",
        "gpsimd",
        {"src": _TILE},
        {"dst": ((P, 9), "int32")},
        sbuf_only=True,
    ),
    _row(
        "sequence_bounds",
        "gpsimd",
        {"segment_ids": ((1, 8), "int32")},
        {"dst": ((1, 2, 8), "int32")},
        sbuf_only=True,
    ),
    _row(
        "topk",
        "gpsimd",
        {"src": ((16, 4), "bfloat16")},
        {"val_dst": ((16, 8), "bfloat16"), "idx_dst": ((16, 8), "uint32")},
        fixed={"n": 64},
        sbuf_only=True,
    ),
]
BY_NAME = {row.name: row for row in TABLE}
