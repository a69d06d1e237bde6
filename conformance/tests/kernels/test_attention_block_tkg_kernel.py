"""The fused attention block on the machine: what its update of caches must not do, and what may not change a bit.

Claims: without its barrier the update races with the other core's attention, and with it not; a skipped batch keeps
every byte in every layout; places of rows are exact above 2**24 under both answers to how integers overflow; a manager
of SBUF, defaults that are written out, and whose tile X is change no bit. Run a test again by its id.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np
import pytest
from numpy.typing import NDArray

from conformance.backends.sim import SimBackend
from conformance.cases.attention_block_tkg import SUBJECT
from conformance.subject import Call
from kernels.cache_update import row_slots
from kernels.sbuf_manager import SbufManager
from reference.contracts.attention_block_tkg import SKIP, Config
from reference.neuroncore.errors import RaceError
from reference.neuroncore.options import Options
from reference.numerics.profile import DEFAULT
from reference.numerics.ulp import same_bits

pytestmark = pytest.mark.sim

Arrays = dict[str, NDArray[Any]]

SMALL: dict[str, Any] = {"B": 2, "S": 2, "H": 1024, "q": 2, "d": 64, "S_ctx": 256, "S_max": 256}
LAYOUTS: dict[str, dict[str, Any]] = {
    "rows": {},
    "transposed": {"K_cache_transposed": True, "S_max": 300},
    "rank-4": {"cache_rank": 4},
    "block": {"block_len": 32},
    "fp8": {"kv_dtype": "float8_e4m3", "k_scale": "float32", "v_scale": "float32"},
}


def outputs(config: Config, inputs: Arrays, **arguments: Any) -> Arrays:
    """Named outputs of the kernel; `arguments` replace those of the config."""
    call = SUBJECT.call(config, inputs, SUBJECT.load())
    call = dataclasses.replace(call, arguments={**call.arguments, **arguments})
    found: Arrays = SimBackend(Options()).launch(call).outputs
    return found


def assert_same(got: Arrays, wanted: Arrays) -> None:
    for name in ("out", "K_out", "V_out"):
        assert same_bits(got[name], wanted[name]).all(), name


@pytest.mark.parametrize("barrier", [True, False], ids=["with-barrier", "without-barrier"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_barrier_keeps_the_update_from_racing_with_attention(
    layout: str, barrier: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(**SMALL | LAYOUTS[layout])
    inputs = SUBJECT.build(config, "normal", 0)
    if config.block_kv:
        # The first block of either batch and its first rows, which the first core reads and the last one writes.
        inputs["kv_cache_update_idx"][:, 0] = inputs["active_blocks_table"][:, 0] * config.block_len
    else:
        inputs["kv_cache_update_idx"][:] = 0
    if barrier:
        outputs(config, inputs)
        return
    monkeypatch.setattr(nisa, "core_barrier", lambda **arguments: None)
    with pytest.raises(RaceError):
        outputs(config, inputs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_skipped_batch_keeps_every_byte_and_still_attends_to_its_new_tokens(layout: str) -> None:
    config = Config(**SMALL | LAYOUTS[layout])
    inputs = SUBJECT.build(config, "normal", 1)
    inputs["kv_cache_update_idx"][:] = SKIP
    got = outputs(config, inputs)
    for output, argument in (("K_out", "K_cache"), ("V_out", "V_cache")):
        assert got[output].tobytes() == inputs[argument].tobytes()
    if not config.block_kv:
        inputs["kv_cache_update_idx"][:] = 5
        written = outputs(config, inputs)
        assert same_bits(written["out"], got["out"]).all()
        assert written["V_out"].tobytes() != inputs["V_cache"].tobytes()


@nki.jit
def slots_of(idx, S, batch_rows):  # type: ignore[no-untyped-def]
    """row_slots in HBM."""
    slots = row_slots(idx, S, batch_rows)
    out = nl.ndarray(slots.shape, dtype=slots.dtype, buffer=nl.shared_hbm, name="out")
    nisa.dma_copy(dst=out, src=slots)
    return out


@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
def test_rows_are_exact_above_2_24_and_skipped_ones_stay_outside(overflow: str) -> None:
    rows = 2**24 + 3
    idx = np.array([[2**24 + 1], [7], [SKIP], [2**24 - 1]], np.uint32)
    options = Options(profile=DEFAULT.replace(int_overflow=overflow))
    call = Call(slots_of, {"idx": idx, "S": 2, "batch_rows": rows}, ("out",))
    got = SimBackend(options).launch(call).outputs["out"].ravel().tolist()
    assert got[:4] == [2**24 + 1, 2**24 + 2, rows + 7, rows + 8]
    assert got[4:6] == [SKIP, SKIP]
    assert got[6:] == [3 * rows + 2**24 - 1, 3 * rows + 2**24]


def test_a_manager_changes_no_bit() -> None:
    config = Config(**SMALL)
    inputs = SUBJECT.build(config, "normal", 2)
    wanted = outputs(config, inputs)
    for manager in (SbufManager(), SbufManager(lower=1024, upper=190000)):
        assert_same(outputs(config, inputs, sbm=manager), wanted)


def test_defaults_written_out_change_no_bit_and_other_values_do() -> None:
    config = Config(**SMALL)
    inputs = SUBJECT.build(config, "normal", 3)
    wanted = outputs(config, inputs)
    assert_same(outputs(config, inputs, rmsnorm_X_eps=1e-3, softmax_scale=0.125, X_hidden_dim_actual=1024), wanted)
    for name, value in (("rmsnorm_X_eps", 1e-1), ("softmax_scale", 0.25), ("X_hidden_dim_actual", 900)):
        assert not same_bits(outputs(config, inputs, **{name: value})["out"], wanted["out"]).all()


def test_x_on_chip_gives_the_bits_of_x_in_hbm() -> None:
    config = Config(**SMALL)
    on_chip = dataclasses.replace(config, X_in_sb=True)
    wanted = outputs(config, SUBJECT.build(config, "normal", 4))
    assert_same(outputs(on_chip, SUBJECT.build(on_chip, "normal", 4)), wanted)


def test_the_kernel_itself_refuses_what_flags_and_shapes_show() -> None:
    config = Config(**SMALL)
    inputs = SUBJECT.build(config, "normal", 5)
    for wrong in (
        {"sin": None}, {"rmsnorm_X_gamma": None}, {"k_scale": np.ones((1, 1), np.float32)},
        {"update_cache": False}, {"W_out": None, "transposed_out": True},
    ):  # fmt: skip
        with pytest.raises(AssertionError):
            outputs(config, inputs, **wrong)
