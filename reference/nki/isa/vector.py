"""Vector engine instructions of nki.isa.

Common to all: partition axis first, at most 128 partitions from a legal start partition; operands have equal
partition counts and equal elements per partition (ranks may differ). Arithmetic is fp32 with one rounding to
the dtype of dst (to nearest even; floats overflow to infinity, integers saturate, NaN to integer by profile
V4). Operands are SBUF or PSUM unless said otherwise. dst may share bytes with operands: everything is read
first. Source: documentation of nki.isa (NKI 0.6), as collected in the API fact sheet 2.2; numerics fact sheet
5.
"""

from __future__ import annotations

from typing import Any

from reference.neuroncore import bn, prng, quantize, reduction, scan, select, shuffle
from reference.neuroncore import exponential as exponential_machine
from reference.neuroncore import max8 as max8_machine
from reference.neuroncore import vector_engine as machine
from reference.neuroncore.enums import engine as engines
from reference.neuroncore.enums import reduce_cmd as reduce_cmds
from reference.neuroncore.instruction import NkiInstruction


def tensor_copy(dst: Any, src: Any, engine: Any = engines.unknown, name: str | None = None) -> NkiInstruction:
    """dst = src. Equal dtypes: the bits (NaN payloads and int32 included); else through fp32, one rounding.

    engine: vector (default), scalar (gen3 on), gpsimd (no PSUM).
    """
    return machine.tensor_copy(dst, src, engine, name=name)


def tensor_copy_predicated(
    dst: Any, src: Any, predicate: Any, reverse_pred: bool = False, name: str | None = None
) -> NkiInstruction:
    """dst = src where predicate is not 0 (is 0 if reverse_pred); elsewhere dst keeps its bits.

    src: tile of dst's dtype, or a number (rounded to it). predicate: uint8, uint16 or uint32. src and
    predicate are not both in PSUM.
    """
    return machine.tensor_copy_predicated(dst, src, predicate, reverse_pred, name=name)


def tensor_tensor(
    dst: Any, data1: Any, data2: Any, op: Any, engine: Any = engines.unknown, name: str | None = None
) -> NkiInstruction:
    """dst = data1 op data2, element by element, no broadcasting.

    Arithmetic operators: fp32; comparisons and logic give 1.0 or 0.0; NaN and signed zeros in maximum and
    minimum by profile V5. Where all three tiles are int32 or uint32, none in PSUM and engine is not vector,
    GpSimd computes exact integers (overflow by profile G1). Bit-vector operators: integer tiles of one width,
    no cast, shifts are logical. nl.power runs on GpSimd. data1 and data2 are not both in PSUM; nothing in
    PSUM on GpSimd.
    """
    return machine.tensor_tensor(dst, data1, data2, op, engine, name=name)


def tensor_scalar(
    dst: Any,
    data: Any,
    op0: Any,
    operand0: Any,
    reverse0: bool = False,
    op1: Any = None,
    operand1: Any = None,
    reverse1: bool = False,
    engine: Any = engines.unknown,
    name: str | None = None,
) -> NkiInstruction:
    """dst = (data op0 operand0) op1 operand1; a reversed operator takes its operands the other way round.

    Operands: numbers or (P, 1) tiles, converted to fp32. Between the operators fp32 and no rounding to dst;
    multiply and add round twice, or once by profile V1 (scalar engine: S1). Both operators arithmetic or both
    bit-vector (integer tiles of one width, integer immediates). Unary op (abs, rsqrt, reciprocal; gen4
    square, relu): operand None or 0. int32 goes through fp32, or stays exact by profile V11.

    engine: vector (default); scalar (gen3: multiply+add, multiply, add; gen4: all); gpsimd (rsqrt alone, no
    PSUM).
    """
    return machine.tensor_scalar(dst, data, op0, operand0, reverse0, op1, operand1, reverse1, engine, name=name)


def scalar_tensor_tensor(
    dst: Any,
    data: Any,
    op0: Any,
    operand0: Any,
    op1: Any,
    operand1: Any,
    reverse0: bool = False,
    reverse1: bool = False,
    name: str | None = None,
) -> NkiInstruction:
    """dst = (data op0 operand0) op1 operand1, operand0 a number or (P, 1) tile, operand1 a tile like data.

    Arithmetic operators only, fp32 throughout. data and operand1 are not both in PSUM.
    """
    return machine.scalar_tensor_tensor(dst, data, op0, operand0, op1, operand1, reverse0, reverse1, name=name)


def reciprocal(dst: Any, data: Any, name: str | None = None) -> NkiInstruction:
    """dst = 1 / data: correctly rounded fp32, or by profile V6. 1/+-0 = +-inf, 1/+-inf = +-0, NaN stays."""
    return machine.reciprocal(dst, data, name=name)


def tensor_reduce(
    dst: Any,
    op: Any,
    data: Any,
    axis: Any,
    negate: bool = False,
    keepdims: bool = False,
    name: str | None = None,
) -> NkiInstruction:
    """dst = op over the last free axes of data, e.g. (P, D1, D2, D3): axis 3, (2, 3) or (1, 2, 3).

    op: add, subtract, multiply, maximum, minimum, logical_and/or/xor, on gen4 abs_max, abs_min (fp32; order
    by profile V2, NaN by V5), or bitwise_and/or/xor on integer tiles of one width. negate multiplies the fp32
    result by -1. dst holds the kept elements, in any rank; keepdims changes no bytes.
    """
    return reduction.tensor_reduce(dst, op, data, axis, negate, keepdims, name=name)


def tensor_scalar_reduce(
    dst: Any,
    data: Any,
    op0: Any,
    operand0: Any,
    reduce_op: Any,
    reduce_res: Any = None,
    reverse0: bool = False,
    reduce_cmd: Any = reduce_cmds.reset_reduce,
    reduce_init: Any = None,
    reduce_res_negate: bool = False,
    name: str | None = None,
) -> NkiInstruction:
    """dst = data op0 operand0; the shared accumulator takes in its fp32 values over all free axes.

    reduce_op: add, multiply, maximum, minimum; the accumulator starts from 0, 1, -inf, +inf (reset_reduce),
    goes on (reduce) or starts from reduce_init (load_reduce). reduce_res (P, 1), written after dst, receives
    it, negated if asked. reverse0 is not supported.
    """
    return reduction.tensor_scalar_reduce(
        dst,
        data,
        op0,
        operand0,
        reduce_op,
        reduce_res,
        reverse0,
        reduce_cmd,
        reduce_init,
        reduce_res_negate,
        name=name,
    )


def range_select(
    dst: Any,
    on_true_tile: Any,
    comp_op0: Any,
    comp_op1: Any,
    bound0: Any,
    bound1: Any,
    reduce_cmd: Any = reduce_cmds.reset_reduce,
    reduce_res: Any = None,
    reduce_op: Any = "maximum",
    range_start: int = 0,
    on_false_value: Any = select.FP32_MIN,
    name: str | None = None,
) -> NkiInstruction:
    """gen3 on. dst = on_true_tile where i comp_op0 bound0 and i comp_op1 bound1, i = range_start + free
    position, else FP32_MIN, which is -inf in narrower dtypes. The accumulator and reduce_res see fp32 before
    that cast.

    on_true_tile: a float dtype; bounds: float32 (P, 1); comparisons equal, less, less_equal, greater,
    greater_equal, in fp32 (indices stay within 2^24). reduce_op: maximum. reduce_cmd: idle, reset_reduce,
    reduce.
    """
    return select.range_select(
        dst,
        on_true_tile,
        comp_op0,
        comp_op1,
        bound0,
        bound1,
        reduce_cmd,
        reduce_res,
        reduce_op,
        range_start,
        on_false_value,
        name=name,
    )


def select_reduce(
    dst: Any,
    predicate: Any,
    on_true: Any,
    on_false: Any,
    reduce_res: Any = None,
    reduce_cmd: Any = reduce_cmds.idle,
    reduce_op: Any = "maximum",
    reverse_pred: bool = False,
    name: str | None = None,
) -> NkiInstruction:
    """dst = on_true where predicate is not 0 (is 0 if reverse_pred), else on_false (number or (P, 1) tile).

    predicate: int8, uint8, int16, uint16; on_true: not int32, uint32, tfloat32; not both in PSUM. reduce_cmd
    idle (leaves the accumulator undefined), reset_reduce (from -inf), reduce; reduce_op maximum; reduce_res a
    float tile.
    """
    return select.select_reduce(
        dst, predicate, on_true, on_false, reduce_res, reduce_cmd, reduce_op, reverse_pred, name=name
    )


def exponential(
    dst: Any,
    src: Any,
    max_value: Any = 0.0,
    reduce_res: Any = None,
    reduce_cmd: Any = reduce_cmds.idle,
    reduce_init: Any = 0.0,
    name: str | None = None,
) -> NkiInstruction:
    """gen4. dst = exp(src - max_value), max_value a number or (P, 1) tile; exp(0) = 1 and exp(-inf) = 0
    exactly.

    Accuracy by profile V10, underflow by S3. reduce_cmd reset_reduce (from 0), reduce, load_reduce (from
    reduce_init) sum the fp32 values into the shared accumulator; idle leaves it undefined.
    """
    return exponential_machine.exponential(dst, src, max_value, reduce_res, reduce_cmd, reduce_init, name=name)


def nc_stream_shuffle(dst: Any, src: Any, shuffle_mask: Any, name: str | None = None) -> NkiInstruction:
    """dst[32 b + i] = src[32 b + shuffle_mask[i]] in every quadrant b of 32 partitions; 255 keeps dst's
    partition.

    Bits are moved: equal dtypes and elements per partition. src may have fewer partitions than dst where the
    mask addresses only those it has (all zeros: broadcast of partition 0). Start partitions 0 with 96 or 128
    active partitions, 0/64 with 64, 0/32/64/96 with 32.
    """
    return shuffle.nc_stream_shuffle(dst, src, shuffle_mask, name=name)


def tensor_tensor_scan(
    dst: Any,
    data0: Any,
    data1: Any,
    initial: Any,
    op0: Any,
    op1: Any,
    reverse0: bool = False,
    reverse1: bool = False,
    name: str | None = None,
) -> NkiInstruction:
    """dst[i] = (data0[i] op0 state) op1 data1[i], which is the next state; the first state is `initial`.

    Free axes are flattened. Binary arithmetic operators; state in fp32 (profile V8 `rounded`: as stored in
    dst), one or two roundings per step by V1. initial: number or (P, 1) tile. data0 and data1 are not both in
    PSUM.
    """
    return scan.tensor_tensor_scan(dst, data0, data1, initial, op0, op1, reverse0, reverse1, name=name)


def tensor_scalar_cumulative(
    dst: Any,
    src: Any,
    op0: Any,
    op1: Any,
    imm0: Any,
    imm1: Any = None,
    reduce_cmd: Any = reduce_cmds.reset_reduce,
    name: str | None = None,
) -> NkiInstruction:
    """register = (src[i] op0 imm0) op1 register; dst[i] = register, along the flattened free axes.

    The register is the vector engine's shared accumulator: reset_reduce starts it at 0 (add, subtract), 1
    (multiply), -inf (maximum) or +inf (minimum), reduce goes on, load_reduce starts it at imm1. No 32-bit
    integer tiles.
    """
    return scan.tensor_scalar_cumulative(dst, src, op0, op1, imm0, imm1, reduce_cmd, name=name)


def max8(dst: Any, src: Any, name: str | None = None) -> NkiInstruction:
    """dst (P, 8) = the 8 largest fp32 values of src per partition, descending, duplicates kept.

    src: up to 3 axes, 8 to 16384 elements per partition. NaN comes first where maxima propagate it (profile
    V5), else last; which zero comes first by G2.
    """
    return max8_machine.max8(dst, src, name=name)


def nc_find_index8(dst: Any, data: Any, vals: Any, name: str | None = None) -> NkiInstruction:
    """dst (P, 8) uint16 or uint32 = first position of each of the 8 vals in data; all ones where there is
    none.

    The k-th of equal vals takes the k-th position. Compared in fp32: NaN is never found, -0 equals +0. data:
    up to 3 axes, 8 to 16384 elements per partition.
    """
    return max8_machine.nc_find_index8(dst, data, vals, name=name)


def nc_match_replace8(
    dst: Any, data: Any, vals: Any, imm: float, dst_idx: Any = None, name: str | None = None
) -> NkiInstruction:
    """dst = data, where for i = 7 down to 0 the first position of vals[i] that is still free becomes imm.

    dst_idx (P, 8) uint16 or uint32 receives the positions; all ones where there was none (not documented).
    Equal dtypes of data and dst move bits. dst may be data.
    """
    return max8_machine.nc_match_replace8(dst, data, vals, imm, dst_idx, name=name)


def bn_stats(dst: Any, data: Any, name: str | None = None) -> NkiInstruction:
    """dst (P, 6) = (count, mean, variance * count) of the even-indexed, then of the odd-indexed elements of
    data.

    fp32, population variance, method and empty halves by profile V7, order of sums by V2. Up to 512 elements
    per partition.
    """
    return bn.bn_stats(dst, data, name=name)


def bn_aggr(dst: Any, data: Any, name: str | None = None) -> NkiInstruction:
    """dst (P, 2) = (mean, variance) joined from the (count, mean, variance * count) triples in data, in fp32.

    NaN where all counts of a partition are 0.
    """
    return bn.bn_aggr(dst, data, name=name)


def quantize_mx(dst: Any, src: Any, dst_scale: Any, name: str | None = None) -> NkiInstruction:
    """gen4. dst, dst_scale = src quantised in groups of 8 partitions x 4 adjacent elements.

    src (P, F) bfloat16 or float16 in SBUF, P a multiple of 32, F of 4; dst (P, F/4) float8_e4m3fn_x4 or
    float8_e5m2_x4; dst_scale uint8 or float8_e8m0fnu with dst's free size, the scale of partitions 8r..8r+7
    in row r mod 4 of its quadrant (no other row is written); a view that starts 4, 8 or 12 partitions into a
    quadrant packs several sets. Scale 2^(floor(log2 amax) - Emax + 1), before NKI 0.5 half of that with
    clipping (profile `nki`); NaN, Inf and subnormal groups by profile Q1.
    """
    return quantize.quantize_mx(dst, src, dst_scale, name=name)


def rng(dst: Any, engine: Any = engines.vector, name: str | None = None) -> NkiInstruction:
    """dst = random bits, the low ones of 32 per element; integer dtypes. engine: vector (default), gpsimd
    (gen3 on, no PSUM). Streams are reproducible by seed and lane; they are not a device's."""
    return prng.rng(dst, engine, name=name)


def rand2(dst: Any, min: Any, max: Any, name: str | None = None) -> NkiInstruction:
    """gen4. dst = uniform fp32 numbers in [min, max], cast to dst; min < max, numbers or (P, 1) tiles."""
    return prng.rand2(dst, min, max, name=name)


def dropout(dst: Any, data: Any, prob: Any, name: str | None = None) -> NkiInstruction:
    """dst = data with each element replaced by 0 with probability prob (number or (P, 1) tile); the rest
    keeps its bits, without rescaling. dst.dtype == data.dtype; a tile prob is float32 for integer data."""
    return prng.dropout(dst, data, prob, name=name)


def set_rng_seed(src_seeds: Any, name: str | None = None) -> NkiInstruction:
    """Seed the vector engine's generators with one 32-bit value of shape (1, 1)."""
    return prng.set_rng_seed(src_seeds, name=name)


def rand_set_state(src_seeds: Any, engine: Any = engines.gpsimd, name: str | None = None) -> NkiInstruction:
    """gen3 on. Load generator states: uint32 (P, 6) in SBUF for gpsimd, on gen4 (P, 24) for vector."""
    return prng.rand_set_state(src_seeds, engine, name=name)


def rand_get_state(dst: Any, engine: Any = engines.gpsimd, name: str | None = None) -> NkiInstruction:
    """gen3 on. Store generator states: uint32 (P, 6) for gpsimd, on gen4 (P, 24) for vector."""
    return prng.rand_get_state(dst, engine, name=name)


__all__ = [
    "bn_aggr",
    "bn_stats",
    "dropout",
    "exponential",
    "max8",
    "nc_find_index8",
    "nc_match_replace8",
    "nc_stream_shuffle",
    "quantize_mx",
    "rand2",
    "rand_get_state",
    "rand_set_state",
    "range_select",
    "reciprocal",
    "rng",
    "scalar_tensor_tensor",
    "select_reduce",
    "set_rng_seed",
    "tensor_copy",
    "tensor_copy_predicated",
    "tensor_reduce",
    "tensor_scalar",
    "tensor_scalar_cumulative",
    "tensor_scalar_reduce",
    "tensor_tensor",
    "tensor_tensor_scan",
]
