"""Every pair of options that is legal stands in a covering set, and what is called impossible is.

The toy kernel of these tests has few enough configs to walk all of them; what is legal is counted there, by its
rules alone.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import strategies as st

from conformance import pairwise
from conformance.pairwise import Coverage, Flag, covering, flags, met, some
from conformance.subject import Subject
from conformance.tests.suite import scaled_add
from reference.contract import Contract, Rule


@dataclass(frozen=True)
class Options:
    size: int = 1
    block: int = 0
    kind: str = "none"
    scaled: bool = False
    turned: bool = False
    wide: bool = False
    cores: int = 1


def _rule(name: str, holds: Any) -> Rule[Options]:
    return Rule(name, name, name, holds, repr, "do not")


#: Each holds apart what only it holds apart; `chained` forbids a pair by way of a third option.
RULES = (
    _rule("size_positive", lambda c: c.size > 0),
    _rule("kind_known", lambda c: c.kind in ("none", "static", "row")),
    _rule("scaled_kind", lambda c: not c.scaled or c.kind != "none"),
    _rule("turned_scaled", lambda c: not c.turned or c.scaled),
    _rule("block_size", lambda c: not c.block or c.size % c.block == 0),
    _rule("row_cores", lambda c: c.kind != "row" or c.cores == 1),
    _rule("row_size", lambda c: c.kind != "row" or c.size > 8),
)
FLAGS = flags(
    Options,
    Flag("large", (False, True), of=lambda c: c.size > 8),
    block=some("block", 0, 4),
    kind=("none", "static", "row", "mx"),
    cores=(1, 2),
)
EVERY = [
    Options(*values)
    for values in itertools.product(
        range(1, 17), (0, 2, 4), ("none", "static", "row", "mx"), *[(False, True)] * 3, (1, 2)
    )
]


def _subject(options: tuple[Flag, ...] = FLAGS, **fields: Any) -> Subject:
    contract = Contract(
        kernel="options", summary="", arguments=(), results=(), rules=RULES, points=scaled_add.CONTRACT.points
    )
    return dataclasses.replace(
        scaled_add.SUBJECT,
        **{
            "config_type": Options,
            "contract": contract,
            "legal": contract.refusal,
            "catalog": (),
            # Draws neither rows nor turned tensors: these have to be made.
            "strategy": lambda: st.builds(
                Options, st.integers(1, 16), st.just(0), st.sampled_from(("none", "static")), scaled=st.just(False)
            ),
            "flags": options,
        }
        | fields,
    )


def _legal_pairs(subject: Subject) -> frozenset[str]:
    return frozenset().union(*(met(subject, config) for config in EVERY if subject.legal(config) is None))


def _every_pair(subject: Subject) -> frozenset[str]:
    return frozenset().union(*(met(subject, config) for config in EVERY))


def test_the_covering_set_has_every_legal_pair_and_names_every_other() -> None:
    subject = _subject()
    found = covering(subject)
    assert all(subject.legal(config) is None for config in found.configs)
    assert found.coverage.pairs == _legal_pairs(subject)
    assert found.coverage.pairs == frozenset().union(*(met(subject, config) for config in found.configs))
    assert set(found.coverage.impossible) == _every_pair(subject) - _legal_pairs(subject)
    assert not found.coverage.unknown


@pytest.mark.parametrize(
    ("pair", "rule"),
    [
        ("kind=none & scaled=True", "scaled_kind"),
        ("kind=row & cores=2", "row_cores"),
        ("kind=row & large=False", "row_size"),
        ("scaled=False & turned=True", "turned_scaled"),
        ("block=0 & kind=mx", "kind_known"),
    ],
)
def test_an_impossible_pair_is_told_with_its_rule(pair: str, rule: str) -> None:
    assert rule in covering(_subject()).coverage.impossible[pair]


def test_a_pair_that_a_third_option_forbids_is_impossible_too() -> None:
    rules = covering(_subject()).coverage.impossible["kind=none & turned=True"]
    assert set(rules) <= {"scaled_kind", "turned_scaled"}
    assert rules


def test_the_set_is_small_and_the_same_every_time() -> None:
    first, second = (pairwise._Search(_subject()).covering() for _ in range(2))
    assert first == second
    assert len(first.configs) <= 14
    for left_out in first.configs:
        others = (met(_subject(), config) for config in first.configs if config != left_out)
        assert first.coverage.pairs - frozenset().union(*others)


def test_what_the_search_gives_up_is_neither_covered_nor_called_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairwise, "_PATIENCE", -1)
    monkeypatch.setattr(pairwise._Search, "_always_broken", lambda self, wanted: ())
    subject = _subject()
    coverage = pairwise._Search(subject).covering().coverage
    assert "kind=none & scaled=True" in coverage.unknown
    assert "kind=none & scaled=True" in coverage.missing
    assert not set(coverage.impossible) & _legal_pairs(subject)


def test_what_was_met_is_possible_whatever_a_search_said() -> None:
    said = Coverage(frozenset({"a & b"}), impossible={"a & c": ("rule",)}, unknown=frozenset({"b & c"}))
    both = said + Coverage(covered=frozenset({"a & c", "b & c"}))
    assert (both.impossible, both.unknown, both.missing) == ({}, frozenset(), ("a & b",))
    assert both.text() == "pairs covered 2 of 3, 0 impossible"
    assert both.to_dict()["missing"] == ["a & b"]


def test_true_is_no_one_and_rests_are_named_by_what_they_are_not() -> None:
    assert Flag("cores", (1, 2)).index(Options(cores=True)) is None
    option = some("block", 0, 4)
    assert [option.index(Options(block=block)) for block in (0, 4, 2)] == [0, 1, 1]
    assert option.text(1) == "block not 0"
    assert Flag("cores", (1, 2)).text(1) == "cores=2"


def test_flags_are_the_bools_and_what_is_given_values() -> None:
    assert [one.field for one in FLAGS] == ["block", "kind", "scaled", "turned", "wide", "cores", "large"]
    assert [one.values for one in FLAGS if one.field == "wide"] == [(False, True)]


def test_an_option_cannot_be_forgotten() -> None:
    with pytest.raises(ValueError, match="field 'kind' of Options holds a name, and no values are given"):
        flags(Options, cores=(1, 2))
    with pytest.raises(ValueError, match="has no field 'knd'"):
        flags(Options, knd=("none",), kind=("none",))


def test_the_fields_that_a_rule_reads_are_noted() -> None:
    assert pairwise._reads(RULES[4].holds, Options(block=2)) == {"block", "size"}
    # `not c.block` answers already.
    assert pairwise._reads(RULES[4].holds, Options(block=0)) == {"block"}
