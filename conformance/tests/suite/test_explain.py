"""`explain` names the first rounding point that is wrong, its instruction and its line, and no other.

The toy kernel runs on the machine; each wrong variant parts from the model at a place known beforehand.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from conformance.explain import Explanation, first_difference
from conformance.runner import run_case
from conformance.tests.suite import scaled_add_nki
from conformance.tests.suite.scaled_add import SUBJECT
from reference.neuroncore.errors import MachineError

CASE = SUBJECT.catalog[0]


def _explain(name: str) -> Explanation:
    return first_difference(SUBJECT.with_implementation(f"{scaled_add_nki.__name__}:{name}"), CASE)


def _line_of(text: str) -> int:
    """Number of the line of the toy kernel's source that holds `text`."""
    lines = inspect.getsource(scaled_add_nki).splitlines()
    return 1 + next(place for place, line in enumerate(lines) if text in line)


@pytest.mark.parametrize("name", ["scaled_add", "uses_a_larger_tile"])
def test_a_right_kernel_agrees_everywhere(name: str) -> None:
    found = _explain(name)
    assert found.agrees
    assert found.compared == 2
    assert "all 2 tiles and all outputs agree" in found.text()


def test_the_first_of_two_wrong_points_is_shown_with_values_bits_and_line() -> None:
    found = _explain("rounds_the_product")
    assert not found.agrees
    first = found.first
    assert first is not None
    assert (first.point, first.tile, first.core, first.occurrence) == ("product", "product_0", 0, 0)
    a = SUBJECT.build(CASE.config, CASE.lane, CASE.seed)["a"]
    model = a.astype(np.float32)[first.index] * np.float32(CASE.config.scale)
    assert (first.model, first.kernel) == (float(model), float(model.astype(a.dtype)))
    assert first.model_bits == f"0x{int(model.view(np.uint32)):08x}"
    assert first.instruction == "tensor_copy"
    assert first.location.endswith(f"scaled_add_nki.py:{_line_of('tensor_copy(dst=product')}")
    assert found.by_point["product"] == (1, 1)
    assert found.by_point["sum"] == (1, 1)


def test_a_point_that_is_right_is_passed_over() -> None:
    found = _explain("adds_b_twice")
    assert found.first is not None
    assert found.first.point == "sum"
    assert found.by_point["product"] == (0, 1)
    # The element was written twice; the second addition wrote it last.
    assert found.first.location.endswith(f":{_line_of('data1=sum_tile, data2=b_tile')}")
    assert found.first.differing == 32


def test_a_tile_of_another_dtype_is_told_as_such() -> None:
    found = _explain("holds_the_product_in_float16")
    assert found.first is not None
    assert found.first.why == "dtype float16 in the kernel, float32 in the model"
    assert "rounding point product: tile product_0 on core 0: dtype float16" in found.text()


def test_a_fault_after_the_last_point_is_looked_for_after_it() -> None:
    found = _explain("stores_a_row_late")
    assert found.first is None
    assert not found.agrees
    assert found.outputs == ("y",)
    assert "all 2 tiles agree and y differ: look at what follows the last rounding point" in found.text()


@pytest.mark.parametrize(
    ("name", "only_model", "only_kernel"),
    [
        ("forgets_a_name", ("sum_0 (core 0, occurrence 0)",), ()),
        ("has_a_tile_of_its_own", ("sum_0 (core 0, occurrence 0)",), ("sum_1 (core 0, occurrence 0)",)),
    ],
)
def test_a_tile_without_partner_is_named(name: str, only_model: tuple[str, ...], only_kernel: tuple[str, ...]) -> None:
    found = _explain(name)
    assert not found.agrees
    assert (found.first, found.compared, found.outputs) == (None, 1, ())
    assert (found.only_model, found.only_kernel) == (only_model, only_kernel)
    assert "outputs and 1 tiles agree; others have no partner" in found.text()


def test_the_text_ends_with_the_command_that_explains_again() -> None:
    command = f"nki-oracle explain scaled_add --case small --kernel {scaled_add_nki.__name__}:adds_b_twice"
    assert _explain("adds_b_twice").text().splitlines()[-1] == f"again: {command}"


def test_a_kernel_that_the_machine_stops_leaves_nothing_to_explain() -> None:
    with pytest.raises(MachineError):
        _explain("reads_what_it_never_wrote")


def test_the_ladder_runs_on_the_machine_and_calls_a_broken_rule_a_violation() -> None:
    right = SUBJECT.with_implementation(f"{scaled_add_nki.__name__}:scaled_add")
    assert run_case(right, CASE).passed
    broken = SUBJECT.with_implementation(f"{scaled_add_nki.__name__}:reads_what_it_never_wrote")
    result = run_case(broken, CASE)
    assert result.status == "violation"
    assert "scaled_add_nki.py:" in result.error
