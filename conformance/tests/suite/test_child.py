"""Claim: a launch that hangs, dies, is refused or comes out wrong costs its own case, and is told for what it was.

The device is played by the stand-in (conformance/tests/standin): the official package's calling convention in a
child process, with manners that each test chooses. By hand: NKI_ORACLE_STAND_IN=hang and the folder of the
stand-in on PYTHONPATH.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from conformance.backends import child as child_module
from conformance.backends import device, is_hardware
from conformance.backends.child import ChildBackend, Place
from conformance.backends.errors import BY_STATUS, BackendError, Died, NotRun, SettingsError, TimedOut, Unfit
from conformance.backends.preflight import preflight_call
from conformance.backends.settings import LENT, ROUNDING
from conformance.backends.wire import CannotTravel
from conformance.registry import kernel
from conformance.results import STATUSES, CaseResult
from conformance.runner import named_backend, run_case
from conformance.subject import Call, Case, Subject
from conformance.tests import standin
from conformance.tests.standin.fixtures import Stage, stage
from conformance.tests.standin.opaque import Opaque
from conformance.tests.suite import scaled_add

__all__ = ["stage"]

SUBJECT = scaled_add.SUBJECT.with_implementation("conformance.tests.suite.scaled_add_nki:scaled_add")
SMALL, EXACT = SUBJECT.catalog
PROJECTION = kernel("output_projection_tkg")
#: Seconds after which a launch counts as hanging. The child is there by then, so it need not be long.
IMPATIENT = 0.8


@pytest.fixture
def backend(stage: Stage) -> Iterator[ChildBackend]:
    made = standin.make()
    yield made
    made.close()


def _run(backend: ChildBackend, case: Case = SMALL, subject: Subject = SUBJECT, **more: Any) -> CaseResult:
    return run_case(subject, case, backend, rungs=("model", "kernel"), **more)


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def _runs(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- what a launch comes to ----------------------------------------------------------------------------------------


def test_a_right_launch_gives_the_bits_of_the_machine(backend: ChildBackend) -> None:
    for case in (SMALL, EXACT):
        result = _run(backend, case)
        assert result.passed, result.report()
        assert {output.grade.name for output in result.outputs} == {"A"}


#: What each manner comes to: status, and what its error tells.
WITHOUT_OUTPUTS = {
    "compile-error": ("compile-failed", "CompilationError: NCC_EVRF066"),
    "compiler-exit": ("compile-failed", "neuronx-cc"),
    "refuses": ("refused", "Kernel validation exception: d must be 128"),
    "validation": ("violation", "NkiValidationError: dst must be in PSUM"),
    "violates": ("violation", "AssertionError: partition dimension 256"),
    "raises": ("crashed", "ZeroDivisionError: in the package"),
    "bad-input": ("crashed", "NRT_EXEC_BAD_INPUT"),
    "one-more": ("crashed", "OutputError: the kernel returned 2 tensors, expected y"),
    "exit": ("died", "the child process ended with exit code 3"),
    "segv": ("died", "the child process was killed by SIGSEGV"),
    "device-lost": ("died", "NRT_EXEC_UNIT_UNRECOVERABLE"),
    "runtime-timeout": ("timed-out", "NRT_TIMEOUT"),
    "no-attribute": ("crashed", "AttributeError: in the package, no kernel on the stack"),
    "lacks:ndarray": ("compile-failed", "while the kernel was traced: AttributeError"),
    "busy": ("not-run", "NRT_EXEC_NC_BUSY"),
    "no-init": ("not-run", "nrt_init failed"),
    "numbered": ("died", "status=101"),
    "sets-rounding": ("not-run", f"{ROUNDING} is 1, it must be 0"),
}
#: Of output y, what grade F is given for.
WRONG = {
    "zeros": "all zero",
    "nan": "NaN",
    "wrong-dtype": "float64",
    "wrong-shape": "y: bfloat16[3, 8], expected bfloat16[4, 8]",
}


@pytest.fixture(scope="module")
def misbehaved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[CaseResult, CaseResult]]]:
    """By manner: what a launch came to, and what the one after it, which was right, came to."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        stage = Stage(monkeypatch, tmp_path_factory.mktemp("stand-in") / "launches")
        manners = [*WITHOUT_OUTPUTS, *WRONG]
        stage.plays(*(one for manner in manners for one in (manner, "right")))
        backend = standin.make()
        yield {manner: (_run(backend), _run(backend, EXACT)) for manner in manners}
        assert stage.launches == 2 * len(manners)
        backend.close()


@pytest.mark.parametrize("manner", WITHOUT_OUTPUTS)
def test_a_launch_without_outputs_is_told_for_what_it_was_and_costs_one_case(
    misbehaved: dict[str, tuple[CaseResult, CaseResult]], manner: str
) -> None:
    result, after = misbehaved[manner]
    status, error = WITHOUT_OUTPUTS[manner]
    assert result.status == status
    assert result.error.startswith("kernel: ")
    assert error in result.error
    assert after.passed, after.report()


@pytest.mark.parametrize("manner", WRONG)
def test_a_wrong_result_fails_by_its_grade_and_costs_one_case(
    misbehaved: dict[str, tuple[CaseResult, CaseResult]], manner: str
) -> None:
    result, after = misbehaved[manner]
    assert result.status == "failed"
    y = next(output for output in result.outputs if output.name == "y")
    assert y.grade.name == "F"
    assert WRONG[manner] in y.missed
    assert after.passed, after.report()


def test_an_assertion_of_a_kernel_is_a_crash_with_the_childs_own_traceback(backend: ChildBackend) -> None:
    # The same exception raised inside the official package is a violated rule (above).
    result = _run(backend, subject=SUBJECT.with_implementation(f"{scaled_add.__name__}_nki:asserts"))
    assert result.status == "crashed"
    assert "AssertionError: one row too few" in result.error
    assert "in asserts" in result.details


def test_a_kernel_that_nobody_jitted_is_launched_all_the_same(backend: ChildBackend) -> None:
    result = _run(backend, subject=SUBJECT.with_implementation(f"{scaled_add.__name__}_nki:_scaled_add"))
    assert result.passed, result.report()


def test_a_kernel_that_tells_nothing_of_its_function_is_launched_all_the_same(backend: ChildBackend) -> None:
    result = _run(backend, subject=SUBJECT.with_implementation(f"{scaled_add.__name__}_nki:opaque"))
    assert result.passed, result.report()


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("import nki.no_such_part\n", "compile-failed"),
        ("import nki.language as nl\nnl.no_such_name\n", "compile-failed"),
        ("import no_such_package\n", "not-run"),
    ],
)
def test_a_kernel_that_cannot_be_imported_beside_the_package_is_told(
    backend: ChildBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, status: str
) -> None:
    """As a module that was written for another version of the package; here its kernel stands in."""
    (tmp_path / "written_for_another.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    there = ModuleType("written_for_another")
    monkeypatch.setitem(sys.modules, "written_for_another", there)
    vars(there)["kernel"] = Opaque.of(None)
    with pytest.raises(BackendError, match="the kernel cannot be imported: ") as raised:
        backend.run(Call(vars(there)["kernel"], {"x": np.zeros(1)}, ("y",)))
    assert raised.value.status == status
    assert _run(backend).passed


def test_every_status_of_a_backend_is_one_of_the_suites() -> None:
    assert set(BY_STATUS) <= set(STATUSES)
    without_numbers = {"compile-failed", "timed-out", "died", "not-run", "refused", "violation", "crashed", "unfit"}
    assert without_numbers == set(BY_STATUS)


def test_a_launch_that_hangs_is_killed_and_costs_one_case(backend: ChildBackend, stage: Stage) -> None:
    stage.plays("right", "hang", "right")
    assert _run(backend).passed
    backend.timeout = IMPATIENT
    started = time.monotonic()
    result = _run(backend)
    assert result.status == "timed-out"
    assert result.error == "kernel: no answer within 0.8 s; it was killed"
    assert time.monotonic() - started < 10
    backend.timeout = standin.PATIENT
    assert _run(backend, EXACT).passed


def test_what_a_dying_child_printed_is_told(backend: ChildBackend, stage: Stage) -> None:
    stage.plays("exit")
    assert "the last words of the process" in _run(backend).details


def test_the_output_of_the_launch_before_is_not_taken_for_this_ones(backend: ChildBackend, stage: Stage) -> None:
    stage.plays("right", "stale")
    other = dataclasses.replace(SMALL, seed=9)
    assert _run(backend).passed
    result = _run(backend, other)
    assert [(output.name, output.grade.name) for output in result.outputs if not output.passed] == [("y", "F")]


def test_another_legal_order_of_additions_passes_by_its_grade(backend: ChildBackend, stage: Stage) -> None:
    case = PROJECTION.case("plain")
    stage.plays("variant:matmul_order=chain")
    result = run_case(PROJECTION, case, backend, envelope=True)
    assert result.passed, result.report()
    assert [output.grade.name for output in result.outputs if output.rung == standin.NAME] == ["B"]


def test_in_place_arguments_that_are_not_written_back_are_read_from_what_was_returned(
    backend: ChildBackend, stage: Stage
) -> None:
    block = kernel("attention_block_tkg")
    stage.plays("keeps-arguments")
    result = _run(backend, block.case("plain"), block)
    assert result.passed, result.report()
    assert {output.name for output in result.outputs} >= {"K_out", "V_out"}


def test_what_a_child_prints_disturbs_nothing(backend: ChildBackend, stage: Stage) -> None:
    stage.plays("rubbish")
    assert _run(backend).passed
    assert _run(backend, EXACT).passed


# ---- one child, many launches --------------------------------------------------------------------------------------


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The environments of the children that were started."""
    made: list[dict[str, str]] = []

    class Counted(child_module._Child):
        def __init__(self, path: Any, variables: Any) -> None:
            made.append(dict(variables))
            super().__init__(path, variables)

    monkeypatch.setattr(child_module, "_Child", Counted)
    return made


def test_a_child_serves_many_launches_and_is_started_anew_after_a_death(
    backend: ChildBackend, stage: Stage, starts: list[Any]
) -> None:
    stage.plays("right", "compile-error", "right", "exit", "right")
    statuses = [_run(backend).status for _ in range(5)]
    assert statuses == ["passed", "compile-failed", "passed", "died", "passed"]
    assert len(starts) == 2


def test_the_number_of_cores_is_set_before_the_runtime_starts(
    backend: ChildBackend, starts: list[dict[str, str]]
) -> None:
    two, one = (PROJECTION.case(name) for name in ("plain", "no-packing-d48"))
    assert [_run(backend, case, PROJECTION).status for case in (two, two, one, two)] == ["passed"] * 4
    assert [variables["NEURON_LOGICAL_NC_CONFIG"] for variables in starts] == ["2", "1", "2"]
    assert {variables[ROUNDING] for variables in starts} == {"0"}


def test_a_child_that_holds_other_cores_is_not_kept(
    backend: ChildBackend, starts: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of a cluster is lent other cores with every task, and the runtime takes its cores when it starts."""
    for cores in ("4", "4", "2"):
        monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", cores)
        assert _run(backend).passed
    monkeypatch.setenv(LENT, "6,7")
    assert _run(backend).passed
    assert [variables["NEURON_RT_VISIBLE_CORES"] for variables in starts] == ["4", "2", "6"]


def test_cores_that_suit_no_launch_are_told_and_spoil_no_later_one(
    backend: ChildBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = PROJECTION.case("plain")
    monkeypatch.setenv(LENT, "1,2")
    told = _run(backend, two, PROJECTION)
    assert (told.status, "no 2 make up a logical core" in told.error) == ("not-run", True)
    monkeypatch.setenv(LENT, "2,3")
    assert _run(backend, two, PROJECTION).passed


def test_the_stand_in_refuses_a_kernel_for_another_number_of_cores(backend: ChildBackend, stage: Stage) -> None:
    """The twin of the test above: it would see a runtime that was started for other cores."""
    wrong = Place(
        "conformance.backends.device:Launcher",
        lambda call: device.device_settings("trn2", 3 - call.lnc, {}),
        {"stand_in": True},
        path=(standin.FOLDER,),
    )
    told = _run(ChildBackend(standin.NAME, wrong, standin.PATIENT))
    assert told.status == "crashed"
    assert "NRT_INVALID" in told.error


def test_a_compiler_does_not_outlive_the_launch_that_started_it(
    backend: ChildBackend, stage: Stage, tmp_path: Path
) -> None:
    file = tmp_path / "compiler"
    stage.plays("right", f"hang-with-a-compiler:{file}")
    assert _run(backend).passed
    backend.timeout = IMPATIENT
    assert _run(backend).status == "timed-out"
    assert _until(lambda: not _runs(int(file.read_text())))


def test_a_child_ends_with_the_run_that_started_it_in_the_middle_of_a_launch(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "compiler"
    stage.plays(f"hang-with-a-compiler:{file}")
    code = (
        "from conformance.tests import standin; from conformance.tests.suite.test_child import SUBJECT, SMALL\n"
        "SUBJECT.kernel(SMALL.config, SUBJECT.build(SMALL.config, 'normal', 0), standin.make())"
    )
    run = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[3])
    assert _until(lambda: file.exists() and file.read_text() != "")
    assert _runs(int(file.read_text()))
    run.kill()
    run.wait()
    assert _until(lambda: not _runs(int(file.read_text())))


def test_arguments_keep_their_bytes(backend: ChildBackend) -> None:
    inputs = SUBJECT.build(SMALL.config, "normal", 0)
    before = {name: array.tobytes() for name, array in inputs.items()}
    SUBJECT.kernel(SMALL.config, inputs, backend)
    assert {name: array.tobytes() for name, array in inputs.items()} == before


def test_a_launch_for_another_chip_is_unfit_and_starts_nothing(backend: ChildBackend, starts: list[Any]) -> None:
    call = dataclasses.replace(preflight_call(1), target="trn3")
    with pytest.raises(Unfit, match="the launch is for trn3, this is trn2"):
        backend.run(call)
    assert starts == []


def test_a_kernel_that_no_process_could_import_is_told(backend: ChildBackend) -> None:
    with pytest.raises(CannotTravel, match="cannot be handed to another process") as raised:
        backend.run(Call(lambda x: x, {"x": np.zeros(1)}, ("y",)))
    assert raised.value.status == "not-run"
    assert _run(backend).passed


# ---- settings and preflight ----------------------------------------------------------------------------------------


def test_stochastic_rounding_is_found_by_its_numbers_and_stops_every_launch(
    backend: ChildBackend, stage: Stage
) -> None:
    stage.plays("right", preflight="stochastic")
    for case in (SMALL, EXACT):
        result = _run(backend, case)
        assert result.status == "not-run"
        assert "stochastic rounding is on: of 65536 equal elements 16384 were rounded up" in result.error
    assert stage.launches == 0


@pytest.mark.parametrize(
    ("manner", "fact"),
    [
        ("right", "right"),
        ("half", "the preflight kernel gave 32768 wrong elements of 65536"),
        ("compile-error", "compile-failed: CompilationError: NCC_EVRF066: the kernel is not for this compiler"),
        ("exit", "died: the child process ended with exit code 3"),
    ],
)
def test_a_preflight_that_merely_fails_is_a_fact_beside_the_results(
    backend: ChildBackend, stage: Stage, manner: str, fact: str
) -> None:
    stage.plays("right", preflight=manner)
    assert _run(backend).passed
    assert backend.facts["preflight on 1 core(s)"] == fact


def test_a_preflight_that_never_ran_is_tried_again(backend: ChildBackend, stage: Stage) -> None:
    stage.plays("right", preflight="busy")
    assert _run(backend).passed
    assert backend.facts["preflight on 1 core(s)"].startswith("not-run: ")
    stage.plays("right", preflight="stochastic")
    backend.close()
    assert "stochastic rounding is on" in _run(backend).error


# ---- the stand-in is no hardware -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trn2", "trn3", "nki-sim"])
def test_no_backend_of_the_product_takes_the_stand_in_for_the_official_package(stage: Stage, name: str) -> None:
    """Were it found on the path of a real instance, say."""
    from conformance.backends import nki_sim

    place = nki_sim.place((standin.FOLDER,)) if name == "nki-sim" else device.place(name, (standin.FOLDER,))
    backend = ChildBackend(name, place, standin.PATIENT)
    with pytest.raises(SettingsError, match=r"nki 0\.6\.0\+stand-in .* is not what this backend runs on"):
        backend.run(preflight_call(1))
    assert stage.launches == 0


def test_results_of_the_stand_in_say_so_and_count_as_no_hardware(backend: ChildBackend) -> None:
    result = _run(backend)
    assert result.backend == "stand-in"
    assert not is_hardware(result.backend)
    assert {output.rung for output in result.outputs} == {"stand-in"}
    assert backend.facts["nki"].endswith("+stand-in")


def test_the_drop_in_is_not_taken_for_the_official_package() -> None:
    backend = ChildBackend("trn2", device.place("trn2"), standin.PATIENT)
    with pytest.raises(SettingsError, match="the official package nki cannot be found"):
        backend.run(preflight_call(1))


def test_the_stand_in_cannot_be_imported_by_accident() -> None:
    code = f"import sys; sys.path.insert(0, {standin.FOLDER!r}); import nki"
    found = {key: value for key, value in os.environ.items() if key != standin.PLAN}
    run = subprocess.run([sys.executable, "-c", code], env=found, capture_output=True, text=True)
    assert "this nki is the stand-in of nki-oracle's own tests" in run.stderr


# ---- the other backends with children ------------------------------------------------------------------------------


def test_the_official_simulator_runs_in_a_child_with_a_time_limit(stage: Stage) -> None:
    backend = standin.make_simulator()
    stage.plays("right", "hang", "right")
    assert _run(backend).passed
    backend.timeout = IMPATIENT
    assert _run(backend).status == "timed-out"
    backend.timeout = standin.PATIENT
    assert _run(backend).passed
    backend.close()


def test_the_machine_can_be_given_a_time_limit_too() -> None:
    backend = named_backend("sim", timeout=standin.PATIENT)
    assert isinstance(backend, ChildBackend)
    assert _run(backend).passed
    backend.timeout = IMPATIENT
    assert _run(backend, subject=SUBJECT.with_implementation(f"{scaled_add.__name__}_nki:never_ends")).status == (
        "timed-out"
    )
    backend.close()


def test_a_start_that_takes_too_long_is_told() -> None:
    backend = ChildBackend("sim", Place("time:sleep", lambda call: (), {"no": 1}), 0.001)
    with pytest.raises(TimedOut, match="the child process did not start within"):
        backend.run(preflight_call(1))


def test_an_executor_that_does_not_exist_is_told() -> None:
    backend = ChildBackend("sim", Place("no.such:Launcher", lambda call: ()), standin.PATIENT)
    with pytest.raises(NotRun, match="the child process could not start: ModuleNotFoundError"):
        backend.run(preflight_call(1))


def test_a_process_that_cannot_start_is_told_with_what_it_printed() -> None:
    backend = ChildBackend("sim", Place("x:y", lambda call: (), path=("/no/such",)), standin.PATIENT)
    original = sys.path[:]
    sys.path[:] = ["/no/such"]
    try:
        with pytest.raises(Died, match="ended with exit code 1") as died:
            backend.run(Call(len, {}, ()))
    finally:
        sys.path[:] = original
    assert "No module named" in died.value.details
