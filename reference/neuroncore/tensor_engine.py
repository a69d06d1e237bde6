"""Instructions of the tensor engine: the 128 x 128 array of multipliers, its transposes, and MX matmuls.

The arithmetic of one instruction is `reference.numerics` under the profile; this module holds the rules on
operands and what PSUM does with the result. Sources: API fact sheet 2.1, numerics fact sheet section 3.

Not modelled: on gen3 a transpose of fp8 data leaves 16-bit containers in PSUM; here the destination takes
the bytes at its own strides, as its dtype says. Tiles of the array (`tile_position`) limit sizes and change
no value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.cast import cast, to_float32
from reference.numerics.dot import double_row_pass, matmul_pass, mx_pass
from reference.numerics.mx import SCALE_OFFSETS, MxOperand

from . import psum
from .core import Core, flat
from .enums import engine as engines
from .enums import matmul_perf_mode, member
from .errors import MachineError
from .indirect import select_scales
from .instruction import check_compute, check_tensor, instruction
from .tensor import Tensor

Array = NDArray[Any]
F32 = NDArray[np.float32]

_WIDE = frozenset({"float32", "tfloat32"})
_FP8 = frozenset({"float8_e4m3", "float8_e5m2"})
_PACKED = frozenset({"float8_e4m3fn_x4", "float8_e5m2_x4", "float4_e2m1fn_x4"})
_FLOATS = _FP8 | _WIDE | {"bfloat16", "float16"}
#: OCP fp8, an operand from gen4 on.
_OCP = "float8_e4m3fn"


@instruction("tensor")
def nc_matmul(
    core: Core,
    dst: Any,
    stationary: Any,
    moving: Any,
    is_stationary_onezero: bool = False,
    is_moving_onezero: bool = False,
    is_transpose: bool = False,
    accumulate: bool | None = None,
    tile_position: Any = (),
    tile_size: Any = (),
    perf_mode: Any = matmul_perf_mode.none,
) -> None:
    """dst[m, n] (+)= sum over k of stationary[k, m] * moving[k, n]; see `nki.isa.nc_matmul` for the rules."""
    double = member(matmul_perf_mode, perf_mode, "perf_mode") is matmul_perf_mode.double_row
    still = check_compute("stationary", stationary, psum=False)
    flow = check_compute("moving", moving, psum=False)
    target = core.resolve("dst", check_compute("dst", dst, sbuf=False))
    rows, columns = _tile_limits(core, tile_position, tile_size, double)
    _check_indirect_tile(tile_position, still, flow)
    _check_operand_types(core, still, flow, double)
    _check_shapes(core, target, still, flow, double, rows, columns)
    psum.check_bank(core, target)
    left, right, run = _array_pass(core, still, flow, double)
    core.counters.macs += still.size * target.size // target.shape[0]
    if is_transpose:
        _transpose_mode(core, target, still, left, right, run)
    else:
        _check_result_type(core, target)
        _sum_into(core, target, run, accumulate)


@instruction("tensor", since=4)
def nc_matmul_mx(
    core: Core,
    dst: Any,
    stationary: Any,
    moving: Any,
    stationary_scale: Any,
    moving_scale: Any,
    tile_position: Any = None,
    tile_size: Any = None,
    accumulate: bool | None = None,
) -> None:
    """dst[m, n] (+)= sum over k and lanes of scaled products; see `nki.isa.nc_matmul_mx` for the rules."""
    still = check_compute("stationary", stationary, psum=False)
    flow = check_compute("moving", moving, psum=False)
    target = core.resolve("dst", check_compute("dst", dst, sbuf=False))
    rows, columns = _tile_limits(core, tile_position or (), tile_size or (), False)
    _check_indirect_tile(tile_position, still, flow)
    if columns != 128:
        raise MachineError("matmul.tile", "an MX matmul takes row tiles only", remedy="tile_size=(rows, 128)")
    _check_mx(core, target, still, flow, rows)
    left = _mx_operand(core, "stationary", still, stationary_scale)
    right = _mx_operand(core, "moving", flow, moving_scale)
    core.counters.macs += 4 * still.size * target.size // target.shape[0]
    _sum_into(core, target, lambda acc: mx_pass(left, right, core.profile, acc=acc), accumulate)


@instruction("tensor")
def nc_transpose(core: Core, dst: Any, data: Any, engine: Any = engines.unknown) -> str | None:
    """dst (F, P) = data (P, F...) with partitions and free elements exchanged; see `nki.isa.nc_transpose`."""
    chosen = member(engines, engine, "engine")
    target = check_tensor("dst", dst)
    if chosen is engines.unknown:
        chosen = engines.tensor if target.buffer.name == "psum" else engines.vector
    if chosen not in (engines.tensor, engines.vector):
        raise MachineError(
            "operand.engine",
            f"{chosen.name} cannot transpose",
            operand="engine",
            remedy="use tensor or vector",
        )
    on_tensor = chosen is engines.tensor
    source = check_compute("data", data, psum=not on_tensor)
    target = core.resolve("dst", check_compute("dst", target, sbuf=not on_tensor))
    _check_transpose(target, source, 128 if on_tensor else 32)
    values = flat(core.read("data", source, group=32 if on_tensor else 16), source)
    if not on_tensor:
        core.write_bits("dst", target, values.T)
        return "vector"
    psum.check_bank(core, target)
    core.counters.macs += source.shape[0] * source.size
    if core.generation.level < 3 and source.fmt.kind == "float":
        # gen2 multiplies by an identity: NaN and Inf spread along their row, -0 becomes +0.
        identity = np.eye(values.shape[0], dtype=np.float32)
        product = matmul_pass(to_float32(values, source.fmt), identity, core.profile)
        _overwrite(core, target, cast(product, target.fmt, core.profile))
    else:
        _overwrite(core, target, values.T)
    return "tensor"


# ---- rules ----


def _tile_limits(core: Core, position: Any, size: Any, double: bool) -> tuple[int, int]:
    """(rows, columns) of the array that the instruction may use."""
    if not position and not size:
        return 128, 128
    if not position or not size or len(position) != 2 or len(size) != 2:
        raise MachineError(
            "matmul.tile",
            f"tile_position={position}, tile_size={size}: give both as (row, column) or neither",
        )
    smallest = 32 if core.generation.level >= 3 else 64
    for name, start, length in zip(("row", "column"), position, size, strict=True):
        if length not in (32, 64, 128) or length < smallest or start % length or not 0 <= start < 128:
            raise MachineError(
                "matmul.tile",
                f"{name} tile of {length} starting at {start}",
                remedy=f"take a size from {smallest} to 128 and start at a multiple of it",
            )
    if double and size[1] != 128:
        raise MachineError("matmul.tile", "double_row cannot be combined with column tiling")
    return int(size[0]), int(size[1])


def _check_indirect_tile(position: Any, *operands: Tensor) -> None:
    if position and tuple(position) != (0, 0) and any(tensor.is_indirect() for tensor in operands):
        raise MachineError(
            "matmul.tile",
            f"tile_position={position} with an indirect operand",
            remedy="use tile_position=(0, 0)",
        )


def _check_operand_types(core: Core, still: Tensor, flow: Tensor, double: bool) -> None:
    level = core.generation.level
    if double and level < 3:
        chip = core.generation.chip
        raise MachineError("generation", f"double_row needs NeuronCore-v3 or newer, the target is {chip}")
    legal = (_FP8 if double else _FLOATS) | ({_OCP} if level >= 4 else set())
    for role, tensor in (("stationary", still), ("moving", flow)):
        if tensor.dtype not in legal:
            raise MachineError(
                "matmul.dtype",
                f"{tensor.dtype} is no operand of a {'double_row ' if double else ''}matmul on "
                f"{core.generation.chip}",
                operand=role,
                remedy=f"use one of {', '.join(sorted(legal))}",
            )
    kinds = {str(still.dtype), str(flow.dtype)}
    if kinds & _WIDE and not kinds <= _WIDE:
        raise MachineError(
            "matmul.dtype",
            f"stationary {still.dtype} with moving {flow.dtype}: float32 and tfloat32 pair only with themselves",
            remedy="cast one operand",
        )
    if kinds == {"float8_e4m3", _OCP}:
        raise MachineError("matmul.dtype", "float8_e4m3 and float8_e4m3fn cannot meet in one matmul")


def _check_shapes(
    core: Core, target: Tensor, still: Tensor, flow: Tensor, double: bool, rows: int, columns: int
) -> None:
    depth = still.shape[0]
    pair = 2 if double else 1
    if depth != flow.shape[0]:
        raise MachineError(
            "matmul.shape",
            f"Matmul contraction dimension mismatch: stationary[0]={depth} != moving[0]={flow.shape[0]}",
        )
    if depth > rows:
        raise MachineError("matmul.shape", f"Matmul contraction dimension {depth} exceeds pmax={rows}")
    if double:
        for role, tensor in (("stationary", still), ("moving", flow)):
            if tensor.ndim < 3 or tensor.shape[1] != 2:
                raise MachineError(
                    "matmul.shape",
                    f"{tensor.shape}: double_row needs a first free dimension of 2",
                    operand=role,
                    remedy="arrange it as (K, 2, free)",
                )
    height, width = still.size // depth // pair, flow.size // depth // pair
    if height > columns:
        raise MachineError(
            "matmul.shape",
            f"Matmul stationary free dimension {height} exceeds gemm_stationary_fmax={columns}",
        )
    limit = _moving_limit(core, target)
    if width > limit:
        raise MachineError(
            "matmul.shape", f"Matmul moving free dimension {width} exceeds gemm_moving_fmax={limit}"
        )
    _check_result_shape(target, height, width)


def _moving_limit(core: Core, target: Tensor) -> int:
    bf16 = target.dtype == "bfloat16"
    return core.generation.moving_fmax_bf16 if bf16 else core.generation.moving_fmax_fp32


def _check_result_shape(target: Tensor, height: int, width: int) -> None:
    if target.shape[0] != height or target.size != height * width:
        raise MachineError(
            "matmul.shape",
            f"{target.shape} must have {height} partitions (free size of stationary) and {width} elements "
            "per partition (free size of moving)",
            operand="dst",
        )


def _check_result_type(core: Core, target: Tensor) -> None:
    legal = ("float32", "bfloat16") if core.generation.level >= 4 else ("float32",)
    if target.dtype not in legal:
        raise MachineError(
            "matmul.dtype",
            f"{target.dtype} is no matmul result on {core.generation.chip}",
            operand="dst",
            remedy=f"use {' or '.join(legal)} and cast when copying out of PSUM",
        )


def _check_transpose(target: Tensor, source: Tensor, limit: int) -> None:
    parts, free = source.shape[0], source.size // source.shape[0]
    if parts > limit or free > limit:
        raise MachineError(
            "transpose.shape",
            f"({parts}, {free}) exceeds ({limit}, {limit})",
            operand="data",
            remedy="transpose tile by tile" + ("" if limit == 128 else ", or on the tensor engine"),
        )
    if target.shape[0] != free or target.size != source.size:
        raise MachineError(
            "transpose.shape", f"{target.shape} is not the transpose of {source.shape}", operand="dst"
        )
    if target.dtype != source.dtype:
        raise MachineError(
            "transpose.dtype",
            f"dst {target.dtype} differs from data {source.dtype}",
            operand="dst",
            remedy="transpose first, cast with the copy",
        )


# ---- arithmetic ----

#: What the array leaves in PSUM, given PSUM's old content or None.
Pass = Callable[[F32 | None], F32]


def _array_pass(core: Core, still: Tensor, flow: Tensor, double: bool) -> tuple[Array, Array, Pass]:
    """Both operands as [K, free] (double_row: [K, 2, free]) and the instruction's arithmetic on them."""
    shape = (2, -1) if double else (-1,)
    left, right = (
        core.read(role, tensor, group=32).reshape(tensor.shape[0], *shape)
        for role, tensor in (("stationary", still), ("moving", flow))
    )

    def run(acc: F32 | None) -> F32:
        if double:
            return double_row_pass(left, right, core.profile, acc=acc)
        formats = {"a_format": _told_format(still), "b_format": _told_format(flow)}
        return matmul_pass(left, right, core.profile, acc=acc, **formats)

    return left, right, run


def _told_format(tensor: Tensor) -> str | None:
    return "tfloat32" if tensor.dtype == "tfloat32" else None


def _sum_into(core: Core, target: Tensor, run: Pass, accumulate: bool | None) -> None:
    """PSUM gets the array's sum, or old content and sum in fp32, rounded once to the dtype of `target`."""
    where = psum.accumulating(core, target, accumulate)
    if where is False:
        values = run(None)
    else:
        values = run(to_float32(flat(target.array(), target), target.fmt))
        if where is not True:
            values = np.where(where.reshape(values.shape), values, run(None))
    _overwrite(core, target, values if target.dtype == "float32" else cast(values, target.fmt, core.profile))


def _transpose_mode(core: Core, target: Tensor, source: Tensor, left: Array, right: Array, run: Pass) -> None:
    """is_transpose=True: the bits of `stationary` pass where `moving` is an identity (gen3 and later)."""
    if target.dtype != source.dtype:
        raise MachineError(
            "transpose.dtype",
            f"dst {target.dtype} differs from stationary {source.dtype}",
            operand="dst",
            remedy="is_transpose moves data as it is; cast with the copy",
        )
    if core.generation.level >= 3 and left.ndim == 2 and _is_identity(right):
        _overwrite(core, target, left.T)
    else:
        _overwrite(core, target, cast(run(None), target.fmt, core.profile))


def _is_identity(values: Array) -> bool:
    count = values.shape[0]
    return values.shape == (count, count) and bool((values == np.eye(count, dtype=values.dtype)).all())


def _overwrite(core: Core, target: Tensor, values: Array) -> None:
    target.array()[...] = values if values.shape == target.shape else values.reshape(target.shape)
    core.mark_written("dst", target, matmul=True)
    psum.matmul_wrote(target)


# ---- block formats ----


def _check_mx(core: Core, target: Tensor, still: Tensor, flow: Tensor, rows: int) -> None:
    for role, tensor in (("stationary", still), ("moving", flow)):
        if tensor.dtype not in _PACKED:
            raise MachineError(
                "matmul.dtype",
                f"{tensor.dtype} is no operand of an MX matmul",
                operand=role,
                remedy=f"use one of {', '.join(sorted(_PACKED))}",
            )
    depth = still.shape[0]
    if depth != flow.shape[0]:
        raise MachineError(
            "matmul.shape",
            f"Matmul contraction dimension mismatch: stationary[0]={depth} != moving[0]={flow.shape[0]}",
        )
    if depth % 32 or depth > rows:
        raise MachineError(
            "matmul.shape", f"{depth} partitions: an MX matmul takes a multiple of 32, up to {rows}"
        )
    height, width = still.size // depth, flow.size // depth
    if height % 2 or height > 128:
        raise MachineError("matmul.shape", f"stationary free dimension {height} must be even and at most 128")
    limit = _moving_limit(core, target)
    if width > limit:
        raise MachineError(
            "matmul.shape", f"Matmul moving free dimension {width} exceeds gemm_moving_fmax={limit}"
        )
    _check_result_shape(target, height, width)
    _check_result_type(core, target)


def _mx_operand(core: Core, role: str, data: Tensor, scale: Any) -> MxOperand:
    """The operand with the scales of its groups: rows 32 q .. 32 q + 3 of the scale view, q per 32
    partitions."""
    scales = _check_scale(role, data, scale)
    width = data.size // data.shape[0]
    rows = [_scale_rows(core, role, data, scales, quadrant) for quadrant in range(data.shape[0] // 32)]
    values = core.read(role, data, group=32).reshape(data.shape[0], width)
    return MxOperand.unpack(values, np.concatenate(rows), data.dtype)


def _scale_rows(core: Core, role: str, data: Tensor, scales: Tensor, quadrant: int) -> Array:
    """The four scale rows of 32 data partitions, as wide as the data."""
    role = f"{role}_scale"
    if data.indirection is not None:
        return core.read_selection(role, select_scales(core, role, scales, data, quadrant))
    rows = scales.slice(0, 32 * quadrant, 32 * quadrant + 4)
    width = data.size // data.shape[0]
    # Columns behind those of the data may hold anything, also bytes never written.
    if rows.ndim == 2 and rows.shape[1] > width:
        rows = rows.slice(1, 0, width)
    return flat(core.read(role, rows), rows)[:, :width]


def _check_scale(role: str, data: Tensor, scale: Any) -> Tensor:
    role = f"{role}_scale"
    scales = check_tensor(role, scale)
    if scales.buffer.name != "sbuf":
        raise MachineError("operand.memory", f"must be in ['sbuf'], got {scales.buffer.name}", operand=role)
    if scales.dtype not in ("uint8", "float8_e8m0fnu"):
        raise MachineError("matmul.dtype", f"{scales.dtype} must be uint8 or float8_e8m0fnu", operand=role)
    if scales.start_partition % 32 not in SCALE_OFFSETS:
        raise MachineError(
            "partition.start",
            f"scales start at partition {scales.start_partition}, which is not 0, 4, 8 or 12 in its quadrant",
            operand=role,
        )
    needed = data.shape[0] - 28
    if scales.shape[0] < needed or scales.size // scales.shape[0] < data.size // data.shape[0]:
        raise MachineError(
            "matmul.scale",
            f"{scales.shape} holds no scale for every group of data {data.shape}: needs {needed} partitions "
            f"and {data.size // data.shape[0]} columns",
            operand=role,
            remedy="keep the scales of 32 partitions in 4 rows of each quadrant of 32",
        )
    return scales
