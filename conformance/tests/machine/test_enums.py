"""Claim: the enumerations have the documented values, one identity under every import path, and old spellings warn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance.tests.machine.tiles import assert_same, execute, refused
from reference.neuroncore.errors import MachineWarning

import nki.isa as nisa  # isort: skip
import nki.isa.constants as constants  # isort: skip

VALUES = {
    "engine": {"unknown": 0, "tensor": 1, "scalar": 2, "gpsimd": 3, "dma": 4, "vector": 5, "sync": 6},
    "reduce_cmd": {"idle": 0, "reset": 1, "reduce": 2, "reset_reduce": 3, "load_reduce": 4},
    "dge_mode": {"unknown": 0, "swdge": 1, "hwdge": 2, "none": 3},
    "oob_mode": {"error": 0, "skip": 1},
    "matmul_perf_mode": {"none": "none", "double_row": "double_row"},
    "nc_version": {"gen2": 2, "gen3": 3, "gen4": 4},
    "dma_engine": {"dma": 1, "gpsimd_dma": 2},
}


@pytest.mark.parametrize("name", VALUES)
def test_members_have_the_documented_values(name: str) -> None:
    kind = getattr(nisa, name)
    assert {member.name: member.value for member in kind} == VALUES[name]
    assert getattr(constants, name) is kind


def test_generations_order_against_each_other_and_against_ints() -> None:
    assert nisa.nc_version.gen2 < nisa.nc_version.gen3 < 4 <= nisa.nc_version.gen4


@pytest.mark.parametrize("spelling", [5, "vector"])
def test_old_spellings_work_with_a_warning(spelling: Any) -> None:
    data = np.ones((2, 2), np.float32)
    with pytest.warns(MachineWarning, match=r"write engine\.vector"):
        got = execute(
            lambda t: nisa.tensor_copy(t.dst, t.src, engine=spelling), {"src": data}, {"dst": ((2, 2), "float32")}
        )
    assert_same(got["dst"], data)


@pytest.mark.parametrize("spelling", [7, "vektor", True, None])
def test_what_is_no_member_is_refused_with_the_members(spelling: Any) -> None:
    error = refused(
        lambda t: nisa.tensor_copy(t.dst, t.src, engine=spelling),
        {"src": np.ones((2, 2), np.float32)},
        {"dst": ((2, 2), "float32")},
    )
    assert error.rule == "operand.enum"
    assert "engine.vector" in str(error)
