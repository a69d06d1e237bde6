"""Instructions of the tensor engine: the 128 x 128 array of multipliers, its transposes, and MX matmuls.

The arithmetic of one instruction is `reference.numerics` under the profile; this module holds the rules on
operands and what PSUM does with the result. Sources: API fact sheet 2.1, numerics fact sheet section 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.numerics.cast import cast, to_float32
from reference.numerics.exact_dot import exact_dot

from . import psum
from .core import Core, flat
from .enums import engine as engines
from .enums import matmul_perf_mode, member
from .errors import MachineError
from .instruction import check_compute, check_tensor, instruction
from .tensor import Tensor

F32 = NDArray[np.float32]

_WIDE = frozenset({"float32", "tfloat32"})
_FP8 = frozenset({"float8_e4m3", "float8_e5m2"})
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
    _check_operand_types(core, still, flow, double)
    _check_shapes(core, target, still, flow, double, rows, columns)
    psum.check_bank(core, target)
    left, right = _operand(core, "stationary", still, double), _operand(core, "moving", flow, double)
    core.counters.macs += still.size * target.size // target.shape[0]
    if is_transpose:
        _transpose_mode(core, target, still, left, right)
    else:
        _check_result_type(core, target)
        _sum_into(core, target, left, right, accumulate)


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
    values = flat(core.read("data", source), source)
    if not on_tensor:
        core.write_bits("dst", target, values.T)
        return "vector"
    psum.check_bank(core, target)
    core.counters.macs += source.shape[0] * source.size
    if core.generation.level < 3 and source.fmt.kind == "float":
        # gen2 multiplies by an identity: NaN and Inf spread along their row, -0 becomes +0.
        identity = np.eye(values.shape[0], dtype=np.float32)
        product = _array_sum(core, to_float32(values, source.fmt), identity)
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
                remedy=f"take a size of {[n for n in (32, 64, 128) if n >= smallest]} and start at a multiple of it",
            )
    if double and size[1] != 128:
        raise MachineError("matmul.tile", "double_row cannot be combined with column tiling")
    return int(size[0]), int(size[1])


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
            f"stationary {still.dtype} with moving {flow.dtype}: float32 and tfloat32 pair only with each other",
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
            f"{target.shape} must have {height} partitions (free size of stationary) and {width} elements per "
            "partition (free size of moving)",
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


def _operand(core: Core, role: str, tensor: Tensor, double: bool = False) -> NDArray[Any]:
    """[K, free], or [K, 2, free] for double_row; storage dtype, tfloat32 rounded as the profile says (U5)."""
    values = core.read(role, tensor)
    shape = (values.shape[0], 2, -1) if double else (values.shape[0], -1)
    values = values.reshape(shape)
    return cast(values, "tfloat32", core.profile) if tensor.dtype == "tfloat32" else values


def _array_sum(core: Core, left: NDArray[Any], right: NDArray[Any]) -> F32:
    """What the array puts out for one instruction, [M, N] in fp32."""
    if left.ndim == 3:
        return exact_dot(left.reshape(-1, left.shape[-1]), right.reshape(-1, right.shape[-1]))
    return exact_dot(left, right)


def _sum_into(
    core: Core, target: Tensor, left: NDArray[Any], right: NDArray[Any], accumulate: bool | None
) -> None:
    """PSUM gets the array's sum, or old content + sum in fp32, rounded once to the dtype of `target`."""
    where = psum.accumulating(core, target, accumulate)
    values = _array_sum(core, left, right)
    if where is not False:
        old = to_float32(flat(target.array(), target), target.fmt)
        values = psum.stored(where, values, old + values)
    _overwrite(core, target, cast(values, target.fmt, core.profile))


def _transpose_mode(
    core: Core, target: Tensor, source: Tensor, left: NDArray[Any], right: NDArray[Any]
) -> None:
    """is_transpose=True: the bits of `stationary` pass where `moving` is an identity (gen3 and later)."""
    if target.dtype != source.dtype:
        raise MachineError(
            "transpose.dtype",
            f"dst {target.dtype} differs from stationary {source.dtype}",
            operand="dst",
            remedy="is_transpose moves data as it is; cast with the copy",
        )
    if core.generation.level >= 3 and _is_identity(right):
        _overwrite(core, target, left.T)
    else:
        _overwrite(core, target, cast(_array_sum(core, left, right), target.fmt, core.profile))


def _is_identity(values: NDArray[Any]) -> bool:
    count = values.shape[0]
    return values.shape == (count, count) and bool((values == np.eye(count, dtype=values.dtype)).all())


def _overwrite(core: Core, target: Tensor, values: NDArray[Any]) -> None:
    target.array()[...] = values if values.shape == target.shape else values.reshape(target.shape)
    core.mark_written("dst", target, matmul=True)
    psum.matmul_wrote(target)
