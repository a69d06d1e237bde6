"""Claim: whatever profile the embedded machine plays, a whole session finds it, without being told anything.

Every candidate of every field is played in one of a few profiles in which all fields differ from each other's
round, so that no answer is found because the others are known. What stays open is exactly what
`conformance.probes.inseparable` says cannot be told apart under those answers.
"""

from __future__ import annotations

import itertools

import pytest

from conformance.probes import record
from conformance.tests.probes.blind import expected, found, probed
from reference.numerics.profile import DEFAULT, PARTS, NumericsProfile, Value

pytestmark = pytest.mark.sim

_ROUNDS = 7


def _shifted(turn: int, **fixed: Value) -> NumericsProfile:
    """Every field at its candidate number `turn`, round and round; `fixed` fields as told."""
    chosen = {
        name: tuple(part.candidates)[(turn + i) % len(part.candidates)] for i, (name, part) in enumerate(PARTS.items())
    }
    return DEFAULT.replace(**{**chosen, **fixed})


def _profiles() -> dict[str, NumericsProfile]:
    """Rounds in which every candidate has its turn; then those that only a chain or a gradual ALU lets see."""
    rounds = {f"round {turn}": _shifted(turn) for turn in range(_ROUNDS)}
    visible: dict[str, Value] = {
        "matmul_order": "chain",
        "psum_entry": "after_array",
        "subnormals_alu": "keep",
        "subnormals": "keep",
    }
    pairs = itertools.zip_longest(*(PARTS[name].candidates for name in ("mx_dot", "double_row_pair", "acc_round")))
    for turn, (mx_dot, pair, rounding) in enumerate(pairs):
        fixed = {**visible, "mx_dot": mx_dot, "double_row_pair": pair or "halves", "acc_round": rounding or "rne"}
        rounds[f"chain {turn}"] = _shifted(turn, **fixed)
    return rounds


PROFILES = _profiles()


@pytest.mark.parametrize("name", list(PROFILES))
def test_a_session_finds_the_whole_profile(name: str) -> None:
    report = probed(PROFILES[name])
    assert {field: set(left) for field, left in found(report).items()} == expected(PROFILES[name])
    assert record.passed(report)


CANDIDATES = [(name, value) for name, part in PARTS.items() for value in part.candidates]


@pytest.mark.parametrize(("name", "value"), CANDIDATES, ids=lambda one: str(one).lower())
def test_every_candidate_is_the_only_one_left_in_some_round(name: str, value: Value) -> None:
    """With the sessions above: every candidate that the profile has is identified."""
    played = [profile for profile in PROFILES.values() if getattr(profile, name) == value]
    assert any(expected(profile)[name] == {value} for profile in played)
