"""Every kernel under every pair of its options: claims of coverage, and what is held on the way.

The cases are those that `nki-oracle fuzz` begins with. A failure ends with the command that runs its case again.
"""

from __future__ import annotations

import os
import typing

import pytest

from conformance import pairwise
from conformance.backends import available
from conformance.fuzz import fuzz_cases, pair_cases
from conformance.pairwise import covering, met
from conformance.registry import kernel, kernel_names

#: Legal configs that are drawn to find a pair that is called impossible.
DRAWN = 3000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 150

HERE, REASON = available("sim")


@pytest.mark.sim
@pytest.mark.skipif(not HERE, reason=f"sim: {REASON}")
@pytest.mark.parametrize("name", kernel_names())
def test_every_legal_pair_of_options_gives_the_models_bits_inside_their_bounds(name: str) -> None:
    subject = kernel(name)
    coverage = covering(subject).coverage
    assert not coverage.unknown
    assert fuzz_cases(subject, pair_cases(subject)) >= coverage.pairs


@pytest.mark.parametrize("name", kernel_names())
def test_no_drawn_config_has_a_pair_that_is_called_impossible(name: str) -> None:
    subject = kernel(name)
    impossible = covering(subject).coverage.impossible
    assert all(rules for rules in impossible.values())
    for config in pairwise.pool(subject, DRAWN, seed=1):
        assert not met(subject, config) & impossible.keys()


@pytest.mark.parametrize("name", kernel_names())
def test_every_drawn_value_of_an_option_is_among_its_values(name: str) -> None:
    subject = kernel(name)
    for config in pairwise.pool(subject, 100, seed=2):
        for option in subject.flags:
            assert option.index(config) is not None, f"{option.field} of {config}"


@pytest.mark.parametrize("name", kernel_names())
def test_no_option_of_a_config_is_left_out(name: str) -> None:
    """Everything that is a bool, a name, or one of these or nothing; and the number of cores."""
    subject = kernel(name)
    hints = typing.get_type_hints(subject.config_type)
    asked = {one for one, hint in hints.items() if {bool, str} & {hint, *typing.get_args(hint)}}
    assert asked | {"lnc"} <= {option.field for option in subject.flags}
