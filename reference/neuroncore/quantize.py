"""quantize_mx of the gen4 vector engine: fp8 elements and their scales, in the layout nc_matmul_mx reads."""

from __future__ import annotations

from typing import Any

from reference.numerics import mx

from .core import Core
from .errors import MachineError
from .instruction import check_compute, check_tensor, instruction
from .operands import dtype_in
from .tensor import Tensor

#: Partitions of a quadrant, and scale rows that one operand fills in each.
_QUADRANT, _ROWS = 32, 4


@instruction("vector", since=4)
def quantize_mx(core: Core, dst: Any, src: Any, dst_scale: Any) -> None:
    """dst, dst_scale = src in MX format: groups of 8 partitions x 4 adjacent elements share a scale."""
    source = check_compute("src", src, psum=False)
    target = check_compute("dst", dst, psum=False)
    _check_data(target, source)
    scales = _check_scales(dst_scale, target)
    values = core.read_float("src", source)
    packed, codes = mx.quantize_mx(values, target.fmt, core.profile)
    core.write_bits("dst", target, packed)
    for quadrant in range(-(-len(codes) // _ROWS)):
        rows = scales.slice(0, quadrant * _QUADRANT, quadrant * _QUADRANT + _ROWS)
        part = codes[quadrant * _ROWS : (quadrant + 1) * _ROWS]
        core.write_bits("dst_scale", rows, part.view(scales.fmt.storage))


def _check_data(target: Tensor, source: Tensor) -> None:
    dtype_in("src", source, ("bfloat16", "float16"))
    dtype_in("dst", target, ("float8_e4m3fn_x4", "float8_e5m2_x4"))
    count = source.size // source.shape[0]
    if source.shape[0] % _QUADRANT or count % mx.LANES:
        raise MachineError(
            "mx.shape",
            f"{source.shape} needs partitions in multiples of {_QUADRANT} and elements of {mx.LANES}",
            operand="src",
            remedy="pad the tile",
        )
    if target.shape[0] != source.shape[0] or target.size * mx.LANES != source.size:
        raise MachineError(
            "operand.shape",
            f"{target.shape} must hold a quarter of the elements of src {source.shape}",
            operand="dst",
        )


def _check_scales(value: Any, target: Tensor) -> Tensor:
    scales = check_tensor("dst_scale", value)
    dtype_in("dst_scale", scales, ("uint8", "float8_e8m0fnu"))
    if scales.buffer.name != "sbuf":
        raise MachineError("operand.memory", f"must be in ['sbuf'], got {scales.buffer.name}", operand="dst_scale")
    needed = target.shape[0] - _QUADRANT + _ROWS
    if scales.shape[0] < needed or scales.size // scales.shape[0] != target.size // target.shape[0]:
        raise MachineError(
            "mx.scale_shape",
            f"{scales.shape} needs {needed} or more partitions and the free elements of dst {target.shape}",
            operand="dst_scale",
        )
    if scales.start_partition % _QUADRANT not in mx.SCALE_OFFSETS:
        raise MachineError(
            "mx.scale_offset",
            f"starts at partition {scales.start_partition}: the offset in its quadrant must be one of "
            f"{mx.SCALE_OFFSETS}",
            operand="dst_scale",
            remedy="slice the scale tile at row 0, 4, 8 or 12 of a quadrant",
        )
    return scales
