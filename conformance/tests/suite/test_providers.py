"""Claim: somebody else's kernels of the same API are judged by the same cases and grades, through an adapter.

The public library is played by a package of its signatures over this project's kernels (tests/fake_library), which
can be told to break one. By hand: that folder on PYTHONPATH and
`nki-oracle check --provider conformance.providers.public_library:PublicLibrary`.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from conformance.backends.errors import Unfit
from conformance.providers import Provider, ProviderError, adapting, provider
from conformance.providers.public_library import PublicLibrary
from conformance.registry import kernel, kernel_names
from conformance.results import CaseResult
from conformance.runner import run_case
from conformance.subject import Call, Subject
from conformance.tests import fake_library, standin
from conformance.tests.standin.fixtures import Stage, stage
from conformance.tests.suite import scaled_add
from kernels.common_types import QuantizationType

__all__ = ["stage"]

PUBLIC = "conformance.providers.public_library:PublicLibrary"


def _forget() -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == "nkilib" or name == "conformance.providers.public_library_kernels":
            del sys.modules[name]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package nkilib of the tests; `broken` names kernels that come out wrong."""
    _forget()
    monkeypatch.syspath_prepend(fake_library.FOLDER)
    yield importlib.import_module("nkilib")
    _forget()


def _judged(name: str, case: str, backend: Any = "sim") -> CaseResult:
    subject = kernel(name).with_provider(PUBLIC)
    return run_case(subject, subject.case(case), backend, rungs=("model", "kernel"))


# ---- the public library --------------------------------------------------------------------------------------------

CASES = [
    ("qkv", "tkg-bias-nbsd"),
    ("attention_tkg", "sequence-sink"),
    ("output_projection_tkg", "plain-bias"),
    ("output_projection_tkg", "sbuf-static"),
    ("attention_block_tkg", "plain"),
]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(("name", "case"), CASES)
def test_its_kernels_are_found_by_their_published_names_and_pass(name: str, case: str) -> None:
    result = _judged(name, case)
    assert result.passed, result.report()
    assert f"--provider {PUBLIC}" in result.repro
    assert PublicLibrary().implementation(name).__module__.startswith(("nkilib.", "conformance.providers."))


@pytest.mark.parametrize(("name", "case"), CASES[:3])
def test_a_broken_kernel_of_it_is_caught(library: Any, name: str, case: str) -> None:
    library.broken.add(name)
    result = _judged(name, case)
    assert result.status == "failed", result.error
    assert result.report().endswith(f"--provider {PUBLIC}")


@pytest.mark.usefixtures("library")
def test_what_it_does_not_have_is_not_provided() -> None:
    library = PublicLibrary()
    assert {name for name in kernel_names() if library.implementation(name) is None} == {"attention_segmented_cte"}
    with pytest.raises(LookupError, match="attention_segmented_cte is not provided by nkilib"):
        kernel("attention_segmented_cte").with_provider(PUBLIC).load()


def test_without_the_package_it_provides_nothing() -> None:
    _forget()
    assert [name for name in kernel_names() if PublicLibrary().implementation(name)] == []


def test_a_package_that_is_there_and_cannot_be_imported_is_an_error(
    library: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "qkv.py").write_text("import no_such_package\n")
    import nkilib.core.qkv as folder

    monkeypatch.setattr(folder, "__path__", [str(tmp_path)])
    with pytest.raises(ProviderError, match=r"nkilib\.core\.qkv\.qkv cannot be imported: No module named 'no_such_"):
        PublicLibrary().implementation("qkv")


@pytest.mark.usefixtures("library")
def test_a_case_that_it_has_no_argument_for_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument that asks for nothing is dropped instead: the fixture's qkv has no is_input_swizzled at all."""
    subject = kernel("qkv")
    original = subject.call

    def swizzled(*arguments: Any) -> Call:
        call = original(*arguments)
        return dataclasses.replace(call, arguments={**call.arguments, "is_input_swizzled": True})

    asked = dataclasses.replace(subject, call=swizzled).with_provider(PUBLIC)
    result = run_case(asked, asked.case("tkg-plain"), rungs=("model", "kernel"))
    assert result.status == "unfit"
    assert result.error == "kernel: qkv has no argument is_input_swizzled"


@pytest.mark.usefixtures("library")
def test_its_kernels_reach_a_device_too(stage: Stage) -> None:
    backend = standin.make()
    for name, case in CASES[1:3]:
        result = _judged(name, case, backend)
        assert result.passed, result.report()
    backend.close()


# ---- any provider --------------------------------------------------------------------------------------------------


class Ours(Provider):
    """The toy kernel under its own name, with one argument called differently."""

    name = "ours"

    def implementation(self, kernel: str) -> Any:
        return _scaled if kernel == "scaled_add" else None

    def adapt_call(self, kernel: str, call: Call) -> Call:
        return adapting.renamed(call, {"total": "sum", "scale": "factor"})


def _scaled(a: Any, b: Any, sum: Any, factor: float) -> Any:
    return scaled_add.kernel(a, b, sum, factor)


NOBODY = object()
SUBJECT: Subject = scaled_add.SUBJECT.with_provider(f"{__name__}:Ours")


def test_arguments_under_other_names_in_place_ones_too() -> None:
    backend = scaled_add.HostBackend()
    result = run_case(SUBJECT, SUBJECT.catalog[0], backend)
    assert result.passed, result.report()
    assert result.repro.endswith(f"--provider {__name__}:Ours")


def test_a_provider_without_adaptation_leaves_calls_alone() -> None:
    call = Call(len, {"x": 1}, ())
    assert Provider().adapt_call("qkv", call) is call


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no.such:thing", "provider no.such:thing cannot be imported: No module named 'no'"),
        ("json:thing", "provider json:thing cannot be imported: module 'json' has no attribute 'thing'"),
        ("json", "provider json cannot be imported"),
        (f"{__name__}:NOBODY", "is no conformance.providers.Provider: object"),
        ("json:JSONDecoder", "is no conformance.providers.Provider: JSONDecoder"),
    ],
)
def test_what_is_no_provider_is_told_in_one_line(text: str, told: str) -> None:
    with pytest.raises(ProviderError) as error:
        provider(text)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


# ---- adapting ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("library")
def test_enumerations_become_the_other_packages_own() -> None:
    theirs = importlib.import_module("nkilib.core.utils.common_types")
    call = adapting.translated(Call(len, {"kind": QuantizationType.ROW, "n": 3}, ()), theirs)
    assert call.arguments["kind"] is theirs.QuantizationType.ROW
    assert call.arguments["n"] == 3
    with pytest.raises(Unfit, match="has no member MX"):
        adapting.translated(Call(len, {"kind": QuantizationType.MX}, ()), theirs)


def test_only_arguments_that_ask_for_nothing_are_dropped() -> None:
    def takes(x: Any) -> None: ...

    x = np.zeros(1)
    call = adapting.known_arguments(Call(takes, {"x": x, "bias": None, "flag": False}, ()), takes)
    assert call.arguments == {"x": x}
    with pytest.raises(Unfit, match="takes has no argument bias"):
        adapting.known_arguments(Call(takes, {"x": x, "bias": x}, ()), takes)


@dataclasses.dataclass
class _Old:
    size: int = 0
    fused: bool = False


@dataclasses.dataclass
class _New:
    size: int = 0
    tiled: bool = True


def test_a_config_is_rebuilt_from_the_fields_that_both_have() -> None:
    assert adapting.rebuilt(_Old(size=3), _New) == _New(size=3)
    with pytest.raises(Unfit, match="_New has no field fused"):
        adapting.rebuilt(_Old(fused=True), _New)
