"""The command line on the tiny kernel of the suite's own tests, with a backend that runs it on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from conformance.subject import Subject
from conformance.tests.suite import scaled_add
from tools import cli

_TAGS = frozenset({"ci", "check", "golden"})


def _cataloged(subject: Subject) -> Subject:
    catalog = tuple(dataclasses.replace(case, tags=_TAGS) for case in subject.catalog)
    return dataclasses.replace(subject, catalog=catalog)


class Answer(NamedTuple):
    """What a command line gave back."""

    code: int
    out: str
    err: str


class CommandLine:
    """Runs command lines in this process; `subject` is what the registry knows as scaled_add."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.subject = _cataloged(scaled_add.SUBJECT)

    def __call__(self, *words: str) -> Answer:
        self._capsys.readouterr()
        code = cli.run(list(words))
        return Answer(code, *self._capsys.readouterr())

    def judge(self, subject: Subject) -> None:
        """Makes another subject the one that scaled_add names."""
        self.subject = _cataloged(subject)

    def change_model(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Makes the model's outputs differ by what `change` does to them."""
        model = self.subject.model

        def changed(*arguments: Any, **keywords: Any) -> dict[str, Any]:
            outputs = {name: array.copy() for name, array in model(*arguments, **keywords).items()}
            change(outputs)
            return outputs

        self.subject = dataclasses.replace(self.subject, model=changed)


class Host(scaled_add.HostBackend):
    """As a row of the table of backends makes it."""

    def __init__(self, name: str) -> None:
        super().__init__()
