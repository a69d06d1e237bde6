"""Exceptions of somebody else's compiler and runtime are sorted by the signs there are, and by nothing weaker."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from conformance.backends.errors import BY_NAME, BY_STATUS
from conformance.backends.signs import NRT_NAMES, SIGNS, status_of
from conformance.results import STATUSES


class NrtError(RuntimeError):
    """As the runtime's Python bindings call theirs."""


class KernelCompileError(Exception):
    """Some compiler's."""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NrtError("NRT Error NRT_TIMEOUT(5): execution"), "timed-out"),
        (NrtError("NRT Error NRT_EXEC_HW_ERR_NC_UE(1202)"), "died"),
        (NrtError("NRT Error NRT_HW_ERROR(6)"), "died"),
        (NrtError("NRT Error NRT_EXEC_COMPLETED_WITH_NUM_ERR(1003)"), "crashed"),
        (RuntimeError("Failed to execute the model status=101 message=Fatal"), "died"),
        (RuntimeError("Failed to execute model file.neff with status 1006"), "crashed"),
        (RuntimeError("nrt_execute failed, status_code: 5"), "timed-out"),
        (RuntimeError("Failed to load the model status=9 message=no cores"), "not-run"),
        (RuntimeError("Failed to execute the model status=1005"), "not-run"),
        (RuntimeError("the compiler was loaded and ended with exit status 5"), "crashed"),
        (RuntimeError("HTTP status 101"), "crashed"),
        (RuntimeError("Compilation failed with status 1"), "compile-failed"),
        (NrtError("NRT Error NRT_RESOURCE(4): no memory"), "not-run"),
        (RuntimeError("NeuronCore(s) not available - Requested:nc1-nc1 Available:0"), "not-run"),
        (RuntimeError("Check failed: status == NRT_SUCCESS NEURONPOC : nrt_init failed."), "not-run"),
        (RuntimeError("nrt_init went well"), "crashed"),
        (NrtError("NRT Error NRT_FAILURE(1): Failed to load model compiled for trn1"), "crashed"),
        (RuntimeError("[NCC_EVRF066] LNC differs"), "compile-failed"),
        (KernelCompileError("line 3"), "compile-failed"),
        (RuntimeError("Compilation failed: see the log"), "compile-failed"),
        (subprocess.CalledProcessError(70, ["/opt/bin/neuronx-cc", "compile"]), "compile-failed"),
        (AssertionError("[INTERNAL_ERROR] [NCC_INKI016] Kernel validation exception: no"), "refused"),
        (AssertionError("d must be 128"), "crashed"),
        (subprocess.CalledProcessError(1, ["ls"]), "crashed"),
        (ValueError("the compiler was found"), "crashed"),
        (TimeoutError("no"), "crashed"),
    ],
    ids=str,
)
def test_the_status_of_an_exception(error: Exception, status: str) -> None:
    assert status_of(error) == status


def _raise(error: Exception, cause: Exception | None = None) -> None:
    raise error from cause


def test_the_cause_of_an_exception_is_asked_after_itself() -> None:
    with pytest.raises(RuntimeError) as raised:
        _raise(RuntimeError("the launch did not go well"), KernelCompileError("line 3"))
    assert status_of(raised.value) == "compile-failed"


def test_an_assertion_is_a_violated_rule_only_inside_the_official_package() -> None:
    with pytest.raises(AssertionError) as raised:
        _raise(AssertionError("partition dimension 256"))
    assert status_of(raised.value, Path(__file__).parent) == "violation"
    assert status_of(raised.value, Path(__file__).parent / "elsewhere") == "crashed"


def test_every_sign_stands_for_a_status_and_says_where_it_is_from() -> None:
    assert {sign.status for sign in SIGNS} <= set(BY_STATUS) <= set(STATUSES)
    assert all(len(sign.source.split()) >= 3 for sign in SIGNS)


def test_every_status_of_the_runtime_by_number_is_one_by_name() -> None:
    for number, name in NRT_NAMES.items():
        assert status_of(RuntimeError(f"Failed to execute the model status={number}")) == status_of(RuntimeError(name))
    assert status_of(RuntimeError("Failed to execute the model status=8")) == "crashed"


def test_an_error_class_is_found_by_its_name_and_its_status() -> None:
    assert all(BY_NAME[kind.__name__] is kind for kind in BY_STATUS.values())
    assert BY_STATUS["crashed"].__name__ == "Crashed"
    assert BY_STATUS["not-run"].__name__ == "NotRun"
