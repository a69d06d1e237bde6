"""Claim: check, fuzz, explain and bench judge a provider's kernels where they would judge the project's own.

By hand: `nki-oracle fuzz scaled_add --provider module:adapter`, with any module of yours on the path.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from conformance.providers import Provider
from conformance.subject import Bench
from conformance.tests.suite import scaled_add
from conformance.tests.tools.command_line import CommandLine
from tools import bench

HERE = __name__


class Right(Provider):
    """The toy kernel in NKI."""

    name = "right"

    def implementation(self, kernel: str) -> Any:
        from conformance.tests.suite import scaled_add_nki

        return scaled_add_nki.scaled_add


class Wrong(Right):
    """One that stores its rows a row late."""

    name = "wrong"

    def implementation(self, kernel: str) -> Any:
        from conformance.tests.suite import scaled_add_nki

        return scaled_add_nki.stores_a_row_late


class OnHost(Right):
    """One that runs on the host, where the tests' backend `host` calls it."""

    def implementation(self, kernel: str) -> Any:
        return scaled_add.kernel


class WrongOnHost(Right):
    name = "wrong"

    def implementation(self, kernel: str) -> Any:
        return scaled_add.swaps_two_rows


@pytest.mark.parametrize(("provider", "code"), [("Right", 0), ("Wrong", 1)])
@pytest.mark.parametrize("verb", ["check", "explain"])
def test_check_and_explain(command: CommandLine, verb: str, provider: str, code: int) -> None:
    words = ("--jobs", "1") if verb == "check" else ()
    answer = command(verb, "scaled_add", "--case", "small", "--provider", f"{HERE}:{provider}", *words)
    assert answer.code == code, answer.err
    assert (f"--provider {HERE}:{provider}" in answer.out) is (code == 1 or verb == "explain")


@pytest.mark.parametrize(("provider", "code"), [("OnHost", 0), ("WrongOnHost", 1)])
def test_fuzz(command: CommandLine, provider: str, code: int) -> None:
    words = ("--backend", "host", "--jobs", "1", "--examples", "5")
    answer = command("fuzz", "scaled_add", *words, "--provider", f"{HERE}:{provider}")
    assert answer.code == code, answer.err
    assert f"--provider {HERE}:{provider}" in answer.out


def test_bench_measures_the_providers_kernel(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (Bench("small", scaled_add.Config(), lambda config, inputs: inputs["a"] * config.scale),)
    command.subject = dataclasses.replace(command.subject, bench=rows)
    judged: list[str] = []
    monkeypatch.setattr(bench, "_measure_kernel", lambda subject, row, repeats: judged.append(subject.judged))
    monkeypatch.setattr(bench, "run_all", lambda work, todo, jobs, title, apart: [work(job) for job in todo[:1]])
    assert command("bench", "--repeats", "1", "--provider", f"{HERE}:Right").code == 0
    assert judged == [f"{HERE}:Right"]
