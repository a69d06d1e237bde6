"""The door: legal arguments reach the kernel and come back named, illegal ones reach nothing."""

from __future__ import annotations

import numpy as np
import pytest

from conformance.entry import launch
from conformance.tests.suite.scaled_add import SUBJECT, Config, HostBackend
from reference.errors import KernelArgumentError


def test_legal_arguments_reach_the_kernel_and_in_place_outputs_come_back_by_name() -> None:
    inputs = SUBJECT.build(Config(), "exact", 0)
    before = inputs["total"].copy()
    outputs = launch(SUBJECT, Config(), inputs, HostBackend())
    assert set(outputs) == {"y", "total"}
    a = inputs["a"].astype(np.float32)
    assert (outputs["total"] == before + a * np.float32(0.75)).all()
    assert (inputs["total"] == before).all()


@pytest.mark.parametrize("error", [ValueError, AssertionError, KernelArgumentError])
def test_a_refusal_is_both_documented_classes_and_nothing_is_launched_or_written(error: type) -> None:
    backend, config = HostBackend(), Config(rows=129)
    inputs = SUBJECT.build(config, "normal", 0)
    before = {name: array.tobytes() for name, array in inputs.items()}
    with pytest.raises(error, match=r"scaled_add: a: rows must be 1 to 128 \[rows\]; got 129; tile"):
        launch(SUBJECT, config, inputs, backend)
    assert backend.calls == 0
    assert {name: array.tobytes() for name, array in inputs.items()} == before
