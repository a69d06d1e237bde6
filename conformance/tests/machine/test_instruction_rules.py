"""Claim: every instruction of the vector, scalar and GpSimd engines has its documented signature and refuses operands
in the wrong memory, of no tensor type, at illegal partitions, or on a generation that lacks it.

Each rule has its twin here: the same call with a legal operand runs. `instruction_table.TABLE` holds the calls.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.bench import launch, refusal
from conformance.tests.machine.instruction_table import BY_NAME, TABLE, Row
from reference.neuroncore.options import Options

import nki.isa as nisa  # isort: skip
import nki.language as nl  # isort: skip

#: Documented signatures (NKI 0.6), the facts of the API sheet 2.2 to 2.4.
SIGNATURES = [
    "tensor_copy(dst, src, engine=engine.unknown, name=None)",
    "tensor_copy_predicated(dst, src, predicate, reverse_pred=False, name=None)",
    "tensor_tensor(dst, data1, data2, op, engine=engine.unknown, name=None)",
    (
        "tensor_scalar(dst, data, op0, operand0, reverse0=False, op1=None, operand1=None, reverse1=False, "
        "engine=engine.unknown, name=None)"
    ),
    "scalar_tensor_tensor(dst, data, op0, operand0, op1, operand1, reverse0=False, reverse1=False, name=None)",
    "reciprocal(dst, data, name=None)",
    "tensor_reduce(dst, op, data, axis, negate=False, keepdims=False, name=None)",
    (
        "tensor_scalar_reduce(dst, data, op0, operand0, reduce_op, reduce_res=None, reverse0=False, "
        "reduce_cmd=reduce_cmd.reset_reduce, reduce_init=None, reduce_res_negate=False, name=None)"
    ),
    ("tensor_scalar_cumulative(dst, src, op0, op1, imm0, imm1=None, reduce_cmd=reduce_cmd.reset_reduce, name=None)"),
    "tensor_tensor_scan(dst, data0, data1, initial, op0, op1, reverse0=False, reverse1=False, name=None)",
    "nc_stream_shuffle(dst, src, shuffle_mask, name=None)",
    "max8(dst, src, name=None)",
    "nc_find_index8(dst, data, vals, name=None)",
    "nc_match_replace8(dst, data, vals, imm, dst_idx=None, name=None)",
    "bn_stats(dst, data, name=None)",
    "bn_aggr(dst, data, name=None)",
    (
        "range_select(dst, on_true_tile, comp_op0, comp_op1, bound0, bound1, "
        "reduce_cmd=reduce_cmd.reset_reduce, reduce_res=None, reduce_op=maximum, range_start=0, "
        "on_false_value=FP32_MIN, name=None)"
    ),
    (
        "select_reduce(dst, predicate, on_true, on_false, reduce_res=None, reduce_cmd=reduce_cmd.idle, "
        "reduce_op=maximum, reverse_pred=False, name=None)"
    ),
    ("exponential(dst, src, max_value=0.0, reduce_res=None, reduce_cmd=reduce_cmd.idle, reduce_init=0.0, name=None)"),
    "quantize_mx(dst, src, dst_scale, name=None)",
    "rng(dst, engine=engine.vector, name=None)",
    "dropout(dst, data, prob, name=None)",
    "set_rng_seed(src_seeds, name=None)",
    "rand_set_state(src_seeds, engine=engine.gpsimd, name=None)",
    "rand_get_state(dst, engine=engine.gpsimd, name=None)",
    "rand2(dst, min, max, name=None)",
    (
        "activation(dst, op, data, bias=None, scale=1.0, reduce_op=None, reduce_res=None, "
        "reduce_cmd=reduce_cmd.idle, name=None)"
    ),
    "activation_reduce(dst, op, data, reduce_op, reduce_res, bias=None, scale=1.0, name=None)",
    (
        "activate2(dst, op, data, imm0, imm1, op0, op1, relu_param=0.0, reverse0=False, reverse1=False, "
        "reduce_op=None, reduce_res=None, reduce_cmd=reduce_cmd.idle, name=None)"
    ),
    "iota(dst, pattern, offset=0, channel_multiplier=0, name=None)",
    "memset(dst, value, engine=engine.unknown, name=None)",
    (
        "affine_select(dst, pattern, channel_multiplier, on_true_tile, on_false_value, cmp_op=equal, "
        "offset=0, name=None)"
    ),
    "tensor_partition_reduce(dst, op, data, name=None)",
    "local_gather(dst, src_buffer, index, num_elem_per_idx=1, num_valid_indices=None, name=None)",
    "nc_n_gather(dst, data, indices, name=None)",
    "nonzero_with_count(dst, src, index_offset=0, padding_val=-1, name=None)",
    "sequence_bounds(dst, segment_ids, name=None)",
    "topk(val_dst, idx_dst, src, n, name=None)",
]

EVERY = pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
ROLES = pytest.mark.parametrize(
    ("row", "role"), [(row, role) for row in TABLE for role in row.operands], ids=lambda p: getattr(p, "name", p)
)


def issue(row: Row, *, start: int = 0, change: Any = None, generation: str = "", **options: Any) -> Any:
    """Issue the row's call in a kernel; operands sit at partition `start`; `change(tiles)` may replace some."""

    def kernel(anchor: Any) -> Any:
        tiles = {}
        for role, (shape, dtype) in row.operands.items():
            whole = nl.ndarray((128, *shape[1:]), dtype, nl.sbuf)
            if role in row.reads:
                nisa.memset(whole, 0 if row.name != "activation" else 1)
            tiles[role] = whole[start : start + shape[0]]
        if change is not None:
            tiles.update(change(tiles, anchor))
        handle = row.call(**tiles, **{key: options[key] for key in options if key == "name"})
        assert isinstance(handle, nisa.NkiInstruction)
        assert handle.depends_on(handle) is handle
        result = nl.ndarray((1,), nl.float32, nl.shared_hbm)
        nisa.dma_copy(result, anchor)
        return result

    settings = Options(trace=True)
    return launch(kernel, np.zeros(1, np.float32), generation=generation or row.generation, options=settings)


def stopped(row: Row, rule: str, **arguments: Any) -> str:
    with pytest.raises(nisa.NkiValidationError) as caught:
        issue(row, **arguments)
    assert caught.value.rule == rule, caught.value
    return str(caught.value)


# --- signatures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", SIGNATURES, ids=lambda text: text.partition("(")[0])
def test_signatures_are_the_documented_ones(text: str) -> None:
    name, _, rest = text.partition("(")
    function = getattr(nisa, name)
    shown = [
        key if p.default is p.empty else f"{key}={spelled(p.default)}"
        for key, p in inspect.signature(function).parameters.items()
    ]
    assert f"{', '.join(shown)})" == rest
    assert function.__doc__


def spelled(value: Any) -> str:
    if isinstance(value, (nisa.engine, nisa.reduce_cmd)):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, np.float32):
        return "FP32_MIN" if value == np.finfo(np.float32).min else str(value)
    return value if value in ("maximum", "equal") else str(value)


def test_the_table_holds_every_instruction() -> None:
    assert [text.partition("(")[0] for text in SIGNATURES if text.partition("(")[0] not in BY_NAME] == []
    assert len(SIGNATURES) == len(TABLE)


@EVERY
def test_a_legal_call_runs_and_is_traced(row: Row) -> None:
    result = issue(row, name="label")
    (record,) = [r for r in result.trace.instructions if r.op == row.name and r.label == "label"]
    assert record.engine == row.engine
    assert record.location.startswith("conformance/tests/machine/instruction_table.py:")
    assert {operand.role for operand in record.operands} == set(row.operands)


@EVERY
def test_unknown_keywords_are_refused(row: Row) -> None:
    with pytest.raises(TypeError, match="mask"):
        issue(row, change=lambda tiles, anchor: {"mask": None})


@pytest.mark.parametrize("module", ["kernels.mine", "nki_kernels.attention", "references", "nkilib.core"])
def test_kernels_of_any_module_name_are_blamed(module: str) -> None:
    source = "def kernel(a):\n    nisa.tensor_copy(a, a)\n"
    space = {"__name__": module, "nisa": nisa}
    exec(compile(source, "somewhere.py", "exec"), space)
    error = refusal(space["kernel"], np.zeros((1, 1), np.float32))
    assert (error.location or "").endswith("somewhere.py:2")


# --- operands ---------------------------------------------------------------------------------------------


@ROLES
def test_hbm_operands_are_refused(row: Row, role: str) -> None:
    def in_hbm(tiles: Any, anchor: Any) -> Any:
        shape, dtype = row.operands[role]
        return {role: nl.ndarray(shape, dtype, nl.private_hbm)}

    assert "private_hbm" in stopped(row, "operand.memory", change=in_hbm)


@ROLES
def test_what_is_no_tensor_is_refused(row: Row, role: str) -> None:
    with pytest.raises(nisa.NkiValidationError) as caught:
        issue(row, change=lambda tiles, anchor: {role: [1.0]})
    assert caught.value.rule in ("operand.type", "operand.scalar", "operand.dtype")
    assert caught.value.operand == role


@ROLES
def test_psum_is_refused_where_the_engine_cannot_reach_it(row: Row, role: str) -> None:
    def in_psum(tiles: Any, anchor: Any) -> Any:
        shape, dtype = row.operands[role]
        tile = nl.ndarray(shape, dtype, nl.psum)
        if role in row.reads:
            nisa.memset(tile, 0 if row.name != "activation" else 1)
        return {role: tile}

    if row.sbuf_only:
        stopped(row, "operand.memory", change=in_psum)
    else:
        issue(row, change=in_psum)


@EVERY
@pytest.mark.parametrize("start", [32, 64, 96])
def test_operands_may_start_at_any_quadrant(row: Row, start: int) -> None:
    issue(row, start=start)


@ROLES
@pytest.mark.parametrize("start", [1, 16, 80])
def test_other_start_partitions_are_refused(row: Row, role: str, start: int) -> None:
    if role in row.free_start:
        return

    def moved(tiles: Any, anchor: Any) -> Any:
        shape, dtype = row.operands[role]
        whole = nl.ndarray((128, *shape[1:]), dtype, nl.sbuf)
        nisa.memset(whole, 0)
        return {role: whole[start : start + shape[0]]}

    assert "multiple of" in stopped(row, "partition.start", change=moved)


@ROLES
def test_source_and_destination_may_start_at_different_quadrants(row: Row, role: str) -> None:
    def moved(tiles: Any, anchor: Any) -> Any:
        shape, dtype = row.operands[role]
        whole = nl.ndarray((128, *shape[1:]), dtype, nl.sbuf)
        nisa.memset(whole, 0 if row.name != "activation" else 1)
        return {role: whole[96 : 96 + shape[0]]}

    issue(row, change=moved)


@pytest.mark.parametrize(
    ("count", "start", "legal"),
    [(128, 0, True), (65, 0, True), (64, 64, True), (33, 64, True), (64, 32, False), (33, 32, False), (33, 96, False)],
)
def test_how_many_partitions_may_start_where(count: int, start: int, legal: bool) -> None:
    def kernel(anchor: Any) -> Any:
        whole = nl.ndarray((128, 4), nl.float32, nl.sbuf)
        nisa.memset(whole, 0)
        nisa.tensor_scalar(whole[start : start + count], whole[start : start + count], nl.add, 1.0)
        return anchor

    if legal:
        launch(kernel, np.zeros(1, np.float32))
    else:
        assert refusal(kernel, np.zeros(1, np.float32)).rule in ("partition.start", "bounds")


@pytest.mark.parametrize("row", [row for row in TABLE if row.reads], ids=lambda row: row.name)
def test_what_nothing_has_written_is_not_read(row: Row) -> None:
    role = next(iter(row.reads))

    def fresh(tiles: Any, anchor: Any) -> Any:
        return {role: nl.ndarray(*row.operands[role], nl.sbuf)}

    assert "nothing has written" in stopped(row, "memory.unwritten", change=fresh)


# --- generations ------------------------------------------------------------------------------------------

SINCE = {
    "range_select": 3,
    "nonzero_with_count": 3,
    "rand_set_state": 3,
    "rand_get_state": 3,
    "activate2": 4,
    "exponential": 4,
    "quantize_mx": 4,
    "rand2": 4,
}


@EVERY
def test_instructions_appear_with_their_generation(row: Row) -> None:
    since = SINCE.get(row.name, 2)
    issue(row, generation=f"gen{since}")
    if since > 2:
        text = stopped(row, "generation", generation=f"gen{since - 1}")
        assert f"NeuronCore-v{since}" in text
        assert f"nisa.{row.name}" in text
