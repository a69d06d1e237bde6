"""A subject is refused where it cannot work, and every case of it can be named and run again."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given

from conformance.subject import Case, Output, case_from_id, case_id, repro_command
from conformance.tests.suite import scaled_add
from conformance.tests.suite.scaled_add import SUBJECT, Config


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"catalog": (Case("Big One", Config()),)}, "'Big One' is not of lower-case"),
        ({"catalog": (Case("x", Config()), Case("x", Config(5)))}, "case id 'x' stands twice"),
        ({"catalog": (Case("x", Config(), lane="rising"),)}, "lane 'rising', which is not among its lanes"),
        ({"outputs": ()}, "no outputs"),
        ({"outputs": (Output("y"), Output("y"))}, "output 'y' stands twice"),
        ({"lanes": ("exact",), "catalog": ()}, "lane 'normal' is missing"),
        ({"implementation": "kernels.scaled_add"}, "not of the form 'module:attribute'"),
    ],
)
def test_a_subject_that_cannot_work_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=f"subject scaled_add: .*{complaint}"):
        dataclasses.replace(SUBJECT, **change)


def test_a_catalog_id_names_its_case() -> None:
    assert SUBJECT.case("exact") is SUBJECT.catalog[1]


@given(config=scaled_add.strategy())
def test_any_config_can_be_named_and_had_again(config: Config) -> None:
    text = case_id(config, "exact", 12)
    case = case_from_id(SUBJECT, text)
    assert (case.config, case.lane, case.seed, case.id) == (config, "exact", 12, text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("smal", "no case 'smal'; known: small, exact; or 'cfg:lane="),
        ("cfg:lane=rising,seed=1,rows=2", "no lane 'rising'; its lanes are normal, exact"),
        ("cfg:seed=1,rows=2", "no case 'cfg:seed=1,rows=2'"),
        ("cfg:lane=exact,seed=1,height=2", "no field 'height'"),
    ],
)
def test_an_unknown_case_is_refused_with_what_there_is(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        SUBJECT.case(text)


def test_the_command_to_run_again_names_catalog_cases_by_id_and_others_by_text() -> None:
    ours = dataclasses.replace(SUBJECT, implementation="kernels.scaled_add:scaled_add")
    assert repro_command(ours, ours.catalog[0]) == "nki-oracle check scaled_add --case small"
    drawn = Case("whatever", Config(rows=3), seed=5)
    command = repro_command(ours, drawn, backend="trn2", verb="explain")
    assert (
        command
        == f"nki-oracle explain scaled_add --case {case_id(Config(rows=3), 'normal', 5)} --backend trn2"
    )
    assert repro_command(SUBJECT, drawn).endswith("--kernel conformance.tests.suite.scaled_add:kernel")


def test_another_implementation_is_one_importable_name() -> None:
    assert scaled_add.broken("is_dead").load() is scaled_add.is_dead
    assert SUBJECT.load() is scaled_add.kernel


def test_an_unknown_output_lists_the_known_ones() -> None:
    assert SUBJECT.output("total").name == "total"
    with pytest.raises(KeyError, match="no output 'z', only"):
        SUBJECT.output("z")


def test_an_output_is_an_argument_in_the_configs_that_update_it() -> None:
    sometimes = Output("total", "total", updates=lambda config: config.rows > 4)
    subject = dataclasses.replace(SUBJECT, outputs=(Output("y"), sometimes))
    assert subject.in_place(Config(rows=5)) == {"total": "total"}
    assert subject.in_place(Config(rows=4)) == {}
    assert SUBJECT.in_place(Config(rows=4)) == {"total": "total"}
