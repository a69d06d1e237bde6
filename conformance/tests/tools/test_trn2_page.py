"""Claim: every command that README and the page on trn2 instances tell a stranger to type is one that there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from conformance.backends.official import NEWEST_READ, OLDEST, PLACEHOLDERS
from conformance.backends.settings import device_settings
from conformance.results import STATUSES
from tools.cli import app

ROOT = Path(__file__).parents[3]
README, PAGE = ((ROOT / name).read_text() for name in ("README.md", "TRN2.md"))
#: Indented lines, and what a step of the CI recipe runs.
COMMANDS = sorted(set(re.findall(r"(?:^    |&& |; )(nki-oracle [^#\n&;]*)", README + PAGE, re.MULTILINE)))
GROUP = typer.main.get_command(app)


@pytest.mark.parametrize("line", COMMANDS)
def test_the_page_tells_commands_and_options_that_there_are(line: str) -> None:
    _, verb, *words = shlex.split(line)
    command = GROUP.commands[verb]  # type: ignore[attr-defined]
    assert command.make_context(verb, words).params


def test_the_page_explains_every_status() -> None:
    table = PAGE.partition("## What a case can come to")[2]
    told = set(re.findall(r"^\| ([a-z]+(?:-[a-z]+)?) \|", table, re.MULTILINE)) - {"status"}
    # 'waived' is a verdict on any of the others.
    assert told == set(STATUSES) - {"waived"}


def test_the_page_tells_every_setting_of_a_launch() -> None:
    assert [one.name for one in device_settings("trn2", 2, {}) if f"`{one.name}" not in PAGE] == []


def test_the_bounds_of_the_page_shut_the_placeholders_out() -> None:
    for name, versions in PLACEHOLDERS.items():
        assert all(f"`{name}` {version}" in PAGE for version in versions)
    assert '"neuronx-cc==2.*" "nki>=0.6"' in PAGE


def test_the_page_tells_the_versions_that_kernels_need_and_that_were_read_about() -> None:
    rows = dict(re.findall(r"^\| ([a-z]*\s?0\.\d+) \| (.*?) \|", PAGE, re.MULTILINE))
    oldest, newest = (".".join(map(str, one)) for one in (OLDEST, NEWEST_READ))
    assert list(rows) == [f"before {oldest}", oldest, newest]


def test_the_page_uses_no_python_that_an_image_happens_to_have() -> None:
    assert re.findall(r"^ .*\bpython3 .*", PAGE, re.MULTILINE) == []
    assert re.findall(r"^ .*\bpython3\.1[123] -m venv", PAGE, re.MULTILINE) != []


def test_the_recipe_for_a_runner_looks_for_the_device_checks_and_reports() -> None:
    recipe = README.partition("    name: trn2\n")[2].partition("\n\n")[0]
    first, *steps = re.findall(r"run: (.*)", recipe)
    # What a night that went wrong early would otherwise show as its own: the working copy is kept.
    assert first.startswith("rm -f check.json trn2.html")
    assert recipe.count("if: always() && hashFiles('check.json') != ''") == 2
    assert [re.findall(r"nki-oracle (\w+)", step) for step in steps] == [["doctor"], ["check"], ["report"]]
    assert all(step.startswith(". .venv/bin/activate && ") for step in steps)


def test_neither_page_names_a_package_index() -> None:
    assert re.findall(r"https?://|repos\.|pypi", README + PAGE) == []
